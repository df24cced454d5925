package ea

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/v2x/trust"
	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/scr"
)

// enrolling is a request for a credential under way.
type enrolling struct {
	from   access.Actor
	ea     *trust.Credential
	opened scr.Opened
	digest []byte // SHA-256 of the request
	outer  *its.SignedData
	pop    *its.SignedData
	inner  its.InnerEcRequest
	who    *station
	old    *credential // of a re-enrolment
	key    *its.PublicVerificationKey
}

// Enrol answers a request for an enrolment credential (TS 102 941, 6.2.3.2). A request that is sent again gets the same answer. The error is an Unanswerable, or says
// that the authority cannot work at the moment.
func (s *Service) Enrol(ctx context.Context, from access.Actor, request []byte) ([]byte, error) {
	e := &enrolling{from: from, digest: digest(request)}
	if answer, err := s.answered(ctx, e.digest); answer != nil || err != nil {
		return answer, err
	}
	var err error
	if e.ea, err = s.Trust.Recipient(ctx, trust.EA, request); err != nil {
		return nil, err
	}
	code, err := s.judgeEnrolment(ctx, e, request)
	if err != nil {
		return nil, err
	}
	if code != its.EnrolmentOk {
		return s.refuseEnrolment(ctx, e, code)
	}
	return s.issueCredential(ctx, e)
}

func (s *Service) answered(ctx context.Context, request []byte) (answer []byte, err error) {
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Get(ctx, []any{&answer}, selectAnswer, request)
		return err
	})
	return answer, err
}

// judgeEnrolment goes through the checks in the order of their codes, as far as one does not need another.
func (s *Service) judgeEnrolment(ctx context.Context, e *enrolling, request []byte) (its.EnrolmentResponseCode, error) {
	if err := e.read(request); err != nil {
		var f scr.Fault
		if !errors.As(err, &f) {
			return 0, err
		}
		return its.EnrolmentResponseCode(f), nil
	}
	if err := s.identify(ctx, e); err != nil {
		return 0, err
	}
	for _, check := range []func(*enrolling) its.EnrolmentResponseCode{s.known, s.proven, usable, s.active, complete, permitted, s.timely} {
		if code := check(e); code != its.EnrolmentOk {
			return code, nil
		}
	}
	return its.EnrolmentOk, nil
}

// read opens all layers.
func (e *enrolling) read(request []byte) (err error) {
	if e.opened, err = scr.Open(request, e.ea.Holder); err != nil {
		return err
	}
	outer, octets, err := scr.Signed(e.opened.Message)
	if err != nil {
		return err
	}
	e.outer = outer
	content, err := scr.Content(octets, its.EnrolmentRequest)
	if err != nil {
		return err
	}
	pop, octets, err := scr.Signed(content.Data)
	if err != nil {
		return err
	}
	e.pop = pop
	if coer.Unmarshal(octets, &e.inner) != nil {
		return scr.CantParse
	}
	e.key = &e.inner.PublicKeys.VerificationKey
	return nil
}

// identify finds the station, if there is one: by its name, or by the credential that it has.
func (s *Service) identify(ctx context.Context, e *enrolling) (err error) {
	if e.outer.Signer.Choice == its.SignerSelf {
		e.who, err = s.byName(ctx, e.inner.ItsId)
		return err
	}
	if len(e.inner.ItsId) != len(its.HashedId8{}) {
		return nil
	}
	if e.old, err = s.credential(ctx, its.HashedId8(e.inner.ItsId)); e.old == nil || err != nil {
		return err
	}
	e.who, err = s.byID(ctx, e.old.device)
	return err
}

func (s *Service) known(e *enrolling) its.EnrolmentResponseCode {
	if e.who == nil {
		return its.EnrolmentUnknownIts
	}
	return its.EnrolmentOk
}

// proven verifies both signatures: that of the station, and that of the new key.
func (s *Service) proven(e *enrolling) its.EnrolmentResponseCode {
	var err error
	switch {
	case e.old == nil:
		err = e.outer.Verify(nil, &e.who.key)
	case e.outer.Signer.Choice != its.SignerDigest || !bytes.Equal(e.outer.Signer.Digest[:], e.inner.ItsId):
		err = its.ErrIssuer
	default:
		err = e.outer.Verify(e.old.cert, nil)
	}
	if err != nil {
		return its.EnrolmentInvalidSignature
	}
	switch err := e.pop.Verify(nil, e.key); {
	case errors.Is(err, its.ErrKey):
		return its.EnrolmentInvalidKeys // no signature can be verified with it
	case err != nil || e.pop.Signer.Choice != its.SignerSelf:
		return its.EnrolmentInvalidSignature
	}
	return its.EnrolmentOk
}

