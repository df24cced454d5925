package nats

import "time"

// While many publish, a flight in a row, or a row, waits for gather behind the coming of its first message, so that more go together: the more, the less each costs.
// It does not wait when enough are there, or least and as many as ever of late, if nobody came while the last flight was on its way: then all who publish wait for
// their answers. Nor does who comes alone, or first after a pause.
const (
	gather = 5 * time.Millisecond
	enough = 64
	least  = 16
	silent = 4 * gather // since the last flight began: a pause
	lately = 16         // flights
)

// complete reports whether n messages are not worth waiting with.
func (l *lane) complete(n int) bool { return n >= enough || l.all && n >= max(least, l.peak) }

// patience is for how long the next flight of l, of n messages, is waited with. mu is held.
func (p *publisher) patience(l *lane, n int, now time.Time) time.Duration {
	first := l.queue[0].since
	if p.manner != inRow || n < len(l.queue) || l.complete(n) || l.peak < 2 || first.Sub(l.since) > silent {
		return 0
	}
	return min(gather-now.Sub(first), gather)
}

// wake has begin called in a while. mu is held.
func (p *publisher) wake(l *lane, wait time.Duration) {
	switch {
	case l.set: // it will be
	case l.timer == nil:
		l.timer = time.AfterFunc(wait, func() { p.begin(l) })
	default:
		l.timer.Reset(wait)
	}
	l.set = true
}

// begin has the next flight of a lane begin that was waited with.
func (p *publisher) begin(l *lane) {
	now := p.f.o.Now()
	p.mu.Lock()
	var fl *flight
	if l.set && !l.busy && !p.ended {
		l.set = false
		fl = p.board(l, now)
	}
	p.mu.Unlock()
	p.send(fl)
}
