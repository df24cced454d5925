package trustlist

import (
	"bytes"
	"errors"
	"fmt"

	"mooring/wire/its"
)

// ErrLink is that a link certificate does not lead from the one to the other.
var ErrLink = errors.New("the link certificate does not vouch for that successor")

// Link is a link certificate that was read and not judged: the word of an old certificate for the one that follows it (TS 102 941, 6.4). That of a trust list manager
// is signed by the old one alone. That of a root is signed by the old one, and what comes of it by the new one.
type Link struct {
	*its.ToBeSignedLinkCertificate
	Old its.HashedId8 // who vouches
	New its.HashedId8 // for whom, of a root; a manager's says it by the digest alone

	role   its.EtsiRole
	single *its.Ieee1609Dot2Data
	double *its.Ieee1609Dot2Data // nil of a manager
}

// ReadLink reads a link certificate of a manager, or a doubly signed one of a root.
func ReadLink(octets []byte) (*Link, error) {
	d, err := its.ParseData(octets, its.MaxRequest)
	if err != nil {
		return nil, errors.Join(ErrForm, err)
	}
	by, inner, err := opened(d)
	if err != nil {
		return nil, err
	}
	switch {
	case inner.Choice == its.LinkCertificateTlm && inner.LinkCertificate != nil:
		return &Link{ToBeSignedLinkCertificate: inner.LinkCertificate, Old: by, role: its.EtsiTLM, single: d}, nil
	case inner.Choice != its.DoubleSignedLinkCertificateRca || inner.Data == nil:
		return nil, ErrForm
	}
	l := &Link{New: by, role: its.EtsiRCA, single: inner.Data, double: d}
	if l.Old, inner, err = opened(l.single); err != nil {
		return nil, err
	}
	if inner.Choice != its.SingleSignedLinkCertificateRca || inner.LinkCertificate == nil {
		return nil, ErrForm
	}
	l.ToBeSignedLinkCertificate = inner.LinkCertificate
	return l, nil
}

// opened is who signed a message, as it says, and what is in it.
func opened(d *its.Ieee1609Dot2Data) (by its.HashedId8, c *its.EtsiTs102941DataContent, err error) {
	s, _, err := header(d, its.PsidCTL)
	if err != nil {
		return by, nil, err
	}
	if by, err = named(s); err != nil {
		return by, nil, err
	}
	m, err := its.ParseManagement(s.TbsData.Payload.Data.Content.Opaque)
	if err != nil {
		return by, nil, errors.Join(ErrForm, err)
	}
	return by, &m.Content, nil
}

// Check says whether the link leads from a certificate that is believed to another one, at a moment. The other one may be believed afterwards.
func (l *Link) Check(old, successor *its.Certificate, at its.Time64) error {
	for _, x := range []*its.Certificate{old, successor} {
		if err := errors.Join(x.CheckRole(l.role, 0), x.Verify(nil)); err != nil {
			return errors.Join(ErrLink, err)
		}
	}
	if at >= its.Time64(l.ExpiryTime)*1e6 || l.ExpiryTime > old.ToBeSigned.ValidityPeriod.End() || !successor.ToBeSigned.ValidityPeriod.Contains(at) {
		return ErrOver
	}
	digest, err := successor.Digest()
	if err != nil {
		return err
	}
	if l.CertificateHash.Choice != successor.Issuer.Hash() || !bytes.Equal(l.CertificateHash.Hash, digest) {
		return fmt.Errorf("%w: its digest is another one", ErrLink)
	}
	if _, _, err := signed(l.single, old, its.PsidCTL); err != nil {
		return err
	}
	if l.double != nil {
		_, _, err = signed(l.double, successor, its.PsidCTL)
	}
	return err
}
