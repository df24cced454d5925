package ra

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
	"time"
)

func signedToken(t testing.TB, key *ecdsa.PrivateKey, header, claims map[string]any) string {
	t.Helper()
	part := func(m map[string]any) string {
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	text := part(header) + "." + part(claims)
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	sig := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	return text + "." + base64.RawURLEncoding.EncodeToString(sig)
}

// BFK-5, BFK-7: which tokens are taken.
func TestTokens(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	public, err := ParseTokenKey(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	k := &Tokens{Key: public, Issuer: "https://login.example.com", Audience: "mooring"}
	now := time.Unix(1_800_000_000, 0)
	for _, row := range []struct {
		name   string
		change func(header, claims map[string]any)
		by     *ecdsa.PrivateKey
		want   error
	}{
		{"good", nil, nil, nil},
		{"several audiences", func(_, c map[string]any) { c["aud"] = []string{"x", "mooring"} }, nil, nil},
		{"several scopes", func(_, c map[string]any) { c["scope"] = "a v2x b" }, nil, nil},
		{"type in full", func(h, _ map[string]any) { h["typ"] = "application/at+jwt" }, nil, nil},
		{"no algorithm", func(h, _ map[string]any) { h["alg"] = "none" }, nil, errTokenForm},
		{"another algorithm", func(h, _ map[string]any) { h["alg"] = "HS256" }, nil, errTokenForm},
		{"an ID token", func(h, _ map[string]any) { h["typ"] = "JWT" }, nil, errTokenForm},
		{"critical extension", func(h, _ map[string]any) { h["crit"] = []string{"x"} }, nil, errTokenForm},
		{"another key", nil, other, errTokenSign},
		{"names in other letters", func(_, c map[string]any) { c["EXP"] = c["exp"]; delete(c, "exp") }, nil, errTokenForm},
		{"extensions of which none is critical", func(h, _ map[string]any) { h["crit"] = nil }, nil, errTokenForm},
		{"over", func(_, c map[string]any) { c["exp"] = 1_800_000_000 }, nil, errTokenTime},
		{"not yet", func(_, c map[string]any) { c["nbf"] = 1_800_000_001 }, nil, errTokenTime},
		{"without end", func(_, c map[string]any) { delete(c, "exp") }, nil, errTokenForm},
		{"without subject", func(_, c map[string]any) { delete(c, "sub") }, nil, errTokenForm},
		{"another issuer", func(_, c map[string]any) { c["iss"] = "https://evil.example.com" }, nil, errTokenFor},
		{"another audience", func(_, c map[string]any) { c["aud"] = "somebody" }, nil, errTokenFor},
		{"no audience", func(_, c map[string]any) { delete(c, "aud") }, nil, errTokenFor},
		{"another scope", func(_, c map[string]any) { c["scope"] = "v2xx" }, nil, errTokenScope},
	} {
		header := map[string]any{"alg": "ES256", "typ": "at+jwt"}
		claims := map[string]any{"iss": k.Issuer, "aud": "mooring", "sub": "car-1", "exp": 1_800_000_060, "scope": "v2x"}
		if row.change != nil {
			row.change(header, claims)
		}
		by := key
		if row.by != nil {
			by = row.by
		}
		who, err := k.subject(signedToken(t, by, header, claims), now)
		if !errors.Is(err, row.want) || (row.want == nil) != (who == "car-1") {
			t.Errorf("%s: %q, %v, want %v", row.name, who, err, row.want)
		}
	}
	for _, text := range []string{"", "a.b", "a.b.c", "..", strings.Repeat("a", tokenMost+1), "e30.e30." + strings.Repeat("A", 86)} {
		if who, err := k.subject(text, now); err == nil {
			t.Errorf("%.20q is taken: %q", text, who)
		}
	}
	if who, err := (*Tokens)(nil).subject("a.b.c", now); err == nil {
		t.Errorf("without an OAuth server a token is taken: %q", who)
	}
	for _, text := range []string{"", "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n"} {
		if _, err := ParseTokenKey([]byte(text)); err == nil {
			t.Errorf("%q is taken for a key", text)
		}
	}
}

func FuzzToken(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	k := &Tokens{Key: &key.PublicKey, Issuer: "i", Audience: "a"}
	f.Add("e30.e30.e30")
	f.Fuzz(func(t *testing.T, text string) {
		if who, err := k.subject(text, time.Unix(1, 0)); err == nil {
			t.Fatalf("%q is taken: %q", text, who)
		}
	})
}

// What is signed may say anything: a token is taken only for the subject that it has, while it is valid, and from and for whom it must be.
func FuzzTokenSigned(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	k := &Tokens{Key: &key.PublicKey, Issuer: "i", Audience: "a"}
	f.Add(`{"alg":"ES256","typ":"at+jwt"}`, `{"iss":"i","aud":"a","sub":"car","exp":9,"scope":"v2x"}`)
	f.Add(`{"alg":"ES256","typ":"application/AT+JWT"}`, `{"iss":"i","aud":["a","b"],"sub":"car","exp":9,"nbf":1,"scope":"x v2x"}`)
	f.Fuzz(func(t *testing.T, header, claims string) {
		text := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims))
		sum := sha256.Sum256([]byte(text))
		r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		signature := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
		who, err := k.subject(text+"."+base64.RawURLEncoding.EncodeToString(signature), time.Unix(5, 0))
		if err != nil {
			return
		}
		var have map[string]any
		if err := json.Unmarshal([]byte(claims), &have); err != nil {
			t.Fatalf("%q is taken: %v", claims, err)
		}
		exp, _ := have["exp"].(float64)
		if who == "" || who != have["sub"] || have["iss"] != "i" || exp <= 5 || !strings.Contains(claims, "v2x") {
			t.Fatalf("%q is taken for %q", claims, who)
		}
	})
}

func FuzzParseTokenKey(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	f.Fuzz(func(t *testing.T, text []byte) {
		if k, err := ParseTokenKey(text); err == nil && k.Curve != elliptic.P256() {
			t.Fatalf("%q is taken for a key of P-256", text)
		}
	})
}
