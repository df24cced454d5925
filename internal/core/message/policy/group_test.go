package policy

import (
	"strings"
	"testing"

	"mooring/internal/base/errs"
)

func TestGroups(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, match string // of the group "it"
		subject     Subject
		want        bool
	}{
		{"any", "match any", Subject{Thing: "x", Kind: Device}, true},
		{"any, a gateway", "match any", Subject{Thing: "x", Kind: Gateway}, true},
		{"any, a service", "match any", Subject{Thing: "x", Kind: Service}, false},
		{"none", "match none", Subject{Thing: "x", Kind: Device}, false},
		{"kind", "match kind=gateway", Subject{Thing: "x", Kind: Gateway}, true},
		{"another kind", "match kind=gateway", Subject{Thing: "x", Kind: Device}, false},
		{"profile", "match profile=meter", Subject{Thing: "x", Kind: Device, Profile: "meter"}, true},
		{"another profile", "match profile=meter", Subject{Thing: "x", Kind: Device, Profile: "meters"}, false},
		{"no profile", "match profile=meter", Subject{Thing: "x", Kind: Device}, false},
		{"group", "match group=plant-3", Subject{Thing: "x", Kind: Device, Group: "plant-3"}, true},
		{"no group", `match group=""`, Subject{Thing: "x", Kind: Device}, true},
		{"a group where none is asked for", `match group=""`, Subject{Thing: "x", Kind: Device, Group: "g"}, false},
		{"manufacturer", "match manufacturer=acme", Subject{Thing: "x", Kind: Device, Manufacturer: "acme"}, true},
		{"tag", "match attr.model=m3", Subject{Thing: "x", Kind: Device, Tags: map[string]string{"model": "m3"}}, true},
		{"tag with a blank", `match attr.site="Plant 3"`, Subject{Thing: "x", Kind: Device, Tags: map[string]string{"site": "Plant 3"}}, true},
		{"another tag", "match attr.model=m3", Subject{Thing: "x", Kind: Device, Tags: map[string]string{"site": "m3"}}, false},
		{"a tag that is there", "match attr.site=*", Subject{Thing: "x", Kind: Device, Tags: map[string]string{"site": "n"}}, true},
		{"a tag that is not there", "match attr.site=*", Subject{Thing: "x", Kind: Device}, false},
		{"all of a line", "match profile=meter attr.model=m3", Subject{Thing: "x", Kind: Device, Profile: "meter", Tags: map[string]string{"model": "m3"}}, true},
		{"not all of a line", "match profile=meter attr.model=m3", Subject{Thing: "x", Kind: Device, Profile: "meter"}, false},
		{"one of two lines", "match profile=meter\nmatch profile=pump", Subject{Thing: "x", Kind: Device, Profile: "pump"}, true},
		{"none of two lines", "match profile=meter\nmatch profile=pump", Subject{Thing: "x", Kind: Device, Profile: "fan"}, false},
		{"beginning", "match name=meter-*", Subject{Thing: "meter-17", Kind: Device}, true},
		{"beginning and no more", "match name=meter-*", Subject{Thing: "meter-", Kind: Device}, true},
		{"another beginning", "match name=meter-*", Subject{Thing: "xmeter-17", Kind: Device}, false},
		{"end", "match name=*-17", Subject{Thing: "meter-17", Kind: Device}, true},
		{"middle", "match name=m*-*7", Subject{Thing: "meter-b-17", Kind: Device}, true},
		{"parts that would overlap", "match name=ab*ba", Subject{Thing: "aba", Kind: Device}, false},
		{"the same part again", "match name=*ab*ab", Subject{Thing: "abab", Kind: Device}, true},
		{"the same part once", "match name=*ab*ab", Subject{Thing: "ab", Kind: Device}, false},
		{"stars side by side", "match name=a**b", Subject{Thing: "ab", Kind: Device}, true},
		{"a middle that comes too early", "match name=a*b*c", Subject{Thing: "bac", Kind: Device}, false},
		{"parts in another order", "match name=*b*a*", Subject{Thing: "ab", Kind: Device}, false},
		{"a star in the name", "match name=a*", Subject{Thing: "*", Kind: Device}, false},
		{"a service", "principal service\nmatch role=operator", Subject{Thing: "x", Kind: Service, Role: "operator"}, true},
		{"a service by its name", "principal service\nmatch name=ingest", Subject{Thing: "ingest", Kind: Device}, true},
		{"a service by its profile and a tag", "principal service\nmatch profile=back* attr.site=north", Subject{Thing: "x", Kind: Service, Profile: "backend", Tags: map[string]string{"site": "north"}}, true},
		{"a service by its registration", "principal service\nmatch profile=backend", Subject{Thing: "x", Kind: Device, Profile: "backend"}, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s, err := Parse("f", []byte("group it {\n"+row.match+"\n}\n"))
			if err != nil {
				t.Fatal(err)
			}
			name, ok := s.Group(row.subject)
			if ok != row.want || ok && name != "it" {
				t.Errorf("Group = %q, %v, want %v", name, ok, row.want)
			}
			if _, err := s.Compile(row.subject); (err == nil) != row.want || err != nil && !errs.Is(err, errs.Denied) {
				t.Errorf("Compile: %v, want allowed %v", err, row.want)
			}
			notes := s.ExplainGroup(row.subject)
			if last := notes[len(notes)-1]; last.Decides != row.want || (last.Lack == "") != row.want {
				t.Errorf("ExplainGroup says %+v, want decides %v", last, row.want)
			}
		})
	}
}

