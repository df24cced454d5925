package trust

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/audit"
	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/trustlist"
)

// Publish makes new lists of the roots and of the trust list manager whose keys are here, if what they say changed, or if they are about to end.
func (s *Service) Publish(ctx context.Context) error {
	return s.publishAll(ctx, Root, Manager)
}

// publishAll is Publish for whom the lists of some roles alone matter: what goes wrong with others is for Run to tell.
func (s *Service) publishAll(ctx context.Context, roles ...Role) error {
	var all []error
	for _, a := range s.publishing() {
		c, err := s.open(ctx, a)
		if err == nil {
			err = s.publishBy(ctx, c)
		}
		if slices.Contains(roles, a.Role) {
			all = append(all, err)
		}
	}
	return errors.Join(append(all, s.Load(ctx))...)
}

// publishBy publishes the lists of one root or manager. Another node may be faster: then its lists are looked at.
func (s *Service) publishBy(ctx context.Context, by *Credential) (err error) {
	for range 3 {
		if err = s.publish(ctx, by); !db.IsConflict(err) {
			break
		}
	}
	return err
}

// publishing are those whose lists are made here: all roots, since those before the newest have authorities as well until they end, and the newest manager.
func (s *Service) publishing() (all []*Authority) {
	st := s.State()
	for _, p := range st.publishers {
		if p.Own() && p.Role == Root && !s.over(p.Authority) {
			all = append(all, p.Authority)
		}
	}
	if len(st.own[Manager]) > 0 {
		all = append(all, st.own[Manager][0])
	}
	slices.SortFunc(all, newestFirst)
	return all
}

// published is what there is, and what there should be.
type published struct {
	ctl, crl             []byte
	ctlNumber, crlNumber int64
	entries              []its.CtlCommand
	revoked              []its.HashedId8
}

func (s *Service) publish(ctx context.Context, by *Credential) error {
	var p published
	if err := s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) (err error) { p, err = s.look(ctx, tx, by); return err }); err != nil {
		return err
	}
	var lists []list
	var err error
	if !slices.Contains(p.revoked, by.ID) { // a root that is revoked trusts nobody any more
		lists, err = s.trustLists(by, &p)
	}
	if err == nil && by.Role == Root {
		var barred []list
		barred, err = s.revocations(by, &p)
		lists = append(lists, barred...)
	}
	if err != nil || len(lists) == 0 {
		return err
	}
	return s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		for _, l := range lists {
			if err := s.store(ctx, tx, by.ID, "v2x.publish", &l); err != nil {
				return err
			}
		}
		return nil
	})
}

// list is one that was signed and is to be stored.
type list struct {
	kind   int16
	number int64
	ends   its.Time32
	octets []byte
}

// store stores a list and has those leave that are no longer kept.
func (s *Service) store(ctx context.Context, tx *db.Tx, root its.HashedId8, action string, l *list) error {
	created, ends := s.Now().Unix(), l.ends.Time(s.Leap).Unix()
	if _, err := tx.Exec(ctx, insertList, root[:], l.kind, l.number, created, ends, l.octets); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, pruneLists, root[:], l.kind, l.number-keptLists); err != nil {
		return err
	}
	detail := map[string]string{detailRoot: root.String(), detailNumber: strconv.FormatInt(l.number, 10), detailDigest: hexDigest(l.octets), detailRow: listMark(root[:], l.kind, l.number, created, ends, l.octets)}
	return s.Audit.Append(ctx, tx, audit.Entry{Action: action, Actor: "system:v2x", Object: kindName(l.kind), Detail: detail})
}

