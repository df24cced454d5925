package device

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
)

func sortClaims(claims []Claim) {
	slices.SortFunc(claims, func(a, b Claim) int {
		if a.Cell != b.Cell {
			return int(a.Cell) - int(b.Cell)
		}
		return bytes.Compare(a.ID[:], b.ID[:])
	})
}

// TestClaimTextsAgree runs the same claims, good and bad, by rows and, where there are arrays, by arrays, on equal registries, and compares
// answers and tables.
func TestClaimTextsAgree(t *testing.T) {
	outcome := func(byRow bool) string {
		w := newWorld(t)
		if !byRow && !w.db.Arrays() {
			t.Log("no arrays on this engine: the row text is compared with itself")
			byRow = true
		}
		var claims []Claim
		for i := range 12 {
			d := w.add(t, Spec{Name: fmt.Sprintf("d%d", i), Group: "g"})
			c := w.claim(d, byte(i+1))
			w.do(t, func(ctx context.Context, tx *db.Tx) error {
				_, err := tx.Exec(ctx, `UPDATE device SET token = $3, token_until = $4 WHERE cell = $1 AND id = $2`, int64(d.Cell), d.ID[:], bytes.Repeat([]byte{5}, 32), c.At+1)
				return err
			})
			switch i {
			case 1:
				c.Token = bytes.Repeat([]byte{5}, 32)
			case 2:
				c.Token = bytes.Repeat([]byte{6}, 32)
			case 3:
				c.Token, c.At = bytes.Repeat([]byte{5}, 32), c.At+1
			case 4:
				c.Policy++
			case 5:
				w.must(t, func() error { _, err := w.Move(t.Context(), admin, d.ID, Suspend, ""); return err })
				c.Policy++
			case 6:
				c.ID, c.Cell = ID{1}, w.CellOf(ID{1})
			case 7:
				w.must(t, func() error { _, err := w.Move(t.Context(), admin, d.ID, Retire, ""); return err })
			}
			claims = append(claims, c)
		}
		sortClaims(claims)
		var out strings.Builder
		for range 2 { // the second round meets spent tokens and filled slots
			w.do(t, func(ctx context.Context, tx *db.Tx) error {
				refused, err := w.claimTx(ctx, tx, claims, byRow)
				if err != nil {
					return err
				}
				var accepted []Claim
				for i, c := range claims {
					fmt.Fprintf(&out, "%s %v %d\n", c.ID, refused[i], c.Issued)
					if refused[i] == nil {
						c.Prev = c.Request[:16]
						accepted = append(accepted, c)
					}
				}
				return tx.Send(ctx, slotStmts(accepted, byRow)...)
			})
		}
		w.do(t, func(ctx context.Context, tx *db.Tx) error {
			line := func(n int) func(db.Row) error {
				return func(row db.Row) error {
					values := make([]any, n)
					dest := make([]any, n)
					for i := range values {
						dest[i] = &values[i]
					}
					err := row.Scan(dest...)
					fmt.Fprintln(&out, values...)
					return err
				}
			}
			err := tx.Each(ctx, line(8), `SELECT cell, id, state, policy, issued, token_used, updated, name FROM device ORDER BY cell, id`)
			return errors.Join(err, tx.Each(ctx, line(10), `SELECT cell, device, slot, serial, prev_serial, not_after, spki, request, revoked, fingerprint FROM slot ORDER BY cell, device, slot`))
		})
		return out.String()
	}
	rows, arrays := outcome(true), outcome(false)
	if rows != arrays {
		t.Errorf("by rows:\n%s\nby arrays:\n%s", rows, arrays)
	}
	if n := strings.Count(rows, "<nil>"); n != 6+5 {
		t.Errorf("accepted claims: got %d, want 11:\n%s", n, rows)
	}
}

func (w *world) must(t testing.TB, fn func() error) {
	t.Helper()
	if err := fn(); err != nil {
		t.Fatal(err)
	}
}

func TestClaimKeepsThePreviousSerial(t *testing.T) {
	w := newWorld(t)
	d := w.add(t, Spec{Name: "a"})
	first, lost, second := w.claim(d, 1), w.claim(d, 2), w.claim(d, 3)
	lost.Prev, second.Prev = first.Serial, first.Serial
	for _, c := range []Claim{first, lost, second} {
		if refused := w.enrol(t, c); refused[0] != nil {
			t.Fatal(refused[0])
		}
	}
	// The answer with the second certificate was lost, so the device asked again with its first one: that one is still known.
	s, _ := new(w.load(t, d.ID)).Slot("operational")
	if !bytes.Equal(s.Serial, second.Serial) || !bytes.Equal(s.Prev, first.Serial) {
		t.Errorf("slot: got serial %x, previous %x, want %x, %x", s.Serial, s.Prev, second.Serial, first.Serial)
	}
	// The same statements once more, as after a commit of unknown outcome, change nothing.
	w.do(t, func(ctx context.Context, tx *db.Tx) error {
		again := second
		again.Prev = second.Serial
		return tx.Send(ctx, w.SlotStmts(tx, []Claim{again})...)
	})
	if s, _ := new(w.load(t, d.ID)).Slot("operational"); !bytes.Equal(s.Prev, first.Serial) {
		t.Errorf("previous serial after a repetition: got %x, want %x", s.Prev, first.Serial)
	}
	if found := w.verify(t); found != nil {
		t.Errorf("verify: got %q, want nothing", found)
	}
}

