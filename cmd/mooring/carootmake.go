package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"mooring/internal/app"
	"mooring/internal/base/errs"
	"mooring/internal/core/ceremony"
	"mooring/wire/der"
)

const rootCreateHelp = `Makes a root: its key, encrypted by the passphrase, and its certificate. The directory must not hold a root yet.

--path-len is how many tiers of CAs may follow. 2 is one for the CAs of the installation and one of reserve, which the cross certificate of
the root's successor takes.

--status-url is where the installation will serve the root's revocation list and certificate; it stands in the certificates that the root
signs, so it must be right before the first one.`

const rootSignHelp = `Signs the certificate of a CA. FILE is its certification request, which "mooring ca request" made. The SHA-256 of the key is shown and
compared aloud with the other side before anything is signed; in scripts --yes takes the place of the person, and --expect that of the ears.

Refused are requests that are not for a CA, whose signature is wrong or whose key is weak, that ask for more tiers than --path-len, for
alternative names or extensions, or that name another organisation than the root's (see --any-name).`

const rootCrossHelp = `Vouches for another root: signs a cross certificate for its key (RFC 4210, section 4.4). The old root signs for the new one so that devices
that know only the old one find their way to what the new one issues, and the new one for the old one. FILE is the certificate of the other
root. The cross certificate ends when the first of the two roots ends. "mooring ca import-cross" takes it to the installation.`

const rootResponderHelp = `Signs the certificate of an OCSP responder, which then answers for the root while the root's key stays where it is (RFC 6960, section 4.2.2.2):
whether the CAs that it certified are revoked. FILE is its certification request, which "mooring ca request-responder" made;
"mooring ca import-responder" takes the certificate to the installation. The SHA-256 of the key is shown and compared aloud as with CAs.

Whoever asks a responder does not ask whether the responder itself is revoked (ocsp-nocheck), so the certificate lives for at most 400 days:
from one yearly visit to the next.`

const rootRevokeHelp = `Revokes the certificate of a CA or a responder, or a cross certificate, by its serial number, which "mooring ca root show" lists. It takes effect with the next
list: sign one at once ("mooring ca root crl") and import it.`

const rootCRLHelp = `Signs the list of everything that the root revoked. It is good for a year unless --validity says otherwise: the next one must be signed and
imported before it ends, or verifiers refuse every chain. Numbers always grow.`

func (c *cli) rootCreateCommand(f *rootFlags) *cobra.Command {
	var subject, validity, file string
	var spec ceremony.Spec
	cmd := &cobra.Command{
		Use: "create", Short: "Make a root", Long: rootCreateHelp,
		Example: "  mooring ca root create --root /media/stick/root --subject \"CN=Acme Root G1,O=Acme\" --status-url http://pki.example.com:8080 -o root.pem\n" +
			"  mooring ca root create --root /media/stick/root --subject \"CN=Acme Root G1,O=Acme\" --algorithm ml-dsa-65 --by \"Alice Example\" --witness \"Bob Example\"",
		Args: needs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if subject == "" {
				return usagef("mooring ca root create needs --subject, such as \"CN=Acme Root G1,O=Acme\"")
			}
			var err error
			if spec.Subject, err = der.ParseDN(subject); err != nil {
				return usagef("--subject: %v", err)
			}
			length, err := life("--validity", validity)
			if err != nil {
				return err
			}
			spec.Validity = int64(length / time.Second)
			return c.rootCreate(cmd.Context(), f, spec, file)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&subject, "subject", "", "its name, with its generation, such as \"CN=Acme Root G1,O=Acme\"")
	flags.StringVar((*string)(&spec.Algorithm), "algorithm", "ec-p384", "kind of key: ec-p256, ec-p384, ed25519, rsa-3072, rsa-4096, ml-dsa-44, ml-dsa-65")
	flags.StringVar(&validity, "validity", "10950d", "how long it is valid")
	flags.IntVar(&spec.PathLen, "path-len", 2, "how many tiers of CAs may follow below")
	flags.StringVar(&spec.Status, "status-url", "", "where the installation serves lists, such as http://pki.example.com:8080")
	flags.StringVar(&spec.Custody, "token", "", "keep the key in a token: \"pkcs11:token=LABEL?module-path=/usr/lib/MODULE.so\" (RFC 7512)")
	flags.StringVarP(&file, "out", "o", "", "also write the certificate to this file")
	return cmd
}

