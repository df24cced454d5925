package app_test

import (
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	agent "mooring/agent/v2x"
	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/core/device"
	"mooring/internal/core/v2x/trust"
	"mooring/wire/butterfly"
	"mooring/wire/its"
	"mooring/wire/its/chain"
)

// batchStation makes the folder of a station that is enrolled, with such settings.
func (p *v2xPlatform) batchStation(t *testing.T, name string, set agent.Settings, o agent.StationOptions) *agent.Station {
	t.Helper()
	canonical, _ := p.vehicle(t, name)
	if o.Now == nil {
		o.Now = p.clock.Now
	}
	set.Root, set.DC, set.ID = p.made.Certificate, p.Addresses().V2XDC, name
	if set.Stock == 0 {
		set.Stock, set.Ahead = 1, -1
	}
	s, err := agent.MakeStation(filepath.Join(t.TempDir(), "station"), set, o)
	must(t, err)
	t.Cleanup(s.Close)
	must(t, s.Enrol(t.Context(), canonical))
	return s
}

// keep has a station do what is due.
func keep(t *testing.T, s *agent.Station, want int) {
	t.Helper()
	if got, err := s.Keep(t.Context()); got != want || err != nil {
		t.Errorf("%s got %d tickets, want %d: %v", s.ID, got, want, err)
	}
}

// later has time pass, with lists that go on.
func (p *v2xPlatform) later(t *testing.T, d time.Duration) {
	t.Helper()
	p.clock.Move(d)
	must(t, p.V2X.Trust.Publish(t.Context()))
	p.fetch(t)
}

// mixed has the tickets made that wait.
func (p *v2xPlatform) mixed(t *testing.T) {
	t.Helper()
	must(t, errors.Join(p.V2X.RA.Plan(t.Context()), p.V2X.RA.Mix(t.Context())))
}

// keysOf are the keys of all tickets, which are to be different, and each the key of its ticket.
func keysOf(t *testing.T, list ...*agent.Ticket) map[string]bool {
	t.Helper()
	keys := map[string]bool{}
	for _, ticket := range list {
		x := ticket.Certificate.ToBeSigned.VerifyKeyIndicator.VerificationKey.Point.X
		b, err := ticket.Key.PublicKey.Bytes()
		must(t, err)
		if keys[string(x)] || string(b[1:33]) != string(x) {
			t.Errorf("the key of ticket %s is another one, or is there twice", octetsOfCert(t, ticket.Certificate))
		}
		keys[string(x)] = true
	}
	return keys
}

