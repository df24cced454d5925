package bench

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"mooring/internal/app"
	"mooring/internal/base/db"
	"mooring/internal/core/access"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/key"
	"mooring/internal/core/revoke"
)

// RevokeOptions say what Revoke measures.
type RevokeOptions struct {
	Revoked  []int // certificates of one CA that are revoked before
	N        int   // revocations measured for each
	Progress func(text string)
}

// Revoke measures what one revocation costs when so many were revoked before under the same CA: through core, durable, with its entry in the
// record, and on the signed list when it returns. The CA has 256 shards, as new ones have. The floor is the signatures alone, one for the list and one for
// the OCSP answer. It also measures how long a server that starts reads lists ahead, and what memory that takes, as well as to sign the list of a
// shard and to write the complete list.
//
// Those that were revoked before are rows without entries in the record, which no revocation looks at; so the record of the installation would not
// verify, and it is thrown away.
func Revoke(ctx context.Context, o RevokeOptions, print func(Line) error) error {
	for _, n := range o.Revoked {
		if err := o.measure(ctx, n, print); err != nil {
			return fmt.Errorf("with %d revoked: %w", n, err)
		}
	}
	return nil
}

func (o *RevokeOptions) say(format string, args ...any) {
	if o.Progress != nil {
		o.Progress(fmt.Sprintf(format, args...))
	}
}

// revoking is one installation under measurement.
type revoking struct {
	*app.Platform
	issuer *ca.Issuer
	actor  access.Actor
	before int
}

func (o *RevokeOptions) measure(ctx context.Context, before int, print func(Line) error) (err error) {
	dir, err := os.MkdirTemp("", "mooring-bench-")
	if err != nil {
		return fmt.Errorf("making a directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	c, err := app.Loopback("Mooring Bench")
	if err != nil {
		return err
	}
	if _, err := app.Init(ctx, app.InitOptions{Dir: filepath.Join(dir, "data"), Config: c}); err != nil {
		return err
	}
	// What the first revocation reads must not have been read before: each part opens the installation anew.
	var serials [][]byte
	err = o.with(ctx, app.Options{Config: c}, before, func(r *revoking) error {
		o.say("writing %d revocations", before)
		began := time.Now()
		if err := r.fill(ctx); err != nil {
			return err
		}
		o.say("written in %.1f s; publishing the lists, and enrolling %d devices", time.Since(began).Seconds(), 3*o.N)
		if err := r.warm(ctx); err != nil {
			return err
		}
		serials, err = r.enrol(ctx, 3*o.N)
		return err
	})
	if err != nil {
		return err
	}
	err = o.with(ctx, app.Options{Config: c}, before, func(r *revoking) error {
		return r.revocations(ctx, "at the start, in a shard that was not read ahead yet", serials[:o.N], print)
	})
	if err != nil {
		return err
	}
	err = o.with(ctx, app.Options{Config: c}, before, func(r *revoking) error {
		if err := r.ahead(ctx, print); err != nil {
			return err
		}
		return r.revocations(ctx, "the first in a shard after that", serials[o.N:2*o.N], print)
	})
	if err != nil {
		return err
	}
	err = o.with(ctx, app.Options{Config: c}, before, func(r *revoking) error {
		if err := r.warm(ctx); err != nil {
			return err
		}
		return r.revocations(ctx, "one", serials[2*o.N:], print)
	})
	if err != nil {
		return err
	}
	return o.with(ctx, app.Options{Config: c}, before, func(r *revoking) error { return r.memory(ctx, print) })
}

// with opens the installation for work.
func (o *RevokeOptions) with(ctx context.Context, options app.Options, before int, work func(*revoking) error) (err error) {
	p, err := app.Open(ctx, options)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	r := &revoking{Platform: p, actor: access.Actor{Kind: access.KindLocal, ID: "bench", Role: access.RoleAdmin}, before: before}
	if r.issuer, err = p.CA.Issuer("devices"); err != nil {
		return err
	}
	return work(r)
}

// fillBatch is how many rows are written in one transaction.
const fillBatch = 5000

// fill writes the rows that so many revocations would have left.
func (r *revoking) fill(ctx context.Context) error {
	id, now := r.issuer.ID(), time.Now().Unix()
	changes := map[int64]int64{}
	for done := 0; done < r.before; done += fillBatch {
		stmts := make([]*db.Stmt, min(fillBatch, r.before-done))
		for i := range stmts {
			serial := make([]byte, 16)
			rand.Read(serial)
			serial[0] = 0x41
			shard := r.issuer.Shard(serial)
			changes[shard]++
			stmts[i] = &db.Stmt{SQL: `INSERT INTO revoked (cell, serial, issuer, crl_shard, at, reason, not_after, device, origin, turn, change)
 VALUES ($1, $2, $3, $4, $5, 1, $6, $7, 0, 1, $8)`, Args: []any{int64(serial[5]), serial, id[:], shard, now - 86400, now + 300*86400, make([]byte, 16), changes[shard]}}
		}
		if err := r.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error { return tx.Send(ctx, stmts...) }); err != nil {
			return fmt.Errorf("writing revocations: %w", err)
		}
	}
	return r.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		for shard, n := range changes {
			if _, err := tx.Exec(ctx, `INSERT INTO crl_scope (cell, issuer, shard, changes, number) VALUES (0, $1, $2, $3, 0)
 ON CONFLICT (cell, issuer, shard) DO UPDATE SET changes = excluded.changes`, id[:], shard, n); err != nil {
				return err
			}
		}
		return nil
	})
}

