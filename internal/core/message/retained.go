package message

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/device"
	"mooring/internal/core/message/policy"
)

var errRetained = errs.New(errs.Limited, "this thing has as many retained messages as it may have")

const (
	retainLanes   = 8
	retainWaiting = 1024 // retained messages that are being kept at once
	maxReplays    = 10_000
	authorTime    = 10 * time.Second // for so long an author is not looked up again, unless something of him changes
	maxAuthors    = 10_000
)

// retains keep retained messages, those of one thing one after the other.
type retains struct {
	lanes [retainLanes]chan retainJob
	n     atomic.Int64 // reserved
}

type retainJob struct {
	m     *Message
	limit int
	err   error // of storing the message: it is not retained then
	done  func(error)
}

func (r *retains) init() {
	for i := range r.lanes {
		r.lanes[i] = make(chan retainJob, retainWaiting)
	}
}

// reserve takes a place for a message that is about to be stored, so that put never waits. It reports false when there is none.
func (r *retains) reserve() bool {
	if r.n.Add(1) > retainWaiting {
		r.n.Add(-1)
		return false
	}
	return true
}

func (r *retains) put(m *Message, limit int, err error, done func(error)) {
	r.lanes[int(m.ID[0])%retainLanes] <- retainJob{m, limit, err, done}
}

// work keeps what comes in one lane, until ctx ends; then it answers what is left.
func (r *retains) work(ctx context.Context, s *Service, lane int) {
	for {
		select {
		case job := <-r.lanes[lane]:
			err := job.err
			if err == nil {
				err = s.retain(ctx, job.m, job.limit)
			}
			r.n.Add(-1)
			job.done(err)
		case <-ctx.Done():
			for {
				select {
				case job := <-r.lanes[lane]:
					r.n.Add(-1)
					job.done(ctx.Err())
				default:
					return
				}
			}
		}
	}
}

// retain keeps m as the retained message of its topic, if its author may have one more. What the platform itself retains is not counted.
func (s *Service) retain(ctx context.Context, m *Message, limit int) error {
	if m.Thing != "" {
		if err := s.countRetained(ctx, m, limit); err != nil {
			return err
		}
	}
	return s.Fabric.Retain(ctx, m)
}

// ledger is what is kept of a thing that has no place in a session: which topics it has retained, so that it has no more of them than it may, on all nodes
// together.
type ledger struct {
	Retained []string // topics, in order
	Sessions []string // keys of those whose client identifier has a suffix
}

func ledgerKey(id device.ID) string { return "t/" + id.String() }

func (s *Service) ledger(ctx context.Context, id device.ID) (l ledger, revision uint64, err error) {
	data, revision, err := s.Fabric.Session(ctx, ledgerKey(id))
	if errs.Is(err, errs.NotFound) {
		return ledger{}, 0, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &l)
	}
	return l, revision, err
}

// countRetained writes down that a thing retains a topic, or no longer does.
func (s *Service) countRetained(ctx context.Context, m *Message, limit int) error {
	return s.book(ctx, m.ID, func(l *ledger) (changed bool, err error) {
		at, known := slices.BinarySearch(l.Retained, m.Topic)
		switch gone := len(m.Payload) == 0; {
		case gone != known: // there is nothing to remove, or it stands there already
			return false, nil
		case gone:
			l.Retained = slices.Delete(l.Retained, at, at+1)
			return true, nil
		}
		if len(l.Retained) >= limit {
			if l.Retained, err = s.prune(ctx, l.Retained, m.ID); err != nil {
				return false, err
			}
		}
		if len(l.Retained) >= limit {
			s.metrics.RetainedQuota.Add(1)
			return false, errRetained
		}
		at, _ = slices.BinarySearch(l.Retained, m.Topic)
		l.Retained = slices.Insert(l.Retained, at, m.Topic)
		return true, nil
	})
}

// book changes a thing's ledger, which another node may do at the same time.
func (s *Service) book(ctx context.Context, id device.ID, change func(l *ledger) (changed bool, err error)) error {
	for range 5 {
		l, revision, err := s.ledger(ctx, id)
		if err != nil {
			return err
		}
		if changed, err := change(&l); err != nil || !changed {
			return err
		}
		data, err := json.Marshal(l)
		if err != nil {
			return err
		}
		if _, err = s.Fabric.PutSession(ctx, ledgerKey(id), data, revision, 0); !errs.Is(err, errs.Conflict) {
			return err
		}
	}
	return errs.New(errs.Unavailable, "several nodes work for this thing at once: try again")
}

