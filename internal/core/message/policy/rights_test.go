package policy

import (
	"strings"
	"testing"

	"mooring/internal/base/errs"
)

// fleet is a policy with one of everything that the tests here ask about.
const fleet = `
group backends {
    principal service
    match role=operator
    match profile=backend
    allow subscribe v1/${tenant}/# shared yes
    allow publish v1/${tenant}/+/cmd/+
}

group quiet {
    extends meters
    match attr.mode=quiet
    deny drop
    connections 3
    response_topics any
}

group gateways {
    extends meters
    match kind=gateway
    allow act-for children both yes
    allow publish v1/${tenant}/${child}/telemetry/# size 100
    allow publish v1/${tenant}/gw-${child}-in/up
    allow subscribe v1/${tenant}/${child}/cmd/+
    allow will v1/${tenant}/${child}/state
}

group meters {
    match profile=meter
    session_expiry 24h
    allow publish v1/${tenant}/${thing}/telemetry/# max_qos 1 size 16KiB
    allow publish v1/${tenant}/${thing}/state retain yes
    allow publish v1/${tenant}/${thing}/telemetry/big max_qos 2 size 64KiB
    allow subscribe v1/${tenant}/${thing}/cmd/+
    allow subscribe v1/${tenant}/${thing}/cmd/# max_qos 0
    allow subscribe v1/${tenant}/site/${attr.site}/notice
    allow will v1/${tenant}/${thing}/state retain yes size 64
}

group talkers {
    match profile=talker
    connections 2
    allow publish id-${client}/up
    allow subscribe ${client}/down/#
}
`

