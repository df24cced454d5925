package broker_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
	"mooring/internal/core/message/policy"
	"mooring/internal/server/broker"
	"mooring/internal/server/gate"
)

var now = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

const (
	secret  = "correct-horse-battery-staple"
	ends    = 1827143027 // of good certificates
	answers = `group devices {
		match kind=device
		connections 3
		allow publish   v1/${thing}/telemetry/# max_qos 1
		allow publish   v1/${thing}/state retain yes
		allow subscribe v1/${thing}/cmd/+
		allow subscribe v1/${thing}/file/#
	}
	group backends { match role=operator; principal service; allow subscribe "#" shared yes; allow publish "v1/+/cmd/#" }`
)

// registry is an Authority: dev-1 and dev-2 are good, gone is revoked, late has a certificate that has ended, and the store can be away.
type registry struct {
	set   *policy.Set
	certs map[string]string // certificate → thing
	away  error
	panic bool
}

func newRegistry(t *testing.T) *registry {
	t.Helper()
	set, err := policy.Parse("test", []byte(answers))
	if err != nil {
		t.Fatal(err)
	}
	return &registry{set: set, certs: map[string]string{"certificate of dev-1": "dev-1"}}
}

func (r *registry) ByName(_ context.Context, thing string) (policy.Subject, int64, error) {
	if r.panic {
		panic("a defect")
	}
	if r.away != nil {
		return policy.Subject{}, 0, r.away
	}
	switch thing {
	case "dev-1", "dev-2":
		return policy.Subject{Thing: thing, Kind: policy.Device}, ends, nil
	case "backend":
		return policy.Subject{Thing: thing, Kind: policy.Service, Role: "operator"}, ends, nil
	case "late":
		return policy.Subject{Thing: thing, Kind: policy.Device}, now.Unix(), nil
	case "gone":
		return policy.Subject{}, 0, errs.New(errs.Denied, "it was revoked")
	case "undefined": // somebody registered a thing of this name
		return policy.Subject{Thing: thing, Kind: policy.Device}, ends, nil
	}
	return policy.Subject{}, 0, errs.New(errs.NotFound, "there is no such thing")
}

func (r *registry) ByCertificate(ctx context.Context, der []byte) (policy.Subject, int64, error) {
	thing, ok := r.certs[string(der)]
	if !ok {
		return policy.Subject{}, 0, errs.New(errs.Denied, "it was not issued here")
	}
	return r.ByName(ctx, thing)
}

func (r *registry) Rights(s policy.Subject) (*policy.Rights, error) { return r.set.Compile(s) }

// options are brokers of each dialect, with the same secret, which is no mistake: the dialect of the address counts.
func options() []broker.Options {
	sum := sha256.Sum256([]byte(secret))
	var all []broker.Options
	for _, d := range []broker.Dialect{broker.EMQX, broker.GoAuth, broker.RMQTT, broker.VerneMQ} {
		all = append(all, broker.Options{Name: string(d), Dialect: d, Secret: sum, Certified: true, Cache: 30 * time.Second})
	}
	return all
}

