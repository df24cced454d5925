package revoke

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
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
	DER                    []byte
	Number                 int64
	ThisUpdate, NextUpdate int64 // UTC seconds
	Digest                 [32]byte
}

// CRL returns the list of a CA that is published now; one that is not there yet, or no longer valid, is made. When that fails because the key
// or the store is unavailable, an expired list is returned rather than none. A CA that does not exist is NotFound.
func (s *Service) CRL(ctx context.Context, id ca.IssuerID) (CRL, error) {
	sc, err := s.scopeOf(scopeKey{issuer: id})
	if err != nil {
		return CRL{}, err
	}
	l := sc.current.Load()
	if l == nil || l.nextUpdate <= s.Now().Unix() {
		made, err := s.listed(ctx, sc, func(l *list) bool { return l.nextUpdate > s.Now().Unix() })
		if made == nil && l == nil {
			return CRL{}, err
		}
		if made != nil {
			l = made
		}
	}
	return CRL{DER: l.der, Number: l.number, ThisUpdate: l.thisUpdate, NextUpdate: l.nextUpdate, Digest: l.digest}, nil
}

// list is one published CRL with what the next one must know. It never changes.
type list struct {
	number                 int64
	thisUpdate, nextUpdate int64
	covers                 int64 // changes up to this one are in it
	// Of the last list that was made on schedule and not because of a change: an expired certificate's entry may leave only after it was on
	// such a list that was issued after its expiry (RFC 5280, section 3.3).
	regularUpdate, regularCovers int64
	digest                       [32]byte
	der                          []byte
}

