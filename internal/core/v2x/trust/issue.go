package trust

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/key"
	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/its/chain"
	"mooring/wire/scr"
	"mooring/wire/spdu"
)

// Lives of certificates, in years: real roots have five, and what a root issues has to end before it does.
const (
	rootYears      = 5
	authorityYears = 4
)

// The applications that tickets may be for, with all their permissions: bits that the mask has are prescribed (TS 103 097; real roots in the EU's trust list).
func applications() []its.PsidSspRange {
	return []its.PsidSspRange{bits(its.PsidCAM, []byte{1, 0xff, 0xfc}, []byte{0xff, 0, 3}), bits(its.PsidDENM, []byte{1, 0xff, 0xff, 0xff}, []byte{0xff, 0, 0, 0})}
}

func bits(p its.Psid, value, mask []byte) its.PsidSspRange {
	return its.PsidSspRange{Psid: p, SspRange: coer.Some(its.SspRange{Choice: its.SspRangeBitmap, SspValue: value, SspBitmask: mask})}
}

func group(length int64, ranges ...its.PsidSspRange) its.PsidGroupPermissions {
	g := its.Group(its.SubjectPermissions{Explicit: ranges})
	g.MinChainLength = length
	return g
}

// credentials is what an enrolment authority may issue: enrolment credentials.
func credentials() its.PsidSspRange {
	return bits(its.PsidSCR, []byte{1, 0xc0}, []byte{0xff, 0x3f})
}

// permissions are those of a role (TS 102 941, table B.6).
func permissions(r Role) (app []its.PsidSsp, issue []its.PsidGroupPermissions) {
	switch r {
	case EA:
		return []its.PsidSsp{its.Bitmap(its.PsidSCR, 1, 0x0e)}, []its.PsidGroupPermissions{group(1, credentials())}
	case AA:
		return []its.PsidSsp{its.Bitmap(its.PsidSCR, 1, 0x32)}, []its.PsidGroupPermissions{group(1, applications()...)}
	}
	below := group(2, append(applications(), credentials())...)
	below.EeType |= its.EndEntityEnrol
	return []its.PsidSsp{its.Bitmap(its.PsidCRL, 1), its.Bitmap(its.PsidCTL, 1, 0x38)},
		[]its.PsidGroupPermissions{group(1, bits(its.PsidSCR, []byte{1, 0x3e}, []byte{0xff, 0xc1})), below}
}

// CreateRoot makes a root. It needs the permission ca.manage. There is one root in a store: a second one is a Conflict.
func (s *Service) CreateRoot(ctx context.Context, actor access.Actor, name string) (*Authority, error) {
	if err := s.Access.Require(ctx, actor, access.CAManage, "v2x root"); err != nil {
		return nil, err
	}
	if s.State().Root != nil {
		return nil, errs.New(errs.Conflict, "there is a root for V2X here already, %s", s.State().Root.Name)
	}
	id, pub, err := s.Keys.Generate(ctx, key.P256, "V2X root "+name)
	if err != nil {
		return nil, err
	}
	k, err := scr.VerificationKey(pub)
	if err != nil {
		return nil, err
	}
	x := s.certificate(Root, name, k, its.Duration{Choice: its.Years, Value: rootYears})
	x.Issuer = its.IssuerIdentifier{Choice: its.IssuerSelf}
	if err := s.sign(ctx, x, nil, id); err != nil {
		return nil, err
	}
	a, err := s.recordRoot(ctx, actor, x, name, id)
	if err != nil {
		return nil, err
	}
	return a, s.Load(ctx)
}

func (s *Service) recordRoot(ctx context.Context, actor access.Actor, x *its.Certificate, name string, id key.ID) (*Authority, error) {
	a, err := authority(x, Root, name)
	if err != nil {
		return nil, err
	}
	a.own, a.Created = string(id), s.Now().Unix()
	return a, s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error { return s.insert(ctx, tx, actor, a, "v2x.root") })
}

