package revoke

import (
	"context"
	"fmt"
	"log/slog"

	"mooring/internal/base/db"
)

const (
	// aheadMost is how many octets of lists are read ahead, where Deps.ReadAhead says nothing: those of 1.3 million entries.
	aheadMost = 64 << 20
	// aheadLists bounds how many, since each costs some memory of its own, too.
	aheadLists = 4096
)

// selectAhead finds the lists that are made of rows and have entries. What changed last comes first: there the next change is most likely.
const selectAhead = `SELECT issuer, shard, size FROM crl WHERE cell = 0 AND kind = 0 AND covers > 0 ORDER BY this_update DESC, size, issuer, shard LIMIT $1`

// Ahead is what ReadAhead read.
type Ahead struct {
	Lists  int
	Octets int64
}

// ReadAhead reads published lists before anybody asks, up to Deps.ReadAhead octets, the newest first. Without it the first revocation in a shard
// after a start would read that shard's rows, of which there are as many as were ever revoked there. It rests after each list as long as that
// took, so that it leaves half of a core to others. Run calls it. A list that cannot be read is left to whoever asks for it.
func (s *Service) ReadAhead(ctx context.Context) (read Ahead, err error) {
	todo, err := s.aheadOf(ctx)
	if err != nil {
		return read, fmt.Errorf("reading which CRLs there are: %w", err)
	}
	for _, l := range todo {
		if read.Octets+l.size > int64(s.Deps.ReadAhead) {
			continue // a smaller one may fit
		}
		began := s.Now()
		sc, err := s.scopeOf(l.key)
		if err != nil {
			continue // of a CA that this node has not loaded yet
		}
		if found, err := s.newest(ctx, sc); err == nil && found != nil {
			read.Lists, read.Octets = read.Lists+1, read.Octets+found.size
		}
		pause(ctx, s.Now().Sub(began), nil)
		if ctx.Err() != nil {
			return read, nil
		}
	}
	return read, nil
}

// toRead is a list that could be read ahead.
type toRead struct {
	key  scopeKey
	size int64
}

func (s *Service) aheadOf(ctx context.Context) (all []toRead, err error) {
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		all = nil
		return tx.Each(ctx, func(row db.Row) error {
			var issuer []byte
			var l toRead
			if err := row.Scan(&issuer, &l.key.shard, &l.size); err != nil {
				return err
			}
			copy(l.key.issuer[:], issuer)
			all = append(all, l)
			return nil
		}, selectAhead, int64(aheadLists))
	})
	return all, err
}

// ahead is ReadAhead for Run.
func (s *Service) ahead(ctx context.Context) {
	if _, err := s.ReadAhead(ctx); err != nil && ctx.Err() == nil {
		s.Log.LogAttrs(ctx, slog.LevelWarn, "revocation lists were not read ahead", slog.Any("cause", err))
	}
}
