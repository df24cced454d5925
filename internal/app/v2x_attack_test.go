package app_test

import (
	"context"
	"crypto/rand"
	"errors"
	"math/big"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	agent "mooring/agent/v2x"
	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/device"
	"mooring/internal/core/v2x/trust"
	"mooring/wire/brainpool"
	"mooring/wire/its"
	"mooring/wire/scr"
	"mooring/wire/spdu"
	"mooring/wire/trustlist"
)

// Whoever runs one of the authorities brings a certificate by a root of their own. It is not believed, and who may run the root can have it believed.
func TestV2XForeignRoot(t *testing.T) {
	t.Parallel()
	p, other := startV2X(t, nil), startV2X(t, nil)
	ctx := t.Context()
	for role, actorRole := range map[trust.Role]access.Role{trust.EA: access.RoleV2XEnrolment, trust.AA: access.RoleV2XTickets} {
		of := p.V2X.Trust
		if role == trust.AA {
			of = p.Tickets().Trust
		}
		actor := access.Actor{Kind: access.KindOperator, ID: strings.Repeat("d", 32), Role: actorRole}
		request, err := of.Apply(ctx, actor, role, "Mine")
		must(t, err)
		a, err := other.V2X.Trust.Issue(ctx, apptest.Operator(), request, trust.Grant{Role: role, URL: "http://x", Peer: "http://x"})
		must(t, err)
		root := other.V2X.Trust.State().Root.Octets
		if _, err := of.Install(ctx, actor, a.Octets, root); !errs.Is(err, errs.Denied) {
			t.Errorf("the operator of the %s has another root believed: %v", role, err)
		}
		if st := of.State(); len(st.Roots) != 1 || st.Of(other.made.Root) != nil {
			t.Errorf("the store of the %s believes %d roots", role, len(st.Roots))
		}
		_, err = of.Install(ctx, apptest.Operator(), a.Octets, root)
		must(t, err)
		if len(of.State().Roots) != 2 {
			t.Errorf("the administrator cannot have a root believed")
		}
	}
}

// ask asks the enrolment authority as an authorization authority.
func (p *v2xPlatform) ask(t *testing.T, r *atRequest, by spdu.Signer) *its.AuthorizationValidationResponse {
	t.Helper()
	d, err := scr.Sign(its.EtsiTs102941DataContent{Choice: its.ValidationRequest, AuthorizationValidationRequest: &its.AuthorizationValidationRequest{
		SharedAtRequest: r.inner.SharedAtRequest, EcSignature: r.inner.EcSignature}}, p.at(), by)
	must(t, err)
	request, session := sealTo(t, d, nil, p.ea)
	_, body := postV2X(t, p.Config.V2XValidationURL()+"/validation", request)
	_, c, err := scr.OpenAnswer(body, session, its.ValidationResponse)
	must(t, err)
	return c.AuthorizationValidationResponse
}

// A vehicle sends the same request to two authorization authorities, each of which would give out a ticket for it.
func TestV2XOneRequestTwoAuthorities(t *testing.T) {
	t.Parallel()
	p := startV2X(t, func(c *conf.Config) { c.V2X.Tickets = 1 })
	canonical, _ := p.vehicle(t, "car-1")
	ec, err := p.client(t).Enrol(t.Context(), "car-1", canonical)
	must(t, err)
	first, err := p.Tickets().Trust.Credential(t.Context(), trust.AA)
	must(t, err)
	p.clock.Move(time.Minute)
	p.follow(t, trust.AA)
	second, err := p.Tickets().Trust.Credential(t.Context(), trust.AA)
	must(t, err)
	if first.ID == second.ID {
		t.Fatal("there is one authorization authority")
	}
	r := p.atRequest(t, ec)
	r.message(t)
	for i, row := range []struct {
		by   *trust.Credential
		want its.AuthorizationValidationResponseCode
	}{{first, its.ValidationOk}, {first, its.ValidationOk}, {second, its.ValidationDeniedTooManyCerts}} {
		if got := p.ask(t, r, row.by.Signer).ResponseCode; got != row.want {
			t.Errorf("question %d: got %v, want %v", i+1, got, row.want)
		}
	}
}

