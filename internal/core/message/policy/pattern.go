package policy

import (
	"slices"
	"strings"
)

type stepKind uint8

const (
	stepText stepKind = iota // text stands here, which may be of several levels
	stepPlus                 // any one level
	stepHash                 // whatever follows
	// The others are the rest of one level: a value, which is not empty, and text after it.
	stepChild
	stepThing
	stepClient
	stepOther // a variable whose value does not matter
)

// step is a part of a compiled template.
type step struct {
	kind stepKind
	text string
}

// pattern is a compiled template. A topic is of it when its steps eat the topic up.
type pattern []step

// found are the values that stood in the places of variables.
type found struct{ child, thing, client string }

// patternMaker puts a pattern together, level by level. Neighbouring texts become one.
type patternMaker struct {
	pattern pattern
	text    []byte
	begun   bool
}

// level adds one level: text, and unless kind is stepText a step of that kind, with after behind it.
func (m *patternMaker) level(kind stepKind, text, after string) {
	if m.begun {
		m.text = append(m.text, '/')
	}
	m.begun = true
	m.text = append(m.text, text...)
	if kind != stepText {
		m.flush()
		m.pattern = append(m.pattern, step{kind, after})
	}
}

func (m *patternMaker) flush() {
	if len(m.text) > 0 {
		m.pattern = append(m.pattern, step{stepText, string(m.text)})
		m.text = m.text[:0]
	}
}

// done returns the pattern, in no more memory than it needs.
func (m *patternMaker) done() pattern {
	m.flush()
	return slices.Clip(slices.Clone(m.pattern))
}

// match reports whether s, a topic or a topic filter, lies in p: every topic that a filter means is of p, but for the level above a # at its end. A topic
// must have no + or #, a filter must be well-formed. What begins with $ lies in no p that begins with a wildcard (MQTT 5.0, section 4.7.2).
func (p pattern) match(s string, f *found) bool {
	at := 0
	for _, st := range p {
		if st.kind == stepText {
			if !strings.HasPrefix(s[at:], st.text) {
				return false
			}
			at += len(st.text)
			continue
		}
		if at == 0 && s != "" && s[0] == '$' {
			return false
		}
		if st.kind == stepHash {
			return true
		}
		end := strings.IndexByte(s[at:], '/')
		if end < 0 {
			end = len(s) - at
		}
		value := s[at : at+end]
		at += end
		if st.kind == stepPlus {
			if value == "#" {
				return false
			}
		} else if !f.take(st, value) {
			return false
		}
	}
	return at == len(s) && len(p) > 0
}

// take notes the value of a variable. A wildcard of a filter is no value, and a variable that stands twice has one value.
func (f *found) take(st step, value string) bool {
	value, ok := strings.CutSuffix(value, st.text)
	if !ok || value == "" || value == "+" || value == "#" {
		return false
	}
	var place *string
	switch st.kind {
	case stepChild:
		place = &f.child
	case stepThing:
		place = &f.thing
	case stepClient:
		place = &f.client
	default:
		return true
	}
	if *place != "" && *place != value {
		return false
	}
	*place = value
	return true
}
