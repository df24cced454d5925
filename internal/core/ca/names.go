package ca

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/wire/der"
)

// subjectFor builds the subject and refuses a request that asks for another identity. A request with an empty subject asks for none;
// what it names must stand in the subject that the profile gives.
func (p *Profile) subjectFor(v *Values, r *der.Request) (attributes []der.Attribute, name []byte, err error) {
	attributes = make([]der.Attribute, len(p.subject))
	for i, s := range p.subject {
		value, err := s.value.fill(v)
		if err != nil {
			return nil, nil, err
		}
		attributes[i] = der.Attribute{Type: s.attribute, Value: value}
	}
	if name, err = der.BuildName(attributes); err != nil {
		return nil, nil, errs.New(errs.Invalid, "the subject cannot be written: %v", err)
	}
	// Read back, since no lint has seen these values. Alternative names were checked one by one by the encoder, and reading them back too
	// would take the issue over its budget.
	if back, err := der.ParseName(name); err != nil || !slices.Equal(back, attributes) {
		return nil, nil, fmt.Errorf("reading back the subject %x: %w", name, err)
	}
	if r == nil || p.ignoreSubject {
		return attributes, name, nil
	}
	for _, asked := range r.Subject {
		if !slices.Contains(attributes, asked) {
			return nil, nil, errs.New(errs.Denied, "the request asks for the subject %q, but the profile %s gives %q: ask for that, or leave the subject empty",
				der.FormatName(r.Subject), p.Name, der.FormatName(attributes))
		}
	}
	return attributes, name, nil
}

// NamesFor returns the alternative names of a certificate of p for a device whose request asks for asked. The error, of kind Denied or Invalid,
// says which name the profile does not give, or which one it lacks.
func (p *Profile) NamesFor(v *Values, asked *der.AltNames) (der.AltNames, error) {
	return p.namesFor(v, asked)
}

// namesFor collects the alternative names: fixed and registered ones always, and what the request chooses within the profile's patterns.
// Names beyond that are refused, not dropped, because the client would otherwise find itself with another identity than it wanted.
func (p *Profile) namesFor(v *Values, asked *der.AltNames) (der.AltNames, error) {
	names, err := p.given(v)
	if err != nil {
		return der.AltNames{}, err
	}
	if asked != nil {
		for _, other := range asked.Other {
			if !slices.ContainsFunc(names.Other, other.Same) {
				return der.AltNames{}, errs.New(errs.Denied, "the request asks for an otherName of type %s, which the profile %s does not give", other.Type, p.Name)
			}
		}
		if err := p.choose(&names, asked); err != nil {
			return der.AltNames{}, err
		}
	}
	for _, uri := range names.URI { // by whatever way: a registered name, a tag in a fixed one
		if isRoleURI(uri) && (p.Grants == access.RoleNone || uri != RoleURI(p.Grants)) {
			return der.AltNames{}, errs.New(errs.Denied, "the URI %q names a role, which the profile %s does not grant: take it away from the device", uri, p.Name)
		}
	}
	return names, p.required(&names)
}

// required says which required kind of name is missing.
func (p *Profile) required(names *der.AltNames) error {
	missing := ""
	switch {
	case p.dns.require && len(names.DNS) == 0:
		missing = "DNS name"
	case p.ip.require && len(names.IP) == 0:
		missing = "IP address"
	case p.uri.require && len(names.URI) == 0:
		missing = "URI"
	case p.email.require && len(names.Email) == 0:
		missing = "mail address"
	default:
		return nil
	}
	return errs.New(errs.Invalid, "the profile %s needs a %s: register one for the device, or ask for one that the profile permits", p.Name, missing)
}

// given are the names that need no asking. Registered ones are normalised; fixed ones are brought to that form as far as it differs.
func (p *Profile) given(v *Values) (names der.AltNames, err error) {
	if names.DNS, err = p.dns.given(v, v.Names.DNS); err != nil {
		return names, err
	}
	if names.URI, err = p.uri.given(v, v.Names.URI); err != nil {
		return names, err
	}
	if names.Email, err = p.email.given(v, v.Names.Email); err != nil {
		return names, err
	}
	ips, err := p.ip.given(v, nil)
	if err != nil {
		return names, err
	}
	for _, s := range ips {
		ip, err := netip.ParseAddr(s)
		if err != nil {
			return names, errs.New(errs.Invalid, "the profile %s makes %q, which is not an IP address", p.Name, s)
		}
		names.IP = append(names.IP, ip)
	}
	if p.ip.registry {
		names.IP = append(names.IP, v.Names.IP...)
	}
	if p.Attested {
		names.Other = v.Names.Other
	}
	if len(names.DNS)+len(names.Email) > 0 { // the other kinds have one form only, and are checked when they are written
		if names, err = names.Normalise(); err != nil {
			return names, errs.New(errs.Invalid, "a name of the device cannot be written: %v", err)
		}
	}
	names.DNS, names.URI, names.Email, names.IP = distinct(names.DNS), distinct(names.URI), distinct(names.Email), distinct(names.IP)
	return names, nil
}

