package db_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"mooring/internal/base/db"
	"mooring/internal/base/db/dbtest"
	"mooring/internal/base/errs"
)

// The ledger. Writers note what was acknowledged; every item leaves a row in fact, which has no key that would catch a second one, and adds
// one to a counter. A batch that ran twice, or was acknowledged and is not there, shows.

const counters = 10

func ledgerSchema() db.Schema {
	return db.Schema{Name: "ledger", FS: fstest.MapFS{"00001_ledger.sql": {Data: []byte(`-- +goose Up
CREATE TABLE fact (cell smallint NOT NULL, n bigint NOT NULL);
CREATE TABLE counter (cell smallint NOT NULL, id bigint NOT NULL, n bigint NOT NULL, PRIMARY KEY (cell, id));
`)}}}
}

const (
	addFact  = `INSERT INTO fact (cell, n) VALUES (0, $1)`
	addCount = `INSERT INTO counter (cell, id, n) VALUES (0, $1, 1) ON CONFLICT (cell, id) DO UPDATE SET n = counter.n + 1`
)

type ledger struct {
	mu    sync.Mutex
	acked map[int64]bool // guarded by mu
	tried int64          // guarded by mu
}

func (l *ledger) note(n int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tried++
	if err == nil {
		l.acked[n] = true
	}
}

// storm runs write from many goroutines for items 0 to writers*each-1.
func (l *ledger) storm(t *testing.T, writers, each int, write func(ctx context.Context, n int64) error) {
	t.Helper()
	l.acked = map[int64]bool{}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for k := range each {
				n := int64(w*each + k)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				err := write(ctx, n)
				cancel()
				if err != nil && !errs.Is(err, errs.Unavailable) && !errs.Is(err, errs.Limited) {
					t.Errorf("item %d got %v of kind %v, want none or Unavailable", n, err, errs.KindOf(err))
				}
				l.note(n, err)
			}
		})
	}
	wg.Wait()
}

// audit compares the ledger with what is stored, and returns every difference.
func (l *ledger) audit(t *testing.T, d *db.DB) (wrong []string) {
	t.Helper()
	stored, want, have := map[int64]int{}, map[int64]int64{}, map[int64]int64{}
	if err := d.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		clear(stored)
		clear(want)
		clear(have)
		if err := tx.Each(ctx, func(r db.Row) error {
			var n int64
			err := r.Scan(&n)
			stored[n]++
			want[n%counters]++
			return err
		}, `SELECT n FROM fact WHERE cell = 0`); err != nil {
			return err
		}
		return tx.Each(ctx, func(r db.Row) error {
			var id, n int64
			err := r.Scan(&id, &n)
			have[id] = n
			return err
		}, `SELECT id, n FROM counter WHERE cell = 0`)
	}); err != nil {
		t.Fatal(err)
	}
	for n, times := range stored {
		if times > 1 {
			wrong = append(wrong, fmt.Sprintf("item %d is stored %d times", n, times))
		}
	}
	for n := range l.acked {
		if stored[n] == 0 {
			wrong = append(wrong, fmt.Sprintf("item %d was acknowledged and is not stored", n))
		}
	}
	for id, n := range have {
		if n != want[id] {
			wrong = append(wrong, fmt.Sprintf("counter %d stands at %d for %d facts", id, n, want[id]))
		}
	}
	t.Logf("%d tried, %d acknowledged, %d stored", l.tried, len(l.acked), len(stored))
	return wrong
}

func ledgerPlan() db.Plan[int64] {
	return db.Plan[int64]{
		Key: func(n int64) db.Key { return db.Key{Cell: uint8(n % counters), ID: [16]byte(id(int(n % counters)))} },
		Apply: func(ctx context.Context, tx *db.Tx, batch []int64) ([]error, error) {
			for _, n := range batch {
				count, fact := &db.Stmt{SQL: addCount, Args: []any{n % counters}}, &db.Stmt{SQL: addFact, Args: []any{n}}
				if n/counters%2 == 1 { // half of them leave their second statement until the commit
					tx.Defer(fact)
					if err := tx.Send(ctx, count); err != nil {
						return nil, err
					}
					continue
				}
				if err := tx.Send(ctx, count, fact); err != nil {
					return nil, err
				}
			}
			return nil, nil
		},
	}
}

// stormPlan has every trouble in it, and enough peace for progress.
var stormPlan = []trouble{pass, swallow, pass, cutBefore, delay, pass, halfOpen, pass, swallow, cutBefore, pass, swallow, cutAnywhere, pass}

