package agent

import (
	"context"
	"crypto/x509"
	"log/slog"
	"strings"

	"mooring/agent/cmp"
	"mooring/agent/est"
	wire "mooring/wire/est"
)

// byCMP tells whether the server is spoken to by CMP instead of EST: its URL begins with "cmp".
func (a *Agent) byCMP() bool { return strings.HasPrefix(a.config.Server, cmp.Scheme+"://") }

// orderByCMP is order by CMP. The request follows from the key, which is kept until it is certified, so that an order that is made again is the same
// one to the server.
func (a *Agent) orderByCMP(ctx context.Context, roots []*x509.Certificate, proof est.Credential, old *Identity) error {
	kind, err := a.keyKind(new(wire.CSRAttrs), old)
	if err != nil {
		return err
	}
	key, err := a.nextKey(kind, old)
	if err != nil {
		return err
	}
	client, err := cmp.New(cmp.Config{Server: a.config.Server, Label: a.config.Label, Roots: roots, Now: a.options.Now, Sleep: a.options.Sleep, Dial: a.options.Dial})
	if err != nil {
		return err
	}
	order := cmp.Order{Key: key, Subject: a.subject, Names: a.names}
	if old != nil {
		order.Old = old.Certificate()
	}
	by := cmp.Credential{Name: proof.User, Secret: proof.Secret, Certificate: proof.Certificate}
	result, err := client.Order(ctx, by, order)
	if err != nil {
		return err
	}
	believed := roots
	if len(result.Roots) > 0 {
		believed = result.Roots
	}
	bundle := est.Bundle{Roots: believed, Others: result.Others}
	chain, err := bundle.Chain(result.Certificate, a.options.Now())
	if err != nil {
		return err
	}
	if old != nil {
		believed = a.withNextRoots(ctx, client, by, believed)
	}
	if err := writeCertificates(a.folder.path(caFile), union(nil, believed)...); err != nil {
		return err
	}
	if err := a.folder.remove(serverCAFile); err != nil {
		return err
	}
	return a.received(ctx, result.Certificate, chain, old)
}

// withNextRoots adds the roots for which trusted ones vouch. That the server could not be asked is no reason to give up a renewal.
func (a *Agent) withNextRoots(ctx context.Context, client *cmp.Client, by cmp.Credential, roots []*x509.Certificate) []*x509.Certificate {
	all := union(nil, roots)
	for _, root := range roots {
		next, err := client.RootUpdate(ctx, by, root)
		if err != nil {
			a.options.Log.LogAttrs(ctx, slog.LevelWarn, "server does not say which root comes next", slog.String("error", err.Error()))
			return all
		}
		if next != nil {
			all = union(all, []*x509.Certificate{next})
		}
	}
	return all
}
