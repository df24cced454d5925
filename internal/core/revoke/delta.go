package revoke

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/wire/der"
)

// Delta returns the delta list (RFC 5280, section 5.2.4) that goes with the list that is published now: the changes since the last list that
// was made on schedule. It has the number and the scope of the full list, and is made when somebody asks for it. NotFound: delta lists are
// switched off, or the list is the complete one of a CA with shards, which has none.
func (s *Service) Delta(ctx context.Context, id ca.IssuerID, shard int64) (CRL, error) {
	if !s.DeltaLists {
		return CRL{}, errs.New(errs.NotFound, "delta lists are switched off: set crl.delta to have them")
	}
	sc, err := s.scopeAt(id, shard)
	if err != nil {
		return CRL{}, err
	}
	if sc.streamed() || sc.issuer.Key() == "" {
		return CRL{}, errs.New(errs.NotFound, "this list of CA %q has no delta list", sc.issuer.Name())
	}
	for range 3 {
		full, err := s.servable(ctx, sc)
		if err != nil {
			return CRL{}, err
		}
		if d := sc.delta.Load(); d != nil && d.number == full.number {
			return d.crl(sc.key), nil
		}
		d, changes, err := s.deltaTo(ctx, sc, full)
		if err == nil && changes > full.covers { // the rows have moved on: a newer list, which has them all, comes first
			_, err = s.listed(ctx, sc, func(l *list) bool { return l.covers >= changes })
		}
		if err != nil {
			return CRL{}, fmt.Errorf("making the delta list of %q: %w", sc.issuer.Name(), err)
		}
		if d != nil {
			return d.crl(sc.key), nil
		}
	}
	return CRL{}, errs.New(errs.Unavailable, "the delta list of %q could not be made: there were newer lists each time; try again", sc.issuer.Name())
}

// deltaTo loads or makes the delta list to full. It returns none when full is not the newest list any more, or does not show all of the changes
// that there are by now.
func (s *Service) deltaTo(ctx context.Context, sc *scope, full *list) (d *list, changes int64, err error) {
	if err := sc.lock(ctx); err != nil {
		return nil, 0, err
	}
	defer sc.unlock()
	d = &list{kind: built, number: full.number, thisUpdate: full.thisUpdate, nextUpdate: s.deltaUntil(full), regularNumber: full.regularNumber}
	entries, changes, err := s.readDelta(ctx, sc, full, d)
	if err != nil || changes > full.covers {
		return nil, changes, err
	}
	stored, digest := d.signature != nil, d.digest
	d.der, _, d.signature, err = assemble(s.deltaSpec(sc, d), nil, entries, func(tbs []byte) ([]byte, error) {
		if stored {
			return d.signature, nil
		}
		return s.signWith(ctx, sc.issuer, tbs)
	})
	if err != nil {
		return nil, 0, err
	}
	d.size, d.digest = int64(len(d.der)), sha256.Sum256(d.der)
	switch {
	case stored && d.digest != digest:
		return nil, 0, errs.New(errs.Unavailable, "the stored delta list %d is not what the rows make", d.number)
	case !stored:
		if stored, err = s.storeDelta(ctx, sc, d); err != nil || !stored {
			return nil, 0, err
		}
		s.counts.deltas.Add(1)
	}
	sc.delta.Store(d)
	return d, changes, nil
}

// deltaUntil is the end of a delta list: when the next base is there, with as long again for those who read it late.
func (s *Service) deltaUntil(full *list) int64 {
	refresh := int64(s.Refresh / time.Second)
	return min(full.nextUpdate, max(full.regularUpdate, full.thisUpdate)+refresh+refresh/2)
}

func (s *Service) deltaSpec(sc *scope, d *list) der.CRLSpec {
	spec := s.spec(sc, d)
	spec.DeltaBase = integer(d.regularNumber)
	return spec
}

// readDelta reads the entries, how many changes there are in all, and into d what is stored already.
func (s *Service) readDelta(ctx context.Context, sc *scope, full, d *list) (entries []byte, changes int64, err error) {
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		entries, d.signature, changes = nil, nil, 0
		if _, err := tx.Get(ctx, []any{&changes}, selectChanges, sc.key.issuer[:], sc.key.shard); err != nil {
			return err
		}
		var digest []byte
		found, err := tx.Get(ctx, []any{&d.signature, &digest}, `SELECT signature, digest FROM crl_delta WHERE cell = 0 AND issuer = $1 AND shard = $2 AND number = $3`,
			sc.key.issuer[:], sc.key.shard, d.number)
		if err != nil {
			return err
		}
		if found && len(digest) == len(d.digest) {
			d.digest = [32]byte(digest)
		}
		return tx.Each(ctx, func(row db.Row) error {
			var serial []byte
			var at, turn int64
			var reason Reason
			if err := row.Scan(&serial, &at, (*uint8)(&reason), &turn); err != nil {
				return err
			}
			// A hold that was lifted is told as removeFromCRL, also when the base does not have it: a later full list may have been read.
			entries, err = der.AppendCRLEntry(entries, ca.ShownSerial(serial), min(at, full.thisUpdate), int(reason))
			return err
		}, selectNew, sc.key.issuer[:], sc.key.shard, full.regularCovers, full.covers)
	})
	return entries, changes, err
}

// storeDelta records the delta list and reports whether it did: not when a newer list is published, or somebody was faster.
func (s *Service) storeDelta(ctx context.Context, sc *scope, d *list) (stored bool, err error) {
	err = s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		now, err := readListTx(ctx, tx, sc.key)
		if stored = err == nil && now != nil && now.number == d.number; err != nil || !stored {
			return err
		}
		n, err := tx.Exec(ctx, `INSERT INTO crl_delta (cell, issuer, shard, number, signature, digest) VALUES (0, $1, $2, $3, $4, $5)
 ON CONFLICT (cell, issuer, shard) DO UPDATE SET number = excluded.number, signature = excluded.signature, digest = excluded.digest
 WHERE crl_delta.number < excluded.number`, sc.key.issuer[:], sc.key.shard, d.number, d.signature, d.digest[:])
		if stored = n == 1; err != nil || !stored {
			return err
		}
		return s.Audit.Append(ctx, tx, deltaEntry(sc.key, d))
	})
	if err != nil {
		return false, fmt.Errorf("storing a delta list: %w", err)
	}
	return stored, nil
}

func deltaEntry(k scopeKey, d *list) audit.Entry {
	n := func(i int64) string { return strconv.FormatInt(i, 10) }
	signed := sha256.Sum256(d.signature)
	return audit.Entry{Action: "crl.delta", Actor: access.System("crl").String(), Object: k.issuer.String(), Detail: map[string]string{
		"shard": n(k.shard), "number": n(d.number), "base": n(d.regularNumber), "signature": hex.EncodeToString(signed[:]), "sha256": hex.EncodeToString(d.digest[:])}}
}

// deltaAddress is where the delta list to a list is published, "" when no address is configured.
func (s *Service) deltaAddress(sc *scope) string {
	full, ok := strings.CutSuffix(s.CA.CRLAddress(sc.key.issuer, sc.key.shard), ".crl")
	if !ok {
		return ""
	}
	return full + ".delta.crl"
}
