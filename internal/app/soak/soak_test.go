//go:build soak

package soak

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	agentacme "mooring/agent/acme"
	agentest "mooring/agent/est"
	"mooring/internal/app"
	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
	"mooring/internal/server/api/client"
)

const (
	profileName = "soak"
	solverHost  = "127.0.0.2" // where challenges of ACME are answered
	idle        = 20 * time.Second

	// What may be left: a few goroutines and files by chance of the moment, and of memory what the platform keeps on purpose and within bounds,
	// such as revocation lists, the answers of OCSP, exchanges of CMP and CoAP for some minutes, and what it knows about each device.
	spareGoroutines = 5
	spareFiles      = 5
	spareHeap       = 16.0 // MiB, between the two moments of rest
	// While the load goes on everything that is bounded is full after the first quarter of an hour; then the heap may grow by a tenth and
	// 2 MiB more from the second quarter to the last. A shorter run is not held to that.
	steadyFrom = 40 * time.Minute
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// number reads a whole number from the environment.
func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	must(t, err)
	return n
}

// TestSoak lasts as long as SOAK says, 30s if it does not, and some time before and after. SOAK_RATE is how many devices begin something in a
// second, 24 if it does not say; each asks for one certificate or two.
func TestSoak(t *testing.T) {
	lasts, err := time.ParseDuration(cmp.Or(os.Getenv("SOAK"), "30s"))
	must(t, err)
	rate := number(t, "SOAK_RATE", 24)
	warm := min(max(lasts/12, 10*time.Second), 5*time.Minute)
	// A device gets 30 certificates at once and then one a minute. No protocol has more than a fourth of the lives that are not harmed, and each takes two.
	perProtocol := max(100, rate*int((lasts+warm)/time.Second)/30/2)

	dir, solver := install(t, perProtocol)
	s := start(t, dir)
	w := meet(t, s, dir, solver)
	crew := w.crew(perProtocol)

	r := &report{began: time.Now(), server: s, world: w}
	w.load(t, crew, rate, warm, r)
	before := s.settle(t, 1<<30)
	r.line(t, "rest before", before)
	w.load(t, crew, rate, lasts, r)
	after := s.settle(t, before.Goroutines+spareGoroutines)
	r.line(t, "rest after", after)
	r.judge(t, before, after, lasts >= steadyFrom)

	log, err := s.end()
	if err != nil {
		t.Errorf("the server did not end well: %v", err)
	}
	for _, line := range alarms(log) {
		t.Errorf("the server logged: %s", line)
	}
	verify(t, dir, w)
}

// install makes an installation with all listeners and its devices.
func install(t *testing.T, perProtocol int) (dir string, solver *agentacme.HTTPSolver) {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(solverHost, "0"))
	must(t, err)
	solver = &agentacme.HTTPSolver{}
	answers := &http.Server{Handler: solver, ReadHeaderTimeout: time.Minute}
	go func() { _ = answers.Serve(l) }() // until it is closed
	t.Cleanup(func() { _ = answers.Close() })
	c, made := apptest.Init(t, &apptest.Clock{}, &apptest.Log{}, func(c *conf.Config) {
		c.Listen.COAPS, c.Listen.CMP, c.Listen.SCEP = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
		c.Listen.ACME = freeAddress(t)
		c.PublicURLs.ACME = "https://" + c.Listen.ACME
		c.ACME.HTTPPort = l.Addr().(*net.TCPAddr).Port
		// Small enough to be full, and over, soon.
		c.Limits.TrackedAddresses, c.OCSP.Cache = 1024, 4<<20
		c.Limits.IdleTimeout, c.Limits.BodyTimeout = idle, idle
	})
	working := apptest.Variant("device", profileName, "evidence: [token, operational, account]", "keys: [ec-p256, rsa-2048]", "scep: {ra: scep-ra}")
	named := apptest.Variant("gateway", "soak-acme", "evidence: [account]")
	named.YAML = strings.Replace(named.YAML, "  ip:\n", "  ip:\n    request: [127.0.0.0/8]\n    max: 1\n", 1)
	for _, p := range []apptest.Profile{working, named} {
		must(t, os.WriteFile(filepath.Join(c.ProfileDir(), p.Name+".yaml"), []byte(p.YAML), 0o644))
	}
	p, err := app.Open(t.Context(), app.Options{Config: c})
	must(t, err)
	list := strings.Builder{}
	list.WriteString("name,profile\n")
	for _, l := range lives() {
		for i := range 2 * perProtocol { // the second half for the harmed
			profile := profileName
			switch {
			case l.protocol == "acme":
				profile = "soak-acme"
			case l.protocol == "est" && i%2 == 1:
				profile = "device-short"
			}
			fmt.Fprintf(&list, "%s-%d,%s\n", l.protocol, i, profile)
		}
	}
	_, err = p.Devices.Import(t.Context(), apptest.Operator(), device.Source{R: strings.NewReader(list.String()), Name: "fleet.csv", Format: "csv", Size: int64(list.Len())}, nil)
	must(t, err)
	must(t, p.Close())
	return made.Dir, solver
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().String()
}

