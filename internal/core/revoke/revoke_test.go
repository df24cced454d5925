package revoke

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"mooring/internal/base/db"
	"mooring/internal/base/db/dbtest"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/key"
	"mooring/internal/core/key/keytest"
	"mooring/wire/der"
)

var (
	admin    = access.Actor{Kind: access.KindLocal, ID: "uid=0", Role: access.RoleAdmin, Via: "socket"}
	operator = access.Actor{Kind: access.KindOperator, ID: "bb", Role: access.RoleOperator, Via: "api"}
	auditor  = access.Actor{Kind: access.KindOperator, ID: "cc", Role: access.RoleAuditor, Via: "api"}
)

// world is the service on a real database, a real key store and real CAs.
type world struct {
	*Service
	url  string
	log  *audit.Log
	now  *atomic.Int64
	node func() *Service // another node of the same cluster
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldWith(t, func(*ca.Spec) {})
}

// newWorldWith lets change make the CAs different.
func newWorldWith(t testing.TB, change func(*ca.Spec)) *world {
	t.Helper()
	w := &world{now: &atomic.Int64{}, url: dbtest.URL(t)}
	w.now.Store(1_800_000_000)
	clock := func() time.Time { return time.Unix(w.now.Load(), 0) }
	skey, vkey, err := note.GenerateKey(rand.Reader, "test")
	must(t, err)
	signer, err := note.NewSigner(skey)
	must(t, err)
	verifier, err := note.NewVerifier(vkey)
	must(t, err)
	keys, _ := keytest.Store(t)
	profiles, err := ca.LoadProfiles(ca.DefaultProfiles())
	must(t, err)
	w.node = func() *Service {
		d := dbtest.OpenURL(t, w.url, audit.Schema(), device.Schema(), ca.Schema(), Schema())
		log := audit.New(d, audit.Options{Origin: "test", Signer: signer, Verifier: verifier, BatchKey: make([]byte, 32), Now: clock})
		decider := access.NewDecider(log)
		authority := ca.New(ca.Deps{DB: d, Audit: log, Access: decider, Keys: keys, Profiles: profiles, Now: clock,
			URLs: ca.URLs{CRL: "http://pki.test/crl", OCSP: "http://pki.test/ocsp", CAIssuers: "http://pki.test/ca"}})
		must(t, authority.Load(t.Context()))
		registry := device.New(device.Deps{DB: d, Audit: log, Access: decider, Key: bytes.Repeat([]byte{7}, 32), Now: clock,
			ProfileGrants: func(string) (bool, access.Role) { return true, access.RoleNone }})
		return New(Deps{DB: d, Audit: log, Access: decider, CA: authority, Devices: registry, Keys: keys, Now: clock})
	}
	w.Service = w.node()
	w.log = w.Audit
	dn := func(text string) []der.Attribute {
		name, err := der.ParseDN(text)
		must(t, err)
		return name
	}
	for _, s := range []ca.Spec{
		{Name: "root", Subject: dn("O=Acme, CN=Acme Root G1"), Algorithm: key.P384, Forever: true, PathLen: 1},
		{Name: "devices", Parent: "root", Subject: dn("O=Acme, CN=Acme Devices G1"), Algorithm: key.P256, Validity: 10 * 365 * 86400},
		{Name: "services", Parent: "root", Subject: dn("O=Acme, CN=Acme Services G1"), Algorithm: key.Ed25519, Validity: 10 * 365 * 86400},
	} {
		change(&s)
		_, err := w.CA.Create(t.Context(), admin, s)
		must(t, err)
	}
	return w
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) issuer(t testing.TB, name string) *ca.Issuer {
	t.Helper()
	i, err := w.CA.Issuer(name)
	must(t, err)
	return i
}

func (w *world) add(t testing.TB, name string) device.Device {
	t.Helper()
	d, err := w.Devices.Add(t.Context(), admin, device.Spec{Name: name, Profile: "device"})
	must(t, err)
	return d
}

