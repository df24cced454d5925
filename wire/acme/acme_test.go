package acme

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

func signers(t testing.TB) map[string]crypto.Signer {
	t.Helper()
	p256, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, err2 := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	_, ed, err3 := ed25519.GenerateKey(rand.Reader)
	rsaKey, err4 := rsa.GenerateKey(rand.Reader, 2048)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	return map[string]crypto.Signer{"ES256": p256, "ES384": p384, "EdDSA": ed, "RS256": rsaKey}
}

func TestSignAndVerify(t *testing.T) {
	all := signers(t)
	for alg, signer := range all {
		t.Run(alg, func(t *testing.T) {
			text, err := Sign(signer, Header{Nonce: "n", URL: "https://acme.example/x"}, []byte(`{"a":1}`))
			if err != nil {
				t.Fatal(err)
			}
			m, err := Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			if m.Alg != alg || m.Nonce != "n" || m.URL != "https://acme.example/x" || m.Key == nil || string(m.Payload) != `{"a":1}` {
				t.Errorf("got %+v", m)
			}
			if err := m.Verify(m.Key); err != nil {
				t.Error(err)
			}
			again, err := ParseKey(m.Key.JWK())
			if err != nil || again.Thumbprint != m.Key.Thumbprint {
				t.Errorf("the key does not survive: %v", err)
			}
			for other, key := range all {
				k, err := NewKey(key.Public())
				if err != nil {
					t.Fatal(err)
				}
				if other != alg && m.Verify(k) == nil {
					t.Errorf("it verifies with the key for %s", other)
				}
			}
			byKID, err := Sign(signer, Header{KID: "https://acme.example/1", Nonce: "n", URL: "u"}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if m, err := Parse(byKID); err != nil || m.KID != "https://acme.example/1" || m.Key != nil || len(m.Payload) != 0 {
				t.Errorf("got %+v, %v", m, err)
			}
			var parts map[string]string
			if err := json.Unmarshal(text, &parts); err != nil {
				t.Fatal(err)
			}
			parts["payload"] = base64.RawURLEncoding.EncodeToString([]byte(`{"a":2}`))
			changed, err := json.Marshal(parts)
			if err != nil {
				t.Fatal(err)
			}
			if m, err = Parse(changed); err != nil || !errors.Is(m.Verify(m.Key), ErrSignature) {
				t.Errorf("another payload verifies: %v", err)
			}
		})
	}
}

// TestSignatureForms: an ECDSA signature is R and S, each as long as the order, and neither 0 nor above (RFC 7518, section 3.4).
func TestSignatureForms(t *testing.T) {
	key, ok := signers(t)["ES256"].(*ecdsa.PrivateKey)
	if !ok {
		t.Fatal("no key on P-256")
	}
	text, err := Sign(key, Header{Nonce: "n", URL: "u"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	m, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(m.signed)
	asn, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	good, order := m.signature, key.Params().N.Bytes()
	for name, signature := range map[string][]byte{"none": nil, "zeros": make([]byte, 64), "R is 0": slices.Concat(make([]byte, 32), good[32:]), "S is 0": slices.Concat(good[:32], make([]byte, 32)),
		"the order": slices.Concat(order, order), "DER": asn, "a zero before": slices.Concat([]byte{0}, good), "two before each": slices.Concat(make([]byte, 2), good[:32], make([]byte, 2), good[32:]),
		"an octet after": slices.Concat(good, []byte{0}), "half": good[:32]} {
		m.signature = signature
		if err := m.Verify(m.Key); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	m.signature = good
	if err := m.Verify(m.Key); err != nil {
		t.Error(err)
	}
}

// message makes a JWS with any header.
func message(header, payload string) string {
	e := base64.RawURLEncoding.EncodeToString
	return `{"protected":"` + e([]byte(header)) + `","payload":"` + e([]byte(payload)) + `","signature":"AA"}`
}

func TestParseRefusals(t *testing.T) {
	jwk := `{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}`
	for name, c := range map[string]struct {
		text string
		want error // nil = any
	}{
		"none":                   {message(`{"alg":"none","nonce":"n","url":"u","kid":"k"}`, ""), ErrAlgorithm},
		"HS256":                  {message(`{"alg":"HS256","nonce":"n","url":"u","kid":"k"}`, ""), ErrAlgorithm},
		"no algorithm":           {message(`{"nonce":"n","url":"u","kid":"k"}`, ""), ErrAlgorithm},
		"jwk and kid":            {message(`{"alg":"ES256","nonce":"n","url":"u","kid":"k","jwk":`+jwk+`}`, ""), nil},
		"neither":                {message(`{"alg":"ES256","nonce":"n","url":"u"}`, ""), nil},
		"critical":               {message(`{"alg":"ES256","nonce":"n","url":"u","kid":"k","crit":["x"]}`, ""), nil},
		"a bracket after it":     {message(`{"alg":"ES256","nonce":"n","url":"u","kid":"k"}`, "") + "]", nil},
		"a brace after it":       {message(`{"alg":"ES256","nonce":"n","url":"u","kid":"k"}`, "") + "\n}", nil},
		"b64":                    {message(`{"alg":"ES256","nonce":"n","url":"u","kid":"k","b64":false}`, ""), nil},
		"symmetric key":          {message(`{"alg":"ES256","nonce":"n","url":"u","jwk":{"kty":"oct","k":"AAAA"}}`, ""), ErrKey},
		"P-521":                  {message(`{"alg":"ES256","nonce":"n","url":"u","jwk":{"kty":"EC","crv":"P-521","x":"AA","y":"AA"}}`, ""), ErrKey},
		"point not on the curve": {message(`{"alg":"ES256","nonce":"n","url":"u","jwk":`+strings.Replace(jwk, "f83O", "f83P", 1)+`}`, ""), ErrKey},
		"small RSA":              {message(`{"alg":"RS256","nonce":"n","url":"u","jwk":{"kty":"RSA","e":"AQAB","n":"`+strings.Repeat("_", 171)+`"}}`, ""), ErrKey},
		"RSA with exponent 1":    {message(`{"alg":"RS256","nonce":"n","url":"u","jwk":{"kty":"RSA","e":"AQ","n":"`+strings.Repeat("_", 342)+`"}}`, ""), ErrKey},
		"unprotected header":     {`{"header":{"alg":"ES256"},"protected":"","payload":"","signature":""}`, nil},
		"many signatures":        {`{"payload":"","signatures":[]}`, nil},
		"no payload":             {`{"protected":"e30","signature":""}`, nil},
		"padding":                {`{"protected":"e30=","payload":"","signature":""}`, nil},
		"compact":                {"e30.e30.AA", nil},
		"two objects":            {message(`{"alg":"ES256","kid":"k"}`, "") + "{}", nil},
		"too long":               {strings.Repeat(" ", MaxRequest) + "{}", nil},
	} {
		t.Run(name, func(t *testing.T) {
			if m, err := Parse([]byte(c.text)); err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("got %+v, %v, want %v", m, err, c.want)
			}
		})
	}
}

func TestBinding(t *testing.T) {
	signer := signers(t)["ES256"]
	key, err := NewKey(signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	text, err := Bind(key, "meter-1", []byte("mt_secret"), "https://acme.example/new")
	if err != nil {
		t.Fatal(err)
	}
	m, err := ParseBinding(text)
	if err != nil || m.KID != "meter-1" || m.URL != "https://acme.example/new" {
		t.Fatalf("got %+v, %v", m, err)
	}
	if err := m.VerifyMAC([]byte("mt_secret")); err != nil {
		t.Error(err)
	}
	if err := m.VerifyMAC([]byte("mt_another")); !errors.Is(err, ErrSignature) {
		t.Errorf("with another secret: got %v", err)
	}
	for name, text := range map[string]string{
		"signed":  message(`{"alg":"ES256","kid":"k","url":"u"}`, ""),
		"none":    message(`{"alg":"none","kid":"k","url":"u"}`, ""),
		"nonce":   message(`{"alg":"HS256","kid":"k","url":"u","nonce":"n"}`, ""),
		"no kid":  message(`{"alg":"HS256","url":"u"}`, ""),
		"garbage": "null",
	} {
		if m, err := ParseBinding([]byte(text)); err == nil {
			t.Errorf("%s: got %+v", name, m)
		}
	}
}

func TestReverseName(t *testing.T) {
	for ip, want := range map[string]string{
		"192.0.2.1":   "1.2.0.192.in-addr.arpa",
		"2001:db8::1": "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa",
	} {
		if got := ReverseName(netip.MustParseAddr(ip)); got != want {
			t.Errorf("%s: got %s, want %s", ip, got, want)
		}
	}
}

// TestCertID has the example of RFC 9773, section 4.1.
func TestCertID(t *testing.T) {
	const text = "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"
	id, err := ParseCertID(text)
	if err != nil {
		t.Fatal(err)
	}
	if hex.EncodeToString(id.Number()) != "87654321" || hex.EncodeToString(id.Authority) != "69885b6b87464041e1b37b847ba0ae2cde01c8d4" {
		t.Errorf("got %x, %x", id.Authority, id.Number())
	}
	if got := NewCertID(id.Authority, id.Number()).String(); got != text {
		t.Errorf("got %s, want %s", got, text)
	}
	for _, bad := range []string{"", ".", "aYhb", "aYhb.", ".AIdl", "aYhb.AIdlQyE=", "aYhb.h2VDIQ", "aYhb.AAE", "aYhb.AIdlQyE.x", "a+hb.AIdlQyE", "aYhbb.AIdlQyE", strings.Repeat("A", 400) + ".AQ"} {
		if id, err := ParseCertID(bad); err == nil {
			t.Errorf("%q: got %+v", bad, id)
		}
	}
}

// TestKeyAuthorization has the key of RFC 7638, section 3.1.
func TestKeyAuthorization(t *testing.T) {
	key, err := ParseKey([]byte(`{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB"}`))
	if err != nil {
		t.Fatal(err)
	}
	if got := KeyAuthorization("t", key.Thumbprint[:]); got != "t.NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs" {
		t.Errorf("got %s", got)
	}
	sum := sha256.Sum256([]byte("t.x"))
	if got := DNSRecord("t.x"); got != base64.RawURLEncoding.EncodeToString(sum[:]) {
		t.Errorf("got %s", got)
	}
}

// FuzzSplit: what is read the short way is read the same the long way.
func FuzzSplit(f *testing.F) {
	for _, text := range []string{`{"protected":"a","payload":"","signature":"-_"}`, " { \"signature\" : \"c\" ,\n\"payload\":\"b\",\t\"protected\":\"a\" } \r\n",
		`{"protected":"a","payload":"b","signature":"c","header":{}}`, `{"protected":"a","payload":"b","payload":"c"}`, `{"protected":"\u0061","payload":"b","signature":"c"}`,
		`{"protected":"a","payload":"b","signature":"c"}]`, `{"protected":"a","payload":"b","signature":"c"`, `{"Protected":"a","payload":"b","signature":"c"}`, ``} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		short, ok := split(text)
		if !ok {
			return
		}
		var long flattened
		if err := decode(text, &long); err != nil || *long.Protected != *short.Protected || *long.Payload != *short.Payload || *long.Signature != *short.Signature {
			t.Errorf("%q is read as %q, %q, %q; the long way with error %v", text, *short.Protected, *short.Payload, *short.Signature, err)
		}
	})
}

// FuzzPlainHeader: a header that is read the short way is read the same the long way.
func FuzzPlainHeader(f *testing.F) {
	for _, text := range []string{`{"alg":"ES256","nonce":"n","url":"https://a/b?c","kid":"k"}`, " { \"kid\" : \"k\" ,\n\"alg\":\"ES256\" } \r\n", `{"alg":"ES256","jwk":{}}`, `{"alg":"a","alg":"b"}`,
		`{"alg":"","alg":"b"}`, `{"alg":"\u0061"}`, `{"alg":"é"}`, `{"alg":"a"}]`, `{"alg":"a",}`, `{"Alg":"a"}`, `{"alg":"a","crit":["x"]}`, `{"alg":null}`, `{}`, ``} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		short, ok := plainHeader(text)
		if !ok {
			return
		}
		var long header
		if err := json.Unmarshal(text, &long); err != nil || !reflect.DeepEqual(long, short) {
			t.Errorf("%q is read as %+v; the long way as %+v with error %v", text, short, long, err)
		}
	})
}

