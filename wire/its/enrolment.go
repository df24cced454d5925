package its

import "mooring/wire/coer"

// CertificateFormat is the format of the certificates that are asked for: 1 is TS 103 097, and the only one.
type CertificateFormat uint8

// FormatTs103097 is TS 103 097 V1.3.1 and later.
const FormatTs103097 CertificateFormat = 1

// Code implements coer.Value.
func (f *CertificateFormat) Code(c *coer.Coder) {
	coer.Uint8(c, f)
	c.Refuse(*f == 0, "there is no format 0")
}

// codeVersion codes a Version, which is v1.
func codeVersion(c *coer.Coder) {
	v := int64(1)
	coer.Integer(c, &v)
	c.Refuse(v != 1, "the version is not 1")
}

// CertificateSubjectAttributes is what a certificate is to say, or may.
type CertificateSubjectAttributes struct {
	Id                   coer.Optional[CertificateId]
	ValidityPeriod       coer.Optional[ValidityPeriod]
	Region               coer.Optional[GeographicRegion]
	AssuranceLevel       coer.Optional[SubjectAssurance]
	AppPermissions       []PsidSsp
	CertIssuePermissions []PsidGroupPermissions
	Additions            coer.Additions
}

// Code implements coer.Value.
func (a *CertificateSubjectAttributes) Code(c *coer.Coder) {
	s := c.Extensible(&a.Additions, a.Id.Present, a.ValidityPeriod.Present, a.Region.Present, a.AssuranceLevel.Present, a.AppPermissions != nil, a.CertIssuePermissions != nil)
	if s.Optional() {
		a.Id.Make().Code(c.At("id"))
	}
	if s.Optional() {
		a.ValidityPeriod.Make().Code(c.At("validityPeriod"))
	}
	if s.Optional() {
		a.Region.Make().Code(c.At("region"))
	}
	if s.Optional() {
		a.AssuranceLevel.Make().Code(c.At("assuranceLevel"))
	}
	if s.Optional() {
		list(c.At("appPermissions"), &a.AppPermissions)
	}
	if s.Optional() {
		list(c.At("certIssuePermissions"), &a.CertIssuePermissions)
	}
	s.Additions()
	c.Refuse(a.AppPermissions == nil && a.CertIssuePermissions == nil, "attributes have permissions of at least one kind")
	s.End()
}

// PublicKeys are the keys that a certificate is asked for.
type PublicKeys struct {
	VerificationKey PublicVerificationKey
	EncryptionKey   coer.Optional[PublicEncryptionKey]
}

// Code implements coer.Value.
func (k *PublicKeys) Code(c *coer.Coder) {
	s := c.Sequence(k.EncryptionKey.Present)
	k.VerificationKey.Code(c.At("verificationKey"))
	if s.Optional() {
		k.EncryptionKey.Make().Code(c.At("encryptionKey"))
	}
	s.End()
}

// RequestHash is the first 16 octets of the SHA-256 of the encrypted request that is answered, as it was received.
type RequestHash [16]byte

// InnerEcRequest asks for an enrolment credential. InnerEcRequestSignedForPop is a message that is signed with the new key and has it as payload.
type InnerEcRequest struct {
	ItsId                      []byte // the canonical identifier, or the HashedId8 of the credential that is replaced
	CertificateFormat          CertificateFormat
	PublicKeys                 PublicKeys
	RequestedSubjectAttributes CertificateSubjectAttributes // without CertIssuePermissions
	Additions                  coer.Additions
}

// Code implements coer.Value.
func (r *InnerEcRequest) Code(c *coer.Coder) {
	s := c.Extensible(&r.Additions)
	coer.OctetString(c.At("itsId"), &r.ItsId)
	r.CertificateFormat.Code(c.At("certificateFormat"))
	r.PublicKeys.Code(c.At("publicKeys"))
	r.RequestedSubjectAttributes.Code(c.At("requestedSubjectAttributes"))
	s.Additions()
	s.End()
}

// EnrolmentResponseCode is how an enrolment ended.
type EnrolmentResponseCode uint8

// The codes (TS 102 941, 6.2.3.2.2).
const (
	EnrolmentOk EnrolmentResponseCode = iota
	EnrolmentCantParse
	EnrolmentBadContentType
	EnrolmentImNotTheRecipient
	EnrolmentUnknownEncryptionAlgorithm
	EnrolmentDecryptionFailed
	EnrolmentUnknownIts
	EnrolmentInvalidSignature
	EnrolmentInvalidEncryptionKey
	EnrolmentBadItsStatus
	EnrolmentIncompleteRequest
	EnrolmentDeniedPermissions
	EnrolmentInvalidKeys
	EnrolmentDeniedRequest
)

var enrolmentResponseCodes = coer.Enumeration{Extensible: true, Names: []string{"ok", "cantparse", "badcontenttype", "imnottherecipient",
	"unknownencryptionalgorithm", "decryptionfailed", "unknownits", "invalidsignature", "invalidencryptionkey", "baditsstatus", "incompleterequest",
	"deniedpermissions", "invalidkeys", "deniedrequest"}}

// String is the name in the module.
func (r EnrolmentResponseCode) String() string { return enrolmentResponseCodes.Name(uint8(r)) }

const okAndContent = "what was asked for is there if, and only if, the code is ok"

// InnerEcResponse answers InnerEcRequest.
type InnerEcResponse struct {
	RequestHash  RequestHash
	ResponseCode EnrolmentResponseCode
	Certificate  *Certificate // if the code is ok
	Additions    coer.Additions
}

// Code implements coer.Value.
func (r *InnerEcResponse) Code(c *coer.Coder) {
	s := c.Extensible(&r.Additions, r.Certificate != nil)
	coer.Octets(c.At("requestHash"), r.RequestHash[:])
	coer.Enum(c.At("responseCode"), &r.ResponseCode, &enrolmentResponseCodes)
	if s.Optional() {
		needed(c, &r.Certificate).Code(c.At("certificate"))
	}
	c.Refuse((r.ResponseCode == EnrolmentOk) != (r.Certificate != nil), okAndContent)
	s.Additions()
	s.End()
}

// CaCertificateRequest asks for the certificate of an authority.
type CaCertificateRequest struct {
	PublicKeys                 PublicKeys
	RequestedSubjectAttributes CertificateSubjectAttributes
	Additions                  coer.Additions
}

// Code implements coer.Value.
func (r *CaCertificateRequest) Code(c *coer.Coder) {
	s := c.Extensible(&r.Additions)
	r.PublicKeys.Code(c.At("publicKeys"))
	r.RequestedSubjectAttributes.Code(c.At("requestedSubjectAttributes"))
	s.Additions()
	s.End()
}
