package der

import (
	"crypto"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte/asn1"
)

// CRLSpec is a certificate revocation list (RFC 5280, section 5) without its signature.
type CRLSpec struct {
	Algorithm  SignatureAlgorithm
	Issuer     []byte // DER Name: the RawSubject of the issuer
	AKI        []byte // key identifier of the issuer
	Number     []byte // big-endian, positive, see CheckSerial; grows with each list of the same scope
	ThisUpdate int64  // Unix seconds
	NextUpdate int64

	// Point is the issuingDistributionPoint; nil for a list of everything that the issuer revoked. A shard must have
	// one, with the URL that stands in its certificates, or one shard can be passed off as another.
	Point *IssuingPoint

	// DeltaBase makes a delta list: the Number of the full list that it adds to. Nil for full lists.
	DeltaBase []byte

	// Freshest is where the delta list to this full one is published (section 5.2.6); "" for none.
	Freshest string
}

// IssuingPoint is the scope of a list (RFC 5280, section 5.2.5).
type IssuingPoint struct {
	URL      string
	OnlyUser bool // onlyContainsUserCerts
	OnlyCA   bool // onlyContainsCACerts
}

// MaxReason is the greatest CRLReason, aACompromise. Reason 7 does not exist; 8 (removeFromCRL) is for delta lists.
const MaxReason = 10

// reasonExtension is the start of crlEntryExtensions with a reason code, up to the reason itself.
const reasonExtension = "\x30\x0c\x30\x0a\x06\x03\x55\x1d\x15\x04\x03\x0a\x01"

// AppendCRLEntry appends one entry of a list: serial (content octets), time of revocation in Unix seconds, reason.
// Reason 0 (unspecified) is left out, as section 5.3.1 wants. With Mooring's serials of 16 octets an entry has 49
// octets, 35 without a reason, until 2049.
func AppendCRLEntry(dst, serial []byte, at int64, reason int) ([]byte, error) {
	if err := CheckSerial(serial); err != nil {
		return nil, err
	}
	if reason < 0 || reason > MaxReason || reason == 7 {
		return nil, fmt.Errorf("no revocation reason has the number %d", reason)
	}
	dst = AppendHeader(dst, tagSequence, entryContent(len(serial), at, reason))
	dst = AppendElement(dst, tagInteger, serial)
	dst, err := AppendTime(dst, at)
	if err != nil || reason == 0 {
		return dst, err
	}
	return append(append(dst, reasonExtension...), byte(reason)), nil
}

// CRLEntrySize is how many octets AppendCRLEntry appends for a serial of n content octets.
func CRLEntrySize(n int, at int64, reason int) int { return elementSize(entryContent(n, at, reason)) }

func entryContent(serial int, at int64, reason int) int {
	n := elementSize(serial) + timeSize(at)
	if reason != 0 {
		n += len(reasonExtension) + 1
	}
	return n
}

// AppendCRLTBS appends the TBSCertList with the entries, which AppendCRLEntry made. For lists too big to hold twice use
// AppendCRLHead and AppendCRLTail and hash and write the entries between them as they come.
func AppendCRLTBS(dst []byte, spec CRLSpec, entries []byte) ([]byte, error) {
	dst, err := AppendCRLHead(dst, spec, len(entries))
	if err != nil {
		return nil, err
	}
	return AppendCRLTail(append(dst, entries...), spec), nil
}

// AppendCRLHead appends all of the TBSCertList that comes before the entries, of which there are size octets.
func AppendCRLHead(dst []byte, spec CRLSpec, size int) ([]byte, error) {
	if err := spec.check(); err != nil {
		return nil, err
	}
	id := spec.Algorithm.identifier()
	n := len(version2) + len(id) + len(spec.Issuer) + timeSize(spec.ThisUpdate) + timeSize(spec.NextUpdate)
	if size > 0 {
		n += elementSize(size)
	}
	n += len(AppendCRLTail(nil, spec))
	dst = AppendHeader(dst, tagSequence, n)
	dst = append(dst, version2...)
	dst = append(dst, id...)
	dst = append(dst, spec.Issuer...)
	dst, _ = AppendTime(dst, spec.ThisUpdate) // in range, says check
	dst, _ = AppendTime(dst, spec.NextUpdate)
	if size > 0 { // revokedCertificates must be absent, not empty (section 5.1.2.6)
		dst = AppendHeader(dst, tagSequence, size)
	}
	return dst, nil
}

