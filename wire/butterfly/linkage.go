package butterfly

import (
	"crypto/aes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
)

// Linkage. Each vehicle has a chain of seeds at each of two linkage authorities. From the seeds of a period follow the two halves of the linkage values of its certificates.
// When a vehicle is revoked the seeds of that period are published, from which those of later periods follow, and not those of earlier ones:
//
//	seed(i)   = SHA-256(laId (16) || seed(i-1) (128) || 0 (112)), of which the first 16 octets
//	half(i,j) = AES_seed(i)(b) ^ b, of which the first 9 octets, with b = laId (16) || j (32) || 0 (80)
//	value     = half of one authority ^ half of the other

// Seed is a seed of a linkage authority, for one period.
type Seed [16]byte

// LaId names a linkage authority. The two of a vehicle must differ.
type LaId [2]byte

// LinkageValue is a linkage value, or half of one (PreLinkageValue).
type LinkageValue [9]byte

// Next is the seed of the next period.
func (s Seed) Next(la LaId) Seed {
	var in [32]byte
	copy(in[:], la[:])
	copy(in[2:], s[:])
	sum := sha256.Sum256(in[:])
	return Seed(sum[:16])
}

// Half is the authority's half of the value of certificate j of the seed's period.
func (s Seed) Half(la LaId, j uint32) LinkageValue {
	var b [16]byte
	copy(b[:], la[:])
	binary.BigEndian.PutUint32(b[2:], j)
	out := daviesMeyer(s, b)
	return LinkageValue(out[:9])
}

// Join is the value of two halves.
func (v LinkageValue) Join(w LinkageValue) LinkageValue {
	subtle.XORBytes(v[:], v[:], w[:])
	return v
}

// GroupIndex hides the number j of a certificate in the group chain k, for the two authorities alone. (The order of the two numbers is that of the published
// vectors; the text beside them has the other one.)
func GroupIndex(key [16]byte, k, j uint32) [16]byte {
	var b [16]byte
	binary.BigEndian.PutUint32(b[0:], k)
	binary.BigEndian.PutUint32(b[4:], j)
	return daviesMeyer(key, b)
}

// daviesMeyer is AES_key(b) ^ b.
func daviesMeyer(key, b [16]byte) (out [16]byte) {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // 16 octets
	}
	block.Encrypt(out[:], b[:])
	subtle.XORBytes(out[:], out[:], b[:])
	return out
}
