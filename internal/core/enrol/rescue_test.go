package enrol_test

import (
	"crypto/tls"
	"sync"
	"testing"
	"time"

	"mooring/internal/app/apptest"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
	"mooring/internal/core/enrol"
	"mooring/internal/core/revoke"
	"mooring/wire/der"
)

const day = 24 * time.Hour

// forgiving is a profile of 90 days that forgives 60 more.
func forgiving(name, rescue string, lines ...string) apptest.Profile {
	return apptest.Variant("device", name, append([]string{"rescue: " + rescue}, lines...)...)
}

// expire moves the clock to so long after the end of a certificate.
func expire(p *apptest.Platform, pair tls.Certificate, since time.Duration) {
	p.Clock.Move(pair.Leaf.NotAfter.Add(since).Sub(p.Clock.Now()))
}

func rescues(e audit.Entry) bool { return e.Action == "device.rescue" }

// TestRescue: an expired device comes back once, with a short certificate, and then renews in the ordinary way.
func TestRescue(t *testing.T) {
	p := apptest.Start(t, nil, forgiving("pump", "{max_expired: 60d}"))
	d, pair := p.Enrolled(t, "pump-1", "pump")
	key := apptest.Key(t)
	csr := again(t, pair, key)
	expire(p, pair, 30*day)

	renewed := submit(t, p, byCert(enrol.Renew, pair, csr))
	if life := renewed.NotAfter - renewed.NotBefore + 1; life != 7*86400 {
		t.Errorf("the rescued certificate lives %d s, want seven days", life)
	}
	list := entries(t, p, rescues)
	if len(list) != 1 || list[0].Device != d.ID.String() || list[0].Serial == "" || list[0].Detail["profile"] != "pump" {
		t.Errorf("the record says %+v", list)
	}
	if n := p.Enrol.Issued().Rescued; n != 1 {
		t.Errorf("counted %d rescues", n)
	}
	// The answer was lost: the very same request gets the same certificate.
	if same := submit(t, p, byCert(enrol.Renew, pair, csr)); same.Serial != renewed.Serial {
		t.Errorf("the repeated request got %x, want %x", same.Serial, renewed.Serial)
	}
	// Whoever else holds the old key gets nothing.
	wantRefusal(t, p, byCert(enrol.Renew, pair, again(t, pair, apptest.Key(t))), errs.Denied, "the client certificate was replaced by a newer one; use that")

	fresh := p.Pair(t, key, renewed.DER)
	full := submit(t, p, byCert(enrol.Renew, fresh, again(t, fresh, key)))
	if life := full.NotAfter - full.NotBefore + 1; life != 90*86400 {
		t.Errorf("the ordinary renewal lives %d s, want ninety days", life)
	}
}

// TestSecondRescue: once a device and period.
func TestSecondRescue(t *testing.T) {
	p := apptest.Start(t, nil, forgiving("pump", "{max_expired: 60d}"))
	d, pair := p.Enrolled(t, "pump-1", "pump")
	expire(p, pair, 10*day)
	key := apptest.Key(t)
	rescued := p.Pair(t, key, submit(t, p, byCert(enrol.Renew, pair, again(t, pair, key))).DER)
	at := p.Load(t, d.ID).Rescued
	expire(p, rescued, day)
	wantRefusal(t, p, byCert(enrol.Renew, rescued, again(t, rescued, apptest.Key(t))), errs.Denied,
		"this device was rescued at "+time.Unix(at, 0).UTC().Format("2006-01-02 15:04:05Z")+", and the profile pump permits that once in 60d; enrol again with a new token")
	expire(p, rescued, 54*day) // the period is over, and the certificate not expired for too long
	submit(t, p, byCert(enrol.Renew, rescued, again(t, rescued, apptest.Key(t))))
}

// TestRescueRace has many requests rescue one device at once.
func TestRescueRace(t *testing.T) {
	p := apptest.Start(t, nil, forgiving("pump", "{max_expired: 60d}"))
	d, pair := p.Enrolled(t, "pump-1", "pump")
	expire(p, pair, 10*day)
	requests := make([]enrol.Request, 16)
	for i := range requests {
		requests[i] = byCert(enrol.Renew, pair, again(t, pair, apptest.Key(t)))
	}
	var wg sync.WaitGroup
	results := make([]error, len(requests))
	for i, r := range requests {
		wg.Go(func() { _, results[i] = p.Enrol.Submit(t.Context(), r) })
	}
	wg.Wait()
	good := 0
	for _, err := range results {
		if err == nil {
			good++
		}
	}
	if n := len(entries(t, p, rescues)); good != 1 || n != 1 || p.Load(t, d.ID).Issued != 2 {
		t.Errorf("%d requests were rescued, the record says %d, the device has %d certificates; want 1, 1 and 2: %v", good, n, p.Load(t, d.ID).Issued, results)
	}
}

