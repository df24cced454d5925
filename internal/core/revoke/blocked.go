package revoke

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"

	"mooring/internal/base/db"
	"mooring/internal/core/audit"
)

// A key that was reported as compromised stays so, whoever brings it: who has it could ask for a certificate as well as the device. Each
// process keeps the hashes of all such keys, 32 octets each, so that an enrolment asks memory alone: it reads them when it starts, adds what it
// commits itself before the revocation returns, and what others commit when it reads their entries. What memory does not know yet the database
// tells: in the transaction that records a certificate, and, where others may commit at the same time, once more before it is released.

// blocked is the set of these hashes.
type blocked struct {
	mu        sync.RWMutex
	keys      map[[32]byte]struct{} // guarded by mu
	committed *db.Lookup[[32]byte, bool]
}

func (b *blocked) add(keys ...[32]byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.keys == nil {
		b.keys = make(map[[32]byte]struct{}, len(keys))
	}
	for _, k := range keys {
		b.keys[k] = struct{}{}
	}
}

// KeyBlocked reports whether the public key with this SHA-256 of its SubjectPublicKeyInfo was reported as compromised.
func (s *Service) KeyBlocked(hash [32]byte) bool {
	s.blocked.mu.RLock()
	defer s.blocked.mu.RUnlock()
	_, is := s.blocked.keys[hash]
	return is
}

// BlockedTx returns which of the keys are blocked in the state of the database that tx sees: also those that another node blocked a moment ago.
func (s *Service) BlockedTx(ctx context.Context, tx *db.Tx, hashes [][32]byte) (map[[32]byte]bool, error) {
	stmts, found := s.BlockedStmts(tx, hashes)
	if err := tx.Send(ctx, stmts...); err != nil {
		return nil, fmt.Errorf("reading which keys are blocked: %w", err)
	}
	return found, nil
}

// BlockedStmts returns BlockedTx as statements, to be sent together with others, and the map that they fill.
func (s *Service) BlockedStmts(tx *db.Tx, hashes [][32]byte) (stmts []*db.Stmt, found map[[32]byte]bool) {
	found = map[[32]byte]bool{}
	each := func(row db.Row) error {
		var spki []byte
		err := row.Scan(&spki)
		if err == nil && len(spki) == 32 {
			found[[32]byte(spki)] = true
		}
		return err
	}
	if tx.Arrays() {
		cells, spkis := make([]int16, len(hashes)), make([][]byte, len(hashes))
		for i := range hashes {
			cells[i], spkis[i] = int16(hashes[i][0]), hashes[i][:]
		}
		stmts = append(stmts, &db.Stmt{SQL: selectBlockedArray, Args: []any{cells, spkis}, Each: each})
	} else {
		for i := range hashes {
			stmts = append(stmts, &db.Stmt{SQL: selectBlocked, Args: []any{int64(hashes[i][0]), hashes[i][:]}, Each: each})
		}
	}
	return stmts, found
}

const (
	selectBlocked      = `SELECT spki FROM blocked_key WHERE cell = $1 AND spki = $2`
	selectBlockedArray = `SELECT b.spki FROM unnest($1::smallint[], $2::bytea[]) AS t(cell, spki) JOIN blocked_key b ON b.cell = t.cell AND b.spki = t.spki`
)

// BlockedNow is KeyBlocked by what is committed when it is called, on whatever node.
func (s *Service) BlockedNow(ctx context.Context, hash [32]byte) (bool, error) {
	if s.KeyBlocked(hash) {
		return true, nil
	}
	_, is, err := s.blocked.committed.Get(ctx, hash)
	return is, err
}

// blocks reports whether the change blocks the key. Of some certificates that have no row the key is not known.
func (o *outcome) blocks() bool {
	return o.changed && o.Reason == KeyCompromise && o.spki != [32]byte{}
}

// The first report of a key counts.
const insertBlocked = `INSERT INTO blocked_key (cell, spki, at, serial) VALUES ($1, $2, $3, $4) ON CONFLICT (cell, spki) DO NOTHING`

