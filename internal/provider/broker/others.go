package broker

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"time"

	"mooring/internal/base/errs"
)

// RMQTT is the driver for RMQTT 0.2 and later, by its HTTP API. Who is cut off is refused by the webhook. Client identifiers there are names of things.
type RMQTT struct{ HTTP }

// Kick implements Driver.
func (b *RMQTT) Kick(ctx context.Context, names []string) error {
	return each(ctx, names, func(ctx context.Context, name string) error {
		status, answer, err := b.call(ctx, http.MethodDelete, "/api/v1/clients/"+url.PathEscape(name), nil, nil)
		if err != nil {
			return err
		}
		if status != http.StatusOK && status != http.StatusNoContent && status != http.StatusNotFound {
			return refused(status, answer)
		}
		return nil
	})
}

// Ban implements Driver. RMQTT asks the webhook at each connection, which refuses.
func (b *RMQTT) Ban(context.Context, []string, time.Time) error { return nil }

// Lift implements Driver.
func (b *RMQTT) Lift(context.Context, []string) error { return nil }

// VerneMQ is the driver for VerneMQ, by its HTTP API, which is vmq-admin in another form; HTTP.User is the API key. Who is cut off is refused by the
// webhook. Client identifiers there are names of things.
type VerneMQ struct{ HTTP }

// Kick implements Driver. VerneMQ says the same whether the client was connected or not. It puts the name into a query between double quotes.
func (b *VerneMQ) Kick(ctx context.Context, names []string) error {
	return each(ctx, names, func(ctx context.Context, name string) error {
		if strings.ContainsAny(name, `"\`) {
			return errs.New(errs.Invalid, "VerneMQ cannot be told a name with a quotation mark")
		}
		status, answer, err := b.call(ctx, http.MethodGet, "/api/v1/session/disconnect", url.Values{"client-id": {name}, "--cleanup": {""}}, nil)
		if err != nil {
			return err
		}
		if status != http.StatusOK {
			return refused(status, answer)
		}
		if !json.Valid(answer) { // a page of somebody in between
			return errs.New(errs.Conflict, "the broker's answer is not VerneMQ's: %q", words(answer))
		}
		return nil
	})
}

// Ban implements Driver. VerneMQ asks the webhook at each connection, which refuses; that answer is never cached.
func (b *VerneMQ) Ban(context.Context, []string, time.Time) error { return nil }

// Lift implements Driver.
func (b *VerneMQ) Lift(context.Context, []string) error { return nil }
