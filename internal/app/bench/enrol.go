package bench

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/csv"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"mooring/internal/app"
	"mooring/internal/base/conf"
	"mooring/internal/core/access"
	"mooring/internal/core/device"
	"mooring/internal/server/api/client"
	"mooring/wire/der"
)

// EnrolOptions say what Enrol measures.
type EnrolOptions struct {
	// Databases are "sqlite", or URLs of PostgreSQL servers, in which a schema is made and dropped.
	Databases  []string
	Registered []int // devices in the registry
	Clients    []int // keep-alive connections at once
	N          int   // enrolments in each measurement
	Rounds     int   // measurements of each case; the median counts
	// Serve returns a command that serves the data directory and writes its addresses as JSON to the file ready.
	Serve func(dir, ready string) *exec.Cmd
	// Progress, if not nil, is told what is being done.
	Progress func(text string)
	// Protocol is one of Protocols; "" is "est".
	Protocol string

	configure func(c *conf.Config) error                        // changes the configuration; nil: nothing
	equip     func(ctx context.Context, in *installation) error // adds to the installation before devices are registered; nil: nothing
	profile   func(i int) string                                // of device i; nil: that of devices
}

// Enrol measures enrolments by a protocol: each is for another device, with a token and, where the protocol permits, a key of its own, and is answered
// when certificate, registry and audit entry are durable. By EST the connections are kept; the others begin anew for each device, as devices do. The floor is
// what the server must do of cryptography by the protocol itself, on all cores at once, as busy as the server is: see protocols.
func Enrol(ctx context.Context, o EnrolOptions, print func(Line) error) error {
	if _, known := protocols()[o.Protocol]; o.Protocol != "" && !known {
		return fmt.Errorf("there is no protocol %q: use one of %s", o.Protocol, strings.Join(Protocols(), ", "))
	}
	for _, database := range o.Databases {
		if err := o.measure(ctx, database, print); err != nil {
			return fmt.Errorf("measuring on %s: %w", kind(database), err)
		}
	}
	return nil
}

// kind names a database without its URL, which may hold a password.
func kind(database string) string {
	if strings.HasPrefix(database, "postgres") {
		return "postgres"
	}
	return database
}

func (o *EnrolOptions) say(format string, args ...any) {
	if o.Progress != nil {
		o.Progress(fmt.Sprintf(format, args...))
	}
}

// installation is one fresh platform in a process of its own.
type installation struct {
	dir        string
	config     *conf.Config
	tokens     []token // not yet used
	recycle    bool    // there are fewer devices than enrolments: the same ones enrol again, with new tokens
	server     *exec.Cmd
	addresses  app.Addresses
	admin      *client.Client
	postmaster int // the process of the PostgreSQL server; 0 = SQLite
	roots      *x509.CertPool
	root       *x509.Certificate
	speak      *protocol    // nil: EST
	solver     *http.Server // answers challenges of ACME
}

type token struct{ device, secret string }

// measure measures installations of all sizes by turns, so that what else the machine does in the meantime falls on all of them.
func (o *EnrolOptions) measure(ctx context.Context, database string, print func(Line) error) (err error) {
	var fleets []*installation
	for _, registered := range o.Registered {
		in, remove, err := o.run(ctx, database, registered)
		if err != nil {
			return fmt.Errorf("with %d devices: %w", registered, err)
		}
		defer func() { err = errors.Join(err, in.stop(), remove()) }()
		fleets = append(fleets, in)
	}
	samples := make([][][]sample, len(fleets)) // by fleet and number of clients
	for i := range fleets {
		samples[i] = make([][]sample, len(o.Clients))
	}
	for round := range o.Rounds {
		for k, clients := range o.Clients {
			for i, in := range fleets {
				o.say("%s, %d devices: round %d of %d, %d clients", kind(database), o.Registered[i], round+1, o.Rounds, clients)
				s, err := in.sample(ctx, min(o.N, o.Registered[i]), clients)
				if err != nil {
					return fmt.Errorf("with %d devices: %w", o.Registered[i], err)
				}
				samples[i][k] = append(samples[i][k], s)
			}
		}
	}
	name := kind(database)
	if o.Protocol != "" && o.Protocol != "est" {
		name = o.Protocol + " " + name
	}
	for i, in := range fleets {
		for k, clients := range o.Clients {
			l := summary(samples[i][k])
			l.Case = fmt.Sprintf("%s registered=%d clients=%d", name, o.Registered[i], clients)
			l.RSS = rssOf(in.server.Process.Pid)
			if err := print(l); err != nil {
				return err
			}
		}
	}
	for i := 1; i < len(fleets); i++ {
		for k, clients := range o.Clients {
			l := growth(samples[0][k], samples[i][k])
			l.Case = fmt.Sprintf("%s growth from registered=%d to %d clients=%d", name, o.Registered[0], o.Registered[i], clients)
			if err := print(l); err != nil {
				return err
			}
		}
	}
	return nil
}

