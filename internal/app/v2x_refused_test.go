package app_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"testing"

	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/wire/scr"
)

// network is one to send from that nobody else does: of one network the record tells ten reasons a minute apart, and here each refusal is to stand there by itself.
type network struct {
	name   string // as the record has it; "": this system has one loopback address, and refusals are looked for among all
	client *http.Client
}

func networkOf(n int) network {
	if runtime.GOOS != "linux" {
		return network{"", http.DefaultClient}
	}
	from := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, byte(n), 1)}}
	return network{fmt.Sprintf("stranger:127.0.%d.0/24", n), &http.Client{Transport: &http.Transport{DialContext: from.DialContext, DisableKeepAlives: true}}}
}

// send sends something of some type, and returns the answer with its body.
func (w network) send(t *testing.T, method, url, kind string, body []byte) (*http.Response, []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	must(t, err)
	r.Header.Set("Content-Type", kind)
	a, err := w.client.Do(r)
	must(t, err)
	defer a.Body.Close()
	octets, err := io.ReadAll(a.Body)
	must(t, err)
	return a, octets
}

// post sends a request of TS 102 941. What is no message has no body, and a message has its type.
func (w network) post(t *testing.T, url string, request []byte) (int, []byte) {
	t.Helper()
	a, body := w.send(t, http.MethodPost, url, scr.RequestType, request)
	if a.StatusCode == http.StatusOK && a.Header.Get("Content-Type") != scr.ResponseType || a.StatusCode == http.StatusBadRequest && len(body) > 0 {
		t.Errorf("ENR-20: status %d with %d octets of the type %q", a.StatusCode, len(body), a.Header.Get("Content-Type"))
	}
	return a.StatusCode, body
}

// refused wants one refusal of an action in the record, with that code.
func (w network) refused(t *testing.T, log *audit.Log, action, code string) {
	t.Helper()
	if w.name == "" {
		if refusals(t, log, action, code) == 0 {
			t.Error("the record has no refusal with the code", code)
		}
		return
	}
	must(t, log.Sequence(t.Context()))
	entries, err := log.List(t.Context(), access.System("test"), audit.Query{Newest: true, Limit: 500, Action: action})
	must(t, err)
	var found []string
	for _, e := range entries {
		if e.Actor == w.name {
			found = append(found, e.Refused)
		}
	}
	if len(found) != 1 || found[0] != code {
		t.Errorf("the record has refused %q to %s, want %q", found, w.name, code)
	}
}

// holdings are how much both authorities have given out, counted and kept.
type holdings struct{ credentials, keys, enrolments, counted, validations, tickets, answers int64 }

func (p *v2xPlatform) holdings(t *testing.T) (h holdings) {
	t.Helper()
	of, apart := p.DB, p.Tickets().DB
	h.credentials, h.keys = rowsOf(t, of, `SELECT COUNT(*) FROM v2x_credential`), rowsOf(t, of, `SELECT COUNT(*) FROM v2x_credential_key`)
	h.enrolments, h.validations = rowsOf(t, of, `SELECT COUNT(*) FROM v2x_enrolment`), rowsOf(t, of, `SELECT COUNT(*) FROM v2x_validation`)
	h.counted = rowsOf(t, of, `SELECT COALESCE(SUM(tickets), 0) FROM v2x_interval`)
	h.tickets, h.answers = rowsOf(t, apart, `SELECT COUNT(*) FROM v2x_ticket`), rowsOf(t, apart, `SELECT COUNT(*) FROM v2x_answer`)
	return h
}

// unchanged wants that nothing was given out, counted or kept since.
func (p *v2xPlatform) unchanged(t *testing.T, before holdings) {
	t.Helper()
	if now := p.holdings(t); now != before {
		t.Errorf("there is %+v, was %+v", now, before)
	}
}
