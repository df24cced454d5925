package nats

import (
	"context"
	"fmt"

	natsgo "github.com/nats-io/nats.go"

	"mooring/internal/core/message"
)

// The bounds of one part of a scan.
const (
	scanMessages = 256
	scanOctets   = 1 << 20
)

// scan calls fn for everything in bucket under filter, in the order in which it was stored, until fn returns false.
func (f *Fabric) scan(ctx context.Context, bucket, filter string, fn func(*stored) bool) error {
	s := scanner{f: f, stream: f.name.named(bucket), filter: filter, from: 1, fn: fn}
	return s.all(ctx)
}

// all reads part after part until there is no more.
func (s *scanner) all(ctx context.Context) error {
	for failures := 0; !s.done; {
		at := s.from
		err := s.part(ctx, scanMessages)
		switch {
		case err == nil:
		case !passing(err) || ctx.Err() != nil || failures >= 3 && at == s.from:
			return s.f.failed(err, "reading the stream %s", s.stream)
		case at == s.from:
			failures++
		}
	}
	return nil
}

type scanner struct {
	f              *Fabric
	stream, filter string
	from           uint64 // the next place to look at
	done           bool
	fn             func(*stored) bool
}

// part asks for some of what is left, most messages at the most, and hands it on.
func (s *scanner) part(ctx context.Context, most int) error {
	ctx, cancel := context.WithTimeout(ctx, callTry)
	defer cancel()
	inbox := natsgo.NewInbox()
	answers, err := s.f.nc.SubscribeSync(inbox)
	if err != nil {
		return err
	}
	defer func() { _ = answers.Unsubscribe() }() // else it ends with the connection
	body := fmt.Appendf(nil, `{"seq":%d,"next_by_subj":%q,"batch":%d,"max_bytes":%d}`, s.from, s.filter, most, scanOctets)
	if err := s.f.nc.PublishRequest("$JS.API.DIRECT.GET."+s.stream, inbox, body); err != nil {
		return err
	}
	for n := 0; !s.done; n++ {
		answer, err := answers.NextMsgWithContext(ctx)
		if err != nil {
			return err
		}
		if status := answer.Header.Get("Status"); status != "" {
			return s.end(answer, status, n)
		}
		from, err := direct(answer)
		if err != nil {
			return err
		}
		s.from = from.seq + 1
		s.done = !s.fn(from)
	}
	return nil
}

// end reads what ends a part.
func (s *scanner) end(answer *natsgo.Msg, status string, n int) error {
	switch status {
	case "204": // the end of this part
		s.done = n == 0 || answer.Header.Get("Nats-Num-Pending") == "0"
		return nil
	case "404":
		s.done = true
		return nil
	case "503":
		return natsgo.ErrNoResponders
	}
	return s.f.status(status, answer.Header.Get("Description"))
}

// Read calls fn for messages of s after the given place, in order: until there are no more, fn returns false, or it was called most times. It does not
// wait for what is not stored yet. It is for those who keep their own place in a stream, such as sinks.
func (f *Fabric) Read(ctx context.Context, s message.Stream, after uint64, most int, fn func(m *message.Message) bool) error {
	stream, err := f.name.stream(s)
	if err != nil {
		return err
	}
	r := scanner{f: f, stream: stream, filter: f.name.all(s)}
	if r.from, err = f.find(ctx, s, after+1); err != nil {
		return err
	}
	r.fn = func(from *stored) bool {
		return f.unpack(s, from, after, func(m *message.Message) bool {
			most--
			return fn(m) && most > 0
		})
	}
	for !r.done && most > 0 {
		if err := r.part(ctx, min(most, scanMessages)); err != nil {
			return f.failed(err, "reading the stream %s", stream)
		}
	}
	return nil
}

// Born is when the stream s was made, in Unix nanoseconds. Born and place together name a message for ever: a stream that is made anew counts from 1 again.
func (f *Fabric) Born(ctx context.Context, s message.Stream) (int64, error) {
	stream, err := f.name.stream(s)
	if err != nil {
		return 0, err
	}
	_, born, err := f.state(ctx, stream)
	return born.UnixNano(), err
}
