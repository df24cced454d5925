package app

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/device"
	"mooring/internal/core/message/policy"
)

// What brokers of others have to be told besides the moves of devices: that a certificate or a CA is revoked, that a certificate has ended, and that the policy takes
// something away. Their connections end then; who may, connects again, under what holds now. It may concern the whole registry, so that none waits for it who
// caused it.

// chores are what is to be done later, one after the other.
type chores struct {
	mu   sync.Mutex
	list []func(context.Context) error // guarded by mu
	more chan struct{}                 // has room for one
}

// maxChores bounds what waits. Each is of a revocation, or of a policy.
const maxChores = 1 << 16

// later has something told to the brokers of others.
func (p *Platform) later(fn func(context.Context) error) {
	if p.brokers.outbox == nil {
		return
	}
	c := &p.brokers.chores
	c.mu.Lock()
	full := len(c.list) >= maxChores
	if !full {
		c.list = append(c.list, fn)
	}
	c.mu.Unlock()
	if full {
		p.log.LogAttrs(context.Background(), slog.LevelError, "too much waits to be told to brokers of others; connections there may be longer lived than what allowed them")
		return
	}
	select {
	case c.more <- struct{}{}:
	default: // it is awake already
	}
}

// runChores does them until ctx ends. What fails is tried again.
func (p *Platform) runChores(ctx context.Context) error {
	c := &p.brokers.chores
	for {
		c.mu.Lock()
		var fn func(context.Context) error
		if len(c.list) > 0 {
			fn = c.list[0]
		}
		c.mu.Unlock()
		if fn == nil {
			select {
			case <-c.more:
				continue
			case <-ctx.Done():
				return nil
			}
		}
		if err := fn(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			p.log.LogAttrs(ctx, slog.LevelWarn, "brokers of others could not be told whom to let go of; it is tried again", slog.Any("cause", err))
			select {
			case <-time.After(tellAgain):
				continue
			case <-ctx.Done():
				return nil
			}
		}
		c.mu.Lock()
		c.list = slices.Delete(c.list, 0, 1)
		c.mu.Unlock()
	}
}

// kickHolder has the holder of a revoked certificate let go of, if it is a device that is in order otherwise: of the others tellChange tells.
func (p *Platform) kickHolder(ctx context.Context, id device.ID) error {
	d, err := p.Devices.Load(ctx, id)
	if errs.Is(err, errs.NotFound) || err == nil && !d.State.Active() {
		return nil
	}
	if err != nil {
		return err
	}
	return p.brokers.outbox.Kick(ctx, []string{d.Name})
}

// kickAll has all devices let go of that fit f, and of which wanted says so; nil = all.
func (p *Platform) kickAll(ctx context.Context, f device.Filter, wanted func(*device.Device) bool) error {
	f.Limit = 1000
	for {
		page, next, err := p.Devices.List(ctx, access.System("brokers"), f)
		if err != nil {
			return err
		}
		var names []string
		for i := range page {
			if page[i].State.Active() && (wanted == nil || wanted(&page[i])) {
				names = append(names, page[i].Name)
			}
		}
		if len(names) > 0 {
			if err := p.brokers.outbox.Kick(ctx, names); err != nil {
				return err
			}
		}
		if next == "" {
			return nil
		}
		f.Cursor = next
	}
}

// ruled has the brokers of others let go of those from whom another policy takes something away: they ask about subscriptions when these are made, and not again.
func (p *Platform) ruled(before, after *policy.Set) {
	p.later(func(ctx context.Context) error {
		return p.kickAll(ctx, device.Filter{}, func(d *device.Device) bool {
			role := access.RoleNone
			if profile, err := p.Profiles.Get(d.Profile); err == nil {
				role = profile.Grants
			}
			return loses(p.subject(d, role), before, after)
		})
	})
}

// loses reports whether a thing has a rule by one policy that it has not by another, or only a lesser one.
func loses(s policy.Subject, before, after *policy.Set) bool {
	had, err := before.Compile(s)
	if err != nil {
		return false
	}
	has, err := after.Compile(s)
	if err != nil {
		return true
	}
	left := has.Rules()
	return slices.ContainsFunc(had.Rules(), func(r policy.Rule) bool { return !slices.Contains(left, r) })
}

// ended reports whether a device has no certificate of ours left that is good at an instant.
func ended(d *device.Device, at int64) bool {
	return !slices.ContainsFunc(d.Slots, func(s device.Slot) bool { return len(s.Issuer) > 0 && s.Revoked == 0 && s.NotAfter > at })
}

// The end of certificates.
const (
	lookForEnds = time.Minute
	endsBefore  = time.Hour // how far back is looked when nobody did
)

// kickExpired has devices let go of whose newest certificate has ended, on one node of a cluster at a time.
func (p *Platform) kickExpired(ctx context.Context) error {
	return p.DB.Lead(ctx, "broker-ends", func(ctx context.Context, _ *db.Lease) error {
		from := p.now().Add(-endsBefore).Unix()
		for {
			to := p.now().Unix()
			if err := p.kickAll(ctx, device.Filter{ExpiresAfter: from, ExpiresBefore: to}, func(d *device.Device) bool { return ended(d, to) }); err != nil {
				return err
			}
			from = to
			select {
			case <-time.After(lookForEnds):
			case <-ctx.Done():
				return nil
			}
		}
	})
}
