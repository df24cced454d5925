package app_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"mooring/agent"
	agentest "mooring/agent/est"
	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/key"
	"mooring/wire/der"
	wire "mooring/wire/est"
)

// TestRollover goes with four devices through the phases of doc/rollover.md: one that trusts only the old root and never learns, one that
// learns, one that learns late, and one that was born with the new root. In every phase each of them gets through and gets a certificate, until the
// old root has ended.
func TestRollover(t *testing.T) { rollover(t, func(*testing.T, *turnover) {}) }

// turnover is a fleet that changes its root.
type turnover struct {
	*apptest.Platform
	day                     int
	phase                   int
	g1, g2                  *x509.Certificate // the roots
	newWithOld, oldWithNew  *x509.Certificate
	static, eager, late, by *fleetDevice
}

// fleetDevice is a device that renews through agent, or through the bare EST client when it never learns.
type fleetDevice struct {
	name  string
	agent *agent.Agent
	roots []*x509.Certificate // of a device that never learns
	key   *ecdsa.PrivateKey
	pair  *tls.Certificate
}

const (
	serversTurn = 60 // days after the beginning
	devicesTurn = 120
	oldEnds     = 300
)

func rollover(t *testing.T, look func(*testing.T, *turnover)) {
	begin := time.Now()
	at := func(days int) string { return begin.AddDate(0, 0, days).UTC().Format(time.RFC3339) }
	p := apptest.Start(t, func(c *conf.Config) {
		c.TLS.Anchors = []conf.Anchor{{Name: "g2.localhost", Profile: "server-g2"}}
		c.TLS.SessionLifetime = 0
	}, turning(t, "device", "device", fmt.Sprintf("issuers: [{name: devices-g1}, {name: devices-g2, from: %s}]", at(devicesTurn))),
		turning(t, "server", "server", fmt.Sprintf("issuers: [{name: services-g1}, {name: services-g2, from: %s}]", at(serversTurn))),
		turning(t, "server", "server-g2", "issuer: services-g2"))
	c := &turnover{Platform: p}
	c.generation(t, 1, oldEnds)
	p.Restart(t) // the listeners have a CA now
	g1, err := p.CA.Issuer("root-g1")
	must(t, err)
	c.g1 = g1.Certificate()
	c.static = c.born(t, "static", c.g1, true)
	c.eager = c.born(t, "eager", c.g1, false)
	c.late = c.born(t, "late", c.g1, false)

	c.on(t, 30, 0) // publish
	c.publish(t)
	c.renew(t, c.static, c.eager)
	c.wantRoots(t, c.eager, 2)
	c.wantRoots(t, c.late, 1)
	look(t, c)

	c.on(t, 31, 1) // measure
	c.by = c.born(t, "born-later", c.g2, false)
	c.renew(t, c.static, c.eager, c.by)
	c.measure(t)
	look(t, c)

	c.on(t, serversTurn+1, 2) // servers
	c.wantServer(t, "services-g2")
	c.renew(t, c.static, c.late, c.eager, c.by)
	c.wantRoots(t, c.late, 2)
	look(t, c)
	c.back(t)

	c.on(t, devicesTurn+1, 3) // devices
	c.renew(t, c.static, c.late, c.eager, c.by)
	for _, d := range []*fleetDevice{c.static, c.eager, c.late, c.by} {
		if got := c.issuerOf(t, d); got != "devices-g2" {
			t.Errorf("%s has a certificate of %s", d.name, got)
		}
	}
	look(t, c)

	c.on(t, devicesTurn+80, 4) // the old generation issues no more, and still answers
	c.renew(t, c.static, c.late, c.eager, c.by)
	for _, name := range []string{"root-g1", "devices-g1", "root-g2", "devices-g2"} {
		i, err := p.CA.Issuer(name)
		must(t, err)
		l, err := p.Revoke.CRL(t.Context(), i.ID(), ca.Complete)
		must(t, err)
		if l.NextUpdate < p.Clock.Now().Unix() {
			t.Errorf("the list of %s has ended", name)
		}
	}
	look(t, c)
	c.on(t, devicesTurn+150, 4)
	c.renew(t, c.static, c.late, c.eager, c.by)

	c.on(t, oldEnds+1, 5) // the old root has ended
	c.renew(t, c.eager, c.late, c.by)
	c.wantRoots(t, c.eager, 1)
	if err := c.renewed(t, c.static); err == nil {
		t.Error("who trusts only a root that has ended gets through")
	}
	if got := c.bundle(t); len(got.Roots) != 1 || !got.Roots[0].Equal(c.g2) {
		t.Errorf("announced are %d roots after the end of the old one", len(got.Roots))
	}
	look(t, c)
}

