package v2x

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/its/chain"
	"mooring/wire/spdu"
)

// Why a message is not believed or not wanted. Others are errors of package chain.
var (
	ErrUnknownSigner = errors.New("the ticket of the sender is not known yet; it is asked for")
	ErrUnknownIssuer = errors.New("who issued the sender's ticket is not known yet; it is asked for")
	ErrProfile       = errors.New("the message is not as its profile demands")
	ErrPermission    = errors.New("the ticket does not permit that")
	ErrReplay        = errors.New("the message was heard before")
	ErrOld           = errors.New("the message is too old to matter")
	ErrFar           = errors.New("the message comes from too far away to matter")
)

// Bounds of what strangers can have a station remember, and how long it does. Where there is no room, what is in use stays: whoever sends much, or by many tickets, pushes
// out nobody else.
const (
	maxKnown    = 4096             // tickets of others
	maxIssuers  = 64               // authorities that others told of
	maxWanted   = 8                // tickets that are asked for, authorities that are, and those that are to be told
	maxAsked    = 2                // authorities that one ticket has this station tell
	maxInline   = 8                // certificates that one message may ask for
	wantFor     = 4 * time.Second  // how long one is asked for
	wantAtLeast = time.Second      // and how long before something else may take its place
	quiet       = 10 * time.Second // how long a ticket was not used that may make room for another
	attach      = time.Second      // how often a CAM has the whole ticket
	recheck     = time.Minute      // how long a ticket is believed without a look at the lists
)

// TalkOptions say by whom and to whom.
type TalkOptions struct {
	Client  *Client
	Changer *Changer
	// Place says where the station is; nil, or false: it does not know, and nothing is too far away.
	Place func() (its.ThreeDLocation, bool)
	// Needs says which service specific permissions a payload demands, such as the octets of a bitmap. A message whose ticket has not all of them is neither sent nor
	// believed. nil: the application itself is enough.
	Needs func(psid its.Psid, payload []byte) ([]byte, error)
	// Within says whether a place lies in a country; nil: no message of a ticket that is for a country only is believed, if it has a place.
	Within func(p its.TwoDLocation, of its.IdentifiedRegion) bool
	// How old messages may be, and from how far away; 0: 2 s for CAM, 10 minutes for DENM, 10 km.
	AgeCAM, AgeDENM time.Duration
	Metres          float64
}

// Talk signs what a station tells others, and judges what it hears from them, as TS 103 097, clause 7.1 has it:
//
//	CAM    names the ticket by its digest; once a second, after something unknown was heard, and when asked, it has the whole ticket
//	DENM   has the whole ticket, and the place where it was made
//
// Who hears a ticket's digest that it does not know asks for it in its next CAM, and so for the certificate of an authority. Whoever has that answers in a CAM, unless somebody else did.
// It is safe for concurrent use.
type Talk struct {
	o TalkOptions

	mu       sync.Mutex
	mine     its.HashedId8                      // guarded by mu; the ticket of the last CAM
	attached its.Time64                         // guarded by mu; when a CAM had it last; 0: the next one has
	known    map[its.HashedId8]*other           // guarded by mu
	issuers  map[its.HashedId8]*its.Certificate // guarded by mu; authorities that others told of
	wanted   map[its.HashedId3]*want            // guarded by mu
	answers  []answer                           // guarded by mu; certificates of authorities that others asked for
	heard    past                               // guarded by mu
}

// want is a certificate that is asked for.
type want struct {
	issuer bool
	until  its.Time64
	asked  its.Time64 // since when; 0: not yet
}

// answer is a certificate of an authority that somebody asked for.
type answer struct {
	cert *its.Certificate
	by   its.HashedId8 // ticket of who asked
}

// other is the ticket of somebody else.
type other struct {
	path    []*its.Certificate // up to below the root
	checked its.Time64
	last    its.Time64 // when it was used last
}

// NewTalk returns a talk. It starts nothing.
func NewTalk(o TalkOptions) *Talk {
	if o.AgeCAM == 0 {
		o.AgeCAM = 2 * time.Second
	}
	if o.AgeDENM == 0 {
		o.AgeDENM = 10 * time.Minute
	}
	if o.Metres == 0 {
		o.Metres = 10_000
	}
	return &Talk{o: o, known: map[its.HashedId8]*other{}, issuers: map[its.HashedId8]*its.Certificate{}, wanted: map[its.HashedId3]*want{}, heard: past{of: map[stream]*told{}}}
}

