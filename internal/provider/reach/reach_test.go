package reach_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"mooring/internal/base/errs"
	core "mooring/internal/core/acme"
	"mooring/internal/provider/reach"
	"mooring/internal/provider/reach/reachtest"
	"mooring/wire/acme"
)

const (
	token   = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"
	keyAuth = token + ".9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"
)

// TestValidate has one row for each thing that a validation must see through.
func TestValidate(t *testing.T) {
	n := reachtest.Start(t)
	for _, name := range []string{"good", "loop", "away", "login", "file", "odd", "large", "wrong", "gone", "hops"} {
		n.Name(name + ".example.com")
	}
	n.Name("inside.example.com", "10.1.2.3")
	n.Name("metadata.example.com", "169.254.169.254")
	n.Name("mapped.example.com", "::ffff:10.0.0.1")
	n.Name("rebound.example.com", "127.0.0.1")
	n.Rebind("rebound.example.com", "10.0.0.1")
	n.Break("broken.example.com")
	n.Break("_acme-challenge.broken.example.com")
	if _, err := n.Present(token, keyAuth); err != nil {
		t.Fatal(err)
	}
	redirect := func(host, to string) {
		n.Handle(host, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) })
	}
	at := func(host string) string { return fmt.Sprintf("http://%s:%d/", host, n.HTTPPort) }
	redirect("loop.example.com", at("loop.example.com"))
	redirect("away.example.com", "http://10.1.2.3/")
	redirect("login.example.com", "http://user:password@good.example.com/")
	redirect("file.example.com", "file:///etc/passwd")
	redirect("odd.example.com", "http://good.example.com:22/")
	redirect("rebound.example.com", at("rebound.example.com"))
	n.Handle("hops.example.com", func(w http.ResponseWriter, r *http.Request) {
		if hops := len(r.URL.Query().Get("h")); hops < 10 {
			http.Redirect(w, r, at("hops.example.com")+"?h="+strings.Repeat("x", hops+1), http.StatusMovedPermanently)
			return
		}
		_, _ = w.Write([]byte(keyAuth))
	})
	n.Handle("large.example.com", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(keyAuth + strings.Repeat(" ", 1<<20)))
	})
	n.Handle("wrong.example.com", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("secret of the house")) })
	n.Handle("gone.example.com", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGone) })

	record := acme.DNSRecord(keyAuth)
	n.TXT("_acme-challenge.good.example.com", "another", record, "a third")
	n.TXT("target.example.net", record)
	n.Alias("_acme-challenge.alias.example.com", "target.example.net")
	n.TXT("_acme-challenge.wrong.example.com", "another")

	witness := func(server string, dns, ips []string, key string, change func(*x509.Certificate)) {
		n.Certificate(server, reachtest.Witness(t, key, dns, ips, change))
	}
	for _, name := range []string{"alpn", "two", "other", "stale", "tame", "bare"} {
		n.Name(name + ".example.com")
	}
	witness("alpn.example.com", []string{"alpn.example.com"}, nil, keyAuth, nil)
	witness("1.0.0.127.in-addr.arpa", nil, []string{"127.0.0.1"}, keyAuth, nil)
	witness("2.0.0.127.in-addr.arpa", []string{"2.0.0.127.in-addr.arpa"}, nil, keyAuth, nil)
	witness("two.example.com", []string{"two.example.com", "more.example.com"}, nil, keyAuth, nil)
	witness("other.example.com", []string{"more.example.com"}, nil, keyAuth, nil)
	witness("stale.example.com", []string{"stale.example.com"}, nil, "x"+keyAuth, nil)
	witness("tame.example.com", []string{"tame.example.com"}, nil, keyAuth, func(c *x509.Certificate) { c.ExtraExtensions[0].Critical = false })
	witness("bare.example.com", []string{"bare.example.com"}, nil, keyAuth, func(c *x509.Certificate) { c.ExtraExtensions = nil })

	v := reach.New(n.Options())
	for _, c := range []struct {
		name, method, id string
		want             core.Type // "" = it is valid
		again            bool      // trying again may help
	}{
		{"http-01", acme.HTTP01, "dns:good.example.com", "", false},
		{"http-01 of an address", acme.HTTP01, "ip:127.0.0.1", "", false},
		{"http-01 ten redirections", acme.HTTP01, "dns:hops.example.com", "", false},
		{"http-01 redirect limits", acme.HTTP01, "dns:loop.example.com", core.Connection, false},
		{"http-01 redirection to a private address", acme.HTTP01, "dns:away.example.com", core.Connection, false},
		{"http-01 redirection with a password", acme.HTTP01, "dns:login.example.com", core.Connection, false},
		{"http-01 redirection to a file", acme.HTTP01, "dns:file.example.com", core.Connection, false},
		{"http-01 redirection to another port", acme.HTTP01, "dns:odd.example.com", core.Connection, false},
		{"private-network policy", acme.HTTP01, "dns:inside.example.com", core.Connection, false},
		{"private-network policy: metadata service", acme.HTTP01, "dns:metadata.example.com", core.Connection, false},
		{"private-network policy: mapped address", acme.HTTP01, "dns:mapped.example.com", core.Connection, false},
		{"private-network policy: an address", acme.HTTP01, "ip:192.168.0.1", core.Connection, false},
		{"DNS rebinding", acme.HTTP01, "dns:rebound.example.com", core.Connection, false},
		{"http-01 body cap", acme.HTTP01, "dns:large.example.com", core.Unauthorized, false},
		{"http-01 wrong answer", acme.HTTP01, "dns:wrong.example.com", core.Unauthorized, true},
		{"http-01 status", acme.HTTP01, "dns:gone.example.com", core.Unauthorized, true},
		{"http-01 SERVFAIL", acme.HTTP01, "dns:broken.example.com", core.DNS, true},
		{"http-01 no such name", acme.HTTP01, "dns:nobody.example.com", core.DNS, true},
		{"dns-01 many TXT", acme.DNS01, "dns:good.example.com", "", false},
		{"dns-01 CNAME", acme.DNS01, "dns:alias.example.com", "", false},
		{"dns-01 wrong", acme.DNS01, "dns:wrong.example.com", core.Unauthorized, true},
		{"dns-01 SERVFAIL", acme.DNS01, "dns:broken.example.com", core.DNS, true},
		{"dns-01 none", acme.DNS01, "dns:nobody.example.com", core.DNS, true},
		{"tls-alpn-01", acme.TLSALPN01, "dns:alpn.example.com", "", false},
		{"tls-alpn-01 IP SNI in arpa form", acme.TLSALPN01, "ip:127.0.0.1", "", false},
		{"tls-alpn-01 name in place of an address", acme.TLSALPN01, "ip:127.0.0.2", core.Connection, true},
		{"tls-alpn-01 one SAN", acme.TLSALPN01, "dns:two.example.com", core.Unauthorized, true},
		{"tls-alpn-01 another SAN", acme.TLSALPN01, "dns:other.example.com", core.Unauthorized, true},
		{"tls-alpn-01 another challenge", acme.TLSALPN01, "dns:stale.example.com", core.Unauthorized, true},
		{"tls-alpn-01 critical acmeIdentifier", acme.TLSALPN01, "dns:tame.example.com", core.Unauthorized, true},
		{"tls-alpn-01 no acmeIdentifier", acme.TLSALPN01, "dns:bare.example.com", core.Unauthorized, true},
		{"tls-alpn-01 unknown server name", acme.TLSALPN01, "dns:good.example.com", core.TLS, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := v.Validate(t.Context(), core.Challenge{Type: c.method, Name: c.id, Token: token, KeyAuthorization: keyAuth})
			if c.want == "" {
				if err != nil {
					t.Errorf("got %v, want it valid", err)
				}
				return
			}
			var got core.Type
			if errors.As(err, &got); got != c.want || errs.Is(err, errs.Unavailable) != c.again {
				t.Errorf("got %v (%v, %v), want %s, again %v", err, got, errs.KindOf(err), c.want, c.again)
			}
			if strings.Contains(errs.Public(err), "secret") {
				t.Errorf("the refusal shows what was fetched: %q", errs.Public(err))
			}
		})
	}
}

