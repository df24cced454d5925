package v2x

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"mooring/wire/its"
)

// Settings of a station, kept in its folder.
type Settings struct {
	Root    []byte `json:"root,omitempty"` // as in Config: whom the station believes
	DC      string `json:"dc,omitempty"`
	Manager []byte `json:"manager,omitempty"`
	CPOC    string `json:"cpoc,omitempty"`
	// Followed are roots to which the one of the settings led. The station notes them itself, and the manager to which its own led.
	Followed [][]byte      `json:"followed,omitempty"`
	ID       string        `json:"id,omitempty"`         // canonical identifier, for the first enrolment
	Stock    int           `json:"stock"`                // tickets for each period; 0: DefaultStock
	Ahead    int           `json:"ahead"`                // periods to have tickets for, besides the present one; less than 0: none
	Pause    time.Duration `json:"pause,omitempty"`      // between two requests for tickets, on average
	Open     bool          `json:"no_privacy,omitempty"` // the identity of the station is no secret: it is one at the roadside
	Order    Order         `json:"-"`                    // what tickets are for; when, the station says itself
	// Butterfly is how many tickets are asked for with one request, where the authorities offer that. Then they say how many there are for each period, and for which. Plain takes also those
	// whose keys the enrolment authority knows, see ButterflyOrder; otherwise a station that meets such a one asks for tickets one by one.
	Butterfly ByButterfly `json:"butterfly,omitempty"`
	Plain     bool        `json:"butterfly_plain,omitempty"`
}

// Defaults of settings, and bounds.
const (
	DefaultStock = 20
	DefaultAhead = 1
	maxStock     = 100
	maxAhead     = 12

	// Period is how long a ticket is valid. Periods begin at the same moment for all stations, so that the time of a ticket does not tell whose it is.
	Period = 7 * 24 * time.Hour
	period = its.Time32(Period / time.Second)

	// resend is how long a request may be sent again. Authorities take it for as long as its time is fresh, which is five minutes by default.
	resend = 4 * time.Minute
)

// StationOptions are what a station needs beside its folder.
type StationOptions struct {
	Now       func() time.Time
	Transport http.RoundTripper // as in Config
	// Before, if not nil, is called before each request for a ticket: a vehicle changes its network addresses then (TS 102 941, 6.2.2).
	Before func(ctx context.Context) error
	// Reads is for who looks into the folder while another process keeps it: nothing is written, and nothing can be asked for.
	Reads bool
}

var errReads = errors.New("the station was opened for reading alone")

// Station keeps what a vehicle or roadside station has of certificates in a folder. One process may have it open. It is safe for concurrent use.
type Station struct {
	Settings
	*Client
	o StationOptions
	f folder

	work sync.Mutex // held while the stock is changed over the network

	mu      sync.Mutex
	stock   map[its.HashedId8]*Ticket // guarded by mu
	has     *Credential               // guarded by mu; nil: not enrolled
	uses    use                       // guarded by mu
	order   *ordered                  // guarded by mu, for who does not hold work; never changed, but replaced; nil: none
	offered asked                     // likewise
	release func()
}

// use is which ticket is used, and how often each was chosen. It is kept, so that a station that starts again does not begin with the ticket that it had.
type use struct {
	Current string         `json:"current,omitempty"`
	Chosen  map[string]int `json:"chosen,omitempty"`
}

// ErrNotEnrolled is that a station has no credential yet.
var ErrNotEnrolled = errors.New("the station has no enrolment credential yet")

// MakeStation makes the folder of a station. It refuses to replace one.
func MakeStation(dir string, s Settings, o StationOptions) (*Station, error) {
	f := folder{dir}
	if err := f.readJSON(configFile, &Settings{}); !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(fmt.Errorf("%s is the folder of a station already", dir), err)
	}
	if s.Stock == 0 {
		s.Stock = DefaultStock
	}
	if s.Stock < 1 || s.Stock > maxStock || s.Ahead > maxAhead || s.Pause < 0 {
		return nil, fmt.Errorf("the stock must be 1 to %d tickets for each period, up to %d periods ahead, with no pause of less than nothing", maxStock, maxAhead)
	}
	if _, known := butterflyVariants[s.Butterfly]; !known && s.Butterfly != ButterflyNo {
		return nil, fmt.Errorf("there is no variant %q of butterfly keys: use original, unified or compact, or no", s.Butterfly)
	}
	if _, err := New(s.config(o, nil)); err != nil {
		return nil, err
	}
	if err := f.tidy(); err != nil {
		return nil, err
	}
	if err := f.writeJSON(configFile, s); err != nil {
		return nil, err
	}
	return OpenStation(dir, o)
}

