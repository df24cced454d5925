package revoke

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"io"
	"testing"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/internal/core/key"
	"mooring/wire/der"
)

// sharded makes "devices" a CA with so many shards: the profiles name it, so it replaces the one of newWorld.
func newSharded(t testing.TB, shards int) *world {
	t.Helper()
	w := newWorldWith(t, func(s *ca.Spec) {
		if s.Name == "devices" {
			s.Shards = shards
		}
	})
	return w
}

// fetch returns the list at an address as certificates name it, checked.
func (w *world) fetch(t testing.TB, s *Service, i *ca.Issuer, shard int64) *x509.RevocationList {
	t.Helper()
	l, err := s.CRL(t.Context(), i.ID(), shard)
	must(t, err)
	return w.check(t, s, i, l)
}

func (w *world) check(t testing.TB, s *Service, i *ca.Issuer, l CRL) *x509.RevocationList {
	t.Helper()
	raw, err := io.ReadAll(s.Content(t.Context(), l))
	must(t, err)
	if sha256.Sum256(raw) != l.Digest || int64(len(raw)) != l.Size {
		t.Errorf("the octets are not those of the digest, or not %d", l.Size)
	}
	parsed, err := x509.ParseRevocationList(raw)
	must(t, err)
	must(t, der.CheckCRL(raw, i.PublicKey()))
	if parsed.Number.Int64() != l.Number {
		t.Errorf("number %s, told was %d", parsed.Number, l.Number)
	}
	return parsed
}

// extension returns the value of an extension, nil when there is none.
func extension(l *x509.RevocationList, id ...int) []byte {
	for _, e := range l.Extensions {
		if e.Id.Equal(asn1.ObjectIdentifier(id)) {
			return e.Value
		}
	}
	return nil
}

func TestShardsOfAList(t *testing.T) {
	w := newSharded(t, 16)
	devices := w.issuer(t, "devices")
	byShard := map[int64]int{}
	var certs []*ca.Certificate
	for n := range 24 {
		c := w.issue(t, w.add(t, fmt.Sprint("pump", n)).ID, nil)
		certs = append(certs, c)
		byShard[devices.Shard(c.Serial[:])]++
		r, err := w.Certificate(t.Context(), operator, c.Serial[:], KeyCompromise)
		must(t, err)
		if r.Shard != devices.Shard(c.Serial[:]) || r.Listed == 0 {
			t.Errorf("in shard %d, listed by %d", r.Shard, r.Listed)
		}
	}
	if len(byShard) < 4 {
		t.Fatalf("only %d shards are used", len(byShard))
	}
	for shard := range int64(16) {
		l := w.fetch(t, w.Service, devices, shard)
		if len(l.RevokedCertificateEntries) != byShard[shard] {
			t.Errorf("shard %d has %d entries, want %d", shard, len(l.RevokedCertificateEntries), byShard[shard])
		}
		point := extension(l, 2, 5, 29, 28)
		url := w.CA.CRLAddress(devices.ID(), shard)
		if !bytes.Contains(point, []byte(url)) || !bytes.HasSuffix(point, []byte{0x81, 1, 0xff}) {
			t.Errorf("the issuing distribution point %q of shard %d does not name %s, or is not for end devices only", point, shard, url)
		}
	}
	leaf, err := x509.ParseCertificate(certs[0].DER)
	must(t, err)
	if point := extension(w.fetch(t, w.Service, devices, devices.Shard(certs[0].Serial[:])), 2, 5, 29, 28); !bytes.Contains(point, append([]byte{0x86, byte(len(leaf.CRLDistributionPoints[0]))}, leaf.CRLDistributionPoints[0]...)) {
		t.Errorf("the list names %q, the certificate %q", point, leaf.CRLDistributionPoints)
	}
	whole := w.fetch(t, w.Service, devices, ca.Complete)
	if len(whole.RevokedCertificateEntries) != len(certs) || extension(whole, 2, 5, 29, 28) != nil {
		t.Errorf("the complete list has %d entries, or a distribution point", len(whole.RevokedCertificateEntries))
	}
	for _, shard := range []int64{16, -2, 1 << 40} {
		if _, err := w.CRL(t.Context(), devices.ID(), shard); !errs.Is(err, errs.NotFound) {
			t.Errorf("shard %d: %v, want NotFound", shard, err)
		}
	}
	w.sound(t)
}

