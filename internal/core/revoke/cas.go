package revoke

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/ca"
)

// known returns what is known about a certificate: a device's, or that of a CA below one whose key is here, which it takes ca.manage to change.
func (s *Service) known(ctx context.Context, actor access.Actor, serial []byte) (*ca.Issuer, *ca.Certificate, error) {
	if x := s.CA.CrossOf(serial); x != nil {
		c, err := s.knownCross(ctx, actor, x)
		return nil, c, err
	}
	i, c := s.CA.CertificateOf(serial)
	if i == nil {
		c, err := s.CA.Known(ctx, serial)
		return nil, c, err
	}
	if err := s.Access.Require(ctx, actor, access.CAManage, "ca "+i.Name()); err != nil {
		return nil, nil, err
	}
	if i.Parent().Offline() {
		return nil, nil, errs.New(errs.Conflict, "the CA %q was certified by %q, whose key is not here: revoke it there, by mooring ca root crl, and import the list", i.Name(), i.Parent().Name())
	}
	return i, c, nil
}

// Load tells the authority which CAs are revoked: by rows here, or by the imported lists of CAs whose keys are elsewhere. And it reads which
// keys are blocked. It is called once all CAs are known and before anything is issued.
func (s *Service) Load(ctx context.Context) error {
	if err := s.loadBlocked(ctx); err != nil {
		return err
	}
	parents := map[ca.IssuerID]*ca.Issuer{}
	err := s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		for _, i := range s.issuers() {
			switch {
			case i.Parent() == nil:
				continue
			case i.Parent().Offline():
				parents[i.Parent().ID()] = i.Parent()
				continue
			}
			serial := i.Certificate().SerialNumber.Bytes()
			cell, _, err := ca.Locate(serial)
			if err != nil {
				continue // only what was made here has a row
			}
			r, err := readTx(ctx, tx, cell, serial)
			if err != nil {
				return err
			}
			if r.standing() {
				s.CA.Bar(i.ID(), true)
			}
		}
		for _, x := range s.CA.AllCrosses() {
			c := x.Certificate()
			if x.Issuer.Offline() {
				parents[x.Issuer.ID()] = x.Issuer
			}
			if c == nil || x.Issuer.Offline() {
				continue
			}
			r, err := readTx(ctx, tx, c.Cell, c.Serial[:])
			if err != nil {
				return err
			}
			s.CA.BarCross(x, r.standing())
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading which CAs are revoked: %w", err)
	}
	for _, r := range s.CA.Responders() {
		parents[r.Issuer.ID()] = r.Issuer
	}
	for _, p := range parents {
		if err := s.barListed(ctx, p.ID()); err != nil {
			return err
		}
	}
	return nil
}

// barListed bars the CAs, cross certificates and responders that the published list of the CA above them names, and no others of those below it.
func (s *Service) barListed(ctx context.Context, above ca.IssuerID) error {
	sc, err := s.scopeOf(scopeKey{issuer: above})
	if err != nil {
		return err
	}
	l, err := s.publishedList(ctx, sc)
	if err != nil || l == nil {
		return err
	}
	listed := map[string]bool{}
	for _, e := range l.RevokedCertificateEntries {
		listed[e.SerialNumber.String()] = true
	}
	for _, i := range s.issuers() {
		if p := i.Parent(); p != nil && p.ID() == above {
			s.bar(ctx, i, listed[i.Certificate().SerialNumber.String()])
		}
	}
	for _, x := range s.CA.AllCrosses() {
		if x.Issuer.ID() == above {
			s.barCross(ctx, x, listed[x.Cert.SerialNumber.String()])
		}
	}
	for _, r := range s.CA.Responders() {
		if r.Issuer.ID() == above {
			s.barResponder(ctx, r, listed[r.Cert.SerialNumber.String()])
		}
	}
	s.answers.clear() // what was answered for the CA said what an older list says
	return nil
}

