package v2x

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/its/chain"
	"mooring/wire/scr"
	"mooring/wire/trustlist"
)

// What follows of lists is bounded: a distribution centre that goes on for ever is not followed for ever.
const (
	stepsMost = 64 // deltas, or link certificates, in one update
	rootsMost = 256
	// fullEvery is how often the full list is asked for where deltas are followed: a place may have the last of them only, and then has none for a station that was away.
	fullEvery = its.Time64(24 * time.Hour / time.Microsecond)
	// settled is how long, in seconds, a certificate of an authority has to be valid before it is preferred to the one before it: the authorities have to hear of it.
	settled = 120
)

// octetType is the content type of what the manager's place gives out, and of link certificates.
const octetType = "application/octet-stream"

// lists is what a station believes. It does not change.
type lists struct {
	manager *its.Certificate // nil: a root is what was begun with
	ectl    followed
	roots   []*believed // the newest that stations here belong to comes first, those that have nothing to do with it last
}

// believed is a root with its lists.
type believed struct {
	id      its.HashedId8
	cert    *its.Certificate
	centres []string
	home    bool // its authorities are those that this station asks
	ctl     followed
	crl     *trustlist.CRL
	crlRaw  []byte
}

// followed is a trust list, and how it came.
type followed struct {
	*trustlist.CTL
	full  []byte     // as it was fetched; nil: it was made from the one before by a delta
	delta []byte     // the delta by which it was made
	tag   string     // what its place called the full list
	steps bool       // the place has deltas
	asked its.Time64 // when the full list was asked for last
}

// ErrNoLists is that Update was not called, or that the lists are over.
var ErrNoLists = errors.New("there is no trust list and revocation list of the root that is valid now: fetch them")

// ErrPartly is that the lists of some roots could not be had, but those that the station needs itself could.
var ErrPartly = errors.New("the lists of some roots could not be had")

// begin is what a configuration says is believed.
func (c Config) begin() (*lists, error) {
	l := &lists{}
	if c.Manager != nil {
		x, err := anchor(c.Manager, its.EtsiTLM)
		if err != nil {
			return nil, fmt.Errorf("the certificate is none of a trust list manager: %w", err)
		}
		l.manager = x
	}
	if c.Root == nil && l.manager != nil {
		return l, nil
	}
	x, err := anchor(c.Root, its.EtsiRCA)
	if err != nil {
		return nil, fmt.Errorf("the certificate is none of a root: %w", err)
	}
	if l.manager == nil {
		id, err := x.HashedId8()
		if err != nil {
			return nil, err
		}
		l.roots = []*believed{{id: id, cert: x, centres: []string{c.DC}, home: true}}
		for _, octets := range c.Followed {
			x, err := anchor(octets, its.EtsiRCA)
			if err != nil {
				return nil, fmt.Errorf("the certificate is none of a root that was followed: %w", err)
			}
			if id, err = x.HashedId8(); err != nil {
				return nil, err
			}
			l.roots = append(l.roots, &believed{id: id, cert: x, centres: []string{c.DC}, home: true})
		}
	}
	return l, nil
}

// LedTo are the certificates to which the word of those of the configuration has led: roots besides the one of the configuration, where that begins with a root, and
// the trust list manager, nil if it does not begin with one. Who stops and begins again goes on with them, since such a word ends.
func (c *Client) LedTo() (roots [][]byte, manager []byte, err error) {
	l := c.lists.Load()
	if l.manager != nil {
		manager, err = coer.Marshal(l.manager)
		return nil, manager, err
	}
	for _, r := range l.roots {
		octets, err := coer.Marshal(r.cert)
		if err != nil {
			return nil, nil, err
		}
		if !bytes.Equal(octets, c.Root) {
			roots = append(roots, octets)
		}
	}
	return roots, nil, nil
}

func anchor(octets []byte, role its.EtsiRole) (*its.Certificate, error) {
	x, err := its.ParseCertificate(bytes.Clone(octets))
	if err != nil {
		return nil, err
	}
	return x, errors.Join(x.CheckRole(role, 0), x.Verify(nil))
}

