package audit

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"mooring/internal/base/db/dbtest"
	"mooring/internal/core/access"
)

// refusals returns the refusals recorded so far, as "actor reason count".
func refusals(t *testing.T, l *Log) []string {
	t.Helper()
	sequence(t, l)
	var all []string
	for after := int64(0); ; {
		page, err := l.List(t.Context(), auditor, Query{After: after, Limit: largestPage})
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			return all
		}
		for _, e := range page {
			all = append(all, e.Actor+" "+e.Refused+" "+e.Detail["count"])
			after = e.Index + 1
		}
	}
}

func refuse(t *testing.T, l *Log, source, reason string) {
	t.Helper()
	if err := l.Refuse(t.Context(), access.Stranger(netip.MustParseAddr(source), "est"), Entry{Action: "enrol.refuse", Refused: reason}); err != nil {
		t.Fatal(err)
	}
}

func TestStrangersRefusalsAreCounted(t *testing.T) {
	l, c := newLog(t, dbtest.Open(t, Schema()))
	for n := range 100 {
		refuse(t, l, fmt.Sprintf("203.0.113.%d", n), "bad token") // one network
	}
	refuse(t, l, "203.0.113.1", "unknown profile")
	refuse(t, l, "198.51.100.1", "bad token")
	first := []string{"stranger:203.0.113.0/24 bad token ", "stranger:203.0.113.0/24 unknown profile ", "stranger:198.51.100.0/24 bad token "}
	if got := refusals(t, l); fmt.Sprint(got) != fmt.Sprint(first) {
		t.Errorf("at once %q, want %q", got, first)
	}
	now := c.Now().Unix()
	if err := l.flush(t.Context(), now+tallySpan-1, now-1); err != nil {
		t.Fatal(err)
	}
	if got := refusals(t, l); len(got) != 3 {
		t.Errorf("before the minute is over %q", got)
	}
	if err := l.flush(t.Context(), now+tallySpan, now); err != nil {
		t.Fatal(err)
	}
	if got := refusals(t, l); len(got) != 4 || got[3] != "stranger:203.0.113.0/24 bad token 99" {
		t.Errorf("after a minute %q, want the other 99 in one entry", got)
	}
	refuse(t, l, "203.0.113.9", "bad token")
	if got := refusals(t, l); len(got) != 5 || got[4] != first[0] {
		t.Errorf("in the next minute %q, want one at once", got)
	}
	wantClean(t, l, 5)
}

func TestStrangersCannotGrowTheTally(t *testing.T) {
	l := openLog(t)
	const sources = 3000
	for n := range sources {
		refuse(t, l, fmt.Sprintf("10.%d.%d.1", n/256, n%256), "bad token")
	}
	if n := len(l.refusals.seen); n > tallyKeys+1 {
		t.Errorf("%d keys, want at most %d", n, tallyKeys+1)
	}
	now := l.now().Unix()
	if err := l.flush(t.Context(), now, now); err != nil {
		t.Fatal(err)
	}
	got := refusals(t, l)
	if want := fmt.Sprintf("stranger %s %d", otherReason, sources-tallyKeys-1); len(got) != tallyKeys+2 || got[len(got)-1] != want {
		t.Errorf("%d entries, the last %q, want %d and %q", len(got), got[len(got)-1], tallyKeys+2, want)
	}
}

// TestOneSourceCannotFillTheRecord has a stranger and a device think of a new reason each time.
func TestOneSourceCannotFillTheRecord(t *testing.T) {
	l := openLog(t)
	device := access.Device("ab", "est")
	for n := range 500 {
		reason := fmt.Sprintf("asks for the name %d", n)
		refuse(t, l, "203.0.113.7", reason)
		if err := l.Refuse(t.Context(), device, Entry{Action: "enrol.refuse", Device: device.ID, Refused: reason}); err != nil {
			t.Fatal(err)
		}
	}
	const each = tallyReasons + 1 // the last one stands for others
	if got := refusals(t, l); len(got) != 2*each {
		t.Errorf("at once %d entries, want %d", len(got), 2*each)
	}
	now := l.now().Unix()
	if err := l.flush(t.Context(), now, now); err != nil {
		t.Fatal(err)
	}
	got := refusals(t, l)
	want := []string{"stranger:203.0.113.0/24 " + otherReason + " 489", "device:ab " + otherReason + " 489"}
	if len(got) != 2*each+2 || fmt.Sprint(got[2*each:]) != fmt.Sprint(want) {
		t.Errorf("after a minute %q, want %q at the end", got, want)
	}
	if len(l.refusals.sources)+len(l.deviceRefusals.sources) != 0 {
		t.Error("a source is still remembered")
	}
}

func TestKnownActorsRefusalsAreAllRecorded(t *testing.T) {
	l := openLog(t)
	for range 3 {
		if err := l.RecordRefusal(t.Context(), access.Actor{Kind: access.KindOperator, ID: "ab"}, access.DeviceWrite, "x", "no"); err != nil {
			t.Fatal(err)
		}
	}
	if got := refusals(t, l); len(got) != 3 {
		t.Errorf("recorded %q, want three", got)
	}
}

func TestRefusalsOfThoseWhoHangUpAreRecorded(t *testing.T) {
	l := openLog(t)
	gone, hangUp := context.WithCancel(t.Context())
	hangUp()
	if err := l.RecordRefusal(gone, access.Actor{Kind: access.KindOperator, ID: "ab"}, access.DeviceWrite, "x", "no"); err != nil {
		t.Errorf("an operator who has gone: %v", err)
	}
	if err := l.Refuse(gone, access.Device("cd", "est"), Entry{Action: "enrol.refuse", Refused: "no"}); err != nil {
		t.Errorf("a device that has gone: %v", err)
	}
	if got := refusals(t, l); len(got) != 2 {
		t.Errorf("recorded %q, want both", got)
	}
}

func TestCountedRefusalsAreRecordedAtTheEnd(t *testing.T) {
	l := openLog(t)
	stop := runs(t, l)
	for range 5 {
		refuse(t, l, "2001:db8::1", "bad token")
	}
	stop()
	if got := refusals(t, l); len(got) != 2 || got[1] != "stranger:2001:db8::/48 bad token 4" {
		t.Errorf("recorded %q, want the first and a count of 4", got)
	}
}
