package policy

import "testing"

func TestExplain(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		subject Subject
		ask     func(r *Rights) Explanation
		want    string
	}{
		{"allowed", meter("dev-1"), func(r *Rights) Explanation { return r.ExplainPublish("v1/acme/dev-1/state", 1, true, 1) },
			`dev-1, of the group meters, may publish to "v1/acme/dev-1/state" by the rule in fleet.policy:32.
    fleet.policy:31: allow publish v1/${tenant}/${thing}/telemetry/# max_qos 1 size 16KiB: level 4 is "state", and it has "telemetry" there
  * fleet.policy:32: allow publish v1/${tenant}/${thing}/state retain yes
    fleet.policy:33: allow publish v1/${tenant}/${thing}/telemetry/big max_qos 2 size 64KiB: level 4 is "state", and it has "telemetry" there
`},
		{"denied", meter("dev-1"), func(r *Rights) Explanation { return r.ExplainPublish("v1/acme/dev-2/telemetry/x", 1, false, 1) },
			`dev-1, of the group meters, may not publish to "v1/acme/dev-2/telemetry/x": no rule fits.
    fleet.policy:31: allow publish v1/${tenant}/${thing}/telemetry/# max_qos 1 size 16KiB: level 3 is "dev-2", and it has "dev-1" for ${thing} there
    fleet.policy:32: allow publish v1/${tenant}/${thing}/state retain yes: level 3 is "dev-2", and it has "dev-1" for ${thing} there
    fleet.policy:33: allow publish v1/${tenant}/${thing}/telemetry/big max_qos 2 size 64KiB: level 3 is "dev-2", and it has "dev-1" for ${thing} there
`},
		{"an option is lacking", meter("dev-1"), func(r *Rights) Explanation { return r.ExplainPublish("v1/acme/dev-1/telemetry/big", 2, true, 1) },
			`dev-1, of the group meters, may not publish to "v1/acme/dev-1/telemetry/big": the rule in fleet.policy:33 would fit, but it does not say retain yes.
    fleet.policy:31: allow publish v1/${tenant}/${thing}/telemetry/# max_qos 1 size 16KiB: it allows QoS 1 at most
    fleet.policy:32: allow publish v1/${tenant}/${thing}/state retain yes: level 4 is "telemetry", and it has "state" there
    fleet.policy:33: allow publish v1/${tenant}/${thing}/telemetry/big max_qos 2 size 64KiB: it does not say retain yes
`},
		{"the level above a #", meter("dev-1"), func(r *Rights) Explanation { return r.ExplainPublish("v1/acme/dev-1/telemetry", 1, false, 1) },
			`dev-1, of the group meters, may not publish to "v1/acme/dev-1/telemetry": no rule fits.
    fleet.policy:31: allow publish v1/${tenant}/${thing}/telemetry/# max_qos 1 size 16KiB: it is for what lies below "v1/acme/dev-1/telemetry", not for "v1/acme/dev-1/telemetry" itself
    fleet.policy:32: allow publish v1/${tenant}/${thing}/state retain yes: level 4 is "telemetry", and it has "state" there
    fleet.policy:33: allow publish v1/${tenant}/${thing}/telemetry/big max_qos 2 size 64KiB: "v1/acme/dev-1/telemetry" ends after level 4, and it has more
`},
		{"a subscription", meter("dev-1"), func(r *Rights) Explanation { return r.ExplainSubscribe("v1/acme/dev-1/cmd/#", 1, false) },
			`dev-1, of the group meters, may subscribe to "v1/acme/dev-1/cmd/#" by the rule in fleet.policy:35. QoS 0 is granted. What is published to "v1/acme/dev-1/cmd" itself is not delivered: a rule for v1/acme/dev-1/cmd would allow it.
    fleet.policy:34: allow subscribe v1/${tenant}/${thing}/cmd/+: level 5 is "#", and it has any one level there
  * fleet.policy:35: allow subscribe v1/${tenant}/${thing}/cmd/# max_qos 0
    fleet.policy:36: allow subscribe v1/${tenant}/site/${attr.site}/notice: level 3 is "dev-1", and it has "site" there
`},
		{"two rules would do", meter("dev-1"), func(r *Rights) Explanation { return r.ExplainReceive("v1/acme/dev-1/cmd/x") },
			`dev-1, of the group meters, may receive "v1/acme/dev-1/cmd/x" by the rule in fleet.policy:34.
  * fleet.policy:34: allow subscribe v1/${tenant}/${thing}/cmd/+
    fleet.policy:35: allow subscribe v1/${tenant}/${thing}/cmd/# max_qos 0: would do, too
    fleet.policy:36: allow subscribe v1/${tenant}/site/${attr.site}/notice: level 3 is "dev-1", and it has "site" there
`},
		{"a filter that is too wide", meter("dev-1"), func(r *Rights) Explanation { return r.ExplainSubscribe("v1/+/dev-1/cmd/+", 1, false) },
			`dev-1, of the group meters, may not subscribe to "v1/+/dev-1/cmd/+": no rule fits.
    fleet.policy:34: allow subscribe v1/${tenant}/${thing}/cmd/+: level 2 is "+", and it has "acme" for ${tenant} there
    fleet.policy:35: allow subscribe v1/${tenant}/${thing}/cmd/# max_qos 0: level 2 is "+", and it has "acme" for ${tenant} there
    fleet.policy:36: allow subscribe v1/${tenant}/site/${attr.site}/notice: level 2 is "+", and it has "acme" for ${tenant} there
`},
		{"a child", gateway(), func(r *Rights) Explanation { return r.ExplainWill("v1/acme/c1/state", 1, false, 1) },
			`gw, of the group gateways, may leave a will for "v1/acme/c1/state" for its child c1 by the rule in fleet.policy:25.
    fleet.policy:37: allow will v1/${tenant}/${thing}/state retain yes size 64: level 3 is "c1", and it has "gw" for ${thing} there
  * fleet.policy:25: allow will v1/${tenant}/${child}/state
`},
		{"not a child", gateway(), func(r *Rights) Explanation { return r.ExplainWill("v1/acme/c2/state", 1, false, 1) },
			`gw, of the group gateways, may not leave a will for "v1/acme/c2/state": the rule in fleet.policy:25 would fit, but the registry lists no such child, or its name is a fixed word there.
    fleet.policy:37: allow will v1/${tenant}/${thing}/state retain yes size 64: level 3 is "c2", and it has "gw" for ${thing} there
    fleet.policy:25: allow will v1/${tenant}/${child}/state: the registry lists no such child, or its name is a fixed word there
`},
		{"no rule of the kind", backend(), func(r *Rights) Explanation { return r.ExplainWill("x", 0, false, 1) },
			`ingest, of the group backends, may not leave a will for "x": the group has no rule of this kind.
`},
		{"no topic", backend(), func(r *Rights) Explanation { return r.ExplainPublish("v1/+", 0, false, 1) },
			`ingest, of the group backends, may not publish to "v1/+": that is no topic or filter.
    fleet.policy:7: allow publish v1/${tenant}/+/cmd/+: it was not asked
`},
		{"more levels than the rule", backend(), func(r *Rights) Explanation { return r.ExplainPublish("v1/acme/a/cmd/b/c", 0, false, 1) },
			`ingest, of the group backends, may not publish to "v1/acme/a/cmd/b/c": no rule fits.
    fleet.policy:7: allow publish v1/${tenant}/+/cmd/+: it ends after level 5, and "v1/acme/a/cmd/b/c" has more
`},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			e := row.ask(compiled(t, fleet, row.subject))
			if got := e.String(); got != row.want {
				t.Errorf("got\n%s\nwant\n%s", got, row.want)
			}
			if e.Verdict.OK() != hasDecider(e) {
				t.Errorf("the verdict is %+v, and a rule decides: %v", e.Verdict, hasDecider(e))
			}
		})
	}
}

func hasDecider(e Explanation) bool {
	for _, n := range e.Rules {
		if n.Decides {
			return true
		}
	}
	return false
}

func TestExplainGroup(t *testing.T) {
	t.Parallel()
	s, err := Parse("fleet.policy", []byte(fleet))
	if err != nil {
		t.Fatal(err)
	}
	var got string
	for _, n := range s.ExplainGroup(Subject{Thing: "dev-1", Kind: Device, Profile: "talker", Tags: map[string]string{"mode": "loud"}}) {
		got += n.String() + "\n"
	}
	want := `    fleet.policy:2: group backends: it has no role, and role=operator is asked for; its profile is "talker", and profile=backend is asked for
    fleet.policy:10: group quiet: its attr.mode is "loud", and attr.mode=quiet is asked for
    fleet.policy:18: group gateways: its kind is "device", and kind=gateway is asked for
    fleet.policy:28: group meters: its profile is "talker", and profile=meter is asked for
  * fleet.policy:40: group talkers
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
