package coap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mooring/internal/base/coap"
	"mooring/internal/core/message"
	wire "mooring/wire/coap"
)

func TestFormats(t *testing.T) {
	for _, f := range formats {
		name, ok := contentType(f.format)
		if got := format(&message.Message{Properties: message.Properties{ContentType: name}}); !ok || got != f.format {
			t.Errorf("%d is %s, which is %d", f.format, name, got)
		}
	}
	for _, row := range []struct {
		kind   string
		octets byte
		want   wire.Format
	}{
		{"", 0, coap.NoFormat},
		{"", 1, wire.TextPlain},
		{"text/plain", 0, wire.TextPlain},
		{"Text/Plain; Charset=UTF-8", 0, wire.TextPlain},
		{"text/plain; charset=latin1", 0, coap.NoFormat},
		{"application/json", 0, 50},
		{"application/json", 1, 50},
		{"application/x-mine", 1, coap.NoFormat},
		{"no type at all", 0, coap.NoFormat},
	} {
		if got := format(&message.Message{Properties: message.Properties{ContentType: row.kind, Format: row.octets}}); got != row.want {
			t.Errorf("%q with the indicator %d is %d, want %d", row.kind, row.octets, got, row.want)
		}
	}
}

func TestWhy(t *testing.T) {
	for want, err := range map[message.Reason]error{message.ReasonStopping: nil, message.ReasonFarewell: fmt.Errorf("reading: %w", io.EOF),
		message.ReasonTimeout: os.ErrDeadlineExceeded, message.ReasonLost: errors.New("other")} {
		if got := why(err); got != want {
			t.Errorf("%v is the reason %d, want %d", err, got, want)
		}
	}
}

// acking is a connection that notes what was acknowledged.
type acking struct {
	Conn
	mu   sync.Mutex
	acks []uint16
}

func (a *acking) Acked(id uint16) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.acks = append(a.acks, id)
	return true
}

func (a *acking) acked() []uint16 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.acks)
}

// Messages of an earlier association that the device does not observe any more are given up when they leave no room for others, a minute after it began to
// observe something.
func TestGivingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := &acking{}
		s := &session{Server: New(Deps{Window: 3, Log: slog.New(slog.DiscardHandler)}), conn: conn}
		for id := range uint16(3) {
			s.Deliver(message.Delivery{Message: &message.Message{Topic: "old"}, QoS: 1, ID: id + 1})
		}
		time.Sleep(time.Hour)
		if n := len(conn.acked()); n != 0 {
			t.Errorf("%d were given up before the device observes anything", n)
		}
		s.add(&relation{filter: "new", accept: coap.NoFormat}, nil)
		time.Sleep(patience - time.Second)
		synctest.Wait()
		if n := len(conn.acked()); n != 0 {
			t.Errorf("%d were given up too early", n)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := conn.acked(); !slices.Equal(got, []uint16{1, 2, 3}) || s.Metrics().GivenUp != 3 {
			t.Errorf("given up %v", got)
		}
	})
}

// A connection that was closed before anybody asked for it is not made.
func TestClosedBefore(t *testing.T) {
	s := &session{Server: New(Deps{Log: slog.New(slog.DiscardHandler)})}
	s.Close(message.ReasonCut)
	s.Close(message.ReasonStopping)
	if _, err := s.enter(context.Background(), nil); !errors.Is(err, errEnded) {
		t.Errorf("got %v", err)
	}
	if s.closed != message.ReasonCut {
		t.Errorf("the reason is %d, want the first", s.closed)
	}
}
