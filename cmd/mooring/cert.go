package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mooring/internal/base/errs"
	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
	"mooring/wire/der"
)

const certHelp = `The certificates that this installation issued. They are named by their serial numbers, in hex, as openssl x509 -serial prints them.`

const certListHelp = `Lists certificates, a page at a time or all of them. --device is quick; other filters may read a great many
certificates to find few.`

const certShowHelp = `Shows what a certificate says and whether it is revoked. --pem prints the certificate itself.

Of a certificate that was recorded in brief, or whose time here is over, the record of its issue tells issuer, device, profile, validity and
key.`

const certExportHelp = `Writes a certificate as PEM or, with --der, as DER. --chain adds the certificates of the CAs above it.
--tls adds what a TLS server or client sends along instead: the CAs above it but for the root, and during a rollover the cross certificates.`

func (c *cli) certCommand() *cobra.Command {
	return group(&cobra.Command{
		Use: "cert", Short: "List, show and revoke certificates", Long: certHelp,
		Example: "  mooring cert list --device car-4711\n  mooring cert revoke 4165a1b2c3d4e5f60718293a4b5c6d7e --reason keyCompromise",
	}, c.certListCommand(), c.certShowCommand(), c.certRevokeCommand(), c.certReleaseCommand(), c.certIssueCommand(), c.certExportCommand())
}

func (c *cli) certListCommand() *cobra.Command {
	var f client.Certificates
	var p paging
	var expires, revoked string
	cmd := &cobra.Command{
		Use: "list", Short: "List certificates", Long: certListHelp,
		Example: "  mooring cert list --device car-4711\n  mooring cert list --issuer devices --revoked yes --all",
		Args:    needs(),
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.Device, "device", "", "only of this device, by name or id")
	flags.StringVar(&f.Profile, "profile", "", "only of this profile")
	flags.StringVar(&f.Issuer, "issuer", "", "only of this CA, by name or id")
	flags.StringVar(&revoked, "revoked", "", "yes: only revoked ones, no: only others")
	flags.StringVar(&expires, "expires-before", "", "only those that end before: 2026-12-24, or 30d from now")
	p.flags(cmd)
	cmd.RunE = c.online(func(ctx context.Context, s *client.Client, _ []string) (err error) {
		if f.ExpiresBefore, err = moment("--expires-before", expires, time.Now()); err != nil {
			return err
		}
		if revoked != "" {
			if revoked != "yes" && revoked != "no" {
				return usagef("--revoked %q is neither yes nor no", revoked)
			}
			only := revoked == "yes"
			f.Revoked = &only
		}
		return listing[v1.Certificate]{
			name:  "certificates",
			head:  []string{"SERIAL", "PROFILE", "ISSUER", "DEVICE", "BEGAN", "ENDS", "REVOKED"},
			cells: certCells,
			fetch: func(cursor string, limit int) ([]v1.Certificate, string, error) {
				f.Cursor, f.Limit = cursor, limit
				page, err := s.Certificates(ctx, f)
				return page.Certificates, page.Next, err
			},
		}.print(c, cmd, p)
	})
	return cmd
}

func certCells(x v1.Certificate) []string {
	revoked := ""
	if x.Revocation != nil {
		revoked = minute(x.Revocation.At) + " " + x.Revocation.Reason
	}
	return []string{x.Serial, x.Profile, x.IssuerName, x.Device, minute(x.NotBefore), minute(x.NotAfter), revoked}
}

func (c *cli) certShowCommand() *cobra.Command {
	var pem bool
	cmd := &cobra.Command{
		Use: "show SERIAL", Short: "Show a certificate", Long: certShowHelp,
		Example: "  mooring cert show 4165a1b2c3d4e5f60718293a4b5c6d7e\n  mooring cert show 4165a1b2c3d4e5f60718293a4b5c6d7e --pem | openssl x509 -text",
		Args:    needs("SERIAL"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) error {
			x, err := s.Certificate(ctx, serial(args[0]))
			if err != nil {
				return err
			}
			if pem && !x.Kept {
				return notKept(x)
			}
			if pem && !c.json {
				_, err := io.WriteString(c.out, x.PEM)
				return err
			}
			return c.certShow(x)
		}),
	}
	cmd.Flags().BoolVar(&pem, "pem", false, "print the certificate itself")
	return cmd
}

// serial takes serial numbers as other programs print them, too: in capitals, with colons.
func serial(s string) string { return strings.ToLower(strings.ReplaceAll(s, ":", "")) }

