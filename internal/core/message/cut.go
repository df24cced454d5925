package message

import (
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
	"mooring/internal/core/message/policy"
)

const (
	cutHands  = 32              // connections that are cut at once
	storeTime = 2 * time.Second // for what a connection had on its way to the fabric when it was cut
)

// Cut ends the connections that x means, on all nodes, and returns how many there were on this one. When it returns, nothing that they sent is stored any
// more, their sessions, queues and wills are gone, and what they said for others stands. It is to be called after what led to it is committed: whoever
// connects later is refused by the registry. It has an entry recorded that says how many connections ended and in what time.
//
// A device that was revoked under one certificate and has another one may connect again; its session begins anew.
func (s *Service) Cut(ctx context.Context, x Selector, reason string) (n int, err error) {
	if x.empty() {
		return 0, nil
	}
	n = s.cutHere(ctx, x, reason)
	a := announcement{Node: s.node, Cut: x.told(), Reason: reason}
	if err = s.Fabric.Announce(ctx, a.bytes()); err != nil {
		s.metrics.AnnounceFailed.Add(1)
	}
	return n, errors.Join(err, s.buryLeft(ctx, &x))
}

// buryLeft drops the sessions, with their wills, that were left under a certificate that is cut off, or under a CA's: whoever holds it may be away, and then
// no node has a connection of his.
func (s *Service) buryLeft(ctx context.Context, x *Selector) error {
	if x.Superseded || x.Serial == "" && x.Issuer == "" || x.Group != "" || x.Gateway != "" {
		return nil
	}
	keys, err := s.sessionsUnder(ctx, x)
	if err != nil {
		return err
	}
	for _, key := range keys {
		if err := s.buryUnder(ctx, key, x); err != nil {
			return err
		}
	}
	return nil
}

// buryUnder drops one session if it was left under what x means, and looks again when it was changed meanwhile: it may be one of another certificate now.
func (s *Service) buryUnder(ctx context.Context, key string, x *Selector) error {
	for range 5 {
		r, revision, err := s.load(ctx, key)
		if err != nil || r == nil || !r.under(x) {
			return err
		}
		if err := s.drop(ctx, key, revision); !errs.Is(err, errs.Conflict) {
			if err == nil && r.Will != nil {
				s.metrics.WillCut.Add(1)
			}
			return err
		}
	}
	return errs.New(errs.Unavailable, "a session that is to be dropped changes all the time: try again")
}

// sessionsUnder returns the keys of sessions among which are all that were left under what x means.
func (s *Service) sessionsUnder(ctx context.Context, x *Selector) (keys []string, err error) {
	holder := x.Holder
	if x.Device != (device.ID{}) {
		holder = x.Device
	}
	if holder != (device.ID{}) {
		l, _, err := s.ledger(ctx, holder)
		return append(l.Sessions, sessionKey(holder, "", "")), err
	}
	err = s.Fabric.Sessions(ctx, func(key string, data []byte, _ uint64) bool {
		if strings.HasPrefix(key, "s/") {
			if r, err := parseRecord(data); err == nil && r.under(x) {
				keys = append(keys, key)
			}
		}
		return ctx.Err() == nil
	})
	return keys, errors.Join(err, ctx.Err())
}

// under reports whether the session was left under what x means.
func (r *record) under(x *Selector) bool {
	return (x.Serial == "" || x.Serial == string(r.Serial)) && (x.Issuer == "" || x.Issuer == string(r.Issuer)) && (x.Device == device.ID{} || x.Device == r.ID) &&
		(x.Thing == "" || x.Thing == r.Thing)
}

// cutHere cuts on this node. The order matters: the cut is noted before the connections are looked at, and each connection is marked and closed before
// anything that takes time is done for any.
func (s *Service) cutHere(ctx context.Context, x Selector, reason string) int {
	begun := s.Now()
	s.cuts.note(x, begun)
	victims := s.live.find(&x)
	s.disownChildren(ctx, &x)
	each(victims, func(c *Conn) { c.end(ReasonCut, Farewell{}) })
	each(victims, func(c *Conn) { s.buryConn(ctx, c, reason) })
	took := s.Now().Sub(begun)
	s.metrics.cutTook(len(victims), took)
	s.buryThing(ctx, &x, len(victims) > 0, reason)
	if len(victims) > 0 {
		e := x.entry(len(victims), took, reason, s.Deps.Node)
		if e.Device == "" && x.Serial != "" { // a certificate is one device's
			e.Device = victims[0].id.ID.String()
		}
		s.note(e)
	}
	return len(victims)
}

// each calls fn for every connection, several at once.
func each(list []*Conn, fn func(*Conn)) {
	if len(list) == 1 {
		fn(list[0])
		return
	}
	var wait sync.WaitGroup
	part := (len(list) + cutHands - 1) / cutHands
	for len(list) > 0 {
		some := list[:min(part, len(list))]
		list = list[len(some):]
		wait.Go(func() {
			for _, c := range some {
				fn(c)
			}
		})
	}
	wait.Wait()
}

// buryConn waits until nothing of c is on its way to the fabric and its session is gone, and tells who may know.
func (s *Service) buryConn(ctx context.Context, c *Conn, reason string) {
	c.barrier() // whoever looked at gone before it was set has appended by now
	landed := c.landedAll()
	t := time.NewTimer(storeTime)
	defer t.Stop()
	for _, over := range []<-chan struct{}{landed, c.settled} {
		select {
		case <-over:
			continue
		case <-t.C:
			s.metrics.CutUnstored.Add(1)
		case <-ctx.Done():
		}
		break
	}
	s.live.noteCut(c.id.ID, reason, s.unix())
	s.presence(ctx, c.id.Subject.Thing, c.id.ID, reason)
}

