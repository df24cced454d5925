// Package spdu makes and opens secured protocol data units: messages of IEEE 1609.2 that are signed, encrypted, or both, as TS 103 097 and TS 102 941 use them.
// It joins the structures of package its with the cryptography of package butterfly.
//
//	signed, err := spdu.Sign(payload, header, spdu.Signer{...})
//	request, session, err := spdu.Seal(rand.Reader, signed, recipient)     // to the certificate of an authority
//	...
//	inner, session, err := spdu.Open(request, holder)                      // the authority: holder has the private key
//	answer, err := session.Answer(rand.Reader, signedAnswer)               // encrypted with the key of the request
//	...
//	inner, err = session.Open(answer)
//
// The errors say what TS 102 941 has response codes for. If the key of a message could be had, and only what was encrypted with it is wrong, or is encrypted in a way that is not
// known, Open returns a session beside the error, so that the answer can be encrypted.
//
// Randomness comes from the caller. Messages are encrypted to keys of P-256 and brainpoolP256r1, and opened with either.
package spdu

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"errors"
	"io"
	"math/big"

	"mooring/wire/brainpool"
	"mooring/wire/butterfly"
	"mooring/wire/coer"
	"mooring/wire/its"
)

// Why a message cannot be opened.
var (
	ErrContent    = errors.New("the message is not encrypted")
	ErrRecipient  = errors.New("the message is encrypted for others")
	ErrAlgorithm  = errors.New("the message, its key, or the key of a recipient is of an algorithm that is not supported")
	ErrKey        = errors.New("the key of the message cannot be decrypted")
	ErrCiphertext = errors.New("the message cannot be decrypted with its key")
	ErrInside     = errors.New("what was encrypted is no message")
)

// Recipient is who can open a message, and how it is named there.
type Recipient struct {
	choice its.RecipientChoice
	id     its.HashedId8
	key    its.PublicEncryptionKey
	p1     []byte           // what the key of the message is bound to (IEEE 1609.2, 6.3.36)
	point  *butterfly.Point // of a key of P-256 that was read before; nil: see key
}

// Prepared is the recipient with its key read, for who sends it much.
func (r Recipient) Prepared() (Recipient, error) {
	if r.key.PublicKey.Choice != its.ECIESNistP256 {
		return r, nil
	}
	public, err := point(&r.key.PublicKey.Point)
	r.point = &public
	return r, err
}

// ToCertificate is the holder of a certificate that has a key for encryption.
func ToCertificate(cert *its.Certificate) (Recipient, error) {
	key, ok := cert.ToBeSigned.EncryptionKey.Get()
	if !ok {
		return Recipient{}, ErrAlgorithm
	}
	p1, err := cert.Digest() // of 48 octets if the key for signatures has 384 bits
	if err != nil {
		return Recipient{}, err
	}
	return Recipient{choice: its.RecipientCert, id: its.HashedId8(p1[len(p1)-8:]), key: key, p1: p1}, nil
}

// ToSender is who sent a signed message with a key for the answer in its header.
func ToSender(d *its.Ieee1609Dot2Data) (Recipient, error) {
	if d.Content.Choice != its.ContentSigned || d.Content.SignedData == nil {
		return Recipient{}, ErrContent
	}
	key, ok := d.Content.SignedData.TbsData.HeaderInfo.EncryptionKey.Get()
	if !ok || key.Choice != its.EncryptionKeyPublic {
		return Recipient{}, ErrAlgorithm
	}
	p1, err := d.Digest()
	if err != nil {
		return Recipient{}, err
	}
	return Recipient{choice: its.RecipientSignedData, id: its.HashedId8(p1[len(p1)-8:]), key: key.Public, p1: p1}, nil
}

// ToKey is the holder of a key that is named by itself.
func ToKey(key its.PublicEncryptionKey) (Recipient, error) {
	id, err := key.HashedId8()
	if err != nil {
		return Recipient{}, err
	}
	nothing := sha256.Sum256(nil)
	return Recipient{choice: its.RecipientRek, id: id, key: key, p1: nothing[:]}, nil
}

// Seal encrypts a message for recipients. The session is for the answer.
func Seal(random io.Reader, d *its.Ieee1609Dot2Data, to ...Recipient) (*its.Ieee1609Dot2Data, *Session, error) {
	var key [16]byte
	if _, err := io.ReadFull(random, key[:]); err != nil {
		return nil, nil, err
	}
	s, err := newSession(key)
	if err != nil {
		return nil, nil, err
	}
	var infos []its.RecipientInfo
	for _, r := range to {
		info, err := r.wrap(random, key)
		if err != nil {
			return nil, nil, err
		}
		infos = append(infos, info)
	}
	sealed, err := s.seal(random, d, infos)
	return sealed, s, err
}

