package device

import (
	"context"
	"encoding/binary"
	"fmt"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
)

// A device comes with its slots in one statement: one row per slot, or one with an empty slot name.
const (
	rowColumns = `d.cell, d.id, d.state, d.policy, d.name, d.names, d.grp, d.tags, d.profile, d.issued, d.token, d.token_until, d.token_used,
 d.created, d.updated, d.rescued, d.product, `
	slotColumns = `, COALESCE(s.slot, ''), s.serial, s.prev_serial, COALESCE(s.not_after, 0), s.spki, s.request, COALESCE(s.revoked, 0), s.fingerprint,
 s.issuer, COALESCE(s.alg, '')`
	joinedSlots = ` LEFT JOIN slot s ON s.cell = d.cell AND s.device = d.id`

	deviceColumns = rowColumns + `COALESCE(l.at, 0)` + slotColumns
	joinedTables  = joinedSlots + ` LEFT JOIN last_seen l ON l.cell = d.cell AND l.id = d.id`

	selectByID = `SELECT ` + deviceColumns + ` FROM device d` + joinedTables + ` WHERE d.cell = $1 AND d.id = $2 ORDER BY s.slot`

	// Decisions need no last sighting, and so one look into a table less.
	selectToDecide    = `SELECT ` + rowColumns + `0` + slotColumns + ` FROM device d` + joinedSlots + ` WHERE d.cell = $1 AND d.id = $2 ORDER BY s.slot`
	selectAllToDecide = `SELECT ` + rowColumns + `0` + slotColumns + ` FROM unnest($1::smallint[], $2::bytea[]) AS t(cell, id)
 JOIN device d ON d.cell = t.cell AND d.id = t.id` + joinedSlots + ` ORDER BY d.cell, d.id, s.slot`

	selectByBirth = `SELECT ` + deviceColumns + ` FROM birth b JOIN device d ON d.cell = b.device_cell AND d.id = b.device` + joinedTables +
		` WHERE b.cell = $1 AND b.fingerprint = $2 ORDER BY s.slot`
)

// gather makes devices out of joined rows, of which those of one device follow each other.
type gather struct{ found []Device }

func (g *gather) row(row db.Row) error {
	var (
		d                 Device
		s                 Slot
		id                []byte
		names, tags       string
		product           string
		state             int64
		serial, prev      []byte
		spki, request, fp []byte
		issuer            []byte
	)
	err := row.Scan(&d.Cell, &id, &state, &d.Policy, &d.Name, &names, &d.Group, &tags, &d.Profile, &d.Issued, &d.Token.Hash, &d.Token.Until, &d.Token.Used,
		&d.Created, &d.Updated, &d.Rescued, &product, &d.LastSeen, &s.Name, &serial, &prev, &s.NotAfter, &spki, &request, &s.Revoked, &fp, &issuer, &s.Key)
	if err != nil {
		return fmt.Errorf("reading a device: %w", err)
	}
	if len(id) != len(d.ID) {
		return fmt.Errorf("reading a device: its id has %d octets", len(id))
	}
	d.ID = ID(id)
	if n := len(g.found); n == 0 || g.found[n-1].ID != d.ID {
		d.State, d.Names, d.Tags = State(state), splitLines(names), splitTags(tags)
		d.Product = splitProduct(product)
		g.found = append(g.found, d)
	}
	if s.Name != "" {
		s.Serial, s.Prev, s.SPKI, s.Request, s.Fingerprint, s.Issuer = serial, prev, spki, request, fp, issuer
		last := &g.found[len(g.found)-1]
		last.Slots = append(last.Slots, s)
		last.LastSeen = max(last.LastSeen, issuedAt(serial))
	}
	return nil
}

// issuedAt returns when a certificate with this serial number was issued, in UTC seconds, or 0 if the number does not tell. A device was here
// when it got a certificate, so that issuing need not write the sighting down as well.
func issuedAt(serial []byte) int64 {
	if len(serial) != serialSize || serial[0] != classOrdinary && serial[0] != classLong && serial[0] != classBrief {
		return 0
	}
	return int64(binary.BigEndian.Uint32(serial[1:]))
}

// What core/ca puts into serial numbers: class, second, cell and randomness.
const (
	serialSize    = 16
	classOrdinary = 0x41
	classLong     = 0x42
	classBrief    = 0x44
)

