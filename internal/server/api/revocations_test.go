package api_test

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"mooring/internal/server/api/v1"
)

// The feed tells what was before and what comes, goes on from the last id, and says that it is alive.
func TestRevocationEvents(t *testing.T) {
	p := start(t, nil)
	run(t, p.deps.Audit.Run)
	c, ctx := p.local(t), t.Context()
	var serials []string
	for n := range 3 {
		text, _ := p.credential(t, fmt.Sprint("pump", n), "device")
		block, _ := pem.Decode(text)
		cert := must[*x509.Certificate](t)(x509.ParseCertificate(block.Bytes))
		serials = append(serials, fmt.Sprintf("%x", cert.SerialNumber))
	}
	revoke := func(n int) {
		t.Helper()
		if _, err := c.Revoke(ctx, serials[n], "keyCompromise"); err != nil {
			t.Fatal(err)
		}
	}
	revoke(0)
	watching, stop := context.WithCancel(ctx)
	events, ended := make(chan v1.RevocationEvent, 20), make(chan int64, 1)
	go func() {
		next, _ := c.WatchRevocations(watching, 0, func(e v1.RevocationEvent) error { events <- e; return nil })
		ended <- next
	}()
	placed := func(want string) int64 {
		t.Helper()
		for {
			select {
			case e := <-events:
				if e.Serial != want || e.Kind != "revoke" || e.Reason != "keyCompromise" || e.At.IsZero() || len(e.Key) != 64 {
					t.Fatalf("got %+v, want the revocation of %s", e, want)
				}
				if e.Cursor != nil {
					return *e.Cursor
				}
			case <-time.After(time.Minute):
				t.Fatal("no event came")
			}
		}
	}
	first := placed(serials[0])
	revoke(1)
	second := placed(serials[1])
	if second <= first {
		t.Errorf("the cursor %d follows %d", second, first)
	}
	stop()
	if next := <-ended; next <= second {
		t.Errorf("it goes on from %d, want more than %d", next, second)
	}
	revoke(2)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://mooring/v1/revocations/events?from=0", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Last-Event-ID", fmt.Sprint(first))
	answer, err := p.unix(t).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK || answer.Header.Get("Content-Type") != "text/event-stream" || answer.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("got %s %v", answer.Status, answer.Header)
	}
	var text strings.Builder
	lines := bufio.NewScanner(answer.Body)
	for lines.Scan() && !strings.Contains(text.String(), serials[2]) {
		text.WriteString(lines.Text() + "\n")
	}
	got := text.String()
	if strings.Contains(got, serials[0]) || !strings.Contains(got, serials[1]) || !strings.Contains(got, fmt.Sprintf("id: %d\nevent: revoke\ndata: {", second)) {
		t.Errorf("after the last id %d came:\n%s", first, got)
	}
}

func TestRevocationEventsRefused(t *testing.T) {
	p := start(t, nil)
	for path, want := range map[string]int{"/v1/revocations/events?from=99999999": 400, "/v1/revocations/events?from=-2": 400, "/v1/revocations/events?from=x": 400} {
		r, err := p.unix(t).Get("http://mooring" + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Body.Close()
		if r.StatusCode != want && r.StatusCode != 422 {
			t.Errorf("%s: %s, want %d", path, r.Status, want)
		}
	}
}
