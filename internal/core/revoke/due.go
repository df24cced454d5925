package revoke

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/core/ca"
)

// lead makes lists until ctx ends. At the beginning it looks once at all lists; afterwards it knows from the record what is behind and which CA is
// new, and from an index what is due, so that a round costs the same with one CA and with thousands of 256 lists each.
func (s *Service) lead(ctx context.Context, _ *db.Lease) error {
	defer s.duties.lead(false)
	r := newRounds()
	for ctx.Err() == nil {
		if err := s.round(ctx, r); err != nil && ctx.Err() == nil {
			return err
		}
		pause(ctx, pollEvery, nil)
	}
	return nil
}

// rounds remembers between the rounds of lead.
type rounds struct {
	begun  bool
	failed map[scopeKey]setback
	told   time.Time // when tellEnds was called
	paused time.Time // until when what is due is left alone, because much of it cannot be made
}

type setback struct {
	at     time.Time
	change int64 // what the list was to show; 0 when it is only missing or due
}

func newRounds() *rounds { return &rounds{failed: map[scopeKey]setback{}} }

// round makes every list that is missing, behind for longer than a round, or due.
func (s *Service) round(ctx context.Context, r *rounds) error {
	if !r.begun {
		if err := s.begin(ctx); err != nil {
			return err
		}
		r.begun = true
	}
	if s.Now().Sub(r.told) >= tellEvery {
		s.tellEnds(ctx)
		r.told = s.Now()
	}
	s.again(r)
	if s.duties.missing.Swap(false) {
		if err := s.makeMissing(ctx, r); err != nil {
			s.duties.missing.Store(true)
			return err
		}
	}
	for k, change := range s.duties.ripe(s.Now()) {
		s.makeOne(ctx, r, k, change)
	}
	if s.Now().Before(r.paused) {
		return nil
	}
	return s.makeDue(ctx, r)
}

// begin looks at all lists, once.
func (s *Service) begin(ctx context.Context) error {
	s.duties.lead(true)
	s.duties.missing.Store(true)
	longAgo := s.Now().Add(-pollEvery)
	return s.eachBehind(ctx, func(k scopeKey, changes int64) { s.duties.add(k, changes, longAgo) })
}

// eachBehind calls fn for every list that does not show all changes, with the number of the last one; perhaps more than once for one.
func (s *Service) eachBehind(ctx context.Context, fn func(k scopeKey, changes int64)) error {
	err := s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		return tx.Each(ctx, func(row db.Row) error {
			var k scopeKey
			var issuer []byte
			var changes int64
			if err := row.Scan(&issuer, &k.shard, &changes); err != nil {
				return err
			}
			copy(k.issuer[:], issuer)
			fn(k, changes)
			return nil
		}, `SELECT s.issuer, s.shard, s.changes FROM crl_scope s LEFT JOIN crl c ON c.cell = s.cell AND c.issuer = s.issuer AND c.shard = s.shard
 WHERE s.cell = 0 AND s.shard >= 0 AND s.changes > COALESCE(c.covers, 0)`)
	})
	if err != nil {
		return fmt.Errorf("reading which CRLs are behind: %w", err)
	}
	return nil
}

// again puts what failed a while ago among what is to be done.
func (s *Service) again(r *rounds) {
	now := s.Now()
	for k, f := range r.failed {
		if now.Sub(f.at) < retryAfter {
			continue
		}
		delete(r.failed, k)
		if f.change > 0 {
			s.duties.add(k, f.change, f.at)
		} else {
			s.duties.missing.Store(true)
		}
	}
}

// makeMissing makes the complete list of every CA that has none. Those of shards come when something is revoked or somebody asks.
func (s *Service) makeMissing(ctx context.Context, r *rounds) error {
	have := map[scopeKey]bool{}
	err := s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		clear(have)
		return tx.Each(ctx, func(row db.Row) error {
			var k scopeKey
			var issuer []byte
			if err := row.Scan(&issuer, &k.shard); err != nil {
				return err
			}
			copy(k.issuer[:], issuer)
			have[k] = true
			return nil
		}, `SELECT issuer, shard FROM crl WHERE cell = 0 AND shard <= 0`)
	})
	if err != nil {
		return fmt.Errorf("reading which CRLs there are: %w", err)
	}
	for _, i := range s.issuers() {
		k := scopeKey{issuer: i.ID()}
		if i.Shards() > 0 {
			k.shard = ca.Complete
		}
		if _, failing := r.failed[k]; have[k] || failing || i.Key() == "" || s.expired(i) {
			continue
		}
		s.makeOne(ctx, r, k, 0)
	}
	return nil
}

// makeOne makes one list that is missing or due, or that is to show a change, unless another node did.
func (s *Service) makeOne(ctx context.Context, r *rounds, k scopeKey, change int64) {
	sc, err := s.scopeOf(k)
	if err != nil || s.expired(sc.issuer) || sc.issuer.Key() == "" || ctx.Err() != nil {
		return // a CA that this node has not loaded, a list that nobody accepts, or one that is made elsewhere
	}
	good := func(l *list) bool { return l.covers >= change }
	if change == 0 {
		good = func(l *list) bool { return !s.regular(l) }
	}
	sc.stale.Store(true)
	if l, err := s.newest(ctx, sc); err == nil && l != nil && good(l) {
		return
	}
	if _, err := s.listed(ctx, sc, good); err != nil && ctx.Err() == nil {
		r.failed[k] = setback{s.Now(), change}
		s.Log.LogAttrs(ctx, slog.LevelError, "a CRL cannot be made", slog.String("issuer", k.issuer.String()), slog.Int64("shard", k.shard), slog.Any("cause", err))
	}
}

const (
	duePage    = 200
	selectDue  = `SELECT due, issuer, shard FROM crl WHERE cell = 0 AND due <= $1 AND (due, issuer, shard) > ($2, $3, $4) ORDER BY due, issuer, shard LIMIT $5`
	dueAtOnce  = 5000        // lists renewed in one round, so that revocations behind them do not wait for all
	failedMost = 2 * duePage // lists that fail before what is due is left alone for a while
)

// dueKey is a place in the index of what is due.
type dueKey struct {
	due int64
	key scopeKey
}

// makeDue renews what is due, oldest first.
func (s *Service) makeDue(ctx context.Context, r *rounds) error {
	from := dueKey{due: -1}
	for done := 0; done < dueAtOnce; done += duePage {
		page, err := s.due(ctx, from)
		if err != nil {
			return fmt.Errorf("reading which CRLs are due: %w", err)
		}
		for _, d := range page {
			if _, failing := r.failed[d.key]; !failing {
				s.makeOne(ctx, r, d.key, 0)
			}
		}
		if len(r.failed) > failedMost {
			r.paused = s.Now().Add(retryAfter)
			return nil
		}
		if len(page) < duePage || ctx.Err() != nil {
			return nil
		}
		from = page[len(page)-1]
	}
	return nil
}

func (s *Service) due(ctx context.Context, from dueKey) (page []dueKey, err error) {
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		page = nil
		return tx.Each(ctx, func(row db.Row) error {
			var d dueKey
			var issuer []byte
			if err := row.Scan(&d.due, &issuer, &d.key.shard); err != nil {
				return err
			}
			copy(d.key.issuer[:], issuer)
			page = append(page, d)
			return nil
		}, selectDue, s.Now().Unix(), from.due, from.key.issuer[:], from.key.shard, int64(duePage))
	})
	return page, err
}
