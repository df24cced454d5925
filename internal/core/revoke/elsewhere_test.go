package revoke

import (
	"bytes"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"mooring/internal/core/ca"
	"mooring/internal/core/ceremony"
	"mooring/internal/core/key"
	"mooring/wire/der"
)

// TestEndsAreTold: the log warns in the last sixth of the life of an imported list and of a responder, and says when they have ended.
func TestEndsAreTold(t *testing.T) {
	w := newWorld(t)
	ctx, day, dir := t.Context(), int64(86400), t.TempDir()
	keys, err := key.Create(filepath.Join(dir, "keys"), []byte("correct horse battery"), key.Options{})
	must(t, err)
	root, err := ceremony.Create(ctx, filepath.Join(dir, "root"), keys, ceremony.Spec{Subject: []der.Attribute{{Type: der.OIDCommonName, Value: "Acme Root"}}, Algorithm: key.P256, Validity: 7000 * day, PathLen: 2},
		ceremony.Deps{Now: w.Now, By: "Alice"})
	must(t, err)
	defer root.Close()
	_, err = w.CA.Import(ctx, admin, ca.Import{Name: "vault", Chain: [][]byte{root.Certificate().Raw}})
	must(t, err)
	waiting, err := w.CA.RequestResponder(ctx, admin, ca.NewResponder{CA: "vault"})
	must(t, err)
	q, err := root.ReviewResponder(waiting.Request, 120*day)
	must(t, err)
	made, err := root.Sign(ctx, q)
	must(t, err)
	_, err = w.CA.ImportResponder(ctx, admin, made.DER)
	must(t, err)
	l, err := root.SignCRL(ctx, 60*day)
	must(t, err)
	_, _, err = w.ImportCRL(ctx, admin, l.DER)
	must(t, err)
	began := w.now.Load()
	for _, row := range []struct {
		day  int64
		want []string
	}{
		{40, nil},
		{51, []string{"list of a CA whose key is elsewhere ends soon"}},
		{61, []string{"list of a CA whose key is elsewhere has ended"}},
		{105, []string{"list of a CA whose key is elsewhere has ended", "responder of a CA whose key is elsewhere ends soon"}},
		{121, []string{"list of a CA whose key is elsewhere has ended", "responder of a CA whose key is elsewhere has ended"}},
	} {
		w.now.Store(began + row.day*day)
		var told bytes.Buffer
		d := w.Deps
		d.Log = slog.New(slog.NewTextHandler(&told, nil))
		New(d).tellEnds(ctx)
		if n := strings.Count(told.String(), "\n"); n != len(row.want) {
			t.Errorf("day %d: %d lines, want %d: %s", row.day, n, len(row.want), told.String())
		}
		for _, want := range row.want {
			if !strings.Contains(told.String(), want) || !strings.Contains(told.String(), "ca=vault") {
				t.Errorf("day %d: %q is missing in %s", row.day, want, told.String())
			}
		}
	}
}