func newServer(t *testing.T, r *registry, change func([]broker.Options)) *broker.Server {
	t.Helper()
	all := options()
	if change != nil {
		change(all)
	}
	s, err := broker.New(broker.Deps{Authority: r, Brokers: all, Now: func() time.Time { return now },
		Caller: func(context.Context, [][]byte) (string, error) { return "", errs.New(errs.Denied, "unknown") }})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// request is one request as a broker sends it: a body that begins with "{" is JSON, any other a form.
func request(path, body string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/hooks/v1/"+path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+secret)
	kind := "application/x-www-form-urlencoded"
	if strings.HasPrefix(body, "{") {
		kind = "application/json"
	}
	r.Header.Set("Content-Type", kind)
	if hook, ok := strings.CutPrefix(path, "vernemq/"); ok {
		r.Header.Set("vernemq-hook", hook)
	}
	return r
}

// ask sends it and returns status and body in one line.
func ask(s http.Handler, r *http.Request) (line string, header http.Header) {
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return fmt.Sprintf("%d %s", w.Code, w.Body), w.Header()
}

// The noes of the dialects.
const (
	emqxNo    = `200 {"result":"deny"}`
	emqxYes   = `200 {"result":"allow"}`
	goauthNo  = `403 denied`
	rmqttNo   = `200 deny`
	vernemqNo = `200 {"result":{"error":"not_allowed"}}`
	vernemqOK = `200 {"result":"ok"}`
)

// TestQuestions has the requests of each dialect as its documents show them, and the answers.
func TestQuestions(t *testing.T) {
	const (
		login   = `200 {"result":"allow","is_superuser":false,"expire_at":1827143027}`
		dev1    = `"clientid":"dev-1","username":"u","cn":"dev-1"`
		verne   = `"mountpoint":"","client_id":"dev-1","username":"dev-1"`
		options = `{"qos":1,"rap":false,"no_local":false,"retain_handling":"send_retain"}`
	)
	pemOf := func(der string) string {
		text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(der)}))
		return strings.ReplaceAll(text, "\n", `\n`)
	}
	for _, row := range []struct{ name, path, body, want string }{
		// EMQX
		{"emqx: connect", "emqx/authn", `{"clientid":"dev-1","username":"u","cn":"dev-1","subject":"CN=dev-1","peer":"10.0.0.1"}`, login},
		{"emqx: connect under a suffix, which the kick would not name", "emqx/authn", `{"clientid":"dev-1~b","cn":"dev-1"}`, emqxNo},
		{"emqx: connect without an identifier, for which EMQX makes one", "emqx/authn", `{"clientid":"","cn":"dev-1"}`, emqxNo},
		{"emqx: the identifier of another", "emqx/authn", `{"clientid":"dev-2","cn":"dev-1"}`, emqxNo},
		{"emqx: the user name of another counts for nothing", "emqx/authn", `{"clientid":"dev-1","username":"dev-2","cn":"dev-1"}`, login},
		{"emqx: no certificate", "emqx/authn", `{"clientid":"dev-1","username":"dev-1","cn":""}`, emqxNo},
		{"emqx: a certificate that EMQX does not know", "emqx/authn", `{"clientid":"undefined","username":"undefined","cn":"undefined"}`, emqxNo},
		{"emqx: unknown", "emqx/authn", `{"clientid":"x","cn":"x"}`, emqxNo},
		{"emqx: revoked", "emqx/authn", `{"clientid":"gone","cn":"gone"}`, emqxNo},
		{"emqx: ended", "emqx/authn", `{"clientid":"late","cn":"late"}`, emqxNo},
		{"emqx: by certificate", "emqx/authn", `{"clientid":"dev-1","cn":"dev-1","cert":"` + pemOf("certificate of dev-1") + `"}`, login},
		{"emqx: by a revoked certificate of a good name", "emqx/authn", `{"clientid":"dev-1","cn":"dev-1","cert":"` + pemOf("an old one of dev-1") + `"}`, emqxNo},
		{"emqx: by the certificate of another", "emqx/authn", `{"clientid":"dev-2","cn":"dev-2","cert":"` + pemOf("certificate of dev-1") + `"}`, emqxNo},
		{"emqx: by no certificate", "emqx/authn", `{"clientid":"dev-1","cn":"dev-1","cert":"MII"}`, emqxNo},
		{"emqx: no JSON", "emqx/authn", `{"clientid":`, emqxNo},
		{"emqx: another type", "emqx/authn", `{"clientid":7,"cn":"dev-1"}`, emqxNo},
		{"emqx: empty", "emqx/authn", ``, emqxNo},
		{"emqx: publish", "emqx/authz", `{` + dev1 + `,"action":"publish","topic":"v1/dev-1/telemetry/a/b","qos":"1","retain":"false","peerhost":"10.0.0.1"}`, emqxYes},
		{"emqx: publish, numbers as such", "emqx/authz", `{` + dev1 + `,"action":"publish","topic":"v1/dev-1/state","qos":2,"retain":true}`, emqxYes},
		{"emqx: publish elsewhere", "emqx/authz", `{` + dev1 + `,"action":"publish","topic":"v1/dev-2/telemetry/a","qos":1,"retain":false}`, emqxNo},
		{"emqx: publish above", "emqx/authz", `{` + dev1 + `,"action":"publish","topic":"v1/dev-1/telemetry","qos":1,"retain":false}`, emqxNo},
		{"emqx: publish too high", "emqx/authz", `{` + dev1 + `,"action":"publish","topic":"v1/dev-1/telemetry/a","qos":2,"retain":false}`, emqxNo},
		{"emqx: publish retained", "emqx/authz", `{` + dev1 + `,"action":"publish","topic":"v1/dev-1/telemetry/a","qos":1,"retain":true}`, emqxNo},
		{"emqx: publish by QoS 256", "emqx/authz", `{` + dev1 + `,"action":"publish","topic":"v1/dev-1/telemetry/a","qos":256,"retain":false}`, emqxNo},
		{"emqx: subscribe", "emqx/authz", `{` + dev1 + `,"action":"subscribe","topic":"v1/dev-1/cmd/+","qos":"1"}`, emqxYes},
		{"emqx: subscribe to more", "emqx/authz", `{` + dev1 + `,"action":"subscribe","topic":"v1/dev-1/cmd/#","qos":"1"}`, emqxNo},
		{"emqx: subscribe to all", "emqx/authz", `{` + dev1 + `,"action":"subscribe","topic":"#","qos":"1"}`, emqxNo},
		{"emqx: subscribe to #, which holds the topic above", "emqx/authz", `{` + dev1 + `,"action":"subscribe","topic":"v1/dev-1/file/#"}`, emqxNo},
		{"emqx: subscribe shared", "emqx/authz", `{` + dev1 + `,"action":"subscribe","topic":"$share/g/v1/dev-1/cmd/+"}`, emqxNo},
		{"emqx: subscribe shared, a service", "emqx/authz", `{"clientid":"backend","cn":"backend","action":"subscribe","topic":"$share/g/v1/+/telemetry/a"}`, emqxYes},
		{"emqx: another action", "emqx/authz", `{` + dev1 + `,"action":"all","topic":"v1/dev-1/state"}`, emqxNo},
		{"emqx: authz for a foreign identifier", "emqx/authz", `{"clientid":"dev-2","cn":"dev-1","action":"publish","topic":"v1/dev-1/state"}`, emqxNo},
		{"emqx: no such question", "emqx/superuser", `{` + dev1 + `}`, emqxNo},

		// mosquitto-go-auth
		{"goauth: user", "goauth/user", `{"username":"dev-1","password":"","clientid":"dev-1"}`, "200 ok"},
		{"goauth: user, form", "goauth/user", `username=dev-1&password=&clientid=dev-1`, "200 ok"},
		{"goauth: user under a suffix, which is kicked by the name of the user", "goauth/user", `{"username":"dev-1","password":"","clientid":"dev-1~b"}`, "200 ok"},
		{"goauth: user under a foreign identifier", "goauth/user", `{"username":"dev-1","password":"","clientid":"dev-2"}`, goauthNo},
		{"goauth: unknown user", "goauth/user", `{"username":"x","clientid":"x"}`, goauthNo},
		{"goauth: nobody is a superuser", "goauth/superuser", `{"username":"dev-1"}`, goauthNo},
		{"goauth: a service is not either", "goauth/superuser", `username=backend`, goauthNo},
		{"goauth: write", "goauth/acl", `{"username":"dev-1","clientid":"dev-1","topic":"v1/dev-1/telemetry/a","acc":2}`, "200 ok"},
		{"goauth: write, form", "goauth/acl", `username=dev-1&clientid=dev-1&topic=v1%2Fdev-1%2Ftelemetry%2Fa&acc=2`, "200 ok"},
		{"goauth: write elsewhere", "goauth/acl", `{"username":"dev-1","clientid":"dev-1","topic":"v1/dev-2/telemetry/a","acc":2}`, goauthNo},
		{"goauth: read", "goauth/acl", `{"username":"dev-1","clientid":"dev-1","topic":"v1/dev-1/cmd/a","acc":1}`, "200 ok"},
		{"goauth: read elsewhere", "goauth/acl", `{"username":"dev-1","clientid":"dev-1","topic":"v1/dev-2/cmd/a","acc":1}`, goauthNo},
		{"goauth: 1 is to read here, not to subscribe", "goauth/acl", `{"username":"dev-1","clientid":"dev-1","topic":"v1/dev-1/cmd/+","acc":1}`, goauthNo},
		{"goauth: subscribe", "goauth/acl", `{"username":"dev-1","clientid":"dev-1","topic":"v1/dev-1/cmd/+","acc":4}`, "200 ok"},
		{"goauth: subscribe to #, whose deliveries are asked for", "goauth/acl", `{"username":"dev-1","clientid":"dev-1","topic":"v1/dev-1/file/#","acc":4}`, "200 ok"},
		{"goauth: and the one above is not delivered", "goauth/acl", `{"username":"dev-1","clientid":"dev-1","topic":"v1/dev-1/file","acc":1}`, goauthNo},
		{"goauth: subscribe to more", "goauth/acl", `{"username":"dev-1","clientid":"dev-1","topic":"v1/+/cmd/+","acc":4}`, goauthNo},
		{"goauth: read and write, of which one is not allowed", "goauth/acl", `{"username":"dev-1","clientid":"dev-1","topic":"v1/dev-1/telemetry/a","acc":3}`, goauthNo},
		{"goauth: no access", "goauth/acl", `{"username":"dev-1","clientid":"dev-1","topic":"v1/dev-1/telemetry/a","acc":0}`, goauthNo},
		{"goauth: unknown access", "goauth/acl", `{"username":"dev-1","clientid":"dev-1","topic":"v1/dev-1/telemetry/a","acc":8}`, goauthNo},
		{"goauth: access missing", "goauth/acl", `{"username":"dev-1","clientid":"dev-1","topic":"v1/dev-1/telemetry/a"}`, goauthNo},
		{"goauth: access of another type", "goauth/acl", `{"username":"dev-1","clientid":"dev-1","topic":"v1/dev-1/telemetry/a","acc":[2]}`, goauthNo},
		{"goauth: a field twice", "goauth/acl", `username=dev-1&username=dev-2&clientid=dev-1&topic=v1%2Fdev-1%2Ftelemetry%2Fa&acc=2`, goauthNo},

		// RMQTT
		{"rmqtt: auth", "rmqtt/auth", `{"clientid":"dev-1","username":"dev-1","password":""}`, "200 allow"},
		{"rmqtt: auth, form", "rmqtt/auth", `clientid=dev-1&username=dev-1&password=x`, "200 allow"},
		{"rmqtt: unknown", "rmqtt/auth", `clientid=x&username=x`, rmqttNo},
		{"rmqtt: revoked", "rmqtt/auth", `clientid=gone&username=gone`, rmqttNo},
		{"rmqtt: auth under a suffix, which the kick would not name", "rmqtt/auth", `clientid=dev-1~b&username=dev-1`, rmqttNo},
		{"rmqtt: publish under a suffix", "rmqtt/acl", `access=2&username=dev-1&clientid=dev-1~b&topic=v1/dev-1/state`, rmqttNo},
		{"rmqtt: no user name", "rmqtt/auth", `clientid=dev-1&username=`, rmqttNo},
		{"rmqtt: subscribe", "rmqtt/acl", `access=1&username=dev-1&clientid=dev-1&ipaddr=10.0.0.1&topic=v1/dev-1/cmd/%2B`, "200 allow"},
		{"rmqtt: 1 is to subscribe here, not to read", "rmqtt/acl", `access=1&username=dev-1&clientid=dev-1&topic=v1/dev-1/telemetry/a`, rmqttNo},
		{"rmqtt: publish", "rmqtt/acl", `{"access":"2","username":"dev-1","clientid":"dev-1","topic":"v1/dev-1/telemetry/a"}`, "200 allow"},
		{"rmqtt: publish elsewhere", "rmqtt/acl", `{"access":"2","username":"dev-1","clientid":"dev-1","topic":"v1/dev-2/telemetry/a"}`, rmqttNo},
		{"rmqtt: unknown access", "rmqtt/acl", `access=4&username=dev-1&clientid=dev-1&topic=v1/dev-1/cmd/%2B`, rmqttNo},
		{"rmqtt: no access", "rmqtt/acl", `username=dev-1&clientid=dev-1&topic=v1/dev-1/cmd/%2B`, rmqttNo},

		// VerneMQ
		{"vernemq: register", "vernemq/auth_on_register", `{"peer_addr":"127.0.0.1","peer_port":8888,"username":"dev-1","password":null,` + `"mountpoint":"","client_id":"dev-1","clean_session":false}`, vernemqOK},
		{"vernemq: register 5", "vernemq/auth_on_register_m5", `{"peer_addr":"127.0.0.1","peer_port":8888,` + verne + `,"password":"x","clean_start":true,"properties":{"p_session_expiry_interval":60}}`, vernemqOK},
		{"vernemq: register under a suffix, which the kick would not name", "vernemq/auth_on_register", `{"mountpoint":"","client_id":"dev-1~b","username":"dev-1"}`, vernemqNo},
		{"vernemq: register unknown", "vernemq/auth_on_register", `{"mountpoint":"","client_id":"x","username":"x"}`, vernemqNo},
		{"vernemq: register without a name", "vernemq/auth_on_register", `{"mountpoint":"","client_id":"dev-1","username":null}`, vernemqNo},
		{"vernemq: register at another mountpoint", "vernemq/auth_on_register", `{"mountpoint":"m","client_id":"dev-1","username":"dev-1"}`, vernemqNo},
		{"vernemq: register by certificate", "vernemq/auth_on_register", `{` + verne + `,"client_cert":"` + base64.StdEncoding.EncodeToString([]byte("certificate of dev-1")) + `"}`, vernemqOK},
		{"vernemq: register by a revoked certificate of a good name", "vernemq/auth_on_register", `{` + verne + `,"client_cert":"` + base64.StdEncoding.EncodeToString([]byte("an old one")) + `"}`, vernemqNo},
		{"vernemq: publish", "vernemq/auth_on_publish", `{` + verne + `,"qos":1,"topic":"v1/dev-1/telemetry/a","payload":"aGVsbG8=","retain":false}`, vernemqOK},
		{"vernemq: publish 5", "vernemq/auth_on_publish_m5", `{` + verne + `,"qos":1,"topic":"v1/dev-1/state","retain":true,"properties":{}}`, vernemqOK},
		{"vernemq: publish elsewhere", "vernemq/auth_on_publish", `{` + verne + `,"qos":1,"topic":"v1/dev-2/telemetry/a","retain":false}`, vernemqNo},
		{"vernemq: publish retained", "vernemq/auth_on_publish", `{` + verne + `,"qos":1,"topic":"v1/dev-1/telemetry/a","retain":true}`, vernemqNo},
		{"vernemq: subscribe", "vernemq/auth_on_subscribe", `{` + verne + `,"topics":[{"topic":"v1/dev-1/cmd/+","qos":1}]}`, vernemqOK},
		{"vernemq: subscribe, one of two", "vernemq/auth_on_subscribe", `{` + verne + `,"topics":[{"topic":"v1/dev-1/cmd/+","qos":1},{"topic":"#","qos":1}]}`,
			`200 {"result":"ok","topics":[{"topic":"v1/dev-1/cmd/+","qos":1},{"topic":"#","qos":128}]}`},
		{"vernemq: subscribe 5, one of two", "vernemq/auth_on_subscribe_m5", `{` + verne + `,"topics":[{"topic":"#","qos":1},{"topic":"v1/dev-1/cmd/a","qos":` + options + `}]}`,
			`200 {"modifiers":{"topics":[{"topic":"#","qos":128},{"topic":"v1/dev-1/cmd/a","qos":` + options + `}]},"result":"ok"}`},
		{"vernemq: subscribe, none", "vernemq/auth_on_subscribe", `{` + verne + `,"topics":[{"topic":"#","qos":1}]}`, vernemqNo},
		{"vernemq: subscribe to nothing", "vernemq/auth_on_subscribe", `{` + verne + `,"topics":[]}`, vernemqNo},
		{"vernemq: no such hook", "vernemq/on_publish", `{` + verne + `}`, vernemqNo},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newServer(t, newRegistry(t), nil)
			got, header := ask(s, request(row.path, row.body))
			if got != row.want {
				t.Errorf("%s asks %s:\ngot  %s\nwant %s", row.path, row.body, got, row.want)
			}
			if _, ok := header["X-Superuser"]; ok {
				t.Error("X-Superuser was sent")
			}
		})
	}
}