// Update fetches the lists, by deltas where the distribution centre has them. Lists that are older than those that are known are not taken. With a trust list manager
// its list says which roots are believed and where their lists are; without one, the root of the configuration is, and those for which it vouches when it is followed
// by another one. If the error is ErrPartly, the station can go on.
func (c *Client) Update(ctx context.Context) error {
	next := *c.lists.Load()
	next.roots = slices.Clone(next.roots)
	if next.manager != nil {
		if err := c.followManager(ctx, &next); err != nil {
			return fmt.Errorf("following the trust list manager: %w", err)
		}
	}
	var problems []error
	usable := false
	for i := 0; i < len(next.roots); i++ { // may grow
		r := *next.roots[i]
		if err := c.followRoot(ctx, &r); err != nil {
			problems = append(problems, fmt.Errorf("the root %v: %w", r.id, err))
		} else {
			usable = usable || r.home
		}
		next.roots[i] = &r
		if next.manager == nil && len(next.roots) < stepsMost {
			if s := c.successor(ctx, &r, next.roots); s != nil {
				next.roots = append(next.roots, s)
			}
		}
	}
	if next.manager == nil {
		slices.SortStableFunc(next.roots, newestFirst)
		next.roots = slices.DeleteFunc(next.roots, func(r *believed) bool { return r.id != next.roots[0].id && c.ended(r.cert) })
	}
	c.lists.Store(&next)
	if usable && len(problems) > 0 {
		problems = append(problems, ErrPartly)
	}
	return errors.Join(problems...)
}

func newestFirst(a, b *believed) int {
	return cmp.Compare(b.cert.ToBeSigned.ValidityPeriod.Start, a.cert.ToBeSigned.ValidityPeriod.Start)
}

func (c *Client) ended(x *its.Certificate) bool {
	return c.at() >= its.Time64(x.ToBeSigned.ValidityPeriod.End())*1e6
}

// fetch gets a document of one kind. The second result is what the place calls it; tag is what it called the one that is known: then, if it is still the same, there
// is no document.
func (c *Client) fetch(ctx context.Context, url, kind, tag string) ([]byte, string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, "", err
	}
	if tag != "" {
		r.Header.Set("If-None-Match", tag)
	}
	b, got, err := c.tagged(r, kind, its.MaxTrustList)
	var status *StatusError
	if tag != "" && errors.As(err, &status) && status.Code == http.StatusNotModified {
		return nil, tag, nil
	}
	return b, got, err
}

// follow brings a trust list up to date: by deltas one after the other; by the full list if there is none, one does not fit, or no delta has ever come from there.
func (c *Client) follow(ctx context.Context, have followed, kind, full string, delta func(sequence uint8) string, read func([]byte) (*trustlist.CTL, error)) (followed, error) {
	if have.CTL != nil && c.at() < its.Time64(have.NextUpdate)*1e6 {
		for range stepsMost {
			next, err := c.step(ctx, have, kind, delta(have.CtlSequence+1), read)
			var status *StatusError
			if errors.As(err, &status) && status.Code == http.StatusNotFound && have.steps && c.at() < have.asked+fullEvery {
				return have, nil // there is no newer one
			}
			if err != nil {
				break
			}
			have = next
		}
	} else {
		have.tag = ""
	}
	octets, tag, err := c.fetch(ctx, full, kind, have.tag)
	if err != nil {
		return have, err
	}
	if have.asked = c.at(); octets == nil {
		return have, nil
	}
	l, err := read(octets)
	if err != nil {
		return have, err
	}
	if !l.IsFullCtl {
		return have, errors.New("it is a delta where the full one was asked for")
	}
	over := have.CTL != nil && c.at() >= its.Time64(have.NextUpdate)*1e6 // for so long that its number tells nothing
	if have.CTL == nil || l.Newer(have.CTL) || over && l.Generated > have.Generated {
		return followed{CTL: l, full: octets, tag: tag, steps: have.steps, asked: have.asked}, nil
	}
	if l.CtlSequence == have.CtlSequence {
		have.tag = tag // it is the one that the deltas led to
	}
	return have, nil
}

