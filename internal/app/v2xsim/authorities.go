package v2xsim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"mooring/internal/app"
	"mooring/internal/base/conf"
)

// startTime is how long an authority may take until it listens.
const startTime = time.Minute

// authorities are what the fleet talks to: either the whole platform in this process, or the platform and the authorization authority in a process each.
type authorities struct {
	stop    context.CancelFunc
	stopped chan error
	apart   []*process // the enrolment authority with the root and the distribution centre, and the authorization authority
}

// aaConfig is the configuration of an authorization authority alone.
const aaConfig = `name: Mooring Simulation
listen: {v2x_aa: %q}
v2x: {aa_dir: %q, dc_url: %q, ea_timeout: 20s, butterfly: %t}
limits: {connections_per_address: 2048, handshakes_per_address: 100000, handshakes_per_second: 100000, requests_per_second: 100000, request_burst: 1048576}
`

// writeAA makes the directory from which the authorization authority runs alone. Only its configuration is there.
func writeAA(dir, listen string, c *conf.Config, made app.V2XMade) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, conf.FileName), fmt.Appendf(nil, aaConfig, listen, made.Dir, c.V2XDCURL(), c.V2X.Butterfly.On), 0o600)
}

// together runs the platform in this process.
func together(ctx context.Context, o app.Options) (*authorities, error) {
	p, err := app.Build(ctx, o)
	if err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(ctx)
	a := &authorities{stop: stop, stopped: make(chan error, 1)}
	ready := make(chan struct{})
	go func() { a.stopped <- p.Run(running, func() { close(ready) }) }()
	select {
	case <-ready:
		return a, nil
	case err := <-a.stopped:
		stop()
		return nil, fmt.Errorf("starting the platform: %w", err)
	}
}

// close stops everything and waits for it. It may be called more than once.
func (a *authorities) close() (err error) {
	if a == nil {
		return nil
	}
	if a.stop != nil {
		a.stop()
		a.stop = nil
		err = <-a.stopped
	}
	for _, p := range a.apart {
		err = errors.Join(err, p.end())
	}
	a.apart = nil
	return err
}

// process is an authority in a process of its own.
type process struct {
	name    string
	command func() *exec.Cmd
	listens []string
	log     string // file that its log goes to

	mu  sync.Mutex // held by who kills and starts it
	cmd *exec.Cmd
	out *os.File
}

// start starts the process and waits until it listens.
func (p *process) start(ctx context.Context) (err error) {
	if p.out, err = os.OpenFile(p.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
		return err
	}
	p.cmd = p.command()
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	if err := p.cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("starting %s: %w", p.name, err), p.out.Close())
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for _, address := range p.listens {
		if err := listening(ctx, address); err != nil {
			text, _ := os.ReadFile(p.log) // it only explains
			return errors.Join(fmt.Errorf("%s does not listen on %s: %w\n%s", p.name, address, err, text), p.kill())
		}
	}
	return nil
}

// listening waits until somebody listens.
func listening(ctx context.Context, address string) error {
	var d net.Dialer
	for {
		conn, err := d.DialContext(ctx, "tcp", address)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// kill ends the process as a power cut would, and waits until it is gone.
func (p *process) kill() error {
	if err := p.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("killing %s: %w", p.name, err)
	}
	var exit *exec.ExitError
	if err := p.cmd.Wait(); err != nil && !errors.As(err, &exit) { // "signal: killed" is what is wanted
		return err
	}
	p.cmd = nil
	return p.out.Close()
}

// end stops the process in order.
func (p *process) end() error {
	if p.cmd == nil {
		return nil
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stopping %s: %w", p.name, err)
	}
	err := p.cmd.Wait()
	p.cmd = nil
	if err != nil {
		err = fmt.Errorf("%s, see %s: %w", p.name, p.log, err)
	}
	return errors.Join(err, p.out.Close())
}
