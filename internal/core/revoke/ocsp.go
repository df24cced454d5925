package revoke

import (
	"context"
	"crypto"
	"fmt"
	"slices"
	"sync"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/wire/ocsp"
)

// OCSPOptions say how questions are answered. A zero field means its default.
type OCSPOptions struct {
	Validity time.Duration // of an answer; 0 means 12 hours
	Cache    int           // octets of kept answers; 0 means 64 MiB
	// Mode says who answers for the CA with this name; nil means FromCA for all.
	Mode       func(issuer string) Mode
	Delegation time.Duration // validity of a delegated responder's certificate; 0 means 14 days
	// Live bounds the answers a second that are signed for one question alone: with a nonce, for several certificates, for a certificate that
	// we do not know. 0 means 1000.
	Live int
	// Strict answers that a certificate which was never issued is revoked, where it would be unknown (RFC 6960, section 2.2).
	Strict bool
}

func (o *OCSPOptions) setDefaults() {
	if o.Validity == 0 {
		o.Validity = 12 * time.Hour
	}
	if o.Cache == 0 {
		o.Cache = 64 << 20
	}
	if o.Mode == nil {
		o.Mode = func(string) Mode { return FromCA }
	}
	if o.Delegation == 0 {
		o.Delegation = 14 * 24 * time.Hour
	}
	if o.Live == 0 {
		o.Live = 1000
	}
}

// unknownFor bounds how long others may keep the answer that a certificate is not known.
const unknownFor = 5 * time.Minute

// OCSP answers a request. There always is an answer; when something went wrong on our side, err says what, for the log, even where an older
// answer could be given instead.
//
// Every CertID of a request must name the same CA: a response has one signature, which speaks for one CA only, and it must answer
// everything that was asked (RFC 6960, section 4.2.2.2). Others, as a CA that is not ours, get unauthorized. A certificate is good only
// when the registry has it and it is not revoked; one on hold is revoked for certificateHold.
func (s *Service) OCSP(ctx context.Context, request []byte) (*Answer, error) {
	q, err := ocsp.ParseRequest(request)
	if err != nil {
		s.counts.answersRefused.Add(1)
		return failure(ocsp.MalformedRequest), nil
	}
	r := s.responders.find(s, q.IDs)
	if r == nil {
		s.counts.answersRefused.Add(1)
		return failure(ocsp.Unauthorized), nil
	}
	answer, err := s.answer(ctx, r, q)
	if err == nil {
		return answer, nil
	}
	s.counts.answersFailed.Add(1)
	if answer != nil {
		return answer, err
	}
	if k := errs.KindOf(err); k == errs.Unavailable || k == errs.Limited {
		return failure(ocsp.TryLater), err
	}
	return failure(ocsp.InternalError), err
}

// KeptOCSP returns the answer to a request that is in the cache and new enough at now, a UTC second; nil when OCSP has to be asked. It is for the
// fast way: it allocates nothing and never waits.
func (s *Service) KeptOCSP(request []byte, now int64) *Answer {
	id, plain := ocsp.Plain(request)
	if !plain {
		return nil
	}
	answer, _ := s.answers.get(id, now)
	if answer == nil || !answer.current(now) {
		return nil
	}
	s.counts.cached.Add(1)
	return answer
}

func failure(status ocsp.Status) *Answer {
	return &Answer{DER: ocsp.ErrorResponse(status), Status: status}
}

// answer finds the answer in the cache or makes it. When a newer one cannot be made, the old one is returned with the error for as long as it
// is valid.
func (s *Service) answer(ctx context.Context, r *responder, q *ocsp.Request) (*Answer, error) {
	now := s.Now().Unix()
	if len(q.IDs) > 1 || q.Nonce != nil {
		if err := s.liveRate.take(s.Now()); err != nil {
			return nil, err
		}
		a, _, err := s.makeAnswer(ctx, r, q, now)
		return a, err
	}
	kept, generation := s.answers.get(q.IDs[0].Raw, now)
	if kept != nil && (kept.current(now) || !kept.claim(now)) {
		s.counts.cached.Add(1)
		return kept, nil
	}
	a, known, err := s.makeAnswer(ctx, r, q, now)
	if err != nil {
		return kept, err
	}
	if known {
		s.answers.put(q.IDs[0].Raw, a, generation)
	}
	return a, nil
}

