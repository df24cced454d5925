package gate

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// entrance is the net.Listener that net/http sees: its connections have passed the limits and the handshake.
type entrance struct {
	gate    *Gate
	ready   chan net.Conn
	failed  chan error // why accept ended by itself; room for one
	done    <-chan struct{}
	lookout lookout

	// Of a listener with streams.
	streams  *streams
	serve    func(context.Context, *Stream)
	sessions context.Context // of serve
}

// Accept returns the next admitted connection: a *tls.Conn after its handshake, or a *conn; with HTTP/1.1 and no streams, either of them watched.
func (in *entrance) Accept() (net.Conn, error) {
	select {
	case c := <-in.ready:
		return c, nil
	case err := <-in.failed:
		return nil, err
	case <-in.done:
		return nil, net.ErrClosed
	}
}

// Addr returns the bound address.
func (in *entrance) Addr() net.Addr { return in.gate.Addr() }

// Close stops accepting.
func (in *entrance) Close() error { return in.gate.listener.Close() }

// accept admits connections until ctx ends or the listener fails, and returns when no handshake is left.
func (in *entrance) accept(ctx context.Context) {
	g := in.gate
	var handshakes sync.WaitGroup
	defer handshakes.Wait()
	context.AfterFunc(ctx, func() { _ = g.listener.Close() }) // it may be closed already; either way Accept ends
	var pause time.Duration
	for {
		raw, err := g.listener.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				in.failed <- err
				return
			}
			// Out of file descriptors or memory, or the client has gone already: others may fare better in a moment.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			g.o.Log.LogAttrs(ctx, slog.LevelWarn, "accepting a connection did not work", slog.String("listener", g.o.Name), slog.String("cause", err.Error()))
			wait(ctx, pause)
			continue
		}
		pause = 0
		c, reason := g.admit(raw)
		if reason != admitted {
			g.counts.refuse(reason)
			drop(raw)
			continue
		}
		if g.tls == nil {
			if in.streams != nil {
				c.becomeStream(c, in.streams)
			}
			in.hand(ctx, c, c)
			continue
		}
		handshakes.Go(func() {
			defer func() { <-g.slots }()
			in.handshake(ctx, c)
		})
	}
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// drop closes a connection that was not let in, with a reset, so that it costs us no state afterwards.
func drop(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

// admit applies the limits to a new connection. For a TLS connection it takes a handshake slot, which the caller gives back.
func (g *Gate) admit(raw net.Conn) (*conn, reason) {
	c := &conn{Conn: raw, gate: g, peer: &Peer{}, read: deadline{move: raw.SetReadDeadline}, write: deadline{move: raw.SetWriteDeadline}}
	c.peer.conn = c
	if unix, ok := raw.(*net.UnixConn); ok {
		actor, err := localActor(unix)
		if err != nil {
			return nil, unknownUser
		}
		c.peer.local = actor
	} else if from, err := netip.ParseAddrPort(raw.RemoteAddr().String()); err == nil {
		c.peer.address, c.peer.port = from.Addr().Unmap().WithZone(""), from.Port()
	}
	now := g.o.Now()
	if reason := g.guard.enter(c.peer.address, now, g.tls != nil); reason != admitted {
		return nil, reason
	}
	if g.tls == nil {
		return c, admitted
	}
	select {
	case g.slots <- struct{}{}:
	default:
		c.leave()
		return nil, tooManyHandshakes
	}
	if g.tickets != nil {
		g.tickets.rotate(g.tls, now)
	}
	return c, admitted
}

// handshake does the TLS handshake within its deadline and passes the connection on. When the deadline or ctx ends it, tls closes c.
func (in *entrance) handshake(ctx context.Context, c *conn) {
	g := in.gate
	limited, cancel := context.WithTimeout(ctx, g.o.Limits.HandshakeTimeout)
	defer cancel()
	secure := tls.Server(c, g.tls)
	if err := secure.HandshakeContext(limited); err != nil {
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			g.counts.refuse(slowHandshake)
		case ctx.Err() == nil:
			g.counts.refuse(failedHandshake)
			g.o.Log.LogAttrs(ctx, slog.LevelDebug, "a handshake failed", slog.String("listener", g.o.Name), slog.String("cause", cause(err)))
		}
		_ = c.Close()
		return
	}
	state := secure.ConnectionState()
	if err := acceptable(&state); err != nil {
		g.counts.refuse(failedHandshake)
		g.o.Log.LogAttrs(ctx, slog.LevelDebug, "a handshake failed", slog.String("listener", g.o.Name), slog.String("cause", err.Error()))
		_ = secure.Close()
		return
	}
	g.counts.handshakes.Add(1)
	if state.DidResume {
		g.counts.resumed.Add(1)
	}
	c.peer.secure(state)
	if in.streams != nil && (state.NegotiatedProtocol == g.o.Streams || state.NegotiatedProtocol == "" && !g.o.PreferHTTP) {
		c.becomeStream(secure, in.streams)
	}
	if leaf := c.peer.leaf; leaf != nil {
		c.serial = string(leaf.SerialNumber.Bytes())
		g.live.add(c.serial, c)
	}
	in.hand(ctx, c, secure)
}

