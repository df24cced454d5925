package trust

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
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
	managerYears   = 4
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
	case Manager:
		return []its.PsidSsp{its.Bitmap(its.PsidCTL, 1, 0xc8)}, nil
	}
	below := group(2, append(applications(), credentials())...)
	below.EeType |= its.EndEntityEnrol
	return []its.PsidSsp{its.Bitmap(its.PsidCRL, 1), its.Bitmap(its.PsidCTL, 1, 0x38)},
		[]its.PsidGroupPermissions{group(1, bits(its.PsidSCR, []byte{1, 0x3e}, []byte{0xff, 0xc1})), below}
}

// CreateRoot makes a root. It needs the permission v2x.root. There is one root in a store, and those that follow it: a second one is a Conflict, until those before it are
// revoked or have ended.
func (s *Service) CreateRoot(ctx context.Context, actor access.Actor, name string) (*Authority, error) {
	return s.create(ctx, actor, Root, name, "")
}

// CreateManager makes a trust list manager, whose list says which roots are believed. It needs the permission v2x.tlm.
func (s *Service) CreateManager(ctx context.Context, actor access.Actor, name string) (*Authority, error) {
	if s.CPOC == "" {
		return nil, errs.New(errs.Invalid, "the list of a manager says where it is to be had: set v2x.cpoc_url or listen.v2x_cpoc first")
	}
	return s.create(ctx, actor, Manager, name, s.CPOC)
}

func (s *Service) create(ctx context.Context, actor access.Actor, role Role, name, url string) (*Authority, error) {
	if err := s.Access.Require(ctx, actor, role.manages(), "v2x "+role.String()); err != nil {
		return nil, err
	}
	st := s.State()
	for _, have := range st.own[role] {
		if !s.over(have) {
			return nil, errs.New(errs.Conflict, "there is a %s for V2X here already, %s: it can be followed by another one (rekey)", role, have.Name)
		}
	}
	if role == Root && st.Root != nil {
		return nil, errs.New(errs.Conflict, "there is a root for V2X here already, %s", st.Root.Name)
	}
	a, err := s.selfSigned(ctx, role, name, url, st.newest(role))
	if err != nil {
		return nil, err
	}
	if err := s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error { return s.insert(ctx, tx, actor, a, created(role)) }); err != nil {
		return nil, err
	}
	return a, s.Load(ctx)
}

// created is the action of the record for a new root or manager.
func created(r Role) string {
	if r == Manager {
		return "v2x.tlm"
	}
	return "v2x.root"
}

// selfSigned makes the key and certificate of a root or manager, which is to come after some moment.
func (s *Service) selfSigned(ctx context.Context, role Role, name, url string, after int64) (*Authority, error) {
	if name == "" || len(name) > 255 {
		return nil, errs.New(errs.Invalid, "a name has 1 to 255 octets")
	}
	id, pub, err := s.Keys.Generate(ctx, key.P256, "V2X "+role.String()+" "+name)
	if err != nil {
		return nil, err
	}
	k, err := scr.VerificationKey(pub)
	if err != nil {
		return nil, err
	}
	years := uint16(rootYears)
	if role == Manager {
		years = managerYears
	}
	x := s.certificate(role, name, k, its.Duration{Choice: its.Years, Value: years})
	x.Issuer = its.IssuerIdentifier{Choice: its.IssuerSelf}
	if err := s.sign(ctx, x, nil, id); err != nil {
		return nil, err
	}
	if err := x.CheckRole(role.profile(), 0); err != nil {
		return nil, err
	}
	a, err := authority(x, role, name)
	if err != nil {
		return nil, err
	}
	a.own, a.URL, a.Created = string(id), url, max(s.Now().Unix(), after+1)
	return a, nil
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

// Grant is what an administrator gives an authority.
type Grant struct {
	Role   Role   // 0: that of the authority whose key is followed by another one
	URL    string // where stations reach it; "": where the one before it is reached
	Peer   string // of an enrolment authority: where authorization authorities reach it; likewise
	Digest string // that the request must have, in hexadecimal digits, as it was told on another way; "": not compared
}

// Issue gives an authority its certificate, for a request that is signed with the key that it is for and, if it has a certificate already, with the key of that one.
// What the certificate says follows from the role; of the request come keys and name. It needs the permission v2x.root.
func (s *Service) Issue(ctx context.Context, actor access.Actor, request []byte, g Grant) (*Authority, error) {
	if err := s.Access.Require(ctx, actor, access.V2XRoot, "v2x "+g.Role.String()); err != nil {
		return nil, err
	}
	root, err := s.Credential(ctx, Root)
	if err != nil {
		return nil, err
	}
	if have := RequestDigest(request); g.Digest != "" && !strings.EqualFold(strings.ReplaceAll(g.Digest, ":", ""), have) {
		return nil, errs.New(errs.Invalid, "the request is another one than was told of: its digest is %s", have)
	}
	r, before, err := s.readApplication(ctx, request)
	if err != nil {
		return nil, err
	}
	if err := g.follow(before); err != nil {
		return nil, err
	}
	name := r.RequestedSubjectAttributes.Id.Value.Name
	x := s.certificate(g.Role, name, r.PublicKeys.VerificationKey, its.Duration{Choice: its.Years, Value: authorityYears})
	x.ToBeSigned.EncryptionKey = r.PublicKeys.EncryptionKey
	if g.Role == AA && s.Compact {
		x.ToBeSigned.Flags = coer.Some(its.UsesCubk)
	}
	x.ToBeSigned.ValidityPeriod = x.ToBeSigned.ValidityPeriod.Within(root.Certificate.ToBeSigned.ValidityPeriod)
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
	a.URL, a.Peer, a.Created = g.URL, g.Peer, max(s.Now().Unix(), s.State().newest(g.Role)+1)
	more := map[string]string{detailRequest: RequestDigest(request)}
	if before != nil {
		a.Created = max(a.Created, before.Created+1)
		more[detailFollows] = before.ID.String()
	}
	err = s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if _, err := tx.Exec(ctx, insertAuthority, a.row()...); err != nil {
			return err
		}
		return s.record(ctx, tx, actor, a, "v2x.issue", more)
	})
	if err != nil {
		return nil, err
	}
	return a, s.publishAll(ctx, Root)
}

