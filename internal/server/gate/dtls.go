package gate

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	piondtls "github.com/pion/dtls/v3"
	"github.com/pion/dtls/v3/pkg/crypto/elliptic"
	"github.com/pion/logging"

	"mooring/internal/base/errs"
	"mooring/wire/dtls"
)

// DTLS says how a listener does DTLS 1.2 (RFC 6347): ECDHE-ECDSA with AES-128 in CCM_8, CCM or GCM, or AES-256 in GCM, the extended master secret, and a
// client certificate, which RFC 9148, section 3, requires for every request. There are no shared keys and no resumption.
type DTLS struct {
	Certificate *ServerCertificate
	// MTU is the largest IP packet that is sent, in octets.
	MTU int
	// Node stands in the first two octets of connection IDs, so that a balancer in front of several nodes can send a client that moved to the
	// one that knows it.
	Node uint16
	// Verify, if not nil, may refuse a client by its certificates, leaf first.
	Verify func(chain [][]byte) error
}

// Octets of an IPv6 and UDP header, of a record with a connection ID around a datagram's content, and of a connection ID.
const (
	ipOverhead     = 48
	recordOverhead = 13 + cidOctets + 8 + 16 + 1
	cidOctets      = 8
)

// Payload returns how many octets of application data fit into a packet.
func (d *DTLS) Payload() int { return d.MTU - ipOverhead - recordOverhead }

// suites are the ones offered; the first is the one that every constrained client has (RFC 7252, section 9.1.3.2).
func suites() []piondtls.CipherSuiteID {
	return []piondtls.CipherSuiteID{piondtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, piondtls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
		piondtls.TLS_ECDHE_ECDSA_WITH_AES_128_CCM, piondtls.TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8}
}

// front is the socket of a DTLS listener and what is known of its clients. One goroutine reads; it is never blocked by a client.
type front struct {
	gate    *Gate
	dtls    *DTLS
	socket  *net.UDPConn
	cookies *cookies
	quiet   logging.LoggerFactory

	mu      sync.Mutex
	byAddr  map[netip.AddrPort]*Session // guarded by mu; where a handshake was begun from
	byCID   map[[cidOctets]byte]*Session
	closed  bool           // guarded by mu: nobody is let in any more
	running sync.WaitGroup // of the associations; nothing is added after closed is set
}

// ListenDTLS binds o.Address for UDP. o.TLS is not used. The Gate is served by ServeDTLS.
func ListenDTLS(ctx context.Context, o Options, d DTLS) (*Gate, error) {
	if o.Address == "" {
		return nil, errs.New(errs.Invalid, "the listener %s has no address: set listen.%s", o.Name, o.Name)
	}
	o.TLS = nil
	g, err := newGate(o)
	if err != nil {
		return nil, err
	}
	secrets, err := newCookies()
	if err != nil {
		return nil, err
	}
	f := &front{gate: g, dtls: &d, cookies: secrets, byAddr: map[netip.AddrPort]*Session{}, byCID: map[[cidOctets]byte]*Session{},
		quiet: &logging.DefaultLoggerFactory{DefaultLogLevel: logging.LogLevelDisabled}}
	if _, err := cookieField(new(piondtls.Conn)); err != nil {
		return nil, err
	}
	socket, err := new(net.ListenConfig).ListenPacket(ctx, "udp", o.Address)
	if err != nil {
		return nil, errs.Wrap(errs.Unavailable, err, "cannot listen on %s for %s: %s", o.Address, o.Name, remedy(err, o.Name))
	}
	f.socket = socket.(*net.UDPConn) // of the network "udp" always
	g.front = f
	return g, nil
}