// TestOurOutageIsANo: whatever fails on our side, each question of each dialect is refused in its own words.
func TestOurOutageIsANo(t *testing.T) {
	questions := []struct{ path, body, no string }{
		{"emqx/authn", `{"clientid":"dev-1","cn":"dev-1"}`, emqxNo},
		{"emqx/authz", `{"clientid":"dev-1","cn":"dev-1","action":"publish","topic":"v1/dev-1/state"}`, emqxNo},
		{"goauth/user", `username=dev-1&clientid=dev-1`, goauthNo},
		{"goauth/acl", `username=dev-1&clientid=dev-1&acc=2&topic=v1/dev-1/state`, goauthNo},
		{"rmqtt/auth", `username=dev-1&clientid=dev-1`, rmqttNo},
		{"rmqtt/acl", `username=dev-1&clientid=dev-1&access=2&topic=v1/dev-1/state`, rmqttNo},
		{"vernemq/auth_on_register", `{"client_id":"dev-1","username":"dev-1"}`, vernemqNo},
		{"vernemq/auth_on_register_m5", `{"client_id":"dev-1","username":"dev-1"}`, vernemqNo},
		{"vernemq/auth_on_publish", `{"client_id":"dev-1","username":"dev-1","topic":"v1/dev-1/state"}`, vernemqNo},
		{"vernemq/auth_on_subscribe_m5", `{"client_id":"dev-1","username":"dev-1","topics":[{"topic":"v1/dev-1/cmd/a","qos":1}]}`, vernemqNo},
	}
	for _, q := range questions { // they are questions to which the answer is yes
		if got, _ := ask(newServer(t, newRegistry(t), nil), request(q.path, q.body)); got == q.no {
			t.Fatalf("%s is refused without an outage", q.path)
		}
	}
	for _, row := range []struct {
		name string
		set  func(*registry)
		ask  func(*http.Request)
	}{
		{"the store is away", func(r *registry) { r.away = errs.New(errs.Unavailable, "away") }, nil},
		{"an error without a kind", func(r *registry) { r.away = errors.New("a defect") }, nil},
		{"a panic", func(r *registry) { r.panic = true }, nil},
		{"a wrong secret", nil, func(r *http.Request) { r.Header.Set("Authorization", "Bearer x") }},
		{"no secret", nil, func(r *http.Request) { r.Header.Del("Authorization") }},
		{"an empty secret", nil, func(r *http.Request) { r.Header.Set("Authorization", "Bearer ") }},
		{"another method", nil, func(r *http.Request) { r.Method = http.MethodGet }},
		{"another address", nil, func(r *http.Request) { r.URL.Path += "/x" }},
		{"too large", nil, func(r *http.Request) { r.Body = io.NopCloser(bytes.NewReader(make([]byte, 1<<20))) }},
		{"another type", nil, func(r *http.Request) {
			r.Header.Set("Content-Type", "text/xml")
			r.Header.Del("vernemq-hook")
			r.Body = io.NopCloser(strings.NewReader("<x/>"))
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			for _, q := range questions {
				reg := newRegistry(t)
				if row.set != nil {
					row.set(reg)
				}
				r := request(q.path, q.body)
				if row.ask != nil {
					row.ask(r)
				}
				got, header := ask(newServer(t, reg, nil), r)
				if got != q.no {
					t.Errorf("%s: got %s, want %s", q.path, got, q.no)
				}
				if header.Get("Cache-Control") != "no-store" {
					t.Errorf("%s: a no may be kept: %q", q.path, header.Get("Cache-Control"))
				}
			}
		})
	}
}

