package broker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
)

// Broker is one broker of the configuration.
type Broker struct {
	Name   string // for ever: wishes that wait are kept under it
	Driver Driver
	// Again has a thing kicked once more this long after it was cut; 0 = not. It is for brokers that know from a file who is revoked: whoever connected again
	// before the file was there is still connected.
	Again time.Duration
}

// Options are what an Outbox stands on.
type Options struct {
	DB      *db.DB
	Brokers []Broker
	Now     func() time.Time
	Log     *slog.Logger
}

// The bounds.
const (
	batch      = 500       // wishes that are told at once
	maxPending = 1_000_000 // wishes that wait for one broker
	look       = 5 * time.Second
	tellTime   = 30 * time.Second // for one call of a driver
	firstPause = time.Second
	maxPause   = time.Minute
)

// Outbox keeps what brokers have to be told. It is safe for concurrent use.
type Outbox struct {
	o     Options
	wakes map[string]chan struct{}

	mu     sync.Mutex
	counts map[string]*counts // guarded by mu
}

type counts struct {
	confirmed, failed uint64
	slowest           time.Duration
}

// New returns an outbox. It starts nothing.
func New(o Options) *Outbox {
	x := &Outbox{o: o, wakes: map[string]chan struct{}{}, counts: map[string]*counts{}}
	for _, b := range o.Brokers {
		x.wakes[b.Name], x.counts[b.Name] = make(chan struct{}, 1), &counts{}
	}
	return x
}

// wish is what a broker has to do with a thing. The numbers are stored.
type wish int16

const (
	cut     wish = 1 // ban, and kick
	lift    wish = 2
	again   wish = 3 // kick once more
	kick    wish = 4
	refresh wish = 5 // lift, and kick
)

// Cut has every broker ban things until a time, the zero time for ever, and end their connections. It returns when that is kept; the brokers are told
// at once, and until they have confirmed it. The error has kind Limited when a broker has been away for so long that too much waits for it.
func (x *Outbox) Cut(ctx context.Context, things []string, until time.Time) error {
	seconds := int64(0)
	if !until.IsZero() {
		seconds = until.Unix()
	}
	return x.keep(ctx, cut, things, seconds)
}

// Lift has every broker let things in again.
func (x *Outbox) Lift(ctx context.Context, things []string) error {
	return x.keep(ctx, lift, things, 0)
}

// Kick has every broker end the connections of things, which may connect again: under what they are now.
func (x *Outbox) Kick(ctx context.Context, things []string) error {
	return x.keep(ctx, kick, things, 0)
}

// Refresh has every broker let things in that were banned, and end the connections that they have.
func (x *Outbox) Refresh(ctx context.Context, things []string) error {
	return x.keep(ctx, refresh, things, 0)
}

// putWish keeps a wish in the place of one that waits. To kick takes nothing back: not a ban that the broker was not told yet, nor that one was lifted; and to
// lift a ban takes back no kick, be it one that is to be repeated.
const putWish = `INSERT INTO broker_outbox (cell, broker, thing, wish, until, since, due, tries, turn) VALUES (0, $1, $2, $3, $4, $5, $6, 0, $7)
ON CONFLICT (cell, broker, thing) DO UPDATE SET
wish = CASE WHEN excluded.wish = 4 AND broker_outbox.wish = 1 THEN 1 WHEN excluded.wish = 4 AND broker_outbox.wish IN (2, 5) OR excluded.wish = 2 AND broker_outbox.wish IN (3, 4, 5) THEN 5 ELSE excluded.wish END,
until = CASE WHEN excluded.wish = 4 AND broker_outbox.wish = 1 THEN broker_outbox.until ELSE excluded.until END, since = excluded.since, due = excluded.due, tries = 0, turn = excluded.turn`

func (x *Outbox) keep(ctx context.Context, w wish, things []string, until int64) error {
	now := x.o.Now().UnixMilli()
	for part := range slices.Chunk(things, batch) {
		turn := []byte(rand.Text())
		err := x.o.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
			var stmts []*db.Stmt
			for _, b := range x.o.Brokers {
				if err := hasRoom(ctx, tx, b.Name); err != nil {
					return err
				}
				for _, thing := range part {
					stmts = append(stmts, &db.Stmt{SQL: putWish, Args: []any{b.Name, thing, int16(w), until, now, now, turn}})
				}
			}
			return tx.Send(ctx, stmts...)
		})
		if err != nil {
			return fmt.Errorf("keeping what brokers have to be told: %w", err)
		}
	}
	x.wake()
	return nil
}