// ServeDTLS calls serve with each association after its handshake, in a goroutine of its own, until ctx ends; then associations may go on for as long as
// limits.drain_timeout, and are to end by themselves before (Session.Draining). It returns nil after ctx ended, and otherwise why the socket failed. serve
// returns when reading from the association fails or its context ends.
func (g *Gate) ServeDTLS(ctx context.Context, serve func(context.Context, *Session)) error {
	f := g.front
	work, stop := context.WithCancel(ctx)
	defer stop()
	sessions, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	failed := make(chan error, 1)
	go func() { failed <- f.read(work, func(s *Session) { s.run(work, sessions, serve) }) }()
	var err error
	select {
	case err = <-failed:
		stop()
		f.close()
	case <-ctx.Done():
		f.drain()
		abandon()
		f.close()
		_ = f.socket.Close()
		<-failed
	}
	f.running.Wait()
	_ = f.socket.Close()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("serving %s: %w", g.o.Name, err)
}

// drain lets nobody in any more and waits until all associations have ended, or for the time that there is.
func (f *front) drain() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	ended := make(chan struct{})
	go func() { f.running.Wait(); close(ended) }()
	timer := time.NewTimer(f.gate.o.Limits.DrainTimeout)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
	}
}

// close ends all associations.
func (f *front) close() {
	f.mu.Lock()
	f.closed = true
	var open []*Session
	for _, s := range f.byCID {
		open = append(open, s)
	}
	f.mu.Unlock()
	for _, s := range open {
		_ = s.Close()
	}
}

// maxDatagram is the most that is read of a datagram; what is longer is no record that could be decrypted, and lost.
const maxDatagram = 4096

// read hands datagrams to the associations that they belong to until the socket fails or is closed.
func (f *front) read(work context.Context, run func(*Session)) error {
	buffer := make([]byte, maxDatagram)
	var pause time.Duration
	for {
		n, from, err := f.socket.ReadFromUDPAddrPort(buffer)
		if err != nil {
			if work.Err() != nil || errors.Is(err, net.ErrClosed) {
				return err
			}
			pause = min(max(2*pause, time.Millisecond), time.Second) // an ICMP message about an earlier datagram, or no memory
			wait(work, pause)
			continue
		}
		pause = 0
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		if s := f.dispatch(buffer[:n], from); s != nil {
			go func() {
				defer f.running.Done()
				run(s)
			}()
		}
	}
}

// dispatch hands over a datagram and returns the association that it begins, if it does.
func (f *front) dispatch(datagram []byte, from netip.AddrPort) *Session {
	if cid, ok := dtls.CIDOf(datagram, cidOctets); ok {
		f.mu.Lock()
		s := f.byCID[[cidOctets]byte(cid)]
		f.mu.Unlock()
		if s != nil {
			s.roams.Store(true)
		}
		f.pass(s, datagram, from)
		return nil
	}
	if dtls.IsHello(datagram) {
		return f.hello(datagram, from)
	}
	f.mu.Lock()
	s := f.byAddr[from]
	f.mu.Unlock()
	f.pass(s, datagram, from)
	return nil
}

func (f *front) pass(s *Session, datagram []byte, from netip.AddrPort) {
	if s == nil || !s.packets.push(packet{append([]byte(nil), datagram...), endpoint{from}}) {
		f.gate.counts.refuse(strayDatagram)
	}
}

// hello answers a ClientHello: without a good cookie by a cookie, for which nothing is remembered; with one by beginning an association. A client may
// begin anew from the address of an association that it lost (RFC 6347, section 4.2.8); the cookie shows that it is there.
func (f *front) hello(datagram []byte, from netip.AddrPort) *Session {
	h, err := dtls.ParseHello(datagram)
	if err != nil {
		f.gate.counts.refuse(failedHandshake)
		return nil
	}
	g, now := f.gate, f.gate.o.Now()
	if h.Message != 1 || !f.cookies.good(&h, from, now) {
		g.counts.cookies.Add(1)
		_, _ = f.socket.WriteToUDPAddrPort(h.VerifyRequest(f.cookies.give(&h, from, now)), from) // lost, if it cannot be sent
		return nil
	}
	f.mu.Lock()
	old := f.byAddr[from]
	f.mu.Unlock()
	if old != nil && old.random == h.Random { // the hello came again
		f.pass(old, datagram, from)
		return nil
	}
	s, reason := f.admit(&h, datagram, from, now)
	if reason != admitted {
		g.counts.refuse(reason)
		return nil
	}
	if old != nil && !old.roams.Load() {
		go func() { _ = old.Close() }() // whose datagrams could not be told from those of the new one
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		<-g.slots
		s.leave()
		return nil
	}
	f.byAddr[from], f.byCID[s.cid] = s, s
	f.running.Add(1)
	return s
}