func (c *cli) rootCreate(ctx context.Context, f *rootFlags, spec ceremony.Spec, file string) (err error) {
	if err := free(file); err != nil {
		return err
	}
	o := c.rootOptions(f)
	o.Prompt = func() ([]byte, error) { return c.askTwice("New passphrase of the root: ") }
	r, err := app.CreateRoot(ctx, o, spec)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	cert := r.Certificate()
	if file == "" {
		return c.rootShow(r, nil)
	}
	return c.release(output{File: file, What: "root certificate of " + cert.Subject.String(), Serial: serialOf(cert), Until: until(cert)}, "CERTIFICATE",
		ceremony.Made{DER: cert.Raw, Digest: sha256.Sum256(cert.Raw)})
}

// signing are the flags of what is confirmed and signed.
type signing struct {
	file, expect string
	yes          bool
}

func (s *signing) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVarP(&s.file, "out", "o", "", "file to write; must not exist (default standard output)")
	flags.StringVar(&s.expect, "expect", "", "sign only if this is the SHA-256 of the key")
	flags.BoolVar(&s.yes, "yes", false, "do not ask")
}

func (c *cli) rootSignCommand(f *rootFlags) *cobra.Command {
	var s signing
	var o ceremony.Order
	var validity string
	cmd := &cobra.Command{
		Use: "sign FILE", Short: "Sign the certificate of a CA", Long: rootSignHelp,
		Example: "  mooring ca root sign devices.csr --root /media/stick/root --validity 3650d -o devices.pem",
		Args:    needs("FILE"),
		RunE: c.atRoot(f, func(ctx context.Context, r *ceremony.Root, args []string) error {
			length, err := life("--validity", validity)
			if err != nil {
				return err
			}
			o.Validity = int64(length / time.Second)
			csr, err := readPEM(args[0], "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST")
			if err != nil {
				return err
			}
			q, err := r.Review(csr, o)
			if err != nil {
				return err
			}
			return c.rootSeal(ctx, r, q, "The root is to certify this CA:", s)
		}),
	}
	cmd.Flags().StringVar(&validity, "validity", "3650d", "how long the certificate is valid")
	cmd.Flags().IntVar(&o.PathLen, "path-len", 0, "how many tiers of CAs may follow below the new one")
	cmd.Flags().BoolVar(&o.AnyName, "any-name", false, "the CA may be of another organisation than the root")
	cmd.Flags().BoolVar(&o.OCSP, "ocsp", false, "the certificate also says where OCSP is asked, which takes a responder of the root (mooring ca root responder)")
	s.add(cmd)
	return cmd
}

func (c *cli) rootCrossCommand(f *rootFlags) *cobra.Command {
	var s signing
	cmd := &cobra.Command{
		Use: "cross FILE", Short: "Sign a cross certificate for another root", Long: rootCrossHelp,
		Example: "  mooring ca root cross root-g2.pem --root /media/stick/root-g1 -o new-with-old.pem\n  mooring ca root cross root-g1.pem --root /media/stick/root-g2 -o old-with-new.pem",
		Args:    needs("FILE"),
		RunE: c.atRoot(f, func(ctx context.Context, r *ceremony.Root, args []string) error {
			raw, err := readPEM(args[0], "CERTIFICATE")
			if err != nil {
				return err
			}
			q, err := r.ReviewRoot(raw)
			if err != nil {
				return err
			}
			return c.rootSeal(ctx, r, q, "The root is to vouch for this root:", s)
		}),
	}
	s.add(cmd)
	return cmd
}

