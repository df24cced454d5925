package app_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"mooring/internal/app"
	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/base/db"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
	"mooring/wire/cms"
	"mooring/wire/est"
)

// TestCrash kills the server again and again while 64 devices at a time enrol, and holds it to its promise: what a device was given is
// recorded, once, and the record verifies. MOORING_CRASH_ROUNDS says how often; 3 is the default.
func TestCrash(t *testing.T) {
	rounds := 3
	if text := os.Getenv("MOORING_CRASH_ROUNDS"); text != "" {
		var err error
		rounds, err = strconv.Atoi(text)
		must(t, err)
	}
	c, made := apptest.Init(t, &apptest.Clock{}, &apptest.Log{}, nil)
	f := newFleet(t, c, made, rounds*perRound)
	for round := range rounds {
		s := startServer(t, made.Dir)
		f.enrolUntil(t, s, killAfter)
		f.checkLedger(t, made.Dir, fmt.Sprintf("round %d", round+1))
	}
	// Every device that is still without an answer asks again with the very same request.
	s := startServer(t, made.Dir)
	f.enrolUntil(t, s, len(f.devices))
	f.checkLedger(t, made.Dir, "at the end")
	for _, d := range f.devices {
		if len(d.got) == 0 {
			t.Errorf("%s has no certificate", d.name)
		}
	}
}

const (
	atOnce    = 64
	perRound  = 200 // devices that are there to enrol in a round
	killAfter = 100 // certificates after which the server is killed, with others under way
)

// server is the platform in a process of its own.
type server struct {
	cmd       *exec.Cmd
	out       *bufio.Reader // what it says
	addresses app.Addresses
}

func startServer(t *testing.T, dir string) *server {
	t.Helper()
	s := &server{cmd: exec.Command(os.Args[0])}
	s.cmd.Env = append(os.Environ(), child+"=serve", childDir+"="+dir)
	s.cmd.Stderr = os.Stderr
	out, err := s.cmd.StdoutPipe()
	must(t, err)
	must(t, s.cmd.Start())
	t.Cleanup(func() { s.kill() })
	s.out = bufio.NewReader(out)
	line, err := s.out.ReadBytes('\n')
	if err != nil {
		t.Fatalf("the server did not start: %v", err)
	}
	must(t, json.Unmarshal(line, &s.addresses))
	return s
}

// kill ends the process as a power cut would, and waits until it is gone.
func (s *server) kill() {
	_ = s.cmd.Process.Kill() // it may be gone already
	_ = s.cmd.Wait()         // "signal: killed" is what is wanted
}

// fleet is the devices, which remember what they were given.
type fleet struct {
	roots   *x509.CertPool
	devices []*member
}

type member struct {
	name, token string
	body        []byte   // the request, the same each time
	got         [][]byte // every certificate received, in DER
}

func newFleet(t *testing.T, c *conf.Config, made app.InitResult, n int) *fleet {
	t.Helper()
	var list, tokens bytes.Buffer
	list.WriteString("name,profile\n")
	for i := range n {
		fmt.Fprintf(&list, "meter-%04d,device\n", i)
	}
	p, err := app.Open(t.Context(), app.Options{Config: c})
	must(t, err)
	_, err = p.Devices.Import(t.Context(), apptest.Operator(), device.Source{R: &list, Name: "fleet.csv", Format: "csv", Size: int64(list.Len()), Tokens: &tokens}, nil)
	must(t, err)
	must(t, p.Close())
	rows, err := csv.NewReader(&tokens).ReadAll()
	must(t, err)
	f := &fleet{roots: x509.NewCertPool()}
	root, err := os.ReadFile(made.Root)
	must(t, err)
	f.roots.AppendCertsFromPEM(root)
	for _, row := range rows[1:] {
		csr, err := makeCSR()
		must(t, err)
		f.devices = append(f.devices, &member{name: row[0], token: row[1], body: est.EncodeBase64(csr)})
	}
	if len(f.devices) != n {
		t.Fatalf("%d tokens for %d devices", len(f.devices), n)
	}
	return f
}

