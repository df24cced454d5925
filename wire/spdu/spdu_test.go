package spdu

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"mooring/wire/brainpool"
	"mooring/wire/butterfly"
	"mooring/wire/coer"
	"mooring/wire/its"
)

// party has keys for signatures and encryption, and a self-signed certificate with both.
type party struct {
	key     *ecdsa.PrivateKey
	private butterfly.Scalar
	cert    *its.Certificate
}

func newParty(t testing.TB, curve elliptic.Curve) party {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := butterfly.RandomScalar(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	algorithm := its.ECDSANistP256
	if curve == elliptic.P384() {
		algorithm = its.ECDSANistP384
	}
	n := algorithm.Size()
	b, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	cert := &its.Certificate{Issuer: its.IssuerIdentifier{Choice: its.IssuerSelf, Self: algorithm.Hash()}, ToBeSigned: its.ToBeSignedCertificate{
		Id: its.Name("party"), ValidityPeriod: its.ValidityPeriod{Start: 1, Duration: its.Duration{Choice: its.Years, Value: 1}},
		AppPermissions: []its.PsidSsp{its.Bitmap(its.PsidSCR, 1, 0x0e)}, EncryptionKey: coer.Some(encryptionKey(private)),
		VerifyKeyIndicator: its.VerificationKeyIndicator{VerificationKey: its.PublicVerificationKey{Choice: algorithm, Point: its.CurvePoint{Form: its.Uncompressed, X: b[1 : n+1], Y: b[n+1:]}}}}}
	digest, err := cert.Input(nil)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := ECDSA(key)(digest)
	if err != nil {
		t.Fatal(err)
	}
	cert.Signature = coer.Some(sig)
	if err := cert.Verify(nil); err != nil {
		t.Fatal(err)
	}
	return party{key, private, cert}
}

func encryptionKey(s butterfly.Scalar) its.PublicEncryptionKey {
	return its.PublicEncryptionKey{PublicKey: its.BasePublicEncryptionKey{Point: its.Compressed(s.Public().Bytes())}}
}

func (p party) signer(attach bool) Signer {
	return Signer{Algorithm: p.cert.ToBeSigned.VerifyKeyIndicator.VerificationKey.Choice, Certificate: p.cert, Attach: attach, Sign: ECDSA(p.key)}
}

func (p party) holder(t testing.TB) Holder {
	t.Helper()
	r, err := ToCertificate(p.cert)
	if err != nil {
		t.Fatal(err)
	}
	return Holder{Recipient: r, Private: p.private}
}

// sent is a message after it was on its way.
func sent(t testing.TB, d *its.Ieee1609Dot2Data) *its.Ieee1609Dot2Data {
	t.Helper()
	b, err := coer.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	back, err := its.ParseData(b, its.MaxRequest)
	if err != nil {
		t.Fatal(err)
	}
	return back
}

func header() its.HeaderInfo {
	return its.HeaderInfo{Psid: its.PsidSCR, GenerationTime: coer.Some[its.Time64](1)}
}

// A request goes to an authority and is answered with the same key, whatever the size of the authority's key.
func TestRequestAndAnswer(t *testing.T) {
	t.Parallel()
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384()} {
		t.Run(curve.Params().Name, func(t *testing.T) {
			station, authority := newParty(t, elliptic.P256()), newParty(t, curve)
			signed, err := Sign(Payload([]byte("request")), header(), station.signer(true))
			if err != nil {
				t.Fatal(err)
			}
			request, session, err := Seal(rand.Reader, signed, authority.holder(t).Recipient)
			if err != nil {
				t.Fatal(err)
			}
			inner, theirs, err := Open(sent(t, request), station.holder(t), authority.holder(t))
			if err != nil {
				t.Fatal(err)
			}
			d := inner.Content.SignedData
			if err := d.Verify(&d.Signer.Certificate[0], nil); err != nil || string(d.TbsData.Payload.Data.Content.Opaque) != "request" {
				t.Errorf("%v, %s", err, d.TbsData.Payload.Data.Content.Opaque)
			}
			signedAnswer, err := Sign(Payload([]byte("answer")), header(), authority.signer(false))
			if err != nil {
				t.Fatal(err)
			}
			answer, err := theirs.Answer(rand.Reader, signedAnswer)
			if err != nil {
				t.Fatal(err)
			}
			got, err := session.Open(sent(t, answer))
			if err != nil {
				t.Fatal(err)
			}
			a := got.Content.SignedData
			id, err := authority.cert.HashedId8()
			if err != nil || a.Signer.Digest != id || a.Verify(authority.cert, nil) != nil {
				t.Errorf("the answer is not signed by the authority: %v, %+v", err, a.Signer)
			}
			if answer.Content.EncryptedData.Ciphertext.Nonce == request.Content.EncryptedData.Ciphertext.Nonce {
				t.Error("request and answer have one nonce")
			}
		})
	}
}

