package its

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"math/big"
	"strings"
	"testing"

	"mooring/wire/coer"
)

// ofRole is a certificate of the role that has all that it needs.
func ofRole(r EtsiRole) Certificate {
	x := ticket()
	t := &x.ToBeSigned
	issue := []PsidGroupPermissions{Group(SubjectPermissions{Choice: SubjectsAll})}
	encryption := coer.Some(PublicEncryptionKey{PublicKey: BasePublicEncryptionKey{Point: CurvePoint{Form: CompressedY0, X: x32()}}})
	self := IssuerIdentifier{Choice: IssuerSelf}
	switch r {
	case EtsiTLM:
		x.Issuer, t.Id, t.AppPermissions = self, Name("TLM"), []PsidSsp{Bitmap(PsidCTL, 1, 0xc8)}
	case EtsiRCA:
		x.Issuer, t.Id, t.AppPermissions, t.CertIssuePermissions = self, Name("root"), []PsidSsp{Bitmap(PsidCRL, 1), Bitmap(PsidCTL, 1, 0x38)}, issue
	case EtsiEA:
		t.AppPermissions, t.CertIssuePermissions, t.EncryptionKey = []PsidSsp{Bitmap(PsidSCR, 1, 0x0e)}, issue, encryption
	case EtsiAA:
		t.Id, t.AppPermissions, t.CertIssuePermissions, t.EncryptionKey = Name("AA"), []PsidSsp{Bitmap(PsidSCR, 1, 0x32)}, issue, encryption
	case EtsiEC:
		t.Id, t.AppPermissions = Name("EC 4711"), []PsidSsp{Bitmap(PsidSCR, 1, 0xc0)}
	case EtsiMA:
		t.Id, t.AppPermissions, t.EncryptionKey = Name("MA"), []PsidSsp{{Psid: 9999}}, encryption
	}
	return x
}

