package revoke

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/ca"
	"mooring/wire/der"
)

// MaxImport bounds a list that is brought from elsewhere. CAs without a key here stand above others and revoke few.
const MaxImport = 4 << 20

// ImportCRL publishes a list that was made elsewhere, for a CA whose key is not kept here, such as an offline root. It needs the permission
// ca.manage. The list must be the CA's, signed by it, complete, and newer than the one that is published; anything else is Invalid, and an older one
// a Conflict. It is served until the next one is imported, also after its end.
func (s *Service) ImportCRL(ctx context.Context, actor access.Actor, raw []byte) (*ca.Issuer, CRL, error) {
	if err := s.Access.Require(ctx, actor, access.CAManage, "crl"); err != nil {
		return nil, CRL{}, err
	}
	if len(raw) > MaxImport {
		return nil, CRL{}, errs.New(errs.Invalid, "the list has %d octets, more than %d", len(raw), MaxImport)
	}
	parsed, err := x509.ParseRevocationList(raw)
	if err != nil || !bytes.Equal(parsed.Raw, raw) {
		return nil, CRL{}, errs.New(errs.Invalid, "this is not a certificate revocation list in DER: %v", err)
	}
	i, err := s.signerOf(parsed)
	if err != nil {
		return nil, CRL{}, err
	}
	l, err := s.foreign(i, parsed)
	if err != nil {
		return nil, CRL{}, err
	}
	sc, err := s.scopeOf(scopeKey{issuer: i.ID()})
	if err != nil {
		return nil, CRL{}, err
	}
	if err := s.saysLess(ctx, sc, parsed); err != nil {
		return nil, CRL{}, err
	}
	if err := s.storeForeign(ctx, actor, sc, l, raw); err != nil {
		return nil, CRL{}, err
	}
	sc.adopt(l)
	if err := s.barListed(ctx, i.ID()); err != nil {
		return nil, CRL{}, err
	}
	return i, l.crl(sc.key), nil
}

// saysLess refuses a list that takes a revocation back: of a CA that has not ended, and for good. That is what a root signs whose directory was
// restored from a backup of before the revocation, and its number is higher all the same.
func (s *Service) saysLess(ctx context.Context, sc *scope, next *x509.RevocationList) error {
	last, err := s.publishedList(ctx, sc)
	if err != nil || last == nil {
		return err
	}
	certs := map[string]*x509.Certificate{}
	for _, i := range s.issuers() {
		if p := i.Parent(); p != nil && p.ID() == sc.key.issuer {
			certs[i.Certificate().SerialNumber.String()] = i.Certificate()
		}
	}
	for _, c := range s.CA.AllCrosses() {
		if c.Issuer.ID() == sc.key.issuer {
			certs[c.Cert.SerialNumber.String()] = c.Cert
		}
	}
	there := map[string]bool{}
	for _, e := range next.RevokedCertificateEntries {
		there[e.SerialNumber.String()] = true
	}
	for _, e := range last.RevokedCertificateEntries {
		serial := e.SerialNumber.String()
		if c := certs[serial]; c != nil && !there[serial] && Reason(e.ReasonCode) != CertificateHold && s.Now().Before(c.NotAfter) {
			return errs.New(errs.Conflict, "the list does not revoke %s (%x) any more, as the one that is published does: was the root restored from an old backup? Revoke it there again, then sign a new list",
				c.Subject, e.SerialNumber)
		}
	}
	return nil
}

// signerOf returns the CA that signed a list.
func (s *Service) signerOf(l *x509.RevocationList) (*ca.Issuer, error) {
	named := ""
	for _, i := range s.issuers() {
		cert := i.Certificate()
		if !bytes.Equal(cert.RawSubject, l.RawIssuer) {
			continue
		}
		named = i.Name()
		if der.CheckCRL(l.Raw, i.PublicKey()) == nil {
			return i, nil
		}
	}
	if named != "" {
		return nil, errs.New(errs.Invalid, "the list names the CA %q, but its signature does not verify under that CA's key", named)
	}
	return nil, errs.New(errs.Invalid, "no CA is called %q, as the issuer of the list is", l.Issuer)
}

// foreign checks what the list says and returns the row for it.
func (s *Service) foreign(i *ca.Issuer, p *x509.RevocationList) (*list, error) {
	bad := func(format string, args ...any) (*list, error) { return nil, errs.New(errs.Invalid, format, args...) }
	if i.Key() != "" {
		return nil, errs.New(errs.Conflict, "the key of CA %q is kept here, so that its lists are made here", i.Name())
	}
	now := s.Now()
	switch {
	case p.Number == nil || !p.Number.IsInt64() || p.Number.Sign() <= 0:
		return bad("the list has no number, or one that is too large to be followed")
	case p.ThisUpdate.After(now.Add(clocksDiffer * time.Second)):
		return bad("the list begins at %s, which has not come yet", p.ThisUpdate.UTC().Format(time.RFC3339))
	case p.NextUpdate.IsZero() || !p.NextUpdate.After(now):
		return bad("the list has ended, or does not say when it ends: make a new one")
	case !bytes.Equal(p.AuthorityKeyId, i.Certificate().SubjectKeyId):
		return bad("the list names another key than that of CA %q", i.Name())
	}
	for _, e := range p.Extensions {
		if e.Critical {
			return bad("the list has the critical extension %s: only complete lists can be imported", e.Id)
		}
	}
	at := p.ThisUpdate.Unix()
	return &list{kind: imported, number: p.Number.Int64(), thisUpdate: at, nextUpdate: p.NextUpdate.Unix(), regularNumber: p.Number.Int64(), regularUpdate: at,
		due: never, size: int64(len(p.Raw)), signature: p.Signature, digest: sha256.Sum256(p.Raw)}, nil
}

// storeForeign stores the octets, the row and the entry.
func (s *Service) storeForeign(ctx context.Context, actor access.Actor, sc *scope, l *list, raw []byte) error {
	return s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		// The number that is given out next, should the key come here one day, is a higher one.
		if _, err := tx.Exec(ctx, `INSERT INTO crl_scope (cell, issuer, shard, changes, number) VALUES (0, $1, $2, 0, $3) ON CONFLICT (cell, issuer, shard)
 DO UPDATE SET number = excluded.number WHERE crl_scope.number < excluded.number`, sc.key.issuer[:], sc.key.shard, l.number); err != nil {
			return err
		}
		was, err := readListTx(ctx, tx, sc.key)
		if err != nil {
			return err
		}
		stored, err := l.storeTx(ctx, tx, sc.key)
		if err != nil {
			return err
		}
		if !stored {
			return errs.New(errs.Conflict, "the list %d is not newer than the one that is published, which is %d", l.number, was.number)
		}
		if _, err := tx.Exec(ctx, `DELETE FROM crl_chunk WHERE cell = 0 AND issuer = $1 AND shard = $2 AND number <> $3`, sc.key.issuer[:], sc.key.shard, l.number); err != nil {
			return err
		}
		for seq, from := int64(0), 0; from < len(raw) || seq == 0; seq++ {
			piece := []byte{} // piece 0, which holds the header of lists made here
			if seq > 0 {
				piece = raw[from:min(len(raw), from+pieceSize)]
				from += len(piece)
			}
			if err := storePiece(ctx, tx, sc.key, l.number, seq, piece); err != nil {
				return err
			}
		}
		e := l.entry(sc.key)
		e.Action, e.Actor = "crl.import", actor.String()
		return s.Audit.Append(ctx, tx, e)
	})
}
