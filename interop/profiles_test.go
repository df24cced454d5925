//go:build interop

package interop

import (
	"encoding/pem"
	"strings"
	"testing"
)

// The kinds of keys that devices make, as options of openssl genpkey.
const (
	p256    = "-algorithm EC -pkeyopt ec_paramgen_curve:P-256"
	p384    = "-algorithm EC -pkeyopt ec_paramgen_curve:P-384"
	edwards = "-algorithm ED25519"
	rsa2048 = "-algorithm RSA -pkeyopt rsa_keygen_bits:2048"
	rsa3072 = "-algorithm RSA -pkeyopt rsa_keygen_bits:3072"
)

// TestInteropProfiles enrols by every default profile with the kinds of keys that it permits, and has the certificates checked by OpenSSL,
// GnuTLS and zlint.
func TestInteropProfiles(t *testing.T) {
	engines(t, func(t *testing.T, database string) {
		s := start(t, database)
		names := []string{"--dns", "gw.example.com", "--dns", "gw-2.example.com", "--ip", "192.0.2.7", "--ip", "2001:db8::7"}
		rows := []struct {
			name, profile, key string
			flags              []string
			purpose            string // for openssl verify; "" is none
		}{
			{"device-p256", "device", p256, nil, "sslclient"},
			{"device-p384", "device", p384, nil, "sslclient"},
			{"device-ed25519", "device", edwards, nil, "sslclient"},
			{"device-rsa2048", "device", rsa2048, nil, "sslclient"},
			{"device-rsa3072", "device", rsa3072, nil, "sslclient"},
			{"short", "device-short", edwards, nil, "sslclient"},
			{"birth", "birth", p384, nil, ""},
			{"gateway", "gateway", p256, names, "sslserver"},
			{"server", "server", rsa2048, names, "sslserver"},
			{"service", "service", p256, nil, "sslclient"},
			{"operator", "operator", p256, nil, "sslclient"},
			{"operator-admin", "operator-admin", p384, nil, "sslclient"},
			{"auditor", "auditor", edwards, nil, "sslclient"},
		}
		// A transaction's takes a working certificate: package app tries it. Those of a registration authority and of the registrar are the platform's own: clients of SCEP and BRSKI try them.
		seen := map[string]bool{"careful": true, "transaction": true, "scep-ra": true, "registrar": true}
		for _, row := range rows {
			seen[row.profile] = true
			t.Run(row.name, func(t *testing.T) {
				s.enrol(t, row.name, row.profile, row.key, row.flags...)
				flags := ""
				if row.purpose != "" {
					flags = "-purpose " + row.purpose
				}
				// The birth CA stands alone: its certificate is what a peer must be given to trust.
				trusted := "root.pem"
				if row.profile == "birth" {
					trusted = "birth-ca.pem"
					s.sh(t, `mooring ca export birth -o birth-ca.pem`)
				}
				name := "NAME=" + row.name
				t.Run("openssl verify -x509_strict", func(t *testing.T) {
					s.sh(t, `openssl verify -x509_strict `+flags+` -CAfile `+trusted+` -untrusted cas.pem "$NAME.pem"
openssl x509 -in "$NAME.pem" -noout -pubkey | diff - <(openssl pkey -in "$NAME.key" -pubout)`, name)
				})
				if row.profile != "device-short" { // such certificates are not kept
					t.Run("certtool", func(t *testing.T) {
						s.sh(t, `mooring cert export "$(openssl x509 -in "$NAME.pem" -noout -serial | sed 's/.*=//')" --chain -o "$NAME.chain"
certtool --verify --load-ca-certificate `+trusted+` --infile "$NAME.chain"`, name)
					})
				}
				t.Run("zlint RFC 5280", func(t *testing.T) {
					block, _ := pem.Decode(s.read(t, row.name+".pem"))
					lintCertificate(t, block.Bytes)
				})
			})
		}
		for _, line := range strings.Split(strings.TrimSpace(s.sh(t, `mooring profile list -q`)), "\n")[1:] {
			if name, _, _ := strings.Cut(line, " "); !seen[name] {
				t.Errorf("the profile %s is not tried out", name)
			}
		}
		t.Run("names of a server", func(t *testing.T) {
			for _, host := range []string{"-verify_hostname gw.example.com", "-verify_hostname gw-2.example.com", "-verify_ip 192.0.2.7", "-verify_ip 2001:db8::7"} {
				s.sh(t, `openssl verify -x509_strict `+host+` -CAfile root.pem -untrusted cas.pem server.pem gateway.pem`)
			}
			if out, err := s.try(t, `openssl verify -verify_hostname other.example.com -CAfile root.pem -untrusted cas.pem server.pem`); err == nil {
				t.Errorf("the certificate of a server is good for another name: %s", out)
			}
		})
		t.Run("CAs", func(t *testing.T) {
			s.sh(t, `for ca in devices services operators; do
	mooring ca export $ca -o $ca.pem
	openssl verify -x509_strict -CAfile root.pem $ca.pem
done`)
			for rest := s.read(t, "cas.pem"); ; {
				var block *pem.Block
				if block, rest = pem.Decode(rest); block == nil {
					break
				}
				lintCertificate(t, block.Bytes)
			}
		})
		t.Run("renewals change the kind of key", func(t *testing.T) {
			s.sh(t, `NAMES=$(openssl x509 -in device-rsa2048.pem -noout -ext subjectAltName | sed -n '2s/^ *//p')
openssl genpkey `+edwards+` -out next.key
openssl req -new -key next.key -subj /CN=device-rsa2048 -addext "subjectAltName=$NAMES" -outform DER | openssl base64 > next.csr
curl -sS --fail-with-body --cacert root.pem --cert device-rsa2048.pem --key device-rsa2048.key -H 'Content-Type: application/pkcs10' \
	--data-binary @next.csr "$EST/.well-known/est/simplereenroll" | openssl base64 -d | openssl pkcs7 -inform DER -print_certs -out next.pem
openssl verify -x509_strict -CAfile root.pem -untrusted cas.pem next.pem`)
		})
	})
}

