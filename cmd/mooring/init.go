package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"mooring/internal/app"
	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
)

const initHelp = `Makes an installation in the data directory: the configuration, the encrypted key store, the profiles, a root CA with issuing
CAs for devices, services, operators and birth certificates, and the first operator's certificate. It then tells what to do next.

--offline-root makes no root but requests for the CAs, which a root on another machine signs (mooring ca root); the first operator's certificate is
made when they are imported.

Nothing that exists is overwritten: the directory must be empty or not there. If anything fails, what was made is removed again.

--host names the server as devices and operators will reach it; the first one also goes into the addresses that devices are told.
--unlock says where the secret comes from that unlocks the key store: "file:PATH" (made if missing; by default keys/unlock in the data
directory), "fd:N", or "prompt" to type it at each start.

--custody pkcs11 makes the keys of all CAs in a token, which --pkcs11-module, --pkcs11-token and --pkcs11-pin-file describe. The key store
is there all the same, for everything else that is secret. The program must be built for tokens; see doc/keys.md.

Afterwards: keep operator/key.pem safe, for it is the administrator. Give root.pem to devices. Give audit.vkey to whoever is to
check the audit record. Keep a copy of the whole directory where this machine cannot reach it.`

const initExample = `  mooring init
  mooring init --dir /var/lib/mooring --name "Acme Vehicles" --host pki.example.com --host 192.0.2.7 --listen 0.0.0.0
  mooring init --database postgres://mooring@db.example.com/mooring --password-file /etc/mooring/db --unlock prompt`

// auditKeyFile holds the public key of the audit record, in the data directory.
const auditKeyFile = "audit.vkey"

// initFlags are the decisions that are hard to change later.
type initFlags struct {
	name, listen, database, password, unlock, operator string
	offlineRoot                                        bool
	custody, module, token, pinFile                    string
	hosts                                              []string
}

func (c *cli) initCommand() *cobra.Command {
	var f initFlags
	cmd := &cobra.Command{
		Use: "init", Short: "Make an installation", Long: initHelp, Example: initExample,
		Args: needs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return c.init(cmd.Context(), f) },
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.name, "name", "", "the organisation, as shown in CA certificates (default Mooring)")
	flags.StringArrayVar(&f.hosts, "host", nil, "DNS name or IP address of the server; may be repeated (default localhost)")
	flags.StringVar(&f.listen, "listen", "", "IP address to listen on (default 127.0.0.1, this machine only)")
	flags.StringVar(&f.database, "database", "", "address of a PostgreSQL database (default a file in the data directory)")
	flags.StringVar(&f.password, "password-file", "", "file with the password of the database")
	flags.StringVar(&f.unlock, "unlock", "", "what unlocks the keys: file:PATH, fd:N or prompt")
	flags.StringVar(&f.custody, "custody", "", "where keys of CAs are kept: file, or pkcs11 for a token (default file)")
	flags.StringVar(&f.module, "pkcs11-module", "", "the token's PKCS #11 module, a shared library")
	flags.StringVar(&f.token, "pkcs11-token", "", "the token's label or serial number")
	flags.StringVar(&f.pinFile, "pkcs11-pin-file", "", "file with the token's user PIN, readable by its owner only")
	flags.StringVar(&f.operator, "operator", "admin", "name of the first operator in the registry")
	flags.BoolVar(&f.offlineRoot, "offline-root", false, "make no root: have an offline root certify the CAs")
	return cmd
}

// config is the configuration that the flags ask for.
func (f initFlags) config() (*conf.Config, error) {
	k := conf.Default()
	set := func(field *string, value string) {
		if value != "" {
			*field = value
		}
	}
	set(&k.Name, f.name)
	set(&k.Database.URL, f.database)
	if f.password != "" {
		// The configuration reads paths from the data directory on; a person types them from where they are.
		absolute, err := filepath.Abs(f.password)
		if err != nil {
			return nil, usagef("--password-file: %v", err)
		}
		k.Database.PasswordFile = absolute
	}
	set(&k.Keys.Unlock, f.unlock)
	set(&k.Keys.Custody, f.custody)
	set(&k.Keys.PKCS11.Module, f.module)
	set(&k.Keys.PKCS11.Token, f.token)
	if f.pinFile != "" {
		var err error
		if k.Keys.PKCS11.PINFile, err = filepath.Abs(f.pinFile); err != nil { // not in the data directory, which is yet to be made
			return nil, usagef("--pkcs11-pin-file: %v", err)
		}
	}
	if len(f.hosts) > 0 {
		k.Names = f.hosts
	}
	if f.listen != "" {
		for _, field := range []*string{&k.Listen.EST, &k.Listen.API, &k.Listen.Status} {
			_, port, err := net.SplitHostPort(*field)
			if err != nil {
				return nil, err
			}
			*field = net.JoinHostPort(f.listen, port)
		}
	}
	if _, err := conf.Parse(conf.FileName, k.Write()); err != nil {
		return nil, usagef("these flags would make a wrong configuration: %s", errs.Public(err))
	}
	return k, nil
}

