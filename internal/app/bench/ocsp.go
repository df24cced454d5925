package bench

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"mooring/internal/app"
	"mooring/internal/base/db"
	"mooring/internal/core/ca"
	"mooring/wire/der"
	"mooring/wire/ocsp"
)

// OCSPOptions say what OCSP measures.
type OCSPOptions struct {
	Certificates int // in the database
	Asked        int // different ones that are asked for
	Clients      int // keep-alive connections at once
	N            int // questions in each measurement of kept answers; a tenth of it where each is signed
	Rounds       int // measurements of each case; the median counts
	// Serve returns a command that serves the data directory and writes its addresses as JSON to the file ready.
	Serve func(dir, ready string) *exec.Cmd
	// Bare returns a command that runs ServeBare with the file.
	Bare     func(file, ready string) *exec.Cmd
	Progress func(text string) // told what is being done; nil: nobody
}

// Recorded is an answer as a server gave it, for ServeBare to repeat.
type Recorded struct {
	Header http.Header
	Body   []byte
}

// OCSP measures questions over keep-alive HTTP against the status listener of a server in a process of its own, with its limits, counters and
// log as they are by default. The floor is a bare net/http server that answers every question with the same octets, header and body, in a
// process of its own too; where answers are signed, it is that and one P-256 signature. CPU time of the client does not count. Answers per
// core and second are 1,000,000 / CPU.
func OCSP(ctx context.Context, o OCSPOptions, print func(Line) error) (err error) {
	in, remove, err := o.install(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	if err := in.start(ctx, o.Serve); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.stop()) }()
	address := strings.TrimPrefix(in.addresses.Status, "http://")
	o.say("asking for %d certificates the first time", o.Asked)
	if err := in.warm(ctx, address, &o); err != nil {
		return err
	}
	bare, err := in.startBare(ctx, address, &o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bare.stop()) }()
	for _, c := range in.cases(&o) {
		l, err := o.measure(ctx, in, bare, address, c)
		if err != nil {
			return fmt.Errorf("measuring %s: %w", c.name, err)
		}
		if err := print(l); err != nil {
			return err
		}
	}
	return nil
}

func (o *OCSPOptions) say(format string, args ...any) {
	if o.Progress != nil {
		o.Progress(fmt.Sprintf(format, args...))
	}
}

// responder is an installation with many certificates.
type responder struct {
	installation
	issuer *ocsp.Issuer
	asked  [][16]byte // serial numbers whose answers are kept
	fresh  [][16]byte // serial numbers that nobody has asked for yet
}

func (o *OCSPOptions) install(ctx context.Context) (in *responder, remove func() error, err error) {
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
	c.Limits.RequestRate, c.Limits.RequestBurst = 1<<20, 1<<20 // the limits are asked, and do not refuse
	c.OCSP.LivePerSecond = 1 << 20
	in = &responder{installation: installation{dir: filepath.Join(parent, "data"), config: c}}
	if _, err := app.Init(ctx, app.InitOptions{Dir: in.dir, Config: c}); err != nil {
		return nil, nil, err
	}
	o.say("recording %d certificates", o.Certificates)
	return in, remove, in.fill(ctx, o)
}

// fill records certificates without devices and audit entries, which no question looks at: one that was truly issued, and copies of it that
// differ in their serial numbers.
func (in *responder) fill(ctx context.Context, o *OCSPOptions) (err error) {
	p, err := app.Open(ctx, app.Options{Config: in.config})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	model, err := modelCertificate(ctx, p)
	if err != nil {
		return err
	}
	issuer, err := p.CA.IssuerByID(model.Issuer)
	if err != nil {
		return err
	}
	if in.issuer, err = ocsp.NewIssuer(issuer.Certificate().RawSubject, issuer.Certificate().RawSubjectPublicKeyInfo); err != nil {
		return err
	}
	const batch = 2000
	signed := min(o.Certificates/2, o.Rounds*max(1, o.N/10))
	for done := 0; done < o.Certificates; done += batch {
		certs := make([]*ca.Certificate, min(batch, o.Certificates-done))
		for i := range certs {
			if certs[i], err = copyOf(model); err != nil {
				return err
			}
			switch serial := certs[i].Serial; {
			case len(in.asked) < o.Asked && (done+i)%2 == 0:
				in.asked = append(in.asked, serial)
			case len(in.fresh) < signed && (done+i)%2 == 1:
				in.fresh = append(in.fresh, serial)
			}
		}
		if err := p.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error { return tx.Send(ctx, p.CA.InsertStmts(tx, certs)...) }); err != nil {
			return fmt.Errorf("recording certificates: %w", err)
		}
	}
	return nil
}