// makeAnswer reads and signs. It reports whether all certificates are known: what strangers make up is neither kept nor free.
func (s *Service) makeAnswer(ctx context.Context, r *responder, q *ocsp.Request, now int64) (a *Answer, known bool, err error) {
	data, err := s.statuses(ctx, r, q, now)
	if err != nil {
		return nil, false, err
	}
	known = !slices.ContainsFunc(data.Singles, func(single ocsp.Single) bool { return single.Status == ocsp.Unknown || single.RevokedAt == neverIssued })
	if !known && len(q.IDs) == 1 && q.Nonce == nil {
		if err := s.liveRate.take(s.Now()); err != nil {
			return nil, false, err
		}
	}
	if a, err = s.signAnswer(ctx, r, data); err != nil {
		return nil, false, err
	}
	s.counts.answers.Add(1)
	a.Cacheable = q.Nonce == nil
	return a, known, nil
}

// statuses reads the status of everything asked, in one state of the database.
func (s *Service) statuses(ctx context.Context, r *responder, q *ocsp.Request, now int64) (ocsp.ResponseData, error) {
	data := ocsp.ResponseData{ProducedAt: now, Nonce: q.Nonce, ExtendedRevoke: s.Deps.OCSP.Strict}
	if r.issuer.Offline() {
		var err error
		data.Singles, err = s.statusesElsewhere(ctx, r, q, now)
		return data, err
	}
	err := s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		data.Singles = make([]ocsp.Single, 0, len(q.IDs))
		for _, id := range q.IDs {
			single, err := s.statusTx(ctx, tx, r, id, now)
			if err != nil {
				return fmt.Errorf("looking up the status of a certificate: %w", err)
			}
			data.Singles = append(data.Singles, single)
		}
		return nil
	})
	return data, err
}

// neverIssued is when a certificate was revoked that was never issued (RFC 6960, section 2.2): no real revocation is so old.
const neverIssued = 0

func (s *Service) statusTx(ctx context.Context, tx *db.Tx, r *responder, id ocsp.CertID, now int64) (ocsp.Single, error) {
	single := ocsp.Single{ID: id, Status: ocsp.Unknown, RevokedAt: -1, ThisUpdate: now, NextUpdate: now + int64(min(unknownFor, s.Deps.OCSP.Validity)/time.Second)}
	issuer, found, err := s.CA.IssuerOfTx(ctx, tx, id.Serial)
	if err != nil {
		return single, err
	}
	if found = found && issuer == r.issuer.ID() || s.responders.isCA(r.issuer.ID(), id.Serial) || s.isCross(r.issuer.ID(), id.Serial); found {
		single.Status, single.NextUpdate = ocsp.Good, now+int64(s.Deps.OCSP.Validity/time.Second)
	}
	var was Revocation
	if cell, serial, ok := rowOf(id.Serial); ok {
		if was, err = readTx(ctx, tx, cell, serial); err != nil {
			return single, err
		}
	}
	switch {
	case was.standing() && was.Issuer == r.issuer.ID(): // also of certificates that are not kept
		// Another node's clock may be ahead of ours.
		single.Status, single.RevokedAt, single.Reason = ocsp.Revoked, min(was.At, now), int(was.Reason)
	case !found && s.Deps.OCSP.Strict && !unkept(id.Serial):
		single.Status, single.RevokedAt, single.Reason = ocsp.Revoked, neverIssued, int(CertificateHold)
	}
	return single, nil
}

// unkept reports whether the serial number is of a kind of certificates that are not kept, and whose profiles have no OCSP: of those nobody can
// say that they were never issued.
func unkept(serial []byte) bool {
	kept := ca.KeptAs(serial)
	return kept == ca.Brief || kept == ca.Ephemeral
}

