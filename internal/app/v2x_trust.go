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
	"mooring/internal/core/v2x/trust"
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

// V2XAuthority is an authority, as it is shown.
type V2XAuthority struct {
	ID       string    `json:"id"`
	Role     string    `json:"role"`
	Name     string    `json:"name"`
	NotAfter time.Time `json:"not_after"`
	State    string    `json:"state"` // own, issued, believed or revoked
	URL      string    `json:"url,omitempty"`
}

// V2XAuthorities lists the root and the authorities that it issued to.
func (p *Platform) V2XAuthorities(ctx context.Context) ([]V2XAuthority, error) {
	return authoritiesOf(ctx, p.V2X.Trust, p.Config.V2X.LeapSeconds)
}

// Authorities lists the authority's own certificates and the root that it believes.
func (t *TicketAuthority) Authorities(ctx context.Context) ([]V2XAuthority, error) {
	return authoritiesOf(ctx, t.Trust, t.Config.V2X.LeapSeconds)
}

func authoritiesOf(ctx context.Context, s *trust.Service, leap int) ([]V2XAuthority, error) {
	all, err := s.List(ctx, access.System("v2x"))
	list := []V2XAuthority{}
	for _, a := range all {
		shown := V2XAuthority{ID: a.ID.String(), Role: a.Role.String(), Name: a.Name, NotAfter: a.Certificate.ToBeSigned.ValidityPeriod.End().Time(leap), State: "issued", URL: a.URL}
		switch {
		case a.Revoked != 0:
			shown.State = "revoked"
		case a.Own():
			shown.State = "own"
		case a.Role == trust.Root:
			shown.State = "believed"
		}
		list = append(list, shown)
	}
	return list, err
}

// RevokeV2X revokes an authority for good and publishes new lists.
func (p *Platform) RevokeV2X(ctx context.Context, id its.HashedId8) error {
	return p.V2X.Trust.Revoke(ctx, access.System("v2x rca revoke"), id)
}
