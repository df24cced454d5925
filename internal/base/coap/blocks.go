package coap

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	wire "mooring/wire/coap"
)

// optionOverhead is room for the header, the token and the options of an answer beside a block.
const optionOverhead = 80

// upload is a request body that is being put together.
type upload struct {
	wire.Assembly
	at    time.Time // of the last block
	taken int       // octets of the server's memory
}

// kept is an answer of which a client has had the first block.
type kept struct {
	key, loose string
	at         time.Time
	out        Response
	etag       []byte
	ended      chan struct{} // closed when the client has had the last block, or it was forgotten before
	whole      bool          // once ended is closed: the former
}

// end says that nobody need wait for the client to fetch the rest. The caller holds the association's mu.
func (k *kept) end(whole bool) {
	select {
	case <-k.ended:
	default:
		k.whole = whole
		close(k.ended)
	}
}

// transfer is what a request says about blocks.
type transfer struct {
	body []byte
	sent *wire.Block // Block1 of the answer; nil: none
	ask  *wire.Block // Block2 of the request; nil: none
}

// szx is the largest block that is sent or asked for.
func (a *association) szx() uint8 { return wire.SZXFor(a.conn.Payload() - optionOverhead) }

// known are the options that are understood: how long they may be, and whether they may come more than once (RFC 7252, section 5.4.5). Others that are
// critical are refused.
func known(n wire.Number) (least, most int, repeatable, ok bool) {
	switch n {
	case wire.URIHost:
		return 1, 255, false, true
	case wire.ETag:
		return 1, 8, true, true
	case wire.Observe, wire.Block1, wire.Block2:
		return 0, 3, false, true
	case wire.URIPort, wire.ContentFormat, wire.Accept:
		return 0, 2, false, true
	case wire.URIPath, wire.URIQuery:
		return 0, 255, true, true
	case wire.MaxAge, wire.Size1, wire.Size2:
		return 0, 4, false, true
	case wire.Echo:
		return 1, 40, false, true
	case wire.NoResponse:
		return 0, 1, false, true
	case wire.RequestTag:
		return 0, 8, true, true
	}
	return 0, 0, false, false
}

// badOption looks for an option that makes the request one that must not be acted upon (RFC 7252, sections 5.4.1, 5.4.3, 5.4.5 and 5.7.2).
func badOption(options wire.Options) (Response, bool) {
	var last wire.Number
	for i, o := range options {
		least, most, repeatable, ok := known(o.Number)
		again := i > 0 && o.Number == last
		last = o.Number
		if ok && len(o.Value) >= least && len(o.Value) <= most && (repeatable || !again) || !o.Number.Critical() {
			continue
		}
		if o.Number == wire.ProxyURI || o.Number == wire.ProxyScheme {
			return RefuseAs(wire.ProxyingUnsupported, "this is no proxy"), true
		}
		return RefuseAs(wire.BadOption, fmt.Sprintf("the option %d is critical and not understood here as it stands", o.Number)), true
	}
	return Response{}, false
}

// receiveBody adds what a request carries to its body. done is the answer when the handler is not to be asked: the body is not complete, what is asked for
// is the rest of an answer that was given, or something is wrong.
func (a *association) receiveBody(m *wire.Message, limit int) (t transfer, done *wire.Message) {
	if value, ok := m.Options.Get(wire.Block2); ok {
		ask, err := wire.ParseBlock(value)
		if err != nil {
			return t, compose(RefuseAs(wire.BadRequest, err.Error()), nil, nil)
		}
		t.ask = &ask
	}
	value, blocks := m.Options.Get(wire.Block1)
	if t.ask != nil && t.ask.Num > 0 && !blocks {
		if done := a.continued(m, *t.ask); done != nil {
			return t, done
		}
		if !a.conn.Allow() { // it begins something after all
			return t, a.tooMany()
		}
	}
	if size, ok := m.Options.Uint(wire.Size1); (ok && int64(size) > int64(limit)) || len(m.Payload) > limit {
		a.mu.Lock()
		a.dropUpload(wire.OperationKey(m))
		a.mu.Unlock()
		return t, a.tooLarge(nil, limit)
	}
	if !blocks {
		t.body = m.Payload
		return t, nil
	}
	b, err := wire.ParseBlock(value)
	if err != nil {
		return t, compose(RefuseAs(wire.BadRequest, err.Error()), nil, nil)
	}
	body, out := a.add(m, b, limit)
	if out != nil {
		return t, out
	}
	t.body, t.sent = body, &wire.Block{Num: b.Num, SZX: b.SZX}
	return t, nil
}

