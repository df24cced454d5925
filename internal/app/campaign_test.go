package app_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mooring/agent"
	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/campaign"
	"mooring/internal/core/device"
	"mooring/internal/core/enrol"
	"mooring/wire/der"
)

// fleetOf enrols n devices of a group by the real agent, a folder each.
func fleetOf(t *testing.T, p *apptest.Platform, n int) []*agent.Agent {
	t.Helper()
	agents := make([]*agent.Agent, n)
	for i := range agents {
		name := fmt.Sprintf("meter-%02d", i)
		d := p.Add(t, device.Spec{Name: name, Group: "meters", Profile: "device"})
		a, err := agent.Create(agent.Options{Dir: filepath.Join(t.TempDir(), name), Now: p.Clock.Now}, agent.Config{Server: p.Addresses().EST, Name: name, Bind: true})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Enrol(t.Context(), agent.First{Roots: []*x509.Certificate{p.Root}, Token: p.Token(t, d.ID)}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		agents[i] = a
	}
	return agents
}

// tick lets every agent do what Run does when it wakes: ask when it is time, renew when it is due, and ask again with the new certificate.
func tick(t *testing.T, p *apptest.Platform, agents []*agent.Agent) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var all sync.WaitGroup
	for _, a := range agents {
		all.Go(func() {
			// Each would sleep until something is due; here it stops there.
			once, stop := context.WithCancel(ctx)
			defer stop()
			o := a.Options()
			o.Sleep = func(context.Context, time.Duration) error { stop(); return context.Canceled }
			again, err := agent.Open(o)
			if err == nil {
				err = again.Run(once)
			}
			if err != nil {
				t.Errorf("agent: %v", err)
			}
		})
	}
	all.Wait()
}

// settled waits until the campaign is in the state, or its progress fits.
func settled(t *testing.T, p *apptest.Platform, name string, fits func(campaign.Campaign, campaign.Progress) bool) (campaign.Campaign, campaign.Progress) {
	t.Helper()
	var c campaign.Campaign
	var n campaign.Progress
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		var err error
		if c, n, err = p.Campaigns.Get(t.Context(), apptest.Operator(), name); err != nil {
			t.Fatal(err)
		}
		if fits(c, n) {
			return c, n
		}
	}
	t.Fatalf("campaign %s: %s (%s) with %+v", name, c.State, c.Note, n)
	return c, n
}

// TestCampaign re-keys sixty devices to P-384, a fifth a day, by the real agent and a clock that is moved. One device's renewals are refused,
// because its profile does not take certificates as evidence any more; the campaign stops at it, and goes on when a person says so.
func TestCampaign(t *testing.T) {
	p := apptest.Start(t, nil, apptest.Variant("device", "picky", "evidence: [token]"))
	agents := fleetOf(t, p, 60)
	who := apptest.Operator()
	awaitInventory(t, p)
	spec := campaign.Spec{Name: "p384", Filter: device.Filter{Group: "meters"}, Action: campaign.Rekey, Algorithm: "ec-p384", Rate: 20_00, Every: 86400, MaxFailed: 1_00,
		Deadline: p.Clock.Now().Unix() + 30*86400, RevokeOld: true}
	if _, err := p.Campaigns.Create(t.Context(), who, spec); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Campaigns.Start(t.Context(), who, "p384"); err != nil {
		t.Fatal(err)
	}
	_, n := settled(t, p, "p384", func(c campaign.Campaign, _ campaign.Progress) bool { return c.Filled })
	if n.Total() != 60 || n.Waiting != 60 {
		t.Fatalf("taken in: got %+v, want 60 that wait", n)
	}
	broken := firstTurn(t, p, 1, 2) // of the second day
	breakRenewals(t, p, broken)

	// The first day: a fifth is told and renews, spread over the day.
	tick(t, p, agents)
	var early int64
	for hour := range 12 {
		p.Clock.Move(2 * time.Hour)
		tick(t, p, agents)
		_, n = settled(t, p, "p384", func(c campaign.Campaign, n campaign.Progress) bool { return n.Told+n.Issued+n.Closing == 0 })
		if hour == 5 {
			early = n.Done
		}
		if n.Failed > 0 {
			break
		}
	}
	if early == 0 || early == n.Done || n.Done < 6 || n.Done > 20 {
		t.Errorf("done after half of the first day: %d, after it: %d, want about 6 and 12", early, n.Done)
	}
	// The second day reaches the broken device, and the campaign stops.
	var c campaign.Campaign
	for range 16 {
		p.Clock.Move(2 * time.Hour)
		tick(t, p, agents)
		if c, n = settled(t, p, "p384", func(c campaign.Campaign, n campaign.Progress) bool {
			return c.State == campaign.Paused || n.Told == 0 && n.Closing == 0
		}); c.State == campaign.Paused {
			break
		}
	}
	if c, n = settled(t, p, "p384", func(c campaign.Campaign, _ campaign.Progress) bool { return c.State == campaign.Paused }); n.Failed != 1 || !strings.Contains(c.Note, "1 of") {
		t.Errorf("paused: got %q with %+v, want one failure", c.Note, n)
	}
	page, _, err := p.Campaigns.Members(t.Context(), who, "p384", campaign.Failed, "", 10)
	if err != nil || len(page) != 1 || page[0].Name != broken || !strings.Contains(page[0].Reason, "refused") {
		t.Errorf("failed: got %+v, %v, want %s, refused", page, err, broken)
	}
	// Nothing moves while it is paused.
	p.Clock.Move(48 * time.Hour)
	tick(t, p, agents)
	if _, after := settled(t, p, "p384", func(campaign.Campaign, campaign.Progress) bool { return true }); after.Done != n.Done {
		t.Errorf("done while paused: got %d, want %d", after.Done, n.Done)
	}
	page, _, err = p.Campaigns.Members(t.Context(), who, "p384", campaign.Waiting, "", 1)
	if err != nil || len(page) != 1 || page[0].Reason != "the campaign is paused" {
		t.Errorf("waiting while paused: got %+v, %v", page, err)
	}
	if _, err := p.Campaigns.Resume(t.Context(), who, "p384"); err != nil {
		t.Fatal(err)
	}
	for range 30 {
		p.Clock.Move(4 * time.Hour)
		tick(t, p, agents)
	}
	c, n = settled(t, p, "p384", func(c campaign.Campaign, n campaign.Progress) bool { return n.Done == 59 })
	if c.State != campaign.Running || n.Failed != 1 {
		t.Errorf("at the end: %s with %+v, want 59 done and one failed", c.State, n)
	}
	for i, a := range agents {
		s, err := a.Status()
		want := "ec-p384"
		if s.Name == broken {
			want = "ec-p256"
		}
		if err != nil || s.KeyType != want {
			t.Errorf("agent %d: key %s, %v, want %s", i, s.KeyType, err, want)
		}
	}
	revoked := 0
	for _, e := range p.Record(t) {
		if e.Action == "cert.revoke" && e.Actor == "system:campaign" {
			revoked++
		}
	}
	if revoked != 59 {
		t.Errorf("old certificates revoked: got %d, want 59", revoked)
	}
	// The deadline ends it.
	p.Clock.Move(31 * 24 * time.Hour)
	if c, _ = settled(t, p, "p384", func(c campaign.Campaign, _ campaign.Progress) bool { return c.State == campaign.Done }); !strings.Contains(c.Note, "59 of 60") && !strings.Contains(c.Note, "59 devices are done, 1 failed") {
		t.Errorf("ended: got %q", c.Note)
	}
	if !slices.ContainsFunc(p.Record(t), func(e audit.Indexed) bool { return e.Action == "campaign.finish" }) {
		t.Error("the record has no campaign.finish")
	}
}