// enrolUntil has the devices without a certificate enrol, many at once, and kills the server when enough of them have one.
func (f *fleet) enrolUntil(t *testing.T, s *server, enough int) {
	t.Helper()
	defer s.kill()
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: f.roots, ServerName: "localhost"}, MaxIdleConnsPerHost: atOnce}}
	defer client.CloseIdleConnections()
	queue := make(chan *member, len(f.devices))
	for _, d := range f.devices {
		if len(d.got) == 0 {
			queue <- d
		}
	}
	close(queue)
	received := make(chan struct{}, len(f.devices))
	var workers sync.WaitGroup
	for range atOnce {
		workers.Go(func() {
			for d := range queue {
				if d.enrol(t.Context(), client, s.addresses.EST) {
					received <- struct{}{}
				}
			}
		})
	}
	over := make(chan struct{})
	go func() { workers.Wait(); close(over) }()
	for range enough {
		select {
		case <-received:
		case <-over:
			return
		}
	}
	s.kill()
	<-over
}

// enrol asks once. Whatever goes wrong is the crash that the test is about.
func (m *member) enrol(ctx context.Context, client *http.Client, origin string) bool {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, origin+"/.well-known/est/simpleenroll", bytes.NewReader(m.body))
	if err != nil {
		return false
	}
	r.Header.Set("Content-Type", est.TypeRequest)
	r.SetBasicAuth(m.name, m.token)
	reply, err := client.Do(r)
	if err != nil {
		return false
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	if err != nil || reply.StatusCode != http.StatusOK {
		return false
	}
	raw, err := certificateIn(text)
	if err != nil {
		return false
	}
	m.got = append(m.got, raw)
	return true
}

// checkLedger opens the installation of the killed server and compares it with what the devices hold.
func (f *fleet) checkLedger(t *testing.T, dir, when string) {
	t.Helper()
	p, err := load(t.Context(), dir, app.Open)
	must(t, err)
	defer func() { must(t, p.Close()) }()
	report, err := p.Audit.Verify(t.Context(), audit.VerifyOptions{Checkers: p.Checkers()})
	must(t, err)
	for _, found := range report.Findings {
		t.Errorf("%s: the record does not verify: %s", when, found)
	}
	if report.Pending != 0 {
		t.Errorf("%s: %d batches have no place in the record", when, report.Pending)
	}
	for _, problem := range f.compare(t, p) {
		t.Errorf("%s: %s", when, problem)
	}
	for _, problem := range gaps(t, p) {
		t.Errorf("%s: %s", when, problem)
	}
}

// compare says what the devices were given that is not in the registry or not in the record, and what was recorded twice.
func (f *fleet) compare(t *testing.T, p *app.Platform) (problems []string) {
	t.Helper()
	recorded, byDevice := map[string]string{}, map[string]int{} // serial to digest; device to issues
	for after := int64(0); ; {
		page, err := p.Audit.List(t.Context(), apptest.Operator(), audit.Query{After: after, Limit: 500})
		must(t, err)
		if len(page) == 0 {
			break
		}
		for _, e := range page {
			after = e.Index + 1
			if e.Action != "cert.issue" {
				continue
			}
			if _, twice := recorded[e.Serial]; twice {
				problems = append(problems, "the serial "+e.Serial+" was issued twice")
			}
			recorded[e.Serial] = e.Detail["sha256"]
			byDevice[e.Device]++
		}
	}
	held := 0
	for _, d := range f.devices {
		id, _ := p.Devices.IDOf(d.name)
		if n := byDevice[id.String()]; n > 1 {
			problems = append(problems, fmt.Sprintf("%s was issued %d certificates for one token", d.name, n))
		}
		held += len(d.got)
		for _, raw := range d.got {
			if err := standsIn(t.Context(), p, recorded, raw); err != nil {
				problems = append(problems, d.name+": "+err.Error())
			}
		}
	}
	t.Logf("%d certificates are recorded, devices hold %d: the difference are answers that were lost, and the platform's own", len(recorded), held)
	return problems
}

// standsIn returns why a certificate that somebody holds is not accounted for.
func standsIn(ctx context.Context, p *app.Platform, recorded map[string]string, raw []byte) error {
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		return err
	}
	serial := hex.EncodeToString(cert.SerialNumber.Bytes())
	own, err := p.CA.Get(ctx, cert.SerialNumber.Bytes())
	if err != nil {
		return fmt.Errorf("the certificate %s is not in the registry: %w", serial, err)
	}
	if !bytes.Equal(own.DER, raw) {
		return fmt.Errorf("the certificate %s is another one in the registry", serial)
	}
	if sum := sha256.Sum256(raw); recorded[serial] != hex.EncodeToString(sum[:]) {
		return fmt.Errorf("the certificate %s is not in the record", serial)
	}
	return nil
}

