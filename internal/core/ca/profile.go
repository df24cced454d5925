package ca

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path"
	"slices"
	"strings"

	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/key"
	"mooring/wire/der"
)

// Evidence is a way to prove that one may have a certificate of a profile.
type Evidence string

// The kinds of evidence.
const (
	EvidenceToken       Evidence = "token"       // a one-time token that an operator made
	EvidenceBirth       Evidence = "birth"       // the registered certificate the device was born with
	EvidenceOperational Evidence = "operational" // a valid certificate of ours in the profile's slot, or an operator's
	EvidenceAccount     Evidence = "account"     // an ACME account that is bound to the device by its token
	EvidenceDomain      Evidence = "domain"      // control of the names, by whoever has an ACME account
	EvidenceAttested    Evidence = "attested"    // a statement of the device's hardware about its key
	EvidenceRA          Evidence = "ra"          // the word of a registration authority that holds a certificate of ours with cmcRA
)

// Profile says what certificates of a kind look like and on which terms they are given. It is immutable; an edit of its file is a new
// version. All times are seconds.
type Profile struct {
	Name        string
	Description string
	Version     string // hex of the first 8 octets of SHA-256 over Source
	Source      string // the file with Unix line ends

	Issuer string // name of the CA that issues, or the first of Turns
	Turns  []Turn // when several CAs issue, one after the other; else empty. See IssuerAt
	Slot   string // the place of the certificate in the device's life, such as "operational" or "birth"

	Keys         []der.KeyKind // kinds of public keys that are accepted
	Validity     int64         // notAfter - notBefore + 1; 0 when Forever
	Forever      bool          // ends 99991231235959Z
	Backdate     int64         // how far before the present a certificate begins
	RenewBefore  int64         // how long before its end a certificate is to be renewed, in the middle; 0 when Forever
	RenewSpread  int64         // by how much more or less devices do, each at its own instant
	ReuseKey     bool          // a renewal may keep its key
	Evidence     []Evidence
	Approval     bool          // an operator must approve each issue but renewals
	Binding      bool          // a channel binding in the challengePassword is checked
	Linking      bool          // … and must be there (RFC 7030, section 3.5)
	ServerKeygen key.Algorithm // kind of key that the platform makes on request; "" for none
	Unwrapped    bool          // EST answers in one line of base64
	Grants       access.Role   // the role that holders of the certificate have
	Principal    string        // what its holders are to the policy of messages: "device", "gateway" or "service"
	CRL, OCSP    bool          // certificates point to the CRL and the OCSP responder
	NoRevAvail   bool          // … or say that nobody will tell about their revocation (RFC 9608)
	Attested     bool          // the device's name that its hardware attested stands among the alternative names
	TrustAccount bool          // an ACME account that is bound to the device orders the device's names without a challenge
	Record       Record        // what is kept of each certificate
	Retention    int64         // how long after its end a certificate is kept, or KeepForever; only with Full
	Rescue       *Rescue       // nil: who let its certificate expire enrols again
	SCEP         *SCEP         // nil: it is not served by SCEP
	AlsoFor      []string      // profiles whose devices may have a certificate of this one, too

	KeyUsage       der.KeyUsage
	ExtKeyUsage    []der.OID
	Extensions     []der.Extension // constant extras
	LintExceptions []string        // names of lints that this profile is known to break

	alsoForLine   int // of the file
	scepLine      int
	subject       []subjectPart
	ignoreSubject bool // the subject in a request is not looked at
	dns, ip       nameRule
	uri, email    nameRule
}

type subjectPart struct {
	attribute der.OID
	value     text
}

// nameRule says which alternative names of one kind a certificate has.
type nameRule struct {
	fixed    []text
	registry bool     // all registered names of the device
	request  []string // patterns of names that the request may choose; prefixes for IP addresses
	prefixes []netip.Prefix
	max      int  // how many names the request may choose
	require  bool // at least one name of the kind must result
	wildcard bool // DNS only: chosen names may begin with "*."
}

// Accepts reports whether e is one of the profile's kinds of evidence.
func (p *Profile) Accepts(e Evidence) bool { return slices.Contains(p.Evidence, e) }