func modelCertificate(ctx context.Context, p *app.Platform) (*ca.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	raw, err := certificationRequest("meter-000001", key)
	if err != nil {
		return nil, err
	}
	request, err := der.ParseRequest(raw)
	if err != nil {
		return nil, err
	}
	profile, err := p.CA.Profile("device")
	if err != nil {
		return nil, err
	}
	prepared, err := p.CA.Prepare(ctx, ca.Order{Profile: profile, Device: [16]byte{1}, Request: request, Registry: ca.Values{ID: "01000000000000000000000000000000", Name: "meter-000001"}})
	if err != nil {
		return nil, err
	}
	return prepared.Sign(ctx)
}

// copyOf returns the certificate with another serial number, in its cell, as if issued in the same second.
func copyOf(model *ca.Certificate) (*ca.Certificate, error) {
	c := *model
	if _, err := rand.Read(c.Serial[5:]); err != nil {
		return nil, err
	}
	cell, day, err := ca.Locate(c.Serial[:])
	if err != nil {
		return nil, err
	}
	c.Cell, c.Day = cell, day
	c.DER = bytes.Replace(model.DER, model.Serial[:], c.Serial[:], 1)
	binary.BigEndian.PutUint64(c.Device[8:], mrand.Uint64())
	return &c, nil
}

// question is the request for one certificate, by SHA-1 as most clients ask.
func (in *responder) question(serial [16]byte, nonce []byte) ([]byte, error) {
	id, err := in.issuer.CertID(crypto.SHA1, serial[:])
	if err != nil {
		return nil, err
	}
	return ocsp.AppendRequest(nil, []ocsp.CertID{id}, nonce)
}

func post(request []byte) []byte {
	return append(fmt.Appendf(nil, "POST /ocsp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/ocsp-request\r\nContent-Length: %d\r\n\r\n", len(request)), request...)
}

func get(request []byte) []byte {
	return fmt.Appendf(nil, "GET /ocsp/%s HTTP/1.1\r\nHost: localhost\r\n\r\n", ocsp.EncodePath(request))
}

// requests are what goes over the wire for the questions.
func (in *responder) requests(serials [][16]byte, nonce []byte, wire func([]byte) []byte) ([][]byte, error) {
	list := make([][]byte, len(serials))
	for i, serial := range serials {
		q, err := in.question(serial, nonce)
		if err != nil {
			return nil, err
		}
		list[i] = wire(q)
	}
	return list, nil
}

func (in *responder) warm(ctx context.Context, address string, o *OCSPOptions) error {
	all, err := in.requests(in.asked, nil, post)
	if err != nil {
		return err
	}
	_, err = load(ctx, address, o.Clients, len(all), func(i int64) []byte { return all[i] })
	return err
}

// ocspCase is one thing to measure.
type ocspCase struct {
	name   string
	n      int
	signed bool
	next   func(round int) ([][]byte, error) // the requests, asked again from the start when there are fewer than n
}