// authority is one whose certificate was made or received.
func authority(x *its.Certificate, role Role, name string) (*Authority, error) {
	b, err := coer.Marshal(x)
	if err != nil {
		return nil, err
	}
	back, err := its.ParseCertificate(b)
	if err != nil {
		return nil, err
	}
	id, err := back.HashedId8()
	return &Authority{ID: id, Role: role, Name: name, Certificate: back, Octets: b}, err
}

func (s *Service) insert(ctx context.Context, tx *db.Tx, actor access.Actor, a *Authority, action string) error {
	if _, err := tx.Exec(ctx, insertAuthority, a.row()...); err != nil {
		return err
	}
	return s.record(ctx, tx, actor, a, action, nil)
}

// record tells what the row of an authority is now; more goes into the details.
func (s *Service) record(ctx context.Context, tx *db.Tx, actor access.Actor, a *Authority, action string, more map[string]string) error {
	detail := map[string]string{"role": a.Role.String(), "name": a.Name, detailRow: a.mark()}
	maps.Copy(detail, more)
	return s.Audit.Append(ctx, tx, audit.Entry{Action: action, Actor: actor.String(), Object: a.ID.String(), Detail: detail})
}

// certificate is a certificate of a role that is not signed yet.
func (s *Service) certificate(r Role, name string, k its.PublicVerificationKey, life its.Duration) *its.Certificate {
	app, issue := permissions(r)
	return &its.Certificate{ToBeSigned: its.ToBeSignedCertificate{Id: its.Name(name), ValidityPeriod: its.ValidityPeriod{Start: its.Time32(s.At() / 1e6), Duration: life},
		AppPermissions: app, CertIssuePermissions: issue, VerifyKeyIndicator: its.VerificationKeyIndicator{VerificationKey: k}}}
}

// sign signs a certificate with the key of its issuer, nil for itself, and holds it against its profile.
func (s *Service) sign(ctx context.Context, x, issuer *its.Certificate, id key.ID) error {
	signer, err := s.Keys.Signer(ctx, id)
	if err != nil {
		return err
	}
	if err := Sign(x, issuer, scr.Signature(signer)); err != nil {
		return err
	}
	return x.Verify(issuer) // such a certificate is worth a second look
}

// Sign signs a certificate, nil being the issuer of one that is signed by itself.
func Sign(x, issuer *its.Certificate, sign func([]byte) (its.Signature, error)) error {
	if issuer != nil {
		id, err := issuer.HashedId8()
		if err != nil {
			return err
		}
		x.Issuer = its.IssuerIdentifier{Choice: its.IssuerSHA256, Digest: id}
	}
	digest, err := x.Input(issuer)
	if err != nil {
		return err
	}
	sig, err := sign(digest)
	if err != nil {
		return err
	}
	x.Signature = coer.Some(sig)
	return nil
}

