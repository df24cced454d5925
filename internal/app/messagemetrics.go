package app

import (
	"context"
	"maps"
	"slices"
	"time"

	"mooring/internal/core/message"
	"mooring/internal/server/api"
	"mooring/internal/server/mqtt"
)

// messageSamples is what messaging has counted, for /metrics.
func (p *Platform) messageSamples() (list []api.Sample) {
	if p.fabric == nil {
		return nil
	}
	m := p.Message.Metrics()
	gauge := func(name, help string, value float64) {
		list = append(list, api.Sample{Name: name, Help: help, Gauge: true, Value: value})
	}
	gauge("message_connections", "Devices and services that are connected.", float64(m.Connections))
	gauge("message_subscriptions", "Subscriptions of sessions on this node.", float64(m.Subscriptions))
	gauge("message_taps", "People who look on.", float64(m.Taps))
	gauge("message_fabric_up", "Whether the place where messages lie answers.", truth(m.Fabric.Reached))
	gauge("message_stored_bytes", "Octets of what devices published and is stored.", float64(m.Fabric.Stored))
	gauge("message_limit_bytes", "Octets that may be stored of what devices publish.", float64(m.Fabric.Limit))
	gauge("message_cut_max_seconds", "The longest that it took to end the connections of one cut.", m.CutMaxSeconds)
	total := func(name, help, label string, values ...counted) {
		for _, v := range values {
			list = append(list, api.Sample{Name: name + "_total", Help: help, Value: float64(v.n), Labels: []string{label, v.what}})
		}
	}
	total("message_published", "Messages that were published, by what became of them.", "outcome", counted{"stored", m.Published}, counted{"not_stored", m.AppendFailed}, counted{"dropped", m.LooseDropped},
		counted{"denied", m.PublishDenied}, counted{"too_large", m.TooLarge}, counted{"too_fast", m.RateLimited})
	total("message_response_topics", "Response topics that were taken off, since the sender may not receive from there.", "what", counted{"stripped", m.ResponseStripped})
	total("message_behind", "How often a session was too slow for its memory and went on from the store.", "what", counted{"sessions", m.Behind})
	total("message_delivered", "Messages for sessions, by what became of them.", "outcome", counted{"sent", m.Delivered}, counted{"sent_again", m.Resent}, counted{"denied_again", m.ResendDenied},
		counted{"expired", m.Expired}, counted{"slow", m.SlowDropped}, counted{"queue_full", m.QueueDropped}, counted{"shared_dropped", m.SharedDropped}, counted{"replay_dropped", m.ReplaysDropped})
	total("message_connects", "Connections that were asked for, by what became of them.", "outcome", counted{"accepted", m.Accepted}, counted{"refused", m.Refused}, counted{"foreign_client", m.ForeignClient},
		counted{"quota", m.Quota}, counted{"flapping", m.Flapping})
	total("message_subscribes", "Subscriptions that were asked for, by what became of them.", "outcome", counted{"granted", m.Subscribed}, counted{"denied", m.SubscribeDenied}, counted{"quota", m.SubscribeQuota},
		counted{"lost", m.SubscriptionsLost}, counted{"regained", m.SubscriptionsRegained})
	total("message_retained", "Retained messages that were not kept or not shown.", "outcome", counted{"quota", m.RetainedQuota}, counted{"hidden", m.RetainedHidden})
	total("message_wills", "Wills, by what became of them.", "outcome", counted{"said", m.WillSaid}, counted{"denied", m.WillDenied}, counted{"cut", m.WillCut})
	total("message_cuts", "Cuts that ended connections, and what they ended.", "what", counted{"cuts", m.Cuts}, counted{"connections", m.CutConnections}, counted{"children", m.ChildrenCut},
		counted{"unstored", m.CutUnstored})
	total("message_troubles", "What went wrong here.", "what", counted{"session_not_saved", m.SaveFailed}, counted{"session_unreadable", m.SessionsUnreadable}, counted{"not_announced", m.AnnounceFailed},
		counted{"not_recorded", m.NotesDropped}, counted{"tap_dropped", m.TapDropped})
	for r, n := range m.Ended {
		if name := message.Reason(r).String(); name != "" {
			total("message_ended", "Connections that ended, by the reason.", "reason", counted{name, n})
		}
	}
	for _, r := range m.Refusals {
		list = append(list, api.Sample{Name: "message_refusals_total", Help: "What was refused and recorded, by the action of the record and the reason.", Value: float64(r.N),
			Labels: []string{"action", r.Action, "reason", r.Reason}})
	}
	for _, s := range p.talkers {
		list = append(list, frontSamples(s.name, s.server.Metrics())...)
	}
	if p.coaps != nil {
		list = append(list, p.coaps.samples()...)
	}
	return append(list, p.outsideSamples()...)
}

