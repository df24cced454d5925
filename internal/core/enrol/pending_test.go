package enrol_test

import (
	"bytes"
	"testing"
	"time"

	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
	"mooring/internal/core/enrol"
	"mooring/wire/der"
)

func approved() apptest.Profile {
	return apptest.Variant("device", "approved", "approval: required")
}

// wait submits r and checks that it is to wait.
func wait(t *testing.T, p *apptest.Platform, r enrol.Request) {
	t.Helper()
	a, err := p.Enrol.Submit(t.Context(), r)
	if err != nil || a.Certificate != nil || a.Pending != 60*time.Second {
		t.Fatalf("got %v, %v, pending %s, want to be told to wait 60s", a.Certificate, err, a.Pending)
	}
}

func decide(t *testing.T, p *apptest.Platform, name string, approve bool) enrol.Pending {
	t.Helper()
	d, err := p.Enrol.Decide(t.Context(), apptest.Operator(), name, "", approve)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestApproval(t *testing.T) {
	p := apptest.Start(t, nil, approved())
	d, token := p.Device(t, "meter-1", "approved")
	key := apptest.Key(t)
	r := byToken("meter-1", token, apptest.CSR(t, key, der.RequestSpec{Subject: []der.Attribute{{Type: der.OIDCommonName, Value: "meter-1"}}}))
	wait(t, p, r)
	wait(t, p, r)
	if n := len(entries(t, p, func(e audit.Entry) bool { return e.Action == "enrol.request" })); n != 1 {
		t.Errorf("the record has %d requests, want 1: asking again is no news", n)
	}
	list, err := p.Enrol.Waiting(t.Context(), apptest.Operator(), 10)
	if err != nil || len(list) != 1 || list[0].Device != d.ID || list[0].Subject != "CN=meter-1" || list[0].Key != "ec-p256" || list[0].State != enrol.Waiting {
		t.Errorf("waiting: got %+v, %v", list, err)
	}
	if got := decide(t, p, "meter-1", true); got.State != enrol.Approved || got.Decider != "local:test" {
		t.Errorf("the decision is %+v", got)
	}
	c := submit(t, p, r)
	if issued := entries(t, p, issues(d.ID)); len(issued) != 1 || issued[0].Detail["approved"] != "yes" {
		t.Errorf("the record says %+v", issued)
	}
	if again := submit(t, p, r); again.Serial != c.Serial {
		t.Errorf("the repeated request got %x, want %x", again.Serial, c.Serial)
	}
	// The approval is used up.
	other := byToken("meter-1", p.Token(t, d.ID), apptest.CSR(t, apptest.Key(t), der.RequestSpec{}))
	wait(t, p, other)
}

// TestRenewalByAnotherProfile: what a person has not looked at is not had by a renewal of something else.
func TestRenewalByAnotherProfile(t *testing.T) {
	p := apptest.Start(t, nil, approved())
	d, cert := p.Enrolled(t, "meter-1", "device")
	other := "approved"
	if _, err := p.Devices.Change(t.Context(), apptest.Operator(), d.ID, device.Change{Profile: &other}); err != nil {
		t.Fatal(err)
	}
	key := apptest.Key(t)
	r := byCert(enrol.Renew, cert, again(t, cert, key))
	wait(t, p, r)
	decide(t, p, "meter-1", true)
	cert = p.Pair(t, key, submit(t, p, r).DER)
	submit(t, p, byCert(enrol.Renew, cert, again(t, cert, apptest.Key(t))))
}

func TestRefusedByOperator(t *testing.T) {
	p := apptest.Start(t, nil, approved())
	_, token := p.Device(t, "meter-1", "approved")
	r := byToken("meter-1", token, apptest.CSR(t, apptest.Key(t), der.RequestSpec{}))
	wait(t, p, r)
	decide(t, p, "meter-1", false)
	wantRefusal(t, p, r, errs.Denied, "an operator has refused this request")
	if _, err := p.Enrol.Decide(t.Context(), apptest.Operator(), "meter-1", "", true); !errs.Is(err, errs.NotFound) {
		t.Errorf("deciding twice: got %v, want that nothing waits", err)
	}
	// Another request is a new one.
	other := byToken("meter-1", token, apptest.CSR(t, apptest.Key(t), der.RequestSpec{}))
	wait(t, p, other)
	decide(t, p, "meter-1", true)
	submit(t, p, other)
}

// TestReplacedRequest: what a person approved is what is issued.
func TestReplacedRequest(t *testing.T) {
	p := apptest.Start(t, nil, approved())
	_, token := p.Device(t, "meter-1", "approved")
	first := byToken("meter-1", token, apptest.CSR(t, apptest.Key(t), der.RequestSpec{}))
	second := byToken("meter-1", token, apptest.CSR(t, apptest.Key(t), der.RequestSpec{}))
	wait(t, p, first)
	decide(t, p, "meter-1", true)
	wait(t, p, second) // replaces the approved one
	wait(t, p, first)  // and is replaced in turn
	decide(t, p, "meter-1", true)
	wait(t, p, second)
	if n := rows(t, p); n.Requests != 1 {
		t.Errorf("%d requests are kept, want 1 for the device", n.Requests)
	}
}

// TestOldApprovalIsForgotten: what a person decided is not good for ever, also when nobody asks for anything else.
func TestOldApprovalIsForgotten(t *testing.T) {
	p := apptest.Start(t, nil, approved())
	d, _ := p.Device(t, "meter-1", "approved")
	token, _, err := p.Devices.Token(t.Context(), apptest.Operator(), d.ID, 60*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	r := byToken("meter-1", token, apptest.CSR(t, apptest.Key(t), der.RequestSpec{}))
	wait(t, p, r)
	decide(t, p, "meter-1", true)
	p.Clock.Move(15 * 24 * time.Hour)
	wait(t, p, r)
	decide(t, p, "meter-1", true)
	submit(t, p, r)
}

// TestRebuiltRequest: with a channel binding the request is made anew on each connection, and still the same one.
func TestRebuiltRequest(t *testing.T) {
	p := apptest.Start(t, nil, approved())
	_, token := p.Device(t, "meter-1", "approved")
	key := apptest.Key(t)
	bound := func(challenge string) enrol.Request {
		r := byToken("meter-1", token, apptest.CSR(t, key, der.RequestSpec{ChallengePassword: challenge}))
		r.Bound = func(c string) bool { return c == challenge }
		return r
	}
	wait(t, p, bound("first connection"))
	decide(t, p, "meter-1", true)
	c := submit(t, p, bound("second connection"))
	if again := submit(t, p, bound("third connection")); !bytes.Equal(again.DER, c.DER) {
		t.Error("the rebuilt request got another certificate")
	}
	stale := bound("fourth connection")
	stale.Bound = func(string) bool { return false }
	wantRefusal(t, p, stale, errs.Invalid, "the challengePassword is not the channel binding of this connection; make the request anew on each connection")
}

func TestMaxPending(t *testing.T) {
	p := apptest.Start(t, func(c *conf.Config) { c.Enrol.MaxPending = 2 }, approved())
	request := func(name, token string) enrol.Request {
		return byToken(name, token, apptest.CSR(t, apptest.Key(t), der.RequestSpec{}))
	}
	_, one := p.Device(t, "meter-1", "approved")
	_, two := p.Device(t, "meter-2", "approved")
	_, three := p.Device(t, "meter-3", "approved")
	wait(t, p, request("meter-1", one))
	wait(t, p, request("meter-2", two))
	third := request("meter-3", three)
	wantRefusal(t, p, third, errs.Limited, "too many requests wait for approval; an operator must decide about some")
	if _, err := p.Enrol.Submit(t.Context(), third); err == nil {
		t.Error("a third request was kept")
	} else if after, ok := errs.RetryAfter(err); !ok || after != time.Minute {
		t.Errorf("told to come again after %s, %v, want 1m0s", after, ok)
	}
	wait(t, p, request("meter-2", two)) // its own place
	decide(t, p, "meter-1", false)
	wait(t, p, third)
}

// TestForgotten: a request that nobody decided makes room after its time.
func TestForgotten(t *testing.T) {
	p := apptest.Start(t, func(c *conf.Config) { c.Enrol.MaxPending = 1 }, approved())
	_, one := p.Device(t, "meter-1", "approved")
	two := p.Add(t, deviceSpec("meter-2", "approved"))
	wait(t, p, byToken("meter-1", one, apptest.CSR(t, apptest.Key(t), der.RequestSpec{})))
	p.Clock.Move(15 * 24 * time.Hour)
	wait(t, p, byToken("meter-2", p.Token(t, two.ID), apptest.CSR(t, apptest.Key(t), der.RequestSpec{})))
	list, err := p.Enrol.Waiting(t.Context(), apptest.Operator(), 10)
	if err != nil || len(list) != 1 || list[0].Device != two.ID {
		t.Errorf("waiting: got %+v, %v, want the second device's", list, err)
	}
}

func TestWhoMayDecide(t *testing.T) {
	p := apptest.Start(t, nil, approved())
	_, token := p.Device(t, "meter-1", "approved")
	wait(t, p, byToken("meter-1", token, apptest.CSR(t, apptest.Key(t), der.RequestSpec{})))
	for role, may := range map[access.Role]bool{access.RoleNone: false, access.RoleAuditor: false, access.RoleOperator: true} {
		actor := access.Actor{Kind: access.KindOperator, ID: "aa", Role: role, Via: "api"}
		_, err := p.Enrol.Decide(t.Context(), actor, "meter-1", "", true)
		if may != (err == nil) && !(may && errs.Is(err, errs.NotFound)) {
			t.Errorf("role %q: got %v", role, err)
		}
		if _, err := p.Enrol.Waiting(t.Context(), actor, 10); (err == nil) != (role != access.RoleNone) {
			t.Errorf("role %q looks: got %v", role, err)
		}
	}
}
