package policy

import (
	"math/bits"
	"time"
)

// Rate is how much may come: Count in a period, evenly, and as much as Burst at once. The zero Rate is no limit.
type Rate struct {
	Count int64
	Per   time.Duration
	Burst int64
}

// cost is how long n uses the rate up. It is exact enough for any rate that the language can say, and never overflows.
func (r Rate) cost(n int64) int64 {
	const most = 1 << 60
	hi, lo := bits.Mul64(uint64(max(n, 0)), uint64(r.Per))
	if hi >= uint64(r.Count) {
		return most
	}
	quotient, _ := bits.Div64(hi, lo, uint64(r.Count))
	return int64(min(quotient, most))
}

// Bucket is the state of one limited rate: the instant, in Unix nanoseconds, at which everything that it let through will have been made up for. The
// zero Bucket is full.
type Bucket struct{ paid int64 }

// Take takes n from b, and returns 0; or it takes nothing and returns how long to wait before n can be taken. More than the burst counts as the
// burst, so that a large message is late and not stuck.
func (b *Bucket) Take(r Rate, now time.Time, n int64) time.Duration {
	wait := b.wait(r, now, n)
	if wait == 0 {
		b.take(r, now, n)
	}
	return wait
}

func (b *Bucket) wait(r Rate, now time.Time, n int64) time.Duration {
	if r.Count == 0 {
		return 0
	}
	at, room := now.UnixNano(), r.cost(r.Burst)
	return time.Duration(max(b.owed(at, room)+r.cost(min(n, r.Burst))-room, 0))
}

func (b *Bucket) take(r Rate, now time.Time, n int64) {
	if r.Count != 0 {
		at := now.UnixNano()
		b.paid = at + b.owed(at, r.cost(r.Burst)) + r.cost(min(n, r.Burst))
	}
}

// owed is what is not made up for yet at an instant. It is never more than room, unless the clock was set back or the rate was changed: then it becomes room,
// so that a connection does not stand still until the clock is where it was.
func (b *Bucket) owed(at, room int64) int64 {
	b.paid = min(b.paid, at+room)
	return max(b.paid-at, 0)
}

// Meter is what one connection, or several one after the other, has used of the rates of its Rights. The zero Meter has used nothing. It is not safe for concurrent use.
type Meter struct {
	messages, octets Bucket
	rules            []Bucket // of the rules that have a rate of their own; made when the first message comes under one
}

// Full reports whether all that was used is made up for at an instant.
func (m *Meter) Full(now time.Time) bool {
	latest := max(m.messages.paid, m.octets.paid)
	for i := range m.rules {
		latest = max(latest, m.rules[i].paid)
	}
	return latest <= now.UnixNano()
}

// Take counts a message of so many octets that v allowed, and returns 0; or it counts nothing and returns how long to wait before the message may
// pass. It does not allocate after the first message under a rule with a rate of its own.
func (m *Meter) Take(r *Rights, v Verdict, octets int, now time.Time) time.Duration {
	var own *Bucket
	limit := r.rate(v)
	if limit.Count != 0 {
		if len(m.rules) != len(r.rules) { // the first such message, or one under changed rules
			m.rules = make([]Bucket, len(r.rules))
		}
		own = &m.rules[v.Rule]
		if wait := own.wait(limit, now, 1); wait > 0 {
			return wait
		}
	}
	l := &r.Limits
	if wait := max(m.messages.wait(l.Rate, now, 1), m.octets.wait(l.ByteRate, now, int64(octets))); wait > 0 {
		return wait
	}
	m.messages.take(l.Rate, now, 1)
	m.octets.take(l.ByteRate, now, int64(octets))
	if own != nil {
		own.take(limit, now, 1)
	}
	return 0
}