// troubled opens the database at rawURL through a proxy, whose troubles begin then: who cannot reach the server at the start is told so at once.
func troubled(t *testing.T, rawURL string) (*proxy, *db.DB) {
	t.Helper()
	p, through := throughProxy(t, rawURL, stormPlan...)
	p.healed.Store(true)
	d, err := db.Open(t.Context(), db.Options{URL: through, Now: time.Now, Node: "troubled"})
	if err != nil {
		t.Fatal(err)
	}
	d.Hurry(250*time.Millisecond, 2*time.Second)
	p.healed.Store(false)
	return p, d
}

func finish(t *testing.T, p *proxy, d *db.DB) {
	t.Helper()
	p.healed.Store(true)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := d.Close(ctx); err != nil {
		t.Errorf("closing: %v", err)
	}
	for _, what := range p.plan {
		if p.done[what].Load() == 0 {
			t.Errorf("trouble %d never happened", what)
		}
	}
}

func TestLostCommitsOfAGroupHappenOnce(t *testing.T) {
	onPostgres(t)
	direct := dbtest.URL(t)
	whole := dbtest.OpenURL(t, direct, ledgerSchema())
	p, d := troubled(t, direct)
	ctx, stop := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	g := db.NewGroup(d, ledgerPlan())
	go func() { stopped <- g.Run(ctx) }()
	var l ledger
	l.storm(t, 12, 25, g.Do)
	p.healed.Store(true)
	stop()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	finish(t, p, d)
	for _, wrong := range l.audit(t, whole) {
		t.Error(wrong)
	}
	if len(l.acked) < 200 {
		t.Errorf("only %d of %d items were stored: the trouble was not overcome", len(l.acked), l.tried)
	}
}

// TestSilenceIsAnUnknownOutcome: the COMMIT vanishes and the server keeps the transaction open, so that its fate cannot be found out. The
// caller hears Unavailable, and the next changes neither wait nor are taken for the lost one.
func TestSilenceIsAnUnknownOutcome(t *testing.T) {
	onPostgres(t)
	direct := dbtest.URL(t)
	whole := dbtest.OpenURL(t, direct, ledgerSchema())
	p, through := throughProxy(t, direct, pass, silence, pass)
	d, err := db.Open(t.Context(), db.Options{URL: through, Now: time.Now, Node: "troubled"})
	if err != nil {
		t.Fatal(err)
	}
	d.Hurry(200*time.Millisecond, 500*time.Millisecond)
	var l ledger
	l.storm(t, 1, 1, func(ctx context.Context, n int64) error {
		err := d.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Exec(ctx, addFact, n)
			return err
		})
		if !errs.Is(err, errs.Unavailable) {
			t.Errorf("got %v, want Unavailable", err)
		}
		return err
	})
	p.healed.Store(true)
	for n := int64(1); n < 20; n++ { // every stream, also the one that was left
		err := d.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Exec(ctx, addFact, n)
			return err
		})
		if err != nil {
			t.Errorf("change %d: %v", n, err)
		}
		l.note(n, err)
	}
	for _, wrong := range l.audit(t, whole) {
		if !strings.HasPrefix(wrong, "counter") {
			t.Error(wrong)
		}
	}
	p.hangUp()
	finish(t, p, d)
}

func TestLostCommitsOfChangesHappenOnce(t *testing.T) {
	onPostgres(t)
	direct := dbtest.URL(t)
	whole := dbtest.OpenURL(t, direct, ledgerSchema())
	p, d := troubled(t, direct)
	hooks := make(chan int64, 1000)
	var l ledger
	l.storm(t, 8, 25, func(ctx context.Context, n int64) error {
		return d.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
			tx.OnCommit(func() { hooks <- n })
			if _, err := tx.Exec(ctx, addCount, n%counters); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, addFact, n)
			return err
		})
	})
	finish(t, p, d)
	for _, wrong := range l.audit(t, whole) {
		t.Error(wrong)
	}
	close(hooks)
	called := map[int64]int{}
	for n := range hooks {
		called[n]++
	}
	for n := range l.acked {
		if called[n] != 1 {
			t.Errorf("item %d was acknowledged and its OnCommit called %d times", n, called[n])
		}
	}
}

