// Package scr makes and opens the requests and answers of TS 102 941 (secured certificate requests, PSID 623), as stations, enrolment authorities and
// authorization authorities exchange them. It joins the messages of package its with the envelopes of package spdu by the rules that all of them share
// (TS 102 941, 6.2.0):
//
//	request   EtsiTs102941Data -> signed -> encrypted to the certificate of the authority, with a new key
//	answer    EtsiTs102941Data -> signed by the authority -> encrypted with the key of the request
//
// The header of what is signed has the application and the time and nothing else. An answer names its request by the first 16 octets of the SHA-256 of the
// encrypted request as it was received.
//
//	signed, err := scr.Sign(content, at, signer)
//	request, session, err := scr.Seal(rand.Reader, signed, authority)
//	...
//	o, err := scr.Open(request, holder)                // the authority
//	s, octets, err := scr.Signed(o.Message)
//	content, err := scr.Content(octets, its.EnrolmentRequest)
//	answer, err := scr.Answer(rand.Reader, o.Session, signedAnswer)
//	...
//	s, content, err := scr.OpenAnswer(answer, session, its.EnrolmentResponse)
//
// What keeps a request from being read is a Fault, which has the number of the response code: the first five codes are the same in all three lists of the
// standard. Whether a signature is right, and whether the signer may, is not judged here.
package scr

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"errors"
	"io"

	"mooring/wire/butterfly"
	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/spdu"
)

// Content types of requests and answers (TS 102 941, 6.2.0 and annex D).
const (
	RequestType  = "application/x-its-request"
	ResponseType = "application/x-its-response"
	CTLType      = "application/x-its-ctl"
	CRLType      = "application/x-its-crl"
)

// Fault is why a request cannot be read.
type Fault uint8

// The faults, with the numbers of the response codes.
const (
	CantParse Fault = iota + 1
	BadContentType
	NotRecipient
	UnknownAlgorithm
	DecryptionFailed
)

// Error is the name of the code.
func (f Fault) Error() string {
	names := [...]string{"ok", "cantparse", "badcontenttype", "imnottherecipient", "unknownencryptionalgorithm", "decryptionfailed"}
	return names[min(int(f), len(names)-1)]
}

// Hash is how an answer names its request.
func Hash(request []byte) its.RequestHash {
	sum := sha256.Sum256(request)
	return its.RequestHash(sum[:16])
}

// Opened is a request that was opened, as far as that went.
type Opened struct {
	Hash    its.RequestHash
	Session *spdu.Session         // nil: there is no key to answer with
	Message *its.Ieee1609Dot2Data // nil: see the error
}

// Open opens a request that is encrypted to one of the holders and to nobody else. The error is a Fault. Beside it there is a session wherever the key of the request could be had.
func Open(request []byte, holders ...spdu.Holder) (Opened, error) {
	if len(request) > its.MaxRequest { // it is not hashed either
		return Opened{}, CantParse
	}
	o := Opened{Hash: Hash(request)}
	d, err := its.ParseData(request, its.MaxRequest)
	if err != nil {
		return o, CantParse
	}
	if e := d.Content.EncryptedData; d.Content.Choice == its.ContentEncrypted && e != nil && (len(e.Recipients) != 1 || e.Recipients[0].Choice != its.RecipientCert) {
		_, o.Session, _ = spdu.Open(d, holders...) // a holder among several recipients can answer
		return o, NotRecipient
	}
	o.Message, o.Session, err = spdu.Open(d, holders...)
	return o, faultOf(err)
}

// faultOf is the fault that an error of package spdu stands for.
func faultOf(err error) error {
	for _, row := range []struct {
		is    error
		fault Fault
	}{{spdu.ErrContent, BadContentType}, {spdu.ErrRecipient, NotRecipient}, {spdu.ErrAlgorithm, UnknownAlgorithm}, {spdu.ErrKey, DecryptionFailed},
		{spdu.ErrCiphertext, DecryptionFailed}, {spdu.ErrInside, CantParse}} {
		if errors.Is(err, row.is) {
			return row.fault
		}
	}
	if err != nil {
		return CantParse
	}
	return nil
}

