package acme

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"sync/atomic"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
)

// A nonce is sealed by AES-256-GCM under a key that all nodes share: the process that gave it out, its number there and the second. So a nonce
// needs no row to be known for ours. That it is used once takes a memory of those that were used. With SQLite there is one process, which
// remembers its newest 2^20 nonces as one bit each; a nonce of a process that has ended is not accepted. With PostgreSQL there may be several
// nodes, and a client is free to take a nonce from one to another: there a row is inserted for each use, many with one commit, and the one who
// inserted it may go on.
const (
	nonceLife  = time.Hour
	nonceWords = 1 << 14 // of 64 bits
	nonceAhead = 64      // words that are cleared before they come into use
	nonceSize  = 8 + 8 + 4
	purgeMost  = 10_000 // rows that one statement takes away
)

// Nonces gives out numbers that are used once (RFC 8555, section 6.5). It is safe for concurrent use.
type Nonces struct {
	aead    cipher.AEAD
	now     func() time.Time
	process [8]byte
	next    atomic.Uint64
	used    [nonceWords]atomic.Uint64
	shared  *db.Group[*usedNonce] // nil: this process alone
}

func newNonces(d *db.DB, key []byte, now func() time.Time) *Nonces {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic("acme: " + err.Error()) // the key has another length than Deps says
	}
	n := &Nonces{now: now}
	if n.aead, err = cipher.NewGCMWithRandomNonce(block); err != nil {
		panic("acme: " + err.Error())
	}
	rand.Read(n.process[:])
	if d.Arrays() {
		n.shared = db.NewGroup(d, db.Plan[*usedNonce]{Key: (*usedNonce).key, Apply: applyNonces})
	}
	return n
}

func (n *Nonces) run(ctx context.Context) error {
	if n.shared == nil {
		return nil
	}
	return n.shared.Run(ctx)
}

// New returns a fresh nonce.
func (n *Nonces) New() string {
	number := n.next.Add(1)
	if number%64 == 0 { // the word that comes into use in a while holds the bits of long ago
		n.used[(number/64+nonceAhead)%nonceWords].Store(0)
	}
	plain := make([]byte, nonceSize)
	copy(plain, n.process[:])
	binary.BigEndian.PutUint64(plain[8:], number)
	binary.BigEndian.PutUint32(plain[16:], uint32(n.now().Unix()))
	return base64.RawURLEncoding.EncodeToString(n.aead.Seal(nil, nil, plain, nil))
}

// Use returns nil for a nonce that was given out here within the hour and not used yet. The error has Type BadNonce, or kind Unavailable.
func (n *Nonces) Use(ctx context.Context, text string) error {
	bad := refuse(errs.Invalid, BadNonce, "the nonce is not one that is good now: take the one of this answer")
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return bad
	}
	plain, err := n.aead.Open(nil, nil, raw, nil)
	if err != nil || len(plain) != nonceSize {
		return bad
	}
	at := int64(binary.BigEndian.Uint32(plain[16:]))
	if age := n.now().Unix() - at; age > int64(nonceLife.Seconds()) || age < -int64(nonceLife.Seconds()) {
		return bad
	}
	if n.shared != nil {
		switch err := n.shared.Do(ctx, &usedNonce{id: sha256.Sum256(plain), expires: at + 2*int64(nonceLife.Seconds())}); {
		case errors.Is(err, errNonceUsed):
			return bad
		default:
			return err
		}
	}
	number := binary.BigEndian.Uint64(plain[8:])
	if !bytes.Equal(plain[:8], n.process[:]) || n.next.Load()-number > 64*(nonceWords-2*nonceAhead) {
		return bad
	}
	word, bit := &n.used[number/64%nonceWords], uint64(1)<<(number%64)
	if word.Or(bit)&bit != 0 {
		return bad
	}
	return nil
}

// usedNonce is one to be remembered in the database.
type usedNonce struct {
	id      [32]byte
	expires int64
}

var errNonceUsed = errors.New("the nonce was used before")

func (u *usedNonce) key() db.Key { return db.Key{Cell: u.id[0], ID: [16]byte(u.id[:16])} }

func applyNonces(ctx context.Context, tx *db.Tx, batch []*usedNonce) ([]error, error) {
	stmts := make([]*db.Stmt, len(batch))
	for i, u := range batch {
		stmts[i] = &db.Stmt{SQL: `INSERT INTO acme_nonce (id, expires) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING`, Args: []any{u.id[:16], u.expires}}
	}
	if err := tx.Send(ctx, stmts...); err != nil {
		return nil, err
	}
	refused := make([]error, len(batch))
	for i, s := range stmts {
		if s.N != 1 {
			refused[i] = errNonceUsed
		}
	}
	return refused, nil
}