func (in *responder) cases(o *OCSPOptions) []ocspCase {
	kept := func(wire func([]byte) []byte) func(int) ([][]byte, error) {
		return func(int) ([][]byte, error) { return in.requests(in.asked, nil, wire) }
	}
	few := max(1, o.N/10)
	return []ocspCase{
		{"kept, POST", o.N, false, kept(post)},
		{"kept, GET", o.N, false, kept(get)},
		{"nonce, POST, signed", few, true, func(int) ([][]byte, error) { return in.requests(in.asked, []byte("0123456789abcdef"), post) }},
		{"first question, POST, signed", min(few, len(in.fresh)/o.Rounds), true, func(round int) ([][]byte, error) {
			n := len(in.fresh) / o.Rounds
			return in.requests(in.fresh[round*n:(round+1)*n], nil, post)
		}},
	}
}

// slicesOfRound is into how many parts a round is divided, so that a busy moment of the machine hits both servers alike.
const slicesOfRound = 20

// measure asks the bare server and ours by turns.
func (o *OCSPOptions) measure(ctx context.Context, in *responder, bare *bareServer, address string, c ocspCase) (Line, error) {
	var cpu, floors, ratios, rate []float64
	for round := range o.Rounds {
		o.say("%s: round %d of %d", c.name, round+1, o.Rounds)
		requests, err := c.next(round)
		if err != nil {
			return Line{}, err
		}
		mrand.Shuffle(len(requests), func(i, j int) { requests[i], requests[j] = requests[j], requests[i] })
		sides := [2]side{{pid: bare.cmd.Process.Pid, address: bare.address, n: max(c.n, o.N/2)}, {pid: in.server.Process.Pid, address: address, n: c.n}}
		if err := turns(ctx, o.Clients, &sides, requests); err != nil {
			return Line{}, err
		}
		floor, own := sides[0].cost(), sides[1].cost()
		if c.signed {
			sign, err := signature()
			if err != nil {
				return Line{}, err
			}
			floor += sign
		}
		cpu, floors, ratios, rate = append(cpu, own), append(floors, floor), append(ratios, own/floor), append(rate, float64(c.n)/sides[1].took.Seconds())
	}
	return Line{Bench: "ocsp", Case: c.name, N: c.n * o.Rounds, PerS: median(rate), CPU: median(cpu), Floor: median(floors), Ratio: median(ratios), RSS: rssOf(in.server.Process.Pid)}, nil
}

// side is a server in a round.
type side struct {
	pid       int
	address   string
	n         int // questions
	cpu, took time.Duration
}

// cost returns the microseconds of CPU for one answer.
func (s *side) cost() float64 { return micros(s.cpu, s.n) }

// turns asks both sides in slices, and adds up what each needed. What a server does beside its answers counts, also in the other's slices.
func turns(ctx context.Context, clients int, sides *[2]side, requests [][]byte) error {
	var before [2]time.Duration
	for k := range sides {
		var err error
		if before[k], err = cpuOf(sides[k].pid); err != nil {
			return err
		}
	}
	for slice := range slicesOfRound {
		for k := range sides {
			s := &sides[k]
			from, to := int64(s.n*slice/slicesOfRound), int64(s.n*(slice+1)/slicesOfRound)
			took, err := load(ctx, s.address, clients, int(to-from), func(i int64) []byte { return requests[(from+i)%int64(len(requests))] })
			if err != nil {
				return err
			}
			s.took += took
		}
	}
	for k := range sides {
		after, err := cpuOf(sides[k].pid)
		if err != nil {
			return err
		}
		sides[k].cpu = after - before[k]
	}
	return nil
}

// signature returns the microseconds of CPU for one P-256 signature.
func signature() (float64, error) {
	_, sign, err := standard()
	if err != nil {
		return 0, err
	}
	const n = 2000
	began := cpuSelf()
	for range n {
		if err := sign(); err != nil {
			return 0, err
		}
	}
	return micros(cpuSelf()-began, n), nil
}

