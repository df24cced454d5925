package app_test

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mooring/agent/mqtt"
	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/core/device"
	"mooring/internal/provider/nats/natstest"
)

// cluster is three nodes over one database and three NATS servers.
type cluster struct {
	nats  *natstest.Cluster
	nodes [3]*apptest.Platform
}

// threeNodes starts them. SQLite holds one process out of another's file, and one node of another's, so it takes the PostgreSQL of MOORING_TEST_DB or, where
// its programs are installed, one of the test's own.
func threeNodes(t *testing.T) *cluster {
	t.Helper()
	database := ""
	if os.Getenv("MOORING_TEST_DB") == "" {
		database = ownPostgres(t)
	}
	c := &cluster{nats: natstest.Start(t, 3)}
	c.nodes[0] = apptest.Start(t, func(o *conf.Config) {
		apptest.Messaging(o)
		o.Messaging.NATS, o.Messaging.Durability, o.Messaging.MaxBytes = c.nats.URLs(), "quorum", 256<<20
		if database != "" {
			o.Database.URL = database
		}
	})
	for i := range 2 {
		c.nodes[i+1] = c.nodes[0].Second(t)
	}
	return c
}

func ownPostgres(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("../../.ci/postgres", "start").Output()
	if err != nil {
		t.Skip("three nodes need PostgreSQL: install it, or set MOORING_TEST_DB")
	}
	url, dir, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	t.Cleanup(func() {
		if out, err := exec.Command("../../.ci/postgres", "stop", dir).CombinedOutput(); err != nil {
			t.Errorf("stopping PostgreSQL: %v: %s", err, out)
		}
	})
	return url
}

// inbox is what somebody was sent.
type inbox struct {
	mu   sync.Mutex
	list []string // guarded by mu
}

func (b *inbox) take(m mqtt.Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.list = append(b.list, string(m.Payload))
}

func (b *inbox) all() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.list)
}

// distinct returns what came, in the order in which it came first: a message that was not acknowledged when a connection broke comes again on the next one.
func (b *inbox) distinct() (list []string) {
	for _, text := range b.all() {
		if !slices.Contains(list, text) {
			list = append(list, text)
		}
	}
	return list
}

func (b *inbox) into(c *mqtt.Config) { c.Handler = b.take }

// backends is what the default policy has no group for.
const backends = `
group backends {
    principal service
    match kind=service
    allow subscribe v1/# shared yes
    allow publish v1/+/cmd/+
}
`

// TestThreeNodes: what is said at one node is heard at all, who changes nodes keeps the session, and who is cut off at one node is at all; so also when
// one of the NATS servers is lost.
func TestThreeNodes(t *testing.T) {
	c := threeNodes(t)
	first := c.nodes[0]
	now, err := first.Message.Policy(t.Context(), apptest.Operator())
	must(t, err)
	_, err = first.Message.SetPolicy(t.Context(), apptest.Operator(), backends+now.Text, now.Version)
	must(t, err)
	services := [3]*mqtt.Conn{}
	heard := [3]*inbox{{}, {}, {}}
	for i, node := range c.nodes {
		k := first.Talker(t, fmt.Sprint("backend-", i), "service")
		apptest.Until(t, "the policy holds at each node", func() bool {
			services[i] = node.Connect(t, k, heard[i].into)
			_, err := services[i].Subscribe(t.Context(), mqtt.Subscription{Filter: "v1/+/telemetry/#", QoS: 1})
			if err != nil {
				services[i].Break()
				time.Sleep(100 * time.Millisecond) // a few takes-over a minute are allowed
			}
			return err == nil
		})
	}
	for _, row := range []struct {
		name string
		test func(*testing.T, *cluster, [3]*mqtt.Conn, [3]*inbox)
	}{
		{"heard everywhere", nodesHear},
		{"a session moves", nodesMove},
		{"a shared subscription", nodesShare},
		{"retained messages", nodesRetain},
		{"cut off", nodesCut},
		{"a NATS server is lost", nodesLose},
		{"cut off while the NATS servers have no majority", nodesCutAlone},
	} {
		t.Run(row.name, func(t *testing.T) { row.test(t, c, services, heard) })
	}
}

// everywhere publishes at one node and waits until the backends at all have heard it.
func everywhere(t *testing.T, device *mqtt.Conn, topic, payload string, heard [3]*inbox) {
	t.Helper()
	apptest.Publish(t, device, 1, topic, payload)
	for i := range heard {
		apptest.Until(t, fmt.Sprintf("node %d tells of %s", i+1, payload), func() bool { return slices.Contains(heard[i].all(), payload) })
	}
}