// blockTx blocks the keys of the changes, in the order of their hashes so that two transactions cannot wait for each other.
func (s *Service) blockTx(ctx context.Context, tx *db.Tx, list []outcome) error {
	var stmts []*db.Stmt
	var keys [][32]byte
	for i := range list {
		if o := &list[i]; o.blocks() {
			keys = append(keys, o.spki)
			stmts = append(stmts, &db.Stmt{SQL: insertBlocked, Args: []any{int64(o.spki[0]), o.spki[:], o.At, o.Serial}})
		}
	}
	if len(stmts) == 0 {
		return nil
	}
	slices.SortStableFunc(stmts, func(x, y *db.Stmt) int { return bytes.Compare(x.Args[1].([]byte), y.Args[1].([]byte)) })
	if err := tx.Send(ctx, stmts...); err != nil {
		return fmt.Errorf("blocking compromised keys: %w", err)
	}
	tx.OnCommit(func() { s.blocked.add(keys...) })
	return nil
}

// loadBlocked reads which keys are blocked.
func (s *Service) loadBlocked(ctx context.Context) error {
	var keys [][32]byte
	err := s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		keys = keys[:0]
		return tx.Each(ctx, func(row db.Row) error {
			var spki []byte
			if err := row.Scan(&spki); err != nil {
				return err
			}
			if len(spki) != 32 {
				return errors.New("a row of blocked_key is damaged: its hash has not 32 octets")
			}
			keys = append(keys, [32]byte(spki))
			return nil
		}, `SELECT spki FROM blocked_key`)
	})
	if err != nil {
		return fmt.Errorf("reading which keys are blocked: %w", err)
	}
	s.blocked.add(keys...)
	return nil
}

// follow adds the key of what somebody else, or this process, committed.
func (b *blocked) follow(ev *Event) {
	var hash [32]byte
	d := details{}
	if d.octets(ev.Key, hash[:]); d.err == nil && ev.Kind == Revoked && ev.Reason == KeyCompromise && hash != [32]byte{} {
		b.add(hash)
	}
}

// blockedDetail marks the entries of revocations that block the key, so that older ones, from before keys were blocked, are told apart.
const blockedDetail = "blocked"

// blocking is one entry that blocks a key.
type blocking struct {
	at     int64
	serial string
	index  int64
}

// blocks notes what an entry says of a blocked key.
func (c *checker) blocks(index int64, e *audit.Entry, r *Revocation) error {
	if e.Detail[blockedDetail] == "" {
		return nil
	}
	var hash [32]byte
	d := details{}
	if d.octets(e.Detail["spki"], hash[:]); d.err != nil {
		return d.err
	}
	c.blocked[hash] = append(c.blocked[hash], blocking{at: r.At, serial: string(r.Serial), index: index})
	return nil
}

// compareBlocked wants a row for each key, which says what one of its entries says: which of them was the first the record's order does not tell.
func (c *checker) compareBlocked(ctx context.Context, tx *db.Tx) error {
	met := map[[32]byte]bool{}
	err := tx.Each(ctx, func(row db.Row) error {
		var cell, at int64
		var spki, serial []byte
		if err := row.Scan(&cell, &spki, &at, &serial); err != nil {
			return err
		}
		var hash [32]byte
		copy(hash[:], spki)
		known := c.blocked[hash]
		switch same := func(b blocking) bool { return b.at == at && b.serial == string(serial) }; {
		case len(spki) != len(hash) || len(known) == 0:
			c.find("key %x: a row of blocked_key says that it is compromised, but no entry does", spki)
		case cell != int64(hash[0]) || !slices.ContainsFunc(known, same):
			c.find("key %x: its row of blocked_key differs from entry %d", spki, known[0].index)
		}
		met[hash] = true
		return nil
	}, `SELECT cell, spki, at, serial FROM blocked_key ORDER BY cell, spki`)
	if err != nil {
		return err
	}
	missing := [][32]byte{}
	for hash := range c.blocked {
		if !met[hash] {
			missing = append(missing, hash)
		}
	}
	slices.SortFunc(missing, func(x, y [32]byte) int { return bytes.Compare(x[:], y[:]) })
	for _, hash := range missing {
		c.find("key %s: its row of blocked_key (entry %d) is missing", hex.EncodeToString(hash[:]), c.blocked[hash][0].index)
	}
	return nil
}
