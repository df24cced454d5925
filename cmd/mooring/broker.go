package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mooring/internal/base/errs"
	"mooring/internal/provider/broker/crlfile"
)

const brokerAgentHelp = `Keeps the file of revocation lists from which an MQTT broker of others knows whose certificates were revoked, such as mosquitto's
crlfile. It runs on the broker's machine, asks the status listener at each --crl-url every minute, and has the broker read the file when it has changed.

A list is taken only if one of the CAs in --issuers signed it, it is valid now and not older than the one before, because a broker refuses everybody
when a list in its file is over. What cannot be fetched stays as it was. When less than a third of a list's time is left, the agent says so each minute, as
an error: somebody must act, or all devices are locked out.

The lists of a CA with shards, as that for devices is, are those at /crl/ISSUER/N.crl of the status listener: write [0-255] for N to have all of them. Its complete
list at /crl/ISSUER.crl is hours behind. The certificates of the CAs are at /ca/ISSUER.pem. Everything is signed by itself, so that
plain HTTP is no danger; fetch --issuers once, in a way that you trust.

The broker reads the file when it gets SIGHUP, which --pid-file sends, or by --reload, a command with its arguments between blanks, which is run without a
shell. With --once the agent does this once, for a timer, and ends with exit code 5 if there is an alarm or a failure.`

// brokerFlags are those of the agent of brokers.
type brokerFlags struct {
	urls                          []string
	issuers, out, pidFile, reload string
	every                         time.Duration
	once                          bool
}

func (c *cli) brokerAgentCommand() *cobra.Command {
	f := new(brokerFlags)
	cmd := &cobra.Command{
		Use: "broker-agent", Short: "Keep the revocation lists of an MQTT broker of others (daemon)", Long: brokerAgentHelp,
		Example: "  mooring broker-agent --crl-url \"http://pki.example.com:8080/crl/devices/[0-255].crl\" --issuers /etc/mosquitto/issuers.pem --out /etc/mosquitto/devices.crl --pid-file /run/mosquitto/mosquitto.pid",
		Args:    needs(),
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.brokerAgent(cmd.Context(), f) },
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringArrayVar(&f.urls, "crl-url", nil, "address of a revocation list, or of several as …/[0-255].crl; may be given several times")
	flags.StringVar(&f.issuers, "issuers", "", "certificates of the CAs that sign the lists, PEM")
	flags.StringVar(&f.out, "out", "", "the file that the broker reads")
	flags.StringVar(&f.pidFile, "pid-file", "", "file with the number of the process that gets SIGHUP")
	flags.StringVar(&f.reload, "reload", "", "command that has the broker read the file")
	flags.DurationVar(&f.every, "every", time.Minute, "how often the lists are asked for")
	flags.BoolVar(&f.once, "once", false, "do it once and end")
	return cmd
}

func (c *cli) brokerAgent(ctx context.Context, f *brokerFlags) error {
	if len(f.urls) == 0 || f.issuers == "" || f.out == "" {
		return usagef("mooring broker-agent needs --crl-url, --issuers and --out: see mooring broker-agent --help")
	}
	if f.pidFile != "" && f.reload != "" {
		return usagef("give --pid-file or --reload, not both")
	}
	var urls []string
	for _, u := range f.urls {
		some, err := crlfile.Expand(u)
		if err != nil {
			return err
		}
		urls = append(urls, some...)
	}
	issuers, err := issuersIn(f.issuers)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(c.err, nil))
	if c.json {
		log = slog.New(slog.NewJSONHandler(c.err, nil))
	}
	k, err := crlfile.New(crlfile.Options{URLs: urls, Issuers: issuers, Path: f.out, Reload: f.reloader(), Every: f.every, Now: time.Now, Log: log,
		Client: &http.Client{Timeout: 30 * time.Second}})
	if err != nil {
		return err
	}
	if !f.once {
		return k.Run(ctx)
	}
	alarms, err := k.Round(ctx)
	if err != nil {
		return errs.Wrap(errs.Unavailable, err, "%v", err)
	}
	for _, a := range alarms {
		return errs.New(errs.Unavailable, "the list of %s is over in %v, and then the broker refuses everybody: see why its CA signs no new one", a.URL, a.Left.Round(time.Second))
	}
	return c.show(struct {
		File string `json:"file"`
	}{f.out}, func(w io.Writer) { fact(w, "The lists are in", f.out) })
}

// reloader is how the broker is had to read the file; nil = not at all.
func (f *brokerFlags) reloader() func(context.Context) error {
	switch words := strings.Fields(f.reload); {
	case f.pidFile != "":
		return crlfile.Hangup(f.pidFile)
	case len(words) > 0:
		return crlfile.Command(words...)
	}
	return nil
}

// certificates reads all certificates of a file.
func issuersIn(path string) (list []*x509.Certificate, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, errs.Wrap(errs.NotFound, err, "the file %s cannot be read", path)
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		one, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, errs.Wrap(errs.Invalid, err, "a certificate in %s cannot be parsed", path)
		}
		list = append(list, one)
	}
	if len(list) == 0 {
		return nil, errs.New(errs.Invalid, "%s holds no certificates in PEM: fetch them from /ca/ISSUER.pem of the status listener", path)
	}
	return list, nil
}
