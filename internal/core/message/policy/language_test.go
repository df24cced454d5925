package policy

import (
	"strings"
	"testing"

	"mooring/internal/base/errs"
)

// TestMistakesAroundGroupsSayWhatToWrite and the next test have a row for every complaint of the parser.
func TestMistakesAroundGroupsSayWhatToWrite(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ name, text, want string }{
		{"no group", "grup a { }", "f:1:1: a policy is made of groups: write group NAME { … }"},
		{"a brace too many", "group a { match any }\n}", "f:2:1: a policy is made of groups: write group NAME { … }"},
		{"group without a name", "group { }", "f:1:7: a group has a name: write group meters { … }"},
		{"name of two words", "group a b { match any }", "f:1:9: the group a needs braces: write group a { … }"},
		{"group without braces", "group a\n  match any\n", "f:1:8: the group a needs braces: write group a { … }"},
		{"group not closed", "group a { match any", "f:1:20: the group a, which begins in line 1, is not closed: write } after its last rule"},
		{"group in a group", "group a { match any\ngroup b { match kind=gateway } }", "f:2:1: the group a, which begins in line 1, is not closed before this"},
		{"bad name of a group", "group a/b { match any }", `f:1:7: "a/b" is no name for a group: write 1 to 64 letters, digits, - and _`},
		{"group twice", "group a { match kind=gateway }\ngroup a { match any }", "f:2:7: the group a stands in line 1 already"},
		{"nobody belongs to it", "group a { rate 3/s }", "f:1:1: nothing belongs to the group a and no group extends it"},
		{"never reached", "group a { match any }\ngroup b { match kind=gateway }", "f:2:1: the group b is never reached, because all devices belong to a in line 1"},
		{"control character", "group a { match any; x\x01 }", "f:1:23: the text has the control character U+0001 here: remove it"},
		{"lone carriage return", "group a { match any\r}", "f:1:20: the text has the control character U+000D here"},
		{"no UTF-8", "group a { match any; \xff }", "f:1:22: the text is no UTF-8 here: save it as UTF-8"},
		{"too much text", strings.Repeat("# as many comments as a novel\n", 10_000), "f:1:1: the policy has more than 256 KiB"},
		{"a circle of groups", "group a { match any; extends b }\ngroup b { extends c }\ngroup c { extends a }", "f:3:19: the group a would extend itself by way of this"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			complains(t, row.text, row.want)
		})
	}
}

