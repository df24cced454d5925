//go:build !race

// The race detector keeps several octets of its own for each that is in use, and it is memory that is measured here.

package revoke

import (
	"context"
	"crypto"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"

	"mooring/internal/base/db"
	"mooring/internal/core/ca"
	"mooring/internal/core/key"
)

// quickly writes n rows of revocations in 16 shards, as so many revocations would have left.
func (w *world) quickly(t *testing.T, i *ca.Issuer, n int) {
	t.Helper()
	numbers, serial := `(WITH RECURSIVE c(k) AS (SELECT 0 UNION ALL SELECT k + 1 FROM c WHERE k + 1 < $4) SELECT k FROM c)`, `CAST(printf('A%015d', k) AS BLOB)`
	if onPostgres() {
		serial = `convert_to('A' || lpad(k::text, 15, '0'), 'UTF8')`
		numbers = `generate_series(0, $4::bigint - 1) AS c(k)`
	}
	id := i.ID()
	must(t, w.DB.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO revoked (cell, serial, issuer, crl_shard, at, reason, not_after, device, origin, turn, change)
 SELECT 0, `+serial+`, $1, k % 16, $2, 1, $3, $5, 0, 1, k / 16 + 1 FROM `+numbers,
			id[:], w.now.Load()-86400, w.now.Load()+300*86400, int64(n), make([]byte, 16)); err != nil {
			return err
		}
		for shard := range int64(16) {
			if _, err := tx.Exec(ctx, `INSERT INTO crl_scope (cell, issuer, shard, changes, number) VALUES (0, $1, $2, $3, 0)`, id[:], shard, int64(n/16)); err != nil {
				return err
			}
		}
		return nil
	}))
}

// memory is how much of it is in use: on the heap after a collection, and beside the heap, where SQLite has its own (0 where the system does not
// say).
type memory struct{ heap, beside int64 }

func memoryNow() (now memory) {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	now.heap = int64(m.HeapAlloc)
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return now
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			now.beside = max(0, kib<<10-int64(m.Sys-m.HeapReleased))
		}
	}
	return now
}

// weighed is a custody that looks how much memory is in use whenever somebody asks for a key.
type weighed struct {
	key.Custody
	most *memory
}

func (w weighed) Signer(ctx context.Context, id key.ID) (crypto.Signer, error) {
	now := memoryNow()
	*w.most = memory{max(w.most.heap, now.heap), max(w.most.beside, now.beside)}
	return w.Custody.Signer(ctx, id)
}

// TestTheCompleteListIsStreamed makes a list of 10 MB and looks what is in memory when all of it was written and it is about to be signed. A CA whose
// key signs the whole text shows that the test would notice.
func TestTheCompleteListIsStreamed(t *testing.T) {
	const most, cached = 4 << 20, 8 << 20
	for _, row := range []struct {
		alg    key.Algorithm
		amount int64
		held   bool
	}{{key.P256, 200_000, false}, {key.Ed25519, 100_000, true}} {
		t.Run(string(row.alg), func(t *testing.T) {
			w := newWorldWith(t, func(s *ca.Spec) {
				if s.Name == "devices" {
					s.Shards, s.Algorithm = 16, row.alg
				}
			})
			devices := w.issuer(t, "devices")
			w.quickly(t, devices, int(row.amount))
			must(t, w.DB.Trim(t.Context()))
			var before memory
			for range 3 { // pools and finalizers keep things for some collections
				debug.FreeOSMemory()
				before = memoryNow()
			}
			largest := before
			w.Keys = weighed{w.Keys, &largest}
			l, err := w.CRL(t.Context(), devices.ID(), ca.Complete)
			must(t, err)
			if l.Size < row.amount*49 {
				t.Fatalf("the list has %d octets, want %d entries", l.Size, row.amount)
			}
			heap, beside := largest.heap-before.heap, largest.beside-before.beside
			if held := heap > most; held != row.held {
				t.Errorf("the heap grew by %d octets for a list of %d, want more than %d: %v", heap, l.Size, most, row.held)
			}
			if beside > cached {
				t.Errorf("SQLite's memory grew by %d octets for a list of %d, want %d at most", beside, l.Size, cached)
			}
		})
	}
}
