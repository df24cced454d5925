package key_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
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
	"mooring/internal/core/key"
	"mooring/internal/core/key/keytest"
)

func admin() access.Actor {
	return access.Actor{Kind: access.KindLocal, ID: "uid=0", Role: access.RoleAdmin}
}

// metered is a database and a key store on which several nodes can run.
type metered struct {
	url      string
	dir      string
	unlocked *key.Store
	now      atomic.Int64
	log      *audit.Log // of the first node
	wait     time.Duration
}

// node is one process.
type node struct {
	*key.Meter
	stop func() error
}

func newMetered(t *testing.T) *metered {
	t.Helper()
	unlocked, dir := keytest.Store(t)
	m := &metered{dir: dir, unlocked: unlocked}
	m.now.Store(1_800_000_000)
	if os.Getenv("MOORING_TEST_DB") != "" {
		m.url = dbtest.URL(t)
	}
	return m
}

// run starts a node. On SQLite there is one database, so that all nodes of a test share the one that d is.
func (m *metered) run(t *testing.T, d *db.DB) *node {
	t.Helper()
	store, err := m.unlocked.Reopen(m.dir)
	if err != nil {
		t.Fatal(err)
	}
	clock := func() time.Time { return time.Unix(m.now.Load(), 0) }
	signer, vkey, err := audit.NoteKey("test", make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	log := audit.New(d, audit.Options{Origin: "test", Signer: signer, Verifier: verifier, BatchKey: make([]byte, 32), Now: clock})
	if m.log == nil {
		m.log = log
	}
	n := &node{Meter: key.NewMeter(key.MeterDeps{DB: d, Audit: log, Access: access.NewDecider(log), Now: clock, Log: slog.New(slog.DiscardHandler), Wait: m.wait,
		Custody: key.NewCustodies(key.InFile, map[key.Place]key.Custody{key.InFile: store})})}
	if err := n.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	var once sync.Once
	n.stop = func() (err error) {
		once.Do(func() {
			stop()
			err = <-done
		})
		return err
	}
	t.Cleanup(func() {
		if err := n.stop(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func (m *metered) open(t *testing.T) *db.DB {
	t.Helper()
	if m.url != "" {
		return dbtest.OpenURL(t, m.url, audit.Schema(), key.Schema())
	}
	return dbtest.Open(t, audit.Schema(), key.Schema())
}

// verify compares the table with the record.
func (m *metered) verify(t *testing.T, n *node) (found []string) {
	t.Helper()
	if err := m.log.Sequence(t.Context()); err != nil {
		t.Fatal(err)
	}
	report, err := m.log.Verify(t.Context(), audit.VerifyOptions{Checkers: []audit.Checker{n.Checker()}})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range report.Findings {
		found = append(found, f.String())
	}
	return found
}

func (n *node) made(t *testing.T) key.ID {
	t.Helper()
	id, _, err := n.Generate(t.Context(), key.P256, "ca test")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// sign signs n times and returns how often it went well and the last error.
func sign(t *testing.T, c key.Custody, id key.ID, n int) (done int, last error) {
	t.Helper()
	s, err := c.Signer(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("m"))
	for range n {
		signature, err := s.Sign(nil, digest[:], crypto.SHA256)
		if err != nil {
			last = err
			continue
		}
		if len(signature) < 64 {
			t.Fatalf("signature %x", signature)
		}
		done++
	}
	return done, last
}

func (n *node) uses(t *testing.T, id key.ID) int64 {
	t.Helper()
	list, err := n.Reports(t.Context(), admin(), []key.ID{id}, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range list {
		if r.ID == id {
			return r.Uses
		}
	}
	t.Fatalf("the key %s is not reported", id)
	return 0
}

func TestMeterKeepsTheContract(t *testing.T) {
	m := newMetered(t)
	keytest.Test(t, m.run(t, m.open(t)), key.P256, key.Ed25519)
}

// TestLimitHolds: as many signatures as permitted and not one more, over restarts; lists go on for their reserve and then end too.
func TestLimitHolds(t *testing.T) {
	m := newMetered(t)
	d := m.open(t)
	n := m.run(t, d)
	id := n.made(t)
	if done, err := sign(t, n, id, 3); done != 3 {
		t.Fatalf("without a limit: %d signatures, %v", done, err)
	}
	if err := n.SetLimit(t.Context(), admin(), id, key.Limit{MaxUses: 100, StatusUses: 5}); err != nil {
		t.Fatal(err)
	}
	done, err := sign(t, n, id, 40)
	if done != 40 {
		t.Fatalf("within the limit: %d signatures, %v", done, err)
	}
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	n = m.run(t, d)
	if got := n.uses(t, id); got != 43 {
		t.Errorf("after a restart %d uses are counted, want 43", got)
	}
	done, err = sign(t, n, id, 100)
	if done != 57 || !errs.Is(err, errs.Unavailable) || !strings.Contains(errs.Public(err), "as many as it may, 100. Raise the limit with mooring ca limit") {
		t.Errorf("after a restart: %d signatures and %v, want 57 and unavailable", done, err)
	}
	done, err = sign(t, n.ForStatus(), id, 7)
	if done != 5 || !errs.Is(err, errs.Unavailable) || !strings.Contains(errs.Public(err), "as many lists and status answers as it may, 5") {
		t.Errorf("lists: %d signatures and %v, want 5 and unavailable", done, err)
	}
	if got := n.uses(t, id); got != 100 {
		t.Errorf("%d certificates are counted, want 100", got)
	}
	if err := n.SetLimit(t.Context(), admin(), id, key.Limit{MaxUses: 102, StatusUses: 6}); err != nil {
		t.Fatal(err)
	}
	if done, _ := sign(t, n, id, 5); done != 2 {
		t.Errorf("after the limit was raised by 2: %d signatures, want 2", done)
	}
	if done, _ := sign(t, n.ForStatus(), id, 5); done != 1 {
		t.Errorf("after the reserve was raised by 1: %d lists, want 1", done)
	}
	if err := n.SetLimit(t.Context(), admin(), id, key.Limit{}); err != nil {
		t.Fatal(err)
	}
	if done, err := sign(t, n, id, 5); done != 5 {
		t.Errorf("after the limit was lifted: %d signatures, %v", done, err)
	}
	if found := m.verify(t, n); len(found) > 0 {
		t.Errorf("the record: %v", found)
	}
	log, err := m.log.List(t.Context(), admin(), audit.Query{Action: "key.exhausted", Limit: 10})
	if err != nil || len(log) != 4 { // issuing and lists, under both limits
		t.Errorf("%d entries tell that the key is used up: %v, %v", len(log), log, err)
	}
}

func TestEndHolds(t *testing.T) {
	m := newMetered(t)
	n := m.run(t, m.open(t))
	id := n.made(t)
	if err := n.SetLimit(t.Context(), admin(), id, key.Limit{Until: m.now.Load() + 60}); err != nil {
		t.Fatal(err)
	}
	if done, err := sign(t, n, id, 3); done != 3 {
		t.Errorf("before the end: %d signatures, %v", done, err)
	}
	m.now.Add(60)
	done, err := sign(t, n, id, 1)
	if done != 0 || !errs.Is(err, errs.Unavailable) || !strings.Contains(errs.Public(err), "was to be used until 2027-01-15 08:01:00Z") {
		t.Errorf("at the end: %d signatures, %v", done, err)
	}
	if done, err := sign(t, n.ForStatus(), id, 2); done != 2 {
		t.Errorf("lists after the end: %d signatures, %v", done, err)
	}
	if got := n.uses(t, id); got != 3 {
		t.Errorf("%d certificates are counted, want 3", got)
	}
}

// TestNodesShareALimit: several nodes, many signers each, never more than the limit together; one of them is killed and wastes at most a block.
func TestNodesShareALimit(t *testing.T) {
	m := newMetered(t)
	d := m.open(t)
	first := m.run(t, d)
	id := first.made(t)
	const limit = 500
	if err := first.SetLimit(t.Context(), admin(), id, key.Limit{MaxUses: limit}); err != nil {
		t.Fatal(err)
	}
	nodes := []*node{first}
	for range 2 {
		if m.url != "" {
			d = m.open(t)
		}
		nodes = append(nodes, m.run(t, d))
	}
	var total atomic.Int64
	var wg sync.WaitGroup
	for _, n := range nodes {
		for range 4 {
			wg.Go(func() {
				done, _ := sign(t, n, id, limit)
				total.Add(int64(done))
			})
		}
	}
	wg.Wait()
	if got := total.Load(); got != limit {
		t.Errorf("three nodes made %d signatures, want %d", got, limit)
	}
	if got := first.uses(t, id); got != limit {
		t.Errorf("%d uses are counted, want %d", got, limit)
	}
	if found := m.verify(t, first); len(found) > 0 {
		t.Errorf("the record: %v", found)
	}
}

// TestCrashWastesNoMoreThanABlock: a node that does not end properly never lets the limit be passed.
func TestCrashWastesNoMoreThanABlock(t *testing.T) {
	m := newMetered(t)
	d := m.open(t)
	n := m.run(t, d)
	id := n.made(t)
	if err := n.SetLimit(t.Context(), admin(), id, key.Limit{MaxUses: 400}); err != nil {
		t.Fatal(err)
	}
	made := 0
	for range 5 {
		crashing := m.run(t, d)
		done, _ := sign(t, crashing, id, 10)
		made += done // and nothing is given back before the others are done
	}
	done, err := sign(t, n, id, 1000)
	made += done
	if made > 400 || made < 400-5*50 || !errs.Is(err, errs.Unavailable) {
		t.Errorf("%d signatures in all, want at most 400 and at least 150; %v", made, err)
	}
}

// TestLimitOfAnotherNode is heeded after the next look.
func TestLimitOfAnotherNode(t *testing.T) {
	m := newMetered(t)
	d := m.open(t)
	one, two := m.run(t, d), m.run(t, d)
	id := one.made(t)
	if done, _ := sign(t, two, id, 20); done != 20 {
		t.Fatal("no signature without a limit")
	}
	if err := one.SetLimit(t.Context(), admin(), id, key.Limit{MaxUses: 30}); err != nil {
		t.Fatal(err)
	}
	if err := two.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	done, _ := sign(t, two, id, 50)
	rest, _ := sign(t, one, id, 50)
	if done+rest != 10 {
		t.Errorf("%d and %d signatures after the 20 before, want 10 together", done, rest)
	}
}

// TestNobodyCounts: with nobody to count, a limited key does not sign, and one without a limit does.
func TestNobodyCounts(t *testing.T) {
	m := newMetered(t)
	m.wait = 300 * time.Millisecond
	n := m.run(t, m.open(t))
	free, bound := n.made(t), n.made(t)
	if err := n.SetLimit(t.Context(), admin(), bound, key.Limit{MaxUses: 30}); err != nil {
		t.Fatal(err)
	}
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	if done, err := sign(t, n, free, 1); done != 1 {
		t.Errorf("a free key: %v", err)
	}
	if done, err := sign(t, n, bound, 1); done != 0 || !errs.Is(err, errs.Unavailable) || !strings.Contains(errs.Public(err), "its use cannot be counted") {
		t.Errorf("a limited key: %d signatures, %v", done, err)
	}
}

func TestLimitsAreDecidedInCore(t *testing.T) {
	m := newMetered(t)
	n := m.run(t, m.open(t))
	id := n.made(t)
	operator := access.Actor{Kind: access.KindOperator, ID: "x", Role: access.RoleOperator}
	if err := n.SetLimit(t.Context(), operator, id, key.Limit{MaxUses: 1}); !errs.Is(err, errs.Denied) {
		t.Errorf("an operator: got %v, want kind denied", err)
	}
	if _, err := n.Reports(t.Context(), access.Device("d", "est"), nil, "", 0); !errs.Is(err, errs.Denied) {
		t.Errorf("a device: got %v, want kind denied", err)
	}
	if err := n.SetLimit(t.Context(), admin(), id, key.Limit{MaxUses: -1}); !errs.Is(err, errs.Invalid) {
		t.Errorf("less than nothing: got %v, want kind invalid", err)
	}
	if err := n.SetLimit(t.Context(), admin(), "", key.Limit{MaxUses: 1}); !errs.Is(err, errs.NotFound) {
		t.Errorf("no key: got %v, want kind not found", err)
	}
}

func TestReports(t *testing.T) {
	m := newMetered(t)
	n := m.run(t, m.open(t))
	good, gone, open := n.made(t), n.made(t), n.made(t)
	if _, err := sign(t, n, gone, 2); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(m.dir, string(gone)+".key")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(m.dir, string(open)+".key"), 0o644); err != nil {
		t.Fatal(err)
	}
	const elsewhere = "pkcs11:00112233445566778899aabbccddeeff"
	expected := []key.ID{good, gone, open, elsewhere, ""}
	states := map[key.ID]key.State{}
	var order []key.ID
	for after := key.ID(""); ; {
		page, err := n.Reports(t.Context(), admin(), expected, after, 3)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page {
			states[r.ID] = r.State
			order = append(order, r.ID)
			if (r.State == key.Usable) != (r.Problem == "") {
				t.Errorf("%s is %s and says %q", r.ID, r.State, r.Problem)
			}
			if r.ID == gone && (r.Uses != 2 || !strings.Contains(r.Problem, "restore it from a backup")) {
				t.Errorf("the missing key: %+v", r)
			}
			if r.ID == good && (r.Label != "ca test" || r.Algorithm != key.P256) {
				t.Errorf("the good key: %+v", r)
			}
		}
		if len(page) < 3 {
			break
		}
		after = page[len(page)-1].ID
	}
	want := map[key.ID]key.State{good: key.Usable, gone: key.Missing, open: key.Locked, elsewhere: key.Locked}
	if fmt.Sprint(states) != fmt.Sprint(want) || len(order) != 4 {
		t.Errorf("got %v in %v, want %v", states, order, want)
	}
}

func TestCheckerNamesWhatWasChanged(t *testing.T) {
	m := newMetered(t)
	d := m.open(t)
	n := m.run(t, d)
	id := n.made(t)
	if err := n.SetLimit(t.Context(), admin(), id, key.Limit{MaxUses: 50, StatusUses: 7, Until: 1_900_000_000}); err != nil {
		t.Fatal(err)
	}
	if _, err := sign(t, n, id, 9); err != nil {
		t.Fatal(err)
	}
	if found := m.verify(t, n); len(found) > 0 {
		t.Fatalf("before anything was changed: %v", found)
	}
	for _, change := range []string{"issued = issued - 1", "told = told + 1", "max_issued = 60", "max_told = 8", "ends = 0", "turn = 2", "cell = 1", "id = 'x'"} {
		undo := errs.New(errs.Conflict, "undone")
		err := d.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
			if _, err := tx.Exec(ctx, `UPDATE key_use SET `+change); err != nil {
				return err
			}
			checker := n.Checker()
			for entry := range entries(t, m.log) {
				if err := checker.Entry(0, entry); err != nil {
					return err
				}
			}
			if err := checker.Finish(ctx, tx); err == nil || !strings.Contains(err.Error(), "key_use") {
				t.Errorf("%s: the checker says %v", change, err)
			}
			return undo
		})
		if !errs.Is(err, errs.Conflict) {
			t.Fatal(err)
		}
	}
}

func entries(t *testing.T, log *audit.Log) func(func(audit.Entry) bool) {
	t.Helper()
	list, err := log.List(t.Context(), admin(), audit.Query{Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	return func(yield func(audit.Entry) bool) {
		for _, e := range list {
			if !yield(e.Entry) {
				return
			}
		}
	}
}

func TestNothingPrintsAMeteredKey(t *testing.T) {
	m := newMetered(t)
	n := m.run(t, m.open(t))
	s, err := n.Signer(t.Context(), n.made(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		if got := fmt.Sprintf(verb, s); !strings.HasPrefix(got, "key ") || len(got) > 40 {
			t.Errorf("%s printed %q", verb, got)
		}
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "k", s)
	if !strings.Contains(log.String(), `k="key `) {
		t.Errorf("logged %q", log.String())
	}
}

// instant is a key that costs nothing, so that what is measured is the counting.
type instant struct{ crypto.Signer }

func (instant) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return nil, nil }

// vault is a custody with one key.
type vault struct{}

func (vault) Generate(context.Context, key.Algorithm, string) (key.ID, crypto.PublicKey, error) {
	return "k", nil, nil
}
func (vault) Signer(context.Context, key.ID) (crypto.Signer, error) { return instant{}, nil }

// BenchmarkMeter measures what counting adds to a signature: without a limit, and with one whose blocks come from SQLite.
func BenchmarkMeter(b *testing.B) {
	for name, limit := range map[string]key.Limit{"free": {}, "limited": {MaxUses: 1 << 50}} {
		b.Run(name, func(b *testing.B) {
			d := dbtest.Open(b, audit.Schema(), key.Schema())
			signer, vkey, err := audit.NoteKey("test", make([]byte, 32))
			if err != nil {
				b.Fatal(err)
			}
			verifier, err := note.NewVerifier(vkey)
			if err != nil {
				b.Fatal(err)
			}
			log := audit.New(d, audit.Options{Origin: "test", Signer: signer, Verifier: verifier, BatchKey: make([]byte, 32), Now: time.Now})
			m := key.NewMeter(key.MeterDeps{DB: d, Audit: log, Access: access.NewDecider(log), Now: time.Now, Log: slog.New(slog.DiscardHandler),
				Custody: key.NewCustodies(key.InFile, map[key.Place]key.Custody{key.InFile: vault{}})})
			ctx, stop := context.WithCancel(b.Context())
			done := make(chan error, 1)
			go func() { done <- m.Run(ctx) }()
			if err := m.SetLimit(b.Context(), admin(), "k", limit); err != nil {
				b.Fatal(err)
			}
			s, err := m.Signer(b.Context(), "k")
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if _, err := s.Sign(nil, nil, crypto.SHA256); err != nil {
					b.Fatal(err)
				}
			}
			stop()
			if err := <-done; err != nil {
				b.Fatal(err)
			}
		})
	}
}
