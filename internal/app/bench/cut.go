package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"mooring/internal/base/errs"
)

// Cut measures how long a device stays connected that is suspended: from the operator's request to the closed socket, as the device sees it, one device after
// the other, and for devices that read nothing while the server has much to say to them. Then the certificate of the CA of all devices is revoked, and the
// time until the last of them is gone is measured. Where there are several nodes, devices are connected to all of them by turns, and the first is asked.
func Cut(ctx context.Context, o TalkOptions, print func(Line) error) (err error) {
	stalled := max(o.N/10, 3)
	if o.Devices <= o.N+stalled {
		return errs.New(errs.Invalid, "%d devices are too few: %d are cut off one by one, %d more while they read nothing, and the others with their CA", o.Devices, o.N, stalled)
	}
	f, err := o.gather(ctx, o.Devices)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	o.say("connecting %d devices", len(f.devices))
	links, err := f.connectAll(ctx, f.devices)
	defer closeAll(links)
	if err != nil {
		return err
	}
	o.say("cutting off %d: one device", o.N)
	if err := f.cutEach(ctx, "one device", links[:o.N], f.devices, f.suspend, print); err != nil {
		return err
	}
	o.say("cutting off %d: one device that reads nothing", stalled)
	next := o.N + stalled
	if err := f.cutEach(ctx, "one device that reads nothing", links[o.N:next], f.devices[o.N:], f.suspendStalled, print); err != nil {
		return err
	}
	o.say("cutting off %d by their CA", len(links)-next)
	return f.cutAll(ctx, links[next:], print)
}

// cutEach suspends one device after the other and prints how long that took.
func (f *fleet) cutEach(ctx context.Context, name string, links []*link, devices []talker, suspend func(context.Context, *link, *talker) (cut, error), print func(Line) error) error {
	var waits []float64
	var cpu time.Duration
	began, n := time.Now(), len(links)
	for i, l := range links {
		c, err := suspend(ctx, l, &devices[i])
		if err != nil {
			return err
		}
		waits, cpu = append(waits, c.took), cpu+c.cpu
	}
	return print(times(Line{Bench: "cut", Case: f.called(name), N: n, PerS: float64(n) / time.Since(began).Seconds(), CPU: micros(cpu, n), RSS: f.largest()}, waits))
}

// cut is what one device's end took: milliseconds, and CPU time.
type cut struct {
	took float64
	cpu  time.Duration
}

// times puts the percentiles of waits into a line.
func times(l Line, waits []float64) Line {
	slices.Sort(waits)
	l.P50, l.P99 = percentile(waits, 50), percentile(waits, 99)
	if len(waits) > 0 {
		l.Max = waits[len(waits)-1]
	}
	return l
}

// suspend has a device that listens cut off.
func (f *fleet) suspend(ctx context.Context, l *link, d *talker) (cut, error) {
	if err := l.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return cut{}, err
	}
	return f.suspended(ctx, d, l.ends)
}

// suspendStalled has a device cut off that does not read what the server has to say.
func (f *fleet) suspendStalled(ctx context.Context, l *link, d *talker) (cut, error) {
	if err := f.stuff(ctx, l, d); err != nil {
		return cut{}, err
	}
	t, err := l.trickle(d)
	if err != nil {
		return cut{}, err
	}
	return f.suspended(ctx, d, t.ends)
}

// suspended measures from the request to the end of the device's connection.
func (f *fleet) suspended(ctx context.Context, d *talker, ends func() error) (c cut, err error) {
	before, err := f.spent()
	if err != nil {
		return c, err
	}
	type end struct {
		at  time.Time
		err error
	}
	ended := make(chan end, 1)
	began := time.Now()
	go func() {
		err := ends()
		ended <- end{time.Now(), err}
	}()
	if _, err := f.admin.MoveDevice(ctx, d.name, "suspend", ""); err != nil {
		return c, fmt.Errorf("suspending %s: %w", d.name, err)
	}
	e := <-ended
	if e.err != nil {
		return c, fmt.Errorf("%s was not cut off: %w", d.name, e.err)
	}
	after, err := f.spent()
	return cut{float64(e.at.Sub(began).Nanoseconds()) / 1e6, after - before}, err
}

// cutAll revokes the certificate of the devices' CA and measures until nobody is connected.
func (f *fleet) cutAll(ctx context.Context, links []*link, print func(Line) error) error {
	issuer, err := f.admin.CA(ctx, devicesCA)
	if err != nil {
		return err
	}
	waits, failed := make([]float64, len(links)), make([]error, len(links))
	began := time.Now()
	done := make(chan struct{})
	deadline := began.Add(time.Minute)
	go func() {
		defer close(done)
		_ = byMany(len(links), len(links), func(i int) error {
			_ = links[i].SetReadDeadline(deadline)
			failed[i] = links[i].ends()
			waits[i] = float64(time.Since(began).Nanoseconds()) / 1e6
			return nil
		})
	}()
	before, err := f.spent()
	if err != nil {
		return err
	}
	if _, err := f.admin.Revoke(ctx, issuer.Serial, "cACompromise"); err != nil {
		return fmt.Errorf("revoking the CA of the devices: %w", err)
	}
	<-done
	took := time.Since(began)
	after, err := f.spent()
	if err = errors.Join(err, errors.Join(failed...)); err != nil {
		return err
	}
	return print(times(Line{Bench: "cut", Case: f.called("all devices of one CA"), N: len(links), PerS: float64(len(links)) / took.Seconds(), CPU: micros(after-before, len(links)),
		Wall: float64(took.Milliseconds()), RSS: f.largest()}, waits))
}
