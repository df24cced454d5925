package device

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"slices"
	"strings"
	"sync"

	"mooring/internal/base/errs"
)

// ID names a device inside the platform: 16 octets that follow from the external name and the deployment key, so that the same name is
// the same primary key and uniqueness needs no further index. It is a pseudonym: without the key nobody gets from ID to name.
type ID [16]byte

// String returns the id as 32 hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// ParseID reads what String wrote.
func ParseID(text string) (ID, error) {
	var id ID
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != len(id) {
		return id, errs.New(errs.Invalid, "a device id is 32 hexadecimal digits")
	}
	copy(id[:], raw)
	return id, nil
}

// Prefixes that keep the uses of the one deployment key apart. They may never change: they name rows.
const (
	domainID    = "mooring device id\x00"
	domainCell  = "mooring cell\x00"
	domainRow   = "mooring device row\x00"
	domainToken = "mooring device token\x00"
	// domainProduct leads from products to devices.
	domainProduct = "mooring device product\x00"
	// domainSecret makes tokens.
	domainSecret = "mooring device token secret\x00"
)

// setKey sets the deployment key, before anything is done with it.
func (r *Registry) setKey(key []byte) {
	key = slices.Clone(key)
	r.macs = &sync.Pool{New: func() any { return hmac.New(sha256.New, key) }}
}

// mac returns a keyed digest. A keyed hash is dear to make and cheap to use again.
func (r *Registry) mac(domain string, data []byte) [sha256.Size]byte {
	var sum [sha256.Size]byte
	h := r.macs.Get().(hash.Hash)
	defer r.macs.Put(h)
	h.Reset()
	h.Write([]byte(domain))
	h.Write(data)
	h.Sum(sum[:0])
	return sum
}

// IDOf returns the id and the cell of the device with this external name, whether or not there is one.
func (r *Registry) IDOf(name string) (ID, uint8) {
	sum := r.mac(domainID, []byte(name))
	id := ID(sum[:16])
	return id, r.CellOf(id)
}

// CellOf returns the cell in which everything about the device with this id is stored.
func (r *Registry) CellOf(id ID) uint8 { return r.mac(domainCell, id[:])[0] }

// mark is a keyed digest as the audit record holds it. 128 bits under a key that is not in the database are out of reach of whoever
// can write rows.
type mark [16]byte

func (m mark) String() string { return hex.EncodeToString(m[:]) }

func parseMark(text string) (mark, bool) {
	var m mark
	n, err := hex.Decode(m[:], []byte(text[:min(len(text), 2*len(m))]))
	return m, err == nil && n == len(m) && len(text) == 2*len(m)
}

// rowMark is the digest of what administrators decided about a device. Issuing changes nothing in it.
func (r *Registry) rowMark(d *Device) mark {
	return r.rowMarkOf(d.ID, d.State, record{name: d.Name, names: joinNames(d.Names), group: d.Group, tags: joinTags(d.Tags), profile: d.Profile, birth: d.birth(), product: d.Product.join()})
}

func (r *Registry) rowMarkOf(id ID, state State, c record) mark {
	b := make([]byte, 0, 256)
	b = append(b, id[:]...)
	b = append(b, byte(state.base()))
	for _, field := range [...]string{c.name, c.names, c.group, c.tags, c.profile, string(c.birth)} {
		b = binary.AppendUvarint(b, uint64(len(field)))
		b = append(b, field...)
	}
	if c.product != "" { // a device on no list has the mark that it had before there were any
		b = binary.AppendUvarint(b, uint64(len(c.product)))
		b = append(b, c.product...)
	}
	sum := r.mac(domainRow, b)
	return mark(sum[:16])
}

// tokenMark is the digest of a token's hash and salt, so that the audit record does not help to guess tokens. The hash has one length only, and
// a token without a salt has the mark that it had before there were salts.
func (r *Registry) tokenMark(hash, salt []byte) mark {
	sum := r.mac(domainToken, slices.Concat(hash, salt))
	return mark(sum[:16])
}

// record is a device as its stored columns: what an import row becomes and what the row digest covers.
type record struct {
	name, names, group, tags, profile string
	birth                             []byte // SHA-256 of a foreign birth certificate, or empty
	product                           string // as it is stored
	// What an import knows besides when it was given the certificate itself, as slot has it; the digest does not cover it.
	birthUntil int64
	birthSPKI  []byte
}

func joinNames(names []string) string { return strings.Join(names, "\n") }

func splitLines(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}
