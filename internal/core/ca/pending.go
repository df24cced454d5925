package ca

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/key"
	"mooring/wire/der"
)

// Pending is a CA, or an OCSP responder (see RequestResponder), that has a key here and waits for its certificate, which an offline root or
// somebody else signs.
type Pending struct {
	Name    string
	Key     key.ID
	Shards  int
	Request []byte // PKCS#10, DER
	Created int64
}

// Digest returns the SHA-256 of the public key, which is compared when the request is signed.
func (p *Pending) Digest() ([32]byte, error) {
	r, err := der.ParseRequest(p.Request)
	if err != nil {
		return [32]byte{}, fmt.Errorf("reading the request of CA %q: %w", p.Name, err)
	}
	return r.HashSPKI(), nil
}

// Request makes the key of a CA and the request for its certificate, to be signed elsewhere. Parent, Validity and Forever of s are not used:
// whoever signs decides. It needs the permission ca.manage.
func (a *Authority) Request(ctx context.Context, actor access.Actor, s Spec) (*Pending, error) {
	if err := a.deps.Access.Require(ctx, actor, access.CAManage, "ca "+s.Name); err != nil {
		return nil, err
	}
	s.Parent, s.Forever = "", true
	if _, err := a.checkSpec(&s); err != nil {
		return nil, err
	}
	switch _, err := a.pending(ctx, s.Name); {
	case err == nil:
		return nil, errs.New(errs.Conflict, "there already is a request for a CA %q: import its certificate, or withdraw the request", s.Name)
	case !errs.Is(err, errs.NotFound):
		return nil, err
	}
	id, _, err := a.makeKey(ctx, actor, s)
	if err != nil {
		return nil, err
	}
	signer, err := a.deps.Keys.Signer(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("fetching the key of CA %q: %w", s.Name, err)
	}
	csr, err := caRequest(signer, s)
	if err != nil {
		return nil, fmt.Errorf("making the request of CA %q: %w", s.Name, err)
	}
	p := &Pending{Name: s.Name, Key: id, Shards: s.Shards, Request: csr, Created: a.deps.Now().Unix()}
	return p, a.recordPending(ctx, actor, p)
}

// caRequest makes the request (RFC 2986) for what extensions of CACertificate would say.
func caRequest(signer crypto.Signer, s Spec) ([]byte, error) {
	spki, err := der.EncodePublicKey(signer.Public())
	if err != nil {
		return nil, err
	}
	wanted := CACertificate{PathLen: s.PathLen}
	return signRequest(signer, der.RequestSpec{Subject: s.Subject, SPKI: spki, Extensions: wanted.extensions(nil)[:2]})
}

// signRequest makes a request (RFC 2986) for signer's key.
func signRequest(signer crypto.Signer, s der.RequestSpec) ([]byte, error) {
	algorithm, err := der.AlgorithmFor(signer.Public())
	if err != nil {
		return nil, err
	}
	info, err := der.AppendRequestInfo(nil, s)
	if err != nil {
		return nil, errs.New(errs.Invalid, "the subject cannot be written: %v", err)
	}
	signature, err := signer.Sign(nonces(signer.Public()), algorithm.Digest(info), algorithm.Hash())
	if err != nil {
		return nil, err
	}
	return der.Wrap(nil, info, algorithm, signature), nil
}

func (a *Authority) recordPending(ctx context.Context, actor access.Actor, p *Pending) error {
	err := a.deps.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO ca_pending (cell, name, key, shards, request, created) VALUES (0, $1, $2, $3, $4, $5)`,
			p.Name, string(p.Key), int64(p.Shards), p.Request, p.Created); err != nil {
			return err
		}
		return a.deps.Audit.Append(ctx, tx, audit.Entry{At: p.Created, Action: "ca.request", Actor: actor.String(), Object: p.Name, Detail: p.detail()})
	})
	if db.IsConflict(err) {
		return errs.New(errs.Conflict, "there already is a request for a CA %q", p.Name)
	}
	if err != nil {
		return fmt.Errorf("recording the request of CA %q: %w", p.Name, err)
	}
	return nil
}

// detail is what the audit entry says about the row, all of it.
func (p *Pending) detail() map[string]string {
	sum := sha256.Sum256(p.Request)
	return map[string]string{"key": string(p.Key), "shards": strconv.Itoa(p.Shards), "created": strconv.FormatInt(p.Created, 10), "sha256": hex.EncodeToString(sum[:])}
}

func readPending(ctx context.Context, tx *db.Tx, fn func(*Pending) error) error {
	return tx.Each(ctx, func(row db.Row) error {
		var p Pending
		if err := row.Scan(&p.Name, (*string)(&p.Key), &p.Shards, &p.Request, &p.Created); err != nil {
			return err
		}
		return fn(&p)
	}, `SELECT name, key, shards, request, created FROM ca_pending WHERE cell = 0 ORDER BY name`)
}

// Requests returns the CAs that wait for their certificates. It needs the permission ca.read.
func (a *Authority) Requests(ctx context.Context, actor access.Actor) (all []*Pending, err error) {
	if err := a.deps.Access.Require(ctx, actor, access.CARead, "ca"); err != nil {
		return nil, err
	}
	err = a.deps.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		all = nil
		return readPending(ctx, tx, func(p *Pending) error { all = append(all, p); return nil })
	})
	if err != nil {
		return nil, fmt.Errorf("reading the requests of CAs: %w", err)
	}
	return all, nil
}

func (a *Authority) pending(ctx context.Context, name string) (found *Pending, err error) {
	err = a.deps.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		found = nil
		return readPending(ctx, tx, func(p *Pending) error {
			if p.Name == name {
				found = p
			}
			return nil
		})
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the requests of CAs: %w", err)
	case found == nil:
		return nil, errs.New(errs.NotFound, "no CA %q waits for a certificate", name)
	}
	return found, nil
}

// Withdraw gives a request up. Its key stays in the custody, which deletes none, and is of no more use. It needs the permission ca.manage.
func (a *Authority) Withdraw(ctx context.Context, actor access.Actor, name string) error {
	if err := a.deps.Access.Require(ctx, actor, access.CAManage, "ca "+name); err != nil {
		return err
	}
	p, err := a.pending(ctx, name)
	if err != nil {
		return err
	}
	err = a.deps.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if err := takePending(ctx, tx, p); err != nil {
			return err
		}
		return a.deps.Audit.Append(ctx, tx, audit.Entry{At: a.deps.Now().Unix(), Action: "ca.withdraw", Actor: actor.String(), Object: name})
	})
	if err != nil {
		return fmt.Errorf("withdrawing the request of CA %q: %w", name, err)
	}
	return nil
}

// takePending removes the row, unless somebody was faster.
func takePending(ctx context.Context, tx *db.Tx, p *Pending) error {
	n, err := tx.Exec(ctx, `DELETE FROM ca_pending WHERE cell = 0 AND name = $1 AND key = $2`, p.Name, string(p.Key))
	if err == nil && n != 1 {
		err = errs.New(errs.Conflict, "the request of CA %q was imported or withdrawn a moment ago", p.Name)
	}
	return err
}
