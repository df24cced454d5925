// Package ceremony is the offline root: a certification authority that lives in one directory of a machine without network and database, and
// is asked for few signatures over many years. Files go in, files come out, on a stick.
//
//	root, err := ceremony.Create(ctx, dir, custody, spec, deps)   // or Open
//	request, err := root.Review(csr, order)                       // what people read aloud and compare
//	made, err := root.Sign(ctx, request)                          // one certificate, recorded
//
// The directory holds the key (in a custody of package key: an encrypted store in keys/, or a token), record.txt and root.json. The record is
// the state: which CAs were certified and which revoked is read from it and from nowhere else, so that nothing can disagree with it. Each of
// its entries is chained to the one before by SHA-256 and signed by the root's key (package minutes), so that whoever has the root's certificate
// can verify it, the online side first of all, which imports it into its audit record. root.json says how far the record reached, so that one
// that was cut short is noticed, and the number of the last revocation list, which is reserved before the list is signed.
//
// The order is sign, record, release, as everywhere: what a power cut leaves unrecorded was never handed out. Files are replaced whole (write,
// flush, rename, flush the directory).
//
// That the root's key also signs the record is a use that its certificate does not list (keyUsage names certificates and lists). It cannot be
// mistaken for either: what is signed begins with the letter m, and DER with a SEQUENCE. A second key would have to be vouched for by the
// first, and be kept as well.
//
// The package deliberately has no network, no database, no clock of its own, and no say in who may: whoever has the directory and the
// passphrase decides, with witnesses.
package ceremony

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/internal/core/ceremony/minutes"
	"mooring/internal/core/key"
	"mooring/wire/der"
)

// Deps are what a root is used with.
type Deps struct {
	Now  func() time.Time
	Rand io.Reader // of serial numbers; nil for crypto/rand
	By   string    // who acts, as the record is to say: names of people
	With []string  // witnesses
}

// Spec says what a new root is to be.
type Spec struct {
	Subject   []der.Attribute
	Algorithm key.Algorithm
	Validity  int64 // seconds
	PathLen   int
	Status    string // where the online side will serve the root's list and certificate, such as "http://pki.example.com:8080"; "" says nothing
	Custody   string // where the key is: "" for the store in keys/, else what opens the token; kept for the next Open
}

// Root is an open offline root. Only one process has a directory open at a time; call Close. It belongs to one goroutine.
type Root struct {
	deps    Deps
	dir     string
	custody key.Custody // nil: nothing can be signed
	state   state
	record  *minutes.Record
	cert    *x509.Certificate
	unlock  func() error
}

// Limits of a root's life.
const (
	backdate = 5 * 60
	longest  = 100 * 365 * 86400
)

// Create makes a root in dir, which must not hold one.
func Create(ctx context.Context, dir string, custody key.Custody, s Spec, d Deps) (_ *Root, err error) {
	r := &Root{deps: d.complete(), dir: dir, custody: custody}
	if err := s.check(); err != nil {
		return nil, err
	}
	if err := r.open(); err != nil {
		return nil, err
	}
	defer r.closeUnless(&err)
	if err := r.vacant(); err != nil {
		return nil, err
	}
	name, err := der.BuildName(s.Subject)
	if err != nil {
		return nil, errs.New(errs.Invalid, "the subject cannot be written: %v", err)
	}
	id, pub, err := custody.Generate(ctx, s.Algorithm, "root "+der.FormatName(s.Subject))
	if err != nil {
		return nil, fmt.Errorf("making the key of the root: %w", err)
	}
	spki, err := der.EncodePublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("encoding the key of the root: %w", err)
	}
	signer, err := custody.Signer(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("fetching the key of the root: %w", err)
	}
	now := r.deps.Now().Unix()
	raw, err := ca.Certify(signer, r.deps.Rand, now, ca.CACertificate{Subject: name, SPKI: spki, NotBefore: now - backdate, NotAfter: now - backdate + s.Validity - 1, PathLen: s.PathLen})
	if err != nil {
		return nil, fmt.Errorf("making the certificate of the root: %w", err)
	}
	if r.cert, err = x509.ParseCertificate(raw); err != nil {
		return nil, fmt.Errorf("reading the certificate of the root: %w", err)
	}
	r.record, r.state = &minutes.Record{Root: r.cert}, state{Version: 1, Key: string(id), Custody: s.Custody}
	if err := r.storeState(); err != nil { // where the key is must be known before the record counts
		return nil, err
	}
	facts := minutes.Facts("subject", der.FormatName(s.Subject), "algorithm", string(s.Algorithm), "spki", digest(spki), "not_after", stamp(r.cert.NotAfter.Unix()),
		"sha256", digest(raw), "certificate", base64.StdEncoding.EncodeToString(raw))
	if s.Status != "" {
		facts = append(facts, minutes.Fact{Name: "status", Value: s.Status})
	}
	if err := r.append(ctx, minutes.Create, facts); err != nil {
		return nil, err
	}
	return r, nil
}

