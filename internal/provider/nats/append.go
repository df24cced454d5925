package nats

import (
	"bytes"
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"sync"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"mooring/internal/base/errs"
	"mooring/internal/core/message"
)

// publisher stores messages without waiting for each. Messages stand in lanes, of each of which one flight is on its way at a time: if two were and the
// first got lost, the second would be stored before it. Different lanes do not wait for each other.
//
// With servers outside a lane is one key of one stream and a flight one message. With the embedded server nobody else writes, so there a lane is a whole stream
// and a flight all that came while the flight before was on its way; and how it travels, says manner.
type publisher struct {
	f      *Fabric
	inbox  string // subject of acknowledgements, up to the token
	acks   *natsgo.Subscription
	manner manner

	mu     sync.Mutex
	room   sync.Cond // of mu: count or octets fell, or ended
	lanes  map[string]*lane
	rows   *lane              // that of Up in rows; nil = there are none
	flying map[uint64]*flight // by token
	token  uint64
	count  int
	octets int
	ended  bool
	landed []landing // who is to be called, in order
	spare  []landing // memory for landed
	todo   sync.Cond
	over   chan struct{} // closed when everybody of landed was called after end
}

// manner is how several messages travel.
type manner uint8

const (
	// single: a flight is one message.
	single manner = iota
	// inRow: only the first and the last are acknowledged, by their places. When the first lies behind what was there before, and the last as far behind it as it
	// was sent, all are stored, and it is known where; when the places do not add up, it is looked which of them are there (prove).
	inRow
	// together: as an atomic batch, so that the disk is waited for once.
	together
)

// The bounds of a flight; the server takes 1000 messages as a batch.
const (
	flightMessages = 1000
	flightOctets   = 4 << 20
	// largeEntry is from where on a message goes alone, since NATS may refuse it for its size before it is sent.
	largeEntry = 512 << 10
)

// lane is what waits for one subject or stream behind what is on its way.
type lane struct {
	name  string
	queue []*entry
	alone int  // so many of the next go alone, because the flight that they were in was refused
	busy  bool // a flight is on its way, or it is being looked what became of it

	// Of a stream to which nobody else writes.
	last  uint64      // its last entry: never beyond it, since prove reads from there; 0 = it is not known, and messages go alone until it is
	since time.Time   // when the last flight began
	peak  int         // how many were in the largest flight of late
	below int         // flights since that
	all   bool        // nobody came while the last one was on its way
	set   bool        // timer will have the next one begin
	timer *time.Timer // nil before there was need of it

	// Of Up in rows, where last may be wrong: then the next row is refused, and it is looked.
	rows  bool
	place uint64   // the last one in last
	row   []byte   // memory for the next row
	spare []*entry // memory for queue, when nothing is left in it
}

// flight is what is on its way of one lane.
type flight struct {
	lane    *lane
	token   uint64
	entries []*entry
	first   time.Time // when it was sent first
	sent    time.Time // the last time; zero: it is to be sent again as soon as possible
	sending bool      // its first sending has not returned yet
	proving bool      // it is being looked which of its messages are stored
	head    uint64    // in a row: where its first message was stored; 0 = that was not said

	// All of it as one entry of Up.
	row          natsgo.Msg
	after, place uint64 // the entry behind which it is to lie, and the place of its first message

	// While it is sent again it does not end: what leaves after it must leave after its second copy too, which may be stored as well.
	resending bool
	held      *answer // what JetStream said meanwhile
}

// answer is what JetStream says to a message.
type answer struct {
	seq uint64
	old bool // it was stored before, and seq is the place that it had then
	err error
}

// entry is a message that is to be stored. What stands first is all that is touched of one in a row: thousands a second pass, and what is touched is seldom in the
// processor's cache.
type entry struct {
	record []byte // in a row
	size   int
	since  time.Time // Append
	done   func(uint64, error)
	dedupe string
	again  bool // it was sent a second time, and msg.Data is its own

	msg         natsgo.Msg // not in a row
	topic, meta [1]string  // of msg.Header
}

// landing is who is to be told what.
type landing struct {
	done func(uint64, error)
	seq  uint64
	err  error
	e    *entry // which is free then, or nil
}

