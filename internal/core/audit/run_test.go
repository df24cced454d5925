package audit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"mooring/internal/base/db"
	"mooring/internal/base/db/dbtest"
	"mooring/internal/base/errs"
)

// failingSigner fails until it is told not to.
type failingSigner struct {
	note.Signer
	broken bool
	calls  int
}

func (s *failingSigner) Sign(msg []byte) ([]byte, error) {
	s.calls++
	if s.broken {
		return nil, errors.New("the key is locked")
	}
	return s.Signer.Sign(msg)
}

func TestCrashBetweenCommitAndSigning(t *testing.T) {
	d := dbtest.Open(t, Schema())
	signer, verifier := testKey(t, 1)
	s := &failingSigner{Signer: signer, broken: true}
	l := New(d, Options{Origin: origin, Signer: s, Verifier: verifier, BatchKey: testBatchKey(1), Now: newClock().Now})
	fill(t, l, 0, 300)
	if err := l.Sequence(t.Context()); !errs.Is(err, errs.Unavailable) {
		t.Fatalf("sequencing with a locked key: %v, want Unavailable", err)
	}
	if _, _, err := l.Checkpoint(t.Context()); !errs.Is(err, errs.NotFound) {
		t.Errorf("there is a checkpoint nobody signed: %v", err)
	}
	if _, err := l.Prove(t.Context(), 0); !errs.Is(err, errs.NotFound) {
		t.Errorf("proving an unsigned entry: %v, want NotFound", err)
	}
	s.broken = false
	sequence(t, l) // nothing new was committed, yet the tree is to be signed
	wantClean(t, l, 300)
}

func TestCrashBeforeTheCommitRepeatsTheRound(t *testing.T) {
	l := openLog(t)
	fill(t, l, 0, 100)
	crash := errors.New("power failed")
	for range 2 {
		_, err := l.sequenceOnce(t.Context(), func(context.Context, *db.Tx) error { return crash }, nil)
		if !errors.Is(err, crash) {
			t.Fatalf("got %v, want the crash", err)
		}
	}
	wantClean(t, l, 100)
}

func TestTwoSequencersMakeOneTree(t *testing.T) {
	d := dbtest.Open(t, Schema())
	a, _ := newLog(t, d)
	b, _ := newLog(t, d)
	var wg sync.WaitGroup
	for i, l := range []*Log{a, b, a, b} {
		wg.Go(func() {
			for n := range 40 {
				if err := l.Record(t.Context(), sample(1000*i+n)); err != nil {
					t.Errorf("recording: %v", err)
				}
				if err := l.Sequence(t.Context()); err != nil {
					t.Errorf("sequencing: %v", err)
				}
			}
		})
	}
	wg.Wait()
	wantClean(t, a, 160)
}

