package audit

import (
	"bytes"
	"encoding/base64"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"mooring/internal/base/errs"
)

const (
	proofHeader = "c2sp.org/tlog-proof@v1"
	maxProof    = 64 << 10
	maxHashes   = 63 // a tree of 2^63 entries
)

// Proof shows that an entry stands in the record, to somebody who has only the log's verifier key: no database and no server of ours.
type Proof struct {
	Index      int64
	Entry      []byte           // the canonical octets; Text does not hold them, they are exported beside it
	Hashes     tlog.RecordProof // from the leaf's sibling up to the root's child
	Checkpoint []byte           // the signed checkpoint
	// Leaf is the hash of the entry, and Left when it was decided that the entry itself leaves, UTC seconds; 0 = it is there. Without the entry it is
	// only proven that one with this hash stands in the record.
	Leaf tlog.Hash
	Left int64
}

// Text returns the proof in the form of c2sp.org/tlog-proof, to be kept as a .tlog-proof file:
//
//	c2sp.org/tlog-proof@v1
//	index 73894
//	<base64 hash, one a line>
//
//	<signed checkpoint>
func (p Proof) Text() []byte {
	b := []byte(proofHeader + "\nindex ")
	b = strconv.AppendInt(b, p.Index, 10)
	b = append(b, '\n')
	for _, h := range p.Hashes {
		b = append(append(b, h.String()...), '\n')
	}
	b = append(b, '\n')
	return append(b, p.Checkpoint...)
}

// CheckProof returns nil when text proves that entry stands in the log of v, whose name is the log's origin. An "extra" line is read
// over, since nothing vouches for it. Every error has kind Invalid.
func CheckProof(text, entry []byte, v note.Verifier) error {
	return CheckLeaf(text, tlog.RecordHash(entry), v)
}

// CheckLeaf is CheckProof for whoever has only the hash of an entry (RFC 6962, section 2.1: SHA-256 over a zero octet and the entry).
func CheckLeaf(text []byte, leaf tlog.Hash, v note.Verifier) error {
	p, err := parseProof(text)
	if err != nil {
		return err
	}
	c, err := openCheckpoint(p.Checkpoint, v)
	if err != nil {
		return err
	}
	if p.Index >= c.tree.N {
		return errs.New(errs.Invalid, "the proof is of entry %d, the checkpoint has only %d", p.Index, c.tree.N)
	}
	if err := tlog.CheckRecord(p.Hashes, c.tree.N, c.tree.Hash, p.Index, leaf); err != nil {
		return errs.Wrap(errs.Invalid, err, "the proof does not fit this entry at index %d", p.Index)
	}
	return nil
}

// parseProof reads what Text writes, with an optional line of extra data.
func parseProof(text []byte) (Proof, error) {
	if len(text) > maxProof {
		return Proof{}, errs.New(errs.Invalid, "a proof of %d octets is longer than %d", len(text), maxProof)
	}
	head, signed, found := bytes.Cut(text, []byte("\n\n"))
	lines := strings.Split(string(head), "\n")
	if !found || lines[0] != proofHeader {
		return Proof{}, errs.New(errs.Invalid, "the proof does not start with %s", proofHeader)
	}
	lines = lines[1:]
	if len(lines) > 0 && strings.HasPrefix(lines[0], "extra ") {
		if _, err := base64.StdEncoding.Strict().DecodeString(lines[0][len("extra "):]); err != nil {
			return Proof{}, errs.New(errs.Invalid, "the proof's extra line is not base64")
		}
		lines = lines[1:]
	}
	p := Proof{Checkpoint: signed}
	if len(lines) == 0 || len(lines) > 1+maxHashes {
		return Proof{}, errs.New(errs.Invalid, "the proof has no index or more than %d hashes", maxHashes)
	}
	number, found := strings.CutPrefix(lines[0], "index ")
	index, err := strconv.ParseInt(number, 10, 64)
	if !found || err != nil || index < 0 || strconv.FormatInt(index, 10) != number {
		return Proof{}, errs.New(errs.Invalid, "the proof's index line %q is not \"index\" and a number", lines[0])
	}
	p.Index = index
	for _, line := range lines[1:] {
		h, err := tlog.ParseHash(line)
		if err != nil || h.String() != line {
			return Proof{}, errs.New(errs.Invalid, "the proof's line %q is not a SHA-256 hash in base64", line)
		}
		p.Hashes = append(p.Hashes, h)
	}
	return p, nil
}
