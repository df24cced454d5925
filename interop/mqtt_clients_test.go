//go:build interop

package interop

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// mqttSite is a server with MQTT over TLS and over WebSockets, and the devices names, enrolled. MQTT is its host.
func mqttSite(t *testing.T, names ...string) *site {
	t.Helper()
	mosquittoClients(t)
	s := newSite(t)
	s.env["MQTT"] = s.env["HOST"]
	s.sh(t, `mooring init -q --name Acme `+s.initFlags("")+`
sed -i 's|^  # mqtt: .*|  mqtt: "'"$HOST"':8883"|; s|^  # mqtt_web: .*|  mqtt_web: "'"$HOST"':8884"|' d/mooring.yaml`)
	s.serve(t)
	s.sh(t, `mooring ca export --root -o root.pem`)
	for _, name := range names {
		s.enrol(t, name, "device", p256)
	}
	return s
}

// asBoth defines how the device $NAME publishes (PUB) and subscribes (SUB) at the server $AT:$PORT in the version $V, and so does an operator (TELL, HEAR).
// LISTEN FILE has SUB or HEAR listen in the background, and returns when that was granted; FILE has what it said, and SAID what it heard.
const asBoth = `mkdir -p "$W"; cd "$W"
A="-h $AT -p $PORT --cafile ../root.pem $CHECK -V $V"
D="$A --cert ../$NAME.pem --key ../$NAME.key -i $NAME"
O="$A --cert $MOORING_DIR/operator/cert.pem --key $MOORING_DIR/operator/key.pem"
PUB() { timeout 20 mosquitto_pub $D "$@" 2>&1; }
TELL() { timeout 20 mosquitto_pub $O -q 1 "$@" 2>&1; }
SUB() { mosquitto_sub $D -W 20 -F '%t %q %r %p' "$@" 2>&1; }
HEAR() { mosquitto_sub $O -W 20 -F '%t %q %r %p' "$@" 2>&1; }
LISTEN() {
	local file=$1 who=$D; [ "$2" = SUB ] || who=$O; shift 2; : > "$file"
	stdbuf -oL mosquitto_sub $who -W 20 -F '=%t %q %r %p' "$@" -d > "$file" 2>&1 &
	PID=$!
	until grep -q '^Subscribed' "$file"; do kill -0 $PID || { cat "$file"; return 1; }; sleep 0.02; done
}
SAID() { grep '^=' "$1" | cut -c2-; }
`

// dialogue is a script with the clients of mosquitto, and what it prints: lines, in which … stands for anything. The device is called dev there.
type dialogue struct {
	name, only, script, want string
	ours                     bool // a plain mosquitto does otherwise
}

