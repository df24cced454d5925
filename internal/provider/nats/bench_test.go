package nats_test

import (
	"bytes"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"mooring/internal/core/message"
	"mooring/internal/provider/nats"
	"mooring/internal/provider/nats/natstest"
)

// cpu is how long this process has computed.
func cpu(b *testing.B) time.Duration {
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		b.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

// perMessage calls run and reports the CPU time of one of its b.N steps, client and server together.
func perMessage(b *testing.B, run func()) {
	b.ReportAllocs()
	b.ResetTimer()
	before := cpu(b)
	run()
	b.ReportMetric(float64((cpu(b)-before).Nanoseconds())/float64(b.N)/1e3, "cpu-us/op")
}

func sizes(b *testing.B, o nats.Options) *nats.Fabric {
	o.MaxBytes = 2 << 30
	return opened(b, o)
}

// BenchmarkAppend stores messages of 100 octets from 500 things.
func BenchmarkAppend(b *testing.B) {
	rows := []struct {
		name string
		o    func(b *testing.B) nats.Options
	}{
		{"process", func(b *testing.B) nats.Options { return options(b.TempDir()) }},
		{"disk", func(b *testing.B) nats.Options {
			o := options(b.TempDir())
			o.Durability = nats.Disk
			return o
		}},
		{"quorum", func(b *testing.B) nats.Options { return cluster(natstest.Start(b, 3)) }},
	}
	for _, row := range rows {
		b.Run(row.name, func(b *testing.B) {
			f := sizes(b, row.o(b))
			payload := bytes.Repeat([]byte("x"), 100)
			keys := make([]string, 500)
			for i := range keys {
				keys[i] = fmt.Sprintf("device-%04d", i)
			}
			perMessage(b, func() {
				var all sync.WaitGroup
				all.Add(b.N)
				for i := range b.N {
					k := keys[i%len(keys)]
					f.Append(&message.Message{Topic: "v1/acme/" + k + "/telemetry/t", Payload: payload, QoS: 1, Thing: k, At: 1790000000000, Stream: message.Up, Key: k}, "",
						func(_ uint64, err error) {
							if err != nil {
								b.Error(err)
							}
							all.Done()
						})
				}
				all.Wait()
			})
		})
	}
}

// BenchmarkConnect does what a connecting session needs of the fabric: it is owned, read and written.
func BenchmarkConnect(b *testing.B) {
	for _, row := range []struct {
		name string
		f    func(b *testing.B) *nats.Fabric
	}{
		{"process", func(b *testing.B) *nats.Fabric { return sizes(b, options(b.TempDir())) }},
		{"quorum", func(b *testing.B) *nats.Fabric { return sizes(b, cluster(natstest.Start(b, 3))) }},
	} {
		b.Run(row.name, func(b *testing.B) {
			f := row.f(b)
			record := bytes.Repeat([]byte("s"), 500)
			perMessage(b, func() {
				for i := range b.N {
					key := fmt.Sprint("device-", i%1000)
					if _, _, err := f.Own(b.Context(), key, "node-1"); err != nil {
						b.Fatal(err)
					}
					_, revision, _ := f.Session(b.Context(), key) // NotFound the first time
					if _, err := f.PutSession(b.Context(), key, record, revision, time.Hour); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

// BenchmarkNext walks the queue of one thing among 500.
func BenchmarkNext(b *testing.B) {
	f := sizes(b, options(b.TempDir()))
	const things, each = 500, 20
	var all sync.WaitGroup
	for i := range things * each {
		all.Add(1)
		f.Append(&message.Message{Topic: "t", Payload: bytes.Repeat([]byte("x"), 100), Stream: message.Down, Key: fmt.Sprint(i % things)}, "", func(uint64, error) { all.Done() })
	}
	all.Wait()
	perMessage(b, func() {
		after := uint64(0)
		for i := range b.N {
			if i%each == 0 {
				after = 0
			}
			m, err := f.Next(b.Context(), message.Down, fmt.Sprint(i/each%things), after)
			if err != nil {
				b.Fatal(err)
			}
			after = m.Seq
		}
	})
}

// BenchmarkCatchUp walks what devices have published, which lies in rows.
func BenchmarkCatchUp(b *testing.B) {
	f := sizes(b, options(b.TempDir()))
	const stored = 10_000
	var all sync.WaitGroup
	for i := range stored {
		all.Add(1)
		f.Append(&message.Message{Topic: "t", Payload: bytes.Repeat([]byte("x"), 100), Stream: message.Up, Key: fmt.Sprint(i % 500)}, "", func(uint64, error) { all.Done() })
	}
	all.Wait()
	perMessage(b, func() {
		for i := range b.N {
			if _, err := f.Next(b.Context(), message.Up, "", uint64(i%stored)); err != nil {
				b.Fatal(err)
			}
		}
	})
}
