package revoke

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/wire/der"
)

const (
	// pieceSize is the length of a row of crl_chunk.
	pieceSize = 256 << 10
	// maxMessage bounds lists whose signature takes the whole message: Ed25519 and ML-DSA hash it themselves, so it has to be in memory.
	// That is room for 1.3 million entries.
	maxMessage = 64 << 20
)

// trimEvery is after how many pieces the database is told to forget them: 2 MiB.
const trimEvery = 8

// reserveNumber gives out the next number, at least the present second.
const reserveNumber = `INSERT INTO crl_scope (cell, issuer, shard, changes, number) VALUES (0, $1, $2, 0, $3) ON CONFLICT (cell, issuer, shard)
 DO UPDATE SET number = CASE WHEN crl_scope.number >= excluded.number THEN crl_scope.number + 1 ELSE excluded.number END RETURNING number`

// publishWhole makes the complete list of a CA with shards. It is read, hashed and stored in pieces, so that it takes the same memory however
// long it is. It is stored under its number before anybody is told of that: the row of crl that names it comes last.
//
// A list made at the same time, by another node, may have been read later and say more, though its number is lower. So a list is published only
// when the list before is still the one that was there when its number was taken.
func (s *Service) publishWhole(ctx context.Context, sc *scope) (l *list, stored bool, err error) {
	var was *list
	l = &list{kind: pieced}
	err = s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if _, err := tx.Get(ctx, []any{&l.number}, reserveNumber, sc.key.issuer[:], sc.key.shard, s.Now().Unix()); err != nil {
			return err
		}
		was, err = readListTx(ctx, tx, sc.key)
		return err
	})
	if err != nil {
		return nil, false, fmt.Errorf("reserving a CRL number: %w", err)
	}
	s.follows(sc, l, was, s.Now().Unix(), true)
	l.floor, l.delta = floorAfter(was, true), false
	w := &writer{service: s, scope: sc, list: l}
	if err := w.write(ctx); err != nil {
		return nil, false, err
	}
	s.schedule(sc, l)
	if stored, err = s.storeWhole(ctx, sc, l, was); err != nil || !stored || was == nil {
		return l, stored, err
	}
	if err := s.dropPieces(ctx, sc.key, was.number); err != nil { // it is published all the same, and the next one drops them
		s.Log.LogAttrs(ctx, slog.LevelWarn, "the pieces of an old CRL were not deleted", slog.String("issuer", sc.key.issuer.String()), slog.Any("cause", err))
	}
	return l, true, nil
}

// dropPieces deletes the pieces of lists with lower numbers, a few at a time.
func (s *Service) dropPieces(ctx context.Context, k scopeKey, before int64) error {
	for {
		n, err := s.dropSome(ctx, k, before)
		if err != nil || n == 0 {
			return err
		}
		if err := s.DB.Trim(ctx); err != nil {
			return err
		}
	}
}

func (s *Service) dropSome(ctx context.Context, k scopeKey, before int64) (n int64, err error) {
	err = s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		var number, seq int64
		found, err := tx.Get(ctx, []any{&number, &seq}, `SELECT number, seq FROM crl_chunk WHERE cell = 0 AND issuer = $1 AND shard = $2 AND number < $3
 ORDER BY number, seq LIMIT 1`, k.issuer[:], k.shard, before)
		if n = 0; err != nil || !found {
			return err
		}
		n, err = tx.Exec(ctx, `DELETE FROM crl_chunk WHERE cell = 0 AND issuer = $1 AND shard = $2 AND number = $3 AND seq < $4`, k.issuer[:], k.shard, number, seq+trimEvery)
		return err
	})
	return n, err
}

// storeWhole publishes l if was is still the list before.
func (s *Service) storeWhole(ctx context.Context, sc *scope, l, was *list) (stored bool, err error) {
	before := int64(0)
	if was != nil {
		before = was.number
	}
	err = s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		now, err := readListTx(ctx, tx, sc.key)
		if err != nil {
			return err
		}
		if stored = now == nil && before == 0 || now != nil && now.number == before; !stored {
			return nil
		}
		if stored, err = l.storeTx(ctx, tx, sc.key); err != nil || !stored {
			return err
		}
		return s.Audit.Append(ctx, tx, l.entry(sc.key))
	})
	if err != nil {
		return false, fmt.Errorf("storing a CRL: %w", err)
	}
	return stored, nil
}

// writer makes the pieces of one list.
type writer struct {
	service *Service
	scope   *scope
	list    *list
	spec    der.CRLSpec
	hash    hash.Hash // of the TBSCertList; nil when message takes its place
	message []byte
	piece   []byte
	entry   []byte
	seq     int64 // of piece
	tbs     int   // octets so far
	left    int   // octets of entries still to come
}