// TestRefuse: what the listener says before the server is asked, such as that there are too many questions.
func TestRefuse(t *testing.T) {
	for path, want := range map[string]string{
		"/hooks/v1/emqx/authn": emqxNo, "/hooks/v1/goauth/acl": goauthNo, "/hooks/v1/rmqtt/acl": rmqttNo, "/hooks/v1/vernemq/auth_on_publish": vernemqNo,
		"/elsewhere": "429 too fast\n",
	} {
		w := httptest.NewRecorder()
		broker.Refuse(w, httptest.NewRequest(http.MethodPost, path, nil), errs.New(errs.Limited, "too fast"))
		if got := fmt.Sprintf("%d %s", w.Code, w.Body); got != want {
			t.Errorf("%s: got %s, want %s", path, got, want)
		}
	}
}

// TestUserNames: without Certified a user name is what anybody can say.
func TestUserNames(t *testing.T) {
	s := newServer(t, newRegistry(t), func(all []broker.Options) {
		for i := range all {
			all[i].Certified = false
		}
	})
	for _, row := range []struct{ path, body, want string }{
		{"emqx/authn", `{"clientid":"dev-1","cn":"dev-1"}`, `200 {"result":"allow","is_superuser":false,"expire_at":1827143027}`},
		{"goauth/user", `username=dev-1&clientid=dev-1`, goauthNo},
		{"goauth/acl", `username=dev-1&clientid=dev-1&acc=2&topic=v1/dev-1/state`, goauthNo},
		{"rmqtt/auth", `username=dev-1&clientid=dev-1`, rmqttNo},
		{"vernemq/auth_on_register", `{"client_id":"dev-1","username":"dev-1"}`, vernemqNo},
		{"vernemq/auth_on_register", `{"client_id":"dev-1","username":"x","client_cert":"` + base64.StdEncoding.EncodeToString([]byte("certificate of dev-1")) + `"}`, vernemqOK},
	} {
		if got, _ := ask(s, request(row.path, row.body)); got != row.want {
			t.Errorf("%s: got %s, want %s", row.path, got, row.want)
		}
	}
}

