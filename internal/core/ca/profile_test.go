package ca_test

import (
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/ca"
)

func TestDefaultProfilesLoad(t *testing.T) {
	ps, err := ca.LoadProfiles(ca.DefaultProfiles())
	if err != nil {
		t.Fatal(err)
	}
	grants := map[string]access.Role{"operator-admin": access.RoleAdmin, "operator": access.RoleOperator, "auditor": access.RoleAuditor}
	var names []string
	for _, p := range ps.All() {
		names = append(names, p.Name)
		// LoadProfiles believes this test that a sample certificate of each is right.
		if _, err := ca.LoadProfile(ca.DefaultProfiles(), p.Name+".yaml"); err != nil {
			t.Errorf("%s: %v", p.Name, err)
		}
		if p.Grants != grants[p.Name] {
			t.Errorf("%s grants %q, want %q", p.Name, p.Grants, grants[p.Name])
		}
		if len(p.Version) != 16 || p.Description == "" {
			t.Errorf("%s: version %q, description %q", p.Name, p.Version, p.Description)
		}
	}
	if got, want := strings.Join(names, " "), "auditor birth device device-short gateway operator operator-admin registrar scep-ra server service transaction"; got != want {
		t.Errorf("profiles: got %s, want %s", got, want)
	}
	if _, err := ps.Get("none"); !errs.Is(err, errs.NotFound) {
		t.Errorf("Get of an unknown profile: %v", err)
	}
}

// sound is a profile in which each test changes one thing. Its lines are numbered by the complaints below.
const sound = `name: device
issuer: devices
slot: operational
subject:
  - CN: "{device.name}"
san:
  uri:
    fixed: ["urn:mooring:device:{device.id}"]
keys: [ec-p256]
key_usage: [digitalSignature]
ext_key_usage: [clientAuth]
validity: 90d
renew_before: 30d
evidence: [token]
challenge: binding
crl: true
`

func load(text string) (*ca.Profile, error) {
	ps, err := ca.LoadProfiles(fstest.MapFS{"device.yaml": {Data: []byte(text)}})
	if err != nil {
		return nil, err
	}
	return ps.Get("device")
}

func TestSoundProfile(t *testing.T) {
	p, err := load(sound)
	if err != nil {
		t.Fatal(err)
	}
	if p.Validity != 90*86400 || p.RenewBefore != 30*86400 || p.Backdate != 300 || p.Slot != "operational" || !p.Binding || p.Linking || p.ReuseKey || p.Approval {
		t.Errorf("got %+v", p)
	}
	other, err := load(strings.ReplaceAll(sound, "\n", "\r\n"))
	if err != nil || other.Version != p.Version {
		t.Errorf("line ends changed the version: %v", err)
	}
	other, err = load(sound + "# edited\n")
	if err != nil || other.Version == p.Version {
		t.Errorf("an edit did not change the version: %v", err)
	}
}

