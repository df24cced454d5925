package mqtt

import (
	"errors"
	"time"

	"mooring/wire/mqtt"
)

// input holds what was read and is not handled yet. It is small, since each idle connection has one: a packet that does not fit gets memory of its own.
type input struct {
	buffer   [192]byte
	from, to int // what is in it
}

// firstChunk is the memory that a large packet gets at first; it grows as the packet arrives, whatever its header claims.
const firstChunk = 4096

// next reads a packet. The body is valid until the next call, but that of a PUBLISH is the caller's.
func (in *input) next(c *conn, r mqtt.Rules) (h mqtt.Header, body []byte, err error) {
	h, err = in.header(c)
	if err != nil {
		return h, nil, err
	}
	if err := h.Check(r); err != nil {
		return h, nil, err
	}
	body, err = in.body(c, h)
	return h, body, err
}

func (in *input) header(c *conn) (mqtt.Header, error) {
	for {
		h, n, err := mqtt.ParseHeader(in.buffer[in.from:in.to])
		if err == nil {
			in.from += n
			return h, nil
		}
		if !errors.Is(err, mqtt.ErrMore) {
			return h, err
		}
		in.to = copy(in.buffer[:], in.buffer[in.from:in.to])
		in.from = 0
		n, err = c.out.Read(in.buffer[in.to:])
		in.to += n
		if n == 0 && err != nil {
			return h, err
		}
	}
}

// body returns the body of a packet whose header was read.
func (in *input) body(c *conn, h mqtt.Header) ([]byte, error) {
	if have := in.buffer[in.from:in.to]; len(have) >= h.Length {
		in.from += h.Length
		if h.Type == mqtt.PUBLISH {
			return append([]byte(nil), have[:h.Length]...), nil
		}
		return have[:h.Length:h.Length], nil
	}
	body := make([]byte, in.to-in.from, min(h.Length, max(firstChunk, len(in.buffer))))
	copy(body, in.buffer[in.from:in.to])
	in.from, in.to = 0, 0
	progress := c.progress()
	for len(body) < h.Length {
		if len(body) == cap(body) {
			grown := make([]byte, len(body), min(h.Length, 2*cap(body)))
			copy(grown, body)
			body = grown
		}
		n, err := c.out.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		if n == 0 && err != nil {
			return nil, err
		}
		progress.came(n)
	}
	return body, nil
}

// progress sees to it that the rest of a packet comes fast enough: minRate in each second, after some time.
type progress struct {
	c     *conn
	began time.Time
	got   int // octets
	paid  int // of them, octets for which there was more time
}

func (c *conn) progress() progress {
	if wait(c.waiting.Load()) != waitConnect { // which has one limit for all of it
		c.await(waitRest, c.server.times.progress)
	}
	return progress{c: c, began: c.server.deps.Now()}
}

// came counts octets that have come.
func (p *progress) came(n int) {
	p.got += n
	if p.got-p.paid < minRate || wait(p.c.waiting.Load()) == waitConnect {
		return
	}
	p.paid = p.got
	due := p.c.server.times.progress + time.Duration(p.got/minRate)*time.Second
	p.c.await(waitRest, max(due-p.c.server.deps.Now().Sub(p.began), 0))
}
