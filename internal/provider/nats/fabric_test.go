package nats_test

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
	"mooring/internal/provider/nats"
	"mooring/internal/provider/nats/natstest"
)

// TestFabric holds both forms of the fabric to the contract of message.Fabric. One cluster serves all rows: each has names of its own.
func TestFabric(t *testing.T) {
	rows := []struct {
		name string
		row  func(t *testing.T, f *nats.Fabric)
	}{
		{"messages come back as they were", testWhole},
		{"the order of each key is kept", testOrder},
		{"a repeated dedupe text is stored once", testDedupe},
		{"following begins now and misses nothing", testFollow},
		{"keys and streams are told apart", testKeys},
		{"purging removes one key", testPurge},
		{"odd topics and keys", testOdd},
		{"retained messages by filter", testRetained},
		{"retained messages go", testRetainedGone},
		{"sessions", testSessions},
		{"many sessions are listed", testSessionList},
		{"owners", testOwners},
		{"who owns is one when many want", testOwnRace},
		{"announcements", testAnnounced},
		{"reading by a cursor", testRead},
		{"standing", testStanding},
	}
	t.Run("embedded", func(t *testing.T) {
		for _, r := range rows {
			t.Run(r.name, func(t *testing.T) { r.row(t, opened(t, options(t.TempDir()))) })
		}
	})
	t.Run("three nodes", func(t *testing.T) {
		o := cluster(natstest.Start(t, 3))
		for i, r := range rows {
			o.Name = fmt.Sprintf("row%d", i)
			o.MaxBytes = 4 << 20
			t.Run(r.name, func(t *testing.T) { r.row(t, opened(t, o)) })
		}
	})
}

// whole is a message in which everything is said.
func whole() *message.Message {
	return &message.Message{
		Topic: "v1/acme/dev 1/ü", Payload: []byte("a\x00b\r\n\xff"), QoS: 2, Retain: true, Expiry: 4_000_000_000,
		Properties: message.Properties{Format: 1, ContentType: "text/plain; charset=utf-8", ResponseTopic: "r/*/>", Correlation: []byte{0, 13, 10, 255},
			User: []message.Pair{{Name: "a", Value: "b"}, {Name: "a", Value: ""}, {Name: "x: y\r\n", Value: "\t"}}},
		Thing: "dev-1", Child: "child 7", From: "dev-1.app", ID: [16]byte{1, 2, 3}, Cert: [16]byte{15: 9}, At: time.Now().UnixMilli(),
		Stream: message.Down, Key: "dev-1",
	}
}

func testWhole(t *testing.T, f *nats.Fabric) {
	followed := make(chan *message.Message, 1)
	following(t, func(ctx context.Context, ready func()) error {
		return f.Follow(ctx, message.Down, ready, func(m *message.Message) { followed <- m })
	})
	want := whole()
	want.Seq = stored(t, f, want)
	if got := <-followed; !reflect.DeepEqual(got, want) {
		t.Errorf("Follow gives\n%+v, want\n%+v", got, want)
	}
	got, err := f.Next(t.Context(), message.Down, "dev-1", 0)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("Next gives\n%+v %v, want\n%+v", got, err, want)
	}
	if err := f.Retain(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	kept := retained(t, f, want.Topic)
	if len(kept) != 1 || !reflect.DeepEqual(kept[0], want) {
		t.Errorf("Retained gives\n%+v, want\n%+v", kept, want)
	}
	bare := &message.Message{Topic: "t", Stream: message.Down, Key: "bare"}
	bare.Seq = stored(t, f, bare)
	if got, err := f.Next(t.Context(), message.Down, "bare", 0); err != nil || got.Topic != "t" || len(got.Payload) != 0 || got.QoS != 0 || got.User != nil {
		t.Errorf("Next of a bare message gives %+v %v", got, err)
	}
}

