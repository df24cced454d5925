//go:build interop

package interop

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"mooring/internal/provider/broker"
	"mooring/internal/provider/broker/brokertest"
	"mooring/wire/mqtt"
)

const brokersPage = "../doc/external-brokers.md"

// fromPage returns a file or a block of commands of the page, by its marker.
func fromPage(t *testing.T, marker string) string {
	t.Helper()
	page, err := os.ReadFile(brokersPage)
	if err != nil {
		t.Fatal(err)
	}
	const fence = "```"
	found := regexp.MustCompile("(?s)<!-- " + regexp.QuoteMeta(marker) + " -->\n" + fence + "(?:sh|yaml)?\n(.*?)\n" + fence + "\n").FindSubmatch(page)
	if found == nil {
		t.Fatalf("%s has no %q", brokersPage, marker)
	}
	return string(found[1]) + "\n"
}

// mosquitto is a mosquitto with the configuration of the page.
type mosquitto struct {
	address string
	dir     string
	log     *safeBuffer
	stop    func()
}

// safeBuffer is written to by a program and looked at by a test.
type safeBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// within waits for a condition that something else brings about.
func within(t *testing.T, what string, met func() bool) {
	t.Helper()
	late := time.After(time.Minute)
	look := time.NewTicker(2 * time.Millisecond)
	defer look.Stop()
	for !met() {
		select {
		case <-late:
			t.Fatalf("after a minute: not yet %s", what)
		case <-look.C:
		}
	}
}

// configure writes the files of the page into dir, with its folders in place of those of the page. Certificates and the list are there already.
func configure(t *testing.T, dir, host string) (address string) {
	t.Helper()
	port := freePort(t)
	plugin := ""
	for _, pattern := range []string{"/usr/lib/*/mosquitto_dynamic_security.so", "/usr/lib*/mosquitto_dynamic_security.so"} {
		if found, err := filepath.Glob(pattern); err == nil && len(found) > 0 {
			plugin = found[0]
		}
	}
	if plugin == "" {
		t.Fatal("these tests need mosquitto's plugin for dynamic security (Debian: mosquitto)")
	}
	places := strings.NewReplacer("/etc/mosquitto/mooring", dir, "/run/mosquitto/mosquitto.pid", filepath.Join(dir, "pid"),
		"/usr/lib/x86_64-linux-gnu/mosquitto_dynamic_security.so", plugin, "listener 8883", "listener "+port+" "+host)
	conf := places.Replace(fromPage(t, "file: mosquitto.conf")) + "log_type all\n"
	if os.Geteuid() == 0 {
		conf += "user root\n" // its files are in a folder of the test
	}
	for name, text := range map[string]string{"mosquitto.conf": conf, "acl": fromPage(t, "file: acl")} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("bash", "-euc", places.Replace(fromPage(t, "run: dynsec"))).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return net.JoinHostPort(host, port)
}

// startMosquitto runs mosquitto with the files that configure wrote.
func startMosquitto(t *testing.T, dir, address string) *mosquitto {
	t.Helper()
	m := &mosquitto{address: address, dir: dir, log: &safeBuffer{}}
	program, err := exec.LookPath("mosquitto")
	if err != nil {
		program = "/usr/sbin/mosquitto" // Debian puts it where only root looks
	}
	cmd := exec.Command(program, "-c", filepath.Join(dir, "mosquitto.conf"))
	cmd.Stdout, cmd.Stderr = m.log, m.log
	if err := cmd.Start(); err != nil {
		t.Fatalf("these tests need mosquitto (Debian: mosquitto mosquitto-clients): %v", err)
	}
	m.stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	})
	t.Cleanup(func() {
		m.stop()
		if t.Failed() {
			t.Logf("mosquitto's log:\n%s", m.log)
		}
	})
	within(t, "mosquitto listens", func() bool {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return false
		}
		return conn.Close() == nil
	})
	return m
}