func (c *cli) rootResponderCommand(f *rootFlags) *cobra.Command {
	var s signing
	var validity string
	cmd := &cobra.Command{
		Use: "responder FILE", Short: "Sign the certificate of an OCSP responder", Long: rootResponderHelp,
		Example: "  mooring ca root responder responder.csr --root /media/stick/root -o responder.pem",
		Args:    needs("FILE"),
		RunE: c.atRoot(f, func(ctx context.Context, r *ceremony.Root, args []string) error {
			length, err := life("--validity", validity)
			if err != nil {
				return err
			}
			csr, err := readPEM(args[0], "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST")
			if err != nil {
				return err
			}
			q, err := r.ReviewResponder(csr, int64(length/time.Second))
			if err != nil {
				return err
			}
			return c.rootSeal(ctx, r, q, "The root is to let this responder answer for it:", s)
		}),
	}
	cmd.Flags().StringVar(&validity, "validity", "395d", "how long the certificate is valid, at most 400d")
	s.add(cmd)
	return cmd
}

// rootSeal signs what was reviewed, once it is confirmed.
func (c *cli) rootSeal(ctx context.Context, r *ceremony.Root, q *ceremony.Request, what string, s signing) error {
	if err := free(s.file); err != nil {
		return err
	}
	if err := c.confirm(q, what, s.yes, s.expect); err != nil {
		return err
	}
	made, err := r.Sign(ctx, q)
	if err != nil {
		return err
	}
	cert, err := x509.ParseCertificate(made.DER)
	if err != nil {
		return err
	}
	if q.Shadowed(made) {
		c.advise("Note: this cross certificate is not shorter than the self-signed one of the same key, so bundles will list it after that. Clients that take the first certificate that fits need the new root as an anchor.")
	}
	return c.release(output{File: s.file, What: "certificate of " + q.Subject, Serial: serialOf(cert), Until: until(cert)}, "CERTIFICATE", made)
}

func (c *cli) rootRevokeCommand(f *rootFlags) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "revoke SERIAL", Short: "Revoke a CA or a responder", Long: rootRevokeHelp,
		Example: "  mooring ca root revoke 4265a1b2c3d4e5f60718293a4b5c6d7e --reason cACompromise --root /media/stick/root",
		Args:    needs("SERIAL"),
		RunE: c.atRoot(f, func(ctx context.Context, r *ceremony.Root, args []string) error {
			if err := r.Revoke(ctx, args[0], reason); err != nil {
				return err
			}
			c.advise("Revoked. Sign a new list now: mooring ca root crl --root %s", f.dir)
			return nil
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "unspecified", "why: unspecified, keyCompromise, cACompromise, affiliationChanged, superseded, cessationOfOperation")
	return cmd
}

func (c *cli) rootCRLCommand(f *rootFlags) *cobra.Command {
	var validity, file string
	cmd := &cobra.Command{
		Use: "crl", Short: "Sign the root's revocation list", Long: rootCRLHelp,
		Example: "  mooring ca root crl --root /media/stick/root -o root.crl",
		Args:    needs(),
		RunE: c.atRoot(f, func(ctx context.Context, r *ceremony.Root, _ []string) error {
			length, err := life("--validity", validity)
			if err != nil {
				return err
			}
			if err := free(file); err != nil {
				return err
			}
			l, err := r.SignCRL(ctx, int64(length/time.Second))
			if err != nil {
				return err
			}
			return c.release(output{File: file, What: fmt.Sprintf("revocation list %d with %d entries", l.Number, l.Revoked), Number: l.Number, Until: minute(time.Unix(l.NextUpdate, 0))}, "X509 CRL", l.Made)
		}),
	}
	cmd.Flags().StringVar(&validity, "validity", "365d", "how long the list is good")
	cmd.Flags().StringVarP(&file, "out", "o", "", "file to write; must not exist (default standard output)")
	return cmd
}

// errNoEntry is for serial numbers that the record does not know.
func errNoEntry(serial string) error {
	return errs.New(errs.NotFound, "this root signed no certificate with the serial number %s: mooring ca root show lists what it signed", serial)
}
