// Package coap is a client of CoAP (RFC 7252) over DTLS 1.2 for devices: one association with one server, one request at a time, with bodies in blocks
// in both directions (RFC 7959, RFC 9175).
//
//	conn, err := coap.Dial(ctx, coap.Config{Address: "pki.example.com:5684", Certificate: identity, Verify: verify})
//	defer conn.Close()
//	answer, err := conn.Do(ctx, coap.Request{Code: wire.POST, Path: "/est/sen", Format: wire.PKCS10, Body: csr})
//
// The association offers connection IDs (RFC 9146), so that it outlives a change of the device's address.
//
// Messages: Publish says something under a topic; Observe asks to be told, and Wait returns what came (RFC 7641). What comes while another answer is
// waited for is kept, up to a bound; beyond it the server says again what is confirmable.
//
//	commands, _, err := conn.Observe(ctx, "v1/meter-1/cmd/+")
//	err = conn.Publish(ctx, coap.Publication{Topic: "v1/meter-1/telemetry/power", Payload: reading, Confirmed: true})
//	for {
//		command, err := conn.Wait(ctx)
//		…
//	}
//
// It deliberately does not answer requests, use shared keys, or resume associations.
package coap

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	piondtls "github.com/pion/dtls/v3"
	"github.com/pion/logging"

	wire "mooring/wire/coap"
)

// Times of RFC 7252, section 4.8, and how long an answer may take that the server has announced.
const (
	ackTimeout    = 2 * time.Second
	maxRetransmit = 4
	answerTimeout = 90 * time.Second
)

// maxDatagram is more than a message of RFC 7252, section 4.6, has with its record.
const maxDatagram = 2048

// Config says with whom and how.
type Config struct {
	Address     string // host:port
	ServerName  string // in the server's certificate and the hello; "" is the host of Address
	Certificate *tls.Certificate
	// Verify judges the server's certificates, the leaf first; the handshake proves that it holds the leaf's key. Required.
	Verify func(chain []*x509.Certificate) error
	// Block is the largest block that is sent and asked for, a power of two from 16 to 1024; 0 is 1024.
	Block int
	// MaxBody bounds the body of an answer in octets; 0 is 1 MiB.
	MaxBody int
}

// Request is one request.
type Request struct {
	Code   wire.Code
	Path   string      // with "/" in front, and perhaps a query
	Format wire.Format // of the body, if there is one
	Accept wire.Format // 0: whatever the server likes
	Body   []byte
}

// Answer is what came of it.
type Answer struct {
	Code   wire.Code
	Format wire.Format
	MaxAge time.Duration // 0: not said
	Body   []byte
}

// Conn is an association. It is used by one goroutine at a time.
type Conn struct {
	config  Config
	dtls    *piondtls.Conn
	peer    []*x509.Certificate
	szx     uint8
	id      uint16
	token   uint64
	refused atomic.Pointer[error] // why the server was not believed

	observations []*Observation
	came         []*wire.Message // notifications, the oldest first
	known        []uint16        // the IDs of those that were acknowledged lately
}

// ErrNoAnswer says that the server did not answer.
var ErrNoAnswer = errors.New("no answer came")

