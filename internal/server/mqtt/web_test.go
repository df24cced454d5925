package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"mooring/internal/core/message"
	"mooring/wire/mqtt"
)

// open opens a WebSocket as a thing.
func (w *world) open(thing, path string, change func(*websocket.DialOptions)) (*websocket.Conn, *http.Response, error) {
	w.Helper()
	cert, ok := w.certs[thing]
	if !ok {
		cert = certificate(w, thing)
		w.certs[thing] = cert
	}
	o := &websocket.DialOptions{Subprotocols: []string{"mqtt"}, HTTPHeader: http.Header{}, HTTPClient: &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}}}}}
	if change != nil {
		change(o)
	}
	ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
	defer cancel()
	ws, answer, err := websocket.Dial(ctx, "wss://"+w.gate.Addr().String()+path, o)
	if err == nil {
		w.Cleanup(func() { _ = ws.CloseNow() })
	}
	return ws, answer, err
}

// frames has each write in a frame of its own, or in many.
type frames struct {
	net.Conn
	each int // octets in a frame; 0 = all
}

func (f frames) Write(b []byte) (int, error) {
	if f.each == 0 {
		return f.Conn.Write(b)
	}
	for i := 0; i < len(b); i += f.each {
		if _, err := f.Conn.Write(b[i:min(i+f.each, len(b))]); err != nil {
			return i, err
		}
	}
	return len(b), nil
}

func (w *world) openClient(thing string, each int) *client {
	w.Helper()
	ws, _, err := w.open(thing, "/mqtt", nil)
	if err != nil {
		w.Fatal(err)
	}
	c := websocket.NetConn(w.Context(), ws, websocket.MessageBinary)
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	return &client{T: w.T, Conn: frames{c, each}, version: mqtt.V5}
}

// Over WebSockets the same is said; packets begin and end anywhere in frames.
func TestWebSocket(t *testing.T) {
	w := newWebWorld(t)
	plain, _ := w.connect("dev-9", nil)
	for name, each := range map[string]int{"a packet in a frame": 0, "an octet in a frame": 1, "packets across frames": 7} {
		t.Run(name, func(t *testing.T) {
			c := w.in(t).openClient("dev-1", each)
			c.is(c.hello("dev-1", nil).Reason, mqtt.Success)
			c.is(c.subscribe(mqtt.Subscription{Filter: "all/#", QoS: 1}), []mqtt.Reason{1})
			plain.publish("all/a", longText(3000))
			c.is(len(expect[mqtt.Publish](c).Payload), 3000)
			c.send(mqtt.Pingreq{}, mqtt.Pingreq{}, mqtt.Publish{Topic: "all/b", QoS: 1, ID: 1})
			expect[mqtt.Pingresp](c)
			expect[mqtt.Pingresp](c)
			c.send(mqtt.Disconnect{})
			for {
				if _, err := c.next(); err != nil {
					c.is(errors.Is(err, io.EOF), true) // closed as WebSockets are
					break
				}
			}
		})
	}
	if !has(w.hub.seen(), "connect wss dev-1|dev-1", "detach dev-1|dev-1 farewell") {
		t.Errorf("core heard %q", w.hub.seen())
	}
}

