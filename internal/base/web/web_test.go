package web

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"mooring/internal/base/errs"
)

func TestEveryKindHasItsOwnStatus(t *testing.T) {
	seen := map[int]errs.Kind{}
	for _, k := range errs.Kinds() {
		status := Status(errs.New(k, "x"))
		if other, twice := seen[status]; twice {
			t.Errorf("kinds %v and %v both give %d", k, other, status)
		}
		if (k == errs.Internal) != (status == 500) {
			t.Errorf("kind %v gives %d", k, status)
		}
		seen[status] = k
	}
	if got := Status(fmt.Errorf("reading: %w", TooLarge(5))); got != 413 {
		t.Errorf("too large gives %d, want 413", got)
	}
}

func TestRefusalsShowPublicTextOnly(t *testing.T) {
	secret := errors.New("dial 10.0.0.7: password hunter2")
	for _, row := range []struct {
		refuse Refuser
		err    error
		status int
		kind   string
		body   string
	}{
		{Text, errs.Wrap(errs.Invalid, secret, "the CSR is not base64"), 400, "text/plain; charset=utf-8", "the CSR is not base64\n"},
		{Text, secret, 500, "text/plain; charset=utf-8", "internal error\n"},
		{Problem, errs.WithRetry(errs.Wrap(errs.Unavailable, secret, "try later"), 1500*time.Millisecond), 503, "application/problem+json",
			`{"title":"Service Unavailable","status":503,"detail":"try later"}` + "\n"},
		{Problem, secret, 500, "application/problem+json", `{"title":"Internal Server Error","status":500,"detail":"internal error"}` + "\n"},
	} {
		w := httptest.NewRecorder()
		row.refuse(w, httptest.NewRequest("GET", "/", nil), row.err)
		h := w.Header()
		if w.Code != row.status || h.Get("Content-Type") != row.kind || w.Body.String() != row.body || h.Get("Content-Length") != fmt.Sprint(len(row.body)) {
			t.Errorf("%v: got %d %v %q, want %d %s %q", row.err, w.Code, h, w.Body, row.status, row.kind, row.body)
		}
		if row.status == 503 && h.Get("Retry-After") != "2" {
			t.Errorf("Retry-After %q, want 2", h.Get("Retry-After"))
		}
	}
}

// serve starts h on a real socket with o's timeouts and returns its address.
func serve(t *testing.T, h http.Handler, o Options) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o.Handler = h
	for _, d := range []*time.Duration{&o.Header, &o.Body, &o.Idle} {
		if *d == 0 {
			*d = time.Minute
		}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	server := NewServer(o)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Close()
		<-ended
	})
	return listener.Addr().String()
}

func TestBodiesAreBounded(t *testing.T) {
	for _, wrap := range []struct {
		name string
		h    http.Handler
	}{
		{"ReadBody", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := ReadBody(w, r, 8)
			if err != nil {
				Text(w, r, err)
				return
			}
			Write(w, 200, "text/plain", body)
		})},
		{"LimitBodies", LimitBodies(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				Text(w, r, err)
				return
			}
			Write(w, 200, "text/plain", body)
		}), 8)},
	} {
		address := serve(t, wrap.h, Options{})
		for _, row := range []struct {
			name   string
			body   io.Reader
			status int
			want   string
		}{
			{"empty", strings.NewReader(""), 200, ""},
			{"exact", strings.NewReader("12345678"), 200, "12345678"},
			{"announced too long", strings.NewReader("123456789"), 413, "the body has more than the 8 octets allowed here\n"},
			{"chunked", io.MultiReader(strings.NewReader("1234"), strings.NewReader("5678")), 200, "12345678"},
			{"chunked too long", io.MultiReader(strings.NewReader("12345"), strings.NewReader("6789")), 413, "the body has more than the 8 octets allowed here\n"},
		} {
			response, err := http.Post("http://"+address, "text/plain", row.body)
			if err != nil {
				t.Fatal(err)
			}
			got, _ := io.ReadAll(response.Body)
			response.Body.Close()
			if response.StatusCode != row.status || string(got) != row.want || response.ContentLength != int64(len(row.want)) {
				t.Errorf("%s, %s: got %d %q length %d, want %d %q", wrap.name, row.name, response.StatusCode, got, response.ContentLength, row.status, row.want)
			}
		}
	}
}

func TestSlowClientsAreCutOff(t *testing.T) {
	errors := make(chan error, 1)
	address := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := ReadBody(w, r, 100)
		errors <- err
		Text(w, r, err)
	}), Options{Header: 50 * time.Millisecond, Body: 100 * time.Millisecond})
	for _, sent := range []string{"", "GET / HTTP/1.1\r\nHost: x\r\n", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\nabc"} {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, sent); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, c); err != nil && !strings.Contains(err.Error(), "reset") { // ends only when the server closes
			t.Errorf("after %q: %v", sent, err)
		}
		c.Close()
	}
	if err := <-errors; !errs.Is(err, errs.Unavailable) {
		t.Errorf("slow body: %v, want Unavailable", err)
	}
}

// logged is a buffer that the server's goroutines write and the test reads.
type logged struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.Write(p)
}

// take returns what was written since the last take.
func (l *logged) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.buffer.Reset()
	return l.buffer.String()
}

// A client that goes away while it is served is no fault of the platform, for which somebody would have to get up.
func TestAClientThatWentAwayIsNoAlarm(t *testing.T) {
	var log logged
	gone, leave := context.WithCancel(t.Context())
	leave()
	fail := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		Problem(w, r, fmt.Errorf("fetching the key: %w", context.Canceled))
	})
	observer := Observer{Surface: "est", Log: slog.New(slog.NewJSONHandler(&log, nil)), Now: time.Now, Refuse: Problem}
	for ctx, level := range map[context.Context]string{gone: "WARN", t.Context(): "ERROR"} {
		observer.Wrap(fail).ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil))
		if written := log.take(); !strings.Contains(written, `"level":"`+level+`"`) {
			t.Errorf("want the level %s: %s", level, written)
		}
	}
}

