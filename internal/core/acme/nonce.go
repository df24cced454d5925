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

// A nonce is sealed by AES-256-GCM under a key that all nodes share: the process that gave it out, its number there, the second, and of which kind it
// is. So a nonce needs no row to be known for ours. That it is used once takes a memory of those that were used, and there are two.
//
// A nonce of its own counts only at the process that gave it out, which remembers its newest 786,432 as one bit each. With SQLite there are no others.
//
// A shared one counts at each node, where a client is free to take it from one to another: there a row is inserted for each use, many with one
// commit, and the one who inserted it may go on. A node gives out shared ones for a while after it has met a nonce of another node, since it then
// has clients that go from one to another. The nonce of its own that a client brought along so is refused, and that refusal holds a shared one
// (RFC 8555, section 6.5): it costs that client one message more, and all others no rows.
//
// Only accounts bring a node to that: from a stranger's message it would take one in ten minutes to have all orders stored at once. A stranger who comes
// from another node gets a shared nonce with the refusal, and nobody else does.
const (
	nonceLife  = time.Hour
	nonceWords = 1 << 14 // of 64 bits
	nonceAhead = 1 << 11 // words that are cleared before they come into use; who clears one may be held up while others give out thousands of nonces
	nonceSize  = 8 + 8 + 4 + 1
	nonceMet   = 10 * time.Minute // how long a nonce of another node is remembered
	purgeMost  = 10_000           // rows that one statement takes away
)

// Nonces gives out numbers that are used once (RFC 8555, section 6.5). It is safe for concurrent use.
type Nonces struct {
	aead    cipher.AEAD
	now     func() time.Time
	process [8]byte
	next    atomic.Uint64
	used    [nonceWords]atomic.Uint64
	shared  *db.Group[*usedNonce] // nil: this process alone
	met     atomic.Int64          // when a nonce of another node was met last, UTC seconds
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

// The kinds of nonces.
const (
	nonceOwn    = 0
	nonceShared = 1
)

// kind is that of the nonces that are given out now.
func (n *Nonces) kind() byte {
	if n.shared != nil && n.now().Unix()-n.met.Load() < int64(nonceMet.Seconds()) {
		return nonceShared
	}
	return nonceOwn
}

// New returns a fresh nonce.
func (n *Nonces) New() string { return n.make(n.kind()) }

// NewFor returns a fresh nonce for a client to which Use said err: it counts at each node if the client came from another one.
func (n *Nonces) NewFor(err error) string {
	if n.shared != nil && errors.Is(err, errElsewhere) {
		return n.make(nonceShared)
	}
	return n.New()
}

func (n *Nonces) make(kind byte) string {
	number := n.next.Add(1)
	if number%64 == 0 { // the word that comes into use in a while holds the bits of long ago
		n.used[(number/64+nonceAhead)%nonceWords].Store(0)
	}
	var plain [nonceSize]byte
	copy(plain[:], n.process[:])
	binary.BigEndian.PutUint64(plain[8:], number)
	binary.BigEndian.PutUint32(plain[16:], uint32(n.now().Unix()))
	plain[20] = kind
	return base64.RawURLEncoding.EncodeToString(n.aead.Seal(nil, nil, plain[:], nil))
}

// errElsewhere is in the error for a nonce that counts at another node alone.
var errElsewhere = errors.New("the nonce is one of another node")

// Use returns nil for a nonce that was given out here within the hour and not used yet. The error has Type BadNonce, or kind Unavailable. byAccount says
// that a valid account signed the message with the nonce.
func (n *Nonces) Use(ctx context.Context, text string, byAccount bool) error {
	bad := badNonce(BadNonce)
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
	ours := bytes.Equal(plain[:8], n.process[:])
	if !ours && byAccount {
		n.met.Store(n.now().Unix())
	}
	switch {
	case plain[20] == nonceShared && n.shared != nil:
		return n.claim(ctx, plain, at, bad)
	case plain[20] == nonceOwn && ours && n.first(binary.BigEndian.Uint64(plain[8:])):
		return nil
	case plain[20] == nonceOwn && !ours:
		return badNonce(errors.Join(BadNonce, errElsewhere))
	}
	return bad
}

func badNonce(cause error) error {
	return errs.Wrap(errs.Invalid, cause, "the nonce is not one that is good now: take the one of this answer")
}

// first reports whether the nonce of this number is used for the first time, as far as is remembered.
func (n *Nonces) first(number uint64) bool {
	if n.next.Load()-number > 64*(nonceWords-2*nonceAhead) {
		return false
	}
	word, bit := &n.used[number/64%nonceWords], uint64(1)<<(number%64)
	return word.Or(bit)&bit == 0
}

// claim uses up a nonce for all nodes.
func (n *Nonces) claim(ctx context.Context, plain []byte, at int64, bad error) error {
	err := n.shared.Do(ctx, &usedNonce{id: sha256.Sum256(plain), expires: at + 2*int64(nonceLife.Seconds())})
	if errors.Is(err, errNonceUsed) {
		return bad
	}
	return err
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
