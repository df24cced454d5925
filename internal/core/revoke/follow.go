package revoke

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
)

const (
	leaseName = "crl"
	// pollEvery is how often a node looks for what others did: together with one commit it stays below the second in which a revocation must
	// be known everywhere.
	pollEvery = 400 * time.Millisecond
	// retryAfter is the pause after a list could not be made, so that a lost key does not fill the log.
	retryAfter = 5 * time.Second
)

// Run follows what other nodes revoke and publish, and, on the one node that holds the lease, makes the lists that nobody made in time: those
// that are due, and those whose maker died in between. At first it reads lists ahead, see ReadAhead. It ends with ctx.
func (s *Service) Run(ctx context.Context) error {
	var beside sync.WaitGroup
	beside.Go(func() { s.follow(ctx) })
	beside.Go(func() { s.ahead(ctx) })
	defer beside.Wait()
	return s.DB.Lead(ctx, leaseName, s.lead)
}

// follow keeps this node's lists and answers as new as the record, from the present on: what the node knows it read later than that.
func (s *Service) follow(ctx context.Context) {
	failing := false
	for ctx.Err() == nil {
		grown := s.Audit.Grown() // before looking, so that no growth is missed
		err := s.look(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			s.Log.LogAttrs(ctx, slog.LevelWarn, "other nodes' revocations cannot be read", slog.Any("cause", err))
		}
		failing = err != nil
		if failing {
			grown = nil
		}
		pause(ctx, max(pollEvery, s.Audit.LookAgain()), grown)
	}
}

// pause waits for d, or less when early is closed before.
func pause(ctx context.Context, d time.Duration, early <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-early:
	case <-ctx.Done():
	}
}

// watched are the entries that look acts upon.
func watched() []string {
	return append(eventActions(), "crl.publish", "crl.import", "ca.create", "ca.import", "ca.cross", "ca.responder")
}

// look reads once what is new in the record.
func (s *Service) look(ctx context.Context) error {
	if !s.looked {
		size, err := s.Audit.Size(ctx)
		if err != nil {
			return err
		}
		if err := s.loadBlocked(ctx); err != nil { // what was committed since Load, and stands before this place
			return err
		}
		s.place, s.looked = size, true
		s.answers.clear()
		s.outdateAll()
	}
	for {
		page, next, err := s.Audit.Scan(ctx, s.place, watched())
		if err != nil {
			return err
		}
		changed := map[ca.IssuerID][][]byte{}
		for i := range page {
			s.notice(ctx, &page[i], changed)
		}
		for issuer, serials := range changed {
			s.renewAnswers(ctx, issuer, serials, renewFollowed)
		}
		if next == s.place {
			return nil
		}
		s.place = next
	}
}

// notice does what an entry asks of this node. What others changed is added to changed.
func (s *Service) notice(ctx context.Context, e *audit.Indexed, changed map[ca.IssuerID][][]byte) {
	switch e.Action {
	case "crl.publish", "crl.import":
		d := details{of: e.Detail}
		k := scopeKey{shard: d.number("shard")}
		d.octets(e.Object, k.issuer[:])
		if d.err == nil {
			s.outdate(k, d.number("number"))
		}
		if e.Action == "crl.import" && d.err == nil {
			if err := s.barListed(ctx, k.issuer); err != nil {
				s.Log.LogAttrs(ctx, slog.LevelWarn, "the list of a CA above others cannot be read", slog.Any("cause", err))
			}
		}
	case "ca.create", "ca.import":
		if _, err := s.CA.Issuer(e.Object); err != nil { // another node made it
			if err := s.CA.Load(ctx); err != nil {
				s.Log.LogAttrs(ctx, slog.LevelWarn, "a CA that another node made cannot be read", slog.Any("cause", err))
			}
		}
		s.duties.missing.Store(true)
	case "ca.cross", "ca.responder":
		if err := s.CA.Load(ctx); err != nil {
			s.Log.LogAttrs(ctx, slog.LevelWarn, "a cross certificate or responder that another node took in cannot be read", slog.Any("cause", err))
		}
	default:
		if ev, err := eventOf(e); err == nil {
			s.blocked.follow(&ev)
			if ev.Device == (device.ID{}) {
				s.barAsRecorded(ctx, ev.Serial)
			}
			if !s.own.take(ev.Serial, ev.change) && len(ev.Serial) == serialLength {
				changed[ev.Issuer] = append(changed[ev.Issuer], ev.Serial)
			}
			s.duties.add(scopeKey{ev.Issuer, ev.shard}, ev.change, s.Now())
		}
	}
}

// outdate has the list read again before it is served, unless its number is known.
func (s *Service) outdate(k scopeKey, number int64) {
	s.mu.Lock()
	sc := s.scopes[k]
	s.mu.Unlock()
	if sc == nil {
		return
	}
	if l := sc.current.Load(); l == nil || l.number < number {
		sc.stale.Store(true)
	}
}

func (s *Service) outdateAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sc := range s.scopes {
		sc.stale.Store(true)
	}
}

// own remembers which changes this process made, so that it need not act on them again when it reads them in the record.
type own struct {
	mu    sync.Mutex
	known map[string]int64 // the change, by serial; guarded by mu
}

// mostOwn bounds what is remembered; whatever is forgotten is only acted on twice.
const mostOwn = 50_000

func (o *own) add(serial []byte, change int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.known == nil || len(o.known) >= mostOwn {
		o.known = map[string]int64{}
	}
	o.known[string(serial)] = change
}

// take reports whether the change is this process's newest to the certificate, and forgets it.
func (o *own) take(serial []byte, change int64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.known[string(serial)] != change {
		return false
	}
	delete(o.known, string(serial))
	return true
}

// duties is what the node that holds the lease was told to see to.
type duties struct {
	missing atomic.Bool // a CA may be without a list

	mu     sync.Mutex
	leads  bool                 // guarded by mu; others need not remember
	behind map[scopeKey]waiting // guarded by mu; lists that may not show a change yet
}

// waiting is a change that a list is to show. Its maker may still be at work.
type waiting struct {
	change int64
	since  time.Time
}

func (d *duties) add(k scopeKey, change int64, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.leads {
		return
	}
	w, known := d.behind[k]
	if !known {
		w.since = now
	}
	w.change = max(w.change, change)
	d.behind[k] = w
}

// lead sets whether this node leads.
func (d *duties) lead(leads bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.leads, d.behind = leads, map[scopeKey]waiting{}
}

// ripe takes out the changes that have waited for longer than a round.
func (d *duties) ripe(now time.Time) map[scopeKey]int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	ripe := map[scopeKey]int64{}
	for k, w := range d.behind {
		if now.Sub(w.since) >= pollEvery {
			ripe[k] = w.change
			delete(d.behind, k)
		}
	}
	return ripe
}

// issuers returns all CAs.
func (s *Service) issuers() (all []*ca.Issuer) {
	s.CA.Each(func(i *ca.Issuer) { all = append(all, i) })
	return all
}
