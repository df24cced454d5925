//go:build interop

package interop

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// TestInteropNATS has devices of ours at a nats-server that runs by itself, and asks us about each connection: what the policy allows they may, and who is suspended is
// thrown out and does not come back.
func TestInteropNATS(t *testing.T) {
	s := newSite(t)
	s.sh(t, `mooring init -q --name Acme `+s.initFlags(""))
	stop := s.serve(t)
	s.sh(t, `mooring ca export --root -o root.pem`)
	for _, name := range []string{"dev", "neighbour", "mooring-nats"} {
		s.enrol(t, name, "device", p256)
	}
	s.enrol(t, "nats", "server", p256, "--dns", "localhost")
	url := s.startNATS(t)
	stop()
	s.sh(t, `rm -f ready.json
sed -i 's|^  # mqtt: .*|  mqtt: "'"$HOST"':8883"|; s|^  # brokers: .*|  brokers: brokers|' d/mooring.yaml`)
	s.serve(t)

	back := s.nats(t, url, "mooring-nats", nats.UserInfo("backend", "BACKEND-PASSWORD"))
	heard, err := back.SubscribeSync("v1.*.telemetry.>")
	if err != nil {
		t.Fatal(err)
	}
	flush(t, back)
	ended := make(chan time.Time, 1)
	refusals := make(chan error, 10)
	dev := s.nats(t, url, "dev", nats.ClosedHandler(func(*nats.Conn) { ended <- time.Now() }), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refusals <- err }))
	neighbour := s.nats(t, url, "neighbour")

	t.Run("what is allowed", func(t *testing.T) {
		commands, err := dev.SubscribeSync("v1.dev.cmd.*")
		if err != nil {
			t.Fatal(err)
		}
		publish(t, dev, "v1.dev.telemetry.power", "21.5")
		if m, err := heard.NextMsg(10 * time.Second); err != nil || m.Subject != "v1.dev.telemetry.power" || string(m.Data) != "21.5" {
			t.Errorf("the backend heard %+v, %v", m, err)
		}
		publish(t, back, "v1.dev.cmd.go", "now")
		if m, err := commands.NextMsg(10 * time.Second); err != nil || string(m.Data) != "now" {
			t.Errorf("the device heard %+v, %v", m, err)
		}
	})
	for _, row := range []struct {
		name string
		try  func() error
	}{
		{"to publish as another", func() error { return dev.Publish("v1.neighbour.telemetry.power", nil) }},
		{"to publish commands", func() error { return dev.Publish("v1.dev.cmd.go", nil) }},
		{"to listen to everybody", func() error { _, err := dev.SubscribeSync("v1.>"); return err }},
		{"to listen to the system", func() error { _, err := dev.SubscribeSync("$SYS.>"); return err }},
	} {
		t.Run("refused "+row.name, func(t *testing.T) {
			if err := row.try(); err != nil {
				t.Fatal(err)
			}
			flush(t, dev)
			select {
			case err := <-refusals:
				if !errors.Is(err, nats.ErrPermissionViolation) {
					t.Errorf("the server says %v", err)
				}
			case <-time.After(10 * time.Second):
				t.Error("the server says nothing")
			}
		})
	}
	t.Run("suspended", func(t *testing.T) {
		began := time.Now()
		s.sh(t, `mooring device suspend dev`)
		select {
		case at := <-ended:
			fmt.Printf("nats-server: thrown out %v after mooring device suspend was started\n", at.Sub(began).Round(time.Millisecond))
		case <-time.After(30 * time.Second):
			t.Fatal("still connected 30 s after the suspension")
		}
		if c, err := nats.Connect(url, s.natsOptions(t, "dev")...); err == nil {
			c.Close()
			t.Error("it came back")
		}
		publish(t, neighbour, "v1.neighbour.telemetry.power", "still here")
		if m, err := heard.NextMsg(10 * time.Second); err != nil || string(m.Data) != "still here" {
			t.Errorf("the backend heard %+v, %v", m, err)
		}
	})
	t.Run("resumed", func(t *testing.T) {
		s.sh(t, `mooring device resume dev`)
		s.nats(t, url, "dev")
	})
}

// startNATS runs a nats-server with an auth callout, and tells Mooring of it, with the two files of doc/external-brokers.md.
func (s *site) startNATS(t *testing.T) (url string) {
	t.Helper()
	issuer, err := nkeys.CreateAccount()
	if err != nil {
		t.Fatal(err)
	}
	curve, err := nkeys.CreateCurveKeys()
	if err != nil {
		t.Fatal(err)
	}
	dir, port := filepath.Join(s.dir, "nats"), freePort(t)
	url = "tls://localhost:" + port
	s.sh(t, `mkdir nats d/brokers
curl -sSf "$STATUS/ca/devices.pem" | cat root.pem - > nats/cas.pem
cp nats.key nats/server.key
curl -sSf "$STATUS/ca/services.pem" | cat nats.pem - > nats/server.pem
cd d; umask 077
cp ../root.pem nats-ca.pem; cp ../mooring-nats.pem nats-client.pem; cp ../mooring-nats.key nats-client.key
printf %s AUTH-PASSWORD > nats-auth.password
printf %s SYS-PASSWORD > nats-sys.password
printf %s "$ISSUER" > nats-issuer.seed
printf %s "$XKEY" > nats-xkey.seed`, "ISSUER="+text(t, issuer.Seed), "XKEY="+text(t, curve.Seed))
	s.write(t, "d/brokers/nats.yaml", strings.ReplaceAll(fromPage(t, "file: nats.yaml"), "tls://nats-1.example.com:4222", url))
	s.write(t, "nats/server.conf", strings.NewReplacer("0.0.0.0:4222", "127.0.0.1:"+port, "/etc/nats", dir, "ISSUER", public(t, issuer), "XKEY", public(t, curve)).Replace(fromPage(t, "file: nats.conf")))
	log := &safeBuffer{}
	server := exec.Command("nats-server", "-c", filepath.Join(dir, "server.conf"))
	server.Stdout, server.Stderr = log, log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill() // it has nothing to finish
		_ = server.Wait()
		if t.Failed() {
			t.Logf("nats-server's log:\n%s", log)
		}
	})
	within(t, "nats-server is ready", func() bool { return strings.Contains(log.String(), "Server is ready") })
	return url
}

func text(t *testing.T, from func() ([]byte, error)) string {
	t.Helper()
	b, err := from()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func public(t *testing.T, k nkeys.KeyPair) string {
	t.Helper()
	p, err := k.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// nats connects with a device's certificate.
func (s *site) nats(t *testing.T, url, name string, more ...nats.Option) *nats.Conn {
	t.Helper()
	c, err := nats.Connect(url, append(s.natsOptions(t, name), more...)...)
	if err != nil {
		t.Fatalf("connecting %s: %v", name, err)
	}
	t.Cleanup(c.Close)
	return c
}

func (s *site) natsOptions(t *testing.T, name string) []nats.Option {
	t.Helper()
	config := s.tls(t, name)
	config.MinVersion = tls.VersionTLS12
	return []nats.Option{nats.Secure(config), nats.NoReconnect(), nats.Timeout(10 * time.Second)}
}

func publish(t *testing.T, c *nats.Conn, subject, text string) {
	t.Helper()
	if err := c.Publish(subject, []byte(text)); err != nil {
		t.Fatal(err)
	}
	flush(t, c)
}

func flush(t *testing.T, c *nats.Conn) {
	t.Helper()
	if err := c.FlushTimeout(10 * time.Second); err != nil {
		t.Fatal(err)
	}
}