// enrol gets certificates for n devices and returns their serial numbers.
func (r *revoking) enrol(ctx context.Context, n int) (serials [][]byte, err error) {
	recording, stop := context.WithCancel(ctx)
	stopped := make(chan error, 1)
	go func() { stopped <- r.Enrol.Run(recording) }()
	defer func() {
		stop()
		err = errors.Join(err, <-stopped)
	}()
	for i := range n {
		d, err := r.Devices.Add(ctx, r.actor, device.Spec{Name: fmt.Sprintf("meter-%06d", i), Profile: "device"})
		if err != nil {
			return nil, err
		}
		k, err := key.New(key.P256)
		if err != nil {
			return nil, err
		}
		answer, err := r.Enrol.Direct(ctx, r.actor, d.ID, k)
		if err != nil {
			return nil, err
		}
		serials = append(serials, answer.Certificate.Serial[:])
	}
	return serials, nil
}

// ahead reads what a server reads after its start.
func (r *revoking) ahead(ctx context.Context, print func(Line) error) error {
	var read revoke.Ahead
	grown, wall, cpu, err := peak(func() (err error) {
		read, err = r.Revoke.ReadAhead(ctx)
		return err
	})
	if err != nil {
		return err
	}
	l := Line{Bench: "revoke", N: 1, CPU: micros(cpu, 1), Floor: micros(cpu, 1), Ratio: 1, Wall: float64(wall) / 1e6, RSS: grown}
	l.Case = fmt.Sprintf("%d lists read ahead after a start, %d revoked: %.1f MB in %.2f s, +%.0f MiB", read.Lists, r.before, float64(read.Octets)/1e6, wall.Seconds(), grown)
	l.PerS = 1000 / l.Wall
	return print(l)
}

// warm reads every list, as a server has after a while.
func (r *revoking) warm(ctx context.Context) error {
	for shard := range int64(max(1, r.issuer.Shards())) {
		if _, err := r.Revoke.CRL(ctx, r.issuer.ID(), shard); err != nil {
			return err
		}
	}
	return nil
}

