package web

import (
	"cmp"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Counters counts requests by route and class of status. The zero value is ready; a nil *Counters counts nothing. Safe for concurrent use.
type Counters struct {
	mu     sync.RWMutex
	routes map[routeClass]*Meter // guarded by mu; at most maxRoutes
}

type routeClass struct {
	route string
	class int
}

// maxRoutes bounds the counters, should somebody use patterns that are not fixed.
const maxRoutes = 1024

// RouteCount is what happened on one route with one class of status.
type RouteCount struct {
	Route   string // the mux's pattern
	Class   string // "2xx", "3xx", "4xx", "5xx"
	Count   uint64
	Seconds float64  // all durations together
	Buckets []uint64 // Buckets[i] requests took at most Bounds()[i] seconds; cumulative, as Prometheus wants it
}

// Bounds returns the upper bounds of the duration buckets in seconds.
func Bounds() []float64 {
	list := make([]float64, len(bounds))
	for i, b := range bounds {
		list[i] = b.Seconds()
	}
	return list
}

const ms = time.Millisecond

var bounds = [...]time.Duration{ms, 2500 * time.Microsecond, 5 * ms, 10 * ms, 25 * ms, 50 * ms, 100 * ms, 250 * ms, 500 * ms, time.Second, 2500 * ms, 5 * time.Second, 10 * time.Second}

// Meter counts one route and class of status. A nil *Meter counts nothing.
type Meter struct {
	nanos   atomic.Int64
	buckets [len(bounds) + 1]atomic.Uint64 // each request in one; the last is for what takes longer than all bounds
}

// Meter returns the meter of a route and of the class of a status, for whoever serves one route often; nil when there are too many.
func (c *Counters) Meter(route string, status int) *Meter {
	if c == nil {
		return nil
	}
	key := routeClass{route, status / 100}
	c.mu.RLock()
	m := c.routes[key]
	c.mu.RUnlock()
	if m != nil {
		return m
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if m = c.routes[key]; m != nil || len(c.routes) >= maxRoutes {
		return m
	}
	if c.routes == nil {
		c.routes = map[routeClass]*Meter{}
	}
	m = new(Meter)
	c.routes[key] = m
	return m
}

// Observe counts one request.
func (m *Meter) Observe(took time.Duration) {
	if m == nil {
		return
	}
	i := 0
	for i < len(bounds) && took > bounds[i] {
		i++
	}
	m.buckets[i].Add(1)
	m.nanos.Add(int64(took))
}

func (c *Counters) observe(route string, status int, took time.Duration) {
	c.Meter(route, status).Observe(took)
}

// Metrics returns a copy of all counts, ordered by route and class. Routes that nobody used are left out.
func (c *Counters) Metrics() []RouteCount {
	c.mu.RLock()
	defer c.mu.RUnlock()
	all := make([]RouteCount, 0, len(c.routes))
	for key, m := range c.routes {
		one := RouteCount{Route: key.route, Class: strconv.Itoa(key.class) + "xx", Seconds: time.Duration(m.nanos.Load()).Seconds(), Buckets: make([]uint64, len(bounds))}
		for i := range m.buckets {
			one.Count += m.buckets[i].Load()
			if i < len(bounds) {
				one.Buckets[i] = one.Count
			}
		}
		if one.Count > 0 {
			all = append(all, one)
		}
	}
	slices.SortFunc(all, func(a, b RouteCount) int {
		if a.Route != b.Route {
			return cmp.Compare(a.Route, b.Route)
		}
		return cmp.Compare(a.Class, b.Class)
	})
	return all
}
