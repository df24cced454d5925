package main

import (
	"context"
	"encoding/pem"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mooring/internal/base/errs"
	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
)

const caHelp = `A CA signs certificates. Profiles name the CA that issues them; a root signs only other CAs. A CA never changes: one with a new
key is a new CA with another name.`

const caListHelp = `Lists all CAs with their parents and how long they are valid.`

const caShowHelp = `Shows one CA, by its name or id.`

const caExportHelp = `Writes the certificate of a CA as PEM. --chain adds the certificates above it, --root writes only the one at the top.

With --root and no NAME it is the root that devices and operators need to trust this server.`

const caCreateHelp = `Makes a CA: a key in the key store and its certificate, signed by the parent or, for a root, by itself. Profiles use it as soon as
they name it as their issuer. It cannot be undone: a CA is kept until its last certificate has expired.`

func (c *cli) caCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use: "ca", Short: "List, export and make certification authorities", Long: caHelp,
		Example: "  mooring ca list\n  mooring ca export --root -o root.pem",
	}, &cobra.Command{
		Use: "list", Short: "List the CAs", Long: caListHelp,
		Example: "  mooring ca list",
		Args:    needs(),
		RunE:    c.online(c.caList),
	}, &cobra.Command{
		Use: "show NAME", Short: "Show a CA", Long: caShowHelp,
		Example: "  mooring ca show devices",
		Args:    needs("NAME"),
		RunE:    c.online(c.caShow),
	}, c.caExportCommand(), c.caLimitCommand(), c.caCreateCommand(), c.caRootCommand())
	cmd.AddCommand(c.caHierarchyCommands()...)
	cmd.AddCommand(c.caResponderCommands()...)
	return cmd
}

func (c *cli) caList(ctx context.Context, s *client.Client, _ []string) error {
	cas, err := s.CAs(ctx)
	if err != nil {
		return err
	}
	return c.show(v1.CAList{CAs: cas}, func(w io.Writer) {
		row(w, "NAME", "ID", "PARENT", "SUBJECT", "VALID UNTIL", "SIGNS WITH")
		for _, a := range cas {
			row(w, a.Name, a.ID, a.Parent, a.Subject, caEnd(a), a.Signature)
		}
	})
}

func caEnd(a v1.CA) string {
	switch {
	case a.Revoked != "":
		return "revoked"
	case a.Forever:
		return "ever"
	}
	return minute(a.NotAfter)
}

func (c *cli) caShow(ctx context.Context, s *client.Client, args []string) error {
	a, err := s.CA(ctx, args[0])
	if err != nil {
		return err
	}
	return c.caPrint(a)
}

func (c *cli) caPrint(a v1.CA) error {
	return c.show(a, func(w io.Writer) {
		fact(w, "Name", a.Name)
		fact(w, "ID", a.ID)
		fact(w, "Parent", orNone(a.Parent))
		if a.Offline {
			fact(w, "Key", "elsewhere: it signs nothing here")
		}
		switch a.Revoked {
		case "":
		case a.Name:
			fact(w, "Revoked", "its certificate is revoked or on hold: nothing is issued below it")
		default:
			fact(w, "Revoked", "the certificate of "+a.Revoked+" above it is revoked or on hold: nothing is issued below it")
		}
		fact(w, "Subject", a.Subject)
		fact(w, "Serial", a.Serial)
		fact(w, "Valid from", minute(a.NotBefore))
		if a.Forever {
			fact(w, "Valid until", "ever")
		} else {
			fact(w, "Valid until", within(a.NotAfter, time.Now()))
		}
		fact(w, "Signs with", a.Signature)
		fact(w, "CRL shards", strconv.Itoa(a.Shards))
		fact(w, "Made", minute(a.Created))
	})
}

// exportFlags say which certificates are written, how and where.
type exportFlags struct {
	chain, root, der bool
	file             string
}

func (c *cli) caExportCommand() *cobra.Command {
	var f exportFlags
	cmd := &cobra.Command{
		Use: "export [NAME]", Short: "Write a CA's certificate", Long: caExportHelp,
		Example: "  mooring ca export devices --chain -o chain.pem\n  mooring ca export --root > root.pem\n  mooring ca export devices --der -o devices.cer",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && f.root {
				return nil
			}
			return needs("NAME")(cmd, args)
		},
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) error { return c.caExport(ctx, s, args, f) }),
	}
	cmd.Flags().BoolVar(&f.chain, "chain", false, "add the certificates above it")
	cmd.Flags().BoolVar(&f.root, "root", false, "only the root certificate above it")
	cmd.Flags().BoolVar(&f.der, "der", false, "write DER instead of PEM; one certificate only")
	cmd.Flags().StringVarP(&f.file, "out", "o", "", "file to write; must not exist (default standard output)")
	return cmd
}

// serverProfile is the kind of certificate that the platform's own listeners have.
const serverProfile = "server"

