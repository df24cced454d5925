package message_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"mooring/internal/base/db"
	"mooring/internal/base/db/dbtest"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
	"mooring/internal/core/message"
	"mooring/internal/core/message/messagetest"
	"mooring/internal/core/message/policy"
)

const patience = 30 * time.Second

var (
	operator = access.Actor{Kind: access.KindOperator, ID: "aa", Role: access.RoleOperator, Via: "api"}
	auditor  = access.Actor{Kind: access.KindOperator, ID: "cc", Role: access.RoleAuditor, Via: "api"}
	nobody   = access.Actor{Kind: access.KindOperator, ID: "dd", Via: "api"}
)

const standard = `
group gateways {
    match kind=gateway
    extends devices
    allow act-for children
    allow publish v1/${child}/telemetry/#
    allow publish v1/${child}/state retain yes
    allow subscribe v1/${child}/cmd/+
}
group several {
    match attr.several=yes
    extends devices
    connections 3
}
group markers {
    match attr.revoked=mark
    extends devices
    retained_of_revoked mark
}
group deleters {
    match attr.revoked=delete
    extends devices
    retained_of_revoked delete
}
group slow {
    match attr.slow=yes
    extends devices
    rate 1/s burst 2
}
group devices {
    match kind=device
    session_expiry 1h
    rate 100000/s burst 100000
    byte_rate 100MiB/s
    retained_topics 3
    queue_messages 20
    subscriptions 5
    filters 4
    allow publish v1/${thing}/telemetry/# max_qos 2
    allow publish v1/${thing}/state max_qos 2 retain yes
    allow publish v1/${thing}/note/+ max_qos 1 retain yes size 100
    allow will v1/${thing}/state max_qos 2 retain yes
    allow subscribe v1/${thing}/cmd/+ max_qos 2
    allow subscribe v1/${thing}/tree/#
    allow subscribe v1/group/${group}/notice
    allow subscribe v1/${thing}/state
    allow subscribe v1/${thing}/note/+
}
group backends {
    principal service
    match role=operator
    allow subscribe v1/# shared yes max_qos 2
    allow publish v1/+/cmd/+ max_qos 2 retain yes
    allow publish v1/+/tree/#
    allow publish v1/+/tree
    allow publish v1/group/+/notice retain yes
    allow publish v1/all/news retain yes
}
`

// world is one installation: things, a fabric, a database, and any number of nodes.
type world struct {
	t       *testing.T
	fabric  *messagetest.Memory
	wrapped message.Fabric // what nodes see
	db      *db.DB
	log     *audit.Log
	record  message.Recorder // what nodes see of it
	clock   atomic.Int64     // Unix milliseconds
	nodes   int

	mu     sync.Mutex
	things map[string]*thing // guarded by mu
	ended  map[[16]byte]bool // guarded by mu: certificates that are revoked
}

type thing struct {
	subject policy.Subject
	denied  bool
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, things: map[string]*thing{}, ended: map[[16]byte]bool{}}
	w.clock.Store(1_800_000_000_000)
	w.fabric = messagetest.New(w.now, t.Cleanup)
	w.wrapped = w.fabric
	signer, vkey, err := audit.NoteKey("test", make([]byte, 32))
	must(t, err)
	verifier, err := note.NewVerifier(vkey)
	must(t, err)
	w.db = dbtest.Open(t, audit.Schema(), message.Schema())
	w.log = audit.New(w.db, audit.Options{Origin: "test", Signer: signer, Verifier: verifier, BatchKey: make([]byte, 32), Now: w.now})
	w.record = w.log
	return w
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) now() time.Time { return time.UnixMilli(w.clock.Load()) }

func (w *world) pass(d time.Duration) { w.clock.Add(d.Milliseconds()) }

// node is one process.
type node struct {
	*message.Service
	w    *world
	stop func() // ends it in an orderly way
}

