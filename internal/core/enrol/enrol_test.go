package enrol_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"mooring/internal/app/apptest"
	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/enrol"
	"mooring/internal/core/key"
	"mooring/internal/core/revoke"
	"mooring/wire/der"
)

// byToken is the request of a device that has a token and nothing else.
func byToken(name, token string, csr []byte) enrol.Request {
	return enrol.Request{Protocol: "est", Op: enrol.Enrol, Basic: true, User: name, Secret: token, CSR: csr}
}

// byCert is the request of whoever proved to hold the certificate's key.
func byCert(op enrol.Op, cert tls.Certificate, csr []byte) enrol.Request {
	return enrol.Request{Protocol: "est", Op: op, Chain: cert.Certificate, CSR: csr}
}

// again is a request that repeats the names of cert for another key.
func again(t *testing.T, cert tls.Certificate, key crypto.Signer) []byte {
	t.Helper()
	names := der.AltNames{}
	for _, u := range cert.Leaf.URIs {
		names.URI = append(names.URI, u.String())
	}
	return apptest.CSR(t, key, der.RequestSpec{RawSubject: cert.Leaf.RawSubject, Names: names})
}

func submit(t *testing.T, p *apptest.Platform, r enrol.Request) *ca.Certificate {
	t.Helper()
	a, err := p.Enrol.Submit(t.Context(), r)
	if err != nil || a.Certificate == nil {
		t.Fatalf("got %v, pending %v, want a certificate", err, a.Pending)
	}
	return a.Certificate
}

