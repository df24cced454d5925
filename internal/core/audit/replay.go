package audit

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"mooring/internal/base/db"
)

// replay walks the positions in order and takes every entry.
func (v *verification) replay() error {
	for next := int64(0); ; {
		page, err := v.readPage(next)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			break
		}
		for _, b := range page {
			if err := v.reach(b.first); err != nil {
				return err
			}
			if err := v.replayBatch(b); err != nil {
				return err
			}
			v.kept.position(&b)
			next = b.first + 1
		}
	}
	if err := v.reach(v.rebuild.size); err != nil {
		return err
	}
	if err := v.endBlock(); err != nil {
		return err
	}
	if v.options.Progress != nil {
		v.options.Progress(v.rebuild.size, v.tree.N)
	}
	return v.rebuild.end()
}

// readPage returns the next batches by position, whatever their indices say.
func (v *verification) readPage(from int64) ([]located, error) {
	var page []located
	err := v.tx.Each(v.ctx, func(r db.Row) error {
		var b located
		var stream []byte
		if err := r.Scan(&b.first, &stream, &b.seq, &b.part, &b.n, &b.ts, &b.rows, &b.body, &b.mac); err != nil {
			return err
		}
		copy(b.stream[:], stream)
		page = append(page, b)
		return nil
	}, `SELECT p.idx, p.stream, p.seq, p.part, p.n, p.ts, COALESCE(b.n, -1), b.body, b.mac
		FROM audit_pos p LEFT JOIN audit_batch b ON b.cell = 0 AND b.stream = p.stream AND b.seq = p.seq AND b.part = p.part AND b.ts = p.ts
		WHERE p.cell = 0 AND p.idx >= $1 ORDER BY p.idx LIMIT $2`, from, rangePage)
	return page, err
}

func (v *verification) replayBatch(b located) error {
	if b.first != v.rebuild.size {
		v.find(Finding{Table: "audit_pos", Index: v.rebuild.size, Batch: b.batch.String(),
			Text: fmt.Sprintf("the batch is said to start at %d, where %d follows", b.first, v.rebuild.size)})
	}
	s := v.streams[b.stream]
	if s.any && !before(s.last, b.batch) {
		v.find(Finding{Table: "audit_pos", Index: b.first, Batch: b.batch.String(), Text: "the batch stands behind a later one of its stream"})
	}
	s.last, s.any = b.batch, true
	if b.rows >= 0 {
		s.count++
	}
	v.streams[b.stream] = s
	if b.rows < 0 && v.kept.left(&b) {
		v.report.Dropped += b.n
		return v.replayLeft(b.n)
	}
	unnamed := v.named
	entries, err := v.open(&b)
	if err != nil {
		if b.rows < 0 {
			v.missing++
		}
		if v.missing <= mostMissing { // or nothing else would be told any more
			v.find(Finding{Table: "audit_batch", Index: v.rebuild.size, Batch: b.batch.String(), Text: err.Error()})
		} else {
			v.named, v.report.More = v.named+1, true
		}
		return v.replayStored(b.n)
	}
	macErr := v.log.macs.check(batch{b.stream, b.seq, b.part, b.ts, b.rows}, b.body, b.mac)
	for _, data := range entries {
		if err := v.replayEntry(b.batch, data, macErr == nil); err != nil {
			return err
		}
	}
	if macErr != nil && v.named == unnamed { // else it is known which entry was changed
		v.find(Finding{Table: "audit_batch", Index: b.first, Batch: b.batch.String(), Text: macErr.Error()})
	}
	return nil
}

// replayLeft takes n hashes from the tree in place of entries that have left. Whether they are the right ones, the hashes above them tell, up to the root.
func (v *verification) replayLeft(n int64) error {
	for range n {
		if err := v.beginBlock(v.rebuild.size); err != nil {
			return err
		}
		var leaf tlog.Hash
		if at := int(v.rebuild.size%blockEntries) * tlog.HashSize; at+tlog.HashSize <= len(v.stored) {
			copy(leaf[:], v.stored[at:])
		}
		v.partial = true
		if err := v.add(leaf); err != nil {
			return err
		}
	}
	return nil
}

func before(a, b batch) bool { return a.seq < b.seq || a.seq == b.seq && a.part < b.part }