// TestMistakesInGroupsSayWhatToWrite: the texts stand in a group.
func TestMistakesInGroupsSayWhatToWrite(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ name, text, want string }{
		{"unknown word", "colour red", `f:1:22: unknown word "colour": write match, extends, allow, principal, `},
		{"a slip", "conections 3", `f:1:22: unknown word "conections" (did you mean connections?)`},
		{"two letters exchanged", "mathc kind=gateway", `f:1:22: unknown word "mathc" (did you mean match?)`},
		{"setting without a value", "rate", "f:1:22: rate needs a value: write an amount for a second, a minute or an hour, such as 10/s, 30/m or 100/h, or none"},
		{"setting twice", "rate 10/s rate 20/s", "f:1:32: rate is set in line 1 already: remove one"},
		{"no rate", "rate fast", `f:1:27: rate: "fast" is not understood: write an amount for a second`},
		{"rate of nothing", "rate 0/s", `f:1:27: rate: "0/s" is not understood: write a whole number from 1 to 1000000`},
		{"burst first", "burst 5 rate 10/s", "f:1:30: a rate brings a burst of its own: write rate before burst"},
		{"burst of no rate", "rate none burst 5", "f:1:32: burst without a rate limits nothing in the group a: write rate 10/s burst 50"},
		{"number too small", "connections 0", `f:1:34: connections: "0" is not understood: write a whole number from 1 to 10000`},
		{"number with a sign", "connections +3", `write a whole number from 1 to 10000`},
		{"number beyond all numbers", "connections 99999999999999999999", `write a whole number from 1 to 10000`},
		{"time too long", "session_expiry 100d", `f:1:37: session_expiry: "100d" is not understood: write a time from 0 to 90d, such as 30s, 20m, 12h or 7d`},
		{"time that overflows", "session_expiry 9000000000000000000s", `write a time from 0 to 90d`},
		{"size too large", "packet_size 2MiB", `f:1:34: packet_size: "2MiB" is not understood: write a size from 1KiB to 1MiB, such as 512 or 16KiB`},
		{"size that overflows", "packet_size 9000000000000000000GiB", `write a size from 1KiB to 1MiB`},
		{"no mode", "deny maybe", `f:1:27: deny: "maybe" is not understood: write close or drop`},
		{"no principal", "principal robot", `f:1:32: principal: "robot" is not understood: write device or service`},

		{"condition unknown", "match site=3", `f:1:28: unknown attribute "site": write name, group, profile, manufacturer, role or kind, or attr.TAG for a tag`},
		{"condition with a slip", "match profil=x", `(did you mean profile?)`},
		{"tag by its other name", "match tag.site=3", `f:1:28: unknown attribute "tag.site": write attr.site for the tag site`},
		{"condition without a pattern", "match profile", `f:1:28: "profile" is no condition: write NAME=PATTERN`},
		{"any and more", "match any kind=gateway", `f:1:28: "any" is no condition`},
		{"match of nothing", "match", "f:1:22: match needs a condition: write match profile=meter"},
		{"no kind", "match kind=robot", "f:1:28: kind is device, gateway or service"},
		{"services by a tag", "principal service; match attr.site=north", "f:1:41: match attr.site=north would make services of devices"},
		{"services by a group", "principal service; match group=backends", "f:1:41: match group=backends would make services of devices"},
		{"services by any profile", "principal service; match profile=*", "f:1:41: match profile=* would make services of devices"},
		{"services that are devices", "principal service; match kind=device group=backends", "f:1:41: match kind=device group=backends would make services of devices"},
		{"services by the beginning of a name", "principal service; match name=ingest-*", "f:1:41: match name=ingest-* would make services of devices"},
		{"everybody a service", "principal service", "f:1:11: match any would make services of all devices"},
		{"extends nobody", "extends", "f:1:22: extends needs the name of a group: write extends base"},
		{"extends a stranger", "extends meters", `f:1:30: there is no group "meters" to extend`},
		{"extends itself", "extends a", "f:1:30: the group a would extend itself by way of this"},

		{"rule without a topic", "allow publish", "f:1:22: a rule says what is allowed and where: write allow publish v1/${thing}/telemetry/#"},
		{"rule whose topic is a comment", "allow publish # all", `f:1:36: a # that begins a word begins a comment: for the template of everything write "#"`},
		{"no action", "allow publsh x", `f:1:28: "publsh" cannot be allowed: write publish, subscribe, will or act-for (did you mean publish?)`},
		{"nobody to act for", "allow act-for things", `f:1:36: "things" is nobody to act for: write allow act-for children`},
		{"plus in a level", "allow publish a/b+/c", "f:1:38: + is a level of its own: write a/+, not a+"},
		{"hash in a level", "allow publish a/b#", "f:1:38: # is a level of its own: write a/#, not a#"},
		{"hash before the end", "allow publish a/#/c", "f:1:38: # stands for all levels that follow, so it is the last one"},
		{"plus behind a variable", "allow publish a/${thing}+", "f:1:38: + and # are levels of their own and cannot be part of one"},
		{"variable not closed", "allow publish a/${thing/c", "f:1:38: a variable is not closed: write it as ${thing}"},
		{"unknown variable", "allow publish a/${nobody}/c", "f:1:38: unknown variable ${nobody}: write ${thing}, ${client}, ${group}, ${profile}, ${manufacturer}, ${tenant}, ${child} or ${attr.TAG}"},
		{"variable of a tag by its other name", "allow publish ${tag.site}/c", "f:1:36: unknown variable ${tag.site}: write ${attr.site} for the tag site"},
		{"variable of no tag", "allow publish ${attr.}/c", "unknown variable ${attr.}"},
		{"two variables in a level", "allow publish a/${thing}-${group}", "f:1:38: a level has one variable: give each a level of its own"},
		{"the server's topics", "allow subscribe $SYS/#", "f:1:38: topics that begin with $ belong to servers"},
		{"the server's topics, by half a level", "allow subscribe $${thing}/#", "topics that begin with $ belong to servers"},
		{"share in a template", "allow subscribe $share/g/x", "f:1:38: write the filter without $share, and the option shared yes"},
		{"control character in a template", "allow publish \"a\tb\"", "f:1:36: the template has a control character"},
		{"no character", "allow publish a\uFFFE", "f:1:36: the template has a character that is none of Unicode's"},
		{"template of nothing", `allow publish ""`, "f:1:36: a template has 1 to 512 octets and at most 32 levels"},
		{"template too deep", "allow publish " + strings.Repeat("a/", 32) + "a", "f:1:36: a template has 1 to 512 octets and at most 32 levels"},
		{"template too long", "allow publish " + strings.Repeat("a", 513), "f:1:36: a template has 1 to 512 octets and at most 32 levels"},
		{"quote not closed", `allow publish "a`, `f:1:36: the quote is not closed in its line: put " at its end`},
		{"backslash in quotes", `allow publish "a\q"`, `f:1:38: a backslash in quotes is written \\, a quote \"`},
		{"option of another action", "allow subscribe x rate 3/s", `f:1:40: "rate" is no option of allow subscribe: write max_qos or shared`},
		{"option without a value", "allow publish x retain", "f:1:38: retain needs a value: write yes or no"},
		{"option twice", "allow publish x retain yes retain no", "f:1:49: retain stands twice: remove one"},
		{"no yes or no", "allow publish x retain maybe", `f:1:45: retain: "maybe" is not understood: write yes or no`},
		{"no quality of service", "allow publish x max_qos 3", `f:1:46: max_qos: "3" is not understood: write a whole number from 0 to 2`},
		{"burst of a rule without a rate", "allow publish x burst 3", `f:1:44: burst: "3" is not understood: write it after rate`},
		{"child without acting for it", "allow publish ${child}/x", "f:1:22: ${child} means nothing in the group a: write allow act-for children, too"},
		{"client identifiers that anybody may have", "client_id any; allow publish ${client}/x", "f:1:37: in the group a a client identifier is whatever the peer says (client_id any), so ${client} cannot be trusted"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			complains(t, "group a { match any; "+row.text+"\n}", row.want)
		})
	}
}

