package bench

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"mooring/internal/core/message/policy"
	"mooring/wire/mqtt"
)

// Connect measures what a device's connection costs: mutual TLS 1.3 with CONNECT and CONNACK, with a full handshake and with a resumed session, each for a
// device of its own; the memory of idle connections with one subscription; and one decision of the policy. The floor of a connection is a loop of
// crypto/tls that accepts the same clients, demands and verifies their certificates, reads what they say and answers four octets, in a process of its own.
func Connect(ctx context.Context, o TalkOptions, print func(Line) error) (err error) {
	f, err := o.gather(ctx, o.Devices)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	bare, err := o.startBareTLS(ctx, f)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bare.stop()) }()
	if err := o.handshakes(ctx, f, bare, print); err != nil {
		return err
	}
	if err := o.idle(ctx, f, print); err != nil {
		return err
	}
	line, err := decision()
	if err != nil {
		return err
	}
	return print(line)
}

// devicesCA is what the CA that issues for devices is called in a new installation.
const devicesCA = "devices"

// ended is what happened in one measurement of connections.
type ended struct {
	cpu, rate float64
}

// handshakes measures both servers by turns.
func (o *TalkOptions) handshakes(ctx context.Context, f *fleet, bare *bareServer, print func(Line) error) error {
	for _, resumed := range []bool{false, true} {
		name := "mutual TLS 1.3"
		if resumed {
			name += ", resumed"
		}
		var ours, theirs []ended
		for round := range o.Rounds {
			o.say("%s: round %d of %d", name, round+1, o.Rounds)
			a, err := o.connects(ctx, f, f.mqtt(), f.server.Process.Pid, resumed, func(d *talker, c *tls.Conn) error {
				l, err := d.begin(c)
				if err != nil {
					return err
				}
				return l.farewell()
			})
			if err != nil {
				return err
			}
			b, err := o.connects(ctx, f, bare.address, bare.cmd.Process.Pid, resumed, bareOnce)
			if err != nil {
				return err
			}
			ours, theirs = append(ours, a), append(theirs, b)
		}
		l := Line{Bench: "connect", Case: name, N: o.N * o.Rounds, RSS: rssOf(f.server.Process.Pid)}
		l.CPU, l.Floor = medianOf(ours, func(e ended) float64 { return e.cpu }), medianOf(theirs, func(e ended) float64 { return e.cpu })
		l.PerS, l.Ratio = medianOf(ours, func(e ended) float64 { return e.rate }), l.CPU/l.Floor
		if err := print(l); err != nil {
			return err
		}
	}
	return nil
}

func medianOf[T any](list []T, value func(T) float64) float64 {
	values := make([]float64, len(list))
	for i, one := range list {
		values[i] = value(one)
	}
	return median(values)
}

// connects has n devices connect, talk and leave, and returns what that cost the process pid. With resumed each has been there before.
func (o *TalkOptions) connects(ctx context.Context, f *fleet, address string, pid int, resumed bool, talk func(*talker, *tls.Conn) error) (e ended, err error) {
	caches := make([]tls.ClientSessionCache, o.N)
	once := func(i int) error {
		d := &f.devices[i%len(f.devices)]
		c, err := d.reach(ctx, address, f.installation, caches[i])
		if err != nil {
			return err
		}
		if resumed && caches[i] != nil && c.ConnectionState().DidResume != (caches[i].(*oneSession).used > 0) {
			return fmt.Errorf("%s could not resume its session", d.name)
		}
		return talk(d, c)
	}
	if resumed {
		for i := range caches {
			caches[i] = &oneSession{}
		}
		if err := byMany(o.Clients, o.N, once); err != nil {
			return e, err
		}
		for _, c := range caches {
			c.(*oneSession).used++
		}
	}
	before, err := cpuOf(pid)
	if err != nil {
		return e, err
	}
	began := time.Now()
	if err := byMany(o.Clients, o.N, once); err != nil {
		return e, err
	}
	took := time.Since(began)
	after, err := cpuOf(pid)
	return ended{cpu: micros(after-before, o.N), rate: float64(o.N) / took.Seconds()}, err
}

// oneSession keeps the last session of one device.
type oneSession struct {
	state *tls.ClientSessionState
	used  int
}

func (s *oneSession) Get(string) (*tls.ClientSessionState, bool) { return s.state, s.state != nil }

func (s *oneSession) Put(_ string, state *tls.ClientSessionState) {
	if state != nil {
		s.state = state
	}
}

