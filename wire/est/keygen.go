package est

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"strings"
)

// Keygen is the answer to a server-side key generation (RFC 7030, section 4.4.2): a private key and the certificate.
type Keygen struct {
	// KeyType is TypePlainKey or TypeSealedKey.
	KeyType string
	// Key is DER: PKCS#8 for TypePlainKey, a CMS ContentInfo with EnvelopedData for TypeSealedKey.
	Key []byte
	// Certificates is the DER of a CMS certs-only message.
	Certificates []byte
}

// String keeps the key out of printed text.
func (Keygen) String() string { return "est.Keygen(key withheld)" }

// GoString keeps the key out of %#v.
func (k Keygen) GoString() string { return k.String() }

// MarshalText keeps the key out of JSON, and so out of structured logs.
func (k Keygen) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// BuildKeygen returns the multipart body of k and its Content-Type. Lines end in CRLF and the closing boundary is
// there, since clients in the field depend on both. The boundary consists of 1 to 70 letters, digits and "-"; it need
// not be random, as base64 cannot contain a delimiter line.
func BuildKeygen(k Keygen, boundary string) (body []byte, contentType string, err error) {
	if k.KeyType != TypePlainKey && k.KeyType != TypeSealedKey {
		return nil, "", fmt.Errorf("key part has type %q; it must be %q or %q", k.KeyType, TypePlainKey, TypeSealedKey)
	}
	if len(k.Key) == 0 || len(k.Certificates) == 0 {
		return nil, "", errors.New("a key generation answer needs a key and a certificate")
	}
	if !validBoundary(boundary) {
		return nil, "", errors.New("a boundary has 1 to 70 letters, digits and hyphens")
	}
	var b bytes.Buffer
	writePart(&b, boundary, k.KeyType, k.Key)
	writePart(&b, boundary, TypeCertsOnly, k.Certificates)
	fmt.Fprintf(&b, "--%s--\r\n", boundary)
	return b.Bytes(), TypeMixed + "; boundary=" + boundary, nil
}

func writePart(b *bytes.Buffer, boundary, mediaType string, der []byte) {
	fmt.Fprintf(b, "--%s\r\nContent-Type: %s\r\nContent-Transfer-Encoding: base64\r\n\r\n", boundary, mediaType)
	b.Write(wrap(der, "\r\n"))
}

func validBoundary(boundary string) bool {
	if boundary == "" || len(boundary) > 70 {
		return false
	}
	for _, c := range []byte(boundary) {
		if !isAlphanumeric(c) && c != '-' {
			return false
		}
	}
	return true
}

// ParseKeygen reads the body of a server-side key generation answer with its Content-Type. The parts may come in either
// order and with line feeds alone, transfer encodings are ignored. Exactly one key and one certs-only part must be there.
func ParseKeygen(body []byte, contentType string) (Keygen, error) {
	if len(body) > MaxBody {
		return Keygen{}, fmt.Errorf("key generation answer has %d bytes; at most %d are read", len(body), MaxBody)
	}
	mediaType, parameters, err := mime.ParseMediaType(contentType)
	if err != nil || mediaType != TypeMixed || parameters["boundary"] == "" {
		return Keygen{}, fmt.Errorf("key generation answer is not %s with a boundary", TypeMixed)
	}
	var k Keygen
	reader := multipart.NewReader(bytes.NewReader(body), parameters["boundary"])
	for {
		// The raw part, because a quoted-printable header must be as meaningless as any other.
		part, err := reader.NextRawPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return Keygen{}, fmt.Errorf("reading the parts of the key generation answer: %w", err)
		}
		if err := k.add(part); err != nil {
			return Keygen{}, err
		}
	}
	if k.Key == nil || k.Certificates == nil {
		return Keygen{}, errors.New("key generation answer lacks its key or its certificate")
	}
	return k, nil
}

// add takes the content of one part.
func (k *Keygen) add(part *multipart.Part) error {
	text, err := io.ReadAll(part)
	if err != nil {
		return fmt.Errorf("reading a part of the key generation answer: %w", err)
	}
	der, err := DecodeBase64(text)
	if err != nil {
		return fmt.Errorf("decoding a part of the key generation answer: %w", err)
	}
	target := &k.Key
	switch kind := partKind(part.Header.Get("Content-Type")); kind {
	case TypeCertsOnly:
		target = &k.Certificates
	case TypePlainKey, TypeSealedKey:
		k.KeyType = kind
	default:
		return errors.New("key generation answer has a part of an unknown type")
	}
	if *target != nil {
		return errors.New("key generation answer has two parts of the same kind")
	}
	*target = der
	return nil
}

// partKind returns one of our type constants for the Content-Type of a part, or "".
func partKind(contentType string) string {
	mediaType, parameters, err := mime.ParseMediaType(contentType)
	switch {
	case err != nil:
		return ""
	case mediaType == TypePlainKey:
		return TypePlainKey
	case mediaType != TypeCACerts:
		return ""
	case strings.EqualFold(parameters["smime-type"], "server-generated-key"):
		return TypeSealedKey
	case strings.EqualFold(parameters["smime-type"], "certs-only"), parameters["smime-type"] == "":
		return TypeCertsOnly
	}
	return ""
}