// turning is a default profile with other issuers.
func turning(t *testing.T, base, name, issuers string) apptest.Profile {
	t.Helper()
	text, err := fs.ReadFile(ca.DefaultProfiles(), base+".yaml")
	must(t, err)
	yaml := regexp.MustCompile(`(?m)^issuer: .*$`).ReplaceAllString(string(text), issuers)
	return apptest.Profile{Name: name, YAML: regexp.MustCompile(`(?m)^name: .*$`).ReplaceAllString(yaml, "name: "+name)}
}

// on moves the clock to a day and starts the platform there, so that everything that looks at the clock has looked.
func (c *turnover) on(t *testing.T, day, phase int) {
	t.Helper()
	c.Clock.Move(time.Duration(day-c.day) * 24 * time.Hour)
	c.day, c.phase = day, phase
	c.Restart(t)
}

// generation makes a root with a CA for devices and one for services below it.
func (c *turnover) generation(t *testing.T, n, days int) {
	t.Helper()
	for _, s := range []ca.Spec{
		{Name: "root", Algorithm: key.P384, PathLen: 2, Validity: int64(days) * 86400},
		{Name: "devices", Algorithm: key.P256, Validity: int64(days-1) * 86400, Shards: 4},
		{Name: "services", Algorithm: key.P256, Validity: int64(days-1) * 86400},
	} {
		if s.Name != "root" {
			s.Parent = fmt.Sprintf("root-g%d", n)
		}
		s.Name = fmt.Sprintf("%s-g%d", s.Name, n)
		s.Subject = []der.Attribute{{Type: der.OIDOrganization, Value: "Test Fleet"}, {Type: der.OIDCommonName, Value: "Test " + s.Name}}
		_, err := c.CA.Create(t.Context(), apptest.Operator(), s)
		must(t, err)
	}
}

// publish makes the second generation and looks at what is handed out.
func (c *turnover) publish(t *testing.T) {
	t.Helper()
	c.generation(t, 2, 1200)
	made, err := c.CA.Cross(t.Context(), apptest.Operator(), "root-g1", "root-g2")
	must(t, err)
	g2, err := c.CA.Issuer("root-g2")
	must(t, err)
	c.g2, c.newWithOld, c.oldWithNew = g2.Certificate(), made[0].Cert, made[1].Cert
	c.Restart(t) // so that the listeners send the cross certificates along, for which they would take ten seconds
	b := c.bundle(t)
	if len(b.Roots) != 2 || len(b.Others) != 4 {
		t.Errorf("announced are %d roots and %d others, want 2, and 2 CAs and 2 cross certificates", len(b.Roots), len(b.Others))
	}
	reply := c.Dial(t, c.trusting(c.g1)).Send(t, apptest.Call{Path: "/.well-known/est/device/cacerts"})
	decoded, err := wire.DecodeBase64(reply.Text)
	must(t, err)
	places := map[string]int{}
	for name, cert := range map[string]*x509.Certificate{"NewWithOld": c.newWithOld, "NewWithNew": c.g2, "OldWithNew": c.oldWithNew, "OldWithOld": c.g1} {
		if places[name] = strings.Index(string(decoded), string(cert.Raw)); places[name] < 0 {
			t.Errorf("%s is not announced", name)
		}
	}
	if places["NewWithOld"] > places["NewWithNew"] || places["OldWithNew"] > places["OldWithOld"] {
		t.Errorf("the cross certificates do not come first: %v", places)
	}
}

