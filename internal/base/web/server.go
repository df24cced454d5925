package web

import (
	"log/slog"
	"net/http"
	"net/netip"
	"time"
)

// Options sets up a server. Every timeout must be positive: a server without one can be held open for ever.
type Options struct {
	Handler http.Handler
	Header  time.Duration // for the header of a request to arrive
	Body    time.Duration // for the whole request to arrive, and for its answer to leave
	Idle    time.Duration // between requests
	Log     *slog.Logger  // for what net/http says by itself
}

const (
	maxHeader  = 16 << 10 // octets in a request's header
	maxStreams = 64       // requests in progress on one HTTP/2 connection
)

// NewServer returns a server with all limits set, ready for Serve. A handler that needs longer for one answer, such as a feed, moves its own
// deadline with http.ResponseController. It panics when a timeout is missing.
func NewServer(o Options) *http.Server {
	if o.Header <= 0 || o.Body <= 0 || o.Idle <= 0 {
		panic("web: a server without timeouts")
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	return &http.Server{
		Handler:           o.Handler,
		ReadHeaderTimeout: o.Header,
		ReadTimeout:       o.Body,
		WriteTimeout:      o.Body,
		IdleTimeout:       o.Idle,
		MaxHeaderBytes:    maxHeader,
		Protocols:         protocols,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams, WriteByteTimeout: o.Body},
		// net/http's own lines name addresses of clients, so they are for those who search a fault.
		ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
	}
}

// Address returns the address that r's connection comes from, IPv4 unmapped and without a zone, or the zero Addr for a Unix socket.
// Forwarding headers are never looked at: any client can write them.
func Address(r *http.Request) netip.Addr {
	a, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return a.Addr().Unmap().WithZone("")
}