// CRY-10: what the key of a message is bound to follows from how the recipient is named.
func TestCRY10RecipientInformation(t *testing.T) {
	t.Parallel()
	nothing := sha256.Sum256(nil)
	big := newParty(t, elliptic.P384())
	if r := big.holder(t); len(r.p1) != 48 {
		t.Errorf("a certificate with a key of 384 bits gives %d octets", len(r.p1))
	}
	asking := header()
	asking.EncryptionKey = coer.Some(its.EncryptionKey{Public: encryptionKey(big.private)})
	signed, err := Sign(Payload(nil), asking, big.signer(false))
	if err != nil {
		t.Fatal(err)
	}
	sender, err := ToSender(signed)
	b, err2 := coer.Normal(signed)
	if want := sha256.Sum256(b); err != nil || err2 != nil || !bytes.Equal(sender.p1, want[:]) {
		t.Errorf("the sender of a message: %v, %v, %x", err, err2, sender.p1)
	}
	direct, err := ToKey(encryptionKey(big.private))
	if err != nil || !bytes.Equal(direct.p1, nothing[:]) {
		t.Errorf("a key: %v, %x", err, direct.p1)
	}
	for name, r := range map[string]Recipient{"certificate": big.holder(t).Recipient, "sender": sender, "key": direct} {
		sealed, _, err := Seal(rand.Reader, its.Unsecured([]byte(name)), r)
		if err != nil {
			t.Fatal(err)
		}
		inner, _, err := Open(sent(t, sealed), Holder{Recipient: r, Private: big.private})
		if err != nil || string(inner.Content.Opaque) != name {
			t.Errorf("%s: %v", name, err)
		}
		wrong := r
		wrong.p1 = append([]byte{1}, r.p1...)
		if _, _, err := Open(sent(t, sealed), Holder{Recipient: wrong, Private: big.private}); !errors.Is(err, ErrKey) {
			t.Errorf("%s: with other information: %v", name, err)
		}
	}
}

// What cannot be opened is told apart as the response codes are.
func TestNotOpened(t *testing.T) {
	t.Parallel()
	a := newParty(t, elliptic.P256())
	h := a.holder(t)
	sealed := func(d *its.Ieee1609Dot2Data) *its.Ieee1609Dot2Data {
		x, _, err := Seal(rand.Reader, d, h.Recipient)
		if err != nil {
			t.Fatal(err)
		}
		return sent(t, x)
	}
	for name, row := range map[string]struct {
		change  func(e *its.EncryptedData)
		want    error
		session bool
	}{
		"another recipient":    {func(e *its.EncryptedData) { e.Recipients[0].RecipientId[0] ^= 1 }, ErrRecipient, false},
		"named in another way": {func(e *its.EncryptedData) { e.Recipients[0].Choice = its.RecipientRek }, ErrRecipient, false},
		"nobody":               {func(e *its.EncryptedData) { e.Recipients = nil }, ErrRecipient, false},
		"a key of brainpool":   {func(e *its.EncryptedData) { e.Recipients[0].EncKey.Choice = its.ECIESBrainpoolP256r1 }, ErrAlgorithm, false},
		"a cipher of SM4":      {func(e *its.EncryptedData) { e.Ciphertext.Choice = its.SM4CCM }, ErrAlgorithm, true},
		"tag of the key":       {func(e *its.EncryptedData) { e.Recipients[0].EncKey.T[0] ^= 1 }, ErrKey, false},
		"CRY-8 off the curve":  {func(e *its.EncryptedData) { e.Recipients[0].EncKey.V.X = bytes.Repeat([]byte{0xff}, 32) }, ErrKey, false},
		"CRY-8 x only":         {func(e *its.EncryptedData) { e.Recipients[0].EncKey.V.Form = its.XOnly }, ErrKey, false},
		"CRY-8 fill":           {func(e *its.EncryptedData) { e.Recipients[0].EncKey.V = its.CurvePoint{Form: its.Fill} }, ErrKey, false},
		"no key":               {func(e *its.EncryptedData) { e.Recipients[0].EncKey.C = nil }, ErrKey, false},
		"ciphertext":           {func(e *its.EncryptedData) { e.Ciphertext.CcmCiphertext[0] ^= 1 }, ErrCiphertext, true},
		"no tag":               {func(e *its.EncryptedData) { e.Ciphertext.CcmCiphertext = nil }, ErrCiphertext, true},
	} {
		x := sealed(its.Unsecured([]byte("message")))
		row.change(x.Content.EncryptedData)
		inner, s, err := Open(x, h)
		if !errors.Is(err, row.want) || inner != nil || (s != nil) != row.session {
			t.Errorf("%s: %v, %v, %v; want %v", name, inner, s, err, row.want)
		}
	}
	if _, _, err := Open(its.Unsecured(nil), h); !errors.Is(err, ErrContent) {
		t.Errorf("not encrypted: %v", err)
	}
}

