package its

import "mooring/wire/coer"

// ToBeSignedCrl is a revocation list of a root: authorities below it, and itself.
type ToBeSignedCrl struct {
	ThisUpdate Time32
	NextUpdate Time32
	Entries    []HashedId8
	Additions  coer.Additions
}

// Code implements coer.Value.
func (l *ToBeSignedCrl) Code(c *coer.Coder) {
	s := c.Extensible(&l.Additions)
	codeVersion(c.At("version"))
	l.ThisUpdate.Code(c.At("thisUpdate"))
	l.NextUpdate.Code(c.At("nextUpdate"))
	list(c.At("entries"), &l.Entries)
	s.Additions()
	s.End()
}

// CtlFormat is a trust list, or what changed since the one before: ToBeSignedTlmCtl of the trust list manager, ToBeSignedRcaCtl of a root.
type CtlFormat struct {
	NextUpdate  Time32
	IsFullCtl   bool
	CtlSequence uint8
	CtlCommands []CtlCommand
	Additions   coer.Additions
}

// Code implements coer.Value.
func (l *CtlFormat) Code(c *coer.Coder) {
	s := c.Extensible(&l.Additions)
	codeVersion(c.At("version"))
	l.NextUpdate.Code(c.At("nextUpdate"))
	coer.Bool(c.At("isFullCtl"), &l.IsFullCtl)
	coer.Uint8(c.At("ctlSequence"), &l.CtlSequence)
	list(c.At("ctlCommands"), &l.CtlCommands)
	for _, cmd := range l.CtlCommands {
		c.Refuse(l.IsFullCtl && cmd.Choice == CtlDeletes, "a full list deletes nothing")
	}
	s.Additions()
	s.End()
}

// allow refuses entries of kinds that this list has not: those of a root have neither roots nor trust list managers, those of a manager no authorities.
func (l *CtlFormat) allow(c *coer.Coder, kinds ...CtlEntryChoice) {
	for _, cmd := range l.CtlCommands {
		for _, foreign := range kinds {
			c.Refuse(cmd.Choice == CtlAdds && cmd.Add.Choice == foreign, "an entry is of a kind that does not belong into this list")
		}
	}
}

// CtlCommandChoice is an alternative of CtlCommand.
type CtlCommandChoice uint8

// The alternatives.
const (
	CtlAdds CtlCommandChoice = iota
	CtlDeletes
)

var ctlCommandChoices = coer.Choices{Names: []string{"add", "delete"}, Extensible: true}

// CtlCommand adds to what is trusted, or takes away.
type CtlCommand struct {
	Choice CtlCommandChoice
	Add    CtlEntry
	Delete CtlDelete
	Other  []byte
}

// Code implements coer.Value.
func (m *CtlCommand) Code(c *coer.Coder) {
	switch coer.Choice(c, &m.Choice, &ctlCommandChoices) {
	case CtlAdds:
		m.Add.Code(c)
	case CtlDeletes:
		m.Delete.Code(c)
	default:
		c.Other(&m.Other)
	}
	c.EndChoice()
}

// CtlEntryChoice is an alternative of CtlEntry.
type CtlEntryChoice uint8

// The alternatives.
const (
	CtlRca CtlEntryChoice = iota
	CtlEa
	CtlAa
	CtlDc
	CtlTlm
)

var ctlEntryChoices = coer.Choices{Names: []string{"rca", "ea", "aa", "dc", "tlm"}, Extensible: true}

// CtlEntry is somebody who is trusted, or a distribution centre.
type CtlEntry struct {
	Choice CtlEntryChoice
	Rca    *RootCaEntry
	Ea     *EaEntry
	Aa     *AaEntry
	Dc     *DcEntry
	Tlm    *TlmEntry
	Other  []byte
}

// Code implements coer.Value.
func (e *CtlEntry) Code(c *coer.Coder) {
	switch coer.Choice(c, &e.Choice, &ctlEntryChoices) {
	case CtlRca:
		needed(c, &e.Rca).Code(c)
	case CtlEa:
		needed(c, &e.Ea).Code(c)
	case CtlAa:
		needed(c, &e.Aa).Code(c)
	case CtlDc:
		needed(c, &e.Dc).Code(c)
	case CtlTlm:
		needed(c, &e.Tlm).Code(c)
	default:
		c.Other(&e.Other)
	}
	c.EndChoice()
}

