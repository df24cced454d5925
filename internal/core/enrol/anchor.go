package enrol

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"mooring/internal/core/ca"
	"mooring/internal/core/device"
)

// Successors returns the roots that the fleet has to come to trust, as far as they are among what Anchors returns for the label: those for which
// an older root vouches. It is empty but for the time of a rollover.
func (s *Service) Successors(label string) []ca.IssuerID {
	all := s.CA.Successors()
	if len(all) == 0 {
		return nil
	}
	handed, err := s.Anchors(label)
	if err != nil {
		return nil
	}
	var ids []ca.IssuerID
	for _, root := range all {
		for _, raw := range handed {
			if string(raw) == string(root.Chain()[0]) {
				ids = append(ids, root.ID())
			}
		}
	}
	return ids
}

// maxReported bounds how many roots one device can say that it trusts.
const maxReported = 32

// Reported returns those roots which the fleet has to come to trust that are among the SHA-256 fingerprints in text, in hex and parted by commas,
// by which a device says what it trusts.
func (s *Service) Reported(text string) []ca.IssuerID {
	if text == "" || len(text) > maxReported*(2*sha256.Size+2) {
		return nil
	}
	var ids []ca.IssuerID
	for _, root := range s.CA.Successors() {
		sum := sha256.Sum256(root.Chain()[0])
		for part := range strings.SplitSeq(text, ",") {
			if strings.EqualFold(strings.TrimSpace(part), hex.EncodeToString(sum[:])) {
				ids = append(ids, root.ID())
				break
			}
		}
	}
	return ids
}

// Trusts notes evidence that a device, which proved its identity, trusts roots. Roots that the fleet need not come to trust are passed over.
func (s *Service) Trusts(id string, g device.Grade, roots ...ca.IssuerID) {
	successors := s.CA.Successors()
	if len(successors) == 0 || len(roots) == 0 { // nearly always
		return
	}
	parsed, err := device.ParseID(id)
	if err != nil {
		return
	}
	for _, root := range successors {
		for _, seen := range roots {
			if root.ID() == seen {
				s.Devices.SawAnchor(parsed, device.Anchor(seen), g, s.Now().Unix())
			}
		}
	}
}
