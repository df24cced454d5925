package der_test

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"mooring/wire/der"
)

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	out, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// wantError fails unless err is set and says the given words.
func wantError(t *testing.T, err error, words string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", words)
	}
	if !strings.Contains(err.Error(), words) {
		t.Fatalf("error %q, want one with %q", err, words)
	}
}

func TestBuildName(t *testing.T) {
	attributes := []der.Attribute{
		{Type: der.OIDCountry, Value: "DE"}, {Type: der.OIDDomainComponent, Value: "example"},
		{Type: der.OIDOrganization, Value: "Ümlaut, Inc."}, {Type: der.OIDSerialNumber, Value: "A-1"},
		{Type: der.OIDEmailAddress, Value: "a@b.example"}, {Type: der.OIDCommonName, Value: "dev1"},
	}
	name, err := der.BuildName(attributes)
	if err != nil {
		t.Fatal(err)
	}
	var std pkix.RDNSequence
	if rest, err := asn1.Unmarshal(name, &std); err != nil || len(rest) > 0 {
		t.Fatalf("standard library: %v, %d octets left", err, len(rest))
	}
	for i, rdn := range std {
		if len(rdn) != 1 || rdn[0].Value != attributes[i].Value || rdn[0].Type.String() != attributes[i].Type.String() {
			t.Errorf("RDN %d = %v, want %v", i, rdn, attributes[i])
		}
	}
	// Identifier octets of the values, in order: 13 PrintableString, 16 IA5String, 0c UTF8String.
	for _, part := range []string{"\x13\x02DE", "\x16\x07example", "\x0c\x0dÜmlaut", "\x13\x03A-1", "\x16\x0ba@b", "\x0c\x04dev1"} {
		if !strings.Contains(string(name), part) {
			t.Errorf("name lacks %q", part)
		}
	}
	back, err := der.ParseName(name)
	if err != nil || !slices.Equal(back, attributes) {
		t.Errorf("ParseName = %v, %v; want %v", back, err, attributes)
	}
	if empty, err := der.BuildName(nil); err != nil || string(empty) != "\x30\x00" {
		t.Errorf("empty name = %x, %v", empty, err)
	}
}

func TestBuildNameRefuses(t *testing.T) {
	for _, c := range []struct {
		attribute der.OID
		value     string
		words     string
	}{
		{der.OIDCommonName, "", "empty"},
		{der.OIDCommonName, " a", "blank"},
		{der.OIDCommonName, "a ", "blank"},
		{der.OIDCommonName, "a\x00b", "NUL"},
		{der.OIDCommonName, "a\nb", "control"},
		{der.OIDCommonName, "a\u0085b", "control"},
		{der.OIDCommonName, "a\xff", "UTF-8"},
		{der.OIDCommonName, strings.Repeat("é", 65), "65 characters"},
		{der.OIDSerialNumber, "a_b", "string type"},
		{der.OIDEmailAddress, "ü@b.example", "string type"},
		{der.OIDCountry, "DEU", "3 characters"},
		{der.OIDCountry, "D", "two letters"},
		{der.OIDCountry, "D1", "two letters"},
	} {
		_, err := der.BuildName([]der.Attribute{{Type: c.attribute, Value: c.value}})
		wantError(t, err, c.words)
	}
	if _, err := der.BuildName([]der.Attribute{{Type: der.OIDCommonName, Value: strings.Repeat("é", 64)}}); err != nil {
		t.Errorf("64 characters of two octets: %v", err)
	}
}

