package mqtt

import (
	"context"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"mooring/internal/base/errs"
	"mooring/internal/base/web"
	"mooring/internal/core/message"
	"mooring/internal/server/gate"
)

// webPath is where WebSockets are opened (5.0, section 6); the standard names no path, and this one is what clients have by default.
const webPath = "/mqtt"

// ServeHTTP opens WebSockets at /mqtt, with the subprotocol "mqtt". Packets may be parted and joined over frames in any way; all frames are binary.
//
// A browser says from which page it comes. Pages that are not listed are refused, since the browser would use its owner's certificate for whatever page
// asks. Who says no origin is no browser, and needs a certificate.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path != webPath:
		web.Text(w, r, errs.New(errs.NotFound, "nothing is here; MQTT is at %s", webPath))
		return
	case r.Method != http.MethodGet:
		web.MethodNotAllowed(w, http.MethodGet)
		return
	}
	peer, ok := gate.PeerFrom(r)
	if !ok || !s.welcome(r.Header.Get("Origin"), peer) {
		s.counts.origins.Add(1)
		web.Text(w, r, errs.New(errs.Denied, "this page may not connect; messaging.origins names those that may"))
		return
	}
	if !offers(r, "mqtt") {
		web.Text(w, r, errs.New(errs.Invalid, "the subprotocol must be mqtt"))
		return
	}
	// The origin was looked at. Compression would let a page guess what others send, and costs memory.
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"mqtt"}, InsecureSkipVerify: true, CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return // it has been answered
	}
	s.serveWeb(r.Context(), ws, peer, gate.Draining(r))
}

// serveWeb serves one WebSocket until it has ended.
func (s *Server) serveWeb(ctx context.Context, ws *websocket.Conn, peer *gate.Peer, draining <-chan struct{}) {
	t := &webSocket{Conn: websocket.NetConn(ctx, ws, websocket.MessageBinary), ws: ws, peer: peer, ended: make(chan struct{})}
	ws.SetReadLimit(maxFrame)
	c := s.newConn(t, peer, "wss")
	go func() {
		select {
		case <-draining:
			c.Close(message.ReasonStopping)
		case <-t.ended:
		}
	}()
	if c.admit(ctx) {
		c.loop(ctx)
	}
	select {
	case <-t.ended: // the context, which what is still to be written needs, ends when this returns
	case <-ctx.Done():
		_ = t.Close()
	}
}

// maxFrame is how long a frame, or several that belong together, may be: twice the most that a policy allows a packet to have, since packets may share one.
// It takes no memory.
const maxFrame = 2 << 20

// welcome reports whether a page of that origin may connect.
func (s *Server) welcome(origin string, peer *gate.Peer) bool {
	if origin == "" {
		return peer.Leaf() != nil
	}
	for _, o := range s.deps.Origins {
		if strings.EqualFold(o, origin) {
			return true
		}
	}
	return false
}

// offers reports whether the client speaks the subprotocol.
func offers(r *http.Request, protocol string) bool {
	for _, line := range r.Header.Values("Sec-WebSocket-Protocol") {
		for name := range strings.SplitSeq(line, ",") {
			if strings.TrimSpace(name) == protocol {
				return true
			}
		}
	}
	return false
}

// webSocket is a transport.
type webSocket struct {
	net.Conn // a stream over the frames
	ws       *websocket.Conn
	peer     *gate.Peer
	ended    chan struct{}
	once     sync.Once
}

// Close ends the connection below at once.
func (w *webSocket) Close() error {
	w.peer.Hangup()
	w.once.Do(func() { close(w.ended) })
	return nil
}

// End closes as WebSockets do (RFC 6455, section 7.1.2), but waits no longer for the peer's part of it.
//
// Closing the stream would first break off the read that is under way, which ends the connection with a reset: it can overtake the last word.
func (w *webSocket) End(within time.Duration) {
	overdue := time.AfterFunc(within, func() { _ = w.Close() })
	defer overdue.Stop()
	_ = w.ws.Close(websocket.StatusNormalClosure, "") // that the peer did not answer makes no difference
	_ = w.Close()
}
