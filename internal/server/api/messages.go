package api

import (
	"context"
	"encoding/hex"
	"net/http"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/message"
	"mooring/internal/server/api/v1"
)

// messaging returns the service of messages to who may, or says how to have one.
func (s *server) messaging(ctx context.Context, actor access.Actor, perm access.Permission) (*message.Service, error) {
	if s.Message == nil {
		if err := s.Access.Require(ctx, actor, perm, "messages"); err != nil {
			return nil, err
		}
		return nil, errs.New(errs.NotFound, "this server carries no messages: set listen.mqtt in its configuration")
	}
	return s.Message, nil
}

func (s *server) getPolicy(ctx context.Context, actor access.Actor, _ *none) (v1.MessagePolicy, error) {
	m, err := s.messaging(ctx, actor, access.MessageRead)
	if err != nil {
		return v1.MessagePolicy{}, err
	}
	p, err := m.Policy(ctx, actor)
	return shownPolicy(p), err
}

type setPolicyInput struct{ Body v1.NewMessagePolicy }

func (s *server) setPolicy(ctx context.Context, actor access.Actor, in *setPolicyInput) (v1.MessagePolicy, error) {
	m, err := s.messaging(ctx, actor, access.MessagePolicy)
	if err != nil {
		return v1.MessagePolicy{}, err
	}
	p, err := m.SetPolicyFrom(ctx, actor, in.Body.File, in.Body.Text, in.Body.Seen)
	return shownPolicy(p), err
}

func shownPolicy(p message.PolicyVersion) v1.MessagePolicy {
	out := v1.MessagePolicy{Version: p.Version, Text: p.Text, By: p.By}
	if p.Version > 0 {
		at := moment(p.At)
		out.Changed = &at
	}
	return out
}

type testPolicyInput struct{ Body v1.PolicyQuestion }

func (s *server) testPolicy(ctx context.Context, actor access.Actor, in *testPolicyInput) (v1.PolicyVerdict, error) {
	m, err := s.messaging(ctx, actor, access.MessageRead)
	if err != nil {
		return v1.PolicyVerdict{}, err
	}
	b := &in.Body
	v, err := m.Test(ctx, actor, message.Question{Thing: b.Thing, Client: b.Client, Action: b.Action, Topic: b.Topic, QoS: byte(b.QoS), Retain: b.Retain, Size: b.Size})
	if err != nil {
		return v1.PolicyVerdict{}, err
	}
	return v1.PolicyVerdict{Allowed: v.Allowed, Group: v.Group, Why: append([]string{}, v.Lines...)}, nil
}

type connectionsInput struct {
	Thing string `query:"thing" maxLength:"255" doc:"Of this device or service: name or id"`
	Group string `query:"group" maxLength:"64" doc:"Of this group of the policy"`
	Limit int    `query:"limit" minimum:"1" maximum:"10000" default:"1000" doc:"Connections at most"`
}

func (s *server) listConnections(ctx context.Context, actor access.Actor, in *connectionsInput) (v1.MessageConnectionList, error) {
	m, err := s.messaging(ctx, actor, access.MessageRead)
	if err != nil {
		return v1.MessageConnectionList{}, err
	}
	thing := in.Thing
	if d, err := s.find(ctx, actor, in.Thing); in.Thing != "" && err == nil { // who connects without TLS is not registered
		thing = d.Name
	}
	list, err := m.Live(ctx, actor, message.LiveFilter{Thing: thing, Group: in.Group, Limit: in.Limit})
	return v1.MessageConnectionList{Connections: each(list, shownConnection)}, err
}

func shownConnection(l message.LiveConn) v1.MessageConnection {
	shown := v1.MessageConnection{Thing: l.Thing, ID: l.ID.String(), Client: l.Client, Group: l.Group, Front: l.Front, Address: l.Address, Serial: hex.EncodeToString([]byte(l.Serial)),
		Since: moment(l.Since), Subscriptions: l.Subscriptions, InFlight: l.InFlight, Queued: l.Queued}
	if l.LastCut != "" {
		at := moment(l.CutAt)
		shown.LastCut, shown.CutAt = l.LastCut, &at
	}
	return shown
}

type endConnectionsInput struct{ Body v1.EndConnections }