// TestNoRescue: everything but the end counts as it always does.
func TestNoRescue(t *testing.T) {
	p := apptest.Start(t, nil, forgiving("pump", "{max_expired: 60d}"), forgiving("careful", "{max_expired: 60d, evidence: certificate-and-token}"),
		apptest.Variant("device-short", "brief-pump", "rescue: {max_expired: 30d, validity: 1h}"))
	at := func(pair tls.Certificate) string { return pair.Leaf.NotAfter.UTC().Format("2006-01-02 15:04:05Z") }
	pairs := map[string]tls.Certificate{}
	devices := map[string]device.Device{}
	for name, profile := range map[string]string{"good": "pump", "revoked": "pump", "held": "pump", "suspended": "pump", "lost": "pump", "late": "pump", "other": "pump", "plain": "device",
		"gate": "gateway", "person": "operator", "token": "careful", "enrols": "pump", "replaced": "pump", "brief": "brief-pump"} {
		devices[name], pairs[name] = p.Enrolled(t, name, profile)
	}
	ctx, op := t.Context(), apptest.Operator()
	_, err := p.Revoke.Certificate(ctx, op, pairs["revoked"].Leaf.SerialNumber.Bytes(), revoke.KeyCompromise)
	must(t, err)
	_, err = p.Revoke.Certificate(ctx, op, pairs["held"].Leaf.SerialNumber.Bytes(), revoke.CertificateHold)
	must(t, err)
	_, err = p.Revoke.Device(ctx, op, devices["lost"].ID, device.Lose, revoke.Unspecified)
	must(t, err)
	_, err = p.Devices.Move(ctx, op, devices["suspended"].ID, device.Suspend, "")
	must(t, err)
	newer := submit(t, p, byCert(enrol.Renew, pairs["replaced"], again(t, pairs["replaced"], apptest.Key(t))))
	_ = newer
	renew := func(name string) enrol.Request {
		return byCert(enrol.Renew, pairs[name], again(t, pairs[name], apptest.Key(t)))
	}
	expire(p, pairs["good"], 30*day)
	expired := func(name string) string {
		return "the client certificate expired at " + at(pairs[name]) + "; enrol again with a new token"
	}

	wantRefusal(t, p, renew("revoked"), errs.Denied, "the client certificate is revoked; ask the device's operator for a new token")
	wantRefusal(t, p, renew("held"), errs.Denied, "the client certificate is on hold; ask the device's operator")
	wantRefusal(t, p, renew("lost"), errs.Denied, "the client certificate is revoked; ask the device's operator for a new token")
	wantRefusal(t, p, renew("suspended"), errs.Denied, "this device is suspended: it may not enrol; ask its operator")
	wantRefusal(t, p, renew("plain"), errs.Denied, expired("plain"))
	wantRefusal(t, p, renew("gate"), errs.Denied, expired("gate"))
	wantRefusal(t, p, renew("person"), errs.Denied, expired("person"))
	wantRefusal(t, p, renew("replaced"), errs.Denied, "the client certificate was replaced by a newer one; use that")

	wrong := byCert(enrol.Renew, pairs["other"], apptest.CSR(t, apptest.Key(t), der.RequestSpec{RawSubject: pairs["good"].Leaf.RawSubject, Names: der.AltNames{URI: []string{pairs["other"].Leaf.URIs[0].String()}}}))
	wantRefusal(t, p, wrong, errs.Denied, `a renewal must repeat the subject of its certificate (RFC 7030, section 4.2.2): the certificate has "CN=other", the request "CN=good"`)
	wrong = byCert(enrol.Renew, pairs["other"], apptest.CSR(t, apptest.Key(t), der.RequestSpec{RawSubject: pairs["other"].Leaf.RawSubject, Names: der.AltNames{URI: []string{pairs["good"].Leaf.URIs[0].String()}}}))
	wantRefusal(t, p, wrong, errs.Denied, `a renewal must repeat the subjectAltName of its certificate (RFC 7030, section 4.2.2): same names, no more and no fewer`)
	wantRefusal(t, p, byCert(enrol.Enrol, pairs["enrols"], apptest.CSR(t, apptest.Key(t), der.RequestSpec{})), errs.Denied, expired("enrols"))
	if _, err := p.Enrol.Authenticate(ctx, pairs["good"].Certificate); err == nil || errs.Public(err) != expired("good") {
		t.Errorf("outside a renewal an expired certificate proves: %v", err)
	}

	// With a token besides, where the profile wants it.
	wantRefusal(t, p, renew("token"), errs.Denied, "the client certificate expired at "+at(pairs["token"])+", and for a rescue the profile careful wants a one-time token besides; present name and token too")
	token, _, err := p.Devices.Token(ctx, op, devices["token"].ID, time.Hour)
	must(t, err)
	both := renew("token")
	both.Basic, both.User, both.Secret = true, "token", token
	submit(t, p, both)
	if p.Load(t, devices["token"].ID).Token.Used == 0 {
		t.Error("the token of the rescue is not spent")
	}

	submit(t, p, renew("good"))
	p.Clock.Move(31 * day)
	wantRefusal(t, p, renew("late"), errs.Denied, "the client certificate expired at "+at(pairs["late"])+", longer ago than the profile pump forgives (60d); enrol again with a new token")

	// Not valid yet: the clock was set back, or the certificate is one for later.
	p.Clock.Move(-400 * day)
	begins := pairs["late"].Leaf.NotBefore.UTC().Format("2006-01-02 15:04:05Z")
	wantRefusal(t, p, renew("late"), errs.Denied, "the client certificate is not valid before "+begins+"; check the clocks")
	p.Clock.Move(400 * day)
}

