package enrol

import (
	"context"
	"fmt"
	"log/slog"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/ca"
	"mooring/internal/core/revoke"
)

// A key can be reported as compromised while somebody else asks for a certificate with it. Memory may not know it yet, so the transaction that
// records the certificate asks the database. Where transactions run one after the other, which is so on SQLite, that is all. On PostgreSQL the
// report may be committed between that look and the commit; to have one wait for the other would take a row that all lock. So what was
// recorded is looked at once more before it is released: a certificate for a key that was reported before leaves in no case. That look travels behind the
// commit, and is repeated by itself where it did not get through.

// errBlocked is the refusal of a key that was reported as compromised.
var errBlocked = errs.New(errs.Denied, "this key was reported as compromised: make a new one")

// lookAgain has the keys of the batch looked for once it is committed.
func (s *Service) lookAgain(tx *db.Tx, batch []*item, hashes [][32]byte) {
	if !tx.Arrays() {
		return
	}
	for _, i := range batch {
		i.reported = nil // what was found behind another attempt
	}
	looks, found := s.Revoke.BlockedStmts(tx, hashes)
	tx.Follow(func() {
		for _, i := range batch {
			i.reported = found
		}
	}, looks...)
}

// withhold returns nil when a recorded certificate may be released. One for a key that was reported meanwhile is revoked instead.
func (s *Service) withhold(ctx context.Context, i *item) error {
	if !s.DB.Arrays() {
		return nil
	}
	c := i.cert
	blocked := i.reported[c.SPKIHash] || s.Revoke.KeyBlocked(c.SPKIHash)
	if i.reported == nil && !blocked {
		var err error
		if blocked, err = s.Revoke.BlockedNow(ctx, c.SPKIHash); err != nil {
			return fmt.Errorf("looking whether the key was reported as compromised meanwhile: %w", err)
		}
	}
	if !blocked {
		return nil
	}
	if ca.KeptAs(c.Serial[:]) != ca.Ephemeral { // those end by themselves
		if _, err := s.Revoke.Certificate(context.WithoutCancel(ctx), access.System("enrol"), c.Serial[:], revoke.KeyCompromise); err != nil {
			s.Log.LogAttrs(ctx, slog.LevelError, "a certificate for a key that was reported as compromised was recorded and not released, but could not be revoked",
				slog.String("serial", fmt.Sprintf("%x", c.Serial)), slog.Any("cause", err))
		}
	}
	return errBlocked
}