// admit applies the limits and makes an association, which is to be run.
func (f *front) admit(h *dtls.Hello, datagram []byte, from netip.AddrPort, now time.Time) (*Session, reason) {
	g := f.gate
	if reason := g.guard.enter(from.Addr(), now, true); reason != admitted {
		return nil, reason
	}
	select {
	case g.slots <- struct{}{}:
	default:
		g.guard.leave(from.Addr())
		return nil, tooManyHandshakes
	}
	leave := sync.OnceFunc(func() { g.guard.leave(from.Addr()) })
	s, err := f.newSession(h, datagram, from)
	if err != nil {
		<-g.slots
		leave()
		return nil, failedHandshake
	}
	s.leave = leave
	return s, admitted
}

func (f *front) newSession(h *dtls.Hello, datagram []byte, from netip.AddrPort) (*Session, error) {
	s := &Session{front: f, from: from, random: h.Random, base: h.Sequence, peer: &Peer{address: from.Addr()}, proven: endpoint{from}}
	binary.BigEndian.PutUint16(s.cid[:], f.dtls.Node)
	if _, err := rand.Read(s.cid[2:]); err != nil {
		return nil, fmt.Errorf("drawing a connection ID: %w", err)
	}
	s.packets = newPacketConn(f.socket.LocalAddr())
	s.packets.send, s.packets.gone = s.send, s.forget
	s.cookie = append([]byte(nil), h.Cookie...)
	// What pion/dtls would have seen, had it been asked for the cookie: first the hello without, then the hello with it.
	s.packets.push(packet{h.First(), endpoint{from}})
	s.packets.push(packet{append([]byte(nil), datagram...), endpoint{from}})
	var err error
	s.conn, err = piondtls.ServerWithOptions(s.packets, endpoint{from}, s.options()...)
	// A second closer must wait: pion/dtls lets it pass while the first one is about to send its last word.
	s.end = sync.OnceValue(func() error { return errors.Join(s.conn.Close(), s.packets.Close()) })
	return s, err
}

// Session is a DTLS association whose handshake has shown who the client is. Its methods may be called by several goroutines, Read by one.
type Session struct {
	front    *front
	from     netip.AddrPort // where the handshake came from
	random   [32]byte       // of the hello with which it began
	base     uint64         // number of that hello's record
	cookie   []byte
	cid      [cidOctets]byte
	packets  *packetConn
	conn     *piondtls.Conn
	end      func() error
	leave    func()
	peer     *Peer
	idle     *time.Timer     // set before serving
	silence  atomic.Int64    // how long nothing may come, time.Duration
	silent   atomic.Bool     // nothing came for so long
	draining <-chan struct{} // set before serving

	verified atomic.Bool // the cookie is in place
	roams    atomic.Bool // the client has used its connection ID

	mu     sync.Mutex
	proven endpoint // guarded by mu: where the client was shown to be
}

