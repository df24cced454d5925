package its

import "mooring/wire/coer"

// Ieee1609Dot2Data is a message: something unsecured, signed or encrypted. Its version is 3.
type Ieee1609Dot2Data struct {
	Content Ieee1609Dot2Content
	Octets  []byte // as they were read
}

// ParseData reads a message of at most limit octets.
func ParseData(b []byte, limit int) (*Ieee1609Dot2Data, error) {
	if len(b) > limit {
		return nil, &coer.Error{Kind: coer.Excessive, Offset: limit, Text: "the message is longer than is taken"}
	}
	d := new(Ieee1609Dot2Data)
	return d, coer.Unmarshal(b, d)
}

// Code implements coer.Value.
func (d *Ieee1609Dot2Data) Code(c *coer.Coder) {
	from := c.Offset()
	s := c.Sequence()
	coer.Exactly(c.At("protocolVersion"), 3)
	d.Content.Code(c.At("content"))
	s.End()
	c.Keep(&d.Octets, from)
}

// Digest is the SHA-256 of the canonical form, by which those are named whose key the message contains.
func (d *Ieee1609Dot2Data) Digest() ([]byte, error) {
	b, err := coer.Normal(d)
	if err != nil {
		return nil, err
	}
	return SHA256.Sum(b), nil
}

// ContentChoice is an alternative of Ieee1609Dot2Content.
type ContentChoice uint8

// The alternatives.
const (
	UnsecuredData ContentChoice = iota
	ContentSigned
	ContentEncrypted
	ContentCertificateRequest     // Opaque has a SignedCertificateRequest
	ContentX509CertificateRequest // Opaque has a SignedX509CertificateRequest
)

var contentChoices = coer.Choices{Root: 4, Extensible: true,
	Names: []string{"unsecuredData", "signedData", "encryptedData", "signedCertificateRequest", "signedX509CertificateRequest"}}

// Ieee1609Dot2Content is what a message contains.
type Ieee1609Dot2Content struct {
	Choice        ContentChoice
	Opaque        []byte // of what is neither signed nor encrypted
	SignedData    *SignedData
	EncryptedData *EncryptedData
	Other         []byte
}

// Unsecured is a message that is not secured, or the payload of one that is.
func Unsecured(opaque []byte) *Ieee1609Dot2Data {
	return &Ieee1609Dot2Data{Content: Ieee1609Dot2Content{Opaque: opaque}}
}

// Code implements coer.Value.
func (d *Ieee1609Dot2Content) Code(c *coer.Coder) {
	switch coer.Choice(c, &d.Choice, &contentChoices) {
	case UnsecuredData, ContentCertificateRequest, ContentX509CertificateRequest:
		coer.OctetString(c, &d.Opaque)
		if c.Showing() {
			d.showInside(c)
		}
	case ContentSigned:
		needed(c, &d.SignedData).Code(c)
	case ContentEncrypted:
		needed(c, &d.EncryptedData).Code(c)
	default:
		c.Other(&d.Other)
	}
	c.EndChoice()
}

// showInside shows what lies in the octets, if it is one of our structures.
func (d *Ieee1609Dot2Content) showInside(c *coer.Coder) {
	var candidates []coer.Value
	switch d.Choice {
	case ContentCertificateRequest:
		candidates = []coer.Value{new(SignedCertificateRequest)}
	case ContentX509CertificateRequest:
		candidates = []coer.Value{new(SignedX509CertificateRequest)}
	default:
		candidates = []coer.Value{new(EtsiTs102941Data), new(ScmsPdu), new(CrlContents), new(InnerEcRequest), new(Ieee1609Dot2Data)}
	}
	for _, v := range candidates {
		if coer.Unmarshal(d.Opaque, v) == nil {
			c.Inside(v)
			return
		}
	}
}

// needed is what p refers to; it is made when a value is read, and stands for nothing that can be written if it is missing.
func needed[T any](c *coer.Coder, p **T) *T {
	if *p != nil {
		return *p
	}
	c.Refuse(!c.Reading(), "the alternative that is chosen is missing")
	v := new(T)
	if c.Reading() {
		*p = v
	}
	return v
}

// SignedData is a signed message.
type SignedData struct {
	HashId    HashAlgorithm
	TbsData   ToBeSignedData
	Signer    SignerIdentifier
	Signature Signature
}

// Code implements coer.Value.
func (d *SignedData) Code(c *coer.Coder) {
	s := c.Sequence()
	d.HashId.Code(c.At("hashId"))
	d.TbsData.Code(c.At("tbsData"))
	was := c.SetNormal(false) // who signed stays as it is written (IEEE 1609.2, 6.3.4)
	d.Signer.Code(c.At("signer"))
	c.SetNormal(was)
	d.Signature.Code(c.At("signature"))
	s.End()
}