// atMosquitto is a server of ours, devices, and the folder for a mosquitto with its certificates.
func atMosquitto(t *testing.T) (s *site, stop func(), dir string) {
	t.Helper()
	s = newSite(t)
	s.sh(t, `mooring init -q --name Acme `+s.initFlags(""))
	stop = s.serve(t)
	s.sh(t, `mooring ca export --root -o root.pem
mkdir mosquitto`)
	for _, name := range []string{"dev-1", "dev-2", "dev-3", "dev-4", "mooring-kick"} {
		s.enrol(t, name, "device", p256)
	}
	s.enrol(t, "mq", "server", p256, "--dns", "localhost")
	s.sh(t, `curl -sSf "$STATUS/ca/devices.pem" > mosquitto/cas.pem
curl -sSf "$STATUS/ca/services.pem" >> mosquitto/cas.pem
cp mq.key mosquitto/server.key
cat mq.pem > mosquitto/server.pem
curl -sSf "$STATUS/ca/services.pem" >> mosquitto/server.pem`)
	return s, stop, filepath.Join(s.dir, "mosquitto")
}

// TestInteropMosquitto has devices of ours at Debian's mosquitto, with the configuration of doc/external-brokers.md: what is forbidden is refused, whoever claims
// to be another does no harm, and who is reported lost is thrown out by our server and does not come back.
func TestInteropMosquitto(t *testing.T) {
	s, stop, dir := atMosquitto(t)
	agent := strings.NewReplacer("/etc/mosquitto/mooring", dir, "/run/mosquitto/mosquitto.pid", filepath.Join(dir, "pid")).Replace(strings.TrimSpace(fromPage(t, "run: agent")))
	s.sh(t, strings.Replace(agent, "--pid-file "+filepath.Join(dir, "pid"), "--once", 1))
	m := startMosquitto(t, dir, configure(t, dir, "127.0.0.1"))
	host, port, err := net.SplitHostPort(m.address)
	if err != nil {
		t.Fatal(err)
	}
	stop()
	s.sh(t, `rm -f ready.json
mkdir d/brokers
cp root.pem d/kick-ca.pem; cp mooring-kick.pem d/kick.pem; cp mooring-kick.key d/kick.key
sed -i 's|^  # mqtt: .*|  mqtt: "'"$HOST"':8883"|; s|^  # brokers: .*|  brokers: brokers|' d/mooring.yaml`)
	s.write(t, "d/brokers/mosquitto.yaml", strings.ReplaceAll(fromPage(t, "file: mosquitto.yaml"), "mqtt.example.com:8883", "localhost:"+port))
	s.serve(t)
	s.background(t, agent+" --every 5s")
	const at = ` -h "$MQ" -p "$PORT" --cafile root.pem --cert "$NAME.pem" --key "$NAME.key" --insecure -V 5 `
	s.env["MQ"], s.env["PORT"] = host, port
	one, two := s.live(t, m.address, "dev-1"), s.live(t, m.address, "dev-2")
	for _, row := range []struct{ name, flags, want string }{
		{"its own topic", "-t v1/dev-3/telemetry/x", ""},
		{"another's topic", "-t v1/dev-2/telemetry/x", "Not authorized"},
		{"its own commands", "-t v1/dev-3/cmd/x", "Not authorized"},
		{"the control of the broker", "-t '$CONTROL/dynamic-security/v1'", "Not authorized"},
		{"its own topic, by another's identifier and name", "-i dev-1 -u dev-1 -t v1/dev-3/telemetry/x", ""},
		{"another's topic, by its identifier and name", "-i dev-1 -u dev-1 -t v1/dev-1/telemetry/x", "Not authorized"},
	} {
		t.Run("publish to "+row.name, func(t *testing.T) {
			out, _ := s.try(t, `timeout 10 mosquitto_pub`+at+`-q 1 -m x `+row.flags+` 2>&1`, "NAME=dev-3")
			if strings.Contains(out, "Not authorized") != (row.want != "") {
				t.Errorf("said %q, want %q", out, row.want)
			}
			select {
			case <-one:
				t.Error("dev-1 was thrown out")
			default:
			}
		})
	}
	t.Run("listen to another", func(t *testing.T) {
		listener := s.background(t, `exec stdbuf -oL mosquitto_sub`+at+`-q 1 -t 'v1/+/telemetry/#' -d`, "NAME=dev-4")
		within(t, "subscribed, as mosquitto says to everything", func() bool { return strings.Contains(listener.String(), "Subscribed") })
		s.sh(t, `timeout 10 mosquitto_pub`+at+`-q 1 -m secret -t v1/dev-3/telemetry/x`, "NAME=dev-3")
		s.sh(t, `timeout 10 mosquitto_pub`+at+`-q 1 -m secret -t v1/dev-3/telemetry/x`, "NAME=dev-3") // the first one was handled when this is acknowledged
		if strings.Contains(listener.String(), "PUBLISH") {
			t.Errorf("dev-4 hears dev-3:\n%s", listener)
		}
	})
	t.Run("revoked", func(t *testing.T) {
		began := time.Now()
		s.sh(t, `mooring device lost dev-1`)
		select {
		case <-one:
			fmt.Printf("mosquitto: thrown out %v after mooring device lost was started\n", time.Since(began).Round(time.Millisecond))
		case <-time.After(30 * time.Second):
			t.Fatal("still connected 30 s after it was reported lost")
		}
		within(t, "confirmed, as the metrics say", func() bool {
			return strings.Contains(s.sh(t, `curl -sS --cacert root.pem --cert d/operator/cert.pem --key d/operator/key.pem "$API/metrics" | grep '^mooring_broker_'`), `mooring_broker_pending{broker="mosquitto"} 0`)
		})
		try := func(name string) string {
			out, _ := s.try(t, `timeout 10 mosquitto_pub`+at+`-q 1 -m x -t "v1/$NAME/telemetry/x" 2>&1`, "NAME="+name)
			return out
		}
		within(t, "refused by the list", func() bool { return strings.Contains(try("dev-1"), "rror") })
		fmt.Printf("mosquitto: new connections are refused %v after the revocation, with an agent that asks every five seconds\n", time.Since(began).Round(time.Millisecond))
		// Whoever came back before that is thrown out now, for good. Our server does this two minutes after the first time.
		driver := &broker.Mosquitto{Address: m.address, TLS: s.tls(t, "mooring-kick")}
		if err := driver.Kick(t.Context(), []string{"dev-1"}); err != nil {
			t.Fatal(err)
		}
		if out := try("dev-1"); !strings.Contains(out, "rror") {
			t.Errorf("dev-1 still comes in: %s", out)
		}
		if out := try("dev-3"); strings.Contains(out, "rror") {
			t.Errorf("dev-3 was hit as well: %s", out)
		}
		select {
		case <-two:
			t.Error("dev-2 was thrown out as well")
		default:
		}
	})
}

