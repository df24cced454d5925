package message

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/device"
	"mooring/internal/core/message/policy"
)

// handOverTime is how long a session is waited for that another node still holds. Afterwards it goes on as it was stored last.
const handOverTime = 500 * time.Millisecond

// sessionKey names a session: by the thing's id, so that a client identifier is only ever compared with those of the same thing.
func sessionKey(id device.ID, thing, client string) string {
	if client == thing {
		return "s/" + id.String()
	}
	return "s/" + id.String() + "/" + client
}

// Connect admits a connection, ends an earlier one of the same session, and takes up the session. Its errors are ErrClient, ErrWill, Denied for who may not
// connect, Limited for a quota, Conflict for a session that is taken over too often, and Unavailable.
func (s *Service) Connect(ctx context.Context, a Attach) (*Conn, Connected, error) {
	if err := s.admits(); err != nil {
		return nil, Connected{}, err
	}
	c, granted, err := s.admit(ctx, &a)
	if err != nil {
		return nil, Connected{}, err
	}
	unlock, err := s.keys.lock(ctx, c.key)
	if err != nil {
		return nil, Connected{}, errs.Wrap(errs.Unavailable, err, "the session is being taken over: try again")
	}
	defer unlock()
	if err := s.takeOver(ctx, c); err != nil {
		return nil, Connected{}, err
	}
	if err := s.register(ctx, c); err != nil {
		return nil, Connected{}, err
	}
	if err := c.payWill(ctx); err != nil {
		return nil, Connected{}, err
	}
	if granted.Present, err = s.begin(ctx, c, a.Clean); err != nil {
		c.end(ReasonFabric, Farewell{})
		return nil, Connected{}, err
	}
	s.catchUp(ctx, c) // when the session has been taken up: what waits in it must be there before it is looked at
	s.metrics.Connected.Add(1)
	return c, granted, nil
}

func (s *Service) admits() error {
	select {
	case <-s.started:
	default:
		return errStarting
	}
	switch {
	case s.stopped.Load():
		return errStopping
	case !s.Fabric.Standing().Reached:
		s.metrics.Refused.Add(1)
		return errUnreached
	}
	return nil
}

// admit decides by the policy: may it connect at all, under which identifier, with this will.
func (s *Service) admit(ctx context.Context, a *Attach) (*Conn, Connected, error) {
	c := &Conn{s: s, id: a.Identity, front: a.Front, since: s.unix(), link: a.Link, settled: make(chan struct{}), ending: -1}
	if a.Address.IsValid() {
		c.address = a.Address.String()
	}
	c.id.Subject.Child = c.hasChild
	if err := s.bringUp(ctx, c); err != nil {
		return nil, Connected{}, err
	}
	c.who.Store(&c.id)
	ruling := s.policy.Load()
	c.ruling = ruling
	rights, err := ruling.compile(c.id.Group, c.id.Subject)
	if err != nil {
		s.metrics.Refused.Add(1)
		c.refuse(ctx, refusedGroup, nil)
		return nil, Connected{}, err
	}
	client, ok := rights.ClientID(a.Client)
	if !ok {
		s.metrics.ForeignClient.Add(1)
		c.refuse(ctx, refusedClient, nil)
		return nil, Connected{}, ErrClient
	}
	granted := Connected{Client: client, Assigned: client != a.Client}
	if client == "" {
		client = c.id.Subject.Thing + "." + strconv.FormatUint(s.serial.Add(1), 36) + "-" + s.node[len(s.Node)+1:]
		granted.Client, granted.Assigned = client, true
	}
	rights = rights.ForClient(client)
	if c.id.Group != "" {
		s.authors.fix(&c.id)
	}
	c.client, c.key = client, sessionKey(c.id.ID, c.id.Subject.Thing, client)
	c.rights.Store(rights)
	if a.Will != nil {
		w := *a.Will
		c.will = &w
		v := rights.Will(w.Message.Topic, w.Message.QoS, w.Message.Retain, len(w.Message.Payload))
		if !v.OK() || !s.answerable(rights, &c.will.Message) {
			s.metrics.WillDenied.Add(1)
			if v.OK() { // it is the topic for answers that is not allowed
				v = policy.Verdict{}
			}
			c.refuse(ctx, refusedWill, codeDetail(v.Code))
			return nil, Connected{}, ErrWill
		}
	}
	limits := rights.Limits
	c.expiry = min(a.Expiry, limits.SessionExpiry)
	if a.Default {
		c.expiry = limits.SessionExpiry
	}
	c.window = max(min(a.Window, limits.InFlightOut, maxWindow), 1)
	granted.Expiry, granted.Limits = c.expiry, limits
	return c, granted, nil
}