func nodesHear(t *testing.T, c *cluster, _ [3]*mqtt.Conn, heard [3]*inbox) {
	for i, node := range c.nodes {
		k := c.nodes[0].Talker(t, fmt.Sprint("speaks-at-", i+1), "device")
		everywhere(t, node.Connect(t, k), "v1/"+k.Name+"/telemetry/x", "from "+k.Name, heard)
	}
}

// nodesMove has a device connect to one node after the other: the one before lets go of it at once, or has nothing to let go of, and all that was said to it
// comes, in order.
func nodesMove(t *testing.T, c *cluster, services [3]*mqtt.Conn, _ [3]*inbox) {
	k := c.nodes[0].Talker(t, "wanders", "device")
	box := &inbox{}
	var before *mqtt.Conn
	said := 0
	for round, row := range []struct {
		node   int
		breaks bool // the connection before is broken first, and something is said meanwhile
	}{{0, false}, {1, false}, {2, true}, {0, true}} {
		if row.breaks {
			before.Break()
			at := c.nodes[(row.node+2)%3]
			apptest.Until(t, "the node has noticed", func() bool { return len(at.Connections(t, k.Name)) == 0 })
			for i, s := range services {
				said++
				apptest.Publish(t, s, 1, "v1/wanders/cmd/x", fmt.Sprint("command ", said, " at ", i))
			}
		}
		conn := c.nodes[row.node].Connect(t, k, box.into, func(c *mqtt.Config) { c.SessionExpiry = 3600 })
		if present := conn.Answer().SessionPresent; present != (round > 0) {
			t.Errorf("connection %d: session present is %v", round+1, present)
		}
		if round == 0 {
			apptest.Subscribe(t, conn, 1, "v1/wanders/cmd/+")
		} else if !row.breaks {
			apptest.Until(t, "the node before lets go", func() bool { return before.Err() != nil })
		}
		for i, s := range services {
			said++
			apptest.Publish(t, s, 1, "v1/wanders/cmd/x", fmt.Sprint("command ", said, " at ", i))
		}
		for end := time.Now().Add(time.Minute); len(box.distinct()) < said; time.Sleep(2 * time.Millisecond) {
			if conn.Err() != nil || time.Now().After(end) {
				t.Fatalf("connection %d (%v): of %d commands these have come: %q", round+1, conn.Err(), said, box.all())
			}
		}
		for i, node := range c.nodes {
			apptest.Until(t, "one node alone has it", func() bool { return len(node.Connections(t, k.Name)) == map[bool]int{true: 1}[i == row.node] })
		}
		before = conn
	}
	for i, text := range box.distinct() {
		if !strings.HasPrefix(text, fmt.Sprintf("command %d at", i+1)) {
			t.Errorf("message %d was %q", i+1, text)
		}
	}
}

// nodesShare has the members of a group at three nodes: each message comes to one of them.
func nodesShare(t *testing.T, c *cluster, _ [3]*mqtt.Conn, _ [3]*inbox) {
	members := [3]*inbox{{}, {}, {}}
	for i, node := range c.nodes {
		conn := node.Connect(t, c.nodes[0].Talker(t, fmt.Sprint("worker-", i), "service"), members[i].into)
		apptest.Subscribe(t, conn, 1, "$share/workers/v1/shares/telemetry/#")
	}
	k := c.nodes[0].Talker(t, "shares", "device")
	conn := c.nodes[1].Connect(t, k)
	const n = 60
	for i := range n {
		apptest.Publish(t, conn, 1, "v1/shares/telemetry/x", fmt.Sprint(i))
	}
	all := func() (list []string) {
		for _, m := range members {
			list = append(list, m.all()...)
		}
		return list
	}
	apptest.Until(t, "all have come", func() bool { return len(all()) >= n })
	list := all()
	slices.Sort(list)
	if distinct := slices.Compact(slices.Clone(list)); len(distinct) != n || len(list) != n {
		t.Errorf("of %d messages %d came to the group, %d different ones", n, len(list), len(distinct))
	}
	t.Logf("the members had %d, %d and %d", len(members[0].all()), len(members[1].all()), len(members[2].all()))
}

func nodesRetain(t *testing.T, c *cluster, _ [3]*mqtt.Conn, _ [3]*inbox) {
	k := c.nodes[0].Talker(t, "retains", "device")
	conn := c.nodes[0].Connect(t, k)
	must(t, conn.Publish(t.Context(), mqtt.Message{Topic: "v1/retains/state", Payload: []byte("on"), QoS: 1, Retain: true}))
	for i, node := range c.nodes {
		box := &inbox{}
		reader := node.Connect(t, c.nodes[0].Talker(t, fmt.Sprint("reader-", i), "service"), box.into)
		apptest.Subscribe(t, reader, 1, "v1/retains/state")
		apptest.Until(t, fmt.Sprintf("node %d replays it", i+1), func() bool { return slices.Equal(box.all(), []string{"on"}) })
	}
}

