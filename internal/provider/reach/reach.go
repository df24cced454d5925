// Package reach goes out into the network to find out whether somebody controls a name, by the challenges of ACME: http-01 and dns-01 (RFC 8555,
// sections 8.3 and 8.4) and tls-alpn-01 (RFC 8737, and RFC 8738 for addresses). It is what core/acme calls its Validator.
//
// A stranger decides where it goes, so it goes to few places. Every address is looked at in the moment of dialling it, after the name was
// resolved and after each redirection: what is not a public unicast address must lie in one of the networks that the configuration allows. A
// name that resolves to something else the second time gains nothing, since each resolution is checked and only checked addresses are dialled.
// Redirections lead to http and https on the usual ports and nowhere else. What is read is little, takes seconds, and is shown to nobody: errors say
// what went wrong, never what was found.
//
// It keeps no connection and no cache, and looks at no proxy of the environment.
package reach

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"mooring/internal/base/errs"
	core "mooring/internal/core/acme"
	"mooring/wire/acme"
)

// Options say where validations may go.
type Options struct {
	// Allow are the networks besides the public ones to which connections are made.
	Allow []netip.Prefix
	// Resolver is the name server that is asked, host:port; "" = those of the machine.
	Resolver string
	// HTTPPort and TLSPort are the ports of http-01 and tls-alpn-01; 0 = 80 and 443, which is what the standards say. Others are for tests.
	HTTPPort, TLSPort int
}

// The bounds of one validation.
const (
	dialTime     = 5 * time.Second
	fetchTime    = 10 * time.Second
	maxRedirects = 10
	maxInterim   = 5        // answers 1xx before one
	maxBody      = 64 << 10 // octets that are read
	maxHeader    = 16 << 10
	maxAddresses = 4 // of a name that are tried
)

// Validator validates. It is safe for concurrent use.
type Validator struct {
	o        Options
	resolver *net.Resolver
	dialer   net.Dialer
}

// New returns a validator. It starts nothing.
func New(o Options) *Validator {
	if o.HTTPPort == 0 {
		o.HTTPPort = 80
	}
	if o.TLSPort == 0 {
		o.TLSPort = 443
	}
	v := &Validator{o: o, resolver: &net.Resolver{PreferGo: true, StrictErrors: true}}
	if o.Resolver != "" {
		plain := net.Dialer{Timeout: dialTime}
		v.resolver.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return plain.DialContext(ctx, network, o.Resolver)
		}
	}
	v.dialer = net.Dialer{Timeout: dialTime, Control: v.control, KeepAlive: -1} // a connection lasts seconds
	return v
}

// errForbidden says that an address may not be dialled.
var errForbidden = errors.New("the address lies in a network that validations may not reach")

// control looks at each address in the moment before the connection is made.
func (v *Validator) control(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil || !v.permitted(at.Addr()) {
		return errForbidden
	}
	return nil
}

// Networks that are public in no sense, beyond what netip tells apart: this network, shared address space, protocol assignments, documentation,
// benchmarks, the reserved rest of IPv4, and the ways from IPv6 back into IPv4.
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"), netip.MustParsePrefix("192.0.2.0/24"),
	netip.MustParsePrefix("192.88.99.0/24"), netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.0/24"),
	netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("100::/64"),
	netip.MustParsePrefix("2001::/23"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("fec0::/10"), netip.MustParsePrefix("::/96"),
}

// permitted reports whether a connection to ip may be made.
func (v *Validator) permitted(ip netip.Addr) bool {
	ip = ip.WithZone("").Unmap()
	in := func(p netip.Prefix) bool { return p.Contains(ip) }
	if slices.ContainsFunc(v.o.Allow, in) {
		return true
	}
	return ip.IsGlobalUnicast() && !ip.IsPrivate() && !slices.ContainsFunc(special, in)
}

// Validate implements core/acme's Validator.
func (v *Validator) Validate(ctx context.Context, c core.Challenge) (core.Shown, error) {
	switch c.Type {
	case acme.HTTP01:
		return core.Shown{}, v.http(ctx, c)
	case acme.DNS01:
		return core.Shown{}, v.dns(ctx, c)
	case acme.TLSALPN01:
		return core.Shown{}, v.alpn(ctx, c)
	}
	return core.Shown{}, fmt.Errorf("a validation of the unknown type %q", c.Type)
}

// failed is a failure that may pass, wrong one that the client has to mend. Both texts are for the client.
func failed(t core.Type, format string, args ...any) error {
	return errs.Wrap(errs.Unavailable, t, format, args...)
}

func wrong(t core.Type, format string, args ...any) error {
	return errs.Wrap(errs.Denied, t, format, args...)
}

// host returns the name or address without its kind.
func host(name string) string {
	_, value, _ := strings.Cut(name, ":")
	return value
}

// addresses resolves a host and returns what may be dialled of it.
func (v *Validator) addresses(ctx context.Context, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		if !v.permitted(ip) {
			return nil, forbidden(host)
		}
		return []netip.Addr{ip}, nil
	}
	all, err := v.resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, lookupFailed(host, "an address", err)
	}
	var may []netip.Addr
	for _, ip := range all {
		if v.permitted(ip) && len(may) < maxAddresses {
			may = append(may, ip)
		}
	}
	if len(may) == 0 {
		return nil, forbidden(host)
	}
	return may, nil
}

func forbidden(host string) error {
	return wrong(core.Connection, "%q has no address that validations may reach: have its network added to acme.allow", host)
}

func lookupFailed(host, what string, err error) error {
	var e *net.DNSError
	switch {
	case errors.As(err, &e) && e.IsNotFound:
		return failed(core.DNS, "the DNS has no record of %s for %q", what, host)
	case errors.As(err, &e) && e.IsTimeout:
		return failed(core.DNS, "the DNS did not answer about %q in time", host)
	}
	return failed(core.DNS, "the DNS gave no answer about %q (SERVFAIL or the like)", host)
}

// dial connects to one of a host's addresses. Each is checked again by control.
func (v *Validator) dial(ctx context.Context, host string, port int) (net.Conn, error) {
	ips, err := v.addresses(ctx, host)
	if err != nil {
		return nil, err
	}
	for _, ip := range ips {
		var conn net.Conn
		// Not DialTCP, which binds the socket to a port of its own first, of which there are few: each stays taken for a minute after its use.
		if conn, err = v.dialer.DialContext(ctx, "tcp", netip.AddrPortFrom(ip, uint16(port)).String()); err == nil {
			return conn, nil
		}
	}
	if errors.Is(err, errForbidden) {
		return nil, forbidden(host)
	}
	return nil, failed(core.Connection, "no connection to port %d of %q: %s", port, host, plainly(err))
}

// plainly says why a connection failed without naming addresses.
func plainly(err error) string {
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	}
	return "unreachable"
}

// DialContext dials for net/http, which gives host and port in one. A host that has no permitted address is refused with kind Denied; what may pass is
// Unavailable.
func (v *Validator) DialContext(ctx context.Context, _, address string) (net.Conn, error) {
	name, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, err
	}
	return v.dial(ctx, name, int(n))
}
