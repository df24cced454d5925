package mqtt

import "time"

// alarm goes off when something has not come in time. Nearly all comes in time, many times a second, and a timer costs more than a look at the clock. So a later
// end, or that nothing is waited for, is only noted; the timer finds out when it goes off, and is set again for what is left. Who has an alarm guards it.
type alarm struct {
	ring  func() // is to ask rings
	timer *time.Timer
	end   time.Time // zero: nothing is waited for
	set   time.Time // when the timer goes off, never later than end; zero: it does not
}

// in has the alarm go off when d is over.
func (a *alarm) in(d time.Duration, now time.Time) {
	a.end = now.Add(d)
	switch {
	case !a.set.IsZero() && !a.end.Before(a.set):
		return
	case a.timer == nil:
		a.timer = time.AfterFunc(d, a.ring)
	default:
		a.timer.Reset(d)
	}
	a.set = a.end
}

// off says that nothing is waited for.
func (a *alarm) off() { a.end = time.Time{} }

// rings reports whether it is time, when the timer has gone off.
func (a *alarm) rings(now time.Time) bool {
	a.set = time.Time{}
	if a.end.IsZero() {
		return false
	}
	if left := a.end.Sub(now); left > 0 {
		a.set = a.end
		a.timer.Reset(left)
		return false
	}
	a.off()
	return true
}

// stop is off for good: the timer does not keep what it would ring for.
func (a *alarm) stop() {
	a.end, a.set = time.Time{}, time.Time{}
	if a.timer != nil {
		a.timer.Stop()
	}
}
