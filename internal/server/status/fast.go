package status

import (
	"bytes"
	"encoding/base64"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"mooring/internal/base/web"
	"mooring/internal/core/revoke"
	"mooring/wire/ocsp"
)

// FastDeps is what Fast stands on.
type FastDeps struct {
	Revoke   *revoke.Service
	Now      func() time.Time
	Counters *web.Counters // of the surface; nil: not counted
}

// Fast returns a handler that answers OCSP questions out of the cache by itself and passes everything else on to next, the handler of New
// with whatever watches it. It stands behind the gate's limits and before the observer: these answers are counted like others, but each is
// not worth a line in the log, which would cost more than the answer.
//
// It takes what nearly all clients send: a POST with a length, or a GET without conditions, for one certificate without nonce.
func Fast(d FastDeps, next http.Handler) http.Handler {
	f := &fast{FastDeps: d, next: next, meter: d.Counters.Meter(ocspPath, http.StatusOK),
		mediaType: []string{typeResponse}, noStore: []string{"no-store"}, noSniff: []string{"nosniff"},
		buffers: sync.Pool{New: func() any { return new([ocsp.MaxRequest]byte) }}}
	return f
}

type fast struct {
	FastDeps
	next    http.Handler
	meter   *web.Meter
	buffers sync.Pool // of *[ocsp.MaxRequest]byte

	mediaType, noStore, noSniff []string // values of headers; shared
}

// ServeHTTP answers r or passes it on.
func (f *fast) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.HasPrefix(r.RequestURI, ocspPath) {
		f.next.ServeHTTP(w, r)
		return
	}
	began := f.Now()
	var answer *revoke.Answer
	switch {
	case r.Method == http.MethodPost && r.ContentLength > 0 && r.ContentLength <= ocsp.MaxRequest && (r.RequestURI == ocspPath || r.RequestURI == ocspPrefix) && isRequest(r.Header):
		answer = f.fromBody(r)
	case r.Method == http.MethodGet && !conditional(r.Header):
		answer = f.fromPath(r.RequestURI)
	}
	if answer == nil {
		f.next.ServeHTTP(w, r)
		return
	}
	h := w.Header()
	if r.Method == http.MethodGet {
		prepareAnswer(answer).set(h, began.Unix())
	} else {
		h["Content-Type"], h["Cache-Control"] = f.mediaType, f.noStore
	}
	h["X-Content-Type-Options"] = f.noSniff
	h["Content-Length"] = []string{strconv.Itoa(len(answer.DER))}
	_, _ = w.Write(answer.DER) // the client has gone; nobody is left to tell
	f.meter.Observe(f.Now().Sub(began))
}

func isRequest(h http.Header) bool {
	t := h["Content-Type"]
	return len(t) == 1 && t[0] == typeRequest
}

// conditional reports whether a GET wants something else than the whole answer.
func conditional(h http.Header) bool {
	for _, name := range [...]string{"If-None-Match", "If-Modified-Since", "If-Match", "If-Unmodified-Since", "Range", "If-Range"} {
		if len(h[name]) > 0 {
			return true
		}
	}
	return false
}

// fromBody looks for the answer to the question in the body. When there is none it leaves the body as it was.
func (f *fast) fromBody(r *http.Request) *revoke.Answer {
	buffer := f.buffers.Get().(*[ocsp.MaxRequest]byte)
	defer f.buffers.Put(buffer)
	n, err := io.ReadFull(r.Body, buffer[:r.ContentLength])
	if err == nil {
		if answer := f.Revoke.KeptOCSP(buffer[:n]); answer != nil {
			return answer
		}
	}
	rest := io.Reader(r.Body)
	if err != nil {
		rest = broken{err} // what went wrong once is told again
	}
	r.Body = &unread{io.MultiReader(bytes.NewReader(bytes.Clone(buffer[:n])), rest), r.Body}
	return nil
}

// unread is a body of which a part was read.
type unread struct {
	io.Reader
	io.Closer
}

// broken is a reader that only fails.
type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }

// fromPath looks for the answer to the question in the path.
func (f *fast) fromPath(uri string) *revoke.Answer {
	text, ok := strings.CutPrefix(uri, ocspPrefix)
	if !ok {
		return nil
	}
	buffer := f.buffers.Get().(*[ocsp.MaxRequest]byte)
	defer f.buffers.Put(buffer)
	request, ok := decodePath(buffer[:], text)
	if !ok {
		return nil
	}
	return f.Revoke.KeptOCSP(request)
}

// decodePath is ocsp.DecodePath without allocation, for what fits into buffer.
func decodePath(buffer []byte, text string) ([]byte, bool) {
	if len(text) > len(buffer) {
		return nil, false
	}
	plain := buffer[:0]
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c == '%' {
			if i+2 >= len(text) {
				return nil, false
			}
			high, low := unhex(text[i+1]), unhex(text[i+2])
			if high > 15 || low > 15 {
				return nil, false
			}
			c, i = high<<4|low, i+2
		} else if c == '?' {
			return nil, false
		}
		if c == '\r' || c == '\n' {
			return nil, false
		}
		plain = append(plain, c)
	}
	encoding := base64.StdEncoding
	if len(plain) == 0 || plain[len(plain)-1] != '=' {
		encoding = base64.RawStdEncoding
	}
	n, err := encoding.Strict().Decode(plain, plain) // what is written is behind what is read
	return plain[:n], err == nil
}

func unhex(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	}
	return 0xff
}
