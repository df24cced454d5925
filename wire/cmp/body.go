package cmp

import (
	"errors"
	"fmt"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"mooring/wire/der"
)

// Kind is the number of a body's tag in PKIBody (RFC 9810, section 5.1.2).
type Kind uint8

// The bodies that are known here.
const (
	IR       Kind = 0
	IP       Kind = 1
	CR       Kind = 2
	CP       Kind = 3
	P10CR    Kind = 4
	KUR      Kind = 7
	KUP      Kind = 8
	RR       Kind = 11
	RP       Kind = 12
	PKIConf  Kind = 19
	Nested   Kind = 20
	GenM     Kind = 21
	GenP     Kind = 22
	Error    Kind = 23
	CertConf Kind = 24
	PollReq  Kind = 25
	PollRep  Kind = 26
)

// String is the name that the standard gives.
func (k Kind) String() string {
	switch k {
	case IR:
		return "ir"
	case IP:
		return "ip"
	case CR:
		return "cr"
	case CP:
		return "cp"
	case P10CR:
		return "p10cr"
	case KUR:
		return "kur"
	case KUP:
		return "kup"
	case RR:
		return "rr"
	case RP:
		return "rp"
	case PKIConf:
		return "pkiconf"
	case Nested:
		return "nested"
	case GenM:
		return "genm"
	case GenP:
		return "genp"
	case Error:
		return "error"
	case CertConf:
		return "certConf"
	case PollReq:
		return "pollReq"
	case PollRep:
		return "pollRep"
	}
	return fmt.Sprintf("body %d", uint8(k))
}

// Body is the body of a message: one of the types of this package that have a method Kind.
type Body interface {
	Kind() Kind
	build(b *cryptobyte.Builder)
}

// Requests is the body of ir, cr and kur.
type Requests struct {
	As   Kind // IR, CR or KUR
	List []Request
}

// PKCS10 is the body of p10cr: a certification request in DER.
type PKCS10 []byte

// Responses is the body of ip, cp and kup.
type Responses struct {
	As Kind // IP, CP or KUP
	// CAPubs are certificates that a requester may come to trust who shares a secret with the sender.
	CAPubs [][]byte
	List   []Response
}

// Response is a CertResponse.
type Response struct {
	ID          int // certReqId
	Status      Status
	Certificate []byte // DER; nil = none
	// PrivateKey is the DER of an EnvelopedData (not of a ContentInfo) with a key that was made for the requester; nil = none.
	PrivateKey []byte
}

// Confirmation is the body of certConf. An empty one refuses all certificates.
type Confirmation []CertStatus

// CertStatus says whether one certificate is accepted.
type CertStatus struct {
	Hash   []byte
	ID     int
	Status Status // Accepted, or Rejection
	// HashAlgorithm is the AlgorithmIdentifier of the hash; nil = the hash of the certificate's signature algorithm.
	HashAlgorithm []byte
}

// Confirmed is the body of pkiConf.
type Confirmed struct{}

// Revocations is the body of rr.
type Revocations []Revocation

// Revocation is a RevDetails: the certificate that is meant, and why it is to be revoked.
type Revocation struct {
	Template Template
	Reason   int // CRLReason; 0 when none was given
}

// Revoked is the body of rp.
type Revoked struct {
	List  []Status
	Certs []CertID // empty, or one for each of List
}

// CertID names a certificate.
type CertID struct {
	Issuer []byte // DER Name
	Serial []byte // content octets of the INTEGER
}

// General is the body of genm and genp.
type General struct {
	As   Kind // GenM or GenP
	List []Info
}

// Failed is the body of error.
type Failed struct {
	Status  Status
	Code    int // 0 = none
	Details []string
}

// Poll is the body of pollReq: certReqIds.
type Poll []int

// Wait is the body of pollRep.
type Wait []Later

// Later says when to ask again.
type Later struct {
	ID     int
	After  int // seconds
	Reason []string
}

// Messages is the body of nested: messages, each in DER.
type Messages [][]byte

// Kind returns As.
func (r *Requests) Kind() Kind { return r.As }