// Input is what the signature is computed over, already digested: Hash(Hash(TbsData) || Hash(signer)), where signer is the certificate of the signer, or nil
// if it is self (IEEE 1609.2, 5.3.1).
func (d *SignedData) Input(signer *Certificate) ([]byte, error) {
	b, err := coer.Normal(&d.TbsData)
	if err != nil {
		return nil, err
	}
	return d.HashId.input(b, signer)
}

// ToBeSignedData is what is signed.
type ToBeSignedData struct {
	Payload    SignedDataPayload
	HeaderInfo HeaderInfo
	Octets     []byte // as they were read
}

// Code implements coer.Value.
func (t *ToBeSignedData) Code(c *coer.Coder) {
	from := c.Offset()
	s := c.Sequence()
	t.Payload.Code(c.At("payload"))
	t.HeaderInfo.Code(c.At("headerInfo"))
	s.End()
	c.Keep(&t.Octets, from)
}

// Omission says whether a payload was left out, and how that is written: the standard has no octets for a NULL, some encoders have one of zero.
type Omission uint8

// The forms.
const (
	NotOmitted Omission = iota
	Omitted
	OmittedAsOctet // read, and written again as it was
)

// SignedDataPayload is the message that is signed, or its digest if it is elsewhere. At least one component is present.
type SignedDataPayload struct {
	Data        *Ieee1609Dot2Data
	ExtDataHash coer.Optional[HashedData]
	Omitted     Omission
	Additions   coer.Additions
}

// Code implements coer.Value.
func (p *SignedDataPayload) Code(c *coer.Coder) {
	s := c.Extensible(&p.Additions, p.Data != nil, p.ExtDataHash.Present)
	if s.Optional() {
		needed(c, &p.Data).Code(c.At("data"))
	}
	if s.Optional() {
		p.ExtDataHash.Make().Code(c.At("extDataHash"))
	}
	s.Additions(p.Omitted != NotOmitted)
	if s.Addition() {
		p.codeOmitted(c.At("omitted"))
	}
	c.Refuse(p.Data == nil && !p.ExtDataHash.Present && p.Omitted == NotOmitted, "a payload has at least one component")
	s.End()
}

func (p *SignedDataPayload) codeOmitted(c *coer.Coder) {
	var rest []byte
	switch {
	case c.Reading():
		p.Omitted = Omitted
		if c.Other(&rest); len(rest) > 0 {
			p.Omitted = OmittedAsOctet
			c.Refuse(len(rest) > 1 || rest[0] != 0, "a NULL has no octets")
		}
	case p.Omitted == OmittedAsOctet && !c.Showing():
		rest = []byte{0}
		c.Other(&rest)
	default:
		coer.Null(c)
	}
}

// HeaderInfo is what a signed message says of itself.
type HeaderInfo struct {
	Psid                  Psid
	GenerationTime        coer.Optional[Time64]
	ExpiryTime            coer.Optional[Time64]
	GenerationLocation    coer.Optional[ThreeDLocation]
	P2pcdLearningRequest  coer.Optional[HashedId3]
	MissingCrlIdentifier  coer.Optional[MissingCrlIdentifier]
	EncryptionKey         coer.Optional[EncryptionKey]
	InlineP2pcdRequest    []HashedId3
	RequestedCertificate  *Certificate
	PduFunctionalType     coer.Optional[uint8]
	ContributedExtensions []ContributedExtensionBlock
	Additions             coer.Additions
}

// Code implements coer.Value.
func (h *HeaderInfo) Code(c *coer.Coder) {
	s := c.Extensible(&h.Additions, h.GenerationTime.Present, h.ExpiryTime.Present, h.GenerationLocation.Present, h.P2pcdLearningRequest.Present,
		h.MissingCrlIdentifier.Present, h.EncryptionKey.Present)
	h.Psid.Code(c.At("psid"))
	if s.Optional() {
		h.GenerationTime.Make().Code(c.At("generationTime"))
	}
	if s.Optional() {
		h.ExpiryTime.Make().Code(c.At("expiryTime"))
	}
	if s.Optional() {
		h.GenerationLocation.Make().Code(c.At("generationLocation"))
	}
	if s.Optional() {
		h.P2pcdLearningRequest.Make().Code(c.At("p2pcdLearningRequest"))
	}
	if s.Optional() {
		h.MissingCrlIdentifier.Make().Code(c.At("missingCrlIdentifier"))
	}
	if s.Optional() {
		h.EncryptionKey.Make().Code(c.At("encryptionKey"))
	}
	was := c.SetNormal(false) // the canonical form does not reach behind the extension marker
	h.codeAdditions(c, &s)
	s.End()
	c.SetNormal(was)
}

