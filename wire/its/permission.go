package its

import "mooring/wire/coer"

// SspChoice is an alternative of ServiceSpecificPermissions.
type SspChoice uint8

// The alternatives.
const (
	SspOpaque SspChoice = iota
	SspBitmap
)

var sspChoices = coer.Choices{Names: []string{"opaque", "bitmapSsp"}, Root: 1, Extensible: true}

// ServiceSpecificPermissions is what a holder may do within an application.
type ServiceSpecificPermissions struct {
	Choice SspChoice
	Value  []byte // of either, or of an alternative that is not known
}

// Code implements coer.Value.
func (p *ServiceSpecificPermissions) Code(c *coer.Coder) {
	switch coer.Choice(c, &p.Choice, &sspChoices) {
	case SspOpaque:
		coer.OctetString(c, &p.Value)
	case SspBitmap:
		coer.SizedString(c, &p.Value, 0, 31)
	default:
		c.Other(&p.Value)
	}
	c.EndChoice()
}

// PsidSsp is an application, and what its holder may do within.
type PsidSsp struct {
	Psid Psid
	Ssp  coer.Optional[ServiceSpecificPermissions]
}

// Bitmap is a permission with these bits.
func Bitmap(p Psid, bits ...byte) PsidSsp {
	return PsidSsp{p, coer.Some(ServiceSpecificPermissions{SspBitmap, bits})}
}

// Code implements coer.Value.
func (p *PsidSsp) Code(c *coer.Coder) {
	s := c.Sequence(p.Ssp.Present)
	p.Psid.Code(c.At("psid"))
	if s.Optional() {
		p.Ssp.Make().Code(c.At("ssp"))
	}
	s.End()
}

// SspRangeChoice is an alternative of SspRange.
type SspRangeChoice uint8

// The alternatives.
const (
	SspRangeOpaque SspRangeChoice = iota
	SspRangeAll
	SspRangeBitmap
)

var sspRangeChoices = coer.Choices{Names: []string{"opaque", "all", "bitmapSspRange"}, Root: 2, Extensible: true}

// SspRange is which permissions may be granted.
type SspRange struct {
	Choice     SspRangeChoice
	Opaque     [][]byte
	SspValue   []byte // of BitmapSspRange
	SspBitmask []byte // bits of SspValue that are 1 here are prescribed, the others are free
	Other      []byte
}

// Code implements coer.Value.
func (r *SspRange) Code(c *coer.Coder) {
	switch coer.Choice(c, &r.Choice, &sspRangeChoices) {
	case SspRangeOpaque:
		octets(c, &r.Opaque)
	case SspRangeAll:
		coer.Null(c)
	case SspRangeBitmap:
		s := c.Sequence()
		coer.SizedString(c.At("sspValue"), &r.SspValue, 1, 32)
		coer.SizedString(c.At("sspBitmask"), &r.SspBitmask, 1, 32)
		s.End()
	default:
		c.Other(&r.Other)
	}
	c.EndChoice()
}

// PsidSspRange is an application, and which permissions within may be granted.
type PsidSspRange struct {
	Psid     Psid
	SspRange coer.Optional[SspRange]
}

// Code implements coer.Value.
func (r *PsidSspRange) Code(c *coer.Coder) {
	s := c.Sequence(r.SspRange.Present)
	r.Psid.Code(c.At("psid"))
	if s.Optional() {
		r.SspRange.Make().Code(c.At("sspRange"))
	}
	s.End()
}

// SubjectsChoice is an alternative of SubjectPermissions.
type SubjectsChoice uint8

// The alternatives.
const (
	SubjectsExplicit SubjectsChoice = iota
	SubjectsAll
)

var subjectsChoices = coer.Choices{Names: []string{"explicit", "all"}}

// SubjectPermissions is what those below may be permitted.
type SubjectPermissions struct {
	Choice   SubjectsChoice
	Explicit []PsidSspRange
}

// Code implements coer.Value.
func (p *SubjectPermissions) Code(c *coer.Coder) {
	if coer.Choice(c, &p.Choice, &subjectsChoices) == SubjectsAll {
		coer.Null(c)
	} else {
		for e := range coer.All(c, &p.Explicit) {
			e.Code(c)
		}
	}
	c.EndChoice()
}

// EndEntityType is which kinds of certificates a chain may end in.
type EndEntityType uint8

// The kinds.
const (
	EndEntityApp   EndEntityType = 0x80
	EndEntityEnrol EndEntityType = 0x40
)

var endEntityTypes = coer.Flags{"app", "enrol"}

// PsidGroupPermissions is what may be issued or requested, and through how many certificates.
type PsidGroupPermissions struct {
	SubjectPermissions SubjectPermissions
	MinChainLength     int64         // DEFAULT 1
	ChainLengthRange   int64         // DEFAULT 0; -1 has no upper limit
	EeType             EndEntityType // DEFAULT {app}
}

// Group is permissions with the defaults of everything else.
func Group(p SubjectPermissions) PsidGroupPermissions {
	return PsidGroupPermissions{SubjectPermissions: p, MinChainLength: 1, EeType: EndEntityApp}
}

const defaultWritten = "the default value is written, which is not the canonical form"

// Code implements coer.Value.
func (p *PsidGroupPermissions) Code(c *coer.Coder) {
	s := c.Sequence(p.MinChainLength != 1, p.ChainLengthRange != 0, p.EeType != EndEntityApp)
	if c.Reading() {
		p.MinChainLength, p.ChainLengthRange, p.EeType = 1, 0, EndEntityApp
	}
	p.SubjectPermissions.Code(c.At("subjectPermissions"))
	if s.Optional() {
		coer.Integer(c.At("minChainLength"), &p.MinChainLength)
		c.Refuse(p.MinChainLength == 1, defaultWritten)
	}
	if s.Optional() {
		coer.Integer(c.At("chainLengthRange"), &p.ChainLengthRange)
		c.Refuse(p.ChainLengthRange == 0, defaultWritten)
	}
	if s.Optional() {
		coer.Bits(c.At("eeType"), &p.EeType, endEntityTypes)
		c.Refuse(p.EeType == EndEntityApp, defaultWritten)
		c.Refuse(p.EeType == 0, "it names no kind of end entity")
	}
	s.End()
}
