package revoke

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/job"
)

// stepRevoke revokes some hundred certificates in the transaction that moves the job on.
func (b *Bulk) stepRevoke(ctx context.Context, batch *job.Batch) error {
	var what params
	if err := what.read(&batch.Job); err != nil {
		return err
	}
	brief, err := b.brief(ctx, batch.Items)
	if err != nil {
		return err
	}
	refused, heirs, err := b.untouchable(ctx, batch, brief, what.Reason)
	if err != nil {
		return err
	}
	var changed []Revocation
	err = batch.Commit(ctx, func(ctx context.Context, tx *db.Tx) (o job.Outcome, err error) {
		changed = nil
		certs, err := b.CA.GetManyTx(ctx, tx, batch.Items)
		if err != nil {
			return o, err
		}
		there := make([]*ca.Certificate, 0, len(certs))
		for i, c := range certs {
			if c == nil {
				c = brief[string(batch.Items[i])]
			}
			if c == nil {
				o.Results = append(o.Results, job.Result{Item: hex.EncodeToString(batch.Items[i]), Text: "the certificate is not kept any more"})
				continue
			}
			if text := refused[c.Serial]; text != "" {
				o.Results = append(o.Results, job.Result{Item: hex.EncodeToString(batch.Items[i]), Text: text})
				continue
			}
			there = append(there, c)
		}
		outcomes, err := b.changeManyTx(ctx, tx, batch.Job.Maker, there, what.Reason, false)
		if err != nil {
			return o, err
		}
		changed = only(outcomes)
		o.Done = named(batch.Items, changed)
		o.Skipped = int64(len(there)) - o.Done
		return o, b.keepTx(ctx, tx, heirs)
	})
	if err != nil {
		return err
	}
	b.note(ctx, batch.Job.ID, changed)
	return nil
}

