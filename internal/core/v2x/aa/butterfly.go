package aa

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"runtime"
	"slices"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/v2x/trust"
	"mooring/wire/cocoon"
	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/scr"
)

// KeepCocoons is how long who asks for the ticket of a cocoon key again gets the same one. An enrolment authority gives up sooner.
const KeepCocoons = 8 * 24 * time.Hour

// expanding is a request of an enrolment authority for tickets of cocoon keys under way.
type expanding struct {
	from   access.Actor
	aa     *trust.Credential
	opened scr.Opened
	list   []its.RaAcaCertRequest
	names  []its.HashedId8 // of the requests, in the answer
	asked  [][]byte
	barred map[string]bool // cocoon keys whose ticket would have a key that has one
}

// ErrRefused is that an enrolment authority gets no tickets. TS 102 941 has no code for that.
var ErrRefused = errs.New(errs.Denied, "no tickets are issued for this request")

// Butterfly answers an enrolment authority that asks for one ticket of a cocoon key (TS 102 941, 6.2.3.5.5). A request whose key cannot be had is Unanswerable.
func (s *Service) Butterfly(ctx context.Context, from access.Actor, request []byte) ([]byte, error) {
	e := &expanding{from: from}
	read := func(octets []byte) error {
		content, err := scr.Content(octets, its.ButterflyCertificateRequest)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(request)
		e.list, e.names = []its.RaAcaCertRequest{*content.ButterflyCertificateRequest}, []its.HashedId8{its.HashedId8(sum[24:])}
		return nil
	}
	answers, err := s.expand(ctx, e, request, read)
	if err != nil {
		return nil, err
	}
	if len(answers) == 0 {
		return nil, ErrRefused
	}
	signed, err := scr.Sign(its.EtsiTs102941DataContent{Choice: its.ButterflyCertificateResponse, ButterflyCertificateResponse: &answers[0]}, s.Trust.At(), e.aa.Signer)
	if err != nil {
		return nil, err
	}
	return scr.Answer(s.Random, e.opened.Session, signed)
}

// ButterflyMany answers one that asks for many (package cocoon). What is refused is missing in the answer.
func (s *Service) ButterflyMany(ctx context.Context, from access.Actor, request []byte) ([]byte, error) {
	e := &expanding{from: from}
	read := func(octets []byte) (err error) {
		if e.list, err = cocoon.ParseRequests(octets); err != nil {
			return scr.CantParse
		}
		e.names = make([]its.HashedId8, len(e.list))
		for i := range e.list {
			if e.names[i], err = cocoon.Hash(&e.list[i]); err != nil {
				return scr.CantParse
			}
		}
		return nil
	}
	answers, err := s.expand(ctx, e, request, read)
	if err != nil {
		return nil, err
	}
	return cocoon.Answer(s.Random, e.opened.Session, answers, s.Trust.At(), e.aa.Signer)
}

// expand opens a request, has the tickets made that were not made before, and returns the answers to what was not refused.
func (s *Service) expand(ctx context.Context, e *expanding, request []byte, read func(octets []byte) error) ([]its.AcaRaCertResponse, error) {
	var err error
	if e.aa, err = s.Trust.Recipient(ctx, trust.AA, request); err != nil {
		return nil, err
	}
	if err := s.openExpanding(e, request, read); err != nil {
		if err2 := s.Audit.Refuse(ctx, e.from, audit.Entry{Action: "v2x.ticket", Refused: err.Error()}); err2 != nil {
			return nil, err2
		}
		var fault scr.Fault
		if errors.As(err, &fault) {
			return nil, &Unanswerable{fault} // there is no message for it, with or without a key
		}
		return nil, ErrRefused
	}
	responses, err := s.tickets(ctx, e)
	if err != nil {
		return nil, err
	}
	now := its.Time32(s.Trust.At() / 1e6)
	var answers []its.AcaRaCertResponse
	var refused int
	for i, r := range responses {
		if r == nil {
			refused++
			continue
		}
		answers = append(answers, its.AcaRaCertResponse{GenerationTime: now, RequestHash: e.names[i], AcaResponse: *r})
	}
	if refused > 0 {
		err = s.Audit.Refuse(ctx, e.from, audit.Entry{Action: "v2x.ticket", Refused: its.ItsAaDeniedPermissions.String()})
	}
	return answers, err
}

