package enrol_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"testing"
	"time"

	"mooring/internal/app/apptest"
	"mooring/internal/base/errs"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/enrol"
	"mooring/internal/core/revoke"
	"mooring/wire/der"
)

// template is a request for the key in the form of CMP, with a proof by that key.
func template(t *testing.T, key *ecdsa.PrivateKey, raw []byte, names der.AltNames) *enrol.Template {
	t.Helper()
	spki, err := der.EncodePublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	out := &enrol.Template{Subject: raw, SPKI: spki, Algorithm: der.ECDSAWithSHA256.Identifier()}
	if names.Count() > 0 {
		san, err := der.NewAltNames(names, false)
		if err != nil {
			t.Fatal(err)
		}
		out.Extensions = der.AppendElement(nil, 0x30, san.Append(nil))
	}
	out.Signed = append(append([]byte("request "), spki...), raw...)
	out.Octets = out.Signed
	if out.Signature, err = key.Sign(rand.Reader, der.ECDSAWithSHA256.Digest(out.Signed), der.ECDSAWithSHA256.Hash()); err != nil {
		t.Fatal(err)
	}
	return out
}

func is(cert []byte) func([]byte) bool {
	return func(other []byte) bool { return bytes.Equal(cert, other) }
}

func TestTemplate(t *testing.T) {
	p := apptest.Start(t, nil)
	_, token := p.Device(t, "one", "device")
	key := apptest.Key(t)
	r := enrol.Request{Protocol: "cmp", Op: enrol.Enrol, Basic: true, User: "one", Secret: token, Template: template(t, key, nil, der.AltNames{})}
	forged := r
	forged.Template = template(t, key, nil, der.AltNames{})
	forged.Template.Signature = template(t, apptest.Key(t), nil, der.AltNames{}).Signature
	bare := r
	bare.Template = &enrol.Template{Octets: []byte("x"), SPKI: r.Template.SPKI}
	for what, bad := range map[string]enrol.Request{"another key's proof": forged, "no proof": bare} {
		if _, err := p.Enrol.Submit(t.Context(), bad); !errors.Is(err, enrol.ErrPossession) || !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: got %v, want ErrPossession", what, err)
		}
	}
	empty := r
	empty.Template = &enrol.Template{Octets: []byte("x")}
	if _, err := p.Enrol.Submit(t.Context(), empty); !errs.Is(err, errs.Invalid) {
		t.Errorf("no key: got %v, want Invalid", err)
	}
	c := submit(t, p, r)
	again := r
	again.Template = template(t, key, nil, der.AltNames{}) // another signature of the same octets
	if got := submit(t, p, again); got.Serial != c.Serial {
		t.Errorf("the same request: got another certificate")
	}
}

// TestConfirm goes through what can become of a certificate that waits for its confirmation.
func TestConfirm(t *testing.T) {
	p := apptest.Start(t, nil)
	_, token := p.Device(t, "one", "device")
	first := enrol.Request{Protocol: "cmp", Op: enrol.Enrol, Basic: true, User: "one", Secret: token, Template: template(t, apptest.Key(t), nil, der.AltNames{}),
		Confirm: enrol.Awaiting{Transaction: []byte("one"), Within: time.Minute}}
	c := submit(t, p, first)
	// The answer is lost, and the request comes again in another transaction: only that one counts then.
	first.Confirm.Transaction = []byte("two")
	if again := submit(t, p, first); again.Serial != c.Serial {
		t.Fatal("the same request got another certificate")
	}
	confirm := func(r enrol.Request, transaction string, cert []byte, accept bool) error {
		r.Confirm = enrol.Awaiting{Transaction: []byte(transaction)}
		_, err := p.Enrol.Confirm(t.Context(), r, is(cert), accept)
		return err
	}
	if err := confirm(first, "two", []byte("other"), true); !errors.Is(err, enrol.ErrUnknownTransaction) {
		t.Errorf("another certificate: got %v, want ErrUnknownTransaction", err)
	}
	stranger := first
	stranger.Secret = "mt_"
	if err := confirm(stranger, "two", c.DER, true); !errors.Is(err, enrol.ErrUnauthenticated) {
		t.Errorf("a stranger: got %v, want ErrUnauthenticated", err)
	}
	for range 2 {
		if err := confirm(first, "two", c.DER, true); err != nil {
			t.Errorf("the confirmation, and once more: got %v", err)
		}
	}
	if err := confirm(first, "two", c.DER, false); !errors.Is(err, enrol.ErrConfirmed) {
		t.Errorf("a rejection after that: got %v, want ErrConfirmed", err)
	}
	if n, err := p.Enrol.Lapse(t.Context()); n != 0 || err != nil {
		t.Errorf("Lapse: got %d, %v, want nothing", n, err)
	}
	confirmed := entries(t, p, func(e audit.Entry) bool { return e.Action == "cert.confirm" })
	if len(confirmed) != 1 || confirmed[0].Serial != hex.EncodeToString(c.Serial[:]) {
		t.Errorf("the record says %+v, want one confirmation", confirmed)
	}
	if r := p.Verify(t); len(r.Findings) > 0 {
		t.Errorf("the record does not fit: %v", r.Findings)
	}
}

