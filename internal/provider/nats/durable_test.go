package nats_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/message"
	"mooring/internal/provider/nats"
	"mooring/internal/provider/nats/natstest"
)

func TestRestartKeepsEverything(t *testing.T) {
	for _, d := range []nats.Durability{nats.Process, nats.Disk} {
		t.Run(string(d), func(t *testing.T) {
			o := options(t.TempDir())
			o.Durability = d
			f, end := open(t, o)
			for i := range 100 {
				stored(t, f, &message.Message{Topic: "t", Payload: fmt.Append(nil, i), Stream: message.Up, Key: "k"})
			}
			if err := f.Retain(t.Context(), &message.Message{Topic: "a/b", Payload: []byte("kept")}); err != nil {
				t.Fatal(err)
			}
			revision, err := f.PutSession(t.Context(), "s", []byte("session"), 0, time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			epoch, _, err := f.Own(t.Context(), "s", "node-1")
			if err != nil {
				t.Fatal(err)
			}
			if err := f.Announce(t.Context(), []byte("cut")); err != nil {
				t.Fatal(err)
			}
			born, err := f.Born(t.Context(), message.Up)
			if err != nil {
				t.Fatal(err)
			}
			end()

			f, _ = open(t, o)
			if got := walk(t, f, message.Up, "k"); !slices.Equal(got, numbers(0, 100)) {
				t.Errorf("messages are %v", got)
			}
			if got := retained(t, f, "#"); len(got) != 1 || string(got[0].Payload) != "kept" {
				t.Errorf("retained is %+v", got)
			}
			if data, again, err := f.Session(t.Context(), "s"); err != nil || string(data) != "session" || again != revision {
				t.Errorf("the session is %q, %d, %v", data, again, err)
			}
			if next, before, err := f.Own(t.Context(), "s", "node-2"); err != nil || before != "" || next <= epoch { // the process whose connection that was has ended
				t.Errorf("Own: %d %q %v", next, before, err)
			}
			if again, err := f.Born(t.Context(), message.Up); err != nil || again != born {
				t.Errorf("Born: %d %v, want %d", again, err, born)
			}
			heard := make(chan string, 1)
			following(t, func(ctx context.Context, ready func()) error {
				return f.Announced(ctx, 0, ready, func(uint64, []byte) {})
			})
			if err := f.Announce(t.Context(), []byte("cut 2")); err != nil {
				t.Fatal(err)
			}
			following(t, func(ctx context.Context, ready func()) error {
				return f.Announced(ctx, 1, ready, func(_ uint64, data []byte) { heard <- string(data) })
			})
			if got := <-heard; got != "cut 2" {
				t.Errorf("announced after the first is %q", got)
			}
		})
	}
}

// TestOtherDurability: a store that was made with one durability serves with the other.
func TestOtherDurability(t *testing.T) {
	o := options(t.TempDir())
	for i, d := range []nats.Durability{nats.Process, nats.Disk, nats.Process} {
		o.Durability = d
		f, end := open(t, o)
		stored(t, f, &message.Message{Topic: "t", Payload: fmt.Append(nil, i), Stream: message.Up, Key: "k"})
		if got := walk(t, f, message.Up, "k"); !slices.Equal(got, numbers(0, i+1)) {
			t.Errorf("with %s there are %v", d, got)
		}
		end()
	}
}

const crashEnv = "MOORING_NATS_CRASH_DIR"

// TestCrashChild is the process that TestCrash kills: it stores what it can and says what was acknowledged.
func TestCrashChild(t *testing.T) {
	dir := os.Getenv(crashEnv)
	if dir == "" {
		t.Skip("is started by TestCrash")
	}
	o := options(dir)
	o.Durability = nats.Durability(os.Getenv(crashEnv + "_DURABILITY"))
	f := opened(t, o)
	last, err := f.Last(t.Context(), message.Up)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	slots := make(chan struct{}, 256) // the load of a moment, not all that fits
	for i := last + 1; ; i++ {
		slots <- struct{}{}
		key := fmt.Sprint("k", i%crashKeys)
		f.Append(&message.Message{Topic: "t", Payload: fmt.Append(nil, i), Stream: message.Up, Key: key}, "", func(_ uint64, err error) {
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				_, err = fmt.Println("stored", key, i)
			}
			if err != nil {
				os.Exit(3) // the parent sees that
			}
			<-slots
		})
	}
}

const crashKeys = 8

