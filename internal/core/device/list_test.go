package device

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
)

// all reads a list to its end by pages of limit.
func (w *world) all(t testing.TB, f Filter) (names []string, pages int) {
	t.Helper()
	for {
		page, next, err := w.List(t.Context(), auditor, f)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) > f.limit() {
			t.Fatalf("page: got %d devices, want at most %d", len(page), f.limit())
		}
		for _, d := range page {
			names = append(names, d.Name)
		}
		pages++
		if next == "" {
			return names, pages
		}
		f.Cursor = next
	}
}

func TestList(t *testing.T) {
	w := newWorld(t)
	var everyone, groupA, tagged, expiring []string
	for i := range 25 {
		s := Spec{Name: fmt.Sprintf("d%02d", i), Group: "a", Profile: "sensor"}
		if i%2 == 1 {
			s.Group = "b"
		}
		if i%5 == 0 {
			s.Tags = map[string]string{"floor": fmt.Sprint(i % 10)}
			tagged = append(tagged, s.Name)
		}
		d := w.add(t, s)
		everyone = append(everyone, s.Name)
		if s.Group == "a" {
			groupA = append(groupA, s.Name)
		}
		if i < 10 {
			c := w.claim(d, byte(40-i)) // the later added end the sooner
			w.enrol(t, c)
			c.Slot, c.NotAfter, c.Serial = "vpn", c.NotAfter+1, append([]byte{0x41}, c.Serial[1:]...)
			w.enrol(t, c)
			if s.Group == "a" {
				expiring = append([]string{s.Name}, expiring...)
			}
		}
	}
	tests := []struct {
		name   string
		f      Filter
		want   []string
		sorted bool // the order is that of the inventory
	}{
		{"all", Filter{}, everyone, false},
		{"group", Filter{Group: "a"}, groupA, false},
		{"no group", Filter{Group: "c"}, nil, false},
		{"profile", Filter{Profile: "sensor"}, everyone, false},
		{"other profile", Filter{Profile: "gateway"}, nil, false},
		{"enrolled in a", Filter{Group: "a", State: Enrolled}, groupA[:5], false},
		{"tag", Filter{Tag: "floor"}, tagged, false},
		{"tag and value", Filter{Tag: "floor=5"}, []string{"d05", "d15"}, false},
		{"tag without value", Filter{Tag: "floor="}, nil, false},
		{"expiring in a", Filter{Group: "a", ExpiresBefore: 1 << 40}, expiring, true},
		{"expiring soon in a", Filter{Group: "a", ExpiresBefore: w.now.Unix() + 35_000}, expiring[:2], true},
		{"expiring and tagged", Filter{ExpiresBefore: 1 << 40, Tag: "floor"}, []string{"d05", "d00"}, true},
	}
	for _, built := range []bool{false, true} {
		if built {
			w.filled(t)
		}
		for _, test := range tests {
			for _, limit := range []int{1, 3, 100} {
				test.f.Limit = limit
				got, pages := w.all(t, test.f)
				want := slices.Clone(test.want)
				if !test.sorted || !built {
					slices.Sort(got)
					slices.Sort(want)
				}
				if !slices.Equal(got, want) {
					t.Errorf("%s by %d: got %q, want %q", test.name, limit, got, want)
				}
				if pages > len(want)/limit+1 {
					t.Errorf("%s by %d: got %d pages for %d devices", test.name, limit, pages, len(want))
				}
			}
		}
	}
	page, _, err := w.List(t.Context(), auditor, Filter{Group: "a", ExpiresBefore: 1 << 40})
	if err != nil || len(page[0].Slots) != 2 {
		t.Errorf("slots in a list: got %+v, %v, want both", page[0].Slots, err)
	}
}

