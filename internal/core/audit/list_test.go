package audit

import (
	"fmt"
	"slices"
	"testing"

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