func TestSlotRevoked(t *testing.T) {
	w := newWorld(t)
	d := w.add(t, Spec{Name: "a"})
	c := w.claim(d, 1)
	w.enrol(t, c)
	decided := w.load(t, d.ID)
	for range 2 {
		w.do(t, func(ctx context.Context, tx *db.Tx) error {
			return w.SlotRevokedTx(ctx, tx, d.ID, "operational", c.Serial, w.now.Unix())
		})
	}
	if s, _ := new(w.load(t, d.ID)).Slot("operational"); s.Revoked != w.now.Unix() {
		t.Errorf("revoked: got %d, want %d", s.Revoked, w.now.Unix())
	}
	if page, _, err := w.List(t.Context(), admin, Filter{ExpiresBefore: 1 << 40}); err != nil || len(page) != 0 {
		t.Errorf("a revoked certificate among those that expire: got %d, %v", len(page), err)
	}
	if refused := w.enrol(t, w.claim(decided, 2)); !errs.Is(refused[0], errs.Conflict) {
		t.Errorf("renewal that was decided before: got %v, want Conflict", refused[0])
	}
	if found := w.verify(t); len(found) != 1 || !strings.Contains(found[0], "disagree on whether and when certificate 01010101010101010101010101010101 was revoked") {
		t.Errorf("verify without the entry: got %q", found)
	}
	w.must(t, func() error { return w.log.Record(t.Context(), revokeEntry(c)) })
	if found := w.verify(t); found != nil {
		t.Errorf("verify: got %q, want nothing", found)
	}
	err := w.db.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		return w.SlotRevokedTx(ctx, tx, ID{3}, "operational", c.Serial, 1)
	})
	if !errs.Is(err, errs.NotFound) {
		t.Errorf("revoking for no device: got %v, want NotFound", err)
	}
}

func TestClaimRefusesADeviceTwice(t *testing.T) {
	w := newWorld(t)
	d := w.add(t, Spec{Name: "a"})
	err := w.db.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := w.ClaimTx(ctx, tx, []Claim{w.claim(d, 1), w.claim(d, 2)})
		return err
	})
	if err == nil {
		t.Error("two claims of one device in a batch: got success")
	}
}

// TestSuspensionIsFinal lets a device renew as fast as it can from several sides while it is suspended: once Move has returned, nothing
// more may be issued, whatever was decided before.
func TestSuspensionIsFinal(t *testing.T) {
	w := newWorld(t)
	d := w.add(t, Spec{Name: "a"})
	var wg sync.WaitGroup
	started := make(chan struct{}, 4)
	for range 4 {
		wg.Go(func() {
			for n := 0; ; n++ {
				now, err := w.Load(t.Context(), d.ID)
				if err != nil {
					t.Error(err)
					return
				}
				var refused []error
				err = w.db.Do(t.Context(), func(ctx context.Context, tx *db.Tx) (err error) {
					refused, err = w.ClaimTx(ctx, tx, []Claim{w.claim(now, 1)})
					return err
				})
				if n == 0 {
					started <- struct{}{}
				}
				if errs.Is(err, errs.Unavailable) && t.Context().Err() == nil {
					continue // overtaken by the others as often as a transaction is repeated
				}
				if err != nil || errs.Is(refused[0], errs.Denied) {
					if err != nil {
						t.Error(err)
					}
					return
				}
			}
		})
	}
	for range 4 {
		<-started
	}
	at, err := w.Move(t.Context(), operator, d.ID, Suspend, "")
	for try := 0; err != nil && try < 1000; try++ { // the storm may overtake every repetition inside; whoever suspends asks again
		at, err = w.Move(t.Context(), operator, d.ID, Suspend, "")
	}
	if err != nil {
		t.Fatal(err) // which ends the context, and with it the storm
	}
	issued := w.load(t, d.ID).Issued
	wg.Wait()
	if got := w.load(t, d.ID); got.Issued != issued || issued < 4 || got.State != Suspended || got.Policy != at.Policy {
		t.Errorf("after the suspension: got %d certificates, %s, want %d and suspended", got.Issued, got.State, issued)
	}
}
