package revoke

import (
	"context"
	"crypto"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/wire/ocsp"
)

func TestCRLOfEveryCA(t *testing.T) {
	w := newWorld(t)
	must(t, w.round(t.Context(), newRounds()))
	for _, name := range []string{"root", "devices", "services"} {
		w.crl(t, name)
	}
	if m := w.Metrics(); m.Lists != 3 {
		t.Errorf("%d lists were made, want 3", m.Lists)
	}
	if _, err := w.CRL(t.Context(), ca.IssuerID{1}, ca.Complete); !errs.Is(err, errs.NotFound) {
		t.Errorf("the list of no CA: got %v, want kind notfound", err)
	}
	w.sound(t)
}

// Lists are made anew on schedule, and an expired certificate's entry leaves only after it was on a regular list made after its expiry.
func TestScheduleAndExpiry(t *testing.T) {
	t.Run("CRL entry's removal after expiry", scheduleAndExpiry)
}

func scheduleAndExpiry(t *testing.T) {
	w := newWorld(t)
	r := newRounds()
	c, other := w.issue(t, w.add(t, "pump").ID, nil), w.issue(t, w.add(t, "valve").ID, nil)
	_, err := w.Certificate(t.Context(), operator, c.Serial[:], CertificateHold)
	must(t, err)
	_, err = w.Certificate(t.Context(), operator, c.Serial[:], KeyCompromise)
	must(t, err)
	round := func(ahead time.Duration) (number int64, listed bool) {
		t.Helper()
		w.now.Add(int64(ahead / time.Second))
		must(t, w.round(t.Context(), r))
		l := w.crl(t, "devices")
		return l.Number.Int64(), entryOf(l, c.Serial[:]) != nil
	}
	first, _ := round(0)
	if n, _ := round(11 * time.Hour); n != first {
		t.Errorf("list %d was made before it was due, after %d", n, first)
	}
	second, listed := round(2 * time.Hour)
	if second <= first || !listed {
		t.Errorf("no list on schedule: %d after %d, entry listed: %v", second, first, listed)
	}
	// Just past the expiry: still on the list that a change causes, on the next regular one, and on what changes cause after that one? No.
	w.now.Store(c.NotAfter + 1)
	if _, listed := round(0); !listed {
		t.Error("the entry left before a regular list after the expiry showed it")
	}
	_, err = w.Certificate(t.Context(), operator, other.Serial[:], Superseded)
	must(t, err)
	if l := w.crl(t, "devices"); entryOf(l, c.Serial[:]) == nil || entryOf(l, other.Serial[:]) == nil {
		t.Error("a change made an expired entry leave, or an expired certificate was not listed")
	}
	if _, listed := round(13 * time.Hour); listed {
		t.Error("the entry did not leave at the second regular list")
	}
	if l := w.crl(t, "devices"); entryOf(l, other.Serial[:]) == nil {
		t.Error("the entry of a certificate that was revoked after the last regular list left without being on one")
	}
	if _, _ = round(13 * time.Hour); entryOf(w.crl(t, "devices"), other.Serial[:]) != nil {
		t.Error("the other entry did not leave")
	}
	w.sound(t)
}

