package policy

import "strings"

// Action is what a Rule allows.
type Action uint8

// The actions.
const (
	Publish   Action = 1
	Subscribe Action = 2
)

// Rule is one rule of a subject as text, for who is told once what a thing may do and asks no more, such as the brokers of others.
type Rule struct {
	Action Action
	Filter string // the template with its variables filled in; "below/#" does not hold "below"
	MaxQoS byte
	Retain bool // it may retain what it publishes
	Shared bool // it may share the subscription
	Size   int  // octets of a payload, at most; 0 = no bound of its own
	Child  bool // Filter holds ${child}, which stands for the name of each thing for which it may act
}

// Rules returns the rules by which the subject may publish and subscribe, in the order in which they are asked. Those that are void are left out.
func (r *Rights) Rules() []Rule {
	var list []Rule
	for i := range r.rules {
		ru := &r.rules[i]
		action, ok := map[action]Action{publish: Publish, subscribe: Subscribe}[ru.action]
		if !ok || ru.void != "" {
			continue
		}
		list = append(list, Rule{Action: action, Filter: ru.pattern.filter(), MaxQoS: ru.maxQoS, Retain: ru.retain, Shared: ru.shared, Size: ru.size, Child: ru.template.uses("child")})
	}
	return list
}

// filter writes p as a topic filter.
func (p pattern) filter() string {
	var b strings.Builder
	for _, st := range p {
		switch st.kind {
		case stepText:
			b.WriteString(st.text)
		case stepPlus:
			b.WriteString("+")
		case stepHash:
			b.WriteString("#")
		case stepChild:
			b.WriteString("${child}" + st.text)
		}
	}
	return b.String()
}
