// Package voucher reads and writes the messages of BRSKI, Bootstrapping Remote Secure Key Infrastructure (RFC 8995): the requests for vouchers and the
// vouchers (RFC 8366), what a device says of both, and the log that a manufacturer's service keeps of its vouchers.
//
// Requests and vouchers are JSON in CMS SignedData by one signer, whose content has the type id-ct-animaJSONVoucher (RFC 8366, section 5.4):
//
//	{"ietf-voucher-request:voucher": {"created-on": …, "nonce": …, "serial-number": …, "proximity-registrar-cert": …, …}}
//	{"ietf-voucher:voucher":         {"created-on": …, "nonce": …, "serial-number": …, "pinned-domain-cert": …, …}}
//
// as the YANG modules say in JSON (RFC 7951): times are those of RFC 3339, octets are base64. Padding may be missing and the alphabet may be that for
// addresses, since others write nonces so; a field that is there twice is an error, and so is one that the module does not have, but
// for those of vouchers, which devices pass over as they must (RFC 8995, section 5.6.1).
//
// Parse functions check form, and that the key of the certificate which the message carries made the signature. Whether that certificate may be believed,
// and whether the times, names and nonces in the message are right, is for the caller to find out: the package trusts nobody and has no clock.
//
// Status reports and the log of vouchers are plain JSON (RFC 8995, sections 5.7, 5.8.1 and 5.9.4). There, as the RFC demands, unknown fields are passed
// over.
//
// Vouchers in CBOR or JOSE are not done, nor those with a list of certificates or with a public key in place of a certificate.
package voucher

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"time"

	"mooring/wire/cms"
	"mooring/wire/der"
)

// MediaType is the type of requests and vouchers (RFC 8366, section 5.4).
const MediaType = "application/voucher-cms+json"

// StatusType is the type of status reports and of the log of vouchers.
const StatusType = "application/json"

// WellKnown is the path below which the operations of registrar and MASA are found (RFC 8995, section 8.3.1).
const WellKnown = "/.well-known/brski/"

// The operations, which are the last segments of paths.
const (
	RequestVoucher  = "requestvoucher"
	VoucherStatus   = "voucher_status"
	EnrollStatus    = "enrollstatus"
	RequestAuditLog = "requestauditlog"
)

// MaxSize is the size in octets over which a request or a voucher is not read. A registrar's request carries that of the device, and both carry certificates.
const MaxSize = 64 << 10

// MaxChain is the largest number of certificates in a chain that is read.
const MaxChain = 10

// maxChecks is how many signatures of certificates are looked at to find a chain: each of it, and a few for CAs that have the same name as another.
const maxChecks = MaxChain + 6

// The sizes of a nonce in octets (RFC 8366, section 5.3).
const (
	MinNonce = 8
	MaxNonce = 32
)

// maxSerial is the largest number of octets of a serial number. In a certificate it has 64 at most (RFC 5280, appendix A.1); on a device's label it may be longer.
const maxSerial = 255

// OID is id-ct-animaJSONVoucher, the type of what is signed.
var OID = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 1, 40}

// ErrSignature is in the chain of the error for a message that could be read, but whose signature is not by the certificate that it carries, or by a
// method that is not accepted.
var ErrSignature = errors.New("the signature does not verify")

// Assertion says how the manufacturer made sure of the owner (RFC 8366, section 5.3).
type Assertion string

// The assertions.
const (
	Verified  Assertion = "verified"  // it knows the owner, say from its sales
	Logged    Assertion = "logged"    // it made sure of nothing, but wrote down for whom the voucher is
	Proximity Assertion = "proximity" // the device has signed that it is connected with the domain
)

