package app_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"mooring/agent/mqtt"
	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/core/device"
	"mooring/internal/core/message"
	wire "mooring/wire/mqtt"
)

// before puts groups in front of the policy that holds.
func before(t *testing.T, p *apptest.Platform, groups string) {
	t.Helper()
	now, err := p.Message.Policy(t.Context(), apptest.Operator())
	must(t, err)
	_, err = p.Message.SetPolicy(t.Context(), apptest.Operator(), groups+now.Text, now.Version)
	must(t, err)
}

// TestTenantInTopics: ${tenant} is the name of the installation, for devices and for the listener of tests.
func TestTenantInTopics(t *testing.T) {
	p := apptest.Start(t, func(c *conf.Config) {
		apptest.Messaging(c)
		c.Messaging.Interop = "127.0.0.1:0"
	})
	before(t, p, `
group tenants {
    match name=meter-1
    allow publish t/${tenant}/${thing}/#
    allow subscribe t/${tenant}/notice
}
`)
	own := "t/" + p.Config.Name
	box := &inbox{}
	c := p.Connect(t, p.Talker(t, "meter-1", "device"), box.into)
	apptest.Publish(t, c, 1, own+"/meter-1/power", "17")
	apptest.Subscribe(t, c, 1, own+"/notice")
	must(t, p.Message.PublishAs(t.Context(), apptest.Operator(), &message.Message{Topic: own + "/notice", Payload: []byte("hello"), QoS: 1}))
	apptest.Until(t, "it hears what is for all of its installation", func() bool { return len(box.all()) == 1 })
	for _, topic := range []string{"t/Another Fleet/meter-1/power", "t//meter-1/power", own + "/meter-2/power"} {
		if err := c.Publish(t.Context(), mqtt.Message{Topic: topic, QoS: 1}); err == nil {
			t.Errorf("it may publish to %s", topic)
		}
	}
	for topic, want := range map[string]bool{own + "/meter-1/power": true, "t/Another Fleet/meter-1/power": false} {
		v, err := p.Message.Test(t.Context(), apptest.Operator(), message.Question{Thing: "meter-1", Action: "publish", Topic: topic})
		if err != nil || v.Allowed != want {
			t.Errorf("mooring policy test meter-1 publish %s: %+v, %v", topic, v, err)
		}
	}
}

// octets is a client of MQTT 5 that says packets as they are given.
type octets struct {
	*testing.T
	net.Conn
	pending []byte
}

// begin connects k and has it let in.
func begin(t *testing.T, p *apptest.Platform, k apptest.Talker, change func(*wire.Connect)) *octets {
	t.Helper()
	conn, err := p.Over(k, nil, nil)(t.Context())
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() }) // the server may have been faster
	must(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	c := &octets{T: t, Conn: conn}
	hello := wire.Connect{Version: wire.V5, CleanStart: true, ClientID: k.Name, KeepAlive: 60}
	if change != nil {
		change(&hello)
	}
	c.say(hello)
	if a := answer[wire.Connack](c); a.Reason != wire.Success {
		t.Fatalf("CONNECT of %s: %s", k.Name, a.Reason)
	}
	return c
}

func (c *octets) say(p wire.Packet) {
	c.Helper()
	_, err := c.Write(p.Append(nil, wire.V5))
	must(c.T, err)
}

// answer returns the next packet, which has to be of this type.
func answer[P wire.Packet](c *octets) (got P) {
	c.Helper()
	for {
		h, n, err := wire.ParseHeader(c.pending)
		if err == nil && len(c.pending) >= n+h.Length {
			p, err := wire.Decode(wire.Rules{Version: wire.V5, From: wire.Server}, h, bytes.Clone(c.pending[n:n+h.Length]))
			must(c.T, err)
			c.pending = c.pending[n+h.Length:]
			got, ok := p.(P)
			if !ok {
				c.Fatalf("got %T %+v, want %T", p, p, got)
			}
			return got
		}
		if err != nil && !errors.Is(err, wire.ErrMore) {
			c.Fatal(err)
		}
		more := make([]byte, 4096)
		k, err := c.Read(more)
		if err != nil {
			c.Fatalf("waiting for %T: %v", got, err)
		}
		c.pending = append(c.pending, more[:k]...)
	}
}

// TestAliasAfterAChange: an alias that was given a topic while that was allowed is of no use when it is not any more.
func TestAliasAfterAChange(t *testing.T) {
	p := apptest.Start(t, apptest.Messaging)
	c := begin(t, p, p.Talker(t, "meter-1", "device"), nil)
	publish := func(m wire.Publish, want wire.Reason) {
		t.Helper()
		m.QoS = 1
		c.say(m)
		if a := answer[wire.Ack](c); a.ID != m.ID || a.Reason != want {
			t.Errorf("message %d is answered %+v, want %s", m.ID, a, want)
		}
	}
	publish(wire.Publish{Topic: "v1/meter-1/telemetry/x", TopicAlias: 1, ID: 1}, wire.Success)
	publish(wire.Publish{TopicAlias: 1, ID: 2}, wire.Success)
	now, err := p.Message.Policy(t.Context(), apptest.Operator())
	must(t, err)
	less := strings.ReplaceAll(now.Text, "    allow publish v1/${thing}/telemetry/#\n", "")
	version, err := p.Message.SetPolicy(t.Context(), apptest.Operator(), less, now.Version)
	must(t, err)
	publish(wire.Publish{TopicAlias: 1, ID: 3}, wire.NotAuthorised)
	publish(wire.Publish{Topic: "v1/meter-1/telemetry/x", TopicAlias: 1, ID: 4}, wire.NotAuthorised)
	publish(wire.Publish{TopicAlias: 1, ID: 5}, wire.NotAuthorised)
	_, err = p.Message.SetPolicy(t.Context(), apptest.Operator(), now.Text, version.Version)
	must(t, err)
	publish(wire.Publish{TopicAlias: 1, ID: 6}, wire.Success)
}

