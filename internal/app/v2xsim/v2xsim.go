// Package v2xsim runs a fleet of vehicles through the authorities of TS 102 941 on this machine: a whole platform on loopback with the embedded database, an
// authorization authority with a store of its own, and vehicles that fetch the trust list, enrol and get their tickets by the messages of the standard,
// through the public agent/v2x, each with the folder of a Station. They ask for each ticket by itself, or once for all of them, by butterfly keys. Both authorities run in this process, or each in one of its
// own, where they can be killed in the middle of it.
//
// It is what "mooring v2x simulate" shows. Every ticket is verified up to the root by the vehicle, and afterwards all of them are compared with each other and with
// what both stores counted. All messages are recorded; with them and with all files of each authority it is looked at what each one, and each pair, could link
// (Collusion). It takes one short cut into the platform: vehicles are registered in process, before it runs.
package v2xsim

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	agent "mooring/agent/v2x"
	"mooring/internal/app"
	"mooring/internal/base/conf"
	"mooring/internal/base/db"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
	"mooring/wire/its"
	"mooring/wire/scr"
)

// Options say how large the fleet is.
type Options struct {
	Dir      string // the data directory to make; must not exist or be empty
	Vehicles int    // 1 to MaxVehicles
	Weeks    int    // 1 to 13: tickets may begin three months ahead
	Tickets  int    // of each vehicle and week, 1 to 100
	Workers  int    // vehicles that are busy at once; 0: 8
	strict   bool   // the enrolment authority knows the keys of butterfly tickets: for tests of whether that shows
	alone    bool   // butterfly tickets leave without those of others, likewise
	// Serve returns a command that serves the data directory, ServeAA one that runs the authorization authority of a directory. Without them both run in this
	// process.
	Serve, ServeAA func(dir string) *exec.Cmd
	Kill           int // how often one of the two processes is killed while tickets are asked for, in turn
	// Butterfly, if not "", is by which butterfly keys the vehicles ask for their tickets. Otherwise they ask for each by itself.
	Butterfly agent.ByButterfly
	Log       *slog.Logger
	Now       func() time.Time
	// Progress, if not nil, is told how far a stage is; it may be called from several goroutines.
	Progress func(stage string, done, total int)
}

// MaxVehicles bounds the fleet, MaxKill how often an authority is killed.
const (
	MaxVehicles = 100_000
	MaxKill     = 100
)

// Result is what came of it.
type Result struct {
	Vehicles         int     `json:"vehicles"`
	Enrolled         int     `json:"enrolled"`
	Tickets          int     `json:"tickets"`
	Verified         int     `json:"verified"` // tickets whose chain the vehicle verified up to the root
	Doubled          int     `json:"doubled"`  // tickets that somebody had before
	Counted          int     `json:"counted"`  // tickets that the enrolment authority's store counts
	Issued           int     `json:"issued"`   // tickets that the authorization authority's store has, but for those that were made up
	MadeUp           int     `json:"made_up"`  // tickets of the authorization authority's store whose keys nobody has, since there were not vehicles enough to be mixed
	Butterfly        string  `json:"butterfly,omitempty"`
	Killed           int     `json:"killed"`   // how often an authority was killed
	Repeated         int     `json:"repeated"` // how often a request was sent again, since there was no answer
	Refused          int     `json:"refused"`  // requests of the vehicle that was suspended
	EnrolPerSecond   float64 `json:"enrol_per_s"`
	TicketsPerSecond float64 `json:"tickets_per_s"`
	CutOff           float64 `json:"cut_off_ms"` // from the suspension of a vehicle to the refusal of its request
	Links            []Link  `json:"links"`      // what each component and each pair could link
	Seconds          float64 `json:"seconds"`
	Root             string  `json:"root"`
	Dir              string  `json:"dir,omitempty"`
}

// Simulation is a fleet and its authorities.
type Simulation struct {
	Made app.V2XMade

	o        Options
	options  app.Options
	config   *conf.Config
	side     string // folder of what belongs to the simulation and to no authority
	fleet    []*vehicle
	run      *authorities
	traffic  *traffic
	tap      *tap
	issuing  *tap // where enrolment authorities ask for tickets of butterfly keys
	network  *recorder
	passing  sync.Mutex
	armed    int          // guarded by passing: how often an authority is still to be killed when an answer has come
	every    int          // guarded by passing: at how many answers
	answers  int          // guarded by passing
	kill     atomic.Int64 // how many processes were killed, or are being killed
	repeated atomic.Int64
}

