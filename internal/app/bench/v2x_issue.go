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
// done here too, by a thread that is asked how much of the processor it had. It knows the messages of the standard and no others, so that there is a question for each ticket.
func (b *v2xBench) issue(ctx context.Context, print func(Line) error) (err error) {
	t, err := app.OpenTicketAuthority(ctx, app.Options{Config: b.in.config})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	ea, err := b.enrolmentAuthority(ctx)
	if err != nil {
		return err
	}
	svc := aa.New(aa.Deps{DB: t.DB, Audit: t.Audit, Trust: t.Trust, Enrolment: ea, Window: b.in.config.V2X.Window, Timeout: time.Minute, Random: rand.Reader, Now: time.Now})
	running, stop := context.WithCancel(ctx)
	var all sync.WaitGroup
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
		end, err := profiled(b.Profile + ".issue")
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
	line.Bench, line.Case, line.RSS = "v2x", "ticket issue, AA side", rssOf(syscall.Getpid())
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
func (b *v2xBench) enrolmentAuthority(ctx context.Context) (ea *assenting, err error) {
	p, err := app.Open(ctx, app.Options{Config: b.in.config})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	c, err := p.V2X.Trust.Credential(ctx, trust.EA)
	if err != nil {
		return nil, err
	}
	return &assenting{holder: c.Holder, signer: c.Signer, at: p.V2X.Trust.At}, nil
}

// assenting confirms what it is asked for, and counts what that costs.
type assenting struct {
	holder spdu.Holder
	signer spdu.Signer
	at     func() its.Time64
	used   atomic.Int64 // nanoseconds of CPU time
}

// Validate implements aa.Enrolment.
func (a *assenting) Validate(_ context.Context, _ string, request []byte) ([]byte, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began := cpuOfThread()
	defer func() { a.used.Add(int64(cpuOfThread() - began)) }()
	o, err := scr.Open(request, a.holder)
	if err != nil {
		return nil, err
	}
	_, octets, err := scr.Signed(o.Message)
	if err != nil {
		return nil, err
	}
	asked, err := scr.Content(octets, its.ValidationRequest)
	if err != nil {
		return nil, err
	}
	confirmed := its.CertificateSubjectAttributes{AppPermissions: asked.AuthorizationValidationRequest.SharedAtRequest.RequestedSubjectAttributes.AppPermissions,
		ValidityPeriod: coer.Some(its.ValidityPeriod{Start: its.Time32(a.at() / 1e6), Duration: its.Duration{Choice: its.Hours, Value: 168}})}
	signed, err := scr.Sign(its.EtsiTs102941DataContent{Choice: its.ValidationResponse, AuthorizationValidationResponse: &its.AuthorizationValidationResponse{
		RequestHash: o.Hash, ConfirmedSubjectAttributes: coer.Some(confirmed)}}, a.at(), a.signer)
	if err != nil {
		return nil, err
	}
	return scr.Answer(rand.Reader, o.Session, signed)
}

// ValidateMany implements aa.Enrolment: this enrolment authority knows the messages of the standard and no others.
func (a *assenting) ValidateMany(context.Context, string, []byte) ([]byte, error) { return nil, nil }

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
	if s.floor, _, err = floorsV2X(); err != nil {
		return s, err
	}
	answers := make([][]byte, b.N)
	from := access.Stranger(netip.IPv4Unspecified(), "bench")
	runtime.GC() // of what the vehicles left
	used, cpu, began := ea.used.Load(), cpuSelf(), time.Now()
	err = byMany(underWay, b.N, func(i int) (err error) {
		answers[i], err = svc.Authorize(ctx, from, d.given[i])
		return err
	})
	took := time.Since(began)
	if err != nil {
		return s, err
	}
	s.n, s.rate, s.server = b.N, float64(b.N)/took.Seconds(), micros(cpuSelf()-cpu-time.Duration(ea.used.Load()-used), b.N)
	for i, answer := range answers {
		d.answers[string(d.given[i])] = answer
	}
	spread(b.N, func(i int) { _, failed[i] = b.client.Send(ctx, requests[i]) }) // each vehicle looks at its ticket
	return s, errors.Join(failed...)
}