// Apply makes the keys of an authority and asks for its certificate: the result is a CaCertificateRequest, signed with the new key (TS 102 941, 6.2.1). It needs
// the permission ca.manage.
func (s *Service) Apply(ctx context.Context, actor access.Actor, role Role, name string) ([]byte, error) {
	if err := s.Access.Require(ctx, actor, access.CAManage, "v2x "+role.String()); err != nil {
		return nil, err
	}
	tail, err := random()
	if err != nil {
		return nil, err
	}
	secret := "v2x-" + role.String() + "-" + tail
	private, err := s.private(ctx, secret)
	if err != nil {
		return nil, err
	}
	id, pub, err := s.Keys.Generate(ctx, key.P256, "V2X "+role.String()+" "+name)
	if err != nil {
		return nil, err
	}
	k, err := scr.VerificationKey(pub)
	if err != nil {
		return nil, err
	}
	app, issue := permissions(role)
	content := its.EtsiTs102941DataContent{Choice: its.CaRequest, CaCertificateRequest: &its.CaCertificateRequest{
		PublicKeys:                 its.PublicKeys{VerificationKey: k, EncryptionKey: coer.Some(scr.EncryptionKey(private))},
		RequestedSubjectAttributes: its.CertificateSubjectAttributes{Id: coer.Some(its.Name(name)), AppPermissions: app, CertIssuePermissions: issue}}}
	signer, err := s.Keys.Signer(ctx, id)
	if err != nil {
		return nil, err
	}
	signed, err := scr.Sign(content, s.At(), scr.Signer(signer, nil))
	if err != nil {
		return nil, err
	}
	request, err := coer.Marshal(signed)
	if err != nil {
		return nil, err
	}
	spki := digestOf(&k)
	return request, s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		p := pending{spki, int16(role), name, string(id), secret, s.Now().Unix()}
		if _, err := tx.Exec(ctx, insertPending, p.spki, p.role, p.name, p.own, p.secret, p.created); err != nil {
			return err
		}
		return s.Audit.Append(ctx, tx, audit.Entry{Action: "v2x.apply", Actor: actor.String(), Object: role.String() + " " + name, Detail: map[string]string{detailPending: p.mark()}})
	})
}

func digestOf(k *its.PublicVerificationKey) []byte {
	b, _ := coer.Normal(k) // what was read or made can be written
	sum := sha256.Sum256(b)
	return sum[:]
}

// Grant is what an administrator gives an authority.
type Grant struct {
	Role Role
	URL  string // where stations reach it
	Peer string // of an enrolment authority: where authorization authorities reach it
}

// Issue gives an authority its certificate, for a request that is signed with the key that it is for. What the certificate says follows from the role; of the request
// come keys and name. It needs the permission ca.manage.
func (s *Service) Issue(ctx context.Context, actor access.Actor, request []byte, g Grant) (*Authority, error) {
	if err := s.Access.Require(ctx, actor, access.CAManage, "v2x "+g.Role.String()); err != nil {
		return nil, err
	}
	root, err := s.Credential(ctx, Root)
	if err != nil {
		return nil, err
	}
	r, err := readApplication(request)
	if err != nil {
		return nil, err
	}
	name := r.RequestedSubjectAttributes.Id.Value.Name
	x := s.certificate(g.Role, name, r.PublicKeys.VerificationKey, its.Duration{Choice: its.Years, Value: authorityYears})
	x.ToBeSigned.EncryptionKey = r.PublicKeys.EncryptionKey
	x.ToBeSigned.ValidityPeriod = Within(x.ToBeSigned.ValidityPeriod, root.Certificate.ToBeSigned.ValidityPeriod)
	if err := s.sign(ctx, x, root.Certificate, key.ID(root.own)); err != nil {
		return nil, err
	}
	a, err := authority(x, g.Role, name)
	if err != nil {
		return nil, err
	}
	if err := a.Certificate.CheckRole(g.Role.profile(), 0); err != nil {
		return nil, errs.Wrap(errs.Invalid, err, "the request gives no certificate of the role %s", g.Role)
	}
	if err := chain.Check([]*its.Certificate{a.Certificate, root.Certificate}, chain.Options{At: s.At(), Trusted: func(id its.HashedId8) bool { return id == root.ID }}); err != nil {
		return nil, errs.Wrap(errs.Invalid, err, "the certificate would not be valid")
	}
	a.URL, a.Peer, a.Created = g.URL, g.Peer, s.Now().Unix()
	if err := s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error { return s.insert(ctx, tx, actor, a, "v2x.issue") }); err != nil {
		return nil, err
	}
	return a, s.Publish(ctx)
}

// Within cuts a period down to what lies in another one. Its unit becomes one that can say so.
func Within(v, of its.ValidityPeriod) its.ValidityPeriod {
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
		v.Duration = its.Duration{Choice: its.Seconds, Value: uint16(left)}
	case left/60 < 1<<16:
		v.Duration = its.Duration{Choice: its.Minutes, Value: uint16(left / 60)}
	default:
		v.Duration = its.Duration{Choice: its.Hours, Value: uint16(min(left/3600, 1<<16-1))}
	}
	return v
}