func short(id its.HashedId8) its.HashedId3 { return its.HashedId3(id[5:]) }

// CAM signs a message about the station itself.
func (t *Talk) CAM(payload []byte) ([]byte, error) {
	ticket, id, err := t.ticket(its.PsidCAM, payload)
	if err != nil {
		return nil, err
	}
	at := t.o.Client.at()
	h := its.HeaderInfo{Psid: its.PsidCAM, GenerationTime: coer.Some(at)}
	by := ticket.Signer()
	t.mu.Lock()
	if by.Attach = id != t.mine || t.attached == 0 || at >= t.attached+its.Time64(attach.Microseconds()); by.Attach {
		t.mine, t.attached = id, at
	} else if len(t.answers) > 0 { // not in one message with the ticket, which would be long
		h.RequestedCertificate, t.answers = t.answers[0].cert, t.answers[1:]
	}
	for id, w := range t.wanted {
		if w.until > at {
			h.InlineP2pcdRequest = append(h.InlineP2pcdRequest, id)
			w.asked = cmp.Or(w.asked, at)
		}
	}
	t.mu.Unlock()
	slices.SortFunc(h.InlineP2pcdRequest, func(a, b its.HashedId3) int { return slices.Compare(a[:], b[:]) })
	return sign(payload, h, by)
}

func sign(payload []byte, h its.HeaderInfo, by spdu.Signer) ([]byte, error) {
	d, err := spdu.Sign(spdu.Payload(payload), h, by)
	if err != nil {
		return nil, err
	}
	return coer.Marshal(d)
}

// ticket is the ticket to sign a payload by.
func (t *Talk) ticket(psid its.Psid, payload []byte) (*Ticket, its.HashedId8, error) {
	ticket, err := t.o.Changer.Ticket()
	if err != nil {
		return nil, its.HashedId8{}, err
	}
	if _, err := t.permitted(ticket.Certificate, psid, payload); err != nil {
		return nil, its.HashedId8{}, err
	}
	id, err := ticket.Certificate.HashedId8()
	return ticket, id, err
}

// permitted returns the service specific permissions of a ticket for an application, if they are enough for a payload.
func (t *Talk) permitted(x *its.Certificate, psid its.Psid, payload []byte) ([]byte, error) {
	for _, a := range x.ToBeSigned.AppPermissions {
		if a.Psid != psid {
			continue
		}
		var has []byte
		if ssp, ok := a.Ssp.Get(); ok {
			has = ssp.Value
		}
		if t.o.Needs == nil {
			return has, nil
		}
		need, err := t.o.Needs(psid, payload)
		if err != nil {
			return nil, fmt.Errorf("reading what the payload needs: %w", err)
		}
		if !enough(has, need) {
			return nil, fmt.Errorf("%w: it has %x for application %d, and %x is needed", ErrPermission, has, psid, need)
		}
		return has, nil
	}
	return nil, fmt.Errorf("%w: it is not for application %d", ErrPermission, psid)
}

// enough compares bitmaps: the first octet is their version, of the others all bits that are needed have to be set.
func enough(has, need []byte) bool {
	if len(need) == 0 {
		return true
	}
	if len(has) != len(need) || has[0] != need[0] {
		return false
	}
	for i := 1; i < len(need); i++ {
		if need[i]&^has[i] != 0 {
			return false
		}
	}
	return true
}

// Event is something that a station warns of, for as long as it repeats that. The ticket does not change meanwhile.
type Event struct {
	talk    *Talk
	release func()
}

// Event begins a warning. The caller ends it.
func (t *Talk) Event() *Event { return &Event{t, t.o.Changer.Hold()} }

// End ends the warning.
func (e *Event) End() { e.release() }

// DENM signs a warning, made at a place.
func (e *Event) DENM(payload []byte, place its.ThreeDLocation) ([]byte, error) {
	ticket, _, err := e.talk.ticket(its.PsidDENM, payload)
	if err != nil {
		return nil, err
	}
	by := ticket.Signer()
	by.Attach = true
	return sign(payload, its.HeaderInfo{Psid: its.PsidDENM, GenerationTime: coer.Some(e.talk.o.Client.at()), GenerationLocation: coer.Some(place)}, by)
}