// TestInteropKeygen has keys made by the server and encrypted for keys of every kind, and opens them with OpenSSL by the commands of the
// page.
func TestInteropKeygen(t *testing.T) {
	blocks, _ := readPage(t, enrolPage, 15)
	script := map[string]string{}
	for _, b := range blocks {
		script[b.name] = b.script
	}
	engines(t, func(t *testing.T, database string) {
		s := start(t, database)
		const open = `cp "$NAME.pem" cert.pem; cp "$NAME.key" key.pem` + "\n"
		for name, key := range map[string]string{"p256": p256, "p384": p384, "rsa": rsa2048} {
			t.Run(name, func(t *testing.T) {
				s.enrol(t, name, "device", key)
				s.sh(t, open+script["sealed-request"]+"\n"+script["sealed"]+"\n"+script["unwrap"], "NAME="+name)
			})
		}
		t.Run("for an RSA birth certificate of another maker", func(t *testing.T) {
			s.sh(t, `openssl req -x509 -newkey rsa:2048 -noenc -keyout maker.key -subj /CN=Maker -out maker.pem
printf 'keyUsage=critical,digitalSignature,keyEncipherment\nsubjectKeyIdentifier=hash\n' > birth.cnf
openssl req -new -newkey rsa:2048 -noenc -keyout born.key -subj /serialNumber=4711 | openssl x509 -req -CA maker.pem -CAkey maker.key -extfile birth.cnf -out born.pem
mooring device add born --profile device --birth born.pem`)
			s.sh(t, open+script["sealed-request"]+"\n"+script["sealed"]+"\n"+script["unwrap"], "NAME=born")
			// What it got is a certificate of this fleet.
			s.sh(t, `openssl verify -x509_strict -CAfile root.pem -untrusted cas.pem cert.pem`)
		})
		t.Run("not for Ed25519", func(t *testing.T) {
			s.enrol(t, "ed25519", "device", edwards)
			out, err := s.try(t, open+script["sealed-request"]+"\n"+script["sealed"]+"\ncat answer.txt", "NAME=ed25519")
			if said := out + string(s.read(t, "answer.txt")); err == nil || !strings.Contains(said, "cannot receive encrypted keys") {
				t.Errorf("a key was encrypted for Ed25519: %v, %s", err, said)
			}
		})
		t.Run("not for a key of somebody else", func(t *testing.T) {
			s.enrol(t, "other", "device", p256)
			out, err := s.try(t, open+script["sealed-request"]+"\ncp other.pem cert.pem; cp other.key key.pem\n"+script["sealed"], "NAME=p256")
			if said := out + string(s.read(t, "answer.txt")); err == nil || !strings.Contains(said, "does not name the key of the client certificate") {
				t.Errorf("a key was encrypted for another device: %v, %s", err, said)
			}
		})
	})
}

// TestInteropProof has a proof of the record checked by the stranger's program in testdata, which knows nothing of Mooring.
func TestInteropProof(t *testing.T) {
	engines(t, func(t *testing.T, database string) {
		s := start(t, database)
		s.enrol(t, "sensor-1", "device", p256)
		serial := strings.ToLower(strings.TrimSpace(s.sh(t, `openssl x509 -in sensor-1.pem -noout -serial | sed 's/.*=//'`)))
		// An entry has its place in the tree a moment after it was recorded.
		s.sh(t, `mooring audit key > key
for n in $(seq 100); do
	mooring audit list --action cert.issue --serial "$SERIAL" --json | sed -n 's/.*"index": *\([0-9]*\).*/\1/p' | head -1 > index
	if [ -s index ]; then break; fi
	sleep 0.1
done
mooring audit prove "$(cat index)" -o proof`, "SERIAL="+serial)
		entry := s.sh(t, `checkproof "$(cat key)" < proof`)
		if !strings.Contains(entry, serial) || !strings.Contains(entry, "cert.issue") {
			t.Errorf("the proven entry is %s, want one that says that %s was issued", entry, serial)
		}
		for name, change := range map[string]string{
			"other entry":     `sed "s/^extra .*/extra $(printf '{}' | base64)/" proof`,
			"other index":     `sed 's/^index .*/index 0/' proof`,
			"other signature": `sed '$s/.\{8\}$/AAAAAAA=/' proof`,
			"other tree":      `awk '/audit$/ { print; getline; print $0 + 1; next } { print }' proof`,
		} {
			if out, err := s.try(t, change+` > changed; ! cmp -s proof changed; checkproof "$(cat key)" < changed`); err == nil {
				t.Errorf("a proof with %s is believed: %s", name, out)
			}
		}
	})
}
