package app_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	agent "mooring/agent/v2x"
	"mooring/internal/app"
	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/core/device"
	"mooring/wire/its"
	"mooring/wire/trustlist"
)

// AUT-51, ENR-11, ENR-16: passive revocation. From the moment on that the registry has suspended, lost or retired a station, on whatever node, no request gets a ticket or a
// credential, also while it asks all the time; whoever is taken back gets them again. On no list is there anything of a station.
func TestV2XPassiveRevocation(t *testing.T) {
	t.Parallel()
	ea, eaURL := balanced(t)
	aa, aaURL := balanced(t)
	p := startV2X(t, func(c *conf.Config) {
		c.V2X.EAURL, c.V2X.DCURL, c.V2X.Tickets = c.V2XEAURL(), c.V2XDCURL(), 1000
		ea.add(t, c.V2XValidationURL())
		aa.add(t, c.V2XAAURL())
		c.V2X.ValidationURL, c.V2X.AAURL = eaURL, aaURL
	})
	nodes := []*app.Platform{p.Platform}
	if !strings.HasPrefix(p.Config.Database.URL, "sqlite:") {
		node := p.second(t)
		ea.add(t, "http://"+node.Config.Listen.V2XValidation)
		aa.add(t, "http://"+node.Config.Listen.V2XAA)
		nodes = append(nodes, node)
	}
	for i, row := range []struct {
		name string
		move device.Move
		back bool
	}{{"suspended", device.Suspend, true}, {"lost", device.Lose, false}, {"retired", device.Retire, false}} {
		t.Run(row.name, func(t *testing.T) {
			canonical, d := p.vehicle(t, "car-"+row.name)
			client := p.client(t)
			ec, err := client.Enrol(t.Context(), "car-"+row.name, canonical)
			must(t, err)
			order := agent.Order{Life: its.Duration{Choice: its.Hours, Value: 1}}
			_, err = client.Ticket(t.Context(), ec, order)
			must(t, err)
			asking := ask(t, client, ec, order)
			apptest.Until(t, "it gets tickets all the time", func() bool { return asking.granted(time.Time{}) > 3 })
			_, err = nodes[i%len(nodes)].Devices.Move(t.Context(), apptest.Operator(), d.ID, row.move, "")
			must(t, err)
			cut := time.Now() // from here on the registry says so
			apptest.Until(t, "it was refused often since", func() bool { return asking.refused(cut) >= 8 })
			if n := asking.granted(cut); n != 0 {
				t.Errorf("%d requests that were made after it was %s got a ticket", n, row.name)
			}
			var refused *agent.Refused
			if _, err := client.Renew(t.Context(), ec); !asRefused(err, &refused) || refused.Code != its.EnrolmentBadItsStatus.String() {
				t.Errorf("a new credential by the old one: %v", err)
			}
			if _, err := client.Enrol(t.Context(), "car-"+row.name, canonical); !asRefused(err, &refused) || refused.Code != its.EnrolmentBadItsStatus.String() {
				t.Errorf("a credential by the canonical key: %v", err)
			}
			asking.end()
			if row.back {
				_, err := nodes[0].Devices.Move(t.Context(), apptest.Operator(), d.ID, device.Resume, "")
				must(t, err)
				_, err = client.Ticket(t.Context(), ec, order)
				must(t, err)
			}
		})
	}
	_, octets := document(t, http.MethodGet, p.Addresses().V2XDC+"/getcrl/"+p.made.Root.String(), nil)
	crl, err := trustlist.ReadCRL(octets, p.root, p.at())
	must(t, err)
	if len(crl.Entries) != 0 {
		t.Errorf("the revocation list has %d entries; stations are on none", len(crl.Entries))
	}
}

// asker asks for tickets all the time, several at once.
type asker struct {
	stop context.CancelFunc
	done sync.WaitGroup
	mu   sync.Mutex
	ok   []time.Time // guarded by mu; when requests were made that got a ticket
	no   []time.Time // guarded by mu; and those that got none
}

func ask(t *testing.T, client *agent.Client, by *agent.Credential, o agent.Order) *asker {
	ctx, stop := context.WithCancel(t.Context())
	a := &asker{stop: stop}
	for range 4 {
		a.done.Go(func() {
			for ctx.Err() == nil {
				at := time.Now()
				_, err := client.Ticket(t.Context(), by, o) // what is under way is not broken off
				var refused *agent.Refused
				a.mu.Lock()
				switch {
				case err == nil:
					a.ok = append(a.ok, at)
				case asRefused(err, &refused) && refused.Code == its.DeniedPermissions.String():
					a.no = append(a.no, at)
				default:
					t.Error(err)
				}
				a.mu.Unlock()
			}
		})
	}
	t.Cleanup(a.end)
	return a
}

func (a *asker) end() {
	a.stop()
	a.done.Wait()
}

func (a *asker) granted(since time.Time) int { return a.count(&a.ok, since) }
func (a *asker) refused(since time.Time) int { return a.count(&a.no, since) }

func (a *asker) count(list *[]time.Time, since time.Time) (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, at := range *list {
		if at.After(since) {
			n++
		}
	}
	return n
}
