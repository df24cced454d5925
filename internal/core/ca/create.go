package ca

import (
	"context"
	"crypto/sha256"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/key"
	"mooring/wire/der"
)

// Spec says what a new CA is to be.
type Spec struct {
	Name      string          // unique: small letters, digits, hyphens
	Parent    string          // name of the CA above; "" for a root
	Subject   []der.Attribute // best with O and a CN that names the generation
	Algorithm key.Algorithm
	Validity  int64 // seconds; not used when Forever
	Forever   bool  // no well-defined end, for CAs of birth certificates
	PathLen   int   // how many tiers of CAs may follow below: 0 for one that issues to devices, 1 for a root above such
	// Shards is into how many CRLs its revocations are divided: 0 for one list, or a power of two up to 256. It stands in every certificate,
	// so it cannot be changed later.
	Shards int
	// Custody is where its key is to be kept; "" is where new keys are kept here.
	Custody key.Place
	Limit   key.Limit // on the use of its key
}

// Create makes a CA: a key, its certificate by the parent (or by itself), the row and the audit entry. It needs the permission ca.manage.
// A name that is taken is an error of kind Conflict, one that its parent cannot cover Invalid.
func (a *Authority) Create(ctx context.Context, actor access.Actor, s Spec) (*Issuer, error) {
	if err := a.deps.Access.Require(ctx, actor, access.CAManage, "ca "+s.Name); err != nil {
		return nil, err
	}
	parent, err := a.checkSpec(&s)
	if err != nil {
		return nil, err
	}
	id, pub, err := a.makeKey(ctx, actor, s)
	if err != nil {
		return nil, err
	}
	spki, err := der.EncodePublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("encoding the key of CA %q: %w", s.Name, err)
	}
	raw, err := a.certifyCA(ctx, s, parent, id, spki)
	if err != nil {
		return nil, err
	}
	i, err := newIssuer(s.Name, parent, id, raw, a.deps.Now().Unix())
	if err != nil {
		return nil, err
	}
	i.shards = s.Shards
	if err := a.recordIssuer(ctx, actor, i); err != nil {
		return nil, err
	}
	a.add(i)
	return i, nil
}

func (a *Authority) checkSpec(s *Spec) (parent *Issuer, err error) {
	switch {
	case !plainName.MatchString(s.Name):
		return nil, errs.New(errs.Invalid, "the CA's name %q: use 1 to 32 small letters, digits and hyphens, a letter first", s.Name)
	case len(s.Subject) == 0:
		return nil, errs.New(errs.Invalid, "the CA %q needs a subject, such as O=Acme, CN=Acme Devices G1", s.Name)
	case !s.Forever && (s.Validity < 60 || s.Validity > maxValidity):
		return nil, errs.New(errs.Invalid, "the validity of CA %q must lie between a minute and 100 years, or have no end", s.Name)
	case s.PathLen < 0 || s.PathLen > maxDepth-2:
		return nil, errs.New(errs.Invalid, "the path length of CA %q must lie between 0 and %d", s.Name, maxDepth-2)
	case !shardCount(s.Shards):
		return nil, errs.New(errs.Invalid, "the CA %q cannot have %d CRL shards: use 0 (one list) or a power of two up to %d", s.Name, s.Shards, MostShards)
	case s.Limit.Until > 0 && s.Limit.Until <= a.deps.Now().Unix():
		return nil, errs.New(errs.Invalid, "the key of CA %q is to end at %s, which is past: it could issue nothing", s.Name, time.Unix(s.Limit.Until, 0).UTC().Format("2006-01-02 15:04:05Z"))
	case s.Shards > 0 && s.PathLen > 0:
		return nil, errs.New(errs.Invalid, "the CA %q has CAs below it, and the lists of shards are for end devices only: use 0 CRL shards", s.Name)
	}
	if _, err := a.Issuer(s.Name); err == nil {
		return nil, errs.New(errs.Conflict, "there already is a CA %q", s.Name)
	}
	if same := a.withSubject(s.Subject); same != nil {
		return nil, errs.New(errs.Conflict, "the CA %q has the subject %q already, and verifiers find a CA by its subject: give %q another one, such as with the number of its generation", same.name, same.subject, s.Name)
	}
	if s.Parent == "" {
		return nil, nil
	}
	if parent, err = a.Issuer(s.Parent); err != nil {
		return nil, err
	}
	if parent.Offline() {
		return nil, parent.errOffline()
	}
	if parent.cert.MaxPathLen == 0 {
		top := parent
		for top.parent != nil {
			top = top.parent
		}
		return nil, errs.New(errs.Invalid, "the CA %q issues to devices only and no CA can be below it (its path length is 0): choose another parent for %q, such as %q", parent.name, s.Name, top.name)
	}
	if parent.cert.MaxPathLen <= s.PathLen && parent.cert.MaxPathLen >= 0 {
		return nil, errs.New(errs.Invalid, "the CA %q permits %d tiers of CAs below it, so %q cannot permit %d", parent.name, parent.cert.MaxPathLen, s.Name, s.PathLen)
	}
	return parent, nil
}

