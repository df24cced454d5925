package coap_test

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	agent "mooring/agent/coap"
	"mooring/internal/base/db"
	"mooring/internal/base/db/dbtest"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
	"mooring/internal/core/message"
	"mooring/internal/core/message/messagetest"
	"mooring/internal/core/message/policy"
	"mooring/internal/server/coap"
	wire "mooring/wire/coap"
)

// deaf takes entries of the record and keeps none.
type deaf struct{}

func (deaf) Append(context.Context, *db.Tx, ...audit.Entry) error { return nil }

func (deaf) Refuse(context.Context, access.Actor, audit.Entry) error { return nil }

func (deaf) RecordRefusal(context.Context, access.Actor, access.Permission, string, string) error {
	return nil
}

// real is a server over core/message itself and a fabric in memory.
type real struct {
	*front
	service *message.Service
	known   atomic.Pointer[map[string]bool] // names in certificates
}

const rules = `group devices {
    match any
    allow publish v1/${thing}/telemetry/#
    allow publish v1/${thing}/state retain yes
    allow subscribe v1/${thing}/cmd/+
    allow subscribe v1/${thing}/state
}
`

func startReal(t *testing.T) *real {
	t.Helper()
	r := &real{}
	r.known.Store(&map[string]bool{"dev-1": true, "dev-2": true})
	log := slog.New(slog.DiscardHandler)
	r.service = message.New(message.Deps{DB: dbtest.Open(t, message.Schema()), Audit: deaf{}, Access: access.NewDecider(deaf{}), Fabric: messagetest.New(time.Now, t.Cleanup), Now: time.Now,
		Log: log, Node: "test", Standard: rules, Identify: r.identify,
		Author: func(context.Context, device.ID, [16]byte) (policy.Subject, error) {
			return policy.Subject{Thing: "dev-1", Kind: policy.Device}, nil
		}})
	if err := r.service.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.service.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	r.front = serve(t, coap.Over(r.service))
	return r
}

func (r *real) identify(_ context.Context, chain [][]byte) (message.Identity, error) {
	cert, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return message.Identity{}, err
	}
	name := cert.Subject.CommonName
	if !(*r.known.Load())[name] {
		return message.Identity{}, errs.New(errs.Denied, "%s is not a device that may speak", name)
	}
	sum := sha256.Sum256(chain[0])
	id := sha256.Sum256([]byte(name))
	return message.Identity{ID: device.ID(id[:16]), Subject: policy.Subject{Thing: name, Kind: policy.Device}, Cert: [16]byte(sum[:16]), Serial: string(cert.SerialNumber.Bytes()),
		Issuer: "ca", NotAfter: cert.NotAfter.Unix()}, nil
}

func (r *real) command(t *testing.T, topic, text string) {
	t.Helper()
	if err := r.service.PublishAs(t.Context(), access.System("test"), &message.Message{Topic: topic, Payload: []byte(text), QoS: 1}); err != nil {
		t.Fatal(err)
	}
}

