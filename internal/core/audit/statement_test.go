package audit

import (
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
)

func TestStatementsAreNoCheckpointsAndNotOfAnotherKind(t *testing.T) {
	signer, vkey, err := NoteKey("test.example/audit", make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	l := &Log{origin: "test.example/audit", signer: signer, verifier: v}
	for _, kind := range []string{"", "test.example/audit", "a\nb", "a b"} {
		if _, err := l.SignStatement(kind, "x\n"); err == nil {
			t.Errorf("a statement of the kind %q was signed", kind)
		}
	}
	signed, err := l.SignStatement("mooring-export/v1", "rows: 3\n")
	if err != nil {
		t.Fatal(err)
	}
	if text, err := OpenStatement(signed, "mooring-export/v1", v); err != nil || text != "rows: 3\n" {
		t.Errorf("got %q, %v", text, err)
	}
	if _, err := OpenStatement(signed, "mooring-export/v2", v); err == nil {
		t.Error("a statement was taken for one of another kind")
	}
	if _, err := openCheckpoint(signed, v); err == nil {
		t.Error("a statement was taken for a checkpoint")
	}
	if _, err := OpenStatement([]byte(strings.Replace(string(signed), "rows: 3", "rows: 4", 1)), "mooring-export/v1", v); err == nil {
		t.Error("a changed statement was accepted")
	}
}
