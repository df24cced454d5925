package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"

	"mooring/internal/app/bench"
)

// TestBenchCut runs the benchmark small: on one node, and on three over the PostgreSQL of MOORING_TEST_DB or, where its programs are installed, one of the
// test's own. A device that takes nothing is measured while the server still waits for it, so nothing else runs meanwhile.
func TestBenchCut(t *testing.T) {
	for _, row := range []struct {
		name, suffix string
		flags        []string
	}{
		{"one node", "", nil},
		{"three nodes", ", 3 nodes", []string{"--nodes", "3", "--database", "$MOORING_TEST_DB"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			words := append(strings.Fields("mooring bench cut --devices 12 --n 3 --json"), row.flags...)
			if row.flags != nil {
				words = withPostgres(words)
			}
			var said bytes.Buffer
			cmd := exec.Command(words[0], words[1:]...)
			cmd.Stderr = &said
			out, err := cmd.Output()
			if strings.Contains(said.String(), "no PostgreSQL server found") {
				t.Skip("three nodes need PostgreSQL: install it, or set MOORING_TEST_DB")
			}
			if err != nil {
				t.Fatalf("%v: %v\n%s", words, err, said.String())
			}
			want := []struct {
				name string
				n    int
			}{{"one device", 3}, {"one device that reads nothing", 3}, {"all devices of one CA", 6}}
			lines := json.NewDecoder(bytes.NewReader(out))
			for _, w := range want {
				var l bench.Line
				if err := lines.Decode(&l); err != nil {
					t.Fatalf("reading the result of %q: %v, in %s", w.name, err, out)
				}
				if l.Bench != "cut" || l.Case != w.name+row.suffix || l.N != w.n {
					t.Errorf("the line is of %q, %q, %d; want cut, %q, %d", l.Bench, l.Case, l.N, w.name+row.suffix, w.n)
				}
				if l.P50 <= 0 || l.P99 < l.P50 || l.Max < l.P99 || l.RSS <= 0 {
					t.Errorf("%s: p50 %v, p99 %v and at most %v ms, %v MiB", l.Case, l.P50, l.P99, l.Max, l.RSS)
				}
			}
			if lines.More() {
				t.Errorf("there are more than %d lines: %s", len(want), out)
			}
		})
	}
}

// withPostgres returns the words of a command in which $MOORING_TEST_DB stands for the URL of a PostgreSQL server.
func withPostgres(words []string) []string {
	shell := []string{"sh", "-c", "exec \"$@\" \"$MOORING_TEST_DB\"", "sh"}
	if os.Getenv("MOORING_TEST_DB") == "" {
		shell = append([]string{"../../.ci/postgres", "run"}, shell...)
	}
	return append(shell, words[:len(words)-1]...)
}

func TestBenchCutRefuses(t *testing.T) {
	for _, row := range []struct{ flags, says string }{
		{"--nodes 3", "3 nodes share one database, and SQLite belongs to one process: name a PostgreSQL server"},
		{"--nodes 3 --database sqlite", "3 nodes share one database, and SQLite belongs to one process: name a PostgreSQL server"},
		{"--nodes 0", "--nodes must lie between 1 and 9"},
		{"--nodes 10 --database postgres://127.0.0.1/x", "--nodes must lie between 1 and 9"},
		{"--database mysql://127.0.0.1/x", "--database is \"sqlite\" or a URL such as"},
		{"--devices 23 --n 20", "23 devices are too few: 20 are cut off one by one, 3 more while they read nothing"},
	} {
		out, err := exec.Command("mooring", append([]string{"bench", "cut"}, strings.Fields(row.flags)...)...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), row.says) {
			t.Errorf("bench cut %s: %v, %q; want %q", row.flags, err, out, row.says)
		}
	}
}
