package ca

import (
	"fmt"
	"math"
	"slices"

	"github.com/goccy/go-yaml/ast"

	"mooring/internal/core/access"
	"mooring/wire/der"
)

// Record says what is kept of each certificate of a profile. It never says whether something is: in every class an audit entry is durable
// before the certificate leaves.
type Record string

// The recording classes.
const (
	Full      Record = "full"      // the certificate itself, the device's slot, an entry: for lifetimes of days and more
	Brief     Record = "brief"     // the device's slot and an entry with serial number, key, validity and profile: for hours
	Ephemeral Record = "ephemeral" // the certificate's digest in an entry that many share: for minutes, one transaction
)

// The longest validity of certificates that are not kept.
const (
	MaxBrief     = 7 * 86400
	maxEphemeral = 3600
)

// KeepForever is the retention of certificates that are never deleted.
const KeepForever = math.MaxInt64

const (
	defaultRetention = 365 * 86400
	// keptLong is how long after its issue the row of an ordinary certificate may have to stay. What must stay longer is kept apart, since
	// ordinary rows leave a month at a time.
	keptLong = 4 * 365 * 86400
)

// Rescue says how a device may renew by a certificate that has expired. Only its end is forgiven.
type Rescue struct {
	MaxExpired int64          // seconds after its end; also how often: once in this time
	Approval   RescueApproval // who must agree
	Token      bool           // a one-time token of the device is needed besides
	Validity   int64          // of the certificate that it gets, seconds: short, so that it soon renews in the ordinary way
}

// RescueApproval says how many people must agree to a rescue.
type RescueApproval string

// The kinds of approval.
const (
	RescueFreely   RescueApproval = "none"
	RescueOnce     RescueApproval = "once"
	RescueFourEyes RescueApproval = "four-eyes"
)

const (
	maxRescue           = 3 * 365 * 86400
	maxRescuedValidity  = 30 * 86400
	defaultRescuedShort = 7 * 86400
)

// life is what a file says about the life model before the defaults are filled in.
type life struct {
	record, approval, evidence string
	rescue                     bool
}

// lifeFields reads the fields of the life model.
func (d *document) lifeFields(p *Profile, l *life) fields {
	return fields{
		"record":       d.choice(string(Full), string(Brief), string(Ephemeral))(&l.record),
		"no_rev_avail": d.boolInto(&p.NoRevAvail),
		"retention":    d.parsed(p.setRetention),
		"also_for":     d.texts(p.addAlsoFor),
		"rescue": func(n ast.Node) {
			l.rescue = true
			p.Rescue = &Rescue{}
			d.mapping(n, fields{
				"max_expired": d.parsed(func(s string) (err error) { p.Rescue.MaxExpired, err = seconds(s); return err }),
				"approval":    d.choice(string(RescueFreely), string(RescueOnce), string(RescueFourEyes))(&l.approval),
				"evidence":    d.choice("certificate", "certificate-and-token")(&l.evidence),
				"validity":    d.parsed(func(s string) (err error) { p.Rescue.Validity, err = seconds(s); return err }),
			}, nil)
		},
	}
}

func (p *Profile) setRetention(s string) (err error) {
	if s == "forever" {
		p.Retention = KeepForever
		return nil
	}
	p.Retention, err = seconds(s)
	return err
}

func (p *Profile) addAlsoFor(s string) error {
	if !plainName.MatchString(s) || slices.Contains(p.AlsoFor, s) {
		return fmt.Errorf("also_for: %q is no name of a profile, or listed twice", s)
	}
	p.AlsoFor = append(p.AlsoFor, s)
	return nil
}

// completeLife fills in the defaults of the life model.
func (p *Profile) completeLife(l *life) {
	if p.Record = Record(l.record); p.Record == "" {
		p.Record = Full
	}
	if p.Retention < 0 && p.Record == Full {
		p.Retention = defaultRetention
	}
	if p.Rescue == nil {
		return
	}
	if p.Rescue.Approval = RescueApproval(l.approval); p.Rescue.Approval == "" {
		p.Rescue.Approval = RescueFreely
	}
	p.Rescue.Token = l.evidence == "certificate-and-token"
	if p.Rescue.Validity == 0 {
		p.Rescue.Validity = min(p.Validity, defaultRescuedShort)
	}
}

// checkLife refuses life models that contradict themselves.
func (p *Profile) checkLife(d *document) {
	if p.NoRevAvail && (p.CRL || p.OCSP) {
		d.at("no_rev_avail", "says that there is no revocation information (RFC 9608, section 3), but crl or ocsp is true: take one of them out")
	}
	switch p.Record {
	case Brief:
		p.checkBrief(d)
	case Ephemeral:
		p.checkEphemeral(d)
	}
	if slices.Contains(p.AlsoFor, p.Name) {
		d.at("also_for", "the profile is for its own devices anyway: take %s out", p.Name)
	}
	if len(p.AlsoFor) > 0 && p.Grants != access.RoleNone {
		d.at("also_for", "a profile that grants a role is for those only who are registered for it")
	}
	p.checkRescue(d)
}

