// Package natstest starts clusters of NATS servers with JetStream on loopback, in the process of a test: several nodes, one of which can be lost and come
// back. What a test gets are URLs, as an operator would give them. The package deliberately knows nothing of Mooring's streams.
package natstest

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Cluster is a number of servers that know each other.
type Cluster struct {
	t       testing.TB
	options []*server.Options
	servers []*server.Server
}

// Start starts n servers, one alone or a cluster, and ends them with the test. change may alter each one's options before that.
func Start(t testing.TB, n int, change ...func(*server.Options)) *Cluster {
	t.Helper()
	c := &Cluster{t: t, servers: make([]*server.Server, n)}
	ports := freePorts(t, 2*n)
	var routes []*url.URL
	for i := range n {
		routes = append(routes, &url.URL{Scheme: "nats", Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[n+i]))})
	}
	dir := t.TempDir()
	for i := range n {
		o := &server.Options{ServerName: fmt.Sprintf("node%d", i+1), Host: "127.0.0.1", Port: ports[i], NoSigs: true, NoLog: true,
			JetStream: true, StoreDir: filepath.Join(dir, strconv.Itoa(i)), JetStreamMaxStore: 8 << 30, JetStreamMaxMemory: 64 << 20}
		if n > 1 {
			o.Cluster = server.ClusterOpts{Name: "loopback", Host: "127.0.0.1", Port: ports[n+i]}
			o.Routes = routes
		}
		for _, f := range change {
			f(o)
		}
		c.options = append(c.options, o)
	}
	t.Cleanup(c.stopAll)
	for i := range n {
		c.begin(i)
	}
	c.settle()
	return c
}

// FreePort is a port on loopback that nobody has.
func FreePort(t testing.TB) int { return freePorts(t, 1)[0] }

// freePorts asks the system for ports that nobody has. Another process may take one before the server does; then the test says so.
func freePorts(t testing.TB, n int) []int {
	t.Helper()
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }() // nothing was sent
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

func (c *Cluster) begin(i int) {
	c.t.Helper()
	o := *c.options[i] // the server changes its options
	s, err := server.NewServer(&o)
	if err != nil {
		c.t.Fatal(err)
	}
	c.servers[i] = s
	go s.Start()
	if !s.ReadyForConnections(30 * time.Second) {
		c.t.Fatalf("the NATS server %s is not ready", o.ServerName)
	}
}

// settle waits until the servers that run have a leader who knows them all.
func (c *Cluster) settle() {
	c.t.Helper()
	if len(c.servers) == 1 || !c.options[0].JetStream {
		return
	}
	for range 600 {
		if c.settled() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	c.t.Fatal("the cluster of NATS servers finds no leader")
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
func (c *Cluster) URL(i int) string {
	return "nats://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(c.options[i].Port))
}

// Server is server i, nil while it is lost.
func (c *Cluster) Server(i int) *server.Server { return c.servers[i] }

// Lose ends server i. What it has stored stays.
func (c *Cluster) Lose(i int) {
	c.servers[i].Shutdown()
	c.servers[i].WaitForShutdown()
	c.servers[i] = nil
}

// Return starts a server that was lost.
func (c *Cluster) Return(i int) {
	c.t.Helper()
	c.begin(i)
	c.settle()
}

func (c *Cluster) stopAll() {
	for i, s := range c.servers {
		if s != nil {
			c.Lose(i)
		}
	}
}
