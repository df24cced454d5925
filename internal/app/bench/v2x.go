package bench

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	agent "mooring/agent/v2x"
	"mooring/internal/app"
	"mooring/internal/app/v2xsim"
	"mooring/internal/core/access"
	"mooring/internal/core/device"
	"mooring/wire/butterfly"
)

// V2XOptions say what V2X measures.
type V2XOptions struct {
	N       int // tickets in each round
	Clients int // vehicles at once
	Rounds  int
	Profile string // file whose name, with ".issue" or ".issue-alone" behind it, gets a profile of what is measured in this process; "": none
	// Serve returns a command that serves the data directory and writes its addresses as JSON to the file ready; ServeAA one that runs the authorization
	// authority of a directory.
	Serve    func(dir, ready string) *exec.Cmd
	ServeAA  func(dir string) *exec.Cmd
	Progress func(text string)
}

// V2X measures authorization tickets of TS 102 941 from end to end over HTTP: enrolment authority and authorization authority in processes and stores of their own, requests
// that were made before, each signed with the ticket's key and with the credential, whose signature is encrypted; answered when both stores are durable. The floor is what the
// protocol demands of either side in cryptography, with a question of its own for each ticket:
//
//	AA   a key unwrapped, a key wrapped, two verifications (proof of possession, the EA's answer), three signatures (question, ticket, answer), two points decoded
//	EA   two keys unwrapped, two verifications (the AA's question, the credential's signature), a signature, two points decoded
//
// Questions that leave in one message share of this a key wrapped, a verification and a signature at the AA, and a key unwrapped, a point decoded, a verification and the signature at the EA: with
// very many in each message about half of the floor would be left. So the ratio can fall below 1.
//
// Then it measures the authorization authority by itself (issue), with such messages and with a question for each ticket, by the primitives of as many questions as there were, and what is done for butterfly keys (cocoons).
func V2X(ctx context.Context, o V2XOptions, print func(Line) error) (err error) {
	b := &v2xBench{V2XOptions: o}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := b.prepare(ctx); err != nil {
		return err
	}
	var aa, ea []sample
	for round := range o.Rounds {
		b.say("round %d of %d", round+1, o.Rounds)
		a, e, err := b.sample(ctx)
		if err != nil {
			return err
		}
		aa, ea = append(aa, a), append(ea, e)
	}
	both := make([]sample, len(aa))
	for i := range aa {
		both[i] = sample{n: aa[i].n, rate: aa[i].rate, server: aa[i].server + ea[i].server, floor: aa[i].floor + ea[i].floor}
	}
	for _, l := range []struct {
		name    string
		samples []sample
		pid     int
	}{{"ticket, process of the AA", aa, b.aa.Process.Pid}, {"ticket, process of the EA", ea, b.in.server.Process.Pid}, {"ticket, EA and AA over HTTP", both, b.aa.Process.Pid}} {
		line := summary(l.samples)
		line.Bench, line.Case, line.RSS = "v2x", l.name, rssOf(l.pid)
		if err := print(perCore(line)); err != nil {
			return err
		}
	}
	if err := b.stop(); err != nil {
		return err
	}
	if err := b.issue(ctx, "ticket issue, AA side", true, print); err != nil {
		return err
	}
	if err := b.issue(ctx, "ticket issue, AA side, with a question for each", false, print); err != nil {
		return err
	}
	return b.cocoons(print)
}

type v2xBench struct {
	V2XOptions
	parent string
	in     *installation
	aa     *exec.Cmd
	client *agent.Client
	// carried takes requests for tickets in, instead of the network; nil: it does not.
	carried atomic.Pointer[desk]
	cars    []*agent.Credential
}

func (b *v2xBench) say(format string, args ...any) {
	if b.Progress != nil {
		b.Progress(fmt.Sprintf(format, args...))
	}
}

