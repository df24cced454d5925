package audit

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
)

// Checker compares a slice's own tables with the replayed record.
//
// What it has replayed is kept when the entries up to some place are about to leave: Save writes it, and Load gives it to the Checker of a later
// verification, which is told only of the entries that follow. What is kept must not grow with time: it may be as large as the slice's
// tables are. Save changes nothing in the Checker. It may look into the tables in tx, which are those of the present while the entries are
// replayed up to some time ago only, and leave out what is gone there and no later entry can speak of.
type Checker struct {
	Name   string
	Entry  func(index int64, e Entry) error                           // called for every entry in order; an error becomes a finding at that entry
	Finish func(ctx context.Context, tx *db.Tx) error                 // called at the end, in the transaction that everything was read in; each of joined errors becomes a finding
	Save   func(ctx context.Context, tx *db.Tx, w *StateWriter) error // with Load, needed wherever entries may leave
	Load   func(r *StateReader) error                                 // an error, or one that r has, becomes a finding
}

// VerifyOptions say what Verify does besides.
type VerifyOptions struct {
	Progress func(done, total int64) // called now and then, in entries; may be nil
	Checkers []Checker
	Known    [][]byte // signed checkpoints that were kept elsewhere: the tree must contain their trees
}

// Report is what Verify found.
type Report struct {
	Entries    int64 // in the tree
	Pending    int64 // batches committed while Verify was starting: not yet in the tree, so that only the slices' tables are compared with them
	Streams    int64
	Root       tlog.Hash // as recomputed
	Checkpoint int64     // entries under the newest valid checkpoint
	Replayed   int64     // the slices' tables were compared with what was kept at this entry and all entries that follow; 0 = with all entries
	Dropped    int64     // entries whose bodies have left: only their hashes were verified
	Findings   []Finding // empty = everything fits; at most 100, in the order of the entries, then of the tables
	More       bool      // there were further findings
}

// Finding names one thing that does not fit.
type Finding struct {
	Table  string // where the damage is
	Index  int64  // of the entry, -1 = it concerns no single entry
	Action string // of the entry, where it can be read
	Batch  string // stream/seq/part of the entry's batch
	Text   string
}

// String returns the finding in one line.
func (f Finding) String() string {
	var b strings.Builder
	b.WriteString(f.Table)
	if f.Index >= 0 {
		fmt.Fprintf(&b, ": entry %d", f.Index)
	}
	if f.Action != "" {
		fmt.Fprintf(&b, " (%s)", f.Action)
	}
	if f.Batch != "" {
		fmt.Fprintf(&b, " in batch %s", f.Batch)
	}
	b.WriteString(": " + f.Text)
	return b.String()
}

const (
	maxFindings   = 100
	mostMissing   = 20 // findings about batches that are gone
	progressEvery = 8192
)

// Verify recomputes everything from the batches to the checkpoints, all in one state of the database, in bounded memory. It sequences
// first, so that nothing that was committed before the call is left out. What is committed between that and its own transaction is not yet in
// the tree; the checkers are told of it all the same, since the slices' tables hold it already.
//
// The error says that verifying was not possible; damage is in the Report. Not to be found out: that the whole database was put back to an
// earlier state (give Known), that whole rows of older checkpoints are gone, and what says nothing about entries, namely the node, the
// outcome counter and the closed mark of a stream and a number of a stream that was never used.
//
// Where the bodies of old entries have left (Retention), their hashes are verified, and the Checkers start from what was kept when they left.
func (l *Log) Verify(ctx context.Context, o VerifyOptions) (Report, error) {
	return l.verify(ctx, &verification{log: l, options: o})
}

func (l *Log) verify(ctx context.Context, v *verification) (Report, error) {
	broken := l.Sequence(ctx)
	if cause := (*damage)(nil); errs.Is(broken, errs.Unavailable) && !errors.As(broken, &cause) {
		return Report{}, fmt.Errorf("sequencing before verifying: %w", broken) // the store or the key cannot be used: no word on the record
	}
	err := l.db.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		if v.tx != nil {
			return errors.New("the store interrupted verifying; start it again") // the checkers cannot start over
		}
		return v.run(ctx, tx)
	})
	if err != nil {
		return Report{}, fmt.Errorf("verifying the audit record: %w", err)
	}
	if broken != nil && len(v.report.Findings) == 0 {
		v.findf("audit_batch", "what was committed last cannot be sequenced: %v", broken)
	}
	return v.report, nil
}

