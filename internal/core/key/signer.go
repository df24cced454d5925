package key

import (
	"crypto"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
)

// Signer is a key of a Store in use. It counts its signatures, so that uses can be compared with what was recorded, and it never prints
// its key. It is safe for many goroutines.
type Signer struct {
	info Info
	priv crypto.Signer
	uses atomic.Uint64
}

// Public returns the public key.
func (s *Signer) Public() crypto.PublicKey { return s.priv.Public() }

// Sign signs as Custody says. Since Go 1.26 the random source is ignored for EC keys, which hedge with the system's own.
func (s *Signer) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	signature, err := s.priv.Sign(rand, digest, opts)
	if err == nil {
		s.uses.Add(1)
	}
	return signature, err
}

// Uses returns how many signatures Sign made since the store was opened.
func (s *Signer) Uses() uint64 { return s.uses.Load() }

// Info describes the key.
func (s *Signer) Info() Info { return s.info }

// String names the key without showing it.
func (s *Signer) String() string { return fmt.Sprintf("key %s (%s)", s.info.ID, s.info.Algorithm) }

// Format prints String for every verb, %#v and %+v included, which would otherwise reach the private key by reflection.
func (s *Signer) Format(f fmt.State, _ rune) { io.WriteString(f, s.String()) }

// LogValue logs String.
func (s *Signer) LogValue() slog.Value { return slog.StringValue(s.String()) }
