package acme_test

import (
	"context"
	"crypto/x509"
	"net/http"
	"strings"
	"testing"

	"mooring/internal/app/apptest"
	"mooring/internal/base/db"
	"mooring/internal/core/ca"
	"mooring/internal/core/key"
	"mooring/wire/acme"
	"mooring/wire/der"
)

// TestAlternateChains: when another root vouches for ours, a second chain leads to that.
func TestAlternateChains(t *testing.T) {
	t.Run("alternate chains", alternateChains)
}

func alternateChains(t *testing.T) {
	w := newWorld(t, nil)
	a, _ := w.bound(t, "gw-1", "trusted")
	if _, err := w.CA.Create(t.Context(), apptest.Operator(), ca.Spec{Name: "root-other", Subject: []der.Attribute{{Type: der.OIDCommonName, Value: "Other Root"}}, Algorithm: key.P256, Validity: 20 * 365 * 86400, PathLen: 2}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.CA.Cross(t.Context(), apptest.Operator(), "root-other", "root"); err != nil {
		t.Fatal(err)
	}
	url, chain := a.obtain(t, acme.NewOrder{Identifiers: identifiers("gw1.example.com")}, apptest.Key(t))
	r := a.post(t, url+"/certificate", nil)
	other := url + "/certificate/1"
	if !strings.Contains(strings.Join(r.Header.Values("Link"), ","), "<"+other+`>;rel="alternate"`) {
		t.Fatalf("the links are %v", r.Header.Values("Link"))
	}
	r = a.post(t, other, nil)
	alternate := decodePEM(t, r.Text)
	if r.StatusCode != http.StatusOK || len(alternate) != len(chain)+1 || !strings.Contains(strings.Join(r.Header.Values("Link"), ","), "<"+url+`/certificate>;rel="alternate"`) {
		t.Fatalf("got %d with %d certificates and the links %v", r.StatusCode, len(alternate), r.Header.Values("Link"))
	}
	root, err := w.CA.Issuer("root-other")
	if err != nil {
		t.Fatal(err)
	}
	trusted, between := x509.NewCertPool(), x509.NewCertPool()
	trusted.AddCert(root.Certificate())
	for _, raw := range alternate[1:] {
		between.AddCert(parse(t, raw))
	}
	if _, err := parse(t, alternate[0]).Verify(x509.VerifyOptions{Roots: trusted, Intermediates: between, CurrentTime: w.Clock.Now()}); err != nil {
		t.Errorf("the other chain does not lead to the other root: %v", err)
	}
	want(t, a.post(t, url+"/certificate/2", nil), http.StatusNotFound, "malformed")
	want(t, a.post(t, url+"/certificate/0", nil), http.StatusNotFound, "malformed")
}

// TestTampering: whoever writes into the tables, and not into the record, is found out.
func TestTampering(t *testing.T) {
	w := newWorld(t, nil)
	a, _ := w.bound(t, "gw-1", "validated")
	a.order(t, acme.NewOrder{Identifiers: identifiers("gw1.example.com")})
	want(t, a.post(t, a.url+"/orders", nil), http.StatusOK, "") // what is listed is in the table
	if r := w.Verify(t); len(r.Findings) > 0 {
		t.Fatalf("before: %v", r.Findings)
	}
	for name, change := range map[string]string{
		"account of another device":  `UPDATE acme_account SET device = id`,
		"account without a device":   `UPDATE acme_account SET device = substr(device, 1, 0)`,
		"account changed once more":  `UPDATE acme_account SET changed = changed + 1`,
		"name that nobody validated": `UPDATE acme_order SET authz = replace(authz, '"s":"pending"', '"s":"valid"')`,
	} {
		t.Run(name, func(t *testing.T) {
			before := w.dump(t)
			w.exec(t, change)
			if r := w.Verify(t); len(r.Findings) != 1 || r.Findings[0].Table != "acme" && !strings.Contains(r.Findings[0].Text, "acme_") {
				t.Errorf("found %v", r.Findings)
			}
			w.restore(t, before)
		})
	}
	if r := w.Verify(t); len(r.Findings) > 0 {
		t.Errorf("after: %v", r.Findings)
	}
}

func (w *world) exec(t *testing.T, text string, args ...any) {
	t.Helper()
	if err := w.DB.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, text, args...)
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// rows are what the test changes.
type rows struct {
	device  []byte
	changed int64
	authz   string
}

func (w *world) dump(t *testing.T) (r rows) {
	t.Helper()
	if err := w.DB.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		if _, err := tx.Get(ctx, []any{&r.device, &r.changed}, `SELECT device, changed FROM acme_account`); err != nil {
			return err
		}
		_, err := tx.Get(ctx, []any{&r.authz}, `SELECT authz FROM acme_order`)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return r
}

func (w *world) restore(t *testing.T, r rows) {
	t.Helper()
	w.exec(t, `UPDATE acme_account SET device = $1, changed = $2`, r.device, r.changed)
	w.exec(t, `UPDATE acme_order SET authz = $1`, r.authz)
}