// After a restart the number goes on, the entries are there, and an interrupted publication leaves a gap but no second use.
func TestRestart(t *testing.T) {
	w := newWorld(t)
	c, other := w.issue(t, w.add(t, "pump").ID, nil), w.issue(t, w.add(t, "valve").ID, nil)
	_, err := w.Certificate(t.Context(), operator, c.Serial[:], Unspecified)
	must(t, err)
	before := w.crl(t, "devices")
	sc, err := w.scopeOf(scopeKey{issuer: w.issuer(t, "devices").ID()})
	must(t, err)
	w.now.Add(1)
	lost, err := w.Service.prepare(t.Context(), sc, false) // the process dies here
	must(t, err)

	w.Service = New(w.Deps)
	if l := w.crl(t, "devices"); l.Number.Cmp(before.Number) != 0 || entryOf(l, c.Serial[:]) == nil {
		t.Errorf("after the restart list %d is served, want %d", l.Number, before.Number)
	}
	r, err := w.Certificate(t.Context(), operator, other.Serial[:], KeyCompromise)
	must(t, err)
	if l := w.crl(t, "devices"); r.Listed < lost.number || len(l.RevokedCertificateEntries) != 2 {
		t.Errorf("list %d with %d entries, want a number from %d on and 2 entries", r.Listed, len(l.RevokedCertificateEntries), lost.number)
	}
	// The one that was thought dead wakes up: its list is not published any more.
	late, err := w.sign(t.Context(), sc, lost)
	must(t, err)
	if stored, err := w.store(t.Context(), sc, late); err != nil || stored {
		t.Errorf("a list with an old number was published: %v, %v", stored, err)
	}
	// Restored from a backup with an old list: numbers go on from the clock.
	w.tamper(t, `UPDATE crl SET number = 5`)
	w.now.Add(1000)
	fresh, err := w.Service.prepare(t.Context(), sc, false)
	must(t, err)
	if fresh.number <= r.Listed {
		t.Errorf("after a restore number %d was given out, but %d was used", fresh.number, r.Listed)
	}
}

// Two nodes on one database: what one revokes, the other tells within a look, and numbers are never used twice.
func TestTwoNodes(t *testing.T) {
	w := newWorld(t)
	if !onPostgres() {
		t.Log("SQLite has one process: both nodes share its handle")
	}
	far := New(w.Deps)
	if onPostgres() {
		far = w.node()
	}
	devices := w.issuer(t, "devices")
	var certs []*ca.Certificate
	for i := range 8 {
		certs = append(certs, w.issue(t, w.add(t, fmt.Sprint("pump", i)).ID, nil))
	}
	c := certs[0]
	ask := func(s *Service) ocsp.CertStatus {
		t.Helper()
		a, err := s.OCSP(t.Context(), question(t, devices, crypto.SHA256, nil, c.Serial[:]))
		must(t, err)
		r, err := ocsp.ParseResponse(a.DER)
		must(t, err)
		return r.Singles[0].Status
	}
	crlOf(t, far, devices)
	if got := ask(far); got != ocsp.Good {
		t.Fatalf("before: got %s", got)
	}
	_, err := w.Certificate(t.Context(), operator, c.Serial[:], KeyCompromise)
	must(t, err)
	must(t, w.log.Sequence(t.Context()))
	must(t, far.look(t.Context()))
	if got := ask(far); got != ocsp.Revoked {
		t.Errorf("the other node answers %s, want revoked", got)
	}
	if entryOf(crlOf(t, far, devices), c.Serial[:]) == nil {
		t.Error("the other node serves an old list")
	}
	var wg sync.WaitGroup
	for i, c := range certs[1:] {
		s := w.Service
		if i%2 == 1 {
			s = far
		}
		wg.Go(func() {
			if r, err := s.Certificate(t.Context(), operator, c.Serial[:], Superseded); err != nil || r.Listed == 0 {
				t.Errorf("got %+v, %v", r, err)
			}
			if entryOf(crlOf(t, s, devices), c.Serial[:]) == nil {
				t.Error("the node that revoked does not list it")
			}
		})
	}
	wg.Wait()
	must(t, w.log.Sequence(t.Context()))
	for _, s := range []*Service{w.Service, far} {
		must(t, s.look(t.Context()))
		if n := len(crlOf(t, s, devices).RevokedCertificateEntries); n != len(certs) {
			t.Errorf("%d entries, want %d", n, len(certs))
		}
	}
	w.sound(t)
}

// Run makes the lists that are missing and ends with its context.
func TestRun(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	for w.Metrics().Lists < 3 {
		select {
		case err := <-ended:
			t.Fatalf("Run ended: %v", err)
		case <-t.Context().Done():
			t.Fatal("the lists were not made")
		case <-time.After(5 * time.Millisecond):
		}
	}
	cancel()
	must(t, <-ended)
}

