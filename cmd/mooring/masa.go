package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"mooring/internal/base/errs"
	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
)

const masaHelp = `Vouchers tell a device to whose network it belongs (BRSKI, RFC 8995). A manufacturer signs them when the registrar of a network asks. This
platform does it for manufacturers that are registered with "--masa own": for its own registrar, and for those of other networks that are registered here,
which ask at listen.masa. The profile of the certificate that signs is named in masa.profile.`

const masaCertificateHelp = `Prints the certificate that devices are to be made with so that they can check vouchers: that of the CA which issues the certificates of
their signer, and no others. It stays when the signer's certificate is renewed. --signer prints that one, for devices that can hold only a single key.`

const masaRegistrarHelp = `Registrars of other networks may ask for vouchers when they are registered here. They are known by the certificate with which they make
the connection and sign their requests, which must have the extended key usage cmcRA.`

const masaRegistrarAddHelp = `Lets the registrar of a network ask for vouchers, or adds certificates to one that is registered. A certificate in --ca is that of the CA which
issues the registrar's, or the registrar's own, where others have certificates of the same CA. --group is the group of the devices that were sold to this
customer: it gets vouchers for these alone, and they say that the owner is verified. Without --group it gets one for any device, which is right only
where the customer is asked nowhere else. --offline lets it have vouchers without a nonce, for devices that are not connected: whoever has such a voucher can
have the device until it ends. It needs the permission maker.manage.`

const masaRegistrarListHelp = `Lists the registrars that may ask for vouchers.`

const masaRegistrarShowHelp = `Shows a registrar and its certificates. --pem prints these.`

const masaRegistrarRemoveHelp = `Has a registrar ask no more. The vouchers that it has stay what they are, and in the log. It needs the permission maker.manage.`

const masaVouchersHelp = `Lists the vouchers that were issued for a device, with the domain that each is for. A registrar that has had a voucher for the device can ask for
this log as well.`

func (c *cli) masaCommand() *cobra.Command {
	var signer bool
	certificate := &cobra.Command{
		Use: "certificate", Short: "Print the certificate by which devices check vouchers", Long: masaCertificateHelp,
		Example: "  mooring masa certificate > vouchers.pem",
		Args:    needs(),
		RunE: c.online(func(ctx context.Context, s *client.Client, _ []string) error {
			return c.masaCertificate(ctx, s, signer)
		}),
	}
	certificate.Flags().BoolVar(&signer, "signer", false, "the certificate that signs now")
	return group(&cobra.Command{
		Use: "masa", Short: "Issue vouchers for the devices of a manufacturer", Long: masaHelp,
		Example: "  mooring masa registrar add customer-7 --ca customer-7.pem --group sold/customer-7\n  mooring masa vouchers acme AC-00017",
	}, certificate, c.masaRegistrarCommand(), &cobra.Command{
		Use: "vouchers MAKER SERIAL", Short: "List the vouchers of a device", Long: masaVouchersHelp,
		Example: "  mooring masa vouchers acme AC-00017",
		Args:    needs("MAKER", "SERIAL"),
		RunE:    c.online(c.masaVouchers),
	})
}

func (c *cli) masaCertificate(ctx context.Context, s *client.Client, signer bool) error {
	m, err := s.MASA(ctx)
	if err != nil {
		return err
	}
	if c.json {
		return c.show(m, nil)
	}
	shown := m.CA
	if signer {
		shown = m.Signer
	}
	_, err = io.WriteString(c.out, shown.PEM)
	return err
}

func (c *cli) masaRegistrarCommand() *cobra.Command {
	var pem bool
	show := &cobra.Command{
		Use: "show NAME", Short: "Show a registrar", Long: masaRegistrarShowHelp,
		Example: "  mooring masa registrar show customer-7",
		Args:    needs("NAME"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) error {
			r, err := s.Registrar(ctx, args[0])
			if err != nil {
				return err
			}
			return c.masaRegistrarShow(r, pem)
		}),
	}
	show.Flags().BoolVar(&pem, "pem", false, "print the certificates")
	return group(&cobra.Command{
		Use: "registrar", Short: "Say whose registrars may ask for vouchers", Long: masaRegistrarHelp,
		Example: "  mooring masa registrar add customer-7 --ca customer-7.pem --group sold/customer-7",
	}, c.masaRegistrarAddCommand(), &cobra.Command{
		Use: "list", Short: "List the registrars", Long: masaRegistrarListHelp,
		Example: "  mooring masa registrar list",
		Args:    needs(),
		RunE:    c.online(c.masaRegistrarList),
	}, show, &cobra.Command{
		Use: "remove NAME", Short: "Have a registrar ask no more", Long: masaRegistrarRemoveHelp,
		Example: "  mooring masa registrar remove customer-7",
		Args:    needs("NAME"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) error {
			r, err := s.RemoveRegistrar(ctx, args[0])
			if err != nil {
				return err
			}
			return c.show(r, func(w io.Writer) { fact(w, "Removed", r.Name) })
		}),
	})
}

