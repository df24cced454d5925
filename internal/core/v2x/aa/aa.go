// Package aa is an authorization authority of TS 102 941 (6.2.3.3): it gives stations their authorization tickets, the certificates by which they sign what they
// send to each other, without knowing who they are. It knows the keys of tickets; who asks, it has the enrolment authority judge, which sees no keys.
//
// The store is its own: it holds no device, no enrolment credential, no digest of one. What the enrolment authority is asked is the message of the standard,
// encrypted to it and sent to the address on the trust list, also where both run in one process. The key of the tag and the station's encrypted signature are in
// memory until the answer is out, and nowhere else. A request that is sent again gets the same answer, and no second ticket.
//
// A ticket says exactly what the enrolment authority confirmed, which must lie within what this authority may issue. The record says at once how many were issued, and
// when the hour is over which, in an order that tells nothing: times and order would join it with the record of the enrolment authority.
package aa

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"embed"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/v2x/trust"
	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/its/chain"
	"mooring/wire/scr"
)

//go:embed schema/*.sql
var schemaFiles embed.FS

// Schema returns the migrations of this slice.
func Schema() db.Schema {
	files, err := fs.Sub(schemaFiles, "schema")
	if err != nil {
		panic(err) // "schema" is a valid path; fs.Sub looks at nothing else
	}
	return db.Schema{Name: "v2xaa", FS: files}
}

// Enrolment reaches enrolment authorities at the addresses on the trust list. An error is that one cannot be reached.
type Enrolment interface {
	Validate(ctx context.Context, url string, request []byte) (answer []byte, err error)
	// ValidateMany sends a message about many tickets (package scr). No answer, without an error, is that the authority does not know such messages.
	ValidateMany(ctx context.Context, url string, request []byte) (answer []byte, err error)
}

// Deps are what a Service stands on.
type Deps struct {
	DB        *db.DB
	Audit     *audit.Log
	Trust     *trust.Service
	Enrolment Enrolment
	Window    time.Duration // how far the time of a request may be off
	Timeout   time.Duration // how long an enrolment authority may take
	Proof     bool          // requests without proof of possession are refused
	Random    io.Reader
	Now       func() time.Time
}

// Service is the authority. It is safe for concurrent use. Tickets are issued only while Commit runs.
type Service struct {
	Deps
	commit    *db.Group[*made]
	peers     trust.Peers // enrolment authorities
	questions *counter
	slow      chan struct{} // its capacity is how many keys of slow curves are looked at at once
}

// New returns the service over d. It starts nothing.
func New(d Deps) *Service {
	s := &Service{Deps: d, questions: newCounter(), slow: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))}
	s.commit = db.NewGroup(d.DB, db.Plan[*made]{Key: func(m *made) db.Key { return db.Key{ID: [16]byte(m.key[:16])} }, Apply: s.apply, Linger: linger})
	return s
}

// linger is how long tickets wait for others to be recorded with: a commit costs as much as two signatures, whoever shares it.
const linger = 20 * time.Millisecond

// Commit asks enrolment authorities, about many tickets at once, and records tickets, many in one transaction, until ctx ends.
func (s *Service) Commit(ctx context.Context) error {
	var asks sync.WaitGroup
	defer asks.Wait()
	asks.Go(func() { s.ask(ctx) })
	return s.commit.Run(ctx)
}

// made is a ticket that was signed and waits to be recorded.
type made struct {
	place                int64 // of the answer
	request, key, answer []byte
	id                   its.HashedId8
	ends                 int64
}

// Unanswerable is a request to which there is no answer: its key could not be had. The server says 400 and nothing else.
type Unanswerable struct{ Fault error }

// Error tells it in the server's log.
func (u *Unanswerable) Error() string { return "the request cannot be answered: " + u.Fault.Error() }

// Unwrap gives the fault.
func (u *Unanswerable) Unwrap() error { return u.Fault }

// asking is a request for a ticket under way.
type asking struct {
	from      access.Actor
	aa        *trust.Credential
	digest    []byte
	size      int
	opened    scr.Opened
	pop       *its.SignedData // nil: without proof of possession
	asked     *its.InnerAtRequest
	url       string // of the enrolment authority
	ea        *trust.Peer
	confirmed *its.CertificateSubjectAttributes
	said      chan its.AuthorizationResponseCode // by the enrolment authority, once; with room for it
}

