// Package loopback runs clusters of NATS servers with JetStream on loopback, in this process: several nodes, one of which can be lost and come back. Tests have
// them by natstest, and benchmarks of several nodes of the platform directly, so that neither needs a program besides. What one gets are URLs, as an operator
// would give them. The package deliberately knows nothing of Mooring's streams.
package loopback

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"mooring/internal/base/port"
)

// Cluster is a number of servers that know each other.
type Cluster struct {
	options []*server.Options
	servers []*server.Server
}

// Start starts n servers, one alone or a cluster, which store in folders of dir until Stop. change may alter each one's options before that.
func Start(ctx context.Context, dir string, n int, change ...func(*server.Options)) (*Cluster, error) {
	c := &Cluster{servers: make([]*server.Server, n)}
	ports, err := port.Free(2 * n)
	if err != nil {
		return nil, err
	}
	var routes []*url.URL
	for i := range n {
		routes = append(routes, &url.URL{Scheme: "nats", Host: ports[n+i].String()})
	}
	for i := range n {
		o := &server.Options{ServerName: fmt.Sprintf("node%d", i+1), Host: "127.0.0.1", Port: int(ports[i].Port()), NoSigs: true, NoLog: true,
			JetStream: true, StoreDir: filepath.Join(dir, strconv.Itoa(i)), JetStreamMaxStore: 8 << 30, JetStreamMaxMemory: 64 << 20}
		if n > 1 {
			o.Cluster = server.ClusterOpts{Name: "loopback", Host: "127.0.0.1", Port: int(ports[n+i].Port())}
			o.Routes = routes
		}
		for _, f := range change {
			f(o)
		}
		c.options = append(c.options, o)
	}
	for i := range n {
		if err = c.begin(i); err != nil {
			break
		}
	}
	if err == nil {
		err = c.settle(ctx)
	}
	if err != nil {
		c.Stop()
		return nil, err
	}
	return c, nil
}

func (c *Cluster) begin(i int) error {
	o := *c.options[i] // the server changes its options
	s, err := server.NewServer(&o)
	if err != nil {
		return fmt.Errorf("making the NATS server %s: %w", o.ServerName, err)
	}
	c.servers[i] = s
	go s.Start()
	if !s.ReadyForConnections(30 * time.Second) {
		return fmt.Errorf("the NATS server %s at %s is not ready", o.ServerName, c.URL(i))
	}
	return nil
}

// settle waits until the servers that run have a leader who knows them all.
func (c *Cluster) settle(ctx context.Context) error {
	if len(c.servers) == 1 || !c.options[0].JetStream {
		return nil
	}
	for range 600 {
		if c.settled() {
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errors.New("the cluster of NATS servers finds no leader")
}

func (c *Cluster) settled() bool {
	leader := false
	for _, s := range c.servers {
		if s == nil {
			continue
		}
		if !s.JetStreamIsCurrent() {
			return false
		}
		if s.JetStreamIsLeader() {
			leader = len(s.JetStreamClusterPeers()) == len(c.servers)
		}
	}
	return leader
}

// URLs are those of all servers, also of one that was lost.
func (c *Cluster) URLs() []string {
	var urls []string
	for i := range c.options {
		urls = append(urls, c.URL(i))
	}
	return urls
}

// URL is that of server i.
func (c *Cluster) URL(i int) string { return fmt.Sprintf("nats://127.0.0.1:%d", c.options[i].Port) }

// Server is server i, nil while it is lost.
func (c *Cluster) Server(i int) *server.Server { return c.servers[i] }

// Lose ends server i. What it has stored stays.
func (c *Cluster) Lose(i int) {
	c.servers[i].Shutdown()
	c.servers[i].WaitForShutdown()
	c.servers[i] = nil
}

// Return starts servers that were lost, and waits until all know each other again.
func (c *Cluster) Return(ctx context.Context, lost ...int) error {
	for _, i := range lost {
		if err := c.begin(i); err != nil {
			return err
		}
	}
	return c.settle(ctx)
}

// Stop ends all servers that run. What they have stored stays.
func (c *Cluster) Stop() {
	for i, s := range c.servers {
		if s != nil {
			c.Lose(i)
		}
	}
}
