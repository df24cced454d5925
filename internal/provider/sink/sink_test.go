package sink_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/db/dbtest"
	"mooring/internal/base/errs"
	"mooring/internal/core/message"
	"mooring/internal/provider/nats"
	"mooring/internal/provider/sink"
)

// fabric opens an embedded fabric, the log of these tests.
func fabric(t *testing.T) *nats.Fabric {
	t.Helper()
	f, err := nats.Open(t.Context(), nats.Options{Dir: t.TempDir(), Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the fabric: %v", err)
		}
	})
	return f
}

// published stores n messages, from three things in turn, numbered from first.
func published(t *testing.T, f *nats.Fabric, first, n int) {
	t.Helper()
	publishedBy(t, f, 3, first, n)
}

// publishedBy does that for so many things.
func publishedBy(t *testing.T, f *nats.Fabric, things, first, n int) {
	t.Helper()
	var tasks sync.WaitGroup
	for i := first; i < first+n; i++ {
		m := &message.Message{Topic: fmt.Sprintf("v1/dev-%d/telemetry/x", i%things), Payload: []byte(fmt.Sprint(i)), QoS: 1, Thing: fmt.Sprintf("dev-%d", i%things), At: time.Now().UnixMilli(), Stream: message.Up,
			Key:        fmt.Sprintf("dev-%d", i%things),
			Properties: message.Properties{User: []message.Pair{{Name: "n", Value: fmt.Sprint(i)}}}}
		tasks.Add(1)
		f.Append(m, "", func(_ uint64, err error) {
			if err != nil {
				t.Errorf("storing: %v", err)
			}
			tasks.Done()
		})
	}
	tasks.Wait()
}

// collector is a sink in memory that fails as it is told to.
type collector struct {
	mu    sync.Mutex
	got   []string // payloads
	fail  func(m *message.Message) error
	calls int
}

func (c *collector) Put(_ context.Context, b sink.Batch) (done int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls++
	for i, m := range b.Messages {
		if c.fail != nil {
			if err := c.fail(m); err != nil {
				return i, err
			}
		}
		c.got = append(c.got, string(m.Payload))
	}
	return len(b.Messages), nil
}

func (c *collector) Close() {}

func (c *collector) set(fail func(m *message.Message) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail = fail
}

func (c *collector) list() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.got)
}

// world is a log and a store for runners.
type world struct {
	log   *nats.Fabric
	db    *db.DB
	store *sink.Store
	said  *lines
}

func newWorld(t *testing.T) *world {
	t.Helper()
	d := dbtest.Open(t, sink.Schema())
	return &world{log: fabric(t), db: d, store: &sink.Store{DB: d, Tenant: "acme", Now: time.Now}, said: &lines{}}
}

// lines is what was logged.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (w *world) runner(s sink.Sink, change func(*sink.Options)) *sink.Runner {
	o := sink.Options{Name: "s", Sink: s, Log: w.log, Store: w.store, Tries: 2, Logger: slog.New(slog.NewTextHandler(w.said, nil))}
	if change != nil {
		change(&o)
	}
	return sink.New(o)
}

