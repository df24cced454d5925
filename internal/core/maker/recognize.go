package maker

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"slices"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/device"
	"mooring/wire/der"
)

// Shown is what a chain of certificates shows.
type Shown struct {
	Product device.Product
	// Timeless says that the manufacturer's certificates count although they have expired. Without it Recognize recognizes no expired ones.
	Timeless bool
}

// maxChain is how many certificates of a client are looked at.
const maxChain = 10

// Recognize says whose product chain shows, leaf first. ok is false when the leaf comes from no registered manufacturer. The error is Invalid for
// a leaf of a manufacturer that does not say which product it is. That somebody has the leaf's key is not looked at, and neither is what the leaf may be
// used for.
func (s *Service) Recognize(ctx context.Context, chain []*x509.Certificate) (shown Shown, ok bool, err error) {
	if len(chain) == 0 || len(chain) > maxChain {
		return Shown{}, false, nil
	}
	makers, err := s.above(ctx, chain)
	if err != nil {
		return Shown{}, false, fmt.Errorf("looking for the manufacturer of a certificate: %w", err)
	}
	now := s.Now()
	var found []*Maker
	for i := range makers {
		if m := &makers[i]; m.issued(chain, now) {
			found = append(found, m)
		}
	}
	switch len(found) {
	case 0:
		return Shown{}, false, nil
	case 1:
	default:
		return Shown{}, false, errs.New(errs.Invalid, "the certificate's subject names the organizations of two manufacturers, %s and %s", found[0].Name, found[1].Name)
	}
	m := found[0]
	serial, err := serialOf(chain[0])
	if err != nil {
		return Shown{}, false, errs.New(errs.Invalid, "the certificate of the manufacturer %s has %v", m.Name, err)
	}
	p := device.Product{Maker: m.Name, Serial: serial}
	if err := p.Check(); err != nil {
		return Shown{}, false, errs.New(errs.Invalid, "the certificate of the manufacturer %s has a serialNumber that no ownership list can have", m.Name)
	}
	return Shown{Product: p, Timeless: m.Timeless}, true, nil
}

// above returns the manufacturers of which one CA may have issued something in the chain, with these CAs alone.
func (s *Service) above(ctx context.Context, chain []*x509.Certificate) (makers []Maker, err error) {
	var issuers [][32]byte
	for _, c := range chain {
		if sum := sha256.Sum256(c.RawIssuer); !slices.Contains(issuers, sum) {
			issuers = append(issuers, sum)
		}
	}
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		makers = nil
		for _, subject := range issuers {
			if err := tx.Each(ctx, func(r db.Row) error { return gather(&makers, r) }, selectAbove, subject[:]); err != nil {
				return err
			}
		}
		return nil
	})
	return makers, err
}

func gather(makers *[]Maker, r db.Row) error {
	var raw []byte
	m, err := scan(r, &raw)
	if err != nil {
		return err
	}
	a, err := x509.ParseCertificate(raw)
	if err != nil {
		return fmt.Errorf("reading a certificate of the manufacturer %s: %w", m.Name, err)
	}
	at := slices.IndexFunc(*makers, func(other Maker) bool { return other.Name == m.Name })
	if at < 0 {
		at = len(*makers)
		*makers = append(*makers, m)
	}
	(*makers)[at].Anchors = append((*makers)[at].Anchors, a)
	return nil
}

// issued reports whether a path of certificates leads from one of the manufacturer's CAs to the leaf (RFC 5280, section 6).
func (m *Maker) issued(chain []*x509.Certificate, now time.Time) bool {
	leaf := chain[0]
	if m.Organization != "" && !slices.Contains(leaf.Subject.Organization, m.Organization) {
		return false
	}
	o := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: der.Intermediates(chain[1:]), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	for _, a := range m.Anchors {
		o.Roots.AddCert(a)
	}
	if m.Timeless {
		o.CurrentTime = beforeEnds(now, chain, m.Anchors)
	}
	_, err := readable(leaf).Verify(o)
	return err == nil
}

// beforeEnds returns the latest time up to now at which none of the certificates had expired. That one is not valid yet is never forgiven.
func beforeEnds(now time.Time, lists ...[]*x509.Certificate) time.Time {
	for _, list := range lists {
		for _, c := range list {
			if c.NotAfter.Before(now) {
				now = c.NotAfter
			}
		}
	}
	return now
}

// readable returns the leaf so that alternative names which crypto/x509 cannot read do not fail it when they are critical: IDevIDs have a
// hardwareModuleName there (IEEE 802.1AR, section 8.10), and of the names nothing is believed.
func readable(leaf *x509.Certificate) *x509.Certificate {
	c := *leaf
	c.UnhandledCriticalExtensions = slices.DeleteFunc(slices.Clone(leaf.UnhandledCriticalExtensions), func(oid asn1.ObjectIdentifier) bool {
		return oid.Equal(asn1.ObjectIdentifier{2, 5, 29, 17})
	})
	return &c
}

// serialOf returns the serialNumber attribute of the subject (2.5.4.5), of which there must be one.
func serialOf(leaf *x509.Certificate) (serial string, err error) {
	n := 0
	for _, a := range leaf.Subject.Names {
		if a.Type.Equal(asn1.ObjectIdentifier{2, 5, 4, 5}) {
			serial, _ = a.Value.(string)
			n++
		}
	}
	switch {
	case n == 0 || serial == "":
		return "", errs.New(errs.Invalid, "no serialNumber in its subject, so that it shows no product")
	case n > 1:
		return "", errs.New(errs.Invalid, "%d serialNumbers in its subject, so that it shows no single product", n)
	}
	return serial, nil
}
