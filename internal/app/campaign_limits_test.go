package app_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/core/access"
	"mooring/internal/core/campaign"
	"mooring/internal/core/device"
	"mooring/internal/core/enrol"
	"mooring/wire/der"
)

// TestACampaignThatGrew: a campaign for few, which one person made and started, does not take in many who came later.
func TestACampaignThatGrew(t *testing.T) {
	p := apptest.Start(t, func(c *conf.Config) { onSQLite(c); c.Approve.CampaignAbove = 2 })
	awaitInventory(t, p)
	p.Enrolled(t, "meter-0", "device")
	group := "meters"
	join := func(name string) {
		d, err := p.Devices.Get(t.Context(), apptest.Operator(), name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Devices.Change(t.Context(), apptest.Operator(), d.ID, device.Change{Group: &group}); err != nil {
			t.Fatal(err)
		}
	}
	join("meter-0")
	spec := campaign.Spec{Name: "few", Filter: device.Filter{Group: group}, Action: campaign.Renew, Rate: 100_00, Every: 86400, MaxFailed: 1_00, Deadline: p.Clock.Now().Unix() + 30*86400}
	c, err := p.Campaigns.Create(t.Context(), apptest.Operator(), spec)
	if err != nil || c.State != campaign.Draft || strings.Contains(c.Note, "second person") {
		t.Fatalf("got %s, %q, %v", c.State, c.Note, err)
	}
	for i := 1; i < 4; i++ {
		name := fmt.Sprint("meter-", i)
		p.Enrolled(t, name, "device")
		join(name)
	}
	if _, err := p.Campaigns.Start(t.Context(), apptest.Operator(), "few"); err != nil {
		t.Fatal(err)
	}
	c, n := settled(t, p, "few", func(c campaign.Campaign, _ campaign.Progress) bool { return c.State != campaign.Running })
	if c.State != campaign.Aborted || n.Total() != 0 || c.Ended == 0 || !strings.Contains(c.Note, "a second person must agree") {
		t.Errorf("the campaign is %s with %+v: %q", c.State, n, c.Note)
	}
}

// TestAnAgreedCampaignThatGrew: what a second person agreed to for one device is not done to three.
func TestAnAgreedCampaignThatGrew(t *testing.T) {
	p := apptest.Start(t, func(c *conf.Config) { onSQLite(c); c.Approve.CampaignAbove = 0 })
	p.Enrolled(t, "meter-0", "device")
	awaitInventory(t, p)
	anna := access.Actor{Kind: access.KindOperator, ID: strings.Repeat("a", 32), Role: access.RoleOperator}
	bert := access.Actor{Kind: access.KindOperator, ID: strings.Repeat("b", 32), Role: access.RoleOperator}
	spec := campaign.Spec{Name: "one", Filter: device.Filter{Profile: "device"}, Action: campaign.Renew, Rate: 100_00, Every: 86400, MaxFailed: 1_00, Agreed: 1000,
		Deadline: p.Clock.Now().Unix() + 30*86400}
	c, err := p.Campaigns.Create(t.Context(), anna, spec)
	must(t, err)
	_, err = p.Approve.Grant(t.Context(), bert, c.Approval)
	must(t, err)
	settled(t, p, "one", func(c campaign.Campaign, _ campaign.Progress) bool { return c.State == campaign.Approved })
	p.Enrolled(t, "meter-1", "device")
	p.Enrolled(t, "meter-2", "device")
	awaitInventory(t, p)
	_, err = p.Campaigns.Start(t.Context(), anna, "one")
	must(t, err)
	c, n := settled(t, p, "one", func(c campaign.Campaign, _ campaign.Progress) bool { return c.State != campaign.Running })
	if c.State != campaign.Aborted || n.Total() != 0 || !strings.Contains(c.Note, "agreed to 1 devices") {
		t.Errorf("the campaign is %s with %+v: %q", c.State, n, c.Note)
	}
}

// TestACampaignExcusesNoOthers: a failure that a person looked at is excused, and when that device succeeds another's is not.
func TestACampaignExcusesNoOthers(t *testing.T) {
	p := apptest.Start(t, onSQLite)
	agents := fleetOf(t, p, 2)
	awaitInventory(t, p)
	_, err := p.Campaigns.Create(t.Context(), apptest.Operator(), campaign.Spec{Name: "p384", Filter: device.Filter{Group: "meters"}, Action: campaign.Rekey, Algorithm: "ec-p384",
		Rate: 100_00, Every: 3600, MaxFailed: 1_00, Deadline: p.Clock.Now().Unix() + 30*86400})
	must(t, err)
	_, err = p.Campaigns.Start(t.Context(), apptest.Operator(), "p384")
	must(t, err)
	settled(t, p, "p384", func(c campaign.Campaign, n campaign.Progress) bool { return c.Filled && n.Waiting == 2 })
	p.Clock.Move(2 * time.Hour)
	fail := func(name string) {
		t.Helper()
		d, err := p.Devices.Get(t.Context(), apptest.Operator(), name)
		must(t, err)
		slot, _ := d.Slot("operational")
		for _, problem := range []string{"", "the disk is full"} {
			_, err = p.Campaigns.Hint(t.Context(), &d, slot.Serial, problem)
			must(t, err)
		}
		settled(t, p, "p384", func(c campaign.Campaign, n campaign.Progress) bool {
			return c.State == campaign.Paused && n.Failed == 1
		})
	}
	fail("meter-00")
	c, err := p.Campaigns.Resume(t.Context(), apptest.Operator(), "p384")
	must(t, err)
	if c.Excused != 1 {
		t.Fatalf("excused after the resumption: %d, want 1", c.Excused)
	}
	_, err = agents[0].RenewNow(t.Context())
	must(t, err)
	settled(t, p, "p384", func(c campaign.Campaign, n campaign.Progress) bool {
		return c.Excused == 0 && n.Done == 1 && n.Failed == 0
	})
	fail("meter-01")
	p.Verify(t)
}

// TestACampaignNoticesWhoNeverAsks: a device that never asks when to renew, and cannot do what is demanded, stops the campaign like any other.
func TestACampaignNoticesWhoNeverAsks(t *testing.T) {
	p := apptest.Start(t, onSQLite)
	_, pair := p.Enrolled(t, "meter-1", "device")
	awaitInventory(t, p)
	spec := campaign.Spec{Name: "p384", Filter: device.Filter{Profile: "device"}, Action: campaign.Rekey, Algorithm: "ec-p384", Rate: 100_00, Every: 86400, MaxFailed: 1_00,
		Grace: 60, Deadline: p.Clock.Now().Unix() + 30*86400}
	if _, err := p.Campaigns.Create(t.Context(), apptest.Operator(), spec); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Campaigns.Start(t.Context(), apptest.Operator(), "p384"); err != nil {
		t.Fatal(err)
	}
	settled(t, p, "p384", func(c campaign.Campaign, n campaign.Progress) bool { return c.Filled && n.Waiting == 1 })
	p.Clock.Move(25 * time.Hour)
	csr := apptest.CSR(t, apptest.Key(t), der.RequestSpec{Subject: subjectOf(t, pair.Leaf.RawSubject)})
	_, err := p.Enrol.Submit(t.Context(), enrol.Request{Protocol: "est", Op: enrol.Enrol, CSR: csr, Chain: [][]byte{pair.Leaf.Raw}})
	if err == nil || !strings.Contains(err.Error(), "the campaign p384 demands a key of kind ec-p384") {
		t.Fatalf("got %v, want the refusal", err)
	}
	c, n := settled(t, p, "p384", func(c campaign.Campaign, _ campaign.Progress) bool { return c.State == campaign.Paused })
	if n.Failed != 1 || !strings.Contains(c.Note, "1 of 1 devices failed") {
		t.Errorf("paused with %+v: %q", n, c.Note)
	}
}

func subjectOf(t *testing.T, raw []byte) []der.Attribute {
	t.Helper()
	name, err := der.ParseName(raw)
	if err != nil {
		t.Fatal(err)
	}
	return name
}