func (h *HeaderInfo) codeAdditions(c *coer.Coder, s *coer.Sequence) {
	s.Additions(h.InlineP2pcdRequest != nil, h.RequestedCertificate != nil, h.PduFunctionalType.Present, h.ContributedExtensions != nil)
	if s.Addition() {
		list(c.At("inlineP2pcdRequest"), &h.InlineP2pcdRequest)
	}
	if s.Addition() {
		needed(c, &h.RequestedCertificate).Code(c.At("requestedCertificate"))
	}
	if s.Addition() {
		coer.Uint8(c.At("pduFunctionalType"), h.PduFunctionalType.Make())
	}
	if s.Addition() {
		list(c.At("contributedExtensions"), &h.ContributedExtensions)
		c.Refuse(len(h.ContributedExtensions) == 0, noElements)
	}
}

// MissingCrlIdentifier names a revocation list that the sender lacks.
type MissingCrlIdentifier struct {
	CracaId   HashedId3
	CrlSeries uint16
	Additions coer.Additions
}

// Code implements coer.Value.
func (m *MissingCrlIdentifier) Code(c *coer.Coder) {
	s := c.Extensible(&m.Additions)
	m.CracaId.Code(c.At("cracaId"))
	coer.Uint16(c.At("crlSeries"), &m.CrlSeries)
	s.Additions()
	s.End()
}

// Who contributes extensions of the header.
const (
	ContributorIEEE = 1
	ContributorETSI = 2
)

// ContributedExtensionBlock is extensions of the header that another body than the standard's own defined; each is an Extension if it is from IEEE or ETSI.
type ContributedExtensionBlock struct {
	ContributorId uint8
	Extns         [][]byte
}

// Code implements coer.Value.
func (b *ContributedExtensionBlock) Code(c *coer.Coder) {
	s := c.Sequence()
	coer.Uint8(c.At("contributorId"), &b.ContributorId)
	octets(c.At("extns"), &b.Extns)
	c.Refuse(len(b.Extns) == 0, noElements)
	s.End()
}

// Extension is a contributed extension.
type Extension struct {
	Id      uint8
	Content []byte
}

// Extensions of TS 103 097.
const (
	ExtensionCrlRequest      = 1 // EtsiTs102941CrlRequest
	ExtensionDeltaCtlRequest = 2 // EtsiTs102941CtlRequest
	ExtensionFullCtlRequest  = 3 // EtsiTs102941FullCtlRequest
)

// Code implements coer.Value.
func (e *Extension) Code(c *coer.Coder) {
	s := c.Sequence()
	coer.Uint8(c.At("id"), &e.Id)
	coer.OctetString(c.At("content"), &e.Content)
	s.End()
}

// SignerChoice is an alternative of SignerIdentifier.
type SignerChoice uint8

// The alternatives.
const (
	SignerDigest SignerChoice = iota
	SignerCertificate
	SignerSelf
)

var signerChoices = coer.Choices{Names: []string{"digest", "certificate", "self"}}

// SignerIdentifier says who signed.
type SignerIdentifier struct {
	Choice      SignerChoice
	Digest      HashedId8
	Certificate []Certificate // the signer's first, each signed by the next
}

// Code implements coer.Value.
func (i *SignerIdentifier) Code(c *coer.Coder) {
	switch coer.Choice(c, &i.Choice, &signerChoices) {
	case SignerDigest:
		i.Digest.Code(c)
	case SignerCertificate:
		list(c, &i.Certificate)
	case SignerSelf:
		coer.Null(c)
	}
	c.EndChoice()
}

// EncryptedData is an encrypted message, and its key for each recipient.
type EncryptedData struct {
	Recipients []RecipientInfo
	Ciphertext SymmetricCiphertext
}

// Code implements coer.Value.
func (d *EncryptedData) Code(c *coer.Coder) {
	s := c.Sequence()
	list(c.At("recipients"), &d.Recipients)
	d.Ciphertext.Code(c.At("ciphertext"))
	s.End()
}

// RecipientChoice is an alternative of RecipientInfo: it says what RecipientId is the digest of.
type RecipientChoice uint8

// The alternatives.
const (
	RecipientPsk        RecipientChoice = iota // the symmetric key itself, which the recipient has; there is nothing else
	RecipientSymm                              // a symmetric key, which EncKey is encrypted with
	RecipientCert                              // the recipient's certificate
	RecipientSignedData                        // the message that contained the recipient's key
	RecipientRek                               // the recipient's public key
)

var recipientChoices = coer.Choices{Names: []string{"pskRecipInfo", "symmRecipInfo", "certRecipInfo", "signedDataRecipInfo", "rekRecipInfo"}}

