package policy

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// place is where something stands in a text, from 1.
type place struct{ line, col int }

type tokenKind uint8

const (
	tokenEnd     tokenKind = iota // of the text
	tokenBreak                    // end of a line, or a semicolon
	tokenOpen                     // {
	tokenClose                    // }
	tokenWord                     // text is its value, without quotes
	tokenComment                  // text is what stands after the #
)

type token struct {
	place
	kind tokenKind
	text string
	// line is the end of a line and no semicolon.
	newline bool
	// plain: the text stands in the file as it is, so that a column within it can be told.
	plain bool
}

// lexer cuts a text into tokens. What it complains about goes to the parser's list.
type lexer struct {
	text     string
	at       int
	here     place
	complain func(place, string, ...any)
}

// skip moves over n octets, none of which is the end of a line. Columns count characters.
func (l *lexer) skip(n int) {
	l.here.col += utf8.RuneCountInString(l.text[l.at : l.at+n])
	l.at += n
}

func (l *lexer) next() token {
	for l.at < len(l.text) && strings.IndexByte(" \t\r", l.text[l.at]) >= 0 {
		l.skip(1)
	}
	t := token{place: l.here, kind: tokenEnd}
	if l.at == len(l.text) {
		return t
	}
	switch l.text[l.at] {
	case '\n':
		t.kind, t.newline = tokenBreak, true
		l.at++
		l.here = place{l.here.line + 1, 1}
	case ';':
		t.kind = tokenBreak
		l.skip(1)
	case '{':
		t.kind = tokenOpen
		l.skip(1)
	case '}':
		t.kind = tokenClose
		l.skip(1)
	case '#':
		line, _, _ := strings.Cut(l.text[l.at:], "\n")
		t.kind, t.text = tokenComment, strings.TrimRight(line[1:], " \t\r")
		l.skip(len(line))
	default:
		t.kind = tokenWord
		t.text, t.plain = l.word()
	}
	return t
}

// word reads up to a blank, a separator or a brace; ${…} and what stands in quotes belong to it.
func (l *lexer) word() (text string, plain bool) {
	var b strings.Builder
	plain = true
	for l.at < len(l.text) {
		rest := l.text[l.at:]
		switch c := rest[0]; {
		case strings.IndexByte(" \t\r\n;{}", c) >= 0:
			return b.String(), plain
		case c == '"':
			plain = false
			l.quoted(&b)
		case strings.HasPrefix(rest, "${"):
			n := strings.IndexAny(rest[2:], " \t\r\n;{}\"")
			if n < 0 || rest[2+n] != '}' {
				l.complain(l.here, "a variable is not closed: write it as ${thing}, without blanks")
				n = max(n, 0) - 1
			}
			b.WriteString(rest[:n+3])
			l.skip(n + 3)
		default:
			_, n := utf8.DecodeRuneInString(rest)
			b.WriteString(rest[:n])
			l.skip(n)
		}
	}
	return b.String(), plain
}

func (l *lexer) quoted(b *strings.Builder) {
	start := l.here
	l.skip(1)
	for l.at < len(l.text) && l.text[l.at] != '\n' {
		rest := l.text[l.at:]
		switch {
		case rest[0] == '"':
			l.skip(1)
			return
		case strings.HasPrefix(rest, `\"`), strings.HasPrefix(rest, `\\`):
			b.WriteByte(rest[1])
			l.skip(2)
		case rest[0] == '\\':
			l.complain(l.here, `a backslash in quotes is written \\, a quote \"`)
			l.skip(1)
		default:
			_, n := utf8.DecodeRuneInString(rest)
			b.WriteString(rest[:n])
			l.skip(n)
		}
	}
	l.complain(start, `the quote is not closed in its line: put " at its end`)
}

// quote returns s as one word of the language.
func quote(s string) string {
	bare := s
	for {
		before, after, found := strings.Cut(bare, "${")
		name, rest, closed := strings.Cut(after, "}")
		if !found || !closed || strings.ContainsAny(name, " \t\"{;") {
			break
		}
		bare = before + rest
	}
	if s != "" && s[0] != '#' && !strings.ContainsAny(bare, " \t;\"{}") {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// shown quotes input for an error text and cuts it.
func shown(s string) string {
	const most = 64
	if len(s) > most {
		return strconv.Quote(strings.ToValidUTF8(s[:most], "")) + "…"
	}
	return strconv.Quote(s)
}
