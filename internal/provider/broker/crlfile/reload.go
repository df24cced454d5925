package crlfile

import (
	"context"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"mooring/internal/base/errs"
)

const (
	commandTime = 30 * time.Second
	maxOutput   = 500 // octets of a command's output that are shown
)

// Hangup returns a Reload that sends SIGHUP to the process whose number is in a file.
func Hangup(pidFile string) func(context.Context) error {
	return func(context.Context) error {
		text, err := os.ReadFile(pidFile)
		if err != nil {
			return errs.Wrap(errs.Unavailable, err, "the file %s with the broker's process number cannot be read: does the broker write it (mosquitto: pid_file), and does it run?", pidFile)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil || pid <= 1 {
			return errs.New(errs.Invalid, "the file %s holds no process number", pidFile)
		}
		process, err := os.FindProcess(pid)
		if err == nil {
			err = process.Signal(syscall.SIGHUP)
		}
		if err != nil {
			return errs.Wrap(errs.Unavailable, err, "the process %d cannot be sent SIGHUP: %v", pid, err)
		}
		return nil
	}
}

// Command returns a Reload that runs a command, which is successful when it ends with 0. No shell is between.
func Command(words ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, commandTime)
		defer cancel()
		out, err := exec.CommandContext(ctx, words[0], words[1:]...).CombinedOutput()
		if err != nil {
			return errs.Wrap(errs.Unavailable, err, "%q ended with %v: %.*q", words[0], err, maxOutput, out)
		}
		return nil
	}
}