func awaitInventory(t *testing.T, p *apptest.Platform) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if _, err := p.Devices.Count(t.Context(), apptest.Operator(), device.Filter{}); err == nil {
			return
		}
	}
	t.Fatal("the inventory was not made")
}

// firstTurn returns the name of a device whose turn comes between two days of the campaign.
func firstTurn(t *testing.T, p *apptest.Platform, from, to float64) string {
	t.Helper()
	page, _, err := p.Campaigns.Members(t.Context(), apptest.Operator(), "p384", campaign.Waiting, "", 100)
	if err != nil {
		t.Fatal(err)
	}
	now := p.Clock.Now().Unix()
	for _, m := range page {
		if at := float64(m.Turn-now) / 86400; at > from+0.2 && at < to {
			return m.Name
		}
	}
	t.Fatal("no device has its turn then")
	return ""
}

// breakRenewals gives the device a profile by which no certificate is renewed.
func breakRenewals(t *testing.T, p *apptest.Platform, name string) {
	t.Helper()
	d, err := p.Devices.Get(t.Context(), apptest.Operator(), name)
	if err != nil {
		t.Fatal(err)
	}
	profile := "picky"
	if _, err := p.Devices.Change(t.Context(), apptest.Operator(), d.ID, device.Change{Profile: &profile}); err != nil {
		t.Fatal(err)
	}
}

// lifeOfCampaign leaves rows of a campaign that runs.
func lifeOfCampaign(t *testing.T, p *apptest.Platform) {
	t.Helper()
	awaitInventory(t, p)
	_, err := p.Campaigns.Create(t.Context(), apptest.Operator(), campaign.Spec{Name: "small", Action: campaign.Renew, Rate: 1_00, Every: 86400, MaxFailed: 50_00, Deadline: p.Clock.Now().Unix() + 200*86400})
	must(t, err)
	_, err = p.Campaigns.Start(t.Context(), apptest.Operator(), "small")
	must(t, err)
	settled(t, p, "small", func(c campaign.Campaign, _ campaign.Progress) bool { return c.Filled })
}

