package trust

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/wire/its"
	"mooring/wire/trustlist"
)

// Listed is a root on the list of the trust list manager.
type Listed struct {
	ID          its.HashedId8
	Certificate *its.Certificate
	Octets      []byte // of the certificate
	Successor   []byte // the certificate of the root that it follows; empty: none
	URL         string // of the distribution centre of its lists
	Created     int64
}

func (l *Listed) mark() string {
	return mark("v2x_listed", l.ID[:], l.Octets, l.Successor, l.URL, l.Created)
}

func everyListed(ctx context.Context, tx *db.Tx) (all []*Listed, err error) {
	err = tx.Each(ctx, func(row db.Row) error {
		l := &Listed{}
		var id []byte
		if err := row.Scan(&id, &l.Octets, &l.Successor, &l.URL, &l.Created); err != nil {
			return fmt.Errorf("reading table v2x_listed: %w", err)
		}
		x, err := its.ParseCertificate(l.Octets)
		if err != nil {
			return fmt.Errorf("reading table v2x_listed: %w", err)
		}
		l.Certificate = x
		if l.ID, err = x.HashedId8(); err != nil || !bytes.Equal(l.ID[:], id) {
			return errors.New("table v2x_listed: a row is damaged")
		}
		all = append(all, l)
		return nil
	}, selectListed)
	return all, err
}

// Admission is a root that is to come on the list of the trust list manager.
type Admission struct {
	Certificate []byte // of a root, ours or somebody else's
	URL         string // of its distribution centre
	Link        []byte // link certificate of the root that it follows, which has to be on the list; empty: it follows none, or one of this store, which is known
}

// Admit puts a root on the list of the trust list manager. It needs the permission v2x.tlm. What the root's operators are is for people to find out.
func (s *Service) Admit(ctx context.Context, actor access.Actor, adm Admission) (*Listed, error) {
	if err := s.Access.Require(ctx, actor, access.V2XManager, "v2x tlm"); err != nil {
		return nil, err
	}
	st := s.State()
	if len(st.own[Manager]) == 0 {
		return nil, errs.New(errs.NotFound, "there is no trust list manager here yet: mooring v2x tlm init makes one")
	}
	l, err := s.admitted(st, adm)
	if err != nil {
		return nil, err
	}
	err = s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if _, err := tx.Exec(ctx, insertListed, l.ID[:], l.Octets, l.Successor, l.URL, l.Created); err != nil {
			return err
		}
		if err := s.recordListed(ctx, tx, actor, l, ""); err != nil {
			return err
		}
		return s.followers(ctx, tx, actor, st, l)
	})
	if db.IsConflict(err) {
		return nil, errs.New(errs.Conflict, "the root %s is on the list already", l.ID)
	}
	if err != nil {
		return nil, err
	}
	return l, s.publishAll(ctx, Manager)
}

// recordListed tells what the row of a root on the list is now, and what it was; "": there was none.
func (s *Service) recordListed(ctx context.Context, tx *db.Tx, actor access.Actor, l *Listed, was string) error {
	detail := map[string]string{"name": l.Certificate.ToBeSigned.Id.Name, detailRow: l.mark()}
	if was != "" {
		detail[detailWas] = was
	}
	return s.Audit.Append(ctx, tx, audit.Entry{Action: "v2x.admit", Actor: actor.String(), Object: l.ID.String(), Detail: detail})
}

// followers names a root as the one before those on the list that follow it, as this store knows: they may have come on the list first.
func (s *Service) followers(ctx context.Context, tx *db.Tx, actor access.Actor, st *State, before *Listed) error {
	all, err := everyListed(ctx, tx)
	if err != nil {
		return err
	}
	for _, l := range all {
		if link := st.LinkTo(l.ID); link == nil || link.Old != before.ID || len(l.Successor) > 0 {
			continue
		}
		was := l.mark()
		l.Successor = before.Octets
		if _, err := tx.Exec(ctx, followListed, l.ID[:], l.Successor); err != nil {
			return err
		}
		if err := s.recordListed(ctx, tx, actor, l, was); err != nil {
			return err
		}
	}
	return nil
}

