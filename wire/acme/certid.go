package acme

import (
	"encoding/base64"
	"errors"
	"strings"
)

// CertID names a certificate for renewal information (RFC 9773, section 4.1): the key identifier of its authority key identifier, and the octets
// of its serial number as DER has them, with the zero before a set highest bit.
type CertID struct{ Authority, Serial []byte }

// maxCertID bounds each part; serial numbers have at most 20 octets (RFC 5280, section 4.1.2.2) and one for the sign.
const maxCertID = 64

// NewCertID returns the identifier of the certificate with this positive serial number, without leading zeros.
func NewCertID(authority, serial []byte) CertID {
	if len(serial) == 0 || serial[0]&0x80 != 0 {
		serial = append([]byte{0}, serial...)
	}
	return CertID{authority, serial}
}

// String returns the identifier as it stands in URLs and orders.
func (c CertID) String() string {
	return base64.RawURLEncoding.EncodeToString(c.Authority) + "." + base64.RawURLEncoding.EncodeToString(c.Serial)
}

// Number returns the serial number without the zero of its sign.
func (c CertID) Number() []byte {
	if len(c.Serial) > 1 && c.Serial[0] == 0 {
		return c.Serial[1:]
	}
	return c.Serial
}

// ParseCertID reads an identifier. It must be in the one form that DER and base64url without padding give it.
func ParseCertID(text string) (CertID, error) {
	a, s, ok := strings.Cut(text, ".")
	if !ok || len(text) > 4*maxCertID {
		return CertID{}, errors.New("not two parts with a dot between them")
	}
	if strings.ContainsAny(text, "\r\n") { // which base64 passes over
		return CertID{}, errors.New("there are ends of lines in it")
	}
	strict := base64.RawURLEncoding.Strict()
	authority, err := strict.DecodeString(a)
	if err != nil || len(authority) == 0 || len(authority) > maxCertID {
		return CertID{}, errors.New("the first part is no base64url of a key identifier")
	}
	serial, err := strict.DecodeString(s)
	if err != nil || len(serial) == 0 || len(serial) > maxCertID {
		return CertID{}, errors.New("the second part is no base64url of a serial number")
	}
	if serial[0]&0x80 != 0 || len(serial) > 1 && serial[0] == 0 && serial[1]&0x80 == 0 {
		return CertID{}, errors.New("the serial number is not a positive INTEGER in DER")
	}
	return CertID{authority, serial}, nil
}