// CtlDeleteChoice is an alternative of CtlDelete.
type CtlDeleteChoice uint8

// The alternatives.
const (
	CtlDeleteCert CtlDeleteChoice = iota
	CtlDeleteDc
)

var ctlDeleteChoices = coer.Choices{Names: []string{"cert", "dc"}, Extensible: true}

// CtlDelete takes an entry away, by its certificate or the address of the distribution centre.
type CtlDelete struct {
	Choice CtlDeleteChoice
	Cert   HashedId8
	Dc     string
	Other  []byte
}

// Code implements coer.Value.
func (d *CtlDelete) Code(c *coer.Coder) {
	switch coer.Choice(c, &d.Choice, &ctlDeleteChoices) {
	case CtlDeleteCert:
		d.Cert.Code(c)
	case CtlDeleteDc:
		coer.IA5String(c, &d.Dc)
	default:
		c.Other(&d.Other)
	}
	c.EndChoice()
}

// RootCaEntry is a root.
type RootCaEntry struct {
	SelfsignedRootCa Certificate
	SuccessorTo      *Certificate
}

// Code implements coer.Value.
func (e *RootCaEntry) Code(c *coer.Coder) {
	s := c.Sequence(e.SuccessorTo != nil)
	e.SelfsignedRootCa.Code(c.At("selfsignedRootCa"))
	if s.Optional() {
		needed(c, &e.SuccessorTo).Code(c.At("successorTo"))
	}
	s.End()
}

// TlmEntry is the trust list manager.
type TlmEntry struct {
	SelfSignedTLMCertificate Certificate
	SuccessorTo              *Certificate
	AccessPoint              string
}

// Code implements coer.Value.
func (e *TlmEntry) Code(c *coer.Coder) {
	s := c.Sequence(e.SuccessorTo != nil)
	e.SelfSignedTLMCertificate.Code(c.At("selfSignedTLMCertificate"))
	if s.Optional() {
		needed(c, &e.SuccessorTo).Code(c.At("successorTo"))
	}
	coer.IA5String(c.At("accessPoint"), &e.AccessPoint)
	s.End()
}

// EaEntry is an enrolment authority.
type EaEntry struct {
	EaCertificate  Certificate
	AaAccessPoint  string // "" if it only serves butterfly requests
	ItsAccessPoint coer.Optional[string]
}

// Code implements coer.Value.
func (e *EaEntry) Code(c *coer.Coder) {
	s := c.Sequence(e.ItsAccessPoint.Present)
	e.EaCertificate.Code(c.At("eaCertificate"))
	coer.IA5String(c.At("aaAccessPoint"), &e.AaAccessPoint)
	if s.Optional() {
		coer.IA5String(c.At("itsAccessPoint"), e.ItsAccessPoint.Make())
	}
	s.End()
}

// AaEntry is an authorization authority.
type AaEntry struct {
	AaCertificate Certificate
	AccessPoint   string
}

// Code implements coer.Value.
func (e *AaEntry) Code(c *coer.Coder) {
	s := c.Sequence()
	e.AaCertificate.Code(c.At("aaCertificate"))
	coer.IA5String(c.At("accessPoint"), &e.AccessPoint)
	s.End()
}

// DcEntry is a distribution centre, and the roots whose lists it has.
type DcEntry struct {
	Url  string
	Cert []HashedId8
}

// Code implements coer.Value.
func (e *DcEntry) Code(c *coer.Coder) {
	s := c.Sequence()
	coer.IA5String(c.At("url"), &e.Url)
	list(c.At("cert"), &e.Cert)
	s.End()
}

// ToBeSignedLinkCertificate is by what the old certificate of a root, or of the trust list manager, vouches for the new one.
type ToBeSignedLinkCertificate struct {
	ExpiryTime      Time32
	CertificateHash HashedData
	Additions       coer.Additions
}

// Code implements coer.Value.
func (l *ToBeSignedLinkCertificate) Code(c *coer.Coder) {
	s := c.Extensible(&l.Additions)
	l.ExpiryTime.Code(c.At("expiryTime"))
	l.CertificateHash.Code(c.At("certificateHash"))
	s.Additions()
	s.End()
}
