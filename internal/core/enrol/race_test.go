package enrol_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"mooring/internal/app/apptest"
	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/enrol"
	"mooring/internal/core/revoke"
	"mooring/wire/der"
)

func deviceSpec(name, profile string) device.Spec { return device.Spec{Name: name, Profile: profile} }

// together runs fn for 0 to n-1 at once and returns what came of each.
func together(n int, fn func(i int) (enrol.Answer, error)) (answers []enrol.Answer, failures []error) {
	answers, failures = make([]enrol.Answer, n), make([]error, n)
	start := make(chan struct{})
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			<-start
			answers[i], failures[i] = fn(i)
		})
	}
	close(start)
	all.Wait()
	return answers, failures
}

const atOnce = 64

// nodes are p and, where the database is one for several, another node beside it.
func nodes(t *testing.T, p *apptest.Platform) []*apptest.Platform {
	t.Helper()
	if !p.DB.Arrays() { // SQLite
		return []*apptest.Platform{p}
	}
	return []*apptest.Platform{p, p.Second(t)}
}

// TestOneTokenOneCertificate has one token used by many at the same moment, each for a key of its own.
func TestOneTokenOneCertificate(t *testing.T) {
	t.Run("one certificate when two nodes race", oneTokenOneCertificate)
}

func oneTokenOneCertificate(t *testing.T) {
	p := apptest.Start(t, nil)
	all := nodes(t, p)
	d, token := p.Device(t, "meter-1", "device")
	requests := make([]enrol.Request, atOnce)
	for i := range requests {
		requests[i] = byToken("meter-1", token, apptest.CSR(t, apptest.Key(t), der.RequestSpec{}))
	}
	answers, failures := together(atOnce, func(i int) (enrol.Answer, error) {
		p := all[i%len(all)]
		defer p.Enrol.Expect()()
		return p.Enrol.Submit(t.Context(), requests[i])
	})
	won := 0
	for i := range answers {
		switch {
		case failures[i] == nil:
			won++
		case !errors.Is(failures[i], enrol.ErrUnauthenticated) || errs.Public(failures[i]) != "this token was used already: ask for a new one":
			t.Errorf("a loser got %v", failures[i])
		}
	}
	if n := len(entries(t, p, issues(d.ID))); won != 1 || n != 1 || p.Load(t, d.ID).Issued != 1 {
		t.Errorf("%d requesters got a certificate and the record has %d, want 1", won, n)
	}
}

// TestSameRequestAtOnce has a device that repeats itself before the answer.
func TestSameRequestAtOnce(t *testing.T) {
	t.Run("one certificate when two nodes race for the same request", sameRequestAtOnce)
}

func sameRequestAtOnce(t *testing.T) {
	p := apptest.Start(t, nil)
	all := nodes(t, p)
	d, token := p.Device(t, "meter-1", "device")
	r := byToken("meter-1", token, apptest.CSR(t, apptest.Key(t), der.RequestSpec{}))
	answers, failures := together(atOnce, func(i int) (enrol.Answer, error) {
		p := all[i%len(all)]
		defer p.Enrol.Expect()()
		return p.Enrol.Submit(t.Context(), r)
	})
	for i := range answers {
		if failures[i] != nil {
			t.Fatalf("request %d: %v", i, failures[i])
		}
		if !bytes.Equal(answers[i].Certificate.DER, answers[0].Certificate.DER) {
			t.Errorf("request %d got another certificate", i)
		}
	}
	if n := len(entries(t, p, issues(d.ID))); n != 1 {
		t.Errorf("the record has %d issues, want 1", n)
	}
}

// TestSharedCommits: who asks at the same moment shares a commit, which is what makes a fleet's start affordable.
func TestSharedCommits(t *testing.T) {
	p := apptest.Start(t, nil)
	requests := make([]enrol.Request, atOnce)
	for i := range requests {
		name := fmt.Sprintf("meter-%d", i)
		_, token := p.Device(t, name, "device")
		requests[i] = byToken(name, token, apptest.CSR(t, apptest.Key(t), der.RequestSpec{}))
	}
	batches, items := p.Enrol.Metrics()
	done := make([]func(), atOnce) // announced before the first comes, also where the machine starts the others late
	for i := range done {
		done[i] = p.Enrol.Expect()
	}
	_, failures := together(atOnce, func(i int) (enrol.Answer, error) {
		defer done[i]()
		return p.Enrol.Submit(t.Context(), requests[i])
	})
	if err := errors.Join(failures...); err != nil {
		t.Fatal(err)
	}
	after, all := p.Enrol.Metrics()
	if all-items != atOnce || after-batches > atOnce/2 {
		t.Errorf("%d certificates took %d commits, want at most half as many", all-items, after-batches)
	}
}