// tooLarge says how large a body may be (RFC 7959, section 2.9.3), and for a block that smaller ones would not help.
func (a *association) tooLarge(b *wire.Block, limit int) *wire.Message {
	a.limited[overSize].Add(1)
	out := RefuseAs(wire.EntityTooLarge, fmt.Sprintf("the body may have %d octets", limit))
	out.size1 = limit
	return compose(out, b, nil)
}

// add takes a block of a request's body. It returns the body when that is complete, and else the answer.
func (a *association) add(m *wire.Message, b wire.Block, limit int) (body []byte, out *wire.Message) {
	key, now := wire.OperationKey(m), a.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	u := a.uploads[key]
	if u == nil {
		if len(a.uploads) >= maxUploads && b.Num == 0 && b.More {
			a.limited[overTransfers].Add(1)
			out := RefuseAs(wire.ServiceUnavailable, "too many transfers at once over this association")
			out.MaxAge = a.Again
			return nil, compose(out, &b, nil)
		}
		u = &upload{}
		a.uploads[key] = u
		a.tidy()
	}
	u.at = now
	if err := u.Add(b, m.Payload, limit); err != nil {
		a.dropUpload(key)
		switch {
		case errors.Is(err, wire.ErrIncomplete):
			return nil, compose(RefuseAs(wire.EntityIncomplete, err.Error()), &b, nil)
		case errors.Is(err, wire.ErrTooLarge):
			return nil, a.tooLarge(&b, limit)
		}
		return nil, compose(RefuseAs(wire.BadRequest, err.Error()), &b, nil)
	}
	if !a.account(u) {
		a.dropUpload(key)
		a.limited[overMemory].Add(1)
		out := RefuseAs(wire.ServiceUnavailable, "too many transfers at once")
		out.MaxAge = a.Again
		return nil, compose(out, &b, nil)
	}
	if b.More {
		b.SZX = min(b.SZX, a.szx())
		return nil, compose(Response{Code: wire.Continue}, &b, nil)
	}
	body = bytes.Clone(u.Body())
	a.dropUpload(key)
	return body, nil
}

// account has the server's memory follow the size of an upload. The caller holds mu.
func (a *association) account(u *upload) bool {
	if more := u.Len() - u.taken; more < 0 {
		a.give(-more)
	} else if !a.take(more) {
		return false
	}
	u.taken = u.Len()
	return true
}

// dropUpload forgets an upload. The caller holds mu.
func (a *association) dropUpload(key string) {
	if u := a.uploads[key]; u != nil {
		a.give(u.taken)
		u.Reset()
		delete(a.uploads, key)
	}
}

// dropKept forgets an answer; it may hold a key that was made for the client. The caller holds mu.
func (a *association) dropKept(i int) {
	a.kept[i].end(false)
	a.give(len(a.kept[i].out.Body))
	clear(a.kept[i].out.Body)
	a.kept = append(a.kept[:i:i], a.kept[i+1:]...)
}

// continued answers a request for the rest of an answer; nil: it is to be asked for anew, which is harmless for GET alone. Whoever asks need not send again
// what describes the body of the request.
func (a *association) continued(m *wire.Message, ask wire.Block) *wire.Message {
	key, loose, now := wire.OperationKey(m), wire.LooseKey(m), a.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	var found *kept
	for _, k := range a.kept { // the newest last
		if k.key == key || k.loose == loose && (found == nil || found.key != key) {
			found = k
		}
	}
	if found == nil {
		if m.Code == wire.GET {
			return nil
		}
		return compose(RefuseAs(wire.EntityIncomplete, "the answer is not kept any more; send the request again from its first block"), nil, nil)
	}
	found.at = now
	if ask.Offset()+ask.Size() >= len(found.out.Body) {
		found.end(true)
	}
	return slice(found.out, found.etag, transfer{ask: &ask}, ask)
}

// tidy has what is not fetched or not finished forgotten in time, even when the client is not heard any more. The caller holds mu.
func (a *association) tidy() {
	if a.tidying {
		return
	}
	a.tidying = true
	time.AfterFunc(transferLife+time.Second, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.tidying = false
		a.purge(a.Now())
		if len(a.uploads)+len(a.kept) > 0 {
			a.tidy()
		}
	})
}