func noSuchDevice() error { return errs.New(errs.NotFound, "there is no such device") }

func (r *Registry) loadTx(ctx context.Context, tx *db.Tx, id ID) (Device, error) {
	var g gather
	if err := tx.Each(ctx, g.row, selectByID, int64(r.CellOf(id)), id[:]); err != nil {
		return Device{}, err
	}
	if len(g.found) == 0 {
		return Device{}, noSuchDevice()
	}
	return g.found[0], nil
}

// LoadTx is Load within a transaction.
func (r *Registry) LoadTx(ctx context.Context, tx *db.Tx, id ID) (Device, error) {
	return r.loadTx(ctx, tx, id)
}

// Load returns the device with this id, for the platform's own decisions: it asks nobody for permission, and LastSeen is 0. The error is
// NotFound when there is none.
func (r *Registry) Load(ctx context.Context, id ID) (Device, error) {
	d, found, err := r.loads.Get(ctx, id)
	if err == nil && !found {
		err = noSuchDevice()
	}
	return d, err
}

// loadMany reads the devices that several requests at once need.
func (r *Registry) loadMany(ctx context.Context, tx *db.Tx, ids []ID) (map[ID]Device, error) {
	g := gather{found: make([]Device, 0, len(ids))}
	read := loadByRows
	if tx.Arrays() && len(ids) > 1 {
		read = loadByArray
	}
	if err := read(ctx, tx, r.inOrder(ids), g.row); err != nil {
		return nil, err
	}
	found := make(map[ID]Device, len(g.found))
	for _, d := range g.found {
		found[d.ID] = d
	}
	return found, nil
}

func loadByArray(ctx context.Context, tx *db.Tx, keys []cellID, row func(db.Row) error) error {
	cells, ids := make([]int16, len(keys)), make([][]byte, len(keys))
	for i := range keys {
		cells[i], ids[i] = int16(keys[i].cell), keys[i].id[:]
	}
	return tx.Each(ctx, row, selectAllToDecide, cells, ids)
}

// loadByRows reads several devices by one statement: most of what a single read costs is not the row.
func loadByRows(ctx context.Context, tx *db.Tx, keys []cellID, row func(db.Row) error) error {
	return db.Chunks(len(keys), func(from, to int) error {
		args := make([]any, 0, 2*(to-from))
		for i := from; i < to; i++ {
			args = append(args, int64(keys[i].cell), keys[i].id[:])
		}
		return tx.Each(ctx, row, selectSomeToDecide(to-from), args...)
	})
}

// selectSomeToDecide is selectAllToDecide for n devices where there are no arrays. A CROSS JOIN is done from left to right, so that the slots of a device
// follow each other, by name, without being sorted.
func selectSomeToDecide(n int) string {
	if n == 1 {
		return selectToDecide
	}
	return `WITH t (cell, id) AS (VALUES ` + db.Values("", 2, n) + `) SELECT ` + rowColumns + `0` + slotColumns +
		` FROM t CROSS JOIN device d ON d.cell = t.cell AND d.id = t.id` + joinedSlots
}

// ByBirth returns the device that was born with the certificate of this SHA-256, without asking for permission. The error is NotFound when
// there is none.
func (r *Registry) ByBirth(ctx context.Context, fingerprint [32]byte) (Device, error) {
	var g gather
	err := r.db.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		g = gather{}
		return tx.Each(ctx, g.row, selectByBirth, int64(fingerprint[0]), fingerprint[:])
	})
	if err == nil && len(g.found) == 0 {
		err = noSuchDevice()
	}
	if err != nil {
		return Device{}, err
	}
	return g.found[0], nil
}

// Get returns the device with this id (32 hexadecimal digits) or external name; an id goes before a name that looks like one.
func (r *Registry) Get(ctx context.Context, actor access.Actor, nameOrID string) (Device, error) {
	if err := r.access.Require(ctx, actor, access.DeviceRead, "device"); err != nil {
		return Device{}, err
	}
	var d Device
	err := r.db.View(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		if id, isID := ParseID(nameOrID); isID == nil {
			if d, err = r.loadTx(ctx, tx, id); !errs.Is(err, errs.NotFound) {
				return err
			}
		}
		id, _ := r.IDOf(nameOrID)
		d, err = r.loadTx(ctx, tx, id)
		return err
	})
	return d, err
}
