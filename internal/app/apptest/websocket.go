package apptest

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
)

// webSocket is a client's stream over the binary frames of a WebSocket (RFC 6455, section 5): one frame for each Write, and whatever frames the server likes.
type webSocket struct {
	net.Conn
	in   *bufio.Reader
	left uint64 // octets of the present frame
}

func newWebSocket(c net.Conn) *webSocket { return &webSocket{Conn: c, in: bufio.NewReader(c)} }

// NetConn is the connection below.
func (w *webSocket) NetConn() net.Conn {
	if t, ok := w.Conn.(interface{ NetConn() net.Conn }); ok {
		return t.NetConn()
	}
	return w.Conn
}

func (w *webSocket) greet() error {
	const request = "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n" +
		"Sec-WebSocket-Key: bW9vcmluZyB0ZXN0cyBpdA==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
	if _, err := io.WriteString(w.Conn, request); err != nil {
		return err
	}
	r, err := http.ReadResponse(w.in, nil)
	if err != nil {
		return err
	}
	if r.StatusCode != http.StatusSwitchingProtocols {
		_ = r.Body.Close() // the connection is closed with it
		return Status(r.StatusCode)
	}
	return nil
}

const (
	binaryFrame = 0x82 // the whole message, in one frame
	maskBit     = 0x80
)

// Write sends b as a frame. The mask is zero, which is one: it hides nothing from intermediaries, and none is here.
func (w *webSocket) Write(b []byte) (int, error) {
	head := []byte{binaryFrame, maskBit}
	switch n := len(b); {
	case n < 126:
		head[1] |= byte(n)
	case n < 1<<16:
		head[1] |= 126
		head = binary.BigEndian.AppendUint16(head, uint16(n))
	default:
		head[1] |= 127
		head = binary.BigEndian.AppendUint64(head, uint64(n))
	}
	head = append(head, 0, 0, 0, 0)
	if _, err := w.Conn.Write(append(head, b...)); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Read returns what the server's frames hold. The end of the WebSocket is the end of the stream.
func (w *webSocket) Read(b []byte) (int, error) {
	for w.left == 0 {
		if err := w.next(); err != nil {
			return 0, err
		}
	}
	n, err := w.in.Read(b[:min(uint64(len(b)), w.left)])
	w.left -= uint64(n)
	return n, err
}

func (w *webSocket) next() error {
	head := make([]byte, 8)
	if _, err := io.ReadFull(w.in, head[:2]); err != nil {
		return err
	}
	kind, n := head[0]&0x0f, uint64(head[1]&0x7f)
	switch n {
	case 126:
		if _, err := io.ReadFull(w.in, head[:2]); err != nil {
			return err
		}
		n = uint64(binary.BigEndian.Uint16(head))
	case 127:
		if _, err := io.ReadFull(w.in, head); err != nil {
			return err
		}
		n = binary.BigEndian.Uint64(head)
	}
	switch kind {
	case 0, 2: // a part, or the whole, of a binary message
		w.left = n
		return nil
	case 8:
		return io.EOF
	}
	return errors.New("the server sent a frame that is no binary one")
}
