package nats

import (
	"context"
	"errors"
	"strings"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"mooring/internal/base/errs"
	"mooring/internal/core/message"
)

// layout gives things their names; it is Options.Name.
type layout string

const (
	bucketRetained = "RET"
	bucketSessions = "SESS"
	bucketOwners   = "OWN"
	streamCuts     = "CUT"
)

func part(s message.Stream) (string, bool) {
	switch s {
	case message.Up:
		return "up", true
	case message.Down:
		return "down", true
	case message.Cast:
		return "cast", true
	}
	return "", false
}

// stream is the name of one of the streams.
func (l layout) stream(s message.Stream) (string, error) {
	p, ok := part(s)
	if !ok {
		return "", errs.New(errs.Invalid, "there is no stream %d of messages", s)
	}
	return l.named(strings.ToUpper(p)), nil
}

// named is the name of the stream or bucket called what.
func (l layout) named(what string) string { return string(l) + "_" + what }

// subject is where messages of s under key lie; key "" gives the subject of the empty key.
func (l layout) subject(s message.Stream, key string) (string, error) {
	p, ok := part(s)
	if !ok {
		return "", errs.New(errs.Invalid, "there is no stream %d of messages", s)
	}
	tok := token(key)
	if len(tok) > maxToken {
		return "", errs.New(errs.Invalid, "the key is too long: %d octets with what is escaped, and %d fit", len(tok), maxToken)
	}
	place := shard(key)
	return string(l) + "." + p + "." + string(place[:]) + "." + tok, nil
}

func (l layout) all(s message.Stream) string {
	p, _ := part(s)
	return string(l) + "." + p + ".>"
}

// rows is where the rows of Up lie; all covers it.
func (l layout) rows() string { return string(l) + ".up.row" }

func (l layout) cut() string { return string(l) + ".cut" }

// slot is the subject of something in a bucket.
func (l layout) slot(bucket, tokens string) string { return "$KV." + l.named(bucket) + "." + tokens }

// publishes are the subjects to which a user of the fabric must be allowed to publish.
func (l layout) publishes() []string {
	return []string{"$JS.API.>", string(l) + ".>", l.slot(bucketRetained, ">"), l.slot(bucketSessions, ">"), l.slot(bucketOwners, ">")}
}

// key takes the key out of the subject of a message or of something in a bucket: its last token.
func key(subject string) (string, bool) {
	return untoken(subject[strings.LastIndexByte(subject, '.')+1:])
}

const minBytes = 1 << 20

// sizes are the bounds of the streams in octets.
type sizes struct{ up, down, cast, retained, sessions, owners, cuts int64 }

func (o *Options) sizes() sizes {
	quarter := o.MaxBytes / 4
	return sizes{o.MaxBytes, 2 * quarter, quarter, quarter, quarter, quarter, min(quarter, 64<<20)}
}

// maxCuts is how many announcements are kept, within their octets.
const maxCuts = 100_000

// streams are all streams as they ought to be. Discarding new means that a full stream refuses; the oldest messages of one subject go all the same when
// there are more than MaxMsgsPerSubject. Only the stream of announcements discards its oldest.
func (f *Fabric) streams() []jetstream.StreamConfig {
	size, l := f.o.sizes(), f.name
	stream := func(name, subject string, bytes int64, age time.Duration, about string) jetstream.StreamConfig {
		return jetstream.StreamConfig{Name: l.named(name), Subjects: []string{subject}, Description: about, MaxBytes: bytes, MaxAge: age,
			Discard: jetstream.DiscardNew, Storage: jetstream.FileStorage, Replicas: f.o.Replicas, AllowDirect: true, Duplicates: min(2*time.Minute, f.o.MaxAge),
			AllowAtomicPublish: f.server != nil}
	}
	bucket := func(name string, bytes int64, about string) jetstream.StreamConfig {
		c := stream(name, l.slot(name, ">"), bytes, 0, about)
		c.MaxMsgsPerSubject, c.AllowMsgTTL, c.AllowRollup, c.DenyDelete, c.AllowAtomicPublish = 1, true, true, true, false
		return c
	}
	down := stream("DOWN", l.all(message.Down), size.down, f.o.MaxAge, "messages to one thing, by thing")
	down.MaxMsgsPerSubject = f.o.PerThing
	// Every change of an owner must come to the followers, also when the next follows at once; and what Disown wrote must not give way to what was before it,
	// so it stays until it is as old as that.
	owners := bucket(bucketOwners, size.owners, "owners of sessions")
	owners.MaxMsgsPerSubject, owners.MaxAge, owners.AllowMsgTTL = 4, 30*24*time.Hour, false
	// A cut that cannot be told to the other nodes is worse than old ones that are gone, which all nodes that run have heard.
	cuts := stream(streamCuts, l.cut(), size.cuts, 24*time.Hour, "announcements to all nodes")
	cuts.Discard, cuts.MaxMsgs = jetstream.DiscardOld, maxCuts
	return []jetstream.StreamConfig{
		stream("UP", l.all(message.Up), size.up, f.o.MaxAge, "messages from things, by thing"),
		down,
		stream("CAST", l.all(message.Cast), size.cast, f.o.MaxAge, "messages to many"),
		cuts,
		bucket(bucketRetained, size.retained, "retained messages, by topic"),
		bucket(bucketSessions, size.sessions, "sessions"),
		owners,
	}
}

// lay makes the streams, or makes those that are there what they ought to be. One for which there is no room is tried again when the others are what they
// ought to be: they may have become smaller.
func (f *Fabric) lay(ctx context.Context) error {
	var later []jetstream.StreamConfig
	for _, c := range f.streams() {
		err := f.layOne(ctx, c)
		var api *jetstream.APIError
		switch {
		case errors.As(err, &api) && api.ErrorCode == codeStorage:
			later = append(later, c)
		case err != nil:
			return f.failed(err, "making the stream %s", c.Name)
		}
	}
	for _, c := range later {
		if err := f.layOne(ctx, c); err != nil {
			return f.failed(err, "making the stream %s", c.Name)
		}
	}
	return nil
}

// absentTries is how often nobody at all may be there for JetStream: a server whose JetStream only starts is there, so it is not enabled.
const absentTries = 8

// layOne tries until ctx ends where a cluster has not found its leader yet.
func (f *Fabric) layOne(ctx context.Context, c jetstream.StreamConfig) error {
	for absent := 0; ; {
		try, cancel := context.WithTimeout(ctx, callTry)
		_, err := f.js.CreateOrUpdateStream(try, c)
		cancel()
		if errors.Is(err, natsgo.ErrNoResponders) {
			absent++
		}
		if err == nil || !passing(err) || f.denied.Load() != nil || absent == absentTries {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(250 * time.Millisecond):
		}
	}
}