func (s *Settings) config(o StationOptions, t http.RoundTripper) Config {
	return Config{Root: s.Root, DC: s.DC, Manager: s.Manager, CPOC: s.CPOC, Followed: s.Followed, Now: o.Now, Transport: t}
}

// update brings the lists up to date, and notes whom they lead to.
func (s *Station) update(ctx context.Context) error {
	if err := s.Update(ctx); err != nil && !errors.Is(err, ErrPartly) {
		return err
	}
	roots, manager, err := s.LedTo()
	if err != nil || s.o.Reads {
		return err
	}
	next := s.Settings
	next.Followed = roots
	if manager != nil {
		next.Manager = manager
	}
	if bytes.Equal(next.Manager, s.Settings.Manager) && slices.EqualFunc(next.Followed, s.Settings.Followed, bytes.Equal) {
		return nil
	}
	if err := s.f.writeJSON(configFile, next); err != nil {
		return err
	}
	s.Settings.Followed, s.Settings.Manager = next.Followed, next.Manager // others are read at the same time
	return nil
}

// OpenStation opens the folder of a station. A ticket that cannot be read is an error: somebody has to look.
func OpenStation(dir string, o StationOptions) (s *Station, err error) {
	s = &Station{o: o, f: folder{dir}, stock: map[its.HashedId8]*Ticket{}}
	if err := s.f.readJSON(configFile, &s.Settings); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.Close()
			s = nil
		}
	}()
	if !o.Reads {
		if s.release, err = s.f.lock(); err != nil {
			return s, err
		}
		if err := s.f.tidy(); err != nil {
			return s, err
		}
	}
	base := o.Transport
	if base == nil {
		base = &http.Transport{DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 16 << 10}
	}
	if s.Client, err = New(s.config(o, kept{s.f, base, o.Reads})); err != nil {
		return s, err
	}
	return s, s.load()
}

