package device

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"mooring/internal/base/db"
)

// The inventory is a second form of the registry, by columns (block.go), that answers any combination of filters (search.go) without an index
// that every enrolment would have to pay for. It is written behind the changes, by the process that made them:
//
//	commit of a change → note in memory → flush, a second later, many notes at once → block
//
// What a listing finds in the inventory it looks up in the registry before it shows it, so a listing never shows what is not so; it can miss
// what was changed within the last seconds. A listing first flushes the notes of its own process when they are few, so whoever changes a
// device and looks sees the change. The registry itself, its states and its rules never depend on the inventory.
//
// Notes are lost when a process is killed. Each process has a row in inventory_node while it runs; a row without its process, or more notes
// than can be remembered, has the whole inventory compared with the registry again (walk.go), in the background, block by block.
type inventory struct {
	mu    sync.Mutex
	notes map[ID]news // guarded by mu
	lost  bool        // guarded by mu: there were more notes than can be remembered
	// moves is how often devices were changed whose ids end in these bits, or all; see Registry.Mark. Guarded by mu.
	moves [1 << moveBits]uint64
	// writing is how many notes were taken and are not committed yet.
	writing  int        // guarded by mu
	flushing sync.Mutex // held while notes are written
	wake     chan struct{}
	node     []byte
	beat     int64 // UTC seconds; owned by keepInventory
}

// news is what is to be said about a device in the inventory.
type news struct {
	reload bool  // read its row
	seen   int64 // it was heard of
	cert   *held // it got this certificate; nil = it got none
}

const (
	notesMost   = 1 << 16 // devices noted between two flushes: 4 MB, and 6 MB of certificates
	notesEarly  = notesMost / 4
	notesAtOnce = 32 // notes that a listing flushes before it looks; they cost it as much as the search does
	flushEvery  = time.Second
	flushShare  = 50 // rest at least so many times as long as the flush before took
	flushRest   = time.Minute
	flushCells  = 16 // cells in one transaction, so that none holds others up
	flushBlocks = 8  // blocks in memory
	beatEvery   = 60 // seconds between two signs of life
	deadAfter   = 5 * beatEvery
)

func newInventory() inventory {
	node := make([]byte, 8)
	rand.Read(node)
	return inventory{notes: map[ID]news{}, wake: make(chan struct{}, 1), node: node}
}

// add merges n into what is noted about the device.
func (v *inventory) add(id ID, n news) {
	if n.reload || n.cert != nil {
		v.moves[moveOf(id)]++
	}
	old, known := v.notes[id]
	switch {
	case !known && len(v.notes) >= notesMost:
		v.lost = true
		return
	case known:
		n.reload = n.reload || old.reload || old.cert != nil && n.cert != nil && old.cert.slot != n.cert.slot
		n.seen = max(n.seen, old.seen)
		if n.cert == nil {
			n.cert = old.cert
		}
	}
	v.notes[id] = n
}

// touch notes that the rows of these devices were changed.
func (v *inventory) touch(ids ...ID) {
	v.mu.Lock()
	for _, id := range ids {
		v.add(id, news{reload: true})
	}
	early := v.lost || len(v.notes) > notesEarly
	v.mu.Unlock()
	if early {
		select {
		case v.wake <- struct{}{}:
		default:
		}
	}
}

// claimed notes the certificates of accepted claims.
func (v *inventory) claimed(claims []Claim) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i := range claims {
		if c := &claims[i]; c.Issued > 0 {
			v.add(c.ID, news{seen: issuedAt(c.Serial), cert: &held{c.Slot, string(c.Issuer), c.Key, c.NotAfter}})
		}
	}
}

// saw notes when devices were last heard of.
func (v *inventory) saw(ids []ID, at map[ID]int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, id := range ids {
		v.add(id, news{seen: at[id]})
	}
}

// lose has the registry read anew.
func (v *inventory) lose() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.lost = true
	for i := range v.moves {
		v.moves[i]++
	}
}

// moveBits is of how many bits at the end of an id there is one count of changes: the more, the fewer devices are taken for changed with another one.
const moveBits = 12

