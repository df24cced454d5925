//go:build interop

package interop

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const ceremonyPage = "../doc/ceremony.md"

// TestInteropCeremony does what doc/ceremony.md says. The blocks at the root, which are called root-…, run in a network namespace of their own, in
// which there is no interface but a loopback that is down; where the system permits no such namespaces, they run under strace, and no
// socket may be opened.
func TestInteropCeremony(t *testing.T) {
	blocks, settings := readPage(t, ceremonyPage, 14)
	cage := newCage(t)
	engines(t, func(t *testing.T, database string) {
		s := newSite(t)
		for _, name := range []string{"STICK", "VAULT", "SAFE"} {
			s.env[name] = t.TempDir()
		}
		s.env["STATE"] = filepath.Join(t.TempDir(), "state")
		s.env["STATUS"] = "http://" + s.env["HOST"] + ":8080"
		s.env["UNLOCK"], s.env["CONFIRM"] = "file:"+filepath.Join(s.env["VAULT"], "passphrase"), "--yes"
		if err := os.WriteFile(filepath.Join(s.env["VAULT"], "passphrase"), []byte("six words of Alice and six of Bob\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, b := range blocks {
			script := b.script
			if b.name == "install" {
				script = strings.Replace(script, `mooring init --host "$HOST"`, "mooring init "+s.initFlags(database), 1)
			}
			if b.name == "import" {
				s.serve(t)
			}
			ok := t.Run(b.name, func(t *testing.T) {
				if strings.HasPrefix(b.name, "root-") {
					b.check(t, cage.paste(t, s, script))
					return
				}
				b.check(t, s.paste(t, script))
			})
			if !ok {
				t.FailNow() // each block builds on those before it
			}
		}
		for _, name := range settings {
			if _, ok := s.env[name]; !ok {
				t.Errorf("the page sets %s, which the test does not", name)
			}
		}
	})
}

// cage keeps commands from the network.
type cage struct{ namespaces bool }

func newCage(t *testing.T) cage {
	t.Helper()
	if err := exec.Command("unshare", "--map-root-user", "--net", "true").Run(); err == nil {
		t.Log("the root's blocks run in network namespaces without an interface")
		return cage{true}
	}
	if _, err := exec.LookPath("strace"); err != nil {
		t.Fatal("this system permits no network namespaces, and strace, which would show sockets, is missing")
	}
	t.Log("this system permits no network namespaces: strace looks for sockets instead")
	return cage{}
}

// paste is the site's, without network.
func (c cage) paste(t *testing.T, s *site, script string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "block")
	text := `if [ -e "$STATE" ]; then . "$STATE"; fi
set -a
trap '{ export -p; declare -f; } > "$STATE"' EXIT
` + script
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if c.namespaces {
		// That there is no way out is tried first.
		return s.sh(t, `unshare --map-root-user --net bash -euo pipefail -c '! (exec 3<>/dev/tcp/127.0.0.1/9) 2>/dev/null
[ "$(grep -c : /proc/net/dev)" = 1 ]
. "$0"' `+file)
	}
	trace := filepath.Join(t.TempDir(), "trace")
	out := s.sh(t, `strace -f -e trace=socket -o `+trace+` bash -euo pipefail `+file)
	seen, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(seen)) {
		if strings.Contains(line, "AF_INET") {
			t.Errorf("a socket was opened at the root: %s", line)
		}
	}
	return out
}

// TestInteropRootInToken makes an offline root whose key never leaves a token of SoftHSM, and signs with it.
func TestInteropRootInToken(t *testing.T) {
	s := newSite(t)
	s.env["SOFTHSM2_CONF"] = filepath.Join(s.dir, "softhsm2.conf")
	s.write(t, "softhsm2.conf", "directories.tokendir = "+filepath.Join(s.dir, "tokens")+"\nobjectstore.backend = file\n")
	s.write(t, "pin", "12345678\n")
	out := s.sh(t, `mkdir tokens
softhsm2-util --init-token --free --label root-g1 --so-pin 87654321 --pin 12345678
MODULE=$(ls /usr/lib*/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so 2>/dev/null | head -1)
mooring init -q --offline-root --name Acme
root() { mooring-pkcs11 ca root "$@" --root g1 --unlock file:pin --by Alice; }
root create --subject "CN=Acme Root G1,O=Acme" --token "pkcs11:token=root-g1?module-path=$MODULE" -o root.pem
root sign d/requests/devices.csr --yes -o devices.pem
root crl -o root.crl
root record --verify
ls g1
openssl verify -x509_strict -crl_check_all -CRLfile root.crl -CAfile root.pem devices.pem`)
	if !strings.Contains(out, "WHOLE") || strings.Contains(out, "\nkeys\n") {
		t.Errorf("a root in a token: %s", out)
	}
	s.write(t, "pin", "00000000\n")
	if out, err := s.try(t, `mooring-pkcs11 ca root crl --root g1 --unlock file:pin`); err == nil || !strings.Contains(out, "refuses the PIN") {
		t.Errorf("a wrong PIN: %s", out)
	}
	s.write(t, "pin", "12345678\n")
	if out, err := s.try(t, `mv tokens away; mooring-pkcs11 ca root crl --root g1 --unlock file:pin`); err == nil {
		t.Errorf("without the token: %s", out)
	}
	if out := s.sh(t, `mv away tokens; mooring-pkcs11 ca root crl --root g1 --unlock file:pin -o again.crl`); !strings.Contains(out, "revocation list") {
		t.Errorf("with the token again: %s", out)
	}
}
