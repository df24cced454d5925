package port

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestMain lets the test binary be the other process: it prints its ports, and keeps them until its input ends.
func TestMain(m *testing.M) {
	if os.Getenv("PORT_TEST_OTHER") == "" {
		os.Exit(m.Run())
	}
	list, err := Free(200)
	if err != nil {
		panic(err)
	}
	fmt.Println(list)
	_, _ = os.Stdin.Read(make([]byte, 1))
}

// Two processes that look for ports at the same time and listen at none of them find different ones.
func TestFree(t *testing.T) {
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), "PORT_TEST_OTHER=yes")
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	other := strings.Fields(strings.Trim(line, "[]\n"))
	seen := map[string]bool{}
	for _, address := range other {
		seen[address] = true
	}
	for range 4 { // as some test would, one after the other, without listening at once
		list, err := Free(60)
		if err != nil {
			t.Fatal(err)
		}
		for _, address := range list {
			if seen[address.String()] {
				t.Errorf("%v was given out twice", address)
			}
			seen[address.String()] = true
		}
	}
	if len(other) != 200 || len(seen) != 200+4*60 {
		t.Errorf("%d of the other process, %d in all; want 200 and 440", len(other), len(seen))
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	if err := c.Wait(); err != nil {
		t.Error(err)
	}
}

// A port at which somebody listens who did not ask is passed by.
func TestFreeTaken(t *testing.T) {
	var taken []net.Listener
	for range 100 {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(lowest+rand.IntN(highest-lowest))))
		if err == nil {
			defer l.Close()
			taken = append(taken, l)
		}
	}
	free, err := Free(500)
	if err != nil || len(taken) == 0 {
		t.Fatal(err, len(taken))
	}
	for _, l := range taken {
		if slices.Contains(free, l.Addr().(*net.TCPAddr).AddrPort()) {
			t.Errorf("%v was given out while somebody listens at it", l.Addr())
		}
	}
}