// open returns the entries of a batch whose rows agree with each other.
func (v *verification) open(b *located) ([][]byte, error) {
	if b.rows < 0 {
		return nil, errors.New("the batch that the position names is missing, and no entry says that it was to leave")
	}
	if b.rows != b.n {
		// One of the two rows lies; the body decides which.
		if _, err := splitBody(b.body, b.ts, b.rows); err == nil {
			v.find(Finding{Table: "audit_pos", Index: b.first, Batch: b.batch.String(), Text: fmt.Sprintf("the position says %d entries, the batch holds %d", b.n, b.rows)})
			b.n = b.rows
		}
	}
	entries, err := splitBody(b.body, b.ts, b.n)
	if err != nil {
		return nil, err
	}
	if b.rows != b.n {
		v.find(Finding{Table: "audit_batch", Index: b.first, Batch: b.batch.String(), Text: fmt.Sprintf("the row says %d entries, its body holds %d", b.rows, b.n)})
	}
	return entries, nil
}

// replayEntry takes one entry. When it is not the entry that the tree holds, the tree's hash is taken, so that one damaged entry is one
// finding and not a wrong hash all the way up. The checkers are told of it when its batch is authentic or a signed tree, which no other batch
// gets into, holds it.
func (v *verification) replayEntry(b batch, data []byte, authentic bool) error {
	index := v.rebuild.size
	if err := v.beginBlock(index); err != nil {
		return err
	}
	e, parseErr := ParseEntry(data)
	leaf := tlog.RecordHash(data)
	if stored, ok := v.provenLeaf(index, leaf); ok && stored != leaf {
		v.find(Finding{Table: "audit_batch", Index: index, Action: e.Action, Batch: b.String(), Text: "the entry is not the one that the tree holds"})
		return v.take(stored, nil)
	}
	if parseErr != nil {
		v.find(Finding{Table: "audit_batch", Index: index, Batch: b.String(), Text: parseErr.Error()})
		return v.take(leaf, nil)
	}
	if err := v.take(leaf, &e); err != nil {
		return err
	}
	if authentic || index < v.report.Checkpoint {
		v.tellCheckers(b, index, e)
	}
	return nil
}

func (v *verification) tellCheckers(b batch, index int64, e Entry) {
	if index < v.kept.idx {
		return // what was kept there knows of it
	}
	for _, err := range split(v.kept.entry(index, &e)) {
		v.find(Finding{Table: "audit_snapshot", Index: index, Action: e.Action, Batch: b.String(), Text: err.Error()})
	}
	for _, c := range v.options.Checkers {
		if c.Entry == nil {
			continue
		}
		if err := c.Entry(index, e); err != nil {
			v.find(Finding{Table: c.Name, Index: index, Action: e.Action, Batch: b.String(), Text: err.Error()})
		}
	}
}

// replayPending tells the checkers of what was committed between the sequencing and this transaction: the slices' tables show it already. The
// entries have no place in the tree yet; they are told in the order in which they will probably stand there. A batch without its MAC is
// named and not told of.
func (v *verification) replayPending() error {
	if v.report.Pending == 0 {
		return nil
	}
	index := v.rebuild.size
	return v.tx.Each(v.ctx, func(r db.Row) error {
		var b batch
		var stream, body, mac []byte
		if err := r.Scan(&stream, &b.seq, &b.part, &b.ts, &b.n, &body, &mac); err != nil {
			return err
		}
		copy(b.stream[:], stream)
		var entries [][]byte
		err := v.log.macs.check(b, body, mac)
		if err == nil {
			entries, err = splitBody(body, b.ts, b.n)
		}
		if err != nil {
			v.find(Finding{Table: "audit_batch", Index: -1, Batch: b.String(), Text: err.Error()})
		}
		for _, data := range entries {
			e, err := ParseEntry(data)
			if err != nil {
				v.find(Finding{Table: "audit_batch", Index: index, Batch: b.String(), Text: err.Error()})
			} else {
				v.tellCheckers(b, index, e)
			}
			index++
		}
		return nil
	}, `SELECT b.stream, b.seq, b.part, b.ts, b.n, b.body, b.mac FROM audit_batch b
			LEFT JOIN audit_cursor c ON c.cell = 0 AND c.stream = b.stream
		WHERE b.cell = 0 AND (c.stream IS NULL OR b.seq > c.seq OR b.seq = c.seq AND b.part > c.part)
		ORDER BY b.ts, b.stream, b.seq, b.part`)
}

