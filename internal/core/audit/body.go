package audit

import (
	"encoding/binary"

	"mooring/internal/base/errs"
)

// bodyVersion is the first octet of every batch body: version 1 = each entry as a uvarint length and its canonical octets.
const bodyVersion = 1

// appendBody writes the body of one batch. The present at fills in entries that bear no time.
func appendBody(b []byte, at int64, entries []Entry) []byte {
	b = append(b, bodyVersion)
	var one []byte
	for i := range entries {
		e := entries[i]
		if e.At == 0 {
			e.At = at
		}
		one = appendEntry(one[:0], &e)
		b = binary.AppendUvarint(b, uint64(len(one)))
		b = append(b, one...)
	}
	return b
}

// splitBody returns the encoded entries of a body that holds exactly n of them. They are parts of body, and not yet parsed.
func splitBody(body []byte, n int64) ([][]byte, error) {
	if len(body) == 0 || body[0] != bodyVersion {
		return nil, errs.New(errs.Invalid, "the batch does not start with format version %d", bodyVersion)
	}
	if n < 1 || n > int64(len(body)) {
		return nil, errs.New(errs.Invalid, "the batch cannot hold %d entries in %d octets", n, len(body))
	}
	entries := make([][]byte, 0, n)
	for rest := body[1:]; len(rest) > 0; {
		size, used := binary.Uvarint(rest)
		if used <= 0 || size > maxEntry || size > uint64(len(rest)-used) {
			return nil, errs.New(errs.Invalid, "entry %d of the batch has no valid length", len(entries))
		}
		if used > 1 && rest[used-1] == 0 {
			return nil, errs.New(errs.Invalid, "the length of entry %d of the batch is not in its shortest form", len(entries))
		}
		entries = append(entries, rest[used:used+int(size)])
		rest = rest[used+int(size):]
	}
	if int64(len(entries)) != n {
		return nil, errs.New(errs.Invalid, "the batch holds %d entries, its row says %d", len(entries), n)
	}
	return entries, nil
}