// Dial makes an association.
func Dial(ctx context.Context, c Config) (*Conn, error) {
	if c.MaxBody == 0 {
		c.MaxBody = 1 << 20
	}
	if c.Block == 0 {
		c.Block = 1024
	}
	host, port, err := net.SplitHostPort(c.Address)
	if err != nil {
		return nil, fmt.Errorf("reading the address %q: %w", c.Address, err)
	}
	if c.ServerName == "" {
		c.ServerName = host
	}
	addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("looking for %s: %w", host, err)
	}
	number, err := net.DefaultResolver.LookupPort(ctx, "udp", port)
	if err != nil {
		return nil, fmt.Errorf("reading the port %q: %w", port, err)
	}
	var failed error
	for _, a := range addresses {
		conn, err := dial(ctx, c, netip.AddrPortFrom(a.Unmap(), uint16(number)))
		if err == nil {
			return conn, nil
		}
		failed = errors.Join(failed, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, failed
}

func dial(ctx context.Context, c Config, to netip.AddrPort) (*Conn, error) {
	conn := &Conn{config: c, szx: wire.SZXFor(c.Block), id: uint16(mathrand.Uint32())}
	options := []piondtls.ClientOption{
		piondtls.WithCipherSuites(piondtls.TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8, piondtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
		piondtls.WithExtendedMasterSecret(piondtls.RequireExtendedMasterSecret),
		piondtls.WithConnectionIDGenerator(piondtls.OnlySendCIDGenerator()),
		piondtls.WithServerName(c.ServerName),
		piondtls.WithInsecureSkipVerify(true), // by pion; Verify judges, by the clock of the device
		piondtls.WithVerifyPeerCertificate(conn.verify),
		piondtls.WithLoggerFactory(&logging.DefaultLoggerFactory{DefaultLogLevel: logging.LogLevelDisabled}),
	}
	if c.Certificate != nil {
		options = append(options, piondtls.WithCertificates(*c.Certificate))
	}
	var err error
	if conn.dtls, err = piondtls.DialWithOptions("udp", net.UDPAddrFromAddrPort(to), options...); err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", to, err)
	}
	if err := conn.dtls.HandshakeContext(ctx); err != nil {
		_ = conn.dtls.Close() // the handshake's error is the one that says something
		switch refused := conn.refused.Load(); {
		case refused != nil: // whatever the server said to that meanwhile
			err = *refused
		case ctx.Err() != nil:
			err = fmt.Errorf("%w within the time for it", ErrNoAnswer)
		}
		return nil, fmt.Errorf("connecting to %s by DTLS: %w", c.Address, err)
	}
	return conn, nil
}

func (c *Conn) verify(raw [][]byte, _ [][]*x509.Certificate) error {
	c.peer = nil
	for _, der := range raw {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("reading the server's certificate: %w", err)
		}
		c.peer = append(c.peer, cert)
	}
	if len(c.peer) == 0 {
		return errors.New("the server has no certificate")
	}
	err := c.config.Verify(c.peer)
	if err != nil {
		c.refused.Store(&err)
	}
	return err
}

// Peer returns the server's certificates, the leaf first.
func (c *Conn) Peer() []*x509.Certificate { return c.peer }

// Export returns keying material of the association (RFC 5705).
func (c *Conn) Export(label string, length int) ([]byte, error) {
	state, ok := c.dtls.ConnectionState()
	if !ok {
		return nil, errors.New("the state of the association cannot be read")
	}
	return state.ExportKeyingMaterial(label, nil, length)
}

// Close ends the association.
func (c *Conn) Close() error { return c.dtls.Close() }

// Do sends a request, in blocks if it must, and returns the whole answer.
func (c *Conn) Do(ctx context.Context, r Request) (*Answer, error) {
	base := wire.PathOptions(r.Path)
	if r.Accept != 0 {
		base = append(base, wire.UintOption(wire.Accept, uint32(r.Accept)))
	}
	if len(r.Body) > 0 {
		tag := make([]byte, 4)
		if _, err := rand.Read(tag); err != nil {
			return nil, fmt.Errorf("drawing a Request-Tag: %w", err)
		}
		base = append(base, wire.Option{Number: wire.RequestTag, Value: tag})
	}
	first, err := c.upload(ctx, r, base)
	if err != nil {
		return nil, err
	}
	return c.download(ctx, r, base, first)
}

