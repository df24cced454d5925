//go:build unix

package app_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"mooring/internal/app"
	"mooring/internal/app/apptest"
	"mooring/internal/base/errs"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
	"mooring/internal/core/enrol"
)

// TestFullDisk has a process of its own run out of room for its files. It proves, in fullDiskChild, that a request is then refused with a
// text, that nothing was issued, and that the same process goes on when there is room again.
func TestFullDisk(t *testing.T) {
	ofFiles(t)
	c, _ := apptest.Init(t, &apptest.Clock{}, &apptest.Log{}, onSQLite)
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), child+"=full", childDir+"="+c.Dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	// A start without room is told like a read-only disk.
	cmd = exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), child+"=full", childDir+"="+c.Dir, "MOORING_APP_TEST_START=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("at the start: %v: %s", err, out)
	}
}

// room sets how large this process's files may grow, in octets.
func room(n uint64) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	limit.Cur = min(n, limit.Max)
	return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit)
}

func fullDiskChild(ctx context.Context, dir string) error {
	signal.Ignore(syscall.SIGXFSZ)
	if os.Getenv("MOORING_APP_TEST_START") != "" {
		return startWithoutRoom(ctx, dir)
	}
	p, err := load(ctx, dir, app.Build)
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	ready, stopped := make(chan struct{}), make(chan error, 1)
	go func() { stopped <- p.Run(running, func() { close(ready) }) }()
	<-ready
	err = enrolWithoutRoom(ctx, p, dir)
	stop()
	if late := <-stopped; err == nil {
		err = late
	}
	return err
}

func startWithoutRoom(ctx context.Context, dir string) error {
	if err := room(0); err != nil {
		return err
	}
	_, err := load(ctx, dir, app.Build)
	if !errs.Is(err, errs.Unavailable) {
		return fmt.Errorf("a start without room: got %v, want it unavailable", err)
	}
	if !strings.HasPrefix(errs.Public(err), "the ") || !strings.HasSuffix(errs.Public(err), "(permissions, read-only or full disk?)") {
		return fmt.Errorf("a start without room: got %q", errs.Public(err))
	}
	return nil
}

func enrolWithoutRoom(ctx context.Context, p *app.Platform, dir string) error {
	ask, err := requester(ctx, p)
	if err != nil {
		return err
	}
	log, err := os.Stat(filepath.Join(dir, "mooring.db-wal"))
	if err != nil {
		return err
	}
	if err := room(uint64(log.Size())); err != nil {
		return err
	}
	_, err = p.Enrol.Submit(ctx, ask)
	const want = "the store cannot be read or written at present"
	if !errs.Is(err, errs.Unavailable) || errs.Public(err) != want {
		return fmt.Errorf("without room: got %v, want %q", err, want)
	}
	if _, again := errs.RetryAfter(err); !again {
		return fmt.Errorf("without room: nobody says when to come again")
	}
	if p.DB.Fault() == nil {
		return fmt.Errorf("without room: the platform says that it can store")
	}
	if err := room(1 << 40); err != nil {
		return err
	}
	// The very same request, as a device repeats it.
	if _, err := p.Enrol.Submit(ctx, ask); err != nil {
		return fmt.Errorf("with room again: %w", err)
	}
	if p.DB.Fault() != nil {
		return fmt.Errorf("with room again: the platform still says that it cannot store: %w", p.DB.Fault())
	}
	report, err := p.Audit.Verify(ctx, audit.VerifyOptions{Checkers: p.Checkers()})
	if err != nil || len(report.Findings) > 0 {
		return fmt.Errorf("afterwards: %v, %v", report.Findings, err)
	}
	id, _ := p.Devices.IDOf("meter-1")
	if d, err := p.Devices.Load(ctx, id); err != nil || d.Issued != 1 {
		return fmt.Errorf("afterwards: the device was issued %d certificates, %w", d.Issued, err)
	}
	return nil
}

// requester registers a device and returns its request.
func requester(ctx context.Context, p *app.Platform) (enrol.Request, error) {
	d, err := p.Devices.Add(ctx, apptest.Operator(), device.Spec{Name: "meter-1", Profile: "device"})
	if err != nil {
		return enrol.Request{}, err
	}
	token, _, err := p.Devices.Token(ctx, apptest.Operator(), d.ID, 0)
	if err != nil {
		return enrol.Request{}, err
	}
	csr, err := makeCSR()
	return enrol.Request{Protocol: "est", Op: enrol.Enrol, Basic: true, User: "meter-1", Secret: token, CSR: csr}, err
}

// makeCSR is a request with an empty subject for a new key.
func makeCSR() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
}
