//go:build interop

package interop

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mooring/internal/provider/reach/reachtest"
)

// startACME makes an installation that serves ACME and validates in a network of this machine, in which names resolve to the site's host.
func startACME(t *testing.T, database string, names ...string) *site {
	t.Helper()
	for _, program := range []string{"certbot", "dehydrated"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("these tests need %s (Debian: certbot dehydrated): %v", program, err)
		}
	}
	n := reachtest.Start(t)
	s := newSite(t)
	for _, name := range names {
		n.Name(name, s.env["HOST"])
	}
	s.env["RESOLVER"], s.env["D"] = n.Resolver, "https://"+s.env["HOST"]+":8444/acme/directory"
	s.sh(t, `mooring init -q --name Acme `+s.initFlags(database)+`
sed -i "0,/^  # acme: \"\"/s||  acme: \"$HOST:8444\"|; s|^  # allow: .*|  allow: [\"127.0.0.0/8\"]|; s|^  # resolver: .*|  resolver: \"$RESOLVER\"|
s|^  # http_port: .*|  http_port: 5002|; s|^  # tls_port: .*|  tls_port: 5001|" d/mooring.yaml
sed -i 's|^evidence: .*|evidence: [token, operational, account]|' d/profiles/gateway.yaml
sed 's|^name: .*|name: trusted|; s|^evidence: .*|evidence: [account]\nacme: trust-account|; s|^validity: .*|validity: 6d|; s|^renew_before: .*|renew_before: 2d|' d/profiles/gateway.yaml > d/profiles/trusted.yaml
mooring profile lint d/profiles/*.yaml`)
	s.serve(t)
	s.sh(t, `mooring ca export --root -o root.pem; curl -sSf --cacert root.pem "$D"`)
	return s
}

// bindingKey is a token as an ACME client wants it: kid and HMAC key come from the command.
func (s *site) bindingKey(t *testing.T, name, profile, dns string) string {
	t.Helper()
	s.device(t, name, profile, "--dns", dns)
	out := s.sh(t, `mooring device token "$NAME" --acme -q`, "NAME="+name)
	kid, key, ok := strings.Cut(strings.TrimSpace(out), " ")
	if !ok || kid != name {
		t.Fatalf("mooring device token --acme printed %q", out)
	}
	return key
}

// useCertificate makes a TLS connection with a key and certificate chain that a client has obtained, and lints the certificate.
func (s *site) useCertificate(t *testing.T, key, chain, name string) {
	t.Helper()
	out := s.sh(t, `port=$((20000 + RANDOM % 20000))
openssl s_server -accept "$HOST:$port" -cert "$CHAIN" -cert_chain "$CHAIN" -key "$KEY" -quiet -naccept 1 </dev/null >/dev/null 2>&1 &
for i in $(seq 200); do
	if openssl s_client -connect "$HOST:$port" -CAfile root.pem -servername "$NAME" -verify_hostname "$NAME" -verify_return_error </dev/null > shake 2>&1; then break; fi
	grep -q refused shake || { cat shake; exit 1; }
	sleep 0.05
done
wait || true
openssl verify -x509_strict -CAfile root.pem -untrusted "$CHAIN" "$CHAIN"
grep "Verify return code" shake
openssl x509 -in "$CHAIN" -outform DER -out leaf.der`, "KEY="+key, "CHAIN="+chain, "NAME="+name)
	if !strings.Contains(out, "Verify return code: 0 (ok)") {
		t.Errorf("the handshake with the certificate of %s: %s", name, out)
	}
	lintCertificate(t, s.read(t, "leaf.der"))
}

// TestInteropACMEPage does what doc/acme.md says, with certbot, dehydrated and the agent.
func TestInteropACMEPage(t *testing.T) {
	engines(t, func(t *testing.T, database string) {
		s := newSite(t)
		s.env["ACME"] = "https://" + s.env["HOST"] + ":8444/acme/directory"
		s.followWith(t, database, "../doc/acme.md", 6, "127.0.0.1:8444", s.env["HOST"]+":8444")
	})
}

func TestInteropACME(t *testing.T) {
	engines(t, func(t *testing.T, database string) {
		s := startACME(t, database, "certbot.example.test", "plain.example.test", "dehydrated.example.test", "caddy.example.test", "agent.example.test")
		t.Run("certbot", func(t *testing.T) { certbot(t, s) })
		t.Run("dehydrated", func(t *testing.T) { dehydrated(t, s) })
		t.Run("caddy", func(t *testing.T) { caddy(t, s) })
		t.Run("agent", func(t *testing.T) { acmeAgent(t, s) })
		s.sh(t, `mooring acme account list; mooring acme order list --account "$(mooring acme account list --json | grep -o '"id": *"[0-9a-f]*"' | head -1 | cut -d'"' -f4)"`)
		if out := s.sh(t, `mooring audit verify`); !strings.Contains(out, "verified") && !strings.Contains(out, "fits") {
			t.Logf("audit verify: %s", out)
		}
	})
}

// certbot enrols with http-01 and an external account binding, renews, and revokes.
func certbot(t *testing.T, s *site) {
	key := s.bindingKey(t, "certbot.example.test", "gateway", "certbot.example.test") // it renews for the common name, too
	const common = `export REQUESTS_CA_BUNDLE=$PWD/root.pem
certbot_() { certbot "$@" --server "$D" --config-dir c --work-dir w --logs-dir l -n; }
`
	s.sh(t, common+`certbot_ certonly --standalone --preferred-challenges http --http-01-port 5002 --http-01-address "$HOST" -d certbot.example.test \
	--register-unsafely-without-email --agree-tos --eab-kid certbot.example.test --eab-hmac-key "$KEY"`, "KEY="+key)
	s.useCertificate(t, "c/live/certbot.example.test/privkey.pem", "c/live/certbot.example.test/fullchain.pem", "certbot.example.test")
	s.sh(t, common+`cp -L c/live/certbot.example.test/cert.pem first.pem
certbot_ renew --force-renewal --no-random-sleep-on-renew --http-01-port 5002 --http-01-address "$HOST"
! cmp -s first.pem c/live/certbot.example.test/cert.pem
certbot_ revoke --cert-name certbot.example.test --reason superseded --no-delete-after-revoke
mooring cert show "$(openssl x509 -in c/live/certbot.example.test/cert.pem -noout -serial | cut -d= -f2)" | grep -i superseded`)
}

