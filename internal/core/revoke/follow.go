package revoke

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/core/ca"
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
// that are due, and those whose maker died in between. It ends with ctx.
func (s *Service) Run(ctx context.Context) error {
	var both sync.WaitGroup
	both.Go(func() { s.follow(ctx) })
	defer both.Wait()
	return s.DB.Lead(ctx, leaseName, func(ctx context.Context, _ *db.Lease) error { return s.lead(ctx) })
}

// follow keeps this node's lists and answers as new as the database.
func (s *Service) follow(ctx context.Context) {
	failing := false
	for ctx.Err() == nil {
		err := s.look(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			s.Log.LogAttrs(ctx, slog.LevelWarn, "other nodes' revocations cannot be read", slog.Any("cause", err))
		}
		failing = err != nil
		pause(ctx, pollEvery)
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// state is where a list stands in the database.
type state struct {
	key                    scopeKey
	changes                int64
	number, covers         int64 // of the published list; 0 = none
	thisUpdate, nextUpdate int64
	regularUpdate          int64
}

const selectStates = `SELECT s.issuer, s.shard, s.changes, COALESCE(c.number, 0), COALESCE(c.covers, 0), COALESCE(c.this_update, 0),
 COALESCE(c.next_update, 0), COALESCE(c.regular_update, 0) FROM crl_scope s
 LEFT JOIN crl c ON c.cell = s.cell AND c.issuer = s.issuer AND c.shard = s.shard WHERE s.cell = 0`

func (s *Service) states(ctx context.Context) (all []state, err error) {
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		all = nil
		return tx.Each(ctx, func(row db.Row) error {
			var st state
			var issuer []byte
			if err := row.Scan(&issuer, &st.key.shard, &st.changes, &st.number, &st.covers, &st.thisUpdate, &st.nextUpdate, &st.regularUpdate); err != nil {
				return err
			}
			if len(issuer) != len(st.key.issuer) {
				return fmt.Errorf("a row of crl_scope has an issuer of %d octets", len(issuer))
			}
			st.key.issuer = ca.IssuerID(issuer)
			all = append(all, st)
			return nil
		}, selectStates)
	})
	return all, err
}

// look reads once what is new.
func (s *Service) look(ctx context.Context) error {
	all, err := s.states(ctx)
	if err != nil {
		return err
	}
	for _, st := range all {
		sc, err := s.scopeOf(st.key)
		if err != nil {
			continue // a CA that another node made and this one has not loaded: it serves nothing of it yet
		}
		if err := s.forgetAnswers(ctx, sc, st.changes); err != nil {
			return err
		}
		if l := sc.current.Load(); st.number > 0 && (l == nil || l.number < st.number) {
			if _, err := s.load(ctx, sc); err != nil {
				return err
			}
		}
	}
	return nil
}

// maxForgotten is how many changes one look tells apart; after more all answers are forgotten.
const maxForgotten = 20_000

// forgetAnswers drops the OCSP answers about certificates that changed since the last look. This node's own changes are among them, again.
func (s *Service) forgetAnswers(ctx context.Context, sc *scope, changes int64) error {
	seen := sc.seen.Load()
	if changes <= seen {
		return nil
	}
	var serials [][]byte
	err := s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		serials = nil
		return tx.Each(ctx, func(row db.Row) error {
			var serial []byte
			err := row.Scan(&serial)
			serials = append(serials, serial)
			return err
		}, `SELECT serial FROM revoked WHERE issuer = $1 AND crl_shard = $2 AND change > $3 AND change <= $4 ORDER BY change LIMIT $5`,
			sc.key.issuer[:], sc.key.shard, seen, changes, int64(maxForgotten))
	})
	if err != nil {
		return err
	}
	if len(serials) == maxForgotten { // among them the very first look at a long list
		s.answers.clear()
	}
	s.renewAnswers(ctx, sc.key.issuer, serials, renewFollowed)
	sc.seen.Store(changes)
	return nil
}

// lead makes lists until ctx ends.
func (s *Service) lead(ctx context.Context) error {
	r := rounds{waiting: map[scopeKey]int64{}, failed: map[scopeKey]time.Time{}}
	for ctx.Err() == nil {
		if err := s.round(ctx, &r); err != nil && ctx.Err() == nil {
			return err
		}
		pause(ctx, pollEvery)
	}
	return nil
}

// rounds remembers between the rounds of lead.
type rounds struct {
	waiting map[scopeKey]int64 // changes that a list did not show a round ago: its maker may still be at work
	failed  map[scopeKey]time.Time
}

// round makes every list that is missing, due, or behind for longer than a round.
func (s *Service) round(ctx context.Context, r *rounds) error {
	all, err := s.states(ctx)
	if err != nil {
		return fmt.Errorf("reading where the CRLs stand: %w", err)
	}
	known := make(map[scopeKey]state, len(all))
	for _, st := range all {
		known[st.key] = st
	}
	var issuers []*ca.Issuer
	s.CA.Each(func(i *ca.Issuer) { issuers = append(issuers, i) })
	for _, i := range issuers {
		k := scopeKey{issuer: i.ID()}
		st := known[k]
		st.key = k
		if s.Now().After(i.Certificate().NotAfter) || s.Now().Sub(r.failed[k]) < retryAfter {
			continue // nobody accepts a list of an expired CA
		}
		if err := s.advance(ctx, r, st); err != nil && ctx.Err() == nil {
			r.failed[k] = s.Now()
			s.Log.LogAttrs(ctx, slog.LevelError, "a CRL cannot be made", slog.String("issuer", k.issuer.String()), slog.Any("cause", err))
		}
	}
	return nil
}

// advance makes the list of st if it is time.
func (s *Service) advance(ctx context.Context, r *rounds, st state) error {
	sc, err := s.scopeOf(st.key)
	if err != nil {
		return err
	}
	l := &list{thisUpdate: st.thisUpdate, nextUpdate: st.nextUpdate, regularUpdate: st.regularUpdate}
	if st.number == 0 || s.regular(l) {
		_, err := s.listed(ctx, sc, func(l *list) bool { return !s.regular(l) })
		return err
	}
	if st.changes <= st.covers {
		delete(r.waiting, st.key)
		return nil
	}
	if before, waited := r.waiting[st.key]; !waited || before <= st.covers {
		r.waiting[st.key] = st.changes
		return nil
	}
	_, err = s.listed(ctx, sc, func(l *list) bool { return l.covers >= st.changes })
	return err
}
