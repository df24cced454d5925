package cms

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// maxDepth bounds how deep elements may be nested in BER. A SCEP answer with a chain needs 12.
const maxDepth = 32

var errBER = errors.New("it is not well-formed BER")

// FromBER returns a message in DER that others wrote in BER, as old clients of SCEP do: lengths become definite and minimal, and strings of
// octets that were written in pieces become whole (X.690, sections 8.1.3 and 8.7). Nothing else changes, so what is signed inside
// keeps its octets when it was DER, as it must be. The message is read in one pass; at most MaxSize octets of it, which nest at most 32 deep.
//
// The result may still not be what DER demands, such as the order of sets or the value of a BOOLEAN; the ParseX functions see to that.
func FromBER(ber []byte) ([]byte, error) {
	if len(ber) > MaxSize {
		return nil, fmt.Errorf("CMS message has %d bytes; at most %d are read", len(ber), MaxSize)
	}
	out, rest, err := element(ber, 0)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("%d bytes follow the CMS message", len(rest))
	}
	return out, nil
}

// element converts the first element of in.
func element(in []byte, depth int) (der, rest []byte, err error) {
	h, err := readHeader(in)
	if err != nil || depth > maxDepth {
		return nil, nil, errBER
	}
	rest = in[h.size:]
	if !h.indefinite {
		content := rest[:h.length]
		rest = rest[h.length:]
		if !h.constructed {
			der, err = wrap(h.tag, content)
			return der, rest, err
		}
		der, left, err := inside(content, h, depth, false)
		if err == nil && len(left) > 0 {
			err = errBER
		}
		return der, rest, err
	}
	return inside(rest, h, depth, true)
}

// inside converts the elements of a constructed one, up to the end of its content or, when its length is indefinite, to the end mark.
func inside(in []byte, h berHeader, depth int, marked bool) (der, rest []byte, err error) {
	var parts [][]byte
	total := 0
	for {
		if marked && len(in) >= 2 && in[0] == 0 && in[1] == 0 {
			in = in[2:]
			break
		}
		if !marked && len(in) == 0 {
			break
		}
		var part []byte
		if part, in, err = element(in, depth+1); err != nil {
			return nil, nil, err
		}
		if total += len(part); total > MaxSize {
			return nil, nil, errBER
		}
		parts = append(parts, part)
	}
	switch {
	case h.tag == byte(cbasn1.OCTET_STRING)|constructedBit:
		whole, ok := join(parts)
		if !ok {
			return nil, nil, errBER
		}
		der, err = wrap(byte(cbasn1.OCTET_STRING), whole)
		return der, in, err
	case h.tag == byte(cbasn1.SEQUENCE) && isEncryptedContent(parts):
		if parts[2], err = joinEncrypted(parts[2]); err != nil {
			return nil, nil, err
		}
	}
	der, err = wrap(h.tag, bytes.Join(parts, nil))
	return der, in, err
}

// isEncryptedContent tells whether these are the parts of an EncryptedContentInfo whose [0] IMPLICIT OCTET STRING is in pieces. The [0] EXPLICIT
// of other types stands behind an object identifier alone.
func isEncryptedContent(parts [][]byte) bool {
	return len(parts) == 3 && parts[0][0] == byte(cbasn1.OBJECT_IDENTIFIER) && parts[1][0] == byte(cbasn1.SEQUENCE) && parts[2][0] == byte(tag0)
}

func joinEncrypted(der []byte) ([]byte, error) {
	s := cryptobyte.String(der)
	var content, part cryptobyte.String
	if !s.ReadASN1(&content, tag0) {
		return nil, errBER
	}
	var parts [][]byte
	for !content.Empty() {
		if !content.ReadASN1Element(&part, cbasn1.OCTET_STRING) {
			return der, nil // something else that looks like it
		}
		parts = append(parts, part)
	}
	whole, _ := join(parts)
	return wrap(byte(tag0Prim), whole)
}

// join returns the content of a string of octets from its pieces, which are whole strings themselves.
func join(parts [][]byte) (whole []byte, ok bool) {
	for _, part := range parts {
		s := cryptobyte.String(part)
		var content cryptobyte.String
		if !s.ReadASN1(&content, cbasn1.OCTET_STRING) {
			return nil, false
		}
		whole = append(whole, content...)
	}
	return whole, true
}

// berHeader is the beginning of an element.
type berHeader struct {
	tag                     byte
	constructed, indefinite bool
	size, length            int
}

// constructedBit marks elements that consist of others.
const constructedBit = 0x20

func readHeader(in []byte) (h berHeader, err error) {
	if len(in) < 2 || in[0]&0x1f == 0x1f || in[0] == 0 {
		return h, errBER
	}
	h.tag, h.constructed = in[0], in[0]&constructedBit != 0
	first := in[1]
	h.size = 2
	switch {
	case first == 0x80:
		if !h.constructed {
			return h, errBER
		}
		h.indefinite = true
		return h, nil
	case first < 0x80:
		h.length = int(first)
	default:
		n := int(first & 0x7f)
		if h.size += n; n > 4 || len(in) < h.size {
			return h, errBER
		}
		for _, c := range in[2:h.size] {
			h.length = h.length<<8 | int(c)
		}
	}
	if h.length < 0 || h.length > len(in)-h.size {
		return h, errBER
	}
	return h, nil
}

func wrap(tag byte, content []byte) ([]byte, error) {
	return encoded(func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.Tag(tag), func(b *cryptobyte.Builder) { b.AddBytes(content) })
	})
}
