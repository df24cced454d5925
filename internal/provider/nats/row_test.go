package nats_test

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"mooring/internal/core/message"
)

// TestBrokenRow breaks the connection with the embedded server while many messages are on their way: each is stored, in the order of its key, where its
// caller was told.
func TestBrokenRow(t *testing.T) {
	f := opened(t, options(t.TempDir()))
	const keys, each, breaks = 7, 600, 5
	places := make([][]uint64, keys)
	var all sync.WaitGroup
	var told atomic.Int64
	for i := range keys * each {
		k := i % keys
		all.Add(1)
		f.Append(&message.Message{Topic: "t", Payload: fmt.Append(nil, i/keys), Stream: message.Up, Key: fmt.Sprint(k)}, "", func(seq uint64, err error) {
			defer all.Done()
			if err != nil {
				t.Errorf("a message of key %d: %v", k, err)
			}
			places[k] = append(places[k], seq) // one after the other
			told.Add(1)
		})
		if i%(keys*each/breaks) == 50 {
			if err := f.Break(); err != nil {
				t.Fatal(err)
			}
		}
	}
	all.Wait()
	if last, err := f.Last(t.Context(), message.Up); err != nil || last != keys*each {
		t.Errorf("the last place is %d, %v, want %d: what is sent twice lies there once", last, err, keys*each)
	}
	for k := range keys {
		checkLane(t, walk(t, f, message.Up, fmt.Sprint(k)), each)
		if len(places[k]) != each || !slices.IsSorted(places[k]) {
			t.Errorf("key %d was told %d places, want %d in order", k, len(places[k]), each)
		}
		for i, seq := range places[k] {
			m, err := f.Next(t.Context(), message.Up, "", seq-1)
			if err != nil || m.Seq != seq || m.Key != fmt.Sprint(k) || string(m.Payload) != fmt.Sprint(i) {
				t.Fatalf("message %d of key %d is told to lie at %d, where %+v lies, %v", i, k, seq, m, err)
			}
		}
	}
}

// TestRepeatedInRow has texts come again among many others: what was stored before is not stored again, and has the place that it had.
func TestRepeatedInRow(t *testing.T) {
	f := opened(t, options(t.TempDir()))
	const texts, rounds = 50, 4
	places := make([][]uint64, texts)
	var all sync.WaitGroup
	for range rounds {
		for i := range texts {
			all.Add(2)
			f.Append(&message.Message{Topic: "t", Payload: fmt.Append(nil, i), QoS: 2, Stream: message.Up, Key: "twice"}, fmt.Sprint("text-", i), func(seq uint64, err error) {
				defer all.Done()
				if err != nil {
					t.Errorf("text %d: %v", i, err)
				}
				places[i] = append(places[i], seq)
			})
			f.Append(&message.Message{Topic: "t", Payload: fmt.Append(nil, i), Stream: message.Up, Key: "once"}, "", func(_ uint64, err error) {
				defer all.Done()
				if err != nil {
					t.Errorf("message %d: %v", i, err)
				}
			})
		}
	}
	all.Wait()
	for i, at := range places {
		slices.Sort(at)
		if at = slices.Compact(at); len(at) != 1 || at[0] == 0 {
			t.Errorf("text %d lies at %v, want one place", i, at)
		}
	}
	if got := walk(t, f, message.Up, "twice"); !slices.Equal(got, numbers(0, texts)) {
		t.Errorf("with texts there are %v", got)
	}
	if got := walk(t, f, message.Up, "once"); len(got) != rounds*texts {
		t.Errorf("without texts there are %d messages, want %d", len(got), rounds*texts)
	}
}

// TestRepeatedAfterStart has the first message after a start be one that was stored before, as a device does that connects again: its old place is none from
// which to count, and of what is refused for lack of room behind it nothing is said to be stored.
func TestRepeatedAfterStart(t *testing.T) {
	o := options(t.TempDir())
	o.MaxBytes = 4 << 20
	f, end := open(t, o)
	of := func(n int) *message.Message {
		return &message.Message{Topic: "t", Payload: bytes.Repeat([]byte{'x'}, n), QoS: 1, Stream: message.Up, Key: "k"}
	}
	if _, err := put(t, f, of(1), "before"); err != nil {
		t.Fatal(err)
	}
	behind := 0
	for _, size := range []int{200 << 10, 40 << 10} {
		for {
			if _, err := put(t, f, of(size), ""); err != nil {
				break
			}
			behind++
		}
	}
	end()
	f = opened(t, o)
	const large, small = 100 << 10, 2
	var all sync.WaitGroup
	var mu sync.Mutex
	stored := map[uint64]int{} // sizes of what is said to be stored
	add := func(size int, dedupe string) {
		all.Add(1)
		f.Append(of(size), dedupe, func(seq uint64, err error) {
			defer all.Done()
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				stored[seq] = size
			}
		})
	}
	add(1, "before")
	for range behind { // as many are refused as lie behind the one that is repeated
		add(large, "")
	}
	add(small, "")
	all.Wait()
	for seq, size := range stored {
		m, err := f.Next(t.Context(), message.Up, "", seq-1)
		if err != nil || m.Seq != seq || len(m.Payload) != size {
			t.Errorf("%d octets are said to lie at %d, where %v lies, %v", size, seq, m, err)
		}
	}
	if len(stored) != 2 {
		t.Errorf("%d messages are said to be stored, want the one that was and the small one", len(stored))
	}
}

// TestRowPushedOut stores more of one key in a row than is kept of it, with one among them that was stored before: the row is looked through, and those that have
// left meanwhile are told as stored.
func TestRowPushedOut(t *testing.T) {
	o := options(t.TempDir())
	o.PerThing = 5
	f := opened(t, o)
	m := func(text string) *message.Message {
		return &message.Message{Topic: "t", Payload: []byte(text), QoS: 1, Stream: message.Down, Key: "k"}
	}
	other := m("repeated")
	other.Key = "other"
	if _, err := put(t, f, other, "text"); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	places := make([]uint64, 200)
	for i := range places {
		all.Add(1)
		f.Append(m(fmt.Sprint(i)), "", func(seq uint64, err error) {
			defer all.Done()
			if err != nil {
				t.Errorf("message %d: %v", i, err)
			}
			places[i] = seq
		})
	}
	all.Add(1)
	f.Append(other, "text", func(seq uint64, err error) {
		defer all.Done()
		if err != nil || seq != 1 {
			t.Errorf("what was stored before lies at %d, %v", seq, err)
		}
	})
	all.Wait()
	if !slices.IsSorted(places) || places[len(places)-1]-places[0] != uint64(len(places)-1) {
		t.Errorf("the places are %v, want them one behind the other", places)
	}
}
