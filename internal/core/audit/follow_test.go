package audit

import (
	"fmt"
	"testing"

	"mooring/internal/base/errs"
)

// Scan gives what a look at every entry gives, and goes on where it ended.
func TestScan(t *testing.T) {
	l := openLog(t)
	var want []int64
	index := int64(0)
	record := func(action string, refused string) {
		t.Helper()
		if err := l.Record(t.Context(), Entry{Action: action, Actor: "system:test", Serial: fmt.Sprint(index), Refused: refused}); err != nil {
			t.Fatal(err)
		}
		if refused == "" && (action == "cert.revoke" || action == "cert.hold") {
			want = append(want, index)
		}
		index++
	}
	next := int64(0)
	check := func() {
		t.Helper()
		sequence(t, l)
		var got []int64
		for {
			page, to, err := l.Scan(t.Context(), next, []string{"cert.revoke", "cert.hold"})
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range page {
				got = append(got, e.Index)
			}
			if to == next {
				break
			}
			next = to
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got %v, want %v", got, want)
		}
		if size, err := l.Size(t.Context()); err != nil || size != index || next != index {
			t.Errorf("scanned up to %d of %d entries (%v), want %d", next, size, err, index)
		}
		want = nil
	}
	check()
	record("cert.revoke", "")
	check()
	for n := range 700 {
		switch {
		case n%300 == 7:
			record("cert.hold", "")
		case n%300 == 9:
			record("cert.revoke", "may not")
		default:
			record("cert.issue", "")
		}
	}
	check()
	record("cert.issue", "")
	check()
	record("cert.hold", "")
	check()
	if page, to, err := l.Scan(t.Context(), index+5, []string{"cert.hold"}); err != nil || len(page) > 0 || to != index+5 {
		t.Errorf("beyond the end: %v up to %d, %v", page, to, err)
	}
	if _, _, err := l.Scan(t.Context(), -1, nil); !errs.Is(err, errs.Invalid) {
		t.Errorf("before the beginning: %v, want Invalid", err)
	}
}
