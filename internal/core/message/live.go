package message

import (
	"context"
	"sync"
	"time"

	"mooring/internal/core/device"
)

// live are the connections of this node.
type live struct {
	mu       sync.RWMutex
	byKey    map[string]*Conn        // guarded by mu; one for each session
	leaving  map[string]*Conn        // guarded by mu; those that have ended and are not settled
	byDevice map[device.ID][]*Conn   // guarded by mu
	bySerial map[string][]*Conn      // guarded by mu
	gateways map[*Conn]struct{}      // guarded by mu
	lastCuts map[device.ID]cutReason // guarded by mu
}

// cutReason is why a thing was cut off last.
type cutReason struct {
	reason string
	at     int64
}

const maxLastCuts = 1 << 14

func (l *live) init() {
	l.byKey, l.leaving, l.byDevice, l.bySerial = map[string]*Conn{}, map[string]*Conn{}, map[device.ID][]*Conn{}, map[string][]*Conn{}
	l.gateways, l.lastCuts = map[*Conn]struct{}{}, map[device.ID]cutReason{}
}

// add reports false, and does nothing, when the thing of c has most connections besides that of the same session.
func (l *live) add(c *Conn, most int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	others := 0
	for _, other := range l.byDevice[c.id.ID] {
		if other.key != c.key {
			others++
		}
	}
	if others >= most {
		return false
	}
	l.byKey[c.key] = c
	l.byDevice[c.id.ID] = append(l.byDevice[c.id.ID], c)
	l.bySerial[c.id.Serial] = append(l.bySerial[c.id.Serial], c)
	if c.children.Load() != nil {
		l.gateways[c] = struct{}{}
	}
	return true
}

func (l *live) remove(c *Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byKey[c.key] == c {
		delete(l.byKey, c.key)
	}
	l.leaving[c.key] = c
	drop(l.byDevice, c.id.ID, c)
	drop(l.bySerial, c.id.Serial, c)
	delete(l.gateways, c)
}

// left forgets a connection that is settled.
func (l *live) left(c *Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.leaving[c.key] == c {
		delete(l.leaving, c.key)
	}
}

// before returns a connection of the session that has ended and is not settled, or nil.
func (l *live) before(key string) *Conn {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.leaving[key]
}

func drop[K comparable](m map[K][]*Conn, key K, c *Conn) {
	list := m[key]
	for i := range list {
		if list[i] == c {
			last := len(list) - 1
			list[i], list[last] = list[last], nil
			list = list[:last]
			break
		}
	}
	if len(list) == 0 {
		delete(m, key)
		return
	}
	m[key] = list
}

func (l *live) get(key string) *Conn {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.byKey[key]
}

func (l *live) has(id device.ID) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return len(l.byDevice[id]) > 0
}

func (l *live) of(id device.ID) []*Conn {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return append([]*Conn(nil), l.byDevice[id]...)
}

func (l *live) all() []*Conn {
	l.mu.RLock()
	defer l.mu.RUnlock()
	list := make([]*Conn, 0, len(l.byKey))
	for _, c := range l.byKey {
		list = append(list, c)
	}
	return list
}

func (l *live) allGateways() []*Conn {
	l.mu.RLock()
	defer l.mu.RUnlock()
	list := make([]*Conn, 0, len(l.gateways))
	for c := range l.gateways {
		list = append(list, c)
	}
	return list
}

// find returns the connections that x means.
func (l *live) find(x *Selector) (list []*Conn) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	pick := func(c *Conn) {
		if x.hits(c.who.Load()) {
			list = append(list, c)
		}
	}
	switch {
	case x.Device != device.ID{}:
		for _, c := range l.byDevice[x.Device] {
			pick(c)
		}
	case x.Serial != "":
		for _, c := range l.bySerial[x.Serial] {
			pick(c)
		}
	default:
		for _, c := range l.byKey {
			pick(c)
		}
	}
	return list
}

func (l *live) noteCut(id device.ID, reason string, at int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.lastCuts[id]; !known && len(l.lastCuts) >= maxLastCuts {
		for other := range l.lastCuts { // any: it is for people, and the record has them all
			delete(l.lastCuts, other)
			break
		}
	}
	l.lastCuts[id] = cutReason{reason, at}
}

// keyLocks let one at a time connect to a session.
type keyLocks struct {
	mu   sync.Mutex
	held map[string]*keyLock // guarded by mu
}

type keyLock struct {
	turn chan struct{} // holds a value while it is locked
	n    int           // who holds it or waits
}

func (k *keyLocks) lock(ctx context.Context, key string) (unlock func(), err error) {
	k.mu.Lock()
	l := k.held[key]
	if l == nil {
		l = &keyLock{turn: make(chan struct{}, 1)}
		if k.held == nil {
			k.held = map[string]*keyLock{}
		}
		k.held[key] = l
	}
	l.n++
	k.mu.Unlock()
	leave := func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.n--; l.n == 0 {
			delete(k.held, key)
		}
	}
	select {
	case l.turn <- struct{}{}:
		return func() { <-l.turn; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}

// flaps count take-overs: two peers with one identifier would otherwise end each other's connections for ever.
type flaps struct {
	mu   sync.Mutex
	seen map[string]flap // guarded by mu
}

type flap struct {
	from time.Time
	n    int
	told bool
}

// ask reports whether the session may be taken over once more, and whether it is the first time that it may not.
func (f *flaps) ask(key string, now time.Time) (ok, first bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at, known := f.seen[key]
	if !known || now.Sub(at.from) >= flapWindow || now.Before(at.from) {
		at = flap{from: now}
		if !known && len(f.seen) >= maxFlapping {
			f.sweep(now)
		}
	}
	at.n++
	ok = at.n <= maxFlaps
	first = !ok && !at.told
	at.told = at.told || first
	if f.seen == nil {
		f.seen = map[string]flap{}
	}
	if known || len(f.seen) < maxFlapping {
		f.seen[key] = at
	}
	return ok, first
}

func (f *flaps) sweep(now time.Time) {
	for key, at := range f.seen {
		if now.Sub(at.from) >= flapWindow {
			delete(f.seen, key)
		}
	}
}