func moveOf(id ID) int {
	return int(binary.BigEndian.Uint16(id[len(id)-2:])) & (1<<moveBits - 1)
}

// Mark is where a device stood when somebody looked, see Registry.Mark.
type Mark uint64

// Mark returns a mark to be taken before Load, for whoever decides about the same device again in a moment.
func (r *Registry) Mark(id ID) Mark {
	r.inv.mu.Lock()
	defer r.inv.mu.Unlock()
	return Mark(r.inv.moves[moveOf(id)])
}

// Unchanged reports whether the device is known to be as it was when Load was called after m was taken, but for its token. With PostgreSQL other
// processes change devices, and it is never known.
func (r *Registry) Unchanged(id ID, m Mark) bool { return !r.db.Arrays() && r.Mark(id) == m }

// take empties the notes.
func (v *inventory) take() map[ID]news {
	v.mu.Lock()
	defer v.mu.Unlock()
	taken := v.notes
	v.notes = map[ID]news{}
	v.writing = len(taken)
	return taken
}

// pending returns how many devices are noted and not yet in the blocks.
func (v *inventory) pending() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.notes) + v.writing
}

// keepInventory flushes the notes until ctx ends, and reads the registry anew where notes may have been lost.
func (r *Registry) keepInventory(ctx context.Context) {
	walk := r.joinInventory(ctx)
	for rest := flushEvery; ; {
		if walk != nil && r.walk(ctx, walk) {
			walk = nil
		}
		select {
		case <-time.After(rest):
		case <-r.inv.wake:
		case <-ctx.Done():
			return
		}
		began := r.now()
		if err := r.flushInventory(ctx); err != nil && ctx.Err() == nil {
			r.log.LogAttrs(ctx, slog.LevelWarn, "bringing the inventory up to date failed; it is tried again", slog.Any("cause", err))
		}
		rest = min(max(flushEvery, flushShare*r.now().Sub(began)), flushRest)
		if dead := r.beat(ctx); dead || r.inv.forgot() {
			walk = &walkAt{}
		}
	}
}

const (
	selectBuilt   = `SELECT built, epoch FROM inventory_state WHERE cell = 0`
	lockInventory = `UPDATE inventory_state SET epoch = epoch + 1 WHERE cell = 0`
	setBuilt      = `UPDATE inventory_state SET epoch = epoch + 1, built = $1 WHERE cell = 0`

	forgetEnded = `DELETE FROM inventory_node WHERE cell = 0 AND node <> $1 AND at = 0`
	forgetDead  = `DELETE FROM inventory_node WHERE cell = 0 AND node <> $1 AND at < $2`
	beatNode    = `INSERT INTO inventory_node (cell, node, at) VALUES (0, $1, $2) ON CONFLICT (cell, node) DO UPDATE SET at = excluded.at`
)

// joinInventory writes this process's row and returns where to begin to read the registry anew, or nil when that is not needed.
func (r *Registry) joinInventory(ctx context.Context) *walkAt {
	dead := r.beat(ctx)
	built, err := r.inventoryBuilt(ctx)
	if err != nil || !built || dead || r.inv.forgot() {
		return &walkAt{}
	}
	return nil
}

func (r *Registry) inventoryBuilt(ctx context.Context) (bool, error) {
	var built, epoch int64
	err := r.db.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Get(ctx, []any{&built, &epoch}, selectBuilt)
		return err
	})
	return built == 1, err
}

// beat gives a sign of life when one is due, and reports whether another process ended without its last notes.
func (r *Registry) beat(ctx context.Context) (dead bool) {
	now := r.now().Unix()
	if r.inv.beat != 0 && now < r.inv.beat+beatEvery {
		return false
	}
	limit := now - deadAfter
	if !r.db.Arrays() {
		limit = now + 1<<40 // the file has one process, and this is it
	}
	err := r.db.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if _, err := tx.Exec(ctx, forgetEnded, r.inv.node); err != nil {
			return err
		}
		n, err := tx.Exec(ctx, forgetDead, r.inv.node, limit)
		if err != nil {
			return err
		}
		dead = n > 0
		_, err = tx.Exec(ctx, beatNode, r.inv.node, now)
		return err
	})
	if err != nil {
		return false // the next beat comes when the database is back
	}
	r.inv.beat = now
	return dead
}

