package api

import (
	"context"

	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/message"
	"mooring/internal/server/api/v1"
)

func (s *server) listSinks(ctx context.Context, actor access.Actor, _ *none) (v1.SinkList, error) {
	m, err := s.messaging(ctx, actor, access.MessageRead)
	if err != nil {
		return v1.SinkList{}, err
	}
	list, err := m.SinkStates(ctx, actor)
	return v1.SinkList{Sinks: each(list, shownSink)}, err
}

func shownSink(x message.SinkState) v1.Sink {
	return v1.Sink{Name: x.Name, Measured: x.Measured, Running: x.Running, Lag: x.Lag, Behind: x.Behind.Seconds(), Dead: x.Dead, Delivered: x.Delivered, Failures: x.Failures, Missed: x.Missed, Cause: x.Cause}
}

type deadInput struct {
	Sink  string `path:"sink" maxLength:"64" doc:"Name of the sink" example:"archive"`
	After string `query:"after" maxLength:"64" doc:"Those after the one with this id"`
	Limit int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Letters at most"`
}

func (s *server) listDead(ctx context.Context, actor access.Actor, in *deadInput) (v1.DeadLetterList, error) {
	m, err := s.messaging(ctx, actor, access.MessageRead)
	if err != nil {
		return v1.DeadLetterList{}, err
	}
	list, err := m.DeadLetters(ctx, actor, in.Sink, in.After, in.Limit)
	out := v1.DeadLetterList{Letters: each(list, shownLetter)}
	if len(list) == in.Limit {
		out.Next = list[len(list)-1].ID
	}
	return out, err
}

func shownLetter(d message.DeadLetter) v1.DeadLetter {
	return v1.DeadLetter{ID: d.ID, At: moment(d.At), Reason: d.Reason, Retry: d.Retry, Thing: d.Thing, Topic: d.Topic, Payload: append([]byte{}, d.Payload...)}
}

type lettersInput struct {
	Sink string `path:"sink" maxLength:"64" doc:"Name of the sink" example:"archive"`
	Body v1.DeadLetters
}

func (s *server) retryDead(ctx context.Context, actor access.Actor, in *lettersInput) (v1.HandledLetters, error) {
	return s.handleDead(ctx, actor, in, (*message.Service).RetryDead)
}

func (s *server) dropDead(ctx context.Context, actor access.Actor, in *lettersInput) (v1.HandledLetters, error) {
	return s.handleDead(ctx, actor, in, (*message.Service).DropDead)
}

func (s *server) handleDead(ctx context.Context, actor access.Actor, in *lettersInput, do func(*message.Service, context.Context, access.Actor, string, []string) (int64, error)) (v1.HandledLetters, error) {
	m, err := s.messaging(ctx, actor, access.MessagePublish)
	if err != nil {
		return v1.HandledLetters{}, err
	}
	if in.Body.All == (len(in.Body.IDs) > 0) {
		if err := s.Access.Require(ctx, actor, access.MessagePublish, "sinks"); err != nil {
			return v1.HandledLetters{}, err
		}
		return v1.HandledLetters{}, errs.New(errs.Invalid, "ids: give the ids of dead letters, or all: true")
	}
	n, err := do(m, ctx, actor, in.Sink, in.Body.IDs)
	return v1.HandledLetters{Letters: n}, err
}