func newPublisher(f *Fabric) (*publisher, error) {
	p := &publisher{f: f, inbox: natsgo.NewInbox() + ".", lanes: map[string]*lane{}, flying: map[uint64]*flight{}, over: make(chan struct{})}
	switch {
	case f.server == nil:
	case f.o.Durability == Disk:
		p.manner = together
	default:
		p.manner = inRow
	}
	p.room.L, p.todo.L = &p.mu, &p.mu
	var err error
	if p.acks, err = f.nc.Subscribe(p.inbox+"*", p.acked); err != nil {
		return nil, f.failed(err, "listening for acknowledgements")
	}
	if err := p.acks.SetPendingLimits(-1, -1); err != nil { // as many as there are entries
		return nil, err
	}
	go p.finish()
	return p, nil
}

// Append stores m, as message.Fabric says.
func (f *Fabric) Append(m *message.Message, dedupe string, done func(seq uint64, err error)) {
	inRow := m.Stream == message.Up && f.rows
	var subject string
	var err error
	if !inRow || !fitsToken(m.Key) { // a row has a subject of its own
		subject, err = f.name.subject(m.Stream, m.Key)
	}
	if err == nil && f.diskFull.Load() {
		err = f.errDisk()
	}
	if err != nil {
		f.out.refuse(done, err)
		return
	}
	e := newEntry()
	e.dedupe, e.done = dedupe, done
	if inRow {
		e.record = appendRecord(e.record, m)
		e.size = len(e.record) + len(dedupe) + 32
		f.out.add(laneRows, e)
		return
	}
	if m.Stream == message.Up && f.rowsEnd.seq > 0 {
		e.done = func(seq uint64, err error) { done(f.single(seq), err) }
	}
	e.msg.Subject, e.msg.Data, e.topic[0], e.meta[0] = subject, m.Payload, encodeTopic(m.Topic), encodeMeta(m, false)
	e.size = len(subject) + len(e.topic[0]) + len(e.meta[0]) + len(m.Payload) + len(dedupe) + 128
	if dedupe != "" {
		e.msg.Header[jetstream.MsgIDHeader] = []string{encodeTopic(dedupe)}
	}
	line := subject
	if f.out.manner != single {
		line, _ = part(m.Stream)
	}
	f.out.add(line, e)
}

// number has what devices publish stored in rows behind an entry, from behind a place.
func (p *publisher) number(seq, place uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rows = &lane{name: laneRows, rows: true, last: seq, place: place}
	p.lanes[laneRows] = p.rows
}

// rowsEnd is the last entry in rows, and the last place in it.
func (p *publisher) rowsEnd() (seq, place uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rows.last, p.rows.place
}

// laneRows is the lane of Up in rows.
const laneRows = "up"

// keptRecord is how much memory of a record an entry keeps for the next.
const keptRecord = 1 << 10

// entries are used again: each is some allocations.
var entries = sync.Pool{New: func() any {
	e := &entry{}
	e.msg.Header = natsgo.Header{headerTopic: e.topic[:], headerMeta: e.meta[:]}
	return e
}}

func newEntry() *entry { return entries.Get().(*entry) }

// free gives e back when nobody has it any more. One that was sent again may still be being sent.
func (e *entry) free() {
	if e.again {
		return
	}
	if len(e.record) > 0 {
		if e.record = e.record[:0]; cap(e.record) > keptRecord {
			e.record = nil
		}
		e.size, e.since, e.done, e.dedupe = 0, time.Time{}, nil, ""
		entries.Put(e)
		return
	}
	if len(e.msg.Header) > 2 {
		for name := range e.msg.Header {
			if name != headerTopic && name != headerMeta {
				delete(e.msg.Header, name)
			}
		}
	}
	header, record := e.msg.Header, e.record
	*e = entry{}
	e.msg.Header, e.record = header, record
	entries.Put(e)
}

// refuse has done called by another goroutine.
func (p *publisher) refuse(done func(uint64, error), err error) {
	p.mu.Lock()
	p.later(landing{done: done, err: err})
	p.mu.Unlock()
}

