package device

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"math"
	"slices"

	"mooring/internal/base/db"
	"mooring/internal/core/audit"
)

// save keeps what the record says of each device, slot and revoked certificate: as much as there are.
func (c *replay) save(_ context.Context, _ *db.Tx, w *audit.StateWriter) error {
	names := make([]string, len(c.purposes))
	for name, n := range c.purposes {
		names[n] = name
	}
	w.Uint(uint64(len(names)))
	for _, name := range names {
		w.Text(name)
	}
	w.Uint(uint64(len(c.devices)))
	for _, id := range slices.SortedFunc(maps.Keys(c.index), func(a, b ID) int { return bytes.Compare(a[:], b[:]) }) {
		c.saveDevice(id, &c.devices[c.index[id]], w)
	}
	w.Uint(uint64(len(c.revoked)))
	for k, at := range c.revoked {
		w.Fixed(k[:])
		w.Int(at)
	}
	return nil
}

func (c *replay) saveDevice(id ID, d *replayed, w *audit.StateWriter) {
	w.Fixed(id[:])
	w.Fixed(d.row[:])
	w.Fixed(d.token[:])
	for _, n := range d.numbers() {
		w.Uint(uint64(*n))
	}
	slots := 0
	for i := d.slot; i != 0; i = c.slots[i-1].next {
		slots++
	}
	w.Uint(uint64(slots))
	for i := d.slot; i != 0; i = c.slots[i-1].next {
		s := &c.slots[i-1]
		w.Fixed(s.serial[:])
		w.Fixed(s.prev[:])
		w.Fixed(s.facts[:])
		w.Uint(uint64(s.n))
		w.Uint(uint64(s.purpose))
	}
}

// numbers returns the numbers of a device in the order in which they are kept.
func (d *replayed) numbers() []*uint32 {
	return []*uint32{&d.policy, &d.tokenPolicy, &d.until, &d.used, &d.usedPolicy, &d.issued, &d.rescued}
}

func (c *replay) load(r *audit.StateReader) error {
	for i := range r.Len() {
		name := r.Text()
		if r.Err() != nil {
			break
		}
		c.purposes[name] = uint16(i)
	}
	for range r.Len() {
		if err := c.loadDevice(r); err != nil {
			return err
		}
	}
	for range r.Len() {
		var k serialKey
		r.Fixed(k[:])
		at := r.Int()
		if r.Err() != nil {
			break
		}
		c.revoked[k] = at
	}
	return r.Err()
}

func (c *replay) loadDevice(r *audit.StateReader) error {
	var id ID
	var d replayed
	r.Fixed(id[:])
	r.Fixed(d.row[:])
	r.Fixed(d.token[:])
	for _, n := range d.numbers() {
		*n = uint32(r.Uint())
	}
	if r.Err() == nil && len(c.devices) == math.MaxUint32 {
		return errors.New("there are too many devices")
	}
	for range r.Len() {
		s := replayedSlot{next: d.slot}
		r.Fixed(s.serial[:])
		r.Fixed(s.prev[:])
		r.Fixed(s.facts[:])
		s.n, s.purpose = uint32(r.Uint()), uint16(r.Uint())
		if r.Err() != nil {
			break
		}
		c.slots = append(c.slots, s)
		d.slot = uint32(len(c.slots))
	}
	if r.Err() == nil {
		c.index[id] = uint32(len(c.devices))
		c.devices = append(c.devices, d)
	}
	return r.Err()
}
