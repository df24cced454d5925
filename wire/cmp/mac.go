package cmp

import (
	"crypto"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"mooring/wire/der"
)

// The bounds of the work that a sender can make a receiver do (RFC 9481, section 6.1; RFC 4211, section 4.4 wants at least 100 rounds).
const (
	MinIterations = 100
	MaxIterations = 100_000 // of PBKDF2 for all blocks of the key together, see MAC.Rounds
	maxSalt       = 64
	maxKey        = 64
)

// Digest is a hash function of a MAC.
type Digest int

// The hash functions. SHA-1 is safe in HMAC and in use as the default of old clients; as the function that stretches a password it is not taken.
const (
	SHA1 Digest = iota + 1
	SHA256
	SHA384
	SHA512
)

func (d Digest) new() func() hash.Hash {
	switch d {
	case SHA1:
		return sha1.New
	case SHA384:
		return sha512.New384
	case SHA512:
		return sha512.New
	}
	return sha256.New
}

// Object identifiers of the MACs (RFC 9481, section 6).
const (
	oidPasswordBasedMAC = der.OID("\x2a\x86\x48\x86\xf6\x7d\x07\x42\x0d")
	oidPBMAC1           = der.OID("\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0e")
	oidPBKDF2           = der.OID("\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0c")
	oidHMACSHA1         = der.OID("\x2a\x86\x48\x86\xf7\x0d\x02\x07")
	oidHMACSHA1Old      = der.OID("\x2b\x06\x01\x05\x05\x08\x01\x02")
	oidHMACSHA256       = der.OID("\x2a\x86\x48\x86\xf7\x0d\x02\x09")
	oidHMACSHA384       = der.OID("\x2a\x86\x48\x86\xf7\x0d\x02\x0a")
	oidHMACSHA512       = der.OID("\x2a\x86\x48\x86\xf7\x0d\x02\x0b")
	oidSHA1             = der.OID("\x2b\x0e\x03\x02\x1a")
	oidSHA256           = der.OID("\x60\x86\x48\x01\x65\x03\x04\x02\x01")
	oidSHA384           = der.OID("\x60\x86\x48\x01\x65\x03\x04\x02\x02")
	oidSHA512           = der.OID("\x60\x86\x48\x01\x65\x03\x04\x02\x03")
)

func hashOf(id der.OID) Digest {
	switch id {
	case oidSHA1:
		return SHA1
	case oidSHA256:
		return SHA256
	case oidSHA384:
		return SHA384
	case oidSHA512:
		return SHA512
	}
	return 0
}

func hmacOf(id der.OID) Digest {
	switch id {
	case oidHMACSHA1, oidHMACSHA1Old:
		return SHA1
	case oidHMACSHA256:
		return SHA256
	case oidHMACSHA384:
		return SHA384
	case oidHMACSHA512:
		return SHA512
	}
	return 0
}

func (d Digest) hashOID() der.OID {
	return map[Digest]der.OID{SHA1: oidSHA1, SHA256: oidSHA256, SHA384: oidSHA384, SHA512: oidSHA512}[d]
}

func (d Digest) hmacOID() der.OID {
	return map[Digest]der.OID{SHA1: oidHMACSHA1, SHA256: oidHMACSHA256, SHA384: oidHMACSHA384, SHA512: oidHMACSHA512}[d]
}

// Hash returns the digest of a certificate that a certConf carries: by the algorithm that it names, or else by that of the certificate's signature
// (RFC 9810, section 5.3.18). ok is false when there is none: signatures by Ed25519 and ML-DSA need a named one.
func Hash(named []byte, signature crypto.Hash) (h crypto.Hash, ok bool) {
	if named == nil {
		return signature, signature != 0
	}
	id, rest, err := readAlgorithm(named)
	if err != nil || !absentOrNull(rest) {
		return 0, false
	}
	switch hashOf(id) {
	case SHA256:
		return crypto.SHA256, true
	case SHA384:
		return crypto.SHA384, true
	case SHA512:
		return crypto.SHA512, true
	}
	return 0, false
}

