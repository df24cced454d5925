//go:build interop

package interop

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
)

// tokenProgram is our program, built for tokens.
const tokenProgram = "mooring-pkcs11"

// startToken makes an installation whose CAs have their keys in a SoftHSM token, and runs its server.
func startToken(t *testing.T, database string) (s *site, stop func()) {
	t.Helper()
	s = newSite(t)
	s.program = tokenProgram
	s.env["SOFTHSM2_CONF"] = filepath.Join(s.dir, "softhsm2.conf")
	s.write(t, "softhsm2.conf", "directories.tokendir = "+filepath.Join(s.dir, "tokens")+"\nobjectstore.backend = file\n")
	s.write(t, "pin", "correct-horse\n")
	modules, err := filepath.Glob("/usr/lib*/softhsm/libsofthsm2.so")
	if more, err := filepath.Glob("/usr/lib/*/softhsm/libsofthsm2.so"); err == nil {
		modules = append(modules, more...)
	}
	if err != nil || len(modules) == 0 {
		t.Fatalf("these tests need the module libsofthsm2.so (Debian: softhsm2): %v", err)
	}
	s.env["MODULE"] = modules[0]
	s.sh(t, `mkdir tokens
softhsm2-util --init-token --free --label fleet --so-pin 12345678 --pin correct-horse
mooring-pkcs11 init -q --name Acme --custody pkcs11 --pkcs11-module "$MODULE" --pkcs11-token fleet --pkcs11-pin-file pin `+s.initFlags(database))
	stop = s.serve(t)
	s.sh(t, `mooring ca export --root -o root.pem
curl -sSf --cacert root.pem "$EST/.well-known/est/cacerts" | openssl base64 -d | openssl pkcs7 -inform DER -print_certs -out cas.pem`)
	return s, stop
}

// TestInteropToken takes the way of a device, from its enrolment to the revocation of its certificate, with the keys of all CAs in a token.
func TestInteropToken(t *testing.T) {
	engines(t, func(t *testing.T, database string) {
		s, stop := startToken(t, database)
		s.enrol(t, "good", "device", p256)
		s.enrol(t, "bad", "device", p256)
		s.sh(t, `mooring cert revoke "$(openssl x509 -in bad.pem -noout -serial | sed 's/.*=//')" --reason keyCompromise`)
		t.Run("status", func(t *testing.T) {
			out := s.sh(t, fetched+`openssl verify -x509_strict -crl_check -CRLfile crl.pem -CAfile root.pem -untrusted cas.pem good.pem
openssl ocsp -issuer issuer.pem -url "$OCSP" -CAfile root.pem -no_nonce -cert good.pem
openssl ocsp -issuer issuer.pem -url "$OCSP" -CAfile root.pem -nonce -cert good.pem -cert bad.pem`, "NAME=good")
			for _, want := range []string{"good.pem: OK", "good.pem: good", "bad.pem: revoked", "Response verify OK"} {
				if !strings.Contains(out, want) {
					t.Errorf("no %q in\n%s", want, out)
				}
			}
			lintCertificate(t, pemBlock(t, s, "good.pem"))
			lintList(t, s.read(t, "crl.der"))
		})
		t.Run("kinds of keys", func(t *testing.T) {
			for _, kind := range []string{"ec-p384", "rsa-2048", "rsa-3072", "rsa-4096"} {
				s.sh(t, `mooring ca create "x-$KIND" --parent root --subject "CN=$KIND,O=Acme" --algorithm "$KIND" --validity 365d -q
mooring ca export "x-$KIND" -o "$KIND.pem"
openssl verify -x509_strict -CAfile root.pem "$KIND.pem"
curl -sSf "$STATUS/crl/x-$KIND.crl" | openssl crl -inform DER -noout -verify -CAfile "$KIND.pem" 2>&1 | grep "verify OK"`, "KIND="+kind)
			}
		})
		t.Run("keys", func(t *testing.T) { tokenKeys(t, s) })
		t.Run("token taken away", func(t *testing.T) { tokenAway(t, s) })
		s.sh(t, `mooring audit verify -q`)
		stop()
		t.Run("PIN", func(t *testing.T) { tokenPIN(t, s) })
		t.Run("started without the token", func(t *testing.T) { tokenLater(t, s) })
	})
}

// pemBlock returns the DER of the first certificate in a file.
func pemBlock(t *testing.T, s *site, name string) []byte {
	t.Helper()
	return []byte(s.sh(t, `openssl x509 -in "$NAME" -outform DER`, "NAME="+name))
}

// tokenKeys wants every key in the token, usable and counted, and none in a file.
func tokenKeys(t *testing.T, s *site) {
	var list struct {
		Keys []struct {
			ID, Custody, State string
			Uses               int64
			Told               int64 `json:"status_uses"`
		}
	}
	if err := json.Unmarshal([]byte(s.sh(t, `mooring key list --json`)), &list); err != nil {
		t.Fatal(err)
	}
	for _, k := range list.Keys {
		if !strings.HasPrefix(k.ID, "pkcs11:") || k.Custody != "pkcs11" || k.State != "usable" || k.Uses+k.Told == 0 {
			t.Errorf("got the key %+v", k)
		}
	}
	if len(list.Keys) != 9 {
		t.Errorf("got %d keys, want 9", len(list.Keys))
	}
	s.sh(t, `if ls d/keys/*.key; then exit 1; fi`)
}

