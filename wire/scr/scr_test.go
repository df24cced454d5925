package scr

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"testing"

	"mooring/wire/butterfly"
	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/spdu"
)

// party is an authority with its keys.
func party(t testing.TB) (*ecdsa.PrivateKey, spdu.Holder, *its.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := butterfly.RandomScalar(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := VerificationKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	x := &its.Certificate{Issuer: its.IssuerIdentifier{Choice: its.IssuerSelf}, ToBeSigned: its.ToBeSignedCertificate{Id: its.Name("x"), AppPermissions: []its.PsidSsp{its.Bitmap(its.PsidSCR, 1, 0x0e)},
		ValidityPeriod: its.ValidityPeriod{Start: 1, Duration: its.Duration{Choice: its.Years, Value: 1}}, EncryptionKey: coer.Some(EncryptionKey(private)),
		VerifyKeyIndicator: its.VerificationKeyIndicator{VerificationKey: public}}}
	digest, err := x.Input(nil)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := Signature(key)(digest)
	if err != nil {
		t.Fatal(err)
	}
	x.Signature = coer.Some(sig)
	to, err := spdu.ToCertificate(x)
	if err != nil {
		t.Fatal(err)
	}
	return key, spdu.Holder{Recipient: to, Private: private}, x
}

func content() its.EtsiTs102941DataContent {
	return its.EtsiTs102941DataContent{Choice: its.EnrolmentResponse, EnrolmentResponse: &its.InnerEcResponse{ResponseCode: its.EnrolmentUnknownIts}}
}

// A request and its answer, and that the answer names the request by the first octets of its digest.
func TestExchange(t *testing.T) {
	t.Parallel()
	key, holder, cert := party(t)
	signed, err := Sign(content(), 5, Signer(key, nil))
	if err != nil {
		t.Fatal(err)
	}
	request, session, err := Seal(rand.Reader, signed, cert)
	if err != nil {
		t.Fatal(err)
	}
	o, err := Open(request, holder)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(request)
	if !bytes.Equal(o.Hash[:], sum[:16]) {
		t.Errorf("ENR-17: the request is called %x, want %x", o.Hash, sum[:16])
	}
	s, octets, err := Signed(o.Message)
	if err != nil || s.TbsData.HeaderInfo.GenerationTime.Value != 5 {
		t.Fatalf("%v, %+v", err, s)
	}
	if c, err := Content(octets, its.EnrolmentResponse); err != nil || c.EnrolmentResponse.ResponseCode != its.EnrolmentUnknownIts {
		t.Errorf("%v, %+v", err, c)
	}
	if _, err := Content(octets, its.EnrolmentRequest); !errors.Is(err, BadContentType) {
		t.Errorf("of another kind: %v", err)
	}
	if _, err := Content(octets[1:], its.EnrolmentResponse); !errors.Is(err, CantParse) {
		t.Errorf("cut: %v", err)
	}
	signed, err = Sign(content(), 6, Signer(key, cert))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := Answer(rand.Reader, o.Session, signed)
	if err != nil {
		t.Fatal(err)
	}
	by, c, err := OpenAnswer(answer, session, its.EnrolmentResponse)
	if err != nil || by.Verify(cert, nil) != nil || c.EnrolmentResponse == nil {
		t.Errorf("the answer: %v, %+v", err, c)
	}
	if _, _, err := OpenAnswer(answer, o.Session, its.EnrolmentRequest); err == nil {
		t.Error("an answer of another kind is taken")
	}
}

// ENR-2 to ENR-6, ENR-19: what cannot be read, by its code.
func TestFaults(t *testing.T) {
	t.Parallel()
	key, holder, cert := party(t)
	_, _, other := party(t)
	signed, err := Sign(content(), 5, Signer(key, nil))
	if err != nil {
		t.Fatal(err)
	}
	sealed := func(change func(*its.Ieee1609Dot2Data), to ...*its.Certificate) []byte {
		t.Helper()
		var list []spdu.Recipient
		for _, c := range to {
			r, err := spdu.ToCertificate(c)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, r)
		}
		d, _, err := spdu.Seal(rand.Reader, signed, list...)
		if err != nil {
			t.Fatal(err)
		}
		if change != nil {
			change(d)
		}
		b, err := coer.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	plain, err := coer.Marshal(signed)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name    string
		request []byte
		want    Fault
		session bool
	}{
		{"nothing", nil, CantParse, false},
		{"a bit more", append(sealed(nil, cert), 0), CantParse, false},
		{"signed only", plain, BadContentType, false},
		{"for another", sealed(nil, other), NotRecipient, false},
		{"for another, twice", sealed(nil, other, other), NotRecipient, false},
		{"for two", sealed(nil, other, cert), NotRecipient, true},
		{"another cipher", sealed(func(d *its.Ieee1609Dot2Data) { d.Content.EncryptedData.Ciphertext.Choice = its.SM4CCM }, cert), UnknownAlgorithm, true},
		{"a key wrapped in another way", sealed(func(d *its.Ieee1609Dot2Data) {
			d.Content.EncryptedData.Recipients[0].EncKey.Choice = its.ECIESBrainpoolP256r1
		}, cert), UnknownAlgorithm, false},
		{"tag of the key", sealed(func(d *its.Ieee1609Dot2Data) { d.Content.EncryptedData.Recipients[0].EncKey.T[0] ^= 1 }, cert), DecryptionFailed, false},
		{"tag of the message", sealed(func(d *its.Ieee1609Dot2Data) { d.Content.EncryptedData.Ciphertext.CcmCiphertext[0] ^= 1 }, cert), DecryptionFailed, true},
	} {
		o, err := Open(row.request, holder)
		if !errors.Is(err, row.want) || (o.Session != nil) != row.session {
			t.Errorf("%s: %v, with session %v; want %v, %v", row.name, err, o.Session != nil, row.want, row.session)
		}
	}
	for name, change := range map[string]func(h *its.HeaderInfo){
		"another application": func(h *its.HeaderInfo) { h.Psid = its.PsidCAM },
		"without time":        func(h *its.HeaderInfo) { h.GenerationTime.Present = false },
		"with an end":         func(h *its.HeaderInfo) { h.ExpiryTime = coer.Some[its.Time64](9) },
		"with a place":        func(h *its.HeaderInfo) { h.GenerationLocation = coer.Some(its.ThreeDLocation{}) },
		"with a request":      func(h *its.HeaderInfo) { h.InlineP2pcdRequest = []its.HashedId3{{}} },
		"with a key": func(h *its.HeaderInfo) {
			h.EncryptionKey = coer.Some(its.EncryptionKey{Public: EncryptionKey(holder.Private)})
		},
		"with functional type": func(h *its.HeaderInfo) { h.PduFunctionalType = coer.Some[uint8](1) },
		"with certificate":     func(h *its.HeaderInfo) { h.RequestedCertificate = cert },
		"with unknown addition": func(h *its.HeaderInfo) {
			h.Additions = coer.Additions{Bits: 5, Unknown: []coer.Addition{{Index: 4, Octets: []byte{1}}}}
		},
	} {
		h := Header(5)
		change(&h)
		d, err := spdu.Sign(spdu.Payload([]byte{1}), h, Signer(key, nil))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := Signed(d); !errors.Is(err, BadContentType) {
			t.Errorf("ENR-19 %s: got %v, want badcontenttype", name, err)
		}
	}
}

