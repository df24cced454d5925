package registrar

import (
	"context"
	"encoding/hex"
	"strconv"
	"strings"
	"sync"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/enrol"
	"mooring/wire/voucher"
)

// Told is what a device has told of itself.
type Told struct {
	Device string // its id in hex, "" when it is not known
	OK     bool
	Reason string // fit for logs and the record
}

// The actions of the record's entries about reports.
const (
	actionStatus   = "registrar.status"
	actionEnrolled = "registrar.enrolled"
)

// Status takes what a device says of the voucher that it got (RFC 8995, section 5.7), and has it recorded. The error is of the kinds of Voucher.
func (s *Service) Status(ctx context.Context, peer Peer, body []byte) (Told, error) {
	return s.tell(ctx, &peer, actionStatus, body)
}

// Enrolled takes what a device says of its enrolment (RFC 8995, section 5.9.4), and has it recorded, with the certificate by which it says so. The error
// is of the kinds of Voucher.
func (s *Service) Enrolled(ctx context.Context, peer Peer, body []byte) (Told, error) {
	return s.tell(ctx, &peer, actionEnrolled, body)
}

func (s *Service) tell(ctx context.Context, peer *Peer, action string, body []byte) (told Told, err error) {
	p, detail, err := s.teller(ctx, peer)
	told.Device = p.id()
	if err == nil {
		err = told.read(body, detail)
	}
	if err == nil {
		err = s.reports.take(p.device.ID, s.Now())
	}
	if err != nil {
		s.refuse(ctx, p, peer, strings.TrimPrefix(action, "registrar."), err)
		return told, err
	}
	e := audit.Entry{At: s.Now().Unix(), Action: action, Actor: access.Device(p.id(), surface).String(), Device: p.id(), Detail: detail}
	return told, s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error { return s.Audit.Append(ctx, tx, e) })
}

// teller finds out who tells, by the certificate from the factory or by one of ours, and says which it was.
func (s *Service) teller(ctx context.Context, peer *Peer) (*pledge, map[string]string, error) {
	id, err := s.Enrol.Authenticate(ctx, peer.Chain)
	if err != nil {
		// Who is not ours is told so as when he asks for a voucher.
		p, unknown := s.pledge(ctx, peer)
		if unknown != nil {
			err = unknown
		}
		return p, nil, err
	}
	p := &pledge{device: &id.Device}
	detail := map[string]string{"certificate": string(id.Evidence)}
	if id.Evidence == ca.EvidenceOperational && id.Own != nil {
		detail["serial"] = hex.EncodeToString(id.Own.Serial[:])
	}
	return p, detail, nil
}

// maxReason is how much of a device's words is kept, in octets.
const maxReason = 200

// read reads a report into t and into what is recorded.
func (t *Told) read(body []byte, detail map[string]string) error {
	st, err := voucher.ParseStatus(body)
	if err != nil {
		return errs.New(errs.Invalid, "the report is not acceptable: %v", err)
	}
	t.OK = st.Status
	detail["ok"] = strconv.FormatBool(st.Status)
	if st.Version > voucher.Version {
		detail["version"] = strconv.Itoa(st.Version)
	}
	if !st.Status && st.Reason != "" {
		t.Reason = tame(st.Reason)
		detail["reason"] = t.Reason
	}
	return nil
}

// tame makes a device's words fit to be kept: printable, short, and without what stands in quotation marks, which may be personal.
func tame(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, text[:min(len(text), maxReason)])
	return enrol.Reason(errs.New(errs.Invalid, "%s", text))
}

// pace bounds how often each device may do something that leaves a trace: burst times at once, and then once a minute. This node alone counts, in
// memory.
type pace struct {
	burst int

	mu   sync.Mutex
	free map[device.ID]time.Time // when nothing counts any more; guarded by mu
}

const (
	paceEvery = time.Minute
	paceMost  = 1 << 16 // devices remembered; when more were busy lately, all are forgotten
)

// take counts one, or returns Limited with the time to wait.
func (p *pace) take(id device.ID, now time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	free := p.free[id]
	if free.Before(now) {
		free = now
	}
	free = free.Add(paceEvery)
	if wait := free.Sub(now) - time.Duration(p.burst)*paceEvery; wait > 0 {
		return errs.WithRetry(errs.New(errs.Limited, "this device asked or told much lately; come again later"), wait)
	}
	if len(p.free) >= paceMost || p.free == nil {
		p.free = map[device.ID]time.Time{}
	}
	p.free[id] = free
	return nil
}