func (s *Spec) check() error {
	switch {
	case len(s.Subject) == 0:
		return errs.New(errs.Invalid, "a root needs a subject, such as CN=Acme Root G1,O=Acme")
	case s.Validity < 86400 || s.Validity > longest:
		return errs.New(errs.Invalid, "the validity of a root must lie between a day and 100 years")
	case s.PathLen < 1 || s.PathLen > 6:
		return errs.New(errs.Invalid, "the path length of a root must lie between 1 and 6: there are CAs below it; 2 leaves room for the cross certificate of its successor")
	}
	return nil
}

func (d Deps) complete() Deps {
	if d.Rand == nil {
		d.Rand = rand.Reader
	}
	return d
}

// Open opens the root in dir and verifies its whole record. Without custody (nil) nothing can be signed.
func Open(dir string, custody key.Custody, d Deps) (_ *Root, err error) {
	r := &Root{deps: d.complete(), dir: dir, custody: custody}
	if err := r.exists(); err != nil {
		return nil, err
	}
	if err := r.open(); err != nil {
		return nil, err
	}
	defer r.closeUnless(&err)
	if err := r.load(); err != nil {
		return nil, err
	}
	if now, last := r.deps.Now().Unix(), r.record.Last().At; now < last {
		return nil, errs.New(errs.Unavailable, "the clock says %s, but the record of the root reaches to %s: set the clock of this machine, then start again", stamp(now), stamp(last))
	}
	return r, nil
}

// UseCustody says where the key is, after Custody was asked.
func (r *Root) UseCustody(custody key.Custody) { r.custody = custody }

// Custody returns what Spec said of where the key is.
func (r *Root) Custody() string { return r.state.Custody }

// Close lets others have the directory.
func (r *Root) Close() error { return r.unlock() }

func (r *Root) closeUnless(err *error) {
	if *err != nil {
		_ = r.unlock() // the error that is under way says more
	}
}

// Certificate returns the root's certificate. Do not change it.
func (r *Root) Certificate() *x509.Certificate { return r.cert }

// Record returns the record so far. Do not change it.
func (r *Root) Record() *minutes.Record { return r.record }

// signer fetches the root's key and makes sure that it is the one in the certificate.
func (r *Root) signer(ctx context.Context) (crypto.Signer, error) {
	if r.custody == nil {
		return nil, errs.New(errs.Unavailable, "the root was opened without its key")
	}
	signer, err := r.custody.Signer(ctx, key.ID(r.state.Key))
	if err != nil {
		return nil, fmt.Errorf("fetching the key of the root: %w", err)
	}
	spki, err := der.EncodePublicKey(signer.Public())
	if err != nil || der.HashSPKI(spki) != der.HashSPKI(r.cert.RawSubjectPublicKeyInfo) {
		return nil, errs.Wrap(errs.Unavailable, err, "the key is not that of this root: is it the right token or directory?")
	}
	return signer, nil
}

// sign signs a message that is not a certificate.
func (r *Root) sign(ctx context.Context, message []byte) ([]byte, der.SignatureAlgorithm, error) {
	signer, err := r.signer(ctx)
	if err != nil {
		return nil, 0, err
	}
	algorithm, err := der.AlgorithmFor(signer.Public())
	if err != nil {
		return nil, 0, err
	}
	random := rand.Reader
	if _, ec := signer.Public().(*ecdsa.PublicKey); ec {
		random = nil // RFC 6979, as package ca signs
	}
	signature, err := signer.Sign(random, algorithm.Digest(message), algorithm.Hash())
	if err != nil {
		return nil, 0, fmt.Errorf("signing with the key of the root: %w", err)
	}
	if err := algorithm.Verify(signer.Public(), message, signature); err != nil {
		return nil, 0, errs.Wrap(errs.Unavailable, err, "the root's key made a wrong signature: nothing was recorded")
	}
	return signature, algorithm, nil
}

// append adds an entry to the record and stores it.
func (r *Root) append(ctx context.Context, act string, facts []minutes.Fact) error {
	n := len(r.record.Entries)
	e := minutes.Entry{At: r.deps.Now().Unix(), By: r.deps.By, With: r.deps.With, Act: act, Facts: facts}
	err := r.record.Append(e, func(message []byte) ([]byte, error) {
		signature, _, err := r.sign(ctx, message)
		return signature, err
	})
	if err != nil {
		return err
	}
	if err := r.store(); err != nil {
		r.record.Entries = r.record.Entries[:n]
		return err
	}
	return nil
}

// Note adds a remark, such as who holds which part of the passphrase, or what went wrong.
func (r *Root) Note(ctx context.Context, text string) error {
	return r.append(ctx, minutes.Note, []minutes.Fact{{Name: "text", Value: text}})
}

// stamp writes a time as records do.
func stamp(at int64) string { return time.Unix(at, 0).UTC().Format(time.RFC3339) }

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