// step goes from a list to the next by its delta.
func (c *Client) step(ctx context.Context, have followed, kind, url string, read func([]byte) (*trustlist.CTL, error)) (followed, error) {
	octets, _, err := c.fetch(ctx, url, kind, "")
	if err != nil {
		return have, err
	}
	d, err := read(octets)
	if err != nil {
		return have, err
	}
	l, err := have.Apply(d)
	if err != nil {
		return have, err
	}
	return followed{CTL: l, delta: octets, steps: true, asked: have.asked}, nil
}

// followRoot brings the lists of a root up to date.
func (c *Client) followRoot(ctx context.Context, r *believed) error {
	err := error(ErrNoLists)
	for _, dc := range r.centres {
		if err = c.listsOf(ctx, r, dc); err == nil {
			return nil
		}
	}
	return err
}

func (c *Client) listsOf(ctx context.Context, r *believed, dc string) error {
	name := r.id.String()
	ctl, err := c.follow(ctx, r.ctl, scr.CTLType, trustlist.Join(dc, "getctl", name),
		func(n uint8) string { return trustlist.Join(dc, "getctl", name, strconv.Itoa(int(n))) },
		func(b []byte) (*trustlist.CTL, error) { return trustlist.ReadCTL(b, r.cert, c.at()) })
	if err != nil {
		return fmt.Errorf("reading the trust list: %w", err)
	}
	octets, _, err := c.fetch(ctx, trustlist.Join(dc, "getcrl", name), scr.CRLType, "")
	if err != nil {
		return fmt.Errorf("reading the revocation list: %w", err)
	}
	crl, err := trustlist.ReadCRL(octets, r.cert, c.at())
	if err != nil {
		return fmt.Errorf("reading the revocation list: %w", err)
	}
	r.ctl = ctl
	if r.crl == nil || crl.ThisUpdate >= r.crl.ThisUpdate {
		r.crl, r.crlRaw = crl, octets
	}
	return nil
}

// successor is the root for which a root vouches, if it is not known yet: its link certificate, and the certificate that comes with the trust list of the new one.
// Distribution centres of others do not have the former.
func (c *Client) successor(ctx context.Context, r *believed, known []*believed) *believed {
	if r.crl == nil || r.crl.Lists(r.id) { // a root that revoked itself vouches for nobody
		return nil
	}
	for _, dc := range r.centres {
		octets, _, err := c.fetch(ctx, trustlist.Join(dc, "getlink", r.id.String()), octetType, "")
		if err != nil {
			continue
		}
		link, err := trustlist.ReadLink(octets)
		if err != nil || link.Old != r.id || slices.ContainsFunc(known, func(k *believed) bool { return k.id == link.New }) {
			continue
		}
		list, _, err := c.fetch(ctx, trustlist.Join(dc, "getctl", link.New.String()), scr.CTLType, "")
		if err != nil {
			continue
		}
		if x := signerOf(list); x != nil && link.Check(r.cert, x, c.at()) == nil {
			return &believed{id: link.New, cert: x, centres: r.centres, home: true}
		}
	}
	return nil
}

// signerOf is the certificate that comes with a list, nil if none does.
func signerOf(octets []byte) *its.Certificate {
	d, err := its.ParseData(octets, its.MaxTrustList)
	if err != nil || d.Content.SignedData == nil || len(d.Content.SignedData.Signer.Certificate) != 1 {
		return nil
	}
	return &d.Content.SignedData.Signer.Certificate[0]
}