// meet learns what clients need to know.
func meet(t *testing.T, s *server, dir string, solver *agentacme.HTTPSolver) *world {
	t.Helper()
	c, err := conf.Load(dir)
	must(t, err)
	text, err := os.ReadFile(filepath.Join(dir, "root.pem"))
	must(t, err)
	block, _ := pem.Decode(text)
	root, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	w := &world{at: s.addresses, root: root, pool: x509.NewCertPool(), admin: client.New(c.SocketPath()), solver: solver,
		status: &http.Client{Timeout: time.Minute, Transport: &http.Transport{DialContext: dialer, MaxIdleConnsPerHost: 4}}}
	w.pool.AddCert(root)
	w.keys, w.rsa = newKeys(t)
	one, err := agentest.New(agentest.Config{Server: s.addresses.EST, Roots: []*x509.Certificate{root}})
	must(t, err)
	session, err := one.Connect(t.Context(), agentest.Credential{})
	must(t, err)
	defer session.Close()
	bundle, err := session.CACerts(t.Context())
	must(t, err)
	w.issuers = append(bundle.Others, bundle.Roots...)
	return w
}

// crew are the devices of each protocol that nobody is at the moment: well-behaved ones and those whose clients are harmed.
type crew map[string]*[2]chan *member

func (w *world) crew(perProtocol int) crew {
	all := crew{}
	for _, l := range lives() {
		both := &[2]chan *member{}
		for half := range both {
			both[half] = make(chan *member, perProtocol)
			for i := range perProtocol {
				both[half] <- &member{name: fmt.Sprintf("%s-%d", l.protocol, half*perProtocol+i)}
			}
		}
		all[l.protocol] = both
	}
	return all
}

const (
	harmedOf = 3   // every so many-th life is harmed: more than a twentieth of all requests then come to nothing
	atOnce   = 64  // well-behaved clients at most
	harmedAt = 128 // harmed ones, which wait longer
)

// load has devices live for a time, and ends when the last has ended. Every ten seconds r takes a sample.
func (w *world) load(t *testing.T, all crew, rate int, lasts time.Duration, r *report) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var working sync.WaitGroup
	places := [2]chan struct{}{make(chan struct{}, atOnce), make(chan struct{}, harmedAt)}
	tick, look := time.NewTicker(time.Second/time.Duration(rate)), time.NewTicker(min(10*time.Second, lasts/12))
	defer tick.Stop()
	defer look.Stop()
	over := time.After(lasts)
	for {
		select {
		case <-over:
			working.Wait()
			w.status.CloseIdleConnections()
			w.admin.Close()
			return
		case <-look.C:
			r.sample(t)
		case <-tick.C:
			protocol, live := choose()
			half := 0
			if mathrand.IntN(harmedOf) == 0 {
				half = 1
			}
			select {
			case places[half] <- struct{}{}:
			default: // the machine is slower than the rate
				r.skipped.Add(1)
				continue
			}
			m := <-all[protocol][half]
			working.Go(func() {
				defer func() { <-places[half]; all[protocol][half] <- m }()
				if half == 0 {
					_ = live(w, ctx, w.well(), m) // it was counted
					return
				}
				w.harmed(ctx, live, m)
			})
		}
	}
}

