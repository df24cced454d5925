// Package maker keeps the manufacturers whose devices may prove who they are by the certificates that they were made with, their IDevIDs
// (IEEE 802.1AR): for each its CA certificates, how its certificates are to be read, and who gives out vouchers for its devices (RFC 8995). It says of a chain whose product it shows; which
// device that is, and whether it may enrol, others decide.
//
// A product is told by its manufacturer and the serialNumber attribute in the subject of its IDevID (RFC 8995, section 2.3.1), which has nothing to do
// with the serial number of the certificate. The manufacturer follows from the CA that issued the IDevID. Where several have one CA, the
// organization in the subject tells them apart.
//
// To trust a manufacturer lets nobody in: its product must also stand on an ownership list (device.Product). All the same it takes
// the permission maker.manage, since whoever could name a CA of his own could be any device on such a list.
//
// Nothing is kept in memory: what is removed is removed on all nodes at once. The package deliberately fetches no revocation lists of manufacturers: a
// stolen device is suspended or reported lost in the registry, which works at once and for all protocols.
package maker

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"embed"
	"encoding/hex"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
)

//go:embed schema/*.sql
var schemaFiles embed.FS

// Schema returns the migrations of this slice.
func Schema() db.Schema {
	files, err := fs.Sub(schemaFiles, "schema")
	if err != nil {
		panic(err) // "schema" is a valid path; fs.Sub looks at nothing else
	}
	return db.Schema{Name: "maker", FS: files}
}

// The bounds of what is kept.
const (
	maxMakers       = 1000
	maxAnchors      = 16 // of one manufacturer
	maxAnchor       = 16 << 10
	maxOrganization = 64 // as in a certificate (RFC 5280, appendix A.1)
)

// Maker is a manufacturer.
type Maker struct {
	Name string
	// Organization must stand in the subject of each of its IDevIDs; "" = anything may.
	Organization string
	// Timeless says that the ends of its certificates mean nothing (RFC 8995, section 2.6.2): some made them for three years and the device for twenty.
	Timeless bool
	Anchors  []*x509.Certificate // in the order of their digests
	MASA     MASA                // who gives out the vouchers for its devices
	Created  int64               // UTC seconds

	state, turn int64
}

const (
	registered = 1
	removed    = 2
)

// Recorder is what the slice needs of the audit record.
type Recorder interface {
	Append(ctx context.Context, tx *db.Tx, entries ...audit.Entry) error
}

// Deps are what a Service stands on.
type Deps struct {
	DB     *db.DB
	Audit  Recorder
	Access *access.Decider
	Now    func() time.Time
	// Changed, if not nil, is called after each change. It must not block.
	Changed func()
	// Vouching, if not nil, returns an error while the platform could not ask for vouchers.
	Vouching func() error
}

// Service keeps the manufacturers. It is safe for concurrent use.
type Service struct{ Deps }

// New returns the service over d.
func New(d Deps) *Service { return &Service{d} }

// Spec describes a manufacturer to be registered.
type Spec struct {
	Name, Organization string
	Timeless           bool
	Anchors            [][]byte // CA certificates in DER
	// MASA is who gives out the vouchers for its devices (RFC 8995): NoMASA, OwnMASA, IDevIDMASA or the address of a service, which begins with https. An
	// address without a path is completed by /.well-known/brski.
	MASA string
	// Trusted are certificates, in DER, that a service and its vouchers are checked by, which IDevIDMASA and an address need.
	Trusted [][]byte
}

// Add registers a manufacturer, or more CA certificates of one that is registered with the same organization, switch and MASA (or none is named). It needs maker.manage. The
// error is Invalid for what cannot be stored, Conflict for what contradicts what there is.
func (s *Service) Add(ctx context.Context, actor access.Actor, n Spec) (Maker, error) {
	if err := s.Access.Require(ctx, actor, access.MakerManage, "manufacturer"); err != nil {
		return Maker{}, err
	}
	anchors, err := n.check()
	if err != nil {
		return Maker{}, err
	}
	masa, err := s.checkMASA(n.MASA, n.Trusted)
	if err != nil {
		return Maker{}, err
	}
	var m Maker
	err = s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		all, err := everyMaker(ctx, tx)
		if err != nil {
			return err
		}
		if m, err = n.join(all, masa, s.Now().Unix()); err != nil {
			return err
		}
		for _, a := range anchors {
			if slices.ContainsFunc(m.Anchors, a.Equal) {
				return errs.New(errs.Conflict, "certificates: %s is registered for this manufacturer already", a.Subject)
			}
			if err := shared(all, &m, a); err != nil {
				return err
			}
			m.Anchors = append(m.Anchors, a)
		}
		if len(m.Anchors) > maxAnchors {
			return errs.New(errs.Invalid, "certificates: %d, but a manufacturer has at most %d", len(m.Anchors), maxAnchors)
		}
		m.sort()
		return s.write(ctx, tx, actor, "maker.add", &m)
	})
	if db.IsConflict(err) {
		err = errs.Wrap(errs.Conflict, err, "retry: the manufacturers were changed at the same time")
	}
	if err != nil {
		return Maker{}, err
	}
	return m, nil
}