// CRT: what each role demands, and what it refuses. A row without a reason is accepted.
func TestCRTRoles(t *testing.T) {
	t.Parallel()
	issue := []PsidGroupPermissions{Group(SubjectPermissions{Choice: SubjectsAll})}
	encryption := ofRole(EtsiEA).ToBeSigned.EncryptionKey
	implicit := func(x *Certificate) {
		x.Type, x.Signature.Present = Implicit, false
		x.ToBeSigned.VerifyKeyIndicator = VerificationKeyIndicator{Choice: ReconstructionValue, ReconstructionValue: CurvePoint{Form: CompressedY0, X: x32()}}
	}
	extensions := func(x *Certificate) {
		x.ToBeSigned.AppExtensions = []AppExtension{{Id: 1, Content: []byte{0x2a, 3}}}
		x.ToBeSigned.CertIssueExtensions = []CertIssueExtension{{Id: 1, Choice: ExtensionAll}}
		x.ToBeSigned.CertRequestExtension = []CertRequestExtension{{Id: 1, Choice: ExtensionAll}}
	}
	none := func(*Certificate) {}
	for _, row := range []struct {
		id     string
		role   EtsiRole
		change func(*Certificate)
		reason string
	}{
		{"CRT-1", EtsiTLM, none, ""},
		{"CRT-1 with certIssuePermissions", EtsiTLM, func(x *Certificate) { x.ToBeSigned.CertIssuePermissions = issue }, "certIssuePermissions"},
		{"CRT-1 with encryptionKey", EtsiTLM, func(x *Certificate) { x.ToBeSigned.EncryptionKey = encryption }, "encryptionKey"},
		{"CRT-1 with another permission", EtsiTLM, func(x *Certificate) { x.ToBeSigned.AppPermissions = []PsidSsp{Bitmap(PsidCTL, 1, 0x38)} }, "bitmap 01c8"},
		{"CRT-1 not self-signed", EtsiTLM, func(x *Certificate) { x.Issuer = ticket().Issuer }, "signed by itself"},
		{"CRT-1 implicit", EtsiTLM, implicit, "implicit"},
		{"CRT-1 without name", EtsiTLM, func(x *Certificate) { x.ToBeSigned.Id = CertificateId{Choice: IdNone} }, "name"},
		{"CRT-2", EtsiRCA, none, ""},
		{"CRT-2 without revocation lists", EtsiRCA, func(x *Certificate) { x.ToBeSigned.AppPermissions = x.ToBeSigned.AppPermissions[1:] }, "lacks an application"},
		{"CRT-2 without trust lists", EtsiRCA, func(x *Certificate) { x.ToBeSigned.AppPermissions = x.ToBeSigned.AppPermissions[:1] }, "lacks an application"},
		{"CRT-2 without certIssuePermissions", EtsiRCA, func(x *Certificate) { x.ToBeSigned.CertIssuePermissions = nil }, "certIssuePermissions"},
		{"CRT-2 implicit", EtsiRCA, implicit, "implicit"},
		{"CRT-2 not self-signed", EtsiRCA, func(x *Certificate) { x.Issuer = ticket().Issuer }, "signed by itself"},
		{"CRT-2 without name", EtsiRCA, func(x *Certificate) { x.ToBeSigned.Id = CertificateId{Choice: IdNone} }, "name"},
		{"CRT-3", EtsiEA, none, ""},
		{"CRT-3 implicit", EtsiEA, implicit, "implicit"},
		{"CRT-3 signed by itself", EtsiEA, func(x *Certificate) { x.Issuer = IssuerIdentifier{Choice: IssuerSelf} }, "signed by itself"},
		{"CRT-3 with the permission of an AA", EtsiEA, func(x *Certificate) { x.ToBeSigned.AppPermissions = ofRole(EtsiAA).ToBeSigned.AppPermissions }, "bitmap 010e"},
		{"CRT-3 without certIssuePermissions", EtsiEA, func(x *Certificate) { x.ToBeSigned.CertIssuePermissions = nil }, "certIssuePermissions"},
		{"CRT-3 without encryptionKey", EtsiEA, func(x *Certificate) { x.ToBeSigned.EncryptionKey.Present = false }, "encryptionKey"},
		{"CRT-4", EtsiAA, none, ""},
		{"CRT-4 with the permission of an EA", EtsiAA, func(x *Certificate) { x.ToBeSigned.AppPermissions = ofRole(EtsiEA).ToBeSigned.AppPermissions }, "bitmap 0132"},
		{"CRT-4 without encryptionKey", EtsiAA, func(x *Certificate) { x.ToBeSigned.EncryptionKey.Present = false }, "encryptionKey"},
		{"CRT-4 implicit", EtsiAA, implicit, "implicit"},
		{"CRT-5", EtsiEC, none, ""},
		{"CRT-5 without name", EtsiEC, func(x *Certificate) { x.ToBeSigned.Id = CertificateId{Choice: IdNone} }, "name"},
		{"CRT-5 with another permission", EtsiEC, func(x *Certificate) { x.ToBeSigned.AppPermissions = []PsidSsp{Bitmap(PsidSCR, 1, 0xe0)} }, "bitmap 01c0"},
		{"CRT-5 with another application", EtsiEC, func(x *Certificate) {
			x.ToBeSigned.AppPermissions = append(x.ToBeSigned.AppPermissions, Bitmap(PsidCAM, 1, 0, 0))
		}, "application 36"},
		{"CRT-5 implicit", EtsiEC, implicit, "implicit"},
		{"CRT-5 with certIssuePermissions", EtsiEC, func(x *Certificate) { x.ToBeSigned.CertIssuePermissions = issue }, "certIssuePermissions"},
		{"CRT-6", EtsiAT, none, ""},
		{"CRT-6 with a name", EtsiAT, func(x *Certificate) { x.ToBeSigned.Id = Name("me") }, "name"},
		{"CRT-7 with certIssuePermissions", EtsiAT, func(x *Certificate) { x.ToBeSigned.CertIssuePermissions = issue }, "certIssuePermissions"},
		{"CRT-7 with 622", EtsiAT, func(x *Certificate) { x.ToBeSigned.AppPermissions = []PsidSsp{Bitmap(622, 1)} }, "for authorities"},
		{"CRT-7 with 623", EtsiAT, func(x *Certificate) { x.ToBeSigned.AppPermissions = []PsidSsp{Bitmap(623, 1)} }, "for authorities"},
		{"CRT-7 with 624", EtsiAT, func(x *Certificate) { x.ToBeSigned.AppPermissions = []PsidSsp{Bitmap(624, 1)} }, "for authorities"},
		{"CRT-8 implicit", EtsiAT, implicit, ""},
		{"CRT-9 cracaId", EtsiAT, func(x *Certificate) { x.ToBeSigned.CracaId[2] = 1 }, "cracaId"},
		{"CRT-9 crlSeries", EtsiAT, func(x *Certificate) { x.ToBeSigned.CrlSeries = 1 }, "crlSeries"},
		{"CRT-10 certRequestPermissions", EtsiAT, func(x *Certificate) { x.ToBeSigned.CertRequestPermissions = issue }, "certRequestPermissions"},
		{"CRT-10 canRequestRollover", EtsiAT, func(x *Certificate) { x.ToBeSigned.CanRequestRollover = true }, "canRequestRollover"},
		{"CRT-11 linkageData", EtsiAT, func(x *Certificate) { x.ToBeSigned.Id = CertificateId{} }, "neither a name nor none"},
		{"CRT-11 binaryId", EtsiAT, func(x *Certificate) { x.ToBeSigned.Id = CertificateId{Choice: IdBinary, BinaryId: []byte{1}} }, "neither a name nor none"},
		{"CRT-12", EtsiAT, func(x *Certificate) { x.ToBeSigned.AppPermissions, x.ToBeSigned.CertRequestPermissions = nil, nil }, "neither appPermissions"},
		{"CRT-13 all extensions", EtsiAA, extensions, ""},
		{"CRT-13 another extension", EtsiAA, func(x *Certificate) { x.ToBeSigned.AppExtensions = []AppExtension{{Id: 2}} }, "extension 2"},
		{"CRT-13 issue without app", EtsiAA, func(x *Certificate) { extensions(x); x.ToBeSigned.AppExtensions = nil }, "without appExtensions"},
		{"CRT-13 request without issue", EtsiAA, func(x *Certificate) { extensions(x); x.ToBeSigned.CertIssueExtensions = nil }, "without certIssueExtensions"},
		{"CRT-14", EtsiMA, none, ""},
		{"CRT-14 without encryptionKey", EtsiMA, func(x *Certificate) { x.ToBeSigned.EncryptionKey.Present = false }, "encryptionKey"},
		{"CRT-14 without name", EtsiMA, func(x *Certificate) { x.ToBeSigned.Id = CertificateId{Choice: IdNone} }, "name"},
		{"CRT-14 of another application", EtsiMA, func(x *Certificate) { x.ToBeSigned.AppPermissions[0].Psid = 9998 }, "not the application 9999"},
		{"CRT-14 with certIssuePermissions", EtsiMA, func(x *Certificate) { x.ToBeSigned.CertIssuePermissions = issue }, "certIssuePermissions"},
		{"CHN-2 an application twice", EtsiAT, func(x *Certificate) { x.ToBeSigned.AppPermissions = []PsidSsp{{Psid: 36}, {Psid: 36}} }, "twice"},
		{"CHN-2 an application twice to be issued", EtsiRCA, func(x *Certificate) {
			x.ToBeSigned.CertIssuePermissions = []PsidGroupPermissions{Group(SubjectPermissions{Explicit: []PsidSspRange{{Psid: 37}, {Psid: 37}}})}
		}, ""},
	} {
		t.Run(row.id, func(t *testing.T) {
			x := ofRole(row.role)
			row.change(&x)
			switch err := x.CheckRole(row.role, 9999); {
			case row.reason == "" && err != nil:
				t.Error(err)
			case row.reason != "" && (err == nil || !strings.Contains(err.Error(), row.reason)):
				t.Errorf("%v, want %q", err, row.reason)
			}
			if row.reason != "" {
				return
			}
			b := marshal(t, &x)
			if back, err := ParseCertificate(b); err != nil || !bytes.Equal(marshal(t, back), b) {
				t.Errorf("it does not come back: %v", err)
			}
		})
	}
}

