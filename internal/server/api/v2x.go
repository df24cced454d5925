package api

import (
	"context"
	"encoding/hex"
	"fmt"

	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/v2x/ea"
	"mooring/internal/core/v2x/trust"
	"mooring/internal/server/api/v1"
	"mooring/wire/its"
	"mooring/wire/trustlist"
)

// V2X is what the API needs of the authorities for vehicles.
type V2X struct {
	Trust *trust.Service // of the root, the enrolment authority and the trust list manager; nil where there is none
	EA    *ea.Service    // with it
	// Tickets returns what the authorization authority's own store trusts, nil when it does not run in this process; VerifyTickets recomputes its record.
	Tickets       func() *trust.Service
	VerifyTickets func(ctx context.Context) (audit.Report, error)
}

type v2xInput struct {
	Authority string `path:"authority" maxLength:"16" doc:"HashedId8 of its certificate" example:"C5691C82D7E330E8"`
}

type v2xListInput struct {
	Authority string `path:"authority" maxLength:"16" doc:"HashedId8 of the root or manager" example:"EB038C02072DD13C"`
	List      string `path:"list" enum:"ctl,delta,crl,link" doc:"Which of its lists"`
	Sequence  int    `query:"sequence" minimum:"-1" maximum:"255" default:"-1" doc:"Of a delta; -1: the newest"`
}

type v2xRootInput struct {
	Root string `path:"root" maxLength:"16" doc:"HashedId8 of its certificate" example:"EB038C02072DD13C"`
}

type v2xCredentialInput struct {
	Credential string `path:"credential" maxLength:"16" doc:"HashedId8 of its certificate" example:"5A1C3C2D1E0F9A8B"`
}

type v2xIssueInput struct{ Body v1.V2XIssue }

type v2xMoveInput struct {
	Authority string `path:"authority" maxLength:"16" doc:"HashedId8 of its certificate" example:"C5691C82D7E330E8"`
	Body      v1.V2XMove
}

type v2xAskInput struct{ Body v1.V2XAsk }

type v2xInstallInput struct{ Body v1.V2XInstall }

type v2xNameInput struct{ Body v1.V2XName }

type v2xAdmitInput struct{ Body v1.V2XAdmit }

// v2x returns the store of the root, to who may do something there.
func (s *server) v2x(ctx context.Context, actor access.Actor, need access.Permission) (*trust.Service, error) {
	if err := s.Access.Require(ctx, actor, need, "v2x"); err != nil {
		return nil, err
	}
	if s.V2X.Trust == nil {
		return nil, errs.New(errs.NotFound, "there is nothing for vehicles here")
	}
	return s.V2X.Trust, nil
}

// tickets returns the store of the authorization authority, likewise.
func (s *server) tickets(ctx context.Context, actor access.Actor, need access.Permission) (*trust.Service, error) {
	if err := s.Access.Require(ctx, actor, need, "v2x aa"); err != nil {
		return nil, err
	}
	if s.V2X.Tickets != nil {
		if t := s.V2X.Tickets(); t != nil {
			return t, nil
		}
	}
	return nil, errs.New(errs.NotFound, "the authorization authority does not run in this process: see to it on its own machine (mooring v2x aa --alone)")
}

func hashedID(digits string) (its.HashedId8, error) {
	b, err := hex.DecodeString(digits)
	if err != nil || len(b) != len(its.HashedId8{}) {
		return its.HashedId8{}, errs.New(errs.Invalid, "%q is no HashedId8: it has sixteen hexadecimal digits", digits)
	}
	return its.HashedId8(b), nil
}

func (s *server) listV2X(ctx context.Context, actor access.Actor, _ *none) (v1.V2XAuthorityList, error) {
	t, err := s.v2x(ctx, actor, access.V2XRead)
	if err != nil {
		return v1.V2XAuthorityList{}, err
	}
	return V2XAuthorities(ctx, t, actor)
}

