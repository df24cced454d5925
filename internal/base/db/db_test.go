package db_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/db/dbtest"
	"mooring/internal/base/errs"
)

// TestRunStoppedWhileItStarts: a server that is stopped at once has no error to tell.
func TestRunStoppedWhileItStarts(t *testing.T) {
	d := dbtest.Open(t, schema())
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := d.Run(ctx); err != nil {
		t.Errorf("Run: %v", err)
	}
}

func schema(more ...string) db.Schema {
	files := fstest.MapFS{"00001_thing.sql": {Data: []byte(`-- +goose Up
CREATE TABLE thing (cell smallint NOT NULL, id bytea NOT NULL, n bigint NOT NULL, note text NOT NULL, PRIMARY KEY (cell, id)) /*sqlite: WITHOUT ROWID */;
`)}}
	for i, text := range more {
		files[fmt.Sprintf("%05d_more.sql", i+2)] = &fstest.MapFile{Data: []byte("-- +goose Up\n" + text)}
	}
	return db.Schema{Name: "thing", FS: files}
}

func id(n int) []byte { return binary.BigEndian.AppendUint64(make([]byte, 8, 16), uint64(n)) }

const insert = `INSERT INTO thing (cell, id, n, note) VALUES ($1, $2, $3, $4)`

func count(t *testing.T, d *db.DB) (n int) {
	t.Helper()
	if err := d.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Get(ctx, []any{&n}, `SELECT count(*) FROM thing`)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestDoCommitsOrLeavesNothing(t *testing.T) {
	d := dbtest.Open(t, schema())
	after := 0
	if err := d.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		tx.OnCommit(func() { after++ })
		st := &db.Stmt{SQL: insert, Args: []any{0, id(2), int64(1) << 40, "zwei"}}
		if _, err := tx.Exec(ctx, insert, 255, id(1), 7, "one"); err != nil {
			return err
		}
		if err := tx.Send(ctx, st); err != nil || st.N != 1 {
			return fmt.Errorf("sent %d rows: %w", st.N, err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	refusal := errs.New(errs.Denied, "no")
	if err := d.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		tx.OnCommit(func() { after++ })
		if _, err := tx.Exec(ctx, insert, 1, id(3), 0, ""); err != nil {
			return err
		}
		return refusal
	}); !errors.Is(err, refusal) {
		t.Errorf("got %v, want the function's own error", err)
	}
	if n := count(t, d); n != 2 || after != 1 {
		t.Errorf("%d rows and %d calls after commit, want 2 and 1", n, after)
	}
	var (
		cell uint8
		got  []byte
		n    int64
		note string
		rows int
	)
	if err := d.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		if err := tx.Each(ctx, func(r db.Row) error { rows++; return r.Scan(&cell, &got, &n, &note) }, `SELECT cell, id, n, note FROM thing ORDER BY cell, id`); err != nil {
			return err
		}
		found, err := tx.Get(ctx, []any{&n}, `SELECT n FROM thing WHERE cell = $1 AND id = $2`, 9, id(9))
		if found {
			t.Error("found what is not there")
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if rows != 2 || cell != 255 || string(got) != string(id(1)) || n != 7 || note != "one" {
		t.Errorf("read %d rows, last %d %x %d %q", rows, cell, got, n, note)
	}
}

func TestConstraintsHaveTheirOwnError(t *testing.T) {
	d := dbtest.Open(t, schema())
	put := func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, insert, 1, id(1), 0, "")
		return err
	}
	if err := d.Do(t.Context(), put); err != nil {
		t.Fatal(err)
	}
	if err := d.Do(t.Context(), put); !db.IsConflict(err) {
		t.Errorf("got %v, want a conflict", err)
	}
	if err := d.View(t.Context(), put); err == nil {
		t.Error("a view wrote")
	}
}

