package device

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/audit"
)

// Claim is the demand of enrolment to give a device a certificate, on the ground of what Load said about it.
type Claim struct {
	ID       ID
	Cell     uint8
	Policy   int64  // the device's policy number when it was decided
	Token    []byte // the hash of the token by which the device is let in; empty = not by token
	Slot     string
	Serial   []byte // of the new certificate
	Prev     []byte // of the certificate with which the device asked; empty = none of ours
	NotAfter int64  // UTC seconds
	SPKI     []byte // SHA-256
	Request  []byte // SHA-256
	At       int64  // UTC seconds
	Issuer   []byte // the id of the CA that signed it
	Key      string // the kind of its key, such as "ec-p256"
	// Rescue is set when the device asked by a certificate that has expired: the second that its last such rescue must lie before. 0 = it did not.
	Rescue int64

	Seen   int64 // how many certificates the device had had when it was decided; a guess that saves something when it is right
	Issued int64 // set by ClaimTx for an accepted claim: the number of this certificate among the device's, from 1
}

// Annotate adds to the entry "cert.issue" of an accepted claim what Checker needs to replay it: the slot, the order among the certificates
// of one device, the serial of the certificate that was presented, and whether a token was spent.
func (c *Claim) Annotate(e *audit.Entry) {
	if e.Detail == nil {
		e.Detail = map[string]string{}
	}
	e.Detail["slot"] = c.Slot
	e.Detail["n"] = strconv.FormatInt(c.Issued, 10)
	if c.Key != "" {
		e.Detail["key"] = c.Key
	}
	if len(c.Prev) > 0 {
		e.Detail["presented"] = hex.EncodeToString(c.Prev)
	}
	if len(c.Token) > 0 {
		e.Detail["token_at"] = strconv.FormatInt(c.At, 10)
		e.Detail["policy"] = strconv.FormatInt(c.Policy, 10)
	}
	if c.Rescue > 0 {
		e.Detail["rescued_at"] = strconv.FormatInt(c.At, 10)
	}
}

// The claim is lock and authorisation in one statement: the conditions sit on the row that it locks, so nothing can come between looking
// and acting. A read before it, or a condition on a joined table, would be a race. The array text serves PostgreSQL, the row text SQLite and
// small batches; a test holds them equal.
const (
	claimSet = `UPDATE device SET state = 2, issued = issued + 1, updated = $4, token_used = CASE WHEN $5 = 1 THEN $4 ELSE token_used END,
 rescued = CASE WHEN $7 > 0 THEN $4 ELSE rescued END
 WHERE cell = $1 AND id = $2 AND state IN (1, 2) AND policy = $3
 AND ($5 = 0 OR token = $6 AND token_used = 0 AND token_until > $4) AND ($7 = 0 OR rescued < $7)`
	claimRow = claimSet + `
RETURNING cell, id, issued`
	// In SQLite a row that is returned goes through a table of its own first, which is made and dropped for it. So it is asked only where the number
	// is another one than the claim says.
	claimSeen  = claimSet + ` AND issued = $8`
	claimArray = `UPDATE device AS d SET state = 2, issued = d.issued + 1, updated = t.at,
 token_used = CASE WHEN t.bytoken = 1 THEN t.at ELSE d.token_used END,
 rescued = CASE WHEN t.rescue > 0 THEN t.at ELSE d.rescued END
 FROM unnest($1::smallint[], $2::bytea[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bytea[], $7::bigint[])
 AS t(cell, id, policy, at, bytoken, token, rescue)
 WHERE d.cell = t.cell AND d.id = t.id AND d.state IN (1, 2) AND d.policy = t.policy
 AND (t.bytoken = 0 OR d.token = t.token AND d.token_used = 0 AND d.token_until > t.at)
 AND (t.rescue = 0 OR d.rescued < t.rescue)
RETURNING d.cell, d.id, d.issued`

	// The last condition makes a repetition harmless: prev_serial would else become the serial itself.
	slotRow = `INSERT INTO slot (cell, device, slot, serial, prev_serial, not_after, spki, request, revoked, fingerprint, issuer, alg)
 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, $9, $10, $11)` + slotConflict
	slotArray = `INSERT INTO slot (cell, device, slot, serial, prev_serial, not_after, spki, request, revoked, fingerprint, issuer, alg)
 SELECT t.cell, t.device, t.slot, t.serial, t.prev, t.not_after, t.spki, t.request, 0, t.fingerprint, t.issuer, t.alg
 FROM unnest($1::smallint[], $2::bytea[], $3::text[], $4::bytea[], $5::bytea[], $6::bigint[], $7::bytea[], $8::bytea[], $9::bytea[],
 $10::bytea[], $11::text[]) AS t(cell, device, slot, serial, prev, not_after, spki, request, fingerprint, issuer, alg)` + slotConflict
	slotConflict = ` ON CONFLICT (cell, device, slot) DO UPDATE SET serial = excluded.serial, prev_serial = excluded.prev_serial,
 not_after = excluded.not_after, spki = excluded.spki, request = excluded.request, revoked = 0,
 issuer = excluded.issuer, alg = excluded.alg
 WHERE slot.serial <> excluded.serial`
)

