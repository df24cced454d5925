package acme

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/big"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// MaxRequest bounds a request in octets: a certification request with 100 names and an RSA key has 10 kB, an attestation statement of 64 kB, twice
// in base64url, 120 kB.
const MaxRequest = 128 << 10

// What is wrong with a message beyond its form.
var (
	ErrAlgorithm = errors.New("the signature algorithm is not one of ES256, ES384, EdDSA and RS256")
	ErrKey       = errors.New("the key is not acceptable")
	ErrSignature = errors.New("the signature does not verify")
)

// Algorithms are the signature algorithms of accounts: ES256, which RFC 8555, section 6.2, demands, and what else clients use.
func Algorithms() []string { return []string{"ES256", "ES384", "EdDSA", "RS256"} }

// Key is an account's public key.
type Key struct {
	Public     crypto.PublicKey
	Thumbprint [sha256.Size]byte // RFC 7638
	jwk        jose.JSONWebKey
}

// JWK returns the key as JSON, with nothing but what RFC 7638 requires.
func (k *Key) JWK() []byte {
	text, err := (&jose.JSONWebKey{Key: k.Public}).MarshalJSON()
	if err != nil {
		panic("acme: " + err.Error()) // ParseKey and NewKey take only keys that can be written
	}
	return text
}

// ParseKey reads a public key from JSON. Private, symmetric and unsuitable ones are ErrKey.
func ParseKey(text []byte) (*Key, error) {
	k := &Key{}
	if err := k.jwk.UnmarshalJSON(text); err != nil {
		return nil, fmt.Errorf("%w: it cannot be read", ErrKey)
	}
	return k, k.complete()
}

// NewKey returns the account key of a signer.
func NewKey(public crypto.PublicKey) (*Key, error) {
	k := &Key{jwk: jose.JSONWebKey{Key: public}}
	return k, k.complete()
}

func (k *Key) complete() error {
	k.Public = k.jwk.Key
	switch pub := k.Public.(type) {
	case *ecdsa.PublicKey:
		if pub.Curve != elliptic.P256() && pub.Curve != elliptic.P384() {
			return fmt.Errorf("%w: use P-256 or P-384", ErrKey)
		}
	case ed25519.PublicKey:
	case *rsa.PublicKey:
		if n := pub.N.BitLen(); n < 2048 || n > 8192 || pub.E < 3 || pub.E&1 == 0 {
			return fmt.Errorf("%w: use an RSA key of 2048 to 8192 bits with an odd exponent from 3", ErrKey)
		}
	default:
		return fmt.Errorf("%w: use a public EC, Ed25519 or RSA key", ErrKey)
	}
	if !k.jwk.Valid() {
		return fmt.Errorf("%w: it is not a valid public key", ErrKey)
	}
	thumb, err := k.jwk.Thumbprint(crypto.SHA256)
	if err != nil {
		return fmt.Errorf("%w: it has no thumbprint", ErrKey)
	}
	copy(k.Thumbprint[:], thumb)
	return nil
}

// fits reports whether signatures of this algorithm are made with such a key.
func (k *Key) fits(alg string) bool {
	switch pub := k.Public.(type) {
	case *ecdsa.PublicKey:
		return alg == "ES256" && pub.Curve == elliptic.P256() || alg == "ES384" && pub.Curve == elliptic.P384()
	case ed25519.PublicKey:
		return alg == "EdDSA"
	case *rsa.PublicKey:
		return alg == "RS256"
	}
	return false
}

// header is a protected header. Other parameters are refused when they are critical and passed over else.
type header struct {
	Alg   string          `json:"alg"`
	Nonce string          `json:"nonce,omitempty"`
	URL   string          `json:"url,omitempty"`
	JWK   json.RawMessage `json:"jwk,omitempty"`
	KID   string          `json:"kid,omitempty"`
	Crit  json.RawMessage `json:"crit,omitempty"`
	B64   *bool           `json:"b64,omitempty"`
}

// Message is a parsed JWS. Nothing in it may be believed before Verify or VerifyMAC.
type Message struct {
	Alg     string
	Nonce   string
	URL     string
	KID     string
	Key     *Key // of the header, when there is one
	Payload []byte

	jwk       []byte // Key as it came
	signed    []byte // protected "." payload, as they came
	signature []byte
}

// HasKey reports whether jwk, JSON, is the key of the header.
func (m *Message) HasKey(jwk []byte) bool {
	if m.Key == nil {
		return false
	}
	if bytes.Equal(jwk, m.jwk) { // as a rule both were written by one program, and to parse a key costs as much as a message
		return true
	}
	other, err := ParseKey(jwk)
	return err == nil && other.Thumbprint == m.Key.Thumbprint
}

type flattened struct {
	Protected *string `json:"protected"`
	Payload   *string `json:"payload"`
	Signature *string `json:"signature"`
}

