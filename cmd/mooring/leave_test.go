package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/core/audit"
)

// TestOldEntriesLeaveByCommand lets entries leave a running server whose clock has moved on, and proves one of them before and after.
func TestOldEntriesLeaveByCommand(t *testing.T) {
	p := apptest.Start(t, func(c *conf.Config) { c.Database.URL, c.Retention.Audit = "sqlite:mooring.db", audit.MinKeep })
	p.Enrolled(t, "old", "device")
	files := t.TempDir()
	key, before, after := filepath.Join(files, "audit.vkey"), filepath.Join(files, "before.proof"), filepath.Join(files, "after.proof")
	mooring := func(code int, args ...string) string {
		t.Helper()
		var out, problem bytes.Buffer
		if got := run(t.Context(), append([]string{"--dir", p.Config.Dir}, args...), strings.NewReader(""), &out, &problem); got != code {
			t.Fatalf("mooring %q ended with %d, want %d: %s%s", args, got, code, out.String(), problem.String())
		}
		return out.String() + problem.String()
	}
	says := func(text, want string) {
		t.Helper()
		if !strings.Contains(text, want) {
			t.Errorf("it says %q, want %q in it", text, want)
		}
	}
	if err := os.WriteFile(key, []byte(p.AuditKey), 0o600); err != nil {
		t.Fatal(err)
	}
	mooring(0, "audit", "prove", "2", "-o", before)
	says(mooring(0, "retention", "run"), "0 certificates left")
	p.Clock.Move(audit.MinKeep + 32*24*time.Hour)

	says(mooring(0, "retention", "run"), "Of the audit record only the hashes are kept up to the end of ")
	says(mooring(0, "retention", "show"), "entries are kept for 90d; those up to the end of ")
	says(mooring(0, "audit", "verify"), "Left by policy")
	says(mooring(0, "audit", "prove", "2", "-o", after), "Entry 2 left the record by policy on ")
	says(mooring(0, "audit", "check", before, "--log-key", key), "PROVEN: this entry")
	says(mooring(0, "audit", "check", after, "--log-key", key), "PROVEN: an entry with this hash stands")
	proof, err := os.ReadFile(before)
	if err != nil {
		t.Fatal(err)
	}
	entry, err := entryOf(proof)
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(files, "entry")
	if err := os.WriteFile(own, entry, 0o600); err != nil {
		t.Fatal(err)
	}
	says(mooring(0, "audit", "check", after, "--log-key", key, "--entry", own), "PROVEN: this entry")
	if err := os.WriteFile(own, bytes.Replace(entry, []byte(`"action"`), []byte(`"Action"`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	says(mooring(1, "audit", "check", after, "--log-key", key, "--entry", own), "NOT PROVEN")
}
