package bench

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"runtime"
	"time"

	"mooring/internal/app"
	"mooring/internal/base/conf"
	"mooring/internal/core/ca"
	"mooring/wire/der"
)

// rounds of Issue, each measuring all three, so that a busy minute hits all alike.
const issueRounds = 11

// Issue measures the making of a device's certificate, from profile and request to signed DER, without TLS and store: against one
// ecdsa.SignASN1 and against x509.CreateCertificate. n is the number of certificates in each of 11 rounds.
func Issue(ctx context.Context, n int, print func(Line) error) (err error) {
	dir, err := os.MkdirTemp("", "mooring-bench-")
	if err != nil {
		return fmt.Errorf("making a directory: %w", err)
	}
	defer os.RemoveAll(dir)
	c := conf.Default()
	if _, err := app.Init(ctx, app.InitOptions{Dir: dir + "/data", Config: c}); err != nil {
		return err
	}
	p, err := app.Open(ctx, app.Options{Config: c})
	if err != nil {
		return err
	}
	defer p.Close()
	ours, err := oursOf(ctx, p)
	if err != nil {
		return err
	}
	theirs, sign, err := standard()
	if err != nil {
		return err
	}
	var cost [3][]float64
	var wall [3]time.Duration
	for range issueRounds {
		for k, do := range []func() error{sign, ours, theirs} {
			runtime.GC()
			began, before := time.Now(), cpuSelf()
			for range n {
				if err := do(); err != nil {
					return err
				}
			}
			cost[k] = append(cost[k], micros(cpuSelf()-before, n))
			wall[k] += time.Since(began)
		}
	}
	line := func(name string, k, floor int) Line {
		ratios := make([]float64, issueRounds)
		for i := range ratios {
			ratios[i] = cost[k][i] / cost[floor][i]
		}
		return Line{Bench: "issue", Case: name, N: n * issueRounds, PerS: float64(n*issueRounds) / wall[k].Seconds(), CPU: median(cost[k]), Floor: median(cost[floor]),
			Ratio: median(ratios), RSS: rssOf(os.Getpid())}
	}
	for _, l := range []Line{
		line("ecdsa.SignASN1", 0, 0),
		line("x509.CreateCertificate over ecdsa.SignASN1", 2, 0),
		line("mooring over ecdsa.SignASN1", 1, 0),
		line("mooring over x509.CreateCertificate", 1, 2),
	} {
		if err := print(l); err != nil {
			return err
		}
	}
	return nil
}

// oursOf issues by the default profile of devices, from one parsed request.
func oursOf(ctx context.Context, p *app.Platform) (func() error, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	raw, err := certificationRequest("meter-000001", key)
	if err != nil {
		return nil, err
	}
	request, err := der.ParseRequest(raw)
	if err != nil {
		return nil, err
	}
	profile, err := p.CA.Profile("device")
	if err != nil {
		return nil, err
	}
	order := ca.Order{Profile: profile, Device: [16]byte{1}, Cell: 7, Request: request, Registry: ca.Values{ID: "01000000000000000000000000000000", Name: "meter-000001"}}
	return func() error {
		prepared, err := p.CA.Prepare(ctx, order)
		if err != nil {
			return err
		}
		_, err = prepared.Sign(ctx)
		return err
	}, nil
}

// standard returns x509.CreateCertificate for a certificate of the same contents, and the bare signature.
func standard() (create, sign func() error, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	parent := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{"Mooring"}, CommonName: "Mooring Devices G1"}, SubjectKeyId: make([]byte, 20),
		NotBefore: now, NotAfter: now.Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	leaf := &x509.Certificate{SerialNumber: new(big.Int).SetBytes([]byte("A234567890123456")), Subject: pkix.Name{CommonName: "meter-000001"}, NotBefore: now, NotAfter: now.Add(90 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, SubjectKeyId: make([]byte, 20),
		URIs:       []*url.URL{{Scheme: "urn", Opaque: "mooring:device:01000000000000000000000000000000"}},
		OCSPServer: []string{"http://localhost:8080/ocsp"}, IssuingCertificateURL: []string{"http://localhost:8080/ca/0000000000000000.cer"},
		CRLDistributionPoints: []string{"http://localhost:8080/crl/0000000000000000.crl"}}
	digest := sha256.Sum256([]byte("what is signed"))
	create = func() error {
		_, err := x509.CreateCertificate(rand.Reader, leaf, parent, key.Public(), key)
		return err
	}
	sign = func() error {
		_, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
		return err
	}
	return create, sign, nil
}

// certificationRequest returns a PKCS#10 request for key under the name.
func certificationRequest(name string, key crypto.Signer) ([]byte, error) {
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
}
