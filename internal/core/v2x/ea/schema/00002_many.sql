-- +goose Up

-- How many credentials a station got of late.
CREATE INDEX v2x_credential_device ON v2x_credential (device, issued, cell);
