package its

import "mooring/wire/coer"

// CrlContents is a revocation list of IEEE 1609.2. SecuredCrl is a signed message with it as payload, psid PsidCrl and no other header.
type CrlContents struct {
	CrlSeries    uint16
	CrlCraca     HashedId8
	IssueDate    Time32
	NextCrl      Time32
	PriorityInfo CrlPriorityInfo
	TypeSpecific TypeSpecificCrlContents
}

// Code implements coer.Value.
func (l *CrlContents) Code(c *coer.Coder) {
	s := c.Sequence()
	coer.Exactly(c.At("version"), 1)
	coer.Uint16(c.At("crlSeries"), &l.CrlSeries)
	l.CrlCraca.Code(c.At("crlCraca"))
	l.IssueDate.Code(c.At("issueDate"))
	l.NextCrl.Code(c.At("nextCrl"))
	l.PriorityInfo.Code(c.At("priorityInfo"))
	l.TypeSpecific.Code(c.At("typeSpecific"))
	s.End()
}

// CrlPriorityInfo says which lists to keep if there is no room for all.
type CrlPriorityInfo struct {
	Priority  coer.Optional[uint8]
	Additions coer.Additions
}

// Code implements coer.Value.
func (p *CrlPriorityInfo) Code(c *coer.Coder) {
	s := c.Extensible(&p.Additions, p.Priority.Present)
	if s.Optional() {
		coer.Uint8(c.At("priority"), p.Priority.Make())
	}
	s.Additions()
	s.End()
}

// CrlChoice is an alternative of TypeSpecificCrlContents.
type CrlChoice uint8

// The alternatives.
const (
	FullHashCrl CrlChoice = iota
	DeltaHashCrl
	FullLinkedCrl
	DeltaLinkedCrl
	FullLinkedCrlWithAlg
	DeltaLinkedCrlWithAlg
)

var crlChoices = coer.Choices{Root: 4, Extensible: true,
	Names: []string{"fullHashCrl", "deltaHashCrl", "fullLinkedCrl", "deltaLinkedCrl", "fullLinkedCrlWithAlg", "deltaLinkedCrlWithAlg"}}

// TypeSpecificCrlContents is what a list revokes: certificates by their digests, or all pseudonyms of a station by its seeds.
type TypeSpecificCrlContents struct {
	Choice        CrlChoice
	Hash          ToBeSignedHashIdCrl
	Linked        ToBeSignedLinkageValueCrl
	LinkedWithAlg ToBeSignedLinkageValueCrlWithAlgIdentifier
	Other         []byte
}

// Code implements coer.Value.
func (t *TypeSpecificCrlContents) Code(c *coer.Coder) {
	switch coer.Choice(c, &t.Choice, &crlChoices) {
	case FullHashCrl, DeltaHashCrl:
		t.Hash.Code(c)
	case FullLinkedCrl, DeltaLinkedCrl:
		t.Linked.Code(c)
	case FullLinkedCrlWithAlg, DeltaLinkedCrlWithAlg:
		t.LinkedWithAlg.Code(c)
	default:
		c.Other(&t.Other)
	}
	c.EndChoice()
}

// ToBeSignedHashIdCrl revokes certificates by their digests.
type ToBeSignedHashIdCrl struct {
	CrlSerial uint32
	Entries   []HashBasedRevocationInfo
	Additions coer.Additions
}

// Code implements coer.Value.
func (l *ToBeSignedHashIdCrl) Code(c *coer.Coder) {
	s := c.Extensible(&l.Additions)
	coer.Uint32(c.At("crlSerial"), &l.CrlSerial)
	list(c.At("entries"), &l.Entries)
	s.Additions()
	s.End()
}

// HashBasedRevocationInfo is a revoked certificate, and when it would have ended.
type HashBasedRevocationInfo struct {
	Id        HashedId10
	Expiry    Time32
	Additions coer.Additions
}

// Code implements coer.Value.
func (i *HashBasedRevocationInfo) Code(c *coer.Coder) {
	s := c.Extensible(&i.Additions)
	i.Id.Code(c.At("id"))
	i.Expiry.Code(c.At("expiry"))
	s.Additions()
	s.End()
}

