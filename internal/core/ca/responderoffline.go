package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/key"
	"mooring/wire/der"
)

// Responder is an OCSP responder that a CA whose key is not here certified; its own key is here (RFC 6960, section 4.2.2.2).
type Responder struct {
	Issuer *Issuer
	Cert   *x509.Certificate
	key    key.ID
	algo   der.SignatureAlgorithm
	made   int64
}

// Key returns where the custody keeps the responder's key.
func (r *Responder) Key() key.ID { return r.key }

// Algorithm returns how the responder signs.
func (r *Responder) Algorithm() der.SignatureAlgorithm { return r.algo }

// valid reports whether the certificate is valid at a Unix second.
func (r *Responder) valid(now int64) bool {
	return r.Cert.NotBefore.Unix() <= now && now <= r.Cert.NotAfter.Unix()
}

// waitingResponder begins the names under which requests for certificates of responders wait among those of CAs, whose names have no colon.
const waitingResponder = "ocsp:"

// NewResponder says what the key of a responder is to be. What is empty is chosen.
type NewResponder struct {
	CA        string // name or id
	Algorithm key.Algorithm
	Custody   key.Place
}

// RequestResponder makes the key of an OCSP responder for a CA whose key is not here, and the request for its certificate. The request waits as
// those of CAs do: see Requests and Withdraw. It needs the permission ca.manage.
func (a *Authority) RequestResponder(ctx context.Context, actor access.Actor, n NewResponder) (*Pending, error) {
	if err := a.deps.Access.Require(ctx, actor, access.CAManage, "ca "+n.CA); err != nil {
		return nil, err
	}
	i, err := a.Issuer(n.CA)
	if err != nil {
		return nil, err
	}
	if !i.Offline() {
		return nil, errs.New(errs.Conflict, "the key of CA %q is here: with ocsp.responder it certifies its responders by itself", i.name)
	}
	name := waitingResponder + i.name
	switch _, err := a.pending(ctx, name); {
	case err == nil:
		return nil, errs.New(errs.Conflict, "there already is a request for a responder of %q: import its certificate, or withdraw the request (mooring ca withdraw %s)", i.name, name)
	case !errs.Is(err, errs.NotFound):
		return nil, err
	}
	if n.Algorithm == "" {
		n.Algorithm = i.ResponderAlgorithm()
	}
	id, pub, err := a.makeKey(ctx, actor, Spec{Name: name, Algorithm: n.Algorithm, Custody: n.Custody})
	if err != nil {
		return nil, err
	}
	csr, err := a.responderRequest(ctx, i, id, pub)
	if err != nil {
		return nil, fmt.Errorf("making the request of a responder of CA %q: %w", i.name, err)
	}
	p := &Pending{Name: name, Key: id, Request: csr, Created: a.deps.Now().Unix()}
	return p, a.recordPending(ctx, actor, p)
}

// ResponderAlgorithm is what keys of the CA's OCSP responders are made for: P-256, or the CA's own where that withstands quantum computers, which is then wanted of answers, too.
func (i *Issuer) ResponderAlgorithm() key.Algorithm {
	if a, ok := key.AlgorithmOf(i.PublicKey()); ok && (a == key.MLDSA44 || a == key.MLDSA65) {
		return a
	}
	return key.P256
}

func (a *Authority) responderRequest(ctx context.Context, i *Issuer, id key.ID, pub crypto.PublicKey) ([]byte, error) {
	spki, err := der.EncodePublicKey(pub)
	if err != nil {
		return nil, err
	}
	v, err := responderVariable(i, spki)
	if err != nil {
		return nil, err
	}
	signer, err := a.deps.Keys.Signer(ctx, id)
	if err != nil {
		return nil, err
	}
	return signRequest(signer, der.RequestSpec{RawSubject: v.Subject, SPKI: spki,
		Extensions: []der.Extension{der.NewKeyUsage(der.DigitalSignature), der.NewExtKeyUsage(der.OIDOCSPSigning)}})
}