// RecipientInfo is how a recipient comes to the key.
type RecipientInfo struct {
	Choice      RecipientChoice
	RecipientId HashedId8
	EncKey      EncryptedDataEncryptionKey // of those with a public key
	SymmEncKey  SymmetricCiphertext        // of RecipientSymm
}

// Code implements coer.Value.
func (r *RecipientInfo) Code(c *coer.Coder) {
	switch which := coer.Choice(c, &r.Choice, &recipientChoices); which {
	case RecipientPsk:
		r.RecipientId.Code(c)
	default:
		s := c.Sequence()
		r.RecipientId.Code(c.At("recipientId"))
		if c.At("encKey"); which == RecipientSymm {
			r.SymmEncKey.Code(c)
		} else {
			r.EncKey.Code(c)
		}
		s.End()
	}
	c.EndChoice()
}

var ciphertextChoices = coer.Choices{Names: []string{"aes128ccm", "sm4Ccm"}, Root: 1, Extensible: true}

// SymmetricCiphertext is what was encrypted, by AES-128 or SM4 in CCM.
type SymmetricCiphertext struct {
	Choice        SymmAlgorithm
	Nonce         [12]byte
	CcmCiphertext []byte // with the tag of 16 octets behind it
	Other         []byte
}

// Code implements coer.Value.
func (t *SymmetricCiphertext) Code(c *coer.Coder) {
	switch coer.Choice(c, &t.Choice, &ciphertextChoices) {
	case AES128CCM, SM4CCM:
		s := c.Sequence()
		coer.Octets(c.At("nonce"), t.Nonce[:])
		coer.OctetString(c.At("ccmCiphertext"), &t.CcmCiphertext)
		s.End()
	default:
		c.Other(&t.Other)
	}
	c.EndChoice()
}

// EtsiTs102941CrlRequest asks those around for a revocation list.
type EtsiTs102941CrlRequest struct {
	IssuerId        HashedId8
	LastKnownUpdate coer.Optional[Time32]
}

// Code implements coer.Value.
func (r *EtsiTs102941CrlRequest) Code(c *coer.Coder) {
	s := c.Sequence(r.LastKnownUpdate.Present)
	r.IssuerId.Code(c.At("issuerId"))
	if s.Optional() {
		r.LastKnownUpdate.Make().Code(c.At("lastKnownUpdate"))
	}
	s.End()
}

// EtsiTs102941CtlRequest asks those around for a delta of a trust list (EtsiTs102941DeltaCtlRequest).
type EtsiTs102941CtlRequest struct {
	IssuerId             HashedId8
	LastKnownCtlSequence coer.Optional[uint8]
}

// Code implements coer.Value.
func (r *EtsiTs102941CtlRequest) Code(c *coer.Coder) {
	s := c.Sequence(r.LastKnownCtlSequence.Present)
	r.IssuerId.Code(c.At("issuerId"))
	if s.Optional() {
		coer.Uint8(c.At("lastKnownCtlSequence"), r.LastKnownCtlSequence.Make())
	}
	s.End()
}

// EtsiTs102941FullCtlRequest asks those around for a trust list, or a segment of it.
type EtsiTs102941FullCtlRequest struct {
	IssuerId             HashedId8
	LastKnownCtlSequence coer.Optional[uint8]
	SegmentNumber        coer.Optional[uint8]
}

// Code implements coer.Value.
func (r *EtsiTs102941FullCtlRequest) Code(c *coer.Coder) {
	s := c.Sequence(r.LastKnownCtlSequence.Present, r.SegmentNumber.Present)
	r.IssuerId.Code(c.At("issuerId"))
	if s.Optional() {
		coer.Uint8(c.At("lastKnownCtlSequence"), r.LastKnownCtlSequence.Make())
	}
	if s.Optional() {
		coer.Uint8(c.At("segmentNumber"), r.SegmentNumber.Make())
	}
	s.End()
}

// Ieee1609dot2Peer2PeerPDU answers a request for certificates of authorities that a station did not know.
type Ieee1609dot2Peer2PeerPDU struct {
	Choice  uint8 // 0: caCerts
	CaCerts []Certificate
	Other   []byte
}

var peer2PeerChoices = coer.Choices{Names: []string{"caCerts"}, Extensible: true}

// Code implements coer.Value.
func (p *Ieee1609dot2Peer2PeerPDU) Code(c *coer.Coder) {
	s := c.Sequence()
	coer.Exactly(c.At("version"), 1)
	if coer.Choice(c.At("content"), &p.Choice, &peer2PeerChoices) == 0 {
		list(c, &p.CaCerts)
	} else {
		c.Other(&p.Other)
	}
	c.EndChoice()
	s.End()
}
