package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"sync"

	"mooring/internal/base/errs"
	"mooring/internal/core/key"
	"mooring/wire/der"
)

// IssuerID names a pair of CA name and CA key: the first 8 octets of SHA-256 over its subject and SubjectPublicKeyInfo, DER. It is the
// scope of serial numbers and revocation.
type IssuerID [8]byte

// String returns the id in hex.
func (id IssuerID) String() string { return hex.EncodeToString(id[:]) }

// ParseIssuerID reads what String returns.
func ParseIssuerID(s string) (IssuerID, error) {
	var id IssuerID
	if b, err := hex.DecodeString(s); err == nil && len(b) == len(id) {
		return IssuerID(b), nil
	}
	return id, errs.New(errs.NotFound, "there is no CA with the id %q", s)
}

func issuerID(subject, spki []byte) IssuerID {
	h := sha256.New()
	h.Write(subject)
	h.Write(spki)
	return IssuerID(h.Sum(nil)[:8])
}

// Issuer is a CA of ours. It never changes; a CA with a new key is a new Issuer.
type Issuer struct {
	id        IssuerID
	name      string
	parent    *Issuer // nil for a root
	key       key.ID
	cert      *x509.Certificate
	subject   string // of cert, as people read it
	public    crypto.PublicKey
	chain     [][]byte // DER, itself first, the root last
	algorithm der.SignatureAlgorithm
	created   int64
	shards    int // of its CRL, see Shards

	check func() error // that the parent signed the certificate; worked out once, see verify
}

// ID returns the issuer's id.
func (i *Issuer) ID() IssuerID { return i.id }

// Name returns the unique name that profiles and people use.
func (i *Issuer) Name() string { return i.name }

// Parent returns the CA that signed i's certificate, or nil when it is a root.
func (i *Issuer) Parent() *Issuer { return i.parent }

// Key returns where the private key is kept.
func (i *Issuer) Key() key.ID { return i.key }

// Certificate returns the CA's certificate. It is shared: do not change it.
func (i *Issuer) Certificate() *x509.Certificate { return i.cert }

// PublicKey returns the CA's public key. Use it and not that of Certificate, which is nil for kinds of keys that crypto/x509 does not know:
// ML-DSA before Go 1.27.
func (i *Issuer) PublicKey() crypto.PublicKey { return i.public }

// CheckSignature reports whether i, being a CA, signed cert; it is what CheckSignatureFrom of crypto/x509 is, for every kind of key, and
// compares the names besides. It does not look at times and revocation.
func (i *Issuer) CheckSignature(cert *x509.Certificate) error {
	if err := i.check(); err != nil {
		return err
	}
	if !bytes.Equal(cert.RawIssuer, i.cert.RawSubject) {
		return fmt.Errorf("the certificate names another issuer than %q", i.name)
	}
	return der.CheckCertificate(cert, i.public)
}

// Algorithm returns the signature algorithm of what i signs.
func (i *Issuer) Algorithm() der.SignatureAlgorithm { return i.algorithm }

// Created returns the Unix second at which the CA was made.
func (i *Issuer) Created() int64 { return i.created }

// Shards returns into how many CRLs the revocations of i are divided: 0 (there is one list of everything) or a power of two up to 256.
func (i *Issuer) Shards() int { return i.shards }

// Shard returns the number of the CRL that tells about the certificate of i with this serial number. It follows from serial number and CA,
// whether the certificate is on record or not.
func (i *Issuer) Shard(serial []byte) int64 {
	cell, _, err := Locate(serial)
	if err != nil {
		return 0
	}
	return int64(cell) * int64(i.shards) / MostShards
}

// MostShards is how many shards a CA can have: a serial number tells so many cells apart.
const MostShards = 256

// shardCount reports whether a CA can have n shards.
func shardCount(n int) bool { return n >= 0 && n <= MostShards && n&(n-1) == 0 }

// Chain returns the DER certificates from i to its root, both included. It is shared: do not change it.
func (i *Issuer) Chain() [][]byte { return i.chain }

// PEM returns Chain as text.
func (i *Issuer) PEM() []byte {
	var out bytes.Buffer
	for _, der := range i.chain {
		// Encoding to a buffer fails only on headers, of which there are none.
		_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	return out.Bytes()
}

// Forever reports whether the CA has no well-defined end.
func (i *Issuer) Forever() bool { return i.cert.NotAfter.Unix() == der.NoExpiry }

// maxDepth bounds chains, so that a mistake in the table cannot make a loop.
const maxDepth = 8

// newIssuer makes an Issuer and checks its certificate: that it is a CA's, and that the parent signed it.
func newIssuer(name string, parent *Issuer, id key.ID, raw []byte, created int64) (*Issuer, error) {
	i, err := readIssuer(name, parent, id, raw, created)
	if err != nil {
		return nil, err
	}
	return i, i.check()
}

// readIssuer makes an Issuer from its row: the certificate must be that of a CA and name the parent. The signature on it is checked when the
// CA is used for the first time: an instance may have thousands, and a start waits for none of them.
func readIssuer(name string, parent *Issuer, id key.ID, raw []byte, created int64) (*Issuer, error) {
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate of CA %q: %w", name, err)
	}
	chain, above := [][]byte{raw}, cert
	if parent != nil {
		chain, above = append(chain, parent.chain...), parent.cert
	}
	switch {
	case len(chain) > maxDepth:
		return nil, fmt.Errorf("the chain of CA %q is longer than %d", name, maxDepth)
	case !cert.BasicConstraintsValid || !cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, fmt.Errorf("checking the certificate of CA %q: it is not that of a CA", name)
	case !bytes.Equal(cert.RawIssuer, above.RawSubject):
		return nil, fmt.Errorf("checking the certificate of CA %q: it names another issuer than its parent", name)
	}
	public, err := der.ParsePublicKey(cert.RawSubjectPublicKeyInfo)
	if err != nil {
		return nil, fmt.Errorf("reading the key of CA %q: %w", name, err)
	}
	algorithm, err := der.AlgorithmFor(public)
	if err != nil {
		return nil, fmt.Errorf("reading the key of CA %q: %w", name, err)
	}
	i := &Issuer{id: issuerID(cert.RawSubject, cert.RawSubjectPublicKeyInfo), name: name, parent: parent, key: id, cert: cert, subject: cert.Subject.String(),
		public: public, chain: chain, algorithm: algorithm, created: created}
	i.check = sync.OnceValue(i.verify)
	return i, nil
}

