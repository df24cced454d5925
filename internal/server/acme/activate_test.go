package acme_test

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"math/big"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/core/acme"
	"mooring/internal/core/device"
	"mooring/internal/core/revoke"
	wire "mooring/wire/acme"
	"mooring/wire/der"
)

// softTPM does what a TPM does with an endorsement key, an attestation key and another one.
type softTPM struct {
	ek      *rsa.PrivateKey
	ak, key *ecdsa.PrivateKey
}

func newSoftTPM(t testing.TB) *softTPM {
	t.Helper()
	ek, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return &softTPM{ek, apptest.Key(t), apptest.Key(t)}
}

func ecPublic(key *ecdsa.PrivateKey, restricted bool) tpm2.TPMTPublic {
	point, err := key.PublicKey.Bytes()
	if err != nil {
		panic(err) // the tests make good keys
	}
	null := tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgNull}
	return tpm2.TPMTPublic{Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, Restricted: restricted, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256, Scheme: null, KDF: tpm2.TPMTKDFScheme{Scheme: tpm2.TPMAlgNull},
			Symmetric: tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgNull}}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]}})}
}

func name(t testing.TB, p tpm2.TPMTPublic) []byte {
	t.Helper()
	n, err := tpm2.ObjectName(&p)
	if err != nil {
		t.Fatal(err)
	}
	return n.Buffer
}

// begin is the first request.
func (s *softTPM) begin() wire.Activation {
	ek := tpm2.RSAEKTemplate
	ek.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: s.ek.N.Bytes()})
	return wire.Activation{AK: b64(tpm2.Marshal(ecPublic(s.ak, true))), EK: b64(tpm2.Marshal(ek))}
}

// open is TPM2_ActivateCredential (TPM 2.0 Library, part 1, section 24).
func (s *softTPM) open(t testing.TB, c wire.ActivationChallenge) string {
	t.Helper()
	credential, secret := unb64(t, c.Credential)[2:], unb64(t, c.Secret)[2:]
	seed, err := rsa.DecryptOAEP(sha256.New(), nil, s.ek, secret, []byte("IDENTITY\x00"))
	if err != nil {
		t.Fatal(err)
	}
	ak := name(t, ecPublic(s.ak, true))
	size := int(credential[0])<<8 | int(credential[1])
	mac, sealed := credential[2:2+size], credential[2+size:]
	h := hmac.New(sha256.New, tpm2.KDFa(crypto.SHA256, seed, "INTEGRITY", nil, nil, 256))
	h.Write(sealed)
	h.Write(ak)
	if !hmac.Equal(h.Sum(nil), mac) {
		t.Fatal("the credential is for another attestation key")
	}
	block, err := aes.NewCipher(tpm2.KDFa(crypto.SHA256, seed, "STORAGE", ak, nil, 128))
	if err != nil {
		t.Fatal(err)
	}
	//lint:ignore SA1019 it is the TPM's mode, and authenticated above
	cipher.NewCFBDecrypter(block, make([]byte, 16)).XORKeyStream(sealed, sealed)
	return b64(sealed[2:])
}

func unb64(t testing.TB, text string) []byte {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// statement says of the other key that it is in the TPM.
func (s *softTPM) statement(t testing.TB, chain [][]byte, keyAuthorization string) []byte {
	t.Helper()
	nonce := sha256.Sum256([]byte(keyAuthorization))
	area := ecPublic(s.key, false)
	info := tpm2.Marshal(tpm2.TPMSAttest{Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestCertify, ExtraData: tpm2.TPM2BData{Buffer: nonce[:]},
		Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestCertify, &tpm2.TPMSCertifyInfo{Name: tpm2.TPM2BName{Buffer: name(t, area)}})})
	digest := sha256.Sum256(info)
	x, y, err := ecdsa.Sign(rand.Reader, s.ak, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	sig := tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgECDSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA, &tpm2.TPMSSignatureECC{Hash: tpm2.TPMAlgSHA256,
		SignatureR: tpm2.TPM2BECCParameter{Buffer: x.Bytes()}, SignatureS: tpm2.TPM2BECCParameter{Buffer: y.Bytes()}})}
	return encodeCBOR(t, map[string]any{"fmt": "tpm", "attStmt": map[string]any{"ver": "2.0", "alg": -7, "sig": tpm2.Marshal(sig), "x5c": chain, "certInfo": info, "pubArea": tpm2.Marshal(area)}})
}

