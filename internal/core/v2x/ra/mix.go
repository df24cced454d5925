package ra

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
	"mooring/internal/core/v2x/trust"
	"mooring/wire/butterfly"
	"mooring/wire/cocoon"
	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/scr"
)

// Bounds of what is shuffled at once.
const (
	pageMost = 1 << 14 // tickets that are read, if these are of enough stations
	mixMost  = 1 << 17 // tickets, of however few stations; and so many that are made up
)

// variants are how many ways to expand keys there are.
const variants = 3

// waiting is a ticket that is asked for; made up, if it is of no order.
type waiting struct {
	place
	since  int64
	device device.ID
	signer its.HashedId8
	of     *expanded

	request *its.RaAcaCertRequest // once it is expanded
	sum     [sha256.Size]byte     // of that
}

// place is which ticket of which order it is.
type place struct {
	id   its.HashedId8
	i, j int64
}

// expanded is the order of waiting tickets.
type expanded struct {
	*order // nil: made up
	by     *Expansion
}

// Mix asks for what waits, in random order, once enough stations are there or the first has waited long enough, and makes the archives of what is complete.
func (s *Service) Mix(ctx context.Context) error {
	return errors.Join(s.mix(ctx), s.finish(ctx))
}

// mix is Mix as long as there is something to be sent.
func (s *Service) mix(ctx context.Context) error {
	for {
		list, full, err := s.gather(ctx)
		if err != nil || len(list) == 0 {
			return err
		}
		if err := s.expansions(ctx, list); err != nil {
			return err
		}
		sent := false
		var failed []error // of one variant, which do not keep the others
		for _, alike := range byVariant(list) {
			if !s.due(alike) {
				continue
			}
			did, err := s.send(ctx, alike)
			failed, sent = append(failed, err), sent || did
		}
		if err := errors.Join(failed...); err != nil {
			return errors.Join(err, s.finish(ctx))
		}
		if !sent {
			return nil
		}
		if err := s.finish(ctx); err != nil || !full {
			return err
		}
	}
}

// byVariant parts tickets by how their keys are expanded, which the authorization authority sees of each request: only stations of one variant are mixed with each other.
func byVariant(list []*waiting) (parts [][]*waiting) {
	at := map[butterfly.Variant]int{}
	for _, w := range list {
		n, there := at[w.of.caterpillar.Variant]
		if !there {
			n, at[w.of.caterpillar.Variant] = len(parts), len(parts)
			parts = append(parts, nil)
		}
		parts[n] = append(parts[n], w)
	}
	return parts
}

// due says whether tickets are of enough stations, or have waited long enough.
func (s *Service) due(list []*waiting) bool {
	stations, oldest := count(list)
	return len(list) > 0 && (stations >= s.Policy.Stations || s.Now().Unix() >= oldest+int64(s.Policy.Wait/time.Second))
}

// count is of how many stations tickets are, and since when the first of them waits.
func count(list []*waiting) (stations int, oldest int64) {
	seen := map[device.ID]bool{}
	for n, w := range list {
		seen[w.device] = true
		if n == 0 || w.since < oldest {
			oldest = w.since
		}
	}
	return len(seen), oldest
}

// gather returns what waits, but for stations that are stopped, what a revoked credential asked for, and what was refused a short while ago: all, or so much that enough stations of one
// variant are among it. There may be more if it is full.
func (s *Service) gather(ctx context.Context) (list []*waiting, full bool, err error) {
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		list = nil
		for skip := 0; ; skip += pageMost {
			page, err := s.page(ctx, tx, skip)
			if err != nil {
				return err
			}
			full = len(page) == pageMost
			standing, err := s.EA.StandingTx(ctx, tx, stationsOf(page))
			if err != nil {
				return err
			}
			revoked, err := s.EA.RevokedTx(ctx, tx, signersOf(page)...)
			if err != nil {
				return err
			}
			now := s.Now()
			list = append(list, slices.DeleteFunc(page, func(w *waiting) bool {
				return !standing[w.device] || revoked[w.signer] || s.refusedUntil(w.place).After(now)
			})...)
			if !full || len(list)+pageMost > mixMost || len(stationsOf(list)) >= variants*s.Policy.Stations {
				return nil
			}
		}
	})
	return list, full, err
}

