package message_test

import (
	"strings"
	"testing"

	"mooring/internal/core/message"
)

// deafLink is a front whose peer cannot be told that a subscription is over, as with MQTT.
type deafLink struct{ message.Link }

func untold(a *message.Attach) { a.Link = deafLink{a.Link} }

// TestSubscriptionsComeBack: what the policy or the registry takes away, and gives back, the peer need not ask for again.
func TestSubscriptionsComeBack(t *testing.T) {
	const notice = "v1/group/g1/notice"
	without := strings.Replace(standard, "allow subscribe v1/group/${group}/notice", "", 1)
	version := func(w *world, n *node) int64 {
		p, err := n.Policy(w.t.Context(), operator)
		must(w.t, err)
		return p.Version
	}
	set := func(w *world, n *node, text string) {
		w.t.Helper()
		_, err := n.SetPolicy(w.t.Context(), operator, text, version(w, n))
		must(w.t, err)
	}
	begin := func(t *testing.T) (*world, *node, *peer) {
		w := newWorld(t)
		n := w.node()
		w.add("dev-1")
		w.add("gate", gateway)
		w.add("child", tag(message.GatewayTag, "gate"))
		w.add("back", service)
		return w, n, n.connect("back")
	}
	t.Run("a policy that is set back", func(t *testing.T) {
		w, n, back := begin(t)
		p := n.connect("dev-1", untold, persistent)
		p.subscribe(notice, "v1/dev-1/cmd/+")
		set(w, n, without)
		back.says(notice, "while it is not allowed", 1)
		must(t, back.publish(retained(notice, "what is retained meanwhile")))
		p.silent(back, "v1/dev-1/cmd/a")
		set(w, n, standard)
		p.hears("what is retained meanwhile")
		back.says(notice, "afterwards", 1)
		p.hears("afterwards")
		if m := n.Metrics(); m.SubscriptionsLost != 1 || m.SubscriptionsRegained != 1 {
			t.Errorf("%d subscriptions were lost and %d came back, want 1 and 1", m.SubscriptionsLost, m.SubscriptionsRegained)
		}
	})
	t.Run("a child that leaves and comes back", func(t *testing.T) {
		w, n, back := begin(t)
		g := n.connect("gate", untold)
		g.subscribe("v1/gate/cmd/+", "v1/child/cmd/+")
		w.deny("child", true)
		_, err := n.Cut(t.Context(), message.Selector{Device: idOf("child"), Thing: "child"}, "suspended")
		must(t, err)
		back.says("v1/child/cmd/a", "while it is suspended", 1)
		g.silent(back, "v1/gate/cmd/a")
		w.deny("child", false)
		must(t, n.Changed(t.Context(), idOf("child")))
		back.says("v1/child/cmd/a", "afterwards", 1)
		g.hears("afterwards")
	})
	t.Run("while it is away", func(t *testing.T) {
		w, n, back := begin(t)
		other := w.node()
		p := n.connect("dev-1", untold, persistent)
		p.subscribe(notice)
		p.leave(message.ReasonLost)
		set(w, n, without)
		p = n.connect("dev-1", untold, persistent) // that it was lost is stored
		p.leave(message.ReasonLost)
		back.says(notice, "while it is not allowed", 1)
		set(w, n, standard)
		until(t, "the other node follows", func() bool { return version(w, other) == 2 })
		p = other.connect("dev-1", untold, persistent)
		if !p.got.Present {
			t.Error("there is no session")
		}
		until(t, "it is granted again", func() bool { return other.Metrics().SubscriptionsRegained+n.Metrics().SubscriptionsRegained > 0 })
		back.says(notice, "afterwards", 1)
		p.hears("afterwards")
	})
	t.Run("and the gap stays when it connects again before it has taken what came earlier", func(t *testing.T) {
		w, n, back := begin(t)
		g := n.connect("gate", untold, persistent, window(1))
		g.subscribe("v1/gate/cmd/+", "v1/child/cmd/+")
		back.says("v1/gate/cmd/a", "not acknowledged", 1)
		back.says("v1/gate/cmd/a", "waits behind it", 1) // so that the session's queue begins here
		g.next()
		w.deny("child", true)
		_, err := n.Cut(t.Context(), message.Selector{Device: idOf("child"), Thing: "child"}, "suspended")
		must(t, err)
		until(t, "it is lost", func() bool { return n.Metrics().SubscriptionsLost == 1 })
		back.says("v1/child/cmd/a", "while it is suspended", 1)
		w.deny("child", false)
		must(t, n.Changed(t.Context(), idOf("child")))
		until(t, "it is regained", func() bool { return n.Metrics().SubscriptionsRegained == 1 })
		back.says("v1/child/cmd/a", "afterwards", 1)
		for range 2 { // and when it has connected twice
			g.leave(message.ReasonLost)
			g = n.connect("gate", untold, persistent, window(1))
			g.next()
		}
		g.leave(message.ReasonLost)
		g = n.connect("gate", untold, persistent)
		g.hears("not acknowledged", "waits behind it", "afterwards")
	})
	t.Run("with what is retained, by connecting", func(t *testing.T) {
		w, n, back := begin(t)
		p := n.connect("dev-1", untold, persistent)
		p.subscribe(notice, "v1/dev-1/cmd/+")
		set(w, n, without)
		must(t, back.publish(retained(notice, "what is retained meanwhile")))
		p.leave(message.ReasonLost)
		set(w, n, standard)
		p = n.connect("dev-1", untold, persistent)
		p.hears("what is retained meanwhile")
		p.silent(back, "v1/dev-1/cmd/a")
	})
	t.Run("nothing was lost for a session that was away all the time", func(t *testing.T) {
		w, n, back := begin(t)
		p := n.connect("dev-1", untold, persistent)
		p.subscribe("v1/dev-1/cmd/+")
		p.leave(message.ReasonLost)
		set(w, n, strings.Replace(standard, "allow subscribe v1/${thing}/cmd/+ max_qos 2", "", 1))
		back.says("v1/dev-1/cmd/a", "rights count when it is delivered", 1)
		set(w, n, standard)
		p = n.connect("dev-1", untold, persistent)
		p.hears("rights count when it is delivered")
		if lost := n.Metrics().SubscriptionsLost; lost != 0 {
			t.Errorf("%d subscriptions were lost, want none", lost)
		}
	})
	t.Run("not one that the peer ended meanwhile", func(t *testing.T) {
		w, n, back := begin(t)
		p := n.connect("dev-1", untold)
		p.subscribe(notice, "v1/dev-1/cmd/+")
		set(w, n, without)
		if errs := p.conn.Unsubscribe(t.Context(), []string{notice}); errs[0] != nil {
			t.Errorf("ending a subscription that was lost: %v", errs[0])
		}
		set(w, n, standard)
		back.says(notice, "nobody asked for it", 1)
		p.silent(back, "v1/dev-1/cmd/a")
	})
	t.Run("not one that the peer asked for again, and was refused", func(t *testing.T) {
		w, n, back := begin(t)
		p := n.connect("dev-1", untold)
		p.subscribe(notice, "v1/dev-1/cmd/+")
		set(w, n, without)
		if g := p.conn.Subscribe(t.Context(), []message.Subscription{{Filter: notice}}); g[0].Err == nil {
			t.Error("it is granted")
		}
		set(w, n, standard)
		back.says(notice, "it was told no", 1)
		p.silent(back, "v1/dev-1/cmd/a")
	})
	t.Run("not to who was told that it is over", func(t *testing.T) {
		w, n, back := begin(t)
		p := n.connect("dev-1")
		p.subscribe(notice, "v1/dev-1/cmd/+")
		set(w, n, without)
		set(w, n, standard)
		back.says(notice, "it would have to ask", 1)
		p.silent(back, "v1/dev-1/cmd/a")
	})
}