// A station whose authorities offer butterfly keys asks once. Until the tickets of many stations were mixed it has single ones to drive with; then it has those of all periods, more
// when a period begins, and the same request after a restart and with another credential. Nobody's stock has a ticket that another one has.
func TestV2XStationButterfly(t *testing.T) {
	t.Parallel()
	p := startButterfly(t, 2, nil)
	one := p.batchStation(t, "car-1", agent.Settings{}, agent.StationOptions{})
	if from := one.Source(); from.Butterfly != agent.ButterflyNo || !strings.Contains(from.Reason, "not asked yet") {
		t.Errorf("before it asked: %+v", from)
	}
	keep(t, one, 1)
	if from := one.Source(); from.Butterfly != agent.ButterflyOriginal || !from.Next.After(p.clock.Now()) {
		t.Errorf("when it had asked: %+v", from)
	}
	keep(t, one, 0)
	two := p.batchStation(t, "car-2", agent.Settings{}, agent.StationOptions{})
	_, err := two.Keep(t.Context()) // they may be there already
	must(t, err)
	p.mixed(t)
	p.later(t, time.Hour)
	keep(t, one, 6)
	keep(t, one, 0)
	dir := one.Dir()
	one.Close()
	one, err = agent.OpenStation(dir, agent.StationOptions{Now: p.clock.Now})
	must(t, err)
	defer func() { one.Close() }()
	keep(t, one, 0)
	if _, err := two.Keep(t.Context()); err != nil || len(two.Tickets()) < 6 || len(two.Tickets()) > 7 {
		t.Errorf("the other one has %d tickets: %v", len(two.Tickets()), err)
	}
	keysOf(t, append(one.Tickets(), two.Tickets()...)...)
	for range 2 { // two periods; in the first one car-1 was off
		p.later(t, agent.Period)
		p.mixed(t)
		keep(t, two, 3)
	}
	if n := len(two.Tickets()); n != 6 {
		t.Errorf("two periods later it has %d tickets", n)
	}
	keep(t, one, 6)
	keysOf(t, append(one.Tickets(), two.Tickets()...)...)
	id, _ := p.Devices.IDOf("car-1")
	_, err = p.Devices.Move(t.Context(), apptest.Operator(), id, device.Suspend, "")
	must(t, err)
	p.later(t, 2*agent.Period)
	var refused *agent.Refused
	if _, err := one.Keep(t.Context()); !errors.As(err, &refused) {
		t.Errorf("suspended: %v", err)
	}
	if from := one.Source(); from.Butterfly != agent.ButterflyNo || !strings.Contains(from.Reason, "refuses") {
		t.Errorf("suspended: %+v", from)
	}
	if n := rowsOf(t, p.DB, `SELECT COUNT(*) FROM v2x_order`); n != 2 {
		t.Errorf("two stations made %d requests", n)
	}
	if info, err := os.Stat(filepath.Join(dir, "butterfly.pem")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file with the keys: %v, %v", info, err)
	}
}

// Where butterfly keys are not offered, a station gets its tickets one by one, and does not ask again for a day. Where they are said not to be wanted it does not ask at all.
func TestV2XStationWithoutButterfly(t *testing.T) {
	t.Parallel()
	p := startV2X(t, nil)
	network := &counting{}
	s := p.batchStation(t, "car-1", agent.Settings{Stock: 2, Ahead: 1}, agent.StationOptions{Transport: network})
	keep(t, s, 4)
	keep(t, s, 0)
	if from := s.Source(); from.Butterfly != agent.ButterflyNo || !strings.Contains(from.Reason, "does not offer") || network.asked != 1 {
		t.Errorf("after %d questions: %+v", network.asked, from)
	}
	p.later(t, 25*time.Hour)
	if _, err := s.Keep(t.Context()); err != nil || network.asked != 2 {
		t.Errorf("a day later it asked %d times: %v", network.asked, err)
	}
	without := &counting{}
	s = p.batchStation(t, "car-2", agent.Settings{Stock: 2, Ahead: -1, Butterfly: agent.ButterflyNo}, agent.StationOptions{Transport: without})
	keep(t, s, 2)
	if without.asked != 0 {
		t.Errorf("against its settings it asked %d times", without.asked)
	}
	if _, err := agent.MakeStation(filepath.Join(t.TempDir(), "s"), agent.Settings{Root: p.made.Certificate, DC: p.Addresses().V2XDC, Butterfly: "moth"}, agent.StationOptions{Now: p.clock.Now}); err == nil {
		t.Error("a station asks for moths")
	}
}

// counting counts requests for butterfly tickets.
type counting struct{ asked int }

// RoundTrip implements http.RoundTripper.
func (c *counting) RoundTrip(q *http.Request) (*http.Response, error) {
	if strings.HasSuffix(q.URL.Path, "/butterfly") {
		c.asked++
	}
	return http.DefaultTransport.RoundTrip(q)
}

