package enrol

import (
	"strings"

	"mooring/internal/base/errs"
)

// Reason returns why a request was refused in the form that may be kept: without what the requester or the registry calls things.
func Reason(refusal error) string { return unquoted(errs.Public(refusal)) }

// unquoted returns a refusal's text as the record may hold it: what stands in quotation marks is replaced by "…". The client is told what
// it asked for; an entry can never be taken out again, and a subject or a name that somebody asked for may be personal. Texts of refusals
// quote (with %q) what comes from a request or the registry, and nothing else: names of profiles stand as they are.
func unquoted(text string) string {
	var b strings.Builder
	for {
		before, rest, quote := strings.Cut(text, `"`)
		b.WriteString(before)
		if !quote {
			return b.String()
		}
		b.WriteString(`"…"`)
		text = afterQuote(rest)
	}
}

// afterQuote returns what follows the quotation mark that ends text; nothing when none does.
func afterQuote(text string) string {
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '"':
			return text[i+1:]
		}
	}
	return ""
}