// CRY-7: the certificate of the trust list manager is signed by itself.
func TestCRY7TheTrustListManagerSignedItself(t *testing.T) {
	t.Parallel()
	b := tlm(t)
	x, err := ParseCertificate(b)
	if err != nil {
		t.Fatal(err)
	}
	if err := x.Verify(nil); err != nil {
		t.Error(err)
	}
	if err := x.CheckRole(EtsiTLM, 0); err != nil {
		t.Error(err)
	}
	for _, at := range []int{10, 30, 60, 120, 190} {
		changed := bytes.Clone(b)
		changed[at] ^= 1
		if y, err := ParseCertificate(changed); err == nil && y.Verify(nil) == nil {
			t.Errorf("it verifies with bit 0 of octet %d flipped", at)
		}
	}
	if err := x.Verify(x); !errors.Is(err, ErrIssuer) {
		t.Errorf("as issued by another one: %v", err)
	}
}

// CRY-7: signatures on brainpoolP256r1, by OpenSSL, with key and r in each form that says which point it is.
func TestCRY7BrainpoolP256r1(t *testing.T) {
	t.Parallel()
	x := unhex(t, "649f5de39bd4da791e70e22c2c9a67243459d4079b3d988ed98088aebd2bd775")
	y := unhex(t, "2435070d0356e93c54cb54cfcbb2c9ec763d6605327a84e57b0474bf9198c8f5")
	r := unhex(t, "7518ff9c780e2d8bd0fa58b2163f1c640589dd7f3278c9641193fb4fe0313a55")
	s := unhex(t, "72fd514234060689d6ce6f38c0b2347157ff3ca9667e4722b25c20ded343bc3f")
	digest := SHA256.Sum([]byte("mooring: brainpoolP256r1"))
	for _, point := range []CurvePoint{{Form: CompressedY1, X: x}, {Form: Uncompressed, X: x, Y: y}} {
		k := PublicVerificationKey{ECDSABrainpoolP256r1, point}
		for _, form := range []PointForm{XOnly, CompressedY0, CompressedY1, Uncompressed} {
			g := Signature{ECDSABrainpoolP256r1, CurvePoint{Form: form, X: r, Y: y}, s}
			if err := k.Verify(digest, &g); err != nil {
				t.Errorf("key in form %d, r in form %d: %v", point.Form, form, err)
			}
			if err := k.Verify(SHA256.Sum(digest), &g); !errors.Is(err, ErrSignature) {
				t.Errorf("key in form %d, r in form %d, another digest: %v", point.Form, form, err)
			}
		}
	}
	other := PublicVerificationKey{ECDSABrainpoolP256r1, CurvePoint{Form: CompressedY0, X: x}}
	if err := other.Verify(digest, &Signature{ECDSABrainpoolP256r1, CurvePoint{X: x48()}, s}); !errors.Is(err, ErrSignature) {
		t.Errorf("r is longer than the order: %v", err)
	}
	if err := other.Verify(digest, &Signature{ECDSABrainpoolP256r1, CurvePoint{X: r}, s}); !errors.Is(err, ErrSignature) {
		t.Errorf("the negative of the key: %v", err)
	}
	if err := other.Verify(digest, &Signature{ECDSANistP256, CurvePoint{X: r}, s}); !errors.Is(err, ErrAlgorithm) {
		t.Errorf("a signature of P-256: %v", err)
	}
}

