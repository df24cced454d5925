package aa

import (
	"context"
	"strconv"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/audit"
	"mooring/wire/its"
)

// tellMost is how many tickets are named in one transaction.
const tellMost = 500

const (
	insertUntold = `INSERT INTO v2x_untold (cell, hour, id, key) VALUES `
	selectUntold = `SELECT hour, id, key FROM v2x_untold WHERE cell = 0 AND hour < $1 ORDER BY hour, id LIMIT 500` // tellMost
	deleteUntold = `DELETE FROM v2x_untold WHERE cell = 0 AND hour = $1 AND id = $2`
	renewTickets = `UPDATE v2x_ticket SET ends = ends WHERE cell = 0 AND key = ANY($1)`
)

// named is a ticket that the record is to name.
type named struct {
	key []byte // as in v2x_ticket
	id  its.HashedId8
}

// issued is the entry for tickets at the moment when they are recorded: how many they are. Which they are would tell in what order they were issued, and that is the order of
// the enrolment authority's record, which names the vehicles.
func issued(n int, hour int64) audit.Entry {
	return audit.Entry{Action: "v2x.ticket", At: hour, Actor: "system:v2x", Detail: map[string]string{"tickets": strconv.Itoa(n)}}
}

// issuedTx records with the commit that tickets were issued, and which are to be named.
func (s *Service) issuedTx(tx *db.Tx, list []named, hour int64) error {
	s.Audit.Defer(tx, issued(len(list), hour))
	args := make([]any, 0, 3*len(list))
	for i := range list {
		var key []byte
		if tx.Arrays() {
			key = list[i].key
		}
		args = append(args, hour, list[i].id[:], key)
	}
	return db.Chunks(len(list), func(from, to int) error {
		tx.Defer(&db.Stmt{SQL: insertUntold + db.Values("0, ", 3, to-from), Args: args[3*from : 3*to]})
		return nil
	})
}

// Tell names in the record the tickets of hours that are over, in the order of their digests, which says nothing of when each was issued. Each is named once,
// whichever node does it. A row of PostgreSQL says by which transaction it was written: the rows of these tickets are written anew, so that it is this one.
func (s *Service) Tell(ctx context.Context) error {
	for {
		seen := 0
		if err := s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
			seen, err = s.tellTx(ctx, tx)
			return err
		}); err != nil || seen < tellMost {
			return err
		}
	}
}

func (s *Service) tellTx(ctx context.Context, tx *db.Tx) (seen int, err error) {
	type ticket struct {
		id, key []byte
		hour    int64
	}
	var list []ticket
	if err := tx.Each(ctx, func(r db.Row) error {
		var t ticket
		if err := r.Scan(&t.hour, &t.id, &t.key); err != nil {
			return err
		}
		if len(t.id) != len(its.HashedId8{}) {
			return errs.New(errs.Internal, "table v2x_untold: a row has no digest of a ticket")
		}
		list = append(list, t)
		return nil
	}, selectUntold, s.hour()); err != nil {
		return 0, err
	}
	var entries []audit.Entry
	var keys [][]byte
	for _, t := range list {
		n, err := tx.Exec(ctx, deleteUntold, t.hour, t.id)
		if err != nil {
			return 0, err
		}
		if n == 1 { // else another node was faster
			keys = append(keys, t.key)
			entries = append(entries, audit.Entry{Action: "v2x.issued", At: t.hour, Actor: "system:v2x", Object: its.HashedId8(t.id).String()})
		}
	}
	if len(entries) == 0 {
		return len(list), nil
	}
	if tx.Arrays() {
		if _, err := tx.Exec(ctx, renewTickets, keys); err != nil {
			return 0, err
		}
	}
	return len(list), s.Audit.Append(ctx, tx, entries...)
}