// Request is what a device asks of a registrar, and a registrar of the MASA. Zero values are absent. The fields of a voucher that mean nothing in a request
// (pinned-domain-cert, last-renewal-date, domain-cert-revocation-checks) are passed over when others send them.
type Request struct {
	CreatedOn    time.Time // to the second, as all times here
	ExpiresOn    time.Time // only without a nonce
	Assertion    Assertion
	SerialNumber string
	// IDevIDIssuer is the authority key identifier of the device's certificate: see IDevIDIssuer and IsIDevIDIssuer.
	IDevIDIssuer []byte
	Nonce        []byte
	// ProximityRegistrarCert is the certificate, in DER, that the registrar showed the device in the TLS handshake. A registrar does not send it.
	ProximityRegistrarCert []byte
	// PriorSigned is the device's request as it sent it. A device does not send it.
	PriorSigned []byte
}

// Voucher says to whose domain a device belongs.
type Voucher struct {
	CreatedOn time.Time
	// ExpiresOn is zero for a voucher that does not expire. The standard has it in vouchers without nonce only; others write both.
	ExpiresOn, LastRenewalDate time.Time
	Assertion                  Assertion
	SerialNumber               string
	IDevIDIssuer               []byte
	// PinnedDomainCert is the certificate, in DER, that is to stand in the registrar's chain.
	PinnedDomainCert []byte
	Nonce            []byte
	// DomainCertRevocationChecks tells the device to look whether the certificate was revoked.
	DomainCertRevocationChecks bool
}

// SignedRequest is a request that its carried certificate has signed.
type SignedRequest struct {
	Request
	signed
}

// SignedVoucher is a voucher. If it carries the certificate of its signer then that has signed it.
type SignedVoucher struct {
	Voucher
	signed
}

// signed is what requests and vouchers have in common.
type signed struct {
	// Raw is the message as it came.
	Raw []byte
	// Chain is the signer's certificate and, after each certificate, the one that issued it, as far as the message carries them. Requests have one at least;
	// vouchers may have none. Each has signed the one before; that is all that is known of them.
	Chain []*x509.Certificate
	// Others are the carried certificates that are not in Chain.
	Others []*x509.Certificate

	cms *cms.Signed
}

// VerifiedBy checks that the key of cert made the signature. It does not look at anything else in cert.
func (s *signed) VerifiedBy(cert *x509.Certificate) error {
	// Verifying with a hostile key may be slow.
	if err := der.CheckKey(cert.PublicKey); err != nil {
		return err
	}
	_, err := s.cms.Verify(cert)
	return err
}

// Sign returns the request, signed by key, whose certificate is cert. The message carries cert and above, the certificates above it. The error is
// for what is not a request, and for a key that does not belong to cert or is of a kind that CMS cannot sign with.
func (r *Request) Sign(key crypto.Signer, cert *x509.Certificate, above []*x509.Certificate, random io.Reader) ([]byte, error) {
	content, err := r.encode()
	if err != nil {
		return nil, fmt.Errorf("encoding a voucher request: %w", err)
	}
	return sign(content, key, cert, above, random)
}

// Sign returns the voucher, signed by key, whose certificate is cert. The message carries cert and above, the certificates above it. The error is
// for what is not a voucher, and for a key that does not belong to cert or is of a kind that CMS cannot sign with.
func (v *Voucher) Sign(key crypto.Signer, cert *x509.Certificate, above []*x509.Certificate, random io.Reader) ([]byte, error) {
	content, err := v.encode()
	if err != nil {
		return nil, fmt.Errorf("encoding a voucher: %w", err)
	}
	return sign(content, key, cert, above, random)
}

func sign(content []byte, key crypto.Signer, cert *x509.Certificate, above []*x509.Certificate, random io.Reader) ([]byte, error) {
	in := cms.SignInput{ContentType: OID, Content: content, Signer: key, Certificate: cert, Rand: random}
	for _, c := range above {
		in.Chain = append(in.Chain, c.Raw)
	}
	message, err := cms.Sign(in)
	if err != nil {
		return nil, err
	}
	if len(message) > MaxSize {
		return nil, fmt.Errorf("the signed message has %d octets; at most %d are read", len(message), MaxSize)
	}
	return message, nil
}

