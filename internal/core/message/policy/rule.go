package policy

import (
	"fmt"
	"strings"
)

// action is what a rule allows.
type action uint8

const (
	publish action = iota
	subscribe
	will
	actFor
)

var actionNames = []string{publish: "publish", subscribe: "subscribe", will: "will", actFor: "act-for"}

// allow is one rule of the text.
type allow struct {
	at       place
	action   action
	template *template // nil for act-for
	canon    string    // as Format writes it

	maxQoS byte
	retain bool
	shared bool
	both   bool // act-for: a child may be connected itself at the same time
	size   int  // octets of a payload; 0 = no bound of its own
	rate   Rate
}

// option is a word that may follow a template, and the actions after which it means something.
type option struct {
	name string
	of   []action
	read func(a *allow, value string) (canon, lack string)
}

// optionTable is every option, in the order in which they are told.
func optionTable() []option {
	return []option{
		{"max_qos", []action{publish, subscribe, will}, func(a *allow, v string) (string, string) {
			n, lack := numberIn(v, 0, 2)
			a.maxQoS = byte(n)
			return v, lack
		}},
		{"retain", []action{publish, will}, yes(func(a *allow, y bool) { a.retain = y })},
		{"shared", []action{subscribe}, yes(func(a *allow, y bool) { a.shared = y })},
		{"size", []action{publish, will}, func(a *allow, v string) (string, string) {
			n, lack := octetsIn(v, 1, mostOctets)
			if lack != "" {
				return v, lack
			}
			a.size = int(n)
			return formatOctets(n), ""
		}},
		{"rate", []action{publish}, func(a *allow, v string) (canon, lack string) {
			a.rate, lack = rateIn(v, number64, 1_000_000)
			return v, lack
		}},
		{"burst", []action{publish}, func(a *allow, v string) (string, string) {
			n, lack := numberIn(v, 1, 1_000_000)
			if a.rate.Count == 0 && lack == "" {
				lack = "write it after rate, such as rate 10/s burst 50"
			}
			a.rate.Burst = n
			return v, lack
		}},
		{"both", []action{actFor}, yes(func(a *allow, y bool) { a.both = y })},
	}
}

func yes(set func(*allow, bool)) func(*allow, string) (string, string) {
	return func(a *allow, v string) (string, string) {
		if v != "yes" && v != "no" {
			return v, "write yes or no"
		}
		set(a, v == "yes")
		return v, ""
	}
}

// variables are the names that may stand in ${…}, besides attr.NAME.
var variables = []string{"thing", "client", "group", "profile", "manufacturer", "tenant", "child"}

// The bounds of a template, which are those of a topic at their widest.
const (
	mostTemplateOctets = 512
	mostTemplateLevels = 32
)

type levelKind uint8

const (
	literal  levelKind = iota // text is the level
	variable                  // text, then the value of name, then after
	plus
	hash
)

type level struct {
	kind        levelKind
	text, after string
	name        string // of the variable
}

// template is a topic filter with variables. Templates of one text are one template.
type template struct {
	text   string
	levels []level
	// words are those that stand at the place of a variable in other templates of things: the value must be none of them, or a thing that is called
	// "group" could publish as if it were a whole group.
	words []map[string]place
	// The same for the variables whose values are found in a topic, as values.
	neverChild, neverThing wordList
}

// uses reports whether the variable stands in t.
func (t *template) uses(name string) bool {
	for _, l := range t.levels {
		if l.kind == variable && l.name == name {
			return true
		}
	}
	return false
}

// readTemplate cuts text into levels. complain takes the octet of text at which something is wrong.
func readTemplate(text string, complain func(at int, format string, args ...any)) *template {
	t := &template{text: text}
	if lack := textLack(text); lack != "" {
		complain(0, "the template %s", lack)
	}
	if text == "" || len(text) > mostTemplateOctets || strings.Count(text, "/") >= mostTemplateLevels {
		complain(0, "a template has 1 to %d octets and at most %d levels", mostTemplateOctets, mostTemplateLevels)
		return t
	}
	at := 0
	for s := range strings.SplitSeq(text, "/") {
		l, lack := readLevel(s)
		if lack != "" {
			complain(at, "%s", lack)
		}
		if l.kind == hash && at+len(s) != len(text) {
			complain(at, "# stands for all levels that follow, so it is the last one: write + for one level")
		}
		t.levels = append(t.levels, l)
		at += len(s) + 1
	}
	if lack := dollarLack(t); lack != "" {
		complain(0, "%s", lack)
	}
	return t
}

func readLevel(s string) (l level, lack string) {
	switch s {
	case "+":
		return level{kind: plus}, ""
	case "#":
		return level{kind: hash}, ""
	}
	before, rest, found := strings.Cut(s, "${")
	if i := strings.IndexAny(before, "+#"); i >= 0 {
		return l, fmt.Sprintf("%s is a level of its own: write a/%[1]s, not a%[1]s", before[i:i+1])
	}
	if !found {
		return level{kind: literal, text: s}, ""
	}
	name, after, closed := strings.Cut(rest, "}")
	switch {
	case !closed:
		return l, "a variable is not closed: write it as ${thing}"
	case strings.Contains(after, "${"):
		return l, "a level has one variable: give each a level of its own"
	case strings.ContainsAny(after, "+#"):
		return l, "+ and # are levels of their own and cannot be part of one"
	}
	return level{kind: variable, text: before, after: after, name: name}, variableLack(name)
}

func variableLack(name string) string {
	if tag, ok := strings.CutPrefix(name, "attr."); ok && tag != "" {
		return ""
	}
	for _, v := range variables {
		if v == name {
			return ""
		}
	}
	if tag, ok := strings.CutPrefix(name, "tag."); ok {
		return fmt.Sprintf("unknown variable ${%s}: write ${attr.%s} for the tag %s", name, tag, tag)
	}
	return fmt.Sprintf("unknown variable ${%s}: write ${%s} or ${attr.TAG}", name, strings.Join(variables, "}, ${"))
}

// dollarLack refuses the trees that belong to servers (MQTT 5.0, section 4.7.2), but for the one in which Sparkplug keeps births.
func dollarLack(t *template) string {
	first, _, _ := strings.Cut(t.text, "/")
	switch {
	case !strings.HasPrefix(first, "$") || t.levels[0].kind == variable && t.levels[0].text == "":
		return ""
	case first == "$share" || first == "$queue":
		return "write the filter without " + first + ", and the option shared yes"
	case strings.HasPrefix(t.text, "$sparkplug/certificates/"):
		return ""
	}
	return "topics that begin with $ belong to servers, and no rule reaches them; $sparkplug/certificates/… is the exception"
}
