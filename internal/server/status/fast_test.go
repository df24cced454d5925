package status

import (
	"bytes"
	"context"
	"crypto"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"mooring/internal/base/conf"
	"mooring/internal/base/web"
	"mooring/internal/core/revoke"
	"mooring/internal/server/gate"
	"mooring/wire/ocsp"
)

// front serves w's status server as the platform does: behind the gate, with the fast way before the observer.
func (w *world) front(t *testing.T, limits conf.Limits) (address string, counters *web.Counters, log *bytes.Buffer) {
	t.Helper()
	log, counters = new(bytes.Buffer), new(web.Counters)
	g, err := gate.Listen(t.Context(), gate.Options{Name: "status", Address: "127.0.0.1:0", Limits: limits, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	observer := web.Observer{Surface: "status", Log: slog.New(slog.NewTextHandler(log, nil)), Now: time.Now, Refuse: web.Text, Counters: counters}
	handler := Fast(FastDeps{Revoke: w.revoke, Now: time.Now, Counters: counters}, observer.Wrap(web.LimitBodies(New(Deps{Revoke: w.revoke, CA: w.ca, Now: time.Now}), 64<<10)))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.Serve(ctx, handler) }()
	t.Cleanup(func() { cancel(); must(t, <-ended) })
	return g.Addr().String(), counters, log
}

func (w *world) ask(t *testing.T, serial, nonce []byte) []byte {
	t.Helper()
	cert := w.issuer(t, "devices").Certificate()
	ids, err := ocsp.NewIssuer(cert.RawSubject, cert.RawSubjectPublicKeyInfo)
	must(t, err)
	id, err := ids.CertID(crypto.SHA1, serial)
	must(t, err)
	q, err := ocsp.AppendRequest(nil, []ocsp.CertID{id}, nonce)
	must(t, err)
	return q
}

// TestFastEqualsSlow sends the same requests to the handler with and without the fast way and wants the same answers, headers included.
func TestFastEqualsSlow(t *testing.T) {
	w := newWorld(t)
	leaf, _ := w.issue(t, "pump")
	q := w.ask(t, leaf.SerialNumber.Bytes(), nil)
	unknown := w.ask(t, append([]byte{0x41}, make([]byte, 15)...), nil)
	slow := New(Deps{Revoke: w.revoke, CA: w.ca, Now: time.Now})
	passed := 0
	quick := Fast(FastDeps{Revoke: w.revoke, Now: time.Now}, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { passed++; slow.ServeHTTP(rw, r) }))
	typed := [2]string{"Content-Type", "application/ocsp-request"}
	etag := ""
	for _, row := range []struct {
		method, path string
		body         []byte
		header       [2]string
		fast         bool
	}{
		{"POST", "/ocsp", q, typed, true},
		{"POST", "/ocsp/", q, typed, true},
		{"GET", "/ocsp/" + ocsp.EncodePath(q), nil, [2]string{}, true},
		{"GET", "/ocsp/" + strings.ReplaceAll(ocsp.EncodePath(q), "%3D", "="), nil, [2]string{}, true},
		{"HEAD", "/ocsp/" + ocsp.EncodePath(q), nil, [2]string{}, false},
		{"GET", "/ocsp/" + ocsp.EncodePath(q), nil, [2]string{"If-None-Match", "*"}, false},
		{"GET", "/ocsp/" + ocsp.EncodePath(q), nil, [2]string{"Range", "bytes=0-9"}, false},
		{"GET", "/ocsp/" + ocsp.EncodePath(q) + "?x", nil, [2]string{}, false},
		{"GET", "/ocsp/" + ocsp.EncodePath(unknown), nil, [2]string{}, false},
		{"GET", "/ocsp", nil, [2]string{}, false},
		{"GET", "/ocspx", nil, [2]string{}, false},
		{"POST", "/ocsp", q, [2]string{}, false},
		{"POST", "/ocsp", q, [2]string{"Content-Type", "text/plain"}, false},
		{"POST", "/ocsp", q, [2]string{"Content-Type", "application/ocsp-request; charset=x"}, false},
		{"POST", "/ocsp", append(bytes.Clone(q), 0), typed, false},
		{"POST", "/ocsp", make([]byte, ocsp.MaxRequest+1), typed, false},
		{"POST", "/ocsp", nil, typed, false},
		{"POST", "/ocsp/x", q, typed, false},
		{"PUT", "/ocsp", q, typed, false},
	} {
		send := func(h http.Handler) *httptest.ResponseRecorder {
			r := httptest.NewRequest(row.method, row.path, bytes.NewReader(row.body))
			if row.header[0] != "" {
				r.Header.Set(row.header[0], row.header[1])
			}
			out := httptest.NewRecorder()
			h.ServeHTTP(out, r)
			return out
		}
		want, before := send(slow), passed
		got := send(quick)
		if fast := passed == before; fast != row.fast {
			t.Errorf("%s %.30s %v: went the fast way: %v, want %v", row.method, row.path, row.header, fast, row.fast)
		}
		live := row.path == "/ocsp/"+ocsp.EncodePath(unknown) // signed anew each time, and ECDSA signatures differ in length
		if !live && !bytes.Equal(got.Body.Bytes(), want.Body.Bytes()) || got.Code != want.Code {
			t.Errorf("%s %.30s %v: got %d %x, want %d %x", row.method, row.path, row.header, got.Code, got.Body, want.Code, want.Body)
		}
		for name := range want.Header() {
			if g, w := got.Header().Get(name), want.Header().Get(name); g != w && name != "Cache-Control" && name != "Etag" && name != "Accept-Ranges" && !(live && name == "Content-Length") || len(got.Header()) < len(want.Header())-1 {
				t.Errorf("%s %.30s %v: %s is %q, want %q", row.method, row.path, row.header, name, g, w)
			}
		}
		if tag := got.Header().Get("ETag"); row.method == "GET" && row.fast {
			if etag != "" && tag != etag || tag == "" || got.Header().Get("Expires") == "" || !strings.HasPrefix(got.Header().Get("Cache-Control"), "max-age=") {
				t.Errorf("headers of a GET: %v", got.Header())
			}
			etag = tag
		}
	}
}

