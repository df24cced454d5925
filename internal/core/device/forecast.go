package device

import (
	"context"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
)

// Forecast says how many certificates are to be renewed when: those of active devices that were issued here and are not revoked, each at its own
// instant within the window of its device's profile (RenewAt).
type Forecast struct {
	Overdue int64   // before the first span, and every one that has expired
	From    int64   // where the first span begins, UTC seconds
	Unit    int64   // seconds in a span
	Spans   []int64 // how many fall due in each
	Later   int64   // after the last span
	Never   int64   // they have no end, or their profile is gone
}

// spansMost bounds a forecast.
const spansMost = 1000

// noExpiry is 99991231235959Z, which stands for no well-defined end (RFC 5280, section 4.1.2.5).
const noExpiry = 253402300799

// Forecast returns the forecast for the devices that pass f: n spans of unit seconds from the beginning of the present one. The error is
// Unavailable while the inventory is being made.
func (r *Registry) Forecast(ctx context.Context, actor access.Actor, f Filter, unit int64, n int) (Forecast, error) {
	if err := r.access.Require(ctx, actor, access.DeviceRead, "device"); err != nil {
		return Forecast{}, err
	}
	if err := f.check(); err != nil {
		return Forecast{}, err
	}
	if unit < 60 || n < 1 || n > spansMost {
		return Forecast{}, errs.New(errs.Invalid, "a forecast has 1 to %d spans of a minute or more", spansMost)
	}
	if !r.fresh(ctx, notesAtOnce) {
		return Forecast{}, errs.New(errs.Unavailable, "the inventory is still being made; ask again in a minute")
	}
	var out Forecast
	err := r.db.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		out = Forecast{From: r.now().Unix() / unit * unit, Unit: unit, Spans: make([]int64, n)}
		return f.search(tx).each(ctx, 0, []part{partRest, partEnds}, func(b *match) (bool, error) { return true, r.forecast(b, &out) })
	})
	return out, r.damage(err)
}

// forecast counts the certificates of the devices of b that pass.
func (r *Registry) forecast(b *match, out *Forecast) error {
	e, rest := reader{rest: b.part[partEnds]}, reader{rest: b.part[partRest]}
	ends, spreads := e.times(b.certs), rest.numbers(b.devices)
	states, sound1 := b.state.list()
	profiles, sound2 := b.profile.list()
	issuers, sound3 := b.issuer.list()
	if e.end() != nil || rest.damaged || !sound1 || !sound2 || !sound3 {
		return errDamaged
	}
	type window struct{ before, spread int64 }
	windows := make([]window, len(profiles.words))
	for i, name := range profiles.words {
		windows[i].before, windows[i].spread, _ = r.renewal(name)
	}
	now := r.now().Unix()
	for i, owner := range b.owners(nil) {
		d := int(owner)
		if !isSet(b.on, d) || !stateOf(states.at(d)).Active() || issuers.at(i) == "" {
			continue
		}
		w, end := windows[b.profile.codes.more(d)], ends.at(i)
		at := renewAt(uint64(spreads.at(d))<<48, end, w.before, w.spread)
		switch {
		case end == noExpiry:
			at = 0
		case at != 0 && end < now: // its time for renewal may be today, and is over all the same
			at = out.From - 1
		}
		out.count(at)
	}
	return nil
}

func (f *Forecast) count(at int64) {
	switch span := (at - f.From) / f.Unit; {
	case at == 0:
		f.Never++
	case at < f.From:
		f.Overdue++
	case span >= int64(len(f.Spans)):
		f.Later++
	default:
		f.Spans[span]++
	}
}