// renewal is a request by cert for a new key, which is to be confirmed.
func renewal(t *testing.T, cert tls.Certificate, transaction string) enrol.Request {
	t.Helper()
	return enrol.Request{Protocol: "cmp", Op: enrol.Renew, Chain: cert.Certificate,
		Template: template(t, apptest.Key(t), cert.Leaf.RawSubject, der.AltNames{URI: []string{cert.Leaf.URIs[0].String()}}),
		Confirm:  enrol.Awaiting{Transaction: []byte(transaction), Within: time.Minute}}
}

// TestUnconfirmed takes back what was not confirmed, and what was rejected. The certificate before stays good.
func TestUnconfirmed(t *testing.T) {
	p := apptest.Start(t, nil)
	_, old := p.Enrolled(t, "one", "device")
	status := func(c *ca.Certificate) revoke.Reason {
		r, revoked, err := p.Revoke.Status(t.Context(), c.Serial[:])
		if err != nil || !revoked {
			t.Errorf("status: got %v, %v, %v, want revoked", r, revoked, err)
		}
		return r.Reason
	}
	late := submit(t, p, renewal(t, old, "late"))
	if _, err := p.Enrol.Authenticate(t.Context(), old.Certificate); err != nil {
		t.Errorf("the old certificate beside one that waits: got %v", err)
	}
	p.Clock.Move(time.Minute + time.Second)
	if n, err := p.Enrol.Lapse(t.Context()); n != 0 || err != nil {
		t.Errorf("Lapse while the clock of another node may still let it be confirmed: got %d, %v", n, err)
	}
	p.Clock.Move(time.Minute)
	if n, err := p.Enrol.Lapse(t.Context()); n != 1 || err != nil {
		t.Errorf("Lapse: got %d, %v, want 1", n, err)
	}
	if reason := status(late); reason != revoke.Superseded {
		t.Errorf("revoked as %s, want superseded", reason)
	}
	if _, err := p.Enrol.Confirm(t.Context(), renewal(t, old, "late"), is(late.DER), true); !errors.Is(err, enrol.ErrUnknownTransaction) {
		t.Errorf("a confirmation that is too late: got %v, want ErrUnknownTransaction", err)
	}

	r := renewal(t, old, "rejected")
	rejected := submit(t, p, r)
	if _, err := p.Enrol.Confirm(t.Context(), r, is(rejected.DER), false); err != nil {
		t.Errorf("a rejection: got %v", err)
	}
	status(rejected)

	// A certificate does not confirm itself, and the next renewal by the old one works.
	r = renewal(t, old, "itself")
	key := apptest.Key(t)
	r.Template = template(t, key, old.Leaf.RawSubject, der.AltNames{URI: []string{old.Leaf.URIs[0].String()}})
	next := submit(t, p, r)
	itself := r
	itself.Chain = p.Pair(t, key, next.DER).Certificate
	if _, err := p.Enrol.Confirm(t.Context(), itself, is(next.DER), true); !errs.Is(err, errs.Denied) {
		t.Errorf("a confirmation by the new certificate: got %v, want Denied", err)
	}
	if _, err := p.Enrol.Confirm(t.Context(), r, is(next.DER), true); err != nil {
		t.Errorf("the confirmation: got %v", err)
	}
	p.Clock.Move(time.Hour)
	if n, err := p.Enrol.Lapse(t.Context()); n != 0 || err != nil {
		t.Errorf("Lapse of what was confirmed: got %d, %v", n, err)
	}
	if r := p.Verify(t); len(r.Findings) > 0 {
		t.Errorf("the record does not fit: %v", r.Findings)
	}
}