// Heard is a message that is to be believed.
type Heard struct {
	Psid    its.Psid
	Payload []byte
	Signer  its.HashedId8
	Ssp     []byte // service specific permissions of the signer for the application
	Made    its.Time64
	Place   coer.Optional[its.ThreeDLocation] // where it was made, of a DENM
}

// Hear judges a message. The error says why it is not believed or does not matter.
func (t *Talk) Hear(octets []byte) (*Heard, error) {
	d, err := its.ParseData(octets, its.MaxRequest)
	if err != nil {
		return nil, err
	}
	s := d.Content.SignedData
	if d.Content.Choice != its.ContentSigned || s == nil {
		return nil, fmt.Errorf("%w: it is not signed", ErrProfile)
	}
	if err := profile(s); err != nil {
		return nil, err
	}
	at := t.o.Client.at()
	if err := t.relevant(s, at); err != nil {
		return nil, err
	}
	t.learn(&s.TbsData.HeaderInfo, at)
	path, id, err := t.signer(s, at)
	if err != nil {
		return nil, err
	}
	ssp, err := t.permitted(path[0], s.TbsData.HeaderInfo.Psid, s.TbsData.Payload.Data.Content.Opaque)
	if err != nil {
		return nil, err
	}
	if err := t.believe(s, path, id, at); err != nil {
		return nil, err
	}
	if err := t.fresh(s, id, at); err != nil {
		return nil, err
	}
	h := &s.TbsData.HeaderInfo
	t.answer(h, id)
	return &Heard{Psid: h.Psid, Payload: s.TbsData.Payload.Data.Content.Opaque, Signer: id, Ssp: ssp, Made: h.GenerationTime.Value, Place: h.GenerationLocation}, nil
}

// profile says whether a message has what the profile of its kind demands, and nothing that it forbids (TS 103 097, 7.1.1 and 7.1.2).
func profile(s *its.SignedData) error {
	h, p := &s.TbsData.HeaderInfo, &s.TbsData.Payload
	refuse := func(what string) error { return fmt.Errorf("%w: %s", ErrProfile, what) }
	switch {
	case p.Data == nil || p.ExtDataHash.Present || p.Data.Content.Choice != its.UnsecuredData:
		return refuse("its payload is not there")
	case h.Psid != its.PsidCAM && h.Psid != its.PsidDENM:
		return refuse(fmt.Sprintf("application %d is neither CAM nor DENM", h.Psid))
	case !h.GenerationTime.Present:
		return refuse("it does not say when it was made")
	case h.P2pcdLearningRequest.Present || h.MissingCrlIdentifier.Present || h.EncryptionKey.Present:
		return refuse("it has a field that no such message has")
	case s.Signer.Choice == its.SignerSelf || s.Signer.Choice == its.SignerCertificate && len(s.Signer.Certificate) != 1:
		return refuse("it does not name one signer")
	case h.Psid == its.PsidCAM && (h.ExpiryTime.Present || h.GenerationLocation.Present):
		return refuse("a CAM says neither until when nor where")
	case h.Psid == its.PsidDENM && s.Signer.Choice != its.SignerCertificate:
		return refuse("a DENM has the whole ticket")
	case h.Psid == its.PsidDENM && !h.GenerationLocation.Present:
		return refuse("a DENM says where it was made")
	case h.Psid == its.PsidDENM && (h.InlineP2pcdRequest != nil || h.RequestedCertificate != nil):
		return refuse("a DENM neither asks for certificates nor brings those of others")
	}
	return nil
}

// relevant says whether a message is young enough, and from near enough.
func (t *Talk) relevant(s *its.SignedData, at its.Time64) error {
	h := &s.TbsData.HeaderInfo
	if h.GenerationTime.Value+its.Time64(t.age(h.Psid).Microseconds()) < at {
		return ErrOld
	}
	place, ok := h.GenerationLocation.Get()
	if !ok || t.o.Place == nil {
		return nil
	}
	here, ok := t.o.Place()
	if ok && metres(its.TwoDLocation{Latitude: here.Latitude, Longitude: here.Longitude}, its.TwoDLocation{Latitude: place.Latitude, Longitude: place.Longitude}) > t.o.Metres {
		return ErrFar
	}
	return nil
}

