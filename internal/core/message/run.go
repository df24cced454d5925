package message

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/core/audit"
)

const (
	tickTime    = 250 * time.Millisecond // for ends of certificates and wills
	lazyTicks   = 4                      // between two times that records are written which may be up to a second old
	policyEvery = 5 * time.Second        // between two looks at the database for another policy
	notesAtOnce = 256                    // entries of the record in one transaction
)

// Run carries messages until ctx ends. Then it ends all connections and stores what is left of their sessions.
func (s *Service) Run(ctx context.Context) error {
	late, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	carrying, carryNoMore := context.WithCancel(late)
	defer carryNoMore()
	var hands, parts, lanes sync.WaitGroup
	for range workers {
		hands.Go(func() { s.hands.work(late) })
	}
	for i := range s.retains.lanes {
		lanes.Go(func() { s.retains.work(late, s, i) })
	}
	lanes.Go(func() { s.keepNotes(late) })
	lanes.Go(func() { s.keepDenials(late) })
	s.runParts(carrying, &parts)
	<-ctx.Done()
	s.stopped.Store(true)
	stop := time.AfterFunc(handTime, cancel)
	defer stop.Stop()
	end := func(c *Conn) { c.end(ReasonStopping, Farewell{}) }
	each(s.live.all(), end)
	s.waitForGroups(late) // others leave messages to this node until they have heard that it has no members any more
	carryNoMore()
	parts.Wait()
	each(s.live.all(), end) // who was just connecting
	s.hands.close()
	hands.Wait()
	cancel()
	lanes.Wait()
	return nil
}

// runParts starts what follows the fabric, and closes started when all of it does.
func (s *Service) runParts(ctx context.Context, parts *sync.WaitGroup) {
	var ready sync.WaitGroup
	part := func(what string, fn func(ctx context.Context, ready func()) error) {
		ready.Add(1)
		parts.Go(func() { s.again(ctx, what, ready.Done, fn) })
	}
	part("messages for things", func(ctx context.Context, ready func()) error { s.follow(ctx, Down, ready); return nil })
	part("messages for many", func(ctx context.Context, ready func()) error { s.follow(ctx, Cast, ready); return nil })
	part("owners of sessions", s.owners)
	var place uint64
	var again bool
	part("announcements", func(ctx context.Context, ready func()) error {
		broke := again
		again = true
		return s.announced(ctx, &place, func() {
			if broke {
				s.hands.do(s.lookAllAgain)
			}
			ready()
		})
	})
	parts.Go(func() { s.up.run(ctx, s) })
	parts.Go(func() { s.tick(ctx) })
	parts.Go(func() {
		if err := s.DB.Lead(ctx, "message-wills", s.tendLost); err != nil {
			s.log.LogAttrs(ctx, slog.LevelWarn, "nobody looks after the sessions of nodes that are gone", slog.Any("cause", err))
		}
	})
	go func() {
		ready.Wait()
		select {
		case <-s.started:
		default:
			close(s.started)
		}
	}()
}

// tick does what is due.
func (s *Service) tick(ctx context.Context) {
	tick := time.NewTicker(tickTime)
	defer tick.Stop()
	var looked, beaten time.Time
	for turn := 0; ; turn++ {
		now := s.Now()
		for _, c := range s.ends.due(now.Unix()) {
			s.metrics.CertificateEnded.Add(1)
			s.hands.do(func(context.Context) { c.conn.end(ReasonExpired, Farewell{}) })
		}
		for _, w := range s.wills.due(now.Unix()) {
			s.hands.do(func(ctx context.Context) { s.willDue(ctx, w.key) })
		}
		if turn%lazyTicks == 0 {
			s.saveLazily(ctx)
		}
		if now.Sub(looked) >= policyEvery || now.Before(looked) {
			looked = now
			s.hands.do(s.followPolicy)
		}
		if now.Sub(beaten) >= beatEvery || now.Before(beaten) {
			beaten = now
			s.hands.do(s.beat)
			s.beatSpread()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// keepNotes has entries recorded, many in one transaction.
func (s *Service) keepNotes(ctx context.Context) {
	for {
		var list []audit.Entry
		select {
		case e := <-s.notes:
			list = append(list, e)
		case <-ctx.Done():
			return
		}
		for more := true; more && len(list) < notesAtOnce; {
			select {
			case e := <-s.notes:
				list = append(list, e)
			default:
				more = false
			}
		}
		if err := s.record(ctx, list...); err != nil {
			s.metrics.NotesDropped.Add(int64(len(list)))
			s.log.LogAttrs(ctx, slog.LevelError, "what happened to connections cannot be recorded", slog.Int("entries", len(list)), slog.Any("cause", err))
		}
	}
}

func (s *Service) record(ctx context.Context, list ...audit.Entry) error {
	for i := range list {
		list[i].At = s.unix()
	}
	return s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error { return s.Audit.Append(ctx, tx, list...) })
}
