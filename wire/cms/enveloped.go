package cms

import (
	"encoding/asn1"
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// EncryptInput is what Encrypt puts together.
type EncryptInput struct {
	// ContentType is the type of Content. When it is not OIDData, Content is the DER of the content, without ContentInfo.
	ContentType asn1.ObjectIdentifier
	Content     []byte
	Cipher      Cipher
	// Recipients are the 1 to 8 keys that can open the message.
	Recipients []Recipient
	// Rand is the source of the content key, nonces and ephemeral keys. It must be cryptographically strong.
	Rand io.Reader
}

// Encrypt returns the DER of a ContentInfo with EnvelopedData, or with AuthEnvelopedData for the GCM ciphers.
func Encrypt(in EncryptInput) ([]byte, error) {
	spec, err := in.Cipher.spec()
	if err != nil {
		return nil, err
	}
	if n := len(in.Recipients); n == 0 || n > maxRecipients {
		return nil, fmt.Errorf("a message for %d recipients cannot be made; 1 to %d are allowed", n, maxRecipients)
	}
	key := make([]byte, spec.keySize)
	defer clear(key)
	if _, err := io.ReadFull(in.Rand, key); err != nil {
		return nil, fmt.Errorf("drawing a content key: %w", err)
	}
	var recipients [][]byte
	for _, r := range in.Recipients {
		var b cryptobyte.Builder
		if err := r.add(&b, in.Rand, key); err != nil {
			return nil, err
		}
		info, err := b.Bytes()
		if err != nil {
			return nil, fmt.Errorf("encoding a recipient: %w", err)
		}
		recipients = append(recipients, info)
	}
	if spec.gcm {
		return encryptAuthenticated(in, spec, key, recipients)
	}
	content, err := spec.seal(in.Rand, key, in.Content, nil)
	if err != nil {
		return nil, err
	}
	return buildContentInfo(OIDEnvelopedData, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1Int64(envelopeVersion(in.Recipients))
			addSetOf(b, cbasn1.SET, recipients)
			addEncryptedContent(b, in.ContentType, content)
		})
	})
}

// encryptAuthenticated makes AuthEnvelopedData. Content other than plain data needs its type among authenticated
// attributes (RFC 5083, section 2.1).
func encryptAuthenticated(in EncryptInput, spec cipherSpec, key []byte, recipients [][]byte) ([]byte, error) {
	var associated []byte
	if !in.ContentType.Equal(OIDData) {
		value, err := encoded(func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(in.ContentType) })
		if err != nil {
			return nil, err
		}
		if associated, err = encodeAttributes(cbasn1.SET, []Attribute{{OIDContentType, [][]byte{value}}}); err != nil {
			return nil, err
		}
	}
	content, err := spec.seal(in.Rand, key, in.Content, associated)
	if err != nil {
		return nil, err
	}
	return buildContentInfo(OIDAuthEnvelopedData, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1Int64(0)
			addSetOf(b, cbasn1.SET, recipients)
			addEncryptedContent(b, in.ContentType, content)
			if associated != nil {
				b.AddBytes(append([]byte{byte(tag1)}, associated[1:]...))
			}
			b.AddASN1OctetString(content.mac)
		})
	})
}

// envelopeVersion follows RFC 5652, section 6.1.
func envelopeVersion(recipients []Recipient) int64 {
	for _, r := range recipients {
		if !r.original() {
			return 2
		}
	}
	return 0
}

func addEncryptedContent(b *cryptobyte.Builder, contentType asn1.ObjectIdentifier, content sealed) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(contentType)
		addAlgorithm(b, content.algorithm)
		b.AddASN1(tag0Prim, func(b *cryptobyte.Builder) { b.AddBytes(content.ciphertext) })
	})
}

// Enveloped is a parsed EnvelopedData or AuthEnvelopedData.
type Enveloped struct {
	// ContentType is the type of what is inside. Only an authenticated message proves it.
	ContentType asn1.ObjectIdentifier
	// Authenticated tells AuthEnvelopedData from EnvelopedData, whose content anybody can change.
	Authenticated bool
	// Recipients are those of the kinds that we can open.
	Recipients []RecipientInfo
	content    sealed
	associated []byte
}

// RecipientInfo tells for whom a message is.
type RecipientInfo struct {
	// ID names the recipient's RSA or elliptic-curve key.
	ID KeyID
	// SharedID names a shared key; then ID is empty.
	SharedID []byte
	// algorithm is the key encryption, or the key wrap after an agreement.
	algorithm Algorithm
	encrypted []byte
	// agreement is set for elliptic-curve keys.
	agreement *agreement
}

