// Package audit is the tamper-evident record of everything that was done or refused, and the change feed that other parts follow.
//
// How it works. A writing transaction appends its entries as one row (Append, Stmt): no change without its entry, and writers never wait for
// each other. Afterwards one sequencer (Run) gives the entries their place in a Merkle tree (RFC 6962, section 2.1) and signs the tree's head
// as a checkpoint (c2sp.org/tlog-checkpoint, a signed note of three lines: origin, size, base64 root). Any entry can then be proven to a
// stranger (Prove, c2sp.org/tlog-proof), and everything can be recomputed (Verify). The place in the tree is also the cursor of the feed
// (Watch).
//
// Order of the sequencer, so that a crash between any two steps repeats the round or leaves it undone: read what was committed; compute
// hashes and tiles; one transaction that moves the tree from the old size to the new one; only after its commit, sign. A tree that does not
// grow out of the last signed one is never signed.
//
// Each row bears a MAC under a key that the database does not have; a row without the right one gets no place in the tree and stops the
// sequencer. So an entry stands in the tree because this platform wrote it, and not because somebody could write to the database.
//
// What it can not show by itself: that the whole database was put back to an earlier state. Keep a checkpoint elsewhere and hand it to
// VerifyOptions.Known.
//
// The entries themselves can leave after a time (Retention); their hashes, places and proofs stay, and so does what they led to, so that the tables
// can still be verified.
//
// The package deliberately holds no personal data and decides nothing but who may read the record.
package audit

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"

	"mooring/internal/base/db"
	"mooring/internal/core/access"
)

//go:embed schema/*.sql
var schemaFiles embed.FS

// Schema returns the migrations of this slice.
func Schema() db.Schema {
	files, err := fs.Sub(schemaFiles, "schema")
	if err != nil {
		panic(err) // "schema" is a valid path; fs.Sub looks at nothing else
	}
	return db.Schema{Name: "audit", FS: files}
}

// Options say under which name and keys the record is kept.
type Options struct {
	Origin   string        // the log's name, such as "fleet.example.com/audit"; it must be the name of the key
	Signer   note.Signer   // nil: this process signs nothing, as in a command that only reads
	Verifier note.Verifier // of the same key; nil: checkpoints can be neither made nor checked nor proofs given
	BatchKey []byte        // at least 32 secret octets: authenticates what is recorded, until it is sealed and afterwards
	Now      func() time.Time
	Log      *slog.Logger
	// Retention says for how long the entries themselves are kept; the zero value: for ever.
	Retention Retention
}

// Log is the record. It is safe for concurrent use.
type Log struct {
	db       *db.DB
	origin   string
	signer   note.Signer
	verifier note.Verifier
	now      func() time.Time
	log      *slog.Logger
	access   *access.Decider
	macs     *batchMAC
	months   *db.Monthly
	readied  atomic.Int64 // the last month that was found to have its place, and the next one too

	words     numbering
	retention Retention
	lastStamp atomic.Int64

	work     chan struct{} // holds a token when there may be something to sequence
	grown    signal        // fires when this process has seen the tree grow
	refusals tally         // of strangers
	// deviceRefusals is apart, so that strangers cannot fill it.
	deviceRefusals tally
	counts         counts
}

type counts struct {
	entries, rounds, failures, checkpoints atomic.Int64
	size                                   atomic.Int64
	behindSince                            atomic.Int64 // Unix seconds of the oldest entry known to wait; 0 = none
}