// Profiles are the profiles of an installation, by name. They are immutable.
type Profiles struct{ byName map[string]*Profile }

// Get returns a profile, or an error of kind NotFound.
func (ps *Profiles) Get(name string) (*Profile, error) {
	if p := ps.byName[name]; p != nil {
		return p, nil
	}
	return nil, errs.New(errs.NotFound, "there is no profile %q", name)
}

// All returns the profiles in the order of their names.
func (ps *Profiles) All() []*Profile {
	all := make([]*Profile, 0, len(ps.byName))
	for _, p := range ps.byName {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b *Profile) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// A profile file larger than this was not written by a person.
const maxProfile = 64 << 10

// LoadProfiles reads every *.yaml file at the root of fsys, one profile a file, and checks each: strict syntax, the rules of this package,
// and, unless it is a default profile as it came, a sample certificate that must satisfy zlint's RFC lints and equal what crypto/x509 makes of
// the same fields. The error, of kind Invalid, lists everything that is wrong, one complaint a line in the form "profiles/device.yaml:12: …".
func LoadProfiles(fsys fs.FS) (*Profiles, error) {
	names, err := fs.Glob(fsys, "*.yaml")
	if err != nil {
		return nil, fmt.Errorf("listing the profiles: %w", err)
	}
	if len(names) == 0 {
		return nil, errs.New(errs.Invalid, "there are no profiles (*.yaml)")
	}
	ps := &Profiles{byName: map[string]*Profile{}}
	var wrong []error
	var read []reading
	for _, name := range names {
		r, err := readProfile(fsys, name)
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		read = append(read, r)
	}
	lintAll(foreign(read))
	for _, r := range read {
		if err := r.document.err(); err != nil {
			wrong = append(wrong, err)
			continue
		}
		ps.byName[r.profile.Name] = r.profile
	}
	if len(wrong) == 0 {
		wrong = ps.checkReferences()
	}
	if err := errors.Join(wrong...); err != nil {
		return nil, errs.New(errs.Invalid, "%s", err)
	}
	return ps, nil
}

// LoadProfile reads and checks the profile in one file at the root of fsys, as LoadProfiles does, but for what it says about other profiles, and makes
// the sample certificate always.
func LoadProfile(fsys fs.FS, name string) (*Profile, error) {
	r, err := readProfile(fsys, name)
	if err == nil {
		lintAll([]reading{r})
		err = r.document.err()
	}
	if err != nil {
		return nil, errs.New(errs.Invalid, "%s", err)
	}
	return r.profile, nil
}

// checkReferences finds what profiles say about others.
func (ps *Profiles) checkReferences() (wrong []error) {
	for _, p := range ps.All() {
		if err := ps.checkSCEPReference(p); err != nil {
			wrong = append(wrong, err)
		}
		for _, name := range p.AlsoFor {
			if other := ps.byName[name]; other == nil {
				wrong = append(wrong, fmt.Errorf("profiles/%s.yaml:%d: also_for: there is no profile %q", p.Name, p.alsoForLine, name))
			} else if other.Slot == p.Slot && p.Record != Ephemeral {
				wrong = append(wrong, fmt.Errorf("profiles/%s.yaml:%d: also_for: certificates of %q have the same slot %s, and one would replace the other: use another slot", p.Name, p.alsoForLine, name, p.Slot))
			}
		}
	}
	return wrong
}

// reading is a profile that was read and not yet linted, with what is to be said of its file.
type reading struct {
	profile  *Profile
	document *document
}

func readProfile(fsys fs.FS, name string) (reading, error) {
	file := path.Join("profiles", name)
	data, err := fs.ReadFile(fsys, name)
	if err != nil {
		return reading{}, fmt.Errorf("reading %s: %w", file, err)
	}
	if len(data) > maxProfile {
		return reading{}, fmt.Errorf("%s:1: the file is larger than %d octets", file, maxProfile)
	}
	p, d := parseProfile(file, data)
	return reading{p, d}, nil
}

// versionOf names the contents of a profile's file.
func versionOf(source string) string {
	sum := sha256.Sum256([]byte(source))
	return hex.EncodeToString(sum[:8])
}
