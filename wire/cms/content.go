package cms

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/subtle"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Cipher is a way to encrypt content.
type Cipher int

// The ciphers. CBC makes EnvelopedData, which nothing protects against change; GCM makes AuthEnvelopedData.
const (
	AES128CBC Cipher = iota + 1
	AES256CBC
	AES128GCM
	AES256GCM
	// TripleDESCBC is for clients of SCEP that have nothing better. No key opens it unless it is told to.
	TripleDESCBC
)

// gcmNonce and gcmTag are the lengths in bytes that we write. Shorter tags, down to 12 bytes, are read.
const (
	gcmNonce  = 12
	gcmTag    = 16
	gcmMinTag = 12
)

// errOpen is the only answer to a wrong key and to broken ciphertext, so that an answer teaches nothing.
var errOpen = errors.New("CMS message cannot be opened with this key")

type cipherSpec struct {
	cipher  Cipher
	oid     asn1.ObjectIdentifier
	keySize int
	gcm     bool
}

func cipherSpecs() []cipherSpec {
	return []cipherSpec{
		{AES128CBC, asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 2}, 16, false},
		{AES256CBC, asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}, 32, false},
		{AES128GCM, asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 6}, 16, true},
		{AES256GCM, asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 46}, 32, true},
		{TripleDESCBC, asn1.ObjectIdentifier{1, 2, 840, 113549, 3, 7}, 24, false},
	}
}

// CipherByOID returns the cipher with the given identifier, as found in SMIMECapabilities; ok is false for those that
// we do not have, and for triple DES.
func CipherByOID(oid asn1.ObjectIdentifier) (c Cipher, ok bool) {
	c = cipherOf(oid)
	return c, c != 0 && c != TripleDESCBC
}

func cipherOf(oid asn1.ObjectIdentifier) Cipher {
	for _, spec := range cipherSpecs() {
		if spec.oid.Equal(oid) {
			return spec.cipher
		}
	}
	return 0
}

func (c Cipher) spec() (cipherSpec, error) {
	for _, spec := range cipherSpecs() {
		if spec.cipher == c {
			return spec, nil
		}
	}
	return cipherSpec{}, fmt.Errorf("there is no content cipher %d", int(c))
}

// sealed is encrypted content with all that is needed beside the key.
type sealed struct {
	algorithm  Algorithm
	ciphertext []byte
	// mac is the tag of GCM, else nil.
	mac []byte
}

// block returns the cipher under key.
func (spec cipherSpec) block(key []byte) (cipher.Block, error) {
	if spec.cipher == TripleDESCBC {
		return des.NewTripleDESCipher(key)
	}
	return aes.NewCipher(key)
}

// seal encrypts content; associated is authenticated too and must be nil for CBC.
func (spec cipherSpec) seal(rand io.Reader, key, content, associated []byte) (sealed, error) {
	block, err := spec.block(key)
	if err != nil {
		return sealed{}, err
	}
	if spec.gcm {
		return spec.sealGCM(rand, block, content, associated)
	}
	size := block.BlockSize()
	iv := make([]byte, size)
	if _, err := io.ReadFull(rand, iv); err != nil {
		return sealed{}, fmt.Errorf("drawing an initialisation vector: %w", err)
	}
	padding := size - len(content)%size
	padded := make([]byte, len(content)+padding)
	for i := copy(padded, content); i < len(padded); i++ {
		padded[i] = byte(padding)
	}
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(padded, padded)
	parameters, err := encoded(func(b *cryptobyte.Builder) { b.AddASN1OctetString(iv) })
	return sealed{Algorithm{spec.oid, parameters}, padded, nil}, err
}

func (spec cipherSpec) sealGCM(rand io.Reader, block cipher.Block, content, associated []byte) (sealed, error) {
	aead, err := cipher.NewGCMWithTagSize(block, gcmTag)
	if err != nil {
		return sealed{}, err
	}
	nonce := make([]byte, gcmNonce)
	if _, err := io.ReadFull(rand, nonce); err != nil {
		return sealed{}, fmt.Errorf("drawing a nonce: %w", err)
	}
	out := aead.Seal(nil, nonce, content, associated)
	parameters, err := encoded(func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { // GCMParameters, RFC 5084, section 3.2
			b.AddASN1OctetString(nonce)
			b.AddASN1Int64(gcmTag)
		})
	})
	return sealed{Algorithm{spec.oid, parameters}, out[:len(content)], out[len(content):]}, err
}

// open decrypts what seal encrypted. Every failure that depends on the key or the ciphertext is errOpen.
func (s sealed) open(key, associated []byte) ([]byte, error) {
	spec, err := cipherOf(s.algorithm.OID).spec()
	if err != nil || spec.gcm != (s.mac != nil) {
		return nil, fmt.Errorf("content encryption %v is not supported", s.algorithm.OID)
	}
	if len(key) != spec.keySize {
		return nil, errOpen
	}
	block, err := spec.block(key)
	if err != nil {
		return nil, errOpen
	}
	if spec.gcm {
		return s.openGCM(block, associated)
	}
	parameters := cryptobyte.String(s.algorithm.Parameters)
	var iv cryptobyte.String
	if !parameters.ReadASN1(&iv, cbasn1.OCTET_STRING) || !parameters.Empty() || len(iv) != block.BlockSize() ||
		len(s.ciphertext) == 0 || len(s.ciphertext)%block.BlockSize() != 0 {
		return nil, errOpen
	}
	plain := make([]byte, len(s.ciphertext))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, s.ciphertext)
	return unpad(plain, block.BlockSize())
}

// unpad takes off the padding of RFC 5652, section 6.3, in time that does not depend on where it is wrong.
func unpad(plain []byte, size int) ([]byte, error) {
	last := plain[len(plain)-size:]
	padding := int(last[size-1])
	good := subtle.ConstantTimeLessOrEq(1, padding) & subtle.ConstantTimeLessOrEq(padding, size)
	for i, c := range last {
		inside := subtle.ConstantTimeLessOrEq(size-padding, i)
		good &= subtle.ConstantTimeSelect(inside, subtle.ConstantTimeByteEq(c, byte(padding)), 1)
	}
	if good != 1 {
		return nil, errOpen
	}
	return plain[:len(plain)-padding], nil
}

func (s sealed) openGCM(block cipher.Block, associated []byte) ([]byte, error) {
	nonce, tagSize, ok := readGCMParameters(s.algorithm.Parameters)
	if !ok || len(nonce) != gcmNonce || tagSize < gcmMinTag || tagSize > gcmTag || len(s.mac) != tagSize {
		return nil, errOpen
	}
	aead, err := cipher.NewGCMWithTagSize(block, tagSize)
	if err != nil {
		return nil, errOpen
	}
	plain, err := aead.Open(nil, nonce, append(append([]byte{}, s.ciphertext...), s.mac...), associated)
	if err != nil {
		return nil, errOpen
	}
	return plain, nil
}

func readGCMParameters(der []byte) (nonce []byte, tagSize int, ok bool) {
	input := cryptobyte.String(der)
	var s, octets cryptobyte.String
	if !input.ReadASN1(&s, cbasn1.SEQUENCE) || !input.Empty() || !s.ReadASN1(&octets, cbasn1.OCTET_STRING) {
		return nil, 0, false
	}
	tagSize = 12 // the DEFAULT
	ok = s.Empty() || s.ReadASN1Integer(&tagSize) && s.Empty()
	return octets, tagSize, ok
}