// Parse reads a message in the flattened JSON serialisation, signed by an account key: jwk or kid, not both. The error is ErrAlgorithm or ErrKey,
// or says what is wrong with its form.
func Parse(text []byte) (*Message, error) {
	m, err := parse(text)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(Algorithms(), m.Alg) {
		return nil, ErrAlgorithm
	}
	switch {
	case m.Key != nil && m.KID != "":
		return nil, errors.New("the header has both jwk and kid")
	case m.Key == nil && m.KID == "":
		return nil, errors.New("the header has neither jwk nor kid")
	}
	return m, nil
}

// ParseBinding reads an external account binding (RFC 8555, section 7.3.4): a message with a kid that an HMAC protects, without a nonce.
func ParseBinding(text []byte) (*Message, error) {
	m, err := parse(text)
	if err != nil {
		return nil, err
	}
	switch {
	case m.hash() == nil:
		return nil, errors.New("its algorithm is not HS256, HS384 or HS512")
	case m.Key != nil || m.KID == "":
		return nil, errors.New("its header needs a kid and no jwk")
	case m.Nonce != "":
		return nil, errors.New("its header has a nonce, which belongs to the outer message")
	}
	return m, nil
}

func parse(text []byte) (*Message, error) {
	if len(text) > MaxRequest {
		return nil, errors.New("it is too long")
	}
	parts, plain := split(text)
	if !plain {
		if err := decode(text, &parts); err != nil {
			return nil, fmt.Errorf("it is not a JWS in the flattened JSON serialisation with one signature and no unprotected header: %w", err)
		}
		if parts.Protected == nil || parts.Payload == nil || parts.Signature == nil {
			return nil, errors.New("protected, payload or signature is missing")
		}
	}
	strict := base64.RawURLEncoding.Strict()
	raw, err1 := strict.DecodeString(*parts.Protected)
	payload, err2 := strict.DecodeString(*parts.Payload)
	signature, err3 := strict.DecodeString(*parts.Signature)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, errors.New("a part of it is not base64url without padding")
	}
	h, plain := plainHeader(raw)
	if !plain {
		if err := json.Unmarshal(raw, &h); err != nil {
			return nil, errors.New("the protected header is not a JSON object of the right form")
		}
	}
	if len(h.Crit) > 0 || h.B64 != nil {
		return nil, errors.New("the header has critical extensions, of which none is known here")
	}
	m := &Message{Alg: h.Alg, Nonce: h.Nonce, URL: h.URL, KID: h.KID, Payload: payload, jwk: h.JWK, signature: signature, signed: []byte(*parts.Protected + "." + *parts.Payload)}
	if len(h.JWK) > 0 {
		if m.Key, err2 = ParseKey(h.JWK); err2 != nil {
			return nil, err2
		}
	}
	return m, nil
}

// split reads the form that messages have as a rule: an object of exactly the three members, each once, with strings of the letters of base64url. That
// is a tenth of the work of decode, which reads all others, and which ok being false leaves them to.
func split(text []byte) (parts flattened, ok bool) {
	rest, ok := after(text, '{')
	for n := 0; ok && n < 3; n++ {
		if n > 0 {
			rest, ok = after(rest, ',')
		}
		var name, value string
		if ok {
			name, rest, ok = letters(rest)
		}
		if ok {
			rest, ok = after(rest, ':')
		}
		if ok {
			value, rest, ok = letters(rest)
		}
		var into **string
		switch name {
		case "protected":
			into = &parts.Protected
		case "payload":
			into = &parts.Payload
		case "signature":
			into = &parts.Signature
		}
		if ok = ok && into != nil && *into == nil; ok {
			*into = &value
		}
	}
	if ok {
		rest, ok = after(rest, '}')
	}
	if ok = ok && len(space(rest)) == 0; !ok {
		return flattened{}, false
	}
	return parts, true
}

// plainHeader reads the form that the headers of nearly all messages have: an object of alg, nonce, url and kid, each at most once, with strings of
// printable ASCII in which nothing is escaped. What has another form, ok being false, is read by encoding/json.
func plainHeader(text []byte) (h header, ok bool) {
	rest, ok := after(text, '{')
	var seen header
	for n := 0; ok; n++ {
		if n > 0 {
			if end, over := after(rest, '}'); over {
				return seen, len(space(end)) == 0
			}
			if rest, ok = after(rest, ','); !ok {
				break
			}
		}
		var name, value string
		if name, rest, ok = letters(rest); ok {
			rest, ok = after(rest, ':')
		}
		if ok {
			value, rest, ok = printable(rest)
		}
		var into *string
		switch name {
		case "alg":
			into = &seen.Alg
		case "nonce":
			into = &seen.Nonce
		case "url":
			into = &seen.URL
		case "kid":
			into = &seen.KID
		}
		if ok = ok && into != nil && *into == "" && value != ""; ok {
			*into = value
		}
	}
	return header{}, false
}

// printable returns a string of printable ASCII in which nothing is escaped, and what follows it.
func printable(text []byte) (value string, rest []byte, ok bool) {
	if text, ok = after(text, '"'); !ok {
		return "", nil, false
	}
	for i, c := range text {
		switch {
		case c == '"':
			return string(text[:i]), text[i+1:], true
		case c < ' ' || c > '~' || c == '\\':
			return "", nil, false
		}
	}
	return "", nil, false
}

