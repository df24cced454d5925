package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"mooring/internal/base/errs"
)

// The bounds of a policy.
const (
	mostText     = 256 << 10 // octets
	mostGroups   = 256
	mostAllows   = 1024 // in the text
	mostRules    = 64   // of a group, those of the groups that it extends included
	mostMatches  = 64   // of a group
	mostProblems = 20   // that are told
)

// Set is a policy: its groups in their order. It never changes, so it may be used by any goroutine.
type Set struct {
	file   string
	groups []*group
	byName map[string]*group
	end    []string // what stands after the last group

	templates []*template
	inverse   []inverse   // of what devices may subscribe to
	spoken    []*template // where devices may publish or leave wills
}

// group is one group of the text, and what came out of it and the groups that it extends.
type group struct {
	name    string
	at      place
	extends []token
	matches []match
	own     []assignment
	allows  []*allow

	statements []statement // for Format
	lead, tail []string    // what stands before the group, and before the brace that closes it

	limits Limits
	rules  []*allow // of all groups that it extends, then its own
	actFor *allow
}

// assignment is a setting with its value.
type assignment struct {
	at      place
	setting setting
	value   string
}

// statement is what Format needs to know of one.
type statement struct {
	lead  []string // the lines before it: comments with their #, and "" for one or more empty lines
	canon string
	tail  string // the comment at the end of its line, with its #
}

type problem struct {
	place
	text string
}

// parser reads one text. It goes on after a mistake, so that a person sees all of them at once.
type parser struct {
	lex      lexer
	now      token
	set      *Set
	problems []problem
	allows   int
	known    map[string]*template

	lead []string // lines between statements that none has yet
}

// Parse reads a policy. The error has kind Invalid and a line "file:line:column: what is wrong and what to write" for every mistake.
func Parse(file string, text []byte) (*Set, error) {
	p := &parser{set: &Set{file: file, byName: map[string]*group{}}, known: map[string]*template{}}
	if source, ok := p.source(text); ok {
		p.lex = lexer{text: source, here: place{1, 1}, complain: p.complain}
		p.now = p.lex.next()
		p.file()
		p.resolve()
	}
	if err := p.err(file); err != nil {
		return nil, err
	}
	return p.set, nil
}

// source checks what keeps text from being one at all.
func (p *parser) source(text []byte) (string, bool) {
	source := strings.ReplaceAll(strings.TrimPrefix(string(text), "\uFEFF"), "\r\n", "\n")
	here := place{1, 1}
	if len(source) > mostText {
		p.complain(here, "the policy has more than %d KiB: write fewer groups, and variables for what differs", mostText>>10)
		return "", false
	}
	for i, c := range source {
		switch {
		case c == utf8.RuneError && !strings.HasPrefix(source[i:], "\uFFFD"):
			p.complain(here, "the text is no UTF-8 here: save it as UTF-8")
			return "", false
		case c < ' ' && c != '\n' && c != '\t', c == 0x7F:
			p.complain(here, "the text has the control character %U here: remove it", c)
			return "", false
		}
		here.col++
		if c == '\n' {
			here = place{here.line + 1, 1}
		}
	}
	return source, true
}

func (p *parser) complain(at place, format string, args ...any) {
	p.problems = append(p.problems, problem{at, fmt.Sprintf(format, args...)})
}

