package nats

import (
	"bytes"
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"mooring/internal/base/errs"
)

// prove finds out which messages of a flight in a row are stored, when the place of the last did not show that, and settles them. What is not there and stands
// behind all that is goes again, one by one, so that each gets an answer of its own. What is not there and stands before others was refused, for lack of
// room, and sending it again would break the order; but what has a dedupe text may have been there before, so that it is asked again.
func (p *publisher) prove(fl *flight) {
	last, places, err := p.f.places(fl)
	now := p.f.o.Now()
	p.mu.Lock()
	if p.flying[fl.token] != fl { // end was quicker
		p.mu.Unlock()
		return
	}
	delete(p.flying, fl.token)
	l := fl.lane
	l.busy, l.last = false, last
	if err != nil {
		l.last = 0 // what is on its way may yet be stored
		p.land(fl, answer{err: p.f.failed(err, "storing a message")})
	} else {
		p.divide(fl, places)
	}
	next := p.board(l, now)
	p.mu.Unlock()
	p.send(next)
}

// divide settles the messages of a flight by their places, 0 for those that are not stored. mu is held.
func (p *publisher) divide(fl *flight, places []uint64) {
	behind := len(places)
	for behind > 0 && places[behind-1] == 0 {
		behind--
	}
	var again []*entry
	for i, e := range fl.entries {
		switch {
		case i >= behind || e.dedupe != "" && (places[i] == 0 || places[i] == unsure):
			again = append(again, e)
		case places[i] == unsure:
			p.leave(e, 0, errs.New(errs.Unavailable, "it cannot be told whether the message was stored: later ones of its key have pushed it out, or there was no room for it"))
		case places[i] > 0:
			p.leave(e, places[i], nil)
		default:
			p.leave(e, 0, errs.New(errs.Limited, "the store of messages is full"))
		}
	}
	fl.lane.back(again)
}

// unsure stands for the place of a message of which it cannot be told whether it was stored.
const unsure = math.MaxUint64

// places returns the last place of a flight's stream, and those of its messages.
func (f *Fabric) places(fl *flight) (last uint64, places []uint64, err error) {
	stream := f.name.named(strings.ToUpper(fl.lane.name))
	if last, err = f.mark(fl.entries[0].msg.Subject); err != nil {
		return 0, nil, err
	}
	places = make([]uint64, len(fl.entries))
	var gone []uint64
	next := 0
	for seq := fl.lane.last + 1; seq <= last && next < len(places); seq++ {
		s, err := f.at(stream, seq)
		if errs.Is(err, errs.NotFound) {
			gone = append(gone, seq)
			continue
		}
		if err != nil {
			return 0, nil, err
		}
		for i := next; i < len(places); i++ {
			if fl.entries[i].is(s) {
				places[i], next = seq, i+1
				break
			}
		}
	}
	fill(places, gone, last)
	return last, places, nil
}

// fill gives those messages a place that were stored and are not there any more, since a stream keeps only some of each key: they lie between those that are
// there. Where fewer are gone than are missing, some of these were not stored, and nobody knows which.
func fill(places, gone []uint64, last uint64) {
	before := uint64(0)
	for i := 0; i < len(places); i++ {
		if places[i] > 0 {
			before = places[i]
			continue
		}
		end, behind := i, last+1
		for end < len(places) && places[end] == 0 {
			end++
		}
		if end < len(places) {
			behind = places[end]
		}
		from, _ := slices.BinarySearch(gone, before+1)
		to, _ := slices.BinarySearch(gone, behind)
		between := gone[from:to]
		for j := range places[i:end] {
			switch {
			case len(between) == end-i:
				places[i+j] = between[j]
			case len(between) > 0:
				places[i+j] = unsure
			}
		}
		i = end - 1
	}
}

// is reports whether s is the entry as it was stored.
func (e *entry) is(s *stored) bool {
	return s.subject == e.msg.Subject && s.header.Get(headerTopic) == e.topic[0] && s.header.Get(headerMeta) == e.meta[0] && bytes.Equal(s.data, e.msg.Data)
}