func (r *ruling) compile(group string, subject policy.Subject) (*policy.Rights, error) {
	if group != "" {
		return r.set.CompileAs(group, subject)
	}
	return r.set.Compile(subject)
}

// bringUp finds out for whom a gateway may speak.
func (s *Service) bringUp(ctx context.Context, c *Conn) error {
	if s.Children == nil || c.id.Subject.Kind != policy.Gateway {
		return nil
	}
	asOf := s.cuts.last()
	children, err := s.Children(ctx, c.id.Subject.Thing)
	if err != nil {
		return err
	}
	c.id.asOf = min(c.id.asOf, asOf)
	c.children.Store(&children)
	return nil
}

func (c *Conn) hasChild(name string) bool {
	children := c.children.Load()
	if children == nil {
		return false
	}
	_, ok := (*children)[name]
	return ok
}

// takeOver ends an earlier connection of the session on this node, whose place c then takes.
func (s *Service) takeOver(ctx context.Context, c *Conn) error {
	if old := s.live.get(c.key); old != nil {
		if ok, first := s.flaps.ask(c.key, s.Now()); !ok {
			return s.flapping(ctx, c, first)
		}
		s.metrics.TakenOver.Add(1)
		old.end(ReasonTakenOver, Farewell{})
	}
	if old := s.live.before(c.key); old != nil {
		select {
		case <-old.settled:
		case <-ctx.Done():
			return errs.Wrap(errs.Unavailable, ctx.Err(), "the session is being taken over: try again")
		}
	}
	return nil
}

func (s *Service) flapping(ctx context.Context, c *Conn, first bool) error {
	s.metrics.Flapping.Add(1)
	if first {
		c.refuse(ctx, refusedFlapping, nil)
	}
	return errs.WithRetry(errs.New(errs.Conflict, "the session is taken over too often: two clients have one identifier"), flapWindow)
}

// register puts c where cuts look for it, unless its thing has too many connections, and then looks at the cuts: whoever cuts does it the other way round, so one of the two sees the other.
func (s *Service) register(ctx context.Context, c *Conn) error {
	c.purse = s.purses.take(c.id.ID)
	if most := c.rights.Load().Limits.Connections; !s.live.add(c, most) {
		s.purses.leave(c.id.ID, c.purse, s.Now())
		s.metrics.Quota.Add(1)
		c.refuse(ctx, refusedQuota, nil)
		return errs.New(errs.Limited, "this thing has %d connections, which is the most it may have", most)
	}
	children := c.children.Load()
	err := s.cuts.check(&c.id, children)
	if err != nil {
		s.live.remove(c)
		s.live.left(c)
		s.purses.leave(c.id.ID, c.purse, s.Now())
		s.metrics.Refused.Add(1)
		if errs.Is(err, errs.Denied) {
			c.refuse(ctx, refusedCut, nil)
		}
		return err
	}
	s.ends.add(c.id.NotAfter, c)
	return nil
}

// payWill counts the will as a message that is published now: so it is said whatever comes later, and nobody publishes by connecting and vanishing. One
// that there is no room for is refused before the session is touched.
func (c *Conn) payWill(ctx context.Context) error {
	if c.will == nil {
		return nil
	}
	rights, m := c.rights.Load(), &c.will.Message
	delay := c.spend(rights, rights.Will(m.Topic, m.QoS, m.Retain, len(m.Payload)), m, c.s.Now())
	if delay == 0 {
		return nil
	}
	c.s.metrics.RateLimited.Add(1)
	c.refuse(ctx, refusedRate, nil)
	c.end(ReasonRate, Farewell{})
	return errs.WithRetry(errs.New(errs.Limited, "too many messages: connect again later, or without a will"), delay)
}

// catchUp applies what changed between the looks at the peer and the policy and the moment when changes began to find the connection.
func (s *Service) catchUp(ctx context.Context, c *Conn) {
	ruling := s.policy.Load()
	switch {
	case c.id.Group == "" && c.id.changes != s.changes.Load():
		s.learn(ctx, c)
		if c.children.Load() != nil {
			s.refreshChildren(ctx, c)
		}
	case ruling != c.ruling:
		s.reapply(ctx, c)
	}
}

