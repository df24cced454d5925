package der_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"testing"

	"mooring/wire/der"
)

// The price of a request is that of BenchmarkVerify, which nothing can avoid, and of reading.
func BenchmarkVerify(b *testing.B) {
	key := newEC(b, elliptic.P256())
	digest := sha256.Sum256(nil)
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if !ecdsa.VerifyASN1(&key.PublicKey, digest[:], signature) {
			b.Fatal("no match")
		}
	}
}

func BenchmarkParseRequest(b *testing.B) {
	csr := standardRequest(b, newEC(b, elliptic.P256()))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := der.ParseRequest(csr); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseRequestAndCheck(b *testing.B) {
	csr := standardRequest(b, newEC(b, elliptic.P256()))
	b.ReportAllocs()
	for b.Loop() {
		r, err := der.ParseRequest(csr)
		if err != nil {
			b.Fatal(err)
		}
		if err := r.CheckSignature(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendTBS(b *testing.B) {
	template, v := hotPath(b)
	buffer := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := template.AppendTBS(buffer, v); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendCRLEntry(b *testing.B) {
	serial := bytes.Repeat([]byte{0x41}, 16)
	buffer := make([]byte, 0, 64)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := der.AppendCRLEntry(buffer, serial, 1_700_000_000, 1); err != nil {
			b.Fatal(err)
		}
	}
}
