// Package cmp reads and writes the messages of the Certificate Management Protocol: RFC 9810 (which replaces RFC 4210), with the requests of
// RFC 4211, the algorithms of RFC 9481, and the choices of the Lightweight CMP Profile, RFC 9483.
//
//	PKIMessage ::= SEQUENCE {
//	    header           PKIHeader,
//	    body             PKIBody,
//	    protection   [0] BIT STRING OPTIONAL,
//	    extraCerts   [1] SEQUENCE OF Certificate OPTIONAL }
//
//	PKIHeader ::= SEQUENCE {
//	    pvno INTEGER, sender GeneralName, recipient GeneralName,
//	    messageTime [0] GeneralizedTime OPTIONAL, protectionAlg [1] AlgorithmIdentifier OPTIONAL,
//	    senderKID [2] OCTET STRING OPTIONAL, recipKID [3] OCTET STRING OPTIONAL, transactionID [4] OCTET STRING OPTIONAL,
//	    senderNonce [5] OCTET STRING OPTIONAL, recipNonce [6] OCTET STRING OPTIONAL,
//	    freeText [7] SEQUENCE OF UTF8String OPTIONAL, generalInfo [8] SEQUENCE OF InfoTypeAndValue OPTIONAL }
//
// The body is one of the Body types of this package. What is protected is the DER of SEQUENCE { header, body }, by a signature
// (Message.Verify, Signer) or by a message authentication code made with a shared secret (Message.CheckMAC, MAC).
//
// Reading is for hostile bytes: strict DER, at most MaxSize of it, every list bounded. Parse checks form only. Whether a message may be believed,
// whether its nonces and times are right, and whether a certificate is given is for the caller to decide.
//
// The package deliberately knows no popdecc, ccr, CRL or key announcements and no key recovery, of the proofs of possession only signatures and the
// word of a registration authority, and no transport.
package cmp

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"mooring/wire/der"
)

// Of the transfer by HTTP (RFC 9811, section 3).
const (
	MediaType = "application/pkixcmp"
	WellKnown = "/.well-known/cmp" // and below it /p/PROFILE, each with or without an operation behind
)

// The bounds of one message.
const (
	MaxSize    = 128 << 10 // octets; requests are far smaller, answers carry chains
	maxCerts   = 64        // in one list
	maxInfo    = 32        // InfoTypeAndValue in one list
	maxText    = 16        // UTF8String in one list
	maxEntries = 16        // requests, responses and the like in one body
	maxID      = 64        // octets of a transactionID, nonce or key identifier
	maxNested  = 16        // messages in one nested message
)

// Header is a PKIHeader (RFC 9810, section 5.1.1).
type Header struct {
	Version int // pvno: 2, or 3 where EnvelopedData or the hashAlg of a certConf is used
	// Sender and Recipient are DER Names; nil when the GeneralName is of another kind, which nobody uses. The empty Name is NULL-DN.
	Sender, Recipient []byte
	Time              time.Time // of whole seconds; zero = absent
	Protection        []byte    // the AlgorithmIdentifier; nil = absent
	SenderKID         []byte
	RecipientKID      []byte
	Transaction       []byte
	SenderNonce       []byte
	RecipientNonce    []byte
	Text              []string
	Info              []Info
}

// Info is an InfoTypeAndValue. Value is one DER value, or nil.
type Info struct {
	Type  der.OID
	Value []byte
}

// Find returns the first of a list that has the type.
func Find(list []Info, t der.OID) (Info, bool) {
	for _, i := range list {
		if i.Type == t {
			return i, true
		}
	}
	return Info{}, false
}

// Message is a PKIMessage that was read. It refers to the octets that Parse was given.
type Message struct {
	Raw        []byte // all of it
	Header     Header
	Body       Body
	Protection []byte // content of the BIT STRING; nil = absent
	Certs      [][]byte

	header, body []byte // as they came
}

