package its

import "mooring/wire/coer"

// ScmsChoice is an alternative of the content of ScmsPdu: the two parties that talk.
type ScmsChoice uint8

// The alternatives. Those between linkage, misbehaviour and other authorities are NULL: the standard leaves these messages open.
const (
	ScmsAcaEe ScmsChoice = iota
	ScmsAcaLa
	ScmsAcaMa
	ScmsAcaRa
	ScmsCert
	ScmsEcaEe
	ScmsEeMa
	ScmsEeRa
	ScmsLaMa
	ScmsLaRa
	ScmsMaRa
)

var scmsChoices = coer.Choices{Extensible: true,
	Names: []string{"aca-ee", "aca-la", "aca-ma", "aca-ra", "cert", "eca-ee", "ee-ma", "ee-ra", "la-ma", "la-ra", "ma-ra"}}

// ScmsPdu is what a message of IEEE 1609.2.1 contains, inside of what is signed or encrypted. Its version is 2. Here and below, of the fields that stand for
// an inner CHOICE the one that is not nil is the alternative.
type ScmsPdu struct {
	Choice ScmsChoice
	AcaEe  AcaEeInterfacePdu
	AcaRa  AcaRaInterfacePdu
	Cert   CertManagementPdu
	EcaEe  EcaEeInterfacePdu
	EeRa   EeRaInterfacePdu
	Other  []byte
}

// ParseScms reads the content of a message of IEEE 1609.2.1.
func ParseScms(b []byte) (*ScmsPdu, error) {
	p := new(ScmsPdu)
	return p, coer.Unmarshal(b, p)
}

// Code implements coer.Value.
func (p *ScmsPdu) Code(c *coer.Coder) {
	s := c.Sequence()
	coer.Exactly(c.At("version"), 2)
	switch coer.Choice(c.At("content"), &p.Choice, &scmsChoices) {
	case ScmsAcaEe:
		p.AcaEe.Code(c)
	case ScmsAcaRa:
		p.AcaRa.Code(c)
	case ScmsCert:
		p.Cert.Code(c)
	case ScmsEcaEe:
		p.EcaEe.Code(c)
	case ScmsEeRa:
		p.EeRa.Code(c)
	case ScmsAcaLa, ScmsAcaMa, ScmsEeMa, ScmsLaMa, ScmsLaRa, ScmsMaRa:
		coer.Null(c)
	default:
		c.Other(&p.Other)
	}
	c.EndChoice()
	s.End()
}

// AcaEeInterfacePdu is what an authorization certificate authority has for a device.
type AcaEeInterfacePdu struct {
	Choice            uint8 // 0: AcaEeCertResponse
	AcaEeCertResponse *AcaEeCertResponse
	Other             []byte
}

var acaEeChoices = coer.Choices{Names: []string{"acaEeCertResponse"}, Extensible: true}

// Code implements coer.Value.
func (p *AcaEeInterfacePdu) Code(c *coer.Coder) {
	if coer.Choice(c, &p.Choice, &acaEeChoices) == 0 {
		needed(c, &p.AcaEeCertResponse).Code(c)
	} else {
		c.Other(&p.Other)
	}
	c.EndChoice()
}

// PrivateKeyInfo is what a device adds to its key to get that of the certificate.
type PrivateKeyInfo [32]byte

// AcaEeCertResponse is a certificate for a device.
type AcaEeCertResponse struct {
	GenerationTime Time32
	Certificate    Certificate
	PrivateKeyInfo coer.Optional[PrivateKeyInfo]
	Additions      coer.Additions
}

// Code implements coer.Value.
func (r *AcaEeCertResponse) Code(c *coer.Coder) {
	s := c.Extensible(&r.Additions, r.PrivateKeyInfo.Present)
	coer.Exactly(c.At("version"), 2)
	r.GenerationTime.Code(c.At("generationTime"))
	r.Certificate.Code(c.At("certificate"))
	if s.Optional() {
		coer.Octets(c.At("privateKeyInfo"), r.PrivateKeyInfo.Make()[:])
	}
	s.Additions()
	s.End()
}

// AcaRaInterfacePdu is what a registration authority and an authorization certificate authority say to each other.
type AcaRaInterfacePdu struct {
	Choice            uint8 // 0: RaAcaCertRequest, 1: AcaRaCertResponse
	RaAcaCertRequest  *RaAcaCertRequest
	AcaRaCertResponse *AcaRaCertResponse
	Other             []byte
}

var acaRaChoices = coer.Choices{Names: []string{"raAcaCertRequest", "acaRaCertResponse"}, Extensible: true}

// Code implements coer.Value.
func (p *AcaRaInterfacePdu) Code(c *coer.Coder) {
	switch coer.Choice(c, &p.Choice, &acaRaChoices) {
	case 0:
		needed(c, &p.RaAcaCertRequest).Code(c)
	case 1:
		needed(c, &p.AcaRaCertResponse).Code(c)
	default:
		c.Other(&p.Other)
	}
	c.EndChoice()
}