// complains has text parsed and wants want among the complaints.
func complains(t *testing.T, text, want string) {
	t.Helper()
	_, err := Parse("f", []byte(text))
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%s\ngot  %v\nwant %s", text, err, want)
	}
	if !errs.Is(err, errs.Invalid) {
		t.Errorf("the error has kind %v, want invalid", errs.KindOf(err))
	}
}

func TestAllMistakesAtOnce(t *testing.T) {
	t.Parallel()
	_, err := Parse("fleet.policy", []byte("group a {\n  match any\n  rate fast\n\n  allow publish ü/b+\n  deny no\n}\n"))
	want := `fleet.policy:3:8: rate: "fast" is not understood: write an amount for a second, a minute or an hour, such as 10/s, 30/m or 100/h, or none
fleet.policy:5:19: + is a level of its own: write a/+, not a+
fleet.policy:6:8: deny: "no" is not understood: write close or drop`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

func TestMistakesAreNotToldWithoutEnd(t *testing.T) {
	t.Parallel()
	_, err := Parse("f", []byte("group a {\n"+strings.Repeat("no\n", 1000)+"}"))
	if lines := strings.Split(err.Error(), "\n"); len(lines) != mostProblems+1 || lines[mostProblems] != "f: and 980 more" {
		t.Errorf("got %d lines, the last one %q", len(lines), lines[len(lines)-1])
	}
}

// TestBounds: what a text can make grow has an end.
func TestBounds(t *testing.T) {
	t.Parallel()
	many := func(n int, line string) string { return strings.Repeat(line+"\n", n) }
	groups := func(n int) string {
		var b strings.Builder
		for i := range n {
			b.WriteString("group g" + strings.Repeat("x", i%60) + string(rune('a'+i/60)) + " { match kind=gateway }\n")
		}
		return b.String()
	}
	for _, row := range []struct{ name, text, want string }{
		{"rules of a group", "group a { match any\n" + many(64, "allow publish a") + "}", ""},
		{"too many rules of a group", "group a { match any\n" + many(65, "allow publish a") + "}", "the group a has 65 rules"},
		{"too many rules, half of them from another group", "group a { match any; extends b\n" + many(33, "allow publish a") + "}\ngroup b {\n" + many(32, "allow publish a") + "}", "the group a has 65 rules"},
		{"too many rules of a policy", "group a { match any\n" + many(1025, "allow publish a") + "}", "a policy has at most 1024 rules"},
		{"lines of match", "group a {\n" + many(64, "match kind=gateway") + "}", ""},
		{"too many lines of match", "group a {\n" + many(65, "match kind=gateway") + "}", "a group has at most 64 lines of match"},
		{"groups", groups(256), ""},
		{"too many groups", groups(257), "a policy has at most 256 groups"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse("f", []byte(row.text))
			if row.want == "" && err != nil || row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)) {
				t.Errorf("got %v, want %q", err, row.want)
			}
		})
	}
}

