package app

import (
	"context"

	"mooring/internal/core/acme"
	"mooring/internal/provider/reach"
)

// buildACME makes the slice of accounts and orders. It is there without a listener, too: rows of before are purged and verified.
func (p *Platform) buildACME(ctx context.Context) error {
	nonces, err := p.Keys.Secret(ctx, "acme-nonces", 32)
	if err != nil {
		return err
	}
	c := p.Config.ACME
	p.ACME = acme.New(acme.Deps{DB: p.DB, Audit: p.Audit, Access: p.Access, Devices: p.Devices, CA: p.CA, Revoke: p.Revoke, Enrol: p.Enrol, Campaigns: p.Campaigns,
		Validator: reach.New(reach.Options{Allow: c.Allow, Resolver: c.Resolver, HTTPPort: c.HTTPPort, TLSPort: c.TLSPort}), Key: nonces, Now: p.now, Log: p.log, Open: c.Open})
	return nil
}
