package gate

import (
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// poll tells the readers of streams that something has come. Go's own poller does that too, but it wakes up for each message of each client, and does not say
// whether a client has gone, so that each message is read for twice, the second time in vain. Where messages come one upon the other, that was a third of
// what the server spent on them. This one looks again after a moment when that is so, and finds many at once.
type poll struct {
	now func() time.Time
	all int             // the epoll of all streams
	one *os.File        // an epoll of all alone, in Go's poller: it says once that there is something, and then nothing until it is armed again
	raw syscall.RawConn // of one

	mu    sync.Mutex
	open  map[uint64]*polled // guarded by mu
	last  uint64             // guarded by mu
	ended bool               // guarded by mu
}

// While clients come one upon the other, poll looks each gap, and when many came together lately, a gap after the next one. Who comes alone, or first after a pause,
// is not waited with.
const (
	gap    = time.Millisecond
	many   = 4
	lately = 20 * time.Millisecond
)

// harvest is how many streams poll finds at once.
const harvest = 256

// newPoll returns nil when the system has no room for one; then Go's poller serves.
func newPoll(now func() time.Time) *poll {
	all, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil
	}
	one, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		_ = syscall.Close(all)
		return nil
	}
	p := &poll{now: now, all: all, open: map[uint64]*polled{}}
	err = syscall.EpollCtl(one, syscall.EPOLL_CTL_ADD, all, &syscall.EpollEvent{Events: syscall.EPOLLONESHOT})
	if err == nil {
		err = syscall.SetNonblock(one, true) // so that Go's poller takes it
	}
	p.one = os.NewFile(uintptr(one), "epoll")
	if err == nil {
		p.raw, err = p.one.SyscallConn()
	}
	if err != nil {
		_, _ = p.one.Close(), syscall.Close(all)
		return nil
	}
	return p
}

// run works until end.
func (p *poll) run() {
	defer syscall.Close(p.all)
	events := make([]syscall.EpollEvent, harvest)
	found := make([]*polled, harvest)
	var last, crowd time.Time // when something was found, and when many were
	for {
		n, err := syscall.EpollWait(p.all, events, 0)
		if err != nil && err != syscall.EINTR {
			panic("gate: epoll: " + err.Error()) // it is ours, and is there
		}
		if n <= 0 {
			if p.wait() != nil {
				return
			}
			if p.now().Sub(crowd) < lately {
				time.Sleep(gap)
			}
			continue
		}
		p.tell(events[:n], found[:n])
		now := p.now()
		if n >= many {
			crowd = now
		}
		if now.Sub(last) < 2*gap {
			time.Sleep(gap)
		}
		last = now
	}
}

// wait returns when something has come, or an error after end.
func (p *poll) wait() error {
	var event [1]syscall.EpollEvent
	armed := false
	return p.raw.Read(func(fd uintptr) bool {
		if !armed {
			armed = true
			_ = syscall.EpollCtl(int(fd), syscall.EPOLL_CTL_MOD, p.all, &syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLONESHOT})
		}
		n, err := syscall.EpollWait(int(fd), event[:], 0)
		return n > 0 || err != nil
	})
}

func (p *poll) tell(events []syscall.EpollEvent, found []*polled) {
	p.mu.Lock()
	for i := range events {
		found[i] = p.open[uint64(uint32(events[i].Fd))|uint64(uint32(events[i].Pad))<<32]
	}
	p.mu.Unlock()
	for i, c := range found {
		if c != nil {
			c.told(events[i].Events)
		}
		found[i] = nil
	}
}

// end ends run. Nobody may read any more what it has taken.
func (p *poll) end() {
	if p == nil {
		return
	}
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	_ = p.one.Close()
}

// interest is what a stream's reader and writer want to hear: changes only, and also that the client sends nothing more.
const interest = syscall.EPOLLIN | syscall.EPOLLOUT | syscall.EPOLLRDHUP | 1<<31 // EPOLLET, which package syscall has as a negative number on some processors