func compiled(t *testing.T, text string, subject Subject) *Rights {
	t.Helper()
	s, err := Parse("fleet.policy", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Compile(subject)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func meter(name string) Subject {
	return Subject{Tenant: "acme", Thing: name, Kind: Device, Profile: "meter", Tags: map[string]string{"site": "north"}}
}

func backend() Subject {
	return Subject{Tenant: "acme", Thing: "ingest", Kind: Service, Role: "operator"}
}

func gateway() Subject {
	return Subject{Tenant: "acme", Thing: "gw", Kind: Gateway, Profile: "meter", Tags: map[string]string{"site": "north"},
		Child: func(name string) bool { return name == "c1" || name == "gw" || name == "site" }}
}

// TestConstant: who may act for children gets other answers when the registry lists other ones.
func TestConstant(t *testing.T) {
	const text = `
group gateways { match kind=gateway; extends things; allow act-for children; allow publish t/${child}/x }
group things { match any; allow publish t/${thing}/# }
`
	if !compiled(t, text, meter("m-1")).Constant() {
		t.Error("Constant() of a thing without children = false, want true")
	}
	child := true
	subject := gateway()
	subject.Child = func(string) bool { return child }
	r := compiled(t, text, subject)
	was := r.Publish("t/c1/x", 0, false, 1).OK()
	child = false
	if is := r.Publish("t/c1/x", 0, false, 1).OK(); was == is || r.Constant() {
		t.Errorf("the child may be spoken for: %v, and %v when it is not listed any more; Constant() = %v, want false", was, is, r.Constant())
	}
}

// TestPublish is the list of ways out of one's own topics, among what is allowed.
func TestPublish(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, topic string
		qos         byte
		retain      bool
		size        int
		want        Code
	}{
		{"telemetry", "v1/acme/dev-1/telemetry/temp", 1, false, 100, Allowed},
		{"telemetry, deep", "v1/acme/dev-1/telemetry/a/b/c", 0, false, 100, Allowed},
		{"an empty level below", "v1/acme/dev-1/telemetry/", 0, false, 100, Allowed},
		{"dots are a level", "v1/acme/dev-1/telemetry/../../dev-2/state", 0, false, 100, Allowed},
		{"largest", "v1/acme/dev-1/telemetry/temp", 1, false, 16 << 10, Allowed},
		{"state, retained", "v1/acme/dev-1/state", 2, true, 10, Allowed},
		{"state, not retained", "v1/acme/dev-1/state", 0, false, 10, Allowed},
		{"the later rule allows more", "v1/acme/dev-1/telemetry/big", 2, false, 40 << 10, Allowed},

		{"the level above a #", "v1/acme/dev-1/telemetry", 0, false, 1, Denied},
		{"another thing", "v1/acme/dev-2/telemetry/temp", 0, false, 1, Denied},
		{"a name that begins like ours", "v1/acme/dev-10/telemetry/temp", 0, false, 1, Denied},
		{"a name that ours begins with", "v1/acme/dev-/telemetry/temp", 0, false, 1, Denied},
		{"another tenant", "v1/other/dev-1/telemetry/temp", 0, false, 1, Denied},
		{"capitals", "v1/acme/DEV-1/telemetry/temp", 0, false, 1, Denied},
		{"a slash before it", "/v1/acme/dev-1/telemetry/temp", 0, false, 1, Denied},
		{"two slashes", "v1/acme//dev-1/telemetry/temp", 0, false, 1, Denied},
		{"dots instead of another", "v1/acme/dev-1/../dev-2/state", 0, false, 1, Denied},
		{"something after a whole template", "v1/acme/dev-1/state/x", 0, false, 1, Denied},
		{"something before it", "x/v1/acme/dev-1/state", 0, false, 1, Denied},
		{"a look-alike", "v1/acme/dеv-1/state", 0, false, 1, Denied},
		{"a blank at the end", "v1/acme/dev-1/state ", 0, false, 1, Denied},
		{"the server's", "$SYS/broker/load", 0, false, 1, Denied},
		{"a shared filter", "$share/g/v1/acme/dev-1/telemetry/temp", 0, false, 1, Denied},
		{"one's own commands", "v1/acme/dev-1/cmd/reboot", 0, false, 1, Denied},

		{"a wildcard", "v1/acme/dev-1/telemetry/+", 0, false, 1, Malformed},
		{"a wildcard in a level", "v1/acme/dev-1/telemetry/a+b", 0, false, 1, Malformed},
		{"a wildcard of all", "v1/acme/dev-1/telemetry/#", 0, false, 1, Malformed},
		{"NUL", "v1/acme/dev-1/telemetry/\x00", 0, false, 1, Malformed},
		{"nothing", "", 0, false, 1, Malformed},
		{"too many levels", "v1/acme/dev-1/telemetry/" + strings.Repeat("/", 28), 0, false, 1, TooLong},
		{"most levels", "v1/acme/dev-1/telemetry/" + strings.Repeat("/", 27), 0, false, 1, Allowed},
		{"too many octets", "v1/acme/dev-1/telemetry/" + strings.Repeat("x", 512-23), 0, false, 1, TooLong},
		{"most octets", "v1/acme/dev-1/telemetry/" + strings.Repeat("x", 512-24), 0, false, 1, Allowed},

		{"quality of service", "v1/acme/dev-1/telemetry/temp", 2, false, 1, QoSTooHigh},
		{"retained", "v1/acme/dev-1/telemetry/temp", 1, true, 1, NoRetain},
		{"size", "v1/acme/dev-1/telemetry/temp", 1, false, 16<<10 + 1, TooLarge},
		{"size of the later rule", "v1/acme/dev-1/telemetry/big", 2, false, 64<<10 + 1, TooLarge},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			v := compiled(t, fleet, meter("dev-1")).Publish(row.topic, row.qos, row.retain, row.size)
			if v.Code != row.want {
				t.Errorf("publishing to %q: %+v, want code %d", row.topic, v, row.want)
			}
			if v.OK() != (v.Err() == nil) {
				t.Errorf("OK is %v, and the error %v", v.OK(), v.Err())
			}
		})
	}
}

