package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// typed runs a command for a person who types these lines at the terminal.
func typed(ctx context.Context, t *testing.T, lines string, args ...string) (code int, report string) {
	t.Helper()
	person, program := terminal(t)
	if _, err := person.WriteString(lines); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	code = run(ctx, args, program, new(bytes.Buffer), &stderr)
	if strings.Contains(stderr.String(), "correct horse") {
		t.Errorf("the passphrase was printed: %s", &stderr)
	}
	return code, stderr.String()
}

// untilReady is a context that ends when a server has written path.
func untilReady(t *testing.T, path string) context.Context {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	go func() {
		defer stop()
		for !exists(path) && ctx.Err() == nil {
			runtime.Gosched()
		}
	}()
	t.Cleanup(stop)
	return ctx
}

func TestPassphraseFromTheTerminal(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	code, report := typed(t.Context(), t, "correct horse 1\ncorrect horse 2\n", "init", "--dir", dir, "--unlock", "prompt")
	if code != 1 || !strings.Contains(report, "the two passphrases differ") || exists(dir) {
		t.Errorf("two passphrases: got %d %q", code, report)
	}
	if code, report := typed(t.Context(), t, "correct horse\ncorrect horse\n", "init", "-q", "--dir", dir, "--unlock", "prompt"); code != 0 {
		t.Fatalf("init: got %d %q", code, report)
	}
	if exists(filepath.Join(dir, "keys", "unlock")) {
		t.Error("the passphrase was written to a file")
	}
	if err := os.WriteFile(filepath.Join(dir, "mooring.yaml"), []byte(freePorts+"keys: {unlock: prompt}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, report = typed(t.Context(), t, "wrong horse\n", "serve", "--dir", dir)
	if code != 3 || !strings.Contains(report, "the unlock material is wrong for this key store") {
		t.Errorf("a wrong passphrase: got %d %q", code, report)
	}
	ready := filepath.Join(t.TempDir(), "ready")
	if code, report := typed(untilReady(t, ready), t, "correct horse\n", "serve", "--dir", dir, "--ready-file", ready); code != 0 {
		t.Errorf("the right passphrase: got %d %q", code, report)
	}
}

// handed returns an open file descriptor, which what reads it closes, at whose end the text stands.
func handed(t *testing.T, text string) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := w.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.Dup(int(r.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("fd:%d", fd)
}

func TestPassphraseFromADescriptor(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	quiet := func(ctx context.Context, args ...string) (int, string) {
		var stderr bytes.Buffer
		code := run(ctx, args, strings.NewReader(""), new(bytes.Buffer), &stderr)
		return code, stderr.String()
	}
	if code, report := quiet(t.Context(), "init", "-q", "--dir", dir, "--unlock", handed(t, "correct horse\n")); code != 0 {
		t.Fatalf("init: got %d %q", code, report)
	}
	for text, want := range map[string]string{"wrong horse\n": "the unlock material is wrong", "\n": "is empty", strings.Repeat("x", 5000): "is longer than 4096 octets"} {
		unlockBy(t, dir, handed(t, text))
		if code, report := quiet(t.Context(), "serve", "--dir", dir); code == 0 || !strings.Contains(report, want) {
			t.Errorf("%.12q: got %d %q, want %q", text, code, report, want)
		}
	}
	unlockBy(t, dir, handed(t, "correct horse\n"))
	ready := filepath.Join(t.TempDir(), "ready")
	if code, report := quiet(untilReady(t, ready), "serve", "--dir", dir, "--ready-file", ready); code != 0 {
		t.Errorf("the right passphrase: got %d %q", code, report)
	}
}

func unlockBy(t *testing.T, dir, source string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "mooring.yaml"), []byte(freePorts+"keys: {unlock: \""+source+"\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}
