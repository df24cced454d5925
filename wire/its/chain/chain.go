// Package chain judges whether a certificate of IEEE 1609.2 or TS 103 097 is to be believed: by signatures, validity, permissions, regions and revocation, from the
// certificate up to a root that is trusted (IEEE 1609.2, 5.1 and 5.2). The same rules hold for who issues and for who receives.
//
//	path, err := chain.Find(cert, known)                        // known: certificates of authorities, in any order
//	err = chain.Check(path, chain.Options{At: now, Trusted: …}) // nil, or a *Fault that says which certificate lacks what
//	err = chain.CheckMessage(signed, path, options)             // a message, and the chain of its signer
//
// Where the standard leaves a case open, or containment cannot be proved, the answer is no: a region of one kind within one of another kind is an example. What a
// profile demands of single certificates is checked by its.Certificate.CheckRole.
package chain

import (
	"errors"
	"fmt"
	"time"

	"mooring/wire/butterfly"
	"mooring/wire/coer"
	"mooring/wire/its"
)

// MaxLength is how many certificates a chain may have.
const MaxLength = 8

// State is what is known of the revocation of a certificate.
type State uint8

// The states.
const (
	Good State = iota
	Revoked
	Unknown // the list that would say so is missing, or has ended
)

// Options are what a chain is judged by.
type Options struct {
	At          its.Time64                                       // the moment for which it is judged
	Trusted     func(id its.HashedId8) bool                      // says which roots are trusted
	Revocation  func(x *its.Certificate, id its.HashedId8) State // nil: nothing is revoked
	UnknownGood bool                                             // certificates of which it is not known whether they are revoked pass

	// Of messages:
	Ahead  time.Duration                                          // how far after At one may have been made, since clocks differ; 0: DefaultAhead; less: not at all
	Within func(p its.TwoDLocation, of its.IdentifiedRegion) bool // says whether a place lies in a country or its parts, whose borders are not known here; nil: no place does
}

// DefaultAhead is how far the clock of who signs a message may be ahead, unless Options say something else.
const DefaultAhead = 5 * time.Second

// Fault says which certificate of a chain lacks what.
type Fault struct {
	Index  int // in the chain: 0 is the one that was to be judged
	Name   string
	Reason error
}

// Error implements error.
func (f *Fault) Error() string {
	return fmt.Sprintf("certificate %d of the chain, %s: %v", f.Index+1, f.Name, f.Reason)
}

// Unwrap gives the reason.
func (f *Fault) Unwrap() error { return f.Reason }

// Reasons that callers tell apart; others are texts only.
var (
	ErrUntrusted  = errors.New("the root is not trusted")
	ErrIncomplete = errors.New("the certificate of the issuer is not known")
	ErrTooLong    = errors.New("the chain is too long")
	ErrRevoked    = errors.New("it is revoked")
	ErrUnknown    = errors.New("it is not known whether it is revoked")
	ErrTime       = errors.New("it is not valid at that time")
	ErrPeriod     = errors.New("its validity is not within its issuer's")
	ErrRegion     = errors.New("its region is not within its issuer's, or that cannot be established")
	ErrPermission = errors.New("its issuer may not give it these permissions")
	ErrMalformed  = errors.New("it contradicts itself")
	ErrFuture     = errors.New("the message was made in the future")
	ErrPlace      = errors.New("the place where the message was made is not within the region of its signer, or that cannot be established")
)

// Find puts the chain of a certificate together, from certificates that are known, up to one that is self-signed.
func Find(x *its.Certificate, known []*its.Certificate) ([]*its.Certificate, error) {
	byID := map[its.HashedId8]*its.Certificate{}
	for _, k := range known {
		if id, err := k.HashedId8(); err == nil {
			byID[id] = k
		}
	}
	path := []*its.Certificate{x}
	for x.Issuer.Choice != its.IssuerSelf {
		issuer := byID[x.Issuer.Digest]
		switch {
		case issuer == nil:
			return path, &Fault{len(path) - 1, nameOf(x), fmt.Errorf("%w: %v", ErrIncomplete, x.Issuer.Digest)}
		case len(path) == MaxLength:
			return path, &Fault{0, nameOf(path[0]), ErrTooLong}
		}
		path = append(path, issuer)
		x = issuer
	}
	return path, nil
}

func nameOf(x *its.Certificate) string {
	if x.ToBeSigned.Id.Choice == its.IdName {
		return fmt.Sprintf("%q", x.ToBeSigned.Id.Name)
	}
	if id, err := x.HashedId8(); err == nil {
		return id.String()
	}
	return "without a name"
}

// Check judges a chain: each certificate is issued by the next, the last one by itself.
func Check(path []*its.Certificate, o Options) error {
	if len(path) == 0 || len(path) > MaxLength {
		return ErrTooLong
	}
	for i := len(path) - 1; i >= 0; i-- { // from the root, so that who is not to be believed is not asked
		if err := checkOne(path, i, o); err != nil {
			return &Fault{i, nameOf(path[i]), err}
		}
	}
	return nil
}

