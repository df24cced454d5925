package its

import "mooring/wire/coer"

// InnerAtRequest asks for an authorization ticket.
type InnerAtRequest struct {
	PublicKeys      PublicKeys
	HmacKey         [32]byte
	SharedAtRequest SharedAtRequest
	EcSignature     EcSignature
	Additions       coer.Additions
}

// Code implements coer.Value.
func (r *InnerAtRequest) Code(c *coer.Coder) {
	s := c.Extensible(&r.Additions)
	r.PublicKeys.Code(c.At("publicKeys"))
	coer.Octets(c.At("hmacKey"), r.HmacKey[:])
	r.SharedAtRequest.Code(c.At("sharedAtRequest"))
	r.EcSignature.Code(c.At("ecSignature"))
	s.Additions()
	s.End()
}

// SharedAtRequest is the part of a request for a ticket that the enrolment authority sees too: neither the keys nor what KeyTag was computed with.
type SharedAtRequest struct {
	EaId                       HashedId8
	KeyTag                     [16]byte // the first octets of HMAC-SHA256(HmacKey, VerificationKey || EncryptionKey if there is one)
	CertificateFormat          CertificateFormat
	RequestedSubjectAttributes CertificateSubjectAttributes // without CertIssuePermissions
	Additions                  coer.Additions
	Octets                     []byte // as they were read; what is signed is a digest of them
}

// Code implements coer.Value.
func (r *SharedAtRequest) Code(c *coer.Coder) {
	from := c.Offset()
	s := c.Extensible(&r.Additions)
	r.EaId.Code(c.At("eaId"))
	coer.Octets(c.At("keyTag"), r.KeyTag[:])
	r.CertificateFormat.Code(c.At("certificateFormat"))
	r.RequestedSubjectAttributes.Code(c.At("requestedSubjectAttributes"))
	s.Additions()
	s.End()
	c.Keep(&r.Octets, from)
}

// EcSignatureChoice is an alternative of EcSignature.
type EcSignatureChoice uint8

// The alternatives.
const (
	EcSignatureEncrypted EcSignatureChoice = iota // to the enrolment authority, so that nobody else learns who signed
	EcSignaturePlain
)

var ecSignatureChoices = coer.Choices{Names: []string{"encryptedEcSignature", "ecSignature"}}

// EcSignature is the signature of the digest of SharedAtRequest with the enrolment credential.
type EcSignature struct {
	Choice EcSignatureChoice
	Data   *Ieee1609Dot2Data
}

// Code implements coer.Value.
func (e *EcSignature) Code(c *coer.Coder) {
	coer.Choice(c, &e.Choice, &ecSignatureChoices)
	needed(c, &e.Data).Code(c)
	c.EndChoice()
}

// AuthorizationResponseCode is how a request for a ticket ended.
type AuthorizationResponseCode uint8

// The codes (TS 102 941, 6.2.3.3.2): what the authorization authority found, and what it hands on from the enrolment authority.
const (
	AuthorizationOk AuthorizationResponseCode = iota
	ItsAaCantParse
	ItsAaBadContentType
	ItsAaImNotTheRecipient
	ItsAaUnknownEncryptionAlgorithm
	ItsAaDecryptionFailed
	ItsAaKeysDontMatch
	ItsAaIncompleteRequest
	ItsAaInvalidEncryptionKey
	ItsAaOutOfSyncRequest
	ItsAaUnknownEa
	ItsAaInvalidEa
	ItsAaDeniedPermissions
	AaEaCantReachEa
	EaAaCantParse
	EaAaBadContentType
	EaAaImNotTheRecipient
	EaAaUnknownEncryptionAlgorithm
	EaAaDecryptionFailed
	InvalidAa
	InvalidAaSignature
	WrongEa
	UnknownIts
	InvalidSignature
	InvalidEncryptionKey
	DeniedPermissions
	DeniedTooManyCerts
)

var authorizationResponseCodes = coer.Enumeration{Extensible: true, Names: []string{"ok", "its-aa-cantparse", "its-aa-badcontenttype", "its-aa-imnottherecipient",
	"its-aa-unknownencryptionalgorithm", "its-aa-decryptionfailed", "its-aa-keysdontmatch", "its-aa-incompleterequest", "its-aa-invalidencryptionkey",
	"its-aa-outofsyncrequest", "its-aa-unknownea", "its-aa-invalidea", "its-aa-deniedpermissions", "aa-ea-cantreachea", "ea-aa-cantparse",
	"ea-aa-badcontenttype", "ea-aa-imnottherecipient", "ea-aa-unknownencryptionalgorithm", "ea-aa-decryptionfailed", "invalidaa", "invalidaasignature",
	"wrongea", "unknownits", "invalidsignature", "invalidencryptionkey", "deniedpermissions", "deniedtoomanycerts"}}

