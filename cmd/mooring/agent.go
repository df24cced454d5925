package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"mooring/agent"
	"mooring/agent/brski"
	"mooring/agent/est"
	"mooring/internal/base/errs"
	"mooring/wire/der"
)

const agentHelp = `The device's side: gets a certificate from a server (Mooring or any other EST server, RFC 7030) and keeps it fresh for
ever. The private key is made on this device and never leaves it.

An agent is a folder: --dir, or else the environment variable MOORING_AGENT_DIR, or else /var/lib/mooring-agent for root and
~/.mooring-agent for everybody else. Other programs of the device use the files in it, whose names never change:

  current/key.pem    the private key
  current/chain.pem  the certificate, followed by its intermediates
  current/cert.pem   the certificate alone
  ca.pem             the roots by which to check others of this fleet`

const agentEnrolHelp = `Gets the first certificate, or another one in the same folder if the old one has expired. For an old one that has not expired, but
was revoked, say, give --again: it stays in use until the new one is there.

The server is believed by its root: --ca FILE with the root certificate, or --fingerprint with its SHA-256 as "mooring ca show"
or "openssl x509 -noout -fingerprint -sha256" prints it. By CMP (cmp://) the token proves the server too. The device is believed by its token (--token-file or --token-stdin; at a
terminal the command asks for it), or by a certificate that it has from its maker (--birth-cert and --birth-key).

With --brski the device needs no root and no token, and not even its name: it shows the certificate of its maker, asks the server for a voucher that the
maker's service (MASA) signs, and believes the server by it (BRSKI, RFC 8995). --masa-ca is what the voucher is believed by.

At a server that begins with acme:// the token makes an account of the device (ACME, RFC 8555), by which certificates are ordered for the names
in --san. Names that the server wants to see validated are answered over HTTP at --http-listen while an order is made.

If an operator has to approve the device, the command says so and ends with exit code 5; "mooring agent run" then waits for
the answer, as does --wait. After any failure the same command may be given again: it goes on with the key that was made.`

const agentRenewHelp = `Replaces the certificate now. "mooring agent run" does this by itself, after two thirds of the certificate's life, so this is for
trying out and for a key that must be replaced. Where the server is a Mooring it is asked first which kind of key it wants, so a campaign
whose turn has come is followed. If it fails, the old certificate remains in use.`

const agentRunHelp = `Keeps the certificate fresh until it is told to end (SIGTERM or Ctrl-C): renews it after two thirds of its life, at a moment
that depends on the device's name so that a fleet does not come all at once; tries again with growing pauses if the server cannot be
reached, and leaves it alone for as long as it asks. It also waits for an enrolment that is to be approved.

Every few hours it asks the server when to renew, where the server is a Mooring or, by ACME, tells it (RFC 9773): so a campaign of the
operators reaches the device. With --exec a command is run by /bin/sh after each renewal, with the paths in MOORING_KEY, MOORING_CERT, MOORING_CHAIN and MOORING_CA; it is
ended after a minute, and what it says is logged.

It logs to standard error, needs no other rights than to its folder, and suits a systemd service with Restart=on-failure.`

const agentStatusHelp = `Tells what certificate this device has, until when, when it will be renewed, and what went wrong last. It asks nobody.`

// agentFlags are the flags of the agent's commands.
type agentFlags struct {
	dir                       string
	config                    agent.Config
	keyType                   string
	ca, fingerprint           string
	token, tokenFile          string
	tokenStdin                bool
	birthCert, birthKey, wait string
	again                     bool
	exec                      string
	protocol                  string
	brski                     bool
	masaCA                    string
}