func TestService(t *testing.T) {
	r, whole := startReal(t), t
	c := r.dial(t, 64)
	until(t, "the service carries messages", func() bool {
		return c.Publish(t.Context(), agent.Publication{Topic: "v1/dev-1/telemetry/x", Payload: []byte("x"), Confirmed: true}) == nil
	})
	var refused *agent.Refused
	t.Run("telemetry up, foreign topics not", func(t *testing.T) {
		for topic, want := range map[string]wire.Code{"v1/dev-1/telemetry/x": 0, "v1/dev-2/telemetry/x": wire.Forbidden, "v1/dev-10/state": wire.Forbidden, "$SYS/x": wire.Forbidden} {
			err := c.Publish(t.Context(), agent.Publication{Topic: topic, Payload: []byte("21.5"), Confirmed: true})
			if want == 0 && err != nil || want != 0 && (!errors.As(err, &refused) || refused.Code != want) {
				t.Errorf("%s: %v, want %s", topic, err, want)
			}
		}
	})
	t.Run("state is retained, read by its owner, and removed", func(t *testing.T) {
		if err := c.Publish(t.Context(), agent.Publication{Topic: "v1/dev-1/state", Payload: []byte("on"), Confirmed: true, Retain: true, Expiry: 7200}); err != nil {
			t.Fatal(err)
		}
		if a := r.do(t, c, wire.GET, "/p/v1/dev-1/state", nil); a.Code != wire.Content || string(a.Body) != "on" || a.MaxAge > 2*time.Hour || a.MaxAge < time.Hour {
			t.Errorf("answered by %s %q with Max-Age %v", a.Code, a.Body, a.MaxAge)
		}
		if a := r.do(t, c, wire.GET, "/p/v1/dev-2/state", nil); a.Code != wire.Forbidden && a.Code != wire.NotFound {
			t.Errorf("a foreign state is answered by %s %q", a.Code, a.Body)
		}
		if a := r.do(t, c, wire.DELETE, "/p/v1/dev-1/state", nil); a.Code != wire.Deleted {
			t.Errorf("answered by %s %q", a.Code, a.Body)
		}
		if a := r.do(t, c, wire.GET, "/p/v1/dev-1/state", nil); a.Code != wire.NotFound {
			t.Errorf("after it was removed: %s %q", a.Code, a.Body)
		}
	})
	t.Run("commands down, also those of the time between two associations", func(t *testing.T) {
		if _, _, err := c.Observe(t.Context(), "v1/dev-2/cmd/+"); !errors.As(err, &refused) || refused.Code != wire.Forbidden {
			t.Errorf("foreign commands: %v", err)
		}
		if _, _, err := c.Observe(t.Context(), "v1/dev-1/cmd/+"); err != nil {
			t.Fatal(err)
		}
		r.command(t, "v1/dev-1/cmd/go", "now")
		if n := wait(t, c); string(n.Body) != "now" || n.Topic != "v1/dev-1/cmd/go" {
			t.Errorf("got %+v", n)
		}
		c.Close()
		until(t, "the connection has ended", func() bool { return r.server.Metrics().Open == 0 })
		for i := range 40 {
			r.command(t, "v1/dev-1/cmd/go", fmt.Sprint(i))
		}
		c = r.dial(whole, 0)
		if _, _, err := c.Observe(t.Context(), "v1/dev-1/cmd/+"); err != nil {
			t.Fatal(err)
		}
		for i := range 40 {
			if n := wait(t, c); string(n.Body) != fmt.Sprint(i) {
				t.Fatalf("command %d is %q", i, n.Body)
			}
		}
	})
	t.Run("what may be used", func(t *testing.T) {
		a, err := c.Do(t.Context(), agent.Request{Code: wire.GET, Path: "/.well-known/core?rt=mooring.subscribe"})
		want := `</est/crts>;rt="ace.est.crts",</p/v1/dev-1/state>;rt="mooring.publish mooring.subscribe";obs,</p/v1/dev-1/cmd/+>;rt="mooring.subscribe";obs`
		if err != nil {
			t.Fatal(err)
		}
		if string(a.Body) != want {
			t.Errorf("got %s, want %s", a.Body, want)
		}
	})
	t.Run("observe after permission loss", func(t *testing.T) {
		changed := strings.Replace(rules, "    allow subscribe v1/${thing}/cmd/+\n", "", 1)
		if _, err := r.service.SetPolicy(t.Context(), access.System("test"), changed, 0); err != nil {
			t.Fatal(err)
		}
		r.command(t, "v1/dev-1/cmd/go", "secret")
		if n := wait(t, c); !n.Ended || n.Code != wire.Forbidden {
			t.Errorf("got %+v", n)
		}
		if _, _, err := c.Observe(t.Context(), "v1/dev-1/cmd/+"); !errors.As(err, &refused) || refused.Code != wire.Forbidden {
			t.Errorf("once more: %v", err)
		}
	})
	t.Run("cut off", func(t *testing.T) {
		good := certificate(t, "dev-2")
		neighbour := r.dialAs(t, &good, 0)
		r.publishes(t, neighbour, "dev-2")
		id := sha256.Sum256([]byte("dev-1"))
		r.known.Store(&map[string]bool{"dev-2": true})
		n, err := r.service.Cut(t.Context(), message.Selector{Device: device.ID(id[:16])}, "revoked")
		if err != nil || n != 1 {
			t.Fatalf("cut %d, %v", n, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := c.Wait(ctx); err == nil || ctx.Err() != nil {
			t.Errorf("the device hears nothing of it: %v", err)
		}
		again := r.dial(t, 0)
		err = again.Publish(t.Context(), agent.Publication{Topic: "v1/dev-1/telemetry/x", Payload: []byte("x"), Confirmed: true})
		if !errors.As(err, &refused) || refused.Code != wire.Unauthorized {
			t.Errorf("on another association: %v", err)
		}
		r.publishes(t, neighbour, "dev-2")
	})
}

func (r *real) publishes(t *testing.T, c *agent.Conn, thing string) {
	t.Helper()
	if err := c.Publish(t.Context(), agent.Publication{Topic: "v1/" + thing + "/telemetry/x", Payload: []byte("x"), Confirmed: true}); err != nil {
		t.Errorf("%s: %v", thing, err)
	}
}