// wrap encrypts the key of a message for a recipient.
func (r Recipient) wrap(random io.Reader, key [16]byte) (its.RecipientInfo, error) {
	of := r.key.PublicKey
	wrapped := its.EncryptedDataEncryptionKey{Choice: of.Choice}
	var err error
	switch {
	case r.key.SupportedSymmAlg != its.AES128CCM:
		err = ErrAlgorithm
	case of.Choice == its.ECIESNistP256:
		err = r.wrapNIST(random, key, &wrapped)
	case of.Choice == its.ECIESBrainpoolP256r1:
		err = wrapBrainpool(random, &of.Point, key, r.p1, &wrapped)
	default:
		err = ErrAlgorithm
	}
	return its.RecipientInfo{Choice: r.choice, RecipientId: r.id, EncKey: wrapped}, err
}

func (r Recipient) wrapNIST(random io.Reader, key [16]byte, into *its.EncryptedDataEncryptionKey) error {
	if r.point == nil {
		var err error
		if r, err = r.Prepared(); err != nil {
			return err
		}
	}
	w, err := butterfly.Wrap(random, *r.point, key, r.p1)
	if err != nil {
		return err
	}
	into.V, into.C, into.T = its.Compressed(w.V.Bytes()), w.C[:], w.T[:]
	return nil
}

func wrapBrainpool(random io.Reader, to *its.CurvePoint, key [16]byte, p1 []byte, into *its.EncryptedDataEncryptionKey) error {
	curve := brainpool.P256r1()
	public, err := to.Brainpool(curve)
	if err != nil {
		return err
	}
	v, z, err := curve.Agree(random, public)
	if err != nil {
		return err
	}
	c, t := butterfly.WrapShared(z, p1, key)
	into.V, into.C, into.T = its.Compressed(v), c[:], t[:]
	return nil
}

func point(p *its.CurvePoint) (butterfly.Point, error) {
	b, err := p.SEC1()
	if err != nil {
		return butterfly.Point{}, err
	}
	return butterfly.NewPoint(b)
}

// Holder is a recipient with the private key.
type Holder struct {
	Recipient
	Private   butterfly.Scalar // of P-256
	Brainpool []byte           // of brainpoolP256r1, 32 octets, instead
}

// Open decrypts a message that is encrypted for one of the holders.
func Open(d *its.Ieee1609Dot2Data, holders ...Holder) (*its.Ieee1609Dot2Data, *Session, error) {
	e := d.Content.EncryptedData
	if d.Content.Choice != its.ContentEncrypted || e == nil {
		return nil, nil, ErrContent
	}
	for i := range e.Recipients {
		for _, h := range holders {
			if info := &e.Recipients[i]; info.Choice == h.choice && info.RecipientId == h.id {
				return h.open(e, info)
			}
		}
	}
	return nil, nil, ErrRecipient
}

func (h Holder) open(e *its.EncryptedData, info *its.RecipientInfo) (*its.Ieee1609Dot2Data, *Session, error) {
	if info.EncKey.Choice != h.key.PublicKey.Choice {
		return nil, nil, ErrAlgorithm
	}
	if len(info.EncKey.C) != 16 || len(info.EncKey.T) != 16 {
		return nil, nil, ErrKey
	}
	unwrap := h.unwrapNIST
	if info.EncKey.Choice == its.ECIESBrainpoolP256r1 && h.Brainpool != nil {
		unwrap = h.unwrapBrainpool
	} else if info.EncKey.Choice != its.ECIESNistP256 {
		return nil, nil, ErrAlgorithm
	}
	key, err := unwrap(&info.EncKey)
	if err != nil {
		return nil, nil, ErrKey
	}
	s, err := newSession(key)
	if err != nil {
		return nil, nil, err
	}
	inner, err := s.open(e)
	return inner, s, err
}

func (h Holder) unwrapNIST(k *its.EncryptedDataEncryptionKey) (key [16]byte, err error) {
	v, err := point(&k.V)
	if err != nil {
		return key, err
	}
	return butterfly.Unwrap(h.Private, butterfly.WrappedKey{V: v, C: [16]byte(k.C), T: [16]byte(k.T)}, h.p1)
}