func testOrder(t *testing.T, f *nats.Fabric) {
	const keys, each = 16, 50
	var all sync.WaitGroup
	for k := range keys {
		all.Go(func() {
			var stored sync.WaitGroup
			last := uint64(0)
			for i := range each {
				stored.Add(1)
				f.Append(&message.Message{Topic: "t", Payload: fmt.Append(nil, i), Stream: message.Up, Key: fmt.Sprint("k", k)}, "", func(seq uint64, err error) {
					defer stored.Done()
					if err != nil || seq <= last {
						t.Errorf("done of message %d of key %d: place %d after %d, %v", i, k, seq, last, err)
					}
					last = seq
				})
			}
			stored.Wait()
		})
	}
	all.Wait()
	for k := range keys {
		if got := walk(t, f, message.Up, fmt.Sprint("k", k)); !slices.Equal(got, numbers(0, each)) {
			t.Errorf("key %d has %v", k, got)
		}
	}
}

func numbers(from, to int) []string {
	var all []string
	for i := from; i < to; i++ {
		all = append(all, fmt.Sprint(i))
	}
	return all
}

// walk gives the payloads under key, read as a session does.
func walk(t *testing.T, f message.Fabric, s message.Stream, key string) []string {
	t.Helper()
	var all []string
	for after := uint64(0); ; {
		m, err := f.Next(t.Context(), s, key, after)
		if errs.Is(err, errs.NotFound) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all, after = append(all, string(m.Payload)), m.Seq
	}
}

func testDedupe(t *testing.T, f *nats.Fabric) {
	m := func(payload string) *message.Message {
		return &message.Message{Topic: "t", Payload: []byte(payload), Stream: message.Up, Key: "k"}
	}
	first, err := put(t, f, m("1"), "s 1:7")
	if err != nil {
		t.Fatal(err)
	}
	other, err := put(t, f, m("2"), "s 1:8")
	if err != nil || other == first {
		t.Fatalf("another dedupe text: place %d, %v", other, err)
	}
	again, err := put(t, f, m("1"), "s 1:7")
	if err != nil || again != first {
		t.Errorf("the same dedupe text: place %d, %v, want %d", again, err, first)
	}
	if got := walk(t, f, message.Up, "k"); !slices.Equal(got, []string{"1", "2"}) {
		t.Errorf("stored %v", got)
	}
}

func testFollow(t *testing.T, f *nats.Fabric) {
	stored(t, f, &message.Message{Topic: "before", Stream: message.Cast, Key: "k"})
	topics := make(chan string, 1000)
	following(t, func(ctx context.Context, ready func()) error {
		return f.Follow(ctx, message.Cast, ready, func(m *message.Message) { topics <- m.Topic })
	})
	for i := range 300 {
		stored(t, f, &message.Message{Topic: fmt.Sprint(i), Stream: message.Cast, Key: fmt.Sprint(i % 7)})
	}
	for i := range 300 {
		if got := <-topics; got != fmt.Sprint(i) {
			t.Fatalf("message %d is %q", i, got)
		}
	}
}

func testKeys(t *testing.T, f *nats.Fabric) {
	for _, s := range []message.Stream{message.Up, message.Down, message.Cast} {
		if last, err := f.Last(t.Context(), s); last != 0 || err != nil {
			t.Errorf("the last place in the empty stream %d is %d, %v", s, last, err)
		}
		for _, k := range []string{"dev-1", "dev-10", "dev", "dev-1"} {
			stored(t, f, &message.Message{Topic: "t", Payload: fmt.Append(nil, s, k), Stream: s, Key: k})
		}
		if last, err := f.Last(t.Context(), s); last != 4 || err != nil {
			t.Errorf("the last place in stream %d is %d, %v, want 4", s, last, err)
		}
		if got, want := walk(t, f, s, "dev-1"), []string{fmt.Sprint(s, "dev-1"), fmt.Sprint(s, "dev-1")}; !slices.Equal(got, want) {
			t.Errorf("stream %d has %v under dev-1, want %v", s, got, want)
		}
		if m, err := f.Next(t.Context(), s, "", 1); err != nil || m.Seq != 2 || m.Key != "dev-10" {
			t.Errorf("Next of any key after 1: %+v %v", m, err)
		}
	}
	if _, err := put(t, f, &message.Message{Topic: "t", Stream: 9, Key: "k"}, ""); !errs.Is(err, errs.Invalid) {
		t.Errorf("Append to a stream that is none: %v, want Invalid", err)
	}
	if _, err := put(t, f, &message.Message{Topic: "t", Stream: message.Up, Key: strings.Repeat("ü", 2000)}, ""); !errs.Is(err, errs.Invalid) {
		t.Errorf("Append under a key of 4000 octets: %v, want Invalid", err)
	}
}

