package revoke

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha1"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/core/access"
	"mooring/internal/core/ca"
	"mooring/internal/core/key"
	"mooring/wire/der"
	"mooring/wire/ocsp"
)

// Mode says who answers OCSP questions for a CA.
type Mode string

// The modes.
const (
	FromCA    Mode = "ca"        // the CA's own key signs
	Delegated Mode = "delegated" // a key of this node, which the CA's key certified for that and nothing else
	Off       Mode = "off"       // nobody
)

// responder answers for one CA.
type responder struct {
	issuer *ca.Issuer
	ids    *ocsp.Issuer
	own    *signer // FromCA; nil when delegated

	delegate atomic.Pointer[signer]
	mu       sync.Mutex // held by who makes a delegate
	retry    int64      // UTC second before which it is not tried again; guarded by mu
}

// signer signs answers for one CA.
type signer struct {
	algorithm der.SignatureAlgorithm
	key       [20]byte // how an answer names it: by the hash of its key, or
	name      []byte   // by its subject, DER
	certs     [][]byte // that come along
	serial    []byte   // of the first of them
	notAfter  int64    // UTC second of its end
	halfway   int64    // UTC second from which a successor is made
	sign      func(ctx context.Context, message []byte) ([]byte, error)
}

// responders finds the CA that CertIDs speak of.
type responders struct {
	mu    sync.RWMutex
	count int                        // CAs that were looked at; guarded by mu
	known map[string]*responder      // by hash algorithm and both hashes; guarded by mu
	byID  map[ca.IssuerID]*responder // nil for those that do not answer; guarded by mu
	cas   map[issuedCA]bool          // guarded by mu
}

// issuedCA is a CA as its issuer knows it.
type issuedCA struct {
	issuer ca.IssuerID
	serial string
}

// hashes are those of a CertID (RFC 6960; RFC 5019 demands SHA-1).
func hashes() []crypto.Hash {
	return []crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.SHA384, crypto.SHA512}
}

func hashKey(id *ocsp.CertID) string {
	return string(rune(id.Hash)) + string(id.NameHash) + string(id.KeyHash)
}

// find returns who answers for all of ids, or nil.
func (rs *responders) find(s *Service, ids []ocsp.CertID) *responder {
	rs.learn(s)
	rs.mu.RLock()
	r := rs.known[hashKey(&ids[0])]
	rs.mu.RUnlock()
	if r = r.ready(s); r == nil {
		return nil
	}
	for i := range ids {
		if !r.ids.Issued(ids[i]) {
			return nil
		}
	}
	return r
}

// of returns who answers for the CA, or nil.
func (rs *responders) of(s *Service, issuer ca.IssuerID) *responder {
	rs.learn(s)
	rs.mu.RLock()
	defer rs.mu.RUnlock()
	return rs.byID[issuer].ready(s)
}

// ready returns r, or nil where r is of a CA whose key is elsewhere and no responder of it was imported.
func (r *responder) ready(s *Service) *responder {
	if r != nil && r.issuer.Offline() && s.CA.ResponderOf(r.issuer.ID()) == nil {
		return nil
	}
	return r
}

// isCA reports whether the serial number is that of a CA below issuer.
func (rs *responders) isCA(issuer ca.IssuerID, serial []byte) bool {
	rs.mu.RLock()
	defer rs.mu.RUnlock()
	return rs.cas[issuedCA{issuer, string(serial)}]
}

// learn adds the CAs that came since the last time.
func (rs *responders) learn(s *Service) {
	n := s.CA.Count()
	rs.mu.RLock()
	known := rs.count == n
	rs.mu.RUnlock()
	if known {
		return
	}
	var all []*ca.Issuer
	s.CA.Each(func(i *ca.Issuer) { all = append(all, i) })
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.known == nil {
		rs.known, rs.byID, rs.cas = map[string]*responder{}, map[ca.IssuerID]*responder{}, map[issuedCA]bool{}
	}
	names := map[string]int{}
	for _, i := range all {
		names[string(i.Certificate().RawSubject)]++
	}
	for _, i := range all {
		r, seen := rs.byID[i.ID()]
		shared := names[string(i.Certificate().RawSubject)] > 1
		if !seen || shared && r != nil && r.own != nil && r.own.name != nil {
			rs.add(i, s.newResponder(i, shared))
		}
	}
	rs.count = n
}

// add is for a CA that is new; r may be nil. The caller holds mu.
func (rs *responders) add(i *ca.Issuer, r *responder) {
	rs.byID[i.ID()] = r
	if parent := i.Parent(); parent != nil {
		serial := i.Certificate().SerialNumber.Bytes()
		if len(serial) > 0 && serial[0] >= 0x80 { // as the content of an INTEGER
			serial = append([]byte{0}, serial...)
		}
		rs.cas[issuedCA{parent.ID(), string(serial)}] = true
	}
	if r == nil {
		return
	}
	for _, h := range hashes() {
		if id, err := r.ids.CertID(h, []byte{1}); err == nil {
			rs.known[hashKey(&id)] = r
		}
	}
}