func (c *cli) agentCommand() *cobra.Command {
	f := new(agentFlags)
	renew := &cobra.Command{
		Use: "renew", Short: "Replace the certificate now", Long: agentRenewHelp,
		Example: "  mooring agent renew\n  mooring agent renew --dir /etc/mooring-agent --json",
		Args:    needs(),
		RunE:    func(cmd *cobra.Command, _ []string) error { return agentError(c.agentRenew(cmd.Context(), f)) },
	}
	run := &cobra.Command{
		Use: "run", Short: "Keep the certificate fresh (daemon)", Long: agentRunHelp,
		Example: "  mooring agent run --dir /var/lib/mooring-agent",
		Args:    needs(),
		RunE:    func(cmd *cobra.Command, _ []string) error { return agentError(c.agentRun(cmd.Context(), f)) },
	}
	status := &cobra.Command{
		Use: "status", Short: "Tell what certificate this device has", Long: agentStatusHelp,
		Example: "  mooring agent status\n  mooring agent status --json",
		Args:    needs(),
		RunE:    func(*cobra.Command, []string) error { return agentError(c.agentStatus(f)) },
	}
	renew.Flags().StringVar(&f.protocol, "protocol", "", protocolUsage)
	renew.Flags().StringVar(&f.config.Server, "server", "", "another address of the server, for this once, such as coaps://pki.example.com:5684")
	for _, cmd := range []*cobra.Command{renew, run} {
		cmd.Flags().StringVar(&f.exec, "exec", "", "command for /bin/sh after each renewal, such as \"systemctl reload mosquitto\"")
	}
	all := group(&cobra.Command{
		Use: "agent", Short: "Be a device: enrol, renew, keep the certificate fresh", Long: agentHelp,
		Example: "  mooring agent enrol --server https://pki.example.com:8443 --name car-4711 --token-file token --ca root.pem\n  mooring agent run",
	}, c.agentEnrolCommand(f), renew, run, status, c.agentProbeCommand(f), c.agentV2XCommand(f))
	all.PersistentFlags().StringVar(&f.dir, "dir", defaultAgentDir(), "folder of the agent (default $MOORING_AGENT_DIR, /var/lib/mooring-agent for root, ~/.mooring-agent for others)")
	all.PersistentFlags().Lookup("dir").DefValue = "" // of this user on this machine, so it is not for the manual
	return all
}

func (c *cli) agentEnrolCommand(f *agentFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use: "enrol", Short: "Get the first certificate", Long: agentEnrolHelp,
		Example: "  mooring agent enrol --server https://pki.example.com:8443 --name car-4711 --token-file token --ca root.pem\n" +
			"  cat token | mooring agent enrol --server https://pki.example.com:8443 --name car-4711 --token-stdin --fingerprint 5F:0C:…\n" +
			"  mooring agent enrol --server acme://pki.example.com:8444 --name gw-1 --token-file token --ca root.pem --san dns:gw1.example.com --http-listen :80\n" +
			"  mooring agent enrol --server acme://pki.example.com:8444 --name pump-17 --birth-cert idevid.pem --birth-key idevid.key --ca root.pem --san dns:pump-17.example.com\n" +
			"  mooring agent enrol --brski --server https://pki.example.com:8443 --birth-cert idevid.pem --birth-key idevid.key --masa-ca masa.pem",
		Args: needs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return agentError(c.agentEnrol(cmd.Context(), f)) },
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.config.Server, "server", "", "EST server, such as https://pki.example.com:8443 or coaps://pki.example.com:5684, CMP server, such as cmp://pki.example.com:8081, or ACME server, such as acme://pki.example.com:8444 or acme:// and the rest of the address of its directory")
	flags.StringVar(&f.protocol, "protocol", "", protocolUsage)
	flags.StringVar(&f.config.HTTPListen, "http-listen", "", "ACME: where validations of names are answered, such as :80 (default: nowhere, for profiles that trust the account)")
	flags.StringVar(&f.config.Name, "name", "", "name of this device, as it is registered")
	flags.StringVar(&f.tokenFile, "token-file", "", "file that holds the token of this device")
	flags.BoolVar(&f.tokenStdin, "token-stdin", false, "read the token from standard input; at a terminal, ask for it")
	flags.StringVar(&f.token, "token", "", "the token itself; others on this machine can see it, so prefer the two above")
	flags.StringVar(&f.ca, "ca", "", "root certificate that the server's must lead to, PEM")
	flags.StringVar(&f.fingerprint, "fingerprint", "", "SHA-256 of that root, instead of --ca")
	flags.StringVar(&f.config.Label, "label", "", "service of the server, for Mooring the profile (default: the device's own)")
	flags.StringVar(&f.keyType, "key-type", "", "ec-p256, ec-p384, ed25519, rsa-2048, rsa-3072 or rsa-4096 (default: what the server wants, else ec-p256)")
	flags.StringVar(&f.config.Subject, "subject", "", `subject to ask for, such as "O=Acme, CN=car-4711" (default CN=NAME)`)
	flags.StringArrayVar(&f.config.Names, "san", nil, "alternative name to ask for: dns:…, ip:…, uri:… or email:…; may be repeated")
	flags.StringVar(&f.config.User, "user", "", "user name that goes with the token (default NAME)")
	flags.StringVar(&f.birthCert, "birth-cert", "", "certificate from the maker of the device with its chain, PEM")
	flags.StringVar(&f.birthKey, "birth-key", "", "its private key, PEM")
	flags.BoolVar(&f.brski, "brski", false, "believe the server by a voucher of the device's maker (BRSKI, RFC 8995) instead of --ca; --name may be absent then")
	flags.StringVar(&f.masaCA, "masa-ca", "", "with --brski: certificate that signs the maker's vouchers, or the CA above it, PEM")
	flags.BoolVar(&f.again, "again", false, "replace a certificate that has not expired, because it was revoked, say")
	flags.BoolVar(&f.config.KeepKey, "keep-key", false, "renew with the same key instead of a new one")
	flags.BoolVar(&f.config.Bind, "bind", false, "tie requests to their TLS connection even if the server does not ask for it")
	flags.StringVar(&f.wait, "wait", "", "how long to wait for an approval, such as 10m (default: do not wait)")
	return cmd
}

