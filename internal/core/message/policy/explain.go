package policy

import (
	"fmt"
	"strconv"
	"strings"
)

// Note is what one rule has to say to a question, or one group to a subject.
type Note struct {
	Place   string // "file:line"
	Text    string // the rule as Format writes it, or the group's name
	Decides bool   // this is the one
	Lack    string // what it lacks; "" when it decides, or was not needed any more
}

// Explanation says in words how a question was decided. It is for operators: it tells what a peer must not learn.
type Explanation struct {
	Verdict Verdict
	Summary string // one sentence
	Group   string
	Rules   []Note // those about the same action, in their order
}

// String returns the summary, and a line for every rule.
func (e Explanation) String() string {
	var b strings.Builder
	b.WriteString(e.Summary + "\n")
	for _, n := range e.Rules {
		b.WriteString(n.String() + "\n")
	}
	return b.String()
}

// String returns n as a line.
func (n Note) String() string {
	switch {
	case n.Decides:
		return fmt.Sprintf("  * %s: %s", n.Place, n.Text)
	case n.Lack == "":
		return fmt.Sprintf("    %s: %s: would do, too", n.Place, n.Text)
	}
	return fmt.Sprintf("    %s: %s: %s", n.Place, n.Text, n.Lack)
}

// ExplainGroup says why subject belongs to its group, and not to those before it.
func (s *Set) ExplainGroup(subject Subject) []Note {
	var notes []Note
	for _, g := range s.groups {
		lack := g.lack(&subject)
		notes = append(notes, Note{Place: s.where(g.at), Text: "group " + g.name, Decides: lack == "", Lack: lack})
		if lack == "" {
			break
		}
	}
	return notes
}

func (s *Set) where(at place) string { return s.file + ":" + strconv.Itoa(at.line) }

// ExplainPublish answers as Publish does, and says why.
func (r *Rights) ExplainPublish(topic string, qos byte, retain bool, size int) Explanation {
	q := question{action: publish, topic: topic, qos: qos, retain: retain, size: size}
	return r.explain(r.Publish(topic, qos, retain, size), q, "publish to")
}

// ExplainWill answers as Will does, and says why.
func (r *Rights) ExplainWill(topic string, qos byte, retain bool, size int) Explanation {
	q := question{action: will, topic: topic, qos: qos, retain: retain, size: size}
	return r.explain(r.Will(topic, qos, retain, size), q, "leave a will for")
}

// ExplainReceive answers as Receive does, and says why.
func (r *Rights) ExplainReceive(topic string) Explanation {
	return r.explain(r.Receive(topic), question{action: subscribe, topic: topic}, "receive")
}

// ExplainSubscribe answers as Subscribe does, and says why.
func (r *Rights) ExplainSubscribe(filter string, qos byte, shared bool) Explanation {
	v := r.Subscribe(filter, qos, shared)
	e := r.explain(v, question{action: subscribe, topic: filter, qos: qos, shared: shared}, "subscribe to")
	if v.OK() && v.QoS < qos {
		e.Summary += fmt.Sprintf(" QoS %d is granted.", v.QoS)
	}
	if v.Partial {
		above := strings.TrimSuffix(filter, "/#")
		e.Summary += fmt.Sprintf(" What is published to %s itself is not delivered: a rule for %s would allow it.", shown(above), above)
	}
	return e
}