// The octets of a list are not stored. Another process makes the same out of the rows, also after holds came and went.
func TestListsAreRebuilt(t *testing.T) {
	w := newSharded(t, 1)
	devices := w.issuer(t, "devices")
	far := w.other()
	var certs []*ca.Certificate
	for n := range 6 {
		certs = append(certs, w.issue(t, w.add(t, fmt.Sprint("pump", n)).ID, nil))
	}
	same := func(what string, entries int) {
		t.Helper()
		w.now.Add(2) // after which the database is asked again
		here, err := w.CRL(t.Context(), devices.ID(), 0)
		must(t, err)
		for name, s := range map[string]*Service{"a node that follows": far, "a fresh one": w.other()} {
			there, err := s.CRL(t.Context(), devices.ID(), 0)
			must(t, err)
			if !bytes.Equal(here.DER, there.DER) {
				t.Errorf("%s: %s has other octets (number %d and %d)", what, name, here.Number, there.Number)
			}
			if n := len(w.check(t, s, devices, there).RevokedCertificateEntries); n != entries {
				t.Errorf("%s: %s has %d entries, want %d", what, name, n, entries)
			}
		}
	}
	act := func(n int, reason Reason) {
		t.Helper()
		var err error
		if reason == released {
			_, err = w.Release(t.Context(), operator, certs[n].Serial[:])
		} else {
			_, err = w.Certificate(t.Context(), operator, certs[n].Serial[:], reason)
		}
		must(t, err)
	}
	act(0, KeyCompromise)
	same("one", 1)
	act(1, CertificateHold)
	act(2, Unspecified)
	same("three", 3)
	act(1, released)
	same("a hold lifted", 2)
	act(1, CertificateHold)
	act(3, CertificateHold)
	act(3, Superseded)
	same("a hold made final", 4)
	w.now.Add(13 * 3600) // a list on schedule
	must(t, w.round(t.Context(), newRounds()))
	same("on schedule", 4)
	act(4, KeyCompromise)
	same("after it", 5)
	// The row of an entry moves on, and the process ends before there is a list that shows it: nobody can make the old list any more.
	must(t, w.DB.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		c, err := w.CA.GetTx(ctx, tx, certs[1].Serial[:])
		if err != nil {
			return err
		}
		_, err = w.changeTx(ctx, tx, operator, []*ca.Certificate{c}, released, false)
		return err
	}))
	last, err := w.CRL(t.Context(), devices.ID(), 0)
	must(t, err)
	newer, err := w.other().CRL(t.Context(), devices.ID(), 0)
	must(t, err)
	if newer.Number <= last.Number || len(w.check(t, w.Service, devices, newer).RevokedCertificateEntries) != 4 {
		t.Errorf("the list that cannot be rebuilt was not made anew: %d after %d", newer.Number, last.Number)
	}
	same("in the end", 4)
	w.sound(t)
}

// other is another process on the same database; on SQLite they share the handle.
func (w *world) other() *Service {
	if onPostgres() {
		s := w.node()
		s.DeltaLists = w.DeltaLists
		return s
	}
	return New(w.Deps)
}

