package ca

import (
	"slices"

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
// named: each once, CAs before the cross certificates of their roots, and these before the roots. Roots that vouch for each other come
// together, so that both generations are known wherever one is (RFC 7030, section 4.1.3). Unknown names add nothing, nor do CAs that have ended.
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
	b := bundle{crosses: a.Crosses(), now: a.deps.Now().Unix(), seen: map[IssuerID]bool{}}
	for _, i := range issuers {
		if a.Barred(i) == nil {
			b.add(i)
		}
	}
	return slices.Concat(b.below, b.vouching, b.roots)
}

// bundle collects certificates for Anchors.
type bundle struct {
	crosses                []*Cross
	now                    int64
	seen                   map[IssuerID]bool
	below, vouching, roots [][]byte
}

// add adds a CA, those above it, and the roots that vouch for its root or that it vouches for.
func (b *bundle) add(i *Issuer) {
	for ; i != nil && !b.seen[i.id]; i = i.parent {
		b.seen[i.id] = true
		if i.cert.NotAfter.Unix() < b.now {
			continue
		}
		if i.parent != nil {
			b.below = append(b.below, i.cert.Raw)
			continue
		}
		b.roots = append(b.roots, i.cert.Raw)
		for _, c := range b.crosses {
			switch i.id {
			case c.Subject.id: // the certificate of the other direction comes with the other root
				b.vouching = append(b.vouching, c.Cert.Raw)
				b.add(c.Issuer)
			case c.Issuer.id:
				b.add(c.Subject)
			}
		}
	}
}