// prepare signs a certificate for the device as it stands now; record is what enrolment does with it.
func (w *world) prepare(t testing.TB, id device.ID, prev []byte) (*ca.Certificate, device.Claim) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return w.prepareKey(t, id, prev, k)
}

// prepareKey is prepare for a key that the device has already.
func (w *world) prepareKey(t testing.TB, id device.ID, prev []byte, k *ecdsa.PrivateKey) (*ca.Certificate, device.Claim) {
	t.Helper()
	d, err := w.Devices.Load(t.Context(), id)
	must(t, err)
	spki, err := x509.MarshalPKIXPublicKey(k.Public())
	must(t, err)
	profile, err := w.CA.Profile("device")
	must(t, err)
	prepared, err := w.CA.Prepare(t.Context(), ca.Order{Profile: profile, Device: d.ID, Cell: d.Cell, Registry: ca.Values{ID: d.ID.String(), Name: d.Name}, SPKI: spki, PrevSerial: prev})
	must(t, err)
	c, err := prepared.Sign(t.Context())
	must(t, err)
	return c, device.Claim{ID: d.ID, Cell: d.Cell, Policy: d.Policy, Slot: c.Slot, Serial: c.Serial[:], Prev: prev, NotAfter: c.NotAfter, SPKI: c.SPKIHash[:], At: w.now.Load(), Issuer: c.Issuer[:], Key: "ec-p256"}
}

func (w *world) record(ctx context.Context, c *ca.Certificate, claim device.Claim) error {
	return w.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		claims := []device.Claim{claim}
		refused, err := w.Devices.ClaimTx(ctx, tx, claims)
		if err != nil {
			return err
		}
		if refused[0] != nil {
			return refused[0]
		}
		e := c.Entry(access.Device(claim.ID.String(), "est"))
		claims[0].Annotate(&e)
		stmts := append(w.Devices.SlotStmts(tx, claims), w.CA.InsertStmts(tx, []*ca.Certificate{c})...)
		return tx.Send(ctx, append(stmts, w.log.Stmt(tx, e))...)
	})
}

func (w *world) issue(t testing.TB, id device.ID, prev []byte) *ca.Certificate {
	t.Helper()
	c, claim := w.prepare(t, id, prev)
	must(t, w.record(t.Context(), c, claim))
	return c
}

// crl returns the published list after checking all that every list must have.
func (w *world) crl(t testing.TB, name string) *x509.RevocationList {
	t.Helper()
	return crlOf(t, w.Service, w.issuer(t, name))
}

func crlOf(t testing.TB, s *Service, i *ca.Issuer) *x509.RevocationList {
	t.Helper()
	published, err := s.CRL(t.Context(), i.ID(), ca.Complete)
	must(t, err)
	l, err := x509.ParseRevocationList(published.DER)
	must(t, err)
	must(t, l.CheckSignatureFrom(i.Certificate()))
	if !bytes.Equal(l.AuthorityKeyId, i.Certificate().SubjectKeyId) {
		t.Errorf("authority key identifier %x, want %x", l.AuthorityKeyId, i.Certificate().SubjectKeyId)
	}
	if l.Number.Int64() != published.Number || l.ThisUpdate.Unix() != published.ThisUpdate || l.NextUpdate.Unix() != published.NextUpdate {
		t.Errorf("number and times %d %d %d differ from those told: %+v", l.Number, l.ThisUpdate.Unix(), l.NextUpdate.Unix(), published)
	}
	for _, e := range l.Extensions {
		if e.Id.String() == "2.5.29.28" {
			t.Error("a list of everything that a CA revoked has an issuingDistributionPoint, which would keep it from certificates that name no such place")
		}
	}
	for _, e := range l.RevokedCertificateEntries {
		if e.RevocationTime.After(l.ThisUpdate) {
			t.Errorf("entry %x is later (%s) than its list (%s)", e.SerialNumber, e.RevocationTime, l.ThisUpdate)
		}
	}
	return l
}

