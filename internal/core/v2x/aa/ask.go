package aa

import (
	"context"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/v2x/trust"
	"mooring/wire/its"
	"mooring/wire/scr"
)

// Bounds of what enrolment authorities are asked.
const (
	questionsMost = 4096                  // that wait to leave
	togetherMost  = its.MaxRequest - 1024 // octets of the requests whose questions one message has: a question is shorter than its request
	waitComing    = 5 * time.Millisecond  // how long questions wait for requests that are being read
	waitAsked     = 20 * time.Millisecond // how long while an enrolment authority is being asked already
	aloneFor      = 10 * time.Minute      // for how long one that does not know messages about many tickets is sent none
)

// counter is where questions wait to leave together: in one message, whose cryptography they share, and in another order than they came. Who comes alone does not wait.
type counter struct {
	queue  chan *asking
	coming atomic.Int64  // requests that are being read, and may have a question
	away   atomic.Int64  // messages that are not answered yet
	again  chan struct{} // one of these numbers fell

	mu    sync.Mutex
	alone map[its.HashedId8]time.Time // guarded by mu; until when an enrolment authority is asked about one ticket at a time
}

func newCounter() *counter {
	return &counter{queue: make(chan *asking, questionsMost), again: make(chan struct{}, 1), alone: map[its.HashedId8]time.Time{}}
}

// expect announces a question. arrived says that it is there, or that there will be none.
func (c *counter) expect() (arrived func()) {
	c.coming.Add(1)
	return sync.OnceFunc(func() {
		if c.coming.Add(-1) == 0 {
			c.wake()
		}
	})
}

// validate has the enrolment authority judge (TS 102 941, 6.2.3.4).
func (s *Service) validate(ctx context.Context, a *asking, arrived func()) (its.AuthorizationResponseCode, error) {
	a.said = make(chan its.AuthorizationResponseCode, 1)
	select {
	case s.questions.queue <- a:
		arrived()
	default:
		return 0, errs.WithRetry(errs.New(errs.Limited, "too many requests wait for the enrolment authority"), 2*time.Second)
	}
	select {
	case code := <-a.said:
		return code, nil
	case <-ctx.Done():
		return 0, errs.Wrap(errs.Unavailable, ctx.Err(), "the request was given up")
	}
}

// ask sends what waits, until ctx ends.
func (s *Service) ask(ctx context.Context) {
	var away sync.WaitGroup
	defer away.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case a := <-s.questions.queue:
			for _, list := range together(s.questions.gather(a)) {
				s.questions.away.Add(1)
				away.Go(func() {
					defer s.questions.answered()
					s.askAbout(ctx, list)
				})
			}
		}
	}
}

func (c *counter) answered() {
	c.away.Add(-1)
	c.wake()
}

// wake has who gathers look again whom to wait for.
func (c *counter) wake() {
	select {
	case c.again <- struct{}{}:
	default:
	}
}

// gather takes what waits beside a, and a little later what is known to come.
func (c *counter) gather(a *asking) []*asking {
	list, late := []*asking{a}, false
	timer := time.NewTimer(waitComing)
	defer timer.Stop()
	for len(list) < scr.MaxMany {
		select {
		case a := <-c.queue:
			list = append(list, a)
			continue
		default:
		}
		if c.away.Load() == 0 && (late || c.coming.Load() == 0) {
			return list
		}
		select {
		case a := <-c.queue:
			list = append(list, a)
		case <-c.again:
		case <-timer.C:
			if late {
				return list
			}
			late = true
			timer.Reset(waitAsked - waitComing)
		}
	}
	return list
}

// together is what can be in one message: from one authority to one other, and not too long.
func together(all []*asking) (lists [][]*asking) {
	type pair struct {
		aa *trust.Credential
		ea its.HashedId8
	}
	at, size := map[pair]int{}, map[pair]int{} // of each pair the list that is open, and its size
	for _, a := range all {
		p := pair{a.aa, a.asked.SharedAtRequest.EaId}
		i, open := at[p]
		if size[p] += a.size; !open || size[p] > togetherMost {
			i, at[p], size[p] = len(lists), len(lists), a.size
			lists = append(lists, nil)
		}
		lists[i] = append(lists[i], a)
	}
	return lists
}