// hasRoom refuses when too much waits for a broker.
func hasRoom(ctx context.Context, tx *db.Tx, broker string) error {
	var n int64
	if _, err := tx.Get(ctx, []any{&n}, `SELECT count(*) FROM broker_outbox WHERE cell = 0 AND broker = $1`, broker); err != nil {
		return err
	}
	if n >= maxPending {
		return errs.New(errs.Limited, "%d things wait to be cut off at the broker %s: bring it back, or take it from the configuration", n, broker)
	}
	return nil
}

func (x *Outbox) wake() {
	for _, c := range x.wakes {
		select {
		case c <- struct{}{}:
		default: // it is awake already
		}
	}
}

// Run tells the brokers, on one node of a cluster at a time, until ctx ends.
func (x *Outbox) Run(ctx context.Context) error {
	return x.o.DB.Lead(ctx, "broker-outbox", func(ctx context.Context, _ *db.Lease) error {
		g, ctx := errgroup.WithContext(ctx)
		for _, b := range x.o.Brokers {
			g.Go(func() error { return x.tell(ctx, b) })
		}
		return g.Wait()
	})
}

// tell tells one broker, until ctx ends. While the broker is away the pauses grow.
func (x *Outbox) tell(ctx context.Context, b Broker) error {
	failures := 0
	for ctx.Err() == nil {
		more, err := x.round(ctx, b)
		if err == nil {
			failures = 0
			if !more {
				x.wait(ctx, b.Name, look)
			}
			continue
		}
		if ctx.Err() != nil {
			break
		}
		failures++
		x.note(b.Name, func(c *counts) { c.failed++ })
		x.o.Log.LogAttrs(ctx, slog.LevelError, "a broker was not told who is cut off, and is told again", slog.String("broker", b.Name), slog.Int("failures", failures), slog.Any("cause", err))
		sleep(ctx, backOff(failures))
	}
	return nil
}

// backOff is the time to wait after so many failures: doubled each time, and half of it by chance.
func backOff(failures int) time.Duration {
	d := min(maxPause, firstPause<<min(failures-1, 10))
	return d/2 + mathrand.N(d/2)
}

// wait waits for a wish or for d, since wishes are made on other nodes too.
func (x *Outbox) wait(ctx context.Context, broker string, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-x.wakes[broker]:
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// row is one wish.
type row struct {
	thing string
	until int64
	since int64
	tries int64
	turn  []byte
}

// round tells a broker what is due, one kind of wish after the other, and reports whether more waits.
func (x *Outbox) round(ctx context.Context, b Broker) (more bool, err error) {
	for _, w := range []wish{cut, again, kick, lift, refresh} {
		rows, err := x.due(ctx, b.Name, w)
		if err != nil {
			return false, err
		}
		if err := x.have(ctx, b, w, rows); err != nil {
			return false, err
		}
		more = more || len(rows) == batch
	}
	return more, nil
}

func (x *Outbox) due(ctx context.Context, broker string, w wish) (rows []row, err error) {
	now := x.o.Now().UnixMilli()
	err = x.o.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		rows = nil
		return tx.Each(ctx, func(r db.Row) error {
			var w row
			if err := r.Scan(&w.thing, &w.until, &w.since, &w.tries, &w.turn); err != nil {
				return err
			}
			rows = append(rows, w)
			return nil
		}, `SELECT thing, until, since, tries, turn FROM broker_outbox WHERE cell = 0 AND broker = $1 AND wish = $2 AND due <= $3 ORDER BY due, thing LIMIT $4`,
			broker, int16(w), now, batch)
	})
	return rows, err
}

// have has a broker do what rows say, and notes it. If the broker refuses some of it for ever, the others are parted from that.
func (x *Outbox) have(ctx context.Context, b Broker, w wish, rows []row) error {
	if len(rows) == 0 {
		return nil
	}
	err := x.call(ctx, b.Driver, w, rows)
	if err == nil {
		return x.confirm(ctx, b, w, rows)
	}
	switch errs.KindOf(err) {
	case errs.Unavailable, errs.Limited, errs.Denied: // it is not about these things
		return err
	}
	if len(rows) == 1 {
		return errors.Join(err, x.postpone(ctx, b.Name, rows[0]))
	}
	half := len(rows) / 2
	return errors.Join(x.have(ctx, b, w, rows[:half]), x.have(ctx, b, w, rows[half:]))
}