func (s *server) endConnections(ctx context.Context, actor access.Actor, in *endConnectionsInput) (v1.EndedConnections, error) {
	m, err := s.messaging(ctx, actor, access.MessagePublish)
	if err != nil {
		return v1.EndedConnections{}, err
	}
	d, err := s.find(ctx, actor, in.Body.Thing)
	if err != nil {
		return v1.EndedConnections{}, err
	}
	n, err := m.End(ctx, actor, message.Selector{Device: d.ID})
	return v1.EndedConnections{Ended: n}, err
}

type publishInput struct{ Body v1.NewMessage }

func (s *server) publish(ctx context.Context, actor access.Actor, in *publishInput) (v1.Message, error) {
	m, err := s.messaging(ctx, actor, access.MessagePublish)
	if err != nil {
		return v1.Message{}, err
	}
	b := &in.Body
	one := &message.Message{Topic: b.Topic, Payload: b.Payload, QoS: byte(b.QoS), Retain: b.Retain, Expiry: uint32(b.Expiry), Properties: message.Properties{ContentType: b.ContentType,
		ResponseTopic: b.ResponseTopic, Correlation: b.Correlation, User: each(b.User, func(p v1.UserProperty) message.Pair { return message.Pair(p) })}}
	if err := m.PublishAs(ctx, actor, one); err != nil {
		return v1.Message{}, err
	}
	shown, n := shownMessage(one), m.Listeners(one.Topic)
	shown.Listeners = &n
	return shown, nil
}

func shownMessage(m *message.Message) v1.Message {
	return v1.Message{Topic: m.Topic, Payload: append([]byte{}, m.Payload...), QoS: int(m.QoS), Retain: m.Retain, Expiry: int(m.Expiry), ContentType: m.ContentType, ResponseTopic: m.ResponseTopic,
		Correlation: m.Correlation, User: each(m.User, func(p message.Pair) v1.UserProperty { return v1.UserProperty(p) }), Thing: m.Thing, Child: m.Child, At: time.UnixMilli(m.At).UTC()}
}

type messagesInput struct {
	Filter string `query:"filter" maxLength:"2048" doc:"Topics that this filter matches (MQTT); left out: all" example:"v1/+/telemetry/#"`
	Thing  string `query:"thing" maxLength:"255" doc:"Published by this device or service: name or id"`
}

// aliveEvery is how often a stream of messages on which nothing happens says that it is alive.
const aliveEvery = 15 * time.Second

func (s *server) messages(w http.ResponseWriter, r *http.Request, actor access.Actor, in *messagesInput) error {
	m, err := s.messaging(r.Context(), actor, access.MessageRead)
	if err != nil {
		return err
	}
	f := message.TapFilter{Filter: in.Filter}
	if in.Thing != "" {
		d, err := s.find(r.Context(), actor, in.Thing)
		if err != nil {
			return err
		}
		f.Thing = d.Name
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	go cancelWhenDraining(ctx, r, cancel)
	out := s.stream(w)
	lift(out.c)
	// One goroutine writes; what comes meanwhile waits in a bounded queue, whose end is the end of the stream.
	queue := make(chan v1.MessageLine, 256)
	failed := make(chan error, 1)
	go func() {
		failed <- m.Tap(ctx, actor, f, func() { queue <- v1.MessageLine{Begun: true} }, func(one *message.Message) error {
			shown := shownMessage(one)
			select {
			case queue <- v1.MessageLine{Message: &shown}:
				return nil
			default:
				return errs.New(errs.Limited, "messages come faster than they are read: narrow the filter")
			}
		})
	}()
	alive := time.NewTicker(aliveEvery)
	defer alive.Stop()
	for {
		var line v1.MessageLine
		select {
		case line = <-queue:
		case <-alive.C:
			// Who looks on may have lost his role, or his certificate its time, while the stream goes on.
			if err := s.stillMay(r, access.MessageRead); err != nil {
				cancel()
				<-failed
				p := problemOf(err)
				_ = out.line(v1.MessageLine{Error: &p})
				return nil
			}
			line.Alive = true
		case err := <-failed:
			if !out.on || err == nil || ctx.Err() != nil {
				return err
			}
			s.logged(r, err)
			p := problemOf(err)
			_ = out.line(v1.MessageLine{Error: &p})
			return nil
		}
		if out.line(line) != nil {
			cancel()
			<-failed
			return nil
		}
	}
}

// stillMay asks anew who sent r and whether he may, for answers that go on for long.
func (s *server) stillMay(r *http.Request, perm access.Permission) error {
	actor, err := s.actor(r)
	if err != nil {
		return err
	}
	return s.Access.Require(r.Context(), actor, perm, "messages")
}
