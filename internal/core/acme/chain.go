package acme

import (
	"bytes"
	"context"
	"slices"

	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/wire/acme"
)

// Chain is a certificate with those above it, in DER; Others are other ways up from the same certificate.
type Chain struct {
	Certificates [][]byte
	Others       [][][]byte
}

// Certificate returns the certificate of a valid order with its chain but for the root, and a chain for each root that vouches for that one
// (section 7.4.2).
func (s *Service) Certificate(ctx context.Context, a *Account, id ID) (Chain, error) {
	o, err := s.load(ctx, a, id)
	if err == nil && o.Account != a.ID {
		err = noOrder()
	}
	if err != nil {
		return Chain{}, err
	}
	if o.State != Issued {
		return Chain{}, refuse(errs.Denied, OrderNotReady, "the order has no certificate yet")
	}
	if made, _, ok := s.leaves.get(o.ID); ok && len(made.der) > 0 {
		s.leaves.drop(o.ID)
		s.orderShelf.drop(o.ID) // who has fetched it seldom comes again
		return s.chains(made.der, made.issuer)
	}
	leaf, issuer := o.cert, ca.IssuerID{}
	c, err := s.CA.Known(ctx, o.Serial)
	if err != nil {
		return Chain{}, err
	}
	if issuer = c.Issuer; len(leaf) == 0 {
		leaf = c.DER
	}
	if len(leaf) == 0 {
		return Chain{}, errs.New(errs.NotFound, "the certificate is no longer kept")
	}
	return s.chains(leaf, issuer)
}

func (s *Service) chains(leaf []byte, id ca.IssuerID) (Chain, error) {
	i, err := s.CA.IssuerByID(id)
	if err != nil {
		return Chain{}, err
	}
	out := Chain{Certificates: [][]byte{leaf}}
	for ; i.Parent() != nil; i = i.Parent() {
		out.Certificates = append(out.Certificates, i.Certificate().Raw)
	}
	for _, cross := range s.CA.Crosses() {
		if cross.Subject.ID() == i.ID() {
			out.Others = append(out.Others, append(slices.Clone(out.Certificates), cross.Cert.Raw))
		}
	}
	return out, nil
}

// certificate returns what is known about a certificate of ours by its identifier for renewal information.
func (s *Service) certificate(ctx context.Context, id acme.CertID) (*ca.Certificate, error) {
	unknown := refuse(errs.NotFound, Malformed, "there is no such certificate here")
	serial := id.Number()
	if len(serial) != len(ca.Certificate{}.Serial) {
		return nil, unknown
	}
	c, err := s.CA.Known(ctx, serial)
	if errs.Is(err, errs.NotFound) {
		return nil, unknown
	}
	if err != nil {
		return nil, err
	}
	i, err := s.CA.IssuerByID(c.Issuer)
	if err != nil || !bytes.Equal(i.Certificate().SubjectKeyId, id.Authority) {
		return nil, unknown
	}
	return c, nil
}