// readApplication reads the request of an authority and verifies that it was signed with the key that it is for.
func readApplication(request []byte) (*its.CaCertificateRequest, error) {
	d, err := its.ParseData(request, its.MaxRequest)
	if err != nil {
		return nil, errs.Wrap(errs.Invalid, err, "the request cannot be read")
	}
	signed, octets, err := scr.Signed(d)
	if err != nil {
		return nil, errs.Wrap(errs.Invalid, err, "the request is not signed as TS 102 941 says")
	}
	c, err := scr.Content(octets, its.CaRequest)
	if err != nil {
		return nil, errs.Wrap(errs.Invalid, err, "what is signed is no request for the certificate of an authority")
	}
	r := c.CaCertificateRequest
	if err := signed.Verify(nil, &r.PublicKeys.VerificationKey); err != nil {
		return nil, errs.Wrap(errs.Invalid, err, "the request is not signed with the key that it is for")
	}
	id, ok := r.RequestedSubjectAttributes.Id.Get()
	enc, has := r.PublicKeys.EncryptionKey.Get()
	if !ok || id.Choice != its.IdName || id.Name == "" || !has || !scr.UsableForEncryption(&enc) {
		return nil, errs.New(errs.Invalid, "the request lacks a name, or a key for encryption that can be used")
	}
	return r, nil
}

// Install takes the certificate that this store applied for, and the root that issued it, which is believed from then on. It needs the permission ca.manage.
func (s *Service) Install(ctx context.Context, actor access.Actor, cert, root []byte) (*Authority, error) {
	if err := s.Access.Require(ctx, actor, access.CAManage, "v2x"); err != nil {
		return nil, err
	}
	a, r, err := s.received(cert, root)
	if err != nil {
		return nil, err
	}
	spki := digestOf(&a.Certificate.ToBeSigned.VerifyKeyIndicator.VerificationKey)
	err = s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		p := pending{spki: spki}
		found, err := tx.Get(ctx, []any{&p.role, &p.name, &p.own, &p.secret, &p.created}, selectPending, spki)
		if err != nil {
			return err
		}
		if n, err := tx.Exec(ctx, deletePending, spki); err != nil {
			return err
		} else if n == 0 { // another process was faster
			found = false
		}
		a.Role, a.Name, a.own, a.secret = Role(p.role), p.name, p.own, p.secret
		if !found || a.Certificate.CheckRole(a.Role.profile(), 0) != nil {
			return errs.New(errs.Invalid, "the certificate is for none of the keys for which this store asked for one, or for another role")
		}
		return s.install(ctx, tx, actor, a, r, p.mark())
	})
	if err != nil {
		return nil, err
	}
	return a, s.Load(ctx)
}

func (s *Service) received(cert, root []byte) (a, r *Authority, err error) {
	read := func(b []byte) (*Authority, error) {
		x, err := its.ParseCertificate(b)
		if err != nil {
			return nil, errs.Wrap(errs.Invalid, err, "the certificate cannot be read")
		}
		made, err := authority(x, Root, x.ToBeSigned.Id.Name)
		if err != nil {
			return nil, err
		}
		made.Created = s.Now().Unix()
		return made, nil
	}
	if a, err = read(cert); err != nil {
		return nil, nil, err
	}
	if r, err = read(root); err != nil {
		return nil, nil, err
	}
	err = errors.Join(r.Certificate.CheckRole(its.EtsiRCA, 0), chain.Check([]*its.Certificate{a.Certificate, r.Certificate},
		chain.Options{At: s.At(), Trusted: func(id its.HashedId8) bool { return id == r.ID }}))
	if err != nil {
		return nil, nil, errs.Wrap(errs.Invalid, err, "the certificate was not issued by that root")
	}
	return a, r, nil
}