// run runs r until stop or the end of the test.
func run(t *testing.T, r *sink.Runner) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// until waits for what a metric is to say.
func until(t *testing.T, r *sink.Runner, what string, met func(m sink.Metric) bool) sink.Metric {
	t.Helper()
	late := time.After(2 * time.Minute)
	for {
		m, err := r.Metrics(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if met(m) {
			return m
		}
		select {
		case <-late:
			t.Fatalf("not yet %s: %+v", what, m)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func caughtUp(m sink.Metric) bool { return m.Running && m.Lag == 0 && m.Place > 0 }

func numbers(first, n int) (list []string) {
	for i := first; i < first+n; i++ {
		list = append(list, fmt.Sprint(i))
	}
	return list
}

// inOrder compares what arrived of each thing with what was published.
func inOrder(t *testing.T, got []string, first, n int) {
	t.Helper()
	of := func(list []string, thing int) (some []string) {
		for _, s := range list {
			var i int
			if _, err := fmt.Sscan(s, &i); err == nil && i%3 == thing {
				some = append(some, s)
			}
		}
		return some
	}
	if len(got) != n {
		t.Errorf("%d messages arrived, want %d", len(got), n)
	}
	for thing := range 3 {
		if g, w := of(got, thing), of(numbers(first, n), thing); !slices.Equal(g, w) {
			t.Errorf("of dev-%d arrived %v, want %v", thing, g, w)
		}
	}
}

// TestSinkIsAway: what is published while the receiver is away is there afterwards, in order, and the lag shows meanwhile; also over a restart.
func TestSinkIsAway(t *testing.T) {
	w := newWorld(t)
	c := &collector{}
	r := w.runner(c, func(o *sink.Options) { o.Batch = 7 })
	stop := run(t, r)
	published(t, w.log, 0, 10)
	until(t, r, "caught up", caughtUp)
	c.set(func(*message.Message) error { return errs.New(errs.Unavailable, "away") })
	published(t, w.log, 10, 10)
	m := until(t, r, "failing", func(m sink.Metric) bool { return m.Cause != "" && m.Lag == 10 })
	if m.Failures == 0 || m.Dead != 0 || m.Behind < 0 {
		t.Errorf("while it is away: %+v", m)
	}
	stop()
	published(t, w.log, 20, 10)
	c.set(nil)
	r = w.runner(c, nil)
	if m := until(t, r, "a lag before it runs", func(m sink.Metric) bool { return !m.Running }); m.Lag != 20 {
		t.Errorf("the lag of a sink that does not run is %d, want 20", m.Lag)
	}
	run(t, r)
	m = until(t, r, "caught up", caughtUp)
	inOrder(t, c.list(), 0, 30)
	if m.Delivered != 20 || m.Behind != 0 {
		t.Errorf("afterwards: %+v, want 20 delivered and nothing behind", m)
	}
}

// TestTakesAgain: that a sink failed is logged as an error, and once that it works again.
func TestTakesAgain(t *testing.T) {
	w := newWorld(t)
	c := &collector{fail: func(*message.Message) error { return errs.New(errs.Unavailable, "away") }}
	r := w.runner(c, nil)
	run(t, r)
	published(t, w.log, 0, 3)
	until(t, r, "failing", func(m sink.Metric) bool { return m.Cause != "" })
	const again = `level=INFO msg="a sink takes messages again" sink=s`
	if said := w.said.String(); strings.Contains(said, again) {
		t.Errorf("it fails still, and yet the log says\n%s", said)
	}
	c.set(nil)
	until(t, r, "caught up", caughtUp)
	published(t, w.log, 3, 3)
	until(t, r, "six delivered", func(m sink.Metric) bool { return m.Delivered == 6 })
	if said := w.said.String(); strings.Count(said, again) != 1 {
		t.Errorf("want %s once in\n%s", again, said)
	}
}

// TestRefusedForEver: one message that the receiver will not take is among the dead letters, with the reason, and all others arrive.
func TestRefusedForEver(t *testing.T) {
	w := newWorld(t)
	c := &collector{fail: func(m *message.Message) error {
		if string(m.Payload) == "4" {
			return errs.New(errs.Invalid, "no fours")
		}
		return nil
	}}
	r := w.runner(c, nil)
	run(t, r)
	published(t, w.log, 0, 10)
	m := until(t, r, "caught up", caughtUp)
	want := slices.DeleteFunc(numbers(0, 10), func(s string) bool { return s == "4" })
	got := c.list()
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("arrived %v, want %v", got, want)
	}
	dead, err := w.store.Dead(t.Context(), "s", "", 100)
	if err != nil {
		t.Fatal(err)
	}
	if m.Dead != 1 || len(dead) != 1 || dead[0].Reason != "no fours" || string(dead[0].Payload) != "4" || dead[0].Thing != "dev-1" || dead[0].Topic != "v1/dev-1/telemetry/x" {
		t.Fatalf("dead letters %+v, want one", dead)
	}
	handle := func(do func(context.Context, *db.Tx, string, []string) (int64, error), ids ...string) (n int64, err error) {
		err = w.db.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
			n, err = do(ctx, tx, "s", ids)
			return err
		})
		return n, err
	}
	if more, err := w.store.Dead(t.Context(), "s", dead[0].ID, 100); err != nil || len(more) != 0 {
		t.Errorf("after the last one there are %+v, %v", more, err)
	}
	for _, id := range []string{"zz-1", "nonsense", dead[0].ID + "0"} {
		if _, err := handle(w.store.Retry, dead[0].ID, id); !errs.Is(err, errs.NotFound) && !errs.Is(err, errs.Invalid) {
			t.Errorf("retrying %q: %v, want NotFound or Invalid", id, err)
		}
	}
	if again, err := w.store.Dead(t.Context(), "s", "", 100); err != nil || len(again) != 1 || again[0].Retry {
		t.Errorf("a retry that was refused marked %+v, %v", again, err)
	}
	// It is refused again, for another reason, and stays; then it is taken, with all that belongs to it.
	c.set(func(m *message.Message) error {
		if string(m.Payload) == "4" {
			return errs.New(errs.Invalid, "still no fours")
		}
		return nil
	})
	if n, err := handle(w.store.Retry, dead[0].ID); n != 1 || err != nil {
		t.Errorf("Retry = %d, %v", n, err)
	}
	reason := func() string {
		list, err := w.store.Dead(t.Context(), "s", "", 100)
		if err != nil || len(list) != 1 || list[0].Retry {
			return ""
		}
		return list[0].Reason
	}
	waitFor(t, "it is refused again", func() bool { return reason() == "still no fours" })
	var got4 *message.Message
	c.set(func(m *message.Message) error {
		got4 = m
		return nil
	})
	if n, err := handle(w.store.Retry); n != 1 || err != nil {
		t.Errorf("Retry of all = %d, %v", n, err)
	}
	waitFor(t, "it is taken", func() bool {
		list, err := w.store.Dead(t.Context(), "s", "", 100)
		return err == nil && len(list) == 0
	})
	c.mu.Lock()
	if got4 == nil || string(got4.Payload) != "4" || len(got4.User) != 1 || got4.User[0] != (message.Pair{Name: "n", Value: "4"}) || got4.QoS != 1 || got4.Thing != "dev-1" || sink.ID(0, got4) == sink.ID(0, &message.Message{}) {
		t.Errorf("handed over once more was %+v", got4)
	}
	c.mu.Unlock()
	c.set(func(m *message.Message) error { return errs.New(errs.Invalid, "nothing more") })
	published(t, w.log, 10, 1)
	until(t, r, "another dead letter", func(m sink.Metric) bool { return m.Dead == 1 })
	if n, err := handle(w.store.Drop); n != 1 || err != nil {
		t.Errorf("Drop = %d, %v; want 1", n, err)
	}
}

// TestRetryWithoutAnAnswer: a dead letter at which the receiver fails holds up no other one that is to be tried once more, and is among the dead again after some
// tries.
func TestRetryWithoutAnAnswer(t *testing.T) {
	w := newWorld(t)
	var ahead atomic.Int64
	w.store.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	refuse := func(err error, texts ...string) func(m *message.Message) error {
		return func(m *message.Message) error {
			if slices.Contains(texts, string(m.Payload)) {
				return err
			}
			return nil
		}
	}
	c := &collector{fail: refuse(errs.New(errs.Invalid, "no"), "1", "2")}
	r := w.runner(c, nil)
	run(t, r)
	published(t, w.log, 0, 4)
	until(t, r, "two dead letters", func(m sink.Metric) bool { return m.Dead == 2 && caughtUp(m) })
	c.set(refuse(errs.New(errs.Unavailable, "it fell over"), "1"))
	if err := w.db.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := w.store.Retry(ctx, tx, "s", nil)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the other one is taken", func() bool {
		ahead.Add(int64(time.Minute)) // nobody waits for the pauses
		return slices.Contains(c.list(), "2")
	})
	waitFor(t, "it is among the dead", func() bool {
		ahead.Add(int64(time.Minute))
		list, err := w.store.Dead(t.Context(), "s", "", 10)
		return err == nil && len(list) == 1 && !list[0].Retry && list[0].Reason == "it fell over"
	})
	published(t, w.log, 4, 1)
	until(t, r, "what is new arrives", func(m sink.Metric) bool { return m.Lag == 0 && slices.Contains(c.list(), "4") })
}