func (p *publisher) later(l landing) {
	select {
	case <-p.over:
		go l.done(l.seq, l.err)
	default:
		if p.landed = append(p.landed, l); len(p.landed) == 1 {
			p.todo.Signal()
		}
	}
}

func (p *publisher) add(name string, e *entry) {
	now := p.f.o.Now()
	p.mu.Lock()
	for (p.count >= maxPending || p.octets >= maxPendingBytes) && !p.ended {
		p.room.Wait()
	}
	if p.ended {
		p.later(landing{done: e.done, err: errClosed()})
		p.mu.Unlock()
		return
	}
	p.count++
	p.octets += e.size
	e.since = now
	l := p.rows
	if l == nil || name != laneRows {
		l = p.lane(name)
	}
	l.queue = append(l.queue, e)
	var fl *flight
	if !l.busy && (!l.set || l.complete(len(l.queue))) {
		fl = p.board(l, now)
	}
	p.mu.Unlock()
	p.send(fl)
}

// lane returns that of a name. mu is held.
func (p *publisher) lane(name string) *lane {
	l := p.lanes[name]
	if l == nil {
		l = &lane{name: name}
		p.lanes[name] = l
	}
	return l
}

func errClosed() error { return errs.New(errs.Unavailable, "the store of messages is closed") }

// board makes a flight of the first in l's queue, or has that done in a moment. A lane of a key where nobody waits any more is given up. It returns nil when
// nobody goes now. mu is held.
func (p *publisher) board(l *lane, now time.Time) *flight {
	if len(l.queue) == 0 {
		if p.manner == single {
			delete(p.lanes, l.name)
		}
		return nil
	}
	n := p.fits(l)
	if wait := p.patience(l, n, now); wait > 0 {
		p.wake(l, wait)
		return nil
	}
	l.set = false
	p.token++
	fl := &flight{lane: l, token: p.token, entries: l.queue[:n:n], first: now, sent: now, sending: true}
	if n < len(l.queue) {
		l.queue = l.queue[n:]
	} else {
		l.queue, l.spare = l.spare, nil
	}
	l.busy, l.since = true, now
	if l.below++; n >= l.peak || l.below > lately {
		l.peak, l.below = n, 0
	}
	p.flying[fl.token] = fl
	reply := p.inbox + strconv.FormatUint(fl.token, 36)
	if l.rows {
		fl.pack(p.f.name.rows(), reply)
		return fl
	}
	fl.entries[n-1].msg.Reply = reply
	switch {
	case n == 1:
	case p.manner == together:
		fl.number(natsgo.NewInbox()[len(natsgo.InboxPrefix):])
	case p.manner == inRow:
		fl.entries[0].msg.Reply = p.inbox + headMark + strconv.FormatUint(fl.token, 36)
	}
	return fl
}

// pack makes a flight one entry. mu is held.
func (fl *flight) pack(subject, reply string) {
	l := fl.lane
	fl.after, fl.place = l.last, l.place+1
	l.row = appendRow(l.row[:0], fl.place, fl.entries)
	fl.row = natsgo.Msg{Subject: subject, Reply: reply, Data: l.row, Header: natsgo.Header{jetstream.ExpectedLastSeqHeader: {strconv.FormatUint(fl.after, 10)}}}
	if id := fl.entries[0].dedupe; id != "" {
		fl.row.Header[jetstream.MsgIDHeader] = []string{encodeTopic(id)}
	}
	if cap(l.row) > 2*rowOctets {
		l.row = nil
	}
}

// headMark stands before the token in the subject to which the first message of a row is acknowledged.
const headMark = "-"

// fits is how many of l's queue go together.
func (p *publisher) fits(l *lane) int {
	if p.manner == single || p.manner == inRow && l.last == 0 && !l.rows {
		return 1
	}
	if l.alone > 0 {
		l.alone--
		return 1
	}
	mostOctets := flightOctets
	if l.rows {
		mostOctets = rowOctets
	}
	octets := 0
	for n, e := range l.queue {
		octets += e.size
		// An atomic batch would be refused as a whole for a message that was stored before, and so would a row.
		apart := e.size > largeEntry || e.dedupe != "" && (l.rows || p.manner == together)
		switch {
		case n > 0 && (apart || octets > mostOctets || n == l.most()):
			return n
		case apart:
			return 1
		}
	}
	return len(l.queue)
}