func (c *cli) masaRegistrarAddCommand() *cobra.Command {
	var n v1.NewRegistrar
	var files []string
	cmd := &cobra.Command{
		Use: "add NAME", Short: "Let a registrar ask for vouchers", Long: masaRegistrarAddHelp,
		Example: "  mooring masa registrar add customer-7 --ca customer-7.pem --group sold/customer-7\n  mooring masa registrar add depot --ca depot-registrar.pem --offline",
		Args:    needs("NAME"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) (err error) {
			if len(files) == 0 {
				return usagef("mooring masa registrar add needs the certificate of the registrar's CA, or its own: give --ca FILE")
			}
			if n.Certificates, err = certificatesIn(files); err != nil {
				return err
			}
			n.Name = args[0]
			r, err := s.AddRegistrar(ctx, n)
			if err != nil {
				return err
			}
			return c.masaRegistrarShow(r, false)
		}),
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringArrayVar(&files, "ca", nil, "file with certificates of its CAs, or its own, PEM; may be repeated")
	flags.StringVar(&n.Group, "group", "", "the group of the devices that it may ask for")
	flags.BoolVar(&n.Offline, "offline", false, "let it have vouchers without a nonce")
	return cmd
}

func (c *cli) masaRegistrarList(ctx context.Context, s *client.Client, _ []string) error {
	all, err := s.Registrars(ctx)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		c.advise("None. Register one with mooring masa registrar add NAME --ca FILE")
	}
	return c.show(v1.RegistrarList{Registrars: all}, func(w io.Writer) {
		if len(all) > 0 {
			row(w, "NAME", "GROUP", "WITHOUT NONCE", "CERTIFICATES", "REGISTERED")
		}
		for _, r := range all {
			row(w, r.Name, r.Group, withoutNonce(r), fmt.Sprint(len(r.Certificates)), minute(r.Created))
		}
	})
}

func withoutNonce(r v1.Registrar) string {
	if r.Offline {
		return "too"
	}
	return "no"
}

func (c *cli) masaRegistrarShow(r v1.Registrar, pem bool) error {
	if pem && !c.json {
		for _, a := range r.Certificates {
			if _, err := io.WriteString(c.out, a.PEM); err != nil {
				return err
			}
		}
		return nil
	}
	return c.show(r, func(w io.Writer) {
		fact(w, "Registrar", r.Name)
		fact(w, "Devices of", r.Group)
		fact(w, "Without nonce", withoutNonce(r))
		fact(w, "Registered", minute(r.Created))
		for _, a := range r.Certificates {
			fact(w, "Certificate", a.Subject)
			fact(w, "  SHA-256", a.Fingerprint)
			fact(w, "  ends", minute(a.NotAfter))
		}
	})
}

func (c *cli) masaVouchers(ctx context.Context, s *client.Client, args []string) error {
	all, err := s.Vouchers(ctx, args[0], args[1])
	if err != nil {
		return err
	}
	if len(all) == 0 && !c.json {
		return errs.New(errs.NotFound, "no voucher was issued here for the device %s of %s", args[1], args[0])
	}
	return c.show(v1.VoucherList{Vouchers: all}, func(w io.Writer) {
		row(w, "NUMBER", "ISSUED", "ENDS", "REGISTRAR", "DOMAIN", "ASSERTION")
		for _, v := range all {
			ends, by := "used once", v.Registrar
			if v.Expires != nil {
				ends = minute(*v.Expires)
			}
			if by == "" {
				by = "(own)"
			}
			row(w, fmt.Sprint(v.Number), minute(v.Issued), ends, by, v.Domain, v.Assertion)
		}
	})
}