// Kind returns P10CR.
func (PKCS10) Kind() Kind { return P10CR }

// Kind returns As.
func (r *Responses) Kind() Kind { return r.As }

// Kind returns CertConf.
func (Confirmation) Kind() Kind { return CertConf }

// Kind returns PKIConf.
func (Confirmed) Kind() Kind { return PKIConf }

// Kind returns RR.
func (Revocations) Kind() Kind { return RR }

// Kind returns RP.
func (*Revoked) Kind() Kind { return RP }

// Kind returns As.
func (g *General) Kind() Kind { return g.As }

// Kind returns Error.
func (*Failed) Kind() Kind { return Error }

// Kind returns PollReq.
func (Poll) Kind() Kind { return PollReq }

// Kind returns PollRep.
func (Wait) Kind() Kind { return PollRep }

// Kind returns Nested.
func (Messages) Kind() Kind { return Nested }

// ErrBody is the error of a body that is well-formed and not known here.
var ErrBody = errors.New("a body of a kind that is not known here")

// parseBody reads the choice.
func parseBody(in cryptobyte.String) (body Body, err error) {
	var s cryptobyte.String
	var tag asn1.Tag
	if !in.ReadAnyASN1(&s, &tag) || !in.Empty() || tag&^0x1f != context(0) {
		return nil, malformed("body")
	}
	kind := Kind(tag & 0x1f)
	switch kind {
	case IR, CR, KUR:
		body, err = readRequests(&s, kind)
	case IP, CP, KUP:
		body, err = readResponses(&s, kind)
	case P10CR:
		var csr cryptobyte.String
		if !s.ReadASN1Element(&csr, asn1.SEQUENCE) {
			return nil, malformed("p10cr")
		}
		body = PKCS10(csr)
	case RR:
		body, err = readRevocations(&s)
	case RP:
		body, err = readRevoked(&s)
	case PKIConf:
		if !s.ReadASN1(new(cryptobyte.String), asn1.NULL) {
			return nil, malformed("pkiconf")
		}
		body = Confirmed{}
	case Nested:
		var list [][]byte
		list, err = sequenceOf(&s, "nested", maxNested)
		body = Messages(list)
	case GenM, GenP:
		g := &General{As: kind}
		g.List, err = readInfo(&s)
		body = g
	case Error:
		body, err = readFailed(&s)
	case CertConf:
		body, err = readConfirmation(&s)
	case PollReq:
		body, err = readPoll(&s)
	case PollRep:
		body, err = readWait(&s)
	default:
		return nil, fmt.Errorf("%w: %d", ErrBody, kind)
	}
	if err != nil {
		return nil, err
	}
	if !s.Empty() {
		return nil, malformed(kind.String())
	}
	return body, nil
}

// each reads a SEQUENCE OF, whose elements read takes apart; there may be none.
func each(s *cryptobyte.String, what string, read func(*cryptobyte.String) error) error {
	var list cryptobyte.String
	if !s.ReadASN1(&list, asn1.SEQUENCE) {
		return malformed(what)
	}
	for n := 0; !list.Empty(); n++ {
		if n == maxEntries {
			return fmt.Errorf("%s: more than %d entries", what, maxEntries)
		}
		if err := read(&list); err != nil {
			return err
		}
	}
	return nil
}

func readResponses(s *cryptobyte.String, kind Kind) (*Responses, error) {
	what := kind.String()
	r := &Responses{As: kind}
	var in, certs cryptobyte.String
	var there bool
	if !s.ReadASN1(&in, asn1.SEQUENCE) || !in.ReadOptionalASN1(&certs, &there, context(1)) {
		return nil, malformed(what)
	}
	if there {
		list, err := sequenceOf(&certs, "caPubs", maxCerts)
		if err != nil || !certs.Empty() {
			return nil, malformed("caPubs")
		}
		r.CAPubs = list
	}
	err := each(&in, what, func(s *cryptobyte.String) error {
		one, err := readResponse(s, what)
		r.List = append(r.List, one)
		return err
	})
	if err != nil {
		return nil, err
	}
	if !in.Empty() || len(r.List) == 0 {
		return nil, malformed(what)
	}
	return r, nil
}

