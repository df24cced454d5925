package messagetest

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/message"
)

// patience is for what must happen; nothing is judged by how long it takes.
const patience = 30 * time.Second

// RunFabric checks what message.Fabric promises. Each part gets a fabric of its own from fresh.
func RunFabric(t *testing.T, fresh func(t *testing.T) message.Fabric) {
	for _, part := range []struct {
		name string
		run  func(t *testing.T, f message.Fabric)
	}{
		{"what is appended comes out as it was, under its key and in order", appends},
		{"followers hear everything from now on, in order", follows},
		{"a message with the same dedupe text is stored once", dedupes},
		{"a purge takes what lies under one key", purges},
		{"retained messages: the last one, by filter, until it is removed", retains},
		{"sessions are replaced by revision only", sessions},
		{"owners: epochs grow, and everybody hears", owns},
		{"announcements come to all, in order, from a place on", announces},
	} {
		t.Run(part.name, func(t *testing.T) { part.run(t, fresh(t)) })
	}
}

func limited(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// Store appends m and waits.
func Store(t *testing.T, f message.Fabric, m *message.Message, dedupe string) uint64 {
	t.Helper()
	seq, err := store(f, m, dedupe)
	if err != nil {
		t.Fatalf("Append(%s) = %v, want it stored", m.Topic, err)
	}
	return seq
}

func store(f message.Fabric, m *message.Message, dedupe string) (uint64, error) {
	type answer struct {
		seq uint64
		err error
	}
	answers := make(chan answer, 1)
	f.Append(m, dedupe, func(seq uint64, err error) { answers <- answer{seq, err} })
	a := <-answers
	return a.seq, a.err
}

func whole() *message.Message {
	m := &message.Message{Topic: "v1/dév 1/cmd/#not", Payload: []byte{0, 1, 255}, QoS: 2, Retain: true, Expiry: 77, Thing: "dev-1", Child: "child.7", From: "dev-1.b",
		At: 1_800_000_000_123, Stream: message.Down, Key: "dev-1",
		Properties: message.Properties{Format: 1, ContentType: "text/plain; charset=utf-8", ResponseTopic: "v1/answer", Correlation: []byte{7, 0, 8},
			User: []message.Pair{{Name: "a", Value: "1"}, {Name: "a", Value: "2"}, {Name: "", Value: "ü\r\n"}}}}
	m.ID[0], m.ID[15], m.Cert[3] = 1, 2, 3
	return m
}

func appends(t *testing.T, f message.Fabric) {
	ctx := limited(t)
	want := whole()
	want.Seq = Store(t, f, want, "")
	if want.Seq == 0 {
		t.Fatalf("Append gave the place 0, want 1 or more")
	}
	got, err := f.Next(ctx, message.Down, "dev-1", want.Seq-1)
	if err != nil {
		t.Fatalf("Next: %v", err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Next = %+v\nwant   %+v", got, want)
	}
	empty := &message.Message{Topic: "t", Thing: "dev-2", Stream: message.Down, Key: "dev-2"}
	empty.Seq = Store(t, f, empty, "")
	if got, err := f.Next(ctx, message.Down, "", want.Seq); err != nil || got.Seq != empty.Seq || len(got.Payload) != 0 || got.Topic != "t" {
		t.Errorf("Next(any key) = %+v, %v; want the one that was appended after", got, err)
	}
	if _, err := f.Next(ctx, message.Down, "dev-1", want.Seq); !errs.Is(err, errs.NotFound) {
		t.Errorf("Next(dev-1) after its last = %v, want NotFound", err)
	}
	if _, err := f.Next(ctx, message.Up, "", 0); !errs.Is(err, errs.NotFound) {
		t.Errorf("Next of an empty stream = %v, want NotFound", err)
	}
	if last, err := f.Last(ctx, message.Down); err != nil || last != empty.Seq {
		t.Errorf("Last = %d, %v; want %d", last, err, empty.Seq)
	}
	if last, err := f.Last(ctx, message.Cast); err != nil || last != 0 {
		t.Errorf("Last of an empty stream = %d, %v; want 0", last, err)
	}
	order(t, f, ctx)
}

// order appends many of several keys at once and wants each key's in their order.
func order(t *testing.T, f message.Fabric, ctx context.Context) {
	const keys, each = 5, 60
	var wait sync.WaitGroup
	wait.Add(keys * each)
	for i := range each {
		for k := range keys {
			m := &message.Message{Topic: "o", Payload: fmt.Appendf(nil, "%d", i), Stream: message.Up, Key: fmt.Sprintf("key %d.*>", k), Thing: "x"}
			f.Append(m, "", func(_ uint64, err error) {
				if err != nil {
					t.Errorf("Append: %v", err)
				}
				wait.Done()
			})
		}
	}
	wait.Wait()
	for k := range keys {
		var at uint64
		for i := range each {
			m, err := f.Next(ctx, message.Up, fmt.Sprintf("key %d.*>", k), at)
			if err != nil || string(m.Payload) != fmt.Sprint(i) {
				t.Fatalf("key %d: message %d is %v, %v", k, i, m, err)
			}
			at = m.Seq
		}
	}
}

func follows(t *testing.T, f message.Fabric) {
	Store(t, f, &message.Message{Topic: "before", Stream: message.Cast, Key: "k"}, "")
	ctx, stop := context.WithCancel(limited(t))
	defer stop()
	ready, heard := make(chan struct{}), make(chan string, 100)
	done := make(chan error, 1)
	go func() {
		done <- f.Follow(ctx, message.Cast, func() { close(ready) }, func(m *message.Message) { heard <- fmt.Sprint(m.Topic, m.Seq > 0) })
	}()
	<-ready
	for i := range 50 {
		Store(t, f, &message.Message{Topic: fmt.Sprint("after ", i, " "), Stream: message.Cast, Key: fmt.Sprint(i % 3)}, "")
		Store(t, f, &message.Message{Topic: "elsewhere", Stream: message.Down, Key: "k"}, "")
	}
	for i := range 50 {
		if got, want := <-heard, fmt.Sprint("after ", i, " true"); got != want {
			t.Fatalf("heard %q, want %q", got, want)
		}
	}
	stop()
	if err := <-done; err != nil && ctx.Err() == nil {
		t.Errorf("Follow = %v", err)
	}
}

func dedupes(t *testing.T, f message.Fabric) {
	ctx := limited(t)
	m := func(text string) *message.Message {
		return &message.Message{Topic: "t", Payload: []byte(text), Stream: message.Up, Key: "k"}
	}
	first := Store(t, f, m("a"), "s/1:7:0")
	if again := Store(t, f, m("a"), "s/1:7:0"); again != first {
		t.Errorf("the same text again has the place %d, want that of the first, %d", again, first)
	}
	if other := Store(t, f, m("b"), "s/1:7:1"); other == first {
		t.Errorf("another text has the same place")
	}
	if one, two := Store(t, f, m("c"), ""), Store(t, f, m("c"), ""); one == two {
		t.Errorf("without a text, two messages have one place")
	}
	var n int
	for at := uint64(0); ; n++ {
		m, err := f.Next(ctx, message.Up, "k", at)
		if errs.Is(err, errs.NotFound) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		at = m.Seq
	}
	if n != 4 {
		t.Errorf("there are %d messages, want 4", n)
	}
}

func purges(t *testing.T, f message.Fabric) {
	ctx := limited(t)
	for _, key := range []string{"a", "b", "a.b", "a"} {
		Store(t, f, &message.Message{Topic: key, Stream: message.Down, Key: key}, "")
	}
	if err := f.Purge(ctx, message.Down, "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Next(ctx, message.Down, "a", 0); !errs.Is(err, errs.NotFound) {
		t.Errorf("Next(a) after the purge = %v, want NotFound", err)
	}
	for _, key := range []string{"b", "a.b"} {
		if m, err := f.Next(ctx, message.Down, key, 0); err != nil || m.Topic != key {
			t.Errorf("Next(%s) = %v, %v; want it untouched", key, m, err)
		}
	}
	if err := f.Purge(ctx, message.Down, "nobody"); err != nil {
		t.Errorf("a purge of nothing = %v, want nil", err)
	}
}

func retains(t *testing.T, f message.Fabric) {
	ctx := limited(t)
	topics := func(filter string) (list []string) {
		if err := f.Retained(ctx, filter, func(m *message.Message) bool {
			list = append(list, m.Topic+"="+string(m.Payload))
			return true
		}); err != nil {
			t.Fatalf("Retained(%q): %v", filter, err)
		}
		slices.Sort(list)
		return list
	}
	const now = 1_800_000_000_000
	for _, topic := range []string{"a", "a/b", "a/b/c", "a//c", "/a", "a/b c*>.x", "ä/Z", "$s/a"} {
		if err := f.Retain(ctx, &message.Message{Topic: topic, Payload: []byte("1"), At: now, Thing: "x"}); err != nil {
			t.Fatalf("Retain(%q): %v", topic, err)
		}
	}
	for _, row := range []struct{ filter, want string }{
		{"a", "a=1"},
		{"a/b", "a/b=1"},
		{"a/+", "a/b c*>.x=1 a/b=1"},
		{"a/#", "a//c=1 a/b c*>.x=1 a/b/c=1 a/b=1 a=1"},
		{"a/+/c", "a//c=1 a/b/c=1"},
		{"+", "a=1"},
		{"/+", "/a=1"},
		{"#", "/a=1 a//c=1 a/b c*>.x=1 a/b/c=1 a/b=1 a=1 ä/Z=1"},
		{"$s/#", "$s/a=1"},
		{"ä/+", "ä/Z=1"},
		{"b/#", ""},
	} {
		if got := strings.Join(topics(row.filter), " "); got != row.want {
			t.Errorf("Retained(%q) = %q, want %q", row.filter, got, row.want)
		}
	}
	want := whole()
	want.Topic, want.Expiry, want.At, want.Seq, want.Stream, want.Key = "whole", 0, now, 5, message.Up, "dev-1"
	if err := f.Retain(ctx, want); err != nil {
		t.Fatal(err)
	}
	if err := f.Retained(ctx, "whole", func(got *message.Message) bool {
		got.Seq, got.Stream, got.Key = want.Seq, want.Stream, want.Key // where it lay is not kept with it
		if !reflect.DeepEqual(got, want) {
			t.Errorf("Retained = %+v\nwant       %+v", got, want)
		}
		return true
	}); err != nil {
		t.Fatal(err)
	}
	for _, payload := range []string{"2", ""} {
		if err := f.Retain(ctx, &message.Message{Topic: "a/b", Payload: []byte(payload), At: now}); err != nil {
			t.Fatal(err)
		}
		if got, want := strings.Join(topics("a/b"), " "), strings.Repeat("a/b=2", len(payload)); got != want {
			t.Errorf("after retaining %q: %q, want %q", payload, got, want)
		}
	}
	n := 0
	if err := f.Retained(ctx, "#", func(*message.Message) bool { n++; return n < 2 }); err != nil || n != 2 {
		t.Errorf("a walk that fn ended = %d, %v; want 2", n, err)
	}
}

func sessions(t *testing.T, f message.Fabric) {
	ctx := limited(t)
	const odd = "s/6f00/dev 1.ü*>x"
	if _, _, err := f.Session(ctx, odd); !errs.Is(err, errs.NotFound) {
		t.Errorf("Session of nobody = %v, want NotFound", err)
	}
	first, err := f.PutSession(ctx, odd, []byte("one"), 0, time.Hour)
	if err != nil || first == 0 {
		t.Fatalf("PutSession = %d, %v", first, err)
	}
	if _, err := f.PutSession(ctx, odd, []byte("two"), 0, time.Hour); !errs.Is(err, errs.Conflict) {
		t.Errorf("PutSession as if there were none = %v, want Conflict", err)
	}
	second, err := f.PutSession(ctx, odd, []byte("two"), first, 0)
	if err != nil || second == first {
		t.Fatalf("PutSession of the right revision = %d, %v", second, err)
	}
	if _, err := f.PutSession(ctx, odd, []byte("three"), first, time.Hour); !errs.Is(err, errs.Conflict) {
		t.Errorf("PutSession of an old revision = %v, want Conflict", err)
	}
	if data, revision, err := f.Session(ctx, odd); err != nil || string(data) != "two" || revision != second {
		t.Errorf("Session = %q, %d, %v; want two, %d", data, revision, err, second)
	}
	if _, err := f.PutSession(ctx, "s/2", []byte("x"), 7, 0); !errs.Is(err, errs.Conflict) {
		t.Errorf("PutSession of one that is not there = %v, want Conflict", err)
	}
	if _, err := f.PutSession(ctx, "s/2", []byte("x"), 0, 0); err != nil {
		t.Fatal(err)
	}
	var keys []string
	if err := f.Sessions(ctx, func(key string, data []byte, revision uint64) bool {
		keys = append(keys, fmt.Sprint(key, "=", string(data), revision > 0))
		return true
	}); err != nil {
		t.Fatal(err)
	}
	slices.Sort(keys)
	if want := []string{"s/2=xtrue", odd + "=twotrue"}; !slices.Equal(keys, want) {
		t.Errorf("Sessions = %q, want %q", keys, want)
	}
	_, revision, err := f.Session(ctx, odd)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.DropSession(ctx, odd, revision+1); !errs.Is(err, errs.Conflict) {
		t.Errorf("DropSession of another revision = %v, want Conflict", err)
	}
	for range 2 {
		if err := f.DropSession(ctx, odd, revision); err != nil && !errs.Is(err, errs.NotFound) {
			t.Errorf("DropSession = %v", err)
		}
	}
	if _, _, err := f.Session(ctx, odd); !errs.Is(err, errs.NotFound) {
		t.Errorf("Session that was dropped = %v, want NotFound", err)
	}
	if _, err := f.PutSession(ctx, odd, []byte("new"), 0, time.Hour); err != nil {
		t.Errorf("PutSession of one that was dropped = %v", err)
	}
	if err := f.DropSession(ctx, odd, revision); !errs.Is(err, errs.Conflict) {
		t.Errorf("DropSession of one that was put anew = %v, want Conflict", err)
	}
	if err := f.DropSession(ctx, odd, 0); err != nil {
		t.Errorf("DropSession of any revision = %v", err)
	}
	if _, _, err := f.Session(ctx, odd); !errs.Is(err, errs.NotFound) {
		t.Errorf("Session that was dropped again = %v, want NotFound", err)
	}
}

func owns(t *testing.T, f message.Fabric) {
	ctx, stop := context.WithCancel(limited(t))
	defer stop()
	if _, before, err := f.Own(ctx, "s/ü.1/x", "node/a"); err != nil || before != "" {
		t.Fatalf("Own = %q, %v; want nobody before", before, err)
	}
	ready, heard := make(chan struct{}), make(chan string, 10)
	go func() {
		if err := f.Owners(ctx, func() { close(ready) }, func(key, node string, epoch uint64) { heard <- fmt.Sprint(key, " ", node, " ", epoch) }); err != nil && ctx.Err() == nil {
			t.Errorf("Owners: %v", err)
		}
	}()
	<-ready
	first, before, err := f.Own(ctx, "s/ü.1/x", "node/b")
	if err != nil || before != "node/a" {
		t.Errorf("Own = %q, %v; want node/a before", before, err)
	}
	second, before, err := f.Own(ctx, "s/ü.1/x", "node/a")
	if err != nil || before != "node/b" || second <= first {
		t.Errorf("Own = %d, %q, %v; want an epoch above %d, and node/b before", second, before, err, first)
	}
	for _, want := range []string{fmt.Sprint("s/ü.1/x node/b ", first), fmt.Sprint("s/ü.1/x node/a ", second)} {
		if got := <-heard; got != want {
			t.Errorf("heard %q, want %q", got, want)
		}
	}
	if err := f.Disown(ctx, "s/ü.1/x", first); err != nil && !errs.Is(err, errs.Conflict) {
		t.Errorf("Disown of an old epoch = %v", err)
	}
	if _, before, _ := f.Own(ctx, "s/ü.1/x", "node/c"); before != "node/a" {
		t.Errorf("after Disown of an old epoch %q owned it, want node/a", before)
	}
	third, _, err := f.Own(ctx, "s/ü.1/x", "node/c")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Disown(ctx, "s/ü.1/x", third); err != nil {
		t.Errorf("Disown = %v", err)
	}
	last, before, err := f.Own(ctx, "s/ü.1/x", "node/d")
	if err != nil || before != "" || last <= third {
		t.Errorf("Own after Disown = %d, %q, %v; want nobody before, and an epoch above %d", last, before, err, third)
	}
}

func announces(t *testing.T, f message.Fabric) {
	ctx, stop := context.WithCancel(limited(t))
	defer stop()
	if err := f.Announce(ctx, []byte("zero")); err != nil {
		t.Fatal(err)
	}
	type said struct {
		place uint64
		text  string
	}
	listen := func(after uint64) (<-chan struct{}, <-chan said) {
		ready, heard := make(chan struct{}), make(chan said, 10)
		go func() {
			if err := f.Announced(ctx, after, func() { close(ready) }, func(place uint64, data []byte) { heard <- said{place, string(data)} }); err != nil && ctx.Err() == nil {
				t.Errorf("Announced: %v", err)
			}
		}()
		return ready, heard
	}
	ready, heard := listen(0)
	<-ready
	for _, text := range []string{"one", "two", "three"} {
		if err := f.Announce(ctx, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	var places []uint64
	for _, want := range []string{"one", "two", "three"} {
		got := <-heard
		if got.text != want || len(places) > 0 && got.place <= places[len(places)-1] {
			t.Fatalf("heard %+v after %d, want %q", got, places, want)
		}
		places = append(places, got.place)
	}
	_, late := listen(places[0])
	for i, want := range []string{"two", "three"} {
		if got := <-late; got.text != want || got.place != places[i+1] {
			t.Errorf("who came later heard %+v, want %q at %d", got, want, places[i+1])
		}
	}
}
