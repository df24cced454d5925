package ca

import (
	"encoding/binary"
	"fmt"
	"io"

	"mooring/internal/base/errs"
)

// A serial number is 16 octets: class, issue second (4, big-endian), cell, 80 random bits. It is positive, of fixed DER length, unique
// without coordination, and tells where its row lies.
const (
	classOrdinary = 0x41
	classLong     = 0x42        // lives longer than longLife
	longLife      = 400 * 86400 // seconds
)

func newSerial(class byte, at int64, cell uint8, random io.Reader) (serial [16]byte, err error) {
	if at < 0 || at > 1<<32-1 {
		return serial, fmt.Errorf("the clock stands at %d, outside the years 1970 to 2106 that serial numbers can hold", at)
	}
	serial[0], serial[5] = class, cell
	binary.BigEndian.PutUint32(serial[1:5], uint32(at))
	if _, err := io.ReadFull(random, serial[6:]); err != nil {
		return serial, fmt.Errorf("reading random bits: %w", err)
	}
	return serial, nil
}

// Locate returns the cell and the day (since 1970) in which the certificate with this serial number is kept. A serial that is not one of
// ours is an error of kind NotFound.
func Locate(serial []byte) (cell uint8, day int64, err error) {
	if len(serial) != 16 || serial[0] != classOrdinary && serial[0] != classLong {
		return 0, 0, errs.New(errs.NotFound, "there is no certificate with the serial number %x", clip(serial))
	}
	return serial[5], int64(binary.BigEndian.Uint32(serial[1:5])) / 86400, nil
}

func clip(b []byte) []byte { return b[:min(len(b), 20)] }