// Authorize answers a request for a ticket. The error is an Unanswerable, or says that the authority cannot work at the moment.
//
// Whether the same request was answered before is looked at last: where it is to be recorded, which it cannot be twice, and before it is refused. That is rare, and
// a look at the beginning costs each request as much as its record.
func (s *Service) Authorize(ctx context.Context, from access.Actor, request []byte) ([]byte, error) {
	defer s.commit.Expect()()
	arrived := s.questions.expect()
	defer arrived()
	sum := sha256.Sum256(request)
	a := &asking{from: from, digest: sum[:], size: len(request)}
	var err error
	if a.aa, err = s.Trust.Recipient(ctx, trust.AA, request); err != nil {
		return nil, err
	}
	code := s.judge(a, request)
	if code == its.AuthorizationOk {
		if code, err = s.validate(ctx, a, arrived); err != nil {
			return nil, err
		}
	}
	if code == its.AuthorizationOk {
		code = within(a)
	}
	if code == its.AuthorizationOk && slow(a) {
		if code, err = s.provenSlowly(ctx, a); err != nil {
			return nil, err
		}
	}
	if code != its.AuthorizationOk {
		return s.refuse(ctx, a, code)
	}
	return s.issue(ctx, a)
}

const (
	insertAnswers = `INSERT INTO v2x_answer (cell, made, request, answer, at) VALUES `
	selectAnswer  = `SELECT answer FROM v2x_answer WHERE cell = 0 AND made IN (0, $1) AND request = $2`
	pruneAnswers  = `DELETE FROM v2x_answer WHERE cell = 0 AND made < $1 AND at < $2`
	insertTicket  = `INSERT INTO v2x_ticket (cell, key, id, ends) VALUES (0, $1, $2, $3) ON CONFLICT DO NOTHING`
	insertTickets = `INSERT INTO v2x_ticket (cell, key, id, ends) VALUES `
	pruneTickets  = `DELETE FROM v2x_ticket WHERE cell = 0 AND ends < $1`
	whoseKeys     = ` ON CONFLICT DO NOTHING RETURNING key`
)

func (s *Service) answered(ctx context.Context, a *asking) (answer []byte, err error) {
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Get(ctx, []any{&answer}, selectAnswer, a.made(), a.digest)
		return err
	})
	return answer, err
}

// judge goes through what can be seen here.
func (s *Service) judge(a *asking, request []byte) its.AuthorizationResponseCode {
	if err := a.read(request); err != nil {
		var f scr.Fault
		if !errors.As(err, &f) {
			f = scr.CantParse
		}
		return its.AuthorizationResponseCode(f)
	}
	// What is cheap comes first: nobody is known yet, and a stranger may choose keys of whatever curve costs most. A key of a slow one is looked at when the enrolment authority
	// knows whose it is.
	checks := []func(*asking) its.AuthorizationResponseCode{tagged, s.complete, s.timely, s.enrolment, permitted, encryption}
	if !slow(a) {
		checks = append(checks, proven)
	}
	for _, check := range checks {
		if code := check(a); code != its.AuthorizationOk {
			return code
		}
	}
	return its.AuthorizationOk
}

// read opens all layers. What is encrypted is signed with the new key, or not signed at all.
func (a *asking) read(request []byte) (err error) {
	if a.opened, err = scr.Open(request, a.aa.Holder); err != nil {
		return err
	}
	octets := a.opened.Message.Content.Opaque
	if a.opened.Message.Content.Choice != its.UnsecuredData {
		if a.pop, octets, err = scr.Signed(a.opened.Message); err != nil {
			return err
		}
	}
	content, err := scr.Content(octets, its.AuthorizationRequest)
	if err != nil {
		return err
	}
	a.asked = content.AuthorizationRequest
	return nil
}

func tagged(a *asking) its.AuthorizationResponseCode {
	tag, err := scr.KeyTag(a.asked.HmacKey, &a.asked.PublicKeys)
	if err != nil || !hmac.Equal(tag[:], a.asked.SharedAtRequest.KeyTag[:]) {
		return its.ItsAaKeysDontMatch
	}
	return its.AuthorizationOk
}

