package revoke

import (
	"context"
	"crypto/sha1"
	"crypto/x509"
	"fmt"
	"log/slog"
	"math/big"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/wire/der"
	"mooring/wire/ocsp"
)

// This file answers for CAs whose key is elsewhere, such as an offline root: by a responder that such a CA certified, out of the list that was
// imported from it. The row of a revocation is there, not here.

// imported returns the signer of a CA whose key is elsewhere: the responder that it certified and that ends last.
func (r *responder) imported(s *Service) (*signer, error) {
	by := s.CA.ResponderOf(r.issuer.ID())
	if by == nil {
		return nil, errs.New(errs.Unavailable, "no OCSP responder of CA %q is valid: make a request for a new one (mooring ca request-responder)", r.issuer.Name())
	}
	serial := by.Cert.SerialNumber.Bytes()
	if known := r.delegate.Load(); known != nil && string(known.serial) == string(serial) {
		return known, nil
	}
	bits, err := der.KeyBits(by.Cert.RawSubjectPublicKeyInfo)
	if err != nil {
		return nil, fmt.Errorf("reading the key of an OCSP responder: %w", err)
	}
	fresh := &signer{algorithm: by.Algorithm(), key: sha1.Sum(bits), certs: [][]byte{by.Cert.Raw}, serial: serial, notAfter: by.Cert.NotAfter.Unix(),
		sign: func(ctx context.Context, message []byte) ([]byte, error) { return s.signAs(ctx, by, message) }}
	r.delegate.Store(fresh)
	return fresh, nil
}

// signAs signs with the key of a responder.
func (s *Service) signAs(ctx context.Context, by *ca.Responder, message []byte) ([]byte, error) {
	signer, err := s.Keys.Signer(ctx, by.Key())
	if err != nil {
		if errs.Is(err, errs.Unavailable) { // the store's own text names files
			err = errs.Wrap(errs.Unavailable, err, "the OCSP responder cannot sign at present: its key is not to be had; an administrator must look at the key store")
		}
		return nil, fmt.Errorf("fetching the key of an OCSP responder of CA %q: %w", by.Issuer.Name(), err)
	}
	return signDigestBy(signer, by.Algorithm().Digest(message), by.Algorithm().Hash())
}

// statusesElsewhere tells what the imported list of a CA says. Nothing is known to be right after the list was made, so that is when an answer
// begins, and it ends with the list. Without a list that is valid nothing can be said.
func (s *Service) statusesElsewhere(ctx context.Context, r *responder, q *ocsp.Request, now int64) ([]ocsp.Single, error) {
	sc, err := s.scopeOf(scopeKey{issuer: r.issuer.ID()})
	if err != nil {
		return nil, err
	}
	list, err := s.publishedList(ctx, sc)
	switch {
	case err != nil:
		return nil, err
	case list == nil || list.NextUpdate.Unix() <= now:
		return nil, errs.New(errs.Unavailable, "no revocation list of CA %q is valid, so nobody can say what is revoked: import a new one (mooring ca import-crl)", r.issuer.Name())
	}
	revoked := map[string]x509.RevocationListEntry{}
	for _, e := range list.RevokedCertificateEntries {
		revoked[e.SerialNumber.String()] = e
	}
	singles := make([]ocsp.Single, 0, len(q.IDs))
	for _, id := range q.IDs {
		single := ocsp.Single{ID: id, Status: ocsp.Unknown, RevokedAt: -1, ThisUpdate: list.ThisUpdate.Unix(), NextUpdate: min(now+int64(unknownFor/time.Second), list.NextUpdate.Unix())}
		e, listed := revoked[new(big.Int).SetBytes(id.Serial).String()]
		switch {
		case listed:
			single.Status, single.RevokedAt, single.Reason = ocsp.Revoked, min(e.RevocationTime.Unix(), now), e.ReasonCode
		case s.certifiedBy(r.issuer, id.Serial):
			single.Status = ocsp.Good
		case s.Deps.OCSP.Strict:
			single.Status, single.RevokedAt, single.Reason = ocsp.Revoked, neverIssued, int(CertificateHold)
		}
		if listed || single.Status == ocsp.Good {
			single.NextUpdate = min(now+int64(s.Deps.OCSP.Validity/time.Second), list.NextUpdate.Unix())
		}
		singles = append(singles, single)
	}
	return singles, nil
}

// certifiedBy reports whether a CA whose key is elsewhere certified what has the serial number, as far as that is known here.
func (s *Service) certifiedBy(i *ca.Issuer, serial []byte) bool {
	if s.responders.isCA(i.ID(), serial) || s.isCross(i.ID(), serial) {
		return true
	}
	for _, r := range s.CA.Responders() {
		if r.Issuer.ID() == i.ID() && r.Cert.SerialNumber.Cmp(new(big.Int).SetBytes(serial)) == 0 {
			return true
		}
	}
	return false
}

// What has to be brought from elsewhere in time is told to the log once a day, from this share of its life on.
const (
	tellEvery = 24 * time.Hour
	tellShare = 6 // the last sixth: two months of a year
)

// tellEnds tells what ends soon of CAs whose key is elsewhere: the imported list, and the newest of the imported responders.
func (s *Service) tellEnds(ctx context.Context) {
	now := s.Now()
	tell := func(what string, i *ca.Issuer, begin, end time.Time, help string) {
		switch {
		case now.After(end):
			s.Log.LogAttrs(ctx, slog.LevelError, what+" has ended", slog.String("ca", i.Name()), slog.Time("end", end), slog.String("do", help))
		case end.Sub(now) < end.Sub(begin)/tellShare:
			s.Log.LogAttrs(ctx, slog.LevelWarn, what+" ends soon", slog.String("ca", i.Name()), slog.Time("end", end), slog.String("do", help))
		}
	}
	for _, i := range s.issuers() {
		if !i.Offline() || s.expired(i) {
			continue
		}
		if sc, err := s.scopeOf(scopeKey{issuer: i.ID()}); err == nil {
			if l, err := s.newest(ctx, sc); err == nil && l != nil {
				tell("the revocation list of a CA whose key is elsewhere", i, time.Unix(l.thisUpdate, 0), time.Unix(l.nextUpdate, 0), "mooring ca root crl, then mooring ca import-crl")
			}
		}
		if r := s.CA.LastResponderOf(i.ID()); r != nil {
			tell("the OCSP responder of a CA whose key is elsewhere", i, r.Cert.NotBefore, r.Cert.NotAfter, "mooring ca request-responder "+i.Name())
		}
	}
}
