package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// spareGarbage is how much garbage may lie about whatever lives, in octets. The server makes much that dies young, and where little lives, Go's own rule, as
// much garbage as lives, would have it collected many times a second. More than this it is only where more lives: an import of 10^6 devices has to stay below 300 MB.
const spareGarbage = 64 << 20

// collectLess has the process collect garbage when there is as much of it as what lives, but not before there is spareGarbage. Who has set GOGC decides
// himself; GOMEMLIMIT bounds the memory as always.
func collectLess() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbagePercent(0))
		afterCollection(&collections{samples: []metrics.Sample{{Name: "/gc/heap/live:bytes"}}})
	}
}

// collections is garbage at once, so that its finalizer runs after every collection.
type collections struct {
	samples []metrics.Sample
	percent int
}

func afterCollection(c *collections) {
	runtime.SetFinalizer(c, func(c *collections) {
		metrics.Read(c.samples)
		if percent := garbagePercent(c.samples[0].Value.Uint64()); percent != c.percent { // to set it stops the world
			c.percent = percent
			debug.SetGCPercent(percent)
		}
		afterCollection(c)
	})
}

// garbagePercent is GOGC for so many octets that live. Small changes do not change it.
func garbagePercent(live uint64) int {
	const step, least, most = 25, 100, 1600
	return min(max(int(100*spareGarbage/max(live, 1))/step*step, least), most)
}