// forgot reports once whether notes were dropped.
func (v *inventory) forgot() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	lost := v.lost
	v.lost = false
	return lost
}

// Settle writes the last notes of the inventory, after Run and everything else that changes devices has ended and before the database is
// closed. What it cannot write is found by the next process.
func (r *Registry) Settle(ctx context.Context) error {
	if r.inv.forgot() {
		return r.db.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Exec(ctx, setBuilt, int64(0))
			return err
		})
	}
	if err := r.flushInventory(ctx); err != nil {
		return err
	}
	if r.inv.beat == 0 {
		return nil
	}
	r.inv.beat = 0
	return r.db.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, beatNode, r.inv.node, int64(0))
		return err
	})
}

// flushInventory writes what is noted into the blocks. When it returns, what others were writing is there too.
func (r *Registry) flushInventory(ctx context.Context) error {
	r.inv.flushing.Lock()
	defer r.inv.flushing.Unlock()
	notes := r.inv.take()
	defer r.inv.wrote()
	if len(notes) == 0 {
		return nil
	}
	ids := make([]ID, 0, len(notes))
	cells := make(map[ID]uint8, len(notes))
	for id := range notes {
		ids = append(ids, id)
		cells[id] = r.CellOf(id)
	}
	slices.SortFunc(ids, func(a, b ID) int {
		return cmp.Or(int(cells[a])-int(cells[b]), bytes.Compare(a[:], b[:]))
	})
	few := len(ids) <= notesAtOnce // somebody may be waiting: one transaction is as quick as sixteen
	for len(ids) > 0 {
		n := 1
		for n < min(len(ids), blockStep) && (few || cells[ids[n]]/flushCells == cells[ids[0]]/flushCells) {
			n++
		}
		part := ids[:n]
		err := r.db.Do(ctx, func(ctx context.Context, tx *db.Tx) error { return r.flushPart(ctx, tx, part, cells, notes) })
		if err != nil {
			r.inv.putBack(ids, notes)
			return err
		}
		ids = ids[n:]
	}
	return nil
}

func (v *inventory) wrote() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.writing = 0
}

func (v *inventory) putBack(ids []ID, notes map[ID]news) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, id := range ids {
		n := notes[id]
		if later, known := v.notes[id]; known && later.cert != nil {
			n.cert = nil // the later one counts
		}
		v.add(id, n)
	}
}

// touched is a block that notes are about, and the devices of these notes.
type touched struct {
	*raw
	ids []ID
}

// flushPart writes the notes about ids, which are sorted by cell.
func (r *Registry) flushPart(ctx context.Context, tx *db.Tx, ids []ID, cells map[ID]uint8, notes map[ID]news) error {
	if _, err := tx.Exec(ctx, lockInventory); err != nil {
		return err
	}
	blocks, err := findBlocks(ctx, tx, ids, cells)
	if err != nil {
		return err
	}
	for some := range slices.Chunk(blocks, flushBlocks) {
		if err := r.flushSome(ctx, tx, some, notes); err != nil {
			return err
		}
	}
	return nil
}

// selectFirsts finds out where the blocks of cells begin.
func selectFirsts() string {
	return `SELECT cell, first FROM inventory WHERE kind = 2 AND cell IN (` + parameters(1, cellsMost) + `) ORDER BY cell, first`
}

// findBlocks returns the blocks that ids belong to, which are of few cells. Where there is none, the walk has not come yet, and will find the devices as they are.
func findBlocks(ctx context.Context, tx *db.Tx, ids []ID, cells map[ID]uint8) (blocks []touched, err error) {
	args := make([]any, 0, cellsMost)
	for i, id := range ids {
		if i == 0 || cells[id] != cells[ids[i-1]] {
			args = append(args, int64(cells[id]))
		}
	}
	for len(args) < cellsMost {
		args = append(args, args[0])
	}
	var all []*raw
	err = tx.Each(ctx, func(row db.Row) error {
		b := new(raw)
		all = append(all, b)
		return row.Scan(&b.cell, &b.first)
	}, selectFirsts(), args...)
	for k, b := range all {
		n := 0
		for n < len(ids) && cells[ids[n]] < b.cell {
			n++
		}
		ids, n = ids[n:], 0
		last := k+1 == len(all) || all[k+1].cell != b.cell
		for n < len(ids) && cells[ids[n]] == b.cell && (last || all[k+1].after(ids[n][:])) {
			n++
		}
		if n > 0 {
			blocks = append(blocks, touched{b, ids[:n]})
		}
		ids = ids[n:]
	}
	return blocks, err
}