// rowsUpTo is the batch size up to which the row texts are used on PostgreSQL as well: the plan of a single row is cheaper.
const rowsUpTo = 3

// ClaimTx counts one more certificate for each device that may have it now: active, with the policy number of the claim, and, when it comes by
// token, with this token unspent, which is spent hereby. It returns one result per claim, nil for an accepted one, and sets Issued. claims
// holds every device at most once, in order of (cell, id). A refusal says what the device's own row says and nothing about others; one of
// kind Conflict means that the decision was overtaken: load the device and decide again. before are statements that travel ahead of the claims.
func (r *Registry) ClaimTx(ctx context.Context, tx *db.Tx, claims []Claim, before ...*db.Stmt) (refused []error, err error) {
	return r.claimTx(ctx, tx, claims, !tx.Arrays() || len(claims) <= rowsUpTo, before...)
}

func (r *Registry) claimTx(ctx context.Context, tx *db.Tx, claims []Claim, byRow bool, before ...*db.Stmt) (refused []error, err error) {
	place := make(map[ID]int, len(claims))
	for i := range claims {
		claims[i].Issued = 0
		place[claims[i].ID] = i
	}
	if len(place) != len(claims) {
		return nil, fmt.Errorf("claiming: a batch holds one device twice")
	}
	accepted := func(row db.Row) error {
		var cell, issued int64
		var id []byte
		if err := row.Scan(&cell, &id, &issued); err != nil {
			return err
		}
		claims[place[ID(id)]].Issued = issued
		return nil
	}
	if !tx.Arrays() {
		if err := claimAsSeen(ctx, tx, claims, before); err != nil {
			return nil, err
		}
		before = nil
	}
	stmts := claimStmts(claims, byRow)
	for _, s := range stmts {
		s.Each = accepted
	}
	if err := tx.Send(ctx, append(slices.Clip(before), stmts...)...); err != nil {
		return nil, err
	}
	refused = make([]error, len(claims))
	for i := range claims {
		if claims[i].Issued > 0 {
			continue
		}
		if refused[i], err = r.refusal(ctx, tx, &claims[i]); err != nil {
			return nil, err
		}
	}
	tx.OnCommit(func() { r.inv.claimed(claims) })
	return refused, nil
}

// claimAsSeen accepts the claims whose devices have had as many certificates as they say. Why another one was not accepted stays open.
func claimAsSeen(ctx context.Context, tx *db.Tx, claims []Claim, before []*db.Stmt) error {
	stmts := make([]*db.Stmt, len(claims))
	for i := range claims {
		stmts[i] = &db.Stmt{SQL: claimSeen, Args: append(claims[i].args(), claims[i].Seen)}
	}
	if err := tx.Send(ctx, append(slices.Clip(before), stmts...)...); err != nil {
		return err
	}
	for i, s := range stmts {
		if s.N == 1 {
			claims[i].Issued = claims[i].Seen + 1
		}
	}
	return nil
}

func (c *Claim) args() []any {
	return []any{int64(c.Cell), c.ID[:], c.Policy, c.At, c.byToken(), octets(c.Token), c.Rescue}
}