// load sends n requests over so many connections, each one after the other, and returns when the last is answered. Every answer must be a
// successful one.
func load(ctx context.Context, address string, clients, n int, pick func(int64) []byte) (time.Duration, error) {
	conns := make([]net.Conn, clients)
	for i := range conns {
		var err error
		if conns[i], err = new(net.Dialer).DialContext(ctx, "tcp", address); err != nil {
			return 0, fmt.Errorf("connecting: %w", err)
		}
		defer conns[i].Close() // the measurement is over
	}
	var next atomic.Int64
	failed := make([]error, clients)
	var all sync.WaitGroup
	began := time.Now()
	for k, c := range conns {
		all.Go(func() {
			in := bufio.NewReaderSize(c, 4<<10)
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				if failed[k] = askOnce(c, in, pick(i)); failed[k] != nil {
					return
				}
			}
		})
	}
	all.Wait()
	return time.Since(began), errors.Join(failed...)
}

// askOnce reads no more of an answer than shows that it is one, since what the client does takes time from the server.
func askOnce(c net.Conn, in *bufio.Reader, request []byte) error {
	if _, err := c.Write(request); err != nil {
		return err
	}
	length := -1
	for first := true; ; first = false {
		line, err := in.ReadSlice('\n')
		switch {
		case err != nil:
			return fmt.Errorf("reading an answer: %w", err)
		case first && !bytes.HasPrefix(line, []byte("HTTP/1.1 200")):
			return fmt.Errorf("the server answered %s", line)
		case bytes.HasPrefix(line, []byte("Content-Length: ")):
			if _, err := fmt.Sscanf(string(line[16:]), "%d", &length); err != nil {
				return err
			}
		}
		if len(line) <= 2 {
			break
		}
	}
	if length < 100 {
		return fmt.Errorf("an answer of %d octets: no status", length)
	}
	_, err := in.Discard(length)
	return err
}

// bareServer is the other process.
type bareServer struct {
	cmd     *exec.Cmd
	address string
}

// startBare records what our server answers, has it repeated, and checks that it is the same.
func (in *responder) startBare(ctx context.Context, address string, o *OCSPOptions) (*bareServer, error) {
	recorded := map[string]Recorded{}
	for method, wire := range map[string]func([]byte) []byte{http.MethodPost: post, http.MethodGet: get} {
		requests, err := in.requests(in.asked[:1], nil, wire)
		if err != nil {
			return nil, err
		}
		if recorded[method], err = record(ctx, address, requests[0]); err != nil {
			return nil, err
		}
	}
	text, err := json.Marshal(recorded)
	if err != nil {
		return nil, err
	}
	file, ready := filepath.Join(filepath.Dir(in.dir), "recorded.json"), filepath.Join(filepath.Dir(in.dir), "bare")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return nil, err
	}
	return waitForBare(ctx, o.Bare(file, ready), ready)
}

func (b *bareServer) stop() error {
	if err := b.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("stopping the bare server: %w", err)
	}
	_ = b.cmd.Wait() // it was killed
	return nil
}

func record(ctx context.Context, address string, request []byte) (Recorded, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return Recorded{}, err
	}
	defer c.Close() // one answer was all
	if _, err := c.Write(request); err != nil {
		return Recorded{}, err
	}
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return Recorded{}, err
	}
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return Recorded{}, err
	}
	if answer.StatusCode != http.StatusOK {
		return Recorded{}, fmt.Errorf("the server answered %s", answer.Status)
	}
	answer.Header.Del("Date") // net/http adds it anew
	return Recorded{answer.Header, body}, nil
}

// ServeBare answers every request with what the JSON file has recorded for its method, by net/http as it comes. It writes its address to the
// file ready, and ends when it is killed.
func ServeBare(file, ready string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var recorded map[string]Recorded
	if err := json.Unmarshal(text, &recorded); err != nil {
		return err
	}
	posted, got := recorded[http.MethodPost], recorded[http.MethodGet]
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if err := os.WriteFile(ready, []byte(l.Addr().String()), 0o600); err != nil {
		return err
	}
	return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := &got
		if r.Method == http.MethodPost {
			answer = &posted
		}
		h := w.Header()
		for name, value := range answer.Header {
			h[name] = value
		}
		_, _ = w.Write(answer.Body) // the client has gone; nobody is left to tell
	}))
}
