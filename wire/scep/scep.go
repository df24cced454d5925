// Package scep reads and writes messages of the Simple Certificate Enrolment Protocol (RFC 8894).
//
// A message is CMS SignedData around EnvelopedData:
//
//	SignedData { signed attributes: transaction, type, nonces, status ; content: EnvelopedData { what is asked for, or the certificate } }
//
// Parse reads one in BER or DER and verifies its signature, which says no more than that the sender has the key of the certificate that it sent
// along: whom that is, is for the caller to find out. Open decrypts what is inside; Build puts an answer, or a request, together.
//
// The package writes AES and SHA-256 and nothing older. It reads triple DES and SHA-1 where the caller allows them, and never single DES or MD5.
package scep

import (
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strconv"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"mooring/wire/cms"
	"mooring/wire/der"
)

// Media types (RFC 8894, section 4).
const (
	TypeMessage     = "application/x-pki-message"
	TypeCACert      = "application/x-x509-ca-cert"    // one certificate in DER
	TypeCAChain     = "application/x-x509-ca-ra-cert" // certs-only
	TypeNextCAChain = "application/x-x509-next-ca-cert"
	TypeText        = "text/plain"
)

// MaxRequest is the size in bytes over which a request is not read: a certification request with an RSA-4096 key and many names, twice wrapped.
const MaxRequest = 64 << 10

// MaxTransaction is the length in bytes over which a transaction identifier is refused.
const MaxTransaction = 256

// NonceSize is the size of the nonces that we draw (RFC 8894, section 3.2.1.5).
const NonceSize = 16

// MessageType is the type of a message (RFC 8894, section 3.2.1.2).
type MessageType int

// The message types.
const (
	CertRep    MessageType = 3
	RenewalReq MessageType = 17
	PKCSReq    MessageType = 19
	CertPoll   MessageType = 20
	GetCert    MessageType = 21
	GetCRL     MessageType = 22
)

// String returns the type's name in the RFC.
func (t MessageType) String() string {
	switch t {
	case CertRep:
		return "CertRep"
	case RenewalReq:
		return "RenewalReq"
	case PKCSReq:
		return "PKCSReq"
	case CertPoll:
		return "CertPoll"
	case GetCert:
		return "GetCert"
	case GetCRL:
		return "GetCRL"
	}
	return "type " + strconv.Itoa(int(t))
}

// Status is what became of a request (RFC 8894, section 3.2.1.3).
type Status int

// The statuses. Zero is Success.
const (
	Success Status = 0
	Failure Status = 2
	Pending Status = 3
)

// FailInfo says why a request failed (RFC 8894, section 3.2.1.4).
type FailInfo int

// The reasons.
const (
	BadAlg          FailInfo = 0
	BadMessageCheck FailInfo = 1
	BadRequest      FailInfo = 2
	BadTime         FailInfo = 3
	BadCertID       FailInfo = 4
)

// String returns the reason's name in the RFC.
func (f FailInfo) String() string {
	if names := [...]string{"badAlg", "badMessageCheck", "badRequest", "badTime", "badCertId"}; f >= 0 && int(f) < len(names) {
		return names[f]
	}
	return "reason " + strconv.Itoa(int(f))
}

// Signed attributes (RFC 8894, section 3.2.1, and RFC 8894, section 3.2.1.4 for the text).
var (
	oidMessageType    = asn1.ObjectIdentifier{2, 16, 840, 1, 113733, 1, 9, 2}
	oidStatus         = asn1.ObjectIdentifier{2, 16, 840, 1, 113733, 1, 9, 3}
	oidFailInfo       = asn1.ObjectIdentifier{2, 16, 840, 1, 113733, 1, 9, 4}
	oidSenderNonce    = asn1.ObjectIdentifier{2, 16, 840, 1, 113733, 1, 9, 5}
	oidRecipientNonce = asn1.ObjectIdentifier{2, 16, 840, 1, 113733, 1, 9, 6}
	oidTransaction    = asn1.ObjectIdentifier{2, 16, 840, 1, 113733, 1, 9, 7}
	oidFailText       = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 24, 1}
)

