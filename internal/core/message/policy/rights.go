package policy

import (
	"fmt"
	"strings"

	"mooring/internal/base/errs"
)

// Code says how a question was decided, and what the answer to the peer may be. The text of a Verdict's explanation is for operators, the code for peers.
type Code uint8

// The codes.
const (
	Denied     Code = iota // no rule allows it; the zero Verdict denies
	Allowed                // …
	Malformed              // it is no topic, or no filter
	TooLong                // the topic or filter is longer or deeper than the group allows
	NotChild               // the only rules for it are for children, and the registry lists no such child
	QoSTooHigh             // the rules for it allow a lower quality of service only
	NoRetain               // the rules for it do not allow to retain
	TooLarge               // the rules for it allow a smaller payload only
	NoSharing              // the rules for it do not allow shared subscriptions
)

// String is the code in a word, for the record.
func (c Code) String() string {
	words := [...]string{Denied: "denied", Allowed: "allowed", Malformed: "malformed", TooLong: "too_long", NotChild: "not_child", QoSTooHigh: "qos", NoRetain: "retain", TooLarge: "too_large", NoSharing: "sharing"}
	if int(c) >= len(words) {
		return ""
	}
	return words[c]
}

// Verdict is the answer to one question.
type Verdict struct {
	Code Code
	// QoS is what is granted to a subscription, which is at most what was asked for.
	QoS byte
	// Partial: the filter ends in /# and so means the topic above it too, which no rule allows. The subscription is granted, and Receive must be asked before
	// that topic is delivered. It is right to ask Receive for everything.
	Partial bool
	Rule    int16  // which rule decided, for Meter.Take; -1 = none
	Child   string // in whose name the gateway speaks or listens; "" = in its own
}

// OK reports whether it is allowed.
func (v Verdict) OK() bool { return v.Code == Allowed }

// Err returns nil, or an error that a peer may see. It says nothing about what exists and which rules there are.
func (v Verdict) Err() error {
	switch v.Code {
	case Allowed:
		return nil
	case Malformed:
		return errs.New(errs.Invalid, "that is no topic")
	case TooLong:
		return errs.New(errs.Invalid, "the topic is too long")
	case QoSTooHigh:
		return errs.New(errs.Denied, "the quality of service is too high for this topic")
	case NoRetain:
		return errs.New(errs.Denied, "retaining is not allowed for this topic")
	case TooLarge:
		return errs.New(errs.Limited, "the message is too large for this topic")
	case NoSharing:
		return errs.New(errs.Denied, "sharing is not allowed for this topic")
	}
	return errs.New(errs.Denied, "not allowed")
}

// rule is a rule of one subject, its variables filled in.
type rule struct {
	*allow
	pattern pattern // nothing is of a pattern without steps
	action  action  // the rule's, here because it is looked at first
	void    string  // why it allows nothing, or ""
}

// Rights are the rules of one subject under one Set. They never change, and may be used by any goroutine. Questions about topics take no memory.
type Rights struct {
	Group  string // the policy's group
	Limits Limits

	set     *Set
	group   *group
	subject Subject
	rules   []rule // in the order of the text, those of extended groups first
	clients bool   // a rule has ${client}
}

// Compile returns the rights of subject. The error has kind Denied: the subject belongs to no group, or its name can be in no topic. Its text is for
// operators, not for the peer.
func (s *Set) Compile(subject Subject) (*Rights, error) {
	g := s.group(&subject)
	if g == nil {
		return nil, errs.New(errs.Denied, "%s belongs to no group of the policy: add a group whose match fits it", shown(subject.Thing))
	}
	return s.compile(g, subject)
}

// CompileAs returns the rights that subject would have in a group, whatever that matches: for a listener that puts all its connections into one, and for
// questions. The error has kind NotFound when there is no such group, else it is that of Compile.
func (s *Set) CompileAs(group string, subject Subject) (*Rights, error) {
	g := s.byName[group]
	if g == nil || len(g.matches) == 0 {
		return nil, errs.New(errs.NotFound, "the policy has no group %s that has members: those are %s", shown(group), strings.Join(s.Groups(), ", "))
	}
	return s.compile(g, subject)
}

func (s *Set) compile(g *group, subject Subject) (*Rights, error) {
	if lack := levelLack(subject.Thing); lack != "" {
		return nil, errs.New(errs.Denied, "the name %s %s, so it can be in no topic and may not connect: register the device under another name", shown(subject.Thing), lack)
	}
	r := &Rights{Group: g.name, Limits: g.limits, set: s, group: g, subject: subject, rules: make([]rule, 0, len(g.rules))}
	var m patternMaker
	for _, a := range g.rules {
		m.begun, m.text, m.pattern = false, m.text[:0], m.pattern[:0]
		void := a.template.fill(&subject, &m)
		ru := rule{allow: a, action: a.action, void: void}
		if void == "" {
			ru.pattern = m.done()
		}
		r.rules = append(r.rules, ru)
		r.clients = r.clients || a.template.uses("client")
	}
	return r, nil
}