func TestPlainHeader(t *testing.T) {
	want := header{Alg: "ES256", Nonce: "n-_", URL: "https://a/b", KID: "https://a/1"}
	if got, ok := plainHeader([]byte(`{"alg":"ES256","kid":"https://a/1","nonce":"n-_","url":"https://a/b"}`)); !ok || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, ok)
	}
}

// The key of a message, written as it came or otherwise, is its key, and no other is.
func TestHasKey(t *testing.T) {
	all := signers(t)
	text, err := Sign(all["ES256"], Header{Nonce: "n", URL: "u"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	m, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	other, err := NewKey(all["ES384"].Public())
	if err != nil {
		t.Fatal(err)
	}
	jwk := m.Key.JWK()
	if !m.HasKey(jwk) || !m.HasKey([]byte(" "+string(jwk))) {
		t.Errorf("%s is not its key", jwk)
	}
	if m.HasKey(other.JWK()) || m.HasKey(nil) || m.HasKey([]byte("{}")) || (&Message{}).HasKey(nil) {
		t.Error("another key is its key")
	}
}

// FuzzParse: whatever parses is written again in a form that jose reads too, and never verifies under a key that did not sign it.
func FuzzParse(f *testing.F) {
	signer := signers(f)["EdDSA"]
	text, err := Sign(signer, Header{Nonce: "n", URL: "u"}, []byte("{}"))
	if err != nil {
		f.Fatal(err)
	}
	other, err := NewKey(signers(f)["EdDSA"].Public())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(message(`{"alg":"ES256","nonce":"n","url":"u","kid":"k"}`, "{}")))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := Parse(text)
		if err != nil {
			return
		}
		if (m.Key == nil) == (m.KID == "") {
			t.Errorf("both or none of jwk and kid: %+v", m)
		}
		if m.Verify(other) == nil {
			t.Error("it verifies under a foreign key")
		}
		if m.Key != nil && m.Verify(m.Key) == nil {
			if _, err := jose.ParseSignedJSON(string(text), []jose.SignatureAlgorithm{jose.SignatureAlgorithm(m.Alg)}); err != nil {
				t.Errorf("jose does not read it: %v", err)
			}
		}
	})
}

// FuzzParseBinding: no message has the MAC of a secret that nobody knows.
func FuzzParseBinding(f *testing.F) {
	key, err := NewKey(signers(f)["ES256"].Public())
	if err != nil {
		f.Fatal(err)
	}
	text, err := Bind(key, "k", []byte("s"), "u")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		if m, err := ParseBinding(text); err == nil && m.VerifyMAC([]byte("another secret")) == nil {
			t.Error("it has the right MAC")
		}
	})
}

// FuzzParseKey: what parses is a public key that survives being written.
func FuzzParseKey(f *testing.F) {
	for _, s := range signers(f) {
		key, err := NewKey(s.Public())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(key.JWK())
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		key, err := ParseKey(text)
		if err != nil {
			return
		}
		if again, err := ParseKey(key.JWK()); err != nil || again.Thumbprint != key.Thumbprint {
			t.Errorf("it does not survive: %v", err)
		}
	})
}

// FuzzParseCertID: an identifier has one form.
func FuzzParseCertID(f *testing.F) {
	f.Add("aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE")
	f.Fuzz(func(t *testing.T, text string) {
		if id, err := ParseCertID(text); err == nil && id.String() != text {
			t.Errorf("%q is read as %q", text, id.String())
		}
	})
}