func stationsOf(list []*waiting) (ids []device.ID) {
	seen := map[device.ID]bool{}
	for _, w := range list {
		if !seen[w.device] {
			ids, seen[w.device] = append(ids, w.device), true
		}
	}
	return ids
}

func signersOf(list []*waiting) (ids []its.HashedId8) {
	seen := map[its.HashedId8]bool{}
	for _, w := range list {
		if !seen[w.signer] {
			ids, seen[w.signer] = append(ids, w.signer), true
		}
	}
	return ids
}

// page reads some of what waits.
func (s *Service) page(ctx context.Context, tx *db.Tx, skip int) (list []*waiting, err error) {
	err = tx.Each(ctx, func(row db.Row) error {
		var id, dev, signer []byte
		w := &waiting{}
		if err := row.Scan(&id, &w.i, &w.j, &w.since, &dev, &signer); err != nil || len(id) != len(w.id) || len(dev) != len(w.device) || len(signer) != len(w.signer) {
			return errors.Join(errors.New("reading table v2x_waiting"), err)
		}
		w.id, w.device, w.signer = its.HashedId8(id), device.ID(dev), its.HashedId8(signer)
		list = append(list, w)
		return nil
	}, selectWaiting, []byte{}, pageMost, skip)
	return list, err
}

// expansions reads the orders of what waits.
func (s *Service) expansions(ctx context.Context, list []*waiting) error {
	orders := map[its.HashedId8]*expanded{}
	return s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		for _, w := range list {
			if w.of = orders[w.id]; w.of != nil {
				continue
			}
			w.of = &expanded{}
			if err := tx.Each(ctx, func(row db.Row) (err error) {
				w.of.order, err = scanOrder(row)
				return err
			}, selectOrder, w.id[:]); err != nil {
				return err
			}
			if w.of.order == nil {
				return fmt.Errorf("table v2x_waiting: there is no request %s", w.id)
			}
			if err := w.of.read(); err != nil {
				return err
			}
			w.of.by = NewExpansion(w.of.caterpillar, w.of.permissions, s.Policy.Strict)
			orders[w.id] = w.of
		}
		return nil
	})
}

// pad makes up tickets of so many stations that are missing, each with as many as a random one of those that are there. Nobody has the keys.
func (s *Service) pad(list []*waiting, missing int) (more []*waiting, err error) {
	of := map[device.ID][]*waiting{}
	var stations []device.ID
	for _, w := range list {
		if of[w.device] == nil {
			stations = append(stations, w.device)
		}
		of[w.device] = append(of[w.device], w)
	}
	for range missing {
		n, err := s.below(len(stations))
		if err != nil {
			return nil, err
		}
		like := of[stations[n]]
		if len(more)+len(like) > mixMost {
			return more, nil
		}
		made := map[*expanded]*expanded{}
		for _, w := range like {
			if made[w.of] == nil {
				if made[w.of], err = s.madeUp(w.of); err != nil {
					return nil, err
				}
			}
			more = append(more, &waiting{of: made[w.of], place: place{i: w.i, j: w.j}})
		}
	}
	return more, nil
}

// madeUp is an order like another one, of keys that nobody has.
func (s *Service) madeUp(like *expanded) (*expanded, error) {
	c := butterfly.Caterpillar{Variant: like.caterpillar.Variant}
	for _, p := range []*butterfly.Point{&c.SigningKey, &c.EncryptionKey} {
		k, err := butterfly.RandomScalar(s.Random)
		if err != nil {
			return nil, err
		}
		*p = k.Public()
	}
	for _, k := range [][]byte{c.SigningExpansion[:], c.EncryptionExpansion[:]} {
		if _, err := io.ReadFull(s.Random, k); err != nil {
			return nil, err
		}
	}
	return &expanded{by: NewExpansion(c, like.permissions, s.Policy.Strict)}, nil
}