// ParseRequest reads a request in BER or DER and checks the signature by the certificate that it carries. A request without one is an error.
func ParseRequest(message []byte) (*SignedRequest, error) {
	s, err := parse(message)
	if err != nil {
		return nil, fmt.Errorf("reading a voucher request: %w", err)
	}
	if len(s.Chain) == 0 {
		return nil, errors.New("reading a voucher request: it does not carry the certificate of its signer, or it cannot be parsed")
	}
	r, err := decodeRequest(s.cms.Content)
	if err != nil {
		return nil, fmt.Errorf("reading a voucher request: %w", err)
	}
	return &SignedRequest{r, *s}, nil
}

// ParseVoucher reads a voucher in BER or DER. If it carries the certificate of its signer, the signature is checked by it; otherwise call VerifiedBy.
func ParseVoucher(message []byte) (*SignedVoucher, error) {
	s, err := parse(message)
	if err != nil {
		return nil, fmt.Errorf("reading a voucher: %w", err)
	}
	v, err := decodeVoucher(s.cms.Content)
	if err != nil {
		return nil, fmt.Errorf("reading a voucher: %w", err)
	}
	return &SignedVoucher{v, *s}, nil
}

func parse(message []byte) (*signed, error) {
	if len(message) > MaxSize {
		return nil, fmt.Errorf("it has %d octets; at most %d are read", len(message), MaxSize)
	}
	whole, err := cms.FromBER(message)
	if err != nil {
		return nil, err
	}
	s := &signed{Raw: bytes.Clone(message)}
	if s.cms, err = cms.ParseSigned(whole); err != nil {
		return nil, err
	}
	if !s.cms.ContentType.Equal(OID) {
		return nil, fmt.Errorf("the type of its content is %v, want %v, a voucher in JSON", s.cms.ContentType, OID)
	}
	if len(s.cms.Signers) != 1 {
		return nil, fmt.Errorf("it has %d signatures, want one", len(s.cms.Signers))
	}
	if err := s.arrange(); err != nil {
		return nil, err
	}
	if len(s.Chain) > 0 {
		if err := s.VerifiedBy(s.Chain[0]); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrSignature, err)
		}
	}
	return s, nil
}

// arrange finds the signer's certificate and those above it. One that Go cannot read is left out: it may be for others.
func (s *signed) arrange() error {
	var carried []*x509.Certificate
	for _, raw := range s.cms.Certificates {
		if c, err := x509.ParseCertificate(raw); err == nil {
			carried = append(carried, c)
		}
	}
	take := func(wanted func(c *x509.Certificate) bool) (found *x509.Certificate) {
		for i, c := range carried {
			if c != nil && wanted(c) {
				carried[i] = nil
				return c
			}
		}
		return nil
	}
	checks := 0 // of signatures, each of which may take milliseconds
	signed := func(below, by *x509.Certificate) bool {
		checks++
		return checks <= maxChecks && der.CheckKey(by.PublicKey) == nil && der.CheckCertificate(below, by.PublicKey) == nil
	}
	next := take(func(c *x509.Certificate) bool { return s.cms.Signers[0].ID.Matches(c) })
	for next != nil {
		if len(s.Chain) == MaxChain {
			return fmt.Errorf("it carries a chain of more than %d certificates", MaxChain)
		}
		s.Chain = append(s.Chain, next)
		if bytes.Equal(next.RawSubject, next.RawIssuer) && signed(next, next) {
			break // a root; what stands above it in a roll-over adds nothing
		}
		next = take(func(c *x509.Certificate) bool {
			below := s.Chain[len(s.Chain)-1]
			return bytes.Equal(c.RawSubject, below.RawIssuer) && signed(below, c)
		})
	}
	if checks > maxChecks {
		return errors.New("it carries too many certificates of the same name")
	}
	for _, c := range carried {
		if c != nil {
			s.Others = append(s.Others, c)
		}
	}
	return nil
}
