package policy

import (
	"maps"
	"slices"
	"strings"
)

// resolve brings the groups together with those that they extend, and checks what can only be seen then.
func (p *parser) resolve() {
	done := map[*group]bool{}
	for _, g := range p.set.groups {
		p.inherit(g, nil, done)
	}
	if len(p.problems) > 0 {
		return // what follows would only repeat it
	}
	for _, g := range p.set.groups {
		p.finish(g)
	}
	p.reach()
	p.set.reserve()
	p.set.invert()
}

// inherit collects the settings and rules of the groups that g extends before its own. path is who asked for g.
func (p *parser) inherit(g *group, path []*group, done map[*group]bool) {
	if done[g] {
		return
	}
	path = append(path, g)
	var all []assignment
	for _, ref := range g.extends {
		base := p.set.byName[ref.text]
		if base == nil {
			p.complain(ref.place, "there is no group %s to extend%s", shown(ref.text), meant(ref.text, slices.Sorted(maps.Keys(p.set.byName))))
			continue
		}
		if slices.Contains(path, base) {
			p.complain(ref.place, "the group %s would extend itself by way of this: take one extends away", base.name)
			continue
		}
		p.inherit(base, path, done)
		all = append(all, base.own...)
		g.rules = append(g.rules, base.rules...)
		if base.actFor != nil {
			g.actFor = base.actFor
		}
	}
	g.own = append(all, g.own...)
	for _, a := range g.allows {
		if a.action == actFor {
			g.actFor = a
			continue
		}
		if !slices.Contains(g.rules, a) {
			g.rules = append(g.rules, a)
		}
	}
	g.rules = unique(g.rules)
	done[g] = true
	if len(g.rules) > mostRules {
		p.complain(g.at, "the group %s has %d rules with those that it extends, and %d are allowed: write variables, + and # for what differs", g.name, len(g.rules), mostRules)
	}
}

// unique leaves out rules that came by two ways.
func unique(rules []*allow) []*allow {
	var all []*allow
	for _, r := range rules {
		if !slices.Contains(all, r) {
			all = append(all, r)
		}
	}
	return all
}

// finish makes the limits of g and checks its rules against them.
func (p *parser) finish(g *group) {
	var scratch Limits
	scratch.Principal = Device
	for _, a := range g.own {
		if a.setting.name == "principal" {
			a.setting.read(&scratch, a.value)
		}
	}
	g.limits = defaults(scratch.Principal)
	p.assignAll(g)
	l := &g.limits
	// A message that the packet's size allows must be able to pass.
	if l.ByteRate.Count > 0 {
		l.ByteRate.Burst = max(l.ByteRate.Burst, int64(l.Packet))
	}
	if len(g.matches) == 0 {
		return // nobody belongs to it, and whoever extends it may say what it lacks
	}
	for _, a := range g.rules {
		l.Shared = l.Shared || a.shared
		l.Retain = l.Retain || a.retain
		if a.action != subscribe {
			l.MaxQoS = max(l.MaxQoS, a.maxQoS)
		}
		if a.template.uses("child") && g.actFor == nil {
			p.complain(a.at, "${child} means nothing in the group %s: write allow act-for children, too", g.name)
		}
		if a.template.uses("client") && l.ClientID == ClientAny {
			p.complain(a.at, "in the group %s a client identifier is whatever the peer says (client_id any), so ${client} cannot be trusted: write ${thing}, or client_id bound", g.name)
		}
	}
	for _, m := range g.matches {
		switch {
		case l.Principal != Service:
		case m.any():
			p.complain(m.at, "match any would make services of all devices: say who they are, such as match role=operator or match profile=backend")
		case !m.none && !slices.ContainsFunc(m.conditions, condition.certifies):
			p.complain(m.at, "%s would make services of devices by what whoever keeps the registry can give to any of them: say who they are by their certificates, too, such as match role=operator, match kind=service or match profile=backend, or by one name", m)
		}
	}
}

