package mqtt

import (
	"sync/atomic"

	"mooring/wire/mqtt"
)

type counts struct {
	open, connected atomic.Int64
	connects        atomic.Uint64
	received        [16]atomic.Uint64 // by type
	sent            atomic.Uint64
	refused, faults [256]atomic.Uint64 // by reason code
	ended           [len(ended)]atomic.Uint64

	denied, unpublished, dropped, tooLarge, dripped, exceeded, paused, panics, origins atomic.Uint64
}

// Metrics is what a Server has seen since it was made, and holds now.
type Metrics struct {
	Open      int64             // connections, with those that have not said CONNECT yet
	Connected int64             // those of them that were let in
	Connects  uint64            // how often somebody was let in
	Sent      uint64            // messages
	Received  map[string]uint64 // packets by their type
	Refused   map[string]uint64 // CONNECTs by the reason that they were refused for; only reasons that there were
	Ended     map[string]uint64 // connections by why they ended; a fixed set
	Faults    map[string]uint64 // ends of connections by the reason code of 5.0; only codes that there were

	Denied      uint64 // subscriptions that were refused
	Unpublished uint64 // messages of clients that were refused or lost
	Dropped     uint64 // messages of QoS 0 to clients that read too slowly
	TooLarge    uint64 // messages that were larger than their client takes
	Paused      uint64 // messages of 3.1.1 that had to wait because they came too fast
	Dripped     uint64 // packets that came too slowly
	Exceeded    uint64 // clients that had more under way than they were told
	Panics      uint64 // connections that ended by a fault of ours
	Origins     uint64 // WebSockets of web pages that may not
}

// Metrics returns the counters.
func (s *Server) Metrics() Metrics {
	k := &s.counts
	m := Metrics{Open: k.open.Load(), Connected: k.connected.Load(), Connects: k.connects.Load(), Sent: k.sent.Load(), Denied: k.denied.Load(),
		Unpublished: k.unpublished.Load(), Dropped: k.dropped.Load(), TooLarge: k.tooLarge.Load(), Paused: k.paused.Load(), Dripped: k.dripped.Load(), Exceeded: k.exceeded.Load(),
		Panics: k.panics.Load(), Origins: k.origins.Load(),
		Received: map[string]uint64{}, Refused: map[string]uint64{}, Ended: map[string]uint64{}, Faults: map[string]uint64{}}
	for t := mqtt.CONNECT; t <= mqtt.AUTH; t++ {
		m.Received[t.String()] = k.received[t].Load()
	}
	for r := range k.ended {
		if ended[r].name != "" {
			m.Ended[ended[r].name] = k.ended[r].Load()
		}
	}
	for r := range 256 {
		if n := k.refused[r].Load(); n > 0 {
			m.Refused[mqtt.Reason(r).String()] = n
		}
		if n := k.faults[r].Load(); n > 0 && r > 0 {
			m.Faults[mqtt.Reason(r).String()] = n
		}
	}
	return m
}
