package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"mooring/internal/base/errs"
	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
)

const manufacturerHelp = `Manufacturers give their devices certificates in the factory (IDevIDs, IEEE 802.1AR). When the CAs that issued them are registered here, such
a certificate shows which product a device is, by the manufacturer and by the serialNumber in its subject, in every enrolment protocol. That
lets nobody in by itself: the product must stand on an ownership list, which is a device registered with --maker and --serial, or a file for
"mooring device import" with the columns maker and serial. The first certificate by which a device enrols is bound to it; another one for
the same product is refused until "mooring device change NAME --birth ''" takes the first away.`

const manufacturerAddHelp = `Registers a manufacturer with the certificates of the CAs that issue to its devices, or adds certificates to one that is registered. --ca may be
repeated, and a file may hold several certificates; a root, or the issuing CA alone, will do. --organization is what the subject of the
device certificates must say: it tells manufacturers apart that have one CA. --ignore-lifetime has certificates count although they, or their
CAs, have expired: for manufacturers who wrote three years where the device lives for twenty.

--masa says who gives out the vouchers by which its devices find out that they are at their owner's (BRSKI, RFC 8995): "own" is this platform, for
manufacturers who have no such service; "idevid" is the service (MASA) that the certificate of each device names; or give the address of one. For
the last two --masa-ca names the certificates that the service and its vouchers are checked by. It needs the permission maker.manage.`

const manufacturerChangeHelp = `Says anew who gives out the vouchers for a manufacturer's devices, as "mooring manufacturer add" does, in place of what was said before. Without
--masa nobody does. It needs the permission maker.manage.`

const manufacturerListHelp = `Lists the registered manufacturers.`

const manufacturerShowHelp = `Shows a manufacturer and its CA certificates. --pem prints these.`

const manufacturerRemoveHelp = `Trusts the certificates of a manufacturer no longer, also not those that devices are bound to. What its devices got from this platform stays,
and so do the entries of the ownership list. It needs the permission maker.manage.`

func (c *cli) manufacturerCommand() *cobra.Command {
	var pem bool
	show := &cobra.Command{
		Use: "show NAME", Short: "Show a manufacturer", Long: manufacturerShowHelp,
		Example: "  mooring manufacturer show acme\n  mooring manufacturer show acme --pem > acme-cas.pem",
		Args:    needs("NAME"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) error {
			return c.manufacturerShow(ctx, s, args[0], pem)
		}),
	}
	show.Flags().BoolVar(&pem, "pem", false, "print the certificates")
	return group(&cobra.Command{
		Use: "manufacturer", Short: "Say whose certificates let devices in that stand on an ownership list", Long: manufacturerHelp,
		Example: "  mooring manufacturer add acme --ca acme-device-ca.pem\n  mooring device import shipment.csv --profile device",
	}, c.manufacturerAddCommand(), c.manufacturerChangeCommand(), &cobra.Command{
		Use: "list", Short: "List the manufacturers", Long: manufacturerListHelp,
		Example: "  mooring manufacturer list",
		Args:    needs(),
		RunE:    c.online(c.manufacturerList),
	}, show, &cobra.Command{
		Use: "remove NAME", Short: "Trust the certificates of a manufacturer no longer", Long: manufacturerRemoveHelp,
		Example: "  mooring manufacturer remove acme",
		Args:    needs("NAME"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) error {
			m, err := s.RemoveManufacturer(ctx, args[0])
			if err != nil {
				return err
			}
			return c.show(m, func(w io.Writer) { fact(w, "Removed", m.Name) })
		}),
	})
}

func (c *cli) manufacturerAddCommand() *cobra.Command {
	var n v1.NewManufacturer
	var files, masa []string
	cmd := &cobra.Command{
		Use: "add NAME", Short: "Register a manufacturer, or more certificates of one", Long: manufacturerAddHelp,
		Example: "  mooring manufacturer add acme --ca acme-root.pem\n  mooring manufacturer add old-pumps --ca pumps.pem --organization \"Pumps Ltd\" --ignore-lifetime\n  mooring manufacturer add globex --ca globex.pem --masa idevid --masa-ca globex-masa.pem",
		Args:    needs("NAME"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) error {
			n.Name = args[0]
			var err error
			if n.MASACertificates, err = masaCertificates(n.MASA, masa); err != nil {
				return err
			}
			return c.manufacturerAdd(ctx, s, n, files)
		}),
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringArrayVar(&files, "ca", nil, "file with certificates of CAs, PEM; may be repeated")
	flags.StringVar(&n.Organization, "organization", "", "what the subject of its device certificates must say as organization")
	flags.BoolVar(&n.IgnoreLifetime, "ignore-lifetime", false, "have its certificates count although they have expired")
	masaFlags(cmd, &n.MASA, &masa)
	return cmd
}

