package message

import (
	"slices"
	"sync"
	"time"

	"mooring/internal/core/device"
	"mooring/wire/mqtt"
)

// recent are the retained messages that were stored lately. A message is stored first, and kept as the retained one of its topic afterwards. Who subscribes in between
// does not hear it any more, and finds the one before it where retained messages lie; so he is to look here too.
type recent struct {
	mu     sync.Mutex
	list   []recentMessage // guarded by mu, the oldest first
	octets int             // guarded by mu: of their payloads
}

type recentMessage struct {
	*Message
	noted time.Time
}

// The bounds of recent. While more comes, a message is here for a shorter time, which is still longer than keeping it takes.
const (
	recentTime   = 10 * time.Second
	maxRecent    = 1024
	recentOctets = 8 << 20
)

// note takes m, which nobody changes any more. It comes before anybody takes it for old (stream.known).
func (r *recent) note(m *Message, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, recentMessage{m, now})
	r.octets += len(m.Payload)
	r.forget(now)
}

// forget drops what is too old or too much. r.mu is held.
func (r *recent) forget(now time.Time) {
	n := 0
	for n < len(r.list) && (len(r.list)-n > maxRecent || r.octets > recentOctets || now.Sub(r.list[n].noted) > recentTime) {
		r.octets -= len(r.list[n].Payload)
		r.list[n] = recentMessage{}
		n++
	}
	if r.list = r.list[n:]; len(r.list) == 0 {
		r.list = nil
	}
}

// drop forgets what a thing published.
func (r *recent) drop(id device.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = slices.DeleteFunc(r.list, func(m recentMessage) bool {
		if m.ID != id {
			return false
		}
		r.octets -= len(m.Payload)
		return true
	})
}

// of returns the newest message of each topic that a subscription matches and does not hear.
func (r *recent) of(s *sub, now time.Time) (found map[string]*Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forget(now)
	for i := range r.list {
		m := r.list[i].Message
		if m.Seq > s.since[m.Stream] || !mqtt.Match(s.inner, m.Topic) {
			continue
		}
		if before := found[m.Topic]; before == nil || before.Seq < m.Seq {
			if found == nil {
				found = map[string]*Message{}
			}
			found[m.Topic] = m
		}
	}
	return found
}