// TestInteropMosquittoAsks has a mosquitto ask our webhook in the dialect of mosquitto-go-auth, by a plugin of the test's own: the policy decides, who is suspended may nothing from then on, and
// while our server is away nobody may anything.
func TestInteropMosquittoAsks(t *testing.T) {
	s, stop, dir := atMosquitto(t)
	s.enrol(t, "back", "service", p256)
	stop()
	port := freePort(t)
	s.sh(t, `rm -f ready.json
SECRET=$(openssl rand -hex 16)
mkdir d/brokers
printf 'dialect: goauth\nsecret_sha256: %s\ncertified: true\n' "$(printf %s "$SECRET" | sha256sum | cut -d' ' -f1)" > d/brokers/asks.yaml
sed -i 's|^  # hooks: .*|  hooks: "'"$HOST"':9445"|; s|^  # brokers: .*|  brokers: brokers|' d/mooring.yaml
gcc -shared -fPIC -O2 -o mosquitto/asks.so "$SOURCE"
cat > mosquitto/mosquitto.conf <<END
listener $PORT 127.0.0.1
cafile $PWD/mosquitto/cas.pem
certfile $PWD/mosquitto/server.pem
keyfile $PWD/mosquitto/server.key
require_certificate true
use_identity_as_username true
use_username_as_clientid true
allow_anonymous false
plugin $PWD/mosquitto/asks.so
plugin_opt_url https://$HOST:9445/hooks/v1/goauth
plugin_opt_key $SECRET
plugin_opt_root $PWD/root.pem
log_type all
END
[ "$(id -u)" != 0 ] || echo user root >> mosquitto/mosquitto.conf`, "PORT="+port, "SOURCE="+absolute(t, "testdata/asks.c"))
	stop = s.serve(t)
	startMosquitto(t, dir, "127.0.0.1:"+port)
	s.env["PORT"] = port
	const at = ` -h 127.0.0.1 -p "$PORT" --cafile root.pem --cert "$NAME.pem" --key "$NAME.key" --insecure -V 5 -q 1 `
	try := func(t *testing.T, name, command string, refused bool) {
		t.Helper()
		out, _ := s.try(t, "timeout 20 "+strings.Replace(command, " ", at, 1)+" 2>&1", "NAME="+name)
		if said := strings.Contains(out, "Not authorized") || strings.Contains(out, "denied"); said != refused {
			t.Errorf("%s as %s: refused is %v, want %v; it said %q", command, name, said, refused, out)
		}
	}
	for _, row := range []struct {
		who, what string
		refused   bool
	}{
		{"dev-3", "mosquitto_pub -m x -t v1/dev-3/telemetry/x", false},
		{"dev-3", "mosquitto_pub -m x -t v1/dev-3/telemetry", true}, // the level above, which an access list of mosquitto lets pass
		{"dev-3", "mosquitto_pub -m x -t v1/dev-2/telemetry/x", true},
		{"dev-3", "mosquitto_pub -m x -t v1/dev-3/cmd/x", true},
		{"dev-3", "mosquitto_sub -E -t v1/dev-3/cmd/+", false},
		{"dev-3", "mosquitto_sub -E -t v1/dev-2/cmd/+", true},
		{"dev-3", "mosquitto_sub -E -t '#'", true},
		{"back", "mosquitto_sub -E -t 'v1/+/telemetry/#'", false},
		{"back", "mosquitto_pub -m x -t v1/dev-3/cmd/x", false},
	} {
		t.Run(row.who+" "+row.what, func(t *testing.T) { try(t, row.who, row.what, row.refused) })
	}
	t.Run("what is allowed arrives", func(t *testing.T) {
		listener := s.background(t, `exec stdbuf -oL mosquitto_sub`+at+`-t 'v1/+/telemetry/#' -d`, "NAME=back")
		within(t, "subscribed", func() bool { return strings.Contains(listener.String(), "Subscribed") })
		try(t, "dev-3", "mosquitto_pub -m 21.5 -t v1/dev-3/telemetry/x", false)
		within(t, "heard", func() bool { return strings.Contains(listener.String(), "21.5") })
	})
	t.Run("suspended", func(t *testing.T) {
		s.sh(t, `mooring device suspend dev-3`)
		try(t, "dev-3", "mosquitto_pub -m x -t v1/dev-3/telemetry/x", true)
		try(t, "dev-2", "mosquitto_pub -m x -t v1/dev-2/telemetry/x", false)
		s.sh(t, `mooring device resume dev-3`)
		try(t, "dev-3", "mosquitto_pub -m x -t v1/dev-3/telemetry/x", false)
	})
	t.Run("our server is away", func(t *testing.T) {
		stop()
		try(t, "dev-2", "mosquitto_pub -m x -t v1/dev-2/telemetry/x", true)
	})
}

