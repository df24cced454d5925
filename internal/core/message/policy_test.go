package message_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/audit"
	"mooring/internal/core/message"
	"mooring/internal/core/message/policy"
)

// TestSetPolicy: who may, over which version, and what is wrong.
func TestSetPolicy(t *testing.T) {
	w := newWorld(t)
	n := w.node()
	if p, err := n.Policy(t.Context(), auditor); err != nil || p.Version != 0 || p.Text != standard || p.At != 0 {
		t.Errorf("Policy = %+v, %v; want the standard one", p, err)
	}
	for _, row := range []struct {
		name, text string
		role       string
		seen       int64
		kind       errs.Kind
		ok         bool
	}{
		{"an auditor", standard, "auditor", 0, errs.Denied, false},
		{"a mistake", "group x {", "operator", 0, errs.Invalid, false},
		{"no group", "# nothing yet\n", "operator", 0, errs.Invalid, false},
		{"a version that is not there", standard, "operator", 7, errs.Conflict, false},
		{"the first", standard, "operator", 0, 0, true},
		{"the first again", standard, "operator", 0, errs.Conflict, false},
		{"the second", standard + "\n# more\n", "operator", 1, 0, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			actor := operator
			if row.role == "auditor" {
				actor = auditor
			}
			p, err := n.SetPolicy(t.Context(), actor, row.text, row.seen)
			if row.ok && (err != nil || p.Version != row.seen+1) || !row.ok && !errs.Is(err, row.kind) {
				t.Errorf("SetPolicy = %+v, %v", p, err)
			}
		})
	}
	if _, err := n.SetPolicyFrom(t.Context(), operator, "fleet.policy", "group x {\n", 2); !errs.Is(err, errs.Invalid) || !strings.HasPrefix(errs.Public(err), "fleet.policy:") {
		t.Errorf("a mistake in a file: %v, want it told under the file's name", err)
	}
	if p, err := n.Policy(t.Context(), auditor); err != nil || p.Version != 2 || p.By != operator.String() || p.At != w.now().Unix() {
		t.Errorf("Policy = %+v, %v", p, err)
	}
	if _, err := n.Policy(t.Context(), nobody); !errs.Is(err, errs.Denied) {
		t.Errorf("Policy for nobody: %v, want Denied", err)
	}
	var done int
	for _, e := range w.entries("message.policy") {
		if e.Refused == "" {
			done++
		}
	}
	if done != 2 {
		t.Errorf("%d entries, want 2", done)
	}
}

// TestPolicyHoldsForLiveConnections: on the node where it is set at once, and on the others soon; nobody has to connect again.
func TestPolicyHoldsForLiveConnections(t *testing.T) {
	w := newWorld(t)
	n, other := w.node(), w.node()
	w.add("dev-1")
	w.add("dev-2")
	w.add("multi", tag("several", "yes"))
	w.add("back", service)
	here, there := n.connect("dev-1", window(1)), other.connect("dev-2")
	gone := n.connect("multi", client("multi~x"))
	for _, p := range []*peer{here, there} {
		p.subscribe("v1/group/g1/notice", "v1/"+p.name+"/cmd/+")
	}
	back := n.connect("back")
	back.says("v1/group/g1/notice", "on its way", 1)
	first := here.next()
	there.hears("on its way")
	back.says("v1/group/g1/notice", "waits for room", 1)
	there.hears("waits for room")
	text := strings.Replace(standard, "allow subscribe v1/group/${group}/notice", "", 1)
	text = strings.Replace(text, "allow publish v1/${thing}/telemetry/# max_qos 2", "allow publish v1/${thing}/telemetry/# max_qos 0", 1)
	text = strings.Replace(text, "connections 3", "connections 1", 1)
	_, err := n.SetPolicy(t.Context(), operator, text, 0)
	must(t, err)
	if err := here.publish(say("v1/dev-1/telemetry/x", "x", 1)); !errs.Is(err, errs.Denied) {
		t.Errorf("publishing what was allowed before: %v, want Denied", err)
	}
	here.ack(first)
	back.says("v1/group/g1/notice", "later", 1)
	here.silent(back, "v1/dev-1/cmd/a")
	if got := here.lost; !slices.Equal(got, []string{"v1/group/g1/notice"}) {
		t.Errorf("withdrawn: %q", got)
	}
	if r := gone.reason(); r != message.ReasonPolicy {
		t.Errorf("who may not be connected under this identifier any more was closed for %d, want the policy", r)
	}
	if here.reason() != 0 {
		t.Error("a connection that may stay was closed")
	}
	until(t, "the other node follows", func() bool {
		there.mu.Lock()
		defer there.mu.Unlock()
		return len(there.lost) == 1
	})
	if err := there.publish(say("v1/dev-2/telemetry/x", "x", 1)); !errs.Is(err, errs.Denied) {
		t.Errorf("publishing on the other node: %v, want Denied", err)
	}
}

// TestChanged: what the registry says of a thing changes under a live connection.
func TestChanged(t *testing.T) {
	w := newWorld(t)
	n, other := w.node(), w.node()
	w.add("dev-1")
	w.add("back", service)
	p := other.connect("dev-1")
	p.subscribe("v1/group/g1/notice")
	w.add("dev-1", func(s *policy.Subject) { s.Group = "g2" })
	must(t, n.Changed(t.Context(), idOf("dev-1")))
	until(t, "the subscription is withdrawn", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return slices.Equal(p.lost, []string{"v1/group/g1/notice"})
	})
	p.subscribe("v1/group/g2/notice")
	n.connect("back").says("v1/group/g2/notice", "for g2", 1)
	p.hears("for g2")
}

// TestChecker: a verification of the record names a policy that is not what was recorded.
func TestChecker(t *testing.T) {
	for _, row := range []struct{ name, sql, want string }{
		{"untouched", ``, ""},
		{"the text", `UPDATE message_policy SET text = text || ' ' WHERE version = 1`, "version 1 is not what the record says"},
		{"who", `UPDATE message_policy SET who = 'operator:bb' WHERE version = 2`, "version 2 is not what the record says"},
		{"when", `UPDATE message_policy SET at = at + 1 WHERE version = 2`, "version 2 is not what the record says"},
		{"which", `UPDATE message_policy SET version = 3 WHERE version = 2`, "version 2 is missing"},
		{"one is gone", `DELETE FROM message_policy WHERE version = 2`, "version 2 is missing"},
		{"one that nobody set", `INSERT INTO message_policy (cell, version, text, who, at) VALUES (0, 9, 'x', 'y', 1)`, "version 9 is not what the record says"},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			n := w.node()
			for i := range 2 {
				_, err := n.SetPolicy(t.Context(), operator, standard, int64(i))
				must(t, err)
			}
			n.stop()
			if row.sql != "" {
				must(t, w.db.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
					_, err := tx.Exec(ctx, row.sql)
					return err
				}))
			}
			must(t, w.log.Sequence(t.Context()))
			found, err := w.findings(n)
			must(t, err)
			if row.want == "" && found != "" || !strings.Contains(found, row.want) {
				t.Errorf("found %q, want %q", found, row.want)
			}
		})
	}
}

func (w *world) findings(n *node) (text string, err error) {
	report, err := w.log.Verify(w.t.Context(), audit.VerifyOptions{Checkers: []audit.Checker{n.Checker()}})
	for _, f := range report.Findings {
		text += f.String() + "\n"
	}
	return text, err
}
