package approve

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// TestASummaryIsCutBetweenCharacters: PostgreSQL takes no text that is not UTF-8.
func TestASummaryIsCutBetweenCharacters(t *testing.T) {
	w := newWorld(t)
	a := act("job 1", "these")
	a.Summary = strings.Repeat("€", 400)
	if got := w.request(t, anna, a).Summary; !utf8.ValidString(got) || len(got) < textMost-utf8.UTFMax {
		t.Errorf("%d octets are kept: %q", len(got), got)
	}
}
