package key

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"golang.org/x/crypto/scrypt"

	"mooring/internal/base/errs"
)

const (
	minLogN = 15
	maxLogN = 20 // 1 GiB of memory; a store.json that asks for more was tampered with
)

// lock is store.json: how the master key follows from the unlock material.
type lock struct {
	Version  int    `json:"version"`
	KDF      string `json:"kdf"` // "scrypt"
	LogN     int    `json:"logN"`
	R        int    `json:"r"`
	P        int    `json:"p"`
	Salt     string `json:"salt"`     // hex, 32 octets
	Verifier string `json:"verifier"` // hex, 16 octets that only the right unlock material gives
	Check    string `json:"check"`    // hex, SHA-256 of the other fields, so that damage is not taken for a wrong passphrase
}

// derived is what the unlock material gives.
type derived struct{ container, verifier []byte }

func (l lock) sum() string {
	h := sha256.Sum256(fmt.Appendf(nil, "%d %s %d %d %d %s %s", l.Version, l.KDF, l.LogN, l.R, l.P, l.Salt, l.Verifier))
	return hex.EncodeToString(h[:])
}

func (l lock) derive(unlock []byte) (derived, error) {
	salt, err := hex.DecodeString(l.Salt)
	if err != nil {
		return derived{}, err
	}
	master, err := scrypt.Key(unlock, salt, 1<<l.LogN, l.R, l.P, 32)
	if err != nil {
		return derived{}, err
	}
	defer clear(master)
	container, err := hkdf.Expand(sha256.New, master, "mooring key store: containers", 32)
	if err != nil {
		return derived{}, err
	}
	verifier, err := hkdf.Expand(sha256.New, master, "mooring key store: verifier", 16)
	return derived{container, verifier}, err
}

func newLock(unlock []byte, o Options) ([]byte, derived, error) {
	if o.LogN == 0 {
		o.LogN = minLogN
	}
	if o.LogN < minLogN || o.LogN > maxLogN {
		return nil, derived{}, errs.New(errs.Invalid, "the scrypt cost must lie between 2^%d and 2^%d", minLogN, maxLogN)
	}
	salt := make([]byte, 32)
	if _, err := rand.Read(salt); err != nil {
		return nil, derived{}, err
	}
	l := lock{Version: 1, KDF: "scrypt", LogN: o.LogN, R: 8, P: 1, Salt: hex.EncodeToString(salt)}
	keys, err := l.derive(unlock)
	if err != nil {
		return nil, derived{}, err
	}
	l.Verifier = hex.EncodeToString(keys.verifier)
	l.Check = l.sum()
	data, err := json.MarshalIndent(l, "", "  ")
	return append(data, '\n'), keys, err
}

func openLock(data, unlock []byte) (derived, error) {
	var l lock
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	err := dec.Decode(&l)
	if err != nil || l.Check != l.sum() {
		return derived{}, errs.Wrap(errs.Unavailable, err, "%s is damaged: restore it from a backup", storeFile)
	}
	if l.Version != 1 || l.KDF != "scrypt" || l.LogN < minLogN || l.LogN > maxLogN || l.R != 8 || l.P != 1 {
		return derived{}, errs.New(errs.Unavailable, "%s has parameters that this version does not know", storeFile)
	}
	keys, err := l.derive(unlock)
	if err != nil {
		return derived{}, errs.Wrap(errs.Unavailable, err, "%s is damaged: restore it from a backup", storeFile)
	}
	want, err := hex.DecodeString(l.Verifier)
	if err != nil || subtle.ConstantTimeCompare(want, keys.verifier) != 1 {
		return derived{}, errs.New(errs.Denied, "the unlock material is wrong for this key store: use that with which it was made")
	}
	return keys, nil
}