// Check says whether the options make sense.
func (o Options) Check() error {
	for _, l := range []struct {
		what      string
		n, lo, hi int
	}{{"vehicles", o.Vehicles, 1, MaxVehicles}, {"weeks", o.Weeks, 1, 13}, {"tickets", o.Tickets, 1, 100}} {
		if l.n < l.lo || l.n > l.hi {
			return fmt.Errorf("%s: %d is not between %d and %d", l.what, l.n, l.lo, l.hi)
		}
	}
	switch {
	case o.Butterfly != "" && o.Butterfly != agent.ButterflyOriginal && o.Butterfly != agent.ButterflyUnified && o.Butterfly != agent.ButterflyCompact:
		return fmt.Errorf("butterfly: %q is none of original, unified and compact", o.Butterfly)
	case o.Kill < 0 || o.Kill > MaxKill:
		return fmt.Errorf("kill: %d is not between 0 and %d", o.Kill, MaxKill)
	case o.Kill > 0 && o.Serve == nil:
		return errors.New("kill: only what runs in processes of its own can be killed")
	}
	return nil
}

// Start makes a data directory, the authorities, their stores and the vehicles, and brings everything up. The caller calls Close.
func Start(ctx context.Context, o Options) (s *Simulation, err error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	if o.Workers == 0 {
		o.Workers = 8
	}
	s = &Simulation{o: o}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
			s = nil
		}
	}()
	if s.config, err = app.LoopbackV2X("Mooring Simulation"); err != nil {
		return s, err
	}
	if err := s.found(ctx); err != nil {
		return s, err
	}
	if err := s.register(ctx); err != nil {
		return s, fmt.Errorf("registering the vehicles: %w", err)
	}
	return s, s.up(ctx)
}

// found makes the authorities and the folder beside them. Who asks the enrolment authority goes through a tap, whose address is in the trust list.
func (s *Simulation) found(ctx context.Context) (err error) {
	c, listen := s.config, s.config.Listen.V2XAA
	if s.tap, err = newTap(c.V2XValidationURL()); err != nil {
		return err
	}
	c.V2X.ValidationURL, c.V2X.EATimeout = s.tap.url(), 20*time.Second // many vehicles on one machine
	if s.issuing, err = newTap(c.V2XAAURL()); err != nil {
		return err
	}
	if s.o.Butterfly != "" {
		c.V2X.Butterfly = s.butterfly()
	}
	if s.apart() {
		c.V2X.AAURL, c.Listen.V2XAA = "http://"+listen, ""
	}
	made, err := app.Init(ctx, app.InitOptions{Dir: s.o.Dir, Config: c, Now: s.o.Now, Log: s.o.Log})
	if err != nil {
		return err
	}
	s.options = app.Options{Config: c, Keys: made.Keys, Now: s.o.Now, Log: s.o.Log}
	if s.Made, err = app.MakeV2X(ctx, s.options, "Simulation"); err != nil {
		return err
	}
	s.side = filepath.Join(s.o.Dir, "simulation")
	if err := writeAA(filepath.Join(s.side, "aa"), listen, c, s.Made); err != nil {
		return err
	}
	if s.traffic, err = record(filepath.Join(s.side, "messages")); err != nil {
		return err
	}
	s.network = newRecorder(s.traffic)
	s.tap.serve(s.traffic, toValidation, nil)
	s.issuing.serve(s.traffic, toIssuing, func() error { return s.passed(ctx) })
	return nil
}

// mixWait is how long butterfly tickets wait at most for those of other vehicles, which all ask at once; long after that the tickets of a few are left over only where an authority was killed.
const mixWait = 5 * time.Second

// butterfly is how the authorities make butterfly tickets: those of all vehicles are mixed, or of a hundred where there are more.
func (s *Simulation) butterfly() conf.Butterfly {
	b := conf.Butterfly{On: true, AAURL: s.issuing.url(), Period: agent.Period, Tickets: s.o.Tickets, Ahead: s.o.Weeks, Stations: min(s.o.Vehicles, 100), Wait: mixWait, Strict: s.o.strict,
		Compact: s.o.Butterfly == agent.ButterflyCompact}
	if s.o.alone {
		b.Stations = 1
	}
	return b
}

