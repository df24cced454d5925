package app

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"time"

	"mooring/internal/base/conf"
)

// Loopback returns a configuration for demonstrations, benchmarks and tests: every listener on a free port of this machine, and limits with
// room for a whole fleet that shares one address.
func Loopback(organisation string) (*conf.Config, error) {
	addresses, err := freeAddresses(3)
	if err != nil {
		return nil, err
	}
	c := conf.Default()
	c.Name = organisation
	c.Listen.EST, c.Listen.API, c.Listen.Status = addresses[0], addresses[1], addresses[2]
	c.Names = []string{"localhost", "127.0.0.1"}
	c.PublicURLs.EST, c.PublicURLs.Status = "https://"+addresses[0], "http://"+addresses[2]
	c.ACME.Allow = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	c.Limits.AddressConns = 2048
	c.Limits.AddressHandshakes, c.Limits.HandshakeRate = 100_000, 100_000
	c.Limits.RequestRate, c.Limits.RequestBurst = 100_000, 1<<20
	c.Limits.DrainTimeout = 2 * time.Second
	return c, nil
}

// freeAddresses looks for ports that nobody has. Certificates and trust lists carry addresses, so they must be known before they are bound. Ports that the system gives out
// by itself are those of outgoing connections, too, and one of these could take it meanwhile; so they are looked for below.
func freeAddresses(n int) (list []string, err error) {
	for range n {
		l, err := freePort()
		if err != nil {
			return nil, fmt.Errorf("looking for a free port: %w", err)
		}
		defer l.Close() // only when all are found, so that none is found twice
		list = append(list, l.Addr().String())
	}
	return list, nil
}

// Ports that are looked at: above those of well-known services, and below those that Linux takes for outgoing connections.
const (
	lowPort, highPort = 16384, 32768
	portTries         = 64
)

func freePort() (net.Listener, error) {
	for range portTries {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(lowPort+rand.IntN(highPort-lowPort))))
		if err == nil {
			return l, nil
		}
	}
	return net.Listen("tcp", "127.0.0.1:0")
}
