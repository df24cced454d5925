package nats

import (
	"context"
	"hash/maphash"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// present knows under which keys of the bucket of sessions nothing lies, so that nobody has to ask JetStream about them: most devices that connect have left
// nothing, and the question is a third of what their connecting costs besides TLS. It is for the embedded server, where nobody else writes. It errs to one side
// only: a key of which it knows nothing may have a session.
type present struct {
	seed maphash.Seed

	mu     sync.Mutex
	listed bool               // all that lay there at the start is among keys; guarded by mu
	count  uint32             // of puts; guarded by mu
	keys   map[uint64]sitting // by the key's digest, under which something may lie; nil: there are too many; guarded by mu
}

// sitting is what is known of a key.
type sitting struct {
	until uint32 // when it is gone for certain, Unix seconds; 0: never
	put   uint32 // the number of the last put, or of its end
	under int32  // puts under way
}

const (
	// maxPresent is for how many sessions this is kept, some 30 octets each. Whoever has more asks.
	maxPresent = 1 << 20
	// presentSlack is how late JetStream may be with forgetting.
	presentSlack = 2 * time.Minute
)

func newPresent() *present {
	return &present{seed: maphash.MakeSeed(), keys: map[uint64]sitting{}}
}

// lacks reports whether nothing lies under key for certain.
func (p *present) lacks(key string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.listed || p.keys == nil {
		return false
	}
	_, may := p.keys[maphash.String(p.seed, key)]
	return !may
}

// put notes that something is about to be put under key; life 0 is for ever. The function that it returns is to be called when that has ended, with whether it
// was stored for certain. While puts are under way nothing that is dropped takes the key away: they may be stored behind that.
func (p *present) put(key string, life time.Duration, now time.Time) (ended func(stored bool, now time.Time)) {
	digest := maphash.String(p.seed, key)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.note(digest, end(life, now), false, 1)
	return func(stored bool, now time.Time) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.note(digest, end(life, now), stored, -1)
	}
}

// add notes that something lies under key.
func (p *present) add(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.note(maphash.String(p.seed, key), 0, false, 0)
}

// note changes what is known of a key. mu is held.
func (p *present) note(digest uint64, until uint32, stored bool, under int32) {
	before, known := p.keys[digest]
	switch {
	case p.keys == nil:
		return
	case !known && len(p.keys) >= maxPresent:
		p.keys = nil
		return
	case known && (!stored || before.under > 1): // it may fail, or another is stored behind it, and what lies there stays
		until = longer(before.until, until)
	}
	p.count++
	p.keys[digest] = sitting{until, p.count, before.under + under}
}

// end is when what is put now is gone for certain, Unix seconds; 0: never.
func end(life time.Duration, now time.Time) uint32 {
	if life <= 0 {
		return 0
	}
	return uint32(min(now.Add(life+presentSlack).Unix(), 1<<32-1))
}

// longer returns the later of two ends, of which 0 is never.
func longer(a, b uint32) uint32 {
	if a == 0 || b == 0 {
		return 0
	}
	return max(a, b)
}

// drop is to be called before key is removed; the function that it returns when it was. What is put meanwhile stays.
func (p *present) drop(key string) (dropped func()) {
	digest := maphash.String(p.seed, key)
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.keys[digest]
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if now := p.keys[digest]; now.put == before.put && now.under == 0 {
			delete(p.keys, digest)
		}
	}
}

// forget leaves out what is gone by itself.
func (p *present) forget(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for digest, s := range p.keys {
		if s.until > 0 && s.under == 0 && int64(s.until) < now.Unix() {
			delete(p.keys, digest)
		}
	}
}

// listSessions has present know what lies in the bucket of sessions.
func (f *Fabric) listSessions(ctx context.Context) {
	there := func(subject string) {
		if name, ok := key(subject); ok {
			f.present.add(name)
		}
	}
	whole, err := f.listAtOnce(ctx, there)
	if err == nil && !whole { // parts of a list may not fit together when something goes meanwhile
		err = f.scan(ctx, bucketSessions, f.name.slot(bucketSessions, ">"), func(s *stored) bool { there(s.subject); return true })
	}
	if err != nil {
		if ctx.Err() == nil {
			f.o.Log.Warn("which sessions there are cannot be listed; each is looked for", "err", err)
		}
		return
	}
	f.present.mu.Lock()
	defer f.present.mu.Unlock()
	f.present.listed = true
}

// listAtOnce tells the subjects in the bucket of sessions, and whether these are all.
func (f *Fabric) listAtOnce(ctx context.Context, there func(subject string)) (whole bool, err error) {
	var a struct {
		Error *jetstream.APIError `json:"error"`
		State struct {
			Subjects map[string]uint64 `json:"subjects"`
		} `json:"state"`
		Total int `json:"total"`
	}
	if err := f.api(ctx, "STREAM.INFO."+f.name.named(bucketSessions), map[string]string{"subjects_filter": ">"}, &a); err != nil {
		return false, err
	}
	if a.Error != nil {
		return false, a.Error
	}
	for subject := range a.State.Subjects {
		there(subject)
	}
	return len(a.State.Subjects) >= a.Total, nil
}
