package app_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"mooring/internal/app"
	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/base/db"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
)

// TestEntriesLeaveAndTheTablesStillVerify lets everything happen that leaves a row somewhere, and then its entries leave, twice: what was kept of
// them is as good as they were.
func TestEntriesLeaveAndTheTablesStillVerify(t *testing.T) {
	p := apptest.Start(t, func(c *conf.Config) { c.CRL.Delta, c.Retention.Audit = true, audit.MinKeep },
		apptest.Variant("device", "approved", "approval: required"), apptest.Variant("device", "weekly", "validity: 7d", "renew_before: 2d", "renew_spread: 1d", "retention: 7d"))
	ctx := t.Context()
	for i := range 5 {
		p.Enrolled(t, fmt.Sprintf("week-%d", i), "weekly")
	}
	live(t, p)
	lifeOfVehicles(t, p)
	before := p.Verify(t)
	proven, err := p.Audit.Prove(ctx, 3)
	must(t, err)

	for round, months := range []int{5, 5, 6} {
		p.Enrolled(t, fmt.Sprintf("weekly-%d", round), "weekly")
		p.Clock.Move(time.Duration(months) * 31 * 24 * time.Hour)
		must(t, p.Audit.Sequence(ctx))
		if round != 1 { // otherwise the certificates leave after the entries about them
			_, err := p.CA.Purge(ctx, apptest.Operator())
			must(t, err)
		}
		left, err := p.Audit.Drop(ctx, apptest.Operator())
		must(t, err)
		if left.Entries < before.Entries {
			t.Errorf("round %d: %+v left, want %d entries at least", round, left, before.Entries)
		}
		r := p.Verify(t)
		for _, f := range r.Findings {
			t.Errorf("round %d: %s", round, f)
		}
		if r.Dropped != left.Entries || r.Replayed != left.Snapshot {
			t.Errorf("round %d: the report says %d entries left and %d is the first that is replayed, want %+v", round, r.Dropped, r.Replayed, left)
		}
		if round == 1 {
			_, err := p.CA.Purge(ctx, apptest.Operator())
			must(t, err)
		}
		p.Add(t, device.Spec{Name: fmt.Sprintf("later-%d", round), Profile: "device"})
	}
	after, err := p.Audit.Prove(ctx, 3)
	must(t, err)
	if after.Entry != nil || after.Leaf != proven.Leaf {
		t.Errorf("entry 3 is proven as %x with %q, before as %x", after.Leaf, after.Entry, proven.Leaf)
	}
	p.Stop(t) // nobody else changes a row while it is wrong
	p.Platform, err = app.Open(ctx, app.Options{Config: p.Config, Keys: p.Made.Keys, Now: p.Clock.Now, Log: p.Log.Logger()})
	must(t, err)
	defer func() { must(t, p.Close()) }()
	rowsAreGuarded(t, p)
}

// rowsAreGuarded changes rows whose entries have left, of every slice that has some, and wants each named.
func rowsAreGuarded(t *testing.T, p *apptest.Platform) {
	t.Helper()
	forgotten := []string{"table job", "table request", "table v2x_waiting"} // after a while, by their slices
	for _, c := range []struct{ change, back, named string }{
		{`UPDATE device SET grp = 'nowhere' WHERE name = 'born'`, `UPDATE device SET grp = 'hall-1' WHERE name = 'born'`, "device"},
		{`UPDATE slot SET not_after = not_after + 1 WHERE serial IN (SELECT serial FROM cert_long)`, `UPDATE slot SET not_after = not_after - 1 WHERE serial IN (SELECT serial FROM cert_long)`, "slot"},
		{`UPDATE cert_long SET profile = profile || 'x'`, `UPDATE cert_long SET profile = substr(profile, 1, length(profile) - 1)`, "certificate"},
		{`UPDATE revoked SET at = at - 1`, `UPDATE revoked SET at = at + 1`, "revocation"},
		{`UPDATE job SET total = total + 1`, `UPDATE job SET total = total - 1`, "table job"},
		{`UPDATE campaign SET turn = turn + 1`, `UPDATE campaign SET turn = turn - 1`, "campaign"},
		{`UPDATE key_use SET issued = issued + 1`, `UPDATE key_use SET issued = issued - 1`, "key_use"},
		{`UPDATE request SET created = created + 1`, `UPDATE request SET created = created - 1`, "table request"},
		{`UPDATE v2x_authority SET url = url || 'x'`, `UPDATE v2x_authority SET url = substr(url, 1, length(url) - 1)`, "table v2x_authority"},
		{`UPDATE v2x_pending SET role = role + 1`, `UPDATE v2x_pending SET role = role - 1`, "table v2x_pending"},
		{`UPDATE v2x_list SET ends = ends + 1`, `UPDATE v2x_list SET ends = ends - 1`, "table v2x_list"},
		{`UPDATE v2x_order SET tickets = tickets + 1`, `UPDATE v2x_order SET tickets = tickets - 1`, "table v2x_order"},
		{`UPDATE v2x_order SET next = next + 1`, `UPDATE v2x_order SET next = next - 1`, "table v2x_order"},
		{`UPDATE v2x_caterpillar SET until = until + 1`, `UPDATE v2x_caterpillar SET until = until - 1`, "table v2x_caterpillar"},
		{`UPDATE v2x_waiting SET j = j + 2`, `UPDATE v2x_waiting SET j = j - 2`, "table v2x_waiting"},
		{`UPDATE v2x_credential SET expires = expires + 1`, `UPDATE v2x_credential SET expires = expires - 1`, "table v2x_credential"},
		{`UPDATE ca_issuer SET name = name || 'x'`, `UPDATE ca_issuer SET name = substr(name, 1, length(name) - 1)`, "CA"},
	} {
		if alter(t, p, c.change) == 0 {
			if !slices.Contains(forgotten, c.named) {
				t.Errorf("%s changed nothing", c.change)
			}
			continue
		}
		var found []string
		for _, f := range p.Verify(t).Findings {
			found = append(found, f.String())
		}
		if !strings.Contains(strings.Join(found, "\n"), c.named) {
			t.Errorf("after %s: %q, want something about %q", c.change, found, c.named)
		}
		alter(t, p, c.back)
	}
	if r := p.Verify(t); len(r.Findings) > 0 {
		t.Errorf("after all was put back: %v", r.Findings)
	}
}

func alter(t *testing.T, p *apptest.Platform, sql string) (n int64) {
	t.Helper()
	err := p.DB.Do(t.Context(), func(ctx context.Context, tx *db.Tx) (err error) {
		n, err = tx.Exec(ctx, sql)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}
