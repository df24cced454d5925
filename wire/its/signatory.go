package its

import (
	"mooring/wire/butterfly"
	"mooring/wire/coer"
)

// Signatory is the certificate of somebody who signs much, with what would have to be computed for each signature: its digest, and its key as a point. It is safe
// for concurrent use; the certificate must not change any more.
type Signatory struct {
	Certificate *Certificate
	ID          HashedId8

	digest   []byte
	verifier *butterfly.Verifier // nil: the key is none of P-256
}

// NewSignatory returns the signatory of a certificate.
func NewSignatory(x *Certificate) (*Signatory, error) {
	digest, err := x.Digest()
	if err != nil {
		return nil, err
	}
	s := &Signatory{Certificate: x, ID: HashedId8(digest[len(digest)-8:]), digest: digest}
	if key := &x.ToBeSigned.VerifyKeyIndicator; key.Choice == VerificationKey && key.VerificationKey.Choice == ECDSANistP256 {
		point, err := key.VerificationKey.Point.p256()
		if err != nil {
			return nil, err
		}
		s.verifier = butterfly.NewVerifier(point)
	}
	return s, nil
}

// Prepare returns the signatory with a table by which its signatures are verified in half of the time, if its key is one of P-256: see butterfly.Verifier, which
// says what that costs.
func (s *Signatory) Prepare() *Signatory {
	if s.verifier == nil {
		return s
	}
	prepared := *s
	prepared.verifier = s.verifier.Prepare()
	return &prepared
}

// Digest is that of the certificate (Certificate.Digest). It must not be changed.
func (s *Signatory) Digest() []byte { return s.digest }

// InputBy is Input for a signatory.
func (d *SignedData) InputBy(s *Signatory) ([]byte, error) {
	b, err := coer.Normal(&d.TbsData)
	if err != nil {
		return nil, err
	}
	return d.HashId.inputBy(b, s)
}

// InputBy is Input for a signatory.
func (x *Certificate) InputBy(issuer *Signatory) ([]byte, error) {
	b, err := coer.Normal(&x.ToBeSigned)
	if err != nil {
		return nil, err
	}
	return x.Issuer.Hash().inputBy(b, issuer)
}

// inputBy is Hash(Hash(signed) || Hash(signer's certificate)), where both are by the algorithm that goes with the signer's key.
func (h HashAlgorithm) inputBy(signed []byte, s *Signatory) ([]byte, error) {
	if size := len(s.digest); h != SHA256 && h != SHA384 || (h == SHA384) != (size == 48) {
		return nil, ErrAlgorithm
	}
	return h.digest(h.Sum(signed), s.digest)
}
