package acme

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"net/netip"
	"slices"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/revoke"
	"mooring/wire/acme"
	"mooring/wire/der"
)

// Renewal says when a certificate is to be renewed (RFC 9773): in a window of the device's own within that of the profile, so that a fleet that was
// enrolled together does not renew together. It lies in the past when the certificate is revoked or a campaign waits for the device. A certificate
// that nobody knows is NotFound. Anybody may ask.
func (s *Service) Renewal(ctx context.Context, id acme.CertID) (start, end time.Time, err error) {
	c, err := s.certificate(ctx, id)
	if err != nil {
		return start, end, err
	}
	now := s.Now()
	due, err := s.dueNow(ctx, c)
	if err != nil {
		return start, end, err
	}
	if due {
		return now.Add(-2 * time.Hour).UTC(), now.Add(-time.Hour).UTC(), nil
	}
	before, spread := (c.NotAfter-c.NotBefore)/3, (c.NotAfter-c.NotBefore)/10
	if p, err := s.CA.Profile(c.Profile); err == nil && p.RenewBefore > 0 && p.RenewBefore+p.RenewSpread < c.NotAfter-c.NotBefore {
		before, spread = p.RenewBefore, p.RenewSpread
	}
	d, err := s.Devices.Load(ctx, c.Device)
	if err != nil && !errs.Is(err, errs.NotFound) {
		return start, end, err
	}
	at := device.RenewAt(d.Name, c.NotAfter, before, spread)
	width := max(min(spread/4, 86400), 60)
	return time.Unix(at, 0).UTC(), time.Unix(min(at+width, c.NotAfter), 0).UTC(), nil
}

// dueNow reports whether the certificate is to be replaced at once.
func (s *Service) dueNow(ctx context.Context, c *ca.Certificate) (bool, error) {
	if _, revoked, err := s.Revoke.Status(ctx, c.Serial[:]); err != nil || revoked {
		return revoked, err
	}
	if s.Campaigns == nil {
		return false, nil
	}
	d, err := s.Devices.Load(ctx, c.Device)
	if errs.Is(err, errs.NotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	want, err := s.Campaigns.Demand(ctx, &d)
	slot, _ := d.Slot(c.Slot)
	return want.Campaign != "" && bytes.Equal(slot.Serial, c.Serial[:]), err
}

// Revoker is who asks for a revocation: an account, or whoever signed with the certificate's own key.
type Revoker struct {
	Account *Account
	Key     *acme.Key
	Source  netip.Addr
}

// RevokeCert revokes a certificate (RFC 8555, section 7.6) for its device's account, for an account that was shown the right to all of its names, or
// for the holder of its key.
func (s *Service) RevokeCert(ctx context.Context, by Revoker, raw []byte, reason int) error {
	r := revoke.Reason(reason)
	if !slices.Contains([]int{0, 1, 3, 4, 5, 9}, reason) {
		return refuse(errs.Invalid, BadRevocationReason, "the reason %d is not one that may be given here: use 0, 1, 3, 4, 5 or 9", reason)
	}
	leaf, err := x509.ParseCertificate(raw)
	if err != nil {
		return refuse(errs.Invalid, Malformed, "the certificate cannot be parsed")
	}
	unknown := refuse(errs.NotFound, Malformed, "this certificate was not issued here")
	c, err := s.CA.Known(ctx, leaf.SerialNumber.Bytes())
	if errs.Is(err, errs.NotFound) {
		return unknown
	}
	if err != nil {
		return err
	}
	if len(c.DER) > 0 && !bytes.Equal(c.DER, raw) || c.SPKIHash != sha256.Sum256(leaf.RawSubjectPublicKeyInfo) {
		return unknown
	}
	if err := s.genuine(ctx, c, leaf); err != nil {
		return err
	}
	allowed, err := s.mayRevoke(ctx, by, c, leaf)
	if err != nil {
		return err
	}
	if !allowed {
		return refuse(errs.Denied, Unauthorized, "this certificate may be revoked by its device's account, by one that has shown the right to all of its names, or with its own key")
	}
	if _, revoked, err := s.Revoke.Status(ctx, c.Serial[:]); err != nil || revoked {
		if err == nil {
			err = refuse(errs.Invalid, AlreadyRevoked, "the certificate is revoked already")
		}
		return err
	}
	actor := access.Device(device.ID(c.Device).String(), protocol)
	actor.Role = access.RoleOperator // for this one act, which was decided above
	_, err = s.Revoke.Certificate(ctx, actor, c.Serial[:], r)
	return err
}

// genuine refuses a certificate that only looks like a recorded one. Where its octets are not kept, serial number and key are all that the record
// has to compare with, and both are public: whoever saw a certificate could write any names beside them.
func (s *Service) genuine(ctx context.Context, c *ca.Certificate, leaf *x509.Certificate) error {
	if len(c.DER) > 0 {
		return nil // compared by the caller
	}
	_, err := s.CA.SignedBy(ctx, c.Issuer, leaf)
	if errors.Is(err, ca.ErrNotOurs) {
		return refuse(errs.Denied, Unauthorized, "the certificate bears no signature of this platform: send it as it was issued")
	}
	return err
}

func (s *Service) mayRevoke(ctx context.Context, by Revoker, c *ca.Certificate, leaf *x509.Certificate) (bool, error) {
	if by.Key != nil {
		spki, err := der.EncodePublicKey(by.Key.Public)
		return err == nil && der.HashSPKI(spki) == c.SPKIHash, nil
	}
	if by.Account.Bound() && by.Account.Device == device.ID(c.Device) {
		return true, nil
	}
	return s.holdsNames(ctx, by.Account, c, leaf)
}

// holdsNames reports whether the account has shown the right to all names of another account's certificate. Names that its profile trusts it with
// were not shown. Of other kinds than DNS names and addresses only the device's URN counts, when the account showed a name to order for that device.
func (s *Service) holdsNames(ctx context.Context, a *Account, c *ca.Certificate, leaf *x509.Certificate) (bool, error) {
	names, err := altNamesOf(leaf)
	if err != nil || len(names.DNS)+len(names.IP) == 0 || len(names.Email)+len(names.Other) > 0 {
		return false, nil // what cannot be read was not shown either
	}
	missing := map[string]bool{}
	for _, n := range names.DNS {
		missing["dns:"+n] = true
	}
	for _, ip := range names.IP {
		missing["ip:"+ip.String()] = true
	}
	for _, uri := range names.URI {
		missing["uri:"+uri] = true
	}
	if err := s.storeDraftsOf(ctx, a.ID); err != nil {
		return false, err
	}
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		return tx.Each(ctx, func(r db.Row) error {
			o, err := scanOrder(r)
			for _, z := range o.Authz {
				if z.Status != acme.StatusValid || z.Method == byAccount {
					continue
				}
				delete(missing, z.full())
				if o.Device == device.ID(c.Device) {
					delete(missing, "uri:urn:mooring:device:"+o.Device.String())
				}
			}
			return err
		}, orderColumns+` WHERE account = $1 AND expires > $2 LIMIT 1000`, a.ID[:], s.Now().Unix())
	})
	return len(missing) == 0, err
}

// altNamesOf reads the names of a certificate.
func altNamesOf(leaf *x509.Certificate) (der.AltNames, error) {
	for _, e := range leaf.Extensions {
		if e.Id.String() == der.OIDSubjectAltName.String() {
			return der.ParseAltNames(e.Value)
		}
	}
	return der.AltNames{}, nil
}