func choose() (string, life) {
	n := mathrand.IntN(100)
	for _, l := range lives() {
		if n -= l.share; n < 0 {
			return l.protocol, l.live
		}
	}
	panic("the shares of the protocols are not a hundred")
}

// harmed is a life in which something goes wrong on purpose.
func (w *world) harmed(ctx context.Context, live life, m *member) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	by := w.well()
	by.count = w.bad.add
	wounded := randomWound(2500)
	switch n := mathrand.IntN(10); {
	case n < 5: // on the way: in the handshake, in what is encrypted, or in plain text
		by.dial = hurtDialer(wounded)
	case n < 7: // inside TLS, where that can be
		by.harm = rewriter{wound{wounded.kind, mathrand.IntN(800)}}.harm
		if !strings.HasPrefix(m.name, "acme") {
			w.insideTLS(ctx, m)
			return
		}
	case n < 9: // the client gives up
		ctx, cancel = context.WithTimeout(ctx, time.Duration(mathrand.IntN(150))*time.Millisecond)
		defer cancel()
	default:
		addresses := []string{w.at.EST, w.at.API, w.at.Status, w.at.SCEP, w.at.CMP, w.at.ACME}
		_, address, _ := strings.Cut(addresses[mathrand.IntN(len(addresses))], "://")
		w.bad.add("stranger", stranger(ctx, address))
		return
	}
	address, stop, err := newRelay(by.coaps, randomWound(16))
	if err != nil {
		w.bad.add("relay", err)
		return
	}
	defer stop()
	by.coaps = address
	_ = live(w, ctx, by, m) // it was counted
}

// digits are what differs between errors that are the same.
var digits = regexp.MustCompile(`[0-9]+`)

// tally counts requests by protocol.
type tally struct {
	mu      sync.Mutex
	counts  map[string]*counts // guarded by mu
	refusal map[string]int     // how often each was heard, numbers left out; guarded by mu
}

type counts struct {
	Done       int `json:"done"`
	Refused    int `json:"refused"`
	Unanswered int `json:"unanswered"`
}

func (c *tally) add(protocol string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts == nil {
		c.counts = map[string]*counts{}
	}
	n := c.counts[protocol]
	if n == nil {
		n = &counts{}
		c.counts[protocol] = n
	}
	switch {
	case err == nil:
		n.Done++
		return
	case refused(err):
		n.Refused++
	default:
		n.Unanswered++
	}
	text := protocol + ": " + digits.ReplaceAllString(err.Error(), "#")
	if c.refusal == nil {
		c.refusal = map[string]int{}
	}
	if _, known := c.refusal[text]; known || len(c.refusal) < 50 {
		c.refusal[text]++
	}
}

func (c *tally) all() (sum counts, by map[string]counts) {
	c.mu.Lock()
	defer c.mu.Unlock()
	by = map[string]counts{}
	for protocol, n := range c.counts {
		by[protocol] = *n
		sum = counts{sum.Done + n.Done, sum.Refused + n.Refused, sum.Unanswered + n.Unanswered}
	}
	return sum, by
}

// report collects the samples and prints a line a minute.
type report struct {
	server  *server
	world   *world
	began   time.Time
	printed time.Time
	taken   []sample
	skipped atomic.Int64
}

func (r *report) sample(t *testing.T) {
	t.Helper()
	s := r.server.sample(t)
	r.taken = append(r.taken, s)
	if time.Since(r.printed) >= time.Minute {
		r.line(t, "load", s)
	}
}

