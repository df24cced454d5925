package app_test

import (
	"fmt"
	"testing"

	"mooring/agent/est"
	"mooring/internal/app/apptest"
	"mooring/internal/core/ca"
	"mooring/internal/core/key"
	"mooring/wire/der"
)

// With many CAs a device that names no profile is told what it needs, and not of all of them, so that the answer keeps its size.
func TestManyCAsAreNotAllAnnounced(t *testing.T) {
	p := apptest.Start(t, nil, apptest.Variant("device", "fleet-7", "issuer: fleet-7"))
	for i := range 60 {
		name := fmt.Sprintf("fleet-%d", i)
		if _, err := p.CA.Create(t.Context(), apptest.Operator(), ca.Spec{Name: name, Parent: "root", Algorithm: key.P256, Validity: 365 * 86400,
			Subject: []der.Attribute{{Type: der.OIDCommonName, Value: name}}}); err != nil {
			t.Fatal(err)
		}
	}
	for label, want := range map[string][]string{"": {"devices", "services", "root"}, "fleet-7": {"fleet-7", "root"}} {
		bundle, err := p.Session(t, label, est.Credential{}).CACerts(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]bool{}
		for _, cert := range append(bundle.Roots, bundle.Others...) {
			got[string(cert.Raw)] = true
		}
		for _, name := range want {
			if i, err := p.CA.Issuer(name); err != nil || !got[string(i.Certificate().Raw)] {
				t.Errorf("label %q: %s is not announced, %v", label, name, err)
			}
		}
		if len(got) != len(want) {
			t.Errorf("label %q: %d certificates, want %d", label, len(got), len(want))
		}
	}
}
