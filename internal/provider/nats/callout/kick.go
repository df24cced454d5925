package callout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"mooring/internal/base/errs"
)

// Rounds of Kick, and what one of them waits for: the servers are not told how many of them there are, so who has not answered for a while is not there.
const (
	kickRounds = 5
	gather     = 300 * time.Millisecond
	first      = 2 * time.Second
	page       = 1024
)

// Kick ends the connections of things, and returns when no server has one of them any more. A connection that a server is just letting in may come after
// that; Decide must refuse before Kick is called.
func (r *Responder) Kick(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return nil
	}
	want := slices.Clone(names)
	slices.Sort(want)
	for range kickRounds {
		n, err := r.round(ctx, want)
		if err != nil || n == 0 {
			return err
		}
	}
	return errs.New(errs.Unavailable, "the NATS servers still have connections of things that were to be kicked: they come back; look whether the auth callout refuses them")
}

// Ban does nothing: Decide refuses.
func (r *Responder) Ban(context.Context, []string, time.Time) error { return nil }

// Lift does nothing.
func (r *Responder) Lift(context.Context, []string) error { return nil }

// listed is a server's answer to the question for its connections.
type listed struct {
	Server struct {
		ID string `json:"id"`
	} `json:"server"`
	Data struct {
		Total       int    `json:"total"`
		Offset      int    `json:"offset"`
		Count       int    `json:"num_connections"`
		Connections []conn `json:"connections"`
	} `json:"data"`
	Error *struct {
		Description string `json:"description"`
	} `json:"error"`
}

type conn struct {
	CID  uint64 `json:"cid"`
	User string `json:"authorized_user"`
}

// round asks all servers for connections and ends those of want; it returns how many there were.
func (r *Responder) round(ctx context.Context, want []string) (int, error) {
	inbox := natsgo.NewInbox()
	answers, err := r.sys.SubscribeSync(inbox)
	if err != nil {
		return 0, errs.Wrap(errs.Unavailable, err, "asking the NATS servers for their connections")
	}
	defer func() { _ = answers.Unsubscribe() }() // else it ends with the connection
	if err := r.sys.PublishRequest("$SYS.REQ.SERVER.PING.CONNZ", inbox, r.question(want, 0)); err != nil {
		return 0, errs.Wrap(errs.Unavailable, err, "asking the NATS servers for their connections")
	}
	n := 0
	for wait := first; ; wait = gather {
		msg, err := next(ctx, answers, wait)
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil && wait == gather {
			return n, nil
		}
		if err != nil {
			return n, errs.Wrap(errs.Unavailable, err, "the NATS servers do not say which connections they have: does the login belong to the system account?")
		}
		more, err := r.end(ctx, msg.Data, want)
		if err != nil {
			return n, err
		}
		n += more
	}
}

func next(ctx context.Context, sub *natsgo.Subscription, wait time.Duration) (*natsgo.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return sub.NextMsgWithContext(ctx)
}

// question asks for one page of connections in the devices' account, of one user where that is all.
func (r *Responder) question(want []string, offset int) []byte {
	q := map[string]any{"auth": true, "acc": r.o.Account, "limit": page, "offset": offset}
	if len(want) == 1 {
		q["user"] = want[0]
	}
	body, err := json.Marshal(q)
	if err != nil {
		panic(err) // texts and numbers only
	}
	return body
}

// end ends the connections of want that one server says it has, page by page.
func (r *Responder) end(ctx context.Context, data []byte, want []string) (int, error) {
	n := 0
	for {
		var l listed
		if err := json.Unmarshal(data, &l); err != nil {
			return n, errs.Wrap(errs.Unavailable, err, "a NATS server answers what cannot be read")
		}
		if l.Error != nil {
			return n, errs.New(errs.Unavailable, "a NATS server does not say which connections it has: %s", l.Error.Description)
		}
		for _, c := range l.Data.Connections {
			if _, found := slices.BinarySearch(want, c.User); !found {
				continue
			}
			n++
			if err := r.kick(ctx, l.Server.ID, c.CID); err != nil {
				return n, err
			}
		}
		if l.Data.Count == 0 || l.Data.Offset+l.Data.Count >= l.Data.Total {
			return n, nil
		}
		// What was ended is not counted any more, so the next page begins earlier; what is looked at twice is found ended.
		msg, err := r.ask(ctx, "$SYS.REQ.SERVER."+l.Server.ID+".CONNZ", r.question(want, max(0, l.Data.Offset+l.Data.Count-n)))
		if err != nil {
			return n, err
		}
		data = msg.Data
	}
}

// kick ends one connection. One that is not there any more is no error.
func (r *Responder) kick(ctx context.Context, server string, cid uint64) error {
	if _, err := r.ask(ctx, "$SYS.REQ.SERVER."+server+".KICK", fmt.Appendf(nil, `{"cid":%d}`, cid)); err != nil {
		return err
	}
	r.count(func(c *Counts) { c.Kicked++ })
	return nil
}

func (r *Responder) ask(ctx context.Context, subject string, body []byte) (*natsgo.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, callWait)
	defer cancel()
	msg, err := r.sys.RequestWithContext(ctx, subject, body)
	if err != nil {
		return nil, errs.Wrap(errs.Unavailable, err, "a NATS server does not answer %s", subject)
	}
	return msg, nil
}
