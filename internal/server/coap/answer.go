package coap

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"mooring/internal/base/coap"
	"mooring/internal/base/errs"
	"mooring/internal/core/message"
	wire "mooring/wire/coap"
	"mooring/wire/mqtt"
)

// exchange is one request for a topic on its way.
type exchange struct {
	*session
	*coap.Request
	ctx   context.Context
	conn  Conn
	topic string
	query query
}

// query is what a request says after the "?".
type query struct {
	retain bool
	expiry uint32
}

// method is what a client can do with a topic.
type method struct {
	route   string
	answer  func(*exchange) coap.Response
	queries bool // it may be said how the message is kept
}

func methodOf(code wire.Code) (m method, ok bool) {
	switch code {
	case wire.GET:
		return method{"get", (*exchange).get, false}, true
	case wire.POST, wire.PUT:
		return method{"publish", (*exchange).publish, true}, true
	case wire.DELETE:
		return method{"delete", (*exchange).remove, false}, true
	}
	return method{}, false
}

// answer answers a request for a topic.
func (s *session) answer(ctx context.Context, r *coap.Request) coap.Response {
	m, ok := methodOf(r.Code)
	if !ok {
		return coap.RefuseAs(wire.MethodNotAllowed, "a topic answers GET, POST, PUT and DELETE")
	}
	out := s.operate(ctx, r, m)
	out.Route, out.Quiet = m.route, true
	return out
}

func (s *session) operate(ctx context.Context, r *coap.Request, m method) coap.Response {
	x := &exchange{session: s, Request: r, ctx: ctx, topic: strings.TrimPrefix(r.Path[len(root):], "/")}
	if x.topic != "" && mqtt.CheckFilter(x.topic, nil) != nil { // who hears it may speak MQTT, where such a topic would end his connection
		return coap.RefuseAs(wire.BadRequest, "the topic is none: it has control characters, is no UTF-8, or too long, or has a wildcard beside other words")
	}
	if x.topic == "" {
		return coap.RefuseAs(wire.BadRequest, "the path names no topic: put its levels after /p")
	}
	var err error
	if x.query, err = readQuery(r.Options.Queries(), m.queries); err != nil {
		return coap.Refuse(err)
	}
	if x.conn, err = s.enter(ctx, r.Client); err != nil {
		return refuse(err)
	}
	if most := x.limit(); len(x.Body) > most { // the first request is read before it is known how much that is
		return coap.RefuseAs(wire.EntityTooLarge, fmt.Sprintf("the body may have %d octets", most))
	}
	return m.answer(x)
}

func readQuery(list []string, allowed bool) (q query, err error) {
	for _, one := range list {
		name, value, _ := strings.Cut(one, "=")
		switch {
		case allowed && one == "retain":
			q.retain = true
		case allowed && name == "expiry":
			n, err := strconv.ParseUint(value, 10, 32)
			if err != nil || n == 0 {
				return q, errs.New(errs.Invalid, "expiry takes a number of seconds from 1")
			}
			q.expiry = uint32(n)
		default:
			return q, errs.New(errs.Invalid, "the query is not understood here: with POST and PUT there are retain and expiry=SECONDS")
		}
	}
	return q, nil
}

// refuse answers with an error of core.
func refuse(err error) coap.Response {
	out := coap.Refuse(err)
	switch {
	case errors.Is(err, errStranger):
		out.Code = wire.Unauthorized
	case errors.Is(err, message.ErrTooLarge):
		out.Code = wire.EntityTooLarge
	case errors.Is(err, message.ErrFull):
		out.Code, out.MaxAge = wire.ServiceUnavailable, time.Minute
	case out.Code == wire.TooManyRequests && out.MaxAge == 0:
		out.MaxAge = time.Second // RFC 8516, section 3 wants it said
	}
	return out
}

// publish says a message.
func (x *exchange) publish() coap.Response {
	if strings.ContainsAny(x.topic, "+#") {
		return coap.RefuseAs(wire.BadRequest, "a message has one topic: + and # are for what is observed")
	}
	m := &message.Message{Topic: x.topic, Payload: x.Body, Retain: x.query.retain, Expiry: x.query.expiry}
	if format, said := x.Options.Uint(wire.ContentFormat); said {
		var known bool
		if m.ContentType, known = contentType(wire.Format(format)); !known {
			return coap.RefuseAs(wire.UnsupportedFormat, fmt.Sprintf("the content format %d is not known here; leave it out, or use 42", format))
		}
		if wire.Format(format) == wire.TextPlain {
			m.Format = 1
		}
	}
	if err := x.say(m); err != nil {
		return refuse(err)
	}
	return coap.Response{Code: wire.Changed}
}

// say publishes m and waits until it is stored, if it is to be.
func (x *exchange) say(m *message.Message) error {
	if x.Confirmable {
		m.QoS = 1
	}
	stored := make(chan error, 1)
	x.conn.Publish(m, 0, func(err error) { stored <- err })
	select {
	case err := <-stored:
		return err
	case <-x.ctx.Done():
		return errEnded
	}
}

// remove has nothing retained any more.
func (x *exchange) remove() coap.Response {
	if err := x.say(&message.Message{Topic: x.topic, Retain: true}); err != nil {
		return refuse(err)
	}
	return coap.Response{Code: wire.Deleted}
}

// get answers with the retained message, and observes if that is wanted.
func (x *exchange) get() coap.Response {
	wish, said := x.Options.Uint(wire.Observe)
	switch {
	case said && wish == 0:
		return x.observe()
	case said && wish == 1:
		x.unobserve()
	}
	if wildcard(x.topic) {
		return coap.RefuseAs(wire.BadRequest, "+ and # are for what is observed")
	}
	m, err := x.conn.Retained(x.ctx, x.topic)
	if err != nil {
		return refuse(err)
	}
	return x.content(m)
}

func wildcard(topic string) bool { return strings.ContainsAny(topic, "+#") }

// content answers with a message, if that is what the client takes.
func (x *exchange) content(m *message.Message) coap.Response {
	out := body(m)
	if want, asked := x.Options.Uint(wire.Accept); asked && out.Format != wire.Format(want) {
		return coap.RefuseAs(wire.NotAcceptable, "the message has another content format")
	}
	return out
}

// body is a message as the content of an answer.
func body(m *message.Message) coap.Response {
	out := coap.Response{Code: wire.Content, Format: format(m), Body: m.Payload}
	if m.Expiry > 0 {
		out.Until = time.UnixMilli(m.At).Add(time.Duration(m.Expiry) * time.Second)
	}
	return out
}