var dialogues = []dialogue{
	{name: "each QoS up", script: `LISTEN up HEAR -q 2 -t "v1/$NAME/telemetry/#" -C 3
for q in 0 1 2; do PUB -q $q -t "v1/$NAME/telemetry/x" -m "with $q"; done
wait $PID; SAID up`, want: "v1/dev/telemetry/x 0 0 with 0\nv1/dev/telemetry/x 1 0 with 1\nv1/dev/telemetry/x 2 0 with 2"},
	{name: "each QoS down", script: `LISTEN down SUB -q 1 -t "v1/$NAME/cmd/+" -C 3
for q in 0 1 2; do TELL -q $q -t "v1/$NAME/cmd/x" -m "with $q"; done
wait $PID; SAID down`, want: "v1/dev/cmd/x 0 0 with 0\nv1/dev/cmd/x 1 0 with 1\nv1/dev/cmd/x 1 0 with 2"},
	// In version 5 mosquitto_sub 2.0.11 takes 20 on their way to it and counts one until its PUBCOMP has been written, so that it may end with a protocol error when the
	// server, to which that has come, sends the 21st.
	{name: "many with QoS 2, in order and once", script: `N=40; [ $V = mqttv311 ] || N=20
LISTEN up HEAR -q 2 -t "v1/$NAME/telemetry/many" -C $N
seq $N | PUB -q 2 -t "v1/$NAME/telemetry/many" -l
wait $PID || true
SAID up | cut -d' ' -f4 | cmp - <(seq $N) && echo same || { grep -v '^=' up | tail -n 5; exit 1; }`, want: "same"},
	{name: "a large one and an empty one", script: `head -c 75000 /dev/urandom | base64 -w0 > large
LISTEN up HEAR -q 1 -t "v1/$NAME/telemetry/file/#" -C 2
PUB -q 1 -t "v1/$NAME/telemetry/file/größe" -f large
PUB -q 1 -t "v1/$NAME/telemetry/file/none" -n
wait $PID; SAID up | head -1 | cut -d' ' -f4 | tr -d '\n' | cmp - large && SAID up | tail -1`, want: "v1/dev/telemetry/file/none 1 0 "},
	{name: "retained: live, replayed, replaced, removed", script: `LISTEN live HEAR -q 1 -t "v1/$NAME/state" -C 1
PUB -q 1 -r -t "v1/$NAME/state" -m on
wait $PID; SAID live
HEAR -q 1 -t "v1/$NAME/state" -C 1
PUB -q 1 -r -t "v1/$NAME/state" -m off
HEAR -q 0 -t "v1/$NAME/state" -C 1
PUB -q 1 -r -t "v1/$NAME/state" -n
HEAR -q 1 -t "v1/$NAME/state" -E && echo gone`, want: "v1/dev/state 1 0 on\nv1/dev/state 1 1 on\nv1/dev/state 0 1 off\ngone"},
	{name: "the will of a lost connection", script: `LISTEN will HEAR -q 1 -R -t "v1/$NAME/state" -C 1
HEARER=$PID
LISTEN dies SUB -q 1 -t "v1/$NAME/cmd/+" --will-topic "v1/$NAME/state" --will-payload lost --will-qos 1 --will-retain
{ kill -9 $PID; wait $PID; } 2> /dev/null || true
wait $HEARER; SAID will
HEAR -q 1 -t "v1/$NAME/state" -C 1
PUB -q 1 -r -t "v1/$NAME/state" -n`, want: "v1/dev/state 1 0 lost\nv1/dev/state 1 1 lost"},
	{name: "no will of a connection that says farewell", script: `LISTEN will HEAR -q 1 -R -t "v1/$NAME/#" -C 1
HEARER=$PID
SUB -q 1 -t "v1/$NAME/cmd/+" --will-topic "v1/$NAME/state" --will-payload lost -E
PUB -q 1 -t "v1/$NAME/telemetry/after" -m it
wait $HEARER; SAID will`, want: "v1/dev/telemetry/after 1 0 it"},
	{name: "a session that sleeps", script: `X=; [ $V = mqttv311 ] || X="-x 3600"
SUB -c $X -q 1 -t "v1/$NAME/cmd/+" -E
for n in 1 2 3; do TELL -t "v1/$NAME/cmd/$n" -m "number $n"; done
SUB -c $X -q 1 -t "v1/$NAME/cmd/+" -C 3
TELL -t "v1/$NAME/cmd/4" -m "number 4"
SUB -q 1 -t "v1/$NAME/cmd/+" -E
LISTEN clean SUB -q 1 -t "v1/$NAME/cmd/+" -C 1
TELL -t "v1/$NAME/cmd/5" -m "number 5"
wait $PID; SAID clean`, want: "v1/dev/cmd/1 1 0 number 1\nv1/dev/cmd/2 1 0 number 2\nv1/dev/cmd/3 1 0 number 3\nv1/dev/cmd/5 1 0 number 5"},
	{name: "a session that has ended by its expiry", only: "mqttv5", script: `SUB -c -x 1 -q 1 -t "v1/$NAME/cmd/+" -E
TELL -t "v1/$NAME/cmd/1" -m early
sleep 3
LISTEN late SUB -c -x 1 -q 1 -t "v1/$NAME/cmd/+" -C 1
TELL -t "v1/$NAME/cmd/2" -m late
wait $PID; SAID late`, want: "v1/dev/cmd/2 1 0 late"},
	{name: "message expiry", only: "mqttv5", script: `SUB -c -x 60 -q 1 -t "v1/$NAME/cmd/+" -E
TELL -t "v1/$NAME/cmd/1" -m short -D publish message-expiry-interval 1
TELL -t "v1/$NAME/cmd/1" -m long -D publish message-expiry-interval 100
sleep 2
SUB -c -x 0 -q 1 -t "v1/$NAME/cmd/+" -C 1`, want: "v1/dev/cmd/1 1 0 long"},
	{name: "topic alias", only: "mqttv5", script: `LISTEN up HEAR -q 1 -t "v1/$NAME/telemetry/#" -C 3
seq 3 | PUB -q 1 -t "v1/$NAME/telemetry/alias" -l -D publish topic-alias 3
wait $PID; SAID up`, want: "v1/dev/telemetry/alias 1 0 1\nv1/dev/telemetry/alias 1 0 2\nv1/dev/telemetry/alias 1 0 3"},
	{name: "properties", only: "mqttv5", script: `LISTEN up HEAR -q 1 -t "v1/$NAME/telemetry/#" -C 1 -F '=%C|%R|%D|%P'
PUB -q 1 -t "v1/$NAME/telemetry/x" -m x -D publish content-type a/b -D publish response-topic "v1/$NAME/cmd/answer" -D publish correlation-data seven -D publish user-property k1 v1 -D publish user-property k2 v2
wait $PID; SAID up`, want: "a/b|v1/dev/cmd/answer|seven|k1:v1 k2:v2"},
	{name: "a shared subscription of two services", script: `LISTEN one HEAR -q 1 -t "\$share/readers/v1/$NAME/telemetry/#"
ONE=$PID
LISTEN two HEAR -q 1 -t "\$share/readers/v1/$NAME/telemetry/#"
LISTEN end HEAR -q 1 -t "v1/$NAME/telemetry/#" -C 20
seq 20 | PUB -q 1 -t "v1/$NAME/telemetry/x" -l
wait $PID
until [ "$(cat one two | grep -c ^=)" -ge 20 ]; do sleep 0.02; done
kill -INT $ONE; wait $ONE || true
cat one two | grep '^=' | cut -d' ' -f4 | sort -n | cmp - <(seq 20) && grep -q ^= one && grep -q ^= two && echo shared`, want: "shared"},
	{name: "a publication that is not allowed", only: "mqttv5", script: `PUB -q 1 -t "v1/other/telemetry/x" -m x || true
PUB -q 2 -t "v1/other/telemetry/x" -m x || true
PUB -q 1 -t "v1/$NAME/cmd/x" -m x || true`, want: "Warning: Publish 1 failed: Not authorized.\nWarning: Publish 1 failed: Not authorized.\nWarning: Publish 1 failed: Not authorized."},
	{name: "a publication that is not allowed, and no word for that", only: "mqttv311", ours: true, script: `PUB -q 1 -t "v1/other/telemetry/x" -m x || echo refused`, want: "…\nrefused"},
	{name: "a subscription that is not allowed", ours: true, script: `SUB -q 1 -t "v1/other/cmd/+" -E || true
SUB -q 1 -t '#' -E || true
SUB -q 1 -t '$SYS/#' -E || true
SUB -q 1 -t "\$share/g/v1/$NAME/cmd/+" -E || true`, want: strings.TrimSuffix(strings.Repeat("All subscription requests were denied.\n", 4), "\n")},
	{name: "one of two subscriptions", ours: true, script: `LISTEN half SUB -q 1 -t "v1/other/cmd/+" -t "v1/$NAME/cmd/+" -C 1
TELL -t "v1/other/cmd/x" -m "for another"
TELL -t "v1/$NAME/cmd/x" -m "for me"
wait $PID; SAID half`, want: "v1/dev/cmd/x 1 0 for me"},
	{name: "the identifier of another, which notices nothing", ours: true, script: `LISTEN victim SUB -q 1 -t "v1/$NAME/cmd/+" -C 1
VICTIM=$PID
OTHER=old; [ $NAME = new ] || OTHER=new
timeout 20 mosquitto_pub $A --cert ../$OTHER.pem --key ../$OTHER.key -i $NAME -u $NAME -t "v1/$NAME/state" -m x 2>&1 || echo refused
TELL -t "v1/$NAME/cmd/x" -m there
wait $VICTIM; SAID victim`, want: "…\nrefused\nv1/dev/cmd/x 1 0 there"},
	{name: "a will that is not allowed", ours: true, script: `SUB -t "v1/$NAME/cmd/+" --will-topic "v1/other/state" --will-payload x -E || echo refused`, want: "…\nrefused"},
	{name: "ALPN", ours: true, script: `PUB --tls-alpn mqtt -q 1 -t "v1/$NAME/telemetry/x" -m x && echo sent
PUB --tls-alpn coap -q 1 -t "v1/$NAME/telemetry/x" -m x > /dev/null || echo refused`, want: "sent\nrefused"},
	{name: "ALPN at the address that is otherwise for WebSockets", ours: true, script: `A="-h $AT -p 8884 --cafile ../root.pem -V $V"
D="$A --cert ../$NAME.pem --key ../$NAME.key -i $NAME"
PUB --tls-alpn mqtt -q 1 -t "v1/$NAME/telemetry/x" -m x && echo sent`, want: "sent"},
	{name: "no certificate", script: `timeout 20 mosquitto_pub $A -i $NAME -t "v1/$NAME/state" -m x > /dev/null 2>&1 || echo refused`, want: "refused"},
}