// TestRescueInBrief rescues a device of whose certificate there is no row.
func TestRescueInBrief(t *testing.T) {
	p := apptest.Start(t, nil, apptest.Variant("device-short", "brief-pump", "rescue: {max_expired: 30d, validity: 1h}"))
	_, pair := p.Enrolled(t, "pump-1", "brief-pump")
	expire(p, pair, 20*day)
	csr := again(t, pair, apptest.Key(t))
	first := submit(t, p, byCert(enrol.Renew, pair, csr))
	if life := first.NotAfter - first.NotBefore + 1; life != 3600 {
		t.Errorf("it lives %d s", life)
	}
	again2 := submit(t, p, byCert(enrol.Renew, pair, csr)) // the answer was lost, and is not kept
	if again2.SPKIHash != first.SPKIHash || len(entries(t, p, rescues)) != 2 {
		t.Errorf("the repeated request got a certificate for another key, or the record does not tell of both")
	}
	p.Clock.Move(2 * time.Hour)
	if _, err := p.Enrol.Submit(t.Context(), byCert(enrol.Renew, pair, csr)); err == nil {
		t.Error("the repetition is good for ever")
	}
}

// TestRescueApproved: an operator decides.
func TestRescueApproved(t *testing.T) {
	p := apptest.Start(t, nil, forgiving("pump", "{max_expired: 60d, approval: once}"))
	d, pair := p.Enrolled(t, "pump-1", "pump")
	expire(p, pair, 10*day)
	r := byCert(enrol.Renew, pair, again(t, pair, apptest.Key(t)))
	pending := func() {
		t.Helper()
		if a, err := p.Enrol.Submit(t.Context(), r); err != nil || a.Pending == 0 {
			t.Fatalf("got %v, %v; want to wait", a.Certificate, err)
		}
	}
	pending()
	waiting, err := p.Enrol.Waiting(t.Context(), apptest.Operator(), 10)
	if err != nil || len(waiting) != 1 || waiting[0].Rescue != pair.Leaf.NotAfter.Unix() {
		t.Fatalf("waiting is %+v, %v", waiting, err)
	}
	pending()
	_, err = p.Enrol.Decide(t.Context(), apptest.Operator(), d.Name, waiting[0].ID(), true)
	must(t, err)
	submit(t, p, r)
	if list := entries(t, p, func(e audit.Entry) bool { return e.Action == "cert.issue" && e.Detail["approved"] == "yes" }); len(list) != 1 {
		t.Errorf("the record shows %d approved issues", len(list))
	}
}

// TestRescueByTwo: two people decide, and one of them twice is not two.
func TestRescueByTwo(t *testing.T) {
	p := apptest.Start(t, nil, forgiving("pump", "{max_expired: 60d, approval: four-eyes}"))
	d, pair := p.Enrolled(t, "pump-1", "pump")
	expire(p, pair, 10*day)
	r := byCert(enrol.Renew, pair, again(t, pair, apptest.Key(t)))
	_, err := p.Enrol.Submit(t.Context(), r)
	must(t, err)
	person := func(id string) access.Actor {
		return access.Actor{Kind: access.KindOperator, ID: id, Role: access.RoleOperator, Via: "api"}
	}
	for range 2 {
		decided, err := p.Enrol.Decide(t.Context(), person("0a"), d.Name, "", true)
		if err != nil || decided.State != enrol.Waiting || decided.Second == "" {
			t.Fatalf("one person alone: %+v, %v", decided, err)
		}
		if a, err := p.Enrol.Submit(t.Context(), r); err != nil || a.Certificate != nil {
			t.Fatalf("after one person: %v, %v", a.Certificate, err)
		}
	}
	decided, err := p.Enrol.Decide(t.Context(), person("0b"), d.Name, "", true)
	if err != nil || decided.State != enrol.Approved {
		t.Fatalf("the second person: %+v, %v", decided, err)
	}
	submit(t, p, r)
	if n := len(entries(t, p, func(e audit.Entry) bool { return e.Action == "approve.spend" })); n != 1 {
		t.Errorf("the record shows %d spent approvals", n)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
