// Package gate is the security boundary: it binds sockets, ends TLS, holds strangers to their limits, and says who is at the other end.
//
// A listener admits a connection only within the limits on connections, handshakes and their rates, per address (an IPv4 address or an IPv6
// /64 network) and in total; what is over a limit is closed at once and counted. The TLS handshake is done here, in a bounded number of
// goroutines and under a deadline, before net/http sees the connection. Then every request carries a Peer, which no other package can
// make: the certificates whose key the client proved to hold, the channel bindings of the connection (RFC 5929, RFC 9266), the address,
// and on the Unix socket the user.
//
// TLS is 1.2 with ECDHE and AEAD only, or 1.3 (RFC 7030, section 3.3, as tightened by RFC 9325), without renegotiation, and 1.2 needs the
// extended master secret (RFC 7627). The server asks for a client certificate with an empty list of authorities, which means any
// (RFC 8446, section 4.2.4): constrained clients choke on long lists.
//
// The gate deliberately does not judge client certificates: path, expiry, revocation and device state are decided in core, so that a device
// with an expired certificate can still be helped. TLS proves possession of the key, no more. A Verify function may refuse a connection
// early; it sees resumed connections too.
//
// A listener may serve a protocol that is not HTTP besides it. Which one a client speaks follows from the name that it gives in the handshake (ALPN, RFC
// 7301), never from what it sends. The limits and Cut are the same.
//
// DTLS 1.2 (RFC 6347) is ended here too: a client shows by a cookie that it can be reached before anything is remembered of it, proves that it holds the
// key of a certificate, and may then change its address (RFC 9146). The limits are the same.
package gate

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
	"mooring/internal/base/web"
)

// Options sets up a Gate.
type Options struct {
	Name    string      // "est", "api", "status", "socket": in messages, and what session tickets are bound to
	Address string      // host:port, or for ListenSocket a path
	TLS     *TLS        // nil: plain HTTP
	Limits  conf.Limits // every field is used as it stands; start from conf.Default().Limits
	Refuse  web.Refuser // how a request over the rate is answered; nil: web.Text
	Mode    fs.FileMode // of the Unix socket: 0600, also for 0, or 0660
	// Streams is the name (ALPN, RFC 7301) of a protocol that is not HTTP and is spoken besides it, such as "mqtt"; clients that name none get it too, unless
	// PreferHTTP says otherwise. HTTP is 1.1 only then. Without TLS all connections are of it, and the address must be a loopback one. "" = HTTP only.
	Streams string
	// PreferHTTP gives HTTP to clients that name no protocol: most programs that open WebSockets and are no browsers name none.
	PreferHTTP bool
	Now        func() time.Time
	Log        *slog.Logger
}

// Gate is a bound listener. Serve must be called once, or Close.
type Gate struct {
	o        Options
	listener net.Listener
	tls      *tls.Config // nil: plain HTTP
	tickets  *tickets    // nil: no resumption
	guard    *guard
	live     live
	grace    time.Duration // from Cut to the end of a connection; cutAfter
	slots    chan struct{} // one for each handshake in progress
	counts   counts
	front    *front // of a DTLS listener, which has no listener; else nil
}

// Listen binds o.Address for TCP. When that fails the text says what to do.
func Listen(ctx context.Context, o Options) (*Gate, error) {
	if o.Address == "" {
		return nil, errs.New(errs.Invalid, "the listener %s has no address: set listen.%s", o.Name, o.Name)
	}
	if o.Streams != "" && o.TLS == nil && !loopback(o.Address) {
		return nil, errs.New(errs.Invalid, "the listener %s has no TLS, so it may only be reached from this machine: set listen.%s to 127.0.0.1 or [::1] with a port, not to %q",
			o.Name, o.Name, o.Address)
	}
	g, err := newGate(o)
	if err != nil {
		return nil, err
	}
	g.listener, err = new(net.ListenConfig).Listen(ctx, "tcp", o.Address)
	if err != nil {
		return nil, errs.Wrap(errs.Unavailable, err, "cannot listen on %s for %s: %s", o.Address, o.Name, remedy(err, o.Name))
	}
	return g, nil
}

// loopback reports whether the address is one of this machine alone. Names are not: they mean what a file or a server says.
func loopback(address string) bool {
	at, err := netip.ParseAddrPort(address)
	return err == nil && at.Addr().Unmap().IsLoopback()
}