func (s *Service) complete(a *asking) its.AuthorizationResponseCode {
	r := &a.asked.SharedAtRequest
	if r.CertificateFormat != its.FormatTs103097 || len(r.RequestedSubjectAttributes.AppPermissions) == 0 && r.RequestedSubjectAttributes.CertIssuePermissions == nil || a.pop == nil && s.Proof {
		return its.ItsAaIncompleteRequest
	}
	return its.AuthorizationOk
}

func encryption(a *asking) its.AuthorizationResponseCode {
	if k, ok := a.asked.PublicKeys.EncryptionKey.Get(); ok && !scr.UsableForEncryption(&k) {
		return its.ItsAaInvalidEncryptionKey
	}
	return its.AuthorizationOk
}

// made is where the answer to a request is kept: in the order in which requests were made, as they say themselves, in milliseconds. So answers that are recorded together lie
// together, and one that is sent again says the same. 0 is for those that do not say.
func (a *asking) made() int64 {
	if a.pop == nil {
		return 0
	}
	return int64(a.pop.TbsData.HeaderInfo.GenerationTime.Value / 1000)
}

func (s *Service) timely(a *asking) its.AuthorizationResponseCode {
	if a.pop == nil {
		return its.AuthorizationOk
	}
	made, at, window := a.pop.TbsData.HeaderInfo.GenerationTime.Value, s.Trust.At(), its.Time64(s.Window.Microseconds())
	if made+window < at || made > at+window {
		return its.ItsAaOutOfSyncRequest
	}
	return its.AuthorizationOk
}

// enrolment finds the enrolment authority of the station on the trust list.
func (s *Service) enrolment(a *asking) its.AuthorizationResponseCode {
	e, err := s.Trust.State().Find(a.asked.SharedAtRequest.EaId, trust.EA, s.Trust.At())
	switch {
	case errors.Is(err, trust.ErrBarred):
		return its.ItsAaInvalidEa
	case err != nil && s.Trust.State().Bars(a.asked.SharedAtRequest.EaId):
		return its.ItsAaInvalidEa
	case err != nil:
		return its.ItsAaUnknownEa
	}
	a.url = e.Ea.AaAccessPoint
	if a.ea, err = s.peers.Of(a.asked.SharedAtRequest.EaId, &e.Ea.EaCertificate); err != nil {
		return its.ItsAaInvalidEa
	}
	return its.AuthorizationOk
}

// permitted checks what is asked for.
func permitted(a *asking) its.AuthorizationResponseCode {
	if !allowed(a, &a.asked.SharedAtRequest.RequestedSubjectAttributes) {
		return its.ItsAaDeniedPermissions
	}
	return its.AuthorizationOk
}

// proven checks the proof of possession, or without one that the key is one. For its failure there is no better code.
func proven(a *asking) its.AuthorizationResponseCode {
	key := &a.asked.PublicKeys.VerificationKey
	if a.pop == nil && scr.Usable(key) || a.pop != nil && a.pop.Signer.Choice == its.SignerSelf && a.pop.Verify(nil, key) == nil {
		return its.AuthorizationOk
	}
	return its.ItsAaDeniedPermissions
}

// slow says whether to look at the key of a ticket takes some hundred times as long as with P-256.
func slow(a *asking) bool {
	c := a.asked.PublicKeys.VerificationKey.Choice
	return c == its.ECDSABrainpoolP256r1 || c == its.ECDSABrainpoolP384r1
}

// provenSlowly is proven, a few at once: a station can have the enrolment authority answer the same question again.
func (s *Service) provenSlowly(ctx context.Context, a *asking) (its.AuthorizationResponseCode, error) {
	select {
	case s.slow <- struct{}{}:
		defer func() { <-s.slow }()
		return proven(a), nil
	case <-ctx.Done():
		return 0, errs.Wrap(errs.Unavailable, ctx.Err(), "the request was given up")
	}
}

