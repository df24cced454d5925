package message

import (
	"context"
	"time"
)

// Fabric is where messages and sessions lie and how the nodes of one installation hear of each other. Its methods are safe for concurrent use.
// Errors have kind Unavailable when the fabric cannot be reached, Limited when it is full, NotFound and Conflict where a method says so.
type Fabric interface {
	// Append stores m in m.Stream under m.Key. It blocks only for as long as too much is on its way, and calls done exactly once, from another goroutine, when m is
	// stored (seq) or was refused. Messages of one key that are appended one after the other are stored in this order. A message with the same dedupe
	// text, if that is not "", as one of the last two minutes is not stored again, and its seq is that of the first.
	// m may be used again when done was called.
	Append(m *Message, dedupe string, done func(seq uint64, err error))
	// Follow calls fn for every message stored in s from now on, in order, until ctx ends; ready, if not nil, is called when that has begun. It
	// survives losses of the connection without gaps. fn must not block for long; m is fn's.
	Follow(ctx context.Context, s Stream, ready func(), fn func(m *Message)) error
	// Next returns the first message in s under key with a place above after; NotFound when there is none. key "" means any. It may not show yet, for
	// moments, what Follow has told; up to the place that Last returned before it was called it shows all.
	Next(ctx context.Context, s Stream, key string, after uint64) (*Message, error)
	// Last returns the last place in s, 0 when it is empty.
	Last(ctx context.Context, s Stream) (uint64, error)
	// Purge removes what lies in s under key. In Up nothing is removed but by its age: Invalid.
	Purge(ctx context.Context, s Stream, key string) error

	// Retain keeps m as the retained message of its topic, or with an empty payload removes that. It expires after m.Expiry seconds, if not 0.
	Retain(ctx context.Context, m *Message) error
	// Retained calls fn for every retained message whose topic filter matches (MQTT rules), until fn returns false.
	Retained(ctx context.Context, filter string, fn func(m *Message) bool) error

	// Session returns what was last put for key and its revision; NotFound when there is none.
	Session(ctx context.Context, key string) (data []byte, revision uint64, err error)
	// PutSession replaces it when its revision is still the given one, 0 = there is none; Conflict otherwise. It is forgotten after life, at the earliest.
	// When the error is Unavailable, it may be replaced all the same.
	PutSession(ctx context.Context, key string, data []byte, revision uint64, life time.Duration) (uint64, error)
	// DropSession removes it when its revision is still the given one, 0 = whatever that is; Conflict otherwise.
	DropSession(ctx context.Context, key string, revision uint64) error
	// Sessions calls fn for every session, until it returns false: for wills whose time comes after a restart.
	Sessions(ctx context.Context, fn func(key string, data []byte, revision uint64) bool) error

	// Own makes node the owner of a session and returns the epoch of this ownership, which grows with each, and who owned it before, "" = nobody.
	Own(ctx context.Context, key, node string) (epoch uint64, before string, err error)
	// Disown gives up an ownership, if its epoch is still the given one.
	Disown(ctx context.Context, key string, epoch uint64) error
	// Owners calls fn for every Own by any node from now on, until ctx ends, in order for each key.
	Owners(ctx context.Context, ready func(), fn func(key, node string, epoch uint64)) error

	// Announce tells all nodes something, such as a cut; it is kept for those that cannot be reached now, for a day.
	Announce(ctx context.Context, data []byte) error
	// Announced calls fn for everything that was announced, by this node too, after the given place (0 = from now on), until ctx ends.
	Announced(ctx context.Context, after uint64, ready func(), fn func(place uint64, data []byte)) error

	// Standing says how the fabric is.
	Standing() Standing
}

// Standing is how a fabric is.
type Standing struct {
	Reached bool  // it answers
	Since   int64 // since when that is so, Unix seconds
	// Stored and its bound, in octets, of what devices publish (Up): when it is full, they are told that there is no room.
	Stored, Limit int64
}
