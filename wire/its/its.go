// Package its reads and writes the messages and certificates by which vehicles and roadside stations trust each other: IEEE 1609.2-2025 (security services
// and certificates), IEEE 1609.2.1-2022 (their management, the SCMS), ETSI TS 103 097 V2.2.1 (the European profile of the former) and ETSI TS 102 941 V2.2.1
// (enrolment, authorization and trust lists). Octets in, values out, by package coer, and back to the same octets.
//
// Types and components have the names of the ASN.1 modules, with an upper-case letter in front. Forms that recur:
//
//   - A CHOICE is a struct with Choice, an enumeration of the alternatives, and their values, of which the one that Choice names is of use. Where the
//     standard lets a receiver pass over alternatives that it does not know, Other keeps their octets; elsewhere they are errors of kind coer.Unknown, which
//     make the whole object invalid: HashAlgorithm, CertificateType, IssuerIdentifier, Signature, PublicVerificationKey, VerificationKeyIndicator, HashedData,
//     SignerIdentifier, CertificateId, SubjectPermissions, GeographicRegion.
//   - An absent component is a nil slice or pointer, or a coer.Optional. An empty list that is present is not nil.
//   - Additions keeps extension additions that are not known, so that they are written again as they were.
//   - Octets is, in what is signed or digested, what was read. It is not written; to build a value it is left nil.
//
// What is read refers to the input wherever it can: keep the input unchanged as long as the value is used.
//
//	cert, err := its.ParseCertificate(octets)          // a certificate, with at most one allocation if it is a ticket
//	data, err := its.ParseData(octets, its.MaxRequest) // a message
//	err = coer.Unmarshal(data.Content.Opaque, &pdu)    // what a message contains: its.EtsiTs102941Data, its.ScmsPdu, its.CrlContents ...
//
// What can be said of a structure by itself is checked while it is read: constraints of the modules, such as that an explicit certificate has a signature.
// Chains, permissions and signatures are not judged here.
//
// Digests and signatures are computed over a canonical form (IEEE 1609.2, 6.1.2): points of keys compressed, signatures with the x-coordinate of r alone.
// Certificate.HashedId8, Certificate.Digest and SignedData.Input take care of that.
package its

import (
	"strconv"
	"time"

	"mooring/wire/coer"
)

// Greatest sizes of what is taken from others, before it is looked at.
const (
	MaxRequest   = 64 << 10 // requests and their answers
	MaxTrustList = 4 << 20  // certificate trust and revocation lists
)

// Digests. HashedIdN is the last N octets of the SHA-256 or SHA-384 of something.
type (
	HashedId3  [3]byte
	HashedId8  [8]byte
	HashedId10 [10]byte
	HashedId32 [32]byte
	HashedId48 [48]byte
)

// Code implements coer.Value.
func (h *HashedId3) Code(c *coer.Coder) { coer.Octets(c, h[:]) }

// Code implements coer.Value.
func (h *HashedId8) Code(c *coer.Coder) { coer.Octets(c, h[:]) }

// Code implements coer.Value.
func (h *HashedId10) Code(c *coer.Coder) { coer.Octets(c, h[:]) }

// Code implements coer.Value.
func (h *HashedId32) Code(c *coer.Coder) { coer.Octets(c, h[:]) }

// Code implements coer.Value.
func (h *HashedId48) Code(c *coer.Coder) { coer.Octets(c, h[:]) }

// String writes it as the addresses of distribution centres have it (TS 102 941, annex D): sixteen upper-case digits.
func (h HashedId8) String() string {
	const digits = "0123456789ABCDEF"
	var s [16]byte
	for i, b := range h {
		s[2*i], s[2*i+1] = digits[b>>4], digits[b&15]
	}
	return string(s[:])
}

// Psid identifies an application (PSID of IEEE 1609.12, ITS-AID of TS 102 965).
type Psid uint64

// The applications that certificates and messages of this package are about.
const (
	PsidBSM  Psid = 32      // basic safety messages
	PsidSCMS Psid = 35      // SecurityMgmtPsid: management of certificates (IEEE 1609.2.1)
	PsidCAM  Psid = 36      // cooperative awareness messages
	PsidDENM Psid = 37      // decentralised environmental notifications
	PsidCrl  Psid = 256     // CrlPsid: revocation lists of IEEE 1609.2
	PsidCRL  Psid = 622     // revocation lists of TS 102 941
	PsidSCR  Psid = 623     // secured certificate requests (TS 102 941)
	PsidCTL  Psid = 624     // trust lists and link certificates (TS 102 941)
	PsidACPC Psid = 2113696 // AcpcPsid: activation codes (IEEE 1609.2.1)
)

// String names the application if it is known here.
func (p Psid) String() string {
	switch p {
	case PsidBSM:
		return "BSM"
	case PsidSCMS:
		return "security management"
	case PsidCAM:
		return "CAM"
	case PsidDENM:
		return "DENM"
	case PsidCrl, PsidCRL:
		return "CRL"
	case PsidSCR:
		return "certificate requests"
	case PsidCTL:
		return "CTL"
	case PsidACPC:
		return "ACPC"
	}
	return ""
}

// Code implements coer.Value.
func (p *Psid) Code(c *coer.Coder) {
	coer.Unsigned(c, p)
	if c.Showing() {
		c.Note(p.String())
	}
}

// Time32 is seconds, and Time64 microseconds, of international atomic time since the beginning of 2004, which UTC was 32 seconds behind then.
type (
	Time32 uint32
	Time64 uint64
)