func (s *server) listTickets(ctx context.Context, actor access.Actor, _ *none) (v1.V2XAuthorityList, error) {
	t, err := s.tickets(ctx, actor, access.V2XRead)
	if err != nil {
		return v1.V2XAuthorityList{}, err
	}
	return V2XAuthorities(ctx, t, actor)
}

// V2XAuthorities shows what a store has of authorities.
func V2XAuthorities(ctx context.Context, t *trust.Service, actor access.Actor) (v1.V2XAuthorityList, error) {
	all, err := t.List(ctx, actor)
	if err != nil {
		return v1.V2XAuthorityList{}, err
	}
	return v1.V2XAuthorityList{Authorities: each(all, func(a *trust.Authority) v1.V2XAuthority { return shownV2X(t, a) })}, nil
}

// V2XAuthority shows an authority of a store with its certificate and its lists.
func V2XAuthority(ctx context.Context, t *trust.Service, actor access.Actor, id its.HashedId8) (v1.V2XAuthority, error) {
	all, err := t.List(ctx, actor)
	if err != nil {
		return v1.V2XAuthority{}, err
	}
	for _, a := range all {
		if a.ID == id {
			return fullV2X(ctx, t, a)
		}
	}
	return v1.V2XAuthority{}, errs.New(errs.NotFound, "there is no authority %s", id)
}

func fullV2X(ctx context.Context, t *trust.Service, a *trust.Authority) (v1.V2XAuthority, error) {
	out := shownV2X(t, a)
	out.Certificate = a.Octets
	for _, kind := range []string{"ctl", "delta", "crl", "link"} {
		l, err := listOf(ctx, t, a.ID, kind, trust.Newest)
		if err != nil {
			return out, err
		}
		if l.Octets == nil {
			continue
		}
		l.Octets = nil
		out.Lists = append(out.Lists, l)
	}
	return out, nil
}

func shownV2X(t *trust.Service, a *trust.Authority) v1.V2XAuthority {
	period := a.Certificate.ToBeSigned.ValidityPeriod
	out := v1.V2XAuthority{ID: a.ID.String(), Role: a.Role.String(), Name: a.Name, NotBefore: period.Start.Time(t.Leap), NotAfter: period.End().Time(t.Leap), State: "issued", URL: a.URL, Peer: a.Peer}
	if a.Certificate.Issuer.Choice != its.IssuerSelf {
		out.Issuer = a.Certificate.Issuer.Digest.String()
	}
	if l := t.State().LinkTo(a.ID); l != nil {
		out.Follows = l.Old.String()
	}
	switch {
	case a.Revoked != 0:
		out.State = "revoked"
	case !t.Now().Before(out.NotAfter):
		out.State = "over"
	case a.Own():
		out.State = "own"
	case a.Role == trust.Root:
		out.State = "believed"
	}
	return out
}

// listOf is a list of a root or manager; without octets if there is none.
func listOf(ctx context.Context, t *trust.Service, id its.HashedId8, kind string, sequence int) (out v1.V2XList, err error) {
	out.List = kind
	st := t.State()
	p := st.Of(id)
	if p == nil {
		return out, nil
	}
	switch kind {
	case "link":
		if l := st.LinkFrom(id); l != nil {
			out.Octets = l.Octets
		}
	case "crl":
		out.Octets = p.CRL
		if p.Barred != nil {
			end := p.Barred.NextUpdate.Time(t.Leap)
			out.NextUpdate, out.Entries = &end, len(p.Barred.Entries)
		}
	case "delta":
		if out.Octets, _, err = t.Delta(ctx, id, sequence); err != nil || out.Octets == nil {
			return out, err
		}
		l, err := readList(p, out.Octets, t.At())
		if err == nil {
			counted(&out, l, t.Leap)
		}
	default:
		out.Octets = p.Full
		counted(&out, p.Lists, t.Leap)
	}
	return out, nil
}

func readList(p *trust.Publisher, octets []byte, at its.Time64) (*trustlist.CTL, error) {
	if p.Role == trust.Manager {
		return trustlist.ReadECTL(octets, p.Certificate, at)
	}
	return trustlist.ReadCTL(octets, p.Certificate, at)
}