// TestFastIsCountedAndLimited looks at what stands before and behind the fast way.
func TestFastIsCountedAndLimited(t *testing.T) {
	w := newWorld(t)
	leaf, _ := w.issue(t, "pump")
	limits := conf.Default().Limits
	limits.RequestRate, limits.RequestBurst = 1, 20
	address, counters, log := w.front(t, limits)
	codes := map[int]int{}
	for range 30 {
		r, err := http.Post("http://"+address+"/ocsp", "application/ocsp-request", bytes.NewReader(w.ask(t, leaf.SerialNumber.Bytes(), nil)))
		must(t, err)
		_, err = io.Copy(io.Discard, r.Body)
		must(t, err)
		must(t, r.Body.Close())
		codes[r.StatusCode]++
	}
	if codes[200] < 20 || codes[429] < 8 {
		t.Errorf("answers by status: %v, want about 20 and 10 refused", codes)
	}
	counted := 0
	for _, c := range counters.Metrics() {
		if c.Route == "/ocsp" && c.Class == "2xx" {
			counted = int(c.Count)
		}
	}
	if counted != codes[200] || strings.Count(log.String(), "\n") != 1 {
		t.Errorf("%d of %d answers were counted, and logged:\n%s\nwant the first alone", counted, codes[200], log)
	}
}

