package message_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mooring/internal/core/message"
	"mooring/internal/core/message/messagetest"
)

// heldNews is the fabric of a node that hears what others announce only later, while it is told so.
type heldNews struct {
	*messagetest.Memory
	held atomic.Pointer[gate]
	dead atomic.Bool // what the node announces arrives nowhere

	beats atomic.Int64 // what it has announced
}

func (f *heldNews) Announce(ctx context.Context, data []byte) error {
	if f.dead.Load() {
		return errDead
	}
	defer f.beats.Add(1)
	return f.Memory.Announce(ctx, data)
}

func (f *heldNews) Announced(ctx context.Context, after uint64, ready func(), fn func(place uint64, data []byte)) error {
	return f.Memory.Announced(ctx, after, ready, func(place uint64, data []byte) {
		if g := f.held.Load(); g != nil {
			select {
			case <-g.open:
			case <-ctx.Done():
				return
			}
		}
		fn(place, data)
	})
}

// hold has the node hear nothing until the function is called that it returns.
func (f *heldNews) hold(t *testing.T) (let func()) {
	g := newGate()
	f.held.Store(g)
	let = sync.OnceFunc(func() { f.held.Store(nil); close(g.open) })
	t.Cleanup(let)
	return let
}

const sharedFilter = "$share/g/v1/dev-1/telemetry/#"

// group is a world with nodes of which each has a member of one group, and knows of the others.
type group struct {
	*world
	dev     *peer // publishes
	nodes   []*node
	news    []*heldNews
	members []*peer
	mu      sync.Mutex
	got     map[string]int // guarded by mu: how often the members that hear have got a text
}

func newGroup(t *testing.T, nodes, members int) *group {
	t.Helper()
	g := &group{world: newWorld(t), got: map[string]int{}}
	g.add("back", service)
	g.add("dev-1")
	for i := range nodes {
		f := &heldNews{Memory: g.fabric}
		g.wrapped = f
		g.news, g.nodes = append(g.news, f), append(g.nodes, g.node())
		if i < members {
			g.join(i)
		}
	}
	g.wrapped = g.fabric
	g.dev = g.node().connect("dev-1")
	return g
}

// join has a member come to a node, and waits until all nodes have heard of that which are not held back.
func (g *group) join(at int) {
	g.t.Helper()
	p := g.nodes[at].connect("back", client(fmt.Sprint("member-", at)), window(200))
	g.members = append(g.members, p)
	p.subscribe(sharedFilter)
	want := 0 // nodes that hear, or were heard
	for i := range g.members {
		if i == at || g.news[i].held.Load() == nil {
			want++
		}
	}
	for i, n := range g.nodes[:len(g.members)] {
		if g.news[i].held.Load() == nil {
			until(g.t, "the nodes know of each other", func() bool { nodes, _ := n.Serving(sharedFilter); return nodes >= want })
		}
	}
}

// hears acknowledges and counts what comes to some of the members, until the test ends.
func (g *group) hears(members ...int) {
	ctx, stop := context.WithCancel(context.Background())
	var all sync.WaitGroup
	g.t.Cleanup(func() { stop(); all.Wait() })
	for _, at := range members {
		all.Go(func() {
			for p := g.members[at]; ; {
				d, ok := p.nextUntil(ctx)
				if !ok {
					return
				}
				p.conn.Acked(d.ID)
				g.mu.Lock()
				g.got[string(d.Message.Payload)]++
				g.mu.Unlock()
			}
		})
	}
}

// nextUntil waits for the next delivery, or until ctx ends.
func (p *peer) nextUntil(ctx context.Context) (d message.Delivery, ok bool) {
	for {
		p.mu.Lock()
		if len(p.arrived) > 0 {
			d, p.arrived = p.arrived[0], p.arrived[1:]
			p.mu.Unlock()
			return d, true
		}
		more := p.more
		p.mu.Unlock()
		select {
		case <-more:
		case <-ctx.Done():
			return d, false
		}
	}
}

const manyMessages = 60

func (g *group) publish() {
	g.t.Helper()
	for i := range manyMessages {
		g.dev.says("v1/dev-1/telemetry/x", fmt.Sprint(i), 1)
	}
}

