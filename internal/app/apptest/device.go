package apptest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"testing"

	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
	"mooring/internal/core/enrol"
	"mooring/wire/der"
)

// Operator is an administrator on the server's machine.
func Operator() access.Actor {
	return access.Actor{Kind: access.KindLocal, ID: "test", Role: access.RoleAdmin, Via: "test"}
}

// Add registers a device.
func (p *Platform) Add(t testing.TB, spec device.Spec) device.Device {
	t.Helper()
	d, err := p.Devices.Add(t.Context(), Operator(), spec)
	if err != nil {
		t.Fatalf("adding the device %q: %v", spec.Name, err)
	}
	return d
}

// Device registers a device and gives it a token.
func (p *Platform) Device(t testing.TB, name, profile string) (d device.Device, token string) {
	t.Helper()
	d = p.Add(t, device.Spec{Name: name, Profile: profile})
	return d, p.Token(t, d.ID)
}

// Token gives the device a fresh token.
func (p *Platform) Token(t testing.TB, id device.ID) string {
	t.Helper()
	token, _, err := p.Devices.Token(t.Context(), Operator(), id, 0)
	if err != nil {
		t.Fatalf("making a token: %v", err)
	}
	return token
}

// Load returns the device as the registry has it now.
func (p *Platform) Load(t testing.TB, id device.ID) device.Device {
	t.Helper()
	d, err := p.Devices.Load(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Enrolled registers a device and gets it a certificate by its token, in process. It returns the key and certificate as the device has them,
// with the chain but for the root.
func (p *Platform) Enrolled(t testing.TB, name, profile string) (device.Device, tls.Certificate) {
	t.Helper()
	d := p.Add(t, device.Spec{Name: name, Profile: profile})
	pair := p.Enrolment(t, d)
	return p.Load(t, d.ID), pair
}

// Enrolment gets a registered device a certificate, as Enrolled does.
func (p *Platform) Enrolment(t testing.TB, d device.Device) tls.Certificate {
	t.Helper()
	key := Key(t)
	answer, err := p.Enrol.Submit(t.Context(), enrol.Request{Protocol: "est", Op: enrol.Enrol, Basic: true, User: d.Name, Secret: p.Token(t, d.ID), CSR: CSR(t, key, der.RequestSpec{})})
	if err != nil || answer.Certificate == nil {
		t.Fatalf("enrolling %q: %v, %v", d.Name, answer.Pending, err)
	}
	return p.Pair(t, key, answer.Certificate.DER)
}

// Pair returns a TLS credential of key and certificate, with the chain of its issuer but for the root.
func (p *Platform) Pair(t testing.TB, key crypto.Signer, cert []byte) tls.Certificate {
	t.Helper()
	leaf, err := x509.ParseCertificate(cert)
	if err != nil {
		t.Fatal(err)
	}
	pair := tls.Certificate{Certificate: [][]byte{cert}, PrivateKey: key, Leaf: leaf}
	issuer := p.CA.IssuerOf(leaf)
	if issuer == nil {
		t.Fatalf("the certificate of %s was not issued here", leaf.Subject)
	}
	chain := issuer.Chain()
	pair.Certificate = append(pair.Certificate, chain[:len(chain)-1]...)
	return pair
}

// Key makes a P-256 key.
func Key(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// CSR makes a certification request in DER, signed by key. spec.SPKI is key's own unless it is set.
func CSR(t testing.TB, key crypto.Signer, spec der.RequestSpec) []byte {
	t.Helper()
	if spec.SPKI == nil {
		var err error
		if spec.SPKI, err = der.EncodePublicKey(key.Public()); err != nil {
			t.Fatal(err)
		}
	}
	info, err := der.AppendRequestInfo(nil, spec)
	if err != nil {
		t.Fatal(err)
	}
	return SignCSR(t, key, info)
}

// SignCSR signs a CertificationRequestInfo, well-formed or not.
func SignCSR(t testing.TB, key crypto.Signer, info []byte) []byte {
	t.Helper()
	algorithm, err := der.AlgorithmFor(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	signature, err := key.Sign(rand.Reader, algorithm.Digest(info), algorithm.Hash())
	if err != nil {
		t.Fatal(err)
	}
	return der.Wrap(nil, info, algorithm, signature)
}

// Record returns every entry of the record, the oldest first.
func (p *Platform) Record(t testing.TB) []audit.Indexed {
	t.Helper()
	if err := p.Audit.Sequence(t.Context()); err != nil {
		t.Fatalf("sequencing the record: %v", err)
	}
	var all []audit.Indexed
	for {
		q := audit.Query{Limit: 500}
		if len(all) > 0 {
			q.After = all[len(all)-1].Index + 1
		}
		page, err := p.Audit.List(t.Context(), Operator(), q)
		if err != nil {
			t.Fatalf("reading the record: %v", err)
		}
		if len(page) == 0 {
			return all
		}
		all = append(all, page...)
	}
}
