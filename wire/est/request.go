package est

import (
	"bytes"
	"encoding/asn1"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Attributes of a certification request that choose how a key made by the server is encrypted for its device
// (RFC 7030, section 4.4.1).
var (
	// OIDDecryptKeyID names a symmetric key that both sides share (RFC 4108, section 2.2.5).
	OIDDecryptKeyID = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 37}
	// OIDAsymmetricDecryptKeyID names a key pair of the device (RFC 7030, section 4.4.1.2).
	OIDAsymmetricDecryptKeyID = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 54}
	// OIDSMIMECapabilities lists the algorithms that the device can decrypt (RFC 8551, section 2.5.2).
	OIDSMIMECapabilities = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 15}
)

// Bounds for values that a stranger sends.
const (
	maxKeyID        = 256
	maxCapabilities = 32
	maxChallenge    = 255
)

// Capability is one entry of SMIMECapabilities.
type Capability struct {
	Algorithm asn1.ObjectIdentifier
	// Parameters is the DER encoding of the parameters, or nil.
	Parameters []byte
}

// ParseDecryptKeyID reads the value of a DecryptKeyIdentifier attribute: the identifier of a shared key, which becomes
// the kekid of the answer. The identifier has 1 to 256 bytes.
func ParseDecryptKeyID(value []byte) ([]byte, error) {
	return parseKeyID(value, "DecryptKeyIdentifier")
}

// ParseAsymmetricDecryptKeyID reads the value of an AsymmetricDecryptKeyIdentifier attribute: the identifier of a key
// pair of the device. The identifier has 1 to 256 bytes.
func ParseAsymmetricDecryptKeyID(value []byte) ([]byte, error) {
	return parseKeyID(value, "AsymmetricDecryptKeyIdentifier")
}

func parseKeyID(value []byte, name string) ([]byte, error) {
	s := cryptobyte.String(value)
	var id cryptobyte.String
	if !s.ReadASN1(&id, cbasn1.OCTET_STRING) || !s.Empty() || len(id) == 0 || len(id) > maxKeyID {
		return nil, fmt.Errorf("%s is not an OCTET STRING of 1 to %d bytes", name, maxKeyID)
	}
	return bytes.Clone(id), nil
}

// ParseSMIMECapabilities reads the value of an SMIMECapabilities attribute: at most 32 algorithms, best first.
func ParseSMIMECapabilities(value []byte) ([]Capability, error) {
	s := cryptobyte.String(value)
	var list cryptobyte.String
	if !s.ReadASN1(&list, cbasn1.SEQUENCE) || !s.Empty() {
		return nil, errors.New("SMIMECapabilities is not a DER SEQUENCE")
	}
	var capabilities []Capability
	for !list.Empty() {
		var entry cryptobyte.String
		var c Capability
		if len(capabilities) == maxCapabilities || !list.ReadASN1(&entry, cbasn1.SEQUENCE) ||
			!entry.ReadASN1ObjectIdentifier(&c.Algorithm) || !readOptional(&entry, &c.Parameters) {
			return nil, fmt.Errorf("SMIMECapabilities is broken or has more than %d entries", maxCapabilities)
		}
		capabilities = append(capabilities, c)
	}
	return capabilities, nil
}

// ParseChallengePassword reads the value of a challengePassword attribute: a PrintableString, UTF8String or IA5String
// of 1 to 255 bytes. Clients send the first two.
func ParseChallengePassword(value []byte) (string, error) {
	s := cryptobyte.String(value)
	var text cryptobyte.String
	var tag cbasn1.Tag
	if !s.ReadAnyASN1(&text, &tag) || !s.Empty() || len(text) == 0 || len(text) > maxChallenge {
		return "", fmt.Errorf("challengePassword is not one string of 1 to %d bytes", maxChallenge)
	}
	switch tag {
	case cbasn1.PrintableString, cbasn1.UTF8String, cbasn1.IA5String:
		return string(text), nil
	}
	return "", errors.New("challengePassword is neither PrintableString, UTF8String nor IA5String")
}
