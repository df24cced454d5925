package gate

import (
	"context"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"
)

// live knows which client certificate each connection was made with, so that connections can be ended when it is revoked. It is bounded by the limit
// on connections.
type live struct {
	mu       sync.Mutex
	bySerial map[string][]io.Closer // guarded by mu
}

func (l *live) add(serial string, c io.Closer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bySerial == nil {
		l.bySerial = map[string][]io.Closer{}
	}
	l.bySerial[serial] = append(l.bySerial[serial], c)
}

func (l *live) remove(serial string, c io.Closer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.bySerial[serial]
	i := slices.Index(all, c)
	if i < 0 {
		return
	}
	if len(all) == 1 {
		delete(l.bySerial, serial)
		return
	}
	l.bySerial[serial] = slices.Delete(all, i, i+1)
}

func (l *live) with(serial string) []io.Closer {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.bySerial[serial])
}

// cutAfter, the usual value of Gate.grace, lets answers under way out: a device whose renewal ends its old certificate must get the new one.
const cutAfter = 300 * time.Millisecond

// Cut ends the connections whose client presented a certificate with this serial number, content octets, a moment later, and returns how many
// there are. Requests that come meanwhile are decided by core, which knows by then. Whoever signed such a certificate is not asked: a connection that
// only claims the serial number of ours is no loss.
func (g *Gate) Cut(serial []byte) int {
	all := g.live.with(string(serial))
	for _, c := range all {
		time.AfterFunc(g.grace, func() { _ = c.Close() }) // it may have been closed by itself
	}
	g.counts.cut.Add(int64(len(all)))
	return len(all)
}

type drainingKey struct{}

// Draining returns a channel that is closed when the listener that r came by is about to stop, for answers that would otherwise never end.
func Draining(r *http.Request) <-chan struct{} {
	done, _ := r.Context().Value(drainingKey{}).(<-chan struct{})
	return done
}

func withDraining(ctx context.Context, done <-chan struct{}) context.Context {
	return context.WithValue(ctx, drainingKey{}, done)
}
