// Package natstest gives a test clusters of NATS servers as loopback runs them, which end with it. The package deliberately does nothing else.
package natstest

import (
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"mooring/internal/provider/nats/loopback"
)

// Cluster is a number of servers that know each other.
type Cluster struct {
	*loopback.Cluster
	t testing.TB
}

// Start starts n servers, one alone or a cluster, and ends them with the test. change may alter each one's options before that.
func Start(t testing.TB, n int, change ...func(*server.Options)) *Cluster {
	t.Helper()
	c, err := loopback.Start(t.Context(), t.TempDir(), n, change...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	return &Cluster{c, t}
}

// Return starts servers that were lost.
func (c *Cluster) Return(lost ...int) {
	c.t.Helper()
	if err := c.Cluster.Return(c.t.Context(), lost...); err != nil {
		c.t.Fatal(err)
	}
}
