// Package v2xsim runs a fleet of vehicles through the authorities of TS 102 941 on this machine: a whole platform on loopback with the embedded database, an
// authorization authority with a store of its own, and vehicles that fetch the trust list, enrol and get their tickets by the messages of the standard,
// through the public agent/v2x. Both authorities run in this process, or each in one of its own, where they can be killed in the middle of it.
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
	"mooring/internal/core/device"
	"mooring/internal/server/api/client"
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
	// Serve returns a command that serves the data directory, ServeAA one that runs the authorization authority of a directory. Without them both run in this
	// process.
	Serve, ServeAA func(dir string) *exec.Cmd
	Kill           int // how often one of the two processes is killed while tickets are asked for, in turn
	Log            *slog.Logger
	Now            func() time.Time
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
	Issued           int     `json:"issued"`   // tickets that the authorization authority's store has
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
	network  *recorder
	kill     atomic.Int64 // how many processes were killed, or are being killed
	repeated atomic.Int64
}

// vehicle is one of the fleet.
type vehicle struct {
	name       string
	id         device.ID
	canonical  *ecdsa.PrivateKey
	client     *agent.Client
	credential *agent.Credential
	tickets    []*agent.Ticket
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
	s.tap.serve(s.traffic)
	return nil
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
	err := errors.Join(s.run.close(), s.tap.close(), s.traffic.close())
	s.run, s.tap, s.traffic = nil, nil, nil
	return err
}

// Run runs the fleet through its weeks and stops the authorities. Afterwards it is looked at what they know.
func (s *Simulation) Run(ctx context.Context) (Result, error) {
	began := s.o.Now()
	r := Result{Vehicles: s.o.Vehicles, Root: s.Made.Root.String(), Dir: s.o.Dir}
	var err error
	if r.Enrolled, r.EnrolPerSecond, err = s.each(ctx, "enrol", len(s.fleet), func(ctx context.Context, v *vehicle, done func() error) (err error) {
		if err := v.client.Update(ctx); err != nil {
			return err
		}
		if v.credential, err = v.client.Enrol(ctx, v.name, v.canonical); err != nil {
			return err
		}
		return done()
	}); err != nil {
		return r, err
	}
	total := len(s.fleet) * s.o.Weeks * s.o.Tickets
	if r.Tickets, r.TicketsPerSecond, err = s.each(ctx, "tickets", total, s.stock); err != nil {
		return r, err
	}
	r.Verified = r.Tickets // Send returns none that it has not verified
	r.Killed, r.Repeated = int(s.kill.Load()), int(s.repeated.Load())
	if r.Doubled, err = s.doubled(); err != nil {
		return r, err
	}
	if err := s.suspend(ctx, &r); err != nil {
		return r, err
	}
	if err := errors.Join(s.run.close(), s.tap.close()); err != nil {
		return r, err
	}
	s.run, s.tap = nil, nil
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

// count looks into both stores how many tickets there are.
func (s *Simulation) count(ctx context.Context, r *Result) error {
	return s.opened(ctx, func(p *app.Platform, a *app.TicketAuthority) error {
		for _, row := range []struct {
			of  *db.DB
			sql string
			to  *int
		}{{p.DB, `SELECT tickets FROM v2x_interval`, &r.Counted}, {a.DB, `SELECT 1 FROM v2x_ticket`, &r.Issued}} {
			if err := row.of.View(ctx, func(ctx context.Context, tx *db.Tx) error {
				return tx.Each(ctx, func(one db.Row) error {
					var n int
					err := one.Scan(&n)
					*row.to += n
					return err
				}, row.sql)
			}); err != nil {
				return err
			}
		}
		return nil
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
		client, err := agent.New(agent.Config{Root: s.Made.Certificate, DC: s.config.V2XDCURL(), Now: s.o.Now, Transport: s.network})
		if err != nil {
			return err
		}
		v := &vehicle{name: fmt.Sprintf("vehicle-%06d", i+1), canonical: key, client: client}
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

// maybeKill kills one of the two authorities, in turn, while the others ask it for tickets, and starts it again: at so many equal steps of the way.
func (s *Simulation) maybeKill(ctx context.Context, stage string, at, total int) error {
	step := total / (s.o.Kill + 1)
	if stage != "tickets" || s.o.Kill == 0 || step == 0 || at%step != 0 || at/step > s.o.Kill {
		return nil
	}
	p := s.run.apart[(at/step-1)%2]
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.kill(); err != nil {
		return err
	}
	s.kill.Add(1)
	return p.start(ctx)
}

// patience is how long a vehicle sends a request again to whom it cannot reach: less than the authorities' window for its time.
const patience = 2 * time.Minute

// stock gets a vehicle its tickets, for each week the same number.
func (s *Simulation) stock(ctx context.Context, v *vehicle, done func() error) error {
	first := its.Time32(its.TimeAt(s.o.Now(), its.LeapSeconds) / 1e6)
	for week := range s.o.Weeks {
		for range s.o.Tickets {
			t, err := s.ticket(ctx, v, agent.Order{Start: first + its.Time32(week*7*24*3600), Life: its.Duration{Choice: its.Hours, Value: 7 * 24}})
			if err != nil {
				return fmt.Errorf("%s, week %d: %w", v.name, week+1, err)
			}
			v.tickets = append(v.tickets, t)
			if err := done(); err != nil {
				return err
			}
		}
	}
	return nil
}

// ticket gets a ticket. Where authorities are killed, the same request is sent until it is answered.
func (s *Simulation) ticket(ctx context.Context, v *vehicle, o agent.Order) (*agent.Ticket, error) {
	p, err := v.client.Prepare(v.credential, o)
	if err != nil {
		return nil, err
	}
	for began := s.o.Now(); ; {
		t, err := v.client.Send(ctx, p)
		var refused *agent.Refused
		if err == nil || s.o.Kill == 0 || ctx.Err() != nil || s.o.Now().Sub(began) > patience || errors.As(err, &refused) && refused.Code != its.AaEaCantReachEa.String() {
			return t, err
		}
		s.repeated.Add(1)
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
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

// suspend suspends a vehicle over the API, which then gets no ticket any more.
func (s *Simulation) suspend(ctx context.Context, r *Result) error {
	v := s.fleet[0]
	if _, err := client.New(s.config.SocketPath()).MoveDevice(ctx, v.name, string(device.Suspend), ""); err != nil {
		return fmt.Errorf("suspending %s: %w", v.name, err)
	}
	at := s.o.Now()
	_, err := v.client.Ticket(ctx, v.credential, agent.Order{})
	var refused *agent.Refused
	if !errors.As(err, &refused) {
		return fmt.Errorf("the suspended vehicle %s was not refused: %v", v.name, err)
	}
	r.Refused, r.CutOff = 1, float64(s.o.Now().Sub(at).Microseconds())/1000
	return nil
}
