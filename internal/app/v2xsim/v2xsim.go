// Package v2xsim runs a fleet of vehicles through the authorities of TS 102 941 on this machine: a whole platform on loopback with the embedded database, an
// authorization authority with a store of its own, and vehicles that fetch the trust list, enrol and get their tickets by the messages of the standard,
// through the public agent/v2x.
//
// It is what "mooring v2x simulate" shows. Every ticket is verified up to the root by the vehicle, and afterwards all of them are compared with each other. Then the
// stores of both authorities are searched for what the other one knows (Collusion). It takes no short cut into the platform but one: vehicles are registered in
// process.
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
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	agent "mooring/agent/v2x"
	"mooring/internal/app"
	"mooring/internal/core/access"
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
	Workers  int    // vehicles that are busy at once; 0: 4
	Log      *slog.Logger
	Now      func() time.Time
	// Progress, if not nil, is told how far a stage is; it may be called from several goroutines.
	Progress func(stage string, done, total int)
}

// MaxVehicles bounds the fleet.
const MaxVehicles = 100_000

// Result is what came of it.
type Result struct {
	Vehicles         int     `json:"vehicles"`
	Enrolled         int     `json:"enrolled"`
	Tickets          int     `json:"tickets"`
	Verified         int     `json:"verified"` // tickets whose chain the vehicle verified up to the root
	Doubled          int     `json:"doubled"`  // tickets that somebody had before
	Refused          int     `json:"refused"`  // requests of the vehicle that was suspended
	EnrolPerSecond   float64 `json:"enrol_per_s"`
	TicketsPerSecond float64 `json:"tickets_per_s"`
	CutOff           float64 `json:"cut_off_ms"` // from the suspension of a vehicle to the refusal of its request
	Links            []Link  `json:"links"`      // what the stores let one link
	Seconds          float64 `json:"seconds"`
	Root             string  `json:"root"`
	Dir              string  `json:"dir"`
}

// Simulation is a running platform and its fleet.
type Simulation struct {
	Platform *app.Platform
	Made     app.V2XMade

	o       Options
	fleet   []*vehicle
	stop    context.CancelFunc
	stopped chan error
}

// vehicle is one of the fleet.
type vehicle struct {
	name       string
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
	return nil
}

// Start makes a data directory, the authorities and their stores, and brings everything up. The caller calls Close.
func Start(ctx context.Context, o Options) (*Simulation, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	if o.Workers == 0 {
		o.Workers = 4
	}
	c, err := app.LoopbackV2X("Mooring Simulation")
	if err != nil {
		return nil, err
	}
	made, err := app.Init(ctx, app.InitOptions{Dir: o.Dir, Config: c, Now: o.Now, Log: o.Log})
	if err != nil {
		return nil, err
	}
	s := &Simulation{o: o, stopped: make(chan error, 1)}
	options := app.Options{Config: c, Keys: made.Keys, Now: o.Now, Log: o.Log}
	if s.Made, err = app.MakeV2X(ctx, options, "Simulation"); err != nil {
		return nil, err
	}
	if s.Platform, err = app.Build(ctx, options); err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(ctx)
	s.stop = stop
	ready := make(chan struct{})
	go func() { s.stopped <- s.Platform.Run(running, func() { close(ready) }) }()
	select {
	case <-ready:
		return s, nil
	case err := <-s.stopped:
		stop()
		return nil, fmt.Errorf("starting the platform: %w", err)
	}
}

// Close stops the platform and waits for it. It may be called more than once.
func (s *Simulation) Close() error {
	if s.stop == nil {
		return nil
	}
	s.stop()
	s.stop = nil
	return <-s.stopped
}

// Run runs the fleet through its weeks and stops the platform. Afterwards the stores are searched.
func (s *Simulation) Run(ctx context.Context) (Result, error) {
	began := s.o.Now()
	r := Result{Vehicles: s.o.Vehicles, Root: s.Made.Root.String(), Dir: s.o.Dir}
	if err := s.register(ctx); err != nil {
		return r, fmt.Errorf("registering the vehicles: %w", err)
	}
	var err error
	if r.Enrolled, r.EnrolPerSecond, err = s.each(ctx, "enrol", len(s.fleet), func(ctx context.Context, v *vehicle, done func()) error {
		defer done()
		v.credential, err = nil, v.client.Update(ctx)
		if err != nil {
			return err
		}
		got, err := v.client.Enrol(ctx, v.name, v.canonical)
		v.credential = got
		return err
	}); err != nil {
		return r, err
	}
	total := len(s.fleet) * s.o.Weeks * s.o.Tickets
	if r.Tickets, r.TicketsPerSecond, err = s.each(ctx, "tickets", total, s.stock); err != nil {
		return r, err
	}
	r.Verified = r.Tickets // Ticket returns none that it has not verified
	if r.Doubled, err = s.doubled(); err != nil {
		return r, err
	}
	if err := s.suspend(ctx, &r); err != nil {
		return r, err
	}
	if err := s.Close(); err != nil {
		return r, err
	}
	r.Links, err = s.Collusion()
	r.Seconds = s.o.Now().Sub(began).Seconds()
	return r, errors.Join(err, judge(r.Links))
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
		client, err := agent.New(agent.Config{Root: s.Made.Certificate, DC: s.Platform.Addresses().V2XDC, Now: s.o.Now})
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
	src := device.Source{R: &file, Name: "fleet.csv", Format: "csv", Size: int64(file.Len())}
	_, err := s.Platform.Devices.Import(ctx, operator(), src, func(done, total int64) { s.progress("register", int(done), int(total)) })
	return err
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
func (s *Simulation) each(ctx context.Context, stage string, total int, do func(ctx context.Context, v *vehicle, done func()) error) (n int, rate float64, err error) {
	var count atomic.Int64
	var mu sync.Mutex
	began := s.o.Now()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(s.o.Workers)
	for _, v := range s.fleet {
		g.Go(func() error {
			return do(ctx, v, func() {
				at := int(count.Add(1))
				mu.Lock()
				defer mu.Unlock()
				s.progress(stage, at, total)
			})
		})
	}
	if err := g.Wait(); err != nil {
		return int(count.Load()), 0, fmt.Errorf("%s: %w", stage, err)
	}
	n = int(count.Load())
	return n, float64(n) / max(s.o.Now().Sub(began).Seconds(), 1e-9), nil
}

// stock gets a vehicle its tickets, for each week the same number.
func (s *Simulation) stock(ctx context.Context, v *vehicle, done func()) error {
	first := its.Time32(its.TimeAt(s.o.Now(), its.LeapSeconds) / 1e6)
	for week := range s.o.Weeks {
		for range s.o.Tickets {
			t, err := v.client.Ticket(ctx, v.credential, agent.Order{Start: first + its.Time32(week*7*24*3600), Life: its.Duration{Choice: its.Hours, Value: 7 * 24}})
			if err != nil {
				return fmt.Errorf("%s, week %d: %w", v.name, week+1, err)
			}
			v.tickets = append(v.tickets, t)
			done()
		}
	}
	return nil
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

// suspend suspends a vehicle, which then gets no ticket any more.
func (s *Simulation) suspend(ctx context.Context, r *Result) error {
	v := s.fleet[0]
	id, _ := s.Platform.Devices.IDOf(v.name)
	if _, err := s.Platform.Devices.Move(ctx, operator(), id, device.Suspend, "simulation"); err != nil {
		return err
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
