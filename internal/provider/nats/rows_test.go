package nats_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/message"
	"mooring/internal/provider/nats"
	"mooring/internal/provider/nats/natstest"
)

func numbered(i int) *message.Message {
	return &message.Message{Topic: "t", Payload: fmt.Append(nil, i), Stream: message.Up, Key: fmt.Sprint("k", i%5), Thing: fmt.Sprint("k", i%3)}
}

// storeNumbers stores from..to-1 with many on their way at once. Places count on from the number.
func storeNumbers(t *testing.T, f *nats.Fabric, from, to int) {
	t.Helper()
	var all sync.WaitGroup
	for i := from; i < to; i++ {
		all.Add(1)
		f.Append(numbered(i), "", func(seq uint64, err error) {
			defer all.Done()
			if err != nil || seq != uint64(i+1) {
				t.Errorf("message %d is told to lie at %d, %v", i, seq, err)
			}
		})
	}
	all.Wait()
}

// checkNumbers wants 0..n-1 in Up, at places that count from 1, whichever way they are read.
func checkNumbers(t *testing.T, f *nats.Fabric, n int) {
	t.Helper()
	if last, err := f.Last(t.Context(), message.Up); err != nil || last != uint64(n) {
		t.Errorf("the last place is %d, %v, want %d", last, err, n)
	}
	next := 0
	right := func(m *message.Message) bool {
		want := numbered(next)
		want.Seq = uint64(next + 1)
		next++
		if !reflect.DeepEqual(m, want) {
			t.Errorf("message %d is %+v", next-1, m)
		}
		return true
	}
	for next < n { // in parts that end within rows
		before := next
		if err := f.Read(t.Context(), message.Up, uint64(next), 97, right); err != nil || next == before {
			t.Fatalf("reading after %d: %v", next, err)
		}
	}
	for range 50 {
		f.ForgetSpans()
		next = rand.IntN(n)
		m, err := f.Next(t.Context(), message.Up, "", uint64(next))
		if err != nil {
			t.Fatalf("the message after place %d: %v", next, err)
		}
		right(m)
	}
	f.ForgetSpans()
	if m, err := f.Next(t.Context(), message.Up, "", uint64(n)); !errs.Is(err, errs.NotFound) {
		t.Errorf("behind the last place lies %+v, %v", m, err)
	}
	var of []string
	for i := 3; i < n; i += 5 {
		of = append(of, fmt.Sprint(i))
	}
	if got := walk(t, f, message.Up, "k3"); !slices.Equal(got, of) {
		t.Errorf("under one key lie %v, want %v", got, of)
	}
}

// TestRowsBehindSingles: what the version before stored is read and counted on from, also over restarts.
func TestRowsBehindSingles(t *testing.T) {
	o := options(t.TempDir())
	f, end := open(t, o)
	for i := range 40 {
		if err := f.StoreAlone(t.Context(), numbered(i)); err != nil {
			t.Fatal(err)
		}
	}
	storeNumbers(t, f, 40, 900) // the first row is refused, since it was not known that there are others
	checkNumbers(t, f, 900)
	entries, err := f.Entries(t.Context())
	if err != nil || len(entries) > 40+(900-40)/2 {
		t.Errorf("900 messages are %d entries, %v: they should lie in rows", len(entries), err)
	}
	end()
	f, end = open(t, o)
	checkNumbers(t, f, 900)
	storeNumbers(t, f, 900, 1000)
	end()
	o.Durability = nats.Disk
	f = opened(t, o)
	storeNumbers(t, f, 1000, 1300)
	checkNumbers(t, f, 1300)
}

