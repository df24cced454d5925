package app_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	agent "mooring/agent/v2x"
	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/base/db"
	"mooring/internal/core/device"
	"mooring/wire/its"
)

// station makes the folder of a station that is enrolled.
func (p *v2xPlatform) station(t *testing.T, name string, stock int, o agent.StationOptions) *agent.Station {
	t.Helper()
	canonical, _ := p.vehicle(t, name)
	if o.Now == nil {
		o.Now = p.clock.Now
	}
	s, err := agent.MakeStation(filepath.Join(t.TempDir(), "station"), agent.Settings{Root: p.made.Certificate, DC: p.Addresses().V2XDC, ID: name, Stock: stock, Ahead: 1}, o)
	must(t, err)
	t.Cleanup(s.Close)
	must(t, s.Enrol(t.Context(), canonical))
	return s
}

// counted is how many tickets the enrolment authority counts, and how many the authorization authority issued.
func (p *v2xPlatform) counted(t *testing.T) (ea, aa int) {
	t.Helper()
	for _, row := range []struct {
		of  *db.DB
		sql string
		to  *int
	}{{p.DB, `SELECT tickets FROM v2x_interval`, &ea}, {p.Tickets().DB, `SELECT 1 FROM v2x_ticket`, &aa}} {
		must(t, row.of.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
			*row.to = 0
			return tx.Each(ctx, func(r db.Row) error {
				var n int
				err := r.Scan(&n)
				*row.to += n
				return err
			}, row.sql)
		}))
	}
	return ea, aa
}

// A station fills its stock for this week and the next, keeps it well, drops what is over, and renews its credential in time.
func TestV2XStation(t *testing.T) {
	t.Parallel()
	p := startV2X(t, func(c *conf.Config) { c.V2X.CredentialLife = 24 * 24 * time.Hour })
	s := p.station(t, "car-1", 3, agent.StationOptions{})
	dir := s.Dir()
	got, err := s.Keep(t.Context())
	if err != nil || got != 6 || len(s.Tickets()) != 6 {
		t.Fatalf("it got %d tickets and has %d: %v", got, len(s.Tickets()), err)
	}
	if got, err := s.Keep(t.Context()); got != 0 || err != nil {
		t.Errorf("with a full stock it got %d: %v", got, err)
	}
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		info, err2 := d.Info()
		must(t, errors.Join(err, err2))
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s may be read by others: %v", path, info.Mode())
		}
		return nil
	}))
	if _, err := agent.OpenStation(dir, agent.StationOptions{Now: p.clock.Now}); !errors.Is(err, agent.ErrBusy) {
		t.Errorf("opened a second time: %v", err)
	}
	if _, err := agent.MakeStation(dir, agent.Settings{Root: p.made.Certificate}, agent.StationOptions{Now: p.clock.Now}); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("made a second time: %v", err)
	}
	chosen := map[*agent.Ticket]bool{}
	var last *agent.Ticket
	for range 3 {
		last, err = s.Choose()
		must(t, err)
		chosen[last] = true
	}
	if len(chosen) != 3 {
		t.Errorf("of three tickets of this week it chose %d", len(chosen))
	}
	s.Close()
	s, err = agent.OpenStation(dir, agent.StationOptions{Now: p.clock.Now})
	must(t, err)
	defer func() { s.Close() }()
	next, err := s.Choose()
	must(t, err)
	if a, b := octetsOfCert(t, next.Certificate), octetsOfCert(t, last.Certificate); a == b {
		t.Error("after a restart it begins with the ticket that it had")
	}
	before := s.Credential()
	p.clock.Move(agent.Period)
	must(t, p.V2X.Trust.Publish(t.Context()))
	p.fetch(t)
	if got, err := s.Keep(t.Context()); got != 3 || err != nil || len(s.Tickets()) != 6 {
		t.Errorf("a week later it got %d and has %d: %v", got, len(s.Tickets()), err)
	}
	p.clock.Move(10 * 24 * time.Hour)
	must(t, p.V2X.Trust.Publish(t.Context()))
	p.fetch(t)
	if _, err := s.Keep(t.Context()); err != nil || s.Credential() == before {
		t.Errorf("after two thirds of its life the credential was not renewed: %v", err)
	}
	must(t, os.Chmod(filepath.Join(dir, "credential.pem"), 0o644))
	s.Close()
	if _, err := agent.OpenStation(dir, agent.StationOptions{Now: p.clock.Now}); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key that others may read: %v", err)
	}
	must(t, os.Chmod(filepath.Join(dir, "credential.pem"), 0o600))
}

func octetsOfCert(t *testing.T, x *its.Certificate) string {
	t.Helper()
	id, err := x.HashedId8()
	must(t, err)
	return id.String()
}

