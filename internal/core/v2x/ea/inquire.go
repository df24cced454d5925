package ea

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"

	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/v2x/trust"
	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/scr"
)

// inquiry is what an authorization authority asks: about one ticket, or about many in one message.
type inquiry struct {
	from   access.Actor
	ea     *trust.Credential
	opened scr.Opened
	outer  *its.SignedData
	aa     *its.Certificate // who asks
	list   []*validating
}

// validating is one of its questions under way.
type validating struct {
	*inquiry
	asked  *its.AuthorizationValidationRequest
	signed *its.SignedData // by the station
	hash   []byte          // what the station signed
	cred   *credential     // nil: not known
	period its.ValidityPeriod
	mark   []byte // of the question, by which it is counted once
	code   its.AuthorizationValidationResponseCode
}

// Validate answers the question of an authorization authority whether a station may have a ticket (TS 102 941, 6.2.3.4). The error is as that of Enrol.
func (s *Service) Validate(ctx context.Context, from access.Actor, request []byte) ([]byte, error) {
	q := &inquiry{from: from}
	answers, err := s.inquire(ctx, q, request, oneQuestion)
	if err != nil {
		return nil, err
	}
	return s.answer(&q.opened, q.ea, its.EtsiTs102941DataContent{Choice: its.ValidationResponse, AuthorizationValidationResponse: &answers[0]})
}

// ValidateMany answers questions about many tickets in one message (package scr). All of them are counted in one transaction, whosever they are: when the answer comes tells
// nothing of which are of the same station.
func (s *Service) ValidateMany(ctx context.Context, from access.Actor, request []byte) ([]byte, error) {
	q := &inquiry{from: from}
	answers, err := s.inquire(ctx, q, request, scr.ParseQuestions)
	if err != nil {
		return nil, err
	}
	signed, err := scr.SignMany(&scr.Answers{List: answers}, s.Trust.At(), q.ea.Signer)
	if err != nil {
		return nil, err
	}
	return scr.Answer(s.Random, q.opened.Session, signed)
}

func oneQuestion(octets []byte) ([]its.AuthorizationValidationRequest, error) {
	content, err := scr.Content(octets, its.ValidationRequest)
	if err != nil {
		return nil, err
	}
	return []its.AuthorizationValidationRequest{*content.AuthorizationValidationRequest}, nil
}

// inquire judges each question, counts the tickets, and returns the answers in the order of the questions; a single one if what is wrong concerns all of them.
func (s *Service) inquire(ctx context.Context, q *inquiry, request []byte, read func([]byte) ([]its.AuthorizationValidationRequest, error)) ([]its.AuthorizationValidationResponse, error) {
	defer s.commit.Expect()()
	var err error
	if q.ea, err = s.Trust.Recipient(ctx, trust.EA, request); err != nil {
		return nil, err
	}
	code, err := q.read(request, read)
	if err == nil && code == its.ValidationOk {
		code = s.authority(q)
	}
	if err != nil {
		return nil, err
	}
	if code != its.ValidationOk {
		q.list = []*validating{{inquiry: q, code: code}}
	} else if err := each(len(q.list), func(i int) error { return s.judgeValidation(ctx, q.list[i]) }); err != nil {
		return nil, err
	}
	if err := s.count(ctx, q); err != nil {
		return nil, err
	}
	answers := make([]its.AuthorizationValidationResponse, len(q.list))
	return answers, each(len(q.list), func(i int) (err error) { answers[i], err = s.conclude(ctx, q.list[i]); return err })
}

// each calls do with the numbers below n, on all processors.
func each(n int, do func(i int) error) error {
	failed := make([]error, min(n, runtime.GOMAXPROCS(0)))
	var next atomic.Int64
	var group sync.WaitGroup
	work := func(w int) {
		for i := int(next.Add(1)) - 1; i < n && failed[w] == nil; i = int(next.Add(1)) - 1 {
			failed[w] = do(i)
		}
	}
	for w := 1; w < len(failed); w++ {
		group.Go(func() { work(w) })
	}
	work(0)
	group.Wait()
	for _, err := range failed {
		if err != nil {
			return err
		}
	}
	return nil
}

// read opens all layers.
func (q *inquiry) read(request []byte, read func([]byte) ([]its.AuthorizationValidationRequest, error)) (its.AuthorizationValidationResponseCode, error) {
	list, err := q.open(request, read)
	var f scr.Fault
	switch {
	case errors.As(err, &f):
		return its.AuthorizationValidationResponseCode(f), nil
	case err != nil:
		return 0, err
	}
	q.list = make([]*validating, len(list))
	for i := range list {
		q.list[i] = &validating{inquiry: q, asked: &list[i]}
	}
	return its.ValidationOk, nil
}

func (q *inquiry) open(request []byte, read func([]byte) ([]its.AuthorizationValidationRequest, error)) (list []its.AuthorizationValidationRequest, err error) {
	if q.opened, err = scr.Open(request, q.ea.Holder); err != nil {
		return nil, err
	}
	outer, octets, err := scr.Signed(q.opened.Message)
	if err != nil {
		return nil, err
	}
	q.outer = outer
	return read(octets)
}

// conclude is the answer to a question. A refusal is recorded.
func (s *Service) conclude(ctx context.Context, v *validating) (a its.AuthorizationValidationResponse, err error) {
	a.RequestHash, a.ResponseCode = v.opened.Hash, v.code
	if v.code == its.ValidationOk {
		a.ConfirmedSubjectAttributes = coer.Some(v.confirmed())
		return a, nil
	}
	entry := audit.Entry{Action: "v2x.validate", Refused: v.code.String()}
	if v.cred != nil {
		entry.Device = v.cred.device.String()
	}
	if err := s.Audit.Refuse(ctx, v.from, entry); err != nil {
		return a, err
	}
	if v.opened.Session == nil {
		return a, &Unanswerable{scr.Fault(v.code)}
	}
	return a, nil
}
