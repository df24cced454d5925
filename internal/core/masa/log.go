package masa

import (
	"bytes"
	"context"
	"crypto/x509"
	"slices"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/device"
	"mooring/wire/voucher"
)

// fullLog is up to how many vouchers the log tells each of. Of more, only the newest of each domain stands there, with the number of the others (RFC 8995, section
// 5.8.1).
const fullLog = 64

// AuditLog tells the registrar of a domain which vouchers there were for a device (RFC 8995, section 5.8), newest first. peer is as with Issue; the
// request may be the one for which there was a voucher. The error is NotFound for registrars that never had a voucher for the device.
func (s *Service) AuditLog(ctx context.Context, actor access.Actor, peer []*x509.Certificate, request *voucher.SignedRequest) (voucher.AuditLog, error) {
	a := &asking{actor: actor, request: request, log: true}
	err := s.understand(ctx, a, peer)
	switch {
	case err != nil || a.had() > 0:
	case a.mine():
		err = errs.New(errs.NotFound, "the registrar never had a voucher for this device")
	default: // nor is it told that there is such a device
		err = unknownDevice()
	}
	if err != nil {
		s.recordRefusal(ctx, a, err)
		return voucher.AuditLog{}, err
	}
	return abridge(a.earlier), nil
}

// abridge makes the log of all vouchers for a device.
func abridge(all []Issued) (l voucher.AuditLog) {
	for _, v := range slices.Backward(all) {
		e := voucher.Event{Date: time.Unix(v.At, 0).UTC(), DomainID: v.Domain, Assertion: v.Assertion}
		if len(v.Nonce) > 0 {
			e.Nonce = voucher.NonceText(v.Nonce)
		}
		at := -1
		if len(all) > fullLog {
			at = slices.IndexFunc(l.Events, func(other voucher.Event) bool {
				return bytes.Equal(other.DomainID, e.DomainID) && (other.Nonce == "") == (e.Nonce == "")
			})
		}
		switch {
		case at < 0:
			l.Events = append(l.Events, e)
			continue
		case e.Nonce == "":
			l.Truncation.NoncelessDuplicates++
		default:
			l.Truncation.NoncedDuplicates++
		}
		l.Events[at].Truncated++
	}
	return l
}

// Vouchers returns the vouchers for a product, in their order. It needs device.read.
func (s *Service) Vouchers(ctx context.Context, actor access.Actor, p device.Product) ([]Issued, error) {
	if err := s.Access.Require(ctx, actor, access.DeviceRead, "vouchers"); err != nil {
		return nil, err
	}
	if p.Maker == "" || p.Serial == "" {
		return nil, errs.New(errs.Invalid, "serial: give the manufacturer and the serial number of the device")
	}
	return s.vouchers(ctx, p)
}
