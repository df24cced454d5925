package ca

import (
	"context"
	"crypto"
	"fmt"

	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/key"
)

// placer is a custody that has several places for keys; key.Meter is one.
type placer interface {
	GenerateIn(ctx context.Context, place key.Place, alg key.Algorithm, label string) (key.ID, crypto.PublicKey, error)
}

// limiter is a custody that limits the use of keys; key.Meter is one.
type limiter interface {
	SetLimit(ctx context.Context, actor access.Actor, id key.ID, l key.Limit) error
}

// makeKey makes the key of a new CA where the specification wants it. A limit is set before the key signs anything, the CA's own certificate included.
func (a *Authority) makeKey(ctx context.Context, actor access.Actor, s Spec) (id key.ID, pub crypto.PublicKey, err error) {
	places, several := a.deps.Keys.(placer)
	switch {
	case s.Custody == "":
		id, pub, err = a.deps.Keys.Generate(ctx, s.Algorithm, "ca "+s.Name)
	case several:
		id, pub, err = places.GenerateIn(ctx, s.Custody, s.Algorithm, "ca "+s.Name)
	default:
		err = errs.New(errs.Invalid, "there is no choice of custodies here")
	}
	if err == nil && s.Limit != (key.Limit{}) {
		err = a.limit(ctx, actor, id, s.Limit)
	}
	if err != nil {
		return "", nil, fmt.Errorf("making the key of CA %q: %w", s.Name, err)
	}
	return id, pub, nil
}

// SetLimit bounds how often and how long the key of a CA may sign certificates; the zero Limit lifts the bound. It needs the permission ca.manage.
func (a *Authority) SetLimit(ctx context.Context, actor access.Actor, nameOrID string, l key.Limit) error {
	if err := a.deps.Access.Require(ctx, actor, access.CAManage, "ca "+nameOrID); err != nil {
		return err
	}
	i, err := a.Issuer(nameOrID)
	if err != nil {
		return err
	}
	if i.Offline() {
		return i.errOffline()
	}
	return a.limit(ctx, actor, i.key, l)
}

func (a *Authority) limit(ctx context.Context, actor access.Actor, id key.ID, l key.Limit) error {
	if keys, ok := a.deps.Keys.(limiter); ok {
		return keys.SetLimit(ctx, actor, id, l)
	}
	return errs.New(errs.Invalid, "the use of keys cannot be limited here")
}

// statusSigner fetches the CA's key for what must go on when no certificate may be signed any more.
func (a *Authority) statusSigner(ctx context.Context, i *Issuer) (crypto.Signer, error) {
	if a.deps.StatusKeys == nil {
		return a.signer(ctx, i)
	}
	if i.Offline() {
		return nil, i.errOffline()
	}
	return fetch(ctx, a.deps.StatusKeys, i)
}

// fetch gets the CA's key from a custody.
func fetch(ctx context.Context, keys key.Custody, i *Issuer) (crypto.Signer, error) {
	signer, err := keys.Signer(ctx, i.key)
	if err != nil {
		if errs.Is(err, errs.Unavailable) || errs.Is(err, errs.Denied) { // the custody's own text names files and tokens
			err = errs.Wrap(errs.Unavailable, err, "the CA cannot sign at present: its key is not to be had; an administrator must look at the key store")
		}
		return nil, fmt.Errorf("fetching the key of CA %q: %w", i.name, err)
	}
	return signer, nil
}
