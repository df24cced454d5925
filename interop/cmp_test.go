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
	s := newSite(t)
	s.sh(t, `mooring init -q --name Acme `+s.initFlags("")+`
sed -i "s|^  # cmp: .*|  cmp: \"$HOST:8081\"|" d/mooring.yaml`)
	s.serve(t)
	s.sh(t, `mooring ca export --root -o root.pem
openssl ecparam -name prime256v1 -genkey -noout -out new.key`)
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