// gaps says where the order of the record has a hole or an overlap, and which numbers of a stream were given twice or out of order.
func gaps(t *testing.T, p *app.Platform) (problems []string) {
	t.Helper()
	must(t, p.DB.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		problems = nil
		next, last := int64(0), map[string][2]int64{}
		err := tx.Each(ctx, func(r db.Row) error {
			var idx, n, seq, part int64
			var stream []byte
			if err := r.Scan(&idx, &n, &stream, &seq, &part); err != nil {
				return err
			}
			if idx != next {
				problems = append(problems, fmt.Sprintf("a batch starts at %d, where %d follows", idx, next))
			}
			next = idx + n
			before, seen := last[string(stream)]
			if at := [2]int64{seq, part}; seen && slices.Compare(at[:], before[:]) <= 0 {
				problems = append(problems, fmt.Sprintf("stream %x: %v follows %v", stream, at, before))
			}
			last[string(stream)] = [2]int64{seq, part}
			return nil
		}, `SELECT idx, n, stream, seq, part FROM audit_pos WHERE cell = 0 ORDER BY idx`)
		if err != nil {
			return err
		}
		return tx.Each(ctx, func(r db.Row) error {
			var stream []byte
			var next int64
			if err := r.Scan(&stream, &next); err != nil {
				return err
			}
			if at, used := last[string(stream)]; used && at[0] >= next {
				problems = append(problems, fmt.Sprintf("stream %x stands at %d, and %d is in the record", stream, next, at[0]))
			}
			return nil
		}, `SELECT stream, next FROM stream WHERE cell = 0`)
	}))
	return problems
}

// TestLedgerCanFail: the comparison that TestCrash rests on finds a certificate that was never recorded.
func TestLedgerCanFail(t *testing.T) {
	p := apptest.Start(t, nil)
	_, pair := p.Enrolled(t, "meter-1", "device")
	f := &fleet{devices: []*member{{name: "meter-1", got: [][]byte{pair.Certificate[0]}}}}
	must(t, p.Audit.Sequence(t.Context()))
	if problems := f.compare(t, p.Platform); len(problems) > 0 {
		t.Errorf("a recorded certificate: %v", problems)
	}
	// The same, signed by the same CA for the same key, but with a serial that was never recorded.
	issuer, err := p.CA.Issuer("devices")
	must(t, err)
	key, err := p.Keys.Signer(t.Context(), issuer.Key())
	must(t, err)
	copied := *pair.Leaf
	serial := pair.Leaf.SerialNumber.Bytes()
	serial[len(serial)-1] ^= 1
	copied.SerialNumber = new(big.Int).SetBytes(serial)
	forged, err := x509.CreateCertificate(rand.Reader, &copied, issuer.Certificate(), pair.Leaf.PublicKey, key)
	must(t, err)
	f.devices[0].got = append(f.devices[0].got, forged)
	if problems := f.compare(t, p.Platform); len(problems) != 1 || !strings.Contains(problems[0], "is not in the registry") {
		t.Errorf("a certificate that was never recorded: got %v", problems)
	}
	// The serial of a recorded one, with other contents.
	copied.SerialNumber = pair.Leaf.SerialNumber
	copied.NotAfter = copied.NotAfter.Add(time.Hour)
	forged, err = x509.CreateCertificate(rand.Reader, &copied, issuer.Certificate(), pair.Leaf.PublicKey, key)
	must(t, err)
	f.devices[0].got[1] = forged
	if problems := f.compare(t, p.Platform); len(problems) != 1 || !strings.Contains(problems[0], "is another one in the registry") {
		t.Errorf("another certificate of the same serial: got %v", problems)
	}
}

func certificateIn(text []byte) ([]byte, error) {
	der, err := est.DecodeBase64(text)
	if err != nil {
		return nil, err
	}
	certs, err := cms.ParseCertsOnly(der)
	if err != nil {
		return nil, err
	}
	if len(certs) != 1 {
		return nil, errors.New("not one certificate")
	}
	return certs[0], nil
}
