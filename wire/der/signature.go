package der

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"errors"
	"fmt"

	"filippo.io/mldsa"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// SignatureAlgorithm is one of the algorithms that Mooring signs with or accepts. The zero value is none.
type SignatureAlgorithm uint8

// The algorithms (RFC 5758, RFC 8410, RFC 4055, RFC 9881). The RSA-PSS ones have the salt length of their hash and MGF1
// with the same hash.
const (
	ECDSAWithSHA256 SignatureAlgorithm = iota + 1
	ECDSAWithSHA384
	ECDSAWithSHA512
	PureEd25519
	RSAWithSHA256
	RSAWithSHA384
	RSAWithSHA512
	RSAPSSWithSHA256
	RSAPSSWithSHA384
	RSAPSSWithSHA512
	PureMLDSA44
	PureMLDSA65
	lastAlgorithm = PureMLDSA65
)

// ErrSignature is the error of a signature that does not match the key and the bytes.
var ErrSignature = errors.New("the signature does not match")

// Finished AlgorithmIdentifiers. ECDSA, Ed25519 and ML-DSA have no parameters, RSA PKCS#1 v1.5 has NULL.
const (
	rsaPrefix  = "\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01"
	hashPrefix = "\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02"
	pssPrefix  = "\x30\x41\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a\x30\x34\xa0\x0f" + hashPrefix
	pssMiddle  = "\x05\x00\xa1\x1c\x30\x1a\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x08" + hashPrefix
	pssSuffix  = "\x05\x00\xa2\x03\x02\x01"
)

// identifier is the DER AlgorithmIdentifier; empty for no algorithm.
func (a SignatureAlgorithm) identifier() string {
	switch a {
	case ECDSAWithSHA256:
		return "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02"
	case ECDSAWithSHA384:
		return "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03"
	case ECDSAWithSHA512:
		return "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x04"
	case PureEd25519:
		return "\x30\x05\x06\x03\x2b\x65\x70"
	case RSAWithSHA256:
		return rsaPrefix + "\x0b\x05\x00"
	case RSAWithSHA384:
		return rsaPrefix + "\x0c\x05\x00"
	case RSAWithSHA512:
		return rsaPrefix + "\x0d\x05\x00"
	case RSAPSSWithSHA256:
		return pssPrefix + "\x01" + pssMiddle + "\x01" + pssSuffix + "\x20"
	case RSAPSSWithSHA384:
		return pssPrefix + "\x02" + pssMiddle + "\x02" + pssSuffix + "\x30"
	case RSAPSSWithSHA512:
		return pssPrefix + "\x03" + pssMiddle + "\x03" + pssSuffix + "\x40"
	case PureMLDSA44:
		return mldsaPrefix + "\x11"
	case PureMLDSA65:
		return mldsaPrefix + "\x12"
	}
	return ""
}

// Identifier is the finished DER AlgorithmIdentifier, in a fresh slice.
func (a SignatureAlgorithm) Identifier() []byte { return []byte(a.identifier()) }

// String is the name used in messages and records.
func (a SignatureAlgorithm) String() string {
	switch a {
	case ECDSAWithSHA256:
		return "ecdsa-sha256"
	case ECDSAWithSHA384:
		return "ecdsa-sha384"
	case ECDSAWithSHA512:
		return "ecdsa-sha512"
	case PureEd25519:
		return "ed25519"
	case RSAWithSHA256:
		return "rsa-sha256"
	case RSAWithSHA384:
		return "rsa-sha384"
	case RSAWithSHA512:
		return "rsa-sha512"
	case RSAPSSWithSHA256:
		return "rsa-pss-sha256"
	case RSAPSSWithSHA384:
		return "rsa-pss-sha384"
	case RSAPSSWithSHA512:
		return "rsa-pss-sha512"
	case PureMLDSA44:
		return "ml-dsa-44"
	case PureMLDSA65:
		return "ml-dsa-65"
	}
	return "none"
}

// Hash is the hash whose digest is signed; 0 for Ed25519 and ML-DSA, which sign the message itself. It is the options
// argument of crypto.Signer for all but RSA-PSS, which needs rsa.PSSOptions with this hash and
// rsa.PSSSaltLengthEqualsHash.
func (a SignatureAlgorithm) Hash() crypto.Hash {
	switch a {
	case ECDSAWithSHA256, RSAWithSHA256, RSAPSSWithSHA256:
		return crypto.SHA256
	case ECDSAWithSHA384, RSAWithSHA384, RSAPSSWithSHA384:
		return crypto.SHA384
	case ECDSAWithSHA512, RSAWithSHA512, RSAPSSWithSHA512:
		return crypto.SHA512
	}
	return 0
}

// Digest is what a signer is given for message: its hash, or for Ed25519 and ML-DSA message itself.
func (a SignatureAlgorithm) Digest(message []byte) []byte {
	switch a.Hash() {
	case crypto.SHA256:
		sum := sha256.Sum256(message)
		return sum[:]
	case crypto.SHA384:
		sum := sha512.Sum384(message)
		return sum[:]
	case crypto.SHA512:
		sum := sha512.Sum512(message)
		return sum[:]
	}
	return message
}