func defaultAgentDir() string {
	if dir := os.Getenv("MOORING_AGENT_DIR"); dir != "" {
		return dir
	}
	home, err := os.UserHomeDir()
	if os.Geteuid() == 0 || err != nil {
		return "/var/lib/mooring-agent"
	}
	return filepath.Join(home, ".mooring-agent")
}

func (c *cli) agentOptions(f *agentFlags) (agent.Options, error) {
	dir, err := filepath.Abs(f.dir) // so that the paths that are shown can be used anywhere
	o := agent.Options{Dir: dir, Now: time.Now}
	if f.exec != "" {
		o.Changed = func(ctx context.Context, files agent.Files) { c.agentExec(ctx, f.exec, files) }
	}
	return o, err
}

func (c *cli) agentOpen(f *agentFlags) (*agent.Agent, error) {
	o, err := c.agentOptions(f)
	if err != nil {
		return nil, err
	}
	return agent.Open(o)
}

func (c *cli) agentEnrol(ctx context.Context, f *agentFlags) (err error) {
	if f.config.Server, err = agentServer(f.protocol, f.config.Server, ""); err != nil {
		return err
	}
	first, err := c.agentFirst(ctx, f)
	if err != nil {
		return err
	}
	wait, err := life("--wait", f.wait)
	if err != nil {
		return err
	}
	o, err := c.agentOptions(f)
	if err != nil {
		return err
	}
	f.config.KeyType = der.KeyKind(f.keyType)
	create := agent.Create
	if f.again {
		create = agent.Replace
	}
	a, err := create(o, f.config)
	if err != nil {
		return err
	}
	if err := c.agentEnrolWithin(ctx, a, first, wait); err != nil {
		return err
	}
	if err := c.agentShow(a); err != nil {
		return err
	}
	c.advise("\nThis device is enrolled. Its certificate must be renewed: leave this running, for example as a service:\n  mooring agent run --dir %s", o.Dir)
	return nil
}

// agentEnrolWithin enrols, and asks again while the server has not decided and there is time left.
func (c *cli) agentEnrolWithin(ctx context.Context, a *agent.Agent, first agent.First, wait time.Duration) error {
	end := time.Now().Add(wait)
	for {
		_, err := a.Enrol(ctx, first)
		var pending *est.PendingError
		if !errors.As(err, &pending) || time.Now().Add(pending.RetryAfter).After(end) {
			return err
		}
		c.advise("The server has taken the request and not decided it yet; asking again in %v.", pending.RetryAfter)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pending.RetryAfter):
		}
		first.Roots, first.Fingerprint = nil, nil // the server is known now, or a voucher is still to come
	}
}

