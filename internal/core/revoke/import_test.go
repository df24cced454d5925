package revoke

import (
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/internal/core/ceremony"
	"mooring/internal/core/key"
	"mooring/wire/der"
)

// TestAnImportedListTakesNothingBack: a root that was restored from a backup of before a revocation signs lists with higher numbers that know
// nothing of it.
func TestAnImportedListTakesNothingBack(t *testing.T) {
	w := newWorld(t)
	ctx, year := t.Context(), int64(365*86400)
	dir := t.TempDir()
	keys, err := key.Create(filepath.Join(dir, "keys"), []byte("correct horse battery"), key.Options{})
	must(t, err)
	deps := ceremony.Deps{Now: w.Now, By: "Alice"}
	name := func(text string) []der.Attribute { return []der.Attribute{{Type: der.OIDCommonName, Value: text}} }
	root, err := ceremony.Create(ctx, filepath.Join(dir, "root"), keys, ceremony.Spec{Subject: name("Acme Root"), Algorithm: key.P256, Validity: 20 * year, PathLen: 1}, deps)
	must(t, err)
	p, err := w.CA.Request(ctx, admin, ca.Spec{Name: "stolen", Subject: name("Acme Devices"), Algorithm: key.P256})
	must(t, err)
	q, err := root.Review(p.Request, ceremony.Order{Validity: 10 * year})
	must(t, err)
	cert, err := root.Sign(ctx, q)
	must(t, err)
	_, err = w.CA.Import(ctx, admin, ca.Import{Name: "stolen", Chain: [][]byte{cert.DER, root.Certificate().Raw}})
	must(t, err)
	backup := filepath.Join(dir, "backup")
	must(t, os.CopyFS(backup, os.DirFS(filepath.Join(dir, "root"))))

	leaf, err := x509.ParseCertificate(cert.DER)
	must(t, err)
	must(t, root.Revoke(ctx, fmt.Sprintf("%x", leaf.SerialNumber), "cACompromise"))
	list, err := root.SignCRL(ctx, year)
	must(t, err)
	issuer, published, err := w.ImportCRL(ctx, admin, list.DER)
	must(t, err)
	if stolen, err := w.CA.Issuer("stolen"); err != nil || w.CA.Barred(stolen) != stolen {
		t.Errorf("the CA that the list revokes goes on, %v", err)
	}
	must(t, root.Close())
	w.now.Add(60)

	old, err := ceremony.Open(backup, keys, deps)
	must(t, err)
	defer old.Close()
	forgetful, err := old.SignCRL(ctx, year)
	must(t, err)
	if forgetful.Number <= list.Number {
		t.Fatalf("the number %d is not higher than %d", forgetful.Number, list.Number)
	}
	if _, _, err := w.ImportCRL(ctx, admin, forgetful.DER); !errs.Is(err, errs.Conflict) {
		t.Errorf("a list without the revocation: %v, want Conflict", err)
	}
	if l, err := w.Service.CRL(ctx, issuer.ID(), ca.Complete); err != nil || l.Number != published.Number {
		t.Errorf("published is %d, %v, want %d", l.Number, err, published.Number)
	}
	w.now.Store(leaf.NotAfter.Add(time.Hour).Unix()) // an entry may leave with its certificate
	late, err := old.SignCRL(ctx, year)
	must(t, err)
	_, _, err = w.ImportCRL(ctx, admin, late.DER)
	must(t, err)
}
