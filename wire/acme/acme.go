// Package acme holds the messages of the Automatic Certificate Management Environment, RFC 8555, and of what was added to it: addresses as
// identifiers (RFC 8738), tls-alpn-01 (RFC 8737), renewal information (RFC 9773) and profiles (draft-ietf-acme-profiles). It is used by servers
// and clients alike.
//
// Every request but a few GETs is a JWS in the flattened JSON serialisation (RFC 8555, section 6.2):
//
//	{"protected": base64url(header), "payload": base64url(body), "signature": base64url(octets)}
//	header = {"alg": …, "nonce": …, "url": …, "jwk": {…} | "kid": "…"}
//
// with exactly one of jwk and kid. The payload is a JSON object, or nothing at all for a POST-as-GET (section 6.3). The inner messages of a
// key change and of an external account binding have the same form and no nonce.
//
// The signatures are go-jose's work; what this package adds is what ACME demands beyond JOSE: which algorithms, which fields, and no others
// that could change the meaning. It opens no connection, keeps no nonce, and decides nothing about accounts.
package acme

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Media types.
const (
	TypeRequest = "application/jose+json"
	TypeChain   = "application/pem-certificate-chain"
	TypeProblem = "application/problem+json"
)

// Directory says where everything is (RFC 8555, section 7.1.1).
type Directory struct {
	NewNonce    string `json:"newNonce"`
	NewAccount  string `json:"newAccount"`
	NewOrder    string `json:"newOrder"`
	RevokeCert  string `json:"revokeCert"`
	KeyChange   string `json:"keyChange"`
	RenewalInfo string `json:"renewalInfo,omitempty"`
	ActivateTPM string `json:"mooringActivateTPM,omitempty"` // see Activation; no standard knows it
	BindBirth   string `json:"mooringBindBirth,omitempty"`   // see BirthBinding; no standard knows it either
	Meta        Meta   `json:"meta"`
}

// Meta tells about the server.
type Meta struct {
	TermsOfService          string            `json:"termsOfService,omitempty"`
	Website                 string            `json:"website,omitempty"`
	CAAIdentities           []string          `json:"caaIdentities,omitempty"`
	ExternalAccountRequired bool              `json:"externalAccountRequired,omitempty"`
	Profiles                map[string]string `json:"profiles,omitempty"`
}

// NewAccount is the body of a request for an account (section 7.3).
type NewAccount struct {
	Contact                []string        `json:"contact,omitempty"`
	TermsOfServiceAgreed   bool            `json:"termsOfServiceAgreed,omitempty"`
	OnlyReturnExisting     bool            `json:"onlyReturnExisting,omitempty"`
	ExternalAccountBinding json.RawMessage `json:"externalAccountBinding,omitempty"`
}

// Account is an account as the server shows it (section 7.1.2).
type Account struct {
	Status                 string          `json:"status"`
	Contact                []string        `json:"contact,omitempty"`
	TermsOfServiceAgreed   bool            `json:"termsOfServiceAgreed,omitempty"`
	ExternalAccountBinding json.RawMessage `json:"externalAccountBinding,omitempty"`
	Orders                 string          `json:"orders"`
}

// AccountUpdate is the body of a request to an account's URL.
type AccountUpdate struct {
	Status  string   `json:"status,omitempty"`
	Contact []string `json:"contact,omitempty"`
}

// KeyChange is the body of the inner message of a key change (section 7.3.5).
type KeyChange struct {
	Account string          `json:"account"`
	OldKey  json.RawMessage `json:"oldKey"`
}

// Kinds of identifiers.
const (
	KindDNS = "dns"
	KindIP  = "ip"

	KindPermanent = "permanent-identifier" // draft-ietf-acme-device-attest, section 3
	KindHardware  = "hardware-module"      // likewise, section 4
)

// Identifier is what a certificate is to be for (section 9.7.7; RFC 8738, section 3).
type Identifier struct {
	Type  string `json:"type"`
	Value string `json:"value"`
}

// NewOrder is the body of a request for a certificate (section 7.4).
type NewOrder struct {
	Identifiers []Identifier `json:"identifiers"`
	NotBefore   string       `json:"notBefore,omitempty"`
	NotAfter    string       `json:"notAfter,omitempty"`
	Profile     string       `json:"profile,omitempty"`
	Replaces    string       `json:"replaces,omitempty"`
}

// Order is an order as the server shows it (section 7.1.3).
type Order struct {
	Status         string       `json:"status"`
	Expires        string       `json:"expires,omitempty"`
	Identifiers    []Identifier `json:"identifiers"`
	Profile        string       `json:"profile,omitempty"`
	Replaces       string       `json:"replaces,omitempty"`
	Error          *Problem     `json:"error,omitempty"`
	Authorizations []string     `json:"authorizations"`
	Finalize       string       `json:"finalize"`
	Certificate    string       `json:"certificate,omitempty"`
}

// The states of orders, authorizations, challenges and accounts (section 7.1.6).
const (
	StatusPending     = "pending"
	StatusReady       = "ready"
	StatusProcessing  = "processing"
	StatusValid       = "valid"
	StatusInvalid     = "invalid"
	StatusDeactivated = "deactivated"
	StatusExpired     = "expired"
	StatusRevoked     = "revoked"
)

