package ea

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"time"

	"mooring/internal/core/v2x/trust"
	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/its/chain"
	"mooring/wire/scr"
)

// judgeValidation decides on a question by everything but what is in the database of a station.
func (s *Service) judgeValidation(ctx context.Context, v *validating) (err error) {
	for _, check := range []func(*validating) its.AuthorizationValidationResponseCode{s.ours, s.openSignature} {
		if v.code = check(v); v.code != its.ValidationOk {
			return nil
		}
	}
	if v.cred, err = s.recent(ctx, v.signed.Signer.Digest); err != nil {
		return err
	}
	for _, check := range []func(*validating) its.AuthorizationValidationResponseCode{s.station, s.wanted} {
		if v.code = check(v); v.code != its.ValidationOk {
			return nil
		}
	}
	return nil
}

// authority checks that who asks is an authorization authority of the trust list, and may ask.
func (s *Service) authority(q *inquiry) its.AuthorizationValidationResponseCode {
	if q.outer.Signer.Choice != its.SignerDigest {
		return its.ValidationInvalidAa
	}
	e, err := s.Trust.State().Find(q.outer.Signer.Digest, trust.AA, s.Trust.At())
	if err != nil {
		return its.ValidationInvalidAa
	}
	aa, err := s.peers.Of(q.outer.Signer.Digest, &e.Aa.AaCertificate)
	if err != nil {
		return its.ValidationInvalidAa
	}
	q.aa = aa.Signatory.Certificate
	if q.outer.VerifyBy(aa.Signatory) != nil {
		return its.ValidationInvalidAaSignature
	}
	return its.ValidationOk
}

func (s *Service) ours(v *validating) its.AuthorizationValidationResponseCode {
	if v.asked.SharedAtRequest.EaId != v.ea.ID {
		return its.ValidationWrongEa
	}
	return its.ValidationOk
}

// openSignature opens the signature of the station.
func (s *Service) openSignature(v *validating) its.AuthorizationValidationResponseCode {
	d := v.asked.EcSignature.Data
	if v.asked.EcSignature.Choice == its.EcSignatureEncrypted {
		inner, err := scr.OpenInside(d, v.ea.Holder)
		var f scr.Fault
		switch {
		case errors.Is(err, scr.NotRecipient):
			return its.ValidationWrongEa
		case errors.Is(err, scr.DecryptionFailed) && !scr.UsableWrap(d, v.ea.ID): // the one key that this authority sees of a request
			return its.ValidationInvalidEncryptionKey
		case errors.As(err, &f):
			return its.AuthorizationValidationResponseCode(f)
		}
		d = inner
	}
	var err error
	if v.signed, v.hash, err = scr.SignedDigest(d); err != nil {
		return its.ValidationBadContentType
	}
	return its.ValidationOk
}

// station checks who signed, and that it was this request. Whether the device may have anything is decided where the ticket is counted.
func (s *Service) station(v *validating) its.AuthorizationValidationResponseCode {
	if v.cred == nil || v.signed.Signer.Choice != its.SignerDigest {
		return its.ValidationUnknownIts
	}
	shared, err := scr.Shared(&v.asked.SharedAtRequest)
	if err != nil || !bytes.Equal(shared, v.hash) || v.signed.VerifyBy(v.cred.signatory) != nil {
		return its.ValidationInvalidSignature
	}
	if !v.cred.cert.ToBeSigned.ValidityPeriod.Contains(s.Trust.At()) || !s.fresh(v.outer) || !s.fresh(v.signed) {
		return its.ValidationDeniedRequest
	}
	return its.ValidationOk
}

// permissionsMost is how many applications a ticket may have; those that there are, are fewer.
const permissionsMost = 64

// Permissions are what tickets of stations may be for.
func Permissions() []its.PsidGroupPermissions {
	bitmap := func(p its.Psid, value, mask []byte) its.PsidSspRange {
		return its.PsidSspRange{Psid: p, SspRange: coer.Some(its.SspRange{Choice: its.SspRangeBitmap, SspValue: value, SspBitmask: mask})}
	}
	return []its.PsidGroupPermissions{its.Group(its.SubjectPermissions{Explicit: []its.PsidSspRange{
		bitmap(its.PsidCAM, []byte{1, 0xff, 0xfc}, []byte{0xff, 0, 3}), bitmap(its.PsidDENM, []byte{1, 0xff, 0xff, 0xff}, []byte{0xff, 0, 0, 0})}})}
}

// wanted checks what the ticket is to say, and decides on its time.
func (s *Service) wanted(v *validating) its.AuthorizationValidationResponseCode {
	r := &v.asked.SharedAtRequest
	a := &r.RequestedSubjectAttributes
	if r.CertificateFormat != its.FormatTs103097 || a.CertIssuePermissions != nil || len(a.AppPermissions) == 0 || a.Id.Present && a.Id.Value.Choice != its.IdNone ||
		a.AssuranceLevel.Present || a.Region.Present {
		return its.ValidationDeniedPermissions
	}
	for i, p := range a.AppPermissions {
		twice := slices.ContainsFunc(a.AppPermissions[:i], func(before its.PsidSsp) bool { return before.Psid == p.Psid })
		if i >= permissionsMost || twice || !chain.MayIssue(s.permissions, p) {
			return its.ValidationDeniedPermissions
		}
	}
	want, wants := a.ValidityPeriod.Get()
	if !wants {
		v.period = s.usual(v.aa)
		return its.ValidationOk
	}
	v.period = want
	now := its.Time32(s.Trust.At() / 1e6)
	switch limit := uint64(s.Policy.Ticket.Microseconds()); {
	case want.Duration.Microseconds() > limit, want.Duration.Choice < its.Seconds, want.Duration.Value == 0, want.End() <= now,
		want.Start > now+its.Time32(s.Policy.Preload/time.Second), want.Start < v.aa.ToBeSigned.ValidityPeriod.Start: // it may have begun: all tickets of a week can begin with it, whoever asks when
		return its.ValidationDeniedPermissions
	}
	return its.ValidationOk
}

// sameStart is for how long tickets that are asked for without a time begin at the same moment.
const sameStart = time.Hour

// usual is the time of a ticket that is asked for without one. It begins with the hour, as the record has it: the second of the request, which stands beside the
// station in this store, would stand in the ticket as well, and everybody who meets the ticket could tell whose it is.
func (s *Service) usual(aa *its.Certificate) its.ValidityPeriod {
	unit := int64(max(1, min(sameStart, s.Policy.Ticket/24)/time.Second))
	begin := its.Time32(its.TimeAt(time.Unix(s.Now().Unix()/unit*unit, 0), s.Trust.Leap) / 1e6)
	return its.ValidityPeriod{Start: max(begin, aa.ToBeSigned.ValidityPeriod.Start), Duration: hours(s.Policy.Ticket)}
}

// confirmed is what the ticket is to say.
func (v *validating) confirmed() its.CertificateSubjectAttributes {
	return its.CertificateSubjectAttributes{ValidityPeriod: coer.Some(v.period), AppPermissions: v.asked.SharedAtRequest.RequestedSubjectAttributes.AppPermissions}
}