func TestTheFirstGroupWins(t *testing.T) {
	t.Parallel()
	s, err := Parse("f", []byte("group b { match kind=gateway }\ngroup a { match name=x* }\ngroup c { match any }"))
	if err != nil {
		t.Fatal(err)
	}
	for name, subject := range map[string]Subject{"b": {Thing: "x", Kind: Gateway}, "a": {Thing: "x", Kind: Device}, "c": {Thing: "y", Kind: Device}} {
		if got, _ := s.Group(subject); got != name {
			t.Errorf("%+v belongs to %q, want %q", subject, got, name)
		}
	}
}

func TestExtends(t *testing.T) {
	t.Parallel()
	s, err := Parse("f", []byte(`
group base { connections 3; rate 10/s burst 50; session_expiry 1h; allow publish base/${thing} }
group both { extends base other extra; match kind=gateway; session_expiry 2h; allow publish own }
group other { extends base; connections 5; rate 20/s; allow publish other }
group extra { allow publish extra }
group plain { match any }
`))
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Compile(Subject{Thing: "g", Kind: Gateway})
	if err != nil {
		t.Fatal(err)
	}
	want := defaults(Device)
	want.Connections, want.SessionExpiry, want.Rate, want.MaxQoS = 5, 7200, Rate{20, 1e9, 20}, 2
	if r.Limits != want {
		t.Errorf("limits\n%+v, want\n%+v", r.Limits, want)
	}
	var topics []string
	for _, ru := range r.rules {
		topics = append(topics, ru.template.text)
	}
	if got := strings.Join(topics, " "); got != "base/${thing} other extra own" {
		t.Errorf("the rules are for %s", got)
	}
	plain, err := s.Compile(Subject{Thing: "d", Kind: Device})
	if err != nil {
		t.Fatal(err)
	}
	if v := plain.Publish("base/d", 0, false, 1); v.OK() {
		t.Errorf("a group that extends nothing has a rule of another: %+v", v)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	device := compiled(t, fleet, meter("dev-1")).Limits
	if device.Connections != 1 || device.SessionExpiry != 86400 || device.KeepAlive != 1200 || device.Idle != 86400 || device.Packet != 128<<10 || device.InFlightIn != 32 ||
		device.QueueMessages != 100 || device.QueueOctets != 256<<10 || device.Subscriptions != 100 || device.Filters != 64 || device.Deny != DenyClose || device.Revoked != RetainedHide {
		t.Errorf("a device has %+v", device)
	}
	if !device.Retain || device.Shared || device.MaxQoS != 2 {
		t.Errorf("what follows from the rules is %+v", device)
	}
	service := compiled(t, fleet, backend()).Limits
	if service.Principal != Service || service.ClientID != ClientAny || service.InFlightIn != 1024 || service.Subscriptions != 10_000 || service.Rate.Count != 0 || !service.Shared || service.Retain {
		t.Errorf("a service has %+v", service)
	}
}

func TestCompileAs(t *testing.T) {
	t.Parallel()
	s, err := Parse("f", []byte("group base { allow publish b }\ngroup lab { extends base; match none; client_id any; allow publish lab/# }\ngroup rest { match any }"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.CompileAs("lab", Subject{Thing: "x", Kind: Device})
	if err != nil {
		t.Fatal(err)
	}
	if v := r.Publish("lab/x", 0, false, 1); !v.OK() || r.Group != "lab" {
		t.Errorf("in the group %s: %+v", r.Group, v)
	}
	for _, name := range []string{"nobody", "base", ""} {
		if _, err := s.CompileAs(name, Subject{Thing: "x", Kind: Device}); !errs.Is(err, errs.NotFound) || !strings.Contains(err.Error(), "those are lab, rest") {
			t.Errorf("CompileAs(%q): %v", name, err)
		}
	}
}

// TestInteropGroup: the group of the listener for tests is there, nobody belongs to it by himself, and what its members say is addressed to nobody.
func TestInteropGroup(t *testing.T) {
	t.Parallel()
	s := Default()
	r, err := s.CompileAs("interop", Subject{Thing: "anonymous", Kind: Device})
	if err != nil {
		t.Fatal(err)
	}
	if id, ok := r.ClientID("anything"); id != "anything" || !ok {
		t.Errorf("ClientID = %q, %v", id, ok)
	}
	for _, topic := range []string{"a", "a/b", "/"} {
		if !r.Publish(topic, 2, true, 1).OK() || !r.Receive(topic).OK() || !r.Will(topic, 2, true, 1).OK() || !r.Subscribe(topic, 2, true).OK() {
			t.Errorf("%q is not allowed", topic)
		}
	}
	if v := r.Subscribe("#", 2, false); !v.OK() || v.Partial {
		t.Errorf("everything: %+v", v)
	}
	for _, kind := range []Kind{Device, Gateway, Service} {
		if name, _ := s.Group(Subject{Thing: "interop", Kind: kind, Role: "interop", Profile: "interop"}); name == "interop" {
			t.Errorf("something of kind %s belongs to it", kind)
		}
	}
	var to Addressees
	if s.Addressees("a/b", &to); to.Cast || len(to.Things) > 0 {
		t.Errorf("a/b is for %+v", to)
	}
}