// ForClient returns the rights for a connection under an identifier that ClientID gave back: r itself, unless a rule has ${client}.
func (r *Rights) ForClient(id string) *Rights {
	if !r.clients || r.subject.Client == id {
		return r
	}
	subject := r.subject
	subject.Client = id
	other, err := r.set.compile(r.group, subject)
	if err != nil { // the same thing was compiled before
		return r
	}
	return other
}

// fill gives m the levels of t with the values of subject in the places of variables, or says why it cannot.
func (t *template) fill(subject *Subject, m *patternMaker) (void string) {
	for i, l := range t.levels {
		kind, text, after := stepText, l.text, ""
		switch {
		case l.kind == plus:
			kind = stepPlus
		case l.kind == hash:
			kind = stepHash
		case l.kind == variable && l.name == "child":
			kind, after = stepChild, l.after
		case l.kind == variable:
			value := subject.attribute(l.name)
			if lack := levelLack(value); lack != "" {
				return valueLack(l.name, value, lack)
			}
			if text = value; l.text != "" || l.after != "" {
				text = l.text + value + l.after
			}
			if at, ok := t.words[i][text]; ok {
				return fmt.Sprintf("${%s} would make the level be %s, which is a fixed word there in the rule of line %d", l.name, shown(text), at.line)
			}
		}
		m.level(kind, text, after)
	}
	return ""
}

func valueLack(name, value, lack string) string {
	if value == "" {
		return fmt.Sprintf("the registry has no value for ${%s}", name)
	}
	return fmt.Sprintf("the value %s of ${%s} %s, so it cannot stand in one level", shown(value), name, lack)
}

// question is what a rule is asked.
type question struct {
	action action
	topic  string // or the filter, without $share/NAME/
	qos    byte
	retain bool
	size   int
	shared bool
}

// answer is what a says to q, once its template fits.
func (a *allow) answer(q *question) Code {
	switch {
	case q.qos > a.maxQoS && q.action != subscribe: // a subscription is granted less
		return QoSTooHigh
	case q.retain && !a.retain:
		return NoRetain
	case a.size > 0 && q.size > a.size:
		return TooLarge
	case q.shared && !a.shared:
		return NoSharing
	}
	return Allowed
}

// answer is what one rule says to q.
func (r *Rights) answer(ru *rule, q *question, f *found) Code {
	if ru.action != q.action || !ru.pattern.match(q.topic, f) {
		return Denied
	}
	if f.child != "" && (!r.isChild(f.child) || ru.template.neverChild.has(f.child)) {
		return NotChild
	}
	return ru.allow.answer(q)
}

func (r *Rights) isChild(name string) bool {
	return r.group.actFor != nil && r.subject.Child != nil && name != r.subject.Thing && r.subject.Child(name)
}

// decide asks the rules one after the other. The first that allows it decides; without one, it is the reason of the one that was nearest.
func (r *Rights) decide(q *question) Verdict {
	v := Verdict{Rule: -1}
	for i := range r.rules {
		var f found
		code := r.answer(&r.rules[i], q, &f)
		if code == Allowed {
			return Verdict{Code: Allowed, Rule: int16(i), Child: f.child, QoS: min(q.qos, r.rules[i].maxQoS)}
		}
		if code > v.Code {
			v.Code, v.Rule = code, int16(i)
		}
	}
	return v
}

// Publish says whether a message with so many octets of payload may be published to a topic. The topic is the resolved one, not an alias.
func (r *Rights) Publish(topic string, qos byte, retain bool, size int) Verdict {
	if code := r.checkTopic(topic); code != Allowed {
		return Verdict{Code: code, Rule: -1}
	}
	return r.decide(&question{action: publish, topic: topic, qos: qos, retain: retain, size: size})
}

// Constant reports whether Publish says the same whenever it is asked the same: not of a gateway, for which the registry may list other children meanwhile.
func (r *Rights) Constant() bool { return r.group.actFor == nil }

// Will says whether a will may be left. It is to be asked when the will is left, and again when it is said.
func (r *Rights) Will(topic string, qos byte, retain bool, size int) Verdict {
	if code := r.checkTopic(topic); code != Allowed {
		return Verdict{Code: code, Rule: -1}
	}
	return r.decide(&question{action: will, topic: topic, qos: qos, retain: retain, size: size})
}

// Receive says whether what was published to a topic may be delivered: now, from the retained messages, from a queue, or again.
func (r *Rights) Receive(topic string) Verdict {
	if code := r.checkTopic(topic); code != Allowed {
		return Verdict{Code: code, Rule: -1}
	}
	return r.decide(&question{action: subscribe, topic: topic, qos: 2})
}

