package acme

import (
	"sync"
	"time"

	"mooring/internal/base/errs"
)

// line is where validations wait for their turn. Names that do not answer hold a worker for as long as is waited for them, and whoever orders says
// which names those are. So the accounts take turns, and of the workers and of the places in the line each account has a small part and all open
// ones, which anybody may make, have half.
type line struct {
	wake chan struct{} // capacity validators

	mu      sync.Mutex
	running map[place]*attempt // under way: at work, waiting, or pausing before they are tried again
	shares  map[ID]*share      // of accounts with something under way
	turns   []*share           // of those with something that waits, whose turn it is first
	open    share              // of all open accounts together; its queue is not used
}

// share is what an account has of the line.
type share struct {
	account  ID
	open     bool
	waiting  []*attempt
	underway int
	working  int
}

func newLine() *line {
	return &line{wake: make(chan struct{}, validators), running: map[place]*attempt{}, shares: map[ID]*share{}}
}

// underway returns the validation of an authorization, or nil.
func (l *line) underway(p place) *attempt {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.running[p]
}

// begin puts at into the line, or returns the one that is under way for the same authorization.
func (l *line) begin(at *attempt) (*attempt, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if running := l.running[at.place]; running != nil {
		return running, nil
	}
	if len(l.running) >= maxWaiting || at.open && l.open.underway >= maxOpenWaiting {
		return nil, errs.WithRetry(refuse(errs.Limited, RateLimited, "too many validations are under way; ask again"), 10*time.Second)
	}
	own := l.shares[at.account]
	if own == nil {
		own = &share{account: at.account, open: at.open}
	}
	if own.underway >= maxAccountWaiting {
		return nil, errs.WithRetry(refuse(errs.Limited, RateLimited, "%d validations of this account are under way; ask again", own.underway), 10*time.Second)
	}
	l.shares[at.account], l.running[at.place] = own, at
	own.underway++
	if own.open {
		l.open.underway++
	}
	l.wait(own, at)
	return at, nil
}

// put has at wait again after its pause.
func (l *line) put(at *attempt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wait(l.shares[at.account], at)
}

// wait is called with mu held.
func (l *line) wait(own *share, at *attempt) {
	if own.waiting = append(own.waiting, at); len(own.waiting) == 1 {
		l.turns = append(l.turns, own)
	}
	select {
	case l.wake <- struct{}{}:
	default: // all are being woken
	}
}

// take returns what is to be validated next, nil when there is nothing that may be now. leave must follow.
func (l *line) take() *attempt {
	l.mu.Lock()
	defer l.mu.Unlock()
	for n, own := range l.turns {
		if own.working >= maxAccountWorking || own.open && l.open.working >= maxOpenWorking {
			continue
		}
		at := own.waiting[0]
		own.waiting[0] = nil
		own.waiting = own.waiting[1:]
		l.turns = append(l.turns[:n], l.turns[n+1:]...)
		if len(own.waiting) > 0 {
			l.turns = append(l.turns, own)
		}
		own.working++
		if own.open {
			l.open.working++
		}
		return at
	}
	return nil
}

// leave ends the work on at. With again it stays under way, and put will follow; else its requesters are told.
func (l *line) leave(at *attempt, again bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	own := l.shares[at.account]
	own.working--
	if own.open {
		l.open.working--
	}
	if again {
		return
	}
	if own.underway--; own.underway == 0 {
		delete(l.shares, own.account)
	}
	if own.open {
		l.open.underway--
	}
	delete(l.running, at.place)
	close(at.done)
}