// TestInteropMQTTClients has the clients of mosquitto say the same to our server and to a mosquitto, in both versions: where the standard says what is to happen, both
// do the same.
func TestInteropMQTTClients(t *testing.T) {
	s := mqttSite(t, "old", "new")
	address, port := s.mosquittoLike(t)
	for version, name := range map[string]string{"mqttv311": "old", "mqttv5": "new"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			for i, d := range dialogues {
				if d.only == "" || d.only == version {
					t.Run(d.name, func(t *testing.T) {
						both := []string{"AT=" + s.env["HOST"], "PORT=8883", "CHECK="}
						theirs := []string{"AT=" + address, "PORT=" + port, "CHECK=--insecure"}
						var wait sync.WaitGroup
						wait.Go(func() { s.talk(t, "mooring", version, name, i, d, both) })
						if !d.ours {
							wait.Go(func() { s.talk(t, "mosquitto", version, name, i, d, theirs) })
						}
						wait.Wait()
					})
				}
			}
		})
	}
}

// talk runs a dialogue with one server.
func (s *site) talk(t *testing.T, server, version, name string, i int, d dialogue, env []string) {
	out, err := s.try(t, asBoth+d.script, append(env, "V="+version, "NAME="+name, fmt.Sprintf("W=%s-%s-%d", server, version, i))...)
	out = strings.ReplaceAll(strings.TrimSpace(out), "v1/"+name+"/", "v1/dev/")
	pattern := "^" + strings.ReplaceAll(regexp.QuoteMeta(strings.TrimSpace(d.want)), "…", "(?s:.*)") + "$"
	if err != nil || !regexp.MustCompile(pattern).MatchString(out) {
		t.Errorf("with %s: %v\nprinted:\n%s\nwant:\n%s", server, err, out, d.want)
	}
}