// TestRevokeOwn lets devices give back what they hold, and nothing else.
func TestRevokeOwn(t *testing.T) {
	p := apptest.Start(t, nil)
	d, one := p.Enrolled(t, "one", "device")
	_, two := p.Enrolled(t, "two", "device")
	by := func(c tls.Certificate) enrol.Request { return enrol.Request{Protocol: "cmp", Chain: c.Certificate} }
	serial := one.Leaf.SerialNumber.Bytes()
	for what, c := range map[string]struct {
		r      enrol.Request
		issuer []byte
		serial []byte
		reason revoke.Reason
		kind   errs.Kind
	}{
		"another device":    {by(two), nil, serial, revoke.KeyCompromise, errs.NotFound},
		"no certificate":    {by(one), nil, make([]byte, 16), revoke.Unspecified, errs.NotFound},
		"a CA":              {by(one), nil, p.CA.IssuerOf(one.Leaf).Certificate().SerialNumber.Bytes(), revoke.Unspecified, errs.NotFound},
		"another issuer":    {by(one), []byte{0x30, 0}, serial, revoke.Unspecified, errs.NotFound},
		"a hold":            {by(one), nil, serial, revoke.CertificateHold, errs.Invalid},
		"a reason for CAs":  {by(one), nil, serial, revoke.CACompromise, errs.Invalid},
		"nobody":            {enrol.Request{Protocol: "cmp"}, nil, serial, revoke.Unspecified, errs.Denied},
		"a made-up token":   {enrol.Request{Protocol: "cmp", Basic: true, User: "one", Secret: "mt_"}, nil, serial, revoke.Unspecified, errs.Denied},
		"without a device":  {enrol.Request{Protocol: "cmp", Basic: true, User: "x", Secret: "mt_"}, nil, serial, revoke.Unspecified, errs.Denied},
		"reason as no code": {by(one), nil, serial, revoke.Reason(200), errs.Invalid},
	} {
		if _, _, err := p.Enrol.RevokeOwn(t.Context(), c.r, c.issuer, c.serial, c.reason); !errs.Is(err, c.kind) {
			t.Errorf("%s: got %v, want %v", what, err, c.kind)
		}
	}
	token := p.Token(t, d.ID)
	r := enrol.Request{Protocol: "cmp", Basic: true, User: "one", Secret: token}
	result, id, err := p.Enrol.RevokeOwn(t.Context(), r, one.Leaf.RawIssuer, serial, revoke.KeyCompromise)
	if err != nil || id != d.ID.String() || result.Already || result.Reason != revoke.KeyCompromise {
		t.Errorf("by a token: got %+v, %q, %v", result, id, err)
	}
	if result, _, err = p.Enrol.RevokeOwn(t.Context(), r, nil, serial, revoke.KeyCompromise); err != nil || !result.Already {
		t.Errorf("again: got %+v, %v, want Already", result, err)
	}
	if _, _, err = p.Enrol.RevokeOwn(t.Context(), by(one), nil, serial, revoke.KeyCompromise); !errors.Is(err, enrol.ErrRevoked) {
		t.Errorf("by the revoked certificate: got %v, want ErrRevoked", err)
	}
	r.Template, r.Op = template(t, apptest.Key(t), nil, der.AltNames{}), enrol.Enrol
	after := submit(t, p, r)
	if _, _, err = p.Enrol.RevokeOwn(t.Context(), r, nil, after.Serial[:], revoke.KeyCompromise); !errors.Is(err, enrol.ErrUnauthenticated) {
		t.Errorf("by a used token: got %v, want ErrUnauthenticated", err)
	}
	if _, _, err = p.Enrol.RevokeOwn(t.Context(), by(two), nil, two.Leaf.SerialNumber.Bytes(), revoke.CessationOfOperation); err != nil {
		t.Errorf("by the certificate itself: got %v", err)
	}
	revocations := entries(t, p, func(e audit.Entry) bool {
		return e.Action == "cert.revoke" && e.Actor == "device:"+d.ID.String() && e.Refused == ""
	})
	if len(revocations) != 1 {
		t.Errorf("the record says %+v, want one revocation by the device", revocations)
	}
	if r := p.Verify(t); len(r.Findings) > 0 {
		t.Errorf("the record does not fit: %v", r.Findings)
	}
}

