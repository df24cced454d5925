package mqtt

import (
	"errors"
	"strings"
	"testing"
)

func TestCheckTopic(t *testing.T) {
	for _, row := range []struct {
		name, topic string
		good        bool
	}{
		{"one octet", "a", true},
		{"a level alone", "/", true},
		{"in front of it nothing", "/a", true},
		{"empty levels", "a//b/", true},
		{"..", "a/../b", true},
		{"blanks", "a b/ c", true},
		{"case", "A/a", true},
		{"$", "$SYS/x", true},
		{"$share", "$share/g/x", true},
		{"two, three and four octets", "é/€/𝄞", true},
		{"BOM", "\ufeffa", true},
		{"U+FFFD", "\ufffd", true},
		{"U+00A0", "\u00a0", true},
		{"512 octets", strings.Repeat("a", 512), true},
		{"32 levels", strings.Repeat("/", 31), true},
		{"empty", "", false},
		{"+", "a/+", false},
		{"#", "#", false},
		{"+ within", "a+b", false},
		{"513 octets", strings.Repeat("a", 513), false},
		{"33 levels", strings.Repeat("/", 32), false},
		{"65,535 levels", strings.Repeat("/", 65534), false},
		{"NUL", "a\x00", false},
		{"line feed", "a\n", false},
		{"DEL", "a\x7f", false},
		{"U+0080", "a\u0080", false},
		{"U+009F", "a\u009f", false},
		{"U+FDD0", "\ufdd0", false},
		{"U+FFFE", "\ufffe", false},
		{"U+FFFF", "\uffff", false},
		{"U+1FFFF", "\U0001ffff", false},
		{"U+10FFFE", "\U0010fffe", false},
		{"not UTF-8", "a\x80", false},
		{"overlong", "\xc0\xaf", false},
		{"surrogate", "\xed\xa0\x80", false},
		{"cut off", "a\xe2\x82", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			err := CheckTopic(row.topic, nil)
			if fault := (*Error)(nil); (err == nil) != row.good || err != nil && (!errors.As(err, &fault) || fault.Reason != TopicNameInvalid) {
				t.Errorf("CheckTopic(%q) = %v, want good: %v", row.topic, err, row.good)
			}
			if octets := CheckTopic([]byte(row.topic), nil); (octets == nil) != row.good {
				t.Errorf("CheckTopic of the octets of %q = %v, want good: %v", row.topic, octets, row.good)
			}
		})
	}
}

func TestCheckFilter(t *testing.T) {
	for _, row := range []struct {
		name, filter string
		good         bool
	}{
		{"#", "#", true},
		{"+", "+", true},
		{"+/+/#", "+/+/#", true},
		{"/#", "/#", true},
		{"a/+/b", "a/+/b", true},
		{"literal", "a/b", true},
		{"$SYS/#", "$SYS/#", true},
		{"shared", "$share/g/a/#", true},
		{"shared, filter begins with /", "$share/g//a", true},
		{"shared, filter is /", "$share/g//", true},
		{"$share alone", "$share", true},
		{"$shared", "$shared/+", true},
		{"shared, 32 levels within", "$share/g/" + strings.Repeat("/", 31), true},
		{"empty", "", false},
		{"# not last", "a/#/b", false},
		{"# not alone", "a/b#", false},
		{"# in front of something", "#a", false},
		{"+ not alone", "a+/b", false},
		{"+ in front of something", "+a", false},
		{"++", "++", false},
		{"#/", "#/", false},
		{"shared without a group", "$share//a", false},
		{"shared without a filter", "$share/g", false},
		{"shared with an empty filter", "$share/g/", false},
		{"shared without anything", "$share/", false},
		{"shared, + in the group", "$share/+/a", false},
		{"shared, # in the group", "$share/g#/a", false},
		{"shared, bad filter", "$share/g/a#", false},
		{"shared, control character in the group", "$share/g\n/a", false},
		{"shared, 33 levels within", "$share/g/" + strings.Repeat("/", 32), false},
		{"shared, too long as a whole", "$share/g/" + strings.Repeat("a", 504), false},
		{"33 levels", strings.Repeat("+/", 32) + "#", false},
		{"513 octets", strings.Repeat("a", 513), false},
		{"NUL", "a\x00/#", false},
		{"not UTF-8", "\xff/#", false},
		{"U+FFFF", "\uffff", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			err := CheckFilter(row.filter, nil)
			if fault := (*Error)(nil); (err == nil) != row.good || err != nil && (!errors.As(err, &fault) || fault.Reason != TopicFilterInvalid) {
				t.Errorf("CheckFilter(%q) = %v, want good: %v", row.filter, err, row.good)
			}
		})
	}
}

