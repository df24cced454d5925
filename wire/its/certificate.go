package its

import (
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"slices"

	"mooring/wire/coer"
)

// CertificateType says how a certificate proves who issued it.
type CertificateType uint8

// The types.
const (
	Explicit CertificateType = iota // by a signature
	Implicit                        // by the key that is computed from it
)

var certificateTypes = coer.Enumeration{Names: []string{"explicit", "implicit"}}

// Code implements coer.Value.
func (t *CertificateType) Code(c *coer.Coder) { coer.Enum(c, t, &certificateTypes) }

// IssuerChoice is an alternative of IssuerIdentifier.
type IssuerChoice uint8

// The alternatives.
const (
	IssuerSHA256 IssuerChoice = iota
	IssuerSelf
	IssuerSHA384
	IssuerSM3
)

var issuerChoices = coer.Choices{Names: []string{"sha256AndDigest", "self", "sha384AndDigest", "sm3AndDigest"}, Root: 2}

// IssuerIdentifier says who issued a certificate.
type IssuerIdentifier struct {
	Choice IssuerChoice
	Digest HashedId8     // of the issuer's certificate
	Self   HashAlgorithm // if it is self-signed
}

// Code implements coer.Value.
func (i *IssuerIdentifier) Code(c *coer.Coder) {
	if coer.Choice(c, &i.Choice, &issuerChoices) == IssuerSelf {
		i.Self.Code(c)
	} else {
		i.Digest.Code(c)
	}
	c.EndChoice()
}

// Hash is the algorithm that the certificate is signed with.
func (i *IssuerIdentifier) Hash() HashAlgorithm {
	switch i.Choice {
	case IssuerSelf:
		return i.Self
	case IssuerSHA384:
		return SHA384
	case IssuerSM3:
		return SM3
	}
	return SHA256
}

// Certificate is an explicit or implicit certificate of IEEE 1609.2 (CertificateBase), of version 3.
type Certificate struct {
	Type       CertificateType
	Issuer     IssuerIdentifier
	ToBeSigned ToBeSignedCertificate
	Signature  coer.Optional[Signature]
	Octets     []byte // as they were read
}

// ParseCertificate reads a certificate. It takes one allocation if there is no more in it than in a usual ticket: four permissions and one country.
func ParseCertificate(b []byte) (*Certificate, error) {
	x := new(struct {
		Certificate
		permissions [4]PsidSsp
		countries   [1]IdentifiedRegion
	})
	x.ToBeSigned.AppPermissions = x.permissions[:0]
	x.ToBeSigned.Region.Value.Identified = x.countries[:0]
	var c coer.Coder
	c.Open(b)
	x.Code(&c)
	return &x.Certificate, c.Close()
}

// Code implements coer.Value.
func (x *Certificate) Code(c *coer.Coder) {
	from := c.Offset()
	s := c.Sequence(x.Signature.Present)
	coer.Exactly(c.At("version"), 3)
	x.Type.Code(c.At("type"))
	x.Issuer.Code(c.At("issuer"))
	x.ToBeSigned.Code(c.At("toBeSigned"))
	if s.Optional() {
		x.Signature.Make().Code(c.At("signature"))
	}
	key := x.ToBeSigned.VerifyKeyIndicator.Choice
	c.Refuse(x.Type == Explicit && (!x.Signature.Present || key != VerificationKey), "an explicit certificate has a verification key and a signature")
	c.Refuse(x.Type == Implicit && (x.Signature.Present || key != ReconstructionValue), "an implicit certificate has a reconstruction value and no signature")
	s.End()
	c.Keep(&x.Octets, from)
}

// ToBeSignedCertificate is what a certificate says.
type ToBeSignedCertificate struct {
	Id                     CertificateId
	CracaId                HashedId3
	CrlSeries              uint16
	ValidityPeriod         ValidityPeriod
	Region                 coer.Optional[GeographicRegion]
	AssuranceLevel         coer.Optional[SubjectAssurance]
	AppPermissions         []PsidSsp
	CertIssuePermissions   []PsidGroupPermissions
	CertRequestPermissions []PsidGroupPermissions
	CanRequestRollover     bool
	EncryptionKey          coer.Optional[PublicEncryptionKey]
	VerifyKeyIndicator     VerificationKeyIndicator
	Flags                  coer.Optional[CertificateFlags]
	AppExtensions          []AppExtension
	CertIssueExtensions    []CertIssueExtension
	CertRequestExtension   []CertRequestExtension
	Additions              coer.Additions
	Octets                 []byte // as they were read
}

