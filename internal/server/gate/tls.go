package gate

import (
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
)

// TLS says how a listener does TLS.
type TLS struct {
	Certificate *ServerCertificate
	Settings    conf.TLS
	// Require refuses clients without a certificate; otherwise one is asked for and may be absent. Neither verifies it.
	Require bool
	// Verify, if not nil, may refuse a connection before its first request. It is called on resumed connections too.
	Verify func(tls.ConnectionState) error
	// TicketSecret, of 32 octets or more, encrypts session tickets; listeners of the same name with the same secret resume each other's
	// sessions, also on other machines. Without it, or without Settings.SessionLifetime, there is no resumption. Who has it can read recorded
	// TLS 1.2 sessions that used tickets, so draw it anew at each start where one server is all there is.
	TicketSecret []byte
}

// ServerCertificate holds the certificate that a listener presents, so that it can be renewed while the listener runs. The zero value is ready
// and has none; handshakes then fail.
type ServerCertificate struct {
	current atomic.Pointer[tls.Certificate]
	named   sync.Map // names in small letters to *tls.Certificate
}

// Set replaces the certificate for the connections to come. c must not be changed afterwards.
func (s *ServerCertificate) Set(c *tls.Certificate) { s.current.Store(c) }

// SetFor is Set for clients that ask for the name by SNI (RFC 6066, section 3), with "" for everybody else.
func (s *ServerCertificate) SetFor(name string, c *tls.Certificate) {
	if name == "" {
		s.Set(c)
		return
	}
	s.named.Store(strings.ToLower(name), c)
}

// Get returns the certificate for a client that asks for the name, or nil.
func (s *ServerCertificate) Get(name string) *tls.Certificate {
	if name != "" {
		if c, ok := s.named.Load(strings.ToLower(name)); ok {
			return c.(*tls.Certificate)
		}
	}
	return s.current.Load()
}

func (t *TLS) config(name string, now func() time.Time) (*tls.Config, *tickets, error) {
	c := &tls.Config{
		Time:       now,
		MinVersion: tls.VersionTLS12,
		MaxVersion: tls.VersionTLS13,
		// curl --http1.0 names the last one, and a name that is not offered ends the handshake (RFC 7301, section 3.2).
		NextProtos: []string{"h2", "http/1.1", "http/1.0"},
		ClientAuth: tls.RequestClientCert,
		// TLS 1.2 suites only; those of 1.3 are all good and cannot be chosen.
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
			tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		CurvePreferences:       []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256, tls.CurveP384},
		Renegotiation:          tls.RenegotiateNever,
		SessionTicketsDisabled: true,
		VerifyConnection:       t.verify,
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if held := t.Certificate.Get(hello.ServerName); held != nil {
				return held, nil
			}
			return nil, errs.New(errs.Unavailable, "the server has no certificate yet")
		},
	}
	if t.Settings.MinVersion == "1.3" {
		c.MinVersion = tls.VersionTLS13
	}
	if !t.Settings.Hybrid {
		c.CurvePreferences = c.CurvePreferences[1:]
	}
	if t.Require {
		c.ClientAuth = tls.RequireAnyClientCert
	}
	if len(t.TicketSecret) == 0 || t.Settings.SessionLifetime <= 0 {
		return c, nil, nil
	}
	tickets, err := newTickets(name, t.TicketSecret, t.Settings.SessionLifetime)
	c.SessionTicketsDisabled = false
	return c, tickets, err
}

// maxChain bounds the certificates of a client, and with them the work of building a path.
const maxChain = 10

// verify runs in each handshake, also of resumed sessions, where VerifyPeerCertificate would not be called.
func (t *TLS) verify(state tls.ConnectionState) error {
	if n := len(state.PeerCertificates); n > maxChain {
		return fmt.Errorf("the client sent %d certificates, more than %d", n, maxChain)
	}
	if t.Verify == nil {
		return nil
	}
	return t.Verify(state)
}

// acceptable looks at what only a finished handshake shows: without the extended master secret two connections can be made to share their
// channel bindings (RFC 7627, section 1). crypto/tls has no switch for it, but then gives no exporter.
func acceptable(state *tls.ConnectionState) error {
	if state.Version >= tls.VersionTLS13 {
		return nil
	}
	if _, err := state.ExportKeyingMaterial(bindingLabel, nil, bindingOctets); err != nil {
		return fmt.Errorf("the client does not support the extended master secret: %w", err)
	}
	return nil
}

// tickets derives the keys of session tickets from a secret and the time, so that servers with the same secret agree without talking.
// A key encrypts for half the lifetime and decrypts for as long again; a session is thus resumed for the lifetime at most.
type tickets struct {
	name   string
	secret []byte
	period time.Duration

	mu      sync.Mutex
	current int64 // guarded by mu: number of the period whose keys are set
}

func newTickets(name string, secret []byte, lifetime time.Duration) (*tickets, error) {
	if len(secret) < 32 {
		return nil, errs.New(errs.Invalid, "the secret for session tickets has %d octets, fewer than 32", len(secret))
	}
	return &tickets{name: name, secret: secret, period: max(1, lifetime/2), current: -1}, nil
}

// rotate gives c the keys for now, if they are not set yet.
func (t *tickets) rotate(c *tls.Config, now time.Time) {
	period := now.UnixNano() / int64(t.period)
	t.mu.Lock()
	defer t.mu.Unlock()
	if period == t.current {
		return
	}
	t.current = period
	// The first encrypts. The last is for tickets of a server whose clock is a little ahead.
	c.SetSessionTicketKeys([][32]byte{t.key(period), t.key(period - 1), t.key(period + 1)})
}

// key binds a key to the listener's name: a session made where no certificate is required must mean nothing where one is.
func (t *tickets) key(period int64) (key [32]byte) {
	info := binary.BigEndian.AppendUint64([]byte("mooring session ticket "+t.name+" "), uint64(period))
	derived, err := hkdf.Key(sha256.New, t.secret, nil, string(info), len(key))
	if err != nil {
		panic("gate: " + err.Error()) // 32 octets of SHA-256 can always be derived
	}
	copy(key[:], derived)
	return key
}
