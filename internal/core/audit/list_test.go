package audit

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/access"
)

func TestListPagesAndFilters(t *testing.T) {
	l := openLog(t)
	const total = 2000
	fill(t, l, 0, total)
	sequence(t, l)
	for _, q := range []Query{
		{Limit: 300},
		{Limit: 1000},
		{Device: deviceID(13), Limit: 7},
		{Device: deviceID(13), Action: "device.state", Limit: 3},
		{Action: "cert.issue", Limit: 1000},
		{Serial: sample(1234).Serial},
		{Device: deviceID(77)},
		{Device: deviceID(1), Serial: sample(2).Serial},
		{Action: "ca.create"},
	} {
		var want []int64
		for n := range total {
			if e := sample(n); q.matches(&e) {
				want = append(want, int64(n))
			}
		}
		for _, q.Newest = range []bool{false, true} {
			t.Run(fmt.Sprintf("%+v", q), func(t *testing.T) {
				if got := pages(t, l, q); !slices.Equal(got, want) {
					t.Errorf("got %d entries %v…, want %d %v…", len(got), got[:min(5, len(got))], len(want), want[:min(5, len(want))])
				}
			})
			slices.Reverse(want)
		}
		slices.Reverse(want)
	}
}

// pages returns the indices of all pages of q.
func pages(t *testing.T, l *Log, q Query) []int64 {
	t.Helper()
	var all []int64
	for range 1000 {
		page, err := l.List(t.Context(), auditor, q)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			return all
		}
		for _, e := range page {
			if want := sample(int(e.Index)); string(e.Bytes()) != string(want.Bytes()) {
				t.Fatalf("entry %d is %s, want %s", e.Index, e.Bytes(), want.Bytes())
			}
			all = append(all, e.Index)
		}
		q.After = page[len(page)-1].Index
		if !q.Newest {
			q.After++
		}
		if q.Newest && q.After == 0 {
			return all // 0 would mean from the newest
		}
	}
	t.Fatal("the pages do not end")
	return nil
}

func TestListIsForThoseWhoMay(t *testing.T) {
	l := openLog(t)
	if _, err := l.List(t.Context(), access.Device("ab", "est"), Query{}); !errs.Is(err, errs.Denied) {
		t.Errorf("a device listed the record: %v", err)
	}
	sequence(t, l)
	got, err := l.List(t.Context(), auditor, Query{})
	if err != nil || len(got) != 1 || got[0].Action != "access.refuse" || got[0].Actor != "device:ab" || got[0].Detail["permission"] != string(access.AuditRead) {
		t.Errorf("the refusal was recorded as %v, %v", got, err)
	}
	for _, q := range []Query{{Limit: -1}, {Limit: 1001}, {After: -1}} {
		if _, err := l.List(t.Context(), auditor, q); !errs.Is(err, errs.Invalid) {
			t.Errorf("%+v: got %v, want Invalid", q, err)
		}
	}
	if got, err := l.List(t.Context(), auditor, Query{After: 99}); err != nil || len(got) != 0 {
		t.Errorf("beyond the end: %v, %v", got, err)
	}
}

// TestListNear: entries of a day, one batch a minute, searched by the time about which they were made.
func TestListNear(t *testing.T) {
	l := openLog(t)
	at := time.Unix(1_700_000_000, 0)
	l.now = func() time.Time { return at }
	const total = 1440
	for n := range total {
		at = at.Add(time.Minute)
		if err := l.Record(t.Context(), sample(n), sample(n)); err != nil {
			t.Fatal(err)
		}
	}
	sequence(t, l)
	for _, near := range []int64{1, 1_700_000_000, 1_700_040_030, 1_700_086_400, 1_800_000_000} {
		got, err := l.List(t.Context(), auditor, Query{Near: near, Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		var want []int64
		for n := range int64(total) {
			if made := 1_700_000_060 + 60*n; made >= near-300 && made < near+3600 {
				want = append(want, 2*n, 2*n+1)
			}
		}
		var have []int64
		for _, e := range got {
			have = append(have, e.Index)
		}
		if !slices.Equal(have, want) {
			t.Errorf("near %d: got %d entries, want %d", near, len(have), len(want))
		}
	}
	newest, err := l.List(t.Context(), auditor, Query{Near: 1_700_040_030, Newest: true, Limit: 1, Action: "cert.issue"})
	if err != nil || len(newest) != 1 || newest[0].Index/2 > 1_440 || (1_700_000_060+60*(newest[0].Index/2))-1_700_040_030 > 3600 {
		t.Errorf("newest first: %v, %v", newest, err)
	}
}
