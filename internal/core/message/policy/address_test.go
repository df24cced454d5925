package policy

import (
	"math/rand/v2"
	"slices"
	"testing"

	"mooring/wire/mqtt"
)

func TestAddressees(t *testing.T) {
	t.Parallel()
	const text = `
group cloud { principal service; match role=operator; allow subscribe v1/#; allow publish v1/+/cmd/+ }
group gateways { match kind=gateway; extends things; allow act-for children; allow subscribe child/${child}/in; allow subscribe v1/${child}/in }
group several { match profile=several; connections 2; allow subscribe many/${client}/in }
group twofold { match profile=twofold; allow subscribe pair/${thing}/${client}; allow subscribe pair/all; allow subscribe many/${client}/in }
group single { match profile=single; allow subscribe one/${client}/in }
group things {
    match any
    allow publish v1/${thing}/telemetry/#
    allow subscribe v1/${thing}/cmd/+
    allow subscribe v1/group/${group}/notice
    allow subscribe id-${thing}-in/${attr.site}
    allow subscribe twice/${thing}/${thing}
    allow subscribe news/#
    allow subscribe both/+/x
    allow subscribe both/${thing}/x
}
`
	s, err := Parse("f", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name, topic      string
		things, children []string
		cast             bool
	}{
		{"a command", "v1/dev-1/cmd/reboot", []string{"dev-1"}, nil, false},
		{"telemetry", "v1/dev-1/telemetry/temp", nil, nil, false},
		{"a group's notice", "v1/group/plant-3/notice", nil, nil, true},
		{"a notice to a group that is called cmd", "v1/group/cmd/notice", nil, nil, true},
		{"a part of a level", "id-dev-1-in/north", []string{"dev-1"}, nil, false},
		{"nobody in a part of a level", "id--in/north", nil, nil, false},
		{"the same name twice", "twice/dev-1/dev-1", []string{"dev-1"}, nil, false},
		{"two names", "twice/dev-1/dev-2", nil, nil, false},
		{"news", "news/a/b", nil, nil, true},
		{"the level above a #", "news", nil, nil, false},
		{"both", "both/dev-1/x", []string{"dev-1"}, nil, true},
		{"a child", "child/c1/in", nil, []string{"c1"}, false},
		{"a client identifier with a suffix", "many/a.b~c/in", []string{"a.b~c", "a.b"}, nil, false},
		{"a client identifier like another's name", "many/a.b/in", []string{"a.b"}, nil, false},
		{"a client identifier that is a suffix alone", "many/~c/in", []string{"~c"}, nil, false},
		{"a client identifier without one", "one/a.b/in", []string{"a.b"}, nil, false},
		{"a thing and its client identifier", "pair/a/a.b", []string{"a"}, nil, false},
		{"a client identifier behind a fixed word", "pair/all/a.b", nil, nil, false},
		{"a child that is called like a fixed word", "v1/group/in", nil, nil, false},
		{"the server's", "$SYS/x", nil, nil, false},
		{"nothing", "", nil, nil, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			to := Addressees{Things: []string{"left"}, Children: []string{"left"}, Cast: true}
			s.Addressees(row.topic, &to)
			if !slices.Equal(to.Things, row.things) || !slices.Equal(to.Children, row.children) || to.Cast != row.cast {
				t.Errorf("%q is for %+v, want %v, %v, %v", row.topic, to, row.things, row.children, row.cast)
			}
		})
	}
}

// TestAddresseesMissNobody: whatever a thing may receive is addressed to it, or to many.
func TestAddresseesMissNobody(t *testing.T) {
	t.Parallel()
	s := Default()
	names := []string{"dev-1", "dev-2", "group", "cmd", "state"}
	for _, thing := range names {
		for _, group := range names {
			r, err := s.Compile(Subject{Thing: thing, Kind: Gateway, Group: group, Child: func(name string) bool { return name == "dev-2" }})
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range names {
				for _, b := range append(names, "notice", "x") {
					for _, topic := range []string{"v1/" + a + "/" + b, "v1/" + a + "/cmd/" + b, "v1/" + a + "/" + b + "/notice"} {
						v := r.Receive(topic)
						var to Addressees
						s.Addressees(topic, &to)
						if v.OK() && !to.Cast && !slices.Contains(to.Things, thing) && !slices.Contains(to.Children, v.Child) {
							t.Errorf("%s of %s may receive %q (%+v), which is addressed to %+v", thing, group, topic, v, to)
						}
					}
				}
			}
		}
	}
}

