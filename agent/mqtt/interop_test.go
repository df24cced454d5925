//go:build interop

package mqtt

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	wire "mooring/wire/mqtt"
)

// startMosquitto starts a broker on a port of this machine.
func startMosquitto(t *testing.T) (address string) {
	t.Helper()
	path, err := exec.LookPath("mosquitto")
	if err != nil {
		path = "/usr/sbin/mosquitto" // is not in the path of users
	}
	for _, program := range []string{path, "mosquitto_pub", "mosquitto_sub"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("these tests need %s (Debian: mosquitto mosquitto-clients): %v", program, err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address = l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	_, port, _ := strings.Cut(address, ":")
	config := filepath.Join(t.TempDir(), "mosquitto.conf")
	if err := os.WriteFile(config, []byte("listener "+port+" 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	broker := exec.Command(path, "-c", config)
	if err := broker.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = broker.Process.Kill(); _ = broker.Wait() })
	for range 200 {
		if c, err := net.Dial("tcp", address); err == nil {
			_ = c.Close()
			return address
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("the broker does not listen on %s", address)
	return ""
}

// breakable dials and remembers the connection, so that it can be broken.
type breakable struct {
	mu   sync.Mutex
	conn net.Conn
	dial func(context.Context) (net.Conn, error)
}

func (b *breakable) Dial(ctx context.Context) (net.Conn, error) {
	c, err := b.dial(ctx)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.conn = c
	return c, err
}

func (b *breakable) Break() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conn != nil {
		_ = b.conn.Close()
	}
}

// TestInteropMosquittoOnce sends messages with QoS 2 to itself by a broker of other people, and breaks the connection again and again: each message comes
// once, and in order.
func TestInteropMosquittoOnce(t *testing.T) {
	address := startMosquitto(t)
	for _, v := range []wire.Version{wire.V311, wire.V5} {
		t.Run(v.String(), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			const total, breaks = 3000, 4
			below := &breakable{dial: TCP(address)}
			came, connects := make(chan string, total), 0
			client := New(Config{
				Dial: below.Dial, Now: time.Now, Version: v, ClientID: "once-" + strconv.Itoa(int(v)), SessionExpiry: 600,
				Handler: func(m Message) { came <- string(m.Payload) }, Connected: func(Connected) { connects++ },
			})
			ran := start(func() error { return client.Run(ctx) })
			if _, err := client.Subscribe(ctx, Subscription{Filter: "once/#", QoS: 2}); err != nil {
				t.Fatal(err)
			}
			go func() {
				for i := range total {
					if i%(total/breaks) == total/breaks/2 {
						below.Break()
					}
					if err := client.Send(ctx, Message{Topic: "once/a", QoS: 2, Payload: []byte(strconv.Itoa(i))}, nil); err != nil {
						t.Errorf("message %d: %v", i, err)
						return
					}
				}
			}()
			for i := range total {
				select {
				case m := <-came:
					if m != strconv.Itoa(i) {
						t.Fatalf("got %s in the place of %d", m, i)
					}
				case <-ctx.Done():
					t.Fatalf("%d of %d came", i, total)
				}
			}
			cancel()
			<-ran
			if connects < breaks/2 || len(came) > 0 {
				t.Errorf("%d connects, and %d messages too many", connects, len(came))
			}
		})
	}
}

// TestInteropMosquittoClients has mosquitto_pub and mosquitto_sub at the other end, with all properties of 5.0 that they know.
func TestInteropMosquittoClients(t *testing.T) {
	address := startMosquitto(t)
	_, port, _ := strings.Cut(address, ":")
	came := make(chan Message, 9)
	conn, err := Dial(t.Context(), Config{Dial: TCP(address), Now: time.Now, ClientID: "clients", Handler: func(m Message) { came <- m }})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Break()
	if _, err := conn.Subscribe(t.Context(), Subscription{Filter: "in/+", QoS: 2}); err != nil {
		t.Fatal(err)
	}
	for qos := range wire.QoS(3) {
		out, err := exec.Command("mosquitto_pub", "-V", "mqttv5", "-h", "127.0.0.1", "-p", port, "-q", strconv.Itoa(int(qos)), "-t", "in/x", "-m", "hello",
			"-D", "publish", "content-type", "text/plain", "-D", "publish", "user-property", "k", "1", "-D", "publish", "user-property", "k", "2",
			"-D", "publish", "response-topic", "r", "-D", "publish", "correlation-data", "c", "-D", "publish", "payload-format-indicator", "1",
			"-D", "publish", "message-expiry-interval", "60").CombinedOutput()
		if err != nil {
			t.Fatalf("mosquitto_pub: %v\n%s", err, out)
		}
		m := <-came
		var user []string
		for name, value := range m.User.All() {
			user = append(user, name+value)
		}
		got := fmt.Sprintf("%s %s %d %s %s %s %d %v %d", m.Topic, m.Payload, m.QoS, m.ContentType, m.ResponseTopic, m.CorrelationData, m.PayloadFormat.Value, user, m.MessageExpiry.Value/10)
		if want := fmt.Sprintf("in/x hello %d text/plain r c 1 [k1 k2] 6", qos); got != want && got != strings.TrimSuffix(want, "6")+"5" {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	for _, version := range []string{"mqttv311", "mqttv5"} {
		if err := conn.Publish(t.Context(), Message{Topic: "out/" + version, QoS: 2, Retain: true, Payload: []byte("kept for " + version)}); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("mosquitto_sub", "-V", version, "-h", "127.0.0.1", "-p", port, "-q", "2", "-t", "out/"+version, "-C", "1", "-W", "20", "-v").CombinedOutput()
		if want := "out/" + version + " kept for " + version + "\n"; err != nil || string(out) != want {
			t.Errorf("mosquitto_sub: %q, %v; want %q", out, err, want)
		}
	}
}
