package acme

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/wire/acme"
	"mooring/wire/attest"
	"mooring/wire/der"
)

// Roots say whose word about hardware is taken. A nil pool trusts nobody.
type Roots struct {
	Formats map[string]*x509.CertPool // by format of attestation statement; for tpm the platform's own roots come on top
	EK      *x509.CertPool            // of TPMs' endorsement keys
}

// TagSerial is the tag of a device with the serial number by which its hardware is known, when that is not the device's name.
const TagSerial = "serial"

const maxHardwareName = 256

// isHardware reports whether a name is one that only hardware can show.
func isHardware(name string) bool {
	kind, _, _ := strings.Cut(name, ":")
	return kind == acme.KindPermanent || kind == acme.KindHardware
}

func printable(value string) bool {
	return value != "" && len(value) <= maxHardwareName && !strings.ContainsFunc(value, func(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsPrint(r) })
}

// owned refuses names of hardware that the registry does not know the device by.
func owned(d *device.Device, names []string) error {
	for _, name := range names {
		kind, value, _ := strings.Cut(name, ":")
		if !isHardware(name) || value == d.Name || value == d.Tags[TagSerial] {
			continue
		}
		bad := &Rejected{Names: []RejectedName{{Kind: kind, Value: value, Type: RejectedIdentifier, Detail: fmt.Sprintf("%q is neither the name of the account's device nor its tag %s", value, TagSerial)}}}
		return errs.Wrap(errs.Denied, bad, "the order is refused: %s", bad.Names[0].Detail)
	}
	return nil
}

// badStatement is the refusal of an attestation.
func badStatement(format string, args ...any) error {
	return refuse(errs.Denied, BadAttestationStatement, format, args...)
}

// attested verifies the answer to a challenge device-attest-01 (draft-ietf-acme-device-attest, section 5).
func (s *Service) attested(ctx context.Context, c Challenge, owner device.ID) (Shown, error) {
	var body acme.Attestation
	if err := json.Unmarshal(c.Response, &body); err != nil || body.AttObj == "" {
		return Shown{}, badStatement("the answer has no attObj")
	}
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(body.AttObj, "="))
	if err != nil {
		return Shown{}, badStatement("attObj is not base64url")
	}
	o, err := attest.Parse(raw)
	if err != nil {
		return Shown{}, badStatement("%v", err)
	}
	roots := s.rootsFor(o.Format)
	if roots == nil {
		return Shown{}, badStatement("statements of the format %s are not accepted here: no roots are configured for it", o.Format)
	}
	r, err := o.Verify(attest.Check{Roots: roots, Token: c.Token, KeyAuthorization: c.KeyAuthorization, Now: s.Now()})
	if err != nil {
		return Shown{}, badStatement("the statement is not accepted: %v", err)
	}
	if err := s.ownChain(ctx, r.Chain, owner); err != nil {
		return Shown{}, err
	}
	sum := sha256.Sum256(r.SPKI)
	shown := Shown{SPKI: sum[:]}
	kind, value, _ := strings.Cut(c.Name, ":")
	if kind == acme.KindPermanent {
		if !r.IsPermanent(value) {
			return Shown{}, badStatement("the statement is not about %q", value)
		}
		return shown, nil
	}
	h, ok := r.HardwareOf(value)
	if !ok {
		return Shown{}, badStatement("the statement is not about the hardware module %q", value)
	}
	shown.Hardware = h.Type.String() + " " + hex.EncodeToString(h.Serial)
	return shown, nil
}

// rootsFor returns the roots for a format; nil when none are trusted.
func (s *Service) rootsFor(format string) *x509.CertPool {
	pool := s.Roots.Formats[format]
	if format != attest.TPM {
		return pool
	}
	if pool == nil {
		pool = x509.NewCertPool()
	} else {
		pool = pool.Clone()
	}
	s.CA.Each(func(i *ca.Issuer) {
		if c := i.Certificate(); i.Parent() == nil && c != nil {
			pool.AddCert(c)
		}
	})
	return pool
}

// ownChain looks at a certificate of ours by which a statement was made: it must be this device's, and not revoked.
func (s *Service) ownChain(ctx context.Context, chain []*x509.Certificate, owner device.ID) error {
	ours := false
	s.CA.Each(func(i *ca.Issuer) {
		c := i.Certificate() // not the only one for this key: others may have certified it too
		ours = ours || c != nil && len(chain) > 1 && bytes.Equal(c.RawSubjectPublicKeyInfo, chain[1].RawSubjectPublicKeyInfo)
	})
	if !ours {
		return nil
	}
	leaf, serial := chain[0], ca.Certificate{}.Serial
	if leaf.SerialNumber.BitLen() > 8*len(serial) {
		return badStatement("the certificate in the statement is not known here")
	}
	leaf.SerialNumber.FillBytes(serial[:])
	c, err := s.CA.Known(ctx, serial[:])
	if errs.Is(err, errs.NotFound) {
		return badStatement("the certificate in the statement is not known here")
	}
	if err != nil {
		return err
	}
	if c.Device != owner {
		return badStatement("the certificate in the statement is another device's")
	}
	_, revoked, err := s.Revoke.Status(ctx, serial[:])
	if err == nil && revoked {
		err = badStatement("the certificate in the statement is revoked or on hold")
	}
	return err
}

// attested are the names that hardware attested, as they stand in certificates.
func (o *Order) attested() (names []der.OtherName, err error) {
	for i := range o.Authz {
		z := &o.Authz[i]
		if z.Method != acme.DeviceAttest01 || z.Status != acme.StatusValid {
			continue
		}
		if value, ok := strings.CutPrefix(z.Name, acme.KindPermanent+":"); ok {
			names = append(names, der.PermanentIdentifier(value, ""))
			continue
		}
		kind, digits, _ := strings.Cut(z.Hardware, " ")
		oid, err := der.ParseOID(kind)
		if err != nil {
			return nil, fmt.Errorf("reading the hardware module of order %s: %w", o.ID, err)
		}
		serial, err := hex.DecodeString(digits)
		if err != nil {
			return nil, fmt.Errorf("reading the hardware module of order %s: %w", o.ID, err)
		}
		names = append(names, der.HardwareModule(oid, serial))
	}
	return names, nil
}

// usageAttestationKey is tcg-kp-AIKCertificate.
const usageAttestationKey = "2.23.133.8.3"

func isForAttestationKeys(p *ca.Profile) bool {
	return p.Attested && !p.Approval && p.Accepts(ca.EvidenceAttested) && slices.ContainsFunc(p.ExtKeyUsage, func(u der.OID) bool { return u.String() == usageAttestationKey })
}
