package its

import (
	"errors"
	"fmt"
)

// EtsiRole is what a certificate of TS 103 097 is for.
type EtsiRole uint8

// The roles (TS 103 097, clause 7.2; TS 102 941, annex B).
const (
	EtsiTLM EtsiRole = iota // trust list manager
	EtsiRCA                 // root
	EtsiEA                  // enrolment authority
	EtsiAA                  // authorization authority
	EtsiEC                  // enrolment credential
	EtsiAT                  // authorization ticket
	EtsiMA                  // misbehaviour authority
)

// String names the role.
func (r EtsiRole) String() string {
	if int(r) < len(etsiProfiles) {
		return etsiProfiles[r].name
	}
	return "no role"
}

// demand is whether something has to be there.
type demand uint8

const (
	may demand = iota
	must
	mustNot
)

// etsiProfile is what a role demands of its certificates.
type etsiProfile struct {
	name       string
	self       bool // signed by itself
	id         demand
	issue      demand
	encryption demand
	implicit   bool            // allowed
	app        map[Psid]string // exactly these permissions, by their bitmaps; nil if they do not follow from the role
}

// The permissions of each role are those of TS 102 941, table B.6.
var etsiProfiles = []etsiProfile{
	EtsiTLM: {name: "trust list manager", self: true, id: must, issue: mustNot, encryption: mustNot, app: map[Psid]string{PsidCTL: "\x01\xc8"}},
	EtsiRCA: {name: "root", self: true, id: must, issue: must, app: map[Psid]string{PsidCRL: "\x01", PsidCTL: "\x01\x38"}},
	EtsiEA:  {name: "enrolment authority", issue: must, encryption: must, app: map[Psid]string{PsidSCR: "\x01\x0e"}},
	EtsiAA:  {name: "authorization authority", issue: must, encryption: must, app: map[Psid]string{PsidSCR: "\x01\x32"}},
	EtsiEC:  {name: "enrolment credential", id: must, issue: mustNot, app: map[Psid]string{PsidSCR: "\x01\xc0"}},
	EtsiAT:  {name: "authorization ticket", id: mustNot, issue: mustNot, implicit: true},
	EtsiMA:  {name: "misbehaviour authority", id: must, issue: mustNot, encryption: must},
}

// CheckRole says what a certificate lacks to be one of that role (TS 103 097, clauses 6 and 7.2). misbehaviour is the application that the authority of that name
// reports to; 0 stands for any. Who issued it, and whether for the right region and time, is not looked at.
func (x *Certificate) CheckRole(r EtsiRole, misbehaviour Psid) error {
	if int(r) >= len(etsiProfiles) {
		return errors.New("there is no such role")
	}
	p := etsiProfiles[r]
	for _, check := range []func(etsiProfile) error{x.checkCommon, x.checkExtensions, x.checkIdentity, x.checkKeys, x.checkApplications} {
		if err := check(p); err != nil {
			return fmt.Errorf("as certificate of the role %s: %w", p.name, err)
		}
	}
	if r == EtsiMA && misbehaviour != 0 && !x.ToBeSigned.permits(misbehaviour) {
		return fmt.Errorf("as certificate of the role %s: it has not the application %d", p.name, misbehaviour)
	}
	return nil
}

// refusals returns the first reason whose condition holds.
func refusals(reasons ...reason) error {
	for _, r := range reasons {
		if r.holds {
			return errors.New(r.text)
		}
	}
	return nil
}

type reason struct {
	holds bool
	text  string
}

func (d demand) breaks(there bool) bool { return d == must && !there || d == mustNot && there }

// checkCommon checks what all certificates of TS 103 097 have in common (clause 6).
func (x *Certificate) checkCommon(p etsiProfile) error {
	t := &x.ToBeSigned
	return refusals(
		reason{x.Type == Implicit && !p.implicit, "it is implicit"},
		reason{x.Issuer.Hash() == SM3, "it is signed with SM2"},
		reason{t.CracaId != HashedId3{}, "cracaId is not 0"},
		reason{t.CrlSeries != 0, "crlSeries is not 0"},
		reason{t.CertRequestPermissions != nil, "it has certRequestPermissions"},
		reason{t.CanRequestRollover, "it has canRequestRollover"},
		reason{t.AppPermissions == nil && t.CertIssuePermissions == nil, "it has neither appPermissions nor certIssuePermissions"},
		reason{p.issue.breaks(t.CertIssuePermissions != nil), "certIssuePermissions are absent where they are needed, or present where they may not be"},
	)
}

// checkExtensions checks that each kind of extension has the kind that it stands on.
func (x *Certificate) checkExtensions(etsiProfile) error {
	t := &x.ToBeSigned
	for _, e := range t.AppExtensions {
		if e.Id != 1 {
			return fmt.Errorf("it has the extension %d, where only that of the operating organisation (1) may be", e.Id)
		}
	}
	return refusals(
		reason{t.CertIssueExtensions != nil && t.AppExtensions == nil, "it has certIssueExtensions without appExtensions"},
		reason{t.CertRequestExtension != nil && t.CertIssueExtensions == nil, "it has certRequestExtensions without certIssueExtensions"},
	)
}

func (x *Certificate) checkIdentity(p etsiProfile) error {
	id := x.ToBeSigned.Id.Choice
	return refusals(
		reason{id == IdLinkageData || id == IdBinary, "its id is neither a name nor none"},
		reason{p.id.breaks(id == IdName), "it has a name where none may be, or none where one is needed"},
		reason{(x.Issuer.Choice == IssuerSelf) != p.self, "it is signed by itself where another one should, or the other way round"},
	)
}

func (x *Certificate) checkKeys(p etsiProfile) error {
	t := &x.ToBeSigned
	k := &t.EncryptionKey.Value
	return refusals(
		reason{p.encryption.breaks(t.EncryptionKey.Present), "the encryptionKey is absent where it is needed, or present where it may not be"},
		reason{t.EncryptionKey.Present && (k.SupportedSymmAlg != AES128CCM || k.PublicKey.Choice > ECIESBrainpoolP256r1), "its encryptionKey is of another algorithm"},
		reason{x.Type == Explicit && t.VerifyKeyIndicator.VerificationKey.Choice == SM2, "its verification key is of SM2"},
	)
}

// checkApplications checks appPermissions: each application once, and those of the role.
func (x *Certificate) checkApplications(p etsiProfile) error {
	seen := map[Psid]bool{}
	for _, a := range x.ToBeSigned.AppPermissions {
		if seen[a.Psid] {
			return fmt.Errorf("it has the application %d twice", a.Psid)
		}
		seen[a.Psid] = true
		want, ok := p.app[a.Psid]
		switch {
		case p.app == nil && a.Psid >= PsidCRL && a.Psid <= PsidCTL:
			return fmt.Errorf("it has the application %d, which is for authorities", a.Psid)
		case p.app == nil:
		case !ok:
			return fmt.Errorf("it has the application %d", a.Psid)
		case a.Ssp.Value.Choice != SspBitmap || string(a.Ssp.Value.Value) != want:
			return fmt.Errorf("its permission within application %d is not the bitmap %x", a.Psid, want)
		}
	}
	if len(seen) < max(len(p.app), 1) {
		return errors.New("it lacks an application")
	}
	return nil
}

// permits says whether the certificate has the application.
func (t *ToBeSignedCertificate) permits(p Psid) bool {
	for _, a := range t.AppPermissions {
		if a.Psid == p {
			return true
		}
	}
	return false
}
