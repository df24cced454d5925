package enrol

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/device"
	"mooring/internal/core/job"
	"mooring/wire/der"
)

// JobIssue is the kind of jobs that issue certificates for a bundle of requests. Its items are rows of the bundle.
const JobIssue job.Kind = "issue"

// Bundle issues certificates for many requests at once, as jobs, on the word of an administrator: for devices whose maker made the keys and
// requests and sends them in one file. Each request goes through the funnel like any other; what is refused is told with its row, and the
// others go on.
//
// After a crash a step is done again. A request that got its certificate before gets the same one: that is what the funnel does with a
// request that it has answered, as long as the device did not ask for another certificate in between.
type Bundle struct {
	*Service
	jobs *job.Service
}

// NewBundle returns the bundle side of s.
func NewBundle(s *Service, jobs *job.Service) *Bundle { return &Bundle{s, jobs} }

// Worker returns what does the jobs.
func (b *Bundle) Worker() job.Worker {
	return job.Worker{Kind: JobIssue, Needs: access.CertIssue, Unit: "requests", Step: b.step, KeepAll: true}
}

// The bounds of a bundle.
const (
	bundleMost   = 100_000  // requests
	requestMost  = 16 << 10 // octets of one, in DER
	lineMost     = 64 << 10 // octets of a line of JSON
	problemsMost = 20       // that are told
	issueAtOnce  = 32       // submissions of a step under way, so that they share commits
)

// bundled is an item: whose certificate is asked for, and the request.
type bundled struct {
	Device string `json:"d"` // name or id
	CSR    []byte `json:"c"` // DER
}

type bundleParams struct {
	Profile string `json:"profile,omitempty"`
	SHA256  string `json:"sha256"` // of the file
}

// Issue makes a job that issues a certificate for each request of a bundle. format is "pem": certification requests one behind the other, each
// for the registered device that its common name names; or "jsonl": one object a line, {"device": name or id, "csr": PEM, or DER in base64}.
// profile must be that of each device; "" leaves it to the device. Rows that cannot be read are named by their lines, and then nothing is made.
// name stands in the error texts. It needs cert.issue.
func (b *Bundle) Issue(ctx context.Context, actor access.Actor, r io.Reader, format, name, profile string, start bool) (job.Job, error) {
	if err := b.Access.Require(ctx, actor, access.CertIssue, "bundle"); err != nil {
		return job.Job{}, err
	}
	if profile != "" {
		if _, err := b.profile(profile); err != nil {
			return job.Job{}, errs.New(errs.Invalid, "profile: %s", errs.Public(err))
		}
	}
	sum := sha256.New()
	f := bundleFile{name: name, seen: map[string]int{}}
	if err := f.read(io.TeeReader(r, sum), format); err != nil {
		return job.Job{}, err
	}
	spec := job.Spec{Kind: JobIssue, Title: "issue for the requests of " + name, Items: f.items, Sample: f.sample, AskAbove: -1, Start: start,
		Params: bundleParams{Profile: profile, SHA256: hex.EncodeToString(sum.Sum(nil))}}
	return b.jobs.Create(ctx, actor, spec)
}

// bundleFile is a bundle being read.
type bundleFile struct {
	name   string
	items  [][]byte
	sample []string
	seen   map[string]int // line of each device
	wrong  []string
	more   int
}

func (f *bundleFile) problem(line int, format string, args ...any) {
	if len(f.wrong) < problemsMost {
		f.wrong = append(f.wrong, fmt.Sprintf("%s:%d: %s", f.name, line, fmt.Sprintf(format, args...)))
	} else {
		f.more++
	}
}

func (f *bundleFile) read(r io.Reader, format string) (err error) {
	switch format {
	case "pem":
		err = f.readPEM(r)
	case "jsonl":
		err = f.readLines(r)
	default:
		return errs.New(errs.Invalid, "format: a bundle is pem or jsonl, not %q", format)
	}
	if err != nil {
		return err
	}
	if len(f.wrong) > 0 {
		text := strings.Join(f.wrong, "\n")
		if f.more > 0 {
			text += fmt.Sprintf("\nand %d more", f.more)
		}
		return errs.New(errs.Invalid, "%s\nnothing was done", text)
	}
	if len(f.items) == 0 {
		return errs.New(errs.Invalid, "%s holds no certification request", f.name)
	}
	return nil
}

