package key

import (
	"context"
	"crypto"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
)

// MeterDeps are what a Meter stands on.
type MeterDeps struct {
	DB      *db.DB
	Audit   *audit.Log
	Access  *access.Decider
	Custody *Custodies
	Now     func() time.Time
	Log     *slog.Logger
	Wait    time.Duration // how long a signature waits to be counted; 0 = 5 s
}

// Meter is a Custody that counts the use of keys and keeps them within their limits, on all nodes together.
//
// A key without a limit signs at once; its uses are counted in memory and stored every hour and at the end, so that a crash loses at most an
// hour's count. A key with a limit signs only what was reserved before: a node takes uses from the database in blocks, each with its entry in
// the record, and gives back at the end what it did not need. So a signature costs no access to the database but once a block, the limit is
// never passed, and a crash loses at most a block, which is an eighth of what was left.
//
// Its own Signer is for certificates. ForStatus is for what must go on when no certificate may be signed any more; see Limit.
type Meter struct {
	deps MeterDeps
	asks chan ask

	mu   sync.RWMutex // guards keys
	keys map[ID]*usage
}

// purpose is what a signature is for.
type purpose int

const (
	forIssue purpose = iota
	forStatus
	purposes
)

// counts are numbers of signatures for each purpose.
type counts [purposes]int64

// usage is the use of one key by this process.
type usage struct {
	id      ID
	limit   atomic.Pointer[limited] // nil: there never was one
	counted [purposes]atomic.Int64  // uses that are not stored yet
	left    [purposes]atomic.Int64  // reserved and not used yet
	dry     [purposes]atomic.Bool   // nothing was left in the database when it was last looked at
	told    [purposes]atomic.Int64  // the turn of the limit whose end was recorded
	signers [purposes]atomic.Pointer[metered]
}

// limited is a limit as it stands in the database.
type limited struct {
	Limit
	turn int64
}

// ask is a request for a block; exactly one error comes back.
type ask struct {
	use     *usage
	purpose purpose
	reply   chan error
}

// NewMeter returns a Meter without limits. Call Load before its first use. It starts nothing: limited keys sign only while Run runs.
func NewMeter(d MeterDeps) *Meter {
	if d.Wait == 0 {
		d.Wait = defaultWait
	}
	return &Meter{deps: d, asks: make(chan ask), keys: map[ID]*usage{}}
}

// Generate makes a key in the standard custody.
func (m *Meter) Generate(ctx context.Context, alg Algorithm, label string) (ID, crypto.PublicKey, error) {
	return m.deps.Custody.Generate(ctx, alg, label)
}

// GenerateIn makes a key in a certain custody; see Custodies.
func (m *Meter) GenerateIn(ctx context.Context, place Place, alg Algorithm, label string) (ID, crypto.PublicKey, error) {
	return m.deps.Custody.GenerateIn(ctx, place, alg, label)
}

// Signer returns the key for signing certificates.
func (m *Meter) Signer(ctx context.Context, id ID) (crypto.Signer, error) {
	return m.signer(ctx, id, forIssue)
}

// ForStatus returns the same keys for signing revocation lists and status answers.
func (m *Meter) ForStatus() Custody { return statusMeter{m} }

type statusMeter struct{ *Meter }

func (m statusMeter) Signer(ctx context.Context, id ID) (crypto.Signer, error) {
	return m.signer(ctx, id, forStatus)
}

func (m *Meter) signer(ctx context.Context, id ID, p purpose) (crypto.Signer, error) {
	u := m.usage(id)
	if s := u.signers[p].Load(); s != nil {
		return s, ctx.Err()
	}
	inner, err := m.deps.Custody.Signer(ctx, id)
	if errs.Is(err, errs.Denied) { // a token that lets nobody in
		err = errs.Wrap(errs.Unavailable, err, "%s", errs.Public(err))
	}
	if err != nil {
		return nil, err
	}
	u.signers[p].CompareAndSwap(nil, &metered{inner, m, u, p})
	return u.signers[p].Load(), nil
}