func (n *Spec) check() (anchors []*x509.Certificate, err error) {
	if err := device.CheckMaker(n.Name); err != nil {
		return nil, err
	}
	if n.Organization != strings.TrimSpace(n.Organization) || len(n.Organization) > maxOrganization || strings.ContainsFunc(n.Organization, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return nil, errs.New(errs.Invalid, "organization: at most %d octets of text, as it stands in the subject of the certificates", maxOrganization)
	}
	if len(n.Anchors) == 0 {
		return nil, errs.New(errs.Invalid, "certificates: give the certificate of at least one CA that issues the manufacturer's device certificates")
	}
	for _, raw := range n.Anchors {
		a, err := x509.ParseCertificate(raw)
		switch {
		case len(raw) > maxAnchor:
			return nil, errs.New(errs.Invalid, "certificates: one has %d octets, at most %d are allowed", len(raw), maxAnchor)
		case err != nil:
			return nil, errs.Wrap(errs.Invalid, err, "certificates: not an X.509 certificate in DER")
		case !a.BasicConstraintsValid || !a.IsCA || a.KeyUsage != 0 && a.KeyUsage&x509.KeyUsageCertSign == 0:
			return nil, errs.New(errs.Invalid, "certificates: %s is not a CA: give the certificates of the CAs, and register single devices with mooring device add --birth", a.Subject)
		case slices.ContainsFunc(anchors, a.Equal):
			return nil, errs.New(errs.Invalid, "certificates: %s is given twice", a.Subject)
		}
		anchors = append(anchors, a)
	}
	return anchors, nil
}

// join returns the manufacturer to which the certificates are to be added.
func (n *Spec) join(all []Maker, masa MASA, now int64) (Maker, error) {
	at := slices.IndexFunc(all, func(m Maker) bool { return m.Name == n.Name })
	switch {
	case at < 0 && len(all) >= maxMakers:
		return Maker{}, errs.New(errs.Limited, "there are %d manufacturers, with those that were removed, which is the most there may be", len(all))
	case at < 0:
		return Maker{Name: n.Name, Organization: n.Organization, Timeless: n.Timeless, MASA: masa, Created: now, state: registered}, nil
	case all[at].state == removed:
		return Maker{Name: n.Name, Organization: n.Organization, Timeless: n.Timeless, MASA: masa, Created: now, state: registered, turn: all[at].turn}, nil
	case all[at].Organization != n.Organization || all[at].Timeless != n.Timeless:
		return Maker{}, errs.New(errs.Conflict, "the manufacturer %s is registered with another organization, or another word about lifetimes: to add certificates say the same, to change it remove it first", n.Name)
	case masa.Where != NoMASA && !masa.same(all[at].MASA):
		return Maker{}, errs.New(errs.Conflict, "the manufacturer %s is registered with another MASA: to add certificates leave the MASA out, to change it use mooring manufacturer change", n.Name)
	}
	return all[at], nil
}

// shared refuses a CA that would show the products of two manufacturers which nothing tells apart.
func shared(all []Maker, m *Maker, a *x509.Certificate) error {
	for _, other := range all {
		if other.Name == m.Name || !slices.ContainsFunc(other.Anchors, a.Equal) {
			continue
		}
		if m.Organization == "" || other.Organization == "" || m.Organization == other.Organization {
			return errs.New(errs.Conflict, "certificates: %s is a CA of the manufacturer %s: two can have one CA only if each is registered with its own organization", a.Subject, other.Name)
		}
	}
	return nil
}

func (m *Maker) sort() { sortByDigest(m.Anchors) }

func sortByDigest(certs []*x509.Certificate) {
	slices.SortFunc(certs, func(a, b *x509.Certificate) int {
		x, y := sha256.Sum256(a.Raw), sha256.Sum256(b.Raw)
		return slices.Compare(x[:], y[:])
	})
}

