package revoke

import (
	"fmt"
	"path/filepath"
	"testing"

	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/internal/core/ceremony"
	"mooring/internal/core/key"
	"mooring/wire/der"
)

// another is another node with an authority of its own; on SQLite both share the handle.
func (w *world) another(t *testing.T) *Service {
	t.Helper()
	if onPostgres() {
		return w.node()
	}
	d := w.Deps
	d.CA = ca.New(ca.Deps{DB: w.DB, Audit: w.Audit, Access: w.Access, Keys: w.Keys, Now: w.Now})
	must(t, d.CA.Load(t.Context()))
	return New(d)
}

// follow has a node look at what others did.
func (w *world) follow(t *testing.T, s *Service) {
	t.Helper()
	must(t, w.log.Sequence(t.Context()))
	must(t, s.look(t.Context()))
}

// root makes a root with room for cross certificates.
func (w *world) root(t *testing.T, name string) *ca.Issuer {
	t.Helper()
	i, err := w.CA.Create(t.Context(), admin, ca.Spec{Name: name, Subject: []der.Attribute{{Type: der.OIDCommonName, Value: name}}, Algorithm: key.P256, Validity: 20 * 365 * 86400, PathLen: 2})
	must(t, err)
	return i
}

// crossWith returns the cross certificate with the serial number as a node knows it.
func crossWith(t *testing.T, s *Service, serial []byte) *ca.Cross {
	t.Helper()
	x := s.CA.CrossOf(serial)
	if x == nil {
		t.Fatalf("the node does not know the cross certificate %x", serial)
	}
	return x
}

// TestACrossCertificateOnAnotherNode: what one node makes, holds, releases and revokes, the other follows.
func TestACrossCertificateOnAnotherNode(t *testing.T) {
	w := newWorld(t)
	far := w.another(t)
	w.follow(t, far)
	w.root(t, "old")
	w.root(t, "new")
	made, err := w.CA.Cross(t.Context(), admin, "old", "new")
	must(t, err)
	serial := made[0].Cert.SerialNumber.Bytes()
	w.follow(t, far)
	if n := len(far.CA.Crosses()); n != 2 {
		t.Fatalf("the other node announces %d cross certificates, want 2", n)
	}
	for _, step := range []struct {
		name string
		do   func() error
		bars bool
	}{
		{"hold", func() error { _, err := w.Certificate(t.Context(), admin, serial, CertificateHold); return err }, true},
		{"release", func() error { _, err := w.Release(t.Context(), admin, serial); return err }, false},
		{"revoke", func() error { _, err := w.Certificate(t.Context(), admin, serial, CACompromise); return err }, true},
	} {
		must(t, step.do())
		w.follow(t, far)
		if got := far.CA.CrossBarred(crossWith(t, far, serial)); got != step.bars {
			t.Errorf("after %s the other node has it barred: %v", step.name, got)
		}
		if far.CA.CrossBarred(crossWith(t, far, made[1].Cert.SerialNumber.Bytes())) {
			t.Errorf("after %s the other node has the one in the other direction barred", step.name)
		}
		if got := entryOf(crlOf(t, far, crossWith(t, far, serial).Issuer), serial) != nil; got != step.bars {
			t.Errorf("after %s it is on the other node's list: %v", step.name, got)
		}
	}
	started := w.another(t)
	must(t, started.Load(t.Context()))
	if !started.CA.CrossBarred(crossWith(t, started, serial)) {
		t.Error("a node that starts announces it")
	}
	w.sound(t)
}