// Subscribe says whether a filter may be subscribed to: whether every topic that it means lies in one rule's template (see Verdict.Partial for the one
// exception). The filter is given without $share/NAME/, and shared says whether that stood there. QoS is the largest that any rule for the filter grants.
func (r *Rights) Subscribe(filter string, qos byte, shared bool) Verdict {
	if code := r.checkFilter(filter); code != Allowed {
		return Verdict{Code: code, Rule: -1}
	}
	q := question{action: subscribe, topic: filter, qos: qos, shared: shared}
	v := r.decide(&q)
	for i := int(v.Rule) + 1; v.OK() && v.QoS < qos && i < len(r.rules); i++ {
		var f found
		if r.answer(&r.rules[i], &q, &f) == Allowed && min(qos, r.rules[i].maxQoS) > v.QoS {
			v.QoS, v.Rule, v.Child = min(qos, r.rules[i].maxQoS), int16(i), f.child
		}
	}
	if above, ok := strings.CutSuffix(filter, "/#"); ok && v.OK() {
		q.topic = above
		v.Partial = !r.decide(&q).OK()
	}
	return v
}

// ActFor says whether the subject may act for a thing at all, and whether that thing may be connected by itself at the same time.
func (r *Rights) ActFor(child string) (v Verdict, both bool) {
	switch {
	case r.group.actFor == nil:
		return Verdict{Rule: -1}, false
	case levelLack(child) != "" || !r.isChild(child):
		return Verdict{Code: NotChild, Rule: -1}, false
	}
	return Verdict{Code: Allowed, Rule: -1, Child: child}, r.group.actFor.both
}

// mostSuffix and mostClient are the octets of a client identifier's suffix, and of one that is whatever the peer says.
const (
	mostSuffix = 64
	mostClient = 128
)

// ClientID returns the client identifier that a peer gets who says id: with client_id bound the thing's name, if it said nothing, and what it said if that is
// the thing's name, or the name, a tilde and a suffix where several connections are allowed. With client_id any it is what it said, and "" is for the
// caller to fill. Whoever is refused must learn no more than that.
func (r *Rights) ClientID(id string) (assigned string, ok bool) {
	if r.Limits.ClientID == ClientAny {
		return id, len(id) <= mostClient && textLack(id) == ""
	}
	if id == "" || id == r.subject.Thing {
		return r.subject.Thing, true
	}
	suffix, ok := strings.CutPrefix(id, r.subject.Thing+suffixMark)
	return id, ok && r.Limits.Connections > 1 && isSuffix(suffix)
}

// suffixMark stands between a thing's name and its suffix. No registered name has it, so that an identifier with a suffix is never another thing's name.
const suffixMark = "~"

func isSuffix(s string) bool {
	return len(s) <= mostSuffix && isName(s)
}

// ResponseTopic says what becomes of a request that names a topic for the answer: ResponseAny, that it passes. Without such a rule, a thing could have a
// service, which may publish to all things, send its answer to another thing.
func (r *Rights) ResponseTopic(topic string) Mode {
	if r.Limits.Response == ResponseAny || r.Receive(topic).OK() {
		return ResponseAny
	}
	return r.Limits.Response
}

// rate is the rate of the rule that decided, if it has one of its own.
func (r *Rights) rate(v Verdict) Rate {
	if v.Rule < 0 || int(v.Rule) >= len(r.rules) {
		return Rate{}
	}
	return r.rules[v.Rule].rate
}

// checkTopic refuses what is no topic, although a codec should have done so: here a + or # in it would be taken for a wildcard.
func (r *Rights) checkTopic(topic string) Code {
	switch {
	case topic == "" || strings.IndexByte(topic, '+') >= 0 || strings.IndexByte(topic, '#') >= 0 || strings.IndexByte(topic, 0) >= 0:
		return Malformed
	case len(topic) > r.Limits.TopicOctets || strings.Count(topic, "/") >= r.Limits.Levels:
		return TooLong
	}
	return Allowed
}

func (r *Rights) checkFilter(filter string) Code {
	if filter == "" || strings.IndexByte(filter, 0) >= 0 || !wildcardsStandAlone(filter) {
		return Malformed
	}
	if len(filter) > r.Limits.TopicOctets || strings.Count(filter, "/") >= r.Limits.Levels {
		return TooLong
	}
	return Allowed
}

// wildcardsStandAlone checks the form of a filter (MQTT 5.0, section 4.7.1): + and # are levels of their own, # the last one.
func wildcardsStandAlone(filter string) bool {
	for i := range len(filter) {
		c := filter[i]
		if c != '+' && c != '#' {
			continue
		}
		last := i+1 == len(filter)
		if i > 0 && filter[i-1] != '/' || !last && (c == '#' || filter[i+1] != '/') {
			return false
		}
	}
	return true
}