// Code implements coer.Value.
func (t *ToBeSignedCertificate) Code(c *coer.Coder) {
	from := c.Offset()
	s := c.Extensible(&t.Additions, t.Region.Present, t.AssuranceLevel.Present, t.AppPermissions != nil, t.CertIssuePermissions != nil,
		t.CertRequestPermissions != nil, t.CanRequestRollover, t.EncryptionKey.Present)
	t.Id.Code(c.At("id"))
	t.CracaId.Code(c.At("cracaId"))
	coer.Uint16(c.At("crlSeries"), &t.CrlSeries)
	t.ValidityPeriod.Code(c.At("validityPeriod"))
	if s.Optional() {
		t.Region.Make().Code(c.At("region"))
	}
	if s.Optional() {
		t.AssuranceLevel.Make().Code(c.At("assuranceLevel"))
	}
	if s.Optional() {
		for e := range coer.All(c.At("appPermissions"), &t.AppPermissions) {
			e.Code(c)
		}
	} else if c.Reading() {
		t.AppPermissions = nil // it may have had room
	}
	if s.Optional() {
		for e := range coer.All(c.At("certIssuePermissions"), &t.CertIssuePermissions) {
			e.Code(c)
		}
	}
	if s.Optional() {
		for e := range coer.All(c.At("certRequestPermissions"), &t.CertRequestPermissions) {
			e.Code(c)
		}
	}
	if s.Optional() {
		present(c.At("canRequestRollover"), &t.CanRequestRollover)
	}
	if s.Optional() {
		t.EncryptionKey.Make().Code(c.At("encryptionKey"))
	}
	t.VerifyKeyIndicator.Code(c.At("verifyKeyIndicator"))
	t.codeAdditions(c, &s)
	c.Refuse(t.AppPermissions == nil && t.CertIssuePermissions == nil && t.CertRequestPermissions == nil, "a certificate has permissions of at least one kind")
	s.End()
	c.Keep(&t.Octets, from)
}

func (t *ToBeSignedCertificate) codeAdditions(c *coer.Coder, s *coer.Sequence) {
	s.Additions(t.Flags.Present, t.AppExtensions != nil, t.CertIssueExtensions != nil, t.CertRequestExtension != nil)
	if s.Addition() {
		coer.Bits(c.At("flags"), t.Flags.Make(), certificateFlags)
	}
	if s.Addition() {
		for e := range coer.All(c.At("appExtensions"), &t.AppExtensions) {
			e.Code(c)
		}
		c.Refuse(len(t.AppExtensions) == 0, noElements)
	}
	if s.Addition() {
		for e := range coer.All(c.At("certIssueExtensions"), &t.CertIssueExtensions) {
			e.Code(c)
		}
		c.Refuse(len(t.CertIssueExtensions) == 0, noElements)
	}
	if s.Addition() {
		for e := range coer.All(c.At("certRequestExtension"), &t.CertRequestExtension) {
			e.Code(c)
		}
		c.Refuse(len(t.CertRequestExtension) == 0, noElements)
	}
}

const noElements = "a list of this kind has at least one element"

// present codes a NULL whose presence is what it says.
func present(c *coer.Coder, v *bool) {
	coer.Null(c)
	if c.Reading() {
		*v = true
	}
}

// SubjectAssurance is how well a station protects its keys: a level in the three highest bits, the confidence in it in the two lowest.
type SubjectAssurance uint8

// Code implements coer.Value.
func (a *SubjectAssurance) Code(c *coer.Coder) {
	octet := [1]byte{byte(*a)}
	coer.Octets(c, octet[:])
	if c.Reading() {
		*a = SubjectAssurance(octet[0])
	}
}

