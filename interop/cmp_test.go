//go:build interop

package interop

import (
	"strings"
	"testing"
)

// TestInteropCMP does what doc/cmp.md says, with openssl cmp (ir, cr, p10cr, kur, rr and genm, by MAC and by signature) and with the agent. Each
// certificate is used for a TLS handshake.
func TestInteropCMP(t *testing.T) {
	engines(t, func(t *testing.T, database string) {
		s := newSite(t)
		s.env["CMP"] = "http://" + s.env["HOST"] + ":8081/.well-known/cmp"
		s.followWith(t, database, "../doc/cmp.md", 12, "127.0.0.1:8081", s.env["HOST"]+":8081")
	})
}

// TestInteropCMPRefusals has openssl cmp say why it was refused.
func TestInteropCMPRefusals(t *testing.T) {
	s := startCMP(t)
	s.sh(t, `openssl ecparam -name prime256v1 -genkey -noout -out new.key`)
	token := s.device(t, "one", "device")
	s.enrol(t, "two", "device", p256)
	for _, row := range []struct{ name, command, want string }{
		{"wrong token", `-cmd ir -ref one -secret pass:mt_wrong -recipient / -newkey new.key -subject /CN=one -trusted root.pem`, "badMessageCheck"},
		{"unknown device", `-cmd ir -ref nobody -secret "pass:$TOKEN" -recipient / -newkey new.key -subject /CN=one -trusted root.pem`, "badMessageCheck"},
		{"another subject", `-cmd ir -ref one -secret "pass:$TOKEN" -recipient / -newkey new.key -subject /CN=two`, "notAuthorized"},
		{"the certificate of another", `-cmd rr -ref one -secret "pass:$TOKEN" -recipient / -oldcert two.pem -revreason 1`, "badCertId"},
		{"an unknown profile", `-path .well-known/cmp/p/nothing -cmd ir -ref one -secret "pass:$TOKEN" -recipient / -newkey new.key -subject /CN=one`, "badCertId"},
		{"somebody else as the server", `-cmd kur -cert two.pem -key two.key -trusted root.pem -expect_sender /CN=two -newkey new.key`, "does not match expected sender"},
	} {
		t.Run(row.name, func(t *testing.T) {
			out, err := s.try(t, `openssl cmp -server "$HOST:8081" -path .well-known/cmp `+row.command+` -certout x.pem`, "TOKEN="+token)
			if err == nil || !strings.Contains(out, row.want) {
				t.Errorf("got %v, want %q in\n%s", err, row.want, out)
			}
		})
	}
}

// startCMP is an installation that serves CMP, with the function ask for openssl cmp and the function use, which makes a TLS handshake with a certificate.
func startCMP(t *testing.T) *site {
	t.Helper()
	s := newSite(t)
	s.sh(t, `mooring init -q --name Acme `+s.initFlags("")+`
sed -i "s|^  # cmp: .*|  cmp: \"$HOST:8081\"|" d/mooring.yaml`)
	s.serve(t)
	s.sh(t, `mooring ca export --root -o root.pem
cat > functions <<'END'
ask() { openssl cmp -server "$HOST:8081" -path .well-known/cmp "$@"; }
use() { curl -sSf --cacert root.pem --cert "$1" --key "$2" "$EST/.well-known/est/cacerts" -o /dev/null; }
key() { openssl genpkey `+p256+` -out "$1" 2>/dev/null; }
END`)
	return s
}

// bySigning has openssl cmp believe answers that the platform signs.
const bySigning = ` -trusted root.pem -expect_sender /CN=mooring `