// askAbout asks an enrolment authority, and tells everybody what it says. The order is random.
func (s *Service) askAbout(ctx context.Context, list []*asking) {
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	var seed [32]byte
	if _, err := io.ReadFull(s.Random, seed[:]); err != nil {
		for _, a := range list {
			a.said <- its.AaEaCantReachEa
		}
		return
	}
	rand.New(rand.NewChaCha8(seed)).Shuffle(len(list), func(i, k int) { list[i], list[k] = list[k], list[i] })
	ea := list[0].asked.SharedAtRequest.EaId
	many := len(list) > 1 && !s.questions.asksAlone(ea, s.Now())
	if many && s.askMany(ctx, list) {
		return
	}
	one := func(a *asking) {
		code := s.askOne(ctx, a)
		if many && code != its.AaEaCantReachEa { // it is there, so it does not know the other message
			s.questions.leaveAlone(ea, s.Now().Add(aloneFor))
		}
		a.said <- code
	}
	var all sync.WaitGroup
	for _, a := range list[1:] {
		all.Go(func() { one(a) })
	}
	one(list[0])
	all.Wait()
}

func (c *counter) asksAlone(id its.HashedId8, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	until, found := c.alone[id]
	if found && !now.Before(until) {
		delete(c.alone, id)
	}
	return now.Before(until)
}

func (c *counter) leaveAlone(id its.HashedId8, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.alone[id] = until
}

// askOne asks about one ticket, by the message of the standard.
func (s *Service) askOne(ctx context.Context, a *asking) its.AuthorizationResponseCode {
	content := its.EtsiTs102941DataContent{Choice: its.ValidationRequest, AuthorizationValidationRequest: a.question()}
	signed, err := scr.Sign(content, s.Trust.At(), a.aa.Signer)
	if err != nil {
		return its.AaEaCantReachEa
	}
	question, session, err := scr.SealTo(s.Random, signed, a.ea.Recipient)
	if err != nil {
		return its.AaEaCantReachEa
	}
	answer, err := s.Enrolment.Validate(ctx, a.url, question)
	if err != nil {
		return its.AaEaCantReachEa
	}
	by, said, err := scr.OpenAnswer(answer, session, its.ValidationResponse)
	if err != nil || !a.answeredBy(by) || said.AuthorizationValidationResponse.RequestHash != scr.Hash(question) {
		return its.AaEaCantReachEa
	}
	return a.told(said.AuthorizationValidationResponse)
}

// askMany asks about many tickets. It says whether that is all: an authority that does not know such messages is to be asked about each.
func (s *Service) askMany(ctx context.Context, list []*asking) bool {
	answers, known := s.answersTo(ctx, list)
	if !known {
		return false
	}
	for i, a := range list {
		if answers == nil {
			a.said <- its.AaEaCantReachEa
			continue
		}
		a.said <- a.told(&answers[i])
	}
	return true
}

// answersTo are the answers to the questions of a list, one for each; nil if they cannot be had.
func (s *Service) answersTo(ctx context.Context, list []*asking) (answers []its.AuthorizationValidationResponse, known bool) {
	q := &scr.Questions{List: make([]its.AuthorizationValidationRequest, len(list))}
	for i, a := range list {
		q.List[i] = *a.question()
	}
	first := list[0]
	signed, err := scr.SignMany(q, s.Trust.At(), first.aa.Signer)
	if err != nil {
		return nil, true
	}
	request, session, err := scr.SealTo(s.Random, signed, first.ea.Recipient)
	if err != nil {
		return nil, true
	}
	answer, err := s.Enrolment.ValidateMany(ctx, first.url, request)
	if err != nil || answer == nil {
		return nil, err != nil
	}
	by, answers, err := scr.OpenMany(answer, session, len(list))
	if err != nil || !first.answeredBy(by) {
		return nil, true
	}
	hash := scr.Hash(request)
	for i := range answers {
		if answers[i].RequestHash != hash {
			return nil, true
		}
	}
	return answers, true
}

func (a *asking) question() *its.AuthorizationValidationRequest {
	return &its.AuthorizationValidationRequest{SharedAtRequest: a.asked.SharedAtRequest, EcSignature: a.asked.EcSignature}
}

// answeredBy says whether the enrolment authority that was asked signed.
func (a *asking) answeredBy(d *its.SignedData) bool {
	return d.Signer.Choice == its.SignerDigest && d.Signer.Digest == a.asked.SharedAtRequest.EaId && d.VerifyBy(a.ea.Signatory) == nil
}

// told takes an answer in.
func (a *asking) told(r *its.AuthorizationValidationResponse) its.AuthorizationResponseCode {
	if confirmed, ok := r.ConfirmedSubjectAttributes.Get(); ok {
		a.confirmed = &confirmed
	}
	return Handed(r.ResponseCode)
}

// Handed is what the station is told of what the enrolment authority found. For deniedrequest there is no counterpart.
func Handed(code its.AuthorizationValidationResponseCode) its.AuthorizationResponseCode {
	switch {
	case code == its.ValidationOk:
		return its.AuthorizationOk
	case code <= its.ValidationDeniedTooManyCerts:
		return its.EaAaCantParse - 1 + its.AuthorizationResponseCode(code)
	}
	return its.DeniedPermissions
}
