package revoke

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/wire/der"
)

// CRL is a list as it is published. It is shared: do not change DER.
type CRL struct {
	DER                    []byte // nil when the list is kept in pieces: read it with Service.Content
	Size                   int64
	Number                 int64
	ThisUpdate, NextUpdate int64 // UTC seconds
	Digest                 [32]byte

	key    scopeKey
	before []byte // the piece 0 of a list kept in pieces
}

// CRL returns the list of a CA that is published now: of one shard, or the complete list when shard is ca.Complete or the CA has no shards.
// One that is not there yet, or no longer valid, is made. When that fails because the key or the store is unavailable, an expired list is
// returned rather than none. A CA or shard that does not exist is NotFound.
func (s *Service) CRL(ctx context.Context, id ca.IssuerID, shard int64) (CRL, error) {
	sc, err := s.scopeAt(id, shard)
	if err != nil {
		return CRL{}, err
	}
	l, err := s.servable(ctx, sc)
	if err != nil {
		return CRL{}, err
	}
	return l.crl(sc.key), nil
}

func (l *list) crl(k scopeKey) CRL {
	return CRL{DER: l.der, Size: l.size, Number: l.number, ThisUpdate: l.thisUpdate, NextUpdate: l.nextUpdate, Digest: l.digest, key: k, before: l.before}
}

// servable returns the list to hand out, made anew when it has to be. An old one is better than none.
func (s *Service) servable(ctx context.Context, sc *scope) (*list, error) {
	l, err := s.newest(ctx, sc)
	if l != nil && (!s.lapsed(sc, l) || s.expired(sc.issuer)) {
		return l, nil
	}
	if err == nil {
		var made *list
		if made, err = s.listed(ctx, sc, func(l *list) bool { return !s.lapsed(sc, l) }); err == nil {
			return made, nil
		}
	}
	if l == nil {
		l = sc.current.Load()
	}
	if l != nil {
		s.Log.LogAttrs(ctx, slog.LevelDebug, "an old CRL is served", slog.String("issuer", sc.key.issuer.String()), slog.Any("cause", err))
		return l, nil
	}
	return nil, err
}

// lapsed reports whether a list is too old to be handed out. The lists of shards in which nothing was ever revoked are nobody's duty: they are
// made anew for whoever asks after half their time.
func (s *Service) lapsed(sc *scope, l *list) bool {
	if l.kind == imported {
		return false
	}
	return l.nextUpdate <= s.Now().Unix() || l.due == never && s.regular(l)
}

func (s *Service) expired(i *ca.Issuer) bool { return s.Now().After(i.Certificate().NotAfter) }

// The kinds of list. The numbers are stored.
const (
	built    = 0 // of the rows of revoked
	pieced   = 1 // kept in crl_chunk
	imported = 2 // kept in crl_chunk, made elsewhere
)

// never is in place of a time that does not come.
const never = der.NoExpiry

// list is one published CRL with what the next one must know. It never changes.
type list struct {
	kind                   int64
	number                 int64
	thisUpdate, nextUpdate int64
	covers                 int64 // changes up to this one are in it
	// Of the last list that was made on schedule and not because of a change: an expired certificate's entry may leave only after it was on
	// such a list that was issued after its expiry (RFC 5280, section 3.3).
	regularNumber, regularUpdate, regularCovers int64
	floor                                       floor
	due                                         int64
	delta                                       bool // it names the address of a delta list
	size                                        int64
	signature                                   []byte
	digest                                      [32]byte
	der                                         []byte // nil when kept in pieces
	before                                      []byte // piece 0 when kept in pieces
}

// floor says which entries have left: those up to change covers whose certificates expired before update.
type floor struct{ update, covers int64 }

// scope is one list in the making.
type scope struct {
	key     scopeKey
	issuer  *ca.Issuer
	point   string               // the address of a shard's list as certificates name it; "" for a complete list
	current atomic.Pointer[list] // the newest published list that this node knows; nil before it looked
	delta   atomic.Pointer[list] // the delta list of that number, when somebody asked for it
	stale   atomic.Bool          // others may have published since
	checked atomic.Int64         // second in which the database was last asked for the number

	making chan struct{} // holds the token of whoever makes or loads a list; it guards what follows
	kept   kept
	rested time.Duration // how long to rest after the last list
	made   time.Time     // when that was
}