// Remove takes a manufacturer away. From now on none of its certificates shows anything, also not those that devices were bound to; the certificates
// that devices have from this platform stay. It needs maker.manage.
func (s *Service) Remove(ctx context.Context, actor access.Actor, name string) (Maker, error) {
	if err := s.Access.Require(ctx, actor, access.MakerManage, "manufacturer"); err != nil {
		return Maker{}, err
	}
	var m Maker
	err := s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		all, err := everyMaker(ctx, tx)
		if err != nil {
			return err
		}
		if m, err = find(all, name); err != nil {
			return err
		}
		gone := m
		gone.state, gone.Anchors, gone.MASA = removed, nil, MASA{}
		return s.write(ctx, tx, actor, "maker.remove", &gone)
	})
	return m, err
}

func find(all []Maker, name string) (Maker, error) {
	for _, m := range all {
		if m.Name == name && m.state == registered {
			return m, nil
		}
	}
	return Maker{}, errs.New(errs.NotFound, "there is no manufacturer of this name")
}

// List returns the manufacturers by name. It needs device.read.
func (s *Service) List(ctx context.Context, actor access.Actor) ([]Maker, error) {
	if err := s.Access.Require(ctx, actor, access.DeviceRead, "manufacturers"); err != nil {
		return nil, err
	}
	all, err := s.all(ctx)
	return slices.DeleteFunc(all, func(m Maker) bool { return m.state == removed }), err
}

// Get returns one manufacturer. It needs device.read.
func (s *Service) Get(ctx context.Context, actor access.Actor, name string) (Maker, error) {
	if err := s.Access.Require(ctx, actor, access.DeviceRead, "manufacturers"); err != nil {
		return Maker{}, err
	}
	all, err := s.all(ctx)
	if err != nil {
		return Maker{}, err
	}
	return find(all, name)
}

func (s *Service) all(ctx context.Context) (all []Maker, err error) {
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		all, err = everyMaker(ctx, tx)
		return err
	})
	return all, err
}

// write puts m in place of what there was, as the next turn.
func (s *Service) write(ctx context.Context, tx *db.Tx, actor access.Actor, action string, m *Maker) error {
	m.turn++
	text, args := insertMaker, []any{m.Name, m.state, m.Organization, flag(m.Timeless), m.Created, m.turn, m.MASA.Where}
	if before := m.turn - 1; before > 0 {
		text, args = updateMaker, append(args, before)
	}
	n, err := tx.Exec(ctx, text, args...)
	if err != nil {
		return err
	}
	if n != 1 {
		return errs.New(errs.Conflict, "retry: the manufacturers were changed at the same time")
	}
	if _, err := tx.Exec(ctx, deleteAnchors, m.Name); err != nil {
		return err
	}
	for _, a := range m.Anchors {
		subject, print := sha256.Sum256(a.RawSubject), sha256.Sum256(a.Raw)
		if _, err := tx.Exec(ctx, insertAnchor, subject[:], print[:], m.Name, a.Raw); err != nil {
			return err
		}
	}
	if err := writeMASA(ctx, tx, m); err != nil {
		return err
	}
	if s.Changed != nil {
		tx.OnCommit(s.Changed)
	}
	return s.Audit.Append(ctx, tx, audit.Entry{At: s.Now().Unix(), Action: action, Actor: actor.String(), Object: m.object(),
		Detail: map[string]string{"row": m.mark(), "turn": strconv.FormatInt(m.turn, 10), "certificates": strconv.Itoa(len(m.Anchors))}})
}

func (m *Maker) object() string { return "manufacturer " + m.Name }

// mark is the digest of all that is kept of it, as the record holds it.
func (m *Maker) mark() string {
	h := sha256.New()
	for _, text := range []string{m.Name, m.Organization, strconv.FormatBool(m.Timeless), strconv.FormatInt(m.Created, 10), strconv.FormatInt(m.state, 10)} {
		h.Write([]byte(strconv.Quote(text)))
	}
	for _, a := range m.Anchors {
		sum := sha256.Sum256(a.Raw)
		h.Write(sum[:])
	}
	if m.MASA.Where != NoMASA || len(m.MASA.Trusted) > 0 { // without one it is what it was before there were any
		h.Write([]byte(strconv.Quote(m.MASA.Where)))
		for _, c := range m.MASA.Trusted {
			sum := sha256.Sum256(c.Raw)
			h.Write(sum[:])
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
