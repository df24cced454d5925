package cmp

import (
	"fmt"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// The values of a PKIStatus (RFC 9810, section 5.2.3).
const (
	Accepted                  = 0
	GrantedWithMods           = 1
	Rejection                 = 2
	Waiting                   = 3
	RevocationWarning         = 4
	RevocationNotice          = 5
	KeyUpdateWarning          = 6
	lastStatus                = KeyUpdateWarning
	lastFailure       Failure = DuplicateCertReq
)

// Failure is one bit of a PKIFailureInfo (RFC 9810, section 5.2.3).
type Failure int

// The failures.
const (
	BadAlg Failure = iota
	BadMessageCheck
	BadRequest
	BadTime
	BadCertID
	BadDataFormat
	WrongAuthority
	IncorrectData
	MissingTimeStamp
	BadPOP
	CertRevoked
	CertConfirmed
	WrongIntegrity
	BadRecipientNonce
	TimeNotAvailable
	UnacceptedPolicy
	UnacceptedExtension
	AddInfoNotAvailable
	BadSenderNonce
	BadCertTemplate
	SignerNotTrusted
	TransactionIDInUse
	UnsupportedVersion
	NotAuthorized
	SystemUnavail
	SystemFailure
	DuplicateCertReq
)

// String is the name that the standard gives.
func (f Failure) String() string {
	names := [...]string{"badAlg", "badMessageCheck", "badRequest", "badTime", "badCertId", "badDataFormat", "wrongAuthority", "incorrectData", "missingTimeStamp",
		"badPOP", "certRevoked", "certConfirmed", "wrongIntegrity", "badRecipientNonce", "timeNotAvailable", "unacceptedPolicy", "unacceptedExtension",
		"addInfoNotAvailable", "badSenderNonce", "badCertTemplate", "signerNotTrusted", "transactionIdInUse", "unsupportedVersion", "notAuthorized",
		"systemUnavail", "systemFailure", "duplicateCertReq"}
	if f < 0 || int(f) >= len(names) {
		return fmt.Sprintf("failure %d", int(f))
	}
	return names[f]
}

// Status is a PKIStatusInfo.
type Status struct {
	Status   int
	Text     []string
	Failures []Failure
}

// Refused returns the status of a rejection.
func Refused(why Failure, text string) Status {
	return Status{Status: Rejection, Failures: []Failure{why}, Text: []string{text}}
}

// String tells a rejection to a person.
func (s Status) String() string {
	var parts []string
	for _, f := range s.Failures {
		parts = append(parts, f.String())
	}
	text := strings.Join(parts, ", ")
	if len(s.Text) > 0 {
		if text != "" {
			text += ": "
		}
		text += strings.Join(s.Text, "; ")
	}
	return text
}

func readStatus(s *cryptobyte.String) (st Status, err error) {
	var in cryptobyte.String
	if !s.ReadASN1(&in, asn1.SEQUENCE) || !in.ReadASN1Integer(&st.Status) || st.Status < 0 || st.Status > lastStatus {
		return st, malformed("status")
	}
	if in.PeekASN1Tag(asn1.SEQUENCE) {
		if st.Text, err = readText(&in); err != nil {
			return st, err
		}
	}
	if !in.Empty() {
		if st.Failures, err = readFailures(&in); err != nil {
			return st, err
		}
	}
	if !in.Empty() {
		return st, malformed("status")
	}
	return st, nil
}

// readFailures reads the named bits; bits that have no name yet are passed over.
func readFailures(s *cryptobyte.String) (list []Failure, err error) {
	var content cryptobyte.String
	if !s.ReadASN1(&content, asn1.BIT_STRING) || len(content) == 0 || len(content) > 16 || content[0] > 7 || len(content) == 1 && content[0] != 0 {
		return nil, malformed("failInfo")
	}
	for i := range 8 * (len(content) - 1) {
		if content[1+i/8]&(0x80>>(i%8)) != 0 && Failure(i) <= lastFailure {
			list = append(list, Failure(i))
		}
	}
	return list, nil
}

func (st Status) build(b *cryptobyte.Builder) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(int64(st.Status))
		if len(st.Text) > 0 {
			addText(b, st.Text)
		}
		if len(st.Failures) > 0 {
			addFailures(b, st.Failures)
		}
	})
}

// addFailures writes the bits without trailing zeros, as DER wants named bits.
func addFailures(b *cryptobyte.Builder, list []Failure) {
	var bits [4]byte
	last := Failure(0)
	for _, f := range list {
		bits[f/8] |= 0x80 >> (f % 8)
		last = max(last, f)
	}
	n := int(last)/8 + 1
	b.AddASN1(asn1.BIT_STRING, func(b *cryptobyte.Builder) {
		b.AddUint8(uint8(8*n - 1 - int(last)))
		b.AddBytes(bits[:n])
	})
}