const enrolAgain = `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out again.key 2>/dev/null
openssl req -new -key again.key -subj / -outform DER | openssl base64 > again.csr
curl -sS -o answer -w '%{http_code}' --cacert root.pem -u "again:$TOKEN" -H 'Content-Type: application/pkcs10' --data-binary @again.csr "$EST/.well-known/est/simpleenroll"
`

// tokenAway takes the token away while the server runs: nothing is issued, what was published is served, and all is well when it is back.
func tokenAway(t *testing.T, s *site) {
	token := s.device(t, "again", "device")
	s.sh(t, `mv tokens away`)
	if code := s.sh(t, enrolAgain, "TOKEN="+token); !strings.HasSuffix(code, "503") {
		t.Errorf("an enrolment: got %s, want 503", code)
	}
	if text := string(s.read(t, "answer")); !strings.Contains(text, "the CA cannot sign at present") || strings.Contains(text, "fleet") {
		t.Errorf("the device is told %q", text)
	}
	out := s.sh(t, fetched+`openssl verify -x509_strict -crl_check -CRLfile crl.pem -CAfile root.pem -untrusted cas.pem good.pem
openssl ocsp -issuer issuer.pem -url "$OCSP" -CAfile root.pem -no_nonce -cert good.pem`, "NAME=good")
	if !strings.Contains(out, "good.pem: OK") || !strings.Contains(out, "good.pem: good") {
		t.Errorf("with the token away:\n%s", out)
	}
	if out := s.sh(t, `mooring key list`); !strings.Contains(out, "locked") || strings.Contains(out, "  usable") {
		t.Errorf("the keys with the token away:\n%s", out)
	}
	s.sh(t, `mv away tokens
sleep 1`)
	if code := s.sh(t, enrolAgain, "TOKEN="+token); !strings.HasSuffix(code, "200") {
		t.Errorf("an enrolment with the token back: got %s, want 200: %s", code, s.read(t, "answer"))
	}
}

// tokenPIN starts with PINs that cannot be used: each is told at once, and the token does not count more than one attempt.
func tokenPIN(t *testing.T, s *site) {
	for _, row := range []struct{ name, change, undo, want string }{
		{"wrong", `echo wrong-horse > pin`, `echo correct-horse > pin`, `the token "fleet" refuses the PIN`},
		{"for everybody", `chmod 644 pin`, `chmod 600 pin`, "run chmod 0600"},
		{"missing", `mv pin pin.away`, `mv pin.away pin`, "cannot be read"},
		{"empty", `mv pin pin.away; install -m 600 /dev/null pin`, `mv pin.away pin`, "is empty"},
		{"of no token", `sed -i 's/token: "fleet"/token: "flotilla"/' d/mooring.yaml; mooring-pkcs11 serve 2>log &
for i in $(seq 300); do if grep -q "is not there" log; then break; fi; sleep 0.1; done
kill $!; wait $! || true; cat log; exit 1`, `sed -i 's/token: "flotilla"/token: "fleet"/' d/mooring.yaml`, `the token "flotilla" is not there, only fleet`},
		{"of no module", `sed -i "s|module: .*|module: \"$PWD/none.so\"|" d/mooring.yaml`, `sed -i "s|module: .*|module: \"$MODULE\"|" d/mooring.yaml`, "none.so cannot be read"},
	} {
		out, err := s.try(t, row.change+"\ntimeout 30 mooring-pkcs11 serve")
		if err == nil || !strings.Contains(out, strings.ReplaceAll(row.want, `"`, `\"`)) && !strings.Contains(out, row.want) {
			t.Errorf("PIN %s: %v, without %q:\n%s", row.name, err, row.want, out)
		}
		s.sh(t, row.undo)
	}
}

// tokenLater starts the server while the token is away.
func tokenLater(t *testing.T, s *site) {
	s.sh(t, `rm -f ready.json
mv tokens away`)
	s.serve(t)
	s.sh(t, `curl -sSf "$STATUS/crl/devices.crl" -o list.der
openssl crl -inform DER -in list.der -noout -verify -CAfile cas.pem`)
	if out := s.sh(t, `mooring key list`); !strings.Contains(out, "locked") {
		t.Errorf("the keys with the token away:\n%s", out)
	}
	s.sh(t, `mv away tokens
for i in $(seq 30); do
	if curl -sSf --cacert root.pem "$EST/.well-known/est/cacerts" -o /dev/null; then exit 0; fi
	sleep 1
done
exit 1`)
	s.sh(t, `mooring key list | grep '  usable' >/dev/null`)
}
