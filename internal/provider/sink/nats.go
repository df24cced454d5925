package sink

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"mooring/internal/base/errs"
	"mooring/internal/core/message"
)

// NATS publishes messages to a stream of another NATS, under SUBJECT.THING, with what is known of them in headers:
//
//	Nats-Msg-Id                 the id of the message: the stream drops what comes again within its window of duplicates
//	Mooring-Topic, -Thing, -Child, -Tenant, -Device, -Certificate, -Time, -QoS, -Retain, -Content-Type, -Response-Topic, -Correlation
//	Mooring-User-NAME           user properties that can be written so
//
// The stream is made by whoever runs that NATS; without one nothing is delivered.
type NATS struct {
	URLs    []string
	Subject string // such as mooring.up
	Tenant  string
	Name    string      // of the connection
	TLS     *tls.Config // nil: none
	Options []nats.Option

	mu sync.Mutex
	nc *nats.Conn // guarded by mu
	js jetstream.JetStream
}

const natsConnectTime = 10 * time.Second

// Put implements Sink. Messages are on their way at the same time and are stored in their order.
func (n *NATS) Put(ctx context.Context, b Batch) (done int, err error) {
	js, err := n.open()
	if err != nil {
		return 0, err
	}
	var sent []jetstream.PubAckFuture
	for _, m := range b.Messages {
		future, err := js.PublishMsgAsync(n.message(b.Born, m))
		if err != nil {
			return n.acked(ctx, sent, natsError(err))
		}
		sent = append(sent, future)
	}
	return n.acked(ctx, sent, nil)
}

// acked waits for the acknowledgements of what was sent. rest is why not everything was.
func (n *NATS) acked(ctx context.Context, sent []jetstream.PubAckFuture, rest error) (done int, err error) {
	for i, f := range sent {
		select {
		case <-f.Ok():
		case err := <-f.Err():
			return i, natsError(err)
		case <-ctx.Done():
			return i, errs.Wrap(errs.Unavailable, ctx.Err(), "NATS did not acknowledge in time")
		}
	}
	return len(sent), rest
}

func (n *NATS) message(born int64, m *message.Message) *nats.Msg {
	msg := nats.NewMsg(n.Subject + "." + token(m.Thing))
	msg.Data = m.Payload
	msg.Header.Set(jetstream.MsgIDHeader, ID(born, m))
	for _, h := range headers(n.Tenant, m) {
		msg.Header.Set("Mooring-"+h.name, h.value)
	}
	for _, u := range m.User {
		if isToken(u.Name) && fits(u) && !strings.ContainsAny(u.Value, "\r\n") {
			msg.Header.Add("Mooring-User-"+u.Name, u.Value)
		}
	}
	return msg
}

// maxHeader bounds what is in one header, in octets. Devices choose topics, types and properties, and receivers refuse requests whose headers are too long.
// What does not fit is left out: a part of it would say something else.
const maxHeader = 1024

func fits(u message.Pair) bool { return len(u.Name) <= maxHeader && len(u.Value) <= maxHeader }

// header is something known of a message, for receivers that have headers. Values hold no line breaks, as topics and names have no control characters.
type header struct{ name, value string }

func headers(tenant string, m *message.Message) (list []header) {
	for _, h := range []header{
		{"Topic", m.Topic}, {"Thing", m.Thing}, {"Child", m.Child}, {"Tenant", tenant}, {"Device", m.ID.String()}, {"Certificate", certificate(m)}, {"Time", time.UnixMilli(m.At).UTC().Format(time.RFC3339Nano)},
		{"QoS", strconv.Itoa(int(m.QoS))}, {"Retain", strconv.FormatBool(m.Retain)}, {"Content-Type", m.ContentType}, {"Response-Topic", m.ResponseTopic}, {"Correlation", hex.EncodeToString(m.Correlation)},
	} {
		if h.value != "" && len(h.value) <= maxHeader && !strings.ContainsAny(h.value, "\r\n") {
			list = append(list, h)
		}
	}
	return list
}

func certificate(m *message.Message) string {
	if m.Cert == [16]byte{} {
		return ""
	}
	return hex.EncodeToString(m.Cert[:])
}

// token writes a name as one level of a subject: what means something there as =XX.
func token(name string) string {
	var b strings.Builder
	for _, c := range []byte(name) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "=%02X", c)
		}
	}
	if b.Len() == 0 {
		return "="
	}
	return b.String()
}

// isToken reports whether name can be the name of a header (RFC 9110, section 5.6.2).
func isToken(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune("\"(),/:;<=>?@[\\]{}", r)
	})
}

// open connects, once. The client connects again by itself.
func (n *NATS) open() (jetstream.JetStream, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.nc != nil && !n.nc.IsClosed() {
		if !n.nc.IsConnected() {
			return nil, errs.New(errs.Unavailable, "NATS cannot be reached")
		}
		return n.js, nil
	}
	options := append([]nats.Option{nats.Name(n.Name), nats.Timeout(natsConnectTime), nats.MaxReconnects(-1), nats.ReconnectBufSize(-1)}, n.Options...)
	if n.TLS != nil {
		options = append(options, nats.Secure(n.TLS))
	}
	nc, err := nats.Connect(strings.Join(n.URLs, ","), options...)
	if err != nil {
		return nil, errs.Wrap(errs.Unavailable, err, "NATS cannot be reached")
	}
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(2*defaultBatch))
	if err != nil {
		nc.Close()
		return nil, errs.Wrap(errs.Unavailable, err, "NATS has no JetStream")
	}
	n.nc, n.js = nc, js
	return js, nil
}

// Close implements Sink.
func (n *NATS) Close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.nc != nil {
		n.nc.Close()
		n.nc = nil
	}
}

// natsError gives err a kind. A message that is too large is that for ever.
func natsError(err error) error {
	var refused *jetstream.APIError
	switch {
	case errors.Is(err, nats.ErrMaxPayload), errors.Is(err, nats.ErrBadSubject), errors.As(err, &refused) && refused.ErrorCode == natsTooLarge:
		return errs.Wrap(errs.Invalid, err, "NATS does not take the message")
	}
	return errs.Wrap(errs.Unavailable, err, "NATS did not acknowledge")
}

// natsTooLarge is JetStream's error for a message that is larger than its stream allows.
const natsTooLarge = 10054
