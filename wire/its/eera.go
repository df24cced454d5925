package its

import "mooring/wire/coer"

// EeRaChoice is an alternative of EeRaInterfacePdu.
type EeRaChoice uint8

// The alternatives.
const (
	EeRaRequest EeRaChoice = iota
	EeRaAck
	EeRaInfo
	EeRaDownload
	EeRaSuccessor
)

var eeRaChoices = coer.Choices{Extensible: true,
	Names: []string{"eeRaCertRequest", "raEeCertAck", "raEeCertInfo", "eeRaDownloadRequest", "eeRaSuccessorEnrollmentCertRequest"}}

// EeRaInterfacePdu is what a device and a registration authority say to each other.
type EeRaInterfacePdu struct {
	Choice                             EeRaChoice
	EeRaCertRequest                    *EeRaCertRequest
	RaEeCertAck                        *RaEeCertAck
	RaEeCertInfo                       *RaEeCertInfo
	EeRaDownloadRequest                *EeRaDownloadRequest
	EeRaSuccessorEnrollmentCertRequest *Ieee1609Dot2Data // a SignedCertificateRequest with an EeEcaCertRequest
	Other                              []byte
}

// Code implements coer.Value.
func (p *EeRaInterfacePdu) Code(c *coer.Coder) {
	switch coer.Choice(c, &p.Choice, &eeRaChoices) {
	case EeRaRequest:
		needed(c, &p.EeRaCertRequest).Code(c)
	case EeRaAck:
		needed(c, &p.RaEeCertAck).Code(c)
	case EeRaInfo:
		needed(c, &p.RaEeCertInfo).Code(c)
	case EeRaDownload:
		needed(c, &p.EeRaDownloadRequest).Code(c)
	case EeRaSuccessor:
		needed(c, &p.EeRaSuccessorEnrollmentCertRequest).Code(c)
	default:
		c.Other(&p.Other)
	}
	c.EndChoice()
}

// EeRaCertRequest asks for authorization certificates: for one, or for many by butterfly expansion.
type EeRaCertRequest struct {
	GenerationTime   Time32
	Type             CertificateType
	TbsCert          ToBeSignedCertificate // with the caterpillar key
	AdditionalParams *AdditionalParams
	Additions        coer.Additions
}

// Code implements coer.Value.
func (r *EeRaCertRequest) Code(c *coer.Coder) {
	s := c.Extensible(&r.Additions, r.AdditionalParams != nil)
	coer.Exactly(c.At("version"), 2)
	r.GenerationTime.Code(c.At("generationTime"))
	r.Type.Code(c.At("type"))
	r.TbsCert.Code(c.At("tbsCert"))
	if s.Optional() {
		needed(c, &r.AdditionalParams).Code(c.At("additionalParams"))
	}
	s.Additions()
	s.End()
}

// ButterflyChoice is an alternative of AdditionalParams.
type ButterflyChoice uint8

// The alternatives.
const (
	ButterflyOriginal ButterflyChoice = iota
	ButterflyUnified
	ButterflyCompactUnified
	ButterflyNone // one certificate, whose answer is encrypted to EncryptionKey
)

var butterflyChoices = coer.Choices{Names: []string{"original", "unified", "compactUnified", "encryptionKey"}, Extensible: true}

// AdditionalParams is how certificates are to be made and encrypted.
type AdditionalParams struct {
	Choice        ButterflyChoice
	Original      ButterflyParamsOriginal
	Expansion     ButterflyExpansion // of unified and compact unified
	EncryptionKey PublicEncryptionKey
	Other         []byte
}

// Code implements coer.Value.
func (p *AdditionalParams) Code(c *coer.Coder) {
	switch coer.Choice(c, &p.Choice, &butterflyChoices) {
	case ButterflyOriginal:
		p.Original.Code(c)
	case ButterflyUnified, ButterflyCompactUnified:
		p.Expansion.Code(c)
	case ButterflyNone:
		p.EncryptionKey.Code(c)
	default:
		c.Other(&p.Other)
	}
	c.EndChoice()
}

// ButterflyParamsOriginal is for keys of signatures and of encryption that are expanded apart.
type ButterflyParamsOriginal struct {
	SigningExpansion    ButterflyExpansion
	EncryptionKey       PublicEncryptionKey
	EncryptionExpansion ButterflyExpansion
}

// Code implements coer.Value.
func (p *ButterflyParamsOriginal) Code(c *coer.Coder) {
	s := c.Sequence()
	p.SigningExpansion.Code(c.At("signingExpansion"))
	p.EncryptionKey.Code(c.At("encryptionKey"))
	p.EncryptionExpansion.Code(c.At("encryptionExpansion"))
	s.End()
}

// ButterflyExpansion is the key of an expansion function.
type ButterflyExpansion struct {
	Choice uint8 // 0: Aes128
	Aes128 [16]byte
	Other  []byte
}

var expansionChoices = coer.Choices{Names: []string{"aes128"}, Extensible: true}

// Code implements coer.Value.
func (e *ButterflyExpansion) Code(c *coer.Coder) {
	if coer.Choice(c, &e.Choice, &expansionChoices) == 0 {
		coer.Octets(c, e.Aes128[:])
	} else {
		c.Other(&e.Other)
	}
	c.EndChoice()
}

// RaEeCertAck tells a device that its request was accepted.
type RaEeCertAck struct {
	GenerationTime Time32
	RequestHash    HashedId8
	FirstI         coer.Optional[uint16]
	NextDlTime     Time32
	Additions      coer.Additions
}

// Code implements coer.Value.
func (a *RaEeCertAck) Code(c *coer.Coder) {
	s := c.Extensible(&a.Additions, a.FirstI.Present)
	coer.Exactly(c.At("version"), 2)
	a.GenerationTime.Code(c.At("generationTime"))
	a.RequestHash.Code(c.At("requestHash"))
	if s.Optional() {
		coer.Uint16(c.At("firstI"), a.FirstI.Make())
	}
	a.NextDlTime.Code(c.At("nextDlTime"))
	s.Additions()
	s.End()
}

// RaEeCertInfo tells a device when there is more to download.
type RaEeCertInfo struct {
	GenerationTime Time32
	CurrentI       uint16
	RequestHash    HashedId8
	NextDlTime     Time32
	AcpcTreeId     coer.Optional[AcpcTreeId]
	Additions      coer.Additions
}

// Code implements coer.Value.
func (i *RaEeCertInfo) Code(c *coer.Coder) {
	s := c.Extensible(&i.Additions, i.AcpcTreeId.Present)
	coer.Exactly(c.At("version"), 2)
	i.GenerationTime.Code(c.At("generationTime"))
	coer.Uint16(c.At("currentI"), &i.CurrentI)
	i.RequestHash.Code(c.At("requestHash"))
	i.NextDlTime.Code(c.At("nextDlTime"))
	if s.Optional() {
		i.AcpcTreeId.Make().Code(c.At("acpcTreeId"))
	}
	s.Additions()
	s.End()
}

// EeRaDownloadRequest asks for an archive of certificates.
type EeRaDownloadRequest struct {
	GenerationTime Time32
	Filename       string
	Additions      coer.Additions
}

// Code implements coer.Value.
func (r *EeRaDownloadRequest) Code(c *coer.Coder) {
	s := c.Extensible(&r.Additions)
	r.GenerationTime.Code(c.At("generationTime"))
	coer.UTF8String(c.At("filename"), &r.Filename, 255)
	s.Additions()
	s.End()
}