// samples is what the listener of CoAP has counted, besides what package gate has.
func (c *constrained) samples() []api.Sample {
	m := c.messages.Metrics()
	list := []api.Sample{{Name: "coap_connections", Help: "Associations that carry messages.", Gauge: true, Value: float64(m.Open)},
		{Name: "coap_held_bytes", Help: "Octets of bodies in blocks that are held.", Gauge: true, Value: float64(c.transport.Held())}}
	for _, v := range []counted{{"told", m.Told}, {"superseded", m.Superseded}, {"unwanted", m.Unwatched}, {"given_up", m.GivenUp}} {
		list = append(list, api.Sample{Name: "coap_notifications_total", Help: "Notifications that arrived, that a newer one made needless, observations that clients ended, and messages of earlier associations that nobody observes any more.",
			Value: float64(v.n), Labels: []string{"outcome", v.what}})
	}
	limited := c.transport.Limited()
	for _, what := range slices.Sorted(maps.Keys(limited)) {
		list = append(list, api.Sample{Name: "coap_limited_total", Help: "What went over a limit: requests, transfers or observations at once, memory, the size of a body, the rate of an address.",
			Value: float64(limited[what]), Labels: []string{"what", what}})
	}
	return list
}

// sampleTime bounds how long /metrics wait for the database and the log.
const sampleTime = 2 * time.Second

// outsideSamples is how sinks and brokers of others are. Of what cannot be asked for in time there are no samples but the one that says so: the others still
// tell what goes on.
func (p *Platform) outsideSamples() (list []api.Sample) {
	ctx, cancel := context.WithTimeout(context.Background(), sampleTime)
	defer cancel()
	put := func(gauge bool, name, help string, value float64, labels ...string) {
		list = append(list, api.Sample{Name: name, Help: help, Gauge: gauge, Value: value, Labels: labels})
	}
	for _, s := range p.sinks {
		m, err := s.Metrics(ctx)
		put(true, "sink_measured", "Whether the state of the sink could be asked for; 0 when the database or the log did not answer.", truth(err == nil), "sink", m.Sink)
		if err != nil {
			continue
		}
		put(true, "sink_running", "Whether this node supplies the sink.", truth(m.Running), "sink", m.Sink)
		put(true, "sink_lag", "Messages of the log that are not safe at the receiver.", float64(m.Lag), "sink", m.Sink)
		put(true, "sink_behind_seconds", "Age of the oldest message that is on its way to the receiver, on the node that supplies the sink.", m.Behind.Seconds(), "sink", m.Sink)
		put(true, "sink_dead", "Dead letters.", float64(m.Dead), "sink", m.Sink)
		put(false, "sink_delivered_total", "Messages that became safe at the receiver.", float64(m.Delivered), "sink", m.Sink)
		put(false, "sink_failures_total", "Calls of the receiver that failed.", float64(m.Failures), "sink", m.Sink)
		put(false, "sink_missed_total", "Messages that had left the log before the sink came to them.", float64(m.Missed), "sink", m.Sink)
	}
	if p.brokers.outbox != nil {
		brokers, err := p.brokers.outbox.Metrics(ctx)
		put(true, "broker_measured", "Whether it could be asked for what brokers have to be told; 0 when the database did not answer.", truth(err == nil))
		for _, m := range brokers {
			put(true, "broker_pending", "Things that the broker has to let go of, or let in, and has not confirmed.", float64(m.Pending), "broker", m.Broker)
			put(true, "broker_lag_seconds", "Age of the oldest of them.", m.Lag.Seconds(), "broker", m.Broker)
			put(true, "broker_slowest_seconds", "The longest that it took until the broker had confirmed one.", m.Slowest.Seconds(), "broker", m.Broker)
			put(false, "broker_confirmed_total", "What the broker confirmed.", float64(m.Confirmed), "broker", m.Broker)
			put(false, "broker_failed_total", "Times that the broker was not reached, or refused.", float64(m.Failed), "broker", m.Broker)
		}
	}
	if p.brokers.hooks != nil {
		brokers, unknown := p.brokers.hooks.Metrics()
		for _, m := range brokers {
			for _, v := range []counted{{"allowed", int64(m.Allowed)}, {"denied", int64(m.Denied)}, {"failed", int64(m.Failed)}} {
				put(false, "broker_questions_total", "Questions of the broker, by the answer; failed: denied since something here did not work.", float64(v.n), "broker", m.Broker, "answer", v.what)
			}
		}
		put(false, "broker_unknown_callers_total", "Questions of callers that are no broker of the configuration.", float64(unknown))
	}
	return list
}

// counted is one of several counts of the same kind.
type counted struct {
	what string
	n    int64
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// frontSamples is what a front of MQTT has counted.
func frontSamples(name string, m mqtt.Metrics) (list []api.Sample) {
	list = append(list, api.Sample{Name: "mqtt_open", Help: "Connections, with those that have not been let in.", Gauge: true, Value: float64(m.Open), Labels: []string{"listener", name}})
	put := func(name2, help, label string, values map[string]uint64) {
		for _, what := range slices.Sorted(maps.Keys(values)) {
			list = append(list, api.Sample{Name: name2 + "_total", Help: help, Value: float64(values[what]), Labels: []string{"listener", name, label, what}})
		}
	}
	put("mqtt_received", "Packets by their type.", "type", m.Received)
	put("mqtt_refused", "CONNECTs that were refused, by the reason.", "reason", m.Refused)
	put("mqtt_faults", "Connections that ended by a fault of the client's, by the reason.", "reason", m.Faults)
	put("mqtt_ended", "Connections that ended, by why.", "reason", m.Ended)
	put("mqtt_limited", "What went over a limit.", "what", map[string]uint64{"denied": m.Denied, "unpublished": m.Unpublished, "dropped": m.Dropped, "too_large": m.TooLarge, "paused": m.Paused,
		"dripped": m.Dripped, "exceeded": m.Exceeded, "panics": m.Panics, "origins": m.Origins})
	return list
}