// TestInteropCMPEach has openssl cmp ask for each kind of certificate by a MAC and by a signature, and uses all of them. There is no kur by a MAC: what protects a
// renewal is the certificate that it is about.
func TestInteropCMPEach(t *testing.T) {
	s := startCMP(t)
	s.sh(t, `. ./functions
key maker.key
openssl req -x509 -new -key maker.key -subj "/O=Maker/CN=Maker CA" -days 3650 -out maker.pem`)
	for _, op := range []string{"ir", "cr", "p10cr"} {
		for _, by := range []string{"MAC", "signature"} {
			t.Run(op+" by "+by, func(t *testing.T) {
				name := op + "-" + strings.ToLower(by)
				s.env["NAME"] = name
				var who string
				switch {
				case by == "MAC":
					s.env["TOKEN"] = s.device(t, name, "device")
					who = `-ref "$NAME" -secret "pass:$TOKEN" -recipient / `
				case op == "ir": // by the certificate from the maker
					s.sh(t, `. ./functions
key birth.key
openssl req -new -key birth.key -subj "/O=Maker/serialNumber=$NAME" |
	openssl x509 -req -CA maker.pem -CAkey maker.key -CAcreateserial -days 3650 -extfile <(echo keyUsage=digitalSignature) -out birth.pem 2>/dev/null
mooring device add "$NAME" --profile device --birth birth.pem`)
					who = `-cert birth.pem -key birth.key` + bySigning
				default:
					s.enrol(t, name, "device", p256)
					who = `-cert "$NAME.pem" -key "$NAME.key"` + bySigning
				}
				wanted := `-newkey new.key -subject "/CN=$NAME" `
				if op == "p10cr" {
					wanted = `-csr new.csr `
				}
				s.sh(t, `. ./functions
key new.key
openssl req -new -key new.key -subj "/CN=$NAME" -out new.csr
ask -cmd `+op+" "+who+wanted+`-certout got.pem
test "$(openssl x509 -in got.pem -noout -subject)" = "subject=CN = $NAME"
use got.pem new.key`)
			})
		}
	}
	t.Run("kur by signature", func(t *testing.T) {
		s.enrol(t, "kur", "device", p256)
		s.sh(t, `. ./functions
key new.key
ask -cmd kur -cert kur.pem -key kur.key`+bySigning+`-newkey new.key -certout got.pem
use got.pem new.key`)
	})
	for _, by := range []string{"MAC", "signature"} {
		t.Run("rr and genm by "+by, func(t *testing.T) {
			name := "rr-" + strings.ToLower(by)
			s.enrol(t, name, "device", p256)
			s.env["NAME"], s.env["TOKEN"] = name, strings.TrimSpace(s.sh(t, `mooring device token "$NAME" -q`, "NAME="+name))
			who := `-cert "$NAME.pem" -key "$NAME.key"` + bySigning
			if by == "MAC" {
				who = `-ref "$NAME" -secret "pass:$TOKEN" -recipient / `
			}
			out := s.sh(t, `. ./functions
use "$NAME.pem" "$NAME.key"
ask -cmd genm -infotype caCerts `+who+`
ask -cmd rr `+who+`-oldcert "$NAME.pem" -revreason 1
mooring cert show "$(openssl x509 -in "$NAME.pem" -noout -serial | sed 's/.*=//')"`)
			if !strings.Contains(out, "revocation accepted") || !strings.Contains(out, "keyCompromise") {
				t.Errorf("it printed\n%s", out)
			}
		})
	}
}

// TestInteropCMPQuestions has a newer openssl cmp ask all that it knows to ask (RFC 9483, section 4.3), and uses the answers.
func TestInteropCMPQuestions(t *testing.T) {
	s := startCMP(t)
	s.modern(t)
	s.enrol(t, "asking", "device", p256)
	const who = `-cert asking.pem -key asking.key` + bySigning
	for _, row := range []struct{ name, script, want string }{
		{"caCerts", `ask -cmd genm -infotype caCerts ` + who + ` -cacertsout cas.pem
openssl verify -CAfile root.pem -untrusted cas.pem asking.pem`, "asking.pem: OK"},
		{"certReqTemplate", `ask -cmd genm -infotype certReqTemplate ` + who + ` -template template.der -keyspec keys.der
openssl asn1parse -inform DER -in template.der
openssl asn1parse -inform DER -in keys.der`, "prime256v1"},
		{"crlStatusList", `ask -cmd genm -infotype crlStatusList ` + who + ` -crlcert asking.pem -crlout list.der
openssl crl -inform DER -in list.der -out list.pem
openssl verify -crl_check -CAfile root.pem -untrusted cas.pem -CRLfile list.pem asking.pem`, "asking.pem: OK"},
		{"crlStatusList, of who has the newest", `ask -cmd genm -infotype crlStatusList ` + who + ` -oldcrl list.der -crlout none.der 2>&1`, "no CRL update available"},
		{"rootCaCert, of who has the newest", `ask -cmd genm -infotype rootCaCert ` + who + ` -oldwithold root.pem -newwithnew new.pem 2>&1`, "no root CA certificate update available"},
		{"rootCaCert", `sleep 1 # the newer of two roots begins in a later second
mooring ca create root-g2 --subject "CN=Acme Root G2,O=Acme" --algorithm ec-p384 --validity 10950d --path-len 2
mooring ca cross --old root --new root-g2
ask -cmd genm -infotype rootCaCert ` + who + ` -oldwithold root.pem -newwithnew new.pem -newwithold there.pem -oldwithnew back.pem
openssl verify -CAfile root.pem there.pem
openssl verify -CAfile new.pem back.pem`, "back.pem: OK"},
		{"certProfile", `openssl ecparam -name prime256v1 -genkey -noout -out new.key
ask -cmd cr ` + who + ` -profile device -newkey new.key -subject /CN=asking -certout got.pem
use got.pem new.key && echo used`, "used"},
	} {
		t.Run(row.name, func(t *testing.T) {
			if out := s.sh(t, ". ./functions\n"+row.script); !strings.Contains(out, row.want) {
				t.Errorf("it printed\n%s", out)
			}
		})
	}
}
