package device

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/core/audit"
)

// fleet is a CSV file of n devices that is made while it is read.
type fleet struct {
	n, next int
	births  bool
	rest    []byte
}

func (f *fleet) Read(p []byte) (int, error) {
	if len(f.rest) == 0 {
		if f.next > f.n {
			return 0, io.EOF
		}
		f.rest = f.rest[:0]
		if f.next == 0 {
			f.rest = append(f.rest, "name,group,profile,tags,birth\n"...)
		} else {
			f.rest = fmt.Appendf(f.rest, "pump-%07d.plant.example,site-%d,sensor,floor=%d;line=north,", f.next, f.next%50, f.next%9)
			if f.births {
				f.rest = fmt.Appendf(f.rest, "%064x", f.next)
			}
			f.rest = append(f.rest, '\n')
		}
		f.next++
	}
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

// BenchmarkImport imports b.N devices: run it with -benchtime=1000000x for the figure that counts.
func BenchmarkImport(b *testing.B) {
	for _, births := range []bool{false, true} {
		b.Run(fmt.Sprintf("births=%v", births), func(b *testing.B) {
			w := newWorld(b)
			b.ResetTimer()
			if _, err := w.Import(b.Context(), admin, Source{R: &fleet{n: b.N, births: births}, Name: "fleet.csv", Format: "csv"}, nil); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkFleet measures what is done with 100,000 registered devices that all hold a certificate, or with as many as b.N of ten lists.
func BenchmarkFleet(b *testing.B) {
	const size = 100_000
	w := newWorld(b)
	if _, err := w.Import(b.Context(), admin, Source{R: &fleet{n: size}, Name: "fleet.csv", Format: "csv"}, nil); err != nil {
		b.Fatal(err)
	}
	var claims []Claim
	for i := 1; i <= size; i++ {
		id, cell := w.IDOf(fmt.Sprintf("pump-%07d.plant.example", i))
		claims = append(claims, Claim{ID: id, Cell: cell, Policy: 1, Slot: "operational", Serial: bytes.Repeat([]byte{byte(i), byte(i >> 8), byte(i >> 16), 1}, 4),
			NotAfter: w.now.Unix() + int64(i*7919%(90*86400)), SPKI: make([]byte, 32), Request: make([]byte, 32), At: w.now.Unix()})
	}
	sortClaims(claims)
	commit := func(b *testing.B, claims []Claim) {
		err := w.db.Do(b.Context(), func(ctx context.Context, tx *db.Tx) error {
			if _, err := w.ClaimTx(ctx, tx, claims); err != nil {
				return err
			}
			return tx.Send(ctx, w.SlotStmts(tx, claims)...)
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	for i := 0; i < size; i += 500 {
		commit(b, claims[i:i+500])
	}
	b.Run("claim", func(b *testing.B) {
		for i := 0; i < b.N; i += 500 {
			batch := claims[i%size : i%size+500]
			for j := range batch {
				batch[j].Serial = append([]byte{byte(i/size + 2)}, batch[j].Serial[1:]...)
			}
			commit(b, batch)
		}
	})
	w.filled(b)
	soon := w.now.Add(30 * 24 * time.Hour).Unix()
	for name, f := range map[string]Filter{"expiring": {Group: "site-7", ExpiresBefore: soon}, "group": {Group: "site-7"}, "all": {}, "rare tag": {Tag: "none"}} {
		b.Run("list "+name, func(b *testing.B) {
			for range b.N {
				if _, _, err := w.List(b.Context(), admin, f); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("load", func(b *testing.B) {
		for i := range b.N {
			if _, err := w.Load(b.Context(), claims[i%size].ID); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("verify", func(b *testing.B) {
		if err := w.log.Sequence(b.Context()); err != nil {
			b.Fatal(err)
		}
		for range b.N {
			// The certificates above have no entries: all devices are named, which is the same work.
			if _, err := w.log.Verify(b.Context(), audit.VerifyOptions{Checkers: []audit.Checker{w.Checker()}}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