func testPurge(t *testing.T, f *nats.Fabric) {
	for _, k := range []string{"a", "b", "*", ">", "a", ""} {
		stored(t, f, &message.Message{Topic: "t", Payload: []byte("x" + k), Stream: message.Down, Key: k})
	}
	for _, k := range []string{"a", "*", ">", "", "none"} {
		if err := f.Purge(t.Context(), message.Down, k); err != nil {
			t.Fatalf("Purge(%q): %v", k, err)
		}
	}
	if got := walk(t, f, message.Down, ""); !slices.Equal(got, []string{"xb"}) {
		t.Errorf("left is %v, want xb alone", got)
	}
	if next := stored(t, f, &message.Message{Topic: "t", Stream: message.Down, Key: "a"}); next != 7 {
		t.Errorf("the next place is %d, want 7: places are never given twice", next)
	}
}

// oddities are texts that NATS would take for something else as a subject or a header. No two may be mixed up.
var oddities = []string{" ", "*", ">", ".", "a.b", "a b", " a", "a ", "a", "A", "/", "//", "a/", "/a", "a//b", "a/b", "=", "=41", "a=", "%", "%41", "%25", "$SYS/x", "$JS/API", "..", "a/../b",
	"ü", "u\u0308", "日本/語", "🙂", "\ufeff", "\u007f", "\t", "a:b", "Nats-Msg-Id: x", "#x", strings.Repeat("l/", 255) + "zz", strings.Repeat("ü", 256), strings.Repeat("*", 512)}

func testOdd(t *testing.T, f *nats.Fabric) {
	for _, topic := range oddities {
		m := &message.Message{Topic: topic, Payload: []byte(topic), Stream: message.Up, Key: topic}
		stored(t, f, m)
		if err := f.Retain(t.Context(), m); err != nil {
			t.Fatalf("Retain(%q): %v", topic, err)
		}
		if _, err := f.PutSession(t.Context(), topic, []byte(topic), 0, time.Hour); err != nil {
			t.Fatalf("PutSession(%q): %v", topic, err)
		}
		if _, before, err := f.Own(t.Context(), topic, topic); err != nil || before != "" {
			t.Fatalf("Own(%q): before it was %q, %v", topic, before, err)
		}
	}
	for _, topic := range oddities {
		if got := walk(t, f, message.Up, topic); !slices.Equal(got, []string{topic}) {
			t.Errorf("under key %q lies %q", topic, got)
		}
		if m, err := f.Next(t.Context(), message.Up, topic, 0); err != nil || m.Topic != topic || m.Key != topic {
			t.Errorf("Next(%q) gives %+v %v", topic, m, err)
		}
		if data, _, err := f.Session(t.Context(), topic); err != nil || string(data) != topic {
			t.Errorf("Session(%q) gives %q, %v", topic, data, err)
		}
		if topic == "#x" {
			continue // no filter
		}
		if got := retained(t, f, topic); len(got) != 1 || got[0].Topic != topic {
			t.Errorf("Retained(%q) gives %d messages", topic, len(got))
		}
	}
}

// retained gives what Retained calls for, by topic.
func retained(t *testing.T, f message.Fabric, filter string) []*message.Message {
	t.Helper()
	var all []*message.Message
	if err := f.Retained(t.Context(), filter, func(m *message.Message) bool { all = append(all, m); return true }); err != nil {
		t.Fatalf("Retained(%q): %v", filter, err)
	}
	slices.SortFunc(all, func(a, b *message.Message) int { return strings.Compare(a.Topic, b.Topic) })
	return all
}

