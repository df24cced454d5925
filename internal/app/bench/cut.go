package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"mooring/internal/server/api/v1"
)

// Cut measures how long a device stays connected that is suspended: from the operator's request to the closed socket, as the device sees it, one device after
// the other, and for devices that read nothing while the server has much to say to them. Then the certificate of the CA of all devices is revoked, and the
// time until the last of them is gone is measured.
func Cut(ctx context.Context, o TalkOptions, print func(Line) error) (err error) {
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
	next := 0
	for _, stalled := range []bool{false, true} {
		name, n := "one device", o.N
		if stalled {
			name, n = "one device that reads nothing", max(o.N/10, 3)
		}
		o.say("cutting off %d: %s", n, name)
		var waits []float64
		began, cpu, err := time.Now(), time.Duration(0), error(nil)
		for range n {
			l, d := links[next], &f.devices[next]
			next++
			if stalled {
				if err := f.stuff(ctx, l, d); err != nil {
					return err
				}
			}
			before, err := cpuOf(f.server.Process.Pid)
			if err != nil {
				return err
			}
			wait, err := f.suspend(ctx, l, d)
			if err != nil {
				return err
			}
			after, err := cpuOf(f.server.Process.Pid)
			if err != nil {
				return err
			}
			waits, cpu = append(waits, wait), cpu+after-before
		}
		line := times(Line{Bench: "cut", Case: name, N: n, PerS: float64(n) / time.Since(began).Seconds(), CPU: micros(cpu, n), RSS: rssOf(f.server.Process.Pid)}, waits)
		if err = print(line); err != nil {
			return err
		}
	}
	return f.cutAll(ctx, links[next:], print)
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

// stuff has a device subscribe and not read, and says more to it than the connection holds.
func (f *fleet) stuff(ctx context.Context, l *link, d *talker) error {
	if err := l.subscribe("v1/"+d.name+"/cmd/+", 0); err != nil {
		return err
	}
	for range 100 {
		if _, err := f.admin.Publish(ctx, v1.NewMessage{Topic: "v1/" + d.name + "/cmd/fill", Payload: make([]byte, 64<<10)}); err != nil {
			return fmt.Errorf("filling the connection of %s: %w", d.name, err)
		}
	}
	return nil
}

// suspend returns the milliseconds from the request to the end of the device's connection.
func (f *fleet) suspend(ctx context.Context, l *link, d *talker) (float64, error) {
	ended := make(chan error, 1)
	if err := l.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return 0, err
	}
	began := time.Now()
	go func() { ended <- l.ends() }()
	if _, err := f.admin.MoveDevice(ctx, d.name, "suspend", ""); err != nil {
		return 0, fmt.Errorf("suspending %s: %w", d.name, err)
	}
	if err := <-ended; err != nil {
		return 0, fmt.Errorf("%s was not cut off: %w", d.name, err)
	}
	return float64(time.Since(began).Nanoseconds()) / 1e6, nil
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
	before, err := cpuOf(f.server.Process.Pid)
	if err != nil {
		return err
	}
	if _, err := f.admin.Revoke(ctx, issuer.Serial, "cACompromise"); err != nil {
		return fmt.Errorf("revoking the CA of the devices: %w", err)
	}
	<-done
	took := time.Since(began)
	after, err := cpuOf(f.server.Process.Pid)
	if err = errors.Join(err, errors.Join(failed...)); err != nil {
		return err
	}
	return print(times(Line{Bench: "cut", Case: "all devices of one CA", N: len(links), PerS: float64(len(links)) / took.Seconds(), CPU: micros(after-before, len(links)),
		Wall: float64(took.Milliseconds()), RSS: rssOf(f.server.Process.Pid)}, waits))
}