func (s *Simulation) apart() bool { return s.o.Serve != nil }

// logs are the files to which the authorities log: none if they run in this process, whose log is the caller's.
func (s *Simulation) logs() []string {
	if !s.apart() {
		return nil
	}
	return []string{ofEA: filepath.Join(s.side, "ea.log"), ofAA: filepath.Join(s.side, "aa.log")}
}

// up brings the authorities up.
func (s *Simulation) up(ctx context.Context) (err error) {
	if !s.apart() {
		s.run, err = together(ctx, s.options)
		return err
	}
	l := s.config.Listen
	s.run = &authorities{}
	for i, p := range []*process{
		{name: "the enrolment authority", listens: []string{l.V2XEA, l.V2XValidation, l.V2XDC}, command: func() *exec.Cmd { return s.o.Serve(s.o.Dir) }},
		{name: "the authorization authority", listens: []string{strings.TrimPrefix(s.config.V2XAAURL(), "http://")}, command: func() *exec.Cmd { return s.o.ServeAA(filepath.Join(s.side, "aa")) }},
	} {
		p.log = s.logs()[i]
		if err := p.start(ctx); err != nil {
			return err
		}
		s.run.apart = append(s.run.apart, p)
	}
	return nil
}

// Close stops the authorities and waits for them. It may be called more than once.
func (s *Simulation) Close() error {
	err := errors.Join(s.run.close(), s.tap.close(), s.issuing.close(), s.traffic.close())
	s.run, s.tap, s.issuing, s.traffic = nil, nil, nil, nil
	return err
}

// Run runs the fleet through its weeks and stops the authorities. Afterwards it is looked at what they know.
func (s *Simulation) Run(ctx context.Context) (Result, error) {
	began := s.o.Now()
	r := Result{Vehicles: s.o.Vehicles, Root: s.Made.Root.String(), Dir: s.o.Dir, Butterfly: string(s.o.Butterfly)}
	var err error
	if r.Enrolled, r.EnrolPerSecond, err = s.each(ctx, "enrol", len(s.fleet), s.enrol); err != nil {
		return r, err
	}
	if err := s.provide(ctx, &r); err != nil {
		return r, err
	}
	r.Killed, r.Repeated = int(s.kill.Load()), int(s.repeated.Load())
	if r.Doubled, err = s.doubled(); err != nil {
		return r, err
	}
	if err := s.suspend(ctx, &r); err != nil {
		return r, err
	}
	if err := errors.Join(s.run.close(), s.tap.close(), s.issuing.close()); err != nil {
		return r, err
	}
	s.run, s.tap, s.issuing = nil, nil, nil
	if err := s.count(ctx, &r); err != nil {
		return r, err
	}
	r.Links, err = s.Collusion(ctx)
	r.Seconds = s.o.Now().Sub(began).Seconds()
	return r, errors.Join(err, judge(r.Links), r.exact())
}

// exact says whether something was lost or doubled.
func (r *Result) exact() error {
	if r.Tickets != r.Counted || r.Tickets != r.Issued || r.Doubled != 0 {
		return fmt.Errorf("the vehicles have %d tickets, %d of them twice; the enrolment authority counted %d, the authorization authority issued %d", r.Tickets, r.Doubled, r.Counted, r.Issued)
	}
	return nil
}

// opened has both stores open while do runs; the authorities must be stopped.
func (s *Simulation) opened(ctx context.Context, do func(*app.Platform, *app.TicketAuthority) error) error {
	p, err := app.Open(ctx, s.options)
	if err != nil {
		return err
	}
	a, err := app.OpenTicketAuthority(ctx, s.options)
	if err != nil {
		return errors.Join(err, p.Close())
	}
	return errors.Join(do(p, a), a.Close(), p.Close())
}

