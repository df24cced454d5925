// Package trustlist judges the lists of TS 102 941: the certificate trust list (CTL) of a root, which names its authorities and where they are, its revocation
// list (CRL), and the list of the trust list manager (ECTL), which names the roots; and the link certificates by which a root or a manager vouches for its
// successor. Octets in, what may be believed out.
//
//	ctl, err := trustlist.ReadCTL(octets, root, now)   // signed by the root, not over, of its own kinds of entries
//	crl, err := trustlist.ReadCRL(octets, root, now)
//	if ctl.Newer(old) { … }
//	full, err := old.Apply(delta)                      // the same as the full list of that number
//
//	ectl, err := trustlist.ReadECTL(octets, manager, now)
//	for _, r := range ectl.Roots() { … }
//
//	l, err := trustlist.ReadLink(octets)
//	err = l.Check(old, successor, now)
//
// The root, or manager, is the caller's: who hands one over that nobody vouched for gets lists that nobody vouched for. Sequence numbers are of one octet. Those of
// a root go round: which of two lists is newer follows from the shorter way between their numbers, and from the times if the numbers are the same. Those of a
// manager end with its key (TS 102 941, annex E).
package trustlist

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"

	"mooring/wire/coer"
	"mooring/wire/its"
)

// Why a list is not believed.
var (
	ErrSigner      = errors.New("it is not signed by whom it should be")
	ErrForm        = errors.New("what was received is no list of this kind")
	ErrOver        = errors.New("the list is over, or not yet valid")
	ErrForeign     = errors.New("the list has entries that do not belong into it, or lacks the distribution centre of its root")
	ErrPredecessor = errors.New("the delta does not follow on this list")
)

// CTL is a trust list that was judged.
type CTL struct {
	*its.CtlFormat
	Generated its.Time64

	manager bool // of a trust list manager, whose numbers do not go round

	once sync.Once
	by   map[its.HashedId8]*its.CtlEntry // see Find; of once
}

// CRL is a revocation list that was judged.
type CRL struct {
	*its.ToBeSignedCrl
	revoked map[its.HashedId8]bool
}

// content is what a message contains, after its signature by an authority of that role was verified.
func content(octets []byte, signer *its.Certificate, role its.EtsiRole, psid its.Psid) (*its.EtsiTs102941DataContent, its.Time64, error) {
	if err := signer.CheckRole(role, 0); err != nil {
		return nil, 0, errors.Join(ErrSigner, err)
	}
	d, err := its.ParseData(octets, its.MaxTrustList)
	if err != nil {
		return nil, 0, errors.Join(ErrForm, err)
	}
	return signed(d, signer, psid)
}

// signed is what a signed message contains, after its signature was verified.
func signed(d *its.Ieee1609Dot2Data, signer *its.Certificate, psid its.Psid) (*its.EtsiTs102941DataContent, its.Time64, error) {
	s, made, err := header(d, psid)
	if err != nil {
		return nil, 0, err
	}
	if err := verify(s, signer, made); err != nil {
		return nil, 0, errors.Join(ErrSigner, err)
	}
	m, err := its.ParseManagement(s.TbsData.Payload.Data.Content.Opaque)
	if err != nil {
		return nil, 0, errors.Join(ErrForm, err)
	}
	return &m.Content, made, nil
}

// header is a signed message with octets in it that are unsecured, and when it was made.
func header(d *its.Ieee1609Dot2Data, psid its.Psid) (*its.SignedData, its.Time64, error) {
	s := d.Content.SignedData
	if d.Content.Choice != its.ContentSigned || s == nil || s.TbsData.Payload.Data == nil || s.TbsData.Payload.Data.Content.Choice != its.UnsecuredData {
		return nil, 0, ErrForm
	}
	made, ok := s.TbsData.HeaderInfo.GenerationTime.Get()
	if !ok || s.TbsData.HeaderInfo.Psid != psid {
		return nil, 0, ErrForm
	}
	return s, made, nil
}

// named is whom a message names as its signer.
func named(s *its.SignedData) (its.HashedId8, error) {
	switch s.Signer.Choice {
	case its.SignerDigest:
		return s.Signer.Digest, nil
	case its.SignerCertificate:
		if len(s.Signer.Certificate) == 1 {
			return s.Signer.Certificate[0].HashedId8()
		}
	}
	return its.HashedId8{}, ErrForm
}

func verify(s *its.SignedData, signer *its.Certificate, made its.Time64) error {
	id, err := signer.HashedId8()
	if err != nil {
		return err
	}
	by, err := named(s)
	if err != nil {
		return err
	}
	if by != id {
		return its.ErrIssuer
	}
	if !signer.ToBeSigned.ValidityPeriod.Contains(made) {
		return ErrOver
	}
	return s.Verify(signer, nil)
}

// ReadCTL judges a trust list of a root, full or delta, at a moment.
func ReadCTL(octets []byte, root *its.Certificate, at its.Time64) (*CTL, error) {
	c, made, err := content(octets, root, its.EtsiRCA, its.PsidCTL)
	if err != nil {
		return nil, err
	}
	if c.Choice != its.CertificateTrustListRca || c.CertificateTrustList == nil {
		return nil, ErrForm
	}
	l := &CTL{CtlFormat: c.CertificateTrustList, Generated: made}
	if at >= its.Time64(l.NextUpdate)*1e6 {
		return nil, ErrOver
	}
	id, err := root.HashedId8()
	if err != nil {
		return nil, err
	}
	return l, l.check(id)
}

