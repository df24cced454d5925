package revoke

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/wire/ocsp"
)

// Answer is an OCSP response. It is shared: do not change DER.
type Answer struct {
	DER    []byte
	Status ocsp.Status // anything but Successful is unsigned
	// Cacheable says that others may keep the answer. It is false for errors and for answers to a nonce.
	Cacheable              bool
	ThisUpdate, NextUpdate int64 // of a Successful one, UTC seconds; of several certificates the earliest end
	Refresh                int64 // from then on a newer answer is worth asking for
}

// unknownFor bounds how long others may keep the answer that a certificate is not known.
const unknownFor = 5 * time.Minute

// OCSP answers a request. There always is an answer; when it is internalError or tryLater, err says why, for the log.
//
// Every CertID of a request must name the same CA: a response has one signature, which speaks for one CA only, and it must answer
// everything that was asked (RFC 6960, section 4.2.2.2). Others, as a CA that is not ours, get unauthorized. A certificate is good only
// when the registry has it and it is not revoked; one on hold is revoked for certificateHold.
func (s *Service) OCSP(ctx context.Context, request []byte) (Answer, error) {
	q, err := ocsp.ParseRequest(request)
	if err != nil {
		return failure(ocsp.MalformedRequest), nil
	}
	r := s.responders.find(s.CA, q.IDs)
	if r == nil {
		return failure(ocsp.Unauthorized), nil
	}
	answer, err := s.answer(ctx, r, q)
	if err == nil {
		return answer, nil
	}
	s.counts.answersFailed.Add(1)
	if k := errs.KindOf(err); k == errs.Unavailable || k == errs.Limited {
		return failure(ocsp.TryLater), err
	}
	return failure(ocsp.InternalError), err
}

func failure(status ocsp.Status) Answer {
	return Answer{DER: ocsp.ErrorResponse(status), Status: status}
}

// answer finds the answer in the cache or makes it.
func (s *Service) answer(ctx context.Context, r *responder, q *ocsp.Request) (Answer, error) {
	now := s.Now().Unix()
	single := len(q.IDs) == 1 && q.Nonce == nil
	id := q.IDs[0]
	var generation uint64
	if single {
		var kept *Answer
		if kept, generation = s.answers.get(id.Serial, id.Raw, now); kept != nil {
			s.counts.cached.Add(1)
			return *kept, nil
		}
	}
	data, err := s.statuses(ctx, r, q, now)
	if err != nil {
		return Answer{}, err
	}
	a, err := s.signAnswer(ctx, r, data)
	if err != nil {
		return Answer{}, err
	}
	s.counts.answers.Add(1)
	a.Cacheable = q.Nonce == nil
	if single && data.Singles[0].Status != ocsp.Unknown {
		s.answers.put(id.Serial, id.Raw, &a, generation, now)
	}
	return a, nil
}

// statuses reads the status of everything asked, in one state of the database.
func (s *Service) statuses(ctx context.Context, r *responder, q *ocsp.Request, now int64) (ocsp.ResponseData, error) {
	data := ocsp.ResponseData{Responder: r.ids.KeyHash(), ProducedAt: now, Nonce: q.Nonce}
	err := s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		data.Singles = nil
		for _, id := range q.IDs {
			single, err := s.statusTx(ctx, tx, r.issuer.ID(), id, now)
			if err != nil {
				return fmt.Errorf("looking up the status of a certificate: %w", err)
			}
			data.Singles = append(data.Singles, single)
		}
		return nil
	})
	return data, err
}

func (s *Service) statusTx(ctx context.Context, tx *db.Tx, issuer ca.IssuerID, id ocsp.CertID, now int64) (ocsp.Single, error) {
	single := ocsp.Single{ID: id, Status: ocsp.Unknown, ThisUpdate: now, NextUpdate: now + int64(min(unknownFor, s.OCSPValidity)/time.Second)}
	c, err := s.CA.GetTx(ctx, tx, id.Serial)
	if errs.Is(err, errs.NotFound) || err == nil && c.Issuer != issuer {
		return single, nil
	}
	if err != nil {
		return single, err
	}
	single.Status, single.NextUpdate = ocsp.Good, now+int64(s.OCSPValidity/time.Second)
	was, err := readTx(ctx, tx, c.Cell, c.Serial[:])
	if err != nil || !was.standing() {
		return single, err
	}
	// Another node's clock may be ahead of ours.
	single.Status, single.RevokedAt, single.Reason = ocsp.Revoked, min(was.At, now), int(was.Reason)
	return single, nil
}

