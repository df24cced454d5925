// Package brski is the pledge of BRSKI, Bootstrapping Remote Secure Key Infrastructure (RFC 8995): a device that knows its manufacturer and nothing else, and
// finds out by a voucher (RFC 8366) to whose domain it belongs.
//
//	pledge, err := brski.New(brski.Config{IDevID: idevid, MASA: anchors, Now: time.Now})
//	session, err := est.Provisional(ctx, config, est.Credential{Certificate: idevid})
//	request, err := pledge.Request(session.Peer()[0])
//	message, err := pledge.Ask(ctx, session, request) // *est.PendingError: the same again later
//	domain, err := pledge.Accept(session, request, message)
//	err = brski.TellVoucher(ctx, session, err)
//
// After that the session is one with a server that is believed, and EST goes on over it. At last the registrar is told how that went, by TellEnrolment.
//
// The package stores nothing and waits for nothing; package agent does. It finds no registrar (mDNS, GRASP), takes no voucher without a nonce, since it is never
// without a connection to a registrar, and follows no redirection.
package brski

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"mooring/agent/est"
	"mooring/wire/der"
	wire "mooring/wire/est"
	"mooring/wire/voucher"
)

const (
	nonceSize = 32
	// MaxWait is how long a registrar that has not decided may have the device wait before it asks again (RFC 8995, section 5.6).
	MaxWait = time.Minute
	// MaxAge is how long the same request is sent again (RFC 8995, section 5.6: up to four days, which is longer than a long weekend).
	MaxAge = 4 * 24 * time.Hour
	// slow is how far the clock of a device may be behind. That a voucher is fresh is shown by its nonce.
	slow = 24 * time.Hour
)

var oidSerialNumber = asn1.ObjectIdentifier{2, 5, 4, 5}

// Config is what a device brings along from its manufacturer.
type Config struct {
	// IDevID is its certificate with those above it and its key.
	IDevID *tls.Certificate
	// MASA are the certificates by which vouchers are believed: those that sign them, or CAs above those.
	MASA []*x509.Certificate
	// Now is the clock; required.
	Now func() time.Time
	// Rand is where nonces come from; nil is crypto/rand.
	Rand io.Reader
}

// Pledge is a device that looks for its owner.
type Pledge struct {
	config Config
	chain  []*x509.Certificate // the IDevID first
	key    crypto.Signer
	serial string
}

// New returns a pledge. The IDevID must have one serialNumber in its subject, which is the product's (RFC 8995, section 2.3.1).
func New(c Config) (*Pledge, error) {
	p := &Pledge{config: c}
	if len(c.MASA) == 0 {
		return nil, errors.New("the device needs the certificate by which it believes the vouchers of its manufacturer")
	}
	if c.IDevID == nil {
		return nil, errors.New("the device needs the certificate that it was made with")
	}
	if c.Rand == nil {
		p.config.Rand = rand.Reader
	}
	for _, raw := range c.IDevID.Certificate {
		cert, err := x509.ParseCertificate(raw)
		if err != nil {
			return nil, fmt.Errorf("reading the certificate of the manufacturer: %w", err)
		}
		p.chain = append(p.chain, cert)
	}
	key, ok := c.IDevID.PrivateKey.(crypto.Signer)
	if !ok || len(p.chain) == 0 {
		return nil, errors.New("the certificate of the manufacturer needs a key that can sign")
	}
	p.key = key
	var err error
	p.serial, err = SerialNumber(p.chain[0])
	return p, err
}

// SerialNumber returns the serial number of a product, which is not that of its certificate.
func SerialNumber(idevid *x509.Certificate) (string, error) {
	var found []string
	for _, a := range idevid.Subject.Names {
		if text, ok := a.Value.(string); ok && isSerialNumber(a) && text != "" {
			found = append(found, text)
		}
	}
	if len(found) != 1 {
		return "", fmt.Errorf("the certificate of the manufacturer must have one serialNumber in its subject, and has %d", len(found))
	}
	return found[0], nil
}

func isSerialNumber(a pkix.AttributeTypeAndValue) bool { return a.Type.Equal(oidSerialNumber) }

// Request makes a request for a voucher for the domain whose registrar has shown the certificate (RFC 8995, section 5.2).
func (p *Pledge) Request(registrar *x509.Certificate) ([]byte, error) {
	nonce := make([]byte, nonceSize)
	if _, err := io.ReadFull(p.config.Rand, nonce); err != nil {
		return nil, fmt.Errorf("making a nonce: %w", err)
	}
	r := voucher.Request{CreatedOn: p.config.Now(), Assertion: voucher.Proximity, SerialNumber: p.serial, Nonce: nonce, ProximityRegistrarCert: registrar.Raw}
	return r.Sign(p.key, p.chain[0], p.chain[1:], p.config.Rand)
}

// Fits tells whether a request that was made earlier is the one to send: by this device to this registrar, and not too long ago. The registrar then sees
// the same request again and can answer it.
func (p *Pledge) Fits(request []byte, registrar *x509.Certificate) bool {
	r, err := voucher.ParseRequest(request)
	if err != nil {
		return false
	}
	age := p.config.Now().Sub(r.CreatedOn)
	return r.Chain[0].Equal(p.chain[0]) && bytes.Equal(r.ProximityRegistrarCert, registrar.Raw) && age > -slow && age < MaxAge
}