// cause returns err's text without addresses: a network error names both ends.
func cause(err error) string {
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		return op.Op + ": " + op.Err.Error()
	}
	return err.Error()
}

// hand passes on out, which is c or TLS upon c: to the protocol of streams, or to net/http.
func (in *entrance) hand(ctx context.Context, c *conn, out net.Conn) {
	in.gate.counts.accepted.Add(1)
	if c.stream != nil {
		in.begin(c)
		return
	}
	if in.streams == nil { // what is upgraded from HTTP reads as it likes
		out = in.lookout.watch(out)
	}
	select {
	case in.ready <- out:
	case <-ctx.Done():
		_ = c.Close()
	}
}

// begin serves a stream in a goroutine of its own, so that the stack that the handshake needed does not stay.
func (in *entrance) begin(c *conn) {
	if !in.streams.add(c.stream) {
		_ = c.Close()
		return
	}
	if c.left.Load() { // it was cut before it was there to be removed
		in.streams.remove(c.stream)
		return
	}
	go in.serve(in.sessions, c.stream)
}

// conn is an admitted connection; closing it gives its place back.
type conn struct {
	net.Conn
	gate        *Gate
	peer        *Peer
	serial      string  // of the client's certificate; "" = none. Set before the connection is handed on
	stream      *Stream // nil: HTTP. Set likewise
	left        atomic.Bool
	hard        atomic.Bool // it is closed by a reset
	read, write deadline
}

// becomeStream says that something else than HTTP is spoken on out.
func (c *conn) becomeStream(out net.Conn, set *streams) {
	c.stream = &Stream{out: out, conn: c, set: set}
	c.hard.Store(true)
}

func (c *conn) Close() error {
	c.leave()
	if c.hard.Load() {
		drop(c.Conn)
		return nil
	}
	return c.Conn.Close()
}

// leave gives the connection's place back, once.
func (c *conn) leave() {
	if c.left.Swap(true) {
		return
	}
	if c.serial != "" {
		c.gate.live.remove(c.serial, c)
	}
	if c.stream != nil {
		c.stream.set.remove(c.stream)
	}
	c.gate.guard.leave(c.peer.address)
}

type peerKey struct{}

// withPeer puts the connection's Peer into the context of its requests.
func withPeer(ctx context.Context, out net.Conn) context.Context {
	switch w := out.(type) {
	case *watchedTLS:
		out = w.secure
	case *watched:
		out = w.Conn
	}
	if secure, ok := out.(*tls.Conn); ok {
		out = secure.NetConn()
	}
	return context.WithValue(ctx, peerKey{}, out.(*conn).peer)
}