func counted(out *v1.V2XList, l *trustlist.CTL, leap int) {
	if l == nil { // it is over
		return
	}
	end, number := l.NextUpdate.Time(leap), int(l.CtlSequence)
	out.NextUpdate, out.Sequence, out.Entries = &end, &number, len(l.CtlCommands)
}

func (s *server) getV2X(ctx context.Context, actor access.Actor, in *v2xInput) (v1.V2XAuthority, error) {
	t, err := s.v2x(ctx, actor, access.V2XRead)
	if err != nil {
		return v1.V2XAuthority{}, err
	}
	id, err := hashedID(in.Authority)
	if err != nil {
		return v1.V2XAuthority{}, err
	}
	return V2XAuthority(ctx, t, actor, id)
}

func (s *server) getV2XList(ctx context.Context, actor access.Actor, in *v2xListInput) (v1.V2XList, error) {
	t, err := s.v2x(ctx, actor, access.V2XRead)
	if err != nil {
		return v1.V2XList{}, err
	}
	id, err := hashedID(in.Authority)
	if err != nil {
		return v1.V2XList{}, err
	}
	l, err := listOf(ctx, t, id, in.List, in.Sequence)
	if err == nil && l.Octets == nil {
		which := in.List
		if in.Sequence >= 0 {
			which = fmt.Sprintf("%s %d", in.List, in.Sequence)
		}
		err = errs.New(errs.NotFound, "there is no such list: %s has no %s", id, which)
	}
	return l, err
}

func (s *server) revokeV2X(ctx context.Context, actor access.Actor, in *v2xInput) (v1.V2XAuthority, error) {
	t, err := s.v2x(ctx, actor, access.V2XRoot)
	if err != nil {
		return v1.V2XAuthority{}, err
	}
	id, err := hashedID(in.Authority)
	if err != nil {
		return v1.V2XAuthority{}, err
	}
	if err := t.Revoke(ctx, actor, id); err != nil {
		return v1.V2XAuthority{}, err
	}
	return V2XAuthority(ctx, t, actor, id)
}

func (s *server) moveV2X(ctx context.Context, actor access.Actor, in *v2xMoveInput) (v1.V2XAuthority, error) {
	t, err := s.v2x(ctx, actor, access.V2XRoot)
	if err != nil {
		return v1.V2XAuthority{}, err
	}
	id, err := hashedID(in.Authority)
	if err != nil {
		return v1.V2XAuthority{}, err
	}
	if err := t.Move(ctx, actor, id, in.Body.URL, in.Body.Peer); err != nil {
		return v1.V2XAuthority{}, err
	}
	return V2XAuthority(ctx, t, actor, id)
}

func (s *server) issueV2X(ctx context.Context, actor access.Actor, in *v2xIssueInput) (v1.V2XAuthority, error) {
	t, err := s.v2x(ctx, actor, access.V2XRoot)
	if err != nil {
		return v1.V2XAuthority{}, err
	}
	b := &in.Body
	g := trust.Grant{URL: b.URL, Peer: b.Peer, Digest: b.Digest}
	if b.Role != "" {
		if g.Role, err = trust.ParseRole(b.Role); err != nil {
			return v1.V2XAuthority{}, err
		}
	}
	a, err := t.Issue(ctx, actor, b.Request, g)
	if err != nil {
		return v1.V2XAuthority{}, err
	}
	return fullV2X(ctx, t, a)
}

func (s *server) rekeyRoot(ctx context.Context, actor access.Actor, in *v2xNameInput) (v1.V2XAuthority, error) {
	t, err := s.v2x(ctx, actor, access.V2XRoot)
	if err != nil {
		return v1.V2XAuthority{}, err
	}
	return made(ctx, t)(t.RekeyRoot(ctx, actor, in.Body.Name))
}