// The list of a shard in which nothing was revoked is made for whoever asks, and nobody keeps it fresh.
func TestEmptyShards(t *testing.T) {
	w := newSharded(t, 256)
	r := newRounds()
	must(t, w.round(t.Context(), r))
	if m := w.Metrics(); m.Lists != 3 { // the complete ones of three CAs
		t.Errorf("%d lists were made before anybody asked", m.Lists)
	}
	devices := w.issuer(t, "devices")
	first := w.fetch(t, w.Service, devices, 77)
	if again := w.fetch(t, w.Service, devices, 77); again.Number.Cmp(first.Number) != 0 {
		t.Error("asking again made another list")
	}
	w.now.Add(13 * 3600)
	made := w.Metrics().Lists
	must(t, w.round(t.Context(), r))
	if n := w.Metrics().Lists - made; n != 3 {
		t.Errorf("%d lists were renewed, want the three complete ones", n)
	}
	if later := w.fetch(t, w.Service, devices, 77); later.Number.Cmp(first.Number) <= 0 {
		t.Error("an empty list was not renewed for who asked after half its time")
	}
	c := w.issue(t, w.add(t, "pump").ID, nil)
	_, err := w.Certificate(t.Context(), operator, c.Serial[:], KeyCompromise)
	must(t, err)
	w.now.Add(13 * 3600)
	made = w.Metrics().Lists
	must(t, w.round(t.Context(), r))
	if n := w.Metrics().Lists - made; n != 4 {
		t.Errorf("%d lists were renewed, want the complete ones and that of the shard with an entry", n)
	}
	w.sound(t)
}

// A CA that has expired makes no lists, and the one that it has is served.
func TestExpiredCAs(t *testing.T) {
	w := newSharded(t, 4)
	devices := w.issuer(t, "devices")
	r := newRounds()
	must(t, w.round(t.Context(), r))
	whole := w.fetch(t, w.Service, devices, ca.Complete)
	w.now.Store(devices.Certificate().NotAfter.Unix() + 100)
	made := w.Metrics().Lists
	must(t, w.round(t.Context(), r))
	must(t, w.round(t.Context(), newRounds()))
	if n := w.Metrics().Lists - made; n != 1 { // of the root, which has no end
		t.Errorf("%d lists were renewed, want that of the root", n)
	}
	if after := w.fetch(t, w.Service, devices, ca.Complete); after.Number.Cmp(whole.Number) != 0 {
		t.Error("a list of an expired CA was made")
	}
}

// The complete list is written in pieces; every way of reading it gives the same.
func TestWholeInPieces(t *testing.T) {
	w := newSharded(t, 64)
	devices := w.issuer(t, "devices")
	const many = 14_000 // more than two pieces
	w.fill(t, devices, many, nil)
	l, err := w.CRL(t.Context(), devices.ID(), ca.Complete)
	must(t, err)
	if l.DER != nil || l.Size < 2*pieceSize {
		t.Fatalf("a list of %d octets is not in pieces", l.Size)
	}
	if n := len(w.check(t, w.Service, devices, l).RevokedCertificateEntries); n != many {
		t.Errorf("%d entries, want %d", n, many)
	}
	raw, err := io.ReadAll(w.Content(t.Context(), l))
	must(t, err)
	far, err := w.other().CRL(t.Context(), devices.ID(), ca.Complete)
	must(t, err)
	if far.Digest != l.Digest {
		t.Error("another node serves another list")
	}
	r := w.Content(t.Context(), l)
	for _, at := range []int64{0, 1, 5, pieceSize - 1, pieceSize, pieceSize + 4, pieceSize + 5, l.Size - 1} {
		_, err := r.Seek(at, io.SeekStart)
		must(t, err)
		var b [1]byte
		_, err = io.ReadFull(r, b[:])
		must(t, err)
		if b[0] != raw[at] {
			t.Errorf("octet %d is %x, want %x", at, b[0], raw[at])
		}
	}
	if end, err := r.Seek(0, io.SeekEnd); err != nil || end != l.Size {
		t.Errorf("the end is at %d, %v", end, err)
	}
	if _, err := r.Seek(-1, io.SeekStart); !errs.Is(err, errs.Invalid) {
		t.Errorf("seeking before the beginning: %v", err)
	}
	// The list before stays until the next but one, for downloads under way.
	w.now.Add(13 * 3600)
	must(t, w.round(t.Context(), newRounds()))
	if again, err := io.ReadAll(w.Content(t.Context(), l)); err != nil || !bytes.Equal(again, raw) {
		t.Errorf("the list before cannot be read to its end: %v", err)
	}
	w.now.Add(13 * 3600)
	must(t, w.round(t.Context(), newRounds()))
	if _, err := io.ReadAll(w.Content(t.Context(), l)); !errs.Is(err, errs.Unavailable) {
		t.Errorf("the pieces of an old list are still there: %v", err)
	}
}