func TestEveryChangeTakesTheNextNumberOfAStream(t *testing.T) {
	d := dbtest.Open(t, schema())
	var mu sync.Mutex
	seen := map[db.BatchID]bool{}
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			var b db.BatchID
			if err := d.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
				if b = tx.Batch(); tx.Part() != 0 || tx.Part() != 1 {
					return errors.New("parts do not count from 0")
				}
				_, err := tx.Exec(ctx, insert, 1, id(i), 0, "")
				return err
			}); err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if seen[b] {
				t.Errorf("batch %x/%d twice", b.Stream, b.Seq)
			}
			seen[b] = true
		})
	}
	wg.Wait()
	// Gapless: what the stream rows say was used is what was seen.
	total := 0
	if err := d.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		return tx.Each(ctx, func(r db.Row) error {
			var (
				stream []byte
				next   int64
			)
			if err := r.Scan(&stream, &next); err != nil {
				return err
			}
			for seq := int64(1); seq < next; seq++ {
				total++
				if !seen[db.BatchID{Stream: [8]byte(stream), Seq: seq}] {
					t.Errorf("batch %x/%d was counted but not seen", stream, seq)
				}
			}
			return nil
		}, `SELECT stream, next FROM stream`)
	}); err != nil {
		t.Fatal(err)
	}
	if total != 40 {
		t.Errorf("%d batches counted, want 40", total)
	}
}