// verification is one run of Verify.
type verification struct {
	log     *Log
	options VerifyOptions
	report  Report

	ctx     context.Context // of the transaction, for the same reason as in tiles
	tx      *db.Tx
	tree    tlog.Tree // as stored
	trusted tlog.Tree // the newest tree with a valid signature, else the stored one
	rebuild *rebuild
	signed  []signedTree // in order of size, not yet passed
	stored  []byte       // the stored tile of the present block
	filter  filter       // of the present block, as recomputed
	named   int          // findings so far, those beyond the bound included
	partial bool         // an entry of the present block could not be read, so filter lacks its terms
	present bool         // an entry of the present block was there
	missing int          // batches that are not there and should be
	kept    keptState
	saving  *saving // what is to be kept on the way; nil: nothing
	streams map[[8]byte]streamCount
}

// streamCount is what the positions say of a stream.
type streamCount struct {
	last  batch
	count int64 // whose bodies are there
	any   bool
}

// signedTree is a tree head that somebody has signed.
type signedTree struct {
	tlog.Tree
	table string
}

func (v *verification) find(f Finding) {
	v.named++
	if len(v.report.Findings) == maxFindings {
		v.report.More = true
		return
	}
	v.report.Findings = append(v.report.Findings, f)
}

func (v *verification) findf(table string, format string, args ...any) {
	v.find(Finding{Table: table, Index: -1, Text: fmt.Sprintf(format, args...)})
}

func (v *verification) run(ctx context.Context, tx *db.Tx) error {
	v.ctx, v.tx = ctx, tx
	v.streams = map[[8]byte]streamCount{}
	v.rebuild = &rebuild{finish: v.checkTile}
	for _, step := range []func() error{
		v.readHead, v.readCheckpoints, v.readSnapshot, v.checkEnd, v.replay, v.checkHead, v.checkTileCounts, v.checkCursors, v.checkBatches, v.checkCells, v.replayPending, v.checkSnapshot, v.runCheckers,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (v *verification) readHead() error {
	var root []byte
	found, err := v.tx.Get(v.ctx, []any{&v.tree.N, &root}, `SELECT size, root FROM tree WHERE cell = 0`)
	if err != nil {
		return err
	}
	if !found {
		return nil // an empty tree, or the positions will tell
	}
	if len(root) != tlog.HashSize {
		v.findf("tree", "the root has %d octets", len(root))
	}
	copy(v.tree.Hash[:], root)
	v.trusted = v.tree
	return nil
}

// readCheckpoints checks each signature. The trees are compared while the tree is rebuilt, at their sizes.
func (v *verification) readCheckpoints() error {
	if v.log.verifier == nil {
		return nil
	}
	for i, signed := range v.options.Known {
		c, err := openCheckpoint(signed, v.log.verifier)
		if err != nil {
			return fmt.Errorf("reading known checkpoint %d: %w", i+1, err)
		}
		v.insertSigned(signedTree{c.tree, "known checkpoint"})
	}
	return v.tx.Each(v.ctx, func(r db.Row) error {
		var size int64
		var text []byte
		if err := r.Scan(&size, &text); err != nil {
			return err
		}
		c, err := openCheckpoint(text, v.log.verifier)
		switch {
		case err != nil:
			v.findf("checkpoint", "the checkpoint of %d entries: %v", size, err)
		case c.tree.N != size:
			v.findf("checkpoint", "the checkpoint stored for %d entries is of %d", size, c.tree.N)
		default:
			v.insertSigned(signedTree{c.tree, "checkpoint"})
			v.report.Checkpoint, v.trusted = size, c.tree
		}
		return nil
	}, `SELECT size, text FROM checkpoint WHERE cell = 0 ORDER BY size`)
}

func (v *verification) insertSigned(t signedTree) {
	at := len(v.signed)
	for at > 0 && v.signed[at-1].N > t.N {
		at--
	}
	v.signed = append(v.signed[:at], append([]signedTree{t}, v.signed[at:]...)...)
}

// checkEnd compares the end of the positions with the tree's. Where both are wrong in the same way, the signed trees will tell.
func (v *verification) checkEnd() error {
	var end int64
	if _, err := v.tx.Get(v.ctx, []any{&end}, `SELECT idx + n FROM audit_pos WHERE cell = 0 ORDER BY idx DESC LIMIT 1`); err != nil {
		return err
	}
	table := "audit_pos"
	if end == v.trusted.N {
		table = "tree" // the signed tree vouches for the positions
	}
	if end != v.tree.N {
		v.findf(table, "the positions end at %d, the tree is said to have %d entries", end, v.tree.N)
	}
	return nil
}

// passSigned compares the signed trees of the present size.
func (v *verification) passSigned() {
	for len(v.signed) > 0 && v.signed[0].N <= v.rebuild.size {
		s := v.signed[0]
		v.signed = v.signed[1:]
		if s.N == v.rebuild.size && s.N > 0 && s.Hash != v.rebuild.root() {
			v.findf(s.table, "the tree signed at %d entries is not the one that these entries make", s.N)
		}
	}
}