// ReadResponderRequest reads a certification request (PKCS#10, DER) for the certificate of an OCSP responder of the CA parent, checks everything that it
// says, and proves possession of the key. As with CAs, what cannot be granted is refused, in words for the people of a ceremony.
func ReadResponderRequest(csr []byte, parent *x509.Certificate) (*der.Request, error) {
	r, err := readSignedRequest(csr)
	if err != nil {
		return nil, err
	}
	rules := RequestRules{Parent: parent}
	switch others := foreignExtension(r, der.OIDBasicConstraints, der.OIDKeyUsage, der.OIDExtKeyUsage, der.OIDSubjectKeyID, der.OIDOCSPNoCheck); {
	case r.Names.Count() > 0:
		return nil, errs.New(errs.Invalid, "the request asks for alternative names, and a responder has none")
	case r.CA:
		return nil, errs.New(errs.Invalid, "the request is for a CA and not for an OCSP responder: sign it with mooring ca root sign")
	case !slices.Equal(r.ExtKeyUsage, []der.OID{der.OIDOCSPSigning}):
		return nil, errs.New(errs.Invalid, "the request is not for an OCSP responder: it must ask for the purpose OCSPSigning alone, as \"mooring ca request-responder\" does")
	case r.KeyUsage&^der.DigitalSignature != 0:
		return nil, errs.New(errs.Invalid, "the request asks for key usages that a responder has no business with: only digitalSignature is for it")
	case others != "":
		return nil, errs.New(errs.Invalid, "the request asks for the extension %s, which this root does not give to responders: make a request without it", others)
	}
	return r, rules.checkSubject(r)
}

// ResponderCertificate is what the certificate of an OCSP responder is to say.
type ResponderCertificate struct {
	Subject             []byte // DER Name
	SPKI                []byte // SubjectPublicKeyInfo, DER
	NotBefore, NotAfter int64  // Unix seconds, inclusive
	Issuer              *x509.Certificate
}

// CertifyResponder builds, signs and checks the certificate of an OCSP responder: the same extensions as PrepareResponder gives. Signer is the key of
// the issuer.
func CertifyResponder(signer crypto.Signer, random io.Reader, now int64, c ResponderCertificate) ([]byte, error) {
	algorithm, err := der.AlgorithmFor(signer.Public())
	if err != nil {
		return nil, err
	}
	t, err := der.NewTemplate(der.TemplateSpec{Algorithm: algorithm, Issuer: c.Issuer.RawSubject, Extensions: responderExtensions(c.Issuer)})
	if err != nil {
		return nil, err
	}
	ski, err := der.SubjectKeyID(c.SPKI)
	if err != nil {
		return nil, fmt.Errorf("reading the key: %w", err)
	}
	serial, err := newSerial(classLong, now, 0, random)
	if err != nil {
		return nil, err
	}
	tbs, err := t.AppendTBS(nil, der.Variable{Serial: serial[:], NotBefore: c.NotBefore, NotAfter: c.NotAfter, Subject: c.Subject, SPKI: c.SPKI, SKI: ski[:]})
	if err != nil {
		return nil, err
	}
	raw, err := seal(signer, algorithm, tbs)
	if err != nil {
		return nil, err
	}
	return raw, verifySealed(raw, signer.Public(), algorithm)
}

// responderExtensions are those of a responder's certificate besides the identifier of its key.
func responderExtensions(issuer *x509.Certificate) []der.Extension {
	return []der.Extension{der.NewAuthorityKeyID(issuer.SubjectKeyId), der.NewKeyUsage(der.DigitalSignature), der.NewExtKeyUsage(der.OIDOCSPSigning), der.NewOCSPNoCheck()}
}