// count looks into both stores how many tickets there are. Of those that were issued, the ones that are made up are counted apart.
func (s *Simulation) count(ctx context.Context, r *Result) error {
	ours := map[its.HashedId8]bool{}
	for _, v := range s.fleet {
		for _, t := range v.tickets {
			id, err := t.Certificate.HashedId8()
			if err != nil {
				return err
			}
			ours[id] = true
		}
	}
	return s.opened(ctx, func(p *app.Platform, a *app.TicketAuthority) error {
		if err := p.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
			r.Counted = 0
			return tx.Each(ctx, func(row db.Row) error {
				var n int
				err := row.Scan(&n)
				r.Counted += n
				return err
			}, `SELECT tickets FROM v2x_interval`)
		}); err != nil {
			return err
		}
		added, err := recorded(ctx, p.Audit, "v2x.mix", func(e audit.Entry) string { return e.Detail["added"] })
		if err != nil {
			return err
		}
		most := 0
		for _, text := range added {
			n, err := strconv.Atoi(text)
			if err != nil {
				return err
			}
			most += n
		}
		return a.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
			r.Issued, r.MadeUp = 0, 0
			err := tx.Each(ctx, func(row db.Row) error {
				var id []byte
				err := row.Scan(&id)
				switch {
				case err != nil || len(id) != len(its.HashedId8{}):
					return errors.Join(errors.New("reading table v2x_ticket"), err)
				case ours[its.HashedId8(id)] || r.MadeUp >= most: // more than were made up are somebody's, and too many
					r.Issued++
				default:
					r.MadeUp++
				}
				return nil
			}, `SELECT id FROM v2x_ticket`)
			return err
		})
	})
}

// operator is who registers vehicles.
func operator() access.Actor {
	return access.Actor{Kind: access.KindLocal, ID: "simulation", Role: access.RoleAdmin, Via: "simulation"}
}

// register makes the vehicles and tells the registry of them and their canonical keys.
func (s *Simulation) register(ctx context.Context) error {
	var file bytes.Buffer
	file.WriteString("name,group,profile,tags\n")
	for i := range s.o.Vehicles {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		v := &vehicle{name: fmt.Sprintf("vehicle-%06d", i+1), canonical: key}
		canonical, err := CanonicalKey(key)
		if err != nil {
			return err
		}
		s.fleet = append(s.fleet, v)
		fmt.Fprintf(&file, "%s,street,device,v2x=vehicle;v2x-key=%s\n", v.name, canonical)
	}
	return s.opened(ctx, func(p *app.Platform, _ *app.TicketAuthority) error {
		src := device.Source{R: &file, Name: "fleet.csv", Format: "csv", Size: int64(file.Len())}
		if _, err := p.Devices.Import(ctx, operator(), src, func(done, total int64) { s.progress("register", int(done), int(total)) }); err != nil {
			return err
		}
		for _, v := range s.fleet {
			v.id, _ = p.Devices.IDOf(v.name)
		}
		return nil
	})
}

// CanonicalKey is a key as the tag v2x-key of a device has it.
func CanonicalKey(key *ecdsa.PrivateKey) (string, error) {
	k, err := scr.VerificationKey(&key.PublicKey)
	if err != nil {
		return "", err
	}
	b, err := k.Point.SEC1()
	return hex.EncodeToString(b), err
}

func (s *Simulation) progress(stage string, done, total int) {
	if s.o.Progress != nil {
		s.o.Progress(stage, done, total)
	}
}

// each has all vehicles do something, several at once. done is called for each step of total.
func (s *Simulation) each(ctx context.Context, stage string, total int, do func(ctx context.Context, v *vehicle, done func() error) error) (n int, rate float64, err error) {
	var count atomic.Int64
	var mu sync.Mutex
	began := s.o.Now()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(s.o.Workers)
	for _, v := range s.fleet {
		g.Go(func() error {
			return do(ctx, v, func() error {
				at := int(count.Add(1))
				mu.Lock()
				s.progress(stage, at, total)
				mu.Unlock()
				return s.maybeKill(ctx, stage, at, total)
			})
		})
	}
	if err := g.Wait(); err != nil {
		return int(count.Load()), 0, fmt.Errorf("%s: %w", stage, err)
	}
	n = int(count.Load())
	return n, float64(n) / max(s.o.Now().Sub(began).Seconds(), 1e-9), nil
}

// doubled counts tickets that were issued before, or for a key that had one.
func (s *Simulation) doubled() (n int, err error) {
	ids, keys := map[its.HashedId8]bool{}, map[string]bool{}
	for _, v := range s.fleet {
		for _, t := range v.tickets {
			id, err := t.Certificate.HashedId8()
			if err != nil {
				return n, err
			}
			key := string(t.Certificate.ToBeSigned.VerifyKeyIndicator.VerificationKey.Point.X)
			if ids[id] || keys[key] {
				n++
			}
			ids[id], keys[key] = true, true
		}
	}
	return n, nil
}
