package app_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	agent "mooring/agent/v2x"
	"mooring/internal/app"
	"mooring/internal/app/apptest"
	"mooring/internal/base/db"
	"mooring/wire/its"
	"mooring/wire/scr"
	"mooring/wire/spdu"
)

// asked is a request for a ticket, the same octets each time, and what came of it.
type asked struct {
	octets  []byte
	session *spdu.Session
	answer  []byte
}

// The process with both authorities is killed again and again while tickets are asked for: each request has one ticket in the end, which was counted once.
func TestCrashV2X(t *testing.T) {
	c, err := app.LoopbackV2X("V2X Crash")
	must(t, err)
	clock := &apptest.Clock{}
	made, err := app.Init(t.Context(), app.InitOptions{Dir: filepath.Join(t.TempDir(), "data"), Config: c, Now: clock.Now})
	must(t, err)
	o := app.Options{Config: c, Keys: made.Keys, Now: clock.Now}
	p := &v2xPlatform{clock: clock}
	p.made, err = app.MakeV2X(t.Context(), o, "Test")
	must(t, err)
	const cars, each, rounds, enough = 4, 40, 3, 30
	var keys [cars]*ecdsa.PrivateKey
	p.Platform, err = app.Open(t.Context(), o)
	must(t, err)
	for i := range keys {
		keys[i], _ = p.vehicle(t, fmt.Sprint("car-", i))
	}
	must(t, p.Close())

	s := startServer(t, made.Dir)
	requests := crashRequests(t, p, c.V2XDCURL(), keys[:], each)
	for range rounds {
		askUntil(t, c.V2XAAURL()+"/authorization", requests, s, enough)
		s = startServer(t, made.Dir)
	}
	askUntil(t, c.V2XAAURL()+"/authorization", requests, nil, len(requests))
	s.kill()
	ids := map[its.HashedId8]bool{}
	for _, r := range requests {
		_, said, err := scr.OpenAnswer(r.answer, r.session, its.AuthorizationResponse)
		if err != nil || said.AuthorizationResponse.Certificate == nil {
			t.Fatalf("a request has no ticket: %v, %+v", err, said)
		}
		id, err := said.AuthorizationResponse.Certificate.HashedId8()
		must(t, err)
		ids[id] = true
	}
	if len(ids) != cars*each {
		t.Errorf("there are %d tickets for %d requests", len(ids), cars*each)
	}
	countTickets(t, o, cars*each)
}

// crashRequests has the vehicles enrol and makes their requests for tickets.
func crashRequests(t *testing.T, p *v2xPlatform, dc string, keys []*ecdsa.PrivateKey, each int) (list []*asked) {
	t.Helper()
	for i, key := range keys {
		client, err := agent.New(agent.Config{Root: p.made.Certificate, DC: dc, Now: p.clock.Now})
		must(t, err)
		must(t, client.Update(t.Context()))
		p.ea, p.aa, err = client.Authorities()
		must(t, err)
		ec, err := client.Enrol(t.Context(), fmt.Sprint("car-", i), key)
		must(t, err)
		for range each {
			r := &asked{}
			r.octets, r.session = sealTo(t, p.atRequest(t, ec).message(t), nil, p.aa)
			list = append(list, r)
		}
	}
	return list
}

// askUntil asks for all tickets that are still without an answer, several at once, and kills the server after so many.
func askUntil(t *testing.T, url string, requests []*asked, s *server, enough int) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var next, got atomic.Int64
	client := &http.Client{Timeout: 10 * time.Second}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(requests) && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if requests[i].answer != nil {
					continue
				}
				r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(requests[i].octets))
				if err != nil {
					t.Error(err)
					return
				}
				r.Header.Set("Content-Type", scr.RequestType)
				a, err := client.Do(r)
				if err != nil {
					continue // it is gone; the same request comes again
				}
				body, err := io.ReadAll(a.Body)
				a.Body.Close()
				if err != nil || a.StatusCode != http.StatusOK {
					continue
				}
				requests[i].answer = body
				if got.Add(1) == int64(enough) && s != nil {
					s.kill()
					stop()
				}
			}
		})
	}
	all.Wait()
}

// countTickets looks into both stores.
func countTickets(t *testing.T, o app.Options, want int64) {
	t.Helper()
	p, err := app.Open(t.Context(), o)
	must(t, err)
	defer func() { must(t, p.Close()) }()
	a, err := app.OpenTicketAuthority(t.Context(), o)
	must(t, err)
	defer func() { must(t, a.Close()) }()
	for _, row := range []struct {
		name, sql string
		in        *db.DB
	}{{"counted by the enrolment authority", `SELECT sum(tickets) FROM v2x_interval`, p.DB}, {"issued by the authorization authority", `SELECT count(*) FROM v2x_ticket`, a.DB}} {
		var n int64
		must(t, row.in.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Get(ctx, []any{&n}, row.sql)
			return err
		}))
		if n != want {
			t.Errorf("tickets %s: %d, want %d", row.name, n, want)
		}
	}
}
