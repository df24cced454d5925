package message

import (
	"context"
	"log/slog"
	"net/netip"
	"strconv"

	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
	"mooring/internal/core/message/policy"
)

// Visit is by which front somebody asks to be let in, and from where. The zero Visit is of who only looks: it is not recorded when he is refused.
type Visit struct {
	Front   string
	Address netip.AddrPort
}

// refusal is one reason for which somebody is refused something. Its words are fixed, so that refusals of a kind are counted as one and what a peer says
// of itself does not come into the record.
type refusal uint8

const (
	refusedUnknown  refusal = iota // nobody of the registry, or not under this certificate
	refusedState                   // the registry's device may not talk
	refusedCut                     // cut off while it connected
	refusedGroup                   // the policy has no group for it
	refusedClient                  // the client identifier is another one's
	refusedWill                    // the policy does not allow its will
	refusedQuota                   // too many connections or sessions
	refusedRate                    // it leaves wills faster than it may publish
	refusedFlapping                // taken over too often
	refusedFilter                  // the policy does not allow the filter
	refusedFilters                 // too many filters or subscriptions
	refusedPublish                 // the policy does not allow the message
	refusalKinds
)

// refusals are what the record and the metrics call them.
var refusals = [refusalKinds]struct{ action, word, text string }{
	refusedUnknown:  {action: "message.connect", word: "unknown", text: "the certificate is none by which a device may talk"},
	refusedState:    {action: "message.connect", word: "state", text: "the device may not talk by this certificate, or not in its state"},
	refusedCut:      {action: "message.connect", word: "cut", text: "it was cut off while it connected"},
	refusedGroup:    {action: "message.connect", word: "group", text: "no group of the policy fits"},
	refusedClient:   {action: "message.connect", word: "client", text: "the client identifier is not one that it may have"},
	refusedWill:     {action: "message.connect", word: "will", text: "the policy does not allow its will"},
	refusedQuota:    {action: "message.connect", word: "quota", text: "it has as many connections or sessions as it may have"},
	refusedRate:     {action: "message.connect", word: "rate", text: "it has used up what it may publish, and wants to leave a will"},
	refusedFlapping: {action: "message.flap", word: "flapping", text: "the session was taken over more than five times in a minute"},
	refusedFilter:   {action: "message.subscribe", word: "policy", text: "the policy does not allow the filter"},
	refusedFilters:  {action: "message.subscribe", word: "quota", text: "it has as many filters or subscriptions as it may have"},
	refusedPublish:  {action: "message.publish", word: "policy", text: "the policy does not allow it"},
}

// Refused is how often something was refused for one reason since the start of this node.
type Refused struct {
	Action, Reason string
	N              int64
}

// refused returns the counts.
func (c *counters) refused() (list []Refused) {
	for k := range refusals {
		list = append(list, Refused{refusals[k].action, refusals[k].word, c.refusals[k].Load()})
	}
	return list
}

// refuse counts a refusal and has it recorded. The record is bounded: the first of a kind for each thing, or for each network of strangers, stands there at once,
// and how many more there were in a minute by one entry (audit.Log.Refuse).
func (s *Service) refuse(ctx context.Context, k refusal, who access.Actor, id device.ID, detail map[string]string) {
	s.metrics.refusals[k].Add(1)
	e := audit.Entry{Action: refusals[k].action, Refused: refusals[k].text, Detail: detail}
	if id != (device.ID{}) {
		e.Device = id.String()
	}
	if err := s.Audit.Refuse(ctx, who, e); err != nil {
		s.metrics.NotesDropped.Add(1)
		s.log.LogAttrs(ctx, slog.LevelWarn, "a refusal cannot be recorded", slog.String("action", e.Action), slog.Any("cause", err))
	}
}

// denialsKept bounds the refused messages that wait to be recorded.
const denialsKept = 256

// denial is a message that the policy refused, and of which that is to be recorded.
type denial struct {
	c    *Conn
	code policy.Code
}

// refuseLater has it recorded that a message was refused, without waiting for that. What comes while too much waits is only counted.
func (s *Service) refuseLater(c *Conn, code policy.Code) {
	select {
	case s.denials <- denial{c, code}:
	default:
		s.metrics.refusals[refusedPublish].Add(1)
		s.metrics.NotesDropped.Add(1)
	}
}

// keepDenials records refused messages until ctx ends. It does nothing else, and nobody else does it: the database may be slow or away.
func (s *Service) keepDenials(ctx context.Context) {
	for {
		select {
		case d := <-s.denials:
			d.c.refuse(ctx, refusedPublish, codeDetail(d.code))
		case <-ctx.Done():
			return
		}
	}
}

// refuse has a refusal of c's peer recorded.
func (c *Conn) refuse(ctx context.Context, k refusal, detail map[string]string) {
	if detail == nil {
		detail = map[string]string{}
	}
	detail["front"] = c.front
	c.s.refuse(ctx, k, access.Device(c.id.ID.String(), c.front), c.id.ID, detail)
}

// refuseVisit records that nobody who may talk is at the other end. id is what Deps.Identify knew of him.
func (s *Service) refuseVisit(ctx context.Context, v Visit, id device.ID, err error) {
	if kind := errs.KindOf(err); v.Front == "" || kind == errs.Unavailable || kind == errs.Internal {
		return
	}
	k, who := refusedUnknown, access.Stranger(v.Address.Addr(), v.Front)
	if id != (device.ID{}) {
		k, who = refusedState, access.Device(id.String(), v.Front)
	}
	s.refuse(ctx, k, who, id, map[string]string{"front": v.Front})
}

// errPolicy is a refusal by the policy, with its code.
type errPolicy struct {
	error
	code policy.Code
}

func (e errPolicy) Unwrap() error { return e.error }

// codeDetail is what the record says of a verdict: doc/audit.md has the words.
func codeDetail(code policy.Code) map[string]string {
	return map[string]string{"code": strconv.Itoa(int(code)), "why": code.String()}
}
