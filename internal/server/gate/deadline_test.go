package gate

import (
	"bytes"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"mooring/internal/base/conf"
)

// pair returns a conn over TCP, its other end, and how often a real deadline was set.
func pair(t *testing.T) (*conn, net.Conn, *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	far, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close(); raw.Close() })
	moves := new(atomic.Int64)
	count := func(move func(time.Time) error) func(time.Time) error {
		return func(at time.Time) error { moves.Add(1); return move(at) }
	}
	return &conn{Conn: raw, gate: &Gate{guard: newGuard(conf.Default().Limits)}, peer: &Peer{}, read: deadline{move: count(raw.SetReadDeadline)}, write: deadline{move: count(raw.SetWriteDeadline)}}, far, moves
}

// endsAt calls read, which must end by a timeout at the deadline: not before, and not when a later one that was set before would be.
func endsAt(t *testing.T, deadline time.Time, read func() (int, error)) {
	t.Helper()
	_, err := read()
	if late := time.Since(deadline); !os.IsTimeout(err) || late < 0 || late > 10*time.Minute {
		t.Errorf("got %v %s after the deadline, want a timeout then", err, late)
	}
}

func TestDeadlines(t *testing.T) {
	c, _, moves := pair(t)
	one := make([]byte, 1)
	read := func() (int, error) { return c.Read(one) }
	after := func(d time.Duration) (deadline time.Time) {
		t.Helper()
		deadline = time.Now().Add(d)
		if err := c.SetReadDeadline(deadline); err != nil {
			t.Fatal(err)
		}
		return deadline
	}
	passed := after(30 * time.Millisecond)
	endsAt(t, passed, read)
	endsAt(t, passed, read) // and stays so
	after(20 * time.Millisecond)
	endsAt(t, after(100*time.Millisecond), read) // later: holds all the same
	after(time.Hour)
	endsAt(t, after(20*time.Millisecond), read) // earlier

	// Moving on and on costs nothing.
	before := moves.Load()
	after(time.Minute)
	for i := range 1000 {
		after(time.Minute + time.Duration(i)*time.Second)
	}
	if n := moves.Load() - before; n > 1 {
		t.Errorf("%d real deadlines for 1001 later and later ones", n)
	}
	// A read that waits is cut off by a deadline in the past, as net/http does it.
	ended := make(chan error)
	go func() { _, err := read(); ended <- err }()
	time.Sleep(20 * time.Millisecond)
	after(-time.Hour)
	if err := <-ended; !os.IsTimeout(err) {
		t.Errorf("a waiting read ended with %v", err)
	}
}

// TestReadsAreCutOff cuts off waiting reads again and again, as net/http does after each request, between deadlines that move on.
func TestReadsAreCutOff(t *testing.T) {
	c, far, moves := pair(t)
	one := make([]byte, 1)
	set := func(at time.Time) {
		t.Helper()
		if err := c.SetReadDeadline(at); err != nil {
			t.Fatal(err)
		}
	}
	const rounds = 200
	for i := range rounds {
		set(time.Now().Add(time.Minute)) // the header
		if _, err := far.Write([]byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(one); n != 1 || err != nil || one[0] != byte(i) {
			t.Fatalf("round %d: read %d octets, %x, %v", i, n, one, err)
		}
		ended := make(chan error)
		go func() { _, err := c.Read(one); ended <- err }()
		set(time.Unix(1, 0))
		if err := <-ended; !os.IsTimeout(err) {
			t.Fatalf("round %d: the read that was cut off ended with %v", i, err)
		}
		set(time.Time{})
		set(time.Now().Add(2 * time.Minute)) // idle
	}
	if n := moves.Load(); n > 2*rounds+2 {
		t.Errorf("%d real deadlines in %d rounds, want two each", n, rounds)
	}
	// What was before the cut was a moment ago, and so is not what ends the next read.
	set(time.Now().Add(30 * time.Millisecond))
	set(time.Unix(1, 0))
	time.Sleep(50 * time.Millisecond)
	deadline := time.Now().Add(100 * time.Millisecond)
	set(deadline)
	endsAt(t, deadline, func() (int, error) { return c.Read(one) })
	set(time.Time{})
	go func() { time.Sleep(50 * time.Millisecond); _, _ = far.Write([]byte("x")) }()
	if n, err := c.Read(one); n != 1 || err != nil {
		t.Errorf("without a deadline after all that: %d octets, %v", n, err)
	}
}

func TestNoDeadline(t *testing.T) {
	c, far, _ := pair(t)
	if err := c.SetDeadline(time.Now().Add(30 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	go func() { time.Sleep(100 * time.Millisecond); _, _ = far.Write([]byte("x")) }()
	if n, err := c.Read(make([]byte, 8)); n != 1 || err != nil {
		t.Errorf("without a deadline: %d octets, %v", n, err)
	}
}

// TestWriteGoesOn writes more than fits into the sockets while the first deadline passes, and wants every octet once.
func TestWriteGoesOn(t *testing.T) {
	c, far, _ := pair(t)
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	for _, d := range []time.Duration{50 * time.Millisecond, time.Minute} {
		if err := c.SetWriteDeadline(time.Now().Add(d)); err != nil {
			t.Fatal(err)
		}
	}
	got := make(chan []byte)
	go func() {
		time.Sleep(200 * time.Millisecond)
		all, _ := io.ReadAll(far)
		got <- all
	}()
	if n, err := c.Write(sent); n != len(sent) || err != nil {
		t.Fatalf("wrote %d of %d octets, %v", n, len(sent), err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if all := <-got; !bytes.Equal(all, sent) {
		t.Errorf("%d octets arrived, want %d, the same", len(all), len(sent))
	}
	slow, _, _ := pair(t)
	deadline := time.Now().Add(50 * time.Millisecond)
	if err := slow.SetWriteDeadline(deadline); err != nil {
		t.Fatal(err)
	}
	endsAt(t, deadline, func() (int, error) { return slow.Write(sent) })
}