// growth compares what one fleet cost with what another did in the same rounds, which takes the place of the floor.
func growth(few, many []sample) Line {
	l := Line{Bench: "enrol"}
	var cpu, floor, ratio []float64
	for i := range few {
		l.N += many[i].n
		a, b := few[i].server+few[i].database, many[i].server+many[i].database
		cpu, floor, ratio = append(cpu, b), append(floor, a), append(ratio, b/a)
	}
	l.CPU, l.Floor, l.Ratio = median(cpu), median(floor), median(ratio)
	return l
}

// run makes an installation, starts its server and waits until that is at rest. The returned function removes it after the server has stopped.
func (o *EnrolOptions) run(ctx context.Context, database string, registered int) (in *installation, remove func() error, err error) {
	o.say("%s: registering %d devices", kind(database), registered)
	in, remove, err = o.install(ctx, database, registered)
	if err != nil {
		return nil, nil, err
	}
	if err = in.start(ctx, o.Serve); err == nil {
		o.say("%s: waiting until the record of %d devices has its place in the tree", kind(database), registered)
		if err = in.quiet(ctx); err == nil {
			return in, remove, nil
		}
	}
	return nil, nil, errors.Join(err, in.stop(), remove())
}

func summary(samples []sample) Line {
	l := Line{Bench: "enrol"}
	var rate, cpu, floor, ratio, server, base []float64
	for _, s := range samples {
		l.N += s.n
		rate, cpu, floor, ratio = append(rate, s.rate), append(cpu, s.server+s.database), append(floor, s.floor), append(ratio, (s.server+s.database)/s.floor)
		server, base = append(server, s.server), append(base, s.database)
	}
	l.PerS, l.CPU, l.Floor, l.Ratio, l.Server, l.DBShare = median(rate), median(cpu), median(floor), median(ratio), median(server), median(base)
	return l
}

// install makes an installation with a filled registry. The returned function removes it.
func (o *EnrolOptions) install(ctx context.Context, database string, registered int) (in *installation, remove func() error, err error) {
	parent, err := os.MkdirTemp("", "mooring-bench-")
	if err != nil {
		return nil, nil, fmt.Errorf("making a directory: %w", err)
	}
	remove = func() error { return os.RemoveAll(parent) }
	defer func() {
		if err != nil {
			err = errors.Join(err, remove())
		}
	}()
	c, err := app.Loopback("Mooring Bench")
	if err != nil {
		return nil, nil, err
	}
	c.Log.Level = "warn"
	if o.configure != nil {
		if err := o.configure(c); err != nil {
			return nil, nil, err
		}
	}
	in = &installation{dir: filepath.Join(parent, "data"), config: c, speak: protocols()[o.Protocol]}
	if in.speak != nil {
		if err := in.speak.configure(c); err != nil {
			return nil, nil, err
		}
	}
	if kind(database) == "postgres" {
		if in.postmaster, err = postmasterOf(ctx, database); err != nil {
			return nil, nil, err
		}
		url, drop, err := schema(ctx, database)
		if err != nil {
			return nil, nil, err
		}
		c.Database.URL = url
		remove = func() error { return errors.Join(drop(), os.RemoveAll(parent)) }
	}
	made, err := app.Init(ctx, app.InitOptions{Dir: in.dir, Config: c})
	if err != nil {
		return nil, nil, err
	}
	if in.root, in.roots, err = readRoots(made.Root); err != nil {
		return nil, nil, err
	}
	if in.speak != nil {
		if err := in.speak.write(c.ProfileDir()); err != nil {
			return nil, nil, err
		}
	}
	need := o.N * o.Rounds * len(o.Clients)
	in.recycle = registered < need
	if o.equip != nil {
		if err := o.equip(ctx, in); err != nil {
			return nil, nil, err
		}
	}
	profile := o.profile
	if profile == nil {
		name := "device"
		if in.speak != nil {
			name = in.speak.profile.name
		}
		profile = func(int) string { return name }
	}
	if err := in.register(ctx, registered, need, profile); err != nil {
		return nil, nil, err
	}
	if in.postmaster != 0 {
		o.say("%s: letting the database finish with %d devices", kind(database), registered)
		err = settle(ctx, c.Database.URL)
	}
	return in, remove, err
}

