package der_test

import (
	"bytes"
	"crypto/elliptic"
	"testing"

	"mooring/wire/der"
)

// TestAssemble holds a request in pieces to be read as the same one in PKCS#10 is.
func TestAssemble(t *testing.T) {
	csr := standardRequest(t, newEC(t, elliptic.P256()))
	whole, err := der.ParseRequest(csr)
	if err != nil {
		t.Fatal(err)
	}
	var list []byte
	for _, e := range whole.Extensions {
		list = e.Append(list)
	}
	parts := der.Parts{Raw: csr, Signed: whole.RawInfo, Subject: whole.RawSubject, SPKI: whole.RawSPKI, Extensions: der.AppendElement(nil, 0x30, list),
		Algorithm: whole.Algorithm.Identifier(), Signature: whole.Signature}
	r, err := der.Assemble(parts)
	if err != nil || r.CheckSignature() != nil {
		t.Fatalf("Assemble: %v, %v", err, r.CheckSignature())
	}
	if der.FormatName(r.Subject) != der.FormatName(whole.Subject) || !r.Names.Equal(whole.Names) || r.HashSPKI() != whole.HashSPKI() || r.KeyUsage != whole.KeyUsage {
		t.Errorf("got %v, want %v", r, whole)
	}
	bare, err := der.Assemble(der.Parts{})
	if err != nil || bare.PublicKey != nil || !bytes.Equal(bare.RawSubject, []byte{0x30, 0}) || bare.CheckSignature() == nil {
		t.Errorf("nothing: got %+v, %v", bare, err)
	}
	for what, change := range map[string]func(*der.Parts){
		"too large":  func(p *der.Parts) { p.Raw = make([]byte, der.MaxRequest+1) },
		"subject":    func(p *der.Parts) { p.Subject = []byte{0x31, 0} },
		"key":        func(p *der.Parts) { p.SPKI = []byte{0x30, 0} },
		"extensions": func(p *der.Parts) { p.Extensions = append(parts.Extensions, 0) },
		"algorithm":  func(p *der.Parts) { p.Algorithm = []byte{0x30, 0} },
		"twice": func(p *der.Parts) {
			p.Extensions = der.AppendElement(nil, 0x30, append(bytes.Clone(list), list...))
		},
	} {
		p := parts
		change(&p)
		if _, err := der.Assemble(p); err == nil {
			t.Errorf("%s: got success", what)
		}
	}
	other := parts
	other.Signed = append(bytes.Clone(parts.Signed), 0)
	if r, err := der.Assemble(other); err != nil || r.CheckSignature() == nil {
		t.Errorf("other octets signed: got %v", err)
	}
}