// AlgorithmFor is the algorithm with which Mooring signs with the private half of pub: ECDSA with the hash of the
// curve's strength, Ed25519, RSA PKCS#1 v1.5 with SHA-256, ML-DSA with the empty context.
func AlgorithmFor(pub crypto.PublicKey) (SignatureAlgorithm, error) {
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		switch pub.Curve {
		case elliptic.P256():
			return ECDSAWithSHA256, nil
		case elliptic.P384():
			return ECDSAWithSHA384, nil
		case elliptic.P521():
			return ECDSAWithSHA512, nil
		}
	case ed25519.PublicKey:
		return PureEd25519, nil
	case *rsa.PublicKey:
		return RSAWithSHA256, nil
	case *mldsa.PublicKey:
		if a := mldsaAlgorithm(pub); a != 0 {
			return a, nil
		}
	}
	return 0, fmt.Errorf("no signature algorithm for public keys of type %T", pub)
}

// ParseSignatureAlgorithm reads a DER AlgorithmIdentifier. Absent parameters are accepted for RSA PKCS#1 v1.5
// (RFC 4055, section 5). MD5 and SHA-1 are refused by name.
func ParseSignatureAlgorithm(der []byte) (SignatureAlgorithm, error) {
	for a := ECDSAWithSHA256; a <= lastAlgorithm; a++ {
		if string(der) == a.identifier() {
			return a, nil
		}
	}
	s, err := whole(der, asn1.SEQUENCE, "signature algorithm")
	if err != nil {
		return 0, err
	}
	id, ok := readOID(&s)
	if !ok {
		return 0, malformed("signature algorithm")
	}
	for a := RSAWithSHA256; a <= RSAWithSHA512 && s.Empty(); a++ {
		if a.identifier()[4:13] == string(id) {
			return a, nil
		}
	}
	switch id.String() {
	case "1.2.840.113549.1.1.4":
		return 0, errors.New("signature with MD5; use SHA-256")
	case "1.2.840.113549.1.1.5", "1.2.840.10045.4.1":
		return 0, errors.New("signature with SHA-1; use SHA-256")
	}
	return 0, fmt.Errorf("unsupported signature algorithm %s, or unsupported parameters for it", id)
}

// Verify checks a signature over message. It returns ErrSignature if it does not match, and another error if the
// algorithm does not go with the kind of key.
func (a SignatureAlgorithm) Verify(pub crypto.PublicKey, message, signature []byte) error {
	var ok bool
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		if a < ECDSAWithSHA256 || a > ECDSAWithSHA512 {
			return fmt.Errorf("signature algorithm %s with an EC key", a)
		}
		ok = a.verifyECDSA(pub, message, signature)
	case ed25519.PublicKey:
		if a != PureEd25519 {
			return fmt.Errorf("signature algorithm %s with an Ed25519 key", a)
		}
		ok = len(pub) == ed25519.PublicKeySize && ed25519.Verify(pub, message, signature)
	case *rsa.PublicKey:
		switch {
		case a >= RSAWithSHA256 && a <= RSAWithSHA512:
			ok = rsa.VerifyPKCS1v15(pub, a.Hash(), a.Digest(message), signature) == nil
		case a >= RSAPSSWithSHA256 && a <= RSAPSSWithSHA512:
			options := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}
			ok = rsa.VerifyPSS(pub, a.Hash(), a.Digest(message), signature, options) == nil
		default:
			return fmt.Errorf("signature algorithm %s with an RSA key", a)
		}
	case *mldsa.PublicKey:
		if a == 0 || a != mldsaAlgorithm(pub) {
			return fmt.Errorf("signature algorithm %s with an %s key", a, pub.Parameters())
		}
		ok = mldsa.Verify(pub, message, signature, nil) == nil
	default:
		return fmt.Errorf("unsupported public key of type %T", pub)
	}
	if !ok {
		return ErrSignature
	}
	return nil
}

func (a SignatureAlgorithm) verifyECDSA(pub *ecdsa.PublicKey, message, signature []byte) bool {
	if a == ECDSAWithSHA256 { // without Digest, whose result would have to live on the heap
		sum := sha256.Sum256(message)
		return ecdsa.VerifyASN1(pub, sum[:], signature)
	}
	return ecdsa.VerifyASN1(pub, a.Digest(message), signature)
}

// CheckCertificate verifies the signature on cert by the key of its issuer, whatever the kind of key; of ML-DSA too,
// which crypto/x509 cannot check before Go 1.27. It looks at nothing else: names, usages, times are the caller's matter.
func CheckCertificate(cert *x509.Certificate, issuer crypto.PublicKey) error {
	tbs, algorithm, signature, err := readSigned(cert.Raw, "certificate")
	if err != nil {
		return err
	}
	return algorithm.Verify(issuer, tbs, signature)
}

// Intermediates is what a stranger sent besides his own certificate, for the search of a path to a root by crypto/x509. Certificates whose keys CheckKey
// refuses are left out: that search verifies by any of them, however long it takes.
func Intermediates(certs []*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, cert := range certs {
		if CheckKey(cert.PublicKey) == nil {
			pool.AddCert(cert)
		}
	}
	return pool
}

// readSigned splits the structure that Wrap writes.
func readSigned(in []byte, what string) (tbs []byte, algorithm SignatureAlgorithm, signature []byte, err error) {
	outer, err := whole(in, asn1.SEQUENCE, what)
	if err != nil {
		return nil, 0, nil, err
	}
	var body, id cryptobyte.String
	if !outer.ReadASN1Element(&body, asn1.SEQUENCE) || !outer.ReadASN1Element(&id, asn1.SEQUENCE) ||
		!outer.ReadASN1BitStringAsBytes(&signature) || !outer.Empty() {
		return nil, 0, nil, malformed(what)
	}
	if algorithm, err = ParseSignatureAlgorithm(id); err != nil {
		return nil, 0, nil, err
	}
	return body, algorithm, signature, nil
}
