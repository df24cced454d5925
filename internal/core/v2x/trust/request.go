package trust

import (
	"context"
	"crypto/sha256"
	"encoding/hex"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/key"
	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/scr"
	"mooring/wire/spdu"
)

// RequestDigest is the SHA-256 of a request for the certificate of an authority, in hexadecimal digits. Whoever brings an initial request tells it on another way,
// since anybody can sign a request with a key of their own (TS 102 941, 6.2.1).
func RequestDigest(request []byte) string {
	sum := sha256.Sum256(request)
	return hex.EncodeToString(sum[:])
}

// Apply makes the keys of an authority and asks for its certificate: the result is a CaCertificateRequest, signed with the new key (TS 102 941, 6.2.1). It needs
// the permission to manage authorities of the role.
func (s *Service) Apply(ctx context.Context, actor access.Actor, role Role, name string) ([]byte, error) {
	if err := s.mayApply(ctx, actor, role); err != nil {
		return nil, err
	}
	if name == "" || len(name) > 255 {
		return nil, errs.New(errs.Invalid, "a name has 1 to 255 octets")
	}
	request, p, err := s.application(ctx, role, name, nil)
	if err != nil {
		return nil, err
	}
	return request, s.wait(ctx, actor, p)
}

// Rekey makes new keys of the authority of a role and asks for the certificate that follows the one that it has: the request is signed with the new key, and all of
// that with the key of its certificate, which must be valid and not revoked (TS 102 941, 6.2.1). It needs the permission to manage authorities of the role.
func (s *Service) Rekey(ctx context.Context, actor access.Actor, role Role) ([]byte, error) {
	if err := s.mayApply(ctx, actor, role); err != nil {
		return nil, err
	}
	old, err := s.Credential(ctx, role)
	if err != nil {
		return nil, err
	}
	if s.over(old.Authority) || s.State().Bars(old.ID) {
		return nil, errs.New(errs.Denied, "the certificate of %s has ended or is revoked: it can ask for no other one, but has to begin anew (request)", old.Name)
	}
	request, p, err := s.application(ctx, role, old.Name, old)
	if err != nil {
		return nil, err
	}
	return request, s.wait(ctx, actor, p)
}

func (s *Service) mayApply(ctx context.Context, actor access.Actor, role Role) error {
	if err := s.Access.Require(ctx, actor, role.manages(), "v2x "+role.String()); err != nil {
		return err
	}
	if role != EA && role != AA {
		return errs.New(errs.Invalid, "an authority of the role %s signs its own certificate", role)
	}
	return nil
}

// application makes the keys of an authority and the request for its certificate, which old signs as well if it is not nil.
func (s *Service) application(ctx context.Context, role Role, name string, old *Credential) ([]byte, *pending, error) {
	tail, err := random()
	if err != nil {
		return nil, nil, err
	}
	secret := "v2x-" + role.String() + "-" + tail
	private, err := s.private(ctx, secret)
	if err != nil {
		return nil, nil, err
	}
	id, pub, err := s.Keys.Generate(ctx, key.P256, "V2X "+role.String()+" "+name)
	if err != nil {
		return nil, nil, err
	}
	k, err := scr.VerificationKey(pub)
	if err != nil {
		return nil, nil, err
	}
	app, issue := permissions(role)
	content := its.EtsiTs102941DataContent{Choice: its.CaRequest, CaCertificateRequest: &its.CaCertificateRequest{
		PublicKeys:                 its.PublicKeys{VerificationKey: k, EncryptionKey: coer.Some(scr.EncryptionKey(private))},
		RequestedSubjectAttributes: its.CertificateSubjectAttributes{Id: coer.Some(its.Name(name)), AppPermissions: app, CertIssuePermissions: issue}}}
	signer, err := s.Keys.Signer(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	signed, err := scr.Sign(content, s.At(), scr.Signer(signer, nil))
	if err == nil && old != nil {
		signed, err = spdu.Sign(its.SignedDataPayload{Data: signed}, scr.Header(s.At()), old.Signer)
	}
	if err != nil {
		return nil, nil, err
	}
	request, err := coer.Marshal(signed)
	return request, &pending{digestOf(&k), int16(role), name, string(id), secret, s.Now().Unix()}, err
}

// wait notes that a key waits for its certificate.
func (s *Service) wait(ctx context.Context, actor access.Actor, p *pending) error {
	return s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if _, err := tx.Exec(ctx, insertPending, p.spki, p.role, p.name, p.own, p.secret, p.created); err != nil {
			return err
		}
		return s.Audit.Append(ctx, tx, audit.Entry{Action: "v2x.apply", Actor: actor.String(), Object: Role(p.role).String() + " " + p.name, Detail: map[string]string{detailPending: p.mark()}})
	})
}