// call makes the calls of the driver. Bans of one batch may have different ends.
func (x *Outbox) call(ctx context.Context, d Driver, w wish, rows []row) error {
	ctx, cancel := context.WithTimeout(ctx, tellTime)
	defer cancel()
	if w == lift {
		return d.Lift(ctx, names(rows))
	}
	if w == refresh {
		if err := d.Lift(ctx, names(rows)); err != nil {
			return err
		}
	}
	if w == cut {
		ends := map[int64][]row{}
		for _, r := range rows {
			ends[r.until] = append(ends[r.until], r)
		}
		for until, some := range ends {
			if err := d.Ban(ctx, names(some), moment(until)); err != nil {
				return err
			}
		}
	}
	return d.Kick(ctx, names(rows))
}

func moment(seconds int64) time.Time {
	if seconds == 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0)
}

func names(rows []row) []string {
	list := make([]string, len(rows))
	for i, r := range rows {
		list[i] = r.thing
	}
	return list
}

// confirm takes rows away that the broker has confirmed, unless something else is wished for by now.
func (x *Outbox) confirm(ctx context.Context, b Broker, w wish, rows []row) error {
	now := x.o.Now()
	err := x.o.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		var stmts []*db.Stmt
		for _, r := range rows {
			if (w == cut || w == kick || w == refresh) && b.Again > 0 {
				stmts = append(stmts, &db.Stmt{SQL: `UPDATE broker_outbox SET wish = $1, due = $2, tries = 0 WHERE cell = 0 AND broker = $3 AND thing = $4 AND turn = $5`,
					Args: []any{int16(again), now.Add(b.Again).UnixMilli(), b.Name, r.thing, r.turn}})
				continue
			}
			stmts = append(stmts, &db.Stmt{SQL: `DELETE FROM broker_outbox WHERE cell = 0 AND broker = $1 AND thing = $2 AND turn = $3`, Args: []any{b.Name, r.thing, r.turn}})
		}
		return tx.Send(ctx, stmts...)
	})
	if err != nil {
		return fmt.Errorf("noting what a broker confirmed: %w", err)
	}
	x.note(b.Name, func(c *counts) {
		c.confirmed += uint64(len(rows))
		for _, r := range rows {
			if took := now.Sub(time.UnixMilli(r.since)); w != again {
				c.slowest = max(c.slowest, took)
			}
		}
	})
	return nil
}

// postpone lets a wish that the broker refused wait, so that the others come first.
func (x *Outbox) postpone(ctx context.Context, broker string, r row) error {
	due := x.o.Now().Add(backOff(int(r.tries) + 1)).UnixMilli()
	return x.o.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE broker_outbox SET due = $1, tries = tries + 1 WHERE cell = 0 AND broker = $2 AND thing = $3 AND turn = $4`, due, broker, r.thing, r.turn)
		return err
	})
}

func (x *Outbox) note(broker string, fn func(*counts)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	fn(x.counts[broker])
}

// Metric says how one broker is.
type Metric struct {
	Broker    string
	Pending   int64         // wishes that are not confirmed; those that are to be repeated later are not among them
	Lag       time.Duration // age of the oldest of them
	Confirmed uint64        // by this node since its start
	Failed    uint64        // rounds in which the broker was not reached, or refused
	Slowest   time.Duration // from the wish to the confirmation
}

// Metrics returns one for each broker.
func (x *Outbox) Metrics(ctx context.Context) (list []Metric, err error) {
	now := x.o.Now()
	for _, b := range x.o.Brokers {
		m := Metric{Broker: b.Name}
		var oldest int64
		if err := x.o.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Get(ctx, []any{&m.Pending, &oldest}, `SELECT count(*), CAST(coalesce(min(since), 0) AS bigint) FROM broker_outbox WHERE cell = 0 AND broker = $1 AND wish <> $2`, b.Name, int16(again))
			return err
		}); err != nil {
			return nil, err
		}
		if m.Pending > 0 {
			m.Lag = now.Sub(time.UnixMilli(oldest))
		}
		x.note(b.Name, func(c *counts) { m.Confirmed, m.Failed, m.Slowest = c.confirmed, c.failed, c.slowest })
		list = append(list, m)
	}
	return list, nil
}
