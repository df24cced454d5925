package app

import (
	"context"

	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/device"
)

// roleNow returns the role that an actor of an earlier time has now: that of the profile for which he is registered, while he is active. Whether his
// certificate has ended meanwhile does not matter; who owns the machine stays what he is.
func (p *Platform) roleNow(ctx context.Context, was access.Actor) (access.Role, error) {
	if was.Kind != access.KindOperator {
		return was.Role, nil
	}
	id, err := device.ParseID(was.ID)
	if err != nil {
		return access.RoleNone, nil // nobody who could be known
	}
	d, err := p.Devices.Load(ctx, id)
	if errs.Is(err, errs.NotFound) {
		return access.RoleNone, nil
	}
	if err != nil || !d.State.Active() {
		return access.RoleNone, err
	}
	profile, err := p.CA.Profile(d.Profile)
	if errs.Is(err, errs.NotFound) {
		return access.RoleNone, nil
	}
	if err != nil {
		return access.RoleNone, err
	}
	return profile.Grants, nil
}
