package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"mooring/internal/server/api/v1"
)

// Policy returns who may publish and subscribe where.
func (c *Client) Policy(ctx context.Context) (v1.MessagePolicy, error) {
	return get[v1.MessagePolicy](ctx, c, "/v1/messaging/policy", nil)
}

// SetPolicy replaces the policy.
func (c *Client) SetPolicy(ctx context.Context, n v1.NewMessagePolicy) (v1.MessagePolicy, error) {
	return call[v1.MessagePolicy](ctx, c, http.MethodPost, "/v1/messaging/policy", n)
}

// TestPolicy asks what the policy would say.
func (c *Client) TestPolicy(ctx context.Context, q v1.PolicyQuestion) (v1.PolicyVerdict, error) {
	return call[v1.PolicyVerdict](ctx, c, http.MethodPost, "/v1/messaging/policy/test", q)
}

// Connections returns the live connections of the server, at most limit, of one thing or of all.
func (c *Client) Connections(ctx context.Context, thing, group string, limit int) ([]v1.MessageConnection, error) {
	q := url.Values{"limit": {strconv.Itoa(limit)}}
	if thing != "" {
		q.Set("thing", thing)
	}
	if group != "" {
		q.Set("group", group)
	}
	list, err := get[v1.MessageConnectionList](ctx, c, "/v1/messaging/connections", q)
	return list.Connections, err
}

// EndConnections ends the connections of a thing.
func (c *Client) EndConnections(ctx context.Context, thing string) (v1.EndedConnections, error) {
	return call[v1.EndedConnections](ctx, c, http.MethodPost, "/v1/messaging/connections/end", v1.EndConnections{Thing: thing})
}

// Publish publishes a message and returns when it is stored.
func (c *Client) Publish(ctx context.Context, m v1.NewMessage) (v1.Message, error) {
	return call[v1.Message](ctx, c, http.MethodPost, "/v1/messaging/messages", m)
}

// Messages calls fn for every message that is published from now on to a topic which filter matches, and by thing, unless that is "", until ctx
// ends or fn fails. begun is called when that has begun.
func (c *Client) Messages(ctx context.Context, filter, thing string, begun func(), fn func(v1.Message) error) error {
	q := url.Values{}
	if filter != "" {
		q.Set("filter", filter)
	}
	if thing != "" {
		q.Set("thing", thing)
	}
	r, err := c.send(ctx, http.MethodGet, "/v1/messaging/messages", q, "", nil)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	return lines(ctx, c, r.Body, func(l v1.MessageLine) (last bool, err error) {
		switch {
		case l.Error != nil:
			return true, &Error{Problem: *l.Error}
		case l.Begun:
			begun()
		case l.Message != nil:
			return false, fn(*l.Message)
		}
		return false, nil
	})
}

// Sinks returns how the sinks are.
func (c *Client) Sinks(ctx context.Context) ([]v1.Sink, error) {
	list, err := get[v1.SinkList](ctx, c, "/v1/messaging/sinks", nil)
	return list.Sinks, err
}

// DeadLetters returns dead letters of a sink, those after one, if that is not "".
func (c *Client) DeadLetters(ctx context.Context, sink, after string, limit int) (v1.DeadLetterList, error) {
	q := url.Values{"limit": {strconv.Itoa(limit)}}
	if after != "" {
		q.Set("after", after)
	}
	return get[v1.DeadLetterList](ctx, c, "/v1/messaging/sinks/"+url.PathEscape(sink)+"/dead", q)
}

// RetryDead has dead letters of a sink handed over once more.
func (c *Client) RetryDead(ctx context.Context, sink string, which v1.DeadLetters) (v1.HandledLetters, error) {
	return call[v1.HandledLetters](ctx, c, http.MethodPost, "/v1/messaging/sinks/"+url.PathEscape(sink)+"/retry", which)
}

// DropDead forgets dead letters of a sink.
func (c *Client) DropDead(ctx context.Context, sink string, which v1.DeadLetters) (v1.HandledLetters, error) {
	return call[v1.HandledLetters](ctx, c, http.MethodPost, "/v1/messaging/sinks/"+url.PathEscape(sink)+"/drop", which)
}