func entryOf(l *x509.RevocationList, serial []byte) *x509.RevocationListEntry {
	for i, e := range l.RevokedCertificateEntries {
		if e.SerialNumber.Cmp(new(big.Int).SetBytes(serial)) == 0 {
			return &l.RevokedCertificateEntries[i]
		}
	}
	return nil
}

// verify replays the audit record against all tables.
func (w *world) verify(t testing.TB) []audit.Finding {
	t.Helper()
	report, err := w.log.Verify(t.Context(), audit.VerifyOptions{Checkers: []audit.Checker{w.Devices.Checker(), w.CA.Checker(), w.Checker()}})
	must(t, err)
	return report.Findings
}

func (w *world) sound(t testing.TB) {
	t.Helper()
	for _, f := range w.verify(t) {
		t.Errorf("verification: %s", f)
	}
}

func TestReasons(t *testing.T) {
	for _, r := range Reasons() {
		for _, text := range []string{r.String(), strings.ToUpper(r.String())} {
			if got, err := ParseReason(text); err != nil || got != r {
				t.Errorf("ParseReason(%q): got %v, %v, want %v", text, got, err, r)
			}
		}
	}
	if got, err := ParseReason("1"); err != nil || got != KeyCompromise {
		t.Errorf("ParseReason(1): got %v, %v", got, err)
	}
	for _, text := range []string{"7", "8", "removeFromCRL", "11", "stolen", "-1", "256"} {
		if _, err := ParseReason(text); !errs.Is(err, errs.Invalid) {
			t.Errorf("ParseReason(%q): got %v, want kind invalid", text, err)
		}
	}
}

func TestCertificate(t *testing.T) {
	w := newWorld(t)
	d := w.add(t, "pump")
	c := w.issue(t, d.ID, nil)
	before := w.crl(t, "devices")
	if len(before.RevokedCertificateEntries) != 0 {
		t.Fatalf("a new CA's list has entries: %v", before.RevokedCertificateEntries)
	}
	if bytes.Contains(before.RawTBSRevocationList, []byte("\x30\x00")) {
		t.Error("the empty list has an empty SEQUENCE: revokedCertificates must be absent")
	}

	if _, err := w.Certificate(t.Context(), auditor, c.Serial[:], KeyCompromise); !errs.Is(err, errs.Denied) {
		t.Errorf("an auditor revokes: got %v, want kind denied", err)
	}
	for _, r := range []Reason{7, 8, 11} {
		if _, err := w.Certificate(t.Context(), operator, c.Serial[:], r); !errs.Is(err, errs.Invalid) {
			t.Errorf("revoking for reason %d: got %v, want kind invalid", r, err)
		}
	}
	for _, serial := range [][]byte{nil, {1}, append([]byte{0x41}, make([]byte, 15)...), make([]byte, 500)} {
		if _, err := w.Certificate(t.Context(), operator, serial, KeyCompromise); !errs.Is(err, errs.NotFound) {
			t.Errorf("revoking %x: got %v, want kind notfound", serial, err)
		}
	}
	if _, is, err := w.Status(t.Context(), c.Serial[:]); err != nil || is {
		t.Errorf("status before: got %v, %v", is, err)
	}

	first, err := w.Certificate(t.Context(), operator, c.Serial[:], KeyCompromise)
	must(t, err)
	after := w.crl(t, "devices")
	if first.Already || first.Listed != after.Number.Int64() || after.Number.Cmp(before.Number) <= 0 {
		t.Errorf("got %+v, list %d after %d", first, after.Number, before.Number)
	}
	if e := entryOf(after, c.Serial[:]); e == nil || e.ReasonCode != 1 || e.RevocationTime.Unix() != w.now.Load() {
		t.Errorf("entry: got %+v", e)
	}
	if r, is, err := w.Status(t.Context(), c.Serial[:]); err != nil || !is || r.Reason != KeyCompromise || r.Device != d.ID {
		t.Errorf("status after: got %+v, %v, %v", r, is, err)
	}
	if got, err := w.Devices.Load(t.Context(), d.ID); err != nil || got.Slots[0].Revoked != w.now.Load() || got.Policy <= d.Policy {
		t.Errorf("the device is not marked: %+v, %v", got, err)
	}

	w.now.Add(100)
	again, err := w.Certificate(t.Context(), operator, c.Serial[:], Superseded)
	must(t, err)
	if !again.Already || again.Reason != KeyCompromise || again.At != first.At {
		t.Errorf("second revocation: got %+v, want the result of the first", again)
	}
	if l := w.crl(t, "devices"); l.Number.Cmp(after.Number) != 0 {
		t.Errorf("a revocation that changed nothing made list %d after %d", l.Number, after.Number)
	}
	if m := w.Metrics(); m.Revoked != 1 || m.Lists != 2 {
		t.Errorf("metrics: got %+v", m)
	}
	w.sound(t)
}

