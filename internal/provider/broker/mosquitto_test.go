package broker_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/provider/broker"
	"mooring/internal/provider/broker/brokertest"
	"mooring/wire/mqtt"
)

// dynsec is a model of mosquitto with its plugin, as recorded from mosquitto 2.0.11: it knows clients, and kicks those that are disabled.
type dynsec struct {
	*model
	mu      sync.Mutex
	clients map[string]bool // name → disabled
	deaf    bool            // the access list drops what is published to it
	silent  bool            // nothing is answered at all
	refuse  mqtt.Reason     // of CONNECT
	stray   string          // said before each answer
}

// commands does what a message says and returns the answer.
func (d *dynsec) commands(payload []byte) []byte {
	var ask struct {
		Commands []struct{ Command, Username, CorrelationData string }
	}
	if json.Unmarshal(payload, &ask) != nil {
		return []byte(`{"responses":[{"command":"Unknown command","error":"Payload not valid JSON"}]}`)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []map[string]string
	for _, c := range ask.Commands {
		_, known := d.clients[c.Username]
		answer := map[string]string{"command": c.Command, "correlationData": c.CorrelationData}
		switch {
		case c.Command == "createClient" && known:
			answer["error"] = "Client already exists"
		case c.Command == "createClient":
			d.clients[c.Username] = false
		case !known:
			answer["error"] = "Client not found"
		default:
			if d.clients[c.Username] = c.Command == "disableClient"; d.clients[c.Username] {
				d.kick(c.Username)
			}
		}
		all = append(all, answer)
	}
	text, err := json.Marshal(map[string]any{"responses": all})
	if err != nil {
		panic(err)
	}
	return text
}

// serve talks to one client.
func (d *dynsec) serve(conn net.Conn) {
	defer conn.Close()
	var buffer []byte
	rules := mqtt.Rules{}
	say := func(p mqtt.Packet) { _, _ = conn.Write(p.Append(nil, mqtt.V311)) }
	for {
		h, n, err := mqtt.ParseHeader(buffer)
		if errors.Is(err, mqtt.ErrMore) || err == nil && len(buffer) < n+h.Length {
			chunk := make([]byte, 1000)
			got, err := conn.Read(chunk)
			if err != nil {
				return
			}
			buffer = append(buffer, chunk[:got]...)
			continue
		}
		if err != nil {
			return
		}
		p, err := mqtt.Decode(rules, h, buffer[n:n+h.Length])
		if err != nil {
			return
		}
		buffer = buffer[n+h.Length:]
		switch p := p.(type) {
		case mqtt.Connect:
			rules.Version = p.Version
			if d.silent {
				continue
			}
			say(mqtt.Connack{Reason: d.refuse})
		case mqtt.Subscribe:
			say(mqtt.Suback{ID: p.ID, Reasons: []mqtt.Reason{mqtt.Success}})
		case mqtt.Publish:
			if topic := string(p.RawTopic); d.deaf || topic != "$CONTROL/dynamic-security/v1" {
				continue
			}
			answer := d.commands(p.Payload)
			if d.stray != "" {
				say(mqtt.Publish{Topic: "$CONTROL/dynamic-security/v1/response", Payload: []byte(d.stray)})
			}
			say(mqtt.Publish{Topic: "$CONTROL/dynamic-security/v1/response", Payload: answer})
		case mqtt.Disconnect:
			return
		}
	}
}

// startDynsec serves a model over TLS.
func startDynsec(t *testing.T) (*dynsec, *broker.Mosquitto, func()) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	own := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{own}})
	if err != nil {
		t.Fatal(err)
	}
	d := &dynsec{model: &model{live: map[string]chan struct{}{}, banned: map[string]string{}}, clients: map[string]bool{}}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go d.serve(conn)
		}
	}()
	stop := func() { _ = l.Close() }
	t.Cleanup(stop)
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return d, &broker.Mosquitto{Address: l.Addr().String(), TLS: &tls.Config{RootCAs: roots, ServerName: "localhost"}}, stop
}

func TestMosquitto(t *testing.T) {
	brokertest.Test(t, func(t *testing.T) brokertest.Bench {
		d, driver, stop := startDynsec(t)
		return brokertest.Bench{Driver: driver, Connect: d.connect, Stop: stop}
	})
}

// TestMosquittoConfirms: only the plugin's own answer to our own command is a confirmation.
func TestMosquittoConfirms(t *testing.T) {
	short := func(t *testing.T) context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	for _, row := range []struct {
		name string
		set  func(*dynsec)
		kind errs.Kind // Internal: it is confirmed
		text string
	}{
		{"as it should be", func(*dynsec) {}, errs.Internal, ""},
		{"somebody else's answers in between", func(d *dynsec) {
			d.stray = `{"responses":[{"command":"createClient","correlationData":"2","error":"no"},{"command":"disableClient","correlationData":"x","error":"no"},{"command":"disableClient"}]}`
		}, errs.Internal, ""},
		{"nonsense in between", func(d *dynsec) { d.stray = `{"responses":7` }, errs.Internal, ""},
		{"the access list drops it", func(d *dynsec) { d.deaf = true }, errs.Unavailable, "not answer in time"},
		{"nobody answers", func(d *dynsec) { d.silent = true }, errs.Unavailable, "not answer in time"},
		{"our certificate is not wanted", func(d *dynsec) { d.refuse = mqtt.NotAuthorised }, errs.Denied, "let us in"},
		{"the plugin refuses", func(d *dynsec) {
			d.stray = `{"responses":[{"command":"disableClient","correlationData":"2","error":"Internal error"}]}`
		}, errs.Conflict, "Internal error"},
	} {
		t.Run(row.name, func(t *testing.T) {
			d, driver, _ := startDynsec(t)
			row.set(d)
			gone, err := d.connect(t, "dev-1")
			if err != nil {
				t.Fatal(err)
			}
			err = driver.Kick(short(t), []string{"dev-1"})
			if row.kind == errs.Internal {
				if err != nil {
					t.Fatalf("Kick: %v", err)
				}
				<-gone
				return
			}
			if errs.KindOf(err) != row.kind || !strings.Contains(fmt.Sprint(err), row.text) {
				t.Errorf("Kick: %v (%v), want %v with %q", err, errs.KindOf(err), row.kind, row.text)
			}
		})
	}
}