func checkOne(path []*its.Certificate, i int, o Options) error {
	x := path[i]
	if err := wellFormed(x); err != nil {
		return err
	}
	if err := checkRevocation(x, i == len(path)-1, o); err != nil {
		return err
	}
	if v := x.ToBeSigned.ValidityPeriod; !v.Contains(o.At) {
		const minute = "2006-01-02 15:04 UTC"
		return fmt.Errorf("%w: from %s to %s it is", ErrTime, v.Start.Time(its.LeapSeconds).UTC().Format(minute), v.End().Time(its.LeapSeconds).UTC().Format(minute))
	}
	if i == len(path)-1 {
		return x.Verify(nil)
	}
	if err := issued(x, path[i+1]); err != nil {
		return err
	}
	if !within(x.ToBeSigned.ValidityPeriod, path[i+1].ToBeSigned.ValidityPeriod) {
		return ErrPeriod
	}
	if err := checkRegion(path, i); err != nil {
		return err
	}
	return checkPermissions(&x.ToBeSigned, &path[i+1].ToBeSigned)
}

func checkRevocation(x *its.Certificate, root bool, o Options) error {
	id, err := x.HashedId8()
	if err != nil {
		return err
	}
	if root && (o.Trusted == nil || !o.Trusted(id)) {
		return ErrUntrusted
	}
	if o.Revocation == nil {
		return nil
	}
	switch o.Revocation(x, id) {
	case Good:
		return nil
	case Revoked:
		return ErrRevoked
	}
	if o.UnknownGood {
		return nil
	}
	return ErrUnknown
}

// issued says whether the issuer is the one that the certificate names. An implicit certificate proves no more than that: it is believed when its key
// is used.
func issued(x, issuer *its.Certificate) error {
	if x.Type == its.Explicit {
		return x.Verify(issuer)
	}
	_, err := Key(x, issuer)
	return err
}

// Key is the public key of a certificate: what it has, or what follows from it and the issuer's, if it is implicit. That works for issuers with
// keys of P-256.
func Key(x, issuer *its.Certificate) (*its.PublicVerificationKey, error) {
	if x.Type == its.Explicit {
		return &x.ToBeSigned.VerifyKeyIndicator.VerificationKey, nil
	}
	id, err := issuer.HashedId8()
	if err != nil {
		return nil, err
	}
	of := &issuer.ToBeSigned.VerifyKeyIndicator
	switch {
	case id != x.Issuer.Digest:
		return nil, its.ErrIssuer
	case issuer.Type != its.Explicit || of.VerificationKey.Choice != its.ECDSANistP256 || x.Issuer.Hash() != its.SHA256:
		return nil, its.ErrAlgorithm
	}
	q, err := point(&of.VerificationKey.Point)
	if err != nil {
		return nil, its.ErrKey
	}
	p, err := point(&x.ToBeSigned.VerifyKeyIndicator.ReconstructionValue)
	if err != nil {
		return nil, its.ErrKey
	}
	digest, err := x.Input(issuer)
	if err != nil {
		return nil, err
	}
	key, err := butterfly.ImplicitKey(butterfly.Digest(digest), p, q)
	if err != nil {
		return nil, its.ErrKey
	}
	return &its.PublicVerificationKey{Point: its.Compressed(key.Bytes())}, nil
}

func point(p *its.CurvePoint) (butterfly.Point, error) {
	b, err := p.SEC1()
	if err != nil {
		return butterfly.Point{}, err
	}
	return butterfly.NewPoint(b)
}

// within says whether a period lies in another one.
func within(a, b its.ValidityPeriod) bool {
	end := func(v its.ValidityPeriod) uint64 { return uint64(v.Start)*1e6 + v.Duration.Microseconds() }
	return a.Start >= b.Start && end(a) <= end(b)
}

// wellFormed checks what a certificate may not say, whoever issued it.
func wellFormed(x *its.Certificate) error {
	t := &x.ToBeSigned
	seen := map[its.Psid]bool{}
	for _, a := range t.AppPermissions {
		if seen[a.Psid] {
			return fmt.Errorf("%w: it has the application %d twice", ErrMalformed, a.Psid)
		}
		seen[a.Psid] = true
	}
	for _, groups := range [][]its.PsidGroupPermissions{t.CertIssuePermissions, t.CertRequestPermissions} {
		all := 0
		for _, g := range groups {
			if g.SubjectPermissions.Choice == its.SubjectsAll {
				all++
			}
			if g.ChainLengthRange < -1 || g.MinChainLength < 0 {
				return fmt.Errorf("%w: the length of a chain is negative", ErrMalformed)
			}
		}
		if all > 1 {
			return fmt.Errorf("%w: it has permissions for all applications twice", ErrMalformed)
		}
	}
	for _, g := range t.CertIssuePermissions {
		if g.MinChainLength == 0 {
			return fmt.Errorf("%w: permissions to issue have a chain of length 0", ErrMalformed)
		}
	}
	if r, ok := t.Region.Get(); ok && !sound(&r) {
		return fmt.Errorf("%w: its region is none", ErrMalformed)
	}
	return nil
}

