package enrol

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/revoke"
)

// Identity is who stands behind a request or connection, proven.
type Identity struct {
	Device   device.Device
	Evidence ca.Evidence
	// Leaf is the certificate that proved it, in DER; nil by token.
	Leaf []byte
	// Own is the record of Leaf when this platform issued it, and Slot the device's slot that holds it.
	Own  *ca.Certificate
	Slot device.Slot
	// Profile is the profile that Own was issued by, if it still exists.
	Profile *ca.Profile

	role  access.Role // that Leaf grants, by its own word and its profile's
	token []byte      // the hash of the token, by token
	// expired is when Leaf ended, if that is to be forgiven; else 0.
	expired int64
	by      *access.Actor // who vouches, by operator
	proven  bool          // a slice's word is taken for it (proven.go), or an authority's
	// authority is the id of the registration authority that vouches, in hex; "" when none does.
	authority string
}

// Actor returns the actor for what the identity does over the surface via. A person's or service's role is the one that its certificate
// bears and its profile grants, as long as it is active and still registered for this profile: who becomes something else or is suspended has the old
// certificate for a while, but not the old role.
func (id *Identity) Actor(via string) access.Actor {
	if id.by != nil {
		return *id.by
	}
	a := access.Device(id.Device.ID.String(), via)
	if id.Profile != nil && id.Profile.Name == id.Device.Profile && id.Device.State.Active() && id.role != access.RoleNone && id.Evidence == ca.EvidenceOperational {
		a.Kind, a.Role = access.KindOperator, id.role
	}
	return a
}

// unauthenticated is a refusal of somebody who has not shown who he is. It never tells whether a device exists.
func unauthenticated(format string, args ...any) error {
	return errs.Wrap(errs.Denied, ErrUnauthenticated, format, args...)
}

// Authenticate proves who presented chain, which holds DER certificates, leaf first, with possession of the leaf's key proven. The
// certificate must be one that this platform issued and recorded, one registered as a device's birth certificate, or the IDevID of a listed product; it must be valid now,
// meant for clients, not revoked, and still stand in the device's slot.
func (s *Service) Authenticate(ctx context.Context, chain [][]byte) (*Identity, error) {
	return s.byChain(ctx, chain, false)
}

// byChain is Authenticate, and with forgive lets a certificate through that has expired, if it is one of ours: whether that is forgiven,
// checkRescue decides.
func (s *Service) byChain(ctx context.Context, chain [][]byte, forgive bool) (*Identity, error) {
	if len(chain) == 0 {
		return nil, unauthenticated("no client certificate was presented; present one, or the device's name and token")
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, unauthenticated("the client certificate cannot be parsed; present one that strict X.509 readers accept")
	}
	at, expired := s.Now(), int64(0)
	if at.After(leaf.NotAfter) {
		at, expired = leaf.NotAfter, leaf.NotAfter.Unix()
	}
	if err := fit(leaf, at); err != nil {
		return nil, err
	}
	if expired != 0 && !forgive {
		return s.byBirth(ctx, leaf, chain[1:], expired)
	}
	own, err := s.recorded(ctx, leaf)
	if err != nil {
		return nil, err
	}
	if own == nil && ca.KeptAs(leaf.SerialNumber.Bytes()) == ca.Ephemeral {
		return nil, unauthenticated("the client certificate is for one transaction with others, and nothing is known about it here; present the device's own")
	}
	if own == nil {
		return s.byBirth(ctx, leaf, chain[1:], expired)
	}
	id, err := s.byOwn(ctx, leaf, own)
	if id != nil {
		id.expired = expired
	}
	return id, err
}

// fit checks what a certificate says about itself, but for its end.
func fit(leaf *x509.Certificate, now time.Time) error {
	switch {
	case now.Before(leaf.NotBefore):
		return unauthenticated("the client certificate is not valid before %s; check the clocks", leaf.NotBefore.UTC().Format("2006-01-02 15:04:05Z"))
	case leaf.IsCA:
		return unauthenticated("the client certificate is a CA certificate; present the device's own")
	}
	anyUse := len(leaf.ExtKeyUsage)+len(leaf.UnknownExtKeyUsage) == 0
	if !anyUse && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny) {
		return unauthenticated("the client certificate's extended key usage does not include clientAuth; present another certificate")
	}
	if leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return unauthenticated("the client certificate's key usage does not include digitalSignature; present another certificate")
	}
	return nil
}

// recorded returns the record of a certificate, or nil. That it was issued here is the record's word, which byOwn does not take.
func (s *Service) recorded(ctx context.Context, leaf *x509.Certificate) (*ca.Certificate, error) {
	if ca.KeptAs(leaf.SerialNumber.Bytes()) == ca.Brief {
		return s.inSlot(ctx, leaf)
	}
	own, err := s.CA.Get(ctx, leaf.SerialNumber.Bytes())
	if errs.Is(err, errs.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for the client certificate: %w", err)
	}
	if !bytes.Equal(own.DER, leaf.Raw) {
		return nil, nil
	}
	return own, nil
}

