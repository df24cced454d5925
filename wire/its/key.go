package its

import "mooring/wire/coer"

// HashAlgorithm is the one that goes with a key: SHA-256 with keys of 256 bits, SHA-384 with those of 384. Others make an object invalid.
type HashAlgorithm uint8

// The algorithms.
const (
	SHA256 HashAlgorithm = iota
	SHA384
	SM3
)

var hashAlgorithms = coer.Enumeration{Names: []string{"sha256", "sha384", "sm3"}}

// String is the name in the module.
func (h HashAlgorithm) String() string { return hashAlgorithms.Name(uint8(h)) }

// Code implements coer.Value.
func (h *HashAlgorithm) Code(c *coer.Coder) { coer.Enum(c, h, &hashAlgorithms) }

// HashedData is a digest with its algorithm.
type HashedData struct {
	Choice HashAlgorithm // the alternatives have the numbers of the algorithms
	Hash   []byte
}

var hashedDataChoices = coer.Choices{Names: []string{"sha256HashedData", "sha384HashedData", "sm3HashedData"}, Root: 1}

// Code implements coer.Value.
func (h *HashedData) Code(c *coer.Coder) {
	size := 32
	if coer.Choice(c, &h.Choice, &hashedDataChoices) == SHA384 {
		size = 48
	}
	coer.FixedString(c, &h.Hash, size)
	c.EndChoice()
}

// PointForm is how a point of a curve is written.
type PointForm uint8

// The forms.
const (
	XOnly PointForm = iota // no public key; r of a signature
	Fill                   // no point at all, and nothing of ours
	CompressedY0
	CompressedY1
	Uncompressed
)

var (
	points256 = coer.Choices{Names: []string{"x-only", "fill", "compressed-y-0", "compressed-y-1", "uncompressedP256"}}
	points384 = coer.Choices{Names: []string{"x-only", "fill", "compressed-y-0", "compressed-y-1", "uncompressedP384"}}
)

// CurvePoint is EccP256CurvePoint or EccP384CurvePoint, according to the curve: its coordinates have 32 or 48 octets. Whether it lies on the curve
// is not known here.
type CurvePoint struct {
	Form PointForm
	X, Y []byte // Y: if it is uncompressed
}

// Compressed is a point that SEC 1 writes so: an octet 2 or 3, and the x-coordinate.
func Compressed(sec1 []byte) CurvePoint {
	return CurvePoint{Form: CompressedY0 + PointForm(sec1[0]&1), X: sec1[1:]}
}

// compressed is the form that keys have in what is signed.
func (p CurvePoint) compressed() CurvePoint {
	if p.Form != Uncompressed || len(p.Y) == 0 {
		return p
	}
	return CurvePoint{Form: CompressedY0 + PointForm(p.Y[len(p.Y)-1]&1), X: p.X}
}

// xOnly is the form that r has in what is signed. The x-coordinate of a point may exceed the order of the curve, and would have to be reduced; the
// standard leaves that out (IEEE 1609.2, 6.3.30), as it happens once in 2^128 signatures.
func (p CurvePoint) xOnly() CurvePoint {
	if p.Form == Fill {
		return p
	}
	return CurvePoint{Form: XOnly, X: p.X}
}

// code codes a point of a curve whose field has so many octets.
func (p *CurvePoint) code(c *coer.Coder, size int) {
	choices := &points256
	if size == 48 {
		choices = &points384
	}
	switch coer.Choice(c, &p.Form, choices) {
	case Fill:
		coer.Null(c)
	case Uncompressed:
		s := c.Sequence()
		coer.FixedString(c.At("x"), &p.X, size)
		coer.FixedString(c.At("y"), &p.Y, size)
		s.End()
	default:
		coer.FixedString(c, &p.X, size)
	}
	c.EndChoice()
}

