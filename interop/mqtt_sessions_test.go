//go:build interop

package interop

import (
	"strings"
	"testing"
)

// TestInteropMQTTResumption has OpenSSL resume sessions of TLS: a device that was suspended meanwhile gets in neither by a new handshake nor by a session that it kept.
func TestInteropMQTTResumption(t *testing.T) {
	s := mqttSite(t, "tls12", "tls13", "good")
	const in, refused = "20020000", "20020005" // CONNACK
	// TALK connects as $NAME, says CONNECT (MQTT 3.1.1, with its name as the identifier) and DISCONNECT, and prints in hexadecimal what the server answers.
	const talk = `TALK() {
	local n=${#NAME}
	{ printf '\x10\x'$(printf %02x $((12 + n)))'\x00\x04MQTT\x04\x02\x00\x3c\x00\x'$(printf %02x $n)"$NAME"; sleep 0.5; printf '\xe0\x00'; } |
		timeout 10 openssl s_client -connect "$HOST:8883" -alpn mqtt -$VERSION -CAfile root.pem -cert $NAME.pem -key $NAME.key -quiet -ign_eof "$@" 2> errors | od -An -tx1 | tr -d ' \n' || true
	echo
}
`
	for _, version := range []string{"tls1_2", "tls1_3"} {
		t.Run(version, func(t *testing.T) {
			name := strings.NewReplacer("tls1_", "tls1").Replace(version)
			run := func(script string) string {
				return strings.TrimSpace(s.sh(t, talk+script, "NAME="+name, "VERSION="+version))
			}
			if got := run(`TALK -sess_out session`); got != in {
				t.Fatalf("the first connection was answered %q, want CONNACK", got)
			}
			if got := run(`TALK -sess_in session`); got != in {
				t.Errorf("the resumed connection was answered %q, want CONNACK", got)
			}
			if got := run(`timeout 10 openssl s_client -connect "$HOST:8883" -alpn mqtt -$VERSION -CAfile root.pem -cert $NAME.pem -key $NAME.key -sess_in session < /dev/null 2>&1 | grep -E '^(Reused|ALPN)' | sed 's/,.*//'`); got != "Reused\nALPN protocol: mqtt" && got != "ALPN protocol: mqtt\nReused" {
				t.Errorf("openssl says %q, want that the session was reused, with ALPN", got)
			}
			s.sh(t, `mooring device suspend $NAME`, "NAME="+name)
			for _, row := range []struct{ name, flags string }{{"resumed", "-sess_in session"}, {"new", ""}} {
				if got := run(`TALK ` + row.flags); got != refused {
					t.Errorf("%s after the suspension: answered %q, want %q", row.name, got, refused)
				}
			}
			if got := strings.TrimSpace(s.sh(t, talk+`TALK`, "NAME=good", "VERSION="+version)); got != in {
				t.Errorf("the good neighbour was answered %q, want CONNACK", got)
			}
		})
	}
}