func readRoots(path string) (*x509.Certificate, *x509.CertPool, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the root certificate: %w", err)
	}
	block, _ := pem.Decode(text)
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("parsing the root certificate: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(root)
	return root, pool, nil
}

// register imports the devices, with tokens, and keeps those of need devices that lie evenly among all.
func (in *installation) register(ctx context.Context, registered, need int, profile func(i int) string) (err error) {
	p, err := app.Open(ctx, app.Options{Config: in.config})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	list, out := io.Pipe()
	given, keep := io.Pipe()
	go func() {
		var err error
		fmt.Fprintln(out, "name,group,profile")
		for i := 0; i < registered && err == nil; i++ {
			_, err = fmt.Fprintf(out, "meter-%07d,group-%d,%s\n", i, i%100, profile(i))
		}
		out.CloseWithError(err)
	}()
	collected := make(chan error, 1)
	go func() {
		err := in.collect(given, max(registered/need, 1))
		given.CloseWithError(err)
		collected <- err
	}()
	actor := access.Actor{Kind: access.KindLocal, ID: "bench", Role: access.RoleAdmin}
	_, err = p.Devices.Import(ctx, actor, device.Source{R: list, Name: "fleet.csv", Format: "csv", Tokens: keep}, nil)
	keep.CloseWithError(err)
	return errors.Join(err, <-collected)
}

func (in *installation) collect(r io.Reader, stride int) error {
	rows := csv.NewReader(r)
	rows.ReuseRecord = true
	for i := -1; ; i++ {
		row, err := rows.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if i >= 0 && i%stride == 0 {
			in.tokens = append(in.tokens, token{strings.Clone(row[0]), strings.Clone(row[1])})
		}
	}
}