// ToBeSignedLinkageValueCrl revokes stations by the seeds of their linkage values, from period IRev on.
type ToBeSignedLinkageValueCrl struct {
	IRev             uint16
	IndexWithinI     uint8
	Individual       []JMaxGroup
	Groups           []GroupCrlEntry
	GroupsSingleSeed []GroupSingleSeedCrlEntry
	IPeriodInfo      []IPeriodInfo // since 2025
	Additions        coer.Additions
}

const noRevocation = "a list has at least one kind of entries, be it empty"

// Code implements coer.Value. Without IPeriodInfo it writes as many presence bits as in the edition of 2022.
func (l *ToBeSignedLinkageValueCrl) Code(c *coer.Coder) {
	s := c.Extensible(&l.Additions, l.Individual != nil, l.Groups != nil)
	coer.Uint16(c.At("iRev"), &l.IRev)
	coer.Uint8(c.At("indexWithinI"), &l.IndexWithinI)
	if s.Optional() {
		list(c.At("individual"), &l.Individual)
	}
	if s.Optional() {
		list(c.At("groups"), &l.Groups)
	}
	if !c.Reading() && l.IPeriodInfo == nil && len(l.Additions.Unknown) == 0 && l.Additions.Bits < 2 {
		s.Additions(l.GroupsSingleSeed != nil)
	} else {
		s.Additions(l.GroupsSingleSeed != nil, l.IPeriodInfo != nil)
	}
	if s.Addition() {
		list(c.At("groupsSingleSeed"), &l.GroupsSingleSeed)
	}
	if s.Addition() {
		list(c.At("iPeriodInfo"), &l.IPeriodInfo)
	}
	c.Refuse(l.Individual == nil && l.Groups == nil && l.GroupsSingleSeed == nil, noRevocation)
	s.End()
}

// JMaxGroup is stations that have up to Jmax pseudonyms at a time.
type JMaxGroup struct {
	Jmax      uint8
	Contents  []LAGroup
	Additions coer.Additions
}

// Code implements coer.Value.
func (g *JMaxGroup) Code(c *coer.Coder) {
	s := c.Extensible(&g.Additions)
	coer.Uint8(c.At("jmax"), &g.Jmax)
	list(c.At("contents"), &g.Contents)
	s.Additions()
	s.End()
}

// LAGroup is stations whose seeds are from these two linkage authorities.
type LAGroup struct {
	La1Id     LaId
	La2Id     LaId
	Contents  []IMaxGroup
	Additions coer.Additions
}

// Code implements coer.Value.
func (g *LAGroup) Code(c *coer.Coder) {
	s := c.Extensible(&g.Additions)
	coer.Octets(c.At("la1Id"), g.La1Id[:])
	coer.Octets(c.At("la2Id"), g.La2Id[:])
	list(c.At("contents"), &g.Contents)
	s.Additions()
	s.End()
}

// IMaxGroup is stations whose last pseudonyms are of period IMax.
type IMaxGroup struct {
	IMax       uint16
	Contents   []IndividualRevocation
	SingleSeed []LinkageSeed
	Additions  coer.Additions
}

// Code implements coer.Value.
func (g *IMaxGroup) Code(c *coer.Coder) {
	s := c.Extensible(&g.Additions)
	coer.Uint16(c.At("iMax"), &g.IMax)
	list(c.At("contents"), &g.Contents)
	s.Additions(g.SingleSeed != nil)
	if s.Addition() {
		list(c.At("singleSeed"), &g.SingleSeed)
	}
	s.End()
}

// IndividualRevocation is a station.
type IndividualRevocation struct {
	LinkageSeed1 LinkageSeed
	LinkageSeed2 LinkageSeed
	Additions    coer.Additions
}

// Code implements coer.Value.
func (r *IndividualRevocation) Code(c *coer.Coder) {
	s := c.Extensible(&r.Additions)
	r.LinkageSeed1.Code(c.At("linkageSeed1"))
	r.LinkageSeed2.Code(c.At("linkageSeed2"))
	s.Additions()
	s.End()
}

// GroupCrlEntry is a group of stations.
type GroupCrlEntry struct {
	IMax         uint16
	La1Id        LaId
	LinkageSeed1 LinkageSeed
	La2Id        LaId
	LinkageSeed2 LinkageSeed
	Additions    coer.Additions
}