// claimStmts returns the statements for the claims that are not accepted yet; by arrays none is.
func claimStmts(claims []Claim, byRow bool) []*db.Stmt {
	if byRow {
		var stmts []*db.Stmt
		for i := range claims {
			if claims[i].Issued == 0 {
				stmts = append(stmts, &db.Stmt{SQL: claimRow, Args: claims[i].args()})
			}
		}
		return stmts
	}
	n := len(claims)
	cells, ids, policies, ats, flags, tokens, rescues := make([]int16, n), make([][]byte, n), make([]int64, n), make([]int64, n), make([]int64, n), make([][]byte, n), make([]int64, n)
	for i := range claims {
		c := &claims[i]
		cells[i], ids[i], policies[i], ats[i], flags[i], tokens[i], rescues[i] = int16(c.Cell), c.ID[:], c.Policy, c.At, c.byToken(), octets(c.Token), c.Rescue
	}
	return []*db.Stmt{{SQL: claimArray, Args: []any{cells, ids, policies, ats, flags, tokens, rescues}}}
}

func (c *Claim) byToken() int64 { return int64(min(len(c.Token), 1)) }

// refusal says why the claim was not accepted. The row is read in the same transaction; what it says can be newer than what the claim met,
// and then the answer is to look again.
func (r *Registry) refusal(ctx context.Context, tx *db.Tx, c *Claim) (refused, err error) {
	d, err := r.loadTx(ctx, tx, c.ID)
	switch {
	case errs.Is(err, errs.NotFound):
		return ErrTokenWrong, nil
	case err != nil:
		return nil, err
	case !d.State.Active():
		return StateRefusal(d.State), nil
	case d.Policy != c.Policy || len(c.Token) == 0:
		return errChanged, nil
	}
	if err := d.TokenMatches(c.Token, c.At); err != nil {
		return err, nil
	}
	return errChanged, nil
}

// StateRefusal is the refusal of a device that proved who it is but stands in a state in which it may not enrol.
func StateRefusal(s State) error {
	return errs.New(errs.Denied, "this device is %s: it may not enrol; ask its operator", s)
}

// SlotStmts returns the statements that put the certificates of accepted claims into their slots, with the serial with which the device
// asked kept beside: that certificate stays good, so an answer that is lost locks nobody out.
func (r *Registry) SlotStmts(tx *db.Tx, accepted []Claim) []*db.Stmt {
	return slotStmts(accepted, !tx.Arrays() || len(accepted) <= rowsUpTo)
}

func slotStmts(claims []Claim, byRow bool) []*db.Stmt {
	if len(claims) == 0 {
		return nil
	}
	none := []byte{}
	if byRow {
		stmts := make([]*db.Stmt, len(claims))
		for i := range claims {
			c := &claims[i]
			stmts[i] = &db.Stmt{SQL: slotRow, Args: []any{int64(c.Cell), c.ID[:], c.Slot, octets(c.Serial), octets(c.Prev), c.NotAfter, octets(c.SPKI), octets(c.Request), none, octets(c.Issuer), c.Key}}
		}
		return stmts
	}
	n := len(claims)
	cells, slots, ends, keys := make([]int16, n), make([]string, n), make([]int64, n), make([]string, n)
	ids, serials, prevs, spkis, requests, prints, issuers := make([][]byte, n), make([][]byte, n), make([][]byte, n), make([][]byte, n), make([][]byte, n), make([][]byte, n), make([][]byte, n)
	for i := range claims {
		c := &claims[i]
		cells[i], ids[i], slots[i], serials[i], prevs[i] = int16(c.Cell), c.ID[:], c.Slot, octets(c.Serial), octets(c.Prev)
		ends[i], spkis[i], requests[i], prints[i] = c.NotAfter, octets(c.SPKI), octets(c.Request), none
		issuers[i], keys[i] = octets(c.Issuer), c.Key
	}
	return []*db.Stmt{{SQL: slotArray, Args: []any{cells, ids, slots, serials, prevs, ends, spkis, requests, prints, issuers, keys}}}
}