// openExpanding opens all layers, and checks that who asks is an enrolment authority of the trust list. There is no permission of its own for these requests in TS
// 102 941: it has to be a valid certificate of an enrolment authority.
func (s *Service) openExpanding(e *expanding, request []byte, read func(octets []byte) error) (err error) {
	if e.opened, err = scr.Open(request, e.aa.Holder); err != nil {
		return err
	}
	signed, octets, err := scr.Signed(e.opened.Message)
	if err != nil {
		return err
	}
	if signed.Signer.Choice != its.SignerDigest {
		return errors.New(its.ItsAaUnknownEa.String())
	}
	ea, err := s.Trust.State().Find(signed.Signer.Digest, trust.EA, s.Trust.At())
	switch {
	case errors.Is(err, trust.ErrBarred):
		return errors.New(its.ItsAaInvalidEa.String())
	case err != nil:
		return errors.New(its.ItsAaUnknownEa.String())
	case signed.Verify(&ea.Ea.EaCertificate, nil) != nil:
		return errors.New("the signature of the enrolment authority does not verify")
	}
	made, at, window := signed.TbsData.HeaderInfo.GenerationTime.Value, s.Trust.At(), its.Time64(s.Window.Microseconds())
	if made+window < at || made > at+window {
		return errors.New(its.ItsAaOutOfSyncRequest.String())
	}
	return read(octets)
}

const (
	selectCocoon = `SELECT answer FROM v2x_cocoon WHERE cell = 0 AND asked = $1`
	insertCocoon = `INSERT INTO v2x_cocoon (cell, asked, answer, hour) VALUES (0, $1, $2, $3) ON CONFLICT DO NOTHING`
	pruneCocoons = `DELETE FROM v2x_cocoon WHERE cell = 0 AND hour < $1`
)

// mark is by what a cocoon key is known again, whatever else the request says then.
func mark(q *its.RaAcaCertRequest) ([]byte, error) {
	b, err := coer.Normal(&q.TbsCert.VerifyKeyIndicator)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(b)
	return sum[:], nil
}

// errTwice is that one of the keys has a ticket by now: a cocoon key from somebody else who asked for the same, or the key of the ticket itself in another way.
var errTwice = errors.New("one of the keys has a ticket already")

// turns is how often tickets are made anew because others were faster.
const turns = 8

// tickets returns what each cocoon key gets: what it got before, or a new ticket, which is recorded first. All tickets of a request are one transaction.
func (s *Service) tickets(ctx context.Context, e *expanding) (all []*its.AcaResponse, err error) {
	e.asked, e.barred = make([][]byte, len(e.list)), map[string]bool{}
	for i := range e.list {
		if e.asked[i], err = mark(&e.list[i]); err != nil {
			return nil, err
		}
	}
	responder, err := s.responder(e.aa)
	if err != nil {
		return nil, err
	}
	for range turns {
		if all, err = s.before(ctx, e); err != nil {
			return nil, err
		}
		if err = s.issueAll(ctx, e, responder, all); !errors.Is(err, errTwice) {
			break
		}
	}
	return all, err
}