// mosquittoLike runs a mosquitto that knows the same certificates as our server and has an access list like its policy.
func (s *site) mosquittoLike(t *testing.T) (host, port string) {
	t.Helper()
	host, dir := s.env["HOST"], filepath.Join(s.dir, "mosquitto")
	port = freePort(t)
	s.enrol(t, "mq", "server", p256, "--dns", "localhost")
	s.sh(t, `mkdir mosquitto
curl -sSf "$STATUS/ca/devices.pem" | cat root.pem - > mosquitto/cas.pem
curl -sSf "$STATUS/ca/services.pem" >> mosquitto/cas.pem
cp mq.key mosquitto/server.key
curl -sSf "$STATUS/ca/services.pem" | cat mq.pem - > mosquitto/server.pem
cat > mosquitto/acl <<END
user admin
topic readwrite v1/#

pattern write v1/%u/telemetry/#
pattern readwrite v1/%u/state
pattern read v1/%u/cmd/+
END
cat > mosquitto/mosquitto.conf <<END
listener $PORT $HOST
cafile mosquitto/cas.pem
certfile mosquitto/server.pem
keyfile mosquitto/server.key
require_certificate true
use_identity_as_username true
allow_anonymous false
acl_file mosquitto/acl
log_type all
END
sed -i "s|mosquitto/|$PWD/mosquitto/|" mosquitto/mosquitto.conf`, "PORT="+port)
	if os.Geteuid() == 0 {
		s.sh(t, `echo user root >> mosquitto/mosquitto.conf`)
	}
	startMosquitto(t, dir, host+":"+port)
	return host, port
}
