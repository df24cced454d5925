package trust

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/scr"
	"mooring/wire/spdu"
	"mooring/wire/trustlist"
)

// Link is a link certificate: the word of a root, or of a trust list manager, for the one that follows it (TS 102 941, 6.4).
type Link struct {
	New, Old its.HashedId8
	Role     Role
	Created  int64
	Octets   []byte // of a root: signed by both
}

func (l *Link) mark() string {
	return mark("v2x_link", l.New[:], l.Old[:], int16(l.Role), l.Created, l.Octets)
}

func everyLink(ctx context.Context, tx *db.Tx) (all []*Link, err error) {
	err = tx.Each(ctx, func(row db.Row) error {
		l := &Link{}
		var from, to []byte
		var role int16
		if err := row.Scan(&to, &from, &role, &l.Created, &l.Octets); err != nil {
			return fmt.Errorf("reading table v2x_link: %w", err)
		}
		if len(to) != len(l.New) || len(from) != len(l.Old) {
			return fmt.Errorf("table v2x_link: a row is damaged")
		}
		l.New, l.Old, l.Role = its.HashedId8(to), its.HashedId8(from), Role(role)
		all = append(all, l)
		return nil
	}, selectLinks)
	return all, err
}

// insertLinkRow stores a link certificate and records it.
func (s *Service) insertLinkRow(ctx context.Context, tx *db.Tx, actor access.Actor, l *Link) error {
	if _, err := tx.Exec(ctx, insertLink, l.New[:], l.Old[:], int16(l.Role), l.Created, l.Octets); err != nil {
		return err
	}
	return s.Audit.Append(ctx, tx, audit.Entry{Action: "v2x.link", Actor: actor.String(), Object: l.New.String(),
		Detail: map[string]string{detailFollows: l.Old.String(), detailRow: l.mark(), detailDigest: hexDigest(l.Octets)}})
}

// RekeyRoot makes the root that follows the one of this store, and the link certificate by which both vouch for that. The old root goes on with its lists until its
// certificate ends; authorities get their next certificates from the new one. It needs the permission v2x.root.
func (s *Service) RekeyRoot(ctx context.Context, actor access.Actor, name string) (*Authority, error) {
	return s.succeed(ctx, actor, Root, name)
}

// RekeyManager makes the trust list manager that follows the one of this store, likewise. Its lists count from 0, and the last one of the old stays as it is. It needs
// the permission v2x.tlm.
func (s *Service) RekeyManager(ctx context.Context, actor access.Actor, name string) (*Authority, error) {
	return s.succeed(ctx, actor, Manager, name)
}

func (s *Service) succeed(ctx context.Context, actor access.Actor, role Role, name string) (*Authority, error) {
	if err := s.Access.Require(ctx, actor, role.manages(), "v2x "+role.String()); err != nil {
		return nil, err
	}
	old, err := s.Credential(ctx, role)
	if err != nil {
		return nil, err
	}
	if s.over(old.Authority) {
		return nil, errs.New(errs.Denied, "the certificate of %s has ended: it can vouch for nobody any more", old.Name)
	}
	if name == "" {
		name = numbered(old.Name)
	}
	url := old.URL
	if role == Manager {
		url = s.CPOC
	}
	a, err := s.selfSigned(ctx, role, name, url, old.Created)
	if err != nil {
		return nil, err
	}
	next, err := s.open(ctx, a)
	if err != nil {
		return nil, err
	}
	l := &Link{New: a.ID, Old: old.ID, Role: role, Created: a.Created}
	if l.Octets, err = s.link(old, next); err != nil {
		return nil, err
	}
	err = s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if err := s.insert(ctx, tx, actor, a, created(role)); err != nil {
			return err
		}
		return s.insertLinkRow(ctx, tx, actor, l)
	})
	if err != nil {
		return nil, err
	}
	if err := s.Load(ctx); err != nil {
		return nil, err
	}
	return a, s.publishAll(ctx, role)
}

// numbered is the name of who follows: with a number behind it, or the next one.
func numbered(name string) string {
	head, tail, found := strings.Cut(name, " #")
	if n, err := strconv.Atoi(tail); found && err == nil && n > 0 {
		return head + " #" + strconv.Itoa(n+1)
	}
	return name + " #2"
}

