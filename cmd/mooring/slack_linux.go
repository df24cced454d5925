package main

import (
	"os"
	"runtime"
	"slices"
	"syscall"
)

// slack is how late the system may wake a thread that sleeps for a time, in nanoseconds. Linux gives each thread 50 µs.
const (
	slackGiven = 50_000
	slackTaken = 1_000_000
)

// allowSlack has a process that serves, or measures, sleep with more slack. Go's runtime has a thread that watches the others and, while anything
// runs, sleeps for 20 µs before it looks again; under a moderate load, as that of a single client, its waking up was a fifth of the server's CPU time.
// With this slack it looks once a millisecond, which delays nothing of what it is there for by more, and timers by no more than what the runtime
// rounds them to anyway when it has nothing else to do.
//
// The slack is a thread's own, that thread is there before any code of ours, and nothing reaches it. But a program inherits the slack of the thread
// that executes it, so the process executes itself once more. Who has set the slack (TimerSlackNSec= of systemd) decides himself; where the program
// cannot be executed everything stays as it is.
func allowSlack(args []string) {
	if !slices.Contains(args[1:], "serve") && !slices.Contains(args[1:], "bench") {
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if slackOf() != slackGiven || !setSlack(slackTaken) {
		return
	}
	if self, err := os.Executable(); err == nil {
		executeAgain(self, args)
	}
	setSlack(slackGiven) // else programs that this thread starts would inherit it
}

// executeAgain has self take the place of this program. It returns only when that fails.
func executeAgain(self string, args []string) {
	var files syscall.Rlimit
	unknown := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files)
	_ = syscall.Exec(self, args, os.Environ())
	if unknown == nil { // Exec has lowered the soft limit to what it was before Go raised it, for the next program, and leaves it there: 1024 as a rule
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &files)
	}
}

// slackOf is that of the calling thread.
func slackOf() uintptr {
	have, _, _ := syscall.RawSyscall6(syscall.SYS_PRCTL, syscall.PR_GET_TIMERSLACK, 0, 0, 0, 0, 0)
	return have
}

func setSlack(to uintptr) bool {
	_, _, failed := syscall.RawSyscall6(syscall.SYS_PRCTL, syscall.PR_SET_TIMERSLACK, to, 0, 0, 0, 0)
	return failed == 0
}
