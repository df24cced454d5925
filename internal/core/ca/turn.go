package ca

import (
	"fmt"
	"slices"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// Turn is from when on a CA issues by a profile.
type Turn struct {
	Issuer string // name of the CA
	From   int64  // Unix second; 0 for the first
}

// IssuerAt returns the name of the CA that issues by the profile at a Unix second.
func (p *Profile) IssuerAt(at int64) string {
	for i := len(p.Turns) - 1; i > 0; i-- {
		if p.Turns[i].From <= at {
			return p.Turns[i].Issuer
		}
	}
	return p.Issuer
}

// Issuers returns the names of all CAs that have issued, issue or will issue by the profile, in the order of their turns.
func (p *Profile) Issuers() []string {
	names := []string{p.Issuer}
	for _, t := range p.Turns[min(1, len(p.Turns)):] {
		names = append(names, t.Issuer)
	}
	return names
}

// turn reads one element of issuers: name, and from unless it is the first.
func (d *document) turn(p *Profile, n ast.Node) {
	var t Turn
	d.mapping(n, fields{
		"name": d.plain(&t.Issuer),
		"from": d.parsed(func(s string) (err error) { t.From, err = date(s); return err }),
	}, nil)
	switch last := len(p.Turns) - 1; {
	case t.Issuer == "":
		d.complain(line(n), "issuers: each needs the name of a CA")
	case last < 0 && t.From != 0:
		d.complain(line(n), "issuers: the first one issues from the beginning: take its from out")
	case last >= 0 && t.From <= p.Turns[last].From:
		d.complain(line(n), "issuers: %q needs a from that is later than that of the one before, such as 2027-01-01", t.Issuer)
	case slices.ContainsFunc(p.Turns, func(u Turn) bool { return u.Issuer == t.Issuer }):
		d.complain(line(n), "issuers: %q is listed twice", t.Issuer)
	}
	p.Turns = append(p.Turns, t)
}

// date reads a day, which begins in UTC, or a time with its zone.
func date(s string) (int64, error) {
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, s); err == nil && t.Unix() > 0 {
			return t.Unix(), nil
		}
	}
	return 0, fmt.Errorf("%q is not a date: write 2027-01-01 or 2027-01-01T06:00:00Z", s)
}
