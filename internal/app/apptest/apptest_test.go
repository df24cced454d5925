package apptest

import (
	"net/http"
	"testing"
	"time"

	agent "mooring/agent/est"
	"mooring/wire/der"
)

func TestStart(t *testing.T) {
	p := Start(t, nil, Variant("device", "approved", "approval: required"))
	if _, err := p.CA.Profile("approved"); err != nil {
		t.Error(err)
	}
	_, token := p.Device(t, "meter-1", "device")
	key := Key(t)
	call := Call{Path: "/.well-known/est/simpleenroll", Body: Body(CSR(t, key, der.RequestSpec{})), User: "meter-1", Secret: token}
	cert := p.Send(t, call).Certificate(t)
	if !key.PublicKey.Equal(cert.PublicKey) {
		t.Error("the certificate has another key than the request")
	}
	p.Restart(t)
	pair := p.Pair(t, key, cert.Raw)
	session := p.Session(t, "", agent.Credential{Certificate: &pair})
	order, err := agent.OrderAgain(cert, Key(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := session.Renew(t.Context(), order); err != nil {
		t.Error(err)
	}
	if r := p.Send(t, Call{Path: "/.well-known/est/cacerts"}); r.StatusCode != http.StatusOK {
		t.Errorf("cacerts: got %s, want 200", r)
	}
	p.Clock.Move(48 * time.Hour)
	p.Clock.Move(-48 * time.Hour)
	if _, other := p.Enrolled(t, "meter-2", "device"); other.Leaf.Subject.CommonName != "meter-2" {
		t.Errorf("enrolled as %q, want meter-2", other.Leaf.Subject.CommonName)
	}
	if n := len(p.Record(t)); n < 10 {
		t.Errorf("the record has %d entries, want at least 10", n)
	}
	if len(p.OperatorCert(t).Certificate) == 0 {
		t.Error("the operator has no certificate")
	}
}
