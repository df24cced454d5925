// Package brokertest has the tests that every broker.Driver must pass, whether the broker is a real one or a model of it.
package brokertest

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/provider/broker"
)

// Bench is one broker with a driver for it.
type Bench struct {
	Driver broker.Driver
	// Connect connects a thing under its own name. gone is closed when the connection has ended; err says that the broker does not let it in.
	Connect func(t *testing.T, name string) (gone <-chan struct{}, err error)
	// Bans says that the driver's Ban keeps things out by itself.
	Bans bool
	// Stop makes the broker unreachable.
	Stop func()
}

// patience is how long a connection may take to end: a test that fails waits for it, one that passes does not.
const patience = 20 * time.Second

// Test runs the suite; open is called for each part.
func Test(t *testing.T, open func(t *testing.T) Bench) {
	for _, part := range []struct {
		name string
		test func(t *testing.T, b Bench)
	}{
		{"what is connected is kicked, its neighbour is not", testKick},
		{"kicking what is not connected, or twice, is no error", testAbsent},
		{"banned things stay out until they are let in", testBan},
		{"many at once", testMany},
		{"odd names", testOdd},
		{"nothing to do", testNothing},
		{"an ended context is an error", testEnded},
		{"a broker that is away is Unavailable", testAway},
	} {
		t.Run(part.name, func(t *testing.T) { part.test(t, open(t)) })
	}
}

func (b Bench) connect(t *testing.T, name string) <-chan struct{} {
	t.Helper()
	gone, err := b.Connect(t, name)
	if err != nil {
		t.Fatalf("connecting %q: %v", name, err)
	}
	return gone
}

func ended(t *testing.T, gone <-chan struct{}, name string) {
	t.Helper()
	select {
	case <-gone:
	case <-time.After(patience):
		t.Fatalf("%q is still connected", name)
	}
}

func connected(t *testing.T, gone <-chan struct{}, name string) {
	t.Helper()
	select {
	case <-gone:
		t.Errorf("%q is not connected any more", name)
	default:
	}
}

func check(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func testKick(t *testing.T, b Bench) {
	one, two := b.connect(t, "dev-1"), b.connect(t, "dev-10")
	check(t, "Kick", b.Driver.Kick(t.Context(), []string{"dev-1"}))
	ended(t, one, "dev-1")
	connected(t, two, "dev-10")
}

func testAbsent(t *testing.T, b Bench) {
	for range 2 {
		check(t, "Kick", b.Driver.Kick(t.Context(), []string{"never-seen"}))
		check(t, "Ban", b.Driver.Ban(t.Context(), []string{"never-seen"}, time.Time{}))
	}
	for range 2 {
		check(t, "Lift", b.Driver.Lift(t.Context(), []string{"never-seen", "never-banned"}))
	}
}

func testBan(t *testing.T, b Bench) {
	gone := b.connect(t, "dev-1")
	check(t, "Ban", b.Driver.Ban(t.Context(), []string{"dev-1"}, time.Now().Add(time.Hour)))
	check(t, "a longer Ban", b.Driver.Ban(t.Context(), []string{"dev-1"}, time.Time{}))
	check(t, "Kick", b.Driver.Kick(t.Context(), []string{"dev-1"}))
	ended(t, gone, "dev-1")
	if b.Bans {
		if _, err := b.Connect(t, "dev-1"); err == nil {
			t.Error("dev-1 came in again although it is banned")
		}
	}
	b.connect(t, "dev-2")
	check(t, "Lift", b.Driver.Lift(t.Context(), []string{"dev-1"}))
	b.connect(t, "dev-1")
}

func testMany(t *testing.T, b Bench) {
	var names []string
	for i := range 250 {
		names = append(names, fmt.Sprintf("dev-%d", i))
	}
	last := names[len(names)-1]
	gone := b.connect(t, last)
	check(t, "Ban", b.Driver.Ban(t.Context(), names, time.Time{}))
	check(t, "Kick", b.Driver.Kick(t.Context(), names))
	ended(t, gone, last)
	check(t, "Lift", b.Driver.Lift(t.Context(), names))
}

// testOdd has names that mean something else in addresses, queries and JSON if they are not written as they should be.
func testOdd(t *testing.T, b Bench) {
	names := []string{"Pumpe 7", "a?b=c&d", "a%2Fb", "ü", "a:b;c", `back\`, `quo"te`, "a.b"}
	for _, name := range names {
		gone := b.connect(t, name)
		neighbour := b.connect(t, "neighbour")
		err := b.Driver.Kick(t.Context(), []string{name})
		if errs.Is(err, errs.Invalid) { // it says that it cannot, and has not done something else
			connected(t, neighbour, "neighbour")
			continue
		}
		check(t, "Kick of "+name, err)
		ended(t, gone, name)
		connected(t, neighbour, "neighbour")
		check(t, "Lift of "+name, b.Driver.Lift(t.Context(), []string{name}))
	}
}

func testNothing(t *testing.T, b Bench) {
	gone := b.connect(t, "dev-1")
	check(t, "Kick", b.Driver.Kick(t.Context(), nil))
	check(t, "Ban", b.Driver.Ban(t.Context(), nil, time.Time{}))
	connected(t, gone, "dev-1")
}

func testEnded(t *testing.T, b Bench) {
	gone := b.connect(t, "dev-1")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Driver.Kick(ctx, []string{"dev-1"}); err == nil {
		t.Error("Kick with an ended context confirmed something")
	}
	connected(t, gone, "dev-1")
}

func testAway(t *testing.T, b Bench) {
	b.Stop()
	err := b.Driver.Kick(t.Context(), []string{"dev-1"})
	if kind := errs.KindOf(err); err == nil || !slices.Contains([]errs.Kind{errs.Unavailable, errs.Limited}, kind) {
		t.Errorf("Kick of a broker that is away: %v (%v), want Unavailable", err, kind)
	}
}
