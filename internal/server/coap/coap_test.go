package coap_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"math/big"
	"strings"
	"testing"
	"time"

	agent "mooring/agent/coap"
	basecoap "mooring/internal/base/coap"
	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
	"mooring/internal/base/web"
	"mooring/internal/core/message"
	"mooring/internal/server/coap"
	"mooring/internal/server/gate"
	wire "mooring/wire/coap"
)

// site is a server on loopback over a fake of core/message.
type site struct {
	*fake
	*front
}

// front is a server on loopback.
type front struct {
	gate   *gate.Gate
	server *coap.Server
	device tls.Certificate
	own    tls.Certificate
}

func certificate(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: template}
}

// elsewhere is what is served besides messages.
func elsewhere(_ context.Context, r *basecoap.Request) basecoap.Response {
	if r.Path == "/.well-known/core" {
		return basecoap.Response{Code: wire.Content, Format: wire.LinkFormat, Body: []byte(`</est/crts>;rt="ace.est.crts"`), Route: "core"}
	}
	return basecoap.Refuse(errs.New(errs.NotFound, "there is nothing here"))
}

func start(t *testing.T) *site {
	t.Helper()
	f := newFake()
	return &site{f, serve(t, f)}
}

func serve(t *testing.T, messages coap.Messages) *front {
	t.Helper()
	s := &front{device: certificate(t, "dev-1")}
	s.own = certificate(t, "server.example")
	held := &gate.ServerCertificate{}
	held.Set(&s.own)
	limits := conf.Default().Limits
	limits.DrainTimeout, limits.HandshakeTimeout = 2*time.Second, 30*time.Second
	log := slog.New(slog.DiscardHandler)
	var err error
	s.gate, err = gate.ListenDTLS(t.Context(), gate.Options{Name: "coaps", Address: "127.0.0.1:0", Limits: limits, Now: time.Now, Log: log}, gate.DTLS{Certificate: held, MTU: 1280})
	if err != nil {
		t.Fatal(err)
	}
	base := basecoap.NewServer(basecoap.Options{Surface: "coaps", Body: 4096, Memory: 1 << 20, Now: time.Now, Log: log, Counters: &web.Counters{}})
	s.server = coap.New(coap.Deps{Messages: messages, Log: log})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- s.gate.ServeDTLS(ctx, func(ctx context.Context, one *gate.Session) {
			base.Serve(ctx, one, s.server.For(one.Peer(), basecoap.Handler{Answer: elsewhere}))
		})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if n := base.Held(); n != 0 {
			t.Errorf("%d octets are still accounted for", n)
		}
		if n := s.server.Metrics().Open; n != 0 {
			t.Errorf("%d connections are still open", n)
		}
	})
	return s
}

// dial is the device dev-1; block 0 is the largest.
func (s *front) dial(t *testing.T, block int) *agent.Conn { return s.dialAs(t, &s.device, block) }

func (s *front) dialAs(t *testing.T, device *tls.Certificate, block int) *agent.Conn {
	t.Helper()
	return s.dialWith(t, agent.Config{Address: s.gate.Addr().String(), Certificate: device, Block: block})
}

// dialAt is dial by another way.
func (s *front) dialAt(t *testing.T, address string) *agent.Conn {
	t.Helper()
	return s.dialWith(t, agent.Config{Address: address, Certificate: &s.device})
}

