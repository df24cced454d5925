package trust

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"mooring/internal/base/db"
	"mooring/wire/its"
	"mooring/wire/its/chain"
	"mooring/wire/trustlist"
)

// Publisher is a root, or a trust list manager, with its lists as they are given out.
type Publisher struct {
	*Authority
	Full   []byte         // the trust list
	Lists  *trustlist.CTL // the same, judged; nil: there is none that is in force
	CRL    []byte         // of a root
	Barred *trustlist.CRL
}

// State is what is believed at a time. It does not change.
type State struct {
	Publisher              // the newest root that is believed; its Authority is nil if there is none
	Root      *Authority   // the same
	Roots     []*Publisher // all that are believed, the newest first
	Managers  []*Publisher // those whose keys are here, the newest first

	publishers map[its.HashedId8]*Publisher // also those that are revoked or over
	links      []*Link
	listed     []*Listed
	own        map[Role][]*Authority // whose keys are here and which are not revoked, the newest first
	believed   *sync.Map             // of authorities whose chain was judged (judged), so that their signatures are verified once
}

// judged is as what an authority was judged, and below which root: another root may list it as something else.
type judged struct {
	id, root its.HashedId8
	role     Role
}

// Of returns a root or manager of this store, with its lists; nil: it is not known.
func (st *State) Of(id its.HashedId8) *Publisher { return st.publishers[id] }

// LinkTo is the link certificate that leads to a certificate, LinkFrom the one that leads from it; nil: there is none.
func (st *State) LinkTo(id its.HashedId8) *Link {
	return st.link(func(l *Link) bool { return l.New == id })
}

// LinkFrom is the link certificate that leads from a certificate.
func (st *State) LinkFrom(id its.HashedId8) *Link {
	return st.link(func(l *Link) bool { return l.Old == id })
}

func (st *State) link(is func(*Link) bool) *Link {
	if i := slices.IndexFunc(st.links, is); i >= 0 {
		return st.links[i]
	}
	return nil
}

// Listed are the roots on the list of the trust list manager.
func (st *State) Listed() []*Listed { return st.listed }

// newestFirst orders authorities.
func newestFirst(a, b *Authority) int {
	return cmp.Or(cmp.Compare(b.Created, a.Created), slices.Compare(a.ID[:], b.ID[:]))
}

// Begun says whether there was ever a root whose keys are here.
func (st *State) Begun() bool {
	for _, p := range st.publishers {
		if p.Own() && p.Role == Root {
			return true
		}
	}
	return false
}

// newest is when the newest authority of a role was made whose keys are here, be it revoked; 0: there is none.
func (st *State) newest(role Role) (created int64) {
	for _, a := range st.own[role] {
		created = max(created, a.Created)
	}
	for _, p := range st.publishers {
		if p.Own() && p.Role == role {
			created = max(created, p.Created)
		}
	}
	return created
}

// Load reads what is believed.
func (s *Service) Load(ctx context.Context) error {
	var next *State
	err := s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		next, err = s.load(ctx, tx)
		return err
	})
	if err != nil {
		return fmt.Errorf("loading what is trusted for V2X: %w", err)
	}
	s.state.Store(next)
	return nil
}

func (s *Service) load(ctx context.Context, tx *db.Tx) (*State, error) {
	next := &State{publishers: map[its.HashedId8]*Publisher{}, own: map[Role][]*Authority{}, believed: &sync.Map{}}
	all, err := everyAuthority(ctx, tx)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, newestFirst)
	for _, a := range all {
		if a.Own() && a.Revoked == 0 {
			next.own[a.Role] = append(next.own[a.Role], a)
		}
		if a.Role == EA || a.Role == AA {
			continue
		}
		p := &Publisher{Authority: a}
		if err := s.readLists(ctx, tx, p); err != nil {
			return nil, err
		}
		next.publishers[a.ID] = p
		switch {
		case a.Revoked != 0 || s.over(a):
		case a.Role == Root:
			next.Roots = append(next.Roots, p)
		default:
			next.Managers = append(next.Managers, p)
		}
	}
	if len(next.Roots) > 0 {
		next.Publisher = *next.Roots[0]
		next.Root = next.Roots[0].Authority
	}
	if next.links, err = everyLink(ctx, tx); err != nil {
		return nil, err
	}
	next.listed, err = everyListed(ctx, tx)
	return next, err
}

