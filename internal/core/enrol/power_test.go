package enrol_test

import (
	"bytes"
	"crypto/tls"
	"net/netip"
	"strings"
	"testing"

	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/device"
	"mooring/internal/core/enrol"
	"mooring/internal/core/revoke"
	"mooring/wire/der"
)

// operator is an actor who runs the fleet and may give no roles.
func operator() access.Actor {
	return access.Actor{Kind: access.KindOperator, ID: "1", Role: access.RoleOperator, Via: "api"}
}

// role returns what the holder of cert may do on the API.
func role(t *testing.T, p *apptest.Platform, cert tls.Certificate) access.Role {
	t.Helper()
	id, err := p.Enrol.Authenticate(t.Context(), cert.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	return id.Actor("api").Role
}

// TestRoleEndsWithTheProfile has an administrator become an auditor: the old certificate still stands in the slot, and its role must not.
func TestRoleEndsWithTheProfile(t *testing.T) {
	p := apptest.Start(t, nil)
	d, cert := p.Enrolled(t, "ann", "operator-admin")
	if got := role(t, p, cert); got != access.RoleAdmin {
		t.Fatalf("before: the role %q, want admin", got)
	}
	auditor := "auditor"
	if _, err := p.Devices.Change(t.Context(), apptest.Operator(), d.ID, device.Change{Profile: &auditor}); err != nil {
		t.Fatal(err)
	}
	if got := role(t, p, cert); got != access.RoleNone {
		t.Errorf("registered as an auditor, with an administrator's certificate: the role %q, want none", got)
	}
	key := apptest.Key(t)
	c := submit(t, p, byCert(enrol.Enrol, cert, apptest.CSR(t, key, der.RequestSpec{})))
	if got := role(t, p, p.Pair(t, key, c.DER)); got != access.RoleAuditor {
		t.Errorf("with the new certificate: the role %q, want auditor", got)
	}
	if got := role(t, p, cert); got != access.RoleNone {
		t.Errorf("with the certificate beside the new one: the role %q, want none", got)
	}
}

// TestOperatorsGiveNoPowerBack tries the ways around access.grant: lifting the hold of one certificate of somebody who was suspended, and
// approving the request of somebody whose profile grants a role.
func TestOperatorsGiveNoPowerBack(t *testing.T) {
	p := apptest.Start(t, nil, apptest.Variant("operator-admin", "careful-admin", "approval: required"))
	d, cert := p.Enrolled(t, "bob", "operator-admin")
	if _, err := p.Revoke.Device(t.Context(), apptest.Operator(), d.ID, device.Suspend, revoke.Unspecified); err != nil {
		t.Fatal(err)
	}
	held := p.Load(t, d.ID)
	slot, _ := held.Slot("operational")
	if _, err := p.Revoke.Release(t.Context(), operator(), slot.Serial); !errs.Is(err, errs.Denied) {
		t.Errorf("an operator lifts the hold of an administrator: got %v, want a refusal", err)
	}
	if _, err := p.Revoke.Release(t.Context(), apptest.Operator(), slot.Serial); !errs.Is(err, errs.Conflict) {
		t.Errorf("an administrator lifts a hold that is part of a suspension: got %v, want Conflict", err)
	}
	if _, err := p.Enrol.Authenticate(t.Context(), cert.Certificate); !errs.Is(err, errs.Denied) {
		t.Errorf("suspended: got %v, want a refusal", err)
	}
	_, token := p.Device(t, "eve", "careful-admin")
	wait(t, p, byToken("eve", token, apptest.CSR(t, apptest.Key(t), der.RequestSpec{})))
	if _, err := p.Enrol.Decide(t.Context(), operator(), "eve", "", true); !errs.Is(err, errs.Denied) {
		t.Errorf("an operator approves an administrator: got %v, want a refusal", err)
	}
	if _, err := p.Enrol.Decide(t.Context(), operator(), "eve", "", false); err != nil {
		t.Errorf("an operator refuses an administrator: %v", err)
	}
}

// TestRevokingTheNewestClosesTheSlot has a thief with the key of the present certificate renew. The operator revokes what the thief got; the
// stolen certificate, which stays good beside it for answers that are lost, must not lead to another one.
func TestRevokingTheNewestClosesTheSlot(t *testing.T) {
	p := apptest.Start(t, nil)
	d, stolen := p.Enrolled(t, "meter-1", "device")
	thief := apptest.Key(t)
	c := submit(t, p, byCert(enrol.Renew, stolen, again(t, stolen, thief)))
	if _, err := p.Revoke.Certificate(t.Context(), apptest.Operator(), c.Serial[:], revoke.KeyCompromise); err != nil {
		t.Fatal(err)
	}
	const text = "the device's newest certificate is revoked, which ends the one before it too; ask the device's operator for a new token"
	wantRefusal(t, p, byCert(enrol.Renew, stolen, again(t, stolen, apptest.Key(t))), errs.Denied, text)
	wantRefusal(t, p, byCert(enrol.Enrol, stolen, again(t, stolen, apptest.Key(t))), errs.Denied, text)
	key := apptest.Key(t)
	fresh := submit(t, p, byToken("meter-1", p.Token(t, d.ID), apptest.CSR(t, key, der.RequestSpec{})))
	submit(t, p, byCert(enrol.Renew, p.Pair(t, key, fresh.DER), again(t, stolen, apptest.Key(t))))
}

// TestApprovalHoldsForWhatWasSeen tries to get other names under an approval than those that were shown, by moving octets between the type
// and the value of a requested extension: 30 is the tag of a SEQUENCE and the digit 0.
func TestApprovalHoldsForWhatWasSeen(t *testing.T) {
	profile := apptest.Variant("device", "approved", "approval: required", "challenge: ignore",
		"san: {uri: {fixed: [\"urn:mooring:device:{device.id}\"]}, dns: {request: [\"*.example\"], max: 1}}")
	p := apptest.Start(t, nil, apptest.Profile{Name: "approved", YAML: withoutSAN(profile.YAML)})
	_, token := p.Device(t, "meter-1", "approved")
	key := apptest.Key(t)
	san, err := der.NewAltNames(der.AltNames{DNS: []string{"bank.example"}}, false)
	if err != nil {
		t.Fatal(err)
	}
	harmless := der.Extension{OID: san.OID + "0", Value: san.Value[1:]}
	ask := func(e der.Extension) enrol.Request {
		return byToken("meter-1", token, apptest.CSR(t, key, der.RequestSpec{ChallengePassword: "x", Extensions: []der.Extension{e}}))
	}
	wait(t, p, ask(harmless))
	if d := decide(t, p, "meter-1", true); d.Names != "" {
		t.Fatalf("the request shows the names %q", d.Names)
	}
	a, err := p.Enrol.Submit(t.Context(), ask(san))
	if err != nil || a.Certificate != nil {
		t.Errorf("the approval of a request without names gave a certificate with them: %v", err)
	}
}

// TestDecisionIsAboutTheRequestThatWasSeen has whoever knows the token put another key in place while the operator looks.
func TestDecisionIsAboutTheRequestThatWasSeen(t *testing.T) {
	p := apptest.Start(t, nil, approved())
	_, token := p.Device(t, "meter-1", "approved")
	own := byToken("meter-1", token, apptest.CSR(t, apptest.Key(t), der.RequestSpec{}))
	wait(t, p, own)
	list, err := p.Enrol.Waiting(t.Context(), apptest.Operator(), 10)
	if err != nil || len(list) != 1 {
		t.Fatalf("got %+v, %v, want the request", list, err)
	}
	seen := list[0].ID()
	wait(t, p, byToken("meter-1", token, apptest.CSR(t, apptest.Key(t), der.RequestSpec{})))
	if _, err := p.Enrol.Decide(t.Context(), operator(), "meter-1", seen, true); !errs.Is(err, errs.Conflict) {
		t.Errorf("approving what was seen while another request waits: got %v, want a conflict", err)
	}
	wait(t, p, own)
	if _, err := p.Enrol.Decide(t.Context(), operator(), "meter-1", seen, true); err != nil {
		t.Errorf("approving what was seen: %v", err)
	}
	submit(t, p, own)
}

// TestPatternsDoNotCoverThePlatform has a device choose the name of the listeners, which a pattern of its profile permits.
func TestPatternsDoNotCoverThePlatform(t *testing.T) {
	profile := apptest.Variant("device", "open", "san: {dns: {request: [\"*\", \"*.example.com\", \"*.*.example.com\"], max: 2, wildcard: true}, ip: {request: [\"0.0.0.0/0\"], max: 2}}")
	p := apptest.Start(t, func(c *conf.Config) { c.Names = append(c.Names, "pki.example.com") }, apptest.Profile{Name: "open", YAML: withoutSAN(profile.YAML)})
	_, token := p.Device(t, "meter-1", "open")
	ask := func(n der.AltNames) enrol.Request {
		return byToken("meter-1", token, apptest.CSR(t, apptest.Key(t), der.RequestSpec{Names: n}))
	}
	wantDenied := func(n der.AltNames) {
		t.Helper()
		if _, err := p.Enrol.Submit(t.Context(), ask(n)); !errs.Is(err, errs.Denied) {
			t.Errorf("asking for %v: got %v, want a refusal", n, err)
		}
	}
	wantDenied(der.AltNames{DNS: []string{"LOCALHOST"}})
	wantDenied(der.AltNames{DNS: []string{"meter", "localhost"}})
	wantDenied(der.AltNames{DNS: []string{"pki.example.com"}})
	wantDenied(der.AltNames{DNS: []string{"*.Example.com"}}) // stands for pki.example.com too
	wantDenied(der.AltNames{IP: []netip.Addr{netip.MustParseAddr("127.0.0.1")}})
	submit(t, p, ask(der.AltNames{DNS: []string{"meter", "*.pki.example.com"}, IP: []netip.Addr{netip.MustParseAddr("127.0.0.2")}}))
}

// TestTemplatesDoNotSpellThePlatform has profiles put the name of the listeners together of what the registry says about a device, which nobody
// needed access.grant to register.
func TestTemplatesDoNotSpellThePlatform(t *testing.T) {
	variant := func(name string, lines ...string) apptest.Profile {
		return apptest.Profile{Name: name, YAML: withoutSAN(apptest.Variant("device", name, lines...).YAML)}
	}
	called := apptest.Profile{Name: "called", YAML: strings.Replace(apptest.Variant("device", "called").YAML, `CN: "{device.name}"`, `CN: "{device.name}.example.com"`, 1)}
	labelled := apptest.Profile{Name: "labelled", YAML: strings.Replace(apptest.Variant("device", "labelled").YAML, `CN: "{device.name}"`, `CN: "{device.tag.host}"`, 1)}
	p := apptest.Start(t, func(c *conf.Config) { c.Names = append(c.Names, "pki.example.com") },
		variant("spelt", `san: {dns: {fixed: ["{device.name}.example.com"]}}`),
		variant("tagged", `san: {dns: {fixed: ["{device.tag.host}.example.com"]}}`),
		variant("literal", `san: {ip: {fixed: ["127.0.0.1"]}}`), called, labelled)
	for name, c := range map[string]struct {
		device.Spec
		refused bool
	}{
		"the name":          {device.Spec{Name: "pki", Profile: "spelt"}, true},
		"the name, as CN":   {device.Spec{Name: "Pki", Profile: "called"}, true},
		"a tag":             {device.Spec{Name: "meter-1", Profile: "tagged", Tags: map[string]string{"host": "PKI"}}, true},
		"an address":        {device.Spec{Name: "meter-2", Profile: "literal"}, true},
		"an address, as CN": {device.Spec{Name: "meter-4", Profile: "labelled", Tags: map[string]string{"host": "127.0.0.1"}}, true},
		"a full stop after": {device.Spec{Name: "meter-5", Profile: "labelled", Tags: map[string]string{"host": "pki.example.com."}}, true},
		"another address":   {device.Spec{Name: "meter-6", Profile: "labelled", Tags: map[string]string{"host": "127.0.0.2"}}, false},
		"other names":       {device.Spec{Name: "meter-3", Profile: "tagged", Tags: map[string]string{"host": "meter-3"}}, false},
		"another name":      {device.Spec{Name: "pki2", Profile: "spelt"}, false},
		"another CN":        {device.Spec{Name: "pki3", Profile: "called"}, false},
		"a registered name": {device.Spec{Name: "PKI", Profile: "spelt", Names: []string{"dns:pki.example.com"}}, false},
	} {
		d := p.Add(t, c.Spec)
		_, err := p.Enrol.Submit(t.Context(), byToken(d.Name, p.Token(t, d.ID), apptest.CSR(t, apptest.Key(t), der.RequestSpec{})))
		_, direct := p.Enrol.Direct(t.Context(), apptest.Operator(), d.ID, apptest.Key(t))
		for _, err := range []error{err, direct} {
			if (err != nil) != c.refused || c.refused && !errs.Is(err, errs.Denied) {
				t.Errorf("%s: got %v, want a refusal: %v", name, err, c.refused)
			}
		}
	}
}

// withoutSAN drops the lines that follow from the base profile's own san.
func withoutSAN(yaml string) string {
	lines := bytes.Split([]byte(yaml), []byte("\n"))
	var kept [][]byte
	for _, l := range lines {
		if !bytes.HasPrefix(l, []byte("  uri:")) && !bytes.HasPrefix(l, []byte("    fixed:")) {
			kept = append(kept, l)
		}
	}
	return string(bytes.Join(kept, []byte("\n")))
}
