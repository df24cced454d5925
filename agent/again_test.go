package agent_test

import (
	"errors"
	"os"
	"testing"
	"time"

	"mooring/agent"
	"mooring/agent/esttest"
	wire "mooring/wire/est"
)

func (d *device) replace() *agent.Agent {
	d.t.Helper()
	a, err := agent.Replace(d.options(), d.config)
	if err != nil {
		d.t.Fatal(err)
	}
	return a
}

// replaced checks that there is a second generation with a key of its own.
func (d *device) replaced(old *agent.Identity) {
	d.t.Helper()
	identity, err := d.open().Identity()
	if err != nil {
		d.t.Fatal(err)
	}
	if sameKey(old, identity) {
		d.t.Error("the old key is in use")
	}
	if target, err := os.Readlink(d.path("current")); err != nil || target != "gen/2" {
		d.t.Errorf("current points to %s, %v; want gen/2", target, err)
	}
	if _, err := os.Stat(d.path("gen", "1", "key.pem")); err != nil {
		d.t.Errorf("the generation before: %v", err)
	}
	d.secretsStayed()
}

func TestEnrolAfterExpiry(t *testing.T) {
	d := newDevice(t, esttest.Options{})
	old, err := d.enrol().Identity()
	if err != nil {
		t.Fatal(err)
	}
	d.now = old.Certificate().NotAfter.Add(time.Hour)
	d.enrol()
	d.replaced(old)
	if _, err := agent.Create(d.options(), d.config); !errors.Is(err, agent.ErrEnrolled) {
		t.Errorf("with the new certificate: %v, want ErrEnrolled", err)
	}
}

// What is refused leaves the old identity and its roots as they were; the next attempt replaces it, once.
func TestReplace(t *testing.T) {
	d := newDevice(t, esttest.Options{})
	old, err := d.enrol().Identity()
	if err != nil {
		t.Fatal(err)
	}
	a := d.replace()
	d.server.Answer(wire.SimpleEnroll, esttest.Status(401))
	if _, err := a.Enrol(t.Context(), d.first()); err == nil {
		t.Fatal("enrolled in spite of the refusal")
	}
	if roots, err := a.Roots(); err != nil || len(roots) != 1 || d.serial(a) != old.Certificate().SerialNumber.Int64() {
		t.Errorf("%d roots, %v, serial %d after the refusal", len(roots), err, d.serial(a))
	}
	stranger := d.first()
	stranger.Roots[0] = d.server.OtherRoot(t)
	if _, err := a.Enrol(t.Context(), stranger); err == nil {
		t.Error("the server was believed by the old root though another was given")
	}
	if _, err := a.Enrol(t.Context(), d.first()); err != nil {
		t.Fatal(err)
	}
	d.replaced(old)
	if _, err := a.Enrol(t.Context(), d.first()); !errors.Is(err, agent.ErrEnrolled) {
		t.Errorf("replaced twice: %v", err)
	}
}

func TestReplacePending(t *testing.T) {
	d := newDevice(t, esttest.Options{})
	old, err := d.enrol().Identity()
	if err != nil {
		t.Fatal(err)
	}
	d.server.Answer(wire.SimpleEnroll, esttest.Status(202, "Retry-After", "600"), esttest.Text(403, "no"))
	if _, err := d.replace().Enrol(t.Context(), d.first()); err == nil {
		t.Fatal("not pending")
	}
	d.wake = func() bool { return len(d.sleeps) < 2 }
	if err := d.open().Run(t.Context()); err != nil { // the operator refuses
		t.Fatal(err)
	}
	a := d.open()
	due, err := a.Due()
	if err != nil || !due.Equal(agent.RenewAt(old.Certificate(), "dev1")) {
		t.Errorf("due %v, %v; want the renewal of the old identity", due, err)
	}
	d.server.Answer(wire.SimpleEnroll, esttest.Status(202, "Retry-After", "600"))
	if _, err := d.replace().Enrol(t.Context(), d.first()); err == nil {
		t.Fatal("not pending")
	}
	d.wake = func() bool { return d.server.Issued() == 1 }
	if err := d.open().Run(t.Context()); err != nil { // the operator approves
		t.Fatal(err)
	}
	d.replaced(old)
}
