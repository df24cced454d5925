package api

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/device"
	"mooring/internal/server/api/v1"
)

// find returns the device called nameOrID. The error for one that is not there names what was asked for and what to do.
func (s *server) find(ctx context.Context, actor access.Actor, nameOrID string) (device.Device, error) {
	d, err := s.Devices.Get(ctx, actor, nameOrID)
	if errs.Is(err, errs.NotFound) {
		err = errs.Wrap(errs.NotFound, err, "there is no device %q: look for its name in the list of devices, or register it", shortened(nameOrID))
	}
	return d, err
}

// whyNotAdded says more of why b could not be registered, once core has refused it.
func (s *server) whyNotAdded(ctx context.Context, actor access.Actor, b *v1.NewDevice, err error) error {
	switch {
	case errs.Is(err, errs.Invalid):
		return cmp.Or(s.unknownProfile(errs.Invalid, b.Profile), err)
	case !errs.Is(err, errs.Conflict):
		return err
	}
	d, missing := s.Devices.Get(ctx, actor, b.Name)
	if missing != nil || d.State != device.Lost && d.State != device.Retired {
		return err // it is something else, such as the birth certificate
	}
	return errs.Wrap(errs.Conflict, err, "name: %q is spent: the device of that name is %s, and a name that was in the record is never given again, "+
		"so that the record speaks of one device; choose another", d.Name, d.State)
}

// mostChoices bounds how many profiles an error names.
const mostChoices = 20

// unknownProfile returns an error of kind k that names the profiles there are, or nil when name is one of them or empty.
func (s *server) unknownProfile(k errs.Kind, name string) error {
	if _, err := s.Profiles.Get(name); err == nil || name == "" {
		return nil
	}
	var known []string
	for _, p := range s.Profiles.All() {
		known = append(known, p.Name)
	}
	more := ""
	if len(known) > mostChoices {
		more = fmt.Sprintf(" or one of %d others", len(known)-mostChoices)
		known = known[:mostChoices]
	}
	return errs.New(k, "profile: there is no profile %q: use %s%s. New files are read when the server starts", shortened(name), strings.Join(known, ", "), more)
}

// actions are those that entries of the record can have.
func actions() []string {
	return []string{"access.refuse", "acme.purge", "acme.refuse", "acme.release", "acme.validate", "approve.grant", "approve.refuse", "approve.request", "approve.spend", "approve.withdraw",
		"audit.drop", "audit.snapshot", "ca.ceremony", "ca.create", "ca.cross", "ca.import", "ca.request", "ca.responder", "ca.withdraw", "campaign.abort", "campaign.approve", "campaign.create",
		"campaign.excuse", "campaign.finish", "campaign.pause", "campaign.refuse", "campaign.resume", "campaign.start", "cert.confirm", "cert.ephemeral", "cert.hold", "cert.issue", "cert.purge",
		"cert.release", "cert.revoke", "crl.delta", "crl.import", "crl.publish", "device.add", "device.change", "device.import", "device.rescue", "device.state", "device.token", "enrol.approve",
		"enrol.deny", "enrol.refuse", "enrol.request", "job.create", "job.fill", "job.forget", "job.move", "job.step", "key.exhausted", "key.limit", "key.use", "maker.add", "maker.change", "maker.remove",
		"masa.refuse", "masa.register", "masa.remove", "masa.voucher", "message.connect", "message.cut", "message.end", "message.flap", "message.policy", "message.publish", "message.subscribe", "message.tap", "profile.load",
		"registrar.enrolled", "registrar.refuse", "registrar.status", "registrar.voucher", "sink.drop", "sink.read", "sink.retry",
		"v2x.accept", "v2x.admit", "v2x.apply", "v2x.archive", "v2x.butterfly", "v2x.download", "v2x.enrol", "v2x.expel", "v2x.install", "v2x.issue", "v2x.issued", "v2x.link", "v2x.mix", "v2x.move", "v2x.plan", "v2x.publish", "v2x.revoke", "v2x.revoke-credential", "v2x.root", "v2x.ticket", "v2x.tlm", "v2x.trust", "v2x.validate"}
}

func checkAction(name string) error {
	if name == "" || slices.Contains(actions(), name) {
		return nil
	}
	return errs.New(errs.Invalid, "action: there is no action %q: use %s", shortened(name), strings.Join(actions(), ", "))
}

// parseTokenLife reads how long a token shall be good; "" is 0. It is asked before anything is stored.
func parseTokenLife(field, text string) (time.Duration, error) {
	life, err := parseLength(field, text)
	if err == nil && life != 0 && (life < time.Minute || life > device.TokenLifeMost) {
		err = errs.New(errs.Invalid, "%s: a token is good for one minute to %d days", field, device.TokenLifeMost/(24*time.Hour))
	}
	return life, err
}