// CertificateFlags are flags of a certificate.
type CertificateFlags uint8

// UsesCubk says that an authority answers compact unified butterfly requests.
const UsesCubk CertificateFlags = 0x80

var certificateFlags = coer.Flags{"usesCubk"}

// CertificateIdChoice is an alternative of CertificateId.
type CertificateIdChoice uint8

// The alternatives.
const (
	IdLinkageData CertificateIdChoice = iota
	IdName
	IdBinary
	IdNone
)

var certificateIdChoices = coer.Choices{Names: []string{"linkageData", "name", "binaryId", "none"}}

// CertificateId is how the holder of a certificate is called, if at all.
type CertificateId struct {
	Choice      CertificateIdChoice
	LinkageData LinkageData
	Name        string
	BinaryId    []byte
}

// Name is an id that is a name.
func Name(s string) CertificateId { return CertificateId{Choice: IdName, Name: s} }

// Code implements coer.Value.
func (i *CertificateId) Code(c *coer.Coder) {
	switch coer.Choice(c, &i.Choice, &certificateIdChoices) {
	case IdLinkageData:
		i.LinkageData.Code(c)
	case IdName:
		coer.UTF8String(c, &i.Name, 255)
	case IdBinary:
		coer.SizedString(c, &i.BinaryId, 1, 64)
	case IdNone:
		coer.Null(c)
	}
	c.EndChoice()
}

// LinkageValue is by what the pseudonyms of a station are found once it was revoked, LinkageSeed what they are computed from, and LaId whose seeds these are.
type (
	LinkageValue [9]byte
	LinkageSeed  [16]byte
	LaId         [2]byte
)

// Code implements coer.Value.
func (s *LinkageSeed) Code(c *coer.Coder) { coer.Octets(c, s[:]) }

// LinkageData is the id of a pseudonym.
type LinkageData struct {
	ICert             uint16 // the period it is of
	LinkageValue      LinkageValue
	GroupLinkageValue coer.Optional[GroupLinkageValue]
}

// Code implements coer.Value.
func (l *LinkageData) Code(c *coer.Coder) {
	s := c.Sequence(l.GroupLinkageValue.Present)
	coer.Uint16(c.At("iCert"), &l.ICert)
	coer.Octets(c.At("linkage-value"), l.LinkageValue[:])
	if s.Optional() {
		l.GroupLinkageValue.Make().Code(c.At("group-linkage-value"))
	}
	s.End()
}

// GroupLinkageValue is by what the pseudonyms of a group of stations are found.
type GroupLinkageValue struct {
	JValue [4]byte
	Value  LinkageValue
}

// Code implements coer.Value.
func (g *GroupLinkageValue) Code(c *coer.Coder) {
	s := c.Sequence()
	coer.Octets(c.At("jValue"), g.JValue[:])
	coer.Octets(c.At("value"), g.Value[:])
	s.End()
}

// KeyIndicatorChoice is an alternative of VerificationKeyIndicator.
type KeyIndicatorChoice uint8

// The alternatives.
const (
	VerificationKey KeyIndicatorChoice = iota
	ReconstructionValue
)

var keyIndicatorChoices = coer.Choices{Names: []string{"verificationKey", "reconstructionValue"}}

// VerificationKeyIndicator is the key of a certificate, or what it is computed from.
type VerificationKeyIndicator struct {
	Choice              KeyIndicatorChoice
	VerificationKey     PublicVerificationKey
	ReconstructionValue CurvePoint
}

// Code implements coer.Value.
func (v *VerificationKeyIndicator) Code(c *coer.Coder) {
	if coer.Choice(c, &v.Choice, &keyIndicatorChoices) == ReconstructionValue {
		v.ReconstructionValue.codeKey(c, 32)
	} else {
		v.VerificationKey.Code(c)
	}
	c.EndChoice()
}

// AppExtension is an extension of a certificate. Id 1 is the OperatingOrganizationId, whose content is an OBJECT IDENTIFIER.
type AppExtension struct {
	Id      uint8
	Content []byte
}

