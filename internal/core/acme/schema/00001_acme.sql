-- +goose Up

-- Who may order certificates. An account of a device was bound to it by its token; an open one belongs to nobody (device is empty).
CREATE TABLE acme_account (
	id      bytea    NOT NULL PRIMARY KEY, -- random, 16 octets
	thumb   bytea    NOT NULL, -- SHA-256 thumbprint of the key (RFC 7638)
	jwk     text     NOT NULL, -- the public key
	state   smallint NOT NULL, -- 1 valid, 2 deactivated by itself, 3 revoked by an operator or by the device's next account
	device  bytea    NOT NULL,
	binding text     NOT NULL, -- the external account binding, as it is shown
	created bigint   NOT NULL,
	used    bigint   NOT NULL, -- when it last ordered something, UTC seconds
	changed bigint   NOT NULL  -- how often key or state were changed
) /*sqlite: WITHOUT ROWID */;
CREATE UNIQUE INDEX acme_account_thumb ON acme_account (thumb);
CREATE INDEX acme_account_device ON acme_account (device, id);
CREATE INDEX acme_account_used ON acme_account (used, id);

-- An order with its authorizations. They are one row, so that whatever happens to an order happens in one place.
CREATE TABLE acme_order (
	id       bytea    NOT NULL PRIMARY KEY, -- random, 16 octets
	account  bytea    NOT NULL,
	device   bytea    NOT NULL,
	evidence text     NOT NULL, -- what a certificate would be issued on
	profile  text     NOT NULL,
	state    smallint NOT NULL, -- 1 open, 2 a person must approve, 3 valid, 4 invalid
	authz    text     NOT NULL, -- JSON
	csr      bytea    NOT NULL, -- of an order that waits for approval
	problem  text     NOT NULL, -- JSON: why it is invalid
	serial   bytea    NOT NULL, -- of the certificate
	cert     bytea    NOT NULL, -- the certificate itself, when it is kept nowhere else
	replaces text     NOT NULL,
	created  bigint   NOT NULL,
	expires  bigint   NOT NULL
) /*sqlite: WITHOUT ROWID */;
CREATE INDEX acme_order_account ON acme_order (account, expires, id);
CREATE INDEX acme_order_expires ON acme_order (expires, id);

-- Nonces that were used, where several nodes may meet the same one.
CREATE TABLE acme_nonce (
	id      bytea  NOT NULL PRIMARY KEY,
	expires bigint NOT NULL
) /*sqlite: WITHOUT ROWID */;
CREATE INDEX acme_nonce_expires ON acme_nonce (expires);