// Every flip of every column is named.
func TestChecker(t *testing.T) {
	w := newWorld(t)
	c, held := w.issue(t, w.add(t, "pump").ID, nil), w.issue(t, w.add(t, "valve").ID, nil)
	for serial, reason := range map[[16]byte]Reason{c.Serial: KeyCompromise, held.Serial: CertificateHold} {
		_, err := w.Certificate(t.Context(), operator, serial[:], reason)
		must(t, err)
	}
	_, err := w.Release(t.Context(), operator, held.Serial[:])
	must(t, err)
	w.sound(t)
	serial := fmt.Sprintf("%x", c.Serial)
	for _, row := range []struct{ tamper, restore, want string }{
		{`UPDATE revoked SET reason = 8 WHERE reason = 1`, `UPDATE revoked SET reason = 1 WHERE turn = 1`, serial + ": the column reason"},
		{`UPDATE revoked SET at = at - 1 WHERE turn = 1`, `UPDATE revoked SET at = at + 1 WHERE turn = 1`, serial + ": the column at"},
		{`UPDATE revoked SET not_after = not_after - 1 WHERE turn = 1`, `UPDATE revoked SET not_after = not_after + 1 WHERE turn = 1`, serial + ": the column not_after"},
		{`UPDATE revoked SET crl_shard = 3 WHERE turn = 1`, `UPDATE revoked SET crl_shard = 0`, serial + ": the column crl_shard"},
		{`UPDATE revoked SET origin = 1 WHERE turn = 1`, `UPDATE revoked SET origin = 0`, serial + ": the column origin"},
		{`UPDATE revoked SET origin = 2 WHERE turn = 1`, `UPDATE revoked SET origin = 0`, serial + ": the row of a revocation is damaged"},
		{`UPDATE revoked SET turn = 3 WHERE turn = 1`, `UPDATE revoked SET turn = 1 WHERE turn = 3`, serial + ": the column turn"},
		{`UPDATE revoked SET change = change + 100 WHERE turn = 1`, `UPDATE revoked SET change = change - 100 WHERE turn = 1`, serial + ": the column change"},
		{`UPDATE revoked SET cell = 255 - cell WHERE turn = 1`, `UPDATE revoked SET cell = 255 - cell WHERE turn = 1`, serial + ": the column cell"},
		{`UPDATE crl_scope SET changes = changes + 1`, `UPDATE crl_scope SET changes = changes - 1`, "counts 4 changes, the record 3"},
		{`UPDATE crl SET number = number + 1`, `UPDATE crl SET number = number - 1`, "in number"},
		{`UPDATE crl SET this_update = this_update + 1`, `UPDATE crl SET this_update = this_update - 1`, "in this_update"},
		{`UPDATE crl SET next_update = next_update + 1`, `UPDATE crl SET next_update = next_update - 1`, "in next_update"},
		{`UPDATE crl SET covers = covers + 1`, `UPDATE crl SET covers = covers - 1`, "in covers"},
		{`UPDATE crl SET regular_update = regular_update + 1`, `UPDATE crl SET regular_update = regular_update - 1`, "in regular_update"},
		{`UPDATE crl SET regular_number = regular_number + 1`, `UPDATE crl SET regular_number = regular_number - 1`, "in regular_number"},
		{`UPDATE crl SET floor_update = floor_update + 1`, `UPDATE crl SET floor_update = floor_update - 1`, "in floor_update"},
		{`UPDATE crl SET floor_covers = floor_covers + 1`, `UPDATE crl SET floor_covers = floor_covers - 1`, "in floor_covers"},
		{`UPDATE crl SET due = due + 1`, `UPDATE crl SET due = due - 1`, "in due"},
		{`UPDATE crl SET delta = 1`, `UPDATE crl SET delta = 0`, "in delta"},
		{`UPDATE crl SET kind = 2`, `UPDATE crl SET kind = 0`, "in kind"},
		{`UPDATE crl SET size = size + 1`, `UPDATE crl SET size = size - 1`, "in size"},
		{`UPDATE crl SET regular_covers = regular_covers + 1`, `UPDATE crl SET regular_covers = regular_covers - 1`, "in regular_covers"},
	} {
		w.tamper(t, row.tamper)
		w.named(t, row.tamper, row.want)
		w.tamper(t, row.restore)
	}
	w.sound(t)
	flip := func(table, column, where string) {
		t.Helper()
		var was []byte
		must(t, w.DB.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Get(ctx, []any{&was}, `SELECT `+column+` FROM `+table+where)
			return err
		}))
		changed := append([]byte(nil), was...)
		changed[len(changed)-1] ^= 1
		w.tamper(t, `UPDATE `+table+` SET `+column+` = $1`+where, changed)
		want := column
		switch column {
		case "serial":
			want = "no entry does"
			w.named(t, "flipped serial", "is missing")
		case "digest":
			want = "in sha256"
		}
		w.named(t, "flipped "+table+"."+column, want)
		w.tamper(t, `UPDATE `+table+` SET `+column+` = $1`+where, was)
	}
	for _, column := range []string{"serial", "issuer", "device"} {
		flip("revoked", column, ` WHERE turn = 1`)
	}
	flip("crl", "digest", "")
	flip("crl", "signature", "")
	w.sound(t)
	w.tamper(t, `DELETE FROM crl`)
	w.named(t, "deleted list", "is missing")
	w.tamper(t, `DELETE FROM revoked WHERE turn = 1`)
	w.named(t, "deleted revocation", serial+": the row of its revocation (entry")
}