// Message is a message whose signature verified under the key of Signer.
type Message struct {
	Type           MessageType
	Transaction    string
	SenderNonce    []byte
	RecipientNonce []byte // of answers
	Status         Status // of answers
	FailInfo       FailInfo
	FailText       string
	// Signer is the certificate whose key signed, as the sender sent it along. Nothing about it is verified but that.
	Signer *x509.Certificate
	// Certificates are all that the sender sent along, in DER.
	Certificates [][]byte

	content []byte
}

// ErrSignature is in the chain of the error for a message that could be read, but whose signature is wrong or by a method that is not accepted. Parse
// returns the message with it, so that the answer can name the transaction.
var ErrSignature = errors.New("the signature of the message does not verify")

// Parse reads a message. Other errors than ErrSignature mean that it cannot be read at all, or lacks what every message has.
func Parse(ber []byte) (*Message, error) { return parse(ber, (*cms.Signed).Verify) }

// ParseSHA1 is Parse, and takes signatures with SHA-1 too, as older clients make them: see cms.Signed.VerifySHA1.
func ParseSHA1(ber []byte) (*Message, error) { return parse(ber, (*cms.Signed).VerifySHA1) }

func parse(ber []byte, verify func(*cms.Signed, *x509.Certificate) (*cms.SignerInfo, error)) (*Message, error) {
	if len(ber) > cms.MaxSize {
		return nil, fmt.Errorf("the message has %d bytes; at most %d are read", len(ber), cms.MaxSize)
	}
	whole, err := cms.FromBER(ber)
	if err != nil {
		return nil, err
	}
	signed, err := cms.ParseSigned(whole)
	if err != nil {
		return nil, err
	}
	if len(signed.Signers) != 1 {
		return nil, fmt.Errorf("the message has %d signatures, want one", len(signed.Signers))
	}
	info := &signed.Signers[0]
	m := &Message{Certificates: signed.Certificates, content: signed.Content}
	for _, raw := range signed.Certificates {
		// One that Go cannot read may be for others.
		if cert, err := x509.ParseCertificate(raw); err == nil && info.ID.Matches(cert) {
			m.Signer = cert
		}
	}
	if m.Signer == nil {
		return nil, errors.New("the message does not carry the certificate of its signer, or it cannot be parsed")
	}
	if err := m.readAttributes(info); err != nil {
		return nil, err
	}
	if signed.Content == nil {
		signed.Content = []byte{} // answers without a certificate have none
	}
	// Verifying with a hostile key may be slow.
	if err := der.CheckKey(m.Signer.PublicKey); err != nil {
		return m, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	if _, err := verify(signed, m.Signer); err != nil {
		return m, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	return m, nil
}

func (m *Message) readAttributes(info *cms.SignerInfo) error {
	kind, err := number(info.Attribute(oidMessageType))
	if err != nil {
		return fmt.Errorf("the messageType %w", err)
	}
	m.Type = MessageType(kind)
	if m.Transaction, err = printable(info.Attribute(oidTransaction)); err != nil || m.Transaction == "" || len(m.Transaction) > MaxTransaction {
		return fmt.Errorf("the transactionID is not a PrintableString of 1 to %d characters", MaxTransaction)
	}
	var ok bool
	if m.SenderNonce, ok = octets(info.Attribute(oidSenderNonce)); !ok || len(m.SenderNonce) == 0 || len(m.SenderNonce) > 64 {
		return errors.New("the senderNonce is not an OCTET STRING of 1 to 64 octets")
	}
	if m.Type != CertRep {
		return nil
	}
	if m.RecipientNonce, ok = octets(info.Attribute(oidRecipientNonce)); !ok {
		return errors.New("the recipientNonce is not an OCTET STRING")
	}
	status, err := number(info.Attribute(oidStatus))
	if err != nil {
		return fmt.Errorf("the pkiStatus %w", err)
	}
	if m.Status = Status(status); m.Status != Failure {
		return nil
	}
	reason, err := number(info.Attribute(oidFailInfo))
	if err != nil {
		return fmt.Errorf("the failInfo %w", err)
	}
	m.FailInfo = FailInfo(reason)
	if der := info.Attribute(oidFailText); der != nil {
		s := cryptobyte.String(der)
		var text cryptobyte.String
		if s.ReadASN1(&text, cbasn1.UTF8String) && s.Empty() {
			m.FailText = string(text)
		}
	}
	return nil
}

// Cipher returns how the content is encrypted, or 0 when there is none, or in no cipher that we have.
func (m *Message) Cipher() cms.Cipher {
	e, err := cms.ParseEnveloped(m.content)
	if err != nil {
		return 0
	}
	return e.Cipher()
}

// OpenKey is what opens the content of messages.
type OpenKey struct {
	Certificate *x509.Certificate
	// Key decrypts RSA by PKCS #1 v1.5 and OAEP.
	Key crypto.Decrypter
	// TripleDES lets content in triple DES be opened.
	TripleDES bool
	Rand      io.Reader
}

// ErrOpen is the one error of Open for everything that depends on the content, so that an answer teaches nothing about it.
var ErrOpen = errors.New("the content of the message cannot be opened")

// Open decrypts what is inside. A wrong padding of the RSA encryption gives nonsense rather than an error (RFC 3218, section 2.3.2), so whoever
// parses what Open returns must answer to nonsense as to ErrOpen.
func (m *Message) Open(key OpenKey) ([]byte, error) {
	e, err := cms.ParseEnveloped(m.content)
	if err != nil {
		return nil, ErrOpen
	}
	// A message for one recipient is tried whatever certificate it names: those of several nodes, and the one before a renewal, are for the same key.
	id := cms.IssuerAndSerial(key.Certificate)
	if len(e.Recipients) == 1 {
		id = e.Recipients[0].ID
	}
	content, err := e.Open(cms.RSAKey{ID: id, Key: key.Key, PKCS1v15: true, TripleDES: key.TripleDES, Rand: key.Rand})
	if err != nil {
		return nil, ErrOpen
	}
	return content, nil
}

// Input is what Build puts together.
type Input struct {
	Type           MessageType
	Transaction    string
	SenderNonce    []byte
	RecipientNonce []byte // of answers
	Status         Status // of answers
	FailInfo       FailInfo
	FailText       string // for people; "" for none
	// Content is encrypted for Recipient, in Cipher (0: AES-128-CBC). Answers other than Success have none.
	Content   []byte
	Recipient *x509.Certificate
	Cipher    cms.Cipher

	Signer      crypto.Signer
	Certificate *x509.Certificate // of Signer; it is sent along
	Rand        io.Reader
}

// ErrKey is in the chain of Build's error when the recipient's key is not RSA: the protocol can encrypt to no other.
var ErrKey = errors.New("SCEP needs an RSA key")

// Build returns a message in DER.
func Build(in Input) ([]byte, error) {
	attributes, err := in.attributes()
	if err != nil {
		return nil, fmt.Errorf("encoding the attributes of a message: %w", err)
	}
	content := []byte{}
	if in.Content != nil {
		public, ok := in.Recipient.PublicKey.(*rsa.PublicKey)
		if !ok {
			return nil, fmt.Errorf("encrypting for a key of type %T: %w", in.Recipient.PublicKey, ErrKey)
		}
		c := in.Cipher
		if c == 0 {
			c = cms.AES128CBC
		}
		content, err = cms.Encrypt(cms.EncryptInput{ContentType: cms.OIDData, Content: in.Content, Cipher: c, Rand: in.Rand,
			Recipients: []cms.Recipient{cms.RSARecipient{ID: cms.IssuerAndSerial(in.Recipient), Key: public, PKCS1v15: true}}})
		if err != nil {
			return nil, err
		}
	}
	return cms.Sign(cms.SignInput{ContentType: cms.OIDData, Content: content, Signer: in.Signer, Certificate: in.Certificate, Attributes: attributes, Rand: in.Rand})
}

func (in *Input) attributes() (list []cms.Attribute, err error) {
	add := func(oid asn1.ObjectIdentifier, tag cbasn1.Tag, value []byte) {
		var b cryptobyte.Builder
		b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes(value) })
		der, e := b.Bytes()
		err = errors.Join(err, e)
		list = append(list, cms.Attribute{Type: oid, Values: [][]byte{der}})
	}
	digits := func(oid asn1.ObjectIdentifier, n int) { add(oid, cbasn1.PrintableString, []byte(strconv.Itoa(n))) }
	digits(oidMessageType, int(in.Type))
	add(oidTransaction, cbasn1.PrintableString, []byte(in.Transaction))
	add(oidSenderNonce, cbasn1.OCTET_STRING, in.SenderNonce)
	if in.Type != CertRep {
		return list, err
	}
	add(oidRecipientNonce, cbasn1.OCTET_STRING, in.RecipientNonce)
	digits(oidStatus, int(in.Status))
	if in.Status == Failure {
		digits(oidFailInfo, int(in.FailInfo))
		if in.FailText != "" {
			add(oidFailText, cbasn1.UTF8String, []byte(in.FailText))
		}
	}
	return list, err
}