// Keys that are none, or for something else.
func TestUsable(t *testing.T) {
	t.Parallel()
	key, _, _ := party(t)
	good, err := VerificationKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	off := good
	off.Point.X = bytes.Repeat([]byte{0xff}, 32)
	form := good
	form.Point.Form = its.XOnly
	sm2 := good
	sm2.Choice = its.SM2
	for name, row := range map[string]struct {
		key  its.PublicVerificationKey
		want bool
	}{"good": {good, true}, "off the curve": {off, false}, "x only": {form, false}, "SM2": {sm2, false}} {
		if got := Usable(&row.key); got != row.want {
			t.Errorf("%s: %v, want %v", name, got, row.want)
		}
	}
	enc := its.PublicEncryptionKey{PublicKey: its.BasePublicEncryptionKey{Point: good.Point}}
	bad := enc
	bad.SupportedSymmAlg = its.SM4CCM
	if !UsableForEncryption(&enc) || UsableForEncryption(&bad) {
		t.Error("keys for encryption are not told apart")
	}
}

// CRY-8: the point that a message brings along for its recipient, in forms that are none.
func TestUsableWrap(t *testing.T) {
	t.Parallel()
	_, _, cert := party(t)
	id, err := cert.HashedId8()
	if err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		change func(*its.CurvePoint)
		want   bool
	}{
		"as it was":     {func(*its.CurvePoint) {}, true},
		"off the curve": {func(p *its.CurvePoint) { p.X = bytes.Repeat([]byte{0xff}, 32) }, false},
		"x only":        {func(p *its.CurvePoint) { p.Form = its.XOnly }, false},
		"fill":          {func(p *its.CurvePoint) { p.Form = its.Fill }, false},
	} {
		b, _, err := Seal(rand.Reader, its.Unsecured([]byte{1}), cert)
		if err != nil {
			t.Fatal(err)
		}
		d, err := its.ParseData(b, its.MaxRequest)
		if err != nil {
			t.Fatal(err)
		}
		row.change(&d.Content.EncryptedData.Recipients[0].EncKey.V)
		if got := UsableWrap(d, id); got != row.want {
			t.Errorf("%s: %v, want %v", name, got, row.want)
		}
		if UsableWrap(d, its.HashedId8{1}) {
			t.Errorf("%s: there is a key for somebody else", name)
		}
	}
}

// The tag changes with each key, and with the secret.
func TestKeyTag(t *testing.T) {
	t.Parallel()
	key, holder, _ := party(t)
	k, err := VerificationKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	one := its.PublicKeys{VerificationKey: k}
	two := one
	two.EncryptionKey = coer.Some(EncryptionKey(holder.Private))
	seen := map[[16]byte]bool{}
	for _, keys := range []its.PublicKeys{one, two} {
		for _, secret := range [][32]byte{{}, {1}} {
			tag, err := KeyTag(secret, &keys)
			if err != nil || seen[tag] {
				t.Errorf("%v, or the tag %x came before", err, tag)
			}
			seen[tag] = true
		}
	}
}

// FuzzOpen opens requests that anybody may have written.
func FuzzOpen(f *testing.F) {
	key, holder, cert := party(f)
	signed, err := Sign(content(), 5, Signer(key, nil))
	if err != nil {
		f.Fatal(err)
	}
	request, _, err := Seal(rand.Reader, signed, cert)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(request)
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := Open(b, holder)
		if (err == nil) != (o.Message != nil) {
			t.Errorf("%v beside a message: %v", err, o.Message != nil)
		}
	})
}
