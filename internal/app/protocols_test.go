package app_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"mooring/agent"
	agentacme "mooring/agent/acme"
	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/base/port"
	"mooring/internal/core/device"
	"mooring/wire/acme"
	"mooring/wire/der"
)

// TestFiveProtocols enrols one device by each protocol: it is one identity with five certificates, one trail in the record, and one policy, by which the same
// forbidden request is refused by all five in the words of each.
func TestFiveProtocols(t *testing.T) {
	profile := apptest.Variant("gateway", "anything", "keys: [ec-p256, rsa-2048]", "evidence: [token, operational, account]", "acme: trust-account", "scep: {ra: scep-ra}")
	p := apptest.Start(t, func(c *conf.Config) {
		c.Listen.COAPS, c.Listen.CMP, c.Listen.SCEP = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
		c.Listen.ACME = freeAddress(t)
		c.PublicURLs.ACME = "https://" + c.Listen.ACME
	}, profile)
	const allowed, forbidden = "gw-1.example.com", "bank.example.com"
	d := p.Add(t, device.Spec{Name: "gw-1", Profile: "anything", Names: []string{"dns:" + allowed}})
	at := p.Addresses()

	// by asks for a certificate through our agent, by its token or by the certificate that it has.
	by := func(t *testing.T, server, keys string, have *tls.Certificate, names ...string) (*tls.Certificate, error) {
		t.Helper()
		o := agent.Options{Dir: filepath.Join(t.TempDir(), "agent"), Now: p.Clock.Now, Sleep: func(context.Context, time.Duration) error { return nil }}
		a, err := agent.Create(o, agent.Config{Server: server, Name: "gw-1", KeyType: der.KeyKind(keys), Names: names})
		if err != nil {
			t.Fatal(err)
		}
		first := agent.First{Roots: []*x509.Certificate{p.Root}}
		if have != nil {
			first.CertFile, first.KeyFile = asFiles(t, *have)
		} else {
			first.Token = p.Token(t, d.ID)
		}
		if _, err := a.Enrol(t.Context(), first); err != nil {
			return nil, err
		}
		identity, err := a.Identity()
		if err != nil {
			t.Fatal(err)
		}
		return identity.TLS(), nil
	}
	account := &agentacme.Client{Directory: at.ACME + "/acme/directory", Key: apptest.Key(t), Now: p.Clock.Now,
		HTTP: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: p.Pool(), ServerName: "localhost"}}}}
	byACME := func(t *testing.T, name string) (*tls.Certificate, error) {
		t.Helper()
		if account.Account() == "" {
			if err := account.Register(t.Context(), &agentacme.Binding{Name: "gw-1", Token: p.Token(t, d.ID)}); err != nil {
				t.Fatal(err)
			}
		}
		key := apptest.Key(t)
		csr := apptest.CSR(t, key, der.RequestSpec{Names: der.AltNames{DNS: []string{name}}})
		chain, err := account.Obtain(t.Context(), acme.NewOrder{Identifiers: []acme.Identifier{{Type: "dns", Value: name}}}, csr, &agentacme.HTTPSolver{})
		if err != nil {
			return nil, err
		}
		return &tls.Certificate{Certificate: chain, PrivateKey: key}, nil
	}

	var last *tls.Certificate
	serials := map[string]bool{}
	protocols := []struct {
		name, record string
		ask          func(t *testing.T, names ...string) (*tls.Certificate, error)
		refusal      string // in the protocol's words
		away         string // what is said while the CA cannot sign
	}{
		{"EST", "est", func(t *testing.T, names ...string) (*tls.Certificate, error) {
			return by(t, at.EST, "ec-p256", nil, names...)
		}, "403", "503"},
		{"EST over CoAP", "est-coaps", func(t *testing.T, names ...string) (*tls.Certificate, error) {
			return by(t, at.CoAPS, "ec-p256", last, names...)
		}, "403", "ask again in"}, // as 4.03, which our agent translates, and 5.03 with Max-Age
		{"ACME", "acme", func(t *testing.T, names ...string) (*tls.Certificate, error) {
			if len(names) > 0 {
				return byACME(t, strings.TrimPrefix(names[0], "dns:"))
			}
			return byACME(t, allowed)
		}, "rejectedIdentifier", "serverInternal"},
		{"CMP", "cmp", func(t *testing.T, names ...string) (*tls.Certificate, error) {
			return by(t, "cmp"+strings.TrimPrefix(at.CMP, "http"), "ec-p256", nil, names...)
		}, "notAuthorized", "systemUnavail"},
		{"SCEP", "scep", func(t *testing.T, names ...string) (*tls.Certificate, error) {
			return by(t, "scep"+strings.TrimPrefix(at.SCEP, "http")+"/scep/anything", "rsa-2048", nil, names...)
		}, "badRequest", "503"},
	}
	for _, c := range protocols {
		t.Run(c.name, func(t *testing.T) {
			got, err := c.ask(t)
			if err != nil {
				t.Fatal(err)
			}
			leaf, err := x509.ParseCertificate(got.Certificate[0])
			if err != nil {
				t.Fatal(err)
			}
			if leaf.Subject.CommonName != "gw-1" || len(leaf.DNSNames) != 1 || leaf.DNSNames[0] != allowed {
				t.Errorf("the certificate is of %s with the names %v", leaf.Subject, leaf.DNSNames)
			}
			// It is of use: the platform knows who connects with it.
			if r := p.Send(t, apptest.Call{Path: "/.well-known/est/simplereenroll", Body: []byte("no request")}, *got); r.StatusCode != 400 {
				t.Errorf("a request with the certificate: %s", r)
			}
			serials[leaf.SerialNumber.Text(16)] = true
			if _, err := c.ask(t, "dns:"+forbidden); err == nil || !strings.Contains(err.Error(), c.refusal) {
				t.Errorf("the name %s: got %v, want a refusal with %q", forbidden, err, c.refusal)
			}
			last = got
		})
	}
	if len(serials) != 5 {
		t.Fatalf("got %d certificates, want 5", len(serials))
	}
	p.Restart(t) // refusals that are like another one are counted, and the count is recorded every minute and at the end
	issued, refused := map[string]int{}, 0
	for _, e := range p.Record(t) {
		switch {
		case e.Device != d.ID.String():
		case e.Action == "cert.issue":
			issued[e.Detail["protocol"]]++
		case e.Refused != "":
			more, _ := strconv.Atoi(e.Detail["count"])
			refused += max(1, more)
		}
	}
	for _, protocol := range []string{"est", "est-coaps", "acme", "cmp", "scep"} {
		if issued[protocol] != 1 {
			t.Errorf("the record has %d certificates by %s, want one; all: %v", issued[protocol], protocol, issued)
		}
	}
	if refused != 5 {
		t.Errorf("the record has %d refusals, want one by each protocol", refused)
	}
	if found := p.Load(t, d.ID); found.Name != "gw-1" || len(found.Slots) != 1 {
		t.Errorf("the device is %q with %d slots, want one identity", found.Name, len(found.Slots))
	}

	issuer := p.CA.IssuerOf(last.Leaf)
	p.Stop(t) // a key that is in use stays in memory
	defer hide(t, filepath.Join(p.Config.KeyDir(), string(issuer.Key())+".key"))()
	p.Restart(t)
	at = p.Addresses()
	before := p.Load(t, d.ID).Issued
	for _, c := range protocols {
		t.Run("CA key absent: 5xx and nothing stored, "+c.name, func(t *testing.T) {
			if _, err := c.ask(t); err == nil || !strings.Contains(err.Error(), c.away) {
				t.Errorf("got %v, want %s", err, c.away)
			}
			if now := p.Load(t, d.ID); now.Issued != before {
				t.Errorf("%d certificates were issued", now.Issued-before)
			}
		})
	}
}

// freeAddress is an address that nobody listens at.
func freeAddress(t *testing.T) string {
	t.Helper()
	ports, err := port.Free(1)
	if err != nil {
		t.Fatal(err)
	}
	return ports[0].String()
}

// asFiles writes a credential as files.
func asFiles(t *testing.T, pair tls.Certificate) (cert, key string) {
	t.Helper()
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	var text []byte
	for _, raw := range pair.Certificate {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})...)
	}
	private, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err == nil {
		err = errors.Join(os.WriteFile(cert, text, 0o600), os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}
