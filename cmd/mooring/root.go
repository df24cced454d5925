package main

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"mooring/internal/app"
)

const rootHelp = `Mooring gives every device of a fleet an identity that it can prove: it registers devices, issues, renews and revokes
their certificates, and records who did what so that it can be shown afterwards.

An installation is a data directory. Start with "mooring init", then "mooring serve".

Where commands find the server. On the server's machine they talk to it through the Unix socket in the data directory; the
users root and the owner of the server are administrators there. From elsewhere give --server and an operator's certificate.

The data directory is --dir, or else the environment variable MOORING_DIR, or else /var/lib/mooring for root and
~/.mooring for everybody else.

Exit codes: 0 done, 1 failed, 2 not understood, 3 refused, 4 not found, 5 not available now.`

const rootExample = `  mooring init --dir /var/lib/mooring --name "Acme Vehicles" --host pki.example.com
  mooring serve
  mooring device add car-4711 --profile device --token
  mooring cert list --expires-before 30d --server https://pki.example.com:9443`

// root puts all commands together.
func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "mooring",
		Short:         "PKI identity for every device of a connected fleet",
		Long:          rootHelp,
		Example:       rootExample,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       app.Version().Version, // makes the flag --version
	}
	root.SetHelpCommand(helpCommand(root))
	flags := root.PersistentFlags()
	flags.SortFlags = false
	flags.StringVar(&c.dir, "dir", defaultDir(), "data directory (default $MOORING_DIR, /var/lib/mooring for root, ~/.mooring for others)")
	flags.Lookup("dir").DefValue = "" // of this user on this machine, so it is not for the manual
	flags.StringVar(&c.server, "server", "", "management API of a server elsewhere, such as https://pki.example.com:9443")
	flags.StringVar(&c.cert, "cert", "", "operator's certificate chain, PEM (default DIR/operator/cert.pem)")
	flags.StringVar(&c.key, "key", "", "its private key, PEM (default DIR/operator/key.pem)")
	flags.StringVar(&c.ca, "ca", "", "root certificate that the server's must lead to, PEM (default DIR/operator/ca.pem)")
	flags.BoolVar(&c.json, "json", false, "print results and errors as JSON")
	flags.BoolVarP(&c.quiet, "quiet", "q", false, "print results only: no advice, no progress")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		text, _, _ := strings.Cut(err.Error(), ": strconv.") // the rest is for programmers
		return usagef("%s: see %s --help", text, cmd.CommandPath())
	})
	group(root,
		c.initCommand(), c.serveCommand(), c.statusCommand(), c.whoamiCommand(), c.configCommand(), c.profileCommand(),
		c.caCommand(), c.anchorCommand(), c.manufacturerCommand(), c.masaCommand(), c.acmeCommand(), c.keyCommand(), c.deviceCommand(), c.renewalCommand(), c.campaignCommand(), c.requestCommand(), c.certCommand(), c.revocationCommand(), c.policyCommand(), c.publishCommand(), c.subscribeCommand(), c.connectionCommand(), c.sinkCommand(), c.jobCommand(), c.approvalCommand(), c.exportCommand(), c.retentionCommand(), c.auditCommand(),
		c.agentCommand(), c.brokerAgentCommand(), c.v2xCommand(), c.demoCommand(), c.benchCommand(), c.versionCommand(), c.docsCommand(),
	)
	c.complete(root)
	return root
}

// helpCommand is cobra's, except that a command that does not exist is a mistake and not an occasion to show the help of another one.
func helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND]", Short: "Explain a command",
		Example: "  mooring help cert revoke",
		RunE: func(_ *cobra.Command, args []string) error {
			found, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return usagef("there is no command %q: mooring help lists them", strings.Join(args, " "))
			}
			return found.Help()
		},
	}
}

// defaultDir is where an installation is when nobody says otherwise.
func defaultDir() string {
	if dir := os.Getenv("MOORING_DIR"); dir != "" {
		return dir
	}
	home, err := os.UserHomeDir()
	if os.Geteuid() == 0 || err != nil {
		return "/var/lib/mooring"
	}
	return filepath.Join(home, ".mooring")
}
