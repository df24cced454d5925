package est_test

import (
	"encoding/asn1"
	"encoding/base64"
	"strings"
	"testing"

	"mooring/agent/est"
	"mooring/agent/keyfile"
	"mooring/wire/der"
	wire "mooring/wire/est"
)

var (
	commonName   = asn1.ObjectIdentifier{2, 5, 4, 3}
	organization = asn1.ObjectIdentifier{2, 5, 4, 10}
	altName      = asn1.ObjectIdentifier{2, 5, 29, 17}
	keyID        = asn1.ObjectIdentifier{2, 5, 29, 14}
	extUsage     = asn1.ObjectIdentifier{2, 5, 29, 37}
)

func TestTemplate(t *testing.T) {
	org, err := wire.FixedText(organization, "Acme")
	if err != nil {
		t.Fatal(err)
	}
	usage := der.NewExtKeyUsage(der.OIDClientAuth)
	o := order(t, "dev1")
	o.Names = der.AltNames{DNS: []string{"dev1.example.test"}}
	o.Attributes = throughWire(t, wire.CSRAttrs{Template: &wire.Template{
		Subject: []wire.RDN{org, wire.Blank(commonName)},
		Extensions: []wire.Extension{
			{ID: extUsage, Value: usage.Value}, {ID: altName}, {ID: keyID},
		},
		Attributes: []wire.Item{wire.WantAttribute(wire.OIDChallengePassword)},
	}})
	if !o.Bound() {
		t.Error("the template demands a binding, and the order is not bound")
	}
	request := build(t, o)
	if got, want := der.FormatName(request.Subject), "O=Acme, CN=dev1"; got != want {
		t.Errorf("subject %q, want %q", got, want)
	}
	if len(request.Names.DNS) != 1 || len(request.ExtKeyUsage) != 1 || len(request.Extensions) != 3 {
		t.Errorf("names %v, usages %v, %d extensions; want what the template demands", request.Names, request.ExtKeyUsage, len(request.Extensions))
	}
	if !request.HasChallengePassword {
		t.Error("the request is not bound")
	}
}

func TestTemplateThatCannotBeMet(t *testing.T) {
	for name, test := range map[string]struct {
		template wire.Template
		text     string
	}{
		"subject":   {wire.Template{Subject: []wire.RDN{wire.Blank(organization)}}, "subject attribute O="},
		"names":     {wire.Template{Extensions: []wire.Extension{{ID: altName}}}, "alternative name"},
		"extension": {wire.Template{Extensions: []wire.Extension{{ID: extUsage}}}, "2.5.29.37"},
		"attribute": {wire.Template{Attributes: []wire.Item{wire.WantAttribute(asn1.ObjectIdentifier{1, 2, 3})}}, "1.2.3"},
	} {
		o := order(t, "dev1")
		o.Attributes = throughWire(t, wire.CSRAttrs{Template: &test.template})
		if _, err := o.Build(wire.ChannelBinding{}); err == nil || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%s: %v; want %q", name, err, test.text)
		}
	}
}

// A renewal repeats its names whatever a template says (RFC 7030, section 4.2.2).
func TestTemplateAndRenewal(t *testing.T) {
	org, err := wire.FixedText(organization, "Other")
	if err != nil {
		t.Fatal(err)
	}
	o := order(t, "dev1")
	o.RawSubject, err = der.BuildName(o.Subject)
	if err != nil {
		t.Fatal(err)
	}
	o.Names = der.AltNames{DNS: []string{"dev1.example.test"}}
	san, err := der.BuildAltNames(der.AltNames{DNS: []string{"other.example.test"}})
	if err != nil {
		t.Fatal(err)
	}
	o.Attributes = throughWire(t, wire.CSRAttrs{Template: &wire.Template{
		Subject: []wire.RDN{org}, Extensions: []wire.Extension{{ID: altName, Value: san}},
	}})
	request := build(t, o)
	if der.FormatName(request.Subject) != "CN=dev1" || request.Names.DNS[0] != "dev1.example.test" {
		t.Errorf("asked for %v, %v; want the old names", request.Subject, request.Names)
	}
}