func (t *Talk) age(p its.Psid) time.Duration {
	if p == its.PsidCAM {
		return t.o.AgeCAM
	}
	return t.o.AgeDENM
}

// signer finds the ticket of who signed, and who issued it.
func (t *Talk) signer(s *its.SignedData, at its.Time64) (path []*its.Certificate, id its.HashedId8, err error) {
	if s.Signer.Choice == its.SignerDigest {
		t.mu.Lock()
		defer t.mu.Unlock()
		if o := t.known[s.Signer.Digest]; o != nil {
			return o.path, s.Signer.Digest, nil
		}
		t.want(short(s.Signer.Digest), false, at)
		t.attached = 0 // who is new here does not know this station either
		return nil, id, ErrUnknownSigner
	}
	x := &s.Signer.Certificate[0]
	if id, err = x.HashedId8(); err != nil {
		return nil, id, err
	}
	if err := x.CheckRole(its.EtsiAT, 0); err != nil {
		return nil, id, fmt.Errorf("%w: %w", ErrProfile, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if o := t.known[id]; o != nil {
		return o.path, id, nil
	}
	t.attached = 0
	issuer := t.issuer(x.Issuer.Digest)
	if issuer == nil {
		t.want(short(x.Issuer.Digest), true, at)
		return nil, id, ErrUnknownIssuer
	}
	return []*its.Certificate{x, issuer}, id, nil
}

// issuer is the certificate of an authority, of the trust list or as others told it.
func (t *Talk) issuer(id its.HashedId8) *its.Certificate {
	if x := t.issuers[id]; x != nil {
		return x
	}
	return t.o.Client.issuer(id)
}

// issuer is the certificate of an authorization authority of the trust lists.
func (c *Client) issuer(id its.HashedId8) *its.Certificate {
	for _, r := range c.lists.Load().roots {
		if r.ctl.CTL == nil {
			continue
		}
		for i := range r.ctl.CtlCommands {
			e := &r.ctl.CtlCommands[i].Add
			if r.ctl.CtlCommands[i].Choice != its.CtlAdds || e.Choice != its.CtlAa {
				continue
			}
			if got, err := e.Aa.AaCertificate.HashedId8(); err == nil && got == id {
				return &e.Aa.AaCertificate
			}
		}
	}
	return nil
}

// want asks for a certificate. Nobody knows who names one, so that somebody may name many: a new one takes the place of one that was asked for, or waits.
func (t *Talk) want(id its.HashedId3, issuer bool, at its.Time64) {
	until := at + its.Time64(wantFor.Microseconds())
	if w := t.wanted[id]; w != nil && w.until > at {
		w.until = until
		return
	}
	same, idle := 0, its.HashedId3{}
	for other, w := range t.wanted {
		switch {
		case w.until <= at:
			delete(t.wanted, other)
		case w.issuer == issuer:
			if same++; w.asked != 0 && w.asked+its.Time64(wantAtLeast.Microseconds()) <= at {
				idle = other
			}
		}
	}
	if same >= maxWanted {
		if t.wanted[idle] == nil {
			return
		}
		delete(t.wanted, idle)
	}
	t.wanted[id] = &want{issuer: issuer, until: until}
}

// believe verifies a message, and remembers the ticket of who signed.
func (t *Talk) believe(s *its.SignedData, path []*its.Certificate, id its.HashedId8, at its.Time64) error {
	c := t.o.Client
	t.mu.Lock()
	o := t.known[id]
	t.mu.Unlock()
	if o == nil || at > o.checked+its.Time64(recheck.Microseconds()) {
		if err := c.Check(at, slices.Clone(path)...); err != nil {
			t.forget(id)
			return err
		}
		o = &other{path: path, checked: at}
	}
	root := c.lists.Load().issuer(path[len(path)-1]) // Check looked at its lists
	if root == nil {
		return ErrNoLists
	}
	if err := chain.CheckMessage(s, append(slices.Clone(path), root.cert), chain.Options{At: at, Within: t.o.Within, Trusted: func(r its.HashedId8) bool { return r == root.id }}); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.wanted, short(id))
	return t.remember(id, o, at)
}

// remember keeps the ticket of who signed, if there is room: one that is still in use does not leave for another. Without room a ticket is verified anew with each message
// that has it.
func (t *Talk) remember(id its.HashedId8, o *other, at its.Time64) error {
	if old := t.known[id]; old != nil {
		o.path = old.path
	} else {
		if len(t.known) >= maxKnown {
			who := t.quietest()
			if t.known[who].last+its.Time64(quiet.Microseconds()) > at {
				return nil
			}
			delete(t.known, who)
		}
		ticket, err := alone(o.path[0])
		if err != nil {
			return err
		}
		o.path = []*its.Certificate{ticket, o.path[1]}
	}
	o.last = at
	t.known[id] = o
	return nil
}

// alone is a certificate for itself, without the message that it came in, which is its caller's and may be long.
func alone(x *its.Certificate) (*its.Certificate, error) {
	return its.ParseCertificate(bytes.Clone(x.Octets))
}

func (t *Talk) forget(id its.HashedId8) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.known, id)
}

