//go:build soak

package soak

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"mooring/wire/der"
	"mooring/wire/est"
)

// wound is what happens to the octets of one connection, or the datagrams of one association, on their way to the server.
type wound struct {
	kind string
	at   int // how many octets or datagrams arrive before it happens
}

// kinds of wounds: a bit flips; the connection is cut; nothing more comes, and the connection stays; a part comes twice; much comes that was
// never sent; the media type is another one (where it can be read).
func kinds() []string { return []string{"flip", "cut", "halt", "double", "flood", "type"} }

// randomWound happens within the first most octets or datagrams.
func randomWound(most int) wound {
	all := kinds()
	return wound{all[rand.IntN(len(all))], rand.IntN(most)}
}

const floodSize = 128 << 10

// patience is how long a wounded client waits for anything.
const patience = 30 * time.Second

// hurt is a connection with a wound.
type hurt struct {
	net.Conn
	wound
	sent  int
	muted bool
}

var errCut = errors.New("the connection was cut on purpose")

func (h *hurt) Write(b []byte) (int, error) {
	if h.muted {
		return len(b), nil
	}
	if h.kind == "type" {
		return h.Conn.Write(otherType(b))
	}
	if h.sent > h.at || h.sent+len(b) <= h.at {
		h.sent += len(b)
		return h.Conn.Write(b)
	}
	i := h.at - h.sent
	h.sent = h.at + 1 + len(b)
	_, err := h.Conn.Write(h.damage(b, i))
	switch h.kind {
	case "cut":
		_ = h.Conn.Close() // that is the point
		return i, errCut
	case "halt":
		h.muted = true
	}
	return len(b), err
}

// damage returns what arrives of b, of which the octet i is the first that the wound concerns.
func (h *hurt) damage(b []byte, i int) []byte {
	switch h.kind {
	case "cut", "halt":
		return b[:i]
	case "double":
		return slices.Concat(b, b[i:])
	case "flood":
		return slices.Concat(b[:i], junk(floodSize), b[i:])
	}
	out := bytes.Clone(b)
	if i < len(out) {
		out[i] ^= 1 << rand.IntN(8)
	}
	return out
}

// otherType replaces media types by others of the same length.
func otherType(b []byte) []byte {
	for _, kind := range []string{"application/pkixcmp", "application/pkcs10", "application/jose+json", "application/ocsp-request", "application/x-pki-message"} {
		b = bytes.ReplaceAll(b, []byte(kind), []byte("text/"+kind[5:]))
	}
	return b
}

func junk(n int) []byte {
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(rand.Uint32())
	}
	return out
}

// dialer opens connections from an address of this machine's own choosing, so that the server meets many clients.
func dialer(ctx context.Context, network, address string) (net.Conn, error) {
	own := &net.TCPAddr{IP: net.IPv4(127, byte(rand.IntN(8)), byte(rand.IntN(256)), byte(1+rand.IntN(250)))}
	return (&net.Dialer{LocalAddr: own}).DialContext(ctx, network, address)
}

// hurtDialer opens connections with a wound.
func hurtDialer(w wound) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dialer(ctx, network, address)
		if err != nil {
			return nil, err
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		return &hurt{Conn: conn, wound: w}, nil
	}
}

// rewriter is a transport that harms requests within TLS.
type rewriter struct{ wound }

func (w rewriter) harm(r *http.Request) error {
	if r.Body == nil || rand.IntN(3) > 0 {
		return nil
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	switch h := (&hurt{wound: w.wound}); w.kind {
	case "type":
		r.Header.Set("Content-Type", "text/plain")
	default:
		body = h.damage(body, min(w.at, len(body)))
	}
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	r.GetBody = nil
	return nil
}

// relay stands between a client of DTLS and the server and harms the client's datagrams.
type relay struct {
	wound
	near *net.UDPConn
	far  net.Conn

	mu     sync.Mutex
	client *net.UDPAddr // guarded by mu
}

// newRelay returns a relay and the address that the client is to speak to. It ends with stop.
func newRelay(server string, w wound) (address string, stop func(), err error) {
	near, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return "", nil, err
	}
	far, err := net.Dial("udp", server)
	if err != nil {
		return "", nil, errors.Join(err, near.Close())
	}
	r := &relay{wound: w, near: near, far: far}
	go r.out()
	go r.back()
	return near.LocalAddr().String(), func() { _, _ = near.Close(), far.Close() }, nil
}

