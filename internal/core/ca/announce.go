package ca

import (
	"mooring/wire/der"
)

// SubjectPart is one attribute of the subject that a profile gives.
type SubjectPart struct {
	Attribute der.OID
	Fixed     string // the value, when it is the same for every device; else ""
}

// SubjectParts returns the subject of the profile's certificates, as far as it can be told before it is known for whom. It is empty when the
// profile does not look at the subject of a request.
func (p *Profile) SubjectParts() []SubjectPart {
	if p.ignoreSubject {
		return nil
	}
	parts := make([]SubjectPart, len(p.subject))
	for i, s := range p.subject {
		parts[i].Attribute = s.attribute
		if fixed, err := s.value.fill(&Values{}); err == nil && !s.value.varies() {
			parts[i].Fixed = fixed
		}
	}
	return parts
}

// varies reports whether the text depends on the device.
func (t text) varies() bool {
	for _, p := range t.parts {
		if p.field != "" {
			return true
		}
	}
	return false
}

// Anchors returns the certificates in DER that somebody needs to verify what the named CAs issue, or what all CAs issue when none is
// named: each once, CAs before the roots above them. Unknown names add nothing.
func (a *Authority) Anchors(names ...string) [][]byte {
	var issuers []*Issuer
	for _, name := range names {
		if i, err := a.Issuer(name); err == nil {
			issuers = append(issuers, i)
		}
	}
	if len(names) == 0 {
		issuers = a.all()
	}
	seen := map[IssuerID]bool{}
	var below, roots [][]byte
	for _, i := range issuers {
		for ; i != nil && !seen[i.id]; i = i.parent {
			seen[i.id] = true
			if i.parent == nil {
				roots = append(roots, i.cert.Raw)
				continue
			}
			below = append(below, i.cert.Raw)
		}
	}
	return append(below, roots...)
}
