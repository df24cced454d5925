package key

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
)

// The first octets of every container; the digit is the format's version.
const magic = "MOORKEY1"

// Far above the largest container there is (RSA 4096: about 2.6 kB), and a bound on what a stray file can make us read.
const maxContainer = 64 << 10

const (
	kindKey    = "key"
	kindSecret = "secret"
)

// header is the readable part of a container. It is authenticated together with the ciphertext, so that a file cannot be passed off as
// another by renaming it or by changing what is written about it.
type header struct {
	Version   int       `json:"version"`
	Kind      string    `json:"kind"`
	ID        string    `json:"id"`
	Label     string    `json:"label,omitempty"`
	Algorithm Algorithm `json:"algorithm,omitempty"`
	SPKI      string    `json:"spki,omitempty"` // hex SHA-256 of the SubjectPublicKeyInfo
}

var errDamaged = errors.New("the file is damaged or was not written by this store")

// sealer opens and closes containers with the store's container key.
type sealer struct{ aead cipher.AEAD }

func newSealer(key []byte) (*sealer, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	return &sealer{aead}, err
}

func (s *sealer) seal(h header, plaintext []byte) ([]byte, error) {
	text, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	if len(text) > 4096 {
		return nil, errors.New("the label is too long")
	}
	out := append([]byte(magic), 0, 0)
	binary.BigEndian.PutUint16(out[len(magic):], uint16(len(text)))
	out = append(out, text...)
	additional := len(out)
	out = append(out, make([]byte, s.aead.NonceSize())...)
	nonce := out[additional:]
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	return s.aead.Seal(out, nonce, plaintext, out[:additional]), nil
}

// open returns header and plaintext of a container that is named by kind and id. Any change to any octet ends in errDamaged.
func (s *sealer) open(kind, id string, data []byte) (header, []byte, error) {
	rest, ok := bytes.CutPrefix(data, []byte(magic))
	if !ok || len(rest) < 2 {
		return header{}, nil, errDamaged
	}
	n := int(binary.BigEndian.Uint16(rest))
	if len(rest) < 2+n+s.aead.NonceSize()+s.aead.Overhead() {
		return header{}, nil, errDamaged
	}
	additional := len(magic) + 2 + n
	nonce := data[additional : additional+s.aead.NonceSize()]
	plaintext, err := s.aead.Open(nil, nonce, data[additional+len(nonce):], data[:additional])
	if err != nil {
		return header{}, nil, errDamaged
	}
	var h header
	if err := json.Unmarshal(rest[2:2+n], &h); err != nil {
		return header{}, nil, errDamaged
	}
	if h.Version != 1 || h.Kind != kind || h.ID != id {
		return header{}, nil, fmt.Errorf("the file holds the %s %q, not the %s %q: it was renamed or copied", h.Kind, h.ID, kind, id)
	}
	return h, plaintext, nil
}