func (c *cli) init(ctx context.Context, f initFlags) error {
	k, err := f.config()
	if err != nil {
		return err
	}
	r, err := app.Init(ctx, app.InitOptions{Dir: c.dir, Config: k, Prompt: c.promptTwice, Operator: f.operator, OfflineRoot: f.offlineRoot})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(r.Dir, auditKeyFile), []byte(r.AuditKey+"\n"), 0o644); err != nil {
		return errs.Wrap(errs.Unavailable, err, "the installation is made, but %s cannot be written; put this line into it: %s", auditKeyFile, r.AuditKey)
	}
	return c.show(r, func(w io.Writer) {
		fact(w, "Installation", r.Dir)
		fact(w, "Configuration", r.Config)
		fact(w, "Profiles", r.Profiles)
		fact(w, "Keys unlocked by", orNone(r.Unlock))
		if f.offlineRoot {
			requestFacts(w, r)
		} else {
			fact(w, "Root certificate", r.Root)
			fact(w, "  its SHA-256", r.Fingerprint)
			fact(w, "Operator", r.Operator)
		}
		fact(w, "Audit key", r.AuditKey)
		switch {
		case c.quiet:
		case f.offlineRoot:
			fmt.Fprint(w, offlineSteps(r, k))
		default:
			fmt.Fprint(w, nextSteps(r, k))
		}
	})
}

// nextSteps leads from an installation to the first device.
func nextSteps(r app.InitResult, k *conf.Config) string {
	return fmt.Sprintf(`
Next:
  1. Start the server:
       mooring serve --dir %[1]s
  2. Register a first device and get its token, in another window:
       mooring device add sensor-1 --profile device --token --dir %[1]s
  3. Enrol it, on the device, with that token:
%[2]s
`, r.Dir, enrolSteps("sensor-1", r.Root, k.ESTURL()))
}

// requestFacts tells what is to be signed.
func requestFacts(w io.Writer, r app.InitResult) {
	for _, q := range r.Requests {
		fact(w, "Request", q.File)
		fact(w, "  SHA-256 of its key", keyDigest(q.Key))
	}
}

// offlineSteps lead to the ceremony at the offline root and back.
func offlineSteps(r app.InitResult, k *conf.Config) string {
	return fmt.Sprintf(`
Next:
  1. Carry %[1]s to the machine of the offline root; doc/ceremony.md walks through the ceremony. There:
       mooring ca root create --root root --subject "CN=%[3]s Root G1,O=%[3]s" --status-url %[4]s -o root.pem
       mooring ca root sign devices.csr --root root -o devices.pem          and the same for the others
       mooring ca root crl --root root -o root.crl
       mooring ca root record --root root -o ceremony.txt
  2. Start the server here. It answers on its socket alone until it has its CAs:
       mooring serve --dir %[2]s
  3. Carry the files back, and import:
       mooring ca import --name devices --chain devices.pem --chain root.pem --record ceremony.txt --dir %[2]s
       mooring ca import --name services --chain services.pem --dir %[2]s   and the same for the others
       mooring ca import-crl root.crl --dir %[2]s
`, filepath.Dir(r.Requests[0].File), r.Dir, k.Name, k.StatusURL())
}

// enrolSteps are the commands by which a device enrols: with the agent, or with nothing but OpenSSL and curl. Both ask for the token, so that it
// stands neither in the shell's history nor in the list of processes.
func enrolSteps(name, root, address string) string {
	return fmt.Sprintf(`       mooring agent enrol --server %[3]s --name %[2]s --ca %[1]s --token-stdin
     or without any program of ours:
       openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -subj /CN=%[2]s -outform DER |
         openssl base64 > request.b64
       rm -f answer.b64; curl -sS --fail-with-body --cacert %[1]s -u %[2]s -H "Content-Type: application/pkcs10" \
         --data-binary @request.b64 -o answer.b64 %[3]s/.well-known/est/simpleenroll &&
       openssl base64 -d -in answer.b64 | openssl pkcs7 -inform DER -print_certs -out cert.pem ||
       cat answer.b64  # which says what is wrong; if there is none, curl -v does`, quoted(root), quoted(name), address)
}