// benchAA is the configuration of the authorization authority alone.
const benchAA = `name: Mooring Bench
listen: {v2x_aa: %q}
v2x: {aa_dir: %q, dc_url: %q}
log: {level: warn}
limits: {connections_per_address: 2048, handshakes_per_address: 100000, handshakes_per_second: 100000, requests_per_second: 100000, request_burst: 1048576}
`

func (b *v2xBench) prepare(ctx context.Context) (err error) {
	if b.parent, err = os.MkdirTemp("", "mooring-bench-"); err != nil {
		return fmt.Errorf("making a directory: %w", err)
	}
	c, err := app.LoopbackV2X("Mooring Bench")
	if err != nil {
		return err
	}
	listen := c.Listen.V2XAA
	c.Log.Level, c.V2X.Tickets, c.V2X.AAURL, c.Listen.V2XAA = "warn", 10_000, "http://"+listen, ""
	b.in = &installation{dir: filepath.Join(b.parent, "data"), config: c}
	made, err := app.Init(ctx, app.InitOptions{Dir: b.in.dir, Config: c})
	if err != nil {
		return err
	}
	v2x, err := app.MakeV2X(ctx, app.Options{Config: c, Keys: made.Keys}, "Bench")
	if err != nil {
		return err
	}
	keys, err := b.register(ctx, app.Options{Config: c, Keys: made.Keys})
	if err != nil {
		return err
	}
	apart := filepath.Join(b.parent, "aa")
	if err := os.Mkdir(apart, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(apart, "mooring.yaml"), fmt.Appendf(nil, benchAA, listen, v2x.Dir, c.V2XDCURL()), 0o600); err != nil {
		return err
	}
	if err := b.in.start(ctx, b.Serve); err != nil {
		return err
	}
	if err := b.startAA(ctx, apart, listen); err != nil {
		return err
	}
	kept := &carrier{bench: b, network: &http.Transport{MaxIdleConnsPerHost: b.Clients}} // the cost of connections is not what is measured
	if b.client, err = agent.New(agent.Config{Root: v2x.Certificate, DC: c.V2XDCURL(), Now: time.Now, Transport: kept}); err != nil {
		return err
	}
	return b.enrol(ctx, keys)
}