// Empty is the DER of a Name without parts, the NULL-DN of senders that have no name.
const Empty = "\x30\x00"

var errMalformed = errors.New("malformed CMP message (not strict DER, or not of the standard's shape)")

func malformed(what string) error {
	return fmt.Errorf("malformed %s (not strict DER, or not of the standard's shape)", what)
}

func context(n uint8) asn1.Tag { return asn1.Tag(n).ContextSpecific().Constructed() }

// Parse reads one message.
func Parse(in []byte) (*Message, error) {
	if len(in) > MaxSize {
		return nil, fmt.Errorf("a message of %d octets; at most %d are read", len(in), MaxSize)
	}
	m := &Message{Raw: in}
	s := cryptobyte.String(in)
	var all, header, body cryptobyte.String
	if !s.ReadASN1(&all, asn1.SEQUENCE) || !s.Empty() || !all.ReadASN1Element(&header, asn1.SEQUENCE) {
		return nil, errMalformed
	}
	var tag asn1.Tag
	if !all.ReadAnyASN1Element(&body, &tag) {
		return nil, errMalformed
	}
	m.header, m.body = header, body
	if err := m.parseTail(all); err != nil {
		return nil, err
	}
	if err := m.Header.parse(header); err != nil {
		return nil, err
	}
	var err error
	m.Body, err = parseBody(body)
	return m, err
}

func (m *Message) parseTail(s cryptobyte.String) error {
	var protection, certs cryptobyte.String
	var there bool
	if !s.ReadOptionalASN1(&protection, &there, context(0)) {
		return errMalformed
	}
	if there {
		if !protection.ReadASN1BitStringAsBytes(&m.Protection) || !protection.Empty() || len(m.Protection) == 0 {
			return malformed("protection")
		}
	}
	if !s.ReadOptionalASN1(&certs, &there, context(1)) || !s.Empty() {
		return errMalformed
	}
	if there {
		list, err := sequenceOf(&certs, "extraCerts", maxCerts)
		if err != nil || !certs.Empty() {
			return malformed("extraCerts")
		}
		m.Certs = list
	}
	return nil
}

// sequenceOf reads a SEQUENCE OF SEQUENCE and returns its whole elements, of which there must be at least one.
func sequenceOf(s *cryptobyte.String, what string, most int) ([][]byte, error) {
	var list cryptobyte.String
	if !s.ReadASN1(&list, asn1.SEQUENCE) || list.Empty() {
		return nil, malformed(what)
	}
	var out [][]byte
	for !list.Empty() {
		var element cryptobyte.String
		if !list.ReadASN1Element(&element, asn1.SEQUENCE) {
			return nil, malformed(what)
		}
		if len(out) == most {
			return nil, fmt.Errorf("%s: more than %d", what, most)
		}
		out = append(out, element)
	}
	return out, nil
}

func (h *Header) parse(in cryptobyte.String) error {
	what := malformed("header")
	var s cryptobyte.String
	if !in.ReadASN1(&s, asn1.SEQUENCE) || !s.ReadASN1Integer(&h.Version) {
		return what
	}
	var err error
	if h.Sender, err = readGeneralName(&s); err != nil {
		return fmt.Errorf("sender: %w", err)
	}
	if h.Recipient, err = readGeneralName(&s); err != nil {
		return fmt.Errorf("recipient: %w", err)
	}
	var field cryptobyte.String
	var there bool
	if !s.ReadOptionalASN1(&field, &there, context(0)) {
		return what
	}
	if there && (!field.ReadASN1GeneralizedTime(&h.Time) || !field.Empty()) {
		return malformed("messageTime")
	}
	if !s.ReadOptionalASN1(&field, &there, context(1)) {
		return what
	}
	if there {
		var algorithm cryptobyte.String
		if !field.ReadASN1Element(&algorithm, asn1.SEQUENCE) || !field.Empty() {
			return malformed("protectionAlg")
		}
		h.Protection = algorithm
	}
	for i, to := range []*[]byte{&h.SenderKID, &h.RecipientKID, &h.Transaction, &h.SenderNonce, &h.RecipientNonce} {
		if !s.ReadOptionalASN1(&field, &there, context(uint8(2+i))) {
			return what
		}
		if !there {
			continue
		}
		if !field.ReadASN1Bytes(to, asn1.OCTET_STRING) || !field.Empty() || len(*to) > maxID {
			return malformed("header: a key identifier, transactionID or nonce, of at most 64 octets,")
		}
		if *to == nil {
			*to = []byte{}
		}
	}
	return h.parseRest(s)
}