// measure has devices prove what they trust, and asks who has not.
func (c *turnover) measure(t *testing.T) {
	t.Helper()
	server := strings.Replace(c.Addresses().EST, "127.0.0.1", "g2.localhost", 1)
	for _, d := range []*fleetDevice{c.eager, c.by} {
		if _, err := d.agent.Probe(t.Context(), server); err != nil {
			t.Errorf("%s cannot prove that it trusts the new root: %v", d.name, err)
		}
	}
	if _, err := c.late.agent.Probe(t.Context(), server); err == nil {
		t.Error("a device that does not trust the new root gets through where only that one is shown")
	}
	g2, err := c.CA.Issuer("root-g2")
	must(t, err)
	n, err := c.Devices.CountAnchor(t.Context(), apptest.Operator(), device.Anchor(g2.ID()), "")
	must(t, err)
	if n[device.Proven] != 2 {
		t.Errorf("counts by grade: %v, want 2 that have proved it", n)
	}
	for least, want := range map[device.Grade]string{device.Delivered: "late", device.Reported: "late static", device.Proven: "late static"} {
		page, _, err := c.Devices.MissingAnchor(t.Context(), apptest.Operator(), device.Anchor(g2.ID()), least, "", "", 100)
		must(t, err)
		names := map[string]bool{}
		for _, m := range page {
			names[m.Name] = true
		}
		for name := range map[string]bool{"late": true, "static": true, "eager": true, "born-later": true} {
			if names[name] != strings.Contains(want, name) {
				t.Errorf("without grade %d: %v, want %s", least, names, want)
			}
		}
	}
}

// back takes the servers back to the old generation, and forth again.
func (c *turnover) back(t *testing.T) {
	t.Helper()
	path := filepath.Join(c.Config.ProfileDir(), "server.yaml")
	forward, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, []byte(turning(t, "server", "server", "issuer: services-g1").YAML), 0o644))
	c.Restart(t)
	c.wantServer(t, "services-g1")
	c.renew(t, c.static, c.eager, c.by)
	must(t, os.WriteFile(path, forward, 0o644))
	c.Restart(t)
	c.wantServer(t, "services-g2")
}

// trusting is a TLS client that trusts one root.
func (c *turnover) trusting(root *x509.Certificate) *tls.Config {
	config := c.TLS(nil)
	config.RootCAs = x509.NewCertPool()
	config.RootCAs.AddCert(root)
	return config
}

// wantServer looks at what the listeners show, through the eyes of who trusts one root each.
func (c *turnover) wantServer(t *testing.T, issuer string) {
	t.Helper()
	for _, root := range []*x509.Certificate{c.g1, c.g2} {
		conn := c.Dial(t, c.trusting(root))
		shown := conn.ConnectionState().PeerCertificates
		if got := shown[0].Issuer.CommonName; got != "Test "+issuer {
			t.Errorf("the listener's certificate is of %s, want %s", got, issuer)
		}
		for _, cert := range shown {
			if cert.Equal(c.g1) || cert.Equal(c.g2) {
				t.Errorf("the listener sends the root %s", cert.Subject)
			}
		}
	}
}

// born enrols a device that trusts one root.
func (c *turnover) born(t *testing.T, name string, root *x509.Certificate, static bool) *fleetDevice {
	t.Helper()
	_, token := c.Device(t, name, "device")
	d := &fleetDevice{name: name}
	if static {
		d.roots = []*x509.Certificate{root}
		d.key = apptest.Key(t)
		c.order(t, d, agentest.Credential{User: name, Secret: token}, nil)
		return d
	}
	a, err := agent.Create(c.agentOptions(t), agent.Config{Server: c.Addresses().EST, Label: "device", Name: name})
	must(t, err)
	d.agent = a
	if _, err := a.Enrol(t.Context(), agent.First{Token: token, Roots: []*x509.Certificate{root}}); err != nil {
		t.Fatalf("enrolling %s in phase %d: %v", name, c.phase, err)
	}
	return d
}

