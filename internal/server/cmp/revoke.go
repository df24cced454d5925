package cmp

import (
	"bytes"
	"log/slog"

	"mooring/internal/base/errs"
	"mooring/internal/core/revoke"
	"mooring/wire/cmp"
)

// revocation answers rr (RFC 9483, section 4.2): a device may have its own certificates revoked.
func (x *exchange) revocation(t *transaction, list cmp.Revocations) ([]byte, error) {
	one := &list[0]
	switch {
	case len(list) != 1:
		return x.refused(refuse(cmp.BadRequest, "%d revocations in one message; one is taken", len(list)))
	case one.Template.Serial == nil || one.Template.Issuer == nil:
		return x.refused(refuse(cmp.AddInfoNotAvailable, "a revocation names the certificate by serialNumber and issuer"))
	case one.Reason < 0:
		return x.refused(refuse(cmp.BadRequest, "the reasonCode is none"))
	}
	t.finish()
	serial := bytes.TrimLeft(one.Template.Serial, "\x00")
	result, id, err := x.Enrol.RevokeOwn(x.ctx, x.request(), one.Template.Issuer, serial, revoke.Reason(one.Reason))
	if id != "" {
		x.note(slog.String("device", id))
	}
	out := &cmp.Revoked{List: []cmp.Status{{}}, Certs: []cmp.CertID{{Issuer: one.Template.Issuer, Serial: serial}}}
	switch {
	case err != nil && (errs.Is(err, errs.Internal) || errs.Is(err, errs.Unavailable)):
		return x.fail(err)
	case err != nil:
		x.tell(err)
		out.List[0] = cmp.Refused(x.revocationFailure(err), errs.Public(err))
	case result.Already:
		again := refuse(cmp.CertRevoked, "the certificate is revoked already")
		x.Enrol.Refuse(x.ctx, x.request(), again)
		x.tell(again)
		out.List[0] = cmp.Refused(cmp.CertRevoked, errs.Public(again))
	}
	return x.reply(out, nil, nil)
}

// revocationFailure differs from failure in what is wrong with a request: no template, but a reason.
func (x *exchange) revocationFailure(err error) cmp.Failure {
	if f := x.failure(err); f != cmp.BadCertTemplate {
		return f
	}
	return cmp.BadRequest
}
