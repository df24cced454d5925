package est_test

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"math/big"
	"regexp"
	"strings"
	"testing"
	"time"

	"crypto/ecdsa"
	"crypto/rand"

	"mooring/internal/app/apptest"
	"mooring/wire/der"
	"mooring/wire/est"
)

const day = 24 * time.Hour

// selfSigned is a certificate that nobody knows.
func selfSigned(t *testing.T, key *ecdsa.PrivateKey) tls.Certificate {
	t.Helper()
	c := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "stranger"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature}
	raw, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}
}

func unique(t *testing.T, c *apptest.Conn) string {
	t.Helper()
	state := c.ConnectionState()
	if len(state.TLSUnique) != 12 {
		t.Fatalf("tls-unique has %d octets, want 12", len(state.TLSUnique))
	}
	return base64.StdEncoding.EncodeToString(state.TLSUnique)
}

func exporter(t *testing.T, c *apptest.Conn) string {
	t.Helper()
	state := c.ConnectionState()
	value, err := state.ExportKeyingMaterial(est.ExporterLabel, nil, est.ExporterLength)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(value)
}

// TestChannelBinding: RFC 7030, section 3.5, and RFC 9266. A request is bound to the connection that carries it, and to no other.
func TestChannelBinding(t *testing.T) {
	p := apptest.Start(t, nil, apptest.Variant("device", "linked", "linking: required"), apptest.Variant("device", "lax", "challenge: ignore"))
	const refused = "the challengePassword is not the channel binding of this connection; make the request anew on each connection\n"
	const printable, utf8 = 0x13, 0x0c
	for _, c := range []struct {
		name    string
		version uint16
		value   func(*testing.T, *apptest.Conn) string
	}{
		{"TLS 1.2 tls-unique", tls.VersionTLS12, unique},
		{"TLS 1.2 exporter", tls.VersionTLS12, exporter},
		{"TLS 1.3 exporter", tls.VersionTLS13, exporter},
	} {
		config := func() *tls.Config {
			conf := p.TLS(nil)
			conf.MaxVersion, conf.ClientSessionCache = c.version, tls.NewLRUClientSessionCache(1)
			return conf
		}
		send := func(t *testing.T, conn *apptest.Conn, profile string, tag byte, challenge string) apptest.Reply {
			f := &fresh{p: p, profile: profile, n: time.Now().Nanosecond()}
			call := f.call(t, enroll)
			value := der.AppendElement(nil, tag, []byte(challenge))
			call.Body = apptest.Body(apptest.CSR(t, apptest.Key(t), der.RequestSpec{Attributes: []der.RequestAttribute{{Type: der.OIDChallengePassword, Values: [][]byte{value}}}}))
			return conn.Send(t, call)
		}
		t.Run(c.name, func(t *testing.T) {
			session := config()
			conn := p.Dial(t, session)
			t.Run("challengePassword right, PrintableString", func(t *testing.T) {
				send(t, conn, "linked", printable, c.value(t, conn)).Certificate(t)
			})
			t.Run("challengePassword right, UTF8String", func(t *testing.T) {
				send(t, conn, "device", utf8, c.value(t, conn)).Certificate(t)
			})
			t.Run("challengePassword wrong", func(t *testing.T) {
				want(t, send(t, conn, "device", printable, base64.StdEncoding.EncodeToString(make([]byte, 32))), 400, refused)
				want(t, send(t, conn, "device", printable, "letmein"), 400, refused)
				wantTrace(t, p, strings.TrimSuffix(refused, "\n"))
				send(t, conn, "lax", printable, "letmein").Certificate(t)
			})
			t.Run("challengePassword from another connection", func(t *testing.T) {
				another := p.Dial(t, config())
				want(t, send(t, conn, "device", printable, c.value(t, another)), 400, refused)
			})
			t.Run("challengePassword on a resumed session", func(t *testing.T) {
				resumed := p.Dial(t, session)
				send(t, resumed, "linked", printable, c.value(t, resumed)).Certificate(t)
				if !resumed.ConnectionState().DidResume {
					t.Error("the session was not resumed, so this shows nothing")
				}
				want(t, send(t, resumed, "device", printable, c.value(t, conn)), 400, refused)
			})
		})
	}
	t.Run("linking required, no challengePassword", func(t *testing.T) {
		f := &fresh{p: p, profile: "linked"}
		want(t, p.Send(t, f.call(t, enroll)), 400, "the profile linked requires a challengePassword with the connection's channel binding\n")
	})
}

