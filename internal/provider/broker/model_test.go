package broker_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/provider/broker"
	"mooring/internal/provider/broker/brokertest"
)

// model is what brokers with an HTTP API have in common: who is connected and who is banned. The handlers in front of it speak the brokers' protocols as
// they are recorded in TestRecorded.
type model struct {
	mu     sync.Mutex
	live   map[string]chan struct{}
	banned map[string]string // name → until
}

func (m *model) connect(_ *testing.T, name string) (<-chan struct{}, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, out := m.banned[name]; out {
		return nil, fmt.Errorf("%q is banned", name)
	}
	if gone, ok := m.live[name]; ok {
		return gone, nil
	}
	m.live[name] = make(chan struct{})
	return m.live[name], nil
}

// kick reports whether name was connected.
func (m *model) kick(name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	gone, ok := m.live[name]
	if ok {
		close(gone)
		delete(m.live, name)
	}
	return ok
}

// ban reports whether there was no ban before.
func (m *model) ban(name, until string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.banned[name]; ok {
		return false
	}
	m.banned[name] = until
	return true
}

func (m *model) lift(name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.banned[name]
	delete(m.banned, name)
	return ok
}

// serve starts a model behind the API that mux has.
func serve(t *testing.T, api func(m *model, mux *http.ServeMux)) (*model, broker.HTTP, func()) {
	t.Helper()
	m := &model{live: map[string]chan struct{}{}, banned: map[string]string{}}
	mux := http.NewServeMux()
	api(m, mux)
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return m, broker.HTTP{URL: s.URL + "/", User: "key", Key: "secret", Client: &http.Client{Timeout: 10 * time.Second}}, s.Close
}

// authorised refuses requests without the key.
func authorised(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if user, key, ok := r.BasicAuth(); !ok || user != "key" || key != "secret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next(w, r)
	}
}

