package ca_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/fstest"

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

// One sample stands for profiles that differ in name and CA alone, and what it shows is told of each; one that differs in more has its own.
func TestAlikeProfilesAreAllToldOf(t *testing.T) {
	wrong := strings.Replace(sound, "{device.name}", strings.Repeat("x", 65), 1) // longer than a CN may be, which only the sample shows
	named := func(text, name string) *fstest.MapFile {
		text = strings.Replace(text, "name: device", "name: "+name, 1)
		return &fstest.MapFile{Data: []byte(strings.Replace(text, "issuer: devices", "issuer: "+name+"-ca", 1))}
	}
	_, err := ca.LoadProfiles(fstest.MapFS{"a.yaml": named(wrong, "a"), "b.yaml": named(wrong, "b"), "c.yaml": named(sound, "c")})
	for name, complained := range map[string]bool{"a": true, "b": true, "c": false} {
		if strings.Contains(errs.Public(err), "profiles/"+name+".yaml:1: the sample certificate") != complained {
			t.Errorf("complaints about %s: %v in %q", name, !complained, errs.Public(err))
		}
	}
}