func (r *relay) out() {
	buffer := make([]byte, 4096)
	for n := 0; ; n++ {
		size, from, err := r.near.ReadFromUDP(buffer)
		if err != nil {
			return
		}
		r.mu.Lock()
		r.client = from
		r.mu.Unlock()
		for _, datagram := range r.pass(buffer[:size], n) {
			_, _ = r.far.Write(datagram) // the network may lose it
		}
	}
}

// pass returns what arrives of datagram n.
func (r *relay) pass(datagram []byte, n int) [][]byte {
	switch {
	case r.kind == "halt" && n >= r.at:
		return nil
	case r.kind == "cut" && n >= r.at && len(datagram) > 1:
		return [][]byte{datagram[:rand.IntN(len(datagram))]}
	case n != r.at || len(datagram) == 0:
	case r.kind == "flip":
		datagram[rand.IntN(len(datagram))] ^= 1 << rand.IntN(8)
	case r.kind == "double":
		return [][]byte{datagram, datagram}
	case r.kind == "flood":
		list := [][]byte{datagram}
		for range 50 {
			wrong := bytes.Clone(datagram)
			for range 4 {
				wrong[rand.IntN(len(wrong))] ^= 1 << rand.IntN(8)
			}
			list = append(list, wrong, junk(rand.IntN(1400)))
		}
		return list
	}
	return [][]byte{datagram}
}

func (r *relay) back() {
	buffer := make([]byte, 4096)
	for {
		n, err := r.far.Read(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		r.mu.Lock()
		to := r.client
		r.mu.Unlock()
		if err == nil && to != nil {
			_, _ = r.near.WriteToUDP(buffer[:n], to)
		}
	}
}

// stranger sends an address something that is no request of its protocol, waits a while or not, and goes away.
func stranger(ctx context.Context, address string) error {
	conn, err := dialer(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	texts := [][]byte{nil, junk(rand.IntN(5000)), []byte("GET / HTTP/1.1\r\nHost: localhost\r\n"), []byte("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\nabc"),
		[]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), {0x16, 3, 1, 2, 0, 1}, []byte("GET /" + string(bytes.Repeat([]byte("a"), 70_000)) + " HTTP/1.1\r\n\r\n"),
		[]byte("POST /ocsp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc")}
	if _, err := conn.Write(texts[rand.IntN(len(texts))]); err != nil {
		return err
	}
	_ = conn.SetReadDeadline(time.Now().Add(time.Duration(rand.Int64N(int64(patience)))))
	if rand.IntN(2) == 0 {
		_, err = io.Copy(io.Discard, conn)
	}
	return err
}

// insideTLS sends one request by hand, over TLS where the server speaks it, whose text is harmed: its head, its body, or what is said of it.
func (w *world) insideTLS(ctx context.Context, m *member) {
	protocol, origin, path, kind := "est", w.at.EST, "/.well-known/est/simpleenroll", "application/pkcs10"
	if rand.IntN(3) == 0 {
		protocol, origin, path, kind = "ocsp", w.at.Status, "/ocsp", "application/ocsp-request"
	}
	var body []byte
	if protocol == "est" {
		csr, err := csrFor(w.key(), der.AltNames{})
		if err != nil {
			w.bad.add(protocol, err)
			return
		}
		body = est.EncodeBase64(csr)
	} else {
		body, _ = ocspRequest(w.issuers[0], w.issuers[0]) // a bad one is as good
	}
	text := fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		path, base64.StdEncoding.EncodeToString([]byte(m.name+":no token")), kind, len(body), body)
	h := &hurt{wound: randomWound(len(text))}
	if h.kind == "type" {
		text = otherType(text)
	} else {
		text = h.damage(text, h.at)
	}
	w.bad.add(protocol, w.say(ctx, origin, text, h.kind == "halt"))
}

// say sends text and waits for whatever answers it; halted says that the rest never comes and that the client waits as long as the server does.
func (w *world) say(ctx context.Context, origin string, text []byte, halted bool) error {
	scheme, address, _ := strings.Cut(origin, "://")
	conn, err := dialer(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if scheme == "https" {
		over := tls.Client(conn, &tls.Config{RootCAs: w.pool, ServerName: "localhost"})
		if err := over.HandshakeContext(ctx); err != nil {
			return err
		}
		conn = over
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write(text); err != nil {
		return err
	}
	if !halted && rand.IntN(2) == 0 {
		return nil // gone before the answer
	}
	r, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	_, err = io.Copy(io.Discard, r.Body)
	if err == nil && r.StatusCode >= 400 {
		err = fmt.Errorf("the server answered %s", r.Status)
	}
	return err
}
