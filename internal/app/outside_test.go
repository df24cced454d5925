package app_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"mooring/agent/mqtt"
	"mooring/internal/app"
	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/core/device"
	"mooring/internal/core/revoke"
	wire "mooring/wire/mqtt"
)

// files writes files into a new directory.
func files(t *testing.T, list map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range list {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// A broker of somebody else asks who may connect; a message of a device goes on to a webhook; and the broker is told whom to let go of.
func TestOutside(t *testing.T) {
	posted := make(chan string, 16)
	var picky atomic.Bool
	picky.Store(true)
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if picky.Load() && bytes.Contains(body, []byte(base64.StdEncoding.EncodeToString([]byte("bad")))) {
			w.WriteHeader(http.StatusUnprocessableEntity)
			return
		}
		if r.Header.Get("Webhook-Signature") != "" {
			posted <- string(body)
		}
	}))
	t.Cleanup(hook.Close)
	kicked := make(chan string, 16)
	emqx := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		kicked <- r.Method + " " + r.URL.Path + " " + string(body)
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(emqx.Close)
	const secret = "a secret of more than 128 bits of luck"
	p := apptest.Start(t, func(c *conf.Config) {
		apptest.Messaging(c)
		c.Listen.MQTTWeb = "127.0.0.1:0"
		c.Listen.Hooks = "127.0.0.1:0"
		c.Messaging.Brokers = files(t, map[string]string{
			"factory.yaml": fmt.Sprintf("dialect: emqx\nsecret_sha256: %x\nkick:\n  driver: emqx\n  url: %s\n  user: key\n", sha256.Sum256([]byte(secret)), emqx.URL)})
		c.Messaging.Sinks = files(t, map[string]string{
			"archive.yaml": "kind: webhook\nurl: " + hook.URL + "\ntopics: [v1/+/telemetry/#]\nallow: [127.0.0.0/8]\nsecret_files: [" +
				filepath.Join(files(t, map[string]string{"s": "whsec_" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))}), "s") + "]\n"})
	})
	meter := p.Talker(t, "meter-1", "device")
	c := p.Connect(t, meter)
	if err := c.Publish(t.Context(), mqtt.Message{Topic: "v1/meter-1/telemetry/power", QoS: wire.AtLeastOnce, Payload: []byte("17")}); err != nil {
		t.Fatal(err)
	}
	select {
	case body := <-posted:
		if !strings.Contains(body, fmt.Sprintf(`"tenant":%q`, p.Config.Name)) || !strings.Contains(body, "meter-1") || !strings.Contains(body, "v1/meter-1/telemetry/power") {
			t.Errorf("the webhook got %s", body)
		}
	case <-time.After(time.Minute):
		t.Fatal("the webhook got nothing")
	}
	for _, row := range []struct{ name, secret, cn, want string }{
		{"a device that may", secret, "meter-1", `"result":"allow"`},
		{"an unknown device", secret, "nobody", `"result":"deny"`},
		{"a caller with another secret", "guess", "meter-1", `"result":"deny"`},
	} {
		t.Run(row.name, func(t *testing.T) {
			client := &http.Client{Transport: &http.Transport{TLSClientConfig: p.TLS(nil)}}
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.Addresses().Hooks+"/hooks/v1/emqx/authn",
				strings.NewReader(fmt.Sprintf(`{"clientid":%[1]q,"username":"","cn":%[1]q,"subject":"CN=%[2]s","peer":"127.0.0.1","cert":%[3]q}`, row.cn, row.cn, "")))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("Authorization", "Bearer "+row.secret)
			answer, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			body, err := io.ReadAll(answer.Body)
			if err != nil || !strings.Contains(strings.ReplaceAll(string(body), " ", ""), row.want) {
				t.Errorf("got %s %s, %v, want %s", answer.Status, body, err, row.want)
			}
		})
	}
	t.Run("metrics", func(t *testing.T) { outsideMetrics(t, p) })
	t.Run("dead letters", func(t *testing.T) {
		must(t, c.Publish(t.Context(), mqtt.Message{Topic: "v1/meter-1/telemetry/power", QoS: wire.AtLeastOnce, Payload: []byte("bad")}))
		deadLetters(t, p, &picky, posted)
	})
	t.Run("kicks", func(t *testing.T) { outsideKicks(t, p, kicked) })
	if _, err := p.Revoke.Device(t.Context(), apptest.Operator(), meter.ID, device.Suspend, revoke.CertificateHold); err != nil {
		t.Fatal(err)
	}
	for deadline := time.After(time.Minute); ; {
		select {
		case call := <-kicked:
			if strings.Contains(call, "meter-1") {
				return
			}
		case <-deadline:
			t.Fatal("the broker was not told to let go of the device")
		}
	}
}