// add takes one request; owner "" means that the request says whose it is.
func (f *bundleFile) add(line int, owner string, raw []byte) error {
	if len(f.items) >= bundleMost {
		return errs.New(errs.Limited, "%s: more than %d requests: split the bundle", f.name, bundleMost)
	}
	if len(raw) > requestMost {
		f.problem(line, "the request has more than %d octets", requestMost)
		return nil
	}
	csr, err := der.ParseRequest(raw)
	if err != nil {
		f.problem(line, "this is no certification request: %v", err)
		return nil
	}
	if owner == "" {
		if owner = commonName(csr); owner == "" {
			f.problem(line, "the request has no common name, which would say whose it is")
			return nil
		}
	}
	if first := f.seen[owner]; first > 0 {
		f.problem(line, "the request of %q stands in line %d already", shown(owner), first)
		return nil
	}
	f.seen[owner] = line
	item, err := json.Marshal(bundled{Device: owner, CSR: raw})
	if err != nil {
		return fmt.Errorf("keeping a request: %w", err)
	}
	f.items = append(f.items, item)
	if len(f.sample) < job.SampleMost {
		f.sample = append(f.sample, fmt.Sprintf("%s: %s, key %s", owner, der.FormatName(csr.Subject), der.KindOf(csr.PublicKey)))
	}
	return nil
}

func shown(text string) string {
	if r := []rune(text); len(r) > 64 {
		return string(r[:64]) + "…"
	}
	return text
}

// commonName returns the only common name of the request's subject.
func commonName(csr *der.Request) (name string) {
	for _, a := range csr.Subject {
		if a.Type == der.OIDCommonName {
			if name != "" {
				return ""
			}
			name = a.Value
		}
	}
	return name
}

// readPEM reads requests one behind the other, and passes over what stands between them.
func (f *bundleFile) readPEM(r io.Reader) error {
	in := bufio.NewScanner(r)
	in.Buffer(nil, lineMost)
	var block strings.Builder
	first := 0 // line of the block being read; 0 = none
	for n := 1; in.Scan(); n++ {
		line := strings.TrimSpace(in.Text())
		switch {
		case strings.HasPrefix(line, "-----BEGIN ") && strings.HasSuffix(line, "CERTIFICATE REQUEST-----"):
			block.Reset()
			first = n
		case strings.HasPrefix(line, "-----BEGIN "):
			f.problem(n, "%s is no certification request", shown(line))
		}
		if first == 0 {
			continue
		}
		block.WriteString(line + "\n")
		if block.Len() > 2*requestMost {
			return errs.New(errs.Invalid, "%s:%d: the request has more than %d octets", f.name, first, requestMost)
		}
		if strings.HasPrefix(line, "-----END ") {
			if err := f.addPEM(first, block.String()); err != nil {
				return err
			}
			first = 0
		}
	}
	if first > 0 {
		f.problem(first, "the request that begins here has no end")
	}
	return f.unreadable(in.Err())
}

func (f *bundleFile) addPEM(line int, text string) error {
	p, _ := pem.Decode([]byte(text))
	if p == nil {
		f.problem(line, "this is no PEM")
		return nil
	}
	return f.add(line, "", p.Bytes)
}

func (f *bundleFile) unreadable(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, bufio.ErrTooLong):
		return errs.New(errs.Invalid, "%s: a line is longer than %d octets: is it the right file?", f.name, lineMost)
	}
	return errs.Wrap(errs.Invalid, err, "%s cannot be read to its end; nothing was done", f.name)
}

// readLines reads one JSON object a line.
func (f *bundleFile) readLines(r io.Reader) error {
	in := bufio.NewScanner(r)
	in.Buffer(nil, lineMost)
	for n := 1; in.Scan(); n++ {
		text := strings.TrimSpace(strings.TrimPrefix(in.Text(), "\ufeff"))
		if text == "" {
			continue
		}
		var row struct {
			Device string `json:"device"`
			CSR    string `json:"csr"`
		}
		d := json.NewDecoder(strings.NewReader(text))
		d.DisallowUnknownFields()
		if err := d.Decode(&row); err != nil || d.More() {
			f.problem(n, "this is no object with the fields device and csr")
			continue
		}
		raw, ok := requestIn(row.CSR)
		switch {
		case row.Device == "" || len(row.Device) > 255:
			f.problem(n, "the field device is missing or too long")
		case !ok:
			f.problem(n, "the field csr is neither PEM nor DER in base64")
		default:
			if err := f.add(n, row.Device, raw); err != nil {
				return err
			}
		}
	}
	return f.unreadable(in.Err())
}

