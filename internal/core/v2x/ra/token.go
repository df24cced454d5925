package ra

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"slices"
	"strings"
	"time"
)

// Tokens are access tokens of an OAuth server, by which stations may ask and fetch (TS 102 941, 6.2.3.5): JSON Web Tokens of RFC 9068, signed with ES256. The subject is the
// name of the station, and the scope has "v2x".
type Tokens struct {
	Key      *ecdsa.PublicKey // of P-256
	Issuer   string
	Audience string
}

// TokenScope is what a token must be good for.
const TokenScope = "v2x"

// ParseTokenKey reads the public key of an OAuth server: PEM, of P-256.
func ParseTokenKey(text []byte) (*ecdsa.PublicKey, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("it is not one PUBLIC KEY in PEM")
	}
	k, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := k.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("it is none of P-256")
	}
	return key, nil
}

// Why a token is refused.
var (
	errTokenForm  = errors.New("the token is none of RFC 9068")
	errTokenSign  = errors.New("the token is signed by somebody else")
	errTokenTime  = errors.New("the token is over, or not valid yet")
	errTokenFor   = errors.New("the token is by or for somebody else")
	errTokenScope = errors.New("the token is not for V2X")
)

const tokenMost = 4096 // octets

// subject verifies a token and returns whose it is.
func (k *Tokens) subject(token string, now time.Time) (string, error) {
	parts := strings.Split(token, ".")
	if k == nil || len(token) > tokenMost || len(parts) != 3 {
		return "", errTokenForm
	}
	var header, claims object
	var alg, kind string
	if !header.decode(parts[0]) || !header.get("alg", &alg) || !header.get("typ", &kind) || header["crit"] != nil || alg != "ES256" ||
		!strings.EqualFold(strings.TrimPrefix(strings.ToLower(kind), "application/"), "at+jwt") {
		return "", errTokenForm
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil || len(signature) != 64 {
		return "", errTokenForm
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if !ecdsa.Verify(k.Key, sum[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])) {
		return "", errTokenSign
	}
	var issuer, who, scope string
	var aud audience
	var exp, nbf float64
	if !claims.decode(parts[1]) || !claims.get("iss", &issuer) || !claims.get("sub", &who) || !claims.get("scope", &scope) || !claims.get("aud", &aud) || !claims.get("exp", &exp) || !claims.get("nbf", &nbf) {
		return "", errTokenForm
	}
	switch at := float64(now.Unix()); {
	case who == "" || exp == 0:
		return "", errTokenForm
	case at >= exp || at < nbf:
		return "", errTokenTime
	case issuer != k.Issuer || !slices.Contains(aud, k.Audience):
		return "", errTokenFor
	case !slices.Contains(strings.Fields(scope), TokenScope):
		return "", errTokenScope
	}
	return who, nil
}

// object is what a part of a token has in it. Names are taken to the letter, as encoding/json does not into a structure.
type object map[string]json.RawMessage

func (o *object) decode(text string) bool {
	b, err := base64.RawURLEncoding.DecodeString(text)
	return err == nil && json.Unmarshal(b, o) == nil
}

// get reads what has a name; without it into stays as it is.
func (o object) get(name string, into any) bool {
	return o[name] == nil || json.Unmarshal(o[name], into) == nil
}

// audience is one name or a list of names.
type audience []string

// UnmarshalJSON implements json.Unmarshaler.
func (a *audience) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*a = audience{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(a))
}
