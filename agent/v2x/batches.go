package v2x

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strconv"
	"time"

	"mooring/wire/butterfly"
	"mooring/wire/cocoon"
	"mooring/wire/coer"
	"mooring/wire/its"
)

// A station gets its tickets by butterfly keys where the enrolment authority offers that: it asks once, and from then on fetches a batch for each period. The request with its
// keys is in the folder before it is sent, and the tickets of a batch, each with the key that was made for it, before the batch counts as fetched. After a crash the same request is sent
// again, which has the same answer, or the same archive fetched again, whose tickets go to the same files.

// ByButterfly is by which expansion of keys a station asks for tickets, if at all.
type ByButterfly string

// The ways. The default is ButterflyOriginal.
const (
	ButterflyOriginal ByButterfly = "original"
	ButterflyUnified  ByButterfly = "unified"
	ButterflyCompact  ByButterfly = "compact" // unified, where no authorization authority of the trust list may answer so
	ButterflyNo       ByButterfly = "no"      // each ticket is asked for by itself
)

var butterflyVariants = map[ByButterfly]butterfly.Variant{"": butterfly.Original, ButterflyOriginal: butterfly.Original, ButterflyUnified: butterfly.Unified, ButterflyCompact: butterfly.CompactUnified}

// variantNames are how the variants are called in the folder and to people.
var variantNames = map[butterfly.Variant]ByButterfly{butterfly.Original: ButterflyOriginal, butterfly.Unified: ButterflyUnified, butterfly.CompactUnified: ButterflyCompact}

// When things are tried again.
const (
	askAgain   = 24 * time.Hour     // whether butterfly keys are offered
	orderAgain = 7 * 24 * time.Hour // with another request, when the archives of one are refused: what it got counts against the station until its periods are over
	firstAgain = time.Hour          // whether the first tickets are there; when they are at the latest is told
	givenUp    = 8 * 24 * time.Hour // a batch that does not come; the authority gives up after seven days
	batchesMax = 256                // that are fetched in a row
	passedMax  = 8                  // periods that are passed over: they may have ended, where it is not known how long one is, or do not come
)

// ordered is the request for batches of a station.
type ordered struct {
	*Butterfly
	made    int64      // UTC seconds
	until   int64      // the end of the credential that signed it, likewise
	taken   bool       // the authority took it
	low     uint64     // the first period that was not fetched, as a number from Butterfly.First on
	begun   its.Time32 // when the last one that was fetched began
	ends    its.Time32 // and when it ends
	length  its.Time32 // of a period; 0: not known
	refused int64      // since when archives are refused; 0: they are not
	plain   bool       // the authorities would know the keys
	looked  time.Time  // for the first tickets; not kept
}

// asked is what came of asking whether butterfly keys are offered, when they are not.
type asked struct {
	Answer string `json:"answer,omitempty"` // "": they are
	At     int64  `json:"at,omitempty"`     // UTC seconds
}

// Source says how a station gets its tickets.
type Source struct {
	Butterfly ByButterfly // the variant; ButterflyNo: each is asked for by itself
	Next      time.Time   // by butterfly keys: when the next ones are there at the latest
	Reason    string      // why each is asked for by itself
}

// Source says how the station gets its tickets, as far as is known without asking.
func (s *Station) Source() Source {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch o := s.order; {
	case s.Butterfly == ButterflyNo:
		return Source{Butterfly: ButterflyNo, Reason: "the settings say so"}
	case o != nil && o.plain:
		return Source{Butterfly: ButterflyNo, Reason: ErrPlain.Error()}
	case o != nil && o.refused != 0:
		return Source{Butterfly: ButterflyNo, Reason: "the enrolment authority refuses the tickets that were asked for together"}
	case o != nil && o.taken:
		return Source{Butterfly: variantNames[o.Keys.Variant], Next: o.Next}
	case s.offered.Answer != "":
		return Source{Butterfly: ButterflyNo, Reason: s.offered.Answer}
	}
	return Source{Butterfly: ButterflyNo, Reason: "the enrolment authority was not asked yet"}
}

// Ordered is the request for tickets by butterfly keys that is in force, nil if there is none.
func (s *Station) Ordered() *Butterfly {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.order == nil || !s.order.taken {
		return nil
	}
	b := *s.order.Butterfly
	return &b
}

// batches gets what there is of tickets by butterfly keys. It returns whether they are to be had so. An errUnusable is that they are not, for a reason that somebody should know.
func (s *Station) batches(ctx context.Context, by *Credential) (got int, offered bool, err error) {
	if s.Butterfly == ButterflyNo {
		return 0, false, nil
	}
	if err := s.endOrder(); err != nil {
		return 0, false, err
	}
	if s.order == nil || !s.order.taken {
		if offered, err := s.place(ctx, by); !offered || err != nil {
			return 0, false, err
		}
	}
	if s.order.plain {
		return 0, false, nil
	}
	if s.due() {
		got, err = s.collect(ctx, by)
	}
	return got, err == nil && s.order.refused == 0, err
}