// SHA256Identifier is the AlgorithmIdentifier of SHA-256, as a certConf names it.
func SHA256Identifier() []byte { return identifier(oidSHA256, nil) }

// MAC is a message authentication code made with a shared secret, by PBMAC1 (RFC 8018, section 7.1), or with Old by PasswordBasedMac
// (RFC 4211, section 4.4).
type MAC struct {
	Secret     []byte
	Old        bool
	Salt       []byte
	Iterations int
	Derive     Digest // of PBKDF2's HMAC, or the one-way function of PasswordBasedMac
	HMAC       Digest
	KeyLength  int // of PBMAC1, octets
}

// String keeps the secret out of printed text.
func (MAC) String() string { return "cmp.MAC(secret withheld)" }

// GoString keeps the secret out of %#v.
func (m MAC) GoString() string { return m.String() }

// NewMAC returns PBMAC1 as new messages have it, with a fresh salt.
func NewMAC(secret []byte, rand io.Reader) (*MAC, error) {
	m := &MAC{Secret: secret, Iterations: 1000, Derive: SHA256, HMAC: SHA256, KeyLength: 32}
	return m, m.freshen(rand)
}

// Answer returns the MAC for the answer to a message that bore m: of the same kind, with a fresh salt.
func (m *MAC) Answer(rand io.Reader) (*MAC, error) {
	a := *m
	return &a, a.freshen(rand)
}

func (m *MAC) freshen(rand io.Reader) error {
	m.Salt = make([]byte, 16)
	if _, err := io.ReadFull(rand, m.Salt); err != nil {
		return fmt.Errorf("drawing a salt: %w", err)
	}
	return nil
}

// Same reports whether n is made in the same way as m; salts differ.
func (m *MAC) Same(n *MAC) bool {
	return m.Old == n.Old && m.Iterations == n.Iterations && m.Derive == n.Derive && m.HMAC == n.HMAC && m.KeyLength == n.KeyLength
}

// IsMAC reports whether a protectionAlg is one of the MACs by a shared secret, known here or not.
func IsMAC(algorithm []byte) bool {
	id, _, err := readAlgorithm(algorithm)
	return err == nil && (id == oidPasswordBasedMAC || id == oidPBMAC1 || strings.HasPrefix(string(id), "\x2a\x86\x48\x86\xf7\x0d\x02"))
}

// ParseMAC reads the protectionAlg of a message. Secret is left to the caller.
func ParseMAC(algorithm []byte) (*MAC, error) {
	id, parameters, err := readAlgorithm(algorithm)
	if err != nil {
		return nil, err
	}
	m := &MAC{}
	switch id {
	case oidPasswordBasedMAC:
		m.Old = true
		err = m.readOld(parameters)
	case oidPBMAC1:
		err = m.readNew(parameters)
	default:
		return nil, fmt.Errorf("the MAC algorithm %s is not known here; use PBMAC1 or PasswordBasedMac", id)
	}
	if err != nil {
		return nil, err
	}
	switch {
	case m.Iterations < MinIterations || m.Iterations > MaxIterations:
		return nil, fmt.Errorf("a MAC with %d iterations; %d to %d are taken", m.Iterations, MinIterations, MaxIterations)
	case len(m.Salt) < 8 || len(m.Salt) > maxSalt:
		return nil, fmt.Errorf("a MAC with a salt of %d octets; 8 to %d are taken", len(m.Salt), maxSalt)
	case m.Derive == 0 || m.HMAC == 0 || m.Old && m.Derive == SHA1:
		return nil, errors.New("a MAC with a hash function that is not taken here; use SHA-256, SHA-384 or SHA-512")
	case !m.Old && (m.KeyLength < 16 || m.KeyLength > maxKey):
		return nil, fmt.Errorf("a MAC with a key of %d octets; 16 to %d are taken", m.KeyLength, maxKey)
	case m.Rounds() > MaxIterations:
		return nil, fmt.Errorf("a MAC with %d iterations for each of the %d blocks of its key; %d are taken for all together", m.Iterations, m.Rounds()/m.Iterations, MaxIterations)
	}
	return m, nil
}