// authority is a key of P-256 or P-384 that signs certificates and messages; it is of the tests alone.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *Certificate
}

func (a authority) public(choice SignatureAlgorithm) PublicVerificationKey {
	b, err := a.key.PublicKey.Bytes()
	if err != nil {
		panic(err)
	}
	n := choice.Size()
	return PublicVerificationKey{choice, CurvePoint{Form: CompressedY0 + PointForm(b[2*n]&1), X: b[1 : n+1]}}
}

func (a authority) sign(t *testing.T, choice SignatureAlgorithm, digest []byte) Signature {
	t.Helper()
	r, s, err := ecdsa.Sign(rand.Reader, a.key, digest)
	if err != nil {
		t.Fatal(err)
	}
	n := choice.Size()
	return Signature{choice, CurvePoint{X: r.FillBytes(make([]byte, n))}, s.FillBytes(make([]byte, n))}
}

func newAuthority(t *testing.T, choice SignatureAlgorithm) authority {
	t.Helper()
	curve := elliptic.P256()
	if choice == ECDSANistP384 {
		curve = elliptic.P384()
	}
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := authority{key: key}
	x := ofRole(EtsiRCA)
	x.Issuer.Self = choice.Hash()
	x.ToBeSigned.VerifyKeyIndicator.VerificationKey = a.public(choice)
	digest, err := x.Input(nil)
	if err != nil {
		t.Fatal(err)
	}
	x.Signature.Value = a.sign(t, choice, digest)
	a.cert = &x
	return a
}

