// Package mooring stands for the repository as a whole: it has no code, only the test that the tree keeps its own rules.
// What the rules are is written in architecture.txt, standards.txt and doc/dependencies.md; package internal/arch says how
// they are read.
package mooring

import (
	"os"
	"testing"

	"mooring/internal/arch"
)

func TestArchitecture(t *testing.T) {
	t.Parallel()
	found, err := arch.Check(os.DirFS("."))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range found {
		t.Error(line)
	}
}
