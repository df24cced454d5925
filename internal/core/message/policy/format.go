package policy

import (
	"strings"
)

// Format returns the text of s as it should be written: one setting a line, values in their shortest form, comments and single empty lines kept. To
// parse it gives the same policy.
func (s *Set) Format() string {
	var b strings.Builder
	for i, g := range s.groups {
		if i > 0 {
			b.WriteByte('\n')
		}
		writeLines(&b, "", trimFirst(g.lead))
		b.WriteString("group " + g.name + " {\n")
		for j, st := range g.statements {
			if j == 0 {
				st.lead = trimFirst(st.lead)
			}
			writeLines(&b, "    ", st.lead)
			b.WriteString("    " + st.canon)
			if st.tail != "" {
				b.WriteString("  " + st.tail)
			}
			b.WriteByte('\n')
		}
		tail := trimLast(g.tail)
		if len(g.statements) == 0 {
			tail = trimFirst(tail)
		}
		writeLines(&b, "    ", tail)
		b.WriteString("}\n")
	}
	if end := trimLast(trimFirst(s.end)); len(end) > 0 {
		if len(s.groups) > 0 {
			b.WriteByte('\n')
		}
		writeLines(&b, "", end)
	}
	return b.String()
}

func trimFirst(lines []string) []string {
	if len(lines) > 0 && lines[0] == "" {
		return lines[1:]
	}
	return lines
}

func trimLast(lines []string) []string {
	if n := len(lines); n > 0 && lines[n-1] == "" {
		return lines[:n-1]
	}
	return lines
}

func writeLines(b *strings.Builder, indent string, lines []string) {
	for _, line := range lines {
		if line != "" {
			b.WriteString(indent + line)
		}
		b.WriteByte('\n')
	}
}
