package ca

import (
	"encoding/binary"
	"fmt"
	"io"

	"mooring/internal/base/errs"
)

// A serial number is 16 octets: class, issue second (4, big-endian), cell, 80 random bits. It is positive, of fixed DER length, unique
// without coordination, and tells where its row lies.
//
// The class says what is kept and where: one look at a serial number tells whether there is a row to look for.
const (
	classOrdinary  = 0x41
	classLong      = 0x42 // lives longer than longLife, or its row stays for longer than keptLong
	classBrief     = 0x44 // see Brief; 0x43 is reserved for pseudonyms
	classEphemeral = 0x45 // see Ephemeral
	longLife       = 400 * 86400
)

// KeptAs returns what is kept of the certificate with this serial number, "" when it is not one of ours.
func KeptAs(serial []byte) Record {
	if len(serial) != 16 {
		return ""
	}
	switch serial[0] {
	case classOrdinary, classLong:
		return Full
	case classBrief:
		return Brief
	case classEphemeral:
		return Ephemeral
	}
	return ""
}

// IssuedAt returns the Unix second in which the certificate with this serial number was made, 0 when it is not one of ours.
func IssuedAt(serial []byte) int64 {
	if KeptAs(serial) == "" {
		return 0
	}
	return int64(binary.BigEndian.Uint32(serial[1:5]))
}

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

// Locate returns the cell and the day (since 1970) of issue of the certificate with this serial number, by which it is kept if it is. A
// serial that is not one of ours is an error of kind NotFound.
func Locate(serial []byte) (cell uint8, day int64, err error) {
	if KeptAs(serial) == "" {
		return 0, 0, errs.New(errs.NotFound, "there is no certificate with the serial number %x", clip(serial))
	}
	return serial[5], int64(binary.BigEndian.Uint32(serial[1:5])) / 86400, nil
}

func clip(b []byte) []byte { return b[:min(len(b), 20)] }