// mark returns the last place of the stream of a subject after everything that was sent to it before: it sends what the stream cannot but refuse, with that
// place.
func (f *Fabric) mark(subject string) (uint64, error) {
	const never = "9007199254740991"
	answer, err := f.insist(&natsgo.Msg{Subject: subject, Header: natsgo.Header{jetstream.ExpectedLastSeqHeader: {never}}})
	if err != nil {
		return 0, err
	}
	var ack struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(answer.Data, &ack); err != nil || ack.Error == nil {
		return 0, errs.New(errs.Unavailable, "NATS answers what is no refusal")
	}
	text := ack.Error.Description
	last, err := strconv.ParseUint(text[strings.LastIndexByte(text, ' ')+1:], 10, 64)
	if ack.Error.ErrorCode != codeWrongLast || err != nil {
		return 0, ack.Error
	}
	return last, nil
}

// at returns what lies at a place.
func (f *Fabric) at(stream string, seq uint64) (*stored, error) {
	answer, err := f.insist(&natsgo.Msg{Subject: "$JS.API.DIRECT.GET." + stream, Data: []byte(`{"seq":` + strconv.FormatUint(seq, 10) + `}`)})
	if err != nil {
		return nil, err
	}
	if status := answer.Header.Get("Status"); status != "" {
		return nil, f.status(status, answer.Header.Get("Description"))
	}
	return direct(answer)
}

// insist is call for who has no context: Close ends it.
func (f *Fabric) insist(question *natsgo.Msg) (answer *natsgo.Msg, err error) {
	for range int(callWait / callTry) {
		answer, err = f.nc.RequestMsg(question, callTry)
		if err == nil || !passing(err) {
			return answer, err
		}
		select {
		case <-f.closed:
			return nil, errClosed()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil, err
}

// landRow is land for a row. mu is held.
func (p *publisher) landRow(fl *flight, a answer) {
	if a.err == nil {
		fl.lane.last, fl.lane.place = a.seq, fl.place+uint64(len(fl.entries)-1)
	}
	for i, e := range fl.entries {
		place := uint64(0)
		if a.err == nil {
			place = fl.place + uint64(i)
		}
		p.leave(e, place, a.err)
	}
	if l := fl.lane; cap(fl.entries) > cap(l.spare) {
		clear(fl.entries)
		l.spare, fl.entries = fl.entries[:0], nil
	}
}

// locate settles a row that JetStream has not stored where it was to lie. It is there already, when it was sent twice; or its only message is elsewhere, under the
// same dedupe text; or the stream does not end where that was thought, and then it goes again.
func (p *publisher) locate(fl *flight, a answer) {
	var end, old span
	there, err := p.f.lookFor(fl, a, &end, &old)
	now := p.f.o.Now()
	p.mu.Lock()
	if p.flying[fl.token] != fl { // end was quicker
		p.mu.Unlock()
		return
	}
	delete(p.flying, fl.token)
	l := fl.lane
	l.busy = false
	switch {
	case err != nil:
		p.landRow(fl, answer{err: p.f.failed(err, "storing a message")})
	case there:
		p.landRow(fl, answer{seq: fl.after + 1})
	case a.old:
		p.leave(fl.entries[0], old.first, nil)
	default:
		l.last, l.place = end.seq, end.behind()-1
		l.queue = append(fl.entries, l.queue...)
	}
	next := p.board(l, now)
	p.mu.Unlock()
	p.send(next)
}

// lookFor reports whether a row lies where it was sent. Else old is where the message lies that JetStream takes for the same, or end is where the stream ends.
func (f *Fabric) lookFor(fl *flight, a answer, end, old *span) (there bool, err error) {
	stream := f.name.named(strings.ToUpper(laneRows))
	at := fl.after + 1
	if a.old {
		at = a.seq
	}
	s, err := f.at(stream, at)
	switch {
	case err == nil && at == fl.after+1 && bytes.Equal(s.data, fl.row.Data):
		return true, nil
	case a.old && err == nil:
		*old, _ = f.span(s)
		return false, nil
	case a.old || err != nil && !errs.Is(err, errs.NotFound):
		return false, err
	}
	last, err := f.mark(f.name.rows())
	if err != nil {
		return false, err
	}
	if s, err = f.at(stream, last); err == nil {
		*end, _ = f.span(s)
		return false, nil
	}
	*end = span{last, fl.place + rowMessages*(last-min(last, fl.after)), 1} // it has left already
	return false, ignoreNotFound(err)
}

func ignoreNotFound(err error) error {
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	return err
}
