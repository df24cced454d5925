package campaign

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/approve"
	"mooring/internal/core/audit"
)

const (
	columns = `id, name, turn, state, spec, maker, created, approval, started, elapsed, resumed, excused, note, ended, filled, cursor`
	selects = `SELECT ` + columns + ` FROM campaign WHERE cell = 0`
	insert  = `INSERT INTO campaign (cell, ` + columns + `) VALUES (0, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)`
	update  = `UPDATE campaign SET turn = $2 + 1, state = $3, approval = $4, started = $5, elapsed = $6, resumed = $7, excused = $8, note = $9, ended = $10
 WHERE cell = 0 AND id = $1 AND turn = $2`
	updateFill = `UPDATE campaign SET filled = $2, cursor = $3 WHERE cell = 0 AND id = $1 AND filled = 0 AND cursor = $4`
)

func (c *Campaign) scan(r db.Row, before ...any) error {
	var id, approval []byte
	var name, spec string
	var state, filled int64
	err := r.Scan(append(before, &id, &name, &c.turn, &state, &spec, &c.Maker, &c.Created, &approval, &c.Started, &c.Elapsed, &c.Resumed, &c.Excused, &c.Note, &c.Ended, &filled, &c.cursor)...)
	if err != nil {
		return err
	}
	if len(id) != len(c.ID) || len(approval) != 0 && len(approval) != len(c.Approval) {
		return fmt.Errorf("the row of campaign %x is damaged", id)
	}
	if err := json.Unmarshal([]byte(spec), &c.Spec); err != nil || c.Name != name {
		return fmt.Errorf("the row of campaign %x is damaged: its plan cannot be read", id)
	}
	c.ID, c.State, c.Filled = ID(id), State(state), filled == 1
	copy(c.Approval[:], approval)
	return nil
}

func readAll(ctx context.Context, tx *db.Tx, text string, args ...any) (list []Campaign, err error) {
	err = tx.Each(ctx, func(r db.Row) error {
		var c Campaign
		err := c.scan(r)
		list = append(list, c)
		return err
	}, text, args...)
	return list, err
}

// findTx returns the campaign with this name or id.
func findTx(ctx context.Context, tx *db.Tx, nameOrID string) (Campaign, error) {
	list, err := readAll(ctx, tx, selects+` AND name = $1`, nameOrID)
	if id, bad := hex.DecodeString(nameOrID); err == nil && len(list) == 0 && bad == nil && len(id) == len(ID{}) {
		list, err = readAll(ctx, tx, selects+` AND id = $1`, id)
	}
	if err != nil {
		return Campaign{}, fmt.Errorf("reading a campaign: %w", err)
	}
	if len(list) == 0 {
		return Campaign{}, errs.New(errs.NotFound, "there is no campaign %q", nameOrID[:min(len(nameOrID), 64)])
	}
	return list[0], nil
}

func (c *Campaign) approvalBytes() []byte {
	if c.Approval == (approve.ID{}) {
		return []byte{}
	}
	return c.Approval[:]
}

func (c *Campaign) add(ctx context.Context, tx *db.Tx) error {
	spec, err := c.text()
	if err != nil {
		return err
	}
	c.turn = 1
	_, err = tx.Exec(ctx, insert, c.ID[:], c.Name, c.turn, int64(c.State), spec, c.Maker, c.Created, c.approvalBytes(), c.Started, c.Elapsed, c.Resumed, c.Excused, c.Note, c.Ended, int64(0), "")
	return err
}

// write stores what became different about c, unless somebody else was faster.
func (c *Campaign) write(ctx context.Context, tx *db.Tx) error {
	n, err := tx.Exec(ctx, update, c.ID[:], c.turn, int64(c.State), c.approvalBytes(), c.Started, c.Elapsed, c.Resumed, c.Excused, c.Note, c.Ended)
	if err == nil && n != 1 {
		err = errs.New(errs.Conflict, "the campaign was changed at the same time; look at it again")
	}
	c.turn++
	return err
}

// mark is the digest of a row as the record holds it. How far the search for the devices has come is not in it.
func (c *Campaign) mark() string {
	spec, err := c.text()
	if err != nil {
		return ""
	}
	h := sha256.New()
	for _, text := range []string{string(c.ID[:]), spec, c.Maker, string(c.approvalBytes()), c.Note,
		fmt.Sprint(c.turn, c.State, c.Created, c.Started, c.Elapsed, c.Resumed, c.Excused, c.Ended)} {
		fmt.Fprintf(h, "%d:%s", len(text), text)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func (c *Campaign) object() string { return "campaign " + c.ID.String() }

// entry tells of a change that was written.
func (c *Campaign) entry(action string, actor access.Actor, now int64) audit.Entry {
	return audit.Entry{At: now, Action: action, Actor: actor.String(), Object: c.object(),
		Detail: map[string]string{"turn": strconv.FormatInt(c.turn, 10), "row": c.mark(), "state": c.State.String(), "note": c.Note}}
}