// prune leaves out what is no longer retained, or by somebody else now.
func (s *Service) prune(ctx context.Context, topics []string, id device.ID) (kept []string, err error) {
	for _, topic := range topics {
		err = s.Fabric.Retained(ctx, topic, func(m *Message) bool {
			if _, ok := m.left(s.milli()); ok && m.ID == id {
				kept = append(kept, topic)
			}
			return false
		})
		if err != nil {
			return nil, err
		}
	}
	return kept, nil
}

// replay is a retained message that is to be read and said when there is room.
type replay struct {
	topic string
	sub   *sub
}

// maxReplayOctets is how many octets of topics of retained messages that are to come a record has: those beyond do not come after the connection has ended.
const maxReplayOctets = 64 << 10

// replayRecords are the retained messages to come, for the record. c.mu is held.
func (c *Conn) replayRecords() (list []replayRecord) {
	octets := 0
	for _, r := range c.replays {
		if octets += len(r.topic); octets > maxReplayOctets {
			break
		}
		if c.subs[r.sub.Filter] != r.sub {
			continue
		}
		if n := len(list); n == 0 || list[n-1].Filter != r.sub.Filter {
			list = append(list, replayRecord{Filter: r.sub.Filter})
		}
		last := &list[len(list)-1]
		last.Topics = append(last.Topics, r.topic)
	}
	return list
}

// resumeReplays takes up the retained messages that were to come on an earlier connection. c.mu is held.
func (c *Conn) resumeReplays(list []replayRecord) {
	for i := range list {
		for _, topic := range list[i].Topics {
			if s := c.subs[list[i].Filter]; s != nil && len(c.replays) < maxReplays {
				c.replays = append(c.replays, replay{topic, s})
			}
		}
	}
}

// replay says the retained messages that a new subscription is to get (MQTT 5.0, section 3.3.1.3).
func (c *Conn) replay(ctx context.Context, s *sub, isNew bool) {
	if s.shared || s.Handling == 2 || s.Handling == 1 && !isNew {
		return
	}
	var list []*Message
	var rest []replay
	octets := 0
	recent := c.s.recent.of(s, c.s.Now())
	take := func(m *Message) bool {
		if len(m.Payload) == 0 { // it is to be removed
			return true
		}
		if len(list) < maxPending && octets+len(m.Payload) <= maxPendingOctets {
			list = append(list, m)
			octets += len(m.Payload)
			return true
		}
		rest = append(rest, replay{m.Topic, s})
		return len(rest) < maxReplays
	}
	err := c.s.Fabric.Retained(ctx, s.inner, func(m *Message) bool {
		if newer := recent[m.Topic]; newer != nil && newer.At >= m.At {
			return true
		}
		delete(recent, m.Topic)
		return take(m)
	})
	if err != nil {
		c.s.log.LogAttrs(ctx, slog.LevelWarn, "retained messages cannot be read", slog.Any("cause", err))
	}
	for _, m := range recent {
		take(m)
	}
	for _, m := range list {
		if !c.sayRetained(ctx, m, s) {
			rest = append(rest, replay{m.Topic, s})
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if room := maxReplays - len(c.replays); len(rest) > room {
		c.s.metrics.ReplaysDropped.Add(int64(len(rest) - room))
		rest = rest[:room]
	}
	c.replays = append(c.replays, rest...)
	if len(rest) > 0 {
		c.touch()
	}
	c.stir()
}

// sayRetained says one, if its author and its reader may. It reports false when there is no room for it now.
func (c *Conn) sayRetained(ctx context.Context, m *Message, s *sub) bool {
	if m = c.s.shown(ctx, m); m == nil || !c.mayReceive(m.Topic) {
		c.s.metrics.RetainedHidden.Add(1)
		return true
	}
	return c.take(s, item{m: m, again: true})
}

// replayOne reads and says the first of those that had to wait, and then takes it out. It reports true when there is still no room.
func (c *Conn) replayOne(ctx context.Context, r replay) (blocked bool, err error) {
	var found *Message
	err = c.s.Fabric.Retained(ctx, r.topic, func(m *Message) bool {
		found = m
		return false
	})
	said := err == nil && (found == nil || c.sayRetained(ctx, found, r.sub))
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return false, nil
	}
	c.replays = c.replays[1:]
	if said || c.subs[r.sub.Filter] != r.sub {
		c.touch()
		return false, nil
	}
	c.replays = append(c.replays, r)
	return err == nil, err
}

// Retained returns the retained message of a topic, if the peer may have it. The error is Denied when it may not, NotFound when there is none.
func (c *Conn) Retained(ctx context.Context, topic string) (found *Message, err error) {
	if v := c.rights.Load().Receive(topic); !v.OK() {
		return nil, v.Err()
	}
	err = c.s.Fabric.Retained(ctx, topic, func(m *Message) bool {
		found = m
		return false
	})
	if err != nil {
		return nil, err
	}
	if found != nil {
		if _, ok := found.left(c.s.milli()); ok {
			if found = c.s.shown(ctx, found); found != nil {
				return found, nil
			}
		}
	}
	return nil, errs.New(errs.NotFound, "nothing is retained there")
}

// shown returns what is shown of a retained message, nil for nothing: its author must still be one who may speak, and publish this. What those left who may
// speak no more is hidden or marked, as the policy of their group says.
func (s *Service) shown(ctx context.Context, m *Message) *Message {
	if m.Thing == "" {
		return m
	}
	rights, err := s.authors.rights(ctx, s, m.ID, m.Cert)
	if rights == nil {
		return nil
	}
	if m.From != "" {
		rights = rights.ForClient(m.From)
	}
	if !rights.Publish(m.Topic, m.QoS, true, len(m.Payload)).OK() && !rights.Will(m.Topic, m.QoS, true, len(m.Payload)).OK() {
		return nil
	}
	if err == nil {
		return m
	}
	if rights.Limits.Revoked != policy.RetainedMark {
		return nil
	}
	marked := *m
	marked.User = append(slices.Clip(m.User), Pair{"author", "revoked"})
	return &marked
}

// authors remember for a moment what the registry says of who published something.
type authors struct {
	mu    sync.Mutex
	known map[authorKey]author   // guarded by mu
	fixed map[device.ID]Identity // guarded by mu: of listeners with a fixed group; the registry need not know them
}

const maxFixed = 64

func (a *authors) fix(id *Identity) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fixed == nil {
		a.fixed = map[device.ID]Identity{}
	}
	if _, known := a.fixed[id.ID]; known || len(a.fixed) < maxFixed {
		a.fixed[id.ID] = *id
	}
}

