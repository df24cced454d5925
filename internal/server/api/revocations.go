package api

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/device"
	"mooring/internal/core/revoke"
	"mooring/internal/server/api/v1"
	"mooring/internal/server/gate"
)

const aboutEvents = `Server-sent events: each has the data of a RevocationEvent, the kind as its name and, once it has its place in the record, the id
from which EventSource goes on by itself (Last-Event-ID). What this server does comes at once, without an id, and again with it. A comment comes
every 15 seconds, so that silence means a broken connection. A reader who does not keep up is cut off and goes on from the last id. `

type revocationEventsInput struct {
	From int64  `query:"from" minimum:"-1" default:"-1" doc:"Cursor to begin with: 0 for everything, -1 for the present" example:"73895"`
	Last string `header:"Last-Event-ID" maxLength:"20" doc:"The last id that was seen: goes before from" example:"73894"`
}

// eventsRoute declares the answer.
func eventsRoute(s *server, a huma.API, op huma.Operation) {
	// The schema is of the data of one event; there is none for the stream of them.
	describe(&op, "text/event-stream", a.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[v1.RevocationEvent](), true, ""))
	serve(a, op, writes(s, (*server).revocationEvents))
}

func (s *server) revocationEvents(w http.ResponseWriter, r *http.Request, actor access.Actor, in *revocationEventsInput) error {
	from := in.From
	if in.Last != "" {
		last, err := strconv.ParseInt(in.Last, 10, 64)
		if err != nil || last < -1 {
			return errs.New(errs.Invalid, "the header Last-Event-ID is %q: it must be an id that this server gave", shortened(in.Last))
		}
		from = last + 1
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	go cancelWhenDraining(ctx, r, cancel)
	lift(http.NewResponseController(w))
	e := &events{w: w, c: http.NewResponseController(w)}
	err := s.Revoke.Watch(ctx, actor, from, e.tell)
	if !e.on || e.err != nil || err == nil {
		return e.begun(err)
	}
	return e.fail(err)
}

// cancelWhenDraining calls cancel when the listener is about to stop: a server that stops must not wait for those who watch. It returns when ctx ends.
func cancelWhenDraining(ctx context.Context, r *http.Request, cancel context.CancelFunc) {
	select {
	case <-gate.Draining(r):
		cancel()
	case <-ctx.Done():
	}
}

// events writes server-sent events (HTML Living Standard, section 9.2).
type events struct {
	w   http.ResponseWriter
	c   *http.ResponseController
	on  bool
	err error // why nothing more can be written
}

// begun returns err as long as it can be an ordinary refusal.
func (e *events) begun(err error) error {
	if e.on {
		return nil
	}
	return err
}

func (e *events) tell(ev revoke.Event) error {
	if ev.Kind == revoke.Alive {
		if ev.Cursor == 0 {
			return e.write(": alive\n\n")
		}
		return e.write(fmt.Sprintf(": alive\nid: %d\n\n", ev.Cursor-1)) // an id without data moves the reader's place and is no event
	}
	out := v1.RevocationEvent{Kind: string(ev.Kind), Serial: hex.EncodeToString(ev.Serial), Issuer: ev.Issuer.String(), Key: ev.Key, Reason: ev.Reason.String(), At: moment(ev.At)}
	if ev.Device != (device.ID{}) {
		out.Device = ev.Device.String()
	}
	id := ""
	if ev.Cursor >= 0 {
		out.Cursor = &ev.Cursor
		id = fmt.Sprintf("id: %d\n", ev.Cursor)
	}
	data, err := json.Marshal(out)
	if err != nil {
		return fmt.Errorf("encoding an event: %w", err)
	}
	return e.write(fmt.Sprintf("%sevent: %s\ndata: %s\n\n", id, ev.Kind, data))
}

// fail tells why the stream ends.
func (e *events) fail(cause error) error {
	data, err := json.Marshal(v1.Problem{Title: http.StatusText(http.StatusServiceUnavailable), Status: http.StatusServiceUnavailable, Detail: errs.Public(cause)})
	if err != nil {
		return nil
	}
	_ = e.write(fmt.Sprintf("event: error\ndata: %s\n\n", data)) // the reader may be gone
	return nil
}

func (e *events) write(text string) error {
	if e.err != nil {
		return e.err
	}
	if !e.on {
		e.begin()
	}
	watch := time.AfterFunc(patience, func() { _ = e.c.SetWriteDeadline(passed()) }) // fails only where there are no deadlines
	defer watch.Stop()
	if _, e.err = e.w.Write([]byte(text)); e.err == nil {
		e.err = e.c.Flush()
	}
	return e.err
}

func (e *events) begin() {
	e.on = true
	_ = e.c.SetWriteDeadline(time.Time{}) // where it fails there are no deadlines to lift
	h := e.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Connection", "close") // deadlines were moved: no other request shall meet them
	e.w.WriteHeader(http.StatusOK)
}