const selectBlocks = `SELECT i.cell, i.first, i.kind, i.data FROM unnest($1::smallint[], $2::bytea[]) AS t(cell, first)
 JOIN inventory i ON i.cell = t.cell AND i.first = t.first ORDER BY i.cell, i.first, i.kind`

// readBlocks reads all rows of blocks, which are sorted.
func readBlocks(ctx context.Context, tx *db.Tx, blocks []touched) error {
	if !tx.Arrays() {
		for _, b := range blocks {
			if err := tx.Each(ctx, b.scan, selectBlock, int64(b.cell), b.first); err != nil {
				return err
			}
		}
		return nil
	}
	cells, firsts := make([]int16, len(blocks)), make([][]byte, len(blocks))
	for i, b := range blocks {
		cells[i], firsts[i] = int16(b.cell), b.first
	}
	at := 0
	return tx.Each(ctx, func(row db.Row) error {
		var cell uint8
		var kind int64
		var first, data []byte
		if err := row.Scan(&cell, &first, &kind, &data); err != nil {
			return err
		}
		for at < len(blocks)-1 && (blocks[at].cell != cell || !bytes.Equal(blocks[at].first, first)) {
			at++
		}
		return blocks[at].add(kind, data)
	}, selectBlocks, cells, firsts)
}

// flushSome applies the notes about some blocks.
func (r *Registry) flushSome(ctx context.Context, tx *db.Tx, blocks []touched, notes map[ID]news) error {
	if err := readBlocks(ctx, tx, blocks); err != nil {
		return err
	}
	entries := make([][]entry, len(blocks))
	var stale []ID
	for k, b := range blocks {
		var err error
		if entries[k], err = b.unpack(); errors.Is(err, errDamaged) {
			r.inv.lose() // the walk writes it anew from the registry
			blocks[k].ids = nil
			continue
		} else if err != nil {
			return err
		}
		for _, id := range b.ids {
			if _, known := find(entries[k], id); !known || notes[id].reload {
				stale = append(stale, id)
			}
		}
	}
	devices, err := r.readDevices(ctx, tx, stale)
	if err != nil {
		return err
	}
	live := make(map[ID]*Device, len(devices))
	for i := range devices {
		live[devices[i].ID] = &devices[i]
	}
	var stmts []*db.Stmt
	for k, b := range blocks {
		if len(b.ids) > 0 {
			stmts = append(stmts, blockStmts(b.raw, applyNotes(entries[k], b.ids, notes, live))...)
		}
	}
	return tx.Send(ctx, stmts...)
}

// applyNotes brings entries to what the notes say, or, where those do not suffice, to what the registry says.
func applyNotes(entries []entry, ids []ID, notes map[ID]news, live map[ID]*Device) []entry {
	for _, id := range ids {
		at, known := find(entries, id)
		if known && !notes[id].reload {
			entries[at].apply(notes[id])
			continue
		}
		d := live[id]
		if d == nil {
			continue
		}
		e := entryOf(d)
		if e.seen = max(e.seen, notes[id].seen); known {
			entries[at] = e
		} else {
			entries = slices.Insert(entries, at, e)
		}
	}
	return entries
}

// apply changes e by what a note says beside "reload".
func (e *entry) apply(n news) {
	e.seen = max(e.seen, n.seen)
	if n.cert == nil {
		return
	}
	if e.state == Registered {
		e.state = Enrolled
	}
	for i := range e.certs {
		if e.certs[i].slot == n.cert.slot {
			e.certs[i] = *n.cert
			return
		}
	}
	e.certs = append(e.certs, *n.cert)
}