func (h *Header) parseRest(s cryptobyte.String) (err error) {
	var field cryptobyte.String
	var there bool
	if !s.ReadOptionalASN1(&field, &there, context(7)) {
		return malformed("header")
	}
	if there {
		if h.Text, err = readText(&field); err != nil || !field.Empty() {
			return malformed("freeText")
		}
	}
	if !s.ReadOptionalASN1(&field, &there, context(8)) || !s.Empty() {
		return malformed("header")
	}
	if there {
		if h.Info, err = readInfo(&field); err != nil {
			return err
		}
		if !field.Empty() {
			return malformed("generalInfo")
		}
	}
	return nil
}

// readGeneralName returns the Name of a directoryName, or nil for another kind.
func readGeneralName(s *cryptobyte.String) ([]byte, error) {
	var content, name cryptobyte.String
	var tag asn1.Tag
	if !s.ReadAnyASN1(&content, &tag) || tag&^0x3f != asn1.Tag(0).ContextSpecific() || tag&0x1f > 8 {
		return nil, malformed("name")
	}
	if tag != context(4) {
		return nil, nil
	}
	if !content.ReadASN1Element(&name, asn1.SEQUENCE) || !content.Empty() {
		return nil, malformed("name")
	}
	return name, nil
}

// readText reads a PKIFreeText.
func readText(s *cryptobyte.String) ([]string, error) {
	var list cryptobyte.String
	if !s.ReadASN1(&list, asn1.SEQUENCE) || list.Empty() {
		return nil, malformed("free text")
	}
	var out []string
	for !list.Empty() {
		var text cryptobyte.String
		if !list.ReadASN1(&text, asn1.UTF8String) || len(out) == maxText {
			return nil, malformed("free text")
		}
		out = append(out, string(text))
	}
	return out, nil
}

// readInfo reads a SEQUENCE OF InfoTypeAndValue.
func readInfo(s *cryptobyte.String) ([]Info, error) {
	var list cryptobyte.String
	if !s.ReadASN1(&list, asn1.SEQUENCE) {
		return nil, malformed("list of InfoTypeAndValue")
	}
	var out []Info
	for !list.Empty() {
		var item cryptobyte.String
		if !list.ReadASN1(&item, asn1.SEQUENCE) || len(out) == maxInfo {
			return nil, malformed("list of InfoTypeAndValue")
		}
		i, err := readTypeAndValue(item)
		if err != nil {
			return nil, err
		}
		out = append(out, i)
	}
	return out, nil
}

func readTypeAndValue(item cryptobyte.String) (i Info, err error) {
	if i.Type, err = readOID(&item); err != nil {
		return i, err
	}
	if item.Empty() {
		return i, nil
	}
	var value cryptobyte.String
	var tag asn1.Tag
	if !item.ReadAnyASN1Element(&value, &tag) || !item.Empty() {
		return i, malformed("InfoTypeAndValue")
	}
	i.Value = value
	return i, nil
}