func (r *report) line(t *testing.T, what string, s sample) {
	t.Helper()
	if what == "rest before" {
		r.taken = nil // only what comes after is compared
	}
	r.printed = time.Now()
	_, good := r.world.good.all()
	_, bad := r.world.bad.all()
	text, err := json.Marshal(struct {
		Seconds int    `json:"seconds"`
		What    string `json:"what"`
		sample
		Good    map[string]counts `json:"good"`
		Bad     map[string]counts `json:"bad"`
		Skipped int64             `json:"skipped"`
	}{int(time.Since(r.began).Seconds()), what, s, good, bad, r.skipped.Load()})
	must(t, err)
	fmt.Println(string(text))
}

// judge compares the two moments of rest, and the quarters of the load.
func (r *report) judge(t *testing.T, before, after sample, steady bool) {
	t.Helper()
	good, _ := r.world.good.all()
	bad, _ := r.world.bad.all()
	whole := func(c counts) int { return c.Done + c.Refused + c.Unanswered }
	share := float64(bad.Refused+bad.Unanswered) / float64(max(1, whole(good)+whole(bad)))
	t.Logf("%d requests by well-behaved devices, %d by others, of which %d came to nothing (%.1f %% of all); heap of the quarters %.1f MiB, RSS %.0f MiB",
		whole(good), whole(bad), bad.Refused+bad.Unanswered, 100*share,
		r.quarters(func(s sample) float64 { return s.Heap }), r.quarters(func(s sample) float64 { return s.RSS }))
	if good.Refused > 0 || good.Unanswered*1000 > whole(good) {
		t.Errorf("of well-behaved devices %d requests were refused and %d not answered, among %d: %v", good.Refused, good.Unanswered, whole(good), r.world.good.refusal)
	}
	if share < 0.05 {
		t.Errorf("only %.1f %% of the requests came to nothing, want 5", 100*share)
	}
	if after.Goroutines > before.Goroutines+spareGoroutines {
		path, err := r.server.keep("goroutine", "soak-goroutines.txt", 1)
		t.Errorf("%d goroutines are left, where %d were (see %s, %v)", after.Goroutines, before.Goroutines, path, err)
	}
	if after.Files > before.Files+spareFiles {
		t.Errorf("%d files are open, where %d were", after.Files, before.Files)
	}
	heap := r.quarters(func(s sample) float64 { return s.Heap })
	grown := steady && heap[3] > heap[1]*1.1+2
	if after.Heap > before.Heap+spareHeap || grown {
		path, err := r.server.keep("heap", "soak-heap.pprof", 0)
		t.Errorf("the heap has %.1f MiB, where it had %.1f, and %.1f in the quarters of the load (see %s, %v)", after.Heap, before.Heap, heap, path, err)
	}
}

// quarters are the medians of the quarters of the load.
func (r *report) quarters(of func(sample) float64) (out [4]float64) {
	for i := range out {
		part := r.taken[i*len(r.taken)/4 : (i+1)*len(r.taken)/4]
		if len(part) == 0 {
			continue
		}
		var values []float64
		for _, s := range part {
			values = append(values, of(s))
		}
		slices.Sort(values)
		out[i] = values[len(values)/2]
	}
	return out
}

// verify opens the installation of the server that has ended: its record verifies, and has every certificate that a device was told of.
func verify(t *testing.T, dir string, w *world) {
	t.Helper()
	c, err := conf.Load(dir)
	must(t, err)
	p, err := app.Open(t.Context(), app.Options{Config: c})
	must(t, err)
	defer func() { must(t, p.Close()) }()
	found, err := p.Audit.Verify(t.Context(), audit.VerifyOptions{Checkers: p.Checkers()})
	must(t, err)
	for _, f := range found.Findings {
		t.Errorf("the record does not verify: %s", f)
	}
	t.Logf("the record has %d entries and verifies", found.Entries)
}