func TestSubscribe(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		subject Subject
		filter  string
		qos     byte
		shared  bool
		want    Verdict // without the rule
	}{
		{"the template", meter("dev-1"), "v1/acme/dev-1/cmd/+", 2, false, Verdict{Code: Allowed, QoS: 2}},
		{"one of it", meter("dev-1"), "v1/acme/dev-1/cmd/reboot", 1, false, Verdict{Code: Allowed, QoS: 1}},
		{"an empty level of it", meter("dev-1"), "v1/acme/dev-1/cmd/", 1, false, Verdict{Code: Allowed, QoS: 1}},
		{"less quality of service", meter("dev-1"), "v1/acme/dev-1/cmd/a/b", 2, false, Verdict{Code: Allowed, QoS: 0}},
		{"without the level above", meter("dev-1"), "v1/acme/dev-1/cmd/#", 1, false, Verdict{Code: Allowed, QoS: 0, Partial: true}},
		{"a value of the registry", meter("dev-1"), "v1/acme/site/north/notice", 1, false, Verdict{Code: Allowed, QoS: 1}},
		{"a service's", backend(), "v1/acme/+/telemetry/#", 1, true, Verdict{Code: Allowed, QoS: 1}},
		{"a service's whole", backend(), "v1/acme/#", 1, false, Verdict{Code: Allowed, QoS: 1, Partial: true}},
		{"a child's", gateway(), "v1/acme/c1/cmd/+", 1, false, Verdict{Code: Allowed, QoS: 1, Child: "c1"}},

		{"everything", meter("dev-1"), "#", 1, false, Verdict{}},
		{"everything of the root", meter("dev-1"), "v1/#", 1, false, Verdict{}},
		{"everything of as many levels", meter("dev-1"), "+/+/+/+/+", 1, false, Verdict{}},
		{"any thing's", meter("dev-1"), "v1/acme/+/cmd/+", 1, false, Verdict{}},
		{"any tenant's", meter("dev-1"), "v1/+/dev-1/cmd/+", 1, false, Verdict{}},
		{"another thing's", meter("dev-1"), "+/acme/dev-2/cmd/+", 1, false, Verdict{}},
		{"a level of one's own, wild", meter("dev-1"), "v1/acme/dev-1/+/reboot", 1, false, Verdict{}},
		{"the level above a #", meter("dev-1"), "v1/acme/dev-1/cmd", 1, false, Verdict{}},
		{"the level above, wild", meter("dev-1"), "v1/acme/dev-1/#", 1, false, Verdict{}},
		{"any site's", meter("dev-1"), "v1/acme/site/+/notice", 1, false, Verdict{}},
		{"another site's", meter("dev-1"), "v1/acme/site/south/notice", 1, false, Verdict{}},
		{"what one publishes", meter("dev-1"), "v1/acme/dev-1/telemetry/#", 1, false, Verdict{}},
		{"shared", meter("dev-1"), "v1/acme/dev-1/cmd/+", 1, true, Verdict{Code: NoSharing}},
		{"shared and not taken apart", backend(), "$share/g/v1/acme/#", 1, false, Verdict{}},
		{"queue", backend(), "$queue/v1/acme/#", 1, false, Verdict{}},
		{"the server's", backend(), "$SYS/#", 1, false, Verdict{}},
		{"the fabric's", backend(), "$JS/#", 1, false, Verdict{}},
		{"all tenants", backend(), "v1/#", 1, false, Verdict{}},
		{"a foreign child's", gateway(), "v1/acme/c2/cmd/+", 1, false, Verdict{Code: NotChild}},
		{"any child's", gateway(), "v1/acme/+/cmd/+", 1, false, Verdict{}},
		{"plus in a level", backend(), "v1/acme/a+/x", 1, false, Verdict{Code: Malformed}},
		{"plus before a level", backend(), "v1/acme/+a/x", 1, false, Verdict{Code: Malformed}},
		{"hash in a level", backend(), "v1/acme/a#", 1, false, Verdict{Code: Malformed}},
		{"hash before the end", backend(), "v1/acme/#/x", 1, false, Verdict{Code: Malformed}},
		{"hash and hash", backend(), "v1/acme/##", 1, false, Verdict{Code: Malformed}},
		{"nothing", backend(), "", 1, false, Verdict{Code: Malformed}},
		{"NUL", backend(), "v1/acme/\x00", 1, false, Verdict{Code: Malformed}},
		{"too deep", backend(), "v1/acme" + strings.Repeat("/+", 31), 1, false, Verdict{Code: TooLong}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			v := compiled(t, fleet, row.subject).Subscribe(row.filter, row.qos, row.shared)
			v.Rule = 0
			if v != row.want {
				t.Errorf("subscribing to %q: %+v, want %+v", row.filter, v, row.want)
			}
		})
	}
}

