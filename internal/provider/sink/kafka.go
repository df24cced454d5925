package sink

import (
	"context"
	"crypto/tls"
	"errors"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"mooring/internal/base/errs"
	"mooring/internal/core/message"
)

// Kafka writes messages to a topic. The key is the name of the thing, so that those of one thing are in one partition, in order. The payload is the value,
// and what is known of the message is in headers, as for NATS but in small letters: mooring-id, mooring-topic, mooring-thing and so on, and mooring-user-NAME.
//
// The producer is idempotent, so that what it repeats by itself is there once. After a restart, or when no broker answered in time, some messages may come again, with the same mooring-id. All
// replicas that are in sync must have a message before it is safe.
type Kafka struct {
	Brokers []string
	Topic   string
	Tenant  string
	TLS     *tls.Config // nil: none
	Options []kgo.Opt   // such as SASL

	mu     sync.Mutex
	client *kgo.Client // guarded by mu
}

// Put implements Sink.
func (k *Kafka) Put(ctx context.Context, b Batch) (done int, err error) {
	client, err := k.open()
	if err != nil {
		return 0, err
	}
	results := make([]error, len(b.Messages))
	var tasks sync.WaitGroup
	for i, m := range b.Messages {
		tasks.Add(1)
		client.Produce(ctx, k.record(b.Born, m), func(_ *kgo.Record, err error) {
			results[i] = err
			tasks.Done()
		})
	}
	tasks.Wait()
	for i, err := range results {
		if err != nil {
			return i, kafkaError(err)
		}
	}
	return len(results), nil
}

func (k *Kafka) record(born int64, m *message.Message) *kgo.Record {
	r := &kgo.Record{Topic: k.Topic, Key: []byte(m.Thing), Value: m.Payload, Timestamp: time.UnixMilli(m.At), Headers: []kgo.RecordHeader{{Key: "mooring-id", Value: []byte(ID(born, m))}}}
	for _, h := range headers(k.Tenant, m) {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: "mooring-" + lower(h.name), Value: []byte(h.value)})
	}
	for _, u := range m.User {
		if fits(u) {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: "mooring-user-" + u.Name, Value: []byte(u.Value)})
		}
	}
	return r
}

// lower makes small letters of the names of headers.
func lower(name string) string {
	b := []byte(name)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// open makes the client, once; it connects when it needs to. It gives records up when Put's context ends, so that the sink, and not the client, decides how to
// go on. There is no RecordDeliveryTimeout, which would count from when the message was received.
func (k *Kafka) open() (*kgo.Client, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.client != nil {
		return k.client, nil
	}
	options := append([]kgo.Opt{
		kgo.SeedBrokers(k.Brokers...), kgo.ClientID("mooring"), kgo.RequiredAcks(kgo.AllISRAcks()), kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)), kgo.ProducerLinger(0),
		kgo.AllowIdempotentProduceCancellation(), // the time that Put has counts; what comes again has the same id
	}, k.Options...)
	if k.TLS != nil {
		options = append(options, kgo.DialTLSConfig(k.TLS))
	}
	client, err := kgo.NewClient(options...)
	if err != nil {
		return nil, errs.Wrap(errs.Unavailable, err, "the configuration of Kafka cannot be used")
	}
	k.client = client
	return client, nil
}

// Close implements Sink.
func (k *Kafka) Close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.client != nil {
		k.client.Close()
		k.client = nil
	}
}

// kafkaError gives err a kind.
func kafkaError(err error) error {
	for _, refused := range []error{kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.InvalidRecord, kerr.CorruptMessage} {
		if errors.Is(err, refused) {
			return errs.Wrap(errs.Invalid, err, "Kafka does not take the message")
		}
	}
	return errs.Wrap(errs.Unavailable, err, "Kafka did not take messages")
}