// UsableWrap says whether the key that a message brings along for the holder of a certificate, and by which its own key is encrypted, is one: a point of its curve.
func UsableWrap(d *its.Ieee1609Dot2Data, holder its.HashedId8) bool {
	for _, r := range d.Content.EncryptedData.Recipients {
		if r.Choice == its.RecipientCert && r.RecipientId == holder {
			return UsableForEncryption(&its.PublicEncryptionKey{PublicKey: its.BasePublicEncryptionKey{Choice: r.EncKey.Choice, Point: r.EncKey.V}})
		}
	}
	return false
}

// OpenInside opens what is encrypted within a request. The error is a Fault.
func OpenInside(d *its.Ieee1609Dot2Data, holders ...spdu.Holder) (*its.Ieee1609Dot2Data, error) {
	inner, _, err := spdu.Open(d, holders...)
	return inner, faultOf(err)
}

// Signed is what a signed message has: octets that are unsecured, under a header with the application and the time and nothing else. The error is a Fault.
func Signed(d *its.Ieee1609Dot2Data) (*its.SignedData, []byte, error) {
	s, err := header(d)
	if err != nil {
		return nil, nil, err
	}
	p := &s.TbsData.Payload
	if p.Data == nil || p.ExtDataHash.Present || p.Omitted != its.NotOmitted || p.Data.Content.Choice != its.UnsecuredData {
		return nil, nil, BadContentType
	}
	return s, p.Data.Content.Opaque, nil
}

// SignedDigest is a signed message whose payload is the SHA-256 of something else. The error is a Fault.
func SignedDigest(d *its.Ieee1609Dot2Data) (*its.SignedData, []byte, error) {
	s, err := header(d)
	if err != nil {
		return nil, nil, err
	}
	h, ok := s.TbsData.Payload.ExtDataHash.Get()
	if !ok || s.TbsData.Payload.Data != nil || h.Choice != its.SHA256 {
		return nil, nil, BadContentType
	}
	return s, h.Hash, nil
}

func header(d *its.Ieee1609Dot2Data) (*its.SignedData, error) {
	s := d.Content.SignedData
	if d.Content.Choice != its.ContentSigned || s == nil {
		return nil, BadContentType
	}
	h := &s.TbsData.HeaderInfo
	if h.Psid != its.PsidSCR || !h.GenerationTime.Present || h.ExpiryTime.Present || h.GenerationLocation.Present || h.P2pcdLearningRequest.Present ||
		h.MissingCrlIdentifier.Present || h.EncryptionKey.Present || h.InlineP2pcdRequest != nil || h.RequestedCertificate != nil ||
		h.PduFunctionalType.Present || h.ContributedExtensions != nil || len(h.Additions.Unknown) > 0 {
		return nil, BadContentType
	}
	return s, nil
}

// Content reads a message of TS 102 941 that is to be of one kind. The error is a Fault.
func Content(octets []byte, want its.ManagementChoice) (*its.EtsiTs102941DataContent, error) {
	m, err := its.ParseManagement(octets)
	if err != nil {
		return nil, CantParse
	}
	if m.Content.Choice != want {
		return nil, BadContentType
	}
	return &m.Content, nil
}

// Encode is the octets of a message of TS 102 941.
func Encode(content its.EtsiTs102941DataContent) ([]byte, error) {
	return coer.Marshal(&its.EtsiTs102941Data{Content: content})
}

// Header is the header of everything that is signed.
func Header(at its.Time64) its.HeaderInfo {
	return its.HeaderInfo{Psid: its.PsidSCR, GenerationTime: coer.Some(at)}
}

// Sign signs a message of TS 102 941.
func Sign(content its.EtsiTs102941DataContent, at its.Time64, s spdu.Signer) (*its.Ieee1609Dot2Data, error) {
	b, err := Encode(content)
	if err != nil {
		return nil, err
	}
	return spdu.Sign(spdu.Payload(b), Header(at), s)
}