const (
	upsertRow = `INSERT INTO inventory (cell, kind, first, data) VALUES ($1, $2, $3, $4)
 ON CONFLICT (cell, kind, first) DO UPDATE SET data = excluded.data`
	deleteRow = `DELETE FROM inventory WHERE cell = $1 AND kind = $2 AND first = $3`
)

// blockStmts write the rows of old that become others with entries. What has grown too large becomes several blocks.
func blockStmts(old *raw, entries []entry) (stmts []*db.Stmt) {
	for first, was := old.first, old; ; was = new(raw) {
		n := len(entries)
		if n > blockMost {
			n = blockMost / 2
		}
		for n > 1 && certsOf(entries[:n]) > certsMost {
			n /= 2
		}
		b := pack(old.cell, first, entries[:n])
		for kind := int64(partHead); kind < rowsEnd; kind++ {
			switch was, is := was.row(kind), b.row(kind); {
			case bytes.Equal(was, is):
			case len(is) == 0:
				stmts = append(stmts, &db.Stmt{SQL: deleteRow, Args: []any{int64(old.cell), kind, first}})
			default:
				stmts = append(stmts, &db.Stmt{SQL: upsertRow, Args: []any{int64(old.cell), kind, first, is}})
			}
		}
		if entries = entries[n:]; len(entries) == 0 {
			return stmts
		}
		first = slices.Clone(entries[0].id[:])
	}
}

func certsOf(entries []entry) (n int) {
	for i := range entries {
		n += len(entries[i].certs)
	}
	return n
}

const (
	selectAll = `SELECT ` + deviceColumns + ` FROM unnest($1::smallint[], $2::bytea[]) AS t(cell, id) JOIN device d ON d.cell = t.cell AND d.id = t.id` +
		joinedTables + ` ORDER BY d.cell, d.id, s.slot`

	// readAtOnce devices are one statement where there are no arrays: a statement costs as much as a device.
	readAtOnce = 50
)

// selectSome reads readAtOnce devices.
func selectSome() string {
	return `WITH t (cell, id) AS (VALUES ` + tuples(2, readAtOnce) + `) SELECT ` + deviceColumns + ` FROM t CROSS JOIN device d ON d.cell = t.cell AND d.id = t.id` +
		joinedTables + ` ORDER BY d.cell, d.id, s.slot`
}

// readDevices returns the devices with these ids that there are, with their last sightings, in no particular order.
func (r *Registry) readDevices(ctx context.Context, tx *db.Tx, ids []ID) ([]Device, error) {
	g := gather{found: make([]Device, 0, len(ids))}
	if len(ids) == 0 {
		return nil, nil
	}
	if tx.Arrays() {
		cells, keys := make([]int16, len(ids)), make([][]byte, len(ids))
		for i := range ids {
			cells[i], keys[i] = int16(r.CellOf(ids[i])), ids[i][:]
		}
		err := tx.Each(ctx, g.row, selectAll, cells, keys)
		return g.found, err
	}
	args := make([]any, 0, 2*len(ids))
	for _, k := range r.inOrder(ids) {
		args = append(args, int64(k.cell), k.id[:])
	}
	for text := selectSome(); len(args) >= 2*readAtOnce; args = args[2*readAtOnce:] {
		if err := tx.Each(ctx, g.row, text, args[:2*readAtOnce]...); err != nil {
			return nil, err
		}
	}
	for ; len(args) > 0; args = args[2:] {
		if err := tx.Each(ctx, g.row, selectByID, args[:2]...); err != nil {
			return nil, err
		}
	}
	return g.found, nil
}

type cellID struct {
	cell uint8
	id   ID
}

// inOrder sorts ids as the tables are, so that each of their pages is looked into once.
func (r *Registry) inOrder(ids []ID) []cellID {
	keys := make([]cellID, len(ids))
	for i, id := range ids {
		keys[i] = cellID{r.CellOf(id), id}
	}
	slices.SortFunc(keys, func(a, b cellID) int { return cmp.Or(int(a.cell)-int(b.cell), bytes.Compare(a.id[:], b.id[:])) })
	return keys
}
