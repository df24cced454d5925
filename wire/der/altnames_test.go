package der_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"

	"mooring/wire/der"
)

func TestAltNamesRoundTrip(t *testing.T) {
	hardware := der.HardwareModule("\x2a", []byte{1, 2, 3})
	names := der.AltNames{
		DNS:   []string{"Gate.Example", "*.example.com"},
		IP:    []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
		URI:   []string{"urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6", "spiffe://acme.example/dev1"},
		Email: []string{"Root@Example.COM"},
		Other: []der.OtherName{hardware},
	}
	value, err := der.BuildAltNames(names)
	if err != nil {
		t.Fatal(err)
	}
	got, err := der.ParseAltNames(value)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"gate.example", "*.example.com"}; !slices.Equal(got.DNS, want) {
		t.Errorf("DNS = %v, want %v", got.DNS, want)
	}
	if got.Email[0] != "Root@example.com" || !slices.Equal(got.IP, names.IP) || !slices.Equal(got.URI, names.URI) {
		t.Errorf("read %+v, wrote %+v", got, names)
	}
	if len(got.Other) != 1 || !got.Other[0].Same(hardware) || !got.Wildcard() {
		t.Errorf("otherName or wildcard lost: %+v", got)
	}
	if want := "\x30\x08\x06\x01\x2a\x04\x03\x01\x02\x03"; string(hardware.Value) != want {
		t.Errorf("hardwareModuleName is %x, want %x", hardware.Value, want)
	}
}

// The standard library reads each kind that it knows.
func TestAltNamesInRequestOfStandardLibrary(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	uri, _ := url.Parse("urn:dev:mac:0024befffe804ff1")
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		DNSNames: []string{"a.example"}, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)},
		EmailAddresses: []string{"a@b.example"}, URIs: []*url.URL{uri},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	r, err := der.ParseRequest(csr)
	if err != nil {
		t.Fatal(err)
	}
	want := der.AltNames{DNS: []string{"a.example"}, IP: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Email: []string{"a@b.example"}, URI: []string{uri.String()}}
	if !r.Names.Equal(want) {
		t.Errorf("read %+v, want %+v", r.Names, want)
	}
}

func TestAltNamesEqual(t *testing.T) {
	a := der.AltNames{DNS: []string{"a.example", "b.example"}, URI: []string{"urn:x:1"}}
	if b := (der.AltNames{DNS: []string{"b.example", "a.example", "a.example"}, URI: []string{"urn:x:1"}}); !a.Equal(b) {
		t.Error("order and repetition must not count")
	}
	for _, b := range []der.AltNames{
		{}, {DNS: []string{"a.example", "b.example"}}, {DNS: []string{"a.example"}, URI: []string{"urn:x:1", "b.example"}},
		{Email: []string{"a.example", "b.example"}, URI: []string{"urn:x:1"}},
	} {
		if a.Equal(b) {
			t.Errorf("%+v equals %+v", a, b)
		}
	}
}

func TestNormaliseRefuses(t *testing.T) {
	long := strings.Repeat("a", 64)
	for _, name := range []string{"", ".", "a..b", "a.example.", "-a.example", "a-.example", "a_b.example", "é.example", long + ".example",
		"*", "*.", "*.example", "a.*.example", "a*.example.com", "*.*.example", "a\x00.example", "a b.example", "192.0.2.1", "x.123", strings.Repeat("abcdefgh.", 29) + "example"} {
		if got, err := der.NormaliseDNS(name); err == nil {
			t.Errorf("NormaliseDNS(%q) = %q", name, got)
		}
	}
	for _, names := range []der.AltNames{
		{URI: []string{""}}, {URI: []string{"/path"}}, {URI: []string{"a b:c"}}, {URI: []string{"http://é.example"}}, {URI: []string{"urn:"}},
		{URI: []string{"http:///path"}}, {URI: []string{"http://:80/"}}, {URI: []string{"http://a.example/\x00"}},
		{Email: []string{"a"}}, {Email: []string{"@b.example"}}, {Email: []string{"a@"}}, {Email: []string{"a@b@c.example"}}, {Email: []string{"a\x00@b.example"}},
		{Email: []string{"é@b.example"}}, {Email: []string{"a@*.b.example"}},
		{IP: []netip.Addr{{}}}, {IP: []netip.Addr{netip.MustParseAddr("::ffff:192.0.2.1")}}, {IP: []netip.Addr{netip.MustParseAddr("fe80::1%eth0")}},
		{Other: []der.OtherName{{Type: "\x2a", Value: []byte{5}}}}, {Other: []der.OtherName{{Value: []byte{5, 0}}}},
		{DNS: slices.Repeat([]string{"a.example"}, 257)},
	} {
		if value, err := der.BuildAltNames(names); err == nil {
			t.Errorf("BuildAltNames(%+v) = %x", names, value)
		}
	}
}

func TestParseAltNamesRefuses(t *testing.T) {
	for _, c := range []struct{ name, in, words string }{
		{"no names", "3000", "without names"},
		{"trailing bytes", "3003 8201 61 00", "trailing"},
		{"NUL in DNS", "3009 8207 61002e62632e64", "DNS name"},
		{"IP of 5 octets", "3007 8705 0102030405", "5 octets"},
		{"IP of 8 octets, a subnet", "300a 8708 0102030405060708", "8 octets"},
		{"IPv4-mapped", "3012 8710 00000000000000000000ffffc0000201", "IPv4-mapped"},
		{"directoryName", "3004 a402 3000", "kind [4]"},
		{"registeredID", "3004 8802 2a03", "kind [8]"},
		{"constructed DNS", "3005 a203 820161", "kind [2]"},
		{"otherName without tag", "3006 a004 06022a03", "otherName"},
		{"otherName with rest", "300c a00a 06022a03 a002 0500 0500", "otherName"},
		{"otherName, two values", "300c a00a 06022a03 a004 0500 0500", "otherName"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := der.ParseAltNames(unhex(t, c.in))
			wantError(t, err, c.words)
		})
	}
}

func FuzzParseAltNames(f *testing.F) {
	for _, names := range []der.AltNames{
		{DNS: []string{"a.example"}, IP: []netip.Addr{netip.MustParseAddr("10.0.0.1")}},
		{URI: []string{"urn:x:1"}, Email: []string{"a@b.example"}},
		{Other: []der.OtherName{der.PermanentIdentifier("x", "\x2a")}},
	} {
		value, err := der.BuildAltNames(names)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		names, err := der.ParseAltNames(in)
		if err != nil {
			return
		}
		value, err := der.BuildAltNames(names)
		if err != nil {
			t.Fatalf("building %+v again: %v", names, err)
		}
		if again, err := der.ParseAltNames(value); err != nil || !again.Equal(names) {
			t.Fatalf("round trip of %+v gives %+v, %v", names, again, err)
		}
	})
}
