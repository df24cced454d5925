package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// leastGarbage is how much garbage may lie about, in octets; where more lives, as much as that. The server makes much that dies young, so that Go's own rule, as much as
// lives, would have it collected many times a second where little lives. An import of 10^6 devices has to stay below 300 MB, of which some 70 live.
const leastGarbage = 64 << 20

// rest is how long nothing has to be collected until the process is at rest. Go itself collects every two minutes where little is allocated.
const rest = time.Minute

// collectLess has the process collect garbage when there is so much of it. Who has set GOGC decides himself; GOMEMLIMIT bounds the memory as always.
func collectLess() {
	// Go would note the stack of an allocation each 512 KiB, twelve enrolments, for a profile that nobody can ask for.
	runtime.MemProfileRate = 0
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbagePercent(0))
		afterCollection(&collections{samples: whatLives()})
	}
}

// collections is garbage at once, so that its finalizer runs after every collection.
type collections struct {
	samples []metrics.Sample
	percent int
	last    time.Time
}

// whatLives is all that GOGC counts from.
func whatLives() []metrics.Sample {
	return []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"}}
}

func afterCollection(c *collections) {
	runtime.SetFinalizer(c, func(c *collections) {
		metrics.Read(c.samples)
		var live uint64
		for _, s := range c.samples {
			live += s.Value.Uint64()
		}
		if percent := garbagePercent(live); percent != c.percent { // to set it stops the world
			c.percent = percent
			debug.SetGCPercent(percent)
		}
		now := time.Now()
		if rested := now.Sub(c.last) >= rest; rested && !c.last.IsZero() {
			go debug.FreeOSMemory() // Go keeps room for as much garbage as may lie about
		}
		c.last = now
		afterCollection(c)
	})
}

// garbagePercent is GOGC for so many octets that live. Small changes do not change it.
func garbagePercent(live uint64) int {
	const step, most = 25, 1600
	live = max(live, 1)
	return min(int(100*max(live, leastGarbage)/live)/step*step, most)
}
