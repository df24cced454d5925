package app_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
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

// The bounds for whoever has not shown who he is.
const (
	strangers    = 1000
	strangerTime = 10 * time.Second
	strangerKiB  = 40.0
)

// resident is residentOf the server, after it has given back what it does not use.
func (s *server) resident(t *testing.T) (int, bool) {
	t.Helper()
	must(t, s.cmd.Process.Signal(syscall.SIGUSR1))
	if _, err := s.out.ReadString('\n'); err != nil {
		t.Fatalf("the server does not say that it gave memory back: %v", err)
	}
	return residentOf(s.cmd.Process.Pid)
}

// TestHalfOpen: a thousand connections that do not finish what they began, at each step of the handshake, are all closed by the server within ten seconds and take no more than 40 KiB
// each; meanwhile a good client connects.
func TestHalfOpen(t *testing.T) {
	hello := helloOf(t)
	holdOut(t, nil, []intruder{
		{"nothing is said", nil},
		{"half a ClientHello", hello[:len(hello)/2]},
		{"a ClientHello and no more", hello},
		{"a record that claims 16 KiB", []byte{22, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc}},
	})
}

// TestHalfConnected: so it is with those who have finished the handshake and do not say CONNECT, or not all of it.
func TestHalfConnected(t *testing.T) {
	connect := wire.Connect{Version: wire.V5, ClientID: "good", CleanStart: true, Password: bytes.Repeat([]byte("x"), 4000)}.Append(nil, 0)
	holdOut(t, func(p *apptest.Platform, k apptest.Talker, c net.Conn) (net.Conn, error) {
		config := p.TLS(&k.Cert)
		config.NextProtos = []string{"mqtt"}
		over := tls.Client(c, config)
		return over, over.HandshakeContext(t.Context())
	}, []intruder{
		{"nothing is said", nil},
		{"one octet", connect[:1]},
		{"half a CONNECT", connect[:len(connect)/2]},
		{"a CONNECT that claims 8 KiB", []byte("\x10\xf0\x3f\x00\x04MQTT\x05\x02")},
	})
}

type intruder struct {
	name string
	text []byte
}

// holdOut connects strangers to a server, by open if that is given, and has them say their text and nothing more.
func holdOut(t *testing.T, open func(*apptest.Platform, apptest.Talker, net.Conn) (net.Conn, error), kinds []intruder) {
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
	late := lateness(t)
	start, tells := s.resident(t)
	conns, opened := make([]net.Conn, strangers), make([]time.Time, strangers)
	var wait sync.WaitGroup
	places := make(chan struct{}, 16)
	for i := range conns {
		places <- struct{}{}
		wait.Go(func() {
			defer func() { <-places }()
			c, err := net.Dial("tcp", address)
			opened[i] = time.Now()
			if err == nil && open != nil {
				c, err = open(p, good, c)
			}
			if err == nil {
				_, err = c.Write(kinds[i%len(kinds)].text)
			}
			if err != nil {
				t.Errorf("%s: %v", kinds[i%len(kinds)].name, err)
				return
			}
			conns[i] = c
		})
	}
	wait.Wait()
	if t.Failed() {
		return
	}
	c := connected()
	apptest.Publish(t, c, 1, "v1/good/telemetry/x", "x")
	at, _ := s.resident(t)
	took := make([]time.Duration, strangers)
	for i, c := range conns {
		defer func() { _ = c.Close() }() // the server was faster
		wait.Go(func() {
			if took[i] = -1; closes(c) {
				took[i] = time.Since(opened[i])
			}
		})
	}
	wait.Wait()
	for i, kind := range kinds {
		most := time.Duration(0)
		for k := i; k < strangers; k += len(kinds) {
			if took[k] < 0 || took[k] > strangerTime+late() {
				t.Errorf("%s: closed after %v (-1: not at all), want at most %v; this process was late by %v", kind.name, took[k], strangerTime, late())
				break
			}
			most = max(most, took[k])
		}
		t.Logf("%s: the last was closed %v after it was opened", kind.name, most.Round(time.Millisecond))
	}
	if each := float64(at-start) / strangers; tells && each > strangerKiB {
		t.Errorf("they took %.1f KiB each, want at most %.0f", each, strangerKiB)
	} else if tells {
		t.Logf("they took %.1f KiB each", each)
	}
	if err := c.Err(); err != nil {
		t.Errorf("the good client was disconnected: %v", err)
	}
}

// lateness says by how much this process has been woken up too late, at the most: what is judged by the clock must allow for other work of the machine.
func lateness(t *testing.T) func() time.Duration {
	const nap = 10 * time.Millisecond
	var most atomic.Int64
	over := make(chan struct{})
	t.Cleanup(func() { close(over) })
	go func() {
		for began := time.Now(); ; began = time.Now() {
			select {
			case <-over:
				return
			case <-time.After(nap):
				most.Store(max(most.Load(), int64(time.Since(began)-nap)))
			}
		}
	}()
	return func() time.Duration { return time.Duration(most.Load()) }
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
