package main

import (
	"context"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"mooring/agent/est"
	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
)

const caRequestHelp = `Makes the key of a CA and the request for its certificate, to be signed elsewhere: by an offline root (mooring ca root sign) or by the
PKI of somebody else. The CA waits until its certificate is imported. Carry the file there, and compare the SHA-256 of the key, which is
printed here, when it is signed.`

const caImportHelp = `Takes in the certificate of a CA that was signed elsewhere, with all certificates above it up to the root, in one file or several. The name is
that of a CA that waits (mooring ca request), or a new one for a CA whose key is elsewhere, such as the root of a second generation.

Everything that verifiers will check is checked first: that it is for the key that waits, the chain, path lengths, validity, names, signatures.
CAs above it that are not known yet are taken in as well; they sign nothing here, and their revocation lists are imported.

--record is the record of the offline root; it is verified, and its entries go into the audit record, without the names of people.`

const caImportCRLHelp = `Takes in a revocation list of a CA whose key is elsewhere: an offline root, or a parent that somebody else runs. It is served from then on
in the place that certificates point to. It must be newer than the one before; PEM or DER.`

const caCrossHelp = `Has two roots vouch for each other, so that devices that know one find the way to what the other issues: NewWithOld and OldWithNew
(RFC 4210, section 4.4). From then on both roots and both certificates are handed to devices that ask for the CA certificates. What only an
offline root can sign is left out: "mooring ca root cross" signs it there, and "mooring ca import-cross" brings it. doc/rollover.md tells
the whole story.`

func (c *cli) caHierarchyCommands() []*cobra.Command {
	return []*cobra.Command{c.caRequestCommand(), {
		Use: "requests", Short: "List CAs that wait for their certificates", Long: "Lists the CAs that wait for a certificate that is signed elsewhere.",
		Example: "  mooring ca requests",
		Args:    needs(),
		RunE:    c.online(c.caRequests),
	}, {
		Use: "withdraw NAME", Short: "Give up the request of a CA", Long: "Gives up a request that waits. Its key is of no more use; it stays in the key store, which deletes none.",
		Example: "  mooring ca withdraw devices",
		Args:    needs("NAME"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) error {
			if _, err := s.WithdrawCA(ctx, args[0]); err != nil {
				return err
			}
			c.advise("Withdrawn.")
			return nil
		}),
	}, c.caImportCommand(), {
		Use: "import-crl FILE", Short: "Take in the revocation list of an offline CA", Long: caImportCRLHelp,
		Example: "  mooring ca import-crl root.crl",
		Args:    needs("FILE"),
		RunE:    c.online(c.caImportCRL),
	}, {
		Use: "import-record FILE", Short: "Take in what happened at an offline root", Long: "Verifies the record of an offline root that is known, and puts its newer entries into the audit record.",
		Example: "  mooring ca import-record ceremony.txt",
		Args:    needs("FILE"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) error {
			text, err := readFile(args[0])
			if err != nil {
				return err
			}
			done, err := s.ImportCeremony(ctx, string(text))
			if err != nil {
				return err
			}
			return c.show(done, func(w io.Writer) {
				fact(w, "Root", done.CA)
				fact(w, "New entries", fmt.Sprint(done.Entries))
			})
		}),
	}, c.caCrossCommand(), {
		Use: "import-cross FILE", Short: "Take in a cross certificate", Long: "Takes in a cross certificate that an offline root signed. Both roots must be known.",
		Example: "  mooring ca import-cross new-with-old.pem",
		Args:    needs("FILE"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) error {
			text, err := readFile(args[0])
			if err != nil {
				return err
			}
			made, err := s.ImportCross(ctx, string(text))
			if err != nil {
				return err
			}
			return c.crossesPrint([]v1.Cross{made})
		}),
	}, {
		Use: "crosses", Short: "List which roots vouch for each other", Long: "Lists the cross certificates that have not ended. \"mooring cert revoke SERIAL\" takes one back: it is then on the list of the root that made\nit, and neither announced nor sent along any more.",
		Example: "  mooring ca crosses",
		Args:    needs(),
		RunE: c.online(func(ctx context.Context, s *client.Client, _ []string) error {
			all, err := s.Crosses(ctx)
			if err != nil {
				return err
			}
			return c.crossesPrint(all)
		}),
	}}
}

