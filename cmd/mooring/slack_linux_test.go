package main

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// printSlack is a program that tells its slack after allowSlack.
func printSlack() {
	allowSlack(os.Args)
	runtime.LockOSThread()
	os.Stdout.WriteString(strconv.Itoa(int(slackOf())))
}

// Who serves gets more slack, and who has been given some by others keeps it.
func TestAllowSlack(t *testing.T) {
	for _, row := range []struct {
		name  string
		given uintptr
		args  []string
		want  string
	}{
		{"serve", slackGiven, []string{"serve"}, strconv.Itoa(slackTaken)},
		{"serve after a flag", slackGiven, []string{"--json", "serve"}, strconv.Itoa(slackTaken)},
		{"another command", slackGiven, []string{"device", "list"}, strconv.Itoa(slackGiven)},
		{"given by others", 70_000, []string{"serve"}, "70000"},
	} {
		t.Run(row.name, func(t *testing.T) {
			runtime.LockOSThread() // a child inherits the slack of the thread that starts it
			defer runtime.UnlockOSThread()
			before := slackOf()
			if !setSlack(row.given) {
				t.Fatal("the slack cannot be set")
			}
			defer setSlack(before)
			got, err := exec.CommandContext(t.Context(), "print-slack", row.args...).Output()
			if err != nil || string(got) != row.want {
				t.Errorf("got %q, %v, want %s", got, err, row.want)
			}
		})
	}
}

// printFiles is a program that tells how many files it may open, before and after it could not execute itself.
func printFiles() {
	for range 2 {
		var files syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
			panic(err)
		}
		os.Stdout.WriteString(strconv.FormatUint(files.Cur, 10) + " ")
		executeAgain("/does/not/exist", os.Args)
	}
}

// Who cannot be executed again may open as many files as before.
func TestExecuteAgainFails(t *testing.T) {
	got, err := exec.CommandContext(t.Context(), "/bin/sh", "-c", "ulimit -S -n 64; ulimit -H -n 128; exec print-files").Output()
	if limits := strings.Fields(string(got)); err != nil || len(limits) != 2 || limits[0] == "64" || limits[1] != limits[0] {
		t.Errorf("got %q, %v, want what Go has raised it to twice", got, err)
	}
}
