package message

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"mooring/wire/mqtt"
)

// TestIndexAgainstMatch holds the index against the rule for one filter: random filters and topics of few words, so that they meet often.
func TestIndexAgainstMatch(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	word := func(more ...string) string {
		words := append([]string{"a", "b", "", "$x", "ab"}, more...)
		return words[r.IntN(len(words))]
	}
	filter := func() string {
		var levels []string
		for range 1 + r.IntN(4) {
			levels = append(levels, word("+", "+"))
		}
		if r.IntN(3) == 0 {
			levels = append(levels, "#")
		}
		return strings.Join(levels, "/")
	}
	topic := func() string {
		var levels []string
		for range 1 + r.IntN(5) {
			levels = append(levels, word())
		}
		return strings.Join(levels, "/")
	}
	var x index
	var subs []*sub
	matched := 0
	for range 3000 {
		if f := filter(); mqtt.CheckFilter(f, nil) == nil && len(subs) < 60 {
			s := &sub{Subscription: Subscription{Filter: f}, inner: f}
			x.add(s)
			subs = append(subs, s)
		} else if len(subs) > 0 && r.IntN(2) == 0 {
			i := r.IntN(len(subs))
			x.remove(subs[i])
			subs = slices.Delete(subs, i, i+1)
		}
		name := topic()
		if name == "" {
			continue
		}
		var want, got []string
		for _, s := range subs {
			if mqtt.Match(s.inner, name) {
				want = append(want, fmt.Sprintf("%p", s))
			}
		}
		for _, s := range x.match(nil, name) {
			got = append(got, fmt.Sprintf("%p", s))
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Fatalf("topic %q: the index finds %d, want %d", name, len(got), len(want))
		}
		matched += len(got)
	}
	if matched < 1000 {
		t.Errorf("only %d matches: this shows little", matched)
	}
	for _, s := range subs {
		x.remove(s)
	}
	if x.nodes != 0 || !x.root.bare() || x.count.Load() != 0 {
		t.Errorf("%d nodes stay when the last subscription is gone", x.nodes)
	}
}

// TestRing: the queue of a session keeps the newest, by number and size.
func TestRing(t *testing.T) {
	for _, row := range []struct {
		name       string
		most, room int
		sizes      []int
		start      uint64
		dropped    int64
	}{
		{"all fit", 3, 100, []int{10, 10, 10}, 0, 0},
		{"too many", 3, 100, []int{10, 10, 10, 10, 10}, 2, 2},
		{"too large", 10, 25, []int{10, 10, 10}, 1, 1},
		{"one that is larger than everything", 10, 25, []int{10, 30}, 2, 2},
		{"none is kept", 0, 100, []int{1, 1}, 2, 2},
	} {
		t.Run(row.name, func(t *testing.T) {
			q := ring{most: row.most, room: row.room}
			for i, size := range row.sizes {
				q.push(uint64(i+1), size)
			}
			if q.start != row.start || q.dropped != row.dropped {
				t.Errorf("begins after %d and dropped %d, want %d and %d", q.start, q.dropped, row.start, row.dropped)
			}
		})
	}
}

// FuzzRecord: what lies in the fabric for a session, whoever wrote it, is read or refused.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"ID":"00000000000000000000000000000000","Thing":"x","Pos":[0,1,2,3],"Subs":[{"Filter":"a/+","QoS":1}],"Flights":[{"ID":1,"QoS":2}]}`))
	f.Add([]byte(`{"Will":{"Message":{"Topic":"t","Payload":"AA=="},"Delay":5},"WillAt":9223372036854775807}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRecord(data)
		if err != nil {
			return
		}
		r.over(1)
		r.endedWith(1)
		r.life()
	})
}

func TestRecordTooLong(t *testing.T) {
	if _, err := parseRecord(make([]byte, maxRecord+1)); err == nil {
		t.Error("a record that is too long was read")
	}
}

// TestCutsForget: who was looked up before cuts that nobody remembers any more is asked to come again.
func TestCutsForget(t *testing.T) {
	var k cuts
	now := testTime
	for i := range maxCuts + 10 {
		k.note(Selector{Thing: fmt.Sprint("dev-", i)}, now)
	}
	id := Identity{}
	id.Subject.Thing = "good"
	if err := k.check(&id, nil); err == nil {
		t.Error("whoever was looked up before all of them is let in")
	}
	id.asOf = k.last()
	if err := k.check(&id, nil); err != nil {
		t.Errorf("whoever was looked up after all of them: %v", err)
	}
	id.Subject.Thing = fmt.Sprint("dev-", maxCuts+9)
	id.asOf--
	if err := k.check(&id, nil); err == nil {
		t.Error("whoever the last one is about is let in")
	}
	if len(k.list) > maxCuts {
		t.Errorf("%d are kept, want at most %d", len(k.list), maxCuts)
	}
}
