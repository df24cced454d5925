package enrol_test

import (
	"net/netip"
	"strings"
	"testing"

	"mooring/internal/app/apptest"
	"mooring/internal/core/audit"
	"mooring/internal/core/enrol"
	"mooring/wire/der"
)

// TestRefusalsHoldNoNames: whatever a request asks for in vain, the client is told what it was, and the record, which forgets nothing, is not.
func TestRefusalsHoldNoNames(t *testing.T) {
	p := apptest.Start(t, nil)
	_, token := p.Device(t, "meter-1", "device")
	_, gateway := p.Device(t, "gw-1", "gateway")
	_, pair := p.Enrolled(t, "meter-2", "device")
	subject := func(cn string) der.RequestSpec {
		return der.RequestSpec{Subject: []der.Attribute{{Type: der.OIDCommonName, Value: cn}}}
	}
	csr := func(spec der.RequestSpec) []byte { return apptest.CSR(t, apptest.Key(t), spec) }
	profile := byToken("meter-1", token, csr(der.RequestSpec{}))
	profile.Profile = "marsha-private"
	requests := map[string]enrol.Request{
		"subject":      byToken("meter-1", token, csr(subject("marsha-private"))),
		"quoted":       byToken("gw-1", gateway, csr(subject(`a" marsha-private \"b`))),
		"DNS name":     byToken("meter-1", token, csr(der.RequestSpec{Names: der.AltNames{DNS: []string{"marsha-private.example"}}})),
		"mail address": byToken("gw-1", gateway, csr(der.RequestSpec{Names: der.AltNames{Email: []string{"marsha-private@example.com"}}})),
		"URI":          byToken("meter-1", token, csr(der.RequestSpec{Names: der.AltNames{URI: []string{"urn:marsha-private:1"}}})),
		"renewal":      byCert(enrol.Renew, pair, csr(subject("marsha-private"))),
		"profile":      profile,
	}
	for name, r := range requests {
		if _, err := p.Enrol.Submit(t.Context(), r); err == nil || !strings.Contains(err.Error(), "marsha-private") {
			t.Errorf("%s: the client is told %v, want what it asked for", name, err)
		}
	}
	address := netip.MustParseAddr("203.0.113.77")
	if _, err := p.Enrol.Submit(t.Context(), byToken("meter-1", token, csr(der.RequestSpec{Names: der.AltNames{IP: []netip.Addr{address}}}))); err == nil {
		t.Error("the address was granted")
	}
	refusals := entries(t, p, func(e audit.Entry) bool { return e.Action == "enrol.refuse" })
	if len(refusals) != len(requests)+1 {
		t.Errorf("%d refusals on record, want %d: %v", len(refusals), len(requests)+1, refusals)
	}
	for _, e := range p.Record(t) {
		if text := string(e.Entry.Bytes()); strings.Contains(text, "marsha") || strings.Contains(text, address.String()) {
			t.Errorf("the record holds %s", text)
		}
	}
	for _, e := range refusals {
		if !strings.Contains(e.Refused, "…") {
			t.Errorf("the reason %q shows no gap", e.Refused)
		}
	}
}