func TestHold(t *testing.T) {
	w := newWorld(t)
	d := w.add(t, "pump")
	c, other := w.issue(t, d.ID, nil), w.issue(t, w.add(t, "valve").ID, nil)
	_, err := w.Certificate(t.Context(), operator, other.Serial[:], Unspecified)
	must(t, err)
	held, err := w.Certificate(t.Context(), operator, c.Serial[:], CertificateHold)
	must(t, err)
	l := w.crl(t, "devices")
	if e := entryOf(l, c.Serial[:]); e == nil || e.ReasonCode != 6 {
		t.Errorf("entry of the hold: got %+v", e)
	}
	if e := entryOf(l, other.Serial[:]); e == nil || len(e.Extensions) != 0 {
		t.Errorf("entry for an unspecified reason: got %+v, want no reason extension", e)
	}
	w.now.Add(10)
	_, err = w.Release(t.Context(), operator, c.Serial[:])
	must(t, err)
	if l := w.crl(t, "devices"); entryOf(l, c.Serial[:]) != nil || entryOf(l, other.Serial[:]) == nil {
		t.Error("after the release the list must have the other entry only")
	}
	if _, is, err := w.Status(t.Context(), c.Serial[:]); err != nil || is {
		t.Errorf("status after the release: got %v, %v", is, err)
	}
	if _, err := w.Release(t.Context(), operator, c.Serial[:]); !errs.Is(err, errs.Conflict) {
		t.Errorf("second release: got %v, want kind conflict", err)
	}
	if _, err := w.Release(t.Context(), operator, other.Serial[:]); !errs.Is(err, errs.Conflict) {
		t.Errorf("release of what is revoked for good: got %v, want kind conflict", err)
	}
	w.now.Add(10)
	held, err = w.Certificate(t.Context(), operator, c.Serial[:], CertificateHold)
	must(t, err)
	w.now.Add(10)
	final, err := w.Certificate(t.Context(), operator, c.Serial[:], KeyCompromise)
	must(t, err)
	if final.Already || final.At != held.At {
		t.Errorf("a hold that becomes final: got %+v, want the time of the hold %d", final, held.At)
	}
	e := entryOf(w.crl(t, "devices"), c.Serial[:])
	if e == nil || e.ReasonCode != 1 || len(w.crl(t, "devices").RevokedCertificateEntries) != 2 {
		t.Errorf("entry: got %+v", e)
	}
	w.sound(t)
}

