package policy

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"mooring/internal/base/errs"
)

// Kind is what a principal is.
type Kind uint8

// The kinds.
const (
	Device  Kind = 1
	Service Kind = 2 // a person's or a program's certificate whose profile grants a role
	Gateway Kind = 3 // a device that has a list of children
)

// String returns the word for k in the language.
func (k Kind) String() string {
	switch k {
	case Service:
		return "service"
	case Gateway:
		return "gateway"
	}
	return "device"
}

// Subject is what the registry knows about who connects. Nothing in it comes from the peer but Client, which Rights.ClientID has bound to the thing.
type Subject struct {
	Tenant       string
	Thing        string
	Kind         Kind
	Group        string            // of the registry
	Profile      string            // by which it is issued
	Tags         map[string]string // ${attr.NAME}
	Manufacturer string
	Role         string // of a service
	// Client is the client identifier as Rights.ClientID gave it back; "" = not known yet, which makes rules with ${client} void.
	Client string
	// Child reports whether the thing is one for which this one may act; nil = none is. It is called for every message, so it must not block.
	Child func(thing string) bool
}

// attribute returns what the registry says under a name of the language, "" when it says nothing.
func (s *Subject) attribute(name string) string {
	switch name {
	case "name", "thing":
		return s.Thing
	case "group":
		return s.Group
	case "profile":
		return s.Profile
	case "manufacturer":
		return s.Manufacturer
	case "role":
		return s.Role
	case "kind":
		return s.Kind.String()
	case "tenant":
		return s.Tenant
	case "client":
		return s.Client
	}
	if tag, ok := strings.CutPrefix(name, "attr."); ok {
		return s.Tags[tag]
	}
	return ""
}

// CheckLevel returns nil when value can stand in one level of a topic, where it can mean nothing but itself. An identity that the registry or a CA gives
// out should pass it: whoever is called "+" or "a/b" gets no rights.
func CheckLevel(value string) error {
	if lack := levelLack(value); lack != "" {
		return errs.New(errs.Invalid, "%s %s: use a name without / + # $ and control characters", shown(value), lack)
	}
	return nil
}

// levelLack says what keeps value from standing in one level of a topic, or "".
func levelLack(value string) string {
	if value == "" {
		return "is empty"
	}
	if i := strings.IndexAny(value, "/+#$"); i >= 0 {
		return "has the character " + value[i:i+1]
	}
	return textLack(value)
}

// textLack says what keeps s from standing in a topic at all, or "". Control characters and non-characters "should not" be there (MQTT 5.0, section 1.5.4);
// no part of this platform accepts them.
func textLack(s string) string {
	if !utf8.ValidString(s) {
		return "is no UTF-8"
	}
	for _, c := range s {
		if unicode.IsControl(c) {
			return "has a control character"
		}
		if c&0xFFFE == 0xFFFE || 0xFDD0 <= c && c <= 0xFDEF {
			return "has a character that is none of Unicode's"
		}
	}
	return ""
}