// TestModes: mosquitto-go-auth is answered in the form that it is set up for.
func TestModes(t *testing.T) {
	for _, row := range []struct {
		mode    broker.Mode
		yes, no string
	}{
		{"", "200 ok", "403 denied"},
		{broker.ModeStatus, "200 ok", "403 denied"},
		{broker.ModeJSON, `200 {"Ok":true,"Error":""}`, `200 {"Ok":false,"Error":"denied"}`},
		{broker.ModeText, "200 ok", "200 denied"},
	} {
		s := newServer(t, newRegistry(t), func(all []broker.Options) { all[1].Mode = row.mode })
		if got, _ := ask(s, request("goauth/user", `username=dev-1&clientid=dev-1`)); got != row.yes {
			t.Errorf("mode %q: yes is %s, want %s", row.mode, got, row.yes)
		}
		if got, _ := ask(s, request("goauth/user", `username=x&clientid=x`)); got != row.no {
			t.Errorf("mode %q: no is %s, want %s", row.mode, got, row.no)
		}
		r := request("goauth/user", `username=dev-1&clientid=dev-1`)
		r.Header.Del("Authorization")
		if got, _ := ask(s, r); got != row.no {
			t.Errorf("mode %q: no to a stranger is %s, want %s", row.mode, got, row.no)
		}
	}
}

