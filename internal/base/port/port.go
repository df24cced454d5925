// Package port finds ports on loopback for demonstrations, benchmarks and tests that must know an address before they listen at it, since certificates and trust
// lists carry it.
package port

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"syscall"
)

// Ports that are given out lie above those of well-known services, and below those that Linux takes for outgoing connections, one of which could take a port
// between its being found and its being listened at.
const (
	lowest, highest = 16384, 32768
	tries           = 1024
)

// Whoever listens at a port of this address has the same port of 127.0.0.1. That is known to all processes of the machine, and the system takes it back when
// the process ends, whichever way it ends. Systems whose loopback is one address alone do without.
const registry = "127.255.255.254"

// Free returns addresses of 127.0.0.1 at whose ports nobody listens. On Linux they belong to this process until it ends: Free gives none of them out again, here or in
// another process. Each costs a file descriptor, which is why this is nothing for a server.
func Free(n int) ([]netip.AddrPort, error) {
	list := make([]netip.AddrPort, 0, n)
	for range n {
		address, err := find()
		if err != nil {
			return nil, err
		}
		list = append(list, address)
	}
	return list, nil
}

func find() (netip.AddrPort, error) {
	for range tries {
		port := strconv.Itoa(lowest + rand.IntN(highest-lowest))
		mine, err := net.Listen("tcp", net.JoinHostPort(registry, port))
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		reserved := err == nil
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port))
		if err != nil {
			if reserved {
				_ = mine.Close() // nobody connected
			}
			continue
		}
		if reserved {
			go hold(mine)
		}
		return l.Addr().(*net.TCPAddr).AddrPort(), l.Close()
	}
	return netip.AddrPort{}, errors.New("found no port of 127.0.0.1 between " + strconv.Itoa(lowest) + " and " + strconv.Itoa(highest) + " at which nobody listens")
}

// hold keeps a listener from being closed as garbage, and lets nobody in.
func hold(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_ = c.Close() // nothing was said
	}
}
