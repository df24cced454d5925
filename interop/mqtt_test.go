//go:build interop

package interop

import (
	"os/exec"
	"strings"
	"testing"
)

// startMQTT is start with the listeners of MQTT. MQTT is the server's host.
func startMQTT(t *testing.T) *site {
	t.Helper()
	mosquittoClients(t)
	s := newSite(t)
	s.env["MQTT"] = s.env["HOST"]
	s.sh(t, `mooring init -q --name Acme `+s.initFlags("")+`
sed -i 's|^  # mqtt: .*|  mqtt: "'"$HOST"':8883"|' d/mooring.yaml`)
	s.serve(t)
	s.sh(t, `mooring ca export --root -o root.pem`)
	return s
}

func mosquittoClients(t *testing.T) {
	t.Helper()
	for _, program := range []string{"mosquitto_pub", "mosquitto_sub"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("these tests need %s (Debian: mosquitto-clients): %v", program, err)
		}
	}
}

// asDevice defines how the clients of mosquitto publish (PUB) and subscribe (SUB) as the device dev, in the version $V.
const asDevice = `D="-h $MQTT -p 8883 --cafile root.pem --cert dev.pem --key dev.key -i dev -V $V"
O="-h $MQTT -p 8883 --cafile root.pem --cert $MOORING_DIR/operator/cert.pem --key $MOORING_DIR/operator/key.pem -V $V"
PUB() { timeout 60 mosquitto_pub $D "$@"; }
SUB() { timeout 60 mosquitto_sub $D "$@"; }
HEAR() { timeout 60 mosquitto_sub $O "$@"; }
`

// TestInteropMQTT has the clients of mosquitto publish and subscribe in both versions and with each QoS, leave wills, keep sessions, and be refused.
func TestInteropMQTT(t *testing.T) {
	s := startMQTT(t)
	s.enrol(t, "dev", "device", p256)
	for _, version := range []string{"mqttv311", "mqttv5"} {
		run := func(t *testing.T, script string, variables ...string) string {
			t.Helper()
			return s.sh(t, asDevice+script, append(variables, "V="+version)...)
		}
		t.Run(version, func(t *testing.T) {
			for _, qos := range []string{"0", "1", "2"} {
				t.Run("up and down with QoS "+qos, func(t *testing.T) {
					out := run(t, `HEAR -q $Q -t 'v1/dev/telemetry/#' -C 20 -F %p > up &
HEARER=$!
sleep 2
seq 20 | PUB -q $Q -t v1/dev/telemetry/x -l
wait $HEARER
seq 20 | cmp - up
SUB -q $Q -t 'v1/dev/cmd/+' -C 1 -F '%t %q %p' > down &
LISTENER=$!
sleep 2
mooring publish v1/dev/cmd/go 'there it is' --qos $Q > /dev/null
wait $LISTENER
cat down`, "Q="+qos)
					if !strings.Contains(out, "v1/dev/cmd/go "+qos+" there it is") {
						t.Errorf("the device heard %q", out)
					}
				})
			}
			t.Run("retained, replaced and removed", func(t *testing.T) {
				out := run(t, `PUB -q 1 -r -t v1/dev/state -m one
PUB -q 1 -r -t v1/dev/state -m two
HEAR -q 1 -t v1/dev/state -C 1 -F 'kept %r %p'
PUB -q 1 -r -t v1/dev/state -n
HEAR -q 1 -t v1/dev/state -W 2 -F 'left %p' || true`)
				if !strings.Contains(out, "kept 1 two") || strings.Contains(out, "left") {
					t.Errorf("the operator heard %q", out)
				}
			})
			t.Run("a session that waits", func(t *testing.T) {
				out := run(t, `KEEP="-c -q 1"
if [ $V = mqttv5 ]; then KEEP="$KEEP -x 600"; fi
SUB $KEEP -t 'v1/dev/cmd/+' -E
for n in 1 2 3; do mooring publish v1/dev/cmd/go "number $n" --qos 1 > /dev/null; done
SUB $KEEP -t 'v1/dev/cmd/+' -C 3 -F %p`)
				if !strings.Contains(out, "number 1\nnumber 2\nnumber 3") {
					t.Errorf("the device heard %q", out)
				}
			})
			t.Run("a will", func(t *testing.T) {
				out := run(t, `HEAR -q 1 -R -t v1/dev/state -C 1 -F %p > heard &
HEARER=$!
mosquitto_sub $D -t 'v1/dev/cmd/+' --will-topic v1/dev/state --will-payload 'is lost' --will-qos 1 &
DYING=$!
sleep 2
kill -9 $DYING
wait $HEARER
cat heard`)
				if !strings.Contains(out, "is lost") {
					t.Errorf("the operator heard %q", out)
				}
			})
			for name, row := range map[string]struct{ script, v311, v5 string }{
				"a foreign topic":      {`PUB -q 1 -t v1/other/state -m x`, "The connection was lost", "Not authorized"},
				"a foreign identifier": {`mosquitto_pub ${D/-i dev/-i other} -t v1/dev/state -m x`, "identifier rejected", "Client Identifier not valid"},
				"a foreign will":       {`SUB -t v1/dev/cmd/+ --will-topic v1/other/state --will-payload x`, "not authorised", "Not authorized"},
				"everything":           {`SUB -t '#' -E`, "All subscription requests were denied", "All subscription requests were denied"},
				"no certificate":       {`mosquitto_pub -h $MQTT -p 8883 --cafile root.pem -V $V -t v1/dev/state -m x`, "Error", "Error"},
				"another protocol":     {`PUB --tls-alpn amqp -t v1/dev/state -m x`, "TLS error", "TLS error"},
			} {
				t.Run("refused: "+name, func(t *testing.T) {
					want := row.v5
					if version == "mqttv311" {
						want = row.v311
					}
					if out := run(t, row.script+" 2>&1 || true"); !strings.Contains(out, want) {
						t.Errorf("got %q, want %q", out, want)
					}
				})
			}
		})
	}
}

// TestInteropMQTTPage does what doc/mqtt.md says.
func TestInteropMQTTPage(t *testing.T) {
	mosquittoClients(t)
	engines(t, func(t *testing.T, database string) {
		s := newSite(t)
		s.env["MQTT"] = s.env["HOST"]
		s.followWith(t, database, "../doc/mqtt.md", 10, "127.0.0.1:888", s.env["HOST"]+":888")
	})
}