// carrier carries requests of vehicles to the authorities, or to the desk.
type carrier struct {
	bench   *v2xBench
	network http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (c *carrier) RoundTrip(r *http.Request) (*http.Response, error) {
	if d := c.bench.carried.Load(); d != nil && r.Method == http.MethodPost {
		return d.RoundTrip(r)
	}
	return c.network.RoundTrip(r)
}

// register makes the vehicles.
func (b *v2xBench) register(ctx context.Context, o app.Options) (keys []*ecdsa.PrivateKey, err error) {
	p, err := app.Open(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	for i := range b.Clients {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		canonical, err := v2xsim.CanonicalKey(key)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
		if _, err := p.Devices.Add(ctx, access.Actor{Kind: access.KindLocal, ID: "bench", Role: access.RoleAdmin},
			device.Spec{Name: fmt.Sprintf("car-%d", i), Profile: "device", Tags: map[string]string{"v2x": "vehicle", "v2x-key": canonical}}); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

func (b *v2xBench) startAA(ctx context.Context, dir, address string) error {
	b.aa = b.ServeAA(dir)
	var said bytes.Buffer
	b.aa.Stderr = &said
	if err := b.aa.Start(); err != nil {
		return fmt.Errorf("starting the authorization authority: %w", err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("the authorization authority did not become ready: %s", said.String())
		}
	}
}

func (b *v2xBench) enrol(ctx context.Context, keys []*ecdsa.PrivateKey) error {
	if err := b.client.Update(ctx); err != nil {
		return err
	}
	for i, key := range keys {
		ec, err := b.client.Enrol(ctx, fmt.Sprintf("car-%d", i), key)
		if err != nil {
			return err
		}
		b.cars = append(b.cars, ec)
	}
	return nil
}

// sample measures one round. Requests are made before, on all cores.
func (b *v2xBench) sample(ctx context.Context) (aa, ea sample, err error) {
	requests := make([]*agent.Pending, b.N)
	failed := make([]error, b.N)
	spread(b.N, func(i int) { requests[i], failed[i] = b.client.Prepare(b.cars[i%len(b.cars)], agent.Order{}) })
	if err := errors.Join(failed...); err != nil {
		return aa, ea, err
	}
	floor, err := floorsV2X()
	if err != nil {
		return aa, ea, err
	}
	before, began := b.cpu(), time.Now()
	err = byMany(b.Clients, b.N, func(i int) error { _, err := b.client.Send(ctx, requests[i]); return err })
	took, after := time.Since(began), b.cpu()
	if err != nil {
		return aa, ea, err
	}
	again, err := floorsV2X()
	if err != nil {
		return aa, ea, err
	}
	floor = floor.between(again)
	rate := float64(b.N) / took.Seconds()
	aa = sample{n: b.N, rate: rate, server: micros(after[0]-before[0], b.N), floor: floor.aa}
	ea = sample{n: b.N, rate: rate, server: micros(after[1]-before[1], b.N), floor: floor.ea}
	return aa, ea, nil
}

// cpu is the CPU time of both authorities.
func (b *v2xBench) cpu() (used [2]time.Duration) {
	for i, cmd := range []*exec.Cmd{b.aa, b.in.server} {
		used[i], _ = cpuOf(cmd.Process.Pid) // a process that is gone shows by requests that fail
	}
	return used
}

// v2xFloors are the costs of the primitives of either side, with a question for each ticket, and of those of a question by itself at the authorization authority.
type v2xFloors struct{ aa, ea, question float64 }

// between is the mean of floors measured before and after a round: the machine changes while it runs.
func (f v2xFloors) between(after v2xFloors) v2xFloors {
	return v2xFloors{(f.aa + after.aa) / 2, (f.ea + after.ea) / 2, (f.question + after.question) / 2}
}

// floorsV2X measures the primitives.
func floorsV2X() (f v2xFloors, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return f, err
	}
	private, err := butterfly.RandomScalar(rand.Reader)
	if err != nil {
		return f, err
	}
	digest := sha256.Sum256([]byte("a message"))
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		return f, err
	}
	public := private.Public()
	wrapped, err := butterfly.Wrap(rand.Reader, public, [16]byte{1}, nil)
	if err != nil {
		return f, err
	}
	octets := public.Bytes()
	wrap := func() error { _, err := butterfly.Wrap(rand.Reader, public, [16]byte{1}, nil); return err }
	decode := func() error { _, err := butterfly.NewPoint(octets); return err } // as points come: of an ephemeral key, of a station's key
	unwrap := func() error { _, err := butterfly.Unwrap(private, wrapped, nil); return err }
	sign := func() error { _, err := ecdsa.SignASN1(rand.Reader, key, digest[:]); return err }
	verify := func() error {
		if !ecdsa.VerifyASN1(&key.PublicKey, digest[:], signature) {
			return errors.New("a signature does not verify")
		}
		return nil
	}
	if f.aa, err = costOf(500, inTurn(decode, unwrap, wrap, decode, verify, verify, sign, sign, sign)); err != nil {
		return f, err
	}
	if f.ea, err = costOf(500, inTurn(decode, unwrap, decode, unwrap, verify, verify, sign)); err != nil {
		return f, err
	}
	f.question, err = costOf(500, inTurn(wrap, verify, sign))
	return f, err
}

// stop ends the processes of the authorities.
func (b *v2xBench) stop() error {
	var all []error
	if b.aa != nil && b.aa.Process != nil {
		all = append(all, b.aa.Process.Signal(syscall.SIGTERM), b.aa.Wait())
		b.aa = nil
	}
	if b.in != nil && b.in.server != nil {
		all = append(all, b.in.stop())
		b.in.server = nil
	}
	return errors.Join(all...)
}

func (b *v2xBench) close() error {
	all := []error{b.stop()}
	if b.parent != "" {
		all = append(all, os.RemoveAll(b.parent))
	}
	return errors.Join(all...)
}
