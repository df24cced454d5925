package acme

import "sync"

// shelf keeps rows in memory. With SQLite this process alone has the database, and every change of an account or order is made in this package, which puts
// what it changed here, or takes it away, before anybody hears of the change. So an account that was deactivated or got another key is known as such by
// the next message. With PostgreSQL other nodes change rows, too: what is kept there is good for a moment (Service.Account), or does not change any more, and
// of orders there is no shelf: a nil one keeps nothing.
//
// What was read goes onto it only when nothing was changed since the reading began; else an old row could come back after its change.
type shelf[V any] struct {
	mu    sync.Mutex
	epoch uint64   // guarded by mu; how many changes there were
	rows  map[ID]V // guarded by mu
}

// shelfMost bounds the rows on a shelf, of some 2 kB each.
const shelfMost = 4096

// get returns the row, and the epoch that put wants when it is not there.
func (s *shelf[V]) get(id ID) (v V, epoch uint64, ok bool) {
	if s == nil {
		return v, 0, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok = s.rows[id]
	return v, s.epoch, ok
}

// put keeps what was read after get.
func (s *shelf[V]) put(id ID, v V, epoch uint64) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.epoch == epoch {
		s.keep(id, v)
	}
}

// set keeps a row that was committed just now and that nobody else knew of.
func (s *shelf[V]) set(id ID, v V) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keep(id, v)
}

// swap tells of a change that was committed: v follows a row of which follows is true. Whatever else is there goes.
func (s *shelf[V]) swap(id ID, v V, follows func(V) bool) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch++
	switch was, ok := s.rows[id]; {
	case ok && follows(was):
		s.rows[id] = v
	case ok:
		delete(s.rows, id)
	}
}

// drop tells that a row was changed, or may have been.
func (s *shelf[V]) drop(id ID) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch++
	delete(s.rows, id)
}

// clear tells that rows were changed of which it is not known which.
func (s *shelf[V]) clear() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch++
	clear(s.rows)
}

// keep makes room by taking away any row. It is called with mu held.
func (s *shelf[V]) keep(id ID, v V) {
	if len(s.rows) >= shelfMost {
		for any := range s.rows {
			delete(s.rows, any)
			break
		}
	}
	s.rows[id] = v
}