func (h Holder) unwrapBrainpool(k *its.EncryptedDataEncryptionKey) (key [16]byte, err error) {
	curve := brainpool.P256r1()
	v, err := k.V.Brainpool(curve)
	if err != nil {
		return key, err
	}
	z, err := curve.Shared(h.Brainpool, v)
	if err != nil {
		return key, err
	}
	return butterfly.UnwrapShared(z, h.p1, [16]byte(k.C), [16]byte(k.T))
}

// Session is the key of a message, which its answer is encrypted with too. It forbids a nonce to be used twice.
type Session struct {
	key    *butterfly.MessageKey
	id     its.HashedId8
	secret [16]byte
}

func newSession(key [16]byte) (*Session, error) {
	id, err := (&its.SymmetricEncryptionKey{Key: key[:]}).HashedId8()
	return &Session{butterfly.NewMessageKey(key), id, key}, err
}

// Secret is the key of the session, for who has to wait for the answer longer than this process runs. Resume makes the session of it again.
func (s *Session) Secret() [16]byte { return s.secret }

// Resume is the session of a key, to open the answer to a request that was sent before. It knows nothing of nonces that were used: nothing may be encrypted in it.
func Resume(key [16]byte) (*Session, error) { return newSession(key) }

// String does not tell the key.
func (s *Session) String() string { return "session " + s.id.String() }

// Answer encrypts a message with the key of the one that it answers.
func (s *Session) Answer(random io.Reader, d *its.Ieee1609Dot2Data) (*its.Ieee1609Dot2Data, error) {
	return s.seal(random, d, []its.RecipientInfo{{Choice: its.RecipientPsk, RecipientId: s.id}})
}

// Open decrypts the answer.
func (s *Session) Open(d *its.Ieee1609Dot2Data) (*its.Ieee1609Dot2Data, error) {
	e := d.Content.EncryptedData
	switch {
	case d.Content.Choice != its.ContentEncrypted || e == nil:
		return nil, ErrContent
	case len(e.Recipients) != 1 || e.Recipients[0].Choice != its.RecipientPsk || e.Recipients[0].RecipientId != s.id:
		return nil, ErrRecipient
	}
	return s.open(e)
}

func (s *Session) seal(random io.Reader, d *its.Ieee1609Dot2Data, to []its.RecipientInfo) (*its.Ieee1609Dot2Data, error) {
	b, err := coer.Marshal(d)
	if err != nil {
		return nil, err
	}
	var c its.SymmetricCiphertext
	if _, err := io.ReadFull(random, c.Nonce[:]); err != nil {
		return nil, err
	}
	if c.CcmCiphertext, err = s.key.Seal(c.Nonce, b); err != nil {
		return nil, err
	}
	return &its.Ieee1609Dot2Data{Content: its.Ieee1609Dot2Content{Choice: its.ContentEncrypted, EncryptedData: &its.EncryptedData{Recipients: to, Ciphertext: c}}}, nil
}

func (s *Session) open(e *its.EncryptedData) (*its.Ieee1609Dot2Data, error) {
	if e.Ciphertext.Choice != its.AES128CCM {
		return nil, ErrAlgorithm
	}
	b, err := s.key.Open(e.Ciphertext.Nonce, e.Ciphertext.CcmCiphertext)
	if err != nil {
		return nil, ErrCiphertext
	}
	inner := new(its.Ieee1609Dot2Data)
	if err := coer.Unmarshal(b, inner); err != nil {
		return nil, errors.Join(ErrInside, err)
	}
	return inner, nil
}

// Signer is who signs. Sign gets the digest, of the algorithm that goes with the key.
type Signer struct {
	Algorithm   its.SignatureAlgorithm
	Certificate *its.Certificate // nil: the holder of a key and nothing else (self)
	Attach      bool             // the certificate goes along; else its digest does
	Sign        func(digest []byte) (its.Signature, error)
	known       *its.Signatory // the certificate with its digest; nil: it was not computed before
}

// Prepared is the signer with the digest of its certificate computed, for who signs much.
func (s Signer) Prepared() (Signer, error) {
	if s.Certificate == nil {
		return s, nil
	}
	known, err := its.NewSignatory(s.Certificate)
	s.known = known
	return s, err
}

// Certify signs a certificate in the name of the signer, who has one.
func (s *Signer) Certify(x *its.Certificate) error {
	by, err := s.signatory()
	if err != nil {
		return err
	}
	x.Issuer = its.IssuerIdentifier{Choice: its.IssuerSHA256, Digest: by.ID}
	if s.Algorithm.Hash() == its.SHA384 {
		x.Issuer.Choice = its.IssuerSHA384
	}
	digest, err := x.InputBy(by)
	if err != nil {
		return err
	}
	signature, err := s.Sign(digest)
	if err != nil {
		return err
	}
	x.Signature = coer.Some(signature)
	return nil
}

