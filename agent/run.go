package agent

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"time"

	"mooring/agent/est"
)

// Bounds of the waiting between two looks at the clock and two attempts.
const (
	maxSleep     = time.Hour // so that a clock that was set, or a device that slept, is noticed
	busySleep    = time.Minute
	firstBackoff = 30 * time.Second
	minCap       = time.Minute // the longest back-off for the shortest certificates
	maxCap       = 6 * time.Hour
	pendingCap   = time.Hour // while there is no certificate yet
	maxAhead     = 8 * 24 * time.Hour
)

// state is what an agent remembers between attempts and across restarts.
type state struct {
	// NotBefore is when the next attempt may be made: what the server asked for, or our own back-off.
	NotBefore   time.Time `json:"not_before,omitzero"`
	Pending     bool      `json:"pending,omitempty"` // the server has the request and has not decided
	Failures    int       `json:"failures,omitempty"`
	LastError   string    `json:"last_error,omitempty"`
	LastErrorAt time.Time `json:"last_error_at,omitzero"`
}

func (a *Agent) state() (state, error) {
	var s state
	err := a.folder.readJSON(stateFile, &s)
	if errors.Is(err, fs.ErrNotExist) {
		return state{}, nil
	}
	return s, err
}

// Run renews the certificate whenever it is due, asks the server now and then when that is, and finishes an enrolment that
// is pending, until ctx ends; then it returns nil. It returns early only if there is nothing to look after: ErrNotEnrolled, or a folder that cannot be read.
func (a *Agent) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		if a.reportDue() {
			a.reportSuccess(ctx)
		}
		due, err := a.Due()
		if err != nil {
			return err
		}
		wait, ask := due.Sub(a.options.Now()), a.askAt().Sub(a.options.Now())
		switch {
		case wait <= 0:
			wait = a.attempt(ctx)
		case ask <= 0:
			wait = a.consult(ctx)
		default:
			wait = min(wait, ask)
		}
		if wait > 0 && a.options.Sleep(ctx, min(wait, maxSleep)) != nil {
			break
		}
	}
	return nil
}

// attempt does what is due. The result is a time to wait in any case; what the outcome asks for is in the state.
func (a *Agent) attempt(ctx context.Context) time.Duration {
	do := a.Renew
	if a.waiting() {
		do = a.resume
	}
	_, err := do(ctx)
	var pending *est.PendingError
	switch {
	case err == nil || ctx.Err() != nil:
	case errors.As(err, &pending):
		a.options.Log.LogAttrs(ctx, slog.LevelInfo, "server has not decided yet", slog.Duration("retry_after", pending.RetryAfter))
	case errors.Is(err, ErrBusy):
		return busySleep
	default:
		s, _ := a.state() // only to say when the next attempt comes
		a.options.Log.LogAttrs(ctx, slog.LevelError, "certificate was not received",
			slog.String("error", err.Error()), slog.Int("failures", s.Failures), slog.Time("next_attempt", s.NotBefore))
		if s.NotBefore.IsZero() { // the state could not be written: do not hammer the server
			return busySleep
		}
	}
	return 0
}

// Due is when Run will act next: the time of renewal, or that of the next attempt if the last one failed.
func (a *Agent) Due() (time.Time, error) {
	s, err := a.state()
	if err != nil {
		return time.Time{}, err
	}
	if s.NotBefore.After(a.options.Now().Add(maxAhead)) { // written when the clock of this device was wrong
		s.NotBefore = time.Time{}
	}
	if a.waiting() {
		return s.NotBefore, nil
	}
	identity, err := a.Identity()
	if err != nil {
		return time.Time{}, err
	}
	due := a.renewAt(identity)
	if s.NotBefore.After(due) {
		due = s.NotBefore
	}
	return due, nil
}

// RenewAt is when a device renews its certificate if its server does not say when: after two thirds of its life, give or take a tenth of it by the hash
// of the name, so that devices which were enrolled together do not renew together.
func RenewAt(cert *x509.Certificate, name string) time.Time {
	sum := sha256.Sum256([]byte(name))
	spread := float64(binary.BigEndian.Uint64(sum[:8])) / (1 << 64) // 0 to 1
	begin := cert.NotBefore.Unix()
	life := float64(cert.NotAfter.Unix() - begin) // in seconds: a time.Duration cannot hold the life of some certificates
	return time.Unix(begin+int64(life*(2./3+0.2*(spread-0.5))), 0).UTC()
}

// settle records the outcome of an attempt.
func (a *Agent) settle(outcome error) error {
	if outcome == nil {
		return a.folder.remove(stateFile)
	}
	s, err := a.state()
	if err != nil {
		s = state{} // it cannot be read, and is about to be replaced
	}
	now := a.options.Now()
	var pending *est.PendingError
	if errors.As(outcome, &pending) {
		s = state{Pending: true, NotBefore: now.Add(pending.RetryAfter + a.random(pending.RetryAfter/10))}
		return a.folder.writeJSON(stateFile, s)
	}
	s.Failures++
	s.LastError, s.LastErrorAt = outcome.Error(), now
	wait := a.backoff(s.Failures)
	var refused *est.RefusedError
	if errors.As(outcome, &refused) && refused.RetryAfter > 0 {
		wait = max(wait, refused.RetryAfter+a.random(refused.RetryAfter/10))
	}
	s.NotBefore = now.Add(wait)
	return a.folder.writeJSON(stateFile, s)
}

// backoff grows from half a minute to a fiftieth of the certificate's life, and is spread over its upper half.
func (a *Agent) backoff(failures int) time.Duration {
	longest := pendingCap
	if identity, err := a.Identity(); err == nil {
		cert := identity.Certificate()
		longest = min(max(cert.NotAfter.Sub(cert.NotBefore)/50, minCap), maxCap)
	}
	d := min(firstBackoff<<min(failures-1, 20), longest)
	return d/2 + a.random(d/2)
}

// random is between 0 and limit.
func (a *Agent) random(limit time.Duration) time.Duration {
	var b [8]byte
	if _, err := io.ReadFull(a.options.Rand, b[:]); err != nil {
		return 0 // without spread rather than without renewal
	}
	return time.Duration(float64(limit) * (float64(binary.BigEndian.Uint64(b[:])) / (1 << 64)))
}