// followManager brings the manager and its list up to date, and with them the roots.
func (c *Client) followManager(ctx context.Context, l *lists) error {
	if err := c.nextManager(ctx, l); err != nil {
		return err
	}
	id, err := l.manager.HashedId8()
	if err != nil {
		return err
	}
	name := id.String()
	l.ectl, err = c.follow(ctx, l.ectl, octetType, trustlist.Join(c.CPOC, "getectl", name),
		func(n uint8) string { return trustlist.Join(c.CPOC, "getdeltaectl", name, strconv.Itoa(int(n))) },
		func(b []byte) (*trustlist.CTL, error) { return trustlist.ReadECTL(b, l.manager, c.at()) })
	if err != nil {
		return fmt.Errorf("reading its list: %w", err)
	}
	return c.listedRoots(l)
}

// nextManager goes to the newest manager, by link certificates that lead to it from the one that is believed.
func (c *Client) nextManager(ctx context.Context, l *lists) error {
	known, err := l.manager.HashedId8()
	if err != nil {
		return err
	}
	var path []*its.Certificate // from the newest back
	var links []*trustlist.Link
	name := ""
	for range stepsMost {
		x, err := c.managerCertificate(ctx, name)
		if err != nil {
			return err
		}
		id, err := x.HashedId8()
		if err != nil {
			return err
		}
		if id == known {
			return c.along(l, path, links)
		}
		octets, _, err := c.fetch(ctx, trustlist.Join(c.CPOC, "gettlmlinkcertificate", id.String()), octetType, "")
		if err != nil {
			return fmt.Errorf("the manager %v is another one than is believed, and for it nobody vouches: %w", id, err)
		}
		link, err := trustlist.ReadLink(octets)
		if err != nil {
			return fmt.Errorf("reading the link certificate to the manager %v: %w", id, err)
		}
		path, links, name = append(path, x), append(links, link), link.Old.String()
		if link.Old == known { // whose certificate is here
			return c.along(l, path, links)
		}
	}
	return errors.New("the link certificates go on and on")
}

func (c *Client) managerCertificate(ctx context.Context, name string) (*its.Certificate, error) {
	url := trustlist.Join(c.CPOC, "gettlmcertificate")
	if name != "" {
		url = trustlist.Join(url, name)
	}
	octets, _, err := c.fetch(ctx, url, octetType, "")
	if err != nil {
		return nil, err
	}
	return its.ParseCertificate(octets)
}

// along believes one manager after the other, from the known one on.
func (c *Client) along(l *lists, path []*its.Certificate, links []*trustlist.Link) error {
	for i := len(path) - 1; i >= 0; i-- {
		if err := links[i].Check(l.manager, path[i], c.at()); err != nil {
			return err
		}
		l.manager, l.ectl = path[i], followed{} // its list counts from 0
	}
	return nil
}

// listedRoots takes the roots of the manager's list, with what is known of them already.
func (c *Client) listedRoots(l *lists) error {
	all := l.ectl.Roots()
	if len(all) > rootsMost {
		return fmt.Errorf("its list has %d roots, more than the %d that are followed", len(all), rootsMost)
	}
	home, err := c.homes(all)
	if err != nil {
		return err
	}
	var roots []*believed
	for _, r := range all {
		if !r.Certificate.ToBeSigned.ValidityPeriod.Contains(c.at()) {
			continue
		}
		next := &believed{id: r.ID, cert: r.Certificate}
		if i := slices.IndexFunc(l.roots, func(k *believed) bool { return k.id == r.ID }); i >= 0 {
			*next = *l.roots[i]
		}
		next.centres, next.home = r.Centres, home[r.ID]
		roots = append(roots, next)
	}
	slices.SortStableFunc(roots, func(a, b *believed) int { // the newest of home first
		if a.home != b.home {
			return map[bool]int{true: -1, false: 1}[a.home]
		}
		if !a.home {
			return 0
		}
		return newestFirst(a, b)
	})
	if len(roots) == 0 || !roots[0].home {
		return errors.New("its list does not have the root that this station belongs to, or that one is not valid")
	}
	l.roots = roots
	return nil
}

