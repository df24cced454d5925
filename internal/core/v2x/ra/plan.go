package ra

import (
	"context"
	"strconv"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/core/audit"
	"mooring/internal/core/v2x/ea"
	"mooring/wire/its"
)

// planBatch is how many requests are planned in one transaction.
const planBatch = 64

// Plan has the periods that come near counted, and puts their tickets among those that wait.
func (s *Service) Plan(ctx context.Context) error {
	horizon, now := s.period(s.seconds())+int64(s.Policy.Ahead), s.Now()
	for {
		var due []*order
		err := s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
			due = nil
			return tx.Each(ctx, func(row db.Row) error {
				o, err := scanOrder(row)
				if err == nil && !s.isDelayed(o.id, now) {
					due = append(due, o)
				}
				return err
			}, selectDue, horizon, now.Unix(), planBatch+s.delays(now))
		})
		if err != nil || len(due) == 0 {
			return err
		}
		if err := s.planSome(ctx, due[:min(len(due), planBatch)], now); err != nil {
			return err
		}
	}
}

// planSome plans some requests in one transaction. Those that cannot be now are looked at again later.
func (s *Service) planSome(ctx context.Context, due []*order, now time.Time) error {
	planned := map[its.HashedId8]bool{}
	err := s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		clear(planned)
		for _, o := range due {
			was := o.next
			if n, err := tx.Exec(ctx, holdOrder, o.id[:], was); err != nil {
				return err
			} else if n == 0 {
				planned[o.id] = true // somebody else did, or it ended
				continue
			}
			again := *o
			code, err := s.planTx(ctx, tx, &again)
			if err != nil {
				return err
			}
			if code != its.ValidationOk || again.next == was {
				continue
			}
			if _, err := tx.Exec(ctx, moveOrder, o.id[:], again.next); err != nil {
				return err
			}
			if err := s.Audit.Append(ctx, tx, audit.Entry{Action: "v2x.plan", Actor: "system:v2x", Device: o.device.String(), Object: o.id.String(),
				Detail: map[string]string{detailFirst: strconv.FormatInt(max(was, s.period(s.seconds())), 10), detailNext: strconv.FormatInt(again.next, 10)}}); err != nil {
				return err
			}
			planned[o.id] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, o := range due {
		if !planned[o.id] {
			s.delayOrder(o.id, now)
		}
	}
	return nil
}

// planTx counts the tickets of the periods that are due, moves o.next behind them, and has the tickets wait. With a code that is not ok nothing was done.
func (s *Service) planTx(ctx context.Context, tx *db.Tx, o *order) (its.AuthorizationValidationResponseCode, error) {
	last := max(s.period(s.seconds()), o.first) + int64(s.Policy.Ahead)
	latest := s.seconds() + its.Time32(s.EA.Policy.Preload/time.Second)
	var list []ea.Reservation
	from := max(o.next, s.period(s.seconds())) // what is over is left out
	next := from
	for ; next < last; next++ {
		v := s.valid(next)
		if v.Start > latest || s.unix(v.Start) >= o.until {
			break
		}
		list = append(list, ea.Reservation{Start: v.Start, Ends: v.End(), Tickets: o.tickets})
	}
	if len(list) == 0 {
		return its.ValidationOk, nil
	}
	if o.permissions == nil { // it comes from the store
		if err := o.read(); err != nil {
			return 0, err
		}
	}
	if code, err := s.EA.ReserveTx(ctx, tx, o.device, o.signer, o.permissions, list); err != nil || code != its.ValidationOk {
		return code, err
	}
	var stmts []*db.Stmt
	since := s.Now().Unix()
	for i := from; i < next; i++ {
		for j := range o.tickets {
			stmts = append(stmts, &db.Stmt{SQL: insertWaiting, Args: []any{o.id[:], i, j, since, []byte{}}})
		}
	}
	o.next = next
	return its.ValidationOk, tx.Send(ctx, stmts...)
}

func (s *Service) isDelayed(id its.HashedId8, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.delayed[id].After(now)
}

func (s *Service) delayOrder(id its.HashedId8, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delayed[id] = now.Add(delay)
}

// delays is how many requests are delayed; those that are not any more are forgotten.
func (s *Service) delays(now time.Time) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, until := range s.delayed {
		if !until.After(now) {
			delete(s.delayed, id)
		}
	}
	return len(s.delayed)
}