// RaAcaCertRequestFlags say how a certificate is to be made from a cocoon key.
type RaAcaCertRequestFlags uint8

// The flags.
const (
	ButterflyExplicit RaAcaCertRequestFlags = 0x80 // the authority adds a random point, so that who asks does not know the key
	Cubk              RaAcaCertRequestFlags = 0x40 // compact unified: the answer is encrypted to the cocoon key, and not signed
)

var raAcaCertRequestFlags = coer.Flags{"butterflyExplicit", "cubk"}

// RaAcaCertRequest asks for one certificate of one device, whose name it does not tell.
type RaAcaCertRequest struct {
	GenerationTime Time32
	Type           CertificateType
	Flags          RaAcaCertRequestFlags
	LinkageInfo    coer.Optional[LinkageInfo]
	CertEncKey     coer.Optional[PublicEncryptionKey]
	TbsCert        ToBeSignedCertificate
	Additions      coer.Additions
}

// Code implements coer.Value.
func (r *RaAcaCertRequest) Code(c *coer.Coder) {
	s := c.Extensible(&r.Additions, r.LinkageInfo.Present, r.CertEncKey.Present)
	coer.Exactly(c.At("version"), 2)
	r.GenerationTime.Code(c.At("generationTime"))
	r.Type.Code(c.At("type"))
	coer.Bits(c.At("flags"), &r.Flags, raAcaCertRequestFlags)
	if s.Optional() {
		r.LinkageInfo.Make().Code(c.At("linkageInfo"))
	}
	if s.Optional() {
		r.CertEncKey.Make().Code(c.At("certEncKey"))
	}
	r.TbsCert.Code(c.At("tbsCert"))
	s.Additions()
	s.End()
}

// LinkageInfo is the two halves of a linkage value, of two linkage authorities.
type LinkageInfo struct {
	EncPlv1   EncryptedIndividualPLV
	EncPlv2   EncryptedIndividualPLV
	Additions coer.Additions
}

// Code implements coer.Value.
func (l *LinkageInfo) Code(c *coer.Coder) {
	s := c.Extensible(&l.Additions)
	l.EncPlv1.Code(c.At("encPlv1"))
	l.EncPlv2.Code(c.At("encPlv2"))
	s.Additions()
	s.End()
}

// EncryptedIndividualPLV is half of a linkage value, which only the authority that issues the certificate can read.
type EncryptedIndividualPLV struct {
	LaId   LaId
	EncPlv Ieee1609Dot2Data // encrypted to a symmetric key
}

// Code implements coer.Value.
func (e *EncryptedIndividualPLV) Code(c *coer.Coder) {
	s := c.Sequence()
	coer.Exactly(c.At("version"), 2)
	coer.Octets(c.At("laId"), e.LaId[:])
	e.EncPlv.Code(c.At("encPlv"))
	s.End()
}

// AcaRaCertResponse answers RaAcaCertRequest; who asked cannot read the certificate, except if the answer is plain.
type AcaRaCertResponse struct {
	GenerationTime Time32
	RequestHash    HashedId8
	AcaResponse    AcaResponse
	Additions      coer.Additions
}

// Code implements coer.Value.
func (r *AcaRaCertResponse) Code(c *coer.Coder) {
	s := c.Extensible(&r.Additions)
	coer.Exactly(c.At("version"), 2)
	r.GenerationTime.Code(c.At("generationTime"))
	r.RequestHash.Code(c.At("requestHash"))
	r.AcaResponse.Code(c.At("acaResponse"))
	s.Additions()
	s.End()
}

// AcaResponseChoice is an alternative of AcaResponse.
type AcaResponseChoice uint8

// The alternatives.
const (
	AcaResponsePlain   AcaResponseChoice = iota // unsecured
	AcaResponsePrivate                          // encrypted, then signed
	AcaResponseCubk                             // encrypted to the cocoon key
)

var acaResponseChoices = coer.Choices{Names: []string{"plain", "private", "cubk"}, Extensible: true}

// AcaResponse is a message for the device.
type AcaResponse struct {
	Choice AcaResponseChoice
	Data   *Ieee1609Dot2Data
	Other  []byte
}

// Code implements coer.Value.
func (r *AcaResponse) Code(c *coer.Coder) {
	if coer.Choice(c, &r.Choice, &acaResponseChoices) <= AcaResponseCubk {
		needed(c, &r.Data).Code(c)
	} else {
		c.Other(&r.Other)
	}
	c.EndChoice()
}

// EcaEeInterfacePdu is what a device and an enrolment certificate authority say to each other.
type EcaEeInterfacePdu struct {
	Choice            uint8 // 0: EeEcaCertRequest, 1: EcaEeCertResponse
	EeEcaCertRequest  *EeEcaCertRequest
	EcaEeCertResponse *EcaEeCertResponse
	Other             []byte
}

var ecaEeChoices = coer.Choices{Names: []string{"eeEcaCertRequest", "ecaEeCertResponse"}, Extensible: true}

