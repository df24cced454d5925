package ca

import (
	"fmt"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"mooring/wire/der"
)

// SCEP says that and how a profile is served by SCEP (RFC 8894).
type SCEP struct {
	RA        string // the profile of the registration authority's certificate
	TripleDES bool   // requests may be encrypted by triple DES, and then answers are
	SHA1      bool   // requests may be signed with SHA-1; answers never are
}

// scepFields reads the field scep.
func (d *document) scepFields(p *Profile) fields {
	return fields{"scep": func(n ast.Node) {
		p.SCEP = &SCEP{}
		d.mapping(n, fields{"ra": d.plain(&p.SCEP.RA), "triple_des": d.boolInto(&p.SCEP.TripleDES), "sha1": d.boolInto(&p.SCEP.SHA1)}, nil)
		if p.SCEP.RA == "" {
			d.complain(line(n), "scep: ra is missing: name the profile of the registration authority's certificate, such as scep-ra")
		}
	}}
}

func isRSA(k der.KeyKind) bool { return strings.HasPrefix(string(k), "rsa-") }

// checkSCEP finds what the profile itself says against SCEP.
func (p *Profile) checkSCEP(d *document) {
	switch {
	case p.SCEP == nil:
	case !slices.ContainsFunc(p.Keys, isRSA):
		d.at("scep", "SCEP can answer RSA keys only (RFC 8894, section 3.1): add rsa-2048 or more to keys")
	case p.Linking:
		d.at("scep", "the challenge password is the token here and cannot be a channel binding: take \"linking: required\" out")
	case p.Record == Ephemeral:
		d.at("scep", "clients of SCEP ask for their certificate again, and it is not kept here: use \"record: full\"")
	}
}

// checkRA says what keeps ra from being the profile of a registration authority, "" when nothing does: it must decrypt and sign, and be no other server's.
func checkRA(ra *Profile) string {
	switch {
	case len(ra.Keys) == 0 || !slices.ContainsFunc(ra.Keys, isRSA) || slices.ContainsFunc(ra.Keys, func(k der.KeyKind) bool { return !isRSA(k) }):
		return "keys must be RSA keys alone"
	case ra.KeyUsage&der.KeyEncipherment == 0 || ra.KeyUsage&der.DigitalSignature == 0:
		return "key_usage must hold digitalSignature and keyEncipherment"
	case ra.SCEP != nil:
		return "it cannot be served by SCEP itself"
	}
	return ""
}

// checkSCEPReference finds what is wrong with the profile of the registration authority that p names.
func (ps *Profiles) checkSCEPReference(p *Profile) error {
	if p.SCEP == nil {
		return nil
	}
	ra := ps.byName[p.SCEP.RA]
	if ra == nil {
		return fmt.Errorf("profiles/%s.yaml:%d: scep: there is no profile %q", p.Name, p.scepLine, p.SCEP.RA)
	}
	if why := checkRA(ra); why != "" {
		return fmt.Errorf("profiles/%s.yaml:%d: scep: the profile %q cannot be a registration authority's: %s", p.Name, p.scepLine, p.SCEP.RA, why)
	}
	return nil
}