func readResponse(s *cryptobyte.String, what string) (r Response, err error) {
	var in, pair cryptobyte.String
	if !s.ReadASN1(&in, asn1.SEQUENCE) || !in.ReadASN1Integer(&r.ID) {
		return r, malformed(what)
	}
	if r.Status, err = readStatus(&in); err != nil {
		return r, err
	}
	if in.PeekASN1Tag(asn1.SEQUENCE) {
		if !in.ReadASN1(&pair, asn1.SEQUENCE) {
			return r, malformed(what)
		}
		if err := r.readPair(pair); err != nil {
			return r, err
		}
	}
	if in.PeekASN1Tag(asn1.OCTET_STRING) && !in.ReadASN1(new(cryptobyte.String), asn1.OCTET_STRING) || !in.Empty() {
		return r, malformed(what)
	}
	return r, nil
}

// readPair reads a CertifiedKeyPair. Encrypted certificates are not known here.
func (r *Response) readPair(s cryptobyte.String) error {
	var choice, cert, key, inner cryptobyte.String
	var there bool
	if !s.ReadASN1(&choice, context(0)) {
		return errors.New("a certificate that is encrypted or missing in a CertifiedKeyPair")
	}
	if !choice.ReadASN1Element(&cert, asn1.SEQUENCE) || !choice.Empty() || !s.ReadOptionalASN1(&key, &there, context(0)) {
		return malformed("CertifiedKeyPair")
	}
	r.Certificate = cert
	if there {
		// EncryptedKey is a choice with implicit tags (RFC 4211, section 4.2): envelopedData [0] in place of its SEQUENCE.
		if !key.ReadASN1(&inner, context(0)) || !key.Empty() {
			return errors.New("a private key that is not in EnvelopedData")
		}
		r.PrivateKey = der.AppendElement(nil, 0x30, inner)
	}
	if !s.ReadOptionalASN1(&inner, &there, context(1)) || !s.Empty() {
		return malformed("CertifiedKeyPair")
	}
	return nil
}

func readConfirmation(s *cryptobyte.String) (Confirmation, error) {
	list := Confirmation{}
	err := each(s, "certConf", func(s *cryptobyte.String) (err error) {
		var in, algorithm, element cryptobyte.String
		var there bool
		c := CertStatus{}
		if !s.ReadASN1(&in, asn1.SEQUENCE) || !in.ReadASN1Bytes(&c.Hash, asn1.OCTET_STRING) || len(c.Hash) > maxID || !in.ReadASN1Integer(&c.ID) {
			return malformed("certConf")
		}
		if in.PeekASN1Tag(asn1.SEQUENCE) {
			if c.Status, err = readStatus(&in); err != nil {
				return err
			}
		}
		if !in.ReadOptionalASN1(&algorithm, &there, context(0)) || !in.Empty() {
			return malformed("certConf")
		}
		if there {
			if !algorithm.ReadASN1Element(&element, asn1.SEQUENCE) || !algorithm.Empty() {
				return malformed("hashAlg")
			}
			c.HashAlgorithm = element
		}
		list = append(list, c)
		return nil
	})
	return list, err
}

func readRevocations(s *cryptobyte.String) (Revocations, error) {
	var list Revocations
	err := each(s, "rr", func(s *cryptobyte.String) (err error) {
		var in cryptobyte.String
		var r Revocation
		if !s.ReadASN1(&in, asn1.SEQUENCE) {
			return malformed("rr")
		}
		if r.Template, err = readTemplate(&in, asn1.SEQUENCE); err != nil {
			return err
		}
		if !in.Empty() {
			var extensions cryptobyte.String
			if !in.ReadASN1Element(&extensions, asn1.SEQUENCE) || !in.Empty() {
				return malformed("rr")
			}
			if r.Reason, err = readReason(extensions); err != nil {
				return err
			}
		}
		list = append(list, r)
		return nil
	})
	if err == nil && len(list) == 0 {
		err = malformed("rr")
	}
	return list, err
}