// Code implements coer.Value.
func (e *AppExtension) Code(c *coer.Coder) {
	s := c.Sequence()
	coer.Uint8(c.At("id"), &e.Id)
	coer.OctetString(c.At("content"), &e.Content)
	s.End()
}

// ExtensionChoice is an alternative of what may be issued or requested.
type ExtensionChoice uint8

// The alternatives.
const (
	ExtensionSpecific ExtensionChoice = iota
	ExtensionAll
)

var (
	issueExtensionChoices   = coer.Choices{Names: []string{"specific", "all"}}
	requestExtensionChoices = coer.Choices{Names: []string{"content", "all"}}
)

// CertIssueExtension is which extensions may be issued to others.
type CertIssueExtension struct {
	Id       uint8
	Choice   ExtensionChoice
	Specific []byte
}

// Code implements coer.Value.
func (e *CertIssueExtension) Code(c *coer.Coder) {
	codeExtension(c, &e.Id, &e.Choice, &e.Specific, &issueExtensionChoices)
}

// CertRequestExtension is which extensions may be requested.
type CertRequestExtension struct {
	Id      uint8
	Choice  ExtensionChoice
	Content []byte
}

// Code implements coer.Value.
func (e *CertRequestExtension) Code(c *coer.Coder) {
	codeExtension(c, &e.Id, &e.Choice, &e.Content, &requestExtensionChoices)
}

func codeExtension(c *coer.Coder, id *uint8, which *ExtensionChoice, content *[]byte, choices *coer.Choices) {
	s := c.Sequence()
	coer.Uint8(c.At("id"), id)
	if coer.Choice(c.At("permissions"), which, choices) == ExtensionAll {
		coer.Null(c)
	} else {
		coer.OctetString(c, content)
	}
	c.EndChoice()
	s.End()
}

// Sum is the digest of b by the algorithm, of 32 or 48 octets; nil for SM3, which is not computed here.
func (h HashAlgorithm) Sum(b []byte) []byte {
	switch h {
	case SHA256:
		sum := sha256.Sum256(b)
		return sum[:]
	case SHA384:
		sum := sha512.Sum384(b)
		return sum[:]
	}
	return nil
}

// Digest is the digest of the whole certificate in its canonical form, by the algorithm that goes with its own key; that of an implicit certificate goes with
// its issuer's (IEEE 1609.2, 6.4.3).
func (x *Certificate) Digest() ([]byte, error) {
	b, err := coer.Normal(x)
	if err != nil {
		return nil, err
	}
	h := x.ToBeSigned.VerifyKeyIndicator.VerificationKey.Choice.Hash()
	if x.Type == Implicit {
		h = x.Issuer.Hash()
	}
	return h.digest(b)
}

// ErrHash is that a digest by SM3 is asked for, which is not computed here.
var ErrHash = errors.New("SM3 is not supported")

func (h HashAlgorithm) digest(parts ...[]byte) ([]byte, error) {
	sum := h.Sum(slices.Concat(parts...))
	if sum == nil {
		return nil, ErrHash
	}
	return sum, nil
}

// HashedId8 is the last octets of the digest, by which others refer to the certificate.
func (x *Certificate) HashedId8() (id HashedId8, err error) {
	sum, err := x.Digest()
	if err != nil {
		return id, err
	}
	return HashedId8(sum[len(sum)-len(id):]), nil
}

// Input is what the signature of a certificate is computed over, already digested: Hash(Hash(ToBeSigned) || Hash(issuer)), where issuer is the certificate
// of the issuer, or nothing if it is self-signed (IEEE 1609.2, 5.3.1).
func (x *Certificate) Input(issuer *Certificate) ([]byte, error) {
	b, err := coer.Normal(&x.ToBeSigned)
	if err != nil {
		return nil, err
	}
	return x.Issuer.Hash().input(b, issuer)
}

// input is Hash(Hash(signed) || Hash(signer's certificate, or nothing)).
func (h HashAlgorithm) input(signed []byte, signer *Certificate) ([]byte, error) {
	var of []byte
	if signer != nil {
		var err error
		if of, err = coer.Normal(signer); err != nil {
			return nil, err
		}
	}
	return h.digest(h.Sum(signed), h.Sum(of))
}