// dehydrated enrols with http-01 and a binding.
func dehydrated(t *testing.T, s *site) {
	key := s.bindingKey(t, "gw-dehydrated", "gateway", "dehydrated.example.test")
	web := filepath.Join(s.dir, "www")
	if err := os.MkdirAll(web, 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", net.JoinHostPort(s.env["HOST"], "5002"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.StripPrefix("/.well-known/acme-challenge/", http.FileServer(http.Dir(web)))}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	defer func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()
	s.sh(t, `cat > dehydrated.conf <<END
CA="$D"
BASEDIR="$PWD/dh"
CHALLENGETYPE=http-01
WELLKNOWN="$PWD/www"
CURL_OPTS="--cacert $PWD/root.pem"
EAB_KID=gw-dehydrated
EAB_HMAC_KEY=$KEY
KEY_ALGO=prime256v1
END
mkdir -p dh
dehydrated -f dehydrated.conf --register --accept-terms
dehydrated -f dehydrated.conf -c -d dehydrated.example.test`, "KEY="+key)
	s.useCertificate(t, "dh/certs/dehydrated.example.test/privkey.pem", "dh/certs/dehydrated.example.test/fullchain.pem", "dehydrated.example.test")
}

// caddy obtains a certificate of a profile, asks for renewal information by itself, and serves with what it got.
func caddy(t *testing.T, s *site) {
	program, err := exec.LookPath("caddy")
	if err == nil {
		version, runErr := exec.Command(program, "version").Output()
		if err = runErr; err == nil && !strings.HasPrefix(string(version), "v2.11.") {
			err = fmt.Errorf("the machine's is %s", version)
		}
	}
	if err != nil { // Debian has an old one only
		program = filepath.Join(s.dir, "caddy-program", "caddy")
		s.sh(t, `HOME=$(getent passwd "$(id -u)" | cut -d: -f6) CGO_ENABLED=0 GOBIN=$PWD/caddy-program go install github.com/caddyserver/caddy/v2/cmd/caddy@v2.11.9`)
	}
	key := s.bindingKey(t, "gw-caddy", "trusted", "caddy.example.test")
	before := len(s.read(t, serveLog))
	s.write(t, "Caddyfile", `{
	admin off
	storage file_system `+filepath.Join(s.dir, "caddy")+`
	http_port 5002
	https_port 5001
	default_bind `+s.env["HOST"]+`
	log {
		output file `+filepath.Join(s.dir, "caddy.log")+`
		level DEBUG
	}
	cert_issuer acme {
		dir `+s.env["D"]+`
		trusted_roots `+filepath.Join(s.dir, "root.pem")+`
		profile trusted
		eab gw-caddy `+key+`
	}
}
https://caddy.example.test {
	respond "moored"
}
`)
	cmd := exec.Command(program, "run", "--config", "Caddyfile")
	cmd.Dir = s.dir
	cmd.Env = append(s.environ(), "XDG_DATA_HOME="+s.dir, "XDG_CONFIG_HOME="+s.dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait() // it was asked to end
	}()
	out, err := s.try(t, `for i in $(seq 600); do
	if curl -sSf --cacert root.pem --resolve "caddy.example.test:5001:$HOST" https://caddy.example.test:5001/ 2>curl.err; then exit 0; fi
	sleep 0.1
done; cat curl.err caddy.log; exit 1`)
	if err != nil || !strings.Contains(out, "moored") {
		t.Fatalf("caddy does not serve with a certificate of ours: %v\n%s", err, out)
	}
	// The certificate is of the profile that was asked for, and the server was asked when to renew it, and said so.
	s.sh(t, `openssl s_client -connect "$HOST:5001" -servername caddy.example.test -CAfile root.pem -verify_return_error </dev/null 2>/dev/null | openssl x509 -out caddy.pem
openssl x509 -in caddy.pem -noout -checkend $((7*86400)) && exit 1
for i in $(seq 300); do
	if tail -c "+$BEFORE" `+serveLog+` | grep -q 'surface=acme method=GET route=/acme/renewal-info/{id} status=200'; then exit 0; fi
	sleep 0.1
done
cat caddy.log; exit 1`, fmt.Sprint("BEFORE=", before+1))
}

// acmeAgent enrols with our own agent, by http-01 and with a profile that trusts its account.
func acmeAgent(t *testing.T, s *site) {
	token := s.device(t, "gw-agent", "gateway", "--dns", "agent.example.test")
	s.sh(t, `printf %s "$TOKEN" > token
mooring agent enrol --dir agent --server "acme://$HOST:8444" --ca root.pem --name gw-agent --token-file token --san dns:agent.example.test --http-listen "$HOST:5002"`, "TOKEN="+token)
	s.useCertificate(t, "agent/current/key.pem", "agent/current/chain.pem", "agent.example.test")
	s.sh(t, `cp agent/current/cert.pem before.pem
mooring agent renew --dir agent
! cmp -s before.pem agent/current/cert.pem`)
	s.useCertificate(t, "agent/current/key.pem", "agent/current/chain.pem", "agent.example.test")
}