// TestWhoIsNobody: whoever shows a certificate that is none of a working device of this installation is let in neither by MQTT nor over CoAP, whatever stands in it, and
// who is really called so notices nothing.
func TestWhoIsNobody(t *testing.T) {
	p := apptest.Start(t, apptest.Messaging)
	victim := p.Talker(t, "victim", "device")
	box := &inbox{}
	c := p.Connect(t, victim, box.into)
	apptest.Subscribe(t, c, 1, "v1/victim/cmd/+")
	as := func(cert tls.Certificate) apptest.Talker { return apptest.Talker{Device: victim.Device, Cert: cert} }
	p.Clock.Move(72 * time.Hour)
	early := p.Talker(t, "early", "device")
	p.Clock.Move(-72 * time.Hour)
	server := p.Add(t, device.Spec{Name: "victim.example", Profile: "server", Names: []string{"dns:victim.example"}})
	boss := p.Connect(t, p.Boss(t))
	for _, row := range []struct {
		name string
		who  apptest.Talker
	}{
		{"no certificate", as(tls.Certificate{})},
		{"the same names, by a CA of his own", as(copied(t, victim.Cert.Leaf, false))},
		{"the same names, as a CA of his own", as(copied(t, victim.Cert.Leaf, true))},
		{"the certificate without its key", as(tls.Certificate{Certificate: victim.Cert.Certificate, PrivateKey: apptest.Key(t)})},
		{"not yet valid", early},
		{"a server's", apptest.Talker{Device: server, Cert: p.Enrolment(t, server)}},
	} {
		t.Run(row.name, func(t *testing.T) {
			if _, err := p.TryConnect(t, row.who); err == nil {
				t.Error("it is let in by MQTT")
			}
			if _, err := p.TryConnect(t, row.who, func(c *mqtt.Config) { c.Dial = p.WebSocket(row.who) }); err == nil {
				t.Error("it is let in by a WebSocket")
			}
			if len(row.who.Cert.Certificate) > 0 {
				if s, err := overCoAP(t, p, row.who); err == nil {
					t.Errorf("it is let in over CoAP: %v", s.say("v1/victim/telemetry/x", "x"))
				}
			}
			apptest.Publish(t, boss, 1, "v1/victim/cmd/x", row.name)
			apptest.Until(t, "the victim hears what is for it", func() bool { list := box.all(); return len(list) > 0 && list[len(list)-1] == row.name })
		})
	}
	if err := c.Err(); err != nil {
		t.Errorf("the victim was disconnected: %v", err)
	}
}

// overCoAP is the manner of that name.
func overCoAP(t *testing.T, p *apptest.Platform, k apptest.Talker) (speech, error) {
	all := manners()
	return all[len(all)-1].open(t, p, k)
}

// copied is a certificate with what stands in another one, by itself.
func copied(t *testing.T, of *x509.Certificate, authority bool) tls.Certificate {
	t.Helper()
	key := apptest.Key(t)
	template := &x509.Certificate{SerialNumber: of.SerialNumber, Subject: of.Subject, URIs: of.URIs, DNSNames: of.DNSNames, NotBefore: of.NotBefore, NotAfter: of.NotAfter,
		KeyUsage: of.KeyUsage, ExtKeyUsage: of.ExtKeyUsage, BasicConstraintsValid: true, IsCA: authority}
	issuer := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: of.Issuer, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, SubjectKeyId: of.AuthorityKeyId}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), key)
	must(t, err)
	leaf, err := x509.ParseCertificate(der)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// TestTwoInstallations: devices of the same name and with the same client identifier are two where they are of two installations; the certificate of one, and a session of TLS made with it, is of