// nodesCut decides at the first node and looks at the others.
func nodesCut(t *testing.T, c *cluster, services [3]*mqtt.Conn, heard [3]*inbox) {
	for _, cause := range causes() {
		for _, m := range manners() {
			t.Run(m.name+", "+cause.name, func(t *testing.T) {
				k := c.nodes[0].Talker(t, strings.NewReplacer(" ", "-", ".", "-").Replace("cut-"+m.name+"-"+cause.name), "device")
				far := c.nodes[2]
				s, err := m.open(t, far, k)
				must(t, err)
				must(t, s.say("v1/"+k.Name+"/telemetry/x", "x"))
				if list := far.Connections(t, k.Name); len(list) != 1 {
					t.Fatalf("it has %d connections there, want one", len(list))
				}
				began := time.Now()
				must(t, cause.do(t, c.nodes[0], k))
				decided := time.Since(began)
				apptest.Until(t, "the other node has cut it off", func() bool { return len(far.Connections(t, k.Name)) == 0 })
				t.Logf("decided after %v, cut off at the other node after %v", decided.Round(100*time.Microsecond), time.Since(began).Round(100*time.Microsecond))
				apptest.Until(t, "the device notices", s.over)
				for i, node := range c.nodes {
					if _, err := m.open(t, node, k); err == nil {
						t.Errorf("it connects at node %d", i+1)
					}
				}
			})
		}
	}
	for i, s := range services {
		if err := s.Err(); err != nil {
			t.Errorf("the backend at node %d was cut off: %v", i+1, err)
		}
	}
}

// nodesCutAlone: while the NATS servers have no majority, no node can tell another anything by them. Who is suspended is cut off at the other nodes all the same, by the record that all of
// them read, and stays out when the servers are back.
func nodesCutAlone(t *testing.T, c *cluster, _ [3]*mqtt.Conn, _ [3]*inbox) {
	victim, good := c.nodes[0].Talker(t, "cut-alone", "device"), c.nodes[0].Talker(t, "stays", "device")
	far := c.nodes[2]
	conn, other := far.Connect(t, victim), far.Connect(t, good)
	apptest.Publish(t, conn, 1, "v1/cut-alone/telemetry/x", "x")
	lost := []int{0, 1}
	for _, i := range lost {
		c.nats.Lose(i)
	}
	began := time.Now()
	must(t, move(device.Suspend)(t, c.nodes[0], victim))
	apptest.Until(t, "the other node has cut it off", func() bool { return len(far.Connections(t, victim.Name)) == 0 })
	t.Logf("cut off at the other node after %v", time.Since(began).Round(time.Millisecond))
	apptest.Until(t, "the device notices", func() bool { return conn.Err() != nil })
	if err := other.Err(); err != nil {
		t.Errorf("its neighbour was disconnected: %v", err)
	}
	c.nats.Return(lost...)
	apptest.Until(t, "its neighbour is served again", func() bool {
		if other.Err() != nil {
			var err error
			if other, err = far.TryConnect(t, good); err != nil {
				time.Sleep(200 * time.Millisecond)
				return false
			}
		}
		return other.Publish(t.Context(), mqtt.Message{Topic: "v1/stays/telemetry/x", QoS: 1}) == nil
	})
	for i, node := range c.nodes {
		if _, err := node.TryConnect(t, victim); err == nil {
			t.Errorf("it connects at node %d", i+1)
		}
	}
}

// nodesLose loses one NATS server after the other: nothing that was acknowledged is lost, and what is said goes on being heard.
func nodesLose(t *testing.T, c *cluster, services [3]*mqtt.Conn, heard [3]*inbox) {
	k := c.nodes[0].Talker(t, "goes-on", "device")
	n := 0
	for lost := range c.nodes {
		c.nats.Lose(lost)
		for at, node := range c.nodes {
			n++
			payload := fmt.Sprintf("%d with server %d lost, at node %d", n, lost+1, at+1)
			var conn *mqtt.Conn
			// Until the nodes that were connected to the lost server have found another one they take nothing, and say so.
			apptest.Until(t, "the node takes messages", func() bool {
				var err error
				if conn, err = node.TryConnect(t, k); err != nil {
					time.Sleep(200 * time.Millisecond)
					return false
				}
				err = conn.Publish(t.Context(), mqtt.Message{Topic: "v1/goes-on/telemetry/x", QoS: 1, Payload: []byte(payload)})
				return err == nil
			})
			for i := range heard {
				apptest.Until(t, fmt.Sprintf("node %d tells of %q", i+1, payload), func() bool { return slices.Contains(heard[i].all(), payload) })
			}
			must(t, conn.Close())
		}
		c.nats.Return(lost)
	}
	for i, s := range services {
		if err := s.Err(); err != nil {
			t.Errorf("the backend at node %d has lost its connection: %v", i+1, err)
		}
	}
}