// below is a random number below n, each as likely as the others but for one part in 2^32.
func (s *Service) below(n int) (int, error) {
	var b [8]byte
	if _, err := io.ReadFull(s.Random, b[:]); err != nil {
		return 0, err
	}
	var x uint64
	for _, o := range b {
		x = x<<8 | uint64(o)
	}
	return int(x % uint64(n)), nil
}

// shuffle puts a list into random order.
func (s *Service) shuffle(list []*waiting) error {
	for n := len(list) - 1; n > 0; n-- {
		k, err := s.below(n + 1)
		if err != nil {
			return err
		}
		list[n], list[k] = list[k], list[n]
	}
	return nil
}

// send asks the authorization authority for tickets, in random order and together with those that are made up. Nothing is sent if, without those that cannot be asked for, it is not due.
func (s *Service) send(ctx context.Context, list []*waiting) (sent bool, err error) {
	issuer, err := s.issuer()
	if err != nil {
		return false, err
	}
	by, err := s.Trust.Credential(ctx, trust.EA)
	if err != nil {
		return false, err
	}
	within, at := issuer.AaCertificate.ToBeSigned.ValidityPeriod, s.seconds() // of all the same: it does not tell which are made up
	if list = s.expand(ctx, list, within, at); !s.due(list) {
		return false, nil
	}
	stations, _ := count(list)
	more, err := s.pad(list, max(0, s.Policy.Stations-stations))
	if err != nil {
		return false, err
	}
	all := append(slices.Clip(list), s.expand(ctx, more, within, at)...)
	if err := s.shuffle(all); err != nil {
		return false, err
	}
	// Which tickets were mixed can be shown later by this digest; their order is nowhere.
	if err := s.Audit.Record(ctx, audit.Entry{Action: "v2x.mix", At: s.hour(), Actor: "system:v2x", Detail: map[string]string{
		"stations": strconv.Itoa(stations), "tickets": strconv.Itoa(len(list)), "added": strconv.Itoa(len(more)), "set": setOf(all)}}); err != nil {
		return false, err
	}
	if stations < s.Policy.Stations {
		s.Log.LogAttrs(ctx, slog.LevelWarn, "V2X tickets of few stations were asked for together, since others did not come in time",
			slog.Int("stations", stations), slog.Int("wanted", s.Policy.Stations), slog.Int("added", len(more)))
	}
	size := cocoon.MaxTickets
	if s.Policy.Strict {
		size = 1
	}
	var failed []error
	for from := 0; from < len(all) && len(failed) < failuresMost; from += size {
		to := min(from+size, len(all))
		requests := make([]its.RaAcaCertRequest, 0, size)
		for _, w := range all[from:to] {
			requests = append(requests, *w.request)
		}
		answers, err := s.ask(ctx, requests, by, issuer)
		switch {
		case err != nil && s.Policy.Strict: // a message for each ticket: that it is refused says nothing of the others
			failed = append(failed, fmt.Errorf("asking for a ticket: %w", err))
			continue
		case err != nil:
			return false, fmt.Errorf("asking for tickets: %w", err)
		}
		if err := s.store(ctx, all[from:to], answers); err != nil {
			return false, err
		}
	}
	return true, errors.Join(failed...)
}

// failuresMost is how many tickets that are asked for one by one may fail until the rest waits as well.
const failuresMost = 16

// expand makes the requests, on all processors. Tickets lie within the validity of who issues them. What cannot be asked for, since a station chose such keys, is left out and is
// not tried again for a while; everybody else's goes on.
func (s *Service) expand(ctx context.Context, all []*waiting, within its.ValidityPeriod, at its.Time32) []*waiting {
	failed := make([]error, len(all))
	var next atomic.Int64
	var group sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			for n := int(next.Add(1)) - 1; n < len(all); n = int(next.Add(1)) - 1 {
				w := all[n]
				failed[n] = w.expand(s.valid(w.i).Within(within), at)
			}
		})
	}
	group.Wait()
	var good []*waiting
	for n, w := range all {
		switch {
		case failed[n] == nil:
			good = append(good, w)
		case w.of.order != nil:
			s.refuseUntil(w.place, s.Now().Add(refusedFor))
			s.Log.LogAttrs(ctx, slog.LevelWarn, "a station chose butterfly keys that give none for one of its tickets; it does not get that",
				slog.String("device", w.device.String()), slog.String("request", w.id.String()), slog.Any("error", failed[n]))
		}
	}
	return good
}

