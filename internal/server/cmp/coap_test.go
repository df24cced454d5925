package cmp_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"mooring/agent/coap"
	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/wire/cmp"
	wire "mooring/wire/coap"
)

// TestCoAP has the case "CoAP variant with blockwise" of the acceptance list: a renewal and its confirmation in blocks of 64 octets, and what CoAP itself
// refuses.
func TestCoAP(t *testing.T) {
	p := apptest.Start(t, func(c *conf.Config) { withCMP(c); c.Listen.COAPS = "127.0.0.1:0" })
	_, pair := p.Enrolled(t, "mote", "device")
	t.Run("CoAP variant with blockwise", func(t *testing.T) { overBlocks(t, p, pair) })
	conn := dial(t, p, &pair, 1024)
	for what, row := range map[string]struct {
		r    coap.Request
		code wire.Code
	}{
		"GET":            {coap.Request{Code: wire.GET, Path: "/.well-known/cmp"}, wire.MethodNotAllowed},
		"another format": {coap.Request{Code: wire.POST, Path: "/.well-known/cmp", Format: wire.PKCS10, Body: []byte("x")}, wire.UnsupportedFormat},
		"Accept":         {coap.Request{Code: wire.POST, Path: "/.well-known/cmp", Format: 259, Accept: wire.PKCS10, Body: []byte("x")}, wire.NotAcceptable},
		"garbage":        {coap.Request{Code: wire.POST, Path: "/.well-known/cmp/ir", Format: 259, Body: []byte("x")}, wire.Content}, // a CMP message tells
		"another path":   {coap.Request{Code: wire.POST, Path: "/.well-known/cmp/p", Format: 259, Body: []byte("x")}, wire.Content},
		"deeper":         {coap.Request{Code: wire.POST, Path: "/.well-known/cmp/a/b/c", Format: 259, Body: []byte("x")}, wire.NotFound},
		"EST beside it":  {coap.Request{Code: wire.GET, Path: "/est/crts"}, wire.Content},
	} {
		if a := do(t, conn, row.r); a.Code != row.code {
			t.Errorf("%s: got %v %q, want %v", what, a.Code, a.Body, row.code)
		}
	}
	reasons := ""
	for _, e := range p.Record(t) {
		reasons += e.Refused + "\n"
	}
	for _, want := range []string{"the content format must be 259", "only the content format 259", "the message cannot be read"} {
		if !strings.Contains(reasons, want) {
			t.Errorf("the record does not know of %q", want)
		}
	}
}

// overBlocks renews twice, in small and in large blocks.
func overBlocks(t *testing.T, p *apptest.Platform, pair tls.Certificate) {
	for _, block := range []int{64, 1024} {
		c := byCert(t, p, pair)
		conn := dial(t, p, &pair, block)
		send := func(body cmp.Body) cmp.Body {
			c.sent = c.build(body)
			a := do(t, conn, coap.Request{Code: wire.POST, Path: "/.well-known/cmp/p/device", Format: 259, Body: c.sent})
			if a.Code != wire.Content || a.Format != 259 {
				t.Fatalf("got %v, format %d, %q", a.Code, a.Format, a.Body)
			}
			return c.read(a.Body)
		}
		cert := c.issued(send(c.renewal()), cmp.KUP)
		if b := send(confirm(cert)); b.Kind() != cmp.PKIConf {
			t.Errorf("got %s %+v, want pkiconf", b.Kind(), b)
		}
	}
}

func dial(t *testing.T, p *apptest.Platform, pair *tls.Certificate, block int) *coap.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, err := coap.Dial(ctx, coap.Config{Address: strings.TrimPrefix(p.Addresses().CoAPS, "coaps://"), Certificate: pair, Block: block,
		Verify: func([]*x509.Certificate) error { return nil }}) // the messages are believed by themselves
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func do(t *testing.T, conn *coap.Conn, r coap.Request) *coap.Answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	a, err := conn.Do(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	return a
}