// brief returns what is known of the certificates that are not kept: what their short rows say, and of those that have ended or are older than such
// rows, the record. It never changes, so it need not be read in the transaction.
func (b *Bulk) brief(ctx context.Context, serials [][]byte) (map[string]*ca.Certificate, error) {
	known := map[string]*ca.Certificate{}
	err := b.DB.View(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		known, err = b.CA.BriefManyTx(ctx, tx, serials)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, serial := range serials {
		if ca.KeptAs(serial) != ca.Brief || known[string(serial)] != nil {
			continue
		}
		c, err := b.CA.Known(ctx, serial)
		if err == nil {
			known[string(serial)] = c
		} else if !errs.Is(err, errs.NotFound) {
			return nil, err
		}
	}
	return known, nil
}

// named counts which of the changed certificates are items.
func named(items [][]byte, changed []Revocation) (n int64) {
	meant := make(map[string]bool, len(items))
	for _, serial := range items {
		meant[string(serial)] = true
	}
	for i := range changed {
		if meant[string(changed[i].Serial)] {
			n++
		}
	}
	return n
}

// only returns what was changed.
func only(outcomes []outcome) (changed []Revocation) {
	for _, o := range outcomes {
		if o.changed {
			changed = append(changed, o.Revocation)
		}
	}
	return changed
}

// changeManyTx is changeTx for certificates of many devices: the devices are locked in the order in which enrolment locks them, then the
// lists, and the entries are recorded together. Of compromised keys it takes the devices' other certificates along, as concernedTx does for
// one: whoever has a key has all certificates of it, also those that were got after a job was looked at.
func (b *Bulk) changeManyTx(ctx context.Context, tx *db.Tx, actor access.Actor, certs []*ca.Certificate, to Reason, byDevice bool) ([]outcome, error) {
	m := &many{Bulk: b, tx: tx, actor: actor, to: to, byDevice: byDevice, now: b.Now().Unix()}
	certs = slices.Clone(certs)
	slices.SortStableFunc(certs, byDeviceID)
	if err := m.take(ctx, certs); err != nil {
		return nil, err
	}
	if to == KeyCompromise && !byDevice {
		more, err := m.ofSameKeys(ctx)
		if err != nil {
			return nil, err
		}
		if err := m.take(ctx, more); err != nil {
			return nil, err
		}
	}
	return m.list, m.write(ctx, actor)
}

// byDeviceID orders certificates as enrolment locks their devices.
func byDeviceID(x, y *ca.Certificate) int {
	return cmp.Or(cmp.Compare(x.Cell, y.Cell), bytes.Compare(x.Device[:], y.Device[:]))
}

// many is a change of many certificates.
type many struct {
	*Bulk
	tx       *db.Tx
	actor    access.Actor
	to       Reason
	byDevice bool
	now      int64
	certs    []*ca.Certificate
	list     []outcome
	issued   map[device.ID]int64 // certificates so far, of the devices that were locked
}

// take decides what becomes of the certificates and marks their devices, which locks them: also those of which nothing is marked, when more of
// theirs may be concerned.
func (m *many) take(ctx context.Context, certs []*ca.Certificate) error {
	rows, err := readManyTx(ctx, m.tx, certs)
	if err != nil {
		return err
	}
	var marks []device.Marked
	for i, c := range certs {
		o, err := next(rows[i], c, m.to, m.byDevice, m.now)
		if err != nil {
			return err
		}
		if o.spki = c.SPKIHash; o.changed {
			if o.Shard, err = m.shardOf(c); err != nil {
				return err
			}
		}
		mark, ok := markOf(c, m.to, o.At)
		if !o.changed {
			mark.Slot, mark.At, ok = "", m.now, ok && m.to == KeyCompromise
		}
		if ok {
			marks = append(marks, mark)
		}
		m.certs, m.list = append(m.certs, c), append(m.list, o)
	}
	issued, err := m.Devices.SlotsRevokedTx(ctx, m.tx, marks)
	if err != nil {
		return fmt.Errorf("marking the devices of certificates: %w", err)
	}
	if m.issued == nil {
		m.issued = make(map[device.ID]int64, len(marks))
	}
	for i := range marks {
		m.issued[marks[i].ID] = issued[i]
	}
	return nil
}

// ofSameKeys returns the other certificates of the same keys that the devices have.
func (m *many) ofSameKeys(ctx context.Context) (more []*ca.Certificate, err error) {
	meant, keys := make(map[[16]byte]bool, len(m.certs)), map[device.ID]map[[32]byte]bool{}
	var ids []device.ID
	for _, c := range m.certs {
		meant[c.Serial] = true
		if m.issued[c.Device] < 2 {
			continue
		}
		if keys[c.Device] == nil {
			keys[c.Device] = map[[32]byte]bool{}
			ids = append(ids, c.Device)
		}
		keys[c.Device][c.SPKIHash] = true
	}
	devices, err := m.Devices.LoadManyTx(ctx, m.tx, ids)
	if err != nil {
		return nil, fmt.Errorf("reading the devices of certificates: %w", err)
	}
	for _, id := range ids {
		d := devices[id]
		all, err := m.certificatesTx(ctx, m.tx, &d, nil)
		if err != nil {
			return nil, err
		}
		for _, c := range m.live(all) {
			if keys[id][c.SPKIHash] && !meant[c.Serial] && m.withinPower(m.actor, []*ca.Certificate{c}) == nil {
				more = append(more, c)
			}
		}
	}
	return more, nil
}

// write numbers the changes, which locks their lists, and writes and records them.
func (m *many) write(ctx context.Context, actor access.Actor) error {
	if err := numberTx(ctx, m.tx, m.list); err != nil {
		return fmt.Errorf("numbering the changes of a list: %w", err)
	}
	var entries []audit.Entry
	var writes []*db.Stmt
	for i := range m.list {
		if m.list[i].changed {
			writes = append(writes, writeStmt(m.certs[i].Cell, &m.list[i].Revocation))
			entries = append(entries, m.list[i].entry(actor))
		}
	}
	n := int64(len(writes))
	if m.tx.Arrays() && n > 1 {
		writes = []*db.Stmt{writeArray(writes)}
	}
	if err := m.tx.Send(ctx, writes...); err != nil {
		return fmt.Errorf("writing revocations: %w", err)
	}
	for _, s := range writes {
		n -= s.N
	}
	if n != 0 {
		return errOvertaken
	}
	if err := m.blockTx(ctx, m.tx, m.list); err != nil {
		return err
	}
	list := m.list
	m.countOnCommit(m.tx, list)
	m.tx.OnCommit(func() { m.changed(list) })
	return m.Audit.Append(ctx, m.tx, entries...)
}

const writeRevokedArray = `INSERT INTO revoked (cell, serial, ` + revokedColumns + `) SELECT * FROM
 unnest($1::smallint[], $2::bytea[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bytea[], $9::bigint[], $10::bigint[], $11::bigint[])` + writeConflict

// writeArray makes one statement of those of writeStmt.
func writeArray(writes []*db.Stmt) *db.Stmt {
	columns := make([][]any, len(writes[0].Args))
	for _, s := range writes {
		for i, v := range s.Args {
			columns[i] = append(columns[i], v)
		}
	}
	out := &db.Stmt{SQL: writeRevokedArray}
	for _, c := range columns {
		out.Args = append(out.Args, array(c))
	}
	return out
}

// array gives values of one type that type again.
func array(values []any) any {
	if _, number := values[0].(int64); !number {
		return typed[[]byte](values)
	}
	return typed[int64](values)
}

func typed[T any](values []any) []T {
	list := make([]T, len(values))
	for i, v := range values {
		list[i] = v.(T)
	}
	return list
}

// stepMove moves some hundred devices, and does to their certificates what goes with it, in the transaction that moves the job on.
func (b *Bulk) stepMove(ctx context.Context, batch *job.Batch) error {
	var what params
	if err := what.read(&batch.Job); err != nil {
		return err
	}
	move := device.Move(what.Move)
	to, err := forMove(move, what.Reason)
	if err != nil {
		return err
	}
	page, refused, err := b.movable(ctx, batch, move)
	if err != nil {
		return err
	}
	found, err := b.held(ctx, batch.Job.Maker, page)
	if err != nil {
		return err
	}
	left, err := b.spared(ctx, batch.Job.Maker, page, found, move)
	if err != nil {
		return err
	}
	page, refused = left.keep, append(refused, left.refused...)
	var changed []Revocation
	err = batch.Commit(ctx, func(ctx context.Context, tx *db.Tx) (job.Outcome, error) {
		o := job.Outcome{Results: slices.Clone(refused)}
		var certs []*ca.Certificate
		for i := range page {
			held, err := b.moveTx(ctx, tx, batch.Job.Maker, page[i].ID, move, to, found[page[i].ID])
			if errs.Is(err, errs.Conflict) || errs.Is(err, errs.NotFound) {
				o.Results = append(o.Results, job.Result{Item: page[i].ID.String(), Text: errs.Public(err)})
				continue
			}
			if err != nil {
				return o, err
			}
			o.Done++
			certs = append(certs, held...)
		}
		outcomes, err := b.changeManyTx(ctx, tx, batch.Job.Maker, certs, to, true)
		if changed = only(outcomes); err != nil {
			return o, err
		}
		return o, b.keepTx(ctx, tx, left.heirs)
	})
	if err != nil {
		return err
	}
	b.note(ctx, batch.Job.ID, changed)
	return nil
}

// movable returns the devices of the batch as they are now, and those of which it is clear that they will not be moved.
func (b *Bulk) movable(ctx context.Context, batch *job.Batch, move device.Move) (page []device.Device, refused []job.Result, err error) {
	for _, item := range batch.Items {
		if len(item) != len(device.ID{}) {
			return nil, nil, fmt.Errorf("an item of a job is no id of a device: %x", item)
		}
		id := device.ID(item)
		d, err := b.Devices.Load(ctx, id)
		if err == nil {
			err = b.Devices.AllowMove(ctx, batch.Job.Maker, id, move)
		}
		switch {
		case errs.Is(err, errs.NotFound), errs.Is(err, errs.Denied):
			refused = append(refused, job.Result{Item: id.String(), Text: errs.Public(err)})
		case err != nil:
			return nil, nil, err
		default:
			page = append(page, d)
		}
	}
	return page, refused, nil
}

// moveTx moves one device and returns its certificates. A move that its state does not allow leaves nothing but a raised policy number, which
// does no harm.
func (b *Bulk) moveTx(ctx context.Context, tx *db.Tx, actor access.Actor, id device.ID, move device.Move, to Reason, found []*ca.Certificate) ([]*ca.Certificate, error) {
	if err := b.Devices.SlotRevokedTx(ctx, tx, id, "", nil, b.Now().Unix()); err != nil { // the lock, as in moveAll
		return nil, err
	}
	d, err := b.Devices.MoveTx(ctx, tx, actor, id, move, to.forPeople())
	if err != nil {
		return nil, err
	}
	certs, err := b.certificatesTx(ctx, tx, &d, found)
	if err != nil {
		return nil, err
	}
	return b.live(certs), nil
}

// note remembers what the lists do not show yet, and lets nobody be told "good" any more.
func (b *Bulk) note(ctx context.Context, id job.ID, changed []Revocation) {
	b.renewAnswersOf(ctx, changed)
	b.mu.Lock()
	defer b.mu.Unlock()
	w := b.behind[id]
	if w == nil {
		w = &behind{}
		b.behind[id] = w
	}
	for _, r := range changed {
		i := slices.IndexFunc(w.changed, func(known Revocation) bool { return known.scope() == r.scope() })
		switch {
		case i < 0:
			w.changed = append(w.changed, r)
		case w.changed[i].change < r.change:
			w.changed[i] = r
		}
	}
}

// The lists of a job are made at its end and now and then before it: not more often than each second, and so that the making takes no more than
// a fifth of the time. A list of millions of entries is signed a few times and not thousands of times.
const (
	publishLeast = time.Second
	publishShare = 5
)

// rest makes the lists for what the steps of a job have changed. At the end of a job, or of a part of it, it makes all that are behind: this
// node may have gone on with what another one, or itself before a crash, began.
func (b *Bulk) rest(ctx context.Context, j job.Job, last bool) {
	changed, due := b.due(j.ID, last)
	if last {
		if err := b.eachBehind(ctx, func(k scopeKey, changes int64) {
			changed = append(changed, Revocation{Issuer: k.issuer, Shard: k.shard, change: changes})
		}); err != nil {
			b.Log.LogAttrs(ctx, slog.LevelWarn, "the lists of a job are left to the regular work", slog.Any("cause", err))
		}
	}
	if !due && !last || len(changed) == 0 {
		return
	}
	began := b.Now()
	b.makeVisible(ctx, changed) // what it cannot make in time, Run makes
	b.mu.Lock()
	defer b.mu.Unlock()
	if w := b.behind[j.ID]; w != nil {
		w.took = b.Now().Sub(began)
	}
}

// due takes out what the lists do not show, when it is time to make them.
func (b *Bulk) due(id job.ID, last bool) ([]Revocation, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := b.behind[id]
	if w == nil {
		return nil, false
	}
	if last {
		delete(b.behind, id)
		return w.changed, true
	}
	now := b.Now()
	if len(w.changed) == 0 || now.Sub(w.since) < max(publishLeast, publishShare*w.took) {
		return nil, false
	}
	changed := w.changed
	w.changed, w.since = nil, now
	return changed, true
}
