package broker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"mooring/internal/core/message/policy"
)

// matches is how EMQX matches a topic or a filter with the topic of a rule: level by level, a wildcard of the filter being a level like any other.
func matches(rule, topic string) bool {
	if literal, ok := strings.CutPrefix(rule, "eq "); ok {
		return literal == topic
	}
	a, b := strings.Split(rule, "/"), strings.Split(topic, "/")
	for i, level := range a {
		if level == "#" {
			return true // as in EMQX, whatever is left, nothing included
		}
		if i >= len(b) || level != "+" && level != b[i] {
			return false
		}
	}
	return len(a) == len(b)
}

// emqxAllows is what EMQX decides by a list.
func emqxAllows(acl []entry, action, topic string, qos int, retain bool) bool {
	for _, e := range acl {
		if e.Action != "all" && e.Action != action || e.QoS != nil && !slices.Contains(e.QoS, qos) || e.Retain != nil && *e.Retain != retain && action == "publish" {
			continue
		}
		if matches(e.Topic, topic) {
			return e.Permission == "allow"
		}
	}
	return false
}

// filters are all topics and filters of three levels of few names.
func filters() (all []string) {
	levels := []string{"a", "b", "+", ""}
	var grow func(prefix string, depth int)
	grow = func(prefix string, depth int) {
		for _, l := range append(levels, "#") {
			all = append(all, prefix+l)
			if l != "#" && depth < 3 {
				grow(prefix+l+"/", depth+1)
			}
		}
	}
	grow("", 1)
	return slices.DeleteFunc(all, func(s string) bool { return s == "" })
}

// TestListIsThePolicy compares, for many policies, what EMQX decides by the list with what the policy says, for all topics and filters of a small world.
func TestListIsThePolicy(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	world := filters()
	listed, compared := 0, 0
	for range 400 {
		var text strings.Builder
		text.WriteString("group g {\nmatch any\n")
		for range 1 + random.IntN(4) {
			action := []string{"publish", "subscribe"}[random.IntN(2)]
			filter := world[random.IntN(len(world))]
			if strings.HasPrefix(filter, "+") || strings.HasPrefix(filter, "#") || strings.HasSuffix(filter, "/") && random.IntN(2) == 0 {
				filter = "a/" + strings.TrimLeft(filter, "#")
			}
			option := []string{"", " max_qos 0", " max_qos 1"}[random.IntN(3)]
			if action == "publish" && random.IntN(2) == 0 {
				option += " retain yes"
			}
			fmt.Fprintf(&text, "allow %s \"%s\"%s\n", action, filter, option)
		}
		text.WriteString("}")
		set, err := policy.Parse("test", []byte(text.String()))
		if err != nil {
			continue // such as the same rule twice
		}
		rights, err := set.Compile(policy.Subject{Thing: "dev-1"})
		if err != nil {
			t.Fatal(err)
		}
		acl, ok := list(rights.Rules())
		if !ok {
			continue
		}
		listed++
		k := known{rights: rights}
		for _, topic := range world {
			for qos := range 3 {
				compared++
				want := k.subscribe(topic, qos, false) == nil
				if got := emqxAllows(acl, "subscribe", topic, qos, false); got != want {
					t.Fatalf("subscribe %q by QoS %d: the list says %v, the policy %v\n%s\n%+v", topic, qos, got, want, &text, acl)
				}
				if strings.ContainsAny(topic, "+#") {
					continue
				}
				for _, retain := range []bool{false, true} {
					want := k.publish(topic, qos, retain) == nil
					if got := emqxAllows(acl, "publish", topic, qos, retain); got != want {
						t.Fatalf("publish %q by QoS %d, retained %v: the list says %v, the policy %v\n%s\n%+v", topic, qos, retain, got, want, &text, acl)
					}
				}
			}
		}
	}
	if listed < 100 || compared == 0 {
		t.Errorf("only %d policies had a list", listed)
	}
}

// TestNoList: what cannot be told exactly is not told.
func TestNoList(t *testing.T) {
	many := make([]policy.Rule, maxEntries)
	for i := range many {
		many[i] = policy.Rule{Action: policy.Publish, Filter: fmt.Sprintf("a/%d", i), MaxQoS: 2}
	}
	for _, row := range []struct {
		name  string
		rules []policy.Rule
	}{
		{"children", []policy.Rule{{Action: policy.Publish, Filter: "v1/${child}/x", Child: true}}},
		{"a placeholder of EMQX", []policy.Rule{{Action: policy.Publish, Filter: "v1/${username}/x"}}},
		{"a literal of EMQX", []policy.Rule{{Action: policy.Publish, Filter: "eq a"}}},
		{"a wildcard first", []policy.Rule{{Action: policy.Subscribe, Filter: "+/a"}}},
		{"everything", []policy.Rule{{Action: policy.Subscribe, Filter: "#"}}},
		{"two wildcards, the second one last", []policy.Rule{{Action: policy.Subscribe, Filter: "v1/+/cmd/+"}}},
		{"below a wildcard", []policy.Rule{{Action: policy.Publish, Filter: "v1/+/#"}}},
		{"too many", many},
	} {
		t.Run(row.name, func(t *testing.T) {
			if acl, ok := list(row.rules); ok {
				t.Errorf("there is a list of it: %+v", acl)
			}
		})
	}
}