// complete wants that all that was published came to a member.
func (g *group) complete() {
	g.t.Helper()
	until(g.t, "all messages come to a member", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return len(g.got) == manyMessages
	})
}

// TestGroupLeaving: what comes while others have not heard yet that a node has no members any more comes to theirs.
func TestGroupLeaving(t *testing.T) {
	for _, nodes := range []int{2, 3} {
		t.Run(fmt.Sprint(nodes, " nodes"), func(t *testing.T) {
			g := newGroup(t, nodes, nodes)
			leaves, stay := nodes-1, []int{0, 1}[:nodes-1]
			var let []func()
			for _, at := range stay {
				let = append(let, g.news[at].hold(t))
			}
			g.hears(stay...)
			g.members[leaves].leave(message.ReasonLost)
			until(t, "that it leaves has come back to it", func() bool {
				_, left := g.nodes[leaves].Serving(sharedFilter)
				return left
			})
			g.publish()
			for _, fn := range let {
				fn()
			}
			g.complete()
		})
	}
}

// TestGroupJoining: what comes while only some have heard that a node has a member too comes to one.
func TestGroupJoining(t *testing.T) {
	g := newGroup(t, 3, 2)
	g.news[1].hold(t)
	g.join(2)
	g.hears(0, 1, 2)
	g.publish()
	g.complete()
}

// TestGroupDeath: what was left to a node that has died comes to members elsewhere when it was not heard of for long.
func TestGroupDeath(t *testing.T) {
	g := newGroup(t, 3, 3)
	g.news[2].dead.Store(true) // what comes to its member is lost
	g.hears(0, 1)
	g.publish()
	for range 5 {
		g.pass(10 * time.Second)
		beats := [2]int64{}
		for i := range beats {
			beats[i] = g.news[i].beats.Load()
		}
		until(t, "the others say that they live", func() bool { return g.news[0].beats.Load() > beats[0] && g.news[1].beats.Load() > beats[1] })
	}
	g.complete()
}

// TestGroupStopping: what comes while a node stops comes to members elsewhere.
func TestGroupStopping(t *testing.T) {
	g := newGroup(t, 2, 2)
	let := g.news[0].hold(t)
	g.hears(0)
	var stopped sync.WaitGroup
	stopped.Go(g.nodes[1].stop)
	t.Cleanup(stopped.Wait)
	until(t, "its connection is closed", func() bool { return g.members[1].reason() == message.ReasonStopping })
	g.publish()
	let()
	g.complete()
}

// TestGroupRoom: a message that waits, since no member had room when it was asked, comes to the one that has some by then.
func TestGroupRoom(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	w.add("back", service)
	w.add("dev-1")
	a := n.connect("back", client("a"), window(1))
	b := &busy{peer: peer{t: t, name: "b", more: make(chan struct{})}, gate: newGate()}
	opened := sync.OnceFunc(func() { close(b.gate.open) })
	t.Cleanup(opened)
	conn, err := n.tryAs(w.identity("back"), client("b"), window(1), func(at *message.Attach) { at.Link = b })
	must(t, err)
	b.conn = conn.conn
	a.subscribe(sharedFilter)
	b.subscribe(sharedFilter)
	b.subscribe("v1/group/g1/notice")
	dev, back := n.connect("dev-1"), n.connect("back", client("c"))
	dev.says("v1/dev-1/telemetry/x", "of one", 1)
	dev.says("v1/dev-1/telemetry/x", "of the other", 1)
	of, _ := a.next(), b.next()
	back.says("v1/group/g1/notice", "it is busy with this", 0)
	<-b.gate.reached
	dev.says("v1/dev-1/telemetry/x", "waits", 1)
	time.Sleep(50 * time.Millisecond) // for a to be asked, and b to be waited for; later it would have room at once
	a.ack(of)
	opened()
	a.hears("waits")
}

// busy is a peer whose front takes long over what is said with QoS 0.
type busy struct {
	peer
	gate *gate
}

func (p *busy) Deliver(d message.Delivery) bool {
	if d.QoS == 0 {
		p.gate.pass()
	}
	return p.peer.Deliver(d)
}
