package enrol

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"fmt"

	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
)

// Present is Authenticate for whoever shows a certificate in order to talk, which devices do far more often than they enrol: a certificate that is the newest in
// a slot of the device which it names is found with one look at the device. What there is to know of it stands in the slot: that it is for this key, by
// this CA, and not revoked, which are written in the transactions that issue and revoke. Who was found so a moment ago is recalled. Everything
// else, and every refusal, is Authenticate's.
func (s *Service) Present(ctx context.Context, chain [][]byte) (*Identity, error) {
	if id, err := s.inHand(ctx, chain); id != nil || err != nil {
		return id, err
	}
	return s.Authenticate(ctx, chain)
}

// inHand returns nil for whoever is not known so quickly.
func (s *Service) inHand(ctx context.Context, chain [][]byte) (*Identity, error) {
	if len(chain) == 0 {
		return nil, nil
	}
	now, digest := s.Now(), sha256.Sum256(chain[0])
	if id := s.recall(ctx, digest, now); id != nil {
		return id, nil
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, nil
	}
	issuer := s.CA.IssuerOf(leaf)
	if issuer == nil || now.After(leaf.NotAfter) || fit(leaf, now) != nil {
		return nil, nil
	}
	serial := leaf.SerialNumber.Bytes()
	if len(serial) != len(ca.Certificate{}.Serial) {
		return nil, nil
	}
	for _, id := range s.hints(leaf) {
		mark := s.Devices.Mark(id)
		d, err := s.Devices.Load(ctx, id)
		if errs.Is(err, errs.NotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("looking for the device of the client certificate: %w", err)
		}
		for _, slot := range d.Slots {
			if slot.Name == device.SlotBirth || slot.Revoked != 0 || !bytes.Equal(slot.Serial, serial) || len(slot.Issuer) == 0 || !holds(&slot, leaf, issuer) {
				continue
			}
			if _, err := s.CA.SignedBy(ctx, issuer.ID(), leaf); err != nil {
				return nil, nil
			}
			if free, err := s.free(ctx, digest, &d, serial); err != nil || !free {
				return nil, err
			}
			known := &Identity{Device: d, Evidence: ca.EvidenceOperational, Leaf: leaf.Raw, Own: s.brief(leaf, issuer, &d, slot.Name), Slot: slot}
			if known.Profile, _ = s.CA.Profile(known.Own.Profile); known.Profile != nil {
				known.role = known.Profile.SignedRole(leaf, issuer)
			}
			s.retain(digest, known, mark, validity{leaf.NotBefore, leaf.NotAfter}, now)
			return known, nil
		}
	}
	return nil, nil
}
