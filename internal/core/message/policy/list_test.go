package policy

import (
	"fmt"
	"slices"
	"testing"
)

// TestRules: what is told once as text is what is decided.
func TestRules(t *testing.T) {
	s, err := Parse("policy", []byte(`group all {
		match any
		allow publish v1/${thing}/up/# max_qos 1
		allow publish id-${thing}-x/${attr.site} retain yes size 1KiB
		allow publish v1/${attr.none}/x
		allow subscribe v1/+/${thing}/+ shared yes
		allow subscribe ${child}/cmd
		allow will v1/${thing}/gone
		allow act-for children
	}`))
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Compile(Subject{Thing: "dev-1", Tags: map[string]string{"site": "north"}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, rule := range r.Rules() {
		got = append(got, fmt.Sprintf("%d %s %d %v %v %d %v", rule.Action, rule.Filter, rule.MaxQoS, rule.Retain, rule.Shared, rule.Size, rule.Child))
	}
	want := []string{
		"1 v1/dev-1/up/# 1 false false 0 false",
		"1 id-dev-1-x/north 2 true false 1024 false",
		"2 v1/+/dev-1/+ 2 false true 0 false",
		"2 ${child}/cmd 2 false false 0 true",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%q\nwant\n%q", got, want)
	}
}
