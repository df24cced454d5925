// Package sink passes what devices publish on to where data is kept and used: PostgreSQL, HTTP webhooks, another NATS, Kafka.
//
// Each sink reads the stream Up of the fabric at its own pace and keeps its own place in it, so that one which is away holds up no other, and nothing
// waits in memory. Devices notice a sink that is away only when the stream is full.
//
//	fabric, Up → Runner (one node, under a lease) → Sink.Put → place moves → …
//	                         └ refused for ever → dead letters
//
// Everything is delivered at least once and in the order of the stream. A message has an id for ever, (when the stream was made, its place there), by which a
// receiver knows it again: Kafka's and NATS's in a header, a webhook's in the event, and PostgreSQL's is the primary key, beside which the sink keeps its
// place in the same transaction, so that nothing is there twice.
//
// What goes wrong is one of two things. The receiver is away, slow or set up wrongly: then the sink tries again, for as long as it takes, with growing pauses. Or it
// takes everything but this message: after so many tries the message is put among the dead letters, in our database, with the reason, and the next one has its
// turn. When there are too many of them the sink stops until somebody looks.
//
// The payload is passed on untouched. The package deliberately filters by topic and nothing else, and transforms nothing.
package sink

import (
	"context"
	"embed"
	"io/fs"
	"strconv"
	"strings"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/message"
)

// Log is what sinks read. *nats.Fabric of package provider/nats is one.
type Log interface {
	// Read calls fn for the messages of s with places above after, in order, at most so many, until fn returns false. It does not wait for more.
	Read(ctx context.Context, s message.Stream, after uint64, most int, fn func(m *message.Message) bool) error
	// Born returns when s was made, Unix nanoseconds.
	Born(ctx context.Context, s message.Stream) (int64, error)
	// Last returns the last place in s.
	Last(ctx context.Context, s message.Stream) (uint64, error)
}

// Batch is some messages of one stream, in order.
type Batch struct {
	Born     int64 // of the stream
	Messages []*message.Message
}

// Sink is one receiver. Methods are called by one goroutine at a time.
type Sink interface {
	// Put hands messages over and returns how many of them, from the first on, are safe there. When these are not all, err says why the next one is
	// not: kind Invalid says that the receiver will not take this very message, any other that it takes none now. Messages that come again
	// after they were safe must do no harm.
	Put(ctx context.Context, b Batch) (done int, err error)
	// Close lets go of connections.
	Close()
}

// Keeper is a Sink that keeps its place itself, together with the messages.
type Keeper interface {
	// Place returns the place up to which everything is safe; 0 when nothing is.
	Place(ctx context.Context, born int64) (uint64, error)
	// Skip moves the place although not everything is safe.
	Skip(ctx context.Context, born int64, seq uint64) error
}

// Latecomer is a Keeper that takes a message from before its place, which Put would pass over. The errors are those of Put. One that is there already must do no harm.
type Latecomer interface {
	Late(ctx context.Context, born int64, m *message.Message) error
}

//go:embed schema/*.sql
var schemaFiles embed.FS

// Schema returns the migrations of places and dead letters.
func Schema() db.Schema {
	files, err := fs.Sub(schemaFiles, "schema")
	if err != nil {
		panic(err) // "schema" is a valid path; fs.Sub looks at nothing else
	}
	return db.Schema{Name: "sink", FS: files}
}

// ID is the id of a message for ever: when its stream was made, and its place there.
func ID(born int64, m *message.Message) string {
	return strconv.FormatInt(born, 36) + "-" + strconv.FormatUint(m.Seq, 10)
}

// parseID reads an ID.
func parseID(id string) (born int64, seq uint64, err error) {
	first, rest, found := strings.Cut(id, "-")
	if found {
		if born, err = strconv.ParseInt(first, 36, 64); err == nil {
			seq, err = strconv.ParseUint(rest, 10, 63)
		}
	}
	if !found || err != nil {
		return 0, 0, errs.New(errs.Invalid, "that is no id of a dead letter, such as dj3k2v9qk1k0-42: look for it in the list")
	}
	return born, seq, nil
}

// narrow puts parts of a batch, and smaller ones when a part is refused, until all is put or the one message is found that is refused. put takes all of a part
// or nothing.
func narrow(b Batch, put func(part Batch) error) (done int, err error) {
	n := len(b.Messages)
	for done < len(b.Messages) {
		n = min(n, len(b.Messages)-done)
		err := put(Batch{b.Born, b.Messages[done : done+n]})
		switch {
		case err == nil:
			done += n
			n *= 2
		case n == 1 || !errs.Is(err, errs.Invalid):
			return done, err
		default:
			n /= 2
		}
	}
	return done, nil
}
