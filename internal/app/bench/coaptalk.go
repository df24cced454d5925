package bench

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"mooring/agent/coap"
)

// CoAP measures devices that talk over CoAP and DTLS: a handshake with one message, and one message over a kept association; with o.Memory also what kept
// associations take of memory.
func CoAP(ctx context.Context, o TalkOptions, print func(Line) error) (err error) {
	if o.Devices < 2 {
		return errors.New("two devices are needed: one that stays connected, and one that comes and goes")
	}
	f, err := o.gather(ctx, o.Devices)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	before := 0.0
	if o.Memory {
		o.say("memory of associations; that takes some five minutes, so that garbage has left before and after")
		before = f.settledRSS(ctx)
	}
	// A device has one connection at a time: those of the kept associations are others than those that come and go.
	stay, come := f.devices[:len(f.devices)/2], f.devices[len(f.devices)/2:]
	o.say("%d associations", len(stay))
	associations := make([]*coap.Conn, len(stay))
	defer func() {
		for _, c := range associations {
			if c != nil {
				_ = c.Close() // the measurement is over
			}
		}
	}()
	err = byMany(o.Clients, len(stay), func(i int) (err error) {
		associations[i], err = f.associate(ctx, &stay[i])
		return err
	})
	if err != nil {
		return err
	}
	if o.Memory {
		after := f.settledRSS(ctx)
		if err := print(Line{Bench: "coap", Case: "idle association", N: len(stay), RSS: after, KiB: (after - before) * 1024 / float64(len(stay))}); err != nil {
			return err
		}
	}
	return o.exchanges(ctx, f, stay, come, associations, print)
}

// exchanges measures handshakes and messages by turns.
func (o *TalkOptions) exchanges(ctx context.Context, f *fleet, stay, come []talker, associations []*coap.Conn, print func(Line) error) error {
	var fresh, kept []ended
	var floors []float64
	for round := range o.Rounds {
		o.say("round %d of %d", round+1, o.Rounds)
		floor, err := floorCoAP()
		if err != nil {
			return err
		}
		a, err := f.timed(*o, func(i int) error {
			c, err := f.associate(ctx, &come[i%len(come)])
			if err == nil {
				err = c.Close()
			}
			return err
		})
		if err != nil {
			return err
		}
		// Each device has one message on its way at a time (NSTART, RFC 7252, section 4.7).
		b, err := f.timed(*o, func(i int) error { return stay[i%len(stay)].publish(ctx, associations[i%len(stay)]) })
		if err != nil {
			return err
		}
		fresh, kept, floors = append(fresh, a), append(kept, b), append(floors, floor)
	}
	cost, rate := func(e ended) float64 { return e.cpu }, func(e ended) float64 { return e.rate }
	l := Line{Bench: "coap", Case: "handshake and a message", N: o.N * o.Rounds, CPU: medianOf(fresh, cost), PerS: medianOf(fresh, rate), Floor: median(floors),
		RSS: rssOf(f.server.Process.Pid)}
	l.Ratio = l.CPU / l.Floor
	if err := print(l); err != nil {
		return err
	}
	return print(Line{Bench: "coap", Case: "a message, stored, on an association", N: o.N * o.Rounds, CPU: medianOf(kept, cost), PerS: medianOf(kept, rate), RSS: l.RSS})
}

// associate makes an association and says one message, which is stored.
func (f *fleet) associate(ctx context.Context, d *talker) (*coap.Conn, error) {
	c, err := coap.Dial(ctx, coap.Config{Address: strings.TrimPrefix(f.addresses.CoAPS, "coaps://"), ServerName: "localhost", Certificate: &d.cert, Verify: func(chain []*x509.Certificate) error {
		above := x509.NewCertPool()
		for _, one := range chain[1:] {
			above.AddCert(one)
		}
		_, err := chain[0].Verify(x509.VerifyOptions{Roots: f.roots, Intermediates: above})
		return err
	}})
	if err != nil {
		return nil, fmt.Errorf("associating %s: %w", d.name, err)
	}
	if err := d.publish(ctx, c); err != nil {
		_ = c.Close() // it is of no use
		return nil, err
	}
	return c, nil
}

func (d *talker) publish(ctx context.Context, c *coap.Conn) error {
	return c.Publish(ctx, coap.Publication{Topic: "v1/" + d.name + "/telemetry/power", Payload: []byte(payload), Confirmed: true})
}

// timed does o.N operations, several at once, and returns what each cost the server.
func (f *fleet) timed(o TalkOptions, once func(i int) error) (e ended, err error) {
	before, err := cpuOf(f.server.Process.Pid)
	if err != nil {
		return e, err
	}
	began := time.Now()
	if err := byMany(o.Clients, o.N, once); err != nil {
		return e, err
	}
	took := time.Since(began)
	after, err := cpuOf(f.server.Process.Pid)
	return ended{micros(after-before, o.N), float64(o.N) / took.Seconds()}, err
}