func digestOf(k *its.PublicVerificationKey) []byte {
	b, _ := coer.Normal(k) // what was read or made can be written
	sum := sha256.Sum256(b)
	return sum[:]
}

// readApplication reads the request of an authority and verifies that it was signed with the key that it is for. If it has a certificate already, that is who signed
// around it.
func (s *Service) readApplication(ctx context.Context, request []byte) (*its.CaCertificateRequest, *Authority, error) {
	d, err := its.ParseData(request, its.MaxRequest)
	if err != nil {
		return nil, nil, errs.Wrap(errs.Invalid, err, "the request cannot be read")
	}
	all, err := s.authorities(ctx)
	if err != nil {
		return nil, nil, err
	}
	var before *Authority
	if inner := insideOf(d); inner != nil {
		if before, err = s.follows(d.Content.SignedData, all); err != nil {
			return nil, nil, err
		}
		d = inner
	}
	r, err := readInitial(d)
	if err != nil {
		return nil, nil, err
	}
	name := r.RequestedSubjectAttributes.Id.Value.Name
	if before != nil && before.Name != name {
		return nil, nil, errs.New(errs.Invalid, "the request is for the name %q, and is signed by %q", name, before.Name)
	}
	for _, a := range all {
		if string(digestOf(&a.Certificate.ToBeSigned.VerifyKeyIndicator.VerificationKey)) == string(digestOf(&r.PublicKeys.VerificationKey)) {
			return nil, nil, errs.New(errs.Conflict, "the key of the request has a certificate already, %s", a.ID)
		}
	}
	return r, before, nil
}

// insideOf is the signed message that a signed message is made of, nil if it is of something else.
func insideOf(d *its.Ieee1609Dot2Data) *its.Ieee1609Dot2Data {
	if s := d.Content.SignedData; d.Content.Choice == its.ContentSigned && s != nil && s.TbsData.Payload.Data != nil && s.TbsData.Payload.Data.Content.Choice == its.ContentSigned {
		return s.TbsData.Payload.Data
	}
	return nil
}

// follows is the authority that signed a request for its next certificate.
func (s *Service) follows(by *its.SignedData, all []*Authority) (*Authority, error) {
	h := &by.TbsData.HeaderInfo
	made, timed := h.GenerationTime.Get()
	if by.Signer.Choice != its.SignerDigest || h.Psid != its.PsidSCR || !timed {
		return nil, errs.New(errs.Invalid, "the request is not signed as TS 102 941 says: around it signs the certificate that it follows, by its digest")
	}
	for _, a := range all {
		if a.ID != by.Signer.Digest || a.Role != EA && a.Role != AA {
			continue
		}
		switch {
		case a.Revoked != 0 || s.over(a) || !a.Certificate.ToBeSigned.ValidityPeriod.Contains(made):
			return nil, errs.New(errs.Denied, "the certificate that signs the request has ended or is revoked: the authority has to begin anew")
		case by.Verify(a.Certificate, nil) != nil:
			return nil, errs.New(errs.Invalid, "the request is not signed by the certificate that it names")
		}
		return a, nil
	}
	return nil, errs.New(errs.Invalid, "the request is signed by %s, to whom this root has not issued", by.Signer.Digest)
}

func readInitial(d *its.Ieee1609Dot2Data) (*its.CaCertificateRequest, error) {
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