// New returns the record kept in d. It starts nothing. It panics when there is no clock, the batch key is too short or
// the signing key does not bear the origin's name.
func New(d *db.DB, o Options) *Log {
	if o.Now == nil {
		panic("audit: New without a clock")
	}
	if len(o.BatchKey) < minBatchKey {
		panic(fmt.Sprintf("audit: New with a batch key of %d octets, it needs %d", len(o.BatchKey), minBatchKey))
	}
	if v := o.Verifier; v != nil && v.Name() != o.Origin || o.Signer != nil && (v == nil || o.Signer.Name() != o.Origin || o.Signer.KeyHash() != v.KeyHash()) {
		panic("audit: New with a key that does not belong to the origin " + o.Origin)
	}
	l := &Log{db: d, origin: o.Origin, signer: o.Signer, verifier: o.Verifier, now: o.Now, log: o.Log, macs: newBatchMAC(o.BatchKey), words: numbered(), months: newMonths(d), retention: o.Retention, work: make(chan struct{}, 1)}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	l.access = access.NewDecider(l)
	if d.Arrays() {
		d.BeforeWrites(l.readyMonths)
	}
	return l
}

const (
	insertBatch  = `INSERT INTO audit_batch (cell, stream, seq, part, ts, n, body, mac) VALUES (0, $1, $2, $3, $4, $5, $6, $7)`
	batchEntries = 512 // entries in one row at most, so that no row grows with the size of an import
	microseconds = 1_000_000
)

// Append records entries in tx, which must be a writing transaction. They become part of the record when it commits.
//
// Call it after the statement that locks what the entries tell of. Then the entries of two changes to one thing stand in the record in the
// order of the changes: always on SQLite, and on PostgreSQL as far as the clocks of the servers agree.
func (l *Log) Append(ctx context.Context, tx *db.Tx, entries ...Entry) error {
	for len(entries) > 0 {
		n := min(len(entries), batchEntries)
		s := l.Stmt(tx, entries[:n]...)
		if _, err := tx.Exec(ctx, s.SQL, s.Args...); err != nil {
			return fmt.Errorf("recording %s: %w", entries[0].Action, err)
		}
		entries = entries[n:]
	}
	return nil
}

// Defer is Append for entries that are written with the commit, see db.Tx.Defer.
func (l *Log) Defer(tx *db.Tx, entries ...Entry) {
	for some := range slices.Chunk(entries, batchEntries) {
		tx.Defer(l.Stmt(tx, some...))
	}
}

// Stmt returns Append as a statement, to be sent together with others. There must be at least one entry and no more than a batch of
// requests makes, some hundreds.
func (l *Log) Stmt(tx *db.Tx, entries ...Entry) *db.Stmt {
	stamp := l.stamp()
	body := l.words.appendCompact(make([]byte, 0, 64+160*len(entries)), stamp, entries)
	id := tx.Batch()
	tx.OnCommit(l.nudge)
	b := batch{stream: id.Stream, seq: id.Seq, part: tx.Part(), ts: stamp, n: int64(len(entries))}
	return &db.Stmt{SQL: insertBatch, Args: []any{id.Stream[:], b.seq, b.part, b.ts, b.n, body, l.macs.sum(b, body)}}
}

// stamp returns the present in microseconds, and never the same or less than before: the order in which batches were written in this process
// must survive a clock that stands or is set back.
func (l *Log) stamp() int64 {
	for {
		last := l.lastStamp.Load()
		stamp := max(l.now().UnixMicro(), last+1)
		if l.lastStamp.CompareAndSwap(last, stamp) {
			return stamp
		}
	}
}

// Record records entries in a transaction of their own.
func (l *Log) Record(ctx context.Context, entries ...Entry) error {
	return l.db.Do(ctx, func(ctx context.Context, tx *db.Tx) error { return l.Append(ctx, tx, entries...) })
}

// nudge tells this process's sequencer, if it has the lease, that there is work.
func (l *Log) nudge() {
	select {
	case l.work <- struct{}{}:
	default:
	}
}

// signal wakes everybody who waits. The zero value is ready.
type signal struct {
	mu sync.Mutex
	ch chan struct{} // guarded by mu
}

// next returns a channel that is closed at the next fire.
func (s *signal) next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch == nil {
		s.ch = make(chan struct{})
	}
	return s.ch
}

func (s *signal) fire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch != nil {
		close(s.ch)
		s.ch = nil
	}
}