// Tickets whose keys the enrolment authority knows are taken by who says so. Another station asks for its tickets one by one, and not again and again for those.
func TestV2XStationPlain(t *testing.T) {
	t.Parallel()
	p := startButterfly(t, 1, func(c *conf.Config) { c.V2X.Butterfly.Strict = true })
	careful := p.batchStation(t, "car-1", agent.Settings{Stock: 2, Ahead: 1}, agent.StationOptions{})
	careless := p.batchStation(t, "car-2", agent.Settings{Plain: true}, agent.StationOptions{})
	for _, s := range []*agent.Station{careful, careless} {
		if _, err := s.Keep(t.Context()); err != nil && !errors.Is(err, agent.ErrPlain) {
			t.Fatal(err)
		}
	}
	p.mixed(t)
	p.later(t, 2*time.Hour)
	if _, err := careful.Keep(t.Context()); err != nil && !errors.Is(err, agent.ErrPlain) {
		t.Fatal(err)
	}
	keep(t, careful, 0)
	if from := careful.Source(); from.Butterfly != agent.ButterflyNo || from.Reason != agent.ErrPlain.Error() || len(careful.Tickets()) != 4 {
		t.Errorf("who does not want them has %d tickets: %+v", len(careful.Tickets()), from)
	}
	if _, err := careless.Keep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if from := careless.Source(); from.Butterfly != agent.ButterflyOriginal || len(careless.Tickets()) < 6 {
		t.Errorf("who takes them has %d: %+v", len(careless.Tickets()), from)
	}
	p.later(t, 8*24*time.Hour)
	if _, err := careful.Keep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := rowsOf(t, p.DB, `SELECT COUNT(*) FROM v2x_order`); n != 2 {
		t.Errorf("two stations made %d requests", n)
	}
}

// losing is a network that loses the answers of the enrolment authority's butterfly tickets, each but every fifth.
type losing struct{ n int }

// RoundTrip implements http.RoundTripper.
func (l *losing) RoundTrip(q *http.Request) (*http.Response, error) {
	a, err := http.DefaultTransport.RoundTrip(q)
	if err != nil || !strings.Contains(q.URL.Path, "/butterfly") {
		return a, err
	}
	if l.n++; l.n%5 != 0 {
		return nil, errors.Join(errLost, a.Body.Close())
	}
	return a, nil
}

// Answers get lost, more often than they are asked for again at once, for longer than a request is fresh, and the station starts anew each time: there is one request, and each ticket of it once.
func TestV2XStationButterflyLost(t *testing.T) {
	t.Parallel()
	p := startButterfly(t, 1, nil)
	o := agent.StationOptions{Now: p.clock.Now, Transport: &losing{}}
	s := p.batchStation(t, "car-1", agent.Settings{}, o)
	dir := s.Dir()
	defer func() { s.Close() }()
	for tries := 0; len(s.Tickets()) < 6; tries++ {
		if _, err := s.Keep(t.Context()); err != nil && !errors.Is(err, errLost) || tries > 60 {
			t.Fatalf("after %d tries: %v", tries, err)
		}
		p.mixed(t)
		p.later(t, 10*time.Minute)
		s.Close()
		var err error
		s, err = agent.OpenStation(dir, o)
		must(t, err)
	}
	keysOf(t, s.Tickets()...)
	if n := rowsOf(t, p.DB, `SELECT COUNT(*) FROM v2x_order`); n != 1 {
		t.Errorf("the station made %d requests", n)
	}
	if ea, aa := p.counted(t); ea != len(s.Tickets()) || aa != len(s.Tickets()) {
		t.Errorf("it has %d tickets, %d were counted, %d issued", len(s.Tickets()), ea, aa)
	}
}

// away is a network that does not bring requests for butterfly tickets anywhere while it is shut.
type away struct{ shut bool }

// RoundTrip implements http.RoundTripper.
func (a *away) RoundTrip(q *http.Request) (*http.Response, error) {
	if a.shut && strings.Contains(q.URL.Path, "/butterfly") {
		return nil, errLost
	}
	return http.DefaultTransport.RoundTrip(q)
}