// before returns the answers that were given before.
func (s *Service) before(ctx context.Context, e *expanding) ([]*its.AcaResponse, error) {
	all := make([]*its.AcaResponse, len(e.list))
	err := s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		stmts := make([]*db.Stmt, len(e.list))
		for i := range e.list {
			all[i] = nil
			stmts[i] = &db.Stmt{SQL: selectCocoon, Args: []any{e.asked[i]}, Each: func(row db.Row) error {
				var octets []byte
				if err := row.Scan(&octets); err != nil {
					return err
				}
				all[i] = new(its.AcaResponse)
				return coer.Unmarshal(octets, all[i])
			}}
		}
		return tx.Send(ctx, stmts...)
	})
	return all, err
}

// ticketed is a ticket that waits to be recorded.
type ticketed struct {
	asked, answer, key []byte
	id                 its.HashedId8
	ends               int64
}

// issueAll makes the tickets that are missing and records them.
func (s *Service) issueAll(ctx context.Context, e *expanding, r *Responder, all []*its.AcaResponse) error {
	var missing []int
	var list []its.RaAcaCertRequest
	seen := map[string]bool{}
	for i, asked := range e.asked {
		if all[i] == nil && !seen[string(asked)] && !e.barred[string(asked)] {
			missing, list, seen[string(asked)] = append(missing, i), append(list, e.list[i]), true
		}
	}
	responses, err := r.RespondAll(list, s.Trust.At(), runtime.GOMAXPROCS(0))
	if err != nil {
		return err
	}
	var rows []ticketed
	for n, response := range responses {
		if response == nil {
			continue
		}
		row, err := s.row(e.asked[missing[n]], response)
		if err != nil {
			return err
		}
		rows, all[missing[n]] = append(rows, row), &response.Answer
	}
	if len(rows) == 0 {
		return nil
	}
	slices.SortFunc(rows, func(a, b ticketed) int { return bytes.Compare(a.asked, b.asked) }) // others lock in the same order
	return s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error { return s.recordAll(ctx, tx, e, rows) })
}

func (s *Service) row(asked []byte, r *Response) (t ticketed, err error) {
	if t.id, err = r.Ticket.HashedId8(); err != nil {
		return t, err
	}
	b, err := coer.Normal(&r.Ticket.ToBeSigned.VerifyKeyIndicator.VerificationKey)
	if err != nil {
		return t, err
	}
	key := sha256.Sum256(b)
	t.asked, t.key, t.ends = asked, key[:], r.Ticket.ToBeSigned.ValidityPeriod.End().Time(s.Trust.Leap).Unix()
	t.answer, err = coer.Marshal(&r.Answer)
	return t, err
}

// recordAll records tickets. The cocoon keys come first: whoever makes the same tickets waits there. Tickets follow in an order of their own: the place of rows in a table would say which cocoon key is that of
// which ticket, and who expands knows whose a cocoon key is.
func (s *Service) recordAll(ctx context.Context, tx *db.Tx, e *expanding, rows []ticketed) error {
	hour, n := s.hour(), len(rows)
	byKey := slices.Clone(rows)
	slices.SortFunc(byKey, func(a, b ticketed) int { return bytes.Compare(a.key, b.key) })
	stmts, list := make([]*db.Stmt, 2*n), make([]named, n)
	for i, t := range rows {
		stmts[i] = &db.Stmt{SQL: insertCocoon, Args: []any{t.asked, t.answer, hour}}
	}
	for i, t := range byKey {
		stmts[n+i] = &db.Stmt{SQL: insertTicket, Args: []any{t.key, t.id[:], t.ends}}
		list[i] = named{t.key, t.id}
	}
	if err := tx.Send(ctx, stmts...); err != nil {
		return err
	}
	var err error
	ours := map[string]bool{}
	for i, t := range rows {
		if ours[string(t.asked)] = stmts[i].N > 0; stmts[i].N == 0 {
			err = errTwice
		}
	}
	for i, t := range byKey {
		if stmts[n+i].N == 0 && ours[string(t.asked)] {
			e.barred[string(t.asked)], err = true, errTwice
		}
	}
	if err != nil {
		return err
	}
	return s.issuedTx(tx, list, hour)
}
