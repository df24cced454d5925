package sink

import (
	"context"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/message"
)

// maxDead bounds the dead letters of one sink.
const maxDead = 10_000

// Store keeps places and dead letters.
type Store struct {
	DB     *db.DB
	Tenant string
	Now    func() time.Time
}

// place returns the place of a sink, and of which stream; 0 and 0 when it has none.
func (s *Store) place(ctx context.Context, sink string) (born int64, seq uint64, err error) {
	var n int64
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Get(ctx, []any{&born, &n}, `SELECT born, seq FROM sink_cursor WHERE cell = 0 AND sink = $1`, sink)
		return err
	})
	return born, uint64(n), err
}

const movePlace = `INSERT INTO sink_cursor (cell, sink, born, seq) VALUES (0, $1, $2, $3) ON CONFLICT (cell, sink) DO UPDATE SET born = excluded.born, seq = excluded.seq`

// move moves the place of a sink. l makes sure that nobody else has taken over meanwhile.
func (s *Store) move(ctx context.Context, l *db.Lease, sink string, born int64, seq uint64) error {
	return s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if err := l.Fence(ctx, tx); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, movePlace, sink, born, int64(seq))
		return err
	})
}

// bury puts a message among the dead letters and moves the place behind it.
func (s *Store) bury(ctx context.Context, l *db.Lease, sink string, born int64, m *message.Message, reason error) error {
	return s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if err := l.Fence(ctx, tx); err != nil {
			return err
		}
		var n int64
		if _, err := tx.Get(ctx, []any{&n}, `SELECT count(*) FROM sink_dead WHERE cell = 0 AND sink = $1`, sink); err != nil {
			return err
		}
		if n >= maxDead {
			return errs.New(errs.Limited, "the sink %s has %d dead letters: see why its receiver refuses them, and discard them", sink, n)
		}
		return tx.Send(ctx,
			&db.Stmt{SQL: `INSERT INTO sink_dead (cell, sink, born, seq, at, reason, event) VALUES (0, $1, $2, $3, $4, $5, $6) ON CONFLICT (cell, sink, born, seq) DO NOTHING`,
				Args: []any{sink, born, int64(m.Seq), s.Now().Unix(), errs.Public(reason), encode(bury(newEvent(s.Tenant, born, m), m))}},
			&db.Stmt{SQL: movePlace, Args: []any{sink, born, int64(m.Seq)}})
	})
}

// letters returns dead letters of a sink, the oldest first: those after a place, or those alone that are to be tried once more, of which those come first that
// were tried less.
func (s *Store) letters(ctx context.Context, sink string, born int64, seq uint64, most int, retry bool) (list []letter, err error) {
	only := int64(0)
	if retry {
		only = 1
	}
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		list = nil
		return tx.Each(ctx, func(r db.Row) error {
			var d letter
			var seq, retry int64
			var event []byte
			if err := r.Scan(&d.born, &seq, &d.at, &d.reason, &event, &retry); err != nil {
				return err
			}
			d.tries = retry
			d.message = exhume(event)
			d.message.Seq = uint64(seq)
			list = append(list, d)
			return nil
		}, `SELECT born, seq, at, reason, event, retry FROM sink_dead WHERE cell = 0 AND sink = $1 AND (born > $2 OR born = $2 AND seq > $3) AND retry >= $4 ORDER BY CASE WHEN $5 = 1 THEN retry ELSE 0 END, born, seq LIMIT $6`,
			sink, born, int64(seq), only, only, most)
	})
	return list, err
}

// letter is a message that a sink would not take.
type letter struct {
	born    int64
	at      int64 // when it was given up, Unix seconds
	reason  string
	tries   int64 // 0: it is not to be tried once more; 1: it is, and was not yet; 2: it was once, and the receiver did not answer; …
	message *message.Message
}

// Dead returns dead letters of a sink, the oldest first, at most so many: those after the one with the id after, if that is not "".
func (s *Store) Dead(ctx context.Context, sink, after string, most int) (list []message.DeadLetter, err error) {
	var born int64
	var seq uint64
	if after != "" {
		if born, seq, err = parseID(after); err != nil {
			return nil, err
		}
	}
	letters, err := s.letters(ctx, sink, born, seq, most, false)
	for _, d := range letters {
		m := d.message
		list = append(list, message.DeadLetter{ID: ID(d.born, m), At: d.at, Reason: d.reason, Retry: d.tries > 0, Thing: m.Thing, Topic: m.Topic, Payload: m.Payload})
	}
	return list, err
}

// Retry has dead letters of a sink handed over once more, and returns how many. No ids mean all.
func (s *Store) Retry(ctx context.Context, tx *db.Tx, sink string, ids []string) (int64, error) {
	return forLetters(ctx, tx, `UPDATE sink_dead SET retry = 1 WHERE cell = 0 AND sink = $1`, sink, ids)
}

// Drop forgets dead letters of a sink, and returns how many. No ids mean all.
func (s *Store) Drop(ctx context.Context, tx *db.Tx, sink string, ids []string) (int64, error) {
	return forLetters(ctx, tx, `DELETE FROM sink_dead WHERE cell = 0 AND sink = $1`, sink, ids)
}

// forLetters runs a statement for some dead letters. One that is not there is an error, and then nothing is done.
func forLetters(ctx context.Context, tx *db.Tx, sql, sink string, ids []string) (n int64, err error) {
	if len(ids) == 0 {
		return tx.Exec(ctx, sql, sink)
	}
	for _, id := range ids {
		born, seq, err := parseID(id)
		if err != nil {
			return 0, err
		}
		one, err := tx.Exec(ctx, sql+` AND born = $2 AND seq = $3`, sink, born, int64(seq))
		if err != nil {
			return 0, err
		}
		if one == 0 {
			return 0, errs.New(errs.NotFound, "the sink %s has no dead letter %s: nothing was done", sink, ID(born, &message.Message{Seq: seq}))
		}
		n += one
	}
	return n, nil
}

// settle takes a dead letter away that the receiver has taken now, or says why it still does not.
func (s *Store) settle(ctx context.Context, l *db.Lease, sink string, d *letter, refused error) error {
	return s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if err := l.Fence(ctx, tx); err != nil {
			return err
		}
		if refused == nil {
			_, err := tx.Exec(ctx, `DELETE FROM sink_dead WHERE cell = 0 AND sink = $1 AND born = $2 AND seq = $3`, sink, d.born, int64(d.message.Seq))
			return err
		}
		_, err := tx.Exec(ctx, `UPDATE sink_dead SET retry = 0, at = $1, reason = $2 WHERE cell = 0 AND sink = $3 AND born = $4 AND seq = $5`,
			s.Now().Unix(), errs.Public(refused), sink, d.born, int64(d.message.Seq))
		return err
	})
}

// tried notes that the receiver said nothing of a dead letter, which is to be tried again.
func (s *Store) tried(ctx context.Context, l *db.Lease, sink string, d *letter, _ error) error {
	return s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if err := l.Fence(ctx, tx); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `UPDATE sink_dead SET retry = $1 WHERE cell = 0 AND sink = $2 AND born = $3 AND seq = $4 AND retry = $5`,
			d.tries+1, sink, d.born, int64(d.message.Seq), d.tries)
		return err
	})
}

func (s *Store) dead(ctx context.Context, sink string) (n int64, err error) {
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Get(ctx, []any{&n}, `SELECT count(*) FROM sink_dead WHERE cell = 0 AND sink = $1`, sink)
		return err
	})
	return n, err
}
