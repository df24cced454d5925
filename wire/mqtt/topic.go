package mqtt

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// A topic name is a path of levels with "/" between them; levels may be empty, and "/a" has two. In a filter, a level may be "+", which stands for any one
// level, and the last one "#", which stands for any number of levels, none included: "a/#" matches "a" too. Names that begin with "$" are the server's:
// no filter that begins with a wildcard matches them (section 4.7).
//
// Names are compared octet by octet. Nothing is normalised; ".." is a level like any other.

const sharePrefix = "$share/"

// CheckTopic says whether a name may be published to: 1 octet at least, no wildcards, no control characters, within the limits. l may be nil. The error is
// an *Error with TopicNameInvalid.
func CheckTopic[T string | []byte](name T, l *Limits) error {
	if fault := checkTopic(name, l); fault != "" {
		return &Error{TopicNameInvalid, 0, "the topic name " + fault}
	}
	return nil
}

// CheckFilter says whether a filter may be subscribed to: "#" only as the last level, "+" and "#" alone in their level, a shared one with a name and a
// filter in it, and else as CheckTopic. The error is an *Error with TopicFilterInvalid.
func CheckFilter(filter string, l *Limits) error {
	group, inner, _, err := Shared(filter)
	if err != nil {
		return err
	}
	octets, levels := l.name()
	seen, fault := checkName(inner, octets-(len(filter)-len(inner)), levels)
	if fault == "" && seen&seenWildcard != 0 {
		fault = checkWildcards(inner)
	}
	if fault == "" && group != "" {
		_, fault = checkName(group, octets, 1)
	}
	if fault != "" {
		return &Error{TopicFilterInvalid, 0, "the topic filter " + fault}
	}
	return nil
}

func checkTopic[T string | []byte](name T, l *Limits) (fault string) {
	octets, levels := l.name()
	seen, fault := checkName(name, octets, levels)
	if fault == "" && seen&seenWildcard != 0 {
		return "holds a wildcard"
	}
	return fault
}

// checkName checks what topic names and filters have in common.
func checkName[T string | []byte](name T, octets, levels int) (seen uint8, fault string) {
	if len(name) > octets { // before anything looks at all of it
		return 0, fmt.Sprintf("has %d octets, more than %d", len(name), octets)
	}
	seen, slashes := look(name)
	switch {
	case len(name) == 0:
		fault = "is empty"
	case seen&(seenNoText|seenOdd) != 0:
		fault = "is not UTF-8, or holds a control character or a non-character"
	case slashes >= levels:
		fault = fmt.Sprintf("has %d levels, more than %d", slashes+1, levels)
	}
	return seen, fault
}

// checkWildcards checks that wildcards have a level for themselves, and that "#" is the last one.
func checkWildcards(filter string) (fault string) {
	for i := range len(filter) {
		if filter[i] != '+' && filter[i] != '#' {
			continue
		}
		last := i+1 == len(filter)
		switch {
		case i > 0 && filter[i-1] != '/' || !last && filter[i+1] != '/':
			return "has a wildcard that is not alone in its level"
		case filter[i] == '#' && !last:
			return "has levels after #"
		}
	}
	return ""
}

// What look has seen in a text.
const (
	seenNoText   = 1 << iota // what is not UTF-8, or U+0000: never allowed (section 1.5.4)
	seenOdd                  // control characters and non-characters, which a receiver may refuse
	seenWildcard             // "+" or "#"
)

// look goes over a text once.
func look[T string | []byte](text T) (seen uint8, slashes int) {
	for i := 0; i < len(text); {
		c := text[i]
		if c >= utf8.RuneSelf {
			var room [utf8.UTFMax]byte
			r, n := utf8.DecodeRune(room[:copy(room[:], text[i:])])
			switch {
			case r == utf8.RuneError && n == 1:
				seen |= seenNoText
			case r < 0xa0, 0xfdd0 <= r && r <= 0xfdef, r&0xfffe == 0xfffe:
				seen |= seenOdd
			}
			i += n
			continue
		}
		switch i++; {
		case c > '/' && c != 0x7f: // most
		case c == '/':
			slashes++
		case c == '+' || c == '#':
			seen |= seenWildcard
		case c == 0:
			seen |= seenNoText
		case c < ' ' || c == 0x7f:
			seen |= seenOdd
		}
	}
	return seen, slashes
}

// Shared takes a shared subscription apart, "$share/group/inner" (section 4.8.2). inner is the filter itself when it is not a shared one. The error is an
// *Error with TopicFilterInvalid for what begins like a shared one and has no good group or no filter.
func Shared(filter string) (group, inner string, shared bool, err error) {
	rest, shared := strings.CutPrefix(filter, sharePrefix)
	if !shared {
		return "", filter, false, nil
	}
	group, inner, _ = strings.Cut(rest, "/")
	if group == "" || inner == "" || strings.ContainsAny(group, "+#") {
		return "", "", true, &Error{TopicFilterInvalid, 0, "the shared subscription has no name of a group, or no filter"}
	}
	return group, inner, true, nil
}

// Match reports whether a filter matches a topic name. Both must be good ones, and the filter not a shared one.
func Match[T string | []byte](filter string, topic T) bool {
	if len(topic) > 0 && topic[0] == '$' && wild(filter) {
		return false
	}
	t := 0
	for f := range len(filter) {
		switch c := filter[f]; {
		case c == '#':
			return true
		case c == '+':
			for t < len(topic) && topic[t] != '/' {
				t++
			}
		case t < len(topic) && topic[t] == c:
			t++
		default: // "a/#" matches "a", too
			return t == len(topic) && filter[f:] == "/#"
		}
	}
	return t == len(topic)
}

func wild(filter string) bool { return filter != "" && (filter[0] == '+' || filter[0] == '#') }

// Covers reports whether a filter matches every topic name that the other one matches. Both must be good ones, and not shared ones.
func Covers(filter, other string) bool {
	if other != "" && other[0] == '$' && wild(filter) {
		return false
	}
	o := 0
	for f := range len(filter) {
		switch c := filter[f]; {
		case c == '#':
			return true
		case c == '+' && o < len(other) && other[o] == '#':
			// Any number of levels, but a topic is not empty: "+/#" matches all that "#" does, and "/+/#" all that "/#" does.
			return o <= 1 && filter[f:] == "+/#"
		case c == '+':
			for o < len(other) && other[o] != '/' {
				o++
			}
		case o < len(other) && other[o] == c:
			o++
		default:
			return o == len(other) && filter[f:] == "/#"
		}
	}
	return o == len(other)
}
