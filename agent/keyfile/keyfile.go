// Package keyfile makes and reads the private keys of a device in files: PKCS #8 in PEM (RFC 5958), readable by
// the owner alone, one file named key.pem in a folder. Other programs of the device, such as an MQTT client, read the same
// file.
//
// A file protects a key as well as the file system does, and no better: who can read the flash can copy the key. Devices
// with a TPM or a secure element want another implementation of agent.Keys. There is no passphrase, because a device that
// starts without a person would have to keep it beside the key.
package keyfile

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"mooring/agent/durable"
	"mooring/wire/der"
)

// Name is the name of the file in its folder.
const Name = "key.pem"

// maxFile bounds what is read as a key file; an RSA key of 4096 bits takes about 3 kB.
const maxFile = 64 << 10

// Keys makes and finds keys in files. The zero value is ready. It implements agent.Keys.
type Keys struct{}

// Create makes a key of the kind and writes it to the folder. It never replaces a key that is there.
func (Keys) Create(dir string, kind der.KeyKind) (crypto.Signer, error) {
	path := filepath.Join(dir, Name)
	if _, err := os.Lstat(path); err == nil {
		return nil, fmt.Errorf("making a key: %s exists already", path)
	}
	key, err := Generate(kind)
	if err != nil {
		return nil, err
	}
	text, err := Encode(key)
	if err != nil {
		return nil, err
	}
	if err := durable.WriteFile(path, text, 0o600); err != nil {
		return nil, fmt.Errorf("writing the key: %w", err)
	}
	return key, nil
}

// Load reads the key in the folder. It refuses a file that others may read or write. An absent file is fs.ErrNotExist.
func (Keys) Load(dir string) (crypto.Signer, error) { return Read(filepath.Join(dir, Name)) }

// Reuse copies the key of one folder to another.
func (k Keys) Reuse(from, to string) error {
	key, err := k.Load(from)
	if err != nil {
		return err
	}
	text, err := Encode(key)
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(to, Name), text, 0o600)
}

// Read reads a private key from a PEM file of any name, as Load does.
func Read(path string) (crypto.Signer, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("key file %s has mode %04o, so others may use the key; run: chmod 600 %s", path, info.Mode().Perm(), path)
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("key file %s has %d bytes; this is not a key", path, info.Size())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	key, err := Decode(text)
	if err != nil {
		return nil, fmt.Errorf("reading key file %s: %w", path, err)
	}
	return key, nil
}

// Generate makes a key: der.ECP256, der.ECP384, der.ECP521, der.KeyEd25519, "rsa-2048", "rsa-3072" or "rsa-4096".
func Generate(kind der.KeyKind) (crypto.Signer, error) {
	switch kind {
	case der.ECP256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case der.ECP384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case der.ECP521:
		return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case der.KeyEd25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	case "rsa-2048":
		return rsa.GenerateKey(rand.Reader, 2048)
	case "rsa-3072":
		return rsa.GenerateKey(rand.Reader, 3072)
	case "rsa-4096":
		return rsa.GenerateKey(rand.Reader, 4096)
	}
	return nil, fmt.Errorf("key type %q is not known; use ec-p256, ec-p384, ec-p521, ed25519, rsa-2048, rsa-3072 or rsa-4096", kind)
}

// Encode returns the key as PEM. It is a secret.
func Encode(key crypto.Signer) ([]byte, error) {
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), nil
}

// Decode reads the first block of a PEM text: PKCS #8, or the older forms for EC and RSA that other tools write. Errors
// never show the content.
func Decode(text []byte) (crypto.Signer, error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "EC PARAMETERS": // what openssl ecparam writes in front of the key
			continue
		case "PRIVATE KEY":
			key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return nil, errors.New("it holds no PKCS #8 key that can be read")
			}
			if signer, ok := key.(crypto.Signer); ok {
				return signer, nil
			}
			return nil, errors.New("its key cannot sign")
		case "EC PRIVATE KEY":
			key, err := x509.ParseECPrivateKey(block.Bytes)
			if err != nil {
				return nil, errors.New("it holds no EC key that can be read")
			}
			return key, nil
		case "RSA PRIVATE KEY":
			key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
			if err != nil {
				return nil, errors.New("it holds no RSA key that can be read")
			}
			return key, nil
		case "ENCRYPTED PRIVATE KEY":
			return nil, errors.New("its key is encrypted; a device that starts without a person cannot read it")
		default:
			return nil, fmt.Errorf("it begins with %q and not with a private key", block.Type)
		}
	}
	return nil, errors.New("it holds no PEM block")
}
