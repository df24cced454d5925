package ca_test

import (
	"encoding/asn1"
	"encoding/hex"
	"strings"
	"testing"
	"testing/fstest"

	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/internal/core/key"
	"mooring/wire/der"
)

// hours is a sound profile of certificates that live for hours. Each test changes one thing.
const hours = `name: device
issuer: devices
subject:
  - CN: "{device.name}"
key_usage: [digitalSignature]
ext_key_usage: [clientAuth]
validity: 12h
evidence: [token, operational]
record: brief
no_rev_avail: true
`

// minutes is one for one transaction.
const minutes = `name: device
issuer: devices
subject:
  - CN: "{device.name}"
key_usage: [digitalSignature]
ext_key_usage: [clientAuth]
validity: 5m
evidence: [operational]
record: ephemeral
no_rev_avail: true
`

func TestLifeModels(t *testing.T) {
	p, err := load(hours)
	if err != nil {
		t.Fatal(err)
	}
	if p.Record != ca.Brief || !p.NoRevAvail || p.Retention >= 0 || p.Rescue != nil {
		t.Errorf("hours: got %+v", p)
	}
	if p, err = load(minutes); err != nil || p.Record != ca.Ephemeral {
		t.Errorf("minutes: %v, %+v", err, p)
	}
	if p, err = load(strings.Replace(minutes, "validity: 5m", "validity: 30s", 1)); err != nil || p.Validity != 30 {
		t.Errorf("half a minute: %v", err)
	}
	p, err = load(strings.Replace(sound, "evidence: [token]", "evidence: [token, operational]\nrescue: {max_expired: 180d, approval: once, evidence: certificate-and-token}", 1))
	if err != nil {
		t.Fatal(err)
	}
	if p.Record != ca.Full || p.RetentionText() != "1y" || *p.Rescue != (ca.Rescue{MaxExpired: 180 * 86400, Approval: ca.RescueOnce, Token: true, Validity: 7 * 86400}) {
		t.Errorf("rescue: got %q, %+v", p.RetentionText(), p.Rescue)
	}
	if p, err = load(sound + "retention: forever\n"); err != nil || p.Retention != ca.KeepForever {
		t.Errorf("kept for ever: %v", err)
	}
}

