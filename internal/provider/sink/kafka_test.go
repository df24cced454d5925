package sink_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"mooring/internal/base/errs"
	"mooring/internal/core/message"
	"mooring/internal/provider/sink"
)

// farKafka is a Kafka with a topic of three parts, and a sink that writes there.
func farKafka(t *testing.T) (*sink.Kafka, *kfake.Cluster) {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(3, "up"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	k := &sink.Kafka{Brokers: c.ListenAddrs(), Topic: "up", Tenant: "acme"}
	t.Cleanup(k.Close)
	return k, c
}

// records reads n records of the topic, those of each part in order.
func records(t *testing.T, c *kfake.Cluster, n int) (list []*kgo.Record) {
	t.Helper()
	reader, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.ConsumeTopics("up"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for len(list) < n {
		fetches := reader.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("after %d of %d records: %v", len(list), n, err)
		}
		list = append(list, fetches.Records()...)
	}
	return list
}

func TestKafkaRecord(t *testing.T) {
	k, c := farKafka(t)
	m := odd()
	m.User = []message.Pair{{Name: "A b", Value: "a\r\nb"}}
	if done, err := k.Put(t.Context(), sink.Batch{Born: 7, Messages: []*message.Message{m}}); done != 1 || err != nil {
		t.Fatalf("Put: %d, %v", done, err)
	}
	r := records(t, c, 1)[0]
	if string(r.Key) != "Pumpe 7" || string(r.Value) != "\x00\xff" || !r.Timestamp.Equal(time.UnixMilli(m.At)) {
		t.Errorf("key %q, value %q, time %v", r.Key, r.Value, r.Timestamp)
	}
	got := map[string]string{}
	for _, h := range r.Headers {
		got[h.Key] = string(h.Value)
	}
	for name, want := range map[string]string{"mooring-id": "7-42", "mooring-topic": `v1/dev "1"/ü%`, "mooring-thing": "Pumpe 7", "mooring-child": "dev-1", "mooring-tenant": "acme", "mooring-qos": "1", "mooring-content-type": "text/plain", "mooring-user-A b": "a\r\nb"} {
		if got[name] != want {
			t.Errorf("%s: %q, want %q", name, got[name], want)
		}
	}
}

// TestKafkaRuns: all that is published arrives once, that of each thing in order in one part, while the broker fails now and then.
func TestKafkaRuns(t *testing.T) {
	k, c := farKafka(t)
	failures := 0
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if failures++; failures%5 == 2 {
			return nil, fmt.Errorf("the connection ends"), true
		}
		return nil, nil, false
	})
	w := newWorld(t)
	r := w.runner(k, func(o *sink.Options) { o.Batch = 25 })
	run(t, r)
	published(t, w.log, 0, 300)
	until(t, r, "caught up", func(m sink.Metric) bool { return caughtUp(m) && m.Place == 300 })
	var got []string
	parts := map[string][]int32{}
	for _, rec := range records(t, c, 300) {
		got = append(got, string(rec.Value))
		if key := string(rec.Key); !slices.Contains(parts[key], rec.Partition) {
			parts[key] = append(parts[key], rec.Partition)
		}
	}
	inOrder(t, got, 0, 300)
	for thing, list := range parts {
		if len(list) != 1 {
			t.Errorf("%s is in the parts %v, want one", thing, list)
		}
	}
	if failures < 2 {
		t.Error("nothing failed")
	}
}

// TestKafkaRefuses: which errors are the message's.
func TestKafkaRefuses(t *testing.T) {
	for _, row := range []struct {
		name string
		code *kerr.Error
		kind errs.Kind
	}{
		{"too large", kerr.MessageTooLarge, errs.Invalid},
		{"not a record", kerr.InvalidRecord, errs.Invalid},
		{"not allowed", kerr.TopicAuthorizationFailed, errs.Unavailable},
		{"a policy", kerr.PolicyViolation, errs.Unavailable},
	} {
		t.Run(row.name, func(t *testing.T) {
			k, c := farKafka(t)
			c.ControlKey(int16(kmsg.Produce), func(request kmsg.Request) (kmsg.Response, error, bool) {
				c.KeepControl()
				ask := request.(*kmsg.ProduceRequest)
				answer := ask.ResponseKind().(*kmsg.ProduceResponse)
				for _, topic := range ask.Topics {
					at := kmsg.NewProduceResponseTopic()
					at.Topic, at.TopicID = topic.Topic, topic.TopicID
					for _, part := range topic.Partitions {
						p := kmsg.NewProduceResponseTopicPartition()
						p.Partition, p.ErrorCode = part.Partition, row.code.Code
						at.Partitions = append(at.Partitions, p)
					}
					answer.Topics = append(answer.Topics, at)
				}
				return answer, nil, true
			})
			if done, err := k.Put(t.Context(), some(1, 3, time.Now())); done != 0 || errs.KindOf(err) != row.kind {
				t.Errorf("Put: %d, %v (%v); want %v", done, err, errs.KindOf(err), row.kind)
			}
		})
	}
	t.Run("away", func(t *testing.T) {
		k := &sink.Kafka{Brokers: []string{"127.0.0.1:1"}, Topic: "up"}
		defer k.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if done, err := k.Put(ctx, some(1, 1, time.Now())); done != 0 || !errs.Is(err, errs.Unavailable) {
			t.Errorf("Put: %d, %v; want Unavailable", done, err)
		}
	})
}
