package its

import "mooring/wire/coer"

// EtsiTs102941Data is what a message of TS 102 941 contains, inside of what is signed or encrypted. Its version is 1.
type EtsiTs102941Data struct {
	Content EtsiTs102941DataContent
	// LongVersion says that the version has a length before it. Its type has one value, so that it is one octet (ITU-T X.696, 10.2), as the EU's trust list manager and most others write it;
	// encoders that do not see that constraint write two. That is read, and written again as it was.
	LongVersion bool
}

// ParseManagement reads the content of a message of TS 102 941.
func ParseManagement(b []byte) (*EtsiTs102941Data, error) {
	d := new(EtsiTs102941Data)
	return d, coer.Unmarshal(b, d)
}

// Code implements coer.Value.
func (d *EtsiTs102941Data) Code(c *coer.Coder) {
	s := c.Sequence()
	coer.Exactly(c.At("version"), 1)
	if next, ok := c.Next(); ok && next == 1 { // no tag of a content: what was read is a length
		d.LongVersion = true
	}
	if d.LongVersion && !c.Showing() {
		coer.Exactly(c.At("version"), 1)
	}
	d.Content.Code(c.At("content"))
	s.End()
}

// ManagementChoice is an alternative of EtsiTs102941DataContent.
type ManagementChoice uint8

// The alternatives.
const (
	EnrolmentRequest ManagementChoice = iota
	EnrolmentResponse
	AuthorizationRequest
	AuthorizationResponse
	CertificateRevocationList
	CertificateTrustListTlm
	CertificateTrustListRca
	ValidationRequest
	ValidationResponse
	CaRequest
	LinkCertificateTlm
	SingleSignedLinkCertificateRca
	DoubleSignedLinkCertificateRca
	ButterflyAuthorizationRequest
	X509SignedButterflyAuthorizationRequest
	ButterflyAuthorizationResponse
	ButterflyCertificateRequest
	ButterflyCertificateResponse
	ButterflyAtDownloadRequest
)

var managementChoices = coer.Choices{Root: 10, Extensible: true, Names: []string{"enrolmentRequest", "enrolmentResponse", "authorizationRequest",
	"authorizationResponse", "certificateRevocationList", "certificateTrustListTlm", "certificateTrustListRca", "authorizationValidationRequest",
	"authorizationValidationResponse", "caCertificateRequest", "linkCertificateTlm", "singleSignedLinkCertificateRca", "doubleSignedlinkCertificateRca",
	"butterflyAuthorizationRequest", "x509SignedbutterflyAuthorizationRequest", "butterflyAuthorizationResponse", "butterflyCertificateRequest",
	"butterflyCertificateResponse", "butterflyAtDownloadRequest"}}

// EtsiTs102941DataContent is one of the messages; which field has it follows from Choice.
type EtsiTs102941DataContent struct {
	Choice ManagementChoice

	Data                            *Ieee1609Dot2Data // EnrolmentRequest (signed for proof of possession), DoubleSignedLinkCertificateRca, X509Signed...
	EnrolmentResponse               *InnerEcResponse
	AuthorizationRequest            *InnerAtRequest
	AuthorizationResponse           *InnerAtResponse
	CertificateRevocationList       *ToBeSignedCrl
	CertificateTrustList            *CtlFormat // of either
	AuthorizationValidationRequest  *AuthorizationValidationRequest
	AuthorizationValidationResponse *AuthorizationValidationResponse
	CaCertificateRequest            *CaCertificateRequest
	LinkCertificate                 *ToBeSignedLinkCertificate // LinkCertificateTlm, SingleSignedLinkCertificateRca
	ButterflyAuthorizationRequest   *EeRaCertRequest
	ButterflyAuthorizationResponse  *RaEeCertInfo
	ButterflyCertificateRequest     *RaAcaCertRequest
	ButterflyCertificateResponse    *AcaRaCertResponse
	ButterflyAtDownloadRequest      *EeRaDownloadRequest
	Other                           []byte
}

// Code implements coer.Value.
func (d *EtsiTs102941DataContent) Code(c *coer.Coder) {
	switch coer.Choice(c, &d.Choice, &managementChoices) {
	case EnrolmentRequest, DoubleSignedLinkCertificateRca, X509SignedButterflyAuthorizationRequest:
		needed(c, &d.Data).Code(c)
	case EnrolmentResponse:
		needed(c, &d.EnrolmentResponse).Code(c)
	case AuthorizationRequest:
		needed(c, &d.AuthorizationRequest).Code(c)
	case AuthorizationResponse:
		needed(c, &d.AuthorizationResponse).Code(c)
	case CertificateRevocationList:
		needed(c, &d.CertificateRevocationList).Code(c)
	case CertificateTrustListTlm:
		l := needed(c, &d.CertificateTrustList)
		l.Code(c)
		l.allow(c, CtlEa, CtlAa)
	case CertificateTrustListRca:
		l := needed(c, &d.CertificateTrustList)
		l.Code(c)
		l.allow(c, CtlRca, CtlTlm)
	case ValidationRequest:
		needed(c, &d.AuthorizationValidationRequest).Code(c)
	case ValidationResponse:
		needed(c, &d.AuthorizationValidationResponse).Code(c)
	case CaRequest:
		needed(c, &d.CaCertificateRequest).Code(c)
	case LinkCertificateTlm, SingleSignedLinkCertificateRca:
		needed(c, &d.LinkCertificate).Code(c)
	default:
		d.codeButterfly(c)
	}
	c.EndChoice()
}

func (d *EtsiTs102941DataContent) codeButterfly(c *coer.Coder) {
	switch d.Choice {
	case ButterflyAuthorizationRequest:
		needed(c, &d.ButterflyAuthorizationRequest).Code(c)
	case ButterflyAuthorizationResponse:
		needed(c, &d.ButterflyAuthorizationResponse).Code(c)
	case ButterflyCertificateRequest:
		needed(c, &d.ButterflyCertificateRequest).Code(c)
	case ButterflyCertificateResponse:
		needed(c, &d.ButterflyCertificateResponse).Code(c)
	case ButterflyAtDownloadRequest:
		needed(c, &d.ButterflyAtDownloadRequest).Code(c)
	default:
		c.Other(&d.Other)
	}
}