func bareOnce(d *talker, c *tls.Conn) error {
	hello := mqtt.Connect{Version: mqtt.V5, CleanStart: true, KeepAlive: 1200, ClientID: d.name}.Append(nil, mqtt.V5)
	if _, err := c.Write(hello); err != nil {
		return err
	}
	if _, err := c.Read(make([]byte, 4)); err != nil {
		return fmt.Errorf("the bare server does not answer: %w", err)
	}
	return c.Close()
}

// idle measures the memory of connections that do nothing.
func (o *TalkOptions) idle(ctx context.Context, f *fleet, print func(Line) error) error {
	o.say("idle connections; that takes some five minutes, so that garbage has left before and after")
	before := f.settledRSS(ctx)
	links, err := f.connectAll(ctx, f.devices)
	defer closeAll(links)
	if err != nil {
		return err
	}
	err = byMany(8, len(links), func(i int) error { return links[i].subscribe("v1/"+f.devices[i].name+"/cmd/+", mqtt.AtLeastOnce) })
	if err != nil {
		return err
	}
	after := f.settledRSS(ctx)
	return print(Line{Bench: "connect", Case: "idle connection, one subscription", N: len(links), RSS: after, KiB: (after - before) * 1024 / float64(len(links))})
}

// decision measures one decision of the policy that is built in.
func decision() (Line, error) {
	rights, err := policy.Default().Compile(policy.Subject{Thing: "meter-0000001", Kind: policy.Device, Group: "group-1", Profile: "device"})
	if err != nil {
		return Line{}, err
	}
	const n = 2_000_000
	cost, err := costOf(1, func() error {
		for range n {
			if v := rights.Publish("v1/meter-0000001/telemetry/power", 1, false, 64); !v.OK() {
				return fmt.Errorf("the policy that is built in refuses telemetry")
			}
		}
		return nil
	})
	return Line{Bench: "connect", Case: "decision of the policy", N: n, CPU: cost / n}, err
}

// startBareTLS starts the floor of connections.
func (o *TalkOptions) startBareTLS(ctx context.Context, f *fleet) (*bareServer, error) {
	dir := filepath.Dir(f.dir)
	identity, root, ready := filepath.Join(dir, "bare.pem"), filepath.Join(dir, "root.pem"), filepath.Join(dir, "bare-tls")
	text, err := bareIdentity()
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(identity, text, 0o600); err != nil {
		return nil, err
	}
	// Devices send their own certificate alone, so the floor, too, must know who issued it.
	issuer, err := f.admin.CA(ctx, devicesCA)
	if err != nil {
		return nil, fmt.Errorf("asking for the devices' CA: %w", err)
	}
	if err := os.WriteFile(root, []byte(issuer.Chain), 0o600); err != nil {
		return nil, err
	}
	// The clients must trust it.
	block, _ := pem.Decode(text)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	f.roots.AddCert(cert)
	return waitForBare(ctx, o.Bare(identity, root, ready), ready)
}

// waitForBare starts a process that writes its address to the file ready.
func waitForBare(ctx context.Context, cmd *exec.Cmd, ready string) (*bareServer, error) {
	b := &bareServer{cmd: cmd}
	if err := b.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the bare server: %w", err)
	}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline) && ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
		if text, err := os.ReadFile(ready); err == nil && len(text) > 0 {
			b.address = string(text)
			return b, nil
		}
	}
	return nil, errors.Join(errors.New("the bare server did not become ready"), b.stop())
}

// bareIdentity makes a certificate for localhost with its key, PEM.
func bareIdentity() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bare"}, DNSNames: []string{"localhost"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	return append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})...), nil
}

// ServeBareTLS accepts connections with TLS as crypto/tls does it, demands a certificate that leads to one in the file, reads once, answers four octets and waits
// for the end. It writes its address to the file ready, and ends when it is killed.
func ServeBareTLS(identity, issuers, ready string) error {
	cert, err := tls.LoadX509KeyPair(identity, identity)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(issuers)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return errors.New("there are no certificates in the file")
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, NextProtos: []string{"mqtt"}})
	if err != nil {
		return err
	}
	if err := os.WriteFile(ready, []byte(l.Addr().String()), 0o600); err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func(c net.Conn) {
			defer c.Close() // the client has gone
			buffer := make([]byte, 4096)
			if _, err := c.Read(buffer); err != nil {
				return
			}
			if _, err := c.Write([]byte{0x20, 2, 0, 0}); err != nil {
				return
			}
			for err == nil {
				_, err = c.Read(buffer)
			}
		}(c)
	}
}