// version2 is INTEGER 1.
const version2 = "\x02\x01\x01"

func (spec CRLSpec) check() error {
	switch {
	case spec.Algorithm.identifier() == "":
		return errors.New("revocation list without a signature algorithm")
	case !isElement(spec.Issuer, asn1.SEQUENCE) || string(spec.Issuer) == emptyName:
		return errors.New("revocation list without an issuer name")
	case len(spec.AKI) == 0:
		return errors.New("revocation list without an authority key identifier")
	case spec.ThisUpdate < firstUTCTime || spec.NextUpdate > NoExpiry || spec.NextUpdate <= spec.ThisUpdate:
		return errors.New("revocation list whose next update is not after this one")
	case spec.Point != nil && spec.Point.OnlyUser && spec.Point.OnlyCA:
		return errors.New("revocation list of only user and only CA certificates at once")
	}
	if err := CheckSerial(spec.Number); err != nil {
		return fmt.Errorf("number of the revocation list: %w", err)
	}
	if spec.DeltaBase != nil {
		if spec.Freshest != "" {
			return errors.New("delta list that names a delta list")
		}
		if err := CheckSerial(spec.DeltaBase); err != nil {
			return fmt.Errorf("base of the delta list: %w", err)
		}
	}
	return nil
}

// AppendCRLTail appends the extensions, which end the TBSCertList: authority key identifier, number, and where they
// apply the delta indicator and the issuing distribution point, both critical, and the place of the freshest list.
func AppendCRLTail(dst []byte, spec CRLSpec) []byte {
	content := NewAuthorityKeyID(spec.AKI).Append(nil)
	content = Extension{OIDCRLNumber, false, AppendElement(nil, tagInteger, spec.Number)}.Append(content)
	if spec.DeltaBase != nil {
		content = Extension{OIDDeltaCRLIndicator, true, AppendElement(nil, tagInteger, spec.DeltaBase)}.Append(content)
	}
	if spec.Point != nil {
		content = Extension{OIDIssuingPoint, true, spec.Point.value()}.Append(content)
	}
	if spec.Freshest != "" {
		content = NewFreshestCRL(spec.Freshest).Append(content)
	}
	dst = AppendHeader(dst, tagConstructed, elementSize(len(content)))
	return AppendElement(dst, tagSequence, content)
}

// NewFreshestCRL says where a delta list is published. It is written as the distribution points of a certificate are (RFC 5280, sections
// 4.2.1.15 and 5.2.6), and is not critical.
func NewFreshestCRL(url string) Extension {
	e := NewCRLPoints(url)
	e.OID = OIDFreshestCRL
	return e
}

// CheckCRL verifies the signature on a revocation list in DER by the key of its issuer, whatever the kind of key. It looks at nothing else.
func CheckCRL(raw []byte, issuer crypto.PublicKey) error {
	tbs, algorithm, signature, err := readSigned(raw, "revocation list")
	if err != nil {
		return err
	}
	return algorithm.Verify(issuer, tbs, signature)
}

// Enclose returns what Wrap puts before and after a TBS of n octets, for lists too big to hold.
func Enclose(n int, algorithm SignatureAlgorithm, signature []byte) (before, after []byte) {
	after = append(after, algorithm.identifier()...)
	after = append(append(AppendHeader(after, tagBitString, 1+len(signature)), 0), signature...)
	return AppendHeader(nil, tagSequence, n+len(after)), after
}

func (p *IssuingPoint) value() []byte {
	var content []byte
	if p.URL != "" {
		content = distributionPoint(p.URL)
	}
	if p.OnlyUser {
		content = append(content, tagContext+1, 1, 0xff)
	}
	if p.OnlyCA {
		content = append(content, tagContext+2, 1, 0xff)
	}
	return AppendElement(nil, tagSequence, content)
}