// load reads what is in the folder.
func (s *Station) load() (err error) {
	if s.has, err = s.f.readCredential(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := s.f.readJSON(useFile, &s.uses); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if s.uses.Chosen == nil {
		s.uses.Chosen = map[string]int{}
	}
	if err := s.loadOrder(); err != nil {
		return err
	}
	names, err := s.f.names(ticketFolder)
	if err != nil {
		return err
	}
	for _, name := range names {
		t, err := s.f.readTicket(name)
		if s.o.Reads && errors.Is(err, fs.ErrNotExist) {
			continue // it is over, and who keeps the folder was faster
		}
		if err != nil {
			return err
		}
		if err := s.put(t); err != nil {
			return err
		}
	}
	return nil
}

// Close lets another process have the folder.
func (s *Station) Close() {
	if s.release != nil {
		s.release()
		s.release = nil
	}
}

func (s *Station) put(t *Ticket) error {
	id, err := t.Certificate.HashedId8()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stock[id] = t
	return nil
}

// Dir is the folder.
func (s *Station) Dir() string { return s.f.dir }

// Credential returns the enrolment credential; nil without one.
func (s *Station) Credential() *Credential {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.has
}

// Enrol gets the first enrolment credential. With one that is valid it does nothing, unless the authority that gave it was revoked.
func (s *Station) Enrol(ctx context.Context, canonical crypto.Signer) error {
	s.work.Lock()
	defer s.work.Unlock()
	if s.o.Reads {
		return errReads
	}
	if c := s.Credential(); c != nil && c.Certificate.ToBeSigned.ValidityPeriod.Contains(s.at()) {
		if s.Recall(ctx); !s.CredentialRevoked() {
			return nil
		}
	}
	if err := s.update(ctx); err != nil {
		return err
	}
	c, err := s.Client.Enrol(ctx, s.ID, canonical)
	if err != nil {
		return err
	}
	return s.install(c)
}

func (s *Station) install(c *Credential) error {
	if err := s.f.writeCredential(c); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.has = c
	return nil
}

// renewAt is when a credential is renewed: after two thirds of its life.
func renewAt(x *its.Certificate) its.Time64 {
	v := x.ToBeSigned.ValidityPeriod
	return its.Time64(v.Start)*1e6 + its.Time64(v.Duration.Microseconds()/3*2)
}

// Keep does what is due: it fetches the lists, renews the credential, drops tickets that are over, fills the stock, and drops tickets of revoked authorities when others
// are there. It returns how many tickets it got. What was done before an error is not lost.
func (s *Station) Keep(ctx context.Context) (got int, err error) {
	s.work.Lock()
	defer s.work.Unlock()
	if s.o.Reads {
		return 0, errReads
	}
	if err := s.drop(s.ended); err != nil {
		return 0, err
	}
	if got, err = s.keep(ctx); err != nil {
		return got, err
	}
	return got, s.drop(s.ofRevoked)
}

func (s *Station) keep(ctx context.Context) (got int, err error) {
	c := s.Credential()
	if c == nil {
		return 0, ErrNotEnrolled
	}
	if err := s.update(ctx); err != nil {
		return 0, err
	}
	if lost := s.CredentialRevoked(); lost || s.at() >= renewAt(c.Certificate) {
		next, err := s.Renew(ctx, c)
		if err != nil && lost {
			err = fmt.Errorf("%w: %w", ErrAuthorityRevoked, err)
		}
		if err != nil {
			return 0, fmt.Errorf("renewing the enrolment credential: %w", err)
		}
		if err := s.install(next); err != nil {
			return 0, err
		}
		c = next
	}
	if got, err = s.resume(ctx); err != nil {
		return got, err
	}
	if err := s.orderAnew(); err != nil {
		return got, err
	}
	more, offered, err := s.batches(ctx, c)
	got += more
	if err != nil && !errors.As(err, new(errUnusable)) || offered && !s.urgent() {
		return got, err
	}
	more, err2 := s.fill(ctx, c, offered)
	return got + more, errors.Join(err, err2)
}

// ErrAuthorityRevoked is that the enrolment authority that gave the credential was revoked.
var ErrAuthorityRevoked = errors.New("the authority that gave it was revoked")

// CredentialRevoked says whether the enrolment authority that gave the credential is on the revocation list, as far as the lists are known.
func (s *Station) CredentialRevoked() bool {
	c := s.Credential()
	return c != nil && s.standing(c.Certificate.Issuer.Digest) == revoked
}

// Usable implements Judge: who issued the ticket is neither revoked nor gone from the trust lists, as far as these are known.
func (s *Station) Usable(t *Ticket) bool { return s.standing(t.Certificate.Issuer.Digest) == stands }

// Useless is how many tickets the station has that are not over and worth nothing all the same, by the authority that issued them, which was revoked or is on no trust list any more.
func (s *Station) Useless() map[its.HashedId8]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := map[its.HashedId8]int{}
	for _, t := range s.stock {
		if !s.ended(t) && !s.Usable(t) {
			list[t.Certificate.Issuer.Digest]++
		}
	}
	return list
}

func (s *Station) ended(t *Ticket) bool {
	return its.Time64(t.Certificate.ToBeSigned.ValidityPeriod.End())*1e6 <= s.at()
}

func (s *Station) ofRevoked(t *Ticket) bool {
	return s.standing(t.Certificate.Issuer.Digest) == revoked
}

// Recall takes the lists as they were fetched last, for who asks nobody. What is not to be believed any more is as if it were not there.
func (s *Station) Recall(ctx context.Context) {
	c, err := New(s.config(s.o, kept{s.f, nobody{}, true}))
	if err != nil {
		return // the settings were good when the folder was opened
	}
	for range 2 { // first the full list, then the deltas to it
		if err := c.Update(ctx); err != nil && !errors.Is(err, ErrPartly) {
			return
		}
		l := c.lists.Load()
		l.ectl.asked = 0 // no place was asked
		for _, r := range l.roots {
			r.ctl.asked = 0
		}
		s.lists.Store(l)
	}
}

// drop removes the tickets for which is holds.
func (s *Station) drop(is func(*Ticket) bool) error {
	s.mu.Lock()
	var over []its.HashedId8
	for id, t := range s.stock {
		if is(t) {
			over = append(over, id)
			delete(s.stock, id)
			delete(s.uses.Chosen, id.String())
		}
	}
	s.mu.Unlock()
	for _, id := range over {
		if err := s.f.remove(ticketFolder, id.String()+suffix); err != nil {
			return err
		}
	}
	return nil
}