// CheckMessage judges a signed message, given the chain of its signer.
func CheckMessage(d *its.SignedData, path []*its.Certificate, o Options) error {
	if err := Check(path, o); err != nil {
		return err
	}
	signer := path[0]
	h := &d.TbsData.HeaderInfo
	if !permits(signer, h.Psid) {
		return fmt.Errorf("the signer has not the application %d", h.Psid)
	}
	if err := checkTime(h, signer, o); err != nil {
		return err
	}
	if err := checkPlace(h, path, o); err != nil {
		return err
	}
	if err := namesSigner(d, signer); err != nil {
		return err
	}
	key := &signer.ToBeSigned.VerifyKeyIndicator.VerificationKey
	if signer.Type == its.Implicit {
		var err error
		if key, err = Key(signer, path[1]); err != nil {
			return err
		}
	}
	if d.HashId != key.Choice.Hash() {
		return its.ErrAlgorithm
	}
	digest, err := d.Input(signer)
	if err != nil {
		return err
	}
	return key.Verify(digest, &d.Signature)
}

// checkTime says whether a message was made while the signer's certificate is valid and not after the present, and has not expired (IEEE 1609.2, 5.2.3.3 and
// 5.2.4.2). How old one may be is for the application.
func checkTime(h *its.HeaderInfo, signer *its.Certificate, o Options) error {
	made, timed := h.GenerationTime.Get()
	if timed && !signer.ToBeSigned.ValidityPeriod.Contains(made) {
		return errors.New("the message was made when the signer's certificate was not valid")
	}
	ahead := o.Ahead
	if ahead == 0 {
		ahead = DefaultAhead
	}
	if timed && made > o.At && uint64(made-o.At) > uint64(max(0, ahead.Microseconds())) {
		return ErrFuture
	}
	if end, ok := h.ExpiryTime.Get(); ok && (timed && end <= made || end <= o.At) {
		return errors.New("the message has expired, or expires before it was made")
	}
	return nil
}

func permits(x *its.Certificate, p its.Psid) bool {
	for _, a := range x.ToBeSigned.AppPermissions {
		if a.Psid == p {
			return true
		}
	}
	return false
}

// namesSigner says whether the message names this certificate as its signer's.
func namesSigner(d *its.SignedData, x *its.Certificate) error {
	id, err := x.HashedId8()
	if err != nil {
		return err
	}
	named := d.Signer.Digest
	if d.Signer.Choice == its.SignerCertificate && len(d.Signer.Certificate) > 0 {
		if named, err = d.Signer.Certificate[0].HashedId8(); err != nil {
			return err
		}
	}
	if d.Signer.Choice == its.SignerSelf || named != id {
		return its.ErrIssuer
	}
	return nil
}

// Certificates finds the certificates in what a trust list or a message brings along: entries, successors, signers.
func Certificates(v coer.Value) []*its.Certificate {
	switch v := v.(type) {
	case *its.Certificate:
		return []*its.Certificate{v}
	case *its.Ieee1609Dot2Data:
		return inMessage(v)
	case *its.EtsiTs102941Data:
		return inList(v.Content.CertificateTrustList)
	}
	return nil
}

func inMessage(d *its.Ieee1609Dot2Data) (all []*its.Certificate) {
	s := d.Content.SignedData
	if s == nil {
		return nil
	}
	for i := range s.Signer.Certificate {
		all = append(all, &s.Signer.Certificate[i])
	}
	inner := s.TbsData.Payload.Data
	if inner == nil || inner.Content.Choice != its.UnsecuredData {
		return all
	}
	if m, err := its.ParseManagement(inner.Content.Opaque); err == nil {
		all = append(all, inList(m.Content.CertificateTrustList)...)
	}
	return all
}

func inList(l *its.CtlFormat) (all []*its.Certificate) {
	if l == nil {
		return nil
	}
	for i := range l.CtlCommands {
		switch e := &l.CtlCommands[i].Add; {
		case e.Rca != nil:
			all = append(all, &e.Rca.SelfsignedRootCa)
		case e.Tlm != nil:
			all = append(all, &e.Tlm.SelfSignedTLMCertificate)
		case e.Ea != nil:
			all = append(all, &e.Ea.EaCertificate)
		case e.Aa != nil:
			all = append(all, &e.Aa.AaCertificate)
		}
	}
	return all
}