// ImportResponder takes the certificate of a responder that waits, which the CA signed elsewhere, and puts it to use. It needs the permission
// ca.manage.
func (a *Authority) ImportResponder(ctx context.Context, actor access.Actor, raw []byte) (*Responder, error) {
	if err := a.deps.Access.Require(ctx, actor, access.CAManage, "ca"); err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		return nil, errs.New(errs.Invalid, "the certificate cannot be read: %v", err)
	}
	i := a.above(cert)
	if i == nil {
		return nil, errs.New(errs.Invalid, "no CA that is known here with the name %s signed the certificate", cert.Issuer)
	}
	waiting, err := a.pending(ctx, waitingResponder+i.name)
	if errs.Is(err, errs.NotFound) {
		return nil, errs.New(errs.Conflict, "no responder of %q waits for a certificate: make a request first (mooring ca request-responder %s)", i.name, i.name)
	}
	if err != nil {
		return nil, err
	}
	request, err := der.ParseRequest(waiting.Request)
	if err != nil {
		return nil, fmt.Errorf("reading the request of a responder of CA %q: %w", i.name, err)
	}
	if !bytes.Equal(cert.RawSubjectPublicKeyInfo, request.RawSPKI) {
		return nil, errs.New(errs.Invalid, "the certificate is not for the key that waits, whose SHA-256 is %x: is it the answer to another request?", request.HashSPKI())
	}
	now := a.deps.Now().Unix()
	if err := checkResponder(cert, i, now); err != nil {
		return nil, err
	}
	r, err := readResponder(i, waiting.Key, cert, now)
	if err != nil {
		return nil, err
	}
	return r, a.recordResponder(ctx, actor, r, waiting)
}

// checkResponder looks at what verifiers of answers demand (RFC 6960, section 4.2.2.2).
func checkResponder(cert *x509.Certificate, i *Issuer, now int64) error {
	switch {
	case cert.IsCA:
		return errs.New(errs.Invalid, "the certificate is that of a CA: import it with mooring ca import")
	case !slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning):
		return errs.New(errs.Invalid, "the certificate is not for a responder: it does not have the purpose OCSPSigning")
	case cert.KeyUsage != 0 && cert.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return errs.New(errs.Invalid, "the certificate does not permit signatures: keyUsage must have digitalSignature")
	case !hasExtension(cert, der.OIDOCSPNoCheck):
		return errs.New(errs.Invalid, "the certificate has no ocsp-nocheck, so whoever verifies an answer would ask whether its signer is revoked, and nobody could tell: ask for one with it")
	case len(cert.UnhandledCriticalExtensions) > 0:
		return errs.New(errs.Invalid, "the certificate has critical extensions that are not understood here: %v", cert.UnhandledCriticalExtensions)
	case len(cert.AuthorityKeyId) > 0 && !bytes.Equal(cert.AuthorityKeyId, i.cert.SubjectKeyId):
		return errs.New(errs.Invalid, "the certificate names another key of its issuer than that of %q", i.name)
	case now < cert.NotBefore.Unix():
		return errs.New(errs.Invalid, "the certificate is not valid before %s: check the clocks", cert.NotBefore.UTC().Format("2006-01-02 15:04:05Z"))
	case now > cert.NotAfter.Unix():
		return errs.New(errs.Invalid, "the certificate ended at %s", cert.NotAfter.UTC().Format("2006-01-02 15:04:05Z"))
	}
	return nil
}

func readResponder(i *Issuer, id key.ID, cert *x509.Certificate, made int64) (*Responder, error) {
	pub, err := der.ParsePublicKey(cert.RawSubjectPublicKeyInfo)
	if err != nil {
		return nil, errs.New(errs.Invalid, "the key of the responder cannot be read: %v", err)
	}
	algorithm, err := der.AlgorithmFor(pub)
	if err != nil {
		return nil, errs.New(errs.Invalid, "the responder cannot sign with its key: %v", err)
	}
	return &Responder{Issuer: i, Cert: cert, key: id, algo: algorithm, made: made}, nil
}

