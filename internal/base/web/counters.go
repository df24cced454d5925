package web

import (
	"cmp"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Counters counts requests by route and class of status. The zero value is ready; a nil *Counters counts nothing. Safe for concurrent use.
type Counters struct {
	mu     sync.Mutex
	routes map[routeClass]*RouteCount // guarded by mu; at most maxRoutes
}

type routeClass struct{ route, class string }

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
	return []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}
}

func (c *Counters) observe(route string, status int, took time.Duration) {
	if c == nil {
		return
	}
	key := routeClass{route, strconv.Itoa(status/100) + "xx"}
	seconds := took.Seconds()
	bounds := Bounds()
	c.mu.Lock()
	defer c.mu.Unlock()
	count := c.routes[key]
	if count == nil {
		if len(c.routes) >= maxRoutes {
			return
		}
		if c.routes == nil {
			c.routes = map[routeClass]*RouteCount{}
		}
		count = &RouteCount{Route: route, Class: key.class, Buckets: make([]uint64, len(bounds))}
		c.routes[key] = count
	}
	count.Count++
	count.Seconds += seconds
	for i, bound := range bounds {
		if seconds <= bound {
			count.Buckets[i]++
		}
	}
}

// Metrics returns a copy of all counts, ordered by route and class.
func (c *Counters) Metrics() []RouteCount {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]RouteCount, 0, len(c.routes))
	for _, count := range c.routes {
		one := *count
		one.Buckets = slices.Clone(count.Buckets)
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b RouteCount) int {
		if a.Route != b.Route {
			return cmp.Compare(a.Route, b.Route)
		}
		return cmp.Compare(a.Class, b.Class)
	})
	return all
}