// scope is one list in the making.
type scope struct {
	key     scopeKey
	issuer  *ca.Issuer
	current atomic.Pointer[list] // the newest published list that this node knows; nil before it looked

	making chan struct{} // holds the token of whoever makes or loads a list; it guards what follows
	// entries are the encoded entries of all changes up to covers. Keeping them makes the cost of a revocation independent of how many
	// there were before.
	entries []byte
	covers  int64
	loaded  bool
	rested  time.Duration // how long to rest after the last list
	made    time.Time     // when that was

	seen atomic.Int64 // changes of which the cache of OCSP answers was told
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
	s.mu.Lock()
	defer s.mu.Unlock()
	if sc = s.scopes[k]; sc == nil {
		sc = &scope{key: k, issuer: issuer, making: make(chan struct{}, 1)}
		s.scopes[k] = sc
	}
	return sc, nil
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
	select {
	case sc.making <- struct{}{}:
	case <-ctx.Done():
		return nil, errs.Wrap(errs.Unavailable, ctx.Err(), "waiting for a CRL was given up")
	}
	defer func() { <-sc.making }()
	l := sc.current.Load()
	if l == nil {
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
func (s *Service) regular(l *list) bool {
	now := s.Now().Unix()
	return now >= l.regularUpdate+int64(s.Refresh/time.Second) || now >= l.thisUpdate+(l.nextUpdate-l.thisUpdate)/2
}

// publish makes one list and stores it, and returns the newest stored one, which is another node's when that was faster. The caller holds
// sc.making.
func (s *Service) publish(ctx context.Context, sc *scope, regular bool) (*list, error) {
	if err := sc.rest(ctx, s.Now()); err != nil {
		return nil, err
	}
	began := s.Now()
	draft, err := s.reserve(ctx, sc, regular)
	if err != nil {
		return nil, err
	}
	l, err := s.sign(ctx, sc, draft)
	if err != nil {
		return nil, err
	}
	stored, err := s.store(ctx, sc, l)
	if err != nil {
		return nil, err
	}
	sc.made = s.Now()
	sc.rested = min(3*sc.made.Sub(began), maxRest)
	if !stored {
		return s.load(ctx, sc)
	}
	s.counts.lists.Add(1)
	sc.adopt(l)
	return l, nil
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

const listColumns = `number, this_update, next_update, covers, regular_update, regular_covers`

// scan reads listColumns and, into more, what follows them.
func (l *list) scan(row db.Row, more ...any) error {
	return row.Scan(append([]any{&l.number, &l.thisUpdate, &l.nextUpdate, &l.covers, &l.regularUpdate, &l.regularCovers}, more...)...)
}

// load reads the published list, adopts it and returns it, nil when there is none.
func (s *Service) load(ctx context.Context, sc *scope) (*list, error) {
	var l *list
	err := s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		l = nil
		return tx.Each(ctx, func(row db.Row) error {
			l = &list{}
			var digest []byte
			if err := l.scan(row, &digest, &l.der); err != nil {
				return err
			}
			l.digest = sha256.Sum256(l.der)
			if string(digest) != string(l.digest[:]) {
				return fmt.Errorf("the stored CRL %d of %q is damaged: its digest is another", l.number, sc.issuer.Name())
			}
			return nil
		}, `SELECT `+listColumns+`, digest, der FROM crl WHERE cell = 0 AND issuer = $1 AND shard = $2`, sc.key.issuer[:], sc.key.shard)
	})
	if err != nil || l == nil {
		return nil, err
	}
	sc.adopt(l)
	return l, nil
}

// draft is what a list is made of: a number that no other list will have, and what is new.
type draft struct {
	list          // number, covers and the regular fields
	now     int64 // no entry may be later
	fresh   bool  // entries are all that belong on the list, not only what is new
	entries []byte
	lifted  [][]byte // serials whose entries must go before entries are appended
}

const (
	// reserveNumber gives out the next number, at least the present second.
	reserveNumber = `INSERT INTO crl_scope (cell, issuer, shard, changes, number) VALUES (0, $1, $2, 0, $3) ON CONFLICT (cell, issuer, shard)
 DO UPDATE SET number = CASE WHEN crl_scope.number >= excluded.number THEN crl_scope.number + 1 ELSE excluded.number END RETURNING number, changes`

	selectPrevious = `SELECT ` + listColumns + ` FROM crl WHERE cell = 0 AND issuer = $1 AND shard = $2`

	// selectNew is what changed after $3.
	selectNew = `SELECT serial, at, reason, turn FROM revoked WHERE issuer = $1 AND crl_shard = $2 AND change > $3 ORDER BY change`

	// selectAll leaves out what has expired before the last regular list and was on it.
	selectAll = `SELECT serial, at, reason, turn FROM revoked WHERE issuer = $1 AND crl_shard = $2 AND reason <> 8 AND (not_after >= $3 OR change > $4)
 ORDER BY change`
)

// reserve takes a number and reads, under the lock of the list's row, what belongs on the list of that number.
func (s *Service) reserve(ctx context.Context, sc *scope, regular bool) (*draft, error) {
	var d *draft
	err := s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		d = &draft{now: s.Now().Unix(), fresh: regular || !sc.loaded}
		if _, err := tx.Get(ctx, []any{&d.number, &d.covers}, reserveNumber, sc.key.issuer[:], sc.key.shard, d.now); err != nil {
			return err
		}
		var was list
		if err := tx.Each(ctx, func(row db.Row) error { return was.scan(row) }, selectPrevious, sc.key.issuer[:], sc.key.shard); err != nil {
			return err
		}
		d.thisUpdate = max(d.now, was.thisUpdate) // a clock that was put back must not make lists older
		d.nextUpdate = d.thisUpdate + int64(s.Validity/time.Second)
		d.regularUpdate, d.regularCovers = was.regularUpdate, was.regularCovers
		if regular {
			d.regularUpdate, d.regularCovers = d.thisUpdate, d.covers
		}
		if d.fresh {
			return tx.Each(ctx, d.add, selectAll, sc.key.issuer[:], sc.key.shard, was.regularUpdate, was.regularCovers)
		}
		return tx.Each(ctx, d.add, selectNew, sc.key.issuer[:], sc.key.shard, sc.covers)
	})
	if err != nil {
		return nil, fmt.Errorf("reserving a CRL number: %w", err)
	}
	return d, nil
}

// add encodes one row of revoked. Only a row that was written more than once can have an entry already.
func (d *draft) add(row db.Row) (err error) {
	var serial []byte
	var at, turn int64
	var reason Reason
	if err := row.Scan(&serial, &at, (*uint8)(&reason), &turn); err != nil {
		return err
	}
	if turn > 1 && !d.fresh {
		d.lifted = append(d.lifted, serial)
	}
	if reason == released {
		return nil
	}
	// Another node's clock may be ahead; an entry later than its list would be wrong.
	d.entries, err = der.AppendCRLEntry(d.entries, serial, min(at, d.thisUpdate), int(reason))
	return err
}