func testRetained(t *testing.T, f *nats.Fabric) {
	for _, topic := range []string{"a", "a/b", "a/b/c", "a//c", "a/+x", "b", "b.c/d", "/a", "$SYS/a", "$SYS/a/b", "a b/c"} {
		if err := f.Retain(t.Context(), &message.Message{Topic: topic, Payload: []byte(topic)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, row := range []struct{ name, filter, want string }{
		{"all but $", "#", "/a a a b/c a/+x a/b a/b/c a//c b b.c/d"},
		{"a topic", "a/b", "a/b"},
		{"none", "a/x", ""},
		{"parent level", "a/#", "a a/+x a/b a/b/c a//c"},
		{"deeper parent level", "a/b/#", "a/b a/b/c"},
		{"one level", "+", "a b"},
		{"two levels", "+/+", "/a a b/c a/+x a/b b.c/d"},
		{"an empty level", "a//c", "a//c"},
		{"a wildcard for an empty level", "a/+/c", "a/b/c a//c"},
		{"a leading empty level", "/+", "/a"},
		{"a dot is no border", "b.c/+", "b.c/d"},
		{"a dot is no level", "b/c/d", ""},
		{"no wildcard for $", "+/a", "/a"},
		{"no wildcard for $, with #", "+/#", "/a a a b/c a/+x a/b a/b/c a//c b b.c/d"},
		{"$ by name", "$SYS/#", "$SYS/a $SYS/a/b"},
		{"$ by name and level", "$SYS/+", "$SYS/a"},
		{"NATS wildcards are none", "*", ""},
		{"NATS wildcards are none, at the end", ">", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			var topics []string
			for _, m := range retained(t, f, row.filter) {
				topics = append(topics, m.Topic)
			}
			slices.Sort(topics)
			want := sorted(row.want, []string{"a b/c"})
			if !slices.Equal(topics, want) {
				t.Errorf("%q gives %q, want %q", row.filter, topics, want)
			}
		})
	}
	for _, filter := range []string{"a/#/b", "a#", "a/b+", "+a/b"} {
		if err := f.Retained(t.Context(), filter, func(*message.Message) bool { return true }); !errs.Is(err, errs.Invalid) {
			t.Errorf("Retained(%q): %v, want Invalid", filter, err)
		}
	}
	calls := 0
	if err := f.Retained(t.Context(), "a/#", func(*message.Message) bool { calls++; return false }); err != nil || calls != 1 {
		t.Errorf("Retained that is told to end calls %d times, %v", calls, err)
	}
}

// sorted splits at blanks, except in the given texts.
func sorted(text string, blank []string) []string {
	for _, b := range blank {
		text = strings.ReplaceAll(text, b, strings.ReplaceAll(b, " ", "\x00"))
	}
	all := strings.Fields(text)
	for i := range all {
		all[i] = strings.ReplaceAll(all[i], "\x00", " ")
	}
	slices.Sort(all)
	return all
}

func testRetainedGone(t *testing.T, f *nats.Fabric) {
	retain := func(payload string, expiry uint32, at time.Time) {
		t.Helper()
		if err := f.Retain(t.Context(), &message.Message{Topic: "a/b", Payload: []byte(payload), Expiry: expiry, At: at.UnixMilli()}); err != nil {
			t.Fatal(err)
		}
	}
	want := func(what string) {
		t.Helper()
		for _, filter := range []string{"a/b", "a/+", "#"} {
			got := retained(t, f, filter)
			if what == "" && len(got) != 0 || what != "" && (len(got) != 1 || string(got[0].Payload) != what) {
				t.Errorf("Retained(%q) gives %+v, want %q", filter, got, what)
			}
		}
	}
	now := time.Now()
	retain("1", 0, now)
	want("1")
	retain("2", 3600, now)
	want("2")
	retain("", 0, now)
	want("")
	retain("3", 0, now)
	want("3")
	retain("4", 10, now.Add(-time.Minute)) // it has expired already, and what it replaced is gone
	want("")
	retain("", 0, now) // removing what is not there
	want("")
}

func testSessions(t *testing.T, f *nats.Fabric) {
	ctx := t.Context()
	if _, _, err := f.Session(ctx, "s"); !errs.Is(err, errs.NotFound) {
		t.Errorf("Session of nobody: %v, want NotFound", err)
	}
	if _, err := f.PutSession(ctx, "s", []byte("0"), 77, time.Hour); !errs.Is(err, errs.Conflict) {
		t.Errorf("PutSession over a revision that never was: %v, want Conflict", err)
	}
	first, err := f.PutSession(ctx, "s", []byte("1"), 0, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.PutSession(ctx, "s", []byte("x"), 0, time.Hour); !errs.Is(err, errs.Conflict) {
		t.Errorf("PutSession over nothing where something is: %v, want Conflict", err)
	}
	second, err := f.PutSession(ctx, "s", []byte("2"), first, 0)
	if err != nil || second <= first {
		t.Fatalf("PutSession over revision %d: %d, %v", first, second, err)
	}
	if _, err := f.PutSession(ctx, "s", []byte("x"), first, time.Hour); !errs.Is(err, errs.Conflict) {
		t.Errorf("PutSession over an old revision: %v, want Conflict", err)
	}
	if data, revision, err := f.Session(ctx, "s"); err != nil || string(data) != "2" || revision != second {
		t.Errorf("Session gives %q, %d, %v, want 2, %d", data, revision, err, second)
	}
	if err := f.DropSession(ctx, "s", 0); err != nil {
		t.Fatal(err)
	}
	if err := f.DropSession(ctx, "never", 0); err != nil {
		t.Errorf("DropSession of nobody: %v", err)
	}
	if _, _, err := f.Session(ctx, "s"); !errs.Is(err, errs.NotFound) {
		t.Errorf("Session after DropSession: %v, want NotFound", err)
	}
	if _, err := f.PutSession(ctx, "s", []byte("x"), second, time.Hour); !errs.Is(err, errs.Conflict) {
		t.Errorf("PutSession of a node that has not heard of DropSession: %v, want Conflict", err)
	}
	if third, err := f.PutSession(ctx, "s", []byte("3"), 0, time.Hour); err != nil || third <= second {
		t.Errorf("PutSession after DropSession: %d, %v, want above %d", third, err, second)
	}
}

func testSessionList(t *testing.T, f *nats.Fabric) {
	const n = 600 // more than one part of a scan
	for i := range n {
		if _, err := f.PutSession(t.Context(), fmt.Sprint("s/", i), fmt.Append(nil, i), 0, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	for i := 0; i < n; i += 2 {
		if err := f.DropSession(t.Context(), fmt.Sprint("s/", i), 0); err != nil {
			t.Fatal(err)
		}
	}
	got := map[string]string{}
	if err := f.Sessions(t.Context(), func(key string, data []byte, revision uint64) bool {
		got[key] = string(data)
		return revision > 0
	}); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for i := 1; i < n; i += 2 {
		want[fmt.Sprint("s/", i)] = fmt.Sprint(i)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Sessions gives %d sessions, want %d", len(got), len(want))
	}
}

type owned struct {
	key, node string
	epoch     uint64
}

func testOwners(t *testing.T, f *nats.Fabric) {
	ctx := t.Context()
	told := make(chan owned, 100)
	following(t, func(ctx context.Context, ready func()) error {
		return f.Owners(ctx, ready, func(key, node string, epoch uint64) { told <- owned{key, node, epoch} })
	})
	own := func(key, node, before string) uint64 {
		t.Helper()
		epoch, was, err := f.Own(ctx, key, node)
		if err != nil || was != before {
			t.Fatalf("Own(%q, %q): before it was %q, %v, want %q", key, node, was, err, before)
		}
		if got := <-told; got != (owned{key, node, epoch}) {
			t.Fatalf("Owners tells %+v, want %q, %q, %d", got, key, node, epoch)
		}
		return epoch
	}
	first := own("s 1", "a", "")
	other := own("s 2", "b", "")
	second := own("s 1", "b", "a")
	if second <= first {
		t.Errorf("epoch %d after %d", second, first)
	}
	if err := f.Disown(ctx, "s 1", first); err != nil {
		t.Errorf("Disown of an old epoch: %v", err)
	}
	third := own("s 1", "a", "b")
	if err := f.Disown(ctx, "s 1", third); err != nil {
		t.Fatal(err)
	}
	if fourth := own("s 1", "c", ""); fourth <= third {
		t.Errorf("epoch %d after %d and a Disown", fourth, third)
	}
	own("s 2", "b", "b")
	if other == 0 {
		t.Error("an epoch is 0")
	}

	// One after the other, without waiting until somebody was told.
	var want []owned
	for _, node := range []string{"a", "b", "c"} {
		epoch, _, err := f.Own(ctx, "s 3", node)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, owned{"s 3", node, epoch})
	}
	if err := f.Disown(ctx, "s 3", want[2].epoch); err != nil {
		t.Fatal(err)
	}
	for _, w := range want {
		if got := <-told; got != w {
			t.Errorf("Owners tells %+v, want %+v", got, w)
		}
	}
}

func testOwnRace(t *testing.T, f *nats.Fabric) {
	const nodes = 8
	type step struct{ node, before string }
	var mu sync.Mutex
	steps := map[uint64]step{}
	var all sync.WaitGroup
	for i := range nodes {
		all.Go(func() {
			node := fmt.Sprint("node", i)
			epoch, before, err := f.Own(t.Context(), "s", node)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			steps[epoch] = step{node, before}
		})
	}
	all.Wait()
	before := ""
	epochs := make([]uint64, 0, nodes)
	for e := range steps {
		epochs = append(epochs, e)
	}
	slices.Sort(epochs)
	if len(epochs) != nodes {
		t.Fatalf("%d epochs for %d owners", len(epochs), nodes)
	}
	for _, e := range epochs {
		if steps[e].before != before {
			t.Errorf("epoch %d of %s follows %q, want %q", e, steps[e].node, steps[e].before, before)
		}
		before = steps[e].node
	}
}

func testAnnounced(t *testing.T, f *nats.Fabric) {
	type word struct {
		place uint64
		text  string
	}
	hear := func(after uint64) chan word {
		heard := make(chan word, 100)
		following(t, func(ctx context.Context, ready func()) error {
			return f.Announced(ctx, after, ready, func(place uint64, data []byte) { heard <- word{place, string(data)} })
		})
		return heard
	}
	say := func(text string) {
		t.Helper()
		if err := f.Announce(t.Context(), []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	say("1")
	say("2")
	fresh := hear(0)
	say("3")
	for _, row := range []struct {
		name  string
		heard chan word
		want  []word
	}{
		{"from now on", fresh, []word{{3, "3"}}},
		{"after a place", hear(1), []word{{2, "2"}, {3, "3"}}},
		{"after a place that never was", hear(99), []word{{1, "1"}, {2, "2"}, {3, "3"}}},
	} {
		for _, want := range row.want {
			if got := <-row.heard; got != want {
				t.Errorf("%s: heard %v, want %v", row.name, got, want)
			}
		}
	}
}

func testRead(t *testing.T, f *nats.Fabric) {
	none := func(*message.Message) bool { t.Error("an empty stream has a message"); return true }
	if err := f.Read(t.Context(), message.Up, 0, 10, none); err != nil {
		t.Errorf("Read of an empty stream: %v", err)
	}
	const n = 700
	for i := range n {
		stored(t, f, &message.Message{Topic: "t", Payload: fmt.Append(nil, i), Stream: message.Up, Key: fmt.Sprint(i % 5)})
	}
	for _, row := range []struct {
		name        string
		after       uint64
		most, stop  int
		first, size int
	}{
		{"all", 0, 10_000, 10_000, 0, n},
		{"some", 10, 5, 10_000, 10, 5},
		{"over a part", 100, 300, 10_000, 100, 300},
		{"until told", 100, 300, 7, 100, 7},
		{"behind the end", n, 300, 7, n, 0},
		{"none", 3, 0, 7, 3, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			var got []string
			err := f.Read(t.Context(), message.Up, row.after, row.most, func(m *message.Message) bool {
				got = append(got, string(m.Payload))
				return len(got) < row.stop
			})
			if err != nil || !slices.Equal(got, numbers(row.first, row.first+row.size)) {
				t.Errorf("Read gives %d messages %v", len(got), err)
			}
		})
	}
	born, err := f.Born(t.Context(), message.Up)
	if err != nil || time.Since(time.Unix(0, born)) > time.Hour || time.Since(time.Unix(0, born)) < 0 {
		t.Errorf("Born: %v, %v", time.Unix(0, born), err)
	}
}

func testStanding(t *testing.T, f *nats.Fabric) {
	s := f.Standing()
	if !s.Reached || s.Since == 0 || s.Limit == 0 || s.Stored != 0 {
		t.Errorf("Standing of an empty fabric is %+v", s)
	}
}