func (c *cli) caExport(ctx context.Context, s *client.Client, args []string, f exportFlags) error {
	name := ""
	if len(args) > 0 {
		name = args[0]
	} else {
		p, err := s.Profile(ctx, serverProfile)
		if err != nil {
			return err
		}
		name = p.Issuer
	}
	a, err := s.CA(ctx, name)
	if err != nil {
		return err
	}
	return c.export([]byte(a.Chain), f)
}

// export writes certificates of chain, PEM and from the bottom up, as the flags ask for.
func (c *cli) export(chain []byte, f exportFlags) error {
	if f.chain && (f.root || f.der) {
		return usagef("--chain goes with neither --root nor --der")
	}
	blocks := certificates(chain)
	if len(blocks) == 0 {
		return errs.New(errs.Internal, "the server sent no certificate")
	}
	switch {
	case f.root:
		blocks = blocks[len(blocks)-1:]
	case !f.chain:
		blocks = blocks[:1]
	}
	var text []byte
	for _, b := range blocks {
		text = append(text, pem.EncodeToMemory(b)...)
	}
	switch {
	case c.json && f.file == "":
		return c.show(map[string]string{"pem": string(text)}, nil)
	case f.der:
		text = blocks[0].Bytes
	}
	if f.der && f.file == "" && isTerminal(c.out) {
		return usagef("DER is not for terminals: name a file with -o")
	}
	return c.write(f.file, text, 0o644)
}

// certificates returns the certificates in text, without what stands between them.
func certificates(text []byte) (blocks []*pem.Block) {
	for {
		var b *pem.Block
		if b, text = pem.Decode(text); b == nil {
			return blocks
		}
		if b.Type == "CERTIFICATE" {
			blocks = append(blocks, &pem.Block{Type: b.Type, Bytes: b.Bytes})
		}
	}
}

func (c *cli) caCreateCommand() *cobra.Command {
	var n v1.NewCA
	var validity string
	var shards int
	var limit limitFlags
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Make a CA", Long: caCreateHelp,
		Example: "  mooring ca create devices-2 --parent root --subject \"CN=Acme Devices G2,O=Acme\" --validity 3650d\n" +
			"  mooring ca create root-2 --subject \"CN=Acme Root G2,O=Acme\" --algorithm ec-p384 --validity 10950d --path-len 1",
		Args: needs("NAME"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) error {
			n.Name = args[0]
			if shards >= 0 {
				n.Shards = &shards
			}
			var err error
			if n.KeyLimit, err = limit.limit(); err != nil {
				return err
			}
			return c.caCreate(ctx, s, n, validity)
		}),
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&n.Parent, "parent", "", "name of the CA that signs it (default: it is a root)")
	flags.StringVar(&n.Subject, "subject", "", "its name, such as \"CN=Acme Devices G2,O=Acme\"")
	flags.StringVar(&n.Algorithm, "algorithm", "ec-p256", "kind of key: ec-p256, ec-p384, ed25519, rsa-3072, rsa-4096, ml-dsa-44, ml-dsa-65")
	flags.StringVar(&validity, "validity", "", "how long it is valid, such as 3650d")
	flags.BoolVar(&n.Forever, "forever", false, "no well-defined end, for CAs of birth certificates")
	flags.IntVar(&n.PathLen, "path-len", 0, "how many tiers of CAs may follow below")
	flags.IntVar(&shards, "crl-shards", -1, "into how many revocation lists its certificates are divided: 0 (one) or a power of two up to 256\n(default 256, and 0 with --path-len)")
	flags.StringVar(&n.Custody, "custody", "", "where its key is kept: file or pkcs11 (default: keys.custody of the configuration)")
	limit.add(cmd)
	return cmd
}

func (c *cli) caCreate(ctx context.Context, s *client.Client, n v1.NewCA, validity string) error {
	switch {
	case n.Subject == "":
		return usagef("mooring ca create needs --subject, such as \"CN=Acme Devices G2,O=Acme\"")
	case (validity == "") != n.Forever:
		return usagef("mooring ca create needs either --validity, such as 3650d, or --forever")
	}
	d, err := life("--validity", validity)
	if err != nil {
		return err
	}
	if d > 0 {
		n.Validity = d.String()
	}
	a, err := s.CreateCA(ctx, n)
	if err != nil {
		return err
	}
	if err := c.caPrint(a); err != nil {
		return err
	}
	return c.caNext(ctx, s, a.Name, n.Parent == "" || n.PathLen > 0)
}

// caNext says what makes use of a CA that was just made.
func (c *cli) caNext(ctx context.Context, s *client.Client, name string, above bool) error {
	profiles, err := s.Profiles(ctx)
	if err != nil {
		return err
	}
	var use []string
	for _, p := range profiles {
		if p.Issuer == name || slices.ContainsFunc(p.Turns, func(t v1.Turn) bool { return t.Issuer == name }) {
			use = append(use, p.Name)
		}
	}
	switch {
	case len(use) > 0:
		c.advise("Made. These profiles name it as their issuer already: %s.", strings.Join(use, ", "))
	case above:
		c.advise("Made. It signs CAs below it: mooring ca create NAME --parent %s", name)
	default:
		c.advise("Made. Profiles use it when they say \"issuer: %s\" and the server starts again.", name)
	}
	return nil
}
