package est

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
)

// column is the width of base64 lines. One client in the field reads nothing wider, another nothing without line ends.
const column = 64

// EncodeBase64 returns der as base64 in lines of 64 characters, each ended by a line feed. This is the form for all
// answers, except for the clients that need EncodeBase64Line.
func EncodeBase64(der []byte) []byte {
	return wrap(der, "\n")
}

// EncodeBase64Line returns der as base64 on a single line without line end, for clients that read no other form.
func EncodeBase64Line(der []byte) []byte {
	return base64.StdEncoding.AppendEncode(nil, der)
}

func wrap(der []byte, lineEnd string) []byte {
	const octets = column / 4 * 3 // of a full line
	n := base64.StdEncoding.EncodedLen(len(der))
	out := make([]byte, 0, n+(n/column+1)*len(lineEnd))
	for len(der) > 0 {
		line := der[:min(octets, len(der))]
		out = append(base64.StdEncoding.AppendEncode(out, line), lineEnd...)
		der = der[len(line):]
	}
	return out
}

// DecodeBase64 returns the bytes that a body holds as base64. Carriage returns, line feeds, blanks and tabs may stand
// anywhere (RFC 8951, section 3.1), and one PEM armour around the base64 is taken off, since people post such files.
// Everything else is refused: other characters, missing or misplaced padding, an empty body, and bodies over MaxBody.
// The returned error names the cause in words fit for the sender.
func DecodeBase64(body []byte) ([]byte, error) {
	if len(body) > MaxBody {
		return nil, fmt.Errorf("base64 body has %d bytes; at most %d are accepted", len(body), MaxBody)
	}
	text, err := stripArmour(body)
	if err != nil {
		return nil, err
	}
	text = stripBlanks(text)
	if len(text) == 0 {
		return nil, errors.New("base64 body is empty")
	}
	if len(text)%4 != 0 && bytes.IndexByte(text, '=') < 0 {
		return nil, errors.New("base64 body lacks its padding; end it with one or two \"=\"")
	}
	// Strict: bits behind the last byte must be zero, so that one message has one text.
	out := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Strict().Decode(out, text)
	if err != nil {
		return nil, errors.New("body is not base64 (RFC 4648, section 4)")
	}
	return out[:n], nil
}

// stripArmour takes off a PEM armour: one BEGIN line, and one END line with the same label.
func stripArmour(body []byte) ([]byte, error) {
	const dashes = "-----"
	text, ok := bytes.CutPrefix(bytes.Trim(body, " \t\r\n"), []byte(dashes+"BEGIN "))
	if !ok {
		return body, nil
	}
	label, rest, ok := bytes.Cut(text, []byte(dashes))
	if !ok || len(label) > 64 || bytes.ContainsAny(label, "\r\n") {
		return nil, errors.New("PEM armour has a broken BEGIN line")
	}
	end := dashes + "END " + string(label) + dashes
	inner, ok := bytes.CutSuffix(rest, []byte(end))
	if !ok {
		return nil, errors.New("PEM armour must end with the END line that belongs to its BEGIN line")
	}
	return inner, nil
}

func stripBlanks(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for _, c := range text {
		switch c {
		case ' ', '\t', '\r', '\n':
		default:
			out = append(out, c)
		}
	}
	return out
}
