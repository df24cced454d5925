package scep

import (
	"container/list"
	"crypto/sha256"
	"sync"
	"time"

	"mooring/internal/core/enrol"
	"mooring/wire/scep"
)

const (
	// mostWaiting bounds the requests that are remembered for polls, each of some 2 kB; the oldest is forgotten first.
	mostWaiting = 4096
	// waitingLife is how long one is remembered after the last word of its client. After it, and after a restart, the client is told to send its
	// request again, which finds the decision that was taken meanwhile.
	waitingLife = 24 * time.Hour
)

// waiting holds the requests that wait for a person, since a poll names its transaction and nothing else. Strangers cannot get in: a request waits only after the
// funnel has recognised its device.
type waiting struct {
	now   func() time.Time
	mu    sync.Mutex
	byKey map[[32]byte]*list.Element
	order *list.List // of *waiter, the oldest first
}

type waiter struct {
	key   [32]byte
	req   enrol.Request
	until time.Time
}

func newWaiting(now func() time.Time) *waiting {
	return &waiting{now: now, byKey: map[[32]byte]*list.Element{}, order: list.New()}
}

// key names a transaction of a client: nobody can take another one's.
func (*waiting) key(m *scep.Message) [32]byte {
	h := sha256.New()
	h.Write(m.Signer.RawSubjectPublicKeyInfo)
	h.Write([]byte(m.Transaction))
	return [32]byte(h.Sum(nil))
}

// taken reports whether another request than csr waits under the key.
func (w *waiting) taken(key [32]byte, csr []byte) bool {
	req, ok := w.find(key)
	return ok && string(req.CSR) != string(csr)
}

func (w *waiting) find(key [32]byte) (enrol.Request, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.expire()
	e := w.byKey[key]
	if e == nil {
		return enrol.Request{}, false
	}
	return e.Value.(*waiter).req, true
}

func (w *waiting) remember(key [32]byte, req enrol.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drop(key)
	w.expire()
	if w.order.Len() >= mostWaiting {
		w.drop(w.order.Front().Value.(*waiter).key)
	}
	w.byKey[key] = w.order.PushBack(&waiter{key, req, w.now().Add(waitingLife)})
}

func (w *waiting) forget(key [32]byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drop(key)
}

func (w *waiting) drop(key [32]byte) {
	if e := w.byKey[key]; e != nil {
		w.order.Remove(e)
		delete(w.byKey, key)
	}
}

// expire drops what was not asked about for too long.
func (w *waiting) expire() {
	for e := w.order.Front(); e != nil && w.now().After(e.Value.(*waiter).until); e = w.order.Front() {
		w.drop(e.Value.(*waiter).key)
	}
}
