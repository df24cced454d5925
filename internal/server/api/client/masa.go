package client

import (
	"context"
	"net/http"
	"net/url"

	"mooring/internal/server/api/v1"
)

// MASA returns what vouchers are signed with.
func (c *Client) MASA(ctx context.Context) (v1.MASA, error) {
	return get[v1.MASA](ctx, c, "/v1/masa", nil)
}

// Registrars returns the registrars that may ask for vouchers, without their certificates' PEM.
func (c *Client) Registrars(ctx context.Context) ([]v1.Registrar, error) {
	list, err := get[v1.RegistrarList](ctx, c, "/v1/masa/registrars", nil)
	return list.Registrars, err
}

// Registrar returns one.
func (c *Client) Registrar(ctx context.Context, name string) (v1.Registrar, error) {
	return get[v1.Registrar](ctx, c, "/v1/masa/registrars/"+segment(name), nil)
}

// AddRegistrar lets a registrar ask for vouchers, or adds certificates to one.
func (c *Client) AddRegistrar(ctx context.Context, n v1.NewRegistrar) (v1.Registrar, error) {
	return call[v1.Registrar](ctx, c, http.MethodPost, "/v1/masa/registrars", n)
}

// RemoveRegistrar has one ask no more.
func (c *Client) RemoveRegistrar(ctx context.Context, name string) (v1.Registrar, error) {
	return call[v1.Registrar](ctx, c, http.MethodPost, "/v1/masa/registrars/"+segment(name)+"/remove", nil)
}

// Vouchers returns the vouchers that were issued for a device.
func (c *Client) Vouchers(ctx context.Context, maker, serial string) ([]v1.IssuedVoucher, error) {
	list, err := get[v1.VoucherList](ctx, c, "/v1/masa/vouchers", url.Values{"maker": {maker}, "serial": {serial}})
	return list.Vouchers, err
}