// homes are the root that the configuration names, or the first of the list, and those that follow it.
func (c *Client) homes(all []trustlist.ListedRoot) (map[its.HashedId8]bool, error) {
	home := map[its.HashedId8]bool{}
	switch {
	case c.Root != nil:
		x, err := its.ParseCertificate(bytes.Clone(c.Root))
		if err != nil {
			return nil, err
		}
		id, err := x.HashedId8()
		if err != nil {
			return nil, err
		}
		home[id] = true
	case len(all) > 0:
		home[all[0].ID] = true
	}
	for range all { // as often as it takes, whatever their order is
		for _, r := range all {
			if r.Successor == nil {
				continue
			}
			if id, err := r.Successor.HashedId8(); err == nil && home[id] {
				home[r.ID] = true
			}
		}
	}
	return home, nil
}

// Check judges a chain by the lists: each certificate was issued by the next, the last one by a root that is believed.
func (c *Client) Check(at its.Time64, path ...*its.Certificate) error {
	if len(path) == 0 {
		return chain.ErrIncomplete
	}
	r := c.lists.Load().issuer(path[len(path)-1])
	if r == nil || r.crl == nil || !r.crl.Current(c.at()) {
		return ErrNoLists
	}
	return chain.Check(append(path, r.cert), chain.Options{At: at, Trusted: func(id its.HashedId8) bool { return id == r.id },
		Revocation: func(x *its.Certificate, _ its.HashedId8) chain.State {
			if x.ToBeSigned.CertIssuePermissions != nil && r.crl.Revoked(x) {
				return chain.Revoked
			}
			return chain.Good
		}})
}

// standing is what the lists say of an authority.
type standing uint8

const (
	stands   standing = iota // nothing is against it, as far as is known
	unlisted                 // it is on no trust list of a root that is believed: others do not know it, and this station cannot tell them
	revoked                  // it, or the root above it
)

// standing says what the lists that are here, if any, say of the authority that issued something. That it is on no list says something only where all lists of the station's own
// roots are here; that it is revoked holds for good.
func (c *Client) standing(id its.HashedId8) standing {
	l, now := c.lists.Load(), c.at()
	said := stands
	for _, r := range l.roots {
		if r.home {
			said = unlisted
		}
	}
	for _, r := range l.roots {
		if r.ctl.CTL == nil || r.crl == nil {
			if r.home {
				said = stands
			}
			continue
		}
		e := r.ctl.Find(id)
		if r.home && r.crl.Lists(id) || e != nil && r.withdrew(trustlist.Certificate(e)) { // a root of others speaks for what it issued alone
			return revoked
		}
		if e != nil || r.home && now >= its.Time64(r.ctl.NextUpdate)*1e6 {
			said = stands
		}
	}
	return said
}

// withdrew says whether a root revoked what it issued, or itself.
func (r *believed) withdrew(x *its.Certificate) bool {
	return x.Issuer.Choice != its.IssuerSelf && x.Issuer.Digest == r.id && (r.crl.Lists(r.id) || r.crl.Revoked(x))
}

// issuer is the root that issued a certificate; the first one if none did, which says what is wrong with it; nil if there is none at all.
func (l *lists) issuer(x *its.Certificate) *believed {
	for _, r := range l.roots {
		if x.Issuer.Choice != its.IssuerSelf && r.id == x.Issuer.Digest {
			return r
		}
	}
	if len(l.roots) == 0 {
		return nil
	}
	return l.roots[0]
}

// entry finds the authority of a kind that is asked: of those on the trust lists that are believed, the one whose certificate is the newest, once the others had time
// to hear of it.
func (c *Client) entry(kind its.CtlEntryChoice) (*its.CtlEntry, error) {
	l, at := c.lists.Load(), c.at()
	role := its.EtsiEA
	if kind == its.CtlAa {
		role = its.EtsiAA
	}
	var best *its.CtlEntry
	rank := func(e *its.CtlEntry) its.Time32 {
		start := trustlist.Certificate(e).ToBeSigned.ValidityPeriod.Start
		if its.Time64(start+settled)*1e6 > at {
			return 0 // better than nothing
		}
		return start
	}
	current := false
	for _, r := range l.roots {
		if !r.home || r.ctl.CTL == nil || at >= its.Time64(r.ctl.NextUpdate)*1e6 {
			continue
		}
		current = true
		for i := range r.ctl.CtlCommands {
			e := &r.ctl.CtlCommands[i].Add
			if r.ctl.CtlCommands[i].Choice != its.CtlAdds || e.Choice != kind || best != nil && rank(e) <= rank(best) {
				continue
			}
			if cert := trustlist.Certificate(e); cert.CheckRole(role, 0) == nil && c.Check(at, cert) == nil {
				best = e
			}
		}
	}
	switch {
	case !current:
		return nil, ErrNoLists
	case best == nil:
		return nil, fmt.Errorf("the trust list has no %s that is valid", role)
	}
	return best, nil
}