// sign completes the draft.
func (s *Service) sign(ctx context.Context, sc *scope, d *draft) (*list, error) {
	if d.fresh {
		sc.entries, sc.loaded = d.entries, true
	} else {
		sc.lift(d.lifted)
		sc.entries = append(sc.entries, d.entries...)
	}
	sc.covers = d.covers
	cert := sc.issuer.Certificate()
	// The list holds everything that the CA revoked, so it has no issuingDistributionPoint (RFC 5280, section 5.2.5): with one, verifiers would
	// not use it for certificates that name another place or none. Shards will need one each.
	spec := der.CRLSpec{Algorithm: sc.issuer.Algorithm(), Issuer: cert.RawSubject, AKI: cert.SubjectKeyId, Number: integer(d.number),
		ThisUpdate: d.thisUpdate, NextUpdate: d.nextUpdate}
	tbs, err := der.AppendCRLTBS(make([]byte, 0, len(sc.entries)+1024), spec, sc.entries)
	if err != nil {
		return nil, fmt.Errorf("encoding a CRL: %w", err)
	}
	signature, err := s.signWith(ctx, sc.issuer, tbs)
	if err != nil {
		return nil, err
	}
	l := d.list
	l.der = der.Wrap(make([]byte, 0, len(tbs)+len(signature)+64), tbs, sc.issuer.Algorithm(), signature)
	l.digest = sha256.Sum256(l.der)
	return &l, nil
}

// signWith signs with the key of a CA. A key that does not sign is Unavailable.
func (s *Service) signWith(ctx context.Context, i *ca.Issuer, message []byte) ([]byte, error) {
	signer, err := s.Keys.Signer(ctx, i.Key())
	if err != nil {
		if errs.Is(err, errs.Unavailable) { // the store's own text names files, and anybody may ask for a list
			err = errs.Wrap(errs.Unavailable, err, "the CA cannot sign at present: its key is not to be had; an administrator must look at the key store")
		}
		return nil, fmt.Errorf("fetching the key of CA %q: %w", i.Name(), err)
	}
	signature, err := signer.Sign(rand.Reader, i.Algorithm().Digest(message), i.Algorithm().Hash())
	if err != nil && errs.KindOf(err) == errs.Internal {
		return nil, errs.Wrap(errs.Unavailable, err, "the CA's key does not sign at present")
	}
	return signature, err
}

// lift takes the entries of the serials out. A serial of ours contains 80 random bits, so that its encoding stands nowhere else.
func (sc *scope) lift(serials [][]byte) {
	for _, serial := range serials {
		pattern := der.AppendElement(nil, 0x02, serial)
		at := bytes.Index(sc.entries, pattern)
		if at < 2 {
			continue
		}
		// An entry is a SEQUENCE of less than 128 octets: its length is the octet before the serial number.
		start, end := at-2, at+int(sc.entries[at-1])
		sc.entries = slices.Delete(sc.entries, start, end)
	}
}

// integer is the content of a positive INTEGER.
func integer(n int64) []byte {
	var b []byte
	for ; n > 0; n >>= 8 {
		b = append([]byte{byte(n)}, b...)
	}
	if len(b) == 0 || b[0] > 0x7f {
		b = append([]byte{0}, b...)
	}
	return b
}

const insertList = `INSERT INTO crl (cell, issuer, shard, ` + listColumns + `, digest, der) VALUES (0, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
 ON CONFLICT (cell, issuer, shard) DO UPDATE SET number = excluded.number, this_update = excluded.this_update, next_update = excluded.next_update,
 covers = excluded.covers, regular_update = excluded.regular_update, regular_covers = excluded.regular_covers, digest = excluded.digest,
 der = excluded.der WHERE crl.number < excluded.number AND crl.this_update <= excluded.this_update`

// store publishes l with its audit entry and reports whether it did: not when a newer list is there, or one with a later time.
func (s *Service) store(ctx context.Context, sc *scope, l *list) (stored bool, err error) {
	err = s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		n, err := tx.Exec(ctx, insertList, sc.key.issuer[:], sc.key.shard, l.number, l.thisUpdate, l.nextUpdate, l.covers, l.regularUpdate, l.regularCovers,
			l.digest[:], l.der)
		if stored = n == 1; err != nil || !stored {
			return err
		}
		return s.Audit.Append(ctx, tx, l.entry(sc.key))
	})
	if err != nil {
		return false, fmt.Errorf("storing a CRL: %w", err)
	}
	return stored, nil
}

// entry is what the record keeps of a published list.
func (l *list) entry(k scopeKey) audit.Entry {
	n := func(i int64) string { return strconv.FormatInt(i, 10) }
	return audit.Entry{Action: "crl.publish", Actor: access.System("crl").String(), Object: k.issuer.String(), Detail: map[string]string{
		"shard": n(k.shard), "number": n(l.number), "this_update": n(l.thisUpdate), "next_update": n(l.nextUpdate), "covers": n(l.covers),
		"regular_update": n(l.regularUpdate), "regular_covers": n(l.regularCovers), "sha256": hex.EncodeToString(l.digest[:])}}
}
