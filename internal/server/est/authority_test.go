package est_test

import (
	"testing"

	"mooring/internal/app/apptest"
	"mooring/internal/core/device"
	"mooring/internal/core/revoke"
	"mooring/wire/der"
)

// TestAuthority has a registration authority send the requests of devices, each over the connection of its own (RFC 7030, section 3.7).
func TestAuthority(t *testing.T) {
	p := apptest.Start(t, nil, apptest.Variant("device", "field", "evidence: [token, operational, ra]"),
		apptest.Variant("device", "authority", "ext_key_usage: [clientAuth, cmcRA]", "approval: required", "slot: authority"))
	f := &fresh{p: p, profile: "authority"}
	call := f.call(t, enroll)
	key := apptest.Key(t)
	call.Body = apptest.Body(apptest.CSR(t, key, der.RequestSpec{}))
	want(t, p.Send(t, call), 202, "")
	if _, err := p.Enrol.Decide(t.Context(), apptest.Operator(), call.User, "", true); err != nil {
		t.Fatal(err)
	}
	ra := p.Pair(t, key, p.Send(t, call).Certificate(t).Raw)
	_, end := p.Enrolled(t, "end-entity", "field")
	d, plain := p.Add(t, device.Spec{Name: "inside", Profile: "field"}), p.Add(t, device.Spec{Name: "plain", Profile: "device"})
	names := func(name string, challenge string) apptest.Call {
		return apptest.Call{Path: enroll, Body: apptest.Body(apptest.CSR(t, apptest.Key(t), der.RequestSpec{Subject: []der.Attribute{{Type: der.OIDCommonName, Value: name}}, ChallengePassword: challenge}))}
	}
	t.Run("RA with cmcRA", func(t *testing.T) {
		for _, challenge := range []string{"", "of the device's connection to the authority"} {
			if cert := p.Send(t, names("inside", challenge), ra).Certificate(t); cert.Subject.CommonName != "inside" {
				t.Errorf("the certificate is for %s", cert.Subject)
			}
		}
		for _, e := range p.Record(t) {
			if e.Action == "cert.issue" && e.Device == d.ID.String() && (e.Detail["evidence"] != "ra" || e.Detail["authority"] != f.id(t).String()) {
				t.Errorf("the record says %+v", e.Entry)
			}
		}
	})
	t.Run("RA with cmcRA for a profile that takes no RA", func(t *testing.T) {
		want(t, p.Send(t, names("plain", ""), ra), 403, "the profile device does not accept authentication by ra: its evidence must list that\n")
		want(t, p.Send(t, names("nobody", ""), ra), 403, "the device \"nobody\" that the registration authority names is not registered\n")
		call := names("inside", "")
		call.Path = reenroll // what is renewed is the certificate of the connection
		if r := p.Send(t, call, ra); r.StatusCode != 403 {
			t.Errorf("a renewal: got %s", r)
		}
		if n := p.Load(t, plain.ID).Issued; n != 0 {
			t.Errorf("%d certificates were issued", n)
		}
	})
	t.Run("RA without cmcRA", func(t *testing.T) {
		want(t, p.Send(t, names("inside", ""), end), 403, "the request asks for the subject \"CN=inside\", but the profile field gives \"CN=end-entity\": ask for that, or leave the subject empty\n")
		if n := p.Load(t, d.ID).Issued; n != 2 {
			t.Errorf("%d certificates were issued, want those of before", n)
		}
	})
	t.Run("RA with cmcRA for itself", func(t *testing.T) {
		// Whoever approved it would give the device a certificate of the authority.
		nameless := apptest.Call{Path: enroll, Body: apptest.Body(apptest.CSR(t, apptest.Key(t), der.RequestSpec{}))}
		for _, call := range []apptest.Call{nameless, names(call.User, "")} {
			want(t, p.Send(t, call, ra), 403, "a registration authority asks here for others: give the device's name as the common name of the request, and let the authority's own certificate be renewed by its key\n")
		}
		own := der.RequestSpec{RawSubject: ra.Leaf.RawSubject, Names: der.AltNames{URI: []string{ra.Leaf.URIs[0].String()}}}
		p.Send(t, apptest.Call{Path: reenroll, Body: apptest.Body(apptest.CSR(t, apptest.Key(t), own))}, ra).Certificate(t)
	})
	t.Run("RA for a device whose certificate is on hold", func(t *testing.T) {
		p.Add(t, device.Spec{Name: "held", Profile: "field"})
		cert := p.Send(t, names("held", ""), ra).Certificate(t)
		if _, err := p.Revoke.Certificate(t.Context(), apptest.Operator(), cert.SerialNumber.Bytes(), revoke.CertificateHold); err != nil {
			t.Fatal(err)
		}
		want(t, p.Send(t, names("held", ""), ra), 403, "the device's newest certificate is on hold; ask the device's operator\n")
	})
	t.Run("RA that is registered for another profile by now", func(t *testing.T) {
		change := func(profile string) {
			if _, err := p.Devices.Change(t.Context(), apptest.Operator(), f.id(t), device.Change{Profile: &profile}); err != nil {
				t.Fatal(err)
			}
		}
		change("field")
		want(t, p.Send(t, names("inside", ""), ra), 401, "")
		wantTrace(t, p, "this registration authority is now registered for the profile field, which makes it none")
		change("authority")
		p.Send(t, names("inside", ""), ra).Certificate(t)
	})
	t.Run("RA that is suspended", func(t *testing.T) {
		if _, err := p.Revoke.Device(t.Context(), apptest.Operator(), f.id(t), device.Suspend, revoke.Unspecified); err != nil {
			t.Fatal(err)
		}
		want(t, p.Send(t, names("inside", ""), ra), 403, "the client certificate is on hold; ask the device's operator\n")
	})
}
