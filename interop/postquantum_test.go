//go:build interop

package interop

import (
	"encoding/pem"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/mldsa"

	"mooring/wire/der"
)

var update = flag.Bool("update", false, "rewrite the vectors that OpenSSL has verified")

// vectors are the files that tests of ca read where there is no OpenSSL.
const vectors = "../internal/core/ca/testdata/mldsa"

// modern puts an OpenSSL that knows ML-DSA, 3.5 or newer, in the place of the machine's.
func (s *site) modern(t *testing.T) {
	t.Helper()
	path := os.Getenv("OPENSSL35")
	if path == "" {
		t.Fatal("this test needs OpenSSL 3.5 or newer: run \"make interop\", or set OPENSSL35 to what .ci/openssl35 prints")
	}
	dir := t.TempDir()
	if err := os.Symlink(path, filepath.Join(dir, "openssl")); err != nil {
		t.Fatal(err)
	}
	s.env["PATH"] = dir + string(os.PathListSeparator) + os.Getenv("PATH")
}

// TestInteropPostQuantum does what doc/post-quantum.md says, and goes on from there.
func TestInteropPostQuantum(t *testing.T) {
	engines(t, func(t *testing.T, database string) {
		s := newSite(t)
		s.modern(t)
		s.follow(t, database, "../doc/post-quantum.md", 7)
		t.Run("zlint", func(t *testing.T) {
			for _, name := range []string{"pq-root.pem", "pq-devices.pem", "pump-1.pem"} {
				block, _ := pem.Decode(s.read(t, name))
				lintCertificate(t, block.Bytes)
			}
			lintList(t, s.read(t, "pump-1.crl"))
		})
		t.Run("revoked", func(t *testing.T) { s.revokePump(t) })
		t.Run("mixed", func(t *testing.T) { s.mixed(t) })
		t.Run("keys and requests of ours", func(t *testing.T) { s.ours(t) })
		if *update && database == "" {
			s.record(t)
		}
	})
}

// revokePump revokes the page's device, which list and OCSP must tell.
func (s *site) revokePump(t *testing.T) {
	s.sh(t, `curl -sSf "$STATUS/crl/$(mooring ca show pq-root | sed -n 's/^ID: *//p').crl" | openssl crl -inform DER -out root.crl.pem
openssl crl -in root.crl.pem -noout -verify -CAfile pq-root.pem
openssl crl -inform DER -in pump-1.crl -out pump-1.crl.pem
cat root.crl.pem pump-1.crl.pem > lists.pem
openssl verify -x509_strict -crl_check_all -extended_crl -CRLfile lists.pem -CAfile pq-root.pem -untrusted pq-devices.pem pump-1.pem
mooring cert revoke "$(openssl x509 -in pump-1.pem -noout -serial | sed 's/.*=//')" --reason keyCompromise
CRL=$(openssl x509 -in pump-1.pem -noout -ext crlDistributionPoints | sed -n 's/.*URI://p')
curl -sSf -H 'Cache-Control: no-cache' "$CRL" | openssl crl -inform DER -out pump-1.crl.pem
openssl crl -in pump-1.crl.pem -noout -verify -CAfile pq-devices.pem
cat root.crl.pem pump-1.crl.pem > lists.pem`)
	out, err := s.try(t, `openssl verify -crl_check_all -extended_crl -CRLfile lists.pem -CAfile pq-root.pem -untrusted pq-devices.pem pump-1.pem`)
	if err == nil || !strings.Contains(out, "certificate revoked") {
		t.Errorf("openssl verify of a revoked certificate: %v\n%s", err, out)
	}
	out = s.sh(t, `openssl ocsp -issuer pq-devices.pem -cert pump-1.pem -CAfile pq-root.pem -url "$(openssl x509 -in pump-1.pem -noout -ocsp_uri)" -respout revoked.ocsp`)
	if !strings.Contains(out, "Response verify OK") || !strings.Contains(out, "pump-1.pem: revoked") {
		t.Errorf("openssl ocsp:\n%s", out)
	}
}

// mixed enrols with an ML-DSA key under a chain of an elliptic-curve root and an ML-DSA CA, and of the reverse.
func (s *site) mixed(t *testing.T) {
	s.sh(t, `mooring ca create mixed-down --parent root --subject "CN=Mixed Down,O=Acme" --algorithm ml-dsa-44 --validity 3650d -q
mooring ca create mixed-up --parent pq-root --subject "CN=Mixed Up,O=Acme" --algorithm ec-p384 --validity 3650d -q
mooring ca export mixed-down -o mixed-down.pem
mooring ca export mixed-up -o mixed-up.pem
openssl verify -x509_strict -CAfile root.pem mixed-down.pem
openssl verify -x509_strict -CAfile pq-root.pem mixed-up.pem
curl -sSf --cacert root.pem "$EST/.well-known/est/cacerts" | openssl base64 -d | openssl pkcs7 -inform DER -print_certs -out all.pem
openssl verify -x509_strict -CAfile pq-root.pem -untrusted all.pem mixed-up.pem`)
	for _, name := range []string{"mixed-down.pem", "mixed-up.pem"} {
		block, _ := pem.Decode(s.read(t, name))
		lintCertificate(t, block.Bytes)
	}
}

// ours has OpenSSL read private keys and verify requests that our own encoder made.
func (s *site) ours(t *testing.T) {
	for name, set := range map[string]mldsa.Parameters{"44": mldsa.MLDSA44(), "65": mldsa.MLDSA65()} {
		key, err := mldsa.GenerateKey(set)
		if err != nil {
			t.Fatal(err)
		}
		pkcs8, err := der.EncodePrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		spki, err := der.EncodePublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		info, err := der.AppendRequestInfo(nil, der.RequestSpec{SPKI: spki, Subject: []der.Attribute{{Type: der.OIDCommonName, Value: "pump"}}})
		if err != nil {
			t.Fatal(err)
		}
		algorithm, err := der.AlgorithmFor(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		signature, err := key.Sign(nil, info, nil)
		if err != nil {
			t.Fatal(err)
		}
		s.write(t, "ours.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
		s.write(t, "ours.csr", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der.Wrap(nil, info, algorithm, signature)})))
		out := s.sh(t, `openssl req -in ours.csr -verify -noout
openssl req -in ours.csr -pubkey -noout | diff - <(openssl pkey -in ours.key -pubout)
openssl req -in ours.csr -noout -text`)
		if !strings.Contains(out, "verify OK") || !strings.Contains(out, "ML-DSA-"+name) {
			t.Errorf("openssl req of ours:\n%s", out)
		}
	}
	out, err := s.try(t, `openssl pkey -in pump-1.seed -noout -text | grep -A3 seed`)
	if err != nil {
		t.Errorf("openssl pkey: %v\n%s", err, out)
	}
}

// record keeps what OpenSSL has verified above.
func (s *site) record(t *testing.T) {
	t.Helper()
	for _, name := range []string{"pq-root.pem", "pq-devices.pem", "pump-1.pem", "root.crl.pem", "pump-1.crl.pem", "mixed-up.pem", "mixed-down.pem", "root.pem"} {
		if err := os.WriteFile(filepath.Join(vectors, name), s.read(t, name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
