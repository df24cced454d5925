package butterfly

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"io"
)

// KDF2 derives size octets from a shared secret (ANSI X9.63): SHA-256(z || counter || p1), with a counter of 32 bits from 1 on.
func KDF2(z, p1 []byte, size int) []byte {
	var out []byte
	for counter := uint32(1); len(out) < size; counter++ {
		h := sha256.New()
		h.Write(z)
		h.Write(binary.BigEndian.AppendUint32(nil, counter))
		h.Write(p1)
		out = h.Sum(out)
	}
	return out[:size]
}

// WrappedKey is the key of a message for one recipient (EciesP256EncryptedKey).
type WrappedKey struct {
	V Point    // the ephemeral key
	C [16]byte // the encrypted key
	T [16]byte // its tag
}

// Wrap encrypts the key of a message for a recipient. p1 says for whom it is (IEEE 1609.2, 6.3.36).
func Wrap(random io.Reader, recipient Point, key [16]byte, p1 []byte) (WrappedKey, error) {
	v, err := RandomScalar(random)
	if err != nil {
		return WrappedKey{}, err
	}
	z, err := shared(v, recipient)
	if err != nil {
		return WrappedKey{}, err
	}
	w := WrappedKey{V: v.Public()}
	w.C, w.T = WrapShared(z, p1, key)
	return w, nil
}

// WrapShared encrypts the key of a message with a secret that is shared with the recipient, however it was agreed on: recipients may have keys on other curves.
func WrapShared(z, p1 []byte, key [16]byte) (c, t [16]byte) {
	k := KDF2(z, p1, 48)
	subtle.XORBytes(c[:], key[:], k[:16])
	copy(t[:], tag(k[16:], c[:]))
	return c, t
}

// UnwrapShared decrypts it.
func UnwrapShared(z, p1 []byte, c, t [16]byte) (key [16]byte, err error) {
	k := KDF2(z, p1, 48)
	subtle.XORBytes(key[:], c[:], k[:16])
	if subtle.ConstantTimeCompare(tag(k[16:], c[:])[:16], t[:]) != 1 {
		return [16]byte{}, ErrOpen
	}
	return key, nil
}

// Unwrap decrypts the key of a message. Everything is computed before the tag is looked at, so that no time tells what was wrong.
func Unwrap(private Scalar, w WrappedKey, p1 []byte) (key [16]byte, err error) {
	z, err := shared(private, w.V)
	if err != nil {
		return key, ErrOpen
	}
	return UnwrapShared(z, p1, w.C, w.T)
}

// shared is the x-coordinate of s·p.
func shared(s Scalar, p Point) ([]byte, error) {
	z, err := p.Mul(s).p.BytesX()
	if err != nil {
		return nil, ErrPoint // infinity
	}
	return z, nil
}

func tag(key, of []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write(of)
	return m.Sum(nil)
}

// Sizes of AES-128 in CCM mode as IEEE 1609.2 has it.
const (
	NonceSize = 12
	TagSize   = 16

	// MaxMessage is what the counter of a nonce of that size allows.
	MaxMessage = 1<<24 - 1

	// maxNonces bounds what a MessageKey remembers: a key serves a request and its answer.
	maxNonces = 16
)

// MessageKey encrypts and decrypts messages by AES-128 in CCM mode. It remembers the nonces that it met, in either direction, and refuses to encrypt with one of
// them again: two messages under one key and nonce give away both. It is not for use by several goroutines at once.
type MessageKey struct {
	block cipher.Block
	used  [][NonceSize]byte
}

// NewMessageKey is the key of these octets.
func NewMessageKey(key [16]byte) *MessageKey {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // 16 octets
	}
	return &MessageKey{block: block}
}

// Seal encrypts a message, behind which it puts the tag.
func (k *MessageKey) Seal(nonce [NonceSize]byte, message []byte) ([]byte, error) {
	if len(message) > MaxMessage {
		return nil, ErrTooLong
	}
	if k.knows(nonce) || len(k.used) >= maxNonces {
		return nil, ErrNonce
	}
	k.used = append(k.used, nonce)
	out := make([]byte, len(message)+TagSize)
	stream, mask := k.stream(nonce)
	mac := k.mac(nonce, message)
	stream.XORKeyStream(out, message)
	subtle.XORBytes(out[len(message):], mac[:], mask[:])
	return out, nil
}

// Open decrypts a message with the tag behind it.
func (k *MessageKey) Open(nonce [NonceSize]byte, sealed []byte) ([]byte, error) {
	n := len(sealed) - TagSize
	if n < 0 || n > MaxMessage {
		return nil, ErrOpen
	}
	message := make([]byte, n)
	stream, mask := k.stream(nonce)
	stream.XORKeyStream(message, sealed[:n])
	mac := k.mac(nonce, message)
	subtle.XORBytes(mac[:], mac[:], mask[:])
	if subtle.ConstantTimeCompare(mac[:], sealed[n:]) != 1 {
		return nil, ErrOpen
	}
	if !k.knows(nonce) && len(k.used) < maxNonces {
		k.used = append(k.used, nonce)
	}
	return message, nil
}

func (k *MessageKey) knows(nonce [NonceSize]byte) bool {
	for _, n := range k.used {
		if n == nonce {
			return true
		}
	}
	return false
}

// stream is the key stream for the message, and what the tag is masked with: blocks of flags 2, the nonce and a counter of 3 octets, which is 0 for the tag.
func (k *MessageKey) stream(nonce [NonceSize]byte) (cipher.Stream, [TagSize]byte) {
	var first [aes.BlockSize]byte
	first[0] = 2
	copy(first[1:], nonce[:])
	s := cipher.NewCTR(k.block, first[:])
	var mask [TagSize]byte
	s.XORKeyStream(mask[:], mask[:])
	return s, mask
}

// mac is the CBC-MAC of flags (no associated data, a tag of 16, a length of 3 octets), the nonce, the length, and the message with zeros up to a whole block.
func (k *MessageKey) mac(nonce [NonceSize]byte, message []byte) [TagSize]byte {
	var at [TagSize]byte
	at[0] = (TagSize-2)/2<<3 | 2
	copy(at[1:], nonce[:])
	at[13], at[14], at[15] = byte(len(message)>>16), byte(len(message)>>8), byte(len(message))
	k.block.Encrypt(at[:], at[:])
	for len(message) > 0 {
		n := min(len(message), aes.BlockSize)
		subtle.XORBytes(at[:], at[:], message[:n])
		k.block.Encrypt(at[:], at[:])
		message = message[n:]
	}
	return at
}
