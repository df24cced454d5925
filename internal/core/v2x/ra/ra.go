// Package ra is the part of an enrolment authority that gets stations many tickets with one request, by butterfly key expansion (TS 102 941, 6.2.3.5); in IEEE 1609.2.1
// it is a registration authority of its own. It stands on package ea, which knows who a station is and counts its tickets, and shares its store.
//
// A station sends a caterpillar key once (Request). From it the authority makes a cocoon key for each ticket of each period, asks an authorization authority for them, and
// keeps what comes, which only the station can read, until the station fetches it (Download):
//
//	Request  -> v2x_order, and the tickets of the first periods in v2x_waiting; later periods follow as they come near (plan)
//	Mix      -> those of many stations, shuffled, go to the authorization authority; the answers into v2x_waiting
//	         -> when all of a period are there, v2x_archive, once and for all
//	Download <- the archive
//
// Which station a ticket is of is known neither here nor there. The authorization authority adds a random point to each cocoon key, so that keys of tickets cannot be computed
// here; strict switches that off, and with it this protection. And it gets the requests of at least Policy.Stations stations in one shuffle, whose keys are expanded in the same way; when there are not so many
// within Policy.Wait, those that are missing are made up: their tickets are of keys that nobody has.
//
// All periods begin and end at the same moments for all stations: what a ticket says of time tells nobody apart. A period is counted in the same transaction, under the
// same lock and against the same limits as tickets one by one. Planned tickets, answers and archives are rows that survive a crash; what is asked for again gets the
// same answer from the authorization authority. A request that a station repeats, to the octet, gets the same answer too.
//
// Whoever is stopped in the registry gets nothing more: nothing is planned, sent or handed out for it.
package ra

import (
	"context"
	"embed"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/audit"
	"mooring/internal/core/v2x/ea"
	"mooring/internal/core/v2x/trust"
	"mooring/wire/its"
)

//go:embed schema/*.sql
var schemaFiles embed.FS

// Schema returns the migrations of this slice.
func Schema() db.Schema {
	files, err := fs.Sub(schemaFiles, "schema")
	if err != nil {
		panic(err) // "schema" is a valid path; fs.Sub looks at nothing else
	}
	return db.Schema{Name: "v2xra", FS: files}
}

// Issuing reaches an authorization authority. An error is that it cannot be reached, or refuses; the same request may be sent again.
type Issuing interface {
	Issue(ctx context.Context, url string, request []byte) (answer []byte, err error)
}

// Policy is how tickets are made.
type Policy struct {
	Period   time.Duration // whole minutes
	Overlap  time.Duration // how long tickets live on in the period after theirs, as far as the limit of the enrolment authority allows
	Tickets  int           // of a station in each period
	Ahead    int           // how many periods are made in advance, the present one among them
	Stations int           // how many stations are mixed at least
	Wait     time.Duration // how long the first of them waits at most
	Strict   bool          // the keys of tickets are the cocoon keys, and each request is a message of its own: as TS 102 941 has it
}

// Deps are what a Service stands on.
type Deps struct {
	DB      *db.DB
	Audit   *audit.Log
	Trust   *trust.Service
	EA      *ea.Service
	Issuing Issuing
	URL     string // of the authorization authority, for this; without path
	Policy  Policy
	Tokens  *Tokens   // nil: no OAuth server is believed
	Random  io.Reader // safe for concurrent use
	Now     func() time.Time
	Log     *slog.Logger
}

// Service is the authority. It is safe for concurrent use.
type Service struct {
	Deps
	work chan struct{} // capacity 1: something waits

	mu      sync.Mutex
	delayed map[its.HashedId8]time.Time // guarded by mu: requests whose next period cannot be planned now
	refused map[place]time.Time         // guarded by mu: tickets that were refused
}

// New returns the service over d. It starts nothing.
func New(d Deps) *Service {
	return &Service{Deps: d, work: make(chan struct{}, 1), delayed: map[its.HashedId8]time.Time{}, refused: map[place]time.Time{}}
}

// Paths at the authorization authority.
const (
	IssuePath     = "/butterfly"
	IssueManyPath = "/butterfly/many"
)

