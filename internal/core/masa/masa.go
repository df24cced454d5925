// Package masa issues vouchers for the devices of manufacturers who have no service of their own for that, and keeps their log: it is the Manufacturer
// Authorized Signing Authority of BRSKI (RFC 8995, sections 5.5 to 5.8).
//
// A voucher tells a device to which domain it belongs. A domain's registrar asks for it with a request that it has signed, in which stands the one
// that the device has signed. A voucher is issued when
//
//   - the registrar is registered here, or is this platform's own, and its certificate says that it is one (id-kp-cmcRA);
//   - the manufacturer of the device says that this platform issues its vouchers (maker.OwnMASA);
//   - the device stands in the registry as that manufacturer's product and is neither suspended, lost nor retired;
//   - what the device has signed and what the registrar has signed agree.
//
// It pins the topmost certificate that the registrar's request carried. Every voucher is kept for good, and the registrar of every domain that ever had one for
// a device can read them all: that is what makes a wrong one known.
//
// A voucher is signed with the key of a certificate of one profile. Devices hold the certificate of the CA that issues by this profile, which must issue by no
// other: whoever has a certificate below what a device holds can sign vouchers for it.
//
// Revocation lists of registrars' CAs are not fetched: who is no longer to ask is removed here. Certificates of this platform's own CAs are looked up.
package masa

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"embed"
	"encoding/hex"
	"io"
	"io/fs"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/maker"
	"mooring/internal/core/revoke"
)

//go:embed schema/*.sql
var schemaFiles embed.FS

// Schema returns the migrations of this slice.
func Schema() db.Schema {
	files, err := fs.Sub(schemaFiles, "schema")
	if err != nil {
		panic(err) // "schema" is a valid path; fs.Sub looks at nothing else
	}
	return db.Schema{Name: "masa", FS: files}
}

// The bounds of what is kept.
const (
	maxRegistrars = 1000
	maxAnchors    = 16 // of one registrar
	maxAnchor     = 16 << 10
	maxGroup      = 255
	// MaxVouchers is how many vouchers there may be for one device.
	MaxVouchers = 1024
	// maxForOne is how many of them one registrar of others may have: it must not use up what there is for the device's owner.
	maxForOne = 128
)

// Registrar is a domain's registrar that may ask for vouchers.
type Registrar struct {
	Name string
	// Group says that it may ask only for devices of this group, which are then known to be its own; "" = for all.
	Group string
	// Offline says that it may ask for vouchers without a nonce, for devices that are not connected. Until such a voucher ends, whoever has it can
	// have the device.
	Offline bool
	// Anchors are CAs of its certificates, or its certificates themselves, in the order of their digests.
	Anchors []*x509.Certificate
	Created int64 // UTC seconds

	state, turn int64
}

const (
	registered = 1
	removed    = 2
)

// Signer signs vouchers.
type Signer struct {
	Key         crypto.Signer
	Certificate *x509.Certificate
	Above       []*x509.Certificate // the CA that issued it, and those above that, without the root
}

// Deps are what a Service stands on.
type Deps struct {
	DB      *db.DB
	Audit   *audit.Log
	Access  *access.Decider
	Devices *device.Registry
	Makers  *maker.Service
	CA      *ca.Authority
	Revoke  *revoke.Service
	// Signer returns who signs vouchers: Unavailable while that cannot be told, NotFound when no vouchers are issued here.
	Signer func() (Signer, error)
	Rand   io.Reader // for signatures
	// Offline is the longest life of a voucher without a nonce.
	Offline time.Duration
	Now     func() time.Time
	Log     *slog.Logger
}

// Service issues vouchers. It is safe for concurrent use.
type Service struct{ Deps }

// New returns the service over d.
func New(d Deps) *Service { return &Service{d} }

// Spec describes a registrar that may ask.
type Spec struct {
	Name, Group string
	Offline     bool
	Anchors     [][]byte // certificates in DER: of CAs, or of registrars
}

