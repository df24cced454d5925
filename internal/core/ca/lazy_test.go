package ca_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/internal/core/key"
	"mooring/wire/der"
)

// A damaged certificate is found by whoever needs it; the other CAs work on.
func TestCAWithWrongSignatureDoesNotIssue(t *testing.T) {
	f := newFixture(t)
	f.hierarchy(t)
	devices, _ := f.Issuer("devices")
	damaged := bytes.Clone(devices.Certificate().Raw)
	damaged[len(damaged)-1] ^= 1
	err := f.db.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE ca_issuer SET der = $1 WHERE name = 'devices'`, damaged)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	leaf := issue(t, f.Authority, f.order(t, "device", request(t, newKey(t, key.P256), der.RequestSpec{})))
	again := ca.New(f.deps)
	if err := again.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	order := f.order(t, "device", request(t, newKey(t, key.P256), der.RequestSpec{}))
	if _, err := again.Prepare(t.Context(), order); !errs.Is(err, errs.Unavailable) {
		t.Errorf("a CA whose certificate has a wrong signature prepares: %v", err)
	}
	if _, err := again.SignedBy(t.Context(), devices.ID(), parse(t, leaf.DER)); !errors.Is(err, ca.ErrNotOurs) {
		t.Errorf("its certificates are believed: %v", err)
	}
	order = f.order(t, "birth", request(t, newKey(t, key.P256), der.RequestSpec{}))
	if _, err := again.Prepare(t.Context(), order); err != nil {
		t.Errorf("another CA: %v", err)
	}
}