const (
	oidReasonCode  = der.OID("\x55\x1d\x15")
	unknownReason  = -1
	enumeratedSize = 3
)

// readReason takes the reasonCode out of crlEntryDetails (RFC 5280, section 5.3.1). A code that is none is unknownReason.
func readReason(extensions []byte) (int, error) {
	list, err := der.ParseExtensions(extensions)
	if err != nil {
		return 0, err
	}
	reason := 0
	for _, e := range list {
		if e.OID != oidReasonCode {
			continue
		}
		if len(e.Value) != enumeratedSize || e.Value[0] != byte(asn1.ENUM) || e.Value[1] != 1 {
			return unknownReason, nil
		}
		reason = int(e.Value[2])
	}
	return reason, nil
}

func readRevoked(s *cryptobyte.String) (*Revoked, error) {
	r := &Revoked{}
	var in, ids, rest cryptobyte.String
	var there bool
	if !s.ReadASN1(&in, asn1.SEQUENCE) {
		return nil, malformed("rp")
	}
	err := each(&in, "rp", func(s *cryptobyte.String) error {
		st, err := readStatus(s)
		r.List = append(r.List, st)
		return err
	})
	if err != nil {
		return nil, err
	}
	if !in.ReadOptionalASN1(&ids, &there, context(0)) {
		return nil, malformed("rp")
	}
	if there {
		err = each(&ids, "rp", func(s *cryptobyte.String) error {
			id, err := readCertID(s)
			r.Certs = append(r.Certs, id)
			return err
		})
		if err != nil || !ids.Empty() {
			return nil, malformed("rp")
		}
	}
	if !in.ReadOptionalASN1(&rest, &there, context(1)) || !in.Empty() || len(r.List) == 0 {
		return nil, malformed("rp")
	}
	return r, nil
}

// readCertID reads a CertId.
func readCertID(s *cryptobyte.String) (id CertID, err error) {
	var in cryptobyte.String
	if !s.ReadASN1(&in, asn1.SEQUENCE) {
		return id, malformed("CertId")
	}
	if id.Issuer, err = readGeneralName(&in); err != nil {
		return id, err
	}
	if !in.ReadASN1Bytes(&id.Serial, asn1.INTEGER) || !in.Empty() || len(id.Serial) == 0 || len(id.Serial) > maxID {
		return id, malformed("CertId")
	}
	return id, nil
}

func (id CertID) build(b *cryptobyte.Builder) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		addGeneralName(b, id.Issuer)
		b.AddASN1BigInt(new(big.Int).SetBytes(id.Serial))
	})
}

func readFailed(s *cryptobyte.String) (*Failed, error) {
	f := &Failed{}
	var in cryptobyte.String
	if !s.ReadASN1(&in, asn1.SEQUENCE) {
		return nil, malformed("error")
	}
	var err error
	if f.Status, err = readStatus(&in); err != nil {
		return nil, err
	}
	if in.PeekASN1Tag(asn1.INTEGER) && !in.ReadASN1Integer(&f.Code) {
		return nil, malformed("error")
	}
	if !in.Empty() {
		if f.Details, err = readText(&in); err != nil || !in.Empty() {
			return nil, malformed("error")
		}
	}
	return f, nil
}

func readPoll(s *cryptobyte.String) (Poll, error) {
	var list Poll
	err := each(s, "pollReq", func(s *cryptobyte.String) error {
		var in cryptobyte.String
		var id int
		if !s.ReadASN1(&in, asn1.SEQUENCE) || !in.ReadASN1Integer(&id) || !in.Empty() {
			return malformed("pollReq")
		}
		list = append(list, id)
		return nil
	})
	if err == nil && len(list) == 0 {
		err = malformed("pollReq")
	}
	return list, err
}