// Rounds is how much work the secret is stretched by: PBKDF2 does the iterations for each block of the key, which is as long as the digest (RFC 8018,
// section 5.2).
func (m *MAC) Rounds() int {
	if m.Old {
		return m.Iterations
	}
	size := m.Derive.new()().Size()
	return m.Iterations * ((m.KeyLength + size - 1) / size)
}

// readOld reads a PBMParameter.
func (m *MAC) readOld(parameters cryptobyte.String) error {
	var in, owf, mac cryptobyte.String
	if !parameters.ReadASN1(&in, asn1.SEQUENCE) || !parameters.Empty() || !in.ReadASN1Bytes(&m.Salt, asn1.OCTET_STRING) ||
		!in.ReadASN1Element(&owf, asn1.SEQUENCE) || !in.ReadASN1Integer(&m.Iterations) || !in.ReadASN1Element(&mac, asn1.SEQUENCE) || !in.Empty() {
		return malformed("PBMParameter")
	}
	var err error
	if m.Derive, err = readDigest(owf, hashOf); err != nil {
		return err
	}
	m.HMAC, err = readDigest(mac, hmacOf)
	return err
}

// readNew reads PBMAC1-params.
func (m *MAC) readNew(parameters cryptobyte.String) error {
	var in, kdf, mac, pbkdf, prf cryptobyte.String
	if !parameters.ReadASN1(&in, asn1.SEQUENCE) || !parameters.Empty() || !in.ReadASN1Element(&kdf, asn1.SEQUENCE) ||
		!in.ReadASN1Element(&mac, asn1.SEQUENCE) || !in.Empty() {
		return malformed("PBMAC1-params")
	}
	id, rest, err := readAlgorithm(kdf)
	if err != nil || id != oidPBKDF2 {
		return errors.New("a MAC with a key derivation other than PBKDF2")
	}
	if !rest.ReadASN1(&pbkdf, asn1.SEQUENCE) || !rest.Empty() || !pbkdf.ReadASN1Bytes(&m.Salt, asn1.OCTET_STRING) || !pbkdf.ReadASN1Integer(&m.Iterations) {
		return malformed("PBKDF2-params")
	}
	if m.HMAC, err = readDigest(mac, hmacOf); err != nil {
		return err
	}
	m.KeyLength = m.HMAC.new()().Size()
	if pbkdf.PeekASN1Tag(asn1.INTEGER) && !pbkdf.ReadASN1Integer(&m.KeyLength) {
		return malformed("PBKDF2-params")
	}
	m.Derive = SHA1
	if pbkdf.Empty() {
		return nil
	}
	if !pbkdf.ReadASN1Element(&prf, asn1.SEQUENCE) || !pbkdf.Empty() {
		return malformed("PBKDF2-params")
	}
	m.Derive, err = readDigest(prf, hmacOf)
	return err
}

func readAlgorithm(in []byte) (id der.OID, parameters cryptobyte.String, err error) {
	s := cryptobyte.String(in)
	var inner cryptobyte.String
	if !s.ReadASN1(&inner, asn1.SEQUENCE) || !s.Empty() {
		return "", nil, malformed("AlgorithmIdentifier")
	}
	id, err = readOID(&inner)
	return id, inner, err
}

func absentOrNull(s cryptobyte.String) bool {
	return s.Empty() || string(s) == "\x05\x00"
}

func readDigest(in []byte, of func(der.OID) Digest) (Digest, error) {
	id, rest, err := readAlgorithm(in)
	if err != nil {
		return 0, err
	}
	if !absentOrNull(rest) {
		return 0, malformed("AlgorithmIdentifier")
	}
	return of(id), nil
}

// identifier is an AlgorithmIdentifier; without parameters NULL stands in their place, as it is for hashes and HMAC (RFC 9481).
func identifier(id der.OID, parameters []byte) []byte {
	if parameters == nil {
		parameters = []byte{5, 0}
	}
	return der.AppendElement(nil, 0x30, append(id.Append(nil), parameters...))
}

