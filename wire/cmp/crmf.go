package cmp

import (
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"mooring/wire/der"
)

// Request is a CertReqMsg (RFC 4211, section 3).
type Request struct {
	// Signed is the DER of the CertRequest: what a proof of possession signs. Build makes it from the fields below when it is nil.
	Signed   []byte
	ID       int // certReqId
	Template Template
	Controls []Info
	Proof    Proof
}

// Template is a CertTemplate (RFC 4211, section 5): what a certificate is to say, or in a Revocation which one is meant. Nil fields are absent.
type Template struct {
	Serial  []byte // content octets of the INTEGER
	Issuer  []byte // DER Name
	Subject []byte // DER Name
	// SPKI is the SubjectPublicKeyInfo. One whose key is empty asks for a key of its algorithm to be made.
	SPKI       []byte
	Extensions []byte // DER Extensions
	// Timed is set when a validity was asked for, which nobody gets.
	Timed bool
}

// ProofKind says how possession of the private key is proven (RFC 4211, section 4).
type ProofKind int

// The proofs.
const (
	NoProof ProofKind = iota
	RAVerified
	Signature
	KeyEncipherment
	KeyAgreement
)

// Proof is a ProofOfPossession.
type Proof struct {
	Kind ProofKind
	// Of Signature. Input is the DER of the POPOSigningKeyInput that is signed instead of the CertRequest; nil = none. Its tag is that of a SEQUENCE.
	Input     []byte
	Algorithm []byte
	Bits      []byte
	// Of an Input: who signs, as DER Name, and whether a key's holder is shown by a MAC instead, which is not known here.
	Sender []byte
	MACed  bool
	SPKI   []byte
}

// What returns what the signature of a proof covers.
func (r *Request) What() []byte {
	if r.Proof.Input != nil {
		return r.Proof.Input
	}
	return r.Signed
}

// Controls.
const (
	OIDRegToken     = der.OID("\x2b\x06\x01\x05\x05\x07\x05\x01\x01") // id-regCtrl-regToken
	OIDOldCertID    = der.OID("\x2b\x06\x01\x05\x05\x07\x05\x01\x05") // id-regCtrl-oldCertID
	OIDAlgorithmID  = der.OID("\x2b\x06\x01\x05\x05\x07\x05\x01\x0b") // id-regCtrl-algId
	OIDRSAKeyLength = der.OID("\x2b\x06\x01\x05\x05\x07\x05\x01\x0c") // id-regCtrl-rsaKeyLen
)

// OldCertID returns the certificate that a kur says it replaces, and whether it says so.
func (r *Request) OldCertID() (id CertID, there bool, err error) {
	c, there := Find(r.Controls, OIDOldCertID)
	if !there {
		return id, false, nil
	}
	s := cryptobyte.String(c.Value)
	id, err = readCertID(&s)
	return id, true, err
}

// NewOldCertID is the control that names the certificate that a kur replaces.
func NewOldCertID(issuer, serial []byte) Info {
	var b cryptobyte.Builder
	CertID{issuer, serial}.build(&b)
	return Info{Type: OIDOldCertID, Value: b.BytesOrPanic()}
}

func readRequests(s *cryptobyte.String, kind Kind) (*Requests, error) {
	r := &Requests{As: kind}
	err := each(s, kind.String(), func(s *cryptobyte.String) error {
		one, err := readRequest(s)
		r.List = append(r.List, one)
		return err
	})
	if err == nil && len(r.List) == 0 {
		err = malformed(kind.String())
	}
	return r, err
}

func readRequest(s *cryptobyte.String) (r Request, err error) {
	var in, signed, request, info cryptobyte.String
	if !s.ReadASN1(&in, asn1.SEQUENCE) || !in.ReadASN1Element(&signed, asn1.SEQUENCE) {
		return r, malformed("CertReqMsg")
	}
	r.Signed = signed
	if !signed.ReadASN1(&request, asn1.SEQUENCE) || !request.ReadASN1Integer(&r.ID) {
		return r, malformed("CertRequest")
	}
	if r.Template, err = readTemplate(&request, asn1.SEQUENCE); err != nil {
		return r, err
	}
	if !request.Empty() {
		if r.Controls, err = readInfo(&request); err != nil || !request.Empty() {
			return r, malformed("controls")
		}
	}
	if !in.Empty() && !in.PeekASN1Tag(asn1.SEQUENCE) {
		if r.Proof, err = readProof(&in); err != nil {
			return r, err
		}
	}
	if !in.Empty() && !in.ReadASN1(&info, asn1.SEQUENCE) || !in.Empty() {
		return r, malformed("CertReqMsg")
	}
	return r, nil
}

// readTemplate reads a CertTemplate with the given tag. Its fields have implicit tags, but for the names, which are choices.
func readTemplate(s *cryptobyte.String, tag asn1.Tag) (t Template, err error) {
	what := malformed("CertTemplate")
	var in, field cryptobyte.String
	var there bool
	primitive := func(n uint8) asn1.Tag { return asn1.Tag(n).ContextSpecific() }
	if !s.ReadASN1(&in, tag) || !in.ReadOptionalASN1(&field, &there, primitive(0)) {
		return t, what
	}
	if !in.ReadOptionalASN1(&field, &there, primitive(1)) {
		return t, what
	}
	if there {
		if t.Serial = field; len(field) == 0 || len(field) > maxID {
			return t, what
		}
	}
	if !in.ReadOptionalASN1(&field, &there, context(2)) { // signingAlg: the issuer's choice
		return t, what
	}
	if t.Issuer, err = readOptionalName(&in, 3); err != nil {
		return t, err
	}
	if !in.ReadOptionalASN1(&field, &t.Timed, context(4)) {
		return t, what
	}
	if t.Subject, err = readOptionalName(&in, 5); err != nil {
		return t, err
	}
	if !in.ReadOptionalASN1(&field, &there, context(6)) {
		return t, what
	}
	if there {
		t.SPKI = der.AppendElement(nil, 0x30, field)
	}
	if in.PeekASN1Tag(primitive(7)) || in.PeekASN1Tag(primitive(8)) {
		return t, errors.New("a CertTemplate with unique identifiers, which certificates no longer have")
	}
	if !in.ReadOptionalASN1(&field, &there, context(9)) || !in.Empty() {
		return t, what
	}
	if there {
		t.Extensions = der.AppendElement(nil, 0x30, field)
	}
	return t, nil
}