// agentFirst gathers what device and server believe each other by. The token comes last: nobody should have to type one before
// being told that another flag is wrong.
func (c *cli) agentFirst(ctx context.Context, f *agentFlags) (first agent.First, err error) {
	if f.brski {
		return c.agentFirstByVoucher(ctx, f)
	}
	switch {
	case f.masaCA != "":
		return first, usagef("--masa-ca goes with --brski")
	case f.config.Server == "" || f.config.Name == "":
		return first, usagef("mooring agent enrol needs --server and --name")
	case strings.HasPrefix(f.config.Server, "coaps:") && (f.birthCert == "" || f.ca == ""):
		return first, usagef("EST over CoAP takes a certificate of the device and no token: give --birth-cert, --birth-key and --ca, or enrol over https:// and renew over coaps://")
	case strings.HasPrefix(f.config.Server, "cmp:") && f.fingerprint != "":
		return first, usagef("by CMP the server is believed by the token, or by its root: give --ca instead of --fingerprint, or neither")
	case strings.HasPrefix(f.config.Server, "cmp:") && f.ca == "" && f.birthCert != "":
		return first, usagef("give --ca, so that the device can tell its server from others")
	case strings.HasPrefix(f.config.Server, "acme:") && f.fingerprint != "":
		return first, usagef("by ACME the server is believed by its root: give --ca instead of --fingerprint")
	case strings.HasPrefix(f.config.Server, "acme:") && len(f.config.Names) == 0:
		return first, usagef("by ACME names are ordered: give --san at least once, such as --san dns:gw1.example.com")
	case !strings.HasPrefix(f.config.Server, "acme:") && f.config.HTTPListen != "":
		return first, usagef("--http-listen is for ACME, with a server that begins with acme://")
	case !strings.HasPrefix(f.config.Server, "cmp:") && (f.ca == "") == (f.fingerprint == ""):
		return first, usagef("give either --ca or --fingerprint, so that the device can tell its server from others")
	case (f.birthCert == "") != (f.birthKey == ""):
		return first, usagef("--birth-cert and --birth-key belong together")
	}
	if err := f.birthFiles(&first); err != nil {
		return first, err
	}
	if f.ca != "" {
		if first.Roots, err = agent.ReadCertificates(f.ca); err != nil {
			return first, err
		}
	} else if f.fingerprint != "" {
		sum, err := est.ParseFingerprint(f.fingerprint)
		if err != nil {
			return first, usagef("%v", err)
		}
		first.Fingerprint = &sum
	}
	first.Token, err = c.agentToken(ctx, f)
	return first, err
}

// birthFiles fills in where the certificate lies that the device was made with.
func (f *agentFlags) birthFiles(first *agent.First) (err error) {
	if f.birthCert == "" {
		return nil
	}
	if first.CertFile, err = filepath.Abs(f.birthCert); err != nil {
		return err
	}
	first.KeyFile, err = filepath.Abs(f.birthKey)
	return err
}

// agentFirstByVoucher gathers what it takes to be believed by a server, and to believe it by a voucher. Such a device need not know what the server calls it.
func (c *cli) agentFirstByVoucher(ctx context.Context, f *agentFlags) (first agent.First, err error) {
	switch {
	case f.config.Server == "" || f.birthCert == "" || f.birthKey == "" || f.masaCA == "":
		return first, usagef("with --brski give --server, --birth-cert, --birth-key and --masa-ca")
	case f.ca != "" || f.fingerprint != "":
		return first, usagef("with --brski the server is believed by the voucher: take --ca and --fingerprint out")
	case !strings.HasPrefix(f.config.Server, "https://"):
		return first, usagef("with --brski the server begins with https://")
	case f.config.HTTPListen != "":
		return first, usagef("--http-listen is for ACME, with a server that begins with acme://")
	}
	if err := f.birthFiles(&first); err != nil {
		return first, err
	}
	if first.MASA, err = agent.ReadCertificates(f.masaCA); err != nil {
		return first, err
	}
	f.config.CMCRA = true
	if f.config.Name == "" {
		birth, err := agent.ReadCertificates(f.birthCert)
		if err != nil {
			return first, err
		}
		if f.config.Name, err = brski.SerialNumber(birth[0]); err != nil {
			return first, errs.New(errs.Invalid, "%v", err)
		}
		f.config.Nameless = f.config.Subject == ""
	}
	first.Token, err = c.agentToken(ctx, f)
	return first, err
}

