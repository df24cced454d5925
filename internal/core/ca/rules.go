package ca

import (
	"crypto/x509"
	"slices"
	"strings"

	"mooring/internal/core/access"
	"mooring/wire/der"
)

// check applies the rules that a profile has to keep by itself. What the resulting certificate has to keep is lint's matter.
func (p *Profile) check(d *document, stem string) {
	switch {
	case p.Name == "":
		d.at("name", "is missing")
	case !plainName.MatchString(p.Name):
		d.at("name", "%q: use 1 to 32 small letters, digits and hyphens, a letter first", p.Name)
	case p.Name != stem:
		d.at("name", "%q differs from the name of the file: rename one of them", p.Name)
	}
	p.checkIssuers(d)
	if len(p.subject) == 0 {
		d.at("subject", "is missing: an empty subject would need a critical alternative name, which many peers do not understand")
	}
	p.checkTimes(d)
	p.checkUsage(d)
	p.checkTerms(d)
	p.checkNames(d)
	p.checkRole(d)
	p.checkExtensions(d)
	p.checkLife(d)
	for _, name := range p.LintExceptions {
		if !knownLint(name) {
			d.at("lint_exceptions", "there is no lint %q", name)
		}
	}
}

func (p *Profile) checkIssuers(d *document) {
	if _, one := d.lines["issuer"]; one && len(p.Turns) > 0 {
		d.at("issuers", "the CA stands in issuer already: take one of the two out")
	}
	if p.Issuer == "" {
		d.at("issuer", "is missing: name the CA that issues")
	}
}

func (p *Profile) checkTimes(d *document) {
	switch {
	case !p.Forever && p.Validity == 0:
		d.at("validity", "is missing: use a time such as 90d, or forever")
	case !p.Forever && p.Validity < 60 && p.Record != Ephemeral:
		d.at("validity", "is less than a minute")
	case !p.Forever && p.Validity < 10:
		d.at("validity", "is less than ten seconds: it would be over before it arrives")
	case !p.Forever && p.Backdate > p.Validity/2:
		d.at("backdate", "is more than half of the validity")
	case !p.Forever && p.RenewBefore >= p.Validity:
		d.at("renew_before", "is not less than the validity: each certificate would be renewed at once")
	case p.RenewSpread > p.RenewBefore:
		d.at("renew_spread", "is more than renew_before: some devices would come after their certificate's end")
	case !p.Forever && p.RenewSpread > p.Validity-p.RenewBefore:
		d.at("renew_spread", "is more than validity without renew_before: some devices would renew at once")
	case p.Backdate > 30*86400:
		d.at("backdate", "is more than 30 days")
	}
}

func (p *Profile) checkUsage(d *document) {
	if p.KeyUsage == 0 {
		d.at("key_usage", "is missing: most profiles want [digitalSignature]")
	}
	notRSA := slices.ContainsFunc(p.Keys, func(k der.KeyKind) bool { return len(k) < 3 || k[:3] != "rsa" })
	if p.KeyUsage&(der.KeyEncipherment|der.DataEncipherment) != 0 && notRSA {
		d.at("key_usage", "keyEncipherment and dataEncipherment are for RSA keys only (RFC 8813, section 3): restrict keys to rsa-…")
	}
	if p.KeyUsage&der.KeyAgreement != 0 && slices.ContainsFunc(p.Keys, isMLDSA) {
		d.at("key_usage", "keyAgreement is not for ML-DSA keys, which only sign (RFC 9881, section 5): take it out, or ml-dsa-… out of keys")
	}
	for _, usage := range p.ExtKeyUsage {
		switch {
		case usage == der.OIDAnyExtKeyUsage:
			d.at("ext_key_usage", "anyExtendedKeyUsage permits everything: list what is meant, or nothing")
		case isPowerful(usage) && !p.Approval:
			d.at("ext_key_usage", "OCSPSigning, cmcCA and cmcRA let the holder act for the CA: such a profile needs \"approval: required\"")
		}
	}
	for i, usage := range p.ExtKeyUsage {
		if slices.Contains(p.ExtKeyUsage[:i], usage) {
			d.at("ext_key_usage", "%s is listed twice", usage)
		}
	}
}

// Speaks reports whether certificates of the profile let their holders act for the CA.
func (p *Profile) Speaks() bool { return slices.ContainsFunc(p.ExtKeyUsage, isPowerful) }

// isPowerful reports whether a usage makes its holder part of the authority (RFC 6402, section 2.10; RFC 6960, section 4.2.2.2).
func isPowerful(usage der.OID) bool {
	return usage == der.OIDOCSPSigning || usage == der.OIDCMCRA || usage == der.OIDCMCCA
}