// PRV: the time of a ticket that is asked for without one does not say when it was asked for.
func TestV2XTicketsTellNoSecond(t *testing.T) {
	t.Parallel()
	p := startV2X(t, nil)
	p.clock.Move(3*time.Hour + 17*time.Minute)
	must(t, p.Tickets().Fetch(t.Context()))
	var starts []its.Time32
	for _, name := range []string{"car-1", "car-2"} {
		canonical, _ := p.vehicle(t, name)
		ec, err := p.client(t).Enrol(t.Context(), name, canonical)
		must(t, err)
		by, err := p.Tickets().Trust.Credential(t.Context(), trust.AA)
		must(t, err)
		r := p.atRequest(t, ec)
		r.message(t)
		c, ok := p.ask(t, r, by.Signer).ConfirmedSubjectAttributes.Get()
		if !ok {
			t.Fatal("nothing was confirmed")
		}
		starts = append(starts, c.ValidityPeriod.Value.Start)
		p.clock.Move(7 * time.Second)
	}
	if utc := starts[0].Time(its.LeapSeconds).Unix(); starts[0] != starts[1] || utc%3600 != 0 {
		t.Errorf("the tickets begin at %d and %d", starts[0], starts[1])
	}
}

// ENR-15, the quota: a vehicle asks for one enrolment credential after the other, each of which stays for years.
func TestV2XManyCredentials(t *testing.T) {
	t.Parallel()
	p := startV2X(t, nil)
	canonical, _ := p.vehicle(t, "car-1")
	client := p.client(t)
	enrol := func(ctx context.Context) error { _, err := client.Enrol(ctx, "car-1", canonical); return err }
	const most = 32
	for n := range most {
		if err := enrol(t.Context()); err != nil {
			t.Fatalf("credential %d: %v", n+1, err)
		}
	}
	var refused *agent.Refused
	if err := enrol(t.Context()); !asRefused(err, &refused) || refused.Code != "deniedrequest" {
		t.Errorf("one more on the same day: %v", err)
	}
	p.clock.Move(25 * time.Hour)
	must(t, enrol(t.Context()))
}

// AUT-30, AUT-44: a car asks for what is for ambulances, and who may have that for more than it may have. What a station may have is looked at with each request.
func TestV2XSpecialPermissions(t *testing.T) {
	t.Parallel()
	p := startV2X(t, nil)
	ctx := t.Context()
	by, err := p.Tickets().Trust.Credential(ctx, trust.AA)
	must(t, err)
	credential := func(name string) (*agent.Credential, device.ID) {
		canonical, d := p.vehicle(t, name)
		ec, err := p.client(t).Enrol(ctx, name, canonical)
		must(t, err)
		return ec, d.ID
	}
	car, _ := credential("car-1")
	ambulance, id := credential("ambulance-1")
	wrong, wrongID := credential("car-2")
	grant := func(id device.ID, tags map[string]string) {
		_, err := p.Devices.Change(ctx, apptest.Operator(), id, device.Change{Tags: &tags})
		must(t, err)
	}
	grant(id, map[string]string{"v2x": "vehicle", "v2x-cam": "010100", "v2x-denm": "01000003"})
	grant(wrongID, map[string]string{"v2x": "vehicle", "v2x-cam": "all", "v2x-denm": "02000003"})
	for _, row := range []struct {
		name string
		ec   *agent.Credential
		want its.AuthorizationValidationResponseCode
		cam  its.PsidSsp
		denm its.PsidSsp
	}{
		{"a car, with nothing special", car, its.ValidationOk, its.Bitmap(its.PsidCAM, 1, 0, 0), its.Bitmap(its.PsidDENM, 1, 0, 0, 0)},
		{"a car as an ambulance", car, its.ValidationDeniedPermissions, its.Bitmap(its.PsidCAM, 1, 1, 0), its.Bitmap(its.PsidDENM, 1, 0, 0, 0)},
		{"a car that warns as an ambulance", car, its.ValidationDeniedPermissions, its.Bitmap(its.PsidCAM, 1, 0, 0), its.Bitmap(its.PsidDENM, 1, 0, 0, 2)},
		{"an ambulance", ambulance, its.ValidationOk, its.Bitmap(its.PsidCAM, 1, 1, 0), its.Bitmap(its.PsidDENM, 1, 0, 0, 3)},
		{"an ambulance as something else", ambulance, its.ValidationDeniedPermissions, its.Bitmap(its.PsidCAM, 1, 3, 0), its.Bitmap(its.PsidDENM, 1, 0, 0, 3)},
		{"tags that are none", wrong, its.ValidationDeniedPermissions, its.Bitmap(its.PsidCAM, 1, 1, 0), its.Bitmap(its.PsidDENM, 1, 0, 0, 0)},
		{"a tag of another version", wrong, its.ValidationDeniedPermissions, its.Bitmap(its.PsidCAM, 1, 0, 0), its.Bitmap(its.PsidDENM, 1, 0, 0, 1)},
		{"nothing special, with tags that are none", wrong, its.ValidationOk, its.Bitmap(its.PsidCAM, 1, 0, 0), its.Bitmap(its.PsidDENM, 1, 0, 0, 0)},
	} {
		r := p.atRequest(t, row.ec)
		r.inner.SharedAtRequest.RequestedSubjectAttributes.AppPermissions = []its.PsidSsp{row.cam, row.denm}
		r.message(t)
		if got := p.ask(t, r, by.Signer).ResponseCode; got != row.want {
			t.Errorf("%s: got %v, want %v", row.name, got, row.want)
		}
	}
}