func (r *Rights) explain(v Verdict, q question, verb string) Explanation {
	e := Explanation{Verdict: v, Group: r.Group}
	for i := range r.rules {
		ru := &r.rules[i]
		if ru.action != q.action {
			continue
		}
		n := Note{Place: r.set.where(ru.at), Text: ru.canon, Decides: v.OK() && int(v.Rule) == i}
		if !n.Decides {
			n.Lack = r.lack(ru, &q, v.Code)
		}
		e.Rules = append(e.Rules, n)
	}
	name := r.subject.Thing
	switch {
	case v.OK() && v.Child != "":
		e.Summary = fmt.Sprintf("%s, of the group %s, may %s %s for its child %s by the rule in %s.", name, r.Group, verb, shown(q.topic), v.Child, r.set.where(r.rules[v.Rule].at))
	case v.OK():
		e.Summary = fmt.Sprintf("%s, of the group %s, may %s %s by the rule in %s.", name, r.Group, verb, shown(q.topic), r.set.where(r.rules[v.Rule].at))
	default:
		e.Summary = fmt.Sprintf("%s, of the group %s, may not %s %s: %s.", name, r.Group, verb, shown(q.topic), r.denial(v, len(e.Rules)))
	}
	return e
}

// denial says why nothing allows it.
func (r *Rights) denial(v Verdict, rules int) string {
	switch {
	case v.Code == Malformed:
		return "that is no topic or filter"
	case v.Code == TooLong:
		return fmt.Sprintf("it has more than %d octets or %d levels", r.Limits.TopicOctets, r.Limits.Levels)
	case rules == 0:
		return "the group has no rule of this kind"
	case v.Rule >= 0:
		return "the rule in " + r.set.where(r.rules[v.Rule].at) + " would fit, but " + r.rules[v.Rule].codeLack(v.Code)
	}
	return "no rule fits"
}

// lack says what a rule lacks to allow q.
func (r *Rights) lack(ru *rule, q *question, code Code) string {
	if ru.void != "" {
		return ru.void
	}
	if code == Malformed || code == TooLong {
		return "it was not asked"
	}
	var f found
	switch answer := r.answer(ru, q, &f); answer {
	case Allowed:
		return ""
	case Denied:
		return r.departs(ru.template, q)
	default:
		return ru.codeLack(answer)
	}
}

// codeLack says in words why a fitting rule does not allow it.
func (a *allow) codeLack(c Code) string {
	switch c {
	case NotChild:
		return "the registry lists no such child, or its name is a fixed word there"
	case QoSTooHigh:
		return fmt.Sprintf("it allows QoS %d at most", a.maxQoS)
	case NoRetain:
		return "it does not say retain yes"
	case TooLarge:
		return "it allows " + formatOctets(int64(a.size)) + " at most"
	case NoSharing:
		return "it does not say shared yes"
	}
	return "it does not fit"
}

// departs says at which level a topic or filter leaves a template.
func (r *Rights) departs(t *template, q *question) string {
	got := strings.Split(q.topic, "/")
	for i, l := range t.levels {
		if i == len(got) {
			return l.missing(i, q.topic)
		}
		if l.kind == hash {
			break
		}
		if want, ok := l.takes(&r.subject, got[i]); !ok {
			return fmt.Sprintf("level %d is %s, and it has %s there", i+1, shown(got[i]), want)
		}
	}
	if strings.HasPrefix(q.topic, "$") {
		return "wildcards do not reach topics that begin with $"
	}
	if n := len(t.levels); len(got) > n {
		return fmt.Sprintf("it ends after level %d, and %s has more", n, shown(q.topic))
	}
	return "a variable that stands twice has one value"
}

// missing says what comes in a template where a topic ends.
func (l level) missing(i int, topic string) string {
	if l.kind == hash {
		return fmt.Sprintf("it is for what lies below %s, not for %[1]s itself", shown(topic))
	}
	return fmt.Sprintf("%s ends after level %d, and it has more", shown(topic), i)
}

// takes reports whether a level of a topic or filter lies in l, and what l is.
func (l level) takes(subject *Subject, got string) (want string, ok bool) {
	switch {
	case l.kind == plus:
		return "any one level", got != "#"
	case l.kind == variable && l.name == "child":
		return "a child's name", l.canBe(got) && got != "+" && got != "#"
	case l.kind == variable:
		want = l.text + subject.attribute(l.name) + l.after
		return shown(want) + " for ${" + l.name + "}", want == got
	}
	return shown(l.text), l.text == got
}