func (c *cli) caImportCRL(ctx context.Context, s *client.Client, args []string) error {
	raw, err := readPEM(args[0], "X509 CRL")
	if err != nil {
		return err
	}
	done, err := s.ImportCRL(ctx, string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: raw})))
	if err != nil {
		return err
	}
	return c.show(done, func(w io.Writer) {
		fact(w, "CA", done.CA)
		fact(w, "Number", fmt.Sprint(done.Number))
		fact(w, "Made", minute(done.ThisUpdate))
		fact(w, "Ends", within(done.NextUpdate, time.Now()))
	})
}

func (c *cli) caRequestCommand() *cobra.Command {
	var n v1.NewCARequest
	var file string
	var shards int
	cmd := &cobra.Command{
		Use: "request NAME", Short: "Make a CA that somebody else certifies", Long: caRequestHelp,
		Example: "  mooring ca request devices --subject \"CN=Acme Devices G1,O=Acme\" -o devices.csr",
		Args:    needs("NAME"),
	}
	cmd.RunE = c.online(func(ctx context.Context, s *client.Client, args []string) error {
		if n.Subject == "" {
			return usagef("mooring ca request needs --subject, such as \"CN=Acme Devices G1,O=Acme\"")
		}
		if err := free(file); err != nil {
			return err
		}
		n.Name = args[0]
		if cmd.Flags().Changed("crl-shards") {
			n.Shards = &shards
		}
		r, err := s.RequestCA(ctx, n)
		if err != nil {
			return err
		}
		return c.requestWritten(r, file)
	})
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&n.Subject, "subject", "", "its name, such as \"CN=Acme Devices G1,O=Acme\"")
	flags.StringVar(&n.Algorithm, "algorithm", "ec-p256", "kind of key: ec-p256, ec-p384, ed25519, rsa-3072, rsa-4096, ml-dsa-44, ml-dsa-65")
	flags.StringVar(&n.Custody, "custody", "", "where its key is kept: file or pkcs11 (default as keys.custody says)")
	flags.IntVar(&n.PathLen, "path-len", 0, "how many tiers of CAs may follow below")
	flags.IntVar(&shards, "crl-shards", 0, "into how many revocation lists its certificates are divided: 0 or a power of two up to 256 (default 256 for a CA with no tier below it)")
	flags.StringVarP(&file, "out", "o", "", "file to write; must not exist (default standard output)")
	return cmd
}

// requestWritten writes the request and tells the fingerprint of its key.
func (c *cli) requestWritten(r v1.CARequest, file string) error {
	if file == "" || file == "-" {
		if c.json {
			return c.show(r, nil)
		}
		c.advise("SHA-256 of the key: %s", keyDigest(r.Key))
		return c.write(file, []byte(r.Request), 0o644)
	}
	if err := c.write(file, []byte(r.Request), 0o644); err != nil {
		return err
	}
	return c.show(r, func(w io.Writer) {
		fact(w, "Written", file)
		fact(w, "CA", r.Name)
		fact(w, "Subject", r.Subject)
		fact(w, "SHA-256 of key", keyDigest(r.Key))
	})
}

// keyDigest writes a digest from the API as fingerprints are written.
func keyDigest(digits string) string {
	raw, err := hex.DecodeString(digits)
	if err != nil || len(raw) != 32 {
		return digits
	}
	return est.FormatFingerprint([32]byte(raw))
}

func (c *cli) caRequests(ctx context.Context, s *client.Client, _ []string) error {
	all, err := s.CARequests(ctx)
	if err != nil {
		return err
	}
	return c.show(v1.CARequestList{Requests: all}, func(w io.Writer) {
		row(w, "NAME", "SUBJECT", "SINCE", "SHA-256 OF KEY")
		for _, r := range all {
			row(w, r.Name, r.Subject, minute(r.Created), keyDigest(r.Key))
		}
	})
}

