package audit

import (
	"strings"

	"golang.org/x/mod/sumdb/note"

	"mooring/internal/base/errs"
)

// maxStatement bounds the octets of a signed statement that is read.
const maxStatement = 64 << 10

// SignStatement signs a text with the key of the checkpoints, as a signed note. kind is the text's first line, such as "mooring-export/v1". It
// keeps statements of different kinds apart, and all of them from checkpoints, whose first line is the log's name.
func (l *Log) SignStatement(kind, text string) ([]byte, error) {
	if kind == "" || kind == l.origin || strings.ContainsAny(kind, "\n ") {
		return nil, errs.New(errs.Internal, "a statement of the kind %q cannot be signed", kind)
	}
	if l.signer == nil {
		return nil, errs.New(errs.Unavailable, "nothing can be signed: this server has no audit key")
	}
	signed, err := note.Sign(&note.Note{Text: kind + "\n" + text}, l.signer)
	if err != nil {
		return nil, errs.Wrap(errs.Unavailable, err, "the audit key cannot sign at present")
	}
	return signed, nil
}

// OpenStatement returns the text of a statement of the kind, without its first line, if v's key signed it.
func OpenStatement(signed []byte, kind string, v note.Verifier) (string, error) {
	if len(signed) > maxStatement {
		return "", errs.New(errs.Invalid, "the statement has more than %d octets", maxStatement)
	}
	n, err := note.Open(signed, note.VerifierList(v))
	if err != nil {
		return "", errs.Wrap(errs.Invalid, err, "the statement does not bear a valid signature of %q", v.Name())
	}
	text, ok := strings.CutPrefix(n.Text, kind+"\n")
	if !ok {
		return "", errs.New(errs.Invalid, "this is no statement of the kind %q", kind)
	}
	return text, nil
}
