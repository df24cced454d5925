package app_test

import (
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"net/http"
	"testing"

	"filippo.io/mldsa"

	"mooring/agent/est"
	"mooring/internal/app/apptest"
	"mooring/internal/core/ca"
	"mooring/internal/core/key"
	"mooring/internal/core/revoke"
	"mooring/wire/der"
	"mooring/wire/ocsp"
)

// hierarchy is two CAs, one above the other.
type hierarchy struct {
	root, issuing key.Algorithm
	leaf          key.Algorithm
}

// A device enrols over EST with an ML-DSA key, under an ML-DSA hierarchy and under mixed ones; list and OCSP answers of its CA are signed
// and say that it is revoked; and all of it survives a restart.
func TestMLDSAHierarchies(t *testing.T) {
	cases := map[string]hierarchy{
		"pq":      {key.MLDSA65, key.MLDSA65, key.MLDSA65},
		"pq-44":   {key.MLDSA65, key.MLDSA44, key.MLDSA44},
		"ec-root": {key.P384, key.MLDSA65, key.MLDSA44},
		"ec-sub":  {key.MLDSA65, key.P256, key.MLDSA65},
		"ec-leaf": {key.MLDSA65, key.MLDSA65, key.P256},
		"rsa":     {key.RSA3072, key.MLDSA65, key.P256},
	}
	var profiles []apptest.Profile
	for name, h := range cases {
		profiles = append(profiles, apptest.Variant("device", name, "issuer: "+name, "keys: ["+string(h.leaf)+"]", "server_keygen: "+string(h.leaf)))
	}
	p := apptest.Start(t, nil, profiles...)
	leaves := map[string]*x509.Certificate{}
	for name, h := range cases {
		makeHierarchy(t, p, name, h)
		var k crypto.Signer
		leaves[name], k = enrolOverEST(t, p, name, h.leaf)
		if h.leaf != key.P256 { // TLS has no ML-DSA here
			continue
		}
		t.Run("mixed RSA/EC/ML-DSA chains: "+name, func(t *testing.T) {
			leaf := leaves[name]
			again := der.RequestSpec{RawSubject: leaf.RawSubject, Names: der.AltNames{URI: []string{leaf.URIs[0].String()}}}
			pair := p.Pair(t, k, leaf.Raw)
			reply := p.Send(t, apptest.Call{Path: "/.well-known/est/simplereenroll", Body: apptest.Body(apptest.CSR(t, apptest.Key(t), again))}, pair)
			if reply.StatusCode != http.StatusOK || len(pair.Certificate) != 2 {
				t.Errorf("a renewal by TLS with a chain of %d: %s", len(pair.Certificate), reply)
			}
		})
	}
	p.Restart(t)
	for name, leaf := range leaves {
		issuer, err := p.CA.Issuer(name)
		if err != nil {
			t.Fatal(err)
		}
		checkSigned(t, p, issuer, leaf)
		serial := leaf.SerialNumber.Bytes()
		if s := ocspStatus(t, p, issuer, serial); s != ocsp.Good {
			t.Errorf("%s: OCSP says %v before the revocation", name, s)
		}
		if _, err := p.Revoke.Certificate(t.Context(), apptest.Operator(), serial, revoke.KeyCompromise); err != nil {
			t.Fatal(err)
		}
		if s := ocspStatus(t, p, issuer, serial); s != ocsp.Revoked {
			t.Errorf("%s: OCSP says %v after it", name, s)
		}
		checkListed(t, p, issuer, leaf)
	}
}

func makeHierarchy(t *testing.T, p *apptest.Platform, name string, h hierarchy) {
	t.Helper()
	subject := func(cn string) []der.Attribute {
		return []der.Attribute{{Type: der.OIDOrganization, Value: "Acme"}, {Type: der.OIDCommonName, Value: cn + " " + name}}
	}
	for _, s := range []ca.Spec{
		{Name: name + "-root", Subject: subject("Root"), Algorithm: h.root, Validity: 20 * 365 * 86400, PathLen: 1},
		{Name: name, Parent: name + "-root", Subject: subject("Devices"), Algorithm: h.issuing, Validity: 10 * 365 * 86400},
	} {
		if _, err := p.CA.Create(t.Context(), apptest.Operator(), s); err != nil {
			t.Fatal(err)
		}
	}
}

func enrolOverEST(t *testing.T, p *apptest.Platform, profile string, alg key.Algorithm) (*x509.Certificate, crypto.Signer) {
	t.Helper()
	_, token := p.Device(t, "device-"+profile, profile)
	k, err := key.New(alg)
	if err != nil {
		t.Fatal(err)
	}
	reply := p.Send(t, apptest.Call{Path: "/.well-known/est/simpleenroll", Body: apptest.Body(apptest.CSR(t, k, der.RequestSpec{})), User: "device-" + profile, Secret: token})
	if reply.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d %s", profile, reply.StatusCode, reply.Text)
	}
	leaf := reply.Certificate(t)
	spki, err := der.EncodePublicKey(k.Public())
	if err != nil || string(spki) != string(leaf.RawSubjectPublicKeyInfo) {
		t.Fatalf("%s: the certificate has another key, %v", profile, err)
	}
	return leaf, k
}

