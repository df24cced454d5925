package ca_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/ceremony"
	"mooring/internal/core/key"
	"mooring/wire/der"
)

const years = 365 * 86400

// offline makes an offline root of the same clock.
func (f *fixture) offline(t *testing.T, subject string) *ceremony.Root {
	t.Helper()
	dir := t.TempDir()
	keys, err := key.Create(filepath.Join(dir, "keys"), []byte("correct horse battery"), key.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := ceremony.Create(t.Context(), filepath.Join(dir, "root"), keys, ceremony.Spec{Subject: dn(t, subject), Algorithm: key.P384, Validity: 30 * years, PathLen: 2},
		ceremony.Deps{Now: func() time.Time { return time.Unix(*f.now, 0) }, By: "Alice"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func certify(t *testing.T, r *ceremony.Root, csr []byte) []byte {
	t.Helper()
	q, err := r.Review(csr, ceremony.Order{Validity: 10 * years})
	if err != nil {
		t.Fatal(err)
	}
	m, err := r.Sign(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return m.DER
}

func (f *fixture) wantSound(t *testing.T) {
	t.Helper()
	report, err := f.audit.Verify(t.Context(), audit.VerifyOptions{Checkers: []audit.Checker{f.Checker()}})
	if err != nil || len(report.Findings) > 0 {
		t.Errorf("the record: %v, %v", report.Findings, err)
	}
}

// TestCAOfAnOfflineRoot asks, has it signed, imports, and issues.
func TestCAOfAnOfflineRoot(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	root := f.offline(t, "O=Acme, CN=Acme Root G1")
	p, err := f.Request(ctx, admin, ca.Spec{Name: "devices", Subject: dn(t, "O=Acme, CN=Acme Devices G1"), Algorithm: key.P256, Shards: 4})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Request(ctx, admin, ca.Spec{Name: "devices", Subject: dn(t, "O=Acme, CN=Acme Devices G1"), Algorithm: key.P256}); !errs.Is(err, errs.Conflict) {
		t.Errorf("a second request: %v", err)
	}
	f.wantSound(t)
	cert := certify(t, root, p.Request)
	f.Authority = f.reopen(t) // the request survives
	got, err := f.Import(ctx, admin, ca.Import{Name: "devices", Chain: [][]byte{root.Certificate().Raw, cert}, Record: root.Record().Text()})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Issuers) != 2 || got.Issuers[0].Name() != "devices" || got.Issuers[0].Shards() != 4 || got.Issuers[0].Offline() || got.Issuers[1].Name() != "acme-root-g1" || !got.Issuers[1].Offline() || got.Entries != 2 {
		t.Errorf("imported %+v, %d entries", got.Issuers, got.Entries)
	}
	if left, err := f.Requests(ctx, admin); err != nil || len(left) != 0 {
		t.Errorf("requests that wait: %v, %v", left, err)
	}
	f.Authority = f.reopen(t)
	leaf := issue(t, f.Authority, f.order(t, "device", request(t, newKey(t, key.P256), der.RequestSpec{})))
	f.verify(t, leaf.DER, x509.ExtKeyUsageClientAuth)
	if _, err := f.Create(ctx, admin, ca.Spec{Name: "more", Parent: "acme-root-g1", Subject: dn(t, "CN=x"), Algorithm: key.P256, Validity: years}); !errs.Is(err, errs.Unavailable) {
		t.Errorf("a CA below an offline root: %v", err)
	}
	// A later ceremony.
	if _, err := root.SignCRL(ctx, years); err != nil {
		t.Fatal(err)
	}
	if _, n, err := f.ImportRecord(ctx, admin, root.Record().Text()); err != nil || n != 1 {
		t.Errorf("%d entries are new, %v", n, err)
	}
	if _, n, err := f.ImportRecord(ctx, admin, root.Record().Text()); err != nil || n != 0 {
		t.Errorf("%d entries are new the second time, %v", n, err)
	}
	other := f.offline(t, "O=Acme, CN=Acme Root G9")
	if _, _, err := f.ImportRecord(ctx, admin, other.Record().Text()); !errs.Is(err, errs.NotFound) {
		t.Errorf("the record of a root that is not known: %v", err)
	}
	f.wantSound(t)
	for _, row := range []struct{ name, sql, want string }{
		{"ceremony", `UPDATE ca_ceremony SET entries = entries - 1`, "table ca_ceremony"},
		{"root", `UPDATE ca_issuer SET key = 'mine' WHERE name = 'acme-root-g1'`, `CA "acme-root-g1"`},
	} {
		f.behind(t, row.sql)
		report, err := f.audit.Verify(ctx, audit.VerifyOptions{Checkers: []audit.Checker{f.Checker()}})
		if err != nil || len(report.Findings) == 0 || !strings.Contains(report.Findings[0].String(), row.want) {
			t.Errorf("%s: %v, %v", row.name, report.Findings, err)
		}
	}
}

// TestImportsThatAreRefused has a foreign CA sign what it should not.
func TestImportsThatAreRefused(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	p, err := f.Request(ctx, admin, ca.Spec{Name: "devices", Subject: dn(t, "O=Acme, CN=Acme Devices G1"), Algorithm: key.P256})
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.ParseCertificateRequest(p.Request)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(*f.now, 0)
	signer := newKey(t, key.P256)
	self := x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Corporate Root"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(20 * years * time.Second), IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, MaxPathLen: 1, SubjectKeyId: []byte{1}}
	make509 := func(change func(root, leaf *x509.Certificate)) [][]byte {
		root := self
		leaf := x509.Certificate{SerialNumber: big.NewInt(2), RawSubject: csr.RawSubject, Subject: csr.Subject, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(10 * years * time.Second), IsCA: true, BasicConstraintsValid: true,
			MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature, SubjectKeyId: []byte{2}, AuthorityKeyId: []byte{1}}
		var pub crypto.PublicKey = csr.PublicKey
		change(&root, &leaf)
		if leaf.PublicKey != nil {
			pub = leaf.PublicKey
		}
		top, err := x509.CreateCertificate(rand.Reader, &root, &root, signer.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		parent, err := x509.ParseCertificate(top)
		if err != nil {
			t.Fatal(err)
		}
		below, err := x509.CreateCertificate(rand.Reader, &leaf, parent, pub, signer)
		if err != nil {
			t.Fatal(err)
		}
		return [][]byte{below, top}
	}
	same := func(root, leaf *x509.Certificate) {}
	changed := make509(same)
	changed[0] = bytes.Clone(changed[0])
	changed[0][len(changed[0])-1] ^= 1
	for _, row := range []struct {
		name, want string
		chain      [][]byte
	}{
		{"nothing", "give 1 to 16", nil},
		{"no certificate", "cannot be read", [][]byte{[]byte("x")}},
		{"without the root", "the chain is not whole", make509(same)[:1]},
		{"wrong signature", "the signature is wrong", changed},
		{"another key", "none of the certificates is for the key", make509(func(_, l *x509.Certificate) { l.PublicKey = newKey(t, key.P256).Public() })},
		{"another name", "under another name", make509(func(_, l *x509.Certificate) { l.RawSubject, l.Subject = nil, pkix.Name{CommonName: "Other"} })},
		{"no CA", "is not that of a CA", make509(func(_, l *x509.Certificate) { l.IsCA, l.MaxPathLenZero, l.BasicConstraintsValid = false, false, false })},
		{"no cRLSign", "keyUsage must have", make509(func(_, l *x509.Certificate) { l.KeyUsage = x509.KeyUsageCertSign })},
		{"path length of the root", "permits 0 tiers of CAs below it", make509(func(r, _ *x509.Certificate) { r.MaxPathLen, r.MaxPathLenZero = 0, true })},
		{"ended", "ended at", make509(func(_, l *x509.Certificate) { l.NotAfter = now.Add(-time.Minute) })},
		{"not yet valid", "is not valid before", make509(func(_, l *x509.Certificate) { l.NotBefore = now.Add(time.Hour) })},
		{"outliving the root", "is valid before or after", make509(func(_, l *x509.Certificate) { l.NotAfter = now.Add(30 * years * time.Second) })},
		{"limits on names", "nameConstraints", make509(func(_, l *x509.Certificate) {
			l.PermittedDNSDomains, l.PermittedDNSDomainsCritical = []string{"example.com"}, true
		})},
		{"unknown critical extension", "critical extensions", make509(func(_, l *x509.Certificate) {
			l.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
		})},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := f.Import(ctx, admin, ca.Import{Name: "devices", Chain: row.chain})
			if kind := errs.KindOf(err); kind != errs.Invalid || !strings.Contains(errs.Public(err), row.want) {
				t.Errorf("got %v, want a refusal with %q", err, row.want)
			}
		})
	}
	if all, err := f.Issuers(ctx, admin); err != nil || len(all) != 0 {
		t.Errorf("CAs after refused imports: %v, %v", all, err)
	}
	if _, err := f.Import(ctx, access.Actor{}, ca.Import{Name: "devices", Chain: make509(same)}); !errs.Is(err, errs.Denied) {
		t.Errorf("an import by somebody who may not: %v", err)
	}
	good := make509(same)
	if got, err := f.Import(ctx, admin, ca.Import{Name: "devices", Chain: good}); err != nil || len(got.Issuers) != 2 || got.Issuers[1].Name() != "corporate-root" {
		t.Errorf("a good chain: %+v, %v", got, err)
	}
	if _, err := f.Import(ctx, admin, ca.Import{Name: "again", Chain: good}); !errs.Is(err, errs.Conflict) {
		t.Errorf("the same once more: %v", err)
	}
	if err := f.Withdraw(ctx, admin, "devices"); !errs.Is(err, errs.NotFound) {
		t.Errorf("withdrawing what was imported: %v", err)
	}
	if _, err := f.Request(ctx, admin, ca.Spec{Name: "later", Subject: dn(t, "CN=Later"), Algorithm: key.P256}); err != nil {
		t.Fatal(err)
	}
	if err := f.Withdraw(ctx, admin, "later"); err != nil {
		t.Error(err)
	}
	f.wantSound(t)
}

// TestRootsVouchForEachOther: both roots here, and one of them elsewhere.
func TestRootsVouchForEachOther(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	f.hierarchy(t)
	before := f.Anchors("devices")
	*f.now += years
	second, err := f.Create(ctx, admin, ca.Spec{Name: "root-g2", Subject: dn(t, "O=Acme, CN=Acme Root G2"), Algorithm: key.P384, Validity: 30 * years, PathLen: 2})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Cross(ctx, admin, "root", "root-g2"); !errs.Is(err, errs.Invalid) || !strings.Contains(errs.Public(err), "no room") {
		t.Errorf("a root without room: %v", err)
	}
	third, err := f.Create(ctx, admin, ca.Spec{Name: "root-g3", Subject: dn(t, "O=Acme, CN=Acme Root G3"), Algorithm: key.P384, Validity: 40 * years, PathLen: 2})
	if err != nil {
		t.Fatal(err)
	}
	made, err := f.Cross(ctx, admin, "root-g2", "root-g3")
	if err != nil || len(made) != 2 {
		t.Fatalf("%v, %v", made, err)
	}
	for _, c := range made {
		if c.Shadowed() || c.Cert.NotAfter.After(second.Certificate().NotAfter) {
			t.Errorf("the cross certificate of %s is shadowed: %v, ends %s", c.Subject.Name(), c.Shadowed(), c.Cert.NotAfter)
		}
		if err := c.Issuer.CheckSignature(c.Cert); err != nil {
			t.Error(err)
		}
	}
	if _, err := f.Cross(ctx, admin, "root-g2", "root-g3"); !errs.Is(err, errs.Conflict) {
		t.Errorf("twice: %v", err)
	}
	f.Authority = f.reopen(t)
	if got := f.Crosses(); len(got) != 2 {
		t.Fatalf("%d cross certificates after a restart", len(got))
	}
	if got := f.Anchors("devices"); len(got) != len(before) {
		t.Errorf("a root that nobody vouches for is announced with others: %d certificates instead of %d", len(got), len(before))
	}
	want := [][]byte{made[0].Cert.Raw, made[1].Cert.Raw, second.Certificate().Raw, third.Certificate().Raw}
	if got := f.Anchors("root-g3"); len(got) != 4 || !contains(got, want...) || !contains(got[:2], want[:2]...) {
		t.Errorf("announced are %d certificates, want four, the cross certificates first", len(got))
	}
	// An offline root of a fourth generation.
	offline := f.offline(t, "O=Acme, CN=Acme Root G4")
	if _, err := f.Import(ctx, admin, ca.Import{Name: "root-g4", Chain: [][]byte{offline.Certificate().Raw}, Record: offline.Record().Text()}); err != nil {
		t.Fatal(err)
	}
	made, err = f.Cross(ctx, admin, "root-g3", "root-g4")
	if err != nil || len(made) != 1 || made[0].Issuer.Name() != "root-g3" {
		t.Fatalf("what is here cannot vouch for the offline root: %v, %v", made, err)
	}
	q, err := offline.ReviewRoot(third.Certificate().Raw)
	if err != nil {
		t.Fatal(err)
	}
	m, err := offline.Sign(ctx, q)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := f.ImportCross(ctx, admin, m.DER); err != nil || c.Subject.Name() != "root-g3" || c.Issuer.Name() != "root-g4" {
		t.Errorf("importing OldWithNew: %+v, %v", c, err)
	}
	if _, err := f.ImportCross(ctx, admin, m.DER); !errs.Is(err, errs.Conflict) {
		t.Errorf("importing it twice: %v", err)
	}
	if _, err := f.ImportCross(ctx, admin, offline.Certificate().Raw); !errs.Is(err, errs.Invalid) {
		t.Errorf("importing what is no cross certificate: %v", err)
	}
	if got := f.Anchors("root-g4"); len(got) != 7 {
		t.Errorf("three linked roots are announced by %d certificates, want 7", len(got))
	}
	devices, err := f.Create(ctx, admin, ca.Spec{Name: "devices-g3", Parent: "root-g3", Subject: dn(t, "O=Acme, CN=Acme Devices G3"), Algorithm: key.P256, Validity: years})
	if err != nil {
		t.Fatal(err)
	}
	ladder := f.Ladder(devices)
	if len(ladder) != 3 || contains(ladder, third.Certificate().Raw) || !bytes.Equal(ladder[0], devices.Certificate().Raw) {
		t.Errorf("the ladder has %d certificates, want the CA and two cross certificates, and never the root", len(ladder))
	}
	f.wantSound(t)
	f.behind(t, `DELETE FROM ca_cross`)
	report, err := f.audit.Verify(ctx, audit.VerifyOptions{Checkers: []audit.Checker{f.Checker()}})
	if err != nil || len(report.Findings) != 4 {
		t.Errorf("deleted cross certificates: %v, %v", report.Findings, err)
	}
}

func contains(all [][]byte, want ...[]byte) bool {
	for _, w := range want {
		found := false
		for _, c := range all {
			found = found || bytes.Equal(c, w)
		}
		if !found {
			return false
		}
	}
	return true
}

// behind changes the database without the record.
func (f *fixture) behind(t *testing.T, sql string) {
	t.Helper()
	err := f.db.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, sql)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