// space returns text without the white space of JSON before it.
func space(text []byte) []byte {
	for len(text) > 0 && (text[0] == ' ' || text[0] == '\t' || text[0] == '\r' || text[0] == '\n') {
		text = text[1:]
	}
	return text
}

// after returns what follows the octet c, before which there may be white space.
func after(text []byte, c byte) (rest []byte, ok bool) {
	if text = space(text); len(text) == 0 || text[0] != c {
		return nil, false
	}
	return text[1:], true
}

// letters returns a string of letters of base64url, and what follows it.
func letters(text []byte) (value string, rest []byte, ok bool) {
	if text, ok = after(text, '"'); !ok {
		return "", nil, false
	}
	for i, c := range text {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
		case c == '"':
			return string(text[:i]), text[i+1:], true
		default:
			return "", nil, false
		}
	}
	return "", nil, false
}

// decode reads one JSON object and refuses members that it does not know.
func decode(text []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF { // More would pass over a bracket
		return errors.New("something follows it")
	}
	return nil
}

// Verify returns nil when the message was signed with key (RFC 7515, section 5.2).
func (m *Message) Verify(key *Key) error {
	switch {
	case !key.fits(m.Alg):
		return fmt.Errorf("%w: %s is not the algorithm of the account's key", ErrSignature, m.Alg)
	case !key.signed(m.signed, m.signature):
		return ErrSignature
	}
	return nil
}

// signed reports whether signature is the key's over text. That is done by the standard library alone: another parse of what was parsed already
// costs a third of the verification again.
func (k *Key) signed(text, signature []byte) bool {
	switch pub := k.Public.(type) {
	case *ecdsa.PublicKey:
		size := (pub.Curve.Params().BitSize + 7) / 8
		if len(signature) != 2*size { // R and S, each as long as the curve's order
			return false
		}
		r, s := new(big.Int).SetBytes(signature[:size]), new(big.Int).SetBytes(signature[size:])
		if pub.Curve == elliptic.P384() {
			sum := sha512.Sum384(text)
			return ecdsa.Verify(pub, sum[:], r, s)
		}
		sum := sha256.Sum256(text)
		return ecdsa.Verify(pub, sum[:], r, s)
	case ed25519.PublicKey:
		return ed25519.Verify(pub, text, signature)
	case *rsa.PublicKey:
		sum := sha256.Sum256(text)
		return rsa.VerifyPKCS1v15(pub, crypto.SHA256, sum[:], signature) == nil
	}
	return false
}

func (m *Message) hash() func() hash.Hash {
	switch m.Alg {
	case "HS256":
		return sha256.New
	case "HS384":
		return sha512.New384
	case "HS512":
		return sha512.New
	}
	return nil
}

// VerifyMAC returns nil when the message bears the HMAC under secret. It takes the same time for each wrong one.
func (m *Message) VerifyMAC(secret []byte) error {
	h := m.hash()
	if h == nil {
		return ErrAlgorithm
	}
	mac := hmac.New(h, secret)
	mac.Write(m.signed)
	if !hmac.Equal(mac.Sum(nil), m.signature) {
		return ErrSignature
	}
	return nil
}

// Header is what a message says about itself: KID, or with KID empty the signer's public key.
type Header struct{ KID, Nonce, URL string }

// algorithmOf returns the algorithm of an account key's signatures.
func algorithmOf(k *Key) string {
	for _, alg := range Algorithms() {
		if k.fits(alg) {
			return alg
		}
	}
	return ""
}

// Sign returns payload as a message signed by signer.
func Sign(signer crypto.Signer, h Header, payload []byte) ([]byte, error) {
	key, err := NewKey(signer.Public())
	if err != nil {
		return nil, err
	}
	options := &jose.SignerOptions{EmbedJWK: h.KID == ""}
	if h.Nonce != "" {
		options.WithHeader("nonce", h.Nonce)
	}
	options.WithHeader("url", h.URL)
	signing := jose.SigningKey{Algorithm: jose.SignatureAlgorithm(algorithmOf(key)), Key: signer}
	if h.KID != "" {
		options.WithHeader("kid", h.KID)
	}
	s, err := jose.NewSigner(signing, options)
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	jws, err := s.Sign(payload)
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	compact, err := jws.CompactSerialize()
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	part := strings.Split(compact, ".")
	return json.Marshal(flattened{&part[0], &part[1], &part[2]})
}

// Bind returns the external account binding of an account key to the name kid, of which secret is known (RFC 8555, section 7.3.4).
func Bind(key *Key, kid string, secret []byte, url string) ([]byte, error) {
	text, err := json.Marshal(header{Alg: "HS256", KID: kid, URL: url})
	if err != nil {
		return nil, err
	}
	encode := base64.RawURLEncoding.EncodeToString
	protected, payload := encode(text), encode(key.JWK())
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(protected + "." + payload))
	signature := encode(mac.Sum(nil))
	return json.Marshal(flattened{&protected, &payload, &signature})
}
