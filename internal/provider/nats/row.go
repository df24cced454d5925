package nats

import (
	"bytes"
	"encoding/binary"

	"mooring/internal/core/message"
)

// Where the server is embedded, what devices publish lies in rows: what came within a moment is one entry of the stream Up, since JetStream does nearly as much for
// an entry of one message as for one of a hundred. Nobody else reads those streams, so that subject and payload need not be what others expect. With servers
// outside, and in the other streams, each message is an entry.
//
//	subject  NAME.up.row
//	octet    1, the version of this layout
//	varint   the place of the first message (place.go)
//	varint   how many there are
//	each     varint of the length of what follows; text topic; text meta, which encode.go has in base64; octet 0, or octet 1 and text key, when that is not the
//	         thing; payload

const rowVersion = 1

// The bounds of a row: whoever looks for one message of it reads all of it.
const (
	rowMessages = 256
	rowOctets   = 64 << 10
)

// appendRecord puts what is stored of m in a row behind b.
func appendRecord(b []byte, m *message.Message) []byte {
	var room [256]byte
	meta := appendMeta(room[:0], m, false)
	b = appendText(b, m.Topic)
	b = append(binary.AppendUvarint(b, uint64(len(meta))), meta...)
	if m.Key == m.Thing {
		b = append(b, 0)
	} else {
		b = appendText(append(b, 1), m.Key)
	}
	return append(b, m.Payload...)
}

// appendRow makes a row of the records of entries.
func appendRow(b []byte, first uint64, entries []*entry) []byte {
	b = append(b, rowVersion)
	b = binary.AppendUvarint(b, first)
	b = binary.AppendUvarint(b, uint64(len(entries)))
	for _, e := range entries {
		b = binary.AppendUvarint(b, uint64(len(e.record)))
		b = append(b, e.record...)
	}
	return b
}

// unpack calls fn for the messages of an entry of s with places above after, until fn returns false, and reports whether it did not. What is no message is passed over.
func (f *Fabric) unpack(s message.Stream, from *stored, after uint64, fn func(*message.Message) bool) (goOn bool) {
	if s != message.Up {
		return f.unpackOne(s, from, from.seq, fn)
	}
	at, records := f.span(from)
	f.spans.note(at)
	if records == nil {
		return at.first <= after || f.unpackOne(s, from, at.first, fn)
	}
	for place := at.first; place < at.behind(); place++ {
		record := records.octets(int(min(records.number(), uint64(len(records.rest)))))
		if place <= after {
			continue
		}
		m, err := decodeRecord(record)
		if err != nil {
			f.odd(s, from)
			continue
		}
		m.Stream, m.Seq = s, place
		if !fn(m) {
			return false
		}
	}
	return true
}

func (f *Fabric) unpackOne(s message.Stream, from *stored, place uint64, fn func(*message.Message) bool) bool {
	m, err := decode(s, from)
	if err != nil {
		f.odd(s, from)
		return true
	}
	m.Seq = place
	return fn(m)
}

func (f *Fabric) odd(s message.Stream, from *stored) {
	name, _ := part(s)
	f.o.Log.Warn("a stream has what is no message", "stream", name, "entry", from.seq)
}

func decodeRecord(record []byte) (*message.Message, error) {
	r := reader{rest: record}
	m := &message.Message{Topic: r.text()}
	meta := r.octets(int(min(r.number(), uint64(len(r.rest)))))
	if err := readMeta(m, meta); err != nil {
		return nil, err
	}
	m.Key = m.Thing
	if mark := r.octets(1); mark != nil && mark[0] == 1 {
		m.Key = r.text()
	}
	if r.bad {
		return nil, errMeta
	}
	m.Payload = bytes.Clone(r.rest) // else a message that waits for a session would keep all of the row
	return m, nil
}