// begin makes this node the session's owner and takes up what is stored of it.
func (s *Service) begin(ctx context.Context, c *Conn, clean bool) (present bool, err error) {
	epoch, before, err := s.Fabric.Own(ctx, c.key, s.node)
	if err != nil {
		return false, err
	}
	c.mu.Lock()
	c.epoch = epoch
	lost, ended := c.foreign > epoch, c.ended
	c.mu.Unlock()
	switch {
	case ended: // it was cut off, and finish found nothing to let go of
		if err := s.Fabric.Disown(ctx, c.key, epoch); err != nil {
			return false, err
		}
		return false, errGone
	case lost:
		return false, errs.New(errs.Conflict, "another connection took the session over meanwhile")
	}
	if before != "" && before != s.node {
		if ok, first := s.flaps.ask(c.key, s.Now()); !ok {
			return false, s.flapping(ctx, c, first)
		}
	}
	old, revision, err := s.handOver(ctx, c.key)
	if err != nil {
		return false, err
	}
	present = !clean && old != nil && old.ID == c.id.ID && old.Client == c.client && !old.endedWith(s.unix())
	if present {
		if present, err = s.mayResume(ctx, c, old); err != nil {
			return false, err
		}
	}
	c.fresh()
	var regained []*sub
	if present {
		if len(old.Lost) > 0 {
			if err := s.up.wait(ctx, s); err != nil { // else nobody knows how far it is
				return false, err
			}
		}
		if regained, err = c.resume(old); err != nil {
			return false, err
		}
	}
	c.revision = revision
	c.mu.Lock()
	c.taken = true
	c.mu.Unlock()
	if err := c.settleBeginning(ctx, old); err != nil {
		return false, err
	}
	c.mu.Lock()
	c.begun = true
	ended = c.ended
	c.mu.Unlock()
	if old != nil {
		s.willOfBefore(ctx, c.key, old, present)
	}
	if ended {
		return false, errors.Join(errGone, s.leaveStored(ctx, c))
	}
	if err := c.openSubscriptions(ctx, present); err != nil {
		return present, err
	}
	for _, x := range regained {
		c.replay(ctx, x, true) // what is retained there may have changed meanwhile
	}
	return present, nil
}

// leaveStored is what finish does, for a connection that ended while that it lives was being stored: finish may have come before that.
func (s *Service) leaveStored(ctx context.Context, c *Conn) error {
	r, revision, err := s.load(ctx, c.key)
	c.mu.Lock()
	epoch, cut := c.epoch, c.reason == ReasonCut
	c.mu.Unlock()
	switch {
	case err != nil || r == nil || r.Epoch != epoch:
		return err
	case cut:
		return ignoreConflict(s.drop(ctx, c.key, revision))
	}
	_, err = s.tend(ctx, c.key, map[string]bool{s.node: true})
	return err
}

// mayResume reports whether the certificate under which a session was left may still speak: what was revoked leaves nothing to the one that follows it.
func (s *Service) mayResume(ctx context.Context, c *Conn, old *record) (bool, error) {
	if c.id.Group != "" || bytes.Equal(old.Cert, c.id.Cert[:]) {
		return true, nil
	}
	var cert [16]byte
	copy(cert[:], old.Cert)
	_, err := s.Author(ctx, old.ID, cert)
	if errs.Is(err, errs.Denied) || errs.Is(err, errs.NotFound) {
		return false, nil
	}
	return err == nil, err
}

// handOver returns what is stored of a session, when no other node holds it any more, or has had time enough to let go.
func (s *Service) handOver(ctx context.Context, key string) (r *record, revision uint64, err error) {
	const step = 10 * time.Millisecond
	for range int(handOverTime / step) {
		r, revision, err = s.load(ctx, key)
		if err != nil || r == nil || !r.Live || r.Node == s.node {
			return r, revision, err
		}
		t := time.NewTimer(step)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, 0, ctx.Err()
		}
	}
	return r, revision, nil
}

// endedWith is over, for a session whose connection ends now at the latest.
func (r *record) endedWith(now int64) bool {
	if r.Live {
		return r.Expiry == 0
	}
	return r.over(now)
}

// fresh begins the session's queue here and now.
func (c *Conn) fresh() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.born = c.epoch
	for s := Up; s <= Cast; s++ {
		c.pos[s] = c.s.streams[s].now()
	}
}