// fill writes revocations as many transactions would have, without their entries.
func (w *world) fill(t testing.TB, i *ca.Issuer, n int, at func(n int) int64) {
	t.Helper()
	changes := map[int64]int64{}
	must(t, w.DB.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		clear(changes)
		for n := range n {
			serial := append([]byte{0x41, 0x6b, 0x49, 0xd2, 0, byte(n)}, make([]byte, 10)...)
			copy(serial[8:], fmt.Sprintf("%08d", n))
			r := Revocation{Serial: serial, Issuer: i.ID(), Shard: i.Shard(serial), At: w.now.Load(), Reason: Reason(n % 2), NotAfter: w.now.Load() + 1e8, turn: 1}
			if at != nil {
				r.NotAfter = at(n)
			}
			changes[r.Shard]++
			r.change = changes[r.Shard]
			if err := writeTx(ctx, tx, serial[5], &r); err != nil {
				return err
			}
		}
		id := i.ID()
		for shard, n := range changes {
			if _, err := tx.Exec(ctx, `INSERT INTO crl_scope (cell, issuer, shard, changes, number) VALUES (0, $1, $2, $3, 0)`, id[:], shard, n); err != nil {
				return err
			}
		}
		return nil
	}))
}

// Expired entries leave the complete list after they were on one that was made after the expiry.
func TestExpiryFromTheWhole(t *testing.T) {
	w := newSharded(t, 8)
	devices := w.issuer(t, "devices")
	soon := w.now.Load() + 3600
	w.fill(t, devices, 40, func(n int) int64 { return soon + int64(n%2)*1e8 })
	for n, want := range []int{40, 40, 20} { // valid still; expired and shown once more; gone
		must(t, w.round(t.Context(), newRounds()))
		if got := len(w.fetch(t, w.Service, devices, ca.Complete).RevokedCertificateEntries); got != want {
			t.Errorf("list %d has %d entries, want %d", n, got, want)
		}
		w.now.Add(13 * 3600)
	}
}

func TestDeltaLists(t *testing.T) {
	for _, shards := range []int{0, 1} {
		t.Run(fmt.Sprint(shards, " shards"), func(t *testing.T) {
			w := newSharded(t, shards)
			devices := w.issuer(t, "devices")
			if _, err := w.Delta(t.Context(), devices.ID(), 0); !errs.Is(err, errs.NotFound) {
				t.Errorf("delta lists that are switched off: %v, want NotFound", err)
			}
			w.DeltaLists = true
			w.Service = New(w.Deps)
			var certs []*ca.Certificate
			for n := range 5 {
				certs = append(certs, w.issue(t, w.add(t, fmt.Sprint("pump", n)).ID, nil))
			}
			revoke := func(n int, reason Reason) {
				t.Helper()
				_, err := w.Certificate(t.Context(), operator, certs[n].Serial[:], reason)
				must(t, err)
			}
			revoke(0, KeyCompromise)
			revoke(1, CertificateHold)
			w.now.Add(13 * 3600)
			sc, err := w.scopeAt(devices.ID(), 0)
			must(t, err)
			_, err = w.listed(t.Context(), sc, func(l *list) bool { return !w.regular(l) })
			must(t, err)
			base := w.fetch(t, w.Service, devices, 0)
			w.now.Add(60)
			revoke(2, Superseded)
			_, err = w.Release(t.Context(), operator, certs[1].Serial[:])
			must(t, err)
			revoke(3, CertificateHold)
			_, err = w.Release(t.Context(), operator, certs[3].Serial[:])
			must(t, err)
			full := w.fetch(t, w.Service, devices, 0)
			told, err := w.Delta(t.Context(), devices.ID(), 0)
			must(t, err)
			delta := w.check(t, w.Service, devices, told)
			if delta.Number.Cmp(full.Number) != 0 || !delta.ThisUpdate.Equal(full.ThisUpdate) || !delta.NextUpdate.After(w.nowTime()) {
				t.Errorf("the delta list has number %s of %s to %s, the full one %s of %s", delta.Number, delta.ThisUpdate, delta.NextUpdate, full.Number, full.ThisUpdate)
			}
			var indicated int64
			if _, err := asn1.Unmarshal(extension(delta, 2, 5, 29, 27), &indicated); err != nil || indicated != base.Number.Int64() {
				t.Errorf("the delta list names the base %d, want %s", indicated, base.Number)
			}
			if !bytes.Equal(extension(delta, 2, 5, 29, 28), extension(full, 2, 5, 29, 28)) {
				t.Error("the scopes differ")
			}
			if fresh := extension(full, 2, 5, 29, 46); !bytes.Contains(fresh, []byte(".delta.crl")) || extension(delta, 2, 5, 29, 46) != nil {
				t.Errorf("the full list names the delta list %q", fresh)
			}
			want := map[string]int{string(certs[2].Serial[:]): int(Superseded), string(certs[1].Serial[:]): 8, string(certs[3].Serial[:]): 8}
			if len(delta.RevokedCertificateEntries) != len(want) {
				t.Errorf("%d entries, want %d", len(delta.RevokedCertificateEntries), len(want))
			}
			for _, e := range delta.RevokedCertificateEntries {
				if want[string(e.SerialNumber.Bytes())] != e.ReasonCode {
					t.Errorf("%x: reason %d", e.SerialNumber, e.ReasonCode)
				}
			}
			// Another process makes the same out of the rows.
			w.now.Add(2)
			there, err := w.other().Delta(t.Context(), devices.ID(), 0)
			must(t, err)
			if there.Digest != told.Digest {
				t.Error("another node has another delta list")
			}
			w.sound(t)
			if shards > 0 {
				if _, err := w.Delta(t.Context(), devices.ID(), ca.Complete); !errs.Is(err, errs.NotFound) {
					t.Errorf("a delta list to the complete list: %v", err)
				}
			}
		})
	}
}

