package bench

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	agent "mooring/agent/v2x"
	"mooring/internal/app"
	"mooring/internal/core/access"
	"mooring/internal/core/v2x/aa"
	"mooring/internal/core/v2x/trust"
	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/scr"
	"mooring/wire/spdu"
)

// issue measures the authorization authority by itself, in this process and without HTTP: a request is opened and judged, the question to the enrolment authority made, its
// answer opened and verified, the ticket and the answer signed, and all of it durable before the answer is out. What answers the question is not counted: it is
// done here too, by a thread that is asked how much of the processor it had. It either takes questions about many tickets in one message, as ours does, or knows the
// messages of the standard and no others, so that there is a question for each ticket.
func (b *v2xBench) issue(ctx context.Context, name string, many bool, print func(Line) error) (err error) {
	t, err := app.OpenTicketAuthority(ctx, app.Options{Config: b.in.config})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	ea, err := b.enrolmentAuthority(ctx, many)
	if err != nil {
		return err
	}
	svc := aa.New(aa.Deps{DB: t.DB, Audit: t.Audit, Trust: t.Trust, Enrolment: ea, Window: b.in.config.V2X.Window, Timeout: time.Minute, Random: rand.Reader, Now: time.Now})
	running, stop := context.WithCancel(ctx)
	var all sync.WaitGroup
	all.Go(func() { ea.work(running) })
	failed := make([]error, 3)
	for i, run := range []func(context.Context) error{t.DB.Run, t.Audit.Run, svc.Commit} {
		all.Go(func() { failed[i] = run(running) })
	}
	defer func() {
		stop()
		all.Wait()
		err = errors.Join(append(failed, err)...)
	}()
	if b.Profile != "" {
		file := ".issue"
		if !many {
			file = ".issue-alone"
		}
		end, err := profiled(b.Profile + file)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, end()) }()
	}
	var samples []sample
	for round := range b.Rounds {
		b.say("tickets in one process, round %d of %d", round+1, b.Rounds)
		s, err := b.issueRound(ctx, svc, ea)
		if err != nil {
			return err
		}
		samples = append(samples, s)
	}
	line := summary(samples)
	line.Bench, line.Case, line.RSS = "v2x", name, rssOf(syscall.Getpid())
	return print(perCore(line))
}

// underWay is how many requests are under way at once: the record is written for many.
const underWay = 256

// profiled profiles the CPU time of this process until end is called.
func profiled(path string) (end func() error, err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("making the profile: %w", err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() error { pprof.StopCPUProfile(); return f.Close() }, nil
}

// enrolmentAuthority is the enrolment authority of the installation, which is stopped, reduced to its keys.
func (b *v2xBench) enrolmentAuthority(ctx context.Context, many bool) (ea *assenting, err error) {
	p, err := app.Open(ctx, app.Options{Config: b.in.config})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	c, err := p.V2X.Trust.Credential(ctx, trust.EA)
	if err != nil {
		return nil, err
	}
	return &assenting{holder: c.Holder, signer: c.Signer, at: p.V2X.Trust.At, many: many, asked: make(chan inquiry)}, nil
}

// assenting confirms what it is asked for, and counts what that costs.
type assenting struct {
	holder spdu.Holder
	signer spdu.Signer
	at     func() its.Time64
	many   bool // it knows messages about many tickets
	asked  chan inquiry
	used   atomic.Int64 // nanoseconds of CPU time
	// messages is how many it answered.
	messages atomic.Int64
}

// inquiry is a message with questions, and where the answer goes.
type inquiry struct {
	request []byte
	answer  func(request []byte) ([]byte, error)
	told    chan<- told
}

type told struct {
	answer []byte
	err    error
}

// work answers, until ctx ends, on a thread of its own, so that all that the thread uses is told apart from what the authorization authority uses.
func (a *assenting) work(ctx context.Context) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for began := cpuOfThread(); ; a.used.Store(int64(cpuOfThread() - began)) {
		select {
		case q := <-a.asked:
			answer, err := q.answer(q.request)
			a.messages.Add(1)
			q.told <- told{answer, err}
		case <-ctx.Done():
			return
		}
	}
}