// signAnswer signs with whoever answers for the CA. No answer is valid for longer than its signer.
func (s *Service) signAnswer(ctx context.Context, r *responder, data ocsp.ResponseData) (*Answer, error) {
	if err := s.turn(ctx); err != nil {
		return nil, err
	}
	defer func() { <-s.signing }()
	signer, err := r.signer(ctx, s)
	if err != nil {
		return nil, err
	}
	data.Responder, data.ResponderName = signer.key, signer.name
	a := &Answer{ThisUpdate: data.ProducedAt, NextUpdate: signer.notAfter}
	for i := range data.Singles {
		single := &data.Singles[i]
		single.NextUpdate = min(single.NextUpdate, signer.notAfter)
		a.NextUpdate = min(a.NextUpdate, single.NextUpdate)
	}
	tbs, err := ocsp.AppendTBSResponse(make([]byte, 0, 512), data)
	if err != nil {
		return nil, fmt.Errorf("encoding an OCSP answer: %w", err)
	}
	signature, err := signer.sign(ctx, tbs)
	if err != nil {
		return nil, err
	}
	a.DER = ocsp.WrapResponse(nil, tbs, signer.algorithm, signature, signer.certs...)
	a.Refresh = a.ThisUpdate + (a.NextUpdate-a.ThisUpdate)/2
	return a, nil
}

// How long the signing of answers anew may take, on the node that made the change and on those that follow, which must look again soon. What
// is not signed by then is signed when it is asked for.
const (
	renewIn       = 2 * time.Second
	renewFollowed = 200 * time.Millisecond
)

// eagerly is up to how many changes at once an answer is signed even where nobody has asked yet.
const eagerly = 16

// renewAnswers is to be called after the certificates with these serial numbers were revoked, held or released, before anybody is told so.
// What was answered before is forgotten at once. Answers that somebody had asked for are signed anew, and for a few certificates also the one
// that most clients ask for (SHA-1, RFC 5019, section 2.1.1), so that nobody has to wait for the news.
func (s *Service) renewAnswers(ctx context.Context, issuer ca.IssuerID, serials [][]byte, within time.Duration) {
	asked := make([][][]byte, len(serials))
	for i, serial := range serials {
		asked[i] = s.answers.purge(serial)
	}
	r := s.responders.of(s, issuer)
	if r == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), within)
	defer cancel()
	for _, serial := range serials {
		r.dismiss(s, serial)
	}
	for i, serial := range serials {
		if len(asked[i]) == 0 && len(serials) <= eagerly {
			if id, err := r.ids.CertID(crypto.SHA1, serial); err == nil {
				asked[i] = [][]byte{id.Raw}
			}
		}
		for _, id := range asked[i] {
			if err := s.renewAnswer(ctx, r, id); err != nil {
				s.counts.answersFailed.Add(1)
				return // the others are signed when they are asked for
			}
		}
	}
}

// renewAnswersOf is renewAnswers for certificates of several CAs.
func (s *Service) renewAnswersOf(ctx context.Context, changed []Revocation) {
	byIssuer := map[ca.IssuerID][][]byte{}
	for i := range changed {
		if len(ca.ShownSerial(changed[i].Serial)) != serialLength { // a cross certificate's: those are not kept
			continue
		}
		byIssuer[changed[i].Issuer] = append(byIssuer[changed[i].Issuer], changed[i].Serial)
	}
	for issuer, serials := range byIssuer {
		s.renewAnswers(ctx, issuer, serials, renewIn)
	}
}

func (s *Service) renewAnswer(ctx context.Context, r *responder, id []byte) error {
	request, err := ocsp.AppendRequest(nil, []ocsp.CertID{{Raw: id}}, nil)
	if err != nil {
		return err
	}
	q, err := ocsp.ParseRequest(request)
	if err != nil {
		return err
	}
	_, err = s.answer(ctx, r, q)
	return err
}

// turn waits for a place among those who sign.
func (s *Service) turn(ctx context.Context) error {
	t := time.NewTimer(time.Second)
	defer t.Stop()
	select {
	case s.signing <- struct{}{}:
		return nil
	case <-t.C:
		return errs.New(errs.Limited, "too many OCSP questions at once")
	case <-ctx.Done():
		return errs.Wrap(errs.Unavailable, ctx.Err(), "the question was given up")
	}
}

// bucket bounds a rate: tokens come at so many a second and gather for a second at most.
type bucket struct {
	rate float64

	mu     sync.Mutex
	tokens float64   // guarded by mu
	filled time.Time // guarded by mu
}

func (b *bucket) take(now time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.filled.IsZero() || now.Before(b.filled) {
		b.tokens, b.filled = b.rate, now
	}
	b.tokens = min(b.rate, b.tokens+b.rate*now.Sub(b.filled).Seconds())
	b.filled = now
	if b.tokens < 1 {
		return errs.New(errs.Limited, "too many OCSP questions at once that no kept answer fits: ocsp.live_per_second says how many are signed")
	}
	b.tokens--
	return nil
}
