package ca

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/ceremony/minutes"
	"mooring/wire/der"
)

// Cross is a certificate by which one root vouches for another (RFC 4210, section 4.4).
type Cross struct {
	Subject, Issuer *Issuer // the root that is vouched for, and the one that vouches
	Cert            *x509.Certificate
	created         int64
}

// Shadowed reports whether the certificate comes after the self-signed one of the same root in a sorted set; see ComesFirst.
func (c *Cross) Shadowed() bool { return !ComesFirst(c.Cert.Raw, c.Subject.cert.Raw) }

// valid reports whether the certificate is valid at a Unix second.
func (c *Cross) valid(now int64) bool {
	return c.Cert.NotBefore.Unix() <= now && now <= c.Cert.NotAfter.Unix()
}

// Cross has two roots vouch for each other, as far as their keys are here: NewWithOld and OldWithNew. What only an offline root can sign is left
// out; with nothing left it is Unavailable. It needs the permission ca.manage.
func (a *Authority) Cross(ctx context.Context, actor access.Actor, older, newer string) ([]*Cross, error) {
	if err := a.deps.Access.Require(ctx, actor, access.CAManage, "ca "+newer); err != nil {
		return nil, err
	}
	old, err := a.Issuer(older)
	if err != nil {
		return nil, err
	}
	next, err := a.Issuer(newer)
	if err != nil {
		return nil, err
	}
	var made []*Cross
	for _, pair := range [][2]*Issuer{{old, next}, {next, old}} {
		by, of := pair[0], pair[1]
		if by.Offline() {
			continue
		}
		c, err := a.vouch(ctx, by, of)
		if err != nil {
			return nil, err
		}
		made = append(made, c)
	}
	if len(made) == 0 {
		return nil, errs.New(errs.Unavailable, "the keys of both roots are elsewhere: have the cross certificates signed there (mooring ca root cross …) and import them")
	}
	return made, a.recordCrosses(ctx, actor, made)
}

func (a *Authority) vouch(ctx context.Context, by, of *Issuer) (*Cross, error) {
	now := a.deps.Now().Unix()
	if c := a.crossOf(of.id, by.id, now); c != nil {
		return nil, errs.New(errs.Conflict, "the root %q vouches for %q already, until %s", by.name, of.name, c.Cert.NotAfter.UTC().Format("2006-01-02"))
	}
	spec, err := NewCross(by.cert, of.cert, now)
	if err != nil {
		return nil, err
	}
	signer, err := a.signer(ctx, by)
	if err != nil {
		return nil, err
	}
	raw, err := Certify(signer, a.deps.Rand, now, spec)
	if err != nil {
		return nil, fmt.Errorf("making the cross certificate of %q for %q: %w", by.name, of.name, err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		return nil, fmt.Errorf("reading the cross certificate of %q for %q: %w", by.name, of.name, err)
	}
	return &Cross{of, by, cert, now}, nil
}

// crossOf returns the certificate, valid now and not revoked, by which one root vouches for another, or nil.
func (a *Authority) crossOf(subject, issuer IssuerID, now int64) *Cross {
	for _, c := range a.crosses() {
		if c.Subject.id == subject && c.Issuer.id == issuer && c.valid(now) && !a.CrossBarred(c) {
			return c
		}
	}
	return nil
}

// ImportCross takes a cross certificate that an offline root signed, or somebody else's. Both roots must be known here. It needs the permission
// ca.manage.
func (a *Authority) ImportCross(ctx context.Context, actor access.Actor, raw []byte) (*Cross, error) {
	if err := a.deps.Access.Require(ctx, actor, access.CAManage, "ca"); err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		return nil, errs.New(errs.Invalid, "the certificate cannot be read: %v", err)
	}
	now := a.deps.Now().Unix()
	c, err := a.readCross(cert, now)
	if err != nil {
		return nil, errs.New(errs.Invalid, "this is no cross certificate of roots that are known here: %v", err)
	}
	switch {
	case c.Subject == c.Issuer:
		return nil, errs.New(errs.Invalid, "this is the self-signed certificate of %q and no cross certificate", c.Subject.name)
	case c.Subject.parent != nil || c.Issuer.parent != nil:
		return nil, errs.New(errs.Invalid, "%q and %q must both be roots", c.Subject.name, c.Issuer.name)
	case !c.valid(now):
		return nil, errs.New(errs.Invalid, "the cross certificate is not valid now")
	case !cert.BasicConstraintsValid || !cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, errs.New(errs.Invalid, "the certificate is not that of a CA")
	case a.crossOf(c.Subject.id, c.Issuer.id, now) != nil:
		return nil, errs.New(errs.Conflict, "the root %q vouches for %q already", c.Issuer.name, c.Subject.name)
	}
	return c, a.recordCrosses(ctx, actor, []*Cross{c})
}

