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
	Now     func() time.Time
	Log     *slog.Logger
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
	work, stop := context.WithCancel(ctx)
	defer stop()
	requests, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	server := web.NewServer(web.Options{Handler: g.limitRequests(h), Header: g.o.Limits.HeaderTimeout, Body: g.o.Limits.BodyTimeout, Idle: g.o.Limits.IdleTimeout, Log: g.o.Log})
	server.BaseContext = func(net.Listener) context.Context { return requests }
	server.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return withDraining(withPeer(ctx, c), work.Done())
	}
	in := &entrance{gate: g, ready: make(chan net.Conn), failed: make(chan error, 1), done: work.Done()}

	var tasks sync.WaitGroup
	tasks.Go(func() { in.accept(work) })
	tasks.Go(func() {
		<-work.Done()
		drain, cancel := context.WithTimeout(requests, g.o.Limits.DrainTimeout)
		defer cancel()
		if server.Shutdown(drain) != nil {
			abandon()
			_ = server.Close() // the listener is closed already; connections are cut off
		}
	})
	err := server.Serve(in)
	stop()
	tasks.Wait()
	if errors.Is(err, http.ErrServerClosed) || ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("serving %s: %w", g.o.Name, err)
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
