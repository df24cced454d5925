package coap

import (
	"context"
	"net/url"
	"slices"
	"strings"

	"mooring/internal/base/coap"
	"mooring/internal/base/errs"
	"mooring/internal/core/message"
	"mooring/internal/core/message/policy"
	wire "mooring/wire/coap"
)

// discover adds the topics that the client may use to what is here besides (RFC 6690). Who is not known hears of none.
func (s *session) discover(ctx context.Context, r *coap.Request, rest coap.Handler) coap.Response {
	out := rest.Answer(ctx, r)
	if out.Code != wire.Content || out.Format != wire.LinkFormat {
		return out
	}
	who, err := s.Messages.Identify(ctx, message.Visit{}, s.chain)
	if err != nil {
		if k := errs.KindOf(err); k == errs.Unavailable || k == errs.Internal {
			return refuse(err)
		}
		return out
	}
	list := links(s.Messages.Rules(who))
	for _, query := range r.Options.Queries() {
		list = wire.FilterLinks(list, query)
	}
	if len(list) == 0 {
		return out
	}
	if len(out.Body) > 0 {
		out.Body = append(out.Body, ',')
	}
	out.Body = wire.AppendLinks(out.Body, list)
	return out
}

// links are topics as resources, in the order of the rules. What can be observed says so (RFC 7641, section 6). Those of children are left out: there may be
// thousands.
func links(rules []policy.Rule) (list []wire.Link) {
	for i, r := range rules {
		same := func(other policy.Rule) bool { return other.Filter == r.Filter }
		if r.Child || slices.ContainsFunc(rules[:i], same) {
			continue
		}
		l := wire.Link{Target: root}
		for level := range strings.SplitSeq(r.Filter, "/") {
			l.Target += "/" + url.PathEscape(level)
		}
		may := func(a policy.Action) bool {
			return slices.ContainsFunc(rules[i:], func(other policy.Rule) bool { return same(other) && other.Action == a })
		}
		var types []string
		if may(policy.Publish) {
			types = append(types, "mooring.publish")
		}
		observable := may(policy.Subscribe)
		if observable {
			types = append(types, "mooring.subscribe")
		}
		l.Attributes = []wire.Attribute{{Name: "rt", Value: strings.Join(types, " ")}}
		if observable {
			l.Attributes = append(l.Attributes, wire.Attribute{Name: "obs"})
		}
		list = append(list, l)
	}
	return list
}