// TestVouch has a registration authority ask for devices.
func TestVouch(t *testing.T) {
	p := apptest.Start(t, nil, apptest.Variant("device", "field", "evidence: [ra, operational]"),
		apptest.Variant("device", "authority", "ext_key_usage: [clientAuth, cmcRA]", "approval: required", "slot: authority"))
	d := p.Add(t, device.Spec{Name: "one", Profile: "field"})
	p.Add(t, device.Spec{Name: "plain", Profile: "device"})
	boss, token := p.Device(t, "boss", "authority")
	key := apptest.Key(t)
	asked := enrol.Request{Protocol: "cmp", Op: enrol.Enrol, Basic: true, User: "boss", Secret: token, Template: template(t, key, nil, der.AltNames{})}
	if a, err := p.Enrol.Submit(t.Context(), asked); err != nil || a.Pending == 0 {
		t.Fatalf("the authority's first request: got %v, %v, want that somebody must approve", a.Pending, err)
	}
	if _, err := p.Enrol.Decide(t.Context(), apptest.Operator(), "boss", "", true); err != nil {
		t.Fatal(err)
	}
	pair := p.Pair(t, key, submit(t, p, asked).DER)
	_, other := p.Enrolled(t, "other", "device")
	vouched := func(cert tls.Certificate, name string) enrol.Request {
		r := enrol.Request{Protocol: "cmp", Op: enrol.Enrol, Template: template(t, apptest.Key(t), nil, der.AltNames{}),
			Vouch: &enrol.Vouch{Chain: cert.Certificate, Device: name, Possession: true}}
		r.Template.Algorithm, r.Template.Signature = nil, nil
		return r
	}
	c := submit(t, p, vouched(pair, "one"))
	list := entries(t, p, issues(d.ID))
	if len(list) != 1 || list[0].Detail["evidence"] != "ra" || list[0].Detail["authority"] != boss.ID.String() || c.Device != d.ID {
		t.Errorf("the record says %+v", list)
	}
	wantRefusal(t, p, vouched(pair, "plain"), errs.Denied, "the profile device does not accept authentication by ra: its evidence must list that")
	wantRefusal(t, p, vouched(pair, "nobody"), errs.Denied, `the device "nobody" that the registration authority names is not registered`)
	wantRefusal(t, p, vouched(other, "one"), errs.Denied, "only a registration authority may do this: its certificate is issued here and has the extended key usage cmcRA, as has its profile")
	unproven := vouched(pair, "one")
	unproven.Vouch.Possession = false
	if _, err := p.Enrol.Submit(t.Context(), unproven); !errors.Is(err, enrol.ErrPossession) {
		t.Errorf("without its word about the key: got %v, want ErrPossession", err)
	}
	forged := vouched(pair, "one")
	forged.Template.Algorithm, forged.Template.Signature = der.ECDSAWithSHA256.Identifier(), []byte{1}
	if _, err := p.Enrol.Submit(t.Context(), forged); !errors.Is(err, enrol.ErrPossession) {
		t.Errorf("with a wrong proof: got %v, want ErrPossession", err)
	}
}