// AddRegistrar lets a registrar ask for vouchers, or adds certificates to one that is registered with the same terms. It needs maker.manage. The error is
// Invalid for what cannot be stored, Conflict for what contradicts what there is.
func (s *Service) AddRegistrar(ctx context.Context, actor access.Actor, n Spec) (Registrar, error) {
	if err := s.Access.Require(ctx, actor, access.MakerManage, "registrar"); err != nil {
		return Registrar{}, err
	}
	anchors, err := n.check()
	if err != nil {
		return Registrar{}, err
	}
	var r Registrar
	err = s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		all, err := everyRegistrar(ctx, tx)
		if err != nil {
			return err
		}
		if r, err = n.join(all, s.Now().Unix()); err != nil {
			return err
		}
		for _, a := range anchors {
			if err := free(all, &r, a); err != nil {
				return err
			}
			if !slices.ContainsFunc(r.Anchors, a.Equal) {
				r.Anchors = append(r.Anchors, a)
			}
		}
		if len(r.Anchors) > maxAnchors {
			return errs.New(errs.Limited, "a registrar may have %d certificates: with these there would be %d", maxAnchors, len(r.Anchors))
		}
		r.sort()
		return s.write(ctx, tx, actor, "masa.register", &r)
	})
	if db.IsConflict(err) {
		err = errs.Wrap(errs.Conflict, err, "retry: the registrars were changed at the same time")
	}
	if err != nil {
		return Registrar{}, err
	}
	return r, nil
}

func (n *Spec) check() (anchors []*x509.Certificate, err error) {
	if err := device.CheckMaker(n.Name); err != nil { // names are alike
		return nil, errs.New(errs.Invalid, "name: %s", strings.TrimPrefix(errs.Public(err), "maker: "))
	}
	if len(n.Group) > maxGroup {
		return nil, errs.New(errs.Invalid, "group: at most %d octets", maxGroup)
	}
	if len(n.Anchors) == 0 {
		return nil, errs.New(errs.Invalid, "certificates: give the certificate of the registrar's CA, or its own")
	}
	for _, raw := range n.Anchors {
		a, err := x509.ParseCertificate(raw)
		switch {
		case len(raw) > maxAnchor:
			return nil, errs.New(errs.Invalid, "certificates: one has %d octets, at most %d are allowed", len(raw), maxAnchor)
		case err != nil:
			return nil, errs.Wrap(errs.Invalid, err, "certificates: not an X.509 certificate in DER")
		case slices.ContainsFunc(anchors, a.Equal):
			return nil, errs.New(errs.Invalid, "certificates: %s is given twice", a.Subject)
		}
		anchors = append(anchors, a)
	}
	return anchors, nil
}

// join returns the registrar to which the certificates are to be added.
func (n *Spec) join(all []Registrar, now int64) (Registrar, error) {
	fresh := Registrar{Name: n.Name, Group: n.Group, Offline: n.Offline, Created: now, state: registered}
	at := slices.IndexFunc(all, func(r Registrar) bool { return r.Name == n.Name })
	switch {
	case at < 0 && len(all) >= maxRegistrars:
		return fresh, errs.New(errs.Limited, "there are %d registrars, with those that were removed, which is the most there may be", len(all))
	case at < 0:
		return fresh, nil
	case all[at].state == removed:
		fresh.turn = all[at].turn
		return fresh, nil
	case all[at].Group != n.Group || all[at].Offline != n.Offline:
		return fresh, errs.New(errs.Conflict, "the registrar %s is registered with another group, or another word about vouchers without nonce: to add certificates say the same, to change it remove it first", n.Name)
	}
	return all[at], nil
}

// free refuses a certificate by which two registrars would be known.
func free(all []Registrar, r *Registrar, a *x509.Certificate) error {
	for _, other := range all {
		if other.Name != r.Name && slices.ContainsFunc(other.Anchors, a.Equal) {
			return errs.New(errs.Conflict, "certificates: %s stands for the registrar %s already: give the registrar's own certificate where two have one CA", a.Subject, other.Name)
		}
	}
	return nil
}

func (r *Registrar) sort() {
	slices.SortFunc(r.Anchors, func(a, b *x509.Certificate) int {
		x, y := sha256.Sum256(a.Raw), sha256.Sum256(b.Raw)
		return slices.Compare(x[:], y[:])
	})
}

