package ca_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/enrol"
	"mooring/wire/der"
)

const day = 24 * time.Hour

// weekly are certificates of a week that are kept for a month after their end.
func weekly() apptest.Profile {
	return apptest.Variant("device", "weekly", "validity: 7d", "renew_before: 2d", "renew_spread: 1d", "retention: 30d")
}

// kept counts the certificates that are in a table, but for the platform's own: it renews that when a test moves the clock.
func kept(t *testing.T, p *apptest.Platform, table string) (n int) {
	t.Helper()
	err := p.DB.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Get(ctx, []any{&n}, `SELECT COUNT(*) FROM `+table+` WHERE device NOT IN (SELECT id FROM device WHERE name = 'mooring')`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func renewed(t *testing.T, p *apptest.Platform, pair tls.Certificate) (tls.Certificate, error) {
	t.Helper()
	k := apptest.Key(t)
	a, err := p.Enrol.Submit(t.Context(), enrol.Request{Protocol: "est", Op: enrol.Renew, Chain: pair.Certificate, CSR: apptest.CSR(t, k, der.RequestSpec{
		RawSubject: pair.Leaf.RawSubject, Names: der.AltNames{URI: []string{pair.Leaf.URIs[0].String()}}})})
	if err != nil {
		return tls.Certificate{}, err
	}
	return p.Pair(t, k, a.Certificate.DER), nil
}

func findings(t *testing.T, p *apptest.Platform) (list []string) {
	t.Helper()
	for _, f := range p.Verify(t).Findings {
		list = append(list, f.String())
	}
	return list
}

// oldMonth makes a platform with n devices whose certificates were issued in a month of their own, and lets them expire and more.
func oldMonth(t *testing.T, n int, change func(*conf.Config)) (*apptest.Platform, []tls.Certificate) {
	p := apptest.Start(t, change, weekly())
	p.Clock.Move(35 * day) // the platform's own certificates are of another month
	if d := p.Clock.Now().Day(); d > 20 {
		p.Clock.Move(time.Duration(32-d) * day) // to the beginning of the next one, with room for a renewal
	}
	pairs := make([]tls.Certificate, n)
	for i := range pairs {
		_, pairs[i] = p.Enrolled(t, fmt.Sprintf("pump-%d", i), "weekly")
	}
	p.Clock.Move(5 * day)
	for i := range pairs {
		next, err := renewed(t, p, pairs[i])
		if err != nil {
			t.Fatal(err)
		}
		pairs[i] = next
	}
	p.Clock.Move(70 * day)
	return p, pairs
}

func TestRetention(t *testing.T) {
	p, pairs := oldMonth(t, 6, nil)
	_, born := p.Enrolled(t, "born", "birth")
	before, long := kept(t, p, "cert"), kept(t, p, "cert_long")
	done, err := p.CA.Purge(t.Context(), apptest.Operator())
	if err != nil || done.Certificates != 12 {
		t.Fatalf("purged %+v, %v; want 12 certificates", done, err)
	}
	if p.DB.Arrays() && len(done.Months) == 0 {
		t.Error("no month left as a whole")
	}
	if n := kept(t, p, "cert"); n != before-12 || kept(t, p, "cert_long") != long {
		t.Errorf("%d certificates are kept, want %d", n, before-12)
	}
	if list := findings(t, p); len(list) > 0 {
		t.Errorf("afterwards the record does not verify: %v", list)
	}
	if done, err = p.CA.Purge(t.Context(), apptest.Operator()); err != nil || done.Certificates != 0 {
		t.Errorf("a second time: %+v, %v", done, err)
	}
	serial := pairs[0].Leaf.SerialNumber.Bytes()
	if known, err := p.CA.Known(t.Context(), serial); err != nil || known.DER != nil || known.Profile != "weekly" {
		t.Errorf("of one that left is known %+v, %v", known, err)
	}
	if _, err := p.CA.Get(t.Context(), born.Leaf.SerialNumber.Bytes()); err != nil {
		t.Errorf("the life-long certificate: %v", err)
	}
	state, err := p.CA.RetentionState(t.Context(), apptest.Operator())
	if err != nil || len(state.Last) == 0 {
		t.Errorf("the state is %+v, %v", state, err)
	}
	if _, err := p.CA.Purge(t.Context(), access.Actor{Kind: access.KindOperator, ID: "0a", Role: access.RoleOperator}); !errs.Is(err, errs.Denied) {
		t.Errorf("an operator deleted: %v", err)
	}
	p.Restart(t) // nothing of it is needed at a start
	p.Enrolled(t, "later", "weekly")
}

// TestRetentionIsAccountedFor: what nobody recorded as gone must be there, also beside what left.
func TestRetentionIsAccountedFor(t *testing.T) {
	for name, harm := range map[string]string{
		"one more":            `DELETE FROM cert WHERE serial = (SELECT serial FROM cert ORDER BY serial LIMIT 1)`,
		"one before its time": `DELETE FROM cert_long WHERE serial = (SELECT serial FROM cert_long ORDER BY serial LIMIT 1)`,
	} {
		t.Run(name, func(t *testing.T) {
			p, _ := oldMonth(t, 2, nil)
			p.Enrolled(t, "born", "birth")
			if _, err := p.CA.Purge(t.Context(), apptest.Operator()); err != nil {
				t.Fatal(err)
			}
			p.Tampered = true
			err := p.DB.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error { _, err := tx.Exec(ctx, harm); return err })
			if err != nil {
				t.Fatal(err)
			}
			if list := findings(t, p); !strings.Contains(strings.Join(list, "\n"), "was issued, but is not in the database") {
				t.Errorf("found %v", list)
			}
		})
	}
	t.Run("one of those that were to stay, of the same month", func(t *testing.T) {
		p, _ := oldMonth(t, 2, nil)
		if p.DB.Arrays() {
			t.Skip("there a month leaves as a whole")
		}
		p.Tampered = true
		var serial []byte
		err := p.DB.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
			if _, err := tx.Get(ctx, []any{&serial}, `SELECT serial FROM cert WHERE profile = 'weekly' LIMIT 1`); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, `DELETE FROM cert WHERE serial = $1`, serial)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.CA.Purge(t.Context(), apptest.Operator()); err != nil {
			t.Fatal(err)
		}
		if list := findings(t, p); len(list) != 1 || !strings.Contains(list[0], "4 are gone, but the record says that 3 left") {
			t.Errorf("found %v", list)
		}
	})
}