// codeKey codes a point that is compressed in what is signed.
func (p *CurvePoint) codeKey(c *coer.Coder, size int) {
	if c.Normal() {
		short := p.compressed()
		short.code(c, size)
		return
	}
	p.code(c, size)
}

// SignatureAlgorithm is an alternative of PublicVerificationKey and of Signature, which have the same ones.
type SignatureAlgorithm uint8

// The algorithms.
const (
	ECDSANistP256 SignatureAlgorithm = iota
	ECDSABrainpoolP256r1
	ECDSABrainpoolP384r1
	ECDSANistP384
	SM2
)

// Size is how many octets a coordinate has.
func (a SignatureAlgorithm) Size() int {
	if a == ECDSABrainpoolP384r1 || a == ECDSANistP384 {
		return 48
	}
	return 32
}

// Hash is the algorithm that goes with it.
func (a SignatureAlgorithm) Hash() HashAlgorithm {
	switch {
	case a == SM2:
		return SM3
	case a.Size() == 48:
		return SHA384
	}
	return SHA256
}

// String is the name of the alternative of PublicVerificationKey.
func (a SignatureAlgorithm) String() string {
	if int(a) < len(verificationKeyChoices.Names) {
		return verificationKeyChoices.Names[a]
	}
	return "unknown"
}

var (
	verificationKeyChoices = coer.Choices{Root: 2,
		Names: []string{"ecdsaNistP256", "ecdsaBrainpoolP256r1", "ecdsaBrainpoolP384r1", "ecdsaNistP384", "ecsigSm2"}}
	signatureChoices = coer.Choices{Root: 2,
		Names: []string{"ecdsaNistP256Signature", "ecdsaBrainpoolP256r1Signature", "ecdsaBrainpoolP384r1Signature", "ecdsaNistP384Signature", "sm2Signature"}}
)

// PublicVerificationKey verifies signatures.
type PublicVerificationKey struct {
	Choice SignatureAlgorithm
	Point  CurvePoint
}

// Code implements coer.Value.
func (k *PublicVerificationKey) Code(c *coer.Coder) {
	a := coer.Choice(c, &k.Choice, &verificationKeyChoices)
	k.Point.codeKey(c, a.Size())
	c.EndChoice()
}

// Signature is a signature, of ECDSA or SM2.
type Signature struct {
	Choice SignatureAlgorithm
	R      CurvePoint // SM2: XOnly
	S      []byte
}

// Code implements coer.Value.
func (g *Signature) Code(c *coer.Coder) {
	a := coer.Choice(c, &g.Choice, &signatureChoices)
	s := c.Sequence()
	switch c.At("rSig"); {
	case a == SM2:
		coer.FixedString(c, &g.R.X, 32)
	case c.Normal():
		r := g.R.xOnly()
		r.code(c, a.Size())
	default:
		g.R.code(c, a.Size())
	}
	coer.FixedString(c.At("sSig"), &g.S, a.Size())
	s.End()
	c.EndChoice()
}

// SymmAlgorithm is a symmetric cipher.
type SymmAlgorithm uint8

// The ciphers.
const (
	AES128CCM SymmAlgorithm = iota
	SM4CCM
)

var (
	symmAlgorithms      = coer.Enumeration{Names: []string{"aes128Ccm", "sm4Ccm"}}
	symmetricKeyChoices = coer.Choices{Names: []string{"aes128Ccm", "sm4Ccm"}, Root: 1}
)

// SymmetricEncryptionKey is a key of 16 octets.
type SymmetricEncryptionKey struct {
	Choice SymmAlgorithm
	Key    []byte
}

// HashedId8 is by which the key is named among recipients.
func (k *SymmetricEncryptionKey) HashedId8() (HashedId8, error) { return hashedId8(k) }

// HashedId8 is by which the key is named among recipients.
func (k *PublicEncryptionKey) HashedId8() (HashedId8, error) { return hashedId8(k) }

