package app

import (
	"testing"

	"mooring/internal/core/revoke"
)

// TestABrokenFeedIsTakenUpWhereItBroke: from the present on it would miss what others revoked meanwhile.
func TestABrokenFeedIsTakenUpWhereItBroke(t *testing.T) {
	for _, row := range []struct {
		from int64
		e    revoke.Event
		want int64
	}{
		{-1, revoke.Event{Cursor: 0, Kind: revoke.Alive}, 0},
		{-1, revoke.Event{Cursor: -1, Kind: revoke.Revoked}, -1},
		{7, revoke.Event{Cursor: -1, Kind: revoke.Revoked}, 7},
		{7, revoke.Event{Cursor: 7, Kind: revoke.Alive}, 7},
		{7, revoke.Event{Cursor: 9, Kind: revoke.Released}, 10},
		{10, revoke.Event{Cursor: 9, Kind: revoke.Held}, 10},
	} {
		if got := behind(row.from, &row.e); got != row.want {
			t.Errorf("from %d, after %s at %d: got %d, want %d", row.from, row.e.Kind, row.e.Cursor, got, row.want)
		}
	}
}