// agreement is what the sender of a key agreement gave.
type agreement struct {
	scheme      asn1.ObjectIdentifier
	point, user []byte
}

// ParseEnveloped reads a ContentInfo with EnvelopedData or AuthEnvelopedData. Recipients of unknown kinds are left out.
func ParseEnveloped(der []byte) (*Enveloped, error) {
	contentType, content, err := ParseContentInfo(der)
	if err != nil {
		return nil, err
	}
	e := new(Enveloped)
	e.Authenticated = contentType.Equal(OIDAuthEnvelopedData)
	if !e.Authenticated && !contentType.Equal(OIDEnvelopedData) {
		return nil, fmt.Errorf("CMS message has content type %v, want an envelope", contentType)
	}
	input := cryptobyte.String(content)
	var s, recipients cryptobyte.String
	var version int64
	if !input.ReadASN1(&s, cbasn1.SEQUENCE) || !s.ReadASN1Integer(&version) || version < 0 || version > 4 ||
		e.Authenticated && version != 0 || !s.SkipOptionalASN1(tag0) || !s.ReadASN1(&recipients, cbasn1.SET) || !readEncryptedContent(&s, e) {
		return nil, fmt.Errorf("reading the envelope: %w", errForm)
	}
	if e.Authenticated && !readAuthentication(&s, e) {
		return nil, fmt.Errorf("reading the authentication of the envelope: %w", errForm)
	}
	unprotected := tag1
	if e.Authenticated {
		unprotected = tag2
	}
	if !s.SkipOptionalASN1(unprotected) || !s.Empty() {
		return nil, fmt.Errorf("reading the end of the envelope: %w", errForm)
	}
	if !readRecipients(recipients, e) {
		return nil, fmt.Errorf("reading the recipients, of which there may be %d: %w", maxRecipients, errForm)
	}
	return e, nil
}

func readEncryptedContent(s *cryptobyte.String, e *Enveloped) bool {
	var body, ciphertext cryptobyte.String
	if !s.ReadASN1(&body, cbasn1.SEQUENCE) || !body.ReadASN1ObjectIdentifier(&e.ContentType) ||
		!readAlgorithm(&body, &e.content.algorithm) || !body.ReadASN1(&ciphertext, tag0Prim) || !body.Empty() {
		return false
	}
	e.content.ciphertext = ciphertext
	return true
}

// readAuthentication reads the authenticated attributes, which must tell the content type, and the tag.
func readAuthentication(s *cryptobyte.String, e *Enveloped) bool {
	before := *s
	if s.PeekASN1Tag(tag1) {
		var set cryptobyte.String
		if !s.ReadASN1(&set, tag1) {
			return false
		}
		attributes, ok := readAttributes(set)
		info := SignerInfo{Attributes: attributes}
		want, err := encoded(func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(e.ContentType) })
		if !ok || err != nil || string(info.Attribute(OIDContentType)) != string(want) {
			return false
		}
		element := before[:len(before)-len(*s)]
		e.associated = append([]byte{byte(cbasn1.SET)}, element[1:]...)
	} else if !e.ContentType.Equal(OIDData) {
		return false
	}
	var mac cryptobyte.String
	if !s.ReadASN1(&mac, cbasn1.OCTET_STRING) {
		return false
	}
	e.content.mac = append([]byte{}, mac...)
	return true
}

func readRecipients(s cryptobyte.String, e *Enveloped) bool {
	for seen := 0; !s.Empty(); seen++ {
		var element cryptobyte.String
		var tag cbasn1.Tag
		if seen == maxRecipients || !s.ReadAnyASN1(&element, &tag) {
			return false
		}
		var infos []RecipientInfo
		ok := true
		switch tag {
		case cbasn1.SEQUENCE:
			infos, ok = readTransport(element)
		case tag1:
			infos, ok = readAgreement(element)
		case tag2:
			infos, ok = readShared(element)
		}
		if e.Recipients = append(e.Recipients, infos...); !ok || len(e.Recipients) > maxRecipients {
			return false
		}
	}
	return true
}

// readTransport reads the content of a KeyTransRecipientInfo.
func readTransport(s cryptobyte.String) ([]RecipientInfo, bool) {
	var version int64
	var encrypted cryptobyte.String
	var r RecipientInfo
	ok := s.ReadASN1Integer(&version) && readKeyID(&s, &r.ID) && (version == 2) == (r.ID.SubjectKey != nil) &&
		(version == 0 || version == 2) && readAlgorithm(&s, &r.algorithm) && s.ReadASN1(&encrypted, cbasn1.OCTET_STRING) && s.Empty()
	r.encrypted = encrypted
	return []RecipientInfo{r}, ok
}