func TestListCursor(t *testing.T) {
	w := newWorld(t)
	w.add(t, Spec{Name: "a"})
	w.add(t, Spec{Name: "b"})
	w.filled(t)
	_, next, err := w.List(t.Context(), auditor, Filter{Limit: 1})
	if err != nil || next == "" {
		t.Fatalf("first page: got cursor %q, %v", next, err)
	}
	for _, f := range []Filter{{Cursor: next, ExpiresBefore: 1}, {Cursor: "x"}, {Cursor: next + "AA"}, {Cursor: "!"}, {Group: "\x00"}} {
		if _, _, err := w.List(t.Context(), auditor, f); !errs.Is(err, errs.Invalid) {
			t.Errorf("%+v: got %v, want Invalid", f, err)
		}
	}
}

// TestListLooksAtABoundedNumberOfRows lists by a filter that nothing passes.
func TestListLooksAtABoundedNumberOfRows(t *testing.T) {
	w := newWorld(t)
	var file strings.Builder
	file.WriteString("name,profile\n")
	for i := range scanMost + 500 {
		fmt.Fprintf(&file, "d%d,sensor\n", i)
	}
	if _, err := w.Import(t.Context(), admin, Source{R: strings.NewReader(file.String()), Name: "f", Format: "csv"}, nil); err != nil {
		t.Fatal(err)
	}
	page, next, err := w.List(t.Context(), auditor, Filter{Tag: "none"})
	if err != nil || len(page) != 0 || next == "" {
		t.Errorf("got %d devices, cursor %q, %v, want an empty page that goes on", len(page), next, err)
	}
	if names, pages := w.all(t, Filter{Tag: "none"}); names != nil || pages != 2 {
		t.Errorf("all pages: got %d names on %d pages, want none on 2", len(names), pages)
	}
}

// TestFiltersThatFitNothing are refused, and say what there is; what could fit is not.
func TestFiltersThatFitNothing(t *testing.T) {
	w := newWorld(t)
	for want, f := range map[string]Filter{
		`there is no kind of key "rsa": use ec-p256, ec-p384`: {Key: "rsa"},
		`there is no kind of key "EC-P256"`:                   {Key: "EC-P256"},
		`tag: "=x" has no key`:                                {Tag: "=x"},
		`tag: "a b" has no key`:                               {Tag: "a b"},
	} {
		if _, _, err := w.List(t.Context(), auditor, f); !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want Invalid with %q", f, err, want)
		}
	}
	for _, f := range []Filter{{Key: "rsa-2048"}, {Key: "ed25519"}, {Key: "ml-dsa-65"}, {Tag: "colour"}, {Tag: "colour="}, {Tag: "colour=red=blue"}} {
		if _, _, err := w.List(t.Context(), auditor, f); err != nil {
			t.Errorf("%+v: got %v, want an empty list", f, err)
		}
	}
}

// TestListUsesItsIndexes asks the engine how it would answer: a scan of the whole registry would be found out with a million devices only.
func TestListUsesItsIndexes(t *testing.T) {
	w := newWorld(t)
	if w.db.Arrays() {
		return // what PostgreSQL chooses depends on the statistics of the table
	}
	id := []byte{}
	for want, q := range map[string][]any{
		"USING INDEX device_grp":          {selectGroup, int64(0), id, int64(9), "g"},
		"SEARCH device USING PRIMARY KEY": {selectPlain, int64(0), id, int64(9)},
	} {
		var plan strings.Builder
		w.do(t, func(ctx context.Context, tx *db.Tx) error {
			return tx.Each(ctx, func(row db.Row) error {
				var a, b, c int64
				var detail string
				err := row.Scan(&a, &b, &c, &detail)
				plan.WriteString(detail + "\n")
				return err
			}, "EXPLAIN QUERY PLAN "+q[0].(string), q[1:]...)
		})
		if !strings.Contains(plan.String(), want) || strings.Contains(plan.String(), "SCAN device") {
			t.Errorf("plan: got\n%swant %q and no scan", plan.String(), want)
		}
	}
}