// TestCampaignIsEnforced has a plain EST client, which never asks, renew with its old kind of key before and after the grace.
func TestCampaignIsEnforced(t *testing.T) {
	p := apptest.Start(t, nil)
	d, cert := p.Enrolled(t, "plain", "device")
	_, otherCert := p.Enrolled(t, "other", "device")
	awaitInventory(t, p)
	spec := campaign.Spec{Name: "p384", Filter: device.Filter{Profile: "device"}, Action: campaign.Rekey, Algorithm: der.ECP384, Rate: 100_00, Every: 3600, MaxFailed: 100_00, Grace: 2 * 86400,
		Deadline: p.Clock.Now().Unix() + 30*86400, ByIssue: true}
	_, err := p.Campaigns.Create(t.Context(), apptest.Operator(), spec)
	must(t, err)
	_, err = p.Campaigns.Start(t.Context(), apptest.Operator(), "p384")
	must(t, err)
	settled(t, p, "p384", func(c campaign.Campaign, _ campaign.Progress) bool { return c.Filled })
	p.Clock.Move(2 * time.Hour)
	renew := func(cert tls.Certificate, key crypto.Signer) (enrol.Answer, error) {
		return p.Enrol.Submit(t.Context(), enrol.Request{Protocol: "est", Op: enrol.Renew, Chain: cert.Certificate, CSR: apptest.CSR(t, key,
			der.RequestSpec{RawSubject: cert.Leaf.RawSubject, Names: der.AltNames{URI: []string{cert.Leaf.URIs[0].String()}}})})
	}
	key := apptest.Key(t)
	again, err := renew(cert, key)
	must(t, err) // within the grace, which does not count as success
	cert = p.Pair(t, key, again.Certificate.DER)
	p.Clock.Move(3 * 24 * time.Hour)
	if _, err := renew(cert, apptest.Key(t)); err == nil || !strings.Contains(errs.Public(err), "the campaign p384 demands a key of kind ec-p384 since ") {
		t.Errorf("after the grace: got %v, want a refusal that names the campaign and the key", err)
	}
	strong, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(t, err)
	_, err = renew(cert, strong)
	must(t, err)
	_, err = renew(otherCert, strong)
	must(t, err)
	c, n := settled(t, p, "p384", func(c campaign.Campaign, _ campaign.Progress) bool { return c.State == campaign.Done })
	if n.Done < 2 || n.Failed != 0 {
		t.Errorf("at the end: %s with %+v", c.Note, n)
	}
	d = p.Load(t, d.ID)
	if slot, _ := d.Slot("operational"); slot.Key != "ec-p384" {
		t.Errorf("key in the slot: got %s, want ec-p384", slot.Key)
	}
}

// TestCampaignNeedsASecondPerson makes a campaign for more devices than one person may decide about.
func TestCampaignNeedsASecondPerson(t *testing.T) {
	p := apptest.Start(t, func(c *conf.Config) { c.Approve.CampaignAbove = 0 })
	p.Enrolled(t, "one", "device")
	awaitInventory(t, p)
	anna := access.Actor{Kind: access.KindOperator, ID: strings.Repeat("a", 32), Role: access.RoleOperator}
	bert := access.Actor{Kind: access.KindOperator, ID: strings.Repeat("b", 32), Role: access.RoleOperator}
	plan := campaign.Spec{Name: "both", Filter: device.Filter{Profile: "device"}, Action: campaign.Renew, Rate: 100_00, Every: 3600, MaxFailed: 1_00, Deadline: p.Clock.Now().Unix() + 30*86400, RevokeOld: true}
	c, err := p.Campaigns.Create(t.Context(), anna, plan)
	must(t, err)
	a, err := p.Approve.Get(t.Context(), bert, c.Approval)
	must(t, err)
	for _, want := range []string{"1 devices of profile device", "old certificates are revoked"} {
		if !strings.Contains(a.Summary, want) {
			t.Errorf("told to the second person: %q, want %q in it", a.Summary, want)
		}
	}
	if _, err := p.Campaigns.Start(t.Context(), anna, "both"); !errs.Is(err, errs.Denied) {
		t.Errorf("started without approval: got %v, want Denied", err)
	}
	if _, err := p.Approve.Grant(t.Context(), anna, c.Approval); !errs.Is(err, errs.Denied) {
		t.Errorf("approved by whoever asked: got %v, want Denied", err)
	}
	_, err = p.Approve.Grant(t.Context(), bert, c.Approval)
	must(t, err)
	settled(t, p, "both", func(c campaign.Campaign, _ campaign.Progress) bool { return c.State == campaign.Approved })
	c, err = p.Campaigns.Start(t.Context(), anna, "both")
	must(t, err)
	if c.State != campaign.Running {
		t.Errorf("after the start: %s", c.State)
	}
	auditor := access.Actor{Kind: access.KindOperator, ID: strings.Repeat("c", 32), Role: access.RoleAuditor}
	if _, err := p.Campaigns.Pause(t.Context(), auditor, "both"); !errs.Is(err, errs.Denied) {
		t.Errorf("paused by an auditor: got %v, want Denied", err)
	}
	// A refusal ends the next one.
	plan.Name = "never"
	c, err = p.Campaigns.Create(t.Context(), anna, plan)
	must(t, err)
	_, err = p.Approve.Refuse(t.Context(), bert, c.Approval)
	must(t, err)
	settled(t, p, "never", func(c campaign.Campaign, _ campaign.Progress) bool {
		return c.State == campaign.Aborted && strings.Contains(c.Note, "refused by")
	})
}