// TestCSRAttributes reads back what is announced for every profile.
func TestCSRAttributes(t *testing.T) {
	fixed := apptest.Variant("device", "fixed")
	fixed.YAML = regexp.MustCompile(`(?m)^subject:.*$`).ReplaceAllString(fixed.YAML, "subject:\n  - O: Acme")
	p := apptest.Start(t, nil, apptest.Variant("device", "linked", "linking: required"), apptest.Variant("device", "rsa", "keys: [rsa-3072]", "server_keygen: rsa-3072"),
		apptest.Variant("device", "edwards", "keys: [ed25519]", "server_keygen: ed25519"), apptest.Variant("device", "p384", "keys: [ec-p384]", "server_keygen: ec-p384"), fixed)
	kinds := map[string]string{"rsa": est.OIDRSAEncryption.String(), "scep-ra": est.OIDRSAEncryption.String(), "edwards": "1.3.101.112"}
	for _, profile := range p.Profiles.All() {
		t.Run("RFC 9908 template with fixed and blank RDNs, template and legacy together: "+profile.Name, func(t *testing.T) {
			r := p.Send(t, apptest.Call{Path: root + profile.Name + "/csrattrs"})
			wantFraming(t, r)
			wantLines(t, r.Text, false)
			if r.StatusCode != 200 || r.Header.Get("Content-Type") != "application/csrattrs" || r.Header.Get("Content-Transfer-Encoding") != "base64" {
				t.Fatalf("%s: got %d, %q, %q", profile.Name, r.StatusCode, r.Header.Get("Content-Type"), r.Header.Get("Content-Transfer-Encoding"))
			}
			attributes, err := est.ParseCSRAttrs(mustDecode(t, r.Text))
			if err != nil {
				t.Fatalf("%s: %v", profile.Name, err)
			}
			linking, key := false, ""
			for _, item := range attributes.Items {
				linking = linking || item.OID.Equal(est.OIDChallengePassword)
				if item.IsAttribute || item.OID.String() == "1.3.101.112" {
					key = item.OID.String()
				}
			}
			if linking != profile.Linking {
				t.Errorf("%s: the challengePassword is asked for: %v, want %v", profile.Name, linking, profile.Linking)
			}
			wanted := kinds[profile.Name]
			if wanted == "" {
				wanted = est.OIDECPublicKey.String()
			}
			if key != wanted {
				t.Errorf("%s: a key of the kind %s is asked for, want %s", profile.Name, key, wanted)
			}
			if attributes.Template == nil || attributes.Template.Key == nil || len(attributes.Template.Subject) != len(profile.SubjectParts()) || len(attributes.Items) == 0 {
				t.Fatalf("the template is %+v beside %d items", attributes.Template, len(attributes.Items))
			}
			for i, part := range profile.SubjectParts() {
				if got := attributes.Template.Subject[i]; len(got) != 1 || (len(got[0].Value) == 0) != (part.Fixed == "") {
					t.Errorf("the part %+v of the subject is announced as %+v", part, got)
				}
			}
		})
	}
	t.Run("linking required advertises the OID", func(t *testing.T) {
		for label, want := range map[string]bool{"linked": true, "device": false} {
			attributes, err := est.ParseCSRAttrs(mustDecode(t, p.Send(t, apptest.Call{Path: root + label + "/csrattrs"}).Text))
			if err != nil || attributes.Wants(est.OIDChallengePassword) != want {
				t.Errorf("%s: %v, %v, want %v", label, attributes.Wants(est.OIDChallengePassword), err, want)
			}
		}
	})
	byDefault, named := p.Send(t, apptest.Call{Path: root + "csrattrs"}), p.Send(t, apptest.Call{Path: root + "device/csrattrs"})
	if string(byDefault.Text) != string(named.Text) {
		t.Error("without a label other attributes are announced than for the profile device")
	}
}
