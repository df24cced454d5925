package v2x

import (
	"fmt"
	"time"

	"mooring/wire/its"
)

// Bounds of what is remembered of messages. One station that sends ten CAM a second needs a few dozens, one that repeats a warning all the time some hundreds.
const (
	maxHeard     = 1 << 16 // messages of all
	maxHeardEach = 1 << 10 // of one ticket, for one application
	sampled      = 256     // streams among which the one is looked for that has most
)

// past is which messages were heard that could come once more. Where there is no room for another one, the oldest message of the same ticket leaves, or of the ticket that has
// most; then everything of it up to that one counts as heard. So a ticket that many messages come by costs nobody else anything, and no message is heard twice. The zero
// value needs a map.
type past struct {
	of    map[stream]*told
	count int
	swept its.Time64
}

// stream is what one ticket says for one application.
type stream struct {
	signer its.HashedId8
	psid   its.Psid
}

// told is what was heard of a stream.
type told struct {
	messages map[[16]byte]its.Time64 // by their digests; when they were made
	floor    its.Time64              // what was made until then counts as heard
}

// add remembers a message; ErrReplay is that it was heard, or may have been. age is how old a message may be.
func (p *past) add(from stream, digest [16]byte, made, at its.Time64, age func(its.Psid) time.Duration) error {
	if at > p.swept+1e6 {
		p.sweep(at, age)
	}
	t := p.of[from]
	if t == nil {
		t = &told{messages: map[[16]byte]its.Time64{}}
	}
	if _, there := t.messages[digest]; there {
		return ErrReplay
	}
	if made <= t.floor || len(t.messages) >= maxHeardEach && made <= t.oldest() {
		return fmt.Errorf("%w, as far as is remembered of its sender", ErrReplay)
	}
	switch {
	case len(t.messages) >= maxHeardEach:
		p.drop(t)
	case p.count >= maxHeard:
		most := p.most()
		if len(most.messages) <= 1 {
			return fmt.Errorf("%w, as far as is known: %d messages are remembered", ErrReplay, p.count)
		}
		p.drop(most)
	}
	t.messages[digest] = made
	p.of[from] = t
	p.count++
	return nil
}

// oldest is when the first of the messages was made.
func (t *told) oldest() (made its.Time64) {
	for _, m := range t.messages {
		if made == 0 || m < made {
			made = m
		}
	}
	return made
}

// drop takes the oldest messages of a stream away: one, or those that were made at the same moment.
func (p *past) drop(t *told) {
	t.floor = max(t.floor, t.oldest())
	p.forget(t, t.floor)
}

// forget takes away what was made until a moment.
func (p *past) forget(t *told, until its.Time64) {
	for digest, made := range t.messages {
		if made <= until {
			delete(t.messages, digest)
			p.count--
		}
	}
}

// most is the stream of which most is remembered, of some.
func (p *past) most() (most *told) {
	seen := 0
	for _, t := range p.of {
		if most == nil || len(t.messages) > len(most.messages) {
			most = t
		}
		if seen++; seen == sampled {
			break
		}
	}
	return most
}

// sweep takes away what is too old to come again.
func (p *past) sweep(at its.Time64, age func(its.Psid) time.Duration) {
	p.swept = at
	for from, t := range p.of {
		long := its.Time64(age(from.psid).Microseconds())
		if at <= long {
			continue
		}
		p.forget(t, at-long-1)
		if len(t.messages) == 0 && t.floor < at-long {
			delete(p.of, from)
		}
	}
}
