package api_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"mooring/internal/core/access"
	"mooring/internal/server/api"
	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
)

// samples are bodies that get past decoding, so that the answer is core's.
var samples = map[string]string{
	"POST /v1/devices":                           `{"name":"x-1","profile":"nope"}`,
	"PATCH /v1/devices/{device}":                 `{"group":"g"}`,
	"POST /v1/cas":                               `{"name":"nope","parent":"nope","subject":"CN=x","validity":"24h"}`,
	"POST /v1/messaging/policy":                  `{"text":"nonsense","seen":0}`,
	"POST /v1/messaging/policy/test":             `{"thing":"absent","action":"publish","topic":"a"}`,
	"POST /v1/messaging/connections/end":         `{"thing":"absent"}`,
	"POST /v1/messaging/messages":                `{"topic":"a"}`,
	"POST /v1/messaging/sinks/{sink}/retry":      `{"all":true}`,
	"POST /v1/messaging/sinks/{sink}/drop":       `{"all":true}`,
	"POST /v1/campaigns":                         `{"name":"c","select":{},"action":"renew","rate":"5%/day","max_failed":"1%","deadline":"2020-01-01T00:00:00Z"}`,
	"POST /v1/audit/verify":                      `{}`,
	"POST /v1/cas/import":                        `{"name":"absent","chain":"x"}`,
	"POST /v1/cas/import-crl":                    `{"crl":"x"}`,
	"POST /v1/cas/import-record":                 `{"record":"x"}`,
	"POST /v1/ca-requests":                       `{"name":"a-request","subject":"CN=A request"}`,
	"POST /v1/ca-crosses":                        `{"old":"absent","new":"absent"}`,
	"POST /v1/ca-crosses/import":                 `{"certificate":"x"}`,
	"POST /v1/manufacturers":                     `{"name":"m","certificates":"x"}`,
	"POST /v1/masa/registrars":                   `{"name":"r","certificates":"x"}`,
	"POST /v1/manufacturers/{manufacturer}/masa": `{}`,
	"POST /v1/ca-responders":                     `{"ca":"absent"}`,
	"POST /v1/ca-responders/import":              `{"certificate":"x"}`,
	"POST /v1/devices/{device}/token":            `{}`,
	"POST /v1/v2x/authorities":                   `{"request":"AA=="}`,
	"POST /v1/v2x/authorities/{authority}/move":  `{"url":"http://x.test"}`,
	"POST /v1/v2x/root/rekey":                    `{}`,
	"POST /v1/v2x/ea/request":                    `{"name":"x"}`,
	"POST /v1/v2x/ea/install":                    `{"certificate":"AA==","root":"AA=="}`,
	"POST /v1/v2x/aa/request":                    `{"name":"x"}`,
	"POST /v1/v2x/aa/install":                    `{"certificate":"AA==","root":"AA=="}`,
	"POST /v1/v2x/manager":                       `{"name":"x"}`,
	"POST /v1/v2x/manager/rekey":                 `{}`,
	"POST /v1/v2x/manager/roots":                 `{"certificate":"AA==","url":"http://x.test"}`,
	"POST /v1/devices/{device}/suspend":          `{}`,
	"POST /v1/cas/{ca}/limit":                    `{"max_uses":1000000}`,
	"POST /v1/devices/move":                      `{"move":"suspend","group":"nobody"}`,
	"POST /v1/certificates/revoke":               `{"group":"nobody"}`,
}

func filled(path string) string {
	return strings.NewReplacer("{device}", "absent", "{serial}", "4165a1b2c3d4e5f60718293a4b5c6d7e", "{sink}", "absent", "{ca}", "absent", "{anchor}", "absent", "{what}", "devices", "{job}", strings.Repeat("0", 32), "{approval}", strings.Repeat("0", 32), "{profile}", "absent", "{campaign}", "absent", "{index}", "99999", "{account}", strings.Repeat("0", 32), "{authority}", "0123456789ABCDEF", "{root}", "0123456789ABCDEF", "{credential}", "0123456789ABCDEF", "{list}", "ctl").Replace(path)
}

