//go:build interop

package interop

import (
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mooring/wire/cms"
	"mooring/wire/coap"
)

// startCoAP is start with EST over CoAP on its own port, and with these lines in the section coaps of the configuration.
func startCoAP(t *testing.T, lines ...string) *site {
	t.Helper()
	for _, program := range []string{"coap-client-gnutls", "coap-client-openssl"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("these tests need %s (Debian: libcoap3-bin): %v", program, err)
		}
	}
	s := newSite(t)
	s.sh(t, `mooring init -q --name Acme `+s.initFlags(""))
	path := filepath.Join(s.dir, "d", "mooring.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for section, line := range map[string]string{"listen": "coaps: " + s.env["HOST"] + ":5684", "coaps": strings.Join(lines, "\n  ")} {
		changed := strings.Replace(string(text), "\n"+section+":\n", "\n"+section+":\n  "+line+"\n", 1)
		if changed == string(text) {
			t.Fatalf("the configuration has no section %s", section)
		}
		text = []byte(changed)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	s.serve(t)
	s.env["COAP"] = "coaps://" + s.env["HOST"] + ":5684"
	s.sh(t, `mooring ca export --root -o root.pem`)
	return s
}

// coapFlags are those by which a device shows who it is, and believes the server.
const coapFlags = ` -B 60 -c "$DEVICE.pem" -j "$DEVICE.key" -R root.pem `

// TestInteropCoAP has both clients of libcoap do every operation with blocks of each size, and uses what they got.
func TestInteropCoAP(t *testing.T) {
	s := startCoAP(t)
	s.enrol(t, "sensor", "device", p256)
	s.env["DEVICE"] = "sensor"
	use := func(t *testing.T) {
		t.Helper()
		s.sh(t, `openssl verify -CAfile root.pem -untrusted cas.pem got.pem
curl -sS --cacert root.pem --cert got.pem --key next.key "$EST/.well-known/est/cacerts" -o /dev/null`)
	}
	s.sh(t, `curl -sSf --cacert root.pem "$EST/.well-known/est/cacerts" | openssl base64 -d | openssl pkcs7 -inform DER -print_certs -out cas.pem`)
	for _, client := range []string{"coap-client-gnutls", "coap-client-openssl"} {
		t.Run(client, func(t *testing.T) {
			for _, size := range []string{"16", "32", "64", "128", "256", "512", "1024"} {
				t.Run(size, func(t *testing.T) {
					device := client + "-" + size // no device gets dozens of certificates in a minute
					s.enrol(t, device, "device", p256)
					run := func(t *testing.T, script string) {
						t.Helper()
						s.sh(t, "rm -f crts att got.* parts\n"+script, "CLIENT="+client, "SIZE="+size, "DEVICE="+device)
					}
					run(t, `"$CLIENT" -m get -A 281 -b $SIZE`+coapFlags+`-o crts "$COAP/est/crts"
openssl pkcs7 -inform DER -in crts -print_certs | grep -q "CN = Acme"`)
					run(t, `"$CLIENT" -m get -A 285 -b $SIZE`+coapFlags+`-o att "$COAP/est/att"
openssl asn1parse -inform DER -in att > /dev/null`)
					run(t, `openssl genpkey `+p256+` -out next.key 2>/dev/null
openssl req -new -key next.key -subj / -outform DER -out next.der
"$CLIENT" -m post -t 286 -A 281 -b $SIZE`+coapFlags+`-f next.der -o got.p7 "$COAP/est/sen"
openssl pkcs7 -inform DER -in got.p7 -print_certs -out got.pem`)
					use(t)
					run(t, `openssl genpkey `+p256+` -out next.key 2>/dev/null
openssl x509 -x509toreq -in "$DEVICE.pem" -signkey next.key -copy_extensions copy 2>/dev/null | openssl req -outform DER -out next.der
"$CLIENT" -m post -t 286 -A 287 -b $SIZE`+coapFlags+`-f next.der -o got.der "$COAP/.well-known/est/sren"
openssl x509 -inform DER -in got.der -out got.pem`)
					use(t)
					for _, op := range []string{"skg", "skc"} {
						run(t, `"$CLIENT" -m post -t 286 -A 62 -b $SIZE`+coapFlags+`-f next.der -o parts "$COAP/est/`+op+`"`)
						s.keygenParts(t)
						use(t)
					}
				})
			}
		})
	}
	t.Run("discovery", func(t *testing.T) {
		out := s.sh(t, `coap-client-gnutls -m get`+coapFlags+`"$COAP/.well-known/core?rt=ace.est*"`)
		if !strings.Contains(out, `</est/sen>;rt="ace.est.sen";ct="281 287"`) {
			t.Errorf("got %s", out)
		}
	})
	t.Run("without a certificate", func(t *testing.T) {
		if out, err := s.try(t, `rm -f none; timeout 20 coap-client-openssl -B 5 -m get -R root.pem -o none "$COAP/est/crts"; test -s none`); err == nil {
			t.Errorf("the CA certificates were given: %s", out)
		}
	})
	t.Run("PSK", func(t *testing.T) {
		if out, err := s.try(t, `rm -f none; timeout 20 coap-client-openssl -B 5 -m get -u id -k secret -o none "$COAP/est/crts"; test -s none`); err == nil {
			t.Errorf("the CA certificates were given: %s", out)
		}
	})
	t.Run("openssl s_client, CCM_8 alone", func(t *testing.T) {
		out := s.sh(t, `openssl s_client -dtls1_2 -connect "$HOST:5684" -cert sensor.pem -key sensor.key -CAfile root.pem -verify_return_error \
	-cipher 'ECDHE-ECDSA-AES128-CCM8:@SECLEVEL=0' < /dev/null 2>&1`)
		if !strings.Contains(out, "ECDHE-ECDSA-AES128-CCM8") || !strings.Contains(out, "Extended master secret: yes") || !strings.Contains(out, "Verify return code: 0") {
			t.Errorf("got %s", out)
		}
	})
}

