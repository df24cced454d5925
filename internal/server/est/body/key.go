package body

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"

	"mooring/internal/base/errs"
	"mooring/wire/cms"
	"mooring/wire/der"
	"mooring/wire/est"
)

// Sealing says for whom and how a key that was made here is encrypted.
type Sealing struct {
	key    cms.Recipient
	cipher cms.Cipher
}

// Identity returns the key and certificate under which the server answers now, and the certificates above it but for the root. They sign the packages
// of encrypted keys (RFC 7030, section 4.4.2).
type Identity func() (key crypto.Signer, leaf *x509.Certificate, above [][]byte)

// Seal signs and encrypts a key in PKCS#8: EnvelopedData around SignedData around the key package (RFC 7030, section 4.4.2).
func (s *Sealing) Seal(key []byte, by Identity) ([]byte, error) {
	signer, cert, above := by()
	return cms.SealKeys([][]byte{key}, cms.SignInput{Signer: signer, Certificate: cert, Chain: above, Rand: rand.Reader},
		cms.EncryptInput{Cipher: s.cipher, Recipients: []cms.Recipient{s.key}, Rand: rand.Reader})
}

// OIDs of the attributes, in the form in which a request carries them.
const (
	oidDecryptKeyID           = der.OID("\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x02\x25") // 1.2.840.113549.1.9.16.2.37
	oidAsymmetricDecryptKeyID = der.OID("\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x02\x36") // 1.2.840.113549.1.9.16.2.54
	oidSMIMECapabilities      = der.OID("\x2a\x86\x48\x86\xf7\x0d\x01\x09\x0f")         // 1.2.840.113549.1.9.15
)

// Recipient finds out how the request wants its key protected: nil means by TLS alone. A key identifier that is not known here MUST fail
// the request (RFC 7030, section 4.4.1). The only key pair that is known is that of the certificate with which the client connected; it is
// named by its subject key identifier. Shared keys are not registered here.
func Recipient(csr []byte, leaf *x509.Certificate) (*Sealing, error) {
	r, err := der.ParseRequest(csr)
	if err != nil {
		return nil, errs.New(errs.Invalid, "the certification request is not acceptable: %v", err)
	}
	if _, asked := r.Attribute(oidDecryptKeyID); asked {
		return nil, errs.New(errs.Invalid, "no shared key of this identifier is registered; name the key of the client certificate by AsymmetricDecryptKeyIdentifier")
	}
	a, asked := r.Attribute(oidAsymmetricDecryptKeyID)
	if !asked {
		return nil, nil
	}
	value, err := single(a)
	if err != nil {
		return nil, err
	}
	id, err := est.ParseAsymmetricDecryptKeyID(value)
	if err != nil {
		return nil, errs.New(errs.Invalid, "the request's key identifier is not acceptable: %v", err)
	}
	if leaf == nil || !names(leaf, id) {
		return nil, errs.New(errs.Invalid, "the key identifier does not name the key of the client certificate, and no other key of this device is known")
	}
	cipher, err := cipherFor(r)
	if err != nil {
		return nil, err
	}
	key, err := recipientKey(leaf, id)
	if err != nil {
		return nil, err
	}
	return &Sealing{key: key, cipher: cipher}, nil
}

func single(a der.RequestAttribute) ([]byte, error) {
	if len(a.Values) != 1 {
		return nil, errs.New(errs.Invalid, "the request's attribute %s must have one value", a.Type)
	}
	return a.Values[0], nil
}

// names reports whether id is the certificate's subject key identifier, or the SHA-1 one that many clients compute themselves
// (RFC 5280, section 4.2.1.2, method 1).
func names(leaf *x509.Certificate, id []byte) bool {
	if len(leaf.SubjectKeyId) > 0 && bytes.Equal(leaf.SubjectKeyId, id) {
		return true
	}
	ski, err := der.SubjectKeyID(leaf.RawSubjectPublicKeyInfo)
	if err == nil && bytes.Equal(ski[:], id) {
		return true
	}
	bits, err := der.KeyBits(leaf.RawSubjectPublicKeyInfo)
	sum := sha1.Sum(bits)
	return err == nil && bytes.Equal(sum[:], id)
}

func recipientKey(leaf *x509.Certificate, id []byte) (cms.Recipient, error) {
	switch pub := leaf.PublicKey.(type) {
	case *rsa.PublicKey:
		return cms.RSARecipient{ID: cms.KeyID{SubjectKey: id}, Key: pub}, nil
	case *ecdsa.PublicKey:
		key, err := pub.ECDH()
		if err != nil {
			return nil, errs.New(errs.Invalid, "the client certificate's key cannot receive encrypted keys")
		}
		return cms.ECRecipient{ID: cms.KeyID{SubjectKey: id}, Key: key}, nil
	}
	return nil, errs.New(errs.Invalid, "the client certificate's key cannot receive encrypted keys; RSA and elliptic-curve keys can")
}

// cipherFor takes the first cipher of the request's SMIMECapabilities that is known here, or AES-256-CBC when it has none.
func cipherFor(r *der.Request) (cms.Cipher, error) {
	a, asked := r.Attribute(oidSMIMECapabilities)
	if !asked {
		return cms.AES256CBC, nil
	}
	value, err := single(a)
	if err != nil {
		return 0, err
	}
	list, err := est.ParseSMIMECapabilities(value)
	if err != nil {
		return 0, errs.New(errs.Invalid, "the request's SMIMECapabilities are not acceptable: %v", err)
	}
	for _, c := range list {
		if cipher, ok := cms.CipherByOID(c.Algorithm); ok {
			return cipher, nil
		}
	}
	return 0, errs.New(errs.Invalid, "none of the request's SMIMECapabilities is known here; AES-128 and AES-256 in CBC and GCM are")
}