func absolute(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// live connects a device and returns a channel that is closed when the connection has ended.
func (s *site) live(t *testing.T, address, name string) <-chan struct{} {
	t.Helper()
	gone, err := connect(t, address, s.tls(t, name))
	if err != nil {
		t.Fatalf("connecting %s: %v", name, err)
	}
	return gone
}

// tls is how a device connects.
func (s *site) tls(t *testing.T, name string) *tls.Config {
	t.Helper()
	own, err := tls.X509KeyPair(s.read(t, name+".pem"), s.read(t, name+".key"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(s.read(t, "root.pem")) {
		t.Fatal("root.pem has no certificate")
	}
	return &tls.Config{RootCAs: roots, ServerName: "localhost", Certificates: []tls.Certificate{own}}
}

// background runs a script until the test ends, and returns what it prints.
func (s *site) background(t *testing.T, script string, variables ...string) *safeBuffer {
	t.Helper()
	cmd := exec.Command("bash", "-euc", "exec 2>&1\n"+strings.Replace(script, "mooring broker-agent", "exec mooring broker-agent", 1))
	cmd.Dir, cmd.Env = s.dir, append(s.environ(), variables...)
	out := &safeBuffer{}
	cmd.Stdout = out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s\nprinted\n%s", script, out)
		}
	})
	return out
}