// activate has the attestation key certified.
func (a *account) activate(t testing.TB, s *softTPM, begin wire.Activation) [][]byte {
	t.Helper()
	url := a.w.base + "/acme/attest/tpm"
	c := into[wire.ActivationChallenge](t, a.post(t, url, begin))
	answer := wire.Activation{Session: c.Session, Secret: s.open(t, c)}
	r := a.post(t, url, answer)
	if r.StatusCode != http.StatusOK || r.Header.Get("Content-Type") != wire.TypeChain {
		t.Fatalf("got %d %s", r.StatusCode, r.Text)
	}
	if again := a.post(t, url, answer); !bytes.Equal(again.Text, r.Text) {
		t.Errorf("the same answer again got %d %s", again.StatusCode, again.Text)
	}
	return decodePEM(t, r.Text)
}

func TestActivation(t *testing.T) {
	w, m := attestWorld(t)
	url := w.base + "/acme/attest/tpm"
	tpm, now := newSoftTPM(t), w.Clock.Now()
	spki, err := x509.MarshalPKIXPublicKey(tpm.ek.Public())
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(spki)
	known := map[string]string{acme.TagEK: hex.EncodeToString(sum[:])}
	register := func(name string, tags map[string]string) (*account, device.Device) {
		d := w.Add(t, device.Spec{Name: name, Profile: "attested", Tags: tags})
		return w.boundTo(t, d), d
	}
	endorse := func(usage asn1.ObjectIdentifier, end time.Duration) string {
		raw, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(7), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(end), UnknownExtKeyUsage: []asn1.ObjectIdentifier{usage},
			ExtraExtensions: []pkix.Extension{{Id: []int{2, 5, 29, 17}, Critical: true, Value: directoryName(t)}}}, m.root, tpm.ek.Public(), m.key)
		if err != nil {
			t.Fatal(err)
		}
		return b64(raw)
	}
	endorsement := asn1.ObjectIdentifier{2, 23, 133, 8, 1}
	order := func(t *testing.T, a *account, device string, chain [][]byte) (wire.Order, wire.Authorization) {
		t.Helper()
		_, o := a.order(t, permanent(device))
		return o, a.attest(t, o, func(_, auth string) []byte { return tpm.statement(t, chain, auth) })
	}
	t.Run("registered endorsement key", func(t *testing.T) {
		a, d := register("unit-1", known)
		chain := a.activate(t, tpm, tpm.begin())
		if names := altNames(t, chain[0]); len(names.Other) != 1 || !names.Other[0].Same(der.PermanentIdentifier("unit-1", "")) {
			t.Errorf("the attestation key's certificate has the names %+v", names)
		}
		o, z := order(t, a, "unit-1", chain)
		if z.Status != wire.StatusValid {
			t.Fatalf("the authorization is %s: %+v", z.Status, z.Challenges[0].Error)
		}
		done := into[wire.Order](t, a.post(t, o.Finalize, csr(t, tpm.key)))
		if got := parse(t, decodePEM(t, a.post(t, done.Certificate, nil).Text)[0]); !tpm.key.PublicKey.Equal(got.PublicKey) {
			t.Error("the certificate is for another key")
		}
		recorded := false
		for _, e := range w.Record(t) {
			recorded = recorded || e.Device == d.ID.String() && e.Serial != "" && e.Detail[acme.TagEK] == known[acme.TagEK] && e.Detail["evidence"] == "attested"
		}
		if !recorded {
			t.Error("the record does not say which TPM got a certificate")
		}
		other, _ := register("unit-2", known)
		if _, z := order(t, other, "unit-2", chain); z.Status != wire.StatusInvalid {
			t.Errorf("by another device's attestation key: %s", z.Status)
		}
		serial := parse(t, chain[0]).SerialNumber.FillBytes(make([]byte, 16))
		if _, err := w.Revoke.Certificate(t.Context(), apptest.Operator(), serial, revoke.Superseded); err != nil {
			t.Fatal(err)
		}
		if _, z := order(t, a, "unit-1", chain); z.Status != wire.StatusInvalid {
			t.Errorf("by a revoked attestation key: %s", z.Status)
		}
	})
	t.Run("endorsement certificate", func(t *testing.T) {
		a, _ := register("unit-3", nil)
		begin := tpm.begin()
		begin.Certificates = []string{endorse(endorsement, time.Hour)}
		if _, z := order(t, a, "unit-3", a.activate(t, tpm, begin)); z.Status != wire.StatusValid {
			t.Errorf("the authorization is %s: %+v", z.Status, z.Challenges[0].Error)
		}
	})
	t.Run("refusals", func(t *testing.T) {
		a, _ := register("unit-4", nil)
		bad := func(name string, bend func(*wire.Activation)) {
			begin := tpm.begin()
			begin.Certificates = []string{endorse(endorsement, time.Hour)}
			bend(&begin)
			if r := a.post(t, url, begin); r.kind() != "badAttestationStatement" || r.StatusCode != http.StatusForbidden {
				t.Errorf("%s: got %d %s", name, r.StatusCode, r.Text)
			}
		}
		bad("no certificate", func(b *wire.Activation) { b.Certificates = nil })
		bad("expired certificate", func(b *wire.Activation) { b.Certificates[0] = endorse(endorsement, -time.Minute) })
		bad("certificate for another use", func(b *wire.Activation) { b.Certificates[0] = endorse(asn1.ObjectIdentifier{1, 2, 3}, time.Hour) })
		bad("certificate of another key", func(b *wire.Activation) { b.EK = newSoftTPM(t).begin().EK })
		bad("the maker's own certificate", func(b *wire.Activation) { b.Certificates[0] = b64(m.root.Raw) })
		bad("a certificate that is none", func(b *wire.Activation) { b.Certificates[0] = "AAAA" })
		bad("a key that signs anything", func(b *wire.Activation) { b.AK = b64(tpm2.Marshal(ecPublic(tpm.ak, false))) })
		bad("an attestation key as endorsement key", func(b *wire.Activation) { b.EK = b.AK })
		strict, _ := register("unit-5", map[string]string{acme.TagEK: hex.EncodeToString(make([]byte, 32))})
		begin := tpm.begin()
		begin.Certificates = []string{endorse(endorsement, time.Hour)}
		want(t, strict.post(t, url, begin), http.StatusForbidden, "badAttestationStatement")

		c := into[wire.ActivationChallenge](t, a.post(t, url, begin))
		secret := tpm.open(t, c)
		want(t, a.post(t, url, wire.Activation{Session: c.Session, Secret: b64(make([]byte, 32))}), http.StatusForbidden, "badAttestationStatement")
		want(t, a.post(t, url, wire.Activation{Session: c.Session}), http.StatusForbidden, "badAttestationStatement")
		want(t, strict.post(t, url, wire.Activation{Session: c.Session, Secret: secret}), http.StatusForbidden, "unauthorized")
		w.Clock.Move(11 * time.Minute)
		want(t, a.post(t, url, wire.Activation{Session: c.Session, Secret: secret}), http.StatusForbidden, "unauthorized")
	})
	if r := w.Verify(t); len(r.Findings) > 0 {
		t.Errorf("the verification: %v", r.Findings)
	}
}

