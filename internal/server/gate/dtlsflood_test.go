package gate

import (
	"crypto/rand"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestDTLSFlood has the row "hello flood": 20,000 hellos without a cookie, each from a port of its own, while clients come and go. What the process has
// grown by, the clients and the flood's own sockets included, is at most 32 MiB, no client fails, and no answer is larger than its hello.
func TestDTLSFlood(t *testing.T) {
	const flood, clients, limit = 20_000, 20, 32 << 20
	s := startDTLS(t, nil)
	hello := captureHello(t, s)
	before := resident(t)
	var peak int64
	var tasks sync.WaitGroup
	done := make(chan struct{})
	tasks.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(10 * time.Millisecond):
				peak = max(peak, resident(t))
			}
		}
	})
	var good sync.WaitGroup
	good.Go(func() {
		for range clients {
			c, err := dialDTLS(t, s.gate.Addr(), s.options()...)
			if err != nil {
				t.Errorf("a good client: %v", err)
				continue
			}
			if got := ask(t, c, "hello"); got != "moved=false" {
				t.Errorf("a good client was answered %q", got)
			}
		}
	})
	sent := 0
	largest := 0
	for port := 1024; sent < flood && port < 65536; port++ {
		n, ok := spoof(t, port, s.gate.Addr(), hello, sent%1000 == 0)
		if ok {
			sent++
		}
		largest = max(largest, n)
	}
	good.Wait()
	close(done)
	tasks.Wait()
	grown := max(peak, resident(t)) - before
	m := s.gate.Metrics()
	t.Logf("%d hellos, %d answered by a cookie, the process has grown by %.1f MiB at most; a hello has %d octets, the largest answer %d", sent, m.Cookies, float64(grown)/(1<<20), len(hello), largest)
	switch {
	case sent < flood:
		t.Errorf("only %d ports were free", sent)
	case grown > limit:
		t.Errorf("the process has grown by %d octets, more than %d", grown, limit)
	case m.Open != clients || m.Cookies < flood/2:
		t.Errorf("after the flood: %+v", m)
	case largest == 0 || largest > len(hello):
		t.Errorf("a hello of %d octets is answered by %d", len(hello), largest)
	}
}

// spoof sends a hello from a port, and returns how large the answer is if it is waited for. It reports false when the port is taken.
func spoof(t *testing.T, port int, to net.Addr, hello []byte, wait bool) (answer int, ok bool) {
	c, err := net.DialUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 2), Port: port}, to.(*net.UDPAddr))
	if err != nil {
		return 0, false
	}
	defer c.Close()
	_, _ = rand.Read(hello[27:59]) // the client's random, after the headers of record and message and the version
	for range 100 {
		if _, err := c.Write(hello); err != nil {
			t.Fatal(err)
		}
		if !wait {
			return 0, true
		}
		if err := c.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 2048)
		if n, err := c.Read(b); err == nil {
			return n, true
		}
	}
	t.Fatal("a hello was never answered")
	return 0, false
}

// resident returns the octets of memory that the process has, after what is not used was given back.
func resident(t *testing.T) int64 {
	if runtime.GOOS != "linux" {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.Sys - m.HeapReleased)
	}
	debug.FreeOSMemory()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Error(err)
		return 0
	}
	fields := strings.Fields(string(text))
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		t.Error(err)
	}
	return pages * int64(os.Getpagesize())
}