// verify checks that the parent, whose own certificate was checked, signed that of i, or i itself, being a root.
func (i *Issuer) verify() error {
	by := i.public
	if i.parent != nil {
		if err := i.parent.check(); err != nil {
			return err
		}
		by = i.parent.public
	}
	if err := der.CheckCertificate(i.cert, by); err != nil {
		return fmt.Errorf("checking the certificate of CA %q: %w", i.name, err)
	}
	return nil
}

// covers checks that a certificate of the given validity lies within the issuer's own, and so decides when a CA stops issuing.
func (i *Issuer) covers(notBefore, notAfter int64) error {
	end := i.cert.NotAfter.Unix()
	switch {
	case notBefore < i.cert.NotBefore.Unix():
		return errs.New(errs.Unavailable, "the CA %q is not valid yet", i.name)
	case notAfter == der.NoExpiry && end != der.NoExpiry:
		return errs.New(errs.Unavailable, "certificates without an end need a CA without one, and %q has one", i.name)
	case notAfter > end:
		return errs.New(errs.Unavailable, "the CA %q ends at %s, before the certificate would: an administrator must set up its successor",
			i.name, i.cert.NotAfter.UTC().Format("2006-01-02 15:04:05Z"))
	}
	return nil
}

// ErrNotOurs says that a certificate was not signed by a CA of this platform, whatever its row says.
var ErrNotOurs = errors.New("not signed by a CA of this platform")

// SignedBy returns the CA with this id when it has signed leaf. A row of a CA is not believed either: its public key must be that of the key
// in custody. ErrNotOurs: there is no such CA, its key is another one, or the signature does not verify. Denied: that CA or one above it is revoked. Unavailable: the key
// cannot be had.
func (a *Authority) SignedBy(ctx context.Context, id IssuerID, leaf *x509.Certificate) (*Issuer, error) {
	i, err := a.standing(ctx, id)
	if err != nil {
		return nil, err
	}
	p := proof{sha256.Sum256(leaf.Raw), id}
	if a.verified.has(p) {
		return i, nil
	}
	if i.CheckSignature(leaf) != nil {
		return nil, ErrNotOurs
	}
	a.verified.add(p)
	return i, nil
}

// Proven reports whether SignedBy would find the certificate with this SHA-256 good by what it remembers: the CA stands as it must, and the signature was
// found good before. It is for who has no parsed certificate at hand; false says nothing.
func (a *Authority) Proven(ctx context.Context, id IssuerID, digest [sha256.Size]byte) bool {
	_, err := a.standing(ctx, id)
	return err == nil && a.verified.has(proof{digest, id})
}

// standing returns a CA whose certificates may be taken for ours: its key is here and the one in its certificate, and nothing above it is revoked.
func (a *Authority) standing(ctx context.Context, id IssuerID) (*Issuer, error) {
	i := a.issuer(id)
	if i == nil || i.Offline() { // what was signed elsewhere is on no record of ours
		return nil, ErrNotOurs
	}
	if b := a.Barred(i); b != nil {
		return nil, errs.New(errs.Denied, "the CA %q is revoked, and with it every certificate below it: the device needs a new token", b.name)
	}
	signer, err := a.signer(ctx, i)
	if err != nil {
		return nil, err
	}
	if !i.holds(signer) {
		return nil, ErrNotOurs
	}
	return i, nil
}

// signer fetches the CA's key.
func (a *Authority) signer(ctx context.Context, i *Issuer) (crypto.Signer, error) {
	if i.Offline() {
		return nil, i.errOffline()
	}
	return fetch(ctx, a.deps.Keys, i)
}

// holds reports whether signer is the key in the CA's certificate.
func (i *Issuer) holds(signer crypto.Signer) bool {
	pub, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && pub.Equal(i.public)
}

// seal signs tbs and returns the certificate. It is the only place where a CA key signs one.
func seal(signer crypto.Signer, algorithm der.SignatureAlgorithm, tbs []byte) ([]byte, error) {
	signature, err := signer.Sign(nonces(signer.Public()), algorithm.Digest(tbs), algorithm.Hash())
	if err != nil {
		if errs.KindOf(err) == errs.Internal {
			return nil, errs.Wrap(errs.Unavailable, err, "the CA's key does not sign at present")
		}
		return nil, err
	}
	return der.Wrap(make([]byte, 0, len(tbs)+len(signature)+64), tbs, algorithm, signature), nil
}

// nonces returns the source of randomness for a signature by a key. None means that ECDSA takes its nonce from key and digest (RFC 6979),
// which costs a quarter less than the hedged form and has no failure mode by bad randomness. Faults, which the hedged form would blunt, are
// looked for by verifying a sample of the signatures and all of those on CA certificates. Custodies that sign elsewhere ignore it.
func nonces(pub crypto.PublicKey) io.Reader {
	if _, ok := pub.(*ecdsa.PublicKey); ok {
		return nil
	}
	return rand.Reader
}
