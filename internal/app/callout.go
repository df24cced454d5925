package app

import (
	"context"
	"strings"

	"mooring/internal/base/errs"
	"mooring/internal/core/message"
	"mooring/internal/core/message/policy"
	"mooring/internal/provider/nats/callout"
)

// decideNATS says what the holder of a certificate may do at NATS servers of others: what the policy allows there, as far as NATS can express it. What it cannot
// is left out, never widened: QoS, retaining, sizes and rates are not looked at there, so that rules with ${child} or for shared subscriptions give nothing.
func (p *Platform) decideNATS(ctx context.Context, r callout.Request) (callout.Permit, error) {
	chain := make([][]byte, len(r.Chain))
	for i, c := range r.Chain {
		chain[i] = c.Raw
	}
	id, err := p.Message.Identify(ctx, message.Visit{Front: "nats"}, chain)
	if err != nil {
		return callout.Permit{}, err
	}
	if r.MQTT && !p.Message.MayBe(id, r.Client) { // those servers throw out whoever had it before
		return callout.Permit{}, errs.New(errs.Denied, "the client identifier is not the thing's")
	}
	permit := callout.Permit{Name: id.Subject.Thing, NotAfter: id.NotAfter}
	for _, rule := range p.Message.Rules(id) {
		switch {
		case rule.Child || strings.ContainsAny(rule.Filter, "*> \t"):
		case rule.Action == policy.Publish:
			permit.Publish = append(permit.Publish, rule.Filter)
		default:
			permit.Subscribe = append(permit.Subscribe, rule.Filter)
		}
	}
	return permit, nil
}