// replayStored takes n hashes from the tree in place of entries that cannot be read.
func (v *verification) replayStored(n int64) error {
	for range min(n, v.tree.N-v.rebuild.size) {
		if err := v.beginBlock(v.rebuild.size); err != nil {
			return err
		}
		leaf, _ := v.provenLeaf(v.rebuild.size, tlog.Hash{})
		if err := v.take(leaf, nil); err != nil {
			return err
		}
	}
	return nil
}

// provenLeaf returns the hash that the stored tree holds for the entry at index, and whether the trusted tree proves it. The proof is only
// looked for when the hash is not the expected one.
func (v *verification) provenLeaf(index int64, expected tlog.Hash) (tlog.Hash, bool) {
	var stored tlog.Hash
	at := int(index%blockEntries) * tlog.HashSize
	if at+tlog.HashSize > len(v.stored) {
		return stored, false
	}
	copy(stored[:], v.stored[at:])
	if stored == expected {
		return stored, true
	}
	if v.report.More {
		return stored, false // enough is known to be wrong; proofs for each of a million entries tell nobody more
	}
	tree := v.trusted
	if index >= tree.N {
		tree = v.tree
	}
	proven, err := newTiles(v.ctx, v.tx).proven(tree).ReadHashes([]int64{tlog.StoredHashIndex(0, index)})
	return stored, err == nil && proven[0] == stored
}

// beginBlock reads the stored tile when index is the first of its block.
func (v *verification) beginBlock(index int64) error {
	if index%blockEntries != 0 || v.filter != nil {
		return nil
	}
	v.filter, v.partial, v.present = make(filter, filterSize), false, false
	data, err := newTiles(v.ctx, v.tx).read(0, index/blockEntries)
	v.stored = data
	return err
}

// take adds one entry of the block that was begun to the rebuilt tree and the filter; e is nil when it could not be read.
func (v *verification) take(leaf tlog.Hash, e *Entry) error {
	v.present = true
	if e == nil {
		v.partial = true
	} else {
		v.filter.add(termsOf(e.Action, e.Device, e.Serial))
	}
	return v.add(leaf)
}

// add adds one hash to the rebuilt tree.
func (v *verification) add(leaf tlog.Hash) error {
	if err := v.rebuild.add(leaf); err != nil {
		return err
	}
	v.passSigned()
	if p := v.options.Progress; p != nil && v.rebuild.size%progressEvery == 0 {
		p(v.rebuild.size, v.tree.N)
	}
	if v.rebuild.size%blockEntries == 0 {
		return v.endBlock()
	}
	return nil
}

// endBlock compares the stored filter of the block that ends.
func (v *verification) endBlock() error {
	if v.filter == nil {
		return nil
	}
	block := (v.rebuild.size - 1) / blockEntries
	var stored []byte
	if _, err := v.tx.Get(v.ctx, []any{&stored}, `SELECT data FROM audit_filter WHERE cell = 0 AND block = $1`, block); err != nil {
		return err
	}
	if !v.present { // all of it has left, and the filter leaves last
		v.filter = nil
		return nil
	}
	fits := bytes.Equal(stored, v.filter)
	if v.partial && len(stored) == filterSize {
		fits = true
		for i := range v.filter {
			fits = fits && v.filter[i]&^stored[i] == 0
		}
	}
	if !fits {
		v.find(Finding{Table: "audit_filter", Index: block * blockEntries, Text: fmt.Sprintf("filter %d, of the %d entries from here on, is not the one that they make", block, blockEntries)})
	}
	v.filter = nil
	return nil
}

// checkTile compares a tile with the stored one.
func (v *verification) checkTile(level int, n int64, hashes []tlog.Hash) error {
	stored, err := newTiles(v.ctx, v.tx).read(int64(level), n)
	if err != nil {
		return err
	}
	first := n << (tileHeight * (level + 1))
	if len(stored) != len(hashes)*tlog.HashSize {
		v.find(Finding{Table: "audit_tile", Index: first, Text: fmt.Sprintf("tile %d/%d is missing or has %d octets in place of %d", level, n, len(stored), len(hashes)*tlog.HashSize)})
		return nil
	}
	for i, h := range hashes {
		if !bytes.Equal(h[:], stored[i*tlog.HashSize:(i+1)*tlog.HashSize]) {
			v.find(Finding{Table: "audit_tile", Index: first + int64(i)<<(tileHeight*level), Text: fmt.Sprintf("hash %d of tile %d/%d is not the one that the entries make", i, level, n)})
			return nil
		}
	}
	return nil
}