// resume sends what was sent before and has no answer yet: the authorities issue nothing twice. What is too old to be answered is given up.
func (s *Station) resume(ctx context.Context) (got int, err error) {
	names, err := s.f.names(pendingFolder)
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		p, made, err := s.f.readPending(name)
		if err != nil {
			return got, err
		}
		aa, err := p.aa.HashedId8()
		if err != nil {
			return got, err
		}
		if s.Now().Unix()-made > int64(resend/time.Second) || s.standing(aa) == revoked {
			if err := s.f.remove(pendingFolder, name); err != nil {
				return got, err
			}
			continue
		}
		if err := s.fetch(ctx, p, name); err != nil {
			return got, err
		}
		got++
	}
	return got, nil
}

// fetch sends a request that is in the folder, and puts the ticket in its place. A refusal ends the request, everything else leaves it.
func (s *Station) fetch(ctx context.Context, p *Pending, name string) error {
	t, err := s.Send(ctx, p)
	var refused *Refused
	if err != nil && !(errors.As(err, &refused) && refused.Code != its.AaEaCantReachEa.String()) {
		return err
	}
	if err != nil {
		return errors.Join(err, s.f.remove(pendingFolder, name))
	}
	if err := s.f.writeTicket(t); err != nil { // before its request goes: after a crash between the two it is fetched once more, the same one
		return err
	}
	if err := s.put(t); err != nil {
		return err
	}
	return s.f.remove(pendingFolder, name)
}

// fill gets the tickets that are missing one by one, period by period, or only those for the present one. More than the authorities give is no error.
func (s *Station) fill(ctx context.Context, by *Credential, present bool) (got int, err error) {
	spans, err := s.spans()
	if err != nil {
		return 0, err
	}
	if present {
		spans = spans[:min(len(spans), 1)]
	}
	for _, span := range spans {
		for missing := s.Stock - s.count(span); missing > 0; missing-- {
			o := s.Settings.Order
			o.Start, o.Life, o.Open = span.Start, span.Duration, s.Open
			err := s.one(ctx, by, o)
			var refused *Refused
			switch {
			case err == nil:
			case !errors.As(err, &refused):
				return got, err
			case refused.Code == its.DeniedTooManyCerts.String():
				missing = 0
				continue
			case refused.Code == its.DeniedPermissions.String() && s.late(&span): // authorities of others may want tickets to begin now
				missing++
				continue
			default:
				return got, err
			}
			got++
			if err := s.pause(ctx); err != nil {
				return got, err
			}
		}
	}
	return got, nil
}

// spans are the validities of tickets to have: for the present period, and for those ahead; within that of who issues them. Tickets for the present period begin with it, though
// that is over: if they began when the station asked for them, whoever meets two of them could tell that they are of one vehicle.
func (s *Station) spans() (list []its.ValidityPeriod, err error) {
	_, aa, err := s.Authorities()
	if err != nil {
		return nil, err
	}
	now := its.Time32(s.at() / 1e6)
	begin := now - (now-its.FirstPeriod)%period
	for range 1 + max(s.Ahead, 0) {
		v := its.ValidityPeriod{Start: begin, Duration: its.Duration{Choice: its.Hours, Value: uint16(Period / time.Hour)}}.Within(aa.ToBeSigned.ValidityPeriod)
		if v.End() > max(now, v.Start) {
			list = append(list, v)
		}
		begin += period
	}
	return list, nil
}

// late has a span begin later, for authorities that give no tickets that began before they were asked for: with the present hour and, if that is too early as well, with the present
// minute. It returns false where nothing later is left.
func (s *Station) late(span *its.ValidityPeriod) bool {
	now, end := its.Time32(s.at()/1e6), span.End()
	for _, unit := range []its.Time32{3600, 60} {
		begin := now / unit * unit
		if span.Start >= begin || begin+60 > end {
			continue
		}
		*span = its.ValidityPeriod{Start: begin, Duration: its.Duration{Choice: its.Minutes, Value: uint16((end - begin) / 60)}}
		return true
	}
	return false
}

// count is how many usable tickets there are that are valid until a span ends, but for a minute, which the length of one that began late may have lost.
func (s *Station) count(span its.ValidityPeriod) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := its.Time64(max(span.Start, span.End()-61)) * 1e6
	for _, t := range s.stock {
		if t.Certificate.ToBeSigned.ValidityPeriod.Contains(last) && s.Usable(t) {
			n++
		}
	}
	return n
}

// one gets one ticket. The request is in the folder before it is sent.
func (s *Station) one(ctx context.Context, by *Credential, o Order) error {
	if s.o.Before != nil {
		if err := s.o.Before(ctx); err != nil {
			return err
		}
	}
	p, err := s.Prepare(by, o)
	if err != nil {
		return err
	}
	name, err := s.f.writePending(p, s.Now().Unix())
	if err != nil {
		return err
	}
	return s.fetch(ctx, p, name)
}