func readWait(s *cryptobyte.String) (Wait, error) {
	var list Wait
	err := each(s, "pollRep", func(s *cryptobyte.String) (err error) {
		var in cryptobyte.String
		var l Later
		if !s.ReadASN1(&in, asn1.SEQUENCE) || !in.ReadASN1Integer(&l.ID) || !in.ReadASN1Integer(&l.After) || l.After < 0 {
			return malformed("pollRep")
		}
		if !in.Empty() {
			if l.Reason, err = readText(&in); err != nil || !in.Empty() {
				return malformed("pollRep")
			}
		}
		list = append(list, l)
		return nil
	})
	if err == nil && len(list) == 0 {
		err = malformed("pollRep")
	}
	return list, err
}

// buildBody returns the DER of the choice.
func buildBody(body Body) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(context(uint8(body.Kind())), body.build)
	out, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("building a body %s: %w", body.Kind(), err)
	}
	return out, nil
}

func (r *Requests) build(b *cryptobyte.Builder) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for i := range r.List {
			r.List[i].build(b)
		}
	})
}

func (p PKCS10) build(b *cryptobyte.Builder) { b.AddBytes(p) }

func (r *Responses) build(b *cryptobyte.Builder) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		if len(r.CAPubs) > 0 {
			b.AddASN1(context(1), func(b *cryptobyte.Builder) { addAll(b, r.CAPubs) })
		}
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			for _, one := range r.List {
				b.AddASN1(asn1.SEQUENCE, one.build)
			}
		})
	})
}

func (r Response) build(b *cryptobyte.Builder) {
	b.AddASN1Int64(int64(r.ID))
	r.Status.build(b)
	if r.Certificate == nil {
		return
	}
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(context(0), func(b *cryptobyte.Builder) { b.AddBytes(r.Certificate) })
		if r.PrivateKey == nil {
			return
		}
		s := cryptobyte.String(r.PrivateKey)
		var inner cryptobyte.String
		if !s.ReadASN1(&inner, asn1.SEQUENCE) || !s.Empty() {
			b.SetError(errors.New("the private key is not one EnvelopedData"))
			return
		}
		b.AddASN1(context(0), func(b *cryptobyte.Builder) {
			b.AddASN1(context(0), func(b *cryptobyte.Builder) { b.AddBytes(inner) })
		})
	})
}

func (c Confirmation) build(b *cryptobyte.Builder) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, one := range c {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1OctetString(one.Hash)
				b.AddASN1Int64(int64(one.ID))
				if one.Status.Status != Accepted {
					one.Status.build(b)
				}
				if one.HashAlgorithm != nil {
					b.AddASN1(context(0), func(b *cryptobyte.Builder) { b.AddBytes(one.HashAlgorithm) })
				}
			})
		}
	})
}

func (Confirmed) build(b *cryptobyte.Builder) { b.AddASN1NULL() }

func (r Revocations) build(b *cryptobyte.Builder) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for i := range r {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				r[i].Template.build(b, asn1.SEQUENCE)
				if r[i].Reason != 0 {
					e := der.Extension{OID: oidReasonCode, Value: []byte{byte(asn1.ENUM), 1, byte(r[i].Reason)}}
					b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(e.Append(nil)) })
				}
			})
		}
	})
}

func (r *Revoked) build(b *cryptobyte.Builder) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			for _, st := range r.List {
				st.build(b)
			}
		})
		if len(r.Certs) > 0 {
			b.AddASN1(context(0), func(b *cryptobyte.Builder) {
				b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
					for _, id := range r.Certs {
						id.build(b)
					}
				})
			})
		}
	})
}

func (g *General) build(b *cryptobyte.Builder) { addInfo(b, g.List) }

func (f *Failed) build(b *cryptobyte.Builder) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		f.Status.build(b)
		if f.Code != 0 {
			b.AddASN1Int64(int64(f.Code))
		}
		if len(f.Details) > 0 {
			addText(b, f.Details)
		}
	})
}

func (p Poll) build(b *cryptobyte.Builder) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, id := range p {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1Int64(int64(id)) })
		}
	})
}

func (w Wait) build(b *cryptobyte.Builder) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, l := range w {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1Int64(int64(l.ID))
				b.AddASN1Int64(int64(l.After))
				if len(l.Reason) > 0 {
					addText(b, l.Reason)
				}
			})
		}
	})
}

func (m Messages) build(b *cryptobyte.Builder) { addAll(b, m) }
