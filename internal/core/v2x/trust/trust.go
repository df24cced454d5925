// Package trust keeps what the authorities of cooperative transport stand on (TS 102 940, TS 102 941, TS 103 097): a root, the certificates that it issues to
// enrolment and authorization authorities, its trust list (CTL) and its revocation list (CRL); and for an authority its own keys, the root that it believes, and
// that root's lists.
//
// Each store has a Service of its own. The one with the root's key issues and publishes:
//
//	root, err := s.CreateRoot(ctx, actor, "…")
//	cert, err := s.Issue(ctx, actor, request, trust.Grant{Role: trust.EA, …})   // request: a CaCertificateRequest, signed with the key that it is for
//	err = s.Publish(ctx)                                                        // new lists, if something changed or the old ones are about to end
//
// An authority, in the same store or another one, asks and installs what it got:
//
//	request, err := s.Apply(ctx, actor, trust.AA, "…")
//	err = s.Install(ctx, actor, cert, root)
//	err = s.Accept(ctx, octets)                                                 // lists, as a distribution centre has them
//
// State is what is believed now; it is one value that is exchanged as a whole. Everything that was issued or published is recorded in the transaction that
// stores it, and is released only afterwards. A revocation is for good.
//
// Certificates are explicit, of P-256. The key for decryption comes from a secret of the key store, since custodies keep keys for signatures.
package trust

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/key"
	"mooring/wire/butterfly"
	"mooring/wire/its"
	"mooring/wire/its/chain"
	"mooring/wire/scr"
	"mooring/wire/spdu"
	"mooring/wire/trustlist"
)

//go:embed schema/*.sql
var schemaFiles embed.FS

// Schema returns the migrations of this slice.
func Schema() db.Schema {
	files, err := fs.Sub(schemaFiles, "schema")
	if err != nil {
		panic(err) // "schema" is a valid path; fs.Sub looks at nothing else
	}
	return db.Schema{Name: "v2xtrust", FS: files}
}

// Role is what an authority does. The numbers are stored.
type Role int16

// The roles.
const (
	Root Role = 1
	EA   Role = 2
	AA   Role = 3
)

// String names the role.
func (r Role) String() string {
	switch r {
	case Root:
		return "rca"
	case EA:
		return "ea"
	case AA:
		return "aa"
	}
	return "none"
}

// profile is the role as package its knows it.
func (r Role) profile() its.EtsiRole {
	switch r {
	case EA:
		return its.EtsiEA
	case AA:
		return its.EtsiAA
	}
	return its.EtsiRCA
}

// Secrets gives out named secrets, which it makes when there are none yet.
type Secrets interface {
	Secret(ctx context.Context, name string, size int) ([]byte, error)
}

// Deps are what a Service stands on.
type Deps struct {
	DB         *db.DB
	Audit      *audit.Log
	Access     *access.Decider
	Keys       key.Custody // for certificates
	StatusKeys key.Custody // the same keys, for lists and answers
	Secrets    Secrets
	Now        func() time.Time
	Leap       int // seconds inserted into UTC since 2004
	// DC is where the lists are to be had, which the trust list says; "" in a store without a root of its own.
	DC string
	// CTL and CRL are how long lists live. They are renewed when a quarter of that is left.
	CTL, CRL time.Duration
}

// Authority is an authority, or a root, of the store.
type Authority struct {
	ID          its.HashedId8
	Role        Role
	Name        string
	Certificate *its.Certificate
	Octets      []byte // of the certificate
	URL, Peer   string
	Created     int64
	Revoked     int64 // 0: it is not

	own, secret string
}

// Own says whether its keys are in this store.
func (a *Authority) Own() bool { return a.own != "" }

// Credential is an authority whose keys are here, ready for use.
type Credential struct {
	*Authority
	Signer spdu.Signer // names the certificate by its digest
	Holder spdu.Holder // the zero value for a root
}

// State is what is believed at a time. It does not change.
type State struct {
	Root   *Authority // nil: none yet
	Full   []byte     // the trust list, as it is given out
	Lists  *trustlist.CTL
	CRL    []byte
	Barred *trustlist.CRL

	own      map[Role]*Authority // the newest of each role whose keys are here
	believed *sync.Map           // HashedId8 of authorities whose chain was judged, so that their signatures are verified once
}

// Service is the trust of one store. It is safe for concurrent use. Call Load before anything else.
type Service struct {
	Deps
	state atomic.Pointer[State]

	mu   sync.Mutex
	kept map[its.HashedId8]*Credential // guarded by mu
}

// New returns the service over d.
func New(d Deps) *Service {
	s := &Service{Deps: d, kept: map[its.HashedId8]*Credential{}}
	s.state.Store(&State{believed: &sync.Map{}})
	return s
}

// State returns what is believed now.
func (s *Service) State() *State { return s.state.Load() }

// At is the moment, as messages have it.
func (s *Service) At() its.Time64 { return its.TimeAt(s.Now(), s.Leap) }

// Load reads what is believed.
func (s *Service) Load(ctx context.Context) error {
	next := &State{believed: &sync.Map{}}
	err := s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		*next = State{believed: next.believed, own: map[Role]*Authority{}}
		all, err := everyAuthority(ctx, tx)
		if err != nil {
			return err
		}
		for _, a := range all {
			if have := next.own[a.Role]; a.Own() && a.Revoked == 0 && (have == nil || a.Created > have.Created) {
				next.own[a.Role] = a
			}
			if a.Role == Root && a.Revoked == 0 && (next.Root == nil || a.Created > next.Root.Created) {
				next.Root = a
			}
		}
		if next.Root == nil {
			return nil
		}
		if next.Full, _, err = newest(ctx, tx, next.Root.ID, fullList); err != nil {
			return err
		}
		next.CRL, _, err = newest(ctx, tx, next.Root.ID, revocationList)
		return err
	})
	if err != nil {
		return fmt.Errorf("loading what is trusted for V2X: %w", err)
	}
	s.judge(next)
	s.state.Store(next)
	return nil
}