// write stores all pieces and fills in what the row of the list says of them.
func (w *writer) write(ctx context.Context) error {
	s, l := w.service, w.list
	w.spec = s.spec(w.scope, l)
	err := s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error { return w.body(ctx, tx) })
	if err != nil {
		return fmt.Errorf("writing the complete CRL: %w", err)
	}
	digest := w.message
	if w.hash != nil {
		digest = w.hash.Sum(nil)
	}
	if l.signature, err = s.signDigest(ctx, w.scope.issuer, digest); err != nil {
		return err
	}
	before, after := der.Enclose(w.tbs, w.spec.Algorithm, l.signature)
	if err := w.append(ctx, after); err != nil {
		return err
	}
	if err := w.flush(ctx, w.seq, w.piece); err != nil {
		return err
	}
	l.before, l.size = before, int64(len(before)+w.tbs+len(after))
	if err := w.flush(ctx, 0, before); err != nil {
		return err
	}
	if err := s.DB.Trim(ctx); err != nil {
		return err
	}
	l.digest, err = s.digestOf(ctx, w.scope.key, l)
	return err
}

// body writes the TBSCertList. It may run again.
func (w *writer) body(ctx context.Context, tx *db.Tx) error {
	w.message, w.piece, w.seq, w.tbs, w.hash = nil, make([]byte, 0, pieceSize), 1, 0, nil
	if h := w.spec.Algorithm.Hash(); h != 0 {
		w.hash = h.New()
	}
	size, err := w.count(ctx, tx)
	if err != nil {
		return err
	}
	if w.hash == nil && size > maxMessage {
		return errs.New(errs.Unavailable, "the complete CRL would have %d octets, and a key of this kind can sign only %d: the lists of the shards tell all of it", size, maxMessage)
	}
	head, err := der.AppendCRLHead(nil, w.spec, size)
	if err != nil {
		return err
	}
	if err := w.signed(ctx, head); err != nil {
		return err
	}
	w.left = size
	err = tx.Each(ctx, func(row db.Row) error { return w.add(ctx, row) }, `SELECT serial, at, reason FROM revoked WHERE `+whole+` ORDER BY crl_shard, change`,
		w.whole()...)
	if err != nil {
		return err
	}
	if w.left != 0 {
		return fmt.Errorf("the entries have %d octets less than foretold", w.left)
	}
	return w.signed(ctx, der.AppendCRLTail(nil, w.spec))
}

// whole selects what belongs on the list: of the certificates that expired before the list before the last, only those that were revoked since,
// which includes a few minutes in which clocks may differ.
const whole = `issuer = $1 AND crl_shard >= 0 AND reason <> 8 AND (not_after >= $2 OR at >= $3)`

const clocksDiffer = 300 // seconds

func (w *writer) whole() []any {
	f := w.list.floor
	return []any{w.scope.key.issuer[:], f.update, f.update - clocksDiffer}
}

// from2050 is when times in lists become two octets longer (RFC 5280, section 5.1.2.4).
const from2050 = 2524608000

// count returns how many octets the entries will have, and sets how many changes the list covers.
func (w *writer) count(ctx context.Context, tx *db.Tx) (int, error) {
	var all, plain, late int64
	late2050 := int64(never)
	if w.list.thisUpdate >= from2050 {
		late2050 = from2050
	}
	if _, err := tx.Get(ctx, []any{&all, &plain, &late}, `SELECT COUNT(*), COALESCE(SUM(CASE WHEN reason = 0 THEN 1 ELSE 0 END), 0),
 COALESCE(SUM(CASE WHEN at >= $4 THEN 1 ELSE 0 END), 0) FROM revoked WHERE `+whole, append(w.whole(), late2050)...); err != nil {
		return 0, err
	}
	if _, err := tx.Get(ctx, []any{&w.list.covers}, `SELECT COALESCE(SUM(changes), 0) FROM crl_scope WHERE cell = 0 AND issuer = $1 AND shard >= 0`, w.scope.key.issuer[:]); err != nil {
		return 0, err
	}
	w.list.regularCovers = w.list.covers
	long, short := der.CRLEntrySize(serialSize, 0, 1), der.CRLEntrySize(serialSize, 0, 0)
	return int(all-plain)*long + int(plain)*short + int(late)*2, nil
}

const serialSize = 16

// add writes one entry.
func (w *writer) add(ctx context.Context, row db.Row) (err error) {
	var serial []byte
	var at int64
	var reason Reason
	if err := row.Scan(&serial, &at, (*uint8)(&reason)); err != nil {
		return err
	}
	if w.entry, err = der.AppendCRLEntry(w.entry[:0], serial, min(at, w.list.thisUpdate), int(reason)); err != nil {
		return err
	}
	if w.left -= len(w.entry); w.left < 0 {
		return errors.New("the entries have more octets than foretold")
	}
	return w.signed(ctx, w.entry)
}

