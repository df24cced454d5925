package app_test

import (
	"context"
	"crypto"
	"errors"
	"strings"
	"testing"
	"time"

	"mooring/internal/app/apptest"
	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/device"
	"mooring/internal/core/enrol"
	"mooring/internal/core/revoke"
	"mooring/wire/der"
)

// enrolKey gets the device a certificate for the key, with a new token.
func enrolKey(t *testing.T, p *apptest.Platform, d device.Device, k crypto.Signer) (serial []byte, err error) {
	t.Helper()
	a, err := p.Enrol.Submit(t.Context(), enrol.Request{Protocol: "est", Op: enrol.Enrol, Basic: true, User: d.Name, Secret: p.Token(t, d.ID),
		CSR: apptest.CSR(t, k, der.RequestSpec{})})
	if err != nil {
		return nil, err
	}
	return a.Certificate.Serial[:], nil
}

func wantBlocked(t *testing.T, p *apptest.Platform, d device.Device, k crypto.Signer, what string) {
	t.Helper()
	if _, err := enrolKey(t, p, d, k); !errs.Is(err, errs.Denied) || errs.Public(err) != "this key was reported as compromised: make a new one" {
		t.Errorf("%s: %v, want Denied", what, err)
	}
}

// TestACompromisedKeyIsCertifiedNeverAgain reports keys on every way, and tries them again on every other.
func TestACompromisedKeyIsCertifiedNeverAgain(t *testing.T) {
	p := apptest.Start(t, nil)
	ctx, op := t.Context(), apptest.Operator()
	other := p.Add(t, device.Spec{Name: "other", Profile: "device"})
	brief := p.Add(t, device.Spec{Name: "brief", Profile: "device-short"})
	one := p.Add(t, device.Spec{Name: "one", Profile: "device"})
	lost := p.Add(t, device.Spec{Name: "lost", Profile: "device"})
	crowd := p.Add(t, device.Spec{Name: "crowd", Profile: "device", Group: "crowd"})
	keys, serials := map[device.ID]crypto.Signer{}, map[device.ID][]byte{}
	for _, d := range []device.Device{one, lost, crowd, brief} {
		var err error
		keys[d.ID] = apptest.Key(t)
		serials[d.ID], err = enrolKey(t, p, d, keys[d.ID])
		must(t, err)
	}
	for _, why := range []revoke.Reason{revoke.Superseded, revoke.CertificateHold} { // blocks nothing
		k := apptest.Key(t)
		serial, err := enrolKey(t, p, other, k)
		must(t, err)
		_, err = p.Revoke.Certificate(ctx, op, serial, why)
		must(t, err)
		if _, err = enrolKey(t, p, other, k); err != nil {
			t.Errorf("a key whose certificate was revoked as %s: %v", why, err)
		}
	}
	for _, d := range []device.Device{one, brief} {
		_, err := p.Revoke.Certificate(ctx, op, serials[d.ID], revoke.KeyCompromise)
		must(t, err)
		wantBlocked(t, p, d, keys[d.ID], d.Name+" again")
	}
	_, err := p.Revoke.Device(ctx, op, lost.ID, device.Lose, revoke.Unspecified)
	must(t, err)
	j, err := p.Bulk.RevokeMany(ctx, op, revoke.Filter{Group: "crowd"}, revoke.How{Reason: revoke.KeyCompromise, Start: true})
	must(t, err)
	ended(t, p, j)
	for _, again := range []string{"at once", "after a restart"} {
		for id, k := range keys {
			wantBlocked(t, p, other, k, "the key of "+id.String()+" for another device "+again)
		}
		p.Restart(t)
	}
	if _, err := enrolKey(t, p, one, apptest.Key(t)); err != nil {
		t.Errorf("the device with a new key: %v", err)
	}
	refused := 0
	for _, e := range p.Record(t) {
		if e.Action == "enrol.refuse" && strings.Contains(e.Refused, "compromised") {
			refused++
		}
	}
	if refused == 0 {
		t.Error("no refusal is recorded")
	}
	for _, f := range p.Verify(t).Findings {
		t.Errorf("verification: %s", f)
	}
}

