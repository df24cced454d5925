package message

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/device"
)

// record is what is kept of a session in the fabric, so that it outlives its connection and its node. It is written before anything is answered that must
// not be forgotten (subscriptions, QoS 2), and otherwise within a second: a crash repeats a few messages of QoS 1, which MQTT allows.
type record struct {
	ID     device.ID
	Thing  string
	Client string
	Cert   []byte
	Serial []byte // of the certificate, content octets
	Issuer []byte // … and of its CA
	Node   string // the node that holds or held the connection
	Epoch  uint64
	Live   bool   // it is connected
	Ended  int64  `json:",omitempty"` // when the connection ended, Unix seconds
	Expiry uint32 // seconds

	Subs     []subRecord     `json:",omitempty"`
	Lost     []Subscription  `json:",omitempty"` // see Conn.lost
	Pos      [streams]uint64 // where its queue begins in each stream
	Flights  []flightRecord  `json:",omitempty"`
	Replays  []replayRecord  `json:",omitempty"`
	LastIDs  [streams]uint16 `json:",omitzero"`  // see idRange
	Arrivals []uint16        `json:",omitempty"` // QoS 2: identifiers of what was stored and not released
	Born     uint64          `json:",omitempty"` // the epoch in which the session began
	Turn     uint32          `json:",omitempty"` // how often one was released
	Floor    uint32          `json:",omitempty"` // see turns
	Turns    []turnRecord    `json:",omitempty"`

	Will   *Will `json:",omitempty"`
	WillAt int64 `json:",omitempty"` // when it is to be said, Unix seconds; 0 = not while it is connected
}

// subRecord is a subscription, and what it does not hear although the session's queue begins before that: it was made, or regained, while earlier messages
// were still waiting.
type subRecord struct {
	Subscription
	Since [streams]uint64 `json:",omitzero"`
}

// replayRecord is retained messages that a subscription is still to get.
type replayRecord struct {
	Filter string
	Topics []string
}

// flightRecord is a delivery that was not acknowledged.
type flightRecord struct {
	ID       uint16
	QoS      byte
	Released bool     `json:",omitempty"`
	Retain   bool     `json:",omitempty"`
	Stream   Stream   `json:",omitempty"`
	Seq      uint64   `json:",omitempty"` // 0 = it was a retained message
	Topic    string   `json:",omitempty"` // of that
	IDs      []uint32 `json:",omitempty"`
}

// sessionAttr names a session in the log: by the thing's id, without the client identifier, which holds a name.
func sessionAttr(key string) slog.Attr {
	const prefix = len("s/") + 2*len(device.ID{})
	return slog.String("device", key[min(len("s/"), len(key)):min(prefix, len(key))])
}

const maxRecord = 1 << 20

func parseRecord(data []byte) (*record, error) {
	if len(data) > maxRecord {
		return nil, errs.New(errs.Invalid, "a session of %d octets is longer than %d", len(data), maxRecord)
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, errs.Wrap(errs.Invalid, err, "that is no session")
	}
	return &r, nil
}