// TestSuspendedMeanwhile suspends devices while they enrol. Whatever comes first, a device that is suspended in the end holds no certificate
// that counts, and one that was refused holds none at all.
func TestSuspendedMeanwhile(t *testing.T) {
	p := apptest.Start(t, nil)
	const n = 32
	devices, requests := make([]device.Device, n), make([]enrol.Request, n)
	for i := range requests {
		name := fmt.Sprintf("meter-%d", i)
		var token string
		devices[i], token = p.Device(t, name, "device")
		requests[i] = byToken(name, token, apptest.CSR(t, apptest.Key(t), der.RequestSpec{}))
	}
	answers, failures := together(2*n, func(i int) (enrol.Answer, error) {
		if i < n {
			return p.Enrol.Submit(t.Context(), requests[i])
		}
		_, err := p.Revoke.Device(t.Context(), apptest.Operator(), devices[i-n].ID, device.Suspend, revoke.Unspecified)
		return enrol.Answer{}, err
	})
	for i := range n {
		if failures[n+i] != nil {
			t.Errorf("suspending %d: %v", i, failures[n+i])
		}
		checkSuspended(t, p, p.Load(t, devices[i].ID), answers[i].Certificate, failures[i])
	}
}

func checkSuspended(t *testing.T, p *apptest.Platform, d device.Device, c *ca.Certificate, refusal error) {
	t.Helper()
	if d.State != device.Suspended {
		t.Errorf("%s is %s, want suspended", d.Name, d.State)
	}
	if c == nil {
		if !errs.Is(refusal, errs.Denied) || d.Issued != 0 {
			t.Errorf("%s: refused with %v, and was issued %d", d.Name, refusal, d.Issued)
		}
		return
	}
	if _, revoked, err := p.Revoke.Status(t.Context(), c.Serial[:]); err != nil || !revoked {
		t.Errorf("%s: its certificate is on hold: %v, %v", d.Name, revoked, err)
	}
	if n := len(entries(t, p, func(e audit.Entry) bool { return e.Action == "cert.hold" && e.Device == d.ID.String() })); n != 1 {
		t.Errorf("%s: the record has %d holds, want 1", d.Name, n)
	}
}

// TestReportedMeanwhile has a key reported as compromised on another node, after the transaction that records a certificate for it has looked for such
// reports and before it is committed. The certificate is not released, and does not stay good either when the device has hung up by then.
func TestReportedMeanwhile(t *testing.T) {
	t.Run("the device waits", func(t *testing.T) { reportedMeanwhile(t, false) })
	t.Run("the device hangs up", func(t *testing.T) { reportedMeanwhile(t, true) })
}

func reportedMeanwhile(t *testing.T, hangsUp bool) {
	p := apptest.Start(t, nil)
	if !p.DB.Arrays() {
		t.Skip("with SQLite nothing can be committed meanwhile")
	}
	other := p.Second(t)
	key := apptest.Key(t)
	_, token := p.Device(t, "meter-1", "device")
	leaked, err := p.Enrol.Submit(t.Context(), byToken("meter-1", token, apptest.CSR(t, key, der.RequestSpec{})))
	if err != nil {
		t.Fatal(err)
	}
	d, token := p.Device(t, "meter-2", "device")
	request := byToken("meter-2", token, apptest.CSR(t, key, der.RequestSpec{}))
	came := make(chan error, 1)
	asking, hangUp := context.WithCancel(t.Context())
	defer hangUp()
	var ask sync.Once // this transaction may run again
	var isolation string
	err = other.DB.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		var holder int
		_, err := tx.Get(ctx, []any{&holder, &isolation}, `SELECT pg_backend_pid(), current_setting('transaction_isolation') FROM device WHERE cell = $1 AND id = $2 FOR UPDATE`, int64(d.Cell), d.ID[:])
		if err != nil {
			return err
		}
		ask.Do(func() {
			go func() {
				_, err := p.Enrol.Submit(asking, request)
				came <- err
			}()
		})
		for waits := 0; waits == 0; { // until that one waits for the row
			err := other.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
				_, err := tx.Get(ctx, []any{&waits}, `SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND $1 = ANY(pg_blocking_pids(pid))`, holder)
				return err
			})
			if err != nil {
				return err
			}
		}
		if hangsUp {
			hangUp()
		}
		_, err = other.Revoke.Certificate(ctx, apptest.Operator(), leaked.Certificate.Serial[:], revoke.KeyCompromise)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-came; !errs.Is(err, errs.Denied) || errs.Public(err) != "this key was reported as compromised: make a new one" {
		t.Errorf("got %v", err)
	}
	if isolation == "serializable" { // the transaction is done again, and finds the report
		if now := p.Load(t, d.ID); now.Issued != 0 {
			t.Errorf("certificates were recorded for the key: %d", now.Issued)
		}
		return
	}
	apptest.Until(t, "the certificate is recorded", func() bool { return p.Load(t, d.ID).Issued == 1 })
	now := p.Load(t, d.ID)
	if slot, ok := now.Slot("operational"); !ok || slot.Revoked == 0 {
		t.Errorf("the device holds a good certificate for the key: %+v", slot)
	}
}
