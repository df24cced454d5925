package cms

import (
	"crypto/aes"
	"crypto/subtle"
	"encoding/binary"
	"errors"
)

// wrapIV is the initial value of RFC 3394, section 2.2.3.1, by which an unwrapped key is known to be right.
const wrapIV = 0xa6a6a6a6a6a6a6a6

var errWrap = errors.New("wrapped key does not belong to this key")

// wrapKey wraps a key of at least 16 bytes, a multiple of 8, with AES under kek (RFC 3394, section 2.2.1).
func wrapKey(kek, key []byte) ([]byte, error) {
	block, err := aes.NewCipher(kek)
	if err != nil {
		return nil, err
	}
	if len(key) < 16 || len(key)%8 != 0 {
		return nil, errors.New("a key to be wrapped has 16 bytes or more, in multiples of 8")
	}
	out := make([]byte, 8+len(key))
	copy(out[8:], key)
	n := len(key) / 8
	var buffer [aes.BlockSize]byte
	binary.BigEndian.PutUint64(buffer[:8], wrapIV)
	for t := 1; t <= 6*n; t++ {
		register := out[8*((t-1)%n+1):][:8]
		copy(buffer[8:], register)
		block.Encrypt(buffer[:], buffer[:])
		binary.BigEndian.PutUint64(buffer[:8], binary.BigEndian.Uint64(buffer[:8])^uint64(t))
		copy(register, buffer[8:])
	}
	copy(out, buffer[:8])
	return out, nil
}

// unwrapKey undoes wrapKey and tells by errWrap that kek was another one (RFC 3394, section 2.2.2).
func unwrapKey(kek, wrapped []byte) ([]byte, error) {
	block, err := aes.NewCipher(kek)
	if err != nil {
		return nil, err
	}
	if len(wrapped) < 24 || len(wrapped)%8 != 0 {
		return nil, errWrap
	}
	key := append([]byte{}, wrapped[8:]...)
	n := len(key) / 8
	var buffer [aes.BlockSize]byte
	copy(buffer[:8], wrapped)
	for t := 6 * n; t >= 1; t-- {
		register := key[8*((t-1)%n):][:8]
		binary.BigEndian.PutUint64(buffer[:8], binary.BigEndian.Uint64(buffer[:8])^uint64(t))
		copy(buffer[8:], register)
		block.Decrypt(buffer[:], buffer[:])
		copy(register, buffer[8:])
	}
	var want [8]byte
	binary.BigEndian.PutUint64(want[:], wrapIV)
	if subtle.ConstantTimeCompare(buffer[:8], want[:]) != 1 {
		return nil, errWrap
	}
	return key, nil
}