func (w *world) node() *node {
	w.t.Helper()
	w.nodes++
	n := &node{w: w}
	n.Service = message.New(message.Deps{DB: w.db, Audit: w.record, Access: access.NewDecider(w.log), Fabric: w.wrapped, Now: w.now, Node: fmt.Sprint("node-", w.nodes), Standard: standard,
		Identify: w.identify, Author: w.author, Children: w.children, Named: w.named})
	must(w.t, n.Load(w.t.Context()))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	var once sync.Once
	n.stop = func() {
		once.Do(func() {
			cancel()
			must(w.t, <-done)
		})
	}
	w.t.Cleanup(n.stop)
	until(w.t, "the node is ready", func() bool {
		_, _, err := n.Connect(w.t.Context(), message.Attach{})
		return !strings.Contains(fmt.Sprint(err), "not carried yet")
	})
	return n
}

func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("this never came true: %s", what)
		}
	}
}

// add registers a thing.
func (w *world) add(name string, change ...func(*policy.Subject)) {
	s := policy.Subject{Thing: name, Kind: policy.Device, Group: "g1", Tags: map[string]string{}}
	for _, fn := range change {
		fn(&s)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.things[name] = &thing{subject: s}
}

func tag(key, value string) func(*policy.Subject) {
	return func(s *policy.Subject) { s.Tags[key] = value }
}

func service(s *policy.Subject) { s.Kind, s.Role = policy.Service, "operator" }
func gateway(s *policy.Subject) { s.Kind = policy.Gateway }

// deny has the registry say that a thing may not speak any more, or may again.
func (w *world) deny(name string, denied bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.things[name].denied = denied
}

func idOf(name string) (id device.ID) {
	sum := sha256.Sum256([]byte(name))
	copy(id[:], sum[:])
	return id
}

func (w *world) identity(name string) message.Identity {
	w.mu.Lock()
	defer w.mu.Unlock()
	return message.Identity{ID: idOf(name), Subject: w.things[name].subject, Cert: [16]byte(idOf("cert of " + name)), Serial: "serial of " + name, Issuer: "issuer", NotAfter: 1 << 40}
}

func (w *world) identify(_ context.Context, chain [][]byte) (message.Identity, error) {
	name := string(chain[0])
	w.mu.Lock()
	t := w.things[name]
	denied := t == nil || t.denied
	var known device.ID
	if t != nil {
		known = idOf(name)
	}
	w.mu.Unlock()
	if denied {
		return message.Identity{ID: known}, errs.New(errs.Denied, "this thing may not connect")
	}
	return w.identity(name), nil
}

// under returns who name is with another certificate than his first.
func (w *world) under(name, serial string) message.Identity {
	id := w.identity(name)
	id.Serial, id.Cert = serial, [16]byte(idOf("cert "+serial))
	return id
}

// revoke has the registry say that a certificate is revoked.
func (w *world) revoke(id message.Identity) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended[id.Cert] = true
}

func (w *world) author(_ context.Context, id device.ID, cert [16]byte) (policy.Subject, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, t := range w.things {
		if idOf(name) != id {
			continue
		}
		if t.denied || w.ended[cert] {
			return t.subject, errs.New(errs.Denied, "this thing may not speak")
		}
		return t.subject, nil
	}
	return policy.Subject{}, errs.New(errs.NotFound, "there is no such thing")
}

func (w *world) named(_ context.Context, name string) (policy.Subject, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.things[name]
	switch {
	case t == nil:
		return policy.Subject{}, errs.New(errs.NotFound, "there is no such thing")
	case t.denied:
		return policy.Subject{}, errs.New(errs.Denied, "%s is suspended: it may do nothing", name)
	}
	return t.subject, nil
}

func (w *world) children(_ context.Context, gateway string) (map[string]device.ID, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := map[string]device.ID{}
	for name, t := range w.things {
		if t.subject.Tags[message.GatewayTag] == gateway && !t.denied {
			list[name] = idOf(name)
		}
	}
	return list, nil
}

// peer is the other end of one connection, and its front.
type peer struct {
	t    *testing.T
	name string
	conn *message.Conn
	got  message.Connected

	mu      sync.Mutex
	arrived []message.Delivery // guarded by mu
	more    chan struct{}      // guarded by mu
	closed  message.Reason     // guarded by mu
	stalled bool               // guarded by mu: nothing of QoS 0 is taken
	lost    []string           // guarded by mu: subscriptions that were withdrawn
}