// admitted judges a root that is to come on the list.
func (s *Service) admitted(st *State, adm Admission) (*Listed, error) {
	x, err := its.ParseCertificate(adm.Certificate)
	if err != nil {
		return nil, errs.Wrap(errs.Invalid, err, "the certificate cannot be read")
	}
	if err := errors.Join(x.CheckRole(its.EtsiRCA, 0), x.Verify(nil)); err != nil {
		return nil, errs.Wrap(errs.Invalid, err, "the certificate is none of a root")
	}
	if !x.ToBeSigned.ValidityPeriod.Contains(s.At()) {
		return nil, errs.New(errs.Invalid, "the certificate of the root is not valid now")
	}
	if u, err := url.Parse(adm.URL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, errs.New(errs.Invalid, "the address of the root's distribution centre begins with http:// or https://")
	}
	a, err := authority(x, Root, "")
	if err != nil {
		return nil, err
	}
	for _, have := range st.listed {
		if have.ID == a.ID {
			return nil, errs.New(errs.Conflict, "the root %s is on the list already", a.ID)
		}
	}
	l := &Listed{ID: a.ID, Certificate: a.Certificate, Octets: a.Octets, Successor: []byte{}, URL: adm.URL, Created: s.Now().Unix()}
	if n := len(st.listed); n > 0 { // the list is in the order in which they came
		l.Created = max(l.Created, st.listed[n-1].Created+1)
	}
	if len(adm.Link) > 0 {
		l.Successor, err = s.predecessor(st, adm.Link, x)
		if err == nil && len(l.Successor) == 0 {
			err = errs.New(errs.Invalid, "the root whose link certificate this is, is not on the list: put it on first, or leave the link certificate out")
		}
	} else if own := st.LinkTo(l.ID); own != nil {
		l.Successor, err = s.predecessor(st, own.Octets, x)
	}
	return l, err
}

// predecessor is the certificate of the listed root whose link certificate leads to a root.
func (s *Service) predecessor(st *State, link []byte, to *its.Certificate) ([]byte, error) {
	l, err := trustlist.ReadLink(link)
	if err != nil {
		return nil, errs.Wrap(errs.Invalid, err, "the link certificate cannot be read")
	}
	for _, have := range st.listed {
		if have.ID != l.Old {
			continue
		}
		if err := l.Check(have.Certificate, to, s.At()); err != nil {
			return nil, errs.Wrap(errs.Invalid, err, "the root %s does not vouch for this one", have.ID)
		}
		return have.Octets, nil
	}
	return []byte{}, nil // it may come later
}

// Expel takes a root off the list of the trust list manager. It needs the permission v2x.tlm.
func (s *Service) Expel(ctx context.Context, actor access.Actor, id its.HashedId8) error {
	if err := s.Access.Require(ctx, actor, access.V2XManager, "v2x tlm"); err != nil {
		return err
	}
	err := s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		all, err := everyListed(ctx, tx)
		if err != nil {
			return err
		}
		for _, l := range all {
			if l.ID != id {
				continue
			}
			if n, err := tx.Exec(ctx, deleteListed, id[:]); err != nil {
				return err
			} else if n == 0 {
				break // another node was faster
			}
			return s.Audit.Append(ctx, tx, audit.Entry{Action: "v2x.expel", Actor: actor.String(), Object: id.String(), Detail: map[string]string{detailWas: l.mark()}})
		}
		return errs.New(errs.NotFound, "the root %s is not on the list", id)
	})
	if err != nil {
		return err
	}
	return s.publishAll(ctx, Manager)
}

// managed are the entries of a manager's list: its roots, itself, and where the lists of the roots are.
func (s *Service) managed(st *State, manager *Authority) (entries []its.CtlCommand, err error) {
	at := s.At()
	centres := map[string][]its.HashedId8{}
	var order []string
	for _, l := range st.listed {
		if at >= its.Time64(l.Certificate.ToBeSigned.ValidityPeriod.End())*1e6 {
			continue
		}
		e := &its.RootCaEntry{SelfsignedRootCa: *l.Certificate}
		if len(l.Successor) > 0 {
			if e.SuccessorTo, err = its.ParseCertificate(l.Successor); err != nil {
				return nil, err
			}
		}
		entries = append(entries, its.CtlCommand{Add: its.CtlEntry{Choice: its.CtlRca, Rca: e}})
		if centres[l.URL] == nil {
			order = append(order, l.URL)
		}
		centres[l.URL] = append(centres[l.URL], l.ID)
	}
	self := &its.TlmEntry{SelfSignedTLMCertificate: *manager.Certificate, AccessPoint: manager.URL}
	if l := st.LinkTo(manager.ID); l != nil && st.publishers[l.Old] != nil {
		self.SuccessorTo = st.publishers[l.Old].Certificate
	}
	entries = append(entries, its.CtlCommand{Add: its.CtlEntry{Choice: its.CtlTlm, Tlm: self}})
	for _, u := range order {
		entries = append(entries, its.CtlCommand{Add: its.CtlEntry{Choice: its.CtlDc, Dc: &its.DcEntry{Url: u, Cert: centres[u]}}})
	}
	return entries, nil
}
