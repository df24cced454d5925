package ea

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"strings"
	"testing"
	"time"
)

// BFK-5: what an X.509 certificate lacks to be an enrolment credential (TS 102 941, 6.1.3.1), a row for each rule.
func TestBFK5Credential509(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	oid := func(numbers ...uint64) x509.OID {
		o, err := x509.OIDFromInts(numbers)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	name := func(attributes ...string) (n pkix.Name) { // C, O and CN, as often as each is named
		types := map[string]asn1.ObjectIdentifier{"C": {2, 5, 4, 6}, "O": {2, 5, 4, 10}, "CN": {2, 5, 4, 3}}
		for _, a := range attributes {
			kind, value, _ := strings.Cut(a, "=")
			n.ExtraNames = append(n.ExtraNames, pkix.AttributeTypeAndValue{Type: types[kind], Value: value})
		}
		return n
	}
	good := []string{"C=DE", "O=Acme", "CN=car-1"}
	critical := func(id ...int) func(*x509.Certificate) {
		return func(x *x509.Certificate) {
			for i := range x.Extensions {
				x.Extensions[i].Critical = x.Extensions[i].Critical || x.Extensions[i].Id.Equal(id)
			}
		}
	}
	const names, issuers = "its subject has not one country", "its issuer has not one country"
	for _, row := range []struct {
		name   string
		change func(x, issuer *x509.Certificate)
		after  func(*x509.Certificate)
		want   string // "": nothing is lacking
	}{
		{"as it should be", nil, nil, ""},
		{"version 1", nil, func(x *x509.Certificate) { x.Version = 1 }, "version 3"},
		{"no country", func(x, _ *x509.Certificate) { x.Subject = name("O=Acme", "CN=car-1") }, nil, names},
		{"two countries", func(x, _ *x509.Certificate) { x.Subject = name("C=DE", "C=AT", "O=Acme", "CN=car-1") }, nil, names},
		{"two organisations", func(x, _ *x509.Certificate) { x.Subject = name("C=DE", "O=Acme", "O=Bcme", "CN=car-1") }, nil, names},
		{"no common name", func(x, _ *x509.Certificate) { x.Subject = name("C=DE", "O=Acme") }, nil, names},
		{"two common names", func(x, _ *x509.Certificate) { x.Subject = name("C=DE", "O=Acme", "CN=car-1", "CN=car-2") }, nil, names},
		{"issuer without organisation", func(_, issuer *x509.Certificate) { issuer.Subject = name("C=DE", "CN=cars") }, nil, issuers},
		{"issuer with two common names", func(_, issuer *x509.Certificate) { issuer.Subject = name("C=DE", "O=Acme", "CN=cars", "CN=lorries") }, nil, issuers},
		{"no key of the issuer", func(_, issuer *x509.Certificate) { issuer.SubjectKeyId = nil }, nil, "by which key"},
		{"signatures alone", func(x, _ *x509.Certificate) { x.KeyUsage = x509.KeyUsageDigitalSignature }, nil, "digital signatures and content commitment"},
		{"one use more", func(x, _ *x509.Certificate) { x.KeyUsage |= x509.KeyUsageKeyAgreement }, nil, "digital signatures and content commitment"},
		{"no policy", func(x, _ *x509.Certificate) { x.Policies = nil }, nil, "certificate policy"},
		{"a policy of a great number", func(x, _ *x509.Certificate) { x.Policies = []x509.OID{oid(2, 25, 1<<40)} }, nil, ""},
		{"critical policy", nil, critical(2, 5, 29, 32), "certificate policy"},
		{"neither CRL nor OCSP", func(x, _ *x509.Certificate) { x.CRLDistributionPoints, x.OCSPServer = nil, nil }, nil, "revoked"},
		{"CRL alone", func(x, _ *x509.Certificate) { x.OCSPServer = nil }, nil, ""},
		{"CRL by LDAP", func(x, _ *x509.Certificate) {
			x.OCSPServer, x.CRLDistributionPoints = nil, []string{"ldap://ca.test/crl"}
		}, nil, ""},
		{"CRL by HTTPS alone", func(x, _ *x509.Certificate) {
			x.OCSPServer, x.CRLDistributionPoints = nil, []string{"https://ca.test/crl"}
		}, nil, "revoked"},
		{"critical CRL", nil, critical(2, 5, 29, 31), "revoked"},
		{"OCSP alone", func(x, _ *x509.Certificate) { x.CRLDistributionPoints, x.IssuingCertificateURL = nil, nil }, nil, ""},
		{"nowhere to ask", func(x, _ *x509.Certificate) { x.OCSPServer, x.IssuingCertificateURL = nil, nil }, nil, "where to ask"},
	} {
		issuer := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: name("C=DE", "O=Acme", "CN=cars"), SubjectKeyId: []byte{1, 2, 3}}
		x := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: name(good...), NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<31, 0),
			KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment, Policies: []x509.OID{oid(1, 2, 3, 4)},
			CRLDistributionPoints: []string{"http://ca.test/crl"}, OCSPServer: []string{"http://ca.test/ocsp"}, IssuingCertificateURL: []string{"http://ca.test/cars.der"}}
		if row.change != nil {
			row.change(x, issuer)
		}
		b, err := x509.CreateCertificate(rand.Reader, x, issuer, &key.PublicKey, key)
		if err != nil {
			t.Fatalf("%s: %v", row.name, err)
		}
		read, err := x509.ParseCertificate(b)
		if err != nil {
			t.Fatalf("%s: %v", row.name, err)
		}
		if row.after != nil {
			row.after(read)
		}
		if got := Credential509(read); (got == "") != (row.want == "") || !strings.Contains(got, row.want) {
			t.Errorf("%s: got %q, want %q", row.name, got, row.want)
		}
	}
}
