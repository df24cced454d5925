// Package minutes is the record of an offline root's ceremonies: a text, chained and signed, that the root's side writes and anybody verifies,
// the online side first of all. It deliberately knows nothing of files, keys or databases.
package minutes

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"

	"mooring/internal/base/errs"
	"mooring/wire/der"
)

// Record is what happened to a root, in order. As text it is
//
//	mooring ceremony record, version 1
//
//	entry: 1
//	at: 2026-11-26T09:00:00Z
//	by: Alice Example
//	witness: Bob Example
//	act: root.create
//	subject: CN=Acme Root G1,O=Acme
//	certificate: MIIB…
//	previous: 0000…
//	hash: 5b1f…
//	signature: MGUC…
//
//	entry: 2
//	…
//
// with one line for each field and one empty line before each entry. hash is the SHA-256, in hex, over the first line and the entry's lines
// before it, each with its line end; previous is the hash of the entry before; signature is the root's, in base64, over what hash is over, by the
// algorithm of its key. The first entry holds the root's certificate. A record may be longer than another one of the same root, but never differ
// from it in what both have.
type Record struct {
	Root    *x509.Certificate // as the first entry has it: whom one believes by its fingerprint
	Entries []Entry
}

// Entry is one act.
type Entry struct {
	At       int64 // Unix second, by the clock of the root's machine
	By       string
	With     []string // witnesses
	Act      string
	Facts    []Fact
	Previous [32]byte
	Hash     [32]byte

	signature []byte
}

// Fact is one thing that an entry says.
type Fact struct{ Name, Value string }

// Facts makes facts of names and values in turn.
func Facts(pairs ...string) []Fact {
	facts := make([]Fact, 0, len(pairs)/2)
	for ; len(pairs) > 1; pairs = pairs[2:] {
		facts = append(facts, Fact{pairs[0], pairs[1]})
	}
	return facts
}

// The acts.
const (
	Create = "root.create"
	Sign   = "ca.sign"
	Cross  = "cross.sign"
	Answer = "responder.sign"
	Revoke = "ca.revoke"
	List   = "crl.sign"
	Note   = "note"
)

const (
	preamble   = "mooring ceremony record, version 1\n"
	MaxRecord  = 16 << 20
	maxEntries = 10000
	maxLine    = 64 << 10
)

// Fact returns the value of a fact, "" when the entry does not say it.
func (e *Entry) Fact(name string) string {
	for _, f := range e.Facts {
		if f.Name == name {
			return f.Value
		}
	}
	return ""
}

// Last returns the newest entry; there always is one.
func (r *Record) Last() *Entry { return &r.Entries[len(r.Entries)-1] }

// message is what is hashed and signed of entry n (from 1).
func (e *Entry) message(n int) []byte {
	var b bytes.Buffer
	b.WriteString(preamble)
	field := func(name, value string) { fmt.Fprintf(&b, "%s: %s\n", name, value) }
	field("entry", strconv.Itoa(n))
	field("at", stamp(e.At))
	field("by", e.By)
	for _, w := range e.With {
		field("witness", w)
	}
	field("act", e.Act)
	for _, f := range e.Facts {
		field(f.Name, f.Value)
	}
	field("previous", hex.EncodeToString(e.Previous[:]))
	return b.Bytes()
}

// Text returns the record as text.
func (r *Record) Text() []byte {
	b := bytes.NewBufferString(preamble)
	for i := range r.Entries {
		e := &r.Entries[i]
		b.WriteByte('\n')
		b.Write(bytes.TrimPrefix(e.message(i+1), []byte(preamble)))
		fmt.Fprintf(b, "hash: %x\nsignature: %s\n", e.Hash, base64.StdEncoding.EncodeToString(e.signature))
	}
	return b.Bytes()
}

// Parse reads a record and verifies it by the certificate of the root that stands in it: every hash, every link, every signature. Who
// does not know that certificate compares its fingerprint with what was read aloud.
func Parse(text []byte) (*Record, error) {
	if len(text) > MaxRecord {
		return nil, errs.New(errs.Invalid, "the ceremony record has more than %d octets", MaxRecord)
	}
	blocks := strings.Split(string(text), "\n\n")
	if blocks[0]+"\n" != preamble || len(blocks) < 2 || len(blocks) > maxEntries || !strings.HasSuffix(string(text), "\n") {
		return nil, errs.New(errs.Invalid, "this is no ceremony record, or not a whole one: it must begin with %q and end with a line end", strings.TrimSpace(preamble))
	}
	blocks[len(blocks)-1] = strings.TrimSuffix(blocks[len(blocks)-1], "\n")
	r := &Record{}
	for i, block := range blocks[1:] {
		e, err := parseEntry(block)
		if err == nil {
			err = r.admit(e)
		}
		if err != nil {
			return nil, errs.New(errs.Invalid, "entry %d of the ceremony record: %v", i+1, err)
		}
	}
	if !bytes.Equal(r.Text(), text) {
		return nil, errs.New(errs.Invalid, "the ceremony record holds text that belongs to no entry")
	}
	return r, nil
}