func readOptionalName(s *cryptobyte.String, n uint8) ([]byte, error) {
	var field, name cryptobyte.String
	var there bool
	if !s.ReadOptionalASN1(&field, &there, context(n)) {
		return nil, malformed("CertTemplate")
	}
	if !there {
		return nil, nil
	}
	if !field.ReadASN1Element(&name, asn1.SEQUENCE) || !field.Empty() {
		return nil, malformed("CertTemplate: name")
	}
	return name, nil
}

func readProof(s *cryptobyte.String) (p Proof, err error) {
	var in cryptobyte.String
	var tag asn1.Tag
	if !s.ReadAnyASN1(&in, &tag) {
		return p, malformed("proof of possession")
	}
	switch tag {
	case asn1.Tag(0).ContextSpecific():
		p.Kind = RAVerified
		if len(in) != 0 {
			return p, malformed("proof of possession")
		}
		return p, nil
	case context(1):
		p.Kind = Signature
		return p, p.readSignature(in)
	case context(2):
		p.Kind = KeyEncipherment
		return p, nil
	case context(3):
		p.Kind = KeyAgreement
		return p, nil
	}
	return p, malformed("proof of possession")
}

func (p *Proof) readSignature(in cryptobyte.String) error {
	var input, algorithm, choice, spki cryptobyte.String
	var there bool
	if !in.ReadOptionalASN1(&input, &there, context(0)) || !in.ReadASN1Element(&algorithm, asn1.SEQUENCE) || !in.ReadASN1BitStringAsBytes(&p.Bits) || !in.Empty() {
		return malformed("proof of possession")
	}
	p.Algorithm = algorithm
	if !there {
		return nil
	}
	p.Input = der.AppendElement(nil, 0x30, input)
	if input.PeekASN1Tag(context(0)) {
		if !input.ReadASN1(&choice, context(0)) {
			return malformed("proof of possession")
		}
		sender, err := readGeneralName(&choice)
		if err != nil || !choice.Empty() {
			return malformed("proof of possession")
		}
		p.Sender = sender
	} else if p.MACed = true; !input.ReadASN1(&choice, asn1.SEQUENCE) {
		return malformed("proof of possession")
	}
	if !input.ReadASN1Element(&spki, asn1.SEQUENCE) || !input.Empty() {
		return malformed("proof of possession")
	}
	p.SPKI = spki
	return nil
}

// Complete sets Signed from the other fields, so that it can be signed.
func (r *Request) Complete() error {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(int64(r.ID))
		r.Template.build(b, asn1.SEQUENCE)
		if len(r.Controls) > 0 {
			addInfo(b, r.Controls)
		}
	})
	out, err := b.Bytes()
	if err != nil {
		return fmt.Errorf("building a certificate request: %w", err)
	}
	r.Signed = out
	return nil
}

func (r *Request) build(b *cryptobyte.Builder) {
	if r.Signed == nil {
		if err := r.Complete(); err != nil {
			b.SetError(err)
			return
		}
	}
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(r.Signed)
		switch r.Proof.Kind {
		case RAVerified:
			b.AddASN1(asn1.Tag(0).ContextSpecific(), func(*cryptobyte.Builder) {})
		case Signature:
			b.AddASN1(context(1), func(b *cryptobyte.Builder) {
				if r.Proof.Input != nil {
					s := cryptobyte.String(r.Proof.Input)
					var inner cryptobyte.String
					if !s.ReadASN1(&inner, asn1.SEQUENCE) {
						b.SetError(malformed("POPOSigningKeyInput"))
						return
					}
					b.AddASN1(context(0), func(b *cryptobyte.Builder) { b.AddBytes(inner) })
				}
				b.AddBytes(r.Proof.Algorithm)
				b.AddASN1BitString(r.Proof.Bits)
			})
		}
	})
}

func (t *Template) build(b *cryptobyte.Builder, tag asn1.Tag) {
	inner := func(b *cryptobyte.Builder, n uint8, whole []byte) {
		s := cryptobyte.String(whole)
		var content cryptobyte.String
		if !s.ReadASN1(&content, asn1.SEQUENCE) || !s.Empty() {
			b.SetError(malformed("CertTemplate"))
			return
		}
		b.AddASN1(context(n), func(b *cryptobyte.Builder) { b.AddBytes(content) })
	}
	name := func(b *cryptobyte.Builder, n uint8, whole []byte) {
		b.AddASN1(context(n), func(b *cryptobyte.Builder) { b.AddBytes(whole) })
	}
	b.AddASN1(tag, func(b *cryptobyte.Builder) {
		if t.Serial != nil {
			b.AddASN1(asn1.Tag(1).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes(t.Serial) })
		}
		if t.Issuer != nil {
			name(b, 3, t.Issuer)
		}
		if t.Subject != nil {
			name(b, 5, t.Subject)
		}
		if t.SPKI != nil {
			inner(b, 6, t.SPKI)
		}
		if t.Extensions != nil {
			inner(b, 9, t.Extensions)
		}
	})
}