func TestLifeModelMistakes(t *testing.T) {
	device := strings.Replace(sound, "evidence: [token]", "evidence: [token, operational]", 1)
	tests := []struct{ name, base, old, new, want string }{
		{"unknown class", hours, "brief", "short", `9: "short" is not one of: full, brief, ephemeral`},
		{"noRevAvail beside a CRL", device, "crl: true", "crl: true\nno_rev_avail: true", `17: no_rev_avail: says that there is no revocation information (RFC 9608, section 3), but crl or ocsp is true: take one of them out`},
		{"brief for a month", hours, "12h", "30d", `9: record: brief is for certificates that live at most 7d: what lives longer must be kept, use full`},
		{"brief without a word on revocation", hours, "no_rev_avail: true\n", "", `9: record: a certificate that is not kept must say where its revocation is told of: add no_rev_avail: true (nowhere, RFC 9608) or crl: true`},
		{"brief with OCSP", hours, "no_rev_avail: true", "crl: true\nocsp: true", `11: ocsp: status answers are about certificates that are kept: with record brief take it out`},
		{"brief that leads nowhere", hours, "{device.name}", "{device.group}", `9: record: a certificate that is not kept must lead to its device: write {device.id} or "{device.name}" into the subject, or {device.id} into a fixed uri`},
		{"brief with retention", hours, "no_rev_avail: true", "no_rev_avail: true\nretention: 30d", `11: retention: is about certificates that are kept, and record is brief: take it out`},
		{"brief that grants a role", hours, "no_rev_avail: true", "no_rev_avail: true\nsan: {uri: {fixed: [\"urn:mooring:role:admin\"]}}\ngrants: admin", `9: record: what a person or service did must be explained by the certificate later: with grants use full`},
		{"ephemeral with a CRL", minutes, "no_rev_avail: true", "crl: true", `10: crl: ephemeral certificates end before a list would tell of them: take it out`},
		{"ephemeral without noRevAvail", minutes, "no_rev_avail: true\n", "", `9: record: ephemeral certificates need no_rev_avail: true (RFC 9608): nobody will tell about their revocation`},
		{"ephemeral for a day", minutes, "5m", "24h", `9: record: ephemeral is for certificates that live at most 1h: what lives longer must be kept, use full`},
		{"ephemeral by token", minutes, "[operational]", "[token, operational]", `8: evidence: a token is spent in the registry, which ephemeral certificates leave alone: use [operational], [birth] or both`},
		{"ephemeral with approval", minutes, "no_rev_avail: true", "no_rev_avail: true\napproval: required", `11: approval: nobody can approve what lives for minutes: take it out`},
		{"ephemeral with rescue", minutes, "no_rev_avail: true", "no_rev_avail: true\nrescue: {max_expired: 1d}", `11: rescue: ephemeral certificates are not renewed: take it out`},
		{"ephemeral for three seconds", minutes, "5m", "3s", `7: validity: is less than ten seconds: it would be over before it arrives`},
		{"rescue of a server", device, "ext_key_usage: [clientAuth]", "ext_key_usage: [clientAuth, serverAuth]\nrescue: {max_expired: 1d}", `12: rescue: is for devices: with other uses than clientAuth in ext_key_usage, such as serverAuth, whoever expired enrols again with a token`},
		{"rescue of a person", device, "fixed: [\"urn:mooring:device:{device.id}\"]\n", "fixed: [\"urn:mooring:role:operator\"]\ngrants: operator\nrescue: {max_expired: 1d}\n", `10: rescue: is for devices; people and services who expired enrol again with a token`},
		{"rescue of what lives for ever", device, "validity: 90d\nrenew_before: 30d", "validity: forever\nrescue: {max_expired: 1d}", `13: rescue: certificates of this profile never expire: take it out`},
		{"rescue without renewal", sound, "crl: true", "rescue: {max_expired: 1d}", `16: rescue: is a renewal: add operational to evidence`},
		{"rescue without an end", device, "crl: true", "rescue: {approval: once}", `16: rescue: needs max_expired between 1m and 3y: how long after its end a certificate is still forgiven`},
		{"rescue of what is deleted", device, "crl: true", "retention: 30d\nrescue: {max_expired: 180d}", `16: retention: is shorter than max_expired of rescue: what would be rescued would be deleted before`},
		{"rescue for a year", device, "crl: true", "rescue: {max_expired: 1d, validity: 60d}", `16: rescue: validity must lie between 1m and that of the profile, at most 30d: who was rescued is to renew in the ordinary way soon`},
		{"rescue by anybody", device, "crl: true", "rescue: {max_expired: 1d, evidence: token}", `16: "token" is not one of: certificate, certificate-and-token`},
		{"unknown key of rescue", device, "crl: true", "rescue: {max_expird: 1d}", `16: unknown key "max_expird" (did you mean "max_expired"?)`},
		{"retention without a unit", device, "crl: true", "retention: 30", `16: "30" is not a time: use a whole number and s, m, h, d, w or y, such as 90d`},
		{"for itself", device, "crl: true", "also_for: [device]", `16: also_for: the profile is for its own devices anyway: take device out`},
		{"for nobody", device, "crl: true", "also_for: [pump]", `16: also_for: there is no profile "pump"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if !strings.Contains(tt.base, tt.old) {
				t.Fatalf("the base does not contain %q", tt.old)
			}
			_, err := load(strings.Replace(tt.base, tt.old, tt.new, 1))
			if !errs.Is(err, errs.Invalid) {
				t.Fatalf("got %v, want kind invalid", err)
			}
			if first, _, _ := strings.Cut(errs.Public(err), "\n"); first != "profiles/device.yaml:"+tt.want {
				t.Errorf("got  %s\nwant profiles/device.yaml:%s", first, tt.want)
			}
		})
	}
}

func TestAlsoForAnotherSlot(t *testing.T) {
	other := strings.Replace(strings.Replace(sound, "name: device\n", "name: second\nalso_for: [device]\n", 1), "crl: true", "", 1)
	_, err := ca.LoadProfiles(fstest.MapFS{"device.yaml": {Data: []byte(sound)}, "second.yaml": {Data: []byte(other)}})
	want := `profiles/second.yaml:2: also_for: certificates of "device" have the same slot operational, and one would replace the other: use another slot`
	if errs.Public(err) != want {
		t.Errorf("got  %s\nwant %s", errs.Public(err), want)
	}
	other = strings.Replace(other, "slot: operational", "slot: second", 1)
	if _, err := ca.LoadProfiles(fstest.MapFS{"device.yaml": {Data: []byte(sound)}, "second.yaml": {Data: []byte(other)}}); err != nil {
		t.Error(err)
	}
}

// TestClassInTheSerialNumber: one look at a serial number tells what is kept.
func TestClassInTheSerialNumber(t *testing.T) {
	f := newFixture(t)
	f.hierarchy(t)
	for profile, want := range map[string]struct {
		class  byte
		record ca.Record
	}{"device": {0x41, ca.Full}, "birth": {0x42, ca.Full}, "device-short": {0x44, ca.Brief}, "transaction": {0x45, ca.Ephemeral}} {
		c := issue(t, f.Authority, f.order(t, profile, request(t, newKey(t, key.P256), der.RequestSpec{})))
		cell, day, err := ca.Locate(c.Serial[:])
		if c.Serial[0] != want.class || ca.KeptAs(c.Serial[:]) != want.record || err != nil || cell != c.Cell || day != c.Day {
			t.Errorf("%s: serial number %x is %s, lies in %d/%d (%v)", profile, c.Serial, ca.KeptAs(c.Serial[:]), cell, day, err)
		}
		noRevAvail := strings.Contains(hex.EncodeToString(c.DER), "30090603551d3804020500") // not critical
		if noRevAvail != (want.record != ca.Full) {
			t.Errorf("%s: noRevAvail is %v", profile, noRevAvail)
		}
	}
}

// TestNoRevAvail has another implementation read the extension (RFC 9608, section 2): once, not critical, NULL.
func TestNoRevAvail(t *testing.T) {
	f := newFixture(t)
	f.hierarchy(t)
	cert := parse(t, issue(t, f.Authority, f.order(t, "transaction", request(t, newKey(t, key.P256), der.RequestSpec{}))).DER)
	found := 0
	for _, e := range cert.Extensions {
		if e.Id.String() != "2.5.29.56" {
			continue
		}
		if found++; e.Critical || string(e.Value) != string(asn1.NullBytes) {
			t.Errorf("critical %v, value %x", e.Critical, e.Value)
		}
	}
	if found != 1 || len(cert.CRLDistributionPoints)+len(cert.OCSPServer) > 0 {
		t.Errorf("%d extensions, CRL %v, OCSP %v", found, cert.CRLDistributionPoints, cert.OCSPServer)
	}
}
