package its

import "mooring/wire/coer"

// CertManagementChoice is an alternative of CertManagementPdu.
type CertManagementChoice uint8

// The alternatives.
const (
	CertManagementCompositeCrl CertManagementChoice = iota
	CertManagementChain
	CertManagementMultiSignedCtl
	CertManagementTbsCtlSignature
	CertManagementInfoStatus
)

var certManagementChoices = coer.Choices{Names: []string{"compositeCrl", "certificateChain", "multiSignedCtl", "tbsCtlSignature", "infoStatus"}, Extensible: true}

// CertManagementPdu is what all take part in: trust and revocation lists and chains.
type CertManagementPdu struct {
	Choice           CertManagementChoice
	CompositeCrl     *CompositeCrl
	CertificateChain *CertificateChain
	MultiSignedCtl   *MultiSignedCtl
	TbsCtlSignature  *ToBeSignedCtlSignature
	InfoStatus       *CertificateManagementInfoStatus
	Other            []byte
}

// Code implements coer.Value.
func (p *CertManagementPdu) Code(c *coer.Coder) {
	switch coer.Choice(c, &p.Choice, &certManagementChoices) {
	case CertManagementCompositeCrl:
		needed(c, &p.CompositeCrl).Code(c)
	case CertManagementChain:
		needed(c, &p.CertificateChain).Code(c)
	case CertManagementMultiSignedCtl:
		needed(c, &p.MultiSignedCtl).Code(c)
	case CertManagementTbsCtlSignature:
		needed(c, &p.TbsCtlSignature).Code(c)
	case CertManagementInfoStatus:
		needed(c, &p.InfoStatus).Code(c)
	default:
		c.Other(&p.Other)
	}
	c.EndChoice()
}

// CompositeCrl is revocation lists and the trust list.
type CompositeCrl struct {
	Crl       []Ieee1609Dot2Data // SecuredCrl
	HomeCtl   Ieee1609Dot2Data   // an unsecured MultiSignedCtl
	Additions coer.Additions
}

// Code implements coer.Value.
func (l *CompositeCrl) Code(c *coer.Coder) {
	s := c.Extensible(&l.Additions)
	list(c.At("crl"), &l.Crl)
	l.HomeCtl.Code(c.At("homeCtl"))
	s.Additions()
	s.End()
}

// CertificateChain is the trust list and certificates of authorities.
type CertificateChain struct {
	HomeCtl   Ieee1609Dot2Data // an unsecured MultiSignedCtl
	Others    []Certificate
	Additions coer.Additions
}

// Code implements coer.Value.
func (l *CertificateChain) Code(c *coer.Coder) {
	s := c.Extensible(&l.Additions)
	l.HomeCtl.Code(c.At("homeCtl"))
	list(c.At("others"), &l.Others)
	s.Additions()
	s.End()
}

// SequenceOfCertificate is certificates.
type SequenceOfCertificate []Certificate

// Code implements coer.Value.
func (l *SequenceOfCertificate) Code(c *coer.Coder) { list(c, (*[]Certificate)(l)) }

// MultiSignedCtl is a trust list that electors signed. Of its types there is one yet, fullIeeeCtl; what others would contain is not known, so they are refused.
type MultiSignedCtl struct {
	TbsCtl     FullIeeeTbsCtl
	Unsigned   SequenceOfCertificate
	Signatures []Ieee1609Dot2Data // each a signed ToBeSignedCtlSignature
}

const fullIeeeCtl = 1

// Code implements coer.Value. The two components in the middle are open types, as what they contain follows from the first one.
func (l *MultiSignedCtl) Code(c *coer.Coder) {
	s := c.Sequence()
	coer.Exactly(c.At("type"), fullIeeeCtl)
	coer.Contained(c.At("tbsCtl"), &l.TbsCtl)
	coer.Contained(c.At("unsigned"), &l.Unsigned)
	list(c.At("signatures"), &l.Signatures)
	c.Refuse(len(l.Signatures) == 0, noElements)
	s.End()
}

// CtlSeriesId names a series of trust lists.
type CtlSeriesId [8]byte

// FullIeeeTbsCtl is the electors and roots that are trusted. Quorum, of the next list, is absent if it stays.
type FullIeeeTbsCtl struct {
	CtlSeriesId    CtlSeriesId
	SequenceNumber uint16
	EffectiveDate  Time32
	ElectorApprove []HashedId48
	ElectorRemove  []HashedId48
	RootCaApprove  []HashedId32
	RootCaRemove   []HashedId32
	Quorum         coer.Optional[int64]
	Additions      coer.Additions
}