func TestShared(t *testing.T) {
	for _, row := range []struct {
		filter, group, inner string
		shared, good         bool
	}{
		{"a/b", "", "a/b", false, true},
		{"$share", "", "$share", false, true},
		{"$Share/g/a", "", "$Share/g/a", false, true},
		{"$share/g/a", "g", "a", true, true},
		{"$share/g/$SYS/#", "g", "$SYS/#", true, true},
		{"$share/g//", "g", "/", true, true},
		{"$share/g", "", "", true, false},
		{"$share//a", "", "", true, false},
		{"$share/a+/a", "", "", true, false},
	} {
		group, inner, shared, err := Shared(row.filter)
		if group != row.group || inner != row.inner || shared != row.shared || (err == nil) != row.good {
			t.Errorf("Shared(%q) = %q, %q, %v, %v; want %q, %q, %v, good: %v", row.filter, group, inner, shared, err, row.group, row.inner, row.shared, row.good)
		}
	}
}

func TestMatch(t *testing.T) {
	for _, row := range []struct {
		filter, topic string
		want          bool
	}{
		{"a/b", "a/b", true},
		{"a/b", "a/B", false},
		{"a/b", "a/bc", false},
		{"a/bc", "a/b", false},
		{"a", "a/b", false},
		{"a/b", "a", false},
		{"a", "/a", false},
		{"/a", "a", false},
		{"a", "a/", false},
		{"a/", "a/", true},
		{"+", "a", true},
		{"+", "/a", false},
		{"+", "a/", false},
		{"+/+", "/a", true},
		{"/+", "/a", true},
		{"+/", "a/", true},
		{"a/+", "a", false},
		{"a/+", "a/", true},
		{"a/+", "a/b", true},
		{"a/+", "a/b/c", false},
		{"a/+/c", "a//c", true},
		{"dev-1/+", "dev-10/x", false},
		{"#", "a", true},
		{"#", "a/b/c", true},
		{"#", "/", true},
		{"a/#", "a", true},
		{"a/#", "a/", true},
		{"a/#", "a/b/c", true},
		{"a/#", "ab", false},
		{"a/#", "b/a", false},
		{"a/#", "/a", false},
		{"/#", "/a", true},
		{"/#", "a", false},
		{"+/#", "a", true},
		{"a/+/#", "a/b", true},
		{"a/+/#", "a", false},
		{"#", "$SYS/x", false},
		{"+/x", "$SYS/x", false},
		{"+", "$SYS", false},
		{"+/#", "$SYS/x", false},
		{"$SYS/#", "$SYS/x", true},
		{"$SYS/#", "$SYS", true},
		{"$SYS/+", "$SYS/x", true},
		{"a/#", "a/$b", true},
		{"a/+", "a/$b", true},
		{"a/../b", "a/../b", true},
		{"b", "a/../b", false},
		{"é", "e\u0301", false},
		{"\ufeffa", "a", false},
	} {
		if got := Match(row.filter, row.topic); got != row.want {
			t.Errorf("Match(%q, %q) = %v", row.filter, row.topic, got)
		}
		if got := Match(row.filter, []byte(row.topic)); got != row.want {
			t.Errorf("Match(%q, octets of %q) = %v", row.filter, row.topic, got)
		}
		if literal := !strings.ContainsAny(row.filter, "+#"); literal && Covers(row.filter, row.topic) != row.want {
			t.Errorf("Covers(%q, %q) is not as Match", row.filter, row.topic)
		}
	}
}

