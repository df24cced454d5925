package status

import (
	"bytes"
	"strings"
	"testing"

	"mooring/internal/core/ca"
	"mooring/internal/core/key"
	"mooring/wire/cms"
	"mooring/wire/der"
)

// TestCrossCertificates serves what leads from a root to the one that vouches for it, and says so on the page.
func TestCrossCertificates(t *testing.T) {
	w := newWorld(t)
	var certs [][]byte
	for _, name := range []string{"g1", "g2"} {
		i, err := w.ca.Create(t.Context(), admin, ca.Spec{Name: name, Subject: []der.Attribute{{Type: der.OIDCommonName, Value: name}}, Algorithm: key.P256, Validity: 86400, PathLen: 2})
		must(t, err)
		certs = append(certs, i.Certificate().Raw)
	}
	made, err := w.ca.Cross(t.Context(), admin, "g1", "g2")
	must(t, err)
	r, body := w.do(t, "GET", "/ca/g2.p7c", nil)
	if r.StatusCode != 200 || r.Header.Get("Content-Type") != "application/pkcs7-mime" {
		t.Errorf("got %d, %s", r.StatusCode, r.Header.Get("Content-Type"))
	}
	got, err := cms.ParseCertsOnly(body)
	if err != nil || len(got) != 2 || !bytes.Equal(got[0], made[0].Cert.Raw) || !bytes.Equal(got[1], certs[1]) {
		t.Errorf("got %d certificates, %v, want NewWithOld and NewWithNew in this order", len(got), err)
	}
	_, body = w.do(t, "GET", "/ca/devices.p7c", nil)
	if got, err := cms.ParseCertsOnly(body); err != nil || len(got) != 1 {
		t.Errorf("of a CA that nobody vouches for: %d certificates, %v", len(got), err)
	}
	if _, body = w.do(t, "GET", "/", nil); !strings.Contains(string(body), "Vouched for by</dt><dd>g1 ") {
		t.Error("the page does not say who vouches for g2")
	}
	if r, _ = w.do(t, "GET", "/ca/nobody.p7c", nil); r.StatusCode != 404 {
		t.Errorf("of no CA: %d", r.StatusCode)
	}
}
