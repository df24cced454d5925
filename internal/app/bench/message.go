package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"mooring/wire/mqtt"
)

// Message measures what one message of a device costs, published at a steady rate by all devices together over kept connections: with QoS 0, and with QoS 1, which
// is acknowledged when it is stored. The floor is the reading of the same octets from TLS connections, in a process of its own.
func Message(ctx context.Context, o TalkOptions, print func(Line) error) (err error) {
	f, err := o.gather(ctx, o.Devices)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	bare, err := o.startBareTLS(ctx, f)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bare.stop()) }()
	links, err := f.connectAll(ctx, f.devices)
	defer closeAll(links)
	if err != nil {
		return err
	}
	floors := make([]*link, len(f.devices))
	defer closeAll(floors)
	err = byMany(8, len(floors), func(i int) error {
		c, err := f.devices[i].reach(ctx, bare.address, f.installation, nil)
		if err == nil {
			floors[i] = &link{Conn: c}
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, qos := range []mqtt.QoS{mqtt.AtMostOnce, mqtt.AtLeastOnce} {
		var ours, theirs []spoken
		for round := range o.Rounds {
			o.say("QoS %d: round %d of %d", qos, round+1, o.Rounds)
			a, err := o.speak(ctx, f, links, f.server.Process.Pid, qos, true)
			if err != nil {
				return err
			}
			b, err := o.speak(ctx, f, floors, bare.cmd.Process.Pid, qos, false)
			if err != nil {
				return err
			}
			ours, theirs = append(ours, a), append(theirs, b)
		}
		l := Line{Bench: "message", Case: fmt.Sprintf("QoS %d, %d devices, %d a second", qos, len(links), o.Rate), N: o.N * o.Rounds, RSS: rssOf(f.server.Process.Pid)}
		l.CPU, l.Floor = medianOf(ours, func(s spoken) float64 { return s.cpu }), medianOf(theirs, func(s spoken) float64 { return s.cpu })
		l.PerS, l.Ratio = medianOf(ours, func(s spoken) float64 { return s.rate }), l.CPU/l.Floor
		l.P50, l.P99 = medianOf(ours, func(s spoken) float64 { return percentile(s.waits, 50) }), medianOf(ours, func(s spoken) float64 { return percentile(s.waits, 99) })
		if err := print(l); err != nil {
			return err
		}
	}
	return nil
}

// spoken is what happened in one measurement of messages.
type spoken struct {
	cpu, rate float64
	waits     []float64 // from a message to its acknowledgement, milliseconds, sorted
}

// payload is what meters say, 64 octets.
const payload = `{"at":"2026-01-01T00:00:00Z","power_w":1234.5,"energy_kwh":9876}`

// speak publishes o.N messages at the rate, by turns over the links. With answers they are acknowledged, if the QoS has that, and it returns when the last is.
func (o *TalkOptions) speak(ctx context.Context, f *fleet, links []*link, pid int, qos mqtt.QoS, answers bool) (s spoken, err error) {
	sent := make([]atomic.Int64, len(links)) // nanoseconds since began, of the message that is to be acknowledged
	waits := make(chan float64, o.N)
	failed := make(chan error, len(links)+1)
	var readers sync.WaitGroup
	began := time.Now()
	quota := func(i int) int { return (o.N - i + len(links) - 1) / len(links) }
	if answers && qos > 0 {
		for i, l := range links {
			readers.Go(func() {
				for range quota(i) {
					h, _, err := l.next()
					if err != nil || h.Type != mqtt.PUBACK {
						failed <- fmt.Errorf("waiting for an acknowledgement: %v, %w", h.Type, err)
						return
					}
					waits <- float64(time.Since(began).Nanoseconds()-sent[i].Load()) / 1e6
				}
			})
		}
	}
	before, err := cpuOf(pid)
	if err != nil {
		return s, err
	}
	// A tick each 10 ms: what is due is sent then, by the devices whose turn it is.
	const tick = 10 * time.Millisecond
	for n := 0; n < o.N && ctx.Err() == nil; {
		due := min(int(time.Since(began).Seconds()*float64(o.Rate)), o.N)
		for ; n < due; n++ {
			i := n % len(links)
			p := mqtt.Publish{QoS: qos, Topic: "v1/" + f.devices[i].name + "/telemetry/power", Payload: []byte(payload)}
			if qos > 0 {
				p.ID = uint16(n/len(links)%60000 + 1)
				sent[i].Store(time.Since(began).Nanoseconds())
			}
			if err := links[i].say(p); err != nil {
				return s, err
			}
		}
		time.Sleep(tick)
	}
	readers.Wait()
	took := time.Since(began)
	if qos == 0 {
		time.Sleep(200 * time.Millisecond) // what is on its way arrives
	}
	after, err := cpuOf(pid)
	if err != nil {
		return s, err
	}
	close(waits)
	for w := range waits {
		s.waits = append(s.waits, w)
	}
	slices.Sort(s.waits)
	s.cpu, s.rate = micros(after-before, o.N), float64(o.N)/took.Seconds()
	select {
	case err := <-failed:
		return s, err
	default:
		return s, ctx.Err()
	}
}

// ends returns when the server has closed the connection.
func (l *link) ends() error {
	_, err := io.Copy(io.Discard, l.NetConn())
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.New("the connection is still there")
	}
	return nil // a reset is an end, too
}
