package ca

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"mooring/internal/core/access"
	"mooring/internal/core/key"
	"mooring/wire/der"
)

const (
	defaultBackdate = 5 * 60
	maxValidity     = 100 * 365 * 86400 // beyond it somebody means "forever"
)

var plainName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)

// parseProfile reads a profile's file. Complaints are in the document; the profile is usable only when there are none.
func parseProfile(file string, data []byte) (*Profile, *document) {
	source := strings.ReplaceAll(string(data), "\r\n", "\n")
	d := &document{file: file}
	p := &Profile{Source: source, Version: versionOf(source), Slot: "operational", Backdate: -1, RenewBefore: -1, RenewSpread: -1, Retention: -1, Binding: true, Principal: "device"}
	var challenge, linking, approval, reuse, subject, acme string
	var model life
	table := fields{
		"name":            d.textInto(&p.Name),
		"description":     d.textInto(&p.Description),
		"issuer":          d.plain(&p.Issuer),
		"issuers":         d.list(func(n ast.Node) { d.turn(p, n) }),
		"slot":            d.plain(&p.Slot),
		"subject":         d.list(func(n ast.Node) { d.subject(p, n) }),
		"request_subject": d.choice("match", "ignore")(&subject),
		"san": func(n ast.Node) {
			d.mapping(n, fields{"dns": d.names(&p.dns, "dns"), "ip": d.names(&p.ip, "ip"),
				"uri": d.names(&p.uri, "uri"), "email": d.names(&p.email, "email"), "attested": d.boolInto(&p.Attested)}, nil)
		},
		"keys":            d.texts(p.addKey),
		"key_usage":       d.texts(p.addKeyUsage),
		"ext_key_usage":   d.texts(p.addExtKeyUsage),
		"validity":        d.parsed(p.setValidity),
		"backdate":        d.parsed(func(s string) (err error) { p.Backdate, err = seconds(s); return err }),
		"renew_before":    d.parsed(func(s string) (err error) { p.RenewBefore, err = seconds(s); return err }),
		"renew_spread":    d.parsed(func(s string) (err error) { p.RenewSpread, err = seconds(s); return err }),
		"reuse_key":       d.choice("allowed", "forbidden")(&reuse),
		"evidence":        d.texts(p.addEvidence),
		"approval":        d.choice("none", "required")(&approval),
		"challenge":       d.choice("binding", "ignore")(&challenge),
		"linking":         d.choice("optional", "required")(&linking),
		"acme":            d.choice("challenge", "trust-account")(&acme),
		"server_keygen":   d.parsed(p.setServerKeygen),
		"unwrapped":       d.boolInto(&p.Unwrapped),
		"crl":             d.boolInto(&p.CRL),
		"ocsp":            d.boolInto(&p.OCSP),
		"principal":       d.choice("device", "gateway", "service")(&p.Principal),
		"grants":          d.parsed(func(s string) (err error) { p.Grants, err = access.ParseRole(s); return err }),
		"extensions":      d.list(func(n ast.Node) { d.extension(p, n) }),
		"lint_exceptions": d.texts(func(s string) error { p.LintExceptions = append(p.LintExceptions, s); return nil }),
	}
	maps.Copy(table, d.lifeFields(p, &model))
	maps.Copy(table, d.scepFields(p))
	d.read([]byte(source), table)
	p.Approval, p.ReuseKey, p.ignoreSubject = approval == "required", reuse == "allowed", subject == "ignore"
	p.Binding, p.Linking, p.TrustAccount = challenge != "ignore", linking == "required", acme == "trust-account"
	p.alsoForLine, p.scepLine = max(d.lines["also_for"], 1), max(d.lines["scep"], 1)
	if len(d.problems) == 0 {
		p.complete()
		p.completeLife(&model)
		p.check(d, strings.TrimSuffix(path.Base(file), ".yaml"))
	}
	return p, d
}

