package sink_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"mooring/internal/base/errs"
	"mooring/internal/core/message"
	"mooring/internal/provider/nats/natstest"
	"mooring/internal/provider/sink"
)

// farNATS is another NATS with a stream for what sinks publish, and a sink that publishes there.
func farNATS(t *testing.T, largest int32) (*sink.NATS, jetstream.Stream) {
	t.Helper()
	urls := natstest.Start(t, 1).URLs()
	nc, err := natsgo.Connect(urls[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "FAR", Subjects: []string{"far.>"}, MaxMsgSize: largest})
	if err != nil {
		t.Fatal(err)
	}
	s := &sink.NATS{URLs: urls, Subject: "far", Tenant: "acme", Name: "test"}
	t.Cleanup(s.Close)
	return s, stream
}

// far are the payloads in the stream.
func far(t *testing.T, stream jetstream.Stream) (list []string) {
	t.Helper()
	info, err := stream.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for seq := uint64(1); seq <= info.State.LastSeq; seq++ {
		m, err := stream.GetMsg(t.Context(), seq)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, string(m.Data))
	}
	return list
}

func TestNATS(t *testing.T) {
	s, stream := farNATS(t, 1000)
	t.Run("headers", func(t *testing.T) {
		m := odd()
		m.User = []message.Pair{{Name: "ok", Value: "1"}, {Name: "not: ok", Value: "2"}, {Name: "lines", Value: "a\r\nb"}, {Name: "long", Value: strings.Repeat("x", 1025)}}
		if done, err := s.Put(t.Context(), sink.Batch{Born: 7, Messages: []*message.Message{m}}); done != 1 || err != nil {
			t.Fatalf("Put: %d, %v", done, err)
		}
		got, err := stream.GetMsg(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		if got.Subject != "far.Pumpe=207" || string(got.Data) != "\x00\xff" {
			t.Errorf("%q is under %s", got.Data, got.Subject)
		}
		for name, want := range map[string]string{"Nats-Msg-Id": "7-42", "Mooring-Topic": `v1/dev "1"/ü%`, "Mooring-Thing": "Pumpe 7", "Mooring-Child": "dev-1", "Mooring-Tenant": "acme", "Mooring-QoS": "1", "Mooring-Retain": "true",
			"Mooring-Time": "2026-11-26T19:12:09.123Z", "Mooring-Certificate": "ab000000000000000000000000000000", "Mooring-User-ok": "1", "Mooring-User-lines": "", "Mooring-User-long": ""} {
			if got := got.Header.Get(name); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
	})
	t.Run("what comes again is there once", func(t *testing.T) {
		for range 2 {
			if done, err := s.Put(t.Context(), some(100, 20, time.Now())); done != 20 || err != nil {
				t.Fatalf("Put: %d, %v", done, err)
			}
		}
		if got := far(t, stream)[1:]; !slices.Equal(got, numbers(100, 20)) {
			t.Errorf("there are %v", got)
		}
	})
	t.Run("too large for the stream", func(t *testing.T) {
		b := some(200, 3, time.Now())
		b.Messages[1].Payload = make([]byte, 2000)
		if done, err := s.Put(t.Context(), b); done != 1 || !errs.Is(err, errs.Invalid) {
			t.Errorf("Put: %d, %v; want 1 and Invalid", done, err)
		}
	})
	t.Run("no stream takes it", func(t *testing.T) {
		other := &sink.NATS{URLs: s.URLs, Subject: "nowhere", Name: "test"}
		defer other.Close()
		if done, err := other.Put(t.Context(), some(1, 1, time.Now())); done != 0 || !errs.Is(err, errs.Unavailable) {
			t.Errorf("Put: %d, %v; want Unavailable: somebody may make one", done, err)
		}
	})
	t.Run("away", func(t *testing.T) {
		other := &sink.NATS{URLs: []string{"nats://127.0.0.1:1"}, Subject: "far", Name: "test"}
		defer other.Close()
		if done, err := other.Put(t.Context(), some(1, 1, time.Now())); done != 0 || !errs.Is(err, errs.Unavailable) {
			t.Errorf("Put: %d, %v; want Unavailable", done, err)
		}
	})
}

// TestNATSRuns: all that is published arrives, in order.
func TestNATSRuns(t *testing.T) {
	s, stream := farNATS(t, -1)
	w := newWorld(t)
	r := w.runner(s, nil)
	run(t, r)
	published(t, w.log, 0, 300)
	until(t, r, "caught up", func(m sink.Metric) bool { return caughtUp(m) && m.Place == 300 })
	inOrder(t, far(t, stream), 0, 300)
	if got := fmt.Sprint(until(t, r, "counted", caughtUp).Delivered); got != "300" {
		t.Errorf("%s counted as delivered, want 300", got)
	}
}
