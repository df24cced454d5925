package app_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	agent "mooring/agent/v2x"
	"mooring/internal/app"
	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
	"mooring/internal/core/v2x/ea"
	"mooring/internal/core/v2x/trust"
	"mooring/wire/butterfly"
	"mooring/wire/its"
)

func operatorOf(role access.Role) access.Actor {
	return access.Actor{Kind: access.KindOperator, ID: strings.Repeat("d", 32), Role: role}
}

func credentialID(t *testing.T, ec *agent.Credential) its.HashedId8 {
	t.Helper()
	id, err := ec.Certificate.HashedId8()
	must(t, err)
	return id
}

// AUT-51, ENR-16: one of the two credentials of a vehicle is revoked, on one node: from then on it gets neither tickets nor another credential, on all of them. The other one goes on,
// and the canonical key gives another one. It needs the role of the enrolment authority, and stays revoked.
func TestV2XRevokedCredential(t *testing.T) {
	t.Parallel()
	eas, eaURL := balanced(t)
	aas, aaURL := balanced(t)
	p := startV2X(t, func(c *conf.Config) {
		c.V2X.EAURL, c.V2X.DCURL, c.V2X.Tickets = c.V2XEAURL(), c.V2XDCURL(), 1000
		eas.add(t, c.V2XValidationURL())
		aas.add(t, c.V2XAAURL())
		c.V2X.ValidationURL, c.V2X.AAURL = eaURL, aaURL
	})
	nodes := []*app.Platform{p.Platform}
	if !strings.HasPrefix(p.Config.Database.URL, "sqlite:") {
		node := p.second(t)
		eas.add(t, "http://"+node.Config.Listen.V2XValidation)
		aas.add(t, "http://"+node.Config.Listen.V2XAA)
		nodes = append(nodes, node)
	}
	ctx, who := t.Context(), operatorOf(access.RoleV2XEnrolment)
	canonical, d := p.vehicle(t, "car-1")
	client := p.client(t)
	stolen, err := client.Enrol(ctx, "car-1", canonical)
	must(t, err)
	p.clock.Move(time.Second)
	kept, err := client.Enrol(ctx, "car-1", canonical)
	must(t, err)
	order := agent.Order{Life: its.Duration{Choice: its.Hours, Value: 1}}
	asking := ask(t, client, stolen, order)
	apptest.Until(t, "it gets tickets all the time", func() bool { return asking.granted(time.Time{}) > 3 })

	id := credentialID(t, stolen)
	for _, role := range []access.Role{access.RoleV2XRoot, access.RoleV2XTickets, access.RoleV2XTrustLists, access.RoleOperator, access.RoleAuditor} {
		if _, err := p.V2X.EA.RevokeCredential(ctx, operatorOf(role), id); !errs.Is(err, errs.Denied) {
			t.Errorf("the role %s revokes a credential: %v", role, err)
		}
	}
	last := nodes[len(nodes)-1].V2X.EA
	_, err = last.RevokeCredential(ctx, who, id)
	must(t, err)
	cut := time.Now()
	apptest.Until(t, "it was refused often since", func() bool { return asking.refused(cut) >= 8 })
	if n := asking.granted(cut); n != 0 {
		t.Errorf("%d requests that were made after the credential was revoked got a ticket", n)
	}
	asking.end()
	var refused *agent.Refused
	if _, err := client.Renew(ctx, stolen); !asRefused(err, &refused) || refused.Code != its.EnrolmentBadItsStatus.String() {
		t.Errorf("a new credential by the revoked one: %v", err)
	}
	for _, ec := range []*agent.Credential{kept, func() *agent.Credential { ec, err := client.Enrol(ctx, "car-1", canonical); must(t, err); return ec }()} {
		if _, err := client.Ticket(ctx, ec, order); err != nil {
			t.Errorf("a ticket by a credential that is not revoked: %v", err)
		}
	}
	if _, err := p.V2X.EA.RevokeCredential(ctx, who, id); err != nil {
		t.Errorf("revoked twice: %v", err)
	}
	if _, err := p.V2X.EA.RevokeCredential(ctx, who, its.HashedId8{1}); !errs.Is(err, errs.NotFound) {
		t.Errorf("a credential that there is not: %v", err)
	}
	p.recorded(t, "v2x.revoke-credential", id.String(), d.ID.String())

	for change, want := range map[string]string{`DELETE FROM v2x_credential_revoked`: "would be good again", `UPDATE v2x_credential_revoked SET at = at + 1`: "is not what the record says"} {
		tx := func(sql string) { alterV2X(t, p.DB, sql) }
		before := rowsOf(t, p.DB, `SELECT at FROM v2x_credential_revoked`)
		tx(change)
		report, err := p.Audit.Verify(ctx, audit.VerifyOptions{Checkers: p.Checkers()})
		must(t, err)
		if !strings.Contains(fmt.Sprint(report.Findings), want) {
			t.Errorf("after %s: %v, want %q", change, report.Findings, want)
		}
		if strings.HasPrefix(change, "DELETE") {
			tx(fmt.Sprintf(`INSERT INTO v2x_credential_revoked (cell, id, at) SELECT 0, id, %d FROM v2x_credential WHERE id = (SELECT id FROM v2x_credential ORDER BY issued LIMIT 1)`, before))
		} else {
			tx(`UPDATE v2x_credential_revoked SET at = at - 1`)
		}
	}
}