// over says whether the certificate of an authority has ended.
func (s *Service) over(a *Authority) bool {
	return s.At() >= its.Time64(a.Certificate.ToBeSigned.ValidityPeriod.End())*1e6
}

// readLists reads the lists of a root or manager. One that is over is as good as none.
func (s *Service) readLists(ctx context.Context, tx *db.Tx, p *Publisher) (err error) {
	if p.Full, _, err = newest(ctx, tx, p.ID, fullList); err != nil {
		return err
	}
	if p.CRL, _, err = newest(ctx, tx, p.ID, revocationList); err != nil {
		return err
	}
	at := s.At()
	if l, err := p.read(p.Full, at); err == nil {
		p.Lists = l
	}
	if l, err := trustlist.ReadCRL(p.CRL, p.Certificate, at); err == nil {
		p.Barred = l
	}
	return nil
}

// read judges a trust list of the authority.
func (a *Authority) read(octets []byte, at its.Time64) (*trustlist.CTL, error) {
	if a.Role == Manager {
		return trustlist.ReadECTL(octets, a.Certificate, at)
	}
	return trustlist.ReadCTL(octets, a.Certificate, at)
}

// Reasons why an authority is not believed.
var (
	ErrUnlisted = errors.New("the authority is not on the trust list")
	ErrBarred   = errors.New("the authority is revoked, has expired, or may not be used")
)

// Find returns the entry of an authority on the trust list of a root, once its chain was judged. The error is ErrUnlisted or ErrBarred.
func (st *State) Find(id its.HashedId8, role Role, at its.Time64) (*its.CtlEntry, error) {
	for _, root := range st.Roots {
		if root.Lists == nil || at >= its.Time64(root.Lists.NextUpdate)*1e6 {
			continue
		}
		if e := root.Lists.Find(id); e != nil && (e.Choice == its.CtlEa) == (role == EA) {
			return e, st.judge(root, e, id, role, at)
		}
	}
	return nil, ErrUnlisted
}

func (st *State) judge(root *Publisher, e *its.CtlEntry, id its.HashedId8, role Role, at its.Time64) error {
	cert := trustlist.Certificate(e)
	as := judged{id, root.ID, role}
	if _, ok := st.believed.Load(as); ok && cert.ToBeSigned.ValidityPeriod.Contains(at) && root.Certificate.ToBeSigned.ValidityPeriod.Contains(at) && root.Barred.Current(at) {
		return nil // nothing but the time can have changed
	}
	if err := errors.Join(cert.CheckRole(role.profile(), 0), st.Check([]*its.Certificate{cert, root.Certificate}, at)); err != nil {
		return errors.Join(ErrBarred, err)
	}
	st.believed.Store(as, true)
	return nil
}

// RootOf returns the root that issued an authority's certificate, nil if it is not believed.
func (st *State) RootOf(x *its.Certificate) *Publisher {
	for _, root := range st.Roots {
		if x.Issuer.Choice != its.IssuerSelf && root.ID == x.Issuer.Digest {
			return root
		}
	}
	return nil
}

// Bars says whether the revocation list of a root names an authority.
func (st *State) Bars(id its.HashedId8) bool {
	return slices.ContainsFunc(st.Roots, func(r *Publisher) bool { return r.Barred != nil && r.Barred.Lists(id) })
}

// Check judges a chain that ends in a root. While the root has no list that says who is revoked, nobody below it is believed.
func (st *State) Check(path []*its.Certificate, at its.Time64) error {
	var by *Publisher
	if len(path) > 0 {
		if id, err := path[len(path)-1].HashedId8(); err == nil {
			if i := slices.IndexFunc(st.Roots, func(r *Publisher) bool { return r.ID == id }); i >= 0 {
				by = st.Roots[i]
			}
		}
	}
	return chain.Check(path, chain.Options{At: at, Trusted: func(its.HashedId8) bool { return by != nil }, Revocation: by.revocation(at)})
}

// revocation looks on the list for authorities; certificates of stations are on none.
func (p *Publisher) revocation(at its.Time64) func(*its.Certificate, its.HashedId8) chain.State {
	return func(x *its.Certificate, _ its.HashedId8) chain.State {
		switch {
		case x.ToBeSigned.CertIssuePermissions == nil:
			return chain.Good
		case p == nil || p.Barred == nil || !p.Barred.Current(at):
			return chain.Unknown
		case p.Barred.Revoked(x):
			return chain.Revoked
		}
		return chain.Good
	}
}