func TestProfileMistakes(t *testing.T) {
	tests := []struct{ name, old, new, want string }{
		{"unknown key", "subject:\n", "subjct:\n", `profiles/device.yaml:4: unknown key "subjct" (did you mean "subject"?)`},
		{"far-fetched key", "slot:", "frobnicate:", `profiles/device.yaml:3: unknown key "frobnicate"`},
		{"nested unknown key", "    fixed:", "    fix:", `profiles/device.yaml:8: unknown key "fix" (did you mean "fixed"?)`},
		{"duplicate key", "slot: operational", "issuer: devices", `profiles/device.yaml:3: key "issuer" was already given in line 2`},
		{"wrong type: list for text", "issuer: devices", "issuer: [devices]", `profiles/device.yaml:2: expected text, found a list`},
		{"wrong type: text for list", "keys: [ec-p256]", "keys: ec-p256", `profiles/device.yaml:9: expected a list, found text`},
		{"wrong type: text for bool", "crl: true", `crl: "yes"`, `profiles/device.yaml:16: expected true or false, found text`},
		{"wrong type: nothing", "issuer: devices", "issuer:", `profiles/device.yaml:2: expected text, found nothing`},
		{"alias", "keys: [ec-p256]", "keys: &k [ec-p256]", `profiles/device.yaml:9: expected a list, found an anchor, alias or tag, which profiles cannot have`},
		{"no YAML", sound, "name: [", `profiles/device.yaml:1: `},
		{"empty", sound, "", `profiles/device.yaml:1: expected one YAML document with the fields of a profile`},
		{"two documents", "name: device\n", "name: device\n---\nname: b\n", `profiles/device.yaml:1: expected one YAML document with the fields of a profile`},
		{"other name", "name: device", "name: devices", `profiles/device.yaml:1: name: "devices" differs from the name of the file: rename one of them`},
		{"no issuer", "issuer: devices\n", "", `profiles/device.yaml:1: issuer: is missing: name the CA that issues`},
		{"bad slot", "slot: operational", "slot: Working", `profiles/device.yaml:3: "Working": use 1 to 32 small letters, digits and hyphens, a letter first`},
		{"unknown attribute", "- CN:", "- XY:", `profiles/device.yaml:5: unknown name attribute "XY": use CN, O, OU, C, L, ST, serialNumber, DC or a dotted number`},
		{"unknown value", "{device.name}", "{device.vin}", `profiles/device.yaml:5: template "{device.vin}": {device.vin} is unknown: use {device.id}, {device.name}, {device.group} or {device.tag.NAME}`},
		{"open brace", "{device.name}", "{device.name", `profiles/device.yaml:5: template "{device.name": {device.name} is unknown: use {device.id}, {device.name}, {device.group} or {device.tag.NAME}`},
		{"no subject", "subject:\n  - CN: \"{device.name}\"\n", "", `profiles/device.yaml:1: subject: is missing: an empty subject would need a critical alternative name, which many peers do not understand`},
		{"long constant", "{device.name}", strings.Repeat("x", 65), `profiles/device.yaml:1: the sample certificate for a key of kind ec-p256 cannot be made: the subject cannot be written: name attribute CN: 65 characters, 64 are allowed`},
		{"relative URI", "urn:mooring:device:", "device/", `profiles/device.yaml:1: the sample certificate for a key of kind ec-p256 cannot be made: a name of the device cannot be written: URI "device/00112233445566778899aabbccddeeff": not an absolute URI (scheme:...)`},
		{"unknown key algorithm", "keys: [ec-p256]", "keys: [ec-p224]", `profiles/device.yaml:9: unknown key algorithm "ec-p224": use one of [ec-p256 ec-p384 ec-p521 ed25519 rsa-2048 rsa-3072 rsa-4096 ml-dsa-44 ml-dsa-65]`},
		{"agreement with ML-DSA", "keys: [ec-p256]\nkey_usage: [digitalSignature]", "keys: [ec-p256, ml-dsa-65]\nkey_usage: [keyAgreement]", `profiles/device.yaml:10: key_usage: keyAgreement is not for ML-DSA keys, which only sign (RFC 9881, section 5): take it out, or ml-dsa-… out of keys`},
		{"CA usage", "key_usage: [digitalSignature]", "key_usage: [keyCertSign]", `profiles/device.yaml:10: keyCertSign belongs to certification authorities, which are not made from profiles`},
		{"EC encipherment", "key_usage: [digitalSignature]", "key_usage: [keyEncipherment]", `profiles/device.yaml:10: key_usage: keyEncipherment and dataEncipherment are for RSA keys only (RFC 8813, section 3): restrict keys to rsa-…`},
		{"OCSP signer without approval", "ext_key_usage: [clientAuth]", "ext_key_usage: [OCSPSigning]", `profiles/device.yaml:11: ext_key_usage: OCSPSigning, cmcCA and cmcRA let the holder act for the CA: such a profile needs "approval: required"`},
		{"any usage", "ext_key_usage: [clientAuth]", "ext_key_usage: [2.5.29.37.0]", `profiles/device.yaml:11: ext_key_usage: anyExtendedKeyUsage permits everything: list what is meant, or nothing`},
		{"no unit", "validity: 90d", "validity: 90", `profiles/device.yaml:12: "90" is not a time: use a whole number and s, m, h, d, w or y, such as 90d`},
		{"too long", "validity: 90d", "validity: 200y", `profiles/device.yaml:12: "200y" is more than 100 years; the longest validity is "forever"`},
		{"too short", "validity: 90d\nrenew_before: 30d", "validity: 30s", `profiles/device.yaml:12: validity: is less than a minute`},
		{"renewed at once", "renew_before: 30d", "renew_before: 90d", `profiles/device.yaml:13: renew_before: is not less than the validity: each certificate would be renewed at once`},
		{"back-dated too far", "crl: true", "backdate: 60d", `profiles/device.yaml:16: backdate: is more than half of the validity`},
		{"unknown evidence", "evidence: [token]", "evidence: [password]", `profiles/device.yaml:14: unknown evidence "password": use token, birth, operational, account, domain, attested or ra`},
		{"linking without binding", "challenge: binding", "challenge: ignore\nlinking: required", `profiles/device.yaml:16: linking: is required, but "challenge: ignore" says not to look at it`},
		{"unknown role", "crl: true", "grants: root", `profiles/device.yaml:16: unknown role "root": use admin, operator, auditor, v2x-root, v2x-ea, v2x-aa or v2x-tlm`},
		{"role by birth", "evidence: [token]", "evidence: [birth]\ngrants: admin", `profiles/device.yaml:15: grants: a role needs a person's token, not a birth certificate: take birth out of evidence`},
		{"role by an account", "evidence: [token]", "evidence: [token, account]\ngrants: admin", `profiles/device.yaml:15: grants: a role needs a person's token each time it is given: take account out of evidence`},
		{"trust in accounts that are not accepted", "crl: true", "acme: trust-account", `profiles/device.yaml:16: acme: trust-account is about accounts, which evidence does not list: add account there`},
		{"role with an ML-DSA key", "keys: [ec-p256]\n", "keys: [ec-p256, ml-dsa-65]\ngrants: admin\n", `profiles/device.yaml:10: grants: a role is exercised over TLS, which has no ML-DSA yet: take ml-dsa-… out of keys`},
		{"role that is not signed", "crl: true", "grants: admin", `profiles/device.yaml:16: grants: the role must stand in the certificate: add "urn:mooring:role:admin" to fixed under uri in san`},
		{"another role than the signed one", "fixed: [\"urn:mooring:device:{device.id}\"]\n", "fixed: [\"urn:mooring:role:auditor\"]\ngrants: admin\n", `profiles/device.yaml:6: san: the URI "urn:mooring:role:auditor" is for profiles that grant the role: take it out`},
		{"signed role that is not granted", "urn:mooring:device:{device.id}", "URN:Mooring:role:admin", `profiles/device.yaml:6: san: the URI "URN:Mooring:role:admin" is for profiles that grant the role: take it out`},
		{"signed role by a template", "urn:mooring:device:{device.id}", "urn:mooring:role:{device.tag.role}", `profiles/device.yaml:6: san: the URI "urn:mooring:role:{device.tag.role}" is for profiles that grant the role: take it out`},
		{"role by request", "fixed: [\"urn:mooring:device:{device.id}\"]", "request: [\"urn:mooring:role:x\"]", `profiles/device.yaml:6: san: with the pattern "urn:mooring:role:x" a request could choose a URI that grants a role: make it narrower`},
		{"role by a wide pattern", "fixed: [\"urn:mooring:device:{device.id}\"]", "request: [\"urn:*\"]", `profiles/device.yaml:6: san: with the pattern "urn:*" a request could choose a URI that grants a role: make it narrower`},
		{"SCEP without RSA keys", "crl: true", "scep: {ra: scep-ra}", `profiles/device.yaml:16: scep: SCEP can answer RSA keys only (RFC 8894, section 3.1): add rsa-2048 or more to keys`},
		{"SCEP without an authority", "crl: true", "scep: {triple_des: true}", `profiles/device.yaml:16: scep: ra is missing: name the profile of the registration authority's certificate, such as scep-ra`},
		{"SCEP with linking", "keys: [ec-p256]\n", "keys: [rsa-2048]\nlinking: required\nscep: {ra: scep-ra}\n", `profiles/device.yaml:11: scep: the challenge password is the token here and cannot be a channel binding: take "linking: required" out`},
		{"SCEP of an unknown authority", "keys: [ec-p256]\n", "keys: [rsa-2048]\nscep: {ra: nobody}\n", `profiles/device.yaml:10: scep: there is no profile "nobody"`},
		{"SCEP of an authority that cannot decrypt", "keys: [ec-p256]\n", "keys: [rsa-2048]\nscep: {ra: device}\n", `profiles/device.yaml:10: scep: the profile "device" cannot be a registration authority's: key_usage must hold digitalSignature and keyEncipherment`},
		{"keygen of another kind", "crl: true", "server_keygen: rsa-2048", `profiles/device.yaml:16: server_keygen: rsa-2048 is not among the profile's keys`},
		{"own extension", "crl: true", "extensions: [{oid: 2.5.29.15, value: 0500}]", `profiles/device.yaml:16: extensions: 2.5.29.15 is written from other fields of the profile`},
		{"noRevAvail as a constant", "crl: true", "extensions: [{oid: 2.5.29.56, value: \"0500\"}]", `profiles/device.yaml:16: extensions: 2.5.29.56 is written by "no_rev_avail: true"`},
		{"extension not in hex", "crl: true", "extensions: [{oid: 1.2.3, value: xyz}]", `profiles/device.yaml:16: value: expected the DER of the extension in hex`},
		{"unknown lint", "crl: true", "lint_exceptions: [e_nonsense]", `profiles/device.yaml:16: lint_exceptions: there is no lint "e_nonsense"`},
		{"impossible name", "fixed: [\"urn:mooring:device:{device.id}\"]", "require: true", `profiles/device.yaml:6: san: uri is required, but no name is permitted: add fixed, registry or request`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if !strings.Contains(sound, tt.old) {
				t.Fatalf("the sound profile does not contain %q", tt.old)
			}
			_, err := load(strings.Replace(sound, tt.old, tt.new, 1))
			if !errs.Is(err, errs.Invalid) {
				t.Fatalf("got %v, want kind invalid", err)
			}
			first, _, _ := strings.Cut(errs.Public(err), "\n")
			if first != tt.want && tt.name != "no YAML" || !strings.HasPrefix(first, tt.want) {
				t.Errorf("got  %s\nwant %s", first, tt.want)
			}
		})
	}
}

