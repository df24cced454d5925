package coap

import (
	crand "crypto/rand"
	"encoding/binary"
	"net/netip"
	"time"

	wire "mooring/wire/coap"
)

// What it takes to show that the client is at a new address. The ID of a ping has 16 bits, so that one alone could be guessed by a client who wants the
// answers to go to somebody else, and who is told by nobody whether he was right.
const (
	proofPings = 2                // pings one after the other, each answered from the address
	maxWrong   = 3                // answers to no message of ours, whatever the address, before the attempt is over
	proofPause = 10 * time.Second // from then to the next one
)

// small is what may be sent to an address from which the client has not answered: about what came from there.
const small = 64

// proof is an attempt to show that the client is at an address.
type proof struct {
	at     netip.AddrPort
	ping   uint16 // ID of the ping that has no answer
	before uint16 // and of the one that was answered last, maybe more than once
	done   int    // pings that were answered
	held   [][]byte
	bad    bool // where a ping went is not certain: it does not count
}

// send sends what answers a datagram, or keeps it back and pings, when it is too much for an address that the client may not be at. What cannot be sent is
// lost as on the way.
func (a *association) send(b []byte) { a.sendUpTo(small, b) }

// push sends what answers nothing, of which nobody is sent anything who may not be there.
func (a *association) push(b []byte) { a.sendUpTo(0, b) }

func (a *association) sendUpTo(most int, b []byte) {
	at, moved := a.conn.Moved()
	if len(b) <= most || !moved {
		_, _ = a.conn.Write(b)
		return
	}
	a.mu.Lock()
	now := a.Now()
	if a.proof == nil || a.proof.at != at || a.proof.bad {
		if now.Before(a.pause) { // an honest client asks again
			a.mu.Unlock()
			return
		}
		next := &proof{at: at}
		if a.proof != nil {
			next.held = a.proof.held
		}
		a.nextPing(next)
		a.proof = next
	}
	p := a.proof
	if len(p.held) < maxHeld {
		p.held = append(p.held, b)
	}
	id := p.ping
	a.mu.Unlock()
	a.sendPing(p, id)
}

// nextPing chooses the ID of a ping, which has nothing to do with those of other messages: the client sees them. The caller holds mu.
func (a *association) nextPing(p *proof) {
	for {
		var b [2]byte
		_, _ = crand.Read(b[:]) // never fails
		p.ping = binary.BigEndian.Uint16(b[:])
		if a.awaiting[p.ping] == nil {
			return
		}
	}
}

// sendPing sends a ping. If the client is at another address afterwards, it may have gone there.
func (a *association) sendPing(p *proof, id uint16) {
	_, _ = a.conn.Write((&wire.Message{Type: wire.Confirmable, ID: id}).Append(nil))
	if at, _ := a.conn.Moved(); at != p.at {
		a.mu.Lock()
		p.bad = true
		a.mu.Unlock()
	}
}

// acknowledged notes that the client has a message of ours, or does not want it.
func (a *association) acknowledged(m *wire.Message) {
	at, moved := a.conn.Moved()
	a.mu.Lock()
	if w := a.awaiting[m.ID]; w != nil {
		w.reset = m.Type == wire.Reset
		close(w.done)
		delete(a.awaiting, m.ID)
		a.mu.Unlock()
		return
	}
	if o := a.said.find(m.ID); o != nil && m.Type == wire.Reset {
		a.mu.Unlock()
		a.working.Go(func() { a.unwatch(o) })
		return
	}
	p := a.proof
	switch {
	case p == nil || !moved || p.done > 0 && m.ID == p.before && m.ID != p.ping:
		a.mu.Unlock()
		return
	case p.bad || p.at != at || m.ID != p.ping:
		if a.wrong++; a.wrong >= maxWrong {
			a.proof, a.wrong, a.pause = nil, 0, a.Now().Add(proofPause)
		}
		a.mu.Unlock()
		return
	}
	if p.done++; p.done < proofPings {
		p.before = p.ping
		a.nextPing(p)
		id := p.ping
		a.mu.Unlock()
		a.sendPing(p, id)
		return
	}
	a.proof, a.wrong = nil, 0
	a.mu.Unlock()
	a.conn.Prove(p.at)
	for _, b := range p.held {
		a.push(b) // it may have moved on
	}
}