// TestACompromisedKeyOnTwoNodes reports a key on one node and tries it on the other: refused at once, whether that has heard of it or not.
func TestACompromisedKeyOnTwoNodes(t *testing.T) {
	near := apptest.Start(t, nil)
	far := near.Second(t)
	d, k := near.Add(t, device.Spec{Name: "one", Profile: "device"}), apptest.Key(t)
	serial, err := enrolKey(t, near, d, k)
	must(t, err)
	_, err = near.Revoke.Certificate(t.Context(), apptest.Operator(), serial, revoke.KeyCompromise)
	must(t, err)
	wantBlocked(t, far, d, k, "on the other node")
	spki, err := der.EncodePublicKey(k.Public())
	must(t, err)
	hash := der.HashSPKI(spki)
	for began := time.Now(); !far.Revoke.KeyBlocked(hash); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > time.Minute { // it is about a second
			t.Fatal("the other node does not know the key after a minute")
		}
	}
	wantBlocked(t, far, d, k, "on the other node later")
}

// TestAKeyIsReportedWhileItIsCertified has a report commit at the latest moment at which the transaction that records a certificate for the same key
// cannot see it: the certificate stays here and is revoked. On SQLite, where one transaction waits for the other, it is the report that comes first.
func TestAKeyIsReportedWhileItIsCertified(t *testing.T) {
	p := apptest.Start(t, nil)
	ctx := t.Context()
	k := apptest.Key(t)
	spki, err := der.EncodePublicKey(k.Public())
	must(t, err)
	hash := der.HashSPKI(spki)
	d := p.Add(t, device.Spec{Name: "other", Profile: "device"})
	token := p.Token(t, d.ID)
	ask := enrol.Request{Protocol: "est", Op: enrol.Enrol, Basic: true, User: d.Name, Secret: token, CSR: apptest.CSR(t, k, der.RequestSpec{})}
	answered := make(chan error, 1)
	began := false
	must(t, p.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO blocked_key (cell, spki, at, serial) VALUES ($1, $2, $3, $4)`, int64(hash[0]), hash[:], p.Clock.Now().Unix(), []byte{1}); err != nil {
			return err
		}
		if !p.DB.Arrays() {
			return nil
		}
		if _, err := tx.Exec(ctx, `UPDATE device SET updated = updated WHERE cell = $1 AND id = $2`, int64(d.Cell), d.ID[:]); err != nil {
			return err
		}
		if !began {
			began = true
			go func() { _, err := p.Enrol.Submit(t.Context(), ask); answered <- err }()
		}
		for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) { // until it waits for the device's row
			waiting := int64(0)
			if _, err := tx.Get(ctx, []any{&waiting}, `SELECT COUNT(*) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
 WHERE NOT l.granted AND pg_backend_pid() = ANY (pg_blocking_pids(l.pid))`); err != nil || waiting > 0 {
				return err
			}
			if time.Now().After(end) {
				return errors.New("the enrolment does not come to wait for the device")
			}
		}
	}))
	if !began {
		_, err := p.Enrol.Submit(ctx, ask)
		answered <- err
	}
	if err := <-answered; !errs.Is(err, errs.Denied) || errs.Public(err) != "this key was reported as compromised: make a new one" {
		t.Errorf("the answer is %v, want Denied", err)
	}
	for _, slot := range p.Load(t, d.ID).Slots {
		if _, revoked, err := p.Revoke.Status(ctx, slot.Serial); err != nil || !revoked {
			t.Errorf("the certificate %x, which stayed here, is revoked: %v, %v", slot.Serial, revoked, err)
		}
	}
	slots := p.Load(t, d.ID).Slots
	if began != (len(slots) == 1) {
		t.Errorf("%d certificates were recorded", len(slots))
	}
	// The report had no revocation of its own: the record is to verify.
	must(t, p.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if len(slots) == 0 {
			_, err := tx.Exec(ctx, `DELETE FROM blocked_key WHERE serial = $1`, []byte{1})
			return err
		}
		_, err := tx.Exec(ctx, `UPDATE blocked_key SET serial = $1, at = (SELECT at FROM revoked WHERE serial = $1) WHERE serial = $2`, slots[0].Serial, []byte{1})
		return err
	}))
}