// Code implements coer.Value.
func (e *GroupCrlEntry) Code(c *coer.Coder) {
	s := c.Extensible(&e.Additions)
	coer.Uint16(c.At("iMax"), &e.IMax)
	coer.Octets(c.At("la1Id"), e.La1Id[:])
	e.LinkageSeed1.Code(c.At("linkageSeed1"))
	coer.Octets(c.At("la2Id"), e.La2Id[:])
	e.LinkageSeed2.Code(c.At("linkageSeed2"))
	s.Additions()
	s.End()
}

// GroupSingleSeedCrlEntry is a group of stations with one seed.
type GroupSingleSeedCrlEntry struct {
	IMax        uint16
	LaId        LaId
	LinkageSeed LinkageSeed
}

// Code implements coer.Value.
func (e *GroupSingleSeedCrlEntry) Code(c *coer.Coder) {
	s := c.Sequence()
	coer.Uint16(c.At("iMax"), &e.IMax)
	coer.Octets(c.At("laId"), e.LaId[:])
	e.LinkageSeed.Code(c.At("linkageSeed"))
	s.End()
}

// IPeriodInfo says when periods begin.
type IPeriodInfo struct {
	StartOfNextIPeriod Time32
	IPeriodLength      Duration
	GuaranteedToIValue uint16
}

// Code implements coer.Value.
func (i *IPeriodInfo) Code(c *coer.Coder) {
	s := c.Sequence()
	i.StartOfNextIPeriod.Code(c.At("startOfNextIPeriod"))
	i.IPeriodLength.Code(c.At("iPeriodLength"))
	coer.Uint16(c.At("guaranteedToIValue"), &i.GuaranteedToIValue)
	s.End()
}

// ToBeSignedLinkageValueCrlWithAlgIdentifier is like ToBeSignedLinkageValueCrl, and names the functions for seeds and linkage values, of which there
// is one each yet.
type ToBeSignedLinkageValueCrlWithAlgIdentifier struct {
	IRev             uint16
	IndexWithinI     uint8
	Individual       []JMaxGroup
	Groups           []GroupCrlEntry
	GroupsSingleSeed []GroupSingleSeedCrlEntry
	Additions        coer.Additions
}

// Code implements coer.Value.
func (l *ToBeSignedLinkageValueCrlWithAlgIdentifier) Code(c *coer.Coder) {
	s := c.Extensible(&l.Additions, l.Individual != nil, l.Groups != nil, l.GroupsSingleSeed != nil)
	coer.Uint16(c.At("iRev"), &l.IRev)
	coer.Uint8(c.At("indexWithinI"), &l.IndexWithinI)
	coer.Null(c.At("seedEvolution"))
	coer.Null(c.At("lvGeneration"))
	if s.Optional() {
		list(c.At("individual"), &l.Individual)
	}
	if s.Optional() {
		list(c.At("groups"), &l.Groups)
	}
	if s.Optional() {
		list(c.At("groupsSingleSeed"), &l.GroupsSingleSeed)
	}
	c.Refuse(l.Individual == nil && l.Groups == nil && l.GroupsSingleSeed == nil, noRevocation)
	s.Additions()
	s.End()
}

// CracaType is who may be revoked by a list.
type CracaType uint8

// The types.
const (
	IsCraca       CracaType = iota // the signer itself authorises it
	IssuerIsCraca                  // the issuer of the signer does
)

var cracaTypes = coer.Enumeration{Names: []string{"isCraca", "issuerIsCraca"}}

// CrlSsp is the permission to sign revocation lists of these series, within PsidCrl.
type CrlSsp struct {
	AssociatedCraca CracaType
	Crls            []uint16
	Additions       coer.Additions
}

// Code implements coer.Value.
func (p *CrlSsp) Code(c *coer.Coder) {
	s := c.Extensible(&p.Additions)
	coer.Exactly(c.At("version"), 1)
	coer.Enum(c.At("associatedCraca"), &p.AssociatedCraca, &cracaTypes)
	for e := range coer.All(c.At("crls"), &p.Crls) {
		coer.Uint16(c, e)
	}
	s.Additions()
	s.End()
}
