package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mooring/agent/est"
	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/internal/core/ceremony"
	"mooring/internal/core/ceremony/minutes"
)

const rootShowHelp = `Shows the root, what it signed, and when its newest list ends. The whole record is verified for that.`

const rootExportHelp = `Writes the certificate of the root, or one that it signed, again. It needs no passphrase.`

const rootRecordHelp = `Writes the record of the root: who did what, when, with which fingerprints. Each entry is chained to the one before and signed by the root.

--verify checks a record instead: that of --root, or FILE, which may come from anywhere. Compare the fingerprint that it prints with the one
that was read aloud at the ceremony, or have it compared: --fingerprint.

--add TEXT adds a remark, such as who got which part of the passphrase.`

func (c *cli) rootShowCommand(f *rootFlags) *cobra.Command {
	return &cobra.Command{
		Use: "show", Short: "Show a root and what it signed", Long: rootShowHelp,
		Example: "  mooring ca root show --root /media/stick/root",
		Args:    needs(),
		RunE:    c.besideRoot(f, c.rootShow),
	}
}

// shownRoot is a root as the program prints it.
type shownRoot struct {
	ID           string         `json:"id"`
	Subject      string         `json:"subject"`
	Signature    string         `json:"signature"`
	NotAfter     time.Time      `json:"not_after"`
	PathLen      int            `json:"path_len"`
	Fingerprint  string         `json:"sha256"`
	Entries      int            `json:"entries"`
	ListUntil    *time.Time     `json:"list_until,omitempty"`
	Certificates []shownRootCAs `json:"certificates"`
}

type shownRootCAs struct {
	Serial  string `json:"serial"`
	Subject string `json:"subject"`
	Cross   bool   `json:"cross,omitempty"`
	OCSP    bool   `json:"responder,omitempty"`
	Until   string `json:"until"`
	Revoked string `json:"revoked,omitempty"`
}

func (c *cli) rootShow(r *ceremony.Root, _ []string) error {
	cert := r.Certificate()
	s := shownRoot{ID: ca.IDOf(cert).String(), Subject: cert.Subject.String(), Signature: r.Record().Entries[0].Fact("algorithm"), NotAfter: cert.NotAfter.UTC(), PathLen: ca.PathLen(cert),
		Fingerprint: fingerprint(sha256.Sum256(cert.Raw)), Entries: len(r.Record().Entries), Certificates: []shownRootCAs{}}
	if end := r.LastCRL(); !end.IsZero() {
		s.ListUntil = &end
	}
	for _, e := range r.Certificates() {
		one := shownRootCAs{Serial: e.Fact("serial"), Subject: e.Fact("subject"), Cross: e.Act == minutes.Cross, OCSP: e.Act == minutes.Answer, Until: e.Fact("not_after")}
		if gone := r.Revocation(one.Serial); gone != nil {
			one.Revoked = gone.Fact("reason")
		}
		s.Certificates = append(s.Certificates, one)
	}
	return c.show(s, func(w io.Writer) {
		fact(w, "Root", s.Subject)
		fact(w, "ID", s.ID)
		fact(w, "Key", s.Signature)
		fact(w, "Valid until", within(s.NotAfter, time.Now()))
		fact(w, "SHA-256", s.Fingerprint)
		fact(w, "Entries of the record", fmt.Sprint(s.Entries))
		if s.ListUntil == nil {
			fact(w, "Newest list", "none yet: sign one with mooring ca root crl")
		} else {
			fact(w, "Newest list ends", within(*s.ListUntil, time.Now()))
		}
		if len(s.Certificates) == 0 {
			return
		}
		fmt.Fprintln(w)
		row(w, "SERIAL", "SUBJECT", "UNTIL", "STATE")
		for _, one := range s.Certificates {
			state := "good"
			if one.Revoked != "" {
				state = "revoked: " + one.Revoked
			}
			if one.Cross {
				one.Subject += " (cross)"
			}
			if one.OCSP {
				one.Subject += " (responder)"
			}
			row(w, one.Serial, one.Subject, one.Until, state)
		}
	})
}

func (c *cli) rootExportCommand(f *rootFlags) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "export [SERIAL]", Short: "Write a certificate of the root again", Long: rootExportHelp,
		Example: "  mooring ca root export --root /media/stick/root -o root.pem",
		Args:    upTo("SERIAL"),
		RunE: c.besideRoot(f, func(r *ceremony.Root, args []string) error {
			raw := r.Certificate().Raw
			if len(args) > 0 {
				raw = nil
				for _, e := range r.Certificates() {
					if e.Fact("serial") == strings.ToLower(args[0]) {
						raw = e.Certificate()
					}
				}
			}
			if raw == nil {
				return errNoEntry(args[0])
			}
			return c.release(output{File: file, What: "certificate"}, "CERTIFICATE", ceremony.Made{DER: raw, Digest: sha256.Sum256(raw)})
		}),
	}
	cmd.Flags().StringVarP(&file, "out", "o", "", "file to write; must not exist (default standard output)")
	return cmd
}