// upload sends the body and returns the answer to its last block. A server that lost the beginning, or wants smaller blocks, is sent all of it once more.
func (c *Conn) upload(ctx context.Context, r Request, base wire.Options) (*wire.Message, error) {
	szx := c.szx
	for again := 2; ; again-- {
		m, err := c.uploadBlocks(ctx, r, base, &szx)
		if err != nil || again == 0 {
			return m, err
		}
		hint, blocks := smaller(m, szx)
		switch {
		case m.Code == wire.EntityTooLarge && blocks:
			szx = hint
		case m.Code != wire.EntityIncomplete || len(r.Body) <= 16<<szx:
			return m, nil
		}
	}
}

// smaller returns the block size that an answer asks for, if it is a smaller one.
func smaller(m *wire.Message, szx uint8) (uint8, bool) {
	value, ok := m.Options.Get(wire.Block1)
	if !ok {
		return szx, false
	}
	b, err := wire.ParseBlock(value)
	return b.SZX, err == nil && b.SZX < szx
}

func (c *Conn) uploadBlocks(ctx context.Context, r Request, base wire.Options, szx *uint8) (*wire.Message, error) {
	for ask := (wire.Block{SZX: *szx}); ; {
		part, b, ok := wire.Cut(r.Body, ask)
		if !ok {
			return nil, errors.New("the server asks for blocks beyond the request")
		}
		m := &wire.Message{Code: r.Code, Options: base[:len(base):len(base)], Payload: part}
		if len(r.Body) > 0 {
			m.Options = append(m.Options, wire.UintOption(wire.ContentFormat, uint32(r.Format)))
		}
		if b.More || b.Num > 0 {
			m.Options = append(m.Options, wire.Option{Number: wire.Block1, Value: b.Value()}, wire.UintOption(wire.Size1, uint32(len(r.Body))))
		}
		if c.szx < wire.MaxSZX && !b.More {
			m.Options = append(m.Options, wire.Option{Number: wire.Block2, Value: wire.Block{SZX: c.szx}.Value()}) // early negotiation
		}
		answer, err := c.exchange(ctx, m)
		if err != nil || !b.More || answer.Code != wire.Continue {
			return answer, err
		}
		next := ask.Offset() + len(part)
		if smallest, ok := smaller(answer, *szx); ok {
			*szx = smallest
		}
		ask = wire.Block{Num: uint32(next >> (*szx + 4)), SZX: *szx}
	}
}

// download fetches the rest of an answer.
func (c *Conn) download(ctx context.Context, r Request, base wire.Options, m *wire.Message) (*Answer, error) {
	out := &Answer{Code: m.Code, Body: bytes.Clone(m.Payload)}
	format, _ := m.Options.Uint(wire.ContentFormat)
	out.Format = wire.Format(format)
	if age, ok := m.Options.Uint(wire.MaxAge); ok {
		out.MaxAge = time.Duration(age) * time.Second
	}
	etag, _ := m.Options.Get(wire.ETag)
	for {
		value, blocks := m.Options.Get(wire.Block2)
		if !blocks {
			return out, nil
		}
		b, err := wire.ParseBlock(value)
		if err != nil {
			return nil, fmt.Errorf("reading the answer: %w", err)
		}
		if !b.More {
			return out, nil
		}
		if len(m.Payload) != b.Size() || len(out.Body)+b.Size() > c.config.MaxBody {
			return nil, errors.New("the answer is too large, or its blocks are not whole")
		}
		szx := min(b.SZX, c.szx)
		ask := wire.Block{Num: uint32(len(out.Body) >> (szx + 4)), SZX: szx}
		next := &wire.Message{Code: r.Code, Options: append(base[:len(base):len(base)], wire.Option{Number: wire.Block2, Value: ask.Value()})}
		if m, err = c.exchange(ctx, next); err != nil {
			return nil, err
		}
		if m.Code != out.Code {
			return nil, fmt.Errorf("the rest of the answer was refused with %s: %s", m.Code, m.Payload)
		}
		value, _ = m.Options.Get(wire.Block2)
		tag, _ := m.Options.Get(wire.ETag)
		if got, err := wire.ParseBlock(value); err != nil || got.Offset() != len(out.Body) || !bytes.Equal(tag, etag) {
			return nil, errors.New("the blocks of the answer do not belong together; try again")
		}
		out.Body = append(out.Body, m.Payload...)
	}
}

