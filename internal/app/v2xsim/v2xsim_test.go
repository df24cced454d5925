package v2xsim

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	agent "mooring/agent/v2x"
	"mooring/internal/app"
	"mooring/internal/base/conf"
)

// child names what a copy of the test binary does in place of the tests.
const child = "MOORING_V2XSIM_TEST_CHILD"

// TestMain lets the test binary be either authority: a process of its own can be killed.
func TestMain(m *testing.M) {
	work := map[string]func(context.Context, *conf.Config) error{"": nil, "ea": serveEA, "aa": serveAA}[os.Getenv(child)]
	if work == nil {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c, err := conf.Load(os.Args[1])
	if err == nil {
		err = work(ctx, c)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serveEA(ctx context.Context, c *conf.Config) error {
	p, err := app.Build(ctx, app.Options{Config: c})
	if err != nil {
		return err
	}
	return p.Run(ctx, nil)
}

func serveAA(ctx context.Context, c *conf.Config) error {
	a, err := app.OpenTicketAuthority(ctx, app.Options{Config: c})
	if err != nil {
		return err
	}
	if err := a.Bind(ctx); err != nil {
		return err
	}
	return a.Run(ctx, nil)
}

func processOf(what string) func(dir string) *exec.Cmd {
	return func(dir string) *exec.Cmd {
		cmd := exec.Command(os.Args[0], dir)
		cmd.Env = append(os.Environ(), child+"="+what)
		return cmd
	}
}

// want is the table of TS 102 941's separation: alone nobody links anything, the two authorities together everything, by the tag of the request, and nobody else
// adds to that.
func want(vehicles, tickets int) []Link {
	return []Link{
		{Who: []string{"ea"}, Vehicles: vehicles},
		{Who: []string{"aa"}, Tickets: tickets},
		{Who: []string{"rca and dc"}},
		{Who: []string{"ea", "aa"}, Vehicles: vehicles, Tickets: tickets, Linked: tickets, Grouped: tickets},
		{Who: []string{"ea", "rca and dc"}, Vehicles: vehicles},
		{Who: []string{"aa", "rca and dc"}, Tickets: tickets},
	}
}

// PRV-1, PRV-3: a small fleet gets all its tickets, none twice; the one that is suspended gets none; and who could link what is exactly what the standard makes
// unavoidable.
func TestFleet(t *testing.T) {
	t.Parallel()
	r := run(t, Options{Vehicles: 3, Weeks: 2, Tickets: 4})
	if r.Enrolled != 3 || r.Tickets != 24 || r.Verified != 24 || r.Doubled != 0 || r.Refused != 1 || r.Counted != 24 || r.Issued != 24 {
		t.Errorf("the fleet: %+v", r)
	}
	compare(t, r.Links, want(3, 24))
}

// Each authority runs in a process of its own, and both are killed again and again while tickets are asked for: nothing is lost, nothing doubled, and nobody can link
// more than before.
func TestKill(t *testing.T) {
	t.Parallel()
	r := run(t, Options{Vehicles: 4, Weeks: 2, Tickets: 12, Kill: 6, Serve: processOf("ea"), ServeAA: processOf("aa")})
	if r.Tickets != 96 || r.Doubled != 0 || r.Refused != 1 || r.Counted != 96 || r.Issued != 96 || r.Killed != 6 {
		t.Errorf("the fleet: %+v", r)
	}
	compare(t, r.Links, want(4, 96))
}

// wantButterfly is the table for butterfly tickets: the registration authority knows who asks and expands, which with the authorization authority is all, and alone, or with the enrolment authority, in
// whose process it is, no ticket.
func wantButterfly(vehicles, tickets int) []Link {
	all := func(who ...string) Link {
		return Link{Who: who, Vehicles: vehicles, Tickets: tickets, Linked: tickets, Grouped: tickets}
	}
	return []Link{
		{Who: []string{"ea"}, Vehicles: vehicles},
		{Who: []string{"ra"}, Vehicles: vehicles},
		{Who: []string{"aa"}, Tickets: tickets},
		{Who: []string{"rca and dc"}},
		{Who: []string{"ea", "ra"}, Vehicles: vehicles},
		all("ea", "aa"),
		{Who: []string{"ea", "rca and dc"}, Vehicles: vehicles},
		all("ra", "aa"),
		{Who: []string{"ra", "rca and dc"}, Vehicles: vehicles},
		{Who: []string{"aa", "rca and dc"}, Tickets: tickets},
	}
}

// PRV-2: the same with butterfly tickets, of each variant. The registration authority alone links nothing, nor does it with the enrolment authority.
func TestButterflyFleet(t *testing.T) {
	t.Parallel()
	for _, way := range []agent.ByButterfly{agent.ButterflyOriginal, agent.ButterflyUnified, agent.ButterflyCompact} {
		r := run(t, Options{Vehicles: 3, Weeks: 2, Tickets: 4, Butterfly: way})
		if r.Enrolled != 3 || r.Tickets != 24 || r.Verified != 24 || r.Doubled != 0 || r.Refused != 1 || r.Counted != 24 || r.Issued != 24 {
			t.Errorf("%s: %+v", way, r)
		}
		compare(t, r.Links, wantButterfly(3, 24))
	}
}

// EA and AA are killed in turn, the registration authority in the process of the EA among them: while vehicles ask, when the AA has answered, and when the answer has come and is not kept yet. Nothing is
// lost, nothing doubled.
func TestButterflyKill(t *testing.T) {
	t.Parallel()
	r := run(t, Options{Vehicles: 6, Weeks: 2, Tickets: 12, Kill: 3, Butterfly: agent.ButterflyOriginal, Serve: processOf("ea"), ServeAA: processOf("aa")})
	if r.Tickets != 144 || r.Doubled != 0 || r.Refused != 1 || r.Counted != 144 || r.Issued != 144 || r.Killed != 3 {
		t.Errorf("the fleet: %+v", r)
	}
	compare(t, r.Links, wantButterfly(6, 144))
}

// What the registration authority may not be able to do is found when it can: if tickets have the keys that it computes, it links them all; and if those of a vehicle leave by themselves, the authorization
// authority groups them.
func TestButterflyLeaks(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		o    Options
		want string
	}{
		{"keys that are computed", Options{strict: true}, "ra alone can recognise 2 vehicles and 4 tickets, link 4"},
		{"tickets by themselves", Options{alone: true, Workers: 1}, "aa alone can recognise 0 vehicles and 4 tickets, link 0 tickets to vehicles and 4 to each other"},
	} {
		row.o.Vehicles, row.o.Weeks, row.o.Tickets, row.o.Butterfly = 2, 1, 2, agent.ButterflyOriginal
		s := start(t, row.o)
		if _, err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want %q", row.name, err, row.want)
		}
	}
}

func run(t *testing.T, o Options) Result {
	t.Helper()
	s := start(t, o)
	r, err := s.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func start(t *testing.T, o Options) *Simulation {
	t.Helper()
	o.Dir, o.Now = filepath.Join(t.TempDir(), "data"), time.Now
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func compare(t *testing.T, got, want []Link) {
	t.Helper()
	for i := range got {
		got[i].Ordered = 0 // chance has a part in it
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("what can be linked:\n%+v, want\n%+v", got, want)
	}
}

// What is hidden in the files, the log or the messages of one authority is found, and makes the whole fail: the search is not one that finds nothing because it
// cannot.
func TestLeaks(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Vehicles: 2, Weeks: 1, Tickets: 2, Serve: processOf("ea"), ServeAA: processOf("aa")})
	if _, err := s.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	v := s.fleet[1]
	id, err := v.tickets[0].Certificate.HashedId8()
	if err != nil {
		t.Fatal(err)
	}
	key := v.tickets[1].Certificate.ToBeSigned.VerifyKeyIndicator.VerificationKey.Point.X
	ec, err := v.credential.Certificate.HashedId8()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name, file string
		octets     []byte
		want       string
	}{
		{"the digest of a ticket in a file of the EA", filepath.Join(s.o.Dir, "leak"), append([]byte("x"), id[:]...), "ea alone"},
		{"its digits in the log of the EA", s.logs()[ofEA], []byte("ticket " + strings.ToLower(id.String()) + "\n"), "ea alone"},
		{"its key in a file of the EA", filepath.Join(s.o.Dir, "leak"), key, "ea alone"},
		{"the digest of a credential in a file of the AA", filepath.Join(s.Made.Dir, "leak"), ec[:], "aa alone"},
		{"the name of a vehicle in the log of the AA", s.logs()[ofAA], []byte(v.name), "aa alone"},
	} {
		before, err := os.ReadFile(row.file)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if err := os.WriteFile(row.file, slices.Concat(before, row.octets), 0o600); err != nil {
			t.Fatal(err)
		}
		links, err := s.Collusion(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := judge(links); err == nil || !strings.HasPrefix(err.Error(), row.want) {
			t.Errorf("%s: %v, want that %s can", row.name, err, row.want)
		}
		if err := os.WriteFile(row.file, before, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	hash := [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9}
	c := &collusion{vehicles: 1, tickets: 2, owner: []int{0, 0}, find: newFinder(), keys: map[string]int{}}
	for i := range c.seen {
		c.seen[i], c.stored[i] = make([]bool, 3), map[int]bool{}
	}
	c.find.add(0, []byte("vehicle-1"))
	c.find.add(1, []byte("ticket-one"))
	c.find.add(2, []byte("ticket-two"))
	c.sees(ofAA, [][]byte{hash[:]}, []byte("… ticket-one"))
	c.sees(ofAA, [][]byte{hash[:]}, []byte("ticket-two …"))
	if l := c.judge(ofAA); l.Grouped != 2 || l.Linked != 0 {
		t.Errorf("two tickets in requests of one name: %+v", l)
	}
	c.sees(ofEA, [][]byte{hash[:]}, []byte("a vehicle-1"))
	if l := c.judge(ofEA, ofAA); l.Grouped != 2 || l.Linked != 2 || l.Vehicles != 1 {
		t.Errorf("and the vehicle in a question of that name: %+v", l)
	}
}

// Options that make no sense are refused with the name of the flag.
func TestCheck(t *testing.T) {
	t.Parallel()
	good := Options{Vehicles: 1, Weeks: 1, Tickets: 1}
	for _, row := range []struct {
		change func(*Options)
		want   string
	}{
		{func(o *Options) { o.Vehicles = 0 }, "vehicles: 0"}, {func(o *Options) { o.Weeks = 14 }, "weeks: 14"}, {func(o *Options) { o.Tickets = 101 }, "tickets: 101"},
		{func(o *Options) { o.Butterfly = "moth" }, "butterfly: \"moth\""}, {func(o *Options) { o.Kill = -1 }, "kill: -1"}, {func(o *Options) { o.Kill = 1 }, "kill: only what"},
	} {
		o := good
		if err := o.Check(); err != nil {
			t.Fatal(err)
		}
		row.change(&o)
		if err := o.Check(); err == nil || !strings.HasPrefix(err.Error(), row.want) {
			t.Errorf("got %v, want %s", err, row.want)
		}
	}
}
