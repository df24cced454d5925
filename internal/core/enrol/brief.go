package enrol

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"

	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/wire/der"
)

// A certificate that is recorded in brief has no row of its own: what there is of it stands in its device's slot. Finding the slot needs the
// device, so such a certificate says whose it is. What it says is only where to look: that it is ours, its CA's signature and the serial
// number in the slot prove.

// idText is how many characters of hex, in small letters, the id of a device has in certificates.
const idText = 32

// idsIn returns up to most places of text, from left to right, that read like the id of a device. It looks at every certificate that is shown, so
// it is a plain loop and no regular expression.
func idsIn(text string, most int) (found []string) {
	run := 0
	for i := 0; i < len(text) && len(found) < most; i++ {
		c := text[i]
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			run = 0
			continue
		}
		if run++; run == idText {
			found = append(found, text[i+1-idText:i+1])
			run = 0
		}
	}
	return found
}

// maxHints bounds how many devices a certificate may lead to.
const maxHints = 8

// hints returns the devices of which leaf may be: those whose id or name stands in it.
func (s *Service) hints(leaf *x509.Certificate) (ids []device.ID) {
	add := func(id device.ID, err error) {
		if err == nil && len(ids) < maxHints {
			ids = append(ids, id)
		}
	}
	texts := make([]string, 0, len(leaf.URIs)+len(leaf.Subject.Names))
	for _, uri := range leaf.URIs {
		texts = append(texts, uri.String())
	}
	for _, a := range leaf.Subject.Names {
		if text, ok := a.Value.(string); ok {
			texts = append(texts, text)
		}
	}
	for _, text := range texts {
		for _, id := range idsIn(text, 2) {
			add(device.ParseID(id))
		}
	}
	for _, a := range leaf.Subject.Names {
		if text, ok := a.Value.(string); ok {
			id, _ := s.Devices.IDOf(text)
			add(id, nil)
		}
	}
	return ids
}

// inSlot returns what is known of a certificate that is recorded in brief, or nil when no slot holds it.
func (s *Service) inSlot(ctx context.Context, leaf *x509.Certificate) (*ca.Certificate, error) {
	issuer := s.CA.IssuerOf(leaf)
	if issuer == nil {
		return nil, nil
	}
	serial := leaf.SerialNumber.Bytes()
	for _, id := range s.hints(leaf) {
		d, err := s.Devices.Load(ctx, id)
		if errs.Is(err, errs.NotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("looking for the device of the client certificate: %w", err)
		}
		for _, slot := range d.Slots {
			if bytes.Equal(slot.Serial, serial) && holds(&slot, leaf, issuer) || bytes.Equal(slot.Prev, serial) {
				return s.brief(leaf, issuer, &d, slot.Name), nil
			}
		}
	}
	return nil, nil
}

// holds reports whether the newest certificate of the slot is for leaf's key and by its CA, as far as the slot says: whoever stole the key of one CA
// shall not make certificates of the serial numbers of another, nor of a key that the device does not have.
func holds(slot *device.Slot, leaf *x509.Certificate, issuer *ca.Issuer) bool {
	id, spki := issuer.ID(), der.HashSPKI(leaf.RawSubjectPublicKeyInfo)
	return bytes.Equal(slot.SPKI, spki[:]) && (len(slot.Issuer) == 0 || bytes.Equal(slot.Issuer, id[:]))
}

// brief puts together what a row would say.
func (s *Service) brief(leaf *x509.Certificate, issuer *ca.Issuer, d *device.Device, slot string) *ca.Certificate {
	c := &ca.Certificate{Serial: [16]byte(leaf.SerialNumber.Bytes()), Issuer: issuer.ID(), Slot: slot, Device: d.ID, NotBefore: leaf.NotBefore.Unix(),
		NotAfter: leaf.NotAfter.Unix(), SPKIHash: der.HashSPKI(leaf.RawSubjectPublicKeyInfo), DER: leaf.Raw}
	c.Cell, c.Day, _ = ca.Locate(c.Serial[:]) // the caller found it in a slot, so it is one of ours
	if p := s.profileOf(d, slot); p != nil {
		c.Profile, c.Version = p.Name, p.Version
	}
	return c
}

// profileOf returns the profile by which a device gets certificates in a slot now, or nil.
func (s *Service) profileOf(d *device.Device, slot string) *ca.Profile {
	if own, err := s.CA.Profile(d.Profile); err == nil && own.Slot == slot {
		return own
	}
	for _, p := range s.CA.Profiles() {
		if p.Slot == slot && p.For(d.Profile) {
			return p
		}
	}
	return nil
}
