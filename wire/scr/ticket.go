package scr

import (
	"crypto/hmac"
	"crypto/sha256"
	"io"

	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/spdu"
)

// KeyTag binds the keys of a ticket to its request without telling them (TS 102 941, 6.2.3.3.1).
func KeyTag(hmacKey [32]byte, keys *its.PublicKeys) (tag [16]byte, err error) {
	m := hmac.New(sha256.New, hmacKey[:])
	b, err := coer.Marshal(&keys.VerificationKey)
	if err != nil {
		return tag, err
	}
	m.Write(b)
	if key, ok := keys.EncryptionKey.Get(); ok {
		if b, err = coer.Marshal(&key); err != nil {
			return tag, err
		}
		m.Write(b)
	}
	return [16]byte(m.Sum(nil)[:16]), nil
}

// Shared is the digest of the part of a request that the enrolment authority sees, which the station signs with its enrolment credential. Of what was read it is
// that of the octets as they were.
func Shared(r *its.SharedAtRequest) ([]byte, error) {
	b := r.Octets
	if b == nil {
		var err error
		if b, err = coer.Marshal(r); err != nil {
			return nil, err
		}
	}
	sum := sha256.Sum256(b)
	return sum[:], nil
}

// SignShared signs that digest. With an authority the signature is encrypted to it, so that nobody else learns who signed.
func SignShared(random io.Reader, r *its.SharedAtRequest, at its.Time64, s spdu.Signer, authority *its.Certificate) (its.EcSignature, error) {
	digest, err := Shared(r)
	if err != nil {
		return its.EcSignature{}, err
	}
	signed, err := spdu.Sign(its.SignedDataPayload{ExtDataHash: coer.Some(its.HashedData{Choice: its.SHA256, Hash: digest})}, Header(at), s)
	if err != nil || authority == nil {
		return its.EcSignature{Choice: its.EcSignaturePlain, Data: signed}, err
	}
	to, err := spdu.ToCertificate(authority)
	if err != nil {
		return its.EcSignature{}, err
	}
	sealed, _, err := spdu.Seal(random, signed, to)
	return its.EcSignature{Choice: its.EcSignatureEncrypted, Data: sealed}, err
}