func (s *Service) look(ctx context.Context, tx *db.Tx, by *Credential) (p published, err error) {
	if p.ctl, p.ctlNumber, err = newest(ctx, tx, by.ID, fullList); err != nil {
		return p, err
	}
	if by.Role == Manager {
		st, err := s.load(ctx, tx)
		if err == nil {
			p.entries, err = s.managed(st, by.Authority)
		}
		return p, err
	}
	if p.crl, p.crlNumber, err = newest(ctx, tx, by.ID, revocationList); err != nil {
		return p, err
	}
	all, err := everyAuthority(ctx, tx)
	if err != nil {
		return p, err
	}
	for _, a := range all {
		switch {
		case a.ID == by.ID && a.Revoked != 0:
			p.revoked = append(p.revoked, a.ID)
		case a.Role != EA && a.Role != AA || a.Certificate.Issuer.Digest != by.ID || s.over(a):
		case a.Revoked != 0:
			p.revoked = append(p.revoked, a.ID)
		default:
			p.entries = append(p.entries, its.CtlCommand{Add: entry(a)})
		}
	}
	p.entries = append(p.entries, its.CtlCommand{Add: its.CtlEntry{Choice: its.CtlDc, Dc: &its.DcEntry{Url: s.DC, Cert: []its.HashedId8{by.ID}}}})
	return p, nil
}

func entry(a *Authority) its.CtlEntry {
	if a.Role == AA {
		return its.CtlEntry{Choice: its.CtlAa, Aa: &its.AaEntry{AaCertificate: *a.Certificate, AccessPoint: a.URL}}
	}
	return its.CtlEntry{Choice: its.CtlEa, Ea: &its.EaEntry{EaCertificate: *a.Certificate, AaAccessPoint: a.Peer, ItsAccessPoint: coer.Some(a.URL)}}
}

// trustLists makes the next full list and its delta, if they are due.
func (s *Service) trustLists(by *Credential, p *published) ([]list, error) {
	at := s.At()
	ends := its.Time32(at/1e6) + its.Time32(s.CTL/time.Second)
	full := &its.CtlFormat{NextUpdate: ends, IsFullCtl: true, CtlSequence: uint8(p.ctlNumber + 1), CtlCommands: p.entries}
	before, err := by.read(p.ctl, at)
	if err != nil { // none yet, or it is over
		before = nil
	}
	if before != nil && !renewAt(before.NextUpdate, s.CTL, at) && len(difference(before.CtlCommands, p.entries)) == 0 {
		return nil, nil
	}
	if by.Role == Manager && p.ctlNumber >= trustlist.LastOfManager {
		return nil, errs.New(errs.Conflict, "the trust list manager %s has no number left for another list: it has to be followed by another one (mooring v2x tlm rekey)", by.Name)
	}
	if before != nil { // the full list is what its delta makes of the one before, in the same order
		full.CtlCommands = ordered(before.CtlCommands, p.entries)
	}
	content := its.EtsiTs102941DataContent{Choice: its.CertificateTrustListRca, CertificateTrustList: full}
	if by.Role == Manager {
		content.Choice = its.CertificateTrustListTlm
	}
	made := []list{{fullList, p.ctlNumber + 1, ends, nil}}
	if made[0].octets, err = s.signList(by, its.PsidCTL, content); err != nil {
		return nil, err
	}
	if before == nil {
		return made, nil
	}
	step := *full
	step.IsFullCtl, step.CtlCommands = false, difference(before.CtlCommands, full.CtlCommands)
	if step.CtlCommands == nil {
		step.CtlCommands = []its.CtlCommand{}
	}
	content.CertificateTrustList = &step
	octets, err := s.signList(by, its.PsidCTL, content)
	return append(made, list{deltaList, p.ctlNumber + 1, ends, octets}), err
}

// in says whether a set has an entry.
func in(e *its.CtlEntry, set []its.CtlCommand) bool {
	return slices.ContainsFunc(set, func(c its.CtlCommand) bool { return trustlist.Same(e, &c.Add) })
}

// ordered puts entries into the order in which they came: those that were there before first.
func ordered(before, now []its.CtlCommand) (list []its.CtlCommand) {
	for i := range before {
		if in(&before[i].Add, now) {
			list = append(list, before[i])
		}
	}
	for i := range now {
		if !in(&now[i].Add, before) {
			list = append(list, now[i])
		}
	}
	return list
}

// difference is what leads from one set of entries to another: first what goes, then what comes.
func difference(from, to []its.CtlCommand) (steps []its.CtlCommand) {
	for i := range from {
		e := &from[i].Add
		if in(e, to) {
			continue
		}
		d := its.CtlDelete{Choice: its.CtlDeleteDc}
		if cert := trustlist.Certificate(e); cert != nil {
			id, _ := cert.HashedId8() // what was read has one
			d = its.CtlDelete{Choice: its.CtlDeleteCert, Cert: id}
		} else {
			d.Dc = e.Dc.Url
		}
		steps = append(steps, its.CtlCommand{Choice: its.CtlDeletes, Delete: d})
	}
	for i := range to {
		if !in(&to[i].Add, from) {
			steps = append(steps, to[i])
		}
	}
	return steps
}

