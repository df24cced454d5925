package gate

import "sync/atomic"

// reason says why a connection or request was turned away.
type reason uint8

const (
	admitted reason = iota
	tooManyConnections
	tooManyFromAddress
	tooFastFromAddress
	tooFast
	tooManyHandshakes
	slowHandshake
	failedHandshake
	unknownUser
	tooManyRequests
	reasons // their number
)

// String returns the reason as a metric's label.
func (r reason) String() string {
	return [reasons]string{"admitted", "connections", "address_connections", "address_rate", "rate", "handshakes", "handshake_slow", "handshake_failed",
		"unknown_user", "requests"}[r]
}

type counts struct {
	accepted, handshakes, resumed atomic.Uint64
	refused                       [reasons]atomic.Uint64
	cut                           atomic.Int64
}

func (c *counts) refuse(r reason) { c.refused[r].Add(1) }

// Metrics is what a Gate has seen since it was made, and holds now.
type Metrics struct {
	Open       int    // connections now, with those in their handshake
	Accepted   uint64 // connections handed to HTTP
	Handshakes uint64 // finished TLS handshakes
	Resumed    uint64 // those of them that resumed a session
	Cut        int64  // connections ended because their client's certificate was revoked
	Refused    map[string]uint64
}

// Metrics returns the counters. Refused has a fixed set of keys: "connections", "address_connections", "address_rate", "rate", "handshakes",
// "handshake_slow", "handshake_failed", "unknown_user", "requests".
func (g *Gate) Metrics() Metrics {
	m := Metrics{Open: g.guard.connections(), Accepted: g.counts.accepted.Load(), Handshakes: g.counts.handshakes.Load(), Resumed: g.counts.resumed.Load(), Cut: g.counts.cut.Load(),
		Refused: map[string]uint64{}}
	for r := admitted + 1; r < reasons; r++ {
		m.Refused[r.String()] = g.counts.refused[r].Load()
	}
	return m
}