// RemoveRegistrar has a registrar ask no more. Vouchers that it has stay what they are, and in the log. It needs maker.manage.
func (s *Service) RemoveRegistrar(ctx context.Context, actor access.Actor, name string) (Registrar, error) {
	if err := s.Access.Require(ctx, actor, access.MakerManage, "registrar"); err != nil {
		return Registrar{}, err
	}
	var r Registrar
	err := s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		all, err := everyRegistrar(ctx, tx)
		if err != nil {
			return err
		}
		if r, err = find(all, name); err != nil {
			return err
		}
		gone := r
		gone.state, gone.Anchors = removed, nil
		return s.write(ctx, tx, actor, "masa.remove", &gone)
	})
	return r, err
}

func find(all []Registrar, name string) (Registrar, error) {
	for _, r := range all {
		if r.Name == name && r.state == registered {
			return r, nil
		}
	}
	return Registrar{}, errs.New(errs.NotFound, "there is no registrar of this name")
}

// Registrars returns the registrars by name. It needs device.read.
func (s *Service) Registrars(ctx context.Context, actor access.Actor) ([]Registrar, error) {
	all, err := s.everyone(ctx, actor)
	return slices.DeleteFunc(all, func(r Registrar) bool { return r.state == removed }), err
}

// Registrar returns one registrar. It needs device.read.
func (s *Service) Registrar(ctx context.Context, actor access.Actor, name string) (Registrar, error) {
	all, err := s.everyone(ctx, actor)
	if err != nil {
		return Registrar{}, err
	}
	return find(all, name)
}

func (s *Service) everyone(ctx context.Context, actor access.Actor) (all []Registrar, err error) {
	if err := s.Access.Require(ctx, actor, access.DeviceRead, "registrars"); err != nil {
		return nil, err
	}
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		all, err = everyRegistrar(ctx, tx)
		return err
	})
	return all, err
}

// write puts r in place of what there was, as the next turn.
func (s *Service) write(ctx context.Context, tx *db.Tx, actor access.Actor, action string, r *Registrar) error {
	r.turn++
	text, args := insertRegistrar, []any{r.Name, r.state, r.Group, flag(r.Offline), r.Created, r.turn}
	if before := r.turn - 1; before > 0 {
		text, args = updateRegistrar, append(args, before)
	}
	n, err := tx.Exec(ctx, text, args...)
	if err != nil {
		return err
	}
	if n != 1 {
		return errs.New(errs.Conflict, "retry: the registrars were changed at the same time")
	}
	if _, err := tx.Exec(ctx, deleteAnchors, r.Name); err != nil {
		return err
	}
	for _, a := range r.Anchors {
		subject, print := sha256.Sum256(a.RawSubject), sha256.Sum256(a.Raw)
		if _, err := tx.Exec(ctx, insertAnchor, subject[:], print[:], r.Name, a.Raw); err != nil {
			return err
		}
	}
	return s.Audit.Append(ctx, tx, audit.Entry{At: s.Now().Unix(), Action: action, Actor: actor.String(), Object: r.object(),
		Detail: map[string]string{"row": r.mark(), "turn": strconv.FormatInt(r.turn, 10), "certificates": strconv.Itoa(len(r.Anchors))}})
}

func (r *Registrar) object() string { return "registrar " + r.Name }

// mark is the digest of all that is kept of it, as the record holds it.
func (r *Registrar) mark() string {
	parts := []string{r.Name, r.Group, strconv.FormatBool(r.Offline), strconv.FormatInt(r.Created, 10), strconv.FormatInt(r.state, 10)}
	for _, a := range r.Anchors {
		parts = append(parts, string(a.Raw))
	}
	return digest(parts...)
}

// digest is one of texts that keeps their ends apart.
func digest(parts ...string) string {
	h := sha256.New()
	for _, text := range parts {
		h.Write([]byte(strconv.Itoa(len(text)) + ":" + text))
	}
	return hex.EncodeToString(h.Sum(nil))
}

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
