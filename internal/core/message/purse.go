package message

import (
	"sync"
	"time"

	"mooring/internal/core/device"
	"mooring/internal/core/message/policy"
)

// envelope is what the log keeps of a message besides what stands in it: subject, headers, index. It is counted for each message, since a fleet of tiny
// messages fills the log as well as one of large ones.
const envelope = 300

// weight is how many octets of the byte rate m takes.
func (m *Message) weight() int {
	n := envelope + len(m.Topic) + len(m.Payload) + len(m.ContentType) + len(m.ResponseTopic) + len(m.Correlation)
	for i := range m.User {
		n += len(m.User[i].Name) + len(m.User[i].Value)
	}
	return n
}

// purse is what a connection has used of its rates.
type purse struct {
	mu    sync.Mutex
	meter policy.Meter // guarded by mu
}

// spend takes m from what c may publish, or returns how long to wait before it could.
func (c *Conn) spend(rights *policy.Rights, v policy.Verdict, m *Message, now time.Time) time.Duration {
	c.purse.mu.Lock()
	defer c.purse.mu.Unlock()
	return c.purse.meter.Take(rights, v, m.weight(), now)
}

const (
	maxPurses = 1 << 16 // of things that are away
	maxLeft   = 128     // … of one thing
)

// purses are those of connections that have ended, for the next ones of the same thing: whoever connects anew has no new burst. Each node has its own.
type purses struct {
	mu   sync.Mutex
	left map[device.ID][]*purse // guarded by mu
	n    int                    // guarded by mu: purses in left
}

// take returns a purse for a new connection of a thing.
func (l *purses) take(id device.ID) *purse {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := l.left[id]
	if len(list) == 0 {
		return &purse{}
	}
	p := list[len(list)-1]
	l.n--
	if list = list[:len(list)-1]; len(list) == 0 {
		delete(l.left, id)
	} else {
		l.left[id] = list
	}
	return p
}

// leave keeps the purse of a connection that has ended, if anything is missing in it.
func (l *purses) leave(id device.ID, p *purse, now time.Time) {
	if p.full(now) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.left == nil {
		l.left = map[device.ID][]*purse{}
	}
	if len(l.left[id]) >= maxLeft {
		return
	}
	if l.n >= maxPurses {
		l.sweep(now)
	}
	l.left[id] = append(l.left[id], p)
	l.n++
}

// sweep forgets purses that are full by now, and then others until an eighth is free. l.mu is held.
func (l *purses) sweep(now time.Time) {
	for _, all := range []bool{false, true} {
		for id, list := range l.left {
			if l.n < maxPurses-maxPurses/8 {
				return
			}
			if all || list[0].full(now) {
				l.n -= len(list)
				delete(l.left, id)
			}
		}
	}
}

func (p *purse) full(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.meter.Full(now)
}
