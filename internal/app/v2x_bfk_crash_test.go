package app_test

import (
	"crypto/ecdsa"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	agent "mooring/agent/v2x"
	"mooring/internal/app"
	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
)

// BFK-13: the process with both authorities is killed while tickets are made for butterfly keys: in the end each vehicle has all of its tickets, each of them was
// issued once and counted once.
func TestCrashV2XButterfly(t *testing.T) {
	c, err := app.LoopbackV2X("V2X Crash")
	must(t, err)
	const cars, each, periods = 3, 90, 4
	c.V2X.Butterfly = conf.Butterfly{On: true, Period: 24 * time.Hour, Tickets: each, Ahead: periods, Stations: 1}
	c.Limits.RequestRate, c.Limits.RequestBurst = 1000, 10000
	clock := &apptest.Clock{}
	made, err := app.Init(t.Context(), app.InitOptions{Dir: filepath.Join(t.TempDir(), "data"), Config: c, Now: clock.Now})
	must(t, err)
	o := app.Options{Config: c, Keys: made.Keys, Now: clock.Now}
	p := &v2xPlatform{clock: clock}
	p.made, err = app.MakeV2X(t.Context(), o, "Test")
	must(t, err)
	p.Platform, err = app.Open(t.Context(), o)
	must(t, err)
	var keys [cars]*ecdsa.PrivateKey
	for i := range keys {
		keys[i], _ = p.vehicle(t, fmt.Sprint("car-", i))
	}
	must(t, p.Close())

	s := startServer(t, made.Dir)
	fleet := make([]car, cars)
	orders := make([]*agent.Butterfly, cars)
	for i := range fleet {
		v := &fleet[i]
		v.client, err = agent.New(agent.Config{Root: p.made.Certificate, DC: c.V2XDCURL(), Now: clock.Now})
		must(t, err)
		must(t, v.client.Update(t.Context()))
		v.ec, err = v.client.Enrol(t.Context(), fmt.Sprint("car-", i), keys[i])
		must(t, err)
		orders[i], err = v.client.PrepareButterfly(v.ec, agent.ButterflyOrder{})
		must(t, err)
		must(t, v.client.OrderButterfly(t.Context(), orders[i]))
	}
	s.kill() // while they are being asked for
	s = startServer(t, made.Dir)
	for i := range fleet {
		first := orders[i].First
		must(t, fleet[i].client.OrderButterfly(t.Context(), orders[i])) // the answer may have been lost
		if orders[i].First != first {
			t.Errorf("a request that is sent again begins with period %d, not %d", orders[i].First, first)
		}
	}
	fleet[0].fetch(t, orders[0], orders[0].First) // some are there
	s.kill()
	s = startServer(t, made.Dir)
	seen := map[string]bool{}
	for i, v := range fleet {
		for n := range uint16(periods) {
			batch := v.fetch(t, orders[i], orders[i].First+n)
			if len(batch.Tickets) != each {
				t.Errorf("car %d has %d tickets of period %d, want %d", i, len(batch.Tickets), batch.I, each)
			}
			for _, ticket := range batch.Tickets {
				seen[string(ticket.Certificate.ToBeSigned.VerifyKeyIndicator.VerificationKey.Point.X)] = true
			}
		}
	}
	s.kill()
	if len(seen) != cars*each*periods {
		t.Errorf("the cars have %d different tickets, want %d", len(seen), cars*each*periods)
	}
	countTickets(t, o, cars*each*periods)
}