func TestFormat(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ name, text, want string }{
		{"empty", "", ""},
		{"comments only", "\n\n# one\n\n\n#two\n\n", "# one\n\n#two\n"},
		{"settings on one line", "group a{match any;connections 3 session_expiry 60m\ndeny   drop}",
			"group a {\n    match any\n    connections 3\n    session_expiry 1h\n    deny drop\n}\n"},
		{"rate and burst of one line stay together", "group a { match any\nrate 10/s burst 50\nbyte_rate 1024KiB/s }",
			"group a {\n    match any\n    rate 10/s burst 50\n    byte_rate 1024KiB/s\n}\n"},
		{"burst of another line stays alone", "group a { match any\nrate 10/s\nburst 50 }",
			"group a {\n    match any\n    rate 10/s\n    burst 50\n}\n"},
		{"options", "group a { match any; allow publish  a/# retain yes  size 16384 rate 10/s burst 3 }",
			"group a {\n    match any\n    allow publish a/# retain yes size 16KiB rate 10/s burst 3\n}\n"},
		{"comments and empty lines stay", "# top\n\n\n# of a\ngroup a { # behind\n\n\n  match any # all\n\n\n  # why\n  deny drop #\n  # end\n\n}\n# last",
			"# top\n\n# of a\ngroup a {\n    # behind\n\n    match any  # all\n\n    # why\n    deny drop  #\n    # end\n}\n\n# last\n"},
		{"words in quotes", `group a { match "attr.site"="Plant 3" name="x*" attr.city=""; allow publish "#" ; allow publish "a b/c;d/\"e\"/{f}" ; allow publish "x/${thing}" }`,
			"group a {\n    match attr.site=\"Plant 3\" name=x* attr.city=\"\"\n    allow publish \"#\"\n    allow publish \"a b/c;d/\\\"e\\\"/{f}\"\n    allow publish x/${thing}\n}\n"},
		{"groups are parted", "group a { match kind=gateway }\n\n\ngroup b { extends a\nmatch any }",
			"group a {\n    match kind=gateway\n}\n\ngroup b {\n    extends a\n    match any\n}\n"},
		{"ends of lines of other systems", "\uFEFFgroup a {\r\n match any # x\r\n}\r\n", "group a {\n    match any  # x\n}\n"},
		{"nobody", "group a {\nmatch none\nallow act-for children both yes }", "group a {\n    match none\n    allow act-for children both yes\n}\n"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s, err := Parse("f", []byte(row.text))
			if err != nil {
				t.Fatal(err)
			}
			if got := s.Format(); got != row.want {
				t.Fatalf("got\n%s\nwant\n%s", got, row.want)
			}
			again, err := Parse("f", []byte(row.want))
			if err != nil {
				t.Fatal(err)
			}
			if got := again.Format(); got != row.want {
				t.Errorf("the second time\n%s\nwant\n%s", got, row.want)
			}
		})
	}
}

func TestDefaultIsWellFormed(t *testing.T) {
	t.Parallel()
	if got := Default().Format(); got != DefaultText() {
		t.Errorf("got\n%s\nwant\n%s", got, DefaultText())
	}
}

// FuzzParse: no text ends the process or takes much memory, and a good one means the same when it was formatted.
func FuzzParse(f *testing.F) {
	f.Add(DefaultText())
	f.Add(sixRules)
	f.Add("group a { match any; allow publish \"#\" ; allow publish a/${attr.x}-y/+ rate 3/m burst 4 # c\n}")
	f.Add("group a { match name=x* attr.a=\"b c\" ; match none\n# c\n\n# d\n\nextends b }\ngroup b { principal service }")
	f.Add("group a { match any; allow act-for children; allow subscribe x-${child}/${thing}/${child}/# }")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse("f", []byte(text))
		if err != nil {
			return
		}
		formatted := s.Format()
		again, err := Parse("f", []byte(formatted))
		if err != nil {
			t.Fatalf("formatted as\n%s\n%v", formatted, err)
		}
		if got := again.Format(); got != formatted {
			t.Fatalf("formatted as\n%s\nand then as\n%s", formatted, got)
		}
		subject := Subject{Thing: "dev-1", Kind: Gateway, Group: "g", Tags: map[string]string{"x": "y"}, Child: func(string) bool { return true }}
		for i, g := range s.groups {
			if len(g.matches) == 0 {
				continue
			}
			r, err := s.CompileAs(g.name, subject)
			if err != nil {
				t.Fatal(err)
			}
			other, err := again.CompileAs(g.name, subject)
			if err != nil || r.Limits != other.Limits || len(r.rules) != len(other.rules) || again.groups[i].name != g.name {
				t.Fatalf("the group %s differs after formatting: %v", g.name, err)
			}
			for _, topic := range []string{"a/b", "v1/dev-1/cmd/x", "v1/c/telemetry/x", "$SYS/a"} {
				if r.Publish(topic, 1, true, 100) != other.Publish(topic, 1, true, 100) || r.Receive(topic) != other.Receive(topic) {
					t.Fatalf("the group %s decides otherwise on %s after formatting", g.name, topic)
				}
			}
			if r.Subscribe("#", 1, false) != other.Subscribe("#", 1, false) {
				t.Fatalf("the group %s decides otherwise on # after formatting", g.name)
			}
		}
		var to Addressees
		s.Addressees("v1/dev-1/cmd/x", &to)
	})
}
