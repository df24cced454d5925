package enrol

import (
	"sync"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
)

// How many certificates one device gets: paceBurst at once, and then one each paceEvery. A fleet's devices need a few in a year; whoever
// has the key of one could else have a signature, and rows that stay for ever, with each request. Certificates that leave less behind count
// less. This node alone counts, in memory: it is a bound for the disk and no quota.
const (
	paceBurst     = 30
	paceEvery     = time.Minute
	paceBrief     = 10 * time.Second
	paceEphemeral = time.Second
	paceMost      = 1 << 16 // devices remembered; when more were busy lately, all are forgotten
)

// paceOf is what a certificate counts.
func paceOf(r ca.Record) time.Duration {
	switch r {
	case ca.Brief:
		return paceBrief
	case ca.Ephemeral:
		return paceEphemeral
	}
	return paceEvery
}

// pace remembers for each device when it will have been long enough without a certificate that nothing counts any more. The zero value is
// ready.
type pace struct {
	mu   sync.Mutex
	free map[device.ID]time.Time // guarded by mu
}

// check returns Limited, with the time after which the device may have one, when it got too many certificates lately.
func (p *pace) check(id device.ID, now time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if wait := p.until(id, now).Add(paceEvery).Sub(now) - paceBurst*paceEvery; wait > 0 {
		return errs.WithRetry(errs.New(errs.Limited, "this device got many certificates lately; ask again later"), wait)
	}
	return nil
}

// count counts a certificate that the device got. It stands apart from check because of many requests at once only one may succeed, and
// those that do not must be told why.
func (p *pace) count(id device.ID, now time.Time, weight time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.free) >= paceMost {
		p.forget(now)
	}
	if p.free == nil {
		p.free = map[device.ID]time.Time{}
	}
	p.free[id] = p.until(id, now).Add(weight)
}

// until is the device's time, neither past nor, after the clock was put back, further away than the burst can bring it. It needs mu.
func (p *pace) until(id device.ID, now time.Time) time.Time {
	free := p.free[id]
	if free.Before(now) {
		return now
	}
	if most := now.Add(paceBurst * paceEvery); free.After(most) {
		p.free[id] = most
		return most
	}
	return free
}

// forget makes room. It needs mu.
func (p *pace) forget(now time.Time) {
	for id, free := range p.free {
		if free.Before(now) {
			delete(p.free, id)
		}
	}
	if len(p.free) >= paceMost/2 { // else the next ones would look through all of it again
		clear(p.free)
	}
}
