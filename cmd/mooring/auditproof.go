package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"mooring/internal/base/errs"
	"mooring/internal/core/audit"
	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
)

const auditProveHelp = `Writes a proof that the entry INDEX stands in the record: a file that anybody can check, without this server and without seeing
any other entry, who has the record's public key ("mooring audit key").

The file has the form c2sp.org/tlog-proof; the entry itself is in its line "extra". When the entry has left by policy (retention.audit),
its hash is proven, and the line says so.`

const auditCheckHelp = `Checks a proof that "mooring audit prove" wrote. It needs no server and no installation, only the record's public key: --log-key is
that key itself or a file that holds it. It prints the entry that is proven. Of an entry that had left the record when the proof was made,
only its hash is proven; with --entry FILE it is seen whether that is the hash of an entry that was kept elsewhere.`

func (c *cli) auditProveCommand() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use: "prove INDEX", Short: "Prove that an entry stands in the record", Long: auditProveHelp,
		Example: "  mooring audit prove 42 -o 42.proof",
		Args:    needs("INDEX"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) error {
			index, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil || index < 0 {
				return usagef("%q is not the index of an entry: mooring audit list shows them", args[0])
			}
			p, err := s.Prove(ctx, index)
			if err != nil {
				return err
			}
			if c.json && out == "" {
				return c.show(p, nil)
			}
			file, err := withEntry(p)
			if err != nil {
				return err
			}
			if p.Left != nil {
				fmt.Fprintf(c.err, "Entry %d left the record by policy on %s: only its hash is proven.\n", p.Index, minute(*p.Left))
			}
			return c.write(out, file, 0o644)
		}),
	}
	cmd.Flags().StringVarP(&out, "out", "o", "", "file to write; must not exist (default standard output)")
	return cmd
}

// withEntry puts the entry into the proof's line "extra", for which c2sp.org/tlog-proof leaves the meaning to the log.
func withEntry(p v1.Proof) ([]byte, error) {
	head, rest, ok := strings.Cut(p.Proof, "\n")
	if !ok {
		return nil, errs.New(errs.Internal, "the server sent a proof of one line")
	}
	held := []byte(p.Entry)
	if p.Left != nil {
		var err error
		if held, err = json.Marshal(leftEntry{p.Left.Format(time.RFC3339), p.Leaf}); err != nil {
			return nil, fmt.Errorf("writing the proof: %w", err)
		}
	}
	return []byte(head + "\n" + extra + base64.StdEncoding.EncodeToString(held) + "\n" + rest), nil
}

// leftEntry stands in a proof in place of an entry that had left the record. No entry begins like it.
type leftEntry struct {
	Left string `json:"left"` // when that was decided
	Leaf string `json:"leaf"` // the hash that is proven, base64
}

// leafOf returns what a proof holds in place of its entry, if it does.
func leafOf(held []byte) (l leftEntry, leaf [32]byte, ok bool) {
	if !bytes.HasPrefix(held, []byte(`{"left":`)) || json.Unmarshal(held, &l) != nil {
		return l, leaf, false
	}
	hash, err := base64.StdEncoding.DecodeString(l.Leaf)
	return l, leaf, err == nil && copy(leaf[:], hash) == len(leaf) && len(hash) == len(leaf)
}

const extra = "extra "

// entryOf returns the entry in a proof's line "extra".
func entryOf(proof []byte) ([]byte, error) {
	lines := bytes.SplitN(proof, []byte("\n"), 3)
	if len(lines) < 3 || !bytes.HasPrefix(lines[1], []byte(extra)) {
		return nil, errs.New(errs.Invalid, "the proof does not hold its entry: give it with --entry FILE")
	}
	entry, err := base64.StdEncoding.Strict().DecodeString(string(lines[1][len(extra):]))
	if err != nil {
		return nil, errs.New(errs.Invalid, "the entry in the proof is not base64: the file is damaged")
	}
	return entry, nil
}

func (c *cli) auditCheckCommand() *cobra.Command {
	var key, entry string
	cmd := &cobra.Command{
		Use: "check FILE", Short: "Check a proof, without a server", Long: auditCheckHelp,
		Example: "  mooring audit check 42.proof --log-key audit.vkey",
		Args:    needs("FILE"),
		RunE:    func(_ *cobra.Command, args []string) error { return c.auditCheck(args[0], key, entry) },
	}
	cmd.Flags().StringVar(&key, "log-key", "", "the record's public key, or a file that holds it")
	cmd.Flags().StringVar(&entry, "entry", "", "file with the entry, if the proof does not hold it")
	return cmd
}

func (c *cli) auditCheck(path, key, entryPath string) error {
	if key == "" {
		return usagef("mooring audit check needs --log-key: the record's public key, as mooring audit key prints it")
	}
	verifier, err := logKey(key)
	if err != nil {
		return err
	}
	proof, err := readFile(path)
	if err != nil {
		return err
	}
	var entry []byte
	if entryPath != "" {
		entry, err = readFile(entryPath)
	} else {
		entry, err = entryOf(proof)
	}
	if err != nil {
		return err
	}
	if l, leaf, ok := leafOf(entry); ok && entryPath == "" {
		if err := audit.CheckLeaf(proof, leaf, verifier); err != nil {
			return errs.Wrap(errs.Invalid, err, "NOT PROVEN")
		}
		return c.show(map[string]any{"proven": true, "log": verifier.Name(), "leaf": l.Leaf, "left": l.Left}, func(w io.Writer) {
			fmt.Fprintf(w, "PROVEN: an entry with this hash stands in the record %s\n", verifier.Name())
			fact(w, "Hash", l.Leaf)
			fact(w, "Left by policy", l.Left)
		})
	}
	if err := audit.CheckProof(proof, entry, verifier); err != nil {
		return errs.Wrap(errs.Invalid, err, "NOT PROVEN")
	}
	return c.proven(entry, verifier.Name())
}

// logKey reads the record's public key, given as itself or as a file.
func logKey(s string) (note.Verifier, error) {
	if text, err := os.ReadFile(s); err == nil {
		s = strings.TrimSpace(string(text))
	}
	v, err := note.NewVerifier(s)
	if err != nil {
		return nil, errs.New(errs.Invalid, "--log-key is neither the public key of a record, as mooring audit key prints it, nor a file that holds one")
	}
	return v, nil
}

func (c *cli) proven(entry []byte, origin string) error {
	e, err := audit.ParseEntry(entry)
	if err != nil {
		return errs.Wrap(errs.Invalid, err, "the proof is right, but it is not about an entry of an audit record")
	}
	return c.show(map[string]any{"proven": true, "log": origin, "entry": string(entry)}, func(w io.Writer) {
		fmt.Fprintf(w, "PROVEN: this entry stands in the record %s\n", origin)
		fact(w, "Time", minute(time.Unix(e.At, 0)))
		fact(w, "Action", e.Action)
		fact(w, "Actor", e.Actor)
		fact(w, "Device", e.Device)
		shown := v1.Entry{Serial: e.Serial, Object: e.Object, Refused: e.Refused, Detail: e.Detail}
		fact(w, "Outcome", outcome(shown))
		fact(w, "Detail", entryDetail(shown))
	})
}