func (r *nameRule) given(v *Values, registered []string) ([]string, error) {
	var names []string
	for _, t := range r.fixed {
		s, err := t.fill(v)
		if err != nil {
			return nil, err
		}
		names = append(names, s)
	}
	if r.registry {
		names = append(names, registered...)
	}
	return names, nil
}

// distinct drops repetitions and keeps the order.
func distinct[T comparable](in []T) []T {
	if len(in) < 2 {
		return in
	}
	out := make([]T, 0, len(in))
	for _, x := range in {
		if !slices.Contains(out, x) {
			out = append(out, x)
		}
	}
	return out
}

// choose adds the names that the request asks for.
func (p *Profile) choose(names, asked *der.AltNames) error {
	var err error
	if names.DNS, err = choose(p, &p.dns, "DNS name", names.DNS, asked.DNS, func(s string) bool {
		return (p.dns.wildcard || !strings.HasPrefix(s, "*.")) && matchesAny(p.dns.request, s)
	}); err != nil {
		return err
	}
	if names.IP, err = choose(p, &p.ip, "IP address", names.IP, asked.IP, func(ip netip.Addr) bool {
		return slices.ContainsFunc(p.ip.prefixes, func(x netip.Prefix) bool { return x.Contains(ip) })
	}); err != nil {
		return err
	}
	if names.URI, err = choose(p, &p.uri, "URI", names.URI, asked.URI, func(s string) bool { return matchesAny(p.uri.request, s) }); err != nil {
		return err
	}
	names.Email, err = choose(p, &p.email, "mail address", names.Email, asked.Email, func(s string) bool { return matchesAny(p.email.request, s) })
	return err
}

func choose[T comparable](p *Profile, r *nameRule, kind string, have, asked []T, permitted func(T) bool) ([]T, error) {
	chosen := 0
	for _, name := range asked {
		if slices.Contains(have, name) {
			continue
		}
		if !permitted(name) {
			return nil, errs.New(errs.Denied, "the request asks for the %s %q, which the profile %s does not permit for this device", kind, fmt.Sprint(name), p.Name)
		}
		if chosen++; chosen > r.max {
			return nil, errs.New(errs.Denied, "the request asks for more than %d names of the kind %s, which is what the profile %s permits", r.max, kind, p.Name)
		}
		have = append(have, name)
	}
	return have, nil
}

func matchesAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, name) })
}

// matches compares with a pattern in which * stands for one or more characters other than dot, slash and at-sign, so that it never spans
// the labels of a DNS name, the parts of a path, or the two sides of a mail address.
func matches(pattern, name string) bool {
	fixed, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == name
	}
	name, ok := strings.CutPrefix(name, fixed)
	if !ok {
		return false
	}
	for i := 0; i < len(name) && strings.IndexByte("./@", name[i]) < 0; i++ {
		if matches(rest, name[i+1:]) {
			return true
		}
	}
	return false
}

// checkAsked refuses requests for power, whatever the profile: a device that asks for a CA certificate is broken or hostile. Other
// requested extensions (identifiers, usages) are passed over, because clients echo those of their old certificate.
func (p *Profile) checkAsked(r *der.Request) error {
	refuse := func(what string) error {
		return errs.New(errs.Denied, "the request asks for %s, which no profile gives: leave it out", what)
	}
	switch {
	case r.CA:
		return refuse("a CA certificate (basicConstraints CA:TRUE)")
	case r.KeyUsage&der.KeyCertSign != 0:
		return refuse("the key usage keyCertSign")
	case r.KeyUsage&der.CRLSign != 0:
		return refuse("the key usage cRLSign")
	}
	for _, usage := range r.ExtKeyUsage {
		if isPowerful(usage) && !slices.Contains(p.ExtKeyUsage, usage) {
			return errs.New(errs.Denied, "the request asks for the extended key usage %s (OCSP signing, CMC CA or RA), which the profile %s does not give", usage, p.Name)
		}
	}
	return nil
}
