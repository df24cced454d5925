package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"mooring/agent"
	"mooring/agent/esttest"
)

// terminal returns the two ends of a pseudo-terminal: where the person sits, and where the program does.
func terminal(t *testing.T) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = person.Close() })
	var number, unlock uint32
	for request, value := range map[uintptr]*uint32{syscall.TIOCSPTLCK: &unlock, syscall.TIOCGPTN: &number} {
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, person.Fd(), request, uintptr(unsafe.Pointer(value))); errno != 0 {
			t.Fatal(errno)
		}
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = program.Close() })
	return person, program
}

// echoes tells whether the terminal shows what is typed.
func echoes(t *testing.T, program *os.File) bool {
	t.Helper()
	var mode syscall.Termios
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, program.Fd(), syscall.TCGETS, uintptr(unsafe.Pointer(&mode))); errno != 0 {
		t.Error(errno)
		return false
	}
	return mode.Lflag&syscall.ECHO != 0
}

// enrolAtTerminal runs the enrolment, and does something as soon as the program reads without showing.
func (d *device) enrolAtTerminal(ctx context.Context, program *os.File, then func(), more ...string) (code int, report string) {
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		for echoes(d.t, program) && ctx.Err() == nil {
			runtime.Gosched()
		}
		then()
	}()
	args := append([]string{"agent"}, d.enrolArgs("--ca", d.ca, "--dir", d.dir)...)
	var stderr bytes.Buffer
	code = run(ctx, append(args, more...), program, new(bytes.Buffer), &stderr)
	<-asked
	if !echoes(d.t, program) {
		d.t.Error("the terminal does not echo any more")
	}
	return code, stderr.String()
}

func TestAgentAsksForTheTokenAtATerminal(t *testing.T) {
	for name, flags := range map[string][]string{"by default": nil, "with --token-stdin": {"--token-stdin"}} {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t, esttest.Options{})
			person, program := terminal(t)
			enter := func() { // Enter, and no end of input
				if _, err := person.WriteString("claim-code\n"); err != nil {
					t.Error(err)
				}
			}
			code, report := d.enrolAtTerminal(t.Context(), program, enter, flags...)
			if code != exitOK || !strings.Contains(report, "Token of dev1: ") {
				t.Fatalf("exit code %d: %s", code, report)
			}
			if s := d.status(); s.Condition != agent.Enrolled {
				t.Errorf("status %+v", s)
			}
			if _, err := program.WriteString("#"); err != nil {
				t.Fatal(err)
			}
			screen, err := bufio.NewReader(person).ReadString('#')
			if err != nil || strings.Contains(screen+report, "claim-code") {
				t.Errorf("the token is on the screen: %q, %v", screen, err)
			}
		})
	}
}

func TestAgentEmptyAnswerAtATerminal(t *testing.T) {
	d := newDevice(t, esttest.Options{})
	person, program := terminal(t)
	enter := func() {
		if _, err := person.WriteString("\n"); err != nil {
			t.Error(err)
		}
	}
	if code, report := d.enrolAtTerminal(t.Context(), program, enter); code != exitFailure || !strings.Contains(report, "mooring device token dev1") {
		t.Errorf("exit code %d: %s", code, report)
	}
}

// Whoever interrupts the question gets a terminal that echoes again.
func TestAgentInterruptedAtTheQuestion(t *testing.T) {
	d := newDevice(t, esttest.Options{})
	_, program := terminal(t)
	ctx, cancel := context.WithCancel(t.Context())
	if code, report := d.enrolAtTerminal(ctx, program, cancel); code != exitFailure || !strings.Contains(report, "interrupted") {
		t.Errorf("exit code %d: %s", code, report)
	}
}
