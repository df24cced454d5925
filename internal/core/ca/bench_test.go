package ca_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"slices"
	"testing"
	"time"

	"mooring/internal/core/key"
	"mooring/wire/der"
)

// BenchmarkIssue measures Prepare and Sign against one bare signature and against crypto/x509, in turns, so that what else the machine does
// falls on all three alike. The metric "of-signature" is the one to watch: 1.25 is the target.
func BenchmarkIssue(b *testing.B) {
	f := newFixture(b)
	f.hierarchy(b)
	k := newKey(b, key.P256).(*ecdsa.PrivateKey)
	order := f.order(b, "device", request(b, k, der.RequestSpec{Subject: dn(b, "CN=pump-17")}))
	issue(b, f.Authority, order)
	devices, _ := f.Issuer("devices")
	uri, _ := url.Parse("urn:mooring:device:00112233445566778899aabbccddeeff")
	spec := &x509.Certificate{SerialNumber: big.NewInt(1 << 60), Subject: pkix.Name{CommonName: "pump-17"}, NotBefore: time.Unix(start, 0),
		NotAfter: time.Unix(start+90*86400, 0), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs: []*url.URL{uri}, CRLDistributionPoints: []string{"http://pki.test/crl/0011223344556677.crl"}, OCSPServer: []string{"http://pki.test/ocsp"}}
	signer, err := f.keys.Signer(b.Context(), devices.Key())
	if err != nil {
		b.Fatal(err)
	}
	digest := sha256.Sum256([]byte("tbs"))

	const round = 64                   // one of these issues is verified
	var bare, ours, standard []float64 // µs each, by round
	since := func(t time.Time) float64 { return float64(time.Since(t).Nanoseconds()) / 1000 / round }
	for b.Loop() {
		t := time.Now()
		for range round {
			if _, err := ecdsa.SignASN1(rand.Reader, k, digest[:]); err != nil {
				b.Fatal(err)
			}
		}
		bare = append(bare, since(t))
		t = time.Now()
		for range round {
			p, err := f.Prepare(b.Context(), order)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := p.Sign(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		ours = append(ours, since(t))
		t = time.Now()
		for range round {
			if _, err := x509.CreateCertificate(rand.Reader, spec, devices.Certificate(), k.Public(), signer); err != nil {
				b.Fatal(err)
			}
		}
		standard = append(standard, since(t))
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(quiet(bare), "µs/signature")
	b.ReportMetric(quiet(ours), "µs/issue")
	b.ReportMetric(quiet(standard), "µs/x509")
	b.ReportMetric(quiet(ours)/quiet(bare), "of-signature")
}

// quiet returns the lower quartile: on a shared machine many rounds are interrupted, and none is ever faster than it can be.
func quiet(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/4]
}

// BenchmarkPrepare is the part of an issue that is ours.
func BenchmarkPrepare(b *testing.B) {
	f := newFixture(b)
	f.hierarchy(b)
	order := f.order(b, "device", request(b, newKey(b, key.P256), der.RequestSpec{Subject: dn(b, "CN=pump-17")}))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.Prepare(b.Context(), order); err != nil {
			b.Fatal(err)
		}
	}
}