// maxToken bounds what is read as a token.
const maxToken = 4 << 10

// agentToken is the token of the device, in whichever way it is given; "" if a birth certificate does without.
func (c *cli) agentToken(ctx context.Context, f *agentFlags) (string, error) {
	given := 0
	for _, is := range []bool{f.token != "", f.tokenFile != "", f.tokenStdin} {
		if is {
			given++
		}
	}
	switch {
	case given > 1:
		return "", usagef("give the token in one way only")
	case given == 0 && f.birthCert != "":
		return "", nil
	case f.token != "":
		fmt.Fprintln(c.err, "mooring: warning: a token on the command line can be seen by others on this machine; use --token-file or --token-stdin")
		return f.token, nil
	case f.tokenFile != "":
		return tokenFile(f.tokenFile)
	case isTerminal(c.in):
		return c.askToken(ctx, f.config.Name)
	case given == 0:
		return "", usagef("give the token of the device by --token-file or --token-stdin, or the certificate of its maker by --birth-cert")
	}
	return readToken(c.in, "standard input")
}

func tokenFile(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", errs.Wrap(errs.Invalid, err, "the token cannot be read from %s", path)
	}
	defer func() { _ = file.Close() }() // only read
	return readToken(file, path)
}

// readToken reads a token to the end of what holds it.
func readToken(from io.Reader, name string) (string, error) {
	data, err := io.ReadAll(io.LimitReader(from, maxToken+1))
	if err != nil {
		return "", errs.Wrap(errs.Invalid, err, "the token cannot be read from %s", name)
	}
	token := strings.TrimSpace(string(data))
	switch {
	case token == "":
		return "", errs.New(errs.Invalid, "%s is empty; it must hold the token", name)
	case len(data) > maxToken || strings.ContainsAny(token, "\r\n"):
		return "", errs.New(errs.Invalid, "%s must hold the token and nothing else: one line of text", name)
	}
	return token, nil
}

// askToken asks the person at the terminal, without showing what is typed. When the command is told to end meanwhile, it leaves
// the terminal as it found it.
func (c *cli) askToken(ctx context.Context, device string) (string, error) {
	terminal := int(c.in.(*os.File).Fd()) // isTerminal has looked
	before, err := term.GetState(terminal)
	if err != nil {
		return "", errs.Wrap(errs.Invalid, err, "the token cannot be read from the terminal")
	}
	fmt.Fprintf(c.err, "Token of %s: ", device)
	typed := make(chan func() (string, error), 1)
	go func() {
		line, err := term.ReadPassword(terminal)
		typed <- func() (string, error) { return strings.TrimSpace(string(line)), err }
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(c.err)
		return "", errors.Join(ctx.Err(), term.Restore(terminal, before))
	case answer := <-typed:
		fmt.Fprintln(c.err)
		token, err := answer()
		if err != nil && !errors.Is(err, io.EOF) {
			return "", errs.Wrap(errs.Invalid, err, "the token cannot be read from the terminal")
		}
		if token == "" {
			return "", errs.New(errs.Invalid, "no token was typed; \"mooring device token %s\" on the server gives one", device)
		}
		return token, nil
	}
}

