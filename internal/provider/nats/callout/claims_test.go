package callout

import (
	"slices"
	"testing"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
)

// TestNobodyReachesTheServersOwnSubjects: whatever the policy allows, no topic that it names is one of NATS's own.
func TestNobodyReachesTheServersOwnSubjects(t *testing.T) {
	u, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := u.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	allowed := func(p jwt.Permission, subject string) bool {
		in := func(list []string) bool {
			return slices.ContainsFunc(list, func(s string) bool { return server.SubjectsCollide(s, subject) })
		}
		return in(p.Allow) && !in(p.Deny)
	}
	for _, filter := range []string{"#", "+/#", "+/API/STREAM/DELETE/ORDERS", "+/status", "$JS/API/#", "v1/#"} {
		t.Run(filter, func(t *testing.T) {
			c, err := new(Responder).claims(public, Permit{Name: "x", Publish: []string{filter}, Subscribe: []string{filter}}, false)
			if err != nil {
				t.Fatal(err)
			}
			for _, subject := range []string{"$JS.API.STREAM.DELETE.ORDERS", "$JS.API.INFO", "$MQTT.msgs.x", "$MQTT.sub.x", "$SYS.status", "$SYS.REQ.USER.AUTH", "$KV.b.k", "$O.b.C.x", "$SRV.PING"} {
				if allowed(c.Pub, subject) || allowed(c.Sub, subject) {
					t.Errorf("%s may be published to or heard: %+v", subject, c.Permissions)
				}
			}
		})
	}
	c, err := new(Responder).claims(public, Permit{Name: "x", Publish: []string{"#"}, Subscribe: []string{"v1/x/#"}}, true)
	if err != nil {
		t.Fatal(err)
	}
	if !allowed(c.Pub, "v1.x.up") || !allowed(c.Sub, "v1.x.cmd.go") || allowed(c.Sub, "v1.y.cmd.go") {
		t.Errorf("what is allowed is not what was: %+v", c.Permissions)
	}
}