// The example of RFC 8951, section 4: binding, a key on P-384, and an extension request that holds no extensions.
func TestExampleOfTheStandard(t *testing.T) {
	raw, err := base64.StdEncoding.DecodeString("MEEGCSqGSIb3DQEJBzASBgcqhkjOPQIBMQcGBSuBBAAiMBYGCSqGSIb3DQEJDjEJBgcrBgEBAQEWBggqhkjOPQQDAw==")
	if err != nil {
		t.Fatal(err)
	}
	attributes, err := wire.ParseCSRAttrs(raw)
	if err != nil {
		t.Fatal(err)
	}
	kind, err := est.KeyWanted(attributes)
	if err != nil || kind != der.ECP384 {
		t.Fatalf("key %q, %v; want P-384", kind, err)
	}
	o := order(t, "dev1")
	if o.Key, err = keyfile.Generate(kind); err != nil {
		t.Fatal(err)
	}
	o.Attributes = attributes
	if request := build(t, o); !request.HasChallengePassword || request.Algorithm != der.ECDSAWithSHA384 {
		t.Errorf("bound %v, %v; want a bound request, ecdsa-sha384", request.HasChallengePassword, request.Algorithm)
	}
	if _, err := o.Build(wire.ChannelBinding{}); err == nil {
		t.Error("a request without the binding that the server demands was made")
	}
}

func TestOlderListOfExtensions(t *testing.T) {
	usage, err := wire.WantExtensions([]wire.Extension{{ID: extUsage, Value: der.NewExtKeyUsage(der.OIDClientAuth).Value}})
	if err != nil {
		t.Fatal(err)
	}
	o := order(t, "dev1")
	o.Attributes = throughWire(t, wire.CSRAttrs{Items: []wire.Item{usage}})
	if request := build(t, o); len(request.ExtKeyUsage) != 1 || request.HasChallengePassword {
		t.Errorf("usages %v, bound %v; want one, false", request.ExtKeyUsage, request.HasChallengePassword)
	}
}

func TestKeyWanted(t *testing.T) {
	rsa, err := wire.WantRSAKey(4096)
	if err != nil {
		t.Fatal(err)
	}
	odd, err := wire.WantECKey(asn1.ObjectIdentifier{1, 3, 132, 0, 10})
	if err != nil {
		t.Fatal(err)
	}
	p384, err := wire.ECKey(asn1.ObjectIdentifier{1, 3, 132, 0, 34})
	if err != nil {
		t.Fatal(err)
	}
	ed25519 := wire.WantOID(asn1.ObjectIdentifier{1, 3, 101, 112})
	for name, test := range map[string]struct {
		attributes wire.CSRAttrs
		want       der.KeyKind
		refused    bool
	}{
		"nothing":           {want: ""},
		"RSA":               {attributes: wire.CSRAttrs{Items: []wire.Item{rsa}}, want: "rsa-4096"},
		"RSA of any length": {attributes: wire.CSRAttrs{Items: []wire.Item{wire.WantOID(wire.OIDRSAEncryption)}}, want: "rsa-3072"},
		"Ed25519":           {attributes: wire.CSRAttrs{Items: []wire.Item{ed25519}}, want: der.KeyEd25519},
		"secp256k1":         {attributes: wire.CSRAttrs{Items: []wire.Item{odd}}, refused: true},
		"second choice":     {attributes: wire.CSRAttrs{Items: []wire.Item{odd, rsa}}, want: "rsa-4096"},
		"template":          {attributes: wire.CSRAttrs{Template: &wire.Template{Key: p384}, Items: []wire.Item{rsa}}, want: der.ECP384},
		"template, RSA":     {attributes: wire.CSRAttrs{Template: &wire.Template{Key: wire.RSAKey(2048)}}, want: "rsa-2048"},
		"template, no key":  {attributes: wire.CSRAttrs{Template: &wire.Template{}, Items: []wire.Item{rsa}}, want: ""},
	} {
		got, err := est.KeyWanted(throughWire(t, test.attributes))
		if got != test.want || (err != nil) != test.refused {
			t.Errorf("%s: %q, %v; want %q, refused %v", name, got, err, test.want, test.refused)
		}
	}
}

func throughWire(t *testing.T, c wire.CSRAttrs) *wire.CSRAttrs {
	t.Helper()
	raw, err := wire.BuildCSRAttrs(c)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := wire.ParseCSRAttrs(raw)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func build(t *testing.T, o est.Order) *der.Request {
	t.Helper()
	raw, err := o.Build(wire.ChannelBinding{Exporter: make([]byte, wire.ExporterLength)})
	if err != nil {
		t.Fatal(err)
	}
	request, err := der.ParseRequest(raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := request.CheckSignature(); err != nil {
		t.Fatal(err)
	}
	return request
}