// revocations revokes the certificates one after the other and prints the median.
func (r *revoking) revocations(ctx context.Context, what string, serials [][]byte, print func(Line) error) error {
	floor, err := r.signatures()
	if err != nil {
		return err
	}
	var wall, cpu []float64
	for _, serial := range serials {
		began, used := time.Now(), cpuSelf()
		result, err := r.Revoke.Certificate(ctx, r.actor, serial, revoke.KeyCompromise)
		if err != nil {
			return err
		}
		if result.Listed == 0 {
			return fmt.Errorf("the revocation of %x is not listed", serial)
		}
		wall, cpu = append(wall, float64(time.Since(began))/1e6), append(cpu, micros(cpuSelf()-used, 1))
	}
	l := Line{Bench: "revoke", N: len(serials), CPU: median(cpu), Floor: floor, Wall: median(wall), RSS: rssOf(os.Getpid())}
	l.Case = fmt.Sprintf("%s, %d revoked before: %.2f ms", what, r.before, l.Wall)
	l.Ratio, l.PerS = l.CPU/l.Floor, 1000/l.Wall
	return print(l)
}

// signatures measures the floor: two signatures by P-256.
func (r *revoking) signatures() (float64, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return 0, err
	}
	const n = 500
	sum := sha256.Sum256([]byte("floor"))
	began := cpuSelf()
	for range 2 * n {
		if _, err := ecdsa.SignASN1(rand.Reader, k, sum[:]); err != nil {
			return 0, err
		}
	}
	return micros(cpuSelf()-began, n), nil
}

// memory prints by how much the process grows while lists are made and read. The database has filled its caches before, which are of a fixed
// size.
func (r *revoking) memory(ctx context.Context, print func(Line) error) error {
	if _, err := r.later(1).CRL(ctx, r.issuer.ID(), ca.Complete); err != nil {
		return err
	}
	for _, c := range []struct {
		name  string
		shard int64
	}{{"the list of one shard, made and read", 7}, {"the complete list, made and read", ca.Complete}} {
		fresh := r.later(2)
		var size int64
		grown, wall, cpu, err := peak(func() error {
			l, err := fresh.CRL(ctx, r.issuer.ID(), c.shard)
			if err != nil {
				return err
			}
			size = l.Size
			_, err = io.Copy(io.Discard, fresh.Content(ctx, l))
			return err
		})
		if err != nil {
			return err
		}
		l := Line{Bench: "revoke", N: 1, CPU: micros(cpu, 1), Floor: micros(cpu, 1), Ratio: 1, Wall: float64(wall) / 1e6, RSS: grown}
		l.Case = fmt.Sprintf("%s, %d revoked: %.1f MB in %.2f s, +%.0f MiB", c.name, r.before, float64(size)/1e6, wall.Seconds(), grown)
		l.PerS = 1000 / l.Wall
		if err := print(l); err != nil {
			return err
		}
	}
	return nil
}

// later returns a service whose clock is so many lives of a list ahead, so that it makes every list anew. It knows no list yet.
func (r *revoking) later(lives int) *revoke.Service {
	d := r.Revoke.Deps
	d.Now = func() time.Time { return time.Now().Add(time.Duration(lives) * (d.Validity + time.Hour)) }
	return revoke.New(d)
}

// garbage is how much garbage, in percent of what is in use, may gather while memory is measured: what is in use is the question, and how much
// garbage gathers depends on everything else that the process holds.
const garbage = 10

// peak runs work and returns by how many MiB the process was larger at its largest than before.
func peak(work func() error) (mib float64, wall, cpu time.Duration, err error) {
	defer debug.SetGCPercent(debug.SetGCPercent(garbage))
	debug.FreeOSMemory()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil { // the high-water mark begins anew (proc(5))
		return 0, 0, 0, fmt.Errorf("resetting the high-water mark of memory: %w", err)
	}
	before, began, used := rssOf(os.Getpid()), time.Now(), cpuSelf()
	err = work()
	return max(0, highWater()-before), time.Since(began), cpuSelf() - used, err
}

// highWater returns the largest resident memory of this process in MiB, or 0 where the system does not say.
func highWater() float64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			if kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64); err == nil {
				return kib / 1024
			}
		}
	}
	return 0
}