func TestAllMistakesAreListed(t *testing.T) {
	_, err := ca.LoadProfiles(fstest.MapFS{
		"a.yaml": {Data: []byte("nam: a\nvalidity: 5\ncrl: maybe\n")},
		"b.yaml": {Data: []byte("issuer: 7\n")},
	})
	want := strings.Join([]string{
		`profiles/a.yaml:1: unknown key "nam" (did you mean "name"?)`,
		`profiles/a.yaml:2: "5" is not a time: use a whole number and s, m, h, d, w or y, such as 90d`,
		`profiles/a.yaml:3: expected true or false, found text`,
		`profiles/b.yaml:1: "7": use 1 to 32 small letters, digits and hyphens, a letter first`,
	}, "\n")
	if got := errs.Public(err); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestLintFindingsFailTheLoad(t *testing.T) {
	// An id-kp list with a critical constant extension of garbage: the sample does not satisfy a lint or the parser.
	text := strings.Replace(sound, "crl: true", `extensions:
  - oid: 2.5.29.32
    value: "3004300206002900"`, 1)
	_, err := load(text)
	if err == nil || !strings.HasPrefix(errs.Public(err), "profiles/device.yaml:1: the sample certificate for a key of kind ec-p256") {
		t.Errorf("garbage in certificatePolicies: got %v", err)
	}
	// A duplicate policy breaks e_ext_cert_policy_duplicate, unless the profile says that it knows.
	duplicate := strings.Replace(sound, "crl: true", `extensions:
  - oid: 2.5.29.32
    value: "300a 3003 0601 2a 3003 0601 2a"`, 1)
	_, err = load(duplicate)
	if err == nil || !strings.Contains(errs.Public(err), "breaks the lint e_ext_cert_policy_duplicate: ") {
		t.Errorf("duplicate policy: got %v", err)
	}
}

func TestEveryDefaultFileExplainsItself(t *testing.T) {
	err := fs.WalkDir(ca.DefaultProfiles(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(ca.DefaultProfiles(), path)
		if !strings.HasPrefix(string(data), "# ") {
			t.Errorf("%s does not begin with a comment", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