func (p *peer) Deliver(d message.Delivery) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stalled && d.QoS == 0 {
		return false
	}
	p.arrived = append(p.arrived, d)
	close(p.more)
	p.more = make(chan struct{})
	return true
}

func (p *peer) Close(r message.Reason) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed == 0 {
		p.closed = r
	}
}

func (p *peer) Queued() int { return 7 }

func (p *peer) Withdrawn(filter string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lost = append(p.lost, filter)
}

func (p *peer) reason() message.Reason {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

func attach() message.Attach {
	return message.Attach{Front: "mqtt", Address: netip.MustParseAddrPort("192.0.2.1:1000"), Window: 8, Clean: true}
}

func persistent(a *message.Attach) { a.Clean, a.Expiry = false, 3600 }

func window(n int) func(*message.Attach) { return func(a *message.Attach) { a.Window = n } }

func client(id string) func(*message.Attach) { return func(a *message.Attach) { a.Client = id } }

func will(topic, text string, delay uint32) func(*message.Attach) {
	return func(a *message.Attach) {
		a.Will = &message.Will{Message: message.Message{Topic: topic, Payload: []byte(text), QoS: 1}, Delay: delay}
	}
}

func (n *node) try(name string, change ...func(*message.Attach)) (*peer, error) {
	id, err := n.Identify(n.w.t.Context(), message.Visit{}, [][]byte{[]byte(name)})
	if err != nil {
		return nil, err
	}
	return n.tryAs(id, change...)
}

func (n *node) tryAs(id message.Identity, change ...func(*message.Attach)) (p *peer, err error) {
	p = &peer{t: n.w.t, name: id.Subject.Thing, more: make(chan struct{})}
	a := attach()
	a.Identity, a.Link = id, p
	for _, fn := range change {
		fn(&a)
	}
	p.conn, p.got, err = n.Connect(n.w.t.Context(), a)
	return p, err
}

func (n *node) connect(name string, change ...func(*message.Attach)) *peer {
	n.w.t.Helper()
	p, err := n.try(name, change...)
	if err != nil {
		n.w.t.Fatalf("Connect(%s) = %v", name, err)
	}
	return p
}

func (p *peer) leave(r message.Reason) { p.conn.Detach(r, message.Farewell{}) }

func (p *peer) subscribe(filters ...string) {
	p.t.Helper()
	for _, f := range filters {
		p.subscribeTo(message.Subscription{Filter: f, QoS: 2})
	}
}

func (p *peer) subscribeTo(s message.Subscription) {
	p.t.Helper()
	if g := p.conn.Subscribe(p.t.Context(), []message.Subscription{s}); g[0].Err != nil {
		p.t.Fatalf("Subscribe(%s) = %v", s.Filter, g[0].Err)
	}
}

func say(topic, text string, qos byte) *message.Message {
	return &message.Message{Topic: topic, Payload: []byte(text), QoS: qos}
}

func retained(topic, text string) *message.Message {
	return &message.Message{Topic: topic, Payload: []byte(text), QoS: 1, Retain: true}
}

// publish publishes and waits for the answer.
func (p *peer) publish(m *message.Message, id ...uint16) error {
	done := make(chan error, 1)
	var packet uint16
	if len(id) > 0 {
		packet = id[0]
	}
	p.conn.Publish(m, packet, func(err error) { done <- err })
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		p.t.Fatal("a message that was published is not answered")
		return nil
	}
}

func (p *peer) says(topic, text string, qos byte) {
	p.t.Helper()
	id := uint16(0)
	if qos == 2 {
		id = 9
	}
	if err := p.publish(say(topic, text, qos), id); err != nil {
		p.t.Fatalf("%s publishes to %s: %v", p.name, topic, err)
	}
	if qos == 2 {
		if _, err := p.conn.Release(p.t.Context(), id); err != nil {
			p.t.Fatal(err)
		}
	}
}

// next waits for the next delivery.
func (p *peer) next() message.Delivery {
	p.t.Helper()
	deadline := time.After(patience)
	for {
		p.mu.Lock()
		if len(p.arrived) > 0 {
			d := p.arrived[0]
			p.arrived = p.arrived[1:]
			p.mu.Unlock()
			return d
		}
		more := p.more
		p.mu.Unlock()
		select {
		case <-more:
		case <-deadline:
			p.t.Fatalf("%s waits for a delivery in vain", p.name)
		}
	}
}

