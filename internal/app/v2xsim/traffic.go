package v2xsim

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// Where a message was sent.
type surface byte

const (
	toEnrolment     surface = iota + 1 // from vehicles to the enrolment authority
	toAuthorization                    // from vehicles to the authorization authority
	toValidation                       // from the authorization authority to the enrolment authority
	toDistribution                     // from vehicles to the distribution centre
	toButterfly                        // from vehicles to the registration authority: requests for butterfly tickets
	toDownload                         // and for archives of them
	toIssuing                          // from the registration authority to the authorization authority
)

// message is a request and its answer, as they went over the wire. The answer is empty if there was none.
type message struct {
	to              surface
	request, answer []byte
}

// traffic keeps in a file what is sent, for what each authority saw to be looked at afterwards.
type traffic struct {
	mu   sync.Mutex
	file *os.File      // guarded by mu
	to   *bufio.Writer // guarded by mu
}

func record(path string) (*traffic, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return &traffic{file: f, to: bufio.NewWriterSize(f, 1<<16)}, nil
}

func (t *traffic) add(m message) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var head [9]byte
	head[0] = byte(m.to)
	binary.BigEndian.PutUint32(head[1:], uint32(len(m.request)))
	binary.BigEndian.PutUint32(head[5:], uint32(len(m.answer)))
	_, err := t.to.Write(head[:])
	_, err2 := t.to.Write(m.request)
	_, err3 := t.to.Write(m.answer)
	return errors.Join(err, err2, err3)
}

// each goes through all messages, in the order in which their answers came.
func (t *traffic) each(do func(message) error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.to.Flush(); err != nil {
		return err
	}
	if _, err := t.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	in := bufio.NewReaderSize(t.file, 1<<16)
	for {
		var head [9]byte
		_, err := io.ReadFull(in, head[:])
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		m := message{to: surface(head[0]), request: make([]byte, binary.BigEndian.Uint32(head[1:])), answer: make([]byte, binary.BigEndian.Uint32(head[5:]))}
		_, err = io.ReadFull(in, m.request)
		_, err2 := io.ReadFull(in, m.answer)
		if err := errors.Join(err, err2); err != nil {
			return fmt.Errorf("reading %s: %w", t.file.Name(), err)
		}
		if err := do(m); err != nil {
			return err
		}
	}
}

func (t *traffic) close() error {
	if t == nil {
		return nil
	}
	return t.file.Close()
}

// recorder is the network of the vehicles: each request goes over a connection of its own, and is recorded.
type recorder struct {
	*traffic
	base http.RoundTripper
}

func newRecorder(t *traffic) *recorder {
	return &recorder{t, &http.Transport{DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 16 << 10}}
}

// RoundTrip implements http.RoundTripper.
func (r *recorder) RoundTrip(q *http.Request) (*http.Response, error) {
	m := message{to: toDistribution, request: []byte(q.URL.Path)}
	if q.Body != nil {
		var err error
		if m.request, err = io.ReadAll(q.Body); err != nil {
			return nil, err
		}
		switch {
		case strings.HasSuffix(q.URL.Path, "/enrolment"):
			m.to = toEnrolment
		case strings.HasSuffix(q.URL.Path, "/butterfly"):
			m.to = toButterfly
		default:
			m.to = toAuthorization
		}
		q = q.Clone(q.Context())
		q.Body = io.NopCloser(bytes.NewReader(m.request))
	}
	if text := q.Header.Get("Ieee-1609.2.1-Authorization"); text != "" {
		var err error
		if m.request, err = base64.StdEncoding.DecodeString(text); err != nil {
			return nil, err
		}
		m.to = toDownload
	}
	a, err := r.base.RoundTrip(q)
	if err != nil {
		return nil, errors.Join(err, r.add(m))
	}
	m.answer, err = io.ReadAll(a.Body)
	a.Body.Close()
	if err := errors.Join(err, r.add(m)); err != nil {
		return nil, err
	}
	a.Body = io.NopCloser(bytes.NewReader(m.answer))
	return a, nil
}

// tap stands where one authority answers another one, hands everything on, and records it.
type tap struct {
	*traffic
	surface surface
	passed  func() error // called when an answer has come and before it goes on; nil: nothing
	to      string       // URL of the authority
	client  *http.Client
	server  *http.Server
	at      net.Listener
}

// newTap listens; serve has to be called.
func newTap(to string) (*tap, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &tap{to: to, at: l, client: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}}}
	p.server = &http.Server{Handler: p, ReadHeaderTimeout: 10 * time.Second}
	return p, nil
}

func (p *tap) url() string { return "http://" + p.at.Addr().String() }

func (p *tap) serve(t *traffic, to surface, passed func() error) {
	p.traffic, p.surface, p.passed = t, to, passed
	go func() { _ = p.server.Serve(p.at) }() // it ends with close
}

func (p *tap) close() error {
	if p == nil {
		return nil
	}
	if p.traffic == nil { // it does not serve yet
		return p.at.Close()
	}
	return p.server.Close()
}

// ServeHTTP implements http.Handler. Whom it cannot reach is a gateway's error to the authorization authority, as it would be on a real network.
func (p *tap) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		http.Error(w, "the request broke off", http.StatusBadRequest)
		return
	}
	status, kind, answer, err := p.hand(r, body)
	if err := errors.Join(err, p.add(message{p.surface, body, answer})); err != nil {
		http.Error(w, "the authority cannot be reached", http.StatusBadGateway)
		return
	}
	if p.passed != nil {
		if err := p.passed(); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
	}
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(status)
	_, _ = w.Write(answer) // who asked is gone
}

func (p *tap) hand(r *http.Request, body []byte) (status int, kind string, answer []byte, err error) {
	q, err := http.NewRequestWithContext(r.Context(), r.Method, p.to+r.URL.Path, bytes.NewReader(body))
	if err != nil {
		return 0, "", nil, err
	}
	q.Header.Set("Content-Type", r.Header.Get("Content-Type"))
	a, err := p.client.Do(q)
	if err != nil {
		return 0, "", nil, err
	}
	defer a.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(a.Body, 1<<20))
	return a.StatusCode, a.Header.Get("Content-Type"), answer, err
}
