package attest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"

	"github.com/fxamacker/cbor/v2"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"mooring/wire/der"
)

// Extensions that formats look at.
const (
	oidAltNames      = "2.5.29.17"
	oidYubicoSerial  = "1.3.6.1.4.1.41482.3.7"     // INTEGER
	oidAppleNonce    = "1.2.840.113635.100.8.11.1" // the digest, bare or in an OCTET STRING
	oidAppleSerial   = "1.2.840.113635.100.8.9.1"  // text, bare or in a string
	oidAppleUDID     = "1.2.840.113635.100.8.9.2"  // likewise
	oidKeyAttest     = "1.3.6.1.4.1.11129.2.1.17"  // KeyDescription
	oidAttestKey     = "2.23.133.8.3"              // extended key usage tcg-kp-AIKCertificate
	coseES256        = -7
	coseEdDSA        = -8
	coseRS256        = -257
	maxAndroidSerial = 64
)

func extension(c *x509.Certificate, id string) ([]byte, bool) {
	for _, e := range c.Extensions {
		if e.Id.String() == id {
			return e.Value, true
		}
	}
	return nil, false
}

// step verifies what step's client makes of a YubiKey's attestation.
func (o *Object) step(leaf *x509.Certificate, c *Check, r *Result) error {
	var sig []byte
	if err := cbor.Unmarshal(o.body.Sig, &sig); err != nil {
		return errors.New("sig is not a byte string that holds a CBOR byte string")
	}
	if err := verify(leaf.PublicKey, o.body.Alg, []byte(c.KeyAuthorization), sig); err != nil {
		return fmt.Errorf("the signature over the key authorization: %w", err)
	}
	if raw, ok := extension(leaf, oidYubicoSerial); ok {
		var n *big.Int
		if rest, err := asn1.Unmarshal(raw, &n); err != nil || len(rest) > 0 || n.Sign() < 0 {
			return errors.New("the extension with the serial number is not an INTEGER")
		}
		r.Serial = n.String()
	}
	return nil
}

// verify checks a signature of a COSE algorithm (RFC 9053).
func verify(key crypto.PublicKey, alg int64, message, sig []byte) error {
	sum := sha256.Sum256(message)
	good := false
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		good = alg == coseES256 && ecdsa.VerifyASN1(key, sum[:], sig)
	case ed25519.PublicKey:
		good = alg == coseEdDSA && ed25519.Verify(key, message, sig)
	case *rsa.PublicKey:
		good = alg == coseRS256 && key.N.BitLen() <= 4096 && rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], sig) == nil
	}
	if !good {
		return fmt.Errorf("it does not verify by the algorithm %d", alg)
	}
	return nil
}

func apple(leaf *x509.Certificate, c *Check, r *Result) error {
	nonce, ok := extension(leaf, oidAppleNonce)
	if !ok {
		return errors.New("the statement has no freshness code")
	}
	want := digest(c.Token)
	if !bytes.Equal(nonce, want) && !bytes.Equal(nonce, append([]byte{asn1.TagOctetString, sha256.Size}, want...)) {
		return errors.New("the statement was made for another challenge")
	}
	if raw, ok := extension(leaf, oidAppleSerial); ok {
		r.Serial = bare(raw)
	}
	if raw, ok := extension(leaf, oidAppleUDID); ok {
		r.UDID = bare(raw)
	}
	return nil
}

// bare returns text that may stand in a string of DER. No printable text begins like one.
func bare(raw []byte) string {
	var s string
	if rest, err := asn1.Unmarshal(raw, &s); err == nil && len(rest) == 0 {
		return s
	}
	return string(raw)
}

// keyDescription is the extension of Android's key attestation.
type keyDescription struct {
	Version       int
	SecurityLevel asn1.Enumerated
	MintVersion   int
	MintLevel     asn1.Enumerated
	Challenge     []byte
	UniqueID      []byte
	Software      asn1.RawValue
	Hardware      asn1.RawValue
}

// Numbers in an AuthorizationList.
const (
	tagPurpose    = 1
	tagOrigin     = 702
	tagSerial     = 713
	purposeSign   = 2
	levelTEE      = 1
	levelStrong   = 2
	originMade    = 0
	classSpecific = asn1.ClassContextSpecific
)