// allowed says whether this authority may issue tickets with these attributes.
func allowed(a *asking, t *its.CertificateSubjectAttributes) bool {
	if t.CertIssuePermissions != nil {
		return false
	}
	for _, p := range t.AppPermissions {
		if p.Psid >= its.PsidCRL && p.Psid <= its.PsidCTL || !chain.MayIssue(a.aa.Certificate.ToBeSigned.CertIssuePermissions, p) {
			return false
		}
	}
	return true
}

// within checks that what was confirmed can be issued.
func within(a *asking) its.AuthorizationResponseCode {
	c := a.confirmed
	if c == nil || len(c.AppPermissions) == 0 || !c.ValidityPeriod.Present || c.Id.Present && c.Id.Value.Choice != its.IdNone || !allowed(a, c) {
		return its.ItsAaDeniedPermissions
	}
	return its.AuthorizationOk
}

// refuse records a refusal and answers with its code, if there is a key to answer with. A request that got a ticket before gets it again.
func (s *Service) refuse(ctx context.Context, a *asking, code its.AuthorizationResponseCode) ([]byte, error) {
	if answer, err := s.answered(ctx, a); answer != nil || err != nil {
		return answer, err
	}
	if err := s.Audit.Refuse(ctx, a.from, audit.Entry{Action: "v2x.ticket", Refused: code.String()}); err != nil {
		return nil, err
	}
	if a.opened.Session == nil {
		return nil, &Unanswerable{scr.Fault(code)}
	}
	return s.answer(a, code, nil)
}

func (s *Service) answer(a *asking, code its.AuthorizationResponseCode, ticket *its.Certificate) ([]byte, error) {
	signed, err := scr.Sign(its.EtsiTs102941DataContent{Choice: its.AuthorizationResponse, AuthorizationResponse: &its.InnerAtResponse{
		RequestHash: a.opened.Hash, ResponseCode: code, Certificate: ticket}}, s.Trust.At(), a.aa.Signer)
	if err != nil {
		return nil, err
	}
	return scr.Answer(s.Random, a.opened.Session, signed)
}

// hour is the present, as far as the record tells it: exact times would join this record with that of an enrolment authority.
func (s *Service) hour() int64 { return s.Now().Unix() / 3600 * 3600 }