func (m *Meter) usage(id ID) *usage {
	m.mu.RLock()
	u := m.keys[id]
	m.mu.RUnlock()
	if u != nil {
		return u
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if u = m.keys[id]; u == nil {
		u = &usage{id: id}
		m.keys[id] = u
	}
	return u
}

// metered is a key whose use is counted.
type metered struct {
	inner   crypto.Signer
	meter   *Meter
	use     *usage
	purpose purpose
}

// Public returns the public key.
func (s *metered) Public() crypto.PublicKey { return s.inner.Public() }

// Sign signs as Custody says, if the key may be used once more. When it may not, the error is of kind Unavailable.
func (s *metered) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	limit, err := s.meter.take(s.use, s.purpose)
	if err != nil {
		return nil, err
	}
	signature, err := s.inner.Sign(rand, digest, opts)
	if err != nil {
		s.use.untake(limit, s.purpose)
		if k := errs.KindOf(err); k == errs.Unavailable || k == errs.Denied { // the custody's own text names tokens, and strangers may read this one
			err = errs.Wrap(errs.Unavailable, err, "the CA cannot sign at present: the custody of its key refuses; an administrator must look at it")
		}
	}
	return signature, err
}

// String names the key without showing it.
func (s *metered) String() string { return fmt.Sprint(s.inner) }

// Format prints String for every verb; see Signer.
func (s *metered) Format(f fmt.State, _ rune) { io.WriteString(f, s.String()) }

// LogValue logs String.
func (s *metered) LogValue() slog.Value { return slog.StringValue(s.String()) }

const defaultWait = 5 * time.Second

// take counts one use, or refuses it. It returns the limit under which it was counted.
func (m *Meter) take(u *usage, p purpose) (*limited, error) {
	for {
		limit := u.limit.Load()
		if limit == nil {
			u.counted[p].Add(1)
			return nil, nil
		}
		if limit.Until > 0 && p == forIssue && m.deps.Now().Unix() >= limit.Until {
			return nil, errs.New(errs.Unavailable, "the CA signs no certificates any more: its key was to be used until %s. Give it a later end with mooring ca limit, or use its successor",
				time.Unix(limit.Until, 0).UTC().Format("2006-01-02 15:04:05Z"))
		}
		if limit.MaxUses == 0 {
			u.counted[p].Add(1)
			return nil, nil
		}
		if u.left[p].Add(-1) >= 0 {
			return limit, nil
		}
		u.left[p].Add(1)
		if u.dry[p].Load() {
			return nil, limit.exhausted(p)
		}
		if err := m.ask(u, p); err != nil {
			return nil, err
		}
	}
}

func (l *limited) exhausted(p purpose) error {
	if p == forStatus {
		return errs.New(errs.Unavailable, "the CA tells nothing of its certificates any more: its key has signed as many lists and status answers as it may, %d. Raise the limit with mooring ca limit --status-uses", l.StatusUses)
	}
	return errs.New(errs.Unavailable, "the CA signs no certificates any more: its key has signed as many as it may, %d. Raise the limit with mooring ca limit, or use its successor", l.MaxUses)
}

// untake takes a use back that did not happen.
func (u *usage) untake(under *limited, p purpose) {
	if under == nil {
		u.counted[p].Add(-1)
		return
	}
	u.left[p].Add(1)
}

// ask has Run reserve a block. crypto.Signer knows no context, and the time limit is enough.
func (m *Meter) ask(u *usage, p purpose) error {
	late := time.NewTimer(m.deps.Wait)
	defer late.Stop()
	a := ask{u, p, make(chan error, 1)}
	select {
	case m.asks <- a:
	case <-late.C:
		return errs.New(errs.Unavailable, "the CA cannot sign at present: its key has a limit, and its use cannot be counted")
	}
	select {
	case err := <-a.reply:
		return err
	case <-late.C:
		return errs.New(errs.Unavailable, "the CA cannot sign at present: its key has a limit, and its use cannot be counted")
	}
}

// drain takes what must be stored: the uses that were counted, less those that were reserved and are not needed.
func (u *usage) drain() (n counts) {
	for p := range purposes {
		n[p] = u.counted[p].Swap(0)
		// A taker that finds nothing is below zero for a moment and adds it again itself.
		for {
			left := u.left[p].Load()
			if left <= 0 {
				break
			}
			if u.left[p].CompareAndSwap(left, 0) {
				n[p] -= left
				break
			}
		}
	}
	return n
}

// count adds to what must be stored.
func (u *usage) count(n counts) {
	for p := range purposes {
		u.counted[p].Add(n[p])
	}
}

// uncount takes what was counted and not stored.
func (u *usage) uncount() (n counts) {
	for p := range purposes {
		n[p] = u.counted[p].Swap(0)
	}
	return n
}

// adopt heeds a limit unless a newer one is known.
func (u *usage) adopt(l limited) {
	for {
		was := u.limit.Load()
		if was != nil && was.turn > l.turn {
			return
		}
		if u.limit.CompareAndSwap(was, &l) {
			break
		}
	}
	for p := range purposes {
		u.dry[p].Store(false)
	}
}
