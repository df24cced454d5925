// Package demo runs a fleet through a whole platform on this machine: real listeners on loopback, the embedded database, and devices that
// enrol, renew and are refused as real ones are, by the protocol and through the public agent package.
//
// It is what "mooring demo" shows and what CI runs. It deliberately takes no short cut into the platform but one: the operator's part
// (registering devices, revoking one) is done in process, as a local operator.
package demo

import (
	"bytes"
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"mooring/internal/app"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
	"mooring/internal/core/revoke"
)

// Options say how large the fleet is and what the caller wants to hear.
type Options struct {
	Dir     string // the data directory to make; must not exist or be empty
	Devices int    // 1 to MaxDevices
	Log     *slog.Logger
	Now     func() time.Time
	// Progress, if not nil, is told how far a stage is; it may be called from several goroutines.
	Progress func(stage string, done, total int)
}

// MaxDevices bounds the fleet: each device is simulated, with keys and connections of its own.
const MaxDevices = 100_000

// Result is what was measured.
type Result struct {
	Devices  int `json:"devices"`
	Enrolled int `json:"enrolled"`
	Renewed  int `json:"renewed"`
	// Connected is how many of them were connected by MQTT at once, and Messages what they published and a service heard.
	Connected int    `json:"connected"`
	Messages  int    `json:"messages"`
	Revoked   int    `json:"revoked"`
	Refused   int    `json:"refused"` // renewals of the revoked device that the platform refused
	Entries   int64  `json:"entries"` // in the audit record
	Audit     string `json:"audit"`   // "verified", or what does not fit
	OCSP      string `json:"ocsp"`    // what the status listener says about the revoked certificate

	EnrolPerSecond float64 `json:"enrol_per_s"`
	RenewPerSecond float64 `json:"renew_per_s"`
	CutOff         float64 `json:"cut_off_ms"` // from the revocation's commit to the refusal, in milliseconds
	// Cut is from the operator's request to revoke to the end of the device's connection, in milliseconds.
	Cut               float64       `json:"cut_ms"`
	MessagesPerSecond float64       `json:"messages_per_s"`
	Seconds           float64       `json:"seconds"`
	Addresses         app.Addresses `json:"addresses"`
	Fingerprint       string        `json:"fingerprint"` // of the root certificate, SHA-256
	Dir               string        `json:"dir"`
}

// Demo is a running platform with its fleet.
type Demo struct {
	o        Options
	platform *app.Platform
	made     app.InitResult
	stop     context.CancelFunc
	stopped  chan error
}

// Start makes a data directory and brings the platform up. The caller calls Close.
func Start(ctx context.Context, o Options) (*Demo, error) {
	if o.Devices < 1 || o.Devices > MaxDevices {
		return nil, fmt.Errorf("a fleet of %d devices cannot be shown; choose 1 to %d", o.Devices, MaxDevices)
	}
	c, err := app.Loopback("Mooring Demo")
	if err != nil {
		return nil, err
	}
	c.Listen.MQTT = "127.0.0.1:0"
	d := &Demo{o: o, stopped: make(chan error, 1)}
	if d.made, err = app.Init(ctx, app.InitOptions{Dir: o.Dir, Config: c, Now: o.Now, Log: o.Log}); err != nil {
		return nil, err
	}
	if d.platform, err = app.Build(ctx, app.Options{Config: c, Keys: d.made.Keys, Now: o.Now, Log: o.Log}); err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(ctx)
	d.stop = stop
	ready := make(chan struct{})
	go func() { d.stopped <- d.platform.Run(running, func() { close(ready) }) }()
	select {
	case <-ready:
		return d, nil
	case err := <-d.stopped:
		stop()
		return nil, fmt.Errorf("starting the platform: %w", err)
	}
}

// Addresses returns where the platform can be looked at.
func (d *Demo) Addresses() app.Addresses { return d.platform.Addresses() }

// Done returns a channel that gives the platform's end, should it come by itself.
func (d *Demo) Done() <-chan error { return d.stopped }

// Close stops the platform and waits for it.
func (d *Demo) Close() error {
	d.stop()
	return <-d.stopped
}

func (d *Demo) progress(stage string, done, total int) {
	if d.o.Progress != nil {
		d.o.Progress(stage, done, total)
	}
}