func (c *cli) agentRenew(ctx context.Context, f *agentFlags) error {
	a, err := c.agentOpen(f)
	if err != nil {
		return err
	}
	server, err := agentServer(f.protocol, f.config.Server, a.Config().Server)
	if err != nil {
		return err
	}
	if _, err := a.By(server).RenewNow(ctx); err != nil {
		return err
	}
	if err := c.agentShow(a); err != nil {
		return err
	}
	c.advise("\nThe certificate is renewed. Programs that read it only when they start must be started again.")
	return nil
}

func (c *cli) agentRun(ctx context.Context, f *agentFlags) error {
	o, err := c.agentOptions(f)
	if err != nil {
		return err
	}
	o.Log = slog.New(slog.NewTextHandler(c.err, nil))
	if c.json {
		o.Log = slog.New(slog.NewJSONHandler(c.err, nil))
	}
	a, err := agent.Open(o)
	if err != nil {
		return err
	}
	due, err := a.Due()
	if err != nil {
		return err
	}
	o.Log.LogAttrs(ctx, slog.LevelInfo, "agent started", slog.String("dir", o.Dir), slog.Time("due", due))
	err = a.Run(ctx)
	o.Log.LogAttrs(ctx, slog.LevelInfo, "agent ended")
	return err
}

func (c *cli) agentStatus(f *agentFlags) error {
	a, err := c.agentOpen(f)
	if err != nil {
		return err
	}
	return c.agentShow(a)
}

// agentShow prints the status of an agent.
func (c *cli) agentShow(a *agent.Agent) error {
	s, err := a.Status()
	if err != nil {
		return err
	}
	return c.show(s, func(w io.Writer) {
		now := time.Now()
		fact(w, "Device", s.Name)
		fact(w, "Condition", string(s.Condition))
		fact(w, "Server", s.Server)
		fact(w, "Label", s.Label)
		fact(w, "Subject", s.Subject)
		fact(w, "Issuer", s.Issuer)
		fact(w, "Serial", s.Serial)
		fact(w, "SHA-256", s.Fingerprint)
		fact(w, "Key type", s.KeyType)
		fact(w, "Valid until", within(s.NotAfter, now))
		fact(w, "Renewal", within(s.RenewAt, now))
		fact(w, "  asked for by", s.RenewalAsked)
		fact(w, "  for a key of", s.NextKeyType)
		if !s.NextAttempt.Equal(s.RenewAt) {
			fact(w, "Next attempt", within(s.NextAttempt, now))
		}
		if s.LastError != "" {
			fact(w, "Failures", fmt.Sprintf("%d, the last %s", s.Failures, within(s.LastErrorAt, now)))
			fact(w, "Last error", s.LastError)
		}
		fact(w, "Key", s.Files.Key)
		fact(w, "Certificate", s.Files.Certificate)
		fact(w, "With chain", s.Files.Chain)
		fact(w, "Roots", s.Files.CA)
	})
}

// agentError gives an error of the agent its exit code.
func agentError(err error) error {
	var pending *est.PendingError
	var refused *est.RefusedError
	var silent *est.UnreachableError
	var u usage
	switch {
	case err == nil || errors.As(err, &u) || errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &pending):
		return errs.New(errs.Unavailable, "%v.\nIf somebody has to approve this device, let that be done; \"mooring agent run\" waits for it", err)
	case errors.As(err, &refused):
		kind := errs.Invalid
		switch {
		case refused.Temporary():
			kind = errs.Unavailable
		case refused.Status == http.StatusUnauthorized || refused.Status == http.StatusForbidden:
			kind = errs.Denied
		}
		return errs.New(kind, "%v", err)
	case errors.As(err, &silent):
		return errs.New(errs.Unavailable, "%v", err)
	case errors.Is(err, agent.ErrNotEnrolled):
		return errs.New(errs.NotFound, "%v", err)
	case errors.Is(err, agent.ErrEnrolled):
		return errs.New(errs.Conflict, "%v", err)
	case errors.Is(err, agent.ErrBusy):
		return errs.New(errs.Unavailable, "%v", err)
	case errors.Is(err, fs.ErrPermission):
		return errs.New(errs.Denied, "%v", err)
	case errs.KindOf(err) != errs.Internal:
		return err
	}
	return errs.New(errs.Invalid, "%v", err)
}
