package ca

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"testing/cryptotest"

	"mooring/wire/der"
)

var update = flag.Bool("update", false, "rewrite the golden certificates")

// The golden certificates are those of the example CA with its fixed keys, times and serial number, so every octet that is signed is fixed
// too. What is compared is the signed part: the signature depends on how this Go release draws its nonce.
func TestGoldenCertificates(t *testing.T) {
	ps, err := LoadProfiles(DefaultProfiles())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range ps.All() {
		t.Run(p.Name, func(t *testing.T) {
			cryptotest.SetGlobalRandom(t, 1)
			s, err := newSample(p)
			if err != nil {
				t.Fatal(err)
			}
			raw, err := s.certificate(p.Keys[0])
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", p.Name+".pem")
			if *update {
				if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			block, _ := pem.Decode(text)
			want, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			got, err := x509.ParseCertificate(raw)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.RawTBSCertificate, want.RawTBSCertificate) {
				t.Errorf("the certificate of profile %s changed: got\n%x\nwant\n%x", p.Name, got.RawTBSCertificate, want.RawTBSCertificate)
			}
			if err := want.CheckSignatureFrom(s.template.issuer.cert); err != nil {
				t.Errorf("the golden certificate's signature: %v", err)
			}
			if p.Name == "birth" && (len(raw) > 450 || want.NotAfter.Unix() != der.NoExpiry) {
				t.Errorf("the birth certificate has %d octets and ends %s", len(raw), want.NotAfter)
			}
		})
	}
}

func TestMatches(t *testing.T) {
	tests := []struct {
		pattern, name string
		want          bool
	}{
		{"a.example", "a.example", true},
		{"*.example", "a.example", true},
		{"*.example", "a.b.example", false},
		{"*.example", ".example", false},
		{"*.example", "a.example.org", false},
		{"gw-*.site-*.example", "gw-1.site-22.example", true},
		{"gw-*.site-*.example", "gw-.site-22.example", false},
		{"urn:uuid:*", "urn:uuid:12-34", true},
		{"urn:x/*", "urn:x/a/b", false},
		{"*@example.com", "me@example.com", true},
		{"*@example.com", "me@evil@example.com", false},
		{"*", "", false},
	}
	for _, tt := range tests {
		if got := matches(tt.pattern, tt.name); got != tt.want {
			t.Errorf("matches(%q, %q): got %v, want %v", tt.pattern, tt.name, got, tt.want)
		}
	}
}

func TestSerialNumbers(t *testing.T) {
	random := bytes.NewReader(bytes.Repeat([]byte{0xaa}, 30))
	serial, err := newSerial(classLong, 1767225600, 7, random)
	if err != nil {
		t.Fatal(err)
	}
	if cell, day, err := Locate(serial[:]); err != nil || cell != 7 || day != 20454 || serial[0] != 0x42 {
		t.Errorf("Locate: got cell %d, day %d, %v", cell, day, err)
	}
	for _, foreign := range [][]byte{nil, {1}, bytes.Repeat([]byte{0x41}, 17), append([]byte{0x43}, make([]byte, 15)...)} {
		if _, _, err := Locate(foreign); err == nil {
			t.Errorf("Locate(%x) took a foreign serial number for ours", foreign)
		}
	}
	if _, err := newSerial(classLong, 1<<32, 7, random); err == nil {
		t.Error("a serial number of the year 2107 was made")
	}
	if _, err := newSerial(classLong, 1, 7, bytes.NewReader(nil)); err == nil {
		t.Error("a serial number without random bits was made")
	}
}