func (c *cli) caImportCommand() *cobra.Command {
	var in v1.CAImport
	var files []string
	var record string
	cmd := &cobra.Command{
		Use: "import", Short: "Take in the certificate of a CA", Long: caImportHelp,
		Example: "  mooring ca import --name devices --chain devices.pem --chain root.pem --record ceremony.txt\n  mooring ca import --name root-g2 --chain root-g2.pem",
		Args:    needs(),
	}
	cmd.RunE = c.online(func(ctx context.Context, s *client.Client, _ []string) error {
		if in.Name == "" || len(files) == 0 {
			return usagef("mooring ca import needs --name NAME and --chain FILE")
		}
		for _, path := range files {
			text, err := readFile(path)
			if err != nil {
				return err
			}
			in.Chain += string(text) + "\n"
		}
		if record != "" {
			text, err := readFile(record)
			if err != nil {
				return err
			}
			in.Record = string(text)
		}
		done, err := s.ImportCA(ctx, in)
		if err != nil {
			return err
		}
		return c.caImported(done)
	})
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&in.Name, "name", "", "name of the CA")
	flags.StringArrayVar(&files, "chain", nil, "file with certificates, PEM: the CA's and those above it; may be repeated")
	flags.StringVar(&record, "record", "", "the ceremony record of the offline root")
	return cmd
}

func (c *cli) caImported(done v1.CAImported) error {
	err := c.show(done, func(w io.Writer) {
		row(w, "NAME", "ID", "SUBJECT", "VALID UNTIL", "KEY")
		for _, a := range done.CAs {
			at := "here"
			if a.Offline {
				at = "elsewhere"
			}
			row(w, a.Name, a.ID, a.Subject, caEnd(a), at)
		}
	})
	if err != nil {
		return err
	}
	if done.Entries > 0 {
		c.advise("Entries of the ceremony record that went into the audit record: %d", done.Entries)
	}
	for _, a := range done.CAs {
		if a.Offline {
			c.advise("The key of %q is elsewhere: import its revocation list with mooring ca import-crl FILE, and a new one before that ends.", a.Name)
		}
	}
	return nil
}

func (c *cli) caCrossCommand() *cobra.Command {
	var n v1.NewCross
	cmd := &cobra.Command{
		Use: "cross", Short: "Have two roots vouch for each other", Long: caCrossHelp,
		Example: "  mooring ca cross --old root --new root-g2",
		Args:    needs(),
		RunE: c.online(func(ctx context.Context, s *client.Client, _ []string) error {
			if n.Old == "" || n.New == "" {
				return usagef("mooring ca cross needs --old NAME and --new NAME")
			}
			made, err := s.CrossCAs(ctx, n)
			if err != nil {
				return err
			}
			if err := c.crossesPrint(made); err != nil || len(made) == 2 {
				return err
			}
			c.advise("Only one of the two could be made: the key of the other root is elsewhere. Sign there with mooring ca root cross, then mooring ca import-cross FILE.")
			return nil
		}),
	}
	cmd.Flags().StringVar(&n.Old, "old", "", "name of the older root")
	cmd.Flags().StringVar(&n.New, "new", "", "name of the newer root")
	return cmd
}

func (c *cli) crossesPrint(all []v1.Cross) error {
	err := c.show(v1.CrossList{Crosses: all}, func(w io.Writer) {
		row(w, "ROOT", "VOUCHED FOR BY", "SERIAL", "UNTIL", "")
		for _, x := range all {
			state := ""
			if x.Revoked {
				state = "revoked"
			}
			row(w, x.Subject, x.Issuer, x.Serial, minute(x.NotAfter), state)
		}
	})
	for _, x := range all {
		if x.Shadowed {
			c.advise("Note: the cross certificate of %s by %s is not shorter than the self-signed one, so bundles list it after that. Clients that take the first certificate that fits need %s as an anchor.", x.Subject, x.Issuer, x.Subject)
		}
	}
	return err
}