// rows counts what is stored about certificates, but for the platform's own: it renews that when a test moves the clock.
func rows(t *testing.T, p *apptest.Platform) (n struct{ Certs, Slots, Requests int }) {
	t.Helper()
	err := p.DB.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		for text, into := range map[string]*int{`SELECT COUNT(*) FROM cert WHERE device NOT IN (SELECT id FROM device WHERE name = 'mooring')`: &n.Certs, `SELECT COUNT(*) FROM slot WHERE serial <> $1`: &n.Slots, `SELECT COUNT(*) FROM request`: &n.Requests} {
			var args []any
			if strings.Contains(text, "$1") {
				args = append(args, []byte{})
			}
			if _, err := tx.Get(ctx, []any{into}, text, args...); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// entries returns those of the record that match.
func entries(t *testing.T, p *apptest.Platform, match func(audit.Entry) bool) (list []audit.Entry) {
	t.Helper()
	for _, e := range p.Record(t) {
		if match(e.Entry) {
			list = append(list, e.Entry)
		}
	}
	return list
}

func issues(id device.ID) func(audit.Entry) bool {
	return func(e audit.Entry) bool { return e.Action == "cert.issue" && e.Device == id.String() }
}

// quoted is what the record leaves out of a refusal's text.
var quoted = regexp.MustCompile(`"[^"]*"`)

// wantRefusal checks that r is refused with this kind and text, that the record says so, and that nothing was stored.
func wantRefusal(t *testing.T, p *apptest.Platform, r enrol.Request, kind errs.Kind, text string) {
	t.Helper()
	before := rows(t, p)
	_, err := p.Enrol.Submit(t.Context(), r)
	if err == nil || errs.KindOf(err) != kind || errs.Public(err) != text {
		t.Errorf("got %v %q (%v), want %v %q", errs.KindOf(err), errs.Public(err), err, kind, text)
	}
	if after := rows(t, p); after != before {
		t.Errorf("the tables grew from %+v to %+v", before, after)
	}
	kept := quoted.ReplaceAllString(text, `"…"`)
	refused := func(e audit.Entry) bool { return e.Action == "enrol.refuse" && e.Refused == kept }
	if len(entries(t, p, refused)) == 0 {
		t.Error("the record does not know of the refusal")
	}
}

func TestEnrolByToken(t *testing.T) {
	p := apptest.Start(t, nil)
	d, token := p.Device(t, "meter-1", "device")
	csr := apptest.CSR(t, apptest.Key(t), der.RequestSpec{})
	c := submit(t, p, byToken("meter-1", token, csr))
	leaf, err := x509.ParseCertificate(c.DER)
	if err != nil {
		t.Fatal(err)
	}
	if leaf.Subject.CommonName != "meter-1" || len(leaf.URIs) != 1 || leaf.URIs[0].String() != "urn:mooring:device:"+d.ID.String() {
		t.Errorf("the certificate is for %q, %v", leaf.Subject, leaf.URIs)
	}
	now := p.Load(t, d.ID)
	if slot, _ := now.Slot("operational"); now.State != device.Enrolled || !bytes.Equal(slot.Serial, c.Serial[:]) || now.Token.Used == 0 {
		t.Errorf("the device stands at %+v", now)
	}
	list := entries(t, p, issues(d.ID))
	sum := sha256.Sum256(c.DER)
	if len(list) != 1 || list[0].Serial != hex.EncodeToString(c.Serial[:]) || list[0].Detail["sha256"] != hex.EncodeToString(sum[:]) || list[0].Detail["evidence"] != "token" || list[0].Detail["protocol"] != "est" {
		t.Errorf("the record says %+v", list)
	}
}

// TestRepeat has the same request come again, as from a device that did not get the answer.
func TestRepeat(t *testing.T) {
	p := apptest.Start(t, nil)
	d, token := p.Device(t, "meter-1", "device")
	first := apptest.CSR(t, apptest.Key(t), der.RequestSpec{})
	c := submit(t, p, byToken("meter-1", token, first))
	if again := submit(t, p, byToken("meter-1", token, first)); again.Serial != c.Serial || !bytes.Equal(again.DER, c.DER) {
		t.Errorf("got the certificate %x, want %x as before", again.Serial, c.Serial)
	}
	if n := len(entries(t, p, issues(d.ID))); n != 1 {
		t.Errorf("the record has %d issues, want 1", n)
	}
	other := apptest.CSR(t, apptest.Key(t), der.RequestSpec{})
	wantRefusal(t, p, byToken("meter-1", token, other), errs.Denied, "this token was used already: ask for a new one")

	// A renewal that is repeated by the certificate of before.
	old := apptest.Key(t)
	_, pair := p.Enrolled(t, "meter-2", "device")
	csr := again(t, pair, old)
	renewed := submit(t, p, byCert(enrol.Renew, pair, csr))
	if repeated := submit(t, p, byCert(enrol.Renew, pair, csr)); repeated.Serial != renewed.Serial {
		t.Errorf("the repeated renewal got %x, want %x", repeated.Serial, renewed.Serial)
	}
	// Once the device has renewed again with the new one, the first one is out.
	next := p.Pair(t, old, renewed.DER)
	submit(t, p, byCert(enrol.Renew, next, again(t, next, apptest.Key(t))))
	wantRefusal(t, p, byCert(enrol.Renew, pair, again(t, pair, apptest.Key(t))), errs.Denied, "the client certificate was replaced by a newer one; use that")
}

func TestRenew(t *testing.T) {
	p := apptest.Start(t, nil, apptest.Variant("device", "fresh-key", "reuse_key: forbidden"))
	_, pair := p.Enrolled(t, "meter-1", "device")
	own := pair.PrivateKey.(crypto.Signer)
	spki := func(c *ca.Certificate) string { return hex.EncodeToString(c.SPKIHash[:]) }

	renewed := submit(t, p, byCert(enrol.Renew, pair, again(t, pair, own)))
	if spki(renewed) != spki(mustGet(t, p, pair)) || !bytes.Equal(renewed.PrevSerial, pair.Leaf.SerialNumber.Bytes()) {
		t.Errorf("renewing: key %s after %x", spki(renewed), renewed.PrevSerial)
	}
	key := apptest.Key(t)
	if rekeyed := submit(t, p, byCert(enrol.Renew, p.Pair(t, own, renewed.DER), again(t, pair, key))); spki(rekeyed) == spki(renewed) {
		t.Error("rekeying kept the key")
	}

	_, strict := p.Enrolled(t, "meter-2", "fresh-key")
	wantRefusal(t, p, byCert(enrol.Renew, strict, again(t, strict, strict.PrivateKey.(crypto.Signer))), errs.Denied, `the profile fresh-key requires a new key at every renewal`)
	submit(t, p, byCert(enrol.Renew, strict, again(t, strict, apptest.Key(t))))
}

func mustGet(t *testing.T, p *apptest.Platform, pair tls.Certificate) *ca.Certificate {
	t.Helper()
	c, err := p.CA.Get(t.Context(), pair.Leaf.SerialNumber.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestEchoedExtensions: clients of the field copy key identifiers and usages of their old certificate into the request.
func TestEchoedExtensions(t *testing.T) {
	p := apptest.Start(t, nil)
	_, token := p.Device(t, "meter-1", "device")
	csr := apptest.CSR(t, apptest.Key(t), der.RequestSpec{Extensions: []der.Extension{
		der.NewSubjectKeyID(bytes.Repeat([]byte{0xee}, 20)), der.NewAuthorityKeyID(bytes.Repeat([]byte{0xee}, 20)), der.NewExtKeyUsage(der.OIDClientAuth), der.NewKeyUsage(der.DigitalSignature),
		der.NewBasicConstraints(false, -1),
	}})
	c := submit(t, p, byToken("meter-1", token, csr))
	if bytes.Contains(c.DER, bytes.Repeat([]byte{0xee}, 20)) {
		t.Error("the certificate repeats an identifier of the request")
	}
}

func TestBirthCertificates(t *testing.T) {
	p := apptest.Start(t, nil)
	foreign := authority(t)
	key, birth := foreign.issue(t, nil)
	d := p.Add(t, device.Spec{Name: "meter-1", Profile: "device", Birth: birth.Raw})
	pair := tls.Certificate{Certificate: [][]byte{birth.Raw, foreign.cert.Raw}, PrivateKey: key, Leaf: birth}
	submit(t, p, byCert(enrol.Enrol, pair, apptest.CSR(t, apptest.Key(t), der.RequestSpec{})))
	if list := entries(t, p, issues(d.ID)); len(list) != 1 || list[0].Detail["evidence"] != "birth" {
		t.Errorf("the record says %+v", list)
	}
	wantRefusal(t, p, byCert(enrol.Renew, pair, apptest.CSR(t, apptest.Key(t), der.RequestSpec{})), errs.Denied,
		"a renewal is authenticated by the certificate that is being renewed; use enrolment for the first one")

	// A birth certificate of our own: the device changes over to the working profile.
	own, first := p.Enrolled(t, "meter-2", "birth")
	profile := "device"
	if _, err := p.Devices.Change(t.Context(), apptest.Operator(), own.ID, device.Change{Profile: &profile}); err != nil {
		t.Fatal(err)
	}
	c := submit(t, p, byCert(enrol.Enrol, first, apptest.CSR(t, apptest.Key(t), der.RequestSpec{})))
	if c.Slot != "operational" {
		t.Errorf("the certificate is in slot %q, want operational", c.Slot)
	}
	if d := p.Load(t, own.ID); len(d.Slots) != 2 {
		t.Errorf("the device has the slots %+v, want birth and operational", d.Slots)
	}
	wantRefusal(t, p, byCert(enrol.Renew, first, again(t, first, apptest.Key(t))), errs.Denied,
		"a renewal is authenticated by the certificate that is being renewed; use enrolment for the first one")
}

// TestStates goes through what an operator's moves do to enrolment.
func TestStates(t *testing.T) {
	p := apptest.Start(t, nil)
	move := func(id device.ID, m device.Move) {
		t.Helper()
		if _, err := p.Revoke.Device(t.Context(), apptest.Operator(), id, m, revoke.Unspecified); err != nil {
			t.Fatal(err)
		}
	}
	d, pair := p.Enrolled(t, "meter-1", "device")
	csr := again(t, pair, apptest.Key(t))
	move(d.ID, device.Suspend)
	wantRefusal(t, p, byCert(enrol.Renew, pair, csr), errs.Denied, "the client certificate is on hold; ask the device's operator")
	move(d.ID, device.Resume)
	submit(t, p, byCert(enrol.Renew, pair, csr))
	move(d.ID, device.Retire)
	wantRefusal(t, p, byCert(enrol.Renew, pair, csr), errs.Denied, "the client certificate is revoked; ask the device's operator for a new token")

	for _, c := range []struct {
		move device.Move
		text string
	}{
		{device.Suspend, "this device is suspended: it may not enrol; ask its operator"},
		{device.Lose, "this device is lost: it may not enrol; ask its operator"},
		{device.Retire, "this device is retired: it may not enrol; ask its operator"},
	} {
		name := "fresh-" + string(c.move)
		d, token := p.Device(t, name, "device")
		move(d.ID, c.move)
		wantRefusal(t, p, byToken(name, token, apptest.CSR(t, apptest.Key(t), der.RequestSpec{})), errs.Denied, c.text)
	}
}

func TestGenerate(t *testing.T) {
	p := apptest.Start(t, nil, apptest.Variant("device", "rsa", "server_keygen: rsa-2048"))
	for profile, want := range map[string]der.KeyKind{"device": der.ECP256, "rsa": "rsa-2048"} {
		_, token := p.Device(t, "for-"+profile, profile)
		// Key and signature of the request mean nothing.
		csr := apptest.CSR(t, apptest.Key(t), der.RequestSpec{})
		csr[len(csr)-1] ^= 1
		r := byToken("for-"+profile, token, csr)
		r.Op = enrol.Generate
		a, err := p.Enrol.Submit(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		private, err := x509.ParsePKCS8PrivateKey(a.Key)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(a.Certificate.DER)
		if err != nil {
			t.Fatal(err)
		}
		pub := private.(crypto.Signer).Public().(interface{ Equal(crypto.PublicKey) bool })
		if !pub.Equal(leaf.PublicKey) || der.KindOf(leaf.PublicKey) != want {
			t.Errorf("%s: the certificate has a key of kind %s, want the one that came with it, %s", profile, der.KindOf(leaf.PublicKey), want)
		}
		// The key is kept nowhere, so the same request cannot be answered again.
		wantRefusal(t, p, r, errs.Denied, "this token was used already: ask for a new one")
	}
	_, token := p.Device(t, "strict", "gateway")
	r := byToken("strict", token, apptest.CSR(t, apptest.Key(t), der.RequestSpec{}))
	r.Op = enrol.Generate
	wantRefusal(t, p, r, errs.Denied, `the profile gateway does not allow keys to be generated by the server`)
}

func TestDirect(t *testing.T) {
	p := apptest.Start(t, nil)
	d := p.Add(t, device.Spec{Name: "broker", Names: []string{"dns:broker.test"}, Profile: "server"})
	signer, err := key.New(key.P256)
	if err != nil {
		t.Fatal(err)
	}
	a, err := p.Enrol.Direct(t.Context(), apptest.Operator(), d.ID, signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(a.Certificate.DER)
	if err != nil || leaf.VerifyHostname("broker.test") != nil {
		t.Errorf("got %v for %v", err, leaf)
	}
	auditor := access.Actor{Kind: access.KindOperator, ID: "aa", Role: access.RoleAuditor}
	if _, err := p.Enrol.Direct(t.Context(), auditor, d.ID, signer); !errs.Is(err, errs.Denied) {
		t.Errorf("an auditor: got %v, want it denied", err)
	}
}

// TestOperatorRole: a certificate grants what its profile grants, and only to whoever holds it now.
func TestOperatorRole(t *testing.T) {
	p := apptest.Start(t, nil)
	admin := p.OperatorCert(t)
	id, err := p.Enrol.Authenticate(t.Context(), admin.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	if a := id.Actor("api"); a.Kind != access.KindOperator || a.Role != access.RoleAdmin || a.Via != "api" {
		t.Errorf("got the actor %+v, want an administrator", a)
	}
	_, pair := p.Enrolled(t, "meter-1", "device")
	if id, err = p.Enrol.Authenticate(t.Context(), pair.Certificate); err != nil {
		t.Fatal(err)
	}
	if a := id.Actor("api"); a.Kind != access.KindDevice || a.Role != access.RoleNone {
		t.Errorf("got the actor %+v, want a device without a role", a)
	}
}

// TestSecretsStayOut: neither the token nor a key made here may be logged or recorded.
func TestSecretsStayOut(t *testing.T) {
	p := apptest.Start(t, nil)
	_, token := p.Device(t, "meter-1", "device")
	csr := apptest.CSR(t, apptest.Key(t), der.RequestSpec{})
	r := byToken("meter-1", token, csr)
	submit(t, p, r)
	if _, err := p.Enrol.Submit(t.Context(), byToken("meter-2", token, csr)); err == nil {
		t.Error("another device's token was accepted")
	}
	p.Log.Logger().Info("seen", "request", r, "source", netip.Addr{})
	var all strings.Builder
	all.WriteString(p.Log.String())
	for _, e := range p.Record(t) {
		all.Write(e.Bytes())
	}
	if strings.Contains(all.String(), token) || strings.Contains(all.String(), token[:20]) {
		t.Error("the token stands in the log or the record")
	}
	if !strings.Contains(p.Log.String(), "protocol=est") && !strings.Contains(p.Log.String(), "request.protocol=est") {
		t.Error("the request was not logged, so the test shows nothing")
	}
}

// TestGivenUp: a requester that has gone gets no certificate made, and its token stays good.
func TestGivenUp(t *testing.T) {
	p := apptest.Start(t, nil)
	_, token := p.Device(t, "meter-1", "device")
	ctx, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	_, err := p.Enrol.Submit(ctx, byToken("meter-1", token, apptest.CSR(t, apptest.Key(t), der.RequestSpec{})))
	if !errs.Is(err, errs.Unavailable) {
		t.Errorf("given up: got %v, want it unavailable", err)
	}
	submit(t, p, byToken("meter-1", token, apptest.CSR(t, apptest.Key(t), der.RequestSpec{})))
}

// life is how long a certificate of the default profile lives.
const life = 90 * 24 * time.Hour

// TestKeyOfCAGone: without the CA's key nothing is issued, stored or used up, and devices are told nothing about the server's files.
func TestKeyOfCAGone(t *testing.T) {
	p := apptest.Start(t, nil)
	issuer, err := p.CA.Issuer("devices")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(p.Config.KeyDir(), string(issuer.Key())+".key")
	p.Stop(t) // a key that is in use stays in memory
	if err := os.Rename(file, file+".away"); err != nil {
		t.Fatal(err)
	}
	p.Restart(t)
	d, token := p.Device(t, "meter-1", "device")
	r := byToken("meter-1", token, apptest.CSR(t, apptest.Key(t), der.RequestSpec{}))
	before := rows(t, p)
	_, err = p.Enrol.Submit(t.Context(), r)
	if !errs.Is(err, errs.Unavailable) || errs.Public(err) != "the CA cannot sign at present: its key is not to be had; an administrator must look at the key store" {
		t.Errorf("got %v %q", err, errs.Public(err))
	}
	if rows(t, p) != before || p.Load(t, d.ID).Token.Used != 0 {
		t.Error("something was stored, or the token was used up")
	}
	if err := os.Rename(file+".away", file); err != nil {
		t.Fatal(err)
	}
	submit(t, p, r)
}
