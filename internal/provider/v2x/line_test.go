package v2x

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"mooring/wire/its"
	"mooring/wire/scr"
)

// authority answers what it is asked, and counts its connections.
type authority struct {
	*httptest.Server
	made  atomic.Int64
	asked atomic.Int64
}

func newAuthority(t *testing.T, answer http.HandlerFunc) *authority {
	t.Helper()
	a := &authority{}
	a.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { a.asked.Add(1); answer(w, r) }))
	a.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			a.made.Add(1)
		}
	}
	a.Start()
	t.Cleanup(a.Close)
	return a
}

// echo answers with the question.
func echo(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err != nil || r.Method != http.MethodPost || r.URL.Path != "/validation" || r.URL.RawQuery != "a=b" || r.Header.Get("Content-Type") != scr.RequestType {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", scr.ResponseType)
	_, _ = w.Write(b)
}

// Many questions at once get each its own answer, over few connections.
func TestValidate(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, echo)
	c := New()
	const clients, each = 8, 20
	var all sync.WaitGroup
	for k := range clients {
		all.Go(func() {
			for i := range each {
				want := strings.Repeat(fmt.Sprintf("%d-%d ", k, i), 1+500*(i%3))
				got, err := c.Validate(t.Context(), a.URL+"/validation?a=b", []byte(want))
				if err != nil || string(got) != want {
					t.Errorf("got %.20q, %v; want %.20q", got, err, want)
				}
			}
		})
	}
	all.Wait()
	if n := a.made.Load(); n > clients {
		t.Errorf("%d connections for %d clients", n, clients)
	}
}

// A connection that the other side has closed meanwhile is replaced, whether or not that is known when it is used.
func TestValidateAgain(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, echo)
	c := New()
	for i := range 3 {
		if _, err := c.Validate(t.Context(), a.URL+"/validation?a=b", []byte("a question")); err != nil {
			t.Fatalf("question %d: %v", i, err)
		}
		a.CloseClientConnections()
	}
	if a.asked.Load() != 3 || a.made.Load() != 3 {
		t.Errorf("%d questions over %d connections, want 3 over 3", a.asked.Load(), a.made.Load())
	}
}

func TestValidateErrors(t *testing.T) {
	t.Parallel()
	kind := func(kind string, status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"another status": {kind(scr.ResponseType, http.StatusInternalServerError, "x"), "status 500"},
		"a redirection":  {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) }, "status 302"},
		"another type":   {kind("text/html", http.StatusOK, "x"), "text/html"},
		"too long":       {kind(scr.ResponseType, http.StatusOK, strings.Repeat("x", its.MaxRequest+1)), "more than 65536 octets"},
		"a long header": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X", strings.Repeat("x", headerMost+its.MaxRequest))
			kind(scr.ResponseType, http.StatusOK, "x")(w, r)
		}, "EOF"},
		"cut off": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAuthority(t, c.answer)
			client := New()
			for range 2 {
				if got, err := client.Validate(t.Context(), a.URL+"/validation", []byte("a question")); err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("got %.20q, %v; want an error with %q", got, err, c.want)
				}
			}
		})
	}
}

// Who gives up gets away at once, and takes nobody's answer along.
func TestValidateGivenUp(t *testing.T) {
	t.Parallel()
	hold, there := make(chan struct{}), make(chan struct{})
	a := newAuthority(t, func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength == 4 {
			close(there)
			<-hold
		}
		echo(w, r)
	})
	defer close(hold)
	c := New()
	url := a.URL + "/validation?a=b"
	if _, err := c.Validate(t.Context(), url, []byte("first")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { _, err := c.Validate(ctx, url, []byte("hold")); done <- err }()
	<-there
	if _, err := c.Validate(t.Context(), url, []byte("other")); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err == nil {
		t.Error("who gave up got an answer")
	}
	if got, err := c.Validate(t.Context(), url, []byte("after")); err != nil || string(got) != "after" {
		t.Errorf("afterwards: got %q, %v", got, err)
	}
	if _, err := c.Validate(ctx, url, []byte("never")); !errors.Is(err, context.Canceled) {
		t.Errorf("given up before: %v", err)
	}
}

// Addresses that are none of plain HTTP, and too many of them, go by the other client.
func TestTo(t *testing.T) {
	t.Parallel()
	c := New()
	for _, address := range []string{"https://ea.example.com/", "http://user@ea.example.com/", "http:///x", "ftp://ea.example.com", "::"} {
		if c.to(address) != nil {
			t.Errorf("%s is taken for one of plain HTTP", address)
		}
	}
	for i := range hostsMost + 1 {
		if l := c.to(fmt.Sprintf("http://ea%d.example.com/validation", i)); (l != nil) != (i < hostsMost) {
			t.Errorf("address %d: %v", i, l != nil)
		} else if l != nil && l.address != fmt.Sprintf("ea%d.example.com:80", i) {
			t.Errorf("address %d is %s", i, l.address)
		}
	}
	if l := c.to("http://ea1.example.com/validation"); l == nil || l != c.to("http://ea1.example.com/validation") {
		t.Error("an address that is known is not found again")
	}
}

// A message about many tickets has types of its own. Who does not know them says so in one of many ways; who has too much to do knows them.
func TestValidateMany(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		status int
		kind   string
		answer string // "": none
		fails  bool
	}{
		{http.StatusOK, scr.ManyResponseType, "the answer", false}, {http.StatusOK, scr.ResponseType, "", false}, {http.StatusOK, "text/html", "", false},
		{http.StatusBadRequest, scr.ManyResponseType, "", false}, {http.StatusNotFound, "text/html", "", false}, {http.StatusUnsupportedMediaType, "", "", false},
		{http.StatusInternalServerError, "", "", false}, {http.StatusTooManyRequests, "", "", true}, {http.StatusServiceUnavailable, "", "", true},
	} {
		a := newAuthority(t, func(w http.ResponseWriter, r *http.Request) {
			b, err := io.ReadAll(r.Body)
			if err != nil || string(b) != "a question" || r.Header.Get("Content-Type") != scr.ManyRequestType {
				t.Errorf("asked is %q of the type %q, %v", b, r.Header.Get("Content-Type"), err)
			}
			w.Header().Set("Content-Type", row.kind)
			w.WriteHeader(row.status)
			_, _ = io.WriteString(w, "the answer")
		})
		got, err := New().ValidateMany(t.Context(), a.URL+"/validation", []byte("a question"))
		if string(got) != row.answer || got == nil != (row.answer == "") || err != nil != row.fails {
			t.Errorf("status %d, type %q: got %q, %v", row.status, row.kind, got, err)
		}
	}
	a := newAuthority(t, echo)
	a.Close()
	if got, err := New().ValidateMany(t.Context(), a.URL+"/validation", []byte("a question")); err == nil {
		t.Errorf("an authority that is not there answers %q", got)
	}
}
