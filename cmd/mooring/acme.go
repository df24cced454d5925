package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
)

const acmeHelp = `The ACME server (RFC 8555) gives certificates to whoever has an account with it. An account is bound to a device by the device's one-time
token, which an ACME client takes as external account binding: the key identifier is the device's name, the HMAC key is what
"mooring device token NAME --acme" prints. With acme.open in the configuration there are accounts without that, too.

Whoever is bound orders for the names that the device's profile permits. The server listens where listen.acme says.`

const acmeAccountListHelp = `Lists the accounts, or those of a device. A device has one valid account: another one takes its place.`

const acmeDeactivateHelp = `Takes an account away: it orders nothing more, and never comes back. Certificates that it has stay as they are; "mooring cert revoke" is for
those. The device can make another account with a new token.`

const acmeOrderListHelp = `Lists the orders of an account, with each name and how it was shown. Orders are kept for seven days.`

func (c *cli) acmeCommand() *cobra.Command {
	var account string
	orders := &cobra.Command{
		Use: "list", Short: "List the orders of an account", Long: acmeOrderListHelp,
		Example: "  mooring acme order list --account 0a1b2c3d4e5f60718293a4b5c6d7e8f9",
		Args:    needs(),
		RunE: c.online(func(ctx context.Context, s *client.Client, _ []string) error {
			if account == "" {
				return usagef("mooring acme order list needs --account, the id of an account; mooring acme account list shows them")
			}
			return c.acmeOrders(ctx, s, account)
		}),
	}
	orders.Flags().StringVar(&account, "account", "", "id of the account")
	return group(&cobra.Command{
		Use: "acme", Short: "See and end accounts at the ACME server", Long: acmeHelp,
		Example: "  mooring acme account list --device gw-1\n  mooring acme account deactivate 0a1b2c3d4e5f60718293a4b5c6d7e8f9",
	}, group(&cobra.Command{
		Use: "account", Short: "Accounts", Long: acmeAccountListHelp, Example: "  mooring acme account list",
	}, c.acmeListCommand(), c.acmeShowCommand(), c.acmeEndCommand()), group(&cobra.Command{
		Use: "order", Short: "Orders", Long: acmeOrderListHelp, Example: "  mooring acme order list --account 0a1b2c3d4e5f60718293a4b5c6d7e8f9",
	}, orders))
}

func (c *cli) acmeListCommand() *cobra.Command {
	var device string
	var p paging
	cmd := &cobra.Command{
		Use: "list", Short: "List accounts", Long: acmeAccountListHelp,
		Example: "  mooring acme account list\n  mooring acme account list --device gw-1 --json",
		Args:    needs(),
	}
	cmd.RunE = c.online(func(ctx context.Context, s *client.Client, _ []string) error {
		return listing[v1.ACMEAccount]{name: "accounts", head: []string{"ID", "STATE", "DEVICE", "MADE", "USED"}, cells: func(a v1.ACMEAccount) []string {
			return []string{a.ID, a.State, orDash(a.Device), minute(a.Created), minute(a.Used)}
		}, fetch: func(cursor string, limit int) ([]v1.ACMEAccount, string, error) {
			page, err := s.ACMEAccounts(ctx, device, cursor, limit)
			return page.Accounts, page.Next, err
		}}.print(c, cmd, p)
	})
	cmd.Flags().StringVar(&device, "device", "", "only accounts of this device, by name or id")
	p.flags(cmd)
	return cmd
}

func (c *cli) acmeShowCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show an account", Long: "Shows an account.",
		Example: "  mooring acme account show 0a1b2c3d4e5f60718293a4b5c6d7e8f9",
		Args:    needs("ID"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) error {
			a, err := s.ACMEAccount(ctx, args[0])
			if err != nil {
				return err
			}
			return c.showACMEAccount(a)
		}),
	}
}

func (c *cli) acmeEndCommand() *cobra.Command {
	return &cobra.Command{
		Use: "deactivate ID", Short: "Take an account away", Long: acmeDeactivateHelp,
		Example: "  mooring acme account deactivate 0a1b2c3d4e5f60718293a4b5c6d7e8f9",
		Args:    needs("ID"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) error {
			a, err := s.EndACMEAccount(ctx, args[0])
			if err != nil {
				return err
			}
			return c.showACMEAccount(a)
		}),
	}
}

func (c *cli) showACMEAccount(a v1.ACMEAccount) error {
	return c.show(a, func(w io.Writer) {
		fact(w, "Account", a.ID)
		fact(w, "  state", a.State)
		fact(w, "  device", orDash(a.Device))
		fact(w, "  key", a.Key)
		fact(w, "  made", minute(a.Created))
		fact(w, "  used", minute(a.Used))
	})
}

func (c *cli) acmeOrders(ctx context.Context, s *client.Client, account string) error {
	list, err := s.ACMEOrders(ctx, account)
	if err != nil {
		return err
	}
	return c.show(list, func(w io.Writer) {
		row(w, "ORDER", "STATE", "PROFILE", "NAME", "SHOWN BY", "SERIAL")
		for _, o := range list.Orders {
			for i, n := range o.Names {
				if i == 0 {
					row(w, o.ID, o.State, o.Profile, n.Name, orDash(n.Method), orDash(o.Serial))
				} else {
					row(w, "", n.State, "", n.Name, orDash(n.Method), "")
				}
			}
		}
	})
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// acmeBinding is a token in the form in which ACME clients take it (RFC 8555, section 7.3.4).
type acmeBinding struct {
	KID  string `json:"kid"`
	HMAC string `json:"hmac"`
}

// bindingKeySize is how many octets are printed. A token has fewer; HMAC itself fills a key up with zeros, so those behind it change nothing, and
// dehydrated 0.7 cannot read a key whose length is no multiple of 16.
const bindingKeySize = 48

func acmeForm(name, token string) acmeBinding {
	key := make([]byte, max(bindingKeySize, len(token)))
	copy(key, token)
	return acmeBinding{name, base64.RawURLEncoding.EncodeToString(key)}
}

// acmeToken shows a token as external account binding.
func (c *cli) acmeToken(name string, t v1.Token) error {
	b := acmeForm(name, t.Token)
	if c.quiet && !c.json {
		_, err := fmt.Fprintln(c.out, b.KID, b.HMAC)
		return err
	}
	return c.show(b, func(w io.Writer) {
		fact(w, "Key identifier", b.KID)
		fact(w, "HMAC key", b.HMAC)
		c.advise("Give both to an ACME client, such as:\n  certbot certonly --server …/acme/directory --eab-kid %s --eab-hmac-key %s …\nThe account that it makes with them is the device's; the token is then used.", b.KID, b.HMAC)
	})
}