func (s *front) dialWith(t *testing.T, config agent.Config) *agent.Conn {
	t.Helper()
	config.Verify = func([]*x509.Certificate) error { return nil }
	c, err := agent.Dial(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func (s *front) do(t *testing.T, c *agent.Conn, code wire.Code, path string, body []byte) *agent.Answer {
	t.Helper()
	a, err := c.Do(t.Context(), agent.Request{Code: code, Path: path, Body: body})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// wait takes the next notification.
func wait(t *testing.T, c *agent.Conn) *agent.Notification {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	n, err := c.Wait(ctx)
	if err != nil {
		t.Fatalf("waiting for a notification: %v", err)
	}
	return n
}

// until waits for something that happens by itself.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for range 6000 {
		if holds() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("it never was so that %s", what)
}

func TestPublish(t *testing.T) {
	s := start(t)
	for name, block := range map[string]int{"whole": 0, "blocks of 16": 16, "blocks of 256": 256} {
		t.Run(name, func(t *testing.T) {
			c := s.dial(t, block)
			s.set(func() { s.published = nil })
			body := []byte(strings.Repeat("reading ", 40))
			if err := c.Publish(t.Context(), agent.Publication{Topic: "v1/dev-1/telemetry/power", Payload: body, Format: 60, Confirmed: true, Retain: true, Expiry: 7}); err != nil {
				t.Fatal(err)
			}
			s.set(func() {
				if len(s.published) != 1 {
					t.Fatalf("published %d messages", len(s.published))
				}
				m := s.published[0]
				if m.Topic != "v1/dev-1/telemetry/power" || !bytes.Equal(m.Payload, body) || m.QoS != 1 || !m.Retain || m.Expiry != 7 || m.ContentType != "application/cbor" {
					t.Errorf("published %+v", m)
				}
			})
		})
	}
	c := s.dial(t, 0)
	t.Run("PUT, and equal readings are two", func(t *testing.T) {
		s.set(func() { s.published = nil })
		for range 2 {
			if a := s.do(t, c, wire.PUT, "/p/a/b", []byte("21.5")); a.Code != wire.Changed {
				t.Errorf("answered by %+v", a)
			}
		}
		s.set(func() {
			if len(s.published) != 2 || s.published[0].Topic != "a/b" {
				t.Errorf("published %+v", s.published)
			}
		})
	})
	t.Run("NON is QoS 0", func(t *testing.T) {
		s.set(func() { s.published = nil })
		if err := c.Publish(t.Context(), agent.Publication{Topic: "a/b", Payload: []byte("x")}); err != nil {
			t.Fatal(err)
		}
		until(t, "it is published", func() (ok bool) {
			s.set(func() { ok = len(s.published) == 1 && s.published[0].QoS == 0 })
			return ok
		})
	})
	t.Run("GET and DELETE of what is retained", func(t *testing.T) {
		if a := s.do(t, c, wire.GET, "/p/kept", nil); a.Code != wire.NotFound {
			t.Errorf("answered by %+v", a)
		}
		if err := c.Publish(t.Context(), agent.Publication{Topic: "kept", Payload: []byte("{}"), Format: 50, Confirmed: true, Retain: true}); err != nil {
			t.Fatal(err)
		}
		if a := s.do(t, c, wire.GET, "/p/kept", nil); a.Code != wire.Content || string(a.Body) != "{}" || a.Format != 50 {
			t.Errorf("answered by %+v", a)
		}
		a, err := c.Do(t.Context(), agent.Request{Code: wire.GET, Path: "/p/kept", Accept: 60})
		if err != nil || a.Code != wire.NotAcceptable {
			t.Errorf("another format: %+v, %v", a, err)
		}
		if a := s.do(t, c, wire.DELETE, "/p/kept", nil); a.Code != wire.Deleted {
			t.Errorf("answered by %+v", a)
		}
		if a := s.do(t, c, wire.GET, "/p/kept", nil); a.Code != wire.NotFound {
			t.Errorf("after it was deleted: %+v", a)
		}
	})
	t.Run("2.04 only after it is stored", func(t *testing.T) {
		s.set(func() { s.hold = true })
		answered := make(chan error, 1)
		go func() {
			answered <- c.Publish(t.Context(), agent.Publication{Topic: "a/b", Payload: []byte("x"), Confirmed: true})
		}()
		until(t, "it is with the log", func() (ok bool) { s.set(func() { ok = len(s.held) == 1 }); return ok })
		select {
		case err := <-answered:
			t.Fatalf("answered before it was stored: %v", err)
		default:
		}
		s.set(func() { s.hold = false; s.held[0](nil) })
		if err := <-answered; err != nil {
			t.Error(err)
		}
	})
}

// Each row is a request that is refused, or the refusal of core.
func TestAnswers(t *testing.T) {
	s := start(t)
	c := s.dial(t, 0)
	for name, row := range map[string]struct {
		code wire.Code
		path string
		body string
		form wire.Format
		fail error
		want wire.Code
		age  time.Duration
	}{
		"no topic":                      {wire.POST, "/p", "x", 0, nil, wire.BadRequest, 0},
		"empty topic":                   {wire.POST, "/p/", "x", 0, nil, wire.BadRequest, 0},
		"wildcard in a topic":           {wire.POST, "/p/a/+", "x", 0, nil, wire.BadRequest, 0},
		"no UTF-8 in a topic":           {wire.POST, "/p/a/\xff", "x", 0, nil, wire.BadRequest, 0},
		"a control character":           {wire.PUT, "/p/a/\x01", "x", 0, nil, wire.BadRequest, 0},
		"a control character in DELETE": {wire.DELETE, "/p/a/\x1f", "", 0, nil, wire.BadRequest, 0},
		"wildcard in GET":               {wire.GET, "/p/a/#", "", 0, nil, wire.BadRequest, 0},
		"dot as a level":                {wire.POST, "/p/../a", "x", 0, nil, wire.BadRequest, 0},
		"unknown query":                 {wire.POST, "/p/a?qos=2", "x", 0, nil, wire.BadRequest, 0},
		"expiry of nothing":             {wire.POST, "/p/a?expiry=0", "x", 0, nil, wire.BadRequest, 0},
		"query of GET":                  {wire.GET, "/p/a?retain", "", 0, nil, wire.BadRequest, 0},
		"policy: publish":               {wire.POST, "/p/denied/a", "x", 0, nil, wire.Forbidden, 0},
		"policy: get":                   {wire.GET, "/p/denied/a", "", 0, nil, wire.Forbidden, 0},
		"policy: delete":                {wire.DELETE, "/p/denied/a", "", 0, nil, wire.Forbidden, 0},
		"nothing retained":              {wire.GET, "/p/none", "", 0, nil, wire.NotFound, 0},
		"FETCH":                         {wire.FETCH, "/p/a", "", 0, nil, wire.MethodNotAllowed, 0},
		"too large":                     {wire.POST, "/p/a", strings.Repeat("x", 9000), 0, nil, wire.EntityTooLarge, 0},
		"unknown content format":        {wire.POST, "/p/a", "x", 9999, nil, wire.UnsupportedFormat, 0},
		"rate":                          {wire.POST, "/p/a", "x", 0, errs.New(errs.Limited, "too fast"), wire.TooManyRequests, time.Second},
		"rate that says for long":       {wire.POST, "/p/a", "x", 0, errs.WithRetry(errs.New(errs.Limited, "too fast"), 9*time.Second), wire.TooManyRequests, 9 * time.Second},
		"the log is full or busy":       {wire.POST, "/p/a", "x", 0, errs.New(errs.Unavailable, "full"), wire.ServiceUnavailable, time.Minute},
		"too large for its topic":       {wire.POST, "/p/a", "x", 0, message.ErrTooLarge, wire.EntityTooLarge, 0},
		"the log has no room":           {wire.POST, "/p/a", "x", 0, message.ErrFull, wire.ServiceUnavailable, time.Minute},
		"elsewhere":                     {wire.GET, "/x", "", 0, nil, wire.NotFound, 0},
		"what only begins like us":      {wire.GET, "/pp/a", "", 0, nil, wire.NotFound, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s.set(func() { s.fail = row.fail })
			a, err := c.Do(t.Context(), agent.Request{Code: row.code, Path: row.path, Body: []byte(row.body), Format: row.form})
			if err != nil {
				t.Fatal(err)
			}
			if a.Code != row.want || a.MaxAge != row.age {
				t.Errorf("answered by %s %q with Max-Age %v, want %s and %v", a.Code, a.Body, a.MaxAge, row.want, row.age)
			}
		})
	}
	t.Run("a stranger learns nothing", func(t *testing.T) {
		s.set(func() { s.fail, s.unknown = nil, true })
		a := s.do(t, s.dial(t, 0), wire.POST, "/p/a", []byte("x"))
		if a.Code != wire.Unauthorized || strings.Contains(string(a.Body), "secret-7") {
			t.Errorf("answered by %s %q", a.Code, a.Body)
		}
	})
}

func TestDiscovery(t *testing.T) {
	s := start(t)
	c := s.dial(t, 0)
	const est = `</est/crts>;rt="ace.est.crts"`
	for path, want := range map[string]string{
		"/.well-known/core":                      est + `,</p/v1/dev-1/telemetry/%23>;rt="mooring.publish",</p/cmd/dev-1/+>;rt="mooring.subscribe";obs,</p/both>;rt="mooring.publish mooring.subscribe";obs`,
		"/.well-known/core?rt=mooring.subscribe": est + `,</p/cmd/dev-1/+>;rt="mooring.subscribe";obs,</p/both>;rt="mooring.publish mooring.subscribe";obs`,
	} {
		if a := s.do(t, c, wire.GET, path, nil); a.Code != wire.Content || string(a.Body) != want {
			t.Errorf("%s: %s %s, want %s", path, a.Code, a.Body, want)
		}
	}
	s.set(func() { s.unknown = true })
	if a := s.do(t, c, wire.GET, "/.well-known/core", nil); string(a.Body) != est {
		t.Errorf("a stranger is told: %s", a.Body)
	}
	s.set(func() {
		if len(s.attached) != 0 {
			t.Errorf("asking what there is has made %d connections", len(s.attached))
		}
	})
}

func TestObserve(t *testing.T) {
	s := start(t)
	for name, block := range map[string]int{"whole": 0, "blocks of 32": 32} {
		t.Run(name, func(t *testing.T) {
			c := s.dial(t, block)
			s.set(func() { s.retained = map[string]*message.Message{} })
			o, first, err := c.Observe(t.Context(), "cmd/dev-1/+")
			if err != nil || len(first.Body) != 0 {
				t.Fatalf("observing: %+v, %v", first, err)
			}
			var want []string
			for i := range 20 {
				body := strings.Repeat(string(rune('a'+i)), 100)
				want = append(want, body)
				s.publish(message.Message{Topic: "cmd/dev-1/go", Payload: []byte(body), QoS: 1})
			}
			for i := range want {
				n := wait(t, c)
				if string(n.Body) != want[i] || n.Topic != "cmd/dev-1/go" || n.Of != o || n.Ended {
					t.Fatalf("command %d is %s of %s, want %s", i, n.Body, n.Topic, want[i])
				}
			}
			until(t, "all are acknowledged", func() (ok bool) { s.set(func() { ok = len(s.sessions["dev-1"].queue) == 0 }); return ok })
			// Telemetry goes up while commands come down.
			s.publish(message.Message{Topic: "cmd/dev-1/x", Payload: []byte("one"), QoS: 1})
			if err := c.Publish(t.Context(), agent.Publication{Topic: "a", Payload: []byte("x"), Confirmed: true}); err != nil {
				t.Error(err)
			}
			if n := wait(t, c); string(n.Body) != "one" || n.Topic != "cmd/dev-1/x" {
				t.Errorf("got %+v", n)
			}
			if err := o.Cancel(t.Context()); err != nil {
				t.Error(err)
			}
			s.set(func() {
				if f := s.sessions["dev-1"].filters; len(f) != 0 {
					t.Errorf("after the end of the observation there are subscriptions %q", f)
				}
			})
		})
	}
	c := s.dial(t, 0)
	t.Run("what is retained comes first", func(t *testing.T) {
		s.publish(message.Message{Topic: "state/a", Payload: []byte("on"), Retain: true, QoS: 1, Properties: message.Properties{ContentType: "text/plain"}})
		o, first, err := c.Observe(t.Context(), "state/a")
		if err != nil || string(first.Body) != "on" || first.Format != wire.TextPlain {
			t.Fatalf("observing: %+v, %v", first, err)
		}
		s.publish(message.Message{Topic: "state/a", Payload: []byte("off"), Retain: true})
		if n := wait(t, c); string(n.Body) != "off" || n.Topic != "state/a" {
			t.Errorf("got %+v", n)
		}
		if err := o.Cancel(t.Context()); err != nil {
			t.Error(err)
		}
		all, first, err := c.Observe(t.Context(), "state/#")
		if err != nil || len(first.Body) != 0 {
			t.Fatalf("observing: %+v, %v", first, err)
		}
		if n := wait(t, c); string(n.Body) != "off" || n.Topic != "state/a" {
			t.Errorf("got %+v", n)
		}
		if err := all.Cancel(t.Context()); err != nil {
			t.Error(err)
		}
	})
	t.Run("policy", func(t *testing.T) {
		var refused *agent.Refused
		if _, _, err := c.Observe(t.Context(), "denied/#"); !errors.As(err, &refused) || refused.Code != wire.Forbidden {
			t.Errorf("got %v", err)
		}
		s.publish(message.Message{Topic: "denied/a", Payload: []byte("secret"), QoS: 1})
	})
	t.Run("observe after permission loss", func(t *testing.T) {
		if _, _, err := c.Observe(t.Context(), "site/notice"); err != nil {
			t.Fatal(err)
		}
		s.publish(message.Message{Topic: "site/notice", Payload: []byte("1"), QoS: 1})
		if n := wait(t, c); string(n.Body) != "1" {
			t.Errorf("got %+v", n)
		}
		s.withdraw("site/notice")
		s.publish(message.Message{Topic: "site/notice", Payload: []byte("secret"), QoS: 1})
		if n := wait(t, c); !n.Ended || n.Code != wire.Forbidden || strings.Contains(string(n.Body), "secret") {
			t.Errorf("got %+v", n)
		}
	})
	t.Run("more than eight at once", func(t *testing.T) {
		c := s.dial(t, 0)
		for i := range 9 {
			_, _, err := c.Observe(t.Context(), "many/"+string(rune('a'+i)))
			var refused *agent.Refused
			if i < 8 && err != nil || i == 8 && (!errors.As(err, &refused) || refused.Code != wire.TooManyRequests) {
				t.Errorf("observation %d: %v", i+1, err)
			}
		}
	})
}

// What a device did not get on one association comes on the next one, once it observes again.
func TestQueue(t *testing.T) {
	s := start(t)
	c := s.dial(t, 0)
	if _, _, err := c.Observe(t.Context(), "cmd/dev-1/+"); err != nil {
		t.Fatal(err)
	}
	c.Close()
	until(t, "the connection is given back", func() (ok bool) { s.set(func() { ok = len(s.detached) == 1 }); return ok })
	for i := range 20 { // more than the window
		s.publish(message.Message{Topic: "cmd/dev-1/go", Payload: []byte{byte('a' + i)}, QoS: 1})
	}
	c = s.dial(t, 0)
	if err := c.Publish(t.Context(), agent.Publication{Topic: "a", Payload: []byte("x"), Confirmed: true}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Observe(t.Context(), "cmd/dev-1/+"); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if n := wait(t, c); string(n.Body) != string(rune('a'+i)) {
			t.Errorf("command %d is %q", i, n.Body)
		}
	}
}

func TestCut(t *testing.T) {
	s := start(t)
	c := s.dial(t, 0)
	if _, _, err := c.Observe(t.Context(), "cmd/dev-1/+"); err != nil {
		t.Fatal(err)
	}
	s.set(func() {
		for range 2 {
			s.sessions["dev-1"].link.Close(message.ReasonCut)
		}
	})
	until(t, "the association is gone", func() bool { return s.gate.Metrics().Open == 0 })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if n, err := c.Wait(ctx); err == nil || ctx.Err() != nil {
		t.Errorf("after the cut the device got %+v, %v; want to be told that it is over", n, err)
	}
	until(t, "it is given back as cut", func() (ok bool) {
		s.set(func() { ok = len(s.detached) == 1 && s.detached[0] == message.ReasonCut })
		return ok
	})
	t.Run("take-over", func(t *testing.T) {
		old := s.dial(t, 0)
		for _, c := range []*agent.Conn{old, s.dial(t, 0)} {
			if err := c.Publish(t.Context(), agent.Publication{Topic: "a", Payload: []byte("x"), Confirmed: true}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := old.Wait(ctx); err == nil || ctx.Err() != nil {
			t.Errorf("the old association: %v", err)
		}
	})
}

// TestDeliveries looks at what becomes of messages that cannot be told as they are.
func TestDeliveries(t *testing.T) {
	s := start(t)
	deliver := func(d message.Delivery) (taken bool) {
		s.set(func() { taken = s.sessions["dev-1"].link.Deliver(d) })
		return taken
	}
	t.Run("another content format than the one that was accepted", func(t *testing.T) {
		c := s.dial(t, 0)
		o, _, err := c.ObserveAs(t.Context(), "cmd/dev-1/go", 60)
		if err != nil {
			t.Fatal(err)
		}
		s.publish(message.Message{Topic: "cmd/dev-1/go", Payload: []byte("{}"), QoS: 1, Properties: message.Properties{ContentType: "application/json"}})
		if n := wait(t, c); n.Code != wire.NotAcceptable || !n.Ended || n.Of != o {
			t.Errorf("got %+v", n)
		}
		if _, _, err := c.Observe(t.Context(), "cmd/dev-1/+"); err != nil {
			t.Fatal(err)
		}
		if n := wait(t, c); string(n.Body) != "{}" || n.Format != 50 {
			t.Errorf("observed without a format: %+v", n)
		}
	})
	t.Run("nobody observes it", func(t *testing.T) {
		c := s.dial(t, 0)
		if a := s.do(t, c, wire.GET, "/p/none", nil); a.Code != wire.NotFound {
			t.Errorf("answered by %+v", a)
		}
		if deliver(message.Delivery{Message: &message.Message{Topic: "x", Payload: []byte("1")}}) {
			t.Error("a message of QoS 0 that nobody observes is taken")
		}
		if !deliver(message.Delivery{Message: &message.Message{Topic: "x", Payload: []byte("22")}, QoS: 1, ID: 7}) {
			t.Error("a message of QoS 1 is not taken")
		}
		s.set(func() {
			if n := s.sessions["dev-1"].link.Queued(); n != 2 {
				t.Errorf("%d octets wait, want 2", n)
			}
		})
	})
	t.Run("two observations of one topic, one acknowledgement", func(t *testing.T) {
		c := s.dial(t, 0)
		for _, filter := range []string{"cmd/dev-1/both", "cmd/#"} {
			if _, _, err := c.Observe(t.Context(), filter); err != nil {
				t.Fatal(err)
			}
		}
		s.publish(message.Message{Topic: "cmd/dev-1/both", Payload: []byte("x"), QoS: 1})
		got := map[string]bool{}
		for range 2 {
			n := wait(t, c)
			got[n.Of.Filter] = n.Topic == "cmd/dev-1/both" && string(n.Body) == "x"
		}
		if !got["cmd/dev-1/both"] || !got["cmd/#"] {
			t.Errorf("got %v", got)
		}
		until(t, "it is acknowledged", func() (ok bool) { s.set(func() { ok = len(s.sessions["dev-1"].queue) == 0 }); return ok })
	})
	t.Run("a message of QoS 2, which the session kept from MQTT", func(t *testing.T) {
		c := s.dial(t, 0)
		if _, _, err := c.Observe(t.Context(), "cmd/dev-1/two"); err != nil {
			t.Fatal(err)
		}
		deliver(message.Delivery{Message: &message.Message{Topic: "cmd/dev-1/two", Payload: []byte("x")}, QoS: 2, ID: 9})
		if n := wait(t, c); string(n.Body) != "x" {
			t.Errorf("got %+v", n)
		}
		until(t, "it is received and released", func() (ok bool) {
			s.set(func() {
				ok = len(s.received) == 1 && s.received[0] == 9 && len(s.completed) == 1 && s.completed[0] == 9
			})
			return ok
		})
	})
}