// recorded wants an entry of the record.
func (p *v2xPlatform) recorded(t *testing.T, action, object, device string) {
	t.Helper()
	must(t, p.Audit.Sequence(t.Context()))
	entries, err := p.Audit.List(t.Context(), access.System("test"), audit.Query{Newest: true, Limit: 500})
	must(t, err)
	for _, e := range entries {
		if e.Action == action && e.Object == object && e.Device == device && e.Refused == "" && e.Actor != "" {
			return
		}
	}
	t.Errorf("the record has no %s of %s", action, object)
}

// BFK-14: with the credential go the tickets that it asked for by butterfly keys: no further periods, no archive, whoever fetches it; and none that wait leave.
func TestV2XRevokedCredentialButterfly(t *testing.T) {
	t.Parallel()
	p := startButterfly(t, 1, nil)
	ctx := t.Context()
	canonical, _ := p.vehicle(t, "car-1")
	client := p.client(t)
	var cars [2]car
	for i := range cars {
		ec, err := client.Enrol(ctx, "car-1", canonical)
		must(t, err)
		cars[i] = car{client: client, ec: ec}
	}
	b := cars[0].order(t, butterfly.Original)
	cars[0].fetch(t, b, b.First)
	cars[1].fetch(t, b, b.First) // the station's, whichever of its credentials asks
	next := rowsOf(t, p.DB, `SELECT MAX(next) FROM v2x_order`)
	must(t, p.V2X.RA.Mix(ctx))
	p.clock.Move(7 * 24 * time.Hour)
	must(t, p.V2X.RA.Plan(ctx)) // one more period waits
	next, was := rowsOf(t, p.DB, `SELECT MAX(next) FROM v2x_order`), next
	if next != was+1 {
		t.Fatalf("the next period is %d, want %d", next, was+1)
	}
	p.clock.Move(-7 * 24 * time.Hour)
	_, err := p.V2X.EA.RevokeCredential(ctx, operatorOf(access.RoleV2XEnrolment), credentialID(t, cars[0].ec))
	must(t, err)
	for i, c := range cars {
		if _, err := c.client.FetchButterfly(ctx, c.ec, b, b.First); status(err) != http.StatusForbidden {
			t.Errorf("with credential %d there is an archive of the revoked one: %v", i, err)
		}
	}
	p.clock.Move(14 * 24 * time.Hour)
	must(t, p.V2X.RA.Plan(ctx))
	if n := rowsOf(t, p.DB, `SELECT MAX(next) FROM v2x_order`); n != next {
		t.Errorf("for a revoked credential period %d was planned", n-1)
	}
	p.clock.Move(-14 * 24 * time.Hour)
	again, err := client.PrepareButterfly(cars[0].ec, agent.ButterflyOrder{Variant: butterfly.Unified})
	must(t, err)
	if err := client.OrderButterfly(ctx, again); status(err) != http.StatusForbidden {
		t.Errorf("a further request by the revoked credential: %v", err)
	}
	fresh := cars[1].order(t, butterfly.Unified)
	cars[1].fetch(t, fresh, fresh.First)
}