func (c *cli) certShow(x v1.Certificate) error {
	if !x.Kept {
		return c.certKnown(x)
	}
	blocks := certificates([]byte(x.PEM))
	if len(blocks) != 1 {
		return errs.New(errs.Internal, "the server sent %d certificates, not one", len(blocks))
	}
	leaf, err := x509.ParseCertificate(blocks[0].Bytes)
	if err != nil {
		return fmt.Errorf("reading the certificate %s: %w", x.Serial, err)
	}
	return c.show(x, func(w io.Writer) {
		now := time.Now()
		fact(w, "Serial", x.Serial)
		fact(w, "Subject", orNone(leaf.Subject.String()))
		fact(w, "Names", strings.Join(altNames(leaf), ", "))
		fact(w, "Issuer", leaf.Issuer.String()+" ("+x.IssuerName+")")
		fact(w, "Valid from", minute(x.NotBefore))
		fact(w, "Valid until", within(x.NotAfter, now))
		if x.Revocation != nil {
			fact(w, "REVOKED", within(x.Revocation.At, now)+", "+x.Revocation.Reason)
		}
		fact(w, "Key", keyText(leaf))
		fact(w, "  its SHA-256", x.Key)
		fact(w, "For", strings.Join(purposes(leaf), ", "))
		fact(w, "Signed with", leaf.SignatureAlgorithm.String())
		sum := sha256.Sum256(leaf.Raw)
		fact(w, "SHA-256", hex.EncodeToString(sum[:]))
		fact(w, "CRL", strings.Join(leaf.CRLDistributionPoints, " "))
		fact(w, "OCSP", strings.Join(leaf.OCSPServer, " "))
		fact(w, "Device", x.Device)
		fact(w, "Profile", x.Profile+" version "+x.Version+", slot "+x.Slot)
		fact(w, "Follows", x.Previous)
	})
}

// certKnown shows a certificate that is not kept.
func (c *cli) certKnown(x v1.Certificate) error {
	return c.show(x, func(w io.Writer) {
		now := time.Now()
		why := "its time here is over (retention); this is what the record of its issue says"
		if x.Record == "brief" {
			why = "it was recorded in brief; this is what the record of its issue says"
		}
		fact(w, "Serial", x.Serial)
		fact(w, "Not kept", why)
		fact(w, "Issuer", x.IssuerName)
		fact(w, "Valid from", minute(x.NotBefore))
		fact(w, "Valid until", within(x.NotAfter, now))
		if x.Revocation != nil {
			fact(w, "REVOKED", within(x.Revocation.At, now)+", "+x.Revocation.Reason)
		}
		fact(w, "Key's SHA-256", x.Key)
		fact(w, "Device", x.Device)
		fact(w, "Profile", x.Profile+" version "+x.Version+", slot "+x.Slot)
		fact(w, "Follows", x.Previous)
	})
}

// notKept says that there is nothing to write out.
func notKept(x v1.Certificate) error {
	return errs.New(errs.NotFound, "the certificate %s is not kept, so it cannot be written; \"mooring cert show\" tells what is known of it", x.Serial)
}

func altNames(x *x509.Certificate) (all []string) {
	for _, n := range x.DNSNames {
		all = append(all, "dns:"+n)
	}
	for _, n := range x.IPAddresses {
		all = append(all, "ip:"+n.String())
	}
	for _, n := range x.URIs {
		all = append(all, "uri:"+n.String())
	}
	for _, n := range x.EmailAddresses {
		all = append(all, "email:"+n)
	}
	return all
}

func keyText(x *x509.Certificate) string {
	switch k := x.PublicKey.(type) {
	case *ecdsa.PublicKey:
		return "EC " + k.Curve.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d bits", k.N.BitLen())
	case ed25519.PublicKey:
		return "Ed25519"
	}
	if pub, err := der.ParsePublicKey(x.RawSubjectPublicKeyInfo); err == nil { // kinds that crypto/x509 does not know
		return strings.ToUpper(string(der.KindOf(pub)))
	}
	return x.PublicKeyAlgorithm.String()
}

func purposes(x *x509.Certificate) (all []string) {
	for _, p := range x.ExtKeyUsage {
		all = append(all, p.String())
	}
	for _, p := range x.UnknownExtKeyUsage {
		all = append(all, p.String())
	}
	return all
}

func (c *cli) certExportCommand() *cobra.Command {
	var f exportFlags
	var forTLS bool
	cmd := &cobra.Command{
		Use: "export SERIAL", Short: "Write a certificate", Long: certExportHelp,
		Example: "  mooring cert export 4165a1b2c3d4e5f60718293a4b5c6d7e --chain -o chain.pem",
		Args:    needs("SERIAL"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) error {
			x, err := s.Certificate(ctx, serial(args[0]))
			if err != nil {
				return err
			}
			if !x.Kept {
				return notKept(x)
			}
			text := x.PEM
			if f.chain || forTLS {
				issuer, err := s.CA(ctx, x.Issuer)
				if err != nil {
					return err
				}
				f.chain = true
				if text += issuer.Chain; forTLS {
					text = x.PEM + issuer.Sent
				}
			}
			return c.export([]byte(text), f)
		}),
	}
	cmd.Flags().BoolVar(&f.chain, "chain", false, "add the certificates of the CAs above it")
	cmd.Flags().BoolVar(&forTLS, "tls", false, "add what is sent along in TLS: no root, but cross certificates")
	cmd.Flags().BoolVar(&f.der, "der", false, "write DER instead of PEM")
	cmd.Flags().StringVarP(&f.file, "out", "o", "", "file to write; must not exist (default standard output)")
	return cmd
}