// names returns all names of at most so many levels out of these.
func names(levels int, of ...string) (list []string) {
	last := []string{""}
	for i := range levels {
		var next []string
		for _, begin := range last {
			for _, level := range of {
				if i > 0 {
					level = begin + "/" + level
				}
				next = append(next, level)
			}
		}
		list, last = append(list, next...), next
	}
	return list
}

// matches is section 4.7 written as it is read.
func matches(filter, topic string) bool {
	f, t := strings.Split(filter, "/"), strings.Split(topic, "/")
	if strings.HasPrefix(topic, "$") && (f[0] == "+" || f[0] == "#") {
		return false
	}
	for i, level := range f {
		switch {
		case level == "#":
			return len(t) >= i
		case i >= len(t), level != "+" && level != t[i]:
			return false
		}
	}
	return len(f) == len(t)
}

// All filters of three levels against all topics of four: Match is as the standard says, and Covers as Match says.
func TestCovers(t *testing.T) {
	topics := names(4, "", "a", "b", "$s") // one level, "b", is in no filter: it stands for all others
	var filters []string
	for _, f := range names(3, "", "a", "$s", "+", "#") {
		if f != "" && CheckFilter(f, nil) == nil {
			filters = append(filters, f)
		}
	}
	matched := make(map[string]map[string]bool)
	for _, f := range filters {
		matched[f] = make(map[string]bool)
		for _, topic := range topics {
			if topic == "" {
				continue
			}
			got := Match(f, topic)
			if got != matches(f, topic) {
				t.Fatalf("Match(%q, %q) = %v", f, topic, got)
			}
			if got {
				matched[f][topic] = true
			}
		}
	}
	for _, f := range filters {
		for _, other := range filters {
			want := true
			for topic := range matched[other] {
				want = want && matched[f][topic]
			}
			if got := Covers(f, other); got != want {
				t.Errorf("Covers(%q, %q) = %v, want %v", f, other, got, want)
			}
		}
	}
	if len(filters) < 50 {
		t.Errorf("only %d filters", len(filters))
	}
}

func TestTopicsTakeNoMemory(t *testing.T) {
	topic, filter, octets := "v1/acme/dev-1/telemetry/temperature", "v1/acme/+/telemetry/#", []byte("v1/acme/dev-1/telemetry/µ")
	limits := &Limits{}
	if n := testing.AllocsPerRun(100, func() {
		ok := CheckTopic(topic, limits) == nil && CheckTopic(octets, nil) == nil && CheckFilter(filter, nil) == nil && CheckFilter("$share/g/a/#", nil) == nil &&
			Match(filter, topic) && Match(filter, octets) && Covers("v1/#", filter)
		if _, inner, shared, err := Shared("$share/group/v1/#"); !ok || !shared || inner != "v1/#" || err != nil {
			t.Fatal("the example is wrong")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkMatch(b *testing.B) {
	for b.Loop() {
		Match("v1/acme/+/telemetry/#", "v1/acme/dev-1/telemetry/temperature")
	}
}

func BenchmarkCovers(b *testing.B) {
	for b.Loop() {
		Covers("v1/acme/+/telemetry/#", "v1/acme/dev-1/telemetry/+")
	}
}

func BenchmarkCheckTopic(b *testing.B) {
	for b.Loop() {
		if err := CheckTopic("v1/acme/dev-1/telemetry/temperature", nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCheckFilter(b *testing.B) {
	for b.Loop() {
		if err := CheckFilter("v1/acme/+/telemetry/#", nil); err != nil {
			b.Fatal(err)
		}
	}
}