func TestDevice(t *testing.T) {
	w := newWorld(t)
	d := w.add(t, "pump")
	first := w.issue(t, d.ID, nil)
	second := w.issue(t, d.ID, first.Serial[:])
	third := w.issue(t, d.ID, nil) // by a token, as after the loss of the key: it leads to nothing older
	all := []*ca.Certificate{first, second, third}
	own, err := w.Certificate(t.Context(), operator, first.Serial[:], CertificateHold)
	must(t, err)

	steps := []struct {
		move   device.Move
		reason Reason
		n      int
		want   []Reason // of first, second, third; released = not on the list
	}{
		{device.Suspend, Unspecified, 2, []Reason{CertificateHold, CertificateHold, CertificateHold}},
		{device.Resume, Unspecified, 2, []Reason{CertificateHold, released, released}},
		{device.Suspend, CertificateHold, 2, []Reason{CertificateHold, CertificateHold, CertificateHold}},
		{device.Lose, Unspecified, 3, []Reason{KeyCompromise, KeyCompromise, KeyCompromise}},
		{device.Retire, Superseded, 0, []Reason{KeyCompromise, KeyCompromise, KeyCompromise}},
	}
	for i, step := range steps {
		w.now.Add(5)
		n, err := w.Device(t.Context(), operator, d.ID, step.move, step.reason)
		if err != nil || n != step.n {
			t.Fatalf("step %d, %s: got %d, %v, want %d", i, step.move, n, err, step.n)
		}
		l := w.crl(t, "devices")
		for j, c := range all {
			e := entryOf(l, c.Serial[:])
			if (e == nil) != (step.want[j] == released) || e != nil && e.ReasonCode != int(step.want[j]) {
				t.Errorf("step %d, %s, certificate %d: got %+v, want %s", i, step.move, j, e, step.want[j])
			}
		}
		w.sound(t)
	}
	if r, _, err := w.Status(t.Context(), first.Serial[:]); err != nil || r.At != own.At {
		t.Errorf("the hold from before: got %+v, %v, want its time %d", r, err, own.At)
	}
	if _, err := w.Device(t.Context(), operator, d.ID, device.Resume, Unspecified); !errs.Is(err, errs.Conflict) {
		t.Errorf("resuming a retired device: got %v, want kind conflict", err)
	}
	other := w.add(t, "valve")
	for _, bad := range []struct {
		actor  access.Actor
		move   device.Move
		reason Reason
		kind   errs.Kind
	}{
		{auditor, device.Lose, Unspecified, errs.Denied}, {operator, device.Suspend, KeyCompromise, errs.Invalid}, {operator, device.Resume, Superseded, errs.Invalid},
		{operator, device.Lose, CertificateHold, errs.Invalid}, {operator, device.Lose, 8, errs.Invalid}, {operator, device.Resume, Unspecified, errs.Conflict},
	} {
		if _, err := w.Device(t.Context(), bad.actor, other.ID, bad.move, bad.reason); !errs.Is(err, bad.kind) {
			t.Errorf("%s %s for %s: got %v, want kind %s", bad.actor, bad.move, bad.reason, err, bad.kind)
		}
	}
	w.sound(t)
}

// A renewal decided before the revocation is refused; one recorded before it is found and told of.
func TestRaceWithRenewal(t *testing.T) {
	w := newWorld(t)
	for _, reason := range []Reason{KeyCompromise, CertificateHold} {
		d := w.add(t, "pump-"+reason.String())
		c := w.issue(t, d.ID, nil)
		renewal, claim := w.prepare(t, d.ID, c.Serial[:])
		_, err := w.Certificate(t.Context(), operator, c.Serial[:], reason)
		must(t, err)
		if err := w.record(t.Context(), renewal, claim); !errs.Is(err, errs.Conflict) {
			t.Errorf("renewing with what was revoked for %s meanwhile: got %v, want kind conflict", reason, err)
		}
		if _, err := w.CA.Get(t.Context(), renewal.Serial[:]); !errs.Is(err, errs.NotFound) {
			t.Errorf("the refused renewal was recorded: %v", err)
		}
	}
	d := w.add(t, "valve")
	c := w.issue(t, d.ID, nil)
	newer := w.issue(t, d.ID, c.Serial[:])
	if r, err := w.Certificate(t.Context(), operator, c.Serial[:], KeyCompromise); err != nil || !bytes.Equal(r.Successor, newer.Serial[:]) {
		t.Errorf("got %+v, %v, want successor %x", r, err, newer.Serial)
	}

	// Both at once, many times: either the renewal is refused, or the loss of the device has revoked it too.
	var wg sync.WaitGroup
	for range 8 {
		d := w.add(t, "racer-"+rand.Text())
		c := w.issue(t, d.ID, nil)
		renewal, claim := w.prepare(t, d.ID, c.Serial[:])
		wg.Go(func() {
			var recorded error
			var both sync.WaitGroup
			both.Go(func() { recorded = w.record(t.Context(), renewal, claim) })
			if _, err := w.Device(t.Context(), operator, d.ID, device.Lose, Unspecified); err != nil {
				t.Errorf("losing: %v", err)
			}
			both.Wait()
			_, is, err := w.Status(t.Context(), renewal.Serial[:])
			if err != nil || is != (recorded == nil) {
				t.Errorf("renewal recorded: %v; revoked: %v, %v", recorded, is, err)
			}
		})
	}
	wg.Wait()
	w.sound(t)
}