// TestRowsEmptied: places go on when everything has left the stream before a start; when the process was killed before it noted how far they were counted, some
// are left out and none is given again.
func TestRowsEmptied(t *testing.T) {
	o := options(t.TempDir())
	f, end := open(t, o)
	storeNumbers(t, f, 0, 500)
	if err := f.Empty(t.Context()); err != nil {
		t.Fatal(err)
	}
	if last, err := f.Last(t.Context(), message.Up); err != nil || last != 500 {
		t.Errorf("the last place of an empty stream is %d, %v", last, err)
	}
	end()
	f, end = open(t, o)
	storeNumbers(t, f, 500, 600)
	if err := f.Empty(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.Unnoted()
	end()
	f = opened(t, o)
	last, err := f.Last(t.Context(), message.Up)
	if err != nil || last < 600 {
		t.Errorf("the last place is %d, %v, want at least 600", last, err)
	}
	if seq := stored(t, f, numbered(0)); seq != last+1 {
		t.Errorf("the next place is %d, want %d", seq, last+1)
	}
}

// TestRowsTakenAlong takes the stream along to servers outside, where entries have one message again, and back.
func TestRowsTakenAlong(t *testing.T) {
	f, end := open(t, options(t.TempDir()))
	storeNumbers(t, f, 0, 600)
	entries, err := f.Entries(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	end()
	c := natstest.Start(t, 1)
	take := func(f *nats.Fabric) {
		t.Helper()
		for _, e := range entries {
			if err := f.StoreEntry(t.Context(), e); err != nil {
				t.Fatal(err)
			}
		}
	}
	f, end = open(t, options("", c.URLs()...))
	take(f)
	end()
	f, _ = open(t, options("", c.URLs()...))
	checkNumbers(t, f, 600)
	for i := range 50 {
		if seq := stored(t, f, numbered(600+i)); seq != uint64(601+i) {
			t.Fatalf("behind the rows a message is told to lie at %d, want %d", seq, 601+i)
		}
	}
	checkNumbers(t, f, 650)
	if entries, err = f.Entries(t.Context()); err != nil {
		t.Fatal(err)
	}

	o := options(t.TempDir())
	f, end = open(t, o)
	take(f)
	end()
	f = opened(t, o)
	storeNumbers(t, f, 650, 900)
	checkNumbers(t, f, 900)
}

// TestRowsLeftOutside: behind rows that have all left, entries of one message are counted on as they were.
func TestRowsLeftOutside(t *testing.T) {
	f, end := open(t, options(t.TempDir()))
	storeNumbers(t, f, 0, 600)
	entries, err := f.Entries(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	end()
	for name, o := range map[string]nats.Options{"outside": options("", natstest.Start(t, 1).URLs()...), "and back": options(t.TempDir())} {
		t.Run(name, func(t *testing.T) {
			f, end := open(t, o)
			for _, e := range entries {
				if err := f.StoreEntry(t.Context(), e); err != nil {
					t.Fatal(err)
				}
			}
			if err := f.StoreAlone(t.Context(), numbered(600)); err != nil {
				t.Fatal(err)
			}
			for next := uint64(602); next < 605; next++ {
				end()
				f, end = open(t, o)
				if seq := stored(t, f, numbered(0)); seq != next {
					t.Errorf("a message is told to lie at %d, want %d", seq, next)
				}
				if err := f.RowsLeave(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if m, err := f.Next(t.Context(), message.Up, "", 0); err != nil || m.Seq != 601 {
				t.Errorf("the first message is %+v, %v", m, err)
			}
		})
	}
}

// TestRowsUnnoted: also what was stored within the first minute of all is counted on from.
func TestRowsUnnoted(t *testing.T) {
	o := options(t.TempDir())
	f, end := open(t, o)
	storeNumbers(t, f, 0, 500)
	if err := f.Empty(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.Unnoted()
	end()
	f = opened(t, o)
	if last, err := f.Last(t.Context(), message.Up); err != nil || last < 500 {
		t.Errorf("the last place is %d, %v, want at least 500", last, err)
	}
}

// TestRowsWithoutRoom: where there is no room to note how far places are counted, the server works.
func TestRowsWithoutRoom(t *testing.T) {
	o := options(t.TempDir())
	o.MaxBytes = 1 << 20
	f, end := open(t, o)
	for _, size := range []int{10_000, 500, 1} {
		var err error
		for i := 0; err == nil; i++ {
			_, err = f.PutSession(t.Context(), fmt.Sprint(size, "-", i), make([]byte, size), 0, 0)
		}
		if !errs.Is(err, errs.Limited) {
			t.Fatal(err)
		}
	}
	stored(t, f, numbered(0))
	end()
	f = opened(t, o)
	if seq := stored(t, f, numbered(1)); seq != 2 {
		t.Errorf("it lies at %d, want 2", seq)
	}
}

// TestRowsLast: the last place is never beyond what is stored, also when the first message is stored while it is asked for: who reads on behind it would miss some.
func TestRowsLast(t *testing.T) {
	f := opened(t, options(t.TempDir()))
	for range 1000 {
		if err := f.Empty(t.Context()); err != nil {
			t.Fatal(err)
		}
		told := make(chan uint64, 1)
		f.Append(numbered(0), "", func(seq uint64, err error) {
			if err != nil {
				t.Errorf("storing: %v", err)
			}
			told <- seq
		})
		last, err := f.Last(t.Context(), message.Up)
		if seq := <-told; err != nil || last > seq {
			t.Fatalf("the last place was %d, %v, when the message at %d was being stored", last, err, seq)
		}
	}
}

// TestRowOnce: a message of a dedupe text has the place that it had, among and within rows, also after a restart.
func TestRowOnce(t *testing.T) {
	o := options(t.TempDir())
	f, end := open(t, o)
	storeNumbers(t, f, 0, 100)
	first, err := put(t, f, numbered(100), "text")
	if err != nil || first != 101 {
		t.Fatalf("it lies at %d, %v", first, err)
	}
	storeNumbers(t, f, 101, 300)
	for range 2 {
		if again, err := put(t, f, numbered(100), "text"); err != nil || again != first {
			t.Errorf("it lies at %d the second time, %v, want %d", again, err, first)
		}
		end()
		f, end = open(t, o)
	}
	storeNumbers(t, f, 300, 400)
	checkNumbers(t, f, 400)
}

// TestRowFollowed: who follows gets each message of a row, from the next one on.
func TestRowFollowed(t *testing.T) {
	f := opened(t, options(t.TempDir()))
	storeNumbers(t, f, 0, 100)
	heard := make(chan uint64, 500)
	following(t, func(ctx context.Context, ready func()) error {
		return f.Follow(ctx, message.Up, ready, func(m *message.Message) { heard <- m.Seq })
	})
	storeNumbers(t, f, 100, 500)
	for want := uint64(101); want <= 500; want++ {
		if got := <-heard; got != want {
			t.Fatalf("heard place %d, want %d", got, want)
		}
	}
}

// TestRowReadTwice has what Next returned belong to who asked: who reads the same row after that finds it as it was stored.
func TestRowReadTwice(t *testing.T) {
	f := opened(t, options(t.TempDir()))
	storeNumbers(t, f, 0, 100)
	for range 2 {
		for i := range 100 {
			want := numbered(i)
			want.Seq = uint64(i + 1)
			m, err := f.Next(t.Context(), message.Up, "", uint64(i))
			if err != nil || !reflect.DeepEqual(m, want) {
				t.Fatalf("behind %d lies %+v, %v", i, m, err)
			}
			clear(m.Payload)
		}
	}
}

func FuzzRow(f *testing.F) {
	whole := &message.Message{Topic: "a/ü", Payload: []byte("p"), QoS: 1, Retain: true, Thing: "dev", Key: "dev", At: time.Now().UnixMilli(), Stream: message.Up,
		Properties: message.Properties{ContentType: "c", Correlation: []byte("x"), User: []message.Pair{{Name: "n", Value: "v"}}}}
	f.Add(nats.Row(1, whole))
	f.Add(nats.Row(1<<60, &message.Message{Stream: message.Up, Key: "other"}, whole))
	f.Add([]byte{1, 1, 255})
	f.Fuzz(func(t *testing.T, entry []byte) {
		var list []*message.Message
		nats.Unpack(entry, func(m *message.Message) { list = append(list, m) })
		if len(list) == 0 || len(list) > 256 {
			return
		}
		for i, m := range list { // what was read can be stored, and is the same then
			var again []*message.Message
			nats.Unpack(nats.Row(m.Seq, m), func(m *message.Message) { again = append(again, m) })
			if len(again) != 1 || !reflect.DeepEqual(again[0], m) {
				t.Fatalf("message %d is %+v and then %+v", i, m, again)
			}
		}
	})
}
