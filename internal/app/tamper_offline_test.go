package app_test

import (
	"path/filepath"
	"testing"

	"mooring/internal/app/apptest"
	"mooring/internal/core/ca"
	"mooring/internal/core/ceremony"
	"mooring/internal/core/key"
	"mooring/wire/der"
)

// otherCAs leaves rows of everything that has to do with CAs that sign elsewhere: a request that waits, roots that vouch for each other, and an
// offline root with its record and its OCSP responder.
func otherCAs(t *testing.T, p *apptest.Platform) {
	t.Helper()
	ctx := t.Context()
	subject := func(cn string) []der.Attribute {
		return []der.Attribute{{Type: der.OIDOrganization, Value: "Test Fleet"}, {Type: der.OIDCommonName, Value: cn}}
	}
	_, err := p.CA.Request(ctx, apptest.Operator(), ca.Spec{Name: "waits", Subject: subject("Waits"), Algorithm: key.P256})
	must(t, err)
	_, err = p.CA.Create(ctx, apptest.Operator(), ca.Spec{Name: "root-g2", Subject: subject("Root G2"), Algorithm: key.P256, Validity: 86400, PathLen: 2})
	must(t, err)
	_, err = p.CA.Cross(ctx, apptest.Operator(), "root", "root-g2")
	must(t, err)
	keys, err := key.Create(filepath.Join(t.TempDir(), "keys"), []byte("six words"), key.Options{})
	must(t, err)
	root, err := ceremony.Create(ctx, filepath.Join(t.TempDir(), "root"), keys, ceremony.Spec{Subject: subject("Offline Root"), Algorithm: key.P256, Validity: 86400, PathLen: 1},
		ceremony.Deps{Now: p.Clock.Now, By: "test"})
	must(t, err)
	_, err = p.CA.Import(ctx, apptest.Operator(), ca.Import{Name: "offline", Chain: [][]byte{root.Certificate().Raw}, Record: root.Record().Text()})
	must(t, err)
	waiting, err := p.CA.RequestResponder(ctx, apptest.Operator(), ca.NewResponder{CA: "offline"})
	must(t, err)
	q, err := root.ReviewResponder(waiting.Request, 86400)
	must(t, err)
	made, err := root.Sign(ctx, q)
	must(t, err)
	_, err = p.CA.ImportResponder(ctx, apptest.Operator(), made.DER)
	must(t, err)
	must(t, root.Close())
}
