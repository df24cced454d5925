package enrol

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"

	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/maker"
)

// byBirth proves a device by a certificate that it has from its manufacturer. Either exactly this certificate was registered, or it is the IDevID of
// a product on the ownership list: then the device is bound to it when it is seen for the first time, and a second one for the same product,
// though the manufacturer vouches for it just as well, is refused. A bound IDevID counts only as long as the manufacturer is registered.
//
// expired is when the certificate ended, or 0. That is forgiven only where the manufacturer's certificates are registered as timeless.
func (s *Service) byBirth(ctx context.Context, leaf *x509.Certificate, above [][]byte, expired int64) (*Identity, error) {
	d, err := s.Devices.ByBirth(ctx, sha256.Sum256(leaf.Raw))
	registered := err == nil
	if err != nil && !errs.Is(err, errs.NotFound) {
		return nil, fmt.Errorf("looking for the birth certificate: %w", err)
	}
	id := &Identity{Device: d, Evidence: ca.EvidenceBirth, Leaf: leaf.Raw}
	if registered && d.Product == (device.Product{}) {
		if expired != 0 {
			return nil, expiredText(expired)
		}
		return id, nil
	}
	shown, ok, err := s.Makers.Recognize(ctx, pathOf(leaf, above))
	switch {
	case errs.Is(err, errs.Invalid):
		return nil, unauthenticated("%s", errs.Public(err))
	case err != nil:
		return nil, err
	case expired != 0 && !(ok && shown.Timeless):
		return nil, expiredText(expired)
	case !ok && registered:
		return nil, unauthenticated("the client certificate is the device's, but its manufacturer %s is no longer registered, or did not issue it; ask the device's operator", d.Product.Maker)
	case !ok:
		return nil, unauthenticated("the client certificate was neither issued here nor registered as a birth certificate; enrol with a token, or have it registered")
	case registered && d.Product != shown.Product:
		return nil, unauthenticated("the client certificate shows another product than the device is registered as; ask the device's operator")
	case registered:
		return id, nil
	}
	if id.Device, err = s.claim(ctx, leaf, shown); err != nil {
		return nil, err
	}
	return id, nil
}

// shownError is the refusal of somebody whose certificate shows a product. He is no stranger: each product has its own place among the refusals that are
// recorded, so that of a whole shipment that nobody listed every device is named.
type shownError struct {
	error
	product device.Product
}

func (e *shownError) Unwrap() error { return e.error }

func unlisted(p device.Product, format string, args ...any) error {
	return &shownError{unauthenticated(format, args...), p}
}

// asker is who is to be named in the record as having been refused without having shown that he is a registered device.
func asker(r *Request, refusal error) access.Actor {
	var shown *shownError
	if errors.As(refusal, &shown) {
		return access.Device(shown.product.Maker+"/"+shown.product.Serial, r.Protocol)
	}
	return access.Stranger(r.Source, r.Protocol)
}

// claim finds the device that stands on the ownership list as what was shown, and binds it to the certificate.
func (s *Service) claim(ctx context.Context, leaf *x509.Certificate, shown maker.Shown) (device.Device, error) {
	p := shown.Product
	d, err := s.Devices.ByProduct(ctx, p)
	if errs.Is(err, errs.NotFound) {
		return d, unlisted(p, "serial number %s of the manufacturer %s is on no ownership list; have it registered with mooring device add or import", p.Serial, p.Maker)
	}
	if err != nil {
		return d, fmt.Errorf("looking for the product: %w", err)
	}
	d, err = s.Devices.Bind(ctx, d.ID, leaf)
	if errors.Is(err, device.ErrBound) {
		return d, unlisted(p, "serial number %s of the manufacturer %s is bound to another certificate; if that was replaced, have it taken away with mooring device change --birth ''", p.Serial, p.Maker)
	}
	if err != nil {
		return d, fmt.Errorf("binding the device to its birth certificate: %w", err)
	}
	return d, nil
}

// maxAbove is how many certificates of those that a client sends besides its own are looked at.
const maxAbove = 8

// pathOf returns the leaf and what can be read of the rest.
func pathOf(leaf *x509.Certificate, above [][]byte) []*x509.Certificate {
	path := []*x509.Certificate{leaf}
	for _, raw := range above[:min(len(above), maxAbove)] {
		if c, err := x509.ParseCertificate(raw); err == nil {
			path = append(path, c)
		}
	}
	return path
}