// due says whether it is time to look for batches.
func (s *Station) due() bool {
	o, now := s.order, s.Now()
	again := now.Sub(o.looked) >= firstAgain
	switch {
	case o.refused != 0:
		return again
	case s.urgent(), !now.Before(o.Next):
		return true
	}
	return o.low == 0 && again
}

// urgent says whether there is no ticket to sign by.
func (s *Station) urgent() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.stock {
		if t.Certificate.ToBeSigned.ValidityPeriod.Contains(s.at()) && s.Usable(t) {
			return false
		}
	}
	return true
}

// endOrder forgets a request that is good for nothing any more: its credential is over, or its archives are refused for long, or tickets are to be for something else now.
func (s *Station) endOrder() error {
	o, now := s.order, s.Now()
	if o == nil || now.Unix() < o.until && (o.refused == 0 || now.Sub(time.Unix(o.refused, 0)) < orderAgain) && samePermissions(o.Applications, s.applications()) {
		return nil
	}
	return s.forget()
}

// orderAnew forgets a request when tickets that came by it are of an authority that was revoked: so are those that were made for later. Another request has none yet.
func (s *Station) orderAnew() error {
	if s.order == nil || s.order.low == 0 {
		return nil
	}
	s.mu.Lock()
	lost := false
	for _, t := range s.stock {
		lost = lost || s.ofRevoked(t)
	}
	s.mu.Unlock()
	if !lost {
		return nil
	}
	if _, _, err := s.Authorities(); err != nil { // who would make them?
		return err
	}
	return s.forget()
}

func (s *Station) applications() []its.PsidSsp {
	if list := s.Settings.Order.Applications; list != nil {
		return list
	}
	return Applications()
}

func (s *Station) forget() error {
	s.mu.Lock()
	s.order = nil
	s.mu.Unlock()
	return s.f.remove(orderFile)
}

// keepOrder writes the request as it is now.
func (s *Station) keepOrder(o *ordered) error {
	if err := s.f.writeOrder(o); err != nil {
		return err
	}
	s.mu.Lock()
	s.order = o
	s.mu.Unlock()
	return nil
}

// place sends the request, one from before first. It returns whether the authority took it. One that was sent too long ago to be taken is made anew.
func (s *Station) place(ctx context.Context, by *Credential) (offered bool, err error) {
	for {
		if s.order == nil {
			if s.offered.Answer != "" && s.Now().Sub(time.Unix(s.offered.At, 0)) < askAgain {
				return false, nil
			}
			if err := s.prepare(by); err != nil {
				return false, err
			}
		}
		o := *s.order
		b := *o.Butterfly
		o.Butterfly = &b
		err := s.OrderButterfly(ctx, &b)
		var status *StatusError
		switch {
		case err == nil:
			o.taken = true
			return true, errors.Join(s.keepOrder(&o), s.note(""))
		case !errors.As(err, &status) || !status.final():
			return false, err
		}
		if err := s.forget(); err != nil {
			return false, err
		}
		if s.Now().Unix()-o.made > int64(resend/time.Second) {
			continue
		}
		answer := "the enrolment authority does not offer butterfly keys"
		if status.Code == http.StatusForbidden {
			answer = "the enrolment authority refuses tickets by butterfly keys"
		}
		return false, s.note(answer)
	}
}

// final says whether the same request would be answered likewise.
func (s *StatusError) final() bool {
	return s.Code/100 == 4 && s.Code != http.StatusRequestTimeout && s.Code != http.StatusTooManyRequests || s.Code == http.StatusNotImplemented
}

// note keeps what came of asking.
func (s *Station) note(answer string) error {
	if answer == "" && s.offered.Answer == "" {
		return nil
	}
	next := asked{answer, s.Now().Unix()}
	if err := s.f.writeJSON(offerFile, next); err != nil {
		return err
	}
	s.mu.Lock()
	s.offered = next
	s.mu.Unlock()
	return nil
}

// prepare makes the keys and the request, and keeps them.
func (s *Station) prepare(by *Credential) error {
	variant := butterflyVariants[s.Butterfly]
	if variant == butterfly.CompactUnified && !s.answersCompact() {
		variant = butterfly.Unified
	}
	b, err := s.PrepareButterfly(by, ButterflyOrder{Variant: variant, Applications: s.applications(), Plain: s.Plain})
	if err != nil {
		return err
	}
	return s.keepOrder(&ordered{Butterfly: b, made: s.Now().Unix(), until: by.Certificate.ToBeSigned.ValidityPeriod.End().Time(s.Leap).Unix()})
}

// answersCompact says whether the authorization authority of the trust list may answer compact unified requests.
func (s *Station) answersCompact() bool {
	_, aa, err := s.Authorities()
	return err == nil && aa.ToBeSigned.Flags.Value&its.UsesCubk != 0
}

// errUnusable is that a batch came that the station cannot use.
type errUnusable struct{ error }

func (e errUnusable) Unwrap() error { return e.error }

