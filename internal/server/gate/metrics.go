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
	strayDatagram
	reasons // their number
)

// String returns the reason as a metric's label.
func (r reason) String() string {
	return [reasons]string{"admitted", "connections", "address_connections", "address_rate", "rate", "handshakes", "handshake_slow", "handshake_failed",
		"unknown_user", "requests", "stray_datagram"}[r]
}

type counts struct {
	accepted, handshakes, resumed atomic.Uint64
	refused                       [reasons]atomic.Uint64
	cut                           atomic.Int64
	cookies, idle, moved          atomic.Uint64
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

	// DTLS says that the listener is one of DTLS; the others have no such counts.
	DTLS    bool
	Cookies uint64 // hellos that were answered with a cookie, for which nothing was remembered
	Idle    uint64 // associations ended because nothing came for long
	Moved   uint64 // associations whose client changed its address and answered from there
}

// Metrics returns the counters. Refused has a fixed set of keys: "connections", "address_connections", "address_rate", "rate", "handshakes",
// "handshake_slow", "handshake_failed", "unknown_user", "requests", and "stray_datagram", which belongs to no association or finds no room.
func (g *Gate) Metrics() Metrics {
	m := Metrics{Open: g.guard.connections(), Accepted: g.counts.accepted.Load(), Handshakes: g.counts.handshakes.Load(), Resumed: g.counts.resumed.Load(), Cut: g.counts.cut.Load(),
		DTLS: g.front != nil, Cookies: g.counts.cookies.Load(), Idle: g.counts.idle.Load(), Moved: g.counts.moved.Load(), Refused: map[string]uint64{}}
	for r := admitted + 1; r < reasons; r++ {
		m.Refused[r.String()] = g.counts.refused[r].Load()
	}
	return m
}