// outsideKicks: a broker is told to end connections of a device that stays, when what allowed them does not hold any more; nobody is banned for it.
func outsideKicks(t *testing.T, p *apptest.Platform, kicked <-chan string) {
	other := p.Talker(t, "meter-2", "device")
	for _, row := range []struct {
		name, device string
		do           func()
	}{
		{"its tags change", "meter-2", func() {
			tags := map[string]string{"site": "north"}
			_, err := p.Devices.Change(t.Context(), apptest.Operator(), other.ID, device.Change{Tags: &tags})
			must(t, err)
		}},
		{"its certificate is revoked", "meter-2", func() { must(t, revokeCert(t, p, other)) }},
		{"the policy takes something away", "meter-1", func() {
			now, err := p.Message.Policy(t.Context(), apptest.Operator())
			must(t, err)
			_, err = p.Message.SetPolicy(t.Context(), apptest.Operator(), strings.Replace(now.Text, "    allow subscribe v1/${thing}/cmd/+\n", "", 1), now.Version)
			must(t, err)
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			for len(kicked) > 0 {
				<-kicked
			}
			row.do()
			late := time.After(time.Minute)
			for {
				select {
				case call := <-kicked:
					if strings.HasPrefix(call, "POST") && strings.Contains(call, "banned") {
						t.Errorf("somebody is banned: %s", call)
					}
					if !strings.Contains(call, "banned") && strings.Contains(call, row.device) {
						return
					}
				case <-late:
					t.Fatal("the broker was not told")
				}
			}
		})
	}
}

// deadLetters: what the receiver refused is listed with the reason, handed over once more when somebody wants it, and dropped; both are recorded.
func deadLetters(t *testing.T, p *apptest.Platform, picky *atomic.Bool, posted <-chan string) {
	cert := p.OperatorCert(t)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: p.TLS(&cert)}}
	ask := func(method, path, body string) (int, string) {
		r, err := http.NewRequestWithContext(t.Context(), method, p.Addresses().API+"/v1/messaging/sinks"+path, strings.NewReader(body))
		must(t, err)
		r.Header.Set("Content-Type", "application/json")
		answer, err := client.Do(r)
		must(t, err)
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		must(t, err)
		return answer.StatusCode, string(text)
	}
	letters := func() (ids []string, text string) {
		_, text = ask(http.MethodGet, "/archive/dead", "")
		var list struct{ Letters []struct{ ID string } }
		must(t, json.Unmarshal([]byte(text), &list))
		for _, l := range list.Letters {
			ids = append(ids, l.ID)
		}
		return ids, text
	}
	var ids []string
	apptest.Until(t, "there is a dead letter", func() bool { ids, _ = letters(); return len(ids) == 1 })
	if _, text := letters(); !strings.Contains(text, "422") || !strings.Contains(text, "v1/meter-1/telemetry/power") || !strings.Contains(text, "YmFk") {
		t.Errorf("the dead letter is %s", text)
	}
	if code, text := ask(http.MethodGet, "", ""); code != http.StatusOK || !strings.Contains(text, `"dead":1`) || !strings.Contains(text, `"name":"archive"`) {
		t.Errorf("the list of sinks is %d %s", code, text)
	}
	for _, row := range []struct {
		path, body string
		want       int
	}{
		{"/absent/retry", `{"all":true}`, http.StatusNotFound},
		{"/archive/retry", `{}`, http.StatusBadRequest},
		{"/archive/retry", `{"ids":["zz-9"]}`, http.StatusNotFound},
		{"/archive/drop", `{"ids":["nonsense"]}`, http.StatusBadRequest},
	} {
		if code, text := ask(http.MethodPost, row.path, row.body); code != row.want {
			t.Errorf("POST %s %s: %d %s, want %d", row.path, row.body, code, text, row.want)
		}
	}
	picky.Store(false)
	if code, text := ask(http.MethodPost, "/archive/retry", `{"ids":["`+ids[0]+`"]}`); code != http.StatusOK || !strings.Contains(text, `"letters":1`) {
		t.Fatalf("retry: %d %s", code, text)
	}
	for body := range posted {
		if strings.Contains(body, "YmFk") {
			break
		}
	}
	apptest.Until(t, "the dead letter has left", func() bool { ids, _ := letters(); return len(ids) == 0 })
	if code, text := ask(http.MethodPost, "/archive/drop", `{"all":true}`); code != http.StatusOK || !strings.Contains(text, `"letters":0`) {
		t.Errorf("dropping what is not there: %d %s", code, text)
	}
	recorded := map[string]int{}
	for _, e := range p.Record(t) {
		if e.Object == "sink archive" {
			recorded[strings.TrimSpace(e.Action+" "+e.Detail["letters"])]++
		}
	}
	if len(recorded) != 2 || recorded["sink.retry 1"] != 1 || recorded["sink.read"] == 0 {
		t.Errorf("recorded are %v, want one sink.retry of 1, and that they were looked at", recorded)
	}
}