// follow completes a grant by what an authority has already.
func (g *Grant) follow(before *Authority) error {
	if before != nil {
		if g.Role == 0 {
			g.Role = before.Role
		}
		if g.Role != before.Role {
			return errs.New(errs.Invalid, "the request follows on a certificate of the role %s", before.Role)
		}
		g.URL, g.Peer = cmp.Or(g.URL, before.URL), cmp.Or(g.Peer, before.Peer)
	}
	if g.Role != EA && g.Role != AA {
		return errs.New(errs.Invalid, "a first request does not say which authority it is for: name the role by --role, ea or aa, its address by --url (of an ea that for authorization authorities by --peer), and by --digest the digest that its operators told")
	}
	if g.URL == "" || g.Role == EA && g.Peer == "" {
		return errs.New(errs.Invalid, "the trust list says where an authority is reached: name its address (--url), and for an enrolment authority that for authorization authorities (--peer)")
	}
	return nil
}

// Install takes the certificate that this store applied for, and the root that issued it, which is believed from then on. It needs the
// permission to manage authorities of the role, and v2x.root where another root is believed than the one that is new.
func (s *Service) Install(ctx context.Context, actor access.Actor, cert, root []byte) (*Authority, error) {
	a, r, err := s.received(cert, root)
	if err == nil {
		err = s.mayInstall(ctx, actor, a, r)
	}
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

// mayInstall says whether an actor may install a certificate, by the role that it has, and have its root believed. Once a store believes one, another one comes by a
// link certificate (Follow) or by whoever may run the root: who runs an authority does not choose by whom everybody in the store is judged.
func (s *Service) mayInstall(ctx context.Context, actor access.Actor, a, root *Authority) error {
	need := access.V2XEnrolment
	if a.Certificate.CheckRole(its.EtsiAA, 0) == nil {
		need = access.V2XTickets
	}
	if err := s.Access.Require(ctx, actor, need, "v2x"); err != nil {
		return err
	}
	if err := s.Load(ctx); err != nil {
		return err
	}
	if st := s.State(); len(st.Roots) > 0 && st.publishers[root.ID] == nil {
		return s.Access.Require(ctx, actor, access.V2XRoot, "v2x "+root.ID.String())
	}
	return nil
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
	known, err := lockAuthority(ctx, tx, root.ID)
	if err == nil && known == nil {
		err = s.insert(ctx, tx, actor, root, "v2x.trust")
	}
	if err != nil {
		return err
	}
	if known, err = lockAuthority(ctx, tx, a.ID); err != nil {
		return err
	}
	more := map[string]string{detailPending: applied}
	if known == nil {
		a.Created = max(a.Created, s.State().newest(a.Role)+1)
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

// Revoke revokes an authority for good and publishes new lists. It needs the permission v2x.root.
func (s *Service) Revoke(ctx context.Context, actor access.Actor, id its.HashedId8) error {
	if err := s.Access.Require(ctx, actor, access.V2XRoot, "v2x "+id.String()); err != nil {
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
		if a.Role == Manager {
			return errs.New(errs.Invalid, "no list says that a trust list manager is revoked: its stations have to be told in another way")
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
	return s.publishAll(ctx, Root)
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

// Move says where an authority is reached; it publishes a new trust list if that is new. It needs the permission v2x.root.
func (s *Service) Move(ctx context.Context, actor access.Actor, id its.HashedId8, url, peer string) error {
	if err := s.Access.Require(ctx, actor, access.V2XRoot, "v2x "+id.String()); err != nil {
		return err
	}
	err := s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		a, err := lockAuthority(ctx, tx, id)
		if err != nil {
			return err
		}
		if a == nil || a.Role != EA && a.Role != AA {
			return errs.New(errs.NotFound, "there is no authority %s that a trust list names", id)
		}
		if a.URL == url && a.Peer == peer {
			return nil
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
	return s.publishAll(ctx, Root)
}

// renewAt says whether a list that was made at one time and ends at another is to be renewed.
func renewAt(ends its.Time32, life time.Duration, at its.Time64) bool {
	return at+its.Time64(life.Microseconds()/4) >= its.Time64(ends)*1e6
}

func sameOctets(a, b []byte) bool { return bytes.Equal(a, b) }