// TestACrossCertificateOfAnOfflineRoot is revoked by the root's list, for every node and after a start.
func TestACrossCertificateOfAnOfflineRoot(t *testing.T) {
	w := newWorld(t)
	ctx, year, dir := t.Context(), int64(365*86400), t.TempDir()
	far := w.another(t)
	w.follow(t, far)
	next := w.root(t, "next")
	keys, err := key.Create(filepath.Join(dir, "keys"), []byte("correct horse battery"), key.Options{})
	must(t, err)
	root, err := ceremony.Create(ctx, filepath.Join(dir, "root"), keys, ceremony.Spec{Subject: []der.Attribute{{Type: der.OIDCommonName, Value: "Acme Root"}}, Algorithm: key.P256, Validity: 20 * year, PathLen: 2},
		ceremony.Deps{Now: w.Now, By: "Alice"})
	must(t, err)
	defer root.Close()
	_, err = w.CA.Import(ctx, admin, ca.Import{Name: "vault", Chain: [][]byte{root.Certificate().Raw}})
	must(t, err)
	q, err := root.ReviewRoot(next.Certificate().Raw)
	must(t, err)
	made, err := root.Sign(ctx, q)
	must(t, err)
	x, err := w.CA.ImportCross(ctx, admin, made.DER)
	must(t, err)
	serial := x.Cert.SerialNumber.Bytes()
	list := func() {
		t.Helper()
		l, err := root.SignCRL(ctx, year)
		must(t, err)
		_, _, err = w.ImportCRL(ctx, admin, l.DER)
		must(t, err)
		w.follow(t, far)
	}
	list()
	for name, s := range map[string]*Service{"here": w.Service, "there": far} {
		if s.CA.CrossBarred(crossWith(t, s, serial)) {
			t.Errorf("%s: it is barred by a list that does not name it", name)
		}
	}
	if _, err := w.Certificate(ctx, admin, serial, CACompromise); !errs.Is(err, errs.Conflict) {
		t.Errorf("revoking it here: %v, want Conflict", err)
	}
	w.now.Add(60)
	must(t, root.Revoke(ctx, fmt.Sprintf("%x", serial), "cACompromise"))
	list()
	started := w.another(t)
	must(t, started.Load(ctx))
	for name, s := range map[string]*Service{"here": w.Service, "there": far, "after a start": started} {
		if !s.CA.CrossBarred(crossWith(t, s, serial)) || len(s.CA.Crosses()) != 0 {
			t.Errorf("%s: it is still announced", name)
		}
	}
	w.sound(t)
}

// TestAResponderOnAnotherNode: a responder that one node takes in answers on the other, until the list that the first one imports names it.
func TestAResponderOnAnotherNode(t *testing.T) {
	w := newWorld(t)
	ctx, year, dir := t.Context(), int64(365*86400), t.TempDir()
	far := w.another(t)
	w.follow(t, far)
	keys, err := key.Create(filepath.Join(dir, "keys"), []byte("correct horse battery"), key.Options{})
	must(t, err)
	root, err := ceremony.Create(ctx, filepath.Join(dir, "root"), keys, ceremony.Spec{Subject: []der.Attribute{{Type: der.OIDCommonName, Value: "Acme Root"}}, Algorithm: key.MLDSA44, Validity: 20 * year, PathLen: 2},
		ceremony.Deps{Now: w.Now, By: "Alice"})
	must(t, err)
	defer root.Close()
	_, err = w.CA.Import(ctx, admin, ca.Import{Name: "vault", Chain: [][]byte{root.Certificate().Raw}})
	must(t, err)
	waiting, err := w.CA.RequestResponder(ctx, admin, ca.NewResponder{CA: "vault"})
	must(t, err)
	q, err := root.ReviewResponder(waiting.Request, 100*86400)
	must(t, err)
	made, err := root.Sign(ctx, q)
	must(t, err)
	r, err := w.CA.ImportResponder(ctx, admin, made.DER)
	must(t, err)
	if r.Algorithm() != der.PureMLDSA44 {
		t.Errorf("the responder of an ML-DSA root signs by %v", r.Algorithm())
	}
	w.follow(t, far)
	for n, want := range []bool{true, false} {
		if n == 1 {
			w.now.Add(60)
			must(t, root.Revoke(ctx, fmt.Sprintf("%x", r.Cert.SerialNumber), "superseded"))
		}
		l, err := root.SignCRL(ctx, year)
		must(t, err)
		_, _, err = w.ImportCRL(ctx, admin, l.DER)
		must(t, err)
		w.follow(t, far)
		started := w.another(t)
		must(t, started.Load(ctx))
		for name, s := range map[string]*Service{"here": w.Service, "there": far, "after a start": started} {
			if got := s.CA.ResponderOf(r.Issuer.ID()) != nil; got != want {
				t.Errorf("list %d, %s: a responder answers: %v", n, name, got)
			}
		}
	}
	if last := w.CA.LastResponderOf(r.Issuer.ID()); last != nil {
		t.Error("a revoked responder counts as the last")
	}
	w.sound(t)
}
