package ca

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"

	"mooring/internal/core/key"
	"mooring/wire/der"
)

// recorded reads a file that OpenSSL has verified; testdata/mldsa/README.md says how.
func recorded(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "mldsa", name))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	return block.Bytes
}

func recordedCA(t *testing.T, name string, parent *Issuer) *Issuer {
	t.Helper()
	i, err := newIssuer(name, parent, "", recorded(t, name+".pem"), 0)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// What OpenSSL accepted must be accepted here, and what is made today must be, octet by octet, what it accepted.
func TestMLDSAVectors(t *testing.T) {
	root := recordedCA(t, "pq-root", nil)
	issuing := recordedCA(t, "pq-devices", root)
	classical := recordedCA(t, "root", nil)
	down, up := recordedCA(t, "mixed-down", classical), recordedCA(t, "mixed-up", root)
	for i, want := range map[*Issuer]der.SignatureAlgorithm{root: der.PureMLDSA65, issuing: der.PureMLDSA65, down: der.PureMLDSA44, up: der.ECDSAWithSHA384} {
		if i.Algorithm() != want {
			t.Errorf("%s signs with %s, want %s", i.Name(), i.Algorithm(), want)
		}
		remake(t, i)
	}
	if _, err := newIssuer("pq-devices", classical, "", recorded(t, "pq-devices.pem"), 0); err == nil {
		t.Error("a CA is accepted under another root")
	}

	leaf, err := x509.ParseCertificate(recorded(t, "pump-1.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if err := issuing.CheckSignature(leaf); err != nil {
		t.Error(err)
	}
	if err := root.CheckSignature(leaf); err == nil {
		t.Error("the root is taken for the issuer of the leaf")
	}
	if findings, err := zlint(leaf.Raw, nil); err != nil || len(findings) > 0 {
		t.Errorf("zlint of the leaf: %v, %v", findings, err)
	}
	for name, i := range map[string]*Issuer{"root.crl.pem": root, "pump-1.crl.pem": issuing} {
		list, err := x509.ParseRevocationList(recorded(t, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := i.Algorithm().Verify(i.PublicKey(), list.RawTBSRevocationList, list.Signature); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if revoked := len(list.RevokedCertificateEntries); (i == issuing) != (revoked == 1) {
			t.Errorf("%s has %d entries", name, revoked)
		}
	}
}

// remake makes the certificate of i anew from what it says, with another key of the signer's kind, and compares what is signed.
func remake(t *testing.T, i *Issuer) {
	t.Helper()
	by := i
	if i.parent != nil {
		by = i.parent
	}
	cert := i.cert
	serial := cert.SerialNumber.Bytes()
	c := CACertificate{Subject: cert.RawSubject, SPKI: cert.RawSubjectPublicKeyInfo, NotBefore: cert.NotBefore.Unix(), NotAfter: cert.NotAfter.Unix(),
		PathLen: cert.MaxPathLen}
	at, random := int64(0), serial
	if i.parent != nil {
		c.Issuer = i.parent.cert
		at, random = int64(binary.BigEndian.Uint32(serial[1:5])), serial[6:]
		c.CRL, c.CAIssuers = cert.CRLDistributionPoints[0], cert.IssuingCertificateURL[0]
	}
	made, err := Certify(anotherKey(t, by.PublicKey()), bytes.NewReader(random), at, c)
	if err != nil {
		t.Fatalf("%s: %v", i.Name(), err)
	}
	again, err := x509.ParseCertificate(made)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again.RawTBSCertificate, cert.RawTBSCertificate) {
		t.Errorf("the certificate of %s is made differently: got\n%x\nwant\n%x", i.Name(), again.RawTBSCertificate, cert.RawTBSCertificate)
	}
}

// Every default profile makes certificates under an ML-DSA CA that zlint accepts, as it does under the sample's P-256 one.
func TestDefaultProfilesUnderMLDSA(t *testing.T) {
	ps, err := LoadProfiles(DefaultProfiles())
	if err != nil {
		t.Fatal(err)
	}
	issuer, signer := mldsaCA(t)
	for _, p := range ps.All() {
		s, err := newSample(p)
		if err != nil {
			t.Fatal(err)
		}
		s.signer = signer
		if s.template, err = newTemplate(issuer, p, signer, s.urls); err != nil {
			t.Fatalf("%s: %v", p.Name, err)
		}
		raw, err := s.certificate(p.Keys[0])
		if err != nil {
			t.Fatalf("%s: %v", p.Name, err)
		}
		if findings, err := zlint(raw, p.LintExceptions); err != nil || len(findings) > 0 {
			t.Errorf("%s: zlint: %v, %v", p.Name, findings, err)
		}
		cert, err := x509.ParseCertificate(raw)
		if err != nil {
			t.Fatalf("%s: %v", p.Name, err)
		}
		if err := issuer.CheckSignature(cert); err != nil {
			t.Errorf("%s: %v", p.Name, err)
		}
	}
}

func mldsaCA(t *testing.T) (*Issuer, crypto.Signer) {
	t.Helper()
	signer, err := key.New(key.MLDSA65)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := der.EncodePublicKey(signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	name, err := der.BuildName([]der.Attribute{{Type: der.OIDCommonName, Value: "Sample"}})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := Certify(signer, rand.Reader, sampleTime, CACertificate{Subject: name, SPKI: spki, NotBefore: sampleTime - 86400, NotAfter: der.NoExpiry})
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := newIssuer("sample", nil, "sample", raw, sampleTime)
	if err != nil {
		t.Fatal(err)
	}
	return issuer, signer
}

func anotherKey(t *testing.T, like crypto.PublicKey) crypto.Signer {
	t.Helper()
	k, err := key.New(key.Algorithm(der.KindOf(like)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}