// take returns what c carries as a connection of p, which nobody may be using, or nil where that cannot be: then c stays as it was.
func (p *poll) take(c net.Conn) *polled {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return nil
	}
	fd := duplicate(tcp)
	if fd < 0 {
		return nil
	}
	s := &polled{poll: p, fd: fd, local: c.LocalAddr(), remote: c.RemoteAddr(), more: true, come: make(chan struct{}, 1)}
	if !p.add(s) {
		_ = syscall.Close(fd)
		return nil
	}
	_ = c.Close() // Go's poller forgets it; the connection has another descriptor
	return s
}

func duplicate(tcp *net.TCPConn) int {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return -1
	}
	fd := -1
	err = raw.Control(func(old uintptr) {
		if n, _, failed := syscall.RawSyscall(syscall.SYS_FCNTL, old, syscall.F_DUPFD_CLOEXEC, 0); failed == 0 {
			fd = int(n)
		}
	})
	if err != nil {
		return -1
	}
	return fd
}

func (p *poll) add(s *polled) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return false
	}
	p.last++
	s.id = p.last
	event := syscall.EpollEvent{Events: interest, Fd: int32(uint32(s.id)), Pad: int32(uint32(s.id >> 32))}
	if syscall.EpollCtl(p.all, syscall.EPOLL_CTL_ADD, s.fd, &event) != nil {
		return false
	}
	p.open[s.id] = s
	return true
}

func (p *poll) forget(id uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, id)
}

// polled is a TCP connection whose reader is woken by a poll. It is safe for one reader, one writer and any number of closers at once; Write does not wait, and
// keeps what the system does not take. Deadlines are not kept.
type polled struct {
	poll          *poll
	id            uint64
	local, remote net.Addr

	use sync.RWMutex // held for reading while fd is used: until then it is not closed
	fd  int          // -1: closed; guarded by use

	r    sync.Mutex    // of who reads, also while that waits
	more bool          // something may be there to be read; guarded by r
	come chan struct{} // something has come, or it is closed
	last atomic.Bool   // the end of what the client sends has come, or an error

	w     sync.Mutex
	rest  []byte        // what was written and is kept; guarded by w
	went  chan struct{} // rest may be empty, or it is closed; guarded by w, nil as long as nobody waits for it
	stuck atomic.Bool   // there is a rest
}

// maxRest is how much is kept. Who writes much waits by flush.
const maxRest = 64 << 10