// link makes the link certificate from an old root or manager to a new one, and reads it as others will.
func (s *Service) link(old, next *Credential) ([]byte, error) {
	digest, err := next.Certificate.Digest()
	if err != nil {
		return nil, err
	}
	body := &its.ToBeSignedLinkCertificate{ExpiryTime: old.Certificate.ToBeSigned.ValidityPeriod.End(), CertificateHash: its.HashedData{Choice: next.Certificate.Issuer.Hash(), Hash: digest}}
	content := its.EtsiTs102941DataContent{Choice: its.LinkCertificateTlm, LinkCertificate: body}
	if old.Role == Root {
		content.Choice = its.SingleSignedLinkCertificateRca
	}
	d, err := s.say(old.Signer, content)
	if err == nil && old.Role == Root {
		d, err = s.say(next.Signer, its.EtsiTs102941DataContent{Choice: its.DoubleSignedLinkCertificateRca, Data: d})
	}
	if err != nil {
		return nil, err
	}
	octets, err := coer.Marshal(d)
	if err != nil {
		return nil, err
	}
	l, err := trustlist.ReadLink(octets)
	if err == nil {
		err = l.Check(old.Certificate, next.Certificate, s.At())
	}
	return octets, err
}

// say signs something about trust lists, by the digest of the certificate.
func (s *Service) say(by spdu.Signer, content its.EtsiTs102941DataContent) (*its.Ieee1609Dot2Data, error) {
	b, err := scr.Encode(content)
	if err != nil {
		return nil, err
	}
	header := scr.Header(s.At())
	header.Psid = its.PsidCTL
	return spdu.Sign(spdu.Payload(b), header, by)
}

// Successor is for whom a link certificate of a root vouches, as it says.
func Successor(link []byte) (its.HashedId8, error) {
	l, err := trustlist.ReadLink(link)
	if err != nil {
		return its.HashedId8{}, err
	}
	return l.New, nil
}

// Follow takes a root for which one that is believed here vouches, with its lists. The root's certificate comes with its trust list.
func (s *Service) Follow(ctx context.Context, link, ctl, crl []byte) error {
	l, err := trustlist.ReadLink(link)
	if err != nil {
		return errs.Wrap(errs.Denied, err, "the link certificate cannot be read")
	}
	st := s.State()
	if st.publishers[l.New] != nil { // it is known, be it revoked
		return nil
	}
	old := st.publishers[l.Old]
	if old == nil || old.Role != Root || old.Revoked != 0 || old.Barred != nil && old.Barred.Lists(old.ID) {
		return errs.New(errs.Denied, "the link certificate is of a root that is not believed here")
	}
	x, err := attached(ctl)
	if err == nil {
		err = l.Check(old.Certificate, x, s.At())
	}
	if err != nil {
		return errs.Wrap(errs.Denied, err, "the root %s does not vouch for %s", l.Old, l.New)
	}
	a, err := authority(x, Root, x.ToBeSigned.Id.Name)
	if err != nil {
		return err
	}
	a.Created = max(s.Now().Unix(), old.Created+1)
	row := &Link{New: a.ID, Old: old.ID, Role: Root, Created: a.Created, Octets: link}
	err = s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if err := s.insert(ctx, tx, access.System("v2x"), a, "v2x.trust"); err != nil {
			return err
		}
		return s.insertLinkRow(ctx, tx, access.System("v2x"), row)
	})
	if err != nil && !db.IsConflict(err) { // another process of this store was faster
		return err
	}
	if err := s.Load(ctx); err != nil {
		return err
	}
	return s.Accept(ctx, ctl, crl)
}

// attached is the certificate that comes with a message as that of its signer.
func attached(octets []byte) (*its.Certificate, error) {
	d, err := its.ParseData(octets, its.MaxTrustList)
	if err != nil {
		return nil, err
	}
	if s := d.Content.SignedData; d.Content.Choice == its.ContentSigned && s != nil && s.Signer.Choice == its.SignerCertificate && len(s.Signer.Certificate) == 1 {
		return &s.Signer.Certificate[0], nil
	}
	return nil, trustlist.ErrForm
}
