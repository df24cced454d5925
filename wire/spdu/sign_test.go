package spdu

import (
	"bytes"
	"crypto/elliptic"
	"encoding/asn1"
	"encoding/hex"
	"math/big"
	"testing"

	"mooring/wire/its"
)

// A signature is taken apart as package asn1 would, or not at all.
func TestSplit(t *testing.T) {
	t.Parallel()
	long := new(big.Int).Lsh(big.NewInt(0xf1), 248)
	for _, v := range []struct{ r, s *big.Int }{{big.NewInt(1), big.NewInt(127)}, {big.NewInt(128), long}, {long, big.NewInt(0x1ff)}} {
		der, err := asn1.Marshal(struct{ R, S *big.Int }{v.r, v.s})
		if err != nil {
			t.Fatal(err)
		}
		both, err := split(der, 32)
		if err != nil || new(big.Int).SetBytes(both[:32]).Cmp(v.r) != 0 || new(big.Int).SetBytes(both[32:]).Cmp(v.s) != 0 {
			t.Errorf("%x: got %x, %v; want %x and %x", der, both, err, v.r, v.s)
		}
	}
	beyond := "30260221" + "01" + hex.EncodeToString(make([]byte, 32)) + "020101"
	for _, text := range []string{"", "30", "3000", "3003020101", "300602010102010100", "3009020101020101020101", "3106020101020101", "3006020101030101", "30070201010201", "3080", "3006028101020101", beyond} {
		der, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		if both, err := split(der, 32); err == nil {
			t.Errorf("%s is taken for %x", text, both)
		}
	}
}

// What Certify signs verifies below the certificate of the signer, whose digest goes with its key.
func TestCertify(t *testing.T) {
	t.Parallel()
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384()} {
		issuer := newParty(t, curve)
		subject := newParty(t, elliptic.P256()).cert
		plain := issuer.signer(false)
		prepared, err := plain.Prepared()
		if err != nil {
			t.Fatal(err)
		}
		var before []byte
		for _, s := range []Signer{plain, prepared} {
			x := &its.Certificate{ToBeSigned: subject.ToBeSigned}
			if err := s.Certify(x); err != nil {
				t.Fatal(err)
			}
			if err := x.Verify(issuer.cert); err != nil {
				t.Errorf("%s: %v", curve.Params().Name, err)
			}
			if before != nil && !bytes.Equal(before, x.Signature.Value.S) {
				t.Errorf("%s: a prepared signer signs something else", curve.Params().Name)
			}
			before = x.Signature.Value.S
		}
	}
	self := Signer{}
	if err := self.Certify(&its.Certificate{}); err == nil {
		t.Error("somebody without a certificate certifies")
	}
}
