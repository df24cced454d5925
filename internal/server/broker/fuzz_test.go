package broker_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/message/policy"
	"mooring/internal/server/broker"
)

// nobody is an Authority that knows no one, and fails the test when it is asked for rights.
type nobody struct{ t *testing.T }

func (nobody) ByName(context.Context, string) (policy.Subject, int64, error) {
	return policy.Subject{}, 0, errs.New(errs.NotFound, "nobody")
}

func (nobody) ByCertificate(context.Context, []byte) (policy.Subject, int64, error) {
	return policy.Subject{}, 0, errs.New(errs.NotFound, "nobody")
}

func (n nobody) Rights(policy.Subject) (*policy.Rights, error) {
	n.t.Error("asked for the rights of somebody who is not known")
	return nil, errs.New(errs.NotFound, "nobody")
}

// FuzzQuestions: whatever is asked, where nobody is known the answer is no, in the dialect's words, and none of it is a failure of ours.
func FuzzQuestions(f *testing.F) {
	questions := []struct{ path, no string }{
		{"emqx/authn", emqxNo}, {"emqx/authz", emqxNo}, {"goauth/user", goauthNo}, {"goauth/superuser", goauthNo}, {"goauth/acl", goauthNo}, {"rmqtt/auth", rmqttNo}, {"rmqtt/acl", rmqttNo},
		{"vernemq/auth_on_register", vernemqNo}, {"vernemq/auth_on_publish_m5", vernemqNo}, {"vernemq/auth_on_subscribe", vernemqNo}, {"vernemq/auth_on_subscribe_m5", vernemqNo},
	}
	for n, body := range []string{
		`{"clientid":"dev-1","cn":"dev-1","cert":"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}`, `{"cn":"x","action":"publish","topic":"t","qos":"1","retain":"true"}`, `username=a&clientid=b&acc=2&topic=%2B`,
		`{"username":"a","acc":4,"topic":"#"}`, `{"mountpoint":"","client_id":"x","username":null,"topics":[{"topic":"a","qos":{"qos":1}},{"topic":"b","qos":[1,{}]}]}`, `{"qos":1e999}`, `{`, ``,
	} {
		f.Add(byte(n), body)
	}
	f.Fuzz(func(t *testing.T, which byte, body string) {
		s, err := broker.New(broker.Deps{Authority: nobody{t}, Brokers: options(), Now: func() time.Time { return now }, Caller: func(context.Context, [][]byte) (string, error) { return "", nil }})
		if err != nil {
			t.Fatal(err)
		}
		q := questions[int(which)%len(questions)]
		if got, header := ask(s, request(q.path, body)); got != q.no || header.Get("X-Superuser") != "" || header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s asked %q: got %s (%v), want %s", q.path, body, got, http.Header(header), q.no)
		}
		brokers, _ := s.Metrics()
		for _, b := range brokers {
			if b.Allowed != 0 || b.Failed != 0 {
				t.Errorf("%s asked %q: %+v", q.path, body, b)
			}
		}
	})
}
