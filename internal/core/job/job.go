// Package job does in the background what is too much for one request: it finds the items, shows them, waits for a second person and for
// the time in which one can still think better of it, then works through them in small steps.
//
// How it is meant to be used. A slice registers a Worker for its kind of job. Somebody makes a job (Create), either with all its items (a few in
// memory, or any number that come one by one) or with rules by which its worker finds them; looks at what was found (Get: the number, some examples); and starts it (Start). The items are
// kept, so that what is done is exactly what was looked at and approved, whatever changes meanwhile. One node at a time works, under a lease.
//
// The states, and what leads from one to the other:
//
//	draft --start--> waiting --approved--> scheduled --due--> running --finished--> done
//	                                           ^   |             |  |
//	                                        resume pause     pause  +--broken--> failed (resume leads back)
//	                                           +-- paused <------+
//	draft, waiting, scheduled, running, paused --cancel--> aborted
//	draft --broken--> failed --resume--> draft: what nobody has looked at or approved does not get around that by failing
//
// A job of more items than it may have without asking waits for another person's approval of exactly these items (package approve); smaller
// ones go on at once. Scheduled is the time to think better of it: nothing has happened yet.
//
// Why nothing is lost or done twice. A step is one transaction which takes the job's row under the condition that nobody wrote it since, does
// the work, moves the row on to the next chunk, and adds the entries. A process that is killed leaves either all of it or nothing; whoever has
// the lease next goes on at the row. Work that cannot be part of the transaction must be such that doing it again changes nothing.
//
// A job is done on the word of whoever made it, for as long as he has a word: when he has lost a permission that he had then, it is cancelled.
//
// Every change of the row has an entry in the record with a digest of the whole row, and the row holds digests over its items and results,
// so that Checker names whatever is changed by other hands.
//
// The package deliberately knows no kind of job, keeps no files, and never works at two chunks of one job at the same time. After each
// step it rests for a quarter of the time that the step took, so that requests keep their turn at the database.
package job

import (
	"context"
	"embed"
	"encoding/hex"
	"io/fs"
	"log/slog"
	"sync/atomic"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/approve"
	"mooring/internal/core/audit"
)

//go:embed schema/*.sql
var schemaFiles embed.FS

// Schema returns the migrations of this slice.
func Schema() db.Schema {
	files, err := fs.Sub(schemaFiles, "schema")
	if err != nil {
		panic(err) // "schema" is a valid path; fs.Sub looks at nothing else
	}
	return db.Schema{Name: "job", FS: files}
}

// ID names one job.
type ID [16]byte

// String returns the id in hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// ParseID reads what String writes.
func ParseID(text string) (ID, error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(ID{}) {
		return ID{}, errs.New(errs.Invalid, "job: %q is not an id of 32 hexadecimal digits: the list of jobs shows them", text[:min(len(text), 64)])
	}
	return ID(b), nil
}

// Kind names what a job does, such as "revoke".
type Kind string

// Job is a job as it stands.
type Job struct {
	ID     ID
	Kind   Kind
	State  State
	Title  string   // what it does, for people
	Params string   // JSON, as its worker understands it
	Sample []string // some of its items, for people

	Ready   bool     // all its items are known
	Auto    bool     // it starts as soon as it is ready
	Place   string   // where the search for items goes on
	Chunks  int64    // its items stand in so many rows
	Digest  [32]byte // over all items
	Next    int64    // the chunk that is worked on next
	Total   int64    // items known so far
	Done    int64
	Skipped int64 // that needed nothing
	Failed  int64
	Results int64 // items of which it is kept what became of them

	Maker     access.Actor
	AskAbove  int64         // a second person must agree when there are more items; negative: never
	Undo      time.Duration // between start and first deed
	NotBefore int64         // UTC seconds
	Created   int64
	Began     int64
	Ended     int64
	Busy      time.Duration // of work so far, with the rests between steps
	Note      string        // why it stands as it does

	kept         bool
	resultDigest [32]byte
	turn         int64
}

// Handled returns how many items are behind it.
func (j *Job) Handled() int64 { return j.Done + j.Skipped + j.Failed }

// Rate returns how many items a second it has handled, 0 when that is not known.
func (j *Job) Rate() float64 {
	if j.Busy <= 0 {
		return 0
	}
	return float64(j.Handled()) / j.Busy.Seconds()
}