// LeapSeconds is how many were inserted into UTC from 2004 until this was written. Who judges times takes it from configuration.
const LeapSeconds = 5

const epoch = 1072915200 // 2004-01-01T00:00:00Z in Unix time

// FirstPeriod is when period 0 of tickets began: Tuesday, 6 January 2015, 9:00 UTC, as deployed systems have it. Each leap second since then has periods begin a second
// earlier by UTC.
const FirstPeriod Time32 = 347619603

// Time is the moment in UTC, given the leap seconds since 2004.
func (t Time32) Time(leap int) time.Time { return time.Unix(epoch+int64(t)-int64(leap), 0).UTC() }

// Time is the moment in UTC, given the leap seconds since 2004.
func (t Time64) Time(leap int) time.Time {
	return time.Unix(epoch+int64(t/1e6)-int64(leap), int64(t%1e6)*1000).UTC()
}

// TimeAt is the moment in microseconds, given the leap seconds since 2004; moments before 2004 are its beginning.
func TimeAt(t time.Time, leap int) Time64 {
	return Time64(max(0, t.UnixMicro()+int64(leap-epoch)*1e6))
}

// Code implements coer.Value.
func (t *Time32) Code(c *coer.Coder) {
	coer.Uint32(c, t)
	if c.Showing() {
		c.Note(t.Time(LeapSeconds).Format(time.DateTime) + " UTC")
	}
}

// Code implements coer.Value.
func (t *Time64) Code(c *coer.Coder) {
	coer.Uint64(c, t)
	if c.Showing() {
		c.Note(t.Time(LeapSeconds).Format("2006-01-02 15:04:05.000000 UTC"))
	}
}

// ValidityPeriod begins at Start and ends before Start + Duration.
type ValidityPeriod struct {
	Start    Time32
	Duration Duration
}

// Contains says whether a moment lies within the period.
func (v ValidityPeriod) Contains(t Time64) bool {
	start := uint64(v.Start) * 1e6
	return uint64(t) >= start && uint64(t) < start+v.Duration.Microseconds()
}

// End is the first second after the period. It does not exceed what a Time32 holds.
func (v ValidityPeriod) End() Time32 {
	return Time32(min(uint64(v.Start)+v.Duration.Microseconds()/1e6, 1<<32-1))
}

// Within cuts a period down to what lies in another one. Its unit becomes one that can say so.
func (v ValidityPeriod) Within(of ValidityPeriod) ValidityPeriod {
	end := min(v.End(), of.End())
	if end == v.End() && v.Start >= of.Start {
		return v
	}
	v.Start = max(v.Start, of.Start)
	left := uint32(0)
	if end > v.Start {
		left = uint32(end - v.Start)
	}
	switch {
	case left < 1<<16:
		v.Duration = Duration{Choice: Seconds, Value: uint16(left)}
	case left/60 < 1<<16:
		v.Duration = Duration{Choice: Minutes, Value: uint16(left / 60)}
	default:
		v.Duration = Duration{Choice: Hours, Value: uint16(min(left/3600, 1<<16-1))}
	}
	return v
}

// Code implements coer.Value.
func (v *ValidityPeriod) Code(c *coer.Coder) {
	s := c.Sequence()
	v.Start.Code(c.At("start"))
	v.Duration.Code(c.At("duration"))
	if c.Showing() {
		end := Time64(uint64(v.Start)*1e6 + v.Duration.Microseconds()) // a time.Duration holds 292 years
		c.Note("until " + end.Time(LeapSeconds).Format(time.DateTime) + " UTC")
	}
	s.End()
}

// DurationChoice is the unit of a Duration.
type DurationChoice uint8

// The units.
const (
	Microseconds DurationChoice = iota
	Milliseconds
	Seconds
	Minutes
	Hours
	SixtyHours
	Years // of 31556952 seconds
)

var durationChoices = coer.Choices{Names: []string{"microseconds", "milliseconds", "seconds", "minutes", "hours", "sixtyHours", "years"}}

// Duration is a length of time.
type Duration struct {
	Choice DurationChoice
	Value  uint16
}

// Microseconds is how long it is. The greatest, 65535 years, is more than a time.Duration holds.
func (d Duration) Microseconds() uint64 {
	unit := [...]uint64{1, 1e3, 1e6, 60e6, 3600e6, 216000e6, 31556952e6}
	return unit[min(d.Choice, Years)] * uint64(d.Value)
}

// String writes it with its unit.
func (d Duration) String() string {
	return strconv.Itoa(int(d.Value)) + " " + durationChoices.Names[min(d.Choice, Years)]
}

// Code implements coer.Value.
func (d *Duration) Code(c *coer.Coder) {
	coer.Choice(c, &d.Choice, &durationChoices)
	coer.Uint16(c, &d.Value)
	c.EndChoice()
}

// octets codes a SEQUENCE OF OCTET STRING.
func octets(c *coer.Coder, s *[][]byte) {
	for o := range coer.All(c, s) {
		coer.OctetString(c, o)
	}
}

// list codes a SEQUENCE OF. The types of a certificate do without: behind a type parameter the compiler does not see that the Coder is not kept, and
// puts it on the heap.
func list[T any, P interface {
	*T
	coer.Value
}](c *coer.Coder, s *[]T) {
	for e := range coer.All(c, s) {
		P(e).Code(c)
	}
}
