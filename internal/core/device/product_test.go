package device

import (
	"crypto/x509"
	"errors"
	"strings"
	"testing"

	"mooring/internal/base/errs"
)

// TestProduct: a product leads to one device, whatever becomes of the device's other data.
func TestProduct(t *testing.T) {
	w := newWorld(t)
	p := Product{"acme", "AC-1"}
	d := w.add(t, Spec{Name: "pump", Product: p})
	if _, err := w.Add(t.Context(), operator, Spec{Name: "double", Profile: "sensor", Product: p}); !errs.Is(err, errs.Conflict) || !strings.HasPrefix(errs.Public(err), "serial: ") {
		t.Errorf("the same product again: got %v, want Conflict about the serial", err)
	}
	if _, err := w.Add(t.Context(), operator, Spec{Name: "half", Profile: "sensor", Product: Product{Serial: "1"}}); !errs.Is(err, errs.Invalid) {
		t.Errorf("a serial number without a manufacturer: got %v, want Invalid", err)
	}
	for _, other := range []Product{{}, {"acme", "AC-2"}, {"acme", "ac-1"}, {"other", "AC-1"}, {"acm", "e\nAC-1"}} {
		if got, err := w.ByProduct(t.Context(), other); !errs.Is(err, errs.NotFound) {
			t.Errorf("%q leads to %s, %v, want NotFound", other, got.Name, err)
		}
	}
	group := "hall-2"
	if _, err := w.Change(t.Context(), operator, d.ID, Change{Group: &group}); err != nil {
		t.Fatal(err)
	}
	if got, err := w.ByProduct(t.Context(), p); err != nil || got.ID != d.ID || got.Product != p {
		t.Errorf("got %+v, %v", got, err)
	}
	next := Product{"acme", "AC-9"}
	if _, err := w.Change(t.Context(), operator, d.ID, Change{Product: &next}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.ByProduct(t.Context(), p); !errs.Is(err, errs.NotFound) {
		t.Errorf("the product that it was: got %v, want NotFound", err)
	}
	w.add(t, Spec{Name: "heir", Product: p})
	if found := w.verify(t); found != nil {
		t.Errorf("verify: got %q, want nothing", found)
	}
}

// TestBind: the first certificate stays until an administrator takes it away.
func TestBind(t *testing.T) {
	w := newWorld(t)
	d := w.add(t, Spec{Name: "pump", Product: Product{"acme", "AC-1"}})
	cert := func(name string) *x509.Certificate {
		c, err := x509.ParseCertificate(birthCertificate(t, name))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first, second := cert("first"), cert("second")
	for range 2 {
		if got, err := w.Bind(t.Context(), d.ID, first); err != nil || len(got.birth()) == 0 {
			t.Fatalf("got %+v, %v", got, err)
		}
	}
	if got := w.load(t, d.ID); got.Policy != d.Policy+1 {
		t.Errorf("its policy number is %d, want %d", got.Policy, d.Policy+1)
	}
	if _, err := w.Bind(t.Context(), d.ID, second); !errors.Is(err, ErrBound) {
		t.Errorf("another certificate: got %v, want ErrBound", err)
	}
	if _, err := w.Change(t.Context(), operator, d.ID, Change{Birth: &[]byte{}}); err != nil {
		t.Fatal(err)
	}
	if got, err := w.ByProduct(t.Context(), d.Product); err != nil || got.ID != d.ID {
		t.Errorf("after the certificate was taken away: got %+v, %v", got, err)
	}
	if _, err := w.Bind(t.Context(), d.ID, second); err != nil {
		t.Errorf("another certificate after the first was taken away: %v", err)
	}
	if found := w.verify(t); found != nil {
		t.Errorf("verify: got %q, want nothing", found)
	}
}

// TestRecordsFromBefore: rows of a job that was made before there were products are read as they were written.
func TestRecordsFromBefore(t *testing.T) {
	for _, c := range []record{{name: "a", profile: "sensor"}, {name: "a", profile: "sensor", birthUntil: -1, product: "acme\n1"}} {
		got, err := readRecord(appendRecord(nil, &c))
		if err != nil || got.name != c.name || got.product != c.product || got.birthUntil != c.birthUntil {
			t.Errorf("got %+v, %v, want %+v", got, err, c)
		}
	}
}