// revocations makes the next revocation list, if it is due.
func (s *Service) revocations(root *Credential, p *published) ([]list, error) {
	at := s.At()
	before, err := trustlist.ReadCRL(p.crl, root.Certificate, at)
	if err == nil && !renewAt(before.NextUpdate, s.CRL, at) && slices.Equal(before.Entries, p.revoked) {
		return nil, nil
	}
	now := its.Time32(at / 1e6)
	l := &its.ToBeSignedCrl{ThisUpdate: now, NextUpdate: now + its.Time32(s.CRL/time.Second), Entries: p.revoked}
	if l.Entries == nil {
		l.Entries = []its.HashedId8{}
	}
	octets, err := s.signList(root, its.PsidCRL, its.EtsiTs102941DataContent{Choice: its.CertificateRevocationList, CertificateRevocationList: l})
	return []list{{revocationList, p.crlNumber + 1, l.NextUpdate, octets}}, err
}

// Accept takes lists of a root that is believed, as a distribution centre has them. Older ones than those that are known are left alone; the error says why one
// is not believed. Of a root that revokes itself the revocation list alone counts: its trust list is not renewed.
func (s *Service) Accept(ctx context.Context, ctl, crl []byte) error {
	st, at := s.State(), s.At()
	if st.Root == nil {
		return errs.New(errs.NotFound, "no root is believed here yet")
	}
	of := st.signer(ctl)
	r, barred := trustlist.ReadCRL(crl, of.Certificate, at)
	gone := barred == nil && r.Lists(of.ID)
	l, err := trustlist.ReadCTL(ctl, of.Certificate, at)
	switch {
	case gone:
	case err != nil:
		return errs.Wrap(errs.Denied, err, "the trust list is not believed")
	case !l.IsFullCtl:
		return errs.New(errs.Denied, "the trust list is a delta where the full one was asked for")
	case barred != nil:
		return errs.Wrap(errs.Denied, barred, "the revocation list is not believed")
	}
	newCTL := !gone && !sameOctets(ctl, of.Full) && l.Newer(of.Lists)
	newCRL := !sameOctets(crl, of.CRL) && (of.Barred == nil || r.ThisUpdate >= of.Barred.ThisUpdate)
	if !newCTL && !newCRL {
		return nil
	}
	err = s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if newCTL {
			if err := s.keep(ctx, tx, of.ID, fullList, l.NextUpdate, ctl); err != nil {
				return err
			}
		}
		if newCRL {
			return s.keep(ctx, tx, of.ID, revocationList, r.NextUpdate, crl)
		}
		return nil
	})
	if err != nil && !db.IsConflict(err) { // another process of this store was faster
		return err
	}
	return s.Load(ctx)
}

// signer is the root that a list says it is from, or the newest if that is not believed; there is one.
func (st *State) signer(octets []byte) *Publisher {
	if x, err := attached(octets); err == nil {
		if id, err := x.HashedId8(); err == nil {
			for _, r := range st.Roots {
				if r.ID == id {
					return r
				}
			}
		}
	}
	return st.Roots[0]
}

func (s *Service) keep(ctx context.Context, tx *db.Tx, root its.HashedId8, kind int16, ends its.Time32, octets []byte) error {
	_, number, err := newest(ctx, tx, root, kind)
	if err != nil {
		return err
	}
	return s.store(ctx, tx, root, "v2x.accept", &list{kind, number + 1, ends, octets})
}

// Run keeps the lists: it publishes where the root's key is, and reads what other nodes stored.
func (s *Service) Run(ctx context.Context, log *slog.Logger) error {
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		if err := s.Publish(ctx); err != nil && ctx.Err() == nil {
			log.LogAttrs(ctx, slog.LevelError, "publishing the V2X lists", slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// look is how often the lists are looked at.
const look = 30 * time.Second