// TestTheBestRuleGrants: of several rules that hold a filter, the one with the highest quality of service counts.
func TestTheBestRuleGrants(t *testing.T) {
	t.Parallel()
	r := compiled(t, "group a { match any; allow subscribe a/# max_qos 0; allow subscribe a/+ max_qos 1; allow subscribe a/b max_qos 2; allow subscribe +/b max_qos 1 }", meter("dev-1"))
	for _, row := range []struct {
		filter   string
		ask, get byte
		rule     int16
	}{
		{"a/b", 2, 2, 2}, {"a/b", 1, 1, 1}, {"a/b", 0, 0, 0}, {"a/c", 2, 1, 1}, {"a/c/d", 2, 0, 0}, {"+/b", 2, 1, 3},
	} {
		if v := r.Subscribe(row.filter, row.ask, false); !v.OK() || v.QoS != row.get || v.Rule != row.rule {
			t.Errorf("asked for %q with QoS %d: %+v, want QoS %d by rule %d", row.filter, row.ask, v, row.get, row.rule)
		}
	}
}

func TestReceive(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		subject Subject
		topic   string
		want    Code
	}{
		{"a command", meter("dev-1"), "v1/acme/dev-1/cmd/reboot", Allowed},
		{"the level above a #", meter("dev-1"), "v1/acme/dev-1/cmd", Denied},
		{"the level above a service's #", backend(), "v1/acme", Denied},
		{"below a service's #", backend(), "v1/acme/dev-1/state", Allowed},
		{"another thing's command", meter("dev-1"), "v1/acme/dev-2/cmd/reboot", Denied},
		{"a notice", meter("dev-1"), "v1/acme/site/north/notice", Allowed},
		{"another site's notice", meter("dev-1"), "v1/acme/site/south/notice", Denied},
		{"a child's command", gateway(), "v1/acme/c1/cmd/x", Allowed},
		{"a foreign child's command", gateway(), "v1/acme/c2/cmd/x", NotChild},
		{"a wildcard", meter("dev-1"), "v1/acme/dev-1/cmd/+", Malformed},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			if v := compiled(t, fleet, row.subject).Receive(row.topic); v.Code != row.want {
				t.Errorf("receiving %q: %+v, want code %d", row.topic, v, row.want)
			}
		})
	}
}

func TestWill(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		subject Subject
		topic   string
		retain  bool
		size    int
		want    Code
	}{
		{"one's own", meter("dev-1"), "v1/acme/dev-1/state", true, 64, Allowed},
		{"another's", meter("dev-1"), "v1/acme/dev-2/state", false, 1, Denied},
		{"another's, retained", meter("dev-1"), "v1/acme/dev-2/state", true, 1, Denied},
		{"where only publishing is allowed", meter("dev-1"), "v1/acme/dev-1/telemetry/x", false, 1, Denied},
		{"too large", meter("dev-1"), "v1/acme/dev-1/state", true, 65, TooLarge},
		{"a wildcard", meter("dev-1"), "v1/acme/+/state", true, 1, Malformed},
		{"a child's", gateway(), "v1/acme/c1/state", false, 1, Allowed},
		{"a child's, retained", gateway(), "v1/acme/c1/state", true, 1, NoRetain},
		{"a foreign child's", gateway(), "v1/acme/c2/state", false, 1, NotChild},
		{"a service's", backend(), "v1/acme/dev-1/state", false, 1, Denied},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			if v := compiled(t, fleet, row.subject).Will(row.topic, 1, row.retain, row.size); v.Code != row.want {
				t.Errorf("a will for %q: %+v, want code %d", row.topic, v, row.want)
			}
		})
	}
}