// expand makes the request.
func (w *waiting) expand(valid its.ValidityPeriod, at its.Time32) error {
	r, err := w.of.by.Request(uint32(uint16(w.i)), uint32(w.j), valid, at)
	if err != nil {
		return err
	}
	b, err := coer.Marshal(&r)
	if err != nil {
		return err
	}
	w.request, w.sum = &r, sha256.Sum256(b)
	return nil
}

// setOf is a digest of requests whatever their order.
func setOf(all []*waiting) string {
	sums := make([][]byte, len(all))
	for i, w := range all {
		sums[i] = w.sum[:]
	}
	slices.SortFunc(sums, bytes.Compare)
	sum := sha256.Sum256(bytes.Join(sums, nil))
	return hex.EncodeToString(sum[:])
}

// settled is how long a certificate is on the trust list before it is used, if there is another: its authority has to install it.
const settled = 2 * 60 // seconds

// issuer is the authorization authority of the trust list that is asked: of those that are believed, one at our address before others, and then the one whose certificate is the newest.
func (s *Service) issuer() (*its.AaEntry, error) {
	st, at := s.Trust.State(), s.Trust.At()
	var best *its.AaEntry
	before := func(a, b *its.AaEntry) bool {
		if x, y := hasPrefix(a.AccessPoint, s.URL), hasPrefix(b.AccessPoint, s.URL); x != y {
			return x
		}
		return s.rank(a) > s.rank(b)
	}
	for _, root := range st.Roots {
		if root.Lists == nil {
			continue
		}
		for i := range root.Lists.CtlCommands {
			e := &root.Lists.CtlCommands[i].Add
			if root.Lists.CtlCommands[i].Choice != its.CtlAdds || e.Choice != its.CtlAa {
				continue
			}
			id, err := e.Aa.AaCertificate.HashedId8()
			if err != nil {
				continue
			}
			if _, err := st.Find(id, trust.AA, at); err == nil && (best == nil || before(e.Aa, best)) {
				best = e.Aa
			}
		}
	}
	if best == nil {
		return nil, errs.New(errs.Unavailable, "the trust list has no authorization authority that is valid")
	}
	return best, nil
}

// rank is when a certificate began, 0 if that is a short while ago.
func (s *Service) rank(e *its.AaEntry) its.Time32 {
	if start := e.AaCertificate.ToBeSigned.ValidityPeriod.Start; start+settled <= s.seconds() {
		return start
	}
	return 0
}

// hasPrefix says whether an address lies below another one.
func hasPrefix(url, base string) bool {
	return len(url) >= len(base) && url[:len(base)] == base && (len(url) == len(base) || url[len(base)] == '/')
}

// ask has tickets made. Of what was refused the answer is nil.
func (s *Service) ask(ctx context.Context, list []its.RaAcaCertRequest, by *trust.Credential, issuer *its.AaEntry) ([][]byte, error) {
	if s.Policy.Strict {
		return s.askOne(ctx, &list[0], by, issuer)
	}
	request, session, err := cocoon.Seal(s.Random, list, s.Trust.At(), by.Signer, &issuer.AaCertificate)
	if err != nil {
		return nil, err
	}
	answer, err := s.Issuing.Issue(ctx, s.URL+IssueManyPath, request)
	if err != nil {
		return nil, err
	}
	signed, responses, err := cocoon.OpenAnswer(answer, session)
	if err != nil {
		return nil, err
	}
	if err := signedBy(signed, issuer); err != nil {
		return nil, err
	}
	byName := map[its.HashedId8]int{}
	for i := range list {
		id, err := cocoon.Hash(&list[i])
		if err != nil {
			return nil, err
		}
		byName[id] = i
	}
	answers := make([][]byte, len(list))
	for i := range responses {
		n, ok := byName[responses[i].RequestHash]
		if !ok {
			return nil, errors.New("an answer is for a request that was not sent")
		}
		if answers[n], err = message(&list[n], &responses[i]); err != nil {
			return nil, err
		}
	}
	return answers, nil
}