// no use at the other.
func TestTwoInstallations(t *testing.T) {
	here, there := apptest.Start(t, apptest.Messaging), apptest.Start(t, apptest.Messaging)
	one, two := here.Talker(t, "meter-1", "device"), there.Talker(t, "meter-1", "device")
	a, b := here.Connect(t, one), there.Connect(t, two)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			cache := tls.NewLRUClientSessionCache(4)
			k := here.Talker(t, "roams-"+strings.ReplaceAll(tls.VersionName(version), " ", "-"), "device")
			try := func(p *apptest.Platform) (resumed bool, err error) {
				dial := p.Over(k, func(c *tls.Config) {
					c.MaxVersion, c.ClientSessionCache, c.RootCAs, c.InsecureSkipVerify = version, cache, nil, true
				}, nil)
				conn, err := p.TryConnect(t, k, func(c *mqtt.Config) {
					c.Dial = func(ctx context.Context) (net.Conn, error) {
						over, err := dial(ctx)
						if err == nil {
							resumed = over.(*tls.Conn).ConnectionState().DidResume
						}
						return over, err
					}
				})
				if err == nil {
					must(t, conn.Close())
				}
				return resumed, err
			}
			for i := range 2 {
				if resumed, err := try(here); err != nil || resumed != (i > 0) {
					t.Fatalf("connection %d at home: resumed is %v, %v", i+1, resumed, err)
				}
			}
			if resumed, err := try(there); err == nil || resumed {
				t.Errorf("elsewhere: resumed is %v, %v; want it refused", resumed, err)
			}
		})
	}
	apptest.Publish(t, a, 1, "v1/meter-1/telemetry/x", "x")
	apptest.Publish(t, b, 1, "v1/meter-1/telemetry/x", "x")
	must(t, revokeCert(t, here, one))
	apptest.Until(t, "the one is cut off", func() bool { return a.Err() != nil })
	apptest.Publish(t, b, 1, "v1/meter-1/telemetry/x", "x")
}

// TestLimitsOfCoAPAreCounted: what goes over a limit over CoAP stands in the metrics.
func TestLimitsOfCoAPAreCounted(t *testing.T) {
	p := apptest.Start(t, apptest.Messaging)
	c := p.CoAP(t, p.Talker(t, "meter-1", "device"))
	before(t, p, "group watchers {\n    match name=meter-1\n    allow subscribe many/+\n}\n")
	for i := range 9 {
		_, _, err := c.Observe(t.Context(), fmt.Sprint("many/", i))
		if (err != nil) != (i == 8) {
			t.Errorf("observation %d: %v", i+1, err)
		}
	}
	cert := p.OperatorCert(t)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: p.TLS(&cert)}}
	reply, err := client.Get(p.Addresses().API + "/metrics")
	must(t, err)
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	must(t, err)
	for _, want := range []string{`mooring_coap_connections 1`, `mooring_coap_limited_total{what="observations"} 1`, `mooring_coap_limited_total{what="transfers"} 0`, `mooring_coap_held_bytes 0`} {
		if !strings.Contains(string(text), "\n"+want+"\n") {
			t.Errorf("the metrics lack %s", want)
		}
	}
}

// TestPresence: operators see at $presence/NAME that a device was cut off, in the place of its will; nobody else reads or writes there.
func TestPresence(t *testing.T) {
	p := apptest.Start(t, apptest.Messaging)
	k := p.Talker(t, "meter-1", "device")
	p.Connect(t, k, func(c *mqtt.Config) {
		c.Will = &wire.Will{Topic: "v1/meter-1/state", Payload: []byte("gone")}
	})
	heard, will := p.Hear(t, "$presence/#"), p.Hear(t, "v1/#")
	boss := p.Connect(t, p.Boss(t))
	if _, err := boss.Subscribe(t.Context(), mqtt.Subscription{Filter: "$presence/#"}); err == nil {
		t.Error("it can be subscribed to by MQTT")
	}
	must(t, move(device.Suspend)(t, p, k))
	m := heard.Wait(t, "that it was cut off", func(m *message.Message) bool { return m.Topic == "$presence/meter-1" })
	if text := string(m.Payload); !strings.HasPrefix(text, `{"state":"cut","reason":"`) || m.Thing != "" {
		t.Errorf("heard %+v with %s", m, text)
	}
	if list := will.All(); len(list) > 0 {
		t.Errorf("its will was said: %+v", list[0])
	}
}

// TestLastCut: the list of live connections, asked by name or by id, says of a device that is back when it was cut off, and why.
func TestLastCut(t *testing.T) {
	p := apptest.Start(t, apptest.Messaging)
	k := p.Talker(t, "meter-1", "device")
	c := p.Connect(t, k)
	list := func(thing string) string {
		cert := p.OperatorCert(t)
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: p.TLS(&cert)}}
		reply, err := client.Get(p.Addresses().API + "/v1/messaging/connections?thing=" + thing)
		must(t, err)
		defer reply.Body.Close()
		text, err := io.ReadAll(reply.Body)
		must(t, err)
		return string(text)
	}
	if text := list("meter-1"); !strings.Contains(text, `"thing":"meter-1"`) || strings.Contains(text, "last_cut") {
		t.Errorf("before: %s", text)
	}
	must(t, move(device.Suspend)(t, p, k))
	apptest.Until(t, "it is cut off", func() bool { return c.Err() != nil && len(cutsOf(t, p, k)) > 0 })
	must(t, move(device.Resume)(t, p, k))
	p.Connect(t, k)
	for _, thing := range []string{"meter-1", k.ID.String()} {
		if text := list(thing); !strings.Contains(text, `"last_cut":"`) || !strings.Contains(text, `"cut_at":"`) {
			t.Errorf("asked for %s: %s", thing, text)
		}
	}
}