func (a *Authority) recordResponder(ctx context.Context, actor access.Actor, r *Responder, waiting *Pending) error {
	err := a.deps.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if err := takePending(ctx, tx, waiting); err != nil {
			return err
		}
		row := r.row()
		if _, err := tx.Exec(ctx, `INSERT INTO ca_responder (cell, issuer, key, der, created) VALUES (0, $1, $2, $3, $4)`, row.issuer, row.key, row.der, row.created); err != nil {
			return err
		}
		return a.deps.Audit.Append(ctx, tx, audit.Entry{At: r.made, Action: "ca.responder", Actor: actor.String(), Object: r.Issuer.name,
			Serial: hex.EncodeToString(r.Cert.SerialNumber.Bytes()), Detail: row.detail()})
	})
	if db.IsConflict(err) {
		return errs.New(errs.Conflict, "the certificate of a responder of %q was imported a moment ago", r.Issuer.name)
	}
	if err != nil {
		return fmt.Errorf("recording a responder of CA %q: %w", r.Issuer.name, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.responders = joined(a.responders, []*Responder{r}, rawResponder)
	return nil
}

// responderRow is a row of ca_responder.
type responderRow struct {
	issuer  []byte
	key     string
	der     []byte
	created int64
}

func (r *Responder) row() responderRow {
	return responderRow{r.Issuer.id[:], string(r.key), r.Cert.Raw, r.made}
}

// detail is what the audit entry says about the row, all of it.
func (r responderRow) detail() map[string]string {
	sum := sha256.Sum256(r.der)
	return map[string]string{"issuer": hex.EncodeToString(r.issuer), "key": r.key, "created": strconv.FormatInt(r.created, 10), "sha256": hex.EncodeToString(sum[:])}
}

func readResponders(ctx context.Context, tx *db.Tx, fn func(responderRow) error) error {
	return tx.Each(ctx, func(row db.Row) error {
		var r responderRow
		if err := row.Scan(&r.issuer, &r.key, &r.der, &r.created); err != nil {
			return err
		}
		return fn(r)
	}, `SELECT issuer, key, der, created FROM ca_responder WHERE cell = 0 ORDER BY created, issuer`)
}

// loadResponders reads the responders, after the CAs. A row that does not fit is left out: a verification of the record names it.
func (a *Authority) loadResponders(ctx context.Context) error {
	var all []*Responder
	err := a.deps.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		all = nil
		return readResponders(ctx, tx, func(row responderRow) error {
			cert, err := x509.ParseCertificate(row.der)
			if err != nil || len(row.issuer) != len(IssuerID{}) {
				return nil
			}
			i := a.issuer(IssuerID(row.issuer))
			if i == nil || i.CheckSignature(cert) != nil {
				return nil
			}
			if r, err := readResponder(i, key.ID(row.key), cert, row.created); err == nil {
				all = append(all, r)
			}
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("reading the responders: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.responders = joined(all, a.responders, rawResponder)
	return nil
}

func rawResponder(r *Responder) []byte { return r.Cert.Raw }

// Responders returns the responders whose certificates have not ended, the oldest first.
func (a *Authority) Responders() []*Responder {
	a.mu.RLock()
	all := a.responders
	a.mu.RUnlock()
	now := a.deps.Now().Unix()
	return slices.DeleteFunc(slices.Clone(all), func(r *Responder) bool { return now > r.Cert.NotAfter.Unix() })
}

// ResponderOf returns the responder that answers for a CA now: of those that are valid and not revoked, the one that ends last; nil when there is
// none.
func (a *Authority) ResponderOf(id IssuerID) (newest *Responder) {
	a.mu.RLock()
	all := a.responders
	a.mu.RUnlock()
	now := a.deps.Now().Unix()
	for _, r := range all {
		if r.Issuer.id == id && r.valid(now) && !a.ResponderBarred(r) && (newest == nil || r.Cert.NotAfter.After(newest.Cert.NotAfter)) {
			newest = r
		}
	}
	return newest
}

// LastResponderOf returns the responder of a CA that ends last, whether it has ended or not; nil when there never was one. One that is revoked does
// not count.
func (a *Authority) LastResponderOf(id IssuerID) (last *Responder) {
	a.mu.RLock()
	all := a.responders
	a.mu.RUnlock()
	for _, r := range all {
		if r.Issuer.id == id && !a.ResponderBarred(r) && (last == nil || r.Cert.NotAfter.After(last.Cert.NotAfter)) {
			last = r
		}
	}
	return last
}

// BarResponder says whether a responder is revoked. Package revoke tells it, as it does of cross certificates.
func (a *Authority) BarResponder(r *Responder, barred bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	next := map[string]bool{}
	if was := a.responderBars.Load(); was != nil {
		next = maps.Clone(*was)
	}
	delete(next, string(r.Cert.Raw))
	if barred {
		next[string(r.Cert.Raw)] = true
	}
	a.responderBars.Store(&next)
}

// ResponderBarred reports whether the responder is revoked.
func (a *Authority) ResponderBarred(r *Responder) bool {
	barred := a.responderBars.Load()
	return barred != nil && (*barred)[string(r.Cert.Raw)]
}