func (w *world) tamper(t *testing.T, sql string, args ...any) {
	t.Helper()
	must(t, w.DB.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		n, err := tx.Exec(ctx, sql, args...)
		if err == nil && n == 0 {
			return fmt.Errorf("%s: no row", sql)
		}
		return err
	}))
}

func (w *world) named(t *testing.T, what, want string) {
	t.Helper()
	findings := w.verify(t)
	for _, f := range findings {
		if strings.Contains(f.String(), want) {
			return
		}
	}
	t.Errorf("%s: got findings %v, want one with %q", what, findings, want)
}

// One more revocation costs the same whatever came before: the list is appended to, not read again.
func BenchmarkRevokeAfterMany(b *testing.B) {
	const many = 100_000
	w := newWorld(b)
	devices := w.issuer(b, "devices")
	id, far := devices.ID(), w.now.Load()+1e8
	must(b, w.DB.Do(b.Context(), func(ctx context.Context, tx *db.Tx) error {
		for i := range many {
			serial := append([]byte{0x41, 0x6b, 0x49, 0xd2, 0}, make([]byte, 11)...)
			binary.BigEndian.PutUint64(serial[8:], uint64(i+1))
			r := Revocation{Serial: serial, Issuer: id, At: w.now.Load(), Reason: KeyCompromise, NotAfter: far, turn: 1, change: int64(i + 1)}
			if err := writeTx(ctx, tx, 0, &r); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, `INSERT INTO crl_scope (cell, issuer, shard, changes, number) VALUES (0, $1, 0, $2, 0)`, id[:], int64(many))
		return err
	}))
	d := w.add(b, "pump")
	began := time.Now()
	w.crl(b, "devices")
	b.Logf("the list of %d was built and parsed in %s", many, time.Since(began))
	for b.Loop() {
		b.StopTimer()
		c := w.issue(b, d.ID, nil)
		sc, err := w.scopeOf(scopeKey{issuer: id})
		must(b, err)
		sc.rested = 0
		b.StartTimer()
		if r, err := w.Certificate(b.Context(), operator, c.Serial[:], KeyCompromise); err != nil || r.Listed == 0 {
			b.Fatal(r, err)
		}
	}
}
