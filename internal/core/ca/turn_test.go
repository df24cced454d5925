package ca

import (
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestTurns reads when which CA issues, and refuses what would leave it open.
func TestTurns(t *testing.T) {
	source, err := fs.ReadFile(DefaultProfiles(), "device.yaml")
	if err != nil {
		t.Fatal(err)
	}
	issuer := regexp.MustCompile(`(?m)^issuer: .*\n`)
	text := func(lines string) string { return issuer.ReplaceAllString(string(source), lines) }
	p, d := parseProfile("profiles/device.yaml", []byte(text("issuers: [{name: devices}, {name: devices-g2, from: 2027-01-01}, {name: devices-g3, from: 2030-06-01T12:00:00+02:00}]\n")))
	if err := d.err(); err != nil {
		t.Fatal(err)
	}
	if got := p.Issuers(); !slices.Equal(got, []string{"devices", "devices-g2", "devices-g3"}) {
		t.Errorf("issuers %v", got)
	}
	for at, want := range map[string]string{"2026-12-31T23:59:59Z": "devices", "2027-01-01T00:00:00Z": "devices-g2", "2030-06-01T09:59:59Z": "devices-g2", "2030-06-01T10:00:00Z": "devices-g3"} {
		now, err := time.Parse(time.RFC3339, at)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.IssuerAt(now.Unix()); got != want {
			t.Errorf("at %s %q issues, want %q", at, got, want)
		}
	}
	for lines, want := range map[string]string{
		"issuer: devices\nissuers: [{name: devices-g2}]\n": "take one of the two out",
		"issuers: []\n": "issuer: is missing",
		"issuers: [{name: devices, from: 2027-01-01}]\n":                                         "take its from out",
		"issuers: [{name: devices}, {name: devices-g2}]\n":                                       "needs a from",
		"issuers: [{name: devices}, {name: a, from: 2028-01-01}, {name: b, from: 2027-01-01}]\n": "later than that of the one before",
		"issuers: [{name: devices}, {name: devices, from: 2027-01-01}]\n":                        "listed twice",
		"issuers: [{name: devices}, {from: 2027-01-01}]\n":                                       "needs the name of a CA",
		"issuers: [{name: devices}, {name: a, from: soon}]\n":                                    "is not a date",
	} {
		if _, d := parseProfile("profiles/device.yaml", []byte(text(lines))); d.err() == nil || !strings.Contains(d.err().Error(), want) {
			t.Errorf("%s\ngives %v, want %q", lines, d.err(), want)
		}
	}
}
