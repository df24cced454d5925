package revoke

import (
	"context"
	"slices"

	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/device"
)

// NotHeld is the refusal of a device that wants a certificate revoked which is not its own, or does not exist: the two are not told apart.
func NotHeld() error {
	return errs.New(errs.NotFound, "this device holds no such certificate: it may revoke its own ones only")
}

// ForHolder revokes a certificate at the wish of the device that holds it, which has proven to the caller who it is, or in its name. No permission
// is asked for but that: whoever holds a certificate may give it back. The reasons are those that a holder can know; for a compromised key the
// device's other certificates of that key go too, as they do with Certificate, whose rules on roles hold as well.
func (s *Service) ForHolder(ctx context.Context, actor access.Actor, holder device.ID, serial []byte, reason Reason) (Result, error) {
	if known := []Reason{Unspecified, KeyCompromise, AffiliationChanged, Superseded, CessationOfOperation}; !slices.Contains(known, reason) {
		return Result{}, errs.New(errs.Invalid, "a device cannot revoke for %s: use unspecified, keyCompromise, affiliationChanged, superseded or cessationOfOperation", reason)
	}
	of, known, err := s.known(ctx, access.System("revoke"), serial)
	if errs.Is(err, errs.NotFound) || err == nil && (of != nil || known.Device != [16]byte(holder)) {
		return Result{}, NotHeld()
	}
	if err != nil {
		return Result{}, err
	}
	return s.carryOut(ctx, actor, nil, known, serial, reason)
}