// TestAttestationByCrossCertificate: an attestation key's certificate from here stays bound to its device when the chain leads over a certificate
// of the same CA key that somebody else made, who is trusted too.
func TestAttestationByCrossCertificate(t *testing.T) {
	w, m := attestWorld(t, func(c *conf.Config) { c.ACME.Attest.TPM = c.ACME.Attest.Step })
	tpm, now := newSoftTPM(t), w.Clock.Now()
	spki, err := x509.MarshalPKIXPublicKey(tpm.ek.Public())
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(spki)
	register := func(name string) *account {
		tags := map[string]string{acme.TagEK: hex.EncodeToString(sum[:]), acme.TagSerial: "unit-1"} // so that each may order this name
		return w.boundTo(t, w.Add(t, device.Spec{Name: name, Profile: "attested", Tags: tags}))
	}
	own, other := register("unit-1"), register("unit-2")
	chain := own.activate(t, tpm, tpm.begin())
	issuer := parse(t, chain[1])
	cross, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(9), RawSubject: issuer.RawSubject, SubjectKeyId: issuer.SubjectKeyId, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)}, m.root, issuer.PublicKey, m.key)
	if err != nil {
		t.Fatal(err)
	}
	attempt := func(who string, a *account, status string) {
		t.Helper()
		_, o := a.order(t, permanent("unit-1"))
		z := a.attest(t, o, func(_, auth string) []byte { return tpm.statement(t, [][]byte{chain[0], cross}, auth) })
		if z.Status != status {
			t.Errorf("%s: the authorization is %s, want %s: %+v", who, z.Status, status, z.Challenges[0].Error)
		}
	}
	attempt("its device", own, wire.StatusValid)
	attempt("another device", other, wire.StatusInvalid)
	if _, err := w.Revoke.Certificate(t.Context(), apptest.Operator(), parse(t, chain[0]).SerialNumber.FillBytes(make([]byte, 16)), revoke.Superseded); err != nil {
		t.Fatal(err)
	}
	attempt("its device, after the revocation", own, wire.StatusInvalid)
}

// directoryName is a subjectAltName as certificates of endorsement keys have it, of a kind that crypto/x509 does not know.
func directoryName(t testing.TB) []byte {
	t.Helper()
	name, err := asn1.Marshal(pkix.Name{CommonName: "id:49424D00"}.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	inner, err := asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: name})
	if err != nil {
		t.Fatal(err)
	}
	out, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: inner})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