// CHN-15: a message for more than eight is opened by the last of them.
func TestManyRecipients(t *testing.T) {
	t.Parallel()
	var to []Recipient
	var last Holder
	for range 12 {
		last = newParty(t, elliptic.P256()).holder(t)
		to = append(to, last.Recipient)
	}
	sealed, _, err := Seal(rand.Reader, its.Unsecured([]byte("to all")), to...)
	if err != nil {
		t.Fatal(err)
	}
	if inner, _, err := Open(sent(t, sealed), last); err != nil || string(inner.Content.Opaque) != "to all" {
		t.Errorf("got %v, %v", inner, err)
	}
}

// Answers are for the session that asked, and what is in them must be a message.
func TestAnswers(t *testing.T) {
	t.Parallel()
	one, err := newSession([16]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	other, err := newSession([16]byte{2})
	if err != nil {
		t.Fatal(err)
	}
	answer, err := one.Answer(rand.Reader, its.Unsecured([]byte("x")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Open(sent(t, answer)); !errors.Is(err, ErrRecipient) {
		t.Errorf("of another session: %v", err)
	}
	if _, err := one.Open(its.Unsecured(nil)); !errors.Is(err, ErrContent) {
		t.Errorf("not encrypted: %v", err)
	}
	zeros := bytes.NewReader(make([]byte, 24))
	same, err := newSession([16]byte{3})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := same.Answer(zeros, its.Unsecured(nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := same.Answer(zeros, its.Unsecured(nil)); !errors.Is(err, butterfly.ErrNonce) {
		t.Errorf("a nonce twice: %v", err)
	}
	garbage := &its.EncryptedData{}
	if garbage.Ciphertext.CcmCiphertext, err = other.key.Seal(garbage.Ciphertext.Nonce, []byte("garbage")); err != nil {
		t.Fatal(err)
	}
	if _, err := other.open(garbage); !errors.Is(err, ErrInside) {
		t.Errorf("garbage: %v", err)
	}
	if s := fmt.Sprint(one); !strings.HasPrefix(s, "session ") || len(s) != 24 {
		t.Errorf("a session is printed as %q", s)
	}
}

// An authority with a key of brainpoolP256r1 can open what is encrypted to it: here by the ephemeral key, which the test knows.
func TestBrainpoolRecipient(t *testing.T) {
	t.Parallel()
	curve := brainpool.P256r1()
	point := its.Compressed(append([]byte{3}, unhex(t, "649f5de39bd4da791e70e22c2c9a67243459d4079b3d988ed98088aebd2bd775")...))
	r, err := ToKey(its.PublicEncryptionKey{PublicKey: its.BasePublicEncryptionKey{Choice: its.ECIESBrainpoolP256r1, Point: point}})
	if err != nil {
		t.Fatal(err)
	}
	key, ephemeral := bytes.Repeat([]byte{7}, 16), bytes.Repeat([]byte{9}, 32)
	nonce := bytes.Repeat([]byte{5}, 12)
	sealed, _, err := Seal(bytes.NewReader(append(append(bytes.Clone(key), ephemeral...), nonce...)), its.Unsecured([]byte("request")), r)
	if err != nil {
		t.Fatal(err)
	}
	e := sent(t, sealed).Content.EncryptedData
	to, err := point.Brainpool(curve)
	if err != nil {
		t.Fatal(err)
	}
	v, z, err := curve.Agree(bytes.NewReader(ephemeral), to)
	if err != nil || !bytes.Equal(v[1:], e.Recipients[0].EncKey.V.X) {
		t.Fatalf("the ephemeral key is %x, %v", v, err)
	}
	got, err := butterfly.UnwrapShared(z, r.p1, [16]byte(e.Recipients[0].EncKey.C), [16]byte(e.Recipients[0].EncKey.T))
	if err != nil || !bytes.Equal(got[:], key) {
		t.Errorf("the key is %x, %v", got, err)
	}
	if _, _, err := Open(sealed, Holder{Recipient: r}); !errors.Is(err, ErrAlgorithm) {
		t.Errorf("opened with no key of P-256: %v", err)
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Recipients without a key, or with one that is none, get nothing.
func TestNoRecipients(t *testing.T) {
	t.Parallel()
	a := newParty(t, elliptic.P256())
	without := *a.cert
	without.ToBeSigned.EncryptionKey.Present = false
	if _, err := ToCertificate(&without); !errors.Is(err, ErrAlgorithm) {
		t.Errorf("a certificate without key: %v", err)
	}
	if _, err := ToSender(its.Unsecured(nil)); !errors.Is(err, ErrContent) {
		t.Errorf("the sender of an unsecured message: %v", err)
	}
	none, err := Sign(Payload(nil), header(), a.signer(true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ToSender(none); !errors.Is(err, ErrAlgorithm) {
		t.Errorf("the sender of a message without key: %v", err)
	}
	for name, change := range map[string]func(*its.PublicEncryptionKey){
		"SM2": func(k *its.PublicEncryptionKey) { k.PublicKey.Choice = its.ECENCSM2 },
		"brainpool, off the curve": func(k *its.PublicEncryptionKey) {
			k.PublicKey.Choice, k.PublicKey.Point.X = its.ECIESBrainpoolP256r1, bytes.Repeat([]byte{0xff}, 32)
		},
		"SM4":           func(k *its.PublicEncryptionKey) { k.SupportedSymmAlg = its.SM4CCM },
		"off the curve": func(k *its.PublicEncryptionKey) { k.PublicKey.Point.X = bytes.Repeat([]byte{0xff}, 32) },
		"x alone":       func(k *its.PublicEncryptionKey) { k.PublicKey.Point.Form = its.XOnly },
	} {
		k := encryptionKey(a.private)
		change(&k)
		r, err := ToKey(k)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := Seal(rand.Reader, its.Unsecured(nil), r); err == nil {
			t.Errorf("%s: a message was encrypted", name)
		}
	}
}

// CRY-9: signatures that go out have the lower s, and are the same each time.
func TestCRY9LowS(t *testing.T) {
	t.Parallel()
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384()} {
		a := newParty(t, curve)
		half := new(big.Int).Rsh(curve.Params().N, 1)
		for i := range byte(20) {
			digest := bytes.Repeat([]byte{i}, curve.Params().BitSize/8)
			one, err := ECDSA(a.key)(digest)
			if err != nil {
				t.Fatal(err)
			}
			two, err := ECDSA(a.key)(digest)
			if err != nil || !bytes.Equal(one.S, two.S) || new(big.Int).SetBytes(one.S).Cmp(half) > 0 {
				t.Errorf("%s: s is %x and %x, %v", curve.Params().Name, one.S, two.S, err)
			}
		}
	}
}

// A message that is signed by the holder of a key alone.
func TestSelf(t *testing.T) {
	t.Parallel()
	a := newParty(t, elliptic.P256())
	s := a.signer(false)
	s.Certificate = nil
	d, err := Sign(Payload([]byte("request")), header(), s)
	if err != nil {
		t.Fatal(err)
	}
	if d = sent(t, d); d.Content.SignedData.Signer.Choice != its.SignerSelf {
		t.Errorf("the signer is %+v", d.Content.SignedData.Signer)
	}
	if err := d.Content.SignedData.Verify(nil, &a.cert.ToBeSigned.VerifyKeyIndicator.VerificationKey); err != nil {
		t.Error(err)
	}
}

// An authority with a key of brainpoolP256r1 opens what is encrypted to it, and answers; wrong keys and octets are refused.
func TestBrainpoolHolder(t *testing.T) {
	t.Parallel()
	curve := brainpool.P256r1()
	private := make([]byte, 32)
	if _, err := rand.Read(private[1:]); err != nil { // the first octet is 0, so that it is below the order
		t.Fatal(err)
	}
	public, err := curve.Public(private)
	if err != nil {
		t.Fatal(err)
	}
	key := its.PublicEncryptionKey{PublicKey: its.BasePublicEncryptionKey{Choice: its.ECIESBrainpoolP256r1, Point: its.Compressed(public)}}
	r, err := ToKey(key)
	if err != nil {
		t.Fatal(err)
	}
	sealed, session, err := Seal(rand.Reader, its.Unsecured([]byte("a request")), r)
	if err != nil {
		t.Fatal(err)
	}
	inner, theirs, err := Open(sealed, Holder{Recipient: r, Brainpool: private})
	if err != nil || string(inner.Content.Opaque) != "a request" {
		t.Fatalf("got %v, %v", inner, err)
	}
	answer, err := theirs.Answer(rand.Reader, its.Unsecured([]byte("an answer")))
	if err != nil {
		t.Fatal(err)
	}
	if back, err := session.Open(answer); err != nil || string(back.Content.Opaque) != "an answer" {
		t.Errorf("the answer: %v, %v", back, err)
	}
	other := bytes.Clone(private)
	other[31] ^= 1
	scalar, err := butterfly.NewScalar(private)
	if err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		holder Holder
		change func(*its.EncryptedDataEncryptionKey)
		want   error
	}{
		"another key":       {Holder{Recipient: r, Brainpool: other}, nil, ErrKey},
		"no key":            {Holder{Recipient: r, Brainpool: make([]byte, 32)}, nil, ErrKey},
		"a key of P-256":    {Holder{Recipient: r, Private: scalar}, nil, ErrAlgorithm},
		"a changed tag":     {Holder{Recipient: r, Brainpool: private}, func(k *its.EncryptedDataEncryptionKey) { k.T[0] ^= 1 }, ErrKey},
		"a changed key":     {Holder{Recipient: r, Brainpool: private}, func(k *its.EncryptedDataEncryptionKey) { k.C[0] ^= 1 }, ErrKey},
		"a point off it":    {Holder{Recipient: r, Brainpool: private}, func(k *its.EncryptedDataEncryptionKey) { k.V.X = bytes.Repeat([]byte{0xff}, 32) }, ErrKey},
		"wrapped for P-256": {Holder{Recipient: r, Brainpool: private}, func(k *its.EncryptedDataEncryptionKey) { k.Choice = its.ECIESNistP256 }, ErrAlgorithm},
	} {
		b, err := coer.Marshal(sealed)
		if err != nil {
			t.Fatal(err)
		}
		d, err := its.ParseData(b, its.MaxRequest)
		if err != nil {
			t.Fatal(err)
		}
		if row.change != nil {
			k := &d.Content.EncryptedData.Recipients[0].EncKey
			k.T, k.C, k.V.X = bytes.Clone(k.T), bytes.Clone(k.C), bytes.Clone(k.V.X)
			row.change(k)
		}
		if _, _, err := Open(d, row.holder); !errors.Is(err, row.want) {
			t.Errorf("%s: got %v, want %v", name, err, row.want)
		}
	}
}

// A session that was put away by its key opens the answer.
func TestResume(t *testing.T) {
	t.Parallel()
	a := newParty(t, elliptic.P256())
	h := a.holder(t)
	sealed, session, err := Seal(rand.Reader, its.Unsecured([]byte("?")), h.Recipient)
	if err != nil {
		t.Fatal(err)
	}
	_, theirs, err := Open(sealed, h)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := theirs.Answer(rand.Reader, its.Unsecured([]byte("!")))
	if err != nil {
		t.Fatal(err)
	}
	again, err := Resume(session.Secret())
	if err != nil {
		t.Fatal(err)
	}
	if back, err := again.Open(answer); err != nil || string(back.Content.Opaque) != "!" {
		t.Errorf("got %v, %v", back, err)
	}
}