// authority makes certificates by name, for the conformance suite: its names are none that a registry would let pass.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	last int64
}

func (a *authority) issue(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a.last++
	template := &x509.Certificate{SerialNumber: big.NewInt(a.last), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"localhost"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: a.cert == nil, BasicConstraintsValid: true}
	above, signer := template, key
	if a.cert != nil {
		above, signer = a.cert, a.key
	} else {
		template.KeyUsage, template.SubjectKeyId = x509.KeyUsageCertSign|x509.KeyUsageCRLSign, []byte{1}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, above, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert == nil {
		a.key = key
		if a.cert, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// files writes what the page's configuration names.
func (a *authority) files(t *testing.T, dir string) {
	t.Helper()
	server := a.issue(t, "localhost")
	key, err := x509.MarshalPKCS8PrivateKey(server.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	list, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour)}, a.cert, a.key)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string]pem.Block{
		"cas.pem": {Type: "CERTIFICATE", Bytes: a.cert.Raw}, "server.pem": {Type: "CERTIFICATE", Bytes: server.Certificate[0]}, "server.key": {Type: "PRIVATE KEY", Bytes: key}, "devices.crl": {Type: "X509 CRL", Bytes: list},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestInteropMosquittoDriver holds the kick driver to the conformance suite with a real mosquitto.
func TestInteropMosquittoDriver(t *testing.T) {
	brokertest.Test(t, func(t *testing.T) brokertest.Bench {
		dir := t.TempDir()
		a := &authority{}
		a.issue(t, "Test")
		a.files(t, dir)
		m := startMosquitto(t, dir, configure(t, dir, "127.0.0.1"))
		roots := x509.NewCertPool()
		roots.AddCert(a.cert)
		as := func(name string) *tls.Config {
			return &tls.Config{RootCAs: roots, ServerName: "localhost", Certificates: []tls.Certificate{a.issue(t, name)}}
		}
		return brokertest.Bench{Driver: &broker.Mosquitto{Address: m.address, TLS: as("mooring-kick")}, Stop: m.stop,
			Connect: func(t *testing.T, name string) (<-chan struct{}, error) { return connect(t, m.address, as(name)) }}
	})
}

// connect connects a client and returns a channel that is closed when the connection has ended.
func connect(t *testing.T, address string, config *tls.Config) (<-chan struct{}, error) {
	t.Helper()
	conn, err := tls.Dial("tcp", address, config)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := conn.Write((mqtt.Connect{Version: mqtt.V311, CleanStart: true, ClientID: "x"}).Append(nil, mqtt.V311)); err != nil {
		return nil, err
	}
	ack := make([]byte, 4)
	if _, err := io.ReadFull(conn, ack); err != nil {
		return nil, err
	}
	if ack[3] != 0 {
		return nil, fmt.Errorf("refused with %d", ack[3])
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = io.Copy(io.Discard, conn)
	}()
	return gone, nil
}
