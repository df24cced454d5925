package device

import (
	"context"
	"encoding/binary"

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
	if !r.fresh(ctx) {
		return Forecast{}, errs.New(errs.Unavailable, "the inventory is still being made; ask again in a minute")
	}
	var out Forecast
	var m marks
	err := r.db.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		out = Forecast{From: r.now().Unix() / unit * unit, Unit: unit, Spans: make([]int64, n)}
		cols := f.columnsFor(colProfile, colSpread, colOwner, colIssuer, colEnd)
		return eachBlock(ctx, tx, 0, cols, func(b *raw) (bool, error) {
			matched, err := f.match(b, &m)
			if err != nil || matched == 0 {
				return true, err
			}
			return true, r.forecast(b, m.on, &out)
		})
	})
	return out, r.damage(err)
}

// forecast counts the certificates of the marked devices of b.
func (r *Registry) forecast(b *raw, on []byte, out *Forecast) error {
	owners, ends, spreads := b.col[colOwner], b.col[colEnd], b.col[colSpread]
	n, now := len(owners)/2, r.now().Unix()
	profiles, err := readWords(b.col[colProfile], len(on))
	if err != nil {
		return err
	}
	issuers, err := readWords(b.col[colIssuer], n)
	if err != nil {
		return err
	}
	if len(ends) != n*timeSize || len(spreads) != 2*len(on) {
		return errDamaged
	}
	type window struct{ before, spread int64 }
	windows := make([]window, len(profiles.texts))
	for i, name := range profiles.texts {
		windows[i].before, windows[i].spread, _ = r.renewal(name)
	}
	for i := range n {
		owner := int(binary.LittleEndian.Uint16(owners[2*i:]))
		if owner >= len(on) {
			return errDamaged
		}
		if on[owner] == 0 || !State(b.col[colState][owner]).Active() || issuers.at(i) == "" {
			continue
		}
		w, end := windows[profiles.code(owner)], timeAt(ends, i)
		at := renewAt(uint64(binary.LittleEndian.Uint16(spreads[2*owner:]))<<48, end, w.before, w.spread)
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
