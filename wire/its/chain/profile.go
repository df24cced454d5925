package chain

import (
	"errors"
	"fmt"

	"mooring/wire/its"
)

// CheckData says what a message lacks to be one of TS 103 097 (clause 5 and annex A), in all its layers that are not encrypted. Whether it is to be believed is not
// looked at. Answers that are encrypted with the key of their request pass, which the module of the standard excludes and its text demands.
func CheckData(d *its.Ieee1609Dot2Data) error {
	switch c := &d.Content; {
	case c.Choice == its.UnsecuredData:
		return nil
	case c.Choice == its.ContentSigned && c.SignedData != nil:
		return checkSigned(c.SignedData)
	case c.Choice == its.ContentEncrypted && c.EncryptedData != nil:
		return checkEncrypted(c.EncryptedData)
	}
	return errors.New("it is neither signed nor encrypted, nor unsecured")
}

func checkSigned(s *its.SignedData) error {
	h := &s.TbsData.HeaderInfo
	switch {
	case !h.GenerationTime.Present:
		return errors.New("its header lacks generationTime")
	case h.P2pcdLearningRequest.Present:
		return errors.New("its header has p2pcdLearningRequest")
	case h.MissingCrlIdentifier.Present:
		return errors.New("its header has missingCrlIdentifier")
	case s.Signer.Choice == its.SignerCertificate && len(s.Signer.Certificate) != 1:
		return fmt.Errorf("it has %d certificates of its signer, where one may be", len(s.Signer.Certificate))
	case s.Signer.Choice == its.SignerCertificate && !ofSomeRole(&s.Signer.Certificate[0]):
		return errors.New("the certificate of its signer has the profile of no role")
	}
	p := &s.TbsData.Payload
	switch hash, external := p.ExtDataHash.Get(); {
	case p.Omitted != its.NotOmitted:
		return errors.New("its payload is left out")
	case external && hash.Choice != its.SHA256:
		return errors.New("the digest of what it signs is none of SHA-256")
	case p.Data != nil:
		return CheckData(p.Data)
	case !external:
		return errors.New("it signs nothing")
	}
	return nil
}

// ofSomeRole says whether a certificate has the profile of a role.
func ofSomeRole(x *its.Certificate) bool {
	for r := its.EtsiTLM; r <= its.EtsiMA; r++ {
		if x.CheckRole(r, 0) == nil {
			return true
		}
	}
	return false
}

func checkEncrypted(e *its.EncryptedData) error {
	for i := range e.Recipients {
		switch e.Recipients[i].Choice {
		case its.RecipientCert, its.RecipientSignedData, its.RecipientPsk:
		default:
			return errors.New("it is encrypted to a key that is neither of a certificate nor of a message")
		}
	}
	return nil
}