// Left returns how long it will probably still take, 0 when that is not known or it does not run.
func (j *Job) Left() time.Duration {
	rate := j.Rate()
	if rate == 0 || j.State != Running {
		return 0
	}
	return time.Duration(float64(j.Total-j.Handled()) / rate * float64(time.Second)).Round(time.Second)
}

// Worker does one kind of job.
type Worker struct {
	Kind  Kind
	Needs access.Permission // of whoever makes, starts, resumes or approves such a job
	Unit  string            // what its items are, in the plural
	// Fill looks for the next items of a job that was made without; nil where all come with it. It reads, writes nothing, and may be called again
	// for the same place.
	Fill func(ctx context.Context, j Job) (Part, error)
	// Step handles b.Items and calls b.Commit once, as its last act that can fail. An error of kind Unavailable or Conflict has it called
	// again later; any other ends the job. An item that cannot be handled is a result, not an error.
	Step func(ctx context.Context, b *Batch) error
	// KeepAll says that every result is kept, and not only the first that failed.
	KeepAll bool
	// Chunk is how many items a step has at most; 0 = ChunkMost.
	Chunk int
	// Whole says that a job which has begun is brought to its end: nobody cancels it.
	Whole bool
	// Rest is called without the job's turn after each step and at the end, for what may lag behind the steps; nil for nothing. last says that
	// no step follows for now.
	Rest func(ctx context.Context, j Job, last bool)
}

// Part is what one look for items found.
type Part struct {
	Items  [][]byte
	Sample []string // of these, for people; the first SampleMost of a job are kept
	Note   string   // what is to be known about the items; "" leaves the one there is
	Place  string   // where to go on
	End    bool     // there are no more
}

// The bounds.
const (
	ChunkMost   = 500      // items in a step, where the worker says nothing else
	chunkSize   = 1 << 20  // octets of a step's items, unless a single item has more
	SampleMost  = 10       // examples of a job
	ResultsMost = 1000     // results that are kept of items that failed
	itemMost    = 64 << 10 // octets of one item
	paramsMost  = 64 << 10
	openMost    = 100                 // jobs that are not ended
	draftLife   = 24 * time.Hour      // until a draft that nobody starts ends
	keepFor     = 30 * 24 * time.Hour // how long an ended job is remembered
	undoMost    = 30 * 24 * time.Hour
)

// Deps are what a Service stands on.
type Deps struct {
	DB      *db.DB
	Audit   *audit.Log
	Access  *access.Decider
	Approve *approve.Service
	Now     func() time.Time
	Log     *slog.Logger // nil: silent
	// Role returns the role that somebody who made a job has now; nil: the one that he had then.
	Role func(ctx context.Context, maker access.Actor) (access.Role, error)
}

// Service keeps and runs jobs. It is safe for concurrent use once every worker is registered.
type Service struct {
	Deps
	workers map[Kind]Worker
	counts  counts
	work    chan struct{} // holds a token when a job of this process may be due
}

type counts struct{ steps, done, failed, troubles atomic.Int64 }

// Metrics are counts since the start of this process, of what it did while it had the lease.
type Metrics struct {
	Steps        int64 // transactions that moved a job on
	Done, Failed int64 // items
	Troubles     int64 // times that a job could not go on
}

// Metrics returns the counts.
func (s *Service) Metrics() Metrics {
	c := &s.counts
	return Metrics{Steps: c.steps.Load(), Done: c.done.Load(), Failed: c.failed.Load(), Troubles: c.troubles.Load()}
}

// New returns the service over d. It starts nothing; Run does.
func New(d Deps) *Service {
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	return &Service{Deps: d, workers: map[Kind]Worker{}, work: make(chan struct{}, 1)}
}

// Register makes w the worker of its kind. It is called before Run, and for each kind once.
func (s *Service) Register(w Worker) {
	if _, twice := s.workers[w.Kind]; twice || w.Kind == "" || w.Step == nil || w.Needs == "" || w.Unit == "" {
		panic("job: the worker of " + string(w.Kind) + " is incomplete or registered twice")
	}
	s.workers[w.Kind] = w
}

// Unit says what the items of jobs of this kind are.
func (s *Service) Unit(k Kind) string { return s.workers[k].Unit }

func (s *Service) worker(k Kind) (Worker, error) {
	w, ok := s.workers[k]
	if !ok {
		return w, errs.New(errs.Unavailable, "this node cannot do jobs of the kind %q: another version made it", k)
	}
	return w, nil
}
