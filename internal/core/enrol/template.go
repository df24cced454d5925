package enrol

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"

	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/revoke"
	"mooring/wire/der"
)

// Template is a request that is not in PKCS#10, but in the form of RFC 4211 as CMP has it. All parts are DER.
type Template struct {
	Octets []byte // the request: two requests with the same octets are the same
	Signed []byte // what the proof of possession signs
	// Subject, SPKI and Extensions are nil where nothing was asked for. Without SPKI the operation is Generate.
	Subject, SPKI, Extensions []byte
	// Algorithm and Signature are the proof of possession; nil when the request has none.
	Algorithm, Signature []byte
}

// Vouch is the word of a registration authority for a device. The authority holds a certificate of this platform with the extended key usage
// id-kp-cmcRA (RFC 6402, section 2.10), and the profile of what it asks for must list the evidence "ra".
type Vouch struct {
	Chain      [][]byte // its certificate, with possession of the key proven, in DER
	Device     string   // the external name of the device for which it asks
	Possession bool     // it has seen to it that the device holds the private key
}

// ErrPossession marks the refusal of a request whose sender has not shown that it has the private key.
var ErrPossession = errors.New("possession of the private key is not proven")

// ErrRevoked marks the refusal of somebody whose certificate is revoked.
var ErrRevoked = errors.New("the certificate is revoked")

func (t *Template) request() (*der.Request, error) {
	return der.Assemble(der.Parts{Raw: t.Octets, Signed: t.Signed, Subject: t.Subject, SPKI: t.SPKI, Extensions: t.Extensions, Algorithm: t.Algorithm, Signature: t.Signature})
}

// Authority proves that whoever presented chain is a registration authority, and still registered as one.
func (s *Service) Authority(ctx context.Context, chain [][]byte) (*Identity, error) {
	id, err := s.Authenticate(ctx, chain)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(id.Leaf)
	if err != nil {
		return nil, fmt.Errorf("parsing the certificate of a registration authority: %w", err)
	}
	signed := slices.ContainsFunc(leaf.UnknownExtKeyUsage, func(u asn1.ObjectIdentifier) bool { return u.String() == der.OIDCMCRA.String() })
	if id.Own == nil || id.Profile == nil || !signed || !slices.Contains(id.Profile.ExtKeyUsage, der.OIDCMCRA) {
		return nil, errs.Wrap(errs.Denied, ErrUnauthenticated, "only a registration authority may do this: its certificate is issued here and has the extended key usage cmcRA, as has its profile")
	}
	if !id.Profile.For(id.Device.Profile) { // whoever becomes something else has the old certificate for a while, but not the old power
		return nil, errs.Wrap(errs.Denied, ErrUnauthenticated, "this registration authority is now registered for the profile %s, which makes it none", id.Device.Profile)
	}
	if !id.Device.State.Active() {
		return nil, device.StateRefusal(id.Device.State)
	}
	return id, nil
}

// byVouch takes the word of a registration authority.
func (s *Service) byVouch(ctx context.Context, v *Vouch) (*Identity, error) {
	authority, err := s.Authority(ctx, v.Chain)
	if err != nil {
		return nil, err
	}
	id, _ := s.Devices.IDOf(v.Device)
	if v.Device == "" || id == authority.Device.ID {
		return nil, errs.New(errs.Denied, "a registration authority asks here for others: give the device's name as the common name of the request, and let the authority's own certificate be renewed by its key")
	}
	d, err := s.Devices.Load(ctx, id)
	if errs.Is(err, errs.NotFound) {
		return nil, errs.New(errs.Denied, "the device %q that the registration authority names is not registered", v.Device)
	}
	if err != nil {
		return nil, fmt.Errorf("looking for the device: %w", err)
	}
	return &Identity{Device: d, Evidence: ca.EvidenceRA, authority: authority.Device.ID.String(), proven: true}, nil
}

// possessionVouched reports whether a registration authority, or the slice that has proven the device, has seen to it that the device holds the key, and the request has no proof of its own.
func (sub *submission) possessionVouched() bool {
	t, v, p := sub.req.Template, sub.req.Vouch, sub.req.Proven
	return t != nil && t.Algorithm == nil && (v != nil && v.Possession || p != nil && p.Possession)
}

// RevokeOwn revokes a certificate at the wish of the device that holds it, which r shows to be there as in an enrolment: by a certificate of its own,
// which may be the one that is meant, or by a token that is not used. issuer is the DER Name of the certificate's issuer, nil when none was named.
// Refusals are recorded. It returns the device, as an Answer does.
func (s *Service) RevokeOwn(ctx context.Context, r Request, issuer, serial []byte, reason revoke.Reason) (result revoke.Result, id string, err error) {
	sub := &submission{req: &r}
	if result, err = s.revokeOwn(ctx, sub, issuer, serial, reason); err != nil {
		s.recordRefusal(ctx, sub, err)
	}
	if sub.identity != nil {
		id = sub.identity.Device.ID.String()
	}
	return result, id, err
}

func (s *Service) revokeOwn(ctx context.Context, sub *submission, issuer, serial []byte, reason revoke.Reason) (revoke.Result, error) {
	if err := s.authenticate(ctx, sub); err != nil {
		return revoke.Result{}, err
	}
	id := sub.identity
	if id.token != nil && id.Device.Token.Used != 0 { // an old token in the wrong hands must not put the device out
		return revoke.Result{}, unauthenticated("%s", errs.Public(device.ErrTokenUsed))
	}
	if issuer != nil && !s.issuedBy(ctx, serial, issuer) {
		return revoke.Result{}, revoke.NotHeld()
	}
	return s.Revoke.ForHolder(ctx, id.Actor(sub.req.Protocol), id.Device.ID, serial, reason)
}

// issuedBy reports whether the certificate with this serial is on record as one of the CA with this name. What is not kept has no issuer on record.
func (s *Service) issuedBy(ctx context.Context, serial, name []byte) bool {
	c, err := s.CA.Get(ctx, serial)
	if err != nil {
		return ca.KeptAs(serial) != ca.Full
	}
	issuer, err := s.CA.IssuerByID(c.Issuer)
	return err == nil && bytes.Equal(issuer.Certificate().RawSubject, name)
}
