package conf

import (
	"fmt"
	"strconv"
	"strings"
)

// Field describes one key of the file, for "mooring config describe" and the manual. Default and Example are YAML.
type Field struct {
	Key     string // "listen.est"
	Type    string
	Default string
	Meaning string
	Example string
}

// Describe returns every key in the order of the file.
func Describe() []Field {
	entries := Default().table()
	fields := make([]Field, len(entries))
	for i, e := range entries {
		fields[i] = Field{e.key, e.value.kind, e.value.write(e.value.shown()), e.doc, e.value.write(e.example)}
	}
	return fields
}

// Write returns c as a commented file: every key with its meaning, those at their default commented out. Parse reads it back.
func (c *Config) Write() []byte {
	var b strings.Builder
	b.WriteString("# The configuration of Mooring. Every key may be left out; those commented out show their default.\n")
	b.WriteString("# \"mooring config check\" reads this file without starting anything; \"mooring config describe\" explains every key.\n")
	known, last := groups(), ""
	for _, e := range c.table() {
		group, name := "", e.key
		if dot := strings.LastIndex(e.key, "."); dot >= 0 {
			group, name = e.key[:dot], e.key[dot+1:]
		}
		depth := strings.Count(e.key, ".")
		indent := strings.Repeat("  ", depth)
		switch {
		case group != last && group != "":
			heading := strings.Repeat("  ", depth-1)
			fmt.Fprintf(&b, "\n%[1]s# %[2]s\n%[1]s%[3]s:\n", heading, known[group], group[strings.LastIndex(group, ".")+1:])
			last = group
		case group == "":
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "%s# %s\n%s%s%s: %s\n", indent, e.doc, indent, e.comment(), name, e.value.write(e.value.shown()))
	}
	return []byte(b.String())
}

// comment returns what goes before a key that need not be there. The version always stands in the file, so that a later reader knows it.
func (e entry) comment() string {
	if e.key != "version" && e.value.format() == e.def {
		return "# "
	}
	return ""
}

// write returns text as YAML.
func (v value) write(text string) string {
	switch v.form {
	case asText:
		return strconv.Quote(text)
	case asList:
		if text == "" {
			return "[]"
		}
		items := strings.Split(text, ",")
		for i, item := range items {
			items[i] = strconv.Quote(item)
		}
		return "[" + strings.Join(items, ", ") + "]"
	}
	return text
}