// Authorization is the right to a name (section 7.1.4).
type Authorization struct {
	Identifier Identifier  `json:"identifier"`
	Status     string      `json:"status"`
	Expires    string      `json:"expires,omitempty"`
	Challenges []Challenge `json:"challenges"`
	Wildcard   bool        `json:"wildcard,omitempty"`
}

// The kinds of challenges.
const (
	HTTP01    = "http-01"
	DNS01     = "dns-01"
	TLSALPN01 = "tls-alpn-01"

	DeviceAttest01 = "device-attest-01" // draft-ietf-acme-device-attest, section 5
)

// Attestation is the body of the request that asks for the validation of device-attest-01: the CBOR of package wire/attest, base64url.
type Attestation struct {
	AttObj string `json:"attObj"`
}

// Activation is the body of a request for the certificate of a TPM's attestation key, which this project adds to ACME. The answer is an
// ActivationChallenge. All octets are base64url.
type Activation struct {
	AK           string   `json:"ak,omitempty"`           // TPMT_PUBLIC or TPM2B_PUBLIC of the attestation key
	EK           string   `json:"ek,omitempty"`           // the same of the endorsement key
	Certificates []string `json:"certificates,omitempty"` // of the endorsement key, and those above it but the root, in DER
	Profile      string   `json:"profile,omitempty"`

	// The second request, whose answer is a certificate chain, has these two and nothing else.
	Session string `json:"session,omitempty"`
	Secret  string `json:"secret,omitempty"` // what TPM2_ActivateCredential gave
}

// ActivationChallenge is what TPM2_ActivateCredential takes: TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET, base64url.
type ActivationChallenge struct {
	Session    string `json:"session"`
	Credential string `json:"credential"`
	Secret     string `json:"secret"`
	Expires    string `json:"expires"`
}

// Challenge is one way to show the right to a name (section 8).
type Challenge struct {
	Type      string   `json:"type"`
	URL       string   `json:"url"`
	Status    string   `json:"status"`
	Validated string   `json:"validated,omitempty"`
	Token     string   `json:"token,omitempty"`
	Error     *Problem `json:"error,omitempty"`
}

// Finalize is the body of a request for the certificate of an order (section 7.4): PKCS#10 in DER, base64url.
type Finalize struct {
	CSR string `json:"csr"`
}

// Revoke is the body of a request to revoke a certificate (section 7.6): its DER, base64url.
type Revoke struct {
	Certificate string `json:"certificate"`
	Reason      *int   `json:"reason,omitempty"`
}

// BirthBinding is what a device gets that connects with the certificate of its manufacturer and sends an empty POST: an external account binding for
// its account (section 7.3.4), good once.
type BirthBinding struct {
	KID     string `json:"kid"`
	Key     string `json:"hmacKey"` // base64url
	Expires string `json:"expires"`
}

// RenewalInfo says when to renew (RFC 9773, section 4.2).
type RenewalInfo struct {
	SuggestedWindow Window `json:"suggestedWindow"`
	ExplanationURL  string `json:"explanationURL,omitempty"`
}

// Window is a span of time.
type Window struct {
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
}

// ErrorPrefix begins the types of problems (section 6.7).
const ErrorPrefix = "urn:ietf:params:acme:error:"

// Problem is an error as the server tells it (section 6.7, RFC 9457).
type Problem struct {
	Type        string       `json:"type"`
	Detail      string       `json:"detail,omitempty"`
	Status      int          `json:"status,omitempty"`
	Subproblems []Subproblem `json:"subproblems,omitempty"`
	Identifier  *Identifier  `json:"identifier,omitempty"`
	Algorithms  []string     `json:"algorithms,omitempty"`
}

// Subproblem is a problem with one of several identifiers (section 6.7.1).
type Subproblem struct {
	Type       string      `json:"type"`
	Detail     string      `json:"detail,omitempty"`
	Identifier *Identifier `json:"identifier,omitempty"`
}

// KeyAuthorization ties a challenge's token to an account's key (section 8.1).
func KeyAuthorization(token string, thumbprint []byte) string {
	return token + "." + base64.RawURLEncoding.EncodeToString(thumbprint)
}

// DNSRecord is what the TXT record of a dns-01 challenge holds (section 8.4).
func DNSRecord(keyAuthorization string) string {
	sum := sha256.Sum256([]byte(keyAuthorization))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// ReverseName is the name by which the server of a tls-alpn-01 challenge is asked for an address (RFC 8738, section 6).
func ReverseName(ip netip.Addr) string {
	var b strings.Builder
	raw := ip.AsSlice()
	if ip.Is4() {
		for i := len(raw) - 1; i >= 0; i-- {
			b.WriteString(strconv.Itoa(int(raw[i])) + ".")
		}
		return b.String() + "in-addr.arpa"
	}
	const digits = "0123456789abcdef"
	for i := len(raw) - 1; i >= 0; i-- {
		b.WriteByte(digits[raw[i]&15])
		b.WriteByte('.')
		b.WriteByte(digits[raw[i]>>4])
		b.WriteByte('.')
	}
	return b.String() + "ip6.arpa"
}