// complete fills in what depends on other fields.
func (p *Profile) complete() {
	if len(p.Turns) > 0 && p.Issuer == "" {
		p.Issuer = p.Turns[0].Issuer
	}
	if p.Backdate < 0 {
		p.Backdate = defaultBackdate
		if !p.Forever {
			p.Backdate = min(defaultBackdate, p.Validity/10)
		}
	}
	if p.RenewBefore < 0 {
		p.RenewBefore = p.Validity / 3
	}
	if p.RenewSpread < 0 {
		p.RenewSpread = min(p.Validity/10, p.RenewBefore, p.Validity-p.RenewBefore)
	}
	if p.Forever {
		p.RenewBefore, p.RenewSpread = 0, 0
	}
	if len(p.Keys) == 0 {
		p.Keys = []der.KeyKind{der.ECP256}
	}
	if len(p.Evidence) == 0 {
		p.Evidence = []Evidence{EvidenceToken, EvidenceOperational}
	}
}

func (d *document) plain(to *string) func(ast.Node) {
	return d.parsed(func(s string) error {
		if !plainName.MatchString(s) {
			return fmt.Errorf("%q: use 1 to 32 small letters, digits and hyphens, a letter first", s)
		}
		*to = s
		return nil
	})
}

// subject reads one element of the subject, a mapping with one key.
func (d *document) subject(p *Profile, n ast.Node) {
	entries, ok := d.entries(n)
	if !ok {
		return
	}
	if len(entries) != 1 {
		d.complain(line(n), "subject: write each attribute as an element of its own, such as \"- CN: …\"")
		return
	}
	key := entries[0].Key.GetToken().Value
	attribute, err := der.ParseAttributeType(key)
	if err != nil {
		d.complain(line(n), "%s", err)
		return
	}
	d.parsed(func(s string) error {
		if s == "" {
			return fmt.Errorf("subject attribute %s is empty", key)
		}
		value, err := parseText(s)
		p.subject = append(p.subject, subjectPart{attribute, value})
		return err
	})(entries[0].Value)
}

func (d *document) names(r *nameRule, kind string) func(ast.Node) {
	return func(n ast.Node) {
		table := fields{
			"fixed": d.texts(func(s string) error {
				t, err := parseText(s)
				r.fixed = append(r.fixed, t)
				return err
			}),
			"registry": d.boolInto(&r.registry),
			"request": d.texts(func(s string) error {
				r.request = append(r.request, s)
				if kind != "ip" {
					return nil
				}
				prefix, err := netip.ParsePrefix(s)
				r.prefixes = append(r.prefixes, prefix)
				if err != nil {
					return fmt.Errorf("%q: IP addresses are chosen from prefixes, such as 10.0.0.0/8", s)
				}
				return nil
			}),
			"max":     d.countInto(&r.max, 100),
			"require": d.boolInto(&r.require),
		}
		if kind == "dns" {
			table["wildcard"] = d.boolInto(&r.wildcard)
		}
		d.mapping(n, table, nil)
		if len(r.request) > 0 && r.max == 0 {
			r.max = 1
		}
	}
}

// extension reads one constant extension: oid, value in hex DER, critical.
func (d *document) extension(p *Profile, n ast.Node) {
	var e der.Extension
	d.mapping(n, fields{
		"oid":      d.parsed(func(s string) (err error) { e.OID, err = der.ParseOID(s); return err }),
		"critical": d.boolInto(&e.Critical),
		"value": d.parsed(func(s string) (err error) {
			if e.Value, err = hex.DecodeString(strings.ReplaceAll(s, " ", "")); err != nil || len(e.Value) < 2 {
				return errors.New("value: expected the DER of the extension in hex")
			}
			return nil
		}),
	}, nil)
	if e.OID == "" || e.Value == nil {
		d.complain(line(n), "an extension needs oid and value")
	}
	p.Extensions = append(p.Extensions, e)
}