// TestLists: the whole of what a thing may do, told at once, and the end of the connection.
func TestLists(t *testing.T) {
	s := newServer(t, newRegistry(t), func(all []broker.Options) {
		for i := range all {
			all[i].List, all[i].Recheck = true, time.Hour
		}
	})
	acl := `"acl":[{"permission":"deny","action":"publish","topic":"eq v1/dev-1/telemetry"},{"permission":"deny","action":"subscribe","topic":"eq v1/dev-1/cmd/#"},` +
		`{"permission":"deny","action":"subscribe","topic":"eq v1/dev-1/file"},{"permission":"deny","action":"subscribe","topic":"eq v1/dev-1/file/#"},` +
		`{"permission":"allow","action":"publish","topic":"v1/dev-1/telemetry/#","qos":[0,1],"retain":false},{"permission":"allow","action":"publish","topic":"v1/dev-1/state"},` +
		`{"permission":"allow","action":"subscribe","topic":"v1/dev-1/cmd/+"},{"permission":"allow","action":"subscribe","topic":"v1/dev-1/file/#"},{"permission":"deny","action":"all","topic":"#"}]`
	hour := fmt.Sprint(now.Add(time.Hour).Unix())
	for _, row := range []struct{ path, body, want string }{
		{"emqx/authn", `{"clientid":"dev-1","cn":"dev-1"}`, `200 {"result":"allow","is_superuser":false,"expire_at":` + hour + `,` + acl + `}`},
		{"rmqtt/auth", `username=dev-1&clientid=dev-1`, `200 {"result":"allow","superuser":false,"expire_at":` + hour + `,` + acl + `}`},
		{"emqx/authn", `{"clientid":"backend","cn":"backend"}`, `200 {"result":"allow","is_superuser":false,"expire_at":` + hour + `}`}, // it is asked about each time
	} {
		if got, header := ask(s, request(row.path, row.body)); got != row.want || header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: got (%s)\n%s\nwant\n%s", row.path, header.Get("Content-Type"), got, row.want)
		}
	}
}

