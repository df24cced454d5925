package device

import (
	"context"
	"fmt"
	"testing"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
)

// TestAnchors notes evidence of every grade, keeps the best, and finds who is missing.
func TestAnchors(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	g2, other := Anchor{2}, Anchor{9}
	var ids []ID
	for i := range 12 {
		group := "north"
		if i%3 == 0 {
			group = "south"
		}
		d, err := w.Add(ctx, admin, Spec{Name: fmt.Sprintf("d-%02d", i), Group: group, Profile: "sensor"})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, d.ID)
	}
	// All but the first got a certificate; the last is lost.
	w.state(t, Enrolled, ids[1:]...)
	w.state(t, Lost, ids[11])
	at := w.now.Unix()
	for i, id := range ids[4:] {
		w.SawAnchor(id, g2, Grade(i%3+1), at)
		w.SawAnchor(id, other, Proven, at)
	}
	w.SawAnchor(ids[4], g2, Proven, at+10)
	if n, err := w.CountAnchor(ctx, auditor, g2, ""); err != nil || n != [4]int64{3, 2, 2, 3} {
		t.Errorf("counts %v, %v", n, err)
	}
	w.SawAnchor(ids[4], g2, Delivered, at+20) // worse evidence changes nothing
	if n, err := w.CountAnchor(ctx, auditor, g2, "south"); err != nil || n != [4]int64{1, 0, 0, 2} {
		t.Errorf("counts of a group %v, %v", n, err)
	}
	missing := func(least Grade, group string) (names map[string]Grade) {
		names = map[string]Grade{}
		for cursor := ""; ; {
			page, next, err := w.MissingAnchor(ctx, auditor, g2, least, group, cursor, 2)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range page {
				if _, twice := names[m.Name]; twice || m.State != Enrolled {
					t.Errorf("%+v", m)
				}
				names[m.Name] = m.Grade
			}
			if cursor = next; cursor == "" {
				return names
			}
		}
	}
	for _, row := range []struct {
		least Grade
		group string
		want  string
	}{
		{Delivered, "", "map[d-01:none d-02:none d-03:none]"},
		{Reported, "", "map[d-01:none d-02:none d-03:none d-07:delivered d-10:delivered]"},
		{Proven, "", "map[d-01:none d-02:none d-03:none d-05:reported d-07:delivered d-08:reported d-10:delivered]"},
		{Proven, "south", "map[d-03:none]"},
	} {
		if got := fmt.Sprint(missing(row.least, row.group)); got != row.want {
			t.Errorf("without grade %v in %q: %s, want %s", row.least, row.group, got, row.want)
		}
	}
	w.state(t, Registered, ids[2])
	if _, ok := missing(Delivered, "")["d-02"]; ok {
		t.Error("a device that never got a certificate is missed")
	}
	if _, _, err := w.MissingAnchor(ctx, auditor, g2, 4, "", "", 10); !errs.Is(err, errs.Invalid) {
		t.Errorf("grade 4: %v", err)
	}
	if _, _, err := w.MissingAnchor(ctx, auditor, g2, 1, "", "x", 10); !errs.Is(err, errs.Invalid) {
		t.Errorf("a wrong cursor: %v", err)
	}
}

// TestEvidenceIsWrittenOnce: what is known is not written again, also not by another node's knowledge.
func TestEvidenceIsWrittenOnce(t *testing.T) {
	w := newWorld(t)
	w.SawAnchor(ID{1}, Anchor{2}, Proven, 100)
	if err := w.flushAnchors(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.SawAnchor(ID{1}, Anchor{2}, Proven, 200)
	w.SawAnchor(ID{1}, Anchor{2}, Reported, 200)
	if n := len(w.evidence.waiting); n != 0 {
		t.Errorf("%d pieces of evidence wait that are known", n)
	}
	clear(w.evidence.known) // as after a restart
	w.SawAnchor(ID{1}, Anchor{2}, Proven, 300)
	if err := w.flushAnchors(t.Context()); err != nil {
		t.Fatal(err)
	}
	var at int64
	err := w.db.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Get(ctx, []any{&at}, `SELECT at FROM anchor_seen`)
		return err
	})
	if err != nil || at != 100 {
		t.Errorf("the evidence is of %d, %v, want 100", at, err)
	}
}

// state puts devices into a state, behind the record.
func (w *world) state(t *testing.T, s State, ids ...ID) {
	t.Helper()
	err := w.db.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		for _, id := range ids {
			if _, err := tx.Exec(ctx, `UPDATE device SET state = $1 WHERE id = $2`, int64(s), id[:]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
