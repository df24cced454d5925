package message

import (
	"context"
	"log/slog"

	"mooring/internal/base/errs"
)

// Detach ends the connection: the front calls it once, whatever ended it.
func (c *Conn) Detach(r Reason, f Farewell) { c.end(r, f) }

// end ends the connection, once. The socket is closed first; the rest is done by hands, and then settled is closed.
func (c *Conn) end(r Reason, f Farewell) {
	if !c.gone.CompareAndSwap(false, true) {
		return
	}
	c.link.Close(r)
	c.s.ends.remove(c)
	c.s.live.remove(c)
	var list []*sub
	c.mu.Lock()
	heads := c.s.heads()
	c.leaveQueue(heads)
	c.ended, c.reason, c.endedAt = true, r, c.s.unix()
	if f.Expiry != nil && (c.expiry > 0 || *f.Expiry == 0) {
		c.expiry = min(*f.Expiry, c.rights.Load().Limits.SessionExpiry)
	}
	c.decideWill(r, f)
	for _, s := range c.subs {
		list = append(list, s)
	}
	orphans, storing := c.orphans(), c.kept() && c.isStoring()
	c.mu.Unlock()
	for _, s := range list {
		c.s.leave(s)
	}
	for _, o := range orphans {
		c.s.giveBack(o.filter, o.share, []item{o.item})
	}
	if c.purse != nil {
		c.s.purses.leave(c.id.ID, c.purse, c.s.Now())
	}
	c.s.metrics.ended(r)
	if r != ReasonCut && r != ReasonStopping && storing {
		go func() {
			<-c.landedAll()
			c.s.hands.do(c.finish)
		}()
		return
	}
	c.s.hands.do(c.finish)
}

// isStoring reports whether a message of QoS 2 is on its way to the fabric: the session is to know that it was stored, since the peer may send it again when the
// fabric has forgotten that. c.mu is held.
func (c *Conn) isStoring() bool {
	for _, a := range c.arrivals {
		if !a.stored {
			return true
		}
	}
	return false
}

// leaveQueue notes where the queue goes on: a session that is not behind has heard all that its node heard. c.mu is held.
func (c *Conn) leaveQueue(heads [streams]uint64) {
	if c.behind {
		return
	}
	for s := Up; s <= Cast; s++ {
		if s != Up || c.heard > 0 {
			c.pos[s] = max(c.pos[s], heads[s])
		}
	}
}

type orphan struct {
	filter string // of the group
	item
}

// orphans are messages of groups that this member leaves unacknowledged: those of QoS 1 go back, those of QoS 2 stay with the session once they are on
// their way (MQTT 5.0, section 4.8.2). c.mu is held.
func (c *Conn) orphans() (list []orphan) {
	filters := map[*share]string{}
	for _, s := range c.shared {
		filters[s.share] = s.Filter
	}
	rest := c.flights[:0:0]
	for _, f := range c.flights {
		if f.share != nil && f.qos == 1 {
			list = append(list, orphan{filters[f.share], f.item})
			continue
		}
		rest = append(rest, f)
	}
	c.flights = rest
	for _, i := range c.pending {
		if i.share != nil {
			list = append(list, orphan{filters[i.share], i})
		}
	}
	return list
}

// finish stores what is left of the session, says its will if it is time, and lets go of it. While the fabric cannot be reached that is put off, unless this node
// stops: then who looks after the sessions of nodes that are gone does it.
func (c *Conn) finish(ctx context.Context) {
	err := errUnreached
	stopping := c.s.stopped.Load()
	if stopping || c.s.Fabric.Standing().Reached { // else it would be waited for in vain, by all hands
		err = c.leaveRecord(ctx)
	}
	if errs.Is(err, errs.Unavailable) && !stopping {
		c.s.hands.after(retryTime, c.finish)
		return
	}
	if err != nil && !errs.Is(err, errs.Conflict) {
		c.s.log.LogAttrs(ctx, slog.LevelWarn, "what is left of a session cannot be stored", sessionAttr(c.key), slog.Any("cause", err))
	}
	defer c.s.live.left(c)
	defer close(c.settled)
	c.mu.Lock()
	epoch := c.epoch
	c.mu.Unlock()
	if err := c.s.disown(ctx, c.key, epoch); err != nil && !errs.Is(err, errs.NotFound) && !errs.Is(err, errs.Conflict) {
		c.s.log.LogAttrs(ctx, slog.LevelWarn, "a session cannot be let go of", sessionAttr(c.key), slog.Any("cause", err))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost, c.subs, c.shared, c.pending, c.flights, c.again, c.replays, c.arrivals = nil, nil, nil, nil, nil, nil, nil, nil
}

func (s *Service) disown(ctx context.Context, key string, epoch uint64) error {
	if epoch == 0 {
		return nil
	}
	return s.Fabric.Disown(ctx, key, epoch)
}

func (c *Conn) leaveRecord(ctx context.Context) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.mu.Lock()
	r, reason, begun := c.record(), c.reason, c.begun
	c.mu.Unlock()
	switch {
	case !begun: // what is stored is that of the connection before
		return nil
	case reason == ReasonCut || r.Expiry == 0 && r.Will == nil:
		if c.revision == 0 {
			return nil // there never was a record
		}
		return c.erase(ctx, r)
	}
	if err := c.write(ctx, r); err != nil {
		return err
	}
	if r.Will != nil {
		c.s.willLeft(ctx, c.key, r, c.revision)
	}
	return nil
}