// most is how many messages go together at the most.
func (l *lane) most() int {
	if l.rows {
		return rowMessages
	}
	return flightMessages
}

// number makes the entries a batch.
func (fl *flight) number(id string) {
	for i, e := range fl.entries {
		e.msg.Header[headerBatch] = []string{id}
		e.msg.Header[headerBatchPlace] = []string{strconv.Itoa(i + 1)}
	}
	fl.entries[len(fl.entries)-1].msg.Header[headerBatchEnd] = []string{"1"}
}

// The headers of atomic batches (nats-server, stream.go).
const (
	headerBatch      = "Nats-Batch-Id"
	headerBatchPlace = "Nats-Batch-Sequence"
	headerBatchEnd   = "Nats-Batch-Commit"
)

// send is the first sending. What cannot leave now is sent by sweep or resume.
func (p *publisher) send(fl *flight) {
	if fl == nil {
		return
	}
	token := fl.token
	err := p.publish(fl)
	if err == nil {
		p.mu.Lock()
		fl.sending = false
		p.mu.Unlock()
		return
	}
	p.mu.Lock()
	fl.sending, fl.sent = false, time.Time{}
	p.mu.Unlock()
	if !passing(err) {
		p.settle(token, answer{err: p.f.failed(err, "storing a message")})
	}
}

func (p *publisher) publish(fl *flight) error {
	if fl.lane.rows {
		return p.f.nc.PublishMsg(&fl.row)
	}
	for _, e := range fl.entries {
		if err := p.f.nc.PublishMsg(&e.msg); err != nil {
			return err
		}
	}
	return nil
}

// acked is told what JetStream says to a message.
func (p *publisher) acked(msg *natsgo.Msg) {
	digits, head := strings.CutPrefix(msg.Subject[strings.LastIndexByte(msg.Subject, '.')+1:], headMark)
	token, err := strconv.ParseUint(digits, 36, 64)
	if err != nil {
		return
	}
	if head {
		p.begun(token, msg.Data)
		return
	}
	if len(msg.Data) == 0 { // nobody is there who stores it, such as between two leaders
		p.postpone(token)
		return
	}
	a := parseAck(msg.Data)
	if a.err != nil && passing(a.err) {
		p.postpone(token)
		return
	}
	if a.err != nil {
		a.err = p.f.failed(a.err, "storing a message")
	}
	p.settle(token, a)
}

// begun is told what JetStream says to the first message of a row. It comes before what it says to the last.
func (p *publisher) begun(token uint64, data []byte) {
	a := parseAck(data)
	p.mu.Lock()
	defer p.mu.Unlock()
	if fl := p.flying[token]; fl != nil && a.err == nil && !a.old {
		fl.head = a.seq
	}
}