// Ask sends a request to the registrar and returns the voucher, which nobody has looked at. A registrar that has not decided is an *est.PendingError: send the
// same request again after its time, which is at most MaxWait. Another answer is an *est.RefusedError.
func (p *Pledge) Ask(ctx context.Context, s *est.Session, request []byte) ([]byte, error) {
	header := http.Header{"Content-Type": {voucher.MediaType}, "Accept": {voucher.MediaType}}
	contentType, message, err := s.Post(ctx, voucher.RequestVoucher, voucher.WellKnown+voucher.RequestVoucher, header, request)
	var pending *est.PendingError
	if errors.As(err, &pending) {
		return nil, &est.PendingError{RetryAfter: min(pending.RetryAfter, MaxWait)}
	}
	if err != nil {
		return nil, err
	}
	if got := wire.MediaType(contentType); got != voucher.MediaType {
		return nil, fmt.Errorf("the server answered %s with content of type %q where %q belongs; is it a registrar?", voucher.RequestVoucher, est.Clean(contentType), voucher.MediaType)
	}
	return message, nil
}

// Accept checks that the voucher is one for this device and answers the request, and that the server of the session belongs to the domain that it names. Then
// it returns the certificate of the domain, and the session is no longer provisional.
func (p *Pledge) Accept(s *est.Session, request, message []byte) (*x509.Certificate, error) {
	domain, err := p.Check(request, message)
	if err != nil {
		return nil, err
	}
	if err := s.Believe([]*x509.Certificate{domain}); err != nil {
		return nil, fmt.Errorf("the voucher is for another domain than this registrar's: %w", err)
	}
	return domain, nil
}

// Check checks that the voucher is one for this device and answers the request (RFC 8995, section 5.6.1), and returns the certificate that it pins.
func (p *Pledge) Check(request, message []byte) (*x509.Certificate, error) {
	asked, err := voucher.ParseRequest(request)
	if err != nil {
		return nil, err
	}
	v, err := voucher.ParseVoucher(message)
	if err != nil {
		return nil, err
	}
	if err := p.checkSigner(v); err != nil {
		return nil, err
	}
	now := p.config.Now()
	switch {
	case v.SerialNumber != p.serial:
		return nil, fmt.Errorf("the voucher is for the serial number %q, and this device has %q", est.Clean(v.SerialNumber), p.serial)
	case v.IDevIDIssuer != nil && !voucher.IsIDevIDIssuer(v.IDevIDIssuer, p.chain[0]):
		return nil, errors.New("the voucher is for a device with a certificate of another issuer")
	case len(v.Nonce) == 0:
		return nil, errors.New("the voucher has no nonce, so that it cannot be told from an old one")
	case !bytes.Equal(v.Nonce, asked.Nonce):
		return nil, errors.New("the voucher has another nonce than the request; it is an old one")
	case !v.ExpiresOn.IsZero() && !now.Before(v.ExpiresOn):
		return nil, fmt.Errorf("the voucher expired at %s (is the clock of this device right?)", v.ExpiresOn.Format(time.RFC3339))
	case v.CreatedOn.After(now.Add(slow)):
		return nil, fmt.Errorf("the voucher will be made at %s (is the clock of this device right?)", v.CreatedOn.Format(time.RFC3339))
	case v.DomainCertRevocationChecks:
		return nil, errors.New("the voucher demands to look whether the certificate of the domain was revoked, which this device cannot do")
	}
	return x509.ParseCertificate(v.PinnedDomainCert)
}

// checkSigner checks that the manufacturer's service has signed. The CA above it may be that of the devices too, and a device must not be able to sign
// vouchers: so a certificate below a CA must not be a device's, which have serial numbers in their subjects (IEEE 802.1AR).
func (p *Pledge) checkSigner(v *voucher.SignedVoucher) error {
	if len(v.Chain) == 0 {
		if slices.ContainsFunc(p.config.MASA, func(c *x509.Certificate) bool { return v.VerifiedBy(c) == nil }) {
			return nil
		}
		return errors.New("the voucher does not carry the certificate of its signer, and none of those that this device knows has signed it")
	}
	signer := v.Chain[0]
	if slices.ContainsFunc(p.config.MASA, signer.Equal) {
		return nil
	}
	if slices.ContainsFunc(signer.Subject.Names, isSerialNumber) || signer.Equal(p.chain[0]) {
		return errors.New("the voucher is signed by a device and not by the service of the manufacturer")
	}
	options := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: der.Intermediates(slices.Concat(v.Chain[1:], v.Others)), CurrentTime: p.config.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	for _, c := range p.config.MASA {
		options.Roots.AddCert(c)
	}
	if _, err := signer.Verify(options); err != nil {
		return fmt.Errorf("the voucher is not signed by the service of this device's manufacturer, as --masa-ca has it: %w", err)
	}
	return nil
}
