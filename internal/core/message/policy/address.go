package policy

import (
	"slices"
	"strings"

	"mooring/wire/mqtt"
)

// inverse is a template by which things receive, turned round: it finds the thing in a topic.
type inverse struct {
	*template
	pattern   pattern
	addressed bool // it names a thing; otherwise it may be for many
	suffixed  bool // its ${client} may have a suffix
}

// Addressees are those to whom a topic is addressed. Names are parts of the topic.
type Addressees struct {
	Things []string // things whose own templates it fits
	// Children are things on whose behalf a gateway may receive it. Who that is, the registry knows.
	Children []string
	Cast     bool // it may be for many things: a template without a thing's name fits
}

// invert collects the templates by which things may receive, one of each, and those by which they may speak.
func (s *Set) invert() {
	for _, g := range s.groups {
		if g.limits.Principal != Device || len(g.matches) == 0 {
			continue
		}
		for _, a := range g.rules {
			if a.action == subscribe {
				s.addInverse(a.template, g.limits.Connections > 1)
			} else if !slices.Contains(s.spoken, a.template) {
				s.spoken = append(s.spoken, a.template)
			}
		}
	}
}

func (s *Set) addInverse(t *template, suffixed bool) {
	if i := slices.IndexFunc(s.inverse, func(v inverse) bool { return v.template == t }); i >= 0 {
		s.inverse[i].suffixed = s.inverse[i].suffixed || suffixed
		return
	}
	v := inverse{template: t, suffixed: suffixed}
	var m patternMaker
	for _, l := range t.levels {
		kind := stepText
		switch {
		case l.kind == plus:
			kind = stepPlus
		case l.kind == hash:
			kind = stepHash
		case l.kind == variable:
			kind = stepOther
			switch l.name {
			case "thing":
				kind = stepThing
			case "client":
				kind = stepClient
			case "child":
				kind = stepChild
			}
		}
		v.addressed = v.addressed || kind > stepHash && kind != stepOther
		m.level(kind, l.text, l.after)
	}
	v.pattern = m.done()
	s.inverse = append(s.inverse, v)
}

// Addressees says to whom a topic is addressed, in the place of what to held; its slices are used again. It follows from the templates by which things
// may receive, so it is the widest answer: whether a thing is registered, and may receive the topic, Rights.Receive says.
func (s *Set) Addressees(topic string, to *Addressees) {
	to.Things, to.Children, to.Cast = to.Things[:0], to.Children[:0], false
	for i := range s.inverse {
		v := &s.inverse[i]
		var f found
		if !v.pattern.match(topic, &f) {
			continue
		}
		if !v.addressed {
			to.Cast = true
			continue
		}
		v.name(to, &f)
	}
}

// Heard reports whether a device may publish, or leave a will for, anything that a filter means, with $share/NAME/ or without: whether a session with that
// filter has to follow what devices say. Where it cannot be sure the answer is yes.
func (s *Set) Heard(filter string) bool {
	if _, inner, shared, err := mqtt.Shared(filter); err == nil && shared {
		filter = inner
	}
	levels := strings.Split(filter, "/")
	for _, t := range s.spoken {
		if t.meetsFilter(levels) {
			return true
		}
	}
	return false
}

// meetsFilter reports whether a topic can be of t and of the filter with these levels.
func (t *template) meetsFilter(filter []string) bool {
	for i, l := range t.levels {
		switch {
		case i == len(filter):
			return false
		case filter[i] == "#":
			return i > 0 || l.kind != literal || !strings.HasPrefix(l.text, "$")
		case i == 0 && strings.HasPrefix(filter[0], "$") && (l.kind != literal || filter[0] != l.text):
			return false
		case l.kind == hash:
			return true
		case filter[i] == "+" || l.kind == plus:
			if i == 0 && l.kind == literal && strings.HasPrefix(l.text, "$") {
				return false
			}
		case l.kind == literal && l.text != filter[i], l.kind == variable && !l.canBe(filter[i]):
			return false
		}
	}
	return len(filter) == len(t.levels) || len(filter) == len(t.levels)+1 && filter[len(t.levels)] == "#"
}

// name adds those whom f found.
func (v *inverse) name(to *Addressees, f *found) {
	switch {
	case f.thing != "" && !v.neverThing.has(f.thing):
		to.Things = add(to.Things, f.thing)
	case f.thing == "" && f.client != "":
		to.Things = add(to.Things, f.client)
		if thing, _, cut := strings.Cut(f.client, suffixMark); v.suffixed && cut && thing != "" {
			to.Things = add(to.Things, thing)
		}
	}
	if f.child != "" && !v.neverChild.has(f.child) {
		to.Children = add(to.Children, f.child)
	}
}

func add(names []string, name string) []string {
	if slices.Contains(names, name) {
		return names
	}
	return append(names, name)
}