// PRV: the tickets that a vehicle gets for the present week have the time of everybody's, whenever it asked.
func TestV2XStocksBeginTogether(t *testing.T) {
	t.Parallel()
	p := startV2X(t, nil)
	const first, week = its.Time32(347619603), its.Time32(7 * 24 * 3600)
	p.clock.Move(agent.Period - time.Duration((its.Time32(p.at()/1e6)-first)%week)*time.Second + 17*time.Minute) // a week began, with authorities that there were before
	must(t, p.V2X.Trust.Publish(t.Context()))
	p.fetch(t)
	begin := its.Time32(p.at()/1e6) - (its.Time32(p.at()/1e6)-first)%week
	for _, name := range []string{"car-1", "car-2"} {
		canonical, _ := p.vehicle(t, name)
		s, err := agent.MakeStation(filepath.Join(t.TempDir(), name), agent.Settings{Root: p.made.Certificate, DC: p.Addresses().V2XDC, ID: name, Stock: 2, Ahead: 1}, agent.StationOptions{Now: p.clock.Now})
		must(t, err)
		defer s.Close()
		must(t, s.Enrol(t.Context(), canonical))
		if got, err := s.Keep(t.Context()); got != 4 || err != nil {
			t.Errorf("%s got %d tickets: %v", name, got, err)
		}
		for i, ticket := range s.Tickets() {
			want := its.ValidityPeriod{Start: begin + its.Time32(i/2)*week, Duration: its.Duration{Choice: its.Hours, Value: 168}}
			if got := ticket.Certificate.ToBeSigned.ValidityPeriod; got != want {
				t.Errorf("ticket %d of %s is valid for %+v, want %+v", i, name, got, want)
			}
		}
		p.clock.Move(26*time.Hour + 13*time.Minute)
		must(t, p.V2X.Trust.Publish(t.Context()))
		p.fetch(t)
	}
}