func TestActFor(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		subject Subject
		child   string
		want    Code
		both    bool
	}{
		{"its child", gateway(), "c1", Allowed, true},
		{"not its child", gateway(), "c2", NotChild, false},
		{"itself, although the list says so", gateway(), "gw", NotChild, false},
		{"a wildcard", gateway(), "+", NotChild, false},
		{"nobody", gateway(), "", NotChild, false},
		{"no gateway", meter("dev-1"), "c1", Denied, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			v, both := compiled(t, fleet, row.subject).ActFor(row.child)
			if v.Code != row.want || both != row.both {
				t.Errorf("acting for %q: %+v, %v, want code %d, %v", row.child, v, both, row.want, row.both)
			}
		})
	}
}

func TestPublishForAChild(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, topic string
		size        int
		want        Code
		child       string
	}{
		{"its child", "v1/acme/c1/telemetry/x", 1, Allowed, "c1"},
		{"in a part of a level", "v1/acme/gw-c1-in/up", 1, Allowed, "c1"},
		{"itself", "v1/acme/gw/telemetry/x", 1, Allowed, ""},
		{"not its child", "v1/acme/c2/telemetry/x", 1, NotChild, ""},
		{"not its child in a part of a level", "v1/acme/gw-c2-in/up", 1, NotChild, ""},
		{"nobody in a part of a level", "v1/acme/gw--in/up", 1, Denied, ""},
		{"more than the rule allows", "v1/acme/c1/telemetry/x", 101, TooLarge, ""},
		{"a child that is called like a fixed word", "v1/acme/site/telemetry/x", 1, NotChild, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			v := compiled(t, fleet, gateway()).Publish(row.topic, 0, false, row.size)
			if v.Code != row.want || v.Child != row.child {
				t.Errorf("publishing to %q: %+v, want code %d for %q", row.topic, v, row.want, row.child)
			}
		})
	}
}

// TestNamesThatAreNoLevel: what cannot stand in one level voids the rule, and a thing of such a name cannot connect at all.
func TestNamesThatAreNoLevel(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ name, value, lack string }{
		{"plus", "+", "has the character +"},
		{"hash", "#", "has the character #"},
		{"dollar", "$SYS", "has the character $"},
		{"slash", "dev-1/x", "has the character /"},
		{"empty", "", "empty"},
		{"NUL", "a\x00", "has a control character"},
		{"escape", "a\x1b", "has a control character"},
		{"C1", "a\u0085", "has a control character"},
		{"no UTF-8", "a\xff", "is no UTF-8"},
		{"U+FFFE", "a\uFFFE", "none of Unicode's"},
		{"U+FFFF", "a\uFFFF", "none of Unicode's"},
		{"U+1FFFF", "a\U0001FFFF", "none of Unicode's"},
		{"U+FDD0", "a\uFDD0", "none of Unicode's"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			if err := CheckLevel(row.value); err == nil || !strings.Contains(err.Error(), row.lack) || !errs.Is(err, errs.Invalid) {
				t.Errorf("CheckLevel(%q) = %v, want %q", row.value, err, row.lack)
			}
			s, err := Parse("f", []byte(fleet))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Compile(meter(row.value)); !errs.Is(err, errs.Denied) {
				t.Errorf("a thing called %q: %v, want denied", row.value, err)
			}
			subject := meter("dev-1")
			subject.Tags["site"] = row.value
			r, err := s.Compile(subject)
			if err != nil {
				t.Fatal(err)
			}
			for _, filter := range []string{"v1/acme/site/" + row.value + "/notice", "v1/acme/site/+/notice", "v1/acme/site/north/notice", "v1/acme/site/#"} {
				if v := r.Subscribe(filter, 1, false); v.OK() {
					t.Errorf("with the site %q, %q is granted: %+v", row.value, filter, v)
				}
			}
			if v := r.Subscribe("v1/acme/dev-1/cmd/+", 1, false); !v.OK() {
				t.Errorf("the other rules are void, too: %+v", v)
			}
			if why := r.ExplainReceive("v1/acme/site/north/notice").String(); !strings.Contains(why, row.lack) && !strings.Contains(why, "the registry has no value for ${attr.site}") {
				t.Errorf("the explanation does not say why the rule is void:\n%s", why)
			}
		})
	}
	for _, good := range []string{"dev-1", "a.b:c@d_e", "Zähler 7", "..", "設備"} {
		if err := CheckLevel(good); err != nil {
			t.Errorf("CheckLevel(%q) = %v", good, err)
		}
	}
}

