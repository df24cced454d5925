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
// Certificates end, and are followed by others while everything runs: Rekey asks for the next one of an authority with the key of the one before, RekeyRoot and
// RekeyManager make a successor and the link certificates by which the old one vouches for it. Those before it stay what they are until they end: requests to them
// are answered, their lists go on.
//
// A store may also have a trust list manager, whose list says which roots are believed: CreateManager, Admit, Expel.
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
	"mooring/wire/scr"
	"mooring/wire/spdu"
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
	Root    Role = 1
	EA      Role = 2
	AA      Role = 3
	Manager Role = 4 // of trust lists
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
	case Manager:
		return "tlm"
	}
	return "none"
}

// ParseRole returns the role of a name.
func ParseRole(name string) (Role, error) {
	for _, r := range []Role{Root, EA, AA, Manager} {
		if r.String() == name {
			return r, nil
		}
	}
	return 0, errs.New(errs.Invalid, "there is no role %q: use rca, ea, aa or tlm", name)
}

// manages is the permission to run an authority of the role.
func (r Role) manages() access.Permission {
	switch r {
	case EA:
		return access.V2XEnrolment
	case AA:
		return access.V2XTickets
	case Manager:
		return access.V2XManager
	}
	return access.V2XRoot
}

// profile is the role as package its knows it.
func (r Role) profile() its.EtsiRole {
	switch r {
	case EA:
		return its.EtsiEA
	case AA:
		return its.EtsiAA
	case Manager:
		return its.EtsiTLM
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
	// CPOC is where the lists of the trust list manager are to be had, likewise.
	CPOC string
	// Compact has the root give authorization authorities the flag by which they answer compact unified butterfly requests (usesCubk, IEEE 1609.2, 6.4.8).
	Compact bool
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

// Credential returns the newest authority of a role whose keys are in this store and whose certificate is valid: NotFound when there is none.
func (s *Service) Credential(ctx context.Context, role Role) (*Credential, error) {
	own := s.State().own[role]
	if len(own) == 0 {
		return nil, errs.New(errs.NotFound, "there is no %s here yet: mooring v2x %s makes one", role, map[bool]string{true: "tlm init", false: "init"}[role == Manager])
	}
	at := s.At()
	for _, a := range own {
		if a.Certificate.ToBeSigned.ValidityPeriod.Contains(at) {
			return s.open(ctx, a)
		}
	}
	return s.open(ctx, own[0]) // what it signs is not believed, and says why
}

// Recipient returns the authority of a role to which a request is encrypted: the newest one, or one before it whose certificate is still valid. If it is none of
// them, it returns the newest. So who has an older trust list is answered by the authority that it knows.
func (s *Service) Recipient(ctx context.Context, role Role, request []byte) (*Credential, error) {
	own := s.State().own[role]
	if len(own) > 1 {
		id, at := recipientOf(request), s.At()
		for _, a := range own {
			if a.ID == id && a.Certificate.ToBeSigned.ValidityPeriod.Contains(at) {
				return s.open(ctx, a)
			}
		}
	}
	return s.Credential(ctx, role)
}

// recipientOf is to whom a message is encrypted, nobody if it cannot be read.
func recipientOf(request []byte) (id its.HashedId8) {
	d, err := its.ParseData(request, its.MaxRequest)
	if err == nil && d.Content.Choice == its.ContentEncrypted && d.Content.EncryptedData != nil && len(d.Content.EncryptedData.Recipients) == 1 {
		id = d.Content.EncryptedData.Recipients[0].RecipientId
	}
	return id
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
	if a.Role == EA || a.Role == AA {
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

// List returns all authorities of the store. It needs the permission v2x.read.
func (s *Service) List(ctx context.Context, actor access.Actor) ([]*Authority, error) {
	if err := s.Access.Require(ctx, actor, access.V2XRead, "v2x"); err != nil {
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
