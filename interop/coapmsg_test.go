//go:build interop

package interop

import (
	"strings"
	"testing"
)

// startTalk is start with messages over CoAP, and a policy that lets devices read the state that they have written. The device is sensor.
func startTalk(t *testing.T) *site {
	t.Helper()
	s := startCoAP(t, "messages: true")
	s.sh(t, `mooring policy show > policy
sed -i 's|^    allow publish v1/..thing./state retain yes|&\n    allow subscribe v1/${thing}/state|' policy
mooring policy set policy -q`)
	s.enrol(t, "sensor", "device", p256)
	s.env["DEVICE"] = "sensor"
	return s
}

// TestInteropCoAPMessages has both clients of libcoap publish, read and observe, with blocks of each size.
func TestInteropCoAPMessages(t *testing.T) {
	s := startTalk(t)
	for _, client := range []string{"coap-client-gnutls", "coap-client-openssl"} {
		run := func(t *testing.T, size, script string) string {
			t.Helper()
			return s.sh(t, "rm -f got; PUT() { \"$CLIENT\" -m put -b $SIZE"+coapFlags+"\"$@\"; }; GET() { \"$CLIENT\" -m get -b $SIZE"+coapFlags+"\"$@\"; }\n"+script,
				"CLIENT="+client, "SIZE="+size)
		}
		t.Run(client, func(t *testing.T) {
			for _, size := range []string{"16", "32", "64", "128", "256", "512", "1024"} {
				t.Run("PUT and GET in blocks of "+size, func(t *testing.T) {
					run(t, size, `head -c 3000 /dev/urandom > state
PUT -t 42 -f state "$COAP/p/v1/sensor/state?retain"
GET -A 42 -o got "$COAP/p/v1/sensor/state"
cmp state got`)
				})
				t.Run("observe in blocks of "+size, func(t *testing.T) {
					run(t, size, `GET -s 5 -o got "$COAP/p/v1/sensor/cmd/+" &
sleep 2
for n in 1 2 3; do
  head -c 1500 /dev/zero | tr '\0' $n > command
  mooring publish v1/sensor/cmd/go --file command --qos 1 > /dev/null
done
wait $!
for n in 1 2 3; do head -c 1500 /dev/zero | tr '\0' $n; done | cmp - got`)
				})
			}
			t.Run("telemetry, confirmable and not", func(t *testing.T) {
				out := run(t, "1024", `mooring device tail sensor --count 2 --json > seen &
sleep 1
"$CLIENT" -m post`+coapFlags+`-e confirmed "$COAP/p/v1/sensor/telemetry/x"
"$CLIENT" -N -m post`+coapFlags+`-e loose "$COAP/p/v1/sensor/telemetry/x"
wait $!
cat seen`)
				if strings.Count(out, "v1/sensor/telemetry/x") != 2 {
					t.Errorf("the operator saw %s", out)
				}
			})
			for name, row := range map[string]struct{ path, want string }{
				"foreign telemetry": {"v1/other/telemetry/x", "4.03"},
				"a wildcard":        {"v1/sensor/telemetry/+", "4.00"},
				"no topic":          {"", "4.00"},
			} {
				t.Run(name, func(t *testing.T) {
					if out := run(t, "64", `PUT -e x "$COAP/p/`+row.path+`" 2>&1`); !strings.Contains(out, row.want) {
						t.Errorf("got %s, want %s", out, row.want)
					}
				})
			}
		})
	}
}

// TestInteropCoAPMessagesPage does what doc/coap-messaging.md says.
func TestInteropCoAPMessagesPage(t *testing.T) {
	engines(t, func(t *testing.T, database string) {
		s := newSite(t)
		s.env["COAP"] = "coaps://" + s.env["HOST"] + ":5684"
		s.followWith(t, database, "../doc/coap-messaging.md", 9, "127.0.0.1:5684", s.env["HOST"]+":5684")
	})
}