// TestFixedWordsAreNobodysName: a thing that is called like a word of another rule does not get what lies below that word.
func TestFixedWordsAreNobodysName(t *testing.T) {
	t.Parallel()
	const text = `
group cloud { principal service; match role=admin; allow publish t/pump-7/in }
group things {
    match any
    allow publish t/${thing}/#
    allow publish x/id-${thing}
    allow subscribe t/all/notice
    allow subscribe t/${thing}/in
    allow subscribe x/id-all
    allow subscribe t/all/${group}/notice
}
`
	for _, row := range []struct {
		name    string
		subject Subject
		topic   string
		want    bool
	}{
		{"its own", Subject{Thing: "dev"}, "t/dev/x", true},
		{"the word as a name", Subject{Thing: "all"}, "t/all/notice", false},
		{"anything below the word", Subject{Thing: "all"}, "t/all/x", false},
		{"the word in a part of a level", Subject{Thing: "all"}, "x/id-all", false},
		{"another name in a part of a level", Subject{Thing: "dev"}, "x/id-dev", true},
		{"a word at another place", Subject{Thing: "notice"}, "t/notice/x", true},
		{"a word of a service's rule", Subject{Thing: "pump-7"}, "t/pump-7/x", true},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			row.subject.Kind = Device
			r := compiled(t, text, row.subject)
			if v := r.Publish(row.topic, 0, false, 1); v.OK() != row.want {
				t.Errorf("publishing to %q as %q: %+v, want %v", row.topic, row.subject.Thing, v, row.want)
			}
		})
	}
	// "in" stands behind ${thing}, which is never "all", so a registry group may be called that.
	r := compiled(t, text, Subject{Thing: "dev", Kind: Device, Group: "in"})
	if v := r.Subscribe("t/all/in/notice", 0, false); !v.OK() {
		t.Errorf("the group's notices: %+v", v)
	}
	// "notice" stands behind "all", which ${thing} never is, so below another thing a group may be called that.
	r = compiled(t, "group a { match any; allow publish t/${thing}/${group}; allow subscribe t/all/notice }", Subject{Thing: "dev", Kind: Device, Group: "notice"})
	if v := r.Publish("t/dev/notice", 0, false, 1); !v.OK() {
		t.Errorf("below another thing: %+v", v)
	}
	why := compiled(t, text, Subject{Thing: "all", Kind: Device}).ExplainPublish("t/all/notice", 0, false, 1).String()
	if !strings.Contains(why, `${thing} would make the level be "all", which is a fixed word there in the rule of line 7`) {
		t.Errorf("the explanation does not say so:\n%s", why)
	}
}

func TestClientID(t *testing.T) {
	t.Parallel()
	one, several, service := meter("dev-1"), meter("dev-1"), backend()
	several.Tags = map[string]string{"mode": "quiet"}
	for _, row := range []struct {
		name     string
		subject  Subject
		id       string
		assigned string
		ok       bool
	}{
		{"its name", one, "dev-1", "dev-1", true},
		{"nothing", one, "", "dev-1", true},
		{"another's", one, "dev-2", "", false},
		{"capitals", one, "DEV-1", "", false},
		{"a blank behind", one, "dev-1 ", "", false},
		{"a suffix with one connection", one, "dev-1~a", "", false},
		{"a name that begins like it", one, "dev-10", "", false},
		{"a suffix with several", several, "dev-1~a", "dev-1~a", true},
		{"its name with several", several, "dev-1", "dev-1", true},
		{"what may be another's name", several, "dev-1.a", "", false},
		{"two suffixes", several, "dev-1~a~b", "", false},
		{"an empty suffix", several, "dev-1~", "", false},
		{"a suffix with a dot", several, "dev-1~a.b", "", false},
		{"a suffix with a wildcard", several, "dev-1~+", "", false},
		{"a suffix too long", several, "dev-1~" + strings.Repeat("x", 65), "", false},
		{"another's with a suffix", several, "dev-2~a", "", false},
		{"whatever", service, "x/y z", "x/y z", true},
		{"whatever, nothing", service, "", "", true},
		{"whatever, too long", service, strings.Repeat("x", 129), "", false},
		{"whatever, NUL", service, "a\x00", "", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			assigned, ok := compiled(t, fleet, row.subject).ClientID(row.id)
			if ok != row.ok || ok && assigned != row.assigned {
				t.Errorf("ClientID(%q) = %q, %v, want %q, %v", row.id, assigned, ok, row.assigned, row.ok)
			}
		})
	}
}

