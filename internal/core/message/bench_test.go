package message

import (
	"fmt"
	"testing"
	"time"

	"mooring/internal/core/message/policy"
)

var testTime = time.Unix(1_800_000_000, 0)

// nowhere is a fabric that takes everything at once and keeps nothing: what it costs is not counted.
type nowhere struct {
	Fabric
	seq uint64
}

func (f *nowhere) Append(_ *Message, _ string, done func(uint64, error)) {
	f.seq++
	done(f.seq, nil)
}

func (f *nowhere) Standing() Standing { return Standing{Reached: true} }

type deadEnd struct{}

func (deadEnd) Deliver(Delivery) bool { return true }
func (deadEnd) Close(Reason)          {}
func (deadEnd) Queued() int           { return 0 }

func benchService(tb testing.TB) *Service {
	s := New(Deps{Fabric: &nowhere{}, Now: func() time.Time { return testTime }, Node: "bench"})
	s.policy.Store(&ruling{set: policy.Default()})
	return s
}

func benchConn(tb testing.TB, s *Service, name string) *Conn {
	c := &Conn{s: s, key: "s/" + name, client: name, link: deadEnd{}, window: 64, settled: make(chan struct{}), ending: -1}
	c.id.Subject = policy.Subject{Thing: name, Kind: policy.Device, Group: "g"}
	rights, err := s.policy.Load().set.Compile(c.id.Subject)
	if err != nil {
		tb.Fatal(err)
	}
	c.rights.Store(rights)
	return c
}

func BenchmarkPolicyCheck(b *testing.B) {
	c := benchConn(b, benchService(b), "dev-1")
	rights := c.rights.Load()
	b.ReportAllocs()
	for b.Loop() {
		if !rights.Publish("v1/dev-1/telemetry/temperature", 1, false, 64).OK() {
			b.Fatal("denied")
		}
	}
}

// BenchmarkMatch looks a topic up among the subscriptions of 10,000 things and of ten who read everything.
func BenchmarkMatch(b *testing.B) {
	var x index
	for i := range 10_000 {
		for _, f := range []string{"v1/dev-%d/cmd/+", "v1/dev-%d/state"} {
			filter := fmt.Sprintf(f, i)
			x.add(&sub{Subscription: Subscription{Filter: filter}, inner: filter})
		}
	}
	for range 10 {
		x.add(&sub{Subscription: Subscription{Filter: "v1/#"}, inner: "v1/#"})
	}
	var found []*sub
	b.ReportAllocs()
	for b.Loop() {
		if found = x.match(found[:0], "v1/dev-777/cmd/open"); len(found) != 11 {
			b.Fatal(len(found))
		}
	}
}

// BenchmarkPublish is the way of a message from the front to the fabric, and of the answer back.
func BenchmarkPublish(b *testing.B) {
	for _, qos := range []byte{0, 1} {
		b.Run(fmt.Sprint("qos", qos), func(b *testing.B) {
			s := benchService(b)
			c := benchConn(b, s, "dev-1")
			at := testTime
			s.Now = func() time.Time { at = at.Add(time.Second); return at } // no rate is reached
			m := &Message{Topic: "v1/dev-1/telemetry/temperature", Payload: make([]byte, 64), QoS: qos}
			b.ReportAllocs()
			for b.Loop() {
				c.Publish(m, 0, func(err error) {
					if err != nil {
						b.Fatal(err)
					}
				})
			}
		})
	}
}

// BenchmarkDispatch is the way of a message that was stored to one subscriber, and of his acknowledgement.
func BenchmarkDispatch(b *testing.B) {
	s := benchService(b)
	s.hands.init()
	c := benchConn(b, s, "dev-1")
	x := &sub{Subscription: Subscription{Filter: "v1/dev-1/cmd/+", QoS: 1}, inner: "v1/dev-1/cmd/+", granted: 1, owner: c}
	c.hold(x)
	s.index.add(x)
	d := &dispatcher{}
	m := &Message{Topic: "v1/dev-1/cmd/open", Payload: make([]byte, 64), QoS: 1, Stream: Down}
	b.ReportAllocs()
	for b.Loop() {
		m.Seq++
		s.dispatch(m, d)
		if !c.Acked(uint16(Down)*idRange + c.lastID[Down]) {
			b.Fatal("nothing was delivered")
		}
	}
}
