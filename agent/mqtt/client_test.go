package mqtt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	wire "mooring/wire/mqtt"
)

// running makes a Client that runs, and where the server's ends of its connections come. stop ends it; a peer, if there is one, is told.
func running(t *testing.T, c Config) (client *Client, ends <-chan net.Conn, stop func(*peer)) {
	t.Helper()
	offered := make(chan net.Conn)
	c.Dial, c.Now = dialling(offered), time.Now
	client = New(c)
	ctx, cancel := context.WithCancel(t.Context())
	done := start(func() error { return client.Run(ctx) })
	return client, offered, func(p *peer) {
		t.Helper()
		synctest.Wait()
		cancel()
		if p != nil {
			p.want(wire.Disconnect{})
		}
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	}
}

// A message goes over as many connections as it takes: at each step of QoS 1 and 2 the connection breaks, with and without the session.
func TestPublishOverReconnects(t *testing.T) {
	both(t, func(t *testing.T, v wire.Version) {
		client, ends, stop := running(t, Config{Version: v, ClientID: "dev-1"})
		one := start(func() error { return client.Publish(t.Context(), Message{Topic: "one", QoS: 1, Payload: []byte("1")}) })
		synctest.Wait()
		two := start(func() error { return client.Publish(t.Context(), Message{Topic: "two", QoS: 2, Payload: []byte("2")}) })

		p := accept(t, <-ends, wire.Connack{}) // there is no session yet
		id1, id2 := p.wantPublish("one", 1, false).ID, p.wantPublish("two", 2, false).ID
		_ = p.Close()

		p = accept(t, <-ends, wire.Connack{SessionPresent: true}) // as before, and marked as sent before
		if m := p.wantPublish("one", 1, true); m.ID != id1 || string(m.Payload) != "1" {
			t.Errorf("got %+v", m)
		}
		p.wantPublish("two", 2, true)
		_ = p.Close()

		p = accept(t, <-ends, wire.Connack{}) // the server has forgotten all
		p.wantPublish("one", 1, false)
		p.wantPublish("two", 2, false)
		p.send(ack(wire.PUBREC, id2))
		p.want(ack(wire.PUBREL, id2))
		_ = p.Close()

		p = accept(t, <-ends, wire.Connack{SessionPresent: true}) // only the release of the second
		p.wantPublish("one", 1, true)
		p.want(ack(wire.PUBREL, id2))
		p.send(ack(wire.PUBACK, id1))
		wantNil(t, one)
		p.send(ack(wire.PUBCOMP, id2))
		wantNil(t, two)
		stop(p)
	})
}

// The server received a message with QoS 2 and has forgotten the session then: it is not sent again.
func TestReleasedWithoutSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, ends, stop := running(t, Config{})
		done := start(func() error { return client.Publish(t.Context(), Message{Topic: "a", QoS: 2}) })
		p := accept(t, <-ends, wire.Connack{})
		id := p.wantPublish("a", 2, false).ID
		p.send(ack(wire.PUBREC, id))
		p.want(ack(wire.PUBREL, id))
		_ = p.Close()
		p = accept(t, <-ends, wire.Connack{})
		wantNil(t, done)
		p.silent(time.Second)
		stop(p)
	})
}

// QoS 2 towards the client: what was handed over once is not handed over again, though the connection broke before or after PUBREC.
func TestReceiveOverReconnects(t *testing.T) {
	both(t, func(t *testing.T, v wire.Version) {
		got := make(chan string, 9)
		_, ends, stop := running(t, Config{Version: v, ClientID: "dev-1", Handler: func(m Message) { got <- m.Topic }})
		p := accept(t, <-ends, wire.Connack{})
		p.send(wire.Publish{Topic: "a", QoS: 2, ID: 9})
		<-got
		synctest.Wait() // PUBREC is about to be sent
		_ = p.Close()
		p = accept(t, <-ends, wire.Connack{SessionPresent: true})
		p.send(wire.Publish{Topic: "a", QoS: 2, ID: 9, Duplicate: true})
		p.want(ack(wire.PUBREC, 9))
		_ = p.Close()
		p = accept(t, <-ends, wire.Connack{SessionPresent: true})
		p.send(ack(wire.PUBREL, 9))
		p.want(ack(wire.PUBCOMP, 9))
		p.send(wire.Publish{Topic: "b", QoS: 2, ID: 9}) // the identifier is free again
		p.want(ack(wire.PUBREC, 9))
		if topic := <-got; topic != "b" || len(got) != 0 {
			t.Errorf("got %q and %d more", topic, len(got))
		}
		_ = p.Close()
		p = accept(t, <-ends, wire.Connack{}) // without the session it is another message
		p.send(wire.Publish{Topic: "c", QoS: 2, ID: 9})
		p.want(ack(wire.PUBREC, 9))
		if topic := <-got; topic != "c" {
			t.Errorf("got %q", topic)
		}
		stop(p)
	})
}

func TestSubscriptionsAreRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := make(chan Connected, 9)
		client, ends, stop := running(t, Config{Connected: func(c Connected) { told <- c }})
		done := start(func() error {
			if _, err := client.Subscribe(t.Context(), Subscription{Filter: "a", QoS: 1}, Subscription{Filter: "b"}, Subscription{Filter: "c"}); err != nil {
				return err
			}
			return client.Unsubscribe(t.Context(), "b")
		})
		p := accept(t, <-ends, wire.Connack{AssignedClientID: "given"})
		s, _ := p.next().(wire.Subscribe)
		p.send(wire.Suback{ID: s.ID, Reasons: []wire.Reason{1, 0, 0}})
		u, _ := p.next().(wire.Unsubscribe)
		p.send(wire.Unsuback{ID: u.ID, Reasons: []wire.Reason{0}})
		wantNil(t, done)
		if c := <-told; c.ClientID != "given" || c.KeepAlive != time.Minute {
			t.Errorf("told %+v", c)
		}
		_ = p.Close()

		p = accept(t, <-ends, wire.Connack{SessionPresent: true})
		if p.connect.ClientID != "given" || p.connect.CleanStart {
			t.Errorf("CONNECT %+v", p.connect)
		}
		p.silent(time.Second)
		<-told
		_ = p.Close()

		p = accept(t, <-ends, wire.Connack{})
		s, _ = p.next().(wire.Subscribe)
		if want := []Subscription{{Filter: "a", QoS: 1}, {Filter: "c"}}; !slices.Equal(s.Filters, want) {
			t.Errorf("renewed %+v, want %+v", s.Filters, want)
		}
		p.send(wire.Suback{ID: s.ID, Reasons: []wire.Reason{wire.GrantedQoS1, wire.NotAuthorised}})
		refused := (*Refusal)(nil)
		if c := <-told; len(c.Refused) != 1 || !errors.As(c.Refused[0], &refused) || refused.Filter != "c" {
			t.Errorf("told %+v", c)
		}
		_ = p.Close()

		p = accept(t, <-ends, wire.Connack{}) // what was refused is not asked for again
		if s, _ = p.next().(wire.Subscribe); len(s.Filters) != 1 || s.Filters[0].Filter != "a" {
			t.Errorf("renewed %+v", s.Filters)
		}
		p.send(wire.Suback{ID: s.ID, Reasons: []wire.Reason{1}})
		<-told
		stop(p)
	})
}

// A connection that breaks while a filter is being asked for: it is asked for on the next one.
func TestSubscribeOverReconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, ends, stop := running(t, Config{})
		done := start(func() error { _, err := client.Subscribe(t.Context(), Subscription{Filter: "a"}); return err })
		p := accept(t, <-ends, wire.Connack{})
		p.next()
		_ = p.Close()
		p = accept(t, <-ends, wire.Connack{})
		s, _ := p.next().(wire.Subscribe)
		p.send(wire.Suback{ID: s.ID, Reasons: []wire.Reason{0}})
		wantNil(t, done)
		stop(p)
	})
}

// Handlers are named before the first connect, as messages of an earlier session come at once; the last one that was named for a filter counts.
func TestHandlers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := make(chan string, 9)
		to := func(name string) func(Message) { return func(m Message) { got <- name + " " + m.Topic } }
		offered := make(chan net.Conn)
		client := New(Config{Dial: dialling(offered), Now: time.Now, Handler: to("other")})
		client.Handle("a/#", to("old"))
		client.Handle("a/#", to("a"))
		client.Handle("b", to("b"))
		client.Handle("$share/g/c", to("c"))
		client.Handle("b", nil)
		client.Handle("none", nil)
		client.Handle("$share/", to("bad"))
		ctx, cancel := context.WithCancel(t.Context())
		done := start(func() error { return client.Run(ctx) })
		p := accept(t, <-offered, wire.Connack{SessionPresent: true})
		p.send(wire.Publish{Topic: "a/x"}, wire.Publish{Topic: "b"}, wire.Publish{Topic: "c"}, wire.Publish{Topic: "a"})
		for _, want := range []string{"a a/x", "other b", "c c", "a a"} {
			if topic := <-got; topic != want {
				t.Errorf("got %q, want %q", topic, want)
			}
		}
		synctest.Wait()
		cancel()
		p.want(wire.Disconnect{})
		<-done
	})
}