// A request that never arrived is too old one day: the station makes another one. So it does when its credential is over.
func TestV2XStationAsksAnew(t *testing.T) {
	t.Parallel()
	p := startButterfly(t, 1, func(c *conf.Config) { c.V2X.CredentialLife = 60 * 24 * time.Hour })
	network := &away{shut: true}
	s := p.batchStation(t, "car-1", agent.Settings{}, agent.StationOptions{Transport: network})
	if _, err := s.Keep(t.Context()); !errors.Is(err, errLost) {
		t.Errorf("with a request that does not arrive: %v", err)
	}
	network.shut = false
	p.later(t, time.Hour)
	if _, err := s.Keep(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := s.Ordered()
	if first == nil {
		t.Fatalf("the second request was not taken: %+v", s.Source())
	}
	for range 10 {
		p.later(t, agent.Period)
		p.mixed(t)
		if _, err := s.Keep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := len(s.Tickets()); n < 3 {
			t.Errorf("it has %d tickets", n)
		}
	}
	second := s.Ordered()
	if second == nil || second.ID == first.ID {
		t.Errorf("when the credential was over, its request was not made anew: %+v", s.Source())
	}
	keysOf(t, s.Tickets()...)
}

// late is a network by which tickets that were asked for together are not there yet, while it is so.
type late struct{ so bool }

// RoundTrip implements http.RoundTripper.
func (l *late) RoundTrip(q *http.Request) (*http.Response, error) {
	if l.so && q.Method == http.MethodGet && strings.Contains(q.URL.Path, "/butterfly") {
		return &http.Response{StatusCode: http.StatusNotFound, Status: "404 Not Found", Header: http.Header{}, Body: http.NoBody, Request: q}, nil
	}
	return http.DefaultTransport.RoundTrip(q)
}

// Tickets do not come for weeks: the station has single ones, and those that were asked for together as soon as they are there, of the present period on.
func TestV2XStationButterflyLate(t *testing.T) {
	t.Parallel()
	p := startButterfly(t, 1, nil)
	network := &late{so: true} // the platform may answer before the station has asked for a single one
	s := p.batchStation(t, "car-1", agent.Settings{}, agent.StationOptions{Transport: network})
	keep(t, s, 1)
	p.mixed(t)
	network.so = false
	p.later(t, time.Hour)
	keep(t, s, 6)
	network.so = true
	for range 5 {
		p.later(t, agent.Period)
		p.mixed(t)
		if _, err := s.Keep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if from := s.Source(); from.Butterfly != agent.ButterflyOriginal || len(s.Tickets()) != 1 {
		t.Errorf("while none come it has %d tickets: %+v", len(s.Tickets()), from)
	}
	network.so = false
	p.later(t, time.Hour)
	keep(t, s, 6)
	keysOf(t, s.Tickets()...)
}

// The process of a station is killed again and again while it puts away what it fetched: in the end it has each ticket once, and all of them.
func TestCrashV2XStationButterfly(t *testing.T) {
	t.Parallel()
	const each = 90
	p := startButterfly(t, 2, func(c *conf.Config) { c.V2X.Butterfly.Tickets = each })
	s := p.batchStation(t, "car-1", agent.Settings{}, agent.StationOptions{})
	dir := s.Dir()
	keep(t, s, 1)
	s.Close()
	p.car(t, "car-2").order(t, butterfly.Original)
	must(t, p.V2X.RA.Mix(t.Context()))
	must(t, os.RemoveAll(filepath.Join(dir, "tickets"))) // the one to drive with, so that all are fetched at once
	for i := range 5 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), child+"=station", childDir+"="+dir)
		cmd.Stderr = os.Stderr
		must(t, cmd.Start())
		apptest.Until(t, "there are more tickets", func() bool {
			names, err := filepath.Glob(filepath.Join(dir, "tickets", "*.pem"))
			must(t, err)
			return len(names) >= 5+33*i
		})
		must(t, cmd.Process.Kill())
		_ = cmd.Wait() // killed
	}
	s, err := agent.OpenStation(dir, agent.StationOptions{Now: p.clock.Now})
	must(t, err)
	defer s.Close()
	p.later(t, time.Hour)
	_, err = s.Keep(t.Context())
	must(t, err)
	if n := len(keysOf(t, s.Tickets()...)); n != 2*each {
		t.Errorf("the station has %d tickets, want %d", n, 2*each)
	}
	if n := rowsOf(t, p.Tickets().DB, `SELECT COUNT(*) FROM v2x_ticket`); n != 4*each+1 {
		t.Errorf("%d tickets were issued, want %d", n, 4*each+1)
	}
}

