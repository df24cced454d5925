// Package bench measures what the platform costs. Every run measures its own floor, that is, what the cryptographic primitives alone cost on
// the same machine in the same minute, so that the ratio holds on any machine, however noisy. CPU time counts, of all our processes and of the
// database; wall time is given for orientation.
//
// The load comes from this process and the server runs in another one, whose CPU time is read from the system (Linux). The package
// deliberately judges nothing: it prints, and whoever reads compares with the targets in doc/benchmarks.md.
package bench

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Line is one result.
type Line struct {
	Bench   string  `json:"bench"`
	Case    string  `json:"case"`
	N       int     `json:"n"`        // operations measured
	PerS    float64 `json:"per_s"`    // operations per second of wall time
	CPU     float64 `json:"cpu_us"`   // CPU time for one operation in microseconds: our server and the database
	Floor   float64 `json:"floor_us"` // CPU time of the primitives alone
	Ratio   float64 `json:"ratio"`    // CPU / Floor
	RSS     float64 `json:"rss_mib"`  // resident memory of the measured process at the end
	Server  float64 `json:"server_us,omitempty"`
	DBShare float64 `json:"db_us,omitempty"`
	Wall    float64 `json:"wall_ms,omitempty"`  // of one operation, where that is the point
	KiB     float64 `json:"kib_each,omitempty"` // resident memory of one, where that is the point
	P50     float64 `json:"p50_ms,omitempty"`   // wall time of one operation: half are quicker
	P99     float64 `json:"p99_ms,omitempty"`   // 99 of 100 are quicker
	Max     float64 `json:"max_ms,omitempty"`   // the slowest
	PerCore float64 `json:"per_s_and_core,omitempty"`
	Scale   float64 `json:"scale,omitempty"` // how much faster two workers are than one
}

// cpuSelf returns the CPU time that this process has used.
func cpuSelf() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// cpuOf returns the CPU time that a process has used, all its threads together, ended ones included.
func cpuOf(pid int) (time.Duration, error) {
	used, err := clockOf(pid)
	if err != nil {
		return 0, fmt.Errorf("reading the CPU time of process %d: %w", pid, err)
	}
	return used, nil
}

// tick is the unit of /proc/PID/stat: USER_HZ is 100 on every Linux we know.
const tick = 10 * time.Millisecond

// stat is what /proc says about a process.
type stat struct {
	parent         int
	ticksOfTheDead int64 // CPU time of its children that have ended and were waited for
}

func readStat(pid int) (s stat, err error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return s, fmt.Errorf("reading the CPU time of process %d: %w", pid, err)
	}
	// The name in brackets may contain anything.
	_, after, found := strings.Cut(string(text[strings.LastIndexByte(string(text), ')'):]), " ")
	fields := strings.Fields(after)
	if !found || len(fields) < 15 {
		return s, fmt.Errorf("process %d: /proc has an unknown form", pid)
	}
	numbers := make([]int64, 0, 3)
	for _, k := range []int{1, 13, 14} { // ppid, cutime, cstime
		n, err := strconv.ParseInt(fields[k], 10, 64)
		if err != nil {
			return s, fmt.Errorf("process %d: %w", pid, err)
		}
		numbers = append(numbers, n)
	}
	return stat{int(numbers[0]), numbers[1] + numbers[2]}, nil
}

// rssOf returns the resident memory of a process in MiB, or 0 where the system does not say.
func rssOf(pid int) float64 {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			if err == nil {
				return kib / 1024
			}
		}
	}
	return 0
}

// cpuOfDatabase returns the CPU time of a PostgreSQL server on this machine: of its postmaster and all its children, ended ones included.
func cpuOfDatabase(postmaster int) (time.Duration, error) {
	first, err := readStat(postmaster)
	if err != nil {
		return 0, err
	}
	sum, err := cpuOf(postmaster)
	if err != nil {
		return 0, err
	}
	sum += time.Duration(first.ticksOfTheDead) * tick
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return 0, fmt.Errorf("listing the processes: %w", err)
	}
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		s, err := readStat(pid)
		if err != nil || s.parent != postmaster {
			continue
		}
		if used, err := cpuOf(pid); err == nil { // one that has just ended is counted with the dead
			sum += used
		}
	}
	return sum, nil
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

func micros(d time.Duration, n int) float64 { return float64(d.Nanoseconds()) / 1000 / float64(n) }
