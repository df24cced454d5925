// Package campaign renews the certificates of many devices by plan: "re-key group X to P-384 by March, 5 % a day, stop if more than 1 % fail".
//
// How it works. A campaign chooses devices by a filter of the inventory, when it is started, and gives each a place in the order by a hash. Its
// places are released with time at the campaign's rate: a device whose place is released has its turn. Nothing is sent to devices. A
// device asks by itself every few hours when it is to renew (Hint), and is told "now, with a key of this kind" when its turn has come. A
// device that never asks renews at its own time and meets the campaign then: some time after its turn, what the campaign demands is
// enforced by enrolment (Demand).
//
// Success is the first authenticated use of the new certificate: the agent asks again with it at once. For devices that never ask it is
// the issue, if the campaign says so (Spec.ByIssue), else the end of the campaign.
//
// A device fails when its request is refused after it was told, when it says so itself, or when it was told and has no new certificate after
// Spec.Patience. When more fail than Spec.MaxFailed of those that had their chance, the campaign pauses by itself. A failed device that
// succeeds later counts as succeeded.
//
// One node at a time, under a lease, takes devices in, looks after those whose turn has come and moves the campaign on (Run). What it does is
// done in steps of a few hundred devices that can be repeated, so a crash loses nothing.
//
// The package deliberately sends nothing, issues nothing, and does not decide whether a device may have a certificate.
package campaign

import (
	"context"
	"embed"
	"encoding/hex"
	"io/fs"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/approve"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/revoke"
)

//go:embed schema/*.sql
var schemaFiles embed.FS

// Schema returns the migrations of this slice.
func Schema() db.Schema {
	files, err := fs.Sub(schemaFiles, "schema")
	if err != nil {
		panic(err) // "schema" is a valid path; fs.Sub looks at nothing else
	}
	return db.Schema{Name: "campaign", FS: files}
}

// ID names one campaign.
type ID [16]byte

// String returns the id in hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// State is where a campaign stands. The numbers are stored.
type State int16

// The states.
const (
	Draft    State = 1 // nothing happens; a second person may have to agree
	Approved State = 2 // a second person has agreed
	Running  State = 3
	Paused   State = 4
	Done     State = 5
	Aborted  State = 6 // what was done stays done
)

var stateNames = [...]string{Draft: "draft", Approved: "approved", Running: "running", Paused: "paused", Done: "done", Aborted: "aborted"}

// String returns the state's name, or "unknown".
func (s State) String() string {
	if s < Draft || s > Aborted {
		return "unknown"
	}
	return stateNames[s]
}

type move string

const (
	moveApprove move = "approve" // by the second person
	moveRefuse  move = "refuse"  // by the second person
	moveStart   move = "start"
	movePause   move = "pause"
	moveResume  move = "resume"
	moveFinish  move = "finish"
	moveAbort   move = "abort"
	moveExcuse  move = "excuse" // fewer failures are excused: it goes on
)

// What the record calls them.
const (
	actionCreate  = "campaign.create"
	actionApprove = "campaign.approve"
	actionRefuse  = "campaign.refuse"
	actionStart   = "campaign.start"
	actionPause   = "campaign.pause"
	actionResume  = "campaign.resume"
	actionFinish  = "campaign.finish"
	actionAbort   = "campaign.abort"
	actionExcuse  = "campaign.excuse"
)

func (m move) action() string {
	return map[move]string{moveApprove: actionApprove, moveRefuse: actionRefuse, moveStart: actionStart, movePause: actionPause, moveResume: actionResume,
		moveFinish: actionFinish, moveAbort: actionAbort, moveExcuse: actionExcuse}[m]
}

// moves is the whole life cycle. What is not listed is forbidden.
var moves = map[State]map[move]State{
	Draft:    {moveApprove: Approved, moveRefuse: Aborted, moveStart: Running, moveAbort: Aborted},
	Approved: {moveStart: Running, moveAbort: Aborted},
	Running:  {movePause: Paused, moveFinish: Done, moveAbort: Aborted, moveExcuse: Running},
	Paused:   {moveResume: Running, moveFinish: Done, moveAbort: Aborted},
	Done:     {},
	Aborted:  {},
}

// after returns the state that m leads to from s, or a Conflict that says what may be done instead.
func (s State) after(m move) (State, error) {
	to, ok := moves[s][m]
	if ok {
		return to, nil
	}
	var possible []string
	for _, m := range []move{moveStart, movePause, moveResume, moveAbort} {
		if _, ok := moves[s][m]; ok {
			possible = append(possible, string(m))
		}
	}
	if len(possible) == 0 {
		return 0, errs.New(errs.Conflict, "the campaign is %s: it has ended", s)
	}
	return 0, errs.New(errs.Conflict, "a campaign that is %s takes no %s: possible is %s", s, m, strings.Join(possible, ", "))
}

// Campaign is a campaign as it stands.
type Campaign struct {
	ID    ID
	State State
	Spec
	Maker    string     // as the record names actors
	Created  int64      // UTC seconds, as all times
	Approval approve.ID // of the second person; zero when none is needed
	Started  int64      // 0 = not yet
	Elapsed  int64      // seconds that it has run for, without the stretch since Resumed
	Resumed  int64      // since when it runs; 0 = it does not
	Excused  int64      // failures that a person has looked at: they do not stop it again
	Note     string     // why it stands as it does
	Ended    int64
	Filled   bool // all its devices were taken in
	cursor   string
	turn     int64
}

// Progress is how many devices of a campaign stand where.
type Progress struct {
	Waiting, Told, Issued, Closing, Done, Failed, Skipped int64
}

// Total is how many devices were taken in.
func (p *Progress) Total() int64 {
	return p.Waiting + p.Told + p.Issued + p.Closing + p.Done + p.Failed + p.Skipped
}

// reached is how many had their chance.
func (p *Progress) reached() int64 { return p.Told + p.Issued + p.Closing + p.Done + p.Failed }

// Deps are what a Service stands on.
type Deps struct {
	DB      *db.DB
	Audit   *audit.Log
	Access  *access.Decider
	Approve *approve.Service
	Devices *device.Registry
	CA      *ca.Authority
	Revoke  *revoke.Service
	Now     func() time.Time
	Log     *slog.Logger // nil: silent
	// AskAbove is from how many devices a second person must agree; negative: never.
	AskAbove int
}

// Service keeps campaigns. It is safe for concurrent use.
type Service struct {
	Deps
	running atomic.Pointer[[]Campaign] // those that run, as of at most pollEvery ago
	work    chan struct{}              // holds a token when somebody changed a campaign
}

// runningMost bounds the campaigns that run at once: each costs a look-up at every question of a device.
const runningMost = 16

// New returns the service over d. It starts nothing.
func New(d Deps) *Service {
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	s := &Service{Deps: d, work: make(chan struct{}, 1)}
	s.running.Store(&[]Campaign{})
	return s
}

// refresh reads which campaigns run.
func (s *Service) refresh(ctx context.Context) error {
	var list []Campaign
	err := s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		list, err = readAll(ctx, tx, selects+` AND state = $1 ORDER BY id`, int64(Running))
		return err
	})
	if err == nil {
		s.running.Store(&list)
	}
	return err
}
