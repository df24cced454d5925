package broker

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// EMQX is the driver for EMQX 5 and later, by its REST API. Its key needs the role administrator. Client identifiers there are names of things:
// peer_cert_as_clientid = cn.
type EMQX struct{ HTTP }

// kickAtOnce bounds one request to end connections.
const kickAtOnce = 100

// Kick implements Driver.
func (e *EMQX) Kick(ctx context.Context, names []string) error {
	for part := range slices.Chunk(names, kickAtOnce) {
		status, answer, err := e.call(ctx, http.MethodPost, "/api/v5/clients/kickout/bulk", nil, part)
		if err != nil {
			return err
		}
		if status != http.StatusNoContent && status != http.StatusOK {
			return refused(status, answer)
		}
	}
	return nil
}

// Ban implements Driver. A ban that is there already is replaced, since it may end earlier.
func (e *EMQX) Ban(ctx context.Context, names []string, until time.Time) error {
	return each(ctx, names, func(ctx context.Context, name string) error {
		for again := false; ; again = true {
			status, answer, err := e.call(ctx, http.MethodPost, "/api/v5/banned", nil, ban(name, until))
			switch {
			case err != nil:
				return err
			case status == http.StatusOK:
				return nil
			case status != http.StatusBadRequest || !strings.Contains(string(answer), "ALREADY_EXISTS") || again:
				return refused(status, answer)
			}
			if err := e.lift(ctx, name); err != nil {
				return err
			}
		}
	})
}

// ban is the body of a request. Without until it is for ever.
func ban(name string, until time.Time) map[string]string {
	body := map[string]string{"as": "clientid", "who": name, "by": "mooring", "reason": "revoked"}
	if !until.IsZero() {
		body["until"] = until.UTC().Format(time.RFC3339)
	}
	return body
}

// Lift implements Driver.
func (e *EMQX) Lift(ctx context.Context, names []string) error { return each(ctx, names, e.lift) }

func (e *EMQX) lift(ctx context.Context, name string) error {
	status, answer, err := e.call(ctx, http.MethodDelete, "/api/v5/banned/clientid/"+url.PathEscape(name), nil, nil)
	if err != nil {
		return err
	}
	if status != http.StatusNoContent && status != http.StatusNotFound {
		return refused(status, answer)
	}
	return nil
}
