package revoke

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"testing"

	"mooring/internal/base/errs"
	"mooring/internal/core/device"
)

// A key that is in wrong hands makes every certificate of it useless, not only the one that was named.
func TestCompromisedKey(t *testing.T) {
	w := newSharded(t, 4)
	d := w.add(t, "pump")
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	first, claim := w.prepareKey(t, d.ID, nil, k)
	must(t, w.record(t.Context(), first, claim))
	second, claim := w.prepareKey(t, d.ID, first.Serial[:], k)
	must(t, w.record(t.Context(), second, claim))
	third := w.issue(t, d.ID, second.Serial[:]) // with another key
	r, err := w.Certificate(t.Context(), operator, first.Serial[:], Superseded)
	must(t, err)
	if len(r.Also) != 0 {
		t.Errorf("for %s %x was revoked as well", r.Reason, r.Also)
	}
	other := w.add(t, "valve")
	byOther := w.issue(t, other.ID, nil)
	r, err = w.Certificate(t.Context(), operator, second.Serial[:], KeyCompromise)
	must(t, err)
	if len(r.Also) != 0 || !bytes.Equal(r.Successor, third.Serial[:]) {
		t.Errorf("revoked already was %x, revoked now %x, the successor is %x", first.Serial, r.Also, r.Successor)
	}
	fourth, claim := w.prepareKey(t, d.ID, third.Serial[:], k)
	must(t, w.record(t.Context(), fourth, claim))
	fifth, claim := w.prepareKey(t, d.ID, fourth.Serial[:], k)
	must(t, w.record(t.Context(), fifth, claim))
	r, err = w.Certificate(t.Context(), operator, fourth.Serial[:], KeyCompromise)
	must(t, err)
	if len(r.Also) != 1 || !bytes.Equal(r.Also[0], fifth.Serial[:]) || r.Listed == 0 {
		t.Errorf("with %x %x was revoked, want %x", fourth.Serial, r.Also, fifth.Serial)
	}
	for serial, want := range map[[16]byte]bool{first.Serial: true, second.Serial: true, third.Serial: false, fourth.Serial: true, fifth.Serial: true, byOther.Serial: false} {
		if _, is, err := w.Status(t.Context(), serial[:]); err != nil || is != want {
			t.Errorf("%x is revoked: %v (%v), want %v", serial, is, err, want)
		}
	}
	w.sound(t)
}

func TestReleaseOfASuspendedDevice(t *testing.T) {
	w := newWorld(t)
	d := w.add(t, "pump")
	c := w.issue(t, d.ID, nil)
	_, err := w.Device(t.Context(), operator, d.ID, device.Suspend, Unspecified)
	must(t, err)
	if _, err := w.Release(t.Context(), operator, c.Serial[:]); !errs.Is(err, errs.Conflict) {
		t.Errorf("releasing the certificate of a suspended device: %v, want Conflict", err)
	}
	if _, is, err := w.Status(t.Context(), c.Serial[:]); err != nil || !is {
		t.Errorf("it is on hold: %v, %v", is, err)
	}
	_, err = w.Device(t.Context(), operator, d.ID, device.Resume, Unspecified)
	must(t, err)
	_, err = w.Certificate(t.Context(), operator, c.Serial[:], CertificateHold)
	must(t, err)
	_, err = w.Release(t.Context(), operator, c.Serial[:])
	must(t, err)
	w.sound(t)
}
