package broker

import (
	"slices"
	"strings"

	"mooring/internal/core/message/policy"
)

// entry is one line of an access list as EMQX and RMQTT read it: the first that matches decides.
type entry struct {
	Permission string `json:"permission"`
	Action     string `json:"action"`
	Topic      string `json:"topic"`
	QoS        []int  `json:"qos,omitempty"`
	Retain     *bool  `json:"retain,omitempty"`
}

// maxEntries bounds a list; whoever may do more is asked about each time.
const maxEntries = 256

// list renders rules so that the broker allows exactly what they allow, and ends with a line that denies all the rest. It reports false when that is not
// possible.
//
// Three things are beyond a list: names of children, wildcards at the beginning, and the size of messages, which is left to the broker's own limit. Two things have to be denied in front of what is allowed, because brokers match a filter that is subscribed to as if it were a topic: "a/#" matches the
// rule "a/+", although it asks for much more; and to brokers "a/#" holds "a" itself, to our policies it does not.
func list(rules []policy.Rule) ([]entry, bool) {
	var denied, allowed []entry
	for _, r := range rules {
		if r.Child || strings.Contains(r.Filter, "${") || strings.HasPrefix(r.Filter, "eq ") {
			return nil, false // ours to fill in; theirs to read otherwise
		}
		if strings.IndexAny(r.Filter, "+#") == 0 {
			return nil, false // theirs holds what begins with $, too
		}
		action := "publish"
		if r.Action == policy.Subscribe {
			action = "subscribe"
		}
		wider, ok := excess(r, rules)
		if !ok {
			return nil, false
		}
		for _, topic := range wider {
			denied = append(denied, entry{Permission: "deny", Action: action, Topic: topic})
		}
		allowed = append(allowed, allow(r, action))
	}
	all := slices.Concat(denied, allowed, []entry{{Permission: "deny", Action: "all", Topic: "#"}})
	return all, len(all) <= maxEntries
}

// allow renders one rule.
func allow(r policy.Rule, action string) entry {
	e := entry{Permission: "allow", Action: action, Topic: r.Filter}
	if r.MaxQoS < 2 {
		for q := 0; q <= int(r.MaxQoS); q++ {
			e.QoS = append(e.QoS, q)
		}
	}
	if r.Action == policy.Publish && !r.Retain {
		e.Retain = new(bool)
	}
	return e
}

// excess returns what a broker would allow by the rule beyond what it says, unless another rule allows that anyway.
func excess(r policy.Rule, rules []policy.Rule) (deny []string, ok bool) {
	prefix, last := parent(r.Filter)
	var beyond []string
	switch {
	case last == "#" && prefix == "": // everything
	case last == "#" && r.Action == policy.Subscribe: // the filter means its parent too
		beyond = []string{prefix, r.Filter}
	case last == "#":
		beyond = []string{prefix}
	case last == "+" && r.Action == policy.Subscribe:
		beyond = []string{strings.TrimSuffix(r.Filter, "+") + "#"}
	}
	for _, topic := range beyond {
		switch allowed, alike := elsewhere(r, rules, topic); {
		case allowed && alike:
		case allowed || strings.Contains(strings.TrimSuffix(topic, "#"), "+"):
			return nil, false // to be denied in part only
		default:
			deny = append(deny, "eq "+topic)
		}
	}
	return deny, true
}

// elsewhere reports whether another rule allows topic, and whether one does to no smaller extent than r. A filter that means its parent has to be allowed
// that too.
func elsewhere(r policy.Rule, rules []policy.Rule, topic string) (allowed, alike bool) {
	above, whole := strings.CutSuffix(topic, "/#")
	parent := !whole || above == "" || slices.ContainsFunc(rules, func(o policy.Rule) bool { return o.Action == r.Action && covers(o.Filter, above) })
	for _, o := range rules {
		if parent && o.Action == r.Action && covers(o.Filter, topic) {
			allowed = true
			alike = alike || o.MaxQoS >= r.MaxQoS && (o.Retain || !r.Retain)
		}
	}
	return allowed, alike
}

// parent takes the last level off.
func parent(filter string) (prefix, last string) {
	i := strings.LastIndexByte(filter, '/')
	if i < 0 {
		return "", filter
	}
	return filter[:i], filter[i+1:]
}

// covers reports whether everything that filter matches is matched by rule, where "a/#" does not hold "a".
func covers(rule, filter string) bool {
	a, b := strings.Split(rule, "/"), strings.Split(filter, "/")
	for i, level := range a {
		switch {
		case level == "#":
			return len(b) > i
		case i >= len(b) || b[i] == "#" || level != "+" && level != b[i]:
			return false
		}
	}
	return len(a) == len(b)
}
