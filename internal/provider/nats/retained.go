package nats

import (
	"context"
	"strings"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"mooring/internal/base/errs"
	"mooring/internal/core/message"
)

// Retain keeps m as the retained message of its topic.
func (f *Fabric) Retain(ctx context.Context, m *message.Message) error {
	tokens, err := topicTokens(m.Topic)
	if err != nil {
		return err
	}
	s := slot{subject: f.name.slot(bucketRetained, tokens), data: m.Payload,
		header: natsgo.Header{headerTopic: {encodeTopic(m.Topic)}, headerMeta: {encodeMeta(m, true)}}}
	if m.Expiry > 0 {
		s.life = time.UnixMilli(m.At).Add(time.Duration(m.Expiry) * time.Second).Sub(f.o.Now())
	}
	if len(m.Payload) == 0 || s.life < 0 {
		return f.remove(ctx, s.subject, nil)
	}
	_, err = f.put(ctx, s)
	return err
}

// Retained calls fn for every retained message whose topic filter matches.
func (f *Fabric) Retained(ctx context.Context, filter string, fn func(m *message.Message) bool) error {
	subjects, err := filterTokens(filter)
	if err != nil {
		return err
	}
	more := true
	for _, tokens := range subjects {
		if !more {
			break
		}
		if err := f.retained(ctx, f.name.slot(bucketRetained, tokens), func(m *message.Message) bool {
			more = hidden(filter, m.Topic) || fn(m)
			return more
		}); err != nil {
			return err
		}
	}
	return nil
}

// retained calls fn for what lies under subject, which may have wildcards.
func (f *Fabric) retained(ctx context.Context, subject string, fn func(m *message.Message) bool) error {
	if strings.HasSuffix(subject, ">") || strings.Contains(subject, "*") {
		return f.scan(ctx, bucketRetained, subject, func(s *stored) bool {
			m := f.retainedMessage(s)
			return m == nil || fn(m)
		})
	}
	s, err := f.last(ctx, bucketRetained, subject)
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if m := f.retainedMessage(s); m != nil {
		fn(m)
	}
	return nil
}

// retainedMessage is the message in s, nil when it was removed, has expired, or is none.
func (f *Fabric) retainedMessage(s *stored) *message.Message {
	if gone(s) {
		return nil
	}
	m := &message.Message{Payload: s.data}
	topic, err := decodeTopic(s.header.Get(headerTopic))
	if err == nil {
		err = decodeMeta(m, s.header.Get(headerMeta))
	}
	if err != nil {
		f.o.Log.Warn("the bucket of retained messages has what is no message", "place", s.seq)
		return nil
	}
	m.Topic = topic
	if m.Expiry > 0 && !time.UnixMilli(m.At).Add(time.Duration(m.Expiry)*time.Second).After(f.o.Now()) {
		return nil
	}
	return m
}