// remedy says what to do about a failed bind.
func remedy(err error, name string) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Sprintf("another program has this address; stop it or change listen.%s", name)
	case errors.Is(err, syscall.EACCES):
		return fmt.Sprintf("this user may not; choose a port from 1024 up in listen.%s or grant CAP_NET_BIND_SERVICE", name)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Sprintf("this machine has no such address; change listen.%s", name)
	}
	return fmt.Sprintf("check listen.%s", name)
}

func newGate(o Options) (*Gate, error) {
	if o.Refuse == nil {
		o.Refuse = web.Text
	}
	g := &Gate{o: o, grace: cutAfter, guard: newGuard(o.Limits), slots: make(chan struct{}, o.Limits.Handshakes)}
	if o.TLS == nil {
		return g, nil
	}
	var err error
	g.tls, g.tickets, err = o.TLS.config(o.Name, o.Now)
	if err == nil && o.Streams != "" {
		g.tls.NextProtos = []string{o.Streams, "http/1.1"} // a protocol that is upgraded to needs 1.1
	}
	return g, err
}

// Addr returns the bound address, with the port that the system chose for port 0.
func (g *Gate) Addr() net.Addr {
	if g.front != nil {
		return g.front.socket.LocalAddr()
	}
	return g.listener.Addr()
}

// Close frees the address of a Gate that is not served.
func (g *Gate) Close() error {
	if g.front != nil {
		return g.front.socket.Close()
	}
	return g.listener.Close()
}

// Serve answers requests with h until ctx ends, lets those in progress finish for as long as limits.drain_timeout, and cuts off the rest;
// their contexts end only then. It returns nil after ctx ended, and otherwise why the listener failed. h finds who asks with PeerFrom.
func (g *Gate) Serve(ctx context.Context, h http.Handler) error {
	if g.o.Streams != "" {
		return errs.New(errs.Internal, "the listener %s has streams, which nobody serves", g.o.Name)
	}
	return g.serve(ctx, nil, h)
}

// serve is Serve and ServeStreams.
func (g *Gate) serve(ctx context.Context, streams func(context.Context, *Stream), h http.Handler) error {
	work, stop := context.WithCancel(ctx)
	defer stop()
	requests, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	var taken sync.WaitGroup
	if streams != nil {
		h = counted(&taken, h)
	}
	server := web.NewServer(web.Options{Handler: g.limitRequests(h), Header: g.o.Limits.HeaderTimeout, Body: g.o.Limits.BodyTimeout, Idle: g.o.Limits.IdleTimeout, Log: g.o.Log})
	server.BaseContext = func(net.Listener) context.Context { return requests }
	server.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return withDraining(withPeer(ctx, c), work.Done())
	}
	in := &entrance{gate: g, ready: make(chan net.Conn), failed: make(chan error, 1), done: work.Done()}
	if streams != nil {
		in.streams, in.serve, in.sessions = newStreams(), streams, requests
	}

	var tasks sync.WaitGroup
	tasks.Go(func() { in.accept(work) })
	tasks.Go(func() {
		<-work.Done()
		drain, cancel := context.WithTimeout(requests, g.o.Limits.DrainTimeout)
		defer cancel()
		if in.streams != nil {
			tasks.Go(func() { in.streams.finish(g.o.Limits.DrainTimeout) })
		}
		if server.Shutdown(drain) != nil || !waited(drain, &taken) {
			abandon()
			_ = server.Close() // the listener is closed already; connections are cut off
		}
	})
	err := server.Serve(in)
	stop()
	tasks.Wait()
	taken.Wait()
	if errors.Is(err, http.ErrServerClosed) || ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("serving %s: %w", g.o.Name, err)
}

// counted counts the requests in progress, also those that took their connections over, for which net/http does not wait.
func counted(n *sync.WaitGroup, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		defer n.Done()
		h.ServeHTTP(w, r)
	})
}

// waited waits for what is counted, and reports whether that was done before ctx ended.
func waited(ctx context.Context, n *sync.WaitGroup) bool {
	done := make(chan struct{})
	go func() { n.Wait(); close(done) }()
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return false
	}
}

// limitRequests answers 429 to an address that asks too often.
func (g *Gate) limitRequests(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peer, ok := PeerFrom(r)
		if ok && peer.address.IsValid() && !g.guard.request(peer.address, g.o.Now()) {
			g.counts.refuse(tooManyRequests)
			g.o.Refuse(w, r, errs.WithRetry(errs.New(errs.Limited, "too many requests from this address"), time.Second))
			return
		}
		next.ServeHTTP(w, r)
	})
}
