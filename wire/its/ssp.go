package its

import "mooring/wire/coer"

// RoleChoice is an alternative of SecurityMgmtSsp: a role in the management of certificates.
type RoleChoice uint8

// The roles of IEEE 1609.2.1.
const (
	RoleElector RoleChoice = iota
	RoleRoot
	RolePg
	RoleIca
	RoleEca
	RoleAca
	RoleCrl
	RoleDcm
	RoleLa
	RoleLop
	RoleMa
	RoleRa
	RoleEe
	RoleDc
)

var roleChoices = coer.Choices{Root: 13, Extensible: true,
	Names: []string{"elector", "root", "pg", "ica", "eca", "aca", "crl", "dcm", "la", "lop", "ma", "ra", "ee", "dc"}}

// SecurityMgmtSsp is the permission to act in a role, within PsidSCMS.
type SecurityMgmtSsp struct {
	Choice        RoleChoice
	Version       uint8
	LaId          uint16 // of a linkage authority
	RelevantPsids []Psid // of a misbehaviour authority
	Additions     coer.Additions
	Other         []byte
}

// Code implements coer.Value.
func (p *SecurityMgmtSsp) Code(c *coer.Coder) {
	switch which := coer.Choice(c, &p.Choice, &roleChoices); {
	case which <= RoleDc:
		s := c.Extensible(&p.Additions)
		coer.Uint8(c.At("version"), &p.Version)
		switch which {
		case RoleLa:
			coer.Uint16(c.At("laId"), &p.LaId)
		case RoleMa:
			list(c.At("relevantPsids"), &p.RelevantPsids)
		}
		s.Additions()
		s.End()
	default:
		c.Other(&p.Other)
	}
	c.EndChoice()
}

// AcpcSsp is the permission to publish activation codes of these trees, within PsidACPC.
type AcpcSsp struct {
	Choice uint8 // 0: Cam
	Cam    []AcpcTreeId
	Other  []byte
}

var acpcSspChoices = coer.Choices{Names: []string{"cam"}, Extensible: true}

// Code implements coer.Value.
func (p *AcpcSsp) Code(c *coer.Coder) {
	if coer.Choice(c, &p.Choice, &acpcSspChoices) == 0 {
		list(c, &p.Cam)
		c.Refuse(len(p.Cam) == 0, noElements)
	} else {
		c.Other(&p.Other)
	}
	c.EndChoice()
}