// run does the handshake and serves the association.
func (s *Session) run(work, sessions context.Context, serve func(context.Context, *Session)) {
	g := s.front.gate
	err := s.handshake(work)
	<-g.slots
	if err != nil {
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			g.counts.refuse(slowHandshake)
		case work.Err() == nil:
			g.counts.refuse(failedHandshake)
			g.o.Log.LogAttrs(work, slog.LevelDebug, "a handshake failed", slog.String("listener", g.o.Name), slog.String("cause", cause(err)))
		}
		_ = s.Close()
		return
	}
	g.counts.handshakes.Add(1)
	g.counts.accepted.Add(1)
	serial := string(s.peer.leaf.SerialNumber.Bytes())
	g.live.add(serial, s)
	defer g.live.remove(serial, s)
	s.silence.Store(int64(g.o.Limits.IdleTimeout))
	s.idle = time.AfterFunc(g.o.Limits.IdleTimeout, func() {
		g.counts.idle.Add(1)
		s.silent.Store(true)
		_ = s.Close()
	})
	defer s.idle.Stop()
	s.draining = work.Done()
	defer func() { _ = s.Close() }()
	serve(sessions, s)
}

func (s *Session) handshake(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, s.front.gate.o.Limits.HandshakeTimeout)
	defer cancel()
	if err := s.conn.HandshakeContext(limited); err != nil {
		if limited.Err() != nil {
			return limited.Err()
		}
		return err
	}
	state, ok := s.conn.ConnectionState()
	if !ok || len(state.PeerCertificates) == 0 {
		return errors.New("the state of the association cannot be read")
	}
	return s.peer.secureDTLS(&state)
}

// options are those of one association.
func (s *Session) options() []piondtls.ServerOption {
	d := s.front.dtls
	return []piondtls.ServerOption{
		piondtls.WithCipherSuites(suites()...),
		piondtls.WithEllipticCurves(elliptic.P256, elliptic.X25519, elliptic.P384),
		piondtls.WithExtendedMasterSecret(piondtls.RequireExtendedMasterSecret),
		piondtls.WithClientAuth(piondtls.RequireAnyClientCert),
		piondtls.WithVerifyPeerCertificate(func(chain [][]byte, _ [][]*x509.Certificate) error { return d.verify(chain) }),
		piondtls.WithGetCertificate(func(hello *piondtls.ClientHelloInfo) (*tls.Certificate, error) {
			s.peer.server = hello.ServerName
			if held := d.Certificate.Get(hello.ServerName); held != nil {
				return held, nil
			}
			return nil, errs.New(errs.Unavailable, "the server has no certificate yet")
		}),
		piondtls.WithConnectionIDGenerator(func() []byte { return append([]byte(nil), s.cid[:]...) }),
		piondtls.WithMTU(d.MTU - ipOverhead - 25), // pion counts neither the record's header nor the message's
		piondtls.WithLoggerFactory(s.front.quiet),
	}
}

func (d *DTLS) verify(chain [][]byte) error {
	switch {
	case len(chain) == 0:
		return errors.New("the client has no certificate")
	case len(chain) > maxChain:
		return fmt.Errorf("the client sent %d certificates, more than %d", len(chain), maxChain)
	case d.Verify == nil:
		return nil
	}
	return d.Verify(chain)
}

// send passes on what pion/dtls sends, but for its request of a cookie, which the client has shown already: there the client's cookie is put in the place of
// pion's. The records of the handshake are numbered from the client's own (RFC 6347, section 4.2.1), since the answer that bore the cookie had one.
func (s *Session) send(b []byte, to net.Addr) (int, error) {
	if _, ok := dtls.IsVerifyRequest(b); ok {
		if s.verified.Swap(true) {
			return len(b), nil
		}
		field, err := cookieField(s.conn)
		if err != nil {
			return 0, err
		}
		*field = s.cookie // this is the goroutine that compares it afterwards
		return len(b), nil
	}
	if s.base > 0 && len(b) > 4 && b[3] == 0 && b[4] == 0 {
		b = append([]byte(nil), b...)
		dtls.Renumber(b, s.base)
	}
	at, ok := to.(endpoint)
	if !ok {
		return 0, fmt.Errorf("an address of type %T", to)
	}
	return s.front.socket.WriteToUDPAddrPort(b, at.AddrPort)
}

