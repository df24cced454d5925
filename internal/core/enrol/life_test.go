package enrol_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"testing"

	xocsp "golang.org/x/crypto/ocsp"

	"mooring/internal/app/apptest"
	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/enrol"
	"mooring/internal/core/revoke"
	"mooring/wire/der"
)

func count(t *testing.T, p *apptest.Platform, table string) (n int) {
	t.Helper()
	err := p.DB.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Get(ctx, []any{&n}, `SELECT COUNT(*) FROM `+table)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func slotOf(t *testing.T, p *apptest.Platform, id device.ID) device.Slot {
	t.Helper()
	d := p.Load(t, id)
	slot, _ := d.Slot("operational")
	return slot
}

// TestBrief follows a device whose certificates are recorded in brief: it enrols, renews, is revoked and lost, and no certificate is kept.
func TestBrief(t *testing.T) {
	p := apptest.Start(t, nil)
	before := count(t, p, "cert")
	d, token := p.Device(t, "meter-1", "device-short")
	key := apptest.Key(t)
	csr := apptest.CSR(t, key, der.RequestSpec{})
	c := submit(t, p, byToken("meter-1", token, csr))
	if ca.KeptAs(c.Serial[:]) != ca.Brief {
		t.Fatalf("the serial number %x is of class %s", c.Serial, ca.KeptAs(c.Serial[:]))
	}
	if slot := slotOf(t, p, d.ID); !bytes.Equal(slot.Serial, c.Serial[:]) || slot.NotAfter != c.NotAfter || !bytes.Equal(slot.SPKI, c.SPKIHash[:]) {
		t.Errorf("the slot holds %+v", slot)
	}
	known, err := p.CA.Known(t.Context(), c.Serial[:])
	if err != nil || known.DER != nil || known.Profile != "device-short" || known.Version != c.Version || known.NotAfter != c.NotAfter || known.NotBefore != c.NotBefore ||
		known.SPKIHash != c.SPKIHash || known.Device != c.Device || known.Issuer != c.Issuer || known.Cell != c.Cell || known.Slot != c.Slot {
		t.Errorf("known is %+v, %v; want what the certificate says", known, err)
	}
	if history, err := p.CA.History(t.Context(), c.Serial[:], 0); err != nil || len(history) != 1 || history[0].Serial != c.Serial {
		t.Errorf("its history is %v, %v", history, err)
	}

	// An answer that was lost: the same request gets another certificate for the same key, in the first one's time.
	lost := submit(t, p, byToken("meter-1", token, csr))
	if lost.Serial == c.Serial || lost.SPKIHash != c.SPKIHash {
		t.Errorf("the same request got %x for another key than %x", lost.Serial, c.Serial)
	}
	wantRefusal(t, p, byToken("meter-1", token, apptest.CSR(t, apptest.Key(t), der.RequestSpec{})), errs.Denied, "this token was used already: ask for a new one")

	pair := p.Pair(t, key, lost.DER)
	var old = pair
	for range 3 {
		next := apptest.Key(t)
		renewed := submit(t, p, byCert(enrol.Renew, pair, again(t, pair, next)))
		old, pair = pair, p.Pair(t, next, renewed.DER)
		if slot := slotOf(t, p, d.ID); !bytes.Equal(slot.Serial, renewed.Serial[:]) || !bytes.Equal(slot.Prev, old.Leaf.SerialNumber.Bytes()) {
			t.Errorf("the slot does not know the newest certificate and the one before: %+v", slot)
		}
	}
	// The one before stays good beside the newest, for answers that are lost; what it leads to takes the newest one's place.
	next := apptest.Key(t)
	other := submit(t, p, byCert(enrol.Renew, old, again(t, old, next)))
	pair = p.Pair(t, next, other.DER)
	if after := count(t, p, "cert"); after != before {
		t.Errorf("%d certificates are kept", after-before)
	}
	wantRefusal(t, p, byCert(enrol.Renew, p.Pair(t, key, c.DER), again(t, pair, key)), errs.Denied,
		"the client certificate was neither issued here nor registered as a birth certificate; enrol with a token, or have it registered")

	// Revoked by its serial number alone.
	r, err := p.Revoke.Certificate(t.Context(), apptest.Operator(), pair.Leaf.SerialNumber.Bytes(), revoke.KeyCompromise)
	if err != nil || r.NotAfter != pair.Leaf.NotAfter.Unix() || r.Device != d.ID || r.Listed == 0 {
		t.Errorf("revoking: %+v, %v", r, err)
	}
	wantRefusal(t, p, byCert(enrol.Renew, pair, again(t, pair, key)), errs.Denied, "the client certificate is revoked; ask the device's operator for a new token")
}

// TestBriefDeviceIsLost: the certificates of a slot are revoked with their device though there is no row of them.
func TestBriefDeviceIsLost(t *testing.T) {
	p := apptest.Start(t, nil)
	d, pair := p.Enrolled(t, "meter-1", "device-short")
	key := apptest.Key(t)
	renewed := submit(t, p, byCert(enrol.Renew, pair, again(t, pair, key)))
	n, err := p.Revoke.Device(t.Context(), apptest.Operator(), d.ID, device.Suspend, revoke.Unspecified)
	if err != nil || n != 2 {
		t.Fatalf("suspending put %d on hold, %v; want the newest and the one before", n, err)
	}
	wantRefusal(t, p, byCert(enrol.Renew, p.Pair(t, key, renewed.DER), again(t, pair, key)), errs.Denied, "the client certificate is on hold; ask the device's operator")
	if n, err = p.Revoke.Device(t.Context(), apptest.Operator(), d.ID, device.Resume, revoke.Unspecified); err != nil || n != 2 {
		t.Errorf("resuming released %d, %v", n, err)
	}
	submit(t, p, byCert(enrol.Renew, p.Pair(t, key, renewed.DER), again(t, pair, key)))
	if n, err = p.Revoke.Device(t.Context(), apptest.Operator(), d.ID, device.Lose, revoke.Unspecified); err != nil || n != 3 {
		t.Errorf("losing revoked %d, %v; want all three, also the one that is in no slot any more", n, err)
	}
	if _, gone, err := p.Revoke.Status(t.Context(), pair.Leaf.SerialNumber.Bytes()); err != nil || !gone {
		t.Errorf("the first certificate is revoked: %v, %v", gone, err)
	}
}

// TestFullBecomesBrief: an operator changes the class of a profile; both kinds of certificates are good beside each other.
func TestFullBecomesBrief(t *testing.T) {
	p := apptest.Start(t, nil, apptest.Variant("device-short", "changing", "record: full"))
	d, pair := p.Enrolled(t, "meter-1", "changing")
	p.WriteProfile(t, apptest.Variant("device-short", "changing"))
	p.Restart(t)
	key := apptest.Key(t)
	renewed := submit(t, p, byCert(enrol.Renew, pair, again(t, pair, key)))
	if ca.KeptAs(renewed.Serial[:]) != ca.Brief {
		t.Fatalf("after the change the class is %s", ca.KeptAs(renewed.Serial[:]))
	}
	submit(t, p, byCert(enrol.Renew, p.Pair(t, key, renewed.DER), again(t, pair, apptest.Key(t))))
	n, err := p.Revoke.Device(t.Context(), apptest.Operator(), d.ID, device.Lose, revoke.Unspecified)
	if err != nil || n != 3 {
		t.Errorf("losing revoked %d, %v; want the kept one, the newest and the one before", n, err)
	}
}

// TestEphemeral: a certificate for one transaction leaves its digest in the record and nothing else.
func TestEphemeral(t *testing.T) {
	p := apptest.Start(t, nil)
	d, pair := p.Enrolled(t, "meter-1", "device")
	before := p.Load(t, d.ID)
	certs := count(t, p, "cert")
	key := apptest.Key(t)
	ask := byCert(enrol.Enrol, pair, apptest.CSR(t, key, der.RequestSpec{Names: der.AltNames{URI: []string{"urn:mooring:transaction:order-77"}}}))
	ask.Profile = "transaction"
	var got []*ca.Certificate
	for range 40 { // more at once than a device gets of those that are kept
		got = append(got, submit(t, p, ask))
	}
	if now := p.Load(t, d.ID); now.Issued != before.Issued || len(now.Slots) != len(before.Slots) || count(t, p, "cert") != certs {
		t.Errorf("the registry shows %+v, before %+v, and %d certificates more", now, before, count(t, p, "cert")-certs)
	}
	recorded := map[[sha256.Size]byte]bool{}
	for _, e := range entries(t, p, func(e audit.Entry) bool { return e.Action == ca.ActionEphemeral }) {
		digests, err := ca.Digests(&e)
		if err != nil || e.Object != "transaction" {
			t.Errorf("%+v: %v", e, err)
		}
		for _, sum := range digests {
			recorded[sum] = true
		}
	}
	for _, c := range got {
		if ca.KeptAs(c.Serial[:]) != ca.Ephemeral || !recorded[sha256.Sum256(c.DER)] {
			t.Errorf("certificate %x is not on record", c.Serial)
		}
	}
	if len(recorded) != len(got) {
		t.Errorf("the record knows %d of %d", len(recorded), len(got))
	}
	if n := p.Enrol.Issued().Records[ca.Ephemeral]; n != int64(len(got)) {
		t.Errorf("counted %d, want %d", n, len(got))
	}
	_, err := p.Revoke.Certificate(t.Context(), apptest.Operator(), got[0].Serial[:], revoke.Unspecified)
	if !errs.Is(err, errs.NotFound) {
		t.Errorf("revoking what nobody knows: %v", err)
	}

	own := p.Pair(t, key, got[0].DER)
	refused := byCert(enrol.Renew, own, again(t, own, key))
	refused.Profile = "transaction"
	_, err = p.Enrol.Submit(t.Context(), refused)
	if !errors.Is(err, enrol.ErrUnauthenticated) {
		t.Errorf("a renewal by a certificate for one transaction: %v", err)
	}
	byTokenToo := byToken("meter-1", "x", ask.CSR)
	byTokenToo.Profile = "transaction"
	if _, err := p.Enrol.Submit(t.Context(), byTokenToo); err == nil {
		t.Error("a token got a certificate for one transaction")
	}

	// The kill switch.
	if _, err := p.Revoke.Device(t.Context(), apptest.Operator(), d.ID, device.Suspend, revoke.Unspecified); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, p, ask, errs.Denied, "the client certificate is on hold; ask the device's operator")
}

