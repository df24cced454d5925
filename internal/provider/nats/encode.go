package nats

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"strings"

	"mooring/internal/core/message"
)

// The headers of a stored message. The payload is the publisher's, octet by octet, so that other programs which read the streams have use for it;
// the topic is readable; everything else lies in one binary text, because a header's line costs more than what it says.
//
//	Mq-Topic: v1/acme/dev-1/telemetry/x      octets up to 0x20, 0x7F and % as %XX
//	Mq-Meta:  base64url of
//	   octet    1, the version of this layout
//	   octet    bits 0-1 QoS, bit 2 retain, bit 3 with properties, bits 4-5 stream, bit 6 with place
//	   varint   received, Unix milliseconds
//	   varint   expiry in seconds, 0 = none
//	   text     thing           (varint of its length, octets)
//	   text     child
//	   text     from, the client identifier
//	   16       id of the thing
//	   16       certificate
//	   with place (retained messages, which do not lie in their stream): text key, varint seq
//	   with properties: octet format, text content type, text response topic, text correlation data, varint number of user properties, texts
const (
	headerTopic = "Mq-Topic"
	headerMeta  = "Mq-Meta"
)

const (
	metaVersion = 1

	metaRetain     = 1 << 2
	metaProperties = 1 << 3
	metaPlace      = 1 << 6
)

var errMeta = errors.New("not the headers of a stored message")

func encodeTopic(topic string) string {
	odd := 0
	for i := range len(topic) {
		if c := topic[i]; c <= ' ' || c == 0x7f || c == '%' {
			odd++
		}
	}
	if odd == 0 {
		return topic
	}
	b := make([]byte, 0, len(topic)+2*odd)
	for i := range len(topic) {
		if c := topic[i]; c <= ' ' || c == 0x7f || c == '%' {
			b = append(b, '%', hexDigits[c>>4], hexDigits[c&15])
		} else {
			b = append(b, c)
		}
	}
	return string(b)
}

func decodeTopic(text string) (string, error) {
	if !strings.Contains(text, "%") {
		return text, nil
	}
	b := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		if text[i] != '%' {
			b = append(b, text[i])
			continue
		}
		if i+2 >= len(text) {
			return "", errMeta
		}
		hi, lo := strings.IndexByte(hexDigits, text[i+1]), strings.IndexByte(hexDigits, text[i+2])
		if hi < 0 || lo < 0 {
			return "", errMeta
		}
		b = append(b, byte(hi<<4|lo))
		i += 2
	}
	return string(b), nil
}

func hasProperties(p *message.Properties) bool {
	return p.Format != 0 || p.ContentType != "" || p.ResponseTopic != "" || len(p.Correlation) > 0 || len(p.User) > 0
}

func encodeMeta(m *message.Message, place bool) string {
	var room [256]byte
	var text [384]byte
	return string(base64.RawURLEncoding.AppendEncode(text[:0], appendMeta(room[:0], m, place)))
}

func appendMeta(b []byte, m *message.Message, place bool) []byte {
	flags := m.QoS&3 | byte(m.Stream&3)<<4
	if m.Retain {
		flags |= metaRetain
	}
	if place {
		flags |= metaPlace
	}
	if hasProperties(&m.Properties) {
		flags |= metaProperties
	}
	b = append(b, metaVersion, flags)
	b = binary.AppendUvarint(b, uint64(m.At))
	b = binary.AppendUvarint(b, uint64(m.Expiry))
	b = appendText(b, m.Thing)
	b = appendText(b, m.Child)
	b = appendText(b, m.From)
	b = append(b, m.ID[:]...)
	b = append(b, m.Cert[:]...)
	if place {
		b = appendText(b, m.Key)
		b = binary.AppendUvarint(b, m.Seq)
	}
	if flags&metaProperties != 0 {
		b = appendProperties(b, &m.Properties)
	}
	return b
}

func appendProperties(b []byte, p *message.Properties) []byte {
	b = append(b, p.Format)
	b = appendText(b, p.ContentType)
	b = appendText(b, p.ResponseTopic)
	b = appendText(b, string(p.Correlation))
	b = binary.AppendUvarint(b, uint64(len(p.User)))
	for _, pair := range p.User {
		b = appendText(b, pair.Name)
		b = appendText(b, pair.Value)
	}
	return b
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// decodeMeta fills m from what encodeMeta wrote. Whoever may write into the streams may write anything there: what it allocates is bounded by the text's
// length.
func decodeMeta(m *message.Message, text string) error {
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return errMeta
	}
	return readMeta(m, raw)
}

func readMeta(m *message.Message, raw []byte) error {
	if len(raw) < 2 || raw[0] != metaVersion {
		return errMeta
	}
	r := reader{rest: raw[2:]}
	flags := raw[1]
	m.QoS, m.Retain, m.Stream = flags&3, flags&metaRetain != 0, message.Stream(flags>>4&3)
	m.At = int64(r.number())
	m.Expiry = uint32(min(r.number(), 1<<32-1))
	m.Thing, m.Child, m.From = r.text(), r.text(), r.text()
	copy(m.ID[:], r.octets(len(m.ID)))
	copy(m.Cert[:], r.octets(len(m.Cert)))
	if flags&metaPlace != 0 {
		m.Key, m.Seq = r.text(), r.number()
	}
	if flags&metaProperties != 0 {
		r.properties(&m.Properties)
	}
	if r.bad || len(r.rest) > 0 || m.QoS > 2 {
		return errMeta
	}
	return nil
}

// reader takes a text apart; after the first lack everything it gives is empty.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) number() uint64 {
	n, used := binary.Uvarint(r.rest)
	if used <= 0 {
		r.bad, r.rest = true, nil
		return 0
	}
	r.rest = r.rest[used:]
	return n
}

func (r *reader) octets(n int) []byte {
	if n > len(r.rest) {
		r.bad, r.rest = true, nil
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) text() string {
	n := r.number()
	if n > uint64(len(r.rest)) {
		r.bad, r.rest = true, nil
		return ""
	}
	return string(r.octets(int(n)))
}

func (r *reader) properties(p *message.Properties) {
	if format := r.octets(1); format != nil {
		p.Format = format[0]
	}
	p.ContentType, p.ResponseTopic = r.text(), r.text()
	if c := r.text(); c != "" {
		p.Correlation = []byte(c)
	}
	n := r.number()
	if n > uint64(len(r.rest)) { // a pair is two octets at least
		r.bad, n = true, 0
	}
	for range n {
		pair := message.Pair{Name: r.text(), Value: r.text()}
		if r.bad {
			return
		}
		p.User = append(p.User, pair)
	}
}