// Code implements coer.Value.
func (l *FullIeeeTbsCtl) Code(c *coer.Coder) {
	s := c.Extensible(&l.Additions)
	coer.Exactly(c.At("type"), fullIeeeCtl)
	coer.Octets(c.At("ctlSeriesId"), l.CtlSeriesId[:])
	coer.Uint16(c.At("sequenceNumber"), &l.SequenceNumber)
	l.EffectiveDate.Code(c.At("effectiveDate"))
	list(c.At("electorApprove"), &l.ElectorApprove)
	list(c.At("electorRemove"), &l.ElectorRemove)
	list(c.At("rootCaApprove"), &l.RootCaApprove)
	list(c.At("rootCaRemove"), &l.RootCaRemove)
	s.Additions(l.Quorum.Present)
	if s.Addition() {
		coer.Integer(c.At("quorum"), l.Quorum.Make())
	}
	s.End()
}

// ToBeSignedCtlSignature is what an elector signs.
type ToBeSignedCtlSignature struct {
	CtlSeriesId    CtlSeriesId
	SequenceNumber uint16
	TbsCtlHash     HashedId48
}

// Code implements coer.Value.
func (t *ToBeSignedCtlSignature) Code(c *coer.Coder) {
	s := c.Sequence()
	coer.Octets(c.At("ctlSeriesId"), t.CtlSeriesId[:])
	coer.Exactly(c.At("ctlType"), fullIeeeCtl)
	coer.Uint16(c.At("sequenceNumber"), &t.SequenceNumber)
	t.TbsCtlHash.Code(c.At("tbsCtlHash"))
	s.End()
}

// CertificateManagementInfoStatus says which lists are new.
type CertificateManagementInfoStatus struct {
	Crl       []CrlInfoStatus
	Ctl       []CtlInfoStatus
	CaCcf     Time32
	Ma        []MaInfoStatus
	Ra        coer.Optional[Time32]
	Additions coer.Additions
}

// Code implements coer.Value.
func (i *CertificateManagementInfoStatus) Code(c *coer.Coder) {
	s := c.Extensible(&i.Additions, i.Ra.Present)
	list(c.At("crl"), &i.Crl)
	list(c.At("ctl"), &i.Ctl)
	i.CaCcf.Code(c.At("caCcf"))
	list(c.At("ma"), &i.Ma)
	if s.Optional() {
		i.Ra.Make().Code(c.At("ra"))
	}
	s.Additions()
	s.End()
}

// CrlInfoStatus is the newest revocation list of a series.
type CrlInfoStatus struct {
	CracaId   HashedId8
	Series    uint16
	IssueDate Time32
	Additions coer.Additions
}

// Code implements coer.Value.
func (i *CrlInfoStatus) Code(c *coer.Coder) {
	s := c.Extensible(&i.Additions)
	i.CracaId.Code(c.At("cracaId"))
	coer.Uint16(c.At("series"), &i.Series)
	i.IssueDate.Code(c.At("issueDate"))
	s.Additions()
	s.End()
}

// CtlInfoStatus is the newest trust list of a series.
type CtlInfoStatus struct {
	CtlSeriesId    CtlSeriesId
	SequenceNumber uint16
	LastUpdate     Time32
	Additions      coer.Additions
}

// Code implements coer.Value.
func (i *CtlInfoStatus) Code(c *coer.Coder) {
	s := c.Extensible(&i.Additions)
	coer.Octets(c.At("ctlSeriesId"), i.CtlSeriesId[:])
	coer.Uint16(c.At("sequenceNumber"), &i.SequenceNumber)
	i.LastUpdate.Code(c.At("lastUpdate"))
	s.Additions()
	s.End()
}

// MaInfoStatus is when the certificate of the misbehaviour authority for these applications changed.
type MaInfoStatus struct {
	Psids     []Psid
	Updated   Time32
	Additions coer.Additions
}

// Code implements coer.Value.
func (i *MaInfoStatus) Code(c *coer.Coder) {
	s := c.Extensible(&i.Additions)
	list(c.At("psids"), &i.Psids)
	i.Updated.Code(c.At("updated"))
	s.Additions()
	s.End()
}
