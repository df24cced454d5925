// Package der reads and writes the X.509 structures that Mooring issues from and issues: names, alternative names,
// public keys, certification requests, certificates, revocation lists.
//
// Standards: X.690 (DER), RFC 5280 (certificates, CRLs), RFC 2986 (PKCS#10), RFC 2985 (request attributes), RFC 5480,
// RFC 8017, RFC 8410, RFC 9881 (public keys), RFC 5208 (private keys), RFC 7093 (key identifiers).
//
// Reading is for hostile bytes: every Parse function takes one complete DER value, bounds it, refuses BER forms and
// trailing bytes, and returns errors that name what is wrong so that they can be shown to the sender. What it returns
// refers to the input; do not change the input afterwards.
//
// Writing is for the hot path: functions named Append take and return a buffer, allocate nothing, and never sign. A
// certificate is made in three steps: a Template holds everything that does not change between certificates as
// finished DER; Template.AppendTBS adds what does; the caller signs these bytes; Wrap puts the signature around them:
//
//	tbs, err := template.AppendTBS(buf[:0], variable)
//	sig, err := key.Sign(rand, algorithm.Digest(tbs), algorithm.Hash())
//	certificate := der.Wrap(nil, tbs, algorithm, sig)
//
// Requests (AppendRequestInfo) and revocation lists (AppendCRLTBS) are made and wrapped in the same way.
//
// ML-DSA (FIPS 204) is read, written and verified here, because crypto/x509 knows it only from Go 1.27 on: the PublicKey
// of an x509.Certificate with such a key is nil, so use ParsePublicKey on its RawSubjectPublicKeyInfo, and
// CheckCertificate for its signature.
//
// It deliberately does not parse whole certificates (crypto/x509 does), build paths, decide which names or usages
// somebody may have, or keep private keys.
package der

import (
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// MaxRequest is the size in octets up to which ParseRequest reads a certification request.
const MaxRequest = 64 << 10

// whole strips the header of the one value of the given tag that in consists of.
func whole(in []byte, tag asn1.Tag, what string) (cryptobyte.String, error) {
	s := cryptobyte.String(in)
	var content cryptobyte.String
	if !s.ReadASN1(&content, tag) {
		return nil, malformed(what)
	}
	if !s.Empty() {
		return nil, fmt.Errorf("%d trailing bytes after the %s", len(s), what)
	}
	return content, nil
}

// malformed says that the structure called what is not DER of the expected shape.
func malformed(what string) error {
	return errors.New("malformed " + what + " (not strict DER, or not of the standard's shape)")
}

// isElement reports whether in is exactly one value of the given tag. It does not look inside.
func isElement(in []byte, tag asn1.Tag) bool {
	s := cryptobyte.String(in)
	var content cryptobyte.String
	return s.ReadASN1(&content, tag) && s.Empty()
}

// lengthSize is the number of octets that the DER length n takes.
func lengthSize(n int) int {
	switch {
	case n < 1<<7:
		return 1
	case n < 1<<8:
		return 2
	case n < 1<<16:
		return 3
	case n < 1<<24:
		return 4
	}
	return 5
}

// elementSize is the number of octets of a value with n octets of content, header included.
func elementSize(n int) int { return 1 + lengthSize(n) + n }

// AppendHeader appends the identifier octet and the length of a value with n octets of content (n below 4 GiB).
func AppendHeader(dst []byte, tag byte, n int) []byte {
	dst = append(dst, tag)
	switch lengthSize(n) {
	case 1:
		return append(dst, byte(n))
	case 2:
		return append(dst, 0x81, byte(n))
	case 3:
		return append(dst, 0x82, byte(n>>8), byte(n))
	case 4:
		return append(dst, 0x83, byte(n>>16), byte(n>>8), byte(n))
	}
	return append(dst, 0x84, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}

// AppendElement appends one value: header and content.
func AppendElement(dst []byte, tag byte, content []byte) []byte {
	return append(AppendHeader(dst, tag, len(content)), content...)
}

// appendText is AppendElement for text.
func appendText(dst []byte, tag byte, content string) []byte {
	return append(AppendHeader(dst, tag, len(content)), content...)
}

// Identifier octets used when writing. Reading uses the names of cryptobyte/asn1.
const (
	tagInteger     = 0x02
	tagBitString   = 0x03
	tagOctetString = 0x04
	tagOID         = 0x06
	tagUTCTime     = 0x17
	tagGenTime     = 0x18
	tagSequence    = 0x30
	tagSet         = 0x31
	tagContext     = 0x80 // + number, primitive
	tagConstructed = 0xa0 // + number, context-specific and constructed
)

// CheckSerial refuses what may not be the content octets of a certificate serial number: it must be positive, minimal
// and at most 20 octets, counting a leading zero (RFC 5280, section 4.1.2.2).
func CheckSerial(serial []byte) error {
	switch {
	case len(serial) == 0 || len(serial) > 20:
		return fmt.Errorf("serial number of %d octets; 1 to 20 are allowed", len(serial))
	case serial[0] >= 0x80:
		return errors.New("negative serial number")
	case serial[0] == 0 && len(serial) == 1:
		return errors.New("serial number zero")
	case serial[0] == 0 && serial[1] < 0x80:
		return errors.New("serial number with a superfluous leading zero")
	}
	return nil
}

// Wrap appends the outer structure that certificates, certification requests and revocation lists share:
// SEQUENCE { tbs, AlgorithmIdentifier, BIT STRING signature }.
func Wrap(dst, tbs []byte, algorithm SignatureAlgorithm, signature []byte) []byte {
	id := algorithm.identifier()
	dst = AppendHeader(dst, tagSequence, len(tbs)+len(id)+elementSize(1+len(signature)))
	dst = append(dst, tbs...)
	dst = append(dst, id...)
	dst = append(AppendHeader(dst, tagBitString, 1+len(signature)), 0)
	return append(dst, signature...)
}
