package cmp

import (
	"context"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"mooring/internal/base/errs"
	"mooring/wire/cmp"
)

// To check a MAC of many iterations takes a processor a tenth of a second, and anybody can send one. So half of the processors do that at most.
const (
	cheapRounds   = 2048 // up to here nobody needs a turn: it takes about as long as a signature
	turnsOfSource = 4    // from one IPv4 address or IPv6 /64 network, with those that wait
	turnPatience  = 2 * time.Second
)

// turns are taken by those who derive the key of a MAC.
type turns struct {
	free chan struct{} // has one for each turn that is taken

	mu      sync.Mutex
	sources map[netip.Prefix]int // guarded by mu: how many have a turn, or wait for one
}

func newTurns() *turns {
	return &turns{free: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)), sources: map[netip.Prefix]int{}}
}

// take waits for a turn, for somebody at an address who has proven nothing yet. done gives it back. The error says that there is none, or that ctx ended.
func (t *turns) take(ctx context.Context, source netip.Addr, mac *cmp.MAC) (done func(), err error) {
	if mac.Rounds() <= cheapRounds {
		return func() {}, nil
	}
	from := network(source)
	if !t.enter(from) {
		return nil, refuse(cmp.SystemUnavail, "too many messages from this address have MACs of many iterations: use %d at most, or try again in a moment", cheapRounds)
	}
	waiting, cancel := context.WithTimeout(ctx, turnPatience)
	defer cancel()
	select {
	case t.free <- struct{}{}:
		return func() { <-t.free; t.leave(from) }, nil
	case <-waiting.Done():
		t.leave(from)
	}
	if ctx.Err() != nil {
		return nil, errs.Wrap(errs.Unavailable, ctx.Err(), "the request was given up")
	}
	return nil, refuse(cmp.SystemUnavail, "too many messages have MACs of many iterations: use %d at most, or try again in a moment", cheapRounds)
}

// wait is take for the answer to somebody who has proven who he is, and waits as long as he likes.
func (t *turns) wait(ctx context.Context, mac *cmp.MAC) (done func(), err error) {
	if mac.Rounds() <= cheapRounds {
		return func() {}, nil
	}
	select {
	case t.free <- struct{}{}:
		return func() { <-t.free }, nil
	case <-ctx.Done():
		return nil, errs.Wrap(errs.Unavailable, ctx.Err(), "the request was given up")
	}
}

func (t *turns) enter(from netip.Prefix) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sources[from] >= turnsOfSource {
		return false
	}
	t.sources[from]++
	return true
}

func (t *turns) leave(from netip.Prefix) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sources[from]--; t.sources[from] == 0 {
		delete(t.sources, from)
	}
}