// checkUnkept holds for both classes that do not keep the certificate.
func (p *Profile) checkUnkept(d *document, longest int64) {
	switch {
	case p.Forever || p.Validity > longest:
		d.at("record", "%s is for certificates that live at most %s: what lives longer must be kept, use full", p.Record, TimeText(longest))
	case p.Grants != access.RoleNone:
		d.at("record", "what a person or service did must be explained by the certificate later: with grants use full")
	case p.OCSP:
		d.at("ocsp", "status answers are about certificates that are kept: with record %s take it out", p.Record)
	}
	if p.Retention >= 0 {
		d.at("retention", "is about certificates that are kept, and record is %s: take it out", p.Record)
	}
}

func (p *Profile) checkBrief(d *document) {
	p.checkUnkept(d, MaxBrief)
	if !p.NoRevAvail && !p.CRL {
		d.at("record", "a certificate that is not kept must say where its revocation is told of: add no_rev_avail: true (nowhere, RFC 9608) or crl: true")
	}
	if !p.namesDevice() {
		d.at("record", "a certificate that is not kept must lead to its device: write {device.id} or \"{device.name}\" into the subject, or {device.id} into a fixed uri")
	}
}

func (p *Profile) checkEphemeral(d *document) {
	p.checkUnkept(d, maxEphemeral)
	switch {
	case p.CRL:
		d.at("crl", "ephemeral certificates end before a list would tell of them: take it out")
	case !p.NoRevAvail:
		d.at("record", "ephemeral certificates need no_rev_avail: true (RFC 9608): nobody will tell about their revocation")
	case p.Accepts(EvidenceToken):
		d.at("evidence", "a token is spent in the registry, which ephemeral certificates leave alone: use [operational], [birth] or both")
	case p.Approval:
		d.at("approval", "nobody can approve what lives for minutes: take it out")
	case p.Rescue != nil:
		d.at("rescue", "ephemeral certificates are not renewed: take it out")
	}
}

func (p *Profile) checkRescue(d *document) {
	r := p.Rescue
	if r == nil || p.Record == Ephemeral {
		return
	}
	other := slices.ContainsFunc(p.ExtKeyUsage, func(u der.OID) bool { return u != der.OIDClientAuth })
	switch {
	case p.Forever:
		d.at("rescue", "certificates of this profile never expire: take it out")
	case p.Grants != access.RoleNone:
		d.at("rescue", "is for devices; people and services who expired enrol again with a token")
	case other:
		d.at("rescue", "is for devices: with other uses than clientAuth in ext_key_usage, such as serverAuth, whoever expired enrols again with a token")
	case !p.Accepts(EvidenceOperational):
		d.at("rescue", "is a renewal: add operational to evidence")
	case r.MaxExpired < 60 || r.MaxExpired > maxRescue:
		d.at("rescue", "needs max_expired between 1m and 3y: how long after its end a certificate is still forgiven")
	case p.Record == Full && p.Retention < r.MaxExpired:
		d.at("retention", "is shorter than max_expired of rescue: what would be rescued would be deleted before")
	case r.Validity < 60 || r.Validity > min(p.Validity, maxRescuedValidity):
		d.at("rescue", "validity must lie between 1m and that of the profile, at most 30d: who was rescued is to renew in the ordinary way soon")
	}
}

// namesDevice reports whether every certificate of the profile leads to its device (Hints).
func (p *Profile) namesDevice() bool {
	id := func(t text) bool {
		return slices.ContainsFunc(t.parts, func(part part) bool { return part.field == "id" })
	}
	for _, s := range p.subject {
		if id(s.value) || len(s.value.parts) == 1 && s.value.parts[0].field == "name" {
			return true
		}
	}
	return slices.ContainsFunc(p.uri.fixed, id)
}

// For reports whether devices that are registered for the profile called name may have a certificate of p.
func (p *Profile) For(name string) bool { return name == p.Name || slices.Contains(p.AlsoFor, name) }

// keptLong reports whether rows of the profile's certificates are kept apart from those that leave by the month.
func (p *Profile) keptLong() bool {
	return p.Forever || p.Retention == KeepForever || p.Validity+p.Retention > keptLong
}

// class returns the class octet of the serial numbers of p's certificates, of which one lives so many seconds.
func (p *Profile) class(life int64) byte {
	switch {
	case p.Record == Brief:
		return classBrief
	case p.Record == Ephemeral:
		return classEphemeral
	case life > longLife || p.keptLong():
		return classLong
	}
	return classOrdinary
}

// TimeText writes a number of seconds as a profile does, such as 90d.
func TimeText(n int64) string {
	for _, unit := range []struct {
		n    int64
		name string
	}{{365 * 86400, "y"}, {86400, "d"}, {3600, "h"}, {60, "m"}} {
		if n >= unit.n && n%unit.n == 0 {
			return fmt.Sprint(n/unit.n, unit.name)
		}
	}
	return fmt.Sprint(n, "s")
}

// RetentionText is how a profile writes its retention, "" when it keeps no certificates.
func (p *Profile) RetentionText() string {
	switch {
	case p.Record != Full:
		return ""
	case p.Retention == KeepForever:
		return "forever"
	}
	return TimeText(p.Retention)
}