// knownCross returns a cross certificate if actor may revoke it here.
func (s *Service) knownCross(ctx context.Context, actor access.Actor, x *ca.Cross) (*ca.Certificate, error) {
	if err := s.Access.Require(ctx, actor, access.CAManage, "ca "+x.Subject.Name()); err != nil {
		return nil, err
	}
	c := x.Certificate()
	switch {
	case x.Issuer.Offline():
		return nil, errs.New(errs.Conflict, "the cross certificate was made by %q, whose key is not here: revoke it there, by mooring ca root revoke and crl, and import the list", x.Issuer.Name())
	case c == nil:
		return nil, errs.New(errs.Conflict, "the serial number of this cross certificate is not one of those that are made here")
	case x.Issuer.Shards() > 0:
		return nil, errs.New(errs.Conflict, "the lists of %q are divided by serial numbers that cross certificates do not have: replace the root", x.Issuer.Name())
	}
	return c, nil
}

// rowOf returns where the row of a revocation is: cell and serial number. For a number that cannot have one ok is false.
func rowOf(serial []byte) (cell uint8, key []byte, ok bool) {
	if among, cross := ca.CrossSerial(serial); cross {
		return 0, among[:], true
	}
	cell, _, err := ca.Locate(serial)
	return cell, serial, err == nil
}

// isCross reports whether the serial number is that of a cross certificate by the CA.
func (s *Service) isCross(issuer ca.IssuerID, serial []byte) bool {
	x := s.CA.CrossOf(serial)
	return x != nil && x.Issuer.ID() == issuer
}

// barCross tells the authority about a cross certificate, and the log when it is new.
func (s *Service) barCross(ctx context.Context, x *ca.Cross, revoked bool) {
	if s.CA.CrossBarred(x) != revoked {
		s.Log.LogAttrs(ctx, slog.LevelWarn, "a cross certificate was revoked, put on hold, or released", slog.String("ca", x.Subject.Name()), slog.String("by", x.Issuer.Name()), slog.Bool("usable", !revoked))
		s.CA.BarCross(x, revoked)
	}
}

// barResponder tells the authority about a responder, and the log when it is new.
func (s *Service) barResponder(ctx context.Context, r *ca.Responder, revoked bool) {
	if s.CA.ResponderBarred(r) != revoked {
		s.Log.LogAttrs(ctx, slog.LevelWarn, "an OCSP responder was revoked, put on hold, or released", slog.String("by", r.Issuer.Name()), slog.Bool("usable", !revoked))
		s.CA.BarResponder(r, revoked)
	}
}

// bar tells the authority about a CA, and the log when it is new.
func (s *Service) bar(ctx context.Context, i *ca.Issuer, revoked bool) {
	if was := s.CA.Barred(i) == i; was != revoked {
		s.Log.LogAttrs(ctx, slog.LevelWarn, "the certificate of a CA was revoked, put on hold, or released", slog.String("ca", i.Name()), slog.Bool("usable", !revoked))
		s.CA.Bar(i.ID(), revoked)
	}
}

// barAsRecorded does what the row of a CA's revocation says now, if the serial number is a CA's; the entry that led here may be older.
func (s *Service) barAsRecorded(ctx context.Context, serial []byte) {
	i, _ := s.CA.CertificateOf(serial)
	x := s.CA.CrossOf(serial)
	if i == nil && x == nil {
		return
	}
	_, standing, err := s.Status(ctx, serial)
	if x != nil {
		if err == nil {
			s.barCross(ctx, x, standing)
		}
		return
	}
	if err != nil {
		s.Log.LogAttrs(ctx, slog.LevelWarn, "whether a CA is revoked cannot be read", slog.String("ca", i.Name()), slog.Any("cause", err))
		return
	}
	s.bar(ctx, i, standing)
}

// publishedList returns the imported list of a CA, nil when there is none.
func (s *Service) publishedList(ctx context.Context, sc *scope) (*x509.RevocationList, error) {
	was, err := s.newest(ctx, sc)
	if err != nil || was == nil {
		return nil, err
	}
	raw, err := io.ReadAll(s.Content(ctx, was.crl(sc.key)))
	if err != nil {
		return nil, fmt.Errorf("reading the list that is published: %w", err)
	}
	l, err := x509.ParseRevocationList(raw)
	if err != nil {
		return nil, fmt.Errorf("reading the list that is published: %w", err)
	}
	return l, nil
}