func TestRetentionHold(t *testing.T) {
	p, _ := oldMonth(t, 2, func(c *conf.Config) { c.Retention.Hold = true })
	before := kept(t, p, "cert")
	if _, err := p.CA.Purge(t.Context(), apptest.Operator()); !errs.Is(err, errs.Conflict) {
		t.Errorf("with a hold: %v", err)
	}
	if kept(t, p, "cert") != before {
		t.Error("something left")
	}
}

// TestRetentionOfEveryProfile: the shortest-kept do not take others with them.
func TestRetentionOfEveryProfile(t *testing.T) {
	p := apptest.Start(t, nil, weekly(), apptest.Variant("device", "archived", "validity: 7d", "renew_before: 2d", "renew_spread: 1d", "retention: forever"))
	_, short := p.Enrolled(t, "short", "weekly")
	_, archived := p.Enrolled(t, "archived", "archived")
	_, normal := p.Enrolled(t, "normal", "device")
	p.Clock.Move(100 * day)
	if _, err := p.CA.Purge(t.Context(), apptest.Operator()); err != nil {
		t.Fatal(err)
	}
	for name, pair := range map[string]tls.Certificate{"archived": archived, "normal": normal} {
		if _, err := p.CA.Get(t.Context(), pair.Leaf.SerialNumber.Bytes()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := p.CA.Get(t.Context(), short.Leaf.SerialNumber.Bytes())
	if p.DB.Arrays() { // its month holds others
		if err != nil {
			t.Errorf("short: %v", err)
		}
	} else if !errs.Is(err, errs.NotFound) {
		t.Errorf("short: %v, want it to be gone", err)
	}
}

// TestPurgeBesideEnrolments: who enrols while certificates leave is served.
func TestPurgeBesideEnrolments(t *testing.T) {
	p, pairs := oldMonth(t, 12, nil)
	_ = pairs
	for i := range 8 {
		p.Device(t, fmt.Sprintf("busy-%d", i), "weekly")
	}
	stop, begun := make(chan struct{}), make(chan struct{}, 4)
	var issued atomic.Int64
	var wg sync.WaitGroup
	for i := range 4 {
		_, pair := p.Enrolled(t, fmt.Sprintf("at-it-%d", i), "weekly")
		wg.Go(func() {
			for n := 0; n < 25; n++ {
				select {
				case <-stop:
					return
				default:
				}
				next, err := renewed(t, p, pair)
				if n == 0 {
					begun <- struct{}{}
				}
				if err != nil {
					t.Errorf("a renewal beside the purge: %v", err)
					return
				}
				issued.Add(1)
				pair = next
			}
		})
	}
	for range cap(begun) {
		<-begun
	}
	before := issued.Load()
	done, err := p.CA.Purge(t.Context(), apptest.Operator())
	t.Logf("%d issued meanwhile", issued.Load()-before)
	close(stop)
	wg.Wait()
	if err != nil || done.Certificates != 24 {
		t.Errorf("purged %+v, %v", done, err)
	}
}

// TestPurgeIsTakenUpAgain kills the purge of a month between its steps, on PostgreSQL.
func TestPurgeIsTakenUpAgain(t *testing.T) {
	p, _ := oldMonth(t, 3, nil)
	if !p.DB.Arrays() {
		t.Skip("on SQLite there is one step")
	}
	n, err := p.CA.GiveUpOnly(t.Context())
	if err != nil || n != 6 {
		t.Fatalf("gave up %d, %v", n, err)
	}
	if list := findings(t, p); len(list) > 0 {
		t.Errorf("after the decision: %v", list)
	}
	if err := p.CA.DetachOnly(t.Context(), p.Clock.Now().Add(-75*day).Unix()); err != nil {
		t.Fatal(err)
	}
	if list := findings(t, p); len(list) > 0 {
		t.Errorf("after the month was taken out: %v", list)
	}
	p.Restart(t)
	done, err := p.CA.Purge(t.Context(), apptest.Operator())
	if err != nil || len(done.Months) == 0 || done.Certificates != 0 {
		t.Errorf("afterwards: %+v, %v", done, err)
	}
	if list := findings(t, p); len(list) > 0 {
		t.Errorf("at the end: %v", list)
	}
	state, err := p.CA.RetentionState(t.Context(), apptest.Operator())
	if err != nil || slices.ContainsFunc(done.Months, func(m string) bool { return slices.Contains(state.Months, m) }) || len(state.Months) < 4 {
		t.Errorf("the months are %v, %v", state.Months, err)
	}
}
