package conf

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
)

// ESTURL returns where devices reach the EST listener: public_urls.est, or the first of names with the port of listen.est.
func (c *Config) ESTURL() string { return c.reached(c.PublicURLs.EST, "https", c.Listen.EST) }

// StatusURL returns where anybody reaches the status listener: public_urls.status, or the first of names with the port of listen.status.
func (c *Config) StatusURL() string { return c.reached(c.PublicURLs.Status, "http", c.Listen.Status) }

// ACMEURL returns where clients reach the ACME listener: public_urls.acme, or the first of names with the port of listen.acme; "" when there is none.
func (c *Config) ACMEURL() string {
	if c.Listen.ACME == "" {
		return c.PublicURLs.ACME
	}
	return c.reached(c.PublicURLs.ACME, "https", c.Listen.ACME)
}

func (c *Config) reached(set, scheme, listen string) string {
	if set != "" || len(c.Names) == 0 {
		return set
	}
	_, port, err := net.SplitHostPort(listen)
	if err != nil {
		return ""
	}
	host := net.JoinHostPort(c.Names[0], port)
	if port == standardPort(scheme) {
		host = strings.TrimSuffix(host, ":"+port)
	}
	return scheme + "://" + host
}

func standardPort(scheme string) string {
	if scheme == "https" {
		return "443"
	}
	return "80"
}

// Warnings returns what is allowed in c and yet hardly meant, a sentence each.
func (c *Config) Warnings() []string {
	var list []string
	for _, w := range []struct{ name, url, listen string }{
		{"est", c.PublicURLs.EST, c.Listen.EST},
		{"status", c.PublicURLs.Status, c.Listen.Status},
		{"acme", c.PublicURLs.ACME, c.Listen.ACME},
	} {
		u, err := url.Parse(w.url)
		_, port, splitErr := net.SplitHostPort(w.listen)
		if err != nil || splitErr != nil || !loopback(u.Hostname()) {
			continue // another host may well forward from another port
		}
		told := u.Port()
		if told == "" {
			told = standardPort(u.Scheme)
		}
		if told != port {
			list = append(list, fmt.Sprintf("public_urls.%[1]s names port %[2]s of this machine, but listen.%[1]s is on port %[3]s: nobody answers where devices are sent; remove public_urls.%[1]s, or give it port %[3]s",
				w.name, told, port))
		}
	}
	return list
}

// loopback reports whether host is this machine to itself.
func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && ip.IsLoopback()
}
