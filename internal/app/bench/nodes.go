package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"mooring/internal/app"
	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
	"mooring/internal/provider/nats/loopback"
)

// shareable says why an installation of several nodes cannot be made, if it cannot.
func (o *TalkOptions) shareable() error {
	if o.Nodes > 1 && kind(o.Database) != "postgres" {
		return errs.New(errs.Invalid, "%d nodes share one database, and SQLite belongs to one process: name a PostgreSQL server on this machine, as in --database postgres://postgres@127.0.0.1/postgres", o.Nodes)
	}
	return nil
}

// share is how many octets of what devices publish the NATS servers keep. All streams together have two and a half times that, and what a server of loopback
// may store is less than they would have by default.
const share = 2 << 30

// natsServers is how many NATS servers several nodes have: as many as a quorum that can lose one needs.
const natsServers = 3

// outside starts the NATS servers that several nodes have messages in, in this process. The returned function ends them and removes what they stored.
func outside(ctx context.Context) (urls []string, end func() error, err error) {
	dir, err := os.MkdirTemp("", "mooring-bench-nats-")
	if err != nil {
		return nil, nil, fmt.Errorf("making a directory: %w", err)
	}
	c, err := loopback.Start(ctx, dir, natsServers)
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	return c.URLs(), func() error {
		c.Stop()
		return os.RemoveAll(dir)
	}, nil
}

// another makes a further node of in's installation: it has the same database, keys and profiles, and a data directory and addresses of its own.
func (in *installation) another(number int) (*installation, error) {
	fresh, err := app.Loopback(in.config.Name)
	if err != nil {
		return nil, err
	}
	c := *in.config
	c.Listen = fresh.Listen
	c.Listen.MQTT, c.Listen.COAPS = in.config.Listen.MQTT, in.config.Listen.COAPS // any port
	c.COAPS.Node = number - 1
	c.Keys.Dir, c.Keys.Unlock, c.Profiles.Dir = in.config.KeyDir(), in.config.UnlockSource(), in.config.ProfileDir()
	c.Dir = filepath.Join(filepath.Dir(in.dir), fmt.Sprintf("node%d", number), "data")
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("making a directory for node %d: %w", number, err)
	}
	if err := os.WriteFile(filepath.Join(c.Dir, conf.FileName), c.Write(), 0o600); err != nil {
		return nil, fmt.Errorf("writing the configuration of node %d: %w", number, err)
	}
	return &installation{dir: c.Dir, config: &c, root: in.root, roots: in.roots}, nil
}

// grow starts further nodes until there are n.
func (f *fleet) grow(ctx context.Context, o *TalkOptions) error {
	for number := 2; number <= o.Nodes; number++ {
		o.say("starting node %d", number)
		node, err := f.another(number)
		if err != nil {
			return err
		}
		if err := node.start(ctx, o.Serve); err != nil {
			return fmt.Errorf("node %d: %w", number, err)
		}
		f.others = append(f.others, node)
	}
	return nil
}

// at returns the node that device i connects to: they go round.
func (f *fleet) at(i int) *installation {
	if k := i % (len(f.others) + 1); k > 0 {
		return f.others[k-1]
	}
	return f.installation
}

// spent returns the CPU time that all nodes have used, and the database, if it is a server.
func (f *fleet) spent() (time.Duration, error) {
	sum, database, err := f.cpu()
	sum += database
	for _, node := range f.others {
		used, failed := cpuOf(node.server.Process.Pid)
		sum, err = sum+used, errors.Join(err, failed)
	}
	return sum, err
}

// largest returns the resident memory of the largest node in MiB.
func (f *fleet) largest() float64 {
	most := rssOf(f.server.Process.Pid)
	for _, node := range f.others {
		most = max(most, rssOf(node.server.Process.Pid))
	}
	return most
}

// called is the name of a case, with the number of nodes if they are several.
func (f *fleet) called(name string) string {
	if len(f.others) == 0 {
		return name
	}
	return fmt.Sprintf("%s, %d nodes", name, len(f.others)+1)
}