func (m *MAC) algorithm() ([]byte, error) {
	var b cryptobyte.Builder
	if m.Old {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1OctetString(m.Salt)
			b.AddBytes(identifier(m.Derive.hashOID(), nil))
			b.AddASN1Int64(int64(m.Iterations))
			b.AddBytes(identifier(m.HMAC.hmacOID(), nil))
		})
	} else {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			var kdf cryptobyte.Builder
			kdf.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1OctetString(m.Salt)
				b.AddASN1Int64(int64(m.Iterations))
				b.AddASN1Int64(int64(m.KeyLength))
				if m.Derive != SHA1 { // the default, which DER leaves out
					b.AddBytes(identifier(m.Derive.hmacOID(), nil))
				}
			})
			b.AddBytes(identifier(oidPBKDF2, kdf.BytesOrPanic()))
			b.AddBytes(identifier(m.HMAC.hmacOID(), nil))
		})
	}
	parameters, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("building a MAC algorithm: %w", err)
	}
	if m.Old {
		return identifier(oidPasswordBasedMAC, parameters), nil
	}
	return identifier(oidPBMAC1, parameters), nil
}

func (m *MAC) protect(part []byte) ([]byte, error) {
	key, err := m.key()
	if err != nil {
		return nil, err
	}
	h := hmac.New(m.HMAC.new(), key)
	h.Write(part)
	return h.Sum(nil), nil
}

func (m *MAC) key() ([]byte, error) {
	if !m.Old {
		return pbkdf2.Key(m.Derive.new(), string(m.Secret), m.Salt, m.Iterations, m.KeyLength)
	}
	h := m.Derive.new()()
	h.Write(m.Secret)
	h.Write(m.Salt)
	key := h.Sum(nil)
	for range m.Iterations - 1 {
		h.Reset()
		h.Write(key)
		key = h.Sum(key[:0])
	}
	return key, nil
}

// CheckMAC compares the message's protection with the MAC made by secret, in constant time. m comes from ParseMAC on the message's protectionAlg.
func (m *Message) CheckMAC(mac *MAC) error {
	sum, err := mac.protect(protected(m.header, m.body))
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(sum, m.Protection) != 1 {
		return errors.New("the message authentication code does not match")
	}
	return nil
}

// Verify checks the message's signature by the key of its sender.
func (m *Message) Verify(pub crypto.PublicKey) error {
	if m.Header.Protection == nil || m.Protection == nil {
		return errors.New("the message is not protected")
	}
	a, err := der.ParseSignatureAlgorithm(m.Header.Protection)
	if err != nil {
		return err
	}
	return a.Verify(pub, protected(m.header, m.body), m.Protection)
}

// Signer protects messages by a signature.
type Signer struct {
	Key  crypto.Signer
	Rand io.Reader
}

func (s *Signer) algorithm() ([]byte, error) {
	a, err := der.AlgorithmFor(s.Key.Public())
	return a.Identifier(), err
}

func (s *Signer) protect(part []byte) ([]byte, error) {
	return Sign(s.Key, s.Rand, part)
}

// Sign signs octets by the algorithm that goes with the key: a message, or a Request as its proof of possession.
func Sign(key crypto.Signer, rand io.Reader, octets []byte) ([]byte, error) {
	a, err := der.AlgorithmFor(key.Public())
	if err != nil {
		return nil, err
	}
	signature, err := key.Sign(rand, a.Digest(octets), a.Hash())
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	return signature, nil
}

// Prove completes a request with the proof that the sender holds key.
func (r *Request) Prove(key crypto.Signer, rand io.Reader) error {
	if err := r.Complete(); err != nil {
		return err
	}
	a, err := der.AlgorithmFor(key.Public())
	if err != nil {
		return err
	}
	r.Proof = Proof{Kind: Signature, Algorithm: a.Identifier()}
	r.Proof.Bits, err = Sign(key, rand, r.Signed)
	return err
}