// A root of either size signs itself and a ticket; the algorithm follows the one who signs.
func TestSignedByAnother(t *testing.T) {
	t.Parallel()
	for _, choice := range []SignatureAlgorithm{ECDSANistP256, ECDSANistP384} {
		root := newAuthority(t, choice)
		if err := root.cert.Verify(nil); err != nil {
			t.Errorf("%v: the root: %v", choice, err)
		}
		id, err := root.cert.HashedId8()
		if err != nil {
			t.Fatal(err)
		}
		x := ticket()
		x.Issuer = IssuerIdentifier{Digest: id}
		if choice == ECDSANistP384 {
			x.Issuer.Choice = IssuerSHA384
		}
		digest, err := x.Input(root.cert)
		if err != nil {
			t.Fatal(err)
		}
		x.Signature.Value = root.sign(t, choice, digest)
		if err := x.Verify(root.cert); err != nil {
			t.Errorf("%v: the ticket: %v", choice, err)
		}
		high := x.Signature.Value
		n := root.key.Params().N
		high.S = new(big.Int).Sub(n, new(big.Int).SetBytes(high.S)).FillBytes(make([]byte, choice.Size()))
		if err := root.cert.ToBeSigned.VerifyKeyIndicator.VerificationKey.Verify(digest, &high); err != nil {
			t.Errorf("%v: CRY-9: the other s: %v", choice, err)
		}
		wrong := x
		wrong.Issuer.Choice = IssuerSHA384 - wrong.Issuer.Choice
		if err := wrong.Verify(root.cert); !errors.Is(err, ErrAlgorithm) {
			t.Errorf("%v: CHN-14: %v", choice, err)
		}
		if err := x.Verify(newAuthority(t, choice).cert); !errors.Is(err, ErrIssuer) {
			t.Errorf("%v: CHN-16: %v", choice, err)
		}
		if err := x.Verify(nil); !errors.Is(err, ErrIssuer) {
			t.Errorf("%v: as signed by itself: %v", choice, err)
		}
	}
}

// CRY-8: keys that are no points.
func TestCRY8PointsThatAreNone(t *testing.T) {
	t.Parallel()
	off := bytes.Repeat([]byte{0xff}, 48)
	g := func(a SignatureAlgorithm) *Signature {
		one := make([]byte, a.Size())
		one[len(one)-1] = 1
		return &Signature{a, CurvePoint{X: one}, one}
	}
	for a := ECDSANistP256; a <= ECDSANistP384; a++ {
		n := a.Size()
		for form := XOnly; form <= Uncompressed; form++ {
			k := PublicVerificationKey{a, CurvePoint{Form: form, X: off[:n], Y: off[:n]}}
			if err := k.Verify(make([]byte, n), g(a)); !errors.Is(err, ErrKey) {
				t.Errorf("%v, form %d: %v", a, form, err)
			}
		}
	}
	filled := g(ECDSANistP256)
	filled.R.Form = Fill
	k := key(ECDSANistP256, 1)
	if err := k.Verify(make([]byte, 32), filled); !errors.Is(err, ErrSignature) {
		t.Errorf("r is fill: %v", err)
	}
}

func TestSignedMessages(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, ECDSANistP256)
	d := signedSample(t).Content.SignedData
	d.Signer = SignerIdentifier{Choice: SignerCertificate, Certificate: []Certificate{*a.cert}}
	digest, err := d.Input(a.cert)
	if err != nil {
		t.Fatal(err)
	}
	d.Signature = a.sign(t, ECDSANistP256, digest)
	if err := d.Verify(a.cert, nil); err != nil {
		t.Error(err)
	}
	if err := d.Verify(newAuthority(t, ECDSANistP256).cert, nil); !errors.Is(err, ErrSignature) {
		t.Errorf("by another signer: %v", err)
	}
	d.HashId = SHA384
	if err := d.Verify(a.cert, nil); !errors.Is(err, ErrAlgorithm) {
		t.Errorf("CHN-14: %v", err)
	}
	d.HashId, d.Signer = SHA256, SignerIdentifier{Choice: SignerSelf}
	if digest, err = d.Input(nil); err != nil {
		t.Fatal(err)
	}
	d.Signature = a.sign(t, ECDSANistP256, digest)
	k := a.public(ECDSANistP256)
	if err := d.Verify(nil, &k); err != nil {
		t.Errorf("by itself: %v", err)
	}
}
