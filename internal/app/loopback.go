package app

import (
	"net/netip"
	"time"

	"mooring/internal/base/conf"
	"mooring/internal/base/port"
)

// Loopback returns a configuration for demonstrations, benchmarks and tests: every listener on a free port of this machine, and limits with
// room for a whole fleet that shares one address. Certificates and trust lists carry addresses, so they are known before they are bound.
func Loopback(organisation string) (*conf.Config, error) {
	free, err := port.Free(3)
	if err != nil {
		return nil, err
	}
	c := conf.Default()
	c.Name = organisation
	c.Listen.EST, c.Listen.API, c.Listen.Status = free[0].String(), free[1].String(), free[2].String()
	c.Names = []string{"localhost", "127.0.0.1"}
	c.PublicURLs.EST, c.PublicURLs.Status = "https://"+c.Listen.EST, "http://"+c.Listen.Status
	c.ACME.Allow = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	c.Limits.AddressConns = 2048
	c.Limits.AddressHandshakes, c.Limits.HandshakeRate = 100_000, 100_000
	c.Limits.RequestRate, c.Limits.RequestBurst = 100_000, 1<<20
	c.Limits.DrainTimeout = 2 * time.Second
	return c, nil
}
