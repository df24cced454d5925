package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"os"

	"github.com/rogpeppe/go-internal/testscript"
)

// requests FILE NAME... writes a bundle of certification requests, each for a key of its own.
func requests(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("use: requests FILE NAME...")
	}
	f, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	for _, name := range args[1:] {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		ts.Check(err)
		csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
		ts.Check(err)
		ts.Check(pem.Encode(f, &pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}))
	}
	ts.Check(f.Close())
}
