package policy

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func guide(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../../../../doc/policies.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// examples returns the policies of the guide.
func examples(t *testing.T) []*Set {
	t.Helper()
	var all []*Set
	for _, m := range regexp.MustCompile("(?s)\n```policy\n(.*?)```").FindAllStringSubmatch(guide(t), -1) {
		s, err := Parse("fleet.policy", []byte(m[1]))
		if err != nil {
			t.Fatalf("%s\n%v", m[1], err)
		}
		all = append(all, s)
	}
	if len(all) < 6 {
		t.Fatalf("only %d examples were found: the search does not see them", len(all))
	}
	return all
}

// example returns the one with a group.
func example(t *testing.T, group string) *Set {
	t.Helper()
	for _, s := range examples(t) {
		if slices.Contains(s.Groups(), group) {
			return s
		}
	}
	t.Fatalf("no example has the group %s", group)
	return nil
}

// TestGuideTellsOfEverySetting compares the guide's tables with those of the parser, defaults included.
func TestGuideTellsOfEverySetting(t *testing.T) {
	t.Parallel()
	page := guide(t)
	row := regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| (\\S*) ?\\| (\\S*) ?\\| .+ \\|$")
	told := map[string]string{}
	for _, m := range row.FindAllStringSubmatch(page, -1) {
		told[m[1]] = strings.ReplaceAll(m[2]+" "+m[3], "`", "")
	}
	for _, s := range settingTable() {
		if want := s.device + " " + s.service; told[s.name] != want {
			t.Errorf("the guide gives %q the defaults %q, want %q", s.name, told[s.name], want)
		}
		delete(told, s.name)
	}
	for name := range told {
		t.Errorf("the guide has a setting %q, which the parser does not know", name)
	}
	for _, o := range optionTable() {
		var of []string
		for _, a := range o.of {
			of = append(of, actionNames[a])
		}
		if !regexp.MustCompile("(?m)^\\| `" + o.name + " [^`]+` \\| " + strings.Join(of, ", ") + " \\| .+ \\|$").MatchString(page) {
			t.Errorf("the guide has no row for the option %s of %s", o.name, strings.Join(of, ", "))
		}
	}
	for _, name := range attributes {
		if !strings.Contains(page, "\n| `"+name+"` | ") {
			t.Errorf("the guide does not tell of the attribute %s", name)
		}
	}
	for _, name := range variables {
		if !strings.Contains(page, "\n| `${"+name+"}` | ") {
			t.Errorf("the guide does not tell of the variable %s", name)
		}
	}
	bounds := fmt.Sprintf("at most %d KiB, %d groups and 1,024 rules; a group at most %d rules", mostText>>10, mostGroups, mostRules)
	if !strings.Contains(page, bounds) || mostAllows != 1024 {
		t.Errorf("the guide does not say: %s", bounds)
	}
}

// TestGuideShowsWhatIsSaid holds the guide's answers against the code's.
func TestGuideShowsWhatIsSaid(t *testing.T) {
	t.Parallel()
	page := guide(t)
	s := example(t, "meters")
	r, err := s.Compile(Subject{Thing: "meter-1", Kind: Device, Profile: "meter", Tags: map[string]string{"model": "m3", "site": "north"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := r.ExplainPublish("v1/meter-2/state", 0, false, 1).String(); !strings.Contains(page, "```text\n"+got+"```") {
		t.Errorf("the guide does not show\n%s", got)
	}
	_, err = Parse("fleet.policy", []byte("group a {\n  match any\n  rate fast\n  allow publish a/b+\n}\n"))
	if !strings.Contains(page, "```text\n"+err.Error()+"\n```") {
		t.Errorf("the guide does not show\n%v", err)
	}
	answers := regexp.MustCompile("(?m)^\\| `([^`]+)` \\| (granted|refused)").FindAllStringSubmatch(page, -1)
	if len(answers) != 5 {
		t.Fatalf("%d answers to filters were found, want 5", len(answers))
	}
	for _, m := range answers {
		if got := r.Subscribe(m[1], 0, false).OK(); got != (m[2] == "granted") {
			t.Errorf("the guide says %s of %s, and that is %v", m[2], m[1], got)
		}
	}
}

// TestGuideClosesItsHoles: the three differences from other brokers that the guide promises.
func TestGuideClosesItsHoles(t *testing.T) {
	t.Parallel()
	s := example(t, "shadow")
	speaks := func(dialect, name string) *Rights {
		r, err := s.Compile(Subject{Thing: name, Kind: Device, Tags: map[string]string{"speaks": dialect, "site": "north"}})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for _, row := range []struct {
		name string
		v    Verdict
		want bool
	}{
		{"azure", speaks("azure", "d").Publish("devices/d/messages/events/x", 1, false, 1), true},
		{"azure, the level above", speaks("azure", "d").Publish("devices/d/messages/events", 1, false, 1), false},
		{"shadow", speaks("shadow", "d").Publish("dt/north/id-d/x", 1, false, 1), true},
		{"shadow, answers", speaks("shadow", "d").Subscribe("things/d/shadow/update/accepted", 1, false), true},
		{"plain", speaks("plain", "d").Publish("t/d/x", 1, false, 1), true},
		{"plain, the level above by its own rule", speaks("plain", "d").Publish("t/d", 1, false, 1), true},
		{"plain, another's", speaks("plain", "d").Publish("t/d2/x", 1, false, 1), false},
	} {
		if row.v.OK() != row.want {
			t.Errorf("%s: %+v, want %v", row.name, row.v, row.want)
		}
	}
}

// TestSparkplugTemplate walks through a session of an edge node and one of a host, by the policy of the guide.
func TestSparkplugTemplate(t *testing.T) {
	t.Parallel()
	s := example(t, "sparkplug-nodes")
	node, err := s.Compile(Subject{Thing: "edge-1", Kind: Device, Group: "plant", Profile: "edge"})
	if err != nil {
		t.Fatal(err)
	}
	host, err := s.Compile(Subject{Thing: "scada-1", Kind: Device, Profile: "scada"})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name string
		v    Verdict
		want bool
	}{
		{"the will", node.Will("spBv1.0/plant/NDEATH/edge-1", 1, false, 40), true},
		{"the will, retained", node.Will("spBv1.0/plant/NDEATH/edge-1", 1, true, 40), false},
		{"the will of another node", node.Will("spBv1.0/plant/NDEATH/edge-2", 1, false, 40), false},
		{"birth", node.Publish("spBv1.0/plant/NBIRTH/edge-1", 0, false, 400), true},
		{"data", node.Publish("spBv1.0/plant/NDATA/edge-1", 0, false, 400), true},
		{"death", node.Publish("spBv1.0/plant/NDEATH/edge-1", 1, false, 40), true},
		{"birth of a device", node.Publish("spBv1.0/plant/DBIRTH/edge-1/valve", 0, false, 400), true},
		{"data of a device", node.Publish("spBv1.0/plant/DDATA/edge-1/valve", 0, false, 400), true},
		{"death of a device", node.Publish("spBv1.0/plant/DDEATH/edge-1/valve", 0, false, 40), true},
		{"birth of another node", node.Publish("spBv1.0/plant/NBIRTH/edge-2", 0, false, 400), false},
		{"birth in another group", node.Publish("spBv1.0/mill/NBIRTH/edge-1", 0, false, 400), false},
		{"the host's state", node.Publish("spBv1.0/STATE/scada-1", 1, true, 40), false},
		{"commands", node.Subscribe("spBv1.0/plant/NCMD/edge-1", 1, false), true},
		{"commands with #", node.Subscribe("spBv1.0/plant/NCMD/edge-1/#", 1, false), true},
		{"commands to devices", node.Subscribe("spBv1.0/plant/DCMD/edge-1/#", 1, false), true},
		{"commands to all nodes", node.Subscribe("spBv1.0/plant/NCMD/+", 1, false), false},
		{"the hosts' states", node.Subscribe("spBv1.0/STATE/+", 1, false), true},
		{"births as they are kept", node.Subscribe("$sparkplug/certificates/#", 1, false), false},

		{"host: everything", host.Subscribe("spBv1.0/#", 1, false), true},
		{"host: births as they are kept", host.Subscribe("$sparkplug/certificates/#", 1, false), true},
		{"host: a birth as it is kept", host.Receive("$sparkplug/certificates/spBv1.0/plant/NBIRTH/edge-1"), true},
		{"host: its state", host.Publish("spBv1.0/STATE/scada-1", 1, true, 40), true},
		{"host: its will", host.Will("spBv1.0/STATE/scada-1", 1, true, 40), true},
		{"host: another's state", host.Publish("spBv1.0/STATE/scada-2", 1, true, 40), false},
		{"host: a command", host.Publish("spBv1.0/plant/NCMD/edge-1", 0, false, 40), true},
		{"host: a command to a device", host.Publish("spBv1.0/plant/DCMD/edge-1/valve", 0, false, 40), true},
		{"host: a birth", host.Publish("spBv1.0/plant/NBIRTH/edge-1", 0, false, 40), false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			if row.v.OK() != row.want {
				t.Errorf("%+v, want %v", row.v, row.want)
			}
		})
	}
	if v := node.Subscribe("spBv1.0/plant/NCMD/edge-1/#", 1, false); v.Partial {
		t.Error("who asks for its commands with # does not get them")
	}
	var to Addressees
	for topic, want := range map[string]Addressees{
		"spBv1.0/plant/NCMD/edge-1":       {Things: []string{"edge-1"}},
		"spBv1.0/plant/DCMD/edge-1/valve": {Things: []string{"edge-1"}},
		"spBv1.0/STATE/scada-1":           {Cast: true},
		"spBv1.0/plant/NDATA/edge-1":      {},
	} {
		if s.Addressees(topic, &to); !slices.Equal(to.Things, want.Things) || to.Cast != want.Cast {
			t.Errorf("%s is for %+v, want %+v", topic, to, want)
		}
	}
}
