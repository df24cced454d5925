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
	return &fast{FastDeps: d, next: next, meter: d.Counters.Meter(ocspPath, http.StatusOK),
		mediaType: []string{typeResponse}, noStore: []string{"no-store"}, noSniff: []string{"nosniff"},
		padded: base64.StdEncoding.Strict(), raw: base64.RawStdEncoding.Strict(),
		buffers: sync.Pool{New: func() any { return new([ocsp.MaxRequest]byte) }}}
}

type fast struct {
	FastDeps
	next    http.Handler
	meter   *web.Meter
	buffers sync.Pool // of *[ocsp.MaxRequest]byte

	mediaType, noStore, noSniff []string         // values of headers; shared
	padded, raw                 *base64.Encoding // both strict
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
		answer = f.fromBody(r, began.Unix())
	case r.Method == http.MethodGet && !conditional(r.Header):
		answer = f.fromPath(r.RequestURI, began.Unix())
	}
	if answer == nil {
		f.next.ServeHTTP(w, r)
		return
	}
	h := w.Header()
	if r.Method == http.MethodGet {
		prepareAnswer(answer).set(h, began.Unix())
	} else {
		h["Cache-Control"] = f.noStore
	}
	h["Content-Type"], h["X-Content-Type-Options"] = f.mediaType, f.noSniff
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
func (f *fast) fromBody(r *http.Request, now int64) *revoke.Answer {
	buffer := f.buffers.Get().(*[ocsp.MaxRequest]byte)
	defer f.buffers.Put(buffer)
	n, err := io.ReadFull(r.Body, buffer[:r.ContentLength])
	if err == nil {
		if answer := f.Revoke.KeptOCSP(buffer[:n], now); answer != nil {
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
func (f *fast) fromPath(uri string, now int64) *revoke.Answer {
	text, ok := strings.CutPrefix(uri, ocspPrefix)
	if !ok {
		return nil
	}
	buffer := f.buffers.Get().(*[ocsp.MaxRequest]byte)
	defer f.buffers.Put(buffer)
	request, ok := f.decodePath(buffer[:], text)
	if !ok {
		return nil
	}
	return f.Revoke.KeptOCSP(request, now)
}

// decodePath is ocsp.DecodePath without allocation, for what fits into buffer.
func (f *fast) decodePath(buffer []byte, text string) ([]byte, bool) {
	if len(text) > len(buffer) {
		return nil, false
	}
	plain, ok := unescape(buffer[:0], text)
	if !ok {
		return nil, false
	}
	encoding := f.raw
	if len(plain) > 0 && plain[len(plain)-1] == '=' {
		encoding = f.padded
	}
	n, err := encoding.Decode(plain, plain) // what is written is behind what is read
	return plain[:n], err == nil
}

// unescape undoes percent-encoding. What a path of base64 cannot have, such as a query, is not for the fast way.
func unescape(dst []byte, text string) ([]byte, bool) {
	for {
		at := strings.IndexByte(text, '%')
		if at < 0 {
			dst = append(dst, text...)
			break
		}
		if at+2 >= len(text) {
			return nil, false
		}
		high, low := unhex(text[at+1]), unhex(text[at+2])
		if high > 15 || low > 15 {
			return nil, false
		}
		dst = append(append(dst, text[:at]...), high<<4|low)
		text = text[at+3:]
	}
	return dst, !bytes.ContainsAny(dst, "?\r\n") // the decoder would pass over ends of lines
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