// issue makes the ticket and releases it once it is recorded.
func (s *Service) issue(ctx context.Context, a *asking) ([]byte, error) {
	c := a.confirmed
	x := &its.Certificate{ToBeSigned: its.ToBeSignedCertificate{Id: its.CertificateId{Choice: its.IdNone}, ValidityPeriod: c.ValidityPeriod.Value, Region: c.Region,
		AssuranceLevel: c.AssuranceLevel, AppPermissions: c.AppPermissions, EncryptionKey: a.asked.PublicKeys.EncryptionKey,
		VerifyKeyIndicator: its.VerificationKeyIndicator{VerificationKey: a.asked.PublicKeys.VerificationKey}}}
	code, err := s.sign(a, x)
	if err != nil {
		return nil, err
	}
	if code != its.AuthorizationOk {
		return s.refuse(ctx, a, code)
	}
	answer, err := s.answer(a, its.AuthorizationOk, x)
	if err != nil {
		return nil, err
	}
	err = s.record(ctx, a, x, answer)
	if errors.Is(err, errUsed) { // the same request again, or another one with the same key
		return s.refuse(ctx, a, its.ItsAaDeniedPermissions)
	}
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// sign holds the ticket against its profile and what this authority may issue, region and validity among it, and signs it.
func (s *Service) sign(a *asking, x *its.Certificate) (its.AuthorizationResponseCode, error) {
	root := s.Trust.State().RootOf(a.aa.Certificate)
	period, above := x.ToBeSigned.ValidityPeriod, a.aa.Certificate.ToBeSigned.ValidityPeriod
	if root == nil || period.Start < above.Start || period.End() > above.End() {
		return its.ItsAaDeniedPermissions, nil
	}
	if err := a.aa.Signer.Certify(x); err != nil {
		return 0, err
	}
	err := x.CheckRole(its.EtsiAT, 0)
	if err == nil && x.ToBeSigned.Region.Present { // everything else was looked at before
		at := max(s.Trust.At(), its.Time64(period.Start)*1e6) // one for later is judged for then
		err = chain.Check([]*its.Certificate{x, a.aa.Certificate, root.Certificate}, chain.Options{At: at, Trusted: func(id its.HashedId8) bool { return id == root.ID }})
	}
	if err != nil {
		return its.ItsAaDeniedPermissions, nil // what was signed is thrown away
	}
	return its.AuthorizationOk, nil
}

var errUsed = errors.New("the key has a ticket already")

func (s *Service) record(ctx context.Context, a *asking, x *its.Certificate, answer []byte) error {
	id, err := x.HashedId8()
	if err != nil {
		return err
	}
	b, err := coer.Normal(&a.asked.PublicKeys.VerificationKey)
	if err != nil {
		return err
	}
	key := sha256.Sum256(b)
	return s.commit.Do(ctx, &made{a.made(), a.digest, key[:], answer, id, x.ToBeSigned.ValidityPeriod.End().Time(s.Trust.Leap).Unix()})
}

// apply records a batch. Whose key has a ticket already is refused.
func (s *Service) apply(ctx context.Context, tx *db.Tx, batch []*made) (refused []error, err error) {
	hour, now := s.hour(), s.Now().Unix()
	fresh, err := s.take(ctx, tx, batch)
	if err != nil {
		return nil, err
	}
	refused = make([]error, len(batch))
	answers, list := make([]any, 0, 4*len(batch)), make([]named, 0, len(batch))
	for i, m := range batch {
		if !fresh[string(m.key)] {
			refused[i] = errUsed
			continue
		}
		answers = append(answers, m.place, m.request, m.answer, now)
		list = append(list, named{m.key, m.id})
	}
	n := len(list)
	if n == 0 {
		return refused, nil
	}
	if err := db.Chunks(n, func(from, to int) error {
		tx.Defer(&db.Stmt{SQL: insertAnswers + db.Values("0, ", 4, to-from) + ` ON CONFLICT DO NOTHING`, Args: answers[4*from : 4*to]})
		return nil
	}); err != nil {
		return nil, err
	}
	return refused, s.issuedTx(tx, list, hour)
}

// take writes the rows of tickets, and returns the keys that had none.
func (s *Service) take(ctx context.Context, tx *db.Tx, batch []*made) (map[string]bool, error) {
	fresh := make(map[string]bool, len(batch))
	row := func(r db.Row) error {
		var key []byte
		err := r.Scan(&key)
		fresh[string(key)] = true
		return err
	}
	var stmts []*db.Stmt
	err := db.Chunks(len(batch), func(from, to int) error {
		args := make([]any, 0, 3*(to-from))
		for _, m := range batch[from:to] {
			args = append(args, m.key, m.id[:], m.ends)
		}
		stmts = append(stmts, &db.Stmt{SQL: insertTickets + db.Values("0, ", 3, to-from) + whoseKeys, Args: args, Each: row})
		return nil
	})
	return fresh, errors.Join(err, tx.Send(ctx, stmts...))
}

// Run takes away what is over, until ctx ends.
func (s *Service) Run(ctx context.Context, log *slog.Logger) error {
	tick := time.NewTicker(5 * time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := s.Prune(ctx); err != nil && ctx.Err() == nil {
				log.LogAttrs(ctx, slog.LevelError, "taking away old V2X requests", slog.Any("error", err))
			}
		}
	}
}

// Prune names the tickets of past hours in the record, takes away answers beyond the window, and what is known of tickets that are over.
func (s *Service) Prune(ctx context.Context) error {
	if err := s.Tell(ctx); err != nil {
		return err
	}
	now := s.Now()
	return s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		// No request is from later than the window allows, so that these are all that are old enough.
		_, err := tx.Exec(ctx, pruneAnswers, int64((s.Trust.At()-2*its.Time64(s.Window.Microseconds()))/1000)+1, now.Add(-3*s.Window).Unix())
		_, err2 := tx.Exec(ctx, pruneTickets, now.Unix())
		_, err3 := tx.Exec(ctx, pruneCocoons, now.Add(-KeepCocoons).Unix())
		return errors.Join(err, err2, err3)
	})
}