// Authorities returns the certificates of the enrolment authority and the authorization authority that are used.
func (c *Client) Authorities() (ea, aa *its.Certificate, err error) {
	e, err := c.entry(its.CtlEa)
	if err != nil {
		return nil, nil, err
	}
	a, err := c.entry(its.CtlAa)
	if err != nil {
		return nil, nil, err
	}
	return &e.Ea.EaCertificate, &a.Aa.AaCertificate, nil
}

// Roots are the certificates of the roots that are believed, those of the station's own first.
func (c *Client) Roots() (all []*its.Certificate) {
	for _, r := range c.lists.Load().roots {
		all = append(all, r.cert)
	}
	return all
}

// Asked returns the lists that other stations ask for in the header of a message (TS 103 097, 5.2), as far as they are here and newer than what is known there. They
// are handed on as they came; a trust list that was put together from deltas is not.
func (c *Client) Asked(h *its.HeaderInfo) (all [][]byte) {
	for i := range h.ContributedExtensions {
		if h.ContributedExtensions[i].ContributorId != its.ContributorETSI {
			continue
		}
		for _, x := range h.ContributedExtensions[i].Extns {
			var e its.Extension
			if coer.Unmarshal(x, &e) != nil {
				continue
			}
			if octets := c.asked(&e); octets != nil {
				all = append(all, octets)
			}
		}
	}
	return all
}

func (c *Client) asked(e *its.Extension) []byte {
	l := c.lists.Load()
	switch e.Id {
	case its.ExtensionCrlRequest:
		var q its.EtsiTs102941CrlRequest
		if coer.Unmarshal(e.Content, &q) != nil {
			return nil
		}
		if r := l.root(q.IssuerId); r != nil && r.crl != nil && (!q.LastKnownUpdate.Present || r.crl.ThisUpdate > q.LastKnownUpdate.Value) {
			return r.crlRaw
		}
	case its.ExtensionDeltaCtlRequest:
		var q its.EtsiTs102941CtlRequest
		if coer.Unmarshal(e.Content, &q) != nil {
			return nil
		}
		if f := l.list(q.IssuerId); f != nil && q.LastKnownCtlSequence.Present && f.CtlSequence == q.LastKnownCtlSequence.Value+1 {
			return f.delta
		}
	case its.ExtensionFullCtlRequest:
		var q its.EtsiTs102941FullCtlRequest
		if coer.Unmarshal(e.Content, &q) != nil || q.SegmentNumber.Present {
			return nil
		}
		if f := l.list(q.IssuerId); f != nil && (!q.LastKnownCtlSequence.Present || f.CtlSequence != q.LastKnownCtlSequence.Value) {
			return f.full
		}
	}
	return nil
}

func (l *lists) root(id its.HashedId8) *believed {
	for _, r := range l.roots {
		if r.id == id {
			return r
		}
	}
	return nil
}

// list is the trust list of a root, or of the manager.
func (l *lists) list(id its.HashedId8) *followed {
	if r := l.root(id); r != nil && r.ctl.CTL != nil {
		return &r.ctl
	}
	if l.manager == nil || l.ectl.CTL == nil {
		return nil
	}
	if is, err := l.manager.HashedId8(); err == nil && is == id {
		return &l.ectl
	}
	return nil
}
