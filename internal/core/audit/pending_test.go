package audit

import (
	"slices"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"mooring/internal/base/db/dbtest"
)

// lateSigner does something once, the first time that a checkpoint is signed: after the sequencer has read what was committed.
type lateSigner struct {
	note.Signer
	late func()
}

func (s *lateSigner) Sign(msg []byte) ([]byte, error) {
	if late := s.late; late != nil {
		s.late = nil
		late()
	}
	return s.Signer.Sign(msg)
}

// TestCheckersSeeLateEntries commits an entry between the sequencing and the transaction of a verification. The tables of a slice show its
// effect by then, so the checkers must have been told of it.
func TestCheckersSeeLateEntries(t *testing.T) {
	signer, verifier := testKey(t, 1)
	late := &lateSigner{Signer: signer}
	l := New(dbtest.Open(t, Schema()), Options{Origin: origin, Signer: late, Verifier: verifier, BatchKey: testBatchKey(1), Now: newClock().Now})
	fill(t, l, 0, 10)
	late.late = func() { fill(t, l, 10, 3) }
	var told []string
	var indices []int64
	report, err := l.Verify(t.Context(), VerifyOptions{Checkers: []Checker{{Name: "test", Entry: func(index int64, e Entry) error {
		told, indices = append(told, e.Action+e.Serial+e.Device), append(indices, index)
		return nil
	}}}})
	if err != nil || len(report.Findings) > 0 {
		t.Fatalf("got %v, %v", report.Findings, err)
	}
	if report.Entries != 10 || report.Pending == 0 {
		t.Errorf("%d entries in the tree and %d batches beside it, want 10 and some: the test shows nothing", report.Entries, report.Pending)
	}
	var want []string
	for n := range 13 {
		e := sample(n)
		want = append(want, e.Action+e.Serial+e.Device)
	}
	if !slices.Equal(told, want) {
		t.Errorf("told of %q, want %q", told, want)
	}
	for i, index := range indices {
		if index != int64(i) {
			t.Errorf("entry %d was told as %d", i, index)
		}
	}
}
