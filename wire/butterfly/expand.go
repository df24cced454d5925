package butterfly

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
)

// Purpose is what the keys of an expansion are for.
type Purpose uint32

// The purposes, by the prefix that the function has for each.
const (
	Signing    Purpose = 0
	Encryption Purpose = 0xffffffff
)

// Expand is f_k(i,j).
func Expand(k [16]byte, p Purpose, i, j uint32) Scalar { return expand(expansion(k), p, i, j) }

// expansion is the function of a key, made ready for use.
func expansion(k [16]byte) cipher.Block {
	block, err := aes.NewCipher(k[:])
	if err != nil {
		panic(err) // 16 octets
	}
	return block
}

func expand(block cipher.Block, p Purpose, i, j uint32) Scalar {
	var x [16]byte
	binary.BigEndian.PutUint32(x[0:], uint32(p))
	binary.BigEndian.PutUint32(x[4:], i)
	binary.BigEndian.PutUint32(x[8:], j)
	var f [48]byte
	for m := range uint32(3) {
		binary.BigEndian.PutUint32(x[12:], m+1)
		part := f[16*m : 16*m+16]
		block.Encrypt(part, x[:])
		subtle.XORBytes(part, part, x[:])
	}
	return reduce(f[:])
}

// Variant is how the two cocoon keys of a certificate come about: the one that is certified, and the one that the answer is encrypted to.
type Variant uint8

// The variants of IEEE 1609.2.1, 9.3.
const (
	Original       Variant = iota // from two caterpillar keys and two expansion keys
	Unified                       // from one of each
	CompactUnified                // likewise, and the answer is not signed: its authenticity follows from the certificate within
)

// Derivation is how the key of encryption follows in the unified variants.
type Derivation uint8

// The derivations. The first is how we read the standard, whose comments say that key and function are the same as for signing.
const (
	SameCocoon    Derivation = iota // it is the cocoon key of signing
	OwnExpansions                   // it is expanded from the same keys with the prefix of encryption
)

// Caterpillar is what a vehicle hands out. EncryptionKey and EncryptionExpansion are of the original variant alone.
type Caterpillar struct {
	Variant             Variant
	Derivation          Derivation // of the unified variants
	SigningKey          Point
	SigningExpansion    [16]byte
	EncryptionKey       Point
	EncryptionExpansion [16]byte
}

// Cocoon returns the cocoon keys (i,j).
func (c *Caterpillar) Cocoon(i, j uint32) (signing, encryption Point) {
	return c.Expander().Cocoon(i, j)
}

// Expander makes many cocoon keys of one caterpillar: its expansion functions are set up once. It is safe for concurrent use. Each key costs the inversion by which its point is written: package nistec
// gives out no coordinates that several points could share one by.
type Expander struct {
	of                  Caterpillar
	signing, encryption cipher.Block
}

// Expander returns the one of a caterpillar.
func (c *Caterpillar) Expander() *Expander {
	e := &Expander{of: *c, signing: expansion(c.SigningExpansion)}
	if e.encryption = e.signing; c.Variant == Original {
		e.encryption = expansion(c.EncryptionExpansion)
	}
	return e
}

// Cocoon returns the cocoon keys (i,j).
func (e *Expander) Cocoon(i, j uint32) (signing, encryption Point) {
	signing = e.of.SigningKey.Add(expand(e.signing, Signing, i, j).Public())
	switch {
	case e.of.Variant == Original:
		return signing, e.of.EncryptionKey.Add(expand(e.encryption, Encryption, i, j).Public())
	case e.of.Derivation == OwnExpansions:
		return signing, e.of.SigningKey.Add(expand(e.encryption, Encryption, i, j).Public())
	}
	return signing, signing
}

// CaterpillarKeys is what a vehicle keeps: the private side of a Caterpillar.
type CaterpillarKeys struct {
	Variant             Variant
	Derivation          Derivation
	SigningKey          Scalar
	SigningExpansion    [16]byte
	EncryptionKey       Scalar
	EncryptionExpansion [16]byte
}

// Public is what is handed out.
func (k *CaterpillarKeys) Public() Caterpillar {
	c := Caterpillar{Variant: k.Variant, Derivation: k.Derivation, SigningKey: k.SigningKey.Public(), SigningExpansion: k.SigningExpansion, EncryptionExpansion: k.EncryptionExpansion}
	if k.Variant == Original {
		c.EncryptionKey = k.EncryptionKey.Public()
	}
	return c
}

// Cocoon returns the private keys of the cocoon keys (i,j).
func (k *CaterpillarKeys) Cocoon(i, j uint32) (signing, encryption Scalar) {
	signing = k.SigningKey.Add(Expand(k.SigningExpansion, Signing, i, j))
	switch {
	case k.Variant == Original:
		return signing, k.EncryptionKey.Add(Expand(k.EncryptionExpansion, Encryption, i, j))
	case k.Derivation == OwnExpansions:
		return signing, k.SigningKey.Add(Expand(k.SigningExpansion, Encryption, i, j))
	}
	return signing, signing
}

// Randomise is the key of an explicit certificate for a cocoon key, with the authority's random number: cocoon + r·G. The private key is that of the
// cocoon key plus r.
func Randomise(cocoon Point, r Scalar) Point { return cocoon.Add(r.Public()) }