// operator is who does the operator's part.
func operator() access.Actor {
	return access.Actor{Kind: access.KindLocal, ID: "demo", Role: access.RoleAdmin, Via: "demo"}
}

// Fleet runs the fleet through its life once and returns what was measured.
func (d *Demo) Fleet(ctx context.Context) (Result, error) {
	began := d.o.Now()
	r := Result{Devices: d.o.Devices, Addresses: d.Addresses(), Fingerprint: d.made.Fingerprint, Dir: d.made.Dir}
	tokens, err := d.register(ctx)
	if err != nil {
		return r, fmt.Errorf("registering the devices: %w", err)
	}
	f, err := newFleet(d, tokens)
	if err != nil {
		return r, err
	}
	if r.Enrolled, r.EnrolPerSecond, err = f.each(ctx, "enrol", (*simulated).enrol); err != nil {
		return r, err
	}
	if r.Renewed, r.RenewPerSecond, err = f.each(ctx, "renew", (*simulated).renew); err != nil {
		return r, err
	}
	if err := d.talk(ctx, f, &r); err != nil {
		return r, err
	}
	if err := d.cutOff(ctx, f, &r); err != nil {
		return r, err
	}
	if err := d.verify(ctx, &r); err != nil {
		return r, err
	}
	r.Seconds = d.o.Now().Sub(began).Seconds()
	return r, nil
}

// register imports the fleet and returns the one-time token of each device.
func (d *Demo) register(ctx context.Context) (map[string]string, error) {
	var file, out bytes.Buffer
	file.WriteString("name,group,profile,tags\n")
	for i := range d.o.Devices {
		fmt.Fprintf(&file, "meter-%06d,hall-%d,device,model=M%d\n", i+1, i%4+1, i%3+1)
	}
	src := device.Source{R: &file, Name: "fleet.csv", Format: "csv", Size: int64(file.Len()), Tokens: &out}
	if _, err := d.platform.Devices.Import(ctx, operator(), src, func(done, total int64) { d.progress("register", int(done), int(total)) }); err != nil {
		return nil, err
	}
	return readTokens(&out)
}

func readTokens(r io.Reader) (map[string]string, error) {
	rows, err := csv.NewReader(r).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("reading the tokens: %w", err)
	}
	tokens := make(map[string]string, len(rows))
	for _, row := range rows[1:] {
		tokens[row[0]] = row[1]
	}
	return tokens, nil
}

// cutOff revokes one device and has it try to renew.
func (d *Demo) cutOff(ctx context.Context, f *fleet, r *Result) error {
	lost := f.devices[0]
	id, _ := d.platform.Devices.IDOf(lost.name)
	asked := d.o.Now()
	if _, err := d.platform.Revoke.Device(ctx, operator(), id, device.Lose, revoke.KeyCompromise); err != nil {
		return fmt.Errorf("revoking %s: %w", lost.name, err)
	}
	r.Revoked = 1
	at := d.o.Now()
	var err error
	if r.Cut, err = lost.gone(ctx, f, asked); err != nil {
		return err
	}
	err = lost.renew(ctx, f)
	if !isRefused(err) {
		return fmt.Errorf("the revoked device %s was not refused: %v", lost.name, err)
	}
	r.Refused, r.CutOff = 1, float64(d.o.Now().Sub(at).Microseconds())/1000
	r.OCSP, err = f.status(ctx, lost)
	return err
}

// verify recomputes the whole record and compares it with what is stored.
func (d *Demo) verify(ctx context.Context, r *Result) error {
	report, err := d.platform.Audit.Verify(ctx, audit.VerifyOptions{Checkers: d.platform.Checkers(), Progress: func(done, total int64) {
		d.progress("verify", int(done), int(total))
	}})
	if err != nil {
		return fmt.Errorf("verifying the record: %w", err)
	}
	r.Entries, r.Audit = report.Entries, "verified"
	if len(report.Findings) > 0 {
		r.Audit = report.Findings[0].String()
		return fmt.Errorf("the record does not verify: %s", r.Audit)
	}
	return nil
}

// TempDir returns a fresh directory for a demonstration and what removes it.
func TempDir() (dir string, remove func() error, err error) {
	parent, err := os.MkdirTemp("", "mooring-demo-")
	if err != nil {
		return "", nil, fmt.Errorf("making a directory: %w", err)
	}
	return filepath.Join(parent, "data"), func() error { return os.RemoveAll(parent) }, nil
}