func requestIn(text string) ([]byte, bool) {
	if p, rest := pem.Decode([]byte(text)); p != nil && strings.HasSuffix(p.Type, "CERTIFICATE REQUEST") && strings.TrimSpace(string(rest)) == "" {
		return p.Bytes, true
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	return raw, err == nil && len(raw) > 0
}

// step issues for some hundred requests, many at once so that they share commits, and then notes what came of them.
func (b *Bundle) step(ctx context.Context, batch *job.Batch) error {
	var what bundleParams
	if err := json.Unmarshal([]byte(batch.Job.Params), &what); err != nil {
		return fmt.Errorf("reading what a job is to do: %w", err)
	}
	results, passing := make([]job.Result, len(batch.Items)), make([]error, len(batch.Items))
	var workers sync.WaitGroup
	turns := make(chan struct{}, issueAtOnce)
	for i, item := range batch.Items {
		turns <- struct{}{}
		workers.Go(func() {
			defer func() { <-turns }()
			results[i], passing[i] = b.one(ctx, batch.Job.ID, batch.Job.Maker, what.Profile, item)
		})
	}
	workers.Wait()
	if err := errors.Join(passing...); err != nil {
		return errs.Wrap(errs.Unavailable, err, "some certificates cannot be issued at present; it is tried again")
	}
	return batch.Commit(ctx, func(context.Context, *db.Tx) (o job.Outcome, err error) {
		for _, r := range results {
			if r.OK {
				o.Done++
			}
		}
		o.Results = results
		return o, nil
	})
}

// one issues for one request. An error says that it may go better later; a refusal is a result.
func (b *Bundle) one(ctx context.Context, id job.ID, actor access.Actor, profile string, item []byte) (job.Result, error) {
	var row bundled
	if err := json.Unmarshal(item, &row); err != nil {
		return job.Result{}, fmt.Errorf("reading a row of a bundle: %w", err)
	}
	refused := job.Result{Item: row.Device}
	d, err := b.Devices.Get(ctx, actor, row.Device)
	if err == nil {
		err = b.Devices.MayEmpower(ctx, actor, d.ID)
	}
	if err == nil {
		var a Answer
		if a, err = b.onWordOf(ctx, actor, d.ID, profile, row.CSR); err == nil {
			return job.Result{OK: true, Item: row.Device, Text: hex.EncodeToString(a.Certificate.Serial[:])}, nil
		}
	}
	switch k := errs.KindOf(err); {
	case k == errs.Unavailable, k == errs.Limited && isRecorded(err):
		return refused, err
	case k == errs.Internal:
		b.Log.LogAttrs(ctx, slog.LevelError, "a certificate of a bundle could not be issued", slog.String("job", id.String()), slog.Any("cause", err))
		refused.Text = "internal error: the server's log names the cause"
	case k == errs.NotFound:
		refused.Text = "there is no such device: register it first"
	default:
		refused.Text = errs.Public(err)
	}
	return refused, nil
}

// onWordOf takes a request that somebody else made through the funnel, on the word of actor.
func (b *Bundle) onWordOf(ctx context.Context, actor access.Actor, id device.ID, profile string, csr []byte) (answer Answer, err error) {
	for range attempts {
		d, err := b.Devices.Load(ctx, id)
		if err != nil {
			return Answer{}, err
		}
		sub := &submission{req: &Request{Protocol: "bundle", Op: Enrol, Profile: profile, CSR: csr}, identity: &Identity{Device: d, Evidence: ByOperator, by: &actor}}
		answer, err = b.decide(ctx, sub, b.parse, b.chooseProfile, b.checkDevice, b.checkPossession, b.checkBinding, b.checkNames)
		if err == nil {
			return answer, nil
		}
		if !overtaken(err) {
			b.recordRefusal(ctx, sub, err)
			return Answer{}, err
		}
	}
	return Answer{}, errs.New(errs.Unavailable, "the device was changed again and again while its certificate was issued")
}