func (s *server) rekeyManager(ctx context.Context, actor access.Actor, in *v2xNameInput) (v1.V2XAuthority, error) {
	t, err := s.v2x(ctx, actor, access.V2XManager)
	if err != nil {
		return v1.V2XAuthority{}, err
	}
	return made(ctx, t)(t.RekeyManager(ctx, actor, in.Body.Name))
}

func (s *server) createManager(ctx context.Context, actor access.Actor, in *v2xNameInput) (v1.V2XAuthority, error) {
	t, err := s.v2x(ctx, actor, access.V2XManager)
	if err != nil {
		return v1.V2XAuthority{}, err
	}
	a, err := t.CreateManager(ctx, actor, in.Body.Name)
	if err == nil {
		err = t.Publish(ctx)
	}
	return made(ctx, t)(a, err)
}

// made shows an authority that was made.
func made(ctx context.Context, t *trust.Service) func(*trust.Authority, error) (v1.V2XAuthority, error) {
	return func(a *trust.Authority, err error) (v1.V2XAuthority, error) {
		if err != nil {
			return v1.V2XAuthority{}, err
		}
		return fullV2X(ctx, t, a)
	}
}

// V2XAsk has an authority ask for its certificate.
func V2XAsk(ctx context.Context, t *trust.Service, actor access.Actor, role trust.Role, b *v1.V2XAsk) (out v1.V2XRequest, err error) {
	if b.Rekey {
		if b.Name != "" {
			return out, errs.New(errs.Invalid, "the certificate that follows has the name of the one before it: leave the name out")
		}
		out.Request, err = t.Rekey(ctx, actor, role)
	} else {
		out.Request, err = t.Apply(ctx, actor, role, b.Name)
	}
	if err == nil {
		out.Digest = trust.RequestDigest(out.Request)
	}
	return out, err
}

func (s *server) askEA(ctx context.Context, actor access.Actor, in *v2xAskInput) (v1.V2XRequest, error) {
	t, err := s.v2x(ctx, actor, access.V2XEnrolment)
	if err != nil {
		return v1.V2XRequest{}, err
	}
	return V2XAsk(ctx, t, actor, trust.EA, &in.Body)
}

func (s *server) askAA(ctx context.Context, actor access.Actor, in *v2xAskInput) (v1.V2XRequest, error) {
	t, err := s.tickets(ctx, actor, access.V2XTickets)
	if err != nil {
		return v1.V2XRequest{}, err
	}
	return V2XAsk(ctx, t, actor, trust.AA, &in.Body)
}

func (s *server) installEA(ctx context.Context, actor access.Actor, in *v2xInstallInput) (v1.V2XAuthority, error) {
	t, err := s.v2x(ctx, actor, access.V2XEnrolment)
	if err != nil {
		return v1.V2XAuthority{}, err
	}
	return made(ctx, t)(t.Install(ctx, actor, in.Body.Certificate, in.Body.Root))
}

func (s *server) installAA(ctx context.Context, actor access.Actor, in *v2xInstallInput) (v1.V2XAuthority, error) {
	t, err := s.tickets(ctx, actor, access.V2XTickets)
	if err != nil {
		return v1.V2XAuthority{}, err
	}
	return made(ctx, t)(t.Install(ctx, actor, in.Body.Certificate, in.Body.Root))
}

func (s *server) getStation(ctx context.Context, actor access.Actor, in *oneDevice) (v1.V2XStation, error) {
	if _, err := s.v2x(ctx, actor, access.V2XEnrolment); err != nil {
		return v1.V2XStation{}, err
	}
	st, err := s.V2X.EA.Station(ctx, actor, in.Device)
	if err != nil {
		return v1.V2XStation{}, err
	}
	return v1.V2XStation{Device: st.Device.Name, State: st.Device.State.String(), Station: st.Tagged, Credentials: each(st.Credentials, s.shownCredential),
		Tickets: v1.V2XTickets{Valid: st.Valid, Limit: s.V2X.EA.Policy.Tickets, Weeks: each(st.Weeks, func(w ea.Week) v1.V2XWeek { return v1.V2XWeek{From: w.From, Tickets: w.Tickets} })}}, nil
}