// withSubject returns a CA whose subject reads like this one, or nil.
func (a *Authority) withSubject(subject []der.Attribute) *Issuer {
	text, err := subjectText(subject)
	if err != nil {
		return nil // what is to be made of it says so
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	for _, i := range a.byID {
		if i.subject == text {
			return i
		}
	}
	return nil
}

// subjectText is a name as people read it, whatever order and types its parts have.
func subjectText(subject []der.Attribute) (string, error) {
	raw, err := der.BuildName(subject)
	if err != nil {
		return "", err
	}
	var parts pkix.RDNSequence
	if _, err := asn1.Unmarshal(raw, &parts); err != nil {
		return "", err
	}
	var name pkix.Name
	name.FillFromRDNSequence(&parts)
	return name.String(), nil
}

// certifyCA makes the certificate of a CA.
func (a *Authority) certifyCA(ctx context.Context, s Spec, parent *Issuer, id key.ID, spki []byte) ([]byte, error) {
	subject, err := der.BuildName(s.Subject)
	if err != nil {
		return nil, errs.New(errs.Invalid, "the subject of CA %q cannot be written: %v", s.Name, err)
	}
	now := a.deps.Now().Unix()
	c := CACertificate{Subject: subject, SPKI: spki, NotBefore: now - defaultBackdate, NotAfter: now - defaultBackdate + s.Validity - 1, PathLen: s.PathLen}
	if s.Forever {
		c.NotAfter = der.NoExpiry
	}
	signingKey := id
	if parent != nil {
		signingKey, c.Issuer, c.CRL, c.CAIssuers = parent.key, parent.cert, a.deps.URLs.crl(parent.id), a.deps.URLs.caIssuers(parent.id)
		c.NotBefore = max(c.NotBefore, parent.cert.NotBefore.Unix())
		if err := parent.covers(c.NotBefore, c.NotAfter); err != nil {
			return nil, errs.Wrap(errs.Invalid, err, "the CA %q would outlive its parent %q, which ends at %s", s.Name, parent.name,
				parent.cert.NotAfter.UTC().Format("2006-01-02"))
		}
	}
	signer, err := a.deps.Keys.Signer(ctx, signingKey)
	if err != nil {
		return nil, fmt.Errorf("fetching the key to sign CA %q: %w", s.Name, err)
	}
	raw, err := Certify(signer, a.deps.Rand, now, c)
	if err != nil {
		return nil, fmt.Errorf("making the certificate of CA %q: %w", s.Name, err)
	}
	return raw, nil
}

func (a *Authority) recordIssuer(ctx context.Context, actor access.Actor, i *Issuer) error {
	err := a.deps.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		return a.insertIssuer(ctx, tx, audit.Entry{Action: "ca.create", Actor: actor.String()}, i)
	})
	if db.IsConflict(err) {
		return errs.New(errs.Conflict, "there already is a CA %q", i.name)
	}
	if err != nil {
		return fmt.Errorf("recording CA %q: %w", i.name, err)
	}
	return nil
}

// insertIssuer stores a CA with the audit entry of how it came about, which is completed here.
func (a *Authority) insertIssuer(ctx context.Context, tx *db.Tx, e audit.Entry, i *Issuer) error {
	r := i.row()
	if _, err := tx.Exec(ctx, `INSERT INTO ca_issuer (cell, id, name, parent, key, der, created, shards) VALUES (0, $1, $2, $3, $4, $5, $6, $7)`,
		i.id[:], r.name, r.parent, r.key, r.der, r.created, int64(r.shards)); err != nil {
		return err
	}
	e.At, e.Object, e.Detail = r.created, r.name, r.detail()
	return a.deps.Audit.Append(ctx, tx, e)
}

// issuerRow is a row of ca_issuer.
type issuerRow struct {
	id      []byte
	name    string
	parent  []byte // empty for a root
	key     string
	der     []byte
	created int64
	shards  int
}

func (i *Issuer) row() issuerRow {
	r := issuerRow{id: i.id[:], name: i.name, parent: []byte{}, key: string(i.key), der: i.chain[0], created: i.created, shards: i.shards}
	if i.parent != nil {
		r.parent = i.parent.id[:]
	}
	return r
}

// detail is what the audit entry says about the row, all of it, so that a changed row is found.
func (r issuerRow) detail() map[string]string {
	sum := sha256.Sum256(r.der)
	d := map[string]string{"id": hex.EncodeToString(r.id), "parent": hex.EncodeToString(r.parent), "key": r.key,
		"created": strconv.FormatInt(r.created, 10), "sha256": hex.EncodeToString(sum[:])}
	if r.shards > 0 { // left out otherwise, as in the entries of CAs from before there were shards
		d["shards"] = strconv.Itoa(r.shards)
	}
	return d
}

func readIssuers(ctx context.Context, tx *db.Tx, fn func(issuerRow) error) error {
	return tx.Each(ctx, func(row db.Row) error {
		var r issuerRow
		if err := row.Scan(&r.id, &r.name, &r.parent, &r.key, &r.der, &r.created, &r.shards); err != nil {
			return err
		}
		return fn(r)
	}, `SELECT id, name, parent, key, der, created, shards FROM ca_issuer WHERE cell = 0 ORDER BY created, name`)
}