// judge reads the lists. One that is over is as good as none, and is left out.
func (s *Service) judge(next *State) {
	if next.Root == nil {
		return
	}
	at := s.At()
	if l, err := trustlist.ReadCTL(next.Full, next.Root.Certificate, at); err == nil {
		next.Lists = l
	}
	if l, err := trustlist.ReadCRL(next.CRL, next.Root.Certificate, at); err == nil {
		next.Barred = l
	}
}

// Reasons why an authority is not believed.
var (
	ErrUnlisted = errors.New("the authority is not on the trust list")
	ErrBarred   = errors.New("the authority is revoked, has expired, or may not be used")
)

// Find returns the entry of an authority on the trust list, once its chain was judged. The error is ErrUnlisted or ErrBarred.
func (st *State) Find(id its.HashedId8, role Role, at its.Time64) (*its.CtlEntry, error) {
	if st.Root == nil || st.Lists == nil || at >= its.Time64(st.Lists.NextUpdate)*1e6 {
		return nil, ErrUnlisted
	}
	e := st.Lists.Find(id)
	if e == nil || (e.Choice == its.CtlEa) != (role == EA) {
		return nil, ErrUnlisted
	}
	cert := trustlist.Certificate(e)
	if _, ok := st.believed.Load(id); ok && cert.ToBeSigned.ValidityPeriod.Contains(at) && st.Root.Certificate.ToBeSigned.ValidityPeriod.Contains(at) && st.Barred.Current(at) {
		return e, nil // nothing but the time can have changed
	}
	if err := errors.Join(cert.CheckRole(role.profile(), 0), st.Check([]*its.Certificate{cert, st.Root.Certificate}, at)); err != nil {
		return nil, errors.Join(ErrBarred, err)
	}
	st.believed.Store(id, true)
	return e, nil
}

// Check judges a chain that ends in the root. While there is no list that says who is revoked, nobody is believed.
func (st *State) Check(path []*its.Certificate, at its.Time64) error {
	return chain.Check(path, chain.Options{At: at, Trusted: func(id its.HashedId8) bool { return st.Root != nil && id == st.Root.ID }, Revocation: st.revocation(at, len(path))})
}

// revocation looks on the list for authorities; certificates of stations are on none.
func (st *State) revocation(at its.Time64, length int) func(*its.Certificate, its.HashedId8) chain.State {
	return func(x *its.Certificate, _ its.HashedId8) chain.State {
		switch {
		case x.ToBeSigned.CertIssuePermissions == nil:
			return chain.Good
		case st.Barred == nil || !st.Barred.Current(at):
			return chain.Unknown
		case st.Barred.Revoked(x):
			return chain.Revoked
		}
		return chain.Good
	}
}

// Credential returns the newest authority of a role whose keys are in this store: NotFound when there is none.
func (s *Service) Credential(ctx context.Context, role Role) (*Credential, error) {
	found := s.State().own[role]
	if found == nil {
		return nil, errs.New(errs.NotFound, "there is no %s here yet: mooring v2x init makes one", role)
	}
	return s.open(ctx, found)
}

// open gets the keys of an authority.
func (s *Service) open(ctx context.Context, a *Authority) (*Credential, error) {
	s.mu.Lock()
	have := s.kept[a.ID]
	s.mu.Unlock()
	if have != nil {
		return have, nil
	}
	signer, err := s.StatusKeys.Signer(ctx, key.ID(a.own))
	if a.Role != Root {
		signer, err = s.Keys.Signer(ctx, key.ID(a.own))
	}
	if err != nil {
		return nil, err
	}
	c := &Credential{Authority: a, Signer: scr.Signer(signer, a.Certificate)}
	if a.secret != "" {
		if c.Holder.Private, err = s.private(ctx, a.secret); err != nil {
			return nil, err
		}
		if c.Holder.Recipient, err = spdu.ToCertificate(a.Certificate); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	s.kept[a.ID] = c
	s.mu.Unlock()
	return c, nil
}

// private is the key for decryption that comes from a secret: its digests until one is a scalar, which the first is but with a probability of nothing.
func (s *Service) private(ctx context.Context, name string) (butterfly.Scalar, error) {
	secret, err := s.Secrets.Secret(ctx, name, 32)
	if err != nil {
		return butterfly.Scalar{}, err
	}
	for n := byte(0); ; n++ {
		sum := sha256.Sum256(append([]byte{n}, secret...))
		if d, err := butterfly.NewScalar(sum[:]); err == nil || n == 255 {
			return d, err
		}
	}
}

// List returns all authorities of the store. It needs the permission ca.read.
func (s *Service) List(ctx context.Context, actor access.Actor) ([]*Authority, error) {
	if err := s.Access.Require(ctx, actor, access.CARead, "v2x"); err != nil {
		return nil, err
	}
	return s.authorities(ctx)
}

func (s *Service) authorities(ctx context.Context) (all []*Authority, err error) {
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		all, err = everyAuthority(ctx, tx)
		return err
	})
	return all, err
}

// random is some octets of a name, for what must be told apart.
func random() (string, error) {
	b, err := randomOctets(8)
	return hex.EncodeToString(b), err
}
