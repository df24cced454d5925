package message

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/device"
)

const (
	retryTime = time.Second // before something of the fabric that broke is taken up again
	upIdle    = 30 * time.Second
)

// stream is how far this node is with one stream.
type stream struct {
	head  atomic.Uint64 // everything up to there was given to the subscriptions of this node
	known atomic.Uint64 // the newest that this node knows to be stored
	shown atomic.Uint64 // the newest that the fabric has shown to who reads: Follow may be ahead of Next
}

// now returns the place after which something is new to who begins to listen: what this node stored is old, even if it was not heard yet.
func (s *stream) now() uint64 { return max(s.head.Load(), s.known.Load()) }

func (s *stream) appended(seq uint64) { raise(&s.known, seq) }

func raise(a *atomic.Uint64, to uint64) {
	for {
		at := a.Load()
		if at >= to || a.CompareAndSwap(at, to) {
			return
		}
	}
}

func (s *Service) heads() (h [streams]uint64) {
	for i := range h {
		h[i] = s.streams[i].head.Load()
	}
	return h
}

// follow gives what is stored in a stream from now on to the subscriptions of this node, until ctx ends.
func (s *Service) follow(ctx context.Context, x Stream, ready func()) {
	d := &dispatcher{}
	at := &s.streams[x]
	err := s.Fabric.Follow(ctx, x, func() {
		last, err := s.last(ctx, x)
		if err != nil {
			s.log.LogAttrs(ctx, slog.LevelWarn, "the end of a stream cannot be read", slog.Any("cause", err))
		}
		raise(&at.head, last)
		raise(&at.known, last)
		s.allBehind(x, last)
		ready()
	}, func(m *Message) {
		if m.Retain {
			s.recent.note(m, s.Now())
		}
		raise(&at.known, m.Seq) // before anybody is looked for: who joins too late to hear it knows that it is there to be read
		s.dispatch(m, d)
		raise(&at.head, m.Seq)
	})
	if err != nil && ctx.Err() == nil {
		s.log.LogAttrs(ctx, slog.LevelWarn, "a stream of messages broke; it is taken up again", slog.Any("cause", err))
	}
}

// last returns the last place of a stream.
func (s *Service) last(ctx context.Context, x Stream) (uint64, error) {
	last, err := s.Fabric.Last(ctx, x)
	if err == nil {
		raise(&s.streams[x].shown, last)
	}
	return last, err
}

// errLate says that who reads is not shown yet what this node heard already: of several servers that keep a stream, the one that tells what is new can be
// ahead, for moments, of the one that is asked.
var errLate = errors.New("what was heard cannot be read yet")

const (
	lateTime = 10 * time.Millisecond
	lateMost = 1000 // times that one session waits before it is said, and tried more seldom
)

// shows makes sure that who reads x from now on is shown what is stored up to a place. It returns errLate when that is not so yet.
func (s *Service) shows(ctx context.Context, x Stream, place uint64) error {
	if s.streams[x].shown.Load() >= place {
		return nil
	}
	last, err := s.last(ctx, x)
	if err == nil && last < place {
		err = errLate
	}
	return err
}

// allBehind has all sessions look whether they missed something while a stream was not followed.
func (s *Service) allBehind(x Stream, last uint64) {
	for _, c := range s.live.all() {
		c.mu.Lock()
		if (x != Up || c.heard > 0) && last > c.pos[x] && !c.ended {
			c.behind, c.missed[x] = true, max(c.missed[x], last)
			c.stir()
		}
		c.mu.Unlock()
	}
}

// upward follows the stream Up while somebody wants it.
type upward struct {
	mu     sync.Mutex
	wanted int           // guarded by mu: subscriptions that hear it
	asked  chan struct{} // guarded by mu: closed to wake up who follows; nil while nobody waits
	ready  chan struct{} // guarded by mu: closed once it is followed; nil while it is not wanted
	idleAt time.Time     // guarded by mu: since when nobody wants it
}

func (u *upward) want(n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.wanted += n
	switch {
	case u.wanted == 0:
		u.idleAt = time.Time{}
	case u.ready == nil: // between wait and this, nobody had wanted it for a while
		u.ask()
	}
}

// ask has the stream followed. mu is held.
func (u *upward) ask() {
	if u.ready == nil {
		u.ready = make(chan struct{})
	}
	if u.asked != nil {
		close(u.asked)
		u.asked = nil
	}
}

// wait returns when the stream is followed, so that nothing is missed that is published after.
func (u *upward) wait(ctx context.Context, s *Service) error {
	u.mu.Lock()
	u.ask()
	ready := u.ready
	u.mu.Unlock()
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
		return errs.Wrap(errs.Unavailable, ctx.Err(), "what devices publish cannot be followed at present: try again")
	}
}

// followed reports whether somebody wants the stream, or did lately.
func (u *upward) followed() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.ready != nil
}

// run follows the stream whenever somebody waits for it, until nobody has wanted it for a while.
func (u *upward) run(ctx context.Context, s *Service) {
	for ctx.Err() == nil {
		u.mu.Lock()
		var asked chan struct{}
		if u.ready == nil {
			asked = make(chan struct{})
			u.asked = asked
		}
		u.mu.Unlock()
		if asked != nil {
			select {
			case <-asked:
			case <-ctx.Done():
				return
			}
		}
		u.followWhileWanted(ctx, s)
	}
}

