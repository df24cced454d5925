package ca

import (
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"strings"
	"sync"

	zx509 "github.com/zmap/zcrypto/x509"
	zlinter "github.com/zmap/zlint/v3"
	"github.com/zmap/zlint/v3/lint"
)

// lintSources are the standards whose lints a certificate must satisfy. Those of the CA/Browser Forum speak of public web servers and are
// noise for devices.
func lintSources() lint.SourceList {
	return lint.SourceList{lint.RFC5280, lint.RFC5480, lint.RFC8813, lint.RFC6960, lint.RFC3279, lint.RFC5891}
}

// zlint returns the names of the lints of severity error that raw breaks, without the exceptions.
func zlint(raw []byte, exceptions []string) ([]string, error) {
	cert, err := zx509.ParseCertificate(raw)
	if err != nil {
		return nil, fmt.Errorf("parsing for zlint: %w", err)
	}
	registry, err := lint.GlobalRegistry().Filter(lint.FilterOptions{IncludeSources: lintSources(), ExcludeNames: exceptions})
	if err != nil {
		return nil, fmt.Errorf("choosing lints: %w", err)
	}
	var broken []string
	for name, result := range zlinter.LintCertificateEx(cert, registry).Results {
		if result.Status >= lint.Error {
			broken = append(broken, name)
		}
	}
	slices.Sort(broken)
	return broken, nil
}

// lintAll lints the profiles in which nothing was found yet, on all cores. Of those that differ only in lines that no sample depends on one is
// looked at and stands for all: an instance may have a profile for each of thousands of CAs.
func lintAll(read []reading) {
	alike := map[string][]reading{}
	for _, r := range read {
		if len(r.document.problems) == 0 {
			s := r.profile.shape()
			alike[s] = append(alike[s], r)
		}
	}
	var all sync.WaitGroup
	turn := make(chan struct{}, runtime.GOMAXPROCS(0))
	for _, same := range alike {
		turn <- struct{}{}
		all.Go(func() {
			defer func() { <-turn }()
			first := same[0]
			first.profile.lint(first.document)
			for _, r := range same[1:] {
				r.document.problems = slices.Clone(first.document.problems)
			}
		})
	}
	all.Wait()
}

// foreign leaves those profiles that are not, to the octet, among the default ones, which this package's tests have linted: a start of the server
// need not do so again.
func foreign(read []reading) []reading {
	names, err := fs.Glob(DefaultProfiles(), "*.yaml")
	if err != nil {
		return read
	}
	var linted []string
	for _, name := range names {
		if text, err := fs.ReadFile(DefaultProfiles(), name); err == nil {
			linted = append(linted, string(text))
		}
	}
	return slices.DeleteFunc(slices.Clone(read), func(r reading) bool { return slices.Contains(linted, r.profile.Source) })
}

// shape is the file without its name, its description and the CA, of which the sample's fixed one takes the place.
func (p *Profile) shape() string {
	var kept strings.Builder
	for line := range strings.Lines(p.Source) {
		if key, _, _ := strings.Cut(line, ":"); key != "name" && key != "description" && key != "issuer" {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

func knownLint(name string) bool { return lint.GlobalRegistry().CertificateLints().ByName(name) != nil }

// lint makes a sample certificate of the profile for each kind of key and complains about what is wrong with it. The sample goes the same
// way as every real one, except that its CA is a fixed example.
func (p *Profile) lint(d *document) {
	s, err := newSample(p)
	if err != nil {
		d.complain(1, "no sample certificate can be made: %v", err)
		return
	}
	for _, kind := range p.Keys {
		raw, err := s.certificate(kind)
		if err != nil {
			d.complain(1, "the sample certificate for a key of kind %s cannot be made: %v", kind, err)
			return
		}
		broken, err := zlint(raw, p.LintExceptions)
		if err != nil {
			d.complain(1, "the sample certificate for a key of kind %s: %v", kind, err)
		}
		for _, name := range broken {
			d.complain(1, "the sample certificate for a key of kind %s breaks the lint %s: %s", kind, name, lint.GlobalRegistry().CertificateLints().ByName(name).Description)
		}
		if err := s.compare(kind, raw); err != nil {
			d.complain(1, "the sample certificate for a key of kind %s differs from that of crypto/x509: %v", kind, err)
		}
	}
}
