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
			there = append(there, c)
		}
		items := int64(len(there))
		if what.Reason == KeyCompromise {
			more, err := b.sameKeyTx(ctx, tx, there)
			if err != nil {
				return o, err
			}
			there = append(there, more...)
		}
		outcomes, err := b.changeManyTx(ctx, tx, batch.Job.Maker, there, what.Reason, false)
		if err != nil {
			return o, err
		}
		changed = only(outcomes)
		o.Done = named(batch.Items, changed)
		o.Skipped = items - o.Done
		return o, nil
	})
	if err != nil {
		return err
	}
	b.note(ctx, batch.Job.ID, changed)
	return nil
}

// brief returns what the record knows of the certificates that have no row. It never changes, so it need not be read in the transaction.
func (b *Bulk) brief(ctx context.Context, serials [][]byte) (map[string]*ca.Certificate, error) {
	known := map[string]*ca.Certificate{}
	for _, serial := range serials {
		if ca.KeptAs(serial) != ca.Brief {
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

// sameKeyTx returns the other certificates of the same keys that the devices have, as concernedTx does for one: whoever has a key has all
// certificates of it, also those that were got after the job was looked at.
func (b *Bulk) sameKeyTx(ctx context.Context, tx *db.Tx, certs []*ca.Certificate) (more []*ca.Certificate, err error) {
	meant, keys := make(map[[16]byte]bool, len(certs)), map[device.ID]map[[32]byte]bool{}
	var ids []device.ID
	for _, c := range certs {
		meant[c.Serial] = true
		if c.Device == [16]byte{} {
			continue
		}
		if keys[c.Device] == nil {
			keys[c.Device] = map[[32]byte]bool{}
			ids = append(ids, c.Device)
		}
		keys[c.Device][c.SPKIHash] = true
	}
	slices.SortFunc(ids, func(x, y device.ID) int {
		return cmp.Or(cmp.Compare(b.Devices.CellOf(x), b.Devices.CellOf(y)), bytes.Compare(x[:], y[:]))
	})
	marks := make([]device.Marked, len(ids)) // locks the devices first: a renewal with the same key waits, and is turned away afterwards
	for i, id := range ids {
		marks[i] = device.Marked{ID: id, At: b.Now().Unix()}
	}
	if err := b.Devices.SlotsRevokedTx(ctx, tx, marks); err != nil {
		return nil, fmt.Errorf("locking the devices of certificates: %w", err)
	}
	devices, err := b.Devices.LoadManyTx(ctx, tx, ids)
	if err != nil {
		return nil, fmt.Errorf("reading the devices of certificates: %w", err)
	}
	for _, id := range ids {
		d, known := devices[id]
		if !known || d.Issued < 2 {
			continue
		}
		all, err := b.certificatesTx(ctx, tx, &d, nil)
		if err != nil {
			return nil, err
		}
		for _, c := range b.live(all) {
			if keys[id][c.SPKIHash] && !meant[c.Serial] {
				more = append(more, c)
			}
		}
	}
	return more, nil
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
// lists, and the entries are recorded together.
func (b *Bulk) changeManyTx(ctx context.Context, tx *db.Tx, actor access.Actor, certs []*ca.Certificate, to Reason, byDevice bool) ([]outcome, error) {
	slices.SortStableFunc(certs, func(x, y *ca.Certificate) int {
		return cmp.Or(cmp.Compare(x.Cell, y.Cell), bytes.Compare(x.Device[:], y.Device[:]))
	})
	rows, err := readManyTx(ctx, tx, certs)
	if err != nil {
		return nil, err
	}
	list, now := make([]outcome, len(certs)), b.Now().Unix()
	var marks []device.Marked
	for i, c := range certs {
		if list[i], err = next(rows[i], c, to, byDevice, now); err != nil {
			return nil, err
		}
		list[i].spki = c.SPKIHash
		if !list[i].changed {
			continue
		}
		if list[i].Shard, err = b.shardOf(c); err != nil {
			return nil, err
		}
		if m, ok := markOf(c, to, list[i].At); ok {
			marks = append(marks, m)
		}
	}
	if err := b.Devices.SlotsRevokedTx(ctx, tx, marks); err != nil {
		return nil, fmt.Errorf("marking the devices of certificates: %w", err)
	}
	if err := numberTx(ctx, tx, list); err != nil {
		return nil, fmt.Errorf("numbering the changes of a list: %w", err)
	}
	var entries []audit.Entry
	var writes []*db.Stmt
	for i := range list {
		if list[i].changed {
			writes = append(writes, writeStmt(certs[i].Cell, &list[i].Revocation))
			entries = append(entries, list[i].entry(actor))
		}
	}
	if err := tx.Send(ctx, writes...); err != nil {
		return nil, fmt.Errorf("writing revocations: %w", err)
	}
	if slices.ContainsFunc(writes, func(s *db.Stmt) bool { return s.N == 0 }) {
		return nil, errOvertaken
	}
	b.countOnCommit(tx, list)
	tx.OnCommit(func() { b.changed(list) })
	return list, b.Audit.Append(ctx, tx, entries...)
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
		changed = only(outcomes)
		return o, err
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
