package app_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mooring/agent/mqtt"
	"mooring/internal/app"
	"mooring/internal/app/apptest"
	"mooring/internal/core/audit"
	"mooring/internal/core/message"
	"mooring/internal/provider/nats"
	wire "mooring/wire/mqtt"
)

// TestCrashMessages kills the server again and again while 64 devices publish with QoS 1 and hear commands, half of them with QoS 2 and half with QoS
// 1, and holds it to its promises: what was acknowledged is in the log, in order; a session that is to stay does, with what it is subscribed to; QoS 1 is
// delivered at least once and QoS 2 exactly once, over any number of crashes. MOORING_CRASH_ROUNDS says how often; 3 is the default.
func TestCrashMessages(t *testing.T) {
	rounds := 3
	if text := os.Getenv("MOORING_CRASH_ROUNDS"); text != "" {
		var err error
		rounds, err = strconv.Atoi(text)
		must(t, err)
	}
	p := apptest.Start(t, apptest.Messaging)
	now, err := p.Message.Policy(t.Context(), apptest.Operator())
	must(t, err)
	quick := strings.Replace(now.Text, "match any\n    byte_rate 14MiB/h", "match any\n    rate 10000/s burst 10000\n    byte_rate 10MiB/s\n    connections 2", 1)
	_, err = p.Message.SetPolicy(t.Context(), apptest.Operator(), quick, now.Version)
	must(t, err)
	f := &talkers{roots: p}
	for i := range atOnce {
		f.list = append(f.list, &spokesman{Talker: p.Talker(t, fmt.Sprint("meter-", i), "device"), qos: wire.QoS(1 + i%2), got: map[int]int{}})
	}
	f.boss = p.Boss(t)
	p.Stop(t)

	f.begin(t)
	for range rounds {
		s := startServer(t, p.Made.Dir)
		f.serve(s)
		before := f.acked.Load()
		apptest.Until(t, "enough is acknowledged", func() bool { return f.acked.Load() >= before+acksPerRound })
		f.server.Store(nil)
		s.kill()
	}
	s := startServer(t, p.Made.Dir)
	f.serve(s)
	f.finish(t)
	s.kill()
	f.compare(t, p)

	c, err := load(t.Context(), p.Made.Dir, app.Open)
	must(t, err)
	defer func() { must(t, c.Close()) }()
	report, err := c.Audit.Verify(t.Context(), audit.VerifyOptions{Checkers: c.Checkers()})
	must(t, err)
	for _, found := range report.Findings {
		t.Errorf("the record does not verify: %s", found)
	}
}

const (
	acksPerRound = 1000
	onTheWay     = 8 // messages of one device that are not acknowledged
	toTheDevice  = 4 // commands to one device that it has not got
)

// talkers are the devices and who commands them. They live over all crashes, as processes elsewhere would.
type talkers struct {
	roots  *apptest.Platform
	list   []*spokesman
	boss   apptest.Talker
	server atomic.Pointer[string] // its address; nil while there is none
	acked  atomic.Int64

	stop    atomic.Bool // nothing new is said
	saying  sync.WaitGroup
	clients []*mqtt.Client
	ctx     context.Context
	refused atomic.Pointer[error]
}

type spokesman struct {
	apptest.Talker
	qos wire.QoS // of the commands to it

	acked    atomic.Int64 // its messages from 1 to there are acknowledged, and perhaps later ones
	said     int
	commands atomic.Int64 // that were sent to it and acknowledged by the server

	mu    sync.Mutex
	got   map[int]int // guarded by mu: how often each command came
	order []int       // guarded by mu: in which they came first
	fresh int         // guarded by mu: connections without the session
}

func (f *talkers) serve(s *server) {
	address := strings.TrimPrefix(s.addresses.MQTT, "mqtts://")
	f.server.Store(&address)
}