func emqxAPI(m *model, mux *http.ServeMux) {
	mux.HandleFunc("POST /api/v5/clients/kickout/bulk", authorised(func(w http.ResponseWriter, r *http.Request) {
		var names []string
		if json.NewDecoder(r.Body).Decode(&names) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		for _, name := range names {
			m.kick(name)
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	mux.HandleFunc("POST /api/v5/banned", authorised(func(w http.ResponseWriter, r *http.Request) {
		var ban struct{ As, Who, Until string }
		if json.NewDecoder(r.Body).Decode(&ban) != nil || ban.As != "clientid" || ban.Who == "" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		if !m.ban(ban.Who, ban.Until) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"code":"ALREADY_EXISTS","message":"ban already exists"}`)
			return
		}
		w.WriteHeader(http.StatusOK)
	}))
	mux.HandleFunc("DELETE /api/v5/banned/clientid/{who}", authorised(func(w http.ResponseWriter, r *http.Request) {
		if !m.lift(r.PathValue("who")) {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}))
}

func rmqttAPI(m *model, mux *http.ServeMux) {
	mux.HandleFunc("DELETE /api/v1/clients/{who}", authorised(func(w http.ResponseWriter, r *http.Request) {
		if !m.kick(r.PathValue("who")) {
			w.WriteHeader(http.StatusNotFound)
		}
	}))
}

func vernemqAPI(m *model, mux *http.ServeMux) {
	mux.HandleFunc("GET /api/v1/session/disconnect", authorised(func(w http.ResponseWriter, r *http.Request) {
		name := r.URL.Query().Get("client-id")
		if strings.Contains(name, `"`) { // it would end the string of a query
			for other := range m.live {
				m.kick(other)
			}
		}
		m.kick(name)
		_, _ = io.WriteString(w, `[]`)
	}))
}

// TestDrivers holds the drivers by HTTP to the conformance suite.
func TestDrivers(t *testing.T) {
	for _, row := range []struct {
		name string
		api  func(*model, *http.ServeMux)
		of   func(broker.HTTP) broker.Driver
		bans bool
	}{
		{"EMQX", emqxAPI, func(h broker.HTTP) broker.Driver { return &broker.EMQX{HTTP: h} }, true},
		{"RMQTT", rmqttAPI, func(h broker.HTTP) broker.Driver { return &broker.RMQTT{HTTP: h} }, false},
		{"VerneMQ", vernemqAPI, func(h broker.HTTP) broker.Driver { return &broker.VerneMQ{HTTP: h} }, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			brokertest.Test(t, func(t *testing.T) brokertest.Bench {
				m, h, stop := serve(t, row.api)
				return brokertest.Bench{Driver: row.of(h), Connect: m.connect, Bans: row.bans, Stop: stop}
			})
		})
	}
}

// TestRecorded holds each request to what the brokers' documents show.
func TestRecorded(t *testing.T) {
	until := time.Date(2027, 11, 26, 12, 0, 0, 0, time.FixedZone("", 3600))
	for _, row := range []struct {
		name    string
		do      func(broker.HTTP) error
		answers []string // status and body
		want    []string
	}{
		{"EMQX kick", func(h broker.HTTP) error {
			return (&broker.EMQX{HTTP: h}).Kick(t.Context(), []string{"dev-1", "dev-2"})
		},
			[]string{"204 "}, []string{`POST /api/v5/clients/kickout/bulk ["dev-1","dev-2"]`}},
		{"EMQX ban for ever", func(h broker.HTTP) error {
			return (&broker.EMQX{HTTP: h}).Ban(t.Context(), []string{"dev-1"}, time.Time{})
		},
			[]string{"200 {}"}, []string{`POST /api/v5/banned {"as":"clientid","by":"mooring","reason":"revoked","who":"dev-1"}`}},
		{"EMQX ban until", func(h broker.HTTP) error { return (&broker.EMQX{HTTP: h}).Ban(t.Context(), []string{"dev-1"}, until) },
			[]string{"200 {}"}, []string{`POST /api/v5/banned {"as":"clientid","by":"mooring","reason":"revoked","until":"2027-11-26T11:00:00Z","who":"dev-1"}`}},
		{"EMQX ban of a banned one", func(h broker.HTTP) error {
			return (&broker.EMQX{HTTP: h}).Ban(t.Context(), []string{"a b"}, time.Time{})
		},
			[]string{`400 {"code":"ALREADY_EXISTS"}`, "204 ", "200 {}"},
			[]string{`POST /api/v5/banned {"as":"clientid","by":"mooring","reason":"revoked","who":"a b"}`, `DELETE /api/v5/banned/clientid/a%20b `, `POST /api/v5/banned {"as":"clientid","by":"mooring","reason":"revoked","who":"a b"}`}},
		{"EMQX lift", func(h broker.HTTP) error { return (&broker.EMQX{HTTP: h}).Lift(t.Context(), []string{"dev-1"}) },
			[]string{"404 "}, []string{`DELETE /api/v5/banned/clientid/dev-1 `}},
		{"RMQTT kick", func(h broker.HTTP) error { return (&broker.RMQTT{HTTP: h}).Kick(t.Context(), []string{"dev/1"}) },
			[]string{"200 "}, []string{`DELETE /api/v1/clients/dev%2F1 `}},
		{"VerneMQ kick", func(h broker.HTTP) error { return (&broker.VerneMQ{HTTP: h}).Kick(t.Context(), []string{"dev 1"}) },
			[]string{"200 []"}, []string{`GET /api/v1/session/disconnect?--cleanup&client-id=dev+1 `}},
	} {
		t.Run(row.name, func(t *testing.T) {
			var got []string
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				got = append(got, fmt.Sprintf("%s %s %s", r.Method, r.RequestURI, body))
				if user, key, _ := r.BasicAuth(); user != "key" || key != "secret" {
					t.Errorf("shown as %q with %q", user, key)
				}
				var status int
				answer := row.answers[min(len(got), len(row.answers))-1]
				_, _ = fmt.Sscan(answer, &status)
				w.WriteHeader(status)
				_, _ = io.WriteString(w, answer[4:])
			}))
			defer s.Close()
			if err := row.do(broker.HTTP{URL: s.URL, User: "key", Key: "secret", Client: s.Client()}); err != nil {
				t.Error(err)
			}
			if !slices.Equal(got, row.want) {
				t.Errorf("asked\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(row.want, "\n"))
			}
		})
	}
}

// TestNotConfirmed: what is no confirmation is an error, and of which kind.
func TestNotConfirmed(t *testing.T) {
	for _, row := range []struct {
		name   string
		status int
		body   string
		kind   errs.Kind
	}{
		{"wrong key", 401, "", errs.Denied},
		{"a key that may not", 403, "", errs.Denied},
		{"another program's page", 404, "<html>", errs.Conflict},
		{"asked wrongly", 400, `{"code":"BAD_REQUEST"}`, errs.Conflict},
		{"too fast", 429, "", errs.Unavailable},
		{"broken", 500, "", errs.Unavailable},
		{"starting", 503, "", errs.Unavailable},
		{"led elsewhere", 302, "", errs.Conflict},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(row.status)
				_, _ = io.WriteString(w, row.body)
			}))
			defer s.Close()
			h := broker.HTTP{URL: s.URL, Client: s.Client()}
			for name, d := range map[string]broker.Driver{"EMQX": &broker.EMQX{HTTP: h}, "VerneMQ": &broker.VerneMQ{HTTP: h}} {
				if err := d.Kick(t.Context(), []string{"dev-1"}); errs.KindOf(err) != row.kind {
					t.Errorf("%s: %v has kind %v, want %v", name, err, errs.KindOf(err), row.kind)
				}
			}
		})
	}
}