// Another root that is believed lists the enrolment authority of the first one as its authorization authority. That it was judged as the one thing does not make it the other.
func TestV2XListedAsSomethingElse(t *testing.T) {
	t.Parallel()
	p, other := startV2X(t, nil), startV2X(t, nil)
	st, foreign := *p.V2X.Trust.State(), *other.V2X.Trust.State().Roots[0]
	foreign.Lists = &trustlist.CTL{CtlFormat: &its.CtlFormat{NextUpdate: foreign.Lists.NextUpdate, IsFullCtl: true, CtlCommands: []its.CtlCommand{
		{Add: its.CtlEntry{Choice: its.CtlAa, Aa: &its.AaEntry{AaCertificate: *p.ea, AccessPoint: "http://x"}}}}}}
	st.Roots = append(slices.Clone(st.Roots), &foreign)
	for range 2 {
		if _, err := st.Find(p.made.EA, trust.EA, p.at()); err != nil {
			t.Fatal(err)
		}
		if _, err := st.Find(p.made.EA, trust.AA, p.at()); !errors.Is(err, trust.ErrBarred) {
			t.Errorf("the enrolment authority passes for an authorization authority: %v", err)
		}
	}
}

// A stranger asks for tickets with keys of a curve that takes long to verify. They are looked at when the enrolment authority knows whose they are.
func TestV2XSlowCurve(t *testing.T) {
	t.Parallel()
	p := startV2X(t, nil)
	ec := p.car(t, "car-1").ec
	for _, row := range []struct {
		name  string
		ec    *agent.Credential
		wrong bool // the proof of possession
		want  its.AuthorizationResponseCode
	}{
		{"a station", ec, false, its.AuthorizationOk},
		{"a station with a wrong proof", ec, true, its.ItsAaDeniedPermissions},
		{"a stranger with a wrong proof", &agent.Credential{Certificate: p.aa, Key: ec.Key}, true, its.UnknownIts},
	} {
		r := p.atRequest(t, row.ec)
		key, signer := brainpoolKey(t, row.wrong)
		r.inner.PublicKeys.VerificationKey, r.pop = key, nil
		r.message(t) // completes the inner request
		d, err := scr.Sign(its.EtsiTs102941DataContent{Choice: its.AuthorizationRequest, AuthorizationRequest: &r.inner}, r.at, signer)
		must(t, err)
		request, session := sealTo(t, d, nil, p.aa)
		status, body := postV2X(t, p.Addresses().V2XAA+"/authorization", request)
		_, c, err := scr.OpenAnswer(body, session, its.AuthorizationResponse)
		if err != nil {
			t.Fatalf("%s: status %d, %v", row.name, status, err)
		}
		if a := c.AuthorizationResponse; a.ResponseCode != row.want || (a.Certificate != nil) != (row.want == its.AuthorizationOk) {
			t.Errorf("%s: got %v, want %v", row.name, a.ResponseCode, row.want)
		}
	}
}

// brainpoolKey is a key of brainpoolP256r1 and what signs with it, or with another one.
func brainpoolKey(t *testing.T, wrong bool) (its.PublicVerificationKey, spdu.Signer) {
	t.Helper()
	curve := brainpool.P256r1()
	n := new(big.Int).SetBytes(curve.Order())
	pair := func() (*big.Int, []byte) {
		d, err := rand.Int(rand.Reader, new(big.Int).Sub(n, big.NewInt(1)))
		must(t, err)
		d.Add(d, big.NewInt(1))
		public, err := curve.Public(d.FillBytes(make([]byte, curve.Size())))
		must(t, err)
		return d, public
	}
	d, public := pair()
	if wrong {
		_, public = pair()
	}
	sign := func(digest []byte) (its.Signature, error) {
		k, at := pair()
		r := new(big.Int).Mod(new(big.Int).SetBytes(at[1:]), n)
		s := new(big.Int).Mul(r, d) // (digest + r d) / k
		s.Add(s, new(big.Int).SetBytes(digest)).Mul(s, k.ModInverse(k, n)).Mod(s, n)
		return its.Signature{Choice: its.ECDSABrainpoolP256r1, R: its.CurvePoint{X: r.FillBytes(make([]byte, curve.Size()))}, S: s.FillBytes(make([]byte, curve.Size()))}, nil
	}
	return its.PublicVerificationKey{Choice: its.ECDSABrainpoolP256r1, Point: its.Compressed(public)}, spdu.Signer{Algorithm: its.ECDSABrainpoolP256r1, Sign: sign}
}