// resume takes up what is stored. The subscriptions are looked at again: what the policy does not allow any more is lost (and counted), and what was lost and
// is allowed again hears what comes from now on: these are returned. A connection that has ended takes up nothing: nobody would let go of it again.
func (c *Conn) resume(r *record) (regained []*sub, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return nil, errGone
	}
	c.pos = r.Pos
	c.again, c.lastID, c.born = r.Flights, r.LastIDs, r.Born
	c.turns.resume(r)
	for _, id := range r.Arrivals {
		c.arrive(id).stored = true
	}
	for i := range r.Subs {
		sub, err := c.grant(&r.Subs[i].Subscription)
		if err != nil {
			c.s.metrics.SubscriptionsLost.Add(1)
			c.lose(r.Subs[i].Subscription)
			continue
		}
		sub.since = r.Subs[i].Since
		c.hold(sub)
	}
	for i := range r.Lost {
		sub, err := c.grant(&r.Lost[i])
		if err != nil || c.subs[r.Lost[i].Filter] != nil || len(c.subs) >= c.rights.Load().Limits.Subscriptions {
			c.lose(r.Lost[i])
			continue
		}
		for s := Up; s <= Cast; s++ {
			sub.since[s] = c.s.streams[s].now()
		}
		c.s.metrics.SubscriptionsRegained.Add(1)
		c.hold(sub)
		regained = append(regained, sub)
	}
	c.resumeReplays(r.Replays)
	for s := range c.looseFrom {
		c.looseFrom[s] = c.s.streams[s].now()
	}
	c.behind = len(c.subs) > 0
	c.trim = c.behind
	c.resuming = true
	return regained, nil
}

// settleBeginning stores that the session is connected, before anything is answered: who finds this node dead is to say its will.
func (c *Conn) settleBeginning(ctx context.Context, old *record) error {
	c.mu.Lock()
	kept := c.kept()
	c.version++
	c.mu.Unlock()
	if kept {
		if err := c.s.countSession(ctx, c); err != nil {
			return err
		}
		return c.save(ctx)
	}
	if old == nil && c.revision == 0 {
		return nil
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.s.drop(ctx, c.key, c.revision); err != nil {
		return err
	}
	c.revision = 0
	return nil
}

// countSession writes down that the thing has a session besides that under its own name, so that it has no more of them than connections, and a cut finds
// them all.
func (s *Service) countSession(ctx context.Context, c *Conn) error {
	if c.client == c.id.Subject.Thing {
		return nil
	}
	most := c.rights.Load().Limits.Connections
	return s.book(ctx, c.id.ID, func(l *ledger) (changed bool, err error) {
		if slices.Contains(l.Sessions, c.key) {
			return false, nil
		}
		if len(l.Sessions) >= most {
			if l.Sessions, err = s.stillThere(ctx, l.Sessions); err != nil {
				return false, err
			}
		}
		if len(l.Sessions) >= most {
			s.metrics.Quota.Add(1)
			c.refuse(ctx, refusedQuota, nil)
			return false, errs.New(errs.Limited, "this thing has %d sessions, which is the most it may have", most)
		}
		l.Sessions = append(l.Sessions, c.key)
		return true, nil
	})
}

// stillThere leaves out sessions that are over.
func (s *Service) stillThere(ctx context.Context, keys []string) (kept []string, err error) {
	for _, key := range keys {
		r, _, err := s.load(ctx, key)
		if err != nil {
			return nil, err
		}
		if r != nil && !r.over(s.unix()) {
			kept = append(kept, key)
		}
	}
	return kept, nil
}

// openSubscriptions has the resumed subscriptions hear what comes, and what came meanwhile be read.
func (c *Conn) openSubscriptions(ctx context.Context, present bool) error {
	if !present {
		return nil
	}
	c.mu.Lock()
	var list []*sub
	for _, s := range c.subs {
		list = append(list, s)
	}
	heard := c.heard > 0
	c.mu.Unlock()
	if heard {
		if err := c.s.up.wait(ctx, c.s); err != nil {
			return err
		}
	}
	for _, s := range list {
		c.s.join(s)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for x := range c.missed { // what this node heard before the subscriptions did
		if Stream(x) != Up || heard {
			c.missed[x] = max(c.missed[x], c.s.streams[x].now())
		}
	}
	c.resuming = false
	c.stir()
	return nil
}