// told is told by poll what has happened.
func (c *polled) told(events uint32) {
	const over = syscall.EPOLLRDHUP | syscall.EPOLLHUP | syscall.EPOLLERR
	if events&over != 0 {
		c.last.Store(true)
	}
	if events&(syscall.EPOLLIN|over) != 0 {
		signal(c.come)
	}
	if events&(syscall.EPOLLOUT|over) != 0 && c.stuck.Load() {
		c.w.Lock()
		_ = c.pushRest() // who waits finds the same error
		signal(c.went)
		c.w.Unlock()
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Read is that of net.Conn. When it got less than it had room for, nothing more is there: what comes later is told, as epoll(7) promises, and so is the
// client's end, but perhaps only with what came before it.
func (c *polled) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	c.r.Lock()
	defer c.r.Unlock()
	for {
		if c.more {
			n, err := c.call(syscall.SYS_READ, b)
			switch {
			case n > 0:
				c.more = n == len(b) || c.last.Load()
				return n, nil
			case err == nil:
				return 0, io.EOF
			case err != syscall.EAGAIN:
				return 0, c.failed("read", err)
			}
			c.more = false
		}
		<-c.come
		c.more = true
	}
}

// call reads or writes, neither of which waits; so the scheduler need not hear of it.
func (c *polled) call(what uintptr, b []byte) (int, error) {
	c.use.RLock()
	defer c.use.RUnlock()
	if c.fd < 0 {
		return 0, net.ErrClosed
	}
	for {
		n, _, err := syscall.RawSyscall(what, uintptr(c.fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		switch err {
		case 0:
			return int(n), nil
		case syscall.EINTR:
		default:
			return 0, err
		}
	}
}

func (c *polled) failed(op string, err error) error {
	if err != net.ErrClosed {
		err = os.NewSyscallError(op, err)
	} else {
		signal(c.come) // for the next who reads
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

// Write is that of net.Conn, but does not wait.
func (c *polled) Write(b []byte) (int, error) {
	c.w.Lock()
	defer c.w.Unlock()
	if err := c.pushRest(); err != nil {
		return 0, err
	}
	done := 0
	for done < len(b) && len(c.rest) == 0 {
		n, err := c.call(syscall.SYS_WRITE, b[done:])
		if err == syscall.EAGAIN {
			break
		}
		if err != nil {
			return done, c.failed("write", err)
		}
		done += n
	}
	if done == len(b) {
		return done, nil
	}
	if len(c.rest)+len(b)-done > maxRest {
		return done, c.failed("write", syscall.ENOBUFS)
	}
	c.rest = append(c.rest, b[done:]...)
	c.stuck.Store(true)
	return len(b), c.pushRest() // poll may have looked before stuck was set
}

// pushRest writes what the system takes of the rest. w is held.
func (c *polled) pushRest() error {
	done := 0
	for done < len(c.rest) {
		n, err := c.call(syscall.SYS_WRITE, c.rest[done:])
		if err == syscall.EAGAIN {
			break
		}
		if err != nil {
			return c.failed("write", err)
		}
		done += n
	}
	switch {
	case done == 0:
	case done == len(c.rest):
		c.rest = nil
		c.stuck.Store(false)
	default:
		c.rest = slices.Delete(c.rest, 0, done)
	}
	return nil
}

// flush waits until nothing is kept. It is for the writer.
func (c *polled) flush() error {
	for c.stuck.Load() {
		c.w.Lock()
		if c.went == nil {
			c.went = make(chan struct{}, 1)
		}
		err, went := c.pushRest(), c.went
		left := len(c.rest)
		c.w.Unlock()
		if err != nil {
			return err
		}
		if left > 0 {
			<-went
		}
	}
	return nil
}

// kept reports whether there is a rest.
func (c *polled) kept() bool { return c.stuck.Load() }

// Close closes the connection at once; who reads or waits gets net.ErrClosed.
func (c *polled) Close() error {
	c.use.Lock()
	fd := c.fd
	c.fd = -1
	c.use.Unlock()
	if fd < 0 {
		return net.ErrClosed
	}
	c.poll.forget(c.id)
	err := syscall.Close(fd)
	signal(c.come)
	c.w.Lock()
	signal(c.went)
	c.w.Unlock()
	return err
}

// CloseWrite tells the client that nothing more comes.
func (c *polled) CloseWrite() error {
	return c.with(func(fd int) error { return syscall.Shutdown(fd, syscall.SHUT_WR) })
}

// SetLinger is that of net.TCPConn.
func (c *polled) SetLinger(sec int) error {
	return c.with(func(fd int) error {
		return syscall.SetsockoptLinger(fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1, Linger: int32(sec)})
	})
}

func (c *polled) with(do func(fd int) error) error {
	c.use.RLock()
	defer c.use.RUnlock()
	if c.fd < 0 {
		return net.ErrClosed
	}
	return do(c.fd)
}

// LocalAddr is that of net.Conn.
func (c *polled) LocalAddr() net.Addr { return c.local }

// RemoteAddr is that of net.Conn.
func (c *polled) RemoteAddr() net.Addr { return c.remote }

// SetDeadline does nothing: streams have none, and crypto/tls sets one only for its last word, which Stream.End gives a time of its own.
func (c *polled) SetDeadline(time.Time) error { return nil }

// SetReadDeadline does nothing; see SetDeadline.
func (c *polled) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing; see SetDeadline.
func (c *polled) SetWriteDeadline(time.Time) error { return nil }