// hashedId8 is that of the canonical form of something, by SHA-256.
func hashedId8(v coer.Value) (id HashedId8, err error) {
	b, err := coer.Normal(v)
	if err != nil {
		return id, err
	}
	sum := SHA256.Sum(b)
	return HashedId8(sum[len(sum)-len(id):]), nil
}

// Code implements coer.Value.
func (k *SymmetricEncryptionKey) Code(c *coer.Coder) {
	coer.Choice(c, &k.Choice, &symmetricKeyChoices)
	coer.FixedString(c, &k.Key, 16)
	c.EndChoice()
}

// EncryptionAlgorithm is an alternative of BasePublicEncryptionKey and of EncryptedDataEncryptionKey, which have the same ones.
type EncryptionAlgorithm uint8

// The algorithms.
const (
	ECIESNistP256 EncryptionAlgorithm = iota
	ECIESBrainpoolP256r1
	ECENCSM2
)

var (
	encryptionKeyChoices = coer.Choices{Names: []string{"eciesNistP256", "eciesBrainpoolP256r1", "ecencSm2"}, Root: 2}
	encryptedKeyChoices  = coer.Choices{Names: []string{"eciesNistP256", "eciesBrainpoolP256r1", "ecencSm2256"}, Root: 2}
)

// PublicEncryptionKey is what messages are encrypted to, and the cipher that its holder knows.
type PublicEncryptionKey struct {
	SupportedSymmAlg SymmAlgorithm
	PublicKey        BasePublicEncryptionKey
}

// BasePublicEncryptionKey is its point.
type BasePublicEncryptionKey struct {
	Choice EncryptionAlgorithm
	Point  CurvePoint
}

// Code implements coer.Value.
func (k *PublicEncryptionKey) Code(c *coer.Coder) {
	s := c.Sequence()
	coer.Enum(c.At("supportedSymmAlg"), &k.SupportedSymmAlg, &symmAlgorithms)
	coer.Choice(c.At("publicKey"), &k.PublicKey.Choice, &encryptionKeyChoices)
	k.PublicKey.Point.codeKey(c, 32)
	c.EndChoice()
	s.End()
}

// EncryptionKeyChoice is an alternative of EncryptionKey.
type EncryptionKeyChoice uint8

// The alternatives.
const (
	EncryptionKeyPublic EncryptionKeyChoice = iota
	EncryptionKeySymmetric
)

var eitherKeyChoices = coer.Choices{Names: []string{"public", "symmetric"}}

// EncryptionKey is what an answer is to be encrypted with.
type EncryptionKey struct {
	Choice    EncryptionKeyChoice
	Public    PublicEncryptionKey
	Symmetric SymmetricEncryptionKey
}

// Code implements coer.Value.
func (k *EncryptionKey) Code(c *coer.Coder) {
	if coer.Choice(c, &k.Choice, &eitherKeyChoices) == EncryptionKeySymmetric {
		k.Symmetric.Code(c)
	} else {
		k.Public.Code(c)
	}
	c.EndChoice()
}

// EncryptedDataEncryptionKey is the key of a message, encrypted to one recipient: EciesP256EncryptedKey, or EcencP256EncryptedKey for SM2.
type EncryptedDataEncryptionKey struct {
	Choice EncryptionAlgorithm
	V      CurvePoint // the sender's ephemeral key
	C      []byte     // the encrypted key, 16 octets
	T      []byte     // its tag, 16 octets; 32 for SM2
}

// Code implements coer.Value.
func (k *EncryptedDataEncryptionKey) Code(c *coer.Coder) {
	tag := 16
	if coer.Choice(c, &k.Choice, &encryptedKeyChoices) == ECENCSM2 {
		tag = 32
	}
	s := c.Sequence()
	k.V.code(c.At("v"), 32)
	coer.FixedString(c.At("c"), &k.C, 16)
	coer.FixedString(c.At("t"), &k.T, tag)
	s.End()
	c.EndChoice()
}
