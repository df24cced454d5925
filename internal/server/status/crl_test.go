package status

import (
	"bytes"
	"crypto/x509"
	"strings"
	"testing"

	"mooring/internal/core/ca"
	"mooring/internal/core/key"
	"mooring/wire/der"
)

// The lists of shards are at the addresses that certificates name, the complete one beside them in pieces, delta lists only when switched on.
func TestShardLists(t *testing.T) {
	w := newWorld(t)
	subject, err := der.ParseDN("O=Acme, CN=Acme many")
	must(t, err)
	many, err := w.ca.Create(t.Context(), admin, ca.Spec{Name: "many", Parent: "root", Subject: subject, Algorithm: key.P256, Validity: 86400 * 365, Shards: 8})
	must(t, err)
	if _, page := w.do(t, "GET", "/", nil); !strings.Contains(string(page), "one of 8 shorter lists, which are current") {
		t.Errorf("the page does not say that the shards are current: %s", page)
	}
	path := func(shard int64) string { return strings.TrimPrefix(w.ca.CRLAddress(many.ID(), shard), w.url) }
	for _, p := range []string{path(0), path(7), path(ca.Complete), "/crl/many/3.crl", "/crl/many.crl"} {
		r, body := w.do(t, "GET", p, nil)
		l, err := x509.ParseRevocationList(body)
		if r.StatusCode != 200 || err != nil || l.CheckSignatureFrom(many.Certificate()) != nil {
			t.Errorf("%s: got %d, %v", p, r.StatusCode, err)
			continue
		}
		scoped := bytes.Contains(body, []byte{0x55, 0x1d, 0x1c})
		if scoped != strings.Contains(strings.TrimPrefix(p, "/crl/"), "/") {
			t.Errorf("%s: an issuing distribution point: %v", p, scoped)
		}
		if r, part := w.do(t, "GET", p, nil, "Range", "bytes=5-14"); r.StatusCode != 206 || !bytes.Equal(part, body[5:15]) {
			t.Errorf("%s: a range: %d, %x", p, r.StatusCode, part)
		}
		if r, _ := w.do(t, "GET", p, nil, "If-None-Match", r.Header.Get("ETag")); r.StatusCode != 304 {
			t.Errorf("%s: a condition: %d", p, r.StatusCode)
		}
	}
	for _, p := range []string{"/crl/many/8.crl", "/crl/many/-1.crl", "/crl/many/00.crl", "/crl/many/x.crl", "/crl/many/0.pem", "/crl/devices/0.crl", "/crl/nobody/0.crl",
		"/crl/many/0.delta.crl", "/crl/devices.delta.crl", "/crl/many/", "/crl/many/0.crl/x"} {
		if r, _ := w.do(t, "GET", p, nil); r.StatusCode != 404 {
			t.Errorf("%s: got %d, want 404", p, r.StatusCode)
		}
	}
	w.revoke.DeltaLists = true
	for _, p := range []string{"/crl/many/0.delta.crl", "/crl/devices.delta.crl"} {
		r, body := w.do(t, "GET", p, nil)
		if _, err := x509.ParseRevocationList(body); r.StatusCode != 200 || err != nil || !bytes.Contains(body, []byte{0x55, 0x1d, 0x1b, 1, 1, 0xff}) {
			t.Errorf("%s: got %d, %v: no delta list", p, r.StatusCode, err)
		}
	}
	if r, _ := w.do(t, "GET", "/crl/many.delta.crl", nil); r.StatusCode != 404 {
		t.Errorf("the delta list of a complete list: %d", r.StatusCode)
	}
}
