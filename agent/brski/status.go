package brski

import (
	"context"
	"errors"
	"net/http"

	"mooring/agent/est"
	wire "mooring/wire/est"
	"mooring/wire/voucher"
)

// TellVoucher tells the registrar what the device thinks of the voucher (RFC 8995, section 5.7): that it was accepted, when outcome is nil, else why not. It returns
// outcome, since what the registrar says to that changes nothing, and nothing that goes wrong then.
func TellVoucher(ctx context.Context, s *est.Session, outcome error) error {
	_ = tell(ctx, s, voucher.VoucherStatus, outcome) // see above
	return outcome
}

// TellEnrolment tells the registrar how the enrolment went (RFC 8995, section 5.9.4). Success is to be told over a new connection with the new certificate, failure
// over that of the enrolment. A registrar that does not want to know is no error.
func TellEnrolment(ctx context.Context, s *est.Session, outcome error) error {
	err := tell(ctx, s, voucher.EnrollStatus, outcome)
	var refused *est.RefusedError
	if errors.As(err, &refused) && !refused.Temporary() {
		return nil
	}
	return err
}

func tell(ctx context.Context, s *est.Session, op string, outcome error) error {
	status := voucher.Status{Status: outcome == nil}
	if outcome != nil {
		status.Reason = est.Clean(outcome.Error())
	}
	body, err := status.Encode()
	if err != nil {
		return err
	}
	_, _, err = s.Post(ctx, wire.Operation(op), voucher.WellKnown+op, http.Header{"Content-Type": {voucher.StatusType}}, body)
	return err
}