// waitFor waits until something is so.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("this never came true: %s", what)
		}
	}
}

// TestPoison: a device of which every message is refused holds up the others for no longer than a few short pauses for each.
func TestPoison(t *testing.T) {
	w := newWorld(t)
	tried := map[string]int{}
	c := &collector{fail: func(m *message.Message) error {
		if m.Thing == "dev-1" {
			tried[string(m.Payload)]++
			return errs.New(errs.Invalid, "the webhook answered with 422")
		}
		return nil
	}}
	published(t, w.log, 0, 12)
	r := w.runner(c, func(o *sink.Options) { o.Tries = 0 })
	run(t, r)
	m := until(t, r, "caught up", caughtUp)
	if m.Dead != 4 || len(c.list()) != 8 {
		t.Errorf("%d dead letters and %d arrived, want 4 and 8", m.Dead, len(c.list()))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for payload, n := range tried {
		if n != 3 {
			t.Errorf("%s was tried %d times, want 3", payload, n)
		}
	}
}

// TestRefusesEverything: a receiver that refuses whatever many things publish gets time, before all of it is among the dead letters.
func TestRefusesEverything(t *testing.T) {
	w := newWorld(t)
	mended, last, tries := false, "", 0
	c := &collector{}
	c.fail = func(m *message.Message) error {
		if string(m.Payload) != last {
			last, tries = string(m.Payload), 0
		}
		if tries++; tries > 3 {
			mended = true
		}
		if mended {
			return nil
		}
		return errs.New(errs.Invalid, "the webhook answered with 500")
	}
	publishedBy(t, w.log, 20, 0, 20)
	r := w.runner(c, func(o *sink.Options) { o.Tries = 1 })
	run(t, r)
	m := until(t, r, "caught up", caughtUp)
	if m.Dead != 8 || len(c.list()) != 12 {
		t.Errorf("%d dead letters and %d arrived, want 8, each of another thing, and 12", m.Dead, len(c.list()))
	}
}

// TestOutageIsNotTheMessagesFault: tries are counted only while the very message is refused.
func TestOutageIsNotTheMessagesFault(t *testing.T) {
	w := newWorld(t)
	c := &collector{}
	n := 0
	c.fail = func(*message.Message) error {
		n++
		switch n {
		case 1, 3:
			return errs.New(errs.Invalid, "no")
		case 2:
			return errs.New(errs.Unavailable, "away")
		}
		return nil
	}
	r := w.runner(c, nil)
	run(t, r)
	published(t, w.log, 0, 1)
	m := until(t, r, "caught up", caughtUp)
	if m.Dead != 0 || len(c.list()) != 1 {
		t.Errorf("%d dead letters and %d arrived, want none and one", m.Dead, len(c.list()))
	}
}

// TestTopics: a sink that wants some topics passes the others by without waiting for one.
func TestTopics(t *testing.T) {
	w := newWorld(t)
	c := &collector{}
	r := w.runner(c, func(o *sink.Options) { o.Topics = []string{"v1/dev-1/#", "nothing/+"} })
	run(t, r)
	published(t, w.log, 0, 9)
	until(t, r, "caught up", caughtUp)
	if got := c.list(); !slices.Equal(got, []string{"1", "4", "7"}) {
		t.Errorf("arrived %v, want 1 4 7", got)
	}
}

// remade is a log that says that it was made at another time, or holds less than before, or has lost its beginning.
type remade struct {
	*nats.Fabric
	born  int64
	short uint64
	gap   uint64
}

func (l remade) Born(ctx context.Context, s message.Stream) (int64, error) {
	if l.born != 0 {
		return l.born, nil
	}
	return l.Fabric.Born(ctx, s)
}

func (l remade) Last(ctx context.Context, s message.Stream) (uint64, error) {
	if l.short > 0 {
		return l.short, nil
	}
	return l.Fabric.Last(ctx, s)
}

func (l remade) Read(ctx context.Context, s message.Stream, after uint64, most int, fn func(m *message.Message) bool) error {
	return l.Fabric.Read(ctx, s, max(after, l.gap), most, fn)
}

// TestLogOfAnotherTime: a log that was made anew is passed on from its beginning, one from an older copy from its end, and what a log has lost is told.
func TestLogOfAnotherTime(t *testing.T) {
	for _, row := range []struct {
		name string
		log  func(f *nats.Fabric) remade
		want []string
		said string
	}{
		{"made anew", func(f *nats.Fabric) remade { return remade{Fabric: f, born: 1} }, append(numbers(0, 3), numbers(0, 6)...), "made anew"},
		{"an older copy", func(f *nats.Fabric) remade { return remade{Fabric: f, short: 2} }, append(numbers(0, 3), "2", "3", "4", "5"), "older copy"},
		{"its beginning lost", func(f *nats.Fabric) remade { return remade{Fabric: f, gap: 5} }, append(numbers(0, 3), "5"), "had left the log"},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			c := &collector{}
			r := w.runner(c, nil)
			stop := run(t, r)
			for i := range 3 { // one after the other: what is compared is the order of the log
				published(t, w.log, i, 1)
			}
			until(t, r, "caught up", caughtUp)
			stop()
			for i := range 3 {
				published(t, w.log, 3+i, 1)
			}
			r = w.runner(c, func(o *sink.Options) { o.Log = row.log(w.log) })
			run(t, r)
			until(t, r, "all of it", func(sink.Metric) bool { return len(c.list()) == len(row.want) })
			if got := c.list(); !slices.Equal(got, row.want) {
				t.Errorf("arrived %v, want %v", got, row.want)
			}
			if !strings.Contains(w.said.String(), row.said) {
				t.Errorf("nothing was said of %q:\n%s", row.said, w.said)
			}
		})
	}
}

// TestPlacesOfTwoSinks: one that is away holds up no other.
func TestPlacesOfTwoSinks(t *testing.T) {
	w := newWorld(t)
	good, bad := &collector{}, &collector{fail: func(*message.Message) error { return errs.New(errs.Unavailable, "away") }}
	one, two := w.runner(good, func(o *sink.Options) { o.Name = "good" }), w.runner(bad, func(o *sink.Options) { o.Name = "bad" })
	run(t, one)
	run(t, two)
	published(t, w.log, 0, 20)
	until(t, one, "caught up", caughtUp)
	inOrder(t, good.list(), 0, 20)
	until(t, two, "behind", func(m sink.Metric) bool { return m.Lag == 20 && m.Cause != "" })
}
