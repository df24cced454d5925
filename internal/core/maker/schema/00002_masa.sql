-- +goose Up

-- Who gives out the vouchers for a manufacturer's devices (RFC 8995): '' nobody, 'own' this platform, 'idevid' the service that the device's
-- certificate names, or the address of one, beginning with https.
ALTER TABLE maker ADD COLUMN masa text NOT NULL DEFAULT '';

-- The certificates by which such a service and its vouchers are believed.
CREATE TABLE maker_masa (
    cell  smallint NOT NULL,
    maker text     NOT NULL,
    print bytea    NOT NULL, -- SHA-256 of the certificate
    der   bytea    NOT NULL,
    PRIMARY KEY (cell, maker, print)
) /*sqlite: WITHOUT ROWID */;