func (c *cli) rootRecordCommand(f *rootFlags) *cobra.Command {
	var file, add, known string
	var verify bool
	cmd := &cobra.Command{
		Use: "record [FILE]", Short: "Write or verify the record of a root", Long: rootRecordHelp,
		Example: "  mooring ca root record --root /media/stick/root -o ceremony.txt\n  mooring ca root record --verify ceremony.txt --fingerprint 5B:1F:…\n" +
			"  mooring ca root record --root /media/stick/root --add \"Envelope 12 to Alice, envelope 13 to Bob\"",
		Args: upTo("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) > 0 && !verify:
				return usagef("FILE goes with --verify; a record is written to --out FILE")
			case add != "":
				return c.atRoot(f, func(ctx context.Context, r *ceremony.Root, _ []string) error { return r.Note(ctx, add) })(cmd, nil)
			case len(args) > 0:
				text, err := readFile(args[0])
				if err != nil {
					return err
				}
				record, err := minutes.Parse(text)
				if err != nil {
					return err
				}
				return c.recordVerified(record, known)
			}
			return c.besideRoot(f, func(r *ceremony.Root, _ []string) error {
				if verify {
					return c.recordVerified(r.Record(), known)
				}
				return c.recordWrite(r.Record(), file)
			})(cmd, nil)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVarP(&file, "out", "o", "", "file to write; must not exist (default standard output)")
	flags.BoolVar(&verify, "verify", false, "verify a record")
	flags.StringVar(&known, "fingerprint", "", "SHA-256 of the root's certificate, from elsewhere, for --verify")
	flags.StringVar(&add, "add", "", "add a remark")
	return cmd
}

func (c *cli) recordWrite(r *minutes.Record, file string) error {
	text := r.Text()
	if c.json && file == "" {
		return c.show(map[string]string{"record": string(text)}, nil)
	}
	if err := c.write(file, text, 0o644); err != nil || file == "" || file == "-" {
		return err
	}
	o := output{File: file, What: fmt.Sprintf("ceremony record of %d entries", len(r.Entries)), Fingerprint: fingerprint(sha256.Sum256(text))}
	return c.show(o, func(w io.Writer) {
		fact(w, "Written", o.File)
		fact(w, "What", o.What)
		fact(w, "SHA-256", o.Fingerprint)
	})
}

// recordVerified tells about a record that ParseRecord found whole.
func (c *cli) recordVerified(r *minutes.Record, known string) error {
	sum := sha256.Sum256(r.Root.Raw)
	if known != "" {
		want, err := est.ParseFingerprint(known)
		if err != nil {
			return usagef("--fingerprint: %v", err)
		}
		if want != sum {
			return errs.New(errs.Conflict, "the record is whole, but of another root: the SHA-256 of its certificate is %s", fingerprint(sum))
		}
	}
	last := r.Entries[len(r.Entries)-1]
	report := struct {
		Whole       bool   `json:"whole"`
		Root        string `json:"root"`
		Fingerprint string `json:"sha256"`
		Entries     int    `json:"entries"`
		Head        string `json:"head"`
		Until       string `json:"until"`
		Certificate string `json:"certificate"`
	}{true, r.Root.Subject.String(), fingerprint(sum), len(r.Entries), hex.EncodeToString(last.Hash[:]), minute(time.Unix(last.At, 0)),
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Root.Raw}))}
	return c.show(report, func(w io.Writer) {
		fmt.Fprintln(w, "WHOLE: every entry follows from the one before and is signed by the root")
		fact(w, "Root", report.Root)
		fact(w, "  its SHA-256", report.Fingerprint)
		fact(w, "Entries", fmt.Sprint(report.Entries))
		fact(w, "Newest", report.Until)
		fact(w, "  its hash", report.Head)
		for i := range r.Entries {
			e := &r.Entries[i]
			fact(w, fmt.Sprintf("  %d", i+1), fmt.Sprintf("%s %s %s by %s", minute(time.Unix(e.At, 0)), e.Act, e.Fact("subject")+e.Fact("text")+e.Fact("number"), e.By))
		}
	})
}