func TestRulesWithTheClientIdentifier(t *testing.T) {
	t.Parallel()
	r := compiled(t, fleet, Subject{Thing: "t1", Kind: Device, Profile: "talker"})
	if v := r.Publish("id-t1/up", 0, false, 1); v.OK() {
		t.Errorf("before the client identifier is known: %+v", v)
	}
	bound := r.ForClient("t1~a")
	if v := bound.Publish("id-t1~a/up", 0, false, 1); !v.OK() {
		t.Errorf("under its client identifier: %+v", v)
	}
	if v := bound.Subscribe("t1/down/x", 0, false); v.OK() {
		t.Errorf("under another client identifier: %+v", v)
	}
	if bound.ForClient("t1~a") != bound {
		t.Error("the same rights were compiled again")
	}
	if m := compiled(t, fleet, meter("dev-1")); m.ForClient("dev-1") != m {
		t.Error("rights without ${client} were compiled again")
	}
}

func TestResponseTopics(t *testing.T) {
	t.Parallel()
	quiet := meter("dev-1")
	quiet.Tags["mode"] = "quiet"
	strict := "group a { match any; response_topics refuse; allow subscribe ${thing}/in }"
	for _, row := range []struct {
		name, text string
		subject    Subject
		topic      string
		want       Mode
	}{
		{"one's own", fleet, meter("dev-1"), "v1/acme/dev-1/cmd/answer", ResponseAny},
		{"another's is taken off", fleet, meter("dev-1"), "v1/acme/dev-2/cmd/reboot", ResponseStrip},
		{"no topic is taken off", fleet, meter("dev-1"), "v1/+", ResponseStrip},
		{"another's passes if the group says so", fleet, quiet, "v1/acme/dev-2/cmd/reboot", ResponseAny},
		{"a service's passes", fleet, backend(), "v1/acme/dev-2/cmd/reboot", ResponseAny},
		{"another's is refused", strict, meter("dev-1"), "dev-2/in", ResponseRefuse},
		{"one's own is not", strict, meter("dev-1"), "dev-1/in", ResponseAny},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			if got := compiled(t, row.text, row.subject).ResponseTopic(row.topic); got != row.want {
				t.Errorf("ResponseTopic(%q) = %s, want %s", row.topic, got, row.want)
			}
		})
	}
}

func TestErrorsForPeersSayNothing(t *testing.T) {
	t.Parallel()
	r := compiled(t, fleet, gateway())
	stranger, foreign := r.Publish("v1/acme/nobody/x", 0, false, 1).Err(), r.Publish("v1/acme/c2/telemetry/x", 0, false, 1).Err()
	if stranger.Error() != foreign.Error() {
		t.Errorf("whether a child exists can be told: %q and %q", stranger, foreign)
	}
	for c, want := range map[Code]errs.Kind{Denied: errs.Denied, Malformed: errs.Invalid, TooLong: errs.Invalid, NotChild: errs.Denied, QoSTooHigh: errs.Denied,
		NoRetain: errs.Denied, TooLarge: errs.Limited, NoSharing: errs.Denied} {
		if err := (Verdict{Code: c}).Err(); !errs.Is(err, want) {
			t.Errorf("code %d is the error %v, want kind %v", c, err, want)
		}
	}
	if (Verdict{}).OK() {
		t.Error("the zero verdict allows")
	}
}