func TestParseNameRefuses(t *testing.T) {
	for _, c := range []struct{ name, in, words string }{
		{"nothing", "", "malformed"},
		{"a SET", "3100", "malformed"},
		{"trailing bytes", "3000 00", "1 trailing bytes"},
		{"indefinite length", "3080 0000", "malformed"},
		{"non-minimal length", "30810e 310c300a06035504030c03616263", "malformed"},
		{"two values in an RDN", "301c 311a 300b06035504030c0474657374 300b060355040a0c0474657374", "multi-valued"},
		{"NUL", "300e 310c 300a 0603550403 0c03 610062", "NUL"},
		{"empty value", "300b 3109 3007 0603550403 0c00", "empty"},
		{"BMPString", "300f 310d 300b 0603550403 1e04 00610062", "string type"},
		{"TeletexString", "300d 310b 3009 0603550403 1402 6162", "string type"},
		{"underscore in PrintableString", "300e 310c 300a 0603550403 1303 615f62", "string type"},
		{"high bit in IA5String", "300d 310b 3009 0603550403 1602 61e9", "string type"},
		{"bad UTF-8", "300d 310b 3009 0603550403 0c02 61e9", "UTF-8"},
		{"no value", "3009 3107 3005 0603550403", "malformed"},
		{"padded OID", "300e 310c 300a 060480550403 0c02 6162", "malformed"},
		{"empty RDN", "3002 3100", "malformed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := der.ParseName(unhex(t, c.in))
			if err == nil {
				t.Fatalf("read as %v", got)
			}
			wantError(t, err, c.words)
		})
	}
}

func TestFormatName(t *testing.T) {
	attributes := []der.Attribute{{Type: der.OIDOrganization, Value: `Acme, "Inc"=\`}, {Type: der.OID("\x2a\x03\x04"), Value: "x"}, {Type: der.OIDCommonName, Value: "dev1"}}
	const want = `O=Acme\, \"Inc\"\=\\, 1.2.3.4=x, CN=dev1`
	got := der.FormatName(attributes)
	if got != want {
		t.Errorf("FormatName = %s, want %s", got, want)
	}
	if back, err := der.ParseDN(got); err != nil || !slices.Equal(back, attributes) {
		t.Errorf("ParseDN = %v, %v; want %v", back, err, attributes)
	}
	for text, words := range map[string]string{"": "key=value", "CN": "key=value", "CN=": "empty", "XX=a": "unknown name attribute", "CN=a,": "last comma", "CN=a,,O=b": "unknown"} {
		_, err := der.ParseDN(text)
		wantError(t, err, words)
	}
	if got, err := der.ParseAttributeType("SERIALNUMBER"); err != nil || got != der.OIDSerialNumber {
		t.Errorf("ParseAttributeType = %s, %v", got, err)
	}
}

func FuzzParseName(f *testing.F) {
	f.Add(unhex(f, "300f310d300b06035504030c0474657374"))
	f.Add(unhex(f, "301a310b3009060355040613024445310b3009060355040a0c024162"))
	f.Fuzz(func(t *testing.T, in []byte) {
		attributes, err := der.ParseName(in)
		if err != nil {
			return
		}
		var std pkix.RDNSequence
		if _, err := asn1.Unmarshal(in, &std); err != nil || len(std) != len(attributes) {
			t.Fatalf("standard library reads %x as %v, %v; ours %v", in, std, err, attributes)
		}
		built, err := der.BuildName(attributes)
		if err != nil {
			if strings.Contains(err.Error(), "string type") { // read as UTF8String, written as PrintableString
				return
			}
			t.Fatalf("building %v again: %v", attributes, err)
		}
		if again, err := der.ParseName(built); err != nil || !slices.Equal(again, attributes) {
			t.Fatalf("round trip of %v gives %v, %v", attributes, again, err)
		}
	})
}

func FuzzParseDN(f *testing.F) {
	f.Add("O=Acme, CN=dev1")
	f.Add(`CN=a\,b`)
	f.Fuzz(func(t *testing.T, text string) {
		attributes, err := der.ParseDN(text)
		if err != nil {
			return
		}
		if again, err := der.ParseDN(der.FormatName(attributes)); err != nil || !slices.Equal(again, attributes) {
			t.Fatalf("round trip of %v gives %v, %v", attributes, again, err)
		}
	})
}

func FuzzParseAttributeType(f *testing.F) {
	f.Add("CN")
	f.Add("2.5.4.3")
	f.Fuzz(func(t *testing.T, key string) {
		oid, err := der.ParseAttributeType(key)
		if err != nil {
			return
		}
		if again, err := der.ParseOID(oid.String()); err != nil || again != oid {
			t.Fatalf("ParseAttributeType(%q) = %s, which ParseOID reads as %s, %v", key, oid, again, err)
		}
	})
}