// TestHeard: a session follows what devices say if and only if its filter means any of it.
func TestHeard(t *testing.T) {
	t.Parallel()
	s, err := Parse("f", []byte(`
group cloud { principal service; match role=operator; allow publish v1/+/cmd/+; allow publish cloud/x/y }
group things {
    match any
    allow act-for children
    allow publish v1/${thing}/telemetry/#
    allow publish in/id-${thing}/${child}
    allow publish any/+
    allow will gone/${thing}
    allow subscribe v1/${thing}/cmd/+
    allow publish ${attr.root}/x
}
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name, filter string
		want         bool
	}{
		{"everything", "#", true},
		{"telemetry of all", "v1/+/telemetry/#", true},
		{"telemetry of one", "v1/dev-1/telemetry/temp", true},
		{"all of one", "v1/dev-1/#", true},
		{"shared", "$share/g/v1/+/telemetry/#", true},
		{"a child", "in/id-a/b", true},
		{"any children", "in/+/+", true},
		{"any level", "any/thing", true},
		{"a will", "gone/dev-1", true},
		{"a root by a tag", "north/x", true},
		{"the level above, by a #", "any/x/#", true},
		{"commands", "v1/dev-1/cmd/+", false},
		{"any commands", "v1/+/cmd/+", false},
		{"commands, shared", "$share/g/v1/+/cmd/+", false},
		{"the cloud's", "cloud/x/+", false},
		{"the level above a rule's #", "v1/dev-1/telemetry", false},
		{"less than a rule", "v1/dev-1", false},
		{"more than a rule", "gone/dev-1/x", false},
		{"another part of a level", "in/ID-a/b", false},
		{"the server's", "$SYS/#", false},
		{"the server's x", "$SYS/x", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			if got := s.Heard(row.filter); got != row.want {
				t.Errorf("Heard(%q) = %v, want %v", row.filter, got, row.want)
			}
		})
	}
}

// TestWildcardsDoNotHearTheServersTopics: no wildcard at the beginning means what begins with a dollar.
func TestWildcardsDoNotHearTheServersTopics(t *testing.T) {
	t.Parallel()
	s, err := Parse("f", []byte("group a { match any; allow publish $sparkplug/certificates/${thing}; allow publish $sparkplug/certificates/x/$a/$b }"))
	if err != nil {
		t.Fatal(err)
	}
	for filter, want := range map[string]bool{"#": false, "+/certificates/+": false, "$sparkplug/#": true, "$sparkplug/certificates/+": true, "$sparkplug/certificates/x/$a/#": true} {
		if got := s.Heard(filter); got != want {
			t.Errorf("Heard(%q) = %v, want %v", filter, got, want)
		}
	}
}

// TestHeardMissesNothing holds Heard against topics: where a device may publish what a filter means, it says yes.
func TestHeardMissesNothing(t *testing.T) {
	t.Parallel()
	topics := topicsOf(4)
	rng := rand.New(rand.NewPCG(6, 2026))
	yes, no := 0, 0
	for range 200 {
		template := randomFilter(rng, true)
		if template == "" {
			continue
		}
		s, err := Parse("f", []byte("group x { match any; allow act-for children; allow publish "+quote(template)+"\n}"))
		if err != nil {
			t.Fatal(err)
		}
		for range 40 {
			filter := randomFilter(rng, false)
			if filter == "" {
				continue
			}
			heard, met := s.Heard(filter), false
			for _, topic := range topics {
				met = met || mqtt.Match(filter, topic) && plainly(template, topic)
			}
			if met && !heard {
				t.Fatalf("a rule for %q, and Heard(%q) is false", template, filter)
			}
			if heard {
				yes++
			} else {
				no++
			}
		}
	}
	if yes < 500 || no < 500 {
		t.Errorf("%d times yes, %d times no: the draw is too one-sided to show anything", yes, no)
	}
}