// Waits double from one second to 15 minutes, and are drawn from all of that time.
func TestBackoff(t *testing.T) {
	for failures, want := range map[int]time.Duration{0: time.Second, 1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second, 10: 512 * time.Second, 11: 15 * time.Minute, 12: 15 * time.Minute,
		1000: 15 * time.Minute} {
		if got := Backoff(failures); got != want {
			t.Errorf("Backoff(%d) = %v, want %v", failures, got, want)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		var at []time.Time
		var failed int
		client := New(Config{
			Dial: func(context.Context) (net.Conn, error) {
				at = append(at, time.Now())
				return nil, fmt.Errorf("no route")
			},
			Now: time.Now, Lost: func(err error) { failed++ },
		})
		ctx, cancel := context.WithTimeout(t.Context(), 7*24*time.Hour)
		defer cancel()
		if err := client.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		early := 0
		for i := 1; i < len(at); i++ {
			wait := at[i].Sub(at[i-1])
			if wait > Backoff(i) {
				t.Errorf("wait %d is %v, more than %v", i, wait, Backoff(i))
			}
			if wait < Backoff(i)/2 {
				early++
			}
		}
		// A week has some 1,300 waits of 7.5 minutes on average, half of them below that.
		if n := len(at); n < 1000 || n > 1700 || early < n*4/10 || early > n*6/10 || failed < n-1 {
			t.Errorf("%d attempts, %d waits below their half, %d failures told", n, early, failed)
		}
	})
}

// A connection that lasted makes the next wait a short one again.
func TestBackoffBeginsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lost := make(chan time.Time, 99)
		_, ends, stop := running(t, Config{KeepAlive: -1, Lost: func(error) { lost <- time.Now() }})
		for range 14 { // refused, again and again
			p := accept(t, <-ends, wire.Connack{Reason: wire.ServerBusy})
			<-lost
			_ = p.Close()
		}
		p := accept(t, <-ends, wire.Connack{})
		time.Sleep(2 * time.Minute)
		_ = p.Close()
		ended := <-lost
		p = accept(t, <-ends, wire.Connack{})
		if waited := time.Since(ended); waited > time.Second {
			t.Errorf("connected again after %v", waited)
		}
		stop(p)
	})
}

// A message that no server takes does not stop the others, nor does one that the server of the moment does not take.
func TestMessagesThatAreNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, ends, stop := running(t, Config{Queue: 9})
		var done []<-chan error
		for _, m := range []Message{{Topic: "large", QoS: 1, Payload: make([]byte, 100)}, {Topic: "twice", QoS: 2}, {Topic: "kept", QoS: 1, Retain: true}, {Topic: "good", QoS: 1}} {
			done = append(done, start(func() error { return client.Publish(t.Context(), m) }))
			synctest.Wait()
		}
		p := accept(t, <-ends, wire.Connack{MaximumPacketSize: 50, MaximumQoS: wire.Some(wire.AtLeastOnce), RetainAvailable: wire.Some(false)})
		m := p.wantPublish("good", 1, false)
		p.send(ack(wire.PUBACK, m.ID))
		for i, d := range done {
			if err := <-d; (err == nil) != (i == 3) {
				t.Errorf("message %d: %v", i, err)
			}
		}
		stop(p)
	})
}

// While there is no connection, messages wait up to a number, and end with Run.
func TestQueueWithoutConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _, stop := running(t, Config{Queue: 2})
		ended := make(chan error, 9)
		for range 2 {
			if err := client.Send(t.Context(), Message{Topic: "a", QoS: 1}, func(err error) { ended <- err }); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := client.Send(ctx, Message{Topic: "a", QoS: 1}, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a third one: %v", err)
		}
		if err := client.Publish(ctx, Message{Topic: "a"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("QoS 0: %v", err)
		}
		stop(nil)
		for range 2 {
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("after the end: %v", err)
			}
		}
		if err := client.Publish(t.Context(), Message{Topic: "a", QoS: 1}); !errors.Is(err, context.Canceled) {
			t.Errorf("after the end: %v", err)
		}
	})
}
