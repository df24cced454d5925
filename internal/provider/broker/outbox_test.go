package broker_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/db/dbtest"
	"mooring/internal/base/errs"
	"mooring/internal/provider/broker"
)

// recorder is a driver that writes down what it is told and fails as it is told to.
type recorder struct {
	mu     sync.Mutex
	told   []string
	fail   func(call string, names []string) error
	called chan struct{}
}

func newRecorder() *recorder { return &recorder{called: make(chan struct{}, 10_000)} }

func (r *recorder) do(call string, names []string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer func() { r.called <- struct{}{} }()
	if r.fail != nil {
		if err := r.fail(call, names); err != nil {
			return err
		}
	}
	for _, name := range names {
		r.told = append(r.told, call+" "+name)
	}
	return nil
}

func (r *recorder) Kick(_ context.Context, names []string) error { return r.do("kick", names) }
func (r *recorder) Ban(_ context.Context, names []string, until time.Time) error {
	if until.IsZero() {
		return r.do("ban", names)
	}
	return r.do(fmt.Sprintf("ban-%d", until.Unix()), names)
}
func (r *recorder) Lift(_ context.Context, names []string) error { return r.do("lift", names) }

func (r *recorder) list() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.told)
}

func outbox(d *db.DB, brokers ...broker.Broker) *broker.Outbox {
	return broker.New(broker.Options{DB: d, Brokers: brokers, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
}

// run runs an outbox until stop or the end of the test.
func run(t *testing.T, x *broker.Outbox) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- x.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// await waits for what the metric of the first broker is to say.
func await(t *testing.T, x *broker.Outbox, what string, met func(broker.Metric) bool) {
	t.Helper()
	late := time.After(time.Minute)
	for {
		m, err := x.Metrics(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if met(m[0]) {
			return
		}
		select {
		case <-late:
			t.Fatalf("not yet %s: %+v", what, m)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// settle waits until nothing is pending.
func settle(t *testing.T, x *broker.Outbox) []broker.Metric {
	t.Helper()
	late := time.After(time.Minute)
	for {
		m, err := x.Metrics(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(m, func(m broker.Metric) bool { return m.Pending > 0 }) {
			return m
		}
		select {
		case <-late:
			t.Fatalf("still pending: %+v", m)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestBanComesBeforeKickAndIsConfirmed(t *testing.T) {
	r := newRecorder()
	x := outbox(dbtest.Open(t, broker.Schema()), broker.Broker{Name: "b", Driver: r})
	if err := x.Cut(t.Context(), []string{"dev-1", "dev-2"}, time.Unix(2e9, 0)); err != nil {
		t.Fatal(err)
	}
	run(t, x)
	m := settle(t, x)
	want := []string{"ban-2000000000 dev-1", "ban-2000000000 dev-2", "kick dev-1", "kick dev-2"}
	if got := r.list(); !slices.Equal(got, want) {
		t.Errorf("told %v, want %v", got, want)
	}
	if m[0].Confirmed != 2 || m[0].Failed != 0 || m[0].Lag != 0 {
		t.Errorf("metrics %+v, want 2 confirmed and no lag", m[0])
	}
}

// TestWishesMeet: a wish that comes while another one waits takes nothing of it back that matters.
func TestWishesMeet(t *testing.T) {
	type step = func(x *broker.Outbox) error
	one := []string{"dev-1"}
	ban := func(x *broker.Outbox) error { return x.Cut(t.Context(), one, time.Time{}) }
	lift := func(x *broker.Outbox) error { return x.Lift(t.Context(), one) }
	kick := func(x *broker.Outbox) error { return x.Kick(t.Context(), one) }
	refresh := func(x *broker.Outbox) error { return x.Refresh(t.Context(), one) }
	for _, row := range []struct {
		name  string
		steps []step
		want  []string
	}{
		{"kick", []step{kick}, []string{"kick dev-1"}},
		{"refresh", []step{refresh}, []string{"lift dev-1", "kick dev-1"}},
		{"kick, while a ban waits", []step{ban, kick}, []string{"ban dev-1", "kick dev-1"}},
		{"kick, while it is to be let in", []step{lift, kick}, []string{"lift dev-1", "kick dev-1"}},
		{"let in, while a kick waits", []step{kick, lift}, []string{"lift dev-1", "kick dev-1"}},
		{"let in, while a ban waits", []step{ban, lift}, []string{"lift dev-1"}},
		{"kick after that", []step{ban, lift, kick}, []string{"lift dev-1", "kick dev-1"}},
		{"a ban comes last", []step{kick, lift, refresh, ban}, []string{"ban dev-1", "kick dev-1"}},
		{"refresh, while a ban waits", []step{ban, refresh}, []string{"lift dev-1", "kick dev-1"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := newRecorder()
			x := outbox(dbtest.Open(t, broker.Schema()), broker.Broker{Name: "b", Driver: r})
			for _, do := range row.steps {
				if err := do(x); err != nil {
					t.Fatal(err)
				}
			}
			run(t, x)
			settle(t, x)
			if got := r.list(); !slices.Equal(got, row.want) {
				t.Errorf("told %v, want %v", got, row.want)
			}
		})
	}
}

// TestToldUntilConfirmed: a broker that is away holds nobody up but itself, its lag shows, and it is told when it is back; also by another process.
func TestToldUntilConfirmed(t *testing.T) {
	d := dbtest.Open(t, broker.Schema())
	good, bad := newRecorder(), newRecorder()
	bad.fail = func(string, []string) error { return errs.New(errs.Unavailable, "away") }
	x := outbox(d, broker.Broker{Name: "good", Driver: good}, broker.Broker{Name: "bad", Driver: bad})
	stop := run(t, x)
	if err := x.Cut(t.Context(), []string{"dev-1"}, time.Time{}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // it was tried again
		<-bad.called
	}
	for range 2 {
		<-good.called
	}
	m, err := x.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if m[1].Pending != 1 || m[1].Lag <= 0 || m[1].Failed == 0 {
		t.Errorf("of the broker that is away: %+v, want one pending, with lag and failures", m[1])
	}
	stop()
	bad.mu.Lock()
	bad.fail = nil
	bad.mu.Unlock()
	y := outbox(d, broker.Broker{Name: "good", Driver: good}, broker.Broker{Name: "bad", Driver: bad})
	run(t, y)
	settle(t, y)
	want := []string{"ban dev-1", "kick dev-1"}
	for name, r := range map[string]*recorder{"good": good, "bad": bad} {
		if got := r.list(); !slices.Equal(got, want) {
			t.Errorf("%s was told %v, want %v", name, got, want)
		}
	}
}

// TestOneThingHoldsUpNoOther: what the broker refuses for ever is parted from the rest of its batch.
func TestOneThingHoldsUpNoOther(t *testing.T) {
	r := newRecorder()
	r.fail = func(_ string, names []string) error {
		if slices.Contains(names, "poison") {
			return errs.New(errs.Conflict, "no")
		}
		return nil
	}
	x := outbox(dbtest.Open(t, broker.Schema()), broker.Broker{Name: "b", Driver: r})
	var names []string
	for i := range 100 {
		names = append(names, fmt.Sprintf("dev-%02d", i))
	}
	if err := x.Cut(t.Context(), append(slices.Clone(names), "poison"), time.Time{}); err != nil {
		t.Fatal(err)
	}
	run(t, x)
	await(t, x, "the others confirmed", func(m broker.Metric) bool { return m.Confirmed == 100 && m.Pending == 1 })
	for _, name := range names {
		if !slices.Contains(r.list(), "kick "+name) {
			t.Errorf("%s was not kicked", name)
		}
	}
}

// TestTheLastWishCounts: a thing that was cut and let in again before the broker heard of either is let in.
func TestTheLastWishCounts(t *testing.T) {
	r := newRecorder()
	x := outbox(dbtest.Open(t, broker.Schema()), broker.Broker{Name: "b", Driver: r})
	if err := x.Cut(t.Context(), []string{"dev-1"}, time.Time{}); err != nil {
		t.Fatal(err)
	}
	if err := x.Lift(t.Context(), []string{"dev-1"}); err != nil {
		t.Fatal(err)
	}
	run(t, x)
	settle(t, x)
	if got := r.list(); !slices.Equal(got, []string{"lift dev-1"}) {
		t.Errorf("told %v, want only to lift", got)
	}
}

// TestALateConfirmationTakesNoNewWish: the thing is let in while the broker is still being told to cut it.
func TestALateConfirmationTakesNoNewWish(t *testing.T) {
	r := newRecorder()
	x := outbox(dbtest.Open(t, broker.Schema()), broker.Broker{Name: "b", Driver: r})
	once := sync.OnceFunc(func() {
		if err := x.Lift(t.Context(), []string{"dev-1"}); err != nil {
			t.Error(err)
		}
	})
	r.fail = func(call string, _ []string) error {
		if call == "kick" {
			once()
		}
		return nil
	}
	if err := x.Cut(t.Context(), []string{"dev-1"}, time.Time{}); err != nil {
		t.Fatal(err)
	}
	run(t, x)
	settle(t, x)
	if got, want := r.list(), []string{"ban dev-1", "kick dev-1", "lift dev-1"}; !slices.Equal(got, want) {
		t.Errorf("told %v, want %v", got, want)
	}
}

// TestKickedOnceMore: for brokers that learn from a file who is revoked.
func TestKickedOnceMore(t *testing.T) {
	r := newRecorder()
	x := outbox(dbtest.Open(t, broker.Schema()), broker.Broker{Name: "b", Driver: r, Again: time.Millisecond})
	if err := x.Cut(t.Context(), []string{"dev-1"}, time.Time{}); err != nil {
		t.Fatal(err)
	}
	run(t, x)
	for range 3 {
		<-r.called
	}
	if got, want := r.list(), []string{"ban dev-1", "kick dev-1", "kick dev-1"}; !slices.Equal(got, want) {
		t.Errorf("told %v, want %v", got, want)
	}
}

// TestLetInBeforeItIsKickedOnceMore: who is let in again while he is to be kicked once more is kicked all the same, and once more after that.
func TestLetInBeforeItIsKickedOnceMore(t *testing.T) {
	r := newRecorder()
	var clock atomic.Int64
	clock.Store(2e9)
	x := broker.New(broker.Options{DB: dbtest.Open(t, broker.Schema()), Brokers: []broker.Broker{{Name: "b", Driver: r, Again: time.Hour}}, Log: slog.New(slog.DiscardHandler),
		Now: func() time.Time { return time.Unix(clock.Load(), 0) }})
	if err := x.Cut(t.Context(), []string{"dev-1"}, time.Time{}); err != nil {
		t.Fatal(err)
	}
	run(t, x)
	await(t, x, "banned", func(m broker.Metric) bool { return m.Confirmed == 1 })
	if err := x.Lift(t.Context(), []string{"dev-1"}); err != nil {
		t.Fatal(err)
	}
	await(t, x, "let in", func(m broker.Metric) bool { return m.Confirmed == 2 })
	clock.Add(2 * 3600)
	if err := x.Kick(t.Context(), []string{"dev-2"}); err != nil { // so that somebody looks
		t.Fatal(err)
	}
	await(t, x, "kicked once more", func(m broker.Metric) bool { return m.Confirmed == 4 })
	if got, want := r.list(), []string{"ban dev-1", "kick dev-1", "lift dev-1", "kick dev-1", "kick dev-1", "kick dev-2"}; !slices.Equal(got, want) {
		t.Errorf("told %v, want %v", got, want)
	}
}

func TestManyThings(t *testing.T) {
	r := newRecorder()
	x := outbox(dbtest.Open(t, broker.Schema()), broker.Broker{Name: "b", Driver: r})
	var names []string
	for i := range 1200 {
		names = append(names, fmt.Sprintf("dev-%04d", i))
	}
	if err := x.Cut(t.Context(), names, time.Time{}); err != nil {
		t.Fatal(err)
	}
	run(t, x)
	settle(t, x)
	if got := r.list(); len(got) != 2*len(names) {
		t.Errorf("told %d things, want %d", len(got), 2*len(names))
	}
}