// outsideMetrics: sinks and brokers of others can be watched, and a packet is counted by the listener to which it came alone.
func outsideMetrics(t *testing.T, p *apptest.Platform) {
	cert := p.OperatorCert(t)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: p.TLS(&cert)}}
	text := ""
	apptest.Until(t, "the sink says that all is safe", func() bool {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.Addresses().API+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil || answer.StatusCode != http.StatusOK {
			t.Fatalf("got %s %s, %v", answer.Status, body, err)
		}
		text = string(body)
		return strings.Contains(text, `mooring_sink_delivered_total{sink="archive"} 1`) && strings.Contains(text, `mooring_sink_lag{sink="archive"} 0`)
	})
	for _, want := range []string{
		`mooring_sink_measured{sink="archive"} 1`, `mooring_sink_running{sink="archive"} 1`, `mooring_sink_behind_seconds{sink="archive"} `, `mooring_sink_dead{sink="archive"} 0`,
		`mooring_sink_missed_total{sink="archive"} 0`, `mooring_sink_failures_total{sink="archive"} 0`, `mooring_broker_measured 1`, `mooring_broker_pending{broker="factory"} 0`,
		`mooring_broker_lag_seconds{broker="factory"} 0`, `mooring_broker_failed_total{broker="factory"} 0`, `mooring_broker_questions_total{answer="allowed",broker="factory"} 1`,
		`mooring_broker_questions_total{answer="denied",broker="factory"} 1`, `mooring_broker_questions_total{answer="failed",broker="factory"} 0`, `mooring_broker_unknown_callers_total 1`,
		`mooring_mqtt_open{listener="mqtt"} 1`, `mooring_mqtt_open{listener="mqtt_web"} 0`,
	} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("%s is not among the metrics", want)
		}
	}
}

// What is wrong in the files of brokers and sinks is told with its place before anything is served.
func TestOutsideMistakes(t *testing.T) {
	for _, row := range []struct{ name, broker, sink, want string }{
		{"an unknown key", "dialekt: emqx\n", "", `x.yaml:1: unknown field "dialekt"`},
		{"neither asks nor is told", "certified: true\n", "", "it neither asks nor is told: give dialect, kick, or both; for NATS, callout"},
		{"a secret that is no digest", "dialect: emqx\nsecret_sha256: hello\n", "", "secret_sha256 is not the SHA-256 of the secret"},
		{"an unknown driver", "kick: {driver: hivemq, url: 'https://x'}\n", "", `there is no driver "hivemq": use emqx, mosquitto, rmqtt or vernemq`},
		{"an unknown kind", "", "kind: carrier-pigeon\n", `there is no kind "carrier-pigeon" of sink: use kafka, nats, postgres or webhook`},
		{"a webhook without a secret", "", "kind: webhook\nurl: https://example.com/\n", "secret"},
		{"a filter that is none", "", "kind: kafka\nbrokers: [x:9092]\ntopic: t\ntopics: ['v1/a+']\n", `topics: "v1/a+" is no filter`},
		{"a shared filter", "", "kind: kafka\nbrokers: [x:9092]\ntopic: t\ntopics: ['$share/g/v1/#']\n", "leave $share and the group out"},
		{"a NATS without an address", "callout: {account: FLEET}\n", "", "callout: it needs urls and account"},
		{"kafka without a topic", "", "kind: kafka\nbrokers: [x:9092]\n", "kafka needs brokers and topic"},
	} {
		t.Run(row.name, func(t *testing.T) {
			clock, log := &apptest.Clock{}, &apptest.Log{}
			c, made := apptest.Init(t, clock, log, func(c *conf.Config) {
				apptest.Messaging(c)
				if row.broker != "" {
					c.Messaging.Brokers = files(t, map[string]string{"x.yaml": row.broker})
				}
				if row.sink != "" {
					c.Messaging.Sinks = files(t, map[string]string{"x.yaml": row.sink})
				}
			})
			if err := app.CheckOutside(c); err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("the check before the start got %v, want %q in it", err, row.want)
			}
			p, err := app.Build(t.Context(), app.Options{Config: c, Keys: made.Keys, Now: clock.Now, Log: log.Logger()})
			if err == nil {
				err = p.Close()
			}
			if err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v, want %q in it", err, row.want)
			}
		})
	}
}