func (p *parser) err(file string) error {
	if len(p.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(p.problems, func(a, b problem) int {
		return cmp.Or(a.line-b.line, a.col-b.col)
	})
	p.problems = slices.CompactFunc(p.problems, func(a, b problem) bool { return a.place == b.place }) // one mistake there has often two names
	var lines []string
	for i, pr := range p.problems {
		if i == mostProblems {
			lines = append(lines, fmt.Sprintf("%s: and %d more", file, len(p.problems)-i))
			break
		}
		lines = append(lines, fmt.Sprintf("%s:%d:%d: %s", file, pr.line, pr.col, pr.text))
	}
	return errs.New(errs.Invalid, "%s", strings.Join(lines, "\n"))
}

func (p *parser) next() token {
	t := p.now
	p.now = p.lex.next()
	return t
}

// between goes over the ends of lines and semicolons to the next statement, and keeps comments and empty lines for it.
func (p *parser) between() {
	lines := 0
	for {
		switch {
		case p.now.kind == tokenComment:
			p.lead = append(p.lead, "#"+p.now.text)
			lines = 0
		case p.now.kind != tokenBreak:
			return
		case p.now.newline:
			if lines++; lines == 2 {
				p.lead = append(p.lead, "")
			}
		}
		p.next()
	}
}

// taken returns the lines before a statement.
func (p *parser) taken() []string {
	lead := p.lead
	p.lead = nil
	return lead
}

func (p *parser) file() {
	for p.between(); p.now.kind != tokenEnd; p.between() {
		lead := p.taken()
		t := p.next()
		if t.kind != tokenWord || t.text != "group" {
			p.complain(t.place, "a policy is made of groups: write group NAME { … }")
			p.skip()
			continue
		}
		if g := p.group(t); g != nil {
			g.lead = lead
		}
	}
	p.set.end = p.taken()
}

// skip goes to the next group that begins a line, or to the end.
func (p *parser) skip() {
	for fresh := false; p.now.kind != tokenEnd; p.next() {
		if fresh && p.now.kind == tokenWord && p.now.text == "group" && p.now.col == 1 {
			return
		}
		fresh = p.now.kind == tokenBreak
	}
}

func (p *parser) group(at token) *group {
	g := &group{at: at.place}
	if p.now.kind != tokenWord {
		p.complain(p.now.place, "a group has a name: write group meters { … }")
		p.skip()
		return nil
	}
	name := p.next()
	g.name = name.text
	if !isName(g.name) {
		p.complain(name.place, "%s is no name for a group: write 1 to 64 letters, digits, - and _", shown(g.name))
	}
	if p.now.kind != tokenOpen {
		p.complain(p.now.place, "the group %s needs braces: write group %[1]s { … }", g.name)
		p.skip()
		return nil
	}
	p.next()
	p.add(g, name.place)
	for p.between(); p.now.kind != tokenClose; p.between() {
		if p.now.kind == tokenEnd {
			p.complain(p.now.place, "the group %s, which begins in line %d, is not closed: write } after its last rule", g.name, g.at.line)
			return g
		}
		p.statement(g)
	}
	g.tail = p.taken()
	p.next()
	return g
}

func (p *parser) add(g *group, at place) {
	first, twice := p.set.byName[g.name]
	switch {
	case twice:
		p.complain(at, "the group %s stands in line %d already: put everything about it there", g.name, first.at.line)
	case len(p.set.groups) == mostGroups:
		p.complain(at, "a policy has at most %d groups: put things with the same rights into one, and write variables for what differs", mostGroups)
	case len(p.set.groups) < mostGroups:
		p.set.byName[g.name] = g
		p.set.groups = append(p.set.groups, g)
	}
}

func isName(s string) bool {
	return len(s) >= 1 && len(s) <= 64 && !strings.ContainsFunc(s, func(c rune) bool {
		return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_')
	})
}

// statement reads one: the words up to the end of the line, a semicolon or a brace.
func (p *parser) statement(g *group) {
	lead := p.taken()
	var words []token
	for p.now.kind == tokenWord {
		words = append(words, p.next())
	}
	if p.now.kind == tokenOpen {
		p.complain(p.now.place, "a group has no braces within: write } before the next group, and one rule a line")
		p.next()
	}
	if len(words) == 0 {
		return
	}
	before := len(g.statements)
	switch first := words[0]; first.text {
	case "match":
		p.match(g, words)
	case "extends":
		p.extends(g, words)
	case "allow":
		p.allow(g, words)
	default:
		p.settings(g, words)
	}
	if before == len(g.statements) {
		return // nothing of it was good
	}
	g.statements[before].lead = lead
	if p.now.kind == tokenComment {
		g.statements[len(g.statements)-1].tail = "#" + p.next().text
	}
}

func (g *group) says(canon string) { g.statements = append(g.statements, statement{canon: canon}) }

func (p *parser) extends(g *group, words []token) {
	if len(words) == 1 {
		p.complain(words[0].place, "extends needs the name of a group: write extends base")
		return
	}
	canon := "extends"
	for _, w := range words[1:] {
		g.extends = append(g.extends, w)
		canon += " " + quote(w.text)
	}
	g.says(canon)
}

func (p *parser) settings(g *group, words []token) {
	first := len(g.statements)
	for len(words) > 0 {
		key := words[0]
		s, ok := settingNamed(key.text)
		if !ok {
			p.unknown(g, key)
			return
		}
		if len(words) == 1 {
			_, lack := s.read(&Limits{}, "")
			p.complain(key.place, "%s needs a value: %s", s.name, lack)
			return
		}
		p.assign(g, s, words[1], key.place, first)
		words = words[2:]
	}
}

func (p *parser) unknown(g *group, key token) {
	if key.text == "group" {
		p.complain(key.place, "the group %s, which begins in line %d, is not closed before this: write } after its last rule", g.name, g.at.line)
		return
	}
	words := append([]string{"match", "extends", "allow"}, settingNames()...)
	guess := meant(key.text, words)
	if guess == "" {
		guess = ": write " + orList(words)
	}
	p.complain(key.place, "unknown word %s%s", shown(key.text), guess)
}

// assign takes one setting. The statements from first on are of its line.
func (p *parser) assign(g *group, s setting, value token, at place, first int) {
	canon, lack := s.read(&Limits{}, value.text)
	if lack != "" {
		p.complain(value.place, "%s: %s is not understood: %s", s.name, shown(value.text), lack)
		return
	}
	for _, a := range g.own {
		if a.setting.name == s.name {
			p.complain(at, "%s is set in line %d already: remove one", s.name, a.at.line)
			return
		}
	}
	if s.name == "rate" && slices.ContainsFunc(g.own, func(a assignment) bool { return a.setting.name == "burst" }) {
		p.complain(at, "a rate brings a burst of its own: write rate before burst")
	}
	g.own = append(g.own, assignment{at, s, value.text})
	if last := len(g.statements) - 1; s.name == "burst" && last >= first && g.statements[last].canon == "rate "+g.own[len(g.own)-2].value {
		g.statements[last].canon += " burst " + canon // of one line, as in a rule
		return
	}
	g.says(s.name + " " + canon)
}

func (p *parser) allow(g *group, words []token) {
	if p.allows++; p.allows == mostAllows+1 {
		p.complain(words[0].place, "a policy has at most %d rules: write variables for what differs", mostAllows)
	}
	if p.allows > mostAllows {
		return
	}
	if len(words) < 3 {
		p.complain(words[0].place, "a rule says what is allowed and where: write allow publish v1/${thing}/telemetry/#")
		if len(words) == 2 && slices.Contains(actionNames, words[1].text) && p.now.kind == tokenComment {
			p.complain(p.now.place, `a # that begins a word begins a comment: for the template of everything write "#"`)
		}
		return
	}
	kind := slices.Index(actionNames, words[1].text)
	if kind < 0 {
		p.complain(words[1].place, "%s cannot be allowed: write %s%s", shown(words[1].text), orList(actionNames), meant(words[1].text, actionNames))
		return
	}
	a := &allow{at: words[0].place, action: action(kind), maxQoS: 2}
	object := words[2]
	a.canon = "allow " + actionNames[kind] + " " + quote(object.text)
	if a.action == actFor {
		if object.text != "children" {
			p.complain(object.place, "%s is nobody to act for: write allow act-for children, which are those that the registry lists for the gateway", shown(object.text))
		}
	} else {
		a.template = p.template(object)
	}
	p.options(a, words[3:])
	g.allows = append(g.allows, a)
	g.says(a.canon)
}

func (p *parser) template(w token) *template {
	if t := p.known[w.text]; t != nil {
		return t
	}
	before := len(p.problems)
	t := readTemplate(w.text, func(at int, format string, args ...any) {
		where := w.place
		if w.plain {
			where.col += utf8.RuneCountInString(w.text[:at])
		}
		p.complain(where, format, args...)
	})
	if len(p.problems) == before {
		p.known[w.text] = t
		p.set.templates = append(p.set.templates, t)
	}
	return t
}

func (p *parser) options(a *allow, words []token) {
	seen, table := map[string]bool{}, optionTable()
	for len(words) > 0 {
		key := words[0]
		i := slices.IndexFunc(table, func(o option) bool { return o.name == key.text })
		var may []string
		for _, o := range table {
			if slices.Contains(o.of, a.action) {
				may = append(may, o.name)
			}
		}
		switch {
		case i < 0 || !slices.Contains(table[i].of, a.action):
			p.complain(key.place, "%s is no option of allow %s: write %s%s", shown(key.text), actionNames[a.action], orList(may), meant(key.text, may))
			return
		case len(words) == 1:
			p.complain(key.place, "%s needs a value: %s", key.text, optionLack(table[i]))
			return
		case seen[key.text]:
			p.complain(key.place, "%s stands twice: remove one", key.text)
		}
		seen[key.text] = true
		canon, lack := table[i].read(a, words[1].text)
		if lack != "" {
			p.complain(words[1].place, "%s: %s is not understood: %s", key.text, shown(words[1].text), lack)
		}
		a.canon += " " + key.text + " " + canon
		words = words[2:]
	}
}

func optionLack(o option) string {
	_, lack := o.read(&allow{rate: Rate{Count: 1}}, "")
	return lack
}

// meant is a guess at what somebody meant to write: a word that differs in one place.
func meant(word string, among []string) string {
	for _, w := range among {
		if w != word && len(word) > 2 && near(w, word) {
			return fmt.Sprintf(" (did you mean %s?)", w)
		}
	}
	return ""
}

// near reports whether one character that is added, taken away, changed, or put behind the next one makes b of a.
func near(a, b string) bool {
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	return len(a) <= 1 && len(b) <= 1 || len(a) == 2 && len(b) == 2 && a[0] == b[1] && a[1] == b[0]
}
