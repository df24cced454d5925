package conf

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

type plant struct {
	Kind  string   `yaml:"kind"`
	Rooms []string `yaml:"rooms"`
}

func TestFiles(t *testing.T) {
	put := func(t *testing.T, files map[string]string) string {
		t.Helper()
		dir := t.TempDir()
		for name, text := range files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	got, err := Files[plant](put(t, map[string]string{"a.yaml": "kind: mill\nrooms: [north, south]\n", "b.yaml": "kind: depot\n", "notes.txt": "}{"}))
	if err != nil || len(got) != 2 || got["a"].Kind != "mill" || len(got["a"].Rooms) != 2 || got["b"].Kind != "depot" {
		t.Errorf("got %v, %v", got, err)
	}
	for name, c := range map[string]struct {
		files map[string]string
		want  []string
	}{
		"an unknown key": {map[string]string{"a.yaml": "kind: mill\nroom: 1\n"}, []string{`a.yaml:2: unknown field "room"`}},
		"a wrong type":   {map[string]string{"a.yaml": "kind: mill\nrooms: 7\n"}, []string{"a.yaml:2: "}},
		"not YAML":       {map[string]string{"a.yaml": "kind: [\n"}, []string{"a.yaml:1: "}},
		"two files":      {map[string]string{"a.yaml": "kinds: x\n", "b.yaml": "kind: x\nroom: y\n"}, []string{"a.yaml:1: ", "b.yaml:2: "}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Files[plant](put(t, c.files))
			for _, want := range c.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %q in it", err, want)
				}
			}
		})
	}
	if _, err := Files[plant](filepath.Join(t.TempDir(), "none")); err == nil || !strings.Contains(err.Error(), "cannot be read: make it") {
		t.Errorf("an absent directory: %v", err)
	}
}