// parseEntry takes the lines apart.
func parseEntry(block string) (*Entry, error) {
	e := &Entry{}
	for i, text := range strings.Split(block, "\n") {
		name, value, ok := strings.Cut(text, ": ")
		if !ok || !plainField(name) || len(text) > maxLine {
			return nil, fmt.Errorf("line %d is no field", i+1)
		}
		var err error
		switch name {
		case "entry": // its number follows from its place, which admit looks at
		case "at":
			var at time.Time
			at, err = time.Parse(time.RFC3339, value)
			e.At = at.Unix()
		case "by":
			e.By = value
		case "witness":
			e.With = append(e.With, value)
		case "act":
			e.Act = value
		case "previous":
			err = digits(e.Previous[:], value)
		case "hash":
			err = digits(e.Hash[:], value)
		case "signature":
			e.signature, err = base64.StdEncoding.DecodeString(value)
		default:
			e.Facts = append(e.Facts, Fact{name, value})
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %s cannot be read", i+1, name)
		}
	}
	return e, nil
}

func digits(to []byte, text string) error {
	raw, err := hex.DecodeString(text)
	if err == nil && len(raw) != len(to) {
		err = hex.ErrLength
	}
	copy(to, raw)
	return err
}

func plainField(name string) bool {
	return name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_") == ""
}

// admit verifies e as the next entry and adds it.
func (r *Record) admit(e *Entry) error {
	if len(r.Entries) == 0 {
		root, err := e.certificate()
		if err != nil || e.Act != Create {
			return fmt.Errorf("the first entry must make the root: %w", err)
		}
		if err := CheckRoot(root); err != nil {
			return err
		}
		r.Root = root
	} else if e.Previous != r.Last().Hash {
		return fmt.Errorf("it does not follow the entry before it: something was taken out, put in or changed")
	} else if e.At < r.Last().At {
		return fmt.Errorf("it is older than the entry before it")
	}
	message := e.message(len(r.Entries) + 1)
	if sum := sha256.Sum256(message); subtle.ConstantTimeCompare(sum[:], e.Hash[:]) != 1 {
		return fmt.Errorf("it was changed: its hash is another one")
	}
	pub, err := der.ParsePublicKey(r.Root.RawSubjectPublicKeyInfo)
	if err != nil {
		return err
	}
	algorithm, err := der.AlgorithmFor(pub)
	if err != nil {
		return err
	}
	if err := algorithm.Verify(pub, message, e.signature); err != nil {
		return fmt.Errorf("the root did not sign it: %w", err)
	}
	r.Entries = append(r.Entries, *e)
	return nil
}

// certificate returns the certificate that an entry holds.
func (e *Entry) certificate() (*x509.Certificate, error) {
	raw, err := base64.StdEncoding.DecodeString(e.Fact("certificate"))
	if err != nil || len(raw) == 0 {
		return nil, fmt.Errorf("it holds no certificate")
	}
	return x509.ParseCertificate(raw)
}

// Certificate returns the certificate that an entry holds, in DER, or nil.
func (e *Entry) Certificate() []byte {
	raw, err := base64.StdEncoding.DecodeString(e.Fact("certificate"))
	if err != nil || len(raw) == 0 {
		return nil
	}
	return raw
}

// Append adds an entry, whose Previous, Hash and signature are made here. sign signs a message with the root's key.
func (r *Record) Append(e Entry, sign func(message []byte) ([]byte, error)) error {
	if len(r.Entries) > 0 {
		e.Previous = r.Last().Hash
	}
	if err := e.printable(); err != nil {
		return err
	}
	message := e.message(len(r.Entries) + 1)
	e.Hash = sha256.Sum256(message)
	var err error
	if e.signature, err = sign(message); err != nil {
		return err
	}
	r.Entries = append(r.Entries, e)
	return nil
}

// printable refuses what would make the text ambiguous.
func (e *Entry) printable() error {
	values := append([]string{e.By}, e.With...)
	for _, f := range e.Facts {
		values = append(values, f.Value)
	}
	for _, v := range values {
		if v == "" || v != strings.TrimSpace(v) || len(v) > maxLine-64 || strings.ContainsFunc(v, func(c rune) bool { return !unicode.IsPrint(c) }) {
			return errs.New(errs.Invalid, "%q cannot stand in the ceremony record: use one line of printable text, for who acts, for witnesses and for notes", v)
		}
	}
	return nil
}

// Since returns the entries that a record has beyond one that ended with the given hash after n entries. A record that does not continue that
// one is an error of kind Conflict: it was forked.
func (r *Record) Since(n int, head [32]byte) ([]Entry, error) {
	if n > len(r.Entries) {
		return nil, nil // an older copy: nothing new
	}
	if n > 0 && r.Entries[n-1].Hash != head {
		return nil, errs.New(errs.Conflict, "this ceremony record does not continue the one that was imported before: there are two versions of entry %d. Find out how that came about", n)
	}
	return r.Entries[n:], nil
}

// CheckRoot refuses what is not the certificate of a CA that is signed by itself.
func CheckRoot(cert *x509.Certificate) error {
	pub, err := der.ParsePublicKey(cert.RawSubjectPublicKeyInfo)
	switch {
	case err != nil:
		return errs.New(errs.Invalid, "the key of %s cannot be read: %v", cert.Subject, err)
	case !cert.BasicConstraintsValid || !cert.IsCA || cert.KeyUsage != 0 && cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return errs.New(errs.Invalid, "%s is not a CA", cert.Subject)
	case len(cert.SubjectKeyId) == 0:
		return errs.New(errs.Invalid, "the certificate of %s has no subject key identifier, without which no list of it can be made", cert.Subject)
	case !bytes.Equal(cert.RawIssuer, cert.RawSubject) || der.CheckCertificate(cert, pub) != nil:
		return errs.New(errs.Invalid, "the certificate of %s is not that of a root: it is not signed by itself", cert.Subject)
	}
	return nil
}

// stamp writes a time as records do.
func stamp(at int64) string { return time.Unix(at, 0).UTC().Format(time.RFC3339) }