// parseAck reads an acknowledgement of JetStream.
func parseAck(data []byte) answer {
	if seq, ok := quickAck(data); ok {
		return answer{seq: seq}
	}
	var ack struct {
		Seq       uint64              `json:"seq"`
		Duplicate bool                `json:"duplicate"`
		Error     *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(data, &ack); err != nil {
		return answer{err: errs.Wrap(errs.Unavailable, err, "NATS answers what is no acknowledgement")}
	}
	if ack.Error != nil {
		return answer{err: ack.Error}
	}
	if ack.Seq == 0 {
		return answer{err: errs.New(errs.Unavailable, "NATS answers what is no acknowledgement")}
	}
	return answer{seq: ack.Seq, old: ack.Duplicate}
}

// quickAck reads {"stream":"X","seq":N}, as the server writes it; other forms, such as that of a message that was stored before, are left to the JSON decoder.
func quickAck(data []byte) (uint64, bool) {
	const begin, middle = `{"stream":"`, `","seq":`
	rest, ok := bytes.CutPrefix(data, []byte(begin))
	if !ok {
		return 0, false
	}
	i := bytes.IndexByte(rest, '"')
	if i < 0 {
		return 0, false
	}
	rest, ok = bytes.CutPrefix(rest[i:], []byte(middle))
	if !ok {
		return 0, false
	}
	var n uint64
	for i, c := range rest {
		if c < '0' || c > '9' {
			return n, i > 0 && n > 0 && c == '}'
		}
		if n > (1<<63)/10 {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return 0, false
}

// postpone has a flight sent again soon.
func (p *publisher) postpone(token uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if fl := p.flying[token]; fl != nil {
		fl.sent = time.Time{}
	}
}

// settle ends one flight, to whose last message JetStream has said a, and lets the next of its lane leave.
func (p *publisher) settle(token uint64, a answer) {
	now := p.f.o.Now()
	p.mu.Lock()
	fl := p.flying[token]
	if fl == nil || fl.proving { // it was sent twice, and this is the second answer
		p.mu.Unlock()
		return
	}
	if fl.resending {
		if fl.held == nil {
			fl.held = &a
		}
		p.mu.Unlock()
		return
	}
	if fl.lane.rows && (a.old || errs.Is(a.err, errs.Conflict)) {
		fl.proving = true
		p.mu.Unlock()
		go p.locate(fl, a)
		return
	}
	if p.manner == inRow && !fl.lane.rows && len(fl.entries) > 1 && !fl.whole(a) {
		fl.proving = true
		p.mu.Unlock()
		go p.prove(fl)
		return
	}
	delete(p.flying, token)
	if a.err != nil && len(fl.entries) > 1 {
		fl.lane.back(fl.entries)
	} else {
		p.land(fl, a)
	}
	fl.lane.busy, fl.lane.all = false, len(fl.lane.queue) == 0
	next := p.board(fl.lane, now)
	p.mu.Unlock()
	p.send(next)
}

// whole reports whether the answer to the last message of a row shows that all of it is stored: with the place of the first, which lies next to what was there
// before. The last place before alone would not do: were it too low by some messages, as many could be refused.
func (fl *flight) whole(a answer) bool {
	return a.err == nil && !a.old && fl.head == fl.lane.last+1 && a.seq == fl.lane.last+uint64(len(fl.entries))
}

// back puts messages of a flight that was refused back, to go one by one: one of them may be too large, or there is room for some.
func (l *lane) back(list []*entry) {
	for _, e := range list {
		e.msg.Reply = ""
		delete(e.msg.Header, headerBatch)
		delete(e.msg.Header, headerBatchPlace)
		delete(e.msg.Header, headerBatchEnd)
	}
	l.queue = append(list, l.queue...)
	l.alone = len(list)
}

// land has the callers of a flight told. mu is held.
func (p *publisher) land(fl *flight, a answer) {
	if fl.lane.rows {
		p.landRow(fl, a)
		return
	}
	if a.err == nil && !a.old { // the place of what was stored before says nothing of how far the stream is
		fl.lane.last = a.seq
	}
	for i, e := range fl.entries {
		if e.again {
			fl.lane.last = 0 // its other copy may be stored behind it; the next one goes alone, behind both
		}
		place := uint64(0)
		if a.err == nil {
			place = a.seq - uint64(len(fl.entries)-1-i) // nothing of others is between them
		}
		p.leave(e, place, a.err)
	}
}

// leave gives back the room of e and has its caller told. mu is held.
func (p *publisher) leave(e *entry, seq uint64, err error) {
	p.count--
	p.octets -= e.size
	p.room.Signal()
	p.later(landing{e.done, seq, err, e})
}

// sweep sends again what was not acknowledged in time, and refuses what was not for too long. The embedded server loses nothing: where it is slow, sending
// again would only make it slower.
func (p *publisher) sweep() {
	now := p.f.o.Now()
	p.late(now)
	p.again(func(fl *flight) bool { return fl.sent.IsZero() || p.f.server == nil && now.Sub(fl.sent) >= sendAgain })
}

// resume sends again all that was on its way when the connection broke.
func (p *publisher) resume() { p.again(func(*flight) bool { return true }) }

func (p *publisher) again(due func(*flight) bool) {
	var send, prove []*flight
	now := p.f.o.Now()
	p.mu.Lock()
	for _, fl := range p.flying {
		switch {
		case fl.proving || fl.resending || !due(fl):
		case fl.sending:
			fl.sent = time.Time{} // it may be lost in part; sweep looks after it
		case p.manner == inRow && !fl.lane.rows && len(fl.entries) > 1:
			fl.proving = true
			prove = append(prove, fl)
		default:
			fl.own()
			fl.sent, fl.resending = now, true
			send = append(send, fl)
		}
	}
	p.mu.Unlock()
	for _, fl := range prove {
		go p.prove(fl)
	}
	var err error
	for _, fl := range send {
		if err == nil {
			err = p.publish(fl) // an error means that there is no connection: resume, when there is one
		}
		p.resent(fl)
	}
}

// resent has a flight end to which JetStream has answered while it was sent again.
func (p *publisher) resent(fl *flight) {
	p.mu.Lock()
	held := fl.held
	fl.resending, fl.held = false, nil
	p.mu.Unlock()
	if held != nil {
		p.settle(fl.token, *held)
	}
}

// own copies the payloads: while they are sent a second time, the first may be acknowledged, and then the callers have them back.
func (fl *flight) own() {
	if fl.lane.rows {
		fl.row.Data = bytes.Clone(fl.row.Data)
		return
	}
	for _, e := range fl.entries {
		if !e.again {
			e.msg.Data, e.again = bytes.Clone(e.msg.Data), true
		}
	}
}

// late refuses what was on its way for too long, and what waits behind it: all of it where a lane is one key, since who is told so sends all again, and what was
// stored meanwhile would be before what was not; else what is as old.
func (p *publisher) late(now time.Time) {
	err := errs.New(errs.Unavailable, "the message was not stored within %v: NATS does not acknowledge it", giveUp)
	var next []*flight
	p.mu.Lock()
	for token, fl := range p.flying {
		if fl.sending || fl.resending || fl.proving || now.Sub(fl.first) < giveUp {
			continue
		}
		delete(p.flying, token)
		l := fl.lane
		l.busy = false
		if !l.rows {
			l.last = 0 // it may yet be stored
		}
		p.land(fl, answer{err: err})
		for len(l.queue) > 0 && (p.manner == single || now.Sub(l.queue[0].since) >= giveUp) {
			p.leave(l.queue[0], 0, err)
			l.queue = l.queue[1:]
		}
		next = append(next, p.board(l, now))
	}
	p.mu.Unlock()
	for _, fl := range next {
		p.send(fl)
	}
}

// finish calls the callers back, in order, until end.
func (p *publisher) finish() {
	for {
		p.mu.Lock()
		for len(p.landed) == 0 && !p.ended {
			p.todo.Wait()
		}
		calls := p.landed
		p.landed, p.spare = p.spare[:0], nil
		if len(calls) == 0 {
			close(p.over)
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
		for i := range calls {
			calls[i].done(calls[i].seq, calls[i].err)
			if calls[i].e != nil {
				calls[i].e.free()
			}
			calls[i] = landing{}
		}
		p.spare = calls // of this goroutine alone, between two turns
	}
}

// drain waits until nothing is on its way.
func (p *publisher) drain(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		p.mu.Lock()
		n := p.count
		p.mu.Unlock()
		if n == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return errs.New(errs.Unavailable, "closing the store of messages: %d messages were not acknowledged in time and are refused", n)
		case <-tick.C:
			p.sweep()
		}
	}
}

// end refuses what is still on its way and waits until everybody was told.
func (p *publisher) end() {
	p.mu.Lock()
	p.ended = true
	for _, fl := range p.flying {
		p.land(fl, answer{err: errClosed()})
	}
	for _, l := range p.lanes {
		for _, e := range l.queue {
			p.leave(e, 0, errClosed())
		}
		l.queue = nil
	}
	clear(p.lanes)
	clear(p.flying)
	p.room.Broadcast()
	p.todo.Signal()
	p.mu.Unlock()
	<-p.over
}