// String is the name in the module.
func (r AuthorizationResponseCode) String() string { return authorizationResponseCodes.Name(uint8(r)) }

// InnerAtResponse answers InnerAtRequest.
type InnerAtResponse struct {
	RequestHash  RequestHash
	ResponseCode AuthorizationResponseCode
	Certificate  *Certificate // if the code is ok
	Additions    coer.Additions
}

// Code implements coer.Value.
func (r *InnerAtResponse) Code(c *coer.Coder) {
	s := c.Extensible(&r.Additions, r.Certificate != nil)
	coer.Octets(c.At("requestHash"), r.RequestHash[:])
	coer.Enum(c.At("responseCode"), &r.ResponseCode, &authorizationResponseCodes)
	if s.Optional() {
		needed(c, &r.Certificate).Code(c.At("certificate"))
	}
	c.Refuse((r.ResponseCode == AuthorizationOk) != (r.Certificate != nil), okAndContent)
	s.Additions()
	s.End()
}

// AuthorizationValidationRequest asks the enrolment authority whether a ticket may be issued.
type AuthorizationValidationRequest struct {
	SharedAtRequest SharedAtRequest
	EcSignature     EcSignature
	Additions       coer.Additions
}

// Code implements coer.Value.
func (r *AuthorizationValidationRequest) Code(c *coer.Coder) {
	s := c.Extensible(&r.Additions)
	r.SharedAtRequest.Code(c.At("sharedAtRequest"))
	r.EcSignature.Code(c.At("ecSignature"))
	s.Additions()
	s.End()
}

// AuthorizationValidationResponseCode is what the enrolment authority found.
type AuthorizationValidationResponseCode uint8

// The codes (TS 102 941, 6.2.3.4.2).
const (
	ValidationOk AuthorizationValidationResponseCode = iota
	ValidationCantParse
	ValidationBadContentType
	ValidationImNotTheRecipient
	ValidationUnknownEncryptionAlgorithm
	ValidationDecryptionFailed
	ValidationInvalidAa
	ValidationInvalidAaSignature
	ValidationWrongEa
	ValidationUnknownIts
	ValidationInvalidSignature
	ValidationInvalidEncryptionKey
	ValidationDeniedPermissions
	ValidationDeniedTooManyCerts
	ValidationDeniedRequest
)

var validationResponseCodes = coer.Enumeration{Extensible: true, Names: []string{"ok", "cantparse", "badcontenttype", "imnottherecipient",
	"unknownencryptionalgorithm", "decryptionfailed", "invalidaa", "invalidaasignature", "wrongea", "unknownits", "invalidsignature",
	"invalidencryptionkey", "deniedpermissions", "deniedtoomanycerts", "deniedrequest"}}

// String is the name in the module.
func (r AuthorizationValidationResponseCode) String() string {
	return validationResponseCodes.Name(uint8(r))
}

// AuthorizationValidationResponse answers AuthorizationValidationRequest.
type AuthorizationValidationResponse struct {
	RequestHash                RequestHash
	ResponseCode               AuthorizationValidationResponseCode
	ConfirmedSubjectAttributes coer.Optional[CertificateSubjectAttributes] // if the code is ok
	Additions                  coer.Additions
}

// Code implements coer.Value.
func (r *AuthorizationValidationResponse) Code(c *coer.Coder) {
	s := c.Extensible(&r.Additions, r.ConfirmedSubjectAttributes.Present)
	coer.Octets(c.At("requestHash"), r.RequestHash[:])
	coer.Enum(c.At("responseCode"), &r.ResponseCode, &validationResponseCodes)
	if s.Optional() {
		r.ConfirmedSubjectAttributes.Make().Code(c.At("confirmedSubjectAttributes"))
	}
	c.Refuse((r.ResponseCode == ValidationOk) != r.ConfirmedSubjectAttributes.Present, okAndContent)
	s.Additions()
	s.End()
}
