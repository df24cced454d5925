//go:build interop

package voucher

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestInteropOpenSSL has openssl verify what we sign, and reads what it signs, with each kind of key.
func TestInteropOpenSSL(t *testing.T) {
	for _, kind := range []string{"P-256", "P-384", "RSA"} {
		t.Run(kind, func(t *testing.T) {
			dir, p := t.TempDir(), selfSigned(t, kind)
			write := func(name, label string, content []byte) {
				if label != "" {
					content = pem.EncodeToMemory(&pem.Block{Type: label, Bytes: content})
				}
				if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			pkcs8, err := x509.MarshalPKCS8PrivateKey(p.key)
			if err != nil {
				t.Fatal(err)
			}
			write("key.pem", "PRIVATE KEY", pkcs8)
			write("cert.pem", "CERTIFICATE", p.cert.Raw)
			openssl := func(args ...string) []byte {
				t.Helper()
				command := exec.Command("openssl", append([]string{"cms", "-binary", "-out", "out"}, args...)...)
				command.Dir = dir
				if text, err := command.CombinedOutput(); err != nil {
					t.Fatalf("openssl %q: %v\n%s", args, err, text)
				}
				out, err := os.ReadFile(filepath.Join(dir, "out"))
				if err != nil {
					t.Fatal(err)
				}
				return out
			}

			v := exampleVoucher(p)
			message, err := v.Sign(p.key, p.cert, nil, rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			write("voucher", "", message)
			want, err := v.encode()
			if err != nil {
				t.Fatal(err)
			}
			if got := openssl("-verify", "-inform", "DER", "-in", "voucher", "-CAfile", "cert.pem"); !bytes.Equal(got, want) {
				t.Errorf("openssl read %s, want %s", got, want)
			}

			r := exampleRequest(p)
			content, err := r.encode()
			if err != nil {
				t.Fatal(err)
			}
			write("request.json", "", content)
			for _, stream := range [][]string{nil, {"-stream"}} { // which is BER
				signed := openssl(append([]string{"-sign", "-nodetach", "-outform", "DER", "-econtent_type", OID.String(), "-md", map[string]string{"P-256": "sha256", "P-384": "sha384", "RSA": "sha256"}[kind],
					"-in", "request.json", "-signer", "cert.pem", "-inkey", "key.pem"}, stream...)...)
				got, err := ParseRequest(signed)
				if err != nil {
					t.Fatal(err)
				}
				if got.SerialNumber != r.SerialNumber || !bytes.Equal(got.Nonce, r.Nonce) || !got.Chain[0].Equal(p.cert) {
					t.Errorf("we read %+v", got.Request)
				}
			}
		})
	}
}

func selfSigned(t *testing.T, kind string) *party {
	t.Helper()
	var key crypto.Signer
	var err error
	switch kind {
	case "RSA":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "P-384":
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	default:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: kind}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true, IsCA: true}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return &party{cert, key}
}