// keygenParts takes the answer of a key generation apart: next.key and got.pem.
func (s *site) keygenParts(t *testing.T) {
	t.Helper()
	parts, err := coap.ParseMultipart(s.read(t, "parts"))
	if err != nil || len(parts) != 2 {
		t.Fatalf("%d parts, %v", len(parts), err)
	}
	for _, p := range parts {
		switch p.Format {
		case coap.PKCS8:
			s.write(t, "next.der8", string(p.Body))
		case coap.PKIXCert:
			s.write(t, "got.der", string(p.Body))
		case coap.PKCS7CertsOnly:
			certs, err := cms.ParseCertsOnly(p.Body)
			if err != nil || len(certs) != 1 {
				t.Fatalf("%d certificates, %v", len(certs), err)
			}
			if _, err := x509.ParseCertificate(certs[0]); err != nil {
				t.Fatal(err)
			}
			s.write(t, "got.der", string(certs[0]))
		default:
			t.Errorf("a part has the format %d", p.Format)
		}
	}
	s.sh(t, `openssl pkey -inform DER -in next.der8 -out next.key
openssl x509 -inform DER -in got.der -out got.pem`)
}

// TestInteropCoAPPage does what doc/est-coap.md says, with libcoap and with our own agent.
func TestInteropCoAPPage(t *testing.T) {
	engines(t, func(t *testing.T, database string) {
		s := newSite(t)
		s.env["COAP"] = "coaps://" + s.env["HOST"] + ":5684"
		s.followWith(t, database, "../doc/est-coap.md", 10, "127.0.0.1:5684", s.env["HOST"]+":5684")
	})
}

// TestInteropCoAPAgent has our own agent go from one certificate and protocol to another.
func TestInteropCoAPAgent(t *testing.T) {
	s := startCoAP(t)
	s.enrol(t, "sensor", "birth", p256)
	out := s.sh(t, `mooring device change sensor --profile device
mooring agent enrol --dir agent --protocol est-coaps --server "$HOST:5684" --name sensor --birth-cert sensor.pem --birth-key sensor.key --ca root.pem
mooring agent renew --dir agent
mooring agent renew --dir agent --server "$EST"
curl -sS --cacert agent/ca.pem --cert agent/current/chain.pem --key agent/current/key.pem "$EST/.well-known/est/cacerts" -o /dev/null`)
	if !strings.Contains(out, "This device is enrolled") {
		t.Errorf("got %s", out)
	}
}
