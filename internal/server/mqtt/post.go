package mqtt

import (
	"runtime"
	"sync"
)

// post has what waits for many connections written by few goroutines: what is stored together is acknowledged to many at once, and a goroutine for each of them
// costs a third as much again as the writing. A postman waits for nobody: what a peer does not take at once is left to a goroutine of its own, and so is what is large.
type post struct {
	mu      sync.Mutex
	waiting []*conn // guarded by mu; each has a writer, which is the post
	postmen int     // guarded by mu
}

// round is how many connections a postman goes to before he looks what else there is, and for how many another one is sent, if there are processors for both.
const round = 32

// post has what waits for c written.
func (s *Server) post(c *conn) {
	p := &s.mail
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting = append(p.waiting, c)
	if p.postmen == 0 || len(p.waiting) > round*p.postmen && p.postmen < runtime.GOMAXPROCS(0) {
		p.postmen++
		go s.carry()
	}
}

// carry is a postman's day: until nothing waits.
func (s *Server) carry() {
	buffer := s.buffer()
	defer s.giveBack(buffer)
	var list [round]*conn
	for {
		n := s.mail.collect(list[:])
		if n == 0 {
			return
		}
		for i, c := range list[:n] {
			c.push(buffer)
			list[i] = nil
		}
	}
}

// collect takes what waits first. With nothing it counts the postman out.
func (p *post) collect(list []*conn) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := copy(list, p.waiting)
	switch {
	case n == 0:
		p.postmen--
	case n == len(p.waiting):
		clear(p.waiting)
		p.waiting = p.waiting[:0]
	default:
		clear(p.waiting[:n])
		p.waiting = p.waiting[n:]
	}
	return n
}

// push is write by a postman: one batch.
func (c *conn) push(buffer *[]byte) {
	defer c.survive()
	batch, more := c.take(0, 0)
	if !more {
		return
	}
	if batch == nil {
		go c.out.End(c.server.times.linger)
		return
	}
	octets, answers := measure(batch)
	if octets > chunk {
		go c.write(batch)
		return
	}
	*buffer = c.pack((*buffer)[:0], batch)
	all := true
	if len(*buffer) > 0 {
		var err error
		if all, err = c.stream.Push(*buffer); err != nil {
			c.unwritten()
			return
		}
	}
	switch {
	case !all:
		go c.flush(octets, answers)
	case c.pushed(octets, answers):
		c.server.post(c)
	}
}

// pushed counts what does not wait any more, and reports whether there is more to do.
func (c *conn) pushed(octets, answers int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.box.octets -= octets
	c.box.answers -= answers
	c.wake()
	c.box.busy = false
	if len(c.box.items) > 0 || c.box.ending {
		return true
	}
	c.box.slow.off()
	c.box.writing = false
	return false
}

// flush waits until the peer has taken what was pushed, and goes on.
func (c *conn) flush(octets, answers int) {
	defer c.survive()
	if c.stream.Flush() != nil {
		c.unwritten()
		return
	}
	if c.pushed(octets, answers) {
		c.write(nil)
	}
}
