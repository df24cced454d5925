package v2x

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/its/chain"
	"mooring/wire/scr"
	"mooring/wire/spdu"
)

func cam(t testing.TB, k *Talk, payload string) []byte {
	t.Helper()
	b, err := k.CAM([]byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// signed is the signed message in octets.
func signed(t testing.TB, b []byte) *its.SignedData {
	t.Helper()
	d, err := its.ParseData(b, its.MaxRequest)
	if err != nil {
		t.Fatal(err)
	}
	return d.Content.SignedData
}

func attached(t testing.TB, b []byte) bool {
	return signed(t, b).Signer.Choice == its.SignerCertificate
}

var somewhere = its.ThreeDLocation{Latitude: 481_000_000, Longitude: 115_000_000}

// Two stations that do not know each other: the first CAM has the ticket, those of the same second have its digest, and the next second's has it again. Who joins later asks, and is told at once.
func TestTalk(t *testing.T) {
	w := newWorld(t)
	a, b := w.speaker(t, TalkOptions{}, w.ticket(t, w.aa, nil)), w.speaker(t, TalkOptions{}, w.ticket(t, w.aa, nil))
	first := cam(t, a, "one")
	if !attached(t, first) {
		t.Error("the first CAM does not have the ticket")
	}
	w.pass(100 * time.Millisecond)
	second := cam(t, a, "two")
	if attached(t, second) {
		t.Error("a CAM has the ticket twice in a second")
	}
	if _, err := b.Hear(second); !errors.Is(err, ErrUnknownSigner) {
		t.Errorf("a digest that is not known: %v", err)
	}
	ask := cam(t, b, "who is that?")
	if s := signed(t, ask); len(s.TbsData.HeaderInfo.InlineP2pcdRequest) != 1 || !attached(t, ask) {
		t.Errorf("it asks for %v", s.TbsData.HeaderInfo.InlineP2pcdRequest)
	}
	heard, err := a.Hear(ask)
	if err != nil || string(heard.Payload) != "who is that?" || heard.Psid != its.PsidCAM {
		t.Fatalf("got %+v, %v", heard, err)
	}
	w.pass(100 * time.Millisecond)
	third := cam(t, a, "three")
	if !attached(t, third) {
		t.Error("who is asked does not answer at once")
	}
	if _, err := b.Hear(third); err != nil {
		t.Fatal(err)
	}
	w.pass(100 * time.Millisecond)
	if _, err := b.Hear(cam(t, a, "four")); err != nil {
		t.Errorf("a digest that is known: %v", err)
	}
	if s := signed(t, cam(t, b, "thanks")); s.TbsData.HeaderInfo.InlineP2pcdRequest != nil {
		t.Error("it still asks for what it knows")
	}
	w.pass(time.Second)
	if !attached(t, cam(t, a, "five")) {
		t.Error("a second later the ticket is not there")
	}
	if _, err := b.Hear(third); !errors.Is(err, ErrReplay) {
		t.Errorf("a message once more: %v", err)
	}
}

// A ticket of an authority that is not on the list: its certificate is asked for, and who has it sends it once, unless somebody else did. It is believed since the root
// signed it.
func TestTalkIssuer(t *testing.T) {
	w := newWorld(t)
	a := w.speaker(t, TalkOptions{}, w.ticket(t, w.aa, nil))
	far := w.speaker(t, TalkOptions{}, w.ticket(t, w.far, nil))
	slow := w.speaker(t, TalkOptions{}, w.ticket(t, w.aa, nil))
	id, err := w.far.cert.HashedId8()
	if err != nil {
		t.Fatal(err)
	}
	far.issuers[id], slow.issuers[id] = w.far.cert, w.far.cert
	if _, err := a.Hear(cam(t, far, "hello")); !errors.Is(err, ErrUnknownIssuer) {
		t.Fatalf("a ticket of an unknown authority: %v", err)
	}
	ask := cam(t, a, "whose is it?")
	if got := signed(t, ask).TbsData.HeaderInfo.InlineP2pcdRequest; len(got) != 1 || got[0] != short(id) {
		t.Fatalf("it asks for %v", got)
	}
	for _, k := range []*Talk{far, slow} {
		if _, err := k.Hear(ask); err != nil || len(k.answers) != 1 {
			t.Fatalf("who hears that wants to tell %d certificates: %v", len(k.answers), err)
		}
	}
	w.pass(100 * time.Millisecond)
	if signed(t, cam(t, far, "my ticket")).TbsData.HeaderInfo.RequestedCertificate != nil {
		t.Error("ticket and authority in one message")
	}
	w.pass(100 * time.Millisecond)
	answer := cam(t, far, "its issuer")
	if x := signed(t, answer).TbsData.HeaderInfo.RequestedCertificate; x == nil || !bytes.Equal(octets(t, x), octets(t, w.far.cert)) || attached(t, answer) {
		t.Fatalf("the answer brings %v", x)
	}
	for _, k := range []*Talk{a, slow} { // its sender is not known, but what it brings is good
		if _, err := k.Hear(answer); !errors.Is(err, ErrUnknownSigner) {
			t.Fatal(err)
		}
	}
	if len(slow.answers) != 0 {
		t.Error("who was slower still wants to tell what was told")
	}
	w.pass(100 * time.Millisecond)
	if signed(t, cam(t, far, "told")).TbsData.HeaderInfo.RequestedCertificate != nil {
		t.Error("it tells twice")
	}
	w.pass(time.Second)
	if _, err := a.Hear(cam(t, far, "believed")); err != nil {
		t.Errorf("after its issuer was told: %v", err)
	}
	forged := newWorld(t)
	fake := forged.speaker(t, TalkOptions{}, forged.ticket(t, forged.far, nil))
	if _, err := a.Hear(cam(t, fake, "hello")); !errors.Is(err, ErrUnknownIssuer) {
		t.Fatal(err)
	}
	fake.answers = append(fake.answers, toldOf(forged.far.cert))
	if _, err := a.Hear(cam(t, fake, "my own issuer")); !errors.Is(err, ErrUnknownSigner) {
		t.Fatal(err)
	}
	if len(a.issuers) != 1 {
		t.Error("it believes an authority that another root signed")
	}
}

func octets(t testing.TB, v coer.Value) []byte {
	t.Helper()
	b, err := coer.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What is not to be believed, or does not matter, is refused with its reason.
func TestTalkRefuses(t *testing.T) {
	w := newWorld(t)
	here := func() (its.ThreeDLocation, bool) { return somewhere, true }
	needs := func(psid its.Psid, payload []byte) ([]byte, error) {
		if psid == its.PsidCAM && bytes.HasPrefix(payload, []byte("bus")) {
			return []byte{1, 0x80, 0}, nil
		}
		return nil, nil
	}
	good := w.ticket(t, w.aa, nil)
	stranger := newWorld(t)
	for _, row := range []struct {
		name    string
		message func(h *its.HeaderInfo, by *spdu.Signer, payload *string)
		after   func([]byte)
		wait    time.Duration
		want    error
	}{
		{name: "good", message: func(*its.HeaderInfo, *spdu.Signer, *string) {}},
		{name: "old", wait: 3 * time.Second, want: ErrOld, message: func(*its.HeaderInfo, *spdu.Signer, *string) {}},
		{name: "of the future", want: chain.ErrFuture, message: func(h *its.HeaderInfo, _ *spdu.Signer, _ *string) { h.GenerationTime.Value += 60e6 }},
		{name: "without time", want: ErrProfile, message: func(h *its.HeaderInfo, _ *spdu.Signer, _ *string) { h.GenerationTime.Present = false }},
		{name: "a CAM with a place", want: ErrProfile, message: func(h *its.HeaderInfo, _ *spdu.Signer, _ *string) { h.GenerationLocation = coer.Some(somewhere) }},
		{name: "another application", want: ErrProfile, message: func(h *its.HeaderInfo, _ *spdu.Signer, _ *string) { h.Psid = 137 }},
		{name: "a learning request", want: ErrProfile, message: func(h *its.HeaderInfo, _ *spdu.Signer, _ *string) {
			h.P2pcdLearningRequest = coer.Some(its.HashedId3{1})
		}},
		{name: "self", want: ErrProfile, message: func(_ *its.HeaderInfo, by *spdu.Signer, _ *string) { *by = scr.Signer(good.Key, nil) }},
		{name: "a DENM by digest", want: ErrProfile, message: func(h *its.HeaderInfo, by *spdu.Signer, _ *string) {
			h.Psid, h.GenerationLocation, by.Attach = its.PsidDENM, coer.Some(somewhere), false
		}},
		{name: "a DENM without place", want: ErrProfile, message: func(h *its.HeaderInfo, _ *spdu.Signer, _ *string) { h.Psid = its.PsidDENM }},
		{name: "a DENM that asks", want: ErrProfile, message: func(h *its.HeaderInfo, _ *spdu.Signer, _ *string) {
			h.Psid, h.GenerationLocation, h.InlineP2pcdRequest = its.PsidDENM, coer.Some(somewhere), []its.HashedId3{{1}}
		}},
		{name: "a DENM from far away", want: ErrFar, message: func(h *its.HeaderInfo, _ *spdu.Signer, _ *string) {
			h.Psid, h.GenerationLocation = its.PsidDENM, coer.Some(its.ThreeDLocation{Latitude: 482_000_000, Longitude: 115_000_000})
		}},
		{name: "a DENM from near", message: func(h *its.HeaderInfo, _ *spdu.Signer, _ *string) {
			h.Psid, h.GenerationLocation = its.PsidDENM, coer.Some(its.ThreeDLocation{Latitude: 481_100_000, Longitude: 115_000_000})
		}},
		{name: "no permission", want: ErrPermission, message: func(_ *its.HeaderInfo, _ *spdu.Signer, payload *string) { *payload = "bus lane" }},
		{name: "no application", want: ErrPermission, message: func(_ *its.HeaderInfo, by *spdu.Signer, _ *string) {
			*by = with(w.ticket(t, w.aa, func(x *its.ToBeSignedCertificate) { x.AppPermissions = x.AppPermissions[1:] }))
		}},
		{name: "over", want: chain.ErrTime, message: func(_ *its.HeaderInfo, by *spdu.Signer, _ *string) {
			*by = with(w.ticket(t, w.aa, func(x *its.ToBeSignedCertificate) { x.ValidityPeriod.Start -= 3600 }))
		}},
		{name: "signed by another key", want: its.ErrSignature, message: func(_ *its.HeaderInfo, by *spdu.Signer, _ *string) {
			by.Sign = scr.Signature(w.ticket(t, w.aa, nil).Key)
		}},
		{name: "a stranger's authority", want: ErrUnknownIssuer, message: func(_ *its.HeaderInfo, by *spdu.Signer, _ *string) {
			*by = with(stranger.ticket(t, stranger.aa, nil))
		}},
		{name: "the authority itself", want: ErrProfile, message: func(_ *its.HeaderInfo, by *spdu.Signer, _ *string) {
			*by = with(&Ticket{Certificate: w.aa.cert, Key: w.aa.key})
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			k := w.speaker(t, TalkOptions{Place: here, Needs: needs}, w.ticket(t, w.aa, nil))
			h := its.HeaderInfo{Psid: its.PsidCAM, GenerationTime: coer.Some(w.at())}
			by, payload := with(good), "car"
			row.message(&h, &by, &payload)
			b, err := sign([]byte(payload), h, by)
			if err != nil {
				t.Fatal(err)
			}
			w.pass(row.wait)
			if _, err := k.Hear(b); !errors.Is(err, row.want) {
				t.Fatalf("got %v, want %v", err, row.want)
			}
			if row.want == nil {
				if _, err := k.Hear(b); !errors.Is(err, ErrReplay) {
					t.Errorf("once more: %v", err)
				}
			}
		})
	}
	k := w.speaker(t, TalkOptions{Needs: needs}, good)
	if _, err := k.CAM([]byte("bus lane")); !errors.Is(err, ErrPermission) {
		t.Errorf("signing what the ticket does not permit: %v", err)
	}
	bus := w.speaker(t, TalkOptions{Needs: needs}, w.ticket(t, w.aa, func(x *its.ToBeSignedCertificate) { x.AppPermissions[0] = its.Bitmap(its.PsidCAM, 1, 0x80, 0) }))
	if heard, err := k.Hear(cam(t, bus, "bus lane")); err != nil || !bytes.Equal(heard.Ssp, []byte{1, 0x80, 0}) {
		t.Errorf("a bus with the permission: %+v, %v", heard, err)
	}
}

func with(t *Ticket) spdu.Signer {
	s := t.Signer()
	s.Attach = true
	return s
}

// An authority that is revoked: its tickets are not believed, also those that were before, once the lists say so.
func TestTalkRevoked(t *testing.T) {
	w := newWorld(t)
	a, b := w.speaker(t, TalkOptions{}, w.ticket(t, w.aa, nil)), w.speaker(t, TalkOptions{}, w.ticket(t, w.aa, nil))
	if _, err := b.Hear(cam(t, a, "one")); err != nil {
		t.Fatal(err)
	}
	id, err := w.aa.cert.HashedId8()
	if err != nil {
		t.Fatal(err)
	}
	w.revoked = []its.HashedId8{id}
	w.pass(recheck + time.Second)
	if err := b.o.Client.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Hear(cam(t, a, "two")); !errors.Is(err, chain.ErrRevoked) {
		t.Errorf("got %v", err)
	}
}

// The ticket changes at the start, after the first way, and then after way and time; while something is warned of it stays.
func TestChanger(t *testing.T) {
	w := newWorld(t)
	stock := stockOf{w.ticket(t, w.aa, nil), w.ticket(t, w.aa, nil), w.ticket(t, w.aa, nil), w.ticket(t, w.aa, nil)}
	all := []*Ticket(stock)
	all = append([]*Ticket(nil), all...)
	c := NewChanger(&stock, Habit{FirstMetres: [2]float64{900, 900}, Wait: [2]time.Duration{3 * time.Minute, 3 * time.Minute}}, w.clock, 0)
	changed := 0
	c.Changed = func(*Ticket) { changed++ }
	at := its.TwoDLocation{Latitude: 480_000_000, Longitude: 115_000_000}
	go100 := func() {
		t.Helper()
		at.Latitude += 9000 // about 100 m
		w.pass(5 * time.Second)
		if err := c.Moved(at); err != nil {
			t.Fatal(err)
		}
	}
	is := func(n int, when string) {
		t.Helper()
		got, err := c.Ticket()
		if err != nil || got != all[n] {
			t.Fatalf("%s: not ticket %d: %v", when, n, err)
		}
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if err := c.Moved(at); err != nil {
		t.Fatal(err)
	}
	is(0, "at the start")
	for range 8 {
		go100()
	}
	is(0, "after 800 m")
	go100()
	go100()
	is(1, "after 1000 m")
	for range 8 {
		go100()
	}
	is(1, "800 m later, but at once")
	w.pass(3 * time.Minute)
	release := c.Hold()
	go100()
	go100()
	is(1, "while it is held")
	release()
	is(2, "after it was released")
	forgotten := c.Hold()
	for range 10 {
		go100()
	}
	w.pass(3 * time.Minute)
	go100()
	is(2, "held again")
	w.pass(31 * time.Minute)
	is(3, "after it was held too long")
	forgotten()
	if changed != 4 {
		t.Errorf("Changed was called %d times", changed)
	}
	w.pass(time.Hour)
	if _, err := c.Ticket(); err != nil {
		t.Error(err) // the stock of this test gives what is over
	}
	stock = nil
	if _, err := c.Ticket(); !errors.Is(err, ErrNoTicket) {
		t.Errorf("without tickets: %v", err)
	}
}

// Events hold the ticket, and their messages name the place.
func TestEvent(t *testing.T) {
	w := newWorld(t)
	one, two := w.ticket(t, w.aa, nil), w.ticket(t, w.aa, nil)
	k, b := w.speaker(t, TalkOptions{}, one, two), w.speaker(t, TalkOptions{}, w.ticket(t, w.aa, nil))
	e := k.Event()
	d, err := e.DENM([]byte("ice"), somewhere)
	if err != nil {
		t.Fatal(err)
	}
	heard, err := b.Hear(d)
	if err != nil || heard.Psid != its.PsidDENM || heard.Place.Value != somewhere || !attached(t, d) {
		t.Fatalf("got %+v, %v", heard, err)
	}
	k.o.Changer.mu.Lock()
	err = k.o.Changer.change(false)
	k.o.Changer.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := k.o.Changer.Ticket(); got != one || err != nil {
		t.Errorf("the ticket changed while a warning is repeated: %v", err)
	}
	e.End()
	if got, err := k.o.Changer.Ticket(); got != two || err != nil {
		t.Errorf("the change was not made afterwards: %v", err)
	}
}

// Strangers can have a station remember so much and no more.
func TestTalkBounds(t *testing.T) {
	w := newWorld(t)
	k := w.speaker(t, TalkOptions{}, w.ticket(t, w.aa, nil))
	for range 3 * maxWanted {
		o := w.speaker(t, TalkOptions{}, w.ticket(t, w.aa, nil))
		cam(t, o, "with ticket")
		if _, err := k.Hear(cam(t, o, "by digest")); !errors.Is(err, ErrUnknownSigner) {
			t.Fatal(err)
		}
	}
	if got := len(signed(t, cam(t, k, "?")).TbsData.HeaderInfo.InlineP2pcdRequest); got != maxWanted {
		t.Errorf("it asks for %d certificates, want %d", got, maxWanted)
	}
	w.pass(wantFor + time.Second)
	if got := len(signed(t, cam(t, k, "?")).TbsData.HeaderInfo.InlineP2pcdRequest); got != 0 {
		t.Errorf("after their time it asks for %d", got)
	}
	if _, err := New(Config{Root: []byte("no certificate"), Now: w.clock}); err == nil || !strings.Contains(err.Error(), "root") {
		t.Errorf("a root that is none: %v", err)
	}
}

// Tickets that are in use do not leave for others, however many come; those that were not heard for a while do.
func TestTalkKnown(t *testing.T) {
	w := newWorld(t)
	k, a := w.speaker(t, TalkOptions{}, w.ticket(t, w.aa, nil)), w.speaker(t, TalkOptions{}, w.ticket(t, w.aa, nil))
	if _, err := k.Hear(cam(t, a, "first of all")); err != nil {
		t.Fatal(err)
	}
	for i := range maxKnown - 1 {
		k.known[its.HashedId8{byte(i), byte(i >> 8), 1}] = &other{path: []*its.Certificate{w.aa.cert, w.aa.cert}, last: w.at()}
	}
	late := w.speaker(t, TalkOptions{}, w.ticket(t, w.aa, nil))
	if _, err := k.Hear(cam(t, late, "with ticket")); err != nil {
		t.Errorf("without room: %v", err)
	}
	if _, err := k.Hear(cam(t, late, "by digest")); !errors.Is(err, ErrUnknownSigner) {
		t.Errorf("one more than there is room for, by digest: %v", err)
	}
	w.pass(900 * time.Millisecond)
	if _, err := k.Hear(cam(t, a, "by digest")); err != nil {
		t.Errorf("one that is in use was pushed out: %v", err)
	}
	w.pass(quiet)
	if _, err := k.Hear(cam(t, late, "with ticket again")); err != nil || len(k.known) != maxKnown {
		t.Errorf("%d tickets are known: %v", len(k.known), err)
	}
	if _, err := k.Hear(cam(t, late, "by digest")); err != nil {
		t.Errorf("when others were quiet: %v", err)
	}
}

// Who names many certificates that there are not keeps others' from being asked for no longer than until they were asked for; and not those of the other kind.
func TestTalkWanted(t *testing.T) {
	w := newWorld(t)
	k := w.speaker(t, TalkOptions{}, w.ticket(t, w.aa, nil))
	by := w.ticket(t, w.aa, nil).Signer()
	name := func(n byte) {
		t.Helper()
		b, err := sign([]byte("x"), its.HeaderInfo{Psid: its.PsidCAM, GenerationTime: coer.Some(w.at())}, by)
		if err != nil {
			t.Fatal(err)
		}
		digest := bytes.Index(b, octets(t, &signed(t, b).Signer)) + 1
		b[digest+7] = n
		if _, err := k.Hear(b); !errors.Is(err, ErrUnknownSigner) {
			t.Fatal(err)
		}
	}
	asks := func() (n int, far, late bool) {
		id, err := w.far.cert.HashedId8()
		if err != nil {
			t.Fatal(err)
		}
		list := signed(t, cam(t, k, "?")).TbsData.HeaderInfo.InlineP2pcdRequest
		for _, w := range list {
			far, late = far || w == short(id), late || w[2] == 200
		}
		return len(list), far, late
	}
	for n := range byte(100) {
		name(n)
	}
	far := w.speaker(t, TalkOptions{}, w.ticket(t, w.far, nil))
	if _, err := k.Hear(cam(t, far, "of another authority")); !errors.Is(err, ErrUnknownIssuer) {
		t.Fatal(err)
	}
	if n, far, _ := asks(); n != maxWanted+1 || !far {
		t.Errorf("it asks for %d certificates, for that of the authority: %v", n, far)
	}
	w.pass(wantAtLeast)
	for n := range byte(100) {
		name(n) // who goes on naming
	}
	name(200)
	w.pass(wantAtLeast)
	asks()
	w.pass(wantAtLeast)
	name(200)
	if n, _, late := asks(); n > maxWanted+1 || !late {
		t.Errorf("it asks for %d certificates, for the late one: %v", n, late)
	}
}

// One that sends without end is forgotten of by itself: it takes no room of others, and none of its messages, nor of theirs, is heard twice.
func TestTalkFlood(t *testing.T) {
	w := newWorld(t)
	k, honest, flood := w.speaker(t, TalkOptions{}, w.ticket(t, w.aa, nil)), w.speaker(t, TalkOptions{}, w.ticket(t, w.aa, nil)), w.speaker(t, TalkOptions{}, w.ticket(t, w.aa, nil))
	warn := func(by *Talk, text string) []byte {
		t.Helper()
		w.pass(time.Millisecond)
		e := by.Event()
		defer e.End()
		b, err := e.DENM([]byte(text), somewhere)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.Hear(b); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		return b
	}
	ice := warn(honest, "ice")
	var all [][]byte
	for i := range maxHeardEach + 100 {
		all = append(all, warn(flood, strings.Repeat("x", i%7)))
	}
	if k.heard.count != maxHeardEach+1 {
		t.Errorf("%d messages are remembered, want %d of one and one of the other", k.heard.count, maxHeardEach)
	}
	warn(honest, "still ice")
	for _, b := range append(all, ice) {
		if _, err := k.Hear(b); !errors.Is(err, ErrReplay) {
			t.Fatalf("once more: %v", err)
		}
	}
	w.pass(11 * time.Minute)
	if _, err := k.Hear(cam(t, honest, "later")); err != nil || k.heard.count != 1 || len(k.heard.of) != 1 {
		t.Errorf("after their time %d messages of %d are remembered: %v", k.heard.count, len(k.heard.of), err)
	}
}

// Of all together so much is remembered and no more. Who has most gives way.
func TestPast(t *testing.T) {
	p := past{of: map[stream]*told{}}
	age := func(its.Psid) time.Duration { return time.Hour }
	const at = its.Time64(1e15)
	digest := func(who, n int) (d [16]byte) { return [16]byte{byte(who), byte(who >> 8), byte(n), byte(n >> 8)} }
	from := func(who int) stream {
		return stream{its.HashedId8{byte(who), byte(who >> 8), byte(who >> 16)}, its.PsidDENM}
	}
	add := func(who, n int) error { return p.add(from(who), digest(who, n), at+its.Time64(n), at, age) }
	const honest, hostile = 100, maxHeard / maxHeardEach
	for who := range honest {
		for n := range 10 {
			if err := add(who, n); err != nil {
				t.Fatal(err)
			}
		}
	}
	for n := range maxHeardEach {
		for who := range hostile {
			if err := add(1000+who, n); err != nil {
				t.Fatalf("message %d of %d: %v", n, who, err)
			}
		}
	}
	if p.count != maxHeard {
		t.Errorf("%d messages are remembered, want %d", p.count, maxHeard)
	}
	for who := range honest {
		if len(p.of[from(who)].messages) != 10 {
			t.Fatalf("of an honest one %d messages are remembered", len(p.of[from(who)].messages))
		}
		if err := add(who, 10); err != nil {
			t.Fatalf("one more of an honest one: %v", err)
		}
	}
	for who := range honest + hostile {
		if who >= honest {
			who += 1000 - honest
		}
		for n := range 10 {
			if err := add(who, n); !errors.Is(err, ErrReplay) {
				t.Fatalf("message %d of %d once more: %v", n, who, err)
			}
		}
	}
	crowd := past{of: map[stream]*told{}} // each with a ticket of its own
	for n := range maxHeard {
		if err := crowd.add(from(n), digest(n, 0), at, at, age); err != nil {
			t.Fatal(err)
		}
	}
	if err := crowd.add(from(1<<16), digest(1<<16, 1), at, at, age); !errors.Is(err, ErrReplay) || crowd.count != maxHeard || len(crowd.of) != maxHeard {
		t.Errorf("one more: %v; %d remembered of %d", err, crowd.count, len(crowd.of))
	}
}

// One ticket has a station tell two authorities at the most; others are told theirs.
func TestTalkAnswers(t *testing.T) {
	w := newWorld(t)
	k := w.speaker(t, TalkOptions{}, w.ticket(t, w.aa, nil))
	var asked []its.HashedId3
	for range 5 {
		x := w.make(t, its.EtsiAA, &w.root).cert
		id, err := x.HashedId8()
		if err != nil {
			t.Fatal(err)
		}
		k.issuers[id] = x
		asked = append(asked, short(id))
	}
	ask := func(list ...its.HashedId3) {
		t.Helper()
		b, err := sign([]byte("?"), its.HeaderInfo{Psid: its.PsidCAM, GenerationTime: coer.Some(w.at()), InlineP2pcdRequest: list}, with(w.ticket(t, w.aa, nil)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.Hear(b); err != nil {
			t.Fatal(err)
		}
	}
	ask(asked...)
	if len(k.answers) != maxAsked {
		t.Errorf("because of one ticket it tells %d", len(k.answers))
	}
	ask(asked[4])
	if len(k.answers) != maxAsked+1 {
		t.Errorf("because of two tickets it tells %d", len(k.answers))
	}
}

// What is remembered of a message is not the caller's: the buffer may have the next message.
func TestTalkBuffer(t *testing.T) {
	w := newWorld(t)
	a, b := w.speaker(t, TalkOptions{}, w.ticket(t, w.aa, nil)), w.speaker(t, TalkOptions{}, w.ticket(t, w.aa, nil))
	buffer := cam(t, a, "one")
	if _, err := b.Hear(buffer); err != nil {
		t.Fatal(err)
	}
	clear(buffer)
	w.pass(100 * time.Millisecond)
	if _, err := b.Hear(cam(t, a, "two")); err != nil {
		t.Error(err)
	}
}

// FuzzHear: nothing that is received makes a station panic, and what is not signed by somebody it believes is not believed.
func FuzzHear(f *testing.F) {
	w := newWorld(f)
	a, b := w.speaker(f, TalkOptions{}, w.ticket(f, w.aa, nil)), w.speaker(f, TalkOptions{}, w.ticket(f, w.aa, nil))
	seeds := [][]byte{cam(f, a, "one"), cam(f, a, "two")}
	d, err := a.Event().DENM([]byte("ice"), somewhere)
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range append(seeds, d) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, octets []byte) {
		heard, err := b.Hear(octets)
		if err != nil {
			return
		}
		for _, p := range []string{"one", "two", "ice"} {
			if string(heard.Payload) == p {
				return
			}
		}
		t.Errorf("%q is believed, which nobody signed", heard.Payload)
	})
}

func toldOf(x *its.Certificate) answer { return answer{cert: x} }
