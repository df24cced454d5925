package registrar

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"slices"

	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/maker"
	"mooring/wire/voucher"
)

// pledge is a device that asks, as far as it is known.
type pledge struct {
	leaf    *x509.Certificate
	product device.Product // what its certificate shows
	device  *device.Device // on the ownership list; nil until it is found there
	masa    maker.MASA
	url     string // of the MASA; "" for our own
	message []byte // what it sent
	request *voucher.SignedRequest
	by      Signer // what it was shown
}

// id returns the id of the device in hex, "" when it is none of ours.
func (p *pledge) id() string {
	if p == nil || p.device == nil {
		return ""
	}
	return p.device.ID.String()
}

// maxAbove is how many certificates of those that a client sends besides its own are looked at.
const maxAbove = 8

// pledge finds out which product on the ownership list is at the other end. What it returns is never nil.
func (s *Service) pledge(ctx context.Context, peer *Peer) (*pledge, error) {
	p := &pledge{}
	if len(peer.Chain) == 0 {
		return p, errs.New(errs.Denied, "no client certificate was presented; present the one that the device was made with")
	}
	var err error
	if p.leaf, err = x509.ParseCertificate(peer.Chain[0]); err != nil {
		return p, errs.New(errs.Denied, "the client certificate cannot be parsed; present one that strict X.509 readers accept")
	}
	chain := []*x509.Certificate{p.leaf}
	for _, raw := range peer.Chain[1:min(len(peer.Chain), maxAbove+1)] {
		if c, err := x509.ParseCertificate(raw); err == nil {
			chain = append(chain, c)
		}
	}
	shown, ok, err := s.Makers.Recognize(ctx, chain)
	switch {
	case errs.Is(err, errs.Invalid):
		return p, errs.Wrap(errs.Denied, err, "%s", errs.Public(err))
	case err != nil:
		return p, err
	case !ok:
		return p, errs.New(errs.NotFound, "the client certificate comes from no manufacturer that is registered here, or has expired")
	}
	p.product = shown.Product
	d, err := s.Devices.ByProduct(ctx, p.product)
	if errs.Is(err, errs.NotFound) {
		return p, errs.New(errs.NotFound, "serial number %s of the manufacturer %s is on no ownership list; have it registered with mooring device add or import", p.product.Serial, p.product.Maker)
	}
	if err != nil {
		return p, fmt.Errorf("looking for the product: %w", err)
	}
	p.device = &d
	return p, nil
}

// mayEnrol refuses a device that could do nothing with a voucher.
func (p *pledge) mayEnrol() error {
	if !p.device.State.Active() {
		return errs.New(errs.Denied, "the device is %s; ask its operator", p.device.State)
	}
	return nil
}

// findMASA finds out who gives out the device's vouchers.
func (s *Service) findMASA(ctx context.Context, p *pledge) (err error) {
	if p.masa, err = s.Makers.MASAOf(ctx, p.product.Maker); err != nil {
		return err
	}
	switch p.masa.Where {
	case maker.NoMASA:
		return errs.New(errs.Denied, "nobody gives out vouchers for devices of the manufacturer %s: say who does with mooring manufacturer change --masa", p.product.Maker)
	case maker.OwnMASA:
		return nil
	case maker.IDevIDMASA:
		if p.url, err = voucher.MASAURL(p.leaf); err != nil {
			return errs.Wrap(errs.Denied, err, "the client certificate does not say where vouchers for it are given out: give the address with mooring manufacturer change --masa")
		}
		return nil
	}
	p.url = p.masa.Where
	return nil
}

// identify has the one place decide that decides for all protocols whose certificate it is, and binds the device to it when it is seen for the first time.
func (s *Service) identify(ctx context.Context, p *pledge, peer *Peer) error {
	id, err := s.Enrol.Authenticate(ctx, peer.Chain)
	if err != nil {
		return err
	}
	if id.Device.ID != p.device.ID || id.Evidence != ca.EvidenceBirth {
		return errs.New(errs.Denied, "the client certificate is another device's; ask the device's operator")
	}
	return nil
}

// read reads the request and compares it with what the connection has shown.
func (p *pledge) read(r *Request) (err error) {
	if p.request, err = voucher.ParseRequest(r.Body); err != nil {
		return errs.New(errs.Invalid, "the voucher request is not acceptable: %v", err)
	}
	p.message = r.Body
	v := p.request
	switch {
	case !v.Chain[0].Equal(p.leaf):
		return errs.New(errs.Denied, "the voucher request is not signed by the certificate of the connection")
	case len(v.Nonce) == 0:
		return errs.New(errs.Invalid, "the voucher request has no nonce (RFC 8995, section 5.2)")
	case len(v.PriorSigned) > 0:
		return errs.New(errs.Invalid, "the voucher request holds another one, which only a registrar's may (RFC 8995, section 5.2)")
	case v.SerialNumber != p.product.Serial:
		return errs.New(errs.Denied, "the voucher request is for the serial number %q, but the client certificate shows %s", v.SerialNumber, p.product.Serial)
	case len(v.IDevIDIssuer) > 0 && !voucher.IsIDevIDIssuer(v.IDevIDIssuer, p.leaf):
		return errs.New(errs.Denied, "the voucher request names another issuer than the client certificate has")
	case len(r.Shown) == 0:
		return errs.New(errs.Unavailable, "the registrar has no certificate yet: try again in a minute; the server's log says why")
	}
	at := slices.IndexFunc(r.Shown, func(s Signer) bool { return bytes.Equal(s.Certificate.Raw, v.ProximityRegistrarCert) })
	if v.Assertion != voucher.Proximity || at < 0 {
		return errs.Wrap(errs.Denied, ErrProximity, "the voucher request does not say that the device was shown the certificate of this server: somebody may stand between, or the server's certificate was replaced meanwhile; connect again and make a new request")
	}
	p.by = r.Shown[at]
	return nil
}

// IsRegistrar reports whether c may speak for a domain (RFC 7030, section 3.6.1), which a MASA demands of who signs a request (RFC 8995, section 5.5.4).
func IsRegistrar(c *x509.Certificate) bool {
	return slices.ContainsFunc(c.UnknownExtKeyUsage, func(u asn1.ObjectIdentifier) bool { return u.Equal(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 28}) })
}