// install stores an authority whose keys are here. Where the root is kept that issued it, the certificate is known already.
func (s *Service) install(ctx context.Context, tx *db.Tx, actor access.Actor, a, root *Authority, applied string) error {
	if known, err := lockAuthority(ctx, tx, root.ID); err != nil {
		return err
	} else if known == nil {
		if err := s.insert(ctx, tx, actor, root, "v2x.trust"); err != nil {
			return err
		}
	}
	known, err := lockAuthority(ctx, tx, a.ID)
	if err != nil {
		return err
	}
	more := map[string]string{detailPending: applied}
	if known == nil {
		if _, err := tx.Exec(ctx, insertAuthority, a.row()...); err != nil {
			return err
		}
		return s.record(ctx, tx, actor, a, "v2x.install", more)
	}
	more[detailWas] = known.mark()
	known.own, known.secret = a.own, a.secret
	if _, err := tx.Exec(ctx, ownAuthority, a.ID[:], a.own, a.secret); err != nil {
		return err
	}
	return s.record(ctx, tx, actor, known, "v2x.install", more)
}

// Revoke revokes an authority for good and publishes new lists. It needs the permission ca.manage.
func (s *Service) Revoke(ctx context.Context, actor access.Actor, id its.HashedId8) error {
	if err := s.Access.Require(ctx, actor, access.CAManage, "v2x "+id.String()); err != nil {
		return err
	}
	err := s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		a, err := lockAuthority(ctx, tx, id)
		if err != nil {
			return err
		}
		if a == nil || a.Revoked != 0 {
			return errs.New(errs.NotFound, "there is no authority %s, or it is revoked already", id)
		}
		was := map[string]string{detailWas: a.mark()}
		a.Revoked = s.Now().Unix()
		if _, err := tx.Exec(ctx, revokeAuthority, id[:], a.Revoked); err != nil {
			return err
		}
		return s.record(ctx, tx, actor, a, "v2x.revoke", was)
	})
	if err != nil {
		return err
	}
	return s.Publish(ctx)
}

// signList signs a list with the root's key, whose certificate goes along.
func (s *Service) signList(root *Credential, psid its.Psid, content its.EtsiTs102941DataContent) ([]byte, error) {
	b, err := scr.Encode(content)
	if err != nil {
		return nil, err
	}
	header := scr.Header(s.At())
	header.Psid = psid
	signer := root.Signer
	signer.Attach = true
	d, err := spdu.Sign(spdu.Payload(b), header, signer)
	if err != nil {
		return nil, fmt.Errorf("signing a list of the V2X root: %w", err)
	}
	return coer.Marshal(d)
}

// Move says where an authority is reached; it publishes a new trust list if that is new. It needs the permission ca.manage.
func (s *Service) Move(ctx context.Context, actor access.Actor, id its.HashedId8, url, peer string) error {
	if err := s.Access.Require(ctx, actor, access.CAManage, "v2x "+id.String()); err != nil {
		return err
	}
	err := s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		a, err := lockAuthority(ctx, tx, id)
		if err != nil || a == nil || a.URL == url && a.Peer == peer {
			return err
		}
		was := map[string]string{detailWas: a.mark()}
		a.URL, a.Peer = url, peer
		if _, err := tx.Exec(ctx, moveAuthority, id[:], url, peer); err != nil {
			return err
		}
		return s.record(ctx, tx, actor, a, "v2x.move", was)
	})
	if err != nil {
		return err
	}
	return s.Publish(ctx)
}

// renewAt says whether a list that was made at one time and ends at another is to be renewed.
func renewAt(ends its.Time32, life time.Duration, at its.Time64) bool {
	return at+its.Time64(life.Microseconds()/4) >= its.Time64(ends)*1e6
}

func sameOctets(a, b []byte) bool { return bytes.Equal(a, b) }
