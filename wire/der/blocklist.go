package der

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
)

// Blocklist is a set of public keys whose private keys everybody can find, such as those that Debian's OpenSSL made from 2006 to 2008
// (CVE-2008-0166). It knows them by fingerprints: 10 octets of memory each for those of openssl-blacklist, 16 for the others. The zero value is empty.
type Blocklist struct {
	short [][10]byte // sorted: the last 10 octets of SHA-1 over "Modulus=", the RSA modulus in capital hexadecimal digits, and a line feed
	long  [][16]byte // sorted: the first 16 octets of SHA-256 over the RSA modulus or the x coordinate, without leading zeros
}

// ParseBlocklist reads a list of one fingerprint a line, in either of the forms in which lists of Debian's keys go round: 20 hexadecimal digits
// (the package openssl-blacklist, and openssl-vulnkey's own format), or 64 (github.com/CVE-2008-0166/dwk_blocklists, which has keys on curves too). Empty
// lines and such that begin with # are skipped. The error names the first line that is neither.
func ParseBlocklist(data []byte) (*Blocklist, error) {
	b := new(Blocklist)
	for number := 1; len(data) > 0; number++ {
		var line []byte
		line, data, _ = bytes.Cut(data, []byte("\n"))
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		var hash [sha256.Size]byte
		if len(line) > hex.EncodedLen(len(hash)) {
			line = line[:hex.EncodedLen(len(hash))+1]
		}
		octets, err := hex.AppendDecode(hash[:0], line)
		switch {
		case err == nil && len(octets) == 10:
			b.short = append(b.short, [10]byte(octets))
		case err == nil && len(octets) == len(hash):
			b.long = append(b.long, [16]byte(octets[:16]))
		default:
			return nil, fmt.Errorf("line %d: a fingerprint has 20 or 64 hexadecimal digits, this is %q", number, line)
		}
	}
	b.sort()
	return b, nil
}

// Merge adds the keys of another list.
func (b *Blocklist) Merge(other *Blocklist) {
	b.short = append(b.short, other.short...)
	b.long = append(b.long, other.long...)
	b.sort()
}

func (b *Blocklist) sort() {
	slices.SortFunc(b.short, func(x, y [10]byte) int { return bytes.Compare(x[:], y[:]) })
	slices.SortFunc(b.long, func(x, y [16]byte) int { return bytes.Compare(x[:], y[:]) })
	b.short, b.long = slices.Clip(slices.Compact(b.short)), slices.Clip(slices.Compact(b.long))
}

// Len returns how many keys are known.
func (b *Blocklist) Len() int { return len(b.short) + len(b.long) }

// Has reports whether a key is on the list.
func (b *Blocklist) Has(pub crypto.PublicKey) bool {
	switch pub := pub.(type) {
	case *rsa.PublicKey:
		n := pub.N.Bytes()
		if len(b.short) > 0 {
			sum := sha1.Sum(fmt.Appendf(nil, "Modulus=%X\n", n))
			if _, found := slices.BinarySearchFunc(b.short, sum[10:], func(e [10]byte, t []byte) int { return bytes.Compare(e[:], t) }); found {
				return true
			}
		}
		return b.hasLong(n)
	case *ecdsa.PublicKey:
		point, err := pub.Bytes() // uncompressed: a 4, x, y
		return err == nil && b.hasLong(bytes.TrimLeft(point[1:1+len(point)/2], "\x00"))
	}
	return false
}

func (b *Blocklist) hasLong(number []byte) bool {
	if len(b.long) == 0 {
		return false
	}
	sum := sha256.Sum256(number)
	_, found := slices.BinarySearchFunc(b.long, sum[:16], func(e [16]byte, t []byte) int { return bytes.Compare(e[:], t) })
	return found
}