// scopeAt returns the list of a shard of a CA.
func (s *Service) scopeAt(id ca.IssuerID, shard int64) (*scope, error) {
	i, err := s.CA.IssuerByID(id)
	if err != nil {
		return nil, err
	}
	switch n := int64(i.Shards()); {
	case n == 0 && shard == ca.Complete:
		shard = 0
	case shard < ca.Complete || shard >= max(n, 1):
		return nil, errs.New(errs.NotFound, "the CA %q has no list %d", i.Name(), shard)
	}
	return s.scopeOf(scopeKey{id, shard})
}

// scopeOf returns the list of an existing CA.
func (s *Service) scopeOf(k scopeKey) (*scope, error) {
	s.mu.Lock()
	sc := s.scopes[k]
	s.mu.Unlock()
	if sc != nil {
		return sc, nil
	}
	issuer, err := s.CA.IssuerByID(k.issuer)
	if err != nil {
		return nil, err
	}
	sc = &scope{key: k, issuer: issuer, making: make(chan struct{}, 1)}
	if issuer.Shards() > 0 && k.shard != ca.Complete {
		if sc.point = s.CA.CRLAddress(k.issuer, k.shard); sc.point == "" {
			return nil, errs.New(errs.NotFound, "the CA %q has no lists of shards while no address of CRLs is configured", issuer.Name())
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if was := s.scopes[k]; was != nil {
		return was, nil
	}
	if len(s.scopes) >= mostScopes {
		s.makeRoom()
	}
	s.scopes[k] = sc
	return sc, nil
}

// mostScopes bounds how many lists are kept in memory: strangers choose which are asked for.
const mostScopes = 50_000

// makeRoom forgets some lists that nobody is working on, in the accidental order of the map. The caller holds s.mu. Whoever still holds one
// may go on with it: what two make at a time is decided where it is stored.
func (s *Service) makeRoom() {
	for k, sc := range s.scopes {
		select {
		case sc.making <- struct{}{}:
			delete(s.scopes, k)
			sc.unlock()
		default:
		}
		if len(s.scopes) <= mostScopes*99/100 {
			return
		}
	}
}

// streamed reports whether the list is the complete one of a CA with shards, which may be too big to hold.
func (sc *scope) streamed() bool { return sc.key.shard == ca.Complete }

// lock takes the token of sc.making; the caller gives it back.
func (sc *scope) lock(ctx context.Context) error {
	select {
	case sc.making <- struct{}{}:
		return nil
	case <-ctx.Done():
		return errs.Wrap(errs.Unavailable, ctx.Err(), "waiting for a CRL was given up")
	}
}

func (sc *scope) unlock() { <-sc.making }

// newest returns the newest published list, nil when there is none. The database is asked when others may have published since, at most once
// a second. With an error it returns the newest that is known here.
func (s *Service) newest(ctx context.Context, sc *scope) (*list, error) {
	now := s.Now().Unix()
	l := sc.current.Load()
	if l != nil && !sc.stale.Load() && now-sc.checked.Load() < 1 {
		return l, nil
	}
	select {
	case sc.making <- struct{}{}:
	default: // somebody is making a newer list, or reading one, and may rest before
		if l != nil {
			return l, nil
		}
		if err := sc.lock(ctx); err != nil {
			return l, err
		}
	}
	defer sc.unlock()
	if sc.current.Load() != l && l != nil { // somebody else has looked meanwhile
		return sc.current.Load(), nil
	}
	sc.stale.Store(false) // before reading: what comes later makes it stale again
	found, err := s.load(ctx, sc)
	if err != nil {
		sc.stale.Store(true)
		return l, err
	}
	sc.checked.Store(now)
	return found, nil
}

// listCovering returns a published list that shows the change, which it makes if need be.
func (s *Service) listCovering(ctx context.Context, k scopeKey, change int64) (*list, error) {
	sc, err := s.scopeOf(k)
	if err != nil {
		return nil, err
	}
	return s.listed(ctx, sc, func(l *list) bool { return l.covers >= change })
}

// listed returns a published list that is good, which it makes if need be. Of many who ask at once one makes it and the others get the same.
func (s *Service) listed(ctx context.Context, sc *scope, good func(*list) bool) (*list, error) {
	if l := sc.current.Load(); l != nil && good(l) {
		return l, nil
	}
	if err := sc.lock(ctx); err != nil {
		return nil, err
	}
	defer sc.unlock()
	l := sc.current.Load()
	if l == nil || !good(l) {
		var err error
		if l, err = s.load(ctx, sc); err != nil {
			return nil, err
		}
	}
	for try := 0; l == nil || !good(l); try++ {
		if try == 3 {
			return nil, errs.New(errs.Unavailable, "the CRL of %s could not be made: other nodes were faster each time; try again", sc.key.issuer)
		}
		var err error
		if l, err = s.publish(ctx, sc, l == nil || s.regular(l)); err != nil {
			s.counts.listFailures.Add(1)
			return nil, fmt.Errorf("making the CRL of %q: %w", sc.issuer.Name(), err)
		}
	}
	return l, nil
}

// regular reports whether a list is due on schedule: l is older than the refresh interval, or more than half of its validity is over.
func (s *Service) regular(l *list) bool { return s.Now().Unix() >= s.dueOf(l) }

// dueOf is when a list is to be made anew.
func (s *Service) dueOf(l *list) int64 {
	return min(l.regularUpdate+int64(s.Refresh/time.Second), l.thisUpdate+(l.nextUpdate-l.thisUpdate)/2)
}

// schedule sets when the list must be made anew: never when the CA has ended by then, since nobody accepts a list of an expired CA, and never
// when nothing was ever revoked in a shard, see lapsed.
func (s *Service) schedule(sc *scope, l *list) {
	l.due = s.dueOf(l)
	if l.due > sc.issuer.Certificate().NotAfter.Unix() || sc.point != "" && l.covers == 0 {
		l.due = never
	}
}

// publish makes one list and stores it, and returns the newest stored one, which is another node's when that was faster. The caller holds
// sc.making.
func (s *Service) publish(ctx context.Context, sc *scope, regular bool) (*list, error) {
	if sc.issuer.Key() == "" {
		return nil, errs.New(errs.Unavailable, "the key of CA %q is not kept here: import its list", sc.issuer.Name())
	}
	if err := sc.rest(ctx, s.Now()); err != nil {
		return nil, err
	}
	began := s.Now()
	stored, err := false, error(nil)
	var l *list
	if sc.streamed() {
		l, stored, err = s.publishWhole(ctx, sc)
	} else {
		l, stored, err = s.publishBuilt(ctx, sc, regular)
	}
	if err != nil {
		return nil, err
	}
	sc.made = s.Now()
	sc.rested = min(3*sc.made.Sub(began), maxRest)
	if !stored {
		return s.load(ctx, sc)
	}
	s.counts.lists.Add(1)
	sc.checked.Store(s.Now().Unix())
	sc.adopt(l)
	return l, nil
}

func (s *Service) publishBuilt(ctx context.Context, sc *scope, regular bool) (l *list, stored bool, err error) {
	draft, err := s.prepare(ctx, sc, regular)
	if err != nil {
		return nil, false, err
	}
	if l, err = s.sign(ctx, sc, draft); err != nil {
		return nil, false, err
	}
	stored, err = s.store(ctx, sc, l)
	return l, stored, err
}

// maxRest bounds the pause between two lists.
const maxRest = 2 * time.Second

// rest waits until three times as long has passed as the last list took to make, so that a burst of revocations shares lists and long lists
// are made less often.
func (sc *scope) rest(ctx context.Context, now time.Time) error {
	t := time.NewTimer(sc.rested - now.Sub(sc.made))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return errs.Wrap(errs.Unavailable, ctx.Err(), "waiting for a CRL was given up")
	}
}

// adopt makes l the list that is handed out, unless a newer one is.
func (sc *scope) adopt(l *list) {
	for {
		was := sc.current.Load()
		if was != nil && was.number >= l.number || sc.current.CompareAndSwap(was, l) {
			return
		}
	}
}

const listColumns = `kind, number, this_update, next_update, covers, regular_number, regular_update, regular_covers, floor_update, floor_covers, due, delta,
 size, signature, digest`

// scan reads listColumns and, into before, what precedes them.
func (l *list) scan(row db.Row, before ...any) error {
	var digest []byte
	var delta int64
	err := row.Scan(append(before, &l.kind, &l.number, &l.thisUpdate, &l.nextUpdate, &l.covers, &l.regularNumber, &l.regularUpdate, &l.regularCovers,
		&l.floor.update, &l.floor.covers, &l.due, &delta, &l.size, &l.signature, &digest)...)
	if err != nil {
		return err
	}
	if len(digest) != len(l.digest) || delta>>1 != 0 || l.kind < built || l.kind > imported {
		return errs.New(errs.Internal, "the row of a CRL is damaged: its kind, delta or digest cannot be")
	}
	l.digest, l.delta = [32]byte(digest), delta == 1
	return nil
}

const selectList = `SELECT ` + listColumns + ` FROM crl WHERE cell = 0 AND issuer = $1 AND shard = $2`

// readListTx reads the row of the published list, nil when there is none.
func readListTx(ctx context.Context, tx *db.Tx, k scopeKey) (l *list, err error) {
	err = tx.Each(ctx, func(row db.Row) error {
		l = &list{}
		return l.scan(row)
	}, selectList, k.issuer[:], k.shard)
	return l, err
}

const insertList = `INSERT INTO crl (cell, issuer, shard, ` + listColumns + `) VALUES (0, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
 ON CONFLICT (cell, issuer, shard) DO UPDATE SET kind = excluded.kind, number = excluded.number, this_update = excluded.this_update,
 next_update = excluded.next_update, covers = excluded.covers, regular_number = excluded.regular_number, regular_update = excluded.regular_update,
 regular_covers = excluded.regular_covers, floor_update = excluded.floor_update, floor_covers = excluded.floor_covers, due = excluded.due,
 delta = excluded.delta, size = excluded.size, signature = excluded.signature, digest = excluded.digest
 WHERE crl.number < excluded.number AND crl.covers <= excluded.covers AND crl.this_update <= excluded.this_update`

// storeTx writes the row of l and reports whether it did: not when a newer list is there, or one that says more.
func (l *list) storeTx(ctx context.Context, tx *db.Tx, k scopeKey) (bool, error) {
	n, err := tx.Exec(ctx, insertList, k.issuer[:], k.shard, l.kind, l.number, l.thisUpdate, l.nextUpdate, l.covers, l.regularNumber, l.regularUpdate,
		l.regularCovers, l.floor.update, l.floor.covers, l.due, bit(l.delta), l.size, l.signature, l.digest[:])
	return n == 1, err
}

func bit(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// store publishes l with its audit entry and reports whether it did.
func (s *Service) store(ctx context.Context, sc *scope, l *list) (stored bool, err error) {
	err = s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if stored, err = l.storeTx(ctx, tx, sc.key); err != nil || !stored {
			return err
		}
		return s.Audit.Append(ctx, tx, l.entry(sc.key))
	})
	if err != nil {
		return false, fmt.Errorf("storing a CRL: %w", err)
	}
	return stored, nil
}

// entry is what the record keeps of a published list: all that its row says.
func (l *list) entry(k scopeKey) audit.Entry {
	n := func(i int64) string { return strconv.FormatInt(i, 10) }
	signed := sha256.Sum256(l.signature)
	return audit.Entry{Action: "crl.publish", Actor: access.System("crl").String(), Object: k.issuer.String(), Detail: map[string]string{
		"shard": n(k.shard), "kind": n(l.kind), "number": n(l.number), "this_update": n(l.thisUpdate), "next_update": n(l.nextUpdate), "covers": n(l.covers),
		"regular_number": n(l.regularNumber), "regular_update": n(l.regularUpdate), "regular_covers": n(l.regularCovers), "floor_update": n(l.floor.update),
		"floor_covers": n(l.floor.covers), "due": n(l.due), "delta": n(bit(l.delta)), "size": n(l.size), "signature": hex.EncodeToString(signed[:]),
		"sha256": hex.EncodeToString(l.digest[:])}}
}
