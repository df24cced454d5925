package device

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
)

// TestManySlotsRevoked: rows by rows and by arrays the same is written, also of a device that is named twice.
func TestManySlotsRevoked(t *testing.T) {
	for _, byRow := range []bool{true, false} {
		w := newWorld(t)
		if !byRow && !w.db.Arrays() {
			continue
		}
		var list []Marked
		var first Device
		for i := range 3 {
			d := w.add(t, Spec{Name: fmt.Sprintf("d%d", i)})
			for n := range byte(i) + 1 {
				c := w.claim(w.load(t, d.ID), n+1)
				if refused := w.enrol(t, c); refused[0] != nil {
					t.Fatal(refused[0])
				}
			}
			list = append(list, Marked{ID: d.ID, Slot: "operational", Serial: bytes.Repeat([]byte{byte(i) + 1}, 16), At: w.now.Unix() + 5})
			if i == 0 {
				first = w.load(t, d.ID)
			}
		}
		list = append(list, Marked{ID: first.ID, At: w.now.Unix() + 9}, Marked{ID: first.ID, Slot: "operational", Serial: bytes.Repeat([]byte{99}, 16), At: w.now.Unix()})
		w.do(t, func(ctx context.Context, tx *db.Tx) error {
			issued, err := w.slotsRevokedTx(ctx, tx, list, byRow)
			if !slices.Equal(issued, []int64{1, 2, 3, 1, 1}) {
				t.Errorf("by row %v: issued %v", byRow, issued)
			}
			return err
		})
		for i, m := range list[:3] {
			d := w.load(t, m.ID)
			if s, _ := d.Slot("operational"); s.Revoked != m.At || d.Policy < 2 {
				t.Errorf("by row %v: device %d: %+v, policy %d", byRow, i, s, d.Policy)
			}
		}
		if d := w.load(t, first.ID); d.Updated != w.now.Unix()+9 || d.Policy <= first.Policy {
			t.Errorf("by row %v: updated %d, policy %d after %d", byRow, d.Updated, d.Policy, first.Policy)
		}
		err := w.db.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
			_, err := w.slotsRevokedTx(ctx, tx, append(slices.Clone(list), Marked{ID: ID{1}, At: 1}), byRow)
			return err
		})
		if !errs.Is(err, errs.NotFound) {
			t.Errorf("by row %v: a device that is not there: %v", byRow, err)
		}
	}
}