func usable(e *enrolling) its.EnrolmentResponseCode {
	if k, ok := e.inner.PublicKeys.EncryptionKey.Get(); ok && !scr.UsableForEncryption(&k) {
		return its.EnrolmentInvalidEncryptionKey
	}
	return its.EnrolmentOk
}

func (s *Service) active(e *enrolling) its.EnrolmentResponseCode {
	if !e.who.device.State.Active() || e.old != nil && (e.old.revoked || !e.old.cert.ToBeSigned.ValidityPeriod.Contains(s.Trust.At())) {
		return its.EnrolmentBadItsStatus
	}
	return its.EnrolmentOk
}

func complete(e *enrolling) its.EnrolmentResponseCode {
	a := &e.inner.RequestedSubjectAttributes
	if e.inner.CertificateFormat != its.FormatTs103097 || a.CertIssuePermissions == nil && len(a.AppPermissions) == 0 {
		return its.EnrolmentIncompleteRequest
	}
	return its.EnrolmentOk
}

// permitted lets through what a credential may say: that its holder may ask for credentials and tickets.
func permitted(e *enrolling) its.EnrolmentResponseCode {
	a := &e.inner.RequestedSubjectAttributes
	if a.CertIssuePermissions != nil || a.Region.Present || len(a.AppPermissions) != 1 {
		return its.EnrolmentDeniedPermissions
	}
	p := &a.AppPermissions[0]
	ssp := p.Ssp.Value
	if p.Psid != its.PsidSCR || ssp.Choice != its.SspBitmap || len(ssp.Value) != 2 || ssp.Value[0] != 1 || ssp.Value[1]&^0xc0 != 0 {
		return its.EnrolmentDeniedPermissions
	}
	return its.EnrolmentOk
}

func (s *Service) timely(e *enrolling) its.EnrolmentResponseCode {
	if !s.fresh(e.outer) || !s.fresh(e.pop) {
		return its.EnrolmentDeniedRequest
	}
	return its.EnrolmentOk
}

// refuseEnrolment records a refusal and answers with its code, if there is a key to answer with.
func (s *Service) refuseEnrolment(ctx context.Context, e *enrolling, code its.EnrolmentResponseCode) ([]byte, error) {
	entry := audit.Entry{Action: "v2x.enrol", Refused: code.String()}
	if e.who != nil {
		entry.Device = e.who.device.ID.String()
	}
	if err := s.Audit.Refuse(ctx, e.from, entry); err != nil {
		return nil, err
	}
	if e.opened.Session == nil {
		return nil, &Unanswerable{scr.Fault(code)}
	}
	return s.enrolmentAnswer(e, code, nil)
}

func (s *Service) enrolmentAnswer(e *enrolling, code its.EnrolmentResponseCode, cert *its.Certificate) ([]byte, error) {
	return s.answer(&e.opened, e.ea, its.EtsiTs102941DataContent{Choice: its.EnrolmentResponse,
		EnrolmentResponse: &its.InnerEcResponse{RequestHash: e.opened.Hash, ResponseCode: code, Certificate: cert}})
}

// issueCredential makes the credential and releases it once it is recorded.
func (s *Service) issueCredential(ctx context.Context, e *enrolling) ([]byte, error) {
	cert, err := s.makeCredential(e)
	if err != nil {
		return nil, err
	}
	answer, err := s.enrolmentAnswer(e, its.EnrolmentOk, cert)
	if err != nil {
		return nil, err
	}
	code, err := s.recordCredential(ctx, e, cert, answer)
	if db.IsConflict(err) { // the same request, at the same time
		if before, err := s.answered(ctx, e.digest); before != nil || err != nil {
			return before, err
		}
	}
	if err != nil {
		return nil, err
	}
	if code != its.EnrolmentOk {
		return s.refuseEnrolment(ctx, e, code)
	}
	return answer, nil
}