func (u *upward) followWhileWanted(ctx context.Context, s *Service) {
	upCtx, stop := context.WithCancel(ctx)
	defer stop()
	var told sync.Once
	done := make(chan struct{})
	go func() {
		defer close(done)
		for upCtx.Err() == nil {
			s.follow(upCtx, Up, func() {
				told.Do(func() {
					u.mu.Lock()
					defer u.mu.Unlock()
					close(u.ready)
				})
			})
			pause(upCtx, retryTime)
		}
	}()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if u.over(s.Now()) {
				stop()
			}
		case <-done:
			return
		}
	}
}

// over reports whether nobody has wanted the stream for a while, and forgets that it is followed.
func (u *upward) over(now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.wanted > 0 || u.ready == nil:
		u.idleAt = time.Time{}
		return u.ready == nil
	case u.idleAt.IsZero():
		u.idleAt = now
	case now.Sub(u.idleAt) >= upIdle:
		select {
		case <-u.ready:
			u.ready = nil
			return true
		default: // somebody waits for it
		}
	}
	return false
}

// pause waits for d or for the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// again calls fn until ctx ends, with a pause after each return. ready, which fn is given, counts once.
func (s *Service) again(ctx context.Context, what string, ready func(), fn func(ctx context.Context, ready func()) error) {
	var once sync.Once
	for ctx.Err() == nil {
		if err := fn(ctx, func() { once.Do(ready) }); err != nil && ctx.Err() == nil {
			s.log.LogAttrs(ctx, slog.LevelWarn, "what comes from the fabric broke off; it is taken up again", slog.String("what", what), slog.Any("cause", err))
		}
		pause(ctx, retryTime)
	}
}

// owners lets go of sessions that other nodes took over.
func (s *Service) owners(ctx context.Context, ready func()) error {
	return s.Fabric.Owners(ctx, ready, func(key, node string, epoch uint64) {
		c := s.live.get(key)
		if node == s.node || c == nil {
			return
		}
		c.mu.Lock()
		c.foreign = max(c.foreign, epoch)
		lost := c.epoch != 0 && c.foreign > c.epoch
		c.mu.Unlock()
		if lost {
			s.metrics.TakenOver.Add(1)
			c.end(ReasonTakenOver, Farewell{})
		}
	})
}

// announced does what other nodes say.
func (s *Service) announced(ctx context.Context, place *uint64, ready func()) error {
	return s.Fabric.Announced(ctx, *place, ready, func(at uint64, data []byte) {
		*place = at
		var a announcement
		if err := json.Unmarshal(data, &a); err != nil {
			s.log.LogAttrs(ctx, slog.LevelWarn, "what another node announced cannot be read", slog.Any("cause", err))
			return
		}
		if a.Spread != nil {
			s.heardSpread(a.Node, a.Spread)
			return
		}
		if a.Node == s.node {
			return
		}
		switch {
		case a.Cut != nil:
			s.cutHere(ctx, a.Cut.selector(), a.Reason)
		case a.Policy > 0:
			s.hands.do(s.followPolicy)
		case a.Changed:
			s.hands.do(func(ctx context.Context) { s.changedHere(ctx, a.Device) })
		}
	})
}

// lookAllAgain asks the registry about every live connection: a cut may have been announced while nobody listened.
func (s *Service) lookAllAgain(ctx context.Context) {
	each(s.live.all(), func(c *Conn) {
		if c.id.Group != "" {
			return
		}
		if _, err := s.Author(ctx, c.id.ID, c.id.Cert); errs.Is(err, errs.Denied) || errs.Is(err, errs.NotFound) {
			c.end(ReasonCut, Farewell{})
		}
	})
}

// Changed has what the registry says of a thing looked up again, on all nodes: its live connections go on with the rights that they have now, and gateways
// learn for whom they speak. It is to be called after the change is committed. Who may not speak any more is cut by Cut.
func (s *Service) Changed(ctx context.Context, id device.ID) error {
	s.changedHere(ctx, id)
	a := announcement{Node: s.node, Device: id, Changed: true}
	return s.Fabric.Announce(ctx, a.bytes())
}

func (s *Service) changedHere(ctx context.Context, id device.ID) {
	s.changes.Add(1) // before the connections are looked at: who is not among them yet looks at it afterwards
	s.authors.forget(id)
	for _, c := range s.live.of(id) {
		if c.id.Group == "" {
			s.learn(ctx, c)
		}
	}
	if s.Children == nil {
		return
	}
	for _, c := range s.live.allGateways() {
		s.refreshChildren(ctx, c)
	}
}

// learn has a connection go on with what the registry says of its thing now.
func (s *Service) learn(ctx context.Context, c *Conn) {
	subject, err := s.Author(ctx, c.id.ID, c.id.Cert)
	if err != nil {
		if errs.Is(err, errs.Denied) || errs.Is(err, errs.NotFound) {
			c.end(ReasonPolicy, Farewell{})
		}
		return
	}
	subject.Child = c.hasChild
	now := c.id
	now.Subject = subject
	c.who.Store(&now)
	s.reapply(ctx, c)
}
