package ra

import (
	"errors"

	"mooring/wire/butterfly"
	"mooring/wire/coer"
	"mooring/wire/its"
)

// Expansion makes the requests for the tickets of one order: the cocoon keys, and around them what the tickets are to say. It is safe for concurrent use.
type Expansion struct {
	cocoons *butterfly.Expander
	variant butterfly.Variant
	tbs     its.ToBeSignedCertificate // without validity and key
	flags   its.RaAcaCertRequestFlags
}

// NewExpansion returns that of a caterpillar. The tickets are to have keys that whoever expands does not know, unless strict says that the flags stay unset as
// TS 102 941 has it.
func NewExpansion(c butterfly.Caterpillar, permissions []its.PsidSsp, strict bool) *Expansion {
	e := &Expansion{cocoons: c.Expander(), variant: c.Variant, tbs: its.ToBeSignedCertificate{Id: its.CertificateId{Choice: its.IdNone}, AppPermissions: permissions}}
	if !strict {
		e.flags |= its.ButterflyExplicit
	}
	if c.Variant == butterfly.CompactUnified {
		e.flags |= its.Cubk
	}
	return e
}

// errInfinity is that a cocoon key is no key. That happens by no chance: who knows the expansion key can choose a caterpillar key for which it does.
var errInfinity = errors.New("the cocoon key is infinity")

// Request is the one for the ticket (i,j). The error lies with the keys of the caterpillar.
func (e *Expansion) Request(i, j uint32, valid its.ValidityPeriod, at its.Time32) (its.RaAcaCertRequest, error) {
	signing, encryption := e.cocoons.Cocoon(i, j)
	if signing.IsInfinity() || encryption.IsInfinity() {
		return its.RaAcaCertRequest{}, errInfinity
	}
	r := its.RaAcaCertRequest{GenerationTime: at, Flags: e.flags, TbsCert: e.tbs}
	r.TbsCert.ValidityPeriod = valid
	octets := signing.Bytes()
	r.TbsCert.VerifyKeyIndicator.VerificationKey.Point = its.Compressed(octets)
	if e.variant != butterfly.CompactUnified {
		if !encryption.Equal(signing) {
			octets = encryption.Bytes()
		}
		r.CertEncKey = coer.Some(its.PublicEncryptionKey{PublicKey: its.BasePublicEncryptionKey{Point: its.Compressed(octets)}})
	}
	return r, nil
}