// readOID reads an object identifier with minimal numbers.
func readOID(s *cryptobyte.String) (der.OID, error) {
	var content cryptobyte.String
	if !s.ReadASN1(&content, asn1.OBJECT_IDENTIFIER) || len(content) == 0 || len(content) > maxID || content[len(content)-1]&0x80 != 0 {
		return "", malformed("object identifier")
	}
	for i, b := range content {
		if b == 0x80 && (i == 0 || content[i-1]&0x80 == 0) {
			return "", malformed("object identifier")
		}
	}
	return der.OID(content), nil
}

// protected returns what is protected of a message: SEQUENCE { header, body }.
func protected(header, body []byte) []byte {
	out := der.AppendHeader(make([]byte, 0, len(header)+len(body)+6), 0x30, len(header)+len(body))
	return append(append(out, header...), body...)
}

// Protector protects messages: Signer or MAC.
type Protector interface {
	// algorithm is the AlgorithmIdentifier that stands in the header.
	algorithm() ([]byte, error)
	protect(part []byte) ([]byte, error)
}

// Build returns the DER of a message with this header and body, protected by p, or unprotected when p is nil. The header's Protection is p's to
// set.
func Build(h Header, body Body, certs [][]byte, p Protector) ([]byte, error) {
	h.Protection = nil
	if p != nil {
		algorithm, err := p.algorithm()
		if err != nil {
			return nil, err
		}
		h.Protection = algorithm
	}
	var b cryptobyte.Builder
	h.build(&b)
	header, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("building a header: %w", err)
	}
	content, err := buildBody(body)
	if err != nil {
		return nil, err
	}
	var protection []byte
	if p != nil {
		if protection, err = p.protect(protected(header, content)); err != nil {
			return nil, err
		}
	}
	var out cryptobyte.Builder
	out.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(header)
		b.AddBytes(content)
		if protection != nil {
			b.AddASN1(context(0), func(b *cryptobyte.Builder) { b.AddASN1BitString(protection) })
		}
		if len(certs) > 0 {
			b.AddASN1(context(1), func(b *cryptobyte.Builder) { addAll(b, certs) })
		}
	})
	return out.Bytes()
}

func (h *Header) build(b *cryptobyte.Builder) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(int64(h.Version))
		addGeneralName(b, h.Sender)
		addGeneralName(b, h.Recipient)
		if !h.Time.IsZero() {
			b.AddASN1(context(0), func(b *cryptobyte.Builder) { b.AddASN1GeneralizedTime(h.Time.UTC().Truncate(time.Second)) })
		}
		if h.Protection != nil {
			b.AddASN1(context(1), func(b *cryptobyte.Builder) { b.AddBytes(h.Protection) })
		}
		for i, octets := range [][]byte{h.SenderKID, h.RecipientKID, h.Transaction, h.SenderNonce, h.RecipientNonce} {
			if octets != nil {
				b.AddASN1(context(uint8(2+i)), func(b *cryptobyte.Builder) { b.AddASN1OctetString(octets) })
			}
		}
		if len(h.Text) > 0 {
			b.AddASN1(context(7), func(b *cryptobyte.Builder) { addText(b, h.Text) })
		}
		if len(h.Info) > 0 {
			b.AddASN1(context(8), func(b *cryptobyte.Builder) { addInfo(b, h.Info) })
		}
	})
}

func addGeneralName(b *cryptobyte.Builder, name []byte) {
	if name == nil {
		name = []byte(Empty)
	}
	b.AddASN1(context(4), func(b *cryptobyte.Builder) { b.AddBytes(name) })
}

func addText(b *cryptobyte.Builder, text []string) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, t := range text {
			b.AddASN1(asn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte(t)) })
		}
	})
}

func addInfo(b *cryptobyte.Builder, list []Info) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, i := range list {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddBytes(i.Type.Append(nil))
				b.AddBytes(i.Value)
			})
		}
	})
}

// addAll adds a SEQUENCE OF whole values.
func addAll(b *cryptobyte.Builder, list [][]byte) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, element := range list {
			b.AddBytes(element)
		}
	})
}