// exchange sends one message and returns what answers it, at once or later.
func (c *Conn) exchange(ctx context.Context, m *wire.Message) (*wire.Message, error) {
	c.id++
	m.Type, m.ID = wire.Confirmable, c.id
	if m.Token == nil && m.Code != wire.Empty {
		m.Token = c.newToken()
	}
	datagram := m.Append(nil)
	timeout := ackTimeout + time.Duration(mathrand.Int64N(int64(ackTimeout/2)))
	for range maxRetransmit + 1 {
		if _, err := c.dtls.Write(datagram); err != nil {
			return nil, fmt.Errorf("sending: %w", err)
		}
		answer, acknowledged, err := c.await(ctx, m, timeout)
		if err != nil || answer != nil {
			return answer, err
		}
		if acknowledged { // it comes by itself
			answer, _, err = c.await(ctx, m, answerTimeout)
			if answer == nil && err == nil {
				err = fmt.Errorf("%w within %v though one was announced", ErrNoAnswer, answerTimeout)
			}
			return answer, err
		}
		timeout *= 2
	}
	return nil, fmt.Errorf("%w to %d messages", ErrNoAnswer, maxRetransmit+1)
}

func (c *Conn) newToken() []byte {
	c.token++
	return binary.BigEndian.AppendUint64(nil, c.token)
}

// await waits for the answer to m. It returns early when m was acknowledged without one. Without m it returns when a notification has come.
func (c *Conn) await(ctx context.Context, m *wire.Message, limit time.Duration) (answer *wire.Message, acknowledged bool, err error) {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	fired := make(chan struct{})
	stop := context.AfterFunc(limited, func() {
		defer close(fired)
		_ = c.dtls.SetReadDeadline(time.Unix(1, 0)) // ends the read; pion/dtls never fails at this
	})
	defer func() {
		if !stop() {
			<-fired
		}
		_ = c.dtls.SetReadDeadline(time.Time{})
	}()
	if m == nil && len(c.came) > 0 {
		return nil, false, nil
	}
	buffer := make([]byte, maxDatagram)
	for {
		n, err := c.dtls.Read(buffer)
		if err != nil {
			if limited.Err() != nil {
				return nil, false, ctx.Err()
			}
			return nil, false, fmt.Errorf("waiting for the answer: %w", err)
		}
		got, err := wire.Parse(bytes.Clone(buffer[:n]))
		if err != nil {
			continue
		}
		switch {
		case m != nil && got.Type == wire.Reset && got.ID == m.ID && m.Code == wire.Empty: // the answer to a ping
			return got, true, nil
		case m != nil && got.Type == wire.Reset && got.ID == m.ID:
			return nil, false, errors.New("the server does not want this message")
		case m != nil && got.Type == wire.Acknowledgement && got.ID == m.ID && got.Code == wire.Empty:
			return nil, true, nil
		case got.Type == wire.Confirmable && got.Code == wire.Empty: // a ping: are we here?
			c.say(&wire.Message{Type: wire.Reset, ID: got.ID})
		case m != nil && got.Code.Class() >= 2 && bytes.Equal(got.Token, m.Token):
			if got.Type == wire.Confirmable {
				c.say(&wire.Message{Type: wire.Acknowledgement, ID: got.ID})
			}
			return got, true, nil
		case c.notification(got):
			if m == nil {
				return nil, false, nil
			}
		case got.Type == wire.Confirmable: // an answer that was waited for no longer, or came again
			c.say(&wire.Message{Type: wire.Reset, ID: got.ID})
		}
	}
}

// say sends what need not arrive.
func (c *Conn) say(m *wire.Message) { _, _ = c.dtls.Write(m.Append(nil)) }