func android(chain []*x509.Certificate, c *Check, r *Result) error {
	raw, ok := extension(chain[0], oidKeyAttest)
	if !ok {
		return errors.New("the certificate has no description of the key")
	}
	for _, above := range chain[1:] {
		if _, ok := extension(above, oidKeyAttest); ok { // an attested key vouches for another one, which it may not
			return errors.New("more than one certificate has a description of a key")
		}
	}
	var d keyDescription
	if rest, err := asn1.Unmarshal(raw, &d); err != nil || len(rest) > 0 || d.Hardware.Tag != asn1.TagSequence || d.Hardware.Class != asn1.ClassUniversal {
		return errors.New("the description of the key cannot be read")
	}
	if !bytes.Equal(d.Challenge, digest(c.KeyAuthorization)) {
		return errors.New("the statement was made for another challenge")
	}
	for _, level := range []asn1.Enumerated{d.SecurityLevel, d.MintLevel} {
		if level != levelTEE && level != levelStrong {
			return errors.New("the key is kept by software, not by trusted hardware")
		}
	}
	return hardwareList(d.Hardware.Bytes, r)
}

// hardwareList looks at what the hardware enforces: the key signs, and was made there.
func hardwareList(list []byte, r *Result) error {
	signs, made := false, false
	for len(list) > 0 {
		var field asn1.RawValue
		var err error
		if list, err = asn1.Unmarshal(list, &field); err != nil || field.Class != classSpecific {
			return errors.New("the description of the key cannot be read")
		}
		switch field.Tag {
		case tagPurpose:
			var purposes []int
			if rest, err := asn1.UnmarshalWithParams(field.Bytes, &purposes, "set"); err != nil || len(rest) > 0 {
				return errors.New("the key's purposes cannot be read")
			}
			for _, p := range purposes {
				signs = signs || p == purposeSign
			}
		case tagOrigin:
			var origin int
			rest, err := asn1.Unmarshal(field.Bytes, &origin)
			made = err == nil && len(rest) == 0 && origin == originMade
		case tagSerial:
			var serial []byte
			if rest, err := asn1.Unmarshal(field.Bytes, &serial); err != nil || len(rest) > 0 || len(serial) > maxAndroidSerial {
				return errors.New("the device's serial number cannot be read")
			}
			r.Serial = string(serial)
		}
	}
	switch {
	case !signs:
		return errors.New("the key is not for signing")
	case !made:
		return errors.New("the key was not made in the hardware, or it does not say so")
	}
	return nil
}

// names reads permanent identifiers and hardware modules among a certificate's alternative names; names of other kinds are passed over.
func names(c *x509.Certificate) (permanent []string, hardware []Hardware, err error) {
	raw, ok := extension(c, oidAltNames)
	if !ok {
		return nil, nil, nil
	}
	bad := errors.New("the certificate's alternative names cannot be read")
	in := cryptobyte.String(raw)
	var list cryptobyte.String
	if !in.ReadASN1(&list, cbasn1.SEQUENCE) || !in.Empty() {
		return nil, nil, bad
	}
	for !list.Empty() {
		var name, value, content cryptobyte.String
		var tag cbasn1.Tag
		if !list.ReadAnyASN1(&name, &tag) {
			return nil, nil, bad
		}
		if tag != cbasn1.Tag(0).ContextSpecific().Constructed() {
			continue
		}
		var id asn1.ObjectIdentifier
		if !name.ReadASN1ObjectIdentifier(&id) || !name.ReadASN1(&value, cbasn1.Tag(0).ContextSpecific().Constructed()) || !name.Empty() {
			return nil, nil, bad
		}
		switch id.String() {
		case der.OIDPermanentIdentifier.String():
			var text cryptobyte.String
			if !value.ReadASN1(&content, cbasn1.SEQUENCE) || !value.Empty() {
				return nil, nil, bad
			}
			if content.ReadASN1(&text, cbasn1.UTF8String) && len(text) > 0 { // both parts are optional (RFC 4043, section 2)
				permanent = append(permanent, string(text))
			}
		case der.OIDHardwareModuleName.String():
			var serial cryptobyte.String
			var kind asn1.ObjectIdentifier
			if !value.ReadASN1(&content, cbasn1.SEQUENCE) || !value.Empty() || !content.ReadASN1ObjectIdentifier(&kind) || !content.ReadASN1(&serial, cbasn1.OCTET_STRING) || !content.Empty() {
				return nil, nil, bad
			}
			t, err := der.ParseOID(kind.String())
			if err != nil {
				return nil, nil, bad
			}
			hardware = append(hardware, Hardware{Type: t, Serial: serial})
		}
	}
	return permanent, hardware, nil
}