// readCross finds the two roots of a certificate and checks the signature.
func (a *Authority) readCross(cert *x509.Certificate, created int64) (*Cross, error) {
	of := a.issuer(IDOf(cert))
	if of == nil {
		return nil, fmt.Errorf("no root with the name %s and this key is known", cert.Subject)
	}
	by := a.above(cert)
	if by == nil {
		return nil, fmt.Errorf("no CA here with the name %s signed it", cert.Issuer)
	}
	if err := minutes.CheckRoot(of.cert); err != nil {
		return nil, err
	}
	return &Cross{of, by, cert, created}, nil
}

const insertCross = `INSERT INTO ca_cross (cell, subject, issuer, der, created) VALUES (0, $1, $2, $3, $4)`

func (a *Authority) recordCrosses(ctx context.Context, actor access.Actor, made []*Cross) error {
	err := a.deps.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		for _, c := range made {
			r := c.row()
			if _, err := tx.Exec(ctx, insertCross, r.subject, r.issuer, r.der, r.created); err != nil {
				return err
			}
			e := audit.Entry{At: c.created, Action: "ca.cross", Actor: actor.String(), Object: c.Subject.name, Detail: r.detail()}
			if err := a.deps.Audit.Append(ctx, tx, e); err != nil {
				return err
			}
		}
		return nil
	})
	if db.IsConflict(err) {
		return errs.New(errs.Conflict, "these roots were made to vouch for each other a moment ago")
	}
	if err != nil {
		return fmt.Errorf("recording a cross certificate: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.crossed = joined(a.crossed, made, rawCross)
	return nil
}

// crossRow is a row of ca_cross.
type crossRow struct {
	subject, issuer, der []byte
	created              int64
}

func (c *Cross) row() crossRow {
	return crossRow{c.Subject.id[:], c.Issuer.id[:], c.Cert.Raw, c.created}
}

// detail is what the audit entry says about the row, all of it.
func (r crossRow) detail() map[string]string {
	sum := sha256.Sum256(r.der)
	return map[string]string{"subject": hex.EncodeToString(r.subject), "issuer": hex.EncodeToString(r.issuer), "created": strconv.FormatInt(r.created, 10),
		"sha256": hex.EncodeToString(sum[:])}
}

func readCrosses(ctx context.Context, tx *db.Tx, fn func(crossRow) error) error {
	return tx.Each(ctx, func(row db.Row) error {
		var r crossRow
		if err := row.Scan(&r.subject, &r.issuer, &r.der, &r.created); err != nil {
			return err
		}
		return fn(r)
	}, `SELECT subject, issuer, der, created FROM ca_cross WHERE cell = 0 ORDER BY created, subject, issuer`)
}

// loadCrosses reads the cross certificates, after the CAs. A row that does not fit is left out: a verification of the record names it.
func (a *Authority) loadCrosses(ctx context.Context) error {
	var all []*Cross
	err := a.deps.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		all = nil
		return readCrosses(ctx, tx, func(r crossRow) error {
			cert, err := x509.ParseCertificate(r.der)
			if err != nil {
				return nil
			}
			if c, err := a.readCross(cert, r.created); err == nil && bytes.Equal(c.Subject.id[:], r.subject) && bytes.Equal(c.Issuer.id[:], r.issuer) {
				all = append(all, c)
			}
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("reading the cross certificates: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.crossed = joined(all, a.crossed, rawCross)
	return nil
}

func rawCross(c *Cross) []byte { return c.Cert.Raw }

// joined returns list with what of more is not in it, told apart by certificates. Nothing is ever taken away from those that are recorded, and what is recorded
// may be read from the database at the same time, just before or just after.
func joined[E any](list, more []E, raw func(E) []byte) []E {
	list = slices.Clip(list)
	for _, m := range more {
		if !slices.ContainsFunc(list, func(e E) bool { return bytes.Equal(raw(e), raw(m)) }) {
			list = append(list, m)
		}
	}
	return list
}

// crosses returns all cross certificates. The slice never changes.
func (a *Authority) crosses() []*Cross {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.crossed
}

// Crosses returns the cross certificates that are valid now and neither revoked nor on hold: those that are announced and sent along.
func (a *Authority) Crosses() []*Cross {
	return slices.DeleteFunc(a.AllCrosses(), a.CrossBarred)
}

// AllCrosses returns the cross certificates that have not ended.
func (a *Authority) AllCrosses() []*Cross {
	now := a.deps.Now().Unix()
	var valid []*Cross
	for _, c := range a.crosses() {
		if c.valid(now) {
			valid = append(valid, c)
		}
	}
	return valid
}

// BarCross says whether a cross certificate is revoked or on hold. Package revoke tells it, as it does of CAs, see Bar.
func (a *Authority) BarCross(c *Cross, barred bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	next := map[string]bool{}
	if was := a.crossBars.Load(); was != nil {
		next = maps.Clone(*was)
	}
	delete(next, string(c.Cert.Raw))
	if barred {
		next[string(c.Cert.Raw)] = true
	}
	a.crossBars.Store(&next)
}

// CrossBarred reports whether the certificate is revoked or on hold.
func (a *Authority) CrossBarred(c *Cross) bool {
	barred := a.crossBars.Load()
	return barred != nil && (*barred)[string(c.Cert.Raw)]
}

// CrossOf returns the cross certificate with the serial number, with or without the zeros of CrossSerial before it, or nil.
func (a *Authority) CrossOf(serial []byte) *Cross {
	for _, c := range a.crosses() {
		if bytes.Equal(c.Cert.SerialNumber.Bytes(), ShownSerial(serial)) {
			return c
		}
	}
	return nil
}

// CrossSerial returns how the serial number of a cross certificate that was made here, 8 octets, stands among those of all other certificates,
// which have 16: with zeros before it, which no other one begins with. Else ok is false.
func CrossSerial(serial []byte) (among [16]byte, ok bool) {
	serial = ShownSerial(serial)
	if len(serial) != crossSerial || serial[0]&0xf8 != 0x40 {
		return among, false
	}
	copy(among[len(among)-crossSerial:], serial)
	return among, true
}

// ShownSerial takes these zeros away, so that the serial number is as the certificate has it.
func ShownSerial(serial []byte) []byte {
	if len(serial) == 16 && serial[0] == 0 {
		return bytes.TrimLeft(serial, "\x00")
	}
	return serial
}

// Certificate returns the certificate in the form of all others; nil when its serial number is not one of those that are made here.
func (c *Cross) Certificate() *Certificate {
	serial, ok := CrossSerial(c.Cert.SerialNumber.Bytes())
	if !ok {
		return nil
	}
	return &Certificate{Serial: serial, Issuer: c.Issuer.id, NotBefore: c.Cert.NotBefore.Unix(), NotAfter: c.Cert.NotAfter.Unix(),
		SPKIHash: der.HashSPKI(c.Cert.RawSubjectPublicKeyInfo), DER: c.Cert.Raw}
}

// Ladder returns the certificates, in DER, that the holder of a certificate by i sends along, so that whoever trusts i's root or one that vouches
// for it finds the way: i and the CAs above it but for the root, then the cross certificates for the root. Never the root itself: verifiers that
// do not trust it and take the first certificate that fits would stop at it.
func (a *Authority) Ladder(i *Issuer) [][]byte {
	var chain [][]byte
	for ; i.parent != nil; i = i.parent {
		chain = append(chain, i.cert.Raw)
	}
	for _, c := range a.Crosses() {
		if c.Subject.id == i.id {
			chain = append(chain, c.Cert.Raw)
		}
	}
	return chain
}

// Successors returns the roots for which an older root vouches now: the generations that a fleet has to come to trust.
func (a *Authority) Successors() []*Issuer {
	var all []*Issuer
	for _, c := range a.Crosses() {
		if c.Issuer.cert.NotBefore.Before(c.Subject.cert.NotBefore) && !slices.Contains(all, c.Subject) {
			all = append(all, c.Subject)
		}
	}
	return all
}
