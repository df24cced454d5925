package revoke

import (
	"context"
	"encoding/hex"
	"sync"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
)

// EventKind says what happened.
type EventKind string

// The kinds of events.
const (
	Revoked  EventKind = "revoke"
	Held     EventKind = "hold"
	Released EventKind = "release"
	// Alive says that the feed has been read up to Cursor and nothing else happened. It comes every aliveEvery.
	Alive EventKind = "alive"
)

// Event is one change to a certificate.
type Event struct {
	// Cursor is the place of the event in the record: whoever has handled it goes on from Cursor+1. It is -1 for what this process committed a
	// moment ago and which has no place yet; the same event follows with its place. An Alive event stands before the entry at Cursor.
	Cursor int64
	Kind   EventKind
	Serial []byte
	Issuer ca.IssuerID
	Device device.ID
	Key    string // SHA-256 of the public key, hex; "" when the record does not tell
	Reason Reason
	At     int64 // UTC seconds

	shard, change int64
}

func eventActions() []string { return []string{"cert.revoke", "cert.hold", "cert.release"} }

// eventOf reads an event out of its entry.
func eventOf(e *audit.Indexed) (Event, error) {
	r, err := revocationOf(&e.Entry)
	if err != nil {
		return Event{}, err
	}
	ev := r.event(e.Detail["spki"])
	ev.Cursor = e.Index
	return ev, nil
}

// event describes the change that made r.
func (r *Revocation) event(spki string) Event {
	ev := Event{Cursor: -1, Kind: Revoked, Serial: ca.ShownSerial(r.Serial), Issuer: r.Issuer, Device: r.Device, Key: spki, Reason: r.Reason, At: r.At, shard: r.Shard, change: r.change}
	switch r.Reason {
	case CertificateHold:
		ev.Kind = Held
	case released:
		ev.Kind = Released
	}
	return ev
}

const (
	maxWatchers = 256
	watcherRoom = 4096 // events that wait for one watcher
	aliveEvery  = 15 * time.Second
)

// hub hands out what this process committed.
type hub struct {
	mu       sync.Mutex
	watchers map[*watcher]bool // guarded by mu
}

type watcher struct {
	events chan Event
	slow   chan struct{} // closed when events had no room
}

func (h *hub) join(own bool) (*watcher, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.watchers) >= maxWatchers && !own { // the platform's own find room, or whoever fills the feed would stop the cutting of connections
		return nil, errs.New(errs.Limited, "the feed of revocations has %d watchers, and no more are let in", maxWatchers)
	}
	if h.watchers == nil {
		h.watchers = map[*watcher]bool{}
	}
	w := &watcher{events: make(chan Event, watcherRoom), slow: make(chan struct{})}
	h.watchers[w] = true
	return w, nil
}

func (h *hub) leave(w *watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.watchers, w)
}

// tell never waits: who does not keep up is cut off, and goes on from his cursor.
func (h *hub) tell(events []Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.watchers {
		for _, e := range events {
			select {
			case w.events <- e:
				continue
			default:
			}
			close(w.slow)
			delete(h.watchers, w)
			break
		}
	}
}

func (h *hub) size() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.watchers)
}

// Watch calls fn for every revocation, hold and release from the place in the record on, in order, until ctx ends (nil) or fn fails (its
// error). From -1 it begins with the present. It needs the permission cert.read.
//
// What this process commits comes at once, with the Cursor -1, and again in its place; what other nodes commit comes in its place only, a
// fraction of a second later. So whoever acts on every event is quick, and whoever keeps the Cursor of the last one with a place misses
// nothing over a restart. fn must tolerate the repetition. A watcher that falls too far behind gets an error of kind Limited; he may go on
// from his cursor. Revoking never waits for a watcher.
func (s *Service) Watch(ctx context.Context, actor access.Actor, from int64, fn func(Event) error) error {
	if err := s.Access.Require(ctx, actor, access.CertRead, "revocations"); err != nil {
		return err
	}
	w, err := s.hub.join(actor.Kind == access.KindSystem) // before reading where the record stands, so that nothing falls in between
	if err != nil {
		return err
	}
	defer s.hub.leave(w)
	size, err := s.Audit.Size(ctx)
	if err != nil {
		return err
	}
	switch {
	case from < 0:
		from = size
	case from > size:
		return errs.New(errs.Invalid, "the record has %d entries, so that nobody can have read up to %d: start from 0, or from what the server told", size, from)
	}
	t := &tail{service: s, watcher: w, place: from, fn: fn}
	return t.run(ctx)
}

// tail is where one watcher stands.
type tail struct {
	service *Service
	watcher *watcher
	place   int64
	fn      func(Event) error
	told    time.Time // when fn was last called
}

func (t *tail) run(ctx context.Context) error {
	poll := time.NewTicker(t.service.Audit.LookAgain())
	defer poll.Stop()
	for {
		grown := t.service.Audit.Grown() // before reading, so that no growth is missed
		more, err := t.read(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if err := t.wait(ctx, more, grown, poll.C); err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// read hands over the next page of what has its place.
func (t *tail) read(ctx context.Context) (more bool, err error) {
	page, next, err := t.service.Audit.Scan(ctx, t.place, eventActions())
	if err != nil {
		return false, err
	}
	for i := range page {
		e, err := eventOf(&page[i])
		if err != nil {
			return false, errs.Wrap(errs.Internal, err, "entry %d of the record cannot be read as a revocation", page[i].Index)
		}
		if err := t.tell(e); err != nil {
			return false, err
		}
	}
	more, t.place = next > t.place, next
	if t.service.Now().Sub(t.told) >= aliveEvery {
		err = t.tell(Event{Cursor: t.place, Kind: Alive, At: t.service.Now().Unix()})
	}
	return more, err
}

func (t *tail) tell(e Event) error {
	t.told = t.service.Now()
	return t.fn(e)
}

// wait hands over what this process commits until there is something to read, which is at once when there is more.
func (t *tail) wait(ctx context.Context, more bool, grown <-chan struct{}, poll <-chan time.Time) error {
	for {
		select {
		case <-t.watcher.slow:
			return errs.New(errs.Limited, "this watcher fell more than %d events behind and was cut off: go on from the last cursor", watcherRoom)
		case e := <-t.watcher.events:
			if err := t.tell(e); err != nil {
				return err
			}
			continue
		default:
		}
		if more {
			return nil
		}
		select {
		case e := <-t.watcher.events:
			if err := t.tell(e); err != nil {
				return err
			}
		case <-t.watcher.slow: // said above
		case <-grown:
			return nil
		case <-poll:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// changed is called when changes have been committed, before whoever made them is answered.
func (s *Service) changed(list []outcome) {
	events := make([]Event, 0, len(list))
	for i := range list {
		if o := &list[i]; o.changed {
			s.own.add(ca.ShownSerial(o.Serial), o.change)
			s.duties.add(o.scope(), o.change, s.Now())
			events = append(events, o.event(hex.EncodeToString(o.spki[:])))
		}
	}
	if len(events) > 0 {
		s.hub.tell(events)
	}
}