// IssuerAndSubject is what CertPoll asks about (RFC 8894, section 3.3.3).
type IssuerAndSubject struct{ Issuer, Subject []byte } // names in DER

// ParseIssuerAndSubject reads the content of a CertPoll.
func ParseIssuerAndSubject(der []byte) (n IssuerAndSubject, err error) {
	s := cryptobyte.String(der)
	var body, issuer, subject cryptobyte.String
	if !s.ReadASN1(&body, cbasn1.SEQUENCE) || !s.Empty() || !body.ReadASN1Element(&issuer, cbasn1.SEQUENCE) || !body.ReadASN1Element(&subject, cbasn1.SEQUENCE) || !body.Empty() {
		return n, errors.New("it is not an IssuerAndSubject in DER")
	}
	return IssuerAndSubject{issuer, subject}, nil
}

// Encode returns the DER.
func (n IssuerAndSubject) Encode() ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(n.Issuer); b.AddBytes(n.Subject) })
	return b.Bytes()
}

// IssuerAndSerial is what GetCert and GetCRL ask about (RFC 8894, sections 3.3.4 and 3.3.5).
type IssuerAndSerial struct {
	Issuer []byte // a name in DER
	Serial *big.Int
}

// ParseIssuerAndSerial reads the content of a GetCert or GetCRL.
func ParseIssuerAndSerial(der []byte) (n IssuerAndSerial, err error) {
	s := cryptobyte.String(der)
	var body, issuer cryptobyte.String
	n.Serial = new(big.Int)
	if !s.ReadASN1(&body, cbasn1.SEQUENCE) || !s.Empty() || !body.ReadASN1Element(&issuer, cbasn1.SEQUENCE) || !body.ReadASN1Integer(n.Serial) || !body.Empty() {
		return n, errors.New("it is not an IssuerAndSerialNumber in DER")
	}
	n.Issuer = issuer
	return n, nil
}

// Encode returns the DER.
func (n IssuerAndSerial) Encode() ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(n.Issuer); b.AddASN1BigInt(n.Serial) })
	return b.Bytes()
}

// number reads an attribute of decimal digits.
func number(der []byte) (int, error) {
	text, err := printable(der)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return 0, errors.New("is not a number")
	}
	return int(n), nil
}

// printable reads a PrintableString, which must hold nothing that would be hard to print: some clients put base64 into it.
func printable(der []byte) (string, error) {
	s := cryptobyte.String(der)
	var text cryptobyte.String
	if !s.ReadASN1(&text, cbasn1.PrintableString) || !s.Empty() {
		return "", errors.New("is not a PrintableString")
	}
	for _, c := range text {
		if c < ' ' || c > '~' {
			return "", errors.New("holds characters that cannot be printed")
		}
	}
	return string(text), nil
}

func octets(der []byte) ([]byte, bool) {
	s := cryptobyte.String(der)
	var value cryptobyte.String
	ok := s.ReadASN1(&value, cbasn1.OCTET_STRING) && s.Empty()
	return value, ok
}