// forget takes the association out of what is known.
func (s *Session) forget() {
	f := s.front
	f.mu.Lock()
	if f.byAddr[s.from] == s {
		delete(f.byAddr, s.from)
	}
	delete(f.byCID, s.cid)
	f.mu.Unlock()
	s.leave()
}

// Close ends the association and tells the client so, once.
func (s *Session) Close() error {
	return s.end()
}

// Drop ends the association at once and may be called with locks held: no datagram finds it any more. The client is told, unless it is not certain that
// it is where it was last. What had been read already can still come out of Read.
func (s *Session) Drop() {
	s.forget()
	go func() {
		if _, moved := s.Moved(); moved {
			_ = s.packets.Close()
		}
		_ = s.end()
	}()
}

// Idle has the association end when nothing came for d, in the place of limits.idle_timeout.
func (s *Session) Idle(d time.Duration) {
	s.silence.Store(int64(d))
	s.idle.Reset(d)
}

// Peer returns who the client is.
func (s *Session) Peer() *Peer { return s.peer }

// Payload returns how many octets of application data fit into a packet.
func (s *Session) Payload() int { return s.front.dtls.Payload() }

// Read returns the next datagram's content; one that does not fit into b is lost. It fails when the association ends: with
// os.ErrDeadlineExceeded because nothing came for limits.idle_timeout, or for what Idle said.
func (s *Session) Read(b []byte) (int, error) {
	for {
		n, err := s.conn.Read(b)
		var passing *piondtls.TemporaryError
		if errors.As(err, &passing) {
			continue // a datagram that does not fit into b
		}
		if err == nil {
			s.idle.Reset(time.Duration(s.silence.Load()))
		}
		if err != nil && s.silent.Load() {
			err = os.ErrDeadlineExceeded
		}
		return n, err
	}
}

// Write sends a datagram to where the client was last.
func (s *Session) Write(b []byte) (int, error) { return s.conn.Write(b) }

// Allow reports whether the client may send one more request now.
func (s *Session) Allow() bool {
	if s.front.gate.guard.request(s.peer.address, s.front.gate.o.Now()) {
		return true
	}
	s.front.gate.counts.refuse(tooManyRequests)
	return false
}

// Draining returns a channel that is closed when the listener is about to stop.
func (s *Session) Draining() <-chan struct{} { return s.draining }

// Moved returns where the client was last, and whether that is another address than it was shown to be at, since a newer record came from there
// (RFC 9146, section 6): so something that only the client can answer must be answered from there before much is sent.
func (s *Session) Moved() (at netip.AddrPort, moved bool) {
	last, ok := s.conn.RemoteAddr().(endpoint)
	s.mu.Lock()
	defer s.mu.Unlock()
	return last.AddrPort, ok && last != s.proven
}

// Prove says that the client has answered what was sent to it at this address, which need not be where it is now.
func (s *Session) Prove(at netip.AddrPort) {
	s.mu.Lock()
	s.proven = endpoint{at}
	s.mu.Unlock()
	s.front.gate.counts.moved.Add(1)
}

// secureDTLS adds what the handshake proved.
func (p *Peer) secureDTLS(state *piondtls.State) (err error) {
	if p.leaf, err = x509.ParseCertificate(state.PeerCertificates[0]); err != nil {
		return fmt.Errorf("reading the client's certificate: %w", err)
	}
	p.chain = state.PeerCertificates
	p.bindings = sync.OnceValue(func() [][]byte {
		// RFC 9266 wants an empty context, which pion/dtls cannot give; without one it is as good. There is no tls-unique.
		value, err := state.ExportKeyingMaterial(bindingLabel, nil, bindingOctets)
		if err != nil {
			return nil
		}
		return [][]byte{value}
	})
	return nil
}
