package ca_test

import (
	"testing"
	"testing/fstest"

	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/internal/core/key"
	"mooring/wire/der"
)

// TestNoRoleByValues: what no look at the profile can see is refused when the certificate is built.
func TestNoRoleByValues(t *testing.T) {
	f := newFixture(t)
	f.hierarchy(t)
	k := newKey(t, key.P256)
	for name, row := range map[string]struct {
		uri, uris string
		grants    string
		may       bool
	}{
		"a registered name":               {uri: "urn:mooring:role:admin", uris: "registry: true"},
		"in another case":                 {uri: "URN:MOORING:role:admin", uris: "registry: true"},
		"by a tag":                        {uri: "urn:x:1", uris: `fixed: ["urn:mooring:{device.tag.role}"]`},
		"a registered name, another role": {uri: "urn:mooring:role:admin", uris: `fixed: ["urn:mooring:role:auditor"], registry: true`, grants: "auditor"},
		"another name":                    {uri: "urn:mooring:roles", uris: "registry: true", may: true},
		"the own role":                    {uri: "urn:x:1", uris: `fixed: ["urn:mooring:role:auditor"], registry: true`, grants: "auditor", may: true},
	} {
		t.Run(name, func(t *testing.T) {
			text := "name: p\nissuer: devices\nsubject: [{CN: \"{device.name}\"}]\nkey_usage: [digitalSignature]\next_key_usage: [clientAuth]\nvalidity: 1d\nsan: {uri: {" + row.uris + "}}\n"
			if row.grants != "" {
				text += "grants: " + row.grants + "\n"
			}
			ps, err := ca.LoadProfiles(fstest.MapFS{"p.yaml": {Data: []byte(text)}})
			if err != nil {
				t.Fatal(err)
			}
			o := f.order(t, "device", request(t, k, der.RequestSpec{}))
			if o.Profile, err = ps.Get("p"); err != nil {
				t.Fatal(err)
			}
			o.Registry.Names = der.AltNames{URI: []string{row.uri}}
			o.Registry.Tags = map[string]string{"role": "role:admin"}
			_, err = f.Prepare(t.Context(), o)
			if row.may != (err == nil) || err != nil && !errs.Is(err, errs.Denied) {
				t.Errorf("got %v, permitted: %v", err, row.may)
			}
		})
	}
}
