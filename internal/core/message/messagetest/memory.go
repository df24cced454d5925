// Package messagetest holds what everybody who implements message.Fabric must pass, and a fabric in memory that does, for tests of those who use one.
//
//	messagetest.RunFabric(t, func(t *testing.T) message.Fabric { … })
//
// Memory keeps the contract of message.Fabric and nothing more: it is not durable, and all nodes of a test share one.
package messagetest

import (
	"context"
	"sync"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/message"
	"mooring/wire/mqtt"
)

// Memory is a fabric in memory. The zero value is none; see New.
type Memory struct {
	now func() time.Time

	mu        sync.Mutex
	changed   chan struct{} // guarded by mu: closed and made anew when something is added
	streams   map[message.Stream][]*message.Message
	first     map[message.Stream]uint64 // guarded by mu: the place before the first message of the slice
	seen      map[string]uint64         // guarded by mu: dedupe text → place
	retained  map[string]*message.Message
	sessions  map[string]session
	revision  uint64
	owned     map[string]owner
	epoch     uint64
	owners    []owning
	said      [][]byte
	full      bool // guarded by mu: nothing is taken
	appending chan pendingAppend
	end       chan struct{}
}

type session struct {
	data     []byte
	revision uint64
}

type owner struct {
	node  string
	epoch uint64
}

type owning struct {
	key, node string
	epoch     uint64
}

type pendingAppend struct {
	done func(uint64, error)
	seq  uint64
	err  error
}

// New returns a fabric that ends with the test.
func New(now func() time.Time, cleanup func(func())) *Memory {
	f := &Memory{now: now, changed: make(chan struct{}), streams: map[message.Stream][]*message.Message{}, first: map[message.Stream]uint64{}, seen: map[string]uint64{},
		retained: map[string]*message.Message{}, sessions: map[string]session{}, owned: map[string]owner{}, appending: make(chan pendingAppend, 4096), end: make(chan struct{})}
	var wait sync.WaitGroup
	wait.Go(f.answer)
	cleanup(func() {
		close(f.end)
		wait.Wait()
	})
	return f
}

// answer calls what waits for appends, as a provider does: from a goroutine that is not the caller's.
func (f *Memory) answer() {
	for {
		select {
		case a := <-f.appending:
			a.done(a.seq, a.err)
		case <-f.end:
			for {
				select {
				case a := <-f.appending:
					a.done(a.seq, a.err)
				default:
					return
				}
			}
		}
	}
}

// Fill has the fabric refuse messages as if it were full, or take them again.
func (f *Memory) Fill(full bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.full = full
}

// Stored returns what lies in a stream.
func (f *Memory) Stored(s message.Stream) []*message.Message {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*message.Message(nil), f.streams[s]...)
}

// note wakes up who waits. f.mu is held.
func (f *Memory) note() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// Append implements message.Fabric.
func (f *Memory) Append(m *message.Message, dedupe string, done func(seq uint64, err error)) {
	f.mu.Lock()
	a := pendingAppend{done: done}
	switch seq, again := f.seen[dedupe]; {
	case f.full:
		a.err = errs.New(errs.Limited, "the fabric is full")
	case dedupe != "" && again:
		a.seq = seq
	default:
		a.seq = f.put(m)
		if dedupe != "" {
			f.seen[dedupe] = a.seq
		}
	}
	f.mu.Unlock()
	f.appending <- a
}

// put stores a copy of m. f.mu is held.
func (f *Memory) put(m *message.Message) uint64 {
	kept := copyOf(m)
	kept.Seq = f.last(m.Stream) + 1
	f.streams[m.Stream] = append(f.streams[m.Stream], kept)
	f.note()
	return kept.Seq
}

func copyOf(m *message.Message) *message.Message {
	kept := *m
	kept.Payload = append([]byte(nil), m.Payload...)
	kept.Correlation = append([]byte(nil), m.Correlation...)
	kept.User = append([]message.Pair(nil), m.User...)
	return &kept
}

// last returns the last place of s. f.mu is held.
func (f *Memory) last(s message.Stream) uint64 {
	if list := f.streams[s]; len(list) > 0 {
		return max(list[len(list)-1].Seq, f.first[s])
	}
	return f.first[s]
}

