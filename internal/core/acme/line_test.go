package acme

import (
	"testing"

	"mooring/internal/base/errs"
)

// TestLine: accounts take turns, none has more than its part of workers and places, and all open ones together have half.
func TestLine(t *testing.T) {
	l := newLine()
	begin := func(account byte, open bool, n int) (admitted int) {
		t.Helper()
		for i := range n {
			at := &attempt{place: place{ID{account}, i}, account: ID{account}, open: open, done: make(chan struct{})}
			got, err := l.begin(at)
			switch {
			case err == nil && got == at:
				admitted++
			case err == nil:
				t.Fatalf("account %d: another validation came back", account)
			case !errs.Is(err, errs.Limited):
				t.Fatal(err)
			}
		}
		return admitted
	}
	takeAll := func() (taken []*attempt) {
		for at := l.take(); at != nil; at = l.take() {
			taken = append(taken, at)
		}
		return taken
	}
	for account := range byte(maxOpenWaiting/maxAccountWaiting + 3) {
		want := maxAccountWaiting
		if int(account) >= maxOpenWaiting/maxAccountWaiting {
			want = 0
		}
		if got := begin(account, true, maxAccountWaiting+1); got != want {
			t.Errorf("open account %d: %d were admitted, want %d", account, got, want)
		}
	}
	open := takeAll()
	if len(open) != maxOpenWorking {
		t.Errorf("%d of open accounts are at work, want %d", len(open), maxOpenWorking)
	}
	for n, at := range open[:maxOpenWaiting/maxAccountWaiting] {
		if at.account != (ID{byte(n)}) {
			t.Fatalf("turn %d is account %x's", n, at.account[0])
		}
	}
	const bound = 200
	if got := begin(bound, false, maxAccountWaiting+1); got != maxAccountWaiting {
		t.Errorf("%d of a bound account were admitted, want %d", got, maxAccountWaiting)
	}
	mine := takeAll()
	if len(mine) != maxAccountWorking {
		t.Fatalf("%d of a bound account are at work, want %d", len(mine), maxAccountWorking)
	}
	if again, err := l.begin(&attempt{place: mine[0].place, account: mine[0].account}); err != nil || again != mine[0] {
		t.Errorf("the same authorization again: got %v, %v", again, err)
	}
	l.leave(mine[0], true) // it pauses
	if next := takeAll(); len(next) != 1 || next[0].account != (ID{bound}) {
		t.Errorf("after one paused: got %d, want one of the same account", len(next))
	} else {
		l.leave(next[0], false)
	}
	l.put(mine[0])
	for at := range drain(l) {
		l.leave(at, false)
	}
	for _, at := range append(open, mine[1:]...) {
		l.leave(at, false)
	}
	for at := range drain(l) {
		l.leave(at, false)
	}
	if len(l.running)+len(l.shares)+len(l.turns)+l.open.underway+l.open.working != 0 {
		t.Errorf("something is left: %d under way, %d shares, %d turns, %+v", len(l.running), len(l.shares), len(l.turns), l.open)
	}
	select {
	case <-mine[0].done:
	default:
		t.Error("whoever waits is not told of the end")
	}
}

// drain takes what may be taken, one after the other.
func drain(l *line) func(yield func(*attempt) bool) {
	return func(yield func(*attempt) bool) {
		for at := l.take(); at != nil && yield(at); at = l.take() {
		}
	}
}