func (s *Service) makeCredential(e *enrolling) (*its.Certificate, error) {
	var tail [8]byte
	if _, err := io.ReadFull(s.Random, tail[:]); err != nil {
		return nil, err
	}
	x := &its.Certificate{ToBeSigned: its.ToBeSignedCertificate{Id: its.Name("ec-" + hex.EncodeToString(tail[:])),
		ValidityPeriod:     its.ValidityPeriod{Start: its.Time32(s.Trust.At() / 1e6), Duration: hours(s.Policy.Credential)}.Within(e.ea.Certificate.ToBeSigned.ValidityPeriod),
		AppPermissions:     []its.PsidSsp{its.Bitmap(its.PsidSCR, 1, 0xc0)},
		EncryptionKey:      e.inner.PublicKeys.EncryptionKey,
		VerifyKeyIndicator: its.VerificationKeyIndicator{VerificationKey: *e.key}}}
	if err := trust.Sign(x, e.ea.Certificate, e.ea.Signer.Sign); err != nil {
		return nil, err
	}
	st := s.Trust.State()
	root := st.RootOf(e.ea.Certificate)
	if root == nil {
		return nil, errs.New(errs.Unavailable, "the root of this enrolment authority is not believed here")
	}
	return x, errors.Join(x.CheckRole(its.EtsiEC, 0), st.Check([]*its.Certificate{x, e.ea.Certificate, root.Certificate}, s.Trust.At()))
}

func hours(d time.Duration) its.Duration {
	return its.Duration{Choice: its.Hours, Value: uint16(min(d/time.Hour, 1<<16-1))}
}

// recordCredential stores the credential with everything that comes of it, unless the station was stopped, its credential revoked or the key used in the meantime.
func (s *Service) recordCredential(ctx context.Context, e *enrolling, cert *its.Certificate, answer []byte) (code its.EnrolmentResponseCode, err error) {
	octets, err := coer.Marshal(cert)
	if err != nil {
		return 0, err
	}
	id, err := cert.HashedId8()
	if err != nil {
		return 0, err
	}
	key, err := keyDigest(e.key)
	if err != nil {
		return 0, err
	}
	expires := cert.ToBeSigned.ValidityPeriod.End().Time(s.Trust.Leap).Unix()
	err = s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		code = its.EnrolmentOk
		d, err := s.Devices.LockTx(ctx, tx, e.who.device.ID)
		if err != nil {
			return err
		}
		if !d.State.Active() || !d.Tagged(TagStation) || d.Policy != e.who.device.Policy {
			code = its.EnrolmentBadItsStatus
			return nil
		}
		if e.old != nil {
			if revoked, err := s.RevokedTx(ctx, tx, e.old.id); err != nil {
				return err
			} else if revoked[e.old.id] {
				code = its.EnrolmentBadItsStatus
				return nil
			}
		}
		issued := s.Now().Unix()
		if _, err := tx.Exec(ctx, insertAnswer, e.digest, answer, issued); err != nil {
			return err
		}
		var today int64
		if _, err := tx.Get(ctx, []any{&today}, countCredentials, e.who.device.ID[:], issued-24*3600); err != nil {
			return err
		}
		if today >= credentialsADay {
			code = its.EnrolmentDeniedRequest
			return errUsed // nothing is kept
		}
		n, err := tx.Exec(ctx, insertKey, key, expires)
		if err != nil {
			return err
		}
		if n == 0 {
			code = its.EnrolmentInvalidKeys
			return errUsed
		}
		dev := e.who.device.ID
		if _, err := tx.Exec(ctx, insertCredential, id[:], dev[:], octets, issued, expires); err != nil {
			return err
		}
		row := credentialMark(id[:], dev[:], octets, issued, expires)
		return s.Audit.Append(ctx, tx, audit.Entry{Action: "v2x.enrol", Actor: actor(e.from, e.who).String(), Device: dev.String(), Object: id.String(), Detail: map[string]string{detailRow: hex.EncodeToString(row[:])}})
	})
	if errors.Is(err, errUsed) {
		return code, nil
	}
	return code, err
}

var errUsed = errors.New("the key has a credential already, or the station has too many")

// credentialsADay is how many credentials a station gets in 24 hours. Each is kept until long after it ended; one that is in order needs one in years.
const credentialsADay = 32