// single is a stock of one ticket.
type single struct{ ticket *agent.Ticket }

// Choose implements agent.Stock.
func (s single) Choose() (*agent.Ticket, error) { return s.ticket, nil }

// SCM-5: compact unified tickets are asked for where the certificate of the authorization authority says that it answers so, as the root gives it with v2x.butterfly_compact, and unified ones
// elsewhere. What is signed by them is believed.
func TestV2XStationCompact(t *testing.T) {
	t.Parallel()
	p := startButterfly(t, 1, nil)
	s := p.batchStation(t, "car-1", agent.Settings{Butterfly: agent.ButterflyCompact}, agent.StationOptions{})
	if _, err := s.Keep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if from := s.Source(); from.Butterfly != agent.ButterflyUnified {
		t.Errorf("with an authority that does not answer so: %+v", from)
	}
	p.V2X.Trust.Compact = true
	p.clock.Move(time.Hour)
	p.follow(t, trust.AA)
	p.later(t, 10*time.Minute)
	if _, aa, err := p.client(t).Authorities(); err != nil || aa.ToBeSigned.Flags.Value != its.UsesCubk {
		t.Fatalf("the certificate that followed has not the flag: %v", err)
	}
	s = p.batchStation(t, "car-2", agent.Settings{Butterfly: agent.ButterflyCompact}, agent.StationOptions{})
	if _, err := s.Keep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if from := s.Source(); from.Butterfly != agent.ButterflyCompact {
		t.Fatalf("with one that does: %+v", from)
	}
	p.mixed(t)
	p.later(t, time.Hour)
	if _, err := s.Keep(t.Context()); err != nil || len(s.Tickets()) < 6 {
		t.Errorf("it has %d tickets: %v", len(s.Tickets()), err)
	}
	public := s.Ordered().Keys.Public()
	cocoons := map[string]bool{}
	for i := range uint16(2) {
		for j := range uint32(3) {
			signing, _ := public.Cocoon(uint32(s.Ordered().First+i), j)
			cocoons[string(signing.Bytes()[1:])] = true
		}
	}
	for key := range keysOf(t, s.Tickets()...) {
		if cocoons[key] {
			t.Error("a ticket has a key that the enrolment authority can compute")
		}
	}
	_, aa, err := s.Authorities()
	must(t, err)
	for _, ticket := range s.Tickets() {
		talk := agent.NewTalk(agent.TalkOptions{Client: s.Client, Changer: agent.NewChanger(single{ticket}, agent.Habit{NeverChanges: true}, p.clock.Now, 0)})
		octets, err := talk.CAM([]byte("hello"))
		if v := ticket.Certificate.ToBeSigned.ValidityPeriod; !v.Contains(p.at()) {
			continue // Talk signs by none that is for later
		}
		must(t, err)
		d, err := its.ParseData(octets, its.MaxRequest)
		must(t, err)
		if err := d.Content.SignedData.Verify(ticket.Certificate, nil); err != nil {
			t.Errorf("a CAM that is signed with the ticket: %v", err)
		}
		if err := chain.CheckData(d); err != nil {
			t.Errorf("its profile: %v", err)
		}
		must(t, s.Check(p.at(), ticket.Certificate, aa))
	}
}
