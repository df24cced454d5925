package voucher

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// DomainID names a domain in the log of vouchers by the certificate that was pinned: its subject key identifier, or the SHA-256 of its public key when it
// has none (RFC 8995, section 5.8.2).
func DomainID(pinned *x509.Certificate) []byte {
	if len(pinned.SubjectKeyId) > 0 {
		return pinned.SubjectKeyId
	}
	sum := sha256.Sum256(pinned.RawSubjectPublicKeyInfo)
	return sum[:]
}

// IDevIDIssuer is what a request says of who issued the device's certificate: the octets of its authority key identifier (RFC 8366, section 5.3), or nil if it
// has none.
func IDevIDIssuer(idevid *x509.Certificate) []byte {
	if len(idevid.AuthorityKeyId) == 0 {
		return nil
	}
	return idevid.AuthorityKeyId
}

// IsIDevIDIssuer tells whether issuer names who issued the device's certificate. The RFCs leave open what "the Authority Key Identifier OCTET STRING" is,
// and so others send the whole extension, or that in one more OCTET STRING; all three are taken.
func IsIDevIDIssuer(issuer []byte, idevid *x509.Certificate) bool {
	if len(issuer) == 0 || len(idevid.AuthorityKeyId) == 0 {
		return false
	}
	accepted := [][]byte{idevid.AuthorityKeyId}
	for _, e := range idevid.Extensions {
		if e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 35}) {
			accepted = append(accepted, e.Value)
		}
	}
	for _, octets := range slices.Clone(accepted) {
		if wrapped, err := asn1.Marshal(octets); err == nil {
			accepted = append(accepted, wrapped)
		}
	}
	return slices.ContainsFunc(accepted, func(octets []byte) bool { return bytes.Equal(octets, issuer) })
}

// ErrNoMASA is in the chain of the error of MASAURL for a certificate that names none.
var ErrNoMASA = errors.New("the certificate names no MASA")

// MASAURL returns the address of the manufacturer's service, without a slash at its end, to which an operation is to be added after one: the extension
// id-pe-masa-url (RFC 8995, section 2.3.2). A certificate that names a host alone means https and /.well-known/brski there.
func MASAURL(idevid *x509.Certificate) (string, error) {
	for _, e := range idevid.Extensions {
		if e.Id.Equal(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 32}) {
			return parseMASAURL(e.Value)
		}
	}
	return "", ErrNoMASA
}

func parseMASAURL(value []byte) (string, error) {
	var text string
	if rest, err := asn1.UnmarshalWithParams(value, &text, "ia5"); err != nil || len(rest) > 0 {
		return "", errors.New("the certificate's MASA URL is not an IA5String")
	}
	full := text
	if !strings.Contains(full, "://") {
		full = "https://" + full
	}
	u, err := url.Parse(full)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("the certificate's MASA URL %.200q is not the address of an https service", text)
	}
	if u.Path = strings.TrimRight(u.Path, "/"); u.Path == "" {
		u.Path = strings.TrimRight(WellKnown, "/")
	}
	return u.String(), nil
}