// check looks for entries that a root's list may not have, and for the one that it must have.
func (l *CTL) check(root its.HashedId8) error {
	own := !l.IsFullCtl // a delta need not repeat it
	for i := range l.CtlCommands {
		c := &l.CtlCommands[i]
		if c.Choice != its.CtlAdds {
			continue
		}
		switch e := &c.Add; e.Choice {
		case its.CtlEa, its.CtlAa:
		case its.CtlDc:
			own = own || slices.Contains(e.Dc.Cert, root)
		default:
			return ErrForeign
		}
	}
	if !own {
		return ErrForeign
	}
	return nil
}

// Newer says whether the list comes after another one, which may be nil.
func (l *CTL) Newer(than *CTL) bool {
	if than == nil {
		return true
	}
	if l.CtlSequence != than.CtlSequence {
		return l.manager && l.CtlSequence > than.CtlSequence || !l.manager && int8(l.CtlSequence-than.CtlSequence) > 0
	}
	return l.Generated > than.Generated
}

// Apply is the full list that follows from a full one and the delta of the next number. One that was made before the list has that number from an earlier round.
func (l *CTL) Apply(delta *CTL) (*CTL, error) {
	if !l.IsFullCtl || delta.IsFullCtl || delta.CtlSequence != l.CtlSequence+1 || delta.Generated < l.Generated || l.manager != delta.manager || l.manager && delta.CtlSequence == 0 {
		return nil, ErrPredecessor
	}
	commands := slices.Clone(l.CtlCommands)
	for _, c := range delta.CtlCommands {
		if c.Choice == its.CtlAdds {
			commands = append(commands, c)
			continue
		}
		if c.Choice != its.CtlDeletes {
			return nil, ErrForm
		}
		n := len(commands)
		commands = slices.DeleteFunc(commands, func(old its.CtlCommand) bool { return deletes(&c.Delete, &old.Add) })
		if len(commands) == n {
			return nil, fmt.Errorf("%w: it deletes what is not there", ErrPredecessor)
		}
	}
	return &CTL{CtlFormat: &its.CtlFormat{NextUpdate: delta.NextUpdate, IsFullCtl: true, CtlSequence: delta.CtlSequence, CtlCommands: commands}, Generated: delta.Generated, manager: l.manager}, nil
}

func deletes(d *its.CtlDelete, e *its.CtlEntry) bool {
	switch {
	case d.Choice == its.CtlDeleteDc:
		return e.Choice == its.CtlDc && e.Dc.Url == d.Dc
	case d.Choice == its.CtlDeleteCert:
		cert := Certificate(e)
		if cert == nil {
			return false
		}
		id, err := cert.HashedId8()
		return err == nil && id == d.Cert
	}
	return false
}

// Certificate is the certificate of an entry, nil if it has none.
func Certificate(e *its.CtlEntry) *its.Certificate {
	switch e.Choice {
	case its.CtlEa:
		return &e.Ea.EaCertificate
	case its.CtlAa:
		return &e.Aa.AaCertificate
	case its.CtlRca:
		return &e.Rca.SelfsignedRootCa
	case its.CtlTlm:
		return &e.Tlm.SelfSignedTLMCertificate
	}
	return nil
}

// Same says whether two entries are the same.
func Same(a, b *its.CtlEntry) bool {
	x, err := coer.Marshal(a)
	y, err2 := coer.Marshal(b)
	return err == nil && err2 == nil && bytes.Equal(x, y)
}

// Find is the entry of the authority whose certificate has this digest, nil if the list has none. The digests are computed once.
func (l *CTL) Find(id its.HashedId8) *its.CtlEntry {
	l.once.Do(func() {
		l.by = make(map[its.HashedId8]*its.CtlEntry, len(l.CtlCommands))
		for i := range l.CtlCommands {
			e := &l.CtlCommands[i].Add
			cert := Certificate(e)
			if l.CtlCommands[i].Choice != its.CtlAdds || cert == nil {
				continue
			}
			if have, err := cert.HashedId8(); err == nil && l.by[have] == nil {
				l.by[have] = e
			}
		}
	})
	return l.by[id]
}

// ReadCRL judges a revocation list of a root at a moment.
func ReadCRL(octets []byte, root *its.Certificate, at its.Time64) (*CRL, error) {
	c, _, err := content(octets, root, its.EtsiRCA, its.PsidCRL)
	if err != nil {
		return nil, err
	}
	if c.Choice != its.CertificateRevocationList || c.CertificateRevocationList == nil {
		return nil, ErrForm
	}
	l := &CRL{c.CertificateRevocationList, map[its.HashedId8]bool{}}
	if l.NextUpdate <= l.ThisUpdate || !l.Current(at) {
		return nil, ErrOver
	}
	for _, id := range l.Entries {
		l.revoked[id] = true
	}
	return l, nil
}

// Current says whether the list speaks for a moment.
func (l *CRL) Current(at its.Time64) bool { return at < its.Time64(l.NextUpdate)*1e6 }

// Revoked says whether the list names a certificate. Its digest depends on which of the two values of s its signature has, so both are looked for: whoever
// has a certificate that was revoked must not get by with the other.
func (l *CRL) Revoked(x *its.Certificate) bool {
	for _, form := range forms(x) {
		if id, err := form.HashedId8(); err != nil || l.revoked[id] {
			return true
		}
	}
	return false
}

// Lists says whether the list names a digest.
func (l *CRL) Lists(id its.HashedId8) bool { return l.revoked[id] }
