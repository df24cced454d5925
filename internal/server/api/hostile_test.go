package api_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"mooring/internal/server/api"
	"mooring/internal/server/api/client"
)

func TestHostileInput(t *testing.T) {
	p := start(t, func(d *api.Deps) { d.MaxImport = 1000 })
	call := p.raw(t, "op-1", "operator")
	const js = "application/json"
	for _, c := range []struct {
		name, method, path, contentType, body string
		want                                  int
		says                                  string
	}{
		{"unknown field", "POST", "/v1/devices", js, `{"name":"a","profile":"device","admin":true}`, 400, "body.admin"},
		{"wrong type", "POST", "/v1/devices", js, `{"name":1,"profile":"device"}`, 400, "body.name"},
		{"missing field", "POST", "/v1/devices", js, `{"name":"a"}`, 400, "profile"},
		{"empty name", "POST", "/v1/devices", js, `{"name":"","profile":"device"}`, 400, "body.name"},
		{"no JSON", "POST", "/v1/devices", js, `{"name":`, 400, ""},
		{"two values", "POST", "/v1/devices", js, `{"name":"a","profile":"device"} {}`, 400, ""},
		{"no body", "POST", "/v1/devices", js, ``, 400, ""},
		{"null", "POST", "/v1/devices", js, `null`, 400, ""},
		{"a form", "POST", "/v1/devices", "application/x-www-form-urlencoded", `name=a`, 400, ""},
		{"deep", "POST", "/v1/devices", js, strings.Repeat("[", 20000), 400, ""},
		{"too long", "POST", "/v1/devices", js, `{"name":"` + strings.Repeat("a", 2<<20) + `"}`, 413, ""},
		{"long value", "POST", "/v1/devices", js, `{"name":"` + strings.Repeat("é", 1000) + `","profile":"device"}`, 400, "body.name"},
		{"bad UTF-8", "POST", "/v1/devices", js, "{\"name\":\"a\xff\",\"profile\":\"device\"}", 400, ""},
		{"no certificate", "POST", "/v1/devices", js, `{"name":"a","profile":"device","birth":"-----BEGIN RSA PRIVATE KEY-----"}`, 400, "birth"},
		{"no length of time", "POST", "/v1/devices", js, `{"name":"a","profile":"device","token":true,"token_life":"-1h"}`, 400, "token_life"},
		{"unknown query", "GET", "/v1/devices?colour=red", "", "", 400, "query.colour"},
		{"limit", "GET", "/v1/devices?limit=1001", "", "", 400, "query.limit"},
		{"no number", "GET", "/v1/devices?limit=ten", "", "", 400, "query.limit"},
		{"no time", "GET", "/v1/devices?expires_before=tomorrow", "", "", 400, "query.expires_before"},
		{"unknown state", "GET", "/v1/devices?state=happy", "", "", 400, "query.state"},
		{"unknown kind of key", "GET", "/v1/devices?algorithm=rsa", "", "", 400, "there is no kind of key"},
		{"unknown kind of key, counted", "GET", "/v1/inventory/count?algorithm=P-256", "", "", 400, "ec-p256, ec-p384"},
		{"tag without key", "GET", "/v1/devices?tag=%3Dx", "", "", 400, "KEY=VALUE"},
		{"root without an older one", "GET", "/v1/anchors/root/missing", "", "", 409, "no root is tracked now"},
		{"negative index", "GET", "/v1/audit/proof/-1", "", "", 400, ""},
		{"index over int64", "GET", "/v1/audit/proof/99999999999999999999", "", "", 400, ""},
		{"SQL in a name", "GET", "/v1/devices/x'%20OR%201=1--", "", "", 404, ""},
		{"NUL in a name", "GET", "/v1/devices/%00", "", "", 404, ""},
		{"dots", "GET", "/v1/devices/%2E%2E", "", "", 404, ""},
		{"no route", "GET", "/v2/devices", "", "", 404, "/openapi.yaml"},
		{"no route at all", "GET", "/", "", "", 404, ""},
		{"wrong method", "DELETE", "/v1/devices/a", "", "", 405, "GET, PATCH"},
		{"import of a picture", "POST", "/v1/devices/import", "image/png", "x", 400, "text/csv"},
		{"import too long", "POST", "/v1/devices/import", "text/csv", "name,profile\n" + strings.Repeat("x", 1000), 413, ""},
		{"import without columns", "POST", "/v1/devices/import", "text/csv", "", 400, "name the columns"},
		{"import of tokens for ever", "POST", "/v1/devices/import?tokens=true&token_life=1000000h", "text/csv", "name,profile\na,device\n", 400, "token_life"},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, header, body := call(c.method, c.path, c.contentType, c.body)
			if status != c.want || !strings.Contains(body, c.says) || len(body) > 8000 {
				t.Errorf("got %d %.500s, want %d with %q", status, body, c.want, c.says)
			}
			if strings.Contains(body, "PRIVATE KEY") {
				t.Errorf("the answer repeats what was sent: %.500s", body)
			}
			if c.want != 405 && header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("got %s, want a problem", header.Get("Content-Type"))
			}
		})
	}
	if logs := p.logs.String(); strings.Contains(logs, "panicked") || strings.Contains(logs, "PRIVATE KEY") {
		t.Errorf("the log shows a panic or a secret:\n%s", logs)
	}
}

// TestBrowsersOfOtherSitesAreRefused sends what a browser adds.
func TestBrowsersOfOtherSitesAreRefused(t *testing.T) {
	p := start(t, nil)
	q, err := http.NewRequestWithContext(t.Context(), "POST", "http://mooring/v1/devices", strings.NewReader(`{"name":"a","profile":"device"}`))
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Content-Type", "application/json")
	q.Header.Set("Sec-Fetch-Site", "cross-site")
	r, err := p.unix(t).Do(q)
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != http.StatusForbidden {
		t.Errorf("got %d, want 403", r.StatusCode)
	}
	if _, err := p.local(t).Device(t.Context(), "a"); status(err) != http.StatusNotFound {
		t.Errorf("the device was added: %v", err)
	}
}

func TestTheClientSaysWhatToDo(t *testing.T) {
	p := start(t, nil)
	auditor := p.operator(t, "reader", "auditor")
	_, err := auditor.NewToken(t.Context(), "reader", 0)
	if status(err) != http.StatusForbidden || !strings.Contains(err.Error(), "device.token") || !strings.Contains(err.Error(), "whoami") {
		t.Errorf("got %v, want the permission and what to do", err)
	}
	_, err = client.New(t.TempDir() + "/nobody").WhoAmI(t.Context())
	var away *client.Unreachable
	if !errors.As(err, &away) || !strings.Contains(err.Error(), "mooring serve") {
		t.Errorf("got %v, want the advice to start the server", err)
	}
	for _, address := range []string{"http://127.0.0.1", "127.0.0.1:8444", "https://127.0.0.1/path", "https://u:p@127.0.0.1"} {
		if _, err := client.NewTLS(address, nil, nil, nil); err == nil || !strings.Contains(err.Error(), "https://pki.example.com:9443") {
			t.Errorf("address %q: %v", address, err)
		}
	}
}
