package message

import (
	"context"
	"log/slog"
	"strconv"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/device"
	"mooring/internal/core/message/policy"
)

// stopGrace is for how long a node that stops leaves its wills unsaid, so that devices can connect to another one.
const stopGrace = 30

// decideWill says what becomes of the will when the connection ends. c.mu is held, and c.endedAt is set.
//
// A will is said when the connection ends without a farewell: after its delay, or with the session, whichever is first (MQTT 5.0, section 3.1.3.2.2). What
// is cut off has no will.
func (c *Conn) decideWill(r Reason, f Farewell) {
	if c.will == nil {
		return
	}
	if r == ReasonCut || r == ReasonFarewell && !f.KeepWill {
		if r == ReasonCut {
			c.s.metrics.WillCut.Add(1)
		}
		c.will, c.willAt = nil, 0
		return
	}
	delay := min(c.will.Delay, c.expiry)
	if r == ReasonStopping {
		delay = max(delay, stopGrace)
	}
	c.willAt = c.endedAt + int64(delay)
}

// willLeft says the will of a session that has just ended, or has it said when its time comes.
func (s *Service) willLeft(ctx context.Context, key string, r *record, revision uint64) {
	if r.WillAt <= s.unix() {
		s.sayStored(ctx, key, r, revision)
		return
	}
	s.wills.addWill(r.WillAt, key)
}

// willOfBefore is what a new connection does about the will of the one before. A session that goes on takes it back, unless its time has come.
func (s *Service) willOfBefore(ctx context.Context, key string, old *record, resumed bool) {
	switch {
	case old.Will == nil:
		return
	case !resumed:
	case old.Live && old.Will.Delay > 0: // the node that held it is gone or slow
		return
	case !old.Live && old.WillAt > s.unix():
		return
	}
	s.sayWill(ctx, key, old)
}

// willDue looks at a session whose will's time has come: it may have gone on meanwhile.
func (s *Service) willDue(ctx context.Context, key string) {
	r, revision, err := s.load(ctx, key)
	if err != nil {
		s.log.LogAttrs(ctx, slog.LevelWarn, "a will cannot be read; it is tried again", sessionAttr(key), slog.Any("cause", err))
		s.hands.after(time.Second, func(ctx context.Context) { s.willDue(ctx, key) })
		return
	}
	if r == nil || r.Live || r.Will == nil || r.WillAt > s.unix() {
		return
	}
	s.sayStored(ctx, key, r, revision)
}

// sayStored says the will of a stored session and takes it out of there. It is said first: a repetition has the same dedupe text and is not stored twice.
func (s *Service) sayStored(ctx context.Context, key string, r *record, revision uint64) {
	if err := s.sayWill(ctx, key, r); err != nil {
		s.hands.after(time.Second, func(ctx context.Context) { s.willDue(ctx, key) })
		return
	}
	var err error
	if r.Will = nil; r.over(s.unix()) {
		err = s.drop(ctx, key, revision)
	} else {
		r.WillAt = 0
		_, err = s.put(ctx, key, r, revision)
	}
	if err != nil && !errs.Is(err, errs.Conflict) {
		s.log.LogAttrs(ctx, slog.LevelWarn, "that a will was said cannot be stored", sessionAttr(key), slog.Any("cause", err))
	}
}

// sayWill says a will, if who left it may still say that. The error is the fabric's.
func (s *Service) sayWill(ctx context.Context, key string, r *record) error {
	var cert [16]byte
	copy(cert[:], r.Cert)
	m := r.Will.Message
	rights, err := s.authors.rights(ctx, s, r.ID, cert)
	if err != nil && !errs.Is(err, errs.Denied) && !errs.Is(err, errs.NotFound) {
		return err
	}
	if err != nil || !s.mayLeave(rights.ForClient(r.Client), &m) {
		s.metrics.WillDenied.Add(1)
		return nil
	}
	m.Thing, m.ID, m.Cert, m.At, m.Stream, m.Key = r.Thing, r.ID, cert, s.milli(), Up, r.Thing
	if err := s.store(ctx, &m, "will:"+key+":"+strconv.FormatUint(r.Epoch, 10), rights.Limits.Retained); err != nil {
		s.log.LogAttrs(ctx, slog.LevelWarn, "a will cannot be stored; it is tried again", slog.Any("cause", err))
		return err
	}
	s.metrics.WillSaid.Add(1)
	return nil
}

// mayLeave reports whether m may be a will by now, and takes off a response topic that it may not have.
func (s *Service) mayLeave(rights *policy.Rights, m *Message) bool {
	return rights.Will(m.Topic, m.QoS, m.Retain, len(m.Payload)).OK() && s.answerable(rights, m)
}

// store appends a message of the platform's own making and waits until it is stored.
func (s *Service) store(ctx context.Context, m *Message, dedupe string, retained int) error {
	stored := make(chan error, 1)
	if m.Retain && !s.retains.reserve() {
		return ErrFull
	}
	s.Fabric.Append(m, dedupe, func(seq uint64, err error) {
		m.Seq = seq
		s.appended(m, err)
		if !m.Retain {
			stored <- err
			return
		}
		s.retains.put(m, retained, err, func(err error) { stored <- err })
	})
	select {
	case err := <-stored:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// presence tells who may know that a thing was cut off: what its will would have said. The topic begins with $, where no thing can publish.
func (s *Service) presence(ctx context.Context, thing string, id device.ID, reason string) {
	m := &Message{Topic: "$presence/" + thing, Payload: []byte(`{"state":"cut","reason":` + strconv.Quote(reason) + `,"at":` + strconv.FormatInt(s.unix(), 10) + `}`),
		QoS: 1, At: s.milli(), Stream: Cast, Key: castKey, Properties: Properties{Format: 1, ContentType: "application/json"}}
	s.Fabric.Append(m, "", func(seq uint64, err error) {
		m.Seq = seq
		s.appended(m, err)
	})
}