// Code implements coer.Value.
func (p *EcaEeInterfacePdu) Code(c *coer.Coder) {
	switch coer.Choice(c, &p.Choice, &ecaEeChoices) {
	case 0:
		needed(c, &p.EeEcaCertRequest).Code(c)
	case 1:
		needed(c, &p.EcaEeCertResponse).Code(c)
	default:
		c.Other(&p.Other)
	}
	c.EndChoice()
}

// EeEcaCertRequest asks for an enrolment certificate.
type EeEcaCertRequest struct {
	GenerationTime Time32
	Type           CertificateType
	TbsCert        ToBeSignedCertificate
	CanonicalId    coer.Optional[string]
	Additions      coer.Additions
}

// Code implements coer.Value.
func (r *EeEcaCertRequest) Code(c *coer.Coder) {
	s := c.Extensible(&r.Additions, r.CanonicalId.Present)
	coer.Exactly(c.At("version"), 2)
	r.GenerationTime.Code(c.At("generationTime"))
	r.Type.Code(c.At("type"))
	r.TbsCert.Code(c.At("tbsCert"))
	if s.Optional() {
		coer.IA5String(c.At("canonicalId"), r.CanonicalId.Make())
	}
	s.Additions()
	s.End()
}

// EcaEeCertResponse answers EeEcaCertRequest.
type EcaEeCertResponse struct {
	GenerationTime Time32
	RequestHash    HashedId8
	EcaCertChain   []Certificate
	Certificate    Certificate
	PrivateKeyInfo coer.Optional[PrivateKeyInfo]
	Additions      coer.Additions
}

// Code implements coer.Value.
func (r *EcaEeCertResponse) Code(c *coer.Coder) {
	s := c.Extensible(&r.Additions, r.PrivateKeyInfo.Present)
	coer.Exactly(c.At("version"), 2)
	r.GenerationTime.Code(c.At("generationTime"))
	r.RequestHash.Code(c.At("requestHash"))
	list(c.At("ecaCertChain"), &r.EcaCertChain)
	r.Certificate.Code(c.At("certificate"))
	if s.Optional() {
		coer.Octets(c.At("privateKeyInfo"), r.PrivateKeyInfo.Make()[:])
	}
	s.Additions()
	s.End()
}

// SignedCertificateRequest is a request for certificates, signed with an enrolment certificate or with the key that is certified.
type SignedCertificateRequest struct {
	HashAlgorithmId HashAlgorithm
	TbsRequest      ScmsPdu
	Signer          SignerIdentifier
	Signature       Signature
}

// Code implements coer.Value.
func (r *SignedCertificateRequest) Code(c *coer.Coder) {
	s := c.Sequence()
	r.HashAlgorithmId.Code(c.At("hashAlgorithmId"))
	r.TbsRequest.Code(c.At("tbsRequest"))
	r.Signer.Code(c.At("signer"))
	r.Signature.Code(c.At("signature"))
	s.End()
}

// Input is what the signature is computed over, already digested, given the certificate of the signer, or nil if it is self. Other than with messages and certificates
// the request is taken as it is written, not in the canonical form.
func (r *SignedCertificateRequest) Input(signer *Certificate) ([]byte, error) {
	b, err := coer.Marshal(&r.TbsRequest)
	if err != nil {
		return nil, err
	}
	return r.HashAlgorithmId.input(b, signer)
}

// SignedX509CertificateRequest is a request for certificates, signed with the key of an X.509 certificate.
type SignedX509CertificateRequest struct {
	HashAlgorithmId HashAlgorithm
	TbsRequest      ScmsPdu
	Signer          X509SignerIdentifier
	Signature       Signature
}

// Code implements coer.Value.
func (r *SignedX509CertificateRequest) Code(c *coer.Coder) {
	s := c.Sequence()
	r.HashAlgorithmId.Code(c.At("hashAlgorithmId"))
	r.TbsRequest.Code(c.At("tbsRequest"))
	r.Signer.Code(c.At("signer"))
	r.Signature.Code(c.At("signature"))
	s.End()
}

// Input is what the signature is computed over, already digested. For the signer stands the first certificate, in DER.
func (r *SignedX509CertificateRequest) Input() ([]byte, error) {
	b, err := coer.Marshal(&r.TbsRequest)
	if err != nil {
		return nil, err
	}
	if len(r.Signer.Certificate) == 0 {
		return nil, ErrIssuer
	}
	h := r.HashAlgorithmId
	return h.digest(h.Sum(b), h.Sum(r.Signer.Certificate[0]))
}

// X509SignerIdentifier says who signed, by certificates in DER. Others than that make the request invalid.
type X509SignerIdentifier struct {
	Certificate [][]byte
}

var x509SignerChoices = coer.Choices{Names: []string{"certificate"}}

// Code implements coer.Value.
func (i *X509SignerIdentifier) Code(c *coer.Coder) {
	which := uint8(0)
	coer.Choice(c, &which, &x509SignerChoices)
	octets(c, &i.Certificate)
	c.Refuse(len(i.Certificate) == 0, noElements)
	c.EndChoice()
}
