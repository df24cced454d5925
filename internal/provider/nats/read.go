package nats

import (
	"context"
	"encoding/json"
	"strconv"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"mooring/internal/base/errs"
	"mooring/internal/core/message"
)

// stored is one message of a stream as NATS gives it.
type stored struct {
	subject string
	header  natsgo.Header
	data    []byte
	seq     uint64
}

// lookup is a question for one message: the last under a subject, or the first from a place on.
type lookup struct {
	Seq  uint64 `json:"seq,omitempty"`
	Last string `json:"last_by_subj,omitempty"`
	Next string `json:"next_by_subj,omitempty"`
}

// get asks for one message. With one copy of a stream the server that has it answers directly. With several, the leader is asked: any of the others might
// not have yet what was acknowledged a moment ago.
func (f *Fabric) get(ctx context.Context, stream string, q lookup) (*stored, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	if f.o.Replicas > 1 {
		return f.getLeader(ctx, stream, body)
	}
	answer, err := f.ask(ctx, "$JS.API.DIRECT.GET."+stream, body)
	if err != nil {
		return nil, err
	}
	if status := answer.Header.Get("Status"); status != "" {
		return nil, f.status(status, answer.Header.Get("Description"))
	}
	return direct(answer)
}

// direct reads an answer to a direct question.
func direct(answer *natsgo.Msg) (*stored, error) {
	seq, err := strconv.ParseUint(answer.Header.Get(jetstream.SequenceHeader), 10, 64)
	if err != nil {
		return nil, errs.New(errs.Unavailable, "NATS answers with a message that has no place")
	}
	return &stored{subject: answer.Header.Get(jetstream.SubjectHeader), header: answer.Header, data: answer.Data, seq: seq}, nil
}

func (f *Fabric) status(status, text string) error {
	if status == "404" {
		return errs.New(errs.NotFound, "there is none")
	}
	return errs.New(errs.Unavailable, "reading what is stored: NATS answers %s %s", status, text)
}

func (f *Fabric) getLeader(ctx context.Context, stream string, body []byte) (*stored, error) {
	answer, err := f.ask(ctx, "$JS.API.STREAM.MSG.GET."+stream, body)
	if err != nil {
		return nil, err
	}
	var a struct {
		Error   *jetstream.APIError `json:"error"`
		Message *struct {
			Subject string `json:"subject"`
			Seq     uint64 `json:"seq"`
			Header  []byte `json:"hdrs"`
			Data    []byte `json:"data"`
		} `json:"message"`
	}
	if err := json.Unmarshal(answer.Data, &a); err != nil {
		return nil, errs.Wrap(errs.Unavailable, err, "NATS answers what is no message")
	}
	if a.Error != nil {
		return nil, f.failed(a.Error, "reading what is stored")
	}
	if a.Message == nil {
		return nil, errs.New(errs.Unavailable, "NATS answers what is no message")
	}
	s := &stored{subject: a.Message.Subject, data: a.Message.Data, seq: a.Message.Seq}
	if len(a.Message.Header) > 0 {
		if s.header, err = natsgo.DecodeHeadersMsg(a.Message.Header); err != nil {
			return nil, errs.Wrap(errs.Unavailable, err, "NATS answers with headers that cannot be read")
		}
	}
	return s, nil
}

// ask asks, and again while the connection is broken or a cluster has no leader, for callWait at the most.
func (f *Fabric) ask(ctx context.Context, subject string, body []byte) (*natsgo.Msg, error) {
	msg, err := f.call(ctx, &natsgo.Msg{Subject: subject, Data: body})
	return msg, f.failed(err, "reading what is stored")
}

// decode makes a message of what lies in stream s.
func decode(s message.Stream, from *stored) (*message.Message, error) {
	m := &message.Message{Payload: from.data}
	topic, err := decodeTopic(from.header.Get(headerTopic))
	if err != nil {
		return nil, err
	}
	if err := decodeMeta(m, from.header.Get(headerMeta)); err != nil {
		return nil, err
	}
	name, ok := key(from.subject)
	if !ok {
		return nil, errMeta
	}
	m.Topic, m.Stream, m.Key, m.Seq = topic, s, name, from.seq
	return m, nil
}

// Next returns the first message in s under name with a place above after. What is no message of ours is passed over.
func (f *Fabric) Next(ctx context.Context, s message.Stream, name string, after uint64) (found *message.Message, err error) {
	stream, err := f.name.stream(s)
	if err != nil {
		return nil, err
	}
	subject := f.name.all(s)
	if rows := s == message.Up && (f.rows || f.rowsEnd.seq > 0); name != "" && !rows {
		if subject, err = f.name.subject(s, name); err != nil {
			return nil, err
		}
	}
	seq, err := f.find(ctx, s, after+1)
	if err != nil {
		return nil, err
	}
	for found == nil {
		from := f.read.row(s, seq, f.o.Now())
		if from == nil {
			if from, err = f.get(ctx, stream, lookup{Seq: seq, Next: subject}); err != nil {
				return nil, err
			}
			f.keep(s, from)
		}
		f.unpack(s, from, after, func(m *message.Message) bool {
			if name != "" && name != m.Key {
				return true
			}
			found = m
			return false
		})
		seq = from.seq + 1
	}
	return found, nil
}

// Last returns the last place in s.
func (f *Fabric) Last(ctx context.Context, s message.Stream) (uint64, error) {
	if s == message.Up {
		last, err := f.end(ctx)
		return last.behind() - 1, err
	}
	stream, err := f.name.stream(s)
	if err != nil {
		return 0, err
	}
	state, _, err := f.state(ctx, stream)
	return state.LastSeq, err
}

// state is how a stream is, and when it was made.
func (f *Fabric) state(ctx context.Context, stream string) (jetstream.StreamState, time.Time, error) {
	var a struct {
		Error   *jetstream.APIError   `json:"error"`
		State   jetstream.StreamState `json:"state"`
		Created time.Time             `json:"created"`
	}
	err := f.api(ctx, "STREAM.INFO."+stream, struct{}{}, &a)
	if err == nil && a.Error != nil {
		err = a.Error
	}
	return a.State, a.Created, f.failed(err, "looking at the stream %s", stream)
}

// api asks JetStream something.
func (f *Fabric) api(ctx context.Context, what string, question, answer any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return err
	}
	msg, err := f.call(ctx, &natsgo.Msg{Subject: "$JS.API." + what, Data: body})
	if err != nil {
		return err
	}
	if err := json.Unmarshal(msg.Data, answer); err != nil {
		return errs.Wrap(errs.Unavailable, err, "NATS answers %s with what cannot be read", what)
	}
	return nil
}

// Purge removes what lies in s under name.
func (f *Fabric) Purge(ctx context.Context, s message.Stream, name string) error {
	if s == message.Up {
		return errs.New(errs.Invalid, "what devices published leaves by its age alone")
	}
	stream, err := f.name.stream(s)
	if err != nil {
		return err
	}
	subject, err := f.name.subject(s, name)
	if err != nil {
		return err
	}
	var a struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err = f.api(ctx, "STREAM.PURGE."+stream, map[string]string{"filter": subject}, &a); err == nil && a.Error != nil {
		err = a.Error
	}
	return f.failed(err, "removing messages from %s", stream)
}