func (s *server) shownCredential(i *ea.Issued) v1.V2XCredential {
	out := v1.V2XCredential{ID: i.ID.String(), Device: i.Device.Name, Issued: i.Issued, NotAfter: i.Expires, State: "valid"}
	switch {
	case !i.Revoked.IsZero():
		out.State, out.Revoked = "revoked", &i.Revoked
	case !s.Now().Before(i.Expires):
		out.State = "over"
	}
	return out
}

func (s *server) revokeCredential(ctx context.Context, actor access.Actor, in *v2xCredentialInput) (v1.V2XCredential, error) {
	if _, err := s.v2x(ctx, actor, access.V2XEnrolment); err != nil {
		return v1.V2XCredential{}, err
	}
	id, err := hashedID(in.Credential)
	if err != nil {
		return v1.V2XCredential{}, err
	}
	i, err := s.V2X.EA.RevokeCredential(ctx, actor, id)
	if err != nil {
		return v1.V2XCredential{}, err
	}
	return s.shownCredential(i), nil
}

// verifyAA recomputes the authorization authority's own record.
func (s *server) verifyAA(ctx context.Context, actor access.Actor, _ *none) (v1.VerifyReport, error) {
	if _, err := s.tickets(ctx, actor, access.AuditRead); err != nil {
		return v1.VerifyReport{}, err
	}
	done, err := s.verifying.take()
	if err != nil {
		return v1.VerifyReport{}, err
	}
	defer done()
	report, err := s.V2X.VerifyTickets(ctx)
	if err != nil {
		return v1.VerifyReport{}, err
	}
	return ShownReport(report), nil
}

func (s *server) listedRoots(ctx context.Context, actor access.Actor, _ *none) (v1.V2XListedRootList, error) {
	t, err := s.v2x(ctx, actor, access.V2XRead)
	if err != nil {
		return v1.V2XListedRootList{}, err
	}
	return v1.V2XListedRootList{Roots: each(t.State().Listed(), func(l *trust.Listed) v1.V2XListedRoot { return shownListed(t, l) })}, nil
}

func shownListed(t *trust.Service, l *trust.Listed) v1.V2XListedRoot {
	out := v1.V2XListedRoot{ID: l.ID.String(), Name: l.Certificate.ToBeSigned.Id.Name, NotAfter: l.Certificate.ToBeSigned.ValidityPeriod.End().Time(t.Leap), URL: l.URL}
	if x, err := its.ParseCertificate(l.Successor); err == nil {
		if id, err := x.HashedId8(); err == nil {
			out.Follows = id.String()
		}
	}
	return out
}

func (s *server) admitRoot(ctx context.Context, actor access.Actor, in *v2xAdmitInput) (v1.V2XListedRoot, error) {
	t, err := s.v2x(ctx, actor, access.V2XManager)
	if err != nil {
		return v1.V2XListedRoot{}, err
	}
	l, err := t.Admit(ctx, actor, trust.Admission{Certificate: in.Body.Certificate, URL: in.Body.URL, Link: in.Body.Link})
	if err != nil {
		return v1.V2XListedRoot{}, err
	}
	return shownListed(t, l), nil
}

func (s *server) expelRoot(ctx context.Context, actor access.Actor, in *v2xRootInput) (v1.V2XListedRootList, error) {
	t, err := s.v2x(ctx, actor, access.V2XManager)
	if err != nil {
		return v1.V2XListedRootList{}, err
	}
	id, err := hashedID(in.Root)
	if err != nil {
		return v1.V2XListedRootList{}, err
	}
	if err := t.Expel(ctx, actor, id); err != nil {
		return v1.V2XListedRootList{}, err
	}
	return v1.V2XListedRootList{Roots: each(t.State().Listed(), func(l *trust.Listed) v1.V2XListedRoot { return shownListed(t, l) })}, nil
}
