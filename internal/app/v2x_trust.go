package app

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"time"

	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/v2x/trust"
	"mooring/internal/server/api"
	"mooring/internal/server/api/v1"
	"mooring/wire/its"
)

// servedRoles are those without which what is to be served cannot be.
func servedRoles(c *conf.Config) (roles []trust.Role) {
	if c.Listen.V2XEA != "" || c.Listen.V2XValidation != "" {
		roles = append(roles, trust.EA)
	}
	return roles // lists may come later: until then there are none
}

// environment is the path by which the CPOC is reached, "" if it has none.
func environment(c *conf.Config) string {
	u, err := url.Parse(c.V2XCPOCURL())
	if err != nil {
		return ""
	}
	return strings.Trim(u.Path, "/")
}

// Fetch fetches the lists of the roots that are believed once, and follows them to those for which they vouch.
func (t *TicketAuthority) Fetch(ctx context.Context) error {
	roots := t.Trust.State().Roots
	if len(roots) == 0 {
		return errs.New(errs.NotFound, "no root is believed here yet")
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var all []error
	for _, root := range roots {
		all = append(all, t.fetch(ctx, root.ID))
	}
	return errors.Join(append(all, t.follows(ctx, roots[0].ID))...)
}

func (t *TicketAuthority) fetch(ctx context.Context, root its.HashedId8) error {
	ctl, crl, err := t.client.Lists(ctx, t.Config.V2XDCURL(), root)
	if err != nil {
		return err
	}
	return t.Trust.Accept(ctx, ctl, crl)
}

// follows takes the root that follows another one, if there is one.
func (t *TicketAuthority) follows(ctx context.Context, root its.HashedId8) error {
	link, err := t.client.Link(ctx, t.Config.V2XDCURL(), root)
	if err != nil || link == nil {
		return err
	}
	next, err := trust.Successor(link)
	if err != nil {
		return err
	}
	ctl, crl, err := t.client.Lists(ctx, t.Config.V2XDCURL(), next)
	if err != nil {
		return err
	}
	return t.Trust.Follow(ctx, link, ctl, crl)
}

// manageV2X is what the API needs of it.
func (p *Platform) manageV2X() api.V2X {
	return api.V2X{Trust: p.V2X.Trust, EA: p.V2X.EA, Tickets: func() *trust.Service {
		if p.tickets == nil {
			return nil
		}
		return p.tickets.Trust
	}, VerifyTickets: func(ctx context.Context) (audit.Report, error) {
		return p.tickets.Verify(ctx, nil)
	}}
}

// Verify recomputes the authority's own record and compares its tables with it.
func (t *TicketAuthority) Verify(ctx context.Context, progress func(done, total int64)) (audit.Report, error) {
	return t.Audit.Verify(ctx, audit.VerifyOptions{Checkers: t.Checkers(), Progress: progress})
}

// The methods below are what the API does for an authority in the platform's process, for one that is seen to alone, by whoever has its files.

// V2XTicketAuthorities lists what the authority's store has of authorities.
func (t *TicketAuthority) V2XTicketAuthorities(ctx context.Context) ([]v1.V2XAuthority, error) {
	list, err := api.V2XAuthorities(ctx, t.Trust, access.System("v2x aa"))
	return list.Authorities, err
}

// AskV2XAA has the authority ask for its certificate.
func (t *TicketAuthority) AskV2XAA(ctx context.Context, a v1.V2XAsk) (v1.V2XRequest, error) {
	return api.V2XAsk(ctx, t.Trust, access.System("v2x aa"), trust.AA, &a)
}

// InstallV2XAA gives it its certificate.
func (t *TicketAuthority) InstallV2XAA(ctx context.Context, i v1.V2XInstall) (v1.V2XAuthority, error) {
	a, err := t.Trust.Install(ctx, access.System("v2x aa"), i.Certificate, i.Root)
	if err != nil {
		return v1.V2XAuthority{}, err
	}
	return api.V2XAuthority(ctx, t.Trust, access.System("v2x aa"), a.ID)
}

// VerifyV2XAA recomputes its record.
func (t *TicketAuthority) VerifyV2XAA(ctx context.Context) (v1.VerifyReport, error) {
	r, err := t.Verify(ctx, nil)
	if err != nil {
		return v1.VerifyReport{}, err
	}
	return api.ShownReport(r), nil
}