// TestEphemeralForOthersOnly: a profile is for devices that are registered for it, or for one that it names.
func TestEphemeralForOthersOnly(t *testing.T) {
	p := apptest.Start(t, nil)
	_, pair := p.Enrolled(t, "people-1", "auditor")
	ask := byCert(enrol.Enrol, pair, apptest.CSR(t, apptest.Key(t), der.RequestSpec{}))
	ask.Profile = "transaction"
	wantRefusal(t, p, ask, errs.Denied, `this device is registered for another profile than "transaction"`)
}

// TestOvertakenEphemeral suspends the device between decision and record.
func TestOvertakenEphemeral(t *testing.T) {
	p := apptest.Start(t, nil)
	d, pair := p.Enrolled(t, "meter-1", "device")
	claims := []device.Claim{{ID: d.ID, Cell: d.Cell, Policy: p.Load(t, d.ID).Policy, At: p.Clock.Now().Unix()}}
	allow := func() (refused []error) {
		t.Helper()
		err := p.DB.Do(t.Context(), func(ctx context.Context, tx *db.Tx) (err error) {
			refused, err = p.Devices.AllowTx(ctx, tx, claims)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return refused
	}
	if refused := allow(); refused[0] != nil {
		t.Errorf("refused: %v", refused[0])
	}
	if _, err := p.Revoke.Certificate(t.Context(), apptest.Operator(), pair.Leaf.SerialNumber.Bytes(), revoke.CertificateHold); err != nil {
		t.Fatal(err)
	}
	if refused := allow(); !errs.Is(refused[0], errs.Conflict) {
		t.Errorf("after a change of the device: %v, want a conflict", refused[0])
	}
	if _, err := p.Revoke.Device(t.Context(), apptest.Operator(), d.ID, device.Lose, revoke.Unspecified); err != nil {
		t.Fatal(err)
	}
	if refused := allow(); !errs.Is(refused[0], errs.Denied) {
		t.Errorf("after the device was lost: %v, want a denial", refused[0])
	}
}

// TestStatusOfBrief asks the responder for certificates of which there is no row.
func TestStatusOfBrief(t *testing.T) {
	p := apptest.Start(t, nil)
	_, pair := p.Enrolled(t, "meter-1", "device-short")
	issuer := p.CA.IssuerOf(pair.Leaf)
	status := func() (int, *xocsp.Response) {
		t.Helper()
		q, err := xocsp.CreateRequest(pair.Leaf, issuer.Certificate(), nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := p.Revoke.OCSP(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		r, err := xocsp.ParseResponseForCert(answer.DER, pair.Leaf, issuer.Certificate())
		if err != nil {
			t.Fatal(err)
		}
		return r.Status, r
	}
	if got, _ := status(); got != xocsp.Unknown {
		t.Errorf("before it is revoked: status %d, want unknown", got)
	}
	if _, err := p.Revoke.Certificate(t.Context(), apptest.Operator(), pair.Leaf.SerialNumber.Bytes(), revoke.KeyCompromise); err != nil {
		t.Fatal(err)
	}
	if got, r := status(); got != xocsp.Revoked || r.RevocationReason != xocsp.KeyCompromise {
		t.Errorf("after: status %d, want revoked", got)
	}
}
