package minutes_test

import (
	"bytes"
	"testing"

	"mooring/internal/core/ceremony/minutes"
)

// FuzzParse wants no input to do harm.
func FuzzParse(f *testing.F) {
	f.Add([]byte("mooring ceremony record, version 1\n\nentry: 1\nat: 2026-11-26T09:00:00Z\nby: a\nact: root.create\nprevious: 00\nhash: 00\nsignature: AA==\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if r, err := minutes.Parse(text); err == nil && !bytes.Equal(r.Text(), text) {
			t.Errorf("%q is read as another text", text)
		}
	})
}
