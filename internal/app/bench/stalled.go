package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"mooring/internal/server/api/v1"
	"mooring/wire/mqtt"
)

// stuff has a device subscribe and not read, and says more and more to it until the connection takes nothing. Each message is much smaller than what the policy
// lets wait for a device, or it would not be sent at all; nor may all of this take as long as the server waits for a device that takes nothing.
func (f *fleet) stuff(ctx context.Context, l *link, d *talker) error {
	if err := l.subscribe("v1/"+d.name+"/cmd/+", 0); err != nil {
		return err
	}
	const size, batch, clients, batches = 16 << 10, 64, 8, 32
	fill := v1.NewMessage{Topic: "v1/" + d.name + "/cmd/fill", Payload: make([]byte, size)}
	last := queues{}
	for range batches {
		err := byMany(clients, batch, func(int) error {
			_, err := f.admin.Publish(ctx, fill)
			return err
		})
		if err != nil {
			return fmt.Errorf("filling the connection of %s: %w", d.name, err)
		}
		now, err := l.calm(ctx)
		if err != nil {
			return err
		}
		if now.unsent > 0 && now == last {
			return nil
		}
		last = now
	}
	return fmt.Errorf("the connection of %s did not fill: %d octets wait to be read and %d to be sent", d.name, last.unread, last.unsent)
}

// calm waits until what waits in a connection stays the same for a while.
func (l *link) calm(ctx context.Context) (queues, error) {
	const look, enough = 25 * time.Millisecond, 4
	last := queues{unread: -1}
	for same := 0; same < enough; time.Sleep(look) {
		now, err := queuesOf(l)
		if err = errors.Join(err, ctx.Err()); err != nil {
			return now, err
		}
		if same++; now != last {
			last, same = now, 0
		}
	}
	return last, nil
}

// queues are what waits in a connection: octets that the device has not read, and those that the server has written and the device has no room for.
type queues struct{ unread, unsent int64 }

// queuesOf asks the system, which knows both ends: they are on this machine. Its list is made while it is read, and leaves connections out that are there when
// others come and go meanwhile, so one that is missing is looked for again.
func queuesOf(l *link) (q queues, err error) {
	for range 20 {
		var found int
		if q, found, err = lookUpQueues(l); err != nil || found == 2 {
			return q, err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return q, fmt.Errorf("the connection from %v to %v is not there any more", l.LocalAddr(), l.RemoteAddr())
}

// lookUpQueues also reports how many of the two ends are in the list.
func lookUpQueues(l *link) (q queues, found int, err error) {
	text, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return q, 0, fmt.Errorf("reading what waits in connections: %w", err)
	}
	ours, theirs := hexPort(l.LocalAddr()), hexPort(l.RemoteAddr())
	for line := range bytes.Lines(text) {
		// sl local_address rem_address st tx_queue:rx_queue …
		fields := bytes.Fields(line)
		if len(fields) < 5 {
			continue
		}
		from, to := fields[1], fields[2]
		sent, received, ok := bytes.Cut(fields[4], []byte(":"))
		switch {
		case !ok:
			continue
		case bytes.HasSuffix(from, ours) && bytes.HasSuffix(to, theirs):
			q.unread, err = strconv.ParseInt(string(received), 16, 64)
		case bytes.HasSuffix(from, theirs) && bytes.HasSuffix(to, ours):
			q.unsent, err = strconv.ParseInt(string(sent), 16, 64)
		default:
			continue
		}
		if found++; err != nil {
			return q, found, fmt.Errorf("/proc/net/tcp has an unknown form: %w", err)
		}
	}
	return q, found, nil
}

// hexPort is how an address ends in /proc/net/tcp.
func hexPort(a net.Addr) []byte { return fmt.Appendf(nil, ":%04X", a.(*net.TCPAddr).Port) }

// trickle is a message that a device begins and goes on saying, a few octets at a time. The device reads nothing, and its end of the connection does not show
// that the server has closed the other one as long as something waits before the news. So it is what it says that tells: the server's system answers it with a
// reset, and the next octets are refused.
type trickle struct {
	link *link
	rest []byte
}

const (
	trickleSize  = 4 // octets at a time
	trickleEvery = 2 * time.Millisecond
)

func (l *link) trickle(d *talker) (*trickle, error) {
	const size = 60_000 // for half a minute
	m := mqtt.Publish{Topic: "v1/" + d.name + "/telemetry/slow", Payload: make([]byte, size)}
	text := m.Append(nil, mqtt.V5)
	if err := l.SetWriteDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return nil, err
	}
	t := &trickle{l, text[len(text)-size:]}
	if _, err := l.Write(text[:len(text)-size]); err != nil {
		return nil, err
	}
	for range 10 {
		if gone, err := t.on(); gone || err != nil {
			return nil, errors.Join(err, fmt.Errorf("%s was cut off before it was suspended", d.name))
		}
	}
	return t, nil
}

// on says some octets more and reports whether they are refused.
func (t *trickle) on() (gone bool, err error) {
	if len(t.rest) < trickleSize {
		return false, errors.New("the connection is still there")
	}
	time.Sleep(trickleEvery)
	_, err = t.link.Write(t.rest[:trickleSize])
	t.rest = t.rest[trickleSize:]
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return false, errors.New("the connection is still there, and takes nothing")
	}
	return err != nil, nil
}

// ends waits until the device is refused.
func (t *trickle) ends() error {
	for {
		if gone, err := t.on(); gone || err != nil {
			return err
		}
	}
}
