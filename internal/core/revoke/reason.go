package revoke

import (
	"strconv"
	"strings"

	"mooring/internal/base/errs"
	"mooring/internal/core/device"
	"mooring/wire/der"
)

// Reason is why a certificate is revoked: a CRLReason (RFC 5280, section 5.3.1). The numbers are stored.
type Reason uint8

// The reasons. CertificateHold is the only one that can be undone; number 7 does not exist.
const (
	Unspecified          Reason = 0
	KeyCompromise        Reason = 1
	CACompromise         Reason = 2
	AffiliationChanged   Reason = 3
	Superseded           Reason = 4
	CessationOfOperation Reason = 5
	CertificateHold      Reason = 6
	PrivilegeWithdrawn   Reason = 9
	AACompromise         Reason = 10
)

// released (removeFromCRL) marks the row of a hold that was lifted. On the wire it is for delta lists only.
const released Reason = 8

var reasonNames = [...]string{Unspecified: "unspecified", KeyCompromise: "keyCompromise", CACompromise: "cACompromise",
	AffiliationChanged: "affiliationChanged", Superseded: "superseded", CessationOfOperation: "cessationOfOperation",
	CertificateHold: "certificateHold", released: "removeFromCRL", PrivilegeWithdrawn: "privilegeWithdrawn", AACompromise: "aACompromise"}

// Reasons returns the reasons that may be given.
func Reasons() []Reason {
	return []Reason{Unspecified, KeyCompromise, CACompromise, AffiliationChanged, Superseded, CessationOfOperation, CertificateHold,
		PrivilegeWithdrawn, AACompromise}
}

// String returns the reason's name in the standard's spelling.
func (r Reason) String() string {
	if int(r) >= len(reasonNames) || reasonNames[r] == "" {
		return "reason " + strconv.Itoa(int(r))
	}
	return reasonNames[r]
}

// ParseReason returns the reason with this name, in any case, or number. The empty text means Unspecified.
func ParseReason(text string) (Reason, error) {
	if text == "" {
		return Unspecified, nil
	}
	n, err := strconv.ParseUint(text, 10, 8)
	for _, r := range Reasons() {
		if strings.EqualFold(text, r.String()) || err == nil && uint64(r) == n {
			return r, nil
		}
	}
	return 0, errs.New(errs.Invalid, "unknown reason %q: use one of %s", text, choices())
}

func choices() string {
	var names []string
	for _, r := range Reasons() {
		names = append(names, r.String())
	}
	return strings.Join(names, ", ")
}

// check refuses numbers that may not be given.
func (r Reason) check() error {
	if r > der.MaxReason || r == 7 || r == released {
		return errs.New(errs.Invalid, "nothing can be revoked for %s: use one of %s", r, choices())
	}
	return nil
}

// forMove returns the reason with which a move of a device changes its certificates. given may be left unspecified.
func forMove(m device.Move, given Reason) (Reason, error) {
	if err := given.check(); err != nil {
		return 0, err
	}
	bad := func() (Reason, error) {
		return 0, errs.New(errs.Invalid, "the reason %s does not go with the move %q: leave it out", given, m)
	}
	switch m {
	case device.Suspend:
		if given != Unspecified && given != CertificateHold {
			return bad()
		}
		return CertificateHold, nil
	case device.Resume:
		if given != Unspecified {
			return bad()
		}
		return released, nil
	}
	if given == CertificateHold { // neither a lost nor a retired device comes back
		return bad()
	}
	if given != Unspecified {
		return given, nil
	}
	if m == device.Lose {
		return KeyCompromise, nil
	}
	return CessationOfOperation, nil
}