// signed writes octets of the TBSCertList.
func (w *writer) signed(ctx context.Context, octets []byte) error {
	w.tbs += len(octets)
	if w.hash == nil {
		w.message = append(w.message, octets...)
	} else {
		w.hash.Write(octets)
	}
	return w.append(ctx, octets)
}

// append fills pieces and stores those that are full.
func (w *writer) append(ctx context.Context, octets []byte) error {
	for len(octets) > 0 {
		n := min(len(octets), pieceSize-len(w.piece))
		w.piece, octets = append(w.piece, octets[:n]...), octets[n:]
		if len(w.piece) < pieceSize {
			return nil
		}
		if err := w.flush(ctx, w.seq, w.piece); err != nil {
			return err
		}
		w.piece, w.seq = w.piece[:0], w.seq+1
		if w.seq%trimEvery == 0 {
			if err := w.service.DB.Trim(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush stores a piece.
func (w *writer) flush(ctx context.Context, seq int64, piece []byte) error {
	return w.service.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		return storePiece(ctx, tx, w.scope.key, w.list.number, seq, piece)
	})
}

func storePiece(ctx context.Context, tx *db.Tx, k scopeKey, number, seq int64, piece []byte) error {
	_, err := tx.Exec(ctx, `INSERT INTO crl_chunk (cell, issuer, shard, number, seq, data) VALUES (0, $1, $2, $3, $4, $5)
 ON CONFLICT (cell, issuer, shard, number, seq) DO UPDATE SET data = excluded.data`, k.issuer[:], k.shard, number, seq, piece)
	return err
}

const selectPiece = `SELECT data FROM crl_chunk WHERE cell = 0 AND issuer = $1 AND shard = $2 AND number = $3 AND seq = $4`

// piece reads one piece of a list.
func (s *Service) piece(ctx context.Context, k scopeKey, number, seq int64) (data []byte, err error) {
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		found, err := tx.Get(ctx, []any{&data}, selectPiece, k.issuer[:], k.shard, number, seq)
		if err == nil && !found {
			err = errs.New(errs.Unavailable, "the CRL %d is not there any more: fetch the newest one", number)
		}
		return err
	})
	return data, err
}

// digestOf reads all pieces of a list again.
func (s *Service) digestOf(ctx context.Context, k scopeKey, l *list) (digest [32]byte, err error) {
	h := sha256.New()
	if _, err := io.Copy(h, s.reader(ctx, l.crl(k))); err != nil {
		return digest, fmt.Errorf("reading back a CRL: %w", err)
	}
	return [32]byte(h.Sum(nil)), nil
}

// loadPieces reads what has to be known to serve a list that is kept in pieces.
func (s *Service) loadPieces(ctx context.Context, sc *scope, l *list) (err error) {
	l.before, err = s.piece(ctx, sc.key, l.number, 0)
	return err
}

// Content returns the octets of a list. It is to be used within ctx.
func (s *Service) Content(ctx context.Context, l CRL) io.ReadSeeker {
	if l.DER != nil {
		return bytes.NewReader(l.DER)
	}
	return s.reader(ctx, l)
}

func (s *Service) reader(ctx context.Context, l CRL) *reader {
	return &reader{before: l.before, size: l.Size, read: func(seq int64) ([]byte, error) { return s.piece(ctx, l.key, l.Number, seq) }}
}

// reader reads a list piece by piece.
type reader struct {
	before []byte
	size   int64
	at     int64
	read   func(seq int64) ([]byte, error)
	seq    int64 // of piece, 0 for none
	piece  []byte
}

// Read reads up to the end of a piece.
func (r *reader) Read(p []byte) (int, error) {
	if r.at >= r.size {
		return 0, io.EOF
	}
	if r.at < int64(len(r.before)) {
		n := copy(p, r.before[r.at:])
		r.at += int64(n)
		return n, nil
	}
	at := r.at - int64(len(r.before))
	if seq := at/pieceSize + 1; seq != r.seq {
		piece, err := r.read(seq)
		if err != nil {
			return 0, err
		}
		r.piece, r.seq = piece, seq
	}
	if at %= pieceSize; at >= int64(len(r.piece)) {
		return 0, io.ErrUnexpectedEOF
	}
	n := copy(p, r.piece[at:])
	r.at += int64(n)
	return n, nil
}

// Seek moves to a place in the list.
func (r *reader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.at
	case io.SeekEnd:
		offset += r.size
	}
	if offset < 0 {
		return 0, errs.New(errs.Invalid, "there is nothing before the beginning of a CRL")
	}
	r.at = offset
	return offset, nil
}
