// Package ocsp reads and writes the messages of the Online Certificate Status Protocol.
//
// Standards: RFC 6960 (OCSP), RFC 5019 (profile for many clients), RFC 9654 (nonces). In short:
//
//	OCSPRequest  ::= SEQUENCE { tbsRequest TBSRequest, optionalSignature [0] EXPLICIT Signature OPTIONAL }
//	TBSRequest   ::= SEQUENCE { version [0] EXPLICIT DEFAULT v1, requestorName [1] EXPLICIT GeneralName OPTIONAL,
//	                            requestList SEQUENCE OF Request, requestExtensions [2] EXPLICIT Extensions OPTIONAL }
//	Request      ::= SEQUENCE { reqCert CertID, singleRequestExtensions [0] EXPLICIT Extensions OPTIONAL }
//	CertID       ::= SEQUENCE { hashAlgorithm, issuerNameHash OCTET STRING, issuerKeyHash OCTET STRING, serialNumber INTEGER }
//
//	OCSPResponse ::= SEQUENCE { responseStatus ENUMERATED, responseBytes [0] EXPLICIT SEQUENCE {
//	                            responseType OID, response OCTET STRING (BasicOCSPResponse) } OPTIONAL }
//	BasicOCSPResponse ::= SEQUENCE { tbsResponseData ResponseData, signatureAlgorithm, signature BIT STRING,
//	                                 certs [0] EXPLICIT SEQUENCE OF Certificate OPTIONAL }
//
// A responder parses a request, finds out with Issuer which of its CAs each CertID means, makes the bytes to sign with
// AppendTBSResponse, signs them, and answers with WrapResponse; what it cannot answer gets an ErrorResponse, which is
// unsigned. A client writes a request with AppendRequest, reads the answer with ParseResponse and checks its signature.
//
// It deliberately does not judge: neither whether an answer is fresh, nor whether the certificate of a delegated signer
// may speak for the issuer. Signatures of requests are noticed and not verified.
package ocsp

import (
	"crypto"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"mooring/wire/der"
)

// Bounds of what is read.
const (
	MaxRequest  = 8 << 10  // octets of a request
	MaxResponse = 64 << 10 // octets of a response
	MaxCertIDs  = 32       // certificates in one message
	MaxNonce    = 128      // octets of a nonce (RFC 9654, section 2.1)
	maxCerts    = 8        // certificates that come with a response
)

// Object identifiers below id-pkix-ocsp.
const (
	oidBasic             der.OID = "\x2b\x06\x01\x05\x05\x07\x30\x01\x01"
	oidNonce             der.OID = "\x2b\x06\x01\x05\x05\x07\x30\x01\x02"
	oidAcceptable        der.OID = "\x2b\x06\x01\x05\x05\x07\x30\x01\x04"
	oidServiceLocator    der.OID = "\x2b\x06\x01\x05\x05\x07\x30\x01\x07"
	oidPreferredSignings der.OID = "\x2b\x06\x01\x05\x05\x07\x30\x01\x08"
	oidExtendedRevoke    der.OID = "\x2b\x06\x01\x05\x05\x07\x30\x01\x09"
)

// Content octets of the hash algorithms' identifiers.
const (
	oidSHA1   = "\x2b\x0e\x03\x02\x1a"
	oidSHA256 = "\x60\x86\x48\x01\x65\x03\x04\x02\x01"
	oidSHA384 = "\x60\x86\x48\x01\x65\x03\x04\x02\x02"
	oidSHA512 = "\x60\x86\x48\x01\x65\x03\x04\x02\x03"
)

// Identifier octets used when writing.
const (
	tagNull        = 0x05
	tagInteger     = 0x02
	tagBitString   = 0x03
	tagOctetString = 0x04
	tagEnum        = 0x0a
	tagSequence    = 0x30
	tagPrimitive   = 0x80 // + number
	tagConstructed = 0xa0 // + number
)

// explicit is the tag with which [n] EXPLICIT is read.
func explicit(n uint8) asn1.Tag { return asn1.Tag(n).ContextSpecific().Constructed() }

func malformed(what string) error { return errors.New("malformed " + what) }

// CertID names a certificate by hashes of its issuer's name and key and by its serial number. Two CertIDs with
// different hash algorithms may mean the same certificate; ask Issuer.
type CertID struct {
	Hash     crypto.Hash // SHA1, SHA256, SHA384 or SHA512
	NameHash []byte
	KeyHash  []byte
	Serial   []byte // content octets of the INTEGER
	Raw      []byte // the whole CertID as it was asked, which the answer repeats
}

