package v2xsim

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"time"

	agent "mooring/agent/v2x"
	"mooring/internal/core/device"
	"mooring/internal/server/api/client"
	"mooring/wire/cocoon"
	"mooring/wire/its"
)

// vehicle is one of the fleet. What it has lies in a folder, as a Station of agent/v2x keeps it, which is opened for as long as the vehicle does something.
type vehicle struct {
	name       string
	id         device.ID
	canonical  *ecdsa.PrivateKey
	credential *agent.Credential
	tickets    []*agent.Ticket
	order      *agent.Butterfly // its request for butterfly tickets; nil: none
}

func (s *Simulation) folder(v *vehicle) string { return filepath.Join(s.side, "vehicles", v.name) }

// errWaits is that a vehicle of a fleet with butterfly tickets does not ask for single ones while it waits for those.
var errWaits = errors.New("the vehicle waits for its butterfly tickets")

// stationOptions are those of a vehicle. done is called before each request for a single ticket.
func (s *Simulation) stationOptions(done func() error) agent.StationOptions {
	o := agent.StationOptions{Now: s.o.Now, Transport: s.network}
	o.Before = func(context.Context) error {
		if s.o.Butterfly != "" {
			return errWaits
		}
		return done()
	}
	return o
}

// enrol gets a vehicle its credential.
func (s *Simulation) enrol(ctx context.Context, v *vehicle, done func() error) error {
	set := agent.Settings{Root: s.Made.Certificate, DC: s.config.V2XDCURL(), ID: v.name, Stock: s.o.Tickets, Ahead: s.o.Weeks - 1, Butterfly: agent.ButterflyNo}
	if set.Ahead == 0 {
		set.Ahead = -1
	}
	if s.o.Butterfly != "" {
		set.Butterfly, set.Plain = s.o.Butterfly, s.o.strict
	}
	st, err := agent.MakeStation(s.folder(v), set, s.stationOptions(nil))
	if err != nil {
		return err
	}
	defer st.Close()
	if err := st.Enrol(ctx, v.canonical); err != nil {
		return err
	}
	v.credential = st.Credential()
	return done()
}

// provide gets the vehicles their tickets.
func (s *Simulation) provide(ctx context.Context, r *Result) error {
	began, total := s.o.Now(), len(s.fleet)*s.o.Weeks*s.o.Tickets
	if s.o.Butterfly != "" {
		total = len(s.fleet) // of vehicles, not of tickets
		s.arm()
		if !s.o.alone { // else a vehicle asks when the one before has its tickets
			if _, _, err := s.each(ctx, "order", total, s.ask); err != nil {
				return err
			}
		}
	}
	if _, _, err := s.each(ctx, "tickets", total, s.stock); err != nil {
		return err
	}
	for _, v := range s.fleet {
		r.Tickets += len(v.tickets)
	}
	r.Verified = r.Tickets // a Station has none that it has not verified
	r.TicketsPerSecond = float64(r.Tickets) / max(s.o.Now().Sub(began).Seconds(), 1e-9)
	return nil
}

// patience is how long a vehicle goes on when nobody answers: less than the authorities' window for the time of a request.
const patience = 2 * time.Minute

// ask has a vehicle send its request for butterfly tickets.
func (s *Simulation) ask(ctx context.Context, v *vehicle, done func() error) error {
	return s.until(ctx, v, nil, done, func(st *agent.Station) bool { return st.Ordered() != nil })
}

// stock has a vehicle fill its stock.
func (s *Simulation) stock(ctx context.Context, v *vehicle, done func() error) error {
	each, all := done, func() error { return nil }
	if s.o.Butterfly != "" {
		each, all = nil, done
	}
	return s.until(ctx, v, each, all, func(st *agent.Station) bool { return len(st.Tickets()) >= s.o.Weeks*s.o.Tickets })
}