// buryThing drops what lies here for a thing that is cut off as a whole, connected or not.
func (s *Service) buryThing(ctx context.Context, x *Selector, wasConnected bool, reason string) {
	if x.Device == (device.ID{}) || x.Serial != "" {
		return
	}
	s.authors.forget(x.Device)
	lacks := func(what string, err error) {
		if err != nil {
			s.log.LogAttrs(ctx, slog.LevelWarn, "what lies there for a thing that was cut off cannot be dropped", slog.String("what", what), slog.Any("cause", err))
		}
	}
	lacks("session", s.dropSessions(ctx, x.Device))
	if x.Thing != "" {
		lacks("queue", s.Fabric.Purge(ctx, Down, x.Thing))
		if !wasConnected {
			s.live.noteCut(x.Device, reason, s.unix())
		}
	}
	rights, _ := s.authors.rights(ctx, s, x.Device, [16]byte{})
	if rights != nil && rights.Limits.Revoked == policy.RetainedDelete {
		lacks("retained messages", s.unretain(ctx, x.Device))
	}
}

// dropSessions removes the sessions of a thing, whose connections have ended.
func (s *Service) dropSessions(ctx context.Context, id device.ID) error {
	l, _, err := s.ledger(ctx, id)
	if err != nil {
		return err
	}
	for _, key := range append(l.Sessions, sessionKey(id, "", "")) {
		if err := s.drop(ctx, key, 0); err != nil {
			return err
		}
	}
	return nil
}

// unretain removes what a thing has retained.
func (s *Service) unretain(ctx context.Context, id device.ID) error {
	s.recent.drop(id)
	l, _, err := s.ledger(ctx, id)
	if err != nil {
		return err
	}
	for _, topic := range l.Retained {
		var its bool
		err := s.Fabric.Retained(ctx, topic, func(m *Message) bool {
			its = m.ID == id
			return false
		})
		if err == nil && its {
			err = s.Fabric.Retain(ctx, &Message{Topic: topic, At: s.milli()})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// disownChildren has gateways speak no more for things that are cut off. When it returns, nothing that they said for them is on its way any more.
func (s *Service) disownChildren(ctx context.Context, x *Selector) {
	for _, c := range s.live.allGateways() {
		if x.Device == (device.ID{}) {
			s.hands.do(func(ctx context.Context) { s.refreshChildren(ctx, c) })
			continue
		}
		if c.without(x.Device) {
			s.metrics.ChildrenCut.Add(1)
			s.buryChild(ctx, c)
		}
	}
}

// without takes a thing from those for whom c speaks, and reports whether it was one.
func (c *Conn) without(id device.ID) bool {
	for {
		old := c.children.Load()
		rest, found := make(map[string]device.ID, len(*old)), false
		for name, child := range *old {
			if child == id {
				found = true
				continue
			}
			rest[name] = child
		}
		if !found || c.children.CompareAndSwap(old, &rest) {
			return found
		}
	}
}

func (s *Service) buryChild(ctx context.Context, c *Conn) {
	c.barrier()
	landed := c.landedAll()
	t := time.NewTimer(storeTime)
	defer t.Stop()
	select {
	case <-landed:
	case <-t.C:
		s.metrics.CutUnstored.Add(1)
	case <-ctx.Done():
	}
	s.reapply(ctx, c)
}

// refreshChildren asks the registry again for whom a gateway speaks.
func (s *Service) refreshChildren(ctx context.Context, c *Conn) {
	for range 3 {
		asOf := s.cuts.last()
		children, err := s.Children(ctx, c.id.Subject.Thing)
		if err != nil {
			s.log.LogAttrs(ctx, slog.LevelWarn, "the things for which a gateway speaks cannot be read", slog.Any("cause", err))
			return
		}
		c.children.Store(&children)
		if s.cuts.last() == asOf {
			break
		}
	}
	s.reapply(ctx, c)
}

// entry is what is recorded of a cut.
func (x *Selector) entry(n int, took time.Duration, reason, node string) audit.Entry {
	e := audit.Entry{Action: "message.cut", Actor: access.System("messages").String(), Object: x.String(), Serial: hex.EncodeToString([]byte(x.Serial)),
		Detail: map[string]string{"connections": strconv.Itoa(n), "milliseconds": strconv.FormatInt(took.Milliseconds(), 10), "reason": reason, "node": node}}
	if x.Device != (device.ID{}) {
		e.Device = x.Device.String()
	}
	return e
}

// String says what x means, without names.
func (x *Selector) String() string {
	switch {
	case x.Device != device.ID{}:
		return "connections of a device"
	case x.Serial != "":
		return "connections of a certificate"
	case x.Issuer != "":
		return "connections of the issuer " + hex.EncodeToString([]byte(x.Issuer))
	case x.Group != "":
		return "connections of a group"
	case x.Gateway != "":
		return "connections of a gateway"
	}
	return "connections of a thing"
}

// End closes the connections that x means on this node, as a Cut does, but takes nothing away: sessions and wills stay, and peers may connect again. It
// needs message.publish.
func (s *Service) End(ctx context.Context, actor access.Actor, x Selector) (int, error) {
	if err := s.Access.Require(ctx, actor, access.MessagePublish, "connections"); err != nil {
		return 0, err
	}
	victims := s.live.find(&x)
	each(victims, func(c *Conn) { c.end(ReasonPolicy, Farewell{}) })
	e := x.entry(len(victims), 0, "asked for", s.Deps.Node)
	e.Action, e.Actor = "message.end", actor.String()
	delete(e.Detail, "milliseconds")
	return len(victims), s.record(ctx, e)
}