func (s *Service) byOwn(ctx context.Context, leaf *x509.Certificate, own *ca.Certificate) (*Identity, error) {
	issuer, err := s.CA.SignedBy(ctx, own.Issuer, leaf)
	if errors.Is(err, ca.ErrNotOurs) {
		return nil, unauthenticated("the client certificate bears no signature of this platform, although it is on record; have the record verified")
	}
	if err != nil {
		return nil, fmt.Errorf("checking the client certificate: %w", err)
	}
	d, err := s.Devices.Load(ctx, device.ID(own.Device))
	if err != nil {
		return nil, fmt.Errorf("looking for the device of the client certificate: %w", err)
	}
	id := &Identity{Device: d, Evidence: ca.EvidenceOperational, Leaf: leaf.Raw, Own: own}
	// The profile may have been removed since; then the certificate grants nothing.
	if id.Profile, _ = s.CA.Profile(own.Profile); id.Profile != nil {
		id.role = id.Profile.SignedRole(leaf, issuer)
	}
	if own.Slot == device.SlotBirth {
		id.Evidence = ca.EvidenceBirth
	}
	switch reason, revoked, err := s.revoked(ctx, own.Serial[:]); {
	case err != nil:
		return nil, err
	case revoked && reason == revoke.CertificateHold:
		return id, errs.New(errs.Denied, "the client certificate is on hold; ask the device's operator")
	case revoked:
		return id, errs.Wrap(errs.Denied, ErrRevoked, "the client certificate is revoked; ask the device's operator for a new token")
	}
	slot, ok := d.Slot(own.Slot)
	if !ok || !bytes.Equal(slot.Serial, own.Serial[:]) && !bytes.Equal(slot.Prev, own.Serial[:]) {
		return id, errs.New(errs.Denied, "the client certificate was replaced by a newer one; use that")
	}
	id.Slot = slot
	if bytes.Equal(slot.Serial, own.Serial[:]) {
		return id, nil
	}
	return id, s.notClosed(ctx, slot.Serial)
}

// notClosed refuses the certificate before the newest one when the newest is revoked or on hold. It is good beside it for the sake of answers
// that are lost; when what it led to had to be taken back, it would lead whoever did that to the next one.
func (s *Service) notClosed(ctx context.Context, newest []byte) error {
	switch reason, revoked, err := s.revoked(ctx, newest); {
	case err != nil:
		return err
	case revoked && reason == revoke.CertificateHold:
		return errs.New(errs.Denied, "the device's newest certificate is on hold, and with it the one before; ask the device's operator")
	case revoked && reason != revoke.Superseded: // which says that nobody has to be suspected: see confirm.go
		return errs.New(errs.Denied, "the device's newest certificate is revoked, which ends the one before it too; ask the device's operator for a new token")
	}
	return nil
}

func (s *Service) revoked(ctx context.Context, serial []byte) (revoke.Reason, bool, error) {
	r, revoked, err := s.Revoke.Status(ctx, serial)
	if err != nil {
		return 0, false, fmt.Errorf("looking for the client certificate's revocation: %w", err)
	}
	return r.Reason, revoked, nil
}

// byToken proves a device by its one-time token. A used or expired one is told apart only to the holder of the right one.
func (s *Service) byToken(ctx context.Context, name, secret string) (*Identity, error) {
	hash, err := device.HashToken(secret)
	if err != nil {
		return nil, unauthenticated("%s", errs.Public(err))
	}
	id, _ := s.Devices.IDOf(name)
	d, err := s.Devices.Load(ctx, id)
	if err != nil && !errs.Is(err, errs.NotFound) {
		return nil, fmt.Errorf("looking for the device: %w", err)
	}
	// An unknown device is the zero one, whose token nothing matches.
	if err := d.TokenMatches(hash, s.Now().Unix()); err != nil && !errors.Is(err, device.ErrTokenUsed) {
		return nil, unauthenticated("%s", errs.Public(err))
	}
	return &Identity{Device: d, Evidence: ca.EvidenceToken, token: hash}, nil
}

// identify proves who made the request: by token, by certificate, or, when both are presented, by both.
func (s *Service) identify(ctx context.Context, r *Request) (*Identity, error) {
	forgive := r.Op == Renew
	if r.Proven != nil {
		return s.byProven(ctx, r.Proven)
	}
	if r.Vouch != nil {
		return s.byVouch(ctx, r.Vouch)
	}
	if !r.Basic {
		return s.byChain(ctx, r.Chain, forgive)
	}
	id, err := s.byToken(ctx, r.User, r.Secret)
	if err != nil || len(r.Chain) == 0 {
		return id, err
	}
	other, err := s.byChain(ctx, r.Chain, forgive)
	if err != nil {
		return nil, err
	}
	if other.Device.ID != id.Device.ID {
		return nil, unauthenticated("the client certificate and the device name belong to different devices; use those of one device")
	}
	id.Leaf, id.Own, id.Slot, id.Profile = other.Leaf, other.Own, other.Slot, other.Profile
	if id.expired = other.expired; id.expired != 0 { // the token comes to the certificate's help and does not take its place
		id.Evidence, id.role = other.Evidence, other.role
	}
	return id, nil
}