// A station that is suspended gets no more tickets; one whose limit is reached goes on with what it has.
func TestV2XStationRefused(t *testing.T) {
	t.Parallel()
	p := startV2X(t, func(c *conf.Config) { c.V2X.Tickets = 2 })
	s := p.station(t, "car-1", 3, agent.StationOptions{})
	if got, err := s.Keep(t.Context()); got != 4 || err != nil {
		t.Errorf("with two tickets at a time it got %d: %v", got, err)
	}
	id, _ := p.Devices.IDOf("car-1")
	_, err := p.Devices.Move(t.Context(), apptest.Operator(), id, device.Suspend, "")
	must(t, err)
	var refused *agent.Refused
	if _, err := s.Keep(t.Context()); !errors.As(err, &refused) || refused.Code != its.DeniedPermissions.String() {
		t.Errorf("suspended: %v", err)
	}
	if names, err := filepath.Glob(filepath.Join(s.Dir(), "pending", "*.pem")); len(names) != 0 || err != nil {
		t.Errorf("what was refused is kept: %v, %v", names, err)
	}
}

// breaking is a network that loses answers, and at last is away.
type breaking struct {
	n    atomic.Int64
	away atomic.Bool
}

var errLost = errors.New("the answer was lost")

// RoundTrip implements http.RoundTripper.
func (b *breaking) RoundTrip(q *http.Request) (*http.Response, error) {
	if b.away.Load() {
		return nil, errors.New("there is no network")
	}
	a, err := http.DefaultTransport.RoundTrip(q)
	if err != nil || q.Method != http.MethodPost || !strings.HasSuffix(q.URL.Path, "/authorization") {
		return a, err
	}
	if b.n.Add(1)%5 != 0 {
		_, err := io.Copy(io.Discard, a.Body)
		return nil, errors.Join(errLost, err, a.Body.Close())
	}
	return a, nil
}

// Answers get lost, more often than a request is sent again at once; the station starts anew each time. In the end it has exactly the tickets that were counted, and without a network it goes on.
func TestV2XStationLost(t *testing.T) {
	t.Parallel()
	p := startV2X(t, nil)
	network := &breaking{}
	o := agent.StationOptions{Now: p.clock.Now, Transport: network}
	s := p.station(t, "car-1", 4, o)
	dir := s.Dir()
	for tries := 0; ; tries++ {
		_, err := s.Keep(t.Context())
		if err == nil {
			break
		}
		if !errors.Is(err, errLost) || tries > 100 {
			t.Fatal(err)
		}
		s.Close()
		s, err = agent.OpenStation(dir, o)
		must(t, err)
	}
	defer func() { s.Close() }()
	if ea, aa := p.counted(t); len(s.Tickets()) != 8 || ea != 8 || aa != 8 {
		t.Errorf("it has %d tickets, %d were counted, %d issued; want 8", len(s.Tickets()), ea, aa)
	}
	s.Close()
	network.away.Store(true)
	s, err := agent.OpenStation(dir, o)
	must(t, err)
	if got, err := s.Keep(t.Context()); got != 0 || err != nil {
		t.Errorf("without a network: %d, %v", got, err)
	}
	_, aa, err := s.Authorities()
	must(t, err)
	if err := s.Check(p.at(), s.Tickets()[0].Certificate, aa); err != nil {
		t.Errorf("without a network its own ticket is not believed: %v", err)
	}
}

// stationChild keeps the station in dir, until it is killed or has all its tickets.
func stationChild(ctx context.Context, dir string) error {
	s, err := agent.OpenStation(dir, agent.StationOptions{Now: time.Now})
	if err != nil {
		return err
	}
	fmt.Println("open")
	_, err = s.Keep(ctx)
	return err
}

// The process of a station is killed again and again while it fills its stock: what it has in the end is what was counted and issued.
func TestCrashV2XStation(t *testing.T) {
	t.Parallel()
	p := startV2X(t, nil)
	s := p.station(t, "car-1", 40, agent.StationOptions{})
	dir := s.Dir()
	s.Close()
	run := func(after int) error {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), child+"=station", childDir+"="+dir)
		cmd.Stderr = os.Stderr
		must(t, cmd.Start())
		if after > 0 {
			apptest.Until(t, "there are more tickets", func() bool {
				names, err := filepath.Glob(filepath.Join(dir, "tickets", "*.pem"))
				must(t, err)
				return len(names) >= after
			})
			must(t, cmd.Process.Kill())
		}
		return cmd.Wait()
	}
	for i := range 6 {
		if err := run(10*i + 7); err == nil {
			t.Fatal("the station was to be killed, and ended by itself")
		}
	}
	must(t, run(0))
	s, err := agent.OpenStation(dir, agent.StationOptions{Now: p.clock.Now})
	must(t, err)
	defer s.Close()
	ids := map[string]bool{}
	for _, ticket := range s.Tickets() {
		ids[octetsOfCert(t, ticket.Certificate)] = true
	}
	if ea, aa := p.counted(t); len(ids) != 80 || ea != 80 || aa != 80 {
		t.Errorf("the station has %d tickets, %d were counted, %d issued; want 80", len(ids), ea, aa)
	}
}
