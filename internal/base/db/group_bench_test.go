package db_test

import (
	"context"
	"encoding/binary"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/fstest"

	"mooring/internal/base/db"
	"mooring/internal/base/db/dbtest"
)

// BenchmarkGroup measures what an item costs, 64 requesters with three rows each, on SQLite. "floor" puts the same rows down in changes of 32
// items, as many as a group gathers then, without a group: what is above it is the group's own. CPU is compared, not wall time.
func BenchmarkGroup(b *testing.B) {
	const requesters = 64
	open := func(b *testing.B) *db.DB {
		return dbtest.OpenURL(b, "sqlite:"+filepath.Join(b.TempDir(), "x.db"), db.Schema{Name: "bench", FS: fstest.MapFS{"00001_bench.sql": {Data: []byte(`-- +goose Up
CREATE TABLE device (cell smallint NOT NULL, id bytea NOT NULL, n bigint NOT NULL, PRIMARY KEY (cell, id)) /*sqlite: WITHOUT ROWID */;
CREATE TABLE cert (cell smallint NOT NULL, serial bytea NOT NULL, der bytea NOT NULL, PRIMARY KEY (cell, serial));
CREATE TABLE entry (cell smallint NOT NULL, stream bytea NOT NULL, seq bigint NOT NULL, part bigint NOT NULL, data bytea NOT NULL, PRIMARY KEY (cell, stream, seq, part));
`)}}})
	}
	der := make([]byte, 500)
	apply := func(ctx context.Context, tx *db.Tx, batch []int) ([]error, error) {
		stmts := make([]*db.Stmt, 0, 3*len(batch))
		at := tx.Batch()
		for _, n := range batch {
			id := binary.BigEndian.AppendUint64(make([]byte, 8, 16), uint64(n))
			stmts = append(stmts,
				&db.Stmt{SQL: `INSERT INTO device (cell, id, n) VALUES ($1, $2, 1) ON CONFLICT (cell, id) DO UPDATE SET n = device.n + 1`, Args: []any{n % 256, id}},
				&db.Stmt{SQL: `INSERT INTO cert (cell, serial, der) VALUES ($1, $2, $3)`, Args: []any{n % 256, id, der}},
				&db.Stmt{SQL: `INSERT INTO entry (cell, stream, seq, part, data) VALUES (0, $1, $2, $3, $4)`, Args: []any{at.Stream[:], at.Seq, tx.Part(), id}})
		}
		return nil, tx.Send(ctx, stmts...)
	}
	b.Run("floor", func(b *testing.B) {
		d := open(b)
		batch := make([]int, requesters/2) // while one half is committed the other gathers
		defer cpu(b)()
		for n := 0; n < b.N; n += len(batch) {
			for i := range batch {
				batch[i] = n + i
			}
			if err := d.Do(b.Context(), func(ctx context.Context, tx *db.Tx) error {
				_, err := apply(ctx, tx, batch)
				return err
			}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("group", func(b *testing.B) {
		d := open(b)
		g := db.NewGroup(d, db.Plan[int]{
			Key: func(n int) db.Key {
				k := db.Key{Cell: uint8(n)}
				binary.BigEndian.PutUint64(k.ID[8:], uint64(n))
				return k
			},
			Apply: apply,
		})
		ctx, cancel := context.WithCancel(b.Context())
		done := make(chan error, 1)
		go func() { done <- g.Run(ctx) }()
		var next atomic.Int64
		var wg sync.WaitGroup
		report := cpu(b)
		for range requesters {
			wg.Go(func() {
				for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
					announced := g.Expect()
					err := g.Do(ctx, int(n))
					announced()
					if err != nil {
						b.Error(err)
					}
				}
			})
		}
		wg.Wait()
		report()
		batches, items := g.Metrics()
		b.ReportMetric(float64(items)/float64(max(batches, 1)), "items/batch")
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
}

// cpu starts the clock of the benchmark, and returns what stops it and reports the CPU time of the process for each item.
func cpu(b *testing.B) (report func()) {
	used := func() int64 {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return u.Utime.Nano() + u.Stime.Nano()
	}
	b.ReportAllocs()
	b.ResetTimer()
	before := used()
	return func() {
		b.ReportMetric(float64(used()-before)/1000/float64(b.N), "cpu-µs/item")
		b.StopTimer()
	}
}