// TestPolicy: without an explicit permission nothing but public unicast addresses is dialled.
func TestPolicy(t *testing.T) {
	n := reachtest.Start(t)
	if _, err := n.Present(token, keyAuth); err != nil {
		t.Fatal(err)
	}
	o := n.Options()
	o.Allow = nil
	try := func(o reach.Options, ip string) error {
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // what is permitted fails for this reason
		_, err := reach.New(o).Validate(ctx, core.Challenge{Type: acme.TLSALPN01, Name: "ip:" + ip, Token: token, KeyAuthorization: keyAuth})
		return err
	}
	for _, ip := range []string{"127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.1", "198.18.0.1", "240.0.0.1",
		"::1", "::", "fe80::1", "fd00::1", "ff02::1", "::7f00:1", "64:ff9b::a00:1", "2002:a00:1::1", "2001:db8::1"} {
		if err := try(o, ip); !errs.Is(err, errs.Denied) {
			t.Errorf("%s: got %v, want it refused", ip, err)
		}
	}
	for _, ip := range []string{"9.9.9.9", "2620:fe::fe"} {
		if err := try(o, ip); !errs.Is(err, errs.Unavailable) {
			t.Errorf("%s: got %v, want it tried", ip, err)
		}
	}
	o.Allow = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	if err := try(o, "10.0.0.1"); !errs.Is(err, errs.Unavailable) {
		t.Errorf("10.0.0.1 with permission: got %v, want it tried", err)
	}
	if err := try(o, "127.0.0.1"); !errs.Is(err, errs.Denied) {
		t.Errorf("127.0.0.1 with permission for another network: got %v, want it refused", err)
	}
}