func TestAStreamClosedUnderTheWriterIsReplaced(t *testing.T) {
	d := dbtest.Open(t, schema())
	put := func(n int) error {
		return d.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Exec(ctx, insert, 1, id(n), 0, "")
			return err
		})
	}
	if err := put(1); err != nil {
		t.Fatal(err)
	}
	// The change that closes every stream closes its own too; the next one of that stream must find another.
	if err := d.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE stream SET closed = 1`)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for n := 2; n < 20; n++ {
		if err := put(n); err != nil {
			t.Fatalf("change %d after the streams were closed: %v", n, err)
		}
	}
	if n := count(t, d); n != 19 {
		t.Errorf("%d rows, want 19", n)
	}
}

type item struct {
	n      int
	refuse bool
	poison bool
}

func plan(applied *atomic.Int64) db.Plan[item] {
	return db.Plan[item]{
		Key: func(i item) db.Key { return db.Key{Cell: uint8(i.n), ID: [16]byte(id(i.n))} },
		Apply: func(ctx context.Context, tx *db.Tx, batch []item) ([]error, error) {
			applied.Add(1)
			refused := make([]error, len(batch))
			for k, i := range batch {
				if i.refuse {
					refused[k] = errs.New(errs.Denied, "item %d is refused", i.n)
					continue
				}
				n := any(i.n)
				if i.poison {
					n = nil // violates NOT NULL
				}
				if _, err := tx.Exec(ctx, insert, i.n%256, id(i.n), n, ""); err != nil {
					return nil, err
				}
			}
			return refused, nil
		},
	}
}

func run[T any](t *testing.T, g *db.Group[T]) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestGroupSharesCommitsAndSeparatesFates(t *testing.T) {
	d := dbtest.Open(t, schema())
	var applied atomic.Int64
	g := db.NewGroup(d, plan(&applied))
	run(t, g)
	const n = 400
	errsOf := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			defer g.Expect()()
			errsOf[i] = g.Do(t.Context(), item{n: i, refuse: i%10 == 3, poison: i == 77})
		})
	}
	wg.Wait()
	stored := 0
	for i, err := range errsOf {
		switch {
		case i == 77:
			if err == nil || errs.Is(err, errs.Denied) {
				t.Errorf("the poisoned item got %v", err)
			}
		case i%10 == 3:
			if !errs.Is(err, errs.Denied) || errs.Public(err) != fmt.Sprintf("item %d is refused", i) {
				t.Errorf("item %d got %v, want its own refusal", i, err)
			}
		case err != nil:
			t.Errorf("item %d: %v", i, err)
		default:
			stored++
		}
	}
	if got := count(t, d); got != stored {
		t.Errorf("%d rows, want the %d that were acknowledged", got, stored)
	}
	if a := applied.Load(); a > n/2 {
		t.Errorf("%d transactions for %d items: nothing was shared", a, n)
	}
}

func TestOneItemOfAKeyPerBatch(t *testing.T) {
	d := dbtest.Open(t, schema())
	p := db.Plan[int]{
		Key: func(int) db.Key { return db.Key{Cell: 5} },
		Apply: func(ctx context.Context, tx *db.Tx, batch []int) ([]error, error) {
			if len(batch) != 1 {
				return nil, fmt.Errorf("%d items of one key in a batch", len(batch))
			}
			_, err := tx.Exec(ctx, `INSERT INTO thing (cell, id, n, note) VALUES (5, $1, 1, '') ON CONFLICT (cell, id) DO UPDATE SET n = thing.n + 1`, id(0))
			return nil, err
		},
	}
	g := db.NewGroup(d, p)
	run(t, g)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			if err := g.Do(t.Context(), i); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	var n int
	if err := d.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Get(ctx, []any{&n}, `SELECT n FROM thing`)
		return err
	}); err != nil || n != 50 {
		t.Errorf("counted %d (%v), want 50", n, err)
	}
}

func TestRequesterWhoHangsUpCancelsNobody(t *testing.T) {
	d := dbtest.Open(t, schema())
	inside, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	g := db.NewGroup(d, db.Plan[int]{
		Key: func(n int) db.Key { return db.Key{ID: [16]byte(id(n))} },
		Apply: func(ctx context.Context, tx *db.Tx, batch []int) ([]error, error) {
			once.Do(func() { close(inside) })
			<-release
			for _, n := range batch {
				if _, err := tx.Exec(ctx, insert, 0, id(n), n, ""); err != nil {
					return nil, err
				}
			}
			return nil, ctx.Err()
		},
	})
	run(t, g)
	first := make(chan error, 1)
	go func() { first <- g.Do(t.Context(), 1) }()
	<-inside
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.Do(ctx, 2); !errs.Is(err, errs.Unavailable) { // it waits behind the first
		t.Errorf("the one who hung up got %v", err)
	}
	close(release)
	if err := <-first; err != nil {
		t.Errorf("the first got %v", err)
	}
	if err := g.Do(t.Context(), 3); err != nil {
		t.Errorf("the next one got %v", err)
	}
	if n := count(t, d); n != 3 {
		t.Errorf("%d rows, want 3: the second was queued before the third", n)
	}
}

// onItsBehalf reports whether the function that calls it was called, by whatever way, by the function called name.
func onItsBehalf(name string) bool {
	var stack [64]uintptr
	frames := runtime.CallersFrames(stack[:runtime.Callers(2, stack[:])])
	for {
		f, more := frames.Next()
		if strings.HasSuffix(f.Function, name) {
			return true
		}
		if !more {
			return false
		}
	}
}

// byItself returns a group that stores each item on the goroutine that asks for it, as soon as somebody does who finds nobody committing, and then calls led.
func byItself(d *db.DB, name string, led func(ctx context.Context)) *db.Group[int] {
	return db.NewGroup(d, db.Plan[int]{
		Key: func(n int) db.Key { return db.Key{ID: [16]byte(id(n))} },
		Apply: func(ctx context.Context, tx *db.Tx, batch []int) ([]error, error) {
			for _, n := range batch {
				if _, err := tx.Exec(ctx, insert, 0, id(n), n, ""); err != nil {
					return nil, err
				}
			}
			if onItsBehalf(name) {
				led(ctx)
			}
			return nil, nil
		},
	})
}

// A lonely request commits by itself. When its client hangs up meanwhile, it is committed all the same, and it is told so.
func TestALonelyRequestCommitsByItself(t *testing.T) {
	d := dbtest.Open(t, schema())
	var led bool
	var hangUp context.CancelFunc
	g := byItself(d, "TestALonelyRequestCommitsByItself", func(ctx context.Context) {
		led = true
		hangUp()
		if ctx.Err() != nil {
			t.Errorf("the commit was cancelled by its requester: %v", ctx.Err())
		}
	})
	run(t, g)
	n := 0
	for ; !led; n++ { // until the committer has come to rest
		var ctx context.Context
		ctx, hangUp = context.WithCancel(t.Context())
		if err := g.Do(ctx, n); err != nil {
			t.Errorf("item %d: %v", n, err)
		}
		hangUp()
	}
	if rows := count(t, d); rows != n {
		t.Errorf("%d rows for %d items", rows, n)
	}
}

// What waits behind a request that commits by itself is committed, too, by somebody.
func TestNobodyIsLeftBehind(t *testing.T) {
	d := dbtest.Open(t, schema())
	others := make(chan error, 20)
	var g *db.Group[int]
	var led bool
	g = byItself(d, "TestNobodyIsLeftBehind", func(context.Context) {
		led = true
		for k := range cap(others) {
			go func() { others <- g.Do(t.Context(), 1_000_000+k) }()
		}
	})
	run(t, g)
	for n := 0; !led; n++ {
		if err := g.Do(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	for range cap(others) {
		if err := <-others; err != nil {
			t.Error(err)
		}
	}
}

// A panic on the goroutine of a request is a server's to catch. The group goes on, and whoever shared the commit is told.
func TestGroupSurvivesAPanic(t *testing.T) {
	d := dbtest.Open(t, schema())
	panicked := false
	g := byItself(d, "TestGroupSurvivesAPanic", func(context.Context) {
		if !panicked {
			panicked = true
			panic("bug")
		}
	})
	run(t, g)
	do := func(n int) (caught any, err error) {
		defer func() { caught = recover() }()
		return nil, g.Do(t.Context(), n)
	}
	stored := 0
	for n := 0; !panicked; n++ {
		caught, err := do(n)
		switch {
		case panicked && caught == nil:
			t.Errorf("the panic was swallowed: %v", err)
		case !panicked && err != nil:
			t.Fatal(err)
		case !panicked:
			stored++
		}
	}
	if err := g.Do(t.Context(), -1); err != nil {
		t.Errorf("after a panic: %v", err)
	}
	if rows := count(t, d); rows != stored+1 {
		t.Errorf("%d rows, want %d", rows, stored+1)
	}
}

func TestStoppingCommitsWhatWasAdmitted(t *testing.T) {
	d := dbtest.Open(t, schema())
	var applied atomic.Int64
	g := db.NewGroup(d, plan(&applied))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	var stored, refused atomic.Int64
	stopped := make(chan error, 1)
	go func() { stopped <- g.Run(ctx) }()
	for i := range 200 {
		wg.Go(func() {
			if err := g.Do(t.Context(), item{n: i}); err == nil {
				stored.Add(1)
			} else if errs.Is(err, errs.Unavailable) {
				refused.Add(1)
			} else {
				t.Error(err)
			}
		})
		if i == 100 {
			cancel()
		}
	}
	wg.Wait()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if n := count(t, d); int64(n) != stored.Load() || stored.Load()+refused.Load() != 200 {
		t.Errorf("%d rows, %d acknowledged, %d turned away", n, stored.Load(), refused.Load())
	}
}

func TestLeaseGoesToOneAndFencesTheOther(t *testing.T) {
	d := dbtest.Open(t, schema())
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	first := make(chan *db.Lease, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := d.Lead(ctx, "job", func(ctx context.Context, l *db.Lease) error {
			first <- l
			<-ctx.Done()
			return nil
		}); err != nil {
			t.Error(err)
		}
	}()
	l := <-first
	fenced := func() error {
		return d.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error { return l.Fence(ctx, tx) })
	}
	if err := fenced(); err != nil {
		t.Errorf("the holder was fenced off: %v", err)
	}
	stop()
	<-done
	again, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := d.Lead(again, "job", func(_ context.Context, second *db.Lease) error {
		defer cancel()
		if second.Epoch() <= l.Epoch() {
			t.Errorf("epoch went from %d to %d", l.Epoch(), second.Epoch())
		}
		if err := fenced(); !errs.Is(err, errs.Unavailable) {
			t.Errorf("the former holder got %v, want to be fenced off", err)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func TestSecondProcessIsToldWhoHoldsTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	dbtest.OpenURL(t, "sqlite:"+path)
	_, err := db.Open(t.Context(), db.Options{URL: "sqlite:" + path, Now: time.Now})
	if want := fmt.Sprintf("the database is in use by process %d; stop it, or talk to it", os.Getpid()); errs.Public(err) != want {
		t.Errorf("got %v, want %q", err, want)
	}
}

func TestBadPlacesAreNamed(t *testing.T) {
	dir := t.TempDir()
	damaged := filepath.Join(dir, "damaged.db")
	if err := os.WriteFile(damaged, []byte("this is a letter to my aunt, and no database at all; it is long enough to have a header of a hundred octets, or so."), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name, url string
		kind      errs.Kind
	}{
		{"no such scheme", "mysql://x", errs.Invalid},
		{"no such folder", "sqlite:" + filepath.Join(dir, "none", "x.db"), errs.Invalid},
		{"damaged file", "sqlite:" + damaged, errs.Invalid},
		{"a folder", "sqlite:" + dir, errs.Unavailable},
		{"nobody listens", "postgres://nobody@127.0.0.1:1/none", errs.Unavailable},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := db.Open(t.Context(), db.Options{URL: row.url, Now: time.Now})
			if errs.KindOf(err) != row.kind || err == nil {
				t.Errorf("got %v of kind %v, want kind %v", err, errs.KindOf(err), row.kind)
			}
		})
	}
}

func TestNewerDatabaseIsRefused(t *testing.T) {
	url := dbtest.URL(t)
	d, err := db.Open(t.Context(), db.Options{URL: url, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Migrate(t.Context(), schema(`CREATE TABLE other (cell smallint NOT NULL, id bytea NOT NULL, PRIMARY KEY (cell, id));`)); err != nil {
		t.Fatal(err)
	}
	if err := d.Migrate(t.Context(), schema()); !errs.Is(err, errs.Conflict) {
		t.Errorf("got %v, want a refusal", err)
	}
	if err := d.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestLookupSharesReadsAndFindsWhatIsThere(t *testing.T) {
	d := dbtest.Open(t, schema())
	for i := range 50 {
		if err := d.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Exec(ctx, insert, 1, id(i), int64(i*i), "")
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	var reads atomic.Int64
	entered, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	l := db.NewLookup(d, func(ctx context.Context, tx *db.Tx, keys []int) (map[int]int64, error) {
		reads.Add(1)
		once.Do(func() { close(entered); <-release })
		return readThings(ctx, tx, keys)
	})
	var wg sync.WaitGroup
	get := func(k int) {
		n, found, err := l.Get(t.Context(), k)
		if err != nil || found != (k < 50) || found && n != int64(k*k) {
			t.Errorf("key %d: %d, %v, %v", k, n, found, err)
		}
	}
	wg.Go(func() { get(0) })
	<-entered
	var asked sync.WaitGroup
	for i := range 200 {
		asked.Add(1)
		wg.Go(func() { asked.Done(); get(i % 60) })
	}
	asked.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := l.Get(ctx, 3); !errs.Is(err, errs.Unavailable) {
		t.Errorf("somebody who hung up got %v", err)
	}
	close(release)
	wg.Wait()
	if n := reads.Load(); n > 20 {
		t.Errorf("%d transactions for 201 reads: nothing was shared", n)
	}
}

func TestPostgresSaysWhatItRefused(t *testing.T) {
	server := os.Getenv("MOORING_TEST_DB")
	if server == "" {
		return // there is nobody to be refused by; TestBadPlacesAreNamed covers the server that does not answer
	}
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/no_such_database"
	_, err = db.Open(t.Context(), db.Options{URL: u.String(), Now: time.Now})
	if want := fmt.Sprintf("PostgreSQL at %s has no database \"no_such_database\"; create it, or name another in database.url", u.Hostname()); errs.Public(err) != want {
		t.Errorf("got %q, want %q", errs.Public(err), want)
	}
	u.Path, u.User = "/postgres", url.User("no_such_user")
	_, err = db.Open(t.Context(), db.Options{URL: u.String(), Now: time.Now})
	if want := fmt.Sprintf("PostgreSQL at %s does not let the user \"no_such_user\" in; check the user and the password of database.url", u.Hostname()); errs.Public(err) != want {
		t.Errorf("got %q, want %q", errs.Public(err), want)
	}
}
