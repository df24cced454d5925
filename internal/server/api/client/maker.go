package client

import (
	"context"
	"net/http"

	"mooring/internal/server/api/v1"
)

// Manufacturers returns the manufacturers, without their certificates' PEM.
func (c *Client) Manufacturers(ctx context.Context) ([]v1.Manufacturer, error) {
	list, err := get[v1.ManufacturerList](ctx, c, "/v1/manufacturers", nil)
	return list.Manufacturers, err
}

// Manufacturer returns one.
func (c *Client) Manufacturer(ctx context.Context, name string) (v1.Manufacturer, error) {
	return get[v1.Manufacturer](ctx, c, "/v1/manufacturers/"+segment(name), nil)
}

// AddManufacturer registers a manufacturer, or more certificates of one.
func (c *Client) AddManufacturer(ctx context.Context, n v1.NewManufacturer) (v1.Manufacturer, error) {
	return call[v1.Manufacturer](ctx, c, http.MethodPost, "/v1/manufacturers", n)
}

// ChangeManufacturerMASA says anew who gives out the vouchers for a manufacturer's devices.
func (c *Client) ChangeManufacturerMASA(ctx context.Context, name string, to v1.MASAChoice) (v1.Manufacturer, error) {
	return call[v1.Manufacturer](ctx, c, http.MethodPost, "/v1/manufacturers/"+segment(name)+"/masa", to)
}

// RemoveManufacturer takes one away.
func (c *Client) RemoveManufacturer(ctx context.Context, name string) (v1.Manufacturer, error) {
	return call[v1.Manufacturer](ctx, c, http.MethodPost, "/v1/manufacturers/"+segment(name)+"/remove", nil)
}