// TestCrash kills a process under load: what was acknowledged is there, in the order of each key. MOORING_CRASH_ROUNDS says how often.
func TestCrash(t *testing.T) {
	rounds := 3
	if text := os.Getenv("MOORING_CRASH_ROUNDS"); text != "" {
		var err error
		if rounds, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []nats.Durability{nats.Process, nats.Disk} {
		t.Run(string(d), func(t *testing.T) {
			dir := t.TempDir()
			acknowledged, have := map[string][]int{}, map[string][]int{}
			after := uint64(0)
			for round := range rounds {
				crash(t, dir, d, 500+37*round, acknowledged)
				after = checkCrashed(t, dir, after, acknowledged, have)
			}
		})
	}
}

// crash lets a child store until it has acknowledged n messages, and kills it.
func crash(t *testing.T, dir string, d nats.Durability, n int, acknowledged map[string][]int) {
	t.Helper()
	child := exec.Command(os.Args[0], "-test.run=^TestCrashChild$")
	child.Env = append(os.Environ(), crashEnv+"="+dir, crashEnv+"_DURABILITY="+string(d))
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for seen := 0; lines.Scan(); seen++ {
		var key string
		var number int
		if _, err := fmt.Sscanf(lines.Text(), "stored %s %d", &key, &number); err != nil {
			continue // the kill may have come within a line
		}
		acknowledged[key] = append(acknowledged[key], number)
		if seen == n {
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	var exit *exec.ExitError
	if err := child.Wait(); !errors.As(err, &exit) || exit.ExitCode() != -1 {
		t.Fatalf("the child ended by itself: %v", err)
	}
}

// checkCrashed adds what lies after the given place to have, and returns the last place.
func checkCrashed(t *testing.T, dir string, after uint64, acknowledged, have map[string][]int) uint64 {
	t.Helper()
	f, end := open(t, options(dir))
	defer end()
	if err := f.Read(t.Context(), message.Up, after, 1<<30, func(m *message.Message) bool {
		after = m.Seq
		n, err := strconv.Atoi(string(m.Payload))
		if err != nil {
			t.Errorf("a message is %q", m.Payload)
		}
		have[m.Key] = append(have[m.Key], n)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	for key, want := range acknowledged {
		if !slices.IsSorted(have[key]) {
			t.Errorf("%s is not in order", key)
		}
		for _, n := range want {
			if _, found := slices.BinarySearch(have[key], n); !found {
				t.Fatalf("message %d of %s was acknowledged and is not there", n, key)
			}
		}
	}
	return after
}

func TestFullIsLimited(t *testing.T) {
	for name, o := range map[string]nats.Options{"process": options(t.TempDir()), "disk": options(t.TempDir()), "three nodes": cluster(natstest.Start(t, 3))} {
		t.Run(name, func(t *testing.T) {
			o.MaxBytes = 2 << 20
			if name == "disk" {
				o.Durability = nats.Disk
			}
			fill(t, opened(t, o))
		})
	}
}

// fill stores until the stream is full, with many on their way at once: what was acknowledged is there, the rest was refused as Limited.
func fill(t *testing.T, f *nats.Fabric) {
	payload := bytes.Repeat([]byte("x"), 10_000)
	var mu sync.Mutex
	var accepted []uint64
	refused := 0
	for range 4 {
		var all sync.WaitGroup
		for i := range 200 {
			all.Add(1)
			f.Append(&message.Message{Topic: "t", Payload: payload, Stream: message.Up, Key: fmt.Sprint(i % 5)}, "", func(seq uint64, err error) {
				defer all.Done()
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					accepted = append(accepted, seq)
				case errs.Is(err, errs.Limited):
					refused++
				default:
					t.Errorf("Append to a full stream: %v, want Limited", err)
				}
			})
		}
		all.Wait()
	}
	var have []uint64
	if err := f.Read(t.Context(), message.Up, 0, 1<<30, func(m *message.Message) bool {
		have = append(have, m.Seq)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	slices.Sort(accepted)
	if refused == 0 || len(accepted) == 0 || !slices.Equal(have, accepted) {
		t.Errorf("%d refused, %d accepted, %d there: none may be lost", refused, len(accepted), len(have))
	}
}

func TestTooLargeIsLimited(t *testing.T) {
	each(t, func(t *testing.T, f *nats.Fabric) {
		m := &message.Message{Topic: "t", Payload: make([]byte, 2<<20), Stream: message.Up, Key: "k"}
		if _, err := put(t, f, m, ""); !errs.Is(err, errs.Limited) {
			t.Errorf("Append of 2 MiB: %v, want Limited", err)
		}
		stored(t, f, &message.Message{Topic: "t", Stream: message.Up, Key: "k"})
	})
}

func TestOldestOfOneThingGo(t *testing.T) {
	o := options(t.TempDir())
	o.PerThing = 10
	f := opened(t, o)
	for i := range 25 {
		stored(t, f, &message.Message{Topic: "t", Payload: fmt.Append(nil, i), Stream: message.Down, Key: "busy"})
		if i == 0 {
			stored(t, f, &message.Message{Topic: "t", Payload: []byte("q"), Stream: message.Down, Key: "quiet"})
		}
	}
	if got := walk(t, f, message.Down, "busy"); !slices.Equal(got, numbers(15, 25)) {
		t.Errorf("busy has %v", got)
	}
	if got := walk(t, f, message.Down, "quiet"); !slices.Equal(got, []string{"q"}) {
		t.Errorf("quiet has %v", got)
	}
}

// TestLostNode loses each of three nodes under load, one after the other: what was acknowledged is there, in order, and a follower misses nothing.
func TestLostNode(t *testing.T) {
	c := natstest.Start(t, 3)
	f := opened(t, cluster(c))
	var mu sync.Mutex
	var followed, announced []uint64
	following(t, func(ctx context.Context, ready func()) error {
		return f.Follow(ctx, message.Up, ready, func(m *message.Message) { mu.Lock(); followed = append(followed, m.Seq); mu.Unlock() })
	})
	following(t, func(ctx context.Context, ready func()) error {
		return f.Announced(ctx, 0, ready, func(place uint64, _ []byte) { mu.Lock(); announced = append(announced, place); mu.Unlock() })
	})
	stop := make(chan struct{})
	acknowledged := make([][]int, 4)
	var load sync.WaitGroup
	for k := range acknowledged {
		load.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				err := available(func() error {
					_, err := put(t, f, &message.Message{Topic: "t", Payload: fmt.Append(nil, i), Stream: message.Up, Key: fmt.Sprint(k)}, "")
					return err
				})
				if err != nil {
					t.Errorf("message %d of key %d while a node is lost: %v", i, k, err)
					return
				}
				acknowledged[k] = append(acknowledged[k], i)
			}
		})
	}
	var revision uint64
	for i := range 3 {
		c.Lose(i)
		for name, fn := range map[string]func() error{
			"PutSession": func() error {
				now, err := f.PutSession(t.Context(), "s", fmt.Append(nil, i), revision, time.Hour)
				if err == nil {
					revision = now
				}
				return err
			},
			"Own":      func() error { _, _, err := f.Own(t.Context(), "s", fmt.Sprint(i)); return err },
			"Announce": func() error { return f.Announce(t.Context(), []byte("x")) },
		} {
			if err := available(fn); err != nil {
				t.Errorf("%s without node %d: %v", name, i, err)
			}
		}
		c.Return(i)
	}
	close(stop)
	load.Wait()
	total := 0
	for k, want := range acknowledged {
		total += len(want)
		checkLane(t, walk(t, f, message.Up, fmt.Sprint(k)), len(want))
	}
	if total == 0 {
		t.Fatal("nothing was stored at all")
	}
	last, err := f.Last(t.Context(), message.Up)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(followed) > 0 && followed[len(followed)-1] == last && len(announced) >= 3
	})
	mu.Lock()
	defer mu.Unlock()
	for i, seq := range followed {
		if seq != uint64(i+1) {
			t.Fatalf("the follower got place %d as number %d", seq, i+1)
		}
	}
}

// available does something until the others of a cluster have a leader, which takes ten seconds and more where the machine is busy and one that came back a moment ago
// is needed for it. It returns what is wrong besides, or still after a minute.
func available(fn func() error) error {
	for end := time.Now().Add(time.Minute); ; {
		if err := fn(); !errs.Is(err, errs.Unavailable) || time.Now().After(end) {
			return err
		}
	}
}

// checkLane wants 0 to n-1 in order; one of which the acknowledgement got lost may stand there twice, one after the other.
func checkLane(t *testing.T, have []string, n int) {
	t.Helper()
	if have := slices.Compact(have); len(have) < n || !slices.Equal(have[:n], numbers(0, n)) {
		t.Errorf("of %d acknowledged messages there are %d in another order: %s", n, len(have), strings.Join(have, " "))
	}
}

// eventually waits for what happens in another goroutine; only the test's own deadline ends it.
func eventually(t *testing.T, holds func() bool) {
	t.Helper()
	for !holds() {
		select {
		case <-t.Context().Done():
			t.Fatal("the test ended before")
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// clock is a time that can be put forward.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

func TestNobodyAcknowledges(t *testing.T) {
	c := natstest.Start(t, 1)
	var at clock
	o := options("", c.URLs()...)
	o.Now = at.now
	f := opened(t, o)
	stored(t, f, &message.Message{Topic: "t", Payload: []byte("0"), Stream: message.Up, Key: "k"})
	c.Lose(0)
	eventually(t, func() bool { return !f.Standing().Reached })
	refused := make(chan error, 3)
	for i := range 3 {
		f.Append(&message.Message{Topic: "t", Payload: fmt.Append(nil, i+1), Stream: message.Up, Key: "k"}, "", func(_ uint64, err error) { refused <- err })
	}
	at.ahead.Store(int64(11 * time.Second))
	for range 3 {
		if err := <-refused; !errs.Is(err, errs.Unavailable) {
			t.Errorf("Append without a server: %v, want Unavailable", err)
		}
	}

	// What is not as old waits for the server.
	waiting := make(chan error, 1)
	f.Append(&message.Message{Topic: "t", Payload: []byte("4"), Stream: message.Up, Key: "k"}, "", func(_ uint64, err error) { waiting <- err })
	c.Return(0)
	if err := <-waiting; err != nil {
		t.Errorf("Append while the server comes back: %v", err)
	}
	eventually(t, func() bool { return f.Standing().Reached })
	if got := walk(t, f, message.Up, "k"); !slices.Equal(slices.Compact(got), []string{"0", "4"}) {
		t.Errorf("stored is %v", got)
	}
}

// TestRefusedInOrder: what waits behind a message of its key that is given up is given up with it, or it would be stored before that when it is sent again.
func TestRefusedInOrder(t *testing.T) {
	c := natstest.Start(t, 1)
	var at clock
	o := options("", c.URLs()...)
	o.Now = at.now
	f := opened(t, o)
	c.Lose(0)
	eventually(t, func() bool { return !f.Standing().Reached })
	refused := make(chan error, 2)
	for i := range 2 {
		f.Append(&message.Message{Topic: "t", Payload: fmt.Append(nil, i), Stream: message.Up, Key: "k"}, "", func(_ uint64, err error) { refused <- err })
		at.ahead.Add(int64(6 * time.Second)) // the second one is not as old
	}
	if err := <-refused; !errs.Is(err, errs.Unavailable) {
		t.Errorf("Append without a server: %v, want Unavailable", err)
	}
	c.Return(0)
	if err := <-refused; !errs.Is(err, errs.Unavailable) {
		t.Errorf("Append behind that: %v, want Unavailable", err)
	}
	for i := range 2 {
		stored(t, f, &message.Message{Topic: "t", Payload: fmt.Append(nil, i), Stream: message.Up, Key: "k"})
	}
	if got := walk(t, f, message.Up, "k"); !slices.Equal(slices.Compact(got), []string{"0", "1"}) {
		t.Errorf("stored is %v", got)
	}
}

func TestCloseDrains(t *testing.T) {
	dir := t.TempDir()
	f, err := nats.Open(t.Context(), options(dir))
	if err != nil {
		t.Fatal(err)
	}
	var told atomic.Int64
	for i := range 2000 {
		f.Append(&message.Message{Topic: "t", Payload: fmt.Append(nil, i), Stream: message.Up, Key: fmt.Sprint(i % 3)}, "", func(_ uint64, err error) {
			if err != nil {
				t.Errorf("message %d: %v", i, err)
			}
			told.Add(1)
		})
	}
	for range 2 { // the second time changes nothing
		if err := f.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if told.Load() != 2000 {
		t.Errorf("Close returned when %d of 2000 were told", told.Load())
	}
	if _, err := put(t, f, &message.Message{Topic: "t", Stream: message.Up, Key: "k"}, ""); !errs.Is(err, errs.Unavailable) {
		t.Errorf("Append after Close: %v, want Unavailable", err)
	}
	if _, err := f.Next(t.Context(), message.Up, "0", 0); !errs.Is(err, errs.Unavailable) {
		t.Errorf("Next after Close: %v, want Unavailable", err)
	}
	f, _ = open(t, options(dir))
	if last, err := f.Last(t.Context(), message.Up); last != 2000 || err != nil {
		t.Errorf("after Close there are %d messages, %v", last, err)
	}
}