func TestObserverLogsCountsAndSurvives(t *testing.T) {
	var log logged
	counters := &Counters{}
	now := time.Unix(1000, 0) // moved by one handler; requests come one after the other
	mux := http.NewServeMux()
	mux.HandleFunc("GET /device/{id}", func(w http.ResponseWriter, _ *http.Request) {
		now = now.Add(30 * time.Millisecond)
		Write(w, 200, "text/plain", []byte("hello"))
	})
	mux.HandleFunc("GET /fault", func(w http.ResponseWriter, r *http.Request) { Problem(w, r, errors.New("disk is full")) })
	mux.HandleFunc("GET /away", func(w http.ResponseWriter, r *http.Request) {
		Problem(w, r, errs.WithRetry(errs.Wrap(errs.Unavailable, errors.New("disk is full"), "not now"), time.Second))
	})
	mux.HandleFunc("GET /known", func(w http.ResponseWriter, r *http.Request) {
		Annotate(r, slog.String("profile", "meter"))
		Text(w, r, errs.New(errs.Denied, "no"))
	})
	mux.HandleFunc("GET /panic", func(http.ResponseWriter, *http.Request) { panic("boom") })
	mux.HandleFunc("GET /late", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = w.Write([]byte("half"))
		_ = http.NewResponseController(w).Flush()
		panic("boom")
	})
	observer := Observer{Surface: "api", Log: slog.New(slog.NewJSONHandler(&log, nil)), Now: func() time.Time { return now }, Refuse: Problem, Counters: counters}
	address := serve(t, observer.Wrap(mux), Options{})

	for _, row := range []struct {
		path   string
		status int
		line   map[string]any
	}{
		{"/device/secret-name?token=hunter2", 200, map[string]any{"level": "INFO", "route": "GET /device/{id}", "status": 200.0, "octets": 5.0, "took": 3e7, "method": "GET", "surface": "api"}},
		{"/fault", 500, map[string]any{"level": "ERROR", "route": "GET /fault", "refused": "internal", "cause": "disk is full"}},
		{"/away", 503, map[string]any{"level": "WARN", "refused": "unavailable", "cause": "not now: disk is full"}},
		{"/known", 403, map[string]any{"level": "INFO", "refused": "denied", "profile": "meter", "cause": nil}},
		{"/panic", 500, map[string]any{"level": "ERROR", "route": "GET /panic", "status": 500.0}},
		{"/nowhere", 404, map[string]any{"level": "INFO", "route": "unmatched", "status": 404.0}},
		{"/late", 0, map[string]any{"route": "GET /late", "octets": 4.0}},
	} {
		response, err := http.Get("http://" + address + row.path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if row.status == 0 && err == nil || row.status != 0 && response.StatusCode != row.status {
			t.Errorf("%s: status %d, body %q, %v", row.path, response.StatusCode, body, err)
		}
		written := log.take()
		if row.path == "/panic" && (!strings.Contains(written, "observe.go") || strings.Contains(string(body), "boom")) {
			t.Errorf("panic: log without a stack or answer with the cause: %s %s", written, body)
		}
		lines := strings.Split(strings.TrimSpace(written), "\n")
		var got map[string]any
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &got); err != nil {
			t.Fatalf("%s: %v in %q", row.path, err, lines)
		}
		for k, v := range row.line {
			if got[k] != v {
				t.Errorf("%s: %s is %v, want %v", row.path, k, got[k], v)
			}
		}
		if strings.Contains(written, "hunter2") || strings.Contains(written, "secret-name") || strings.Contains(written, "127.0.0.1") {
			t.Errorf("%s: the log tells too much: %s", row.path, written)
		}
	}
	for _, c := range counters.Metrics() {
		if c.Route == "GET /device/{id}" {
			if c.Class != "2xx" || c.Count != 1 || c.Seconds != 0.03 || c.Buckets[4] != 0 || c.Buckets[5] != 1 || c.Buckets[12] != 1 {
				t.Errorf("counted %+v", c)
			}
			return
		}
	}
	t.Errorf("not counted: %+v", counters.Metrics())
}

func TestAddressIgnoresForwardingHeaders(t *testing.T) {
	for remote, want := range map[string]string{"192.0.2.1:5": "192.0.2.1", "[::ffff:192.0.2.1]:5": "192.0.2.1", "[fe80::1%eth0]:5": "fe80::1", "@": "invalid IP"} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = remote
		r.Header.Set("X-Forwarded-For", "203.0.113.9")
		r.Header.Set("Forwarded", "for=203.0.113.9")
		if got := Address(r).String(); got != want {
			t.Errorf("%s: got %s, want %s", remote, got, want)
		}
	}
}

func TestMethodNotAllowed(t *testing.T) {
	w := httptest.NewRecorder()
	MethodNotAllowed(w, "GET", "HEAD")
	if w.Code != 405 || w.Header().Get("Allow") != "GET, HEAD" || w.Body.String() != "this address answers only GET, HEAD\n" {
		t.Errorf("got %d %v %q", w.Code, w.Header(), w.Body)
	}
}

func TestOversizedHeadersAreRefused(t *testing.T) {
	address := serve(t, http.NotFoundHandler(), Options{})
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() { // the server may close before all is written
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("a", 64<<10)+"\r\n\r\n")
	}()
	response, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != 431 {
		t.Errorf("got %d, want 431", response.StatusCode)
	}
}
