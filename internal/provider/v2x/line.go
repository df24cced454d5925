package v2x

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"
)

// Bounds of connections to authorities.
const (
	hostsMost   = 64 // addresses with kept connections
	atOnce      = 64 // exchanges with one of them at once; others wait
	keptIdle    = atOnce
	headerMost  = 16 << 10
	bufferStart = 4 << 10
)

// line is a connection over which one question after the other goes, written and read by who asks: the client of net/http has two more goroutines for each
// connection, which cost as much as a signature.
type line struct {
	conn net.Conn
	in   *bufio.Reader
	from *io.LimitedReader // what in reads from
	out  []byte
}

// lines are the connections to one address.
type lines struct {
	address string
	head    string // of each request, up to its type
	turn    chan struct{}

	mu   sync.Mutex
	idle []*line // guarded by mu
}

func newLines(u *url.URL) *lines {
	address := u.Host
	if u.Port() == "" {
		address = net.JoinHostPort(u.Hostname(), "80")
	}
	return &lines{address: address, turn: make(chan struct{}, atOnce),
		head: "POST " + u.RequestURI() + " HTTP/1.1\r\nHost: " + u.Host + "\r\nUser-Agent: mooring\r\nContent-Type: "}
}

// post sends a question and returns the answer. One that was lost with a connection that the other side had closed meanwhile is sent again: it is counted once.
func (l *lines) post(ctx context.Context, request []byte, kind, want string, limit int64) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if c := l.take(); c != nil {
		answer, silent, err := l.exchange(ctx, c, request, kind, want, limit)
		if err == nil || !silent || ctx.Err() != nil {
			return answer, err
		}
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", l.address)
	if err != nil {
		return nil, err
	}
	from := &io.LimitedReader{R: conn}
	answer, _, err := l.exchange(ctx, &line{conn: conn, in: bufio.NewReaderSize(from, bufferStart), from: from}, request, kind, want, limit)
	return answer, err
}

func (l *lines) take() *line {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.idle) - 1
	if n < 0 {
		return nil
	}
	c := l.idle[n]
	l.idle = l.idle[:n]
	return c
}

// keep keeps a connection for the next question.
func (l *lines) keep(c *line) {
	l.mu.Lock()
	kept := len(l.idle) < keptIdle
	if kept {
		l.idle = append(l.idle, c)
	}
	l.mu.Unlock()
	if !kept {
		_ = c.conn.Close() // nothing is lost with it
	}
}

// exchange sends a question over a connection and reads the answer. Afterwards the connection is kept or closed. silent says that nothing came back.
func (l *lines) exchange(ctx context.Context, c *line, request []byte, kind, want string, limit int64) (answer []byte, silent bool, err error) {
	whole := false
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Unix(1, 0)) }) // who waits finds out
	defer func() {
		if stop() && whole {
			l.keep(c)
			return
		}
		_ = c.conn.Close() // it is in no state to be used
	}()
	c.out = append(append(append(c.out[:0], l.head...), kind...), "\r\nContent-Length: "...)
	c.out = append(strconv.AppendInt(c.out, int64(len(request)), 10), "\r\n\r\n"...)
	c.out = append(c.out, request...)
	if _, err := c.conn.Write(c.out); err != nil {
		return nil, true, err
	}
	c.from.N = headerMost + limit + 1
	if _, err := c.in.Peek(1); err != nil {
		return nil, true, err
	}
	r, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return nil, false, err
	}
	if answer, err = read(r, want, limit, l.address); err != nil {
		return nil, false, err
	}
	whole = !r.Close && c.in.Buffered() == 0
	return answer, false, nil
}

// read reads an answer that is to be of a kind.
func read(r *http.Response, kind string, limit int64, from string) ([]byte, error) {
	defer r.Body.Close()
	if got := r.Header.Get("Content-Type"); r.StatusCode != http.StatusOK || got != kind {
		return nil, &statusError{from, r.StatusCode, got}
	}
	var b bytes.Buffer
	if r.ContentLength > 0 {
		b.Grow(int(min(r.ContentLength, limit)) + bytes.MinRead)
	}
	_, err := b.ReadFrom(io.LimitReader(r.Body, limit+1))
	if err == nil && int64(b.Len()) > limit {
		err = fmt.Errorf("%s answers with more than %d octets", from, limit)
	}
	return b.Bytes(), err
}
