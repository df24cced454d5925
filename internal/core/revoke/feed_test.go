package revoke

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/ca"
)

// heard collects what a watcher is told.
type heard struct {
	mu     sync.Mutex
	events []Event
	news   chan struct{}
}

func (h *heard) tell(e Event) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if e.Kind != Alive {
		h.events = append(h.events, e)
	}
	select {
	case h.news <- struct{}{}:
	default:
	}
	return nil
}

// placed returns the events that have their place.
func (h *heard) placed() (all []Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.events {
		if e.Cursor >= 0 {
			all = append(all, e)
		}
	}
	return all
}

// until waits for ok.
func (h *heard) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	end := time.After(time.Minute)
	for !ok() {
		select {
		case <-h.news:
		case <-time.After(20 * time.Millisecond):
		case <-end:
			t.Fatalf("%s: heard only %d events", what, len(h.placed()))
		}
	}
}

func (w *world) watch(t *testing.T, s *Service, from int64) (h *heard, stop func() error) {
	t.Helper()
	h = &heard{news: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Watch(ctx, auditor, from, h.tell) }()
	<-h.news // the first sign of life
	return h, func() error { cancel(); return <-ended }
}

func TestWatch(t *testing.T) {
	w := newWorld(t)
	var certs []*ca.Certificate
	for n := range 4 {
		certs = append(certs, w.issue(t, w.add(t, fmt.Sprint("pump", n)).ID, nil))
	}
	must(t, w.log.Sequence(t.Context()))
	h, stop := w.watch(t, w.Service, -1)
	_, err := w.Certificate(t.Context(), operator, certs[0].Serial[:], KeyCompromise)
	must(t, err)
	h.until(t, "at once", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return len(h.events) == 1 })
	if e := h.events[0]; e.Cursor != -1 || e.Kind != Revoked || string(e.Serial) != string(certs[0].Serial[:]) || e.Reason != KeyCompromise || e.Device != certs[0].Device ||
		e.Issuer != certs[0].Issuer || e.Key != fmt.Sprintf("%x", certs[0].SPKIHash) || e.At != w.now.Load() {
		t.Errorf("got %+v", e)
	}
	must(t, w.log.Sequence(t.Context()))
	h.until(t, "in its place", func() bool { return len(h.placed()) == 1 })
	if a, b := h.events[0], h.placed()[0]; b.Cursor < 0 || string(a.Serial) != string(b.Serial) || a.Key != b.Key || a.Kind != b.Kind {
		t.Errorf("at once %+v, in its place %+v", a, b)
	}
	if err := stop(); err != nil {
		t.Errorf("the end: %v", err)
	}
	// Away for a while: what happened meanwhile is told, once, in order.
	for _, reason := range []Reason{CertificateHold, released} {
		if reason == released {
			_, err = w.Release(t.Context(), operator, certs[1].Serial[:])
		} else {
			_, err = w.Certificate(t.Context(), operator, certs[1].Serial[:], reason)
		}
		must(t, err)
	}
	must(t, w.log.Sequence(t.Context()))
	h2, stop2 := w.watch(t, w.Service, h.placed()[0].Cursor+1)
	h2.until(t, "after a break", func() bool { return len(h2.placed()) == 2 })
	if e := h2.placed(); e[0].Kind != Held || e[1].Kind != Released || e[0].Cursor >= e[1].Cursor {
		t.Errorf("after a break: %+v", e)
	}
	must(t, stop2())
	h3, stop3 := w.watch(t, w.other(), 0)
	h3.until(t, "everything, on another node", func() bool { return len(h3.placed()) == 3 })
	must(t, stop3())
	if n := w.Metrics().Watchers; n != 0 {
		t.Errorf("%d watchers are left", n)
	}
	if err := w.Watch(t.Context(), access.Device("aa", "est"), 0, h.tell); !errs.Is(err, errs.Denied) {
		t.Errorf("a device: %v, want Denied", err)
	}
	if err := w.Watch(t.Context(), auditor, 1<<40, h.tell); !errs.Is(err, errs.Invalid) {
		t.Errorf("a place that is not there yet: %v, want Invalid", err)
	}
	broken := errors.New("broken")
	if err := w.Watch(t.Context(), auditor, 0, func(Event) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("a watcher that fails: %v", err)
	}
}

// A watcher who does not take what he is told is cut off; revoking does not wait for him, and he can go on from his cursor.
func TestSlowWatcher(t *testing.T) {
	w := newWorld(t)
	c := w.issue(t, w.add(t, "pump").ID, nil)
	stuck, ended := make(chan struct{}), make(chan error, 1)
	begun := make(chan struct{}, watcherRoom)
	go func() {
		ended <- w.Watch(t.Context(), auditor, -1, func(e Event) error {
			begun <- struct{}{}
			if e.Kind != Alive {
				<-stuck
			}
			return nil
		})
	}()
	<-begun
	events := make([]Event, 1000)
	for i := range events {
		events[i] = Event{Cursor: -1, Kind: Revoked, Serial: c.Serial[:]}
	}
	told := make(chan struct{})
	go func() {
		defer close(told)
		for range 2 + watcherRoom/len(events) {
			w.hub.tell(events)
		}
	}()
	select {
	case <-told:
	case <-time.After(time.Minute):
		t.Fatal("telling waits for a watcher that is stuck")
	}
	if _, err := w.Certificate(t.Context(), operator, c.Serial[:], KeyCompromise); err != nil {
		t.Errorf("revoking with a stuck watcher: %v", err)
	}
	close(stuck)
	select {
	case err := <-ended:
		if !errs.Is(err, errs.Limited) {
			t.Errorf("the watcher ended with %v, want Limited", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the watcher was not cut off")
	}
	must(t, w.log.Sequence(t.Context()))
	h, stop := w.watch(t, w.Service, 0)
	h.until(t, "from the record", func() bool { return len(h.placed()) == 1 })
	must(t, stop())
}

// There are only so many watchers.
func TestManyWatchers(t *testing.T) {
	w := newWorld(t)
	for range maxWatchers {
		_, err := w.hub.join(false)
		must(t, err)
	}
	if err := w.Watch(t.Context(), auditor, 0, func(Event) error { return nil }); !errs.Is(err, errs.Limited) {
		t.Errorf("one more: %v, want Limited", err)
	}
}
