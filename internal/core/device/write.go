package device

import (
	"context"
	"crypto/sha256"
	"strings"

	"mooring/internal/base/db"
	"mooring/internal/core/audit"
)

// What lookup finds: each ends before the comparison of the key.
const (
	selectKnown      = `SELECT id FROM device WHERE cell = $1 AND id`
	selectKnownBirth = `SELECT fingerprint FROM birth WHERE cell = $1 AND fingerprint`
)

// lookup calls hit(i) for each of n sorted keys (cell, key) whose row text finds. text ends before the comparison of the key.
func lookup(ctx context.Context, tx *db.Tx, text string, n int, key func(int) (uint8, []byte), hit func(int) error) error {
	if tx.Arrays() {
		text += ` = ANY($2::bytea[])`
	} else {
		text += inList()
	}
	for from := 0; from < n; {
		cell, _ := key(from)
		to := from
		for to < n && to-from < lookupChunk {
			if c, _ := key(to); c != cell {
				break
			}
			to++
		}
		found := map[string]bool{}
		err := tx.Each(ctx, func(row db.Row) error {
			var k []byte
			if err := row.Scan(&k); err != nil {
				return err
			}
			found[string(k)] = true
			return nil
		}, text, lookupArgs(tx.Arrays(), cell, from, to, key)...)
		if err != nil {
			return err
		}
		for i := from; len(found) > 0 && i < to; i++ {
			if _, k := key(i); found[string(k)] {
				if err := hit(i); err != nil {
					return err
				}
			}
		}
		from = to
	}
	return nil
}

// inList is of fixed length, so that there is one statement to prepare; the last key fills it up.
func inList() string {
	return ` IN (` + strings.TrimSuffix(strings.Repeat(`?, `, lookupChunk), `, `) + `)`
}

func lookupArgs(arrays bool, cell uint8, from, to int, key func(int) (uint8, []byte)) []any {
	if arrays {
		keys := make([][]byte, 0, to-from)
		for i := from; i < to; i++ {
			_, k := key(i)
			keys = append(keys, k)
		}
		return []any{int64(cell), keys}
	}
	args := make([]any, 0, 1+lookupChunk)
	args = append(args, int64(cell))
	for i := from; i < from+lookupChunk; i++ {
		_, k := key(min(i, to-1))
		args = append(args, k)
	}
	return args
}

// The texts of an import: the row text of Add serves SQLite.
const (
	importDevices = `INSERT INTO device (cell, id, state, policy, name, names, grp, tags, profile, issued, token, token_salt, token_until, token_used, created, updated, product)
 SELECT t.cell, t.id, 1, 1, t.name, t.names, t.grp, t.tags, t.profile, 0, t.token, $11, $8, 0, $9, $9, t.product
 FROM unnest($1::smallint[], $2::bytea[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $10::bytea[], $12::text[])
 AS t(cell, id, name, names, grp, tags, profile, token, product)`
	importSlots = `INSERT INTO slot (cell, device, slot, serial, prev_serial, not_after, spki, request, revoked, fingerprint)
 SELECT t.cell, t.device, 'birth', $4, $4, t.not_after, t.spki, $4, 0, t.fingerprint
 FROM unnest($1::smallint[], $2::bytea[], $3::bytea[], $5::bigint[], $6::bytea[]) AS t(cell, device, fingerprint, not_after, spki)`
	importBirths = `INSERT INTO birth (cell, fingerprint, device_cell, device)
 SELECT t.cell, t.fingerprint, t.device_cell, t.device
 FROM unnest($1::smallint[], $2::bytea[], $3::smallint[], $4::bytea[]) AS t(cell, fingerprint, device_cell, device)`
)

// importRow is a row of an import on its way into the tables.
type importRow struct {
	place
	record
}

// importWriter writes rows of an import in the order of the tables.
type importWriter struct {
	r     *Registry
	tx    *db.Tx
	actor string
	at    int64
	salt  []byte // of the token of each device; empty = no tokens
	until int64
}