// signAnswer signs with the CA's own key, so that no certificate need come along.
func (s *Service) signAnswer(ctx context.Context, r *responder, data ocsp.ResponseData) (Answer, error) {
	if err := s.turn(ctx); err != nil {
		return Answer{}, err
	}
	defer func() { <-s.signing }()
	tbs, err := ocsp.AppendTBSResponse(make([]byte, 0, 512), data)
	if err != nil {
		return Answer{}, fmt.Errorf("encoding an OCSP answer: %w", err)
	}
	signature, err := s.signWith(ctx, r.issuer, tbs)
	if err != nil {
		return Answer{}, err
	}
	a := Answer{DER: ocsp.WrapResponse(nil, tbs, r.issuer.Algorithm(), signature), ThisUpdate: data.ProducedAt, NextUpdate: data.Singles[0].NextUpdate}
	for _, single := range data.Singles {
		a.NextUpdate = min(a.NextUpdate, single.NextUpdate)
	}
	a.Refresh = a.ThisUpdate + (a.NextUpdate-a.ThisUpdate)/2
	return a, nil
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

// responder answers for one CA.
type responder struct {
	issuer *ca.Issuer
	ids    *ocsp.Issuer
}

// responders finds the CA that CertIDs speak of.
type responders struct {
	mu    sync.RWMutex
	known map[string]*responder // by hash algorithm and both hashes; guarded by mu
	seen  map[ca.IssuerID]bool  // CAs in known, and those that do not answer; guarded by mu
}

// hashes are those of a CertID (RFC 6960; RFC 5019 demands SHA-1).
func hashes() []crypto.Hash {
	return []crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.SHA384, crypto.SHA512}
}

func hashKey(id *ocsp.CertID) string {
	return string(rune(id.Hash)) + string(id.NameHash) + string(id.KeyHash)
}

// find returns who answers for all of ids, or nil.
func (rs *responders) find(authority *ca.Authority, ids []ocsp.CertID) *responder {
	r := rs.lookup(hashKey(&ids[0]))
	if r == nil && rs.learn(authority) {
		r = rs.lookup(hashKey(&ids[0]))
	}
	if r == nil {
		return nil
	}
	for i := range ids {
		if !r.ids.Issued(ids[i]) {
			return nil
		}
	}
	return r
}

func (rs *responders) lookup(k string) *responder {
	rs.mu.RLock()
	defer rs.mu.RUnlock()
	return rs.known[k]
}

// learn adds the CAs that came since the last time and reports whether there were any. A CA whose certificate does not permit it to sign
// other things than certificates and lists does not answer.
func (rs *responders) learn(authority *ca.Authority) bool {
	var all []*ca.Issuer
	authority.Each(func(i *ca.Issuer) { all = append(all, i) })
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if len(all) == len(rs.seen) {
		return false
	}
	if rs.known == nil {
		rs.known, rs.seen = map[string]*responder{}, map[ca.IssuerID]bool{}
	}
	for _, i := range all {
		if rs.seen[i.ID()] {
			continue
		}
		rs.seen[i.ID()] = true
		cert := i.Certificate()
		if cert.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
			continue
		}
		r, err := newResponder(i)
		if err != nil {
			continue // its key has no form that a CertID could name
		}
		for _, h := range hashes() {
			if id, err := r.ids.CertID(h, []byte{1}); err == nil {
				rs.known[hashKey(&id)] = r
			}
		}
	}
	return true
}

func newResponder(i *ca.Issuer) (*responder, error) {
	cert := i.Certificate()
	ids, err := ocsp.NewIssuer(cert.RawSubject, cert.RawSubjectPublicKeyInfo)
	if err != nil {
		return nil, errors.Join(errors.New("reading a CA's key"), err)
	}
	return &responder{i, ids}, nil
}
