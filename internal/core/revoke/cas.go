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
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading which CAs are revoked: %w", err)
	}
	for _, p := range parents {
		if err := s.barListed(ctx, p.ID()); err != nil {
			return err
		}
	}
	return nil
}

// barListed bars the CAs that the published list of the CA above them names, and no others of those below it.
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
	return nil
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
	if i == nil {
		return
	}
	_, standing, err := s.Status(ctx, serial)
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