func (p *Profile) checkTerms(d *document) {
	p.checkSCEP(d)
	if p.Linking && !p.Binding {
		d.at("linking", "is required, but \"challenge: ignore\" says not to look at it")
	}
	if p.ServerKeygen != "" && !slices.Contains(p.Keys, der.KeyKind(p.ServerKeygen)) {
		d.at("server_keygen", "%s is not among the profile's keys", p.ServerKeygen)
	}
	if p.TrustAccount && !p.Accepts(EvidenceAccount) {
		d.at("acme", "trust-account is about accounts, which evidence does not list: add account there")
	}
	if p.Grants == access.RoleNone {
		return
	}
	if !slices.Contains(p.ExtKeyUsage, der.OIDClientAuth) {
		d.at("grants", "a role is exercised over TLS: add clientAuth to ext_key_usage")
	}
	if slices.ContainsFunc(p.Keys, isMLDSA) {
		d.at("grants", "a role is exercised over TLS, which has no ML-DSA yet: take ml-dsa-… out of keys")
	}
	if p.Accepts(EvidenceBirth) {
		d.at("grants", "a role needs a person's token, not a birth certificate: take birth out of evidence")
	}
	for _, e := range []Evidence{EvidenceAccount, EvidenceDomain, EvidenceAttested, EvidenceRA} {
		if p.Accepts(e) {
			d.at("grants", "a role needs a person's token each time it is given: take %s out of evidence", e)
		}
	}
	for _, r := range []*nameRule{&p.dns, &p.ip, &p.uri, &p.email} {
		if len(r.request) > 0 {
			d.at("grants", "whoever has a role may not choose his names: take request out of san")
			return
		}
	}
}

func (p *Profile) checkNames(d *document) {
	for _, kind := range p.nameKinds() {
		r := kind.rule
		sources := len(r.fixed) + len(r.request)
		switch {
		case r.require && sources == 0 && !r.registry:
			d.at("san", "%s is required, but no name is permitted: add fixed, registry or request", kind.name)
		case r.max > 0 && len(r.request) == 0:
			d.at("san", "%s has max, which limits chosen names, but no request patterns", kind.name)
		case r.wildcard && len(r.request) == 0:
			d.at("san", "dns has wildcard, which is for chosen names, but no request patterns")
		}
	}
}

// checkRole sees to it that a role stands in what is signed, and in nothing else that is signed here.
func (p *Profile) checkRole(d *document) {
	own, has := RoleURI(p.Grants), false
	for _, t := range p.uri.fixed {
		switch {
		case p.Grants != access.RoleNone && t.source == own:
			has = true
		case isRoleURI(t.source):
			d.at("san", "the URI %q is for profiles that grant the role: take it out", t.source)
		}
	}
	for _, pattern := range p.uri.request {
		if isRoleURI(pattern) || slices.ContainsFunc(access.Roles(), func(r access.Role) bool { return matches(pattern, RoleURI(r)) }) {
			d.at("san", "with the pattern %q a request could choose a URI that grants a role: make it narrower", pattern)
		}
	}
	if p.Grants != access.RoleNone && !has {
		d.at("grants", "the role must stand in the certificate: add %q to fixed under uri in san", own)
	}
}

const roleURN = "urn:mooring:role:"

// RoleURI returns the alternative name that a certificate bears if and only if its profile grants the role.
func RoleURI(r access.Role) string { return roleURN + string(r) }

// isRoleURI reports whether a URI is, or could pass for, one of RoleURI. "urn" and what follows it do not tell cases apart (RFC 8141,
// section 3.1).
func isRoleURI(uri string) bool {
	return len(uri) >= len(roleURN) && strings.EqualFold(uri[:len(roleURN)], roleURN)
}

// SignedRole returns the role of whoever holds leaf, which issuer has signed and whose record names p: the role that p grants, when it stands
// in leaf and one of p's own CAs is the signer. So a record that was changed to name another profile gives no role.
func (p *Profile) SignedRole(leaf *x509.Certificate, issuer *Issuer) access.Role {
	if p.Grants == access.RoleNone || !slices.Contains(p.Issuers(), issuer.name) {
		return access.RoleNone
	}
	for _, uri := range leaf.URIs {
		if uri.String() == RoleURI(p.Grants) {
			return p.Grants
		}
	}
	return access.RoleNone
}

// checkExtensions keeps constant extensions apart from those that the platform writes itself.
func (p *Profile) checkExtensions(d *document) {
	own := []der.OID{der.OIDSubjectKeyID, der.OIDKeyUsage, der.OIDSubjectAltName, der.OIDBasicConstraints, der.OIDNameConstraints,
		der.OIDCRLPoints, der.OIDAuthorityKeyID, der.OIDExtKeyUsage, der.OIDAuthorityInfo}
	for i, e := range p.Extensions {
		switch {
		case slices.Contains(own, e.OID):
			d.at("extensions", "%s is written from other fields of the profile", e.OID)
		case slices.ContainsFunc(p.Extensions[:i], func(f der.Extension) bool { return f.OID == e.OID }):
			d.at("extensions", "%s is listed twice", e.OID)
		case e.OID == der.OIDNoRevAvail:
			d.at("extensions", "%s is written by \"no_rev_avail: true\"", e.OID)
		}
	}
}

type nameKind struct {
	name string
	rule *nameRule
}

func (p *Profile) nameKinds() []nameKind {
	return []nameKind{{"dns", &p.dns}, {"ip", &p.ip}, {"uri", &p.uri}, {"email", &p.email}}
}