func TestConcurrent(t *testing.T) {
	w := newWorld(t)
	var certs []*ca.Certificate
	for range 6 {
		certs = append(certs, w.issue(t, w.add(t, rand.Text()).ID, nil))
	}
	var wg sync.WaitGroup
	var firsts atomic.Int64
	for i := range 24 {
		c := certs[i%len(certs)]
		wg.Go(func() {
			r, err := w.Certificate(t.Context(), operator, c.Serial[:], Superseded)
			if err != nil || r.Listed == 0 {
				t.Errorf("got %+v, %v", r, err)
			}
			if !r.Already {
				firsts.Add(1)
			}
			if l := w.crl(t, "devices"); entryOf(l, c.Serial[:]) == nil {
				t.Error("the call returned, but the list does not show it")
			}
		})
	}
	wg.Wait()
	if firsts.Load() != int64(len(certs)) {
		t.Errorf("%d calls were the first, want %d", firsts.Load(), len(certs))
	}
	if l := w.crl(t, "devices"); len(l.RevokedCertificateEntries) != len(certs) {
		t.Errorf("the list has %d entries, want %d", len(l.RevokedCertificateEntries), len(certs))
	}
	w.sound(t)
}

// The revocation stands when the CA's key is away; the list follows when it is back.
func TestKeyAway(t *testing.T) {
	w := newWorld(t)
	c := w.issue(t, w.add(t, "pump").ID, nil)
	w.crl(t, "devices")
	away := &custody{Custody: w.Keys}
	w.Keys = away
	away.gone.Store(true)
	r, err := w.Certificate(t.Context(), operator, c.Serial[:], KeyCompromise)
	if err != nil || r.Listed != 0 {
		t.Fatalf("got %+v, %v, want a revocation that is not listed", r, err)
	}
	if _, is, _ := w.Status(t.Context(), c.Serial[:]); !is {
		t.Error("the revocation does not stand")
	}
	q := question(t, w.issuer(t, "devices"), crypto.SHA256, nil, c.Serial[:])
	if a, err := w.OCSP(t.Context(), q); a.Status.String() != "tryLater" || !errs.Is(err, errs.Unavailable) {
		t.Errorf("OCSP: got %s, %v", a.Status, err)
	}
	away.gone.Store(false)
	rounds := *newRounds()
	must(t, w.round(t.Context(), &rounds))
	must(t, w.round(t.Context(), &rounds))
	if entryOf(w.crl(t, "devices"), c.Serial[:]) == nil {
		t.Error("the list did not follow")
	}
	w.sound(t)
}

type custody struct {
	key.Custody
	gone atomic.Bool
}

func (c *custody) Signer(ctx context.Context, id key.ID) (crypto.Signer, error) {
	if c.gone.Load() {
		return nil, errs.New(errs.Unavailable, "the token was taken out")
	}
	return c.Custody.Signer(ctx, id)
}

func onPostgres() bool { return os.Getenv("MOORING_TEST_DB") != "" }
