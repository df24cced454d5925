package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"mooring/internal/app"
	"mooring/internal/core/access"
	"mooring/internal/core/device"
	jobs "mooring/internal/core/job" // this package has a job of its own
	"mooring/internal/core/revoke"
)

// JobsOptions say what Jobs measures.
type JobsOptions struct {
	Database     string // "sqlite", or the URL of a PostgreSQL server, in which a schema is made and dropped
	Certificates int    // each of a device of its own; nineteen in twenty are revoked
	// Progress, if not nil, is told what is being done.
	Progress func(text string)
}

// Jobs measures the revocation of nearly all certificates of a fleet as one job: the search for them, the work with the rests between the steps
// until every list is published, and how long an interactive request takes meanwhile, a device being registered ten times a second.
func Jobs(ctx context.Context, o JobsOptions, print func(Line) error) (err error) {
	parent, err := os.MkdirTemp("", "mooring-bench-")
	if err != nil {
		return fmt.Errorf("making a directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(parent)) }()
	c, err := app.Loopback("Mooring Bench")
	if err != nil {
		return err
	}
	if kind(o.Database) == "postgres" {
		url, drop, err := schema(ctx, o.Database)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, drop()) }()
		c.Database.URL = url
	}
	if _, err := app.Init(ctx, app.InitOptions{Dir: filepath.Join(parent, "data"), Config: c}); err != nil {
		return err
	}
	p, err := app.Open(ctx, app.Options{Config: c})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	f := &crowd{Platform: p, o: InventoryOptions{Database: o.Database, Registered: o.Certificates, Progress: o.Progress}, now: time.Now().Unix(),
		actor: access.Actor{Kind: access.KindLocal, ID: "bench", Role: access.RoleAdmin}}
	for _, step := range []func(context.Context) error{f.register, f.certify} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	running, stop := context.WithCancel(ctx)
	var parts sync.WaitGroup
	for _, run := range []func(context.Context) error{p.DB.Run, p.Audit.Run, p.Revoke.Run, p.Jobs.Run} {
		parts.Go(func() { _ = run(running) }) // they end with running
	}
	defer parts.Wait()
	defer stop()
	return f.revokeAll(ctx, kind(o.Database), print)
}

// revokeAll makes the job and follows it.
func (f *crowd) revokeAll(ctx context.Context, database string, print func(Line) error) error {
	f.say("looking for certificates")
	bulk := revoke.NewBulk(f.Revoke, f.Jobs, -1)
	began, cpu := time.Now(), cpuSelf()
	j, err := bulk.RevokeMany(ctx, f.actor, revoke.Filter{Issuer: "devices"}, revoke.How{Reason: revoke.KeyCompromise})
	if err != nil {
		return err
	}
	if j, err = f.until(ctx, j, func(j jobs.Job) bool { return j.Ready }); err != nil {
		return err
	}
	if err := print(f.line(database+" find", j.Total, began, cpu)); err != nil {
		return err
	}
	f.say("revoking %d", j.Total)
	began, cpu = time.Now(), cpuSelf()
	if j, err = f.Jobs.Start(ctx, f.actor, j.ID); err != nil {
		return err
	}
	waits, end := f.interact(ctx)
	j, err = f.until(ctx, j, func(j jobs.Job) bool { return j.State == jobs.Done })
	end()
	if err != nil {
		return err
	}
	if j.Failed > 0 || j.Done != j.Total {
		return fmt.Errorf("the job revoked %d of %d, %d failed", j.Done, j.Total, j.Failed)
	}
	if err := print(f.line(database+" revoke", j.Total, began, cpu)); err != nil {
		return err
	}
	slices.Sort(*waits)
	for _, share := range []int{50, 99} {
		if n := len(*waits); n > 0 {
			wait := (*waits)[min(n-1, n*share/100)]
			if err := print(Line{Bench: "jobs", Case: fmt.Sprintf("%s registering a device meanwhile, %dth percentile", database, share), N: n, Wall: float64(wait.Microseconds()) / 1000}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *crowd) line(name string, n int64, began time.Time, cpu time.Duration) Line {
	wall, used := time.Since(began), cpuSelf()-cpu
	return Line{Bench: "jobs", Case: name, N: int(n), PerS: float64(n) / wall.Seconds(), CPU: float64(used.Microseconds()) / float64(max(n, 1)), RSS: rssOf(os.Getpid()),
		Wall: float64(wall.Milliseconds())}
}

func (f *crowd) until(ctx context.Context, j jobs.Job, pass func(jobs.Job) bool) (jobs.Job, error) {
	for {
		var err error
		if j, err = f.Jobs.Get(ctx, f.actor, j.ID); err != nil || pass(j) {
			return j, err
		}
		if j.State.Ended() {
			return j, fmt.Errorf("the job is %s: %s", j.State, j.Note)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return j, ctx.Err()
		}
	}
}

// interact registers a device every tenth of a second until end is called, and notes how long each took.
func (f *crowd) interact(ctx context.Context) (waits *[]time.Duration, end func()) {
	ctx, stop := context.WithCancel(ctx)
	waits = &[]time.Duration{}
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			began := time.Now()
			if _, err := f.Devices.Add(ctx, f.actor, device.Spec{Name: fmt.Sprintf("meanwhile-%d", i), Profile: "device"}); err == nil {
				*waits = append(*waits, time.Since(began))
			}
		}
	})
	return waits, func() { stop(); running.Wait() }
}