// TestAStaleRoundIsRefused: a sequencer that was stopped after reading and goes on when another has moved the tree writes nothing.
func TestAStaleRoundIsRefused(t *testing.T) {
	l := openLog(t)
	for _, first := range []int{0, 50} { // with and without a tree before
		fill(t, l, first, 25)
		var stale *round
		err := l.db.View(t.Context(), func(ctx context.Context, tx *db.Tx) (err error) {
			stale, err = readRound(ctx, tx, l.macs, idleness(nil).done)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		fill(t, l, first+25, 25)
		sequence(t, l)
		if err := l.commit(t.Context(), noFence, stale); !errors.Is(err, errMoved) {
			t.Errorf("a stale round was written: %v", err)
		}
	}
	wantClean(t, l, 100)
}

func TestAZombieWithAStaleLeaseWritesNothing(t *testing.T) {
	d := dbtest.Open(t, Schema())
	l, _ := newLog(t, d)
	fill(t, l, 0, 10)
	leases := make(chan *db.Lease, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- d.Lead(ctx, leaseName, func(ctx context.Context, lease *db.Lease) error {
			leases <- lease
			<-ctx.Done()
			return nil
		})
	}()
	zombie := <-leases
	exec(t, l, `UPDATE lease SET epoch = epoch + 1, holder = 'successor' WHERE name = $1`, leaseName)
	if _, err := l.sequenceOnce(t.Context(), zombie.Fence, nil); !errs.Is(err, errs.Unavailable) {
		t.Errorf("the zombie's round: %v, want Unavailable", err)
	}
	if got, err := l.List(t.Context(), auditor, Query{}); err != nil || len(got) != 0 {
		t.Errorf("the zombie placed %d entries, %v", len(got), err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	wantClean(t, l, 10)
}

func TestNothingIsSignedThatDoesNotGrowOutOfTheLastSigned(t *testing.T) {
	for name, forge := range map[string]func(t *testing.T, l *Log){
		"smaller tree": func(t *testing.T, l *Log) {
			small := openLog(t)
			fill(t, small, 0, 5)
			sequence(t, small)
			moveCheckpoint(t, l, small)
		},
		"other tree of the same size": func(t *testing.T, l *Log) {
			other := openLog(t)
			fill(t, other, 50, 20)
			sequence(t, other)
			moveCheckpoint(t, l, other)
		},
		"other tree before": func(t *testing.T, l *Log) {
			other := openLog(t)
			fill(t, other, 50, 20)
			sequence(t, other)
			fill(t, other, 70, 5)
			moveCheckpoint(t, l, other)
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := openLog(t)
			fill(t, l, 0, 20)
			sequence(t, l)
			forge(t, l)
		})
	}
}

// moveCheckpoint gives tree, which has one checkpoint, that of signed in its place, and wants that nothing is signed any more.
func moveCheckpoint(t *testing.T, signed, tree *Log) {
	t.Helper()
	text, size, err := signed.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	exec(t, tree, `UPDATE checkpoint SET size = $1, text = $2`, size, text)
	before := tree.counts.checkpoints.Load()
	var cause *damage
	if err := tree.Sequence(t.Context()); !errs.Is(err, errs.Unavailable) || !errors.As(err, &cause) {
		t.Errorf("sequencing a tree that contradicts its last checkpoint: %v, want Unavailable", err)
	}
	if n := tree.counts.checkpoints.Load() - before; n != 0 {
		t.Errorf("%d checkpoints were signed", n)
	}
}

func TestAnotherKeysCheckpointStopsTheSigner(t *testing.T) {
	l := openLog(t)
	fill(t, l, 0, 20)
	sequence(t, l)
	l.signer, l.verifier = testKey(t, 2)
	fill(t, l, 20, 1)
	if err := l.Sequence(t.Context()); !errs.Is(err, errs.Unavailable) {
		t.Errorf("signing after a checkpoint of another key: %v, want Unavailable", err)
	}
}

func TestFewCheckpointsAreKept(t *testing.T) {
	l := openLog(t)
	for n := range 30 {
		fill(t, l, 100*n, 100)
		sequence(t, l)
	}
	var sizes []int64
	err := l.db.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		sizes = nil
		return tx.Each(ctx, func(r db.Row) error {
			sizes = append(sizes, 0)
			return r.Scan(&sizes[len(sizes)-1])
		}, `SELECT size FROM checkpoint WHERE cell = 0 ORDER BY size`)
	})
	if want := "[1000 2000 3000]"; err != nil || fmt.Sprint(sizes) != want {
		t.Errorf("kept checkpoints of %v, %v, want %s", sizes, err, want)
	}
}

func TestALargeBacklogKeepsItsOrder(t *testing.T) {
	l := openLog(t)
	const batches = 3 * roundBatches // on one stream or on eight, more than a round reads
	for n := range batches / 8 {
		fill(t, l, 8*n, 1)
	}
	for n := range 3 {
		many := make([]Entry, roundEntries/2)
		for i := range many {
			many[i] = Entry{At: int64(1_800_000_000 + n*len(many) + i), Action: "device.import", Actor: "operator:ab"}
		}
		if err := l.Record(t.Context(), many...); err != nil {
			t.Fatal(err)
		}
	}
	last, count := int64(0), int64(0)
	order := Checker{Name: "order", Entry: func(index int64, e Entry) error {
		count++
		if e.At <= last {
			return fmt.Errorf("%d after %d", e.At, last)
		}
		last = e.At
		return nil
	}}
	r := verify(t, l, VerifyOptions{Checkers: []Checker{order}})
	if want := int64(batches/8 + 3*roundEntries/2); len(r.Findings) > 0 || count != want {
		t.Errorf("%d entries, want %d; findings %v", count, want, r.Findings[:min(3, len(r.Findings))])
	}
	if rounds := l.counts.rounds.Load(); rounds < 2 {
		t.Errorf("%d rounds took it all, want more: the bound was not tried", rounds)
	}
}

// runs starts Run and ends it with the test.
func runs(t *testing.T, l *Log) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run ended with %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func TestRunSequencesAndWatchFollows(t *testing.T) {
	l := openLog(t)
	runs(t, l)
	fill(t, l, 0, 150)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	enough := errors.New("enough")
	next := int64(0)
	for _, until := range []int64{150, 170} { // the second time it goes on where the first one ended
		err := l.Watch(ctx, next, func(e Indexed) error {
			if e.Index != next || e.At != sample(int(next)).At {
				t.Errorf("got entry %d at %d, want %d at %d", e.Index, e.At, next, sample(int(next)).At)
			}
			if next++; next == until {
				return enough
			}
			return nil
		})
		if !errors.Is(err, enough) {
			t.Fatalf("Watch ended with %v at %d", err, next)
		}
		fill(t, l, int(until), 20)
	}
}

func TestIdleStreamsAreClosedAndDrained(t *testing.T) {
	d := dbtest.Open(t, Schema())
	l, c := newLog(t, d)
	seen := idleness{}
	round := func() {
		t.Helper()
		if _, err := l.sequenceOnce(t.Context(), noFence, seen); err != nil {
			t.Fatal(err)
		}
	}
	fill(t, l, 0, 100)
	round()
	round()
	c.move(idleAfter)
	round()              // closes
	round()              // drains
	fill(t, l, 100, 100) // under new streams
	wantClean(t, l, 200)
	var drained int64
	err := d.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Get(ctx, []any{&drained}, `SELECT COUNT(*) FROM stream WHERE closed = 2`)
		return err
	})
	if err != nil || drained == 0 {
		t.Errorf("%d streams are drained, %v, want some", drained, err)
	}
}

func TestMetrics(t *testing.T) {
	l, c := newLog(t, dbtest.Open(t, Schema()))
	lag := func() int64 {
		since := l.counts.behindSince.Load()
		if since == 0 {
			return 0
		}
		return c.Now().Unix() - since
	}
	fill(t, l, 0, 10)
	crash := errors.New("power failed")
	if _, err := l.sequenceOnce(t.Context(), func(context.Context, *db.Tx) error { return crash }, nil); !errors.Is(err, crash) {
		t.Fatal(err)
	}
	c.move(30 * time.Second)
	if got := lag(); got != 30 {
		t.Errorf("the lag is %d s, want 30", got)
	}
	sequence(t, l)
	if got := lag(); got != 0 || l.counts.size.Load() != 10 || l.counts.entries.Load() != 10 {
		t.Errorf("afterwards the lag is %d s, the tree %d, the count %d", got, l.counts.size.Load(), l.counts.entries.Load())
	}
	if n := len(l.Metrics()); n != 6 {
		t.Errorf("%d collectors, want 6", n)
	}
}
