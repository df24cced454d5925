package app

import (
	"context"
	"log/slog"
	"time"

	"mooring/internal/core/access"
	"mooring/internal/core/revoke"
)

// cutRevoked ends the connections of clients whose certificate is revoked or put on hold, by this node at once and by others within a second.
// New connections need no such care: core asks about the certificate of every request.
func (p *Platform) cutRevoked(ctx context.Context) error {
	from := int64(-1)
	for {
		err := p.Revoke.Watch(ctx, access.System("gate"), from, func(e revoke.Event) error {
			from = behind(from, &e)
			if e.Kind != revoke.Revoked && e.Kind != revoke.Held {
				return nil
			}
			if e.Kind == revoke.Held && p.released(ctx, e.Serial) {
				return nil
			}
			if err := p.cutOff(ctx, &e); err != nil { // other nodes have this feed too
				p.log.LogAttrs(ctx, slog.LevelWarn, "other nodes could not be told at once of a cut", slog.Any("cause", err))
			}
			for _, s := range p.surfaces {
				if n := s.gate.Cut(e.Serial); n > 0 {
					p.log.LogAttrs(ctx, slog.LevelInfo, "connections of a revoked certificate are cut", slog.String("listener", s.name), slog.Int("connections", n))
				}
			}
			return nil
		})
		if ctx.Err() != nil {
			return nil
		}
		p.log.LogAttrs(ctx, slog.LevelWarn, "the feed of revocations broke; it is taken up again", slog.Any("cause", err))
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil
		}
	}
}

// released reports whether a certificate that was put on hold is not any more. The feed tells of each hold twice, and by the second time the device may
// have been let in again.
func (p *Platform) released(ctx context.Context, serial []byte) bool {
	_, stands, err := p.Revoke.Status(ctx, serial)
	return err == nil && !stands
}

// behind returns from where the feed is to be read again when it breaks after e, so that what happens meanwhile is not missed.
func behind(from int64, e *revoke.Event) int64 {
	switch {
	case e.Cursor < 0: // it has no place yet, and comes again with it
		return from
	case e.Kind == revoke.Alive: // it stands before the entry at its place
		return max(from, e.Cursor)
	}
	return max(from, e.Cursor+1)
}