// TestCache: what may be remembered, and for how long.
func TestCache(t *testing.T) {
	for _, row := range []struct{ name, path, body, header, want string }{
		{"rmqtt: publish", "rmqtt/acl", `username=dev-1&clientid=dev-1&access=2&topic=v1/dev-1/state`, "X-Cache", "30000"},
		{"rmqtt: subscribe", "rmqtt/acl", `username=dev-1&clientid=dev-1&access=1&topic=v1/dev-1/cmd/a`, "X-Cache", ""},
		{"rmqtt: no", "rmqtt/acl", `username=dev-1&clientid=dev-1&access=2&topic=x`, "X-Cache", ""},
		{"vernemq: publish", "vernemq/auth_on_publish", `{"client_id":"dev-1","username":"dev-1","topic":"v1/dev-1/state"}`, "Cache-Control", "max-age=30"},
		{"vernemq: register", "vernemq/auth_on_register", `{"client_id":"dev-1","username":"dev-1"}`, "Cache-Control", "no-store"},
		{"vernemq: no", "vernemq/auth_on_publish", `{"client_id":"dev-1","username":"dev-1","topic":"x"}`, "Cache-Control", "no-store"},
	} {
		if _, header := ask(newServer(t, newRegistry(t), nil), request(row.path, row.body)); header.Get(row.header) != row.want {
			t.Errorf("%s: %s is %q, want %q", row.name, row.header, header.Get(row.header), row.want)
		}
	}
}

// TestConfiguration: what cannot be meant is refused at the start.
func TestConfiguration(t *testing.T) {
	sum := sha256.Sum256([]byte(secret))
	for _, row := range []struct {
		name string
		o    broker.Options
	}{
		{"nothing to show itself by", broker.Options{Dialect: broker.EMQX}},
		{"an unknown dialect", broker.Options{Dialect: "hivemq", Secret: sum}},
		{"answers that outlive a revocation", broker.Options{Dialect: broker.RMQTT, Secret: sum, Cache: time.Hour}},
		{"answers for ever", broker.Options{Dialect: broker.RMQTT, Secret: sum, Cache: -1}},
	} {
		if _, err := broker.New(broker.Deps{Brokers: []broker.Options{row.o}}); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v, want it refused", row.name, err)
		}
	}
}