func (p *parser) assignAll(g *group) {
	for _, a := range g.own {
		if a.setting.name == "burst" && g.limits.Rate.Count == 0 {
			p.complain(a.at, "burst without a rate limits nothing in the group %s: write rate 10/s burst 50", g.name)
			continue
		}
		a.setting.read(&g.limits, a.value)
	}
}

// reach complains about groups that nothing can ever belong to.
func (p *parser) reach() {
	used := map[string]bool{}
	for _, g := range p.set.groups {
		for _, ref := range g.extends {
			used[ref.text] = true
		}
	}
	var all *group
	for _, g := range p.set.groups {
		switch {
		case len(g.matches) == 0 && !used[g.name]:
			p.complain(g.at, "nothing belongs to the group %s and no group extends it: write match profile=…, or match any in the last group", g.name)
		case len(g.matches) > 0 && all != nil && g.limits.Principal == Device:
			p.complain(g.at, "the group %s is never reached, because all devices belong to %s in line %d: put it before that", g.name, all.name, all.at.line)
		}
		if all == nil && slices.ContainsFunc(g.matches, match.any) {
			all = g
		}
	}
}

// reserve finds the fixed words that variables must not equal: those that stand at the same place of another template of things, behind levels
// that a topic of both can have. Without it, a thing that is called "all" could publish to t/all/notice by its rule for t/${thing}/#.
func (s *Set) reserve() {
	var of []*template
	for _, t := range s.templates {
		t.words = make([]map[string]place, len(t.levels))
	}
	lines := map[*template]place{}
	for _, g := range s.groups {
		if g.limits.Principal != Device || len(g.matches) == 0 {
			continue
		}
		for _, a := range g.rules {
			if _, ok := lines[a.template]; !ok {
				lines[a.template] = a.at
				of = append(of, a.template)
			}
		}
	}
	for i := range mostTemplateLevels {
		for _, t := range of {
			if i < len(t.levels) && t.levels[i].kind == variable {
				for _, u := range of {
					if i < len(u.levels) && u.levels[i].kind == literal && t.meets(u, i) {
						t.reserveWord(i, u.levels[i].text, lines[u])
					}
				}
			}
		}
	}
}

func (t *template) reserveWord(i int, word string, at place) {
	if t.words[i] == nil {
		t.words[i] = map[string]place{}
	}
	if !has(t.words[i], word) {
		t.words[i][word] = at
	}
	if l := t.levels[i]; l.canBe(word) {
		value := word[len(l.text) : len(word)-len(l.after)]
		switch l.name {
		case "child":
			t.neverChild.add(value)
		case "thing":
			t.neverThing.add(value)
		}
	}
}

// wordList is a sorted list of words: to look one up among the few that there are is faster than in a map.
type wordList []string

func (w *wordList) add(word string) {
	if i, found := slices.BinarySearch(*w, word); !found {
		*w = slices.Insert(*w, i, word)
	}
}

func (w wordList) has(word string) bool {
	_, found := slices.BinarySearch(w, word)
	return found
}

// meets reports whether a topic of t and one of u can begin with the same n levels. The words of these levels must be known.
func (t *template) meets(u *template, n int) bool {
	for i := range n {
		a, b := t.levels[i], u.levels[i]
		switch {
		case a.kind == literal && b.kind == literal:
			if a.text != b.text {
				return false
			}
		case a.kind == literal && b.kind == variable:
			if !b.canBe(a.text) || has(u.words[i], a.text) {
				return false
			}
		case a.kind == variable && b.kind == literal:
			if !a.canBe(b.text) || has(t.words[i], b.text) {
				return false
			}
		}
	}
	return true
}

// canBe reports whether a value of the variable makes the level be word.
func (l level) canBe(word string) bool {
	return len(word) > len(l.text)+len(l.after) && strings.HasPrefix(word, l.text) && strings.HasSuffix(word, l.after)
}

func has(words map[string]place, word string) bool {
	_, ok := words[word]
	return ok
}
