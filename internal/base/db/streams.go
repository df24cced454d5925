package db

import (
	"context"
	"fmt"
)

// Stream is one stream as its reader sees it: the audit sequencer, which reads what the batches left in order and tidies up after
// processes that are gone.
type Stream struct {
	ID     [8]byte
	Next   int64 // every batch below it is committed, in the same state of the database in which this was read
	Closed bool  // no further batch can be committed under it
}

// drained is the third state of stream.closed, after 0 (open) and 1 (closed): closed, and read to its end.
const drained = 2

// Streams returns the streams that may hold something unread, in the order of their ids.
func (tx *Tx) Streams(ctx context.Context) ([]Stream, error) {
	var all []Stream
	err := tx.Each(ctx, func(r Row) error {
		var s Stream
		var id []byte
		var closed int64
		if err := r.Scan(&id, &s.Next, &closed); err != nil {
			return err
		}
		if len(id) != len(s.ID) {
			return fmt.Errorf("a stream is called %x: its name must have %d octets", id, len(s.ID))
		}
		copy(s.ID[:], id)
		s.Closed = closed != 0
		all = append(all, s)
		return nil
	}, `SELECT stream, next, closed FROM stream WHERE cell = 0 AND closed < $1 ORDER BY stream`, drained)
	if err != nil {
		return nil, fmt.Errorf("listing the streams: %w", err)
	}
	return all, nil
}

// CloseStream closes s if it still stands where s says, and reports whether it did. That is safe even when its owner is alive: the owner's
// next batch runs under a new stream.
func (tx *Tx) CloseStream(ctx context.Context, s Stream) (bool, error) {
	n, err := tx.Exec(ctx, `UPDATE stream SET closed = 1 WHERE cell = 0 AND stream = $1 AND next = $2 AND closed = 0`, s.ID[:], s.Next)
	if err != nil {
		return false, fmt.Errorf("closing stream %x: %w", s.ID, err)
	}
	return n == 1, nil
}

// DrainStream notes that the closed stream s was read to its end, so that Streams leaves it out from now on.
func (tx *Tx) DrainStream(ctx context.Context, s Stream) error {
	_, err := tx.Exec(ctx, `UPDATE stream SET closed = $3 WHERE cell = 0 AND stream = $1 AND next = $2 AND closed = 1`, s.ID[:], s.Next, drained)
	if err != nil {
		return fmt.Errorf("noting that stream %x was read: %w", s.ID, err)
	}
	return nil
}