// collect fetches the batches that are there.
func (s *Station) collect(ctx context.Context, by *Credential) (got int, err error) {
	o := *s.order
	o.looked = s.Now()
	k := o.current(its.Time32(s.at() / 1e6))
	first := k // which may come yet; those behind it are looked for where it should have come long ago
	for range batchesMax {
		batch, err := s.batch(ctx, by, &o, k)
		var status *StatusError
		switch {
		case err == nil:
			n, err := s.store(batch)
			got += n
			if err != nil {
				return got, err
			}
			o.fetched(k, batch)
			k++
			first = k
		case errors.Is(err, ErrPlain):
			o.plain = true
			return got, errors.Join(s.keepOrder(&o), errUnusable{err})
		case errors.As(err, &status) && status.Code == http.StatusNotFound && s.Now().Sub(o.Next) >= givenUp && k < first+passedMax:
			k++
			continue
		case errors.As(err, &status) && (status.Code == http.StatusNotFound || status.final() && k > first):
			o.low, o.refused = first, 0
			return got, s.keepOrder(&o)
		case errors.As(err, &status) && status.final() && o.length == 0 && k < o.low+passedMax:
			k++ // it may be one that is over
			first = k
			continue
		case errors.As(err, &status) && status.final(), errors.As(err, new(errUnusable)):
			if o.refused == 0 {
				o.refused = s.Now().Unix()
			}
			if status != nil {
				err = nil // who is refused finds out with the next ticket why
			}
			return got, errors.Join(s.keepOrder(&o), err)
		default:
			return got, err
		}
		if err := s.keepOrder(&o); err != nil {
			return got, err
		}
		if o.Next.After(s.Now()) {
			break
		}
	}
	return got, nil
}

// current is the first period that is of interest: the first that was not fetched, or if that is over, the present one.
func (o *ordered) current(now its.Time32) uint64 {
	if o.length == 0 || now < o.begun+o.length {
		return o.low
	}
	return max(o.low, o.low-1+uint64((now-o.begun)/o.length))
}

// fetched notes that a batch is there.
func (o *ordered) fetched(k uint64, batch *Batch) {
	b := *o.Butterfly
	b.Next = batch.Next
	o.Butterfly, o.refused = &b, 0
	if len(batch.Tickets) > 0 {
		v := batch.Tickets[0].Certificate.ToBeSigned.ValidityPeriod
		if k == o.low && o.begun != 0 && v.Start-o.begun == v.End()-o.ends { // neither was cut by the validity of who issued it
			o.length = v.Start - o.begun
		}
		o.begun, o.ends = v.Start, v.End()
	}
	o.low = k + 1
}

// batch fetches the batch of a period, and opens it.
func (s *Station) batch(ctx context.Context, by *Credential, o *ordered, k uint64) (*Batch, error) {
	i := o.First + uint16(k)
	octets, err := s.archive(ctx, by, cocoon.ArchiveName(o.ID, i))
	if err != nil {
		return nil, err
	}
	batch, err := s.OpenButterfly(o.Butterfly, octets)
	if err == nil && batch.I != i {
		err = errOther
	}
	if err != nil {
		return nil, errUnusable{fmt.Errorf("opening the tickets of period %x: %w", i, err)}
	}
	return batch, nil
}

// store puts the tickets of a batch into the folder and the stock. Those that are there, from before a crash, are written again.
func (s *Station) store(batch *Batch) (got int, err error) {
	have := map[string]its.HashedId8{}
	s.mu.Lock()
	for id, t := range s.stock {
		have[keyOf(t)] = id
	}
	s.mu.Unlock()
	for _, t := range batch.Tickets {
		id, err := t.Certificate.HashedId8()
		if err != nil {
			return got, err
		}
		before, there := have[keyOf(t)]
		switch {
		case there && before != id:
			return got, errUnusable{fmt.Errorf("ticket %s is for the key of ticket %s", id, before)}
		case there, its.Time64(t.Certificate.ToBeSigned.ValidityPeriod.End())*1e6 <= s.at():
			continue
		}
		have[keyOf(t)] = id
		if err := s.f.writeTicket(t); err != nil {
			return got, err
		}
		if err := s.put(t); err != nil {
			return got, err
		}
		got++
	}
	return got, nil
}

func keyOf(t *Ticket) string {
	return string(t.Certificate.ToBeSigned.VerifyKeyIndicator.VerificationKey.Point.X)
}

// permissionList is permissions in the folder.
type permissionList struct{ list []its.PsidSsp }

// Code implements coer.Value.
func (p *permissionList) Code(c *coer.Coder) {
	for e := range coer.All(c, &p.list) {
		e.Code(c)
	}
}

func samePermissions(a, b []its.PsidSsp) bool {
	x, err := coer.Marshal(&permissionList{a})
	y, err2 := coer.Marshal(&permissionList{b})
	return err == nil && err2 == nil && string(x) == string(y)
}

// loadOrder reads the request, and what came of asking.
func (s *Station) loadOrder() (err error) {
	if err := s.f.readJSON(offerFile, &s.offered); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if s.order, err = s.f.readOrder(); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// decimal reads numbers of a header.
func decimal(headers map[string]string, names ...string) (list []int64, err error) {
	list = make([]int64, len(names))
	for i, name := range names {
		n, err := strconv.ParseInt(headers[name], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("it does not say %q", name)
		}
		list[i] = n
	}
	return list, nil
}
