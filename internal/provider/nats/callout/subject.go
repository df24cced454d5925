package callout

import (
	"strings"

	"mooring/internal/base/errs"
)

// subjectsOf writes an MQTT filter as the subjects that nats-server makes of topics which match it (mqtt.go there): / is a border of levels, a dot is
// "//", an empty level "/". For subscribing, a/# needs the parent level a besides a.>, since the server subscribes to both; publishing to a is not
// granted by a/#.
//
// Wildcards of NATS cannot be told from letters there, so a filter that has them is refused rather than grant more than it says.
func subjectsOf(filter string, subscribe bool) ([]string, error) {
	if filter == "" || strings.ContainsAny(filter, "*> \t\n\r\f\x7f") {
		return nil, errs.New(errs.Invalid, "the filter %q cannot be said to NATS: it is empty, or has blanks, * or >", filter)
	}
	levels := strings.Split(filter, "/")
	var subject []string
	for i, level := range levels {
		last := i == len(levels)-1
		switch {
		case level == "#" && last:
			if i == 0 || !subscribe {
				return []string{strings.Join(append(subject, ">"), ".")}, nil
			}
			return []string{strings.Join(subject, "."), strings.Join(append(subject, ">"), ".")}, nil
		case level == "+":
			subject = append(subject, "*")
		case strings.ContainsAny(level, "+#"):
			return nil, errs.New(errs.Invalid, "the filter %q has a wildcard that is not alone in its level, or a # that is not last", filter)
		case level == "":
			subject = append(subject, "/")
		default:
			subject = append(subject, strings.ReplaceAll(level, ".", "//"))
		}
	}
	return []string{strings.Join(subject, ".")}, nil
}
