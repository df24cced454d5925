package message

import (
	"context"
	"log/slog"

	"mooring/internal/base/errs"
	"mooring/wire/mqtt"
)

// legacy is what this node left to one that is dead, of one group.
type legacy struct {
	filter      string
	group       *groupEntry
	nodes       *serving // who served then
	dead        uint64   // of these
	from, until [streams]uint64
}

// forgetDead forgets nodes of a group that were not heard of for long, and has what was left to them taken. groups.mu is held.
func (s *Service) forgetDead(filter string, e *groupEntry) {
	nodes := e.share.nodes.Load()
	for node, last := range e.others {
		if s.Now().Sub(last.at) <= lostAfter {
			continue
		}
		l := legacy{filter: filter, group: e, nodes: nodes, dead: digest(node), from: last.before}
		delete(e.others, node)
		e.count(s.node)
		for x := range l.until { // what is dispatched behind these is left to it no more
			l.until[x] = s.streams[x].now()
		}
		s.hands.do(func(ctx context.Context) { s.inherit(ctx, &l) })
	}
}

// inherit gives to the members here what was left to a node that is dead, and is this node's now. Some of it may have come to the members there.
func (s *Service) inherit(ctx context.Context, l *legacy) {
	for x := Up; x <= Cast; x++ {
		if x == Up && !s.up.followed() {
			continue
		}
		if err := s.inheritFrom(ctx, x, l); err != nil && ctx.Err() == nil {
			s.log.LogAttrs(ctx, slog.LevelWarn, "what a node that is gone had for members of groups cannot be read", slog.Any("cause", err))
		}
	}
}

func (s *Service) inheritFrom(ctx context.Context, x Stream, l *legacy) error {
	until := l.until[x]
	at := max(l.from[x], until-min(until, farBack))
	for at < until && ctx.Err() == nil {
		m, err := s.Fabric.Next(ctx, x, "", at)
		if errs.Is(err, errs.NotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if at = m.Seq; at > until || m.QoS == 0 || !mqtt.Match(l.group.entry.inner, m.Topic) {
			continue
		}
		if l.nodes.gives(l.dead, at) && l.group.share.mine(at) {
			s.offerShared(l.filter, l.group.share, item{m: m, share: l.group.share})
		}
	}
	return nil
}

// gives reports whether the message at a place was one node's.
func (v *serving) gives(node, seq uint64) bool {
	most := weight(node, seq)
	if weight(v.self, seq) > most {
		return false
	}
	for _, other := range v.others {
		if weight(other, seq) > most {
			return false
		}
	}
	return true
}