// newResponder returns who answers for the CA, nil when nobody can: OCSP is off, or it is to sign itself and its certificate does not permit it to
// sign other things than certificates and lists. For a CA whose key is elsewhere only a responder answers that it certified there, see imported.
//
// Without a certificate in the answer, GnuTLS finds the signer among those it trusts by its name only, so the CA names itself so; where another
// CA shares the name, by its key, which costs less and says more. A delegate, whose certificate comes along, is always named by its key.
func (s *Service) newResponder(i *ca.Issuer, shared bool) *responder {
	mode, cert := s.Deps.OCSP.Mode(i.Name()), i.Certificate()
	if mode == Off || mode == FromCA && !i.Offline() && cert.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return nil
	}
	ids, err := ocsp.NewIssuer(cert.RawSubject, cert.RawSubjectPublicKeyInfo)
	if err != nil {
		return nil // its key has no form that a CertID could name
	}
	r := &responder{issuer: i, ids: ids}
	if mode == FromCA && !i.Offline() {
		r.own = &signer{algorithm: i.Algorithm(), key: ids.KeyHash(), name: cert.RawSubject, notAfter: der.NoExpiry,
			sign: func(ctx context.Context, message []byte) ([]byte, error) { return s.signWith(ctx, i, message) }}
		if shared {
			r.own.name = nil
		}
	}
	return r
}

// retryDelegation is the pause, in seconds, after a delegate could not be made.
const retryDelegation = 60

// signer returns who signs now. A delegate is made at the first question. Past half of its life the first question makes its successor, while
// others still get the old one, whose answers stay valid to their end: the two overlap for half a life. When no successor can be made, because
// the CA's key is away, the old one goes on to its end.
func (r *responder) signer(ctx context.Context, s *Service) (*signer, error) {
	if r.own != nil {
		return r.own, nil
	}
	if r.issuer.Offline() {
		return r.imported(s)
	}
	now := s.Now().Unix()
	old := r.delegate.Load()
	if old != nil && now < old.halfway {
		return old, nil
	}
	if usable := old != nil && now < old.notAfter; usable {
		if !r.mu.TryLock() {
			return old, nil
		}
	} else {
		r.mu.Lock()
		old = r.delegate.Load()
	}
	defer r.mu.Unlock()
	if old != nil && (now < old.halfway || now < r.retry && now < old.notAfter) {
		return old, nil
	}
	successor, err := s.newDelegate(ctx, r.issuer)
	if err != nil {
		r.retry = now + retryDelegation
		if old == nil || now >= old.notAfter {
			return nil, err
		}
		s.Log.LogAttrs(ctx, slog.LevelError, "no new OCSP responder could be certified; the old one goes on to its end", slog.String("issuer", r.issuer.ID().String()), slog.Any("cause", err))
		return old, nil
	}
	r.delegate.Store(successor)
	return successor, nil
}

// dismiss lets the delegate go, with all that it signed, when its own certificate was revoked. Nobody else looks: that is what ocsp-nocheck means.
func (r *responder) dismiss(s *Service, serial []byte) {
	if d := r.delegate.Load(); d != nil && bytes.Equal(d.serial, serial) && r.delegate.CompareAndSwap(d, nil) {
		s.answers.clear()
	}
}

// delegateIn bounds how long the making of a delegate may take.
const delegateIn = 10 * time.Second

// newDelegate makes a key, has the CA certify it, and records the certificate like every other. The key stays in the memory of this process:
// a restart costs one certificate, a stolen disk gives nothing.
func (s *Service) newDelegate(ctx context.Context, i *ca.Issuer) (*signer, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), delegateIn)
	defer cancel()
	private, err := key.New(i.ResponderAlgorithm())
	if err != nil {
		return nil, fmt.Errorf("making the key of an OCSP responder: %w", err)
	}
	spki, err := der.EncodePublicKey(private.Public())
	if err != nil {
		return nil, fmt.Errorf("encoding the key of an OCSP responder: %w", err)
	}
	prepared, err := s.CA.PrepareResponder(ctx, i.ID(), spki, int64(s.Deps.OCSP.Delegation/time.Second))
	if err != nil {
		return nil, err
	}
	cert, err := prepared.Sign(ctx)
	if err != nil {
		return nil, err
	}
	err = s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if err := tx.Send(ctx, s.CA.InsertStmts(tx, []*ca.Certificate{cert})...); err != nil {
			return err
		}
		return s.Audit.Append(ctx, tx, cert.Entry(access.System("ocsp")))
	})
	if err != nil {
		return nil, fmt.Errorf("recording the certificate of an OCSP responder: %w", err)
	}
	s.counts.delegates.Add(1)
	return newSigner(private, spki, cert)
}

func newSigner(private crypto.Signer, spki []byte, cert *ca.Certificate) (*signer, error) {
	algorithm, err := der.AlgorithmFor(private.Public())
	bits, bitsErr := der.KeyBits(spki)
	if err := errors.Join(err, bitsErr); err != nil {
		return nil, fmt.Errorf("reading the key of an OCSP responder: %w", err)
	}
	return &signer{algorithm: algorithm, key: sha1.Sum(bits), certs: [][]byte{cert.DER}, serial: cert.Serial[:], notAfter: cert.NotAfter,
		halfway: cert.NotBefore + (cert.NotAfter-cert.NotBefore)/2,
		sign: func(_ context.Context, message []byte) ([]byte, error) {
			return private.Sign(rand.Reader, algorithm.Digest(message), algorithm.Hash())
		}}, nil
}