// agentOptions have every name of localhost lead here.
func (c *turnover) agentOptions(t *testing.T) agent.Options {
	return agent.Options{Dir: filepath.Join(t.TempDir(), "agent"), Now: c.Clock.Now, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, strings.Replace(address, "g2.localhost", "127.0.0.1", 1))
	}}
}

// order is what a device does that has a root and a client and nothing else.
func (c *turnover) order(t *testing.T, d *fleetDevice, credential agentest.Credential, old *x509.Certificate) {
	t.Helper()
	if err := c.tryOrder(t, d, credential, old); err != nil {
		t.Fatalf("%s in phase %d: %v", d.name, c.phase, err)
	}
}

func (c *turnover) tryOrder(t *testing.T, d *fleetDevice, credential agentest.Credential, old *x509.Certificate) error {
	client, err := agentest.New(agentest.Config{Server: c.Addresses().EST, Label: "device", Roots: d.roots, Now: c.Clock.Now})
	must(t, err)
	session, err := client.Connect(t.Context(), credential)
	if err != nil {
		return err
	}
	defer session.Close()
	if _, err := session.CACerts(t.Context()); err != nil { // it is handed the new root, and throws it away
		return err
	}
	order, ask := agentest.Order{Key: d.key, Subject: []der.Attribute{{Type: der.OIDCommonName, Value: d.name}}}, session.Enrol
	if old != nil {
		d.key = apptest.Key(t)
		if order, err = agentest.OrderAgain(old, d.key, nil); err != nil {
			return err
		}
		ask = session.Renew
	}
	cert, err := ask(t.Context(), order)
	if err != nil {
		return err
	}
	d.pair = &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: d.key, Leaf: cert}
	return nil
}

// renewed renews the certificate of one device.
func (c *turnover) renewed(t *testing.T, d *fleetDevice) error {
	if d.agent != nil {
		_, err := d.agent.Renew(t.Context())
		return err
	}
	return c.tryOrder(t, d, agentest.Credential{Certificate: d.pair}, d.pair.Leaf)
}

func (c *turnover) renew(t *testing.T, devices ...*fleetDevice) {
	t.Helper()
	for _, d := range devices {
		if err := c.renewed(t, d); err != nil {
			t.Fatalf("renewing %s in phase %d: %v", d.name, c.phase, err)
		}
	}
}

// leaf is the certificate that a device has now.
func (c *turnover) leaf(t *testing.T, d *fleetDevice) *x509.Certificate {
	t.Helper()
	if d.agent == nil {
		return d.pair.Leaf
	}
	identity, err := d.agent.Identity()
	must(t, err)
	return identity.Certificate()
}

func (c *turnover) issuerOf(t *testing.T, d *fleetDevice) string {
	t.Helper()
	own, err := c.CA.Get(t.Context(), c.leaf(t, d).SerialNumber.Bytes())
	must(t, err)
	i, err := c.CA.IssuerByID(own.Issuer)
	must(t, err)
	return i.Name()
}

func (c *turnover) wantRoots(t *testing.T, d *fleetDevice, want int) {
	t.Helper()
	roots, err := d.agent.Roots()
	if err != nil || len(roots) != want {
		t.Errorf("%s trusts %d roots in phase %d, %v; want %d", d.name, len(roots), c.phase, err, want)
	}
}

// bundle is what is announced to devices.
func (c *turnover) bundle(t *testing.T) *agentest.Bundle {
	t.Helper()
	root := c.g1
	if c.phase == 5 {
		root = c.g2
	}
	client, err := agentest.New(agentest.Config{Server: c.Addresses().EST, Label: "device", Roots: []*x509.Certificate{root}, Now: c.Clock.Now})
	must(t, err)
	session, err := client.Connect(t.Context(), agentest.Credential{})
	must(t, err)
	defer session.Close()
	b, err := session.CACerts(t.Context())
	must(t, err)
	return b
}