// Who may open one.
func TestWebSocketsThatAreRefused(t *testing.T) {
	w := newWebWorld(t)
	origin := func(o string) func(*websocket.DialOptions) {
		return func(d *websocket.DialOptions) { d.HTTPHeader.Set("Origin", o) }
	}
	for _, row := range []struct {
		name, path string
		change     func(*websocket.DialOptions)
		want       int
	}{
		{"no origin", "/mqtt", nil, 101},
		{"a page that may", "/mqtt", origin("https://console.example"), 101},
		{"a page that may, in capitals", "/mqtt", origin("https://Console.Example"), 101},
		{"another page", "/mqtt", origin("https://evil.example"), 403},
		{"a page of the same name without TLS", "/mqtt", origin("http://console.example"), 403},
		{"a page whose name begins so", "/mqtt", origin("https://console.example.evil.example"), 403},
		{"a page without a name", "/mqtt", origin("null"), 403},
		{"another path", "/", nil, 404},
		{"no subprotocol", "/mqtt", func(d *websocket.DialOptions) { d.Subprotocols = nil }, 400},
		{"another subprotocol", "/mqtt", func(d *websocket.DialOptions) { d.Subprotocols = []string{"amqp"} }, 400},
		{"several subprotocols", "/mqtt", func(d *websocket.DialOptions) { d.Subprotocols = []string{"amqp", "mqtt"} }, 101},
		{"compression", "/mqtt", func(d *websocket.DialOptions) { d.CompressionMode = websocket.CompressionContextTakeover }, 101},
	} {
		t.Run(row.name, func(t *testing.T) {
			ws, answer, err := w.in(t).open("dev-1", row.path, row.change)
			if answer == nil {
				t.Fatalf("no answer: %v", err)
			}
			if answer.StatusCode != row.want {
				t.Errorf("got %s, want %d", answer.Status, row.want)
			}
			if err == nil && (ws.Subprotocol() != "mqtt" || answer.Header.Get("Sec-WebSocket-Extensions") != "") {
				t.Errorf("subprotocol %q, extensions %q", ws.Subprotocol(), answer.Header.Get("Sec-WebSocket-Extensions"))
			}
		})
	}
}

// A text frame is not MQTT.
func TestTextFrame(t *testing.T) {
	w := newWebWorld(t)
	ws, _, err := w.open("dev-1", "/mqtt", nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := ws.Write(ctx, websocket.MessageText, mqtt.Connect{Version: mqtt.V5, ClientID: "dev-1", CleanStart: true}.Append(nil, 0)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ws.Read(ctx); websocket.CloseStatus(err) != websocket.StatusUnsupportedData {
		t.Errorf("got %v, want the status 1003", err)
	}
	if has(w.hub.seen(), "connect") {
		t.Error("core was asked")
	}
}

// Cutting off and draining reach WebSockets too.
func TestWebSocketsEnd(t *testing.T) {
	w := newWebWorld(t)
	cut, drained := w.openClient("dev-1", 0), w.openClient("dev-2", 0)
	cut.is(cut.hello("dev-1", nil).Reason, mqtt.Success)
	drained.is(drained.hello("dev-2", nil).Reason, mqtt.Success)
	w.hub.cut("dev-1", message.ReasonCut)
	p, err := cut.next()
	cut.is([]any{p, err}, []any{mqtt.Disconnect{Reason: mqtt.AdministrativeAction}, nil})
	until(t, "core hears of it", func() bool { return has(w.hub.seen(), "cut dev-1", "detach dev-1|dev-1 cut") })
	drained.alive()
	w.stop()
	p, err = drained.next()
	drained.is([]any{p, err}, []any{mqtt.Disconnect{Reason: mqtt.ServerShuttingDown}, nil})
	_, err = drained.next()
	drained.is(err, io.EOF) // so the stream says that the WebSocket was closed with 1000
	until(t, "core hears of it", func() bool { return has(w.hub.seen(), "detach dev-2|dev-2 stopping") })
}

// What is no WebSocket is answered as HTTP.
func TestPlainRequests(t *testing.T) {
	w := newWebWorld(t)
	cert := certificate(t, "dev-1")
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}}}}
	for _, row := range []struct {
		method, path string
		want         int
	}{
		{"GET", "/mqtt", 400}, {"POST", "/mqtt", 405}, {"GET", "/", 404}, {"GET", "/mqtt/x", 404},
	} {
		r, err := http.NewRequestWithContext(t.Context(), row.method, "https://"+w.gate.Addr().String()+row.path, strings.NewReader(""))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if answer.StatusCode != row.want {
			t.Errorf("%s %s: got %s, want %d", row.method, row.path, answer.Status, row.want)
		}
	}
	c.CloseIdleConnections()
}