// TestLedgerCatchesABrokenStore runs the same ledger against stores that are wrong in the two classic ways. If it finds nothing there, it
// would find nothing anywhere.
func TestLedgerCatchesABrokenStore(t *testing.T) {
	onPostgres(t)
	for _, row := range []struct {
		name string
		fate func(err error) (again bool) // of a failed COMMIT
	}{
		{"a lost commit is taken for a failure and repeated", func(error) bool { return true }},
		{"a lost commit is taken for done", func(error) bool { return false }},
	} {
		t.Run(row.name, func(t *testing.T) {
			direct := dbtest.URL(t)
			whole := dbtest.OpenURL(t, direct, ledgerSchema())
			_, through := throughProxy(t, direct, pass, swallow, pass, cutBefore)
			pool, err := pgxpool.New(t.Context(), through)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(pool.Close)
			var l ledger
			l.storm(t, 4, 10, func(ctx context.Context, n int64) error {
				for {
					err := naive(ctx, pool, n)
					if err == nil || !row.fate(err) {
						return nil
					}
				}
			})
			if wrong := l.audit(t, whole); len(wrong) == 0 {
				t.Error("the ledger found nothing wrong with a broken store")
			}
		})
	}
}

// naive does what package db does, without the stream row.
func naive(ctx context.Context, pool *pgxpool.Pool, n int64) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, addCount, n%counters); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, addFact, n)
		return err
	})
}

// isolated returns rawURL for sessions of that isolation, which notice deadlocks soon.
func isolated(t testing.TB, rawURL, isolation string) string {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("default_transaction_isolation", isolation)
	q.Set("deadlock_timeout", "10ms")
	u.RawQuery = strings.ReplaceAll(q.Encode(), "+", "%20") // pgx reads the plus sign as it stands
	return u.String()
}

// TestStormOnFewRows: 64 goroutines and two handles, as of two processes, on ten rows, each change locking two of them in any order.
func TestStormOnFewRows(t *testing.T) {
	onPostgres(t)
	for _, isolation := range []string{"read committed", "serializable"} {
		t.Run(isolation, func(t *testing.T) {
			u := isolated(t, dbtest.URL(t), isolation)
			one, two := dbtest.OpenURL(t, u, ledgerSchema()), dbtest.OpenURL(t, u, ledgerSchema())
			var l ledger
			l.storm(t, 64, 4, func(ctx context.Context, n int64) error {
				d := one
				if n%2 == 1 {
					d = two
				}
				return d.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
					var sum int64
					if _, err := tx.Get(ctx, []any{&sum}, `SELECT CAST(coalesce(sum(n), 0) AS bigint) FROM counter WHERE cell = 0`); err != nil {
						return err
					}
					for _, id := range [][]int64{{n % counters, 100 + rand.Int64N(counters)}, {100 + rand.Int64N(counters), n % counters}}[rand.N(2)] {
						if _, err := tx.Exec(ctx, addCount, id); err != nil {
							return err
						}
					}
					_, err := tx.Exec(ctx, addFact, n)
					return err
				})
			})
			if len(l.acked) != 256 {
				t.Errorf("%d of 256 changes succeeded: a conflict left the store", len(l.acked))
			}
			// The partners' counters hold together what the facts say, too.
			var partners int64
			if err := one.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
				_, err := tx.Get(ctx, []any{&partners}, `SELECT CAST(sum(n) AS bigint) FROM counter WHERE id >= 100`)
				return err
			}); err != nil || partners != 256 {
				t.Errorf("the partners count %d (%v), want 256", partners, err)
			}
			if err := one.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
				_, err := tx.Exec(ctx, `DELETE FROM counter WHERE id >= 100`)
				return err
			}); err != nil {
				t.Fatal(err)
			}
			for _, wrong := range l.audit(t, two) {
				t.Error(wrong)
			}
		})
	}
}

// TestKilledServerLosesNothing kills the server and its children under load, twice, and starts it again.
func TestKilledServerLosesNothing(t *testing.T) {
	server := ownServer(t)
	t.Setenv("MOORING_TEST_DB", server.url())
	d := dbtest.Open(t, ledgerSchema())
	g := db.NewGroup(d, ledgerPlan())
	run(t, g)
	var l ledger
	passed := func(n int) { // waits until n items were answered
		for {
			l.mu.Lock()
			tried := l.tried
			l.mu.Unlock()
			if tried >= int64(n) {
				return
			}
			time.Sleep(time.Millisecond) // a state is waited for
		}
	}
	var killer sync.WaitGroup
	killer.Go(func() {
		for _, at := range []int{300, 1200} {
			passed(at)
			server.kill()
			if err := server.start(); err != nil {
				t.Error(err)
				return
			}
		}
	})
	l.storm(t, 32, 120, func(ctx context.Context, n int64) error {
		err := g.Do(ctx, n)
		for err != nil && server.ping() != nil && ctx.Err() == nil { // or all items would be tried while nobody is there
			time.Sleep(10 * time.Millisecond)
		}
		return err
	})
	killer.Wait()
	for _, wrong := range l.audit(t, d) {
		t.Error(wrong)
	}
	if int64(len(l.acked)) == l.tried {
		t.Log("no request noticed the kills")
	}
}
