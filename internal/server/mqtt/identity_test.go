package mqtt

import (
	"crypto/tls"
	"io"
	"testing"

	"mooring/internal/base/errs"
	"mooring/wire/mqtt"
)

// Who is not known is refused, in both versions, without learning why; and core is not asked.
func TestWhoIsRefused(t *testing.T) {
	w := newWorld(t, nil)
	w.hub.unknown["stranger"] = errs.New(errs.NotFound, "no such device")
	w.hub.unknown["disabled"] = errs.New(errs.Denied, "the device is suspended")
	w.hub.unknown["odd"] = errs.New(errs.Invalid, "the certificate has no good name")
	w.hub.unknown["unlucky"] = errs.New(errs.Unavailable, "the registry cannot be reached")
	for _, row := range []struct {
		thing string
		want  mqtt.Reason
	}{
		{"stranger", mqtt.NotAuthorised}, {"disabled", mqtt.NotAuthorised}, {"odd", mqtt.NotAuthorised}, {"unlucky", mqtt.ServerUnavailable},
	} {
		for _, version := range []mqtt.Version{mqtt.V311, mqtt.V5} {
			t.Run(row.thing+", "+version.String(), func(t *testing.T) {
				c := w.in(t).dial(row.thing)
				answer := c.hello(row.thing, func(p *mqtt.Connect) {
					p.Version, p.UserName, p.Password = version, mqtt.Some("dev-1"), []byte("secret")
				})
				c.is([]any{answer.Reason, answer.ReasonString, answer.SessionPresent}, []any{row.want, "", false})
				c.is(c.closed(), "")
			})
		}
	}
	for _, e := range w.hub.seen() {
		t.Errorf("core was asked: %s", e)
	}
}

// The client identifier is the thing's name; who claims another's is refused, and its owner stays.
func TestClientIdentifiers(t *testing.T) {
	w := newWorld(t, nil)
	victim, _ := w.connect("dev-1", func(p *mqtt.Connect) { p.SessionExpiry = 600 })
	victim.subscribe(mqtt.Subscription{Filter: "all/#", QoS: 1})
	for _, row := range []struct {
		name, id string
		version  mqtt.Version
		user     string
		want     mqtt.Reason
		assigned string
	}{
		{"its own", "dev-2", mqtt.V5, "", mqtt.Success, ""},
		{"its own and a suffix", "dev-2.b", mqtt.V311, "", mqtt.Success, ""},
		{"none, 5.0", "", mqtt.V5, "", mqtt.Success, "dev-2"},
		{"none, 3.1.1", "", mqtt.V311, "", mqtt.Success, ""},
		{"another's, 5.0", "dev-1", mqtt.V5, "", mqtt.ClientIDNotValid, ""},
		{"another's, 3.1.1", "dev-1", mqtt.V311, "", mqtt.ClientIDNotValid, ""},
		{"another's, and its name as user", "dev-1", mqtt.V5, "dev-1", mqtt.ClientIDNotValid, ""},
		{"its own, another's name as user", "dev-2", mqtt.V5, "dev-1", mqtt.Success, ""},
		{"another's beginning", "dev-22", mqtt.V5, "", mqtt.ClientIDNotValid, ""},
		{"with a wildcard", "dev-2/+", mqtt.V5, "", mqtt.ClientIDNotValid, ""},
		{"with a control character", "dev-2\x01", mqtt.V5, "", mqtt.ClientIDNotValid, ""},
		{"too long", longText(129), mqtt.V5, "", mqtt.ClientIDNotValid, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := w.in(t).dial("dev-2")
			answer := c.hello(row.id, func(p *mqtt.Connect) {
				if p.Version = row.version; row.user != "" {
					p.UserName = mqtt.Some(row.user)
				}
			})
			c.is([]any{answer.Reason, answer.AssignedClientID}, []any{row.want, row.assigned})
			if row.want == mqtt.Success {
				c.alive()
				return
			}
			c.is(c.closed(), "")
		})
	}
	victim.alive()
	if has(w.hub.seen(), "take over dev-1|dev-1") {
		t.Error("the victim's session was taken over")
	}
}

func longText(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = 'x'
	}
	return string(b)
}

// Without a certificate there is no MQTT at all.
func TestNoCertificate(t *testing.T) {
	w := newWorld(t, nil)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		c, err := tls.Dial("tcp", w.gate.Addr().String(), &tls.Config{InsecureSkipVerify: true, MaxVersion: version})
		if err == nil { // 1.3 says so after the client's handshake is over
			_, err = io.ReadAll(c)
			_ = c.Close()
		}
		if err == nil {
			t.Errorf("TLS %x: a client without a certificate was let in", version)
		}
	}
	if m := w.server.Metrics(); m.Open != 0 || m.Connects != 0 {
		t.Errorf("counted %+v", m)
	}
}

// A resumed TLS session has the identity of the first one, and is asked about again.
func TestResumedSession(t *testing.T) {
	w := newWorld(t, nil)
	w.certs["dev-1"] = certificate(t, "dev-1")
	cache := tls.NewLRUClientSessionCache(1)
	dial := func() *client {
		conn, err := tls.Dial("tcp", w.gate.Addr().String(), &tls.Config{InsecureSkipVerify: true, ServerName: "server.example",
			Certificates: []tls.Certificate{w.certs["dev-1"]}, NextProtos: []string{"mqtt"}, ClientSessionCache: cache})
		if err != nil {
			t.Fatal(err)
		}
		return &client{T: t, Conn: conn, version: mqtt.V5}
	}
	first := dial()
	first.is(first.hello("dev-1", nil).Reason, mqtt.Success)
	first.alive()
	second := dial()
	if !second.Conn.(*tls.Conn).ConnectionState().DidResume {
		t.Fatal("the session was not resumed")
	}
	second.is(second.hello("dev-1", nil).Reason, mqtt.Success)
	second.alive()
	w.hub.mu.Lock()
	w.hub.unknown["dev-1"] = errs.New(errs.Denied, "revoked")
	w.hub.mu.Unlock()
	third := dial()
	if !third.Conn.(*tls.Conn).ConnectionState().DidResume {
		t.Fatal("the third session was not resumed")
	}
	third.is(third.hello("dev-1", nil).Reason, mqtt.NotAuthorised)
}
