package app_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	agent "mooring/agent/v2x"
	"mooring/internal/app"
	"mooring/internal/app/apptest"
	"mooring/internal/app/v2xsim"
	"mooring/internal/base/db/dbtest"
	"mooring/internal/base/errs"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
	"mooring/internal/core/v2x/trust"
)

// TestV2XAnew: the root revokes itself, or ends. Nobody gets anything any more; after v2x init vehicles enrol below the new root and get tickets, what they had counts for the limit,
// and both records go on and verify.
func TestV2XAnew(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		end  func(t *testing.T, p *app.Platform, clock *apptest.Clock)
	}{
		{"revoked", func(t *testing.T, p *app.Platform, _ *apptest.Clock) {
			must(t, p.V2X.Trust.Revoke(t.Context(), apptest.Operator(), p.V2X.Trust.State().Root.ID))
		}},
		{"over", func(_ *testing.T, _ *app.Platform, clock *apptest.Clock) { clock.Move(6 * 366 * 24 * time.Hour) }},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			clock, log := &apptest.Clock{}, &apptest.Log{}
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("the platform's log:\n%s", log)
				}
			})
			c, err := app.LoopbackV2X("V2X Test")
			must(t, err)
			if os.Getenv("MOORING_TEST_DB") != "" {
				c.Database.URL, c.V2X.AADatabase = dbtest.URL(t), dbtest.URL(t)
			}
			c.V2X.EATimeout = time.Minute
			made, err := app.Init(t.Context(), app.InitOptions{Dir: filepath.Join(t.TempDir(), "data"), Config: c, Now: clock.Now, Log: log.Logger()})
			must(t, err)
			o := app.Options{Config: c, Keys: made.Keys, Now: clock.Now, Log: log.Logger()}
			while := func(do func(p *app.Platform)) {
				t.Helper()
				p, err := app.Build(t.Context(), o)
				must(t, err)
				running, stop := context.WithCancel(context.WithoutCancel(t.Context()))
				ready, stopped := make(chan struct{}), make(chan error, 1)
				go func() { stopped <- p.Run(running, func() { close(ready) }) }()
				defer func() {
					stop()
					if err := <-stopped; err != nil {
						t.Error(err)
					}
				}()
				select {
				case <-ready:
					do(p)
				case err := <-stopped:
					stopped <- nil
					t.Fatal(err)
				}
			}
			canonical := newECKey(t)
			text, err := v2xsim.CanonicalKey(canonical)
			must(t, err)
			vehicle := func(root []byte) *agent.Ticket {
				t.Helper()
				client, err := agent.New(agent.Config{Root: root, DC: c.V2XDCURL(), Now: clock.Now})
				must(t, err)
				must(t, client.Update(t.Context()))
				ec, err := client.Enrol(t.Context(), "car-1", canonical)
				must(t, err)
				ticket, err := client.Ticket(t.Context(), ec, agent.Order{})
				must(t, err)
				return ticket
			}
			first, err := app.MakeV2X(t.Context(), o, "First")
			must(t, err)
			while(func(p *app.Platform) {
				_, err := p.Devices.Add(t.Context(), apptest.Operator(), device.Spec{Name: "car-1", Profile: "device", Tags: map[string]string{"v2x": "vehicle", "v2x-key": text}})
				must(t, err)
				vehicle(first.Certificate)
				row.end(t, p, clock)
				client, err := agent.New(agent.Config{Root: first.Certificate, DC: c.V2XDCURL(), Now: clock.Now})
				must(t, err)
				if err := client.Update(t.Context()); err == nil {
					if _, err := client.Enrol(t.Context(), "car-1", canonical); err == nil {
						t.Error("a vehicle gets a credential below the root that is no more")
					}
				}
			})
			second, err := app.MakeV2X(t.Context(), o, "Second")
			must(t, err)
			if _, err := app.MakeV2X(t.Context(), o, "Third"); !errs.Is(err, errs.Conflict) || !strings.Contains(errs.Public(err), "were made already") {
				t.Errorf("while there is a root another one is made: %v", err)
			}
			while(func(p *app.Platform) {
				ticket := vehicle(second.Certificate)
				if got := ticket.Certificate.Issuer.Digest; got != second.AA {
					t.Errorf("the ticket was issued by %s, want %s", got, second.AA)
				}
				must(t, p.Tickets().Fetch(t.Context()))
				clock.Move(c.V2X.CTLLife + c.V2X.CRLLife) // the last trust list of the root before is over
				must(t, p.V2X.Trust.Publish(t.Context()))
				must(t, p.Tickets().Fetch(t.Context()))
				ea, err := p.V2X.Trust.Credential(t.Context(), trust.EA)
				must(t, err)
				if ea.ID != second.EA {
					t.Errorf("the enrolment authority is %s, want %s", ea.ID, second.EA)
				}
				for of, checkers := range map[*audit.Log][]audit.Checker{p.Audit: p.Checkers(), p.Tickets().Audit: p.Tickets().Checkers()} {
					report, err := of.Verify(t.Context(), audit.VerifyOptions{Checkers: checkers})
					if err != nil || len(report.Findings) > 0 {
						t.Errorf("a record: %v, %v", err, report.Findings)
					}
				}
			})
		})
	}
}