func (p *Profile) addKey(s string) error {
	known := []der.KeyKind{der.ECP256, der.ECP384, der.ECP521, der.KeyEd25519, "rsa-2048", "rsa-3072", "rsa-4096", der.KeyMLDSA44, der.KeyMLDSA65}
	if !slices.Contains(known, der.KeyKind(s)) {
		return fmt.Errorf("unknown key algorithm %q: use one of %v", s, known)
	}
	p.Keys = append(p.Keys, der.KeyKind(s))
	return nil
}

func (p *Profile) addKeyUsage(s string) error {
	switch s {
	case "digitalSignature":
		p.KeyUsage |= der.DigitalSignature
	case "contentCommitment":
		p.KeyUsage |= der.ContentCommitment
	case "keyEncipherment":
		p.KeyUsage |= der.KeyEncipherment
	case "dataEncipherment":
		p.KeyUsage |= der.DataEncipherment
	case "keyAgreement":
		p.KeyUsage |= der.KeyAgreement
	case "keyCertSign", "cRLSign":
		return fmt.Errorf("%s belongs to certification authorities, which are not made from profiles", s)
	default:
		return fmt.Errorf("unknown key usage %q: use digitalSignature, contentCommitment, keyEncipherment, dataEncipherment or keyAgreement", s)
	}
	return nil
}

func (p *Profile) addExtKeyUsage(s string) error {
	known := map[string]der.OID{"serverAuth": der.OIDServerAuth, "clientAuth": der.OIDClientAuth, "codeSigning": der.OIDCodeSigning,
		"emailProtection": der.OIDEmailProtection, "timeStamping": der.OIDTimeStamping, "OCSPSigning": der.OIDOCSPSigning, "cmcRA": der.OIDCMCRA}
	usage, ok := known[s]
	if !ok {
		var err error
		if usage, err = der.ParseOID(s); err != nil {
			return fmt.Errorf("unknown extended key usage %q: use serverAuth, clientAuth, codeSigning, emailProtection, timeStamping, OCSPSigning, cmcRA or a dotted number", s)
		}
	}
	p.ExtKeyUsage = append(p.ExtKeyUsage, usage)
	return nil
}

func (p *Profile) addEvidence(s string) error {
	e := Evidence(s)
	if known := []Evidence{EvidenceToken, EvidenceBirth, EvidenceOperational, EvidenceAccount, EvidenceDomain, EvidenceAttested, EvidenceRA}; !slices.Contains(known, e) {
		return fmt.Errorf("unknown evidence %q: use token, birth, operational, account, domain, attested or ra", s)
	}
	p.Evidence = append(p.Evidence, e)
	return nil
}

func (p *Profile) setValidity(s string) (err error) {
	if s == "forever" {
		p.Forever = true
		return nil
	}
	p.Validity, err = seconds(s)
	return err
}

func (p *Profile) setServerKeygen(s string) error {
	if s == "none" {
		return nil
	}
	p.ServerKeygen = key.Algorithm(s)
	if !slices.Contains(key.Algorithms(), p.ServerKeygen) {
		return fmt.Errorf("unknown key algorithm %q: use none or one of %v", s, key.Algorithms())
	}
	return nil
}

// seconds reads a number with a unit: s, m, h, d, w or y (365 days).
func seconds(s string) (int64, error) {
	wrong := fmt.Errorf("%q is not a time: use a whole number and s, m, h, d, w or y, such as 90d", s)
	units := map[byte]int64{'s': 1, 'm': 60, 'h': 3600, 'd': 86400, 'w': 7 * 86400, 'y': 365 * 86400}
	if len(s) < 2 || units[s[len(s)-1]] == 0 {
		return 0, wrong
	}
	n, err := strconv.ParseUint(s[:len(s)-1], 10, 31)
	if err != nil {
		return 0, wrong
	}
	if total := int64(n) * units[s[len(s)-1]]; total <= maxValidity {
		return total, nil
	}
	return 0, fmt.Errorf("%q is more than 100 years; the longest validity is \"forever\"", s)
}
