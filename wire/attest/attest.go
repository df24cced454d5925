// Package attest verifies statements of hardware about a key, as the challenge device-attest-01 of ACME carries them
// (draft-ietf-acme-device-attest-09). A statement is a CBOR map:
//
//	{"fmt": format, "attStmt": {…}, ? "authData": bytes}
//
// and says, under certificates that lead to a manufacturer's root: this key was made in, and cannot leave, the device that is called so. The formats:
//
//	step         x5c; sig, a byte string that is itself a CBOR byte string: an ECDSA signature by the leaf's key over the key authorization. The
//	             attested key is the leaf's. The serial number stands in an extension of the leaf.
//	apple        x5c, whose leaf holds SHA-256 of the challenge's token, serial number and UDID in extensions. The attested key is the leaf's.
//	tpm          ver "2.0", pubArea (TPMT_PUBLIC), certInfo (TPMS_ATTEST of TPM2_Certify), sig by the attestation key whose certificate begins x5c.
//	             The attested key is pubArea's; names stand in the attestation key's certificate.
//	android-key  x5c, whose leaf holds a KeyDescription with SHA-256 of the key authorization. The attested key is the leaf's.
//
// The CBOR is read strictly: definite lengths, no key twice, no tags, at most 8 levels, 64 kB, 8 certificates of 16 kB. Two things in "android-key"
// are not looked at, alg and sig: freshness is in the leaf itself. SHA-1 is accepted nowhere. Revocation of manufacturers' certificates is not
// looked for: what is pure cannot fetch lists.
//
// activate.go has the other half for TPMs: checking an attestation key and wrapping a secret that only the TPM with a certain endorsement key opens.
package attest

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/fxamacker/cbor/v2"

	"mooring/wire/der"
)

// The formats.
const (
	Step       = "step"
	Apple      = "apple"
	TPM        = "tpm"
	AndroidKey = "android-key"
)

// Formats returns all formats, sorted.
func Formats() []string { return []string{AndroidKey, Apple, Step, TPM} }

// The bounds of a statement.
const (
	MaxObject      = 64 << 10
	maxDepth       = 8
	maxChain       = 8
	maxCertificate = 16 << 10
)

// Object is a statement that was read and not verified.
type Object struct {
	Format string
	body   statement
}

// statement has what any format may have.
type statement struct {
	Alg      int64    `cbor:"alg"`
	Sig      []byte   `cbor:"sig"`
	X5C      [][]byte `cbor:"x5c"`
	Ver      string   `cbor:"ver"`
	CertInfo []byte   `cbor:"certInfo"`
	PubArea  []byte   `cbor:"pubArea"`
}

// Parse reads the CBOR of a statement.
func Parse(object []byte) (*Object, error) {
	if len(object) > MaxObject {
		return nil, fmt.Errorf("the attestation object has more than %d octets", MaxObject)
	}
	mode, err := cbor.DecOptions{DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden, MaxNestedLevels: maxDepth,
		MaxArrayElements: 64, MaxMapPairs: 64, FieldNameMatching: cbor.FieldNameMatchingCaseSensitive}.DecMode()
	if err != nil {
		return nil, err
	}
	var outer struct {
		Format    string          `cbor:"fmt"`
		Statement cbor.RawMessage `cbor:"attStmt"`
		AuthData  []byte          `cbor:"authData"`
	}
	if err := mode.Unmarshal(object, &outer); err != nil {
		return nil, fmt.Errorf("the attestation object is not the CBOR that it must be: %w", err)
	}
	if outer.Format == "" || len(outer.Statement) == 0 {
		return nil, errors.New("the attestation object lacks fmt or attStmt")
	}
	o := &Object{Format: outer.Format}
	if !slices.Contains(Formats(), o.Format) {
		return nil, fmt.Errorf("statements of the format %.40q are not supported; use one of %v", o.Format, Formats())
	}
	if err := mode.Unmarshal(outer.Statement, &o.body); err != nil {
		return nil, fmt.Errorf("the attestation statement is not the CBOR that it must be: %w", err)
	}
	if n := len(o.body.X5C); n == 0 || n > maxChain {
		return nil, fmt.Errorf("the statement has %d certificates in x5c; 1 to %d are allowed", n, maxChain)
	}
	for _, raw := range o.body.X5C {
		if len(raw) > maxCertificate {
			return nil, fmt.Errorf("a certificate in x5c has more than %d octets", maxCertificate)
		}
	}
	return o, nil
}