// masaFlags adds the flags that say who gives out vouchers.
func masaFlags(cmd *cobra.Command, masa *string, files *[]string) {
	cmd.Flags().StringVar(masa, "masa", "", "who gives out the vouchers for its devices: own, idevid, or the https address of a service")
	cmd.Flags().StringArrayVar(files, "masa-ca", nil, "file with certificates that the service and its vouchers are checked by, PEM; may be repeated")
}

// masaCertificates reads what a service is checked by.
func masaCertificates(masa string, files []string) (string, error) {
	if masa != "" && masa != "own" && len(files) == 0 {
		return "", usagef("vouchers of a service elsewhere must be checked by something: give --masa-ca FILE with the certificate of the manufacturer's service, or of the CA above it")
	}
	return certificatesIn(files)
}

func (c *cli) manufacturerChangeCommand() *cobra.Command {
	var to v1.MASAChoice
	var files []string
	cmd := &cobra.Command{
		Use: "change NAME", Short: "Say who gives out the vouchers for a manufacturer's devices", Long: manufacturerChangeHelp,
		Example: "  mooring manufacturer change acme --masa own\n  mooring manufacturer change globex --masa https://masa.globex.example --masa-ca globex-masa.pem",
		Args:    needs("NAME"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) (err error) {
			if to.MASACertificates, err = masaCertificates(to.MASA, files); err != nil {
				return err
			}
			m, err := s.ChangeManufacturerMASA(ctx, args[0], to)
			if err != nil {
				return err
			}
			return c.show(m, func(w io.Writer) { manufacturerFacts(w, m) })
		}),
	}
	cmd.Flags().SortFlags = false
	masaFlags(cmd, &to.MASA, &files)
	return cmd
}

// certificatesIn returns the text of files, each of which must hold a certificate.
func certificatesIn(files []string) (string, error) {
	var all strings.Builder
	for _, path := range files {
		text, err := readFile(path)
		if err != nil {
			return "", err
		}
		if len(certificates(text)) == 0 {
			return "", errs.New(errs.Invalid, "%s holds no certificate in PEM: openssl x509 -inform DER -in %s makes one of DER", path, path)
		}
		all.Write(text)
		all.WriteString("\n")
	}
	return all.String(), nil
}

func (c *cli) manufacturerAdd(ctx context.Context, s *client.Client, n v1.NewManufacturer, files []string) error {
	if len(files) == 0 {
		return usagef("mooring manufacturer add needs the certificates of the manufacturer's CAs: give --ca FILE")
	}
	var err error
	if n.Certificates, err = certificatesIn(files); err != nil {
		return err
	}
	m, err := s.AddManufacturer(ctx, n)
	if err != nil {
		return err
	}
	err = c.show(m, func(w io.Writer) { manufacturerFacts(w, m) })
	if err == nil {
		c.advise("Now its products can be listed: mooring device add NAME --maker %s --serial SERIAL, or mooring device import", quoted(m.Name))
	}
	return err
}

func (c *cli) manufacturerList(ctx context.Context, s *client.Client, _ []string) error {
	all, err := s.Manufacturers(ctx)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		c.advise("None. Register one with mooring manufacturer add NAME --ca FILE")
	}
	return c.show(v1.ManufacturerList{Manufacturers: all}, func(w io.Writer) {
		if len(all) > 0 {
			row(w, "NAME", "ORGANIZATION", "CAS", "LIFETIME", "REGISTERED")
		}
		for _, m := range all {
			row(w, m.Name, m.Organization, fmt.Sprint(len(m.Certificates)), lifetime(m), minute(m.Created))
		}
	})
}

func lifetime(m v1.Manufacturer) string {
	if m.IgnoreLifetime {
		return "ignored"
	}
	return "counts"
}

func (c *cli) manufacturerShow(ctx context.Context, s *client.Client, name string, pem bool) error {
	m, err := s.Manufacturer(ctx, name)
	if err != nil {
		return err
	}
	if pem && !c.json {
		for _, a := range m.Certificates {
			if _, err := io.WriteString(c.out, a.PEM); err != nil {
				return err
			}
		}
		return nil
	}
	return c.show(m, func(w io.Writer) { manufacturerFacts(w, m) })
}

func manufacturerFacts(w io.Writer, m v1.Manufacturer) {
	fact(w, "Manufacturer", m.Name)
	fact(w, "Organization", m.Organization)
	fact(w, "Lifetime", lifetime(m))
	fact(w, "Registered", minute(m.Created))
	for _, a := range m.Certificates {
		fact(w, "CA", a.Subject)
		fact(w, "  SHA-256", a.Fingerprint)
		fact(w, "  ends", minute(a.NotAfter))
	}
	fact(w, "MASA", m.MASA)
	for _, a := range m.MASACertificates {
		fact(w, "MASA's CA", a.Subject)
		fact(w, "  SHA-256", a.Fingerprint)
		fact(w, "  ends", minute(a.NotAfter))
	}
}
