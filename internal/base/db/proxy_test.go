package db_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// trouble is what the proxy does to a COMMIT.
type trouble int

const (
	pass        trouble = iota
	swallow             // the server commits; its answer is thrown away and the connection cut
	cutBefore           // the connection is cut, the COMMIT never arrives
	delay               // the COMMIT arrives 1 to 200 ms late
	halfOpen            // the server commits; its answer never comes and nobody hangs up
	silence             // the COMMIT never arrives and nobody hangs up
	cutAnywhere         // some other message is lost with its connection
	troubles
)

// proxy stands between a client and PostgreSQL and understands just enough of the protocol, a type octet and a length before each message
// (PostgreSQL documentation, chapter 55 "Frontend/Backend Protocol"), to know a COMMIT when it passes.
type proxy struct {
	listener net.Listener
	server   string
	plan     []trouble // for one COMMIT after the other, again and again
	next     atomic.Int64
	healed   atomic.Bool
	done     [troubles]atomic.Int64

	mu    sync.Mutex
	conns []net.Conn // guarded by mu
	wg    sync.WaitGroup
}

// throughProxy starts a proxy in front of the server at rawURL and returns the URL that leads through it.
func throughProxy(t *testing.T, rawURL string, plan ...trouble) (*proxy, string) {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l, server: u.Host, plan: plan}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		_ = l.Close()
		p.hangUp()
		p.wg.Wait()
	})
	u.Host = l.Addr().String()
	q := u.Query()
	q.Set("sslmode", "disable")
	u.RawQuery = q.Encode()
	return p, u.String()
}

// hangUp cuts every connection.
func (p *proxy) hangUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.server)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, client, server)
		p.mu.Unlock()
		link := &link{proxy: p, client: client, server: server}
		p.wg.Go(link.up)
		p.wg.Go(link.down)
	}
}

// decide returns what to do with the next COMMIT.
func (p *proxy) decide() trouble {
	if p.healed.Load() {
		return pass
	}
	return p.plan[int(p.next.Add(1)-1)%len(p.plan)]
}

// link is one connection through the proxy.
type link struct {
	proxy          *proxy
	client, server net.Conn
	answer         atomic.Int32 // what becomes of the server's answers: a trouble
}

func (l *link) cut() {
	for _, c := range []net.Conn{l.client, l.server} {
		_ = c.Close()
	}
}

// up carries what the client says.
func (l *link) up() {
	defer l.cut()
	r := bufio.NewReader(l.client)
	if first, err := message(r, 0); err != nil || !send(l.server, first) {
		return
	}
	prepared := "?" // the name of the prepared COMMIT; that is none
	for {
		m, err := message(r, 1)
		if err != nil {
			return
		}
		what := pass
		if name, text := twoTexts(m); m[0] == 'P' && strings.EqualFold(text, "commit") {
			prepared = name
		}
		_, bound := twoTexts(m) // after the name of the portal
		switch {
		case m[0] == 'Q' && bytes.EqualFold(bytes.TrimRight(m[5:], "\x00; "), []byte("commit")), m[0] == 'B' && bound == prepared:
			what = l.proxy.decide()
		case m[0] == 'B' && l.proxy.mayCut():
			what = cutAnywhere
		}
		l.proxy.done[what].Add(1)
		switch what {
		case cutBefore, cutAnywhere:
			return
		case silence:
			_, _ = io.Copy(io.Discard, r) // until the client loses patience
			return
		case delay:
			time.Sleep(time.Millisecond + rand.N(199*time.Millisecond)) // the delay is the fault itself
		case swallow, halfOpen:
			l.answer.Store(int32(what))
		}
		if !send(l.server, m) {
			return
		}
	}
}

// twoTexts returns the two texts with which a Parse and a Bind begin.
func twoTexts(m []byte) (first, second string) {
	first, rest, _ := strings.Cut(string(m[5:]), "\x00")
	second, _, _ = strings.Cut(rest, "\x00")
	return first, second
}

// mayCut says whether a statement's message is lost: one in sixty, where the plan has that.
func (p *proxy) mayCut() bool {
	if p.healed.Load() || rand.N(60) != 0 {
		return false
	}
	for _, what := range p.plan {
		if what == cutAnywhere {
			return true
		}
	}
	return false
}

// down carries what the server says.
func (l *link) down() {
	defer l.cut()
	r := bufio.NewReader(l.server)
	for {
		m, err := message(r, 1)
		if err != nil {
			return
		}
		switch trouble(l.answer.Load()) {
		case swallow:
			if m[0] == 'Z' { // ready for the next query: the commit is through
				return
			}
			continue
		case halfOpen:
			continue
		}
		if !send(l.client, m) {
			return
		}
	}
}

// message reads one message: head octets of type, four of length that count themselves, and the rest.
func message(r *bufio.Reader, head int) ([]byte, error) {
	m := make([]byte, head+4)
	if _, err := io.ReadFull(r, m); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint32(m[head:])) - 4
	if n < 0 || n > 1<<26 {
		return nil, io.ErrUnexpectedEOF
	}
	m = append(m, make([]byte, n)...)
	_, err := io.ReadFull(r, m[head+4:])
	return m, err
}

func send(w io.Writer, m []byte) bool {
	_, err := w.Write(m)
	return err == nil
}