func readCertID(s *cryptobyte.String) (CertID, error) {
	var raw, body, algorithm, serial, name, key cryptobyte.String
	if !s.ReadASN1Element(&raw, asn1.SEQUENCE) {
		return CertID{}, malformed("CertID")
	}
	inner := raw
	if !inner.ReadASN1(&body, asn1.SEQUENCE) || !body.ReadASN1(&algorithm, asn1.SEQUENCE) ||
		!body.ReadASN1(&name, asn1.OCTET_STRING) || !body.ReadASN1(&key, asn1.OCTET_STRING) ||
		!body.ReadASN1(&serial, asn1.INTEGER) || !body.Empty() {
		return CertID{}, malformed("CertID")
	}
	hash, err := readHash(algorithm)
	if err != nil {
		return CertID{}, err
	}
	if len(name) != hash.Size() || len(key) != hash.Size() {
		return CertID{}, errors.New("CertID with hashes of another length than its hash algorithm has")
	}
	// Zero and negative numbers are let through: no certificate has them, so the answer will be unknown.
	if len(serial) == 0 || len(serial) > 20 || (len(serial) > 1 && (serial[0] == 0 && serial[1] < 0x80 || serial[0] == 0xff && serial[1] >= 0x80)) {
		return CertID{}, errors.New("CertID with a serial number that is not minimal or has more than 20 octets")
	}
	return CertID{hash, name, key, serial, raw}, nil
}

// readHash takes the content of the AlgorithmIdentifier; parameters may be NULL or absent.
func readHash(s cryptobyte.String) (crypto.Hash, error) {
	var id, null cryptobyte.String
	if !s.ReadASN1(&id, asn1.OBJECT_IDENTIFIER) || (!s.Empty() && (!s.ReadASN1(&null, asn1.NULL) || !null.Empty() || !s.Empty())) {
		return 0, malformed("hash algorithm")
	}
	switch string(id) {
	case oidSHA1:
		return crypto.SHA1, nil
	case oidSHA256:
		return crypto.SHA256, nil
	case oidSHA384:
		return crypto.SHA384, nil
	case oidSHA512:
		return crypto.SHA512, nil
	}
	return 0, errors.New("CertID with an unsupported hash algorithm; use SHA-1 or SHA-256")
}

// Issuer recognises and makes the CertIDs of certificates that one CA key issued. It is immutable.
type Issuer struct {
	hashes map[crypto.Hash]issuerHash
}

type issuerHash struct{ name, key []byte }

// NewIssuer takes the DER subject name and the SubjectPublicKeyInfo of the issuer's certificate, octet by octet.
func NewIssuer(subject, spki []byte) (*Issuer, error) {
	bits, err := der.KeyBits(spki)
	if err != nil {
		return nil, fmt.Errorf("reading the issuer's key: %w", err)
	}
	i := &Issuer{map[crypto.Hash]issuerHash{}}
	for _, hash := range []crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		i.hashes[hash] = issuerHash{digest(hash, subject), digest(hash, bits)}
	}
	return i, nil
}

func digest(hash crypto.Hash, data []byte) []byte {
	switch hash {
	case crypto.SHA1:
		sum := sha1.Sum(data)
		return sum[:]
	case crypto.SHA256:
		sum := sha256.Sum256(data)
		return sum[:]
	case crypto.SHA384:
		sum := sha512.Sum384(data)
		return sum[:]
	}
	sum := sha512.Sum512(data)
	return sum[:]
}

// Issued reports whether the CertID speaks of a certificate of this issuer.
func (i *Issuer) Issued(id CertID) bool {
	own, ok := i.hashes[id.Hash]
	return ok && subtle.ConstantTimeCompare(own.name, id.NameHash) == 1 && subtle.ConstantTimeCompare(own.key, id.KeyHash) == 1
}

// KeyHash is the SHA-1 of the issuer's key, by which a response names its signer (ResponderID byKey).
func (i *Issuer) KeyHash() [20]byte { return [20]byte(i.hashes[crypto.SHA1].key) }

// CertID names the certificate with the serial number (content octets), by SHA1, SHA256, SHA384 or SHA512.
func (i *Issuer) CertID(hash crypto.Hash, serial []byte) (CertID, error) {
	own, ok := i.hashes[hash]
	if !ok {
		return CertID{}, fmt.Errorf("no CertID by %s", hash)
	}
	if err := der.CheckSerial(serial); err != nil {
		return CertID{}, err
	}
	algorithm := append(der.OID(hashOID(hash)).Append(nil), tagNull, 0)
	body := der.AppendElement(nil, tagSequence, algorithm)
	body = der.AppendElement(body, tagOctetString, own.name)
	body = der.AppendElement(body, tagOctetString, own.key)
	body = der.AppendElement(body, tagInteger, serial)
	return CertID{hash, own.name, own.key, serial, der.AppendElement(nil, tagSequence, body)}, nil
}

func hashOID(hash crypto.Hash) string {
	switch hash {
	case crypto.SHA1:
		return oidSHA1
	case crypto.SHA256:
		return oidSHA256
	case crypto.SHA384:
		return oidSHA384
	}
	return oidSHA512
}