// cut makes the first part of an answer, and keeps the answer if there is more of it.
func (a *association) cut(m *wire.Message, t transfer, out Response) *wire.Message {
	if !out.Until.IsZero() {
		out.MaxAge = max(out.Until.Sub(a.Now()), 1)
	}
	if out.Code.Class() != 2 || len(out.Body) == 0 {
		return compose(out, t.sent, nil)
	}
	ask := wire.Block{SZX: a.szx()}
	if t.ask != nil {
		ask.Num, ask.SZX = t.ask.Num, min(t.ask.SZX, ask.SZX)
		if ask.SZX != t.ask.SZX && ask.Num > 0 { // the same place in smaller units
			ask.Num <<= t.ask.SZX - ask.SZX
		}
	}
	sum := sha256.Sum256(out.Body)
	etag := sum[:8]
	if m.Code == wire.GET {
		for _, o := range m.Options {
			if o.Number == wire.ETag && bytes.Equal(o.Value, etag) {
				return compose(Response{Code: wire.Valid, MaxAge: out.MaxAge}, nil, etag)
			}
		}
	}
	if len(out.Body) <= ask.Size() && t.ask == nil {
		if m.Code != wire.GET {
			etag = nil // nothing follows that would have to belong to it
		}
		return compose(out, t.sent, etag)
	}
	if len(out.Body) > ask.Size() && !a.keep(m, out, etag) {
		a.limited[overMemory].Add(1)
		busy := RefuseAs(wire.ServiceUnavailable, "too many transfers at once")
		busy.MaxAge = a.Again
		return compose(busy, t.sent, nil)
	}
	return slice(out, etag, t, ask)
}

// keep keeps an answer for the requests to come, in the place of an older one if need be.
func (a *association) keep(m *wire.Message, out Response, etag []byte) bool {
	key := wire.OperationKey(m)
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := 0; i < len(a.kept); i++ {
		if a.kept[i].key == key {
			a.dropKept(i)
			break
		}
	}
	if len(a.kept) >= maxKept {
		a.dropKept(0)
	}
	if !a.take(len(out.Body)) {
		return false
	}
	out.Body = bytes.Clone(out.Body) // it is wiped when it is forgotten, and others may have the same
	a.kept = append(a.kept, &kept{key: key, loose: wire.LooseKey(m), at: a.Now(), out: out, etag: etag, ended: make(chan struct{})})
	a.tidy()
	return true
}

// slice makes the message that carries one block of an answer. Each block has the ETag, so that blocks of different answers are not mixed (RFC 9175,
// section 3.8).
func slice(out Response, etag []byte, t transfer, ask wire.Block) *wire.Message {
	part, b, ok := wire.Cut(out.Body, ask)
	if !ok {
		return compose(RefuseAs(wire.BadRequest, "the answer ends before this block"), t.sent, nil)
	}
	whole := len(out.Body)
	out.Body = bytes.Clone(part) // what is kept may be wiped before this is sent
	m := compose(out, t.sent, etag)
	m.Options = append(m.Options, wire.Option{Number: wire.Block2, Value: b.Value()})
	if b.Num == 0 && b.More {
		m.Options = append(m.Options, wire.UintOption(wire.Size2, uint32(whole)))
	}
	return m
}

// compose makes a message of an answer.
func compose(out Response, sent *wire.Block, etag []byte) *wire.Message {
	if out.Code == wire.Empty {
		out.Code = wire.InternalServerError
	}
	m := &wire.Message{Code: out.Code, Payload: out.Body}
	if etag != nil {
		m.Options = append(m.Options, wire.Option{Number: wire.ETag, Value: etag})
	}
	m.Options = append(m.Options, out.Options...)
	if out.Code.Class() == 2 && len(out.Body) > 0 && out.Format != NoFormat {
		m.Options = append(m.Options, wire.UintOption(wire.ContentFormat, uint32(out.Format)))
	}
	if out.MaxAge > 0 {
		m.Options = append(m.Options, wire.UintOption(wire.MaxAge, uint32((out.MaxAge+time.Second-1)/time.Second)))
	}
	if sent != nil {
		m.Options = append(m.Options, wire.Option{Number: wire.Block1, Value: sent.Value()})
	}
	if out.size1 > 0 {
		m.Options = append(m.Options, wire.UintOption(wire.Size1, uint32(out.size1)))
	}
	return m
}
