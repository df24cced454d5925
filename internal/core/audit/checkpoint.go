package audit

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"mooring/internal/base/errs"
)

// maxCheckpoint bounds the octets of a signed checkpoint that is read.
const maxCheckpoint = 16 << 10

// NoteKey derives the key that signs checkpoints from a secret seed of 32 octets. The same name and seed always give the same key.
// name is the log's origin, such as "fleet.example.com/audit": no blanks, no plus sign. The text vkey is what auditors are given; they
// turn it into a verifier by note.NewVerifier.
func NoteKey(name string, seed []byte) (signer note.Signer, vkey string, err error) {
	if len(seed) != ed25519.SeedSize {
		return nil, "", errs.New(errs.Invalid, "the seed of the audit key has %d octets, it needs %d", len(seed), ed25519.SeedSize)
	}
	public := ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)
	vkey, err = note.NewEd25519VerifierKey(name, public)
	if err != nil {
		return nil, "", fmt.Errorf("writing the audit verifier key: %w", err)
	}
	// The hash stands between the last two plus signs of "name+hash+key", and base64 may hold further ones.
	rest := strings.TrimPrefix(vkey, name+"+")
	hash, _, _ := strings.Cut(rest, "+")
	private := base64.StdEncoding.EncodeToString(append([]byte{1}, seed...)) // 1 = Ed25519 in package note
	signer, err = note.NewSigner("PRIVATE+KEY+" + name + "+" + hash + "+" + private)
	if err != nil {
		return nil, "", errs.Wrap(errs.Invalid, err, "the audit origin %q cannot name a key: use letters, digits, dots and slashes", name)
	}
	return signer, vkey, nil
}

// checkpoint is a tree head in the form of c2sp.org/tlog-checkpoint, without extension lines.
type checkpoint struct {
	origin string
	tree   tlog.Tree
}

func (c checkpoint) text() string {
	return c.origin + "\n" + strconv.FormatInt(c.tree.N, 10) + "\n" + c.tree.Hash.String() + "\n"
}

// openCheckpoint returns the checkpoint in signed if v's key signed it. Its origin must be the name of that key.
func openCheckpoint(signed []byte, v note.Verifier) (checkpoint, error) {
	if len(signed) > maxCheckpoint {
		return checkpoint{}, errs.New(errs.Invalid, "a checkpoint of %d octets is longer than %d", len(signed), maxCheckpoint)
	}
	n, err := note.Open(signed, note.VerifierList(v))
	if err != nil {
		return checkpoint{}, errs.Wrap(errs.Invalid, err, "the checkpoint does not bear a valid signature of %q", v.Name())
	}
	c, err := parseCheckpoint(n.Text)
	if err != nil {
		return checkpoint{}, err
	}
	if c.origin != v.Name() {
		return checkpoint{}, errs.New(errs.Invalid, "the checkpoint is of %q, not of %q", c.origin, v.Name())
	}
	return c, nil
}

func parseCheckpoint(text string) (checkpoint, error) {
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || lines[0] == "" || lines[3] != "" {
		return checkpoint{}, errs.New(errs.Invalid, "the checkpoint is not the three lines origin, size and root")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 {
		return checkpoint{}, errs.New(errs.Invalid, "the checkpoint's size %q is not a number", lines[1])
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil {
		return checkpoint{}, errs.New(errs.Invalid, "the checkpoint's root %q is not a SHA-256 hash in base64", lines[2])
	}
	c := checkpoint{origin: lines[0], tree: tlog.Tree{N: size, Hash: root}}
	if c.text() != text {
		return checkpoint{}, errs.New(errs.Invalid, "the checkpoint is not in canonical form")
	}
	return c, nil
}
