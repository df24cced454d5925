package nats

import (
	"context"
	"sync"
)

// owners are those at an embedded server. Whoever can reach it is this process, and with the process all connections end, so that nothing of this has to
// outlive it: two writes less for each connection.
type owners struct {
	mu    sync.Mutex
	of    map[string]owned // guarded by mu
	epoch uint64           // guarded by mu: of the newest ownership; it begins with the time, so that it grows over a restart too
	heard map[*hearer]bool // guarded by mu
}

type owned struct {
	node  string
	epoch uint64
}

// hearer is one who follows owners, with what he has not been told yet.
type hearer struct {
	list []told        // guarded by owners.mu
	more chan struct{} // has room for one
}

type told struct {
	key string
	owned
}

func newOwners(now int64) *owners {
	return &owners{of: map[string]owned{}, epoch: uint64(now), heard: map[*hearer]bool{}}
}

func (o *owners) own(key, node string) (epoch uint64, before string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.epoch++
	before = o.of[key].node
	now := owned{node, o.epoch}
	o.of[key] = now
	for h := range o.heard {
		h.list = append(h.list, told{key, now})
		select {
		case h.more <- struct{}{}:
		default: // he is told already
		}
	}
	return o.epoch, before
}

func (o *owners) disown(key string, epoch uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.of[key].epoch == epoch {
		delete(o.of, key)
	}
}

func (o *owners) follow(ctx context.Context, ready func(), fn func(key, node string, epoch uint64)) error {
	h := &hearer{more: make(chan struct{}, 1)}
	o.mu.Lock()
	o.heard[h] = true
	o.mu.Unlock()
	defer func() {
		o.mu.Lock()
		delete(o.heard, h)
		o.mu.Unlock()
	}()
	if ready != nil {
		ready()
	}
	for {
		select {
		case <-h.more:
		case <-ctx.Done():
			return nil
		}
		o.mu.Lock()
		list := h.list
		h.list = nil
		o.mu.Unlock()
		for _, t := range list {
			fn(t.key, t.node, t.epoch)
		}
	}
}