// signatory is the signer's certificate.
func (s *Signer) signatory() (*its.Signatory, error) {
	switch {
	case s.known != nil:
		return s.known, nil
	case s.Certificate == nil:
		return nil, its.ErrIssuer
	}
	return its.NewSignatory(s.Certificate)
}

// Sign signs a payload.
func Sign(payload its.SignedDataPayload, header its.HeaderInfo, s Signer) (*its.Ieee1609Dot2Data, error) {
	d := &its.SignedData{HashId: s.Algorithm.Hash(), TbsData: its.ToBeSignedData{Payload: payload, HeaderInfo: header}, Signer: its.SignerIdentifier{Choice: its.SignerSelf}}
	digest, err := s.input(d)
	if err != nil {
		return nil, err
	}
	if d.Signature, err = s.Sign(digest); err != nil {
		return nil, err
	}
	return &its.Ieee1609Dot2Data{Content: its.Ieee1609Dot2Content{Choice: its.ContentSigned, SignedData: d}}, nil
}

// input says who signs, and computes what is signed.
func (s *Signer) input(d *its.SignedData) ([]byte, error) {
	if s.Certificate == nil {
		return d.Input(nil)
	}
	by, err := s.signatory()
	if err != nil {
		return nil, err
	}
	d.Signer = its.SignerIdentifier{Digest: by.ID}
	if s.Attach {
		d.Signer = its.SignerIdentifier{Choice: its.SignerCertificate, Certificate: []its.Certificate{*s.Certificate}}
	}
	return d.InputBy(by)
}

// Payload is a payload of these octets, unsecured.
func Payload(octets []byte) its.SignedDataPayload {
	return its.SignedDataPayload{Data: its.Unsecured(octets)}
}

// ECDSA signs with a key of P-256 or P-384 as Signer.Sign does: deterministically (RFC 6979), with the lower of the two values of s.
func ECDSA(key *ecdsa.PrivateKey) func(digest []byte) (its.Signature, error) {
	if key.Curve.Params().BitSize == 384 {
		return Signature(key, its.ECDSANistP384)
	}
	return Signature(key, its.ECDSANistP256)
}

// Signature signs as Signer.Sign does with a key of P-256 or P-384, wherever that is kept, with the lower of the two values of s.
func Signature(key crypto.Signer, algorithm its.SignatureAlgorithm) func(digest []byte) (its.Signature, error) {
	curve, hash := elliptic.P256(), crypto.SHA256
	if algorithm == its.ECDSANistP384 {
		curve, hash = elliptic.P384(), crypto.SHA384
	}
	n, size := curve.Params().N, algorithm.Size()
	half := new(big.Int).Rsh(n, 1).FillBytes(make([]byte, size))
	return func(digest []byte) (its.Signature, error) {
		der, err := key.Sign(nil, digest, hash)
		if err != nil {
			return its.Signature{}, err
		}
		both, err := split(der, size)
		if err != nil {
			return its.Signature{}, err
		}
		s := both[size:]
		if bytes.Compare(s, half) > 0 {
			v := new(big.Int).SetBytes(s)
			v.Sub(n, v).FillBytes(s)
		}
		return its.Signature{Choice: algorithm, R: its.CurvePoint{X: both[:size:size]}, S: s}, nil
	}
}

// split takes r and s, of so many octets each, out of a signature as crypto.Signer has it: SEQUENCE of two INTEGER, which are short enough for lengths of one octet.
func split(der []byte, size int) ([]byte, error) {
	both := make([]byte, 2*size)
	rest, ok := cut(0x30, der)
	if !ok || len(rest)+2 != len(der) {
		return nil, errForm
	}
	for _, into := range [][]byte{both[:size], both[size:]} {
		n, ok := cut(2, rest)
		if !ok {
			return nil, errForm
		}
		rest = rest[2+len(n):]
		if n = bytes.TrimLeft(n, "\x00"); len(n) > size {
			return nil, errForm
		}
		copy(into[size-len(n):], n)
	}
	if len(rest) > 0 {
		return nil, errForm
	}
	return both, nil
}

// cut is the content of a value with that tag, with which b begins.
func cut(tag byte, b []byte) (content []byte, ok bool) {
	if len(b) < 2 || b[0] != tag || b[1] > 0x7f || int(b[1]) > len(b)-2 {
		return nil, false
	}
	return b[2 : 2+b[1]], true
}

var errForm = errors.New("the key gives signatures in another form than ECDSA-Sig-Value")
