package ca_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"net/netip"
	"strings"
	"testing"
	"time"

	zx509 "github.com/zmap/zcrypto/x509"
	zlinter "github.com/zmap/zlint/v3"
	"github.com/zmap/zlint/v3/lint"
	"golang.org/x/mod/sumdb/note"

	"mooring/internal/base/db"
	"mooring/internal/base/db/dbtest"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/key"
	"mooring/internal/core/key/keytest"
	"mooring/wire/der"
)

const start = 1780000000 // a second in 2026

var admin = access.Actor{Kind: access.KindLocal, ID: "uid=0", Role: access.RoleAdmin, Via: "socket"}

// fixture is an authority on a real database and a real key store.
type fixture struct {
	*ca.Authority
	db    *db.DB
	audit *audit.Log
	keys  *key.Store
	now   *int64
	deps  ca.Deps // of the newest authority
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	keys, _ := keytest.Store(t)
	return newFixtureWith(t, keys)
}

func newFixtureWith(t testing.TB, keys *key.Store) *fixture {
	t.Helper()
	d := dbtest.Open(t, audit.Schema(), ca.Schema())
	secret, public, err := note.GenerateKey(rand.Reader, "test")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(secret)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := note.NewVerifier(public)
	if err != nil {
		t.Fatal(err)
	}
	now := int64(start)
	clock := func() time.Time { return time.Unix(now, 0) }
	f := &fixture{db: d, keys: keys, now: &now, audit: audit.New(d, audit.Options{Origin: "test", Signer: signer, Verifier: verifier, BatchKey: make([]byte, 32), Now: clock})}
	f.Authority = f.reopen(t)
	return f
}

// reopen is the same authority after a restart.
func (f *fixture) reopen(t testing.TB) *ca.Authority {
	t.Helper()
	profiles, err := ca.LoadProfiles(ca.DefaultProfiles())
	if err != nil {
		t.Fatal(err)
	}
	f.deps = ca.Deps{DB: f.db, Audit: f.audit, Access: access.NewDecider(f.audit), Keys: f.keys, Profiles: profiles,
		URLs: ca.URLs{CRL: "http://pki.test/crl", OCSP: "http://pki.test/ocsp", CAIssuers: "http://pki.test/ca"},
		Now:  func() time.Time { return time.Unix(*f.now, 0) }}
	a := ca.New(f.deps)
	if err := a.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	return a
}

func dn(t testing.TB, text string) []der.Attribute {
	t.Helper()
	name, err := der.ParseDN(text)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// hierarchy makes a root and the issuing CAs that the default profiles name.
func (f *fixture) hierarchy(t testing.TB) {
	t.Helper()
	specs := []ca.Spec{
		{Name: "root", Subject: dn(t, "O=Acme, CN=Acme Root G1"), Algorithm: key.P384, Forever: true, PathLen: 1},
		{Name: "devices", Parent: "root", Subject: dn(t, "O=Acme, CN=Acme Devices G1"), Algorithm: key.P256, Validity: 10 * 365 * 86400},
		{Name: "birth", Parent: "root", Subject: dn(t, "O=Acme, CN=Acme Birth G1"), Algorithm: key.P256, Forever: true},
		{Name: "services", Parent: "root", Subject: dn(t, "O=Acme, CN=Acme Services G1"), Algorithm: key.P256, Validity: 10 * 365 * 86400},
		{Name: "operators", Parent: "root", Subject: dn(t, "O=Acme, CN=Acme Operators G1"), Algorithm: key.Ed25519, Validity: 10 * 365 * 86400},
	}
	for _, s := range specs {
		if _, err := f.Create(t.Context(), admin, s); err != nil {
			t.Fatalf("creating CA %s: %v", s.Name, err)
		}
	}
}

func newKey(t testing.TB, alg key.Algorithm) crypto.Signer {
	t.Helper()
	k, err := key.New(alg)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func request(t testing.TB, k crypto.Signer, spec der.RequestSpec) *der.Request {
	t.Helper()
	var err error
	if spec.SPKI, err = der.EncodePublicKey(k.Public()); err != nil {
		t.Fatal(err)
	}
	info, err := der.AppendRequestInfo(nil, spec)
	if err != nil {
		t.Fatal(err)
	}
	algorithm, err := der.AlgorithmFor(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	signature, err := k.Sign(rand.Reader, algorithm.Digest(info), algorithm.Hash())
	if err != nil {
		t.Fatal(err)
	}
	r, err := der.ParseRequest(der.Wrap(nil, info, algorithm, signature))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func registry() ca.Values {
	return ca.Values{ID: strings.Repeat("ab", 16), Name: "pump-17", Group: "plant", Tags: map[string]string{"site": "north"},
		Names: der.AltNames{DNS: []string{"pump-17.example.com"}, IP: []netip.Addr{netip.MustParseAddr("192.0.2.17")}}}
}

func (f *fixture) order(t testing.TB, profile string, r *der.Request) ca.Order {
	t.Helper()
	p, err := f.Profile(profile)
	if err != nil {
		t.Fatal(err)
	}
	return ca.Order{Profile: p, Device: [16]byte{0xab}, Cell: 9, Registry: registry(), Request: r}
}

func issue(t testing.TB, a *ca.Authority, o ca.Order) *ca.Certificate {
	t.Helper()
	p, err := a.Prepare(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	c, err := p.Sign(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (f *fixture) record(t testing.TB, certs ...*ca.Certificate) {
	t.Helper()
	err := f.db.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		stmts := f.InsertStmts(tx, certs)
		for _, c := range certs {
			stmts = append(stmts, f.audit.Stmt(tx, c.Entry(access.Device("ab", "est"))))
		}
		return tx.Send(ctx, stmts...)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func parse(t testing.TB, raw []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// verify checks a certificate as a strict peer would: the path by crypto/x509, and the lints.
func (f *fixture) verify(t *testing.T, raw []byte, usage x509.ExtKeyUsage) *x509.Certificate {
	t.Helper()
	cert := parse(t, raw)
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	f.Each(func(i *ca.Issuer) {
		if i.Parent() == nil {
			roots.AddCert(i.Certificate())
			return
		}
		between.AddCert(i.Certificate())
	})
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: time.Unix(*f.now, 0), KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
		t.Errorf("x509.Verify: %v", err)
	}
	lints(t, raw)
	return cert
}

func lints(t *testing.T, raw []byte) {
	t.Helper()
	parsed, err := zx509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	registry, err := lint.GlobalRegistry().Filter(lint.FilterOptions{IncludeSources: lint.SourceList{lint.RFC5280, lint.RFC5480, lint.RFC8813, lint.RFC6960, lint.RFC3279, lint.RFC5891}})
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range zlinter.LintCertificateEx(parsed, registry).Results {
		if r.Status >= lint.Error {
			t.Errorf("zlint %s: %s %s", name, r.Status, r.Details)
		}
	}
}
