package app_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"mooring/agent/mqtt"
	"mooring/internal/app/apptest"
	wire "mooring/wire/mqtt"
)

// residentOf returns the resident memory of a process in KiB, and false where the system does not tell.
func residentOf(pid int) (int, bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, false
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0, false
	}
	pages, err := strconv.Atoi(fields[1])
	return pages * os.Getpagesize() / 1024, err == nil
}

// TestHalfOpen: a thousand connections that do not finish what they began, at each step before a peer is known, are all closed by the server;
// meanwhile a good client connects. What memory they take is told and not judged: it depends on when the garbage was collected last.
func TestHalfOpen(t *testing.T) {
	p := apptest.Start(t, apptest.Messaging)
	good := p.Talker(t, "good", "device")
	p.Stop(t)
	s := startServer(t, p.Made.Dir)
	address := strings.TrimPrefix(s.addresses.MQTT, "mqtts://")
	connected := func() *mqtt.Conn {
		return p.Connect(t, good, func(c *mqtt.Config) {
			config := p.TLS(&good.Cert)
			config.NextProtos = nil
			c.Dial = mqtt.TLS(address, config)
		})
	}
	must(t, connected().Close()) // what the first one takes is there
	hello := helloOf(t)
	kinds := []struct {
		name string
		text []byte
	}{
		{"nothing is said", nil},
		{"half a ClientHello", hello[:len(hello)/2]},
		{"a ClientHello and no more", hello},
		{"a record that claims 16 KiB", []byte{22, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc}},
	}
	const n = 1000
	before, tells := residentOf(s.cmd.Process.Pid)
	conns := make([]net.Conn, n)
	began := time.Now()
	for i := range conns {
		c, err := net.Dial("tcp", address)
		must(t, err)
		defer func() { _ = c.Close() }() // the server was faster
		_, err = c.Write(kinds[i%len(kinds)].text)
		must(t, err)
		conns[i] = c
	}
	opened := time.Since(began)
	c := connected()
	apptest.Publish(t, c, 1, "v1/good/telemetry/x", "x")
	at, _ := residentOf(s.cmd.Process.Pid)
	open, last := make([]bool, n), make([]time.Duration, n)
	var wait sync.WaitGroup
	for i, c := range conns {
		wait.Go(func() { open[i], last[i] = !closes(c), time.Since(began) })
	}
	wait.Wait()
	for i, kind := range kinds {
		still := 0
		for k := i; k < n; k += len(kinds) {
			if open[k] {
				still++
			}
		}
		if still > 0 {
			t.Errorf("%s: %d connections are still open", kind.name, still)
		}
	}
	t.Logf("%d opened in %v, all closed %v after the first", n, opened.Round(time.Millisecond), slices.Max(last).Round(time.Millisecond))
	if tells {
		t.Logf("they took %.1f KiB each", float64(at-before)/n)
	}
	if err := c.Err(); err != nil {
		t.Errorf("the good client was disconnected: %v", err)
	}
}

// closes reads until the other side closes, and reports whether it does.
func closes(c net.Conn) bool {
	if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		return false
	}
	for b := make([]byte, 16<<10); ; {
		if _, err := c.Read(b); err != nil {
			late := net.Error(nil)
			return !errors.As(err, &late) || !late.Timeout()
		}
	}
}

// helloOf returns what a client of TLS says first.
func helloOf(t *testing.T) []byte {
	t.Helper()
	near, far := net.Pipe()
	go func() {
		_ = tls.Client(near, &tls.Config{ServerName: "localhost", NextProtos: []string{"mqtt"}}).Handshake()
	}() // it fails when far is closed
	b := make([]byte, 4096)
	n, err := far.Read(b)
	must(t, err)
	must(t, far.Close())
	return b[:n]
}

// TestSpoof: who claims another's client identifier is refused, whatever else he says, and the other stays connected and keeps what waits for him.
func TestSpoof(t *testing.T) {
	p := apptest.Start(t, apptest.Messaging)
	victim, thief := p.Talker(t, "victim", "device"), p.Talker(t, "thief", "device")
	box := &inbox{}
	c := p.Connect(t, victim, box.into, func(c *mqtt.Config) { c.SessionExpiry = 3600 })
	apptest.Subscribe(t, c, 1, "v1/victim/cmd/+")
	boss := p.Connect(t, p.Boss(t))
	for _, row := range []struct {
		name   string
		change func(*mqtt.Config)
	}{
		{"the identifier", func(c *mqtt.Config) { c.ClientID = "victim" }},
		{"the identifier, in 3.1.1", func(c *mqtt.Config) { c.ClientID, c.Version = "victim", wire.V311 }},
		{"the identifier, with a clean start", func(c *mqtt.Config) { c.ClientID, c.CleanStart = "victim", true }},
		{"the identifier and the user name", func(c *mqtt.Config) { c.ClientID, c.UserName, c.Password = "victim", "victim", []byte("x") }},
		{"the identifier with a suffix", func(c *mqtt.Config) { c.ClientID = "victim.1" }},
		{"the identifier, over a WebSocket", func(c *mqtt.Config) { c.ClientID, c.Dial = "victim", p.WebSocket(thief) }},
		{"the will of the other", func(c *mqtt.Config) {
			c.Will = &wire.Will{Topic: "v1/victim/state", Payload: []byte("gone"), Retain: true}
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			if _, err := p.TryConnect(t, thief, row.change); err == nil {
				t.Error("it is let in")
			}
			apptest.Publish(t, boss, 1, "v1/victim/cmd/x", row.name)
			apptest.Until(t, "the victim hears what is for it", func() bool { list := box.all(); return len(list) > 0 && list[len(list)-1] == row.name })
		})
	}
	if err := c.Err(); err != nil {
		t.Errorf("the victim was disconnected: %v", err)
	}
	// The user name alone means nothing: the thief is himself.
	own := p.Connect(t, thief, func(c *mqtt.Config) { c.UserName = "victim" })
	if err := own.Publish(t.Context(), mqtt.Message{Topic: "v1/victim/telemetry/x", QoS: 1}); err == nil {
		t.Error("a user name lets him speak for the victim")
	}
}
