package message

import (
	"sync/atomic"
	"time"
)

// counters are what a node has counted since it started. Each limit has one.
type counters struct {
	Published, AppendFailed, LooseDropped                            atomic.Int64
	PublishDenied, TooLarge, RateLimited, ResponseStripped           atomic.Int64
	Delivered, Resent, Expired, SlowDropped, Behind, ResendDenied    atomic.Int64
	QueueDropped, SharedDropped, ReplaysDropped                      atomic.Int64
	Connected, Refused, ForeignClient, Quota, Flapping, TakenOver    atomic.Int64
	CertificateEnded, SaveFailed, SessionsUnreadable                 atomic.Int64
	Subscribed, SubscribeDenied, SubscribeQuota, SubscriptionsLost   atomic.Int64
	SubscriptionsRegained                                            atomic.Int64
	RetainedQuota, RetainedHidden                                    atomic.Int64
	WillSaid, WillDenied, WillCut                                    atomic.Int64
	Cuts, CutConnections, CutUnstored, ChildrenCut, CutNanos, CutMax atomic.Int64
	AnnounceFailed, NotesDropped, Taps, TapDropped                   atomic.Int64
	ends                                                             [ReasonFabric + 1]atomic.Int64
	refusals                                                         [refusalKinds]atomic.Int64
}

func (c *counters) ended(r Reason) { c.ends[r].Add(1) }

func (c *counters) cutTook(n int, d time.Duration) {
	if n == 0 {
		return
	}
	c.Cuts.Add(1)
	c.CutConnections.Add(int64(n))
	c.CutNanos.Add(int64(d))
	for {
		most := c.CutMax.Load()
		if int64(d) <= most || c.CutMax.CompareAndSwap(most, int64(d)) {
			return
		}
	}
}

// Metrics are counts since the start of this node, and how it is now.
type Metrics struct {
	// How it is now.
	Connections, Subscriptions, IndexNodes, Taps int64
	Fabric                                       Standing

	Published    int64 // messages that were stored
	AppendFailed int64 // … that the fabric did not take
	LooseDropped int64 // … of QoS 0, because too many were on their way to the fabric

	PublishDenied    int64 // by the policy
	TooLarge         int64 // for the policy's rule
	RateLimited      int64
	ResponseStripped int64 // response topics that were taken off

	Delivered    int64 // deliveries to peers, with QoS 0 too
	Resent       int64 // … again, after a new connection
	ResendDenied int64 // … not again, since the policy does not allow it any more
	Expired      int64 // messages whose time was over before they could be delivered
	SlowDropped  int64 // … of QoS 0, because the peer reads too slowly
	Behind       int64 // how often a session was too slow for its memory, and went on from the fabric

	QueueDropped   int64 // messages that a session lost because it was away too long
	SharedDropped  int64 // … that no member of a group had room for
	ReplaysDropped int64 // retained messages beyond what one session is told of

	Accepted, Refused  int64 // connections
	ForeignClient      int64 // client identifiers of others
	Quota              int64 // connections, or retained messages on their way, beyond the limit
	Flapping           int64 // take-overs that were too many
	TakenOver          int64
	CertificateEnded   int64
	SaveFailed         int64 // sessions that could not be stored at once
	SessionsUnreadable int64

	Subscribed, SubscribeDenied int64
	SubscribeQuota              int64 // filters or subscriptions beyond the limit
	SubscriptionsLost           int64 // by a change of the policy or the registry
	SubscriptionsRegained       int64 // … and granted again by another one

	RetainedQuota  int64 // messages that were not retained because their author has too many
	RetainedHidden int64 // retained messages that were not shown

	WillSaid, WillDenied, WillCut int64

	Cuts           int64 // that ended connections
	CutConnections int64
	CutUnstored    int64 // connections of which something was on its way to the fabric for too long
	ChildrenCut    int64 // times that a gateway lost a child by a cut
	CutSeconds     float64
	CutMaxSeconds  float64

	AnnounceFailed, NotesDropped, TapDropped int64
	// Ended are connections by the reason of their end, indexed by Reason.
	Ended []int64
	// Refusals are what was refused and recorded, by action and reason. Of refused messages, of which there may be many, it is those that were recorded.
	Refusals []Refused
}

// Metrics returns what was counted.
func (s *Service) Metrics() Metrics {
	m := &s.metrics
	out := Metrics{Fabric: s.Fabric.Standing(), Taps: m.Taps.Load(),
		Published: m.Published.Load(), AppendFailed: m.AppendFailed.Load(), LooseDropped: m.LooseDropped.Load(),
		PublishDenied: m.PublishDenied.Load(), TooLarge: m.TooLarge.Load(), RateLimited: m.RateLimited.Load(), ResponseStripped: m.ResponseStripped.Load(),
		Delivered: m.Delivered.Load(), Resent: m.Resent.Load(), ResendDenied: m.ResendDenied.Load(), Expired: m.Expired.Load(), SlowDropped: m.SlowDropped.Load(), Behind: m.Behind.Load(),
		QueueDropped: m.QueueDropped.Load(), SharedDropped: m.SharedDropped.Load(), ReplaysDropped: m.ReplaysDropped.Load(),
		Accepted: m.Connected.Load(), Refused: m.Refused.Load(), ForeignClient: m.ForeignClient.Load(), Quota: m.Quota.Load(), Flapping: m.Flapping.Load(), TakenOver: m.TakenOver.Load(),
		CertificateEnded: m.CertificateEnded.Load(), SaveFailed: m.SaveFailed.Load(), SessionsUnreadable: m.SessionsUnreadable.Load(),
		Subscribed: m.Subscribed.Load(), SubscribeDenied: m.SubscribeDenied.Load(), SubscribeQuota: m.SubscribeQuota.Load(), SubscriptionsLost: m.SubscriptionsLost.Load(), SubscriptionsRegained: m.SubscriptionsRegained.Load(),
		RetainedQuota: m.RetainedQuota.Load(), RetainedHidden: m.RetainedHidden.Load(),
		WillSaid: m.WillSaid.Load(), WillDenied: m.WillDenied.Load(), WillCut: m.WillCut.Load(),
		Cuts: m.Cuts.Load(), CutConnections: m.CutConnections.Load(), CutUnstored: m.CutUnstored.Load(), ChildrenCut: m.ChildrenCut.Load(),
		CutSeconds: time.Duration(m.CutNanos.Load()).Seconds(), CutMaxSeconds: time.Duration(m.CutMax.Load()).Seconds(),
		AnnounceFailed: m.AnnounceFailed.Load(), NotesDropped: m.NotesDropped.Load(), TapDropped: m.TapDropped.Load(),
	}
	for i := range m.ends {
		out.Ended = append(out.Ended, m.ends[i].Load())
	}
	out.Refusals = m.refused()
	s.live.mu.RLock()
	out.Connections = int64(len(s.live.byKey))
	s.live.mu.RUnlock()
	s.index.mu.RLock()
	out.IndexNodes = int64(s.index.nodes)
	s.index.mu.RUnlock()
	out.Subscriptions = s.index.count.Load()
	return out
}