// askOne asks for one ticket with the message of TS 102 941.
func (s *Service) askOne(ctx context.Context, q *its.RaAcaCertRequest, by *trust.Credential, issuer *its.AaEntry) ([][]byte, error) {
	signed, err := scr.Sign(its.EtsiTs102941DataContent{Choice: its.ButterflyCertificateRequest, ButterflyCertificateRequest: q}, s.Trust.At(), by.Signer)
	if err != nil {
		return nil, err
	}
	request, session, err := scr.Seal(s.Random, signed, &issuer.AaCertificate)
	if err != nil {
		return nil, err
	}
	answer, err := s.Issuing.Issue(ctx, s.URL+IssuePath, request)
	if err != nil {
		return nil, err
	}
	who, content, err := scr.OpenAnswer(answer, session, its.ButterflyCertificateResponse)
	if err != nil {
		return nil, err
	}
	if err := signedBy(who, issuer); err != nil {
		return nil, err
	}
	r := content.ButterflyCertificateResponse
	if r.RequestHash != cocoon.RequestHash(request) {
		return nil, errors.New("the answer is for another request")
	}
	octets, err := message(q, r)
	return [][]byte{octets}, err
}

// signedBy checks that an answer is of who was asked.
func signedBy(d *its.SignedData, issuer *its.AaEntry) error {
	id, err := issuer.AaCertificate.HashedId8()
	if err != nil {
		return err
	}
	if d.Signer.Choice != its.SignerDigest || d.Signer.Digest != id {
		return errors.New("the answer is signed by somebody else than who was asked")
	}
	return d.Verify(&issuer.AaCertificate, nil)
}

// message is what the station gets of an answer. It has to have the form that was asked for; what is in it only the station can read.
func message(q *its.RaAcaCertRequest, r *its.AcaRaCertResponse) ([]byte, error) {
	want := its.AcaResponsePrivate
	if q.Flags&its.Cubk != 0 {
		want = its.AcaResponseCubk
	}
	if r.AcaResponse.Choice != want {
		return nil, errors.New("the answer is of another form than was asked for")
	}
	b, err := coer.Marshal(r.AcaResponse.Data)
	if err == nil && len(b) > cocoon.MaxFile {
		err = errors.New("the answer is too long")
	}
	return b, err
}

// refusedFor is how long a ticket is not asked for again that was refused.
const refusedFor = time.Hour

func (s *Service) refuseUntil(p place, until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused[p] = until
}

func (s *Service) refusedUntil(p place) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	until := s.refused[p]
	if !until.After(s.Now()) {
		delete(s.refused, p)
	}
	return until
}

// store keeps answers, all in one transaction. Those that are made up are thrown away.
func (s *Service) store(ctx context.Context, all []*waiting, answers [][]byte) error {
	var stmts []*db.Stmt
	refused := 0
	for n, w := range all {
		switch {
		case w.of.order == nil:
		case answers[n] == nil:
			refused++
			s.refuseUntil(w.place, s.Now().Add(refusedFor))
		default:
			stmts = append(stmts, &db.Stmt{SQL: answerWaiting, Args: []any{w.id[:], w.i, w.j, answers[n]}})
		}
	}
	if refused > 0 {
		s.Log.LogAttrs(ctx, slog.LevelError, "the authorization authority refuses tickets", slog.Int("tickets", refused))
	}
	if len(stmts) == 0 {
		return nil
	}
	slices.SortFunc(stmts, func(a, b *db.Stmt) int { return bytes.Compare(a.Args[0].([]byte), b.Args[0].([]byte)) })
	return s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error { return tx.Send(ctx, stmts...) })
}