// period is the number of the one that a moment lies in.
func (s *Service) period(at its.Time32) int64 {
	return (int64(at) - int64(its.FirstPeriod)) / int64(s.Policy.Period/time.Second)
}

// valid is how long tickets of a period are.
func (s *Service) valid(i int64) its.ValidityPeriod {
	life := min(s.Policy.Period+s.Policy.Overlap, s.EA.Policy.Ticket)
	d := its.Duration{Choice: its.Minutes, Value: uint16(min(life/time.Minute, 1<<16-1))}
	if life%time.Hour == 0 {
		d = its.Duration{Choice: its.Hours, Value: uint16(min(life/time.Hour, 1<<16-1))}
	}
	return its.ValidityPeriod{Start: its.FirstPeriod + its.Time32(i*int64(s.Policy.Period/time.Second)), Duration: d}
}

func (s *Service) seconds() its.Time32 { return its.Time32(s.Trust.At() / 1e6) }

// unix is a moment of certificates in UTC.
func (s *Service) unix(t its.Time32) int64 { return t.Time(s.Trust.Leap).Unix() }

// Keep is how long tickets are asked for. An authorization authority answers the same longer than that, so that there are never two for one cocoon key.
const Keep = 7 * 24 * time.Hour

// How often things are looked at that nobody announces.
const (
	mixEvery   = 10 * time.Second
	mixLeast   = 100 * time.Millisecond // between two looks
	mixLatest  = 10 * time.Minute       // after failures
	pruneEvery = 5 * time.Minute
	delay      = 10 * time.Minute // until a period is planned again that could not be
)

const leaseName = "v2x-ra"

// Run plans, mixes and takes away what is over, until ctx ends. In a cluster one process does.
func (s *Service) Run(ctx context.Context) error {
	if s.Policy.Strict {
		s.Log.LogAttrs(ctx, slog.LevelWarn, "v2x.butterfly_strict is set: this enrolment authority can recognise the tickets of each station that get their keys from it")
	}
	return s.DB.Lead(ctx, leaseName, func(ctx context.Context, _ *db.Lease) error {
		r := rounds{Service: s}
		for {
			wait := mixEvery
			if err := r.next(ctx); err != nil && ctx.Err() == nil {
				r.failed++
				wait = min(mixEvery<<min(r.failed-1, 8), mixLatest)
				s.Log.LogAttrs(ctx, slog.LevelWarn, "getting V2X tickets for butterfly keys failed; it is tried again", slog.Any("error", err), slog.Duration("in", wait))
			} else {
				r.failed = 0
			}
			if !s.rest(ctx, wait, r.failed == 0) {
				return nil
			}
		}
	})
}

// rest waits, but not longer than until there is work, if that is asked for. It returns false when ctx ends.
func (s *Service) rest(ctx context.Context, most time.Duration, work bool) bool {
	least, timer := time.NewTimer(mixLeast), time.NewTimer(most)
	defer least.Stop()
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-least.C:
	}
	announced := s.work
	if !work {
		announced = nil
	}
	select {
	case <-ctx.Done():
		return false
	case <-announced:
	case <-timer.C:
	}
	return true
}

// rounds is what Run remembers.
type rounds struct {
	*Service
	pruned time.Time
	failed int
}

func (r *rounds) next(ctx context.Context) error {
	if now := r.Now(); now.Sub(r.pruned) >= pruneEvery {
		if err := errors.Join(r.Prune(ctx), r.finish(ctx)); err != nil {
			return err
		}
		r.pruned = now
	}
	if err := r.Plan(ctx); err != nil {
		return err
	}
	return r.mix(ctx)
}

// nudge has Run look at once.
func (s *Service) nudge() {
	select {
	case s.work <- struct{}{}:
	default:
	}
}

// hour is the present, as far as the record tells it of what goes to an authorization authority.
func (s *Service) hour() int64 { return s.Now().Unix() / 3600 * 3600 }

// errRefused is what whoever asks is told, whatever the reason: it says nothing of stations.
var errRefused = errs.New(errs.Denied, "the request is refused")
