package callout

import (
	"slices"
	"strings"
	"testing"
)

func TestSubjects(t *testing.T) {
	for _, row := range []struct{ name, filter, publish, subscribe string }{
		{"a topic", "v1/acme/dev-1", "v1.acme.dev-1", "v1.acme.dev-1"},
		{"one level", "v1/+/cmd/+", "v1.*.cmd.*", "v1.*.cmd.*"},
		{"the rest", "v1/dev-1/#", "v1.dev-1.>", "v1.dev-1 v1.dev-1.>"},
		{"everything", "#", ">", ">"},
		{"a dot", "a.b/c", "a//b.c", "a//b.c"},
		{"an empty level", "a//b", "a./.b", "a./.b"},
		{"a leading empty level", "/a", "/.a", "/.a"},
		{"a trailing empty level", "a/", "a./", "a./"},
	} {
		t.Run(row.name, func(t *testing.T) {
			for subscribe, want := range map[bool]string{false: row.publish, true: row.subscribe} {
				got, err := subjectsOf(row.filter, subscribe)
				if err != nil || !slices.Equal(got, strings.Fields(want)) {
					t.Errorf("subjectsOf(%q, %v) = %q, %v, want %q", row.filter, subscribe, got, err, want)
				}
			}
		})
	}
	for _, filter := range []string{"", "a/*", "a/>", "a b", "a*", "a/#/b", "a#", "+a", "a\x7f", "a\n"} {
		if got, err := subjectsOf(filter, true); err == nil {
			t.Errorf("subjectsOf(%q) = %q, want refused", filter, got)
		}
	}
}
