package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"
)

func TestGarbagePercent(t *testing.T) {
	for live, want := range map[uint64]int{0: 1600, 4 << 20: 1600, 8 << 20: 800, 24 << 20: 250, 40 << 20: 150, 60 << 20: 100, 64 << 20: 100, 1 << 40: 100} {
		if got := garbagePercent(live); got != want {
			t.Errorf("%d octets live: %d, want %d", live, got, want)
		}
	}
}

// After each collection, what lives then decides.
func TestCollectLess(t *testing.T) {
	t.Setenv("GOGC", "")
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	defer func(rate int) { runtime.MemProfileRate = rate }(runtime.MemProfileRate)
	collectLess()
	sample := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	reaches := func(want func(percent uint64) bool) {
		t.Helper()
		for range 1000 {
			runtime.GC()
			runtime.Gosched() // the finalizer has a goroutine of its own
			if metrics.Read(sample); want(sample[0].Value.Uint64()) {
				return
			}
		}
		t.Fatalf("GOGC is %d", sample[0].Value.Uint64())
	}
	reaches(func(percent uint64) bool { return percent > 100 })
	much := make([]byte, 2*leastGarbage)
	reaches(func(percent uint64) bool { return percent == 100 })
	runtime.KeepAlive(much)
	reaches(func(percent uint64) bool { return percent > 100 })
}

// A process at rest gives back what it keeps for garbage, which Go does together with a collection that was asked for. One that is busy does not.
func TestMemoryGoesBackAtRest(t *testing.T) {
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	sample := []metrics.Sample{{Name: "/gc/cycles/forced:gc-cycles"}, {Name: "/gc/cycles/automatic:gc-cycles"}}
	// asked counts what was asked for, while garbage is made until there is one or there were enough others.
	asked := func(last time.Time) uint64 {
		metrics.Read(sample)
		forced, automatic := sample[0].Value.Uint64(), sample[1].Value.Uint64()
		afterCollection(&collections{samples: whatLives(), last: last})
		for sample[0].Value.Uint64() == forced && sample[1].Value.Uint64() < automatic+20 {
			runtime.KeepAlive(make([]byte, 1<<20))
			runtime.Gosched() // the finalizer has a goroutine of its own
			metrics.Read(sample)
		}
		return sample[0].Value.Uint64() - forced
	}
	if n := asked(time.Now()); n > 0 {
		t.Errorf("busy: %d collections were asked for", n)
	}
	if n := asked(time.Now().Add(-rest)); n == 0 {
		t.Error("at rest: none was asked for")
	}
}