// Seal encrypts a request to an authority. The session is for the answer.
func Seal(random io.Reader, d *its.Ieee1609Dot2Data, authority *its.Certificate) ([]byte, *spdu.Session, error) {
	to, err := spdu.ToCertificate(authority)
	if err != nil {
		return nil, nil, err
	}
	return SealTo(random, d, to)
}

// SealTo is Seal, for a recipient who was prepared.
func SealTo(random io.Reader, d *its.Ieee1609Dot2Data, to spdu.Recipient) ([]byte, *spdu.Session, error) {
	sealed, session, err := spdu.Seal(random, d, to)
	if err != nil {
		return nil, nil, err
	}
	b, err := coer.Marshal(sealed)
	return b, session, err
}

// Answer encrypts an answer with the key of its request.
func Answer(random io.Reader, s *spdu.Session, d *its.Ieee1609Dot2Data) ([]byte, error) {
	sealed, err := s.Answer(random, d)
	if err != nil {
		return nil, err
	}
	return coer.Marshal(sealed)
}

// OpenAnswer opens the answer to the request of a session, which is to be of one kind. The caller verifies the signature.
func OpenAnswer(answer []byte, s *spdu.Session, want its.ManagementChoice) (*its.SignedData, *its.EtsiTs102941DataContent, error) {
	signed, octets, err := openAnswer(answer, s)
	if err != nil {
		return nil, nil, err
	}
	content, err := Content(octets, want)
	return signed, content, err
}

// openAnswer opens an answer, up to what was signed.
func openAnswer(answer []byte, s *spdu.Session) (*its.SignedData, []byte, error) {
	d, err := its.ParseData(answer, its.MaxRequest)
	if err != nil {
		return nil, nil, err
	}
	inner, err := s.Open(d)
	if err != nil {
		return nil, nil, err
	}
	return Signed(inner)
}

// Signature signs a digest with a key of P-256, with the lower of the two values of s.
func Signature(key crypto.Signer) func(digest []byte) (its.Signature, error) {
	return spdu.Signature(key, its.ECDSANistP256)
}

// Signer is who signs with a key of P-256; without a certificate the holder of the key and nothing else. The certificate must not change any more.
func Signer(key crypto.Signer, cert *its.Certificate) spdu.Signer {
	s := spdu.Signer{Algorithm: its.ECDSANistP256, Certificate: cert, Sign: Signature(key)}
	if prepared, err := s.Prepared(); err == nil { // what is wrong with the certificate shows when it signs
		return prepared
	}
	return s
}

// VerificationKey is a public key of P-256.
func VerificationKey(pub crypto.PublicKey) (its.PublicVerificationKey, error) {
	key, ok := pub.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return its.PublicVerificationKey{}, its.ErrAlgorithm
	}
	b, err := key.Bytes()
	if err != nil {
		return its.PublicVerificationKey{}, err
	}
	return its.PublicVerificationKey{Point: its.CurvePoint{Form: its.CompressedY0 + its.PointForm(b[64]&1), X: b[1:33]}}, nil
}

// EncryptionKey is the public key that belongs to a private one.
func EncryptionKey(s butterfly.Scalar) its.PublicEncryptionKey {
	return its.PublicEncryptionKey{PublicKey: its.BasePublicEncryptionKey{Point: its.Compressed(s.Public().Bytes())}}
}

// Usable says whether a key can verify signatures: its point is on its curve.
func Usable(k *its.PublicVerificationKey) bool { return k.Check() == nil }

// UsableForEncryption says whether messages can be encrypted to a key.
func UsableForEncryption(k *its.PublicEncryptionKey) bool {
	if k.SupportedSymmAlg != its.AES128CCM || k.PublicKey.Choice > its.ECIESBrainpoolP256r1 {
		return false
	}
	as := its.ECDSANistP256
	if k.PublicKey.Choice == its.ECIESBrainpoolP256r1 {
		as = its.ECDSABrainpoolP256r1
	}
	return Usable(&its.PublicVerificationKey{Choice: as, Point: k.PublicKey.Point})
}
