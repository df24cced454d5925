package its_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"testing"

	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/scr"
	"mooring/wire/spdu"
)

// signatory is an authority's key with a certificate.
func signatory(t *testing.T) (*ecdsa.PrivateKey, *its.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := scr.VerificationKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	x := &its.Certificate{Issuer: its.IssuerIdentifier{Choice: its.IssuerSelf}, ToBeSigned: its.ToBeSignedCertificate{Id: its.Name("an authority"),
		ValidityPeriod: its.ValidityPeriod{Start: 1, Duration: its.Duration{Choice: its.Years, Value: 1}}, AppPermissions: []its.PsidSsp{its.Bitmap(its.PsidSCR, 1, 2)},
		VerifyKeyIndicator: its.VerificationKeyIndicator{VerificationKey: public}}}
	digest, err := x.Input(nil)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := spdu.ECDSA(key)(digest)
	if err != nil {
		t.Fatal(err)
	}
	x.Signature = coer.Some(signature)
	return key, x
}

// What a certificate verifies, its signatory does, prepared or not, and nothing else.
func TestSignatory(t *testing.T) {
	t.Parallel()
	key, x := signatory(t)
	_, other := signatory(t)
	message := func(by spdu.Signer, change func(*its.SignedData)) *its.SignedData {
		d, err := spdu.Sign(spdu.Payload([]byte("a message")), scr.Header(1), by)
		if err != nil {
			t.Fatal(err)
		}
		if change != nil {
			change(d.Content.SignedData)
		}
		return d.Content.SignedData
	}
	mine := scr.Signer(key, x)
	for _, c := range []struct {
		name string
		d    *its.SignedData
		want bool
	}{
		{"as signed", message(mine, nil), true},
		{"changed content", message(mine, func(d *its.SignedData) { d.TbsData.HeaderInfo.GenerationTime.Value++ }), false},
		{"changed s", message(mine, func(d *its.SignedData) { d.Signature.S[5] ^= 1 }), false},
		{"another digest algorithm", message(mine, func(d *its.SignedData) { d.HashId = its.SHA384 }), false},
		{"another algorithm of the signature", message(mine, func(d *its.SignedData) { d.Signature.Choice = its.ECDSABrainpoolP256r1 }), false},
		{"short r", message(mine, func(d *its.SignedData) { d.Signature.R.X = d.Signature.R.X[1:] }), false},
		{"fill", message(mine, func(d *its.SignedData) { d.Signature.R.Form = its.Fill }), false},
		{"by nobody", message(scr.Signer(key, nil), nil), false},
		{"r as a point", message(mine, func(d *its.SignedData) { d.Signature.R.Form = its.CompressedY0 }), true},
	} {
		for kind, of := range map[string]*its.Certificate{"its own certificate": x, "another certificate": other} {
			s, err := its.NewSignatory(of)
			if err != nil {
				t.Fatal(err)
			}
			want := c.want && of == x
			if got := c.d.Verify(of, nil) == nil; got != want {
				t.Errorf("%s, %s: the certificate says %v, want %v", c.name, kind, got, want)
			}
			for how, s := range map[string]*its.Signatory{"plain": s, "prepared": s.Prepare()} {
				if got := c.d.VerifyBy(s) == nil; got != want {
					t.Errorf("%s, %s, %s: got %v, want %v", c.name, kind, how, got, want)
				}
			}
		}
	}
}

// A signatory's digests are those of its certificate.
func TestSignatoryInput(t *testing.T) {
	t.Parallel()
	key, x := signatory(t)
	s, err := its.NewSignatory(x)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := x.HashedId8(); err != nil || id != s.ID {
		t.Errorf("the signatory is %s, the certificate %s (%v)", s.ID, id, err)
	}
	d, err := spdu.Sign(spdu.Payload([]byte("a message")), scr.Header(1), scr.Signer(key, x))
	if err != nil {
		t.Fatal(err)
	}
	below := &its.Certificate{Issuer: its.IssuerIdentifier{Digest: s.ID}, ToBeSigned: x.ToBeSigned}
	for _, c := range []struct {
		name   string
		of, by func() ([]byte, error)
	}{
		{"message", func() ([]byte, error) { return d.Content.SignedData.Input(x) }, func() ([]byte, error) { return d.Content.SignedData.InputBy(s) }},
		{"certificate", func() ([]byte, error) { return below.Input(x) }, func() ([]byte, error) { return below.InputBy(s) }},
	} {
		a, err := c.of()
		b, err2 := c.by()
		if err != nil || err2 != nil || string(a) != string(b) {
			t.Errorf("%s: %x (%v) by the certificate and %x (%v) by the signatory", c.name, a, err, b, err2)
		}
	}
}
