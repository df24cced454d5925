package ca_test

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"strings"
	"testing"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/internal/core/key"
)

// TestAPathLengthTwoTiersUp: what is imported one by one is held to the path length of every CA above, as verifiers do.
func TestAPathLengthTwoTiersUp(t *testing.T) {
	f := newFixture(t)
	signer, now := newKey(t, key.P256), time.Unix(*f.now, 0)
	make509 := func(n byte, name string, pathLen int, by *x509.Certificate) *x509.Certificate {
		c := &x509.Certificate{SerialNumber: big.NewInt(int64(n)), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(years * time.Second), IsCA: true,
			BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte{n}, MaxPathLen: pathLen}
		if by == nil {
			by = c
		}
		raw, err := x509.CreateCertificate(rand.Reader, c, by, signer.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		made, err := x509.ParseCertificate(raw)
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	root := make509(1, "Top", 1, nil)
	middle := make509(2, "Middle", -1, root) // says nothing of its own
	lowest := make509(3, "Lowest", -1, middle)
	if _, err := f.Import(t.Context(), admin, ca.Import{Name: "middle", Chain: [][]byte{middle.Raw, root.Raw}}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Import(t.Context(), admin, ca.Import{Name: "lowest", Chain: [][]byte{lowest.Raw}}); !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "CN=Top permits 1 tiers of CAs below it, and there would be 2") {
		t.Errorf("a tier too many: got %v", err)
	}
}