type authorKey struct {
	id   device.ID
	cert [16]byte
}

type author struct {
	rights *policy.Rights
	err    error
	ruling *ruling
	asOf   uint64
	at     time.Time
}

// rights returns what a thing may now under the present policy. With an error of kind Denied, it is what the thing might if it could speak, or nil.
func (a *authors) rights(ctx context.Context, s *Service, id device.ID, cert [16]byte) (*policy.Rights, error) {
	key := authorKey{id, cert}
	ruling, asOf, now := s.policy.Load(), s.cuts.last(), s.Now()
	a.mu.Lock()
	got, ok := a.known[key]
	fixed, isFixed := a.fixed[id]
	a.mu.Unlock()
	if isFixed {
		return ruling.compile(fixed.Group, fixed.Subject)
	}
	if ok && got.ruling == ruling && got.asOf == asOf && now.Sub(got.at) < authorTime && !now.Before(got.at) {
		return got.rights, got.err
	}
	got = author{ruling: ruling, asOf: asOf, at: now}
	subject, err := s.Author(ctx, id, cert)
	known := err == nil || errs.Is(err, errs.Denied) && subject.Thing != ""
	if err == nil {
		var children map[string]device.ID
		if s.Children != nil && subject.Kind == policy.Gateway {
			children, err = s.Children(ctx, subject.Thing)
		}
		subject.Child = func(name string) bool { _, ok := children[name]; return ok }
	}
	if known {
		rights, lack := ruling.set.Compile(subject)
		got.rights = rights
		if err == nil {
			err = lack
		}
	}
	got.err = err
	if err != nil && !errs.Is(err, errs.Denied) && !errs.Is(err, errs.NotFound) {
		return nil, err // it is asked again
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known == nil || len(a.known) >= maxAuthors {
		a.known = map[authorKey]author{}
	}
	a.known[key] = got
	return got.rights, got.err
}

// forget has a thing looked up again.
func (a *authors) forget(id device.ID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for key := range a.known {
		if key.id == id {
			delete(a.known, key)
		}
	}
}
