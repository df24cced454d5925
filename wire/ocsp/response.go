package ocsp

import (
	"errors"
	"fmt"

	"mooring/wire/der"
)

// Status is the outcome of a request as a whole. All but Successful go out unsigned.
type Status uint8

// The statuses (RFC 6960, section 4.2.1). There is no 4.
const (
	Successful       Status = 0
	MalformedRequest Status = 1
	InternalError    Status = 2
	TryLater         Status = 3
	SigRequired      Status = 5
	Unauthorized     Status = 6
)

// String is the standard's name.
func (s Status) String() string {
	switch s {
	case Successful:
		return "successful"
	case MalformedRequest:
		return "malformedRequest"
	case InternalError:
		return "internalError"
	case TryLater:
		return "tryLater"
	case SigRequired:
		return "sigRequired"
	case Unauthorized:
		return "unauthorized"
	}
	return fmt.Sprintf("status %d", uint8(s))
}

// ErrorResponse is the whole unsigned response with a status other than Successful.
func ErrorResponse(status Status) []byte {
	return []byte{tagSequence, 3, tagEnum, 1, byte(status)}
}

// CertStatus is the status of one certificate. The zero value is none and is refused, so that a forgotten status is
// never read as good.
type CertStatus uint8

// The statuses of a certificate.
const (
	Good CertStatus = iota + 1
	Revoked
	Unknown
)

// String is the standard's name.
func (s CertStatus) String() string {
	switch s {
	case Good:
		return "good"
	case Revoked:
		return "revoked"
	case Unknown:
		return "unknown"
	}
	return "no status"
}

// Single is the answer for one certificate. Times are Unix seconds.
type Single struct {
	ID         CertID
	Status     CertStatus
	RevokedAt  int64 // if Revoked
	Reason     int   // CRLReason if Revoked; 0 is not written
	ThisUpdate int64
	NextUpdate int64 // 0: newer information is available all the time
}

// ResponseData is what a response says and its signer signs.
type ResponseData struct {
	Responder     [20]byte // SHA-1 of the signer's key bits, see Issuer.KeyHash
	ResponderName []byte   // the signer's subject, DER; when it is not nil, it is named instead of the key
	ProducedAt    int64    // Unix seconds
	Singles       []Single // one for each CertID asked, in that order
	Nonce         []byte   // Request.Nonce

	// ExtendedRevoke says that the responder answers revoked for certificates that were never issued (section 4.4.8).
	ExtendedRevoke bool
}

// AppendTBSResponse appends the ResponseData to be signed. CertIDs are repeated as they were asked.
func AppendTBSResponse(dst []byte, data ResponseData) ([]byte, error) {
	if len(data.Singles) == 0 || len(data.Singles) > MaxCertIDs {
		return nil, fmt.Errorf("OCSP response for %d certificates; 1 to %d are allowed", len(data.Singles), MaxCertIDs)
	}
	body := data.appendResponder(make([]byte, 0, 128+len(data.ResponderName)+128*len(data.Singles)))
	body, err := der.AppendGeneralizedTime(body, data.ProducedAt)
	if err != nil {
		return nil, err
	}
	singles := make([]byte, 0, 128*len(data.Singles))
	for _, single := range data.Singles {
		if single.ThisUpdate > data.ProducedAt {
			return nil, errors.New("OCSP response that is produced before the status it tells")
		}
		if singles, err = single.append(singles); err != nil {
			return nil, err
		}
	}
	body = der.AppendElement(body, tagSequence, singles)
	body = data.appendExtensions(body)
	return der.AppendElement(dst, tagSequence, body), nil
}

// appendResponder appends the ResponderID, a CHOICE of name and key.
func (d ResponseData) appendResponder(dst []byte) []byte {
	if d.ResponderName != nil {
		return der.AppendElement(dst, tagConstructed+1, d.ResponderName)
	}
	return der.AppendElement(append(dst, tagConstructed+2, 22), tagOctetString, d.Responder[:])
}

func (d ResponseData) appendExtensions(dst []byte) []byte {
	var list []byte
	if d.Nonce != nil {
		list = der.Extension{OID: oidNonce, Value: d.Nonce}.Append(list)
	}
	if d.ExtendedRevoke {
		list = der.Extension{OID: oidExtendedRevoke, Value: []byte{tagNull, 0}}.Append(list)
	}
	if len(list) == 0 {
		return dst
	}
	return der.AppendElement(dst, tagConstructed+1, der.AppendElement(nil, tagSequence, list))
}

func (s Single) append(dst []byte) ([]byte, error) {
	if len(s.ID.Raw) == 0 {
		return nil, errors.New("OCSP response without a CertID")
	}
	if s.NextUpdate != 0 && s.NextUpdate < s.ThisUpdate {
		return nil, errors.New("OCSP response whose next update is before this one")
	}
	body := append(make([]byte, 0, 160), s.ID.Raw...)
	body, err := s.appendStatus(body)
	if err != nil {
		return nil, err
	}
	if body, err = der.AppendGeneralizedTime(body, s.ThisUpdate); err != nil {
		return nil, err
	}
	if s.NextUpdate != 0 {
		if body, err = der.AppendGeneralizedTime(append(body, tagConstructed, 17), s.NextUpdate); err != nil {
			return nil, err
		}
	}
	return der.AppendElement(dst, tagSequence, body), nil
}

func (s Single) appendStatus(dst []byte) ([]byte, error) {
	switch s.Status {
	case Good:
		return append(dst, tagPrimitive, 0), nil
	case Unknown:
		return append(dst, tagPrimitive+2, 0), nil
	case Revoked:
	default:
		return nil, errors.New("OCSP response without a certificate status")
	}
	if s.Reason < 0 || s.Reason > der.MaxReason || s.Reason == 7 {
		return nil, fmt.Errorf("no revocation reason has the number %d", s.Reason)
	}
	const timeSize, reasonSize = 17, 5
	if s.Reason == 0 {
		return der.AppendGeneralizedTime(append(dst, tagConstructed+1, timeSize), s.RevokedAt)
	}
	dst, err := der.AppendGeneralizedTime(append(dst, tagConstructed+1, timeSize+reasonSize), s.RevokedAt)
	return append(dst, tagConstructed, 3, tagEnum, 1, byte(s.Reason)), err
}

// WrapResponse appends the whole response: successful, with the signed data, and with the certificates (DER) that
// prove a delegated signer. A CA that signs itself adds none.
func WrapResponse(dst, tbs []byte, algorithm der.SignatureAlgorithm, signature []byte, certs ...[]byte) []byte {
	body := append(make([]byte, 0, len(tbs)+256), tbs...)
	body = append(body, algorithm.Identifier()...)
	body = append(der.AppendHeader(body, tagBitString, 1+len(signature)), 0)
	body = append(body, signature...)
	if len(certs) > 0 {
		var list []byte
		for _, cert := range certs {
			list = append(list, cert...)
		}
		body = der.AppendElement(body, tagConstructed, der.AppendElement(nil, tagSequence, list))
	}
	basic := der.AppendElement(oidBasic.Append(nil), tagOctetString, der.AppendElement(nil, tagSequence, body))
	outer := der.AppendElement([]byte{tagEnum, 1, byte(Successful)}, tagConstructed, der.AppendElement(nil, tagSequence, basic))
	return der.AppendElement(dst, tagSequence, outer)
}
