package message

import (
	"context"
	"log/slog"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"strings"
)

const (
	beatEvery = 10 * time.Second
	lostAfter = 40 * time.Second // a node that was not heard of for so long is gone
	lookEvery = 10 * time.Second
)

const (
	upsertNode = `INSERT INTO message_node (cell, node, at) VALUES (0, $1, $2) ON CONFLICT (cell, node) DO UPDATE SET at = excluded.at`
	selectLost = `SELECT node FROM message_node WHERE cell = 0 AND at < $1 ORDER BY node`
	deleteNode = `DELETE FROM message_node WHERE cell = 0 AND node = $1 AND at < $2`
)

// beat says that this node lives.
func (s *Service) beat(ctx context.Context) {
	err := s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, upsertNode, s.node, s.unix())
		return err
	})
	if err != nil && ctx.Err() == nil {
		s.log.LogAttrs(ctx, slog.LevelWarn, "that this node lives cannot be said; others may say its wills", slog.Any("cause", err))
	}
}

// tendLost says the wills of sessions whose node is gone, and ends those whose time is over, while this node leads.
func (s *Service) tendLost(ctx context.Context, _ *db.Lease) error {
	for {
		if err := s.tendOnce(ctx); err != nil {
			return err
		}
		pause(ctx, lookEvery)
		if ctx.Err() != nil {
			return nil
		}
	}
}

func (s *Service) tendOnce(ctx context.Context) error {
	before := s.unix() - int64(lostAfter/time.Second)
	var lost []string
	err := s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		lost = nil
		return tx.Each(ctx, func(r db.Row) error {
			var node string
			err := r.Scan(&node)
			lost = append(lost, node)
			return err
		}, selectLost, before)
	})
	if err != nil || len(lost) == 0 {
		return err
	}
	left, err := s.tendSessions(ctx, lost)
	if err != nil || left {
		return err // some wills are not due yet: the nodes stay on the list
	}
	return s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		for _, node := range lost {
			if _, err := tx.Exec(ctx, deleteNode, node, before); err != nil {
				return err
			}
		}
		return nil
	})
}

// tendSessions goes through the sessions that the lost nodes held. It reports whether one of them still has a will to be said.
func (s *Service) tendSessions(ctx context.Context, lost []string) (left bool, err error) {
	gone := make(map[string]bool, len(lost))
	for _, node := range lost {
		gone[node] = true
	}
	var keys []string
	err = s.Fabric.Sessions(ctx, func(key string, data []byte, _ uint64) bool {
		if strings.HasPrefix(key, "s/") {
			if r, err := parseRecord(data); err == nil && gone[r.Node] && (r.Live || r.Will != nil) {
				keys = append(keys, key)
			}
		}
		return ctx.Err() == nil
	})
	if err != nil {
		return false, err
	}
	for _, key := range keys {
		later, err := s.tend(ctx, key, gone)
		if err != nil {
			return false, err
		}
		left = left || later
	}
	return left, ctx.Err()
}

// tend ends one session's connection, of which nobody is left who could, and says its will if it is time.
func (s *Service) tend(ctx context.Context, key string, gone map[string]bool) (later bool, err error) {
	r, revision, err := s.load(ctx, key)
	if err != nil || r == nil || !gone[r.Node] {
		return false, err
	}
	if r.Live {
		r.Live, r.Ended = false, s.unix()
		if r.Will != nil {
			r.WillAt = r.Ended + int64(min(r.Will.Delay, r.Expiry))
		}
		if revision, err = s.put(ctx, key, r, revision); err != nil {
			return true, ignoreConflict(err)
		}
	}
	switch {
	case r.Will == nil:
		if r.over(s.unix()) {
			err = ignoreConflict(s.drop(ctx, key, revision))
		}
		return false, err
	case r.WillAt > s.unix():
		return true, nil
	}
	s.sayStored(ctx, key, r, revision)
	return false, nil
}

func ignoreConflict(err error) error {
	if errs.Is(err, errs.Conflict) {
		return nil
	}
	return err
}