// readAgreement reads the content of a KeyAgreeRecipientInfo, which may be for several recipients. Only an ephemeral
// sender is of use to us.
func readAgreement(s cryptobyte.String) ([]RecipientInfo, bool) {
	var version int64
	var originator, user, octets, list cryptobyte.String
	var scheme, wrap Algorithm
	var hasUser bool
	if !s.ReadASN1Integer(&version) || version != 3 || !s.ReadASN1(&originator, tag0) ||
		!s.ReadOptionalASN1(&user, &hasUser, tag1) || hasUser && (!user.ReadASN1(&octets, cbasn1.OCTET_STRING) || !user.Empty()) ||
		!readAlgorithm(&s, &scheme) || !s.ReadASN1(&list, cbasn1.SEQUENCE) || !s.Empty() {
		return nil, false
	}
	if !originator.PeekASN1Tag(tag1) {
		return nil, true
	}
	a := &agreement{scheme: scheme.OID}
	if hasUser {
		a.user = append([]byte{}, octets...)
	}
	parameters := cryptobyte.String(scheme.Parameters)
	if !readOriginatorKey(originator, a) || !readAlgorithm(&parameters, &wrap) || !parameters.Empty() {
		return nil, false
	}
	var infos []RecipientInfo
	for !list.Empty() {
		var body, encrypted cryptobyte.String
		r := RecipientInfo{algorithm: wrap, agreement: a}
		if len(infos) == maxRecipients || !list.ReadASN1(&body, cbasn1.SEQUENCE) || !readAgreementID(&body, &r.ID) ||
			!body.ReadASN1(&encrypted, cbasn1.OCTET_STRING) || !body.Empty() {
			return nil, false
		}
		r.encrypted = encrypted
		infos = append(infos, r)
	}
	return infos, true
}

func readOriginatorKey(s cryptobyte.String, a *agreement) bool {
	var key cryptobyte.String
	var algorithm Algorithm
	return s.ReadASN1(&key, tag1) && s.Empty() && readAlgorithm(&key, &algorithm) &&
		algorithm.OID.Equal(oidECPublicKey) && key.ReadASN1BitStringAsBytes(&a.point) && key.Empty()
}

// readAgreementID reads a KeyAgreeRecipientIdentifier; date and other attributes of a key are ignored.
func readAgreementID(s *cryptobyte.String, id *KeyID) bool {
	if !s.PeekASN1Tag(tag0) {
		return readIssuerAndSerial(s, id)
	}
	var body, ski cryptobyte.String
	return s.ReadASN1(&body, tag0) && body.ReadASN1(&ski, cbasn1.OCTET_STRING) && setBytes(&id.SubjectKey, ski)
}

// readShared reads the content of a KEKRecipientInfo; date and other attributes of a key are ignored.
func readShared(s cryptobyte.String) ([]RecipientInfo, bool) {
	var version int64
	var body, id, encrypted cryptobyte.String
	var r RecipientInfo
	ok := s.ReadASN1Integer(&version) && version == 4 && s.ReadASN1(&body, cbasn1.SEQUENCE) &&
		body.ReadASN1(&id, cbasn1.OCTET_STRING) && setBytes(&r.SharedID, id) && readAlgorithm(&s, &r.algorithm) &&
		s.ReadASN1(&encrypted, cbasn1.OCTET_STRING) && s.Empty()
	r.encrypted = encrypted
	return []RecipientInfo{r}, ok
}

// Cipher returns how the content is encrypted, or 0 for a cipher that we do not have.
func (e *Enveloped) Cipher() Cipher { return cipherOf(e.content.algorithm.OID) }

// Open decrypts the content with the key of one recipient. A wrong key and changed content give one and the same error.
// A message that is not Authenticated may have been changed without trace; its content needs protection of its own.
func (e *Enveloped) Open(key Key) ([]byte, error) {
	if !key.opens(e.Cipher()) {
		return nil, fmt.Errorf("content encryption %v is not supported", e.content.algorithm.OID)
	}
	spec, _ := e.Cipher().spec()
	var found bool
	for i := range e.Recipients {
		r := &e.Recipients[i]
		if !key.names(r) {
			continue
		}
		found = true
		contentKey, err := key.contentKey(r, spec.keySize)
		if err != nil {
			continue
		}
		return e.content.open(contentKey, e.associated)
	}
	if !found {
		return nil, errors.New("CMS message is not for this key")
	}
	return nil, errOpen
}
