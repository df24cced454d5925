package policy

import (
	"fmt"
	"slices"
	"strings"
)

// match is one line of conditions, all of which must fit. One without conditions fits everybody, or nobody.
type match struct {
	at         place
	conditions []condition
	none       bool
}

func (m match) any() bool { return len(m.conditions) == 0 && !m.none }

type condition struct {
	attribute, pattern string
}

// attributes are the names that may stand in a condition, besides attr.NAME.
var attributes = []string{"name", "group", "profile", "manufacturer", "role", "kind"}

func (p *parser) match(g *group, words []token) {
	if len(g.matches) == mostMatches {
		p.complain(words[0].place, "a group has at most %d lines of match: give the things a tag in common, and match that", mostMatches)
		return
	}
	m := match{at: words[0].place}
	canon := "match"
	for _, w := range words[1:] {
		if (w.text == "any" || w.text == "none") && len(words) == 2 {
			m.none = w.text == "none"
			g.matches = append(g.matches, m)
			g.says("match " + w.text)
			return
		}
		c, lack := readCondition(w.text)
		if lack != "" {
			p.complain(w.place, "%s", lack)
			continue
		}
		m.conditions = append(m.conditions, c)
		canon += " " + c.String()
	}
	if len(words) == 1 {
		p.complain(words[0].place, "match needs a condition: write match profile=meter, match attr.site=*, or match any for everybody that is left")
	}
	if len(m.conditions) == 0 {
		return
	}
	g.matches = append(g.matches, m)
	g.says(canon)
}

func readCondition(word string) (c condition, lack string) {
	name, pattern, found := strings.Cut(word, "=")
	if !found {
		return c, fmt.Sprintf("%s is no condition: write NAME=PATTERN, such as profile=meter, without blanks around =", shown(word))
	}
	c = condition{name, pattern}
	if tag, ok := strings.CutPrefix(name, "attr."); ok && tag != "" || slices.Contains(attributes, name) {
		if name == "kind" && !slices.Contains([]string{"device", "gateway", "service"}, pattern) {
			return c, "kind is device, gateway or service"
		}
		return c, ""
	}
	if tag, ok := strings.CutPrefix(name, "tag."); ok {
		return c, fmt.Sprintf("unknown attribute %s: write attr.%s for the tag %s", shown(name), tag, tag)
	}
	return c, fmt.Sprintf("unknown attribute %s: write %s, or attr.TAG for a tag%s", shown(name), orList(attributes), meant(name, attributes))
}

// certifies reports whether c says who somebody is by the certificate that he was given, or that he is one and no other: what may make a service of him. Groups
// and tags may not, since they are given to devices by the thousand.
func (c condition) certifies() bool {
	switch c.attribute {
	case "role", "profile":
		return strings.Trim(c.pattern, "*") != "" || c.attribute == "role" && c.pattern != ""
	case "kind":
		return c.pattern == "service"
	case "name":
		return c.pattern != "" && !strings.Contains(c.pattern, "*")
	}
	return false
}

// String returns m as it stands in the language.
func (m match) String() string {
	text := "match"
	for _, c := range m.conditions {
		text += " " + c.String()
	}
	return text
}

// String returns c as it stands in the language.
func (c condition) String() string { return quoteBefore(c.attribute) + "=" + quote(c.pattern) }

// quoteBefore quotes a name that another character follows at once, so it may be empty and still need nothing.
func quoteBefore(s string) string {
	if s == "" {
		return ""
	}
	return quote(s)
}

// fits reports whether value is of the pattern. What the registry does not say fits the empty pattern only.
func (c condition) fits(value string) bool {
	if value == "" {
		return c.pattern == ""
	}
	return glob(c.pattern, value)
}

// glob reports whether s is of the pattern, in which * stands for any run of characters. It takes no memory, and no more time than there are stars
// times octets.
func glob(pattern, s string) bool {
	part, rest, starred := strings.Cut(pattern, "*")
	if !starred {
		return pattern == s
	}
	s, ok := strings.CutPrefix(s, part)
	for ok {
		if part, pattern, starred = strings.Cut(rest, "*"); !starred {
			return strings.HasSuffix(s, part)
		}
		_, s, ok = strings.Cut(s, part) // the first place is the best one: it leaves most for what follows
		rest = pattern
	}
	return false
}

// fits reports whether s is of all conditions of m.
func (m match) fits(s *Subject) bool {
	for _, c := range m.conditions {
		if !c.fits(s.attribute(c.attribute)) {
			return false
		}
	}
	return !m.none
}

// lack says what m lacks to fit s, or "".
func (m match) lack(s *Subject) string {
	if m.none {
		return "nothing belongs to it by what the registry says (match none)"
	}
	for _, c := range m.conditions {
		switch value := s.attribute(c.attribute); {
		case c.fits(value):
		case value == "":
			return fmt.Sprintf("it has no %s, and %s is asked for", c.attribute, c)
		default:
			return fmt.Sprintf("its %s is %s, and %s is asked for", c.attribute, shown(value), c)
		}
	}
	return ""
}

// fits reports whether s belongs to g. It is asked at each connection, lack only when somebody wants to know.
func (g *group) fits(s *Subject) bool {
	if g.limits.Principal == Device && s.Kind == Service {
		return false
	}
	return slices.ContainsFunc(g.matches, func(m match) bool { return m.fits(s) })
}

// lack says why s does not belong to g, or "".
func (g *group) lack(s *Subject) string {
	if g.limits.Principal == Device && s.Kind == Service {
		return "it is for devices, and this is a service"
	}
	if len(g.matches) == 0 {
		return "it has no match and is only there to be extended"
	}
	var lacks []string
	for _, m := range g.matches {
		lack := m.lack(s)
		if lack == "" {
			return ""
		}
		lacks = append(lacks, lack)
	}
	return strings.Join(lacks, "; ")
}

// group returns the first group that s belongs to, or nil.
func (s *Set) group(subject *Subject) *group {
	for _, g := range s.groups {
		if g.fits(subject) {
			return g
		}
	}
	return nil
}

// Group returns the name of the group that subject belongs to: the first of the text that fits.
func (s *Set) Group(subject Subject) (name string, ok bool) {
	g := s.group(&subject)
	if g == nil {
		return "", false
	}
	return g.name, true
}

// Groups returns the names of the groups that can have members, in their order.
func (s *Set) Groups() []string {
	var names []string
	for _, g := range s.groups {
		if len(g.matches) > 0 {
			names = append(names, g.name)
		}
	}
	return names
}