// dial waits until there is a server, so that a client fails once for each crash.
func (f *talkers) dial(k apptest.Talker) func(context.Context) (net.Conn, error) {
	config := f.roots.TLS(&k.Cert)
	config.NextProtos = []string{"mqtt"}
	return func(ctx context.Context) (net.Conn, error) {
		for {
			if at := f.server.Load(); at != nil {
				return (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", *at)
			}
			select {
			case <-time.After(5 * time.Millisecond):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	}
}

// client keeps k connected. Its clock is fast, so that each connection counts as one that lasted and the next one is not waited for long.
func (f *talkers) client(t *testing.T, k apptest.Talker, change func(*mqtt.Config)) *mqtt.Client {
	began := time.Now()
	config := mqtt.Config{Dial: f.dial(k), Now: func() time.Time { return began.Add(1000 * time.Since(began)) }, ClientID: k.Name, SessionExpiry: 3600, Queue: onTheWay}
	if change != nil {
		change(&config)
	}
	c := mqtt.New(config)
	f.clients = append(f.clients, c)
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { defer close(done); _ = c.Run(ctx) }() // it ends with the test
	t.Cleanup(func() { cancel(); <-done })
	return c
}

// begin has everybody talk, until stop is set.
func (f *talkers) begin(t *testing.T) {
	t.Helper()
	f.ctx = t.Context()
	boss := f.client(t, f.boss, func(c *mqtt.Config) { c.Queue = 1024 })
	for _, m := range f.list {
		c := f.client(t, m.Talker, func(c *mqtt.Config) {
			c.Handler = m.hear
			first := true
			c.Connected = func(a mqtt.Connected) {
				m.mu.Lock()
				defer m.mu.Unlock()
				if !a.SessionPresent && !first {
					m.fresh++
				}
				first = false
			}
		})
		f.saying.Go(func() {
			if _, err := c.Subscribe(f.ctx, mqtt.Subscription{Filter: "v1/" + m.Name + "/cmd/+", QoS: wire.ExactlyOnce}); err != nil {
				f.refused.Store(&err)
				return
			}
			f.saying.Go(func() { f.speak(c, m) })
			f.saying.Go(func() { f.command(boss, m) })
		})
	}
}

// speak publishes numbers.
func (f *talkers) speak(c *mqtt.Client, m *spokesman) {
	var under sync.WaitGroup
	defer under.Wait()
	for n := 1; !f.stop.Load(); n++ {
		under.Add(1)
		m.said = n
		err := c.Send(f.ctx, mqtt.Message{Topic: "v1/" + m.Name + "/telemetry/n", QoS: 1, Payload: strconv.AppendInt(nil, int64(n), 10)}, func(err error) {
			defer under.Done()
			if err != nil {
				f.refused.Store(&err)
				return
			}
			f.acked.Add(1)
			m.acked.Add(1)
		})
		if err != nil {
			f.refused.Store(&err)
			under.Done()
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// command sends numbers to a device, as many as it keeps up with.
func (f *talkers) command(c *mqtt.Client, m *spokesman) {
	for n := 1; !f.stop.Load(); n++ {
		err := c.Publish(f.ctx, mqtt.Message{Topic: "v1/" + m.Name + "/cmd/n", QoS: m.qos, Payload: strconv.AppendInt(nil, int64(n), 10)})
		if err != nil {
			f.refused.Store(&err)
			return
		}
		m.commands.Store(int64(n))
		for !f.stop.Load() && f.ctx.Err() == nil && m.heard() < n-toTheDevice {
			time.Sleep(5 * time.Millisecond)
		}
	}
}

func (m *spokesman) hear(got mqtt.Message) {
	n, err := strconv.Atoi(string(got.Payload))
	if err != nil {
		n = -1
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.got[n] == 0 {
		m.order = append(m.order, n)
	}
	m.got[n]++
}

func (m *spokesman) heard() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.order)
}

// finish waits until all that was said is acknowledged and all commands have come.
func (f *talkers) finish(t *testing.T) {
	t.Helper()
	f.stop.Store(true)
	f.saying.Wait()
	if err := f.refused.Load(); err != nil {
		t.Fatalf("something was refused: %v", *err)
	}
	for _, m := range f.list {
		apptest.Until(t, m.Name+" has all its commands", func() bool { return m.heard() >= int(m.commands.Load()) })
	}
}

// compare looks at what the devices have heard and at what is in the log.
func (f *talkers) compare(t *testing.T, p *apptest.Platform) {
	t.Helper()
	var commands, twice, fresh int
	for _, m := range f.list {
		m.mu.Lock()
		for i, n := range m.order {
			if n != i+1 {
				t.Errorf("%s: as command %d came %d", m.Name, i+1, n)
				break
			}
		}
		for n, times := range m.got {
			if times > 1 && m.qos == wire.ExactlyOnce {
				t.Errorf("%s: the command %d of QoS 2 came %d times", m.Name, n, times)
			} else if times > 1 {
				twice++
			}
		}
		commands += len(m.order)
		fresh += m.fresh
		m.mu.Unlock()
	}
	if fresh > 0 {
		t.Errorf("%d sessions were lost", fresh)
	}
	stored := f.log(t, p)
	total, again := 0, 0
	for _, m := range f.list {
		top := 0
		for _, n := range stored[m.Name] {
			switch {
			case n == top+1:
				top++
			case n > top+1:
				t.Errorf("%s: %d follows %d in the log", m.Name, n, top)
				top = n
			case n <= top-onTheWay:
				t.Errorf("%s: %d is in the log again after %d", m.Name, n, top)
			default:
				again++
			}
		}
		if top != m.said || int(m.acked.Load()) != m.said {
			t.Errorf("%s said %d messages, %d were acknowledged and %d are in the log", m.Name, m.said, m.acked.Load(), top)
		}
		total += len(stored[m.Name])
	}
	t.Logf("%d messages were acknowledged; the log has %d, of which %d came again; %d commands were heard, %d of QoS 1 more than once", f.acked.Load(), total, again, commands, twice)
}

// log reads the log of the server that was killed: the numbers of each device in the order in which they lie there.
func (f *talkers) log(t *testing.T, p *apptest.Platform) map[string][]int {
	t.Helper()
	fabric, err := nats.Open(t.Context(), nats.Options{Dir: filepath.Join(p.Made.Dir, p.Config.Messaging.Dir), Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ran := make(chan error, 1)
	go func() { ran <- fabric.Run(ctx) }()
	defer func() { cancel(); must(t, <-ran); must(t, fabric.Close(context.WithoutCancel(t.Context()))) }()
	stored := map[string][]int{}
	last, err := fabric.Last(t.Context(), message.Up)
	must(t, err)
	for after := uint64(0); after < last; {
		from := after
		must(t, fabric.Read(t.Context(), message.Up, after, 1000, func(m *message.Message) bool {
			after = m.Seq
			if n, err := strconv.Atoi(string(m.Payload)); err == nil {
				stored[m.Thing] = append(stored[m.Thing], n)
			}
			return true
		}))
		if after == from {
			break
		}
	}
	return stored
}
