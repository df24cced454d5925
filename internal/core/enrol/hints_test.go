package enrol

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// FuzzIDsIn: what is found is what a regular expression finds.
func FuzzIDsIn(f *testing.F) {
	id := "0123456789abcdef0123456789abcdef"
	for _, text := range []string{"", id, "urn:mooring:device:" + id, id[1:], id + "0", id + id, id + id + id, "x" + id[:31] + "g" + id, strings.ToUpper(id), id[:16] + "-" + id[16:], "é" + id + "é", id[:20] + "\xff" + id} {
		f.Add(text)
	}
	want := regexp.MustCompile(`[0-9a-f]{32}`)
	f.Fuzz(func(t *testing.T, text string) {
		for most := 1; most <= 3; most++ {
			if got, want := idsIn(text, most), want.FindAllString(text, most); !slices.Equal(got, want) {
				t.Errorf("%q has %q, want %q", text, got, want)
			}
		}
	})
}