// until has a vehicle do what is due until something is so. Where authorities are killed, it goes on after errors, from what is in its folder.
func (s *Simulation) until(ctx context.Context, v *vehicle, each, all func() error, enough func(*agent.Station) bool) error {
	began, had := s.o.Now(), -1
	for {
		ready, have, err := s.keep(ctx, v, each, enough)
		if ready && err == nil {
			return all()
		}
		if have > had {
			began, had = s.o.Now(), have
		}
		failed := err != nil && !errors.Is(err, errWaits)
		var refused *agent.Refused
		final := failed && (s.o.Kill == 0 || errors.As(err, &refused) && refused.Code != its.AaEaCantReachEa.String())
		switch {
		case final, ctx.Err() != nil, s.o.Now().Sub(began) > patience:
			return errors.Join(fmt.Errorf("%s has %d tickets", v.name, have), err)
		case failed:
			s.repeated.Add(1)
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// keep opens the folder of a vehicle for once.
func (s *Simulation) keep(ctx context.Context, v *vehicle, each func() error, enough func(*agent.Station) bool) (ready bool, have int, err error) {
	st, err := agent.OpenStation(s.folder(v), s.stationOptions(each))
	if err != nil {
		return false, 0, err
	}
	defer st.Close()
	_, err = st.Keep(ctx)
	v.tickets, v.order = st.Tickets(), st.Ordered()
	if ready = enough(st); ready && errors.Is(err, errWaits) {
		err = nil
	}
	return ready, len(v.tickets), err
}

// maybeKill kills one of the authorities while others ask it, and starts it again: at so many equal steps of the way. Those that ask for single tickets see both killed in turn. With butterfly keys a
// third of the times is while the vehicles ask, and hits the enrolment authority; the others see passed.
func (s *Simulation) maybeKill(ctx context.Context, stage string, at, total int) error {
	times, while := s.o.Kill, "tickets"
	if s.o.Butterfly != "" {
		times, while = (s.o.Kill+2)/3, "order"
	}
	step := total / (times + 1)
	if stage != while || times == 0 || step == 0 || at%step != 0 || at/step > times {
		return nil
	}
	n := (at/step - 1) % 2
	if s.o.Butterfly != "" {
		n = 0
	}
	return s.restart(ctx, s.run.apart[n])
}

// arm has the rest of the kills happen while butterfly tickets are issued.
func (s *Simulation) arm() {
	s.passing.Lock()
	defer s.passing.Unlock()
	s.armed = s.o.Kill - (s.o.Kill+2)/3
	s.every = max(1, s.o.Vehicles*s.o.Weeks*s.o.Tickets/cocoon.MaxTickets/(s.armed+1))
}

// errKilled is that an answer did not arrive, since one of the two was killed.
var errKilled = errors.New("the authority was killed when it had recorded what it would answer")

// passed sees each answer with butterfly tickets, before it is handed on. It kills, in turn, who gave it and who waits for it: the authorization authority, and the registration authority, which is in
// the process of the enrolment authority. Then the answer is lost.
func (s *Simulation) passed(ctx context.Context) error {
	s.passing.Lock()
	defer s.passing.Unlock()
	if s.answers++; s.armed == 0 || s.answers%s.every != 0 {
		return nil
	}
	s.armed--
	return errors.Join(errKilled, s.restart(ctx, s.run.apart[(s.armed+s.o.Kill)%2]))
}

// restart kills a process, and starts it again.
func (s *Simulation) restart(ctx context.Context, p *process) error {
	s.kill.Add(1)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.kill(); err != nil {
		return err
	}
	return p.start(ctx)
}

// suspend suspends a vehicle over the API, which then gets no ticket any more.
func (s *Simulation) suspend(ctx context.Context, r *Result) error {
	v := s.fleet[0]
	st, err := agent.OpenStation(s.folder(v), s.stationOptions(nil))
	if err != nil {
		return err
	}
	defer st.Close()
	if err := st.Update(ctx); err != nil {
		return err
	}
	if _, err := client.New(s.config.SocketPath()).MoveDevice(ctx, v.name, string(device.Suspend), ""); err != nil {
		return fmt.Errorf("suspending %s: %w", v.name, err)
	}
	at := s.o.Now()
	_, err = st.Ticket(ctx, v.credential, agent.Order{})
	var refused *agent.Refused
	if !errors.As(err, &refused) {
		return fmt.Errorf("the suspended vehicle %s was not refused: %v", v.name, err)
	}
	r.Refused, r.CutOff = 1, float64(s.o.Now().Sub(at).Microseconds())/1000
	if v.order == nil {
		return nil
	}
	var status *agent.StatusError
	if _, err := st.FetchButterfly(ctx, v.credential, v.order, v.order.First); !errors.As(err, &status) || status.Code != http.StatusForbidden {
		return fmt.Errorf("the suspended vehicle %s still gets its archive: %v", v.name, err)
	}
	return nil
}