// pause waits between two requests, so that they do not come in a row that nobody else could be part of.
func (s *Station) pause(ctx context.Context) error {
	if s.Pause == 0 {
		return ctx.Err()
	}
	return sleep(ctx, time.Duration(rand.Int64N(2*int64(s.Pause))))
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// How often a station looks what is due, and how soon again when that failed: up to so often.
const (
	keepEvery = 10 * time.Minute
	keepAgain = 5 * time.Second
)

// Run does what is due until ctx ends. Without a network it goes on with what it has.
func (s *Station) Run(ctx context.Context, log *slog.Logger) error {
	s.begins(ctx, log)
	wait := keepAgain
	for first := true; ; first = false {
		got, err := s.Keep(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			log.LogAttrs(ctx, slog.LevelWarn, "keeping the stock of tickets", slog.Any("error", err), slog.Duration("again_in", wait))
		case got > 0:
			log.LogAttrs(ctx, slog.LevelInfo, "tickets came", slog.Int("tickets", got), slog.Int("stock", len(s.Tickets())))
		case first:
			log.LogAttrs(ctx, slog.LevelInfo, "nothing else is due now", slog.Int("stock", len(s.Tickets())))
		}
		pause := keepEvery
		if err != nil {
			pause, wait = wait, min(2*wait, keepEvery)
		} else {
			wait = keepAgain
		}
		if err := sleep(ctx, pause*9/10+time.Duration(rand.Int64N(int64(pause/5)))); err != nil {
			return nil
		}
	}
}

// begins says what the station has and does next: until the first tickets came nothing else is said, which takes a minute where many are missing.
func (s *Station) begins(ctx context.Context, log *slog.Logger) {
	s.work.Lock()
	s.Recall(ctx)
	s.work.Unlock()
	now, later := 0, 0
	for _, t := range s.Tickets() {
		if t.Certificate.ToBeSigned.ValidityPeriod.Contains(s.at()) {
			now++
		} else {
			later++
		}
	}
	has := []slog.Attr{slog.String("station", s.ID), slog.Int("tickets_now", now), slog.Int("tickets_later", later)}
	if c := s.Credential(); c != nil {
		has = append(has, slog.Time("credential_until", c.Certificate.ToBeSigned.ValidityPeriod.End().Time(s.Leap)))
	}
	has = append(has, slog.Int("wanted_each_week", s.Stock), slog.Int("weeks", 1+max(s.Ahead, 0)), slog.Duration("pause", s.Pause))
	log.LogAttrs(ctx, slog.LevelInfo, "begins: fetches the lists, then gets the tickets that are missing", has...)
}

// Tickets returns all tickets that are not over and usable, those that end first at the front.
func (s *Station) Tickets() []*Ticket {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*Ticket
	for _, t := range s.stock {
		if !s.ended(t) && s.Usable(t) {
			list = append(list, t)
		}
	}
	slices.SortFunc(list, func(a, b *Ticket) int {
		return int(int64(a.Certificate.ToBeSigned.ValidityPeriod.End()) - int64(b.Certificate.ToBeSigned.ValidityPeriod.End()))
	})
	return list
}

// Choose implements Stock: a ticket that is valid now, of those that were used least one by chance, and not the one before as long as there is another.
func (s *Station) Choose() (*Ticket, error) {
	s.mu.Lock()
	now := s.at()
	var best []its.HashedId8
	least := 0
	for id, t := range s.stock {
		if !t.Certificate.ToBeSigned.ValidityPeriod.Contains(now) || !s.Usable(t) {
			continue
		}
		n := 2 * s.uses.Chosen[id.String()]
		if id.String() == s.uses.Current {
			n++ // of two that were used equally often, the other one
		}
		switch {
		case len(best) == 0 || n < least:
			best, least = []its.HashedId8{id}, n
		case n == least:
			best = append(best, id)
		}
	}
	if len(best) == 0 {
		s.mu.Unlock()
		return nil, ErrNoTicket
	}
	id := best[rand.IntN(len(best))]
	t := s.stock[id]
	s.uses.Current = id.String()
	s.uses.Chosen[id.String()]++
	var err error
	if !s.o.Reads {
		err = s.f.writeJSON(useFile, s.uses)
	}
	s.mu.Unlock()
	return t, err
}
