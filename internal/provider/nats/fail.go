package nats

import (
	"context"
	"errors"
	"fmt"
	"strings"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"mooring/internal/base/errs"
)

// Codes of JetStream's errors that have a meaning for us (errors.json of nats-server).
const (
	codeAccountResources = 10002
	codeNoPeers          = 10005
	codeNotAssigned      = 10007
	codeUnavailable      = 10008
	codeNotLeader        = 10009
	codeResources        = 10023
	codeNoMessage        = 10037
	codeNoAccount        = 10039
	codeStorage          = 10047
	codeTooLarge         = 10054
	codeWrongLast        = 10071
	codeNotClustered     = 10074
	codeNotEnabled       = 10076
	codeStore            = 10077
	codeHeaders          = 10097
	codeMaxStreamBytes   = 10122
	codeWrongLastConst   = 10164
	codeTooMany          = 10167
)

// failed gives an error of NATS a kind and says what to do.
func (f *Fabric) failed(err error, doing string, args ...any) error {
	if err == nil || errs.KindOf(err) != errs.Internal {
		return err
	}
	doing = fmt.Sprintf(doing, args...)
	var api *jetstream.APIError
	if errors.As(err, &api) {
		return f.refusal(int(api.ErrorCode), api.Description, doing)
	}
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, natsgo.ErrMaxPayload):
		return errs.Wrap(errs.Limited, err, "the message is larger than NATS takes: raise max_payload there")
	}
	if text := f.denied.Load(); text != nil {
		return errs.Wrap(errs.Denied, fmt.Errorf("%s: %w", *text, err), "%s: NATS does not permit it; the user needs to publish to %s and to subscribe to _INBOX.>",
			doing, strings.Join(f.name.publishes(), ", "))
	}
	if errors.Is(err, natsgo.ErrNoResponders) || errors.Is(err, jetstream.ErrJetStreamNotEnabled) {
		return errs.Wrap(errs.Unavailable, err, "%s: JetStream does not answer; it must be enabled in the NATS servers and for the account", doing)
	}
	return errs.Wrap(errs.Unavailable, err, "%s: NATS does not answer", doing)
}

// refusal is the error for what JetStream answered.
func (f *Fabric) refusal(code int, text, doing string) error {
	cause := fmt.Errorf("%s (%d)", text, code)
	switch code {
	case codeNotEnabled, codeNoAccount:
		return errs.Wrap(errs.Unavailable, cause, "%s: JetStream is not enabled there: enable it in the NATS servers and for the account", doing)
	case codeNoPeers, codeNotClustered:
		return errs.Wrap(errs.Unavailable, cause, "%s: the NATS cluster is too small for %d replicas: start more servers with JetStream, or ask for fewer replicas", doing, f.o.Replicas)
	case codeStorage, codeMaxStreamBytes:
		return errs.Wrap(errs.Limited, cause, "%s: NATS has not as much storage as is asked for: raise its limits, or lower the size of stored messages", doing)
	case codeResources, codeAccountResources:
		return errs.Wrap(errs.Limited, cause, "%s: the NATS servers have no room left", doing)
	case codeTooLarge, codeHeaders:
		return errs.Wrap(errs.Limited, cause, "%s: the message is too large", doing)
	case codeWrongLast, codeWrongLastConst:
		return errs.Wrap(errs.Conflict, cause, "it was changed meanwhile")
	case codeNoMessage:
		return errs.New(errs.NotFound, "there is none")
	case codeStore:
		if strings.Contains(text, "exceeded") {
			f.lacking(doing, cause)
			return errs.Wrap(errs.Limited, cause, "the store of messages is full")
		}
	}
	return errs.Wrap(errs.Unavailable, cause, "%s: NATS refuses", doing)
}