// TestAbuse sends what nobody should, over a raw connection, and wants a bounded answer in bounded time, after which the server still works.
func TestAbuse(t *testing.T) {
	w := newWorld(t)
	leaf, _ := w.issue(t, "pump")
	q := w.ask(t, leaf.SerialNumber.Bytes(), nil)
	limits := conf.Default().Limits
	limits.HeaderTimeout, limits.BodyTimeout = 300*time.Millisecond, 300*time.Millisecond
	address, _, _ := w.front(t, limits)
	malformed := string(ocsp.ErrorResponse(ocsp.MalformedRequest))
	post := func(length int, body []byte) string {
		return fmt.Sprintf("POST /ocsp HTTP/1.1\r\nHost: x\r\nContent-Type: application/ocsp-request\r\nContent-Length: %d\r\n\r\n%s", length, body)
	}
	chunked := "POST /ocsp HTTP/1.1\r\nHost: x\r\nContent-Type: application/ocsp-request\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, row := range []struct{ name, send, want string }{
		{"huge GET", "GET /ocsp/" + strings.Repeat("A", 1<<20) + " HTTP/1.1\r\nHost: x\r\n\r\n", "431"},
		{"large GET", "GET /ocsp/" + strings.Repeat("A", 12<<10) + " HTTP/1.1\r\nHost: x\r\n\r\n", malformed},
		{"GET of noise", "GET /ocsp/%00%ff HTTP/1.1\r\nHost: x\r\n\r\n", malformed},
		{"slow POST", post(len(q), q[:10]), ""}, // the time for the answer has passed as well
		{"POST that says too much", post(1<<30, q), malformed},
		{"POST without a length", chunked + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(q), q), "HTTP/1.1 200"},
		{"POST without an end", chunked + fmt.Sprintf("%x\r\n%s", 1<<30, make([]byte, 100)), ""},
		{"POST of two lengths", strings.Replace(post(len(q), q), "\r\n\r\n", "\r\nContent-Length: 1\r\n\r\n", 1), "400"},
		{"empty POST", post(0, nil), malformed},
		{"header that never ends", "POST /ocsp HTTP/1.1\r\nHost: x\r\n", ""},
		{"not HTTP", string(q), "400"},
	} {
		c, err := net.Dial("tcp", address)
		must(t, err)
		must(t, c.SetDeadline(time.Now().Add(time.Minute)))
		_, err = io.WriteString(c, row.send)
		if err == nil && !strings.HasPrefix(row.name, "POST without an end") && !strings.Contains(row.name, "slow") && !strings.Contains(row.name, "never") {
			_ = c.(*net.TCPConn).CloseWrite() // the server may have closed already
		}
		got, err := io.ReadAll(c)
		if os.IsTimeout(err) {
			t.Errorf("%s: the connection was not closed", row.name)
		}
		if !strings.Contains(string(got), row.want) || len(got) > 4<<10 {
			t.Errorf("%s: got %q, %v, want %q in it", row.name, got, err, row.want)
		}
		_ = c.Close() // the connection has done its work
	}
	r, err := http.Post("http://"+address+"/ocsp", "application/ocsp-request", bytes.NewReader(q))
	must(t, err)
	body, err := io.ReadAll(r.Body)
	must(t, err)
	must(t, r.Body.Close())
	if parsed, err := ocsp.ParseResponse(body); err != nil || parsed.Status != ocsp.Successful {
		t.Errorf("after all that: %+v, %v", parsed, err)
	}
}

// TestEveryOctet changes each octet of a request to several values. The answer must be a right one, or say what is wrong, and be cheap.
func TestEveryOctet(t *testing.T) {
	w := newWorld(t)
	leaf, _ := w.issue(t, "pump")
	for _, q := range [][]byte{w.ask(t, leaf.SerialNumber.Bytes(), nil), w.ask(t, leaf.SerialNumber.Bytes(), []byte("0123456789abcdef"))} {
		signed := w.revoke.Metrics().Answers
		seen := map[ocsp.Status]int{}
		for i := range q {
			for _, change := range []byte{0x01, 0x80, 0xff} {
				changed := bytes.Clone(q)
				changed[i] ^= change
				a, err := w.revoke.OCSP(t.Context(), changed)
				if err != nil {
					t.Fatalf("octet %d ^ %#x: %v", i, change, err)
				}
				seen[a.Status]++
				if r, err := ocsp.ParseResponse(a.DER); err != nil || r.Status != a.Status {
					t.Fatalf("octet %d ^ %#x: an answer that cannot be read: %v", i, change, err)
				}
			}
		}
		signed = w.revoke.Metrics().Answers - signed
		if seen[ocsp.MalformedRequest] == 0 || seen[ocsp.Unauthorized] == 0 || seen[ocsp.Successful] == 0 || len(seen) != 3 || int(signed) > seen[ocsp.Successful] {
			t.Errorf("answers by status: %v, %d signed", seen, signed)
		}
	}
}

// FuzzFastPath holds the short decoding of paths to the long one.
func FuzzFastPath(f *testing.F) {
	f.Add("MEI%2FAA%3D%3D")
	f.Add("AAA=")
	f.Add("AA%0AA=")
	quick := Fast(FastDeps{Revoke: &revoke.Service{}, Now: time.Now}, nil).(*fast)
	f.Fuzz(func(t *testing.T, path string) {
		buffer := make([]byte, ocsp.MaxRequest)
		got, ok := quick.decodePath(buffer, path)
		want, err := ocsp.DecodePath(path)
		if ok && (err != nil || !bytes.Equal(got, want)) {
			t.Fatalf("%q: the fast way reads %x, the slow one %x, %v", path, got, want, err)
		}
		if !ok && err == nil && len(path) <= len(buffer) && len(want) > 0 {
			t.Fatalf("%q: %x is not read the fast way", path, want)
		}
	})
}