// devices writes devices, their birth slots and their audit entries.
func (w *importWriter) devices(ctx context.Context, rows []importRow) error {
	tokens := make([][]byte, len(rows))
	entries := make([]audit.Entry, len(rows))
	for i := range rows {
		c := &rows[i]
		tokens[i] = []byte{}
		detail := map[string]string{"policy": "1"}
		if len(w.salt) > 0 {
			hash := sha256.Sum256(w.r.tokenSecret(c.id, w.salt))
			tokens[i] = hash[:]
			detail = w.r.tokenDetail(1, hash[:], w.salt, w.until)
		}
		detail["row"] = w.r.rowMarkOf(c.id, Registered, c.record).String()
		entries[i] = audit.Entry{At: w.at, Action: "device.add", Actor: w.actor, Device: c.id.String(), Detail: detail}
	}
	write := w.deviceArrays
	if !w.tx.Arrays() {
		write = w.deviceRows
	}
	if err := write(ctx, rows, tokens); err != nil {
		return err
	}
	w.tx.OnCommit(func() {
		for i := range rows {
			w.r.inv.touch(rows[i].id)
		}
	})
	return w.r.audit.Append(ctx, w.tx, entries...)
}

func (w *importWriter) deviceRows(ctx context.Context, rows []importRow, tokens [][]byte) error {
	none := []byte{}
	for i := range rows {
		c := &rows[i]
		cell := int64(c.cell)
		if _, err := w.tx.Exec(ctx, insertDevice, cell, c.id[:], c.name, c.names, c.group, c.tags, c.profile, tokens[i], w.until, w.at, w.salt, c.product); err != nil {
			return err
		}
		if len(c.birth) == 0 {
			continue
		}
		if _, err := w.tx.Exec(ctx, upsertBirthSlot, cell, c.id[:], none, c.birthUntil, octets(c.birthSPKI), c.birth); err != nil {
			return err
		}
	}
	return nil
}

func (w *importWriter) deviceArrays(ctx context.Context, rows []importRow, tokens [][]byte) error {
	n := len(rows)
	cells, ids := make([]int16, n), make([][]byte, n)
	var text [6][]string // name, names, grp, tags, profile, product
	for i := range text {
		text[i] = make([]string, n)
	}
	var born struct {
		cells              []int16
		ids, prints, spkis [][]byte
		ends               []int64
	}
	for i := range rows {
		c := &rows[i]
		cells[i], ids[i] = int16(c.cell), c.id[:]
		for j, s := range [...]string{c.name, c.names, c.group, c.tags, c.profile, c.product} {
			text[j][i] = s
		}
		if len(c.birth) > 0 {
			born.cells, born.ids = append(born.cells, int16(c.cell)), append(born.ids, c.id[:])
			born.prints = append(born.prints, c.birth)
			born.ends, born.spkis = append(born.ends, c.birthUntil), append(born.spkis, octets(c.birthSPKI))
		}
	}
	stmts := []*db.Stmt{{SQL: importDevices, Args: []any{cells, ids, text[0], text[1], text[2], text[3], text[4], w.until, w.at, tokens, w.salt, text[5]}}}
	if len(born.ids) > 0 {
		stmts = append(stmts, &db.Stmt{SQL: importSlots, Args: []any{born.cells, born.ids, born.prints, []byte{}, born.ends, born.spkis}})
	}
	return w.tx.Send(ctx, stmts...)
}

// births writes the rows by which devices are found from their birth certificates, or as products.
func (w *importWriter) births(ctx context.Context, births []birthPlace) error {
	if !w.tx.Arrays() {
		for i := range births {
			b := &births[i]
			if _, err := w.tx.Exec(ctx, insertBirth, int64(b.fingerprint[0]), b.fingerprint[:], int64(b.cell), b.id[:]); err != nil {
				return err
			}
		}
		return nil
	}
	if len(births) == 0 {
		return nil
	}
	n := len(births)
	cells, prints, deviceCells, ids := make([]int16, n), make([][]byte, n), make([]int16, n), make([][]byte, n)
	for i := range births {
		b := &births[i]
		cells[i], prints[i], deviceCells[i], ids[i] = int16(b.fingerprint[0]), b.fingerprint[:], int16(b.cell), b.id[:]
	}
	_, err := w.tx.Exec(ctx, importBirths, cells, prints, deviceCells, ids)
	return err
}
