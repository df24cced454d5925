package agent_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"mooring/agent"
	"mooring/agent/esttest"
	"mooring/wire/der"
	wire "mooring/wire/est"
)

// adviser notes what it was asked and by which certificate, and answers with what the test says.
type adviser struct {
	say      func(serial int64) wire.Advice
	asked    []int64
	problems []string
}

func (a *adviser) answer(r *http.Request) wire.Advice {
	serial := r.TLS.PeerCertificates[0].SerialNumber.Int64()
	a.asked = append(a.asked, serial)
	a.problems = append(a.problems, r.Header.Get(wire.HeaderProblem))
	return a.say(serial)
}

// TestAdviceIsFollowed has the server ask for a renewal now, with another kind of key and not with the old key, of an agent that was told to
// keep its key; it asks again at once by the new certificate.
func TestAdviceIsFollowed(t *testing.T) {
	server := &adviser{say: func(serial int64) wire.Advice { return wire.Advice{AskAgain: 6 * 3600} }}
	d := newDevice(t, esttest.Options{Advice: server.answer})
	d.config.KeepKey, d.config.KeyType = true, der.ECP256
	a := d.enrol()
	first := d.serial(a)
	server.say = func(serial int64) wire.Advice {
		if serial == first {
			return wire.Advice{RenewAt: d.now, KeyType: "ec-p384", NewKey: true, Reason: "p384", AskAgain: 1}
		}
		return wire.Advice{RenewAt: d.now.Add(20 * 24 * time.Hour), AskAgain: 6 * 3600}
	}
	var told []string
	o := d.options()
	o.Changed = func(ctx context.Context, files agent.Files) {
		told = append(told, files.Certificate)
		other := d.open() // the folder is free: another process could work in it
		if err := other.Ask(ctx); err != nil {
			t.Errorf("asking from the hook: %v", err)
		}
	}
	a, err := agent.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	d.wake = func() bool { return false }
	if err := a.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	second := d.serial(a)
	if !slices.Equal(server.asked, []int64{first, second}) {
		t.Errorf("asked by %v, want by the old certificate %d and once by the new one %d", server.asked, first, second)
	}
	s, err := a.Status()
	if err != nil || s.KeyType != "ec-p384" || !s.RenewAt.Equal(d.now.Add(20*24*time.Hour).Add(-d.sleeps[0])) {
		t.Errorf("status: %s, renewal at %v, %v, want ec-p384 and the server's instant", s.KeyType, s.RenewAt, err)
	}
	if len(told) != 1 || !strings.HasSuffix(told[0], "/current/cert.pem") {
		t.Errorf("told of the change: %q", told)
	}
	if want := 6 * time.Hour; d.sleeps[0] > want {
		t.Errorf("slept %v, want at most %v", d.sleeps[0], want)
	}
}

// TestAdviceNeverComesTooLate has the server ask for a renewal after the certificate's end.
func TestAdviceNeverComesTooLate(t *testing.T) {
	server := &adviser{say: func(int64) wire.Advice {
		return wire.Advice{RenewAt: time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC), AskAgain: -5}
	}}
	d := newDevice(t, esttest.Options{Advice: server.answer})
	a := d.enrol()
	if err := a.Ask(t.Context()); err != nil {
		t.Fatal(err)
	}
	identity, err := a.Identity()
	if err != nil {
		t.Fatal(err)
	}
	due, err := a.Due()
	if end := identity.Certificate().NotAfter; err != nil || !due.Before(end) || end.Sub(due) > 3*24*time.Hour {
		t.Errorf("due: got %v, %v, want shortly before %v", due, err, end)
	}
}

// TestServersWithoutAdvice are asked once a day, and the agent keeps its own time.
func TestServersWithoutAdvice(t *testing.T) {
	d := newDevice(t, esttest.Options{})
	a := d.enrol()
	identity, err := a.Identity()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Ask(t.Context()); err != nil {
		t.Fatalf("asking: got %v, want nothing", err)
	}
	due, err := a.Due()
	if want := agent.RenewAt(identity.Certificate(), "dev1"); err != nil || !due.Equal(want) {
		t.Errorf("due: got %v, %v, want %v", due, err, want)
	}
	d.wake = func() bool { return false }
	if err := a.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d.sleeps[0] != time.Hour { // the longest look at the clock; it was not asked again
		t.Errorf("slept %v, want an hour", d.sleeps[0])
	}
}

// TestAdviceTellsWhatWentWrong has a renewal fail: the next question says why.
func TestAdviceTellsWhatWentWrong(t *testing.T) {
	server := &adviser{}
	d := newDevice(t, esttest.Options{Advice: server.answer})
	said := d.now.Add(24 * time.Hour)
	server.say = func(int64) wire.Advice { return wire.Advice{RenewAt: said, AskAgain: 3600} }
	a := d.enrol()
	if err := a.Ask(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.server.Answer(wire.SimpleReenroll, esttest.Text(http.StatusForbidden, "not this\none"))
	if _, err := a.Renew(t.Context()); err == nil {
		t.Fatal("the renewal was not refused")
	}
	if err := a.Ask(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := server.problems; len(got) != 2 || got[0] != "" || !strings.Contains(got[1], "not this one") {
		t.Errorf("problems told: %q, want none and then the refusal", got)
	}
	if due, err := a.Due(); err != nil || due.Before(said) {
		t.Errorf("due: got %v, %v, want %v or the pause after the failure", due, err, said)
	}
}

// TestRenewalByHandAsks has the operators want another kind of key since the agent asked last: a renewal by hand asks again before it makes one,
// and shows the new certificate. Where the server gives no advice, it is renewed all the same.
func TestRenewalByHandAsks(t *testing.T) {
	server := &adviser{say: func(int64) wire.Advice { return wire.Advice{AskAgain: 6 * 3600} }}
	d := newDevice(t, esttest.Options{Advice: server.answer})
	d.config.KeyType = der.ECP256
	a := d.enrol()
	first := d.serial(a)
	if err := a.Ask(t.Context()); err != nil {
		t.Fatal(err)
	}
	server.say = func(int64) wire.Advice {
		return wire.Advice{RenewAt: d.now, KeyType: "ec-p384", NewKey: true, Reason: "p384", AskAgain: 3600}
	}
	if _, err := a.RenewNow(t.Context()); err != nil {
		t.Fatal(err)
	}
	second := d.serial(a)
	if s, err := a.Status(); err != nil || s.KeyType != "ec-p384" || second == first {
		t.Errorf("after the renewal by hand: key %s, %v, want ec-p384", s.KeyType, err)
	}
	if !slices.Equal(server.asked, []int64{first, first, second}) {
		t.Errorf("asked by %v, want twice by %d and then by %d", server.asked, first, second)
	}
	silent := newDevice(t, esttest.Options{})
	b := silent.enrol()
	before := silent.serial(b)
	if _, err := b.RenewNow(t.Context()); err != nil || silent.serial(b) == before {
		t.Errorf("without advice: %v, want another certificate", err)
	}
}