func (a *assenting) ask(ctx context.Context, request []byte, answer func([]byte) ([]byte, error)) ([]byte, error) {
	said := make(chan told, 1)
	select {
	case a.asked <- inquiry{request, answer, said}:
		t := <-said
		return t.answer, t.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Validate implements aa.Enrolment.
func (a *assenting) Validate(ctx context.Context, _ string, request []byte) ([]byte, error) {
	return a.ask(ctx, request, a.validate)
}

// ValidateMany implements aa.Enrolment.
func (a *assenting) ValidateMany(ctx context.Context, _ string, request []byte) ([]byte, error) {
	if !a.many {
		return nil, nil
	}
	return a.ask(ctx, request, a.validateMany)
}

func (a *assenting) validate(request []byte) ([]byte, error) {
	o, octets, err := a.open(request)
	if err != nil {
		return nil, err
	}
	asked, err := scr.Content(octets, its.ValidationRequest)
	if err != nil {
		return nil, err
	}
	yes := a.yes(asked.AuthorizationValidationRequest, o.Hash)
	signed, err := scr.Sign(its.EtsiTs102941DataContent{Choice: its.ValidationResponse, AuthorizationValidationResponse: &yes}, a.at(), a.signer)
	if err != nil {
		return nil, err
	}
	return scr.Answer(rand.Reader, o.Session, signed)
}

func (a *assenting) validateMany(request []byte) ([]byte, error) {
	o, octets, err := a.open(request)
	if err != nil {
		return nil, err
	}
	asked, err := scr.ParseQuestions(octets)
	if err != nil {
		return nil, err
	}
	answers := &scr.Answers{List: make([]its.AuthorizationValidationResponse, len(asked))}
	for i := range asked {
		answers.List[i] = a.yes(&asked[i], o.Hash)
	}
	signed, err := scr.SignMany(answers, a.at(), a.signer)
	if err != nil {
		return nil, err
	}
	return scr.Answer(rand.Reader, o.Session, signed)
}

// open opens a message of the authorization authority. Who signed it is not looked at.
func (a *assenting) open(request []byte) (scr.Opened, []byte, error) {
	o, err := scr.Open(request, a.holder)
	if err != nil {
		return o, nil, err
	}
	_, octets, err := scr.Signed(o.Message)
	return o, octets, err
}

func (a *assenting) yes(r *its.AuthorizationValidationRequest, hash its.RequestHash) its.AuthorizationValidationResponse {
	return its.AuthorizationValidationResponse{RequestHash: hash, ConfirmedSubjectAttributes: coer.Some(its.CertificateSubjectAttributes{
		AppPermissions: r.SharedAtRequest.RequestedSubjectAttributes.AppPermissions,
		ValidityPeriod: coer.Some(its.ValidityPeriod{Start: its.Time32(a.at() / 1e6), Duration: its.Duration{Choice: its.Hours, Value: 168}})})}
}

// cpuOfThread is the CPU time of the thread that asks.
func cpuOfThread() time.Duration {
	const thread = 1 // RUSAGE_THREAD of Linux
	var u syscall.Rusage
	if err := syscall.Getrusage(thread, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// desk takes requests of vehicles in and gives them answers, in the place of a network.
type desk struct {
	mu      sync.Mutex
	given   [][]byte          // guarded by mu; requests that have no answer yet
	answers map[string][]byte // guarded by mu
}

var errTaken = errors.New("the request was taken in")

// RoundTrip implements http.RoundTripper.
func (d *desk) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	answer, ok := d.answers[string(body)]
	if !ok {
		d.given = append(d.given, body)
		d.answers[string(body)] = nil // it may be sent again at once
	}
	if answer == nil {
		return nil, errTaken
	}
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {scr.ResponseType}}, Body: io.NopCloser(bytes.NewReader(answer)), Request: r}, nil
}

func (b *v2xBench) issueRound(ctx context.Context, svc *aa.Service, ea *assenting) (s sample, err error) {
	d := &desk{answers: map[string][]byte{}}
	b.carried.Store(d)
	requests := make([]*agent.Pending, b.N)
	failed := make([]error, b.N)
	spread(b.N, func(i int) {
		if requests[i], failed[i] = b.client.Prepare(b.cars[i%len(b.cars)], agent.Order{}); failed[i] == nil {
			if _, err := b.client.Send(ctx, requests[i]); !errors.Is(err, errTaken) {
				failed[i] = fmt.Errorf("taking in a request: %w", err)
			}
		}
	})
	if err := errors.Join(failed...); err != nil {
		return s, err
	}
	floor, err := floorsV2X()
	if err != nil {
		return s, err
	}
	answers := make([][]byte, b.N)
	from := access.Stranger(netip.IPv4Unspecified(), "bench")
	runtime.GC() // of what the vehicles left
	used, messages, cpu, began := ea.used.Load(), ea.messages.Load(), cpuSelf(), time.Now()
	err = byMany(underWay, b.N, func(i int) (err error) {
		answers[i], err = svc.Authorize(ctx, from, d.given[i])
		return err
	})
	took := time.Since(began)
	if err != nil {
		return s, err
	}
	s.n, s.rate, s.server = b.N, float64(b.N)/took.Seconds(), micros(cpuSelf()-cpu-time.Duration(ea.used.Load()-used), b.N)
	again, err := floorsV2X()
	if err != nil {
		return s, err
	}
	floor = floor.between(again)
	s.floor = floor.aa - floor.question*(1-float64(ea.messages.Load()-messages)/float64(b.N)) // what a message of questions takes is done once for all of them
	for i, answer := range answers {
		d.answers[string(d.given[i])] = answer
	}
	spread(b.N, func(i int) { _, failed[i] = b.client.Send(ctx, requests[i]) }) // each vehicle looks at its ticket
	return s, errors.Join(failed...)
}