// The public EST client follows the wish for an ML-DSA key, and gets one that the server made, as its seed.
func TestMLDSAWithTheClient(t *testing.T) {
	p := apptest.Start(t, nil, apptest.Variant("device", "wanted", "keys: [ml-dsa-44]", "server_keygen: ml-dsa-44"))
	connect := func(name string) *est.Session {
		_, token := p.Device(t, name, "wanted")
		return p.Session(t, "wanted", est.Credential{User: name, Secret: token})
	}
	session := connect("own")
	attrs, err := session.CSRAttrs(t.Context())
	if set := (asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 17}); err != nil || !attrs.Wants(set) || attrs.Template == nil || !attrs.Template.Key.Algorithm.Equal(set) {
		t.Fatalf("the CSR attributes do not ask for ML-DSA-44: %+v, %v", attrs, err)
	}
	own, err := mldsa.GenerateKey(mldsa.MLDSA44())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := session.Enrol(t.Context(), est.Order{Key: own, Subject: []der.Attribute{{Type: der.OIDCommonName, Value: "own"}}})
	if err != nil {
		t.Fatal(err)
	}
	certified(t, cert, own.Public())

	made, err := connect("made").ServerKeygen(t.Context(), est.Order{Key: apptest.Key(t)})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := made.Key.(*mldsa.PrivateKey); !ok {
		t.Fatalf("the server made a key of type %T", made.Key)
	}
	certified(t, made.Certificate, made.Key.Public())
}

func certified(t *testing.T, cert *x509.Certificate, want crypto.PublicKey) {
	t.Helper()
	pub, err := der.ParsePublicKey(cert.RawSubjectPublicKeyInfo)
	if err != nil || !want.(*mldsa.PublicKey).Equal(pub) {
		t.Errorf("the certificate has another key, of kind %s: %v", der.KindOf(pub), err)
	}
}

// checkSigned verifies the path to the root, and that the platform would believe a TLS client with the certificate.
func checkSigned(t *testing.T, p *apptest.Platform, issuer *ca.Issuer, leaf *x509.Certificate) {
	t.Helper()
	if by, err := p.CA.SignedBy(t.Context(), issuer.ID(), leaf); err != nil || by != issuer {
		t.Errorf("%s: SignedBy: %v", issuer.Name(), err)
	}
	for cert, by := leaf, issuer; ; cert, by = by.Certificate(), by.Parent() {
		if by == nil {
			return
		}
		if err := der.CheckCertificate(cert, by.PublicKey()); err != nil {
			t.Errorf("%s: the signature of %s: %v", issuer.Name(), by.Name(), err)
		}
	}
}

func ocspStatus(t *testing.T, p *apptest.Platform, issuer *ca.Issuer, serial []byte) ocsp.CertStatus {
	t.Helper()
	ids, err := ocsp.NewIssuer(issuer.Certificate().RawSubject, issuer.Certificate().RawSubjectPublicKeyInfo)
	if err != nil {
		t.Fatal(err)
	}
	id, err := ids.CertID(crypto.SHA256, serial)
	if err != nil {
		t.Fatal(err)
	}
	question, err := ocsp.AppendRequest(nil, []ocsp.CertID{id}, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := p.Revoke.OCSP(t.Context(), question)
	if err != nil {
		t.Fatal(err)
	}
	r, err := ocsp.ParseResponse(answer.DER)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.CheckSignature(issuer.PublicKey()); err != nil {
		t.Errorf("%s: the OCSP answer: %v", issuer.Name(), err)
	}
	return r.Singles[0].Status
}

func checkListed(t *testing.T, p *apptest.Platform, issuer *ca.Issuer, leaf *x509.Certificate) {
	t.Helper()
	list, err := p.Revoke.CRL(t.Context(), issuer.ID(), issuer.Shard(leaf.SerialNumber.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	crl, err := x509.ParseRevocationList(list.DER)
	if err != nil {
		t.Fatal(err)
	}
	if err := issuer.Algorithm().Verify(issuer.PublicKey(), crl.RawTBSRevocationList, crl.Signature); err != nil {
		t.Errorf("%s: the list: %v", issuer.Name(), err)
	}
	if len(crl.RevokedCertificateEntries) != 1 || crl.RevokedCertificateEntries[0].SerialNumber.Cmp(leaf.SerialNumber) != 0 {
		t.Errorf("%s: the list has %d entries", issuer.Name(), len(crl.RevokedCertificateEntries))
	}
}
