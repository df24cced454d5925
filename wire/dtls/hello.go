// Package dtls reads the first message of a DTLS 1.2 handshake and writes the answer to it, without remembering anything: the cookie exchange of
// RFC 6347, section 4.2.1, by which a server makes sure that a client can be reached at its address before it spends memory and signatures on it.
//
//	record      type 22, version, epoch 0, sequence (6 octets), length
//	handshake   type 1, length (3), message_seq (2), fragment_offset (3), fragment_length (3)
//	ClientHello version, random (32), session_id <0..32>, cookie <0..255>, cipher_suites <2..2^16-2>, compression_methods <1..255>, extensions
//
// A hello that is spread over several records cannot be answered so, since its parts would have to be kept; clients of DTLS 1.2 send none.
//
// It also tells what a datagram is for by its first octets, so that it finds its connection. The package deliberately does nothing else of DTLS.
package dtls

import (
	"encoding/binary"
	"errors"

	"golang.org/x/crypto/cryptobyte"
)

// Content types of records.
const (
	typeHandshake = 22
	typeCID       = 25 // RFC 9146, section 4
)

const (
	recordHeader    = 13
	handshakeHeader = 12
	clientHello     = 1
	verifyRequest   = 3

	// version10 is what a HelloVerifyRequest says whatever version is meant (RFC 6347, section 4.2.1).
	version10 = 0xfeff

	maxSequence = 1<<48 - 1
)

// CIDOf returns the connection ID, of the given length, of a datagram that begins with a record that has one, and false for another datagram.
func CIDOf(datagram []byte, length int) (cid []byte, ok bool) {
	if len(datagram) < recordHeader+length || datagram[0] != typeCID {
		return nil, false
	}
	return datagram[recordHeader-2 : recordHeader-2+length], true
}

// IsHello reports whether a datagram begins with a ClientHello of a new handshake, whole or not.
func IsHello(datagram []byte) bool {
	return len(datagram) > recordHeader && datagram[0] == typeHandshake && datagram[3] == 0 && datagram[4] == 0 && datagram[recordHeader] == clientHello
}

// Hello is a ClientHello that came in one record of epoch 0.
type Hello struct {
	Sequence uint64 // of the record
	Message  uint16 // message_seq
	Cookie   []byte
	Random   [32]byte

	before, after []byte // the body around the cookie
	version       uint16 // of the record
}

// ErrNoHello says that a datagram holds no ClientHello that can be answered without memory.
var ErrNoHello = errors.New("not one whole ClientHello")

// ParseHello reads a datagram that begins with a ClientHello. The result refers to it.
func ParseHello(datagram []byte) (Hello, error) {
	var h Hello
	if !IsHello(datagram) {
		return h, ErrNoHello
	}
	h.version = binary.BigEndian.Uint16(datagram[1:])
	h.Sequence = binary.BigEndian.Uint64(datagram[3:]) & maxSequence
	s := cryptobyte.String(datagram[recordHeader-2:])
	var record, session, suites, methods, cookie cryptobyte.String
	var kind uint8
	var length, offset, fragment uint32
	var version uint16
	if !s.ReadUint16LengthPrefixed(&record) || !record.ReadUint8(&kind) || !record.ReadUint24(&length) || !record.ReadUint16(&h.Message) ||
		!record.ReadUint24(&offset) || !record.ReadUint24(&fragment) || offset != 0 || fragment != length || int(length) != len(record) {
		return h, ErrNoHello
	}
	body := []byte(record)
	if !record.ReadUint16(&version) || !record.CopyBytes(h.Random[:]) || !record.ReadUint8LengthPrefixed(&session) || len(session) > 32 {
		return h, ErrNoHello
	}
	h.before = body[:len(body)-len(record)]
	if !record.ReadUint8LengthPrefixed(&cookie) {
		return h, ErrNoHello
	}
	h.Cookie, h.after = cookie, record
	if !record.ReadUint16LengthPrefixed(&suites) || len(suites) < 2 || !record.ReadUint8LengthPrefixed(&methods) || len(methods) < 1 {
		return h, ErrNoHello
	}
	return h, nil
}

// Parameters appends what both hellos of an exchange have in common, and a cookie must therefore depend on (RFC 6347, section 4.2.1): everything but the
// cookie.
func (h *Hello) Parameters(b []byte) []byte { return append(append(b, h.before...), h.after...) }

// First returns a datagram with the hello as it was before the client was given a cookie: without one, as the first message.
func (h *Hello) First() []byte {
	sequence := uint64(0)
	if h.Sequence == 0 {
		sequence = 1
	}
	body := append(h.Parameters(nil), 0)
	copy(body[len(h.before)+1:], body[len(h.before):])
	body[len(h.before)] = 0 // the length of the cookie
	return message(h.version, sequence, clientHello, 0, body)
}

// VerifyRequest returns a datagram that gives the client a cookie of at most 255 octets. Its record has the number of the hello's.
func (h *Hello) VerifyRequest(cookie []byte) []byte {
	body := binary.BigEndian.AppendUint16(nil, version10)
	body = append(append(body, byte(len(cookie))), cookie...)
	return message(version10, h.Sequence, verifyRequest, 0, body)
}

// IsVerifyRequest reports whether a datagram gives a client a cookie, and returns it.
func IsVerifyRequest(datagram []byte) (cookie []byte, ok bool) {
	const at = recordHeader + handshakeHeader + 3
	if len(datagram) < at || datagram[0] != typeHandshake || datagram[recordHeader] != verifyRequest {
		return nil, false
	}
	n := int(datagram[at-1])
	if len(datagram) != at+n {
		return nil, false
	}
	return datagram[at:], true
}

// Renumber adds n to the number of each record of epoch 0 at the beginning of a datagram. The numbers of that epoch are not authenticated.
func Renumber(datagram []byte, n uint64) {
	for len(datagram) >= recordHeader && binary.BigEndian.Uint16(datagram[3:]) == 0 {
		sequence := (binary.BigEndian.Uint64(datagram[3:]) + n) & maxSequence
		binary.BigEndian.PutUint64(datagram[3:], sequence)
		length := recordHeader + int(binary.BigEndian.Uint16(datagram[11:]))
		if length > len(datagram) {
			return
		}
		datagram = datagram[length:]
	}
}

// message returns a record of epoch 0 with one handshake message.
func message(version uint16, sequence uint64, kind uint8, number uint16, body []byte) []byte {
	b := append(make([]byte, 0, recordHeader+handshakeHeader+len(body)), typeHandshake)
	b = binary.BigEndian.AppendUint16(b, version)
	b = binary.BigEndian.AppendUint64(b, sequence&maxSequence)
	b = binary.BigEndian.AppendUint16(b, uint16(handshakeHeader+len(body)))
	length := []byte{byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body))}
	b = append(append(b, kind), length...)
	b = binary.BigEndian.AppendUint16(b, number)
	b = append(append(b, 0, 0, 0), length...)
	return append(b, body...)
}