// waits returns how many deliveries nobody has looked at yet.
func (p *peer) waits() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.arrived)
}

// hears wants the next deliveries to have these texts, and acknowledges them.
func (p *peer) hears(texts ...string) {
	p.t.Helper()
	for _, want := range texts {
		d := p.next()
		if d.Message == nil {
			p.t.Fatalf("%s hears the release of %d, want %q", p.name, d.ID, want)
		}
		if got := string(d.Message.Payload); got != want {
			p.t.Fatalf("%s hears %q (%s), want %q", p.name, got, d.Message.Topic, want)
		}
		p.ack(d)
	}
}

func (p *peer) ack(d message.Delivery) {
	p.t.Helper()
	switch d.QoS {
	case 1:
		if !p.conn.Acked(d.ID) {
			p.t.Fatalf("%s: there is no delivery %d to acknowledge", p.name, d.ID)
		}
	case 2:
		if !p.conn.Received(d.ID) {
			p.t.Fatalf("%s: there is no delivery %d to have received", p.name, d.ID)
		}
		if r := p.next(); !r.Release || r.ID != d.ID {
			p.t.Fatalf("%s hears %+v, want the release of %d", p.name, r, d.ID)
		}
		if !p.conn.Completed(d.ID) {
			p.t.Fatalf("%s: there is no release of %d to complete", p.name, d.ID)
		}
	}
}

// silent wants that nothing more has come to p than what a marker that follows brings: publisher publishes it where p is subscribed.
func (p *peer) silent(publisher *peer, topic string) {
	p.t.Helper()
	text := fmt.Sprint("marker ", time.Now().UnixNano())
	publisher.says(topic, text, 1)
	p.hears(text)
}

// stored returns the texts of what lies in a stream.
func (w *world) stored(s message.Stream) (texts []string) {
	for _, m := range w.fabric.Stored(s) {
		texts = append(texts, string(m.Payload))
	}
	return texts
}

func (w *world) entries(action string) (list []audit.Entry) {
	w.t.Helper()
	must(w.t, w.log.Sequence(w.t.Context()))
	all, err := w.log.List(w.t.Context(), access.System("test"), audit.Query{Limit: 1000})
	must(w.t, err)
	for _, e := range all {
		if e.Action == action {
			list = append(list, e.Entry)
		}
	}
	return list
}

// forgetful stores no sessions while it is told so, as if the process had died before.
type forgetful struct {
	*messagetest.Memory
	forget    atomic.Bool
	forgotten atomic.Int64
}

func (f *forgetful) PutSession(ctx context.Context, key string, data []byte, revision uint64, life time.Duration) (uint64, error) {
	if f.forget.Load() {
		f.forgotten.Add(1)
		return 0, errs.New(errs.Unavailable, "nothing is stored")
	}
	return f.Memory.PutSession(ctx, key, data, revision, life)
}

// deaf is the fabric for a node that dies: from then on nothing that it does arrives.
type deaf struct {
	*messagetest.Memory
	dead atomic.Bool
}

var errDead = errs.New(errs.Unavailable, "the process is dead")

func (f *deaf) Append(m *message.Message, dedupe string, done func(uint64, error)) {
	if f.dead.Load() {
		go done(0, errDead)
		return
	}
	f.Memory.Append(m, dedupe, done)
}

func (f *deaf) PutSession(ctx context.Context, key string, data []byte, revision uint64, life time.Duration) (uint64, error) {
	if f.dead.Load() {
		return 0, errDead
	}
	return f.Memory.PutSession(ctx, key, data, revision, life)
}

func (f *deaf) DropSession(ctx context.Context, key string, revision uint64) error {
	if f.dead.Load() {
		return errDead
	}
	return f.Memory.DropSession(ctx, key, revision)
}

func (f *deaf) Disown(ctx context.Context, key string, epoch uint64) error {
	if f.dead.Load() {
		return errDead
	}
	return f.Memory.Disown(ctx, key, epoch)
}