// Check is what a statement is held to.
type Check struct {
	Roots            *x509.CertPool // of the format; nil: nobody is trusted
	Token            string         // of the challenge
	KeyAuthorization string
	Now              time.Time
}

// Result is what a statement shows.
type Result struct {
	Key        crypto.PublicKey
	SPKI       []byte // of Key, DER
	Permanent  []string
	Hardware   []Hardware
	Serial     string              // as the format has it: text, or a decimal number; "" = it does not say
	UDID       string              // apple
	Chain      []*x509.Certificate // from the leaf to the root
	KeyIsLeafs bool                // Key is that of the first certificate, rather than one that it vouches for
}

// Hardware is a hardwareModuleName (RFC 4108, section 5).
type Hardware struct {
	Type   der.OID
	Serial []byte
}

// IsPermanent reports whether the statement calls the device so: by a permanentIdentifier (RFC 4043), or by the serial number or UDID in it.
func (r *Result) IsPermanent(name string) bool {
	return name != "" && (slices.Contains(r.Permanent, name) || r.Serial == name || r.UDID == name)
}

// HardwareOf returns the hardware module whose serial number, as text or in hexadecimal digits, is serial.
func (r *Result) HardwareOf(serial string) (Hardware, bool) {
	for _, h := range r.Hardware {
		if serial != "" && (string(h.Serial) == serial || hex.EncodeToString(h.Serial) == serial) {
			return h, true
		}
	}
	return Hardware{}, false
}

// Verify holds the statement to c.
func (o *Object) Verify(c Check) (*Result, error) {
	chain, err := o.chain()
	if err != nil {
		return nil, err
	}
	r := &Result{Key: chain[0].PublicKey, SPKI: chain[0].RawSubjectPublicKeyInfo, KeyIsLeafs: true}
	if r.Permanent, r.Hardware, err = names(chain[0]); err != nil {
		return nil, err
	}
	switch o.Format {
	case Step:
		err = o.step(chain[0], &c, r)
	case Apple:
		err = apple(chain[0], &c, r)
	case TPM:
		err = o.tpm(chain[0], &c, r)
	case AndroidKey:
		err = android(chain, &c, r)
	default:
		err = fmt.Errorf("statements of the format %.40q are not supported", o.Format)
	}
	if err != nil {
		return nil, err
	}
	if r.Chain, err = Lead(chain, c.Roots, c.Now); err != nil {
		return nil, err
	}
	if err := der.CheckKey(r.Key); err != nil {
		return nil, fmt.Errorf("the attested key is not acceptable: %w", err)
	}
	return r, nil
}

func (o *Object) chain() ([]*x509.Certificate, error) {
	chain := make([]*x509.Certificate, len(o.body.X5C))
	for i, raw := range o.body.X5C {
		var err error
		if chain[i], err = x509.ParseCertificate(raw); err != nil {
			return nil, fmt.Errorf("certificate %d of x5c cannot be read: %w", i+1, err)
		}
	}
	return chain, nil
}

// Lead finds the way from the first certificate over the others to one of roots. A critical subjectAltName is let pass: names of kinds that
// crypto/x509 does not know are read by this package.
func Lead(chain []*x509.Certificate, roots *x509.CertPool, now time.Time) ([]*x509.Certificate, error) {
	if roots == nil {
		return nil, errors.New("no root is trusted for this")
	}
	leaf := *chain[0]
	leaf.UnhandledCriticalExtensions = nil
	for _, id := range chain[0].UnhandledCriticalExtensions {
		if id.String() != oidAltNames {
			leaf.UnhandledCriticalExtensions = append(leaf.UnhandledCriticalExtensions, id)
		}
	}
	ways, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: der.Intermediates(chain[1:]), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return nil, fmt.Errorf("the certificates do not lead to a trusted root: %w", err)
	}
	return ways[0], nil
}

func digest(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return sum[:]
}