// quietest is whose ticket was used longest ago.
func (t *Talk) quietest() (id its.HashedId8) {
	var last its.Time64
	for who, o := range t.known {
		if last == 0 || o.last < last {
			id, last = who, o.last
		}
	}
	return id
}

// fresh says whether a message was not heard before, and remembers it. A message is the same whatever form its signature has.
func (t *Talk) fresh(s *its.SignedData, id its.HashedId8, at its.Time64) error {
	b, err := coer.Normal(&s.TbsData)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(append(id[:], b...))
	h := &s.TbsData.HeaderInfo
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.heard.add(stream{id, h.Psid}, [16]byte(sum[:16]), h.GenerationTime.Value, at, t.age)
}

// learn takes the certificate of an authority that a message brings, if it was asked for here, by this station or another one. The certificate speaks for itself, so whose the
// message is does not matter; often it is one that cannot be believed without.
func (t *Talk) learn(h *its.HeaderInfo, at its.Time64) {
	x := h.RequestedCertificate
	if x == nil {
		return
	}
	id, err := x.HashedId8()
	if err != nil {
		return
	}
	t.mu.Lock()
	wanted := t.wanted[short(id)] != nil
	others := slices.ContainsFunc(t.answers, func(a answer) bool { return same(a.cert, id) })
	t.mu.Unlock()
	if !wanted && !others || x.CheckRole(its.EtsiAA, 0) != nil || t.o.Client.Check(at, x) != nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.wanted, short(id))
	t.answers = slices.DeleteFunc(t.answers, func(a answer) bool { return same(a.cert, id) }) // somebody was faster
	if t.issuer(id) != nil {
		return
	}
	if len(t.issuers) >= maxIssuers {
		maps.DeleteFunc(t.issuers, func(_ its.HashedId8, x *its.Certificate) bool { return !x.ToBeSigned.ValidityPeriod.Contains(at) })
	}
	if x, err := alone(x); err == nil && len(t.issuers) < maxIssuers {
		t.issuers[id] = x
	}
}

func same(x *its.Certificate, id its.HashedId8) bool {
	got, err := x.HashedId8()
	return err == nil && got == id
}

// answer sees to what a message asks for. Its signature was verified.
func (t *Talk) answer(h *its.HeaderInfo, by its.HashedId8) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, w := range h.InlineP2pcdRequest[:min(len(h.InlineP2pcdRequest), maxInline)] {
		if w == short(t.mine) {
			t.attached = 0
		} else if x := t.asked(w); x != nil && t.mayAsk(x, by) {
			t.answers = append(t.answers, answer{x, by})
		}
	}
}

// mayAsk says whether a certificate is to be told because of one more question by somebody.
func (t *Talk) mayAsk(x *its.Certificate, by its.HashedId8) bool {
	asked := 0
	for _, a := range t.answers {
		if a.cert == x {
			return false
		}
		if a.by == by {
			asked++
		}
	}
	return asked < maxAsked && len(t.answers) < maxWanted
}

// asked is the certificate of an authority by the end of its digest.
func (t *Talk) asked(w its.HashedId3) *its.Certificate {
	for id, x := range t.issuers {
		if short(id) == w {
			return x
		}
	}
	for _, o := range t.known {
		if short(o.path[0].Issuer.Digest) == w {
			return o.path[1]
		}
	}
	if _, aa, err := t.o.Client.Authorities(); err == nil {
		if id, err := aa.HashedId8(); err == nil && short(id) == w {
			return aa
		}
	}
	return nil
}
