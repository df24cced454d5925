package bench

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"mooring/internal/app"
	"mooring/internal/core/access"
	"mooring/internal/core/ca"
	"mooring/internal/core/key"
	"mooring/wire/der"
)

// CAsOptions say what CAs measures.
type CAsOptions struct {
	N      int // issuing CAs, each with a profile of its own
	Issues int // enrolments in each measurement
	Rounds int // measurements of each case, by turns; the median counts
	Starts int // starts of each
	// Serve and Progress are those of EnrolOptions.
	Serve    func(dir, ready string) *exec.Cmd
	Progress func(text string)
}

// casClients are the connections at once: enough to keep the server busy on two cores.
const casClients = 16

// CAs measures what thousands of issuing CAs in one instance cost: a start, and an enrolment, with one issuing CA and with N, of which each
// has its turn. Every enrolment goes over EST and TLS and is answered when it is durable. Both instances run at the same time, so that the idle
// work of the larger one counts as well.
func CAs(ctx context.Context, o CAsOptions, print func(Line) error) (err error) {
	sizes := []int{1, o.N}
	var both []*installation
	defer func() {
		for _, in := range both {
			err = errors.Join(err, in.stop())
		}
	}()
	for _, n := range sizes {
		in, remove, err := o.install(ctx, n)
		if err != nil {
			return err
		}
		defer os.RemoveAll(filepath.Dir(in.dir))
		defer func() { _ = remove() }() // a temporary directory
		both = append(both, in)
	}
	if err := o.starts(ctx, sizes, both, print); err != nil {
		return err
	}
	return o.issues(ctx, sizes, both, print)
}

// install makes an installation with n CAs and as many profiles beside the default ones. Device i has profile i modulo n.
func (o *CAsOptions) install(ctx context.Context, n int) (*installation, func() error, error) {
	e := EnrolOptions{N: o.Issues, Rounds: o.Rounds, Clients: []int{casClients}, Progress: o.Progress,
		equip: func(ctx context.Context, in *installation) error {
			began := time.Now()
			if err := makeCAs(ctx, in, n); err != nil {
				return fmt.Errorf("making %d CAs: %w", n, err)
			}
			if o.Progress != nil {
				o.Progress(fmt.Sprintf("made %d CAs in %.1f s", n, time.Since(began).Seconds()))
			}
			return nil
		},
		profile: func(i int) string { return nthCA(i % n) }}
	// The first certificate of each CA is measured apart, so it takes devices of its own.
	e.Rounds += (n + o.Issues - 1) / o.Issues
	return e.install(ctx, "sqlite", e.Rounds*o.Issues)
}

func nthCA(i int) string { return fmt.Sprintf("fleet-%05d", i) }

// makeCAs writes the profiles and makes the CAs, many at once: a key and a row are each two waits for the disk.
func makeCAs(ctx context.Context, in *installation, n int) (err error) {
	text, err := fs.ReadFile(ca.DefaultProfiles(), "device.yaml")
	if err != nil {
		return err
	}
	for i := range n {
		yaml := strings.NewReplacer("\nname: device\n", "\nname: "+nthCA(i)+"\n", "\nissuer: devices ", "\nissuer: "+nthCA(i)+" ").Replace(string(text))
		if err := os.WriteFile(filepath.Join(in.config.ProfileDir(), nthCA(i)+".yaml"), []byte(yaml), 0o644); err != nil {
			return fmt.Errorf("writing a profile: %w", err)
		}
	}
	p, err := app.Open(ctx, app.Options{Config: in.config})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	actor := access.Actor{Kind: access.KindLocal, ID: "bench", Role: access.RoleAdmin}
	failed := make([]error, n)
	var all sync.WaitGroup
	turn := make(chan struct{}, 32)
	for i := range n {
		turn <- struct{}{}
		all.Go(func() {
			defer func() { <-turn }()
			_, failed[i] = p.CA.Create(ctx, actor, ca.Spec{Name: nthCA(i), Parent: "root", Algorithm: key.P256, Validity: 10 * 365 * 86400, Shards: ca.MostShards,
				Subject: []der.Attribute{{Type: der.OIDOrganization, Value: "Bench"}, {Type: der.OIDCommonName, Value: nthCA(i)}}})
		})
	}
	all.Wait()
	return errors.Join(errors.Join(failed...), p.Audit.Sequence(ctx))
}

// starts measures how long a server takes until it answers, and leaves both running.
func (o *CAsOptions) starts(ctx context.Context, sizes []int, both []*installation, print func(Line) error) error {
	var cpu, wall [2][]float64
	for round := range o.Starts {
		for k, in := range both {
			o.say("start %d of %d with %d CAs", round+1, o.Starts, sizes[k])
			if err := in.stop(); err != nil {
				return err
			}
			began := time.Now()
			if err := in.start(ctx, o.Serve); err != nil {
				return err
			}
			wall[k] = append(wall[k], float64(time.Since(began))/1e6)
			used, err := cpuOf(in.server.Process.Pid)
			if err != nil {
				return err
			}
			cpu[k] = append(cpu[k], micros(used, 1))
			if err := in.quiet(ctx); err != nil { // what a start leaves to do must not slow the next one
				return err
			}
		}
	}
	for k, n := range sizes {
		l := Line{Bench: "cas", N: o.Starts, CPU: median(cpu[k]), Floor: median(cpu[0]), Wall: median(wall[k]), RSS: rssOf(both[k].server.Process.Pid)}
		l.Case = fmt.Sprintf("start with %d CAs: %.2f s", n, l.Wall/1000)
		l.Ratio, l.PerS = l.CPU/l.Floor, 1000/l.Wall
		if err := print(l); err != nil {
			return err
		}
	}
	return nil
}

// issues measures enrolments by turns. The ratio of the last line is that of the must: N CAs over one.
func (o *CAsOptions) issues(ctx context.Context, sizes []int, both []*installation, print func(Line) error) error {
	o.say("the first certificate of each CA")
	first, err := both[1].sample(ctx, (sizes[1]+o.Issues-1)/o.Issues*o.Issues, casClients)
	if err != nil {
		return err
	}
	if _, err := both[0].sample(ctx, o.Issues, casClients); err != nil {
		return err
	}
	var samples [2][]sample
	for round := range o.Rounds {
		for k := range both {
			o.say("round %d of %d with %d CAs", round+1, o.Rounds, sizes[k])
			s, err := both[k].sample(ctx, o.Issues, casClients)
			if err != nil {
				return err
			}
			samples[k] = append(samples[k], s)
		}
	}
	one, many := summary(samples[0]), summary(samples[1])
	lines := []Line{summary([]sample{first}), one, many, many}
	lines[0].Case = fmt.Sprintf("first certificate of each of %d CAs", sizes[1])
	lines[1].Case = fmt.Sprintf("enrol with %d CA", sizes[0])
	lines[2].Case = fmt.Sprintf("enrol with %d CAs, each in turn", sizes[1])
	lines[3].Case = fmt.Sprintf("%d CAs over %d", sizes[1], sizes[0])
	lines[3].Floor, lines[3].Ratio = one.CPU, many.CPU/one.CPU
	for i, l := range lines {
		in := both[1]
		if i == 1 {
			in = both[0]
		}
		l.Bench, l.RSS = "cas", rssOf(in.server.Process.Pid)
		if err := print(l); err != nil {
			return err
		}
	}
	return nil
}

func (o *CAsOptions) say(format string, args ...any) {
	if o.Progress != nil {
		o.Progress(fmt.Sprintf(format, args...))
	}
}