func (w *world) nowTime() time.Time { return time.Unix(w.now.Load(), 0) }

// A CA whose signature takes the whole message makes its complete list in memory, up to a size.
func TestWholeListOfEd25519(t *testing.T) {
	w := newWorldWith(t, func(s *ca.Spec) {
		if s.Name == "services" { // which has an Ed25519 key
			s.Shards = 16
		}
	})
	services := w.issuer(t, "services")
	w.fill(t, services, 3000, nil)
	if n := len(w.fetch(t, w.Service, services, ca.Complete).RevokedCertificateEntries); n != 3000 {
		t.Errorf("%d entries", n)
	}
}

func TestCAsOfOtherNodes(t *testing.T) {
	w := newSharded(t, 4)
	must(t, w.round(t.Context(), newRounds()))
	must(t, w.look(t.Context()))
	far := w.node
	if !onPostgres() {
		t.Skip("SQLite has one process")
	}
	_, err := far().CA.Create(t.Context(), admin, ca.Spec{Name: "late", Parent: "root", Subject: []der.Attribute{{Type: der.OIDCommonName, Value: "Late"}}, Algorithm: key.P256, Validity: 86400 * 365})
	must(t, err)
	must(t, w.log.Sequence(t.Context()))
	must(t, w.look(t.Context()))
	must(t, w.round(t.Context(), newRounds()))
	w.crl(t, "late")
}

// Whoever asks for ever more lists makes others be forgotten, but none that somebody is working on.
func TestListsInMemoryAreBounded(t *testing.T) {
	w := newSharded(t, 256)
	devices := w.issuer(t, "devices")
	busy := scopeKey{ca.IssuerID{1}, 0}
	for n := range int64(mostScopes) {
		sc := &scope{key: scopeKey{ca.IssuerID{1}, n}, making: make(chan struct{}, 1)}
		if sc.key == busy {
			sc.making <- struct{}{}
		}
		w.scopes[sc.key] = sc
	}
	w.fetch(t, w.Service, devices, 9)
	if n := len(w.scopes); n > mostScopes || n < mostScopes*98/100 {
		t.Errorf("%d lists are in memory", n)
	}
	if w.scopes[busy] == nil {
		t.Error("a list that somebody makes was forgotten")
	}
	w.fetch(t, w.Service, devices, 9)
}
