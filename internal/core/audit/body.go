package audit

import (
	"bytes"
	"encoding/binary"

	"mooring/internal/base/errs"
)

// The first octet of every batch body is its version. Version 1, which is not written any more, is the batch's stamp as a uvarint, then each entry as
// a uvarint length and its canonical octets. Version 2 is in compact.go.
const bodyVersion = 1

// splitBody returns the encoded entries of a body that holds exactly n of them and bears stamp. They are not yet parsed.
func splitBody(body []byte, stamp, n int64) ([][]byte, error) {
	if len(body) == 0 || body[0] != bodyVersion && body[0] != compactVersion {
		return nil, errs.New(errs.Invalid, "the batch does not start with format version %d or %d", bodyVersion, compactVersion)
	}
	if n < 1 || n > int64(len(body)) {
		return nil, errs.New(errs.Invalid, "the batch cannot hold %d entries in %d octets", n, len(body))
	}
	if body[0] == compactVersion {
		entries := make([][]byte, 0, n)
		err := expandCompact(body, stamp, n, func(data []byte, _ *Entry) error { entries = append(entries, bytes.Clone(data)); return nil })
		if err != nil {
			return nil, err
		}
		return entries, nil
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

// eachEntry calls fn with the encoded entries of a body, as splitBody returns them but good only until fn returns, and with those that are parsed already,
// but for their details.
func eachEntry(body []byte, stamp, n int64, fn func(data []byte, e *Entry) error) error {
	if len(body) > 0 && body[0] == compactVersion && n >= 1 && n <= int64(len(body)) {
		return expandCompact(body, stamp, n, fn)
	}
	entries, err := splitBody(body, stamp, n)
	if err != nil {
		return err
	}
	for _, data := range entries {
		if err := fn(data, nil); err != nil {
			return err
		}
	}
	return nil
}

// cutUvarint reads a uvarint in its shortest form.
func cutUvarint(b []byte) (value uint64, rest []byte, ok bool) {
	value, used := binary.Uvarint(b)
	if used <= 0 || used > 1 && b[used-1] == 0 {
		return 0, b, false
	}
	return value, b[used:], true
}