// load returns what is kept of a session, nil when there is nothing. What cannot be read is as good as nothing: the device starts a new one.
func (s *Service) load(ctx context.Context, key string) (*record, uint64, error) {
	data, revision, err := s.Fabric.Session(ctx, key)
	if errs.Is(err, errs.NotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	r, err := parseRecord(data)
	if err != nil {
		s.metrics.SessionsUnreadable.Add(1)
		s.log.LogAttrs(ctx, slog.LevelWarn, "a session cannot be read; a new one begins", sessionAttr(key), slog.Any("cause", err))
		return nil, revision, nil
	}
	return r, revision, nil
}

func (s *Service) put(ctx context.Context, key string, r *record, revision uint64) (uint64, error) {
	data, err := json.Marshal(r)
	if err != nil {
		return 0, err
	}
	return s.Fabric.PutSession(ctx, key, data, revision, r.life())
}

// life is how long the record is of use: for ever while the session is connected, since whoever finds its node dead is to say its will.
func (r *record) life() time.Duration {
	if r.Live {
		return 0
	}
	return time.Duration(max(int64(r.Expiry), r.WillAt-r.Ended)+int64(lostAfter/time.Second)+60) * time.Second
}

// over reports whether the session has ended at now (Unix seconds).
func (r *record) over(now int64) bool { return !r.Live && now >= r.Ended+int64(r.Expiry) }

// record returns what is to be kept of c. c.mu is held.
func (c *Conn) record() *record {
	r := &record{ID: c.id.ID, Thing: c.id.Subject.Thing, Client: c.client, Cert: c.id.Cert[:], Serial: []byte(c.id.Serial), Issuer: []byte(c.id.Issuer), Node: c.s.node, Epoch: c.epoch, Live: !c.ended, Expiry: c.expiry,
		Pos: c.pos, LastIDs: c.lastID, Born: c.born, Turn: c.turns.last, Floor: c.turns.floor, Turns: c.turns.records(), Will: c.will}
	if c.ended {
		r.Ended, r.WillAt = c.endedAt, c.willAt
	}
	r.Lost = slices.Clone(c.lost)
	for i := range c.flights {
		r.Flights = append(r.Flights, c.flights[i].record())
	}
	r.Flights = append(r.Flights, c.again...)
	for i := range c.pending { // it is read again
		if p := &c.pending[i]; p.m.Seq > 0 && p.share == nil {
			r.Pos[p.m.Stream] = min(r.Pos[p.m.Stream], p.m.Seq-1)
		}
	}
	for _, s := range c.subs {
		r.Subs = append(r.Subs, s.record(r.Pos))
	}
	slices.SortFunc(r.Subs, func(a, b subRecord) int { return compare(a.Filter, b.Filter) })
	r.Replays = c.replayRecords()
	for id, a := range c.arrivals {
		if a.stored { // what is not yet and comes again after a crash must be stored then; if it was, the fabric knows it
			r.Arrivals = append(r.Arrivals, id)
		}
	}
	slices.Sort(r.Arrivals)
	return r
}

// record returns what is to be kept of s in a session whose queue begins at pos.
func (s *sub) record(pos [streams]uint64) subRecord {
	r := subRecord{Subscription: s.Subscription}
	for i, seq := range s.since {
		if seq > pos[i] {
			r.Since[i] = seq
		}
	}
	return r
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (f *flight) record() flightRecord {
	r := flightRecord{ID: f.id, QoS: f.qos, Released: f.released, Retain: f.retain, IDs: f.ids}
	switch {
	case f.m == nil:
	case f.replayed():
		r.Topic = f.m.Topic
	default:
		r.Stream, r.Seq = f.m.Stream, f.m.Seq
	}
	return r
}

// replayed reports whether i is a retained message that was asked for by subscribing: these are not in a session's queue.
func (i *item) replayed() bool { return i.again }

// keeping is what a Conn needs to write its record.
type keeping struct {
	version uint64 // grows with every change; guarded by Conn.mu
	listed  bool   // it stands in Service.lazy; guarded by Conn.mu
	saver   bool   // somebody writes for after; guarded by Conn.mu
	after   []func(error)

	saved, revision uint64 // guarded by Conn.writing
}

// kept reports whether there is a record of c at all. c.mu is held.
func (c *Conn) kept() bool { return c.expiry > 0 || c.will != nil }

// touch notes that the record is not true any more; it is written within a second. c.mu is held.
func (c *Conn) touch() {
	c.version++
	if !c.listed && c.kept() && !c.ended {
		c.listed = true
		c.s.lazy.add(c)
	}
}

// whenSaved calls fn when the record as it is now is stored, or with an error when it could not be: then the connection ends. c.mu is held; fn is called
// without it.
func (c *Conn) whenSaved(fn func(error)) {
	c.after = append(c.after, fn)
	if !c.saver {
		c.saver = true
		c.s.hands.do(c.saveNow)
	}
}

func (c *Conn) saveNow(ctx context.Context) {
	for {
		c.mu.Lock()
		waiting := c.after
		c.after = nil
		if len(waiting) == 0 {
			c.saver = false
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		err := c.save(ctx)
		if err != nil {
			c.end(ReasonFabric, Farewell{})
		}
		for _, fn := range waiting {
			fn(err)
		}
	}
}

// save writes the record, if there is to be one and it has changed. Whoever finds that somebody else has written it has lost the session.
func (c *Conn) save(ctx context.Context) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.mu.Lock()
	version, kept, ended := c.version, c.kept() && c.taken, c.ended
	if version == c.saved || !kept || ended {
		c.mu.Unlock()
		return nil
	}
	r := c.record()
	c.mu.Unlock()
	err := c.write(ctx, r)
	switch {
	case errs.Is(err, errs.Conflict):
		c.s.hands.do(func(context.Context) { c.end(ReasonTakenOver, Farewell{}) })
		return err
	case err != nil:
		c.s.metrics.SaveFailed.Add(1)
		return err
	}
	c.saved = version
	return nil
}

// write stores r over what this connection stored last. c.writing is held.
func (c *Conn) write(ctx context.Context, r *record) error {
	revision, err := c.s.put(ctx, c.key, r, c.revision)
	if errs.Is(err, errs.Conflict) {
		if err = c.mine(ctx, r, err); err == nil {
			revision, err = c.s.put(ctx, c.key, r, c.revision)
		}
	}
	if err == nil {
		c.revision = revision
	}
	return err
}

// erase drops what this connection stored last, where it would have stored r else. c.writing is held.
func (c *Conn) erase(ctx context.Context, r *record) error {
	err := c.s.drop(ctx, c.key, c.revision)
	if errs.Is(err, errs.Conflict) {
		if err = c.mine(ctx, r, err); err == nil {
			err = c.s.drop(ctx, c.key, c.revision)
		}
	}
	return err
}

// mine is asked after a conflict, when r was to take the place of what is stored. That may be this connection's own, of which no answer came when it was stored: then
// its revision is known now. Else the conflict is returned: it is another connection's, or was ended by who thought that this node is gone, and its will said.
func (c *Conn) mine(ctx context.Context, r *record, conflict error) error {
	was, revision, err := c.s.load(ctx, c.key)
	switch {
	case err != nil:
		return err
	case was == nil, was.Epoch != r.Epoch, !was.Live && (r.Live || was.Will == nil && r.Will != nil):
		return conflict
	}
	c.revision = revision
	return nil
}

// drop removes the record, if its revision is still the given one, 0 = whatever that is; Conflict otherwise: it is somebody else's by now.
func (s *Service) drop(ctx context.Context, key string, revision uint64) error {
	err := s.Fabric.DropSession(ctx, key, revision)
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	return err
}

// saveLazily writes what has changed in the last moment.
func (s *Service) saveLazily(ctx context.Context) {
	for _, c := range s.lazy.take() {
		c.mu.Lock()
		c.listed = false
		c.mu.Unlock()
		s.hands.do(func(ctx context.Context) {
			if err := c.save(ctx); err != nil && !errs.Is(err, errs.Conflict) {
				c.mu.Lock()
				c.touch() // it is tried again
				c.mu.Unlock()
			}
		})
	}
}
