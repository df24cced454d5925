package message_test

import (
	"strings"
	"testing"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/message"
)

// TestByteRate: what fills the log is counted, not payloads alone, and who connects anew, or lets his will be said, has no new burst.
func TestByteRate(t *testing.T) {
	const burst = 8 << 10
	text := strings.Replace(standard, "group gateways {", `group tight {
    match attr.tight=yes
    extends devices
    session_expiry 0s
    packet_size 2KiB
    byte_rate 8KiB/s
}
group gateways {`, 1)
	one := func(p *peer) error { return p.publish(say("v1/dev-1/telemetry/x", "", 0)) }
	rich := func(p *peer) error {
		m := say("v1/dev-1/telemetry/x", "", 0)
		m.ContentType, m.Correlation, m.User = strings.Repeat("c", 200), make([]byte, 300), []message.Pair{{Name: strings.Repeat("n", 300), Value: strings.Repeat("v", 300)}}
		return p.publish(m)
	}
	for _, row := range []struct {
		name string
		step func(n *node, p *peer) (*peer, error)
		most int // of them within the burst
	}{
		{"empty messages", func(_ *node, p *peer) (*peer, error) { return p, one(p) }, burst / 300},
		{"properties", func(_ *node, p *peer) (*peer, error) { return p, rich(p) }, burst / 1400},
		{"a connection for each message", func(n *node, p *peer) (*peer, error) {
			p.leave(message.ReasonFarewell)
			p = n.connect("dev-1")
			return p, one(p)
		}, burst / 300},
		{"wills", func(n *node, p *peer) (*peer, error) {
			p.leave(message.ReasonLost)
			return n.try("dev-1", will("v1/dev-1/state", "gone", 0))
		}, burst / 300},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			w.add("dev-1", tag("tight", "yes"))
			n := w.node()
			_, err := n.SetPolicy(t.Context(), operator, text, 0)
			must(t, err)
			p, said := n.connect("dev-1"), 0
			for err = nil; err == nil && said <= row.most; said++ {
				if p, err = row.step(n, p); err != nil {
					break
				}
			}
			if !errs.Is(err, errs.Limited) || said == 0 || said > row.most {
				t.Fatalf("%d came through, then %v; want at most %d, then Limited", said, err, row.most)
			}
			if wait, ok := errs.RetryAfter(err); !ok || wait <= 0 || wait > time.Second {
				t.Errorf("it is told to wait %v", wait)
			}
			w.pass(2 * time.Second)
			if p.conn == nil {
				p = n.connect("dev-1")
			}
			if _, err := row.step(n, p); err != nil {
				t.Errorf("two seconds later: %v", err)
			}
		})
	}
}