// TestEveryRouteAsksForItsPermission calls each route as nobody, as a device and as each role, and compares the outcome with the table.
func TestEveryRouteAsksForItsPermission(t *testing.T) {
	p := start(t, nil)
	callers := []struct {
		role    access.Role
		profile string
		known   bool
	}{
		{access.RoleNone, "", false},
		{access.RoleNone, "device", true},
		{access.RoleAuditor, "auditor", true},
		{access.RoleOperator, "operator", true},
		{access.RoleAdmin, "operator-admin", true},
		{access.RoleV2XRoot, "v2x-root", true},
		{access.RoleV2XEnrolment, "v2x-ea", true},
		{access.RoleV2XTickets, "v2x-aa", true},
		{access.RoleV2XTrustLists, "v2x-tlm", true},
	}
	for _, caller := range callers {
		call := p.raw(t, "caller-"+caller.profile, caller.profile)
		actor := access.Actor{Role: caller.role}
		for _, r := range api.Routes() {
			contentType, body := "application/json", samples[r.Method+" "+r.Path]
			if r.Path == "/v1/devices/import" {
				contentType, body = "text/csv", "name,profile\nx,nope\n"
			}
			if r.Path == "/v1/certificates/revoke-file" || r.Path == "/v1/certificates/issue-bundle" {
				contentType, body = "text/plain", "nonsense"
			}
			path := filled(r.Path)
			if r.Path == "/v1/revocations/events" {
				path += "?from=99999999" // or the answer would not end
			}
			status, header, answer := call(r.Method, path, contentType, body)
			allowed := caller.known && (r.Permission == "" || actor.May(access.Permission(r.Permission)))
			want := "neither 401 nor 403"
			ok := status != http.StatusUnauthorized && status != http.StatusForbidden && status/100 != 5
			switch {
			case !caller.known:
				want, ok = "401", status == http.StatusUnauthorized && header.Get("WWW-Authenticate") != ""
			case !allowed:
				want, ok = "403", status == http.StatusForbidden
			}
			if !ok {
				t.Errorf("%s %s as %q: got %d %s, want %s", r.Method, r.Path, caller.profile, status, answer, want)
			}
			if status >= 400 {
				var problem v1.Problem
				if err := json.Unmarshal([]byte(answer), &problem); err != nil || problem.Status != status || problem.Detail == "" || header.Get("Content-Type") != "application/problem+json" {
					t.Errorf("%s %s as %q: %s %s is no problem (%v)", r.Method, r.Path, caller.profile, header.Get("Content-Type"), answer, err)
				}
			}
		}
		for path, public := range map[string]bool{"/healthz": true, "/readyz": true, "/openapi.json": true, "/openapi.yaml": true, "/metrics": false} {
			want := http.StatusOK
			switch {
			case !public && !caller.known:
				want = http.StatusUnauthorized
			case !public && !actor.May(access.ConfigRead):
				want = http.StatusForbidden
			}
			if status, _, answer := call("GET", path, "", ""); status != want {
				t.Errorf("GET %s as %q: got %d %.200s, want %d", path, caller.profile, status, answer, want)
			}
		}
	}
}

// TestRevocationBitesAtOnce uses a connection that was opened before.
func TestRevocationBitesAtOnce(t *testing.T) {
	p := start(t, nil)
	operator := p.operator(t, "op-1", "operator")
	who, err := operator.WhoAmI(t.Context())
	if err != nil || who.Role != "operator" || who.Kind != "operator" || who.Via != "api" {
		t.Fatalf("got %+v, %v, want an operator", who, err)
	}
	if _, err := p.local(t).MoveDevice(t.Context(), "op-1", "lost", ""); err != nil {
		t.Fatal(err)
	}
	if who, err = operator.WhoAmI(t.Context()); status(err) != http.StatusUnauthorized {
		t.Errorf("after revocation: got %+v, %v, want 401", who, err)
	}
}

// TestStrangersAreRecorded looks for the refusal in the record.
func TestStrangersAreRecorded(t *testing.T) {
	p := start(t, nil)
	if status, _, _ := p.raw(t, "", "")("GET", "/v1/devices", "", ""); status != http.StatusUnauthorized {
		t.Fatalf("got %d, want 401", status)
	}
	if err := p.deps.Audit.Sequence(t.Context()); err != nil {
		t.Fatal(err)
	}
	page, err := p.local(t).Audit(t.Context(), client.Audit{Newest: true, Limit: 100}) // the server writes entries of its own beside
	if err != nil || !slices.ContainsFunc(page.Entries, func(e v1.Entry) bool { return strings.HasPrefix(e.Actor, "stranger:127.0.0.0/24") && e.Refused != "" }) {
		t.Errorf("got %+v, %v, want a refused stranger", page.Entries, err)
	}
}