// TestSecretsElsewhere: brokers that can set no header.
func TestSecretsElsewhere(t *testing.T) {
	s := newServer(t, newRegistry(t), nil)
	for _, row := range []struct {
		name, path, want string
		change           func(*http.Request)
	}{
		{"a password", "rmqtt/auth", "200 allow", func(r *http.Request) { r.SetBasicAuth("rmqtt", secret) }},
		{"a wrong password", "rmqtt/auth", rmqttNo, func(r *http.Request) { r.SetBasicAuth(secret, "x") }},
		{"in the query, of go-auth", "goauth/user", "200 ok", func(r *http.Request) { r.URL.RawQuery = "key=" + secret }},
		{"in the query, of others", "rmqtt/auth", rmqttNo, func(r *http.Request) { r.URL.RawQuery = "key=" + secret }},
	} {
		r := request(row.path, `username=dev-1&clientid=dev-1`)
		r.Header.Del("Authorization")
		row.change(r)
		if got, _ := ask(s, r); got != row.want {
			t.Errorf("%s: got %s, want %s", row.name, got, row.want)
		}
	}
}

// TestMetrics counts what was asked, by broker, and tells our failures from refusals.
func TestMetrics(t *testing.T) {
	reg := newRegistry(t)
	s := newServer(t, reg, nil)
	ask(s, request("emqx/authn", `{"clientid":"dev-1","cn":"dev-1"}`))
	ask(s, request("emqx/authn", `{"clientid":"x","cn":"x"}`))
	reg.away = errs.New(errs.Unavailable, "away")
	ask(s, request("emqx/authn", `{"clientid":"dev-1","cn":"dev-1"}`))
	r := request("rmqtt/auth", ``)
	r.Header.Del("Authorization")
	ask(s, r)
	m, unknown := s.Metrics()
	if want := (broker.Metric{Broker: "emqx", Allowed: 1, Denied: 1, Failed: 1}); m[0] != want || unknown != 1 {
		t.Errorf("got %+v and %d unknown, want %+v and 1", m[0], unknown, want)
	}
}

// certificate makes a self-signed certificate.
func certificate(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// TestCertificateOfTheCaller goes through the gate: the broker shows itself by a certificate that it proves to hold.
func TestCertificateOfTheCaller(t *testing.T) {
	server, own, other := certificate(t, "localhost"), certificate(t, "emqx-1"), certificate(t, "dev-1")
	s, err := broker.New(broker.Deps{Authority: newRegistry(t), Now: func() time.Time { return now },
		Brokers: []broker.Options{{Name: "e", Dialect: broker.EMQX, Thing: "emqx-1"}},
		Caller: func(_ context.Context, chain [][]byte) (string, error) {
			if bytes.Equal(chain[0], own.Certificate[0]) {
				return "emqx-1", nil
			}
			if bytes.Equal(chain[0], other.Certificate[0]) {
				return "dev-1", nil
			}
			return "", errs.New(errs.Denied, "unknown")
		}})
	if err != nil {
		t.Fatal(err)
	}
	held := &gate.ServerCertificate{}
	held.Set(&server)
	g, err := gate.Listen(t.Context(), gate.Options{Name: "api", Address: "127.0.0.1:0", Limits: conf.Default().Limits, Now: time.Now, Log: slog.New(slog.DiscardHandler), Refuse: broker.Refuse,
		TLS: &gate.TLS{Certificate: held, Settings: conf.Default().TLS}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Serve(ctx, s) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	roots := x509.NewCertPool()
	roots.AddCert(server.Leaf)
	for _, row := range []struct {
		name string
		own  []tls.Certificate
		want string
	}{
		{"its own", []tls.Certificate{own}, `{"result":"allow","is_superuser":false,"expire_at":1827143027}`},
		{"a device's", []tls.Certificate{other}, `{"result":"deny"}`},
		{"a stranger's", []tls.Certificate{certificate(t, "emqx-1")}, `{"result":"deny"}`},
		{"none", nil, `{"result":"deny"}`},
	} {
		t.Run(row.name, func(t *testing.T) {
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "localhost", Certificates: row.own}}}
			answer, err := client.Post("https://"+g.Addr().String()+"/hooks/v1/emqx/authn", "application/json", strings.NewReader(`{"clientid":"dev-1","cn":"dev-1"}`))
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			got, err := io.ReadAll(answer.Body)
			if err != nil || string(got) != row.want || answer.StatusCode != http.StatusOK {
				t.Errorf("got %d %s %v, want %s", answer.StatusCode, got, err, row.want)
			}
		})
	}
}
