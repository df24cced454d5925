package mqtt

import (
	"testing"

	"mooring/internal/base/errs"
	"mooring/internal/core/message"
	"mooring/wire/mqtt"
)

// Each kind has a code in each packet that the server may say there.
func TestEveryKindHasCodes(t *testing.T) {
	for _, kind := range errs.Kinds() {
		codes := codesOf(kind)
		for _, row := range []struct {
			packet mqtt.Type
			code   mqtt.Reason
		}{
			{mqtt.CONNACK, codes.connack}, {mqtt.PUBACK, codes.puback}, {mqtt.PUBREC, codes.puback}, {mqtt.SUBACK, codes.suback}, {mqtt.UNSUBACK, codes.unsuback},
			{mqtt.DISCONNECT, codes.disconnect},
		} {
			// The one that does not fail is the answer to who unsubscribes from what he had not subscribed to.
			if failed := row.code.Failed() || row.code == mqtt.NoSubscriptionExisted; !failed || !row.code.Legal(row.packet, mqtt.Server) {
				t.Errorf("%s is said as %s in %s, which is no refusal or not allowed there", kind, row.code, row.packet)
			}
		}
		if kind != errs.Internal && codes == codesOf(errs.Internal) {
			t.Errorf("%s has no codes of its own", kind)
		}
	}
}

// Each reason of core has a name and a code that may be said, and reasons that are known to be different are not mixed up.
func TestEveryReasonHasACode(t *testing.T) {
	if n := int(message.ReasonFabric) + 1; len(ended) != n {
		t.Fatalf("there are %d reasons, the table has %d", n, len(ended))
	}
	names := map[string]bool{}
	for r := message.ReasonFarewell; r <= message.ReasonFabric; r++ {
		e := ended[r]
		if e.name == "" || names[e.name] {
			t.Errorf("reason %d has the name %q, which is none or another's", r, e.name)
		}
		names[e.name] = true
		silent := r == message.ReasonFarewell || r == message.ReasonLost
		if silent != (e.code == mqtt.Success) || !silent && (!e.code.Failed() || !e.code.Legal(mqtt.DISCONNECT, mqtt.Server)) {
			t.Errorf("reason %s is said as %s", e.name, e.code)
		}
	}
}

// What a stranger is told about who he is does not depend on what the registry knows.
func TestStrangersLearnNothing(t *testing.T) {
	for _, kind := range errs.Kinds() {
		want := mqtt.NotAuthorised
		switch kind {
		case errs.Internal:
			want = mqtt.Unspecified
		case errs.Unavailable:
			want = mqtt.ServerUnavailable
		case errs.Limited:
			want = mqtt.QuotaExceeded
		}
		if got := identityCode(errs.New(kind, "x")); got != want {
			t.Errorf("%s: got %s, want %s", kind, got, want)
		}
	}
}