// Follow implements message.Fabric.
func (f *Memory) Follow(ctx context.Context, s message.Stream, ready func(), fn func(m *message.Message)) error {
	f.mu.Lock()
	at := f.last(s)
	f.mu.Unlock()
	if ready != nil {
		ready()
	}
	for {
		f.mu.Lock()
		var list []*message.Message
		for _, m := range f.after(s, at) {
			list = append(list, copyOf(m))
			at = m.Seq
		}
		changed := f.changed
		f.mu.Unlock()
		for _, m := range list {
			fn(m)
		}
		if len(list) > 0 {
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// Next implements message.Fabric.
func (f *Memory) Next(_ context.Context, s message.Stream, key string, after uint64) (*message.Message, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.after(s, after) {
		if key == "" || m.Key == key {
			return copyOf(m), nil
		}
	}
	return nil, errs.New(errs.NotFound, "there is no such message")
}

// after returns what lies in s above a place. f.mu is held.
func (f *Memory) after(s message.Stream, place uint64) []*message.Message {
	list := f.streams[s]
	low, high := 0, len(list)
	for low < high {
		if mid := (low + high) / 2; list[mid].Seq > place {
			high = mid
		} else {
			low = mid + 1
		}
	}
	return list[low:]
}

// Last implements message.Fabric.
func (f *Memory) Last(_ context.Context, s message.Stream) (uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last(s), nil
}

// Purge implements message.Fabric.
func (f *Memory) Purge(_ context.Context, s message.Stream, key string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.first[s] = f.last(s)
	var rest []*message.Message
	for _, m := range f.streams[s] {
		if m.Key != key {
			rest = append(rest, m)
		}
	}
	f.streams[s] = rest
	return nil
}

// Retain implements message.Fabric.
func (f *Memory) Retain(_ context.Context, m *message.Message) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(m.Payload) == 0 {
		delete(f.retained, m.Topic)
		return nil
	}
	f.retained[m.Topic] = copyOf(m)
	return nil
}

// Retained implements message.Fabric.
func (f *Memory) Retained(_ context.Context, filter string, fn func(m *message.Message) bool) error {
	f.mu.Lock()
	var list []*message.Message
	for topic, m := range f.retained {
		if m.Expiry > 0 && f.now().UnixMilli() >= m.At+int64(m.Expiry)*1000 {
			delete(f.retained, topic)
			continue
		}
		if mqtt.Match(filter, topic) {
			list = append(list, copyOf(m))
		}
	}
	f.mu.Unlock()
	for _, m := range list {
		if !fn(m) {
			break
		}
	}
	return nil
}

// Session implements message.Fabric.
func (f *Memory) Session(_ context.Context, key string) (data []byte, revision uint64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, ok := f.sessions[key]
	if !ok {
		return nil, 0, errs.New(errs.NotFound, "there is no such session")
	}
	return append([]byte(nil), s.data...), s.revision, nil
}

// PutSession implements message.Fabric. Sessions are kept for longer than life: for ever.
func (f *Memory) PutSession(_ context.Context, key string, data []byte, revision uint64, _ time.Duration) (uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sessions[key].revision != revision {
		return 0, errs.New(errs.Conflict, "the session was changed by somebody else")
	}
	f.revision++
	f.sessions[key] = session{append([]byte(nil), data...), f.revision}
	return f.revision, nil
}

// DropSession implements message.Fabric.
func (f *Memory) DropSession(_ context.Context, key string, revision uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s, ok := f.sessions[key]; ok && revision != 0 && s.revision != revision {
		return errs.New(errs.Conflict, "the session was changed by somebody else")
	}
	delete(f.sessions, key)
	return nil
}

// Sessions implements message.Fabric.
func (f *Memory) Sessions(_ context.Context, fn func(key string, data []byte, revision uint64) bool) error {
	f.mu.Lock()
	all := map[string]session{}
	for key, s := range f.sessions {
		all[key] = s
	}
	f.mu.Unlock()
	for key, s := range all {
		if !fn(key, s.data, s.revision) {
			break
		}
	}
	return nil
}

// Own implements message.Fabric.
func (f *Memory) Own(_ context.Context, key, node string) (epoch uint64, before string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before = f.owned[key].node
	f.epoch++
	f.owned[key] = owner{node, f.epoch}
	f.owners = append(f.owners, owning{key, node, f.epoch})
	f.note()
	return f.epoch, before, nil
}

// Disown implements message.Fabric.
func (f *Memory) Disown(_ context.Context, key string, epoch uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.owned[key].epoch == epoch {
		delete(f.owned, key)
	}
	return nil
}

// Owners implements message.Fabric.
func (f *Memory) Owners(ctx context.Context, ready func(), fn func(key, node string, epoch uint64)) error {
	f.mu.Lock()
	at := len(f.owners)
	f.mu.Unlock()
	if ready != nil {
		ready()
	}
	for {
		f.mu.Lock()
		list, changed := f.owners[at:], f.changed
		at = len(f.owners)
		f.mu.Unlock()
		for _, o := range list {
			fn(o.key, o.node, o.epoch)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// Announce implements message.Fabric.
func (f *Memory) Announce(_ context.Context, data []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.said = append(f.said, append([]byte(nil), data...))
	f.note()
	return nil
}

// Announced implements message.Fabric.
func (f *Memory) Announced(ctx context.Context, after uint64, ready func(), fn func(place uint64, data []byte)) error {
	f.mu.Lock()
	at := uint64(len(f.said))
	if after > 0 {
		at = after
	}
	f.mu.Unlock()
	if ready != nil {
		ready()
	}
	for {
		f.mu.Lock()
		list, changed := f.said[at:], f.changed
		f.mu.Unlock()
		for _, data := range list {
			at++
			fn(at, data)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// Standing implements message.Fabric.
func (f *Memory) Standing() message.Standing { return message.Standing{Reached: true} }
