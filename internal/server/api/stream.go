package api

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// patience is how long a stream waits for the next octets to arrive or leave.
const patience = time.Minute

// progressEvery is how often a stream tells of progress at most.
const progressEvery = 200 * time.Millisecond

// stream writes JSON lines. The status is sent with the first one, so that what is refused before is an ordinary refusal. A stream may take
// longer than the server allows an answer; it is cut off only when the client does not take what is sent.
type stream struct {
	w    http.ResponseWriter
	c    *http.ResponseController
	now  func() time.Time
	told time.Time // when progress was last told
	on   bool
	err  error // the first one; nothing is written after it
}

func (s *server) stream(w http.ResponseWriter) *stream {
	return &stream{w: w, c: http.NewResponseController(w), now: s.Now}
}

// passed is a deadline in the past: it ends a wait that is under way.
func passed() time.Time { return time.Unix(1, 0) }

func (t *stream) line(v any) error {
	if t.err != nil {
		return t.err
	}
	if !t.on {
		t.begin()
	}
	data, err := json.Marshal(v)
	if err != nil {
		panic("api: encoding a line: " + err.Error()) // messages hold nothing that cannot be encoded
	}
	watch := time.AfterFunc(patience, func() { _ = t.c.SetWriteDeadline(passed()) }) // fails only where there are no deadlines
	defer watch.Stop()
	if _, t.err = t.w.Write(append(data, '\n')); t.err == nil {
		t.err = t.c.Flush()
	}
	return t.err
}

func (t *stream) begin() {
	t.on = true
	_ = t.c.SetWriteDeadline(time.Time{}) // where it fails there are no deadlines to lift
	h := t.w.Header()
	h.Set("Content-Type", "application/jsonl")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Connection", "close") // deadlines were moved: no other request shall meet them
	t.w.WriteHeader(http.StatusOK)
}

// progress tells of progress, unless it has just done so. The first call always does.
func (t *stream) progress(line any) {
	now := t.now()
	if t.on && now.Sub(t.told) < progressEvery {
		return
	}
	t.told = now
	_ = t.line(line) // kept in t.err; a client that is gone ends the request's context
}

// patient is a body that may take any time as long as it does not stop for longer than patience.
type patient struct {
	r io.Reader
	c *http.ResponseController
}

func (p *patient) Read(b []byte) (int, error) {
	watch := time.AfterFunc(patience, func() { _ = p.c.SetReadDeadline(passed()) })
	n, err := p.r.Read(b)
	if !watch.Stop() && err == nil {
		err = fmt.Errorf("nothing came for %s", patience)
	}
	return n, err
}

// lift lets the request take longer than others to arrive. net/http ends a request's context when its read deadline passes, also after the
// body has been read, so there must be none while work goes on.
func lift(c *http.ResponseController) { _ = c.SetReadDeadline(time.Time{}) }