// start runs the server and waits until it says that it is ready.
func (in *installation) start(ctx context.Context, serve func(dir, ready string) *exec.Cmd) error {
	ready := filepath.Join(filepath.Dir(in.dir), "ready.json")
	in.server = serve(in.dir, ready)
	var said bytes.Buffer
	in.server.Stderr = &said
	if err := in.server.Start(); err != nil {
		return fmt.Errorf("starting the server: %w", err)
	}
	deadline := time.Now().Add(time.Minute)
	for {
		text, err := os.ReadFile(ready)
		if err == nil && json.Unmarshal(text, &in.addresses) == nil && in.addresses.EST != "" {
			in.admin = client.New(in.config.SocketPath())
			return nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return errors.Join(fmt.Errorf("the server did not become ready: %s", said.String()), in.stop())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// quiet waits until the sequencer has nothing left to do, so that the entries of the import are not taken for work of the enrolments.
func (in *installation) quiet(ctx context.Context) error {
	const look, calm = time.Second, 2
	for size, same := int64(-1), 0; same < calm; {
		time.Sleep(look)
		c, err := in.admin.Checkpoint(ctx)
		if err != nil {
			return fmt.Errorf("asking how far the record has got: %w", err)
		}
		if same++; c.Size != size {
			size, same = c.Size, 0
		}
	}
	return nil
}

func (in *installation) stop() error {
	if in.server == nil || in.server.Process == nil {
		return nil
	}
	if err := in.server.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stopping the server: %w", err)
	}
	err := in.server.Wait()
	in.server = nil
	return err
}

// take returns n tokens of different devices.
func (in *installation) take(ctx context.Context, n int) ([]token, error) {
	taken := in.tokens[:n]
	if !in.recycle {
		in.tokens = in.tokens[n:]
		return taken, nil
	}
	for i := range taken {
		given, err := in.admin.NewToken(ctx, taken[i].device, time.Hour)
		if err != nil {
			return nil, fmt.Errorf("asking for a token: %w", err)
		}
		taken[i].secret = given.Token
	}
	return taken, nil
}

// sample is one measurement; times are microseconds of CPU for one enrolment.
type sample struct {
	n                       int
	rate                    float64 // enrolments per second
	server, database, floor float64
}

func (in *installation) sample(ctx context.Context, n, clients int) (s sample, err error) {
	tokens, err := in.take(ctx, n)
	if err != nil {
		return s, err
	}
	run, end, err := in.ready(ctx, tokens, clients)
	if err != nil {
		return s, err
	}
	defer end()
	floor := floor
	if in.speak != nil {
		floor = in.speak.floor
	}
	before, err := floor()
	if err != nil {
		return s, err
	}
	server, database, err := in.cpu()
	if err != nil {
		return s, err
	}
	began := time.Now()
	if err := run(); err != nil {
		return s, err
	}
	took := time.Since(began)
	server2, database2, err := in.cpu()
	if err != nil {
		return s, err
	}
	after, err := floor()
	if err != nil {
		return s, err
	}
	return sample{n: n, rate: float64(n) / took.Seconds(), server: micros(server2-server, n), database: micros(database2-database, n), floor: (before + after) / 2}, nil
}

// ready prepares one enrolment for each token, up to what is to be measured.
func (in *installation) ready(ctx context.Context, tokens []token, clients int) (run func() error, end func(), err error) {
	if in.speak != nil {
		each, err := in.speak.prepare(ctx, in, tokens)
		return func() error { return byMany(clients, len(tokens), each) }, func() {}, err
	}
	jobs, err := prepare(tokens)
	if err != nil {
		return nil, nil, err
	}
	conns, err := dial(ctx, strings.TrimPrefix(in.addresses.EST, "https://"), in.roots, clients)
	return func() error { return conns.run(jobs) }, conns.close, err
}

func (in *installation) cpu() (server, database time.Duration, err error) {
	if server, err = cpuOf(in.server.Process.Pid); err != nil || in.postmaster == 0 {
		return server, 0, err
	}
	database, err = cpuOfDatabase(in.postmaster)
	return server, database, err
}

// prepare makes a key and a request for each token, on all cores.
func prepare(tokens []token) ([]job, error) {
	jobs := make([]job, len(tokens))
	failed := make([]error, len(tokens))
	spread(len(tokens), func(i int) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			failed[i] = err
			return
		}
		csr, err := certificationRequest(tokens[i].device, key)
		jobs[i], failed[i] = newJob(tokens[i], csr), err
	})
	return jobs, errors.Join(failed...)
}

// spread calls do for 0 … n-1 on all cores.
func spread(n int, do func(i int)) {
	var next atomic.Int64
	var all sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				do(i)
			}
		})
	}
	all.Wait()
}

// floor returns the microseconds of CPU for checking a request and signing once, with all cores busy.
func floor() (float64, error) {
	once, err := issueOnce()
	if err != nil {
		return 0, err
	}
	return costOf(3000, once)
}

// issueOnce returns what checks a request and signs once.
func issueOnce() (func() error, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	csr, err := certificationRequest("meter-0000001", key)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(csr)
	return func() error {
		request, err := der.ParseRequest(csr)
		if err == nil {
			err = request.CheckSignature()
		}
		if err == nil {
			_, err = ecdsa.SignASN1(rand.Reader, key, digest[:])
		}
		return err
	}, nil
}

// costOf returns the microseconds of CPU that each of n calls costs, with all cores busy.
func costOf(n int, once func() error) (float64, error) {
	var failed atomic.Int64
	began := cpuSelf()
	spread(n, func(int) {
		if once() != nil {
			failed.Add(1)
		}
	})
	cost := micros(cpuSelf()-began, n)
	if failed.Load() > 0 {
		return 0, errors.New("the floor could not be measured: a check or signature failed")
	}
	return cost, nil
}
