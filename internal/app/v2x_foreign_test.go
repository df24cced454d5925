package app_test

import (
	"errors"
	"net/http"
	"slices"
	"testing"

	agent "mooring/agent/v2x"
	"mooring/internal/app/apptest"
	"mooring/internal/core/v2x/trust"
	"mooring/wire/its"
	"mooring/wire/its/chain"
	"mooring/wire/scr"
	"mooring/wire/trustlist"
)

// DST-5, CHN-1: a client of TS 102 941 that shares nothing with agent/v2x but the formats, and is told nothing but the certificate of the trust list manager and the address of the CPOC, goes all the
// way: the manager's list, the root's lists, enrolment, renewal, and 100 tickets. Addresses and certificates are those that the lists say.
func TestV2XForeignClient(t *testing.T) {
	t.Parallel()
	p := startV2X(t, withCPOC(t))
	ctx, who := t.Context(), apptest.Operator()
	manager, err := p.V2X.Trust.CreateManager(ctx, who, "TLM")
	must(t, err)
	_, err = p.V2X.Trust.Admit(ctx, who, trust.Admission{Certificate: p.made.Certificate, URL: p.Addresses().V2XDC})
	must(t, err)
	canonical, _ := p.vehicle(t, "car-1")
	get := func(url string) []byte {
		t.Helper()
		a, octets := document(t, http.MethodGet, url, nil)
		if a.StatusCode != http.StatusOK {
			t.Fatalf("%s: status %d", url, a.StatusCode)
		}
		return octets
	}
	cpoc := p.Config.V2X.CPOCURL
	tlm, err := its.ParseCertificate(get(cpoc + "/gettlmcertificate"))
	must(t, err)
	if id, err := tlm.HashedId8(); err != nil || id != manager.ID {
		t.Fatalf("the manager is %s, want %s: %v", id, manager.ID, err)
	}
	ectl, err := trustlist.ReadECTL(get(cpoc+"/getectl/"+manager.ID.String()), tlm, p.at())
	must(t, err)
	roots := ectl.Roots()
	if len(roots) != 1 || len(roots[0].Centres) == 0 {
		t.Fatalf("the list has the roots %+v", roots)
	}
	root, dc := roots[0].Certificate, roots[0].Centres[0]
	rootID, err := root.HashedId8()
	must(t, err)
	ctl, err := trustlist.ReadCTL(get(dc+"/getctl/"+rootID.String()), root, p.at())
	must(t, err)
	crl, err := trustlist.ReadCRL(get(dc+"/getcrl/"+rootID.String()), root, p.at())
	must(t, err)
	if len(crl.Entries) != 0 {
		t.Errorf("the revocation list has %d entries", len(crl.Entries))
	}
	var ea, aa *its.Certificate
	var eaURL, aaURL string
	for i := range ctl.CtlCommands {
		switch e := &ctl.CtlCommands[i].Add; e.Choice {
		case its.CtlEa:
			ea, eaURL = &e.Ea.EaCertificate, e.Ea.ItsAccessPoint.Value
		case its.CtlAa:
			aa, aaURL = &e.Aa.AaCertificate, e.Aa.AccessPoint
		}
	}
	enrol := func(r *ecRequest) *agent.Credential {
		t.Helper()
		request, session := sealTo(t, r.message(t), nil, ea)
		status, body := postV2X(t, eaURL, request)
		by, c, err := scr.OpenAnswer(body, session, its.EnrolmentResponse)
		if err != nil || status != http.StatusOK || by.Verify(ea, nil) != nil || c.EnrolmentResponse.ResponseCode != its.EnrolmentOk {
			t.Fatalf("enrolment: status %d, %v, %+v", status, err, c)
		}
		return &agent.Credential{Certificate: c.EnrolmentResponse.Certificate, Key: r.key}
	}
	first := enrol(p.ecRequest(t, "car-1", canonical))
	id := credentialID(t, first)
	again := p.ecRequest(t, "", first.Key)
	again.id, again.by = id[:], first.Certificate
	ec := enrol(again)
	seen := map[its.HashedId8]bool{}
	for range 100 {
		r := p.atRequest(t, ec)
		request, session := sealTo(t, r.message(t), nil, aa)
		status, body := postV2X(t, aaURL, request)
		by, c, err := scr.OpenAnswer(body, session, its.AuthorizationResponse)
		if err != nil || status != http.StatusOK || by.Verify(aa, nil) != nil || c.AuthorizationResponse.ResponseCode != its.AuthorizationOk {
			t.Fatalf("ticket %d: status %d, %v, %+v", len(seen)+1, status, err, c)
		}
		x := c.AuthorizationResponse.Certificate
		if err := x.Verify(aa); err != nil {
			t.Fatal(err)
		}
		if len(seen) == 0 { // CHN-1: from the list of the manager on
			for name, path := range map[string][]*its.Certificate{"ticket": {x, aa, root}, "credential": {ec.Certificate, ea, root}} {
				o := chain.Options{At: max(p.at(), its.Time64(path[0].ToBeSigned.ValidityPeriod.Start)*1e6), Trusted: func(id its.HashedId8) bool {
					return slices.ContainsFunc(ectl.Roots(), func(r trustlist.ListedRoot) bool { return r.ID == id })
				}, Revocation: func(x *its.Certificate, _ its.HashedId8) chain.State {
					if crl.Revoked(x) {
						return chain.Revoked
					}
					return chain.Good
				}}
				if err := chain.Check(path, o); err != nil {
					t.Errorf("CHN-1: the %s: %v", name, err)
				}
				o.Trusted = func(its.HashedId8) bool { return false }
				if err := chain.Check(path, o); !errors.Is(err, chain.ErrUntrusted) {
					t.Errorf("CHN-1: the %s of a root that is not listed: %v", name, err)
				}
			}
		}
		id, err := x.HashedId8()
		must(t, err)
		if seen[id] {
			t.Fatal("a ticket came twice")
		}
		seen[id] = true
	}
}
