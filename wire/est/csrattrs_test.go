package est

import (
	"bytes"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

// Examples of CSR attributes: RFC 8951, section 4, and RFC 9908, sections 5.1, 5.2, 5.3 and 5.4.
const (
	example8951   = "MEEGCSqGSIb3DQEJBzASBgcqhkjOPQIBMQcGBSuBBAAiMBYGCSqGSIb3DQEJDjEJBgcrBgEBAQEWBggqhkjOPQQDAw=="
	example9908s1 = "MGgwZgYJKoZIhvcNAQkOMVkwVzBVBgNVHREBAf8ESzBJoEcGCCsGAQUFBwgKoDsWOXJmYzg5OTQrZmQ3MzlmYzIzYzM0NDAx" +
		"MTIyMzM0NDU1MDAwMDAwMDArQGFjcC5leGFtcGxlLmNvbQ=="
	example9908s2 = "MDIGCSqGSIb3DQEJBzASBgcqhkjOPQIBMQcGBSuBBAAiBgcrBgEBAQEWBggqhkjOPQQDAw=="
	example9908s3 = "MEUGCSqGSIb3DQEJBzASBgcqhkjOPQIBMQcGBSuBBAAjBgkqhkiG9w0BCRQGCgmSJomT8ixkAQUGA1UEBQYIKoZIzj0EAwQ="
	example9908s4 = "MCkGCSqGSIb3DQEJBzARBgkqhkiG9w0BAQExBAICEAAGCSqGSIb3DQEBCw=="
)

func oid(t testing.TB, dotted string) asn1.ObjectIdentifier {
	t.Helper()
	var out asn1.ObjectIdentifier
	for part := range strings.SplitSeq(dotted, ".") {
		out = append(out, must(strconv.Atoi(part))(t))
	}
	return out
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func unbase64(t testing.TB, text string) []byte {
	t.Helper()
	return must(base64.StdEncoding.DecodeString(text))(t)
}

func TestBuildPublishedExamples(t *testing.T) {
	mac := must(encodeOID(oid(t, "1.3.6.1.1.1.1.22")))(t)
	p384 := must(WantECKey(oid(t, "1.3.132.0.34")))(t)
	p521 := must(WantECKey(oid(t, "1.3.132.0.35")))(t)
	ecdsaSHA384 := WantOID(oid(t, "1.2.840.10045.4.3.3"))
	challenge := WantOID(OIDChallengePassword)
	acpName := must(hex.DecodeString("3049a04706082b0601050507080aa03b1639" +
		hex.EncodeToString([]byte("rfc8994+fd739fc23c3440112233445500000000+@acp.example.com"))))(t)
	san := must(WantExtensions([]Extension{{ID: oid(t, "2.5.29.17"), Critical: true, Value: acpName}}))(t)
	for _, c := range []struct {
		name, want string
		items      []Item
	}{
		{"RFC 8951 vector byte-exact", example8951, []Item{challenge, p384, WantAttribute(OIDExtensionRequest, mac), ecdsaSHA384}},
		{"RFC 9908, 5.1", example9908s1, []Item{san}},
		{"RFC 9908, 5.2", example9908s2, []Item{challenge, p384, WantOID(oid(t, "1.3.6.1.1.1.1.22")), ecdsaSHA384}},
		{"RFC 9908, 5.3", example9908s3, []Item{challenge, p521, WantOID(oid(t, "1.2.840.113549.1.9.20")),
			WantOID(oid(t, "0.9.2342.19200300.100.1.5")), WantOID(oid(t, "2.5.4.5")), WantOID(oid(t, "1.2.840.10045.4.3.4"))}},
		{"RFC 9908, 5.4", example9908s4, []Item{challenge, must(WantRSAKey(4096))(t), WantOID(oid(t, "1.2.840.113549.1.1.11"))}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := must(BuildCSRAttrs(CSRAttrs{Items: c.items}))(t)
			if text := base64.StdEncoding.EncodeToString(got); text != c.want {
				t.Errorf("got %s, want %s", text, c.want)
			}
			parsed := must(ParseCSRAttrs(unbase64(t, c.want)))(t)
			if !reflect.DeepEqual(parsed.Items, c.items) || parsed.Template != nil {
				t.Errorf("read as %+v, want %+v", parsed, c.items)
			}
		})
	}
}

func TestEmptyCSRAttrs(t *testing.T) {
	if der := must(BuildCSRAttrs(CSRAttrs{}))(t); !bytes.Equal(der, []byte{0x30, 0}) {
		t.Errorf("empty attributes are %x, want 3000", der)
	}
	c := must(ParseCSRAttrs([]byte{0x30, 0}))(t)
	if c.Items != nil || c.Template != nil || c.Wants(OIDChallengePassword) {
		t.Errorf("an empty sequence is read as %+v", c)
	}
}

// exampleTemplate builds a template with fixed and blank RDNs and the given extensions.
func exampleTemplate(t testing.TB, extensions ...Extension) *Template {
	t.Helper()
	return &Template{
		Subject:    []RDN{must(FixedText(oid(t, "2.5.4.10"), "Example AG"))(t), Blank(oid(t, "2.5.4.5")), Blank(oid(t, "2.5.4.3"))},
		Key:        must(ECKey(oid(t, "1.2.840.10045.3.1.7")))(t),
		Extensions: extensions,
	}
}

// tlv encodes one element with a short or one-byte long length, without help of the package's encoder.
func tlv(tag byte, parts ...string) string {
	body := strings.Join(parts, "")
	if len(body) < 128 {
		return string([]byte{tag, byte(len(body))}) + body
	}
	return string([]byte{tag, 0x81, byte(len(body))}) + body
}

// The expected bytes follow the ASN.1 of RFC 9908 with its implicit tags.
func TestBuildTemplateBytes(t *testing.T) {
	template := exampleTemplate(t,
		Extension{ID: oid(t, "2.5.29.17")},
		Extension{ID: oid(t, "2.5.29.15"), Critical: true, Value: []byte{3, 2, 7, 0x80}})
	got := must(BuildCSRAttrs(CSRAttrs{Items: []Item{WantOID(OIDChallengePassword)}, Template: template}))(t)
	smime := "\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x02"
	rdn := func(last byte, value string) string {
		return tlv(0x31, tlv(0x30, tlv(6, "\x55\x04"+string([]byte{last})), value))
	}
	want := tlv(0x30,
		tlv(6, "\x2a\x86\x48\x86\xf7\x0d\x01\x09\x07"),
		tlv(0x30, tlv(6, smime+"\x3d"), tlv(0x31, tlv(0x30,
			tlv(2, "\x00"),
			tlv(0x30, rdn(10, tlv(12, "Example AG")), rdn(5, ""), rdn(3, "")),
			tlv(0xa0, tlv(0x30, tlv(6, "\x2a\x86\x48\xce\x3d\x02\x01"), tlv(6, "\x2a\x86\x48\xce\x3d\x03\x01\x07"))),
			tlv(0xa1, tlv(0x30, tlv(6, smime+"\x3e"), tlv(0x31, tlv(0x30,
				tlv(0x30, tlv(6, "\x55\x1d\x11")),
				tlv(0x30, tlv(6, "\x55\x1d\x0f"), tlv(1, "\xff"), tlv(4, "\x03\x02\x07\x80"))))))))))
	if string(got) != want {
		t.Errorf("got %x, want %x", got, want)
	}
}

func TestTemplateRoundTrip(t *testing.T) {
	value := []byte{3, 2, 7, 0x80}
	for name, template := range map[string]*Template{
		"nothing":            {},
		"blank extension":    exampleTemplate(t, Extension{ID: oid(t, "2.5.29.17")}),
		"fixed extensions":   exampleTemplate(t, Extension{ID: oid(t, "2.5.29.15"), Critical: true, Value: value}),
		"empty value":        exampleTemplate(t, Extension{ID: oid(t, "2.5.29.15"), Value: []byte{}}),
		"RSA":                {Key: RSAKey(3072)},
		"RSA of any length":  {Key: RSAKey(0)},
		"Ed25519":            {Key: &KeySpec{Algorithm: oid(t, "1.3.101.112")}},
		"challenge password": {Attributes: []Item{WantAttribute(OIDChallengePassword)}},
		"both styles":        exampleTemplate(t, Extension{ID: oid(t, "2.5.29.17")}, Extension{ID: oid(t, "2.5.29.15"), Value: value}),
	} {
		extensions := must(WantExtensions([]Extension{{ID: oid(t, "2.5.29.15"), Value: value}}))(t)
		c := CSRAttrs{Items: []Item{WantOID(OIDChallengePassword), extensions}, Template: template}
		t.Run("template and legacy together: "+name, func(t *testing.T) {
			got, err := ParseCSRAttrs(must(BuildCSRAttrs(c))(t))
			if err != nil || !reflect.DeepEqual(*got, c) {
				t.Errorf("got %+v, %v, want %+v", got, err, c)
			}
		})
	}
}

// A template whose extensions are all fixed asks for them in the old way, as RFC 9908, section 3.4 demands.
func TestTemplateExtensionStyle(t *testing.T) {
	old, newer := must(encodeOID(OIDExtensionRequest))(t), must(encodeOID(OIDExtensionTemplate))(t)
	fixed := must(BuildCSRAttrs(CSRAttrs{Template: exampleTemplate(t, Extension{ID: oid(t, "2.5.29.15"), Value: []byte{5, 0}})}))(t)
	blank := must(BuildCSRAttrs(CSRAttrs{Template: exampleTemplate(t, Extension{ID: oid(t, "2.5.29.15")})}))(t)
	if !bytes.Contains(fixed, old) || bytes.Contains(fixed, newer) {
		t.Errorf("fixed extensions are sent as %x, want an extension request", fixed)
	}
	if bytes.Contains(blank, old) || !bytes.Contains(blank, newer) {
		t.Errorf("blank extensions are sent as %x, want an extension request template", blank)
	}
}

func TestBuildCSRAttrsRefuses(t *testing.T) {
	request := must(WantExtensions([]Extension{{ID: oid(t, "2.5.29.15"), Value: []byte{5, 0}}}))(t)
	many := make([]Item, maxItems+1)
	for i := range many {
		many[i] = WantOID(OIDChallengePassword)
	}
	for name, c := range map[string]CSRAttrs{
		"at most one extension request": {Items: []Item{request, request}},
		"two templates":                 {Items: []Item{WantAttribute(OIDRequestTemplate)}, Template: &Template{}},
		"too many":                      {Items: many},
		"too long":                      {Items: []Item{WantAttribute(OIDECPublicKey, append([]byte{4, 0x82, 0x40, 0}, make([]byte, 0x4000)...))}},
		"value not DER":                 {Items: []Item{WantAttribute(OIDECPublicKey, []byte{1, 2, 3})}},
		"no object identifier":          {Items: []Item{{}}},
		"values outside attribute":      {Items: []Item{{OID: OIDECPublicKey, Values: [][]byte{{5, 0}}}}},
		"extension twice":               {Template: exampleTemplate(t, Extension{ID: oid(t, "2.5.29.17")}, Extension{ID: oid(t, "2.5.29.17")})},
		"second request in template":    {Template: &Template{Extensions: []Extension{{ID: oid(t, "2.5.29.17")}}, Attributes: []Item{request}}},
		"bare OID in template":          {Template: &Template{Attributes: []Item{WantOID(OIDChallengePassword)}}},
		"empty RDN":                     {Template: &Template{Subject: []RDN{{}}}},
		"EC key with RSA length":        {Template: &Template{Key: &KeySpec{Algorithm: OIDECPublicKey, RSABits: 2048}}},
		"huge RSA key":                  {Template: &Template{Key: RSAKey(1 << 20)}},
	} {
		t.Run(name, func(t *testing.T) {
			if der, err := BuildCSRAttrs(c); err == nil {
				t.Errorf("built %x, want an error", der)
			}
		})
	}
	if _, err := WantExtensions([]Extension{{ID: oid(t, "2.5.29.17")}}); err == nil {
		t.Error("a blank extension was accepted in the old style")
	}
}

func TestParseCSRAttrsRefuses(t *testing.T) {
	good := must(BuildCSRAttrs(CSRAttrs{Template: exampleTemplate(t, Extension{ID: oid(t, "2.5.29.17")})}))(t)
	template := func(parts ...string) string {
		return tlv(0x30, tlv(0x30, tlv(6, "\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x02\x3d"), tlv(0x31, tlv(0x30, parts...))))
	}
	version := tlv(2, "\x00")
	if _, err := ParseCSRAttrs([]byte(template(version))); err != nil {
		t.Errorf("a template without attributes is refused: %v", err)
	}
	for name, der := range map[string]string{
		"empty":                "",
		"trailing byte":        string(good) + "\x00",
		"indefinite length":    "\x30\x80\x00\x00",
		"long length":          "\x30\x81\x00",
		"an INTEGER":           tlv(0x30, version),
		"two extension lists":  tlv(0x30, strings.Repeat(tlv(0x30, tlv(6, "\x2a\x86\x48\x86\xf7\x0d\x01\x09\x0e"), tlv(0x31, tlv(5))), 2)),
		"unordered set":        tlv(0x30, tlv(0x30, tlv(6, "\x55\x04\x03"), tlv(0x31, tlv(5), tlv(2, "\x01")))),
		"template version 2":   template(tlv(2, "\x01")),
		"template tags wrong":  template(version, tlv(0xa1), tlv(0xa0)),
		"template explicit":    template(version, tlv(0xa0, tlv(0x30, tlv(0x30, tlv(6, "\x55\x04\x03")))), tlv(0xa1)),
		"template with rest":   template(version, tlv(0xa1), tlv(5)),
		"negative RSA modulus": template(version, tlv(0xa0, tlv(0x30, tlv(6, "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01")), tlv(3, "\x00", tlv(0x30, tlv(2, "\xff"), tlv(2, "\x03")))), tlv(0xa1)),
		"too long":             strings.Repeat("0", maxCSRAttrs+1),
	} {
		if got, err := ParseCSRAttrs([]byte(der)); err == nil {
			t.Errorf("%s: read as %+v, want an error", name, got)
		}
	}
}

func FuzzParseCSRAttrs(f *testing.F) {
	for _, text := range []string{example8951, example9908s1, example9908s4, "MAA="} {
		f.Add(unbase64(f, text))
	}
	f.Add(must(BuildCSRAttrs(CSRAttrs{Template: exampleTemplate(f, Extension{ID: oid(f, "2.5.29.17")})}))(f))
	f.Add(must(BuildCSRAttrs(CSRAttrs{Template: &Template{Key: RSAKey(2048)}}))(f))
	f.Fuzz(func(t *testing.T, der []byte) {
		c, err := ParseCSRAttrs(der)
		if err != nil {
			return
		}
		again, err := BuildCSRAttrs(*c)
		if err != nil {
			t.Fatalf("%x cannot be built again: %v", der, err)
		}
		if d, err := ParseCSRAttrs(again); err != nil || !reflect.DeepEqual(c, d) {
			t.Errorf("%x became %x: %v", der, again, err)
		}
	})
}