// A ticket that was counted, but that nobody knows to have been given out, is refused when it is asked for again after the credential was revoked or the station suspended.
func TestV2XCountedThenStopped(t *testing.T) {
	t.Parallel()
	p := startV2X(t, nil)
	by, err := p.Tickets().Trust.Credential(t.Context(), trust.AA)
	must(t, err)
	cars := []car{p.car(t, "car-1"), p.car(t, "car-2")}
	var list []*atRequest
	for _, c := range cars {
		r := p.atRequest(t, c.ec)
		r.message(t)
		list = append(list, r)
	}
	for range 2 {
		if got := p.codes(t, list, by.Signer); got[0] != its.ValidationOk || got[1] != its.ValidationOk {
			t.Fatalf("before: %v", got)
		}
	}
	_, err = p.V2X.EA.RevokeCredential(t.Context(), operatorOf(access.RoleV2XEnrolment), credentialID(t, cars[0].ec))
	must(t, err)
	_, err = p.Devices.Move(t.Context(), apptest.Operator(), cars[1].device, device.Suspend, "")
	must(t, err)
	if got := p.codes(t, list, by.Signer); got[0] != its.ValidationDeniedRequest || got[1] != its.ValidationDeniedRequest {
		t.Errorf("afterwards: %v", got)
	}
}

// What the operators of the enrolment authority see of a station: credentials and numbers, and nothing of tickets.
func TestV2XStationShown(t *testing.T) {
	t.Parallel()
	p := startV2X(t, nil)
	ctx, who := t.Context(), operatorOf(access.RoleV2XEnrolment)
	canonical, d := p.vehicle(t, "car-1")
	client := p.client(t)
	ec, err := client.Enrol(ctx, "car-1", canonical)
	must(t, err)
	at := p.clock.Now().UTC()
	const nine = 9*time.Hour - 2*time.Second // two leap seconds came since the first period began
	tuesday := at.Add(-nine).Truncate(24 * time.Hour).Add(nine)
	for tuesday.Weekday() != time.Tuesday {
		tuesday = tuesday.AddDate(0, 0, -1)
	}
	begin := func(at time.Time) its.Time32 { return its.Time32(its.TimeAt(at, its.LeapSeconds) / 1e6) }
	for _, start := range []time.Time{at, at, tuesday.AddDate(0, 0, 7), tuesday.AddDate(0, 0, 20)} {
		_, err := client.Ticket(ctx, ec, agent.Order{Start: begin(start), Life: its.Duration{Choice: its.Hours, Value: 24}})
		must(t, err)
	}
	for _, name := range []string{"car-1", d.ID.String()} {
		st, err := p.V2X.EA.Station(ctx, who, name)
		must(t, err)
		want := []ea.Week{{From: tuesday, Tickets: 2}, {From: tuesday.AddDate(0, 0, 7), Tickets: 1}, {From: tuesday.AddDate(0, 0, 14), Tickets: 1}}
		if !st.Tagged || st.Device.Name != "car-1" || st.Valid != 2 || fmt.Sprint(st.Weeks) != fmt.Sprint(want) || len(st.Credentials) != 1 || st.Credentials[0].ID != credentialID(t, ec) {
			t.Errorf("%s: %+v, want the weeks %v", name, st, want)
		}
	}
	if _, err := p.V2X.EA.Station(ctx, operatorOf(access.RoleV2XTickets), "car-1"); !errs.Is(err, errs.Denied) {
		t.Errorf("an operator of the authorization authority sees a station: %v", err)
	}
	if _, err := p.V2X.EA.Station(ctx, who, "car-2"); !errs.Is(err, errs.NotFound) {
		t.Errorf("a device that there is not: %v", err)
	}
}

// Lists are fetched all the time by everybody: that is counted, and logged at the level debug.
func TestV2XListsAreQuiet(t *testing.T) {
	t.Parallel()
	p := startV2X(t, nil)
	for _, list := range []string{"getctl", "getcrl"} {
		for range 3 {
			if a, _ := document(t, http.MethodGet, p.Addresses().V2XDC+"/"+list+"/"+p.made.Root.String(), nil); a.StatusCode != http.StatusOK {
				t.Fatalf("%s: %d", list, a.StatusCode)
			}
		}
	}
	if text := p.log.String(); regexp.MustCompile(`level=(INFO|WARN|ERROR) msg=request surface=v2x-dc`).MatchString(text) {
		t.Errorf("fetches of lists are logged:\n%s", text)
	}
	local := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", p.Config.SocketPath())
	}}}
	defer local.CloseIdleConnections()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://mooring/metrics", nil)
	must(t, err)
	a, err := local.Do(r)
	must(t, err)
	defer a.Body.Close()
	metrics, err := io.ReadAll(a.Body)
	must(t, err)
	if !regexp.MustCompile(`mooring_request_seconds_count{class="2xx",route="/getctl/",surface="v2x-dc"} [1-9]`).Match(metrics) {
		t.Errorf("the metrics do not count the fetches: %s", metrics)
	}
}
