package app_test

import (
	"context"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	agent "mooring/agent/v2x"
	"mooring/internal/app"
	"mooring/internal/base/conf"
	"mooring/wire/its"
)

// turns hands requests on to several nodes in turn.
type turns struct {
	mu sync.Mutex
	to []*httputil.ReverseProxy // guarded by mu
	n  atomic.Int64
}

func (b *turns) add(t *testing.T, address string) {
	t.Helper()
	u, err := url.Parse(address)
	must(t, err)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.to = append(b.to, httputil.NewSingleHostReverseProxy(u))
}

// ServeHTTP implements http.Handler.
func (b *turns) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	to := b.to[int(b.n.Add(1))%len(b.to)]
	b.mu.Unlock()
	to.ServeHTTP(w, r)
}

// balanced is an address behind which there are several nodes.
func balanced(t *testing.T) (*turns, string) {
	t.Helper()
	b := &turns{}
	s := httptest.NewServer(b)
	t.Cleanup(s.Close)
	return b, s.URL
}

// second starts another node of both authorities, over the same databases.
func (p *v2xPlatform) second(t *testing.T) *app.Platform {
	t.Helper()
	if strings.HasPrefix(p.Config.Database.URL, "sqlite:") {
		t.Skip("two nodes need PostgreSQL: set MOORING_TEST_DB")
	}
	fresh, err := app.LoopbackV2X("V2X Test")
	must(t, err)
	c := *p.Config
	c.Listen = fresh.Listen
	c.Listen.Socket = filepath.Join(t.TempDir(), "second.sock")
	node, err := app.Build(t.Context(), app.Options{Config: &c, Now: p.clock.Now, Log: p.log.Logger()})
	must(t, err)
	running, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ready, stopped := make(chan struct{}), make(chan error, 1)
	go func() { stopped <- node.Run(running, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-stopped:
		stop()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
	return node
}

// AUT-47: 120 requests on one credential, fifty at once: a hundred tickets come of it, not one more and not one less, on one node and on two of either authority over
// one PostgreSQL. Their times overlap in all ways; at no moment are there more than a hundred.
func TestV2XLimit(t *testing.T) {
	t.Parallel()
	for _, nodes := range []int{1, 2} {
		t.Run(map[int]string{1: "one node", 2: "two nodes"}[nodes], func(t *testing.T) {
			t.Parallel()
			ea, eaURL := balanced(t)
			aa, aaURL := balanced(t)
			p := startV2X(t, func(c *conf.Config) {
				c.V2X.EAURL, c.V2X.DCURL = c.V2XEAURL(), c.V2XDCURL()
				ea.add(t, c.V2XValidationURL())
				aa.add(t, c.V2XAAURL())
				c.V2X.ValidationURL, c.V2X.AAURL = eaURL, aaURL
			})
			if nodes == 2 {
				node := p.second(t)
				ea.add(t, "http://"+node.Config.Listen.V2XValidation)
				aa.add(t, "http://"+node.Config.Listen.V2XAA)
			}
			canonical, _ := p.vehicle(t, "car-1")
			client := p.client(t)
			ec, err := client.Enrol(t.Context(), "car-1", canonical)
			must(t, err)
			now := its.Time32(p.at() / 1e6)
			got := p.atOnce(t, 120, func(int) (*agent.Ticket, error) {
				return client.Ticket(t.Context(), ec, agent.Order{Start: now, Life: its.Duration{Choice: its.Hours, Value: 24}})
			})
			if len(got) != 100 {
				t.Errorf("of 120 requests %d got a ticket, want 100", len(got))
			}
			if ea, aa := p.counted(t); ea != 100 || aa != 100 {
				t.Errorf("%d were counted, %d issued, want 100", ea, aa)
			}
			later := p.atOnce(t, 130, func(i int) (*agent.Ticket, error) {
				r := rand.New(rand.NewPCG(uint64(i), 1))
				return client.Ticket(t.Context(), ec, agent.Order{Start: now + 2*86400 + its.Time32(r.IntN(3*3600)), Life: its.Duration{Choice: its.Hours, Value: uint16(1 + r.IntN(48))}})
			})
			if n := mostAtOnce(later); n > 100 || len(later) < 100 {
				t.Errorf("%d tickets, and at some moment %d, are valid; at most 100 may be at once", len(later), n)
			}
		})
	}
}

// atOnce does something n times, fifty at once, and returns the tickets that came of it. Who gets none is told that there are too many.
func (p *v2xPlatform) atOnce(t *testing.T, n int, do func(i int) (*agent.Ticket, error)) (got []*agent.Ticket) {
	t.Helper()
	var mu sync.Mutex
	var next atomic.Int64
	var all sync.WaitGroup
	start := make(chan struct{})
	for range 50 {
		all.Go(func() {
			<-start
			for i := int(next.Add(1)); i <= n; i = int(next.Add(1)) {
				ticket, err := do(i)
				var refused *agent.Refused
				mu.Lock()
				switch {
				case err == nil:
					got = append(got, ticket)
				case !asRefused(err, &refused) || refused.Code != its.DeniedTooManyCerts.String():
					t.Errorf("request %d: %v", i, err)
				}
				mu.Unlock()
			}
		})
	}
	close(start)
	all.Wait()
	return got
}

// mostAtOnce is how many of the tickets are valid at the moment when most are.
func mostAtOnce(list []*agent.Ticket) (n int) {
	for _, t := range list {
		at := its.Time64(t.Certificate.ToBeSigned.ValidityPeriod.Start) * 1e6
		here := 0
		for _, o := range list {
			if o.Certificate.ToBeSigned.ValidityPeriod.Contains(at) {
				here++
			}
		}
		n = max(n, here)
	}
	return n
}
