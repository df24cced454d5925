package app_test

import (
	"bytes"
	"encoding/hex"
	"testing"
	"time"

	"mooring/agent"
	"mooring/internal/app/apptest"
	"mooring/internal/core/campaign"
	"mooring/internal/core/device"
)

// TestACampaignRevokesAllThatIsOld renews a device between the start of a campaign and its turn: both certificates with the old kind of key are
// revoked, and neither the one that the campaign wanted nor one that came after it.
func TestACampaignRevokesAllThatIsOld(t *testing.T) {
	p := apptest.Start(t, onSQLite)
	agents := fleetOf(t, p, 1)
	awaitInventory(t, p)
	d, err := p.Devices.Get(t.Context(), apptest.Operator(), "meter-00")
	must(t, err)
	present := func() device.Slot {
		now := p.Load(t, d.ID)
		slot, _ := now.Slot("operational")
		return slot
	}
	byHand := func(kind string) []byte {
		t.Helper()
		before := present().Serial
		a, err := agent.Open(agents[0].Options())
		must(t, err)
		_, err = a.RenewNow(t.Context())
		must(t, err)
		if slot := present(); slot.Key != kind || bytes.Equal(slot.Serial, before) {
			t.Fatalf("renewed by hand: the key is %s, want %s", slot.Key, kind)
		}
		return present().Serial
	}
	older := present().Serial
	base := byHand("ec-p256")
	_, err = p.Campaigns.Create(t.Context(), apptest.Operator(), campaign.Spec{Name: "p384", Filter: device.Filter{Group: "meters"}, Action: campaign.Rekey, Algorithm: "ec-p384",
		Rate: 10_00, Every: 86400, MaxFailed: 1_00, Deadline: p.Clock.Now().Unix() + 30*86400, RevokeOld: true})
	must(t, err)
	_, err = p.Campaigns.Start(t.Context(), apptest.Operator(), "p384")
	must(t, err)
	settled(t, p, "p384", func(c campaign.Campaign, n campaign.Progress) bool { return c.Filled && n.Waiting == 1 })
	between := byHand("ec-p256")
	p.Clock.Move(10 * 24 * time.Hour)
	wanted := byHand("ec-p384")
	settled(t, p, "p384", func(c campaign.Campaign, n campaign.Progress) bool { return c.State == campaign.Done && n.Done == 1 })
	revoked := map[string]string{}
	for _, e := range p.Record(t) {
		if e.Action == "cert.revoke" {
			revoked[e.Serial] = e.Detail["reason"]
		}
	}
	for name, serial := range map[string][]byte{"the one that it was taken in with": base, "the one before that": older, "the one between": between} {
		if got := revoked[hex.EncodeToString(serial)]; got != "superseded" {
			t.Errorf("%s: revoked %q, want superseded", name, got)
		}
	}
	if _, ok := revoked[hex.EncodeToString(wanted)]; ok || len(revoked) != 3 {
		t.Errorf("revoked: %v, want all but %x", revoked, wanted)
	}
}

// TestACampaignRevokesAtItsDeadline: a device that never asks again counts at the deadline, and its old certificate goes then.
func TestACampaignRevokesAtItsDeadline(t *testing.T) {
	p := apptest.Start(t, onSQLite)
	agents := fleetOf(t, p, 1)
	awaitInventory(t, p)
	_, err := p.Campaigns.Create(t.Context(), apptest.Operator(), campaign.Spec{Name: "p384", Filter: device.Filter{Group: "meters"}, Action: campaign.Rekey, Algorithm: "ec-p384",
		Rate: 100_00, Every: 3600, MaxFailed: 1_00, Deadline: p.Clock.Now().Unix() + 86400, RevokeOld: true})
	must(t, err)
	_, err = p.Campaigns.Start(t.Context(), apptest.Operator(), "p384")
	must(t, err)
	settled(t, p, "p384", func(c campaign.Campaign, n campaign.Progress) bool { return c.Filled && n.Waiting == 1 })
	p.Clock.Move(2 * time.Hour)
	a, err := agent.Open(agents[0].Options())
	must(t, err)
	must(t, a.Ask(t.Context()))
	_, err = a.Renew(t.Context())
	must(t, err)
	settled(t, p, "p384", func(_ campaign.Campaign, n campaign.Progress) bool { return n.Issued == 1 })
	p.Clock.Move(24 * time.Hour)
	c, n := settled(t, p, "p384", func(c campaign.Campaign, _ campaign.Progress) bool { return c.State == campaign.Done })
	revoked := 0
	for _, e := range p.Record(t) {
		if e.Action == "cert.revoke" {
			revoked++
		}
	}
	if n.Done != 1 || revoked != 1 {
		t.Errorf("%s with %+v: %d revoked, want one device done and its old certificate revoked", c.Note, n, revoked)
	}
}
