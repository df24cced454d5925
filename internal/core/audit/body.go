package audit

import (
	"encoding/binary"

	"mooring/internal/base/errs"
)

// bodyVersion is the first octet of every batch body: version 1 = the batch's stamp as a uvarint, then each entry as a uvarint length and
// its canonical octets.
const bodyVersion = 1

// appendBody writes the body of one batch. Entries that bear no time get that of the stamp, in microseconds.
func appendBody(b []byte, stamp int64, entries []Entry) []byte {
	b = append(b, bodyVersion)
	b = binary.AppendUvarint(b, uint64(stamp))
	var one []byte
	for i := range entries {
		e := entries[i]
		if e.At == 0 {
			e.At = stamp / microseconds
		}
		one = appendEntry(one[:0], &e)
		b = binary.AppendUvarint(b, uint64(len(one)))
		b = append(b, one...)
	}
	return b
}

// splitBody returns the encoded entries of a body that holds exactly n of them and bears stamp. They are parts of body, and not yet parsed.
func splitBody(body []byte, stamp, n int64) ([][]byte, error) {
	if len(body) == 0 || body[0] != bodyVersion {
		return nil, errs.New(errs.Invalid, "the batch does not start with format version %d", bodyVersion)
	}
	if n < 1 || n > int64(len(body)) {
		return nil, errs.New(errs.Invalid, "the batch cannot hold %d entries in %d octets", n, len(body))
	}
	own, rest, ok := cutUvarint(body[1:])
	if !ok || own != uint64(stamp) {
		return nil, errs.New(errs.Invalid, "the batch bears the stamp %d, its row %d", own, stamp)
	}
	entries := make([][]byte, 0, n)
	for len(rest) > 0 {
		size, tail, ok := cutUvarint(rest)
		if !ok || size > maxEntry || size > uint64(len(tail)) {
			return nil, errs.New(errs.Invalid, "entry %d of the batch has no valid length", len(entries))
		}
		entries = append(entries, tail[:size])
		rest = tail[size:]
	}
	if int64(len(entries)) != n {
		return nil, errs.New(errs.Invalid, "the batch holds %d entries, its row says %d", len(entries), n)
	}
	return entries, nil
}

// cutUvarint reads a uvarint in its shortest form.
func cutUvarint(b []byte) (value uint64, rest []byte, ok bool) {
	value, used := binary.Uvarint(b)
	if used <= 0 || used > 1 && b[used-1] == 0 {
		return 0, b, false
	}
	return value, b[used:], true
}
